// SPDX-License-Identifier: MIT
#include <tarn/result.hpp>

#include <cerrno>
#include <future>
#include <ios>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <system_error>

#include "support/catch.hpp"

using tarn::fail;
using tarn::Result;

namespace {

template <class E>
std::error_code code_of(const E& exception) {
  try {
    throw exception;
  } catch (...) {
    return tarn::detail::current_exception_code();
  }
}

/// A category of somebody else's: its code 1 means ENOSPC, 2 a number of its own, 3 that all is well.
struct Foreign final : std::error_category {
  [[nodiscard]] const char* name() const noexcept override { return "foreign"; }
  [[nodiscard]] std::string message(int) const override { return "no"; }
  [[nodiscard]] std::error_condition default_error_condition(int code) const noexcept override {
    if (code == 1) return std::errc::no_space_on_device;
    if (code == 3) return {0, std::generic_category()};
    return {code, *this};
  }
};
const Foreign foreign;

}  // namespace

TEST_CASE("a result is a value or an error, never both and never neither", "[result]") {
  const Result<std::string> value = "five";
  REQUIRE(value.has_value());
  CHECK(static_cast<bool>(value));
  CHECK(*value == "five");
  CHECK(value->size() == 4);
  CHECK_FALSE(value.error());

  const Result<std::string> failure = fail(std::errc::no_such_file_or_directory);
  CHECK_FALSE(failure.has_value());
  CHECK_FALSE(static_cast<bool>(failure));
  CHECK(failure.error() == std::errc::no_such_file_or_directory);
  CHECK(failure.error().value() == ENOENT);
  CHECK(failure.error().category() == std::generic_category());
}

TEST_CASE("a result of nothing is success or an error", "[result]") {
  CHECK(Result<>{}.has_value());
  CHECK_FALSE(Result<>{}.error());
  const Result<> failure = fail(std::errc::io_error);
  CHECK_FALSE(failure.has_value());
  CHECK(failure.error().value() == EIO);
}

TEST_CASE("a code of any category becomes the errno that says the same, returned or thrown", "[result]") {
  struct Row {
    std::error_code given;
    int number;
  };
  const auto row = GENERATE(values<Row>({
      {{ENOSPC, std::generic_category()}, ENOSPC},
      {{ENOSPC, std::system_category()}, ENOSPC},
      {{4711, std::system_category()}, 4711},  // a system's number that no std::errc has
      {std::make_error_code(std::future_errc::broken_promise), EIO},
      {std::make_error_code(std::io_errc::stream), EIO},
      {{1, foreign}, ENOSPC},
      {{2, foreign}, EIO},
      {{3, foreign}, EIO},
      {{0, foreign}, EIO},
      {{0, std::system_category()}, EIO},
  }));
  const std::error_code expected{row.number, std::generic_category()};
  CHECK(Result<int>{fail(row.given)}.error() == expected);
  CHECK(Result<>{fail(row.given)}.error() == expected);
  CHECK(code_of(std::system_error{row.given}) == expected);
}

TEST_CASE("a failure whose code says success is EIO", "[result]") {
  const Result<std::size_t> failure = fail(std::error_code{});
  CHECK_FALSE(failure.has_value());
  CHECK(failure.error().value() == EIO);
  const Result<> of_nothing = fail({});
  CHECK_FALSE(of_nothing.has_value());
  CHECK(of_nothing.error().value() == EIO);
}

TEST_CASE("a value that only moves goes through a result", "[result]") {
  Result<std::unique_ptr<int>> held = std::make_unique<int>(5);
  const auto taken = std::move(held).value();
  CHECK(*taken == 5);
}

TEST_CASE("an exception becomes the errno that it carries, memory ENOMEM, and anything else EIO", "[result]") {
  CHECK(code_of(std::system_error{ENOSPC, std::generic_category()}).value() == ENOSPC);
  const auto from_system = code_of(std::system_error{ENOSPC, std::system_category()});
  CHECK(from_system.value() == ENOSPC);
  CHECK(from_system.category() == std::generic_category());
  CHECK(code_of(std::bad_alloc{}).value() == ENOMEM);
  CHECK(code_of(std::runtime_error{"no"}).value() == EIO);
  CHECK(code_of(5).value() == EIO);
  CHECK(code_of(std::system_error{std::error_code{}}).value() == EIO);
}
