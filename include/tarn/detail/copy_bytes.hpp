// SPDX-License-Identifier: MIT
#pragma once

// The copy of chunk bytes to and from a caller's buffer.
//
// Thread safety: none of its own.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace tarn::detail {

/// As memcpy, and about as quick wherever the two lie.
///
/// A large memcpy is one `rep movsb` on current x86. On AMD's Zen 3 and 4 that drops to a half where `to` lies 16 to
/// 31 bytes past `from` within a page, and to a fifth at 1 to 15 (glibc's bug 30994). It is the common case: chunks
/// begin at a page, and a large buffer from malloc begins 16 bytes into one. Pieces too small for that instruction
/// have no such holes. A memcpy larger than the second-level cache is no such instruction, there, and a sixth slower
/// than in pieces; chunks that lie side by side are copied as one. bench/copy_bytes.bench.cpp shows all of that.
[[gnu::always_inline]] inline void copy_bytes(std::byte* to, const std::byte* from, std::size_t size_bytes) noexcept {
  constexpr std::size_t page_bytes = 4096, slow_below = 32, slow_from_bytes = 1024, whole_below_bytes = 512 * 1024;
  const auto past = (reinterpret_cast<std::uintptr_t>(to) - reinterpret_cast<std::uintptr_t>(from)) % page_bytes;
  const bool has_hole = size_bytes >= slow_from_bytes && past != 0 && past < slow_below;
  if (!has_hole && size_bytes < whole_below_bytes) {
    std::memcpy(to, from, size_bytes);
    return;
  }
  // Unknown to the compiler, which for a size that it knows would write that instruction itself.
  const volatile std::size_t most_bytes = has_hole ? 512 : whole_below_bytes / 2;
  const std::size_t piece_bytes = most_bytes;
  for (std::size_t done = 0; done < size_bytes; done += piece_bytes) {
    std::memcpy(to + done, from + done, std::min(piece_bytes, size_bytes - done));
  }
}

}  // namespace tarn::detail
