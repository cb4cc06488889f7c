// SPDX-License-Identifier: MIT
#pragma once

// A pool's values as text for Prometheus (exposition format 0.0.4): what a handler of /metrics answers.
//
//   std::string page;
//   const std::vector<tarn::PrometheusPool> pools{{data.stats(), {{"pool", "data"}}},
//                                                 {meta.stats(), {{"pool", "meta"}}}};
//   tarn::write_prometheus(pools, "myfs", std::back_inserter(page));
//
//   # HELP myfs_dirty_bytes bytes held that are newer than the store
//   # TYPE myfs_dirty_bytes gauge
//   myfs_dirty_bytes{pool="data"} 4096
//   myfs_dirty_bytes{pool="meta"} 0
//
// Names are those of pool_values behind the prefix. A counter's ends in _total; what is in ns there is in seconds here,
// the format's base unit, to the last digit. Serve it as `text/plain; version=0.0.4`.
//
// An edge, though it needs no third party: only who serves metrics includes it.
//
// Thread safety: plain functions of values.

#include <algorithm>
#include <cassert>
#include <cstddef>
#include <iterator>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <tarn/pool_stats.hpp>

namespace tarn {

struct PrometheusLabel {
  std::string name;   ///< letters, digits and _; no digit first, not __ first
  std::string value;  ///< any UTF-8
};

struct PrometheusPool {
  PoolStats stats;
  std::vector<PrometheusLabel> labels;  ///< what tells this pool from the others; none if there is one
};

namespace detail {

/// Letters, digits, _ and whatever is in `more`; no digit first, and not empty.
[[nodiscard]] constexpr bool is_prometheus_name(std::string_view name, std::string_view more) {
  const auto letter = [&](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || more.find(c) != more.npos;
  };
  const auto fits = [&](char c) { return letter(c) || (c >= '0' && c <= '9'); };
  return !name.empty() && letter(name.front()) && std::all_of(name.begin(), name.end(), fits);
}

/// The metric's name, in the format's base units.
[[nodiscard]] inline std::string prometheus_name(const PoolValue& value, std::string_view prefix) {
  auto name = std::string{prefix} + '_' + value.name;
  if (name.ends_with("_ns")) name.replace(name.size() - 2, 2, "seconds");
  if (value.kind == PoolValueKind::counter) name += "_total";
  return name;
}
[[nodiscard]] inline std::string prometheus_number(const PoolValue& value, const PoolStats& stats) {
  const auto digits = std::to_string(stats.*value.in_stats);
  if (!std::string_view{value.name}.ends_with("_ns")) return digits;
  constexpr std::size_t decimals = 9;
  auto seconds = std::string(digits.size() > decimals ? 0 : decimals + 1 - digits.size(), '0') + digits;
  return seconds.insert(seconds.size() - decimals, 1, '.');
}
/// `{name="value",...}`, or nothing for no labels.
[[nodiscard]] inline std::string prometheus_labels(const std::vector<PrometheusLabel>& labels) {
  std::string text;
  for (const auto& [name, value] : labels) {
    assert(is_prometheus_name(name, "") && !name.starts_with("__") && "not the name of a label");
    text += (text.empty() ? '{' : ',') + name + "=\"";
    for (const char c : value) {
      if (c == '\\' || c == '"' || c == '\n') text += '\\';
      text += c == '\n' ? 'n' : c;
    }
    text += '"';
  }
  return text.empty() ? text : text + '}';
}

}  // namespace detail

/// Writes every value of every pool, each value described once.
///
/// Returns:  where it ended.
/// Errors:   throws bad_alloc, and what `out` throws.
/// Requires: `prefix` is the start of a metric's name: letters, digits, _ and :, no digit first. No two pools have the
///           same labels, and no pool has a label twice.
template <std::output_iterator<char> Out>
Out write_prometheus(std::span<const PrometheusPool> pools, std::string_view prefix, Out out) {
  assert(detail::is_prometheus_name(prefix, ":") && "not the start of a metric's name");
  const auto put = [&](std::string_view text) { out = std::copy(text.begin(), text.end(), std::move(out)); };
  std::vector<std::string> labels;
  for (const auto& pool : pools) labels.push_back(detail::prometheus_labels(pool.labels));
  for (const auto& value : pool_values) {
    if (pools.empty()) break;
    const auto name = detail::prometheus_name(value, prefix);
    put("# HELP " + name + ' ' + value.phrase + '\n');
    put("# TYPE " + name + (value.kind == PoolValueKind::counter ? " counter\n" : " gauge\n"));
    for (std::size_t i = 0; i < pools.size(); ++i) {
      put(name + labels[i] + ' ' + detail::prometheus_number(value, pools[i].stats) + '\n');
    }
  }
  return out;
}

}  // namespace tarn
