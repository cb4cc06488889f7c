// SPDX-License-Identifier: MIT
#pragma once

// One window of a read: which bytes are where.
//
// Each byte is in one of three places: in a held chunk, the file's own before one of its part's content; in the store
// and not held, so missing; or nowhere, so zero. The window pins the chunks under the table mutex, latches them, and
// lists the bytes as pieces in file order; with nothing missing the pieces are the answer, good until release.
//
// Thread safety: one call's own. The caller holds the file's lock while plan runs; the pieces stay right after it gave
//                the lock back, since every change of those bytes needs an exclusive latch.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <system_error>
#include <type_traits>

#include <tarn/buffers.hpp>
#include <tarn/detail/latched_chunks.hpp>
#include <tarn/detail/piece_list.hpp>
#include <tarn/detail/pool_core.hpp>
#include <tarn/detail/small_vector.hpp>
#include <tarn/dirty_file_metadata.hpp>
#include <tarn/result.hpp>

namespace tarn::detail {

/// Calls a visitor.
template <class F>
[[nodiscard]] Result<std::invoke_result_t<F&, ConstBuffers>> show(F& f, ConstBuffers bytes) {
  const UnderLatches latched;
  if constexpr (std::is_void_v<std::invoke_result_t<F&, ConstBuffers>>) {
    f(bytes);
    return {};
  } else {
    return f(bytes);
  }
}

template <class Traits>
class ReadWindow {
 public:
  using PoolChunk = Chunk<Traits>;
  using Record = FileRecord<Traits>;

  explicit ReadWindow(PoolCore<Traits>& core) : core_{core}, latched_{core} {}

  /// Finds the bytes of `range`, which lies inside the file's size.
  /// Errors: EAGAIN if a chunk has too many pins, or if a latch is not to be had and `wait` is false (or see
  /// blocked_on).
  ///         Throws bad_alloc.
  [[nodiscard]] std::error_code plan(Record& record, const MetadataFor<Traits>& meta, const ChunkLayout& layout,
                                     ByteRange range, bool wait) {
    wait_ = wait;
    const auto chunks = layout.chunks_of(range);
    SmallVector<PoolChunk*, usual_window_pieces> own;
    own.reserve(chunks.count());
    latched_.reserve(chunks.count());
    {
      MutexLock table{record.table_mutex};
      for (auto index = chunks.first; index < chunks.last; ++index) {
        auto* const chunk = record.table.find(index);
        if (chunk != nullptr) {
          if (!chunk->state.try_pin()) return again;
          latched_.hold(*chunk);
        }
        own.push_back(chunk);
      }
    }
    if (!latch()) return again;
    for (auto index = chunks.first; index < chunks.last; ++index) {
      const auto part = layout.chunk_range(index).intersect(range);
      auto* const chunk = own[static_cast<std::size_t>(index - chunks.first)];
      if (chunk != nullptr) core_.touch(*chunk);
      if (const auto error = add_chunk(chunk, meta, layout, part, layout.chunk_range(index).offset()); error)
        return error;
    }
    return {};
  }

  /// The content chunk whose latch was not to be had, when plan answered EAGAIN and was allowed to wait; pinned by the
  /// window. Content chunks are in no order that all files share, so nobody waits for one with another latched.
  [[nodiscard]] PoolChunk* blocked_on() const { return blocked_on_; }

  /// What is stored and not held, in file offsets.
  [[nodiscard]] const ExtentSet& missing() const { return missing_; }
  /// The bytes of the range in order. Requires: missing() is empty, or lies behind them.
  [[nodiscard]] ConstBuffers pieces() { return pieces_.buffers(); }
  [[nodiscard]] std::size_t piece_count() const { return pieces_.size(); }
  [[nodiscard]] bool holds(const PoolChunk* chunk) { return latched_.holds(chunk); }
  void release() noexcept { latched_.release(); }
  [[nodiscard]] std::size_t pin_count() const { return latched_.size(); }
  /// Lets go of the latches, and gives the pins away. Requires: there is room for pin_count() more.
  template <class Pins>
  void pass_pins_to(Pins& pins) noexcept {
    latched_.pass_pins_to(pins);
  }

 private:
  inline static const std::error_code again = std::make_error_code(std::errc::resource_unavailable_try_again);

  [[nodiscard]] bool latch() {
    if (!wait_) return latched_.try_latch(LatchMode::shared);
    latched_.latch(LatchMode::shared);
    return true;
  }

