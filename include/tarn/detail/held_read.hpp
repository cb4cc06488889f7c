// SPDX-License-Identifier: MIT
#pragma once

// The shortest read: of bytes that chunks hold, with nothing between them that is not held. It takes the latches of
// these chunks and nothing else that lasts: no lock of the file.
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
// - A read of several chunks is of the moment when it has all their latches. Bytes of a latched chunk change no more
//   and stay valid; but the chunk as a whole may have gone since, and another have been written since that and
//   latched here: so it looks, with all latches, whether each is still the file's.
//
// Nor does it take the table mutex, under which all others find a chunk and pin it: what it finds, it latches, and then
// looks whose it is. See chunk_state.hpp for why it may, and chunk_table.hpp.
//
// What is valid in a chunk is the file's, whatever is stored, and, whenever the lock is free, below its size; but see
// FileBody::holds_past_size.
//
// Thread safety: any thread.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include <tarn/buffers.hpp>
#include <tarn/detail/piece_list.hpp>
#include <tarn/detail/pool_core.hpp>
#include <tarn/detail/waiter.hpp>

namespace tarn::detail {

/// Whether a chunk that was found without a lock, and is latched now, is what was looked for: not another one by now.
template <class Traits>
[[nodiscard]] bool is_of(const Chunk<Traits>& chunk, const FileRecord<Traits>& record, std::uint64_t index) {
  return chunk.record == &record && chunk.index == index;
}

/// A window's chunks of a file that are pinned and latched, shared, while it lives.
template <class Traits>
class HeldChunks {
 public:
  /// Requires: the caller keeps the record alive.
  HeldChunks(PoolCore<Traits>& core, const FileRecord<Traits>& record)
      : core_{core}, record_{record}, table_{record.unlocked()} {}
  HeldChunks(const HeldChunks&) = delete;
  HeldChunks& operator=(const HeldChunks&) = delete;
  ~HeldChunks() {
    while (count_ != 0) core_.unpin_shared(*chunks_[--count_]);
  }

  /// Returns: the chunk at `index`, if it is to be had at once and has all of `part`; else null, which says nothing.
  [[nodiscard]] Chunk<Traits>* hold(std::uint64_t index, ByteRange part) {
    auto* const chunk = table_.find(index);
    if (chunk == nullptr || !chunk->state.try_pin_shared()) return nullptr;
    chunks_[count_++] = chunk;
    return is_of(*chunk, record_, index) && chunk->valid.contains(part) ? chunk : nullptr;
  }
  /// They are used. Returns: whether all of them are the file's still.
  [[nodiscard]] bool touch() noexcept {
    std::uint64_t any = 0;
    for (std::size_t i = 0; i < count_; ++i) {
      any |= chunks_[i]->state.word();
      core_.touch(*chunks_[i]);
    }
    return (any & ChunkState::detached) == 0;
  }

 private:
  PoolCore<Traits>& core_;
  const FileRecord<Traits>& record_;
  typename ChunkTable<Chunk<Traits>>::Unlocked table_;
  std::size_t count_ = 0;
  Chunk<Traits>* chunks_[usual_window_pieces];  // NOLINT(cppcoreguidelines-pro-type-member-init): up to count_
};

/// As use_held, of bytes in several chunks.
template <class Traits, class Use>
[[nodiscard]] bool use_held_chunks(PoolCore<Traits>& core, const FileRecord<Traits>& record, std::uint64_t offset,
                                   std::uint64_t size_bytes, Use& use) {
  const auto range = ByteRange::at(offset, size_bytes);
  if (!range || range->empty() || size_bytes > core.window_bytes) return false;
  const auto chunk_bytes = core.layout.chunk_bytes();
  if (core.layout.chunks_of(*range).count() > usual_window_pieces) return false;
  const Resumer resumer;  // whom a chunk that is given back wakes goes on when all are
  HeldChunks<Traits> held{core, record};
  PieceList pieces;
  auto from = core.layout.offset_in_chunk(offset);
  for (auto index = core.layout.chunk_of(offset); size_bytes != 0; ++index) {
    const auto n = std::min(size_bytes, chunk_bytes - from);
    const auto* const chunk = held.hold(index, ByteRange::between(from, from + n));
    if (chunk == nullptr) return false;
    pieces.add_bytes(chunk->memory + from, n);
    size_bytes -= n;
    from = 0;
  }
  if (!held.touch()) return false;
  use(pieces.buffers());
  return true;
}

/// Calls use(bytes) under the latches, if all the bytes [offset, offset + size_bytes) are held and the latches are to
/// be had at once: with a span of what one chunk holds, which is the usual case, or with ConstBuffers of several.
///
/// Returns:  whether it did. If not, nothing is said of the bytes, and the arguments may be wrong.
/// Errors:   throws what `use` throws.
/// Requires: the caller holds nothing. Nothing is held past the file's size.
/// Blocks:   never.
/// Cost:     a chunk: O(height of the table), two atomic changes of its word; no allocation.
template <class Traits, class Use>
[[nodiscard]] bool use_held(PoolCore<Traits>& core, const FileRecord<Traits>& record, std::uint64_t offset,
                            std::uint64_t size_bytes, Use use) {
  UnderLatches::note(0);
  const auto from = core.layout.offset_in_chunk(offset);
  if (size_bytes == 0 || size_bytes > core.layout.chunk_bytes() - from) {
    return use_held_chunks(core, record, offset, size_bytes, use);
  }
  // Without a HeldChunks: the shortest reads notice a list, and be it of one.
  const auto index = core.layout.chunk_of(offset);
  auto* const chunk = record.find_unlocked(index);
  if (chunk == nullptr || !chunk->state.try_pin_shared()) return false;
  struct Held {
    ~Held() { core.unpin_shared(chunk); }
    PoolCore<Traits>& core;
    Chunk<Traits>& chunk;
  } const held{core, *chunk};
  if (!is_of(*chunk, record, index)) return false;
  if (!chunk->valid.contains(ByteRange::between(from, from + size_bytes))) return false;
  core.touch(*chunk);
  use(std::span<const std::byte>{chunk->memory + from, static_cast<std::size_t>(size_bytes)});
  return true;
}

}  // namespace tarn::detail
