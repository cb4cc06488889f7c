// SPDX-License-Identifier: MIT
#pragma once

// The count of bytes that a pool may use.
//
// Charge comes before commit: whoever wants memory charges it first, and gives it up if the charge is refused; so the
// memory in use never passes the limit, at no instant, unless the limit is lowered below it. Chunks, slabs that are
// kept warm, tables, file records and long extent lists are all charged here.
//
// Thread safety: any thread; lock-free.

#include <cassert>
#include <cstdint>

#include <tarn/detail/sync.hpp>

namespace tarn {

class Budget {
 public:
  explicit Budget(std::uint64_t limit_bytes) : limit_bytes_{limit_bytes} {}
  Budget(const Budget&) = delete;
  Budget& operator=(const Budget&) = delete;

  /// Charges `bytes` if afterwards at least `keep_free_bytes` are left below the limit.
  [[nodiscard]] bool try_charge(std::uint64_t bytes, std::uint64_t keep_free_bytes = 0) noexcept {
    auto charged = charged_bytes_.load(std::memory_order_relaxed);
    for (;;) {
      if (!fits(charged, bytes, keep_free_bytes)) return false;
      if (charged_bytes_.compare_exchange_weak(charged, charged + bytes)) return true;
    }
  }
  void release(std::uint64_t bytes) noexcept {
    [[maybe_unused]] const auto before = charged_bytes_.fetch_sub(bytes);
    assert(before >= bytes && "more was released than charged");
  }

  /// Whether a charge of `bytes` would be taken now.
  [[nodiscard]] bool would_fit(std::uint64_t bytes) const noexcept { return fits(charged_bytes(), bytes, 0); }
  [[nodiscard]] std::uint64_t charged_bytes() const noexcept { return charged_bytes_.load(); }
  [[nodiscard]] std::uint64_t limit_bytes() const noexcept { return limit_bytes_.load(std::memory_order_relaxed); }
  /// From now on nothing is charged past `limit_bytes`; what is charged stays so until it is released.
  void set_limit(std::uint64_t limit_bytes) noexcept { limit_bytes_.store(limit_bytes); }
  [[nodiscard]] bool over_limit() const noexcept { return charged_bytes() > limit_bytes(); }

 private:
  [[nodiscard]] bool fits(std::uint64_t charged, std::uint64_t bytes, std::uint64_t keep_free_bytes) const noexcept {
    const auto limit = limit_bytes();
    return bytes <= limit && keep_free_bytes <= limit - bytes && charged <= limit - bytes - keep_free_bytes;
  }

  detail::Atomic<std::uint64_t> limit_bytes_;
  detail::Atomic<std::uint64_t> charged_bytes_{0};
};

}  // namespace tarn
