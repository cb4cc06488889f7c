// SPDX-License-Identifier: MIT
#include <tarn/truncate.hpp>

#include <cstdint>
#include <optional>
#include <string>
#include <system_error>
#include <utility>

#include <tarn/testing/gate.hpp>

#include "support/brim.hpp"
#include "support/catch.hpp"
#include "support/later_file.hpp"
#include "support/one_file.hpp"

using namespace tarn_test;
using tarn::FileState;
using tarn::max_offset;

TEMPLATE_TEST_CASE("a shrink keeps what is below the new size and nothing past it", "[truncate]",
                   EACH_STORAGE(Heap, Arena)) {
  OneFile<TestType> file{GENERATE(any_sizes())};
  SECTION("11 to 5") {
    REQUIRE(file.write(0, "hello world"));
    REQUIRE(file.truncate(5));
    CHECK(file.read(0, 100) == "hello");
    CHECK(file.dirty() == Extents{{0, 5}});
  }
  SECTION("to nothing") {
    REQUIRE(file.write(0, "hello world"));
    REQUIRE(file.truncate(0));
    CHECK(file.read(0, 100).empty());
    CHECK(file.pool.stats().chunks_held == 0);
    CHECK(file.dirty().empty());
  }
  SECTION("a stored file of 21 to 8, with nothing loaded or all of it") {
    file.become_stored(21);
    if (GENERATE(false, true)) REQUIRE(file.read_all() == pattern(0, 21));
    REQUIRE(file.truncate(8));
    CHECK(file.meta.state() == FileState::modified);
    CHECK(file.read(0, 100) == pattern(0, 8));
  }
}

TEMPLATE_TEST_CASE("growth reads as zero after the old bytes", "[truncate]", EACH_STORAGE(Heap, Arena)) {
  OneFile<TestType> file{GENERATE(any_sizes())};
  SECTION("5 to 15") {
    REQUIRE(file.write(0, "hello"));
    REQUIRE(file.truncate(15));
    CHECK(file.read(0, 100) == "hello" + zeros(10));
    CHECK(file.read(5, 10) == zeros(10));
    CHECK(file.read(3, 4) == "lo" + zeros(2));
    CHECK(file.view(0, 15) == "hello" + zeros(10));
  }
  SECTION("an empty file to 50") {
    REQUIRE(file.truncate(50));
    CHECK(file.read(0, 100) == zeros(50));
  }
  SECTION("and is written into: zeros, data, zeros") {
    REQUIRE(file.truncate(50));
    REQUIRE(file.write(20, "data"));
    CHECK(file.read(0, 100) == zeros(20) + "data" + zeros(26));
  }
  SECTION("and shrunk again") {
    REQUIRE(file.write(0, "hello"));
    REQUIRE(file.truncate(50));
    REQUIRE(file.truncate(3));
    CHECK(file.read(0, 100) == "hel");
  }
  SECTION("three times") {
    REQUIRE(file.write(0, "hello"));
    for (const auto size : {20u, 40u, 60u}) REQUIRE(file.truncate(size));
    CHECK(file.read(0, 100) == "hello" + zeros(55));
  }
  SECTION("a stored file of 16 to 30 keeps its 16") {
    file.become_stored(16);
    REQUIRE(file.truncate(30));
    CHECK(file.read(0, 100) == pattern(0, 16) + zeros(14));
    REQUIRE(file.flush());
    CHECK(file.store.text(file.id) == pattern(0, 16) + zeros(14));
  }
}

