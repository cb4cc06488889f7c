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

}  // namespace tarn::detail
