// SPDX-License-Identifier: MIT
#include <tarn/detail/load.hpp>

#include <cerrno>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <system_error>
#include <vector>

#include <tarn/dirty_file.hpp>
#include <tarn/dirty_file_async.hpp>

#include "support/brim.hpp"
#include "support/catch.hpp"
#include "support/later_file.hpp"
#include "support/one_file.hpp"
#include "support/shared_file.hpp"

using namespace tarn_test;

namespace {

/// The loads of a store, with what the test does before each is answered.
template <class Traits>
struct Loader {
  MemoryStore<Traits>& memory;
  std::function<void()> in_load;

  tarn::Result<std::size_t> load(const tarn::LoadRequest<Traits>& request) {
    in_load();
    return memory.load(request);
  }
};

}  // namespace

TEST_CASE("what was loaded and finds no room for its lists is read past the pool, whole", "[load]") {
  OneFile<Heap> file{{.chunk_bytes = 64, .chunks_per_part = 1}};
  file.become_stored(64);
  auto expected = pattern(0, 64);
  const bool has_chunk = GENERATE(true, false);
  if (has_chunk) {  // its own bytes lie between those that are missing
    for (const std::uint64_t at : {10u, 20u}) REQUIRE(file.write(at, "d"));
    expected[10] = expected[20] = 'd';
  } else {  // what is missing lies between holes
    for (const std::uint64_t at : {10u, 20u, 30u}) {
      REQUIRE(file.punch(at, at + 1));
      expected[at] = '\0';
    }
  }
  const auto held = file.held();
  std::optional<Brim<Heap>> full;
  Loader<Heap> loader{file.store, [&] {
                        if (!full) full.emplace(file.pool);
                      }};
  std::string into(64, '?');
  const auto n = tarn::read_range(file.pool, file.meta, 0, writable(into), loader);
  REQUIRE(full);
  full.reset();
  REQUIRE(n);
  CHECK(*n == 64);
  CHECK(into == expected);
  CHECK(file.pool.stats().loads_uncached != 0);
  if (!has_chunk) CHECK(file.held() == held);
  CHECK(file.read_all() == expected);  // with room it lands
}

TEST_CASE("a load that meets a chunk with all the pins it can have lands not, and says so", "[load]") {
  OneFile<Heap> file{{.chunk_bytes = 64, .chunks_per_part = 1}};
  file.become_stored(64);
  REQUIRE(file.write(10, "d"));
  auto expected = pattern(0, 64);
  expected[10] = 'd';
  const std::size_t left = GENERATE(0u, 1u);  // with one it lands, and is not kept for its reader, who finds it
  std::vector<tarn::PinnedChunk<Heap>> pins;
  Loader<Heap> loader{file.store, [&] {
                        if (pins.empty()) pins = take_all_pins(file.pool, file.meta, 0, left);
                      }};
  std::string into(64, '?');
  const auto n = tarn::read_range(file.pool, file.meta, 0, writable(into), loader);
  pins.clear();
  if (left == 0) {
    CHECK(n.error() == std::errc::resource_unavailable_try_again);
    CHECK(file.held() == Extents{{10, 11}});
  } else {
    REQUIRE(n);
    CHECK(into == expected);
  }
  CHECK(file.read_all() == expected);
}

TEST_CASE("a read whose load fails while the file is being removed waits for what becomes of that", "[load]") {
  const bool stays = GENERATE(true, false);
  SharedFile<WatchedFiles> file{{16, 1}, 16};
  using Call = MemoryStore<WatchedFiles>::Call;
  if (stays) file.store.fail_next(Call::remove, 1, std::errc::permission_denied);
  file.store.remove_gate.close();
  tarn::Result<> removed = tarn::fail(std::errc::io_error);
  std::string seen;
  BlockedThread waiter;
  {
    Worker remover{file.store.remove_gate, [&] { removed = file->remove(); }};
    REQUIRE(file.store.remove_gate.wait_for_arrivals());
    file.store.fail_next(Call::load, 1, std::errc::no_such_file_or_directory);
    Worker reader{file.store.remove_gate, [&] {
                    waiter.here();
                    seen = file.read(0, 16);
                  }};
    CHECK(waiter.wait_until_blocked());
    CHECK(seen.empty());
    file.store.remove_gate.open();
  }
  CHECK(removed.has_value() != stays);
  CHECK(seen == (stays ? pattern(0, 16) : ""));
}

