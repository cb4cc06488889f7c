// SPDX-License-Identifier: MIT
#include <tarn/detail/load_landing.hpp>

#include <malloc.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <future>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include <tarn/dirty_file_async.hpp>
#include <tarn/testing/gate.hpp>
#include <tarn/testing/later_store.hpp>

#include "support/catch.hpp"
#include "support/later_file.hpp"
#include "support/one_file.hpp"

// Loads of whole parts beside loads of ranges: what the rest of a part brings along must cost no call its answer.

using namespace tarn_test;

namespace {

template <class Traits, tarn::LoadUnit unit>
struct Later : LaterStore<Traits> {
  static constexpr auto load_unit = unit;
};
template <class Traits, tarn::LoadUnit unit>
struct AtOnce : MemoryStore<Traits> {
  static constexpr auto load_unit = unit;
  std::function<void(const tarn::LoadRequest<Traits>&)> first;
  tarn::Result<std::size_t> load(const tarn::LoadRequest<Traits>& request) {
    if (first) first(request);
    return MemoryStore<Traits>::load(request);
  }
};
template <tarn::LoadUnit unit>
struct World : LaterFile<Heap, Later<Heap, unit>> {
  using Base = LaterFile<Heap, Later<Heap, unit>>;
  using Base::Base, Base::store, Base::file, Base::pool;
  [[nodiscard]] Extents asked() const {
    Extents extents;
    for (const auto& range : store.memory.loaded_ranges()) extents.push_back({range.offset(), range.end()});
    return extents;
  }
};
template <tarn::LoadUnit unit>
struct Reading {
  Reading(World<unit>& world, std::uint64_t offset, std::size_t size_bytes) : into(size_bytes, '?') {
    tarn::start_read(*world.file, offset, writable(into), [this](tarn::Result<std::size_t> n) { result.emplace(n); });
  }
  [[nodiscard]] std::string text() const {
    if (!result) return "waits";
    return *result ? into : "error: " + result->error().message();
  }
  std::string into;
  std::optional<tarn::Result<std::size_t>> result;
};
constexpr auto parts = tarn::LoadUnit::parts, ranges = tarn::LoadUnit::ranges;

template <tarn::LoadUnit unit>
std::string view_far(std::uint64_t more_bytes, std::uint64_t dirty_chunks) {
  constexpr std::uint64_t C = 256, P = 8 * C;
  tarn::ChunkPool<Heap> pool{pool_options<Heap>(C, more_bytes)};
  AtOnce<Heap, unit> store;
  store.expect_parts_of(P);
  const std::uint64_t at = std::uint64_t{1} << 61;
  store.put_pattern(7, at + P);
  auto meta = tarn::MetadataFor<Heap>::from_store(7, at + P, {.part_bytes = P});
  auto other = tarn::MetadataFor<Heap>::created(8, {.part_bytes = P});
  std::uint64_t n = 0;
  while (n < dirty_chunks && tarn::write_range(pool, other, n * C, bytes_of(pattern(0, C)))) ++n;
  const auto got = tarn::read_range(pool, meta, at, 1, store, [](tarn::ConstBuffers) { return 1; });
  const auto text = got ? std::string{"ok"} : got.error().message();
  pool.drop(other);
  pool.drop(meta);
  pool.evict_clean();
  return text;
}

}  // namespace

TEST_CASE("the rest of a part takes no room that a view needs", "[whole_parts]") {
  int bad = 0, ok = 0;
  for (std::uint64_t dirty = 0; dirty < 60; ++dirty) {
    for (std::uint64_t more = 4'000; more < 4'400; more += 40) {
      const auto a = view_far<ranges>(more, dirty), b = view_far<parts>(more, dirty);
      if (a == "ok" && b == "ok") ++ok;
      if (a == "ok" && b != "ok") ++bad;
    }
  }
  CHECK(bad == 0);
  CHECK(ok > 100);
}

