// SPDX-License-Identifier: MIT
#pragma once

// What the two programs are told, as --name=value, and how they end.
//
// Thread safety: none.

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <map>
#include <stdexcept>
#include <string>
#include <system_error>

namespace tarn_test {

constexpr int exit_wrong = 1;  ///< what was seen is not what was to be seen
constexpr int exit_usage = 2;

/// What was seen is not what was to be seen. Its text is for whoever looks for the mistake.
struct Wrong : std::runtime_error {
  using std::runtime_error::runtime_error;
};

inline std::string errno_name(int error) {
  const char* const name = error == 0 ? "OK" : ::strerrorname_np(error);
  return name != nullptr ? name : std::to_string(error);
}

class Arguments {
 public:
  Arguments(int count, const char* const* all, const char* usage) : usage_{usage} {
    for (int i = 1; i < count; ++i) {
      const std::string argument = all[i];
      const auto equals = argument.find('=');
      if (argument.substr(0, 2) != "--" || equals == std::string::npos) refuse("not --name=value: " + argument);
      given_[argument.substr(2, equals - 2)] = argument.substr(equals + 1);
    }
  }

  [[nodiscard]] std::string text(const std::string& name, const std::string& otherwise = {}) {
    const auto found = given_.find(name);
    if (found == given_.end()) return otherwise;
    auto value = found->second;
    given_.erase(found);
    return value;
  }
  [[nodiscard]] std::string needed(const std::string& name) {
    auto value = text(name);
    if (value.empty()) refuse("--" + name + " is needed");
    return value;
  }
  [[nodiscard]] std::uint64_t number(const std::string& name, std::uint64_t otherwise) {
    const auto value = text(name);
    if (value.empty()) return otherwise;
    char* end = nullptr;
    const auto n = std::strtoull(value.c_str(), &end, 10);
    if (*end != '\0') refuse("--" + name + " is no number: " + value);
    return n;
  }
  /// To be called when all that is known was asked for.
  void refuse_others() const {
    if (!given_.empty()) refuse("unknown: --" + given_.begin()->first);
  }

 private:
  [[noreturn]] void refuse(const std::string& why) const {
    std::fprintf(stderr, "%s\n%s", why.c_str(), usage_);
    std::exit(exit_usage);
  }

  const char* usage_;
  std::map<std::string, std::string> given_;
};

/// A program whose Run is made of its arguments. Returns: what the program does.
template <class Run>
[[nodiscard]] int run_of(int count, char** all, const char* usage) {
  try {
    Arguments arguments{count, all, usage};
    return Run{arguments}.run();
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return exit_usage;
  }
}

}  // namespace tarn_test
