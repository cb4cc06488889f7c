// SPDX-License-Identifier: MIT
#pragma once

// All arithmetic between offsets, chunks and parts, in one place.
//
// A chunk is the unit of memory, a part the unit of the store; a part is a whole number of chunks, both count from
// offset 0. Indices count chunks or parts; offsets and sizes count bytes.
//
// Thread safety: a plain value.
// Invariant:     chunk_bytes is a power of two; part_bytes is a multiple of it; both fit an offset.

#include <algorithm>
#include <bit>
#include <cstdint>

#include <tarn/byte_range.hpp>
#include <tarn/result.hpp>

namespace tarn {

class ChunkLayout {
 public:
  /// Returns: the layout; `part_bytes` 0 means one chunk a part.
  /// Errors:  EINVAL if the chunk is not a power of two up to 1 GiB, or the part not a multiple of the chunk.
  [[nodiscard]] static Result<ChunkLayout> make(std::uint64_t chunk_bytes, std::uint64_t part_bytes = 0) {
    if (!std::has_single_bit(chunk_bytes) || chunk_bytes > GiB) return fail(std::errc::invalid_argument);
    if (part_bytes % chunk_bytes != 0 || part_bytes > max_offset) return fail(std::errc::invalid_argument);
    return ChunkLayout{chunk_bytes, part_bytes == 0 ? chunk_bytes : part_bytes};
  }

  [[nodiscard]] constexpr std::uint64_t chunk_bytes() const { return std::uint64_t{1} << chunk_shift_; }
  [[nodiscard]] constexpr std::uint64_t part_bytes() const { return part_bytes_; }

  [[nodiscard]] constexpr std::uint64_t chunk_of(std::uint64_t offset) const { return offset >> chunk_shift_; }
  [[nodiscard]] constexpr std::uint64_t offset_in_chunk(std::uint64_t offset) const {
    return offset & (chunk_bytes() - 1);
  }
  [[nodiscard]] constexpr ByteRange chunk_range(std::uint64_t chunk) const { return range_of(chunk, chunk_bytes()); }
  /// The part of `chunk` that lies in `range`, relative to the start of the chunk.
  [[nodiscard]] constexpr ByteRange in_chunk(std::uint64_t chunk, ByteRange range) const {
    const auto whole = chunk_range(chunk);
    const auto common = whole.intersect(range);
    return ByteRange::between(common.offset() - whole.offset(), common.end() - whole.offset());
  }
  /// The `size_bytes` bytes at `offset` of any chunk, cut at the chunk's end; never starts past its end.
  [[nodiscard]] constexpr ByteRange clip(std::uint64_t offset, std::uint64_t size_bytes) const {
    const auto first = std::min(offset, chunk_bytes());
    return ByteRange::between(first, first + std::min(size_bytes, chunk_bytes() - first));
  }
  /// The chunks that hold a byte of `range`: [first, last). Empty for an empty range.
  struct Chunks {
    std::uint64_t first, last;
    [[nodiscard]] constexpr std::uint64_t count() const { return last - first; }
  };
  [[nodiscard]] constexpr Chunks chunks_of(ByteRange range) const {
    if (range.empty()) return {chunk_of(range.offset()), chunk_of(range.offset())};
    return {chunk_of(range.offset()), chunk_of(range.end() - 1) + 1};
  }

  [[nodiscard]] constexpr std::uint64_t part_of(std::uint64_t offset) const { return offset / part_bytes_; }
  [[nodiscard]] constexpr ByteRange part_range(std::uint64_t part) const { return range_of(part, part_bytes_); }
  /// The parts that `range` is in, whole; empty for an empty range.
  [[nodiscard]] constexpr ByteRange parts_around(ByteRange range) const {
    if (range.empty()) return range;
    return ByteRange::between(part_range(part_of(range.offset())).offset(), part_range(part_of(range.end() - 1)).end());
  }
  /// Which chunk of its part `chunk` is, from 0.
  [[nodiscard]] constexpr std::uint64_t chunk_of_part(std::uint64_t chunk) const {
    return chunk % (part_bytes_ >> chunk_shift_);
  }

  /// Chunks and parts that a file of `size_bytes` has: none for an empty one.
  [[nodiscard]] constexpr std::uint64_t chunk_count(std::uint64_t size_bytes) const {
    return size_bytes == 0 ? 0 : chunk_of(size_bytes - 1) + 1;
  }
  [[nodiscard]] constexpr std::uint64_t part_count(std::uint64_t size_bytes) const {
    return size_bytes == 0 ? 0 : part_of(size_bytes - 1) + 1;
  }

  friend constexpr bool operator==(const ChunkLayout&, const ChunkLayout&) = default;

 private:
  constexpr ChunkLayout(std::uint64_t chunk_bytes, std::uint64_t part_bytes)
      : chunk_shift_{static_cast<unsigned>(std::countr_zero(chunk_bytes))}, part_bytes_{part_bytes} {}

  // The last unit of the offset space is cut at max_offset; one past it is empty there.
  [[nodiscard]] static constexpr ByteRange range_of(std::uint64_t index, std::uint64_t unit_bytes) {
    if (index > max_offset / unit_bytes) return ByteRange::between(max_offset, max_offset);
    const auto first = index * unit_bytes;
    return ByteRange::between(first, first + std::min(unit_bytes, max_offset - first));
  }

  unsigned chunk_shift_;
  std::uint64_t part_bytes_;
};

}  // namespace tarn