TEST_CASE("what of a part nobody asked for counts as loaded ahead while it is in flight", "[whole_parts]") {
  constexpr std::uint64_t C = 256;
  World<parts> world{{C, 8}, 8 * C};
  Reading<parts> reading{world, 0, 1};
  CHECK(world.pool.stats().chunks_reserved == 8);
  CHECK(world.pool.core().counters.ahead_charge_bytes >= 7 * C);
  world.finish_loads();
  CHECK(reading.text() == pattern(0, 1));
  CHECK(world.pool.core().counters.ahead_charge_bytes == 0);
}

template <tarn::LoadUnit unit>
std::pair<std::uint64_t, std::uint64_t> held_after_a_read() {
  constexpr std::uint64_t C = 4096;
  tarn::ChunkPool<Heap> pool{pool_options<Heap>(C, 100 * C)};
  AtOnce<Heap, unit> store;
  store.put_pattern(7, 20 * C);
  store.put_pattern(9, 64 * C);
  auto meta = tarn::MetadataFor<Heap>::from_store(7, 20 * C, {.part_bytes = 20 * C});
  auto clean = tarn::MetadataFor<Heap>::from_store(9, 64 * C, {.part_bytes = C});
  auto dirty = tarn::MetadataFor<Heap>::created(8, {.part_bytes = C});
  for (std::uint64_t i = 0; i < 86; ++i) REQUIRE(tarn::write_range(pool, dirty, i * C, bytes_of(pattern(0, C))));
  std::string into(6 * C, '?');
  REQUIRE(tarn::read_range(pool, clean, 0, writable(into), store));
  const auto before = pool.stats();
  std::string one(1, '?');
  REQUIRE(tarn::read_range(pool, meta, 0, writable(one), store));
  const auto after = pool.stats();
  pool.drop(dirty);
  pool.drop(meta);
  pool.drop(clean);
  return {after.chunks_held, after.refusals - before.refusals};
}
TEST_CASE("the rest of a part that has too little room evicts nothing for nothing", "[whole_parts]") {
  const auto a = held_after_a_read<ranges>(), b = held_after_a_read<parts>();
  CHECK(b.first >= a.first);
  CHECK(b.second == 0);
}

TEST_CASE("of a part above a quarter of the budget, what is wanted ahead is loaded", "[whole_parts]") {
  World<ranges> a{{4096, 64}, 64 * 4096, 64 * 4096};
  CHECK(a.file->load_ahead(range(0, 4096)) != 0);
  a.finish_loads();
  World<parts> b{{4096, 64}, 64 * 4096, 64 * 4096};
  CHECK(b.file->load_ahead(range(0, 4096)) != 0);
  b.finish_loads();
}

TEST_CASE("a load ahead asks for no part that it wants nothing of", "[whole_parts]") {
  constexpr std::uint64_t C = 4096;
  World<parts> world{{C, 3}, 6 * C};
  std::optional<tarn::detail::RoomQueue::Wait> waiter{world.pool.core().room_queue};
  Reading<parts> first{world, 2 * C, C};
  {
    const tarn::detail::Resumer resumer;
    waiter.reset();
  }
  REQUIRE(world.store.open_loads() == 1);
  CHECK(world.file->load_ahead(range(2 * C, 4 * C)) == 3 * C);
  CHECK(world.store.open_loads() == 2);  // part 0 by `first`, part 1 ahead
  world.finish_loads();
  CHECK(world.asked() == Extents{{0, 3 * C}, {3 * C, 6 * C}});
}

template <tarn::LoadUnit unit>
std::vector<std::string> error_of_another_part(std::uint64_t at) {
  constexpr std::uint64_t C = 4096;
  World<unit> world{{C, 3}, 6 * C};
  Reading<unit> first{world, 2 * C, 2 * C};
  REQUIRE(world.store.open_loads() == 2);
  Reading<unit> second{world, at, 1};
  world.store.memory.fail_next(MemoryStore<Heap>::Call::load, 1, std::errc::host_unreachable);
  world.store.finish_load();  // part 0
  world.finish_loads();
  return {first.text().substr(0, 30), second.text()};
}
TEST_CASE("the error of a part is not told to who waits for another", "[whole_parts]") {
  constexpr std::uint64_t C = 4096;
  for (const auto at : {3 * C, 4 * C}) {
    CAPTURE(at / C);
    const auto a = error_of_another_part<ranges>(at), b = error_of_another_part<parts>(at);
    CHECK(b[1] == pattern(at, 1));
    CHECK(b[1] == a[1]);
  }
}

