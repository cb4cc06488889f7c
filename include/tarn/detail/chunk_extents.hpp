// SPDX-License-Identifier: MIT
#pragma once

// A set of bytes inside one chunk: which are valid, dirty, lent, being loaded. Positions count from the chunk's start.
//
// Every chunk holds some of these, and nearly all of them say "nothing" or "one run": those take no memory beside the
// set. A chunk written at every second byte must not cost more than its data either, so past a size the list of extents
// becomes a bitmap of one bit a byte.
//
//   form    extents are in            enters                                       leaves
//   few     the set itself, up to 2   made, cleared, one extent or none left       to list or bitmap: a third extent
//   list    a sorted heap array       from few, while no larger than a bitmap      to list or bitmap: the array is full
//   bitmap  a bit for every byte      from few or list, when an array of twice     to few
//                                     the capacity would be larger than a bitmap
//
// Thread safety: a plain value, kept under its chunk's latch; const calls from many threads.
// Invariants:    extents are sorted, never empty, and neither overlap nor touch; count_ is their number in every form.
//                One extent or none: form few. Memory on the heap is at most one bit for each byte of the chunk, in
//                whole words of 8 bytes.
// The owner gives the chunk's size to the calls that may change the form, always the same one, at most 2^32 - 1.

#include <algorithm>
#include <array>
#include <bit>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <utility>

#include <tarn/byte_range.hpp>
#include <tarn/detail/sorted_extents.hpp>

namespace tarn::detail {

/// A ByteRange in 8 bytes, for positions below 2^32. No initialisers: it lives in a union.
struct NarrowRange {
  std::uint32_t offset_;
  std::uint32_t end_;

  [[nodiscard]] static NarrowRange between(std::uint64_t offset, std::uint64_t end) {
    assert(offset <= end && end <= std::numeric_limits<std::uint32_t>::max());
    return {static_cast<std::uint32_t>(offset), static_cast<std::uint32_t>(end)};
  }
  [[nodiscard]] std::uint32_t offset() const { return offset_; }
  [[nodiscard]] std::uint32_t end() const { return end_; }
};

class ChunkExtents {
 public:
  enum class Form : std::uint32_t { few, list, bitmap };

  ChunkExtents() = default;
  /// Leaves `other` empty.
  ChunkExtents(ChunkExtents&& other) noexcept { swap(other); }
  ChunkExtents& operator=(ChunkExtents&& other) noexcept {
    ChunkExtents taken{std::move(other)};
    swap(taken);
    return *this;
  }
  ~ChunkExtents() { free_heap(); }

  // Changes. If memory for one cannot be had, std::bad_alloc is thrown and the set is as it was.
  // Requires: the range lies inside the chunk.

  void add(ByteRange range, std::size_t chunk_bytes) { change(range, chunk_bytes, true); }
  void subtract(ByteRange range, std::size_t chunk_bytes) { change(range, chunk_bytes, false); }
  void clear() noexcept { *this = ChunkExtents{}; }

  /// Whether the next add or subtract needs no memory.
  [[nodiscard]] bool has_room() const {
    return form_ == Form::bitmap || count_ < (form_ == Form::few ? few_capacity : memory_.list.capacity);
  }
  /// By how much `prepare` would raise memory_bytes(): what the owner charges before it calls it. While it runs,
  /// prepare holds the old memory beside the new.
  [[nodiscard]] std::size_t bytes_to_prepare(std::size_t chunk_bytes) const {
    return has_room() ? 0 : grown(chunk_bytes).cells * cell_bytes - memory_bytes();
  }

  /// Takes the memory that the next one add or subtract may need; after it, that one change cannot fail.
  /// Throws std::bad_alloc, and is then as it was.
  void prepare(std::size_t chunk_bytes) {
    if (!has_room()) grow(chunk_bytes);
  }

  [[nodiscard]] Form form() const { return form_; }
  [[nodiscard]] bool empty() const { return count_ == 0; }
  [[nodiscard]] std::size_t extent_count() const { return count_; }
  /// Cost: O(extents), of a bitmap O(its words).
  [[nodiscard]] std::uint64_t size_bytes() const;
  /// Of the bytes of the range, those that are in the set.
  [[nodiscard]] std::uint64_t size_bytes_in(ByteRange range) const {
    std::uint64_t sum = 0;
    for_each_in(range, [&](ByteRange run) { sum += run.size_bytes(); });
    return sum;
  }
  /// What the set holds on the heap.
  [[nodiscard]] std::size_t memory_bytes() const {
    return form_ == Form::few ? 0
                              : (form_ == Form::list ? memory_.list.capacity : memory_.bitmap.word_count) * cell_bytes;
  }

  // Questions. Requires: the range lies inside the chunk.

  /// Whether every byte of the range is in the set; of an empty range, it is.
  /// Cost: every read that hits asks this of a chunk with one extent, so that comes first: two compares, no call.
  [[nodiscard, gnu::always_inline]] bool contains(ByteRange range) const {
    if (count_ == 1 && memory_.few[0].offset() <= range.offset() && range.end() <= memory_.few[0].end()) [[likely]] {
      return true;
    }
    return many_contain(range);
  }

