// SPDX-License-Identifier: MIT
#pragma once

// Two ways to do the same work, measured in pairs: one after the other, the order alternated, so that what the machine
// does meanwhile meets both. What counts is the ratio of each pair; suite.py takes the median.
//
// A figure is a line of JSON on standard output:
//   {"name": "read/4KiB", "reference": "memcpy", "unit": "ns", "values": [ours, ...], "ratios": [reference / ours, ...]}
// and what one has to know to read the figures is one, too:
//   {"note": "memcpy of glibc 2.36"}
//
// Thread safety: none.

#include <time.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace tarn_bench {

/// Does the work so many times. Returns: the nanoseconds that it took.
using Arm = std::function<double(std::uint64_t times)>;

[[nodiscard]] inline double now_ns(::clockid_t clock) {
  ::timespec now{};
  ::clock_gettime(clock, &now);
  return static_cast<double>(now.tv_sec) * 1e9 + static_cast<double>(now.tv_nsec);
}

/// An arm of one thread: f(i) for i below the times, by the processor time of this thread, in which others do not count.
template <class F>
[[nodiscard]] Arm each(F f) {
  return [f](std::uint64_t times) mutable {
    const auto begun = now_ns(CLOCK_THREAD_CPUTIME_ID);
    for (std::uint64_t i = 0; i < times; ++i) f(i);
    return now_ns(CLOCK_THREAD_CPUTIME_ID) - begun;
  };
}

/// Stops the program: what was measured did not do what it was to do.
[[noreturn]] inline void fail(const std::string& what) {
  std::fprintf(stderr, "FAILED: %s\n", what.c_str());
  std::exit(1);
}
inline void expect(bool holds, const std::string& what) {
  if (!holds) fail(what);
}

/// The compiler takes what it leads to for used, and for changed.
inline void used(const void* memory) { asm volatile("" : : "g"(memory) : "memory"); }

class Suite {
 public:
  /// Pairs a figure, and how long an arm runs at least each time. `only`: figures whose name begins so; empty: all.
  Suite(std::size_t pairs, double run_ns, std::string only) : pairs_{pairs}, run_ns_{run_ns}, only_{std::move(only)} {}

  /// Of a figure, or of a group of them, which ends in a slash.
  [[nodiscard]] bool wants(const std::string& name) const {
    return name.starts_with(only_) || (name.ends_with('/') && only_.starts_with(name));
  }

  void compare(const std::string& name, const std::string& reference_name, const Arm& reference,
               const Arm& ours) const {
    std::uint64_t times = 1;
    while (ours(times) < run_ns_ && reference(times) < run_ns_) times *= 2;
    std::vector<double> values, ratios;
    for (std::size_t pair = 0; pair < pairs_; ++pair) {
      double of_reference = 0, of_ours = 0;
      if (pair % 2 == 0) of_reference = reference(times);
      of_ours = ours(times);
      if (pair % 2 == 1) of_reference = reference(times);
      values.push_back(of_ours / static_cast<double>(times));
      ratios.push_back(of_reference / of_ours);
    }
    say(name, reference_name, "ns", values, ratios);
  }
  /// A figure of time with nothing beside it.
  void measure(const std::string& name, const Arm& ours) const {
    std::uint64_t times = 1;
    while (ours(times) < run_ns_) times *= 2;
    std::vector<double> values;
    for (std::size_t run = 0; run < pairs_; ++run) values.push_back(ours(times) / static_cast<double>(times));
    say(name, "", "ns", values, {});
  }
  /// A figure that is no time, with nothing beside it.
  static void value(const std::string& name, const std::string& unit, double value) { values(name, unit, {value}); }
  /// The same, seen several times.
  static void values(const std::string& name, const std::string& unit, const std::vector<double>& values) {
    say(name, "", unit, values, {});
  }
  /// Shown above the figures.
  static void note(const std::string& text) {
    std::printf("{\"note\": \"%s\"}\n", text.c_str());
    std::fflush(stdout);
  }

 private:
  static void say(const std::string& name, const std::string& reference, const std::string& unit,
                  const std::vector<double>& values, const std::vector<double>& ratios) {
    const auto list = [](const std::vector<double>& numbers) {
      std::string text;
      for (const auto number : numbers) text += (text.empty() ? "" : ", ") + std::to_string(number);
      return "[" + text + "]";
    };
    std::printf(R"({"name": "%s", "reference": "%s", "unit": "%s", "values": %s, "ratios": %s})"
                "\n",
                name.c_str(), reference.c_str(), unit.c_str(), list(values).c_str(), list(ratios).c_str());
    std::fflush(stdout);
  }

  const std::size_t pairs_;
  const double run_ns_;
  const std::string only_;
};

}  // namespace tarn_bench
