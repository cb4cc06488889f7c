// SPDX-License-Identifier: MIT
#pragma once

// tarn under a FUSE filesystem: functions for libfuse's handlers, not a framework.
//
// A read is answered from the chunks' own memory, without a copy on this side, and under their latches until the kernel
// has taken the bytes: without that a reply tears when a writer comes between. The kernel's buffer is faulted in before
// the request is sent, so taking a view out to it does not block.
//
// Replying by spans (fuse_reply_iov) is what is fast here. Splicing was slower in every form, and a buffer list of
// memory with splicing on copies twice; configure() switches it off.
//
// What is here blocks where the file's store, or memory, is to be waited for; fuse_async.hpp does not.
//
// Thread safety: every function from any thread.

#ifndef FUSE_USE_VERSION
#define FUSE_USE_VERSION 312
#endif
#include <fuse_lowlevel.h>

#include <algorithm>
#include <cassert>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <limits>
#include <memory>
#include <new>
#include <optional>
#include <span>
#include <system_error>
#include <thread>
#include <utility>

#include <tarn/buffers.hpp>
#include <tarn/byte_range.hpp>
#include <tarn/call_options.hpp>
#include <tarn/detail/sync.hpp>
#include <tarn/result.hpp>
#include <tarn/spare_chunks.hpp>

namespace tarn::fuse {

/// More pieces than this are copied into one: each costs the kernel more than the copy of a small piece.
inline constexpr std::size_t max_reply_spans = 64;

/// The errno number of an error, of any category (see fail); 0 if there is none.
[[nodiscard]] inline int errno_of(std::error_code error) noexcept { return error ? fail(error).error.value() : 0; }

inline void reply_error(fuse_req_t request, std::error_code error) { fuse_reply_err(request, errno_of(error)); }

/// Sets up a connection for byte requests of up to 1 MiB that come in memory and are answered from memory; and so that
/// an open that truncates is preceded by a setattr of the size, as other truncations are. Called from the filesystem's
/// init.
inline void configure(fuse_conn_info* connection) {
  connection->max_write = static_cast<unsigned>(1 * MiB);
  connection->want &= ~static_cast<unsigned>(FUSE_CAP_ATOMIC_O_TRUNC);
  connection->want &= ~static_cast<unsigned>(FUSE_CAP_SPLICE_READ | FUSE_CAP_SPLICE_WRITE | FUSE_CAP_SPLICE_MOVE);
}

namespace detail {

[[nodiscard]] inline std::error_code no_memory() { return std::make_error_code(std::errc::not_enough_memory); }

/// Bytes that are not initialised: they are written before they are read. Returns: null if there is no memory.
[[nodiscard]] inline std::unique_ptr<std::byte[]> make_buffer(std::size_t size_bytes) noexcept {
  return std::unique_ptr<std::byte[]>{new (std::nothrow) std::byte[size_bytes]};
}
inline void reply_bytes(fuse_req_t request, const std::byte* bytes, std::size_t size_bytes) {
  fuse_reply_buf(request, reinterpret_cast<const char*>(bytes), size_bytes);
}

/// What a view of a file does for a read. Returns: whether it has replied, or the pieces are too many.
struct ReplyPieces {
  fuse_req_t request;

