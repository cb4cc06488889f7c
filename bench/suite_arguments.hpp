// SPDX-License-Identifier: MIT
#pragma once

// What the program of a suite is told:
//   PROGRAM [--pairs=N] [--run-ms=N] [--only=PREFIX]      prints a line for each figure: see paired.hpp
//
// Thread safety: none.

#include <algorithm>
#include <cstddef>
#include <string>
#include <string_view>

#include "paired.hpp"

namespace tarn_bench {

/// The suite that the arguments ask for. Stops the program at one that there is not.
[[nodiscard]] inline Suite suite_of(int count, char** arguments) {
  std::size_t pairs = 31;
  double run_ms = 20;
  std::string only;
  for (int i = 1; i < count; ++i) {
    const std::string_view argument = arguments[i];
    const auto value = std::string{argument.substr(std::min(argument.find('=') + 1, argument.size()))};
    if (argument.starts_with("--pairs=")) {
      pairs = std::stoul(value);
    } else if (argument.starts_with("--run-ms=")) {
      run_ms = std::stod(value);
    } else if (argument.starts_with("--only=")) {
      only = value;
    } else {
      fail("no such argument: " + std::string{argument});
    }
  }
  return Suite{pairs, run_ms * 1e6, only};
}

}  // namespace tarn_bench
