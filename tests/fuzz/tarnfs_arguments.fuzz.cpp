// SPDX-License-Identifier: MIT
// The command line of tarnfs: whatever stands on it, the answer is options, one error, or what was asked for, and which
// of them, and which options, is what the usage says. The input is the arguments, apart by a zero byte.

#include "examples/tarnfs/options.hpp"

#include <sched.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "fuzz/input.hpp"

namespace {

using tarn_test::must;
using Text = std::string_view;

__extension__ using Wide = unsigned __int128;

/// What a value may be, and what it comes to.
[[nodiscard]] std::optional<std::uint64_t> digits(Text text, Wide most) {
  if (text.empty()) return std::nullopt;
  Wide number = 0;
  for (const char digit : text) {
    if (digit < '0' || digit > '9') return std::nullopt;
    number = std::min(number * 10 + static_cast<unsigned>(digit - '0'), most + 1);
  }
  if (number > most) return std::nullopt;
  return static_cast<std::uint64_t>(number);
}
[[nodiscard]] std::optional<std::uint64_t> size(Text text) {
  unsigned shift = 0;
  if (!text.empty()) shift = text.back() == 'K' ? 10 : text.back() == 'M' ? 20 : text.back() == 'G' ? 30 : 0;
  if (shift != 0) text.remove_suffix(1);
  const auto number = digits(text, static_cast<std::uint64_t>(INT64_MAX) >> shift);
  return number ? std::optional{*number << shift} : std::nullopt;
}
[[nodiscard]] std::optional<std::vector<int>> cpus(Text text) {
  std::vector<int> found;
  for (bool more = true; more;) {
    const auto comma = text.find(',');
    more = comma != Text::npos;
    const auto item = text.substr(0, comma);
    text.remove_prefix(more ? comma + 1 : text.size());
    const auto dash = item.find('-');
    const auto first = digits(item.substr(0, dash), CPU_SETSIZE - 1);
    const auto last = dash == Text::npos ? first : digits(item.substr(dash + 1), CPU_SETSIZE - 1);
    if (!first || !last || *first > *last) return std::nullopt;
    for (auto cpu = *first; cpu <= *last; ++cpu) found.push_back(static_cast<int>(cpu));
  }
  return found;
}

enum class Kind : std::uint8_t { none, size, count, cpus, storage, path, receive, text };
const std::map<Text, Kind> kinds{
    {"budget", Kind::size},           {"chunk-size", Kind::size}, {"part-size", Kind::size}, {"storage", Kind::storage},
    {"prefault", Kind::none},         {"read-path", Kind::path},  {"direct-io", Kind::none}, {"keep-cache", Kind::none},
    {"read-ahead", Kind::size},       {"threads", Kind::count},   {"loaders", Kind::count},  {"cpu", Kind::cpus},
    {"foreground", Kind::none},       {"stats", Kind::none},      {"rescue", Kind::text},    {"receive", Kind::receive},
    {"one-thread-a-cpu", Kind::none},
};
constexpr std::array<Text, 2> storages{"arena", "heap"};
constexpr std::array<Text, 4> paths{"before", "after", "copy", "gather"};
constexpr std::array<Text, 2> receives{"copy", "in-place"};

[[nodiscard]] bool may_be(Kind kind, Text value) {
  switch (kind) {
    case Kind::none:
      return true;
    case Kind::size:
      return size(value).has_value();
    case Kind::count:
      return digits(value, 1024).value_or(0) != 0;
    case Kind::cpus:
      return cpus(value).has_value();
    case Kind::storage:
      return std::ranges::count(storages, value) != 0;
    case Kind::path:
      return std::ranges::count(paths, value) != 0;
    case Kind::receive:
      return std::ranges::count(receives, value) != 0;
    default:
      return !value.empty();
  }
}

/// What the usage makes of a command line.
struct Expected {
  enum class Answer : std::uint8_t { options, error, information } answer;
  std::map<Text, Text> given;  // the last one of each name
  std::vector<Text> operands;
};
[[nodiscard]] Expected expect(const std::vector<std::string>& arguments) {
  Expected made{.answer = Expected::Answer::options, .given = {}, .operands = {}};
  const auto end_as = [&](Expected::Answer answer) {
    made.answer = answer;
    return made;
  };
  bool options_end = false;
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    const Text argument = arguments[i];
    if (options_end || argument.size() < 2 || argument[0] != '-') {
      made.operands.push_back(argument);
    } else if (argument == "--") {
      options_end = true;
    } else if (argument == "--help" || argument == "-h" || argument == "--version") {
      return end_as(Expected::Answer::information);
    } else {
      const auto equals = argument.find('=');
      const auto kind = argument.starts_with("--") ? kinds.find(argument.substr(2, equals - 2)) : kinds.end();
      if (kind == kinds.end()) return end_as(Expected::Answer::error);
      const auto [name, what] = *kind;
      Text value;
      if (what == Kind::none) {
        if (equals != Text::npos) return end_as(Expected::Answer::error);
      } else if (equals != Text::npos) {
        value = argument.substr(equals + 1);
      } else if (++i == arguments.size()) {
        return end_as(Expected::Answer::error);
      } else {
        value = arguments[i];
      }
      if (!may_be(what, value)) return end_as(Expected::Answer::error);
      made.given[name] = value;
    }
  }
  const auto receive = made.given.find("receive");
  const bool copies = receive != made.given.end() && receive->second == "copy";
  const bool fits = !copies || made.given.count("one-thread-a-cpu") == 0;
  return end_as(fits && made.operands.size() == 2 ? Expected::Answer::options : Expected::Answer::error);
}

