// SPDX-License-Identifier: MIT
#pragma once

// Writing: bytes copied in, or received in place by a filler. A write loads nothing: it leaves what it does not cover
// to the store.

#include <sys/uio.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <type_traits>
#include <utility>

#include <tarn/chunk_pool.hpp>
#include <tarn/detail/write_window.hpp>
#include <tarn/read_range.hpp>

namespace tarn {

/// What a write came to: where it began, and how much was taken in.
struct Written {
  std::uint64_t offset = 0;
  std::size_t size_bytes = 0;
};

namespace detail {

/// A write as a sequence of windows. fill(window, done, size) fills up to `size` bytes, of which `done` went before.
template <class File, class Room, class Fill>
[[nodiscard]] Result<Written> write_windows(File& file, std::optional<std::uint64_t> offset, std::uint64_t size_bytes,
                                            bool fresh_over_valid, Room& room, std::optional<std::int64_t> mtime_ns,
                                            Fill fill) {
  if (offset && !ByteRange::at(*offset, size_bytes)) return fail(std::errc::file_too_large);
  Written written{.offset = offset.value_or(0)};
  auto window_bytes = file.core.window_bytes;
  while (written.size_bytes < size_bytes) {
    const auto done = written.size_bytes;
    const auto n = std::min<std::uint64_t>(size_bytes - done, window_bytes);
    const auto at = offset || done != 0 ? std::optional{written.offset + done} : std::nullopt;
    const auto taken = write_one_window(file, at, n, fresh_over_valid, room, mtime_ns,
                                        [&](auto& window) { return fill(window, done, static_cast<std::size_t>(n)); });
    if (!taken) {
      const auto chunk_bytes = file.core.layout.chunk_bytes();
      if (taken.error() == std::errc::no_buffer_space && window_bytes > chunk_bytes) {
        window_bytes = chunk_bytes;  // a whole window is not to be had: a chunk perhaps is
        continue;
      }
      if (done != 0) break;  // the prefix is in, and its length says so
      return fail(taken.error());
    }
    if (done == 0) written.offset = taken->first;
    written.size_bytes += static_cast<std::size_t>(taken->second);
    if (taken->second < n) break;  // the filler had no more
  }
  return written;
}

template <class File, class Room>
[[nodiscard]] Result<Written> write_copy(File& file, std::optional<std::uint64_t> offset,
                                         std::span<const std::byte> from, Room& room,
                                         std::optional<std::int64_t> mtime_ns) {
  if (from.data() == nullptr && !from.empty()) return fail(std::errc::invalid_argument);
  return write_windows(file, offset, from.size(), false, room, mtime_ns,
                       [&](auto& window, std::size_t done, std::size_t size) -> Result<std::size_t> {
                         auto* next = from.data() + done;
                         window.for_each_target([&](std::byte* memory, std::size_t n) {
                           std::memcpy(memory, next, n);
                           next += n;
                         });
                         return size;
                       });
}

template <class File, class Room, class Filler>
[[nodiscard]] Result<Written> write_in_place(File& file, std::optional<std::uint64_t> offset, std::uint64_t size_bytes,
                                             Filler& filler, Room& room, std::optional<std::int64_t> mtime_ns) {
  return write_windows(
      file, offset, size_bytes, true, room, mtime_ns,
      [&](auto& window, std::size_t, std::size_t) -> Result<std::size_t> {
        SmallVector<::iovec, 64> pieces;
        window.for_each_target([&](std::byte* memory, std::size_t n) { pieces.push_back({memory, n}); });
        return filler(MutableBuffers{pieces.span()});
      });
}

}  // namespace detail

/// Copies `from` into the file at `offset`; a gap between the old end and `offset` reads as zero.
///
/// Returns:       the bytes taken in: fewer than from.size() only if a later window failed. The size covers exactly
///                them.
/// Errors:        EFBIG past max_offset; ENOBUFS if no chunk can be had; ENOENT for a deleted file; EINVAL for a null
///                span with a size, or a part that is not a multiple of the chunk; EAGAIN if a chunk has too many pins;
///                ENOMEM. Nothing has changed then.
/// Requires:      `meta` has one owner at a time. `from` is not memory whose page faults this process serves.
/// Blocks:        while a view or a with_data of the same chunk runs. Never on the store: a write needs no load.
/// Cost:          one copy; O(chunks touched); fresh memory only for chunks that are not held or that a flush reads.
template <class Traits>
[[nodiscard]] Result<std::size_t> write_range(ChunkPool<Traits>& pool, std::type_identity_t<MetadataFor<Traits>>& meta,
                                              std::uint64_t offset, std::span<const std::byte> from) {
  return detail::with_file(pool, meta, [&](auto& file) -> Result<std::size_t> {
    detail::EvictOnly room;
    const auto written = detail::write_copy(file, offset, from, room, std::nullopt);
    if (!written) return fail(written.error());
    return written->size_bytes;
  });
}

/// Lets filler(MutableBuffers) receive up to `size_bytes` bytes in place, in chunk memory that shows to nobody yet; it
/// answers how many bytes from the start it filled (a std::size_t or a Result of one), and may be called once a window.
///
/// Returns:  the bytes taken in; fewer than size_bytes if the filler filled fewer or a later window failed.
/// Errors:   the filler's own; else as above. Nothing has changed then. What the filler throws is passed on;
///           what it filled in earlier windows is in.
/// Requires: the filler calls nothing of tarn, does not block and touches no byte that it does not count: it runs under
///           exclusive latches.
/// Cost:     no copy by tarn, unless a chunk has other valid bytes: those are copied to the new memory.
template <class Traits, std::invocable<MutableBuffers> Filler>
[[nodiscard]] Result<std::size_t> write_range(ChunkPool<Traits>& pool, std::type_identity_t<MetadataFor<Traits>>& meta,
                                              std::uint64_t offset, std::uint64_t size_bytes, Filler&& filler) {
  return detail::with_file(pool, meta, [&](auto& file) -> Result<std::size_t> {
    detail::EvictOnly room;
    const auto written = detail::write_in_place(file, offset, size_bytes, filler, room, std::nullopt);
    if (!written) return fail(written.error());
    return written->size_bytes;
  });
}

}  // namespace tarn
