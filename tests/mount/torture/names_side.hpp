// SPDX-License-Identifier: MIT
#pragma once

// One operation on names, and one of the two directories that it is done in: what it answers there, as text to compare.
//
// Thread safety: none.

#include <dirent.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <cstdint>
#include <cstdio>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "arguments.hpp"

namespace tarn_test {

enum class NameKind : std::uint8_t {
  create,
  create_new,
  create_empty,  ///< O_TRUNC
  make_directory,
  rename,
  rename_new,       ///< RENAME_NOREPLACE
  rename_exchange,  ///< RENAME_EXCHANGE
  link,
  unlink,
  remove_directory,
  symlink,
  read_link,
  list,
  status,
  truncate,
  change_mode,
  read_file,  ///< opened, read and closed
  open,       ///< and stays so, in one of a few slots
  open_write,
  open_read,
  open_truncate,
  open_status,
  close,
  temporary,  ///< O_TMPFILE
};

struct NameRow {
  std::string_view name;
  NameKind kind;
  unsigned weight;
  int not_offered = 0;  ///< what the mount answers to what tarnfs does not offer; the plain directory is not asked
};

constexpr std::array name_kinds{
    NameRow{"create", NameKind::create, 8},
    NameRow{"create_new", NameKind::create_new, 4},
    NameRow{"create_empty", NameKind::create_empty, 3},
    NameRow{"make_directory", NameKind::make_directory, 8},
    NameRow{"rename", NameKind::rename, 14},
    NameRow{"rename_new", NameKind::rename_new, 3},
    NameRow{"rename_exchange", NameKind::rename_exchange, 4},
    NameRow{"link", NameKind::link, 6},
    NameRow{"unlink", NameKind::unlink, 7},
    NameRow{"remove_directory", NameKind::remove_directory, 4},
    NameRow{"symlink", NameKind::symlink, 4},
    NameRow{"read_link", NameKind::read_link, 2},
    NameRow{"list", NameKind::list, 4},
    NameRow{"status", NameKind::status, 8},
    NameRow{"truncate", NameKind::truncate, 4},
    NameRow{"change_mode", NameKind::change_mode, 2},
    NameRow{"read_file", NameKind::read_file, 6},
    NameRow{"open", NameKind::open, 10},
    NameRow{"open_write", NameKind::open_write, 10},
    NameRow{"open_read", NameKind::open_read, 6},
    NameRow{"open_truncate", NameKind::open_truncate, 3},
    NameRow{"open_status", NameKind::open_status, 6},
    NameRow{"close", NameKind::close, 5},
    NameRow{"temporary", NameKind::temporary, 1, EOPNOTSUPP},
};

constexpr const NameRow& row_of(NameKind kind) { return name_kinds[static_cast<std::size_t>(kind)]; }

constexpr bool name_rows_stand_where_their_kinds_say() {
  for (std::size_t i = 0; i < name_kinds.size(); ++i) {
    if (name_kinds[i].kind != static_cast<NameKind>(i)) return false;
  }
  return true;
}
static_assert(name_rows_stand_where_their_kinds_say());

struct NameOperation {
  NameKind kind = NameKind::status;
  std::string a, b;  ///< paths below the directory
  std::size_t slot = 0;
  std::uint64_t offset = 0, size_bytes = 0;  ///< or the size, or the mode
  std::uint64_t number = 0;

  [[nodiscard]] std::string text() const {
    std::ostringstream line;
    line << row_of(kind).name << ' ' << a << ' ' << b << ' ' << slot << ' ' << offset << ' ' << size_bytes << ' '
         << number;
    return line.str();
  }
  static NameOperation parse(const std::string& line) {
    std::istringstream words{line};
    std::string name;
    NameOperation op;
    words >> name >> op.a >> op.b >> op.slot >> op.offset >> op.size_bytes >> op.number;
    if (!words) throw std::invalid_argument{"no operation: " + line};
    for (const auto& row : name_kinds) {
      if (row.name != name) continue;
      op.kind = row.kind;
      return op;
    }
    throw std::invalid_argument{"no such operation: " + name};
  }
};

class Side {
 public:
  static constexpr std::size_t slots = 8;

  explicit Side(const std::string& directory) : root_{::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)} {
    if (root_ < 0) throw Wrong{directory + ": " + errno_name(errno)};
    open_.fill(-1);
  }
  Side(const Side&) = delete;
  Side& operator=(const Side&) = delete;
  ~Side() {
    for (const int fd : open_) {
      if (fd >= 0) ::close(fd);
    }
    ::close(root_);
  }

  /// What it answers: the name of the errno, and what was seen.
  std::string apply(const NameOperation& op) {
    answer_.clear();
    errno = 0;
    const int error = act(op) ? 0 : errno;
    return errno_name(error) + (error == 0 ? answer_ : "");
  }

