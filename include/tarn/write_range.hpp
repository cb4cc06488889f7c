// SPDX-License-Identifier: MIT
#pragma once

// Writing: bytes copied in, or received in place by a filler. A write loads nothing: it leaves what it does not cover
// to the store.

#include <sys/uio.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <new>
#include <optional>
#include <span>
#include <type_traits>
#include <utility>

#include <tarn/chunk_pool.hpp>
#include <tarn/detail/copy_bytes.hpp>
#include <tarn/detail/file_lock.hpp>
#include <tarn/detail/held_write.hpp>
#include <tarn/detail/write_window.hpp>
#include <tarn/read_range.hpp>
#include <tarn/spare_chunks.hpp>

namespace tarn {

/// What a write came to: where it began, and how much was taken in.
struct Written {
  std::uint64_t offset = 0;
  std::size_t size_bytes = 0;
};

namespace detail {

/// Takes in every write.
struct AdmitAll {
  template <class Traits>
  static constexpr bool asks = false;

  template <class File>
  [[nodiscard]] std::error_code operator()(File&, std::optional<std::uint64_t>, std::uint64_t) const {
    return {};
  }
};

/// Asks the store, if it likes to be asked.
template <class Store>
struct AskStore {
  template <class Traits>
  static constexpr bool asks = Reserves<Store, Traits>;
  Store& store;

  template <class File>
  [[nodiscard]] std::error_code operator()(File& file, std::optional<std::uint64_t> offset,
                                           std::uint64_t size_bytes) const {
    using Traits = typename File::TraitsType;
    if constexpr (asks<Traits>) {
      std::optional<typename Traits::FileId> id;
      std::uint64_t size_now = 0;
      {
        SharedLock lock{file.lock};
        id = file.meta.id();
        size_now = file.meta.size();
      }
      const auto range = ByteRange::at(offset.value_or(size_now), size_bytes);
      if (!range) return std::make_error_code(std::errc::file_too_large);
      const InsideStore inside;
      const Serving serving{&*file.record};
      try {
        const Result<> granted =
            store.reserve(ReserveRequest<Traits>{.file = &*id, .range = *range, .size_bytes = size_now});
        return granted.error();
      } catch (...) {
        return current_exception_code();
      }
    }
    return {};
  }
};

/// A write as a sequence of windows, in steps (see detail/waiting.hpp). fill(window, done, size) fills up to `size`
/// bytes, of which `done` went before. With no offset, it is the size. admit(file, offset, size) is asked first.
template <class File, class Fill, class Admit>
class Write {
 public:
  using Traits = typename File::TraitsType;
  using Answer = Written;

  Write(File& file, std::optional<std::uint64_t> offset, std::uint64_t size_bytes, bool fresh_over_valid,
        const RoomRule& room, std::optional<std::int64_t> mtime_ns, Fill fill, Admit admit)
      : file_{file},
        offset_{offset},
        size_bytes_{size_bytes},
        fresh_over_valid_{fresh_over_valid},
        room_{file.core, room},
        mtime_ns_{mtime_ns},
        fill_{std::move(fill)},
        admit_{std::move(admit)},
        written_{.offset = offset.value_or(0)},
        window_bytes_{file.core.window_bytes} {
    if (offset && !ByteRange::at(*offset, size_bytes)) error_ = std::make_error_code(std::errc::file_too_large);
  }

  Write(const Write&) = delete;
  Write& operator=(const Write&) = delete;
  ~Write() { leave(); }

  /// Errors: throws bad_alloc, and what the filler throws.
  [[nodiscard]] Progress step() {
    if (!std::exchange(asked_, true) && !error_ && size_bytes_ != 0) error_ = admit_(file_, offset_, size_bytes_);
    while (!error_ && written_.size_bytes < size_bytes_) {
      if (!may_go_on()) {
        if (!room_.would_block()) return Progress::waiting;
        error_ = std::make_error_code(std::errc::resource_unavailable_try_again);
        break;
      }
      const auto done = written_.size_bytes;
      const auto n = std::min<std::uint64_t>(size_bytes_ - done, window_bytes_);
      if (!window_) {
        const auto at = offset_ || done != 0 ? std::optional{written_.offset + done} : std::nullopt;
        window_.emplace(file_, at, n, fresh_over_valid_, room_, mtime_ns_);
      }
      if (const auto progress = step_window(done, n); progress != Progress::done) return progress;
      if (!window_) break;  // no memory, and the prefix is in
      const auto taken = window_->result();
      window_.reset();
      if (!taken) {
        const auto chunk_bytes = file_.core.layout.chunk_bytes();
        if (taken.error() == std::errc::no_buffer_space && window_bytes_ > chunk_bytes) {
          window_bytes_ = chunk_bytes;  // a whole window is not to be had: a chunk perhaps is
          continue;
        }
        if (done == 0) error_ = taken.error();
        break;  // the prefix is in, and its length says so
      }
      if (done == 0) written_.offset = taken->first;
      written_.size_bytes += static_cast<std::size_t>(taken->second);
      if (taken->second < n) break;  // the filler had no more
    }
    leave();
    return Progress::done;
  }
  [[nodiscard]] WaitFor<Traits> wait() const {
    return held_back_ ? WaitFor<Traits>::arrival(file_.record, seen_) : window_->wait();
  }
  [[nodiscard]] Result<Written> take_result() const {
    if (error_) return fail(error_);
    return written_;
  }
  /// What it took in before is in.
  [[nodiscard]] Result<Written> give_up(std::error_code why) const {
    if (written_.size_bytes == 0) return fail(why);
    return written_;
  }

