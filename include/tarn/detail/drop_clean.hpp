// SPDX-License-Identifier: MIT
#pragma once

// Letting go of the clean bytes of a file, because the store has others there now, or may have. Loads in flight do not
// land there. What is dirty stays, also in a chunk that holds both.

#include <cstdint>
#include <optional>
#include <system_error>

#include <tarn/detail/latched_chunks.hpp>
#include <tarn/result.hpp>

namespace tarn::detail {

/// Those of `range`. Requires: the file's lock. Errors: ENOBUFS, EAGAIN, with some bytes let go of; throws bad_alloc
/// likewise.
template <class Traits>
[[nodiscard]] Result<> drop_clean(PoolCore<Traits>& core, FileRecord<Traits>& record, ByteRange range) {
  {
    MutexLock table{record.table_mutex};
    for (auto* load = record.loads; load != nullptr; load = load->next) load->loading.subtract(range);
    record.note_cut(range);
  }
  const auto chunks = core.layout.chunks_of(range);
  for (auto from = chunks.first;;) {
    LatchedChunks<Traits> latched{core};
    MutexLock table{record.table_mutex};
    const auto [index, chunk] = record.table.next(from);
    if (chunk == nullptr || index >= chunks.last) return {};
    if (!chunk->state.try_pin()) return fail(std::errc::resource_unavailable_try_again);
    latched.hold(*chunk);
    table.unlock();
    latched.latch(LatchMode::exclusive);
    const auto of_chunk = core.layout.in_chunk(index, range);
    if (chunk->dirty.empty() && of_chunk.size_bytes() == core.chunk_bytes()) {
      table.lock();
      if (!chunk->state.is(ChunkState::detached)) core.detach(*chunk, record);
      table.unlock();
    } else {
      auto rest = of_chunk;
      while (const auto clean = chunk->dirty.next_gap_in(rest)) {
        rest = ByteRange::between(clean->end(), of_chunk.end());
        if (!chunk->valid.intersects(*clean)) continue;
        if (prepare_extents(core, *chunk, Lists::valid) != 0) return fail(std::errc::no_buffer_space);
        const ExtentsChange<Traits> change{core, *chunk};
        core.counters.valid_bytes.fetch_sub(chunk->valid.size_bytes_in(*clean), std::memory_order_relaxed);
        chunk->valid.subtract(*clean, core.chunk_bytes());
      }
    }
    from = index + 1;
  }
}

}  // namespace tarn::detail
