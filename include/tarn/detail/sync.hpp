// SPDX-License-Identifier: MIT
#pragma once

// The one door to atomics, mutexes and parking.
//
// Everything in tarn that one thread does and another can see goes through these types, so that an explorer of
// interleavings can drive the shipped code: define TARN_SYNC_HEADER to a header that provides Atomic, Mutex and
// ConditionVariable in tarn::detail, with what the standard's offer of use here, load_owned and ThreadNumber. All the
// rest is made of these.
//
// The headers themselves hold a Mutex as a CheckedMutex, by a MutexLock: with these, clang's -Wthread-safety refuses a
// field that is touched without the mutex it is marked with (thread_safety.hpp). They are shells: what they do is what
// Mutex and std::unique_lock do.
//
// FileLock is phase-fair: a waiting writer stops new readers, and a writer that leaves admits all readers that wait
// before the next writer goes, so neither side starves (Brandenburg and Anderson, "Spin-based reader-writer
// synchronization for multiprocessor real-time systems", 2010, here with blocking waits).
//
// Of several who may wait, all are notified, never one: in glibc 2.25 to 2.40 a pthread_cond_signal can wake nobody,
// for ever, where more than one waits and a waiter that was woken is slow to go on (sourceware's bug 25847); a
// pthread_cond_broadcast does not rely on the count that goes wrong there.

#include <array>
#include <atomic>
#include <bit>
#include <cassert>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <shared_mutex>
#include <utility>

#include <tarn/detail/thread_safety.hpp>
#include <tarn/detail/waiter.hpp>

#ifdef TARN_SYNC_HEADER
#include TARN_SYNC_HEADER
#else

namespace tarn::detail {

template <class T>
using Atomic = std::atomic<T>;
using Mutex = std::mutex;
using ConditionVariable = std::condition_variable;

/// A load that no store can meet, since the caller holds what all stores are made under: in no order with any of them
/// is it a step.
template <class T>
[[nodiscard]] T load_owned(const Atomic<T>& from) noexcept {
  return from.load(std::memory_order_relaxed);
}

/// A number that is one thread's alone while it lives, up to `most`; too many threads, and one that ends, have 0.
class ThreadNumber {
 public:
  static constexpr unsigned most = 63;
  [[nodiscard]] static unsigned mine() noexcept {
    if (mine_ == 0 && !asked_) [[unlikely]] {
      ask();
    }
    return mine_;
  }

 private:
  struct Asked {
    Asked() noexcept {
      auto taken = taken_.load(std::memory_order_relaxed);
      while (~taken != 0) {
        const auto lowest = ~taken & (taken + 1);
        if (!taken_.compare_exchange_weak(taken, taken | lowest, std::memory_order_acquire)) continue;
        mine_ = static_cast<unsigned>(std::countr_zero(lowest));
        return;
      }
    }
    Asked(const Asked&) = delete;
    Asked& operator=(const Asked&) = delete;
    ~Asked() {
      const auto number = std::exchange(mine_, 0);
      // Who has it next goes on with what this thread has counted.
      if (number != 0) taken_.fetch_and(~(std::uint64_t{1} << number), std::memory_order_release);
    }
  };
  [[gnu::noinline]] static void ask() noexcept {
    asked_ = true;
    thread_local const Asked once;
  }

  inline static std::atomic<std::uint64_t> taken_{1};
  inline static thread_local constinit unsigned mine_ = 0;
  inline static thread_local constinit bool asked_ = false;  // stays so when `once` is gone
};

}  // namespace tarn::detail

#endif

namespace tarn::detail {

/// A Mutex that guards fields: those marked with it.
class TARN_CAPABILITY("mutex") CheckedMutex {
 public:
  void lock() TARN_ACQUIRE() { mutex_.lock(); }
  bool try_lock() TARN_TRY_ACQUIRE(true) { return mutex_.try_lock(); }
  void unlock() TARN_RELEASE() { mutex_.unlock(); }
  /// For the analysis alone, where it cannot see it: in a lambda, or by another expression for the same mutex.
  /// Requires: it is held.
  void is_held() const TARN_ASSERTS_HELD(this) {}

