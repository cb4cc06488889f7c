// SPDX-License-Identifier: MIT
// CTest: LABELS slow
#include "fault/sweep_script.hpp"

#include <cstdint>
#include <iostream>
#include <string>
#include <vector>

#include "support/catch.hpp"
#include "support/replaced_new.hpp"

// Everything that tarn relies on fails once, alone or for ever: whatever fails, no byte is lost, nothing leaks, and the
// error is the one that the fault explains.

bool tarn_test::may_allocate() noexcept { return !fault_points.fails(Fault::allocation); }

using namespace tarn_test;

namespace {

struct Ways {
  Fault kind;
  std::vector<FaultWay> ways;
  std::uint64_t least_points;  // in a run
};

/// Returns: what was wrong with a run; empty if nothing.
std::string run_script(const SweepPlan& plan, bool looks, SweepReach& reach) {
  const auto out_before = allocations_out();
  std::string wrong;
  {
    SweepScript script{plan, looks, reach};
    script.run();
    wrong = script.wrong();
  }
  const auto out = allocations_out() - out_before;
  if (wrong.empty() && out != 0) wrong = "allocations that were not given back: " + std::to_string(out);
  return wrong;
}

void show(const char* what, const SweepReach& reach) {
  std::cout << what << ": " << reach.calls << " calls, " << reach.errors << " errors, short writes "
            << reach.short_writes << ", evictions " << reach.evictions << ", flushes for room "
            << reach.flushed_for_room << ", throttled " << reach.throttled << ", room waits " << reach.room_waits
            << ", swaps " << reach.swaps << ", uncached loads " << reach.uncached << ", bytes loaded ahead "
            << reach.ahead_bytes << ", load waits " << reach.load_waits << ", flushes side by side "
            << reach.side_by_side << ", bytes written in flight " << reach.redirtied_bytes << ", unsure "
            << reach.unsure << std::endl;
}

}  // namespace

TEST_CASE("whatever fails, alone or for ever: no byte is lost, nothing leaks, and the error says why", "[fault]") {
  const auto how = GENERATE(SweepPlan{.chunk_bytes = 128, .chunks_per_part = 4, .room_chunks = 0, .marks = false},
                            SweepPlan{.chunk_bytes = 16, .chunks_per_part = 2, .room_chunks = 4, .marks = true});
  SweepReach clean, reach;
  fault_points.begin(Fault::allocation, UINT64_MAX, false);
  REQUIRE(run_script(how, true, clean) == "");
  std::uint64_t met[fault_names.size()];
  for (std::size_t i = 0; i < fault_names.size(); ++i) met[i] = fault_points.met(static_cast<Fault>(i));
  show("with no fault", clean);
  // The script meets what it is for.
  CHECK(clean.evictions >= 20);
  CHECK(clean.flushed_for_room >= 1);
  CHECK((clean.throttled >= 5) == how.marks);
  CHECK(clean.swaps >= 1);
  CHECK(clean.ahead_bytes >= how.chunk_bytes);
  CHECK(clean.load_waits >= 1);
  CHECK(clean.side_by_side == 1);
  CHECK(clean.redirtied_bytes >= 2);

  using enum FaultWay;
  const Ways all[]{
      {Fault::allocation, {error}, 1000},
      {Fault::commit, {error}, 100},
      {Fault::load, {error, dropped, partly}, 45},
      {Fault::flush, {error, dropped, partly, unsure, conflict}, 25},
      {Fault::sync, {error, dropped}, 5},
      {Fault::reserve, {error, dropped}, 40},
      {Fault::remove, {error, dropped}, 2},
      {Fault::filler, {error, dropped, partly}, 3},
      {Fault::visitor, {error}, 3},
  };
  std::uint64_t runs = 1, wrong_runs = 0;
  std::string figures, wrong;
  for (const auto& [kind, ways, least_points] : all) {
    const std::string name = fault_names[static_cast<std::size_t>(kind)];
    const auto errors_before = reach.errors;
    std::uint64_t points = 0;
    for (const auto way : ways) {
      for (const bool for_ever : {false, true}) {
        for (std::uint64_t nth = 0;; ++nth, ++runs, ++points) {
          fault_points.begin(kind, nth, for_ever);
          auto plan = how;
          plan.kind = kind;
          plan.way = way;
          const auto point = name + ", " + fault_way_names[static_cast<std::size_t>(way)] + ", " + std::to_string(nth) +
                             (for_ever ? " for ever" : " alone");
          INFO(point);  // for what ends the program
          const auto why = run_script(plan, false, reach);
          if (!why.empty() && ++wrong_runs <= 20) wrong += point + ": " + why + '\n';
          if (fault_points.strikes() == 0) break;
        }
      }
    }
    CHECK(points >= 2 * ways.size() * least_points);
    CHECK(met[static_cast<std::size_t>(kind)] >= least_points);
    CHECK(reach.errors > errors_before);
    figures += std::string{figures.empty() ? "" : ", "} + name + ' ' + std::to_string(points) + " (" +
               std::to_string(met[static_cast<std::size_t>(kind)]) + " in a run)";
  }
  std::cout << runs << " runs; points met and failed: " << figures << std::endl;
  show("in all", reach);
  CHECK(reach.short_writes >= 100);
  CHECK(reach.uncached >= 1000);
  CHECK(reach.room_waits >= 100);
  CHECK(reach.unsure >= 10);
  CHECK(wrong == "");
}
