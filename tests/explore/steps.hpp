// SPDX-License-Identifier: MIT
#pragma once

// The steps of a run of the explorer, and which of them could have come in another order with another outcome: there a
// later run takes another turn. See explorer.hpp.
//
// Thread safety: none; the thread whose turn it is uses it.

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <unordered_map>
#include <vector>

namespace tarn_test {

inline constexpr std::size_t max_explored_threads = 4;
using ThreadSet = std::uint32_t;

inline ThreadSet bit(std::size_t thread) { return ThreadSet{1} << thread; }
inline std::size_t first_of(ThreadSet set) {
  std::size_t i = 0;
  while ((set & bit(i)) == 0) ++i;
  return i;
}

/// A step: which objects it uses, and how. Two reads can be exchanged, and so can two additions whose sum nobody looks
/// at.
struct Step {
  enum class Use : std::uint8_t { reads, adds, changes };

  const void* object = nullptr;
  const void* other = nullptr;  // a wait lets go of a mutex and begins on a condition variable
  Use use = Use::changes;
  const void* needs_free = nullptr;  // a mutex that must have no owner for it
  const void* frees = nullptr;       // a mutex that it lets go of
  bool needs_notice = false;         // and this thread must have been notified
};
inline bool dependent(const Step& a, const Step& b) {
  if (a.use == b.use && a.use != Step::Use::changes) return false;
  const auto is_one_of = [&](const void* object) {
    return object != nullptr && (object == b.object || object == b.other);
  };
  return is_one_of(a.object) || is_one_of(a.other);
}

class Steps {
 public:
  static constexpr std::size_t nowhere = SIZE_MAX;
  using Clock = std::array<std::size_t, max_explored_threads>;  // how many steps, up to each one's last, came before

  struct Thread {
    Step next;
    bool ended = true;
    Clock clock{};
  };
  /// What is known at one moment of a run: the path to it is the same in the runs that follow.
  struct Choice {
    std::size_t chosen = nowhere;
    ThreadSet enabled = 0, to_try = 0, tried = 0, asleep = 0;
    Step step;                   // of the chosen
    Clock clock{};               // after it
    std::size_t left = nowhere;  // the thread that could have gone on
    std::size_t preemptions = 0;
  };

  std::array<Thread, max_explored_threads> threads;
  std::vector<Choice> path;  ///< the steps taken, and then those that the run before took

  /// A run begins.
  void begin(std::size_t count) {
    past_.clear();
    threads.fill({});
    for (std::size_t i = 0; i < count; ++i) threads[i].ended = false;
  }
  /// The thread takes its next step, which is path[taken - 1] then.
  void note(std::size_t thread, std::size_t taken) {
    const auto& step = threads[thread].next;
    auto& clock = threads[thread].clock;
    clock = clock_of_next(thread);
    clock[thread] = taken;
    path[taken - 1].clock = clock;
    for (const auto* object : {step.object, step.other}) {
      if (object == nullptr) continue;
      auto& past = past_[object];
      join(past.clocks[static_cast<std::size_t>(step.use)], clock);
      past.steps.push_back(taken - 1);
    }
  }

  /// Without a bound, when a thread takes a step, after `taken` others: wherever one of those could have come later,
  /// and nothing between the two decides that, the other way is tried.
  void try_others(std::size_t thread, std::size_t taken) {
    competing_.clear();
    for_each_competing(thread, [&](std::size_t step) { competing_.push_back(step); });
    for (const auto step : competing_) {
      const auto is_between = [&](std::size_t i) { return i > step && path[i].clock[path[step].chosen] > step; };
      if (std::any_of(competing_.begin(), competing_.end(), is_between)) continue;
      auto& there = path[step];
      const auto first = could_be_first(thread, step, taken);
      if ((first & there.enabled) == 0) {
        there.to_try |= there.enabled;
      } else if (((there.to_try | there.asleep) & first) == 0) {
        there.to_try |= bit(first_of(first & there.enabled));
      }
    }
  }

