// SPDX-License-Identifier: MIT
#pragma once

// Bytes as they are received into spare chunks.
//
// Thread safety: as of the parts.

#include <algorithm>
#include <cstddef>
#include <span>

#include <tarn/spare_chunks.hpp>

namespace tarn_test {

/// Puts the bytes into the spares, from their start on.
template <class Traits>
void receive(const tarn::SpareChunks<Traits>& spares, std::span<const std::byte> bytes) {
  for (std::size_t i = 0; !bytes.empty(); ++i) {
    const auto piece = bytes.first(std::min(bytes.size(), spares[i].size()));
    std::copy(piece.begin(), piece.end(), spares[i].begin());
    bytes = bytes.subspan(piece.size());
  }
}
/// Spares for so many bytes, which have them.
/// Errors: as SpareChunks::make.
template <class Traits>
[[nodiscard]] tarn::Result<tarn::SpareChunks<Traits>> received(tarn::ChunkPool<Traits>& pool,
                                                               std::span<const std::byte> bytes) {
  const auto each = static_cast<std::size_t>(pool.chunk_bytes());
  auto spares = tarn::SpareChunks<Traits>::make(pool, (bytes.size() + each - 1) / each);
  if (spares) receive(*spares, bytes);
  return spares;
}

}  // namespace tarn_test
