// SPDX-License-Identifier: MIT
#include <tarn/detail/striped_count.hpp>

#include <array>
#include <cstdint>
#include <vector>

#include <tarn/testing/gate.hpp>

#include "support/catch.hpp"

using tarn::detail::StripedCount;

TEST_CASE("a count in stripes is the sum of all that was added, whoever added it", "[striped_count]") {
  StripedCount count;
  CHECK(count.load() == 0);
  constexpr std::uint64_t rounds = 10000;
  const std::array<char, 4096> places{};
  {
    std::vector<tarn_test::Worker> workers;
    for (std::size_t who = 0; who < 4; ++who) {
      workers.emplace_back([&, who] {
        for (std::uint64_t i = 0; i < rounds; ++i) count.add(&places[(i * 64 + who) % places.size()], 3);
      });
    }
  }
  CHECK(count.load() == 4 * rounds * 3);
}
