// SPDX-License-Identifier: MIT
#pragma once

// Write-back in the background: a thread that flushes a pool's DirtyFiles, job by job, while their dirty chunks take
// more memory than the pool's background mark, and what has waited longer than it should.
//
// tarn starts no thread of its own; this is one for whoever wants it, or its rounds without it. It calls the files'
// stores, and is the only thing here that backs off: after a round in which a store failed it pauses, twice as long
// each time, up to a limit. That never answers for an fsync, which asks the store at once.
//
// Thread safety: construction and destruction in one thread; wake from any. FlushRounds: see there.

#include <algorithm>
#include <cstdint>
#include <mutex>
#include <stop_token>
#include <thread>

#include <tarn/chunk_pool.hpp>

namespace tarn {

struct FlusherOptions {
  std::int64_t interval_ns = 1'000'000'000;        ///< how often it looks
  std::int64_t dirty_ns_max = 5'000'000'000;       ///< what has been dirty longer is flushed; 0: only the mark counts
  std::int64_t first_pause_ns = 100'000'000;       ///< after a failure
  std::int64_t longest_pause_ns = 30'000'000'000;  ///< after many
};

/// The rounds of a Flusher, for who has a timer and no thread to spare: an event loop, say, with stores that answer
/// later.
///
/// Thread safety: one call at a time.
template <class Traits>
class FlushRounds {
 public:
  /// Requires: the pool outlives it.
  explicit FlushRounds(ChunkPool<Traits>& pool, const FlusherOptions& options = {})
      : core_{pool.core()}, options_{options} {}

  /// Flushes what is due, job by job, till nothing is or a store fails; not after `stop`.
  /// Returns: when the next one should be, by the pool's time source.
  /// Blocks:  as the stores do: not on one that answers later.
  std::int64_t round(const std::stop_token& stop = {}) {
    const auto began_ns = core_.time.now_ns();
    if (flush_due(stop)) {
      pause_ns_ = 0;
      return began_ns + options_.interval_ns;
    }
    pause_ns_ = std::clamp(2 * pause_ns_, options_.first_pause_ns, options_.longest_pause_ns);
    return began_ns + pause_ns_;
  }

 private:
  // Returns: whether no store failed.
  bool flush_due(const std::stop_token& stop) {
    using detail::Flushed;
    const detail::Resumer resumer;
    const auto failures = core_.counters.flush_failures.load();
    const auto before_ns = core_.time.now_ns() - options_.dirty_ns_max;
    const auto while_it_gets_on = [&](auto flush_one) {
      auto flushed = Flushed::some;
      while ((flushed == Flushed::some || flushed == Flushed::started) && !stop.stop_requested()) flushed = flush_one();
    };
    while_it_gets_on([&] { return over_mark() ? core_.pressure.flush_one() : Flushed::nothing; });
    if (options_.dirty_ns_max != 0) {
      while_it_gets_on([&] {
        return core_.pressure.flush_one([&](detail::Flushable& member) { return member.flush_older_than(before_ns); });
      });
    }
    return core_.counters.flush_failures.load() == failures;
  }
  [[nodiscard]] bool over_mark() const {
    const auto mark = core_.marks.dirty_background_bytes;
    return mark != 0 && core_.dirty_memory_bytes() >= mark;
  }

  detail::PoolCore<Traits>& core_;
  const FlusherOptions options_;
  std::int64_t pause_ns_ = 0;
};

template <class Traits>
class Flusher {
 public:
  /// Requires: the pool outlives the flusher.
  explicit Flusher(ChunkPool<Traits>& pool, const FlusherOptions& options = {})
      : core_{pool.core()}, rounds_{pool, options}, thread_{[this](const std::stop_token& stop) { run(stop); }} {}
  Flusher(const Flusher&) = delete;
  Flusher& operator=(const Flusher&) = delete;
  /// Blocks: on the flush that is being made, if any. What is dirty then stays so.
  ~Flusher() {
    thread_.request_stop();
    wake();
  }

  /// Has it look now. Blocks: no.
  void wake() {
    {
      std::lock_guard lock{mutex_};
      woken_ = true;
    }
    changed_.notify_all();
  }

 private:
  void run(const std::stop_token& stop) {
    while (!stop.stop_requested()) {
      const auto until_ns = rounds_.round(stop);
      std::unique_lock lock{mutex_};
      while (!woken_ && !stop.stop_requested() && core_.time.now_ns() < until_ns) {
        (void)core_.time.wait_until(changed_, lock, until_ns);
      }
      woken_ = false;
    }
  }

  detail::PoolCore<Traits>& core_;
  FlushRounds<Traits> rounds_;
  detail::Mutex mutex_;
  detail::ConditionVariable changed_;
  bool woken_ = false;
  std::jthread thread_;  // last: it uses the others
};

}  // namespace tarn
