// SPDX-License-Identifier: MIT
#include <tarn/flush.hpp>

#include <cstdint>
#include <optional>
#include <string>
#include <system_error>
#include <utility>

#include "support/brim.hpp"
#include "support/catch.hpp"
#include "support/one_file.hpp"

using namespace tarn_test;
using tarn::FileState;

namespace {

template <class Traits>
using Call = typename MemoryStore<Traits>::Call;

}  // namespace

TEMPLATE_TEST_CASE("a flush stores what is dirty and the size, and the file is clean", "[flush]",
                   EACH_STORAGE(Heap, Arena)) {
  OneFile<TestType> file{GENERATE(any_sizes())};
  const auto size = static_cast<std::size_t>(5 * file.C + 3);
  const auto text = pattern(0, size);
  REQUIRE(file.write(0, text));
  REQUIRE(file.flush());
  CHECK(file.store.text(file.id) == text);
  CHECK(file.meta.state() == FileState::clean);
  CHECK(file.dirty().empty());
  CHECK(file.pool.stats().dirty_bytes == 0);

  const auto flushes = file.store.counts().flushes;
  REQUIRE(file.flush());  // a clean one asks the store nothing
  CHECK(file.store.counts().flushes == flushes);
}

TEMPLATE_TEST_CASE("a new file that is empty is stored, and a deleted one removed", "[flush]",
                   EACH_STORAGE(Heap, Arena)) {
  OneFile<TestType> file{GENERATE(any_sizes())};
  REQUIRE(file.flush());
  CHECK(file.store.size_of(file.id) == 0);
  CHECK(file.meta.state() == FileState::clean);
  REQUIRE(file.write(0, "hello"));
  file.meta.note_deleted();
  REQUIRE(file.flush());
  CHECK_FALSE(file.store.has(file.id));
  CHECK(file.store.counts().removes == 1);
  CHECK(file.meta.state() == FileState::deleted);
  CHECK(file.pool.stats().chunks_held == 0);
}

TEMPLATE_TEST_CASE("a store that will not remove a file leaves its bytes alone", "[flush]", EACH_STORAGE(Heap, Arena)) {
  OneFile<TestType> file{GENERATE(any_sizes())};
  REQUIRE(file.write(0, "hello"));
  file.meta.note_deleted();
  file.store.fail_next(Call<TestType>::remove, 1, std::errc::permission_denied);
  CHECK(file.flush().error() == std::errc::permission_denied);
  CHECK(file.read_all() == "hello");
  file.store.throw_next(Call<TestType>::remove);
  CHECK(file.flush().error() == std::errc::io_error);
  REQUIRE(file.flush());
}

TEMPLATE_TEST_CASE("a flush keeps every byte that it did not write at its place", "[flush]",
                   EACH_STORAGE(Heap, Arena)) {
  OneFile<TestType> file{GENERATE(any_sizes())};
  const auto size = static_cast<std::size_t>(2 * file.P);
  file.become_stored(size);
  auto expected = pattern(0, size);
  const auto at = static_cast<std::size_t>(file.P);  // the second part is loaded and written, the first is not
  REQUIRE(file.read(at, 1) == expected.substr(at, 1));
  REQUIRE(file.write(at, "w"));
  expected[at] = 'w';
  REQUIRE(file.flush());
  CHECK(file.store.text(file.id) == expected);
  CHECK(file.store.counts().flush_bytes == 1);
  file.pool.evict_clean();
  CHECK(file.read_all() == expected);
}

TEMPLATE_TEST_CASE("flushed, evicted and read: the flushed bytes", "[flush]", EACH_STORAGE(Heap, Arena)) {
  OneFile<TestType> file{GENERATE(any_sizes())};
  const auto size = static_cast<std::size_t>(4 * file.C);
  auto expected = zeros(size);
  if (GENERATE(false, true)) {
    file.become_stored(size);
    expected = pattern(0, size);
  } else {
    REQUIRE(file.truncate(size));
  }
  const auto at = static_cast<std::size_t>(file.C + file.C / 2);
  const auto text = pattern(0, static_cast<std::size_t>(file.C), 9);
  REQUIRE(file.write(at, text));
  expected.replace(at, text.size(), text);
  REQUIRE(file.flush());
  file.pool.evict_clean();
  CHECK(file.pool.stats().chunks_held == 0);
  CHECK(file.read_all() == expected);
}

