// SPDX-License-Identifier: MIT
#pragma once

// CLOCK with a small count instead of one bit (Corbato, "A paging experiment with the Multics system", 1968; the count
// is the generalised clock of Smith, "Sequentiality and prefetching in database systems", 1978).
//
// The clean chunks form a ring. A touch adds to a chunk's heat, up to 3; the hand takes one off each chunk it passes
// and offers those that have none. A chunk enters just behind the hand, so it has a full turn to be touched; one that
// was dirty comes back with the heat that it has had since.
//
// Thread safety: touch is a relaxed load and at most one store, from any thread (a lost count is harmless); everything
//                else is called one at a time.
// Cost:          touch, insert, remove O(1); evict at most five turns of the ring, the last one whatever the heat, so
//                that chunks which are touched all the time cannot hide that they could go.

#include <cstddef>
#include <cstdint>

#include <tarn/detail/ring.hpp>
#include <tarn/detail/sync.hpp>

namespace tarn {

class ClockEviction {
 public:
  struct Mark {
    detail::Atomic<std::uint8_t> heat{0};
  };
  struct Hook : Mark, detail::RingLinks<Hook> {  // what a touch changes first: it lies beside what a hit looks at
    void reset() noexcept { heat.store(0, std::memory_order_relaxed); }
  };
  static constexpr std::uint8_t max_heat = 3;
  static constexpr std::size_t extra_bytes = 0;

  void insert(Hook& hook, std::uint64_t) noexcept { ring_.push(hook); }
  void remove(Hook& hook) noexcept { ring_.take(hook); }
  static void touch(Hook& hook) noexcept {
    const auto heat = hook.heat.load(std::memory_order_relaxed);
    if (heat < max_heat) hook.heat.store(static_cast<std::uint8_t>(heat + 1), std::memory_order_relaxed);
  }
  template <class TryEvict>
  bool evict(TryEvict try_evict) {
    const auto turn = count();
    for (auto steps = (max_heat + std::size_t{2}) * turn; steps != 0 && !ring_.empty(); --steps) {
      auto& hook = ring_.first();
      ring_.go_round();
      if (const auto heat = hook.heat.load(std::memory_order_relaxed); heat != 0 && steps > turn) {
        hook.heat.store(static_cast<std::uint8_t>(heat - 1), std::memory_order_relaxed);
      } else if (try_evict(hook)) {
        return true;
      }
    }
    return false;
  }
  [[nodiscard]] std::size_t count() const { return ring_.count(); }

 private:
  detail::Ring<Hook> ring_;  // the first is under the hand
};

}  // namespace tarn
