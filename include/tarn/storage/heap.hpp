// SPDX-License-Identifier: MIT
#pragma once

// Chunk memory from the heap: portable, and for chunks of any size down to one byte. Each chunk is an allocation of its
// own and nothing is kept warm, so a chunk is charged exactly chunk_bytes, while it is out.
//
// Thread safety: any thread.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <new>

#include <tarn/policies.hpp>

namespace tarn {

class HeapStorage {
 public:
  explicit HeapStorage(const StorageOptions& options)
      : chunk_bytes_{options.chunk_bytes}, prefault_{options.prefault} {}

  [[nodiscard]] std::byte* allocate(Budget& budget) noexcept {
    if (!budget.try_charge(chunk_bytes_)) return nullptr;
    auto* memory = static_cast<std::byte*>(::operator new(chunk_bytes_, alignment(), std::nothrow));
    if (memory == nullptr) {
      budget.release(chunk_bytes_);
    } else if (prefault_) {
      for (std::size_t at = 0; at < chunk_bytes_; at += page_bytes) memory[at] = std::byte{};
    }
    return memory;
  }
  void deallocate(std::byte* memory, Budget& budget) noexcept {
    ::operator delete(memory, alignment());
    budget.release(chunk_bytes_);
  }
  std::uint64_t trim(Budget&) noexcept { return 0; }

  /// What the memory of four chunks takes: the least that a pool works with.
  [[nodiscard]] static std::uint64_t min_budget_bytes(std::size_t chunk_bytes) {
    return 4 * std::uint64_t{chunk_bytes};
  }

 private:
  static constexpr std::size_t page_bytes = 4096;
  [[nodiscard]] std::align_val_t alignment() const {
    return std::align_val_t{std::clamp(chunk_bytes_, std::size_t{__STDCPP_DEFAULT_NEW_ALIGNMENT__}, page_bytes)};
  }

  std::size_t chunk_bytes_;
  bool prefault_;
};

static_assert(ChunkStorage<HeapStorage>);

}  // namespace tarn
