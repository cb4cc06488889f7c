// SPDX-License-Identifier: MIT
#pragma once

// A file and a flat array of what is to be in it: each operation is done to both, and what is read is compared.
//
// What is written says whose it is: each cell of eight bytes has the number of the operation and the cell's own, so a
// byte that is wrong tells where it came from.
//
// Thread safety: none.

#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <span>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "arguments.hpp"
#include "operation.hpp"

namespace tarn_test {

class CheckedFile {
 public:
  /// `behind` is the same file in the directory that the filesystem stores to; empty if there is none to look at.
  CheckedFile(std::string path, std::string behind) : path_{std::move(path)}, behind_{std::move(behind)} {
    open_all(O_CREAT | O_TRUNC);
  }
  CheckedFile(const CheckedFile&) = delete;
  CheckedFile& operator=(const CheckedFile&) = delete;
  ~CheckedFile() { close_all(); }

  [[nodiscard]] std::uint64_t size_bytes() const { return held_.size(); }

  /// Returns: false if the filesystem does not offer it.
  /// Errors: throws Wrong.
  bool apply(const Operation& op, const CheckedFile& other);

  /// All of it, through the filesystem.
  void compare() { compare_whole(fd_, "in the mount"); }
  /// All of it, where it is stored.
  void compare_stored() {
    if (behind_.empty()) return;
    const int fd = ::open(behind_.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) throw_errno("open of " + behind_);
    try {
      compare_whole(fd, "in SOURCE");
    } catch (...) {
      ::close(fd);
      throw;
    }
    ::close(fd);
  }
  void close_all() {
    for (int* const fd : {&fd_, &append_fd_, &direct_fd_}) {
      if (*fd >= 0) ::close(*fd);
      *fd = -1;
    }
  }
  /// For what is to be looked at after it was closed.
  void open_again() { open_all(0); }
  void sync() {
    if (::fsync(fd_) != 0) throw_errno("fsync");
  }

 private:
  static constexpr std::uint64_t cell_bytes = 8;
  static constexpr std::uint64_t mask = 0xA5A5A5A5'5A5A5A5A;  // so that few bytes are zero

  static std::uint64_t cell(std::uint64_t number, std::uint64_t index) { return (number << 32 | index) ^ mask; }
  [[nodiscard]] std::string meaning(std::uint64_t value) const {
    if (value == 0) return "zeros";
    value ^= mask;
    if (value >> 32 > newest_) return "of more than one operation";
    return "operation " + std::to_string(value >> 32) + ", offset " + std::to_string((value & 0xFFFFFFFF) * cell_bytes);
  }

  [[noreturn]] void throw_errno(const std::string& what) const {
    throw Wrong{path_ + ": " + what + ": " + errno_name(errno)};
  }
  /// False if `result` says that the filesystem does not offer it. Errors: throws Wrong for any other.
  bool offered(int result, const char* what) const {
    if (result == 0) return true;
    if (errno == EOPNOTSUPP || errno == ENODEV) return false;
    throw_errno(what);
  }

  void close_copy() const {
    const int copy = ::fcntl(fd_, F_DUPFD_CLOEXEC, 0);
    if (copy < 0 || ::close(copy) != 0) throw_errno("close");
  }

  void open_all(int flags) {
    fd_ = ::open(path_.c_str(), O_RDWR | O_CLOEXEC | flags, 0644);
    append_fd_ = ::open(path_.c_str(), O_WRONLY | O_APPEND | O_CLOEXEC);
    direct_fd_ = ::open(path_.c_str(), O_RDWR | O_DIRECT | O_CLOEXEC);
    if (fd_ < 0 || append_fd_ < 0 || direct_fd_ < 0) throw_errno("open");
  }

