// SPDX-License-Identifier: MIT
#pragma once

// One window of a write. The life of a write:
//
//   look     file lock, chunks pinned and exclusively latched; where the file has none, reserved ones are attached,
//            empty, latched from birth; with too few reserved: let go of everything, get room, look again
//   take out the bytes leave `loading` and `lent`: from here on no load covers them and no flush settles them
//   fill     into the chunks' own memory; into fresh memory where a flush reads the old, or where the user's filler
//            would write over valid bytes (it may throw, and then nothing has changed)
//   commit   cannot fail: memory swapped, bytes valid and dirty, then the size
//
// Whatever fails before the commit changes nothing that shows: an attached chunk that is still empty is detached again,
// and bytes that were taken out of a load or a flush are only loaded or flushed once more.

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <system_error>
#include <utility>

#include <tarn/detail/file_lock.hpp>
#include <tarn/detail/read_loop.hpp>

namespace tarn::detail {

/// Of `range`, no load covers a byte any more, and no flush settles one. Errors: as FileRecord::take_out.
template <class Traits>
void take_out_to_write(PoolCore<Traits>& core, FileRecord<Traits>& record, ByteRange range)
    TARN_REQUIRES(record.table_mutex) {
  if (const auto lent_bytes = core.take_out(record, range); lent_bytes != 0) {
    core.counters.flush_redirtied_bytes.fetch_add(lent_bytes, std::memory_order_relaxed);
  }
}

/// The bytes `written` of the chunk are the file's now, and dirty.
/// Requires: the exclusive latch; its lists have room.
template <class Traits>
void note_chunk_written(PoolCore<Traits>& core, FileRecord<Traits>& record, Chunk<Traits>& chunk,
                        ByteRange written) noexcept {
  if (!chunk.dirty.contains(written)) {
    const auto dirty_before_bytes = chunk.dirty.size_bytes_in(written);
    if (!chunk.valid.contains(written)) {
      core.counters.valid_bytes.fetch_add(written.size_bytes() - chunk.valid.size_bytes_in(written),
                                          std::memory_order_relaxed);
    }
    const ExtentsChange<Traits> change{core, chunk};
    chunk.valid.add(written, core.chunk_bytes());
    chunk.dirty.add(written, core.chunk_bytes());
    core.count_dirty(record, written.size_bytes(), dirty_before_bytes);
  }
  core.touch(chunk);
}

/// Bytes up to `end` were written to the file.
template <class File>
void note_file_written(File& file, std::uint64_t end, std::optional<std::int64_t> mtime_ns) TARN_REQUIRES(file.lock) {
  file.meta.set_size(std::max(file.meta.size(), end));
  file.meta.note_modified();
  if (mtime_ns) file.meta.set_mtime_ns(*mtime_ns);
  if (file.meta.state() != FileState::deleted) file.core.note_changed(*file.record);
}

/// What a write of the range may make dirty.
template <class File>
[[nodiscard]] Need<typename File::TraitsType> need_to_write(const File& file, ByteRange range) {
  Need<typename File::TraitsType> need;
  need.chunks_to_dirty = file.core.layout.chunks_of(range).count();
  need.bytes_to_dirty = range.size_bytes();
  need.file = &*file.record;
  need.member = file.record->member.load();
  return need;
}

template <class Traits>
class WriteWindow {
 public:
  using PoolChunk = Chunk<Traits>;
  using Record = FileRecord<Traits>;

  explicit WriteWindow(PoolCore<Traits>& core) : core_{core}, latched_{core} {}
  WriteWindow(const WriteWindow&) = delete;
  WriteWindow& operator=(const WriteWindow&) = delete;
  ~WriteWindow() { undo(); }

  enum class Ready : std::uint8_t { yes, need_room, need_tables, again, too_many_pins };  // tables: more than said

