// SPDX-License-Identifier: MIT
#include <tarn/write_range.hpp>

#include <cstdint>
#include <stdexcept>
#include <string>

#include <tarn/dirty_file.hpp>

#include "support/catch.hpp"
#include "support/one_file.hpp"

using namespace tarn_test;
using tarn::FileState;
using tarn::max_offset;

namespace {

/// Fills a window with text, and says that it filled `said` bytes.
auto filler(std::string_view text, std::size_t said) {
  return [text, said](tarn::MutableBuffers into) {
    into.copy_from(bytes_of(text));
    return said;
  };
}

}  // namespace

TEMPLATE_TEST_CASE("a write answers how many bytes it took in, and the size covers them", "[write_range]",
                   EACH_STORAGE(Heap, Arena)) {
  OneFile<TestType> file{GENERATE(any_sizes())};
  CHECK(file.write(0, "hello").value() == 5);
  CHECK(file.meta.size() == 5);
  CHECK(file.meta.state() == FileState::created);
  CHECK(file.write(5, " world").value() == 6);
  CHECK(file.meta.size() == 11);
  CHECK(file.read_all() == "hello world");
  CHECK(file.view(0, 11) == "hello world");
}

TEMPLATE_TEST_CASE("an overwrite changes what it covers and nothing beside it", "[write_range]",
                   EACH_STORAGE(Heap, Arena)) {
  OneFile<TestType> file{GENERATE(any_sizes())};
  REQUIRE(file.write(0, "hello world"));
  CHECK(file.write(0, "HE").value() == 2);
  CHECK(file.read_all() == "HEllo world");
  CHECK(file.write(4, "O W").value() == 3);
  CHECK(file.read_all() == "HEllO World");
  CHECK(file.meta.size() == 11);
}

TEMPLATE_TEST_CASE("what lies between the old end and a write further out is zero", "[write_range]",
                   EACH_STORAGE(Heap, Arena)) {
  OneFile<TestType> file{GENERATE(any_sizes())};
  SECTION("in an empty file") {
    CHECK(file.write(10, "data").value() == 4);
    CHECK(file.read_all() == zeros(10) + "data");
  }
  SECTION("in a file of five bytes") {
    REQUIRE(file.write(0, "hello"));
    REQUIRE(file.write(10, "world"));
    CHECK(file.meta.size() == 15);
    CHECK(file.read_all() == "hello" + zeros(5) + "world");
    CHECK(file.view(0, 15) == "hello" + zeros(5) + "world");
  }
  SECTION("across chunks that nothing was written to") {
    const auto C = static_cast<std::size_t>(file.C);
    REQUIRE(file.write(C + 5, "0123456789"));
    CHECK(file.read(0, C + 15) == zeros(C + 5) + "0123456789");
    CHECK(file.view(0, C + 15) == zeros(C + 5) + "0123456789");
    CHECK(file.meta.size() == C + 15);
  }
}

TEMPLATE_TEST_CASE("the first write to a clean file makes it modified and dirty, and loads nothing", "[write_range]",
                   EACH_STORAGE(Heap, Arena)) {
  OneFile<TestType> file{GENERATE(any_sizes())};
  file.become_stored(21);
  REQUIRE(file.write(3, "new"));
  CHECK(file.meta.state() == FileState::modified);
  CHECK(file.dirty() == Extents{{3, 6}});
  CHECK(file.meta.stored().size_bytes() == 21);
  CHECK(file.store.counts().loads == 0);
  CHECK(file.read_all() == pattern(0, 3) + "new" + pattern(6, 15));
}

TEMPLATE_TEST_CASE("every border of a chunk, a window and a part is written across without a byte lost or moved",
                   "[write_range]", EACH_STORAGE(Heap, Arena)) {
  OneFile<TestType> file{GENERATE(any_sizes())};
  const auto C = file.C;
  std::string expected(static_cast<std::size_t>(6 * C + 3), '\0');
  REQUIRE(file.truncate(expected.size()));
  int step = 0;
  for (const auto border : {C, 2 * C, 3 * C, 4 * C, 6 * C}) {
    for (const std::uint64_t before : {std::uint64_t{0}, std::uint64_t{1}, C}) {
      for (const std::uint64_t after : {std::uint64_t{0}, std::uint64_t{1}, C + 1}) {
        const auto offset = border - std::min(before, border);
        const auto size = static_cast<std::size_t>(std::min<std::uint64_t>(border + after, expected.size()) - offset);
        const auto text = pattern(offset, size, static_cast<std::uint64_t>(++step));
        REQUIRE(file.write(offset, text).value() == size);
        expected.replace(static_cast<std::size_t>(offset), size, text);
      }
    }
  }
  CHECK(file.read_all() == expected);
  CHECK(file.view(0, expected.size()) == expected);
  REQUIRE(file.flush());
  CHECK(file.store.text(file.id) == expected);
}

