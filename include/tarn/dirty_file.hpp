// SPDX-License-Identifier: MIT
#pragma once

// A file that is read and written by many threads: the algorithms with the lock, the waiting and the write-back kept.
//
// Most filesystems hold one DirtyFile per inode, and one OpenFile per opener. The file is registered with its pool:
// when the pool is full of dirty bytes, a call that needs memory flushes some file for room, through that file's store.
//
// Thread safety: every call from any thread, except construction and destruction.
// Lock:          one phase-fair lock around the metadata. Reads take it shared for as long as it takes to latch their
//                chunks, changes exclusively for one window; it is never held across a load, a flush, or other code of
//                the user's than a filler. A view runs under the chunks' latches alone.

#include <cassert>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <span>
#include <system_error>
#include <utility>

#include <tarn/chunk_pool.hpp>
#include <tarn/detail/drop_clean.hpp>
#include <tarn/detail/flush_for_room.hpp>
#include <tarn/detail/list_extents.hpp>
#include <tarn/flush.hpp>
#include <tarn/read_range.hpp>
#include <tarn/truncate.hpp>
#include <tarn/write_range.hpp>

namespace tarn {

template <class Traits, ChunkStore<Traits> Store>
class OpenFile;

template <class Traits, ChunkStore<Traits> Store>
class DirtyFile final : private detail::Flushable {
 public:
  using Metadata = MetadataFor<Traits>;
  using Mtime = std::optional<std::int64_t>;  ///< in ns; nothing: stays

  /// Takes over what building blocks have put into the pool under the id. A DirtyFile of the same id that still lives
  /// is abandoned (see abandon).
  /// Requires: `pool` and `store` outlive the file.
  /// Errors:   throws system_error: EINVAL if the file's part is not a multiple of the pool's chunk, ENOBUFS if the
  ///           pool has no room for its record; bad_alloc.
  DirtyFile(ChunkPool<Traits>& pool, Metadata metadata, Store& store)
      : pool_{pool},
        core_{pool.core()},
        store_{store},
        meta_{std::move(metadata)},
        layout_{checked_layout()},
        record_{make_record()} {
    core_.pressure.join(*this);
  }
  /// Forgets what the pool holds of the file. Flush before: dirty bytes are lost here, and the observer is told.
  /// Requires: no call in progress, no OpenFile.
  ~DirtyFile() {
    core_.pressure.leave(*this);
    assert(opens_ == 0 && "a DirtyFile is destroyed before its OpenFiles");
    const auto lost_bytes = core_.drop(*record_);
    core_.registry.disown(*record_);
    if (lost_bytes != 0 && meta_.state() != FileState::deleted) core_.observer.on_dirty_lost(meta_.id(), lost_bytes);
  }

  // ---- reading

  /// As read_range; with no chunk to be had, what is missing is loaded straight into `into`.
  [[nodiscard]] Result<std::size_t> read(std::uint64_t offset, std::span<std::byte> into) {
    auto file = access();
    detail::EvictOnly room;
    return guarded([&] { return detail::read_copy(file, offset, into, store_, room); });
  }
  /// As the visiting read_range; flushes for room if a load needs it.
  template <std::invocable<ConstBuffers> F>
  [[nodiscard]] auto view(std::uint64_t offset, std::uint64_t size_bytes, F&& f)
      -> Result<std::invoke_result_t<F&, ConstBuffers>> {
    auto file = access();
    detail::FlushForRoom<Traits> room{core_};
    return guarded([&] { return detail::read_view(file, offset, size_bytes, store_, room, f); });
  }
  /// As try_read_range; busy also while a change of the file is under way.
  [[nodiscard]] ReadOutcome<std::size_t> try_read(std::uint64_t offset, std::span<std::byte> into) {
    auto file = access();
    try {
      return detail::try_read(file, offset, into);
    } catch (const std::bad_alloc&) {
      return ReadOutcome<std::size_t>::failed(std::make_error_code(std::errc::not_enough_memory));
    }
  }

