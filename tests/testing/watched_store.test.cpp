// SPDX-License-Identifier: MIT
#include <tarn/testing/watched_store.hpp>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>
#include <system_error>
#include <utility>

#include <tarn/dirty_file_async.hpp>
#include <tarn/testing/gate.hpp>
#include <tarn/testing/later_store.hpp>
#include <tarn/testing/memory_store.hpp>

#include "support/catch.hpp"
#include "support/one_file.hpp"

using tarn::Result;
using tarn::testing::bytes_of;
using tarn::testing::LaterStore;
using tarn::testing::MemoryStore;
using tarn::testing::pattern;
using tarn::testing::StoreWatch;
using tarn::testing::WatchedStore;
using tarn::testing::Worker;
using tarn::testing::writable;
using tarn_test::Heap;
using tarn_test::pool_options;

namespace {

struct Watch : StoreWatch<Heap> {
  std::string told;

  void on_load(const tarn::LoadRequest<Heap>& request) noexcept {
    told += "load " + std::to_string(request.range.size_bytes());
  }
  void on_load_done(const tarn::LoadRequest<Heap>&, const Result<std::size_t>& answer) noexcept {
    told += answer ? ", " + std::to_string(*answer) + "\n" : ", error\n";
  }
  void on_flush_done(const tarn::FlushRequest<Heap>& request, const tarn::FlushOutcome<Heap>& outcome) noexcept {
    told += "flush of size " + std::to_string(request.size_bytes) + (outcome.ok() ? "\n" : ", error\n");
  }
  void on_sync_done(const tarn::SyncRequest<Heap>&, const Result<>& answer) noexcept {
    told += answer ? "sync\n" : "sync, error\n";
  }
  void on_remove_done(const std::uint64_t& id, const Result<>& answer) noexcept {
    told += "remove " + std::to_string(id) + (answer ? "\n" : ", error\n");
  }
};

// What a store may have beside its three calls, each of its own kind.
struct Everything {
  static constexpr auto load_unit = tarn::LoadUnit::parts;
  static constexpr auto flush_unit = tarn::FlushUnit::parts;
  std::size_t reserves = 0;

  void load(const tarn::LoadRequest<Heap>&, tarn::LoadToken<Heap>) {
    throw std::system_error{ENXIO, std::generic_category()};
  }
  tarn::FlushOutcome<Heap> flush(const tarn::FlushRequest<Heap>&) { return tarn::FlushOutcome<Heap>::stored(); }
  void sync(const tarn::SyncRequest<Heap>&, tarn::SyncToken<Heap> token) { token.complete(Result<>{}); }
  Result<> reserve(const tarn::ReserveRequest<Heap>&) {
    ++reserves;
    return {};
  }
  [[nodiscard]] std::size_t flushes_at_once() const noexcept { return 3; }
  Result<> remove(std::uint64_t) { return tarn::fail(std::errc::permission_denied); }
};

template <class Store>
using Watched = WatchedStore<Heap, Store, Watch>;

static_assert(tarn::ChunkStore<Watched<MemoryStore<Heap>>, Heap>);
static_assert(!tarn::detail::Syncs<Watched<MemoryStore<Heap>>, Heap>);
static_assert(!tarn::detail::Reserves<Watched<MemoryStore<Heap>>, Heap>);
static_assert(!tarn::detail::FlushesAtOnce<Watched<MemoryStore<Heap>>, Heap>);
static_assert(!tarn::detail::HasLoadUnit<Watched<MemoryStore<Heap>>>);
static_assert(!tarn::detail::AnswersLoadLater<Watched<MemoryStore<Heap>>, Heap>);
static_assert(tarn::detail::AnswersLoadLater<Watched<LaterStore<Heap>>, Heap>);
static_assert(!tarn::detail::AnswersLoadAtOnce<Watched<LaterStore<Heap>>, Heap>);
static_assert(tarn::ChunkStore<Watched<Everything>, Heap>);
static_assert(tarn::detail::AnswersSyncLater<Watched<Everything>, Heap>);
static_assert(tarn::detail::load_unit_of<Watched<Everything>>() == tarn::LoadUnit::parts);
static_assert(tarn::detail::flush_unit_of<Watched<Everything>>() == tarn::FlushUnit::parts);

template <class Store>
struct World {
  using File = tarn::DirtyFile<Heap, Watched<Store>>;
  using Metadata = tarn::MetadataFor<Heap>;

  tarn::ChunkPool<Heap> pool{pool_options<Heap>(16, 64 * tarn::KiB)};
  Store store;
  Watch watch;
  Watched<Store> watched{store, watch};