template <tarn::LoadUnit unit>
std::string nested() {
  constexpr std::uint64_t C = 4096, P = 3 * C;
  tarn::ChunkPool<Heap> pool{pool_options<Heap>(C, MiB)};
  AtOnce<Heap, unit> store;
  using Meta = tarn::MetadataFor<Heap>;
  auto meta = Meta::from_store(7, 2 * P, {.part_bytes = P});
  auto meta2 = Meta::from_store(8, P, {.part_bytes = P});
  for (std::uint64_t part = 0; part < 2; ++part) {
    const typename Heap::ContentId content{.bytes = {static_cast<std::byte>(part + 1)}};
    store.put_content(content, pattern(0, P, part));
    meta.set_content_id(part, content);
    if (part == 1) meta2.set_content_id(0, content);
  }
  std::string answer = "not asked";
  tarn::DirtyFile f{pool, std::move(meta), store}, g{pool, std::move(meta2), store};
  store.first = [&](const tarn::LoadRequest<Heap>& request) {
    if (*request.file != 7 || request.part != 0) return;
    std::string into(1, '?');
    const auto n = g.read(0, writable(into), {.deadline_ns = pool.deadline_in(std::chrono::milliseconds{300})});
    answer = n ? "ok" : n.error().message();
  };
  std::string into(2 * C, '?');
  CHECK(f.read(2 * C, writable(into)));
  return answer;
}
TEST_CASE("a store that needs another load of the window it serves is told so, and does not wait for itself",
          "[whole_parts]") {
  const auto deadlock = std::make_error_code(std::errc::resource_deadlock_would_occur).message();
  CHECK(nested<ranges>() == deadlock);
  CHECK(nested<parts>() == deadlock);
}

TEST_CASE("memory of the load's own goes when the load is over", "[whole_parts]") {
  constexpr std::uint64_t C = 4096, P = 4096 * C;
  tarn::ChunkPool<Heap> pool{pool_options<Heap>(C, 16 * C)};
  AtOnce<Heap, parts> store;
  store.put_pattern(7, P);
  auto meta = tarn::MetadataFor<Heap>::from_store(7, P, {.part_bytes = P});
  const auto used = [] {
    const auto info = mallinfo2();
    return info.uordblks + info.hblkhd;
  };
  const auto before = used();
  std::size_t during = 0;
  REQUIRE(tarn::read_range(pool, meta, 0, 1, store, [&](tarn::ConstBuffers) { during = used(); }));
  CHECK(during - before < P / 2);
  pool.drop(meta);
}

namespace {
struct OddUnit {
  static constexpr int load_unit = 1;
  tarn::Result<std::size_t> load(const tarn::LoadRequest<Heap>& request) { return request.range.size_bytes(); }
};
}  // namespace
TEST_CASE("a load_unit of another form is refused of a loader, too", "[whole_parts]") {
  CHECK(!tarn::ChunkLoader<OddUnit, Heap>);
}

template <tarn::LoadUnit unit>
std::string many_pins() {
  World<unit> world{{16, 4}, 64};
  REQUIRE(world.file->punch_hole(range(40, 44)));
  Reading<unit> reading{world, 0, 4};
  REQUIRE(world.store.open_loads() == 1);
  REQUIRE(world.file->write(40, bytes_of("abcd")));
  {
    std::vector<tarn::PinnedChunk<Heap>> pins;
    const auto meta = world.file->metadata();
    for (;;) {
      auto pin = world.pool.pin(meta, 2);
      if (!pin) break;
      pins.push_back(std::move(*pin));
    }
    world.finish_loads();
  }
  const auto text = reading.text();
  world.store.answer_at_once();
  REQUIRE(world.file->flush());
  return text;
}
TEST_CASE("a chunk that nobody asked for fails no read", "[whole_parts]") {
  const auto a = many_pins<ranges>(), b = many_pins<parts>();
  CHECK(a == pattern(0, 4));
  CHECK(b == pattern(0, 4));
}

