// SPDX-License-Identifier: MIT
#pragma once

// What the models choose by: everything random comes from one word, so that a seed is all that a replay needs.
//
// Thread safety: none.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include <tarn/byte_range.hpp>
#include <tarn/testing/random.hpp>

namespace tarn_test {

using ModelBytes = std::vector<std::byte>;

/// All that a run draws, step by step; the first of it before the first step.
using ModelChoices = std::vector<std::vector<std::uint64_t>>;

/// What keeps a run's draws, or has them from another one.
class ModelTape {
 public:
  virtual ~ModelTape() = default;
  virtual void begin_step() = 0;
  /// Returns: what is drawn; `fresh` is what would be.
  virtual std::uint64_t draw(std::uint64_t fresh) = 0;
};

class ModelRandom {
 public:
  explicit ModelRandom(std::uint64_t seed, std::shared_ptr<ModelTape> tape = {})
      : random_{seed}, tape_{std::move(tape)} {}
  void begin_step() {
    if (tape_ != nullptr) tape_->begin_step();
  }
  std::uint64_t next() {
    const auto z = random_.next();
    return tape_ == nullptr ? z : tape_->draw(z);
  }
  /// In [0, end). Requires: end != 0.
  std::uint64_t below(std::uint64_t end) { return next() % end; }
  bool one_in(std::uint64_t n) { return below(n) == 0; }
  /// One of `all`, each as often as its `weight` says. Requires: some weight is not 0.
  template <class T>
  [[nodiscard]] const T& weighted(std::initializer_list<T> all) {
    std::uint64_t sum = 0;
    for (const auto& one : all) sum += one.weight;
    auto at = below(sum);
    const auto* one = all.begin();
    for (; at >= one->weight; ++one) at -= one->weight;
    return *one;
  }

  /// Bytes of which none is zero.
  ModelBytes bytes(std::uint64_t size_bytes) {
    ModelBytes made(static_cast<std::size_t>(size_bytes));
    std::uint64_t word = 0;
    for (std::size_t i = 0; i < made.size(); ++i, word >>= 8) {
      if (i % 8 == 0) word = next() | 0x0101010101010101u;
      made[i] = static_cast<std::byte>(word & 0xFF);
    }
    return made;
  }
  /// A range inside [0, end): near `bias` (what a request in flight is about), near a border of chunks, or anywhere.
  tarn::ByteRange range(std::uint64_t end, std::uint64_t chunk_bytes, const std::optional<tarn::ByteRange>& bias) {
    std::uint64_t offset = 0;
    if (bias && !one_in(4)) {
      offset = bias->offset() + below(bias->size_bytes());
      offset -= std::min(offset, below(3));
    } else if (one_in(2)) {
      offset = below(end / chunk_bytes + 1) * chunk_bytes + below(3);
      offset -= std::min<std::uint64_t>(offset, below(3));
    } else {
      offset = below(end + 1);
    }
    offset = std::min(offset, end);
    std::uint64_t size = 0;
    switch (below(6)) {
      case 0:
      case 1:
        size = below(5);
        break;
      case 2:
        size = chunk_bytes;
        break;
      case 3:
        size = chunk_bytes - std::min<std::uint64_t>(chunk_bytes, 1 + below(3)) + below(5);
        break;
      case 4:
        size = below(3 * chunk_bytes + 1);
        break;
      default:
        size = below(chunk_bytes > 4096 ? chunk_bytes : end + 1);
    }
    return tarn::ByteRange::between(offset, offset + std::min(size, end - offset));
  }

 private:
  tarn::testing::Random random_;
  std::shared_ptr<ModelTape> tape_;
};

}  // namespace tarn_test