  std::string take_told() { return std::exchange(watch.told, {}); }
};

}  // namespace

TEST_CASE("a watch hears what a store is asked, and what it answers", "[watched_store]") {
  World<MemoryStore<Heap>> world;
  world.store.put_pattern(7, 100);
  World<MemoryStore<Heap>>::File file{world.pool, tarn::DirtyFileMetadata::from_store(7, 100), world.watched};
  std::string into(16, '?');
  REQUIRE(file.read(16, writable(into)).value() == 16);
  CHECK(into == pattern(16, 16));
  CHECK(world.take_told() == "load 16, 16\n");
  REQUIRE(file.truncate(50));
  REQUIRE(file.flush());
  CHECK(world.take_told() == "flush of size 50\n");
  world.store.fail_next(MemoryStore<Heap>::Call::load, 1, std::errc::io_error);
  CHECK_FALSE(file.read(0, writable(into)));
  CHECK(world.take_told() == "load 16, error\n");
  world.store.throw_next(MemoryStore<Heap>::Call::load);
  CHECK(file.read(0, writable(into)).error() == std::errc::io_error);
  CHECK(world.take_told() == "load 16, error\n");
  world.store.answer_short_next();
  CHECK(file.read(0, writable(into)).error() == std::errc::io_error);
  CHECK(world.take_told() == "load 16, 15\n");
  REQUIRE(file.truncate(40));
  world.store.throw_next(MemoryStore<Heap>::Call::flush);
  CHECK_FALSE(file.flush());
  CHECK(world.take_told() == "flush of size 40, error\n");
  world.store.throw_next(MemoryStore<Heap>::Call::remove);
  CHECK_FALSE(file.remove());
  CHECK(world.take_told() == "remove 7, error\n");
  REQUIRE(file.remove());
  CHECK(world.take_told() == "remove 7\n");
  CHECK(world.store.complaints() == "");
}

TEST_CASE("a watch hears of an answer that comes later, and of a token that is dropped", "[watched_store]") {
  World<LaterStore<Heap>> world;
  world.store.memory.put_pattern(7, 100);
  World<LaterStore<Heap>>::File file{world.pool, tarn::DirtyFileMetadata::from_store(7, 100), world.watched};
  std::string into(16, '?');
  Result<std::size_t> n = std::size_t{0};
  bool done = false;
  const auto read = [&] {
    done = false;
    tarn::start_read(file, 16, writable(into), [&](Result<std::size_t> answer) {
      n = answer;
      done = true;
    });
  };
  read();
  CHECK(world.take_told() == "load 16");
  CHECK_FALSE(done);
  { const auto dropped = world.store.take_load(); }
  CHECK(done);
  CHECK(n.error() == std::errc::io_error);
  CHECK(world.take_told() == ", error\n");
  read();
  world.store.finish_load();
  CHECK(done);
  CHECK(n.value() == 16);
  CHECK(into == pattern(16, 16));
  CHECK(world.take_told() == "load 16, 16\n");
  world.watched.wait_until_idle();
}

TEST_CASE("who waits until a store is idle waits for the last token to be answered", "[watched_store]") {
  World<LaterStore<Heap>> world;
  world.store.memory.put_pattern(7, 100);
  World<LaterStore<Heap>>::File file{world.pool, tarn::DirtyFileMetadata::from_store(7, 100), world.watched};
  std::string into(16, '?');
  tarn::start_read(file, 16, writable(into), [](Result<std::size_t>) {});
  tarn::testing::BlockedThread waits;
  std::atomic<bool> idle{false};
  {
    Worker waiter{[&] {
      waits.here();
      world.watched.wait_until_idle();
      idle = true;
    }};
    CHECK(waits.wait_until_blocked());
    CHECK_FALSE(idle);
    world.store.finish_load();
    waiter.join();
  }
  CHECK(idle);
}

TEST_CASE("what else a store has is passed on", "[watched_store]") {
  World<Everything> world;
  World<Everything>::File file{world.pool, tarn::DirtyFileMetadata::from_store(7, 100), world.watched};
  CHECK(world.watched.flushes_at_once() == 3);
  REQUIRE(file.write(0, bytes_of("x")));
  CHECK(world.store.reserves == 1);
  std::string into(16, '?');
  CHECK(file.read(16, writable(into)).error() == std::errc::io_error);  // the token was dropped by what it threw
  CHECK(world.take_told() == "load 16, error\n");
  REQUIRE(file.sync());
  CHECK(world.take_told() == "flush of size 100\nsync\n");
  CHECK_FALSE(file.remove());
  CHECK(world.take_told() == "remove 7, error\n");
}
