// SPDX-License-Identifier: MIT
// A file of the system, mounted or not, for the reader and writer of file_session.hpp.
#pragma once

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "file_session.hpp"

namespace tarn_bench {

class SystemFile : public File {
 public:
  SystemFile(const std::string& path, OpenMode mode) : fd_(::open(path.c_str(), flags(mode) | O_CLOEXEC, 0644)) {
    if (fd_ < 0) fail("open");
  }
  ~SystemFile() override {
    if (fd_ >= 0) ::close(fd_);
  }

  std::size_t read(std::byte* into, std::size_t size, std::uint64_t offset) override {
    const ssize_t got = pread(fd_, into, size, static_cast<off_t>(offset));
    if (got < 0) fail("pread");
    return static_cast<std::size_t>(got);
  }
  void write(const std::byte* from, std::size_t size, std::uint64_t offset) override {
    must_be_whole(pwrite(fd_, from, size, static_cast<off_t>(offset)), size);
  }
  void append(const std::byte* from, std::size_t size) override { must_be_whole(::write(fd_, from, size), size); }
  void truncate(std::uint64_t size) override {
    if (ftruncate(fd_, static_cast<off_t>(size)) != 0) fail("ftruncate");
  }
  std::uint64_t size() override {
    struct stat status {};
    if (fstat(fd_, &status) != 0) fail("fstat");
    return static_cast<std::uint64_t>(status.st_size);
  }
  void drop_pages() override {
    errno = posix_fadvise(fd_, 0, 0, POSIX_FADV_DONTNEED);
    if (errno != 0) fail("posix_fadvise");
  }
  void close() override {
    const int fd = fd_;
    fd_ = -1;
    if (::close(fd) != 0) fail("close");
  }

 private:
  static int flags(OpenMode mode) {
    switch (mode) {
      case OpenMode::read:
        return O_RDONLY;
      case OpenMode::read_write:
        return O_RDWR;
      case OpenMode::create:
        return O_RDWR | O_CREAT | O_TRUNC;
      case OpenMode::append:
        return O_WRONLY | O_APPEND;
    }
    throw std::invalid_argument("mode");
  }

  static void must_be_whole(ssize_t put, std::size_t size) {
    if (put < 0) fail("write");
    if (static_cast<std::size_t>(put) != size) throw std::runtime_error("a write was short");
  }

  int fd_;
};

}  // namespace tarn_bench
