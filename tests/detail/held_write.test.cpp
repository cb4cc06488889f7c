// SPDX-License-Identifier: MIT
#include <tarn/detail/held_write.hpp>

#include <tarn/dirty_file.hpp>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <system_error>

#include <tarn/testing/gate.hpp>

#include "support/catch.hpp"
#include "support/shared_file.hpp"

using namespace tarn_test;
using tarn::detail::ChunkState;

namespace {

constexpr std::uint64_t chunk_bytes = 16;

/// A file of 48 bytes in the store, of which "dirt" was written at 4, in a chunk that holds nothing else.
struct World : SharedFile<WatchedUsual> {
  explicit World() : SharedFile<WatchedUsual>{{chunk_bytes, 4}, 48} { REQUIRE(write(4, "dirt")); }

  bool held(std::uint64_t offset, std::string_view text, std::optional<std::int64_t> mtime_ns = {}) {
    const tarn::detail::Resumer resumer;
    auto access = (*this)->body()->access();
    return tarn::detail::write_held(access, offset, bytes_of(text), mtime_ns);
  }
  ChunkState& state(std::uint64_t chunk) {
    auto& record = *(*this)->body()->record;
    tarn::detail::MutexLock table{record.table_mutex};
    return record.table.find(chunk)->state;
  }
  [[nodiscard]] Extents dirty() { return extents_of(pool.dirty_extents((*this)->metadata())); }
};

}  // namespace

TEST_CASE("a write over dirty bytes changes them and nothing else", "[held_write]") {
  World file;
  const auto before = file.pool.stats();
  const auto word = file.state(0).word();
  REQUIRE(file.held(5, "us"));
  CHECK(file.read(4, 4) == "dust");
  CHECK(file.dirty() == Extents{{4, 8}});
  CHECK(file.state(0).word() == word);
  const auto after = file.pool.stats();
  CHECK(after.dirty_bytes == before.dirty_bytes);
  CHECK(after.clean_bytes == before.clean_bytes);
  CHECK(after.charged_bytes == before.charged_bytes);
  CHECK(file->size() == 48);
}

TEST_CASE("a write on from dirty bytes makes more dirty, and the file longer", "[held_write]") {
  World file;
  const auto before = file.pool.stats();
  REQUIRE(file.held(6, "ectly"));
  CHECK(file.dirty() == Extents{{4, 11}});
  REQUIRE(file.held(14, "ab"));  // with a gap
  CHECK(file.dirty() == Extents{{4, 11}, {14, 16}});
  CHECK(file.pool.stats().dirty_bytes == before.dirty_bytes + 5);
  CHECK(file.pool.stats().clean_bytes == before.clean_bytes);
  CHECK(file.read(0, 16) == pattern(0, 4) + "diectly" + pattern(11, 3) + "ab");
  REQUIRE(file->truncate(6));
  REQUIRE(file.held(8, "z", 77));
  CHECK(file->size() == 9);
  CHECK(file->metadata().mtime_ns() == 77);
  CHECK(file.read_all() == pattern(0, 4) + "di" + std::string(2, '\0') + "z");
  REQUIRE(file->flush());
  CHECK(file.store.text(file.id) == pattern(0, 4) + "di" + std::string(2, '\0') + "z");
}

TEST_CASE("what takes more than a look is left to a longer write, and nothing has changed", "[held_write]") {
  World file;
  const auto before = file.state(0).word();
  CHECK_FALSE(file.held(15, "ab"));              // in two chunks
  CHECK_FALSE(file.held(chunk_bytes, "a"));      // no chunk
  CHECK_FALSE(file.held(4, ""));                 // nothing
  CHECK_FALSE(file.held(UINT64_MAX - 1, "ab"));  // no such place
  CHECK_FALSE(file.held(4, std::string_view{static_cast<const char*>(nullptr), 1}));
  REQUIRE(file.read(chunk_bytes, chunk_bytes) == pattern(chunk_bytes, chunk_bytes));
  CHECK_FALSE(file.held(chunk_bytes, "a"));  // clean
  REQUIRE(file.state(0).try_pin());
  REQUIRE(file.state(0).try_latch_shared());
  CHECK_FALSE(file.held(4, "a"));  // somebody reads it
  file.state(0).unlatch_shared(file.pool.core().parking);
  (void)file.state(0).unpin();
  REQUIRE(file.held(9, "x"));
  CHECK_FALSE(file.held(11, "y"));  // no room in its lists
  CHECK(file.held(4, "D"));
  CHECK(file.state(0).word() == before);
  CHECK(file.dirty() == Extents{{4, 8}, {9, 10}});
}