/// A view of one byte of a part whose first chunk has holes all over, when no room is left for long extent lists.
template <tarn::LoadUnit unit>
std::string view_without_room_for_lists(std::uint64_t chunks_per_part, std::uint64_t at) {
  constexpr std::uint64_t C = 512;
  const auto P = chunks_per_part * C;
  tarn::ChunkPool<Heap> pool{pool_options<Heap>(C, 100 * C)};
  AtOnce<Heap, unit> store;
  store.put_pattern(7, P);
  auto meta = tarn::MetadataFor<Heap>::from_store(7, P, {.part_bytes = P});
  for (std::uint64_t i = 0; i < C; i += 4) REQUIRE(tarn::punch_hole(pool, meta, range(i, i + 1)));
  auto other = tarn::MetadataFor<Heap>::created(8, {.part_bytes = P});
  store.first = [&](const auto&) {
    std::uint64_t chunks = 0;
    while (tarn::write_range(pool, other, chunks * C, bytes_of(pattern(0, C)))) ++chunks;
    for (std::uint64_t chunk = 0; chunk < chunks; ++chunk) {  // the last bytes go to extent lists
      const auto hole = [&](std::uint64_t i) { return range(chunk * C + 4 * i + 1, chunk * C + 4 * i + 2); };
      for (std::uint64_t i = 0; i < C / 4 && tarn::punch_hole(pool, other, hole(i)); ++i) {
      }
    }
  };
  const auto got = tarn::read_range(pool, meta, at, 1, store, [](tarn::ConstBuffers) { return 1; });
  const auto loads = store.counts().loads;
  pool.drop(other);
  pool.drop(meta);
  return (got ? "ok" : got.error().message()) + ", loads " + std::to_string(loads);
}
TEST_CASE("extent lists of the rest of a part fail no view", "[whole_parts]") {
  CHECK(view_without_room_for_lists<ranges>(4, 3 * 512) == "ok, loads 1");
  CHECK(view_without_room_for_lists<parts>(4, 3 * 512) == "ok, loads 1");
}
TEST_CASE("extent lists of what nobody asked for in the chunk itself fail no view", "[whole_parts]") {
  CHECK(view_without_room_for_lists<ranges>(1, 101) == "ok, loads 1");
  CHECK(view_without_room_for_lists<parts>(1, 101) == "ok, loads 1");
}

TEST_CASE("a load ahead is not refused for chunks of a part that is in flight already", "[whole_parts]") {
  constexpr std::uint64_t C = 4096;
  for (std::uint64_t more = 40'000; more < 160'000; more += 4'000) {
    World<parts> world{{C, 3}, 6 * C, more};
    Reading<parts> first{world, 2 * C, C};
    REQUIRE(world.store.open_loads() == 1);
    const auto n = world.file->load_ahead(range(3 * C, 4 * C));
    world.finish_loads();
    World<parts> again{{C, 3}, 6 * C, more};
    Reading<parts> first2{again, 2 * C, C};
    const auto straddling = again.file->load_ahead(range(2 * C, 4 * C));
    again.finish_loads();
    CHECK(n == straddling);
  }
}

