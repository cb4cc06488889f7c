// SPDX-License-Identifier: MIT
#pragma once

// One file of SOURCE: the way to it, its bytes, and what tarnfs last left there.
//
// The way: an O_PATH descriptor, which keeps the file whatever happens to its name, and one private O_RDWR descriptor,
// opened through it when bytes move and closed again when too many are open.
//
// What was left: size, mtime and ctime of the file after tarnfs last touched it. Whoever finds others there has found a
// change behind our back: from then on the file is stale. A change of our own, from its first system call to its last,
// is an OwnChange; while there is one, nobody compares.
//
// What is shown: mtime and ctime as a program on the mount sees them. A write moves them at once, although SOURCE has
// the bytes later; a flush moves neither, although SOURCE's ctime rises.
//
// Thread safety: any thread.
// Lock order:    a SourceFile's privileges, its mutex, the descriptor cache's.

#include <sys/stat.h>
#include <sys/uio.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <span>
#include <string>

#include "fd.hpp"
#include "log.hpp"

namespace tarnfs {

/// Kept by whoever may change a file's owner, lost by a write.
inline constexpr const char* capability_name = "security.capability";

class SourceFile;

/// A private descriptor. If the file could only be opened for reading, `write_error` says why.
struct Descriptor {
  Fd fd;
  int write_error = 0;
};

/// Bounds how many private descriptors are open: the one used longest ago goes first. One that is in use stays open
/// until its user is done, so there are at most `limit` and one a thread.
class DescriptorCache {
 public:
  explicit DescriptorCache(std::size_t limit) : limit_{limit} {}

  /// Returns: the descriptor, or null and errno.
  std::shared_ptr<const Descriptor> get(SourceFile& file);
  /// Takes one that was opened when the file was made: its mode may forbid to open it again.
  void put(SourceFile& file, Fd fd);
  void close(SourceFile& file);

 private:
  void insert_locked(SourceFile& file, std::shared_ptr<const Descriptor> opened,
                     std::shared_ptr<const Descriptor>& evicted);

  std::mutex mutex_;
  std::list<SourceFile*> recent_;  ///< of the files that have one; the last used first
  const std::size_t limit_;
};

/// What all files of SOURCE share.
struct SourceTree {
  SourceTree(Fd directory, std::size_t descriptor_limit);

  Fd root;
  std::string path;  ///< of the root, as the kernel names it
  DescriptorCache descriptors;
  Log log;
  std::atomic<bool> failed{false};      ///< a flush did, or an fsync
  std::atomic<std::uint64_t> syncs{0};  ///< that SOURCE has done
  const std::uint64_t max_file_bytes;   ///< a larger file could never be stored
};

class SourceFile {
 public:
  /// `handle` is an O_PATH descriptor.
  SourceFile(SourceTree& tree, Fd handle) : tree_{tree}, handle_{std::move(handle)} {}
  ~SourceFile() { tree_.descriptors.close(*this); }
  SourceFile(const SourceFile&) = delete;
  SourceFile& operator=(const SourceFile&) = delete;

  [[nodiscard]] int handle() const { return handle_.get(); }
  /// A path that leads to the file itself, also to a symbolic link and to a file without a name.
  [[nodiscard]] std::string proc_path() const;
  /// The path below SOURCE by which the file was found, with what renamed it since.
  [[nodiscard]] std::string name() const;
  /// Says on the log that `what` failed for this file; the exit status will tell too.
  void report_failure(std::string_view what, int error) const;

  [[nodiscard]] std::shared_ptr<const Descriptor> descriptor() { return tree_.descriptors.get(*this); }
  /// One that may write, if at all possible: what forbade it once may have ended.
  [[nodiscard]] std::shared_ptr<const Descriptor> writable_descriptor();
  /// Whether SOURCE can be written. Answers 0 or an errno.
  [[nodiscard]] int check_writable();
  /// The largest size that SOURCE lets a file have.
  [[nodiscard]] std::uint64_t max_bytes() const { return tree_.max_file_bytes; }
  void adopt_descriptor(Fd fd) { tree_.descriptors.put(*this, std::move(fd)); }
  void close_descriptor() { tree_.descriptors.close(*this); }

  // -- What was left, and what is shown. All answer 0 or an errno.

  /// Begins to remember what is left; called once the file's bytes are held in memory. Does nothing the second time.
  int watch(std::uint64_t& size_bytes);
  /// Errors: ESTALE if SOURCE is not as tarnfs left it, now or ever before; said on the log the first time.
  int check_unchanged();
  [[nodiscard]] bool is_stale() const { return stale_.load(std::memory_order_relaxed); }

