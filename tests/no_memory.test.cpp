// SPDX-License-Identifier: MIT
// Compile: alone
#include <tarn/dirty_file_async.hpp>
#include <tarn/dirty_file_table.hpp>
#include <tarn/eviction/s3_fifo.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <new>
#include <optional>
#include <string>
#include <system_error>
#include <vector>

#include "support/catch.hpp"
#include "support/replaced_new.hpp"
#include "support/shared_file.hpp"

// What calls come to that the system refuses memory: each allocation of a call fails once, alone or with all later ones.

namespace {

thread_local long allocations_left = -1;  // until one fails; negative: none does
thread_local bool fails_on = false;       // those after it, too
thread_local bool has_failed = false;

/// While it lives, the `nth` allocation (from 0) of this thread fails. No Catch2 macro inside: it allocates.
struct FailAllocation {
  FailAllocation(long nth, bool and_later) {
    allocations_left = nth;
    fails_on = and_later;
    has_failed = false;
  }
  ~FailAllocation() { allocations_left = -1; }
  FailAllocation(const FailAllocation&) = delete;
  FailAllocation& operator=(const FailAllocation&) = delete;
  /// Whether any has failed yet.
  [[nodiscard]] static bool met() { return has_failed; }
};

}  // namespace

bool tarn_test::may_allocate() noexcept {
  if (allocations_left == 0) {
    has_failed = true;
    if (!fails_on) allocations_left = -1;
    return false;
  }
  if (allocations_left > 0) --allocations_left;
  return true;
}

using namespace tarn_test;

namespace {

constexpr std::uint64_t C = 16;

/// Calls f(nth) for the first allocation, the second, ..., till one is not met any more. f answers whether it was.
/// Returns: how many there were.
template <class F>
long for_each_allocation(F f) {
  long nth = 0;
  while (f(nth)) ++nth;
  return nth;
}

enum class By : std::uint8_t { call, operation, filler };

}  // namespace

TEST_CASE("a write that finds no memory in a later window answers what is in by then", "[no_memory]") {
  // Windows of two chunks. The file holds bytes here and there, so that windows need chunks, tables and longer lists.
  const auto by = GENERATE(By::call, By::operation, By::filler);
  const bool and_later = GENERATE(false, true);
  const auto text = pattern(0, 12 * C, 1);
  bool short_once = false, failed_once = false;
  const auto allocations = for_each_allocation([&](long nth) {
    SharedFile<WatchedFiles> file{{C, 1}};
    for (std::uint64_t at = 0; at < 8 * C; at += 8) {
      if (!file.write(at, "x")) FAIL("no room");
    }
    auto expected = file.read_all();  // the last byte of it is at 7 * C + 8
    expected.resize(static_cast<std::size_t>(8 * C), '\0');
    std::optional<tarn::Result<std::size_t>> written;
    bool met = false;
    {
      const FailAllocation failing{nth, and_later};
      if (by == By::call) {
        written.emplace(file->write(C / 2, bytes_of(text)));
      } else if (by == By::filler) {
        std::size_t done = 0;
        written.emplace(file->write(C / 2, text.size(), [&](tarn::MutableBuffers into) {
          const auto n = into.copy_from(bytes_of(text).subspan(done));
          done += n;
          return n;
        }));
      } else {
        auto write =
            tarn::write_operation(*file.file, C / 2, bytes_of(text), [&](const tarn::Result<tarn::Written>& n) {
              if (n) {
                written.emplace(n->size_bytes);
              } else {
                written.emplace(tarn::fail(n.error()));
              }
            });
        write.start();
      }
      met = FailAllocation::met();
    }
    REQUIRE(written);
    const auto n = *written ? **written : 0;
    if (!*written) {
      failed_once = true;
      CHECK((written->error() == std::errc::not_enough_memory || written->error() == std::errc::no_buffer_space));
    } else {
      short_once = short_once || n < text.size();
    }
    if (!met) CHECK(n == text.size());
    expected.replace(static_cast<std::size_t>(C / 2), n, text, 0, n);
    expected.resize(std::max<std::size_t>(file->size(), C / 2 + n));
    CAPTURE(nth, n);
    CHECK(file->size() == std::max<std::uint64_t>(7 * C + 9, C / 2 + n));
    CHECK((file.read_all() == expected));
    // Nothing is left behind: the next try takes all of it.
    CHECK(file.write(C / 2, text).value() == text.size());
    CHECK(file->flush());
    return met;
  });
  CHECK(allocations > 6);
  CHECK(short_once);
  CHECK(failed_once);
}

