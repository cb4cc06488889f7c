// SPDX-License-Identifier: MIT
#pragma once

// Memory to receive into before it is known where the bytes go: of a file that a request names, whose bytes follow its
// header. A write then takes what it covers whole by an exchange of memory, and no byte is copied.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <new>
#include <span>
#include <system_error>
#include <utility>
#include <vector>

#include <tarn/byte_range.hpp>
#include <tarn/chunk_pool.hpp>
#include <tarn/detail/chunk_reserve.hpp>
#include <tarn/detail/copy_bytes.hpp>
#include <tarn/result.hpp>

namespace tarn {

/// So many chunks' memory of a pool, charged while it lives, that shows to nobody. Received bytes lie in it one chunk
/// after the other. A write leaves other memory in their place: what that holds says nothing.
///
/// Thread safety: one thread at a time. Must not outlive its pool.
template <class Traits = DefaultTraits>
class SpareChunks {
 public:
  /// Evicts clean chunks if it must; flushes and waits for nothing.
  /// Errors: ENOBUFS if so many are not to be had now, ENOMEM. Blocks: no. Cost: O(count), and what is evicted.
  [[nodiscard]] static Result<SpareChunks> make(ChunkPool<Traits>& pool, std::size_t count) {
    const detail::Resumer resumer;
    try {
      SpareChunks spares{pool.core()};
      if (count == 0) return spares;
      spares.chunks_.reserve(count);
      detail::ChunkReserve<Traits> reserve{pool.core()};
      using Freed = typename detail::PoolCore<Traits>::Freed;
      if (reserve.fill({.chunks = count}) != Freed::some) return fail(std::errc::no_buffer_space);
      while (spares.chunks_.size() < count) spares.chunks_.push_back(&reserve.take());
      return spares;
    } catch (const std::bad_alloc&) {
      return fail(std::errc::not_enough_memory);
    }
  }
  SpareChunks(SpareChunks&& other) noexcept : core_{other.core_}, chunks_{std::exchange(other.chunks_, {})} {}
  SpareChunks& operator=(SpareChunks&& other) noexcept {
    std::swap(core_, other.core_);
    std::swap(chunks_, other.chunks_);
    return *this;
  }
  ~SpareChunks() {
    const detail::Resumer resumer;
    for (auto* const chunk : chunks_) core_->free_chunk(chunk);
  }

  [[nodiscard]] std::size_t count() const { return chunks_.size(); }
  [[nodiscard]] std::size_t size_bytes() const { return chunks_.size() * core_->chunk_bytes(); }
  /// The memory of one chunk. Another one after a write.
  [[nodiscard]] std::span<std::byte> operator[](std::size_t i) const {
    return {chunks_[i]->memory, core_->chunk_bytes()};
  }

  // ---- For a write

  [[nodiscard]] const detail::PoolCore<Traits>& core() const { return *core_; }
  /// The bytes from `at` on go to the part `in_chunk` of a chunk, or that chunk's memory is exchanged.
  /// Requires: the chunk shows to nobody; `at` + in_chunk.size_bytes() <= size_bytes().
  void give(std::size_t at, std::byte*& memory, ByteRange in_chunk) noexcept {
    const auto chunk_bytes = core_->chunk_bytes();
    const auto size_bytes = static_cast<std::size_t>(in_chunk.size_bytes());
    if (size_bytes == chunk_bytes && at % chunk_bytes == 0) {
      std::swap(memory, chunks_[at / chunk_bytes]->memory);
    } else {
      copy(at, {memory + in_chunk.offset(), size_bytes});
    }
  }
  /// Copies the bytes from `at` on.
  void copy(std::size_t at, std::span<std::byte> into) const noexcept {
    while (!into.empty()) {
      const auto piece = (*this)[at / core_->chunk_bytes()].subspan(at % core_->chunk_bytes());
      const auto n = std::min(piece.size(), into.size());
      detail::copy_bytes(into.data(), piece.data(), n);
      into = into.subspan(n);
      at += n;
    }
  }

 private:
  explicit SpareChunks(detail::PoolCore<Traits>& core) : core_{&core} {}

  detail::PoolCore<Traits>* core_;
  std::vector<detail::Chunk<Traits>*> chunks_;
};

}  // namespace tarn
