// SPDX-License-Identifier: MIT
#include <tarn/buffers.hpp>

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include <tarn/testing/memory_store.hpp>

#include "support/catch.hpp"

using tarn::ConstBuffers;
using tarn::MutableBuffers;
using tarn_test::bytes_of;
using tarn_test::text_of;
using tarn_test::writable;
using tarn_test::zeros;

namespace {

::iovec piece(std::string& text) { return {text.data(), text.size()}; }
::iovec hole(std::size_t size_bytes) { return {const_cast<std::byte*>(tarn::detail::zero_area()), size_bytes}; }

}  // namespace

TEST_CASE("a view of pieces tells them, their order and their size", "[buffers]") {
  std::string head = "head", tail = "tail!";
  const std::vector<::iovec> pieces{piece(head), hole(3), piece(tail)};
  const ConstBuffers buffers{pieces};

  CHECK(buffers.count() == 3);
  CHECK(buffers.size_bytes() == 12);
  CHECK(text_of(buffers[0]) == "head");
  CHECK(text_of(buffers[1]) == zeros(3));
  CHECK(text_of(buffers[2]) == "tail!");
  CHECK(buffers.iovecs().data() == pieces.data());
  CHECK_FALSE(buffers.is_zero(0));
  CHECK(buffers.is_zero(1));
  CHECK_FALSE(buffers.is_zero(2));
}

TEST_CASE("a copy out stops at the shorter end, inside a piece if need be", "[buffers]") {
  std::string head = "head", tail = "tail!";
  const std::vector<::iovec> pieces{piece(head), hole(3), piece(tail)};
  const ConstBuffers buffers{pieces};
  const auto whole = "head" + zeros(3) + "tail!";

  const auto size = GENERATE(0u, 1u, 4u, 5u, 7u, 8u, 12u, 20u);
  std::string into(size, '?');
  const auto copied = buffers.copy_to(writable(into));
  CHECK(copied == std::min<std::size_t>(size, 12));
  CHECK(into.substr(0, copied) == whole.substr(0, copied));
  CHECK(into.substr(copied) == std::string(size - copied, '?'));
}

TEST_CASE("a copy is the same bytes however the two lie in their pages, and touches no byte beside them", "[buffers]") {
  const std::size_t size = GENERATE(1u, 511u, 512u, 513u, 1024u, 5000u, (1u << 19) - 1, 1u << 19, (1u << 20) + 3);
  std::string from(3 * 4096 + size, ' '), to(4 * 4096 + size, '?');
  for (std::size_t i = 0; i < from.size(); ++i) from[i] = static_cast<char>('a' + i % 23);
  const auto in_page = [](const std::string& text) { return reinterpret_cast<std::uintptr_t>(text.data()) % 4096; };
  const auto untouched = to;
  // Every distance within a page that matters, and both sides of each border.
  for (const std::size_t past : {0u, 1u, 15u, 16u, 31u, 32u, 33u, 100u, 4095u}) {
    const std::size_t start = 4096 - in_page(from);
    const std::size_t at = 4096 - in_page(to) + past;
    to = untouched;
    tarn::detail::copy_bytes(writable(to).data() + at, bytes_of(from).data() + start, size);
    CHECK(to == untouched.substr(0, at) + from.substr(start, size) + untouched.substr(at + size));
  }
}

TEST_CASE("a copy in fills the pieces in order and touches nothing past what it has", "[buffers]") {
  std::string head = "....", tail = ".....";
  const std::vector<::iovec> pieces{piece(head), piece(tail)};
  const MutableBuffers buffers{pieces};

  CHECK(buffers.copy_from(bytes_of("abcdef")) == 6);
  CHECK(head == "abcd");
  CHECK(tail == "ef...");
  CHECK(buffers.copy_from(bytes_of("0123456789")) == 9);
  CHECK(head + tail == "012345678");
}

TEST_CASE("the zero area is told from the memory beside it", "[buffers]") {
  const auto* const first = tarn::detail::zero_area();
  CHECK(tarn::detail::in_zero_area(first));
  CHECK(tarn::detail::in_zero_area(first + tarn::detail::zero_area_bytes - 1));
  CHECK_FALSE(tarn::detail::in_zero_area(first + tarn::detail::zero_area_bytes));
  CHECK(std::all_of(first, first + tarn::detail::zero_area_bytes, [](std::byte byte) { return byte == std::byte{}; }));
}

TEST_CASE("a view of nothing is empty", "[buffers]") {
  CHECK(ConstBuffers{}.count() == 0);
  CHECK(ConstBuffers{}.size_bytes() == 0);
  std::string into = "?";
  CHECK(ConstBuffers{}.copy_to(writable(into)) == 0);
  CHECK(into == "?");
}

TEST_CASE("the zero area is known by its addresses, from its first byte to its last", "[buffers]") {
  using tarn::detail::in_zero_area;
  const auto* const first = tarn::detail::zero_area();
  CHECK(in_zero_area(first));
  CHECK(in_zero_area(first + tarn::detail::zero_area_bytes - 1));
  CHECK_FALSE(in_zero_area(first + tarn::detail::zero_area_bytes));
  CHECK_FALSE(in_zero_area(nullptr));
}
