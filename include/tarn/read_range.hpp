// SPDX-License-Identifier: MIT
#pragma once

// Reading: a copy, a view, and a try that never blocks.
//
// A read is a sequence of windows in ascending order. Each is consistent in itself: all its bytes are of one moment.
//
// Source of the shape: the read path of a writable FUSE filesystem whose author replaced clones of whole chunks by a
// callback over them (with_data), added a synchronous path for what is in memory, and filled zeros past a chunk's end.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <type_traits>
#include <utility>

#include <tarn/chunk_pool.hpp>
#include <tarn/detail/file_lock.hpp>
#include <tarn/detail/held_read.hpp>
#include <tarn/detail/read_loop.hpp>

namespace tarn {

/// What a try came to: done, or why not.
template <class T>
class [[nodiscard]] ReadOutcome {
 public:
  [[nodiscard]] static ReadOutcome of(T value) { return ReadOutcome{std::move(value), {}, {}}; }
  [[nodiscard]] static ReadOutcome failed(std::error_code error) { return ReadOutcome{std::nullopt, {}, error}; }
  [[nodiscard]] static ReadOutcome needing(ExtentSet missing) {
    return ReadOutcome{std::nullopt, std::move(missing), {}};
  }

  [[nodiscard]] bool done() const { return value_.has_value(); }
  /// Stored bytes are not held: load them (a blocking read does) and try again.
  [[nodiscard]] bool needs_load() const { return !missing_.empty(); }
  /// A latch or lock was not to be had at once.
  [[nodiscard]] bool busy() const { return error_ == std::errc::resource_unavailable_try_again; }
  [[nodiscard]] std::error_code error() const { return error_; }
  [[nodiscard]] const ExtentSet& missing() const { return missing_; }
  /// Requires: done().
  [[nodiscard]] T& operator*() { return *value_; }

 private:
  ReadOutcome(std::optional<T> value, ExtentSet missing, std::error_code error)
      : value_{std::move(value)}, missing_{std::move(missing)}, error_{error} {}
  std::optional<T> value_;
  ExtentSet missing_;
  std::error_code error_;
};

namespace detail {

/// The range of a read. Errors: EINVAL for no buffer, EOVERFLOW past max_offset.
[[nodiscard]] inline Result<ByteRange> read_at(std::uint64_t offset, std::uint64_t size_bytes, const void* into) {
  if (into == nullptr && size_bytes != 0) return fail(std::errc::invalid_argument);
  const auto range = ByteRange::at(offset, size_bytes);
  if (!range) return fail(std::errc::value_too_large);
  return *range;
}

/// A read by copy, in steps (see detail/waiting.hpp).
template <class File, class Store>
class CopyRead {
 public:
  using Traits = typename File::TraitsType;
  using Answer = std::size_t;

  CopyRead(File& file, std::uint64_t offset, std::span<std::byte> into, Store& store, const RoomRule& room)
      : file_{file},
        asked_{read_at(offset, into.size(), into.data())},
        into_{into},
        store_{store},
        room_{file.core, room} {}

  /// Errors: throws bad_alloc.
  [[nodiscard]] Progress step() {
    if (!asked_) return Progress::done;
    while (done_ < into_.size()) {
      if (!window_) {
        const auto size = std::min<std::uint64_t>(into_.size() - done_, file_.core.window_bytes);
        const auto from = asked_->offset() + done_;
        window_.emplace(file_, ByteRange::between(from, from + size), store_, room_, into_.data() + done_);
      }
      const auto use = [&](ConstBuffers bytes) {
        file_.core.counters.copy_bytes.add(bytes.copy_to(into_.subspan(done_)));
      };
      if (const auto progress = window_->step(use); progress != Progress::done) return progress;
      const auto n = window_->result();
      const bool met_end = window_->met_end();
      window_.reset();
      if (!n) {
        asked_ = fail(n.error());
        return Progress::done;
      }
      done_ += *n;
      if (met_end) break;
    }
    return Progress::done;
  }
  [[nodiscard]] const WaitFor<Traits>& wait() const { return window_->wait(); }
  [[nodiscard]] Result<std::size_t> give_up(std::error_code why) const { return fail(why); }
  [[nodiscard]] Result<std::size_t> take_result() const {
    if (!asked_) return fail(asked_.error());
    return done_;
  }

 private:
  File& file_;
  Result<ByteRange> asked_;
  const std::span<std::byte> into_;
  Store& store_;
  Room<Traits> room_;
  std::size_t done_ = 0;
  std::optional<ReadLoop<File, Store>> window_;
};

/// A read by view, in steps.
template <class File, class Store, class F>
class ViewRead {
 public:
  using Traits = typename File::TraitsType;
  using Answer = std::invoke_result_t<F&, ConstBuffers>;

