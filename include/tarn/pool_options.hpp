// SPDX-License-Identifier: MIT
#pragma once

// How a pool is made.

#include <cstdint>

#include <tarn/byte_range.hpp>

namespace tarn {

struct PoolOptions {
  std::uint64_t budget_bytes = 0;        ///< what the pool may use, everything counted; required. The least that
                                         ///< works: ChunkPool::min_budget_bytes, 5 MiB with these options
  std::uint64_t chunk_bytes = 64 * KiB;  ///< the unit of memory, a power of two, fixed for the pool's life
  std::uint64_t window_bytes = 1 * MiB;  ///< the most that one call latches, and so the largest view
  bool prefault = false;                 ///< touch memory when it is committed, not when it is first used

  // Marks, of the memory that dirty chunks take; 0: none. A write that would pass one finds the pool full.
  std::uint64_t dirty_background_bytes = 0;  ///< from here on a Flusher flushes (flusher.hpp)
  std::uint64_t dirty_throttle_bytes = 0;    ///< from here on each write of a DirtyFile first flushes one step itself
  std::uint64_t dirty_limit_bytes = 0;       ///< up to here; what is left is for loads
  std::uint64_t file_dirty_limit_bytes = 0;  ///< the most dirty bytes of one file
};

}  // namespace tarn