  [[nodiscard]] bool operator()(ConstBuffers bytes) const {
    if (bytes.count() > max_reply_spans) return false;
    const auto pieces = bytes.iovecs();
    fuse_reply_iov(request, pieces.data(), static_cast<int>(pieces.size()));
    return true;
  }
};
/// Whether a copy may do what a view did not.
[[nodiscard]] inline bool wants_copy(const Result<bool>& viewed) {
  return viewed ? !*viewed : viewed.error() == std::errc::message_size || viewed.error() == std::errc::no_buffer_space;
}

/// Replies with bytes, or not at all. Returns: why not; nothing if it has.
template <class File>
[[nodiscard]] std::error_code reply_bytes_of(fuse_req_t request, File& file, std::uint64_t offset,
                                             std::size_t size_bytes, const CallOptions& options) {
  const Result<bool> viewed = file.view(offset, size_bytes, ReplyPieces{request}, options);
  if (!wants_copy(viewed)) return viewed.error();
  const auto copy = make_buffer(size_bytes);
  if (!copy) return no_memory();
  const Result<std::size_t> read = file.read(offset, std::span{copy.get(), size_bytes}, options);
  if (read) reply_bytes(request, copy.get(), *read);
  return read.error();
}

}  // namespace detail

/// Replies to a read with the bytes [offset, offset + size_bytes) of the file, fewer at its end, or with the error. The
/// one in fuse_async.hpp takes a std::shared_ptr of the file, and waits with no thread.
///
/// Replies:       exactly once.
/// Requires:      the file outlives the call, whatever the kernel asks for next: a reply lets the opener go on and
///                close, unlink and forget the file, while this call still has latches to give back.
/// Blocks:        on the file's store, for bytes that are not held; holding no latch then.
/// Cost:          no copy here. One where no view is to be had: more than a window, no chunk for a load, more than
///                max_reply_spans pieces.
template <class File>
void reply_read(fuse_req_t request, File& file, std::size_t size_bytes, off_t offset) {
  if (offset < 0) return reply_error(request, std::make_error_code(std::errc::invalid_argument));
  const auto error = detail::reply_bytes_of(request, file, static_cast<std::uint64_t>(offset), size_bytes, {});
  if (error) reply_error(request, error);
}

namespace detail {

/// The bytes of a write request that lie in spare chunks, while its handler runs in this thread; see fuse_loop.hpp.
/// libfuse has a place instead that nobody can read.
struct Received {
  const void* place;
  void* spares;                     // of the traits of their pool
  const void* pool;                 // which no other is
  mutable std::size_t taken_bytes;  // of the first, that are in a file now and not in the spares
  void (*copy_some)(const void* spares, std::size_t at, std::span<std::byte> into);

  static inline thread_local const Received* in_this_thread = nullptr;

  /// Returns: null if the request's bytes are libfuse's.
  [[nodiscard]] static const Received* of(const fuse_bufvec& from) {
    const bool is = in_this_thread != nullptr && from.count == 1 && from.buf[0].mem == in_this_thread->place;
    return is ? in_this_thread : nullptr;
  }
  /// Whether the bytes from `at` on are there still: they can be taken once.
  [[nodiscard]] bool has(std::size_t at) const { return at >= taken_bytes; }
  template <class Traits>
  [[nodiscard]] SpareChunks<Traits>* spares_of(const ChunkPool<Traits>& its_pool) const {
    return pool == &its_pool ? static_cast<SpareChunks<Traits>*>(spares) : nullptr;
  }
  /// The bytes from `at` on.
  template <class File>
  [[nodiscard]] Result<std::size_t> write_to(File& file, std::size_t at, std::uint64_t offset, std::size_t size_bytes,
                                             std::optional<std::int64_t> mtime_ns, const CallOptions& options) const {
    if (!has(at)) return fail(std::errc::io_error);
    const auto written = write(file, at, offset, size_bytes, mtime_ns, options);
    if (written) taken_bytes = at + *written;
    return written;
  }

