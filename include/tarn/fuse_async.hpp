// SPDX-License-Identifier: MIT
#pragma once

// Replies that wait with no thread: for FUSE filesystems whose store answers later (see token.hpp).
//
// What would have to wait, for the store or for memory, becomes an operation (see dirty_file_async.hpp) that keeps the
// file and replies when it is done, in the thread that brings what it waited for. For a filesystem that holds its files
// by std::shared_ptr that is one call: reply_read, reply_write, reply_flush, reply_sync. Others call the two halves,
// try_ and _later; the second takes any pointer that keeps the file.
//
// The session must outlive the replies, too: before fuse_session_destroy wait until what was kept has been let go of,
// which the pointer's destructor can count (see examples/tarnfs).
//
// The pointer is let go of after the reply, perhaps deep inside another call of tarn. If it may be the last reference,
// let its destructor hand the file to a thread of yours: a DirtyFile is destroyed outside of all calls.
//
// Thread safety: every function from any thread.

#include <tarn/fuse.hpp>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <optional>
#include <span>
#include <system_error>
#include <type_traits>
#include <utility>

#include <tarn/byte_range.hpp>
#include <tarn/call_options.hpp>
#include <tarn/detail/sync.hpp>
#include <tarn/dirty_file_async.hpp>
#include <tarn/result.hpp>

namespace tarn::fuse {

/// Options of a call that waits for nothing, neither a load nor a flush nor memory; its error is then one that
/// would_wait() is true of. A load that it lacks is begun all the same, if the store answers later.
[[nodiscard]] inline CallOptions waiting_for_nothing() {
  CallOptions options;
  options.when_full = WhenFull::would_block;
  options.deadline_ns = 0;
  return options;
}
[[nodiscard]] inline bool would_wait(std::error_code error) {
  return error == std::errc::timed_out || error == std::errc::resource_unavailable_try_again;
}

// ---- Reads

/// reply_read, if nothing is to be waited for; a store that answers at once is still asked.
/// Returns: false if it would have to wait; then nothing was replied: reply_read_later will.
/// Cost:    as reply_read; no allocation for what is held in no more than max_reply_spans pieces.
template <class File>
[[nodiscard]] bool try_reply_read(fuse_req_t request, File& file, std::size_t size_bytes, off_t offset) {
  auto error = std::make_error_code(std::errc::invalid_argument);
  if (offset >= 0) {
    const auto at = static_cast<std::uint64_t>(offset);
    error = detail::reply_bytes_of(request, file, at, size_bytes, waiting_for_nothing());
    if (would_wait(error)) return false;
  }
  if (error) reply_error(request, error);
  return true;
}

namespace detail {

/// An operation on the heap with what it works on. It goes when the operation is done.
template <class Pointer, class Begin, class Ended>
class Kept {
 public:
  Kept(Pointer file, Begin& begin, Ended ended)
      : file_{std::move(file)}, ended_{std::move(ended)}, operation_(begin(*file_, Done{this})) {}

  void start() { operation_.start(); }

 private:
  struct Done {
    Kept* kept;

    template <class R>
    void operator()(R&& result) const {
      auto file = std::move(kept->file_);
      auto ended = std::move(kept->ended_);
      delete kept;
      ended(file, std::forward<R>(result));  // and goes before the file
    }
  };

