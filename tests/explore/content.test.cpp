// SPDX-License-Identifier: MIT
// Compile: -O1 in explorations
// CTest: TIMEOUT 300 LABELS slow
#define TARN_SYNC_HEADER "explore/explored_sync.hpp"

// Content that files share, under the explorer: loaded once for all who miss it, found or not while it is evicted and
// forgotten, and given to its name by files that have stored it.

#include <tarn/chunk_pool.hpp>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <tarn/detail/share_content.hpp>
#include <tarn/read_range.hpp>

#include "explore/explore.hpp"
#include "explore/small_pool.hpp"
#include "explore/token_store.hpp"
#include "support/catch.hpp"

using tarn_test::chunk_bytes;
using tarn_test::explore;
using tarn_test::Explorer;
using tarn_test::in_turn;
using tarn_test::Scenario;

namespace {

using Traits = tarn_test::ExploredTraits;
using Metadata = tarn::MetadataFor<Traits>;
using Content = Traits::ContentId;

Content named(char letter) {
  Content id;
  id.bytes[0] = static_cast<std::byte>(letter);
  return id;
}
/// What a piece of content is: its letter, everywhere.
std::string text_of(char letter) { return std::string(chunk_bytes, letter); }

/// Two files of the same content, stored as ranges of their own; what is asked for by content id is its letter.
struct World {
  tarn::ChunkPool<Traits> pool{tarn_test::small_pool(1)};
  tarn_test::TokenStore<Traits> store;
  std::vector<Metadata> files;

  World() {
    store.at_once = true;
    store.text = text_of('a');
    for (std::uint64_t id = 1; id <= 2; ++id) files.push_back(Metadata::from_store(id, chunk_bytes));
  }
  void load(char letter, std::uint64_t chunk) {
    const auto pin = pool.get_or_load(named(letter), chunk, chunk_bytes, store);
    if (pin) see(letter, *pin);
    // It may be forgotten again before it is pinned: by invalidate alone, which a load does not outlive.
    if (!pin) Explorer::expect(forgets && pin.error() == std::errc::no_such_file_or_directory, "content is not loaded");
  }
  void look(char letter, std::uint64_t chunk) {
    if (const auto pin = pool.try_get(named(letter), chunk); pin) see(letter, *pin);
  }
  void look_at_file(std::size_t which) {
    if (const auto pin = pool.pin(files[which], 0); pin) see('a', *pin);
  }
  /// A pin with no lock keeps the chunk its file's.
  void pin_for_file(std::size_t which) {
    constexpr auto of_file = tarn::detail::FileRecord<Traits>::of_file;
    auto& core = pool.core();
    const auto id = files[which].id();
    auto* const pinned = core.pin_unlocked<of_file>(id, 0);
    if (pinned == nullptr) return;
    for (int i = 0; i < 2; ++i) {
      (void)pinned->state.word();  // where it may be given away
      Explorer::expect(pinned->record->has_key<of_file>(id), "a pinned chunk is given away");
    }
    const tarn::detail::Resumer resumer;
    core.user_pins.note_end();
    core.unpin(*pinned);
  }
  void read_file(std::size_t which) {
    std::string into(chunk_bytes, '?');
    const auto n = tarn::read_range(pool, files[which], 0, std::as_writable_bytes(std::span{into}), store);
    Explorer::expect(n && *n == chunk_bytes && into == text_of('a'), "a file reads something else");
  }
  /// As a flush does whose store has named the part.
  void share(std::size_t which) {
    auto& core = pool.core();
    const auto& meta = files[which];
    const auto record = core.registry.find(core.file_key(meta.id()));
    if (record) tarn::detail::share_content(core, *record, *pool.layout(meta), 0, named('a'), meta.size());
  }

  bool forgets = false;  // somebody invalidates