  /// Whether any byte of the range is in the set.
  [[nodiscard]] bool intersects(ByteRange range) const { return next_in(range).has_value(); }

  /// The first run of bytes inside the range that is in the set, or that is not; nothing if there is none.
  [[nodiscard]] std::optional<ByteRange> next_in(ByteRange range) const {
    return form_ == Form::bitmap ? next_run(range, true) : next_part_in(listed(), range);
  }
  [[nodiscard]] std::optional<ByteRange> next_gap_in(ByteRange range) const {
    return form_ == Form::bitmap ? next_run(range, false) : next_gap_between(listed(), range);
  }

  /// Calls f(ByteRange) for every run of bytes inside the range that is in the set, or that is not, in ascending order.
  /// Requires: `f` does not change the set.
  template <class F>
  void for_each_in(ByteRange range, F&& f) const {
    if (form_ == Form::bitmap) return for_each_run(range, true, f);
    for_each_part_in(listed(), range, f);
  }
  template <class F>
  void for_each_gap_in(ByteRange range, F&& f) const {
    if (form_ == Form::bitmap) return for_each_run(range, false, f);
    for_each_gap_between(listed(), range, f);
  }

 private:
  static constexpr std::size_t few_capacity = 2;
  static constexpr std::uint64_t word_bits = 64;
  static constexpr std::size_t cell_bytes = 8;  // of a list's extent and of a bitmap's word alike
  static_assert(sizeof(NarrowRange) == cell_bytes && sizeof(std::uint64_t) == cell_bytes);

  struct List {
    NarrowRange* extents;
    std::size_t capacity;
  };
  struct Bitmap {
    std::uint64_t* words;
    std::size_t word_count;
  };
  union Memory {
    std::array<NarrowRange, few_capacity> few{};
    List list;
    Bitmap bitmap;
  };
  struct Shape {
    Form form;
    std::size_t cells;
  };

  /// What a set in form few or list becomes when it needs room for one extent more.
  [[nodiscard]] Shape grown(std::size_t chunk_bytes) const;
  void grow(std::size_t chunk_bytes);
  void free_heap() noexcept;
  void swap(ChunkExtents& other) noexcept;

  void change(ByteRange range, std::size_t chunk_bytes, bool to);
  void return_to_few() noexcept;

  // Not inlined: a read that hits one extent is not to make room for this.
  [[nodiscard, gnu::noinline]] bool many_contain(ByteRange range) const {
    return form_ == Form::bitmap ? !next_run(range, false) : extents_contain(listed(), range);
  }

  // Forms few and list.
  [[nodiscard]] std::span<const NarrowRange> listed() const {
    return {form_ == Form::few ? memory_.few.data() : memory_.list.extents, count_};
  }

  // Form bitmap. Bits past the chunk's end, in its last word, stay clear.
  [[nodiscard]] std::optional<ByteRange> next_run(ByteRange range, bool of) const;
  template <class F>
  void for_each_run(ByteRange range, bool of, F&& f) const;
  [[nodiscard]] std::uint64_t find_bit(std::uint64_t from, std::uint64_t end, bool value) const;
  [[nodiscard]] std::uint32_t count_run_starts(ByteRange range) const;
  void change_bits(ByteRange range, bool to);

  /// The bits [from, end) as far as they are in the word of `from`. Requires: from < end.
  [[nodiscard]] static std::uint64_t mask_in_word(std::uint64_t from, std::uint64_t end) {
    const auto from_on = ~std::uint64_t{0} << from % word_bits;
    const auto bits_to_end = end - from / word_bits * word_bits;
    return bits_to_end < word_bits ? from_on & ((std::uint64_t{1} << bits_to_end) - 1) : from_on;
  }
  [[nodiscard]] static std::uint64_t next_word(std::uint64_t position) { return (position | (word_bits - 1)) + 1; }

