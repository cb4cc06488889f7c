// SPDX-License-Identifier: MIT
#pragma once

// A file that is read and written by many threads: the algorithms with the lock, the waiting and the write-back kept.
//
// Most filesystems hold one DirtyFile per inode, and one OpenFile per opener. The file is registered with its pool:
// when the pool is full of dirty bytes, a call that needs memory flushes some file for room, through that file's store.
//
// Thread safety: every call from any thread, except construction and destruction.
// Lock:          one phase-fair lock around the metadata. Reads take it shared for as long as it takes to latch their
//                chunks (none of what one chunk holds: detail/held_read.hpp), changes exclusively for one window; it is
//                never held across a load, a flush, or other code of the user's than a filler. A view runs under the
//                chunks' latches alone.

#include <sys/uio.h>

#include <cassert>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <system_error>
#include <utility>

#include <tarn/chunk_pool.hpp>
#include <tarn/detail/copy_bytes.hpp>
#include <tarn/detail/file_body.hpp>
#include <tarn/detail/file_change.hpp>
#include <tarn/detail/file_flush.hpp>
#include <tarn/detail/file_lock.hpp>
#include <tarn/detail/file_removal.hpp>
#include <tarn/detail/file_sync.hpp>
#include <tarn/detail/list_extents.hpp>
#include <tarn/detail/load_ahead.hpp>
#include <tarn/detail/room.hpp>
#include <tarn/flush.hpp>
#include <tarn/open_file.hpp>
#include <tarn/read_range.hpp>
#include <tarn/truncate.hpp>
#include <tarn/write_range.hpp>

namespace tarn {

/// `Store` is a ChunkStore<Traits>; if not, the compiler says in words what it lacks.
template <class Traits, class Store>
class DirtyFile final : private detail::Flushable {
  static_assert(detail::check_store<Store, Traits>());

 public:
  using Metadata = MetadataFor<Traits>;
  using FileId = typename Traits::FileId;
  using Mtime = std::optional<std::int64_t>;  ///< in ns; nothing: stays

  /// Takes over what building blocks have put into the pool under the id. A DirtyFile of the same id that still lives
  /// is abandoned (see abandon).
  /// Requires: `pool` and `store` outlive the file. No call of a building block on the id from here on.
  /// Errors:   throws system_error: EINVAL if the file's part is not a multiple of the pool's chunk, ENOBUFS if the
  ///           pool has no room for its record; EDEADLK inside the flush of a file of the id; bad_alloc.
  /// Blocks:   on a flush in flight of the last file of the id, and for room: with no bound.
  DirtyFile(ChunkPool<Traits>& pool, Metadata metadata, Store& store)
      : pool_{pool},
        core_{pool.core()},
        store_{store},
        body_{make_body(pool, std::move(metadata))},
        held_{body_->held_reads()} {
    body_->record->member = this;
    if (has_changes()) core_.pressure.list(*this);  // what building blocks left
  }
  /// Forgets what the pool holds of the file. Flush before: what is dirty is lost here, and the observer is told, also
  /// if that is no byte but a size, a hole or a new file (see is_dirty; of an abandoned one bytes alone are told).
  /// Requires: no call in progress, no operation, no OpenFile.
  ~DirtyFile() {
    const detail::Resumer resumer;
    auto& body = *body_;
    {
      detail::ExclusiveLock lock{body.lock};  // what ends later, under the lock, finds it gone
      body.gone = true;
      body.record->member = nullptr;
    }
    core_.pressure.leave(*this);
    assert(body.opens == 0 && "a DirtyFile is destroyed before its OpenFiles");
    assert(body.operations == 0 && "a DirtyFile is destroyed before its operations have completed");
    bool lost = false;
    std::uint64_t lost_bytes = 0;
    {
      detail::ExclusiveLock lock{body.lock};  // a flush that ends now settles before or finds nothing
      lost = body.is_dirty() && (body.record->dirty_bytes.load() != 0 || !body.record->abandoned.load());
      lost_bytes = core_.drop(*body.record);
    }
    core_.registry.disown(*body.record);
    if (lost) core_.tell_lost(body.id(), lost_bytes);
  }

  // ---- reading

