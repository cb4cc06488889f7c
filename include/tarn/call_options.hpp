// SPDX-License-Identifier: MIT
#pragma once

// How long a call may wait, and what for.
//
// Thread safety: a plain value.

#include <cstdint>
#include <optional>
#include <stop_token>

namespace tarn {

/// What a call does that finds no memory and none to be had by evicting clean chunks; or, if it writes, its file or the
/// pool at the limit of what may be dirty.
enum class WhenFull : std::uint8_t {
  wait,         ///< flushes some file, and waits for what others flush: ENOBUFS if its tries have failed twice, and no
                ///< other flush is known that may make room
  would_block,  ///< flushes nothing and waits for no memory, nor for a flush of one moment: EAGAIN
  fail,         ///< flushes nothing and waits for no memory: ENOBUFS
};

struct CallOptions {
  WhenFull when_full = WhenFull::wait;
  /// By the pool's time source: pool.deadline_in(std::chrono::seconds{1}). Past it a call that would have to wait (for
  /// a load, a flush or room) answers ETIMEDOUT; up to it, one that waits for room goes on asking a store that fails.
  /// What has been asked of a store goes on; of one that answers at once, inside of the call, which asks it once also
  /// past the deadline. To ride out a store that fails for a while, have one. A flush looks at it, and at `stop`,
  /// between two requests, too; what was stored by then is stored.
  std::optional<std::int64_t> deadline_ns = {};
  /// Once it is requested, a call that would have to wait answers ECANCELED.
  std::stop_token stop = {};
};

}  // namespace tarn
