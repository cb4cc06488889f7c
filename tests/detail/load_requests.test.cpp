// SPDX-License-Identifier: MIT
#include <tarn/detail/load_requests.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <system_error>
#include <type_traits>
#include <utility>
#include <vector>

#include <tarn/dirty_file_async.hpp>
#include <tarn/testing/later_store.hpp>

#include "support/brim.hpp"
#include "support/catch.hpp"
#include "support/later_file.hpp"
#include "support/one_file.hpp"

// Loads of whole parts, for a store that says `load_unit`; those of ranges are everybody else's (read_range.test.cpp).

using namespace tarn_test;

namespace {

/// Complains of what is no whole part, and of memory that appears twice.
template <class Traits>
class PartsStore : public LaterStore<Traits> {
 public:
  static constexpr auto load_unit = tarn::LoadUnit::parts;
  using typename LaterStore<Traits>::LoadToken;

  void load(const tarn::LoadRequest<Traits>& request, LoadToken token) {
    starts_parts_ = starts_parts_ && request.offset_in_part == 0;
    std::vector<std::pair<const std::byte*, std::size_t>> pieces;
    for (std::size_t i = 0; i < request.into.count(); ++i) {
      pieces.emplace_back(request.into[i].data(), request.into[i].size());
    }
    std::ranges::sort(pieces);
    for (std::size_t i = 1; i < pieces.size(); ++i) {
      apart_ = apart_ && pieces[i - 1].first + pieces[i - 1].second <= pieces[i].first;
    }
    LaterStore<Traits>::load(request, std::move(token));
  }
  [[nodiscard]] bool starts_parts() const { return starts_parts_; }
  [[nodiscard]] bool memory_is_apart() const { return apart_; }

 private:
  bool starts_parts_ = true, apart_ = true;
};

template <class Traits>
struct AtOnce : MemoryStore<Traits> {
  static constexpr auto load_unit = tarn::LoadUnit::parts;
};

template <class Traits>
struct World : LaterFile<Traits, PartsStore<Traits>> {
  using Base = LaterFile<Traits, PartsStore<Traits>>;
  using Base::Base, Base::store, Base::file, Base::pool;

  ~World() {
    CHECK(store.starts_parts());
    CHECK(store.memory_is_apart());
    CHECK(pool.core().counters.ahead_charge_bytes == 0);
  }
  std::string read(std::uint64_t offset, std::size_t size_bytes) {
    std::string into(size_bytes, '?');
    const auto n = file->read(offset, writable(into));
    if (!n) return "error: " + n.error().message();
    into.resize(*n);
    return into;
  }
  [[nodiscard]] Extents asked() const {
    Extents extents;
    for (const auto& range : store.memory.loaded_ranges()) extents.push_back({range.offset(), range.end()});
    return extents;
  }
};

/// A read that waits with no thread.
template <class Traits>
struct Reading {
  Reading(World<Traits>& world, std::uint64_t offset, std::size_t size_bytes) : into(size_bytes, '?') {
    tarn::start_read(*world.file, offset, writable(into), [this](tarn::Result<std::size_t> n) { result.emplace(n); });
  }
  std::string into;
  std::optional<tarn::Result<std::size_t>> result;
};

}  // namespace

TEMPLATE_TEST_CASE("each part is asked for once, whole, as far as the store has it", "[load_parts]",
                   EACH_STORAGE(Heap, Arena)) {
  const auto sizes = GENERATE(any_sizes());
  const auto C = sizes.chunk_bytes, P = C * sizes.chunks_per_part, size = 2 * P + (P + 1) / 2;
  World<TestType> world{sizes, size};
  world.store.answer_at_once();
  const bool backwards = GENERATE(false, true);
  for (std::uint64_t i = 0; i * C < size; ++i) {
    const auto at = backwards ? (size - 1) / C * C - i * C : i * C;
    REQUIRE(world.read(at, 1) == pattern(at, 1));
  }
  CHECK(world.read(0, size + 1) == pattern(0, size));
  auto expected = Extents{{0, P}, {P, 2 * P}, {2 * P, size}};
  if (backwards) std::ranges::reverse(expected);
  CHECK(world.asked() == expected);
  CHECK(world.pool.stats().load_redundant_bytes == 0);
}

