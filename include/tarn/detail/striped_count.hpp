// SPDX-License-Identifier: MIT
#pragma once

// A count that readers raise at once. In one word it would be the one line of memory that all of them write; so each
// thread has a word of its own, which it raises with no more than a load and a store, and threads beyond the most that
// have a number share one.
//
// Thread safety: any thread; lock-free.

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include <tarn/detail/sync.hpp>

namespace tarn::detail {

class StripedCount {
 public:
  [[gnu::always_inline]] void add(std::uint64_t n, std::memory_order order = std::memory_order_relaxed) noexcept {
    const auto thread = ThreadNumber::mine();
    if (thread == 0) [[unlikely]] {
      return add_shared(n, order);
    }
    auto& count = stripes_[thread].count;
    count.store(count.load(std::memory_order_relaxed) + n, order);
  }
  /// Cost: a load for each stripe.
  [[nodiscard]] std::uint64_t load() const noexcept {
    std::uint64_t sum = 0;
    for (const auto& stripe : stripes_) sum += stripe.count.load(std::memory_order_acquire);
    return sum;
  }

 private:
  [[gnu::noinline]] void add_shared(std::uint64_t n, std::memory_order order) noexcept {
    stripes_[0].count.fetch_add(n, order);
  }

  static constexpr std::size_t line_bytes = 64;
  struct alignas(line_bytes) Stripe {
    Atomic<std::uint64_t> count{0};
  };
  std::array<Stripe, ThreadNumber::most + 1> stripes_;  // 0: shared
};

/// How many pins users have. One thread makes a pin, another may end it, and it is looked at meanwhile: of each that is
/// seen to have ended it is seen that it was made, and each thread sees its own.
class UserPins {
 public:
  void note_made() noexcept { made_.add(1); }
  void note_end() noexcept { ended_.add(1, std::memory_order_release); }
  [[nodiscard]] std::uint64_t load() const noexcept {
    const auto ended = ended_.load();  // first
    return made_.load() - ended;
  }

 private:
  StripedCount made_, ended_;
};

}  // namespace tarn::detail
