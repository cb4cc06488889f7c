// SPDX-License-Identifier: MIT
// Compile: alone
#include <tarn/extent_set.hpp>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <optional>
#include <random>
#include <type_traits>
#include <utility>
#include <vector>

#include "support/catch.hpp"

using tarn::ByteRange;
using tarn::ExtentSet;
using tarn::max_offset;

// Allocation failures on demand, for the calling thread: replaces operator new of this whole program.
namespace {

thread_local long allocations_until_failure = -1;  // negative: none fails

/// While it lives, the `nth` allocation (from 0) and all later ones throw. No Catch2 macro inside: it allocates.
struct FailAllocations {
  explicit FailAllocations(long nth = 0) { allocations_until_failure = nth; }
  ~FailAllocations() { allocations_until_failure = -1; }
  FailAllocations(const FailAllocations&) = delete;
  FailAllocations& operator=(const FailAllocations&) = delete;
};

void* allocate(std::size_t size_bytes) {
  if (allocations_until_failure == 0) throw std::bad_alloc{};
  if (allocations_until_failure > 0) --allocations_until_failure;
  if (void* memory = std::malloc(size_bytes == 0 ? 1 : size_bytes)) return memory;
  throw std::bad_alloc{};
}

}  // namespace

void* operator new(std::size_t size_bytes) { return allocate(size_bytes); }
void* operator new[](std::size_t size_bytes) { return allocate(size_bytes); }
void* operator new(std::size_t size_bytes, const std::nothrow_t&) noexcept { return std::malloc(size_bytes); }
void* operator new[](std::size_t size_bytes, const std::nothrow_t&) noexcept { return std::malloc(size_bytes); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t) noexcept { std::free(memory); }

namespace {

using Pairs = std::vector<std::pair<std::uint64_t, std::uint64_t>>;

ByteRange range_of(std::pair<std::uint64_t, std::uint64_t> pair) { return ByteRange::between(pair.first, pair.second); }

Pairs pairs_of(const ExtentSet& set) {
  Pairs pairs;
  for (const auto extent : set.extents()) pairs.emplace_back(extent.offset(), extent.end());
  return pairs;
}

ExtentSet set_of(const Pairs& pairs) {
  ExtentSet set;
  for (const auto& pair : pairs) set.add(range_of(pair));
  return set;
}

/// Whether `change` throws bad_alloc with every allocation failing.
template <class F>
bool fails_without_memory(F&& change) {
  const FailAllocations none_left;
  try {
    change();
    return false;
  } catch (const std::bad_alloc&) {
    return true;
  }
}

struct ChangeCase {
  const char* what;
  Pairs before;
  std::pair<std::uint64_t, std::uint64_t> range;
  Pairs after;
};

}  // namespace

static_assert(std::is_nothrow_move_constructible_v<ExtentSet> && std::is_nothrow_move_assignable_v<ExtentSet>);

TEST_CASE("adding merges what overlaps or touches and nothing else", "[extent_set]") {
  const auto row = GENERATE(values<ChangeCase>({
      {"the first", {}, {5, 9}, {{5, 9}}},
      {"an empty range", {{5, 9}}, {20, 20}, {{5, 9}}},
      {"an empty range that touches", {{5, 9}}, {9, 9}, {{5, 9}}},
      {"inside", {{5, 9}}, {6, 8}, {{5, 9}}},
      {"the same", {{5, 9}}, {5, 9}, {{5, 9}}},
      {"one byte apart below", {{5, 9}}, {2, 4}, {{2, 4}, {5, 9}}},
      {"touching below", {{5, 9}}, {2, 5}, {{2, 9}}},
      {"overlapping below", {{5, 9}}, {2, 6}, {{2, 9}}},
      {"one byte apart above", {{5, 9}}, {10, 12}, {{5, 9}, {10, 12}}},
      {"touching above", {{5, 9}}, {9, 12}, {{5, 12}}},
      {"overlapping above", {{5, 9}}, {8, 12}, {{5, 12}}},
      {"over it", {{5, 9}}, {4, 10}, {{4, 10}}},
      {"the gap between two", {{1, 3}, {5, 9}}, {3, 5}, {{1, 9}}},
      {"part of the gap", {{1, 3}, {6, 9}}, {4, 5}, {{1, 3}, {4, 5}, {6, 9}}},
      {"over many", {{1, 2}, {4, 5}, {7, 8}, {10, 11}}, {4, 9}, {{1, 2}, {4, 9}, {10, 11}}},
      {"touching the two around many", {{1, 2}, {4, 5}, {7, 8}, {10, 11}}, {2, 10}, {{1, 11}}},
      {"the first byte", {{1, 2}, {4, 5}, {7, 8}}, {0, 1}, {{0, 2}, {4, 5}, {7, 8}}},
      {"the last byte", {{5, 9}}, {max_offset - 1, max_offset}, {{5, 9}, {max_offset - 1, max_offset}}},
      {"touching the last byte",
       {{max_offset - 1, max_offset}},
       {max_offset - 3, max_offset - 1},
       {{max_offset - 3, max_offset}}},
      {"everything", {{0, 1}, {5, 9}, {20, 22}}, {0, max_offset}, {{0, max_offset}}},
  }));
  CAPTURE(row.what);
  auto set = set_of(row.before);
  set.add(range_of(row.range));
  CHECK(pairs_of(set) == row.after);
}

