// SPDX-License-Identifier: MIT
#pragma once

// The share of the budget that chunks may have whose bytes nobody has asked for yet: loads ahead of a read, and the
// rest of the parts that a store gives whole.
//
// Thread safety: one call's own, of a sum that is everybody's.

#include <cstddef>
#include <cstdint>
#include <memory>

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
      : chunks_{chunks},
        sum_{core.counters.ahead_charge_bytes},
        bytes_{chunks * (core.chunk_bytes() + core.chunk_overhead_bytes)} {
    fits_ = sum_.fetch_add(bytes_) + bytes_ <= ahead_limit_bytes(core);
  }
  /// Of `chunks`; or of `least` and half of the others, or half of those, and so on. Null: not even of `least`.
  /// Errors: throws bad_alloc.
  [[nodiscard]] static std::shared_ptr<const AheadCharge> of(PoolCore<Traits>& core, std::size_t least,
                                                             std::size_t chunks) {
    for (auto more = chunks - least;; more /= 2) {
      auto charge = std::make_shared<const AheadCharge>(core, least + more);
      if (charge->fits_) return charge;
      if (more == 0) return nullptr;
    }
  }
  AheadCharge(const AheadCharge&) = delete;
  AheadCharge& operator=(const AheadCharge&) = delete;
  ~AheadCharge() { sum_.fetch_sub(bytes_); }
  [[nodiscard]] std::size_t chunks() const { return chunks_; }

 private:
  const std::size_t chunks_;
  Atomic<std::uint64_t>& sum_;
  const std::uint64_t bytes_;
  bool fits_ = false;
};

}  // namespace tarn::detail
