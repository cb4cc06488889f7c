// SPDX-License-Identifier: MIT
#pragma once

// A half-open range of bytes in a file.
//
// Every offset in tarn fits in 63 bits, so that it survives the trip through off_t. A ByteRange cannot hold one
// that does not: `at` is the one door for numbers that come from outside, and what it lets in never overflows again.
//
// Thread safety: a plain value.
// Invariant:     offset <= end <= max_offset.

#if __cplusplus < 202002L
#error "tarn needs C++20: -std=c++20 or later"
#endif

#include <algorithm>
#include <cassert>
#include <compare>
#include <cstdint>
#include <optional>

namespace tarn {

inline constexpr std::uint64_t KiB = std::uint64_t{1} << 10;
inline constexpr std::uint64_t MiB = std::uint64_t{1} << 20;
inline constexpr std::uint64_t GiB = std::uint64_t{1} << 30;

inline constexpr std::uint64_t max_offset = (std::uint64_t{1} << 63) - 1;

class ByteRange {
 public:
  /// The empty range at offset 0.
  constexpr ByteRange() = default;

  /// The `size_bytes` bytes at `offset`.
  /// Returns: nothing if they would reach past max_offset; a write then answers EFBIG, a read EOVERFLOW.
  [[nodiscard]] static constexpr std::optional<ByteRange> at(std::uint64_t offset, std::uint64_t size_bytes) {
    if (offset > max_offset || size_bytes > max_offset - offset) return std::nullopt;
    return between(offset, offset + size_bytes);
  }

  /// The bytes from `offset` up to, not including, `end`.
  /// Requires: offset <= end <= max_offset. For numbers that a caller sent, use `at`.
  [[nodiscard]] static constexpr ByteRange between(std::uint64_t offset, std::uint64_t end) {
    assert(offset <= end && end <= max_offset);
    return ByteRange{offset, end};
  }

  // Not named begin(): a type with begin() and end() is taken for a container, and this one holds no bytes.
  [[nodiscard]] constexpr std::uint64_t offset() const { return offset_; }
  [[nodiscard]] constexpr std::uint64_t end() const { return end_; }
  [[nodiscard]] constexpr std::uint64_t size_bytes() const { return end_ - offset_; }
  [[nodiscard]] constexpr bool empty() const { return offset_ == end_; }

  /// The bytes that are in both. Where there are none, an empty range inside this one, so that a caller
  /// may go on from its end.
  [[nodiscard]] constexpr ByteRange intersect(ByteRange other) const {
    const auto first = std::clamp(other.offset_, offset_, end_);
    return {first, std::clamp(other.end_, first, end_)};
  }

  friend constexpr auto operator<=>(const ByteRange&, const ByteRange&) = default;

 private:
  constexpr ByteRange(std::uint64_t offset, std::uint64_t end) : offset_{offset}, end_{end} {}

  std::uint64_t offset_ = 0;
  std::uint64_t end_ = 0;
};

/// Every byte that a file can have.
inline constexpr ByteRange whole_file = ByteRange::between(0, max_offset);

}  // namespace tarn
