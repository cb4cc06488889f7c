// SPDX-License-Identifier: MIT
#pragma once

// The share of the budget that chunks may have whose bytes nobody has asked for yet: loads ahead of a read, and the
// rest of the parts that a store gives whole.
//
// Thread safety: one call's own, of a sum that is everybody's.

#include <cstddef>
#include <cstdint>

#include <tarn/detail/pool_core.hpp>

namespace tarn::detail {

/// What all of them together may have.
template <class Traits>
[[nodiscard]] std::uint64_t ahead_limit_bytes(const PoolCore<Traits>& core) {
  return core.budget.limit_bytes() / 4;
}

/// What one call's loads have of it, as long as any of them lives.
template <class Traits>
class AheadCharge {
 public:
  AheadCharge(PoolCore<Traits>& core, std::size_t chunks)
      : sum_{core.counters.ahead_charge_bytes}, bytes_{chunks * (core.chunk_bytes() + core.chunk_overhead_bytes)} {
    fits_ = sum_.fetch_add(bytes_) + bytes_ <= ahead_limit_bytes(core);
  }
  AheadCharge(const AheadCharge&) = delete;
  AheadCharge& operator=(const AheadCharge&) = delete;
  ~AheadCharge() { sum_.fetch_sub(bytes_); }
  [[nodiscard]] bool fits() const { return fits_; }

 private:
  Atomic<std::uint64_t>& sum_;
  const std::uint64_t bytes_;
  bool fits_ = false;
};

}  // namespace tarn::detail