TEST_CASE("a read inside a store's call does not wait for a flush that may know of a new version", "[load]") {
  SharedFile<WatchedFiles> file{{16, 1}, 16};
  OneFile<Heap> other{{.chunk_bytes = 16, .chunks_per_part = 1}};
  other.become_stored(16);
  file.store.fail_next(MemoryStore<WatchedFiles>::Call::load, 1, static_cast<std::errc>(ESTALE));
  std::error_code inside;
  Loader<Heap> loader{other.store, [&] {
                        std::string into(16, '?');
                        inside = file->read(0, writable(into)).error();
                      }};
  std::string into(16, '?');
  REQUIRE(tarn::read_range(other.pool, other.meta, 0, writable(into), loader));
  CHECK(inside.value() == ESTALE);
  CHECK(file.read(0, 16) == pattern(0, 16));
}

TEST_CASE("who shared a load reads what it brought, though the chunk is evicted as soon as the first has read",
          "[load]") {
  LaterFile<Heap> file{{.chunk_bytes = 4096, .chunks_per_part = 1}, 4096};
  std::vector<std::string> read(2, std::string(10, '?'));
  for (auto& into : read) {
    tarn::start_read(*file.file, 0, writable(into), [&](const tarn::Result<std::size_t>& n) {
      CHECK(n.value() == 10);
      file.pool.evict_clean();
    });
  }
  REQUIRE(file.store.open_loads() == 1);
  REQUIRE(file->try_write(4000, bytes_of("d")));  // the load meets a chunk, and a clean one
  tarn::start_flush(*file.file, [](const tarn::Result<std::uint64_t>& stored) { CHECK(stored); });
  file.store.finish_flush();
  REQUIRE(file.pool.stats().chunks_held == 1);
  file.store.finish_load();
  CHECK(file.store.open_loads() == 0);
  file.finish_loads();
  CHECK(read == std::vector(2, pattern(0, 10)));
}

TEST_CASE(
    "a read of two pieces of content, of which another file's read loads the second, begins neither till that is in",
    "[load]") {
  constexpr std::uint64_t P = 64;
  using Metadata = tarn::MetadataFor<Heap>;
  tarn::ChunkPool<Heap> pool{pool_options<Heap>(P, MiB, 4)};
  LaterStore<Heap> store;
  const tarn::Digest<16> a{.bytes = {std::byte{1}}}, b{.bytes = {std::byte{2}}};
  store.memory.put_content(a, pattern(0, P));
  store.memory.put_content(b, pattern(P, P));
  store.memory.expect_parts_of(P);
  using File = tarn::DirtyFile<Heap, LaterStore<Heap>>;
  File other{pool, Metadata::from_content(1, P, std::vector{b}, {.part_bytes = P}), store};
  File file{pool, Metadata::from_content(2, 2 * P, std::vector{a, b}, {.part_bytes = P}), store};
  std::string of_other(P, '?'), of_file(2 * P, '?');
  std::optional<tarn::Result<std::size_t>> other_read, read;
  tarn::start_read(other, 0, writable(of_other), [&](const tarn::Result<std::size_t>& n) { other_read = n; });
  REQUIRE(store.open_loads() == 1);
  tarn::start_read(file, 0, writable(of_file), [&](const tarn::Result<std::size_t>& n) { read = n; });
  CHECK(store.open_loads() == 1);
  CHECK_FALSE(read);
  while (store.open_loads() != 0) store.finish_load();
  REQUIRE(other_read);
  REQUIRE(read);
  CHECK(of_other == pattern(P, P));
  CHECK(read->value() == 2 * P);
  CHECK(of_file == pattern(0, 2 * P));
  CHECK(pool.stats().loads == 2);
  CHECK(store.memory.complaints() == "");
}
