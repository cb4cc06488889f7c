// SPDX-License-Identifier: MIT
#pragma once

// Two threads that do the same at once.
//
// Thread safety: the arm is run by one thread at a time.

#include <sched.h>

#include <algorithm>
#include <barrier>
#include <cstdint>
#include <thread>

#include "paired.hpp"

namespace tarn_bench {

/// On how many processors this process may run.
[[nodiscard]] inline int processors() {
  ::cpu_set_t allowed;
  return ::sched_getaffinity(0, sizeof allowed, &allowed) == 0 ? CPU_COUNT(&allowed) : 1;
}

/// f(thread, i) in two threads at once. Returns: an arm that takes as long as the slower of them.
template <class F>
[[nodiscard]] Arm two_threads(F f) {
  return [f](std::uint64_t times) {
    std::barrier both{2};
    double took[2] = {};
    const auto run = [&](int thread) {
      both.arrive_and_wait();
      const auto begun = now_ns(CLOCK_MONOTONIC);
      for (std::uint64_t i = 0; i < times; ++i) f(thread, i);
      took[thread] = now_ns(CLOCK_MONOTONIC) - begun;
    };
    std::thread other{run, 1};
    run(0);
    other.join();
    return std::max(took[0], took[1]);
  };
}

}  // namespace tarn_bench
