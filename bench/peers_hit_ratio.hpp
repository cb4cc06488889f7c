// SPDX-License-Identifier: MIT
#pragma once

// How often what is looked for is held: tarn's eviction policies and the LRU of the textbooks on the same traces, each
// with room for so many objects. No bytes and no clock: a trace says the same every time.
//
// Thread safety: none.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include <tarn/eviction/s3_fifo.hpp>
#include <tarn/policies.hpp>
#include <tarn/testing/random.hpp>

#include "paired.hpp"
#include "peers_caches.hpp"

namespace tarn_bench {

using Object = std::uint32_t;
using Trace = std::vector<Object>;

/// Objects in [0, count), of which the one of rank r is wanted as often as the first one divided by r. The ranks are
/// dealt out by chance, so that who goes through the objects in order does not go by rank.
class Zipf {
 public:
  Zipf(Object count, std::uint64_t seed) : random_{seed} {
    double sum = 0;
    for (Object i = 0; i < count; ++i) {
      sum += 1.0 / (i + 1);
      up_to_.push_back(sum);
      of_rank_.push_back(i);
    }
    for (auto left = count; left > 1; --left) std::swap(of_rank_[left - 1], of_rank_[random_.below(left)]);
  }
  [[nodiscard]] Object next() {
    const auto at = static_cast<double>(random_.next() >> 11) * 0x1p-53 * up_to_.back();
    const auto found = std::upper_bound(up_to_.begin(), up_to_.end() - 1, at);
    return of_rank_[static_cast<std::size_t>(found - up_to_.begin())];
  }

 private:
  tarn::testing::Random random_;
  std::vector<double> up_to_;
  std::vector<Object> of_rank_;
};

/// A policy with room for so many objects of a trace, driven as a pool does it: what comes is inserted by a name whose
/// bits are mixed, and touched by what brought it; what is found is touched.
template <tarn::EvictionPolicy Policy>
class Evicting {
 public:
  Evicting(Object objects, std::size_t room) : entries_(std::make_unique<Entry[]>(objects)), room_{room} {}

  /// Returns: whether the object was held. It is from here on.
  bool look_up(Object object) {
    auto& entry = entries_[object];
    const bool was_held = entry.held;
    if (!was_held) {
      if (policy_.count() == room_) expect(policy_.evict([&](auto& hook) { return take(hook); }), "an eviction");
      entry.reset();
      entry.held = true;
      policy_.insert(entry, tarn::testing::Random{object}.next());
    }
    policy_.touch(entry);
    return was_held;
  }
  [[nodiscard]] std::size_t count() const { return policy_.count(); }

 private:
  struct Entry : Policy::Hook {
    bool held = false;
  };
  bool take(typename Policy::Hook& hook) {
    static_cast<Entry&>(hook).held = false;
    policy_.remove(hook);
    return true;
  }

  const std::unique_ptr<Entry[]> entries_;
  const std::size_t room_;
  Policy policy_;
};

/// The other arm.
class EvictingLru {
 public:
  EvictingLru(Object, std::size_t room) : lru_{room} {}

  bool look_up(Object object) {
    if (lru_.get(object)) return true;
    lru_.put(object, {});
    return false;
  }
  [[nodiscard]] std::size_t count() const { return lru_.count(); }

 private:
  struct Nothing {};
  TextbookLru<Object, Nothing> lru_;
};

/// Of the look-ups of a trace, which share found its object. Those of its first quarter fill the room and do not count.
template <class Cache>
[[nodiscard]] double hit_ratio(const Trace& trace, Object objects, std::size_t room) {
  Cache cache{objects, room};
  std::size_t at = 0, hits = 0;
  for (; at < trace.size() / 4; ++at) cache.look_up(trace[at]);
  expect(cache.count() == room, "the room is full");
  for (; at < trace.size(); ++at) hits += cache.look_up(trace[at]) ? 1 : 0;
  expect(cache.count() == room, "the room is full still, and has no more");
  return static_cast<double>(hits) / static_cast<double>(trace.size() - trace.size() / 4);
}

}  // namespace tarn_bench
