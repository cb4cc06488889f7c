// SPDX-License-Identifier: MIT
#include <tarn/detail/flush_job.hpp>

#include <deque>
#include <string>
#include <utility>

#include <tarn/dirty_file_async.hpp>

#include "support/catch.hpp"
#include "support/one_file.hpp"

using namespace tarn_test;

namespace {

// Stores whole parts, not durably, and syncs when the test says so; flushes too, while they are to come later.
struct Parts : MemoryStore<Heap> {
  static constexpr auto flush_unit = tarn::FlushUnit::parts;
  void flush(const tarn::FlushRequest<Heap>& request, tarn::FlushToken<Heap> token) {
    if (later) return flushes.push_back(std::move(token));
    (void)MemoryStore<Heap>::flush(request);
    token.complete(tarn::FlushOutcome<Heap>::stored());
  }
  void sync(const tarn::SyncRequest<Heap>&, tarn::SyncToken<Heap> token) { syncs.push_back(std::move(token)); }
  void end_sync(const tarn::Result<>& answer) {
    auto token = std::move(syncs.front());
    syncs.pop_front();
    token.complete(answer);
  }
  void end_flush() {
    auto token = std::move(flushes.front());
    flushes.pop_front();
    (void)MemoryStore<Heap>::flush(token.request());
    token.complete(tarn::FlushOutcome<Heap>::stored());
  }
  bool later = false;
  std::deque<tarn::FlushToken<Heap>> flushes;
  std::deque<tarn::SyncToken<Heap>> syncs;
};

}  // namespace

TEST_CASE("a part that was stored anew while a sync failed is unsynced, also if what was dirty of it is cut off",
          "[flush_job]") {
  constexpr std::uint64_t P = 64;
  tarn::ChunkPool<Heap> pool{pool_options<Heap>(16, MiB)};
  Parts store;
  store.put_pattern(7, 2 * P);
  tarn::DirtyFile file{pool, tarn::MetadataFor<Heap>::from_store(7, 2 * P, {.part_bytes = P}), store};
  std::string all(2 * P, '?');
  REQUIRE(file.read(0, writable(all)));  // clean, held, and durable
  REQUIRE(file.write(P, bytes_of("x")));
  const auto nobody_asks = [](const auto&) {};
  tarn::start_sync(file, nobody_asks);  // of part 1
  REQUIRE(store.syncs.size() == 1);
  REQUIRE(file.write(P - 4, bytes_of("y")));
  store.later = true;
  tarn::start_flush(file, nobody_asks);  // of part 0
  REQUIRE(store.flushes.size() == 1);
  store.end_sync(tarn::fail(std::errc::io_error));
  store.later = false;
  store.end_flush();
  REQUIRE(file.truncate(P / 2));
  tarn::start_sync(file, nobody_asks);
  REQUIRE(store.syncs.size() == 1);
  store.end_sync(tarn::fail(std::errc::io_error));
  CHECK(extents_of(pool.dirty_extents(file.metadata())) == Extents{{0, P / 2}});
  REQUIRE(file.flush());
  CHECK(store.complaints() == "");
}
