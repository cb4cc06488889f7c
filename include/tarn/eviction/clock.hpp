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
// that
//                chunks which are touched all the time cannot hide that they could go.

#include <cstddef>
#include <cstdint>

#include <tarn/detail/sync.hpp>

namespace tarn {

class ClockEviction {
 public:
  struct Hook {
    Hook* next = nullptr;
    Hook* previous = nullptr;
    detail::Atomic<std::uint8_t> heat{0};
  };
  static constexpr std::uint8_t max_heat = 3;
  static constexpr std::size_t extra_bytes = 0;

  void insert(Hook& hook, std::uint64_t) noexcept {
    if (hand_ == nullptr) {
      hook.next = hook.previous = hand_ = &hook;
    } else {
      hook.next = hand_;
      hook.previous = hand_->previous;
      hook.previous->next = hand_->previous = &hook;
    }
    ++count_;
  }
  void remove(Hook& hook) noexcept {
    if (hook.next == &hook) {
      hand_ = nullptr;
    } else {
      hook.previous->next = hook.next;
      hook.next->previous = hook.previous;
      if (hand_ == &hook) hand_ = hook.next;
    }
    hook.next = hook.previous = nullptr;
    --count_;
  }
  static void touch(Hook& hook) noexcept {
    const auto heat = hook.heat.load(std::memory_order_relaxed);
    if (heat < max_heat) hook.heat.store(static_cast<std::uint8_t>(heat + 1), std::memory_order_relaxed);
  }
  template <class TryEvict>
  bool evict(TryEvict try_evict) {
    const auto turn = count_;
    for (auto steps = (max_heat + std::size_t{2}) * turn; steps != 0 && hand_ != nullptr; --steps) {
      auto& hook = *hand_;
      hand_ = hook.next;
      if (const auto heat = hook.heat.load(std::memory_order_relaxed); heat != 0 && steps > turn) {
        hook.heat.store(static_cast<std::uint8_t>(heat - 1), std::memory_order_relaxed);
      } else if (try_evict(hook)) {
        return true;
      }
    }
    return false;
  }
  [[nodiscard]] std::size_t count() const { return count_; }

 private:
  Hook* hand_ = nullptr;
  std::size_t count_ = 0;
};

}  // namespace tarn
