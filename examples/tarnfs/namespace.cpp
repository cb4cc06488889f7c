// SPDX-License-Identifier: MIT

// Names, attributes, links, directories, extended attributes: everything but bytes goes to SOURCE at once.

#include <dirent.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/fs.h>
#include <sys/fsuid.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/xattr.h>

#include <algorithm>
#include <array>
#include <climits>
#include <cstring>
#include <optional>
#include <vector>

#include "filesystem.hpp"

namespace tarnfs {
namespace {

using OwnChange = SourceFile::OwnChange;

int error_of(int result) { return result == 0 ? 0 : errno; }

// ---- Who creates

/// Makes this thread create files as the caller would: theirs by owner and group, with what the directory's sgid bit
/// asks for. The caller's rights were checked by the kernel, groups and ACLs included; so we keep our own.
class AsCaller {
 public:
  explicit AsCaller(fuse_req_t request) {
    const auto* const caller = fuse_req_ctx(request);
    if (::geteuid() != 0 || (caller->uid == 0 && caller->gid == 0)) return;
    switched_ = true;
    ::setfsgid(caller->gid);
    ::setfsuid(caller->uid);  // takes the filesystem capabilities out of the effective set
    __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
    __user_cap_data_struct sets[2]{};
    if (::syscall(SYS_capget, &header, sets) != 0) return;
    for (auto& set : sets) set.effective = set.permitted;
    ::syscall(SYS_capset, &header, sets);
  }
  ~AsCaller() {
    if (!switched_) return;
    const int kept = errno;
    ::setfsuid(0);
    ::setfsgid(0);
    errno = kept;
  }
  AsCaller(const AsCaller&) = delete;
  AsCaller& operator=(const AsCaller&) = delete;

