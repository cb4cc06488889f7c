// SPDX-License-Identifier: MIT
#pragma once

// Objects that a thread may look at after they were let go of: what one reads without a lock, it may have found a
// moment too early.
//
// What is given back is kept for whoever takes one next, and its memory goes when all of it does. So a pointer that
// somebody has read always leads to an object of that type: the one that was meant, one that is nobody's, or one that
// is somebody else's by now. Which of these it is the reader must be able to tell from the object's atomics, and may
// look at nothing else before he knows (type-stable memory: Greenwald and Cheriton, "The synergy between non-blocking
// synchronization and operating system structure", 1996).
//
// Kept objects are not charged: but for less than a block for each thread that takes at once, there are never more
// objects than there were at once, so what is kept is a part of what was charged at that time.
//
// They come in blocks of 2 KiB: one by one, 128 bytes that begin at a line of memory would take 256 of glibc's heap.
//
// Thread safety: take and give: any thread.
// Cost:          O(1), under a mutex.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <new>
#include <utility>

#include <tarn/budget.hpp>
#include <tarn/detail/sync.hpp>

namespace tarn::detail {

/// T::spare() is a word of it that nobody looks at while it is kept.
template <class T>
class StableObjects {
 public:
  /// Each is charged `bytes_each`.
  explicit StableObjects(Budget& budget, std::size_t bytes_each = sizeof(T))
      : budget_{budget}, bytes_each_{bytes_each} {}
  StableObjects(const StableObjects&) = delete;
  StableObjects& operator=(const StableObjects&) = delete;
  /// Requires: all were given back, and nobody looks any more.
  ~StableObjects() {
    MutexLock lock{mutex_};
    while (blocks_ != nullptr) delete std::exchange(blocks_, blocks_->next);
  }

  /// Returns: one that is as it was given back, or new; null if the budget refuses.
  /// Errors:  throws bad_alloc.
  [[nodiscard]] T* take() {
    if (!budget_.try_charge(bytes_each_)) return nullptr;
    {
      MutexLock lock{mutex_};
      if (kept_ != nullptr) return take_kept();
    }
    try {
      return take_new();
    } catch (...) {
      budget_.release(bytes_each_);
      throw;
    }
  }
  /// Returns: null also if the heap refuses.
  [[nodiscard]] T* take(const std::nothrow_t&) noexcept {
    try {
      return take();
    } catch (...) {
      return nullptr;
    }
  }
  /// Requires: nothing of it changes any more but what those change who still look.
  void give(T& object) noexcept {
    {
      MutexLock lock{mutex_};
      keep(object);
    }
    budget_.release(bytes_each_);
  }

 private:
  static constexpr std::size_t block_bytes = 2048, head_bytes = std::max(sizeof(void*), alignof(T));
  static constexpr std::size_t block_count =
      std::max<std::size_t>(head_bytes < block_bytes ? (block_bytes - head_bytes) / sizeof(T) : 0, 1);
  struct Block {
    Block* next;
    T objects[block_count];
  };

  [[nodiscard]] T* take_new() {
    auto* const block = new Block;
    MutexLock lock{mutex_};
    block->next = std::exchange(blocks_, block);
    for (auto i = block_count - 1; i != 0; --i) keep(block->objects[i]);
    return &block->objects[0];
  }
  void keep(T& object) noexcept TARN_REQUIRES(mutex_) {
    object.spare() = reinterpret_cast<std::uintptr_t>(kept_);
    kept_ = &object;
  }
  T* take_kept() TARN_REQUIRES(mutex_) {
    auto* const taken = kept_;
    kept_ = reinterpret_cast<T*>(taken->spare());
    taken->spare() = 0;
    return taken;
  }

  Budget& budget_;
  const std::size_t bytes_each_;
  CheckedMutex mutex_;
  T* kept_ TARN_GUARDED_BY(mutex_) = nullptr;  // the last one given back first
  Block* blocks_ TARN_GUARDED_BY(mutex_) = nullptr;
};

}  // namespace tarn::detail