  /// Expects `seen` at `offset`, and that the file ends where it does.
  void expect(std::span<const std::byte> seen, std::uint64_t offset, std::uint64_t asked, const char* what) const;
  void compare_whole(int fd, const char* where) {
    struct stat found {};
    if (::fstat(fd, &found) != 0) throw_errno("fstat");
    if (static_cast<std::uint64_t>(found.st_size) != held_.size()) {
      throw Wrong{path_ + " " + where + ": its size is said to be " + std::to_string(found.st_size) + ", not " +
                  std::to_string(held_.size())};
    }
    read(fd, 0, held_.size() + 1, where);
  }
  void read(int fd, std::uint64_t offset, std::uint64_t size, const char* what) {
    into_.resize(size + 1);
    // At an address that is no border of anything, and now and then is.
    auto* const into = into_.data() + offset % 2;
    const auto n = ::pread(fd, into, size, static_cast<off_t>(offset));
    if (n < 0) throw_errno(what);
    // One call: a read is shorter than asked only at end of file.
    expect({into, static_cast<std::size_t>(n)}, offset, size, what);
  }

  /// Makes the bytes of an operation, and has them in the model.
  std::span<const std::byte> hold(std::uint64_t number, std::uint64_t offset, std::uint64_t size) {
    if (size == 0) return {};
    if (offset + size > held_.size()) held_.resize(offset + size);
    for (auto at = offset; at < offset + size;) {
      const auto value = cell(number, at / cell_bytes);
      const auto skip = at % cell_bytes;
      const auto n = std::min(cell_bytes - skip, offset + size - at);
      std::memcpy(held_.data() + at, reinterpret_cast<const std::byte*>(&value) + skip, n);
      at += n;
    }
    return {held_.data() + offset, size};
  }
  void zero(std::uint64_t offset, std::uint64_t size) {
    const auto end = std::min<std::uint64_t>(offset + size, held_.size());
    if (offset < end) std::memset(held_.data() + offset, 0, end - offset);
  }

  void write(int fd, std::span<const std::byte> bytes, std::uint64_t offset, bool appends = false) {
    for (std::size_t done = 0; done < bytes.size();) {
      const auto n = appends
                         ? ::write(fd, bytes.data() + done, bytes.size() - done)
                         : ::pwrite(fd, bytes.data() + done, bytes.size() - done, static_cast<off_t>(offset + done));
      if (n <= 0) throw_errno("write");
      done += static_cast<std::size_t>(n);
    }
  }
  bool map(const Operation& op);
  bool allocate(const Operation& op, int mode, bool zeroes, bool grows) {
    if (op.size_bytes == 0) return true;
    const int result = ::fallocate(fd_, mode, static_cast<off_t>(op.offset), static_cast<off_t>(op.size_bytes));
    if (!offered(result, "fallocate")) return false;
    if (zeroes) zero(op.offset, op.size_bytes);
    if (grows && held_.size() < op.offset + op.size_bytes) held_.resize(op.offset + op.size_bytes);
    return true;
  }
  void copy(const Operation& op, const CheckedFile& other);
  void seek(const Operation& op) const;