TEST_CASE("subtracting takes exactly the range, and splits what reaches past it on both sides", "[extent_set]") {
  const auto row = GENERATE(values<ChangeCase>({
      {"from nothing", {}, {5, 9}, {}},
      {"an empty range inside", {{5, 9}}, {7, 7}, {{5, 9}}},
      {"touching below", {{5, 9}}, {2, 5}, {{5, 9}}},
      {"touching above", {{5, 9}}, {9, 12}, {{5, 9}}},
      {"the first byte of it", {{5, 9}}, {5, 6}, {{6, 9}}},
      {"the last byte of it", {{5, 9}}, {8, 9}, {{5, 8}}},
      {"a byte inside", {{5, 9}}, {6, 7}, {{5, 6}, {7, 9}}},
      {"all of it", {{5, 9}}, {5, 9}, {}},
      {"more than it", {{5, 9}}, {4, 10}, {}},
      {"the gap between two", {{1, 3}, {5, 9}}, {3, 5}, {{1, 3}, {5, 9}}},
      {"the ends of two", {{1, 3}, {5, 9}}, {2, 6}, {{1, 2}, {6, 9}}},
      {"over many", {{1, 2}, {4, 6}, {7, 8}, {10, 12}}, {5, 11}, {{1, 2}, {4, 5}, {11, 12}}},
      {"at the largest offset", {{0, max_offset}}, {max_offset - 1, max_offset}, {{0, max_offset - 1}}},
      {"at 0", {{0, max_offset}}, {0, 1}, {{1, max_offset}}},
      {"everything", {{0, 1}, {5, 9}, {max_offset - 1, max_offset}}, {0, max_offset}, {}},
  }));
  CAPTURE(row.what);
  auto set = set_of(row.before);
  set.subtract(range_of(row.range));
  CHECK(pairs_of(set) == row.after);
}

TEST_CASE("an empty range is contained everywhere and intersects nothing", "[extent_set]") {
  const auto set =
      GENERATE(ExtentSet{}, ExtentSet{ByteRange::between(5, 9)}, set_of({{0, 1}, {5, 9}, {12, max_offset}}));
  for (const std::uint64_t position :
       {std::uint64_t{0}, std::uint64_t{5}, std::uint64_t{7}, std::uint64_t{9}, max_offset}) {
    CAPTURE(position);
    const auto nothing = ByteRange::between(position, position);
    CHECK(set.contains(nothing));
    CHECK_FALSE(set.intersects(nothing));
    CHECK_FALSE(set.next_in(nothing).has_value());
    CHECK_FALSE(set.next_gap_in(nothing).has_value());
    CHECK(set.intersect(nothing).empty());
    int calls = 0;
    set.for_each_in(nothing, [&](ByteRange) { ++calls; });
    set.for_each_gap_in(nothing, [&](ByteRange) { ++calls; });
    CHECK(calls == 0);
  }
}

TEST_CASE("a set of everything ends at the largest offset and has no gap", "[extent_set]") {
  const auto everything = ByteRange::between(0, max_offset);
  ExtentSet set{everything};
  CHECK(set.size_bytes() == max_offset);
  CHECK(set.contains(everything));
  CHECK_FALSE(set.next_gap_in(everything).has_value());

  set.subtract(ByteRange::between(max_offset - 1, max_offset));
  CHECK(set.next_gap_in(everything) == ByteRange::between(max_offset - 1, max_offset));
}

