// SPDX-License-Identifier: MIT
#include "source_file.hpp"

#include <fcntl.h>
#include <sys/xattr.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <string_view>
#include <thread>

namespace tarnfs {
namespace {

bool same(const timespec& a, const timespec& b) { return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec; }

std::string proc_path_of(int fd) { return "/proc/self/fd/" + std::to_string(fd); }

std::string read_link(const std::string& path) {
  std::array<char, PATH_MAX> target;
  const auto n = ::readlink(path.c_str(), target.data(), target.size());
  return n < 0 ? std::string{} : std::string{target.data(), static_cast<std::size_t>(n)};
}

/// The largest size that a file in `directory` can be given. It is asked once, of a file without a name; where such a
/// file cannot be made, there is no bound that we know of.
std::uint64_t max_file_bytes_in(int directory) {
  constexpr auto most = static_cast<std::uint64_t>(std::numeric_limits<off_t>::max());
  const Fd probe{::openat(directory, ".", O_TMPFILE | O_RDWR | O_EXCL | O_CLOEXEC, 0600)};
  const auto fits = [&](std::uint64_t size_bytes) {
    return ::ftruncate(probe.get(), static_cast<off_t>(size_bytes)) == 0 || errno != EFBIG;
  };
  if (!probe || fits(most)) return most;
  std::uint64_t fitting = 0;
  for (auto too_large = most; too_large - fitting > 1;) {
    const auto middle = fitting + (too_large - fitting) / 2;
    (fits(middle) ? fitting : too_large) = middle;
  }
  return fitting;
}

/// For the tests: while the file that this variable names is there, to load from a file of SOURCE whose name begins with
/// what is in it, and to store to it, takes a second longer.
void wait_if_slow(const SourceFile& file) {
  static const char* const slow_while = std::getenv("TARNFS_SLOW_WHILE");
  if (!slow_while) return;
  const Fd named{::open(slow_while, O_RDONLY | O_CLOEXEC)};
  std::array<char, PATH_MAX> name;
  const auto n = named ? ::read(named.get(), name.data(), name.size()) : 0;
  if (n > 0 && file.name().starts_with(std::string_view{name.data(), static_cast<std::size_t>(n)})) {
    std::this_thread::sleep_for(std::chrono::seconds{1});
  }
}

constexpr int ended = -1;

/// Moves all of `pieces` with move(pieces, count, offset), which may do less at a time.
/// Returns: 0, an errno, or `ended`: there was no more.
template <class Move>
int transfer(std::span<const iovec> pieces, std::uint64_t offset, Move move) {
  auto at = static_cast<off_t>(offset);
  std::size_t moved = 0;  // of the first piece
  while (!pieces.empty()) {
    const iovec rest{static_cast<std::byte*>(pieces[0].iov_base) + moved, pieces[0].iov_len - moved};
    const auto count = static_cast<int>(std::min<std::size_t>(pieces.size(), IOV_MAX));
    const auto n = moved > 0 ? move(&rest, 1, at) : move(pieces.data(), count, at);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno;
    if (n == 0) return ended;
    at += n;
    for (moved += static_cast<std::size_t>(n); !pieces.empty() && moved >= pieces[0].iov_len;) {
      moved -= pieces[0].iov_len;
      pieces = pieces.subspan(1);
    }
  }
  return 0;
}

}  // namespace

std::shared_ptr<const Descriptor> DescriptorCache::get(SourceFile& file) {
  {
    const std::lock_guard lock{mutex_};
    if (file.descriptor_) {
      recent_.splice(recent_.begin(), recent_, file.recent_);
      return file.descriptor_;
    }
  }
  // Opened without the lock: SOURCE may be slow. Of two threads that open at once, one throws its own away.
  const auto path = file.proc_path();
  Fd fd{::open(path.c_str(), O_RDWR | O_CLOEXEC)};
  int write_error = 0;
  if (!fd && (errno == EACCES || errno == EPERM || errno == EROFS || errno == ETXTBSY)) {
    write_error = errno;
    fd = Fd{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
  }
  if (!fd) return nullptr;
  auto opened = std::make_shared<const Descriptor>(Descriptor{std::move(fd), write_error});

  std::shared_ptr<const Descriptor> evicted;  // closed after the lock is given up
  const std::lock_guard lock{mutex_};
  if (!file.descriptor_) insert_locked(file, std::move(opened), evicted);
  return file.descriptor_;
}

void DescriptorCache::put(SourceFile& file, Fd fd) {
  auto opened = std::make_shared<const Descriptor>(Descriptor{std::move(fd), 0});
  std::shared_ptr<const Descriptor> evicted;
  const std::lock_guard lock{mutex_};
  if (!file.descriptor_) insert_locked(file, std::move(opened), evicted);
}

void DescriptorCache::insert_locked(SourceFile& file, std::shared_ptr<const Descriptor> opened,
                                    std::shared_ptr<const Descriptor>& evicted) {
  recent_.push_front(&file);
  file.recent_ = recent_.begin();
  file.descriptor_ = std::move(opened);
  // One that could not be opened again is passed over: only a tarnfs that is not root meets such.
  int tries = 8;
  for (auto last = recent_.end(); recent_.size() > limit_ && tries > 0 && --last != recent_.begin(); --tries) {
    auto& victim = **last;
    if (victim.descriptor_->write_error == 0 &&
        ::faccessat(AT_FDCWD, victim.proc_path().c_str(), R_OK | W_OK, AT_EACCESS) != 0) {
      continue;
    }
    evicted = std::move(victim.descriptor_);
    victim.descriptor_ = nullptr;
    recent_.erase(last);
    return;
  }
}

void DescriptorCache::close(SourceFile& file) {
  std::shared_ptr<const Descriptor> closed;
  const std::lock_guard lock{mutex_};
  if (!file.descriptor_) return;
  recent_.erase(file.recent_);
  closed.swap(file.descriptor_);
}

SourceTree::SourceTree(Fd directory, std::size_t descriptor_limit)
    : root{std::move(directory)},
      path{read_link(proc_path_of(root.get()))},
      descriptors{descriptor_limit},
      max_file_bytes{max_file_bytes_in(root.get())} {}

std::string SourceFile::proc_path() const { return proc_path_of(handle_.get()); }

std::string SourceFile::name() const {
  auto path = read_link(proc_path());
  const auto& root = tree_.path;
  if (root != "/" && path.starts_with(root) && path.size() > root.size() && path[root.size()] == '/') {
    path.erase(0, root.size() + 1);
  } else if (path.starts_with('/')) {
    path.erase(0, 1);
  }
  return path;
}

std::shared_ptr<const Descriptor> SourceFile::writable_descriptor() {
  auto found = descriptor();
  if (found && found->write_error) {
    close_descriptor();
    found = descriptor();
  }
  return found;
}

int SourceFile::check_writable() {
  const auto found = writable_descriptor();
  return found ? found->write_error : errno;
}

void SourceFile::report_failure(std::string_view what, int error) const {
  tree_.failed = true;
  tree_.log.error(name() + ": " + std::string{what} + ": " + ::strerrordesc_np(error));
}

int SourceFile::stat_handle(struct stat& out) const {
  return ::fstatat(handle_.get(), "", &out, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) == 0 ? 0 : errno;
}

int SourceFile::watch(std::uint64_t& size_bytes) {
  // Before the stamp is taken: on a layered filesystem the first open for writing makes a copy, with a ctime of its
  // own.
  if (!descriptor()) return errno;
  const std::lock_guard lock{mutex_};
  if (!watched_) {
    struct stat now {};
    if (const int error = stat_handle(now)) return error;
    left_ = {now.st_size, now.st_mtim, now.st_ctim};
    shown_mtime_ = now.st_mtim;
    shown_ctime_ = now.st_ctim;
    watched_ = true;
  }
  size_bytes = static_cast<std::uint64_t>(left_.size_bytes);
  return 0;
}

int SourceFile::check_unchanged() {
  const std::lock_guard lock{mutex_};
  return check_locked();
}

int SourceFile::check_locked() {
  if (is_stale()) return ESTALE;
  if (!watched_ || own_changes_ > 0) return 0;
  struct stat now {};
  if (const int error = stat_handle(now)) return error;
  if (now.st_size == left_.size_bytes && same(now.st_mtim, left_.mtime) && same(now.st_ctim, left_.ctime)) return 0;
  stale_ = true;
  tree_.log.error(name() + ": changed behind the mount: " + ::strerrordesc_np(ESTALE));
  return ESTALE;
}

void SourceFile::touch() {
  // The clock by which the kernel stamps what goes to SOURCE directly: a finer one could show a file as newer than one
  // that was made after it.
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME_COARSE, &now);
  const std::lock_guard lock{mutex_};
  shown_mtime_ = shown_ctime_ = now;
}

void SourceFile::show_times(struct stat& attributes) const {
  const std::lock_guard lock{mutex_};
  if (!watched_) return;
  attributes.st_mtim = shown_mtime_;
  attributes.st_ctim = shown_ctime_;
}

int SourceFile::set_times(const timespec (&times)[2]) {
  const OwnChange change{*this};
  const std::lock_guard lock{mutex_};
  if (::utimensat(AT_FDCWD, proc_path().c_str(), times, 0) != 0) return errno;
  if (watched_ && times[1].tv_nsec != UTIME_OMIT) {
    shown_mtime_ = times[1];
    if (times[1].tv_nsec == UTIME_NOW) {
      struct stat now {};
      if (const int error = stat_handle(now)) return error;
      shown_mtime_ = now.st_mtim;
    }
  }
  return 0;
}

SourceFile::OwnChange::OwnChange(SourceFile& file, Of what) : file_{file}, what_{what} {
  const std::lock_guard lock{file_.mutex_};
  // Found now or never: what the change leaves will be taken for ours. Who needs to know asks is_stale.
  file_.check_locked();
  ++file_.own_changes_;
  ++file_.own_changes_begun_;
}

SourceFile::OwnChange::~OwnChange() {
  const std::lock_guard lock{file_.mutex_};
  --file_.own_changes_;
  ++file_.own_changes_ended_;
  if (!file_.watched_) return;
  struct stat now {};
  if (file_.stat_handle(now) != 0) return;
  file_.left_ = {now.st_size, now.st_mtim, now.st_ctim};
  if (what_ == Of::attributes) file_.shown_ctime_ = now.st_ctim;
}

int SourceFile::load(std::span<const iovec> into, std::uint64_t offset) {
  wait_if_slow(*this);
  const auto from = descriptor();
  if (!from) return errno;
  std::uint64_t changes_before = 0;
  {
    const std::lock_guard lock{mutex_};
    changes_before = own_changes_begun_;
  }
  const int error = transfer(into, offset, [&](const iovec* pieces, int count, off_t at) {
    return ::preadv(from->fd.get(), pieces, count, at);
  });
  if (error == ended) {
    const int changed = check_unchanged();
    return changed ? changed : EIO;
  }
  if (error) return error;
  // After the bytes were read, so that they are known to be of the file as it was left. A change of our own that ran
  // meanwhile has compared for us when it began.
  const std::lock_guard lock{mutex_};
  return own_changes_begun_ == changes_before ? check_locked() : (is_stale() ? ESTALE : 0);
}

SourceFile::Storing::Storing(SourceFile& file) : file_{file}, change_{file, OwnChange::Of::bytes} {
  wait_if_slow(file_);
  if (file_.is_stale()) {
    error_ = ESTALE;
    return;
  }
  privileges_ = file_.hold_privileges();
  auto opened = file_.writable_descriptor();
  if (!opened) {
    error_ = errno;
  } else if (opened->write_error) {
    error_ = opened->write_error;
  } else if (::fstat(opened->fd.get(), &before_) != 0) {
    error_ = errno;
  } else {
    descriptor_ = std::move(opened);
    data_end_ = static_cast<std::uint64_t>(before_.st_size);
    std::array<char, 256> value;
    const auto n = ::fgetxattr(descriptor_->fd.get(), capability_name, value.data(), value.size());
    if (n > 0) capability_.assign(value.data(), static_cast<std::size_t>(n));
  }
}

int SourceFile::Storing::resize(std::uint64_t size_bytes) {
  if (error_ || size_bytes == static_cast<std::uint64_t>(before_.st_size)) return error_;
  if (::ftruncate(descriptor_->fd.get(), static_cast<off_t>(size_bytes)) != 0) return error_ = errno;
  data_end_ = std::min(data_end_, size_bytes);
  return 0;
}

int SourceFile::Storing::write(std::span<const iovec> from, std::uint64_t offset) {
  if (error_) return error_;
  error_ = transfer(from, offset, [&](const iovec* pieces, int count, off_t at) {
    return ::pwritev(descriptor_->fd.get(), pieces, count, at);
  });
  return error_ = error_ == ended ? EIO : error_;
}

int SourceFile::Storing::zero(std::uint64_t offset, std::uint64_t size_bytes) {
  // Past the old end SOURCE is zero already, and space that fallocate took for it stays taken.
  if (error_ || offset >= data_end_) return error_;
  size_bytes = std::min(size_bytes, data_end_ - offset);
  if (::fallocate(descriptor_->fd.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset),
                  static_cast<off_t>(size_bytes)) == 0) {
    return 0;
  }
  if (errno != EOPNOTSUPP && errno != ENOSYS) return error_ = errno;
  static std::array<std::byte, 64 << 10> zeros{};  // never written; an iovec is not const
  while (!error_ && size_bytes > 0) {
    const auto n = static_cast<std::size_t>(std::min<std::uint64_t>(size_bytes, zeros.size()));
    const iovec piece{zeros.data(), n};
    write({&piece, 1}, offset);
    offset += n;
    size_bytes -= n;
  }
  return error_;
}

