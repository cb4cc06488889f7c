// SPDX-License-Identifier: MIT
#include <tarn/detail/chunk_state.hpp>

#include <atomic>
#include <cstdint>
#include <initializer_list>
#include <thread>
#include <vector>

#include <tarn/testing/gate.hpp>

#include "support/catch.hpp"

using tarn::detail::ChunkState;
using tarn::detail::ParkingLot;
using tarn_test::Gate;
using tarn_test::wait_until;
using tarn_test::Worker;

namespace {

constexpr auto pin = ChunkState::pin_one, shared = ChunkState::shared_one;

// A chunk that is attached and unused: what its maker leaves behind.
struct Resident {
  ChunkState state;
  ParkingLot lot;
  Resident() {
    state.unlatch_exclusive(lot);
    (void)state.unpin();
  }
};

}  // namespace

TEST_CASE("which words are legal is what the note says", "[chunk_state]") {
  for (const auto word :
       {std::uint64_t{0}, pin, pin + shared, pin + ChunkState::exclusive, ChunkState::dirty, ChunkState::detached,
        pin + ChunkState::in_flush + ChunkState::dirty, pin + shared + ChunkState::pending + ChunkState::parked,
        pin + ChunkState::detached, pin + ChunkState::in_flush + ChunkState::detached, ChunkState::pin_guard - 1,
        pin + (ChunkState::shared_guard - ChunkState::shared_one)}) {
    CAPTURE(word);
    CHECK(ChunkState::legal(word));
  }
  for (const auto word :
       {shared, ChunkState::exclusive, ChunkState::in_flush, pin + shared + ChunkState::exclusive,
        ChunkState::detached + ChunkState::dirty, ChunkState::pin_guard, pin + ChunkState::shared_guard}) {
    CAPTURE(word);
    CHECK_FALSE(ChunkState::legal(word));
  }
}

TEST_CASE("a new chunk is pinned once and exclusively latched by its maker", "[chunk_state]") {
  ChunkState state;
  CHECK(state.word() == pin + ChunkState::exclusive);
  CHECK(ChunkState::legal(state.word()));
  CHECK_FALSE(state.try_latch_shared());
  CHECK_FALSE(state.try_latch_exclusive());
  CHECK_FALSE(state.try_retire());
}

TEST_CASE("2^17 - 1 pins are taken and the next is refused, with nothing carried into the next field",
          "[chunk_state]") {
  Resident chunk;
  for (std::uint64_t i = 0; i < ChunkState::pin_guard - 1; ++i) REQUIRE(chunk.state.try_pin());
  const auto full = chunk.state.word();
  CHECK(full == ChunkState::pin_guard - 1);
  CHECK_FALSE(chunk.state.try_pin());
  CHECK(chunk.state.word() == full);
  CHECK(chunk.state.unpin() == full - pin);
  CHECK(chunk.state.try_pin());
}

TEST_CASE("shared latches are refused at their guard, with nothing carried into the exclusive bit", "[chunk_state]") {
  Resident chunk;
  REQUIRE(chunk.state.try_pin());
  std::uint64_t count = 0;
  while (chunk.state.try_latch_shared()) ++count;
  CHECK(count == (ChunkState::shared_guard / ChunkState::shared_one) - 1);
  CHECK(ChunkState::legal(chunk.state.word()));
  CHECK_FALSE(chunk.state.is(ChunkState::exclusive));
  chunk.state.unlatch_shared(chunk.lot);
  CHECK(chunk.state.try_latch_shared());
}

TEST_CASE("a latch is shared by many or had by one", "[chunk_state]") {
  Resident chunk;
  REQUIRE(chunk.state.try_pin());
  REQUIRE(chunk.state.try_latch_shared());
  REQUIRE(chunk.state.try_latch_shared());
  CHECK_FALSE(chunk.state.try_latch_exclusive());
  chunk.state.unlatch_shared(chunk.lot);
  CHECK_FALSE(chunk.state.try_latch_exclusive());
  chunk.state.unlatch_shared(chunk.lot);
  REQUIRE(chunk.state.try_latch_exclusive());
  CHECK_FALSE(chunk.state.try_latch_shared());
  CHECK_FALSE(chunk.state.try_latch_exclusive());
  chunk.state.unlatch_exclusive(chunk.lot);
  CHECK(chunk.state.unpin() == 0);
}

TEST_CASE("a chunk retires only when nobody uses it and the store has all of it", "[chunk_state]") {
  Resident chunk;
  auto& state = chunk.state;
  const auto refuses = [&] {
    const auto before = state.word();
    return !state.try_retire() && state.word() == before;
  };
  SECTION("free: it goes, once") {
    CHECK(state.try_retire());
    CHECK(state.word() == ChunkState::detached);
    CHECK(refuses());
  }
  SECTION("pinned") {
    REQUIRE(state.try_pin());
    CHECK(refuses());
    (void)state.unpin();
    CHECK(state.try_retire());
  }
  for (const auto flag : {ChunkState::dirty, ChunkState::in_flush, ChunkState::pending, ChunkState::exclusive,
                          ChunkState::shared_one, ChunkState::detached}) {
    DYNAMIC_SECTION("with the bit " << flag) {
      state.set(flag);
      CHECK(refuses());
      state.clear(flag);
      CHECK(state.try_retire());
    }
  }
}

