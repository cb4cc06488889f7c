// SPDX-License-Identifier: MIT
#pragma once

// A long random run that went wrong, made short: the fewest steps, and the plainest choices in them, that still go
// wrong in the same way.
//
// All that a run draws is kept, step by step. A shorter run is one of fewer steps, each of which draws what it drew
// before, and zeros past that: so it stays a run that could be, whatever is left out (the way of Hypothesis: MacIver
// and Donaldson, "Test-Case Reduction via Test-Case Generation", ECOOP 2020). Steps go by halves, quarters and so on
// (Zeller and Hildebrandt, "Simplifying and Isolating Failure-Inducing Input", 2002). Each try is a process of its own,
// so an assert, a crash or a hang is made short like a wrong byte.
//
// Thread safety: none; a try is a fork, of this thread alone.

#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <istream>
#include <memory>
#include <new>
#include <optional>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "support/model_random.hpp"

namespace tarn_test {

/// Runs `steps` steps by these choices. Returns: what went wrong; empty if nothing did.
using ModelRunner = std::function<std::string(ModelRandom random, std::uint64_t steps)>;

/// Draws what was drawn before, and zeros past that.
class ReplayingTape final : public ModelTape {
 public:
  explicit ReplayingTape(const ModelChoices& choices) : choices_{choices} {}
  void begin_step() override {
    ++step_;
    at_ = 0;
  }
  std::uint64_t draw(std::uint64_t) override {
    return step_ < choices_.size() && at_ < choices_[step_].size() ? choices_[step_][at_++] : 0;
  }

 private:
  const ModelChoices& choices_;
  std::size_t step_ = 0, at_ = 0;
};

/// What a try says, and what it drew, in memory that outlives its process.
class ModelTry {
 public:
  ModelTry() {
    void* const memory =
        ::mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc{};
    shared_ = static_cast<Shared*>(memory);
  }
  ModelTry(const ModelTry&) = delete;
  ModelTry& operator=(const ModelTry&) = delete;
  ~ModelTry() { ::munmap(shared_, sizeof(Shared)); }

  /// Returns: what went wrong: what the run says, or how its process ended; empty if nothing did.
  [[nodiscard]] std::string run(const ModelRunner& runner, const ModelChoices& choices) {
    return in_a_child(patience_seconds, [&] {
      return runner(ModelRandom{0, std::make_shared<ReplayingTape>(choices)}, choices.size() - 1);
    });
  }
  /// The same by a seed; `choices` is what it drew up to where it went wrong.
  [[nodiscard]] std::string record(const ModelRunner& runner, std::uint64_t seed, std::uint64_t steps,
                                   ModelChoices& choices) {
    shared_->draws = shared_->steps = 0;
    auto wrong = in_a_child(patience_to_record_seconds, [&] {
      return runner(ModelRandom{seed, std::make_shared<RecordingTape>(*shared_)}, steps);
    });
    choices.assign(1, {});
    for (std::size_t i = 0, step = 0; i < shared_->draws; ++i) {
      for (; step < shared_->steps && shared_->starts[step] == i; ++step) choices.emplace_back();
      choices.back().push_back(shared_->drawn[i]);
    }
    return wrong;
  }

 private:
  static constexpr std::size_t most_draws = std::size_t{1} << 27, most_steps = std::size_t{1} << 24;
  static constexpr unsigned patience_seconds = 2, patience_to_record_seconds = 600;
  struct Shared {
    std::size_t draws, steps;
    std::array<char, 1 << 16> wrong;
    std::array<std::size_t, most_steps> starts;
    std::array<std::uint64_t, most_draws> drawn;
  };
  class RecordingTape final : public ModelTape {
   public:
    explicit RecordingTape(Shared& to) : to_{to} {}
    void begin_step() override {
      if (to_.steps < most_steps) to_.starts[to_.steps++] = to_.draws;
    }
    std::uint64_t draw(std::uint64_t fresh) override {
      if (to_.draws < most_draws) to_.drawn[to_.draws++] = fresh;
      return fresh;
    }

   private:
    Shared& to_;
  };

  template <class F>
  [[nodiscard]] std::string in_a_child(unsigned seconds, F f) {
    shared_->wrong[0] = '\0';
    const auto child = ::fork();
    if (child < 0) return {};
    if (child == 0) {
      (void)!std::freopen("/dev/null", "w", stderr);
      (void)!std::freopen("/dev/null", "w", stdout);
      ::alarm(seconds);
      const std::string wrong = f();
      std::strncpy(shared_->wrong.data(), wrong.c_str(), shared_->wrong.size() - 1);
      ::_exit(wrong.empty() ? 0 : 1);
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    if (WIFSIGNALED(status)) {
      return WTERMSIG(status) == SIGALRM ? "it does not end" : std::string{"ended by "} + ::strsignal(WTERMSIG(status));
    }
    return shared_->wrong.data();
  }

  Shared* shared_;
};

/// Makes a run shorter that goes wrong, as long as `seconds` allow. Two runs go wrong in the same way if what they say
/// begins with the same line. Requires: `choices` goes wrong so.
[[nodiscard]] inline ModelChoices shrink(const ModelRunner& runner, ModelChoices choices, const std::string& wrong,
                                         std::chrono::seconds seconds) {
  const auto end = std::chrono::steady_clock::now() + seconds;
  const auto late = [&] { return std::chrono::steady_clock::now() >= end; };
  const auto first_line = [](const std::string& text) { return text.substr(0, text.find('\n')); };
  ModelTry attempt;
  const auto still_wrong = [&](const ModelChoices& shorter) {
    return first_line(attempt.run(runner, shorter)) == first_line(wrong);
  };
  // The first of the choices are of no step: what the world is made of.
  for (std::size_t length = std::max<std::size_t>((choices.size() - 1) / 2, 1); !late();) {
    bool any = false;
    for (auto at = choices.size(); at > 1 && !late();) {
      const auto from = at - std::min(length, at - 1);
      auto shorter = choices;
      shorter.erase(shorter.begin() + static_cast<std::ptrdiff_t>(from),
                    shorter.begin() + static_cast<std::ptrdiff_t>(at));
      at = from;
      if (!still_wrong(shorter)) continue;
      choices = std::move(shorter);
      any = true;
    }
    if (length == 1 && !any) break;
    length = std::max<std::size_t>(any ? std::min(length, choices.size() / 2) : length / 2, 1);
  }
  // Then the plainest draws: none, or zero.
  for (auto& step : choices) {
    for (auto i = step.size(); i > 0 && !late(); --i) {
      const auto kept = step;
      step.resize(i - 1);
      if (still_wrong(choices)) continue;
      step = kept;
      if (std::exchange(step[i - 1], 0) == 0 || still_wrong(choices)) continue;
      step = kept;
    }
  }
  return choices;
}

/// As a text to keep: a line a step, the first of what comes before them.
[[nodiscard]] inline std::string text_of_choices(const ModelChoices& choices) {
  std::ostringstream out;
  out << std::hex;
  for (const auto& step : choices) {
    for (const auto word : step) out << word << ' ';
    out << '\n';
  }
  return out.str();
}
[[nodiscard]] inline std::optional<ModelChoices> choices_of(std::istream& in) {
  ModelChoices choices;
  for (std::string line; std::getline(in, line);) {
    std::istringstream words{line};
    choices.emplace_back();
    for (std::uint64_t word = 0; words >> std::hex >> word;) choices.back().push_back(word);
  }
  if (choices.empty()) return std::nullopt;
  return choices;
}

}  // namespace tarn_test
