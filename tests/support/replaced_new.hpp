// SPDX-License-Identifier: MIT
#pragma once

// operator new of a whole program, replaced: every form of it asks the program before it takes memory. All of them are
// here, so that none of a sanitizer's own is mixed with ours. It counts what is out. Included by one file of a program.
//
// Thread safety: as of the program's answer.

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <new>

namespace tarn_test {

/// The program's: an allocation begins. Returns: false if it fails.
[[nodiscard]] bool may_allocate() noexcept;

namespace detail {

inline std::atomic<long> blocks_out{0};

inline void* take(std::size_t size,
                  std::align_val_t alignment = std::align_val_t{__STDCPP_DEFAULT_NEW_ALIGNMENT__}) noexcept {
  if (!may_allocate()) return nullptr;
  const auto unit = static_cast<std::size_t>(alignment);
  auto* const memory = std::aligned_alloc(unit, (std::max<std::size_t>(size, 1) + unit - 1) / unit * unit);
  if (memory != nullptr) blocks_out.fetch_add(1, std::memory_order_relaxed);
  return memory;
}
inline void* or_throw(void* memory) {
  if (memory == nullptr) throw std::bad_alloc{};
  return memory;
}

// Not inlined: g++ would see a free of what operator new gave, and warn.
[[gnu::noinline]] inline void give_back(void* memory) noexcept {
  if (memory != nullptr) blocks_out.fetch_sub(1, std::memory_order_relaxed);
  std::free(memory);
}

}  // namespace detail

/// Returns: how many allocations have not been given back.
[[nodiscard]] inline long allocations_out() noexcept { return detail::blocks_out.load(std::memory_order_relaxed); }

}  // namespace tarn_test

void* operator new(std::size_t n) { return tarn_test::detail::or_throw(tarn_test::detail::take(n)); }
void* operator new[](std::size_t n) { return tarn_test::detail::or_throw(tarn_test::detail::take(n)); }
void* operator new(std::size_t n, std::align_val_t a) {
  return tarn_test::detail::or_throw(tarn_test::detail::take(n, a));
}
void* operator new[](std::size_t n, std::align_val_t a) {
  return tarn_test::detail::or_throw(tarn_test::detail::take(n, a));
}
void* operator new(std::size_t n, const std::nothrow_t&) noexcept { return tarn_test::detail::take(n); }
void* operator new[](std::size_t n, const std::nothrow_t&) noexcept { return tarn_test::detail::take(n); }
void* operator new(std::size_t n, std::align_val_t a, const std::nothrow_t&) noexcept {
  return tarn_test::detail::take(n, a);
}
void* operator new[](std::size_t n, std::align_val_t a, const std::nothrow_t&) noexcept {
  return tarn_test::detail::take(n, a);
}
void operator delete(void* memory) noexcept { tarn_test::detail::give_back(memory); }
void operator delete[](void* memory) noexcept { tarn_test::detail::give_back(memory); }
void operator delete(void* memory, std::size_t) noexcept { tarn_test::detail::give_back(memory); }
void operator delete[](void* memory, std::size_t) noexcept { tarn_test::detail::give_back(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { tarn_test::detail::give_back(memory); }
void operator delete[](void* memory, std::align_val_t) noexcept { tarn_test::detail::give_back(memory); }
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { tarn_test::detail::give_back(memory); }
void operator delete[](void* memory, std::size_t, std::align_val_t) noexcept { tarn_test::detail::give_back(memory); }
void operator delete(void* memory, const std::nothrow_t&) noexcept { tarn_test::detail::give_back(memory); }
void operator delete[](void* memory, const std::nothrow_t&) noexcept { tarn_test::detail::give_back(memory); }
