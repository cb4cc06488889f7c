// SPDX-License-Identifier: MIT
#include <tarn/prometheus.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <map>
#include <optional>
#include <regex>
#include <set>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "support/catch.hpp"

using tarn::PrometheusPool;

namespace {

/// What a strict reader of format 0.0.4 makes of a page; throws where the page breaks a rule of it.
class Page {
 public:
  using Labels = std::map<std::string, std::string>;
  struct Metric {
    std::string help, type;
    std::map<Labels, std::string> samples;
  };
  std::map<std::string, Metric> metrics;
  std::size_t lines = 0;

  explicit Page(const std::string& text) {
    if (!text.empty() && text.back() != '\n') throw std::runtime_error{"the last line does not end"};
    std::istringstream in{text};
    for (std::string line; std::getline(in, line); ++lines) {
      try {
        line.starts_with('#') ? read_comment(line) : read_sample(line);
      } catch (const std::runtime_error& e) {
        throw std::runtime_error{std::string{e.what()} + ": " + line};
      }
    }
    end_metric();
  }

 private:
  static void require(bool holds, const char* rule) {
    if (!holds) throw std::runtime_error{rule};
  }
  void end_metric() {
    if (!current_) return;
    const auto& metric = metrics.at(*current_);
    require(!metric.type.empty() && !metric.help.empty(), "a metric without HELP or TYPE");
    require(!metric.samples.empty(), "a metric without samples");
  }
  void read_comment(const std::string& line) {
    static const std::regex help{R"(# HELP ([a-zA-Z_:][a-zA-Z0-9_:]*) (([^\\]|\\\\|\\n)+))"};
    static const std::regex type{R"(# TYPE ([a-zA-Z_:][a-zA-Z0-9_:]*) (counter|gauge))"};
    std::smatch found;
    if (std::regex_match(line, found, help)) {
      end_metric();
      require(metrics.count(found[1]) == 0, "a metric is described twice, or its lines are apart");
      current_ = found[1];
      metrics[*current_].help = found[2];
    } else {
      require(std::regex_match(line, found, type), "neither HELP nor TYPE");
      require(current_ && *current_ == found[1], "a TYPE of another metric");
      auto& metric = metrics[*current_];
      require(metric.type.empty() && metric.samples.empty(), "a second TYPE, or one behind the samples");
      metric.type = found[2];
    }
  }
  void read_sample(const std::string& line) {
    static const std::regex sample{R"(([a-zA-Z_:][a-zA-Z0-9_:]*)(\{.*\})? ([0-9]+(\.[0-9]+)?))"};
    std::smatch found;
    require(std::regex_match(line, found, sample), "not a sample");
    require(current_ && *current_ == found[1], "a sample of another metric");
    require(metrics[*current_].samples.emplace(read_labels(found[2]), found[3]).second, "labels that come twice");
  }
  static Labels read_labels(const std::string& text) {
    Labels labels;
    if (text.empty()) return labels;
    std::size_t at = 1;
    while (true) {
      static const std::regex start{R"(([a-zA-Z_][a-zA-Z0-9_]*)=")"};
      std::smatch found;
      const auto rest = text.substr(at);
      require(std::regex_search(rest, found, start, std::regex_constants::match_continuous), "not a label");
      require(!found.str(1).starts_with("__"), "a label of the format's own");
      at += found.str(0).size();
      std::string value;
      for (; at < text.size() && text[at] != '"'; ++at) {
        if (text[at] != '\\') {
          value += text[at];
          continue;
        }
        const char escaped = text.at(++at);
        require(escaped == '\\' || escaped == '"' || escaped == 'n', "no such escape");
        value += escaped == 'n' ? '\n' : escaped;
      }
      require(labels.emplace(found.str(1), value).second, "a label twice");
      require(at + 1 < text.size(), "a label does not end");
      if (text[++at] == '}') break;
      require(text[at++] == ',', "labels are not apart");
    }
    require(at + 1 == text.size(), "something behind the labels");
    return labels;
  }
  std::optional<std::string> current_;
};

[[nodiscard]] std::string page_of(const std::vector<PrometheusPool>& pools, std::string_view prefix = "tarn") {
  std::string text;
  tarn::write_prometheus(pools, prefix, std::back_inserter(text));
  return text;
}
[[nodiscard]] bool refused(const std::string& text) {
  try {
    const Page page{text};
    return false;
  } catch (const std::runtime_error&) {
    return true;
  }
}

}  // namespace

TEST_CASE("the reader of these tests refuses what breaks the format", "[prometheus]") {
  const std::string head = "# HELP a what\n# TYPE a gauge\n";
  REQUIRE_FALSE(refused(head + "a 1\n"));
  REQUIRE_FALSE(refused(head + "a{b=\"c\\\\\\\"\\n,}\",d=\"\"} 1.5\n"));
  for (const auto* const bad :
       {"a 1", "a 1\na 2\n", "b 1\n", "a{b=\"c\"} 1\na{b=\"c\"} 1\n", "a -\n", "a{b=\"c} 1\n", "a{b=\"\\x\"} 1\n",
        "a{b=\"c\",b=\"c\"} 1\n", "a{1b=\"c\"} 1\n", "a{__b=\"c\"} 1\n", "a{b=\"c\"}1\n", "a 1\n# TYPE a gauge\n",
        "a 1\n# HELP b what\n# TYPE b gauge\nb 1\n# HELP a what\n# TYPE a gauge\na{b=\"c\"} 1\n", ""}) {
    CAPTURE(bad);
    CHECK(refused(head + bad));
  }
}