template <tarn::LoadUnit unit>
std::string content_error(std::uint64_t chunk) {
  constexpr std::uint64_t C = 4096, P = 4 * C;
  World<unit> world{{C, 4}, P};
  const typename Heap::ContentId content{.bytes = {std::byte{1}}};
  world.store.memory.put_content(content, pattern(0, P, 5));
  auto meta = tarn::MetadataFor<Heap>::from_store(world.id, P, {.part_bytes = P});
  meta.set_content_id(0, content);
  world.file.reset();
  world.file.emplace(world.pool, std::move(meta), world.store);
  Reading<unit> reading{world, 0, 1};
  REQUIRE(world.store.open_loads() == 1);
  std::string answer = "ok";
  std::thread other{[&] {
    const auto pin = world.pool.get_or_load(content, chunk, C, world.store);
    if (!pin) answer = pin.error().message();
  }};
  while (world.pool.stats().load_waits == 0 && world.store.open_loads() == 1) std::this_thread::yield();
  const bool waits = world.store.open_loads() == 1;
  world.store.answer_at_once();
  auto token = world.store.take_load();
  token.complete(tarn::fail(static_cast<std::errc>(ESTALE)));
  if (!waits) world.finish_loads();
  other.join();
  world.finish_loads();
  return answer;
}
TEST_CASE("content asked for alone is not told of a file's version", "[whole_parts]") {
  for (std::uint64_t chunk : {0u, 2u}) {
    const auto a = content_error<ranges>(chunk), b = content_error<parts>(chunk);
    CHECK(a == "ok");
    CHECK(b == "ok");
  }
}

TEST_CASE("an error of content is told to all who have asked for it alone, and waited for one load", "[whole_parts]") {
  World<ranges> world{{4096, 4}};
  const typename Heap::ContentId content{.bytes = {std::byte{1}}};
  const auto ask = [&] { return world.pool.get_or_load(content, 0, 4096, world.store).error(); };
  auto first = std::async(std::launch::async, ask), second = std::async(std::launch::async, ask);
  const bool waits = wait_until([&] { return world.pool.stats().load_waits != 0; });
  CHECK(waits);
  CHECK(world.store.open_loads() == 1);
  auto load = world.store.take_load();
  world.store.answer_at_once();
  load.complete(tarn::fail(std::errc::io_error));
  CHECK(first.get() == std::errc::io_error);
  CHECK(second.get() == std::errc::io_error);
}

template <tarn::LoadUnit unit>
std::pair<std::string, std::string> overtaken_by_a_cut() {
  World<unit> world{{16, 4}, 64};
  world.store.memory.let_flushes_overtake_loads();
  std::optional<tarn::detail::RoomQueue::Wait> waiter{world.pool.core().room_queue};
  Reading<unit> held{world, 48, 16};  // that chunk alone, since somebody waits for room
  {
    const tarn::detail::Resumer resumer;
    waiter.reset();
  }
  world.finish_loads();
  REQUIRE(world.read_held(48, 16) == pattern(48, 16));
  Reading<unit> first{world, 0, 4}, second{world, 8, 4};
  REQUIRE(world.file->truncate(48));
  tarn::start_flush(*world.file, [](const auto&) {});
  REQUIRE(world.store.open_flushes() == 1);
  world.store.finish_flush();
  world.finish_loads();
  return {first.text(), second.text()};
}
TEST_CASE("a cut that overtakes a load is no error to who reads below it", "[whole_parts]") {
  const auto a = overtaken_by_a_cut<ranges>(), b = overtaken_by_a_cut<parts>();
  CHECK(a.first == pattern(0, 4));
  CHECK(b.first == pattern(0, 4));
  CHECK(b.second == pattern(8, 4));
}

/// How many loads fail before a reader hears of it, if `meanwhile(file, n)` comes during the nth one.
template <tarn::LoadUnit unit, class Meanwhile>
std::size_t failures_till_told(World<unit>& world, Meanwhile meanwhile) {
  Reading<unit> reading{world, 0, 4};
  std::size_t failed = 0;
  while (!reading.result && failed < 8) {
    REQUIRE(world.store.open_loads() == 1);
    meanwhile(*world.file, failed);
    world.store.take_load().complete(tarn::fail(std::errc::io_error));
    ++failed;
  }
  CHECK(reading.text() == "error: " + std::make_error_code(std::errc::io_error).message());
  world.store.answer_at_once();
  world.finish_loads();
  REQUIRE(world.file->flush());
  return failed;
}
template <tarn::LoadUnit unit>
std::size_t failures_beside_a_writer() {
  World<unit> world{{16, 4}, 64};
  return failures_till_told(world, [](auto& file, std::size_t n) { REQUIRE(file.write(15 - n, bytes_of("x"))); });
}
template <tarn::LoadUnit unit>
std::size_t failures_beside_a_hole() {
  World<unit> world{{16, 4}, 64};
  const auto punch = [](auto& file, std::size_t) { REQUIRE(file.punch_hole(range(40, 44))); };
  punch(*world.file, 0);
  return failures_till_told(world, punch);
}
TEST_CASE("a writer of what nobody asked for hides no error of the store", "[whole_parts]") {
  CHECK(failures_beside_a_writer<ranges>() == 1);
  CHECK(failures_beside_a_writer<parts>() == 1);
}
TEST_CASE("a hole that is cut again hides no error of the store", "[whole_parts]") {
  CHECK(failures_beside_a_hole<ranges>() == 1);
  CHECK(failures_beside_a_hole<parts>() == 1);
}