 private:
  bool act(const NameOperation& op) {
    const auto *const a = op.a.c_str(), *const b = op.b.c_str();
    switch (op.kind) {
      case NameKind::create:
        return opened_and_closed(a, O_RDWR | O_CREAT, op);
      case NameKind::create_new:
        return opened_and_closed(a, O_RDWR | O_CREAT | O_EXCL, op);
      case NameKind::create_empty:
        return opened_and_closed(a, O_RDWR | O_CREAT | O_TRUNC, op);
      case NameKind::make_directory:
        return ::mkdirat(root_, a, 0755) == 0;
      case NameKind::rename:
        return ::renameat(root_, a, root_, b) == 0;
      case NameKind::rename_new:
        return ::renameat2(root_, a, root_, b, RENAME_NOREPLACE) == 0;
      case NameKind::rename_exchange:
        return ::renameat2(root_, a, root_, b, RENAME_EXCHANGE) == 0;
      case NameKind::link:
        return ::linkat(root_, a, root_, b, 0) == 0;
      case NameKind::unlink:
        return ::unlinkat(root_, a, 0) == 0;
      case NameKind::remove_directory:
        return ::unlinkat(root_, a, AT_REMOVEDIR) == 0;
      case NameKind::symlink:
        return ::symlinkat(a, root_, b) == 0;
      case NameKind::read_link: {
        std::array<char, PATH_MAX> target{};
        const auto n = ::readlinkat(root_, a, target.data(), target.size());
        if (n >= 0) answer_ += ' ' + std::string{target.data(), static_cast<std::size_t>(n)};
        return n >= 0;
      }
      case NameKind::list:
        return list(a);
      case NameKind::status: {
        struct stat found {};
        return ::fstatat(root_, a, &found, AT_SYMLINK_NOFOLLOW) == 0 && say(found);
      }
      case NameKind::truncate: {
        const int fd = ::openat(root_, ".", O_PATH | O_DIRECTORY | O_CLOEXEC);
        const auto path = "/proc/self/fd/" + std::to_string(fd) + '/' + op.a;
        const bool done = ::truncate(path.c_str(), static_cast<off_t>(op.size_bytes)) == 0;
        return closed(fd, done);
      }
      case NameKind::change_mode:
        return ::fchmodat(root_, a, static_cast<mode_t>(op.size_bytes & 0777), 0) == 0;
      case NameKind::read_file: {
        const int fd = ::openat(root_, a, O_RDONLY | O_CLOEXEC);
        return fd >= 0 && closed(fd, read(fd, 0, max_read_bytes));
      }
      case NameKind::open: {
        auto& slot = open_[op.slot];
        if (slot >= 0) ::close(slot);
        slot = ::openat(root_, a, (op.number % 2 == 0 ? O_RDWR : O_RDWR | O_CREAT) | O_CLOEXEC, 0644);
        return slot >= 0;
      }
      case NameKind::open_write:
        return write(open_[op.slot], op);
      case NameKind::open_read:
        return read(open_[op.slot], op.offset, op.size_bytes);
      case NameKind::open_truncate:
        return ::ftruncate(open_[op.slot], static_cast<off_t>(op.size_bytes)) == 0;
      case NameKind::open_status: {
        struct stat found {};
        return ::fstat(open_[op.slot], &found) == 0 && say(found);
      }
      case NameKind::close: {
        const int fd = std::exchange(open_[op.slot], -1);
        return ::close(fd) == 0;
      }
      case NameKind::temporary: {
        const int fd = ::openat(root_, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0644);
        return fd >= 0 && closed(fd, true);
      }
    }
    return false;
  }

  /// Closes it, and answers as before it: errno, too.
  static bool closed(int fd, bool done) {
    const int kept = errno;
    ::close(fd);
    errno = kept;
    return done;
  }
  bool opened_and_closed(const char* path, int flags, const NameOperation& op) {
    const int fd = ::openat(root_, path, flags | O_CLOEXEC, 0644);
    return fd >= 0 && closed(fd, write(fd, op));
  }
  static bool write(int fd, const NameOperation& op) {
    std::string bytes(op.size_bytes, '\0');
    for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>('0' + (op.number * 7 + i) % 75);
    return ::pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(op.offset)) ==
           static_cast<ssize_t>(bytes.size());
  }
  /// Says how many bytes there were and a sum of them.
  bool read(int fd, std::uint64_t offset, std::uint64_t size) {
    std::vector<unsigned char> bytes(size);
    const auto n = ::pread(fd, bytes.data(), size, static_cast<off_t>(offset));
    if (n < 0) return false;
    std::uint64_t sum = 14695981039346656037u;  // FNV-1a
    for (ssize_t i = 0; i < n; ++i) sum = (sum ^ bytes[static_cast<std::size_t>(i)]) * 1099511628211u;
    answer_ += ' ' + std::to_string(n) + " bytes, sum " + std::to_string(sum);
    return true;
  }
  bool say(const struct stat& found) {
    std::ostringstream text;
    text << " mode " << std::oct << found.st_mode << std::dec << " links " << found.st_nlink;
    if (!S_ISDIR(found.st_mode)) text << " size " << found.st_size;  // that of a directory is its filesystem's to say
    answer_ += text.str();
    return true;
  }
  bool list(const char* path) {
    const int fd = ::openat(root_, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return false;
    DIR* const stream = ::fdopendir(fd);
    if (stream == nullptr) return closed(fd, false);
    std::vector<std::string> names;
    for (const dirent* entry = nullptr; (entry = ::readdir(stream)) != nullptr;) {
      names.push_back(std::string{entry->d_name} + ':' + std::to_string(entry->d_type));
    }
    ::closedir(stream);
    std::sort(names.begin(), names.end());
    for (const auto& name : names) answer_ += ' ' + name;
    return true;
  }

  static constexpr std::uint64_t max_read_bytes = 1 << 20;

  const int root_;
  std::array<int, slots> open_;
  std::string answer_;
};

}  // namespace tarn_test
