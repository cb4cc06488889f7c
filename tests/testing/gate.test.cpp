// SPDX-License-Identifier: MIT
#include <tarn/testing/gate.hpp>

#include <pthread.h>

#include <atomic>
#include <chrono>

#include "support/catch.hpp"

using tarn::testing::BlockedThread;
using tarn::testing::Gate;
using tarn::testing::wait_until;
using tarn::testing::Worker;

TEST_CASE("a gate holds who comes while it is closed, and counts them anew each time", "[gate]") {
  Gate gate;
  CHECK(gate.pass());  // open at first
  for (int round = 0; round < 2; ++round) {
    gate.close();
    std::atomic<int> through{0};
    {
      const Worker first{gate, [&] { through += gate.pass() ? 1 : 0; }};
      const Worker second{gate, [&] { through += gate.pass() ? 1 : 0; }};
      CHECK(gate.wait_for_arrivals(2));
      CHECK(through == 0);
    }  // the workers' end opens it
    CHECK(through == 2);
  }
}

TEST_CASE("who waits until something is there looks at least once, and gives up when the time is over", "[gate]") {
  int looks = 0;
  CHECK(wait_until([&] { return ++looks == 3; }));
  CHECK(wait_until([] { return true; }, std::chrono::nanoseconds{0}));
  CHECK_FALSE(wait_until([] { return false; }, std::chrono::nanoseconds{0}));
}

TEST_CASE("a thread is seen blocked, whatever it is called", "[gate]") {
  Gate gate;
  gate.close();
  BlockedThread blocked;
  bool named = false;
  {
    Worker worker{gate, [&] {
                    named = ::pthread_setname_np(::pthread_self(), "a) X (b") == 0;
                    blocked.here();
                    gate.pass();
                  }};
    CHECK(blocked.wait_until_blocked());
    CHECK(blocked.wait_until_blocked());  // it still is
  }
  CHECK(named);
}

TEST_CASE("a thread that has come to its end is not blocked", "[gate]") {
  BlockedThread ended;
  Worker worker{[&] { ended.here(); }};
  worker.join();
  CHECK_FALSE(ended.wait_until_blocked());
}
