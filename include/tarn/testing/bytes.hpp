// SPDX-License-Identifier: MIT
#pragma once

// Bytes that tell where they belong, and text for bytes: so that a test says what it expects in a line, and a failure
// is read without a debugger.
//
// Thread safety: any thread.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace tarn::testing {

/// The byte of a pattern at an offset: never zero, and different a chunk, a page or a part away.
[[nodiscard]] inline char pattern_at(std::uint64_t offset, std::uint64_t seed = 0) {
  const auto mixed = (offset + 1 + seed * 0x51ED27) * 0x9E3779B97F4A7C15u;
  return static_cast<char>('!' + (mixed >> 32) % 90);
}
/// That of a range.
[[nodiscard]] inline std::string pattern(std::uint64_t offset, std::size_t size_bytes, std::uint64_t seed = 0) {
  std::string text(size_bytes, '\0');
  for (std::size_t i = 0; i < size_bytes; ++i) text[i] = pattern_at(offset + i, seed);
  return text;
}
[[nodiscard]] inline std::string zeros(std::size_t size_bytes) { return std::string(size_bytes, '\0'); }

/// The text as what a write takes, as what a read fills, and text of what was read. The spans live as long as the text.
[[nodiscard]] inline std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span{text.data(), text.size()});
}
[[nodiscard]] inline std::span<std::byte> writable(std::string& text) {
  return std::as_writable_bytes(std::span{text.data(), text.size()});
}
[[nodiscard]] inline std::string text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace tarn::testing
