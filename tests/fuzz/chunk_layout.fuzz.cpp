// SPDX-License-Identifier: MIT
// Offsets, chunks and parts, and ranges, against the same in 128 bits, where nothing wraps.

#include <tarn/chunk_layout.hpp>

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <utility>

#include "fuzz/input.hpp"

namespace {

using tarn::ByteRange;
using tarn::ChunkLayout;
using tarn_test::FuzzInput;
using tarn_test::must;

__extension__ using Wide = unsigned __int128;

constexpr Wide last = tarn::max_offset;

struct WideRange {
  Wide offset, end;
};
[[nodiscard]] WideRange cut(WideRange range) { return {std::min(range.offset, last), std::min(range.end, last)}; }
[[nodiscard]] WideRange common(ByteRange a, WideRange b) {
  return {std::max<Wide>(a.offset(), b.offset), std::min<Wide>(a.end(), b.end)};
}
[[nodiscard]] bool same(ByteRange range, WideRange wide) {
  return range.offset() == wide.offset && range.end() == wide.end;
}
[[nodiscard]] Wide up(Wide number, Wide unit) { return (number + unit - 1) / unit; }

void check_ranges(FuzzInput& input) {
  const auto offset = input.number(), size_bytes = input.number();
  const auto made = ByteRange::at(offset, size_bytes);
  must(made.has_value() == (Wide{offset} + size_bytes <= last), "at takes what ends at the largest offset, or below");
  if (made) must(same(*made, {offset, Wide{offset} + size_bytes}), "at");
  if (made) must(made->size_bytes() == size_bytes && made->empty() == (size_bytes == 0), "size_bytes, empty");

  const auto a = input.range(), b = input.range();
  const auto both = a.intersect(b);
  const auto wide = common(a, {b.offset(), b.end()});
  if (wide.offset < wide.end) {
    must(same(both, wide), "intersect");
  } else {
    must(both.empty() && both.offset() >= a.offset() && both.end() <= a.end(),
         "what is in no two is empty, and inside");
  }
}

class Checks {
 public:
  explicit Checks(const ChunkLayout& layout) : layout_{layout}, C{layout.chunk_bytes()}, P{layout.part_bytes()} {}

  void offsets(std::uint64_t at) const {
    must(layout_.chunk_of(at) == at / C && layout_.offset_in_chunk(at) == at % C, "chunk_of, offset_in_chunk");
    must(layout_.part_of(at) == at / P, "part_of");
    must(layout_.chunk_count(at) == up(at, C) && layout_.part_count(at) == up(at, P), "chunk_count, part_count");
  }
  void indices(std::uint64_t index, ByteRange range) const {
    const WideRange chunk{index * C, (index + Wide{1}) * C};
    must(same(layout_.chunk_range(index), cut(chunk)), "chunk_range");
    must(same(layout_.part_range(index), cut({index * P, (index + Wide{1}) * P})), "part_range");
    must(layout_.chunk_of_part(index) == (index * C % P) / C, "chunk_of_part");

    const auto in_chunk = layout_.in_chunk(index, range);
    const auto wide = common(range, chunk);
    if (wide.offset < wide.end) {
      must(same(in_chunk, {wide.offset - chunk.offset, wide.end - chunk.offset}), "in_chunk");
    } else {
      must(in_chunk.empty() && in_chunk.end() <= C, "in_chunk of what is not there");
    }
  }
  void clip(std::uint64_t offset, std::uint64_t size_bytes) const {
    const WideRange wide{std::min<Wide>(offset, C), std::min(std::min<Wide>(offset, C) + size_bytes, C)};
    must(same(layout_.clip(offset, size_bytes), wide), "clip");
  }
  void ranges(ByteRange range) const {
    const auto chunks = layout_.chunks_of(range);
    const auto around = layout_.parts_around(range);
    must(chunks.first == range.offset() / C, "chunks_of: the first");
    if (range.empty()) return must(chunks.count() == 0 && around == range, "chunks and parts of no byte");
    must(chunks.last == up(range.end(), C) && chunks.count() == chunks.last - chunks.first, "chunks_of: the last");
    must(same(around, cut({range.offset() / P * P, up(range.end(), P) * P})), "parts_around");
    for (const auto chunk : {chunks.first, chunks.last - 1}) {
      must(!layout_.in_chunk(chunk, range).empty(), "a chunk of the range has bytes of it");
      must(layout_.part_of(layout_.chunk_range(chunk).offset()) == chunk * C / P, "a chunk lies in one part");
    }
    if (chunks.first != 0) must(layout_.in_chunk(chunks.first - 1, range).empty(), "none before the first");
    must(layout_.in_chunk(chunks.last, range).empty(), "none past the last");
  }

 private:
  const ChunkLayout layout_;
  const Wide C, P;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size_bytes) {
  FuzzInput input{bytes, size_bytes};
  check_ranges(input);

  const auto chunk_bytes = input.flag() ? input.number() : std::uint64_t{1} << input.below(31);
  const auto part_bytes = input.flag() ? input.number() : chunk_bytes * input.number();
  const auto layout = ChunkLayout::make(chunk_bytes, part_bytes);
  const bool works = std::popcount(chunk_bytes) == 1 && chunk_bytes <= tarn::GiB && part_bytes <= tarn::max_offset &&
                     part_bytes % std::max<std::uint64_t>(chunk_bytes, 1) == 0;
  must(layout.has_value() == works, "a layout is made of what works, and of nothing else");
  if (!layout) {
    must(layout.error() == std::errc::invalid_argument, "what does not work is EINVAL");
    return 0;
  }
  must(layout->chunk_bytes() == chunk_bytes, "chunk_bytes");
  must(layout->part_bytes() == (part_bytes == 0 ? chunk_bytes : part_bytes), "part_bytes; 0 is one chunk");

  const Checks check{*layout};
  int rounds = 0;
  do {
    check.offsets(input.number());
    check.indices(input.number(), input.range());
    // About the borders of a unit that the input chooses.
    const auto unit = input.flag() ? layout->part_bytes() : layout->chunk_bytes();
    const auto border = tarn::max_offset / unit - input.number() % (tarn::max_offset / unit + 1);
    const auto near = std::min(border * unit + input.below(5), tarn::max_offset);
    check.offsets(near);
    check.indices(border, ByteRange::between(near - std::min<std::uint64_t>(near, input.below(5)), near));
    check.ranges(ByteRange::between(near, near + std::min(input.number(), tarn::max_offset - near)));
    check.ranges(input.range());
    check.clip(input.number(), input.number());
  } while (!input.empty() && ++rounds < 16);
  return 0;
}