int SourceFile::Storing::finish() {
  if (!descriptor_) return error_;
  // Also after an error: part of the bytes may be there.
  const auto fd = descriptor_->fd.get();
  struct stat after {};
  if (::fstat(fd, &after) == 0 && after.st_mode != before_.st_mode) ::fchmod(fd, before_.st_mode & 07777);
  if (!capability_.empty()) ::fsetxattr(fd, capability_name, capability_.data(), capability_.size(), 0);
  const std::lock_guard lock{file_.mutex_};
  const int error = file_.settle_times_locked(fd);
  return error_ ? error_ : error;
}

int SourceFile::seek(std::uint64_t offset, bool data, std::uint64_t& found) {
  const auto in = descriptor();
  if (!in) return errno;
  // Moves the descriptor's own position, which nothing here uses.
  const auto at = ::lseek(in->fd.get(), static_cast<off_t>(offset), data ? SEEK_DATA : SEEK_HOLE);
  if (at < 0) return errno;
  found = static_cast<std::uint64_t>(at);
  return 0;
}

int SourceFile::sync(bool data_only) {
  std::uint64_t changes = 0;
  {
    // Before SOURCE is asked: what ends later it may have missed.
    const std::lock_guard lock{mutex_};
    changes = own_changes_ended_;
    if ((data_only ? data_synced_ : synced_) == changes) return 0;
  }
  // For the tests: while the file that this variable names is there, no sync of SOURCE goes well.
  static const char* const fails_while = std::getenv("TARNFS_SYNC_FAILS_WHILE");
  if (fails_while && ::access(fails_while, F_OK) == 0) return EIO;
  const auto to = descriptor();
  if (!to) return errno;
  if ((data_only ? ::fdatasync(to->fd.get()) : ::fsync(to->fd.get())) != 0) return errno;
  ++tree_.syncs;
  const std::lock_guard lock{mutex_};
  data_synced_ = std::max(data_synced_, changes);
  if (!data_only) synced_ = std::max(synced_, changes);
  return 0;
}

