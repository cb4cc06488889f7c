// SPDX-License-Identifier: MIT
#pragma once

// The bytes of files: all that tarnfs uses tarn for is behind this page, in content.cpp and the two headers it
// includes; but for when to load ahead, which an open file knows.
//
// Everything answers 0 or an errno, as the rest of tarnfs does. What may wait for SOURCE or for memory comes in two
// kinds: one that waits, for threads that serve no request, and one that answers `would_wait`, or goes on later and says
// so to a `done`, in another thread.
//
// Thread safety: any thread.

#include <fuse_lowlevel.h>

#include <tarn/byte_range.hpp>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "options.hpp"
#include "source_file.hpp"

namespace tarnfs {

/// What a request handler answers when it has replied itself.
inline constexpr int replied = -1;
/// What is answered instead of waiting.
inline constexpr int would_wait = -2;

/// What keeps a file, its inode and its bytes, as long as something goes on with it. It is let go of in a thread that
/// serves nothing and holds nothing.
using Keep = std::shared_ptr<const void>;

/// The bytes of one file.
class Content {
 public:
  /// Lets go of everything, stored or not.
  virtual ~Content() = default;

  /// Replies to a read, now or later. Returns: `replied`, or an errno that is yet to be sent.
  virtual int reply_read(fuse_req_t request, std::size_t size_bytes, std::uint64_t offset, const Keep& keep) = 0;
  /// Starts to load what is missing of a range, as far as that takes no wait.
  virtual void load_ahead(tarn::ByteRange range, const Keep& keep) noexcept = 0;
  /// Reads also where memory is full. Waits; called where nothing is changed or stored meanwhile.
  virtual int read_at_rest(std::span<std::byte> into, std::uint64_t offset, std::size_t& done) = 0;
  /// Returns: 0 if all was written; an errno; or would_wait, with what was written: write_later writes the rest.
  virtual int try_write(fuse_bufvec& from, std::uint64_t offset, std::size_t& written) = 0;
  /// done(error, bytes written in all).
  virtual void write_later(fuse_bufvec& from, std::uint64_t offset, std::size_t written, const Keep& keep,
                           std::function<void(int, std::size_t)> done) = 0;

  virtual int truncate(std::uint64_t size_bytes) = 0;
  virtual int punch_hole(std::uint64_t offset, std::uint64_t size_bytes) = 0;
  virtual int zero_range(std::uint64_t offset, std::uint64_t size_bytes, bool keep_size) = 0;
  /// SEEK_DATA and SEEK_HOLE. Errors: ENXIO.
  virtual int seek(std::uint64_t offset, bool data, std::uint64_t& found) = 0;

  /// Stores what is dirty in SOURCE, and its mtime. Waits.
  virtual int flush() = 0;
  virtual void flush_later(const Keep& keep, std::function<void(int)> done) = 0;
  /// The same, and makes it durable, with all that was ever stored or changed there; of attributes only those that the
  /// bytes need, if `data_only`.
  virtual void sync_later(bool data_only, const Keep& keep, std::function<void(int)> done) = 0;

  struct Range {
    std::uint64_t offset, size_bytes;
  };
  /// What is in memory and not in SOURCE; reading it asks SOURCE for nothing.
  [[nodiscard]] virtual std::vector<Range> dirty_ranges() const = 0;
  [[nodiscard]] virtual bool is_dirty() const = 0;
  [[nodiscard]] virtual std::uint64_t size_bytes() const = 0;
  [[nodiscard]] virtual std::uint64_t dirty_bytes() const = 0;
};

/// Settings of the connection that byte requests want; called while it is made.
void configure_connection(fuse_conn_info& connection);

/// The memory that all files share.
class ContentPool {
 public:
  virtual ~ContentPool() = default;

  /// What is wrong with the options: one line, or nothing.
  [[nodiscard]] static std::string check(const ContentOptions& options);
  /// Made after the last fork: a forked child must not touch it.
  [[nodiscard]] static std::unique_ptr<ContentPool> make(const ContentOptions& options);

  /// `id` is one that no other file has; `source` outlives the content.
  /// Waits for memory. Errors: throws system_error(ENOBUFS) if the pool has no room for one more file.
  [[nodiscard]] virtual std::unique_ptr<Content> add(SourceFile& source, std::uint64_t id,
                                                     std::uint64_t size_bytes) = 0;
  /// Serves the session by tarn's loop, which receives what is written into the pool's memory; 0 threads: its default.
  /// Returns: 0, or an errno.
  [[nodiscard]] virtual int serve(fuse_session* session, unsigned threads, bool one_a_cpu) = 0;
  /// Waits until all that was to come later is done, and what it kept is let go of. Called when no request is served.
  virtual void wait_until_idle() = 0;
  /// Lines of `name value`.
  [[nodiscard]] virtual std::string stats() const = 0;
};

}  // namespace tarnfs
