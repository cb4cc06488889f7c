// SPDX-License-Identifier: MIT

// Requests that carry or move bytes: each finds the file's content and asks it.

#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/xattr.h>

#include <tarn/byte_range.hpp>
#include <tarn/read_ahead.hpp>

#include <algorithm>
#include <atomic>
#include <climits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "filesystem.hpp"

namespace tarnfs {
namespace {

/// What an open file of the kernel's is to us. Shared: a reply lets the caller go on, and the file may be closed,
/// unlinked and forgotten while the handler that replied still gives back what it holds. So each handler keeps the
/// handle itself.
struct OpenHandle {
  OpenHandle(InodeRef opened, std::shared_ptr<Content> bytes, bool is_for_writing, const tarn::ReadAhead& read_ahead)
      : inode{std::move(opened)}, content{std::move(bytes)}, writes{is_for_writing}, ahead{read_ahead} {}

  /// Before what a close stores is stored: who changes the file meanwhile then knows that he has to.
  void hear_close() const {
    if (!closed.exchange(true)) --inode->unclosed;
  }

  InodeRef inode;
  std::shared_ptr<Content> content;
  bool writes;
  mutable tarn::ReadAhead ahead;
  mutable std::atomic<bool> closed{false};
};

using SharedHandle = std::shared_ptr<const OpenHandle>;

SharedHandle handle(const fuse_file_info* file) { return *reinterpret_cast<SharedHandle*>(file->fh); }

void count(std::atomic<std::uint64_t>& counter, std::uint64_t n = 1) {
  counter.fetch_add(n, std::memory_order_relaxed);
}

int do_open(Filesystem& fs, fuse_req_t request, fuse_ino_t number, fuse_file_info* file) {
  auto& inode = fs.inode(number);
  if (const int error = open_file(fs, inode, *file)) return error;
  if (fuse_reply_open(request, file) == -ENOENT) release_file(*file);
  return replied;
}

int do_read(Filesystem& fs, fuse_req_t request, fuse_ino_t, std::size_t size_bytes, off_t offset,
            fuse_file_info* file) {
  const auto open = handle(file);
  count(fs.served.reads);
  count(fs.served.read_bytes, size_bytes);
  if (open->inode->source.is_stale()) return ESTALE;
  const int error = open->content->reply_read(request, size_bytes, static_cast<std::uint64_t>(offset), open);
  if (const auto read = tarn::ByteRange::at(static_cast<std::uint64_t>(offset), size_bytes); read && error == replied) {
    open->content->load_ahead(open->ahead.after(*read), open);
  }
  return error;
}

/// Whether who asks is in a group; no, if that cannot be told.
bool caller_is_in(fuse_req_t request, gid_t group) {
  if (fuse_req_ctx(request)->gid == group) return true;
  std::vector<gid_t> groups(NGROUPS_MAX);
  const int n = fuse_req_getgroups(request, NGROUPS_MAX, groups.data());
  groups.resize(static_cast<std::size_t>(std::max(n, 0)));
  return std::find(groups.begin(), groups.end(), group) != groups.end();
}

/// Takes suid, sgid and capabilities from a file that is written. The kernel does so itself, but for direct I/O.
void drop_privileges(Inode& inode, fuse_req_t request) {
  const bool by_root = fuse_req_ctx(request)->uid == 0;
  if (inode.no_capability && (inode.no_set_id || by_root)) return;
  const auto path = [&] { return inode.source.proc_path(); };
  const auto held = inode.source.hold_privileges();
  if (!inode.no_set_id && !by_root) {
    struct stat found {};
    if (::stat(path().c_str(), &found) == 0) {
      auto drop = found.st_mode & (S_ISUID | S_ISGID);
      // Without the right to execute, the bit says something else, which the file's group may keep.
      if ((drop & S_ISGID) && !(found.st_mode & S_IXGRP) && caller_is_in(request, found.st_gid))
        drop &= mode_t{S_ISUID};
      const auto kept = found.st_mode & 07777 & ~drop;
      const SourceFile::OwnChange change{inode.source};
      const bool dropped = drop == 0 || ::chmod(path().c_str(), kept) == 0;
      if (dropped && !(kept & (S_ISUID | S_ISGID))) inode.no_set_id = true;
    }
  }
  if (!inode.no_capability) {
    const SourceFile::OwnChange change{inode.source};
    if (::removexattr(path().c_str(), capability_name) == 0 || errno == ENODATA) inode.no_capability = true;
  }
}

/// Leaves the first `size_bytes` of what the buffers hold.
void cut_buffers(fuse_bufvec& buffers, std::uint64_t size_bytes) {
  for (auto i = buffers.idx; i < buffers.count; ++i) {
    auto& piece = buffers.buf[i];
    piece.size = static_cast<std::size_t>(std::min<std::uint64_t>(piece.size, size_bytes));
    size_bytes -= piece.size;
  }
}

int do_write_buf(Filesystem& fs, fuse_req_t request, fuse_ino_t, fuse_bufvec* from, off_t offset,
                 fuse_file_info* file) {
  const auto open = handle(file);
  if (open->inode->source.is_stale()) return ESTALE;
  if (fs.options.direct_io) drop_privileges(*open->inode, request);
  const auto at = static_cast<std::uint64_t>(offset);
  const auto size_bytes = fuse_buf_size(from);
  const auto max_bytes = open->inode->source.max_bytes();
  if (size_bytes > 0 && at >= max_bytes) return EFBIG;
  const bool cut = size_bytes > max_bytes - std::min(at, max_bytes);
  if (cut) cut_buffers(*from, max_bytes - at);
  // Whoever calls it, here or later, keeps the file.
  const auto reply = [&fs, request, &source = open->inode->source](int error, std::size_t written) {
    if (error) return void(fuse_reply_err(request, error));
    // After the bytes, since a write that fails moves no time. A flush that has taken these without it leaves a time
    // that the next flush finds is another; there is one at the close.
    if (written > 0) source.touch();
    count(fs.served.writes);
    count(fs.served.write_bytes, written);
    fuse_reply_write(request, written);
  };
  std::size_t written = 0;
  const int error = open->content->try_write(*from, at, written);
  if (error == would_wait) open->content->write_later(*from, at, written, open, reply);
  if (cut) from->idx = 0;  // tells libfuse that its pipe still holds what was cut off
  if (error != would_wait) reply(error, written);
  return replied;
}

int do_flush(Filesystem&, fuse_req_t request, fuse_ino_t, fuse_file_info* file) {
  const auto open = handle(file);
  open->hear_close();
  if (open->inode->unlinked) return 0;
  open->content->flush_later(open, [request, writes = open->writes](int error) {
    // Every close stores; what failed is for those to hear who could have written it.
    fuse_reply_err(request, writes ? error : 0);
  });
  return replied;
}

int do_release(Filesystem&, fuse_req_t request, fuse_ino_t, fuse_file_info* file) {
  release_file(*file, request);
  return replied;
}

int do_fsync(Filesystem& fs, fuse_req_t request, fuse_ino_t, int data_only, fuse_file_info* file) {
  const auto open = handle(file);
  count(fs.served.fsyncs);
  // Also if nothing is dirty: pressure, or a close, may have stored it before.
  open->content->sync_later(data_only != 0, open, [request](int error) { fuse_reply_err(request, error); });
  return replied;
}

int do_fallocate(Filesystem&, fuse_req_t, fuse_ino_t, int mode, off_t offset, off_t length, fuse_file_info* file) {
  if (mode & ~(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)) return EOPNOTSUPP;
  const auto open = handle(file);
  auto& source = open->inode->source;
  auto& content = *open->content;
  const auto at = static_cast<std::uint64_t>(offset);
  const auto size_bytes = static_cast<std::uint64_t>(length);
  const bool keep_size = mode & FALLOC_FL_KEEP_SIZE;
  if (source.is_stale()) return ESTALE;
  if (at > source.max_bytes() || size_bytes > source.max_bytes() - at) return EFBIG;
  if (mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)) {
    const int error = mode & FALLOC_FL_PUNCH_HOLE ? content.punch_hole(at, size_bytes)
                                                  : content.zero_range(at, size_bytes, keep_size);
    if (!error) source.touch();
    return error;
  }
  // Space is SOURCE's to give, now: that it is there is the point of the call. The kernel holds off writes meanwhile.
  if (const int error = source.reserve(at, size_bytes)) return error;
  source.touch();
  return keep_size || content.size_bytes() >= at + size_bytes ? 0 : content.truncate(at + size_bytes);
}

int do_lseek(Filesystem&, fuse_req_t request, fuse_ino_t, off_t offset, int whence, fuse_file_info* file) {
  if (whence != SEEK_DATA && whence != SEEK_HOLE) return EINVAL;
  if (offset < 0) return ENXIO;
  std::uint64_t found = 0;
  if (const int error = handle(file)->content->seek(static_cast<std::uint64_t>(offset), whence == SEEK_DATA, found)) {
    return error;
  }
  fuse_reply_lseek(request, static_cast<off_t>(found));
  return replied;
}

}  // namespace