template <tarn::LoadUnit unit>
std::string content_replaced(bool content, bool flush) {
  constexpr std::uint64_t C = 16, P = 64;
  World<unit> world{{C, 4}, P};
  const typename Heap::ContentId id{.bytes = {std::byte{1}}};
  world.store.memory.put_content(id, pattern(0, P));
  if (content) {
    auto meta = tarn::MetadataFor<Heap>::from_store(world.id, P, {.part_bytes = P});
    meta.set_content_id(0, id);
    world.file.reset();
    world.file.emplace(world.pool, std::move(meta), world.store);
  }
  Reading<unit> reading{world, 0, 4};
  REQUIRE(world.store.open_loads() == 1);
  REQUIRE(world.file->write(0, bytes_of(std::string(64, 'n'))));
  if (flush) {
    tarn::start_flush(*world.file, [](const auto&) {});
    REQUIRE(world.store.open_flushes() == 1);
    world.store.finish_flush();
  }
  auto token = world.store.take_load();
  token.complete(tarn::fail(std::errc::no_such_file_or_directory));
  const auto text = reading.text();
  world.store.answer_at_once();
  world.finish_loads();
  REQUIRE(world.file->flush());
  return text;
}
TEST_CASE("content that a file is of no more may be gone from the store while it is loaded", "[whole_parts]") {
  const bool by_content = GENERATE(false, true), flush = GENERATE(false, true);
  CHECK(content_replaced<ranges>(by_content, flush) == "nnnn");
  CHECK(content_replaced<parts>(by_content, flush) == "nnnn");
}

TEST_CASE("the error of a load is not told to who waits for bytes of it that were written meanwhile", "[whole_parts]") {
  World<parts> world{{16, 4}, 64};
  Reading<parts> first{world, 0, 4}, second{world, 32, 4};
  REQUIRE(world.store.open_loads() == 1);  // the rest of the part comes along
  REQUIRE(world.file->write(32, bytes_of("new!")));
  world.store.take_load().complete(tarn::fail(std::errc::io_error));
  CHECK(first.text() == "error: " + std::make_error_code(std::errc::io_error).message());
  CHECK(second.text() == "new!");
  world.store.answer_at_once();
  REQUIRE(world.file->flush());
}

TEST_CASE("bytes that nobody asked for are left where they are while their chunk is used", "[whole_parts]") {
  World<parts> world{{16, 4}, 64};
  Reading<parts> reading{world, 0, 4};
  REQUIRE(world.store.open_loads() == 1);
  REQUIRE(world.file->write(32, bytes_of("new!")));
  Gate viewing;
  viewing.close();
  bool went_on = false;  // before the gate's deadline
  Worker viewer{viewing, [&] {
                  const auto look = [&](tarn::ConstBuffers) { went_on = viewing.pass(); };
                  return world.file->view(32, 4, look);
                }};
  REQUIRE(viewing.wait_for_arrivals());
  world.finish_loads();
  viewing.open();
  viewer.join();
  CHECK(went_on);
  CHECK(reading.text() == pattern(0, 4));
  CHECK(world.read_held(16, 16) == pattern(16, 16));
  CHECK(world.read_held(32, 4) == "new!");
  CHECK(world.read_held(36, 4) == "not held");
  world.store.answer_at_once();
  REQUIRE(world.file->flush());
}
