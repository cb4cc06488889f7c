// SPDX-License-Identifier: MIT
#include <tarn/detail/held_read.hpp>

#include <tarn/dirty_file_async.hpp>
#include <tarn/eviction/s3_fifo.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>

#include "support/catch.hpp"
#include "support/shared_file.hpp"

using namespace tarn_test;
using tarn::detail::ChunkState;

namespace {

constexpr std::uint64_t chunk_bytes = 16;

/// A file of 40 bytes: a chunk that is held, one of which [0, 4) is held, and one that is not.
struct World : SharedFile<WatchedUsual> {
  World() : SharedFile<WatchedUsual>{{chunk_bytes, 4}, 40} {
    REQUIRE(read(0, chunk_bytes) == pattern(0, chunk_bytes));
    REQUIRE(pool.evict_clean() != 0);
    REQUIRE(write(0, pattern(0, chunk_bytes)));
    REQUIRE(write(chunk_bytes, pattern(chunk_bytes, 4)));
  }
  /// What HeldReads shows; "not" if it does not.
  std::string held(std::uint64_t offset, std::uint64_t size_bytes) {
    const tarn::detail::Resumer resumer;
    std::string seen = "not";
    const bool used = (*this)->body()->held_reads().use(offset, size_bytes, [&](tarn::ConstBuffers bytes) {
      seen.assign(bytes.size_bytes(), '?');
      bytes.copy_to(writable(seen));
    });
    CHECK(used == (seen != "not"));
    return seen;
  }
  ChunkState& state(std::uint64_t chunk) {
    auto& record = *(*this)->body()->record;
    tarn::detail::MutexLock table{record.table_mutex};
    return record.table.find(chunk)->state;
  }
};

}  // namespace

TEST_CASE("bytes that one chunk holds are shown, and no pin and no latch stays", "[held_read]") {
  World file;
  const auto before = file.state(0).word();
  CHECK(file.held(0, chunk_bytes) == pattern(0, chunk_bytes));
  CHECK(file.held(3, 5) == pattern(3, 5));
  CHECK(file.held(chunk_bytes, 4) == pattern(chunk_bytes, 4));
  CHECK(file.held(chunk_bytes - 1, 1) == pattern(chunk_bytes - 1, 1));
  CHECK(file.state(0).word() == before);
}

TEST_CASE("bytes in several chunks are shown, and no pin and no latch stays", "[held_read]") {
  World file;
  const auto before = std::pair{file.state(0).word(), file.state(1).word()};
  CHECK(file.held(chunk_bytes - 1, 2) == pattern(chunk_bytes - 1, 2));
  CHECK(file.held(0, chunk_bytes + 4) == pattern(0, chunk_bytes + 4));
  CHECK(file.held(0, chunk_bytes + 5) == "not");  // not all of the second
  REQUIRE(file.state(1).try_pin());
  REQUIRE(file.state(1).try_latch_exclusive());
  CHECK(file.held(chunk_bytes - 1, 2) == "not");  // a change of the second is under way
  file.state(1).unlatch_exclusive(file.pool.core().parking);
  (void)file.state(1).unpin();
  CHECK(std::pair{file.state(0).word(), file.state(1).word()} == before);
}

