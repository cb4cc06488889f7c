// SPDX-License-Identifier: MIT
#pragma once

// A pool of which nothing is left: for as long as it lives, all that nobody had charged is charged.
//
// Thread safety: none; nobody else charges the pool while it is made.

#include <cstdint>

#include <tarn/chunk_pool.hpp>

namespace tarn_test {

template <class Traits>
class FullBudget {
 public:
  explicit FullBudget(tarn::ChunkPool<Traits>& pool) : budget_{pool.core().budget} {
    bytes_ = budget_.limit_bytes() - budget_.charged_bytes();
    if (!budget_.try_charge(bytes_)) bytes_ = 0;
  }
  FullBudget(const FullBudget&) = delete;
  FullBudget& operator=(const FullBudget&) = delete;
  ~FullBudget() { budget_.release(bytes_); }

 private:
  tarn::Budget& budget_;
  std::uint64_t bytes_;
};

}  // namespace tarn_test