 private:
  friend class MutexLock;
  Mutex mutex_;
};

/// Holds a CheckedMutex while it lives, but between unlock and lock.
class TARN_SCOPED_CAPABILITY MutexLock {
 public:
  explicit MutexLock(CheckedMutex& mutex) TARN_ACQUIRE(mutex) : lock_{locked(mutex.mutex_), std::adopt_lock} {}
  /// Takes over one that is held already.
  MutexLock(CheckedMutex& mutex, std::adopt_lock_t held) TARN_REQUIRES(mutex) : lock_{mutex.mutex_, held} {}
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;
  ~MutexLock() TARN_RELEASE() = default;

  void lock() TARN_ACQUIRE() { lock_.lock(); }
  void unlock() TARN_RELEASE() { lock_.unlock(); }
  [[nodiscard]] bool owns_lock() const { return lock_.owns_lock(); }
  /// What a ConditionVariable and a time source wait with: they let go of it, and come back with it.
  [[nodiscard]] std::unique_lock<Mutex>& std_lock() { return lock_; }

 private:
  // std::unique_lock's own way asks first whether it holds one already.
  static Mutex& locked(Mutex& mutex) {
    mutex.lock();
    return mutex;
  }
  std::unique_lock<Mutex> lock_;
};

/// Where threads and waiters wait for a word to change that has no room for a mutex of its own; hashed by address.
class ParkingLot {
 public:
  /// Waits while `blocked()` is true. It is called under the bucket's mutex and takes no lock; whoever makes it false
  /// calls `wake` afterwards, with whatever held.
  template <class Blocked>
  void park(const void* address, Blocked blocked) {
    auto& bucket = bucket_of(address);
    MutexLock lock{bucket.mutex};
    while (blocked()) bucket.changed.wait(lock.std_lock());
  }
  /// The same up to a time: sleep(changed, lock) sleeps until `changed` is notified or the time has come, and answers
  /// whether there is time left.
  /// Returns: false if the time came first.
  template <class Blocked, class Sleep>
  [[nodiscard]] bool park_until(const void* address, Blocked blocked, Sleep sleep) {
    auto& bucket = bucket_of(address);
    MutexLock lock{bucket.mutex};
    while (blocked()) {
      if (!sleep(bucket.changed, lock.std_lock())) return !blocked();
    }
    return true;
  }
  /// Parks a waiter in place of a thread. Returns: false if it is not blocked; it is not parked then.
  template <class Blocked>
  [[nodiscard]] bool enqueue(const void* address, Waiter& waiter, Blocked blocked) {
    auto& bucket = bucket_of(address);
    MutexLock lock{bucket.mutex};
    if (!blocked()) return false;
    waiter.address_ = address;
    waiter.next_ = nullptr;
    auto** last = &bucket.waiters;  // first come, first woken
    while (*last != nullptr) last = &(*last)->next_;
    *last = &waiter;
    return true;
  }
  /// Takes a waiter out again. Returns: false if it was not parked there, or has been woken: it will go on.
  [[nodiscard]] bool withdraw(const void* address, Waiter& waiter) {
    auto& bucket = bucket_of(address);
    MutexLock lock{bucket.mutex};
    for (auto** at = &bucket.waiters; *at != nullptr; at = &(*at)->next_) {
      if (*at != &waiter) continue;
      *at = waiter.next_;
      waiter.next_ = nullptr;
      return true;
    }
    return false;
  }

  /// Lets everyone parked at `address` (and its hash neighbours) look again; waiters go on when the caller's Resumer
  /// lets them.
  [[gnu::noinline]] void wake(const void* address) {
    auto& bucket = bucket_of(address);
    Waiter* woken = nullptr;
    {
      MutexLock lock{bucket.mutex};  // whoever saw the old word is asleep by now
      auto** last = &woken;
      for (auto** at = &bucket.waiters; *at != nullptr;) {
        auto* const waiter = *at;
        if (waiter->address_ != address) {
          at = &waiter->next_;
          continue;
        }
        *at = waiter->next_;
        waiter->next_ = nullptr;
        *last = waiter;
        last = &waiter->next_;
      }
    }
    bucket.changed.notify_all();
    while (woken != nullptr) {
      auto& waiter = *woken;
      woken = waiter.next_;
      Resumer::push(waiter);
    }
  }

