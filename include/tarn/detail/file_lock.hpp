// SPDX-License-Identifier: MIT
#pragma once

// The lock of a file: many readers or one writer; and how it is held.
//
// It is phase-fair: a waiting writer stops new readers, and a writer that leaves admits all readers that wait before
// the next writer goes, so neither side starves (Brandenburg and Anderson, "Spin-based reader-writer synchronization
// for multiprocessor real-time systems", 2010, here with blocking waits).
//
// One word says who has it; a call that finds nobody in the way changes that and nothing else:
//
//   bit  0    exclusive   one has it alone
//   bit  1    waited_for  somebody waits: readers who come wait as well, and who leaves looks for who waits
//   bits 2..  shared      how many share it
//
// Who waits counts itself, and sets and clears waited_for, under the mutex: while that is held nobody begins or ends to
// wait. waited_for is set exactly while the counts are not both 0; and if only readers wait, so is exclusive: a writer
// is still to leave, and admits them.
//
// No wake-up is lost. A reader who leaves takes itself off the word first; if that leaves waited_for alone, it takes
// the mutex before it notifies the writers: one who saw the word as it was sleeps by then. A writer can leave without
// the mutex only from a word without waited_for, and who sets that later has not looked yet.
//
// Thread safety: any thread.

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <shared_mutex>

#include <tarn/detail/sync.hpp>
#include <tarn/detail/thread_safety.hpp>
#include <tarn/detail/waiter.hpp>

namespace tarn::detail {

/// Meets the standard's shared-mutex requirements as far as locks need them.
class FileLock {
 public:
  void lock_shared() {
    UnderLatches::note(0);
    if (!try_lock_shared()) wait_shared();
  }
  bool try_lock_shared() {
    auto word = word_.load(std::memory_order_relaxed);
    while ((word & (exclusive | waited_for)) == 0) {
      if (word_.compare_exchange_weak(word, word + shared_one)) return true;
    }
    return false;
  }
  void unlock_shared() {
    if (word_.fetch_sub(shared_one) == shared_one + waited_for) wake_writers();
  }
  void lock() {
    UnderLatches::note(0);
    if (!try_lock()) wait_exclusive();
  }
  bool try_lock() {
    auto word = word_.load(std::memory_order_relaxed);
    while ((word & ~waited_for) == 0) {
      if (word_.compare_exchange_weak(word, word | exclusive)) return true;
    }
    return false;
  }
  void unlock() {
    auto word = exclusive;
    if (!word_.compare_exchange_strong(word, 0)) unlock_waited_for();
  }

 private:
  static constexpr std::uint64_t exclusive = 1, waited_for = 2, shared_one = 4;

  [[gnu::noinline]] void wait_shared() {
    MutexLock lock{mutex_};
    for (auto word = word_.load(); (word & waited_for) == 0;) {
      const bool may_enter = (word & exclusive) == 0;
      if (!word_.compare_exchange_weak(word, may_enter ? word + shared_one : word | waited_for)) continue;
      if (may_enter) return;
      break;
    }
    ++waiting_readers_;
    const auto phase = phase_;
    while (phase_ == phase) readers_.wait(lock.std_lock());  // only a leaving writer lets us in, and has counted us
  }
  [[gnu::noinline]] void wait_exclusive() {
    MutexLock lock{mutex_};
    ++waiting_writers_;
    for (auto word = word_.fetch_or(waited_for) | waited_for;;) {
      if (word != waited_for) {
        writers_.wait(lock.std_lock());
        word = word_.load();
        continue;
      }
      const bool others_wait = waiting_writers_ > 1 || waiting_readers_ != 0;
      if (word_.compare_exchange_weak(word, others_wait ? exclusive | waited_for : exclusive)) break;
    }
    --waiting_writers_;
  }
  [[gnu::noinline]] void wake_writers() {
    MutexLock lock{mutex_};
    writers_.notify_all();
  }
  [[gnu::noinline]] void unlock_waited_for() {
    MutexLock lock{mutex_};
    if (waiting_readers_ == 0) {
      word_.fetch_sub(exclusive);
      writers_.notify_all();
      return;
    }
    // The readers' phase: all that wait now go in, counted here so that no writer slips between.
    word_.store(waiting_readers_ * shared_one + (waiting_writers_ != 0 ? waited_for : 0));
    waiting_readers_ = 0;
    ++phase_;
    readers_.notify_all();
  }

