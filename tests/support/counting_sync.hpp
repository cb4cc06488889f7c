// SPDX-License-Identifier: MIT
#pragma once

// The door of detail/sync.hpp with a counter at it: the standard's types, each use counted.
//
// A program defines TARN_SYNC_HEADER to this before it includes anything of tarn. None of these is the type that it
// wraps, so what goes past the door does not compile beside what goes through it.
//
// Thread safety: as of what is wrapped; the counts from any thread.

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <utility>

namespace tarn::detail {

struct SyncCounts {
  static inline std::atomic<std::uint64_t> atomics{0}, locks{0}, unlocks{0}, waits{0}, wakes{0};
};

template <class T>
class Atomic {
 public:
  constexpr Atomic() = default;
  constexpr Atomic(T value) : value_{value} {}
  T operator=(T value) { return counted().operator=(value); }
  operator T() const { return counted().load(); }
  T load(std::memory_order order = std::memory_order_seq_cst) const { return counted().load(order); }
  void store(T value, std::memory_order order = std::memory_order_seq_cst) { counted().store(value, order); }
  T exchange(T value, std::memory_order order = std::memory_order_seq_cst) { return counted().exchange(value, order); }
  bool compare_exchange_weak(T& expected, T value, std::memory_order order = std::memory_order_seq_cst) {
    return counted().compare_exchange_weak(expected, value, order);
  }
  bool compare_exchange_strong(T& expected, T value, std::memory_order order = std::memory_order_seq_cst) {
    return counted().compare_exchange_strong(expected, value, order);
  }
  T fetch_add(T value, std::memory_order order = std::memory_order_seq_cst) {
    return counted().fetch_add(value, order);
  }
  T fetch_sub(T value, std::memory_order order = std::memory_order_seq_cst) {
    return counted().fetch_sub(value, order);
  }
  T fetch_or(T value, std::memory_order order = std::memory_order_seq_cst) { return counted().fetch_or(value, order); }
  T fetch_and(T value, std::memory_order order = std::memory_order_seq_cst) {
    return counted().fetch_and(value, order);
  }

 private:
  std::atomic<T>& counted() {
    ++SyncCounts::atomics;
    return value_;
  }
  const std::atomic<T>& counted() const {
    ++SyncCounts::atomics;
    return value_;
  }
  std::atomic<T> value_;
};
template <class T>
[[nodiscard]] T load_owned(const Atomic<T>& from) noexcept {
  return from.load(std::memory_order_relaxed);
}

/// No thread has one.
struct ThreadNumber {
  static constexpr unsigned most = 0;
  [[nodiscard]] static unsigned mine() noexcept { return 0; }
};

class Mutex {
 public:
  void lock() {
    mutex_.lock();
    ++SyncCounts::locks;
  }
  bool try_lock() {
    const bool had = mutex_.try_lock();
    if (had) ++SyncCounts::locks;
    return had;
  }
  void unlock() {
    ++SyncCounts::unlocks;
    mutex_.unlock();
  }

 private:
  std::mutex mutex_;
};

class ConditionVariable {
 public:
  void notify_one() {
    ++SyncCounts::wakes;
    changed_.notify_one();
  }
  void notify_all() {
    ++SyncCounts::wakes;
    changed_.notify_all();
  }
  template <class... A>
  void wait(A&&... a) {
    ++SyncCounts::waits;
    changed_.wait(std::forward<A>(a)...);
  }
  template <class... A>
  auto wait_until(A&&... a) {
    ++SyncCounts::waits;
    return changed_.wait_until(std::forward<A>(a)...);
  }
  template <class... A>
  auto wait_for(A&&... a) {
    ++SyncCounts::waits;
    return changed_.wait_for(std::forward<A>(a)...);
  }

 private:
  std::condition_variable_any changed_;  // takes any lock
};

}  // namespace tarn::detail
