// SPDX-License-Identifier: MIT
#include <tarn/pool_stats.hpp>

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include <tarn/dirty_file_async.hpp>
#include <tarn/testing/gate.hpp>
#include <tarn/testing/later_store.hpp>
#include <tarn/testing/manual_time.hpp>

#include "support/catch.hpp"
#include "support/one_file.hpp"

using namespace tarn_test;

namespace {

constexpr std::uint64_t C = 4096;

struct Timed : Heap {
  using TimeSource = ManualTime;
};

using Store = LaterStore<Timed>;

/// A store with a sync, to make durable what is stored.
struct SyncedStore : MemoryStore<Timed> {
  bool sync_fails = false;
  tarn::FlushOutcome<Timed> flush(const tarn::FlushRequest<Timed>& request) {
    const auto outcome = MemoryStore<Timed>::flush(request);
    return outcome.ok() ? tarn::FlushOutcome<Timed>::stored() : outcome;
  }
  tarn::Result<> sync(const tarn::SyncRequest<Timed>&) {
    if (sync_fails) return tarn::fail(std::errc::io_error);
    return {};
  }
};

/// A pool, a store that answers at once until told otherwise, and a file of `stored_chunks` chunks of the pattern, each
/// a part of its own.
struct World {
  explicit World(std::uint64_t stored_chunks, std::uint64_t more_bytes = 16 * MiB, const tarn::PoolOptions& marks = {})
      : pool{options(more_bytes, marks)} {
    store.answer_at_once();
    store.memory.put_pattern(7, stored_chunks * C);
    file.emplace(pool, tarn::DirtyFileMetadata::from_store(7, stored_chunks * C, {.part_bytes = C}), store);
  }
  ~World() {
    store.answer_at_once();
    if (file) CHECK(file->flush());
    CHECK(store.memory.complaints() == "");
    file.reset();
    pool.evict_clean();
    check_empty(pool.stats());
  }
  static tarn::PoolOptions options(std::uint64_t more_bytes, tarn::PoolOptions marks) {
    const auto made = pool_options<Timed>(C, more_bytes, 4);
    marks.budget_bytes = made.budget_bytes;
    marks.chunk_bytes = made.chunk_bytes;
    marks.window_bytes = made.window_bytes;
    return marks;
  }
  [[nodiscard]] tarn::PoolStats stats() const { return pool.stats(); }
  void write(std::uint64_t offset, std::string_view text) { REQUIRE(file->write(offset, bytes_of(text))); }
  void read(std::uint64_t offset, std::size_t size_bytes) {
    std::string into(size_bytes, '?');
    REQUIRE(file->read(offset, writable(into)));
    CHECK(into == pattern(offset, into.size()));
  }

  tarn::ChunkPool<Timed> pool;
  Store store;
  std::optional<tarn::DirtyFile<Timed, Store>> file;
};

const auto ignore = [](const auto&) {};

}  // namespace

TEST_CASE("every value is shown once, in the order of the struct, with a name of its own", "[pool_stats]") {
  std::array<std::uint64_t, sizeof(tarn::PoolStats) / sizeof(std::uint64_t)> numbers{};
  for (std::size_t i = 0; i < numbers.size(); ++i) numbers[i] = i + 1;
  const auto stats = std::bit_cast<tarn::PoolStats>(numbers);
  std::vector<std::uint64_t> seen;
  std::set<std::string> names;
  tarn::for_each_value(stats, [&](std::string_view name, std::uint64_t value) {
    seen.push_back(value);
    names.emplace(name);
    if (name == "dirty_bytes") CHECK(value == stats.dirty_bytes);
    if (name == "latch_waits") CHECK(value == stats.latch_waits);
  });
  CHECK(std::equal(seen.begin(), seen.end(), numbers.begin(), numbers.end()));
  CHECK(names.size() == numbers.size());
}

TEST_CASE("the values of what is held add up", "[pool_stats]") {
  World world{4};
  world.read(0, 2 * C);
  CHECK(world.stats().clean_bytes == 2 * C);
  CHECK(world.stats().dirty_bytes == 0);
  world.write(10, "abc");
  CHECK(world.stats().clean_bytes == 2 * C - 3);
  CHECK(world.stats().dirty_bytes == 3);
  world.write(3 * C, "de");  // bytes that were not held
  CHECK(world.stats().clean_bytes == 2 * C - 3);
  CHECK(world.stats().dirty_bytes == 5);
  CHECK(world.stats().chunks_held == 3);
  REQUIRE(world.file->punch_hole(range(0, 11)));
  CHECK(world.stats().clean_bytes == 2 * C - 3 - 10);
  CHECK(world.stats().dirty_bytes == 4);
  REQUIRE(world.file->invalidate(1));  // lets go of what is clean, and keeps the dirty bytes beside it
  CHECK(world.stats().clean_bytes == 0);
  CHECK(world.stats().dirty_bytes == 4);
  REQUIRE(world.file->flush());
  CHECK(world.stats().clean_bytes == 4);
  world.pool.evict_clean();
  CHECK(world.stats().clean_bytes == 0);
}

