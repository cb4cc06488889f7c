// SPDX-License-Identifier: MIT
#include <tarn/detail/file_change.hpp>

#include <cstdint>
#include <system_error>

#include <tarn/dirty_file.hpp>

#include "support/brim.hpp"
#include "support/catch.hpp"
#include "support/later_file.hpp"
#include "support/shared_file.hpp"

using namespace tarn_test;

// What cannot be done says why, and the file is as it was.

TEST_CASE("a file of which a chunk has all the pins it can have is not told of another version", "[file_change]") {
  SharedFile<WatchedFiles> file{{4096, 1}, 4096};
  REQUIRE(file.write(0, "dirty"));
  REQUIRE(file.read_all() == "dirty" + pattern(5, 4091));
  const auto before = file->metadata();
  auto pins = take_all_pins(file.pool, before, 0);
  CHECK(file->invalidate(5).error() == std::errc::resource_unavailable_try_again);
  CHECK(file->rebase(4096, 5).error() == std::errc::resource_unavailable_try_again);
  CHECK(file->metadata() == before);
  CHECK_THROWS_AS(file->data_extents(tarn::whole_file), std::system_error);
  pins.clear();
  CHECK(file.read_all() == "dirty" + pattern(5, 4091));
  CHECK(file->invalidate(5));
  CHECK(file->metadata().version() == 5);
  REQUIRE(file->flush());
}

TEST_CASE("a file whose lists of extents find no room keeps its version, and what is dirty", "[file_change]") {
  SharedFile<WatchedFiles> file{{64, 1}, 64};
  REQUIRE(file.read_all() == pattern(0, 64));
  for (const std::uint64_t at : {10u, 20u}) REQUIRE(file.write(at, "d"));
  auto expected = pattern(0, 64);
  expected[10] = expected[20] = 'd';
  const auto before = file->metadata();
  const auto dirty = extents_of(file.pool.dirty_extents(before));
  {
    const Brim full{file.pool};
    CHECK(file->invalidate(5).error() == std::errc::no_buffer_space);
    CHECK(file->rebase(64, 5).error() == std::errc::no_buffer_space);
    CHECK(file->metadata() == before);
    CHECK(extents_of(file.pool.dirty_extents(before)) == dirty);
  }
  CHECK(file.read_all() == expected);  // what was let go of is loaded again
  CHECK(file->rebase(64, 5));
  CHECK(file.read_all() == expected);
  REQUIRE(file->flush());
}

TEST_CASE("a size that no file can have is EFBIG to a rebase and a discard, and nothing has changed", "[file_change]") {
  SharedFile<WatchedFiles> file{{16, 1}, 16};
  REQUIRE(file.write(0, "dirty"));
  const auto before = file->metadata();
  CHECK(file->rebase(tarn::max_offset + 1, 5).error() == std::errc::file_too_large);
  CHECK(file->discard_dirty(tarn::max_offset + 1, 5).error() == std::errc::file_too_large);
  CHECK(file->metadata() == before);
  CHECK(file.read(0, 5) == "dirty");
  REQUIRE(file->flush());
}

TEST_CASE("a rebase waits for a flush in flight as long as it is told, and has changed nothing then", "[file_change]") {
  LaterFile<Heap> file{{16, 1}, 16};
  REQUIRE(file->write(0, bytes_of("dirty")));
  REQUIRE(file->flush({.deadline_ns = 0}).error() == std::errc::timed_out);  // and stays in flight
  const auto before = file->metadata();
  CHECK(file->rebase(16, 5, {.deadline_ns = 0}).error() == std::errc::timed_out);
  CHECK(file->metadata() == before);
  file.store.finish_flush();
  CHECK_FALSE(file->is_dirty());
  CHECK(file->rebase(16, 5));
  CHECK(file->metadata().version() == 5);
}

TEST_CASE("a chunk that its pool forgets while an invalidate waits for it is forgotten once", "[file_change]") {
  SharedFile<WatchedFiles> file{{16, 1}, 32};
  REQUIRE(file.read_all() == pattern(0, 32));
  const auto meta = file->metadata();
  Gate gate;
  gate.close();
  BlockedThread waiter;
  tarn::Result<> told = tarn::fail(std::errc::io_error);
  {
    auto pin = file.pool.pin(meta, 0);
    REQUIRE(pin);
    Worker looks{gate, [&gate, pin = std::move(*pin)] {
                   (void)pin.with_data([&](std::span<const std::byte>) { gate.pass(); }).has_value();
                 }};
    REQUIRE(gate.wait_for_arrivals());
    Worker invalidates{gate, [&] {
                         waiter.here();
                         told = file->invalidate(5);
                       }};
    CHECK(waiter.wait_until_blocked());
    CHECK(file.pool.drop(meta) == 0);
    gate.open();
  }
  CHECK(told);
  CHECK(file.pool.stats().chunks_held == 0);
  CHECK(file->metadata().version() == 5);
  CHECK(file.read_all() == pattern(0, 32));
}
