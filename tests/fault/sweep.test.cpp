// SPDX-License-Identifier: MIT
// Compile: -O1 in sweeps
// CTest: LABELS slow
#include "fault/sweep_script.hpp"

#include "fault/sweep.hpp"
#include "support/catch.hpp"

// Everything that tarn relies on fails once, alone or for ever: whatever fails, no byte is lost, nothing leaks, and the
// error is the one that the fault explains.

using namespace tarn_test;

TEST_CASE("whatever fails, alone or for ever: no byte is lost, nothing leaks, and the error says why", "[fault]") {
  const bool marks = GENERATE(false, true);
  const SweepPlan how = marks ? SweepPlan{.chunk_bytes = 16, .chunks_per_part = 2, .room_chunks = 4, .marks = true}
                              : SweepPlan{.chunk_bytes = 128, .chunks_per_part = 4, .room_chunks = 0, .marks = false};
  Sweep<SweepScript> sweep{marks ? "files, little room and marks" : "files, the least room", how};
  const auto& clean = sweep.clean();
  // The script meets what it is for.
  CHECK(clean.evictions >= 20);
  CHECK(clean.flushed_for_room >= 1);
  CHECK((clean.throttled >= 5) == how.marks);
  CHECK(clean.swaps >= 1);
  CHECK(clean.ahead_bytes >= how.chunk_bytes);
  CHECK(clean.load_waits >= 1);
  CHECK(clean.side_by_side == 1);
  CHECK(clean.redirtied_bytes >= 2);
  CHECK(sweep.met(Fault::allocation) >= 700);
  CHECK(sweep.met(Fault::commit) >= 100);
  CHECK(sweep.met(Fault::load) >= 45);
  CHECK(sweep.met(Fault::flush) >= 25);

  using enum Fault;
  check_sweep(sweep, {allocation, commit, load, flush, sync, reserve, remove, completion, filler, visitor});
  const auto& reach = sweep.reach();
  CHECK(reach.short_writes >= 100);
  CHECK(reach.uncached >= 1000);
  CHECK(reach.room_waits >= 100);
  if (!marks) CHECK(reach.unsure >= 10);  // where nothing leaves but holes, nothing is named
}
