// SPDX-License-Identifier: MIT
#include <tarn/detail/small_vector.hpp>

#include <algorithm>
#include <cstdint>
#include <random>
#include <vector>

#include "support/catch.hpp"

using tarn::detail::SmallVector;

namespace {

template <std::size_t N>
bool same(SmallVector<std::uint64_t, N>& made, const std::vector<std::uint64_t>& expected) {
  return made.size() == expected.size() && made.empty() == expected.empty() &&
         std::equal(made.begin(), made.end(), expected.begin(), expected.end()) &&
         std::ranges::equal(made.span(), expected);
}

template <std::size_t N>
bool behaves_like_a_vector(std::uint32_t seed) {
  std::mt19937 random{seed};
  SmallVector<std::uint64_t, N> made;
  std::vector<std::uint64_t> expected;
  for (int step = 0; step < 2000; ++step) {
    switch (random() % 8) {
      case 0:
        if (expected.empty()) break;
        made.pop_back();
        expected.pop_back();
        break;
      case 1: {
        const auto to = random() % (expected.size() + 1);
        if (random() % 16 != 0) break;
        made.truncate(to);
        expected.resize(to);
        break;
      }
      case 2:
        made.reserve(random() % 64);
        break;
      case 3:
        if (expected.empty()) break;
        made[random() % expected.size()] = 7;
        std::copy(made.begin(), made.end(), expected.begin());
        break;
      case 4:
        if (random() % 64 != 0) break;
        made.clear();
        expected.clear();
        break;
      default:
        made.push_back(static_cast<std::uint64_t>(step));
        expected.push_back(static_cast<std::uint64_t>(step));
        if (made.back() != expected.back()) return false;
    }
    if (!same(made, expected)) return false;
  }
  return true;
}

}  // namespace

TEST_CASE("a small vector behaves like a vector, on either side of its inline room", "[small_vector]") {
  for (std::uint32_t seed = 0; seed < 20; ++seed) {
    CHECK(behaves_like_a_vector<1>(seed));
    CHECK(behaves_like_a_vector<4>(seed));
    CHECK(behaves_like_a_vector<64>(seed));
  }
}

TEST_CASE("values stay in the object itself until its room is passed", "[small_vector]") {
  SmallVector<std::uint64_t, 4> made;
  const auto inside = [&] {
    const auto* const at = reinterpret_cast<const std::byte*>(made.begin());
    const auto* const object = reinterpret_cast<const std::byte*>(&made);
    return at >= object && at < object + sizeof made;
  };
  for (std::uint64_t i = 0; i < 4; ++i) made.push_back(i);
  CHECK(inside());
  made.push_back(4);
  CHECK_FALSE(inside());
  CHECK(same(made, {0, 1, 2, 3, 4}));
}
