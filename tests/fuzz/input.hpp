// SPDX-License-Identifier: MIT
#pragma once

// What a fuzz target is given: bytes, taken from the front as whatever the target needs. Past the end everything is 0,
// so a target gives 0 the meaning that ends soonest. What must hold is said by `must`.
//
// Thread safety: one thread's own.

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <span>
#include <string_view>
#include <utility>

#include <tarn/byte_range.hpp>

namespace tarn_test {

/// Ends the program if it does not hold; a driver then keeps the input.
inline void must(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "does not hold: %s\n", what);
  std::abort();
}

class FuzzInput {
 public:
  FuzzInput(const std::uint8_t* bytes, std::size_t size_bytes) : left_{bytes, size_bytes} {}

  [[nodiscard]] bool empty() const { return left_.empty(); }
  [[nodiscard]] std::uint8_t byte() {
    if (left_.empty()) return 0;
    const auto first = left_.front();
    left_ = left_.subspan(1);
    return first;
  }
  [[nodiscard]] bool flag() { return (byte() & 1) != 0; }
  /// In [0, end), from as many bytes as `end` needs. Requires: end != 0.
  [[nodiscard]] std::uint64_t below(std::uint64_t end) {
    return raw((static_cast<unsigned>(std::bit_width(end - 1)) + 7) / 8) % end;
  }
  /// Any number, often one where arithmetic goes wrong: small, about a power of two, about the largest offset.
  [[nodiscard]] std::uint64_t number() {
    const auto shape = byte();
    const auto bits = shape & 63u;
    switch (shape >> 6) {
      case 0:
        return bits;
      case 1:
        return (std::uint64_t{1} << bits) + byte() - 128;
      case 2:
        return tarn::max_offset + 32 - bits;
      default:
        return raw(8) >> bits;
    }
  }
  /// An offset that a file can have.
  [[nodiscard]] std::uint64_t offset() { return std::min(number(), tarn::max_offset); }
  /// A range that a file can have; its two ends are drawn, or an end and the size.
  [[nodiscard]] tarn::ByteRange range() {
    const auto one = offset();
    if (flag()) return tarn::ByteRange::between(one, one + std::min(number(), tarn::max_offset - one));
    const auto other = offset();
    return tarn::ByteRange::between(std::min(one, other), std::max(one, other));
  }
  /// All that is left.
  [[nodiscard]] std::string_view rest() {
    const auto all = std::exchange(left_, {});
    return {reinterpret_cast<const char*>(all.data()), all.size()};
  }

 private:
  [[nodiscard]] std::uint64_t raw(unsigned count) {
    std::uint64_t number = 0;
    for (; count != 0; --count) number = number << 8 | byte();
    return number;
  }

  std::span<const std::uint8_t> left_;
};

}  // namespace tarn_test