  // ---- changing; ENOBUFS only if no flush makes room and nobody else will

  /// As write_range.
  /// Blocks: on the stores of other files and of this one, if the pool is full; holding nothing.
  [[nodiscard]] Result<std::size_t> write(std::uint64_t offset, std::span<const std::byte> from, Mtime mtime_ns = {}) {
    return size_of(write_at(offset, from, mtime_ns));
  }
  /// As the write_range with a filler.
  template <std::invocable<MutableBuffers> Filler>
  [[nodiscard]] Result<std::size_t> write(std::uint64_t offset, std::uint64_t size_bytes, Filler&& filler,
                                          Mtime mtime_ns = {}) {
    auto file = access();
    detail::FlushForRoom<Traits> room{core_};
    return size_of(guarded([&] { return detail::write_in_place(file, offset, size_bytes, filler, room, mtime_ns); }));
  }
  /// Writes at the end of the file as it is then; appends of one file never mix.
  /// Returns: where the bytes went, and how many were taken in.
  [[nodiscard]] Result<Written> append(std::span<const std::byte> from, Mtime mtime_ns = {}) {
    std::lock_guard one_at_a_time{append_mutex_};
    return write_at(std::nullopt, from, mtime_ns);
  }
  /// As the free functions of these names.
  [[nodiscard]] Result<> truncate(std::uint64_t size_bytes, Mtime mtime_ns = {}) {
    auto file = access();
    detail::FlushForRoom<Traits> room{core_};
    return guarded([&] { return detail::truncate_file(file, size_bytes, room, mtime_ns); });
  }
  [[nodiscard]] Result<> punch_hole(ByteRange range, Mtime mtime_ns = {}) { return zero(range, false, mtime_ns); }
  /// `keep_size`: what of the range is past the size is ignored; else the size grows to its end.
  [[nodiscard]] Result<> zero_range(ByteRange range, bool keep_size, Mtime mtime_ns = {}) {
    return zero(range, !keep_size, mtime_ns);
  }
  void set_mtime_ns(std::int64_t mtime_ns) {
    std::lock_guard lock{lock_};
    meta_.set_mtime_ns(mtime_ns);
  }

  // ---- write-back

  /// Stores what is dirty at the call; what becomes dirty meanwhile may go with it or stay.
  /// Errors: the store's own; what was not stored is still dirty. ESTALE if the file was abandoned. A deleted file has
  ///         nothing to store.
  /// Blocks: on the store; on a flush of the file that is in flight.
  [[nodiscard]] Result<> flush() {
    const auto settled = flush_some(SIZE_MAX, true);
    if (!settled) return fail(settled.error());
    return {};
  }
  /// Deletes the file: removes it from the store, at once if nobody has it open, else at the last close; until then it
  /// is read and changed as before, but not flushed any more.
  /// Errors: the store's own, and the file is as it was; one at the last close is told to the observer. ENOENT if it is
  ///         deleted already; ESTALE if another file has its id.
  /// Blocks: on the store, and on a flush in flight.
  [[nodiscard]] Result<> remove() {
    FileState before{};
    {
      std::lock_guard lock{lock_};
      before = meta_.state();
      if (before == FileState::deleted) return fail(std::errc::no_such_file_or_directory);
      meta_.note_deleted();  // no flush begins from here on
      if (opens_.load() != 0) return {};
      removing_ = true;  // a flush that comes now waits for what the store says
    }
    return remove_from_store(before);
  }
  /// Makes every clean byte unheld: the store has another version of it now. Dirty bytes stay.
  /// Errors: ENOBUFS or ENOMEM: the version stays, and some bytes may be unheld. EAGAIN: a chunk has too many pins.
  /// Blocks: on a flush in flight.
  [[nodiscard]] Result<> invalidate(std::uint64_t version);
  /// Makes the file what the store has: `size_bytes` bytes of `version`. The one way to give up dirty bytes of a file
  /// that stays.
  /// Returns: the dirty bytes given up.
  /// Errors:  EFBIG; throws bad_alloc.
  /// Blocks:  on a flush in flight.
  [[nodiscard]] Result<std::uint64_t> discard_dirty(std::uint64_t size_bytes, std::uint64_t version) {
    if (size_bytes > max_offset) return fail(std::errc::file_too_large);
    std::unique_lock lock{lock_};
    wait_for_flush(lock);
    meta_.reset_to_store(size_bytes, version);
    return core_.drop(*record_);
  }

