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
#include <mutex>
#include <optional>
#include <span>
#include <system_error>
#include <utility>

#include <tarn/detail/read_loop.hpp>

namespace tarn::detail {

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
      std::lock_guard table{record.table_mutex};
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
  [[nodiscard]] const Need& need() const { return need_; }

  /// Calls f(memory, size) for the memory of the range, in order: where the new bytes go.
  template <class F>
  void for_each_target(F f) {
    for (auto& target : targets_) {
      auto* const memory = target.swaps ? target.fresh->memory : target.chunk->memory;
      f(memory + target.in_chunk.offset(), static_cast<std::size_t>(target.in_chunk.size_bytes()));
    }
  }

  /// The first `size_bytes` bytes of the range have been filled: they are the file's now, and dirty.
  void commit(std::uint64_t size_bytes) noexcept {
    for (auto& target : targets_) {
      const auto n = std::min(size_bytes, target.in_chunk.size_bytes());
      size_bytes -= n;
      if (n == 0) break;
      commit(target, ByteRange::between(target.in_chunk.offset(), target.in_chunk.offset() + n));
    }
    std::lock_guard table{record_->table_mutex};
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
    std::lock_guard table{record_->table_mutex};
    for (auto& target : targets_) {
      if (target.chunk == nullptr && record_->table.find(target.index) != nullptr) return Ready::again;
    }
    record_->take_out(range);
    for (auto& target : targets_) {
      if (target.chunk != nullptr) continue;
      if (!record_->table.reserve(target.index, core_.budget)) return Ready::need_tables;
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
    std::uint64_t dirty_before_bytes = 0;
    chunk.dirty.for_each_in(written, [&](ByteRange run) { dirty_before_bytes += run.size_bytes(); });
    const ExtentsChange<Traits> change{core_, chunk};
    chunk.valid.add(written, core_.chunk_bytes());
    chunk.dirty.add(written, core_.chunk_bytes());
    core_.count_dirty(*record_, written.size_bytes(), dirty_before_bytes);
    PoolCore<Traits>::touch(chunk);
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
    std::lock_guard table{record_->table_mutex};
    for (auto& target : targets_) {  // attached for a write that then took nothing in
      if (!target.attached || !target.chunk->valid.empty()) continue;
      if (!target.chunk->state.is(ChunkState::detached)) core_.detach(*target.chunk);
    }
  }

  PoolCore<Traits>& core_;
  Record* record_ = nullptr;
  LatchedChunks<Traits> latched_;
  SmallVector<Target, 20> targets_;
  Need need_;
};

/// Writes the first window's worth of [offset, offset + size_bytes), at most: fill(window) puts bytes into the memory
/// that for_each_target names and answers how many from the start it filled. With `append`, the offset is the size.
/// Returns: the offset written at and the bytes taken in.
/// Errors:  ENOENT for a deleted file, EFBIG, ENOBUFS, EAGAIN, the filler's own; nothing changed then. Passes on what
///          fill throws.
template <class File, class Room, class Fill>
[[nodiscard]] Result<std::pair<std::uint64_t, std::uint64_t>> write_one_window(
    File& file, std::optional<std::uint64_t> offset, std::uint64_t size_bytes, bool fresh_over_valid, Room& room,
    std::optional<std::int64_t> mtime_ns, Fill fill) {
  auto& core = file.core;
  using Traits = typename std::remove_reference_t<decltype(core)>::TraitsType;
  using Ready = typename WriteWindow<Traits>::Ready;

  ChunkReserve<Traits> reserve{core};
  auto more_bytes = PoolCore<Traits>::record_and_table_bytes;  // enough for most windows; doubled where it was not
  for (;;) {
    Need need;
    {
      std::unique_lock lock{file.lock};
      if (const auto refusal = file.refusal(); refusal) return fail(refusal);
      const auto at = offset.value_or(file.meta.size());
      const auto range = ByteRange::at(at, size_bytes);
      if (!range) return fail(std::errc::file_too_large);
      WriteWindow<Traits> window{core};
      const auto ready = window.prepare(*file.record, *range, reserve, fresh_over_valid);
      if (ready == Ready::too_many_pins) return fail(std::errc::resource_unavailable_try_again);
      if (ready == Ready::again) continue;
      if (ready == Ready::yes) {
        const Result<std::size_t> filled = fill(window);
        if (!filled) return fail(filled.error());
        assert(*filled <= size_bytes && "a filler filled more than it was given");
        const auto n = std::min<std::uint64_t>(*filled, size_bytes);
        if (n == 0) return std::pair{at, n};
        window.commit(n);
        file.meta.set_size(std::max(file.meta.size(), at + n));
        file.meta.note_modified();
        if (mtime_ns) file.meta.set_mtime_ns(*mtime_ns);
        return std::pair{at, n};
      }
      need = window.need();
      if (ready == Ready::need_tables) more_bytes *= 2;
      need.bytes = std::max(need.bytes, more_bytes);
    }
    if (const Result<> roomy = room(reserve, need); !roomy) return fail(roomy.error());
  }
}

}  // namespace tarn::detail