TEST_CASE("who waited for a chunk that a read lets go of goes on when the read has let go of all", "[held_read]") {
  constexpr std::uint64_t C = 64 * KiB;
  tarn::ChunkPool<Heap> pool{{.budget_bytes = 16 * C, .chunk_bytes = C, .window_bytes = 2 * C}};
  MemoryStore<Heap> store, full_store;
  store.put_pattern(1, 3 * C);
  tarn::DirtyFile file{pool, tarn::MetadataFor<Heap>::from_store(1, 3 * C), store};
  tarn::DirtyFile full{pool, tarn::MetadataFor<Heap>::created(2), full_store};
  const auto state = [&](std::uint64_t chunk) -> ChunkState& {
    tarn::detail::MutexLock table{file.body()->record->table_mutex};
    return file.body()->record->table.find(chunk)->state;
  };
  std::string into(2 * C, '?');
  REQUIRE(file.read(C, writable(into)));  // the second chunk and the third
  auto& second = state(1);
  const std::string text(C, 'w');
  std::optional<bool> latched_then;
  auto waits = tarn::write_operation(file, 0, bytes_of(text), [&](const tarn::Result<tarn::Written>& n) {
    latched_then = second.is(ChunkState::shared_mask);
    CHECK(n);
  });
  full_store.flush_gate.close();
  std::optional<Worker> flushes;
  const auto fill = [&] {  // there is no room but what is shown, and a flush is in flight that may make some
    std::uint64_t at = 0;
    while (full.try_write(at, bytes_of(text))) at += C;
    CHECK(at != 0);
    flushes.emplace(full_store.flush_gate, [&] { CHECK(full.flush()); });
    CHECK(full_store.flush_gate.wait_for_arrivals());
    waits.start();
    CHECK_FALSE(latched_then);
  };
  REQUIRE(file.view(C, 2 * C, [&](tarn::ConstBuffers) { Worker{fill}.join(); }));
  CHECK(latched_then == false);
  full_store.flush_gate.open();
  flushes->join();
  CHECK(file.flush());
}

TEST_CASE("of several chunks as many are shown as a window has, if their pieces fit without an allocation",
          "[held_read]") {
  constexpr std::uint64_t most = tarn::detail::usual_window_pieces;
  for (const auto window_chunks : {most - 1, most, most + 1}) {
    CAPTURE(window_chunks);
    tarn::ChunkPool<Usual> pool{pool_options<Usual>(chunk_bytes, MiB, window_chunks)};
    REQUIRE(pool.window_bytes() == window_chunks * chunk_bytes);
    MemoryStore<Usual> store;
    store.put_pattern(1, (most + 2) * chunk_bytes);
    tarn::DirtyFile file{pool, tarn::MetadataFor<Usual>::from_store(1, (most + 2) * chunk_bytes), store};
    std::string all((most + 2) * chunk_bytes, '?');
    REQUIRE(file.read(0, writable(all)));
    for (const auto asked : {std::uint64_t{2}, most - 1, most, most + 1}) {
      CAPTURE(asked);
      const bool shown = file.body()->held_reads().use(chunk_bytes, asked * chunk_bytes, [&](tarn::ConstBuffers bytes) {
        CHECK(bytes.size_bytes() == asked * chunk_bytes);
      });
      CHECK(shown == (asked <= std::min(most, window_chunks)));
    }
  }
}

TEST_CASE("what is not all held is left to a longer read", "[held_read]") {
  World file;
  const auto before = file.state(1).word();
  CHECK(file.held(chunk_bytes, 5) == "not");      // not all of it
  CHECK(file.held(chunk_bytes + 4, 1) == "not");  // none of it
  CHECK(file.held(2 * chunk_bytes, 1) == "not");  // no chunk
  CHECK(file.held(0, 0) == "not");
  constexpr auto last = std::numeric_limits<std::uint64_t>::max();
  CHECK(file.held(last, 1) == "not");
  CHECK(file.held(0, last) == "not");
  CHECK(file.held(5, last) == "not");
  CHECK(file.state(1).word() == before);
  std::string none;
  CHECK(file->read(last, writable(none)).error() == std::errc::value_too_large);
  CHECK(file->read(0, std::span<std::byte>{static_cast<std::byte*>(nullptr), 4}).error() ==
        std::errc::invalid_argument);
}

TEST_CASE("while a chunk is being changed, nothing is shown, and nobody waits", "[held_read]") {
  World file;
  auto& body = *file->body();
  auto& state = file.state(0);
  REQUIRE(state.try_pin());
  REQUIRE(state.try_latch_exclusive());
  const auto before = state.word();
  CHECK(file.held(0, chunk_bytes) == "not");
  CHECK(state.word() == before);
  state.unlatch_exclusive(file.pool.core().parking);
  file.pool.core().unpin(*[&] {
    tarn::detail::MutexLock table{body.record->table_mutex};
    return body.record->table.find(0);
  }());
  CHECK(file.held(0, chunk_bytes) == pattern(0, chunk_bytes));
}