  /// Ends the file's way to the store, because its id is another file's now: no flush begins any more and nothing can
  /// be changed (ESTALE), and what is dirty goes with the file. Flush before, if it matters. It may still be removed,
  /// and read, until another DirtyFile is made with its id.
  /// Blocks: on a flush in flight.
  void abandon() {
    record_->abandoned = true;
    detail::wait_for_flush(core_, *record_);
  }

  // ---- looking

  /// A copy of the metadata, of one moment.
  [[nodiscard]] Metadata metadata() const {
    std::shared_lock lock{lock_};
    return meta_;
  }
  [[nodiscard]] std::uint64_t size() const {
    std::shared_lock lock{lock_};
    return meta_.size();
  }
  [[nodiscard]] std::int64_t mtime_ns() const {
    std::shared_lock lock{lock_};
    return meta_.mtime_ns();
  }
  /// Whether a flush would have anything to store.
  [[nodiscard]] bool is_dirty() const {
    std::shared_lock lock{lock_};
    if (meta_.state() == FileState::deleted) return false;
    return record_->dirty_bytes.load() != 0 || lacks_store();
  }
  /// Where the file has bytes, held or stored; the rest of it reads as zero (SEEK_DATA, SEEK_HOLE). A hole that was
  /// flushed is stored, as zeros: then only the store knows better.
  /// Errors: throws bad_alloc; system_error(EAGAIN) if a chunk has too many pins.
  [[nodiscard]] ExtentSet data_extents(ByteRange range) const {
    std::shared_lock lock{lock_};
    auto data = meta_.stored();
    data.add(detail::list_extents(core_, *record_, &detail::Chunk<Traits>::valid));
    return data.intersect(range.intersect(ByteRange::between(0, meta_.size())));
  }

  /// Opens the file. Requires: the OpenFile does not outlive the file.
  [[nodiscard]] OpenFile<Traits, Store> open() { return OpenFile<Traits, Store>{*this}; }
  [[nodiscard]] ChunkPool<Traits>& pool() const { return pool_; }

 private:
  friend class OpenFile<Traits, Store>;
  using Access = detail::FileAccess<Traits, Metadata, detail::FileLock>;

  [[nodiscard]] ChunkLayout checked_layout() const {
    const auto layout = pool_.layout(meta_);
    if (!layout) throw std::system_error{layout.error(), "tarn::DirtyFile: part_bytes is not a multiple of the chunk"};
    return *layout;
  }
  [[nodiscard]] detail::RecordRef<Traits> make_record() {
    detail::ChunkReserve<Traits> reserve{core_};
    const detail::FlushForRoom<Traits> room{core_};
    for (;;) {
      detail::RecordRef<Traits> retired;
      auto record = core_.registry.own(core_.file_key(meta_.id()), retired);
      if (retired) detail::wait_for_flush(core_, *retired);
      if (record) return record;
      const auto roomy = room(reserve, {.chunks = 0, .bytes = core_.record_and_table_bytes});
      if (!roomy) throw std::system_error{roomy.error(), "tarn::DirtyFile: no room for its record"};
    }
  }
  [[nodiscard]] Access access() { return {core_, record_, meta_, layout_, lock_, &removing_, &opens_}; }

