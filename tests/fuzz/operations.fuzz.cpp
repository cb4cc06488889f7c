// SPDX-License-Identifier: MIT
// Calls on a small pool and two files, against a flat array for each and a store that does what the input says. The
// first byte chooses the world: operations_at_once.cpp, operations_later.cpp.

#include <cstddef>
#include <cstdint>

#include "fuzz/operations.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size_bytes) {
  tarn_test::FuzzInput input{bytes, size_bytes};
  switch (input.byte() % 5) {
    case 1:
      tarn_test::run_later_ranges(input);
      break;
    case 2:
      tarn_test::run_later_parts(input);
      break;
    case 3:
      tarn_test::run_later_files(input);
      break;
    default:
      tarn_test::run_at_once(input);
  }
  return 0;
}