 private:
  // Returns: done without a window if a later one finds no memory.
  [[nodiscard]] Progress step_window(std::size_t done, std::uint64_t size_bytes) {
    const auto fill = [&](auto& window) { return fill_(window, done, static_cast<std::size_t>(size_bytes)); };
    try {
      return window_->step(fill);
    } catch (const std::bad_alloc&) {
      if (done == 0) throw;
      window_.reset();
      return Progress::done;
    }
  }
  // A write of several windows is under way from its first to its last: a flush that wants a file of one moment waits
  // for that, and holds back those that have not begun.
  [[nodiscard]] bool may_go_on() {
    if (file_.long_writes == nullptr || under_way_ || size_bytes_ <= window_bytes_) return true;
    ExclusiveLock lock{file_.lock};
    held_back_ = file_.long_writes->held_back_by != 0;
    seen_ = file_.record->arrivals.load();
    if (held_back_) return false;
    ++file_.long_writes->under_way;
    under_way_ = true;
    return true;
  }
  void leave() noexcept {
    if (!std::exchange(under_way_, false)) return;
    {
      ExclusiveLock lock{file_.lock};
      --file_.long_writes->under_way;
      file_.record->arrivals.fetch_add(1);
    }
    file_.core.parking.wake(&file_.record->arrivals);
  }

  File& file_;
  const std::optional<std::uint64_t> offset_;
  const std::uint64_t size_bytes_;
  const bool fresh_over_valid_;
  Room<Traits> room_;
  const std::optional<std::int64_t> mtime_ns_;
  Fill fill_;
  Admit admit_;
  Written written_;
  std::uint64_t window_bytes_;
  std::optional<WriteLoop<File>> window_;
  std::error_code error_;
  bool asked_ = false, under_way_ = false, held_back_ = false;
  std::uint64_t seen_ = 0;  // of the record's arrivals, when it was held back
};

/// Fills from memory.
struct FillFrom {
  std::span<const std::byte> from;

  template <class Window>
  [[nodiscard]] Result<std::size_t> operator()(Window& window, std::size_t done, std::size_t size) const {
    if (from.data() == nullptr) return fail(std::errc::invalid_argument);
    auto* next = from.data() + done;
    window.for_each_target([&](std::byte* memory, std::size_t n) {
      copy_bytes(memory, next, n);
      next += n;
    });
    return size;
  }
};

/// Fills with what was received.
template <class Traits>
struct FillFromSpares {
  SpareChunks<Traits>& from;

  template <class Window>
  [[nodiscard]] Result<std::size_t> operator()(Window& window, std::size_t done, std::size_t size) const {
    window.for_each_memory([&](std::byte*& memory, ByteRange in_chunk) {
      from.give(done, memory, in_chunk);
      done += static_cast<std::size_t>(in_chunk.size_bytes());
    });
    return size;
  }
};

/// Lets the embedder's filler receive in place.
template <class Filler>
struct FillBy {
  Filler& filler;