  /// As read_range; with no chunk to be had, a store that answers at once fills `into` directly. For one that answers
  /// later some file is flushed for room, and if that makes none, the load has memory of its own for the while.
  [[nodiscard]] Result<std::size_t> read(std::uint64_t offset, std::span<std::byte> into,
                                         const CallOptions& options = {}) {
    if (held_.copy(offset, into)) return into.size();
    return guarded([&] {
      auto file = body_->access();
      detail::CopyRead read{file, offset, into, store_, room_for_read(options)};
      return detail::run_to_end(core_, options, read);
    });
  }
  /// As the visiting read_range; flushes for room if a load needs it.
  /// Requires: f calls nothing of tarn, this file's size() included: it may wait for this very thread. Debug builds
  ///           assert that, here and of a write's filler.
  template <std::invocable<ConstBuffers> F>
  [[nodiscard]] auto view(std::uint64_t offset, std::uint64_t size_bytes, F&& f, const CallOptions& options = {})
      -> Result<std::invoke_result_t<F&, ConstBuffers>> {
    if (auto shown = held_.show(offset, size_bytes, f)) return std::move(*shown);
    return guarded([&] {
      auto file = body_->access();
      detail::ViewRead read{file, offset, size_bytes, store_, detail::RoomRule::of(options), f};
      return detail::run_to_end(core_, options, read);
    });
  }
  /// As try_read_range; busy, perhaps, also while a change of the file is under way.
  [[nodiscard]] ReadOutcome<std::size_t> try_read(std::uint64_t offset, std::span<std::byte> into) {
    if (held_.copy(offset, into)) return ReadOutcome<std::size_t>::of(into.size());
    const detail::Resumer resumer;
    auto file = body_->access();
    try {
      return detail::try_read(file, offset, into);
    } catch (const std::bad_alloc&) {
      return ReadOutcome<std::size_t>::failed(std::make_error_code(std::errc::not_enough_memory));
    }
  }

  /// Asks the store for what is missing of the chunks that hold a byte of `range`, up to the file's end, so that a read
  /// finds it held or in flight. Waits for nothing: it stops at what would have to be waited for. Takes free memory and
  /// evicts clean chunks, but not while somebody waits for room; all loads ahead have a quarter of the budget at most.
  /// Returns: the bytes asked for. What becomes of them is told to nobody; what fails is missing, as before.
  /// Blocks:  on a store that answers at once: call it from a thread of yours then.
  std::uint64_t load_ahead(ByteRange range) {
    const detail::Resumer resumer;
    auto file = body_->access();
    return detail::load_ahead(file, range, store_);
  }

  // ---- changing; ENOBUFS only if no flush makes room and nobody else will

  /// As write_range.
  /// Blocks: on the stores of other files and of this one, if the pool is full; holding nothing. See CallOptions.
  [[nodiscard]] Result<std::size_t> write(std::uint64_t offset, std::span<const std::byte> from, Mtime mtime_ns = {},
                                          const CallOptions& options = {}) {
    return size_of(write_at(offset, from, mtime_ns, options));
  }
  /// As the write_range with a filler, which is called once a window. It runs under the file's lock, too: see view.
  template <std::invocable<MutableBuffers> Filler>
  [[nodiscard]] Result<std::size_t> write(std::uint64_t offset, std::uint64_t size_bytes, Filler&& filler,
                                          Mtime mtime_ns = {}, const CallOptions& options = {}) {
    return size_of(guarded([&] {
      auto file = body_->access();
      const auto room = detail::RoomRule::of(options);
      return detail::write_in_place(file, offset, size_bytes, filler, room, options, mtime_ns,
                                    detail::AskStore<Store>{store_});
    }));
  }
  /// As the write_range with spare chunks.
  [[nodiscard]] Result<std::size_t> write(std::uint64_t offset, SpareChunks<Traits>& from, std::size_t size_bytes,
                                          Mtime mtime_ns = {}, const CallOptions& options = {}) {
    return size_of(guarded([&] {
      auto file = body_->access();
      return detail::write_received(file, offset, from, size_bytes, detail::RoomRule::of(options), options, mtime_ns,
                                    detail::AskStore<Store>{store_});
    }));
  }
  /// A write that waits for no memory, and for no flush of one moment.
  /// Errors: EAGAIN if it would have to; else as write.
  [[nodiscard]] Result<std::size_t> try_write(std::uint64_t offset, std::span<const std::byte> from,
                                              Mtime mtime_ns = {}) {
    return write(offset, from, mtime_ns, {.when_full = WhenFull::would_block});
  }
  /// Writes at the end of the file as it is then; appends of one file never mix: one waits for another for as long as
  /// that takes, past a deadline of its own.
  /// Returns: where the bytes went, and how many were taken in.
  [[nodiscard]] Result<Written> append(std::span<const std::byte> from, Mtime mtime_ns = {},
                                       const CallOptions& options = {}) {
    const detail::Resumer resumer;  // around the mutex: whom we wake goes on without it
    if (!append_mutex_.try_lock()) {
      if (detail::Serving::is_for(&*body_->record)) return fail(std::errc::resource_deadlock_would_occur);
      append_mutex_.lock();
    }
    const detail::MutexLock one_at_a_time{append_mutex_, std::adopt_lock};
    return write_at(std::nullopt, from, mtime_ns, options);
  }
  /// As the free functions of these names.
  [[nodiscard]] Result<> truncate(std::uint64_t size_bytes, Mtime mtime_ns = {}, const CallOptions& options = {}) {
    return guarded([&] {
      auto file = body_->access();
      return detail::truncate_file(file, size_bytes, detail::RoomRule::of(options), options, mtime_ns);
    });
  }
  [[nodiscard]] Result<> punch_hole(ByteRange range, Mtime mtime_ns = {}, const CallOptions& options = {}) {
    return zero(range, false, mtime_ns, options);
  }
  /// `keep_size`: what of the range is past the size is ignored; else the size grows to its end.
  [[nodiscard]] Result<> zero_range(ByteRange range, bool keep_size, Mtime mtime_ns = {},
                                    const CallOptions& options = {}) {
    return zero(range, !keep_size, mtime_ns, options);
  }
  void set_mtime_ns(std::int64_t mtime_ns) {
    detail::ExclusiveLock lock{body_->lock};
    body_->meta.set_mtime_ns(mtime_ns);
  }