TEMPLATE_TEST_CASE("a read over several windows and parts asks for each part once", "[load_parts]",
                   EACH_STORAGE(Heap, Arena)) {
  World<TestType> world{{4096, 4}, 40'000};
  world.store.answer_at_once();
  CHECK(world.read(5'000, 40'000) == pattern(5'000, 35'000));
  CHECK(world.asked() == Extents{{0, 16'384}, {16'384, 32'768}, {32'768, 40'000}});
}

TEMPLATE_TEST_CASE("of a part that was changed only what is stored still shows, and is asked for", "[load_parts]",
                   EACH_STORAGE(Heap, Arena)) {
  World<TestType> world{{16, 4}, 128};
  world.store.answer_at_once();
  REQUIRE(world.file->write(20, bytes_of("dirty")));
  REQUIRE(world.file->punch_hole(range(40, 64)));
  REQUIRE(world.file->write(50, bytes_of("more")));
  REQUIRE(world.file->truncate(100));
  REQUIRE(world.file->truncate(120));
  const auto expected =
      pattern(0, 20) + "dirty" + pattern(25, 15) + zeros(10) + "more" + zeros(10) + pattern(64, 36) + zeros(20);
  Extents loads{{0, 40}, {64, 100}};
  SECTION("read beside the dirty bytes") { CHECK(world.read(26, 2) == pattern(26, 2)); }
  SECTION("read elsewhere: a chunk that is held already is not looked into for it") {
    CHECK(world.read(0, 1) == pattern(0, 1));
    loads.insert(loads.begin(), {0, 40});
  }
  CHECK(world.read(0, 200) == expected);
  CHECK(world.asked() == loads);
  CHECK(world.pool.stats().dirty_bytes == 9);
  REQUIRE(world.file->flush());
  CHECK(world.store.memory.text(world.id) == expected);
}

TEMPLATE_TEST_CASE("what is read beside dirty bytes of one chunk comes with the part too", "[load_parts]", Heap) {
  World<TestType> world{{4096, 1}, 4096};
  world.store.answer_at_once();
  REQUIRE(world.file->write(1'000, bytes_of("dirty")));
  CHECK(world.read(2'000, 100) == pattern(2'000, 100));
  CHECK(world.read(0, 4'096) == pattern(0, 1'000) + "dirty" + pattern(1'005, 3'091));
  CHECK(world.asked() == Extents{{0, 4'096}});
}

TEMPLATE_TEST_CASE("bytes that change while their part is loaded stay as they were changed", "[load_parts]",
                   EACH_STORAGE(Heap, Arena)) {
  World<TestType> world{{16, 4}, 64};
  Reading<TestType> reading{world, 0, 4};
  REQUIRE(world.store.open_loads() == 1);
  auto expected = pattern(0, 64);
  SECTION("a write") {
    REQUIRE(world.file->write(30, bytes_of("newer")));
    expected.replace(30, 5, "newer");
  }
  SECTION("a hole") {
    REQUIRE(world.file->punch_hole(range(20, 50)));
    expected.replace(20, 30, zeros(30));
  }
  SECTION("a truncate, and growth") {
    REQUIRE(world.file->truncate(20));
    REQUIRE(world.file->truncate(64));
    expected.replace(20, 44, zeros(44));
  }
  SECTION("a write in flush meanwhile") {
    REQUIRE(world.file->write(30, bytes_of("newer")));
    expected.replace(30, 5, "newer");
    tarn::start_flush(*world.file, [](const auto&) {});
    REQUIRE(world.store.open_flushes() == 1);
  }
  world.finish_loads();
  REQUIRE(reading.result);
  CHECK(reading.into == pattern(0, 4));
  CHECK(world.read_held(0, 64) == expected);
  while (world.store.open_flushes() != 0) world.store.finish_flush();
  world.store.answer_at_once();
  CHECK(world.read(0, 64) == expected);
  REQUIRE(world.file->flush());
  CHECK(world.store.memory.text(world.id) == expected);
}

TEMPLATE_TEST_CASE("readers of one part share its load, and its error", "[load_parts]", EACH_STORAGE(Heap, Arena)) {
  using Call = typename MemoryStore<TestType>::Call;
  World<TestType> world{{16, 4}, 64};
  Reading<TestType> first{world, 0, 4}, second{world, 50, 4};
  REQUIRE(world.store.open_loads() == 1);
  SECTION("well") {
    world.store.finish_load();
    CHECK(first.into == pattern(0, 4));
    CHECK(second.into == pattern(50, 4));
    CHECK(world.read_held(0, 64) == pattern(0, 64));
    CHECK(world.store.memory.counts().loads == 1);
  }
  SECTION("not") {
    world.store.memory.fail_next(Call::load, 1, std::errc::host_unreachable);
    world.store.finish_load();
    REQUIRE(first.result);
    CHECK(first.result->error() == std::errc::host_unreachable);
    REQUIRE(second.result);
    CHECK(second.result->error() == std::errc::host_unreachable);
    CHECK(world.read_held(0, 1) == "not held");
    world.store.answer_at_once();
    CHECK(world.read(0, 64) == pattern(0, 64));
  }
  SECTION("fewer bytes than the part has are an error, also where nobody asked for those") {
    world.store.memory.answer_short_next();
    world.store.finish_load();
    REQUIRE(first.result);
    CHECK(first.result->error() == std::errc::io_error);
  }
}

TEMPLATE_TEST_CASE("what of a part is loaded already stays with the load that has it", "[load_parts]", Heap) {
  World<TestType> world{{4096, 4}, 4 * 4096};
  std::optional<tarn::detail::RoomQueue::Wait> waiter{world.pool.core().room_queue};
  Reading<TestType> first{world, 0, 1};
  {
    const tarn::detail::Resumer resumer;
    waiter.reset();
  }
  REQUIRE(world.pool.stats().chunks_reserved == 1);  // it has waited, so it takes no more
  Reading<TestType> second{world, 4096, 1};
  CHECK(world.pool.stats().chunks_reserved == 4);
  REQUIRE(world.store.open_loads() == 2);
  SECTION("in order") { CHECK(world.read_held(0, 1) == "not held"); }
  SECTION("the other way round") {
    world.store.finish_load(1);
    CHECK(world.read_held(4096, 3 * 4096) == pattern(4096, 3 * 4096));
    CHECK(world.read_held(0, 1) == "not held");
  }
  world.finish_loads();
  CHECK(first.into == pattern(0, 1));
  CHECK(second.into == pattern(4096, 1));
  CHECK(world.read_held(0, 4 * 4096) == pattern(0, 4 * 4096));
}

TEMPLATE_TEST_CASE("what of a chunk goes past the pool stays with the load that has it", "[load_parts]", Heap) {
  World<TestType> world{{4096, 4}, 4 * 4096};
  std::optional<Brim<TestType>> full{world.pool};
  Reading<TestType> first{world, 0, 10};
  full.reset();
  Reading<TestType> second{world, 2000, 10};
  REQUIRE(world.store.open_loads() == 2);
  world.store.finish_load(1);
  CHECK(second.into == pattern(2000, 10));
  CHECK(world.read_held(10, 3 * 4096) == pattern(10, 3 * 4096));
  CHECK(world.read_held(9, 1) == "not held");
  world.finish_loads();
  CHECK(first.into == pattern(0, 10));
}

TEMPLATE_TEST_CASE("a part that is loaded already in part is not waited for where it is not wanted", "[load_parts]",
                   Heap) {
  World<TestType> world{{16, 4}, 64};
  REQUIRE(world.file->load_ahead(range(0, 64)) == 64);
  auto first = world.store.take_load();
  REQUIRE(world.file->punch_hole(range(16, 32)));  // out of the load
  REQUIRE(world.file->discard_dirty(64, 1));       // all of it, and the store has them again
  Reading<TestType> reading{world, 16, 4};
  REQUIRE(world.store.open_loads() == 1);
  world.store.finish_load();
  CHECK(reading.into == pattern(16, 4));
  CHECK(world.read_held(0, 64) == pattern(0, 64));
  first.complete(first.request().into.size_bytes());  // whatever it has filled: it is nobody's
  CHECK(world.read_held(0, 64) == pattern(0, 64));
}

TEMPLATE_TEST_CASE("a part above a quarter of the budget comes in as few loads as fit, in place of what is unused",
                   "[load_parts]", EACH_STORAGE(Heap, Arena)) {
  constexpr std::uint64_t C = 4096, chunks = 256;
  World<TestType> world{{C, chunks}, chunks * C, 64 * C};
  world.store.answer_at_once();
  for (std::uint64_t at = 0; at < chunks * C; at += C) REQUIRE(world.read(at, C) == pattern(at, C));
  const auto stats = world.pool.stats();
  if (std::is_same_v<TestType, Heap>) CHECK(stats.loads > 1);  // an arena's least budget is a slab
  CHECK(stats.loads <= chunks / 8);
  CHECK(stats.load_bytes == stats.loads * chunks * C);
  CHECK(stats.load_redundant_bytes <= stats.load_bytes - chunks * C);  // some chunks go before they are read
  CHECK((stats.load_redundant_bytes > 0) == (stats.loads > 1));
  CHECK(stats.charged_bytes <= stats.budget_bytes);
}

TEMPLATE_TEST_CASE("in a pool full of dirty bytes the wanted ones go past it, and the rest of the part nowhere",
                   "[load_parts]", Heap) {
  World<TestType> world{{4096, 4}, 64 * 4096, 4 * 4096};
  const auto C = world.C;
  std::uint64_t end = 0;
  while (world.file->try_write(end, bytes_of(pattern(5'000, C)))) end += C;
  const auto at = end + 4 * C - end % (4 * C) + C + 5;  // of a part that is not dirty
  world.store.memory.fail_next(MemoryStore<TestType>::Call::flush, 1'000, std::errc::io_error);
  const auto part = at - at % world.P;
  SECTION("answered later") {
    Reading<TestType> reading{world, at, 100};
    while (!reading.result && world.store.open_flushes() != 0) world.store.finish_flush();
    REQUIRE(world.store.open_loads() == 1);
    world.finish_loads();
    REQUIRE(reading.result);
    CHECK(reading.into == pattern(at, 100));
  }
  SECTION("over the borders of chunks") {
    Reading<TestType> reading{world, at, 2 * C};
    while (!reading.result && world.store.open_flushes() != 0) world.store.finish_flush();
    world.finish_loads();
    REQUIRE(reading.result);
    CHECK(reading.into == pattern(at, 2 * C));
  }
  const auto asked = world.asked();
  REQUIRE(!asked.empty());
  for (const auto& extent : asked) CHECK(extent == Extent{part, part + world.P});
  CHECK(world.pool.stats().loads_uncached > 0);
  CHECK(world.pool.stats().dirty_bytes == end);
  world.store.memory.fail_next(MemoryStore<TestType>::Call::flush, 0, std::errc::io_error);
  world.store.answer_at_once();
  REQUIRE(world.file->flush());
}

TEMPLATE_TEST_CASE("a read does not pass who waits for room, and takes the rest of the part from nobody",
                   "[load_parts]", Heap) {
  World<TestType> world{{4096, 4}, 4 * 4096};
  world.store.answer_at_once();
  std::optional<tarn::detail::RoomQueue::Wait> waiter{world.pool.core().room_queue};
  Reading<TestType> reading{world, 0, 1};
  CHECK(world.pool.stats().chunks_reserved == 0);
  CHECK(world.asked().empty());
  {
    const tarn::detail::Resumer resumer;
    waiter.reset();
  }
  REQUIRE(reading.result);
  CHECK(reading.into == pattern(0, 1));
  CHECK(world.pool.stats().chunks_held == 1);
  CHECK(world.read(4096, 1) == pattern(4096, 1));
  CHECK(world.pool.stats().chunks_held == 4);
  CHECK(world.asked() == Extents{{0, world.P}, {0, world.P}});
}

TEMPLATE_TEST_CASE("loads ahead ask for each part once", "[load_parts]", EACH_STORAGE(Heap, Arena)) {
  World<TestType> world{{4096, 4}, 9 * 4096};
  REQUIRE(world.file->load_ahead(range(4096, 5 * 4096)) != 0);
  CHECK(world.store.open_loads() == 2);
  Reading<TestType> reading{world, 0, 9 * 4096};
  world.finish_loads();
  CHECK(reading.into == pattern(0, 9 * 4096));
  CHECK(world.asked() == Extents{{0, 4 * 4096}, {4 * 4096, 8 * 4096}, {8 * 4096, 9 * 4096}});
  CHECK(world.pool.stats().load_redundant_bytes == 0);
}

TEMPLATE_TEST_CASE("parts by content id are loaded once for all files that share them", "[load_parts]",
                   EACH_STORAGE(Heap, Arena)) {
  World<TestType> world{{16, 4}, 130};
  world.store.answer_at_once();
  const typename TestType::ContentId content{.bytes = {std::byte{1}}};
  world.store.memory.put_content(content, pattern(0, 64, 5));
  auto meta = tarn::MetadataFor<TestType>::from_store(world.id, 130, {.part_bytes = world.P});
  meta.set_content_id(0, content);
  meta.set_content_id(1, content);
  world.file.reset();
  world.file.emplace(world.pool, std::move(meta), world.store);
  CHECK(world.read(70, 4) == pattern(6, 4, 5));
  CHECK(world.read(0, 200) == pattern(0, 64, 5) + pattern(0, 64, 5) + pattern(128, 2));
  CHECK(world.store.memory.counts().loads == 2);
  CHECK(world.store.memory.counts().load_bytes == 66);

  auto shorter = tarn::MetadataFor<TestType>::from_store(8, 30, {.part_bytes = world.P});
  shorter.set_content_id(0, content);
  world.store.memory.put_pattern(8, 30);
  tarn::DirtyFile other{world.pool, std::move(shorter), world.store};
  std::string into(30, '?');
  CHECK(other.try_read(0, writable(into)).done());
  CHECK(into == pattern(0, 30, 5));
}

TEMPLATE_TEST_CASE("the rest of one piece of content takes no chunk that another one's wanted bytes need",
                   "[load_parts]", Heap) {
  constexpr std::uint64_t C = 4096, P = 3 * C;
  World<TestType> world{{C, 3}, 2 * P, 64 * C};
  world.store.answer_at_once();
  auto meta = tarn::MetadataFor<TestType>::from_store(world.id, 2 * P, {.part_bytes = P});
  for (std::uint64_t part = 0; part < 2; ++part) {
    const typename TestType::ContentId content{.bytes = {static_cast<std::byte>(part + 1)}};
    world.store.memory.put_content(content, pattern(0, P, part));
    meta.set_content_id(part, content);
  }
  world.file.reset();
  world.file.emplace(world.pool, std::move(meta), world.store);
  const auto chunks_left = static_cast<std::uint64_t>(GENERATE(Catch::Generators::range(0, 8)));
  {
    const Brim full{world.pool, chunks_left * (C + C / 8)};
    CHECK(world.read(2 * C, 2 * C) == pattern(2 * C, C, 0) + pattern(0, C, 1));  // one window
    const auto stats = world.pool.stats();
    CHECK(stats.chunks_held + stats.loads_uncached >= 2);
    CHECK((stats.chunks_held == 6 || stats.budget_bytes - stats.charged_bytes < 2 * C));  // what could come has
  }
  CHECK(world.store.memory.counts().loads == 2);
  CHECK(world.read(0, 2 * P) == pattern(0, P, 0) + pattern(0, P, 1));
}

TEMPLATE_TEST_CASE("a chunk of content alone is asked for as it is: nobody says how long the content is",
                   "[load_parts]", Heap) {
  tarn::ChunkPool<TestType> pool{pool_options<TestType>(16, 1 * MiB)};
  AtOnce<TestType> store;
  const typename TestType::ContentId content{.bytes = {std::byte{1}}};
  store.put_content(content, pattern(0, 100));
  {
    const auto pin = pool.get_or_load(content, 1, 10, store);
    REQUIRE(pin);
    CHECK(store.loaded_ranges() == std::vector{range(16, 26)});
  }
  pool.evict_clean();
}

TEMPLATE_TEST_CASE("with no chunk to be had only what was asked for is loaded, past the pool", "[load_parts]",
                   EACH_STORAGE(Heap, Arena)) {
  World<TestType> world{{4096, 4}, 20'000};
  world.store.answer_at_once();
  {
    const Brim full{world.pool};
    CHECK(world.read(5'000, 100) == pattern(5'000, 100));
    CHECK(world.pool.stats().loads_uncached == 1);
    CHECK(world.pool.stats().chunks_held == 0);
  }
  CHECK(world.read(5'000, 100) == pattern(5'000, 100));
  CHECK(world.pool.stats().chunks_held == 4);
}
