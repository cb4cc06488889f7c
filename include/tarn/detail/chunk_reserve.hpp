// SPDX-License-Identifier: MIT
#pragma once

// Chunks that a call has charged and not yet used. A call reserves all that a window needs or none, before it latches
// anything, so two calls never hold half each and wait for the other half.
//
// Also here: how a call that neither waits nor flushes gets room for a record.
//
// Thread safety: one call's own.

#include <cstddef>
#include <cstdint>
#include <optional>

#include <tarn/detail/pool_core.hpp>
#include <tarn/detail/small_vector.hpp>

namespace tarn::detail {

/// What a window lacks: chunks, and bytes for tables and long extent lists; and what it will make dirty.
template <class Traits>
struct Need {
  std::size_t chunks = 0;
  std::uint64_t bytes = 0;

  std::uint64_t chunks_to_dirty = 0, bytes_to_dirty = 0;
  const FileRecord<Traits>* file = nullptr;  // whose
  Flushable* member = nullptr;               // the same, to be flushed

  /// Whether the marks let so much become dirty. Where nothing is dirty, anything may: else it never could.
  [[nodiscard]] bool may_dirty(const PoolCore<Traits>& core) const {
    return chunks_to_dirty == 0 || (!passes_limit(core) && !passes_file_limit(core));
  }
  [[nodiscard]] bool passes_file_limit(const PoolCore<Traits>& core) const {
    const auto limit = core.marks.file_dirty_limit_bytes;
    if (limit == 0) return false;
    const auto dirty = file->dirty_bytes.load();
    return dirty != 0 && dirty + bytes_to_dirty > limit;
  }

 private:
  [[nodiscard]] bool passes_limit(const PoolCore<Traits>& core) const {
    const auto limit = core.marks.dirty_limit_bytes;
    if (limit == 0) return false;
    const auto dirty = core.counters.chunks_dirty.load();
    return dirty != 0 && (dirty + chunks_to_dirty) * core.chunk_bytes() > limit;
  }
};

template <class Traits>
class ChunkReserve {
 public:
  using PoolChunk = Chunk<Traits>;

  explicit ChunkReserve(PoolCore<Traits>& core) : core_{core} {}
  ChunkReserve(const ChunkReserve&) = delete;
  ChunkReserve& operator=(const ChunkReserve&) = delete;
  ~ChunkReserve() { clear(); }

  [[nodiscard]] std::size_t size() const { return chunks_.size(); }

  /// Reserves what is needed, and `spare` chunks more or as many of them as there are, evicting clean chunks for it.
  /// One call at a time does: two that took half each would both fail. A call that fails wakes others only for what it
  /// evicted, not for what it took and gave back, so that two that wait do not wake each other for ever.
  /// Returns:  Freed::some if all that is needed is there now; else why not, and nothing is reserved.
  /// Requires: the caller holds nothing.
  [[nodiscard]] typename PoolCore<Traits>::Freed fill(const Need<Traits>& need, std::size_t spare = 0) {
    using Freed = typename PoolCore<Traits>::Freed;
    if (!need.may_dirty(core_)) return Freed::none;
    MutexLock one_at_a_time{core_.fill_mutex};
    while (chunks_.size() < need.chunks || !core_.budget.would_fit(need.bytes)) {
      if (chunks_.size() < need.chunks) {
        if (auto* const chunk = core_.make_chunk(); chunk != nullptr) {
          keep(chunk);
          continue;
        }
      }
      // make_chunk charges the descriptor first: a slab that trim gave back here is not taken again for nothing.
      if (const auto freed = core_.free_some(); freed != Freed::some) {
        while (!chunks_.empty()) core_.free_quietly(&take());
        one_at_a_time.unlock();
        uncount();
        core_.counters.refusals.fetch_add(1, std::memory_order_relaxed);
        return freed;
      }
    }
    fill_spare(need.chunks + spare, need.bytes);
    if (!counted_) counted_.emplace(core_.reserves);
    return Freed::some;
  }
  /// Requires: size() != 0. The caller has it from now on, pinned and exclusively latched.
  [[nodiscard]] PoolChunk& take() {
    auto* const chunk = chunks_.back();
    chunks_.pop_back();
    return *chunk;
  }
  void clear() noexcept {
    while (!chunks_.empty()) core_.free_chunk(&take());
    uncount();
  }

 private:
  void fill_spare(std::size_t chunks, std::uint64_t bytes) TARN_REQUIRES(core_.fill_mutex) {
    while (chunks_.size() < chunks) {
      auto* const chunk = core_.make_chunk();
      if (chunk != nullptr && core_.budget.would_fit(bytes)) {
        keep(chunk);
        continue;
      }
      if (chunk == nullptr) {
        if (core_.free_some() != PoolCore<Traits>::Freed::some) return;
        continue;
      }
      // It may be the first of a slab, which to trim is no step: it would be mapped again.
      core_.free_quietly(chunk);
      (void)core_.storage.trim(core_.budget);
      if (core_.evict_one() != PoolCore<Traits>::Freed::some) return;
    }
  }
  void keep(PoolChunk* chunk) {
    try {
      chunks_.push_back(chunk);
    } catch (...) {
      core_.free_chunk(chunk);
      throw;
    }
  }

  // Even with nothing freed a waiter may have counted on us: noted once before, so that who sees the count without us
  // sees the epoch moved, and once after, so that who slept on the count wakes.
  void uncount() noexcept {
    if (!counted_) return;
    core_.room_queue.note();
    counted_.reset();
    core_.room_queue.note();
  }

  PoolCore<Traits>& core_;
  SmallVector<PoolChunk*, 20> chunks_;
  std::optional<typename PoolCore<Traits>::Count> counted_;
};

/// Returns: the record of that key, made if there was none, in the room of clean chunks if need be; else nothing.
/// Errors:  throws bad_alloc.
template <class Traits>
[[nodiscard]] RecordRef<Traits> find_or_make(PoolCore<Traits>& core, const typename PoolCore<Traits>::Key& key) {
  auto record = core.registry.find_or_make(key);
  while (!record && core.free_some() == PoolCore<Traits>::Freed::some) record = core.registry.find_or_make(key);
  return record;
}

}  // namespace tarn::detail
