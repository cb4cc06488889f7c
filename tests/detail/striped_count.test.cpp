// SPDX-License-Identifier: MIT
#include <tarn/detail/striped_count.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include <tarn/testing/gate.hpp>

#include "support/catch.hpp"

using tarn::detail::StripedCount;
using tarn::detail::ThreadNumber;

TEST_CASE("a count in stripes is the sum of all that was added, whoever added it", "[striped_count]") {
  StripedCount count;
  CHECK(count.load() == 0);
  constexpr std::uint64_t rounds = 10000;
  constexpr std::size_t threads = 2 * ThreadNumber::most;
  for (std::size_t turn = 1; turn <= 2; ++turn) {  // the second time with the numbers of threads that have ended
    tarn_test::Gate all;
    all.close();
    std::vector<tarn_test::Worker> workers;
    for (std::size_t who = 0; who < threads; ++who) {
      workers.emplace_back([&] {
        for (std::uint64_t i = 0; i < rounds; ++i) count.add(3);
        all.pass();
        count.add(1);
      });
    }
    REQUIRE(all.wait_for_arrivals(threads));
    CHECK(count.load() == turn * threads * rounds * 3 + (turn - 1) * threads);
    all.open();
    workers.clear();
    CHECK(count.load() == turn * threads * (rounds * 3 + 1));
  }
}

TEST_CASE("a thread has a number of its own for as long as it lives, if there is one left", "[striped_count]") {
  constexpr std::size_t threads = ThreadNumber::most + 2;
  for (int turn = 0; turn < 2; ++turn) {
    tarn_test::Gate all;
    all.close();
    std::array<unsigned, threads> first{}, later{};
    std::vector<tarn_test::Worker> workers;
    for (std::size_t who = 0; who < threads; ++who) {
      workers.emplace_back([&, who] {
        first[who] = ThreadNumber::mine();
        all.pass();
        later[who] = ThreadNumber::mine();
      });
    }
    REQUIRE(all.wait_for_arrivals(threads));
    all.open();
    workers.clear();
    std::array<int, ThreadNumber::most + 1> had{};
    for (const auto number : first) ++had.at(number);
    CHECK(std::all_of(had.begin() + 1, had.end(), [](int times) { return times <= 1; }));
    CHECK(had[0] >= 2);
    CHECK(had[0] <= 3);  // this one, too, may have one
    for (std::size_t who = 0; who < threads; ++who) CHECK((first[who] == 0 || later[who] == first[who]));
  }
}