TEST_CASE("a read that finds no memory in any window fails: fewer bytes would be taken for the end", "[no_memory]") {
  const auto by = GENERATE(By::call, By::operation);
  const bool and_later = GENERATE(false, true);
  const auto size = static_cast<std::size_t>(7 * C + 3);
  bool failed_once = false;
  const auto allocations = for_each_allocation([&](long nth) {
    SharedFile<WatchedFiles> file{{C, 1}, size};
    std::string into(size, '?');
    std::optional<tarn::Result<std::size_t>> n;
    bool met = false;
    {
      const FailAllocation failing{nth, and_later};
      if (by == By::call) {
        n.emplace(file->read(0, writable(into)));
      } else {
        auto read =
            tarn::read_operation(*file.file, 0, writable(into), [&](tarn::Result<std::size_t> done) { n = done; });
        read.start();
      }
      met = FailAllocation::met();
    }
    CAPTURE(nth, met);
    REQUIRE(n);
    if (*n) {
      CHECK(**n == size);
      CHECK((into == pattern(0, size)));
    } else {
      failed_once = true;
      CHECK(n->error() == std::errc::not_enough_memory);
      CHECK(met);
    }
    CHECK((file.read_all() == pattern(0, size)));
    return met;
  });
  CHECK(allocations > 6);
  CHECK(failed_once);
}

namespace {

/// Whose flush is only stored, so that there is always something unsynced.
struct SyncedStore {
  MemoryStore<WatchedFiles> memory;

  tarn::Result<std::size_t> load(const tarn::LoadRequest<WatchedFiles>& request) { return memory.load(request); }
  tarn::FlushOutcome<WatchedFiles> flush(const tarn::FlushRequest<WatchedFiles>& request) {
    const auto outcome = memory.flush(request);
    return outcome.ok() ? tarn::FlushOutcome<WatchedFiles>::stored() : outcome;
  }
  tarn::Result<> sync(const tarn::SyncRequest<WatchedFiles>&) {
    if (in_sync) in_sync();
    return answer;
  }
  tarn::Result<> remove(const std::uint64_t& id) { return memory.remove(id); }

  std::function<void()> in_sync;
  tarn::Result<> answer;
};

}  // namespace

TEST_CASE("a file is removed, at once or at its last close, also with no memory to be had", "[no_memory]") {
  using File = tarn::DirtyFile<WatchedFiles, SyncedStore>;
  constexpr std::uint64_t id = 7;
  const bool open = GENERATE(false, true), store_fails = GENERATE(false, true);
  CAPTURE(open, store_fails);
  Events events;
  tarn::ChunkPool<WatchedFiles> pool{pool_options<WatchedFiles>(C, 16 * MiB), WatchingObserver{&events}};
  SyncedStore store;
  {
    File file{pool, tarn::DirtyFileMetadata::created(id, {.part_bytes = C}), store};
    REQUIRE(file.write(0, bytes_of(pattern(0, 7 * C))));
    REQUIRE(file.flush());
    for (std::uint64_t i = 1; i < 7; i += 2) REQUIRE(file.punch_hole(range(i * C, (i + 1) * C)));
    REQUIRE(file.metadata().unsynced().extent_count() == 4);  // as many as its set has room for
    REQUIRE(file.write(C, bytes_of("dirty")));
    if (store_fails) store.memory.fail_next(decltype(store.memory)::Call::remove, 1, std::errc::permission_denied);
    std::optional<tarn::OpenFile<WatchedFiles, SyncedStore>> opener;
    if (open) opener.emplace(file.open());
    std::optional<tarn::Result<>> removed;
    {
      const FailAllocation failing{0, true};
      removed.emplace(file.remove());
      opener.reset();
    }
    CHECK(removed->has_value() == (open || !store_fails));
    CHECK(events.failed == (open && store_fails ? 1 : 0));
    if (store_fails) {
      CHECK(store.memory.has(id));
      if (open) {
        opener.emplace(file.open());
        opener.reset();  // the next last close tries again
      } else {
        CHECK(file.is_dirty());
        CHECK(file.remove());
      }
    }
    CHECK_FALSE(store.memory.has(id));
    CHECK(file.size() == 0);
    CHECK(pool.stats().dirty_bytes == 0);
  }
  CHECK(events.lost == 0);
  CHECK(store.memory.complaints() == "");
  pool.evict_clean();
  check_empty(pool.stats());
}

