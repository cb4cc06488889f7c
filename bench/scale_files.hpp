// SPDX-License-Identifier: MIT
#pragma once

// Files of a store, loaded into a pool chunk by chunk and compared: what is held of them is clean, as in a cache.
//
// Thread safety: none; one thread at a time.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>

#include <tarn/chunk_pool.hpp>
#include <tarn/read_range.hpp>

#include "held_file.hpp"
#include "paired.hpp"

namespace tarn_bench {

/// As figures are named.
[[nodiscard]] inline std::string count_said(std::uint64_t count) {
  if (count % 1'000'000 == 0) return std::to_string(count / 1'000'000) + "M";
  return count % 1'000 == 0 ? std::to_string(count / 1'000) + "k" : std::to_string(count);
}

/// Where in the pattern a byte of a file is: no two files have the same bytes.
[[nodiscard]] inline std::uint64_t place_of(std::uint64_t file, std::uint64_t offset) { return (file << 44) + offset; }

/// Has every byte of every file.
struct PatternStore {
  static tarn::Result<std::size_t> load(const tarn::LoadRequest<Traits>& request) {
    auto at = place_of(*request.file, request.range.offset());
    for (std::size_t piece = 0; piece < request.into.count(); ++piece) {
      for (auto& byte : request.into[piece]) byte = pattern_at(at++);
    }
    return request.into.size_bytes();
  }
  static tarn::FlushOutcome<Traits> flush(const tarn::FlushRequest<Traits>&) {
    return tarn::FlushOutcome<Traits>::stored();
  }
  static tarn::Result<> remove(const Traits::FileId&) { return {}; }
};

/// Whether the pieces are the file's bytes from `offset` on, `size_bytes` of them.
[[nodiscard]] inline bool are_of_file(tarn::ConstBuffers bytes, std::uint64_t file, std::uint64_t offset,
                                      std::uint64_t size_bytes) {
  auto at = place_of(file, offset);
  for (std::size_t piece = 0; piece < bytes.count(); ++piece) {
    if (!has_pattern(bytes[piece], at)) return false;
    at += bytes[piece].size();
  }
  return at == place_of(file, offset) + size_bytes;
}

/// Chunks of one file, to be held and let go of.
class StoredFile {
 public:
  StoredFile(tarn::ChunkPool<Traits>& pool, std::uint64_t id, std::uint64_t size_bytes)
      : pool_{pool}, meta_{tarn::DirtyFileMetadata::from_store(id, size_bytes, {.part_bytes = tarn::GiB})} {}

  /// Has the bytes held that are not, a window at a time, and compares them all.
  void hold(std::uint64_t offset, std::uint64_t size_bytes) {
    for (std::uint64_t done = 0; done < size_bytes;) {
      const auto at = offset + done;
      const auto n = std::min(pool_.window_bytes(), size_bytes - done);
      const auto right = tarn::read_range(pool_, meta_, at, n, PatternStore{}, [&](tarn::ConstBuffers bytes) {
        return are_of_file(bytes, meta_.id(), at, n);
      });
      expect(right && *right, "a load");
      done += n;
    }
  }
  void hold() { hold(0, meta_.size()); }
  void drop() { pool_.drop(meta_); }

 private:
  tarn::ChunkPool<Traits>& pool_;
  tarn::DirtyFileMetadata meta_;
};

}  // namespace tarn_bench
