// SPDX-License-Identifier: MIT
#pragma once

// The shortest read: of bytes that one chunk holds. It takes that chunk's latch and nothing else that lasts: no lock of
// the file, no window, no list.
//
// Why it may do without the lock, which every other read of a DirtyFile has, shared, when it takes its latches, and
// every change exclusively:
//
// - A change that makes new bytes valid, which is a window of a write, keeps the exclusive latches of all its chunks
//   until all of it is committed, the size too. So nobody sees a byte of it in one chunk and then not in another:
//   that one cannot be latched, and the long way waits for the lock.
// - A change that takes bytes away (a cut, a punch, a new version, what is discarded or removed) leaves them not
//   valid, or their chunk not in the table. There this read has nothing to say, and the long way waits for the lock;
//   nor do they become valid again meanwhile, for they have left every load first, and none begins without the lock.
//   Bytes that such a change has yet to come to may be read while it goes on: that read is of the moment before it.
// - What a load brings are bytes that were stored all along.
//
// Nor does it take the table mutex, under which all others find a chunk and pin it: what it finds, it latches, and then
// looks whose it is. See chunk_state.hpp for why it may, and chunk_table.hpp.
//
// What is valid in a chunk is the file's, whatever is stored, and, whenever the lock is free, below its size; but see
// FileBody::holds_past_size.
//
// Thread safety: any thread.

#include <cstddef>
#include <cstdint>
#include <span>

#include <tarn/detail/pool_core.hpp>

namespace tarn::detail {

/// Calls use(bytes) under the latch, if the bytes [offset, offset + size_bytes) are held in one chunk, and its latch is
/// to be had at once.
///
/// Returns:  whether it did. If not, nothing is said of the bytes, and the arguments may be wrong.
/// Errors:   throws what `use` throws.
/// Requires: the caller holds nothing. Nothing is held past the file's size.
/// Blocks:   never.
/// Cost:     O(height of the table), two atomic changes of the chunk's word; no allocation.
template <class Traits, class Use>
[[nodiscard]] bool use_held(PoolCore<Traits>& core, FileRecord<Traits>& record, std::uint64_t offset,
                            std::uint64_t size_bytes, Use use) {
  UnderLatches::note(0);
  const auto from = core.layout.offset_in_chunk(offset);
  if (size_bytes == 0 || size_bytes > core.layout.chunk_bytes() - from) return false;
  struct Held {
    ~Held() {
      if (chunk != nullptr) core.unpin_shared(*chunk);
    }
    PoolCore<Traits>& core;
    Chunk<Traits>* chunk;
  } held{core, nullptr};
  const auto index = core.layout.chunk_of(offset);
  auto* const found = record.find_unlocked(index);
  if (found == nullptr || !found->state.try_pin_shared()) return false;
  held.chunk = found;
  auto& chunk = *found;
  if (chunk.record != &record || chunk.index != index) return false;  // another one's by now
  if (!chunk.valid.contains(ByteRange::between(from, from + size_bytes))) return false;
  PoolCore<Traits>::touch(chunk);
  use(std::span<const std::byte>{chunk.memory + from, static_cast<std::size_t>(size_bytes)});
  return true;
}

}  // namespace tarn::detail
