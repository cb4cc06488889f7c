// SPDX-License-Identifier: MIT
#pragma once

// What goes on later: operations that wait with no thread of their own.
//
// A waiter is parked in a ParkingLot (detail/sync.hpp) until a word moves. Whoever wakes it may hold latches then, so
// it is only queued, by thread, and resumed when that thread holds nothing: at the end of its call of tarn, or before
// it blocks.
//
// Thread safety: a waiter is in one place at a time: running, parked, or in one thread's queue.

#include <cassert>
#include <utility>

namespace tarn::detail {

/// What goes on when a word has moved, with no thread waiting for it. Lives in an operation, and does not move.
class Waiter {
 public:
  Waiter(const Waiter&) = delete;
  Waiter& operator=(const Waiter&) = delete;
  /// Goes on. Called by a Resumer, with nothing held. May end the waiter's life.
  virtual void resume() noexcept = 0;

 protected:
  Waiter() = default;
  ~Waiter() = default;

 private:
  friend class ParkingLot;
  friend class Resumer;
  const void* address_ = nullptr;  // where it is parked; guarded by the bucket's mutex
  Waiter* next_ = nullptr;         // in the bucket, then in a Resumer's queue
};

/// How deep this thread is in calls of a store that tarn made.
inline unsigned& depth_in_store() {
  thread_local unsigned depth = 0;
  return depth;
}

/// Lives around a visitor or a filler, which runs under latches: a call of tarn from there may wait for this very
/// thread. Known to debug builds alone.
class UnderLatches {
 public:
  UnderLatches() { note(1); }
  UnderLatches(const UnderLatches&) = delete;
  UnderLatches& operator=(const UnderLatches&) = delete;
  ~UnderLatches() { note(-1); }
  static void note([[maybe_unused]] int more) {
#ifndef NDEBUG
    thread_local int depth = 0;
    assert((more != 0 || depth == 0) && "a visitor or a filler calls tarn");
    depth += more;
#endif
  }
};

/// Lets go on what this thread has woken, once it holds nothing: every public call of tarn that can wake somebody has
/// one around it, and the outermost one resumes. What is resumed may make calls of its own; what these wake, and what
/// they start, is queued behind it and not nested in it, so a million operations that end at once take one frame of
/// stack.
class Resumer {
 public:
  Resumer() {
    UnderLatches::note(0);
    ++mine().depth;
  }
  Resumer(const Resumer&) = delete;
  Resumer& operator=(const Resumer&) = delete;
  ~Resumer() {
    if (mine().depth == 1 && mine().first != nullptr) run();
    --mine().depth;
  }

  /// Queues a waiter that is parked nowhere. Requires: there is a Resumer.
  static void push(Waiter& waiter) noexcept {
    auto& queue = mine();
    assert(queue.depth != 0 && "a waiter is woken by a call without a Resumer");
    waiter.next_ = nullptr;
    *(queue.first == nullptr ? &queue.first : &queue.last->next_) = &waiter;
    queue.last = &waiter;
  }
  /// Resumes now what is queued: before this thread blocks or runs other code for long.
  /// Requires: the caller holds no lock and no latch.
  static void run() noexcept {
    auto& queue = mine();
    if (queue.running) return;
    queue.running = true;
    const auto depth = std::exchange(depth_in_store(), 0);  // what goes on is not inside the store that we may be in
    while (auto* const waiter = queue.first) {
      queue.first = waiter->next_;
      waiter->resume();
    }
    depth_in_store() = depth;
    queue.running = false;
  }

 private:
  struct Queue {
    Waiter* first = nullptr;
    Waiter* last = nullptr;
    unsigned depth = 0;
    bool running = false;
  };
  static Queue& mine() {
    thread_local Queue queue;
    return queue;
  }
};

}  // namespace tarn::detail
