// SPDX-License-Identifier: MIT
#include <tarn/spare_chunks.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <tarn/dirty_file.hpp>

#include "support/catch.hpp"
#include "support/one_file.hpp"
#include "support/received.hpp"
#include "support/shared_file.hpp"

using namespace tarn_test;

namespace {

/// Spare chunks that a text was received into.
template <class Traits>
tarn::SpareChunks<Traits> with_text(tarn::ChunkPool<Traits>& pool, std::string_view text) {
  auto spares = received(pool, bytes_of(text));
  REQUIRE(spares);
  return *std::move(spares);
}
/// Where the bytes of a chunk lie.
template <class Traits>
const std::byte* memory_of(OneFile<Traits>& file, std::uint64_t chunk) {
  const auto pin = file.pool.pin(file.meta, chunk);
  REQUIRE(pin);
  const auto seen = pin->with_data(range(0, 1), [](std::span<const std::byte> bytes) { return bytes.data(); });
  REQUIRE(seen);
  return *seen;
}
template <class Traits>
std::string text_in(const tarn::SpareChunks<Traits>& spares, std::size_t at, std::size_t size) {
  std::string text(size, '?');
  spares.copy(at, writable(text));
  return text;
}

}  // namespace

TEMPLATE_TEST_CASE("a chunk that is covered whole takes the memory that was received into, and leaves its own",
                   "[spare_chunks]", EACH_STORAGE(Heap, Arena)) {
  OneFile<TestType> file{GENERATE(any_sizes())};
  const auto C = static_cast<std::size_t>(file.C);
  const auto text = pattern(0, 5 * C);
  auto spares = with_text(file.pool, text);
  std::vector<const std::byte*> into;
  for (std::size_t i = 0; i < 5; ++i) into.push_back(spares[i].data());
  CHECK(tarn::write_range(file.pool, file.meta, 0, spares, text.size()).value() == text.size());
  CHECK(file.read_all() == text);
  for (std::size_t i = 0; i < 5; ++i) CHECK(memory_of(file, i) == into[i]);

  const auto other = pattern(0, 5 * C, 1);
  auto again = with_text(file.pool, other);
  CHECK(tarn::write_range(file.pool, file.meta, 0, again, 2 * C).value() == 2 * C);
  CHECK(file.read_all() == other.substr(0, 2 * C) + text.substr(2 * C));
  CHECK(again[0].data() == into[0]);
  CHECK(again[1].data() == into[1]);
  REQUIRE(file.flush());
  CHECK(file.store.text(file.id) == other.substr(0, 2 * C) + text.substr(2 * C));
}

TEMPLATE_TEST_CASE("of what is received, what covers no chunk whole is copied", "[spare_chunks]",
                   EACH_STORAGE(Heap, Arena)) {
  struct Case {
    std::uint64_t offset;
    std::size_t size, exchanged;
  };
  const auto [offset, size, exchanged] = GENERATE(Case{5, 64, 0},   // from inside a chunk
                                                  Case{16, 40, 2},  // to inside a chunk
                                                  Case{16, 15, 0},  // less than a chunk
                                                  Case{16, 0, 0});
  OneFile<TestType> file{{16, 4}};
  const auto text = pattern(0, 64);
  file.become_stored(200);
  const auto before = file.read_all();
  auto spares = with_text(file.pool, text);
  std::vector<const std::byte*> into;
  for (std::size_t i = 0; i < 4; ++i) into.push_back(spares[i].data());
  CHECK(tarn::write_range(file.pool, file.meta, offset, spares, size).value() == size);
  CHECK(file.read_all() == std::string{before}.replace(offset, size, text.substr(0, size)));
  std::size_t gone = 0;
  for (std::size_t i = 0; i < 4; ++i) gone += spares[i].data() != into[i] ? 1 : 0;
  CHECK(gone == exchanged);
}

TEMPLATE_TEST_CASE("what a flush reads stays as it was when a chunk takes other memory", "[spare_chunks]",
                   EACH_STORAGE(Heap, Arena)) {
  OneFile<TestType> file{GENERATE(any_sizes())};
  const auto C = static_cast<std::size_t>(file.C);
  const auto before = pattern(0, 3 * C), after = pattern(0, 3 * C, 1);
  REQUIRE(file.write(0, before));
  auto job = tarn::begin_flush(file.pool, file.meta);
  REQUIRE(job);
  const auto lent = static_cast<std::size_t>(job->end());
  auto spares = with_text(file.pool, after);
  CHECK(tarn::write_range(file.pool, file.meta, 0, spares, after.size()).value() == after.size());
  for (std::size_t i = 0; i < 3; ++i) std::fill(spares[i].begin(), spares[i].end(), std::byte{'!'});
  std::string flushed;
  job->request().for_each_piece(
      [&](std::uint64_t, std::span<const std::byte> piece, bool) { flushed += text_of(piece); });
  CHECK(flushed == before.substr(0, lent));
  CHECK(file.read_all() == after);
  REQUIRE(tarn::finish_flush(file.pool, file.meta, std::move(*job), file.store.flush(job->request())));
  CHECK(file.dirty() == Extents{{0, 3 * file.C}});
  REQUIRE(file.flush());
  CHECK(file.store.text(file.id) == after);
}