TEMPLATE_TEST_CASE("shrunk and grown again, the gap is zero: loaded or not, flushed or not, evicted or not",
                   "[truncate]", EACH_STORAGE(Heap, Arena)) {
  OneFile<TestType> file{GENERATE(any_sizes())};
  const auto size = static_cast<std::size_t>(3 * file.C);
  const auto shrink_to = GENERATE(std::size_t{0}, std::size_t{1});
  const auto kept = std::min(shrink_to, size);
  file.become_stored(size);
  std::string expected = pattern(0, kept) + zeros(size - kept);
  SECTION("nothing loaded") {
    REQUIRE(file.truncate(kept));
    REQUIRE(file.truncate(size));
  }
  SECTION("all of it loaded") {
    REQUIRE(file.read_all() == pattern(0, size));
    REQUIRE(file.truncate(kept));
    REQUIRE(file.truncate(size));
  }
  SECTION("all of it written") {
    const auto text = pattern(0, size, 5);
    REQUIRE(file.write(0, text));
    REQUIRE(file.truncate(kept));
    REQUIRE(file.truncate(size));
    expected.replace(0, kept, text.substr(0, kept));
  }
  SECTION("grown by a write further out") {
    REQUIRE(file.truncate(kept));
    REQUIRE(file.write(size - 1, "x"));
    expected.back() = 'x';
    if (kept == size) expected = "x";
  }
  SECTION("only the far half flushed, all clean evicted") {
    REQUIRE(file.write(0, pattern(0, size, 5)));
    REQUIRE(file.truncate(kept));
    REQUIRE(file.truncate(size));
    REQUIRE(file.flush(range(size / 2, size)));
    file.pool.evict_clean();
    expected.replace(0, kept, pattern(0, kept, 5));
  }
  CHECK(file.read_all() == expected);
  CHECK(file.view(0, size) == expected);
  REQUIRE(file.flush());
  CHECK(file.store.text(file.id) == expected);
  file.pool.evict_clean();
  CHECK(file.read_all() == expected);
}

TEMPLATE_TEST_CASE("a shrink inside a chunk takes the rest of that chunk and no more", "[truncate]",
                   EACH_STORAGE(Heap, Arena)) {
  OneFile<TestType> file{GENERATE(any_sizes())};
  const auto C = static_cast<std::size_t>(file.C);
  for (const std::size_t to : {2 * C - 1, 2 * C, 2 * C + 1, C / 2 + 1, std::size_t{1}}) {
    const auto text = pattern(0, 4 * C, to);
    REQUIRE(file.write(0, text));
    REQUIRE(file.truncate(to));
    REQUIRE(file.truncate(4 * C));
    CHECK(file.read_all() == text.substr(0, to) + zeros(4 * C - to));
    CHECK(file.dirty() == Extents{{0, to}});
    CHECK(file.pool.stats().dirty_bytes == to);
  }
}

TEMPLATE_TEST_CASE("a hole reads zero, keeps the size, and is stored as zeros", "[truncate]",
                   EACH_STORAGE(Heap, Arena)) {
  OneFile<TestType> file{GENERATE(any_sizes())};
  const auto C = static_cast<std::size_t>(file.C), size = 6 * C;
  enum class Bytes { not_loaded, loaded, written };
  const auto bytes = GENERATE(Bytes::not_loaded, Bytes::loaded, Bytes::written);
  for (const auto first : {std::size_t{0}, C / 2, C, 2 * C + 1}) {
    for (const auto last : {first, first + 1, 3 * C, 5 * C + C / 2, size}) {
      CAPTURE(C, first, last);
      file.become_stored(size);
      auto expected = pattern(0, size, bytes == Bytes::written ? 3 : 0);
      if (bytes == Bytes::loaded) REQUIRE(file.read_all() == expected);
      if (bytes == Bytes::written) REQUIRE(file.write(0, expected));
      REQUIRE(file.punch(first, last));
      expected.replace(first, last - first, last - first, '\0');
      CHECK(file.meta.size() == size);
      CHECK(file.read_all() == expected);
      CHECK(file.view(0, size) == expected);
      REQUIRE(file.flush());
      CHECK(file.store.text(file.id) == expected);
      file.pool.evict_clean();
      CHECK(file.read_all() == expected);
    }
  }
}

TEMPLATE_TEST_CASE("a punch past the end is ignored, a zero range past it grows the file", "[truncate]",
                   EACH_STORAGE(Heap, Arena)) {
  OneFile<TestType> file{GENERATE(any_sizes())};
  REQUIRE(file.write(0, "hello"));
  REQUIRE(file.punch(3, 1000));
  CHECK(file.read(0, 100) == "hel" + zeros(2));
  REQUIRE(file.punch(500, max_offset));
  CHECK(file.meta.size() == 5);
  REQUIRE(tarn::zero_range(file.pool, file.meta, range(2, 9)));
  CHECK(file.read(0, 100) == "he" + zeros(7));
  REQUIRE(tarn::zero_range(file.pool, file.meta, range(20, 20)));
  CHECK(file.meta.size() == 9);
  REQUIRE(tarn::zero_range(file.pool, file.meta, range(20, 30)));
  CHECK(file.read(0, 100) == "he" + zeros(28));
  REQUIRE(file.flush());
  CHECK(file.store.text(file.id) == "he" + zeros(28));
}

