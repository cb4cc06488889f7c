// SPDX-License-Identifier: MIT
// Compile: -O1
// CTest: LABELS slow

// The explorer itself: that it finds what it should, in as many orders as there are, and no more.

#include "explore/explorer.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "explore/explore.hpp"
#include "explore/explored_sync.hpp"
#include "support/catch.hpp"

using tarn::detail::Atomic;
using tarn::detail::ConditionVariable;
using tarn::detail::Mutex;
using tarn_test::explore_number;
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

/// A few steps on two words and a mutex.
struct AnyStep {
  enum class Kind : std::uint8_t { load, store, add, count, exchange_if, update, under_mutex, try_mutex } kind;
  std::size_t word;
  int value;
};
using Program = std::vector<std::vector<AnyStep>>;  // of each thread

Program any_program(std::uint64_t seed, std::size_t threads, std::size_t steps) {
  std::mt19937_64 draw{seed};
  Program program(threads);
  for (auto& thread : program) {
    for (std::size_t i = 0; i < steps; ++i) {
      thread.push_back({static_cast<AnyStep::Kind>(draw() % 8), draw() % 2, static_cast<int>(draw() % 3)});
    }
  }
  return program;
}
/// By a loop of looks; gives what the word was before.
int update(Atomic<int>& word, int value) {
  auto before = word.load();
  while (!word.compare_exchange_weak(before, 2 * before + value)) continue;
  return before;
}
/// What each thread has seen, and what is left, is added to `outcomes`.
Scenario running(const Program& program, std::set<std::string>& outcomes) {
  struct World {
    std::array<Atomic<int>, 2> words;
    Mutex mutex;
    int guarded = 0;
    std::vector<std::string> seen;
  };
  auto world = std::make_shared<World>();
  world->seen.resize(program.size());
  Scenario scenario;
  for (std::size_t me = 0; me < program.size(); ++me) {
    scenario.threads.emplace_back([world, me, &steps = program[me]] {
      const auto see = [&](int value) { world->seen[me] += std::to_string(value) + ' '; };
      const auto guarded = [&](int value) { see(std::exchange(world->guarded, value + static_cast<int>(me))); };
      for (const auto& [kind, at, value] : steps) {
        auto& word = world->words[at];
        int expected = value;
        switch (kind) {
          case AnyStep::Kind::load:
            see(word.load());
            break;
          case AnyStep::Kind::store:
            word.store(value);
            break;
          case AnyStep::Kind::add:
            see(word.fetch_add(value));
            break;
          case AnyStep::Kind::count:
            word.fetch_add(value, std::memory_order_relaxed);
            break;
          case AnyStep::Kind::exchange_if:
            see(word.compare_exchange_strong(expected, value + 1) ? -1 : expected);
            break;
          case AnyStep::Kind::update:
            see(update(word, value));
            break;
          case AnyStep::Kind::under_mutex: {
            std::lock_guard lock{world->mutex};
            guarded(update(word, value));
            break;
          }
          case AnyStep::Kind::try_mutex:
            if (std::unique_lock lock{world->mutex, std::try_to_lock}; lock.owns_lock()) {
              guarded(value);
            } else {
              see(-2);
            }
            break;
        }
      }
    });
  }
  scenario.at_end = [world, &outcomes] {
    std::string outcome;
    for (const auto& word : world->words) outcome += std::to_string(word.load()) + ' ';
    outcome += std::to_string(world->guarded);
    for (const auto& seen : world->seen) outcome += " | " + seen;
    outcomes.insert(outcome);
  };
  return scenario;
}

}  // namespace

