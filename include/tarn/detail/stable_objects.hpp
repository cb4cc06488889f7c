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
// Kept objects are not charged: there are never more of them than there were at once, so what is kept is a part of what
// was charged at that time. Nor is what is left of the last block.
//
// They come in blocks of 2 KiB: one by one, 128 bytes that begin at a line of memory would take 256 of glibc's heap.
// Where there are two huge pages full of them, the next block is one: who looks at one of a million misses the cache,
// and then need not miss the TLB as well.
//
// Thread safety: take and give: any thread.
// Cost:          O(1), under a mutex, which is held while the heap or the system makes a block, too.

#include <sys/mman.h>

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
  static constexpr std::size_t huge_page_bytes = std::size_t{2} << 20;

  /// Each is charged `bytes_each`; a block is a huge page once there are so many bytes of them.
  explicit StableObjects(Budget& budget, std::size_t bytes_each = sizeof(T),
                         std::size_t bytes_to_huge = 2 * huge_page_bytes)
      : budget_{budget}, bytes_each_{bytes_each}, bytes_to_huge_{bytes_to_huge} {}
  StableObjects(const StableObjects&) = delete;
  StableObjects& operator=(const StableObjects&) = delete;
  /// Requires: all were given back, and nobody looks any more.
  ~StableObjects() {
    MutexLock lock{mutex_};
    while (newest_ != nullptr) {
      auto* const block = std::exchange(newest_, newest_->before);
      while (block->made != 0) std::launder(static_cast<T*>(block->place(--block->made)))->~T();
      ::operator delete (block, std::align_val_t{block->align});
    }
  }

  /// Returns: one that is as it was given back, or new; null if the budget refuses.
  /// Errors:  throws bad_alloc, and what T() throws.
  [[nodiscard]] T* take() {
    if (!budget_.try_charge(bytes_each_)) return nullptr;
    try {
      MutexLock lock{mutex_};
      return kept_ != nullptr ? take_kept() : make();
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
      object.spare() = reinterpret_cast<std::uintptr_t>(kept_);
      kept_ = &object;
    }
    budget_.release(bytes_each_);
  }

 private:
  // The objects follow it.
  struct Block {
    std::size_t bytes, align;  // of all of it
    Block* before;
    std::size_t made = 0;  // of its objects, the first so many

    [[nodiscard]] bool is_full() const { return head_bytes + (made + 1) * sizeof(T) > bytes; }
    [[nodiscard]] void* place(std::size_t object) {
      return reinterpret_cast<std::byte*>(this) + head_bytes + object * sizeof(T);
    }
  };
  static constexpr std::size_t head_bytes = (sizeof(Block) + alignof(T) - 1) / alignof(T) * alignof(T);
  static constexpr std::size_t small_bytes = std::max<std::size_t>(2048, head_bytes + sizeof(T));
  static constexpr std::size_t small_align = std::max(alignof(Block), alignof(T));
  static_assert(small_bytes <= huge_page_bytes);

  [[nodiscard]] T* make() TARN_REQUIRES(mutex_) {
    if (newest_ == nullptr || newest_->is_full()) newest_ = make_block();
    auto* const made = ::new (newest_->place(newest_->made)) T;
    ++newest_->made;
    return made;
  }
  [[nodiscard]] Block* make_block() TARN_REQUIRES(mutex_) {
    auto bytes = huge_page_bytes, align = huge_page_bytes;
    void* memory = nullptr;
    if (bytes_of_blocks_ >= bytes_to_huge_) memory = ::operator new (bytes, std::align_val_t{align}, std::nothrow);
    if (memory != nullptr) {
      ::madvise(memory, bytes, MADV_HUGEPAGE);  // a wish: without it all still works, slower
    } else {
      bytes = small_bytes, align = small_align;
      memory = ::operator new (bytes, std::align_val_t{align});
    }
    bytes_of_blocks_ += bytes;
    return ::new (memory) Block{.bytes = bytes, .align = align, .before = newest_};
  }
  [[nodiscard]] T* take_kept() TARN_REQUIRES(mutex_) {
    auto* const taken = kept_;
    kept_ = reinterpret_cast<T*>(taken->spare());
    taken->spare() = 0;
    return taken;
  }

  Budget& budget_;
  const std::size_t bytes_each_, bytes_to_huge_;
  CheckedMutex mutex_;
  T* kept_ TARN_GUARDED_BY(mutex_) = nullptr;  // the last one given back first
  Block* newest_ TARN_GUARDED_BY(mutex_) = nullptr;
  std::size_t bytes_of_blocks_ TARN_GUARDED_BY(mutex_) = 0;
};

}  // namespace tarn::detail
