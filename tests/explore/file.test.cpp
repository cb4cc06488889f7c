// SPDX-License-Identifier: MIT
// Compile: -O1 in explorations
// CTest: TIMEOUT 300 COST 5 LABELS slow
#define TARN_SYNC_HEADER "explore/explored_sync.hpp"

// The shipped file, pool and chunks under the explorer: the orders of two and three calls that meet in one chunk.

#include <tarn/dirty_file.hpp>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <tarn/dirty_file_async.hpp>

#include "explore/explore.hpp"
#include "explore/small_pool.hpp"
#include "support/catch.hpp"
#include "support/linearizable.hpp"
#include "support/received.hpp"

using tarn_test::chunk_bytes;
using tarn_test::explore;
using tarn_test::Explorer;
using tarn_test::Scenario;
using tarn_test::text_bytes;

namespace {

using Traits = tarn_test::ExploredTraits;

/// Holds one file, as text. Its calls are one step each.
struct TextStore {
  std::string text;
  bool side_by_side = false;  // it takes two flushes at a time
  int loads = 0;
  tarn::detail::Atomic<int> turn{0};

  tarn::Result<std::size_t> load(const tarn::LoadRequest<Traits>& request) {
    (void)turn.fetch_add(1);
    ++loads;
    const auto at = static_cast<std::size_t>(request.range.offset());
    if (request.range.end() > text.size()) return tarn::fail(std::errc::io_error);
    return request.into.copy_from(text_bytes(text).subspan(at, static_cast<std::size_t>(request.range.size_bytes())));
  }
  tarn::FlushOutcome<Traits> flush(const tarn::FlushRequest<Traits>& request) {
    std::vector<std::pair<std::uint64_t, std::string>> pieces;
    request.for_each_piece([&](std::uint64_t at, std::span<const std::byte> bytes, bool) {
      pieces.emplace_back(at, std::string{reinterpret_cast<const char*>(bytes.data()), bytes.size()});
    });
    (void)turn.fetch_add(1);
    text.resize(static_cast<std::size_t>(request.size_bytes), '\0');
    for (const auto& [at, piece] : pieces) text.replace(static_cast<std::size_t>(at), piece.size(), piece);
    return tarn::FlushOutcome<Traits>::durable();
  }
  [[nodiscard]] std::size_t flushes_at_once() const noexcept { return side_by_side ? 2 : 1; }
  tarn::Result<> remove(const std::uint64_t&) {
    (void)turn.fetch_add(1);
    text.clear();
    return {};
  }
};

struct World {
  explicit World(std::string stored, bool side_by_side) : store{std::move(stored), side_by_side} {
    using Metadata = tarn::MetadataFor<Traits>;
    const auto layout = tarn::FileOptions{.part_bytes = (side_by_side ? 1 : 4) * chunk_bytes};
    file.emplace(pool,
                 store.text.empty() ? Metadata::created(7, layout) : Metadata::from_store(7, store.text.size(), layout),
                 store);
  }
  [[nodiscard]] std::string read(std::uint64_t at, std::size_t size) {
    std::string text(size, '?');
    const auto n = file->read(at, std::as_writable_bytes(std::span{text}));
    if (!n) return "error";
    text.resize(*n);
    return text;
  }
  void write(std::uint64_t at, const std::string& text) {
    const auto n = file->write(at, text_bytes(text));
    Explorer::expect(n && *n == text.size(), "a write is refused");
  }