TEMPLATE_TEST_CASE("what is received reads as if it had been copied, wherever it goes", "[spare_chunks]",
                   EACH_STORAGE(Heap, Arena)) {
  OneFile<TestType> file{GENERATE(any_sizes())};
  const auto most = static_cast<std::size_t>(6 * file.C);
  std::mt19937_64 random{1};
  std::string expected;
  auto spares = with_text(file.pool, pattern(0, most));
  for (std::uint64_t i = 0; i < 200; ++i) {
    const auto chunks = random() % 2 == 0;  // whole ones
    auto offset = random() % most;
    auto size = 1 + random() % most;
    if (chunks) offset -= offset % file.C, size = size - size % file.C + file.C * (size < file.C ? 1 : 0);
    const auto text = pattern(offset, size, i);
    receive(spares, bytes_of(text));
    CHECK(tarn::write_range(file.pool, file.meta, offset, spares, size).value() == size);
    expected.resize(std::max<std::size_t>(expected.size(), offset + size), '\0');
    expected.replace(offset, size, text);
    if (i % 7 == 0) REQUIRE(file.flush());
    if (i % 11 == 0) file.pool.evict_clean();
    REQUIRE(file.read_all() == expected);
  }
}

TEMPLATE_TEST_CASE("spares are charged while they live, and fewer than asked for are none", "[spare_chunks]",
                   EACH_STORAGE(Heap, Arena)) {
  OneFile<TestType> file{{4096, 4}, 64 * KiB};
  const auto charged = file.pool.stats().charged_bytes;
  {
    const auto spares = with_text(file.pool, pattern(0, 3 * 4096));
    CHECK(spares.count() == 3);
    CHECK(spares.size_bytes() == 3 * 4096);
    CHECK(file.pool.stats().chunks_reserved == 3);
    CHECK(file.pool.stats().charged_bytes >= charged + 3 * 4096);
  }
  CHECK(file.pool.stats().chunks_reserved == 0);
  CHECK(tarn::SpareChunks<TestType>::make(file.pool, 100'000).error() == std::errc::no_buffer_space);
  CHECK(file.pool.stats().chunks_reserved == 0);
  auto none = with_text(file.pool, "");  // which is to be had of a pool that is over its budget, too
  CHECK(none.count() == 0);
  CHECK(tarn::write_range(file.pool, file.meta, 0, none, 0).value() == 0);
  none = with_text(file.pool, "a");
  const auto moved = std::move(none);
  CHECK(moved.count() == 1);
}

TEMPLATE_TEST_CASE("clean chunks go for spares", "[spare_chunks]", EACH_STORAGE(Heap, Arena)) {
  OneFile<TestType> file{{4096, 4}, 64 * KiB};
  file.become_stored(4 * MiB);
  for (std::uint64_t at = 0; at < 4 * MiB; at += 4096) (void)file.read(at, 1);
  const auto held = file.pool.stats().chunks_held;
  const auto spares = tarn::SpareChunks<TestType>::make(file.pool, held / 2);
  CHECK(spares);
  CHECK(file.pool.stats().chunks_held < held);
}

TEMPLATE_TEST_CASE("what is received and refused stays where it was received", "[spare_chunks]",
                   EACH_STORAGE(Heap, Arena)) {
  OneFile<TestType> file{{4096, 4}, 64 * KiB};
  const auto text = pattern(0, 3 * 4096);
  auto spares = with_text(file.pool, text);
  SECTION("more than there is") {
    CHECK(tarn::write_range(file.pool, file.meta, 0, spares, text.size() + 1).error() == std::errc::invalid_argument);
  }
  SECTION("by another pool") {
    OneFile<TestType> other{{4096, 4}};
    CHECK(tarn::write_range(other.pool, other.meta, 0, spares, text.size()).error() == std::errc::invalid_argument);
  }
  SECTION("past the largest offset") {
    CHECK(tarn::write_range(file.pool, file.meta, tarn::max_offset - 4096, spares, text.size()).error() ==
          std::errc::file_too_large);
  }
  SECTION("by a file that has gone") {
    file.meta.note_deleted();
    CHECK(tarn::write_range(file.pool, file.meta, 0, spares, text.size()).error() ==
          std::errc::no_such_file_or_directory);
  }
  CHECK(text_in(spares, 0, text.size()) == text);
}

TEMPLATE_TEST_CASE("of a write that memory ends early, the spares have what was not taken in", "[spare_chunks]",
                   EACH_STORAGE(Heap, Arena)) {
  OneFile<TestType> file{{4096, 4}, 256 * KiB};
  auto spares = with_text(file.pool, pattern(0, 4 * 4096));
  std::size_t done = 0;
  std::uint64_t offset = 0;
  for (;; offset += 4 * 4096) {  // until the pool is full of what is dirty
    const auto text = pattern(offset, 4 * 4096);
    receive(spares, bytes_of(text));
    const auto written = tarn::write_range(file.pool, file.meta, offset, spares, 4 * 4096);
    if (!written) {
      CHECK(written.error() == std::errc::no_buffer_space);
    } else if (*written == 4 * 4096) {
      continue;
    }
    done = written ? *written : 0;
    CHECK(text_in(spares, done, text.size() - done) == text.substr(done));
    break;
  }
  CHECK(tarn::SpareChunks<TestType>::make(file.pool, 1).error() == std::errc::no_buffer_space);  // all is dirty
  CHECK(file.read_all() == pattern(0, static_cast<std::size_t>(offset) + done));
}

TEST_CASE("a DirtyFile takes in what was received, flushing for it when memory is full", "[spare_chunks]") {
  SharedFile<WatchedUsual> file{{4096, 4}, 0, 256 * KiB};
  auto spares = with_text(file.pool, pattern(0, 4 * 4096));
  const std::size_t all = 4 * MiB;
  for (std::size_t at = 0; at < all; at += 4 * 4096) {
    const auto text = pattern(at, 4 * 4096);
    receive(spares, bytes_of(text));
    REQUIRE(file.file->write(at, spares, text.size(), std::int64_t{7}).value() == text.size());
  }
  CHECK(file.file->size() == all);
  CHECK(file.file->metadata().mtime_ns() == 7);
  REQUIRE(file.file->flush());
  CHECK(file.store.text(file.id) == pattern(0, all));
}