  ViewRead(File& file, std::uint64_t offset, std::uint64_t size_bytes, Store& store, const RoomRule& room, F& f)
      : file_{file}, room_{file.core, room}, f_{f} {
    const auto asked = ByteRange::at(offset, size_bytes);
    if (!asked) {
      result_.emplace(fail(std::errc::value_too_large));
    } else if (size_bytes > file.core.window_bytes) {
      result_.emplace(fail(std::errc::message_size));
    } else {
      window_.emplace(file, *asked, store, room_, nullptr);
    }
  }

  /// Errors: throws bad_alloc, and what f throws.
  [[nodiscard]] Progress step() {
    if (result_) return Progress::done;
    const auto use = [&](ConstBuffers bytes) { result_.emplace(show(f_, bytes)); };
    if (const auto progress = window_->step(use); progress != Progress::done) return progress;
    const auto& n = window_->result();
    if (!n) {
      result_.emplace(fail(n.error()));
    } else if (*n == 0) {
      result_.emplace(show(f_, ConstBuffers{}));
    } else {
      file_.core.counters.view_bytes.add(*n);
    }
    return Progress::done;
  }
  [[nodiscard]] const WaitFor<Traits>& wait() const { return window_->wait(); }
  [[nodiscard]] Result<Answer> give_up(std::error_code why) const { return fail(why); }
  [[nodiscard]] Result<Answer> take_result() { return std::move(*result_); }