 private:
  void see(char letter, const tarn::PinnedChunk<Traits>& pin) {
    const auto seen = pin.with_data([](std::span<const std::byte> bytes) {
      return std::string{reinterpret_cast<const char*>(bytes.data()), bytes.size()};
    });
    if (seen) Explorer::expect(*seen == text_of(letter), "a chunk has the bytes of another");
    if (!seen) Explorer::expect(seen.error() == std::errc::no_message_available && forgets, "a pinned chunk is lost");
  }
};

using Act = tarn_test::ActOn<World>;
Act load(char letter, std::uint64_t chunk = 0) {
  return [=](World& world) { world.load(letter, chunk); };
}
Act look(char letter, std::uint64_t chunk = 0) {
  return [=](World& world) { world.look(letter, chunk); };
}
Act look_at_file(std::size_t which) {
  return [=](World& world) { world.look_at_file(which); };
}
Act pin_for_file(std::size_t which) {
  return [=](World& world) { world.pin_for_file(which); };
}
Act read_file(std::size_t which) {
  return [=](World& world) { world.read_file(which); };
}
Act share(std::size_t which) {
  return [=](World& world) { world.share(which); };
}
const Act evict = [](World& world) { (void)world.pool.evict_clean(); };
const Act forget = [](World& world) { (void)world.pool.invalidate(named('a')); };
/// The store answers one load by a token, in this thread.
const Act answer = [](World& world) { world.store.answer_load(); };

struct Start {
  std::vector<Act> held = {};     ///< what is done before
  std::optional<int> loads = {};  ///< how many there are then, and in the race
  bool forgets = false;
  bool later = false;  ///< loads are answered by `answer`
};

std::function<Scenario()> together(std::vector<Act> acts, Start start = {}) {
  return [=] {
    auto world = std::make_shared<World>();
    world->forgets = start.forgets;
    for (const auto& act : start.held) act(*world);
    world->store.at_once = !start.later;
    Scenario scenario;
    tarn_test::add_threads(scenario, world, acts);
    scenario.at_end = [=] {
      if (start.loads) Explorer::expect(world->store.loads == *start.loads, "it is loaded so often");
      Explorer::expect(world->pool.stats().pins == 0, "a pin is left");
      (void)world->pool.evict_clean();
      Explorer::expect(world->pool.stats().chunks_held == 0, "a chunk cannot be evicted");
      Explorer::expect(world->pool.stats().charged_bytes == 0, "a chunk, a node or a record stays, or went twice");
    };
    return scenario;
  };
}

constexpr std::uint64_t far = 40;  // a level more in the table

}  // namespace

TEST_CASE("content that several miss is loaded once", "[explore]") {
  explore("by two", together({load('a'), load('a')}, {.loads = 1}), 2);
  explore("and answered by another thread", together({load('a'), answer}, {.loads = 1, .later = true}));
  explore("while another looks", together({load('a'), look('a')}, {.loads = 1}), 2);
  explore("by two, and answered by a third", together({load('a'), load('a'), answer}, {.loads = 1, .later = true}), 1);
  explore("by three", together({load('a'), load('a'), load('a')}, {.loads = 1}), 1);
}

TEST_CASE("content is not taken for what was in its memory before", "[explore]") {
  const auto other = in_turn(evict, load('b'));
  explore("looked at while it is evicted", together({look('a'), evict}, {.held = {load('a')}}), 2);
  explore("while other content takes its place", together({look('a'), other}, {.held = {load('a')}}), 2);
  explore("loaded while it is evicted", together({load('a'), evict}, {.held = {load('a')}}), 2);
  explore("looked at while it is evicted, and other content loaded",
          together({look('a'), evict, load('b')}, {.held = {load('a')}}), 1);
}

TEST_CASE("content that is forgotten is loaded again, or not there", "[explore]") {
  explore("looked at", together({look('a'), forget}, {.held = {load('a')}, .forgets = true}));
  explore("evicted", together({forget, evict}, {.held = {load('a')}, .forgets = true}));
  explore("loaded", together({load('a'), forget}, {.forgets = true}), 2);
  explore("while it is answered", together({in_turn(forget, answer), load('a')}, {.forgets = true, .later = true}), 2);
  explore("loaded and answered", together({load('a'), forget, answer}, {.forgets = true, .later = true}), 1);
  explore("looked at and evicted", together({look('a'), forget, evict}, {.held = {load('a')}, .forgets = true}), 2);
}

TEST_CASE("a table of content that grows and shrinks by loads finds what it has", "[explore]") {
  explore("looked at below", together({look('a'), load('a', far)}, {.held = {load('a')}, .loads = 2}));
  explore("made by two", together({load('a'), load('a', far)}, {.loads = 2}), 2);
  explore("evicted below", together({evict, load('a', far)}, {.held = {load('a')}, .loads = 2}), 2);
  explore("forgotten below", together({forget, load('a', far)}, {.held = {load('a')}, .forgets = true}), 2);
  explore("looked at and evicted below", together({look('a'), evict, load('a', far)}, {.held = {load('a')}}), 1);
}

TEST_CASE("a stored chunk that is given to its content's name is found there, or is its file's own", "[explore]") {
  const Start both{.held = {read_file(0), read_file(1)}};
  const Start named_too{.held = {read_file(0), load('a')}};
  explore("while it is looked at by its file", together({share(0), look_at_file(0)}, both));
  explore("while it is pinned for its file with no lock", together({share(0), pin_for_file(0)}, both));
  explore("while it is looked for by name", together({share(0), look('a')}, both));
  explore("while it is evicted", together({share(0), evict}, both), 2);
  explore("by two files", together({share(0), share(1)}, both));
  explore("that is held already", together({share(0), look('a')}, named_too));
  explore("that is held already, and evicted", together({share(0), evict}, named_too), 2);
  explore("while it is read", together({share(0), read_file(0)}, both));
  explore("by two files, and looked for by name", together({share(0), share(1), look('a')}, both), 2);
  explore("while it is evicted, and looked for by name", together({share(0), evict, look('a')}, both), 1);
  explore("while it is evicted, and looked at by its file", together({share(0), evict, look_at_file(0)}, both), 1);
}