TEST_CASE("a chunk with all the pins that it can have is left alone", "[held_read]") {
  World file;
  auto& state = file.state(0);
  const auto before = state.word();
  std::uint64_t pins = 0;
  while (state.try_pin()) ++pins;
  CHECK(pins == ChunkState::pin_guard - 1);
  CHECK(file.held(0, 1) == "not");
  (void)state.unpin();
  CHECK(file.held(0, 1) == pattern(0, 1));
  while (--pins != 0) (void)state.unpin();
  CHECK(state.word() == before);
}

TEST_CASE("what a read looks at of a chunk is one line of memory", "[held_read]") {
  constexpr std::ptrdiff_t line_bytes = 64;
  const auto check = [&](auto traits) {
    const tarn::detail::Chunk<decltype(traits)> chunk{};
    const auto end_of = [&](const auto& member) {
      return reinterpret_cast<const std::byte*>(&member + 1) - reinterpret_cast<const std::byte*>(&chunk);
    };
    CHECK(end_of(chunk.state) <= line_bytes);
    CHECK(end_of(chunk.memory) <= line_bytes);
    CHECK(end_of(chunk.valid) <= line_bytes);
    CHECK(end_of(chunk.heat) <= line_bytes);
    CHECK(reinterpret_cast<std::uintptr_t>(&chunk) % line_bytes == 0);
  };
  struct InFifos : Usual {
    using Eviction = tarn::S3FifoEviction;
  };
  check(Usual{});
  check(InFifos{});
}

TEST_CASE("a visitor of one chunk that throws leaves nothing behind, and what it returns is returned", "[held_read]") {
  World file;
  const auto before = file.state(0).word();
  CHECK_THROWS_AS(file->view(0, 4, [](tarn::ConstBuffers) { throw std::domain_error{"no"}; }), std::domain_error);
  CHECK(file.state(0).word() == before);
  const auto views = file.pool.stats().view_bytes;
  const auto shown = file->view(2, 4, [](tarn::ConstBuffers bytes) {
    std::string text(bytes.size_bytes(), '?');
    bytes.copy_to(writable(text));
    return text;
  });
  REQUIRE(shown);
  CHECK(*shown == pattern(2, 4));
  CHECK(file->view(2, 4, [](tarn::ConstBuffers) {}));
  CHECK(file.pool.stats().view_bytes == views + 8);
}

TEST_CASE("what building blocks have left past the size of a file, or load there, is no part of it", "[held_read]") {
  OneFile<Usual> blocks{{chunk_bytes, 4}};
  blocks.become_stored(40);
  const auto text_of = [](auto& file, std::uint64_t offset, std::size_t size_bytes) {
    std::string into(size_bytes, '?');
    const auto n = file.read(offset, writable(into));
    const auto shown = file.view(offset, size_bytes, [](tarn::ConstBuffers bytes) { return bytes.size_bytes(); });
    CHECK((shown && n && *shown == *n));
    return n ? into.substr(0, *n) : "error: " + n.error().message();
  };
  const auto shorter = OneFile<Usual>::Metadata::from_store(blocks.id, 20, {.part_bytes = blocks.P});
  SECTION("left") {
    REQUIRE(blocks.read_all() == pattern(0, 40));
    tarn::DirtyFile file{blocks.pool, shorter, blocks.store};
    CHECK(text_of(file, 16, 16) == pattern(16, 4));
    CHECK(text_of(file, 0, 16) == pattern(0, 16));
    CHECK(text_of(file, 32, 8).empty());
  }
  SECTION("in flight") {
    auto& gate = blocks.store.load_gate;
    gate.close();
    Worker loads{gate, [&] { (void)blocks.read(32, 8); }};
    REQUIRE(gate.wait_for_arrivals());
    tarn::DirtyFile file{blocks.pool, shorter, blocks.store};
    gate.open();
    loads.join();
    REQUIRE(blocks.pool.contains(shorter, 2));
    CHECK(text_of(file, 32, 8).empty());
  }
}
