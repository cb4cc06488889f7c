// SPDX-License-Identifier: MIT
// Compile: -O1 in explorations
// CTest: TIMEOUT 300 LABELS slow
#define TARN_SYNC_HEADER "explore/explored_sync.hpp"

// The shortest read under the explorer: it looks with no lock, while what it looks at goes and becomes another file's.

#include <tarn/detail/held_read.hpp>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <tarn/dirty_file.hpp>

#include "explore/explore.hpp"
#include "explore/small_pool.hpp"
#include "explore/token_store.hpp"
#include "support/catch.hpp"

using tarn_test::chunk_bytes;
using tarn_test::Explorer;
using tarn_test::Scenario;
using tarn_test::text_bytes;

namespace {

using Traits = tarn_test::ExploredTraits;
using Store = tarn_test::TokenStore<Traits>;
using File = tarn::DirtyFile<Traits, Store>;

constexpr std::uint64_t far = 33;  // a chunk under a table of two levels, in the second slot of its root

/// Two files: one holds 'a' in one chunk, clean, the other nothing.
struct World {
  explicit World(std::uint64_t of_first) : chunk{of_first} {
    for (auto* const store : {&store_a, &store_b}) store->at_once = true;
    write(a, chunk, 'a');
    (void)a.flush().has_value();
  }

  std::uint64_t chunk;
  tarn::ChunkPool<Traits> pool{tarn_test::small_pool(2)};
  Store store_a, store_b;
  File a{pool, tarn::MetadataFor<Traits>::created(1), store_a};
  File b{pool, tarn::MetadataFor<Traits>::created(2), store_b};

  static void write(File& file, std::uint64_t at, char letter) {
    const std::string text(chunk_bytes, letter);
    Explorer::expect(file.write(at * chunk_bytes, text_bytes(text)).has_value(), "a write is refused");
  }
  /// What a pin shows, or a read.
  static std::string text_of(std::span<const std::byte> bytes) {
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }
  static std::string text_of(tarn::ConstBuffers bytes) {
    std::string text(bytes.size_bytes(), '?');
    bytes.copy_to(std::as_writable_bytes(std::span{text}));
    return text;
  }
  static void expect_all(const std::string& text, const std::string& letters) {
    Explorer::expect(letters.find(text[0]) != std::string::npos, "a read has bytes that its file does not have");
    Explorer::expect(text == std::string(chunk_bytes, text[0]), "a read is torn");
  }
  /// Of the first file, if its chunk is held; all of `letters` are right.
  void look(const std::string& letters) {
    (void)a.body()->held_reads().use(chunk * chunk_bytes, chunk_bytes,
                                     [&](tarn::ConstBuffers bytes) { expect_all(text_of(bytes), letters); });
  }
  /// The same by its id.
  void pin(const std::string& letters) {
    auto& core = pool.core();
    auto* const pinned = core.pin_unlocked<tarn::detail::FileRecord<Traits>::of_file>(std::uint64_t{1}, chunk);
    if (pinned == nullptr) return;
    if (pinned->state.try_latch_shared()) {
      if (!pinned->state.is(tarn::detail::ChunkState::detached)) {
        expect_all(text_of(std::span<const std::byte>{pinned->memory, chunk_bytes}), letters);
      }
      pinned->state.unlatch_shared(core.parking);
    }
    const tarn::detail::Resumer resumer;
    core.user_pins.note_end();
    core.unpin(*pinned);
  }
  void end(char letter) {
    std::string into(chunk_bytes, '?');
    const auto n = a.read(chunk * chunk_bytes, std::as_writable_bytes(std::span{into}));
    Explorer::expect(n.has_value() && into == std::string(chunk_bytes, letter), "the file has other bytes");
    end();
  }
  /// What stays is whole: nobody's pin is lost, and nothing went twice.
  void end() {
    for (auto* const file : {&a, &b}) (void)file->flush().has_value();
    while (pool.evict_clean() != 0) continue;
    Explorer::expect(pool.stats().charged_bytes == 2 * tarn::detail::Registry<Traits>::record_bytes,
                     "a pin stays, or was given back twice");
  }
};

using Act = std::function<void(World&)>;

/// One thread looks, the other does `acts`; in the end the first file has `last`.
void look_while(const std::string& part, std::uint64_t chunk, const std::string& letters, char last,
                const std::vector<Act>& acts) {
  using Look = void (World::*)(const std::string&);
  for (const auto& [way, look] : {std::pair<std::string, Look>{"", &World::look}, {", by id", &World::pin}}) {
    tarn_test::explore(part + way, [=, look = look] {
      auto world = std::make_shared<World>(chunk);
      const auto act = [=] {
        for (const auto& one : acts) one(*world);
      };
      return Scenario{{[=] { ((*world).*look)(letters); }, act}, [=] { world->end(last); }};
    });
  }
}

const Act evict = [](World& world) { (void)world.pool.evict_clean(); };
Act write_other(std::uint64_t chunk) {
  return [=](World& world) { World::write(world.b, chunk, 'b'); };
}

}  // namespace

