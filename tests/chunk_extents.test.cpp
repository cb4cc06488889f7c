// SPDX-License-Identifier: MIT
// Compile: alone
#include <tarn/detail/chunk_extents.hpp>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <optional>
#include <random>
#include <set>
#include <type_traits>
#include <utility>
#include <vector>

#include "support/catch.hpp"

using tarn::ByteRange;
using tarn::detail::ChunkExtents;
using Form = ChunkExtents::Form;

// Allocation failures on demand, for the calling thread, and a count of the bytes that are allocated: replaces operator
// new of this whole program.
namespace {

thread_local bool allocations_fail = false;
thread_local std::size_t allocated_bytes = 0;

void* allocate(std::size_t size_bytes) {
  if (allocations_fail) throw std::bad_alloc{};
  allocated_bytes += size_bytes;
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

ByteRange byte_at(std::uint64_t position) { return ByteRange::between(position, position + 1); }

Pairs pairs_of(const ChunkExtents& set, std::uint64_t chunk_bytes) {
  Pairs pairs;
  set.for_each_in(ByteRange::between(0, chunk_bytes),
                  [&](ByteRange part) { pairs.emplace_back(part.offset(), part.end()); });
  return pairs;
}

/// Every second byte, from byte 0: the most extents that a chunk can have, if `count` allows.
ChunkExtents comb(std::size_t chunk_bytes, std::size_t count = SIZE_MAX) {
  ChunkExtents set;
  for (std::size_t i = 0; i < count && 2 * i < chunk_bytes; ++i) set.add(byte_at(2 * i), chunk_bytes);
  return set;
}

/// Whether `change` throws bad_alloc with every allocation failing. No Catch2 macro in `change`: it allocates.
template <class F>
bool fails_without_memory(F&& change) {
  allocations_fail = true;
  bool failed = false;
  try {
    change();
  } catch (const std::bad_alloc&) {
    failed = true;
  }
  allocations_fail = false;
  return failed;
}

/// Where the sets have a bitmap, whatever the order of changes: what a bitmap of the chunk takes, in whole words.
std::size_t bitmap_bytes(std::size_t chunk_bytes) { return (chunk_bytes + 63) / 64 * 8; }

struct ChangeCase {
  const char* what;
  bool add;
  Pairs before;
  std::pair<std::uint64_t, std::uint64_t> range;
  Pairs after;
};

constexpr std::uint64_t C = 192;  // three words: each row below also runs as a list and as a bitmap

}  // namespace

static_assert(sizeof(ChunkExtents) <= 24);
static_assert(std::is_nothrow_move_constructible_v<ChunkExtents> && std::is_nothrow_move_assignable_v<ChunkExtents>);

TEST_CASE("a change is exact at every border, in every form", "[chunk_extents]") {
  const auto row = GENERATE(values<ChangeCase>({
      {"the first", true, {}, {5, 9}, {{5, 9}}},
      {"an empty range", true, {{5, 9}}, {20, 20}, {{5, 9}}},
      {"one byte apart below", true, {{5, 9}}, {2, 4}, {{2, 4}, {5, 9}}},
      {"touching below", true, {{5, 9}}, {2, 5}, {{2, 9}}},
      {"overlapping above", true, {{5, 9}}, {8, 12}, {{5, 12}}},
      {"touching above", true, {{5, 9}}, {9, 12}, {{5, 12}}},
      {"one byte apart above", true, {{5, 9}}, {10, 12}, {{5, 9}, {10, 12}}},
      {"inside", true, {{5, 9}}, {6, 8}, {{5, 9}}},
      {"over it", true, {{5, 9}}, {4, 10}, {{4, 10}}},
      {"the gap between two", true, {{1, 3}, {5, 9}}, {3, 5}, {{1, 9}}},
      {"the gap across a word's border", true, {{1, 60}, {70, 80}}, {60, 70}, {{1, 80}}},
      {"touching at a word's border", true, {{60, 64}}, {64, 66}, {{60, 66}}},
      {"exactly a word", true, {}, {64, 128}, {{64, 128}}},
      {"the first byte", true, {{1, 2}}, {0, 1}, {{0, 2}}},
      {"the last byte", true, {{5, 9}}, {C - 1, C}, {{5, 9}, {C - 1, C}}},
      {"touching the last byte", true, {{C - 1, C}}, {C - 3, C - 1}, {{C - 3, C}}},
      {"everything", true, {{5, 9}, {C - 1, C}}, {0, C}, {{0, C}}},
      {"everything but a byte", true, {{5, 9}}, {1, C}, {{1, C}}},
      {"from nothing", false, {}, {5, 9}, {}},
      {"an empty range inside", false, {{5, 9}}, {7, 7}, {{5, 9}}},
      {"touching below", false, {{5, 9}}, {2, 5}, {{5, 9}}},
      {"touching above", false, {{5, 9}}, {9, 12}, {{5, 9}}},
      {"a byte inside", false, {{5, 9}}, {6, 7}, {{5, 6}, {7, 9}}},
      {"the ends of two", false, {{1, 3}, {5, 9}}, {2, 6}, {{1, 2}, {6, 9}}},
      {"at a word's border", false, {{60, 70}}, {64, 65}, {{60, 64}, {65, 70}}},
      {"up to a word's border", false, {{60, 70}}, {62, 64}, {{60, 62}, {64, 70}}},
      {"the first byte of all", false, {{0, C}}, {0, 1}, {{1, C}}},
      {"the last byte of all", false, {{0, C}}, {C - 1, C}, {{0, C - 1}}},
      {"everything", false, {{0, 1}, {5, 9}, {C - 1, C}}, {0, C}, {}},
  }));
  // With `combs` extents of one byte put around the case's own bytes [0, C), the set is a list or a bitmap.
  const auto combs = GENERATE(std::size_t{0}, std::size_t{5}, std::size_t{200});
  const auto lead = GENERATE(std::size_t{0}, std::size_t{1});  // in words before the case's own bytes
  const auto base = lead * 64;
  const auto chunk_bytes = base + C + (combs == 0 ? 0 : 2 * 200);
  CAPTURE(row.what, row.add, combs, base);

  const auto moved = [&](std::pair<std::uint64_t, std::uint64_t> pair) {
    return ByteRange::between(base + pair.first, base + pair.second);
  };
  ChunkExtents set;
  Pairs expected;
  for (const auto& pair : row.after) expected.emplace_back(base + pair.first, base + pair.second);
  for (std::size_t i = 0; i < combs; ++i) {
    const auto tooth = byte_at(base + C + 1 + 2 * i);
    set.add(tooth, chunk_bytes);
    expected.emplace_back(tooth.offset(), tooth.end());
  }
  for (const auto& pair : row.before) set.add(moved(pair), chunk_bytes);
  if (combs == 5) REQUIRE(set.form() == Form::list);
  if (combs == 200) REQUIRE(set.form() == Form::bitmap);

  row.add ? set.add(moved(row.range), chunk_bytes) : set.subtract(moved(row.range), chunk_bytes);
  CHECK(pairs_of(set, chunk_bytes) == expected);
  CHECK(set.extent_count() == expected.size());
}

TEST_CASE("a whole chunk is one extent without memory, whatever it was before", "[chunk_extents]") {
  const auto chunk_bytes = GENERATE(std::size_t{1}, std::size_t{2}, std::size_t{16}, std::size_t{100},
                                    std::size_t{4096}, std::size_t{65536});
  const auto combs = GENERATE(std::size_t{0}, std::size_t{1}, std::size_t{2}, std::size_t{5}, std::size_t{100000});
  CAPTURE(chunk_bytes, combs);
  const auto whole = ByteRange::between(0, chunk_bytes);
  auto set = comb(chunk_bytes, combs);
  CHECK(set.contains(whole) == (chunk_bytes == 1 && combs > 0));
  set.add(whole, chunk_bytes);
  CHECK(set.contains(whole));
  CHECK(set.contains(byte_at(0)));
  CHECK(set.contains(byte_at(chunk_bytes - 1)));
  CHECK(set.contains(ByteRange::between(chunk_bytes, chunk_bytes)));
  CHECK_FALSE(set.next_gap_in(whole).has_value());
  CHECK(set.extent_count() == 1);
  CHECK(set.size_bytes() == chunk_bytes);
  CHECK(set.form() == Form::few);
  CHECK(set.memory_bytes() == 0);
}

TEST_CASE("one extent contains its bytes and not the one before or after", "[chunk_extents]") {
  constexpr std::size_t chunk_bytes = 16;
  ChunkExtents set;
  set.add(ByteRange::between(4, 8), chunk_bytes);
  for (std::uint64_t offset = 0; offset <= chunk_bytes; ++offset) {
    for (std::uint64_t end = offset; end <= chunk_bytes; ++end) {
      CAPTURE(offset, end);
      CHECK(set.contains(ByteRange::between(offset, end)) == (offset == end || (4 <= offset && end <= 8)));
      CHECK(set.intersects(ByteRange::between(offset, end)) == (offset != end && offset < 8 && 4 < end));
    }
  }
}

TEST_CASE("positions reach to the largest that 32 bits hold", "[chunk_extents]") {
  constexpr std::size_t chunk_bytes = UINT32_MAX;
  const auto whole = ByteRange::between(0, chunk_bytes);
  ChunkExtents set;
  set.add(whole, chunk_bytes);
  CHECK(set.contains(whole));
  CHECK(set.size_bytes() == chunk_bytes);
  set.subtract(byte_at(chunk_bytes - 1), chunk_bytes);
  CHECK(set.next_gap_in(whole) == byte_at(chunk_bytes - 1));
  set.subtract(ByteRange::between(10, 11), chunk_bytes);
  set.subtract(ByteRange::between(20, 21), chunk_bytes);
  set.add(byte_at(chunk_bytes - 1), chunk_bytes);
  CHECK(set.form() == Form::list);
  CHECK(pairs_of(set, chunk_bytes) == Pairs{{0, 10}, {11, 20}, {21, chunk_bytes}});
  set.subtract(ByteRange::between(0, chunk_bytes - 1), chunk_bytes);
  CHECK(set.form() == Form::few);
  CHECK(pairs_of(set, chunk_bytes) == Pairs{{chunk_bytes - 1, chunk_bytes}});
}

TEST_CASE("memory is bounded by a bit for every byte of the chunk, and comes back", "[chunk_extents]") {
  const auto chunk_bytes = GENERATE(std::size_t{1}, std::size_t{2}, std::size_t{4}, std::size_t{16}, std::size_t{100},
                                    std::size_t{256}, std::size_t{4096}, std::size_t{65536});
  CAPTURE(chunk_bytes);
  ChunkExtents set;
  std::size_t most_bytes = 0;
  for (std::size_t at = 0; at < chunk_bytes; at += 2) {
    set.add(byte_at(at), chunk_bytes);
    most_bytes = std::max(most_bytes, set.memory_bytes());
  }
  CHECK(set.extent_count() == (chunk_bytes + 1) / 2);
  CHECK(set.size_bytes() == (chunk_bytes + 1) / 2);
  CHECK(most_bytes == (chunk_bytes <= 4 ? 0 : bitmap_bytes(chunk_bytes)));
  CHECK((set.form() == Form::bitmap) == (chunk_bytes > 4));

  auto fewer = comb(chunk_bytes);
  fewer.subtract(ByteRange::between(1, chunk_bytes), chunk_bytes);
  CHECK(pairs_of(fewer, chunk_bytes) == Pairs{{0, 1}});
  CHECK(fewer.memory_bytes() == 0);

  set.clear();
  CHECK(set.empty());
  CHECK(set.memory_bytes() == 0);
  CHECK_FALSE(set.intersects(ByteRange::between(0, chunk_bytes)));
}

TEST_CASE("moving takes the extents along and leaves nothing", "[chunk_extents]") {
  constexpr std::size_t chunk_bytes = 4096;
  const auto count = GENERATE(std::size_t{0}, std::size_t{1}, std::size_t{2}, std::size_t{9}, std::size_t{2000});
  CAPTURE(count);
  auto from = comb(chunk_bytes, count);
  const auto pairs = pairs_of(from, chunk_bytes);
  ChunkExtents to = std::move(from);
  CHECK(from.empty());  // NOLINT(bugprone-use-after-move): promised
  CHECK(from.memory_bytes() == 0);
  CHECK(pairs_of(to, chunk_bytes) == pairs);
  auto over = comb(chunk_bytes, 30);
  over = std::move(to);
  CHECK(to.empty());  // NOLINT(bugprone-use-after-move): promised
  CHECK(pairs_of(over, chunk_bytes) == pairs);
  auto& itself = over;
  over = std::move(itself);
  CHECK(pairs_of(over, chunk_bytes) == pairs);
}

TEST_CASE("a change that finds no memory changes nothing, and none needs any after prepare", "[chunk_extents]") {
  const auto chunk_bytes = GENERATE(std::size_t{16}, std::size_t{256}, std::size_t{4096});
  std::set<Form> refused;
  std::set<Form> prepared;
  for (std::size_t count = 0; 2 * count + 5 <= chunk_bytes; ++count) {
    CAPTURE(chunk_bytes, count);
    // A block of three bytes to split, then a comb with the place after its last tooth free.
    ChunkExtents set;
    set.add(ByteRange::between(0, 3), chunk_bytes);
    for (std::size_t i = 0; i < count; ++i) set.add(byte_at(4 + 2 * i), chunk_bytes);
    const auto isolated = byte_at(4 + 2 * count);
    const auto middle = byte_at(1);
    const auto before = pairs_of(set, chunk_bytes);
    const auto held_bytes = set.memory_bytes();
    const auto form = set.form();

    const auto full = fails_without_memory([&] { set.prepare(chunk_bytes); });
    CHECK(fails_without_memory([&] { set.add(isolated, chunk_bytes); }) == full);
    if (!full) set.subtract(isolated, chunk_bytes);
    CHECK(fails_without_memory([&] { set.subtract(middle, chunk_bytes); }) == full);
    if (!full) set.add(middle, chunk_bytes);
    CHECK(pairs_of(set, chunk_bytes) == before);
    CHECK(set.form() == form);
    if (full) refused.insert(form);

    const auto more_bytes = set.bytes_to_prepare(chunk_bytes);
    const auto allocated_before = allocated_bytes;
    set.prepare(chunk_bytes);
    const auto allocated = allocated_bytes - allocated_before;
    CHECK(set.memory_bytes() == held_bytes + more_bytes);
    CHECK(allocated == (full ? set.memory_bytes() : 0));
    CHECK(set.bytes_to_prepare(chunk_bytes) == 0);
    CHECK(pairs_of(set, chunk_bytes) == before);
    if (full) prepared.insert(set.form());

    CHECK_FALSE(fails_without_memory([&] { set.add(isolated, chunk_bytes); }));
    set.prepare(chunk_bytes);
    CHECK_FALSE(fails_without_memory([&] { set.subtract(middle, chunk_bytes); }));
    CHECK(set.extent_count() == before.size() + 2);
    CHECK(set.memory_bytes() <= bitmap_bytes(chunk_bytes));
  }
  // A chunk of 16 bytes goes from two extents straight to a bitmap, which never needs memory again.
  CHECK(refused == (chunk_bytes == 16 ? std::set{Form::few} : std::set{Form::few, Form::list}));
  CHECK(prepared == (chunk_bytes == 16 ? std::set{Form::bitmap} : std::set{Form::list, Form::bitmap}));
}

TEST_CASE("every history leaves the bytes that a plain table of bytes has, in every form", "[chunk_extents]") {
  const auto chunk_bytes = GENERATE(std::size_t{1}, std::size_t{2}, std::size_t{16}, std::size_t{100},
                                    std::size_t{4096}, std::size_t{65536});
  const auto seed = GENERATE(1u, 2u, 3u);
  CAPTURE(chunk_bytes, seed);
  std::mt19937 random{seed};
  const auto below = [&](std::uint64_t end) {
    return std::uniform_int_distribution<std::uint64_t>{0, end - 1}(random);
  };
  const auto pick = [&](std::uint64_t longest) {
    const auto first = below(8) == 0 ? (below(2) == 0 ? 0 : chunk_bytes) : below(chunk_bytes + 1);
    const auto size_bytes = below(longest + 1);
    if (first == chunk_bytes) return ByteRange::between(chunk_bytes - std::min(chunk_bytes, size_bytes), chunk_bytes);
    return ByteRange::between(first, std::min<std::uint64_t>(chunk_bytes, first + size_bytes));
  };

  std::vector<unsigned char> model(chunk_bytes);
  // The runs of `of` inside the range.
  const auto runs = [&](ByteRange range, bool of) {
    Pairs found;
    for (auto at = range.offset(); at < range.end(); ++at) {
      if ((model[at] != 0) != of) continue;
      const auto start = at;
      while (at < range.end() && (model[at] != 0) == of) ++at;
      found.emplace_back(start, at);
    }
    return found;
  };
  const auto first_of = [](const Pairs& pairs) {
    return pairs.empty() ? std::nullopt : std::optional{range_of(pairs.front())};
  };

  ChunkExtents set;
  const auto whole = ByteRange::between(0, chunk_bytes);
  std::set<Form> reached;
  std::set<std::pair<Form, Form>> steps;
  // By turns: many small extents come, many small ones go, large ones come and go.
  const auto turn_steps = chunk_bytes / 24 + 60;
  for (std::size_t step = 0; step < 9 * turn_steps; ++step) {
    const auto turn = step / turn_steps % 3;
    const auto range = pick(turn < 2 ? 2 : 1 + chunk_bytes / 3);
    const auto asked = pick(below(8) == 0 ? chunk_bytes : 100);
    const bool add = turn == 0 ? below(10) != 0 : turn == 1 ? below(10) == 0 : below(3) == 0;
    const auto form = set.form();
    const bool prepare = below(2) == 0;
    const bool starve = !prepare && below(2) == 0;

    // Half of the changes are prepared and may then not fail; of the others some find no memory, and are tried again.
    bool failed_though_prepared = false;
    bool changed_though_failed = false;
    const auto change = [&] { add ? set.add(range, chunk_bytes) : set.subtract(range, chunk_bytes); };
    if (prepare) {
      set.prepare(chunk_bytes);
      failed_though_prepared = fails_without_memory(change);
    } else if (starve && fails_without_memory(change)) {
      changed_though_failed = set.form() != form || pairs_of(set, chunk_bytes) != runs(whole, true);
      change();
    } else if (!starve) {
      change();
    }
    std::fill(model.begin() + static_cast<std::ptrdiff_t>(range.offset()),
              model.begin() + static_cast<std::ptrdiff_t>(range.end()), static_cast<unsigned char>(add));
    reached.insert(set.form());
    steps.emplace(form, set.form());
    if (step % (5 * turn_steps + 17) == 0) {
      set.clear();
      std::fill(model.begin(), model.end(), static_cast<unsigned char>(0));
    }

    CAPTURE(step, add, range.offset(), range.end(), asked.offset(), asked.end(), static_cast<int>(set.form()));
    REQUIRE_FALSE(failed_though_prepared);
    REQUIRE_FALSE(changed_though_failed);
    REQUIRE(set.memory_bytes() <= bitmap_bytes(chunk_bytes));
    REQUIRE((set.form() == Form::few) == (set.memory_bytes() == 0));
    if (chunk_bytes <= 4096 || step % 64 == 0) {
      const auto expected = runs(whole, true);
      REQUIRE((pairs_of(set, chunk_bytes) == expected));
      REQUIRE(set.extent_count() == expected.size());
      REQUIRE(set.empty() == expected.empty());
      REQUIRE(set.size_bytes() == static_cast<std::uint64_t>(std::count(model.begin(), model.end(), 1)));
    }

    const auto parts = runs(asked, true);
    const auto gaps = runs(asked, false);
    REQUIRE(set.contains(asked) == gaps.empty());
    REQUIRE(set.intersects(asked) == !parts.empty());
    REQUIRE(set.next_in(asked) == first_of(parts));
    REQUIRE(set.next_gap_in(asked) == first_of(gaps));
    Pairs seen;
    const auto note = [&](ByteRange part) { seen.emplace_back(part.offset(), part.end()); };
    set.for_each_in(asked, note);
    REQUIRE((seen == parts));
    seen.clear();
    set.for_each_gap_in(asked, note);
    REQUIRE((seen == gaps));
  }
  const auto forms = chunk_bytes <= 4    ? std::set{Form::few}
                     : chunk_bytes < 256 ? std::set{Form::few, Form::bitmap}
                                         : std::set{Form::few, Form::list, Form::bitmap};
  CHECK(reached == forms);
  if (chunk_bytes >= 16) CHECK(steps.contains({Form::bitmap, Form::few}));
  if (chunk_bytes >= 256) CHECK(steps.contains({Form::list, Form::bitmap}));
}