void check_options(const tarnfs::Options& options, const Expected& expected) {
  const auto value = [&](Text name, Text otherwise) {
    const auto at = expected.given.find(name);
    return at == expected.given.end() ? otherwise : at->second;
  };
  const auto has = [&](Text name) { return expected.given.count(name) != 0; };
  const auto index = [](const auto& choices, Text text) { return std::ranges::find(choices, text) - choices.begin(); };
  must(options.source == expected.operands[0] && options.mountpoint == expected.operands[1], "the operands, in order");
  const auto& content = options.content;
  must(content.budget_bytes == size(value("budget", "1G")), "--budget");
  must(content.chunk_bytes == size(value("chunk-size", "64K")), "--chunk-size");
  must(content.part_bytes == size(value("part-size", "4M")), "--part-size");
  must(static_cast<std::ptrdiff_t>(content.storage) == index(storages, value("storage", "arena")), "--storage");
  must(static_cast<std::ptrdiff_t>(content.read_path) == index(paths, value("read-path", "gather")), "--read-path");
  must(content.loaders == digits(value("loaders", "4"), 1024), "--loaders");
  must(content.prefault == has("prefault"), "--prefault");
  must(options.read_ahead_bytes == size(value("read-ahead", "0")), "--read-ahead");
  must(options.threads == digits(value("threads", "0"), 1024), "--threads");
  must(options.direct_io == has("direct-io") && options.keep_cache == has("keep-cache"), "--direct-io, --keep-cache");
  must(options.foreground == has("foreground") && options.stats == has("stats"), "--foreground, --stats");
  must(options.cpus == (has("cpu") ? *cpus(value("cpu", "")) : std::vector<int>{}), "--cpu");
  must(options.rescue == value("rescue", ""), "--rescue");
  must(options.receive_in_place == (value("receive", "in-place") == "in-place"), "--receive");
  must(options.one_thread_a_cpu == has("one-thread-a-cpu"), "--one-thread-a-cpu");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size_bytes) {
  Text text = tarn_test::FuzzInput{bytes, size_bytes}.rest();
  std::vector<std::string> arguments;
  while (!text.empty()) {
    const auto end = std::min(text.find('\0'), text.size());
    arguments.emplace_back(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  std::vector<const char*> pointers;
  for (const auto& argument : arguments) pointers.push_back(argument.c_str());

  const auto parsed = tarnfs::parse_options(pointers);
  const auto expected = expect(arguments);
  must(parsed.index() == static_cast<std::size_t>(expected.answer), "options, an error or information");
  if (const auto* const error = std::get_if<tarnfs::UsageError>(&parsed)) {
    const auto is_control = [](char c) { return static_cast<unsigned char>(c) < ' ' || c == '\x7f'; };
    must(!error->text.empty() && std::ranges::none_of(error->text, is_control),
         "an error is one line that can be read");
  } else if (const auto* const information = std::get_if<tarnfs::Information>(&parsed)) {
    must(information->text.ends_with('\n'), "what was asked for");
  } else {
    check_options(std::get<tarnfs::Options>(parsed), expected);
  }
  return 0;
}