TEST_CASE("bytes that are copied and bytes that are shown are counted apart, and those past the end not at all",
          "[pool_stats]") {
  World world{2};
  world.read(0, C);
  CHECK(world.stats().copy_bytes == C);
  std::string into(20, '?');
  REQUIRE(world.file->try_read(C - 20, writable(into)).done());
  CHECK(world.stats().copy_bytes == C + 20);
  CHECK(world.file->read(2 * C - 1, writable(into)).value() == 1);
  CHECK(world.stats().copy_bytes == C + 21);
  CHECK(world.stats().view_bytes == 0);
  REQUIRE(world.file->view(0, C + 5, [](tarn::ConstBuffers) {}));
  CHECK(world.stats().view_bytes == C + 5);
  const auto pin = world.pool.pin(world.file->metadata(), 0);
  REQUIRE(pin);
  CHECK(world.stats().pins == 1);
  REQUIRE(pin->with_data(range(0, 7), [](auto) {}));
  CHECK(world.stats().view_bytes == C + 12);
  CHECK(pin->clone(range(0, 7))->size() == 7);
  CHECK(world.stats().view_bytes == C + 12);
  CHECK(world.stats().copy_bytes == C + 28);
}

TEST_CASE("of two reads that miss the same bytes one is a load, and the other one that waited", "[pool_stats]") {
  World world{1};
  world.store.answer_at_once(false);
  std::string one(C, '?'), two(C, '?');
  tarn::start_read(*world.file, 0, writable(one), ignore);
  tarn::start_read(*world.file, 0, writable(two), ignore);
  CHECK(world.stats().loads == 1);
  CHECK(world.stats().load_waits == 1);
  CHECK(world.stats().chunks_reserved == 1);
  world.store.finish_load();
  CHECK(one == pattern(0, C));
  CHECK(two == one);
  CHECK(world.stats().loads == 1);
  CHECK(world.stats().load_bytes == C);
  CHECK(world.stats().load_redundant_bytes == 0);
  CHECK(world.stats().chunks_reserved == 0);
  CHECK(world.stats().clean_bytes == C);
}

TEST_CASE("bytes are loaded for nothing if they are changed meanwhile, or a load beside theirs fails", "[pool_stats]") {
  World world{2};
  world.store.answer_at_once(false);
  std::string into(2 * C, '?');
  tarn::start_read(*world.file, 0, writable(into), ignore);
  REQUIRE(world.store.open_loads() == 2);
  SECTION("written") {
    world.write(5, "abc");
    world.store.finish_load();
    world.store.finish_load();
    CHECK(world.stats().load_redundant_bytes == 3);
    CHECK(into.substr(4, 5) == pattern(4, 1) + "abc" + pattern(8, 1));
  }
  SECTION("cut off") {
    REQUIRE(world.file->truncate(C + 1));
    world.store.finish_load();
    world.store.finish_load();
    CHECK(world.stats().load_redundant_bytes == C - 1);
  }
  SECTION("half failed") {
    world.store.finish_load();
    world.store.take_load().complete(tarn::fail(std::errc::io_error));
    CHECK(world.stats().load_redundant_bytes == C);
    CHECK(world.stats().load_bytes == C);
  }
}

TEST_CASE("what a flush has is lent until it is changed, and written bytes are dirtied again", "[pool_stats]") {
  World world{0};
  world.write(0, pattern(0, 100));
  world.store.answer_at_once(false);
  tarn::start_flush(*world.file, ignore);
  CHECK(world.stats().lent_bytes == 100);
  world.write(95, "0123456789");
  CHECK(world.stats().lent_bytes == 95);
  CHECK(world.stats().flush_redirtied_bytes == 5);
  CHECK(world.stats().swaps == 1);
  REQUIRE(world.file->truncate(90));  // changed, and not written
  CHECK(world.stats().lent_bytes == 90);
  CHECK(world.stats().flush_redirtied_bytes == 5);
  world.store.finish_flush();
  CHECK(world.stats().lent_bytes == 0);
  CHECK(world.stats().dirty_bytes == 0);
}

TEST_CASE("a file that goes takes what is lent of it along", "[pool_stats]") {
  World world{0};
  world.write(0, pattern(0, 100));
  world.store.answer_at_once(false);
  REQUIRE(world.file->flush({.deadline_ns = 0}).error() == std::errc::timed_out);  // and stays in flight
  world.file.reset();
  CHECK(world.stats().lent_bytes == 0);
  CHECK(world.stats().files_dirty == 0);
  world.store.finish_flush();
}

TEST_CASE("a flush after one that failed is a retry, and the next one is not", "[pool_stats]") {
  World world{0};
  world.write(0, "a");
  world.store.memory.fail_next(MemoryStore<Timed>::Call::flush, 2, std::errc::io_error);
  CHECK_FALSE(world.file->flush());
  CHECK(world.stats().flush_retries == 0);
  CHECK_FALSE(world.file->flush());
  CHECK(world.stats().flush_retries == 1);
  CHECK(world.file->flush());
  CHECK(world.stats().flush_retries == 2);
  CHECK(world.stats().flush_failures == 2);
  CHECK(world.stats().flushes == 3);
  world.write(0, "b");
  CHECK(world.file->flush());
  CHECK(world.stats().flush_retries == 2);
}