TEMPLATE_TEST_CASE("a size that changed is stored, with no byte written", "[flush]", EACH_STORAGE(Heap, Arena)) {
  OneFile<TestType> file{GENERATE(any_sizes())};
  SECTION("5 grown to 15") {
    REQUIRE(file.write(0, "hello"));
    REQUIRE(file.truncate(15));
    REQUIRE(file.flush());
    CHECK(file.store.text(file.id) == "hello" + zeros(10));
  }
  SECTION("a stored file, nothing loaded, shrunk") {
    file.become_stored(3 * file.C + 5);
    REQUIRE(file.truncate(2 * file.C));
    REQUIRE(file.flush());
    CHECK(file.store.text(file.id) == pattern(0, static_cast<std::size_t>(2 * file.C)));
    CHECK(file.store.counts().flush_bytes == 0);
  }
  SECTION("shrunk to nothing") {
    file.become_stored(21);
    REQUIRE(file.truncate(0));
    REQUIRE(file.flush());
    CHECK(file.store.size_of(file.id) == 0);
  }
  SECTION("a hole in what is not loaded") {
    file.become_stored(4 * file.C);
    REQUIRE(file.punch(file.C, 3 * file.C));
    REQUIRE(file.flush());
    const auto C = static_cast<std::size_t>(file.C);
    CHECK(file.store.text(file.id) == pattern(0, C) + zeros(2 * C) + pattern(3 * C, C));
  }
  CHECK(file.meta.state() == FileState::clean);
  CHECK(file.store.counts().loads == 0);
}

TEMPLATE_TEST_CASE("a plain store that knows nothing of bounds has the same bytes", "[flush]",
                   EACH_STORAGE(Heap, Arena)) {
  OneFile<TestType> file{GENERATE(any_sizes())};
  file.store.be_naive();
  const auto C = static_cast<std::size_t>(file.C);
  file.become_stored(4 * C);
  REQUIRE(file.write(C / 2, "head"));
  REQUIRE(file.truncate(2 * C));
  REQUIRE(file.truncate(6 * C));
  REQUIRE(file.write(5 * C, "t"));
  REQUIRE(file.punch(0, C / 2));
  const auto expected = file.read_all();
  REQUIRE(file.flush());
  CHECK(file.store.text(file.id) == expected);
  file.pool.evict_clean();
  CHECK(file.read_all() == expected);
}

TEMPLATE_TEST_CASE("a write between a flush's look and its success is dirty, and flushed later", "[flush]",
                   EACH_STORAGE(Heap, Arena)) {
  OneFile<TestType> file{GENERATE(any_sizes())};
  REQUIRE(file.write(0, "a"));
  auto job = tarn::begin_flush(file.pool, file.meta);
  REQUIRE(job);
  const auto outcome = file.store.flush(job->request());
  SECTION("of the same byte") {
    REQUIRE(file.write(0, "b"));
    REQUIRE(tarn::finish_flush(file.pool, file.meta, std::move(*job), outcome));
    CHECK(file.dirty() == Extents{{0, 1}});
  }
  SECTION("of a byte beside it") {
    REQUIRE(file.write(1, "b"));
    REQUIRE(tarn::finish_flush(file.pool, file.meta, std::move(*job), outcome));
    CHECK(file.dirty() == Extents{{1, 2}});
  }
  SECTION("a hole in its place") {
    REQUIRE(file.punch(0, 1));
    REQUIRE(tarn::finish_flush(file.pool, file.meta, std::move(*job), outcome));
    CHECK(file.meta.stored().empty());
  }
  SECTION("a shrink") {
    REQUIRE(file.truncate(0));
    REQUIRE(tarn::finish_flush(file.pool, file.meta, std::move(*job), outcome));
    CHECK(file.meta.stored().empty());
  }
  SECTION("a shrink and growth back to the same size") {
    REQUIRE(file.truncate(0));
    REQUIRE(file.truncate(1));
    REQUIRE(tarn::finish_flush(file.pool, file.meta, std::move(*job), outcome));
    CHECK(file.read_all() == zeros(1));
  }
  CHECK(file.meta.state() != FileState::clean);
  const auto expected = file.read_all();
  REQUIRE(file.flush());
  CHECK(file.store.text(file.id) == expected);
  file.pool.evict_clean();
  CHECK(file.read_all() == expected);
}

