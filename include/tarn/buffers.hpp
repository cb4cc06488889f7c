// SPDX-License-Identifier: MIT
#pragma once

// Views of memory in pieces, in file order, laid out as the system's own iovec.
//
// A read hands out ConstBuffers: spans of chunk memory, and for holes spans of one shared area of zeros, so that a hole
// costs no memory and needs no special case. A load is given MutableBuffers to fill. Both are views: the pieces live
// for the call that was given them.
//
// Thread safety: plain values; the bytes behind ConstBuffers do not change while the view is valid.
// Invariant:     no piece is empty.

#include <sys/uio.h>

#include <algorithm>
#include <cassert>
#include <cstddef>
#include <cstring>
#include <functional>
#include <span>

#include <tarn/detail/copy_bytes.hpp>

namespace tarn {
namespace detail {

inline constexpr std::size_t zero_area_bytes = std::size_t{1} << 20;

// Never written, so the kernel backs it by its one zero page: a mebibyte of address space, no memory. The byte after it
// keeps other memory from beginning where it ends.
alignas(4096) inline constinit std::byte zero_area_storage[zero_area_bytes + 1]{};

inline const std::byte* zero_area() { return zero_area_storage; }

inline bool in_zero_area(const void* at) {
  const auto* byte = static_cast<const std::byte*>(at);
  return !std::less<>{}(byte, zero_area()) && std::less<>{}(byte, zero_area() + zero_area_bytes);
}

template <class Byte>
class Buffers {
 public:
  constexpr Buffers() = default;
  explicit constexpr Buffers(std::span<const ::iovec> pieces) : pieces_{pieces} {}

  /// The pieces as the system takes them (writev, fuse_reply_iov).
  [[nodiscard]] std::span<const ::iovec> iovecs() const { return pieces_; }
  [[nodiscard]] std::size_t count() const { return pieces_.size(); }
  [[nodiscard]] std::span<Byte> operator[](std::size_t i) const {
    assert(i < pieces_.size());
    return {static_cast<Byte*>(pieces_[i].iov_base), pieces_[i].iov_len};
  }
  [[nodiscard]] std::size_t size_bytes() const {
    std::size_t sum = 0;
    for (const auto& piece : pieces_) sum += piece.iov_len;
    return sum;
  }

 protected:
  std::span<const ::iovec> pieces_;
};

}  // namespace detail

class ConstBuffers : public detail::Buffers<const std::byte> {
 public:
  using Buffers::Buffers;

  /// Whether piece `i` is a hole: bytes of the shared zero area.
  [[nodiscard]] bool is_zero(std::size_t i) const { return detail::in_zero_area((*this)[i].data()); }

  /// Copies as much as fits, from the start.
  /// Returns: the bytes copied.
  std::size_t copy_to(std::span<std::byte> into) const {
    std::size_t done = 0;
    for (std::size_t i = 0; i < count() && done < into.size(); ++i) {
      const auto piece = (*this)[i];
      const auto n = std::min(piece.size(), into.size() - done);
      if (is_zero(i)) {
        std::memset(into.data() + done, 0, n);  // reads no zero area: half the memory traffic
      } else {
        detail::copy_bytes(into.data() + done, piece.data(), n);
      }
      done += n;
    }
    return done;
  }
};

class MutableBuffers : public detail::Buffers<std::byte> {
 public:
  using Buffers::Buffers;

  /// Copies as much of `from` as fits, to the start.
  /// Returns: the bytes copied.
  std::size_t copy_from(std::span<const std::byte> from) const {
    std::size_t done = 0;
    for (std::size_t i = 0; i < count() && done < from.size(); ++i) {
      const auto piece = (*this)[i];
      const auto n = std::min(piece.size(), from.size() - done);
      detail::copy_bytes(piece.data(), from.data() + done, n);
      done += n;
    }
    return done;
  }
};

}  // namespace tarn
