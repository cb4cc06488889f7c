// SPDX-License-Identifier: MIT
#pragma once

// Random choices that all come from one word, so that a seed is all that a replay needs.
//
// Thread safety: none.

#include <algorithm>
#include <cstdint>

#include <tarn/byte_range.hpp>

namespace tarn::testing {

/// SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
class Random {
 public:
  explicit Random(std::uint64_t seed) : word_{seed} {}

  std::uint64_t next() {
    auto z = (word_ += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
  }
  /// In [0, end). Requires: end != 0.
  std::uint64_t below(std::uint64_t end) { return next() % end; }
  bool one_in(std::uint64_t n) { return below(n) == 0; }

  /// A range inside [0, end), for a call on a file: often at a border of chunks or parts or a byte or two beside it,
  /// mostly short, now and then as long as a part or longer.
  ByteRange range(std::uint64_t end, std::uint64_t chunk_bytes, std::uint64_t part_bytes) {
    auto offset = below(end + 1);
    if (!one_in(3)) {
      const auto unit = one_in(2) ? part_bytes : chunk_bytes;
      offset = offset / unit * unit + below(3);
      offset = std::min(offset - std::min(offset, below(3)), end);
    }
    std::uint64_t size = 0;
    const auto about = [&](std::uint64_t bytes) { return bytes - std::min(bytes, below(3)) + below(3); };
    switch (below(16)) {
      case 0:
        size = below(end - offset + 1);
        break;
      case 1:
        size = about(part_bytes);
        break;
      case 2:
      case 3:
      case 4:
        size = below(3 * chunk_bytes + 1);
        break;
      case 5:
      case 6:
      case 7:
        size = about(chunk_bytes);
        break;
      default:
        size = below(20);
    }
    return ByteRange::between(offset, offset + std::min(size, end - offset));
  }

 private:
  std::uint64_t word_;
};

}  // namespace tarn::testing
