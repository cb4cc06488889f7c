// SPDX-License-Identifier: MIT
#include "support/linearizable.hpp"

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "support/catch.hpp"

// The checker on histories made by hand: stamps are written as [called, returned].

using tarn_test::cut_in_windows;
using tarn_test::FileCall;
using tarn_test::unexplained;

namespace {

using History = std::vector<FileCall>;
using Kind = FileCall::Kind;

struct Time {
  std::uint64_t called, returned;
};
FileCall read(Time time, std::uint64_t offset, std::uint64_t size_bytes, std::string answer) {
  return {Kind::read, offset, size_bytes, std::move(answer), time.called, time.returned};
}
FileCall write(Time time, std::uint64_t offset, std::string bytes) {
  return {Kind::write, offset, 0, std::move(bytes), time.called, time.returned};
}
FileCall append(Time time, std::string bytes, std::uint64_t answer) {
  return {Kind::append, answer, 0, std::move(bytes), time.called, time.returned};
}
FileCall truncate(Time time, std::uint64_t size_bytes) {
  return {Kind::truncate, 0, size_bytes, {}, time.called, time.returned};
}
FileCall punch(Time time, std::uint64_t offset, std::uint64_t size_bytes) {
  return {Kind::punch, offset, size_bytes, {}, time.called, time.returned};
}
FileCall size(Time time, std::uint64_t answer) { return {Kind::size, 0, answer, {}, time.called, time.returned}; }

const std::string four = "aaaa", two_zeros(2, '\0');

bool is_explained(const History& history, const std::string& start = four) {
  return unexplained(start, history).empty();
}
/// Whether the answer at that place of the history is the first that no order explains.
bool blames(const History& history, std::size_t place, const std::string& start = four) {
  const auto text = unexplained(start, history);
  CAPTURE(text);
  return text.starts_with("no order explains " + describe(history[place]) + '\n');
}

}  // namespace

TEST_CASE("calls one after the other have one order", "[linearizable]") {
  CHECK(is_explained({}));
  CHECK(is_explained({write({1, 2}, 1, "bb"), read({3, 4}, 0, 9, "abba"), append({5, 6}, "c", 4),
                      read({7, 8}, 0, 9, "abbac"), truncate({9, 10}, 2), size({11, 12}, 2), truncate({13, 14}, 4),
                      read({15, 16}, 0, 4, "ab" + two_zeros), punch({17, 18}, 1, 9), read({19, 20}, 0, 2, {"a\0", 2}),
                      read({21, 22}, 4, 9, ""), write({23, 24}, 9, ""), size({25, 26}, 4)}));
  CHECK(blames({write({1, 2}, 1, "bb"), read({3, 4}, 0, 4, "aaaa")}, 1));
}

TEST_CASE("of calls that overlap either may be first, and the same for all", "[linearizable]") {
  const auto both = write({1, 10}, 0, "bbbb");
  CHECK(is_explained({both, read({2, 3}, 0, 4, "aaaa")}));
  CHECK(is_explained({both, read({2, 3}, 0, 4, "bbbb")}));
  CHECK(is_explained({both, read({2, 3}, 0, 4, "aaaa"), read({4, 5}, 0, 4, "bbbb")}));
  CHECK(blames({both, read({2, 3}, 0, 4, "bbbb"), read({4, 5}, 0, 4, "aaaa")}, 2));
  CHECK(is_explained({both, read({2, 11}, 0, 4, "bbbb"), read({4, 12}, 0, 4, "aaaa")}));
  CHECK(is_explained({write({1, 9}, 0, "bb"), write({2, 8}, 1, "cc"), read({3, 10}, 0, 4, "bcca"),
                      read({4, 11}, 0, 4, "bbaa"), read({12, 13}, 0, 4, "bcca")}));
  CHECK(blames({write({1, 9}, 0, "bb"), write({2, 8}, 1, "cc"), read({3, 10}, 0, 4, "acca"),
                read({4, 11}, 0, 4, "bbaa"), read({12, 13}, 0, 4, "bcca")},
               3));
}

TEST_CASE("a stale read has no order", "[linearizable]") {
  CHECK(blames({write({1, 2}, 0, "b"), read({3, 6}, 0, 4, "aaaa"), write({4, 5}, 3, "c")}, 1));
}

TEST_CASE("a torn read has no order", "[linearizable]") {
  CHECK(blames({write({1, 10}, 0, "bbbb"), read({2, 9}, 0, 4, "bbaa")}, 1));
  CHECK(blames({truncate({1, 10}, 2), read({2, 9}, 0, 4, "aa" + two_zeros)}, 1));
  SECTION("at the end of a file that grows meanwhile") {
    CHECK(blames({write({1, 10}, 0, "bbbbbbbb"), read({2, 9}, 0, 8, "aaaabbbb")}, 1));
  }
}

