// SPDX-License-Identifier: MIT
// CTest: LABELS slow
#include "fault/sweep_content.hpp"

#include "fault/sweep.hpp"
#include "fault/sweep_blocks.hpp"
#include "support/catch.hpp"

// The same with content named by its digest, and with the building blocks.

using namespace tarn_test;

namespace {

template <ModelUnits units>
void sweep_content(const char* name) {
  const SweepPlan how{.chunk_bytes = 16, .chunks_per_part = 4, .room_chunks = 24, .names_content = true};
  Sweep<SweepContent<FaultStore<SweepTraits, units>>> sweep{name, how};
  using enum Fault;
  check_sweep(sweep, {allocation, commit, load, flush, sync, reserve, visitor});
}

}  // namespace

TEST_CASE("whatever fails of files that share content, and of content alone", "[fault]") {
  sweep_content<ModelUnits{}>("content");
}

TEST_CASE("whatever fails of content that comes and goes in whole parts", "[fault]") {
  sweep_content<ModelUnits{.load = tarn::LoadUnit::parts, .flush = tarn::FlushUnit::parts}>("content in whole parts");
}

TEST_CASE("whatever fails of the building blocks", "[fault]") {
  const SweepPlan how{.chunk_bytes = 16, .chunks_per_part = 4, .room_chunks = 4};
  Sweep<SweepBlocks> sweep{"building blocks", how};
  CHECK(sweep.clean().evictions >= 1);
  using enum Fault;
  check_sweep(sweep, {allocation, commit, load, flush, remove, filler, visitor});
}