  Pointer file_;
  Ended ended_;
  std::invoke_result_t<Begin&, decltype(*std::declval<Pointer&>()), Done> operation_;
};

}  // namespace detail

/// Starts an operation that keeps its file: begin(*file, done) makes it, as
/// `[](auto& file, auto done) { return tarn::flush_operation(file, done); }`; ended(pointer, result) is its completion,
/// and may move the pointer on. What it holds goes before the file.
/// Errors: throws bad_alloc; then nothing has begun.
template <class Pointer, class Begin, class Ended>
void start_keeping(Pointer file, Begin begin, Ended ended) {
  (new detail::Kept<Pointer, Begin, Ended>{std::move(file), begin, std::move(ended)})->start();
}

/// Replies to a read by a copy, now or when it has been loaded. As reply_read_later.
template <class Pointer>
void reply_copy_later(fuse_req_t request, Pointer file, std::size_t size_bytes, off_t offset) noexcept {
  auto copy = detail::make_buffer(size_bytes);
  if (!copy) return reply_error(request, detail::no_memory());
  const std::span into{copy.get(), size_bytes};
  try {
    start_keeping(
        std::move(file),
        [at = static_cast<std::uint64_t>(offset), into](auto& kept, auto done) {
          return read_operation(kept, at, into, done);
        },
        [request, copy = std::move(copy)](Pointer&, const Result<std::size_t>& read) {
          if (!read) return reply_error(request, read.error());
          detail::reply_bytes(request, copy.get(), *read);
        });
  } catch (const std::bad_alloc&) {
    reply_error(request, detail::no_memory());
  }
}
/// Replies to a read as reply_read does, now or when what it lacks has been loaded.
///
/// `file`:   a pointer that keeps it; let go of after the reply.
/// Replies:  exactly once; perhaps in another thread.
/// Blocks:   only where a store that answers at once does.
/// Cost:     two allocations; the copy as reply_read.
template <class Pointer>
void reply_read_later(fuse_req_t request, Pointer file, std::size_t size_bytes, off_t offset) noexcept {
  if (offset < 0) return reply_error(request, std::make_error_code(std::errc::invalid_argument));
  try {
    start_keeping(
        std::move(file),
        [=](auto& kept, auto done) {
          return view_operation(kept, static_cast<std::uint64_t>(offset), size_bytes, detail::ReplyPieces{request},
                                done);
        },
        [=](Pointer& kept, const Result<bool>& viewed) {
          if (detail::wants_copy(viewed)) return reply_copy_later(request, std::move(kept), size_bytes, offset);
          if (!viewed) reply_error(request, viewed.error());
        });
  } catch (const std::bad_alloc&) {
    reply_error(request, detail::no_memory());
  }
}
/// Both: from what is held inside the call, else later; the thread is not held up.
template <class File>
void reply_read(fuse_req_t request, std::shared_ptr<File> file, std::size_t size_bytes, off_t offset) {
  if (!try_reply_read(request, *file, size_bytes, offset)) {
    reply_read_later(request, std::move(file), size_bytes, offset);
  }
}

// ---- Writes

/// Bounds the memory of writes that wait, of all files of a mount: what a request brought is gone when its handler
/// returns, so a write that waits keeps a copy. One mebibyte a thread that writes: many threads could make it too much.
///
/// Thread safety: any thread. Outlives the writes.
class WaitingWrites {
 public:
  explicit WaitingWrites(std::size_t most_bytes = std::size_t{64} << 20) : most_bytes_{most_bytes} {}

  [[nodiscard]] bool any() const { return bytes_.load() != 0; }
  /// Returns: whether there was room for so much.
  [[nodiscard]] bool take(std::size_t size_bytes) {
    if (bytes_.fetch_add(size_bytes) + size_bytes <= most_bytes_) return true;
    give_back(size_bytes);
    return false;
  }
  void give_back(std::size_t size_bytes) { bytes_.fetch_sub(size_bytes); }

