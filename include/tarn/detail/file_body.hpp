// SPDX-License-Identifier: MIT
#pragma once

// What a DirtyFile is, apart from its store: shared by the file and the flushes in flight, so that one that ends after
// the file has gone still finds what it settles.
//
// Thread safety: what `lock` and `errors_mutex` guard is marked.

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <new>
#include <optional>
#include <span>
#include <system_error>
#include <type_traits>
#include <utility>

#include <tarn/buffers.hpp>
#include <tarn/detail/copy_bytes.hpp>
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

  /// See detail/held_read.hpp.
  template <class Use>
  [[nodiscard]] bool use_held(std::uint64_t offset, std::uint64_t size_bytes, Use use) {
    return !holds_past_size && detail::use_held(core, *record, offset, size_bytes, use);
  }
  /// A read or a view by that. Returns: false, or nothing, if it takes more than a look; then nothing is done.
  [[nodiscard]] bool copy_held(std::uint64_t offset, std::span<std::byte> into) {
    if (into.data() == nullptr) return false;
    struct Copy {
      void operator()(std::span<const std::byte> bytes) const {
        copy_bytes(into.data(), bytes.data(), bytes.size());
        count.add(bytes.size());
      }
      void operator()(ConstBuffers bytes) const { count.add(bytes.copy_to(into)); }
      std::span<std::byte> into;
      StripedCount& count;
    };
    return use_held(offset, into.size(), Copy{into, core.counters.copy_bytes});
  }
  template <class F>
  [[nodiscard]] auto show_held(std::uint64_t offset, std::uint64_t size_bytes, F& f)
      -> std::optional<Result<std::invoke_result_t<F&, ConstBuffers>>> {
    using Shown = std::optional<Result<std::invoke_result_t<F&, ConstBuffers>>>;
    struct Show {
      void operator()(std::span<const std::byte> bytes) const {
        const ::iovec piece{const_cast<std::byte*>(bytes.data()), bytes.size()};  // iovec has no const
        (*this)(ConstBuffers{{&piece, 1}});
      }
      void operator()(ConstBuffers bytes) const {
        shown.emplace(show(f, bytes));
        count.add(size_bytes);
      }
      F& f;
      std::uint64_t size_bytes;
      Shown& shown;
      StripedCount& count;
    };
    Shown shown;
    try {
      (void)use_held(offset, size_bytes, Show{f, size_bytes, shown, core.counters.view_bytes});
    } catch (const std::bad_alloc&) {
      shown.emplace(fail(std::errc::not_enough_memory));
    }
    return shown;
  }

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