  /// Within a bound, before each step: a thread whose next one could have come before another is tried there; and where
  /// the other one's thread had its turn before, since that may take a preemption less; and where that gives back a
  /// mutex, since who waits for it is not preempted. For that reason, too, all are tried where a thread cannot go on.
  void try_within_bound(std::size_t taken) {
    const auto try_before = [&](std::size_t thread, std::size_t step) {
      const auto add = [&](Choice& there) {
        there.to_try |= (there.enabled & bit(thread)) != 0 ? bit(thread) : there.enabled;
      };
      add(path[step]);
      while (step > 0 && path[step - 1].chosen == path[step].chosen) {
        if (path[--step].step.frees != nullptr) add(path[step]);
      }
      add(path[step]);
    };
    for (std::size_t p = 0; p < max_explored_threads; ++p) {
      if (threads[p].ended || taken == 0) continue;
      // Of a thread that has waited, the steps before the last one were looked at when they were.
      if (path[taken - 1].chosen == p) {
        for_each_competing(p, [&](std::size_t step) { try_before(p, step); });
      } else if (competes(taken - 1, p)) {
        try_before(p, taken - 1);
      }
    }
  }

 private:
  using Use = Step::Use;
  // What the steps of a run have done to an object.
  struct Past {
    std::array<Clock, 3> clocks{};   // by use
    std::vector<std::size_t> steps;  // by their place in the path
  };

  static void join(Clock& into, const Clock& from) {
    for (std::size_t i = 0; i < from.size(); ++i) into[i] = std::max(into[i], from[i]);
  }
  // What comes before the thread's next step, if that is taken now.
  [[nodiscard]] Clock clock_of_next(std::size_t thread) const {
    const auto& step = threads[thread].next;
    auto clock = threads[thread].clock;
    for (const auto* object : {step.object, step.other}) {
      const auto past = past_.find(object);
      if (past == past_.end()) continue;
      for (const auto use : {Use::reads, Use::adds, Use::changes}) {
        if (use != step.use || use == Use::changes) join(clock, past->second.clocks[static_cast<std::size_t>(use)]);
      }
    }
    return clock;
  }
  // Whether the thread's next step could come before that one, and that would make a difference.
  [[nodiscard]] bool competes(std::size_t step, std::size_t thread) const {
    const auto& past = path[step];
    const auto& next = threads[thread].next;
    if (past.chosen == thread || !dependent(past.step, next)) return false;
    if (next.needs_free != nullptr && past.step.frees == next.needs_free) return false;  // the taking is what competes
    return threads[thread].clock[past.chosen] <= step;  // else it came before, whatever the order
  }
  template <class F>
  void for_each_competing(std::size_t thread, F f) {
    const auto& next = threads[thread].next;
    for (const auto* object : {next.object, next.other}) {
      const auto past = past_.find(object);
      if (past == past_.end()) continue;
      for (const auto step : past->second.steps) {
        if (competes(step, thread)) f(step);
      }
    }
  }

  // Of what was done since that step and does not depend on it, and then the thread's next step: who could have begun,
  // and the rest would have been the same. It must be one of those, and one is enough (Abdulla, Aronis, Jonsson and
  // Sagonas, "Optimal dynamic partial order reduction", 2014: source sets).
  [[nodiscard]] ThreadSet could_be_first(std::size_t thread, std::size_t step, std::size_t taken) const {
    std::array<std::size_t, max_explored_threads> begins;  // each one's first step of those
    begins.fill(nowhere);
    for (auto i = step + 1; i < taken; ++i) {
      const auto& its = path[i];
      if (begins[its.chosen] == nowhere && its.clock[path[step].chosen] <= step) begins[its.chosen] = i;
    }
    const bool has_waited = begins[thread] == nowhere;
    if (has_waited) begins[thread] = taken;
    ThreadSet first = 0;
    for (std::size_t i = 0; i < max_explored_threads; ++i) {
      if (begins[i] == nowhere) continue;
      const auto clock = i == thread && has_waited ? clock_of_next(thread) : path[begins[i]].clock;
      bool is_first = true;
      for (std::size_t other = 0; other < max_explored_threads; ++other) {
        if (other != i && begins[other] != nowhere && clock[other] > begins[other]) is_first = false;
      }
      if (is_first) first |= bit(i);
    }
    return first;
  }

  std::unordered_map<const void*, Past> past_;
  std::vector<std::size_t> competing_;
};

}  // namespace tarn_test