  // ---- write-back

  /// Stores what is dirty at the call; what becomes dirty meanwhile may go with it or stay.
  /// Errors: the store's own; what was not stored is still dirty. ESTALE if the file was abandoned. A deleted file has
  ///         nothing to store.
  /// Blocks: on the store; on a flush of the file that is in flight.
  [[nodiscard]] Result<> flush(const CallOptions& options = {}) {
    return guarded([&]() -> Result<> {
      detail::FileFlush flush{body_, store_, whole_file, SIZE_MAX, true};
      const auto settled = detail::run_to_end(core_, options, flush);
      return settled ? Result<>{} : fail(settled.error());
    });
  }
  /// Stores what is dirty at the call and makes it durable, with all that was stored before and is not (fsync; with
  /// SyncScope::data, fdatasync).
  /// Errors: as flush, and the store's sync's own: then what is held of what it was asked for is dirty again.
  /// Blocks: as flush; on a sync of the file that is in flight.
  [[nodiscard]] Result<> sync(const CallOptions& options = {}, SyncScope scope = SyncScope::all) {
    return guarded([&] {
      detail::FileSync<Traits, Store> sync{body_, store_, scope};
      return detail::run_to_end(core_, options, sync);
    });
  }
  /// Deletes the file: removes it from the store, at once if nobody has it open, else at the last close; until then it
  /// is read and changed as before, but not flushed any more. Once removed it is empty, and takes no change (ENOENT),
  /// whoever opens it.
  /// Errors: the store's own, and the file is as it was; one at the last close is told to the observer. ENOENT if it is
  ///         deleted already; ESTALE if another file has its id.
  /// Blocks: on a flush in flight, as the options say; on the store, as long as that takes.
  [[nodiscard]] Result<> remove(const CallOptions& options = {}) {
    const detail::Resumer resumer;
    auto& body = *body_;
    FileState before{};
    {
      detail::ExclusiveLock lock{body.lock};
      before = body.meta.state();
      if (before == FileState::deleted) return fail(std::errc::no_such_file_or_directory);
      body.meta.note_deleted();  // no flush begins from here on
      body.record->changed_since_ns = 0;
      if (body.opens.load() != 0) return {};
      body.removing = true;  // a flush that comes now waits for what the store says
    }
    return detail::remove_from_store(body, store_, before, options);
  }
  /// Makes every clean byte unheld: the store has another version of it now. Dirty bytes stay.
  /// Errors: ENOBUFS or ENOMEM: the version stays, and some bytes may be unheld. EAGAIN: a chunk has too many pins.
  /// Blocks: on a flush in flight.
  [[nodiscard]] Result<> invalidate(std::uint64_t version, const CallOptions& options = {}) {
    return guarded([&] { return detail::invalidate_file(*body_, version, options); });
  }
  /// After a conflict: takes what the store has now, `size_bytes` bytes of `version`, for what this file's changes are
  /// made to. Dirty bytes and holes made here stay, and so does a size that was changed here; what is clean is unheld.
  /// Errors: EFBIG; as invalidate.
  /// Blocks: on a flush in flight.
  [[nodiscard]] Result<> rebase(std::uint64_t size_bytes, std::uint64_t version, const CallOptions& options = {}) {
    return guarded([&] { return detail::rebase_file(*body_, size_bytes, version, options); });
  }
  /// Makes the file what the store has: `size_bytes` bytes of `version`. The one way to give up dirty bytes of a file
  /// that stays.
  /// Returns: the dirty bytes given up.
  /// Errors:  EFBIG; ENOMEM.
  /// Blocks:  on a flush in flight.
  [[nodiscard]] Result<std::uint64_t> discard_dirty(std::uint64_t size_bytes, std::uint64_t version,
                                                    const CallOptions& options = {}) {
    return guarded([&] { return detail::discard_dirty_of(*body_, size_bytes, version, options); });
  }

