// SPDX-License-Identifier: MIT
#pragma once

// A gate holds the threads that come to it until it is opened, so that a test decides how calls interleave instead of
// hoping for it.
//
//   store.load_gate.close();
//   Worker reader{store.load_gate, [&] { answer = read(file); }};  // opens the gate, however the test ends
//   REQUIRE(store.load_gate.wait_for_arrivals());                  // the load is under way, and not done
//   write(file, "newer");
//   store.load_gate.open();
//   reader.join();
//
// Thread safety: every call from any thread. Waiting ends at a deadline, far beyond what any test needs: a deadlock
// then fails the test that found it.

#include <sys/types.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <fstream>
#include <mutex>
#include <string>
#include <thread>
#include <utility>

namespace tarn::testing {

inline constexpr std::chrono::seconds deadline{60};

/// Open at first.
class Gate {
 public:
  /// From now on it holds who comes; arrivals are counted anew.
  void close() {
    std::lock_guard lock{mutex_};
    open_ = false;
    arrivals_ = 0;
  }
  /// Lets go all that it holds, and who comes later.
  void open() {
    std::lock_guard lock{mutex_};
    open_ = true;
    changed_.notify_all();
  }
  /// Goes through, when the gate is open.
  /// Returns: whether it opened before the deadline.
  bool pass() {
    std::unique_lock lock{mutex_};
    ++arrivals_;
    changed_.notify_all();
    return changed_.wait_for(lock, deadline, [&] { return open_; });
  }
  /// Waits until `count` threads have come since the gate was closed.
  /// Returns: whether they did before the deadline.
  [[nodiscard]] bool wait_for_arrivals(std::size_t count = 1) {
    std::unique_lock lock{mutex_};
    return changed_.wait_for(lock, deadline, [&] { return arrivals_ >= count; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool open_ = true;
  std::size_t arrivals_ = 0;
};

/// Looks again and again until `there()` is true, where there is no gate to wait at; for so long at most.
/// Returns: whether it became true.
template <class Predicate>
[[nodiscard]] bool wait_until(Predicate there, std::chrono::nanoseconds within = deadline) {
  const auto end = std::chrono::steady_clock::now() + within;
  while (!there()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::yield();
  }
  return true;
}

/// A thread that others can see blocked in the kernel: on a lock, a condition, a gate. That is how a test knows that
/// somebody waits, where a wait shows in nothing else.
class BlockedThread {
 public:
  /// Said by the thread itself, before what it is to wait for.
  void here() { thread_ = ::gettid(); }
  /// Returns:  true once it is blocked; false if it came to its end, or the deadline came first.
  /// Requires: Linux's /proc.
  [[nodiscard]] bool wait_until_blocked() const {
    char state = '?';
    (void)wait_until([&] {
      state = thread_ == 0 ? '?' : state_of(thread_);
      return state == 'S' || state == gone;
    });
    return state == 'S';
  }

 private:
  static constexpr char gone = 'X';
  [[nodiscard]] static char state_of(::pid_t thread) {
    std::ifstream stat{"/proc/self/task/" + std::to_string(thread) + "/stat"};
    std::string line;
    if (!std::getline(stat, line)) return gone;
    return line[line.rfind(") ") + 2];  // the last of them: a name may hold anything
  }

  std::atomic<::pid_t> thread_{0};
};

/// A thread that is joined when it goes out of scope, also when an assertion ends the test; `before_join` (opening the
/// gate that holds it, say) comes first then.
class Worker {
 public:
  template <class F>
  explicit Worker(F f) : thread_{std::move(f)} {}
  template <class F>
  Worker(Gate& held_by, F f) : gate_{&held_by}, thread_{std::move(f)} {}
  Worker(Worker&&) = default;
  ~Worker() {
    if (gate_ != nullptr) gate_->open();
    join();
  }
  void join() {
    if (thread_.joinable()) thread_.join();
  }

 private:
  Gate* gate_ = nullptr;
  std::thread thread_;
};

}  // namespace tarn::testing
