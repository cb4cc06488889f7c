// SPDX-License-Identifier: MIT
#pragma once

// A vector of trivial values whose first N live in the object itself, so that a call of usual size allocates nothing.
//
// Thread safety: a plain value that does not move.

#include <algorithm>
#include <cassert>
#include <cstddef>
#include <memory>
#include <span>
#include <type_traits>

namespace tarn::detail {

template <class T, std::size_t N>
class SmallVector {
  static_assert(std::is_trivially_copyable_v<T> && std::is_trivially_destructible_v<T>);

 public:
  SmallVector() {}  // NOLINT(modernize-use-equals-default): which would clear the elements
  SmallVector(const SmallVector&) = delete;
  SmallVector& operator=(const SmallVector&) = delete;

  /// Errors: throws bad_alloc beyond N, and is then as it was.
  void push_back(const T& value) {
    if (size_ == capacity_) reserve(2 * capacity_);
    data_[size_++] = value;
  }
  /// Errors: throws bad_alloc beyond N, and is then as it was.
  void reserve(std::size_t capacity) {
    if (capacity <= capacity_) return;
    auto larger = std::make_unique_for_overwrite<T[]>(capacity);
    std::copy(data_, data_ + size_, larger.get());
    heap_ = std::move(larger);
    data_ = heap_.get();
    capacity_ = capacity;
  }
  void pop_back() {
    assert(size_ != 0);
    --size_;
  }
  void clear() { size_ = 0; }
  void truncate(std::size_t size) {
    assert(size <= size_);
    size_ = size;
  }

  [[nodiscard]] std::size_t size() const { return size_; }
  [[nodiscard]] bool empty() const { return size_ == 0; }
  [[nodiscard]] T& operator[](std::size_t i) {
    assert(i < size_);
    return data_[i];
  }
  [[nodiscard]] T& back() { return (*this)[size_ - 1]; }
  [[nodiscard]] T* begin() { return data_; }
  [[nodiscard]] T* end() { return data_ + size_; }
  [[nodiscard]] std::span<T> span() { return {data_, size_}; }

 private:
  union {
    T inline_[N];  // not initialised: only [0, size_) is read
  };
  std::unique_ptr<T[]> heap_;
  T* data_ = inline_;
  std::size_t size_ = 0, capacity_ = N;
};

}  // namespace tarn::detail
