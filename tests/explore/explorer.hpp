// SPDX-License-Identifier: MIT
#pragma once

// Runs a few threads through every order of their steps that could make a difference, and names the order that fails.
//
// A step is one use of an atomic, a mutex or a condition variable (see explored_sync.hpp); between two steps a thread
// runs alone. Before each step the thread says what it will do and waits for its turn, so at every moment the next step
// of every thread is known. One run after the other takes other turns:
//
//   complete   dynamic partial-order reduction: an order is left out only if another one that was run gives the same
//              (Flanagan and Godefroid, "Dynamic partial-order reduction for model checking software", 2005), with
//              sleep sets (Godefroid, 1996). Which two steps can be exchanged: see Use.
//   bounded    every order with so many preemptions at most (Musuvathi and Qadeer, "Iterative context bounding for
//              systematic testing of multithreaded programs", 2007)
//   random     turns drawn by a seed
//
// What it does not see: orders that only weak memory gives (each step takes effect at once), a compare_exchange_weak
// that fails for no reason, a notify_one that wakes another than the first, a wait that ends by time.
//
// Thread safety: one exploration at a time in a process.

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <semaphore>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace tarn_test {

/// What is run: made anew for each order.
struct Scenario {
  std::vector<std::function<void()>> threads;
  std::function<void()> at_end;  ///< what must hold when all have ended; may call Explorer::fail
};

class Explorer {
 public:
  static constexpr std::size_t max_threads = 4;

  /// What a step does to an object. Two reads can be exchanged, and so can two additions whose sum nobody looks at.
  enum class Use : std::uint8_t { reads, adds, changes };

  /// A step: which objects it uses, and how.
  struct Step {
    const void* object = nullptr;
    const void* other = nullptr;  // a wait lets go of a mutex and begins on a condition variable
    Use use = Use::changes;
    const void* needs_free = nullptr;  // a mutex that must have no owner for it
    const void* frees = nullptr;       // a mutex that it lets go of
    bool needs_notice = false;         // and this thread must have been notified
  };
  struct Report {
    std::uint64_t runs = 0;
    std::uint64_t steps_most = 0;
    bool finished = false;  ///< nothing is left to be tried
    std::string failure;    ///< empty: none
    std::string order;      ///< of the failure: a digit for each step's thread
  };
  using Make = std::function<Scenario()>;

  /// Complete, unless `runs_max` comes first.
  [[nodiscard]] static Report complete(const Make& make, std::uint64_t runs_max) {
    return Explorer{}.search(make, runs_max, no_bound);
  }
  [[nodiscard]] static Report bounded(const Make& make, std::uint64_t runs_max, std::size_t preemptions) {
    return Explorer{}.search(make, runs_max, preemptions);
  }
  [[nodiscard]] static Report random(const Make& make, std::uint64_t runs, std::uint64_t seed) {
    Explorer explorer;
    std::mt19937_64 draw{seed};
    explorer.draw_ = &draw;
    while (explorer.report_.runs < runs && explorer.report_.failure.empty()) explorer.run(make);
    return explorer.report_;
  }
  /// The one order of a report.
  [[nodiscard]] static Report replay(const Make& make, const std::string& order) {
    Explorer explorer;
    for (const char thread : order) explorer.path_.emplace_back().chosen = static_cast<std::size_t>(thread - '0');
    explorer.run(make);
    return explorer.report_;
  }

  /// From a thread of the scenario, or its end: this order is wrong. Only the first word counts.
  static void fail(const std::string& why) {
    if (active_->report_.failure.empty()) active_->report_.failure = why;
  }
  static void expect(bool holds, const char* what) {
    if (!holds) fail(what);
  }

  // ---- For explored_sync.hpp. Outside of a scenario's threads these do nothing.

  /// Waits for this thread's turn for the step.
  static void step(const Step& what) {
    if (self_ == none) return;
    auto& explorer = *active_;
    explorer.threads_[self_].next = what;
    explorer.pass_on();
  }
  static void take(const void* mutex) {
    if (self_ != none) active_->owners_[mutex] = self_;
  }
  static void let_go(const void* mutex) {
    if (self_ != none) active_->owners_.erase(mutex);
  }
  [[nodiscard]] static bool is_taken(const void* mutex) { return self_ != none && active_->owners_.contains(mutex); }
  static void begin_wait(const void* condition) {
    if (self_ == none) return;
    active_->threads_[self_].notified = false;
    active_->waiting_[condition].push_back(self_);
  }
  static void notify(const void* condition, bool all) {
    if (self_ == none) return;
    auto& waiting = active_->waiting_[condition];
    const auto count = all ? waiting.size() : std::min<std::size_t>(waiting.size(), 1);
    for (std::size_t i = 0; i < count; ++i) active_->threads_[waiting[i]].notified = true;
    waiting.erase(waiting.begin(), waiting.begin() + static_cast<std::ptrdiff_t>(count));
  }

 private:
  static constexpr std::size_t none = SIZE_MAX, no_bound = SIZE_MAX;
  using Set = std::uint32_t;  // of threads
  using Clock =
      std::vector<std::size_t>;  // for each thread: how many steps of the run, up to its last one, came before

  struct Thread {
    std::thread runs;
    std::binary_semaphore turn{0};
    Step next;
    bool notified = false, ended = false;
    Clock clock;
  };
  // What is known at one moment of a run: the path to it is the same in the runs that follow.
  struct Choice {
    std::size_t chosen = none;
    Set enabled = 0, to_try = 0, tried = 0, asleep = 0;
    Step step;                // of the chosen
    std::size_t left = none;  // the thread that could have gone on
    std::size_t preemptions = 0;
  };
  using Touched = std::array<Clock, 3>;  // by use

  static Set bit(std::size_t thread) { return Set{1} << thread; }
  static bool dependent(const Step& a, const Step& b) {
    if (a.use == b.use && a.use != Use::changes) return false;
    const auto is_one_of = [&](const void* object) {
      return object != nullptr && (object == b.object || object == b.other);
    };
    return is_one_of(a.object) || is_one_of(a.other);
  }

  Report search(const Make& make, std::uint64_t runs_max, std::size_t preemptions) {
    preemptions_max_ = preemptions;
    while (report_.runs < runs_max) {
      run(make);
      if (!report_.failure.empty()) return report_;
      if (!next_path()) {
        report_.finished = true;
        return report_;
      }
    }
    return report_;
  }

  // Cuts the path to its last moment at which something else is to be tried, and chooses that.
  bool next_path() {
    while (!path_.empty()) {
      auto& last = path_.back();
      last.tried |= bit(last.chosen);
      last.asleep |= bit(last.chosen);
      const Set left = last.to_try & ~last.tried & (bounds() ? ~Set{0} : ~last.asleep);
      if (left != 0) {
        last.chosen = first_of(left);
        return true;
      }
      path_.pop_back();
    }
    return false;
  }
  [[nodiscard]] bool bounds() const { return preemptions_max_ != no_bound; }
  static std::size_t first_of(Set set) {
    for (std::size_t i = 0; i < max_threads; ++i) {
      if ((set & bit(i)) != 0) return i;
    }
    return none;
  }

  void run(const Make& make) {
    active_ = this;
    {
      Scenario scenario = make();
      count_ = scenario.threads.size();
      at_ = 0;
      current_ = none;
      redundant_ = false;
      order_.clear();
      owners_.clear();
      waiting_.clear();
      touched_.clear();
      threads_ = std::vector<Thread>(0);
      std::vector<Thread> fresh(count_);
      threads_.swap(fresh);
      for (std::size_t i = 0; i < count_; ++i) {
        threads_[i].clock.assign(count_, 0);
        threads_[i].runs = std::thread{[this, i, &scenario] {
          self_ = i;
          threads_[i].turn.acquire();
          scenario.threads[i]();
          threads_[i].ended = true;
          self_ = none;
          hand_over(choose());
        }};
      }
      hand_over(choose());
      done_.acquire();
      for (auto& thread : threads_) thread.runs.join();
      if (scenario.at_end && report_.failure.empty()) scenario.at_end();
    }
    ++report_.runs;
    report_.steps_most = std::max<std::uint64_t>(report_.steps_most, order_.size());
    if (!report_.failure.empty()) report_.order = order_;
    active_ = nullptr;
  }

  // In the thread whose turn it was: chooses who is next, and waits for its own next turn.
  void pass_on() {
    const auto chosen = choose();
    if (chosen == self_) return;
    const auto me = self_;
    hand_over(chosen);
    threads_[me].turn.acquire();
  }
  void hand_over(std::size_t chosen) {
    if (chosen == none) {
      done_.release();
    } else {
      threads_[chosen].turn.release();
    }
  }

  [[nodiscard]] bool can_go(std::size_t thread) const {
    const auto& [runs, turn, next, notified, ended, clock] = threads_[thread];
    return !ended && (next.needs_free == nullptr || !owners_.contains(next.needs_free)) &&
           (!next.needs_notice || notified);
  }

  std::size_t choose() {
    Set enabled = 0;
    bool all_ended = true;
    for (std::size_t i = 0; i < count_; ++i) {
      if (can_go(i)) enabled |= bit(i);
      all_ended = all_ended && threads_[i].ended;
    }
    if (all_ended) return none;
    if (enabled == 0) die("every thread waits");
    const auto chosen = draw_ != nullptr ? draw(enabled) : follow(enabled);
    order_ += static_cast<char>('0' + chosen);
    if (order_.size() > steps_max) die("a run without end");
    note(chosen);
    current_ = chosen;
    return chosen;
  }
  std::size_t draw(Set enabled) {
    auto skip = (*draw_)() % static_cast<std::uint64_t>(__builtin_popcount(enabled));
    for (std::size_t i = 0;; ++i) {
      if ((enabled & bit(i)) != 0 && skip-- == 0) return i;
    }
  }

  std::size_t follow(Set enabled) {
    if (redundant_) return first_of(enabled);
    if (at_ == path_.size()) {
      Choice choice;
      choice.enabled = enabled;
      if (!path_.empty()) {
        const auto& before = path_.back();
        choice.preemptions = before.preemptions + (before.left != none && before.chosen != before.left ? 1 : 0);
        for (std::size_t i = 0; i < count_ && !bounds(); ++i) {
          if ((before.asleep & bit(i)) != 0 && i != before.chosen && !dependent(before.step, threads_[i].next)) {
            choice.asleep |= bit(i);
          }
        }
      }
      const bool can_stay = current_ != none && (enabled & bit(current_)) != 0;
      if (can_stay) choice.left = current_;
      if (bounds()) {
        choice.to_try = can_stay && choice.preemptions >= preemptions_max_ ? bit(current_) : enabled;
      }
      const Set awake = enabled & ~choice.asleep;
      if (awake == 0) {  // every order from here on was run from elsewhere
        redundant_ = true;
        return first_of(enabled);
      }
      choice.chosen = can_stay && (awake & bit(current_)) != 0 ? current_ : first_of(awake);
      choice.to_try |= bit(choice.chosen);
      path_.push_back(choice);
    }
    auto& choice = path_[at_];
    if ((enabled & bit(choice.chosen)) == 0)
      die("a run did not go as the one before it: the scenario is not determined");
    choice.enabled = enabled;
    choice.step = threads_[choice.chosen].next;
    ++at_;
    return choice.chosen;
  }

  // What the next steps of all have to do with those that were taken: where two could be exchanged, both are tried.
  void note(std::size_t chosen) {
    if (draw_ != nullptr || bounds() || redundant_) return;
    for (std::size_t p = 0; p < count_; ++p) {
      if (threads_[p].ended) continue;
      const auto& next = threads_[p].next;
      for (auto i = at_ - 1; i-- > 0;) {
        const auto& past = path_[i];
        if (past.chosen == p || !dependent(past.step, next)) continue;
        if (next.needs_free != nullptr && past.step.frees == next.needs_free) continue;  // the taking is what competes
        if (threads_[p].clock[past.chosen] > i) continue;  // it came before, whatever the order
        auto& there = path_[i];
        there.to_try |= (there.enabled & bit(p)) != 0 ? bit(p) : there.enabled;
        break;
      }
    }
    auto& clock = threads_[chosen].clock;
    const auto& step = threads_[chosen].next;
    const auto join = [](Clock& into, const Clock& from) {
      for (std::size_t i = 0; i < from.size(); ++i) into[i] = std::max(into[i], from[i]);
    };
    for (const auto* object : {step.object, step.other}) {
      if (object == nullptr) continue;
      auto& touched = touched_[object];
      for (const auto use : {Use::reads, Use::adds, Use::changes}) {
        auto& by = touched[static_cast<std::size_t>(use)];
        if (by.empty()) by.assign(count_, 0);
        if (use != step.use || use == Use::changes) join(clock, by);
      }
    }
    clock[chosen] = at_;
    for (const auto* object : {step.object, step.other}) {
      if (object != nullptr) join(touched_[object][static_cast<std::size_t>(step.use)], clock);
    }
  }

  // The threads cannot be taken back from where they wait, so this is the end of the process.
  [[noreturn]] void die(const char* why) {
    std::fprintf(stderr, "explorer: %s, after the order %s\n", why, order_.c_str());
    std::abort();
  }

  static constexpr std::size_t steps_max = 100'000;
  static inline Explorer* active_ = nullptr;
  static inline thread_local std::size_t self_ = none;

  std::vector<Choice> path_;
  std::vector<Thread> threads_;
  std::map<const void*, std::size_t> owners_;
  std::map<const void*, std::vector<std::size_t>> waiting_;
  std::map<const void*, Touched> touched_;
  std::binary_semaphore done_{0};
  std::string order_;
  Report report_;
  std::mt19937_64* draw_ = nullptr;
  std::size_t count_ = 0, at_ = 0, current_ = none, preemptions_max_ = no_bound;
  bool redundant_ = false;  // what this run still has in it was run from elsewhere
};

}  // namespace tarn_test
