// SPDX-License-Identifier: MIT
#pragma once

// A file all of whose bytes are held, dirty, in a pool that has room for more: what reads and writes of memory cost
// when nothing has to be had from a store.
//
// Thread safety: as of DirtyFile.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include <tarn/dirty_file.hpp>

#include "paired.hpp"
#include "warm_buffer.hpp"

namespace tarn_bench {

using Traits = tarn::DefaultTraits;

/// As figures are named.
[[nodiscard]] inline std::string size_said(std::size_t bytes) {
  if (bytes >= tarn::MiB) return std::to_string(bytes / tarn::MiB) + "MiB";
  return bytes >= tarn::KiB ? std::to_string(bytes / tarn::KiB) + "KiB" : std::to_string(bytes) + "B";
}

/// The byte that a file has at an offset.
[[nodiscard]] inline std::byte pattern_at(std::uint64_t offset) {
  return static_cast<std::byte>((offset * 0x9E3779B97F4A7C15u) >> 56);
}
[[nodiscard]] inline bool has_pattern(std::span<const std::byte> bytes, std::uint64_t offset) {
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    if (bytes[i] != pattern_at(offset + i)) return false;
  }
  return true;
}

/// Whether all of it was read, written or shown.
[[nodiscard]] inline bool is_all(const tarn::Result<std::size_t>& n, std::size_t size_bytes) {
  return n && *n == size_bytes;
}

/// Is asked for nothing till the end: all is held.
struct IdleStore {
  tarn::Result<std::size_t> load(const tarn::LoadRequest<Traits>&) { return tarn::fail(std::errc::io_error); }
  tarn::FlushOutcome<Traits> flush(const tarn::FlushRequest<Traits>&) { return tarn::FlushOutcome<Traits>::stored(); }
  tarn::Result<> remove(const Traits::FileId&) { return {}; }
};

class HeldFile {
 public:
  using File = tarn::DirtyFile<Traits, IdleStore>;

  HeldFile(std::uint64_t size_bytes, std::uint64_t chunk_bytes = tarn::PoolOptions{}.chunk_bytes)
      : pool_{{.budget_bytes = 4 * size_bytes + size_bytes / chunk_bytes * tarn::KiB + 64 * tarn::MiB,
               .chunk_bytes = chunk_bytes}},
        file_{pool_, tarn::DirtyFileMetadata::created(1, {.part_bytes = tarn::GiB}), store_} {
    std::vector<std::byte> chunk(chunk_bytes);
    for (std::uint64_t at = 0; at < size_bytes; at += chunk_bytes) {
      for (std::size_t i = 0; i < chunk.size(); ++i) chunk[i] = pattern_at(at + i);
      expect(is_all(file_.write(at, chunk), chunk.size()), "a write");
    }
    for (std::uint64_t at = 0; at < size_bytes; at += chunk_bytes) {
      expect(file_.view(at, chunk_bytes, [&](tarn::ConstBuffers bytes) { chunks_.push_back(bytes[0].data()); })
                 .has_value(),
             "a view");
    }
  }
  ~HeldFile() { (void)file_.flush(); }

  File& operator*() { return file_; }
  File* operator->() { return &file_; }
  [[nodiscard]] tarn::ChunkPool<Traits>& pool() { return pool_; }
  /// The memory of an offset. Of the bytes up to the end of its chunk, as long as nothing is written or evicted.
  [[nodiscard]] const std::byte* memory(std::uint64_t offset) const {
    const auto chunk_bytes = pool_.chunk_bytes();
    return chunks_[offset / chunk_bytes] + offset % chunk_bytes;
  }
  /// memcpy of what a read would read.
  void copy(std::uint64_t offset, std::span<std::byte> into) const {
    const auto chunk_bytes = pool_.chunk_bytes();
    for (std::size_t done = 0; done < into.size();) {
      const auto n =
          std::min(into.size() - done, static_cast<std::size_t>(chunk_bytes - (offset + done) % chunk_bytes));
      std::memcpy(into.data() + done, memory(offset + done), n);
      done += n;
    }
  }

 private:
  tarn::ChunkPool<Traits> pool_;
  IdleStore store_;
  File file_;
  std::vector<const std::byte*> chunks_;
};

/// Offsets in a file at multiples of `size_bytes`, one after the other or as drawn; the same for all arms.
class Offsets {
 public:
  enum class Order { sequential, random };
  Offsets(std::uint64_t file_bytes, std::uint64_t size_bytes, Order order) {
    std::uint64_t seed = 1;
    for (std::uint64_t i = 0; i < count; ++i) {
      seed = seed * 6364136223846793005u + 1442695040888963407u;
      const auto places = file_bytes / size_bytes;
      offsets_.push_back((order == Order::random ? (seed >> 33) % places : i % places) * size_bytes);
    }
  }
  [[nodiscard]] std::uint64_t operator[](std::uint64_t i) const { return offsets_[i % count]; }
  static constexpr std::uint64_t count = 4096;

 private:
  std::vector<std::uint64_t> offsets_;
};

}  // namespace tarn_bench