 private:
  bool switched_ = false;
};

/// The mode to create with. Where the kernel leaves the umask to us, it counts unless the directory has a default ACL.
mode_t creation_mode(const Filesystem& fs, fuse_req_t request, const Inode& parent, mode_t mode) {
  if (!fs.acls) return mode;
  const auto path = parent.source.proc_path();
  if (::getxattr(path.c_str(), "system.posix_acl_default", nullptr, 0) > 0) return mode;
  return mode & ~fuse_req_ctx(request)->umask;
}

// ---- Lookups

int reply_entry(Filesystem& fs, fuse_req_t request, const fuse_entry_param& entry) {
  // The kernel has given up on an interrupted request: it does not know the inode.
  if (fuse_reply_entry(request, &entry) == -ENOENT) fs.inodes.forget(fs.inode(entry.ino), 1);
  return replied;
}

int reply_name(Filesystem& fs, fuse_req_t request, Inode& parent, const char* name) {
  fuse_entry_param entry{};
  if (const int error = look_up(fs, parent, name, entry)) return error;
  return reply_entry(fs, request, entry);
}

/// The inode behind a name, if anybody knows it; one that nobody knows has nothing in memory to care about.
InodeRef find_known(Filesystem& fs, const Inode& parent, const char* name) {
  struct stat found {};
  if (::fstatat(parent.handle(), name, &found, AT_SYMLINK_NOFOLLOW) != 0) return {};
  return fs.inodes.find({found.st_dev, found.st_ino});
}

void note_unlinked(Inode& inode) {
  struct stat now {};
  if (::fstatat(inode.handle(), "", &now, AT_EMPTY_PATH) == 0 && now.st_nlink == 0) inode.unlinked = true;
}

int do_lookup(Filesystem& fs, fuse_req_t request, fuse_ino_t parent, const char* name) {
  return reply_name(fs, request, fs.inode(parent), name);
}

int do_forget_one(Filesystem& fs, fuse_ino_t number, std::uint64_t lookups) {
  if (number != FUSE_ROOT_ID) fs.inodes.forget(fs.inode(number), lookups);
  return 0;
}

int do_forget(Filesystem& fs, fuse_req_t request, fuse_ino_t number, std::uint64_t lookups) {
  do_forget_one(fs, number, lookups);
  fuse_reply_none(request);
  return replied;
}

int do_forget_multi(Filesystem& fs, fuse_req_t request, std::size_t count, fuse_forget_data* forgets) {
  for (std::size_t i = 0; i < count; ++i) do_forget_one(fs, forgets[i].ino, forgets[i].nlookup);
  fuse_reply_none(request);
  return replied;
}

// ---- Attributes

int reply_attributes(Filesystem& fs, fuse_req_t request, fuse_ino_t number) {
  struct stat attributes {};
  if (const int error = get_attributes(fs.inode(number), attributes)) return error;
  fuse_reply_attr(request, &attributes, timeout_s);
  return replied;
}

int do_getattr(Filesystem& fs, fuse_req_t request, fuse_ino_t number, fuse_file_info*) {
  return reply_attributes(fs, request, number);
}

int set_size(Filesystem& fs, Inode& inode, std::uint64_t size_bytes, bool by_name) {
  int error = 0;
  const auto content = fs.content(inode, error);
  if (error) return error;
  if ((error = inode.source.check_unchanged()) != 0) return error;
  // A size that SOURCE refuses would stand in the way of all that is stored later.
  if ((error = inode.source.check_writable()) != 0) return error;
  if (size_bytes > inode.source.max_bytes()) return EFBIG;
  if ((error = content->truncate(size_bytes)) != 0) return error;
  inode.source.touch();
  // truncate(2) by path is open, change and close in one: no close will follow that could store it.
  return by_name && inode.unclosed == 0 ? fs.flush(inode) : 0;
}

int do_setattr(Filesystem& fs, fuse_req_t request, fuse_ino_t number, struct stat* to, int which,
               fuse_file_info* file) {
  auto& inode = fs.inode(number);
  if (which & (FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID)) {
    const auto held = inode.source.hold_privileges();
    const OwnChange change{inode.source};
    const auto uid = which & FUSE_SET_ATTR_UID ? to->st_uid : static_cast<uid_t>(-1);
    const auto gid = which & FUSE_SET_ATTR_GID ? to->st_gid : static_cast<gid_t>(-1);
    if (::fchownat(inode.handle(), "", uid, gid, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) != 0) return errno;
  }
  // After the owner, whose change takes suid and sgid away.
  if (which & FUSE_SET_ATTR_MODE) {
    const auto held = inode.source.hold_privileges();
    const OwnChange change{inode.source};
    if (::chmod(inode.source.proc_path().c_str(), to->st_mode & 07777) != 0) return errno;
    inode.no_set_id = false;
  }
  if (which & FUSE_SET_ATTR_SIZE) {
    if (const int error = set_size(fs, inode, static_cast<std::uint64_t>(to->st_size), !file)) return error;
  }
  if (which & (FUSE_SET_ATTR_ATIME | FUSE_SET_ATTR_MTIME)) {
    timespec times[2] = {{0, UTIME_OMIT}, {0, UTIME_OMIT}};
    if (which & FUSE_SET_ATTR_ATIME) times[0] = to->st_atim;
    if (which & FUSE_SET_ATTR_ATIME_NOW) times[0].tv_nsec = UTIME_NOW;
    if (which & FUSE_SET_ATTR_MTIME) times[1] = to->st_mtim;
    if (which & FUSE_SET_ATTR_MTIME_NOW) times[1].tv_nsec = UTIME_NOW;
    if (const int error = inode.source.set_times(times)) return error;
  }
  return reply_attributes(fs, request, number);
}

int do_statfs(Filesystem& fs, fuse_req_t request, fuse_ino_t number) {
  struct statvfs answer {};
  if (::fstatvfs(fs.inode(number).handle(), &answer) != 0) return errno;
  fuse_reply_statfs(request, &answer);
  return replied;
}

// ---- Names

int do_mknod(Filesystem& fs, fuse_req_t request, fuse_ino_t parent, const char* name, mode_t mode, dev_t device) {
  auto& in = fs.inode(parent);
  {
    const AsCaller caller{request};
    if (::mknodat(in.handle(), name, creation_mode(fs, request, in, mode), device) != 0) return errno;
  }
  return reply_name(fs, request, in, name);
}

int do_mkdir(Filesystem& fs, fuse_req_t request, fuse_ino_t parent, const char* name, mode_t mode) {
  auto& in = fs.inode(parent);
  {
    const AsCaller caller{request};
    if (::mkdirat(in.handle(), name, creation_mode(fs, request, in, mode)) != 0) return errno;
  }
  return reply_name(fs, request, in, name);
}

int do_symlink(Filesystem& fs, fuse_req_t request, const char* target, fuse_ino_t parent, const char* name) {
  auto& in = fs.inode(parent);
  {
    const AsCaller caller{request};
    if (::symlinkat(target, in.handle(), name) != 0) return errno;
  }
  return reply_name(fs, request, in, name);
}

int do_readlink(Filesystem& fs, fuse_req_t request, fuse_ino_t number) {
  std::array<char, PATH_MAX + 1> target;
  const auto n = ::readlinkat(fs.inode(number).handle(), "", target.data(), target.size());
  if (n < 0) return errno;
  if (static_cast<std::size_t>(n) == target.size()) return ENAMETOOLONG;
  target[static_cast<std::size_t>(n)] = '\0';
  fuse_reply_readlink(request, target.data());
  return replied;
}

int do_link(Filesystem& fs, fuse_req_t request, fuse_ino_t number, fuse_ino_t parent, const char* name) {
  auto& inode = fs.inode(number);
  auto& in = fs.inode(parent);
  {
    const OwnChange change{inode.source};
    const auto from = inode.source.proc_path();
    if (::linkat(AT_FDCWD, from.c_str(), in.handle(), name, AT_SYMLINK_FOLLOW) != 0) return errno;
  }
  return reply_name(fs, request, in, name);
}

int remove(Filesystem& fs, fuse_ino_t parent, const char* name, int flags) {
  auto& in = fs.inode(parent);
  const auto removed = find_known(fs, in, name);
  if (!removed) return error_of(::unlinkat(in.handle(), name, flags));
  const OwnChange change{removed->source};
  if (::unlinkat(in.handle(), name, flags) != 0) return errno;
  note_unlinked(*removed);
  return 0;
}

int do_unlink(Filesystem& fs, fuse_req_t, fuse_ino_t parent, const char* name) { return remove(fs, parent, name, 0); }

int do_rmdir(Filesystem& fs, fuse_req_t, fuse_ino_t parent, const char* name) {
  return remove(fs, parent, name, AT_REMOVEDIR);
}

int do_rename(Filesystem& fs, fuse_req_t, fuse_ino_t parent, const char* name, fuse_ino_t new_parent,
              const char* new_name, unsigned flags) {
  auto& from = fs.inode(parent);
  auto& to = fs.inode(new_parent);
  const auto moved = find_known(fs, from, name);
  struct stat there {};
  const bool onto = ::fstatat(to.handle(), new_name, &there, AT_SYMLINK_NOFOLLOW) == 0;
  const auto replaced = onto ? fs.inodes.find({there.st_dev, there.st_ino}) : InodeRef{};

  // The new bytes are in SOURCE before the old ones leave it: who replaces a file by rename counts on one or the other.
  if (onto && !(flags & RENAME_NOREPLACE)) {
    if (moved) {
      if (const int error = fs.flush(*moved)) return error;
    }
    if (replaced && (flags & RENAME_EXCHANGE)) {
      if (const int error = fs.flush(*replaced)) return error;
    }
  }
  std::optional<OwnChange> change_moved, change_replaced;
  if (moved) change_moved.emplace(moved->source);
  if (replaced) change_replaced.emplace(replaced->source);
  if (::renameat2(from.handle(), name, to.handle(), new_name, flags) != 0) return errno;
  if (replaced) note_unlinked(*replaced);
  return 0;
}

// ---- Directories

struct Directory {
  DIR* stream = nullptr;
  std::mutex mutex;  ///< one position, however many ask
  off_t position = 0;
  dirent* pending = nullptr;  ///< read, and did not fit
  Directory() = default;
  Directory(const Directory&) = delete;
  Directory& operator=(const Directory&) = delete;
  ~Directory() {
    if (stream) ::closedir(stream);
  }
};

Directory& directory(const fuse_file_info* file) { return *reinterpret_cast<Directory*>(file->fh); }

int do_opendir(Filesystem& fs, fuse_req_t request, fuse_ino_t number, fuse_file_info* file) {
  auto opened = std::make_unique<Directory>();
  const int fd = ::openat(fs.inode(number).handle(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return errno;
  opened->stream = ::fdopendir(fd);
  if (!opened->stream) {
    const int error = errno;
    ::close(fd);
    return error;
  }
  file->fh = reinterpret_cast<std::uint64_t>(opened.get());
  if (fuse_reply_open(request, file) != -ENOENT) static_cast<void>(opened.release());
  return replied;
}

int do_releasedir(Filesystem&, fuse_req_t, fuse_ino_t, fuse_file_info* file) {
  delete &directory(file);
  return 0;
}

int do_fsyncdir(Filesystem&, fuse_req_t, fuse_ino_t, int data_only, fuse_file_info* file) {
  const int fd = ::dirfd(directory(file).stream);
  return error_of(data_only ? ::fdatasync(fd) : ::fsync(fd));
}

/// Looks a name up. Throws nothing: of those that were looked up before, the kernel is yet to be told.
bool has_inode(Filesystem& fs, Inode& parent, const char* name, fuse_entry_param& entry) noexcept {
  try {
    return look_up(fs, parent, name, entry) == 0;
  } catch (const std::exception&) {
    return false;
  }
}

/// Fills `reply` with entries from `offset` on, as many as fit. Errors: 0 or an errno.
int read_entries(Filesystem& fs, fuse_req_t request, fuse_ino_t number, off_t offset, Directory& in, bool plus,
                 std::vector<char>& reply) {
  const auto size_bytes = reply.size();
  std::size_t used = 0;
  const std::lock_guard lock{in.mutex};
  if (offset != in.position || offset == 0) {
    if (offset == 0) {
      ::rewinddir(in.stream);  // so that names that came since are seen
    } else {
      ::seekdir(in.stream, offset);
    }
    in.pending = nullptr;
    in.position = offset;
  }
  int error = 0;
  for (;;) {
    if (!in.pending) {
      errno = 0;
      in.pending = ::readdir(in.stream);
      if (!in.pending) {
        error = errno;
        break;
      }
    }
    const auto* const name = in.pending->d_name;
    const auto next = in.pending->d_off;
    const bool dots = std::strcmp(name, ".") == 0 || std::strcmp(name, "..") == 0;
    fuse_entry_param entry{};
    entry.attr.st_ino = in.pending->d_ino;
    entry.attr.st_mode = static_cast<mode_t>(DTTOIF(in.pending->d_type));
    auto* const at = reply.data() + used;
    const auto left = size_bytes - used;
    std::size_t needed = 0;
    if (plus) {
      // An entry that is gone since, or cannot be looked up, is still a name.
      if (!dots && !has_inode(fs, fs.inode(number), name, entry)) entry.ino = 0;
      needed = fuse_add_direntry_plus(request, at, left, name, &entry, next);
      if (needed > left && entry.ino != 0) fs.inodes.forget(fs.inode(entry.ino), 1);
    } else {
      needed = fuse_add_direntry(request, at, left, name, &entry.attr, next);
    }
    if (needed > left) break;
    used += needed;
    in.pending = nullptr;
    in.position = next;
  }
  // Entries that were looked up have to reach the kernel, so an error waits for the next call.
  reply.resize(used);
  return used == 0 ? error : 0;
}

int read_directory(Filesystem& fs, fuse_req_t request, fuse_ino_t number, std::size_t size_bytes, off_t offset,
                   const fuse_file_info* file, bool plus) {
  std::vector<char> reply(size_bytes);
  if (const int error = read_entries(fs, request, number, offset, directory(file), plus, reply)) return error;
  fuse_reply_buf(request, reply.data(), reply.size());  // last, with nothing held: it may be closed from here on
  return replied;
}

int do_readdir(Filesystem& fs, fuse_req_t request, fuse_ino_t number, std::size_t size_bytes, off_t offset,
               fuse_file_info* file) {
  return read_directory(fs, request, number, size_bytes, offset, file, false);
}

int do_readdirplus(Filesystem& fs, fuse_req_t request, fuse_ino_t number, std::size_t size_bytes, off_t offset,
                   fuse_file_info* file) {
  return read_directory(fs, request, number, size_bytes, offset, file, true);
}

// ---- Extended attributes

int do_setxattr(Filesystem& fs, fuse_req_t, fuse_ino_t number, const char* name, const char* value,
                std::size_t size_bytes, int flags) {
  auto& inode = fs.inode(number);
  const auto held = inode.source.hold_privileges();  // an ACL is a mode, too
  const OwnChange change{inode.source};
  const int error = error_of(::setxattr(inode.source.proc_path().c_str(), name, value, size_bytes, flags));
  if (std::strcmp(name, capability_name) == 0) inode.no_capability = false;
  return error;
}

int do_removexattr(Filesystem& fs, fuse_req_t, fuse_ino_t number, const char* name) {
  auto& inode = fs.inode(number);
  const auto held = inode.source.hold_privileges();
  const OwnChange change{inode.source};
  return error_of(::removexattr(inode.source.proc_path().c_str(), name));
}

template <class Get>
int reply_xattr(fuse_req_t request, std::size_t size_bytes, Get get) {
  std::vector<char> value(size_bytes);
  const auto n = get(value.data(), size_bytes);
  if (n < 0) return errno;
  if (size_bytes == 0) {
    fuse_reply_xattr(request, static_cast<std::size_t>(n));
  } else {
    fuse_reply_buf(request, value.data(), static_cast<std::size_t>(n));
  }
  return replied;
}

int do_getxattr(Filesystem& fs, fuse_req_t request, fuse_ino_t number, const char* name, std::size_t size_bytes) {
  auto& inode = fs.inode(number);
  // The kernel asks for this one before each write.
  const bool capability = std::strcmp(name, capability_name) == 0;
  if (capability && inode.no_capability) return ENODATA;
  const auto held = capability ? inode.source.hold_privileges() : std::unique_lock<std::mutex>{};
  const int error = reply_xattr(request, size_bytes, [&](char* value, std::size_t size) {
    return ::getxattr(inode.source.proc_path().c_str(), name, value, size);
  });
  if (capability && error == ENODATA) inode.no_capability = true;
  return error;
}

int do_listxattr(Filesystem& fs, fuse_req_t request, fuse_ino_t number, std::size_t size_bytes) {
  return reply_xattr(request, size_bytes, [&](char* names, std::size_t size) {
    return ::listxattr(fs.inode(number).source.proc_path().c_str(), names, size);
  });
}

// ---- A new file: a name and an open file in one

/// A look-up that the kernel does not know of: taken back, unless it is told.
class UntoldLookup {
 public:
  UntoldLookup(InodeTable& inodes, Inode& inode) : inodes_{inodes}, inode_{&inode} {}
  UntoldLookup(const UntoldLookup&) = delete;
  UntoldLookup& operator=(const UntoldLookup&) = delete;
  ~UntoldLookup() {
    if (inode_ != nullptr) inodes_.forget(*inode_, 1);
  }
  void told() { inode_ = nullptr; }

 private:
  InodeTable& inodes_;
  Inode* inode_;
};

int do_create(Filesystem& fs, fuse_req_t request, fuse_ino_t parent, const char* name, mode_t mode,
              fuse_file_info* file) {
  auto& in = fs.inode(parent);
  Fd made;
  {
    const AsCaller caller{request};
    made = Fd{::openat(in.handle(), name, O_CREAT | O_EXCL | O_RDWR | O_NOFOLLOW | O_CLOEXEC,
                       creation_mode(fs, request, in, mode))};
    if (!made && (errno != EEXIST || (file->flags & O_EXCL))) return errno;
  }
  fuse_entry_param entry{};
  if (const int error = look_up(fs, in, name, entry)) return error;
  auto& inode = fs.inode(entry.ino);
  UntoldLookup lookup{fs.inodes, inode};
  if (made) inode.source.adopt_descriptor(std::move(made));
  if (const int error = open_file(fs, inode, *file)) return error;
  if (fuse_reply_create(request, &entry, file) == -ENOENT) {
    release_file(*file);
  } else {
    lookup.told();
  }
  return replied;
}

}  // namespace

int get_attributes(Inode& inode, struct stat& attributes) {
  const auto content = inode.content();
  const bool dirty = content && content->is_dirty();
  const auto dirty_bytes = dirty ? content->dirty_bytes() : 0;
  if (::fstatat(inode.handle(), "", &attributes, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) != 0) return errno;
  if (inode.source.is_stale() && !dirty) return 0;
  inode.source.show_times(attributes);
  if (!content) return 0;
  attributes.st_size = static_cast<off_t>(content->size_bytes());
  // Programs take a file with fewer blocks than its size needs for sparse, and one with none for a single hole.
  constexpr auto blocks_of = [](auto bytes) { return static_cast<blkcnt_t>((bytes + 511) / 512); };
  const auto with_dirty = attributes.st_blocks + blocks_of(dirty_bytes);
  attributes.st_blocks = std::max(attributes.st_blocks, std::min(with_dirty, blocks_of(content->size_bytes())));
  return 0;
}

int look_up(Filesystem& fs, Inode& parent, const char* name, fuse_entry_param& entry) {
  struct stat found {};
  if (::fstatat(parent.handle(), name, &found, AT_SYMLINK_NOFOLLOW) != 0) return errno;
  auto inode = fs.inodes.find({found.st_dev, found.st_ino});
  if (!inode) {
    Fd handle{::openat(parent.handle(), name, O_PATH | O_NOFOLLOW | O_CLOEXEC)};
    if (!handle) return errno;
    // Of the descriptor, not of the name: by now that may lead elsewhere.
    if (::fstatat(handle.get(), "", &found, AT_EMPTY_PATH) != 0) return errno;
    inode = fs.inodes.find_or_add(std::move(handle), found);
  }
  if (const int error = get_attributes(*inode, entry.attr)) return error;
  entry.ino = fs.number(*inode);
  entry.generation = inode->generation;
  entry.attr_timeout = entry.entry_timeout = timeout_s;
  fs.inodes.add_lookup(*inode);
  return 0;
}

void add_namespace_handlers(fuse_lowlevel_ops& handlers) {
  handlers.lookup = Handler<do_lookup>::call;
  handlers.forget = Handler<do_forget>::call;
  handlers.forget_multi = Handler<do_forget_multi>::call;
  handlers.getattr = Handler<do_getattr>::call;
  handlers.setattr = Handler<do_setattr>::call;
  handlers.statfs = Handler<do_statfs>::call;
  handlers.mknod = Handler<do_mknod>::call;
  handlers.mkdir = Handler<do_mkdir>::call;
  handlers.symlink = Handler<do_symlink>::call;
  handlers.readlink = Handler<do_readlink>::call;
  handlers.link = Handler<do_link>::call;
  handlers.unlink = Handler<do_unlink>::call;
  handlers.rmdir = Handler<do_rmdir>::call;
  handlers.rename = Handler<do_rename>::call;
  handlers.opendir = Handler<do_opendir>::call;
  handlers.readdir = Handler<do_readdir>::call;
  handlers.readdirplus = Handler<do_readdirplus>::call;
  handlers.releasedir = Handler<do_releasedir>::call;
  handlers.fsyncdir = Handler<do_fsyncdir>::call;
  handlers.setxattr = Handler<do_setxattr>::call;
  handlers.getxattr = Handler<do_getxattr>::call;
  handlers.listxattr = Handler<do_listxattr>::call;
  handlers.removexattr = Handler<do_removexattr>::call;
  handlers.create = Handler<do_create>::call;
}

}  // namespace tarnfs
