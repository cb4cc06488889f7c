// SPDX-License-Identifier: MIT
#pragma once

// A clock that stands until a test moves it, and wakes those who wait for it.
//
//   struct MyTraits : tarn::DefaultTraits { using TimeSource = tarn::testing::ManualTime; };
//   tarn::testing::ManualTime::advance_ns(1'000'000'000);  // a deadline has passed, a Flusher's interval too
//
// Thread safety: every call from any thread.

#include <atomic>
#include <chrono>
#include <cstdint>
#include <mutex>

#include <tarn/detail/sync.hpp>

namespace tarn::testing {

/// A TimeSource. Pools that are given this type share one clock: a time source has no state that a test could reach.
class ManualTime {
 public:
  [[nodiscard]] std::int64_t now_ns() const noexcept { return clock(); }
  /// Looks at the clock now and then: whoever moves it knows nobody who waits.
  [[nodiscard]] bool wait_until(tarn::detail::ConditionVariable& changed, std::unique_lock<tarn::detail::Mutex>& lock,
                                std::int64_t ns) const {
    changed.wait_for(lock, std::chrono::milliseconds{1});
    return clock() < ns;
  }
  static void set_ns(std::int64_t ns) { clock() = ns; }
  static void advance_ns(std::int64_t ns) { clock() += ns; }

 private:
  static std::atomic<std::int64_t>& clock() {
    static std::atomic<std::int64_t> ns{1'000'000'000};
    return ns;
  }
};

}  // namespace tarn::testing
