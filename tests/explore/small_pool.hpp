// SPDX-License-Identifier: MIT
#pragma once

// What the explorer's scenarios stand on: a pool of a few tiny chunks, whose memory shows if it is read after its end.
//
// Thread safety: as of the pool.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include <tarn/detail/pool_core.hpp>
#include <tarn/eviction/clock.hpp>
#include <tarn/pool_options.hpp>
#include <tarn/storage/heap.hpp>

#include "support/traits.hpp"

namespace tarn_test {

inline constexpr std::uint64_t chunk_bytes = 16;

/// Memory that is given back has other bytes from then on.
struct ScratchedHeap : tarn::HeapStorage {
  using HeapStorage::HeapStorage;
  void deallocate(std::byte* memory, tarn::Budget& budget) noexcept {
    for (volatile auto* at = memory; at != memory + chunk_bytes; ++at) *at = std::byte{'!'};
    HeapStorage::deallocate(memory, budget);
  }
};

struct ExploredTraits : TestTraits {
  using Storage = ScratchedHeap;
};

/// With room for whatever a scenario has.
inline tarn::PoolOptions small_pool(std::uint64_t window_chunks) {
  tarn::PoolOptions options{.chunk_bytes = chunk_bytes, .window_bytes = window_chunks * chunk_bytes};
  options.budget_bytes = tarn::detail::PoolCore<ExploredTraits>::min_budget_bytes(options) + 64 * chunk_bytes;
  return options;
}

inline std::span<const std::byte> text_bytes(const std::string& text) { return std::as_bytes(std::span{text}); }

}  // namespace tarn_test
