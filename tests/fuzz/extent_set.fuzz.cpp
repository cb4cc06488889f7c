// SPDX-License-Identifier: MIT
// Two ExtentSets against a bit for each byte: every change, every question, and each set with the other. The bytes are
// a few about an offset that the input chooses; questions are asked about any range that a file can have.

#include <tarn/extent_set.hpp>

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "fuzz/input.hpp"

namespace {

using tarn::ByteRange;
using tarn::ExtentSet;
using tarn_test::FuzzInput;
using tarn_test::must;

constexpr std::uint64_t bits_count = 64;

// Some ranges, ascending and apart: as many as the bits can make, and one beside them on either side.
class Runs {
 public:
  /// What touches the last one goes on with it.
  void add(std::uint64_t first, std::uint64_t end) {
    if (first >= end) return;
    if (count_ != 0 && runs_[count_ - 1].end() == first) first = runs_[--count_].offset();
    runs_[count_++] = ByteRange::between(first, end);
  }
  [[nodiscard]] const ByteRange* begin() const { return runs_.data(); }
  [[nodiscard]] const ByteRange* end() const { return runs_.data() + count_; }
  [[nodiscard]] std::size_t size() const { return count_; }
  [[nodiscard]] bool empty() const { return count_ == 0; }
  [[nodiscard]] std::optional<ByteRange> first() const { return empty() ? std::nullopt : std::optional{runs_[0]}; }

 private:
  std::array<ByteRange, bits_count / 2 + 2> runs_;
  std::size_t count_ = 0;
};

struct Bits {
  std::uint64_t base;    // the offset of the first
  std::uint64_t in = 0;  // a bit for each byte

  [[nodiscard]] std::uint64_t mask(ByteRange range) const {
    const auto below = [&](std::uint64_t end) {
      const auto count = std::clamp(end, base, base + bits_count) - base;
      return count == bits_count ? ~std::uint64_t{0} : (std::uint64_t{1} << count) - 1;
    };
    return below(range.end()) & ~below(range.offset());
  }
  void set(ByteRange range, bool to) { in = to ? in | mask(range) : in & ~mask(range); }
  /// The runs of bytes of `range` that are in the set, or that are not.
  [[nodiscard]] Runs runs(ByteRange range, bool wanted) const {
    Runs found;
    if (!wanted) found.add(range.offset(), std::min(range.end(), base));
    auto left = (wanted ? in : ~in) & mask(range);
    while (left != 0) {
      const auto first = static_cast<unsigned>(std::countr_zero(left));
      const auto size = static_cast<unsigned>(std::countr_one(left >> first));
      found.add(base + first, base + first + size);
      left = first + size == bits_count ? 0 : left >> (first + size) << (first + size);
    }
    if (!wanted) found.add(std::max(range.offset(), base + bits_count), range.end());
    return found;
  }
};

struct Checked {
  explicit Checked(std::uint64_t base) : bits{.base = base} {}

  ExtentSet set;
  Bits bits;

  void check() const {
    const auto runs = bits.runs(tarn::whole_file, true);
    std::uint64_t size_bytes = 0;
    for (const auto& run : runs) size_bytes += run.size_bytes();
    must(std::ranges::equal(set.extents(), runs), "the extents are the runs of bytes in the set");
    must(set.extent_count() == runs.size() && set.empty() == runs.empty(), "as many extents as runs");
    must(set.size_bytes() == size_bytes, "as many bytes");
    must(runs.size() > 1 || set.memory_bytes() == 0, "one extent takes no heap");
    must(runs.size() <= ExtentSet::inline_capacity || set.memory_bytes() >= runs.size() * sizeof(ByteRange),
         "many extents say what they take");
  }
  void ask(ByteRange range) const {
    const auto parts = bits.runs(range, true), gaps = bits.runs(range, false);
    must(set.contains(range) == gaps.empty(), "contains");
    must(set.intersects(range) == !parts.empty(), "intersects");
    must(set.next_in(range) == parts.first(), "next_in");
    must(set.next_gap_in(range) == gaps.first(), "next_gap_in");
    const auto* next = parts.begin();
    const auto see = [&](const Runs& all, ByteRange run) { must(next != all.end() && *next++ == run, "for each"); };
    set.for_each_in(range, [&](ByteRange run) { see(parts, run); });
    must(next == parts.end(), "for_each_in");
    const auto common = set.intersect(range);
    must(std::ranges::equal(common.extents(), parts), "intersect");
    next = gaps.begin();
    set.for_each_gap_in(range, [&](ByteRange run) { see(gaps, run); });
    must(next == gaps.end(), "for_each_gap_in");
  }
};

class World {
 public:
  explicit World(FuzzInput input) : input_{input} {
    const auto base = std::min(input_.offset(), tarn::max_offset - bits_count);
    sets_.assign(2, Checked{base});
  }

  void run() {
    for (int steps = 0; !input_.empty() && steps < 100; ++steps) {
      step();
      for (const auto& checked : sets_) checked.check();
      must((sets_[0].set == sets_[1].set) == (sets_[0].bits.in == sets_[1].bits.in), "equal sets are equal");
    }
  }

 private:
  void step() {
    const auto what = input_.byte();
    auto& mine = sets_[what & 1u];
    auto& other = sets_[what & 2u ? 0 : 1];  // may be the same
    switch (what >> 2 & 15u) {
      case 0:
      case 1:
      case 2:
        return change(mine, true);
      case 3:
      case 4:
        return change(mine, false);
      case 5:
        mine.bits.in |= other.bits.in;
        return mine.set.add(other.set);
      case 6:
        mine.bits.in &= ~other.bits.in;
        return mine.set.subtract(other.set);
      case 7:
        mine.bits = other.bits;
        mine.set = ExtentSet{other.set};
        return;
      case 8:
        std::swap(mine.bits, other.bits);
        return std::swap(mine.set, other.set);
      case 9: {
        const auto bits = std::exchange(mine.bits.in, 0);  // before: the two may be one
        ExtentSet moved = std::move(mine.set);
        must(mine.set.empty(), "a set that was moved from is empty");
        other.bits.in = bits;
        other.set = std::move(moved);
        return;
      }
      case 10: {
        mine.bits.in = 0;
        const auto range = bytes();
        mine.bits.set(range, true);
        mine.set = ExtentSet{range};
        return;
      }
      case 11: {
        const auto range = bytes();
        mine.bits.in &= mine.bits.mask(range);
        mine.set = mine.set.intersect(range);
        return;
      }
      case 12:
        mine.bits.in = 0;
        return mine.set.clear();
      case 13:
        return mine.ask(bytes());
      default:
        return mine.ask(input_.range());
    }
  }
  void change(Checked& mine, bool adds) {
    const auto range = bytes();
    const bool reserves = range.size_bytes() % 2 == 0;
    if (reserves) mine.set.reserve_for_change();
    const auto reserved_bytes = mine.set.memory_bytes();
    mine.bits.set(range, adds);
    adds ? mine.set.add(range) : mine.set.subtract(range);
    must(!reserves || mine.set.memory_bytes() <= reserved_bytes, "a change that was reserved for takes no memory");
    mine.ask(range);
  }
  [[nodiscard]] ByteRange bytes() {
    const auto base = sets_[0].bits.base;
    const auto first = input_.below(bits_count + 1);
    return ByteRange::between(base + first, base + first + input_.below(bits_count - first + 1));
  }

  FuzzInput input_;
  std::vector<Checked> sets_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size_bytes) {
  World{FuzzInput{bytes, size_bytes}}.run();
  return 0;
}
