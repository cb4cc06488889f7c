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

#include <semaphore.h>

#include <condition_variable>
#include <cstddef>
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

/// Counts what there is to do. Of the system: where several wait on one, pthread_cond_signal of glibc 2.25 to 2.40 may
/// wake none of them, and std::counting_semaphore of libstdc++ 12 has a fault of that kind, too.
class Semaphore {
 public:
  Semaphore() { ::sem_init(&semaphore_, 0, 0); }
  ~Semaphore() { ::sem_destroy(&semaphore_); }
  Semaphore(const Semaphore&) = delete;
  Semaphore& operator=(const Semaphore&) = delete;
  void raise() { ::sem_post(&semaphore_); }
  void wait() {
    while (::sem_wait(&semaphore_) != 0) continue;  // EINTR
  }

 private:
  ::sem_t semaphore_{};
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
    for (std::size_t i = 0; i < threads_.size(); ++i) queued_.raise();  // with no task: an end for each
    for (auto& thread : threads_) thread.join();
  }
  TaskThreads(const TaskThreads&) = delete;
  TaskThreads& operator=(const TaskThreads&) = delete;

  void post(std::unique_ptr<Task> task) noexcept {
    const std::lock_guard lock{mutex_};
    auto* const queued = task.get();
    (last_ ? last_->next_ : first_) = std::move(task);
    last_ = queued;
    queued_.raise();  // under the lock: the task may be what the destructor waits for
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
    while (const auto task = next()) {
      try {
        task->run();
      } catch (const std::exception&) {
        // No memory. What it holds is let go of: a token that is dropped is an answer.
      }
    }
  }
  // Waits for one. Returns: null at the end, when all are done.
  std::unique_ptr<Task> next() {
    queued_.wait();
    const std::lock_guard lock{mutex_};
    auto task = std::move(first_);
    if (!task) return nullptr;
    first_ = std::move(task->next_);
    if (!first_) last_ = nullptr;
    return task;
  }

  std::mutex mutex_;
  Semaphore queued_;
  std::unique_ptr<Task> first_;
  Task* last_ = nullptr;
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
