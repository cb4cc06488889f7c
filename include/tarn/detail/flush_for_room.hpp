// SPDX-License-Identifier: MIT
#pragma once

// What a DirtyFile's call does when there is no memory: it lets go of all it holds, flushes one file, and looks again;
// when nothing can be flushed either it waits, as long as somebody is known to make room: a call that was given
// reserved chunks, a flush in flight, a reader that uses a clean chunk. With none of those, waiting would be for ever,
// and the answer is ENOBUFS.
//
// With a store that fails, every waiter's try is a flush in flight to the others, so "somebody may make room" would
// stay true for ever. A call therefore gives up after two rounds of tries with a failure in both and nothing settled by
// anybody in between. A call from inside a store's load or flush never waits: it might wait for itself.

#include <cstdint>
#include <system_error>

#include <tarn/detail/chunk_reserve.hpp>
#include <tarn/detail/pool_core.hpp>
#include <tarn/result.hpp>

namespace tarn::detail {

/// Room for a DirtyFile's calls: evict, flush, wait.
template <class Traits>
class FlushForRoom {
 public:
  explicit FlushForRoom(PoolCore<Traits>& pool) : core{pool} {}

  [[nodiscard]] Result<> operator()(ChunkReserve<Traits>& reserve, const Need& need) const {
    using Freed = typename PoolCore<Traits>::Freed;
    if (reserve.fill(need) == Freed::some) return {};  // the usual case: it bothers nobody who makes room
    typename PoolCore<Traits>::RoomWait wait{core};
    bool failed_before = false;
    std::uint64_t settled_before = 0;
    for (;;) {
      auto flushed = Flushed::some;
      auto freed = Freed::none;
      while (flushed == Flushed::some) {
        wait.look();
        if (reserve.fill(need) == Freed::some) return {};
        flushed = core.pressure.flush_one();
      }
      const bool failed = flushed == Flushed::failed;
      if (failed) wait.look();  // a failed flush of our own makes room known, too: from here on it is somebody else's
      if (freed = reserve.fill(need); freed == Freed::some) return {};
      const auto settled = core.counters.flushes_settled.load();
      const bool hopeless = failed && failed_before && settled == settled_before;
      if (hopeless || depth_in_store() != 0) return fail(std::errc::no_buffer_space);
      failed_before = failed;
      settled_before = settled;
      if (may_come(freed)) {
        wait.sleep();
      } else if (!failed && !wait.more()) {
        return fail(std::errc::no_buffer_space);
      }
    }
  }

 private:
  PoolCore<Traits>& core;

  // Asked after the tries: what ended before the question has moved the epoch, and is seen by more().
  [[nodiscard]] bool may_come(typename PoolCore<Traits>::Freed freed) const {
    // A thread with a pin of its own would wait for itself: with any pin about, busy chunks are no promise.
    const bool reader = freed == PoolCore<Traits>::Freed::none_but_busy && core.user_pins.load() == 0;
    return reader || core.reserves.load() != 0 || core.flying.load() != 0;
  }
};

}  // namespace tarn::detail
