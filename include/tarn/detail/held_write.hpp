// SPDX-License-Identifier: MIT
#pragma once

// The shortest write: into one chunk that has dirty bytes already, so that nothing has to be had for it: no room, no
// chunk, no place in a table, and no turn in eviction changes. It is what most small writes are, over old bytes or on
// from where the last one ended.
//
// It is made under the file's lock, as every change; what it saves is the window. It finds its chunk without the table
// mutex, as the shortest read does, and takes that mutex only if something of the file is in flight.
//
// Thread safety: any thread.

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include <tarn/detail/copy_bytes.hpp>
#include <tarn/detail/file_lock.hpp>
#include <tarn/detail/held_read.hpp>
#include <tarn/detail/write_window.hpp>

namespace tarn::detail {

/// Writes `from` at `offset`, if that takes no more than a look.
///
/// Returns:  whether it did. If not, nothing has changed, and the arguments may be wrong.
/// Errors:   throws bad_alloc; nothing has changed then.
/// Requires: the caller holds nothing.
/// Blocks:   on the file's lock.
/// Cost:     one copy, O(height of the table); no allocation unless a load or a flush of these bytes is in flight.
template <class File>
[[nodiscard]] bool write_held(File& file, std::uint64_t offset, std::span<const std::byte> from,
                              std::optional<std::int64_t> mtime_ns) {
  auto& core = file.core;
  auto& record = *file.record;
  const auto range = ByteRange::at(offset, from.size());
  const auto at = core.layout.offset_in_chunk(offset);
  if (!range || from.data() == nullptr || !HeldBytes<typename File::TraitsType>::fits(core, offset, from.size())) {
    return false;
  }
  const auto throttle_bytes = core.marks.dirty_throttle_bytes;
  if (throttle_bytes != 0 && core.dirty_memory_bytes() >= throttle_bytes) return false;
  ExclusiveLock lock{file.lock};
  if (file.refusal() || !need_to_write(file, *range).may_dirty(core)) return false;

  const auto index = core.layout.chunk_of(offset);
  auto* const found = record.find_unlocked(index);
  if (found == nullptr || !found->state.try_pin_exclusive()) return false;
  auto& chunk = *found;
  const struct Held {
    ~Held() { its_core.unpin_exclusive(its_chunk); }
    PoolCore<typename File::TraitsType>& its_core;
    Chunk<typename File::TraitsType>& its_chunk;
  } held{core, chunk};
  if (!is_of(chunk, record, index)) return false;
  if ((chunk.state.word() & (ChunkState::dirty | ChunkState::in_flush)) != ChunkState::dirty) return false;
  const auto written = ByteRange::between(at, at + from.size());
  const bool has_room = chunk.valid.has_room() && chunk.dirty.has_room();  // if not, its lists grow by more memory
  if (!has_room && !chunk.dirty.contains(written)) return false;
  if (record.in_flight.load(std::memory_order_acquire)) {
    MutexLock table{record.table_mutex};
    take_out_to_write(core, record, *range);
  }
  copy_bytes(chunk.memory + at, from.data(), from.size());
  note_chunk_written(core, record, chunk, written);
  note_file_written(file, range->end(), mtime_ns);
  return true;
}

}  // namespace tarn::detail
