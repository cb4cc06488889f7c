// SPDX-License-Identifier: MIT
// Compile: -O1 in sweeps
// CTest: LABELS slow
#include "fault/sweep_table.hpp"

#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>

#include <tarn/storage/arena.hpp>

#include "fault/sweep.hpp"
#include "support/catch.hpp"

// The same with a table of files, in an arena: the kernel refuses it slabs, and it refuses the pool chunks.

using namespace tarn_test;

extern "C" void* mmap(void* at, std::size_t size_bytes, int protection, int flags, int file, off_t offset) noexcept {
  const bool of_slab = size_bytes == tarn::ArenaStorage::huge_page_bytes;
  if (of_slab && fault_points.fails(Fault::commit)) {
    errno = ENOMEM;
    return MAP_FAILED;
  }
  return reinterpret_cast<void*>(::syscall(SYS_mmap, at, size_bytes, protection, flags, file, offset));
}

TEST_CASE("whatever fails of a table of files in an arena", "[fault]") {
  using enum Fault;
  const SweepPlan how{.chunk_bytes = 512, .chunks_per_part = 4, .room_chunks = 0};
  Sweep<SweepTable<FaultStore<SweepTraitsOn<tarn::ArenaStorage>>>> sweep{"a table in an arena", how};
  check_sweep(sweep, {allocation, commit, load, flush, sync, reserve, remove, visitor, predicate});
}

TEST_CASE("whatever fails of a table of files", "[fault]") {
  using enum Fault;
  const SweepPlan how{.chunk_bytes = 16, .chunks_per_part = 4, .room_chunks = 2};
  Sweep<SweepTable<FaultStore<SweepTraits>>> sweep{"a table", how};
  CHECK(sweep.clean().evictions >= 5);
  check_sweep(sweep, {allocation, commit, load, flush, sync, reserve, remove, visitor, predicate});
}
