// SPDX-License-Identifier: MIT
#pragma once

// What a DirtyFile's call does when there is no memory: it lets go of all it holds, flushes one file, and looks again;
// when nothing can be flushed either it waits, as long as somebody is known to make room: a call that holds reserved
// chunks, a flush in flight, a reader that uses a clean chunk. With none of those, waiting would be for ever, and the
// answer is ENOBUFS.

#include <system_error>

#include <tarn/detail/chunk_reserve.hpp>
#include <tarn/detail/pool_core.hpp>
#include <tarn/result.hpp>

namespace tarn::detail {

/// Room for a DirtyFile's calls: evict, flush, wait.
template <class Traits>
struct FlushForRoom {
  PoolCore<Traits>& core;

  [[nodiscard]] Result<> operator()(ChunkReserve<Traits>& reserve, const Need& need) const {
    using Freed = typename PoolCore<Traits>::Freed;
    auto freed = reserve.fill(need);
    if (freed == Freed::some) return {};  // the usual case: it bothers nobody who makes room
    const bool roomy = core.wait_for_room(
        [&] {
          do {
            freed = reserve.fill(need);
          } while (freed != Freed::some && core.pressure.flush_one());
          return freed == Freed::some;
        },
        // A thread with a pin of its own would wait for itself: with any pin about, busy chunks are no promise.
        [&] {
          return core.reserves != 0 || core.flying != 0 || (freed == Freed::none_but_busy && core.user_pins == 0);
        });
    if (!roomy) return fail(std::errc::no_buffer_space);
    return {};
  }
};

}  // namespace tarn::detail