TEMPLATE_TEST_CASE("a truncate and a punch of bytes in flush leave alone what the flusher reads", "[truncate]",
                   EACH_STORAGE(Heap, Arena)) {
  OneFile<TestType> file{GENERATE(any_sizes())};
  const auto C = static_cast<std::size_t>(file.C);
  const auto text = pattern(0, 2 * C);
  REQUIRE(file.write(0, text));
  auto job = tarn::begin_flush(file.pool, file.meta);
  REQUIRE(job);
  const auto taken = static_cast<std::size_t>(job->end());
  SECTION("truncated") { REQUIRE(file.truncate(C / 2)); }
  SECTION("punched") { REQUIRE(file.punch(0, 2 * C)); }
  SECTION("dropped and its memory used by another file") {
    auto other = OneFile<TestType>::Metadata::created(8, {.part_bytes = file.P});
    CHECK(file.pool.drop(file.meta) == 2 * C);
    REQUIRE(tarn::write_range(file.pool, other, 0, bytes_of(std::string(8 * C, '!'))));
    std::string into(taken, '?');
    REQUIRE(tarn::read_range(file.pool, other, 0, writable(into), file.store));
    CHECK(into == std::string(taken, '!'));
    file.pool.drop(other);
    file.meta.set_size(0);  // nothing of it is known any more
  }
  std::string flushed;
  job->request().for_each_piece(
      [&](std::uint64_t, std::span<const std::byte> piece, bool) { flushed += text_of(piece); });
  CHECK(flushed == text.substr(0, taken));
  const auto size = file.meta.size();
  const auto now = file.read_all();
  (void)tarn::finish_flush(file.pool, file.meta, std::move(*job), file.store.flush(job->request()));
  CHECK(file.meta.size() == size);
  CHECK(file.read_all() == now);  // the flush brings nothing back
  REQUIRE(file.flush());
  CHECK(file.store.text(file.id) == now);
}

TEMPLATE_TEST_CASE("a file of 2^62 bytes is made, flushed and read without memory", "[truncate]",
                   EACH_STORAGE(Heap, Arena)) {
  const auto C = GENERATE(std::uint64_t{4096}, std::uint64_t{65536});
  OneFile<TestType> file{{.chunk_bytes = C, .chunks_per_part = 4}};
  constexpr auto huge = std::uint64_t{1} << 62;
  SECTION("new") {
    REQUIRE(file.truncate(huge));
    REQUIRE(file.flush());
    CHECK(file.pool.stats().chunks_held == 0);
    CHECK(file.pool.stats().charged_bytes <= 1024);
  }
  SECTION("stored, shrunk and grown") {
    file.become_stored(100);
    REQUIRE(file.truncate(50));
    REQUIRE(file.truncate(huge));
    REQUIRE(file.flush());
    CHECK(file.read(40, 100) == pattern(40, 10) + zeros(90));
  }
  CHECK(file.store.size_of(file.id) == huge);
  CHECK(file.meta.state() == FileState::clean);
  CHECK(file.read(huge - 10, 100) == zeros(10));
  CHECK(file.store.text(file.id, huge - 10, 100) == zeros(10));
}

TEMPLATE_TEST_CASE("a size past the largest offset is EFBIG, and nothing has changed", "[truncate]",
                   EACH_STORAGE(Heap, Arena)) {
  OneFile<TestType> file{GENERATE(any_sizes())};
  REQUIRE(file.write(0, "hello"));
  const auto before = file.meta;
  CHECK(file.truncate(max_offset + 1).error() == std::errc::file_too_large);
  CHECK(file.truncate(~std::uint64_t{0}).error() == std::errc::file_too_large);
  CHECK(file.meta == before);
  REQUIRE(file.truncate(max_offset));
  CHECK(file.read(0, 8) == "hello" + zeros(3));
}

