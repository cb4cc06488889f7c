// SPDX-License-Identifier: MIT
#pragma once

// Giving clean chunks of a file to the content that they are now known to be, so that every file with that content
// finds them. No byte is copied: a chunk changes its owner.

#include <cstdint>

#include <tarn/chunk_layout.hpp>
#include <tarn/detail/latched_chunks.hpp>

namespace tarn::detail {

/// Hands over the chunks of `part` that hold all of their bytes, all clean and pinned by nobody, and that the content
/// has not; those that it has are let go of. What cannot be handed over stays the file's own, which
/// is as right.
/// Requires: the file's lock, exclusively; the metadata has `id` for the part. Lock order: the file's table, then the
///           content's.
template <class Traits>
void share_content(PoolCore<Traits>& core, FileRecord<Traits>& record, const ChunkLayout& layout, std::uint64_t part,
                   const typename Traits::ContentId& id, std::uint64_t size_bytes) noexcept {
  try {
    const auto range = layout.part_range(part).intersect(ByteRange::between(0, size_bytes));
    const auto chunks = layout.chunks_of(range);
    const auto content = core.registry.find_or_make(core.content_key(id));
    if (!content) return;
    for (auto from = chunks.first; from < chunks.last;) {
      LatchedChunks<Traits> latched{core};
      MutexLock table{record.table_mutex};
      const auto [index, chunk] = record.table.next(from);
      if (chunk == nullptr || index >= chunks.last) return;
      from = index + 1;
      if (!chunk->state.try_pin()) continue;
      latched.hold(*chunk);
      table.unlock();
      latched.latch(LatchMode::exclusive);
      const auto there = index - chunks.first;
      table.lock();
      // No pin comes now, for that takes the table mutex or a chunk that is not exclusively latched; one beside ours is
      // of somebody who looks at the file, not at content.
      if ((chunk->state.word() & ChunkState::pin_mask) != ChunkState::pin_one) continue;
      if (!chunk->dirty.empty() || chunk->state.is(ChunkState::in_flush | ChunkState::detached)) continue;
      if (!chunk->valid.contains(layout.in_chunk(index, range))) continue;
      MutexLock content_table{content->table_mutex};
      if (content->table.find(there) != nullptr) {
        core.detach(*chunk, record);
      } else if (content->table.reserve(there, core.nodes)) {
        core.move_chunk(*chunk, record, *content, there);
      }
    }
  } catch (...) {  // no memory: it stays the file's own
  }
}

}  // namespace tarn::detail
