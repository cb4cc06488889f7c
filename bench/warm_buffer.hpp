// SPDX-License-Identifier: MIT
#pragma once

// Memory that a measurement copies from or to: what it costs to have it is not what is measured.
//
// Thread safety: as of its bytes.

#include <sys/mman.h>

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <span>
#include <system_error>

namespace tarn_bench {

/// Pages that are faulted in once and kept, in huge pages where the system gives them.
class WarmBuffer {
 public:
  /// Errors: throws system_error.
  explicit WarmBuffer(std::size_t size_bytes) : size_bytes_{size_bytes} {
    void* const memory = ::mmap(nullptr, size_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) throw std::system_error{errno, std::generic_category(), "mmap"};
    ::madvise(memory, size_bytes, MADV_HUGEPAGE);
    data_ = static_cast<std::byte*>(memory);
    std::memset(data_, 0x5A, size_bytes);
  }
  WarmBuffer(const WarmBuffer&) = delete;
  WarmBuffer& operator=(const WarmBuffer&) = delete;
  ~WarmBuffer() { ::munmap(data_, size_bytes_); }

  [[nodiscard]] std::byte* data() const { return data_; }
  [[nodiscard]] std::span<std::byte> first(std::size_t size_bytes) const { return {data_, size_bytes}; }

 private:
  std::byte* data_;
  std::size_t size_bytes_;
};

}  // namespace tarn_bench