  TextStore store;
  tarn::ChunkPool<Traits> pool{tarn_test::small_pool(2)};
  std::optional<tarn::DirtyFile<Traits, TextStore>> file;
};

using Call = std::function<void(World&)>;

/// Threads that make one call each; `held`: the stored bytes are in the pool before. In the end the file reads as one
/// of `allowed`, and so does the store after a flush.
std::function<Scenario()> race(std::string stored, bool held, std::vector<Call> calls, std::vector<std::string> allowed,
                               std::optional<int> loads = {}, bool side_by_side = false) {
  return [=] {
    auto world = std::make_shared<World>(stored, side_by_side);
    if (held) (void)world->read(0, stored.size());
    Scenario scenario;
    for (const auto& call : calls) scenario.threads.emplace_back([=] { call(*world); });
    scenario.at_end = [=] {
      if (loads) Explorer::expect(world->store.loads == *loads, "it is loaded so often");
      const auto one_of = [&](const std::string& text) {
        return std::find(allowed.begin(), allowed.end(), text) != allowed.end();
      };
      const auto seen = world->read(0, 4 * chunk_bytes);
      if (!one_of(seen)) Explorer::fail("the file reads " + seen);
      Explorer::expect(world->file->flush().has_value(), "the last flush fails");
      Explorer::expect(world->read(0, 4 * chunk_bytes) == seen, "a flush changed what is read");
      if (world->store.text != seen) Explorer::fail("the store has " + world->store.text);
      world->pool.evict_clean();
      Explorer::expect(world->read(0, 4 * chunk_bytes) == seen, "another file after it was evicted");
      world->file.reset();
      world->pool.evict_clean();
      Explorer::expect(world->pool.stats().chunks_held == 0, "a chunk stays");
      Explorer::expect(world->pool.stats().dirty_bytes == 0, "a dirty byte stays");
    };
    return scenario;
  };
}

const std::string sixteen(16, 'a'), two_chunks(32, 'a');
const Call flush = [](World& world) { Explorer::expect(world.file->flush().has_value(), "a flush fails"); };
const Call evict = [](World& world) { (void)world.pool.evict_clean(); };
Call write(std::uint64_t at, std::string text) {
  return [=](World& world) { world.write(at, text); };
}
Call truncate(std::uint64_t size) {
  return [=](World& world) { Explorer::expect(world.file->truncate(size).has_value(), "a truncate fails"); };
}
Call punch(std::uint64_t at, std::uint64_t size) {
  return [=](World& world) {
    Explorer::expect(world.file->punch_hole(tarn::ByteRange::between(at, at + size)).has_value(), "a punch fails");
  };
}
/// A read that must see one of these.
Call read(std::uint64_t at, std::size_t size, std::vector<std::string> allowed) {
  return [=](World& world) {
    const auto seen = world.read(at, size);
    if (std::find(allowed.begin(), allowed.end(), seen) == allowed.end()) Explorer::fail("a read sees " + seen);
  };
}
Call try_read(std::uint64_t at, std::size_t size, std::vector<std::string> allowed) {
  return [=](World& world) {
    std::string seen(size, '?');
    auto outcome = world.file->try_read(at, std::as_writable_bytes(std::span{seen}));
    if (outcome.done()) seen.resize(*outcome);
    if (!outcome.done()) seen = outcome.busy() ? "busy" : "error";
    if (std::find(allowed.begin(), allowed.end(), seen) == allowed.end()) Explorer::fail("a try sees " + seen);
  };
}
Call view(std::uint64_t at, std::size_t size, std::vector<std::string> allowed) {
  return [=](World& world) {
    std::string seen;
    const auto viewed = world.file->view(at, size, [&](tarn::ConstBuffers bytes) {
      seen.assign(bytes.size_bytes(), '?');
      return bytes.copy_to(std::as_writable_bytes(std::span{seen}));
    });
    if (!viewed) seen = "error";
    if (std::find(allowed.begin(), allowed.end(), seen) == allowed.end()) Explorer::fail("a view sees " + seen);
  };
}
std::string with(std::string text, std::size_t at, const std::string& part) {
  return text.replace(at, part.size(), part);
}
std::string zeros(std::size_t size) { return std::string(size, '\0'); }

}  // namespace

TEST_CASE("a write during a flush is not lost", "[explore]") {
  const auto changed = with(sixteen, 3, "bb");
  const auto twice = with(changed, 4, "cc");
  explore("of clean bytes", race(sixteen, true, {write(3, "bb"), flush}, {changed}));
  {
    const Call both = [](World& world) { write(3, "bb")(world), flush(world); };
    explore("of bytes in flush",
            race(sixteen, true, {both, write(4, "cc")}, {twice, with(with(sixteen, 4, "cc"), 3, "bb")}));
  }
  explore("of bytes that are not held", race(sixteen, false, {write(3, "bb"), flush}, {changed}));
}

TEST_CASE("two writes are both kept", "[explore]") {
  explore("beside each other", race(sixteen, true, {write(0, "bb"), write(2, "cc")}, {with(sixteen, 0, "bbcc")}));
  explore("the first of a chunk, of bytes that are not held",
          race(sixteen, false, {write(0, "bb"), write(2, "cc")}, {with(sixteen, 0, "bbcc")}));
  explore("over each other, in one order or the other",
          race(two_chunks, true, {write(14, "bbbb"), write(14, "cccc")},
               {with(two_chunks, 14, "bbbb"), with(two_chunks, 14, "cccc")}));
}

