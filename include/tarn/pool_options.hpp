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
};

}  // namespace tarn
