// SPDX-License-Identifier: MIT
#include <tarn/read_ahead.hpp>

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "support/catch.hpp"
#include "support/one_file.hpp"

using namespace tarn_test;

namespace {

constexpr auto last = tarn::max_offset;

/// A read, and what is to be loaded ahead after it; [0, 0): nothing.
struct Step {
  Extent read, ahead;
};
struct Reader {
  std::string name;
  tarn::ReadAheadOptions options;
  std::vector<Step> steps;
};

const std::vector<Reader> readers{
    {"from the start, the window doubles past its middle, up to the most",
     {.min_bytes = 4, .max_bytes = 16},
     {{{0, 2}, {2, 6}},  // of 4
      {{2, 3}, {0, 0}},
      {{3, 4}, {6, 12}},  // of 8
      {{4, 7}, {0, 0}},
      {{7, 8}, {12, 24}},  // of 16
      {{8, 15}, {0, 0}},
      {{15, 16}, {24, 32}},
      {{16, 23}, {0, 0}},
      {{23, 24}, {32, 40}}}},
    {"elsewhere, from the second read on",
     {.min_bytes = 4, .max_bytes = 16},
     {{{100, 102}, {0, 0}}, {{102, 104}, {104, 108}}, {{104, 106}, {108, 114}}}},
    {"longer reads start with a window of their length",
     {.min_bytes = 4, .max_bytes = 16},
     {{{0, 10}, {10, 20}}, {{10, 20}, {20, 36}}, {{20, 60}, {60, 76}}}},
    {"a seek forgets the window, and may be the first of another run",
     {.min_bytes = 4, .max_bytes = 64},
     {{{0, 4}, {4, 8}},
      {{4, 8}, {8, 16}},
      {{8, 16}, {16, 32}},
      {{100, 104}, {0, 0}},
      {{200, 204}, {0, 0}},
      {{204, 208}, {208, 212}}}},
    {"reads at random load nothing ahead",
     {.min_bytes = 4, .max_bytes = 64},
     {{{900, 904}, {0, 0}}, {{300, 304}, {0, 0}}, {{500, 504}, {0, 0}}, {{100, 104}, {0, 0}}, {{504, 505}, {0, 0}}}},
    {"a read again changes nothing",
     {.min_bytes = 8, .max_bytes = 64},
     {{{0, 4}, {4, 12}}, {{0, 4}, {0, 0}}, {{0, 4}, {0, 0}}, {{4, 8}, {12, 24}}}},
    {"backwards loads nothing ahead",
     {.min_bytes = 4, .max_bytes = 16},
     {{{96, 100}, {0, 0}}, {{92, 96}, {0, 0}}, {{88, 92}, {0, 0}}, {{84, 88}, {0, 0}}}},
    {"backwards after a run, nothing either, and too far back forgets it",
     {.min_bytes = 4, .max_bytes = 8},
     {{{0, 50}, {50, 58}},
      {{46, 50}, {0, 0}},
      {{42, 46}, {0, 0}},
      {{38, 42}, {0, 0}},
      {{34, 38}, {0, 0}},
      {{50, 54}, {0, 0}}}},
    {"reads that overtake each other are one run",
     {.min_bytes = 8, .max_bytes = 16},
     {{{0, 4}, {4, 12}}, {{8, 12}, {12, 28}}, {{4, 8}, {0, 0}}, {{16, 20}, {28, 36}}, {{12, 16}, {0, 0}}}},
    {"a reader that skips within the window goes on",
     {.min_bytes = 8, .max_bytes = 16},
     {{{0, 1}, {1, 9}}, {{4, 5}, {9, 21}}, {{8, 9}, {0, 0}}, {{12, 13}, {21, 29}}}},
    {"past the end of the file the run stays as it was",
     {.min_bytes = 4, .max_bytes = 8},
     {{{0, 4}, {4, 8}}, {{4, 8}, {8, 16}}, {{8, 8}, {0, 0}}, {{8, 12}, {16, 20}}}},
    {"the window ends where offsets do",
     {.min_bytes = 8, .max_bytes = UINT64_MAX},
     {{{last - 16, last - 14}, {0, 0}},
      {{last - 14, last - 12}, {last - 12, last - 4}},
      {{last - 12, last - 6}, {last - 4, last}},
      {{last - 6, last - 1}, {0, 0}},
      {{last - 1, last}, {0, 0}}}},
    {"the whole of a file in one read",
     {.min_bytes = UINT64_MAX, .max_bytes = UINT64_MAX},
     {{{0, last}, {0, 0}}, {{0, last}, {0, 0}}}},
    {"a window as large as can be",
     {.min_bytes = UINT64_MAX, .max_bytes = UINT64_MAX},
     {{{0, 1}, {1, last}}, {{1, 2}, {0, 0}}, {{last - 1, last}, {0, 0}}}},
    {"with a most of 0 nothing is loaded ahead",
     {.min_bytes = 4, .max_bytes = 0},
     {{{0, 4}, {0, 0}}, {{4, 8}, {0, 0}}, {{8, 12}, {0, 0}}}},
    {"a least above the most, and one of 0",
     {.min_bytes = 100, .max_bytes = 8},
     {{{0, 4}, {4, 12}}, {{4, 8}, {12, 16}}}},
    {"a least of 0", {.min_bytes = 0, .max_bytes = 8}, {{{0, 1}, {1, 2}}, {{1, 2}, {2, 4}}, {{2, 3}, {4, 7}}}},
};

}  // namespace

TEST_CASE("what is loaded ahead follows from where the reads were", "[read_ahead]") {
  for (const auto& reader : readers) {
    CAPTURE(reader.name);
    tarn::ReadAhead ahead{reader.options};
    for (const auto& [read, wanted] : reader.steps) {
      CAPTURE(read);
      const auto is = ahead.after(range(read.offset, read.end));
      CHECK((is.empty() ? Extent{0, 0} : Extent{is.offset(), is.end()}) == wanted);
    }
  }
}

TEST_CASE("no byte is wanted ahead twice, none is left out between, and none was read before", "[read_ahead]") {
  const std::uint64_t step = GENERATE(as<std::uint64_t>{}, 1, 3, 7, 16, 50);
  tarn::ReadAhead ahead{{.min_bytes = 4, .max_bytes = 32}};
  std::uint64_t loaded = 0, wanted_ahead = 0;
  for (std::uint64_t at = 0; at < 10'000; at += step) {
    const auto next = ahead.after(range(at, at + step));
    loaded = std::max(loaded, at + step);
    if (next.empty()) continue;
    REQUIRE(next.offset() == loaded);
    REQUIRE(next.end() <= at + step + 32);
    loaded = next.end();
    wanted_ahead += next.size_bytes();
  }
  CHECK(wanted_ahead > 3'000);
}

TEST_CASE("a copy goes on where the first one is, by itself", "[read_ahead]") {
  tarn::ReadAhead first{{.min_bytes = 4, .max_bytes = 16}};
  CHECK(first.after(range(0, 4)) == range(4, 8));
  tarn::ReadAhead second{first}, third;
  third = first;
  CHECK(first.after(range(4, 8)) == range(8, 16));
  CHECK(second.after(range(4, 8)) == range(8, 16));
  CHECK(third.after(range(4, 8)) == range(8, 16));
}
