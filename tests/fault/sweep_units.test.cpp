// SPDX-License-Identifier: MIT
// Compile: -O1 in sweeps
// CTest: LABELS slow
#include "fault/sweep_units.hpp"

#include <cstdint>
#include <new>
#include <string>

#include <tarn/detail/load_requests.hpp>

#include "fault/sweep.hpp"
#include "support/catch.hpp"

// The same with stores that give or take parts, or take files, as a whole.

using namespace tarn_test;

namespace {

template <ModelUnits units>
void sweep_units(const char* name) {
  const bool marks = GENERATE(false, true);
  const SweepPlan how = marks ? SweepPlan{.chunk_bytes = 64, .chunks_per_part = 4, .room_chunks = 2, .marks = true}
                              : SweepPlan{.chunk_bytes = 16, .chunks_per_part = 4, .room_chunks = 6, .marks = false};
  Sweep<SweepUnits<FaultStore<SweepTraits, units>>> sweep{std::string{name} + (marks ? ", little room and marks" : ""),
                                                          how};
  CHECK(sweep.clean().evictions >= 1);
  CHECK(sweep.clean().redirtied_bytes >= 1);
  using enum Fault;
  check_sweep(sweep, {allocation, commit, load, flush, sync, reserve, remove, completion, filler, visitor});
}

}  // namespace

TEST_CASE("whatever fails of a store of whole parts", "[fault]") {
  sweep_units<ModelUnits{.load = tarn::LoadUnit::parts, .flush = tarn::FlushUnit::parts}>("whole parts");
}

TEST_CASE("whatever fails of a store that takes a file as it was at one moment", "[fault]") {
  sweep_units<ModelUnits{.load = tarn::LoadUnit::ranges, .flush = tarn::FlushUnit::file}>("files of one moment");
}

TEST_CASE("a load that finds no memory to list its requests gives back what it has taken", "[fault]") {
  const auto layout = *tarn::ChunkLayout::make(16, 64);
  const tarn::ExtentSet wanted{tarn::ByteRange::between(16, 32)}, part{tarn::ByteRange::between(0, 64)};
  bool failed = true;
  std::uint64_t points = 0;
  for (; failed; ++points) {
    fault_points.begin(Fault::allocation, points, false);
    const auto out_before = allocations_out();
    {
      tarn::detail::LoadRequests<SweepTraits> requests;
      try {
        const InCall in_call;
        requests.list({.file = 7, .content = {}, .version = 0}, layout, 0, wanted, part, {}, nullptr);
      } catch (const std::bad_alloc&) {
        requests.clear();
      }
      failed = fault_points.strikes() != 0;
    }
    const auto left = allocations_out() - out_before;
    CAPTURE(points);
    CHECK(left == 0);
  }
  CHECK(points > 2);
}
