// SPDX-License-Identifier: MIT
#pragma once

// How long a model runs, and from which seed: TARN_MODEL_SEED and TARN_MODEL_STEPS, or a random seed and what CI has
// time for.
//
// Thread safety: none.

#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <optional>
#include <random>

namespace tarn_test {

struct ModelRun {
  std::uint64_t seed, steps;
};

[[nodiscard]] inline std::optional<std::uint64_t> number_from_environment(const char* name) {
  const char* const text = std::getenv(name);
  if (text == nullptr || *text == '\0') return std::nullopt;
  return std::strtoull(text, nullptr, 10);
}

// Fewer where each takes several times as long: with a sanitizer, or not optimised.
#if !defined(__OPTIMIZE__) || defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr std::uint64_t usual_model_steps = 100'000;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
inline constexpr std::uint64_t usual_model_steps = 100'000;
#else
inline constexpr std::uint64_t usual_model_steps = 1'000'000;
#endif
#else
inline constexpr std::uint64_t usual_model_steps = 1'000'000;
#endif

/// Says what it answers, so that any run can be made again.
[[nodiscard]] inline ModelRun model_run(std::uint64_t usual_steps = usual_model_steps) {
  const ModelRun run{.seed = number_from_environment("TARN_MODEL_SEED").value_or(std::random_device{}()),
                     .steps = number_from_environment("TARN_MODEL_STEPS").value_or(usual_steps)};
  std::cout << "TARN_MODEL_SEED=" << run.seed << " TARN_MODEL_STEPS=" << run.steps << std::endl;
  return run;
}

/// The largest file of a world with such chunks: a few of them, and not a whole number.
[[nodiscard]] inline std::uint64_t model_file_bytes(std::uint64_t chunk_bytes) {
  if (chunk_bytes == 1) return 40;
  if (chunk_bytes == 16) return 200;
  return 5 * chunk_bytes + chunk_bytes / 2;
}

}  // namespace tarn_test