TEMPLATE_TEST_CASE("a flush that is not ok leaves every byte dirty and readable, and the next one stores it", "[flush]",
                   EACH_STORAGE(Heap, Arena)) {
  OneFile<TestType> file{GENERATE(any_sizes())};
  const auto size = static_cast<std::size_t>(4 * file.C);
  file.become_stored(size);
  auto expected = pattern(0, size);
  REQUIRE(file.write(1, "written"));
  REQUIRE(file.punch(size - 1, size));
  expected.resize(std::max<std::size_t>(size, 8));
  expected.replace(1, 7, "written");
  expected[size - 1] = '\0';
  REQUIRE(file.read_all() == expected);
  file.pool.evict_clean();
  const auto dirty = file.dirty();
  struct Trouble {
    int why;
    void (*arrange)(MemoryStore<TestType>&);
  };
  const auto trouble = GENERATE(values<Trouble>({
      {ENOSPC, [](auto& store) { store.fail_next(Call<TestType>::flush, 1, std::errc::no_space_on_device); }},
      {EIO, [](auto& store) { store.throw_next(Call<TestType>::flush); }},
      {EIO, [](auto& store) { store.break_off_next(); }},
      {ETIMEDOUT, [](auto& store) { store.answer_unknown_next(); }},
      {ESTALE, [](auto& store) { store.answer_conflict_next(); }},
  }));
  trouble.arrange(file.store);
  CHECK(file.flush().error().value() == trouble.why);
  CHECK(file.dirty() == dirty);
  CHECK(file.meta.state() == FileState::modified);
  CHECK(file.pool.stats().flush_failures == 1);
  file.pool.evict_clean();
  CHECK(file.read_all() == expected);
  REQUIRE(file.flush());
  CHECK(file.store.text(file.id) == expected);
  CHECK(file.meta.state() == FileState::clean);
}

TEMPLATE_TEST_CASE("what a failed flush may have left past the end is made zero by the next", "[flush]",
                   EACH_STORAGE(Heap, Arena)) {
  OneFile<TestType> file{GENERATE(any_sizes())};
  const auto C = static_cast<std::size_t>(file.C);
  REQUIRE(file.write(0, "head"));
  REQUIRE(file.flush());
  REQUIRE(file.write(3 * C + 5, "tail"));
  SECTION("it broke off") {
    file.store.break_off_next();
    CHECK_FALSE(file.flush());
  }
  SECTION("it said that it does not know, and had stored all of it") {
    file.store.answer_unknown_next();
    CHECK_FALSE(file.flush());
  }
  SECTION("nobody said what became of it") {
    auto job = tarn::begin_flush(file.pool, file.meta);
    REQUIRE(job);
    (void)file.store.flush(job->request());
  }
  REQUIRE(file.truncate(4));
  REQUIRE(file.truncate(3 * C + 9));
  REQUIRE(file.flush());
  CHECK(file.store.text(file.id) == "head" + zeros(3 * C + 5));
}

TEMPLATE_TEST_CASE("one flush of a file is in flight at a time, and one that is dropped leaves all dirty", "[flush]",
                   EACH_STORAGE(Heap, Arena)) {
  OneFile<TestType> file{GENERATE(any_sizes())};
  REQUIRE(file.write(0, "hello"));
  const auto dirty = file.dirty();
  {
    const auto job = tarn::begin_flush(file.pool, file.meta);
    REQUIRE(job);
    CHECK_FALSE(job->empty());
    CHECK(tarn::begin_flush(file.pool, file.meta).error() == std::errc::device_or_resource_busy);
    CHECK(file.flush().error() == std::errc::device_or_resource_busy);
  }
  CHECK(file.dirty() == dirty);
  REQUIRE(file.flush());
  CHECK(file.store.text(file.id) == "hello");
}

