// SPDX-License-Identifier: MIT
#pragma once

// The shortest read: of bytes that chunks hold, with nothing between them that is not held. It takes the latches of
// these chunks and nothing else that lasts: no lock of the file.
//
// Why it may do without the lock, which every other read of a DirtyFile has, shared, when it takes its latches, and
// every change exclusively:
//
// - A change that makes new bytes valid, which is a window of a write, keeps the exclusive latches of all its chunks
//   until all of it is committed, the size too. So nobody sees a byte of it in one chunk and then not in another:
//   that one cannot be latched, and the long way waits for the lock.
// - A change that takes bytes away (a cut, a punch, a new version, what is discarded or removed) leaves them not
//   valid, or their chunk not in the table. There this read has nothing to say, and the long way waits for the lock;
//   nor do they become valid again meanwhile, for they have left every load first, and none begins without the lock.
//   Bytes that such a change has yet to come to may be read while it goes on: that read is of the moment before it.
// - What a load brings are bytes that were stored all along.
// - A read of several chunks is of the moment when it has all their latches. Bytes of a latched chunk change no more
//   and stay valid; but the chunk as a whole may have gone since, and another have been written since that and
//   latched here: so it looks, with all latches, whether each is still the file's.
//
// Nor does it take the table mutex, under which all others find a chunk and pin it: what it finds, it latches, and then
// looks whose it is. See chunk_state.hpp for why it may, and chunk_table.hpp.
//
// What is valid in a chunk is the file's, whatever is stored, and, whenever the lock is free, below its size; but see
// FileBody::holds_past_size.
//
// Of a building block the caller sees to it that no change of the file goes on while it reads. It has the size in its
// hand, and asks for nothing past it. Its record it finds by the id, with no lock either, and looks whose it is when it
// has the latch: see registry.hpp.
//
// What is on the way to one chunk is inlined by force, here and where it is defined: left to itself, the compiler makes
// calls of it where a program reads in several places, which read/512B and read/4KiB of `bench/run.sh micro` notice.
//
// Thread safety: any thread.

#include <sys/uio.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <new>
#include <optional>
#include <span>
#include <system_error>
#include <type_traits>

#include <tarn/buffers.hpp>
#include <tarn/detail/copy_bytes.hpp>
#include <tarn/detail/piece_list.hpp>
#include <tarn/detail/pool_core.hpp>
#include <tarn/detail/read_window.hpp>
#include <tarn/detail/waiter.hpp>
#include <tarn/result.hpp>

namespace tarn::detail {

/// A file whose record the caller keeps alive.
template <class Traits>
struct KnownFile {
  const FileRecord<Traits>& record;

  /// Whether the chunk, which is latched, is the file's at `index`.
  [[nodiscard]] bool has(const Chunk<Traits>& chunk, std::uint64_t index) const { return is_of(chunk, record, index); }
};
/// A file by its id, of which the record is one that may have it: it has while a chunk of it that is latched says so.
template <class Traits>
struct FileOfId {
  const FileRecord<Traits>& record;
  const typename Traits::FileId& id;

  [[nodiscard]] bool has(const Chunk<Traits>& chunk, std::uint64_t index) const {
    return is_of(chunk, record, index) && record.template has_key<FileRecord<Traits>::of_file>(id);
  }
};

/// A window's chunks of a file that are pinned and latched, shared, while it lives.
template <class Traits, class File>
class HeldChunks {
 public:
  HeldChunks(PoolCore<Traits>& core, const File& file) : core_{core}, file_{file}, table_{file.record.unlocked()} {}
  HeldChunks(const HeldChunks&) = delete;
  HeldChunks& operator=(const HeldChunks&) = delete;
  ~HeldChunks() {
    while (count_ != 0) core_.unpin_shared(*chunks_[--count_]);
  }

  /// Returns: the chunk at `index`, if it is to be had at once and has all of `part`; else null, which says nothing.
  [[nodiscard]] Chunk<Traits>* hold(std::uint64_t index, ByteRange part) {
    auto* const chunk = table_.find(index);
    if (chunk == nullptr || !chunk->state.try_pin_shared()) return nullptr;
    chunks_[count_++] = chunk;
    return file_.has(*chunk, index) && chunk->valid.contains(part) ? chunk : nullptr;
  }
  /// They are used. Returns: whether all of them are the file's still.
  [[nodiscard]] bool touch() noexcept {
    std::uint64_t any = 0;
    for (std::size_t i = 0; i < count_; ++i) {
      any |= chunks_[i]->state.word();
      core_.touch(*chunks_[i]);
    }
    return (any & ChunkState::detached) == 0;
  }