TEST_CASE("a window is read as of one moment", "[explore]") {
  const auto after = with(two_chunks, 14, "bbbb");
  explore("by copy", race(two_chunks, true, {read(0, 32, {two_chunks, after}), write(14, "bbbb")}, {after}));
  explore("by view", race(two_chunks, true, {view(0, 32, {two_chunks, after}), write(14, "bbbb")}, {after}));
  explore(
      "while it is loaded",
      race(sixteen, false, {read(0, 16, {sixteen, with(sixteen, 3, "bb")}), write(3, "bb")}, {with(sixteen, 3, "bb")}),
      2);
  {
    const std::string grown(32, 'b');
    explore("at the end of a file that grows meanwhile",
            race(sixteen, true, {read(0, 32, {sixteen, grown}), write(0, grown)}, {grown}));
    explore("at the end of a file that grows meanwhile, by a try",
            race(sixteen, true, {try_read(0, 32, {sixteen, grown, "busy"}), write(0, grown)}, {grown}));
  }
}

TEST_CASE("a chunk that takes memory which was received is seen before or after, and flushed as one of both",
          "[explore]") {
  const auto after = std::string(16, 'b') + sixteen;
  const Call take_in = [](World& world) {
    const std::string text(16, 'b');
    auto spares = tarn_test::received(world.pool, text_bytes(text));
    Explorer::expect(spares.has_value(), "nothing to receive into");
    const auto n = world.file->write(0, *spares, text.size());
    Explorer::expect(n && *n == text.size(), "a write is refused");
    tarn_test::receive(*spares, text_bytes(std::string(16, '?')));  // what comes next
  };
  explore("by a read", race(two_chunks, true, {take_in, read(0, 32, {two_chunks, after})}, {after}));
  explore("by a view", race(two_chunks, true, {take_in, view(0, 32, {two_chunks, after})}, {after}));
  explore("by a flush", race(two_chunks, true, {take_in, flush}, {after}));
  explore("while it is evicted", race(two_chunks, true, {take_in, evict}, {after}), 3);
  {
    const Call both = [](World& world) { write(3, "cc")(world), flush(world); };
    explore("while what it had is flushed", race(two_chunks, true, {take_in, both}, {after, with(after, 3, "cc")}));
  }
}

TEST_CASE("of a change of two chunks, reads of one chunk each see all, once one of them has seen any", "[explore]") {
  const auto reads_beside = [](const Call& change, const std::string& after) {
    const auto first_after = after.substr(0, 16), second_after = after.substr(first_after.size());
    const Call reads = [=](World& world) {
      const auto first = world.read(0, 16), second = world.read(16, 16);
      if (first != sixteen && first != first_after) Explorer::fail("the first chunk reads " + first);
      if (second != sixteen && second != second_after) Explorer::fail("the second chunk reads " + second);
      if (first != sixteen && second == sixteen)
        Explorer::fail("a change is seen in one chunk, and then not in another");
    };
    return race(two_chunks, true, {reads, change}, {after});
  };
  explore("a write", reads_beside(write(8, std::string(16, 'b')), with(two_chunks, 8, std::string(16, 'b'))));
  explore("a punch of one and a half", reads_beside(punch(8, 24), with(two_chunks, 8, zeros(24))));
  explore("a truncate", reads_beside(truncate(8), sixteen.substr(0, 8)));
}

TEST_CASE("of what is given up in two chunks, reads of one chunk each see none, once one has seen what is stored",
          "[explore]") {
  const std::string dirty(16, 'b');
  const auto make = [=] {
    auto world = std::make_shared<World>(two_chunks, false);
    world->write(0, dirty + dirty);
    Scenario scenario;
    scenario.threads.emplace_back([=] {
      const auto given_up = world->file->discard_dirty(two_chunks.size(), 2);
      Explorer::expect(given_up && *given_up == two_chunks.size(), "not all is given up");
    });
    scenario.threads.emplace_back([=] {
      for (const auto first : {std::uint64_t{0}, std::uint64_t{16}}) {
        const auto one = world->read(first, 16), other = world->read(16 - first, 16);
        if (one != sixteen && one != dirty) Explorer::fail("a chunk reads " + one);
        if (other != sixteen && other != dirty) Explorer::fail("the other chunk reads " + other);
        if (one == sixteen && other == dirty) Explorer::fail("what was given up is read");
      }
    });
    scenario.at_end = [=] { Explorer::expect(world->read(0, 32) == two_chunks, "the store's bytes are not read"); };
    return scenario;
  };
  explore(make, 2);
}

TEST_CASE("two readers of what is missing load it once", "[explore]") {
  explore(race(sixteen, false, {read(0, 16, {sixteen}), read(0, 16, {sixteen})}, {sixteen}, 1), 2);
}

