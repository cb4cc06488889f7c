// SPDX-License-Identifier: MIT
#include <tarn/detail/write_window.hpp>

#include <cstdint>
#include <optional>
#include <string>
#include <system_error>

#include <tarn/dirty_file.hpp>

#include "support/brim.hpp"
#include "support/catch.hpp"
#include "support/shared_file.hpp"

using namespace tarn_test;

TEST_CASE("a write whose lists of extents find no room is refused, and nothing has changed", "[write_window]") {
  OneFile<Heap> file{{.chunk_bytes = 64, .chunks_per_part = 1}};
  for (const std::uint64_t at : {10u, 20u}) REQUIRE(file.write(at, "d"));
  const auto before = file.read_all();
  {
    const Brim full{file.pool};
    CHECK(file.write(15, "x").error() == std::errc::no_buffer_space);
    CHECK(file.write(40, "x").error() == std::errc::no_buffer_space);
    CHECK(file.read_all() == before);
    CHECK(file.dirty() == Extents{{10, 11}, {20, 21}});
  }
  CHECK(file.write(15, "x"));
  CHECK(file.dirty() == Extents{{10, 11}, {15, 16}, {20, 21}});
}

TEST_CASE("a window that was never prepared gives nothing back", "[write_window]") {
  OneFile<Heap> file{{.chunk_bytes = 16, .chunks_per_part = 1}};
  REQUIRE(file.write(0, "hello"));
  const auto before = file.pool.stats();
  { const tarn::detail::WriteWindow<Heap> window{file.pool.core()}; }
  const auto after = file.pool.stats();
  CHECK(after.charged_bytes == before.charged_bytes);
  CHECK(after.chunks_held == before.chunks_held);
  CHECK(file.read_all() == "hello");
}

TEST_CASE("a write that waited for a chunk which its pool has forgotten meanwhile goes into a new one",
          "[write_window]") {
  SharedFile<WatchedFiles> file{{16, 1}, 16};
  REQUIRE(file.read_all() == pattern(0, 16));
  const auto meta = file->metadata();
  Gate gate;
  gate.close();
  BlockedThread waiter;
  tarn::Result<std::size_t> written = std::size_t{0};
  {
    auto pin = file.pool.pin(meta, 0);
    REQUIRE(pin);
    Worker looks{gate, [&gate, pin = std::move(*pin)] {
                   (void)pin.with_data([&](std::span<const std::byte>) { gate.pass(); }).has_value();
                 }};
    REQUIRE(gate.wait_for_arrivals());
    Worker writes{gate, [&] {
                    waiter.here();
                    written = file.write(3, "new");
                  }};
    CHECK(waiter.wait_until_blocked());
    CHECK(file.pool.drop(meta) == 0);
    gate.open();
  }
  REQUIRE(written);
  CHECK(extents_of(file.pool.dirty_extents(meta)) == Extents{{3, 6}});
  CHECK(file.read_all() == pattern(0, 3) + "new" + pattern(6, 10));
  REQUIRE(file->flush());
  CHECK(file.store.text(file.id) == pattern(0, 3) + "new" + pattern(6, 10));
}

TEST_CASE("a chunk made for a filler that filled nothing goes, also if its pool has forgotten it meanwhile",
          "[write_window]") {
  const bool forgets = GENERATE(true, false);
  SharedFile<WatchedFiles> file{{16, 1}, 16};
  const auto meta = file->metadata();
  Gate gate;
  gate.close();
  {
    Worker fills{gate, [&] {
                   (void)file
                       ->write(0, 5,
                               [&](tarn::MutableBuffers) {
                                 gate.pass();
                                 return std::size_t{0};
                               })
                       .has_value();
                 }};
    REQUIRE(gate.wait_for_arrivals());
    CHECK(file.pool.stats().chunks_held == 1);
    if (forgets) CHECK(file.pool.drop(meta) == 0);
    gate.open();
  }
  CHECK(file.pool.stats().chunks_held == 0);
  CHECK(file.read_all() == pattern(0, 16));
}
