// SPDX-License-Identifier: MIT
// Compile: alone
#include <tarn/dirty_file_async.hpp>

#include <cstdint>
#include <new>
#include <optional>
#include <string>

#include <tarn/testing/gate.hpp>

#include "support/catch.hpp"
#include "support/fault_points.hpp"
#include "support/later_file.hpp"
#include "support/replaced_new.hpp"

// A file of an id that the pool knows already: while the last one's flush is in flight, and when it was not made for
// want of memory.

bool tarn_test::may_allocate() noexcept { return !fault_points.fails(Fault::allocation); }

using namespace tarn_test;

namespace {

using Files = LaterFile<Heap>;

/// Makes the file, and fails as often as there are allocations before: each time another one.
/// Returns: how often.
template <class Pool, class Store>
std::uint64_t make_at_last(std::optional<tarn::DirtyFile<Heap, Store>>& file, Pool& pool,
                           const tarn::DirtyFileMetadata& meta, Store& store) {
  for (std::uint64_t nth = 0;; ++nth) {
    fault_points.begin(Fault::allocation, nth, false);
    try {
      const InCall in_call;
      file.emplace(pool, meta, store);
      return nth;
    } catch (const std::bad_alloc&) {
    }
  }
}

/// The file goes, with a flush of its 40 bytes in flight.
void drop_in_flight(Files& file) {
  REQUIRE(file->write(0, bytes_of(pattern(0, 40))));
  std::optional<tarn::Result<std::uint64_t>> flushed;
  auto flush = tarn::flush_operation(*file.file, [&](tarn::Result<std::uint64_t> n) { flushed = n; });
  flush.start();
  flush.cancel();
  REQUIRE(flushed);
  file.file.reset();
  REQUIRE(file.store.open_flushes() == 1);
}

/// Writes and flushes, and has the store answer all.
void store_more(Files::File& file, Files::Store& store) {
  REQUIRE(file.write(5, bytes_of("text")));
  std::optional<tarn::Result<std::uint64_t>> flushed;
  auto flush = tarn::flush_operation(file, [&](tarn::Result<std::uint64_t> n) { flushed = n; });
  flush.start();
  CHECK(store.open_flushes() == 1);  // one after the other
  while (store.open_flushes() != 0) store.finish_flush();
  REQUIRE(flushed);
  CHECK(*flushed);
}

}  // namespace

TEST_CASE("a file that was not made for want of memory leaves what the pool has of its id", "[fault]") {
  Files file{{16, 1}};
  file.file.reset();
  auto meta = tarn::DirtyFileMetadata::created(Files::id, {.part_bytes = file.P});
  REQUIRE(tarn::write_range(file.pool, meta, 3, bytes_of(pattern(0, 40))));
  CHECK(make_at_last(file.file, file.pool, meta, file.store) > 0);
  CHECK(file.read_held(0, 43) == zeros(3) + pattern(0, 40));
  CHECK(file.pool.stats().dirty_bytes == 40);
}

TEST_CASE("a file that was not made at first waits for the flush of the last one of its id, too", "[fault]") {
  Files file{{16, 1}};
  drop_in_flight(file);
  const auto meta = tarn::DirtyFileMetadata::created(Files::id, {.part_bytes = file.P});
  CHECK(make_at_last(file.file, file.pool, meta, file.store) > 0);
  store_more(*file.file, file.store);
  CHECK(file.store.memory.text(Files::id) == zeros(5) + "text");
}

TEST_CASE("a file that takes a living one's id waits for the flush of the one before that, too", "[fault]") {
  Files file{{16, 1}};
  drop_in_flight(file);
  const auto meta = tarn::DirtyFileMetadata::created(Files::id, {.part_bytes = file.P});
  file.file.emplace(file.pool, meta, file.store);
  std::optional<Files::File> next;
  BlockedThread making;
  Worker worker{[&] {
    making.here();
    next.emplace(file.pool, meta, file.store);
  }};
  const bool waits = making.wait_until_blocked();
  if (waits) file.store.finish_flush();
  worker.join();
  CHECK(waits);
  store_more(*next, file.store);
  CHECK(file.store.memory.text(Files::id) == zeros(5) + "text");
}

namespace {

/// A store that gives each flush a version, and has only bytes of that.
struct VersionedStore {
  MemoryStore<Heap> memory;

  VersionedStore() { memory.keep_versions(); }
  tarn::Result<std::size_t> load(const tarn::LoadRequest<Heap>& request) {
    const OutOfCall ours;
    return memory.load(request);
  }
  tarn::FlushOutcome<Heap> flush(const tarn::FlushRequest<Heap>& request) {
    const OutOfCall ours;
    return memory.flush(request);
  }
  tarn::Result<> remove(const std::uint64_t& id) { return memory.remove(id); }
};

}  // namespace

TEST_CASE("a flush that finds no memory to note what was stored has the store's version all the same", "[fault]") {
  bool failed_once = false;
  for (std::uint64_t nth = 0;; ++nth) {
    tarn::ChunkPool<Heap> pool{pool_options<Heap>(16, MiB)};
    VersionedStore store;
    store.memory.put_pattern(7, 1024);
    tarn::DirtyFile file{pool, tarn::DirtyFileMetadata::from_store(7, 1024, {.part_bytes = 1024}), store};
    for (std::uint64_t at = 0; at < 512; at += 32) REQUIRE(file.punch_hole(range(at, at + 16)));
    REQUIRE(file.write(3, bytes_of("text")));
    fault_points.begin(Fault::allocation, nth, false);
    tarn::Result<> flushed;
    {
      const InCall in_call;
      flushed = file.flush();
    }
    failed_once = failed_once || !flushed;
    std::string into(512, '?');
    const auto n = file.read(512, writable(into));
    CAPTURE(nth);
    REQUIRE(n);
    CHECK(into == pattern(512, 512));
    CHECK(file.flush());
    CHECK(store.memory.complaints() == "");
    if (fault_points.strikes() == 0) break;
  }
  CHECK(failed_once);
}
