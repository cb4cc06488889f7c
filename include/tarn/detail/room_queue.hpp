// SPDX-License-Identifier: MIT
#pragma once

// The queue of those who wait for room: either in the pool, or in one file, which has more dirty bytes than it may.
// All of them wait until the epoch moves. Who frees a chunk, makes one evictable or less dirty, ends a flush or leaves
// the queue moves it, if there is a waiter. Both sides use sequentially consistent operations: either the waiter's next
// try sees the room, or the one who made it sees the waiter.
//
// Places are by arrival, and a waiter keeps its own when it waits for the other thing from now on. Of those who wait
// for the pool the first takes; who waits for a file is in nobody's way but of who writes to that file after it.
//
// Thread safety: RoomQueue all; Wait is one call's own.

#include <cstdint>
#include <utility>

#include <tarn/detail/sync.hpp>
#include <tarn/detail/thread_safety.hpp>

namespace tarn::detail {

class RoomQueue {
 public:
  explicit RoomQueue(ParkingLot& parking) : parking_{parking} {}

  /// There is more room, perhaps.
  void note() noexcept {
    if (!waited_for()) return;
    epoch_.fetch_add(1);
    parking_.wake(&epoch_);
  }
  /// Whether note would wake somebody.
  [[nodiscard]] bool waited_for() const noexcept { return waiters_.load() != 0; }
  /// Whether somebody waits for room in the pool: who comes now goes behind.
  [[nodiscard]] bool has_waiters() const noexcept { return of_pool_.load() != 0; }
  /// The same of room in the file.
  [[nodiscard]] bool has_waiters_for(const void* file) noexcept {
    if (waiters_.load() == 0) return false;
    MutexLock lock{mutex_};
    return is_behind(last_, file);
  }

  /// A place in the queue. Requires: whoever has one holds no latch, lock, pin or reserved chunk.
  class Wait {
   public:
    /// For room in the file, or, without one, in the pool.
    explicit Wait(RoomQueue& queue, const void* file = nullptr) : queue_{queue}, file_{file} {
      MutexLock lock{queue.mutex_};
      before_ = std::exchange(queue.last_, this);
      if (before_ != nullptr) before_->behind_ = this;
      queue.waiters_.fetch_add(1);
      if (file == nullptr) queue.of_pool_.fetch_add(1);
    }
    Wait(const Wait&) = delete;
    Wait& operator=(const Wait&) = delete;
    ~Wait() {
      {
        MutexLock lock{queue_.mutex_};
        if (before_ != nullptr) before_->behind_ = behind_;
        *(behind_ == nullptr ? &queue_.last_ : &behind_->before_) = before_;
        queue_.waiters_.fetch_sub(1);
        if (file_ == nullptr) queue_.of_pool_.fetch_sub(1);
      }
      queue_.note();  // somebody else is first, perhaps
    }

    /// From here on.
    void wait_for(const void* file) noexcept {
      if (file == file_) return;
      {
        MutexLock lock{queue_.mutex_};
        if (file_ == nullptr) queue_.of_pool_.fetch_sub(1);
        if (file == nullptr) queue_.of_pool_.fetch_add(1);
        file_ = file;
      }
      queue_.note();
    }
    /// Whether it waits for the pool, and nobody before it does.
    [[nodiscard]] bool first() const noexcept {
      MutexLock lock{queue_.mutex_};
      return file_ == nullptr && !is_behind(before_, nullptr);
    }
    /// Whether somebody before it waits for the file.
    [[nodiscard]] bool is_behind_one_for(const void* file) const noexcept {
      MutexLock lock{queue_.mutex_};
      return is_behind(before_, file);
    }
    /// Before a try for room: remembers what has been made by now.
    void look() noexcept { seen_ = queue_.epoch_.load(); }
    /// Whether more has been made since look().
    [[nodiscard]] bool more() const noexcept { return queue_.epoch_.load() != seen_; }
    /// What moves when more is made, and what it was at look().
    [[nodiscard]] const Atomic<std::uint64_t>* word() const noexcept { return &queue_.epoch_; }
    [[nodiscard]] std::uint64_t seen() const noexcept { return seen_; }

   private:
    friend class RoomQueue;
    RoomQueue& queue_;
    const void* file_;  // this and the list: guarded by the queue's mutex; its own call alone changes it
    Wait* before_ = nullptr;
    Wait* behind_ = nullptr;
    std::uint64_t seen_ = 0;
  };

 private:
  // Whether one that waits for the same is at `at` or before it. Requires: the mutex.
  [[nodiscard]] static bool is_behind(const Wait* at, const void* file) noexcept {
    while (at != nullptr && at->file_ != file) at = at->before_;
    return at != nullptr;
  }

  ParkingLot& parking_;
  Atomic<std::uint64_t> epoch_{0};
  Atomic<std::uint32_t> waiters_{0}, of_pool_{0};
  CheckedMutex mutex_;  // last in lock order; nothing is done under it but to look at the queue
  Wait* last_ TARN_GUARDED_BY(mutex_) = nullptr;
};

}  // namespace tarn::detail
