// SPDX-License-Identifier: MIT
#pragma once

// The sweep of a script: it runs once with no fault, and then again and again, each time with another fault point that
// fails, alone or with all that come after it: of each kind, in each way, up to the first that a run does not meet any
// more; of all kinds numbered together; and of two kinds, one of them for ever from a point on, the other once.
//
// TARN_FAULTS=all: every point. Without it, of all kinds together a script takes some, spread over all.
// TARN_FAULTS_REPORT=FILE: what was swept is added there, a line for each row of tests/fault/sweep_report.py.
//
// Thread safety: none. Included by one file of a program: it replaces operator new.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <initializer_list>
#include <iostream>
#include <string>
#include <string_view>
#include <utility>

#include <tarn/testing/random.hpp>

#include "fault/sweep_run.hpp"
#include "support/catch.hpp"
#include "support/replaced_new.hpp"

bool tarn_test::may_allocate() noexcept { return !fault_points.fails(Fault::allocation); }

namespace tarn_test {

/// How many points a sweep takes of all kinds together, in one way, once and for ever; about so many. And how many
/// pairs of points for each pair of kinds.
struct SweepEffort {
  std::uint64_t together = 200, pairs = 2;

  [[nodiscard]] static SweepEffort of_environment() {
    const char* const said = std::getenv("TARN_FAULTS");
    if (said == nullptr || std::string_view{said} != "all") return {};
    return {.together = UINT64_MAX, .pairs = 40};
  }
};

/// `Script` is made of a SweepPlan, whether it looks at the files also before the first fault, and a SweepReach; it has
/// `run` and `wrong`.
template <class Script>
class Sweep {
 public:
  /// Runs it with no fault. `name`: of the script, in the report.
  Sweep(std::string name, const SweepPlan& how) : name_{std::move(name)}, how_{how} {
    INFO("with no fault");
    fault_points.begin(FaultRule{});
    const auto why = run(how, true, clean_);
    if (!why.empty()) note("with no fault", why);
    met_ = fault_points.met();
    show("with no fault", clean_);
  }

  void sweep() {
    for (std::size_t i = 0; i < fault_names.size(); ++i) {
      if (met_[i] != 0) alone(static_cast<Fault>(i));
    }
    together();
    pairs();
    show("in all", reach_);
  }

  /// What a run with no fault has met; and all the others together.
  [[nodiscard]] const SweepReach& clean() const { return clean_; }
  [[nodiscard]] const SweepReach& reach() const { return reach_; }
  [[nodiscard]] std::uint64_t met(Fault kind) const { return met_[static_cast<std::size_t>(kind)]; }
  /// How many of each kind have failed in all the runs.
  [[nodiscard]] std::uint64_t struck(Fault kind) const { return struck_[static_cast<std::size_t>(kind)]; }
  /// The runs of pairs, and those of them in which both have failed.
  [[nodiscard]] std::uint64_t pairs_run() const { return pairs_run_; }
  [[nodiscard]] std::uint64_t pairs_struck() const { return pairs_struck_; }
  /// A line for each run that went wrong, the first of them; empty if none did.
  [[nodiscard]] const std::string& wrong() const { return wrong_; }

 private:
  struct Row {
    std::uint64_t points = 0;  // in a run with no fault
    std::uint64_t once = 0, for_ever = 0, wrong = 0;
  };

