// SPDX-License-Identifier: MIT
#pragma once

// What a test of the explorer asserts: that a scenario goes well in every order, or in all with a few preemptions and in
// some that are drawn.
//
// Thread safety: none.

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>

#include "explore/explorer.hpp"
#include "support/catch.hpp"

namespace tarn_test {

/// A number from the environment, or `usual`.
inline std::uint64_t explore_number(const char* name, std::uint64_t usual) {
  const auto* const asked = std::getenv(name);
  return asked != nullptr ? std::strtoull(asked, nullptr, 10) : usual;
}

/// Runs what `make` makes through every order that makes a difference; where those are too many, through all with a few
/// preemptions (TARN_EXPLORE_PREEMPTIONS, or so many), and through some that are drawn (TARN_EXPLORE_RANDOM, or 300)
/// from a seed (TARN_EXPLORE_SEED, or 1).
inline void explore(const std::function<Scenario()>& make, std::uint64_t usual_preemptions = 1) {
  constexpr std::uint64_t most = 3'000;
  auto report = Explorer::complete(make, most);
  const bool complete = report.finished;
  const auto preemptions = explore_number("TARN_EXPLORE_PREEMPTIONS", usual_preemptions);
  if (report.failure.empty() && !complete) report = Explorer::bounded(make, UINT64_MAX, preemptions);
  Explorer::Report drawn;
  if (report.failure.empty() && !complete) {
    drawn = Explorer::random(make, explore_number("TARN_EXPLORE_RANDOM", 300), explore_number("TARN_EXPLORE_SEED", 1));
  }
  INFO("after the order " << report.order << drawn.order);
  CHECK(report.failure == "");
  CHECK(drawn.failure == "");
  CHECK(report.finished);
  std::printf("%8llu orders of up to %llu steps, %s, and %llu drawn: %s\n",
              static_cast<unsigned long long>(report.runs), static_cast<unsigned long long>(report.steps_most),
              complete ? "complete" : "bounded", static_cast<unsigned long long>(drawn.runs),
              Catch::getResultCapture().getCurrentTestName().c_str());
}

}  // namespace tarn_test