  Atomic<std::uint64_t> word_{0};
  CheckedMutex mutex_;
  ConditionVariable readers_, writers_;
  std::size_t waiting_readers_ TARN_GUARDED_BY(mutex_) = 0, waiting_writers_ TARN_GUARDED_BY(mutex_) = 0;
  std::uint64_t phase_ TARN_GUARDED_BY(mutex_) = 0;
};

/// A FileLock that guards fields, as CheckedMutex is a Mutex. A type of its own: the analysis does not look into the
/// functions of what can be held, and is to look into FileLock's.
class TARN_CAPABILITY("file's lock") CheckedFileLock {
 public:
  void lock() TARN_ACQUIRE() { lock_.lock(); }
  bool try_lock() TARN_TRY_ACQUIRE(true) { return lock_.try_lock(); }
  void unlock() TARN_RELEASE() { lock_.unlock(); }
  void lock_shared() TARN_ACQUIRE_SHARED() { lock_.lock_shared(); }
  bool try_lock_shared() TARN_TRY_ACQUIRE_SHARED(true) { return lock_.try_lock_shared(); }
  void unlock_shared() TARN_RELEASE_SHARED() { lock_.unlock_shared(); }
  void is_held() const TARN_ASSERTS_HELD(this) {}

 private:
  FileLock lock_;
};

/// The lock of a value with one owner at a time: the building blocks use it.
struct TARN_CAPABILITY("owner") NoLock {
  void lock() TARN_ACQUIRE() {}
  bool try_lock() TARN_TRY_ACQUIRE(true) { return true; }
  void unlock() TARN_RELEASE() {}
  void lock_shared() TARN_ACQUIRE_SHARED() {}
  bool try_lock_shared() TARN_TRY_ACQUIRE_SHARED(true) { return true; }
  void unlock_shared() TARN_RELEASE_SHARED() {}
  void is_held() const TARN_ASSERTS_HELD(this) {}
};

/// Holds a CheckedFileLock or a NoLock exclusively while it lives, but between unlock and lock.
template <class Lock>
class TARN_SCOPED_CAPABILITY ExclusiveLock {
 public:
  explicit ExclusiveLock(Lock& lock) TARN_ACQUIRE(lock) : lock_{(lock.lock(), lock), std::adopt_lock} {}
  ExclusiveLock(const ExclusiveLock&) = delete;
  ExclusiveLock& operator=(const ExclusiveLock&) = delete;
  ~ExclusiveLock() TARN_RELEASE() = default;

  void lock() TARN_ACQUIRE() { lock_.lock(); }
  void unlock() TARN_RELEASE() { lock_.unlock(); }

 private:
  std::unique_lock<Lock> lock_;
};

/// The same, shared.
template <class Lock>
class TARN_SCOPED_CAPABILITY SharedLock {
 public:
  explicit SharedLock(Lock& lock) TARN_ACQUIRE_SHARED(lock) : lock_{lock} {}
  /// Takes over one that is held already.
  SharedLock(Lock& lock, std::adopt_lock_t held) TARN_REQUIRES_SHARED(lock) : lock_{lock, held} {}
  SharedLock(const SharedLock&) = delete;
  SharedLock& operator=(const SharedLock&) = delete;
  ~SharedLock() TARN_RELEASE() = default;

  void unlock() TARN_RELEASE() { lock_.unlock(); }

 private:
  std::shared_lock<Lock> lock_;
};

}  // namespace tarn::detail
