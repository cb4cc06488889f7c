// SPDX-License-Identifier: MIT
#pragma once

// What a DirtyFile is, apart from its store: shared by the file and the flushes in flight, so that one that ends after
// the file has gone still finds what it settles.
//
// Thread safety: what `lock` and `errors_mutex` guard is marked.

#include <cstddef>
#include <cstdint>
#include <optional>
#include <system_error>
#include <utility>

#include <tarn/detail/file_lock.hpp>
#include <tarn/detail/flush_job.hpp>
#include <tarn/detail/held_read.hpp>
#include <tarn/detail/read_loop.hpp>
#include <tarn/detail/waiting.hpp>

namespace tarn::detail {

template <class Traits>
struct FileBody {
  using TraitsType = Traits;
  using Metadata = MetadataFor<Traits>;
  using Access = FileAccess<Traits, Metadata, CheckedFileLock>;

  FileBody(PoolCore<Traits>& pool, Metadata metadata, const ChunkLayout& chunks, RecordRef<Traits> kept)
      : core{pool},
        layout{chunks},
        record{std::move(kept)},
        meta{std::move(metadata)},
        holds_past_size{holds_from(layout.chunk_of(meta.size()))} {}

  PoolCore<Traits>& core;
  const ChunkLayout layout;
  const RecordRef<Traits> record;
  Atomic<std::uint32_t> opens{0};
  Atomic<std::uint32_t> operations{0};  // begun and not completed; counted where there are asserts

  mutable CheckedFileLock lock;
  Metadata meta TARN_GUARDED_BY(lock);
  // Building blocks may have left bytes past the size that this file was made with, or a load of some in flight: only a
  // read that looks at the size leaves them out.
  const bool holds_past_size;
  LongWrites long_writes TARN_GUARDED_BY(lock);
  bool removing TARN_GUARDED_BY(lock) = false;                              // the store is being asked to remove it
  bool removed TARN_GUARDED_BY(lock) = meta.state() == FileState::deleted;  // the store has it no more
  bool syncing TARN_GUARDED_BY(lock) = false;  // the store is being asked to make it durable
  // And what; nothing once it has other bytes than those.
  std::optional<ExtentSet> syncing_extents TARN_GUARDED_BY(lock);
  bool gone TARN_GUARDED_BY(lock) = false;               // the DirtyFile: the record may be another one's by now
  std::uint64_t syncs_failed TARN_GUARDED_BY(lock) = 0;  // each made dirty again what was stored before
  std::uint64_t syncs_lost TARN_GUARDED_BY(lock) = 0;    // those of which some was not held any more
  std::error_code sync_error TARN_GUARDED_BY(lock);      // of the last one of those

  // Of flushes that nobody asked for: a count of them, the last one, and whether anybody was told.
  CheckedMutex errors_mutex;
  std::error_code error TARN_GUARDED_BY(errors_mutex);
  std::uint64_t error_count TARN_GUARDED_BY(errors_mutex) = 0;
  bool error_seen TARN_GUARDED_BY(errors_mutex) = false;

  [[nodiscard]] Access access() {
    return {core, record, meta, layout, lock, &removing, &removed, &opens, &long_writes};
  }

  [[nodiscard]] const typename Traits::FileId& id() const TARN_NO_THREAD_SAFETY_ANALYSIS {
    return meta.id();  // which never changes, so it is read without the lock
  }
  /// Whether the store lacks the size, or a zero that is not held.
  [[nodiscard]] bool lacks_store() const TARN_REQUIRES_SHARED(lock) {
    return meta.store_lacks_size() || !meta.stored().contains(ByteRange::between(0, meta.size()));
  }
  /// Whether a flush would have anything to store.
  [[nodiscard]] bool is_dirty() const TARN_REQUIRES_SHARED(lock) {
    return meta.state() != FileState::deleted && (record->dirty_bytes.load() != 0 || lacks_store());
  }
  [[nodiscard]] bool is_removing() const {
    SharedLock shared{lock};
    return removing;
  }
  [[nodiscard]] bool is_syncing() const {
    SharedLock shared{lock};
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
  [[nodiscard]] std::error_code wait_for_flush(ExclusiveLock<CheckedFileLock>& held, const CallOptions& options)
      TARN_REQUIRES(lock) TARN_NO_THREAD_SAFETY_ANALYSIS {  // which does not know that `held` holds `lock`
    const NoFlushJoins<Traits> none_joins{*record};
    while (const auto arrivals = flush_in_flight(*record)) {
      held.unlock();
      if (const auto why = block(core, WaitFor<Traits>::arrival(record, *arrivals), options); why) return why;
      held.lock();
    }
    return {};
  }

  /// Those that need not look at the size.
  [[nodiscard]] HeldReads<Traits> held_reads() const { return {core, {*record}, !holds_past_size}; }

  void note_error(std::error_code why) noexcept {
    {
      MutexLock guard{errors_mutex};
      error = why;
      ++error_count;
      error_seen = false;
    }
    core.observer.on_flush_failed(id(), why);
  }

 private:
  [[nodiscard]] bool holds_from(std::uint64_t chunk) const {
    MutexLock table{record->table_mutex};
    return record->loads != nullptr || record->table.next(chunk).second != nullptr;
  }
};

}  // namespace tarn::detail
