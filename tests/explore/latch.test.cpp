// SPDX-License-Identifier: MIT
// Compile: -O1 in explorations
// CTest: TIMEOUT 300 COST 5 LABELS slow
#define TARN_SYNC_HEADER "explore/explored_sync.hpp"

// The latches of a chunk and the lock of a file under the explorer: who waits comes in, and nobody comes in beside one
// who has it alone.

#include <tarn/detail/chunk_state.hpp>
#include <tarn/detail/file_lock.hpp>

#include <cstddef>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "explore/explore.hpp"
#include "support/catch.hpp"

using tarn::detail::ChunkState;
using tarn_test::explore;
using tarn_test::Explorer;
using tarn_test::Scenario;

namespace {

/// A chunk with a pin for each thread, or a file's lock: who is inside is counted.
struct Shared {
  ChunkState chunk;
  tarn::detail::ParkingLot lot;
  tarn::detail::FileLock file;
  tarn::detail::Atomic<int> readers{0}, writers{0};

  void read() { Explorer::expect(writers.load() == 0, "a reader beside a writer"); }
  void write() {
    Explorer::expect(writers.fetch_add(1) == 0, "two writers");
    writers.fetch_sub(1);
  }
};
using Act = tarn_test::ActOn<Shared>;
const Act read_chunk = [](Shared& s) {
  (void)s.chunk.latch_shared(s.lot);
  s.read();
  s.chunk.unlatch_shared(s.lot);
};
const Act write_chunk = [](Shared& s) {
  (void)s.chunk.latch_exclusive(s.lot);
  s.write();
  s.chunk.unlatch_exclusive(s.lot);
};
const Act read_file = [](Shared& s) {
  s.file.lock_shared();
  s.read();
  s.file.unlock_shared();
};
const Act write_file = [](Shared& s) {
  s.file.lock();
  s.write();
  s.file.unlock();
};

/// One thread for each; in the end nothing is held.
std::function<Scenario()> together(std::vector<Act> acts) {
  return [acts = std::move(acts)] {
    auto shared = std::make_shared<Shared>();
    for (std::size_t i = 1; i < acts.size(); ++i) (void)shared->chunk.try_pin();
    shared->chunk.unlatch_exclusive(shared->lot);
    Scenario scenario;
    tarn_test::add_threads(scenario, shared, acts);
    scenario.at_end = [=] {
      Explorer::expect(shared->chunk.word() == acts.size() * ChunkState::pin_one, "a latch or a mark is left");
      Explorer::expect(shared->file.try_lock(), "the file's lock is left");
    };
    return scenario;
  };
}

}  // namespace

TEST_CASE("a chunk's latch is had by who waits for it, whoever comes in between", "[explore]") {
  explore("by a reader, between writers", together({write_chunk, read_chunk, write_chunk}));
  explore("by a writer, between readers", together({read_chunk, write_chunk, read_chunk}), 3);
  explore("by writers", together({write_chunk, write_chunk, write_chunk}));
}

TEST_CASE("a file's lock is had by who waits for it, whoever comes in between", "[explore]") {
  explore("by a reader, between writers", together({write_file, read_file, write_file}));
  explore("by a writer, between readers", together({read_file, write_file, read_file}));
}