TEST_CASE("an operation that meets another's load ends, whenever that does", "[explore]") {
  const auto make = [] {
    auto world = std::make_shared<World>(sixteen, false);
    auto into = std::make_shared<std::string>(16, '?');
    auto ended = std::make_shared<bool>(false);
    Scenario scenario;
    scenario.threads.emplace_back([=] { (void)world->read(0, 16); });
    scenario.threads.emplace_back([=] {
      tarn::start_read(*world->file, 0, std::as_writable_bytes(std::span{*into}),
                       [=](const tarn::Result<std::size_t>& n) { *ended = n && *n == 16; });
    });
    scenario.at_end = [=] {
      Explorer::expect(*ended, "it has not ended");
      Explorer::expect(*into == sixteen, "it read something else");
      Explorer::expect(world->store.loads == 1, "it is loaded so often");
    };
    return scenario;
  };
  explore(make, 2);  // the other one during its load, and this one before it parks
}

TEST_CASE("an eviction takes no byte that somebody reads or writes", "[explore]") {
  explore("a read", race(sixteen, true, {read(0, 16, {sixteen}), evict}, {sixteen}), 2);
  explore("a view", race(sixteen, true, {view(0, 16, {sixteen}), evict}, {sixteen}), 2);
  explore("a write", race(sixteen, true, {write(3, "bb"), evict}, {with(sixteen, 3, "bb")}), 2);
  explore("a load", race(sixteen, false, {read(0, 16, {sixteen}), evict}, {sixteen}), 2);
  {
    const Call both = [](World& world) { write(3, "bb")(world), flush(world); };
    explore("a flush", race(sixteen, true, {both, evict}, {with(sixteen, 3, "bb")}), 2);
  }
}

TEST_CASE("of a truncate and another call one comes first", "[explore]") {
  const auto cut = sixteen.substr(0, 4);
  explore("a write that extends",
          race(sixteen, true, {truncate(4), write(14, "bbbb")}, {cut, cut + zeros(10) + "bbbb"}));
  explore("a load", race(sixteen, false, {truncate(4), read(0, 16, {sixteen, cut})}, {cut}));
  {
    const Call both = [](World& world) { write(8, "bb")(world), flush(world); };
    explore("a flush", race(sixteen, true, {both, truncate(4)}, {cut, cut + zeros(4) + "bb"}));
  }
  {
    const Call both = [](World& world) { truncate(4)(world), truncate(16)(world); };
    explore("cut and grown beside a load: the gap is zero",
            race(sixteen, false, {both, read(0, 16, {sixteen, cut, cut + zeros(12)})}, {cut + zeros(12)}));
  }
  {
    const Call both = [](World& world) { write(8, "bb")(world), flush(world); };
    explore("a punch beside a flush", race(sixteen, true, {both, punch(6, 4)},
                                           {with(sixteen, 6, zeros(4)), with(with(sixteen, 6, zeros(4)), 8, "bb")}));
  }
}

TEST_CASE("three calls at once lose no byte", "[explore]") {
  const auto changed = with(sixteen, 3, "bb");
  explore("a write, a flush and an eviction", race(sixteen, true, {write(3, "bb"), flush, evict}, {changed}), 1);
  explore("two reads of what is missing, and a write",
          race(sixteen, false, {read(0, 16, {sixteen, changed}), read(0, 16, {sixteen, changed}), write(3, "bb")},
               {changed}),
          1);
  {
    const auto cut = sixteen.substr(0, 4);
    const Call both = [](World& world) { truncate(4)(world), truncate(16)(world); };
    explore("a cut that grows again, a load and an eviction",
            race(sixteen, false, {both, read(0, 16, {sixteen, cut, cut + zeros(12)}), evict}, {cut + zeros(12)}), 1);
  }
}

TEST_CASE("two flushes store every byte once or more, and end", "[explore]") {
  const Call both = [](World& world) { write(3, "bb")(world), flush(world); };
  explore(race(sixteen, true, {both, flush}, {with(sixteen, 3, "bb")}), 2);
}

namespace {

/// Is given a file as of one moment, in which all bytes are the same.
struct WholeStore {
  static constexpr auto flush_unit = tarn::FlushUnit::file;
  TextStore in;