TEST_CASE("a read of one chunk that goes sees its file's bytes or none", "[explore]") {
  look_while("evicted", 0, "a", 'a', {evict});
  look_while("evicted, and its place is another file's", 0, "a", 'a', {evict, write_other(0)});
  look_while("evicted, and another file's elsewhere", 0, "a", 'a', {evict, write_other(1)});
  const Act grow = [](World& world) { World::write(world.a, 1, 'd'); };
  look_while("its table grows", 0, "a", 'a', {grow});
  look_while("its table grows, and it is evicted", 0, "a", 'a', {grow, evict});
  look_while("its table goes, too", far, "a", 'a', {evict});
  look_while("its table goes, too, and is another file's", far, "a", 'a', {evict, write_other(far)});
  look_while("the root of its table is another's leaf", far, "a", 'a', {evict, write_other(far / 32)});
  look_while("evicted, and the same file's elsewhere", 0, "a", 'a',
             {evict, [](World& world) { World::write(world.a, 1, 'd'); }});
  look_while("evicted, and written anew", 0, "ac", 'c', {evict, [](World& world) { World::write(world.a, 0, 'c'); }});
  look_while("discarded", 0, "a", '\0', {[](World& world) {
               World::write(world.a, 0, 'a');
               world.store_a.text.clear();
               (void)world.a.discard_dirty(0, 2).has_value();
               (void)world.a.truncate(chunk_bytes).has_value();
             }});
}

TEST_CASE("a read of two chunks is of one moment of their file", "[explore]") {
  // The file holds "aa", and the other thread changes it, while one reads both.
  struct Two : World {
    Two() : World{0} { write(a, 1, 'a'); }
    void look(const std::string& legal) {
      (void)a.body()->held_reads().use(0, 2 * chunk_bytes, [&](tarn::ConstBuffers bytes) {
        const auto text = text_of(bytes);
        Explorer::expect(text.size() == 2 * chunk_bytes, "a read is short");
        const std::string seen{text.front(), text.back()};
        Explorer::expect(legal.find(seen) != std::string::npos, "a read is of no moment of its file");
        Explorer::expect(text == std::string(chunk_bytes, seen[0]) + std::string(chunk_bytes, seen[1]),
                         "a read is torn");
      });
    }
  };
  using Do = std::function<void(Two&)>;
  const auto both = [](char letter) {
    return [=](Two& two) {
      const std::string text(2 * chunk_bytes, letter);
      Explorer::expect(two.a.write(0, text_bytes(text)).has_value(), "a write is refused");
    };
  };
  const Do cut = [](Two& two) { (void)two.a.truncate(0).has_value(); };
  const Do punch = [](Two& two) { (void)two.a.punch_hole(tarn::ByteRange::between(0, 2 * chunk_bytes)).has_value(); };
  const Do first = [](Two& two) { World::write(two.a, 0, 'c'); };
  const Do second = [](Two& two) { World::write(two.a, 1, 'd'); };
  constexpr std::size_t preemptions = 3;
  const auto look_while = [](const std::string& part, const std::string& legal, const std::vector<Do>& acts) {
    const auto make = [=] {
      auto two = std::make_shared<Two>();
      const auto act = [=] {
        for (const auto& one : acts) one(*two);
      };
      return Scenario{{[=] { two->look(legal); }, act}, [=] { two->end(); }};
    };
    tarn_test::explore(part, make, preemptions);
  };
  look_while("both written", "aa cc", {both('c')});
  look_while("one written, then the other", "aa ca cd", {first, second});
  look_while("cut, and written anew", "aa cd", {cut, first, second});
  look_while("punched, and written anew from the end", "aa cd", {punch, second, first});
}