  /// Ends the file's way to the store, because its id is another file's now: no flush begins any more and nothing can
  /// be changed (ESTALE), and what is dirty goes with the file. Flush before, if it matters. It may still be removed,
  /// and read, until another DirtyFile is made with its id.
  /// Blocks: on a flush in flight, with no bound; not from inside it.
  void abandon() {
    const detail::Resumer resumer;
    body_->record->abandoned = true;
    (void)detail::wait_for_flush(core_, body_->record);
  }

  // ---- looking

  /// A copy of the metadata, of one moment.
  [[nodiscard]] Metadata metadata() const {
    detail::SharedLock lock{body_->lock};
    return body_->meta;
  }
  [[nodiscard]] std::uint64_t size() const {
    detail::SharedLock lock{body_->lock};
    return body_->meta.size();
  }
  [[nodiscard]] std::int64_t mtime_ns() const {
    detail::SharedLock lock{body_->lock};
    return body_->meta.mtime_ns();
  }
  /// Whether a sync would have anything to make durable.
  [[nodiscard]] bool needs_sync() const {
    detail::SharedLock lock{body_->lock};
    return body_->meta.needs_sync() || body_->syncing;
  }
  /// Whether a flush would have anything to store.
  [[nodiscard]] bool is_dirty() const {
    detail::SharedLock lock{body_->lock};
    return body_->is_dirty();
  }
  /// Where the file has bytes, held or stored; the rest of it reads as zero (SEEK_DATA, SEEK_HOLE). A hole that was
  /// flushed is stored, as zeros: then only the store knows better.
  /// Errors: throws bad_alloc; system_error(EAGAIN) if a chunk has too many pins.
  [[nodiscard]] ExtentSet data_extents(ByteRange range) const {
    const detail::Resumer resumer;
    detail::SharedLock lock{body_->lock};
    auto data = body_->meta.stored();
    data.add(detail::list_extents(core_, *body_->record, &detail::Chunk<Traits>::valid));
    return data.intersect(range.intersect(ByteRange::between(0, body_->meta.size())));
  }

  /// Opens the file. Requires: the OpenFile does not outlive the file. Its end may remove the file: see remove.
  [[nodiscard]] OpenFile<Traits, Store> open(const ReadAheadOptions& ahead = {}) {
    return OpenFile<Traits, Store>{*this, ahead};
  }
  [[nodiscard]] ChunkPool<Traits>& pool() const { return pool_; }

  /// The inside, for tarn's own operations.
  [[nodiscard]] const std::shared_ptr<detail::FileBody<Traits>>& body() const { return body_; }
  [[nodiscard]] Store& store() const { return store_; }

 private:
  friend class OpenFile<Traits, Store>;
  using Body = detail::FileBody<Traits>;