 private:
  struct Bucket {
    CheckedMutex mutex;
    ConditionVariable changed;
    Waiter* waiters TARN_GUARDED_BY(mutex) = nullptr;
  };
  Bucket& bucket_of(const void* address) {
    return buckets_[(reinterpret_cast<std::uintptr_t>(address) >> 6) % buckets_.size()];
  }
  std::array<Bucket, 61> buckets_;
};

/// A file's lock: many readers or one writer. Meets the standard's shared-mutex requirements as far as locks need them.
class FileLock {
 public:
  void lock_shared() {
    UnderLatches::note(0);
    MutexLock lock{mutex_};
    if (exclusive_ || waiting_writers_ != 0) {
      ++waiting_readers_;
      const auto phase = phase_;
      while (phase_ == phase) readers_.wait(lock.std_lock());  // only a leaving writer lets us in, and has counted us
      return;
    }
    ++shared_;
  }
  bool try_lock_shared() {
    MutexLock lock{mutex_};
    if (exclusive_ || waiting_writers_ != 0) return false;
    ++shared_;
    return true;
  }
  void unlock_shared() {
    MutexLock lock{mutex_};
    if (--shared_ == 0 && waiting_writers_ != 0) writers_.notify_all();
  }
  void lock() {
    UnderLatches::note(0);
    MutexLock lock{mutex_};
    ++waiting_writers_;
    while (exclusive_ || shared_ != 0) writers_.wait(lock.std_lock());
    --waiting_writers_;
    exclusive_ = true;
  }
  bool try_lock() {
    MutexLock lock{mutex_};
    if (exclusive_ || shared_ != 0) return false;
    exclusive_ = true;
    return true;
  }
  void unlock() {
    MutexLock lock{mutex_};
    exclusive_ = false;
    if (waiting_readers_ != 0) {  // their phase: all that wait now go in, counted here so that no writer slips between
      shared_ += waiting_readers_;
      waiting_readers_ = 0;
      ++phase_;
      readers_.notify_all();
    } else if (waiting_writers_ != 0) {
      writers_.notify_all();
    }
  }

 private:
  CheckedMutex mutex_;
  ConditionVariable readers_, writers_;
  std::size_t shared_ TARN_GUARDED_BY(mutex_) = 0, waiting_readers_ TARN_GUARDED_BY(mutex_) = 0,
                      waiting_writers_ TARN_GUARDED_BY(mutex_) = 0;
  std::uint64_t phase_ TARN_GUARDED_BY(mutex_) = 0;
  bool exclusive_ TARN_GUARDED_BY(mutex_) = false;
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

/// Lives around a call of a store. A call of tarn from inside may evict and flush other files, but does not wait for
/// room: what it would wait for may be the very call that it is inside of.
class InsideStore {
 public:
  InsideStore() { ++depth_in_store(); }
  InsideStore(const InsideStore&) = delete;
  InsideStore& operator=(const InsideStore&) = delete;
  ~InsideStore() { --depth_in_store(); }
};

/// Lives around a call of a store, too, and says for which record (see FileRecord): who waits for that one in this
/// thread waits for himself.
class Serving {
 public:
  explicit Serving(const void* record) : record_{record}, outer_{std::exchange(innermost(), this)} {}
  Serving(const Serving&) = delete;
  Serving& operator=(const Serving&) = delete;
  ~Serving() { innermost() = outer_; }

  /// Whether this thread is inside a call of a store for that record.
  [[nodiscard]] static bool is_for(const void* record) {
    for (const auto* at = innermost(); at != nullptr; at = at->outer_) {
      if (at->record_ == record) return true;
    }
    return false;
  }

 private:
  static const Serving*& innermost() {
    thread_local const Serving* inside = nullptr;
    return inside;
  }
  const void* const record_;
  const Serving* const outer_;
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