TEMPLATE_TEST_CASE("a filler receives in place, and the size covers what it says it filled", "[write_range]",
                   EACH_STORAGE(Heap, Arena)) {
  OneFile<TestType> file{GENERATE(any_sizes())};
  REQUIRE(file.write(0, "0123456789"));
  const auto fill = [&](std::uint64_t offset, std::uint64_t size, auto f) {
    return tarn::write_range(file.pool, file.meta, offset, size, f);
  };
  SECTION("all of what it was given") {
    const auto n = std::min<std::uint64_t>(2, file.pool.window_bytes());
    CHECK(fill(4, n, filler("ab", n)).value() == n);
    CHECK(file.read_all() == (n == 2 ? "0123ab6789" : "0123a56789"));
  }
  SECTION("less than it was given: the rest stays as it was") {
    CHECK(fill(8, 2, filler("x", 1)).value() == 1);
    CHECK(file.read_all() == "01234567x9");
    CHECK(file.meta.size() == 10);
  }
  SECTION("nothing") {
    CHECK(fill(8, 8, [](tarn::MutableBuffers) { return std::size_t{0}; }).value() == 0);
    CHECK(file.read_all() == "0123456789");
    CHECK(file.meta.size() == 10);
  }
  SECTION("an error, after it wrote into the memory: nothing has changed") {
    const auto failed = fill(4, 2, [](tarn::MutableBuffers into) -> tarn::Result<std::size_t> {
      into.copy_from(bytes_of("ab"));
      return tarn::fail(std::errc::permission_denied);
    });
    CHECK(failed.error() == std::errc::permission_denied);
    CHECK(file.read_all() == "0123456789");
  }
  SECTION("an exception, past the end: nothing has changed") {
    CHECK_THROWS_AS(fill(9, 4,
                         [](tarn::MutableBuffers into) -> std::size_t {
                           into.copy_from(bytes_of("abcd"));
                           throw std::runtime_error{"the peer went away"};
                         }),
                    std::runtime_error);
    CHECK(file.read_all() == "0123456789");
    CHECK(file.meta.size() == 10);
  }
}

TEMPLATE_TEST_CASE("a filler over many windows is asked for each in turn, and stops where it stops", "[write_range]",
                   EACH_STORAGE(Heap, Arena)) {
  OneFile<TestType> file{GENERATE(any_sizes())};
  const auto window = static_cast<std::size_t>(file.pool.window_bytes());
  const auto text = pattern(0, 3 * window);
  std::size_t given = 0;
  const auto stop_after = 2 * window + window / 2;
  const auto written = tarn::write_range(file.pool, file.meta, 0, text.size(), [&](tarn::MutableBuffers into) {
    const auto n = std::min(into.size_bytes(), stop_after - given);
    into.copy_from(bytes_of(std::string_view{text}.substr(given, n)));
    given += n;
    return n;
  });
  CHECK(written.value() == stop_after);
  CHECK(file.meta.size() == stop_after);
  CHECK(file.read_all() == text.substr(0, stop_after));
}

TEMPLATE_TEST_CASE("a full pool refuses a write, and what was there before is still there", "[write_range]",
                   EACH_STORAGE(Heap, Arena)) {
  const auto sizes = GENERATE(any_sizes());
  OneFile<TestType> file{sizes, 0};
  // Budget for a few chunks only, or for an arena's two slabs: written to the last byte.
  const auto chunk = pattern(0, static_cast<std::size_t>(file.C));
  std::uint64_t size = 0;
  tarn::Result<std::size_t> last = std::size_t{0};
  const auto step = sizes.chunk_bytes < 4096 && std::is_same_v<TestType, Arena> ? 37 * 4096 / file.C : 1;
  const auto offset_of = [&](std::uint64_t i) { return i * step * file.C; };  // a table node each: fills up sooner
  std::uint64_t count = 0;
  while ((last = file.write(offset_of(count), chunk))) size = offset_of(count++) + file.C;
  REQUIRE(count > 1);
  CHECK(last.error() == std::errc::no_buffer_space);
  CHECK(file.meta.size() == size);
  CHECK(file.pool.stats().charged_bytes <= file.pool.budget_bytes());

  std::size_t wrong = 0;
  for (std::uint64_t i = 0; i < count; ++i) wrong += file.read(offset_of(i), chunk.size()) == chunk ? 0u : 1u;
  CHECK(wrong == 0);
  CHECK(file.pool.stats().chunks_dirty == count);

  REQUIRE(file.flush());
  CHECK(file.write(size, chunk).value() == chunk.size());  // clean ones can go
  CHECK(file.store.size_of(file.id) == size);
}

