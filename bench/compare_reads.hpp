// SPDX-License-Identifier: MIT
#pragma once

// Reads of held bytes beside memcpy of the same bytes, from the same memory, to the same place.
//
// Thread safety: none.

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>

#include "held_file.hpp"
#include "paired.hpp"
#include "warm_buffer.hpp"

namespace tarn_bench {

/// Of `size` bytes each, in that order, by read(offset, into), which answers how many it has read, or why not. Compares
/// the bytes of both before it times them.
template <class Read>
void compare_reads(const Suite& suite, const std::string& name, HeldFile& file, const WarmBuffer& into,
                   std::size_t size, Offsets::Order order, Read read) {
  const Offsets offsets{file->size(), size, order};
  const auto copies = [&](std::uint64_t i) {
    file.copy(offsets[i], into.first(size));
    used(into.data());
  };
  const auto reads = [&](std::uint64_t i) {
    if (!is_all(read(offsets[i], into.first(size)), size)) fail(name);
    used(into.data());
  };
  for (std::uint64_t i = 0; i < 64; ++i) {
    copies(i);
    expect(has_pattern(into.first(size), offsets[i]), name + ", memcpy");
    std::memset(into.data(), 0, size);
    reads(i);
    expect(has_pattern(into.first(size), offsets[i]), name);
  }
  suite.compare(name, "memcpy", each(copies), each(reads));
}
/// By the file, at places that are drawn.
inline void compare_reads(const Suite& suite, const std::string& name, HeldFile& file, const WarmBuffer& into,
                          std::size_t size) {
  compare_reads(suite, name, file, into, size, Offsets::Order::random,
                [&](std::uint64_t offset, std::span<std::byte> to) { return file->read(offset, to); });
}

}  // namespace tarn_bench