  [[nodiscard]] static std::string run(const SweepPlan& plan, bool looks, SweepReach& reach) {
    const auto out_before = allocations_out();
    std::string wrong;
    {
      Script script{plan, looks, reach};
      script.run();
      wrong = script.wrong();
    }
    const auto out = allocations_out() - out_before;
    if (wrong.empty() && out != 0) wrong = "allocations that were not given back: " + std::to_string(out);
    return wrong;
  }
  void note(const std::string& point, const std::string& why) {
    if (++wrong_runs_ <= 20) wrong_ += point + ": " + why + '\n';
  }
  /// One run. Returns: whether any point failed.
  bool run(Row& row, FaultWay way, const std::string& point, const FaultRule& rule, const FaultRule& another = {}) {
    INFO(name_ << ": " << point);  // for what ends the program
    fault_points.begin(rule, another);
    auto plan = how_;
    plan.way = way;
    const auto why = run(plan, false, reach_);
    if (!why.empty()) {
      ++row.wrong;
      note(point, why);
    }
    for (std::size_t i = 0; i < struck_.size(); ++i) struck_[i] += fault_points.strikes_by_kind()[i];
    return fault_points.strikes() != 0;
  }
  // Of these kinds one point after the other, up to the first that no run meets: `most` of them, about, or all.
  void each(Row& row, FaultKinds kinds, FaultWay way, const std::string& what, std::uint64_t most) {
    const auto step = std::max<std::uint64_t>(row.points / most, 1);
    for (const bool for_ever : {false, true}) {
      auto& count = for_ever ? row.for_ever : row.once;
      for (std::uint64_t nth = 0;; nth += step, ++count) {
        const auto point =
            what + ", " + name_of(way) + ", " + std::to_string(nth) + (for_ever ? " for ever" : " alone");
        if (!run(row, way, point, {kinds, nth, for_ever})) break;
      }
    }
  }
  void alone(Fault kind) {
    Row row{.points = met(kind)};
    for (std::size_t i = 0; i < fault_way_names.size(); ++i) {
      const auto way = static_cast<FaultWay>(i);
      if (can_fail(kind, way)) each(row, kind_of(kind), way, name_of(kind), UINT64_MAX);
    }
    report(name_of(kind), row);
  }
  void together() {
    Row row;
    for (const auto met : met_) row.points += met;
    for (const auto way : some_ways) each(row, all_kinds, way, "any kind", effort_.together);
    report("any kind", row);
  }
  void pairs() {
    Row row;
    tarn::testing::Random random{1};
    for (std::size_t a = 0; a < met_.size(); ++a) {
      for (std::size_t b = 0; b < met_.size(); ++b) {
        if (a == b || met_[a] == 0 || met_[b] == 0) continue;
        ++row.points;
        for (std::uint64_t i = 0; i < effort_.pairs; ++i)
          pair(row, random, static_cast<Fault>(a), static_cast<Fault>(b));
      }
    }
    // None is drawn: what a failed sync has made dirty again when memory ran out was once not counted.
    for (std::uint64_t nth = 0; met(Fault::sync) != 0 && nth < met(Fault::allocation); ++nth) {
      pair(row, FaultWay::dropped, Fault::sync, 0, Fault::allocation, nth);
    }
    report("pairs of kinds", row);
  }
  void pair(Row& row, tarn::testing::Random& random, Fault lasting, Fault once) {
    const auto way = some_ways[random.below(std::size(some_ways))];
    const auto from = random.below(met(lasting));
    pair(row, way, lasting, from, once, random.below(met(once)));
  }
  void pair(Row& row, FaultWay way, Fault lasting, std::uint64_t from, Fault once, std::uint64_t nth) {
    const FaultRule first{kind_of(lasting), from, true};
    const FaultRule second{kind_of(once), nth, false};
    const auto point = name_of(lasting) + ", " + name_of(way) + ", " + std::to_string(first.nth) + " for ever, and " +
                       name_of(once) + ' ' + std::to_string(second.nth) + " alone";
    (void)run(row, way, point, first, second);
    ++row.once;
    ++row.for_ever;
    ++pairs_run_;
    const auto& strikes = fault_points.strikes_by_kind();
    const bool both = strikes[static_cast<std::size_t>(lasting)] != 0 && strikes[static_cast<std::size_t>(once)] != 0;
    pairs_struck_ += both ? 1 : 0;
  }

  [[nodiscard]] static std::string name_of(Fault kind) { return fault_names[static_cast<std::size_t>(kind)]; }
  [[nodiscard]] static std::string name_of(FaultWay way) { return fault_way_names[static_cast<std::size_t>(way)]; }

  void report(const std::string& what, const Row& row) const {
    std::cout << name_ << ", " << what << ": " << row.points << " points in a run; " << row.once << " runs with one, "
              << row.for_ever << " with all from one on; wrong: " << row.wrong << std::endl;
    const char* const file = std::getenv("TARN_FAULTS_REPORT");
    if (file == nullptr) return;
    std::ofstream{file, std::ios::app} << name_ << '\t' << what << '\t' << row.points << '\t' << row.once << '\t'
                                       << row.for_ever << '\t' << row.wrong << '\n';
  }
  void show(const char* what, const SweepReach& reach) const {
    std::cout << name_ << ", " << what << ": " << reach.calls << " calls, " << reach.errors << " errors, short writes "
              << reach.short_writes << ", evictions " << reach.evictions << ", flushes for room "
              << reach.flushed_for_room << ", throttled " << reach.throttled << ", room waits " << reach.room_waits
              << ", swaps " << reach.swaps << ", uncached loads " << reach.uncached << ", bytes loaded ahead "
              << reach.ahead_bytes << ", load waits " << reach.load_waits << ", flushes side by side "
              << reach.side_by_side << ", bytes written in flight " << reach.redirtied_bytes << ", unsure "
              << reach.unsure << std::endl;
  }

  static constexpr FaultWay some_ways[] = {FaultWay::error, FaultWay::dropped, FaultWay::partly};

  const std::string name_;
  const SweepPlan how_;
  const SweepEffort effort_ = SweepEffort::of_environment();
  FaultCounts met_{}, struck_{};
  SweepReach clean_, reach_;
  std::uint64_t wrong_runs_ = 0, pairs_run_ = 0, pairs_struck_ = 0;
  std::string wrong_;
};

/// What every sweep ends with. `kinds`: those that the script is for.
template <class Script>
void check_sweep(Sweep<Script>& sweep, std::initializer_list<Fault> kinds) {
  sweep.sweep();
  for (const auto kind : kinds) {
    CAPTURE(fault_names[static_cast<std::size_t>(kind)]);
    CHECK(sweep.met(kind) >= 1);
    CHECK(sweep.struck(kind) >= 1);
  }
  CHECK(sweep.reach().errors > 0);
  CHECK(5 * sweep.pairs_struck() >= sweep.pairs_run());
  CHECK(sweep.wrong() == "");
}

}  // namespace tarn_test
