// SPDX-License-Identifier: MIT
#pragma once

// What a test of the explorer asserts: that a scenario goes well in every order, or in all with a few preemptions.
//
// Thread safety: none.

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>

#include "explore/explorer.hpp"
#include "support/catch.hpp"

namespace tarn_test {

/// Runs what `make` makes through every order that makes a difference; where those are too many, through all with a few
/// preemptions: TARN_EXPLORE_PREEMPTIONS, or one.
inline void explore(const std::function<Scenario()>& make) {
  constexpr std::uint64_t most = 3'000;
  auto report = Explorer::complete(make, most);
  const bool complete = report.finished;
  const auto* const asked = std::getenv("TARN_EXPLORE_PREEMPTIONS");
  const auto preemptions = asked != nullptr ? std::strtoull(asked, nullptr, 10) : 1;
  if (report.failure.empty() && !complete) report = Explorer::bounded(make, UINT64_MAX, preemptions);
  INFO("after the order " << report.order);
  CHECK(report.failure == "");
  CHECK(report.finished);
  std::printf("%8llu orders of up to %llu steps, %s: %s\n", static_cast<unsigned long long>(report.runs),
              static_cast<unsigned long long>(report.steps_most), complete ? "complete" : "bounded",
              Catch::getResultCapture().getCurrentTestName().c_str());
}

}  // namespace tarn_test
