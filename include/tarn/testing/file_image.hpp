// SPDX-License-Identifier: MIT
#pragma once

// The bytes of one file in a store in memory: a size and pages. Where there is no page a byte is zero, or, below the
// size that it was made with, the pattern: so a stored file of any size costs nothing, and every byte of it tells where
// it belongs.
//
// Thread safety: none.
// Invariant:     no page that is not zero past the size; the pattern ends at or before it.

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <span>

#include <tarn/testing/bytes.hpp>

namespace tarn::testing {

class FileImage {
 public:
  /// An empty file.
  FileImage() = default;
  /// `size_bytes` bytes of the pattern.
  FileImage(std::uint64_t size_bytes, std::uint64_t seed)
      : size_bytes_{size_bytes}, pattern_bytes_{size_bytes}, seed_{seed} {}

  [[nodiscard]] std::uint64_t size() const { return size_bytes_; }
  /// Cuts off what is past it; what it adds is zero.
  void resize(std::uint64_t to_bytes) {
    if (to_bytes < size_bytes_) {
      if (to_bytes % page_bytes != 0) zero(to_bytes, (to_bytes / page_bytes + 1) * page_bytes);
      pages_.erase(pages_.lower_bound((to_bytes + page_bytes - 1) / page_bytes), pages_.end());
      pattern_bytes_ = std::min(pattern_bytes_, to_bytes);
    }
    size_bytes_ = to_bytes;
  }
  /// Fills all of `into`: what is past the size is zero.
  void read(std::uint64_t offset, std::span<std::byte> into) const {
    for_each_page(offset, into.size(), [&](std::uint64_t index, std::size_t in_page, std::size_t done, std::size_t n) {
      const auto at = pages_.find(index);
      if (at != pages_.end()) {
        std::memcpy(into.data() + done, at->second.data() + in_page, n);
      } else {
        for (std::size_t i = 0; i < n; ++i) into[done + i] = base_at(index * page_bytes + in_page + i);
      }
    });
  }
  /// Requires: not past the size.
  void write(std::uint64_t offset, std::span<const std::byte> from) {
    for_each_page(offset, from.size(), [&](std::uint64_t index, std::size_t in_page, std::size_t done, std::size_t n) {
      std::memcpy(page(index).data() + in_page, from.data() + done, n);
    });
  }
  /// Makes [offset, end) zero. Cost: by the pages there are and the pattern, not by the range.
  void zero(std::uint64_t offset, std::uint64_t end) {
    if (offset >= end) return;
    for (auto at = first_page(offset); at != pages_.end() && at->first * page_bytes < end; ++at) {
      const auto first = std::max(offset, at->first * page_bytes), last = std::min(end, (at->first + 1) * page_bytes);
      std::memset(at->second.data() + first % page_bytes, 0, static_cast<std::size_t>(last - first));
    }
    const auto pattern_end = std::min(end, pattern_bytes_);
    if (offset >= pattern_end) return;
    for_each_page(offset, pattern_end - offset,
                  [&](std::uint64_t index, std::size_t in_page, std::size_t, std::size_t n) {
                    std::memset(page(index).data() + in_page, 0, n);
                  });
  }
  [[nodiscard]] bool is_zero(std::uint64_t offset, std::uint64_t end) const {
    const auto pattern_end = std::min(end, pattern_bytes_);
    bool shows_pattern = false;
    for_each_page(offset, pattern_end - std::min(offset, pattern_end),
                  [&](std::uint64_t index, std::size_t, std::size_t, std::size_t) {
                    shows_pattern = shows_pattern || pages_.count(index) == 0;
                  });
    if (shows_pattern) return false;
    for (auto at = first_page(offset); at != pages_.end() && at->first * page_bytes < end; ++at) {
      const auto first = std::max(offset, at->first * page_bytes) % page_bytes;
      const auto last = std::min(end - at->first * page_bytes, page_bytes);
      for (auto i = first; i < last; ++i) {
        if (at->second[static_cast<std::size_t>(i)] != std::byte{}) return false;
      }
    }
    return true;
  }

 private:
  static constexpr std::uint64_t page_bytes = 4096;
  using Page = std::array<std::byte, page_bytes>;
  using Pages = std::map<std::uint64_t, Page>;

  // Calls f(page index, offset in page, offset in range, size) for each page of [offset, offset + size_bytes).
  template <class F>
  static void for_each_page(std::uint64_t offset, std::uint64_t size_bytes, F f) {
    for (std::uint64_t done = 0; done < size_bytes;) {
      const auto in_page = (offset + done) % page_bytes;
      const auto n = std::min(page_bytes - in_page, size_bytes - done);
      f((offset + done) / page_bytes, static_cast<std::size_t>(in_page), static_cast<std::size_t>(done),
        static_cast<std::size_t>(n));
      done += n;
    }
  }
  [[nodiscard]] Pages::const_iterator first_page(std::uint64_t offset) const {
    return pages_.lower_bound(offset / page_bytes);
  }
  [[nodiscard]] Pages::iterator first_page(std::uint64_t offset) { return pages_.lower_bound(offset / page_bytes); }
  [[nodiscard]] std::byte base_at(std::uint64_t offset) const {
    return offset < pattern_bytes_ ? static_cast<std::byte>(pattern_at(offset, seed_)) : std::byte{};
  }
  [[nodiscard]] Page& page(std::uint64_t index) {
    const auto [at, made] = pages_.try_emplace(index);
    for (std::size_t i = 0; made && i < page_bytes; ++i) at->second[i] = base_at(index * page_bytes + i);
    return at->second;
  }

  std::uint64_t size_bytes_ = 0, pattern_bytes_ = 0, seed_ = 0;
  Pages pages_;
};

}  // namespace tarn::testing
