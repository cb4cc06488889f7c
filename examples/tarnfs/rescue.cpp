// SPDX-License-Identifier: MIT
#include "rescue.hpp"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <vector>

namespace tarnfs {
namespace {

/// Makes the directories that lead to `path`. Returns: a descriptor of the last one.
Fd make_way(int directory, std::string_view path) {
  Fd at{::openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
  for (auto slash = path.find('/'); at && slash != std::string_view::npos; slash = path.find('/')) {
    const std::string name{path.substr(0, slash)};
    path.remove_prefix(slash + 1);
    if (::mkdirat(at.get(), name.c_str(), 0700) != 0 && errno != EEXIST) return {};
    at = Fd{::openat(at.get(), name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)};
  }
  return at;
}

Fd make_file(int directory, const std::string& name) {
  Fd file{::openat(directory, name.c_str(), O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600)};
  for (int i = 1; !file && errno == EEXIST && i < 1000; ++i) {
    const auto numbered = name + '.' + std::to_string(i);
    file = Fd{::openat(directory, numbered.c_str(), O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600)};
  }
  return file;
}

/// Copies a range. Returns: 0 or the first errno; goes on behind what cannot be read, not behind what cannot be
/// written.
int copy(Content& content, int to, Content::Range range, bool& written) {
  std::vector<std::byte> piece(64 << 10);
  int error = 0;
  const auto end = range.offset + range.size_bytes;
  for (auto at = range.offset; at < end;) {
    const auto size = static_cast<std::size_t>(std::min<std::uint64_t>(piece.size(), end - at));
    std::size_t n = 0;
    const int failed = content.read_at_rest({piece.data(), size}, at, n);
    if (failed) {
      error = error ? error : failed;
      at += size;
      continue;
    }
    if (n == 0) break;
    // A hole stays one.
    const bool zero = std::all_of(piece.begin(), piece.begin() + static_cast<std::ptrdiff_t>(n),
                                  [](std::byte byte) { return byte == std::byte{0}; });
    if (!zero && ::pwrite(to, piece.data(), n, static_cast<off_t>(at)) != static_cast<ssize_t>(n)) {
      written = false;
      return errno ? errno : EIO;
    }
    at += n;
  }
  return error;
}

void rescue_file(Filesystem& fs, Inode& inode, int directory) {
  const auto held = inode.content();
  auto& content = *held;
  auto name = inode.source.name();
  constexpr std::string_view deleted = " (deleted)";  // another link of the file is left
  if (name.ends_with(deleted)) name.resize(name.size() - deleted.size());
  const auto way = make_way(directory, name);
  const auto slash = name.rfind('/');
  errno = way ? 0 : errno;
  const auto file = way ? make_file(way.get(), slash == std::string::npos ? name : name.substr(slash + 1)) : Fd{};
  if (!file) return inode.source.report_failure("changes are LOST, not saved in the rescue directory either", errno);

  struct stat attributes {};
  bool written = ::ftruncate(file.get(), static_cast<off_t>(content.size_bytes())) == 0;
  int error = written ? 0 : errno;
  for (const auto& range : content.dirty_ranges()) {
    if (written && !error) error = copy(content, file.get(), range, written);
  }
  if (error) return inode.source.report_failure("changes are LOST, not saved in the rescue directory either", error);
  // The rest as far as SOURCE still gives it: once more over everything, where a piece that has bytes of both kinds and
  // cannot be read was saved above.
  error = copy(content, file.get(), {0, content.size_bytes()}, written);
  if (get_attributes(inode, attributes) == 0) {
    if (::fchown(file.get(), attributes.st_uid, attributes.st_gid) == 0)
      ::fchmod(file.get(), attributes.st_mode & 0777);
    const timespec times[2] = {attributes.st_atim, attributes.st_mtim};
    ::futimens(file.get(), times);
  }
  if (::fsync(file.get()) != 0 && !error) error = errno;
  if (error)
    return inode.source.report_failure("changes are saved in the rescue directory, but not the bytes around them",
                                       error);
  fs.tree.log.error(inode.source.name() + ": saved in the rescue directory");
}

template <class F>
void for_each_dirty(Filesystem& fs, F&& f) {
  for (const auto& inode : fs.inodes.with_content()) {
    const auto content = inode->content();
    if (content && !inode->unlinked && content->is_dirty()) f(*inode);
  }
}

}  // namespace

void rescue(Filesystem& fs, int directory) {
  for_each_dirty(fs, [&](Inode& inode) { rescue_file(fs, inode, directory); });
}

void report_lost(Filesystem& fs) {
  for_each_dirty(fs, [&](Inode& inode) { fs.tree.log.error(inode.source.name() + ": changes are LOST"); });
}

}  // namespace tarnfs
