// SPDX-License-Identifier: MIT
#pragma once

// Where a file has held or dirty bytes, chunk by chunk.

#include <cstdint>
#include <system_error>
#include <type_traits>

#include <tarn/detail/latched_chunks.hpp>
#include <tarn/extent_set.hpp>

namespace tarn::detail {

/// The extents of `which` (valid or dirty) of every chunk, in file offsets; each chunk's of its own moment.
/// Blocks: while a writer copies into a chunk. Errors: throws bad_alloc; system_error(EAGAIN) if a chunk has too many
/// pins.
template <class Traits>
[[nodiscard]] ExtentSet list_extents(PoolCore<Traits>& core, FileRecord<Traits>& record,
                                     std::type_identity_t<ChunkExtents Chunk<Traits>::*> which) {
  ExtentSet found;
  for (std::uint64_t from = 0;;) {
    LatchedChunks<Traits> latched{core};
    MutexLock table{record.table_mutex};
    const auto [index, chunk] = record.table.next(from);
    if (chunk == nullptr) return found;
    from = index + 1;
    if (!chunk->state.try_pin()) {
      throw std::system_error{std::make_error_code(std::errc::resource_unavailable_try_again)};
    }
    latched.hold(*chunk);
    table.unlock();
    latched.latch(LatchMode::shared);
    const auto offset = core.layout.chunk_range(index).offset();
    (chunk->*which).for_each_in(ByteRange::between(0, core.chunk_bytes()), [&](ByteRange run) {
      found.add(ByteRange::between(offset + run.offset(), offset + run.end()));
    });
  }
}

}  // namespace tarn::detail
