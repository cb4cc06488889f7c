// SPDX-License-Identifier: MIT
#include "sim/shrink.hpp"

#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <sstream>
#include <string>

#include "support/catch.hpp"

using tarn_test::ModelChoices;
using tarn_test::ModelRandom;
using tarn_test::ModelRunner;
using tarn_test::ModelTry;

namespace {

enum class Ends : std::uint8_t { told, aborted };

// Goes wrong at the first step that draws a multiple of 50 after one that drew 7 more than a multiple of 100.
ModelRunner run_that_goes_wrong(Ends ends) {
  return [ends](ModelRandom random, std::uint64_t steps) -> std::string {
    (void)random.next();  // what the world is made of
    bool armed = false;
    for (std::uint64_t step = 0; step < steps; ++step) {
      random.begin_step();
      const auto drawn = random.next();
      for (auto more = random.below(4); more != 0; --more) (void)random.next();
      if (armed && drawn % 50 == 0) {
        if (ends == Ends::aborted) std::abort();
        return "wrong\nat step " + std::to_string(step);
      }
      armed = armed || drawn % 100 == 7;
    }
    return {};
  };
}

}  // namespace

TEST_CASE("a long run that goes wrong is made as short as can be, and goes wrong in the same way", "[shrink]") {
  const auto ends = GENERATE(Ends::told, Ends::aborted);
  const auto runner = run_that_goes_wrong(ends);
  ModelChoices choices;
  const auto wrong = ModelTry{}.record(runner, 3, 100'000, choices);
  REQUIRE_FALSE(wrong.empty());
  REQUIRE(choices.size() > 20);
  CHECK(ModelTry{}.run(runner, choices) == wrong);
  const auto shorter = tarn_test::shrink(runner, choices, wrong, std::chrono::seconds{30});
  REQUIRE(shorter.size() == 3);
  CHECK(shorter[0].empty());
  CHECK(shorter[1].size() == 1);  // no draw but the one that counts
  CHECK(shorter[2].empty());      // zero is a multiple, too
  CHECK(ModelTry{}.run(runner, shorter).substr(0, 5) == wrong.substr(0, 5));
}

TEST_CASE("choices that were kept as text are the same", "[shrink]") {
  const ModelChoices choices{{1, 0xFFFF'FFFF'FFFF'FFFFu}, {}, {7}};
  std::istringstream in{tarn_test::text_of_choices(choices)};
  const auto kept = tarn_test::choices_of(in);
  REQUIRE(kept);
  CHECK(*kept == choices);
  std::istringstream empty;
  CHECK_FALSE(tarn_test::choices_of(empty));
}

TEST_CASE("a run that goes well, and one that does not end, are told apart", "[shrink]") {
  ModelTry attempt;
  CHECK(attempt.run([](ModelRandom, std::uint64_t) { return std::string{}; }, {{}}) == "");
  const ModelRunner endless = [](ModelRandom random, std::uint64_t) {
    while (random.next() == 0) continue;
    return std::string{};
  };
  CHECK(attempt.run(endless, {{}}) == "it does not end");
}
