// SPDX-License-Identifier: MIT
#pragma once

// How a sorted array of extents is searched and changed, whatever the width of its integers: shared by ExtentSet, for
// files, and ChunkExtents, for the bytes inside one chunk.
//
// Thread safety: functions of their arguments.
// Requires:      the extents are sorted, never empty, and neither overlap nor touch.

#include <algorithm>
#include <array>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <type_traits>

#include <tarn/byte_range.hpp>

namespace tarn::detail {

/// The index of the first extent that ends past `position`: the one that holds it, or the next one after it.
template <class Extent>
[[nodiscard]] std::size_t first_ending_past(std::span<const Extent> extents, std::uint64_t position) {
  const auto found = std::partition_point(extents.begin(), extents.end(),
                                          [&](const Extent& extent) { return extent.end() <= position; });
  return static_cast<std::size_t>(found - extents.begin());
}

/// The index of the first extent that begins at `position` or later.
template <class Extent>
[[nodiscard]] std::size_t first_beginning_at(std::span<const Extent> extents, std::uint64_t position) {
  const auto found = std::partition_point(extents.begin(), extents.end(),
                                          [&](const Extent& extent) { return extent.offset() < position; });
  return static_cast<std::size_t>(found - extents.begin());
}

/// One change of a sorted array: the extents [first, last) give way to `with_count` new ones. Worked out before
/// anything is touched, so that room can be found, or refused, while the set is whole.
template <class Extent>
struct Splice {
  std::size_t first;
  std::size_t last;
  std::array<Extent, 2> with{};
  std::size_t with_count = 0;

  [[nodiscard]] std::size_t count_after(std::size_t count) const { return count - (last - first) + with_count; }

  /// Requires: room for count_after(count) extents.
  void apply(Extent* extents, std::size_t count) const {
    static_assert(std::is_trivially_copyable_v<Extent>);
    std::memmove(extents + first + with_count, extents + last, (count - last) * sizeof(Extent));
    std::copy_n(with.begin(), with_count, extents + first);
  }

  void put(std::uint64_t offset, std::uint64_t end) { with[with_count++] = Extent::between(offset, end); }
};

/// Requires: `range` is not empty.
template <class Extent>
[[nodiscard]] Splice<Extent> splice_to_add(std::span<const Extent> extents, ByteRange range) {
  assert(!range.empty());
  // One byte further on both sides: an extent that only touches the range is merged as well.
  Splice<Extent> splice{.first = range.offset() == 0 ? 0 : first_ending_past(extents, range.offset() - 1),
                        .last = first_beginning_at(extents, range.end() + 1)};
  std::uint64_t offset = range.offset();
  std::uint64_t end = range.end();
  if (splice.first < splice.last) {
    offset = std::min<std::uint64_t>(offset, extents[splice.first].offset());
    end = std::max<std::uint64_t>(end, extents[splice.last - 1].end());
  }
  splice.put(offset, end);
  return splice;
}

/// Requires: `range` is not empty.
template <class Extent>
[[nodiscard]] Splice<Extent> splice_to_subtract(std::span<const Extent> extents, ByteRange range) {
  assert(!range.empty());
  Splice<Extent> splice{.first = first_ending_past(extents, range.offset()),
                        .last = first_beginning_at(extents, range.end())};
  if (splice.first == splice.last) return splice;
  const Extent head = extents[splice.first];
  const Extent tail = extents[splice.last - 1];
  if (head.offset() < range.offset()) splice.put(head.offset(), range.offset());
  if (range.end() < tail.end()) splice.put(range.end(), tail.end());
  return splice;
}

template <class Extent>
[[nodiscard]] bool extents_contain(std::span<const Extent> extents, ByteRange range) {
  if (range.empty()) return true;
  const auto i = first_ending_past(extents, range.offset());
  return i < extents.size() && extents[i].offset() <= range.offset() && range.end() <= extents[i].end();
}

template <class Extent>
[[nodiscard]] std::optional<ByteRange> next_part_in(std::span<const Extent> extents, ByteRange range) {
  const auto i = first_ending_past(extents, range.offset());
  if (range.empty() || i == extents.size() || extents[i].offset() >= range.end()) return std::nullopt;
  return range.intersect(ByteRange::between(extents[i].offset(), extents[i].end()));
}

template <class Extent>
[[nodiscard]] std::optional<ByteRange> next_gap_between(std::span<const Extent> extents, ByteRange range) {
  std::uint64_t offset = range.offset();
  auto i = first_ending_past(extents, offset);
  if (i < extents.size() && extents[i].offset() <= offset) offset = extents[i++].end();
  if (offset >= range.end()) return std::nullopt;
  return ByteRange::between(
      offset, i < extents.size() ? std::min<std::uint64_t>(extents[i].offset(), range.end()) : range.end());
}

template <class Extent, class F>
void for_each_part_in(std::span<const Extent> extents, ByteRange range, F&& f) {
  if (range.empty()) return;
  for (auto i = first_ending_past(extents, range.offset()); i < extents.size(); ++i) {
    if (extents[i].offset() >= range.end()) return;
    f(range.intersect(ByteRange::between(extents[i].offset(), extents[i].end())));
  }
}

template <class Extent, class F>
void for_each_gap_between(std::span<const Extent> extents, ByteRange range, F&& f) {
  std::uint64_t offset = range.offset();
  for (auto i = first_ending_past(extents, offset); i < extents.size(); ++i) {
    if (extents[i].offset() >= range.end()) break;
    if (offset < extents[i].offset()) f(ByteRange::between(offset, extents[i].offset()));
    offset = extents[i].end();
  }
  if (offset < range.end()) f(ByteRange::between(offset, range.end()));
}

template <class Extent>
[[nodiscard]] std::uint64_t extents_size_bytes(std::span<const Extent> extents) {
  std::uint64_t size_bytes = 0;
  for (const Extent& extent : extents) size_bytes += extent.end() - extent.offset();
  return size_bytes;
}

}  // namespace tarn::detail
