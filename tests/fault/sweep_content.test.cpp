// SPDX-License-Identifier: MIT
// Compile: -O1 in sweeps
// CTest: LABELS slow
#include "fault/sweep_content.hpp"

#include <cstdint>
#include <string>

#include "fault/sweep.hpp"
#include "fault/sweep_blocks.hpp"
#include "support/catch.hpp"

// The same with content named by its digest, and with the building blocks.

using namespace tarn_test;

namespace {

template <ModelUnits units>
void sweep_content(const char* name) {
  const std::uint64_t room_chunks = GENERATE(24u, 4u);
  const SweepPlan how{
      .chunk_bytes = 16, .chunks_per_part = 4, .room_chunks = room_chunks, .marks = false, .names_content = true};
  Sweep<SweepContent<FaultStore<SweepTraits, units>>> sweep{
      std::string{name} + (room_chunks < 8 ? ", little room" : ""), how};
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
  const bool tiny = GENERATE(false, true);
  const SweepPlan how = tiny ? SweepPlan{.chunk_bytes = 4, .chunks_per_part = 2, .room_chunks = 20}
                             : SweepPlan{.chunk_bytes = 16, .chunks_per_part = 4, .room_chunks = 4};
  Sweep<SweepBlocks> sweep{tiny ? "building blocks, tiny chunks" : "building blocks", how};
  CHECK(sweep.clean().evictions >= 1);
  using enum Fault;
  check_sweep(sweep, {allocation, commit, load, flush, remove, filler, visitor});
}
