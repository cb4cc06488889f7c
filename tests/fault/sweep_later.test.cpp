// SPDX-License-Identifier: MIT
// Compile: -O1 in sweeps
// CTest: LABELS slow
#include "fault/sweep_later.hpp"

#include "fault/sweep.hpp"
#include "support/catch.hpp"

// The same with calls that wait with no thread.

using namespace tarn_test;

TEST_CASE("whatever fails of calls that wait with no thread", "[fault]") {
  const bool marks = GENERATE(false, true);
  const SweepPlan how{.chunk_bytes = 16, .chunks_per_part = 4, .room_chunks = marks ? 20u : 2u, .marks = marks};
  Sweep<SweepLater> sweep{marks ? "operations, marks" : "operations", how};
  const auto& clean = sweep.clean();
  CHECK(clean.room_waits >= 1);
  CHECK(clean.load_waits >= 1);
  CHECK(clean.redirtied_bytes >= 1);
  CHECK(clean.ahead_bytes >= 1);
  using enum Fault;
  check_sweep(sweep, {allocation, commit, load, flush, sync, reserve, completion, visitor});
}