  /// Moves the times that are shown to now: bytes change.
  void touch();
  /// Puts the times that are shown over those of SOURCE.
  void show_times(struct stat& attributes) const;
  /// utimensat: SOURCE and what is shown.
  int set_times(const timespec (&times)[2]);

  /// Held by who changes or asks for what a write takes away (suid, sgid, capabilities), and by who stores: a store takes
  /// them, too, and puts back at its end what was there when it began.
  [[nodiscard]] std::unique_lock<std::mutex> hold_privileges() { return std::unique_lock{privileges_mutex_}; }

  /// A change of SOURCE by tarnfs itself: of attributes (mode, owner, links; the ctime that is shown moves) or of bytes
  /// (it does not).
  class OwnChange {
   public:
    enum class Of : std::uint8_t { attributes, bytes };
    explicit OwnChange(SourceFile& file, Of what = Of::attributes);
    ~OwnChange();
    OwnChange(const OwnChange&) = delete;
    OwnChange& operator=(const OwnChange&) = delete;

   private:
    SourceFile& file_;
    const Of what_;
  };

  // -- Bytes. All answer 0 or an errno.

  /// Fills all of `into` from `offset` on.
  /// Errors: ESTALE if the file ends before that or has been changed behind us.
  int load(std::span<const iovec> into, std::uint64_t offset);

  /// Changes the bytes of SOURCE, one at a time. Its mtime is set to the one that is shown; suid, sgid and capabilities
  /// stay: it was the write on the mount that took them away, and who set them since meant it.
  class Storing {
   public:
    explicit Storing(SourceFile& file);
    Storing(const Storing&) = delete;
    Storing& operator=(const Storing&) = delete;

    /// Growth reads as zero.
    int resize(std::uint64_t size_bytes);
    int write(std::span<const iovec> from, std::uint64_t offset);
    /// Makes a range zero, as a hole where the filesystem can.
    int zero(std::uint64_t offset, std::uint64_t size_bytes);
    int finish();

   private:
    SourceFile& file_;
    OwnChange change_;
    std::unique_lock<std::mutex> privileges_;
    int error_ = 0;
    std::shared_ptr<const Descriptor> descriptor_;  ///< null if nothing could be begun
    struct stat before_ {};
    std::uint64_t data_end_ = 0;  ///< SOURCE has no byte but zero at or past it
    std::string capability_;
  };

  /// SEEK_DATA and SEEK_HOLE in what SOURCE has. Errors: ENXIO.
  int seek(std::uint64_t offset, bool data, std::uint64_t& found);
  /// Makes SOURCE durable. Asks it only if the file has changed there since a sync that went well, or might have: one
  /// that was not synced yet. A sync that failed counts for nothing.
  int sync(bool data_only);
  [[nodiscard]] bool needs_sync(bool data_only) const {
    const std::lock_guard lock{mutex_};
    return (data_only ? data_synced_ : synced_) != own_changes_ended_;
  }
  /// Takes space for a range; size and bytes stay.
  int reserve(std::uint64_t offset, std::uint64_t size_bytes);
  /// Sets SOURCE's mtime to the one that is shown, if it is another.
  int settle_times();

 private:
  friend class DescriptorCache;

  struct Stamp {
    off_t size_bytes;
    timespec mtime, ctime;
  };
  int stat_handle(struct stat& out) const;
  int check_locked();
  /// SOURCE keeps its own mtime, which is then shown, where we may write the file but not set its times.
  int settle_times_locked(int fd);

  SourceTree& tree_;
  const Fd handle_;

  std::mutex privileges_mutex_;
  mutable std::mutex mutex_;
  bool watched_ = false;
  unsigned own_changes_ = 0;
  std::uint64_t own_changes_begun_ = 0;
  std::uint64_t own_changes_ended_ = 1;         ///< so many changes, and what was before us, are in SOURCE;
  std::uint64_t synced_ = 0, data_synced_ = 0;  ///< so many it has made durable, so many at least their bytes
  Stamp left_{};
  timespec shown_mtime_{}, shown_ctime_{};
  std::atomic<bool> stale_{false};

  // The descriptor cache's.
  std::shared_ptr<const Descriptor> descriptor_;
  std::list<SourceFile*>::iterator recent_;
};

}  // namespace tarnfs
