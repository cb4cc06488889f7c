// SPDX-License-Identifier: MIT
#pragma once

// A file descriptor that closes itself.

#include <unistd.h>

#include <cerrno>
#include <utility>

namespace tarnfs {

class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) : fd_{fd} {}
  Fd(Fd&& other) noexcept : fd_{std::exchange(other.fd_, -1)} {}
  Fd& operator=(Fd&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Fd() {
    if (fd_ < 0) return;
    const int kept = errno;  // a close in a return path must not change the error that is being told
    ::close(fd_);
    errno = kept;
  }

  explicit operator bool() const { return fd_ >= 0; }
  [[nodiscard]] int get() const { return fd_; }

 private:
  int fd_ = -1;
};

}  // namespace tarnfs
