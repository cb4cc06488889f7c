// SPDX-License-Identifier: MIT
#pragma once

// What a file should be: an array of bytes with the calls that change a file. For who drives a mounted filesystem, or
// calls of his own, and compares; check_store.hpp compares by it.
//
// Thread safety: none.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include <tarn/byte_range.hpp>

namespace tarn::testing {

class FlatModel {
 public:
  /// An empty file.
  FlatModel() = default;
  /// A file of these bytes.
  explicit FlatModel(std::span<const std::byte> bytes) : bytes_{bytes.begin(), bytes.end()} {}

  [[nodiscard]] std::uint64_t size() const { return bytes_.size(); }
  [[nodiscard]] std::span<const std::byte> bytes() const { return bytes_; }
  /// Returns: what a read of `size_bytes` bytes should answer: fewer at end of file. They live until the next change.
  [[nodiscard]] std::span<const std::byte> read(std::uint64_t offset, std::uint64_t size_bytes) const {
    if (offset >= size()) return {};
    return bytes().subspan(static_cast<std::size_t>(offset),
                           static_cast<std::size_t>(std::min(size_bytes, size() - offset)));
  }

  /// A gap before it is zero. One of no byte does nothing.
  void write(std::uint64_t offset, std::span<const std::byte> from) {
    if (from.empty()) return;
    grow_to(offset + from.size());
    std::copy(from.begin(), from.end(), at(offset));
  }
  /// Returns: where the bytes went.
  std::uint64_t append(std::span<const std::byte> from) {
    const auto offset = size();
    write(offset, from);
    return offset;
  }
  /// What is cut off is gone; what growth adds is zero.
  void truncate(std::uint64_t size_bytes) { bytes_.resize(static_cast<std::size_t>(size_bytes)); }
  /// Makes zero what of the range is in the file; the size stays.
  void punch_hole(ByteRange range) {
    const auto inside = range.intersect(ByteRange::between(0, size()));
    if (!inside.empty()) std::fill(at(inside.offset()), at(inside.end()), std::byte{});
  }
  /// Makes the range zero; the size grows to its end.
  void zero_range(ByteRange range) {
    punch_hole(range);
    if (!range.empty()) grow_to(range.end());
  }

  /// Compares what a read of `size_bytes` bytes has shown.
  /// Returns: empty if it is right; else the first offset where it is not, with the bytes expected and seen there, or
  ///          by how much it is too short or too long.
  [[nodiscard]] std::string difference(std::uint64_t offset, std::uint64_t size_bytes,
                                       std::span<const std::byte> seen) const {
    const auto expected = read(offset, size_bytes);
    const auto from = std::mismatch(expected.begin(), expected.end(), seen.begin(), seen.end());
    if (from.first == expected.end() && from.second == seen.end()) return {};
    const auto index = static_cast<std::size_t>(from.first - expected.begin());
    std::string text = "at offset " + std::to_string(offset + index);
    if (seen.size() != expected.size()) {
      text += ", " + std::to_string(seen.size()) + " bytes for " + std::to_string(expected.size());
    } else {
      std::size_t wrong = 0;
      for (auto i = index; i < seen.size(); ++i) wrong += seen[i] != expected[i] ? 1u : 0u;
      text += ", " + std::to_string(wrong) + " of " + std::to_string(seen.size()) + " bytes wrong";
    }
    return text + "\n  expected: " + hex(expected.subspan(index)) + "\n  seen:     " + hex(seen.subspan(index));
  }

 private:
  using Bytes = std::vector<std::byte>;
  [[nodiscard]] Bytes::iterator at(std::uint64_t offset) {
    return bytes_.begin() + static_cast<std::ptrdiff_t>(offset);
  }
  void grow_to(std::uint64_t size_bytes) {
    if (size_bytes > size()) bytes_.resize(static_cast<std::size_t>(size_bytes));
  }
  // The first of them.
  [[nodiscard]] static std::string hex(std::span<const std::byte> bytes) {
    constexpr std::size_t shown = 16;
    constexpr const char* digits = "0123456789abcdef";
    std::string text = bytes.empty() ? "nothing" : "";
    for (const auto byte : bytes.first(std::min(shown, bytes.size()))) {
      text += text.empty() ? "" : " ";
      text += digits[std::to_integer<unsigned>(byte >> 4)];
      text += digits[std::to_integer<unsigned>(byte & std::byte{15})];
    }
    return bytes.size() > shown ? text + " ..." : text;
  }

  Bytes bytes_;
};

}  // namespace tarn::testing
