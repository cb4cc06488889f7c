// SPDX-License-Identifier: MIT
#pragma once

// How a pool is made.

#include <cstdint>
#include <initializer_list>
#include <system_error>

#include <tarn/byte_range.hpp>

namespace tarn {

struct PoolOptions {
  std::uint64_t budget_bytes = 0;        ///< what the pool may use, everything counted; required. The least that
                                         ///< works: ChunkPool::min_budget_bytes, 5 MiB with these options
  std::uint64_t chunk_bytes = 64 * KiB;  ///< the unit of memory, a power of two, fixed for the pool's life
  std::uint64_t window_bytes = 1 * MiB;  ///< the most that one call latches, and so the largest view; in whole chunks,
                                         ///< rounded down but one at least. See ChunkPool::window_bytes
  bool prefault = false;                 ///< touch memory when it is committed, not when it is first used

  // Marks, of the memory that dirty chunks take; 0: none. Background, throttle and limit are in this order, none above
  // a later one or the budget, and the limit is a chunk at least. A write that would pass a limit if all of it became
  // dirty anew finds the pool full, also over bytes that are dirty already. Where nothing is dirty, one window passes.
  std::uint64_t dirty_background_bytes = 0;  ///< from here on a Flusher flushes (flusher.hpp)
  std::uint64_t dirty_throttle_bytes = 0;    ///< from here on each write of a DirtyFile first flushes one step itself
  std::uint64_t dirty_limit_bytes = 0;       ///< up to here; what is left is for loads
  std::uint64_t file_dirty_limit_bytes = 0;  ///< the most dirty bytes of one file, or one window of it where it has
                                             ///< none: bytes, not the memory of the chunks that they are in
};

namespace detail {

/// The options, if their marks can work with the budget that the pool begins with; a budget that is lowered later may
/// go below them. Errors: throws system_error(EINVAL).
inline const PoolOptions& checked_marks(const PoolOptions& options) {
  const auto refuse = [](const char* why) {
    throw std::system_error{std::make_error_code(std::errc::invalid_argument), why};
  };
  if (options.dirty_limit_bytes != 0 && options.dirty_limit_bytes < options.chunk_bytes) {
    refuse("tarn::ChunkPool: dirty_limit_bytes is below chunk_bytes");
  }
  auto below = options.budget_bytes;  // from the budget down
  for (const auto mark : {options.dirty_limit_bytes, options.dirty_throttle_bytes, options.dirty_background_bytes}) {
    if (mark > below) refuse("tarn::ChunkPool: of the marks background, throttle, limit, budget one is above a later");
    if (mark != 0) below = mark;
  }
  if (options.file_dirty_limit_bytes > options.budget_bytes) {
    refuse("tarn::ChunkPool: file_dirty_limit_bytes is above budget_bytes");
  }
  return options;
}

}  // namespace detail
}  // namespace tarn
