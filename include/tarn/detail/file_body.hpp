// SPDX-License-Identifier: MIT
#pragma once

// What a DirtyFile is, apart from its store: shared by the file and the flushes in flight, so that one that ends after
// the file has gone still finds what it settles.
//
// Thread safety: what follows `lock` is guarded by it, what follows `errors_mutex` by that one.

#include <cstdint>
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <system_error>
#include <utility>

#include <tarn/detail/flush_job.hpp>
#include <tarn/detail/read_loop.hpp>
#include <tarn/detail/waiting.hpp>

namespace tarn::detail {

template <class Traits>
struct FileBody {
  using TraitsType = Traits;
  using Metadata = MetadataFor<Traits>;
  using Access = FileAccess<Traits, Metadata, FileLock>;

  FileBody(PoolCore<Traits>& pool, Metadata metadata, const ChunkLayout& chunks, RecordRef<Traits> kept)
      : core{pool}, layout{chunks}, record{std::move(kept)}, meta{std::move(metadata)} {}

  PoolCore<Traits>& core;
  const ChunkLayout layout;
  const RecordRef<Traits> record;
  Atomic<std::uint32_t> opens{0};
  Atomic<std::uint32_t> operations{0};  // begun and not completed; counted where there are asserts

  mutable FileLock lock;
  Metadata meta;
  LongWrites long_writes;
  bool removing = false;                              // the store is being asked to remove it
  bool removed = meta.state() == FileState::deleted;  // the store has it no more
  bool syncing = false;                               // the store is being asked to make it durable
  std::optional<ExtentSet> syncing_extents;           // and what; nothing once it has other bytes than those
  bool gone = false;                                  // the DirtyFile: the record may be another one's by now
  std::uint64_t syncs_failed = 0;                     // each made dirty again what was stored before
  std::uint64_t syncs_lost = 0;                       // those of which some was not held any more
  std::error_code sync_error;                         // of the last one of those

  // Of flushes that nobody asked for: a count of them, the last one, and whether anybody was told.
  CheckedMutex errors_mutex;
  std::error_code error TARN_GUARDED_BY(errors_mutex);
  std::uint64_t error_count TARN_GUARDED_BY(errors_mutex) = 0;
  bool error_seen TARN_GUARDED_BY(errors_mutex) = false;

  [[nodiscard]] Access access() {
    return {core, record, meta, layout, lock, &removing, &removed, &opens, &long_writes};
  }

  /// Whether the store lacks the size, or a zero that is not held. Requires: the lock.
  [[nodiscard]] bool lacks_store() const {
    return meta.store_lacks_size() || !meta.stored().contains(ByteRange::between(0, meta.size()));
  }
  /// Whether a flush would have anything to store. Requires: the lock.
  [[nodiscard]] bool is_dirty() const {
    return meta.state() != FileState::deleted && (record->dirty_bytes.load() != 0 || lacks_store());
  }
  [[nodiscard]] bool is_removing() const {
    std::shared_lock shared{lock};
    return removing;
  }
  [[nodiscard]] bool is_syncing() const {
    std::shared_lock shared{lock};
    return syncing;
  }
  /// What to wait for as long as the file may not be flushed; nothing if it may.
  [[nodiscard]] std::optional<WaitFor<Traits>> flush_or_removal() const {
    const auto arrivals = record->arrivals.load();
    if (!flush_in_flight(*record, true) && !is_removing()) return std::nullopt;
    return WaitFor<Traits>::arrival(record, arrivals);
  }
  /// Waits until no flush is in flight, without the lock; comes back with it, so that none begins.
  /// Returns: why the caller waits no longer; then without the lock.
  [[nodiscard]] std::error_code wait_for_flush(std::unique_lock<FileLock>& held, const CallOptions& options) {
    const NoFlushJoins<Traits> none_joins{*record};
    while (const auto arrivals = flush_in_flight(*record)) {
      held.unlock();
      if (const auto why = block(core, WaitFor<Traits>::arrival(record, *arrivals), options); why) return why;
      held.lock();
    }
    return {};
  }

  void note_error(std::error_code why) noexcept {
    {
      MutexLock guard{errors_mutex};
      error = why;
      ++error_count;
      error_seen = false;
    }
    core.observer.on_flush_failed(meta.id(), why);
  }
};

}  // namespace tarn::detail