  tarn::Result<std::size_t> load(const tarn::LoadRequest<Traits>& request) { return in.load(request); }
  tarn::FlushOutcome<Traits> flush(const tarn::FlushRequest<Traits>& request) {
    auto outcome = in.flush(request);
    Explorer::expect(in.text == std::string(in.text.size(), in.text[0]), "half of a write is stored");
    return outcome;
  }
  tarn::Result<> remove(const std::uint64_t& id) { return in.remove(id); }
};
struct WholeWorld {
  WholeWorld() { write('a'); }
  void write(char byte) {
    const std::string whole(3 * chunk_bytes, byte);  // two windows
    Explorer::expect(file.write(0, text_bytes(whole)).has_value(), "a write is refused");
  }

  WholeStore store;
  tarn::ChunkPool<Traits> pool{tarn_test::small_pool(2)};
  tarn::DirtyFile<Traits, WholeStore> file{pool, tarn::MetadataFor<Traits>::created(7, {.part_bytes = 4 * chunk_bytes}),
                                           store};
  std::optional<tarn::OpenFile<Traits, WholeStore>> open;
};

}  // namespace

TEST_CASE("of a write that is long a flush of one moment has all or nothing, and both end", "[explore]") {
  const auto beside_a_write = [](const std::function<void(WholeWorld&)>& before, bool stores) {
    return [=] {
      auto world = std::make_shared<WholeWorld>();
      before(*world);
      const auto flush_file = [=] { Explorer::expect(world->file.flush().has_value(), "a flush fails"); };
      return Scenario{{flush_file, [=] { world->write('b'); }}, [=] {
                        flush_file();
                        const auto whole = stores ? std::string(3 * chunk_bytes, 'b') : std::string{};
                        Explorer::expect(world->store.in.text == whole, "a write is lost, or stored after all");
                      }};
    };
  };
  explore("that has what was written before", beside_a_write([](WholeWorld&) {}, true), 2);
  const auto remove_open = [](WholeWorld& world) {
    world.open.emplace(world.file.open());
    Explorer::expect(world.file.remove().has_value(), "a removal fails");
  };
  explore("that has nothing to store any more", beside_a_write(remove_open, false), 2);
}

TEST_CASE("flushes of two parts beside each other, and a write in one of them, lose no byte", "[explore]") {
  const Call two_parts = [](World& world) { write(3, "bb")(world), write(19, "cc")(world), flush(world); };
  const Call one_part = [](World& world) { write(3, "d")(world), flush(world); };
  const auto both = with(with(two_chunks, 3, "bb"), 19, "cc");
  explore("of one size", race(two_chunks, true, {two_parts, one_part}, {both, with(both, 3, "d")}, {}, true), 1);
  {
    const Call cut = [](World& world) { truncate(20)(world), flush(world); };
    explore("and a cut", race(two_chunks, true, {two_parts, cut}, {both.substr(0, 20), both.substr(0, 21)}, {}, true),
            1);
  }
}

TEST_CASE("the answers of a write, a truncate and a read have one order", "[explore]") {
  using tarn_test::FileCall;
  const std::vector<FileCall> calls{{.kind = FileCall::Kind::write, .offset = 2, .bytes = std::string(18, 'b')},
                                    {.kind = FileCall::Kind::truncate, .size_bytes = 4},
                                    {.kind = FileCall::Kind::read, .size_bytes = 2 * chunk_bytes}};
  const auto make = [](World& world, FileCall& call) {
    if (call.kind == FileCall::Kind::write) return world.write(call.offset, call.bytes);
    if (call.kind == FileCall::Kind::truncate) return truncate(call.size_bytes)(world);
    call.bytes = world.read(call.offset, static_cast<std::size_t>(call.size_bytes));
  };
  // A stamp is a step as any other, so every order of calls and returns is among those that are run.
  const auto noted = [&](bool held) -> std::function<Scenario()> {
    return [calls, make, held] {
      auto world = std::make_shared<World>(sixteen, false);
      if (held) (void)world->read(0, sixteen.size());
      auto clock = std::make_shared<tarn::detail::Atomic<std::uint64_t>>(1);
      auto history = std::make_shared<std::vector<FileCall>>(calls);
      history->push_back(calls.back());  // what is left in the end
      const auto note = [=](std::size_t i) {
        auto& call = (*history)[i];
        call.called = clock->fetch_add(1);
        make(*world, call);
        call.returned = clock->fetch_add(1);
      };
      Scenario scenario;
      for (std::size_t i = 0; i < calls.size(); ++i) scenario.threads.emplace_back([=] { note(i); });
      scenario.at_end = [=] {
        note(calls.size());
        const auto wrong = tarn_test::unexplained(sixteen, *history);
        if (!wrong.empty()) Explorer::fail(wrong);
      };
      return scenario;
    };
  };
  explore("of bytes that are held", noted(true), 1);
  explore("of bytes that are not held", noted(false), 1);
}