int SourceFile::reserve(std::uint64_t offset, std::uint64_t size_bytes) {
  const auto in = writable_descriptor();
  if (!in) return errno;
  if (in->write_error) return in->write_error;
  const OwnChange change{*this, OwnChange::Of::bytes};
  if (is_stale()) return ESTALE;
  if (::fallocate(in->fd.get(), FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset), static_cast<off_t>(size_bytes)) != 0) {
    return errno;
  }
  const std::lock_guard lock{mutex_};
  return settle_times_locked(in->fd.get());
}

int SourceFile::settle_times() {
  {
    const std::lock_guard lock{mutex_};
    if (!watched_ || is_stale() || same(left_.mtime, shown_mtime_)) return 0;
  }
  const OwnChange change{*this, OwnChange::Of::bytes};
  const auto of = descriptor();
  if (!of) return errno;
  const std::lock_guard lock{mutex_};
  return settle_times_locked(of->fd.get());
}

int SourceFile::settle_times_locked(int fd) {
  const timespec times[2] = {{0, UTIME_OMIT}, shown_mtime_};
  if (::futimens(fd, times) == 0) return 0;
  if (errno != EPERM && errno != EACCES) return errno;
  // Somebody else's file, and we are not root. Its bytes are stored all the same.
  struct stat now {};
  if (::fstat(fd, &now) != 0) return errno;
  shown_mtime_ = now.st_mtim;
  return 0;
}

}  // namespace tarnfs