  Memory memory_;
  std::uint32_t count_ = 0;
  Form form_ = Form::few;
};

static_assert(sizeof(ChunkExtents) <= 24, "a chunk's descriptor holds several");

inline std::uint64_t ChunkExtents::size_bytes() const {
  if (form_ != Form::bitmap) return extents_size_bytes(listed());
  std::uint64_t size_bytes = 0;
  for (const auto word : std::span{memory_.bitmap.words, memory_.bitmap.word_count}) {
    size_bytes += static_cast<std::uint64_t>(std::popcount(word));
  }
  return size_bytes;
}

inline ChunkExtents::Shape ChunkExtents::grown(std::size_t chunk_bytes) const {
  const std::size_t list_cells = 2 * (form_ == Form::few ? few_capacity : memory_.list.capacity);
  const std::size_t bitmap_cells = (chunk_bytes + word_bits - 1) / word_bits;
  return list_cells <= bitmap_cells ? Shape{Form::list, list_cells} : Shape{Form::bitmap, bitmap_cells};
}

inline void ChunkExtents::grow(std::size_t chunk_bytes) {
  const Shape shape = grown(chunk_bytes);
  ChunkExtents next;
  if (shape.form == Form::list) {
    next.memory_.list = {new NarrowRange[shape.cells], shape.cells};
    next.form_ = Form::list;
    std::ranges::copy(listed(), next.memory_.list.extents);
    next.count_ = count_;
  } else {
    next.memory_.bitmap = {new std::uint64_t[shape.cells](), shape.cells};
    next.form_ = Form::bitmap;
    for (const NarrowRange extent : listed()) next.change_bits(ByteRange::between(extent.offset(), extent.end()), true);
  }
  swap(next);
}

inline void ChunkExtents::free_heap() noexcept {
  if (form_ == Form::list) delete[] memory_.list.extents;
  if (form_ == Form::bitmap) delete[] memory_.bitmap.words;
}

inline void ChunkExtents::swap(ChunkExtents& other) noexcept {
  std::swap(memory_, other.memory_);
  std::swap(count_, other.count_);
  std::swap(form_, other.form_);
}

inline void ChunkExtents::change(ByteRange range, std::size_t chunk_bytes, bool to) {
  assert(range.end() <= chunk_bytes && chunk_bytes <= std::numeric_limits<std::uint32_t>::max());
  if (range.empty()) return;
  if (form_ != Form::bitmap) {
    const auto splice = to ? splice_to_add(listed(), range) : splice_to_subtract(listed(), range);
    const auto count_after = splice.count_after(count_);
    if (count_after > count_) prepare(chunk_bytes);
    if (form_ != Form::bitmap) {
      splice.apply(form_ == Form::few ? memory_.few.data() : memory_.list.extents, count_);
      count_ = static_cast<std::uint32_t>(count_after);
      return return_to_few();
    }
  }
  change_bits(range, to);
  return_to_few();
}

/// Only from one extent on, not already from few_capacity: a set that goes back and forth there would allocate every
/// time.
inline void ChunkExtents::return_to_few() noexcept {
  if (form_ == Form::few || count_ > 1) return;
  ChunkExtents next;
  if (const auto only = next_in(ByteRange::between(0, form_ == Form::list ? std::numeric_limits<std::uint32_t>::max()
                                                                          : memory_.bitmap.word_count * word_bits))) {
    next.memory_.few[0] = NarrowRange::between(only->offset(), only->end());
    next.count_ = 1;
  }
  swap(next);
}

inline std::optional<ByteRange> ChunkExtents::next_run(ByteRange range, bool of) const {
  const auto offset = find_bit(range.offset(), range.end(), of);
  if (offset == range.end()) return std::nullopt;
  return ByteRange::between(offset, find_bit(offset, range.end(), !of));
}

template <class F>
void ChunkExtents::for_each_run(ByteRange range, bool of, F&& f) const {
  while (const auto run = next_run(range, of)) {
    f(*run);
    range = ByteRange::between(run->end(), range.end());
  }
}

/// Returns: the first position in [from, end) whose bit is `value`, else `end`.
inline std::uint64_t ChunkExtents::find_bit(std::uint64_t from, std::uint64_t end, bool value) const {
  assert(from <= end && end <= memory_.bitmap.word_count * word_bits);
  for (auto at = from; at < end; at = next_word(at)) {
    const auto word = memory_.bitmap.words[at / word_bits];
    const auto rest = (value ? word : ~word) >> at % word_bits;
    if (rest != 0) return std::min(at + static_cast<std::uint64_t>(std::countr_zero(rest)), end);
  }
  return end;
}

/// The extents that begin inside the range: bits that are set after one that is not.
inline std::uint32_t ChunkExtents::count_run_starts(ByteRange range) const {
  int starts = 0;
  for (auto at = range.offset(); at < range.end(); at = next_word(at)) {
    const auto i = at / word_bits;
    const auto word = memory_.bitmap.words[i];
    const auto before = word << 1 | (i == 0 ? 0 : memory_.bitmap.words[i - 1] >> (word_bits - 1));
    starts += std::popcount(word & ~before & mask_in_word(at, range.end()));
  }
  return static_cast<std::uint32_t>(starts);
}

inline void ChunkExtents::change_bits(ByteRange range, bool to) {
  // The byte after the range may begin an extent when this is done, or no longer begin one.
  const auto end = std::min(range.end() + 1, memory_.bitmap.word_count * word_bits);
  const auto touched = ByteRange::between(range.offset(), end);
  count_ -= count_run_starts(touched);
  for (auto at = range.offset(); at < range.end(); at = next_word(at)) {
    const auto mask = mask_in_word(at, range.end());
    auto& word = memory_.bitmap.words[at / word_bits];
    word = to ? word | mask : word & ~mask;
  }
  count_ += count_run_starts(touched);
}

}  // namespace tarn::detail
