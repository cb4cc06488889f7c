// SPDX-License-Identifier: MIT
#pragma once

// S3-FIFO (Yang, Zhang, Qiu, Yue and Rashmi, "FIFO queues are all you need for cache eviction", SOSP 2023): a queue of
// what is new, a queue of what is proven, and the names of what has gone. The first touch of a chunk is by what brought
// it, and says nothing. Of those after that, one in each moment is a use: what reads a chunk in small pieces, one after
// the other, uses it once (the correlated references of O'Neil, O'Neil and Weikum, "The LRU-K page replacement
// algorithm for database disk buffering", SIGMOD 1993). Time goes by what comes: a moment is a chunk in 128 of those
// that are kept, so that a fresh one is there for some thirteen.
//
//   fresh    what comes enters here. A tenth of the chunks: while it has more, the oldest of it goes, or is proven if
//            it has two uses
//   proven   the oldest goes if it has no use; else it goes round once more, one use the less
//   gone     of what went from the fresh, as many names as there are chunks: what comes again by one of these is proven
//
// So a scan passes through the fresh, be it in reads smaller than a chunk, and what is used again and again stays
// whatever is scanned. All chunks of a pool take the same memory: a tenth of them is a tenth of the bytes.
//
// Thread safety: touch is two relaxed loads and at most one store, from any thread (a lost count is harmless);
//                everything else is called one at a time.
// Cost:          touch, insert, remove O(1), and once in a while the table of names is made anew; evict at most six
//                turns of both queues, the last one whatever the heat.

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <utility>

#include <tarn/detail/ring.hpp>
#include <tarn/detail/sync.hpp>

namespace tarn {

namespace detail {

/// The names that were added last. A set of a few places for each hash, of which the oldest gives way.
/// Thread safety: one at a time.
class NamesGone {
 public:
  /// At most, but for a single set: between one and three places. While the table is made anew there are two.
  static constexpr std::size_t bytes_per_name = 24;

  /// For about so many names; what was there stays as far as it has room. Without memory there are none.
  void resize(std::size_t names) noexcept {
    if (names <= places_ && (names * 3 >= places_ || (places_ == per_set && names != 0))) return;
    std::size_t places = per_set;
    while (places < names) places *= 2;
    const auto old = std::move(sets_);
    const auto old_sets = std::exchange(places_, 0) / per_set;
    if (names == 0) return;
    sets_.reset(new (std::nothrow) Set[places / per_set]{});
    if (sets_ == nullptr) return;
    places_ = places;
    for (std::size_t i = 0; i < old_sets; ++i) {
      for (const auto& gone : old[i]) {
        if (gone.when == 0) continue;
        auto& oldest = oldest_of(gone.name);
        if (oldest.when == 0 || now_ - oldest.when > now_ - gone.when) oldest = gone;
      }
    }
  }
  void add(std::uint32_t name) noexcept {
    if (places_ == 0) return;
    if (++now_ == 0) now_ = 1;  // 0 is a place that has no name
    oldest_of(name) = {name, now_};
  }
  /// Takes the name off. Returns: whether it was there, and fewer than `most` were added since.
  [[nodiscard]] bool take(std::uint32_t name, std::size_t most) noexcept {
    if (places_ == 0) return false;
    for (auto& gone : set_of(name)) {
      if (gone.when == 0 || gone.name != name) continue;
      const auto since = now_ - gone.when;
      gone = {};
      return since < most;
    }
    return false;
  }
  [[nodiscard]] std::size_t memory_bytes() const { return places_ * sizeof(Gone); }

 private:
  static constexpr std::size_t per_set = 4;
  struct Gone {
    std::uint32_t name = 0, when = 0;
  };
  using Set = std::array<Gone, per_set>;

  [[nodiscard]] Set& set_of(std::uint32_t name) noexcept { return sets_[name & (places_ / per_set - 1)]; }
  [[nodiscard]] Gone& oldest_of(std::uint32_t name) noexcept {
    auto& set = set_of(name);
    auto* oldest = &set[0];
    for (auto& gone : set) {
      if (gone.when == 0) return gone;
      if (now_ - gone.when > now_ - oldest->when) oldest = &gone;
    }
    return *oldest;
  }

