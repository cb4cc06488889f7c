// SPDX-License-Identifier: MIT
#pragma once

// Changing the size, and turning bytes into zeros: truncate, punch_hole, zero_range.
//
// All three let go of bytes: what they take is neither held nor stored afterwards, so it reads as zero and costs
// nothing, and the next flush reports it to the store as zeros. No memory is written, so a flush in flight goes on
// reading what it took.

#include <cstdint>
#include <optional>
#include <type_traits>

#include <tarn/chunk_pool.hpp>
#include <tarn/detail/file_lock.hpp>
#include <tarn/detail/write_window.hpp>
#include <tarn/read_range.hpp>

namespace tarn {
namespace detail {

/// Lets go of the bytes of one range. Chunks that lie wholly inside are detached; of the one or two at the borders the
/// extents change, under their exclusive latches.
template <class Traits>
class Removal {
 public:
  explicit Removal(PoolCore<Traits>& core) : core_{core}, latched_{core} {}

  /// Latches the border chunks and makes sure that nothing can fail any more but take_out.
  /// Returns: the bytes that the budget lacks; 0 if all is well.
  /// Errors:  EAGAIN if a border chunk has too many pins; throws bad_alloc.
  [[nodiscard]] Result<std::uint64_t> prepare(FileRecord<Traits>& record, ByteRange range) {
    record_ = &record;
    range_ = range;
    const auto chunks = core_.layout.chunks_of(range);
    latched_.reserve(2);
    {
      MutexLock table{record_->table_mutex};
      const auto count = chunks.count();
      if ((count > 0 && !add_border(chunks.first, borders_[0])) ||
          (count > 1 && !add_border(chunks.last - 1, borders_[1]))) {
        return fail(std::errc::resource_unavailable_try_again);
      }
    }
    latched_.latch(LatchMode::exclusive);
    for (auto* const chunk : borders_) {
      if (chunk == nullptr) continue;
      if (const auto lacking = prepare_extents(core_, *chunk); lacking != 0) return lacking;
    }
    return std::uint64_t{0};
  }

  /// `stored`: of the file, before. Errors: throws bad_alloc, and nothing shows.
  void take_out(const ExtentSet& stored) {
    MutexLock table{record_->table_mutex};
    (void)core_.take_out(*record_, range_);
    stored.for_each_in(range_, [&](ByteRange gone) {  // a hole cut again changes nothing
      record_->table_mutex.is_held();
      record_->note_cut(gone);
    });
  }

  void commit() noexcept {
    for (auto* const chunk : borders_) {
      if (chunk != nullptr) cut(*chunk);
    }
    MutexLock table{record_->table_mutex};
    const auto chunks = core_.layout.chunks_of(range_);
    for (auto from = chunks.first; from < chunks.last;) {
      const auto [index, chunk] = record_->table.next(from);
      if (chunk == nullptr || index >= chunks.last) break;
      from = index + 1;
      const bool border = chunk == borders_[0] || chunk == borders_[1];
      if (border) core_.settle_dirty(*chunk);
      // A load may have landed at a border since we looked: clean bytes, and the store has those outside the range.
      if (!border || chunk->valid.empty()) core_.detach(*chunk, *record_);
    }
  }

 private:
  using PoolChunk = Chunk<Traits>;

  // Returns: false if the chunk has too many pins.
  [[nodiscard]] bool add_border(std::uint64_t index, PoolChunk*& border) TARN_REQUIRES(record_->table_mutex) {
    const auto whole = ByteRange::between(0, core_.chunk_bytes());
    auto* const chunk = record_->table.find(index);
    if (chunk == nullptr || core_.layout.in_chunk(index, range_) == whole) return true;
    if (!chunk->state.try_pin()) return false;
    latched_.hold(*chunk);
    border = chunk;
    return true;
  }

  void cut(PoolChunk& chunk) noexcept {
    const auto in_chunk = core_.layout.in_chunk(chunk.index, range_);
    const auto dirty_bytes = chunk.dirty.size_bytes_in(in_chunk);
    core_.counters.valid_bytes.fetch_sub(chunk.valid.size_bytes_in(in_chunk), std::memory_order_relaxed);
    const ExtentsChange<Traits> change{core_, chunk};
    chunk.valid.subtract(in_chunk, core_.chunk_bytes());
    chunk.dirty.subtract(in_chunk, core_.chunk_bytes());
    core_.count_dirty(*record_, 0, dirty_bytes);
    if (dirty_bytes != 0) core_.room_queue.note();  // under the file's limit
  }

  PoolCore<Traits>& core_;
  FileRecord<Traits>* record_ = nullptr;
  LatchedChunks<Traits> latched_;
  ByteRange range_;
  PoolChunk* borders_[2] = {nullptr, nullptr};
};

/// Removes what range_of(meta) says and then calls settle(meta), all as one change, in steps (see detail/waiting.hpp).
template <class File, class RangeOf, class Settle>
class RemoveBytes {
 public:
  using Traits = typename File::TraitsType;
  using Answer = void;

  RemoveBytes(File& file, const RoomRule& room, std::optional<std::int64_t> mtime_ns, RangeOf range_of, Settle settle)
      : file_{file},
        room_{file.core, room},
        mtime_ns_{mtime_ns},
        range_of_{std::move(range_of)},
        settle_{std::move(settle)},
        reserve_{file.core} {}

