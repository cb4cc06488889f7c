// SPDX-License-Identifier: MIT
#pragma once

// A set of bytes of a file, kept as sorted extents: where the store has bytes, what a load or a flush still covers.
//
// Thread safety: a plain value; const calls from many threads.
// Invariants:    extents are sorted, never empty, and neither overlap nor touch (touching ones are merged), so equal
//                sets have equal extents. More than `inline_capacity` extents, or room for them, are on the heap; a
//                change that leaves one extent or none gives the heap back.

#include <algorithm>
#include <array>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <type_traits>
#include <utility>

#include <tarn/byte_range.hpp>
#include <tarn/detail/sorted_extents.hpp>

namespace tarn {

class ExtentSet {
 public:
  /// So many extents take no heap memory: nearly every file is stored in one piece, or with one hole.
  static constexpr std::size_t inline_capacity = 2;

  ExtentSet() = default;
  explicit ExtentSet(ByteRange range) { add(range); }

  ExtentSet(const ExtentSet& other);
  /// Leaves `other` empty.
  ExtentSet(ExtentSet&& other) noexcept
      : inline_{other.inline_},
        heap_{std::move(other.heap_)},
        capacity_{std::exchange(other.capacity_, inline_capacity)},
        count_{std::exchange(other.count_, 0)} {}
  ExtentSet& operator=(ExtentSet other) noexcept {
    std::swap(inline_, other.inline_);
    std::swap(heap_, other.heap_);
    std::swap(capacity_, other.capacity_);
    std::swap(count_, other.count_);
    return *this;
  }
  ~ExtentSet() = default;

  // Changes. If memory for one cannot be had, std::bad_alloc is thrown and the set is as it was.

  void add(ByteRange range) { change(range, detail::splice_to_add<ByteRange>); }
  void subtract(ByteRange range) { change(range, detail::splice_to_subtract<ByteRange>); }

  /// Cost: O((n + m) log(n + m)) for sets of n and m extents.
  void add(const ExtentSet& other);
  /// Cost: O(n log m) and the extents that are left.
  void subtract(const ExtentSet& other);

  void clear() noexcept { *this = ExtentSet{}; }

  /// Takes the memory that the next one add or subtract of a range may need; after it, that one change cannot fail.
  void reserve_for_change() {
    if (count_ == capacity_) grow();
  }

  [[nodiscard]] bool empty() const { return count_ == 0; }
  [[nodiscard]] std::size_t extent_count() const { return count_; }
  /// Cost: O(extents).
  [[nodiscard]] std::uint64_t size_bytes() const { return detail::extents_size_bytes(extents()); }
  /// What the set holds beside itself.
  [[nodiscard]] std::size_t memory_bytes() const { return heap_ ? capacity_ * sizeof(ByteRange) : 0; }

  /// In ascending order. Valid until the next change. Not begin() and end(): see ByteRange.
  [[nodiscard]] std::span<const ByteRange> extents() const& { return {heap_ ? heap_.get() : inline_.data(), count_}; }
  std::span<const ByteRange> extents() const&& = delete;  // the span would outlive the set

  /// Whether every byte of the range is in the set; of an empty range, it is.
  [[nodiscard]] bool contains(ByteRange range) const { return detail::extents_contain(extents(), range); }
  /// Whether any byte of the range is in the set.
  [[nodiscard]] bool intersects(ByteRange range) const { return next_in(range).has_value(); }

  /// The first run of bytes inside the range that is in the set, or that is not; nothing if there is none.
  [[nodiscard]] std::optional<ByteRange> next_in(ByteRange range) const {
    return detail::next_part_in(extents(), range);
  }
  [[nodiscard]] std::optional<ByteRange> next_gap_in(ByteRange range) const {
    return detail::next_gap_between(extents(), range);
  }

  /// Calls f(ByteRange) for every run of bytes inside the range that is in the set, or that is not, in ascending order.
  /// Requires: `f` does not change the set.
  template <class F>
  void for_each_in(ByteRange range, F&& f) const {
    detail::for_each_part_in(extents(), range, f);
  }
  template <class F>
  void for_each_gap_in(ByteRange range, F&& f) const {
    detail::for_each_gap_between(extents(), range, f);
  }

  /// The bytes that are both in the set and in the range.
  [[nodiscard]] ExtentSet intersect(ByteRange range) const;

  friend bool operator==(const ExtentSet& a, const ExtentSet& b) {
    return std::ranges::equal(a.extents(), b.extents());
  }

 private:
  [[nodiscard]] ByteRange* data() { return heap_ ? heap_.get() : inline_.data(); }

  template <class MakeSplice>
  void change(ByteRange range, MakeSplice make_splice);
  void grow();

  std::array<ByteRange, inline_capacity> inline_{};
  std::unique_ptr<ByteRange[]> heap_;  // if there, all extents are in it and none in inline_
  std::size_t capacity_ = inline_capacity;
  std::size_t count_ = 0;
};

inline ExtentSet::ExtentSet(const ExtentSet& other) : count_{other.count_} {
  if (count_ > inline_capacity) {
    heap_ = std::make_unique_for_overwrite<ByteRange[]>(count_);
    capacity_ = count_;
  }
  std::ranges::copy(other.extents(), data());
}

inline void ExtentSet::add(const ExtentSet& other) {
  // Merged in ascending order every add lands at the end of the sum, where it moves nothing.
  ExtentSet sum;
  auto left = extents();
  auto right = other.extents();
  while (!left.empty() || !right.empty()) {
    auto& lower = right.empty() || (!left.empty() && left.front() < right.front()) ? left : right;
    sum.add(lower.front());
    lower = lower.subspan(1);
  }
  *this = std::move(sum);
}

inline void ExtentSet::subtract(const ExtentSet& other) {
  ExtentSet rest;
  for (const ByteRange extent : extents()) {
    other.for_each_gap_in(extent, [&](ByteRange kept) { rest.add(kept); });
  }
  *this = std::move(rest);
}

inline ExtentSet ExtentSet::intersect(ByteRange range) const {
  ExtentSet common;
  for_each_in(range, [&](ByteRange part) { common.add(part); });
  return common;
}

template <class MakeSplice>
void ExtentSet::change(ByteRange range, MakeSplice make_splice) {
  if (range.empty()) return;
  const detail::Splice<ByteRange> splice = make_splice(extents(), range);
  const auto count_after = splice.count_after(count_);
  if (count_after > capacity_) grow();
  splice.apply(data(), count_);
  count_ = count_after;

  // Not already at inline_capacity, else a set that goes back and forth there allocates every time.
  if (heap_ && count_ < inline_capacity) {
    inline_[0] = heap_[0];
    heap_.reset();
    capacity_ = inline_capacity;
  }
}

inline void ExtentSet::grow() {
  auto grown = std::make_unique_for_overwrite<ByteRange[]>(2 * capacity_);
  std::ranges::copy(extents(), grown.get());
  heap_ = std::move(grown);
  capacity_ *= 2;
}

}  // namespace tarn
