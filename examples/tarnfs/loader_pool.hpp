// SPDX-License-Identifier: MIT
#pragma once

// Threads that do what threads that serve requests must not wait for.
//
// Loaders ask SOURCE: a load, a flush, a sync each. They wait for SOURCE alone, so whatever is queued gets its turn, and
// whoever waits for that, of memory or of bytes, waits for nothing else.
//
// One more thread does errands, which may wait for what the loaders do: letting go of a file, of which something may be
// in flight still, or reading past a pool that is full.
//
// Thread safety: any thread.

#include <condition_variable>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

namespace tarnfs {

/// Something to do once. What it is made of goes with it, in the thread that has done it.
class Task {
 public:
  Task() = default;
  Task(const Task&) = delete;
  Task& operator=(const Task&) = delete;
  virtual ~Task() = default;
  virtual void run() = 0;

 private:
  friend class TaskThreads;
  std::unique_ptr<Task> next_;
};

/// Threads that do tasks, first come, first served.
class TaskThreads {
 public:
  explicit TaskThreads(unsigned count) {
    threads_.reserve(count);
    for (unsigned i = 0; i < count; ++i) threads_.emplace_back([this] { run(); });
  }
  /// Does what is queued still.
  ~TaskThreads() {
    {
      const std::lock_guard lock{mutex_};
      ending_ = true;
    }
    changed_.notify_all();
    for (auto& thread : threads_) thread.join();
  }
  TaskThreads(const TaskThreads&) = delete;
  TaskThreads& operator=(const TaskThreads&) = delete;

  void post(std::unique_ptr<Task> task) noexcept {
    const std::lock_guard lock{mutex_};
    auto* const queued = task.get();
    (last_ ? last_->next_ : first_) = std::move(task);
    last_ = queued;
    changed_.notify_one();  // under the lock: the task may be what the destructor waits for
  }
  /// Errors: throws bad_alloc; then f has gone.
  template <class F>
  void post_call(F f) {
    struct Call final : Task {
      explicit Call(F call) : call_{std::move(call)} {}
      void run() override { call_(); }
      F call_;
    };
    post(std::make_unique<Call>(std::move(f)));
  }

 private:
  void run() {
    std::unique_lock lock{mutex_};
    for (;;) {
      changed_.wait(lock, [&] { return ending_ || first_; });
      if (!first_) return;
      auto task = std::move(first_);
      first_ = std::move(task->next_);
      if (!first_) last_ = nullptr;
      lock.unlock();
      try {
        task->run();
      } catch (const std::exception&) {
        // No memory. What it holds is let go of: a token that is dropped is an answer.
      }
      task = nullptr;
      lock.lock();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::unique_ptr<Task> first_;
  Task* last_ = nullptr;
  bool ending_ = false;
  std::vector<std::thread> threads_;  // last: they use the others
};

/// Counts what is under way, for whoever must not go before it has ended.
class UnderWay {
 public:
  void begin() {
    const std::lock_guard lock{mutex_};
    ++count_;
  }
  /// The last one to end may not touch this any more: it may be gone.
  void end() {
    const std::lock_guard lock{mutex_};
    if (--count_ == 0) none_.notify_all();
  }
  void wait_for_none() {
    std::unique_lock lock{mutex_};
    none_.wait(lock, [&] { return count_ == 0; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable none_;
  std::uint64_t count_ = 0;
};

/// Keeps whoever is counted from going: one count of UnderWay.
class Counted {
 public:
  explicit Counted(UnderWay& counts) : counts_{&counts} { counts_->begin(); }
  Counted(Counted&& other) noexcept : counts_{std::exchange(other.counts_, nullptr)} {}
  Counted& operator=(Counted&&) = delete;
  ~Counted() { end(); }

  void end() {
    if (auto* const counts = std::exchange(counts_, nullptr)) counts->end();
  }

 private:
  UnderWay* counts_;
};

}  // namespace tarnfs
