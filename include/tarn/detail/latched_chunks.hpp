// SPDX-License-Identifier: MIT
#pragma once

// The chunks that a call has pinned, and those of them that it has latched; given back when the call ends, whatever way
// it ends.
//
// Also here: how a chunk's extent lists are charged before they grow and released after they shrink.

#include <cassert>
#include <cstddef>
#include <cstdint>

#include <tarn/detail/piece_list.hpp>
#include <tarn/detail/pool_core.hpp>
#include <tarn/detail/small_vector.hpp>

namespace tarn::detail {

enum class LatchMode : std::uint8_t { none, shared, exclusive };

/// `usual`: of up to so many, it allocates nothing.
template <class Traits, std::size_t usual = usual_window_pieces>
class LatchedChunks {
 public:
  using PoolChunk = Chunk<Traits>;

  explicit LatchedChunks(PoolCore<Traits>& core) : core_{core} {}
  LatchedChunks(const LatchedChunks&) = delete;
  LatchedChunks& operator=(const LatchedChunks&) = delete;
  ~LatchedChunks() { release(); }

  /// Makes room, so that the next `count` calls of hold cannot fail. May throw bad_alloc.
  void reserve(std::size_t count) { entries_.reserve(entries_.size() + count); }
  /// Takes over a pin and, as `mode` says, a latch.
  /// Requires: reserved.
  void hold(PoolChunk& chunk, LatchMode mode = LatchMode::none) { entries_.push_back({&chunk, mode}); }

  /// Latches what is pinned and not latched, in the order it was pinned; waits for it.
  void latch(LatchMode mode) {
    for (auto& entry : entries_) {
      if (entry.mode != LatchMode::none) continue;
      auto& state = entry.chunk->state;
      core_.note_latch(mode == LatchMode::shared ? state.latch_shared(core_.parking)
                                                 : state.latch_exclusive(core_.parking));
      entry.mode = mode;
    }
  }
  /// The same without waiting. Returns: false if one was not to be had.
  [[nodiscard]] bool try_latch(LatchMode mode) {
    for (auto& entry : entries_) {
      if (entry.mode != LatchMode::none) continue;
      auto& state = entry.chunk->state;
      if (!(mode == LatchMode::shared ? state.try_latch_shared() : state.try_latch_exclusive())) return false;
      entry.mode = mode;
    }
    return true;
  }

  [[nodiscard]] bool holds(const PoolChunk* chunk) {
    for (const auto& entry : entries_) {
      if (entry.chunk == chunk) return true;
    }
    return false;
  }

  /// Lets go of the latches, and gives the pins to `to`. Requires: all are shared; that has room for size() more.
  template <class Others>
  void pass_pins_to(Others& to) noexcept {
    for (; !entries_.empty(); entries_.pop_back()) {
      const auto [chunk, mode] = entries_.back();
      assert(mode == LatchMode::shared);
      chunk->state.unlatch_shared(core_.parking);
      to.hold(*chunk);
    }
  }
  [[nodiscard]] std::size_t size() const { return entries_.size(); }

  void release() noexcept {
    while (!entries_.empty()) {
      const auto [chunk, mode] = entries_.back();
      entries_.pop_back();
      if (mode == LatchMode::none) {
        core_.unpin(*chunk);
      } else if (mode == LatchMode::shared) {
        core_.unpin_shared(*chunk);
      } else {
        core_.unpin_exclusive(*chunk);
      }
    }
  }

 private:
  struct Entry {
    PoolChunk* chunk;
    LatchMode mode;
  };
  PoolCore<Traits>& core_;
  SmallVector<Entry, usual> entries_;
};

/// Which of a chunk's extent lists.
enum class Lists : std::uint8_t { valid = 1, dirty = 2, both = 3 };

/// Makes sure that the next change of each of the lists cannot fail. What they take on the heap is always charged,
/// prepared room included.
/// Requires: the exclusive latch on the chunk; for `dirty` the file's lock, too: whoever detaches a chunk reads what is
///           dirty in it under that lock alone.
/// Returns:  the bytes that the budget lacks; 0 if all is well.
/// Errors:   throws bad_alloc, and changes nothing that shows.
template <class Traits>
[[nodiscard]] std::uint64_t prepare_extents(PoolCore<Traits>& core, Chunk<Traits>& chunk, Lists lists = Lists::both) {
  const bool valid = lists != Lists::dirty, dirty = lists != Lists::valid;
  const auto chunk_bytes = core.chunk_bytes();
  const auto held_bytes = [&] { return chunk.valid.memory_bytes() + chunk.dirty.memory_bytes(); };
  const auto more_bytes =
      (valid ? chunk.valid.bytes_to_prepare(chunk_bytes) : 0) + (dirty ? chunk.dirty.bytes_to_prepare(chunk_bytes) : 0);
  if (more_bytes != 0 && !core.budget.try_charge(more_bytes)) return more_bytes;
  const auto before_bytes = held_bytes();
  try {
    if (valid) chunk.valid.prepare(chunk_bytes);
    if (dirty) chunk.dirty.prepare(chunk_bytes);
  } catch (...) {
    core.budget.release(before_bytes + more_bytes - held_bytes());
    throw;
  }
  return 0;
}

/// Lives around a change of a chunk's extent lists that was prepared: gives back the charge for what they shrink by.
/// Requires: the exclusive latch on the chunk, to its end.
template <class Traits>
class ExtentsChange {
 public:
  ExtentsChange(PoolCore<Traits>& core, Chunk<Traits>& chunk)
      : core_{core}, chunk_{chunk}, charged_bytes_{held_bytes()} {}
  ExtentsChange(const ExtentsChange&) = delete;
  ExtentsChange& operator=(const ExtentsChange&) = delete;
  ~ExtentsChange() {
    assert(held_bytes() <= charged_bytes_ && "an extent list grew that was not prepared");
    core_.budget.release(charged_bytes_ - held_bytes());
  }

 private:
  [[nodiscard]] std::uint64_t held_bytes() const { return chunk_.valid.memory_bytes() + chunk_.dirty.memory_bytes(); }

  PoolCore<Traits>& core_;
  Chunk<Traits>& chunk_;
  std::uint64_t charged_bytes_;
};

}  // namespace tarn::detail
