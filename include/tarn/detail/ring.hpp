// SPDX-License-Identifier: MIT
#pragma once

// An intrusive ring: a circular list whose links lie in its members, so that it allocates nothing.
//
// Thread safety: none; one thread at a time.
// Cost:          O(1), each call.

#include <cstddef>

namespace tarn::detail {

/// Base of T, a member of a Ring<T>. Null while it is in none.
template <class T>
struct RingLinks {
  T* next = nullptr;
  T* previous = nullptr;
};

template <class T>
class Ring {
 public:
  /// Makes it the last one. Requires: it is in no ring.
  void push(T& member) noexcept {
    if (first_ == nullptr) {
      member.next = member.previous = first_ = &member;
    } else {
      member.next = first_;
      member.previous = first_->previous;
      member.previous->next = first_->previous = &member;
    }
    ++count_;
  }
  /// Takes it out. Requires: it is in this ring.
  void take(T& member) noexcept {
    if (member.next == &member) {
      first_ = nullptr;
    } else {
      member.previous->next = member.next;
      member.next->previous = member.previous;
      if (first_ == &member) first_ = member.next;
    }
    member.next = member.previous = nullptr;
    --count_;
  }
  /// The first becomes the last. Requires: not empty.
  void go_round() noexcept { first_ = first_->next; }
  /// Requires: not empty.
  [[nodiscard]] T& first() const { return *first_; }
  [[nodiscard]] bool empty() const { return first_ == nullptr; }
  [[nodiscard]] std::size_t count() const { return count_; }

 private:
  T* first_ = nullptr;
  std::size_t count_ = 0;
};

}  // namespace tarn::detail
