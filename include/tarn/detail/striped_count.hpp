// SPDX-License-Identifier: MIT
#pragma once

// A count that readers of many files raise at once. In one word it would be the one line of memory that all of them
// write; so it is several, and a file's readers, who share that file's table mutex anyway, share one of them.
//
// Thread safety: any thread; lock-free.

#include <array>
#include <cstddef>
#include <cstdint>

#include <tarn/detail/sync.hpp>

namespace tarn::detail {

class StripedCount {
 public:
  /// `of`: whatever those who count together have in common.
  void add(const void* of, std::uint64_t n) noexcept {
    stripes_[(reinterpret_cast<std::uintptr_t>(of) / line_bytes) % stripes_.size()].count.fetch_add(
        n, std::memory_order_relaxed);
  }
  /// Cost: a load for each stripe.
  [[nodiscard]] std::uint64_t load() const noexcept {
    std::uint64_t sum = 0;
    for (const auto& stripe : stripes_) sum += stripe.count.load(std::memory_order_relaxed);
    return sum;
  }

 private:
  static constexpr std::size_t line_bytes = 64;
  struct alignas(line_bytes) Stripe {
    Atomic<std::uint64_t> count{0};
  };
  std::array<Stripe, 16> stripes_;
};

}  // namespace tarn::detail