TEST_CASE("every value is there, described once, and named and typed as the format wants", "[prometheus]") {
  const Page page{page_of({{.stats = {}, .labels = {}}})};
  CHECK(page.metrics.size() == std::size(tarn::pool_values));
  CHECK(page.lines == 3 * std::size(tarn::pool_values));
  for (const auto& [name, metric] : page.metrics) {
    CAPTURE(name);
    CHECK((metric.type == "counter") == name.ends_with("_total"));
    CHECK(name.starts_with("tarn_"));
    CHECK(name.find("_ns") == name.npos);
    REQUIRE(metric.samples.size() == 1);
    CHECK(metric.samples.begin()->first.empty());
  }
  CHECK(page.metrics.at("tarn_dirty_bytes").type == "gauge");
  CHECK(page.metrics.at("tarn_dirty_bytes").help == "bytes held that are newer than the store");
  CHECK(page.metrics.at("tarn_load_bytes_total").type == "counter");
  CHECK(page.metrics.count("tarn_oldest_change_seconds") == 1);
}

TEST_CASE("numbers are whole, and times are seconds to the last nanosecond", "[prometheus]") {
  const auto seconds_of = [](std::uint64_t ns) {
    const Page page{page_of({{.stats = {.oldest_change_ns = ns}, .labels = {}}})};
    return page.metrics.at("tarn_oldest_change_seconds").samples.at({});
  };
  CHECK(seconds_of(0) == "0.000000000");
  CHECK(seconds_of(1) == "0.000000001");
  CHECK(seconds_of(999'999'999) == "0.999999999");
  CHECK(seconds_of(1'000'000'000) == "1.000000000");
  CHECK(seconds_of(UINT64_MAX) == "18446744073.709551615");
  const Page page{page_of({{.stats = {.loads = UINT64_MAX}, .labels = {}}})};
  CHECK(page.metrics.at("tarn_loads_total").samples.at({}) == "18446744073709551615");
}

TEST_CASE("pools are told apart by their labels, under one description", "[prometheus]") {
  const std::vector<PrometheusPool> pools{
      {.stats = {.dirty_bytes = 1, .evictions = 4}, .labels = {{"pool", "data"}, {"host", "a"}}},
      {.stats = {.dirty_bytes = 2, .evictions = 5}, .labels = {{"pool", "meta"}, {"host", "a"}}},
      {.stats = {.dirty_bytes = 3, .evictions = 6}, .labels = {}}};
  const Page page{page_of(pools, "my:fs_1")};
  CHECK(page.lines == (2 + pools.size()) * std::size(tarn::pool_values));
  using Samples = std::map<Page::Labels, std::string>;
  CHECK(page.metrics.at("my:fs_1_dirty_bytes").samples ==
        Samples{{{{"pool", "data"}, {"host", "a"}}, "1"}, {{{"pool", "meta"}, {"host", "a"}}, "2"}, {{}, "3"}});
  CHECK(page.metrics.at("my:fs_1_evictions_total").samples ==
        Samples{{{{"pool", "data"}, {"host", "a"}}, "4"}, {{{"pool", "meta"}, {"host", "a"}}, "5"}, {{}, "6"}});
}

TEST_CASE("whatever is in a label's value comes back from it", "[prometheus]") {
  const std::string value = "a\\b\"c\nd,e={}\\n \xc3\xa4\\";
  const auto text = page_of({{.stats = {}, .labels = {{"path", value}, {"empty", ""}}}});
  CHECK(text.find(R"(path="a\\b\"c\nd,e={}\\n )") != text.npos);
  for (const auto& [name, metric] : Page{text}.metrics) {
    CHECK(metric.samples.count({{"path", value}, {"empty", ""}}) == 1);
  }
}

TEST_CASE("it is appended to what is there, and ends where it says; without a pool there is nothing to write",
          "[prometheus]") {
  std::string text = "# mine\n";
  const std::vector<PrometheusPool> pools{{.stats = {}, .labels = {}}};
  tarn::write_prometheus(pools, "tarn", std::back_inserter(text));
  CHECK(text == "# mine\n" + page_of(pools));
  std::vector<char> buffer(text.size());
  auto* const end = tarn::write_prometheus(pools, "tarn", buffer.data());
  CHECK(std::string(buffer.data(), end) == page_of(pools));
  CHECK(page_of({}).empty());
}

TEST_CASE("a name is letters, digits and what else is allowed, with no digit first", "[prometheus]") {
  using tarn::detail::is_prometheus_name;
  for (const char* const name : {"a", "z", "A", "Z", "_", "mZ_09", "pool_1"}) CHECK(is_prometheus_name(name, ""));
  for (const char* const name : {"", "0", "9a", "a-b", "a b", "a{", "a[", "a@", "a/", "a:", "\xc3\xa4"}) {
    CAPTURE(name);
    CHECK_FALSE(is_prometheus_name(name, ""));
  }
  CHECK(is_prometheus_name("my:fs", ":"));
  CHECK(is_prometheus_name(":", ":"));
}

TEST_CASE("a name has letters, digits and _, and no digit first", "[prometheus]") {
  const auto is_name = [](std::string_view name) { return tarn::detail::is_prometheus_name(name, ":"); };
  for (const char* const name : {"a", "_", "Z9", "a:b", ":"}) CHECK(is_name(name));
  for (const char* const name : {"", "9", "9a", "a-b", "-", "a b", "ä"}) CHECK_FALSE(is_name(name));
}
