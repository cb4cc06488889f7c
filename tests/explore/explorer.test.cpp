// SPDX-License-Identifier: MIT
// CTest: LABELS slow

// The explorer itself: that it finds what it should, in as many orders as there are, and no more.

#include "explore/explorer.hpp"

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "explore/explored_sync.hpp"
#include "support/catch.hpp"

using tarn::detail::Atomic;
using tarn::detail::ConditionVariable;
using tarn::detail::Mutex;
using tarn_test::Explorer;
using tarn_test::Scenario;

namespace {

/// Two threads that each read a number and store one more.
Scenario lost_update() {
  auto number = std::make_shared<Atomic<int>>(0);
  const auto add = [number] { number->store(number->load() + 1); };
  return {{add, add}, [number] { Explorer::expect(number->load() == 2, "an addition is lost"); }};
}

/// The rule of the plan: a file is copied under its lock, stored without it, and then no longer dirty.
struct PlansFile {
  Mutex mutex;
  char byte = 'a';
  bool dirty = true;
  char stored = '?';
};
Scenario flag_cleared_after_the_store(bool only_if_unchanged) {
  auto file = std::make_shared<PlansFile>();
  const auto flush = [file, only_if_unchanged] {
    char copy = 0;
    {
      std::lock_guard lock{file->mutex};
      copy = file->byte;
    }
    file->stored = copy;
    std::lock_guard lock{file->mutex};
    if (!only_if_unchanged || file->byte == copy) file->dirty = false;
  };
  const auto write = [file] {
    std::lock_guard lock{file->mutex};
    file->byte = 'b';
    file->dirty = true;
  };
  return {{flush, write}, [file] {
            Explorer::expect(file->dirty || file->stored == file->byte, "what was written during the store is lost");
          }};
}

}  // namespace

TEST_CASE("an update that another covers is found, in any way of search, and its order replays", "[explorer]") {
  const auto complete = Explorer::complete(lost_update, 100);
  CHECK(complete.failure == "an addition is lost");
  CHECK(Explorer::replay(lost_update, complete.order).failure == "an addition is lost");
  CHECK(Explorer::bounded(lost_update, 100, 1).failure == "an addition is lost");
  CHECK(Explorer::random(lost_update, 100, 1).failure == "an addition is lost");
  const auto without = Explorer::bounded(lost_update, 100, 0);
  CHECK(without.failure.empty());
  CHECK(without.finished);
}

TEST_CASE("threads that share nothing are run in one order, those that do in each that differs", "[explorer]") {
  const auto apart = [](std::size_t threads) {
    return [threads] {
      Scenario scenario;
      for (std::size_t i = 0; i < threads; ++i) {
        scenario.threads.emplace_back([own = std::make_shared<Atomic<int>>(0)] {
          for (int step = 0; step < 5; ++step) own->store(step);
        });
      }
      return scenario;
    };
  };
  const auto alone = Explorer::complete(apart(3), 100);
  CHECK(alone.finished);
  CHECK(alone.runs == 1);
  // With one preemption: one of two threads first, taken away after one to five of its six steps (the first is to
  // begin), or not at all.
  const auto bounded = Explorer::bounded(apart(2), 100, 1);
  CHECK(bounded.finished);
  CHECK(bounded.runs == 12);

  // Two stores in a row of each of two threads, to one word: 4! / (2! 2!) orders, each with its own outcome.
  const auto together = [] {
    auto word = std::make_shared<Atomic<int>>(0);
    const auto twice = [word] { word->store(1), word->store(2); };
    return Scenario{{twice, twice}, {}};
  };
  const auto all = Explorer::complete(together, 100);
  CHECK(all.finished);
  CHECK(all.runs == 6);

  // Reads do not differ by their order.
  const auto readers = [] {
    auto word = std::make_shared<Atomic<int>>(0);
    const auto twice = [word] { (void)word->load(), (void)word->load(); };
    return Scenario{{twice, twice, twice}, {}};
  };
  CHECK(Explorer::complete(readers, 100).runs == 1);
}

TEST_CASE("all outcomes of three threads are reached, by the reduced search as by the whole one", "[explorer]") {
  std::vector<std::string> reduced, whole;
  const auto writers = [](std::vector<std::string>& outcomes) {
    return [&outcomes] {
      auto text = std::make_shared<std::string>();
      auto mutex = std::make_shared<Mutex>();
      auto seen = std::make_shared<Atomic<int>>(0);
      Scenario scenario;
      for (const char name : {'a', 'b', 'c'}) {
        scenario.threads.emplace_back([=] {
          const int before = seen->load();
          {
            std::lock_guard lock{*mutex};
            *text += name;
          }
          seen->store(before + 1);
        });
      }
      scenario.at_end = [=, &outcomes] { outcomes.push_back(*text + std::to_string(seen->load())); };
      return scenario;
    };
  };
  const auto distinct = [](std::vector<std::string>& of) {
    std::sort(of.begin(), of.end());
    of.erase(std::unique(of.begin(), of.end()), of.end());
    return of;
  };
  const auto less = Explorer::complete(writers(reduced), 100'000);
  const auto more = Explorer::bounded(writers(whole), 400'000, 3);
  CHECK(less.finished);
  CHECK(more.finished);
  CHECK(less.runs < more.runs);
  CHECK(distinct(reduced) == distinct(whole));
  CHECK(reduced.size() == 18);  // six orders of the letters, and one, two or three counted
}

TEST_CASE("a thread that waits goes on when it is notified, and not before", "[explorer]") {
  const auto hand_over = [] {
    struct Box {
      Mutex mutex;
      ConditionVariable changed;
      std::optional<int> value;
    };
    auto box = std::make_shared<Box>();
    const auto take = [box] {
      std::unique_lock lock{box->mutex};
      box->changed.wait(lock, [&] { return box->value.has_value(); });
      Explorer::expect(box->value == 7, "another value");
      box->value.reset();
    };
    const auto put = [box] {
      std::lock_guard lock{box->mutex};
      box->value = 7;
      box->changed.notify_all();
    };
    return Scenario{{take, put}, [box] { Explorer::expect(!box->value, "not taken"); }};
  };
  const auto report = Explorer::complete(hand_over, 1000);
  CHECK(report.failure.empty());
  CHECK(report.finished);
  CHECK(report.runs >= 2);
}

TEST_CASE("the plan's rule, to clear the flag after the I/O, loses a write, and the explorer sees it", "[explorer]") {
  const auto report = Explorer::complete([] { return flag_cleared_after_the_store(false); }, 1000);
  CHECK(report.failure == "what was written during the store is lost");
  const auto kept = Explorer::complete([] { return flag_cleared_after_the_store(true); }, 1000);
  CHECK(kept.failure.empty());
  CHECK(kept.finished);
}