namespace {

struct WholeParts : MemoryStore<Heap> {
  static constexpr auto load_unit = tarn::LoadUnit::parts;
};

}  // namespace

TEST_CASE("a load of a whole part that finds no memory fails, or comes with less of the part, and keeps nothing",
          "[no_memory]") {
  const bool and_later = GENERATE(false, true);
  bool failed_once = false, came_with_less = false;
  const auto allocations = for_each_allocation([&](long nth) {
    tarn::ChunkPool<Heap> pool{pool_options<Heap>(C, 1 * MiB)};
    WholeParts store;
    store.put_pattern(7, 16 * C);
    const auto meta = tarn::MetadataFor<Heap>::from_store(7, 16 * C, {.part_bytes = 16 * C});
    std::string into(3, '?');
    tarn::Result<std::size_t> n = 0;
    bool met = false;
    {
      const FailAllocation failing{nth, and_later};
      n = tarn::read_range(pool, meta, 5 * C, writable(into), store);
      met = FailAllocation::met();
    }
    failed_once = failed_once || !n;
    if (n) {
      CHECK(into == pattern(5 * C, 3));
      came_with_less = came_with_less || pool.stats().chunks_held < 16;
    }
    std::string all(16 * C, '?');
    CHECK(tarn::read_range(pool, meta, 0, writable(all), store));
    CHECK(all == pattern(0, 16 * C));
    CHECK(pool.core().counters.ahead_charge_bytes == 0);
    pool.evict_clean();
    check_empty(pool.stats());
    return met;
  });
  CHECK(allocations > 10);
  CHECK(failed_once);
  if (!and_later) CHECK(came_with_less);
}

TEST_CASE("what a failed sync finds no memory to make dirty again is named, and synced later", "[no_memory]") {
  using File = tarn::DirtyFile<WatchedFiles, SyncedStore>;
  constexpr std::uint64_t id = 7;
  const bool replaced = GENERATE(false, true);  // while the sync is in flight: then none of it is
  std::uint64_t named_bytes = 0;
  const auto allocations = for_each_allocation([&](long nth) {
    Events events;
    tarn::ChunkPool<WatchedFiles> pool{pool_options<WatchedFiles>(C, 16 * MiB), WatchingObserver{&events}};
    SyncedStore store;
    bool met = false;
    {
      File file{pool, tarn::DirtyFileMetadata::created(id, {.part_bytes = C}), store};
      for (std::uint64_t at = 0; at < 12 * C; at += 2 * C) REQUIRE(file.write(at, bytes_of("stored")));
      const auto size = file.size();
      std::optional<FailAllocation> failing;
      store.answer = tarn::fail(std::errc::io_error);
      store.in_sync = [&] {
        if (replaced) REQUIRE(file.invalidate(2));
        failing.emplace(nth, true);
      };
      const auto synced = file.sync();
      met = FailAllocation::met();
      failing.reset();
      CHECK(synced.error() == std::errc::io_error);
      named_bytes += events.unsure_bytes;
      CHECK(file.size() == size);
      if (!replaced) CHECK((file.is_dirty() || events.unsure_bytes != 0));
      if (replaced) CHECK(events.unsure_bytes == 0);
      store.in_sync = nullptr;
      store.answer = {};
      CHECK(file.sync());
      CHECK_FALSE(file.is_dirty());
    }
    CHECK(events.lost == 0);
    CHECK(store.memory.complaints() == "");
    return met;
  });
  CHECK(allocations >= (replaced ? 0 : 1));
  CHECK((named_bytes != 0) == !replaced);
}

