// SPDX-License-Identifier: MIT
#pragma once

// Chunk memory from slabs of huge pages.
//
// A slab is 2 MiB (or one chunk, if that is larger), aligned to its size, mapped when chunks are wanted, with huge
// pages where the system gives them, and carved into chunks. A chunk that comes back is handed out again soon, still
// warm in cache and TLB. A slab is charged whole while it is mapped, and given back whole: by trim, which takes those
// that are empty. Fresh memory is the kernel's zeros and nothing here writes it, so nothing is initialised twice.
//
// A new slab leaves a sixteenth of the budget to what is not a slab (tables, records), so that half-empty slabs cannot
// starve those.
//
// Thread safety: any thread; one mutex, held for a few instructions, and across the system call that maps a slab.
// Invariant:     a slab holds `free.size()` free chunks, the others are out; it is on the open list while it has any.

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <unordered_map>
#include <vector>

#include <tarn/byte_range.hpp>
#include <tarn/detail/sync.hpp>
#include <tarn/policies.hpp>

namespace tarn {

class ArenaStorage {
 public:
  static constexpr std::size_t huge_page_bytes = 2 * MiB;

  explicit ArenaStorage(const StorageOptions& options)
      : chunk_bytes_{options.chunk_bytes},
        slab_bytes_{std::max(huge_page_bytes, chunk_bytes_)},
        prefault_{options.prefault} {}
  ArenaStorage(const ArenaStorage&) = delete;
  ArenaStorage& operator=(const ArenaStorage&) = delete;
  ~ArenaStorage() {
    for (auto& [base, slab] : slabs_) {
      assert(slab.free.size() == chunks_per_slab() && "chunk memory outlives its arena");
      ::munmap(slab.base, slab_bytes_);
    }
  }

  [[nodiscard]] std::byte* allocate(Budget& budget) noexcept {
    detail::MutexLock lock{mutex_};
    if (open_ == nullptr && !map_slab(budget)) return nullptr;
    auto& slab = *open_;
    const auto index = slab.free.back();
    slab.free.pop_back();
    if (slab.free.empty()) close(slab);
    return slab.base + std::size_t{index} * chunk_bytes_;
  }

  void deallocate(std::byte* memory, Budget&) noexcept {
    const auto base = reinterpret_cast<std::uintptr_t>(memory) & ~(std::uintptr_t{slab_bytes_} - 1);
    detail::MutexLock lock{mutex_};
    auto& slab = slabs_.find(base)->second;
    if (slab.free.empty()) open(slab);
    slab.free.push_back(static_cast<std::uint32_t>((reinterpret_cast<std::uintptr_t>(memory) - base) / chunk_bytes_));
  }

  /// Unmaps the slabs that are empty.
  /// Returns: the bytes given back.
  std::uint64_t trim(Budget& budget) noexcept {
    detail::MutexLock lock{mutex_};
    std::uint64_t given_back_bytes = 0;
    for (auto* slab = open_; slab != nullptr;) {
      auto* const next = slab->next;
      if (slab->free.size() == chunks_per_slab()) {
        close(*slab);
        ::munmap(slab->base, slab_bytes_);
        slabs_.erase(reinterpret_cast<std::uintptr_t>(slab->base));
        budget.release(slab_bytes_);
        given_back_bytes += slab_bytes_;
      }
      slab = next;
    }
    return given_back_bytes;
  }

  /// Two slabs, and the sixteenth that they leave free.
  [[nodiscard]] static std::uint64_t min_budget_bytes(std::size_t chunk_bytes) {
    const auto slabs = 2 * std::uint64_t{std::max(huge_page_bytes, chunk_bytes)};
    return slabs + slabs / 8;
  }

 private:
  struct Slab {
    std::byte* base = nullptr;
    std::vector<std::uint32_t> free;  // indices of free chunks, the one to hand out next at the back
    Slab* next = nullptr;
    Slab* previous = nullptr;
  };

  [[nodiscard]] std::size_t chunks_per_slab() const { return slab_bytes_ / chunk_bytes_; }

  void open(Slab& slab) noexcept TARN_REQUIRES(mutex_) {
    slab.previous = nullptr;
    slab.next = open_;
    if (open_ != nullptr) open_->previous = &slab;
    open_ = &slab;
  }
  void close(Slab& slab) noexcept TARN_REQUIRES(mutex_) {
    (slab.previous != nullptr ? slab.previous->next : open_) = slab.next;
    if (slab.next != nullptr) slab.next->previous = slab.previous;
  }

  bool map_slab(Budget& budget) noexcept TARN_REQUIRES(mutex_) {
    if (!budget.try_charge(slab_bytes_, budget.limit_bytes() / 16)) return false;
    auto* const base = map_aligned();
    if (base == nullptr) {
      budget.release(slab_bytes_);
      return false;
    }
    try {
      Slab slab{.base = base, .free = std::vector<std::uint32_t>(chunks_per_slab())};
      for (std::size_t i = 0; i < slab.free.size(); ++i) {
        slab.free[i] = static_cast<std::uint32_t>(slab.free.size() - 1 - i);  // ascending addresses first
      }
      open(slabs_.emplace(reinterpret_cast<std::uintptr_t>(base), std::move(slab)).first->second);
    } catch (...) {  // no memory for the bookkeeping
      ::munmap(base, slab_bytes_);
      budget.release(slab_bytes_);
      return false;
    }
    return true;
  }

  [[nodiscard]] std::byte* map_aligned() const noexcept {
    const auto map = [](std::size_t bytes) -> std::byte* {
      void* const at =
          ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      return at == MAP_FAILED ? nullptr : static_cast<std::byte*>(at);
    };
    auto* base = map(slab_bytes_);
    const auto misaligned = reinterpret_cast<std::uintptr_t>(base) & (slab_bytes_ - 1);
    if (base != nullptr && misaligned != 0) {  // map twice as much and cut off what stands out
      ::munmap(base, slab_bytes_);
      base = map(2 * slab_bytes_);
      if (base == nullptr) return nullptr;
      const auto before =
          (slab_bytes_ - (reinterpret_cast<std::uintptr_t>(base) & (slab_bytes_ - 1))) & (slab_bytes_ - 1);
      if (before != 0) ::munmap(base, before);
      ::munmap(base + before + slab_bytes_, slab_bytes_ - before);
      base += before;
    }
    if (base == nullptr) return nullptr;
    ::madvise(base, slab_bytes_, MADV_HUGEPAGE);  // a wish: without huge pages all still works, slower
    if (prefault_) prefault(base);
    return base;
  }

  void prefault(std::byte* base) const noexcept {
#ifdef MADV_POPULATE_WRITE
    if (::madvise(base, slab_bytes_, MADV_POPULATE_WRITE) == 0) return;
#endif
    constexpr std::size_t page_bytes = 4096;
    for (std::size_t at = 0; at < slab_bytes_; at += page_bytes)
      *static_cast<volatile std::byte*>(base + at) = std::byte{};
  }

  const std::size_t chunk_bytes_, slab_bytes_;
  const bool prefault_;
  detail::CheckedMutex mutex_;
  std::unordered_map<std::uintptr_t, Slab> slabs_ TARN_GUARDED_BY(mutex_);  // by base; nodes do not move
  Slab* open_ TARN_GUARDED_BY(mutex_) = nullptr;
};

static_assert(ChunkStorage<ArenaStorage>);

}  // namespace tarn