  std::unique_ptr<Set[]> sets_;
  std::size_t places_ = 0;
  std::uint32_t now_ = 0;
};

}  // namespace detail

class S3FifoEviction {
 public:
  struct Mark {
    std::uint32_t name = 0;
    bool proven = false;
    detail::Atomic<std::uint8_t> heat{0};
    detail::Atomic<std::uint8_t> moment{0};  // of the last touch that counted; 0: of none
  };
  struct Hook : Mark, detail::RingLinks<Hook> {  // as ClockEviction's
    void reset() noexcept {
      proven = false;
      heat.store(0, std::memory_order_relaxed);
      moment.store(0, std::memory_order_relaxed);
    }
  };
  static constexpr std::uint8_t brought = 1;  ///< the heat of what was touched, and not used
  static constexpr std::uint8_t to_be_proven = brought + 2;
  static constexpr std::uint8_t max_heat = brought + 3;
  static constexpr std::size_t fresh_share = 10;    ///< one chunk in so many
  static constexpr std::size_t moment_share = 128;  ///< as many come in a moment
  static constexpr std::size_t extra_bytes = detail::NamesGone::bytes_per_name;

  void insert(Hook& hook, std::uint64_t name) noexcept {
    hook.name = static_cast<std::uint32_t>(name);
    if (!hook.proven) hook.proven = gone_.take(hook.name, count());
    queue_of(hook).push(hook);
    gone_.resize(count());
    if (++came_ * moment_share < count()) return;
    came_ = 0;
    const auto moment = moment_.load(std::memory_order_relaxed);
    moment_.store(static_cast<std::uint8_t>(moment == UINT8_MAX ? 1 : moment + 1), std::memory_order_relaxed);
  }
  void remove(Hook& hook) noexcept {
    queue_of(hook).take(hook);
    gone_.resize(count());
  }
  void touch(Hook& hook) const noexcept {
    const auto moment = moment_.load(std::memory_order_relaxed);
    if (hook.moment.load(std::memory_order_relaxed) == moment) return;
    hook.moment.store(moment, std::memory_order_relaxed);
    const auto heat = hook.heat.load(std::memory_order_relaxed);
    if (heat < max_heat) hook.heat.store(static_cast<std::uint8_t>(heat + 1), std::memory_order_relaxed);
  }
  template <class TryEvict>
  bool evict(TryEvict try_evict) {
    const auto offer_first = [&](Queue& queue) {
      const auto name = queue.first().name;
      if (!try_evict(queue.first())) {
        queue.go_round();
        return false;
      }
      if (&queue == &fresh_) gone_.add(name);
      return true;
    };
    auto fresh_left = fresh_.count(), proven_left = proven_.count();  // that were not offered in vain
    for (auto steps = (max_heat - brought + std::size_t{2}) * count(); steps != 0 && fresh_left + proven_left != 0;
         --steps) {
      const bool from_fresh = fresh_left != 0 && (proven_left == 0 || fresh_.count() * fresh_share > count());
      auto& hook = (from_fresh ? fresh_ : proven_).first();
      const auto heat = hook.heat.load(std::memory_order_relaxed);
      if (from_fresh && heat >= to_be_proven) {
        prove(hook);
        --fresh_left;
        ++proven_left;
      } else if (!from_fresh && heat > brought) {
        hook.heat.store(static_cast<std::uint8_t>(heat - 1), std::memory_order_relaxed);
        proven_.go_round();
      } else {
        if (offer_first(from_fresh ? fresh_ : proven_)) return true;
        --(from_fresh ? fresh_left : proven_left);
      }
    }
    for (auto* queue : {&fresh_, &proven_}) {  // what can go is in use, or touched all the time
      for (auto left = queue->count(); left != 0; --left) {
        if (offer_first(*queue)) return true;
      }
    }
    return false;
  }
  [[nodiscard]] std::size_t count() const { return fresh_.count() + proven_.count(); }

 private:
  using Queue = detail::Ring<Hook>;  // the oldest first

  void prove(Hook& hook) noexcept {
    fresh_.take(hook);
    hook.proven = true;
    hook.heat.store(brought, std::memory_order_relaxed);
    proven_.push(hook);
  }
  [[nodiscard]] Queue& queue_of(const Hook& hook) { return hook.proven ? proven_ : fresh_; }

  Queue fresh_, proven_;
  detail::NamesGone gone_;
  std::size_t came_ = 0;  // since the moment began
  // Every hit reads it, so it shares no line with what changes more often. From 1, and round.
  alignas(64) detail::Atomic<std::uint8_t> moment_{1};
};

}  // namespace tarn