TEST_CASE("a file that finds no memory is in no table, and may be made later", "[no_memory]") {
  using Store = MemoryStore<WatchedFiles>;
  tarn::ChunkPool<WatchedFiles> pool{pool_options<WatchedFiles>(C, 16 * MiB)};
  Store store;
  const auto allocations = for_each_allocation([&](long nth) {
    tarn::DirtyFileTable<WatchedFiles, Store> table{pool, store};
    const auto metadata = tarn::DirtyFileMetadata::from_store(7, 0);
    bool made = false, met = false;
    {
      const FailAllocation failing{nth, false};
      try {
        made = table.find_or_add(metadata) != nullptr;
      } catch (const std::bad_alloc&) {
        made = false;
      }
      met = FailAllocation::met();
    }
    CHECK(made == !met);
    CHECK(table.size() == (made ? 1 : 0));
    CHECK(table.find_or_add(metadata) != nullptr);
    CHECK(table.size() == 1);
    return met;
  });
  CHECK(allocations >= 4);
}

TEST_CASE("a chunk that finds no memory to be marked flushed stays dirty", "[no_memory]") {
  bool failed_once = false;
  const auto allocations = for_each_allocation([&](long nth) {
    OneFile<Heap> file{{C, 1}};
    for (std::uint64_t at = 0; at < 12 * C; at += 2 * C) REQUIRE(file.write(at, "d"));
    for (const std::uint64_t chunk : {0u, 2u, 6u, 8u}) REQUIRE(tarn::mark_flushed(file.pool, file.meta, chunk));
    REQUIRE(file.meta.stored().extent_count() == 4);  // as many as its set has room for
    tarn::Result<bool> marked = false;
    bool met = false;
    {
      const FailAllocation failing{nth, true};
      marked = tarn::mark_flushed(file.pool, file.meta, 4);
      met = FailAllocation::met();
    }
    failed_once = failed_once || !marked;
    if (!marked) CHECK(marked.error() == std::errc::not_enough_memory);
    CHECK(file.pool.has_dirty(file.meta, 4) == !marked);
    CHECK(file.flush());
    return met;
  });
  CHECK(allocations >= 2);
  CHECK(failed_once);
}

TEST_CASE("an eviction policy without memory for the names of what has gone evicts all the same", "[no_memory]") {
  tarn::S3FifoEviction policy;
  std::vector<tarn::S3FifoEviction::Hook> hooks(20);
  bool met = false;
  std::size_t evicted = 0;
  {
    const FailAllocation failing{0, true};
    for (std::size_t i = 0; i < hooks.size(); ++i) policy.insert(hooks[i], i);
    while (policy.evict([&](auto& hook) {
      policy.remove(hook);
      return true;
    })) {
      ++evicted;
    }
    met = FailAllocation::met();
  }
  CHECK(met);
  CHECK(evicted == hooks.size());
}

TEST_CASE("content for which there is no memory is ENOMEM, and is had with the next try", "[no_memory]") {
  OneFile<Heap> file{{.chunk_bytes = 16, .chunks_per_part = 1}};
  const tarn::Digest<16> id{.bytes = {std::byte{1}}};
  file.store.put_content(id, "sixteen of bytes");
  const auto allocations = for_each_allocation([&](long nth) {
    std::error_code error;
    bool threw = false, met = false;
    {
      const FailAllocation fail{nth, true};
      try {
        error = file.pool.get_or_load(id, 0, 16, file.store).error();
      } catch (const std::bad_alloc&) {
        threw = true;
      }
      met = FailAllocation::met();
    }
    CHECK_FALSE(threw);
    // A descriptor, a node or a record that the heap refuses is room that the pool has not.
    if (met) CHECK((!error || error == std::errc::not_enough_memory || error == std::errc::no_buffer_space));
    CHECK(file.pool.get_or_load(id, 0, 16, file.store));
    CHECK(file.pool.invalidate(id));
    return met;
  });
  CHECK(allocations > 2);
}