int open_file(Filesystem& fs, Inode& inode, fuse_file_info& file) {
  if (!inode.is_regular()) return EINVAL;
  int error = 0;
  auto content = fs.content(inode, error);
  if (error) return error;
  if ((error = inode.source.check_unchanged()) != 0) return error;
  const bool writes = (file.flags & O_ACCMODE) != O_RDONLY;
  if (writes && (error = inode.source.check_writable()) != 0) return error;
  const tarn::ReadAhead ahead{{.max_bytes = fs.options.read_ahead_bytes}};
  auto opened = std::make_unique<SharedHandle>(
      std::make_shared<const OpenHandle>(fs.inodes.ref(inode), std::move(content), writes, ahead));
  ++inode.opens;
  ++inode.unclosed;
  file.fh = reinterpret_cast<std::uint64_t>(opened.release());
  file.direct_io = fs.options.direct_io;
  file.keep_cache = fs.options.keep_cache;
  return 0;
}

void release_file(fuse_file_info& file, fuse_req_t request) {
  const std::unique_ptr<SharedHandle> closed{reinterpret_cast<SharedHandle*>(file.fh)};
  const SharedHandle open = *closed;
  auto& inode = *open->inode;
  open->hear_close();
  const bool last = --inode.opens == 0;
  const auto end = [&inode, &content = *open->content, last, request](int) {
    if (last && inode.opens == 0 && !content.is_dirty()) inode.source.close_descriptor();
    if (request) fuse_reply_err(request, 0);
  };
  // What a shared mapping stored comes after the last flush. The error has nobody left to go to but the log.
  if (last && inode.unlinked) return end(0);
  try {
    open->content->flush_later(open, end);
  } catch (const std::bad_alloc&) {
    end(ENOMEM);  // it is closed all the same; what is dirty stays so
  }
}