  const std::string path_, behind_;
  int fd_ = -1, append_fd_ = -1, direct_fd_ = -1;
  std::uint64_t newest_ = 0;  // the number of the last operation
  std::vector<std::byte> held_;
  std::vector<std::byte> into_;
};

inline void CheckedFile::expect(std::span<const std::byte> seen, std::uint64_t offset, std::uint64_t asked,
                                const char* what) const {
  const auto end = std::min<std::uint64_t>(std::max<std::uint64_t>(held_.size(), offset), offset + asked);
  const auto wanted = std::span{held_}.subspan(std::min<std::uint64_t>(offset, held_.size()), end - offset);
  if (seen.size() == wanted.size() && std::equal(seen.begin(), seen.end(), wanted.begin())) return;
  std::ostringstream text;
  text << path_ << ", " << what << " of [" << offset << ", " << offset + asked << "), the file being " << held_.size()
       << " bytes: " << seen.size() << " bytes were seen, of " << wanted.size();
  const auto n = std::min(seen.size(), wanted.size());
  const auto first = static_cast<std::size_t>(
      std::mismatch(seen.begin(), seen.begin() + static_cast<std::ptrdiff_t>(n), wanted.begin()).first - seen.begin());
  if (first < n) {
    std::size_t wrong = 0, last = first;
    for (auto i = first; i < n; ++i) {
      if (seen[i] != wanted[i]) ++wrong, last = i;
    }
    const auto at = offset + first;
    text << "; " << wrong << " are wrong, the first at " << at << ", the last at " << offset + last;
    // The cell that the first lies in, if all of it was read.
    const auto row = [&](const char* name, std::span<const std::byte> bytes) {
      text << "\n  " << name << ":";
      for (auto i = first; i < std::min(first + 16, n); ++i) {
        constexpr auto digits = "0123456789abcdef";
        const auto byte = std::to_integer<unsigned>(bytes[i]);
        text << ' ' << digits[byte >> 4] << digits[byte & 15];
      }
      const auto start = at / cell_bytes * cell_bytes;
      if (start < offset || start + cell_bytes > offset + n) return;
      std::uint64_t value = 0;
      std::memcpy(&value, bytes.data() + (start - offset), cell_bytes);
      text << "  (" << meaning(value) << ")";
    };
    row("expected", wanted);
    row("seen    ", seen);
  }
  throw Wrong{text.str()};
}

inline bool CheckedFile::map(const Operation& op) {
  static const auto page_bytes = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  const auto offset = std::min<std::uint64_t>(op.offset, held_.size());
  const auto size = std::min<std::uint64_t>(op.size_bytes, held_.size() - offset);
  if (size == 0) return true;
  const bool writes = op.kind == Kind::mapped_write;
  const auto start = offset / page_bytes * page_bytes;
  const auto end = (offset + size + page_bytes - 1) / page_bytes * page_bytes;
  void* const mapped = ::mmap(nullptr, end - start, writes ? PROT_READ | PROT_WRITE : PROT_READ,
                              op.kind == Kind::private_read ? MAP_PRIVATE : MAP_SHARED, fd_, static_cast<off_t>(start));
  if (mapped == MAP_FAILED) return offered(-1, "mmap");
  auto* const bytes = static_cast<std::byte*>(mapped);
  try {
    if (writes) {
      const auto made = hold(op.number, offset, size);
      std::memcpy(bytes + (offset - start), made.data(), size);
      // Or whoever writes the pages back does, when the file is synced, closed, or read another way.
      if (op.number % 2 == 0 && ::msync(mapped, end - start, MS_SYNC) != 0) throw_errno("msync");
    } else {
      expect({bytes + (offset - start), size}, offset, size, "mapped read");
      // What the last page has past the end is zero.
      for (auto at = held_.size(); at >= offset && at < end; ++at) {
        if (bytes[at - start] != std::byte{0}) {
          throw Wrong{path_ + ": a page has a byte past the end, at " + std::to_string(at)};
        }
      }
    }
  } catch (...) {
    ::munmap(mapped, end - start);
    throw;
  }
  if (::munmap(mapped, end - start) != 0) throw_errno("munmap");
  return true;
}

inline void CheckedFile::copy(const Operation& op, const CheckedFile& other) {
  const auto from = std::min<std::uint64_t>(op.from, other.held_.size());
  const auto size = std::min<std::uint64_t>(op.size_bytes, other.held_.size() - from);
  auto in = static_cast<off_t>(from), out = static_cast<off_t>(op.offset);
  for (std::uint64_t done = 0; done < size;) {
    const auto n = ::copy_file_range(other.fd_, &in, fd_, &out, size - done, 0);
    if (n <= 0) throw_errno("copy_file_range after " + std::to_string(done) + " bytes");
    done += static_cast<std::uint64_t>(n);
  }
  if (size == 0) return;
  if (op.offset + size > held_.size()) held_.resize(op.offset + size);
  std::copy_n(other.held_.begin() + static_cast<std::ptrdiff_t>(from), size,
              held_.begin() + static_cast<std::ptrdiff_t>(op.offset));
}

inline void CheckedFile::seek(const Operation& op) const {
  // From data to hole and on; what is called a hole has only zeros.
  auto at = std::min<std::uint64_t>(op.offset, held_.size());
  while (at < held_.size()) {
    const auto data = ::lseek(fd_, static_cast<off_t>(at), SEEK_DATA);
    if (data < 0 && errno != ENXIO) throw_errno("SEEK_DATA");
    const auto begin = data < 0 ? held_.size() : static_cast<std::uint64_t>(data);
    if (begin < at || begin > held_.size()) {
      throw Wrong{path_ + ": SEEK_DATA from " + std::to_string(at) + " goes to " + std::to_string(begin)};
    }
    for (auto i = at; i < begin; ++i) {
      if (held_[i] != std::byte{0}) {
        throw Wrong{path_ + ": a hole from " + std::to_string(at) + " to " + std::to_string(begin) +
                    ", with a byte at " + std::to_string(i)};
      }
    }
    if (begin == held_.size()) return;
    const auto hole = ::lseek(fd_, static_cast<off_t>(begin), SEEK_HOLE);
    if (hole < 0) throw_errno("SEEK_HOLE");
    if (static_cast<std::uint64_t>(hole) <= begin || static_cast<std::uint64_t>(hole) > held_.size()) {
      throw Wrong{path_ + ": SEEK_HOLE from " + std::to_string(begin) + " goes to " + std::to_string(hole)};
    }
    at = static_cast<std::uint64_t>(hole);
  }
}

inline bool CheckedFile::apply(const Operation& op, const CheckedFile& other) {
  newest_ = op.number;
  switch (op.kind) {
    case Kind::read:
      read(fd_, op.offset, op.size_bytes, "read");
      return true;
    case Kind::direct_read:
      read(direct_fd_, op.offset, op.size_bytes, "direct read");
      return true;
    case Kind::whole:
      compare();
      return true;
    case Kind::mapped_read:
    case Kind::private_read:
    case Kind::mapped_write:
      return map(op);
    case Kind::write:
      write(fd_, hold(op.number, op.offset, op.size_bytes), op.offset);
      return true;
    case Kind::direct_write:
      write(direct_fd_, hold(op.number, op.offset, op.size_bytes), op.offset);
      return true;
    case Kind::append:
      write(append_fd_, hold(op.number, held_.size(), op.size_bytes), 0, true);
      return true;
    case Kind::shrink:
    case Kind::grow:
      if (::ftruncate(fd_, static_cast<off_t>(op.offset)) != 0) throw_errno("ftruncate");
      held_.resize(op.offset);
      return true;
    case Kind::closed_truncate:
      close_all();
      if (::truncate(path_.c_str(), static_cast<off_t>(op.offset)) != 0) throw_errno("truncate");
      held_.resize(op.offset);
      compare_stored();
      open_again();
      return true;
    case Kind::punch_hole:
      return allocate(op, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, true, false);
    case Kind::zero_range:
      return allocate(op, FALLOC_FL_ZERO_RANGE, true, true);
    case Kind::zero_range_keep:
      return allocate(op, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, true, false);
    case Kind::allocate:
      return allocate(op, 0, false, true);
    case Kind::allocate_keep:
      return allocate(op, FALLOC_FL_KEEP_SIZE, false, false);
    case Kind::copy:
      copy(op, other);
      return true;
    case Kind::seek:
      seek(op);
      return true;
    case Kind::sync:
      if (::fdatasync(fd_) != 0) throw_errno("fdatasync");
      return true;
    case Kind::stored:
      // One of the two that promise it. The close is that of another descriptor of what is open and stays so, or the end
      // of what was open would store it, too.
      op.number % 2 == 0 ? sync() : close_copy();
      compare_stored();
      return true;
    case Kind::reopen:
      close_all();
      compare_stored();
      open_again();
      return true;
    case Kind::forget_pages:
      if (const int error = ::posix_fadvise(fd_, 0, 0, POSIX_FADV_DONTNEED)) {
        errno = error;
        throw_errno("posix_fadvise");
      }
      return true;
    case Kind::forget_everything: {
      const int fd = ::open("/proc/sys/vm/drop_caches", O_WRONLY | O_CLOEXEC);
      if (fd < 0) throw_errno("drop_caches");
      const auto n = ::write(fd, "3", 1);
      ::close(fd);
      if (n != 1) throw_errno("drop_caches");
      return true;
    }
  }
  return false;
}

}  // namespace tarn_test
