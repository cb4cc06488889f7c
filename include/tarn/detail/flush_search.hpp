// SPDX-License-Identifier: MIT
#pragma once

// Where a flush goes next in a file, and whether it may, beside those in flight.
//
// Flushes of one file are side by side only in different parts, and only where none sets the size: a store never has to
// order two. Each is entered in its record with whole parts, so two never share a chunk.
//
// Thread safety: as said; none waits.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <utility>

#include <tarn/chunk_layout.hpp>
#include <tarn/detail/file_record.hpp>
#include <tarn/dirty_file_metadata.hpp>
#include <tarn/extent_set.hpp>

namespace tarn::detail {

/// Whether a flush of which `at_once` may be in flight may join those that are.
template <class Traits>
[[nodiscard]] bool may_join(const FileRecord<Traits>& record, std::size_t at_once) TARN_REQUIRES(record.table_mutex) {
  std::size_t count = 0;
  for (const auto* flush = record.flushes; flush != nullptr; flush = flush->next) ++count;
  return count < at_once && !record.flushes->alone && record.waits_for_none.load() == 0;
}

/// The chunks from the first dirty one of the range to the end of its part: [first, last).
template <class Traits>
[[nodiscard]] std::pair<std::uint64_t, std::uint64_t> find_dirty_part(const FileRecord<Traits>& record,
                                                                      const ChunkLayout& layout, ByteRange range)
    TARN_REQUIRES(record.table_mutex) {
  const auto chunks = layout.chunks_of(range);
  for (auto from = chunks.first; from < chunks.last;) {
    const auto [index, chunk] = record.table.next(from);
    if (chunk == nullptr || index >= chunks.last) break;
    if (chunk->state.is(ChunkState::dirty)) {
      return {index, std::min(chunks.last, layout.chunks_of(layout.parts_around(layout.chunk_range(index))).last)};
    }
    from = index + 1;
  }
  return {0, 0};
}
template <class Traits>
[[nodiscard]] std::pair<std::uint64_t, std::uint64_t> dirty_part(FileRecord<Traits>& record, const ChunkLayout& layout,
                                                                 ByteRange range) {
  MutexLock table{record.table_mutex};
  return find_dirty_part(record, layout, range);
}

/// The flush in flight that is in the part of `offset`, or null. Requires: the file's lock.
template <class Traits>
[[nodiscard]] const FlushInFlight* flush_at(const FileRecord<Traits>& record, std::uint64_t offset)
    TARN_REQUIRES(record.table_mutex) {
  const auto* flush = record.flushes;
  while (flush != nullptr && (offset < flush->parts.offset() || offset >= flush->parts.end())) flush = flush->next;
  return flush;
}

/// What of `range` lies before the parts that flushes in flight are in; nothing if it begins in one. Requires: the
/// file's lock.
template <class Traits>
[[nodiscard]] std::optional<ByteRange> free_parts(const FileRecord<Traits>& record, ByteRange range)
    TARN_REQUIRES(record.table_mutex) {
  if (flush_at(record, range.offset()) != nullptr) return std::nullopt;
  auto end = range.end();
  for (const auto* flush = record.flushes; flush != nullptr; flush = flush->next) {
    if (flush->parts.offset() > range.offset()) end = std::min(end, flush->parts.offset());
  }
  return ByteRange::between(range.offset(), end);
}

/// The same, from the first dirty part on that no flush in flight is in; nothing if there is none. One that took
/// nothing would wake those who wait for room, perhaps its own caller, for ever. Requires: as before.
template <class Traits>
[[nodiscard]] std::optional<ByteRange> free_dirty_parts(const FileRecord<Traits>& record, const ChunkLayout& layout,
                                                        ByteRange range) TARN_REQUIRES(record.table_mutex) {
  for (auto at = range.offset(); at < range.end();) {
    const auto [first, last] = find_dirty_part(record, layout, ByteRange::between(at, range.end()));
    if (first >= last) break;
    at = std::max(at, layout.chunk_range(first).offset());
    const auto* const flush = flush_at(record, at);
    if (flush == nullptr) return free_parts(record, ByteRange::between(at, range.end()));
    at = flush->parts.end();
  }
  return std::nullopt;
}

/// The parts from `bound_bytes`, past all that the store has, to `size_bytes`, but for those with dirty bytes: setting
/// the size makes them zero, so a huge hole is not a request a part. Cost: O(chunks held there).
template <class Traits>
[[nodiscard]] ExtentSet parts_by_size(FileRecord<Traits>& record, const ChunkLayout& layout, std::uint64_t bound_bytes,
                                      std::uint64_t size_bytes) {
  ExtentSet parts;
  for (auto at = layout.part_range(layout.part_count(bound_bytes)).offset(); at < size_bytes;) {
    const auto [first, last] = dirty_part(record, layout, ByteRange::between(at, size_bytes));
    auto part = ByteRange::between(size_bytes, size_bytes);
    if (first < last) part = layout.parts_around(layout.chunk_range(first));
    parts.add(ByteRange::between(at, part.offset()));
    at = part.end();
  }
  return parts;
}

/// The first part of the range with a byte that the store lacks and that no size makes zero, cut at the range's end;
/// empty there if none has.
template <class Traits>
[[nodiscard]] ByteRange part_to_store(FileRecord<Traits>& record, const MetadataFor<Traits>& meta,
                                      const ChunkLayout& layout, ByteRange range, const ExtentSet& by_size) {
  const auto [first, last] = dirty_part(record, layout, range);
  auto gap = meta.stored().next_gap_in(range);
  while (gap && by_size.contains(ByteRange::between(gap->offset(), gap->offset() + 1))) {
    const auto parts = *by_size.next_in(ByteRange::between(gap->offset(), range.end()));
    gap = meta.stored().next_gap_in(ByteRange::between(parts.end(), range.end()));
  }
  if (first >= last && !gap) return ByteRange::between(range.end(), range.end());
  auto at = first < last ? std::max(range.offset(), layout.chunk_range(first).offset()) : gap->offset();
  if (gap) at = std::min(at, gap->offset());
  return layout.part_range(layout.part_of(at)).intersect(ByteRange::between(0, meta.size()));
}

}  // namespace tarn::detail