 private:
  PoolCore<Traits>& core_;
  const File& file_;
  typename ChunkTable<Chunk<Traits>>::Unlocked table_;
  std::size_t count_ = 0;
  Chunk<Traits>* chunks_[usual_window_pieces];  // NOLINT(cppcoreguidelines-pro-type-member-init): up to count_
};

/// Calls use(ConstBuffers) under the latches, if all the bytes [offset, offset + size_bytes) are held and the latches
/// are to be had at once.
///
/// Returns:  whether it did. If not, nothing is said of the bytes, and the arguments may be wrong.
/// Errors:   throws what `use` throws.
/// Requires: the caller holds nothing. Nothing is held past the file's size.
/// Blocks:   never.
/// Cost:     a chunk: O(height of the table), two atomic changes of its word; no allocation.
template <class Traits, class File, class Use>
[[nodiscard]] bool use_held_chunks(PoolCore<Traits>& core, const File& file, std::uint64_t offset,
                                   std::uint64_t size_bytes, const Use& use) {
  const auto range = ByteRange::at(offset, size_bytes);
  if (!range || range->empty() || size_bytes > core.window_bytes) return false;
  const auto chunk_bytes = core.layout.chunk_bytes();
  if (core.layout.chunks_of(*range).count() > usual_window_pieces) return false;
  const Resumer resumer;  // whom a chunk that is given back wakes goes on when all are
  HeldChunks<Traits, File> held{core, file};
  PieceList pieces;
  auto from = core.layout.offset_in_chunk(offset);
  for (auto index = core.layout.chunk_of(offset); size_bytes != 0; ++index) {
    const auto n = std::min(size_bytes, chunk_bytes - from);
    const auto* const chunk = held.hold(index, ByteRange::between(from, from + n));
    if (chunk == nullptr) return false;
    pieces.add_bytes(chunk->memory + from, n);
    size_bytes -= n;
    from = 0;
  }
  if (!held.touch()) return false;
  use(pieces.buffers());
  return true;
}

/// The same of bytes in one chunk, while it lives: the shortest reads notice a list, and be it of one, and a call.
template <class Traits>
class HeldBytes {
 public:
  /// Requires: as use_held_chunks; fits.
  template <class File>
  [[gnu::always_inline]] HeldBytes(PoolCore<Traits>& core, const File& file, std::uint64_t offset,
                                   std::uint64_t size_bytes)
      : core_{core} {
    const auto index = core.layout.chunk_of(offset);
    auto* const chunk = file.record.find_unlocked(index);
    if (chunk == nullptr || !chunk->state.try_pin_shared()) return;
    chunk_ = chunk;
    const auto from = core.layout.offset_in_chunk(offset);
    if (!file.has(*chunk, index)) return;
    if (!chunk->valid.contains(ByteRange::between(from, from + size_bytes))) return;
    core.touch(*chunk);
    bytes_ = chunk->memory + from;
  }
  HeldBytes(const HeldBytes&) = delete;
  HeldBytes& operator=(const HeldBytes&) = delete;
  [[gnu::always_inline]] ~HeldBytes() {
    if (chunk_ != nullptr) core_.unpin_shared(*chunk_);
  }

  /// Whether the bytes are in one chunk.
  [[nodiscard]] static bool fits(const PoolCore<Traits>& core, std::uint64_t offset, std::uint64_t size_bytes) {
    return size_bytes != 0 && size_bytes <= core.layout.chunk_bytes() - core.layout.offset_in_chunk(offset);
  }
  /// The first byte; null if they are not to be had.
  [[nodiscard]] std::byte* data() const { return bytes_; }

 private:
  PoolCore<Traits>& core_;
  Chunk<Traits>* chunk_ = nullptr;
  std::byte* bytes_ = nullptr;
};

/// The short reads of a file. A DirtyFile has them in itself, so that on the way to a chunk there is only the record.
template <class Traits, class File = KnownFile<Traits>>
class HeldReads {
 public:
  /// `any`: false if none is to be short.
  HeldReads(PoolCore<Traits>& core, const File& file, bool any) : core_{core}, file_{file}, any_{any} {}

  /// A read. Returns: false if it takes more than a look; then nothing is done.
  [[nodiscard]] bool copy(std::uint64_t offset, std::span<std::byte> into) const {
    UnderLatches::note(0);
    if (!any_ || into.data() == nullptr) return false;
    if (HeldBytes<Traits>::fits(core_, offset, into.size())) {
      const HeldBytes<Traits> held{core_, file_, offset, into.size()};
      if (held.data() == nullptr) return false;
      copy_bytes(into.data(), held.data(), into.size());
    } else {
      const auto copy = [&](ConstBuffers bytes) { (void)bytes.copy_to(into); };
      if (!use_held_chunks(core_, file_, offset, into.size(), copy)) return false;
    }
    core_.counters.copy_bytes.add(into.size());
    return true;
  }
  /// A view. Returns: nothing if it takes more than a look.
  template <class F>
  [[nodiscard]] auto show(std::uint64_t offset, std::uint64_t size_bytes, F& f) const
      -> std::optional<Result<std::invoke_result_t<F&, ConstBuffers>>> {
    std::optional<Result<std::invoke_result_t<F&, ConstBuffers>>> shown;
    const auto show_it = [&](ConstBuffers bytes) { shown.emplace(detail::show(f, bytes)); };
    try {
      if (use(offset, size_bytes, show_it)) core_.counters.view_bytes.add(size_bytes);
    } catch (const std::bad_alloc&) {
      shown.emplace(fail(std::errc::not_enough_memory));
    }
    return shown;  // the one return: it is made where the caller wants it
  }
  /// As use_held_chunks, of one chunk or several.
  template <class Use>
  [[nodiscard, gnu::always_inline]] bool use(std::uint64_t offset, std::uint64_t size_bytes, const Use& use) const {
    UnderLatches::note(0);
    if (!any_) return false;
    if (!HeldBytes<Traits>::fits(core_, offset, size_bytes)) {
      return use_held_chunks(core_, file_, offset, size_bytes, use);
    }
    const HeldBytes<Traits> held{core_, file_, offset, size_bytes};
    if (held.data() == nullptr) return false;
    const ::iovec piece{held.data(), static_cast<std::size_t>(size_bytes)};
    use(ConstBuffers{{&piece, 1}});
    return true;
  }

 private:
  PoolCore<Traits>& core_;
  const File file_;
  const bool any_;
};

}  // namespace tarn::detail
