// SPDX-License-Identifier: MIT
#pragma once

// The bytes of a file as the model has them, and, while a call watches, every state since: what a read may show that
// takes its windows at different moments.
//
// Thread safety: none.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <span>

#include "support/model_random.hpp"

namespace tarn_test {

class ModelHistory {
 public:
  ModelBytes now;

  /// `now` has changed.
  void note() {
    if (watchers_ != 0) states_.push_back(now);
  }
  /// Returns: the present moment, from which on states are kept until unwatch().
  std::size_t watch() {
    if (watchers_++ == 0) states_.assign(1, now);
    return states_.size() - 1;
  }
  void unwatch() {
    if (--watchers_ == 0) states_.clear();
  }
  /// Whether anything has changed since. Requires: it watches since then.
  [[nodiscard]] bool changed_since(std::size_t moment) const { return states_.size() - 1 > moment; }
  /// Whether a state since then meets `is`.
  template <class Is>
  [[nodiscard]] bool any_since(std::size_t moment, Is is) const {
    return std::any_of(states_.begin() + static_cast<std::ptrdiff_t>(moment), states_.end(), is);
  }

  /// Whether a read of [offset, offset + asked) may show `seen`: it is a sequence of windows in ascending order, each
  /// of one moment, none of an earlier one than the window before; the end of the file is one too.
  [[nodiscard]] bool admits(std::uint64_t offset, std::size_t asked, std::uint64_t window_bytes,
                            std::span<const std::byte> seen, std::size_t since) const {
    std::map<std::size_t, std::size_t> ways{{0, since}};  // from what is read so far to the earliest moment of it
    while (!ways.empty()) {
      const auto [done, first] = *ways.begin();
      if (done == asked) return true;
      ways.erase(ways.begin());
      for (auto moment = first; moment < states_.size(); ++moment) {
        const auto& state = states_[moment];
        const auto at = static_cast<std::size_t>(offset) + done;
        const auto left = at < state.size() ? state.size() - at : 0;
        const auto n = std::min({static_cast<std::size_t>(window_bytes), asked - done, left});
        if (n == 0 && done == seen.size()) return true;
        if (n == 0 || done + n > seen.size()) continue;
        const auto here = state.begin() + static_cast<std::ptrdiff_t>(at);
        if (std::equal(here, here + static_cast<std::ptrdiff_t>(n), seen.begin() + static_cast<std::ptrdiff_t>(done))) {
          const auto way = ways.emplace(done + n, moment).first;
          way->second = std::min(way->second, moment);
        }
      }
    }
    return false;
  }

 private:
  std::size_t watchers_ = 0;
  std::deque<ModelBytes> states_;
};

}  // namespace tarn_test
