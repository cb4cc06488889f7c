// SPDX-License-Identifier: MIT
#include <tarn/testing/flat_model.hpp>

#include <array>
#include <cstdint>
#include <string>

#include <tarn/testing/bytes.hpp>
#include <tarn/testing/file_image.hpp>
#include <tarn/testing/random.hpp>

#include "support/catch.hpp"

using tarn::ByteRange;
using tarn::testing::bytes_of;
using tarn::testing::FileImage;
using tarn::testing::FlatModel;
using tarn::testing::pattern;
using tarn::testing::Random;
using tarn::testing::text_of;
using tarn::testing::zeros;

namespace {

std::string all_of(const FlatModel& model) { return text_of(model.bytes()); }

}  // namespace

TEST_CASE("a model holds what was written, with zeros before it", "[flat_model]") {
  FlatModel model;
  model.write(3, bytes_of("abc"));
  CHECK(all_of(model) == zeros(3) + "abc");
  model.write(4, bytes_of("X"));
  CHECK(all_of(model) == zeros(3) + "aXc");
  model.write(100, {});
  CHECK(model.size() == 6);
  CHECK(model.append(bytes_of("de")) == 6);
  CHECK(all_of(model) == zeros(3) + "aXcde");
  CHECK(all_of(FlatModel{bytes_of("whole")}) == "whole");
}

TEST_CASE("what a model was cut off from is gone", "[flat_model]") {
  FlatModel model{bytes_of("abcdef")};
  model.truncate(2);
  model.truncate(4);
  CHECK(all_of(model) == "ab" + zeros(2));
}

TEST_CASE("a hole keeps the size of a model, a range of zeros does not", "[flat_model]") {
  FlatModel model{bytes_of("abcdef")};
  model.punch_hole(ByteRange::between(4, 100));
  CHECK(all_of(model) == "abcd" + zeros(2));
  model.punch_hole(ByteRange::between(50, 100));
  model.zero_range(ByteRange::between(50, 50));
  CHECK(model.size() == 6);
  model.zero_range(ByteRange::between(1, 8));
  CHECK(all_of(model) == "a" + zeros(7));
  model.zero_range(ByteRange::between(9, 10));
  CHECK(all_of(model) == "a" + zeros(9));
}

TEST_CASE("a read of a model is short at its end only", "[flat_model]") {
  const FlatModel model{bytes_of("abcdef")};
  CHECK(text_of(model.read(1, 3)) == "bcd");
  CHECK(text_of(model.read(4, 3)) == "ef");
  CHECK(model.read(6, 1).empty());
  CHECK(model.read(UINT64_MAX, UINT64_MAX).empty());
}

TEST_CASE("a difference says where, and what was expected and seen", "[flat_model]") {
  const FlatModel model{bytes_of("abcdef")};
  CHECK(model.difference(1, 3, bytes_of("bcd")) == "");
  CHECK(model.difference(4, 10, bytes_of("ef")) == "");
  CHECK(model.difference(7, 10, {}) == "");
  CHECK(model.difference(1, 3, bytes_of("bXd")) ==
        "at offset 2, 1 of 3 bytes wrong\n  expected: 63 64\n  seen:     58 64");
  CHECK(model.difference(4, 10, bytes_of("e")) == "at offset 5, 1 bytes for 2\n  expected: 66\n  seen:     nothing");
  CHECK(model.difference(4, 1, bytes_of("ef")) == "at offset 5, 2 bytes for 1\n  expected: nothing\n  seen:     66");
  const FlatModel longer{bytes_of(zeros(100))};
  CHECK(longer.difference(0, 100, bytes_of("x" + zeros(99))).find("00 ...\n") != std::string::npos);
}

TEST_CASE("a file image and a model are the same file", "[file_image]") {
  Random random{GENERATE(as<std::uint64_t>{}, 1, 2, 3, 4)};
  constexpr std::uint64_t most = 20'000;
  FileImage image{10'000, 5};
  FlatModel model{bytes_of(pattern(0, 10'000, 5))};
  std::string wrong;
  for (std::uint64_t step = 0; step < 3'000 && wrong.empty(); ++step) {
    const auto range = random.range(most, 512, 4096);
    switch (random.below(4)) {
      case 0:
        image.resize(range.offset());
        model.truncate(range.offset());
        break;
      case 1: {
        const auto text = pattern(range.offset(), static_cast<std::size_t>(range.size_bytes()), step);
        if (!range.empty() && range.end() > image.size()) image.resize(range.end());
        image.write(range.offset(), bytes_of(text));
        model.zero_range(range);
        model.write(range.offset(), bytes_of(text));
        break;
      }
      case 2:
        image.zero(range.offset(), range.end());
        model.punch_hole(range);
        if (!image.is_zero(range.offset(), range.end())) wrong = "what was made zero is not";
        break;
      default: {
        std::string seen(static_cast<std::size_t>(model.size()), '?');
        image.read(0, tarn::testing::writable(seen));
        wrong = model.difference(0, model.size(), bytes_of(seen));
        const bool zero =
            text_of(model.read(range.offset(), range.size_bytes())).find_first_not_of('\0') == std::string::npos;
        if (image.is_zero(range.offset(), range.end()) != zero) wrong = "is_zero";
      }
    }
    if (image.size() != model.size()) wrong = "another size";
  }
  CHECK(wrong == "");
}

TEST_CASE("a range is inside, and now and then at a border, empty, and as long as a part", "[random]") {
  Random random{1};
  std::uint64_t at_border = 0, empty = 0, long_ones = 0, outside = 0;
  for (int i = 0; i < 1'000; ++i) {
    const auto range = random.range(1'000, 16, 128);
    outside += range.end() > 1'000 ? 1 : 0;
    at_border += range.offset() % 16 == 0 ? 1 : 0;
    empty += range.empty() ? 1 : 0;
    long_ones += range.size_bytes() >= 128 ? 1 : 0;
  }
  CHECK(outside == 0);
  CHECK(at_border > 150);
  CHECK(empty > 10);
  CHECK(long_ones > 10);
  CHECK(random.range(0, 16, 16).empty());
  CHECK(Random{7}.next() == Random{7}.next());
}

TEST_CASE("bytes of a pattern tell where they belong", "[bytes]") {
  CHECK(pattern(100, 4096) == pattern(0, 4196).substr(100));
  CHECK(pattern(0, 4096) != pattern(4096, 4096));
  CHECK(pattern(0, 4096) != pattern(0, 4096, 1));
  CHECK(pattern(0, 100'000).find('\0') == std::string::npos);
}