  template <class F>
  [[nodiscard]] static auto guarded(F f) -> std::invoke_result_t<F> {
    try {
      return f();
    } catch (const std::bad_alloc&) {
      return fail(std::errc::not_enough_memory);
    }
  }
  [[nodiscard]] static Result<std::size_t> size_of(const Result<Written>& written) {
    if (!written) return fail(written.error());
    return written->size_bytes;
  }
  [[nodiscard]] Result<Written> write_at(std::optional<std::uint64_t> offset, std::span<const std::byte> from,
                                         Mtime mtime_ns) {
    auto file = access();
    detail::FlushForRoom<Traits> room{core_};
    return guarded([&] { return detail::write_copy(file, offset, from, room, mtime_ns); });
  }
  [[nodiscard]] Result<> zero(ByteRange range, bool extends, Mtime mtime_ns) {
    auto file = access();
    detail::FlushForRoom<Traits> room{core_};
    return guarded([&] { return detail::zero_bytes(file, range, extends, room, mtime_ns); });
  }

  /// Returns: the bytes that the store has now and had not.
  [[nodiscard]] Result<std::uint64_t> flush_some(std::size_t most_jobs, bool wait) {
    auto file = access();
    for (;;) {
      const auto arrivals = record_->arrivals.load();
      const auto settled = guarded([&] { return detail::flush_jobs<Traits>(file, whole_file, store_, most_jobs); });
      if (settled || !wait || settled.error() != std::errc::device_or_resource_busy) return settled;
      if (detail::flush_in_flight(*record_) || is_removing()) core_.wait_for_arrival(*record_, arrivals);
    }
  }
  [[nodiscard]] bool is_removing() const {
    std::shared_lock lock{lock_};
    return removing_;
  }
  detail::Flushed flush_for_room() noexcept override {
    using detail::Flushed;
    if (record_->dirty_bytes.load() == 0 || record_->abandoned.load()) return Flushed::nothing;
    const auto settled = flush_some(1, false);
    if (settled) return *settled != 0 ? Flushed::some : Flushed::nothing;
    if (settled.error() == std::errc::device_or_resource_busy) return Flushed::nothing;  // somebody is at it
    note_error(settled.error());
    core_.observer.on_flush_failed(meta_.id(), settled.error());
    return Flushed::failed;
  }

  /// Whether the store lacks the size, or a zero that is not held. Requires: the lock.
  [[nodiscard]] bool lacks_store() const {
    return meta_.store_lacks_size() || !meta_.stored().contains(ByteRange::between(0, meta_.size()));
  }
  /// Waits until no flush is in flight, without the lock; comes back with it, so that none begins.
  void wait_for_flush(std::unique_lock<detail::FileLock>& lock) {
    while (const auto arrivals = detail::flush_in_flight(*record_)) {
      lock.unlock();
      core_.wait_for_arrival(*record_, *arrivals);
      lock.lock();
    }
  }

  // Requires: deleted, and removing_ set by the caller; no lock.
  Result<> remove_from_store(FileState before) {
    detail::wait_for_flush(core_, *record_);
    const auto removed = record_->replaced.load() ? Result<>{fail(static_cast<std::errc>(ESTALE))}
                                                  : detail::ask_to_remove(store_, meta_.id());
    {
      std::lock_guard lock{lock_};
      removing_ = false;
      if (removed) {
        removed_ = true;
        core_.drop(*record_);
        meta_.set_size(0);
      } else {
        meta_.undo_deleted(before);
        if (record_->dirty_bytes.load() != 0 || lacks_store()) meta_.note_modified();
      }
      record_->arrivals.fetch_add(1);
    }
    core_.parking.wake(&record_->arrivals);
    return removed;
  }
  // The last OpenFile has gone: a file that was deleted meanwhile goes, too.
  void last_close() noexcept {
    {
      std::lock_guard lock{lock_};
      if (meta_.state() != FileState::deleted || removing_ || removed_ || opens_.load() != 0) return;
      removing_ = true;
    }
    if (const auto removed = remove_from_store(FileState::deleted); !removed) {
      core_.observer.on_flush_failed(meta_.id(), removed.error());
    }
  }