 private:
  template <class File>
  [[nodiscard]] Result<std::size_t> write(File& file, std::size_t at, std::uint64_t offset, std::size_t size_bytes,
                                          std::optional<std::int64_t> mtime_ns, const CallOptions& options) const {
    if constexpr (requires { file.write(offset, *spares_of(file.pool()), size_bytes, mtime_ns, options); }) {
      if (auto* const whole = at == 0 ? spares_of(file.pool()) : nullptr) {
        return file.write(offset, *whole, size_bytes, mtime_ns, options);
      }
    }
    const auto fill = [&](MutableBuffers into) {
      const auto begin = at;
      for (std::size_t i = 0; i < into.count(); at += into[i].size(), ++i) copy_some(spares, at, into[i]);
      return at - begin;
    };
    return file.write(offset, size_bytes, fill, mtime_ns, options);
  }
};

/// How many bytes of what came into spares are left.
[[nodiscard]] inline std::size_t received_left(const fuse_bufvec& from) {
  return from.buf[0].size - std::min(from.buf[0].size, from.off);
}
/// Copies of what is left of the request's buffers. Returns: how much, or a negated errno.
[[nodiscard]] inline ssize_t copy_left(fuse_bufvec* from, std::span<std::byte> into) {
  if (const auto* const received = Received::of(*from)) {
    if (!received->has(from->off)) return -EIO;
    const auto n = std::min(into.size(), received_left(*from));
    received->copy_some(received->spares, from->off, into.first(n));
    from->off += n;
    return static_cast<ssize_t>(n);
  }
  fuse_bufvec to = FUSE_BUFVEC_INIT(into.size());
  to.buf[0].mem = into.data();
  return fuse_buf_copy(&to, from, fuse_buf_copy_flags{});
}

/// Writes up to `size_bytes` bytes of what is left of the request's buffers, which then hold what was not taken in.
template <class File>
[[nodiscard]] Result<std::size_t> take_in(File& file, fuse_bufvec* from, std::uint64_t offset, std::size_t size_bytes,
                                          std::optional<std::int64_t> mtime_ns, const CallOptions& options) {
  if (const auto* const received = Received::of(*from)) {
    size_bytes = std::min(size_bytes, received_left(*from));
    const auto written = received->write_to(file, from->off, offset, size_bytes, mtime_ns, options);
    if (written) from->off += *written;
    return written;
  }
  if (from->count == 1 && !(from->buf[0].flags & FUSE_BUF_IS_FD)) {
    const auto* const bytes = static_cast<const std::byte*>(from->buf[0].mem) + from->off;
    const Result<std::size_t> written = file.write(offset, std::span{bytes, size_bytes}, mtime_ns, options);
    if (written) from->off += *written;
    return written;
  }
  std::error_code failed;
  const auto take = [&](MutableBuffers into) {
    std::size_t filled = 0;
    for (std::size_t i = 0; i < into.count() && !failed; ++i) {
      const auto piece = into[i];
      fuse_bufvec to = FUSE_BUFVEC_INIT(piece.size());
      to.buf[0].mem = piece.data();
      const auto n = fuse_buf_copy(&to, from, fuse_buf_copy_flags{});  // goes on where it stopped
      if (n < 0) {
        failed = {static_cast<int>(-n), std::generic_category()};
      } else {
        filled += static_cast<std::size_t>(n);
        if (static_cast<std::size_t>(n) < piece.size()) break;
      }
    }
    return filled;
  };
  const Result<std::size_t> written = file.write(offset, size_bytes, take, mtime_ns, options);
  if (failed && (!written || *written == 0)) return fail(failed);
  return written;
}

}  // namespace detail

/// Writes what a write_buf request brought to the file at `offset`.
///
/// Returns:  the bytes taken in; fewer than there are only as file.write.
/// Errors:   the file's own; that of reading the request's descriptor.
/// Requires: `from` was not copied from before.
/// Cost:     one copy, from the request's memory, or straight from its descriptor. Of whole chunks none, where the
///           request was received by fuse_loop.hpp.
template <class File>
[[nodiscard]] Result<std::size_t> write_from(File& file, fuse_bufvec* from, off_t offset,
                                             std::optional<std::int64_t> mtime_ns = {},
                                             const CallOptions& options = {}) {
  if (offset < 0) return fail(std::errc::invalid_argument);
  assert(from->idx == 0 && from->off == 0);
  return detail::take_in(file, from, static_cast<std::uint64_t>(offset), fuse_buf_size(from), mtime_ns, options);
}

/// Copies what a write_buf request brought, for a file that is none of tarn's: so that it is right by any loop. Called
/// again, it goes on where it ended.
/// Returns:  the bytes copied: those that there are, or into.size().
/// Errors:   that of reading the request's descriptor; EIO for bytes that were written to a file before.
[[nodiscard]] inline Result<std::size_t> copy_bytes_of(fuse_bufvec* from, std::span<std::byte> into) {
  const auto n = detail::copy_left(from, into);
  if (n < 0) return fail(std::error_code{static_cast<int>(-n), std::generic_category()});
  return static_cast<std::size_t>(n);
}

// ---- For libfuse's high-level interface, whose handlers answer a count or a negated errno. Not with fuse_loop.hpp:
// ---- nobody can read what a write handler is given there.

template <class File>
[[nodiscard]] int read(File& file, char* into, std::size_t size_bytes, off_t offset) {
  if (offset < 0) return -EINVAL;
  size_bytes = std::min<std::size_t>(size_bytes, std::numeric_limits<int>::max());
  const Result<std::size_t> n =
      file.read(static_cast<std::uint64_t>(offset), std::as_writable_bytes(std::span{into, size_bytes}));
  return n ? static_cast<int>(*n) : -errno_of(n.error());
}

template <class File, class... Mtime>
[[nodiscard]] int write(File& file, const char* from, std::size_t size_bytes, off_t offset, Mtime... mtime_ns) {
  if (offset < 0) return -EINVAL;
  size_bytes = std::min<std::size_t>(size_bytes, std::numeric_limits<int>::max());
  const Result<std::size_t> n =
      file.write(static_cast<std::uint64_t>(offset), std::as_bytes(std::span{from, size_bytes}), mtime_ns...);
  return n ? static_cast<int>(*n) : -errno_of(n.error());
}

/// Tells the kernel to forget what it has cached of a file, from a thread of its own.
///
/// The kernel waits, in such a notification, for pages that requests are filling. So it must not be sent by a thread
/// that serves requests or holds anything that one needs: hand it to this queue, from wherever.
///
/// Thread safety: any thread, except construction and destruction.
class InvalidationQueue {
 public:
  /// Sends one: the inode, where, and how much (0: to the end). The answer is not looked at: a file that the kernel
  /// does not know has nothing cached.
  using Send = std::function<void(fuse_ino_t, off_t, off_t)>;