  // The bytes of `range`, all in the chunk that starts at `chunk_offset`: from `chunk` where it has them.
  [[nodiscard]] std::error_code add_chunk(PoolChunk* chunk, const MetadataFor<Traits>& meta, const ChunkLayout& layout,
                                          ByteRange range, std::uint64_t chunk_offset) {
    for (auto at = range.offset(); at < range.end();) {
      const auto rest = ByteRange::between(at - chunk_offset, range.end() - chunk_offset);
      const auto run = chunk != nullptr ? chunk->valid.next_in(rest) : std::nullopt;
      const auto gap_end = run ? run->offset() + chunk_offset : range.end();
      if (gap_end > at) {
        if (const auto error = add_gap(meta, layout, ByteRange::between(at, gap_end)); error) return error;
      }
      if (!run) break;
      add_bytes(chunk->memory + run->offset(), run->size_bytes());
      at = run->end() + chunk_offset;
    }
    return {};
  }

  // The bytes of `range` that the file's own chunk does not have: stored ones by content or missing, the others zero.
  [[nodiscard]] std::error_code add_gap(const MetadataFor<Traits>& meta, const ChunkLayout& layout, ByteRange range) {
    for (auto at = range.offset(); at < range.end();) {
      const auto rest = ByteRange::between(at, range.end());
      const auto stored = meta.stored().next_in(rest);
      const auto zero_end = stored ? stored->offset() : range.end();
      add_zeros(zero_end - at);
      if (!stored) break;
      if (const auto error = add_stored(meta, layout, *stored); error) return error;
      at = stored->end();
    }
    return {};
  }

  [[nodiscard]] std::error_code add_stored(const MetadataFor<Traits>& meta, const ChunkLayout& layout,
                                           ByteRange range) {
    const auto part = layout.part_of(range.offset());  // a chunk lies in one part
    const auto* const content = meta.content_id(part);
    PoolChunk* chunk = nullptr;
    if (content != nullptr && !pin_content(*content, range, layout, part, chunk)) return again;
    if (chunk == nullptr) {
      missing_.add(range);
      return {};
    }
    if (!latched_.try_latch(LatchMode::shared)) {
      if (wait_) blocked_on_ = chunk;
      return again;
    }
    const auto chunk_offset = layout.chunk_range(layout.chunk_of(range.offset())).offset();
    for (auto at = range.offset(); at < range.end();) {
      const auto run = chunk->valid.next_in(ByteRange::between(at - chunk_offset, range.end() - chunk_offset));
      const auto gap_end = run ? run->offset() + chunk_offset : range.end();
      if (gap_end > at) missing_.add(ByteRange::between(at, gap_end));
      if (!run) break;
      add_bytes(chunk->memory + run->offset(), run->size_bytes());
      at = run->end() + chunk_offset;
    }
    core_.touch(*chunk);
    return {};
  }

  // Sets `chunk` to the content's chunk, pinned, if it is held. Returns: false if it has too many pins.
  [[nodiscard]] bool pin_content(const typename Traits::ContentId& id, ByteRange range, const ChunkLayout& layout,
                                 std::uint64_t part, PoolChunk*& chunk) {
    const auto record = core_.registry.find(PoolCore<Traits>::content_key(id));
    if (!record) return true;
    latched_.reserve(1);
    MutexLock table{record->table_mutex};
    chunk = record->table.find(layout.chunk_of(range.offset() - layout.part_range(part).offset()));
    // Latched already, for another part of the same content: a second latch could wait for somebody who waits for us.
    if (chunk == nullptr || latched_.holds(chunk)) return true;
    if (!chunk->state.try_pin()) return false;
    latched_.hold(*chunk);
    return true;
  }

  // Pieces past the first missing byte answer nobody.
  void add_bytes(std::byte* bytes, std::uint64_t size_bytes) {
    if (missing_.empty()) pieces_.add_bytes(bytes, size_bytes);
  }
  void add_zeros(std::uint64_t size_bytes) {
    if (missing_.empty()) pieces_.add_zeros(size_bytes);
  }

  PoolCore<Traits>& core_;
  LatchedChunks<Traits> latched_;
  PieceList pieces_;
  ExtentSet missing_;
  PoolChunk* blocked_on_ = nullptr;
  bool wait_ = true;
};

}  // namespace tarn::detail