TEST_CASE("an update that another covers is found, in any way of search, and its order replays", "[explorer]") {
  const auto complete = Explorer::complete(lost_update, {100});
  CHECK(complete.failure == "an addition is lost");
  CHECK(Explorer::replay(lost_update, complete.order).failure == "an addition is lost");
  CHECK(Explorer::bounded(lost_update, {100}, 1).failure == "an addition is lost");
  CHECK(Explorer::random(lost_update, {100}, 1).failure == "an addition is lost");
  const auto without = Explorer::bounded(lost_update, {100}, 0);
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
  const auto alone = Explorer::complete(apart(3), {100});
  CHECK(alone.finished);
  CHECK(alone.runs == 1);
  CHECK(Explorer::bounded(apart(3), {100}, 3).runs == 6);  // where one ends, each other one goes on
  // With one preemption: one of two threads first, taken away after one to five of its six steps (the first is to
  // begin), or not at all.
  const auto whole = Explorer::whole(apart(2), {100}, 1);
  CHECK(whole.finished);
  CHECK(whole.runs == 12);

  // Two stores in a row of each of two threads, to one word: 4! / (2! 2!) orders, each with its own outcome.
  const auto together = [] {
    auto word = std::make_shared<Atomic<int>>(0);
    const auto twice = [word] { word->store(1), word->store(2); };
    return Scenario{{twice, twice}, {}};
  };
  const auto all = Explorer::complete(together, {100});
  CHECK(all.finished);
  CHECK(all.runs == 6);

  // Reads do not differ by their order.
  const auto readers = [] {
    auto word = std::make_shared<Atomic<int>>(0);
    const auto twice = [word] { (void)word->load(), (void)word->load(); };
    return Scenario{{twice, twice, twice}, {}};
  };
  CHECK(Explorer::complete(readers, {100}).runs == 1);

  // Nor do counts that nobody looks at; of those that somebody does, each sum does.
  const auto counting = [](std::memory_order order) {
    return [order] {
      auto count = std::make_shared<Atomic<int>>(0);
      const auto add = [count, order] { count->fetch_add(1, order); };
      return Scenario{{add, add}, {}};
    };
  };
  CHECK(Explorer::complete(counting(std::memory_order_relaxed), {100}).runs == 1);
  CHECK(Explorer::complete(counting(std::memory_order_seq_cst), {100}).runs == 2);
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
  const auto less = Explorer::complete(writers(reduced), {100'000});
  const auto more = Explorer::whole(writers(whole), {400'000}, 3);
  CHECK(less.finished);
  CHECK(more.finished);
  CHECK(less.runs < more.runs);
  CHECK(distinct(reduced) == distinct(whole));
  CHECK(reduced.size() == 18);  // six orders of the letters, and one, two or three counted
}

TEST_CASE("of programs made by chance, a search that leaves out orders reaches every outcome", "[explorer]") {
  const auto programs = explore_number("TARN_EXPLORE_PROGRAMS", 25);
  std::uint64_t left_out = 0;
  for (std::uint64_t seed = 0; seed < programs; ++seed) {
    INFO("the program of seed " << seed);
    const auto three = seed % 2 == 0;
    const auto program = any_program(seed, three ? 3 : 2, three ? 3 : 5);
    const auto outcomes = [&](auto search) {
      std::set<std::string> seen;
      const auto report = search([&] { return running(program, seen); });
      CHECK(report.finished);
      return std::pair{seen, report.runs};
    };
    const auto [all, all_runs] = outcomes([](const auto& make) { return Explorer::whole(make, {}, SIZE_MAX); });
    const auto [reduced, runs] = outcomes([](const auto& make) { return Explorer::complete(make, {}); });
    CHECK(reduced == all);
    left_out += all_runs - runs;
    for (std::size_t preemptions = 0; preemptions < 4; ++preemptions) {
      INFO("with so many preemptions: " << preemptions);
      const auto within = outcomes([=](const auto& make) { return Explorer::whole(make, {}, preemptions); });
      const auto less = outcomes([=](const auto& make) { return Explorer::bounded(make, {}, preemptions); });
      // And perhaps more: to give up an iteration is no preemption.
      CHECK(std::includes(less.first.begin(), less.first.end(), within.first.begin(), within.first.end()));
      CHECK(less.second <= within.second);
    }
  }
  CHECK(left_out > 0);
}

TEST_CASE("what goes wrong after an iteration that was given up is seen, and its order replays", "[explorer]") {
  const auto make = [] {
    auto word = std::make_shared<Atomic<int>>(0);
    const auto add = [word] {
      auto before = word->load();
      while (!word->compare_exchange_weak(before, before + 1)) Explorer::fail("another iteration");
    };
    return Scenario{{add, add}, [word] { Explorer::expect(word->load() == 2, "an addition is lost"); }};
  };
  for (const auto& report : {Explorer::complete(make, {100}), Explorer::bounded(make, {100}, 1)}) {
    CHECK(report.failure == "another iteration");
    CHECK(Explorer::replay(make, report.order).failure == "another iteration");
  }
}

TEST_CASE("who waits for one that gave up an iteration competes with others all the same", "[explorer]") {
  struct World {
    Mutex first, middle;
    Atomic<int> word{0};
    int seen_by_one = -1, seen_by_three = -1;
  };
  std::set<std::string> outcomes;
  const auto make = [&] {
    auto world = std::make_shared<World>();
    const auto one = [world] {
      std::lock_guard lock{world->first};
      world->seen_by_one = update(world->word, 1);
    };
    const auto two = [world] {  // its store makes the exchange of `one` fail, and it waits for that with `middle` held
      world->word.store(7);
      std::lock_guard lock{world->middle};
      std::lock_guard inner{world->first};
    };
    const auto three = [world] {
      std::lock_guard lock{world->middle};
      world->seen_by_three = world->word.load();
    };
    return Scenario{{one, two, three}, [world, &outcomes] {
                      outcomes.insert(std::to_string(world->seen_by_one) + ' ' + std::to_string(world->seen_by_three) +
                                      ' ' + std::to_string(world->word.load()));
                    }};
  };
  const auto all_of = [&](const Explorer::Report& report) {
    CHECK(report.finished);
    return std::exchange(outcomes, {});
  };
  const auto whole = all_of(Explorer::whole(make, {}, 3));
  CHECK(all_of(Explorer::complete(make, {})) == whole);
  CHECK(all_of(Explorer::bounded(make, {}, 3)) == whole);
  CHECK(whole.size() == 6);
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
  const auto report = Explorer::complete(hand_over, {1000});
  CHECK(report.failure.empty());
  CHECK(report.finished);
  CHECK(report.runs >= 2);
}

TEST_CASE("an object that is used after its end is seen, also where its memory is as it was", "[explorer]") {
  const auto make = [] {
    auto word = std::make_shared<std::optional<Atomic<int>>>(1);
    return Scenario{{[=, at = &**word] { (void)at->load(); }, [=] { word->reset(); }}, {}};
  };
  const auto report = Explorer::complete(make, {100});
  CHECK(report.failure == "an object is used after its end");
}

TEST_CASE("the plan's rule, to clear the flag after the I/O, loses a write, and the explorer sees it", "[explorer]") {
  const auto report = Explorer::complete([] { return flag_cleared_after_the_store(false); }, {1000});
  CHECK(report.failure == "what was written during the store is lost");
  tarn_test::note_found("the plan's rule, to clear the flag after the I/O", report);
  const auto kept = Explorer::complete([] { return flag_cleared_after_the_store(true); }, {1000});
  CHECK(kept.failure.empty());
  CHECK(kept.finished);
}