TEST_CASE("syncs and those that fail are counted, and what one failed for is a change that the store lacks",
          "[pool_stats]") {
  World world{0};
  SyncedStore store;
  tarn::DirtyFile file{world.pool, tarn::DirtyFileMetadata::created(8), store};
  REQUIRE(file.write(0, bytes_of("a")));
  store.sync_fails = true;
  CHECK_FALSE(file.sync());
  CHECK(world.stats().syncs == 1);
  CHECK(world.stats().sync_failures == 1);
  CHECK(world.stats().dirty_bytes == 1);
  CHECK(world.stats().files_dirty == 1);
  store.sync_fails = false;
  CHECK(file.sync());
  CHECK(world.stats().syncs == 2);
  CHECK(world.stats().sync_failures == 1);
  CHECK(world.stats().files_dirty == 0);
}

TEST_CASE("the oldest change is that of the file that has lacked one in the store the longest", "[pool_stats]") {
  World world{0};
  tarn::DirtyFile<Timed, Store> other{world.pool, tarn::DirtyFileMetadata::created(8), world.store};
  CHECK(world.stats().files_dirty == 0);
  CHECK(world.stats().oldest_change_ns == 0);
  world.write(0, "a");
  ManualTime::advance_ns(5);
  REQUIRE(other.write(0, bytes_of("b")));
  ManualTime::advance_ns(2);
  world.write(1, "c");
  CHECK(world.stats().files_dirty == 2);
  CHECK(world.stats().oldest_change_ns == 7);
  REQUIRE(world.file->flush());
  CHECK(world.stats().files_dirty == 1);
  CHECK(world.stats().oldest_change_ns == 2);
  SECTION("a flush") { REQUIRE(other.flush()); }
  SECTION("giving it up") { REQUIRE(other.discard_dirty(0, 1)); }
  SECTION("the end of the file, even if it is read and written on") {
    const auto opener = other.open();
    REQUIRE(other.remove());
    CHECK(world.stats().files_dirty == 0);
    REQUIRE(other.write(0, bytes_of("d")));
    CHECK(world.stats().files_dirty == 0);
  }
  CHECK(world.stats().files_dirty == 0);
  CHECK(world.stats().oldest_change_ns == 0);
}

TEST_CASE("a chunk that is looked at and kept is a probe, and no eviction", "[pool_stats]") {
  World world{3};
  world.read(0, 3 * C);
  CHECK(world.pool.evict_clean() == 3);
  CHECK(world.stats().evictions == 3);
  CHECK(world.stats().eviction_probes == 3);
  world.read(0, C);
  const auto pin = world.pool.pin(world.file->metadata(), 0);
  REQUIRE(pin);
  CHECK(world.pool.evict_clean() == 0);
  CHECK(world.stats().evictions == 3);
  CHECK(world.stats().eviction_probes > 3);
}

TEST_CASE("a write past the throttle mark is throttled, and one below it is not", "[pool_stats]") {
  World world{0, 16 * MiB, {.dirty_throttle_bytes = C}};
  world.write(0, "a");
  CHECK(world.stats().throttled == 0);
  world.write(C, "b");
  CHECK(world.stats().throttled == 1);
  CHECK(world.stats().flushes == 1);
}

TEST_CASE("a call that waits for room is counted and throttled once, however often it looks", "[pool_stats]") {
  World world{0, 4 * C, {.dirty_throttle_bytes = C}};
  const std::string chunk(C, 'x');
  std::uint64_t at = 0;
  while (world.file->try_write(at, bytes_of(chunk))) at += C;
  CHECK(world.stats().room_waits == 0);
  CHECK(world.stats().throttled == 0);  // none of those that would not wait
  CHECK(world.stats().refusals > 0);
  world.store.answer_at_once(false);
  bool done = false;
  tarn::start_write(*world.file, at, bytes_of(chunk), [&](const auto& written) { done = written.has_value(); });
  CHECK(world.stats().room_waits == 1);
  while (!done) {
    REQUIRE(world.store.open_flushes() != 0);
    world.store.finish_flush();
  }
  CHECK(world.stats().room_waits == 1);
  CHECK(world.stats().throttled == 1);
}

TEST_CASE("a latch that was not to be had at once is waited for, and counted once", "[pool_stats]") {
  World world{1};
  world.read(0, C);
  Gate gate;
  gate.close();
  BlockedThread writer_sleeps;
  {
    Worker reader{gate, [&] { (void)world.file->view(0, 1, [&](tarn::ConstBuffers) { gate.pass(); }).has_value(); }};
    REQUIRE(gate.wait_for_arrivals());
    Worker writer{[&] {
      writer_sleeps.here();
      (void)world.file->write(0, bytes_of("a")).has_value();
    }};
    CHECK(writer_sleeps.wait_until_blocked());
    gate.open();
  }
  CHECK(world.stats().latch_waits == 1);
}