TEMPLATE_TEST_CASE("of a write that fails midway, size, bytes and the returned count agree", "[write_range]",
                   EACH_STORAGE(Heap, Arena)) {
  const Sizes sizes{.chunk_bytes = 4096, .chunks_per_part = 4};
  OneFile<TestType> file{sizes, 0};
  const auto text = pattern(0, 64 * MiB);  // more than there is room for
  const auto written = file.write(1000, text);
  REQUIRE(written);
  CHECK(*written > 0);
  CHECK(*written < text.size());
  CHECK(file.meta.size() == 1000 + *written);
  CHECK(file.read(0, text.size()) == zeros(1000) + text.substr(0, *written));
  CHECK(extents_of(file.pool.dirty_extents(file.meta)) == Extents{{1000, 1000 + *written}});

  const auto again = file.write(1000 + *written, text);
  CHECK(again.error() == std::errc::no_buffer_space);
  CHECK(file.meta.size() == 1000 + *written);

  REQUIRE(file.flush());
  CHECK(file.store.text(file.id) == zeros(1000) + text.substr(0, *written));
}

TEMPLATE_TEST_CASE("a full pool evicts what is clean for a write, and the bytes are read again from the store",
                   "[write_range]", EACH_STORAGE(Heap, Arena)) {
  OneFile<TestType> file{{.chunk_bytes = 4096, .chunks_per_part = 4}, 0};
  const auto first = file.write(0, pattern(0, 64 * MiB));
  REQUIRE(first);
  REQUIRE(file.flush());
  const auto second = file.write(*first, pattern(*first, 64 * MiB));
  REQUIRE(second);
  CHECK(*second > 0);
  CHECK(file.pool.stats().evictions > 0);
  CHECK(file.read(0, *first) == pattern(0, *first));
  CHECK(file.read(*first, *second) == pattern(*first, *second));
}

TEMPLATE_TEST_CASE("a write while a flush is in flight stays dirty, and leaves the flush's bytes alone",
                   "[write_range]", EACH_STORAGE(Heap, Arena)) {
  OneFile<TestType> file{GENERATE(any_sizes())};
  const auto C = static_cast<std::size_t>(file.C);
  const auto before = pattern(0, 3 * C), after = pattern(0, C, 1);
  REQUIRE(file.write(0, before));
  REQUIRE(file.truncate(3 * C));
  auto job = tarn::begin_flush(file.pool, file.meta);
  REQUIRE(job);
  const auto lent = static_cast<std::size_t>(job->end());  // one part of it, or more
  REQUIRE(file.write(0, after));
  CHECK(file.read(0, 3 * C) == after + before.substr(C));
  std::string flushed;
  job->request().for_each_piece(
      [&](std::uint64_t, std::span<const std::byte> piece, bool) { flushed += text_of(piece); });
  CHECK(flushed == before.substr(0, lent));

  const auto outcome = file.store.flush(job->request());
  REQUIRE(tarn::finish_flush(file.pool, file.meta, std::move(*job), outcome));
  CHECK(file.pool.has_dirty(file.meta, 0));
  REQUIRE(file.flush());
  CHECK(file.store.text(file.id) == after + before.substr(C));
  CHECK(file.dirty().empty());
}

TEMPLATE_TEST_CASE("a zero-length write does nothing, wherever it is", "[write_range]", EACH_STORAGE(Heap, Arena)) {
  OneFile<TestType> file{GENERATE(any_sizes())};
  REQUIRE(file.write(0, "hello"));
  for (const auto offset : {std::uint64_t{0}, std::uint64_t{5}, file.C, 3 * file.C, max_offset}) {
    CHECK(file.write(offset, "").value() == 0);
    CHECK(tarn::write_range(file.pool, file.meta, offset, std::span<const std::byte>{}).value() == 0);
    CHECK(tarn::write_range(file.pool, file.meta, offset, 0, filler("x", 1)).value() == 0);
  }
  CHECK(file.meta.size() == 5);
  CHECK(file.read(0, 100) == "hello");
}

TEMPLATE_TEST_CASE("a write past the largest offset is EFBIG, one without bytes EINVAL, and nothing has changed",
                   "[write_range]", EACH_STORAGE(Heap, Arena)) {
  OneFile<TestType> file{GENERATE(any_sizes())};
  REQUIRE(file.write(0, "hello"));
  const auto metadata = file.meta;
  const auto charged = file.pool.stats().charged_bytes;
  const auto five = file.C == 1 ? "12345" : "1234567890";
  CHECK(file.write((std::uint64_t{1} << 63) - 4, five).error() == std::errc::file_too_large);
  CHECK(file.write(std::uint64_t{1} << 63, "x").error() == std::errc::file_too_large);
  CHECK(file.write(~std::uint64_t{0}, "x").error() == std::errc::file_too_large);  // a negative off_t
  CHECK(tarn::write_range(file.pool, file.meta, 0, ~std::uint64_t{0}, filler("x", 1)).error() ==
        std::errc::file_too_large);
  // libstdc++'s span asserts on a null pointer with a size only by way of its elements: the span itself is legal.
  const std::span<const std::byte> null{static_cast<const std::byte*>(nullptr), 5};
  CHECK(tarn::write_range(file.pool, file.meta, 0, null).error() == std::errc::invalid_argument);
  CHECK(file.meta == metadata);
  CHECK(file.pool.stats().charged_bytes == charged);
  CHECK(file.read_all() == "hello");
}