 private:
  const std::size_t most_bytes_;
  tarn::detail::Atomic<std::size_t> bytes_{0};
};

/// write_from, if no memory is to be waited for, and no flush of one moment.
/// Returns: the bytes taken in; fewer than there are if more would have to wait: write_from_later takes what is left.
/// Errors:  EAGAIN if all would have to wait, also if other writes do: they came first, and memory that is not much
///          would always go to small writes.
template <class File>
[[nodiscard]] Result<std::size_t> try_write_from(File& file, fuse_bufvec* from, off_t offset,
                                                 const WaitingWrites& waiting,
                                                 std::optional<std::int64_t> mtime_ns = {}) {
  if (waiting.any()) return fail(std::errc::resource_unavailable_try_again);
  return write_from(file, from, offset, mtime_ns, waiting_for_nothing());
}
/// Writes what try_write_from has left of a request that it took `taken_bytes` of, now or when there is memory.
///
/// `done`:   done(pointer, Result<std::size_t>) is called once, with the bytes of the request taken in, the first ones
///           too; perhaps in another thread. It must not block or throw.
/// Errors:   throws bad_alloc; then done was not called, and has gone.
/// Blocks:   for memory, only if too much waits already.
/// Cost:     a copy of what is left, and the write's own.
template <class Pointer, class Done>
void write_from_later(Pointer file, fuse_bufvec* from, off_t offset, std::size_t taken_bytes, WaitingWrites& waiting,
                      Done done, std::optional<std::int64_t> mtime_ns = {}) {
  const auto in_all = [taken_bytes](std::error_code error, std::size_t more_bytes) -> Result<std::size_t> {
    if (error && taken_bytes == 0) return fail(error);
    return taken_bytes + more_bytes;
  };
  const auto at = static_cast<std::uint64_t>(offset) + taken_bytes;
  const auto left_bytes = fuse_buf_size(from) - taken_bytes;
  if (offset < 0 || left_bytes == 0) {
    const auto why = offset < 0 ? std::make_error_code(std::errc::invalid_argument) : std::error_code{};
    return done(file, in_all(why, 0));
  }
  if (!waiting.take(left_bytes)) {
    const auto n = detail::take_in(*file, from, at, left_bytes, mtime_ns, {});
    return done(file, in_all(n.error(), n ? *n : 0));
  }
  struct GiveBack {
    WaitingWrites* waiting;
    std::size_t size_bytes;
    void operator()(std::byte* copy) const {
      delete[] copy;
      waiting->give_back(size_bytes);
    }
  };
  std::unique_ptr<std::byte[], GiveBack> copy{detail::make_buffer(left_bytes).release(), {&waiting, left_bytes}};
  if (!copy) {
    waiting.give_back(left_bytes);
    return done(file, in_all(detail::no_memory(), 0));
  }
  const auto n = detail::copy_left(from, {copy.get(), left_bytes});
  if (n < 0) return done(file, in_all({static_cast<int>(-n), std::generic_category()}, 0));
  const std::span<const std::byte> bytes{copy.get(), static_cast<std::size_t>(n)};
  start_keeping(
      std::move(file), [=](auto& kept, auto ended) { return write_operation(kept, at, bytes, ended, mtime_ns); },
      [in_all, copy = std::move(copy), done = std::move(done)](Pointer& kept, const Result<Written>& written) mutable {
        copy.reset();
        done(kept, in_all(written.error(), written ? written->size_bytes : 0));
      });
}

/// Writes what a request brought, and replies, now or when there is memory; the thread is not held up.
/// Replies:  exactly once; perhaps in another thread.
/// Requires, Blocks, Cost: as write_from_later; no second copy where nothing is waited for.
template <class File>
void reply_write(fuse_req_t request, std::shared_ptr<File> file, fuse_bufvec* from, off_t offset,
                 WaitingWrites& waiting, std::optional<std::int64_t> mtime_ns = {}) {
  const auto reply = [request](const std::shared_ptr<File>&, const Result<std::size_t>& written) {
    if (!written) return reply_error(request, written.error());
    fuse_reply_write(request, *written);
  };
  const auto tried = try_write_from(*file, from, offset, waiting, mtime_ns);
  if (tried ? *tried == fuse_buf_size(from) : !would_wait(tried.error())) return reply(file, tried);
  try {
    write_from_later(std::move(file), from, offset, tried ? *tried : 0, waiting, reply, mtime_ns);
  } catch (const std::bad_alloc&) {
    reply_error(request, detail::no_memory());
  }
}

// ---- Write-back

/// Stores what is dirty in the file, and replies when that is done (FUSE's flush); with reply_sync, makes it durable
/// (fsync: of SyncScope::data if the request says datasync). What failed in the background before, each opener hears by
/// its OpenFile. Replies: exactly once; perhaps in another thread.
template <class File>
void reply_flush(fuse_req_t request, std::shared_ptr<File> file) {
  try {
    start_keeping(
        std::move(file), [](auto& kept, auto done) { return flush_operation(kept, done); },
        [request](auto&, const Result<std::uint64_t>& stored) { reply_error(request, stored.error()); });
  } catch (const std::bad_alloc&) {
    reply_error(request, detail::no_memory());
  }
}
template <class File>
void reply_sync(fuse_req_t request, std::shared_ptr<File> file, SyncScope scope = SyncScope::all) {
  try {
    start_keeping(
        std::move(file), [scope](auto& kept, auto done) { return sync_operation(kept, done, scope); },
        [request](auto&, const Result<>& synced) { reply_error(request, synced.error()); });
  } catch (const std::bad_alloc&) {
    reply_error(request, detail::no_memory());
  }
}

}  // namespace tarn::fuse