  /// Requires: the session outlives the queue.
  explicit InvalidationQueue(fuse_session* session)
      : InvalidationQueue{[session](fuse_ino_t inode, off_t offset, off_t length) {
          fuse_lowlevel_notify_inval_inode(session, inode, offset, length);
        }} {}
  explicit InvalidationQueue(Send send) : send_{std::move(send)}, thread_{[this] { run(); }} {}
  /// Sends what is queued still, then ends the thread.
  ~InvalidationQueue() {
    {
      const tarn::detail::MutexLock lock{mutex_};
      ending_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }
  InvalidationQueue(const InvalidationQueue&) = delete;
  InvalidationQueue& operator=(const InvalidationQueue&) = delete;

  /// Errors: throws bad_alloc. Blocks: no.
  void invalidate(fuse_ino_t inode, off_t offset = 0, off_t length = 0) {
    {
      const tarn::detail::MutexLock lock{mutex_};
      queue_.push_back({inode, offset, length});
    }
    changed_.notify_all();
  }
  /// Waits until everything that was queued at the call has been sent.
  /// Requires: the caller serves no request and holds nothing that one needs.
  void wait_until_sent() {
    tarn::detail::MutexLock lock{mutex_};
    const auto upto = sent_ + queue_.size() + (sending_ ? 1 : 0);
    while (sent_ < upto) changed_.wait(lock.std_lock());
  }

 private:
  struct Item {
    fuse_ino_t inode;
    off_t offset, length;
  };

  void run() {
    tarn::detail::MutexLock lock{mutex_};
    for (;;) {
      while (!ending_ && queue_.empty()) changed_.wait(lock.std_lock());
      if (queue_.empty()) return;
      const auto item = queue_.front();
      queue_.pop_front();
      sending_ = true;
      lock.unlock();
      send_(item.inode, item.offset, item.length);
      lock.lock();
      sending_ = false;
      ++sent_;
      changed_.notify_all();
    }
  }

  const Send send_;
  tarn::detail::CheckedMutex mutex_;
  tarn::detail::ConditionVariable changed_;
  std::deque<Item> queue_ TARN_GUARDED_BY(mutex_);
  std::uint64_t sent_ TARN_GUARDED_BY(mutex_) = 0;
  bool sending_ TARN_GUARDED_BY(mutex_) = false;
  bool ending_ TARN_GUARDED_BY(mutex_) = false;
  std::thread thread_;  // last: it uses the others
};

}  // namespace tarn::fuse
