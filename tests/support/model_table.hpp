// SPDX-License-Identifier: MIT
#pragma once

// The byte table of docs/design.md, looked at from outside: what the pool and the metadata say of each byte of a file,
// against what the model and its store have.
//
// Thread safety: none.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include <tarn/chunk_pool.hpp>

#include "support/model_random.hpp"

namespace tarn_test {

/// Returns: the first thing that is not as the table says; empty if all is well. `image`: what the store has, or null.
template <class Traits>
[[nodiscard]] std::string broken_rule(const tarn::ChunkPool<Traits>& pool, const tarn::MetadataFor<Traits>& meta,
                                      const ModelBytes& bytes, const ModelBytes* image) {
  using tarn::ByteRange;
  using tarn::ExtentSet;
  const auto size = std::uint64_t{bytes.size()};
  const auto at = [&](std::uint64_t offset) { return bytes.begin() + static_cast<std::ptrdiff_t>(offset); };
  const auto inside = [&](const ExtentSet& set) { return set.empty() || set.extents().back().end() <= size; };
  if (meta.size() != size) return "another size";
  const auto dirty = pool.dirty_extents(meta), held = pool.held_extents(meta);
  if (!inside(dirty) || !inside(held) || !inside(meta.stored())) return "bytes past the size";
  auto clean = held;
  clean.subtract(dirty);
  auto lost = dirty;
  lost.subtract(held);
  if (!lost.empty()) return "a dirty byte is not held";
  for (const auto& extent : clean.extents()) {
    if (!meta.stored().contains(extent)) return "a clean byte is not stored";
  }
  for (const auto& extent : meta.unsynced().extents()) {
    if (!meta.stored().contains(extent)) return "an unsynced byte is not stored";
  }

  auto stored = meta.stored();
  stored.subtract(dirty);
  for (const auto& extent : stored.extents()) {
    if (image == nullptr || image->size() < extent.end()) return "the store lacks a stored byte";
    const auto in_store = image->begin() + static_cast<std::ptrdiff_t>(extent.offset());
    if (!std::equal(at(extent.offset()), at(extent.end()), in_store)) {
      return "a byte that counts as stored is another in the store";
    }
  }
  auto somewhere = meta.stored();
  somewhere.add(dirty);
  bool zero = true;
  somewhere.for_each_gap_in(ByteRange::between(0, size), [&](ByteRange gap) {
    zero = zero && std::all_of(at(gap.offset()), at(gap.end()), [](std::byte b) { return b == std::byte{}; });
  });
  if (!zero) return "a byte is neither dirty, stored nor zero";

  if (pool.dirty_bytes(meta) != dirty.size_bytes()) return "dirty_bytes is not the sum of the dirty extents";
  std::vector<std::uint64_t> chunks;
  for (const auto& extent : dirty.extents()) {
    const auto chunk_bytes = pool.chunk_bytes();
    for (auto chunk = extent.offset() / chunk_bytes; chunk * chunk_bytes < extent.end(); ++chunk) {
      if (chunks.empty() || chunks.back() != chunk) chunks.push_back(chunk);
    }
  }
  if (pool.dirty_chunks(meta) != chunks) return "dirty_chunks is not where the dirty extents are";
  if (meta.state() == tarn::FileState::clean &&
      (!dirty.empty() || meta.stored() != ExtentSet{ByteRange::between(0, size)})) {
    return "a clean file is not as stored";
  }
  return {};
}

}  // namespace tarn_test
