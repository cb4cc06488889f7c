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
//              sleep sets (Godefroid, 1996) and source sets (steps.hpp). Which two steps can be exchanged: see Step.
//              A thread of which an iteration of a loop has only looked goes no further, as if it waited for ever: in
//              another order that is run it looked later (Kokologiannakis, Ren and Vafeiadis, "Dynamic partial order
//              reductions for spinloops", 2021). The others are run to where they end, or wait for it
//   bounded    the same, of the orders with so many preemptions at most (Musuvathi and Qadeer, "Iterative context
//              bounding for systematic testing of multithreaded programs", 2007). Where two steps could be exchanged,
//              the other one is tried before the first and before all that the first one's thread did in one go, which
//              may take a preemption less (Coons, Musuvathi and McKinley, "Bounded partial-order reduction", 2013);
//              that this reaches what `whole` does is tested, on programs made by chance; it is not proven
//   whole      all of those, leaving out none: what `bounded` is compared with
//   random     turns drawn by a seed
//
// It also sees an atomic, a mutex or a condition variable that is used after its end, as long as nothing of its kind
// was made in its place.
//
// What it does not see: orders that only weak memory gives (each step takes effect at once), a compare_exchange_weak
// that fails for no reason, a notify_one that wakes another than the first, a wait that ends by time.
//
// Thread safety: one exploration at a time in a process.

#include <sched.h>
#include <semaphore.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "explore/steps.hpp"

namespace tarn_test {

/// What is run: made anew for each order.
struct Scenario {
  std::vector<std::function<void()>> threads;
  std::function<void()> at_end;  ///< what must hold when all have ended; may call Explorer::fail
};

/// What one thread waits for and another gives. Of the system, and not std::binary_semaphore: that yields a few times
/// before it sleeps, and where threads share a processor with a busy program, a yield gives that one all of its slice.
class Turn {
 public:
  Turn() { ::sem_init(&semaphore_, 0, 0); }
  ~Turn() { ::sem_destroy(&semaphore_); }
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;
  void give() { ::sem_post(&semaphore_); }
  void wait() {
    while (::sem_wait(&semaphore_) != 0) continue;  // EINTR
  }

 private:
  ::sem_t semaphore_{};
};

class Explorer {
 public:
  struct Report {
    std::uint64_t runs = 0;
    std::uint64_t steps_most = 0;
    std::size_t threads = 0;
    std::uint64_t given_up = 0;  ///< orders that could not be followed
    bool finished = false;       ///< nothing else is left to be tried
    std::string failure;         ///< empty: none
    std::string order;           ///< of the failure: a digit for each step's thread
  };
  /// When to stop: after so many runs, or in the first one that ends after so many seconds.
  struct Limits {
    std::uint64_t runs = UINT64_MAX;
    std::uint64_t seconds = UINT32_MAX;
  };
  using Make = std::function<Scenario()>;