  /// Gets the chunks of `range` ready to be filled. With `fresh_over_valid`, no valid byte is overwritten in place.
  /// Returns: need_room with what must be had more in need(); need_tables if what need() says was had and its bytes are
  ///          too few; or again: a chunk came meanwhile.
  /// Errors:  throws bad_alloc.
  [[nodiscard]] Ready prepare(Record& record, ByteRange range, ChunkReserve<Traits>& reserve, bool fresh_over_valid) {
    record_ = &record;
    const auto chunks = core_.layout.chunks_of(range);
    const auto count = static_cast<std::size_t>(chunks.count());
    targets_.reserve(count);
    latched_.reserve(count);
    std::size_t absent = 0;
    {
      MutexLock table{record.table_mutex};
      for (auto index = chunks.first; index < chunks.last; ++index) {
        auto* const chunk = record.table.find(index);
        if (chunk == nullptr) {
          ++absent;
        } else {
          if (!chunk->state.try_pin()) return Ready::too_many_pins;
          latched_.hold(*chunk);
        }
        targets_.push_back({.index = index, .chunk = chunk, .in_chunk = core_.layout.in_chunk(index, range)});
      }
    }
    if (!has(reserve, absent)) return Ready::need_room;
    latched_.latch(LatchMode::exclusive);
    std::size_t swaps = 0;
    for (auto& target : targets_) {
      if (target.chunk == nullptr) continue;
      if (target.chunk->state.is(ChunkState::detached)) return Ready::again;
      target.moves = target.chunk->state.is(ChunkState::in_flush);
      target.swaps = target.moves || (fresh_over_valid && target.chunk->valid.intersects(target.in_chunk));
      swaps += target.swaps ? 1 : 0;
    }
    if (!has(reserve, absent + swaps)) return Ready::need_room;
    for (auto& target : targets_) {
      if (target.swaps) target.fresh = &reserve.take();
    }
    need_ = {.chunks = absent + swaps, .bytes = PoolCore<Traits>::record_and_table_bytes};
    if (const auto ready = attach_absent(reserve, range); ready != Ready::yes) return ready;
    for (auto& target : targets_) {
      if (const auto lacking = prepare_extents(core_, *target.chunk); lacking != 0) {
        need_ = {.chunks = absent + swaps, .bytes = 2 * lacking};
        return Ready::need_room;
      }
    }
    return Ready::yes;
  }
  [[nodiscard]] const Need<Traits>& need() const { return need_; }

  /// Calls f(memory, in_chunk) for the memory of each chunk of the range, in order: where in it the new bytes go. Where
  /// that is all of it, it may be exchanged for other memory of the pool, which has them.
  template <class F>
  void for_each_memory(F f) {
    for (auto& target : targets_) f(target.swaps ? target.fresh->memory : target.chunk->memory, target.in_chunk);
  }
  /// Calls f(memory, size) for the memory of the range, in order: where the new bytes go.
  template <class F>
  void for_each_target(F f) {
    for_each_memory([&](std::byte* memory, ByteRange in_chunk) {
      f(memory + in_chunk.offset(), static_cast<std::size_t>(in_chunk.size_bytes()));
    });
  }

  /// The first `size_bytes` bytes of the range have been filled: they are the file's now, and dirty.
  void commit(std::uint64_t size_bytes) noexcept {
    for (auto& target : targets_) {
      const auto n = std::min(size_bytes, target.in_chunk.size_bytes());
      size_bytes -= n;
      if (n == 0) break;
      commit(target, ByteRange::between(target.in_chunk.offset(), target.in_chunk.offset() + n));
    }
    MutexLock table{record_->table_mutex};
    for (auto& target : targets_) core_.settle_dirty(*target.chunk);
  }

 private:
  struct Target {
    std::uint64_t index;
    PoolChunk* chunk;
    ByteRange in_chunk;
    PoolChunk* fresh = nullptr;  // a reserved chunk whose memory takes the place of the chunk's own
    bool swaps = false;          // into fresh memory...
    bool moves = false;          // ...since a flush reads the old
    bool attached = false;       // the chunk is new, ours
  };

  [[nodiscard]] bool has(const ChunkReserve<Traits>& reserve, std::size_t chunks) {
    if (reserve.size() >= chunks) return true;
    need_ = {.chunks = chunks, .bytes = PoolCore<Traits>::record_and_table_bytes};
    return false;
  }

  [[nodiscard]] Ready attach_absent(ChunkReserve<Traits>& reserve, ByteRange range) {
    MutexLock table{record_->table_mutex};
    for (auto& target : targets_) {
      if (target.chunk == nullptr && record_->table.find(target.index) != nullptr) return Ready::again;
    }
    take_out_to_write(core_, *record_, range);
    for (auto& target : targets_) {
      if (target.chunk != nullptr) continue;
      if (!record_->table.reserve(target.index, core_.nodes)) return Ready::need_tables;
      target.chunk = &reserve.take();
      target.attached = true;
      core_.attach(*target.chunk, *record_, target.index);
      latched_.hold(*target.chunk, LatchMode::exclusive);
    }
    return Ready::yes;
  }

  void commit(Target& target, ByteRange written) noexcept {
    auto& chunk = *target.chunk;
    if (target.swaps) {
      keep_around(chunk, *target.fresh, written);
      auto* const fresh = std::exchange(target.fresh, nullptr);
      if (target.moves) {
        core_.move_to(chunk, *fresh);
      } else {
        std::swap(chunk.memory, fresh->memory);
        core_.free_chunk(fresh);
      }
    }
    note_chunk_written(core_, *record_, chunk, written);
  }
  // Copies the valid bytes outside `written` to the fresh memory.
  void keep_around(const PoolChunk& chunk, const PoolChunk& fresh, ByteRange written) noexcept {
    const auto copy = [&](ByteRange run) {
      std::memcpy(fresh.memory + run.offset(), chunk.memory + run.offset(), static_cast<std::size_t>(run.size_bytes()));
    };
    chunk.valid.for_each_in(ByteRange::between(0, written.offset()), copy);
    chunk.valid.for_each_in(ByteRange::between(written.end(), core_.chunk_bytes()), copy);
  }