std::shared_ptr<Content> Filesystem::content(Inode& inode, int& error) {
  for (;;) {
    try {
      return inode.content(*pool, error);
    } catch (const std::system_error&) {
      // Even a file of which nothing is held takes room. Files that nobody has open can do without.
      std::size_t dropped = 0;
      for (const auto& idle : inodes.with_content()) dropped += idle->drop_idle_content() ? 1 : 0;
      if (dropped == 0) throw;
    }
  }
}

int Filesystem::flush(Inode& inode) {
  const auto content = inode.content();
  return content ? content->flush() : 0;
}

bool Filesystem::flush_all(fuse_session* session) {
  bool ok = true;
  for (const auto& inode : inodes.with_content()) {
    if (session && inode->opens > 0 && !options.direct_io) {
      // Makes the kernel send the pages that a mapping has changed, and waits until it has.
      fuse_lowlevel_notify_inval_inode(session, number(*inode), 0, 0);
    }
    if (!inode->unlinked && flush(*inode) != 0) ok = false;
  }
  return ok;
}

std::string Filesystem::stats() const {
  const auto line = [](const char* name, const std::atomic<std::uint64_t>& value) {
    return std::string{name} + ' ' + std::to_string(value.load()) + '\n';
  };
  return line("read_requests", served.reads) + line("read_request_bytes", served.read_bytes) +
         line("write_requests", served.writes) + line("write_request_bytes", served.write_bytes) +
         line("fsync_requests", served.fsyncs) + line("source_syncs", tree.syncs) + pool->stats();
}

void add_file_handlers(fuse_lowlevel_ops& handlers) {
  handlers.open = Handler<do_open>::call;
  handlers.read = Handler<do_read>::call;
  handlers.write_buf = Handler<do_write_buf>::call;
  handlers.flush = Handler<do_flush>::call;
  handlers.release = Handler<do_release>::call;
  handlers.fsync = Handler<do_fsync>::call;
  handlers.fallocate = Handler<do_fallocate>::call;
  handlers.lseek = Handler<do_lseek>::call;
}

}  // namespace tarnfs