TEST_CASE("up to two extents take no heap memory, and it goes back when one is left", "[extent_set]") {
  auto set = set_of({{0, 1}, {2, 3}});
  CHECK(set.memory_bytes() == 0);
  set.add(ByteRange::between(4, 5));
  CHECK(set.memory_bytes() >= 3 * sizeof(ByteRange));
  CHECK(ExtentSet{set}.memory_bytes() == 3 * sizeof(ByteRange));
  set.add(ByteRange::between(1, 2));
  CHECK(ExtentSet{set}.memory_bytes() == 0);
  set.add(ByteRange::between(3, 4));
  CHECK(pairs_of(set) == Pairs{{0, 5}});
  CHECK(set.memory_bytes() == 0);

  set = set_of({{0, 1}, {2, 3}, {4, 5}});
  set.clear();
  CHECK(set.empty());
  CHECK(set.memory_bytes() == 0);
}

TEST_CASE("a copy is a set of its own, and a moved-from set is empty", "[extent_set]") {
  const auto pairs = GENERATE(values<Pairs>({{}, {{1, 2}}, {{1, 2}, {3, 4}}, {{1, 2}, {3, 4}, {5, 6}, {7, 8}}}));
  const auto original = set_of(pairs);

  auto copy = original;
  CHECK(copy == original);
  copy.add(ByteRange::between(100, 101));
  CHECK(copy != original);
  CHECK(pairs_of(original) == pairs);

  auto moved = std::move(copy);
  CHECK(copy.empty());  // NOLINT(bugprone-use-after-move): promised
  CHECK(copy == ExtentSet{});
  copy.add(ByteRange::between(7, 9));
  CHECK(pairs_of(copy) == Pairs{{7, 9}});
  CHECK(moved.extent_count() == pairs.size() + 1);

  moved = original;
  CHECK(moved == original);
  const auto& itself = moved;
  moved = itself;
  CHECK(moved == original);
  moved.add(itself);
  CHECK(moved == original);
  moved.subtract(itself);
  CHECK(moved.empty());
}

TEST_CASE("a change that finds no memory changes nothing, and none needs any after reserve_for_change",
          "[extent_set]") {
  bool refused = false;
  for (std::uint64_t count = 0; count < 40; ++count) {
    CAPTURE(count);
    ExtentSet set;
    for (std::uint64_t i = 0; i < count; ++i) set.add(ByteRange::between(10 * i, 10 * i + 5));
    const auto before = pairs_of(set);
    const auto full = set.extent_count() == std::max<std::size_t>(set.memory_bytes() / sizeof(ByteRange), 2);

    const auto isolated = ByteRange::between(10 * count + 7, 10 * count + 8);
    CHECK(fails_without_memory([&] { set.add(isolated); }) == full);
    if (!full) set.subtract(isolated);
    CHECK(pairs_of(set) == before);
    if (count > 0) {
      CHECK(fails_without_memory([&] { set.subtract(ByteRange::between(2, 3)); }) == full);
      if (!full) set.add(ByteRange::between(2, 3));
      CHECK(pairs_of(set) == before);
    }
    CHECK(fails_without_memory([&] { set.reserve_for_change(); }) == full);
    CHECK(pairs_of(set) == before);
    refused |= full;

    set.reserve_for_change();
    CHECK(pairs_of(set) == before);
    CHECK_FALSE(fails_without_memory([&] { set.reserve_for_change(); }));
    CHECK_FALSE(fails_without_memory([&] { set.add(isolated); }));
    CHECK(set.extent_count() == count + 1);
    if (count > 0) {
      set.reserve_for_change();
      CHECK_FALSE(fails_without_memory([&] { set.subtract(ByteRange::between(2, 3)); }));
      CHECK(set.extent_count() == count + 2);
    }
  }
  CHECK(refused);
}

TEST_CASE("a set added, subtracted or assigned without memory for it changes nothing", "[extent_set]") {
  const auto many = set_of({{1, 2}, {3, 4}, {5, 6}, {7, 8}, {9, 10}, {11, 12}});
  const auto holes = set_of({{20, 21}, {23, 24}, {25, 26}});
  for (const auto& before : {set_of({{0, 50}}), set_of({{0, 1}, {30, 50}, {60, 61}})}) {
    CAPTURE(pairs_of(before));
    // Each allocation on the way fails once, until there are enough.
    const auto always_whole = [&](auto change, const ExtentSet& after) {
      int failures = 0;
      for (long nth = 0;; ++nth) {
        auto set = before;
        bool failed = false;
        {
          const FailAllocations from{nth};
          try {
            change(set);
          } catch (const std::bad_alloc&) {
            failed = true;
          }
        }
        CHECK(set == (failed ? before : after));
        if (!failed) return failures;
        ++failures;
      }
    };
    auto less = before;
    for (const auto extent : many.extents()) less.subtract(extent);
    for (const auto extent : holes.extents()) less.subtract(extent);
    auto all = many;
    all.add(holes);
    CHECK(always_whole([&](ExtentSet& set) { set.subtract(all); }, less) == (before.extent_count() == 1 ? 3 : 1));

    auto more = before;
    for (const auto extent : many.extents()) more.add(extent);
    CHECK(always_whole([&](ExtentSet& set) { set.add(many); }, more) == (before.extent_count() == 1 ? 0 : 2));

    CHECK(always_whole([&](ExtentSet& set) { set = many; }, many) == 1);
  }
}

