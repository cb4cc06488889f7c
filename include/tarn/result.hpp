// SPDX-License-Identifier: MIT
#pragma once

// A value, or the reason there is none.
//
// Every call of tarn that can fail for a reason outside the program answers a Result, but for those that make something
// (a pool, metadata, a DirtyFile) or a list of extents, which throw as they say. Its error is a std::error_code of
// the generic category, so `error().value()` is an errno number; `fail` makes one of any other code. A Result that
// holds a value has no error, and the reverse: there is no third state.
//
// Thread safety: a plain value.

#include <cassert>
#include <cerrno>
#include <new>
#include <optional>
#include <system_error>
#include <type_traits>
#include <utility>

namespace tarn {
namespace detail {

/// The errno number that says the same as `why`: a system's code is its own, of another category the one that the
/// category has for it. EIO if there is none, and for success: an errno that was not set is no reason.
[[nodiscard]] inline std::error_code as_errno(std::error_code why) noexcept {
  const bool is_errno = why.category() == std::generic_category() || why.category() == std::system_category();
  const auto as = is_errno ? std::error_condition{why.value(), std::generic_category()} : why.default_error_condition();
  const bool known = as.category() == std::generic_category() && as.value() != 0;
  return {known ? as.value() : EIO, std::generic_category()};
}
/// A Result keeps the number alone: a code that says nothing costs a call, in every good answer.
[[nodiscard]] inline std::error_code errno_code(int value) noexcept {
  return value == 0 ? std::error_code{} : std::error_code{value, std::generic_category()};
}

}  // namespace detail

/// What `fail` answers: converts to any Result. Whatever fails, tarn or a store of the user's, passes here.
struct Failure {
  explicit Failure(std::error_code why) : error{detail::as_errno(why)} {}

  std::error_code error;
};

[[nodiscard]] inline Failure fail(std::error_code error) { return Failure{error}; }
[[nodiscard]] inline Failure fail(std::errc error) { return fail(std::make_error_code(error)); }

template <class T = void>
class [[nodiscard]] Result {
 public:
  // Implicit, for `return n;` and `return fail(...);`. What is a Result itself is not taken for a value.
  // NOLINTBEGIN(google-explicit-constructor, bugprone-forwarding-reference-overload)
  template <class U = T>
  requires(std::is_constructible_v<T, U&&> && !std::is_same_v<std::remove_cvref_t<U>, Result> &&
           !std::is_same_v<std::remove_cvref_t<U>, Failure>) Result(U&& value)
      : value_{std::in_place, std::forward<U>(value)} {}
  Result(Failure failure) : errno_{failure.error.value()} {}
  // NOLINTEND(google-explicit-constructor, bugprone-forwarding-reference-overload)

  [[nodiscard]] bool has_value() const { return value_.has_value(); }
  explicit operator bool() const { return has_value(); }

  /// Requires: has_value().
  [[nodiscard]] T& value() & { return *checked(); }
  [[nodiscard]] const T& value() const& { return *checked(); }
  [[nodiscard]] T&& value() && { return std::move(*checked()); }
  [[nodiscard]] T& operator*() & { return value(); }
  [[nodiscard]] const T& operator*() const& { return value(); }
  [[nodiscard]] T&& operator*() && { return std::move(*this).value(); }
  [[nodiscard]] T* operator->() { return &value(); }
  [[nodiscard]] const T* operator->() const { return &value(); }

  /// Returns: the reason; success if there is a value.
  [[nodiscard]] std::error_code error() const { return detail::errno_code(errno_); }

 private:
  auto& checked() {
    assert(value_.has_value() && "a Result without a value was read");
    return value_;
  }
  auto& checked() const {
    assert(value_.has_value() && "a Result without a value was read");
    return value_;
  }

  std::optional<T> value_;
  int errno_ = 0;
};

template <>
class [[nodiscard]] Result<void> {
 public:
  Result() = default;
  // NOLINTNEXTLINE(google-explicit-constructor): `return fail(...);`
  Result(Failure failure) : errno_{failure.error.value()} {}

  [[nodiscard]] bool has_value() const { return errno_ == 0; }
  explicit operator bool() const { return has_value(); }
  [[nodiscard]] std::error_code error() const { return detail::errno_code(errno_); }

 private:
  int errno_ = 0;
};

namespace detail {

/// The error code that stands for the exception being handled, which came out of the embedder's code or an allocation.
/// Requires: called inside a catch block.
[[nodiscard]] inline std::error_code current_exception_code() noexcept {
  try {
    throw;
  } catch (const std::system_error& e) {
    return as_errno(e.code());
  } catch (const std::bad_alloc&) {
    return std::make_error_code(std::errc::not_enough_memory);
  } catch (...) {
    return std::make_error_code(std::errc::io_error);
  }
}

}  // namespace detail
}  // namespace tarn