TEST_CASE("a lost write has no order", "[linearizable]") {
  CHECK(blames({write({1, 4}, 0, "bb"), write({2, 3}, 2, "cc"), read({5, 6}, 0, 4, "aacc")}, 2));
  SECTION("by a truncate that overlaps it and leaves no zeros") {
    CHECK(is_explained({write({1, 4}, 4, "bb"), truncate({2, 3}, 2), read({5, 6}, 0, 9, "aa" + two_zeros + "bb")}));
    CHECK(is_explained({write({1, 4}, 4, "bb"), truncate({2, 3}, 2), read({5, 6}, 0, 9, "aa")}));
    CHECK(blames({write({1, 4}, 4, "bb"), truncate({2, 3}, 2), read({5, 6}, 0, 9, "aaaa")}, 2));
  }
  SECTION("of appends that went to one place") {
    CHECK(is_explained({append({1, 4}, "b", 5), append({2, 3}, "c", 4)}));
    CHECK(blames({append({1, 4}, "b", 4), append({2, 3}, "c", 4)}, 0));
  }
}

TEST_CASE("bytes that come back after a truncate have no order", "[linearizable]") {
  CHECK(blames({truncate({1, 2}, 2), truncate({3, 4}, 4), read({5, 6}, 0, 4, "aaaa")}, 2));
  CHECK(blames({truncate({1, 2}, 2), write({3, 6}, 4, "b"), read({4, 5}, 0, 9, "aaaab")}, 2));
}

TEST_CASE("a read that is short before the end has no order", "[linearizable]") {
  CHECK(blames({read({1, 2}, 0, 4, "aaa")}, 0));
  CHECK(blames({append({1, 4}, "bb", 4), read({2, 3}, 0, 9, "aaaab")}, 1));
  CHECK(is_explained({truncate({1, 4}, 3), read({2, 3}, 0, 4, "aaa")}));
  CHECK(blames({truncate({1, 4}, 3), size({2, 3}, 2)}, 1));
}

TEST_CASE("the first answer is blamed, not one that came later", "[linearizable]") {
  // What has not answered yet may have happened; a read cannot know what is called after it.
  CHECK(blames({write({5, 6}, 0, "b"), read({1, 4}, 0, 1, "b"), read({7, 8}, 0, 1, "c")}, 1));
  CHECK(blames({write({1, 9}, 0, "b"), read({2, 4}, 0, 1, "b"), read({7, 8}, 0, 1, "c")}, 2));
  CHECK(blames({append({1, 9}, "b", 7), read({2, 4}, 0, 9, "aaaab")}, 0));
}

TEST_CASE("a long call is one call for each window, in ascending order", "[linearizable]") {
  const auto cut = [](const History& history) { return cut_in_windows(history, 2); };
  CHECK(cut({read({1, 2}, 3, 5, "aaaaa")}).size() == 3);
  CHECK(cut({read({1, 2}, 3, 5, "aaa")}).size() == 2);
  CHECK(cut({read({1, 2}, 3, 5, "aa")}).size() == 2);
  CHECK(cut({read({1, 2}, 3, 5, "")}).size() == 1);
  CHECK(cut({read({1, 2}, 3, 2, "aa"), write({1, 2}, 3, "bb"), truncate({1, 2}, 9), size({1, 2}, 9)}).size() == 4);

  const History between{write({1, 10}, 0, "bbbb"), read({2, 3}, 0, 2, "bb"), read({4, 5}, 2, 2, "aa")};
  CHECK_FALSE(is_explained(between));
  CHECK(is_explained(cut(between)));
  const History descending{write({1, 10}, 0, "bbbb"), read({2, 3}, 2, 2, "bb"), read({4, 5}, 0, 2, "aa")};
  CHECK_FALSE(is_explained(cut(descending)));
  const History torn{read({1, 10}, 0, 4, "abba"), write({2, 3}, 0, "bbbb")};
  CHECK_FALSE(is_explained(cut(torn)));
  CHECK(is_explained(cut({read({1, 10}, 0, 4, "aabb"), write({2, 3}, 0, "bb"), write({4, 5}, 2, "bb")})));
  CHECK_FALSE(is_explained(cut({read({1, 10}, 0, 4, "bbaa"), write({2, 3}, 2, "bb"), write({4, 5}, 0, "bb")})));
  CHECK(is_explained(cut({append({1, 10}, "bbbb", 4), append({2, 3}, "c", 6), read({11, 12}, 4, 9, "bbbb")})));
  CHECK_FALSE(is_explained(cut({append({1, 10}, "bbbb", 4), append({2, 3}, "c", 6), read({11, 12}, 4, 9, "bbcb")})));
}
