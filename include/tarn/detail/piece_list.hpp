// SPDX-License-Identifier: MIT
#pragma once

// The bytes that a read has found, in file order, as pieces of memory; zeros are pieces of the shared area of them.
//
// Thread safety: one call's own.

#include <sys/uio.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include <tarn/buffers.hpp>
#include <tarn/detail/small_vector.hpp>

namespace tarn::detail {

/// A window of up to so many chunks, and of up to so many pieces, allocates nothing.
inline constexpr std::size_t usual_window_pieces = 64;

class PieceList {
 public:
  /// Chunks that lie side by side make one piece. Errors: throws bad_alloc.
  void add_bytes(std::byte* bytes, std::uint64_t size_bytes) {
    const auto size = static_cast<std::size_t>(size_bytes);
    if (!pieces_.empty()) {
      auto& last = pieces_.back();
      if (static_cast<std::byte*>(last.iov_base) + last.iov_len == bytes) {
        last.iov_len += size;
        return;
      }
    }
    pieces_.push_back({bytes, size});
  }
  /// Errors: throws bad_alloc.
  void add_zeros(std::uint64_t size_bytes) {
    if (size_bytes != 0 && !pieces_.empty() && in_zero_area(pieces_.back().iov_base)) {
      auto& last = pieces_.back();
      const auto more = std::min<std::uint64_t>(size_bytes, zero_area_bytes - last.iov_len);
      last.iov_len += static_cast<std::size_t>(more);
      size_bytes -= more;
    }
    while (size_bytes != 0) {
      const auto n = static_cast<std::size_t>(std::min<std::uint64_t>(size_bytes, zero_area_bytes));
      pieces_.push_back({const_cast<std::byte*>(zero_area()), n});  // iovec has no const; ConstBuffers gives it back
      size_bytes -= n;
    }
  }

  [[nodiscard]] ConstBuffers buffers() { return ConstBuffers{pieces_.span()}; }
  [[nodiscard]] std::size_t size() const { return pieces_.size(); }

 private:
  SmallVector<::iovec, usual_window_pieces> pieces_;
};

}  // namespace tarn::detail