TEST_CASE("a detached chunk says so to the last pin", "[chunk_state]") {
  Resident chunk;
  REQUIRE(chunk.state.try_pin());
  REQUIRE(chunk.state.try_pin());
  CHECK(chunk.state.detach() == 2 * pin + ChunkState::detached);
  CHECK(chunk.state.unpin() == pin + ChunkState::detached);
  CHECK(chunk.state.unpin() == ChunkState::detached);
}

TEST_CASE("who waits for the exclusive latch stops new sharers, and gets it when the last one goes", "[chunk_state]") {
  Resident chunk;
  REQUIRE(chunk.state.try_pin());
  REQUIRE(chunk.state.try_latch_shared());
  REQUIRE(chunk.state.try_latch_shared());
  std::atomic<bool> had{false};
  Gate gate;
  gate.close();
  Worker writer{gate, [&] {
                  chunk.state.latch_exclusive(chunk.lot);
                  had = true;
                  gate.pass();
                  chunk.state.unlatch_exclusive(chunk.lot);
                }};
  REQUIRE(wait_until([&] { return chunk.state.is(ChunkState::pending); }));
  CHECK_FALSE(chunk.state.try_latch_shared());
  chunk.state.unlatch_shared(chunk.lot);
  CHECK_FALSE(chunk.state.try_latch_shared());  // one sharer is left, and the writer still waits
  CHECK_FALSE(had);
  chunk.state.unlatch_shared(chunk.lot);
  REQUIRE(gate.wait_for_arrivals());
  CHECK(had);
  CHECK_FALSE(chunk.state.is(ChunkState::pending));

  std::atomic<int> shared_by{0};
  std::vector<Worker> readers;
  for (int i = 0; i < 3; ++i) {
    readers.emplace_back([&] {
      chunk.state.latch_shared(chunk.lot);
      shared_by.fetch_add(1);
    });
  }
  CHECK(wait_until([&] { return chunk.state.is(ChunkState::parked); }));
  CHECK(shared_by == 0);
  gate.open();
  CHECK(wait_until([&] { return shared_by == 3; }));
  writer.join();
  readers.clear();
  CHECK(chunk.state.word() == pin + 3 * shared);
}

TEST_CASE("no wake-up is lost between many that latch one chunk", "[chunk_state]") {
  Resident chunk;
  constexpr int threads = 4, rounds = 3000;
  std::uint64_t guarded = 0;  // a plain number: the thread sanitizer sees if a latch lets two in
  std::atomic<int> wrong{0};
  {
    std::vector<Worker> workers;
    for (int thread = 0; thread < threads; ++thread) {
      REQUIRE(chunk.state.try_pin());
      workers.emplace_back([&, thread] {
        for (int round = 0; round < rounds; ++round) {
          if ((thread + round) % 3 == 0) {
            chunk.state.latch_exclusive(chunk.lot);
            ++guarded;
            chunk.state.unlatch_exclusive(chunk.lot);
          } else {
            chunk.state.latch_shared(chunk.lot);
            const auto seen = guarded;
            if (!ChunkState::legal(chunk.state.word())) wrong.fetch_add(1);
            if (seen != guarded) wrong.fetch_add(1);
            chunk.state.unlatch_shared(chunk.lot);
          }
        }
        (void)chunk.state.unpin();
      });
    }
  }
  CHECK(guarded == threads * rounds / 3);
  CHECK(wrong == 0);
  CHECK((chunk.state.word() & ~ChunkState::parked) == 0);
}

TEST_CASE("who is refused a shared latch for want of room has it when any sharer goes", "[chunk_state]") {
  Resident chunk;
  REQUIRE(chunk.state.try_pin());
  std::uint64_t sharers = 0;
  while (chunk.state.try_latch_shared()) ++sharers;
  std::atomic<bool> waited{false}, had{false};
  Worker one_more{[&] {
    waited = chunk.state.latch_shared(chunk.lot);
    had = true;
  }};
  REQUIRE(wait_until([&] { return chunk.state.is(ChunkState::parked); }));
  CHECK_FALSE(had);
  chunk.state.unlatch_shared(chunk.lot);
  CHECK(wait_until([&] { return had.load(); }));
  one_more.join();
  CHECK(waited);
  CHECK(chunk.state.word() == pin + sharers * shared);
}

TEST_CASE("who takes a latch is told whether it waited", "[chunk_state]") {
  Resident chunk;
  REQUIRE(chunk.state.try_pin());
  CHECK_FALSE(chunk.state.latch_exclusive(chunk.lot));
  chunk.state.unlatch_exclusive(chunk.lot);
  CHECK_FALSE(chunk.state.latch_shared(chunk.lot));
  chunk.state.unlatch_shared(chunk.lot);
  CHECK(chunk.state.unpin() == 0);
}