  /// Errors: throws bad_alloc.
  [[nodiscard]] Progress step() {
    for (;;) {
      if (need_.bytes != 0) {
        if (const auto progress = room_.step(reserve_, need_); progress != Progress::done) return progress;
        if (room_.refusal()) return end(room_.refusal());
      }
      ExclusiveLock lock{file_.lock};
      if (const auto refusal = file_.refusal(); refusal) return end(refusal);
      const ByteRange range = range_of_(file_.meta);
      Removal<Traits> removal{file_.core};
      const auto lacking = removal.prepare(*file_.record, range);
      if (!lacking) return end(lacking.error());
      need_.bytes = *lacking;
      if (need_.bytes != 0) continue;
      removal.take_out(file_.meta.stored());
      file_.meta.note_not_stored(range);
      removal.commit();
      settle_(file_.meta);
      file_.meta.note_modified();
      if (mtime_ns_) file_.meta.set_mtime_ns(*mtime_ns_);
      if (file_.meta.state() != FileState::deleted) file_.core.note_changed(*file_.record);
      return end({});
    }
  }
  [[nodiscard]] WaitFor<Traits> wait() const { return room_.wait(); }
  [[nodiscard]] Result<> give_up(std::error_code why) const { return fail(why); }
  [[nodiscard]] Result<> take_result() const { return error_ ? Result<>{fail(error_)} : Result<>{}; }

 private:
  Progress end(std::error_code error) {
    error_ = error;
    return Progress::done;
  }

  File& file_;
  Room<Traits> room_;
  const std::optional<std::int64_t> mtime_ns_;
  RangeOf range_of_;
  Settle settle_;
  ChunkReserve<Traits> reserve_;
  Need<Traits> need_;
  std::error_code error_;
};

template <class File>
[[nodiscard]] Result<> truncate_file(File& file, std::uint64_t size_bytes, const RoomRule& room,
                                     const CallOptions& options, std::optional<std::int64_t> mtime_ns) {
  if (size_bytes > max_offset) return fail(std::errc::file_too_large);
  RemoveBytes removal{file, room, mtime_ns,
                      [&](const auto& meta) {
                        return size_bytes < meta.size() ? ByteRange::between(size_bytes, max_offset) : ByteRange{};
                      },
                      [&](auto& meta) {
                        meta.set_size(size_bytes);
                        meta.note_size_set();
                      }};
  return run_to_end(file.core, options, removal);
}

/// `extends`: the size grows to the end of the range.
template <class File>
[[nodiscard]] Result<> zero_bytes(File& file, ByteRange range, bool extends, const RoomRule& room,
                                  const CallOptions& options, std::optional<std::int64_t> mtime_ns) {
  RemoveBytes removal{file, room, mtime_ns,
                      [&](const auto& meta) { return range.intersect(ByteRange::between(0, meta.size())); },
                      [&](auto& meta) {
                        if (!extends || range.empty() || range.end() <= meta.size()) return;
                        meta.set_size(range.end());
                        meta.note_size_set();
                      }};
  return run_to_end(file.core, options, removal);
}

}  // namespace detail

/// Sets the size: what is past it is gone, and reads as zero if the file grows again; growth reads as zero.
///
/// Errors:   EFBIG past max_offset; ENOENT for a deleted file; ENOBUFS; EINVAL for a part that is not a multiple of the
///           chunk; ENOMEM. Nothing has changed then.
/// Requires: `meta` has one owner at a time.
/// Blocks:   while a view or a with_data of the chunk at the new end runs. Never on the store.
/// Cost:     O(chunks held past the new size); growth is O(1) and takes no memory.
template <class Traits>
[[nodiscard]] Result<> truncate(ChunkPool<Traits>& pool, std::type_identity_t<MetadataFor<Traits>>& meta,
                                std::uint64_t size_bytes) {
  return detail::with_file(pool, meta, [&](auto& file) -> Result<> {
    return detail::truncate_file(file, size_bytes, detail::RoomRule{}, {}, std::nullopt);
  });
}

/// Makes the bytes of the range zero and gives back their memory; the size stays. What of the range is past it is
/// ignored. Errors, blocks, requires: as truncate.
template <class Traits>
[[nodiscard]] Result<> punch_hole(ChunkPool<Traits>& pool, std::type_identity_t<MetadataFor<Traits>>& meta,
                                  ByteRange range) {
  return detail::with_file(pool, meta, [&](auto& file) -> Result<> {
    return detail::zero_bytes(file, range, false, detail::RoomRule{}, {}, std::nullopt);
  });
}

/// Makes the bytes of the range zero, and the file reach to its end. Errors, blocks, requires: as truncate.
template <class Traits>
[[nodiscard]] Result<> zero_range(ChunkPool<Traits>& pool, std::type_identity_t<MetadataFor<Traits>>& meta,
                                  ByteRange range) {
  return detail::with_file(pool, meta, [&](auto& file) -> Result<> {
    return detail::zero_bytes(file, range, true, detail::RoomRule{}, {}, std::nullopt);
  });
}

}  // namespace tarn