TEMPLATE_TEST_CASE("a deleted file is neither written nor truncated nor punched", "[truncate]",
                   EACH_STORAGE(Heap, Arena)) {
  OneFile<TestType> file{GENERATE(any_sizes())};
  REQUIRE(file.write(0, "hello"));
  file.meta.note_deleted();
  CHECK(file.truncate(0).error() == std::errc::no_such_file_or_directory);
  CHECK(file.punch(0, 5).error() == std::errc::no_such_file_or_directory);
  CHECK(file.write(0, "x").error() == std::errc::no_such_file_or_directory);
  CHECK(file.meta.state() == FileState::deleted);
  CHECK(file.read_all() == "hello");
}

TEST_CASE("a hole whose last chunk has all the pins it can have is not made, not even in the first", "[truncate]") {
  OneFile<Usual> file{{.chunk_bytes = 16, .chunks_per_part = 2}};
  REQUIRE(file.write(0, pattern(0, 32)));
  {
    const auto pins = take_all_pins(file.pool, file.meta, 1);
    CHECK(file.punch(8, 24).error() == std::errc::resource_unavailable_try_again);
  }
  CHECK(file.dirty() == Extents{{0, 32}});
  {
    const auto pins = take_all_pins(file.pool, file.meta, 1);
    CHECK(file.punch(8, 16));  // ends before that chunk
  }
  CHECK(file.dirty() == Extents{{0, 8}, {16, 32}});
}

TEST_CASE("a hole that the budget has no room to note is refused, and nothing has changed", "[truncate]") {
  OneFile<Usual> file{{.chunk_bytes = 64, .chunks_per_part = 1}};
  REQUIRE(file.write(0, "aaaaa"));
  REQUIRE(file.write(10, "bbbbb"));
  const auto before = file.read_all();
  {
    const Brim full{file.pool};
    CHECK(file.punch(2, 3).error() == std::errc::no_buffer_space);
    CHECK(file.read_all() == before);
    CHECK(file.dirty() == Extents{{0, 5}, {10, 15}});
  }
  CHECK(file.punch(2, 3));
  CHECK(file.dirty() == Extents{{0, 2}, {3, 5}, {10, 15}});
}

TEST_CASE("a hole of a file waits for room to note it while somebody may make some", "[truncate]") {
  LaterFile<Usual> file{{64, 1}};
  REQUIRE(file->write(0, bytes_of("aaaaa")));
  REQUIRE(file->write(10, bytes_of("bbbbb")));
  REQUIRE(file->flush({.deadline_ns = 0}).error() == std::errc::timed_out);  // and stays in flight
  std::optional<Brim<Usual>> full{std::in_place, file.pool};
  CHECK(file->punch_hole(range(2, 3), {}, {.when_full = tarn::WhenFull::fail}).error() == std::errc::no_buffer_space);
  CHECK(file->punch_hole(range(2, 3), {}, {.deadline_ns = 0}).error() == std::errc::timed_out);
  tarn::Result<> punched = tarn::fail(std::errc::io_error);
  BlockedThread waiter;
  {
    Worker puncher{[&] {
      waiter.here();
      punched = file->punch_hole(range(2, 3));
    }};
    CHECK(waiter.wait_until_blocked());
    full.reset();
    file.store.finish_flush();
  }
  CHECK(punched);
  CHECK(file.read_held(0, 5) == "aa" + zeros(1) + "aa");
  file.store.answer_at_once();
  REQUIRE(file->flush());
  CHECK(file.store.memory.text(file.id) == "aa" + zeros(1) + "aa" + zeros(5) + "bbbbb");
}

TEMPLATE_TEST_CASE("a hole that a full budget has no list for is refused, and changes nothing", "[truncate]",
                   EACH_STORAGE(Heap, Arena)) {
  OneFile<TestType> file{{4096, 1}};
  auto text = pattern(0, file.C);
  REQUIRE(file.write(0, text));
  std::uint64_t at = 1;
  {
    const Brim full{file.pool};
    for (; at < file.C; at += 2) {
      if (const auto punched = file.punch(at, at + 1); !punched) {
        CHECK(punched.error() == std::errc::no_buffer_space);
        break;
      }
      text[static_cast<std::size_t>(at)] = '\0';
    }
    REQUIRE(at < file.C);
    CHECK(file.read_all() == text);
  }
  REQUIRE(file.punch(at, at + 1));
  text[static_cast<std::size_t>(at)] = '\0';
  CHECK(file.read_all() == text);
}
