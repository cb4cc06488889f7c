// SPDX-License-Identifier: MIT
#pragma once

// What a test of the explorer asserts: that a scenario goes well in every order, or in all with a few preemptions and
// in some that are drawn.
//
// From the environment, for longer runs (explored_report.py makes one of all scenarios):
//
//   TARN_EXPLORE_PREEMPTIONS  where not every order is run: up to so many, one more after the other, not just the usual
//   TARN_EXPLORE_SECONDS      the most that each of those searches takes; without it, as long as it does
//   TARN_EXPLORE_ALL_SECONDS  where two threads are not usually run in every order: that is tried for so long
//   TARN_EXPLORE_RANDOM       so many orders of each of those scenarios are drawn, not 500
//   TARN_EXPLORE_SEED         from this seed, not 1
//   TARN_EXPLORE_ONLY_RANDOM  if it is 1: nothing is searched
//   TARN_EXPLORE_ROWS         what came of each scenario is added to this file: a line, with tabs, as write_row has it
//
// Thread safety: none.

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "explore/explorer.hpp"
#include "support/catch.hpp"

namespace tarn_test {

/// A number from the environment, or `usual`.
inline std::uint64_t explore_number(const char* name, std::uint64_t usual) {
  const auto* const asked = std::getenv(name);
  return asked != nullptr ? std::strtoull(asked, nullptr, 10) : usual;
}

/// What a thread of a scenario does to the world that it shares with the others.
template <class World>
using ActOn = std::function<void(World&)>;

template <class World>
[[nodiscard]] ActOn<World> in_turn(ActOn<World> first, ActOn<World> second) {
  return [=](World& world) { first(world), second(world); };
}
/// A thread for each act.
template <class World>
void add_threads(Scenario& scenario, const std::shared_ptr<World>& world, const std::vector<ActOn<World>>& acts) {
  for (const auto& act : acts) scenario.threads.emplace_back([=] { act(*world); });
}

/// In place of a number of preemptions: any.
inline constexpr std::size_t every_order = SIZE_MAX;

/// One way in which a scenario was run.
struct Explored {
  const char* way;          // all, bounded, unfinished, drawn; found: what is wrong on purpose, and was to be seen
  std::size_t preemptions;  // of bounded and unfinished
  Explorer::Report report;
  double seconds = 0;
};

inline void write_row(const Explored& its, const std::string& name) {
  const auto& report = its.report;
  const auto runs = static_cast<unsigned long long>(report.runs),
             steps = static_cast<unsigned long long>(report.steps_most);
  const auto preemptions = its.preemptions == every_order ? -1 : static_cast<int>(its.preemptions);
  std::printf("%8llu orders of %zu threads in up to %llu steps, %s%s, %.2f s: %s\n", runs, report.threads, steps,
              its.way, preemptions < 0 ? "" : (" by " + std::to_string(preemptions)).c_str(), its.seconds,
              name.c_str());
  const auto* const path = std::getenv("TARN_EXPLORE_ROWS");
  auto* const file = path != nullptr ? std::fopen(path, "a") : nullptr;
  if (file == nullptr) return;
  std::fprintf(file, "%s\t%s\t%d\t%zu\t%llu\t%llu\t%.3f\t%llu\t%s\n", name.c_str(), its.way, preemptions,
               report.threads, runs, steps, its.seconds, static_cast<unsigned long long>(report.given_up),
               report.failure.c_str());
  std::fclose(file);
}

/// Runs a search, and takes its time.
template <class Search>
[[nodiscard]] Explored explored(const char* way, std::size_t preemptions, Search search) {
  const auto begin = std::chrono::steady_clock::now();
  auto report = search();
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
  return {way, preemptions, std::move(report), took.count()};
}

/// Runs what `make` makes through every order that makes a difference; or through all with so many preemptions, and
/// through some that are drawn. `part`: which scenario of the test case it is.
inline void explore(const std::string& part, const std::function<Scenario()>& make,
                    std::size_t preemptions = every_order) {
  const auto name = Catch::getResultCapture().getCurrentTestName() + (part.empty() ? "" : ": ") + part;
  const auto check = [&](const Explored& its, bool to_its_end) {
    INFO(name << ", after the order " << its.report.order);
    CHECK(its.report.failure == "");
    CHECK((its.report.finished || !to_its_end));
    write_row(its, name);
    return its.report.failure.empty();
  };
  const bool all = preemptions == every_order;
  if (explore_number("TARN_EXPLORE_ONLY_RANDOM", 0) == 0) {
    const auto search = [&](const char* way, std::size_t bound, const Explorer::Limits& limits) {
      return explored(way, bound, [&] {
        return bound == every_order ? Explorer::complete(make, limits) : Explorer::bounded(make, limits, bound);
      });
    };
    auto last = search(all ? "all" : "bounded", preemptions, {});
    if (!check(last, true)) return;
    const auto most = explore_number("TARN_EXPLORE_PREEMPTIONS", preemptions);
    const Explorer::Limits limits{.seconds = explore_number("TARN_EXPLORE_SECONDS", UINT32_MAX)};
    while (!all && last.report.finished && last.preemptions < most) {
      last = search("bounded", last.preemptions + 1, limits);
      if (!last.report.finished) last.way = "unfinished";
      if (!check(last, false)) return;
    }
    const Explorer::Limits for_all{.seconds = explore_number("TARN_EXPLORE_ALL_SECONDS", 0)};
    if (!all && last.report.threads == 2 && for_all.seconds != 0) {
      last = search("all", every_order, for_all);
      if (!last.report.finished) last.way = "unfinished";
      if (!check(last, false)) return;
    }
  }
  if (all) {
    SUCCEED();  // also if nothing was searched
    return;
  }
  const Explorer::Limits draws{.runs = explore_number("TARN_EXPLORE_RANDOM", 500)};
  const auto seed = explore_number("TARN_EXPLORE_SEED", 1);
  (void)check(explored("drawn", every_order, [&] { return Explorer::random(make, draws, seed); }), false);
}
inline void explore(const std::function<Scenario()>& make, std::size_t preemptions = every_order) {
  explore("", make, preemptions);
}

/// Notes what is wrong on purpose, and was seen.
inline void note_found(const std::string& name, const Explorer::Report& report) {
  write_row({"found", every_order, report}, name);
}

}  // namespace tarn_test
