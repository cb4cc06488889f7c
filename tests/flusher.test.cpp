// SPDX-License-Identifier: MIT
#include <tarn/flusher.hpp>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <system_error>
#include <utility>

#include <tarn/dirty_file.hpp>
#include <tarn/testing/gate.hpp>
#include <tarn/testing/later_store.hpp>
#include <tarn/testing/manual_time.hpp>
#include <tarn/testing/memory_store.hpp>

#include "support/catch.hpp"
#include "support/one_file.hpp"

using namespace tarn_test;

namespace {

constexpr std::uint64_t C = 4096;
constexpr std::int64_t second_ns = 1'000'000'000;

/// Counts how often somebody has slept.
struct CountedTime : ManualTime {
  static inline std::atomic<std::uint64_t> sleeps{0};
  [[nodiscard]] bool wait_until(tarn::detail::ConditionVariable& changed, std::unique_lock<tarn::detail::Mutex>& lock,
                                std::int64_t ns) const {
    ++sleeps;
    return ManualTime::wait_until(changed, lock, ns);
  }
};
/// Whether the flusher's round is over, if it was in one.
bool sleeps_again() {
  return wait_until([before = CountedTime::sleeps.load()] { return CountedTime::sleeps > before; });
}

struct Timed : tarn::DefaultTraits {
  using Storage = tarn::HeapStorage;
  using TimeSource = CountedTime;
};

struct World {
  explicit World(tarn::PoolOptions marks = {}) : pool{options(marks)} {}
  static tarn::PoolOptions options(tarn::PoolOptions marks) {
    marks.chunk_bytes = C;
    marks.budget_bytes = 16 * MiB;
    return marks;
  }

  tarn::ChunkPool<Timed> pool;
  MemoryStore<Timed> store;
  tarn::DirtyFile<Timed, MemoryStore<Timed>> file{pool, tarn::MetadataFor<Timed>::created(7), store};
  ~World() { CHECK(file.flush()); }
};

}  // namespace

TEST_CASE("what has been dirty too long is flushed, and nothing younger", "[flusher]") {
  World world;
  tarn::Flusher flusher{world.pool, {.interval_ns = second_ns, .dirty_ns_max = 5 * second_ns}};
  REQUIRE(world.file.write(0, bytes_of("old")));
  ManualTime::advance_ns(4 * second_ns);
  flusher.wake();
  CHECK(world.store.counts().flushes == 0);
  ManualTime::advance_ns(2 * second_ns);
  flusher.wake();
  CHECK(wait_until([&] { return !world.file.is_dirty(); }));
  CHECK(world.store.text(7) == "old");
  REQUIRE(world.file.truncate(2));  // a size is a change, too
  ManualTime::advance_ns(6 * second_ns);
  CHECK(wait_until([&] { return !world.file.is_dirty(); }));
  CHECK(world.store.text(7) == "ol");
}

TEST_CASE("a flusher that was woken sleeps again after its round", "[flusher]") {
  World world;
  tarn::Flusher flusher{world.pool, {.interval_ns = second_ns}};
  for (int round = 0; round < 3; ++round) {
    CHECK(sleeps_again());
    flusher.wake();
  }
}

TEST_CASE("what was changed at a moment is older than the next one, and not than that", "[flusher]") {
  World world;
  ManualTime::advance_ns(second_ns);
  auto& core = world.pool.core();
  const auto now_ns = core.time.now_ns();
  REQUIRE(world.file.write(0, bytes_of("x")));
  const auto flush_older_than = [&](std::int64_t ns) {
    return core.pressure.flush_one([&](tarn::detail::Flushable& member) { return member.flush_older_than(ns); });
  };
  CHECK(flush_older_than(now_ns) == tarn::detail::Flushed::nothing);
  CHECK(world.file.is_dirty());
  CHECK(flush_older_than(now_ns + 1) == tarn::detail::Flushed::some);
  CHECK_FALSE(world.file.is_dirty());
}

TEST_CASE("dirty chunks over the background mark are flushed until they are below it", "[flusher]") {
  World world{{.dirty_background_bytes = 4 * C}};
  tarn::Flusher flusher{world.pool, {.interval_ns = second_ns, .dirty_ns_max = 0}};
  REQUIRE(world.file.write(0, bytes_of(std::string(3 * C, 'x'))));
  flusher.wake();
  CHECK(world.store.counts().flushes == 0);
  REQUIRE(world.file.write(3 * C, bytes_of(std::string(5 * C, 'x'))));
  flusher.wake();
  CHECK(wait_until([&] { return world.pool.stats().chunks_dirty < 4; }));
  CHECK(world.file.is_dirty());
}

TEST_CASE("a flusher pauses longer after each failure, while an fsync asks at once", "[flusher]") {
  World world;
  world.store.fail_next(MemoryStore<Timed>::Call::flush, 3, std::errc::no_space_on_device);
  REQUIRE(world.file.write(0, bytes_of("x")));
  ManualTime::advance_ns(second_ns);
  tarn::Flusher flusher{world.pool,
                        {.interval_ns = second_ns / 100, .dirty_ns_max = 1, .first_pause_ns = 10 * second_ns}};
  REQUIRE(wait_until([&] { return world.store.counts().flushes == 1; }));
  REQUIRE(sleeps_again());  // its pause has begun
  ManualTime::advance_ns(9 * second_ns);
  CHECK(world.file.sync().error() == std::errc::no_space_on_device);
  CHECK(world.store.counts().flushes == 2);
  ManualTime::advance_ns(2 * second_ns);
  REQUIRE(wait_until([&] { return world.store.counts().flushes == 3; }));
  REQUIRE(sleeps_again());
  // The next pause is twice as long. Two sleeps: the first may have begun before.
  ManualTime::advance_ns(19 * second_ns);
  for (int i = 0; i < 2; ++i) REQUIRE(sleeps_again());
  CHECK(world.store.counts().flushes == 3);
  ManualTime::advance_ns(2 * second_ns);
  CHECK(wait_until([&] { return !world.file.is_dirty(); }));
  CHECK(world.store.text(7) == "x");
}