  void undo() noexcept {
    for (auto& target : targets_) {
      if (target.fresh != nullptr) core_.free_chunk(target.fresh);
    }
    if (record_ == nullptr) return;
    MutexLock table{record_->table_mutex};
    for (auto& target : targets_) {  // attached for a write that then took nothing in
      if (!target.attached || !target.chunk->valid.empty()) continue;
      if (!target.chunk->state.is(ChunkState::detached)) core_.detach(*target.chunk, *record_);
    }
  }

  PoolCore<Traits>& core_;
  Record* record_ = nullptr;
  LatchedChunks<Traits> latched_;
  SmallVector<Target, 20> targets_;
  Need<Traits> need_;
};

/// Writes the first window's worth of [offset, offset + size_bytes), at most, in steps (see waiting.hpp): fill(window)
/// puts bytes into the memory that for_each_target names and answers how many from the start it filled. With no offset,
/// it is the size.
/// Errors:  ENOENT for a deleted file, ESTALE for an abandoned one, EFBIG, ENOBUFS, EAGAIN, the filler's own; nothing
///          changed then. A step throws bad_alloc, and passes on what fill throws.
template <class File>
class WriteLoop {
 public:
  using Traits = typename File::TraitsType;

  WriteLoop(File& file, std::optional<std::uint64_t> offset, std::uint64_t size_bytes, bool fresh_over_valid,
            Room<Traits>& room, std::optional<std::int64_t> mtime_ns)
      : file_{file},
        offset_{offset},
        size_bytes_{size_bytes},
        fresh_over_valid_{fresh_over_valid},
        room_{room},
        mtime_ns_{mtime_ns},
        reserve_{file.core} {}

  template <class Fill>
  [[nodiscard]] Progress step(Fill& fill) {
    if (!std::exchange(throttled_, true)) room_.throttle();
    while (!result_) {
      if (needs_room_) {
        if (const auto progress = room_.step(reserve_, need_); progress != Progress::done) return progress;
        needs_room_ = false;
        if (const auto refusal = room_.refusal(); refusal) {
          result_.emplace(fail(refusal));
          break;
        }
      }
      look(fill);
    }
    return Progress::done;
  }
  /// Where the bytes went, and how many were taken in.
  [[nodiscard]] const Result<std::pair<std::uint64_t, std::uint64_t>>& result() const { return *result_; }
  [[nodiscard]] WaitFor<Traits> wait() const { return room_.wait(); }

 private:
  using Ready = typename WriteWindow<Traits>::Ready;

  template <class Fill>
  void look(Fill& fill) {
    ExclusiveLock lock{file_.lock};
    if (const auto refusal = file_.refusal(); refusal) return end(fail(refusal));
    const auto at = offset_.value_or(file_.meta.size());
    const auto range = ByteRange::at(at, size_bytes_);
    if (!range) return end(fail(std::errc::file_too_large));
    need_ = need_to_write(file_, *range);
    needs_room_ = !need_.may_dirty(file_.core);
    if (needs_room_) return;
    WriteWindow<Traits> window{file_.core};
    const auto ready = window.prepare(*file_.record, *range, reserve_, fresh_over_valid_);
    if (ready == Ready::again) return;
    if (ready == Ready::too_many_pins) return end(fail(std::errc::resource_unavailable_try_again));
    if (ready != Ready::yes) {
      need_.chunks = window.need().chunks;
      if (ready == Ready::need_tables) more_bytes_ *= 2;
      need_.bytes = std::max(window.need().bytes, more_bytes_);
      needs_room_ = true;
      return;
    }
    const Result<std::size_t> filled = fill(window);
    if (!filled) return end(fail(filled.error()));
    assert(*filled <= size_bytes_ && "a filler filled more than it was given");
    const auto n = std::min<std::uint64_t>(*filled, size_bytes_);
    if (n != 0) {
      window.commit(n);
      note_file_written(file_, at + n, mtime_ns_);
    }
    end(std::pair{at, n});
  }
  template <class T>
  void end(T&& result) {
    result_.emplace(std::forward<T>(result));
  }

  File& file_;
  const std::optional<std::uint64_t> offset_;
  const std::uint64_t size_bytes_;
  const bool fresh_over_valid_;
  Room<Traits>& room_;
  const std::optional<std::int64_t> mtime_ns_;
  ChunkReserve<Traits> reserve_;
  std::uint64_t more_bytes_ = PoolCore<Traits>::record_and_table_bytes;  // enough for most; doubled where it was not
  Need<Traits> need_;
  std::optional<Result<std::pair<std::uint64_t, std::uint64_t>>> result_;
  bool needs_room_ = false, throttled_ = false;
};

}  // namespace tarn::detail