TEMPLATE_TEST_CASE("a file that is dropped and made again while its flush is in flight is not told of it", "[flush]",
                   EACH_STORAGE(Heap, Arena)) {
  OneFile<TestType> file{GENERATE(any_sizes())};
  REQUIRE(file.write(0, "old bytes"));
  auto job = tarn::begin_flush(file.pool, file.meta);
  REQUIRE(job);
  file.pool.drop(file.meta);
  file.meta = OneFile<TestType>::Metadata::created(file.id, {.part_bytes = file.P});
  REQUIRE(file.write(0, "new"));
  const auto outcome = file.store.flush(job->request());
  CHECK(tarn::finish_flush(file.pool, file.meta, std::move(*job), outcome).error() == static_cast<std::errc>(ESTALE));
  CHECK(file.dirty() == Extents{{0, 3}});
  CHECK(file.meta.stored().empty());
  CHECK(file.read_all() == "new");
}

TEMPLATE_TEST_CASE("a job takes up to the end of the part of its first dirty byte, and the next goes on there",
                   "[flush]", EACH_STORAGE(Heap, Arena)) {
  OneFile<TestType> file{{.chunk_bytes = 16, .chunks_per_part = 4}};
  REQUIRE(file.write(70, "in the second part"));
  REQUIRE(file.write(130, "in the third"));
  auto job = tarn::begin_flush(file.pool, file.meta);
  REQUIRE(job);
  CHECK(job->end() == 128);
  const auto request = job->request();
  CHECK(std::vector<tarn::FlushRange>(request.ranges.begin(), request.ranges.end()) ==
        std::vector<tarn::FlushRange>{{range(0, 70), true}, {range(70, 88), false}, {range(88, 128), true}});
  CHECK(request.size_bytes == 142);
  CHECK(request.store_size_bound_bytes == 0);
  const auto outcome = file.store.flush(request);
  REQUIRE(tarn::finish_flush(file.pool, file.meta, std::move(*job), outcome));
  CHECK(file.meta.state() == FileState::created);  // not all of it is stored yet
  REQUIRE(file.flush());
  CHECK(file.meta.state() == FileState::clean);
  CHECK(file.store.counts().flushes == 2);
  CHECK(file.store.text(file.id) == file.read_all());
}

TEMPLATE_TEST_CASE("a flush of a range stores its dirty bytes and leaves the others dirty", "[flush]",
                   EACH_STORAGE(Heap, Arena)) {
  OneFile<TestType> file{{.chunk_bytes = 16, .chunks_per_part = 4}};
  REQUIRE(file.write(0, std::string(100, 'x')));
  REQUIRE(file.flush(range(20, 40)));
  CHECK(file.dirty() == Extents{{0, 20}, {40, 100}});
  CHECK(file.store.text(file.id) == zeros(20) + std::string(20, 'x') + zeros(60));
  CHECK(tarn::mark_flushed(file.pool, file.meta, 0).value());
  CHECK(file.dirty() == Extents{{16, 20}, {40, 100}});
  CHECK_FALSE(tarn::mark_flushed(file.pool, file.meta, 0).value());
  CHECK_FALSE(tarn::mark_flushed(file.pool, file.meta, 99).value());
}

TEMPLATE_TEST_CASE("a flush that ends well may give a version and content ids, and no flush moves the mtime", "[flush]",
                   EACH_STORAGE(Heap, Arena)) {
  OneFile<TestType> file{{.chunk_bytes = 16, .chunks_per_part = 4}};
  using Outcome = tarn::FlushOutcome<TestType>;
  file.meta.set_mtime_ns(55);
  REQUIRE(file.write(0, std::string(100, 'x')));
  const tarn::Digest<16> id{.bytes = {std::byte{9}}};
  auto job = tarn::begin_flush(file.pool, file.meta);
  REQUIRE(job);
  (void)file.store.flush(job->request());
  REQUIRE(
      tarn::finish_flush(file.pool, file.meta, std::move(*job), Outcome::stored().with_version(4).with_content(0, id)));
  CHECK(file.meta.version() == 4);
  REQUIRE(file.meta.content_id(0) != nullptr);
  CHECK(*file.meta.content_id(0) == id);
  REQUIRE(file.flush());
  CHECK(file.meta.mtime_ns() == 55);

  // Stored anew without a content id, the part's bytes are the file's own again.
  REQUIRE(file.write(5, "y"));
  REQUIRE(file.flush());
  CHECK(file.meta.content_id(0) == nullptr);
}

