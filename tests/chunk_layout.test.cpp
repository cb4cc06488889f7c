// SPDX-License-Identifier: MIT
#include <tarn/chunk_layout.hpp>

#include <cstdint>

#include "support/catch.hpp"

using tarn::ByteRange;
using tarn::ChunkLayout;
using tarn::GiB;
using tarn::max_offset;
using tarn::MiB;

namespace {

ChunkLayout layout_of(std::uint64_t chunk_bytes, std::uint64_t part_bytes = 0) {
  const auto layout = ChunkLayout::make(chunk_bytes, part_bytes);
  REQUIRE(layout);
  return *layout;
}

}  // namespace

TEST_CASE("a chunk that is no power of two, or a part that is no multiple of it, is refused", "[chunk_layout]") {
  for (const auto chunk_bytes : {0ul, 3ul, 65535ul, 2 * GiB, ~std::uint64_t{0}}) {
    CHECK(ChunkLayout::make(chunk_bytes).error() == std::errc::invalid_argument);
  }
  CHECK(ChunkLayout::make(16, 8).error() == std::errc::invalid_argument);
  CHECK(ChunkLayout::make(16, 17).error() == std::errc::invalid_argument);
  CHECK(ChunkLayout::make(16, std::uint64_t{1} << 63).error() == std::errc::invalid_argument);

  CHECK(ChunkLayout::make(1));
  CHECK(ChunkLayout::make(GiB));
  CHECK(ChunkLayout::make(16, 48));
  CHECK(layout_of(16).part_bytes() == 16);
}

TEST_CASE("an offset is in the chunk that starts at or below it", "[chunk_layout]") {
  const auto C = GENERATE(std::uint64_t{1}, std::uint64_t{16}, std::uint64_t{4096}, 256 * MiB);
  const auto layout = layout_of(C);
  CHECK(layout.chunk_of(0) == 0);
  CHECK(layout.chunk_of(C - 1) == 0);
  CHECK(layout.chunk_of(C) == 1);
  CHECK(layout.chunk_of(C + 500) == (C + 500) / C);
  CHECK(layout.offset_in_chunk(C + 500) == (C + 500) % C);
  CHECK(layout.chunk_range(3) == ByteRange::between(3 * C, 4 * C));
}

TEST_CASE("a range in a chunk is cut at its end and never starts past it", "[chunk_layout]") {
  const auto layout = layout_of(4096);
  CHECK(layout.clip(2, 50) == ByteRange::between(2, 52));
  CHECK(layout.clip(4090, 50) == ByteRange::between(4090, 4096));
  CHECK(layout.clip(4096, 50) == ByteRange::between(4096, 4096));
  CHECK(layout.clip(4096 + 100, 50) == ByteRange::between(4096, 4096));
  CHECK(layout.clip(2, ~std::uint64_t{0}) == ByteRange::between(2, 4096));
  CHECK(layout_of(16).clip(2, 50) == ByteRange::between(2, 16));
  CHECK(layout_of(1).clip(2, 50) == ByteRange::between(1, 1));
}

TEST_CASE("the parts around a range are whole, up to the largest offset; around nothing there are none",
          "[chunk_layout]") {
  const auto layout = layout_of(16, 48);
  CHECK(layout.parts_around(ByteRange::between(0, 1)) == ByteRange::between(0, 48));
  CHECK(layout.parts_around(ByteRange::between(47, 49)) == ByteRange::between(0, 96));
  CHECK(layout.parts_around(ByteRange::between(48, 96)) == ByteRange::between(48, 96));
  CHECK(layout.parts_around(ByteRange::between(50, 50)).empty());
  const auto last = max_offset / 48 * 48;
  CHECK(layout.parts_around(ByteRange::between(max_offset - 1, max_offset)) == ByteRange::between(last, max_offset));
}

TEST_CASE("what of a range lies in a chunk counts from the chunk's start", "[chunk_layout]") {
  const auto layout = layout_of(16);
  CHECK(layout.in_chunk(1, ByteRange::between(20, 70)) == ByteRange::between(4, 16));
  CHECK(layout.in_chunk(2, ByteRange::between(20, 70)) == ByteRange::between(0, 16));
  CHECK(layout.in_chunk(4, ByteRange::between(20, 70)) == ByteRange::between(0, 6));
  CHECK(layout.in_chunk(0, ByteRange::between(20, 70)).empty());
  CHECK(layout.in_chunk(5, ByteRange::between(20, 70)).empty());
}

TEST_CASE("the chunks of a range are those with a byte of it", "[chunk_layout]") {
  const auto layout = layout_of(16);
  const auto chunks = [&](std::uint64_t offset, std::uint64_t end) {
    const auto found = layout.chunks_of(ByteRange::between(offset, end));
    return std::pair{found.first, found.last};
  };
  CHECK(chunks(0, 16) == std::pair<std::uint64_t, std::uint64_t>{0, 1});
  CHECK(chunks(0, 17) == std::pair<std::uint64_t, std::uint64_t>{0, 2});
  CHECK(chunks(15, 16) == std::pair<std::uint64_t, std::uint64_t>{0, 1});
  CHECK(chunks(15, 17) == std::pair<std::uint64_t, std::uint64_t>{0, 2});
  CHECK(layout.chunks_of(ByteRange::between(16, 16)).count() == 0);
  CHECK(layout.chunks_of(ByteRange::between(0, max_offset)).last == max_offset / 16 + 1);
}

TEST_CASE("parts are whole numbers of chunks, and an empty file has none", "[chunk_layout]") {
  const auto C = GENERATE(std::uint64_t{1}, std::uint64_t{16}, std::uint64_t{4096});
  for (const auto P : {C, 4 * C, 256 * MiB}) {
    CAPTURE(C, P);
    const auto layout = layout_of(C, P);
    CHECK(layout.part_count(0) == 0);
    CHECK(layout.part_count(1) == 1);
    CHECK(layout.part_count(P) == 1);
    CHECK(layout.part_count(P + 1) == 2);
    CHECK(layout.chunk_count(0) == 0);
    CHECK(layout.chunk_count(C) == 1);
    CHECK(layout.chunk_count(C + 1) == 2);
    CHECK(layout.part_of(P - 1) == 0);
    CHECK(layout.part_of(P) == 1);
    CHECK(layout.part_range(1) == ByteRange::between(P, 2 * P));
    CHECK(layout.chunk_of_part(0) == 0);
    CHECK(layout.chunk_of_part(P / C - 1) == P / C - 1);
    CHECK(layout.chunk_of_part(P / C) == 0);
  }
}

TEST_CASE("a file of a hundred bytes has one part of 256 MiB", "[chunk_layout]") {
  CHECK(layout_of(64 * 1024, 256 * MiB).part_count(100) == 1);
  CHECK(layout_of(64 * 1024, 256 * MiB).part_count(256 * MiB + 1) == 2);
}

TEST_CASE("the last chunk and the last part are cut at the largest offset", "[chunk_layout]") {
  const auto layout = layout_of(4096, 3 * 4096);
  const auto last = layout.chunk_of(max_offset - 1);
  CHECK(layout.chunk_range(last) == ByteRange::between(last * 4096, max_offset));
  CHECK(layout.chunk_range(last + 1).empty());
  CHECK(layout.chunk_range(~std::uint64_t{0}).empty());
  CHECK(layout.part_range(layout.part_of(max_offset - 1)).end() == max_offset);
  CHECK(layout.part_range(~std::uint64_t{0}).empty());
}