 private:
  File& file_;
  Room<Traits> room_;
  F& f_;
  std::optional<ReadLoop<File, Store>> window_;
  std::optional<Result<Answer>> result_;
};

template <class File>
[[nodiscard]] ReadOutcome<std::size_t> try_read(File& file, std::uint64_t offset, std::span<std::byte> into) {
  using Traits = typename std::remove_reference_t<decltype(file.core)>::TraitsType;
  using Outcome = ReadOutcome<std::size_t>;
  const auto asked = read_at(offset, into.size(), into.data());
  if (!asked) return Outcome::failed(asked.error());
  std::size_t done = 0;
  while (done < into.size()) {
    ReadWindow<Traits> window{file.core};
    if (!file.lock.try_lock_shared())
      return Outcome::failed(std::make_error_code(std::errc::resource_unavailable_try_again));
    SharedLock lock{file.lock, std::adopt_lock};
    const auto rest =
        ByteRange::between(offset + done, asked->end()).intersect(ByteRange::between(0, file.meta.size()));
    const auto wanted = std::min<std::uint64_t>(into.size() - done, file.core.window_bytes);
    const auto size = std::min<std::uint64_t>(rest.size_bytes(), wanted);
    const auto range = ByteRange::between(rest.offset(), rest.offset() + size);
    if (const auto error = window.plan(*file.record, file.meta, file.layout, range, false); error) {
      return Outcome::failed(error);
    }
    if (!window.missing().empty()) return Outcome::needing(window.missing());
    lock.unlock();
    done += window.pieces().copy_to(into.subspan(done));
    if (size < wanted) break;  // what the file has grown by since is of another moment
  }
  file.core.counters.copy_bytes.add(done);
  return Outcome::of(done);
}

/// Returns: what f(short reads) returns, for a building block; nothing of it where what is asked for may be wrong, or
/// past the file's size.
template <class Traits, class F>
[[nodiscard]] auto with_held(ChunkPool<Traits>& pool, const MetadataFor<Traits>& meta, std::uint64_t offset,
                             std::uint64_t size_bytes, const F& f)
    -> std::invoke_result_t<const F&, HeldReads<Traits, FileOfId<Traits>>> {
  auto& core = pool.core();
  const auto range = ByteRange::at(offset, size_bytes);
  if (!range || range->end() > meta.size()) return {};
  if (core.layout.offset_in_chunk(meta.part_bytes()) != 0 || meta.part_bytes() > max_offset) return {};
  const auto& id = meta.id();
  const auto* const record = core.registry.find_unlocked(std::hash<typename Traits::FileId>{}(id));
  if (record == nullptr) return {};
  return f(HeldReads<Traits, FileOfId<Traits>>{core, {*record, id}, true});
}

/// A read by copy. Returns: false if it takes more than a look; then nothing is done.
template <class Traits>
[[nodiscard]] bool copy_held(ChunkPool<Traits>& pool, const MetadataFor<Traits>& meta, std::uint64_t offset,
                             std::span<std::byte> into) {
  return with_held(pool, meta, offset, into.size(), [&](const auto& held) { return held.copy(offset, into); });
}

/// Calls f(file access) for a building block: the file's record, no lock.
template <class Traits, class Metadata, class F>
[[nodiscard]] auto with_file(ChunkPool<Traits>& pool, Metadata& meta, F f)
    -> std::invoke_result_t<F&, FileAccess<Traits, Metadata, NoLock>&> {
  const auto layout = pool.layout(meta);
  if (!layout) return fail(layout.error());
  auto& core = pool.core();
  const Resumer resumer;
  try {
    const auto record = find_or_make(core, core.file_key(meta.id()));
    if (!record) return fail(std::errc::no_buffer_space);
    NoLock lock;
    FileAccess<Traits, Metadata, NoLock> file{core, record, meta, *layout, lock};
    return f(file);
  } catch (const std::bad_alloc&) {
    return fail(std::errc::not_enough_memory);
  }
}

}  // namespace detail

/// Copies the bytes [offset, offset + into.size()) of the file into `into`; bytes that nobody wrote read as zero.
///
/// Returns:       the bytes copied; fewer than into.size() only at end of file.
/// Errors:        EOVERFLOW if the range passes max_offset; EINVAL for a null span with a size, or a part that is not
///                a multiple of the chunk; the store's own error if a load fails, EIO if it answers another number of
///                bytes than it was asked for; EAGAIN if a chunk has too many pins; ENOBUFS if nothing is held of
///                the file and there is no room for its record, which is a few hundred bytes; ENOMEM. An error in any
///                window is the error of the call, so that short always means the end; `into` may have been written to
///                then.
/// Requires:      `meta` stays as it is during the call. `into` is not memory whose page faults this process serves.
/// Blocks:        on the store, once for each missing range of a part, holding no latch; on somebody else's load of the
///                same bytes.
/// Thread safety: concurrent reads of one file are safe; with a write, see DirtyFile.
/// Cost:          one copy; O(chunks touched); no allocation when every byte is held, and no lock when chunks of the
///                file's own hold them. With no chunk to be had, what is missing is loaded straight into `into`,
///                uncached.
template <class Traits, ChunkLoader<Traits> Store>
[[nodiscard]] Result<std::size_t> read_range(ChunkPool<Traits>& pool,
                                             const std::type_identity_t<MetadataFor<Traits>>& meta,
                                             std::uint64_t offset, std::span<std::byte> into, Store&& store) {
  if (detail::copy_held(pool, meta, offset, into)) return into.size();
  return detail::with_file(pool, meta, [&](auto& file) -> Result<std::size_t> {
    detail::CopyRead read{file, offset, into, store, detail::RoomRule{}};
    return detail::run_to_end(file.core, {}, read);
  });
}

/// Calls f(ConstBuffers) with the bytes [offset, offset + size_bytes) of the file, in place: spans of chunk memory, and
/// of a shared area of zeros for holes. The view is cut at end of file, and lives for the call.
///
/// Returns:  what f returns; f was called exactly once if there is a value, else not at all.
/// Errors:   EMSGSIZE above pool.window_bytes(); ENOBUFS if no chunk can be had for what must be loaded; else as above.
/// Requires: f calls nothing of tarn and does not block: it runs under the chunks' shared latches. What it throws is
///           passed on (a bad_alloc as ENOMEM).
/// Cost:     no copy; no allocation when every byte is held, for up to 64 pieces.
template <class Traits, ChunkLoader<Traits> Store, std::invocable<ConstBuffers> F>
[[nodiscard]] auto read_range(ChunkPool<Traits>& pool, const std::type_identity_t<MetadataFor<Traits>>& meta,
                              std::uint64_t offset, std::uint64_t size_bytes, Store&& store, F&& f)
    -> Result<std::invoke_result_t<F&, ConstBuffers>> {
  const auto shows = [&](const auto& held) { return held.show(offset, size_bytes, f); };
  if (auto shown = detail::with_held(pool, meta, offset, size_bytes, shows)) return std::move(*shown);
  return detail::with_file(pool, meta, [&](auto& file) -> Result<std::invoke_result_t<F&, ConstBuffers>> {
    detail::ViewRead read{file, offset, size_bytes, store, detail::RoomRule{}, f};
    return detail::run_to_end(file.core, {}, read);
  });
}

/// read_range for what is in memory: never blocks, never loads.
///
/// Returns: done with the bytes copied (of them, fewer than asked only at end of file); needs_load with what is missing
///          of the first window that lacks something; busy if a latch is held by a writer; or an error as above. Unless
///          it is done, `into` may hold part of the bytes.
template <class Traits>
[[nodiscard]] ReadOutcome<std::size_t> try_read_range(ChunkPool<Traits>& pool,
                                                      const std::type_identity_t<MetadataFor<Traits>>& meta,
                                                      std::uint64_t offset, std::span<std::byte> into) {
  if (detail::copy_held(pool, meta, offset, into)) return ReadOutcome<std::size_t>::of(into.size());
  ReadOutcome<std::size_t> outcome = ReadOutcome<std::size_t>::failed({});
  const auto found = detail::with_file(pool, meta, [&](auto& file) -> Result<> {
    outcome = detail::try_read(file, offset, into);
    return {};
  });
  return found ? std::move(outcome) : ReadOutcome<std::size_t>::failed(found.error());
}

}  // namespace tarn