  template <class Window>
  [[nodiscard]] Result<std::size_t> operator()(Window& window, std::size_t, std::size_t) const {
    SmallVector<::iovec, 64> pieces;
    window.for_each_target([&](std::byte* memory, std::size_t n) { pieces.push_back({memory, n}); });
    const UnderLatches latched;
    return filler(MutableBuffers{pieces.span()});
  }
};

template <class File, class Admit>
[[nodiscard]] Result<Written> write_copy(File& file, std::optional<std::uint64_t> offset,
                                         std::span<const std::byte> from, const RoomRule& room,
                                         const CallOptions& options, std::optional<std::int64_t> mtime_ns,
                                         Admit admit) {
  if constexpr (!Admit::template asks<typename File::TraitsType>) {
    if (offset && write_held(file, *offset, from, mtime_ns)) return Written{*offset, from.size()};
  }
  Write write{file, offset, from.size(), false, room, mtime_ns, FillFrom{from}, admit};
  return run_to_end(file.core, options, write);
}

template <class File, class Admit>
[[nodiscard]] Result<Written> write_received(File& file, std::uint64_t offset,
                                             SpareChunks<typename File::TraitsType>& from, std::size_t size_bytes,
                                             const RoomRule& room, const CallOptions& options,
                                             std::optional<std::int64_t> mtime_ns, Admit admit) {
  if (&file.core != &from.core() || size_bytes > from.size_bytes()) return fail(std::errc::invalid_argument);
  if (size_bytes < file.core.chunk_bytes()) {  // nothing to exchange
    const auto bytes = size_bytes != 0 ? from[0].first(size_bytes) : std::span<std::byte>{};
    return write_copy(file, offset, bytes, room, options, mtime_ns, admit);
  }
  Write write{file, offset, size_bytes, false, room, mtime_ns, FillFromSpares<typename File::TraitsType>{from}, admit};
  return run_to_end(file.core, options, write);
}

template <class File, class Filler, class Admit>
[[nodiscard]] Result<Written> write_in_place(File& file, std::optional<std::uint64_t> offset, std::uint64_t size_bytes,
                                             Filler& filler, const RoomRule& room, const CallOptions& options,
                                             std::optional<std::int64_t> mtime_ns, Admit admit) {
  Write write{file, offset, size_bytes, true, room, mtime_ns, FillBy<Filler>{filler}, admit};
  return run_to_end(file.core, options, write);
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
    const auto written =
        detail::write_copy(file, offset, from, detail::RoomRule{}, {}, std::nullopt, detail::AdmitAll{});
    if (!written) return fail(written.error());
    return written->size_bytes;
  });
}

/// Takes in the first `size_bytes` bytes of what was received into `from`. A chunk that they cover whole, as it lies in
/// `from`, takes that memory in place of its own; the others are copied.
///
/// Returns:  as above.
/// Errors:   as above; EINVAL if `from` is of another pool or has fewer bytes. `from` has them still then.
/// Cost:     of a whole chunk an exchange of two pointers, if `offset` is a multiple of the chunk; else one copy.
template <class Traits>
[[nodiscard]] Result<std::size_t> write_range(ChunkPool<Traits>& pool, std::type_identity_t<MetadataFor<Traits>>& meta,
                                              std::uint64_t offset, SpareChunks<Traits>& from, std::size_t size_bytes) {
  return detail::with_file(pool, meta, [&](auto& file) -> Result<std::size_t> {
    const auto written = detail::write_received(file, offset, from, size_bytes, detail::RoomRule{}, {}, std::nullopt,
                                                detail::AdmitAll{});
    if (!written) return fail(written.error());
    return written->size_bytes;
  });
}

/// Lets filler(MutableBuffers) receive up to `size_bytes` bytes in place, in chunk memory that shows to nobody yet; it
/// answers how many bytes from the start it filled (a std::size_t or a Result of one). It is called once a window (see
/// ChunkPool::window_bytes), in order, and goes on each time where it ended: it is not told where that is.
///
/// Returns:  the bytes taken in; fewer than size_bytes if the filler filled fewer or a later window failed.
/// Errors:   the filler's own; else as above. Nothing has changed then. What the filler throws is passed on;
///           what it filled in earlier windows is in. A bad_alloc is ENOMEM, and fewer bytes in a later window.
/// Requires: the filler calls nothing of tarn, does not block and touches no byte that it does not count: it runs under
///           exclusive latches.
/// Cost:     no copy by tarn, unless a chunk has other valid bytes: those are copied to the new memory.
template <class Traits, std::invocable<MutableBuffers> Filler>
[[nodiscard]] Result<std::size_t> write_range(ChunkPool<Traits>& pool, std::type_identity_t<MetadataFor<Traits>>& meta,
                                              std::uint64_t offset, std::uint64_t size_bytes, Filler&& filler) {
  return detail::with_file(pool, meta, [&](auto& file) -> Result<std::size_t> {
    const auto written = detail::write_in_place(file, offset, size_bytes, filler, detail::RoomRule{}, {}, std::nullopt,
                                                detail::AdmitAll{});
    if (!written) return fail(written.error());
    return written->size_bytes;
  });
}

}  // namespace tarn