  [[nodiscard]] static std::shared_ptr<Body> make_body(ChunkPool<Traits>& pool, Metadata metadata) {
    const detail::Resumer resumer;
    const auto layout = pool.layout(metadata);
    if (!layout) throw std::system_error{layout.error(), "tarn::DirtyFile: part_bytes is not a multiple of the chunk"};
    auto& core = pool.core();
    detail::ChunkReserve<Traits> reserve{core};
    detail::Room<Traits> room{core, detail::RoomRule::of({})};
    for (;;) {
      detail::RecordRef<Traits> retired;
      auto record = core.registry.own(core.file_key(metadata.id()), retired);
      // A flush of the id's last files may leave bytes anywhere, now or while we wait for it.
      const bool leaves_bytes = record && detail::flush_in_flight(retired ? *retired : *record, true);
      if (const auto why = retired ? detail::wait_for_flush(core, retired, {}, true) : std::error_code{}; why) {
        core.registry.disown(*record);
        throw std::system_error{why, "tarn::DirtyFile: made inside the flush of a file of its id"};
      }
      if (record) {
        if (leaves_bytes) metadata.note_store_size_unknown(max_offset);
        try {
          return std::make_shared<Body>(core, std::move(metadata), *layout, std::move(record));
        } catch (...) {
          core.registry.disown(*record);  // or the next file of the id would take it for a file that lives
          throw;
        }
      }
      const detail::Need<Traits> need{.chunks = 0, .bytes = core.record_and_table_bytes};
      for (;;) {
        const auto progress = room.step(reserve, need);
        if (progress == detail::Progress::done) break;
        if (progress == detail::Progress::waiting) (void)detail::block(core, room.wait(), {});
      }
      if (room.refusal()) throw std::system_error{room.refusal(), "tarn::DirtyFile: no room for its record"};
    }
  }

  // What wakes somebody is let go on after it; what has no memory is an error.
  template <class F>
  [[nodiscard]] static auto guarded(F f) -> std::invoke_result_t<F> {
    const detail::Resumer resumer;
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
  [[nodiscard]] detail::RoomRule room_for_read(const CallOptions& options) {
    if constexpr (detail::AnswersLoadLater<Store, Traits>) return detail::RoomRule::of(options);
    return {};
  }
  [[nodiscard]] Result<Written> write_at(std::optional<std::uint64_t> offset, std::span<const std::byte> from,
                                         Mtime mtime_ns, const CallOptions& options) {
    return guarded([&] {
      auto file = body_->access();
      return detail::write_copy(file, offset, from, detail::RoomRule::of(options), options, mtime_ns,
                                detail::AskStore<Store>{store_});
    });
  }
  [[nodiscard]] Result<> zero(ByteRange range, bool extends, Mtime mtime_ns, const CallOptions& options) {
    return guarded([&] {
      auto file = body_->access();
      return detail::zero_bytes(file, range, extends, detail::RoomRule::of(options), options, mtime_ns);
    });
  }

  detail::Flushed flush_for_room() noexcept override {
    return body_->record->dirty_bytes.load() == 0 ? detail::Flushed::nothing : flush_one_job();
  }
  [[nodiscard]] detail::Flushed flush_one_job() noexcept {
    using detail::Flushed;
    using Settled = std::optional<std::uint64_t>;  // nothing: the store answers later, and the job settles itself
    if (body_->record->abandoned.load()) return Flushed::nothing;
    bool asked = false;
    const auto flushed = guarded([&]() -> Result<Settled> {
      detail::FileFlush flush{body_, store_, whole_file, 1, false};
      const auto progress = flush.step();
      asked = flush.asked();
      if (progress == detail::Progress::waiting) return Settled{};
      const auto done = flush.take_result();
      return done ? Result<Settled>{Settled{*done}} : fail(done.error());
    });
    if (flushed) return !*flushed ? Flushed::started : **flushed != 0 ? Flushed::some : Flushed::nothing;
    const bool busy = !asked && flushed.error() == std::errc::device_or_resource_busy;
    if (busy) return Flushed::nothing;  // somebody is at it
    body_->note_error(flushed.error());
    return Flushed::failed;
  }
  bool has_changes() const noexcept override {
    return body_->record->dirty_bytes.load() != 0 || body_->record->changed_since_ns.load() != 0;
  }
  detail::Flushed flush_older_than(std::int64_t ns) noexcept override {
    const auto since = body_->record->changed_since_ns.load();
    if (since == 0 || since >= ns) return detail::Flushed::nothing;
    return flush_one_job();
  }

  ChunkPool<Traits>& pool_;
  detail::PoolCore<Traits>& core_;
  Store& store_;
  const std::shared_ptr<Body> body_;
  const detail::HeldReads<Traits> held_;
  detail::CheckedMutex append_mutex_;
};

template <class Traits, class Store>
DirtyFile(ChunkPool<Traits>&, MetadataFor<Traits>, Store&) -> DirtyFile<Traits, Store>;

}  // namespace tarn
