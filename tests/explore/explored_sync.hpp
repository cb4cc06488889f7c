// SPDX-License-Identifier: MIT
#pragma once

// The door of detail/sync.hpp for an Explorer: each use of one of these types is a step that waits for its turn.
//
// A program defines TARN_SYNC_HEADER to this before it includes anything of tarn. Outside of a scenario's threads there
// is one thread alone, and a use is just done.

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <utility>

#include "explore/explorer.hpp"

namespace tarn::detail {

/// Base of each of these types: its end is a step, too, and a use after that is seen where the memory is as it was.
class Explored {
 public:
  Explored(const Explored&) = delete;
  Explored& operator=(const Explored&) = delete;

 protected:
  using Use = tarn_test::Step::Use;

  constexpr Explored() = default;
  ~Explored() {
    step({.object = this});
    mark_ = 0;
  }
  void step(const tarn_test::Step& what) const {
    tarn_test::Explorer::step(what);
    tarn_test::Explorer::expect_alive(mark_ == lives);
  }

 private:
  static constexpr std::uint32_t lives = 0x11FE'5A1F;
  volatile std::uint32_t mark_ = lives;  // volatile: or the last change of an object would be left out
};

template <class T>
class Atomic;
/// No step: it cannot differ by its place in the order.
template <class T>
[[nodiscard]] T load_owned(const Atomic<T>& from) noexcept;

template <class T>
class Atomic : Explored {
 public:
  constexpr Atomic() = default;
  constexpr Atomic(T value) : value_{value} {}
  T operator=(T value) {
    store(value);
    return value;
  }
  operator T() const { return load(); }
  T load(std::memory_order = {}) const {
    step(Use::reads);
    return value_;
  }
  void store(T value, std::memory_order = {}) {
    step(Use::changes);
    value_ = value;
  }
  T exchange(T value, std::memory_order = {}) {
    step(Use::changes);
    return std::exchange(value_, value);
  }
  // Whoever takes the weak one is in a loop, of which an iteration that fails has done nothing but look.
  bool compare_exchange_weak(T& expected, T value, std::memory_order = {}, std::memory_order = {}) {
    if (compare_exchange_strong(expected, value)) return true;
    tarn_test::Explorer::give_up_iteration();
    return false;
  }
  bool compare_exchange_strong(T& expected, T value, std::memory_order = {}, std::memory_order = {}) {
    step(Use::changes);
    if (value_ == expected) {
      value_ = value;
      return true;
    }
    expected = value_;
    return false;
  }
  T fetch_add(T value, std::memory_order order = std::memory_order_seq_cst) {
    step(use_of_sum(order));
    return std::exchange(value_, static_cast<T>(value_ + value));
  }
  T fetch_sub(T value, std::memory_order order = std::memory_order_seq_cst) {
    step(use_of_sum(order));
    return std::exchange(value_, static_cast<T>(value_ - value));
  }
  T fetch_or(T value, std::memory_order = {}) {
    step(Use::changes);
    return std::exchange(value_, static_cast<T>(value_ | value));
  }
  T fetch_and(T value, std::memory_order = {}) {
    step(Use::changes);
    return std::exchange(value_, static_cast<T>(value_ & value));
  }
  T operator++() { return static_cast<T>(fetch_add(1) + 1); }
  T operator--() { return static_cast<T>(fetch_sub(1) - 1); }
  T operator+=(T value) { return static_cast<T>(fetch_add(value) + value); }
  T operator-=(T value) { return static_cast<T>(fetch_sub(value) - value); }

 private:
  friend T load_owned<T>(const Atomic& from) noexcept;
  void step(Use use) const { Explored::step({.object = this, .use = use}); }
  // A relaxed addition is a count: tarn looks at no sum that it gives.
  static Use use_of_sum(std::memory_order order) {
    return order == std::memory_order_relaxed ? Use::adds : Use::changes;
  }
  T value_{};
};

template <class T>
T load_owned(const Atomic<T>& from) noexcept {
  return from.value_;
}

/// No thread has one.
struct ThreadNumber {
  static constexpr unsigned most = 0;
  [[nodiscard]] static unsigned mine() noexcept { return 0; }
};

class Mutex : Explored {
 public:
  void lock() {
    step({.object = this, .needs_free = this});
    tarn_test::Explorer::take(this);
  }
  bool try_lock() {
    step({.object = this});
    if (tarn_test::Explorer::is_taken(this)) return false;
    tarn_test::Explorer::take(this);
    return true;
  }
  void unlock() {
    step({.object = this, .frees = this});
    tarn_test::Explorer::let_go(this);
  }
};

class ConditionVariable : Explored {
 public:
  void notify_one() { notify(false); }
  void notify_all() { notify(true); }
  void wait(std::unique_lock<Mutex>& lock) {
    auto* const mutex = lock.mutex();
    step({.object = mutex, .other = this, .frees = mutex});
    tarn_test::Explorer::let_go(mutex);
    tarn_test::Explorer::begin_wait(this);
    step({.object = mutex, .other = this, .needs_free = mutex, .needs_notice = true});
    tarn_test::Explorer::take(mutex);
  }
  template <class Ready>
  void wait(std::unique_lock<Mutex>& lock, Ready ready) {
    while (!ready()) wait(lock);
  }
  /// Ends by a notice alone.
  template <class Time>
  std::cv_status wait_until(std::unique_lock<Mutex>& lock, const Time&) {
    wait(lock);
    return std::cv_status::no_timeout;
  }
  template <class Time, class Ready>
  bool wait_until(std::unique_lock<Mutex>& lock, const Time&, Ready ready) {
    wait(lock, ready);
    return true;
  }

 private:
  void notify(bool all) {
    step({.object = this});
    tarn_test::Explorer::notify(this, all);
  }
};

}  // namespace tarn::detail
