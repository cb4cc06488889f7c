// SPDX-License-Identifier: MIT
#pragma once

// What the request handlers share, and how they are handed to libfuse.

#include <fuse_lowlevel.h>

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <memory>
#include <new>
#include <string>
#include <system_error>

#include "content.hpp"
#include "inode_table.hpp"
#include "options.hpp"
#include "source_file.hpp"

namespace tarnfs {

struct Filesystem {
  /// Takes the root of SOURCE, as an O_PATH descriptor, as the kernel's first inode.
  Filesystem(const Options& asked, SourceTree& source, Fd directory, const struct stat& attributes)
      : options{asked},
        tree{source},
        pool{ContentPool::make(asked.content)},
        inodes{source},
        root{inodes.find_or_add(std::move(directory), attributes)} {}

  /// The kernel names an inode by its address, the root by 1.
  [[nodiscard]] Inode& inode(fuse_ino_t number) const {
    return number == FUSE_ROOT_ID ? *root : *reinterpret_cast<Inode*>(number);
  }
  [[nodiscard]] fuse_ino_t number(const Inode& inode) const {
    return &inode == root.get() ? FUSE_ROOT_ID : reinterpret_cast<fuse_ino_t>(&inode);
  }

  /// The bytes of a file, in memory from now on. Errors: 0, or an errno and null.
  std::shared_ptr<Content> content(Inode& inode, int& error);
  /// Stores what is dirty in one file, and waits for it. Says on the log what failed.
  int flush(Inode& inode);
  /// Stores what is dirty anywhere; first, with `session`, what programs have stored through shared mappings and the
  /// kernel has not sent yet. Called by a thread that serves no request. Returns: whether all went well.
  bool flush_all(fuse_session* session = nullptr);
  /// Lines of `name value`.
  [[nodiscard]] std::string stats() const;

  const Options& options;
  SourceTree& tree;
  std::unique_ptr<ContentPool> pool;  // before the inodes, whose content is in it
  InodeTable inodes;
  InodeRef root;
  std::atomic<bool> acls{false};  ///< the kernel checks POSIX ACLs, and leaves the umask to us

  struct {
    std::atomic<std::uint64_t> reads{0}, read_bytes{0}, writes{0}, write_bytes{0}, fsyncs{0};
  } served;
};

/// How long the kernel may believe what it was told. Nobody else changes SOURCE.
inline constexpr double timeout_s = 1.0;

/// Attributes as a program on the mount sees them.
int get_attributes(Inode& inode, struct stat& attributes);
/// Finds a name and tells the kernel of it; `entry.ino` then counts as looked up once more.
int look_up(Filesystem& fs, Inode& parent, const char* name, fuse_entry_param& entry);

/// Opens a file's bytes; `file` gets the handle.
int open_file(Filesystem& fs, Inode& inode, fuse_file_info& file);
/// Ends what open_file began, and stores what came after the last close. Replies then to the request, if there is one.
void release_file(fuse_file_info& file, fuse_req_t request = nullptr);

/// Makes a libfuse handler of a function that answers `replied` or the errno to reply with.
template <auto F>
struct Handler;
template <class... A, int (*F)(Filesystem&, fuse_req_t, A...)>
struct Handler<F> {
  static void call(fuse_req_t request, A... arguments) {
    int error = ENOMEM;
    try {
      error = F(*static_cast<Filesystem*>(fuse_req_userdata(request)), request, arguments...);
    } catch (const std::bad_alloc&) {
      // ENOMEM. Handlers allocate before they reply.
    } catch (const std::system_error& e) {
      error = e.code().value();
    }
    if (error != replied) fuse_reply_err(request, error);
  }
};

void add_namespace_handlers(fuse_lowlevel_ops& handlers);
void add_file_handlers(fuse_lowlevel_ops& handlers);

}  // namespace tarnfs
