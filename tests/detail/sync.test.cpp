// SPDX-License-Identifier: MIT
#include <tarn/detail/sync.hpp>

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include <tarn/testing/gate.hpp>

#include "support/catch.hpp"

using tarn::detail::ParkingLot;
using tarn_test::wait_until;
using tarn_test::Worker;

TEST_CASE("who parks is woken by the one that changes the word, and not before", "[sync]") {
  ParkingLot lot;
  std::atomic<int> word{0};
  std::atomic<int> looks{0}, awake{0};
  std::vector<Worker> sleepers;
  for (int i = 0; i < 3; ++i) {
    sleepers.emplace_back([&] {
      lot.park(&word, [&] {
        looks.fetch_add(1);
        return word == 0;
      });
      awake.fetch_add(1);
    });
  }
  REQUIRE(wait_until([&] { return looks >= 3; }));
  lot.wake(&word);  // nothing changed: they look again, and sleep on
  REQUIRE(wait_until([&] { return looks >= 6; }));
  CHECK(awake == 0);
  word = 1;
  lot.wake(&word);
  CHECK(wait_until([&] { return awake == 3; }));
}

TEST_CASE("who finds the word changed does not sleep at all", "[sync]") {
  ParkingLot lot;
  const std::atomic<int> word{1};
  lot.park(&word, [&] { return word == 0; });
  SUCCEED("it came back");
}

TEST_CASE("a wake between the look and the sleep is not lost", "[sync]") {
  ParkingLot lot;
  std::atomic<int> word{0};
  std::atomic<bool> looking{false}, woken{false}, awake{false};
  Worker waker{[&] {
    while (!looking) std::this_thread::yield();
    word = 1;
    lot.wake(&word);
    woken = true;
  }};
  Worker sleeper{[&] {
    lot.park(&word, [&] {
      if (looking.exchange(true)) return word == 0;
      // Has looked, and does not sleep yet. A wake that came back now would find nobody asleep.
      for (int i = 0; i < 2000 && !woken; ++i) std::this_thread::yield();
      return true;
    });
    awake = true;
  }};
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds{10};
  while (!awake && std::chrono::steady_clock::now() < end) std::this_thread::yield();
  const bool in_time = awake;
  lot.wake(&word);
  CHECK(in_time);
}

TEST_CASE("no wake-up is lost between two that pass a word to and fro", "[sync]") {
  ParkingLot lot;
  std::atomic<int> word{0};
  constexpr int rounds = 5000;
  const auto play = [&](int mine) {
    for (int i = 0; i < rounds; ++i) {
      lot.park(&word, [&] { return word % 2 != mine; });
      word.fetch_add(1);
      lot.wake(&word);
    }
  };
  {
    Worker other{[&] { play(1); }};
    play(0);
  }
  CHECK(word == 2 * rounds);
}
