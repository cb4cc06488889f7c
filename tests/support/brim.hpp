// SPDX-License-Identifier: MIT
#pragma once

// A pool at its limits: nothing left of the budget, or no pin left of a chunk.
//
// Thread safety: as of the pool.

#include <cstdint>
#include <utility>
#include <vector>

#include <tarn/chunk_pool.hpp>

namespace tarn_test {

/// While it lives, the pool's budget has no more than `left_bytes` to give; what is clean may still be evicted.
template <class Traits>
class Brim {
 public:
  explicit Brim(tarn::ChunkPool<Traits>& pool, std::uint64_t left_bytes = 0)
      : pool_{pool}, bytes_{budget().limit_bytes() - budget().charged_bytes() - left_bytes} {
    if (!budget().try_charge(bytes_)) bytes_ = 0;
  }
  Brim(const Brim&) = delete;
  Brim& operator=(const Brim&) = delete;
  ~Brim() { budget().release(bytes_); }

 private:
  [[nodiscard]] tarn::Budget& budget() { return pool_.core().budget; }

  tarn::ChunkPool<Traits>& pool_;
  std::uint64_t bytes_;
};

/// Every pin that a chunk has to give, but for `but`.
template <class Traits>
[[nodiscard]] std::vector<tarn::PinnedChunk<Traits>> take_all_pins(tarn::ChunkPool<Traits>& pool,
                                                                   const tarn::MetadataFor<Traits>& meta,
                                                                   std::uint64_t chunk, std::size_t but = 0) {
  std::vector<tarn::PinnedChunk<Traits>> pins;
  while (auto pin = pool.pin(meta, chunk)) pins.push_back(std::move(*pin));
  while (but-- != 0) pins.pop_back();
  return pins;
}

}  // namespace tarn_test