TEMPLATE_TEST_CASE("the last bytes that an offset can name are written and read", "[write_range]",
                   EACH_STORAGE(Heap, Arena)) {
  OneFile<TestType> file{GENERATE(any_sizes())};
  const auto offset = max_offset - 4;
  REQUIRE(file.write(offset, "last").value() == 4);
  CHECK(file.meta.size() == max_offset);
  CHECK(file.read(offset - 2, 6) == zeros(2) + "last");
  CHECK(file.read(offset, 4) == "last");
  REQUIRE(file.flush());
  CHECK(file.store.text(file.id, offset, 4) == "last");
}

TEMPLATE_TEST_CASE("a file whose part is no multiple of the pool's chunk is refused at first use", "[write_range]",
                   EACH_STORAGE(Heap, Arena)) {
  OneFile<TestType> file{{.chunk_bytes = 16, .chunks_per_part = 1}};
  auto odd = OneFile<TestType>::Metadata::created(8, {.part_bytes = 24});
  std::string into(4, '?');
  CHECK(tarn::write_range(file.pool, odd, 0, bytes_of("x")).error() == std::errc::invalid_argument);
  CHECK(tarn::read_range(file.pool, odd, 0, writable(into), file.store).error() == std::errc::invalid_argument);
  CHECK(tarn::try_read_range(file.pool, odd, 0, writable(into)).error() == std::errc::invalid_argument);
  CHECK(tarn::truncate(file.pool, odd, 5).error() == std::errc::invalid_argument);
  CHECK(tarn::punch_hole(file.pool, odd, range(0, 1)).error() == std::errc::invalid_argument);
  CHECK(tarn::begin_flush(file.pool, odd).error() == std::errc::invalid_argument);
  CHECK(tarn::flush(file.pool, odd, file.store).error() == std::errc::invalid_argument);
  CHECK(odd.size() == 0);
}

TEMPLATE_TEST_CASE("bytes written one by one at every second place are charged, bounded and right", "[write_range]",
                   EACH_STORAGE(Heap, Arena)) {
  const auto C = GENERATE(std::uint64_t{4096}, std::uint64_t{65536});
  OneFile<TestType> file{{.chunk_bytes = C, .chunks_per_part = 4}, 8 * MiB};
  constexpr std::uint64_t size = 1 * MiB;
  std::string expected(size, '\0');
  for (std::uint64_t at = 0; at < size; at += 2) {
    expected[at] = pattern_at(at);
    if (!file.write(at, std::string_view{&expected[at], 1})) FAIL("no room at " << at);
  }
  const auto charged = file.pool.stats().charged_bytes;
  CHECK(file.pool.stats().dirty_bytes == size / 2);
  // Two bitmaps of a bit a byte beside the data at worst, tables and descriptors apart; an arena holds whole slabs.
  CHECK(charged <= std::max<std::uint64_t>(size, 2 * MiB) + size / 4 + (size / C) * 1024);
  CHECK(charged >= size + size / 4);
  CHECK(file.read(0, size) == expected.substr(0, size - 1));
  if (C == 4096) {
    REQUIRE(file.flush());
    CHECK(file.store.text(file.id) == expected.substr(0, size - 1));
    CHECK(file.pool.stats().charged_bytes < charged);  // clean: the lists of what is dirty are gone
  }
}

namespace {

/// Counts how often it is asked whether a write may be taken in.
struct AskedStore : MemoryStore<Usual> {
  int asked = 0;
  tarn::Result<> reserve(const tarn::ReserveRequest<Usual>&) {
    ++asked;
    return {};
  }
};

}  // namespace

TEST_CASE("an append past the largest offset is EFBIG, and the store is not even asked", "[write_range]") {
  tarn::ChunkPool<Usual> pool{pool_options<Usual>(16, MiB)};
  AskedStore store;
  tarn::DirtyFile file{pool, tarn::DirtyFileMetadata::created(7), store};
  REQUIRE(file.truncate(max_offset - 1));
  CHECK(file.append(bytes_of("xy")).error() == std::errc::file_too_large);
  CHECK(store.asked == 0);
  CHECK(file.size() == max_offset - 1);
  CHECK(file.append(bytes_of("x"))->offset == max_offset - 1);
  CHECK(store.asked == 1);
}