TEST_CASE("every history leaves the bytes that a plain table of bytes has", "[extent_set]") {
  constexpr std::uint64_t span_bytes = 150;
  const std::uint64_t base = GENERATE(std::uint64_t{0}, std::uint64_t{1} << 40, max_offset - span_bytes);
  const auto seed = GENERATE(1u, 2u, 3u);
  CAPTURE(base, seed);
  std::mt19937 random{seed};
  const auto below = [&](std::uint64_t end) {
    return std::uniform_int_distribution<std::uint64_t>{0, end - 1}(random);
  };

  using Model = std::vector<bool>;
  const auto pick = [&](std::uint64_t longest) {
    const auto first = below(span_bytes + 1);
    return ByteRange::between(base + first, base + std::min(span_bytes, first + below(longest + 1)));
  };
  const auto put = [&](Model& model, ByteRange range, bool to) {
    for (auto at = range.offset(); at < range.end(); ++at) model[at - base] = to;
  };
  // The runs of `of` inside the range.
  const auto runs = [&](const Model& model, ByteRange range, bool of) {
    Pairs found;
    for (auto at = range.offset(); at < range.end(); ++at) {
      if (model[at - base] != of) continue;
      if (!found.empty() && found.back().second == at) {
        ++found.back().second;
      } else {
        found.emplace_back(at, at + 1);
      }
    }
    return found;
  };
  const auto first_of = [](const Pairs& pairs) {
    return pairs.empty() ? std::nullopt : std::optional{range_of(pairs.front())};
  };

  ExtentSet set;
  ExtentSet other;
  Model model(span_bytes);
  Model other_model(span_bytes);
  const auto whole = ByteRange::between(base, base + span_bytes);
  std::size_t most_extents = 0;

  for (int step = 0; step < 4000; ++step) {
    CAPTURE(step, pairs_of(set));
    const std::uint64_t longest = step / 200 % 2 == 0 ? 3 : 40;  // by turns many small extents, and few large ones
    const auto range = pick(longest);
    CAPTURE(range.offset(), range.end());
    switch (below(16)) {
      case 0:
        if (step % 50 == 0) {
          set.clear();
          model.assign(span_bytes, false);
        }
        break;
      case 1:
        set.add(other);
        for (std::size_t i = 0; i < span_bytes; ++i) model[i] = model[i] || other_model[i];
        break;
      case 2:
        set.subtract(other);
        for (std::size_t i = 0; i < span_bytes; ++i) model[i] = model[i] && !other_model[i];
        break;
      case 3:
        std::swap(set, other);
        std::swap(model, other_model);
        break;
      case 4:
        set.reserve_for_change();
        break;
      case 5:
      case 6:
      case 7:
      case 8:
      case 9:
        set.subtract(range);
        put(model, range, false);
        break;
      default:
        set.add(range);
        put(model, range, true);
    }
    most_extents = std::max(most_extents, set.extent_count());
    const auto expected = runs(model, whole, true);
    REQUIRE(pairs_of(set) == expected);
    REQUIRE(set.size_bytes() == static_cast<std::uint64_t>(std::count(model.begin(), model.end(), true)));
    REQUIRE(set.empty() == expected.empty());
    REQUIRE((set == other) == (model == other_model));

    const auto asked = pick(40);
    CAPTURE(asked.offset(), asked.end());
    const auto parts = runs(model, asked, true);
    const auto gaps = runs(model, asked, false);
    REQUIRE(set.contains(asked) == gaps.empty());
    REQUIRE(set.intersects(asked) == !parts.empty());
    REQUIRE(set.next_in(asked) == first_of(parts));
    REQUIRE(set.next_gap_in(asked) == first_of(gaps));
    REQUIRE(pairs_of(set.intersect(asked)) == parts);
    Pairs seen;
    const auto note = [&](ByteRange part) { seen.emplace_back(part.offset(), part.end()); };
    set.for_each_in(asked, note);
    REQUIRE(seen == parts);
    seen.clear();
    set.for_each_gap_in(asked, note);
    REQUIRE(seen == gaps);
  }
  CHECK(most_extents > 20);
}