TEST_CASE("a pin by an id that goes is of its file or none, and the record stays for it", "[explore]") {
  // One file of an id goes, and another takes its record, while somebody pins by the id of the first.
  struct Ids {
    tarn::ChunkPool<Traits> pool{tarn_test::small_pool(1)};
    struct Loader {
      char letter;
      tarn::Result<std::size_t> load(const tarn::LoadRequest<Traits>& request) {
        const std::string text(static_cast<std::size_t>(request.range.size_bytes()), letter);
        return request.into.copy_from(text_bytes(text));
      }
    };
    static tarn::MetadataFor<Traits> named(std::uint64_t id) {
      return tarn::MetadataFor<Traits>::from_store(id, chunk_bytes, {.part_bytes = chunk_bytes});
    }
    void read(std::uint64_t id, char letter) {
      auto meta = named(id);
      Loader loader{letter};
      std::string into(chunk_bytes, '?');
      (void)tarn::read_range(pool, meta, 0, std::as_writable_bytes(std::span{into}), loader).has_value();
    }
    void pin(std::uint64_t id, char letter) {
      look(id);
      const auto pin = pool.pin(named(id), 0);
      if (!pin) return;
      (void)pin
          ->with_data([&](std::span<const std::byte> bytes) {
            Explorer::expect(static_cast<char>(bytes[0]) == letter, "a pin is of another file");
          })
          .has_value();
    }
    void read_held(std::uint64_t id, char letter) {
      const auto meta = named(id);
      std::string into(chunk_bytes, '?');
      if (!tarn::detail::copy_held(pool, meta, 0, std::as_writable_bytes(std::span{into}))) return;
      Explorer::expect(into == std::string(chunk_bytes, letter), "a read is of another file");
    }
    void look(std::uint64_t id) {
      constexpr auto of_file = tarn::detail::FileRecord<Traits>::of_file;
      auto& core = pool.core();
      auto* const pinned = core.pin_unlocked<of_file>(id, 0);
      if (pinned == nullptr) return;
      (void)pinned->state.word();  // where it may be dropped
      Explorer::expect(pinned->record->has_key<of_file>(id), "the record of a pinned chunk is another file's");
      const tarn::detail::Resumer resumer;
      core.user_pins.note_end();
      core.unpin(*pinned);
    }
    void end() {
      for (const std::uint64_t id : {1U, 2U}) (void)pool.drop(named(id));
      Explorer::expect(pool.stats().charged_bytes == 0, "a pin or a record stays, or went twice");
    }
  };
  using Do = std::function<void(Ids&)>;
  const Do drop = [](Ids& ids) { (void)ids.pool.drop(Ids::named(1)); };
  const Do evict_all = [](Ids& ids) { (void)ids.pool.evict_clean(); };
  const Do other = [](Ids& ids) { ids.read(2, 'b'); };
  const auto pin_while = [](const std::string& part, const std::vector<Do>& acts) {
    using Look = void (Ids::*)(std::uint64_t, char);
    for (const auto& [way, look] : {std::pair<std::string, Look>{"", &Ids::pin}, {", read", &Ids::read_held}}) {
      tarn_test::explore(part + way, [=, look = look] {
        auto ids = std::make_shared<Ids>();
        ids->read(1, 'a');
        const auto act = [=] {
          for (const auto& one : acts) one(*ids);
        };
        return Scenario{{[=] { ((*ids).*look)(1, 'a'); }, act}, [=] { ids->end(); }};
      });
    }
  };
  pin_while("dropped", {drop});
  pin_while("evicted", {evict_all});
  pin_while("dropped, and its record is another file's", {drop, other});
  pin_while("evicted, and its record is another file's", {evict_all, other});
}

TEST_CASE("who finds a chunk pinned for a user finds that pin counted", "[explore]") {
  // Who has no room asks so whether a chunk is busy for a moment, or for as long as a user likes.
  struct Pinned : World {
    Pinned() : World{0} {}
    std::optional<tarn::PinnedChunk<Traits>> pin;
    tarn::detail::Chunk<Traits>* const chunk_of_a = a.body()->record->find_unlocked(0);
  };
  tarn_test::explore("by id", [] {
    auto world = std::make_shared<Pinned>();
    const auto pins = [=] {
      if (auto made = world->pool.pin(world->a.metadata(), 0); made) world->pin.emplace(std::move(*made));
    };
    const auto looks = [=] {
      if (!world->chunk_of_a->state.pinned()) return;
      Explorer::expect(world->pool.core().user_pins.load() != 0, "a user's pin is not counted yet");
    };
    return Scenario{{pins, looks}, [=] {
                      Explorer::expect(world->pin.has_value(), "there is no pin");
                      world->pin.reset();
                      world->end();
                    }};
  });
}
