// SPDX-License-Identifier: MIT
#pragma once

// Letting go of every clean byte of a file, because the store has another version of it now. Loads in flight land
// nowhere. What is dirty stays, also in a chunk that holds both.

#include <cstdint>
#include <optional>
#include <system_error>

#include <tarn/detail/latched_chunks.hpp>
#include <tarn/result.hpp>

namespace tarn::detail {

/// Requires: the file's lock. Errors: ENOBUFS, EAGAIN, with some bytes let go of; throws bad_alloc likewise.
template <class Traits>
[[nodiscard]] Result<> drop_clean(PoolCore<Traits>& core, FileRecord<Traits>& record) {
  const auto whole = ByteRange::between(0, core.chunk_bytes());
  {
    MutexLock table{record.table_mutex};
    for (auto* load = record.loads; load != nullptr; load = load->next) load->loading.clear();
  }
  for (std::uint64_t from = 0;;) {
    LatchedChunks<Traits> latched{core};
    MutexLock table{record.table_mutex};
    const auto [index, chunk] = record.table.next(from);
    if (chunk == nullptr) return {};
    if (!chunk->state.try_pin()) return fail(std::errc::resource_unavailable_try_again);
    latched.hold(*chunk);
    table.unlock();
    latched.latch(LatchMode::exclusive);
    if (chunk->dirty.empty()) {
      table.lock();
      if (!chunk->state.is(ChunkState::detached)) core.detach(*chunk, record);
      table.unlock();
    } else {
      auto rest = whole;
      while (const auto clean = chunk->dirty.next_gap_in(rest)) {
        if (prepare_extents(core, *chunk, Lists::valid) != 0) return fail(std::errc::no_buffer_space);
        const ExtentsChange<Traits> change{core, *chunk};
        core.counters.valid_bytes.fetch_sub(chunk->valid.size_bytes_in(*clean), std::memory_order_relaxed);
        chunk->valid.subtract(*clean, core.chunk_bytes());
        rest = ByteRange::between(clean->end(), whole.end());
      }
    }
    from = index + 1;
  }
}

}  // namespace tarn::detail