TEST_CASE("a flusher that ends while a store stores begins no flush after that one", "[flusher]") {
  World world{{.dirty_background_bytes = C}};
  REQUIRE(world.file.write(0, bytes_of(std::string(4 * C, 'x'))));
  world.store.flush_gate.close();
  std::optional<tarn::Flusher<Timed>> flusher{std::in_place, world.pool,
                                              tarn::FlusherOptions{.interval_ns = second_ns, .dirty_ns_max = 0}};
  REQUIRE(world.store.flush_gate.wait_for_arrivals());
  BlockedThread ender;
  {
    Worker ends{world.store.flush_gate, [&] {
                  ender.here();
                  flusher.reset();
                }};
    CHECK(ender.wait_until_blocked());  // it has asked the thread to stop, and waits for it
    world.store.flush_gate.open();
  }
  CHECK(world.store.counts().flushes == 1);
  CHECK(world.pool.stats().chunks_dirty >= 1);
}

TEST_CASE("a flusher of a store that answers later asks for what is over the mark, and holds nobody up", "[flusher]") {
  tarn::ChunkPool<Heap> pool{World::options({.dirty_background_bytes = 2 * C})};
  LaterStore<Heap> store;
  tarn::DirtyFile file{pool, tarn::DirtyFileMetadata::created(7), store};
  REQUIRE(file.write(0, bytes_of(std::string(4 * C, 'x'))));
  {
    tarn::Flusher flusher{pool, {.interval_ns = 1'000'000, .dirty_ns_max = 0}};
    while (pool.stats().chunks_dirty >= 2) {
      REQUIRE(wait_until([&] { return store.open_flushes() != 0; }));
      CHECK(store.open_flushes() == 1);
      store.finish_flush();
    }
  }
  store.answer_at_once();
  while (store.open_flushes() != 0) store.finish_flush();
  REQUIRE(file.flush());
  CHECK(store.memory.complaints() == "");
  CHECK(store.memory.text(7) == std::string(4 * C, 'x'));
}

namespace {

/// A file of a store that answers later, over the mark, and who flushes it with no thread.
struct Rounds {
  explicit Rounds(std::size_t chunks) { REQUIRE(file.write(0, bytes_of(std::string(chunks * C, 'x')))); }
  ~Rounds() {
    store.answer_at_once();
    while (store.open_flushes() != 0) store.finish_flush();
    CHECK(file.flush());
  }
  /// Returns: how long till the next round.
  std::int64_t round() { return rounds.round() - ManualTime{}.now_ns(); }

  tarn::ChunkPool<Timed> pool{World::options({.dirty_background_bytes = 2 * C})};
  LaterStore<Timed> store;
  tarn::DirtyFile<Timed, LaterStore<Timed>> file{pool, tarn::MetadataFor<Timed>::created(7), store};
  tarn::FlushRounds<Timed> rounds{pool,
                                  {.interval_ns = second_ns, .dirty_ns_max = 0, .first_pause_ns = second_ns / 10}};
};

}  // namespace

TEST_CASE("rounds go on soon after a store that answers later has answered, part after part", "[flusher]") {
  Rounds world{64};
  std::int64_t passed_ns = 0;
  while (world.pool.stats().chunks_dirty >= 2) {
    const auto wait_ns = world.round();
    REQUIRE(wait_ns > 0);
    REQUIRE(wait_ns <= second_ns / 500);
    REQUIRE(world.store.open_flushes() == 1);
    world.store.finish_flush();
    ManualTime::advance_ns(wait_ns);
    passed_ns += wait_ns;
  }
  CHECK(passed_ns < second_ns / 5);
  CHECK(world.round() == second_ns);  // below the mark, and nothing in flight
  CHECK(world.store.open_flushes() == 0);
}

TEST_CASE("while a store hangs, rounds look less and less often, at the interval at last", "[flusher]") {
  Rounds world{4};
  std::int64_t last_ns = 0;
  for (int i = 0; i < 20; ++i) {
    const auto wait_ns = world.round();
    CHECK(wait_ns >= last_ns);
    CHECK(wait_ns <= second_ns);
    ManualTime::advance_ns(last_ns = wait_ns);
  }
  CHECK(last_ns == second_ns);
  CHECK(world.store.open_flushes() == 1);
}

TEST_CASE("rounds pause after each failure that a store answers later, whoever comes early", "[flusher]") {
  Rounds world{4};
  auto pause_ns = second_ns / 10;
  ManualTime::advance_ns(world.round());
  for (int i = 0; i < 6; ++i) {
    CAPTURE(i);
    REQUIRE(world.store.open_flushes() == 1);
    world.store.take_flush().complete(
        tarn::FlushOutcome<Timed>::failed(std::make_error_code(std::errc::no_space_on_device)));
    CHECK(world.round() == pause_ns);
    ManualTime::advance_ns(pause_ns - 1);
    CHECK(world.round() == 1);
    CHECK(world.store.open_flushes() == 0);
    ManualTime::advance_ns(1);
    CHECK(world.round() > 0);
    pause_ns = std::min(2 * pause_ns, 30 * second_ns);
  }
  world.store.finish_flush();
  CHECK(world.round() < second_ns / 100);  // no pause any more
}