  // Errors of flushes that nobody asked for: a count of them, the last one, and whether anybody was told.
  void note_error(std::error_code error) noexcept {
    std::lock_guard lock{errors_mutex_};
    error_ = error;
    ++error_count_;
    error_seen_ = false;
  }

  ChunkPool<Traits>& pool_;
  detail::PoolCore<Traits>& core_;
  Store& store_;
  mutable detail::FileLock lock_;
  Metadata meta_;
  bool removing_ = false;                               // guarded by lock_, as meta_
  bool removed_ = meta_.state() == FileState::deleted;  // the same: the store has it no more
  const ChunkLayout layout_;
  detail::RecordRef<Traits> record_;
  detail::Mutex append_mutex_;
  detail::Atomic<std::uint32_t> opens_{0};
  detail::Mutex errors_mutex_;
  std::error_code error_;
  std::uint64_t error_count_ = 0;
  bool error_seen_ = false;
};

template <class Traits, class Store>
DirtyFile(ChunkPool<Traits>&, MetadataFor<Traits>, Store&) -> DirtyFile<Traits, Store>;

/// One opener's view of a file: it keeps a deleted file's bytes, and is told of background errors of its time.
///
/// Move-only. Thread safety: as the file's, except that it is closed and moved by one thread.
template <class Traits, ChunkStore<Traits> Store>
class OpenFile {
 public:
  OpenFile(OpenFile&& other) noexcept : file_{std::exchange(other.file_, nullptr)}, told_{other.told_.load()} {}
  OpenFile& operator=(OpenFile&& other) noexcept {
    std::swap(file_, other.file_);
    told_.store(other.told_.exchange(told_.load()));
    return *this;
  }
  ~OpenFile() {
    if (file_ != nullptr && file_->opens_.fetch_sub(1) == 1) file_->last_close();
  }

  [[nodiscard]] DirtyFile<Traits, Store>& file() const { return *file_; }
  [[nodiscard]] DirtyFile<Traits, Store>* operator->() const { return file_; }

  /// The error of a background flush since this opener was last told, once; it stays to be told to the other openers.
  /// `advance` false: only looks (a close of one of several descriptors).
  [[nodiscard]] Result<> take_error(bool advance = true) {
    std::lock_guard lock{file_->errors_mutex_};
    if (told_ == file_->error_count_) return {};
    if (advance) {
      told_ = file_->error_count_;
      file_->error_seen_ = true;
    }
    return fail(file_->error_);
  }

 private:
  friend class DirtyFile<Traits, Store>;
  explicit OpenFile(DirtyFile<Traits, Store>& file) : file_{&file} {
    file.opens_.fetch_add(1);
    std::lock_guard lock{file.errors_mutex_};
    // An error that nobody has seen is told to the next opener, too (as the kernel's errseq_t does).
    told_ = file.error_count_ - (file.error_count_ != 0 && !file.error_seen_ ? 1 : 0);
  }

  DirtyFile<Traits, Store>* file_;
  detail::Atomic<std::uint64_t> told_{0};
};

template <class Traits, ChunkStore<Traits> Store>
Result<> DirtyFile<Traits, Store>::invalidate(std::uint64_t version) {
  std::unique_lock lock{lock_};
  wait_for_flush(lock);  // it ends with a version of its own
  return guarded([&]() -> Result<> {
    const auto cleaned = detail::drop_clean(core_, *record_);
    if (!cleaned) return cleaned;
    meta_.clear_content_ids(0, UINT64_MAX);
    meta_.set_version(version);
    return {};
  });
}

}  // namespace tarn
