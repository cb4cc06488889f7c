// SPDX-License-Identifier: MIT
#include <tarn/detail/chunk_reserve.hpp>

#include "support/catch.hpp"
#include "support/one_file.hpp"

using namespace tarn_test;

TEST_CASE("spare chunks that would leave too little room are not made for ever", "[chunk_reserve]") {
  const tarn::PoolOptions options{.budget_bytes = 16 * MiB, .chunk_bytes = 64 * KiB};
  tarn::ChunkPool<Arena> pool{options};
  tarn::detail::ChunkReserve<Arena> reserve{pool.core()};
  // More bytes than an arena leaves free beside a slab that it maps: the last one fits, and then leaves too little.
  const tarn::detail::Need<Arena> need{.chunks = 1, .bytes = 3 * MiB};
  REQUIRE(reserve.fill(need, 200) == tarn::detail::PoolCore<Arena>::Freed::some);
  CHECK(reserve.size() > need.chunks);
  CHECK(pool.core().budget.would_fit(need.bytes));
}