TEMPLATE_TEST_CASE("a chunk in flush is neither evicted nor flushed twice", "[flush]", EACH_STORAGE(Heap, Arena)) {
  OneFile<TestType> file{GENERATE(any_sizes())};
  REQUIRE(file.write(0, "a"));
  auto job = tarn::begin_flush(file.pool, file.meta);
  REQUIRE(job);
  CHECK(file.pool.evict_clean() == 0);
  const auto outcome = file.store.flush(job->request());
  CHECK(file.pool.evict_clean() == 0);
  REQUIRE(tarn::finish_flush(file.pool, file.meta, std::move(*job), outcome));
  CHECK(file.pool.evict_clean() == 1);
  CHECK(file.store.counts().flush_bytes == 1);
  CHECK(file.read_all() == "a");
}

TEMPLATE_TEST_CASE("a part of a comb of bytes is flushed in jobs of bounded length, each byte once", "[flush]",
                   EACH_STORAGE(Heap, Arena)) {
  OneFile<TestType> file{{.chunk_bytes = 65536, .chunks_per_part = 4}};
  std::string expected(65536, '\0');
  for (std::size_t at = 0; at < expected.size(); at += 2) {
    expected[at] = 'x';
    if (!file.write(at, "x")) FAIL("no room at " << at);
  }
  expected.pop_back();
  REQUIRE(file.flush());
  CHECK(file.store.text(file.id) == expected);
  CHECK(file.store.counts().flushes > 1);
  CHECK(file.dirty().empty());
  CHECK(file.meta.state() == FileState::clean);
}

TEST_CASE("a byte of which no list of extents can say that it is clean is flushed once more", "[flush]") {
  OneFile<Arena> file{{.chunk_bytes = 4096, .chunks_per_part = 1}};  // memory that a write has left stays charged there
  REQUIRE(file.write(0, pattern(0, 100)));
  auto job = tarn::begin_flush(file.pool, file.meta);
  REQUIRE(job);
  const auto outcome = file.store.flush(job->request());
  REQUIRE(outcome.ok());
  for (const std::uint64_t at : {10u, 20u, 30u}) REQUIRE(file.write(at, "?"));  // so not all of the run becomes clean
  {
    const Brim full{file.pool};
    REQUIRE(tarn::finish_flush(file.pool, file.meta, std::move(*job), outcome));
  }
  CHECK(file.dirty() == Extents{{10, 11}, {20, 100}});  // a third run would take room
  const auto flushed_bytes = file.store.counts().flush_bytes;
  REQUIRE(file.flush());
  CHECK(file.store.counts().flush_bytes == flushed_bytes + 81);
  CHECK(file.dirty().empty());
  CHECK(file.store.text(file.id) == file.read_all());
}

TEST_CASE("a chunk cannot be marked flushed while a flush of its file is in flight, or with no pin to be had",
          "[flush]") {
  OneFile<Usual> file{{.chunk_bytes = 16, .chunks_per_part = 1}};
  REQUIRE(file.write(0, "hello"));
  {
    auto job = tarn::begin_flush(file.pool, file.meta);
    REQUIRE(job);
    CHECK(tarn::mark_flushed(file.pool, file.meta, 0).error() == std::errc::device_or_resource_busy);
  }
  {
    const auto pins = take_all_pins(file.pool, file.meta, 0);
    CHECK(tarn::mark_flushed(file.pool, file.meta, 0).error() == std::errc::resource_unavailable_try_again);
  }
  CHECK(file.dirty() == Extents{{0, 5}});
  CHECK(tarn::mark_flushed(file.pool, file.meta, 0).value());
  CHECK(file.dirty().empty());
  CHECK_FALSE(tarn::mark_flushed(file.pool, file.meta, 0).value());
}

TEMPLATE_TEST_CASE("a full pool becomes clean, however many extents its chunks have", "[flush]",
                   EACH_STORAGE(Heap, Arena)) {
  OneFile<TestType> file{{4096, 1}};
  const auto extents = GENERATE(Catch::Generators::range(1, 20));
  for (int i = 0; i < extents; ++i) REQUIRE(file.write(2 * static_cast<std::uint64_t>(i), "x"));
  {
    const Brim full{file.pool};
    CHECK(file.flush());
    CHECK(file.dirty().empty());
  }
  CHECK(file.pool.stats().dirty_bytes == 0);
}
