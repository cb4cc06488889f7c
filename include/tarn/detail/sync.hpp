// SPDX-License-Identifier: MIT
#pragma once

// The one door to atomics, mutexes and parking.
//
// Everything in tarn that one thread does and another can see goes through these types, so that an explorer of
// interleavings can drive the shipped code: define TARN_SYNC_HEADER to a header that provides Atomic, Mutex and
// ConditionVariable in tarn::detail, with what the standard's offer of use here. All the rest is made of these three.
//
// FileLock is phase-fair: a waiting writer stops new readers, and a writer that leaves admits all readers that wait
// before the next writer goes, so neither side starves (Brandenburg and Anderson, "Spin-based reader-writer
// synchronization for multiprocessor real-time systems", 2010, here with blocking waits).

#include <array>
#include <atomic>
#include <cassert>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <utility>

#include <tarn/detail/waiter.hpp>

#ifdef TARN_SYNC_HEADER
#include TARN_SYNC_HEADER
#else

namespace tarn::detail {

template <class T>
using Atomic = std::atomic<T>;
using Mutex = std::mutex;
using ConditionVariable = std::condition_variable;

}  // namespace tarn::detail

#endif

namespace tarn::detail {

/// Where threads and waiters wait for a word to change that has no room for a mutex of its own; hashed by address.
class ParkingLot {
 public:
  /// Waits while `blocked()` is true. It is called under the bucket's mutex and takes no lock; whoever makes it false
  /// calls `wake` afterwards, with whatever held.
  template <class Blocked>
  void park(const void* address, Blocked blocked) {
    auto& bucket = bucket_of(address);
    std::unique_lock lock{bucket.mutex};
    while (blocked()) bucket.changed.wait(lock);
  }
  /// The same up to a time: sleep(changed, lock) sleeps until `changed` is notified or the time has come, and answers
  /// whether there is time left.
  /// Returns: false if the time came first.
  template <class Blocked, class Sleep>
  [[nodiscard]] bool park_until(const void* address, Blocked blocked, Sleep sleep) {
    auto& bucket = bucket_of(address);
    std::unique_lock lock{bucket.mutex};
    while (blocked()) {
      if (!sleep(bucket.changed, lock)) return !blocked();
    }
    return true;
  }
  /// Parks a waiter in place of a thread. Returns: false if it is not blocked; it is not parked then.
  template <class Blocked>
  [[nodiscard]] bool enqueue(const void* address, Waiter& waiter, Blocked blocked) {
    auto& bucket = bucket_of(address);
    std::lock_guard lock{bucket.mutex};
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
    std::lock_guard lock{bucket.mutex};
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
  void wake(const void* address) {
    auto& bucket = bucket_of(address);
    Waiter* woken = nullptr;
    {
      std::lock_guard lock{bucket.mutex};  // whoever saw the old word is asleep by now
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
    Mutex mutex;
    ConditionVariable changed;
    Waiter* waiters = nullptr;
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
    std::unique_lock lock{mutex_};
    if (exclusive_ || waiting_writers_ != 0) {
      ++waiting_readers_;
      const auto phase = phase_;
      readers_.wait(lock, [&] { return phase_ != phase; });  // only a leaving writer lets us in, and has counted us
      return;
    }
    ++shared_;
  }
  bool try_lock_shared() {
    std::lock_guard lock{mutex_};
    if (exclusive_ || waiting_writers_ != 0) return false;
    ++shared_;
    return true;
  }
  void unlock_shared() {
    std::lock_guard lock{mutex_};
    if (--shared_ == 0 && waiting_writers_ != 0) writers_.notify_one();
  }
  void lock() {
    UnderLatches::note(0);
    std::unique_lock lock{mutex_};
    ++waiting_writers_;
    writers_.wait(lock, [&] { return !exclusive_ && shared_ == 0; });
    --waiting_writers_;
    exclusive_ = true;
  }
  bool try_lock() {
    std::lock_guard lock{mutex_};
    if (exclusive_ || shared_ != 0) return false;
    exclusive_ = true;
    return true;
  }
  void unlock() {
    std::lock_guard lock{mutex_};
    exclusive_ = false;
    if (waiting_readers_ != 0) {  // their phase: all that wait now go in, counted here so that no writer slips between
      shared_ += waiting_readers_;
      waiting_readers_ = 0;
      ++phase_;
      readers_.notify_all();
    } else if (waiting_writers_ != 0) {
      writers_.notify_one();
    }
  }

 private:
  Mutex mutex_;
  ConditionVariable readers_, writers_;
  std::size_t shared_ = 0, waiting_readers_ = 0, waiting_writers_ = 0;
  std::uint64_t phase_ = 0;
  bool exclusive_ = false;
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
struct NoLock {
  void lock() {}
  bool try_lock() { return true; }
  void unlock() {}
  void lock_shared() {}
  bool try_lock_shared() { return true; }
  void unlock_shared() {}
};

}  // namespace tarn::detail