TEST_CASE("a chunk that a flush reads is left alone, and what that flush has of another is dirty again",
          "[held_write]") {
  World file;
  auto& gate = file.store.flush_gate;
  gate.close();
  Worker flushes{gate, [&] { CHECK(file->flush()); }};
  REQUIRE(gate.wait_for_arrivals());
  CHECK_FALSE(file.held(4, "c"));
  REQUIRE(file.write(4, "c"));  // goes on in other memory
  REQUIRE(file.held(6, "x"));   // which no flush reads
  gate.open();
  flushes.join();
  CHECK(file.dirty() == Extents{{4, 5}, {6, 7}});
  CHECK(file.read(4, 4) == "cixt");
  CHECK(file.pool.stats().flush_redirtied_bytes == 2);
  REQUIRE(file->flush());
  CHECK(file.store.text(file.id, 4, 4) == "cixt");
}

TEST_CASE("a load in flight brings none of the bytes that were written meanwhile", "[held_write]") {
  World file;
  auto& gate = file.store.load_gate;
  gate.close();
  std::string seen;
  Worker reads{gate, [&] { seen = file.read(0, chunk_bytes); }};
  REQUIRE(gate.wait_for_arrivals());
  REQUIRE(file.held(7, "ty"));
  gate.open();
  reads.join();
  CHECK(file.read(0, chunk_bytes) == pattern(0, 4) + "dirty" + pattern(9, 7));
  CHECK(seen == file.read(0, chunk_bytes));
}

TEST_CASE("a write that its file or a mark refuses is left to be refused", "[held_write]") {
  SECTION("deleted") {
    World file;
    REQUIRE(file->remove());
    CHECK_FALSE(file.held(4, "a"));
    CHECK(file.write(4, "a").error() == std::errc::no_such_file_or_directory);
  }
  SECTION("a mark") {
    auto options = pool_options<Usual>(chunk_bytes, MiB);
    const auto mark = GENERATE(&tarn::PoolOptions::dirty_limit_bytes, &tarn::PoolOptions::dirty_throttle_bytes,
                               &tarn::PoolOptions::file_dirty_limit_bytes);
    options.*mark = 2 * chunk_bytes;
    tarn::ChunkPool<Usual> pool{options};
    MemoryStore<Usual> store;
    tarn::DirtyFile file{pool, tarn::MetadataFor<Usual>::created(1), store};
    const auto held = [&](std::uint64_t offset, std::string_view text) {
      auto access = file.body()->access();
      return tarn::detail::write_held(access, offset, bytes_of(text), std::nullopt);
    };
    const std::string chunk(chunk_bytes, 'c');
    REQUIRE(file.write(0, bytes_of(chunk)));
    CHECK(held(0, "h"));
    REQUIRE(file.write(chunk_bytes, bytes_of(chunk)));  // at the mark
    CHECK_FALSE(held(0, "n"));
    REQUIRE(file.flush());
  }
}

TEST_CASE("a load past a full pool is made anew if a write of a held chunk has changed its bytes", "[held_write]") {
  SharedFile<WatchedUsual> file{{.chunk_bytes = 4096, .chunks_per_part = 4}, 4096, 0};
  REQUIRE(file.write(0, "dirt"));
  SharedFile<WatchedUsual>::File other{
      file.pool, SharedFile<WatchedUsual>::Metadata::created(8, {.part_bytes = file.P}), file.store};
  const std::string chunk(4096, 'x');
  for (std::uint64_t at = 0; other.try_write(at, bytes_of(chunk)); at += chunk.size()) continue;  // dirty to the brim
  file.store.load_gate.close();
  std::string seen;
  Worker reads{file.store.load_gate, [&] { seen = file.read(4, 4); }};
  REQUIRE(file.store.load_gate.wait_for_arrivals());  // it has its bytes, and is on its way back
  const auto written = file->try_write(4, bytes_of("ty"));
  REQUIRE(written);
  file.store.load_gate.open();
  reads.join();
  CHECK(seen == "ty" + pattern(6, 2));
  CHECK(file.pool.stats().loads_uncached == 1);
  REQUIRE(other.flush());
}