  [[nodiscard]] static Report complete(const Make& make, const Limits& limits) {
    return Explorer{Way::reduced, no_bound}.search(make, limits);
  }
  [[nodiscard]] static Report bounded(const Make& make, const Limits& limits, std::size_t preemptions) {
    return Explorer{Way::reduced, preemptions}.search(make, limits);
  }
  [[nodiscard]] static Report whole(const Make& make, const Limits& limits, std::size_t preemptions) {
    return Explorer{Way::whole, preemptions}.search(make, limits);
  }
  [[nodiscard]] static Report random(const Make& make, const Limits& limits, std::uint64_t seed) {
    Explorer explorer{Way::drawn, no_bound};
    explorer.draw_.seed(seed);
    while (explorer.may_go_on(limits) && explorer.report_.failure.empty()) explorer.run(make);
    return explorer.report_;
  }
  /// The one order of a report.
  [[nodiscard]] static Report replay(const Make& make, const std::string& order) {
    Explorer explorer{Way::whole, no_bound};
    for (const char thread : order) explorer.steps_.path.emplace_back().chosen = static_cast<std::size_t>(thread - '0');
    explorer.run(make);
    if (explorer.strayed_) explorer.report_.failure = "the order cannot be followed";
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

  /// What the step just taken is done to must live.
  static void expect_alive(bool lives) {
    if (self_ == none || lives) return;
    fail("an object is used after its end");
    std::fprintf(stderr, "explorer: an object is used after its end, after the order %s\n", active_->order_.c_str());
  }

  /// Waits for this thread's turn for the step.
  static void step(const Step& what) {
    if (self_ == none) return;
    auto& explorer = *active_;
    explorer.steps_.threads[self_].next = what;
    explorer.pass_on();
  }
  /// An iteration of a loop has done nothing but look, and the thread begins the next. See `complete` above.
  static void give_up_iteration() {
    if (self_ != none && active_->reduces()) active_->threads_[self_].given_up = true;
    step({});
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
  static constexpr std::size_t none = Steps::nowhere, no_bound = SIZE_MAX;
  enum class Way : std::uint8_t { reduced, whole, drawn };
  using Set = ThreadSet;

  struct Thread {
    std::thread runs;
    Turn turn;
    bool notified = false;
    bool given_up = false;  // see give_up_iteration
  };
  // One thread runs at a time, and hands over to another for next to nothing on the same processor.
  Explorer(Way way, std::size_t preemptions_max) : way_{way}, preemptions_max_{preemptions_max} {
    ::cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(::sched_getcpu(), &one);
    if (::sched_getaffinity(0, sizeof processors_, &processors_) != 0) CPU_ZERO(&processors_);
    (void)::sched_setaffinity(0, sizeof one, &one);
  }
  ~Explorer() {
    ending_ = true;
    for (std::size_t i = 0; i < count_; ++i) {
      threads_[i].turn.give();
      threads_[i].runs.join();
    }
    (void)::sched_setaffinity(0, sizeof processors_, &processors_);
  }

  [[nodiscard]] bool may_go_on(const Limits& limits) const {
    return report_.runs < limits.runs &&
           std::chrono::steady_clock::now() - begun_ < std::chrono::seconds{limits.seconds};
  }
  Report search(const Make& make, const Limits& limits) {
    // What is hashed by address may be somewhere else than in the run before: such a run is made again, a few times.
    for (std::size_t strayed = 0; may_go_on(limits);) {
      run(make);
      if (!report_.failure.empty()) return report_;
      if (strayed_ && ++strayed < 20) continue;
      if (strayed_) {
        ++report_.given_up;
        steps_.path.resize(at_ + 1);
      }
      strayed = 0;
      if (!next_path()) {
        report_.finished = true;
        return report_;
      }
    }
    return report_;
  }

  // Cuts the path to its last moment at which something else is to be tried, and chooses that.
  bool next_path() {
    while (!steps_.path.empty()) {
      auto& last = steps_.path.back();
      last.tried |= bit(last.chosen);
      last.asleep |= bit(last.chosen);
      auto left = last.to_try & ~last.tried;
      if (!bounds()) left &= ~last.asleep;
      if (last.left != none && last.preemptions >= preemptions_max_) left &= bit(last.left);
      if (left != 0) {
        last.chosen = first_of(left);
        return true;
      }
      steps_.path.pop_back();
    }
    return false;
  }
  [[nodiscard]] bool bounds() const { return preemptions_max_ != no_bound; }
  [[nodiscard]] bool reduces() const { return way_ == Way::reduced && !redundant_; }

  void run(const Make& make) {
    active_ = this;
    {
      const Scenario scenario = make();
      scenario_ = &scenario;
      begin(scenario.threads.size());
      hand_over(choose());
      done_.wait();
      if (scenario.at_end && report_.failure.empty()) scenario.at_end();
    }
    ++report_.runs;
    report_.steps_most = std::max<std::uint64_t>(report_.steps_most, order_.size());
    if (!report_.failure.empty()) report_.order = order_;
    active_ = nullptr;
  }
  void begin(std::size_t threads) {
    at_ = 0;
    current_ = none;
    redundant_ = strayed_ = false;
    order_.clear();
    owners_.clear();
    waiting_.clear();
    steps_.begin(threads);
    for (auto& thread : threads_) thread.notified = thread.given_up = false;
    for (; count_ < threads; ++count_) threads_[count_].runs = std::thread{[this, me = count_] { work(me); }};
    report_.threads = count_;
  }
  // The threads are the same in every run: it has the same thread in the same place, and so have their memory.
  void work(std::size_t me) {
    for (;;) {
      threads_[me].turn.wait();
      if (ending_) return;
      self_ = me;
      scenario_->threads[me]();
      self_ = none;
      steps_.threads[me].ended = true;
      hand_over(choose());
    }
  }

  // In the thread whose turn it was: chooses who is next, and waits for its own next turn.
  void pass_on() {
    const auto chosen = choose();
    if (chosen == self_) return;
    const auto me = self_;
    hand_over(chosen);
    threads_[me].turn.wait();
  }
  void hand_over(std::size_t chosen) {
    if (chosen == none) {
      done_.give();
    } else {
      threads_[chosen].turn.give();
    }
  }

  [[nodiscard]] bool can_go(std::size_t thread) const {
    const auto& its = steps_.threads[thread];
    return !its.ended && !threads_[thread].given_up &&
           (its.next.needs_free == nullptr || !owners_.contains(its.next.needs_free)) &&
           (!its.next.needs_notice || threads_[thread].notified);
  }

  [[nodiscard]] Set who_can_go() const {
    Set enabled = 0;
    for (std::size_t i = 0; i < count_; ++i) {
      if (can_go(i)) enabled |= bit(i);
    }
    return enabled;
  }
  [[nodiscard]] bool any_gave_up() const {
    return std::any_of(threads_.begin(), threads_.end(), [](const auto& thread) { return thread.given_up; });
  }

  std::size_t choose() {
    auto enabled = who_can_go();
    if (enabled == 0 && any_gave_up()) {  // the order is run; its threads go on to their own end
      look_at_who_waits();
      redundant_ = true;
      for (auto& thread : threads_) thread.given_up = false;
      enabled = who_can_go();
    }
    if (std::all_of(steps_.threads.begin(), steps_.threads.end(), [](const auto& its) { return its.ended; }))
      return none;
    if (enabled == 0) die("every thread waits");
    if (reduces() && bounds()) steps_.try_within_bound(at_);
    const auto chosen = way_ == Way::drawn ? draw(enabled) : follow(enabled);
    order_ += static_cast<char>('0' + chosen);
    if (order_.size() > steps_max) die("a run without end");
    if (reduces() && !bounds()) steps_.try_others(chosen, at_ - 1);
    if (reduces()) steps_.note(chosen, at_);
    current_ = chosen;
    return chosen;
  }
  // Where an order ends early, what a thread would do next is never taken, and competes all the same.
  void look_at_who_waits() {
    if (!reduces()) return;
    if (bounds()) return steps_.try_within_bound(at_);
    for (std::size_t i = 0; i < count_; ++i) {
      if (!steps_.threads[i].ended) steps_.try_others(i, at_);
    }
  }
  std::size_t draw(Set enabled) {
    auto skip = draw_() % static_cast<std::uint64_t>(__builtin_popcount(enabled));
    for (std::size_t i = 0;; ++i) {
      if ((enabled & bit(i)) != 0 && skip-- == 0) return i;
    }
  }

  std::size_t follow(Set enabled) {
    if (redundant_) return first_of(enabled);
    if (at_ == steps_.path.size()) {
      Steps::Choice choice;
      choice.enabled = enabled;
      if (!steps_.path.empty()) {
        const auto& before = steps_.path.back();
        choice.preemptions = before.preemptions + (before.left != none && before.chosen != before.left ? 1 : 0);
        for (std::size_t i = 0; i < count_ && !bounds(); ++i) {
          if ((before.asleep & bit(i)) != 0 && i != before.chosen && !dependent(before.step, steps_.threads[i].next)) {
            choice.asleep |= bit(i);
          }
        }
      }
      const bool can_stay = current_ != none && (enabled & bit(current_)) != 0;
      if (can_stay) choice.left = current_;
      if (way_ == Way::whole || (bounds() && !can_stay)) choice.to_try = enabled;
      const Set awake = enabled & ~choice.asleep;
      if (awake == 0) {  // every order from here on was run from elsewhere
        look_at_who_waits();
        redundant_ = true;
        return first_of(enabled);
      }
      choice.chosen = can_stay && (awake & bit(current_)) != 0 ? current_ : first_of(awake);
      choice.to_try |= bit(choice.chosen);
      steps_.path.push_back(choice);
    }
    auto& choice = steps_.path[at_];
    if ((enabled & bit(choice.chosen)) == 0) {
      strayed_ = redundant_ = true;
      return first_of(enabled);
    }
    choice.enabled = enabled;
    choice.step = steps_.threads[choice.chosen].next;
    ++at_;
    return choice.chosen;
  }

  // The threads cannot be taken back from where they wait, so this is the end of the process.
  [[noreturn]] void die(const char* why) {
    std::fprintf(stderr, "explorer: %s, after the order %s\n", why, order_.c_str());
    std::abort();
  }

  static constexpr std::size_t steps_max = 100'000;
  static inline Explorer* active_ = nullptr;
  static inline thread_local std::size_t self_ = none;

  ::cpu_set_t processors_;  // that we had
  const Way way_;
  const std::size_t preemptions_max_;
  const std::chrono::steady_clock::time_point begun_ = std::chrono::steady_clock::now();
  std::mt19937_64 draw_;
  const Scenario* scenario_ = nullptr;
  Steps steps_;
  std::array<Thread, max_explored_threads> threads_;
  std::map<const void*, std::size_t> owners_;
  std::map<const void*, std::vector<std::size_t>> waiting_;
  Turn done_;
  std::string order_;
  Report report_;
  std::size_t count_ = 0, at_ = 0, current_ = none;
  bool redundant_ = false;  // what this run still has in it was run from elsewhere
  bool strayed_ = false;    // it could not go as the run before
  bool ending_ = false;
};

}  // namespace tarn_test
