// SPDX-License-Identifier: MIT
#include <tarn/testing/last_calls.hpp>

#include <algorithm>
#include <cstdint>
#include <string>

#include "support/catch.hpp"

using tarn::ByteRange;
using tarn::testing::LastCalls;

namespace {

bool has(const std::string& text, const std::string& what) { return text.find(what) != std::string::npos; }
LastCalls::Call call_at(std::uint64_t offset) {
  return {.what = "write", .file = 1, .range = ByteRange::between(offset, offset + 5)};
}

}  // namespace

TEST_CASE("what is wrong is told with the step and the calls before it, and what each came to", "[last_calls]") {
  LastCalls calls;
  CHECK_FALSE(calls.is_wrong());
  CHECK(calls.what_is_wrong() == "");
  calls.begin_step(3);
  const auto write = calls.note(call_at(10));
  calls.begin_step(4);
  const auto flush =
      calls.note({.what = "flush", .file = 0, .range = ByteRange::between(0, 8), .by_store = true, .size_bytes = 20});
  calls.note({.what = "sync", .file = 1, .range = {}});
  calls.came_to(flush, "stored");
  calls.came_to(write, "5");
  calls.say_wrong("the file is short");
  CHECK(calls.is_wrong());
  CHECK(calls.what_is_wrong() ==
        "the file is short\n"
        "  step 4; the last calls (step, file, call: result; further in, what the store was asked):\n"
        "    3 #1 write [10, 15): 5\n"
        "    4     #0 flush [0, 8), size 20: stored\n"
        "    4 #1 sync [0, 0): ?\n");
}

TEST_CASE("what went wrong first is told, and not what came of it", "[last_calls]") {
  LastCalls calls;
  calls.note(call_at(10));
  calls.say_wrong("the first");
  const auto first = calls.what_is_wrong();
  calls.note(call_at(20));
  calls.say_wrong("the second");
  CHECK(calls.what_is_wrong() == first);
}

TEST_CASE("of many calls the last are told, and what an older one came to is not taken for a newer one's",
          "[last_calls]") {
  LastCalls calls;
  const auto oldest = calls.note(call_at(1'000));
  const auto old = calls.note(call_at(1'001));
  for (std::uint64_t i = 2; i < 33; ++i) calls.note(call_at(1'000 + i));
  calls.came_to(oldest, "too late");
  calls.came_to(old, "in time");
  calls.say_wrong("wrong");
  const auto told = calls.what_is_wrong();
  CHECK(std::count(told.begin(), told.end(), '\n') == 2 + 32);
  CHECK_FALSE(has(told, "[1000, "));
  CHECK_FALSE(has(told, "too late"));
  CHECK(has(told, "[1001, 1006): in time\n"));
  CHECK(has(told, "[1032, 1037): ?\n"));
}
