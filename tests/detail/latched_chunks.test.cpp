// SPDX-License-Identifier: MIT
#include <tarn/detail/latched_chunks.hpp>

#include <cstdint>

#include "support/brim.hpp"
#include "support/catch.hpp"
#include "support/one_file.hpp"

using namespace tarn_test;
using tarn::detail::ChunkState;
using tarn::detail::LatchedChunks;
using tarn::detail::LatchMode;

namespace {

/// Two chunks that are held and that nobody uses.
struct TwoChunks : OneFile<Heap> {
  TwoChunks() : OneFile{{.chunk_bytes = 16, .chunks_per_part = 2}} { REQUIRE(write(0, std::string(32, 'x'))); }
  [[nodiscard]] auto& chunk(std::uint64_t index) {
    const auto record = pool.core().registry.find(pool.core().file_key(id));
    const tarn::detail::MutexLock table{record->table_mutex};
    return *record->table.find(index);
  }
};

constexpr auto users = ChunkState::pin_mask | ChunkState::shared_mask | ChunkState::exclusive | ChunkState::pending;

}  // namespace

TEST_CASE("what is latched already stays latched as it is, and all is given back", "[latched_chunks]") {
  TwoChunks file;
  auto &a = file.chunk(0), &b = file.chunk(1);
  const bool tries = GENERATE(false, true);
  {
    LatchedChunks<Heap> latched{file.pool.core()};
    latched.reserve(2);
    REQUIRE(a.state.try_pin());
    latched.hold(a);
    latched.latch(LatchMode::shared);
    REQUIRE(b.state.try_pin());
    latched.hold(b);
    if (tries) {
      CHECK(latched.try_latch(LatchMode::exclusive));
    } else {
      latched.latch(LatchMode::exclusive);
    }
    CHECK((a.state.word() & users) == (ChunkState::pin_one | ChunkState::shared_one));
    CHECK((b.state.word() & users) == (ChunkState::pin_one | ChunkState::exclusive));
  }
  CHECK((a.state.word() & users) == 0);
  CHECK((b.state.word() & users) == 0);
}

TEST_CASE("an exclusive latch that is not to be had is not waited for by a try", "[latched_chunks]") {
  TwoChunks file;
  auto& a = file.chunk(0);
  const auto before = a.state.word();
  REQUIRE(a.state.try_pin());
  REQUIRE(a.state.try_latch_shared());
  {
    LatchedChunks<Heap> latched{file.pool.core()};
    latched.reserve(1);
    REQUIRE(a.state.try_pin());
    latched.hold(a);
    CHECK_FALSE(latched.try_latch(LatchMode::exclusive));
    CHECK((a.state.word() & ChunkState::pending) == 0);
  }
  a.state.unlatch_shared(file.pool.core().parking);
  file.pool.core().unpin(a);
  CHECK(a.state.word() == before);
}

TEST_CASE("lists of extents that the budget has no room for are not grown, and nothing is charged",
          "[latched_chunks]") {
  TwoChunks file;
  auto& a = file.chunk(0);
  for (const std::uint64_t at : {2u, 6u}) REQUIRE(file.punch(at, at + 1));
  REQUIRE(file.punch(4, 5));
  REQUIRE(file.punch(12, 13));
  auto& pool = file.pool;
  REQUIRE(a.valid.bytes_to_prepare(16) == 0);  // as large as it gets: a bit a byte
  REQUIRE(file.write(32, std::string(16, 'y')));
  REQUIRE(file.punch(34, 35));
  auto& c = file.chunk(2);
  const auto charged = pool.stats().charged_bytes;
  {
    const Brim full{pool};
    CHECK(tarn::detail::prepare_extents(pool.core(), a) == 0);
    CHECK(tarn::detail::prepare_extents(pool.core(), c) != 0);
    CHECK(tarn::detail::prepare_extents(pool.core(), c, tarn::detail::Lists::valid) != 0);
  }
  CHECK(pool.stats().charged_bytes == charged);
  CHECK(tarn::detail::prepare_extents(pool.core(), c) == 0);
  CHECK(pool.stats().charged_bytes > charged);
}
