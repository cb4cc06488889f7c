// SPDX-License-Identifier: MIT
#pragma once

// Write-back in the background: a thread that flushes a pool's DirtyFiles, job by job, while their dirty chunks take
// more memory than the pool's background mark, and what has waited longer than it should.
//
// tarn starts no thread of its own; this is one for whoever wants it, or its rounds without it. It calls the files'
// stores, and is the only thing here that backs off: when a store has failed it pauses, twice as long each time, up to
// a limit. That never answers for an fsync, which asks the store at once.
//
// Thread safety: construction and destruction in one thread; wake from any. FlushRounds: see there.

#include <algorithm>
#include <cstdint>
#include <stop_token>
#include <thread>
#include <utility>

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

  /// Flushes what is due, job by job, till nothing is or a store fails; not after `stop`, and not during a pause. With
  /// stores that answer later it is worth a call when a flush has been answered: till then that file waits.
  /// Returns: when the next one should be, by the pool's time source; soon, while flushes are in flight.
  /// Blocks:  as the stores do: not on one that answers later.
  std::int64_t round(const std::stop_token& stop = {}) {
    const auto now_ns = core_.time.now_ns();
    if (now_ns < pause_end_ns_) return pause_end_ns_;
    auto failures = core_.flush_tally.failed.load();
    // What the last round left in flight was answered since; with nothing in flight it was somebody else's flush.
    bool failed = in_flight_ && failures != failures_seen_;
    if (!failed) {
      failures_seen_ = failures;
      flush_due(stop);
      failures = core_.flush_tally.failed.load();
      failed = failures != failures_seen_;
    }
    failures_seen_ = failures;
    in_flight_ = core_.flush_tally.flying.load() != 0;
    if (failed) {
      pause_ns_ = std::clamp(2 * pause_ns_, options_.first_pause_ns, options_.longest_pause_ns);
      return pause_end_ns_ = now_ns + pause_ns_;
    }
    const auto settled = core_.flush_tally.settled.load();
    if (std::exchange(settled_seen_, settled) != settled) pause_ns_ = watch_ns_ = 0;
    if (!in_flight_) return now_ns + options_.interval_ns;
    watch_ns_ = std::min(std::max(2 * watch_ns_, first_watch_ns), options_.interval_ns);
    return now_ns + watch_ns_;
  }

 private:
  static constexpr std::int64_t first_watch_ns = 1'000'000;

  void flush_due(const std::stop_token& stop) {
    using detail::Flushed;
    const detail::Resumer resumer;
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
  }
  [[nodiscard]] bool over_mark() const {
    const auto mark = core_.marks.dirty_background_bytes;
    return mark != 0 && core_.dirty_memory_bytes() >= mark;
  }

  detail::PoolCore<Traits>& core_;
  const FlusherOptions options_;
  std::int64_t pause_ns_ = 0, pause_end_ns_ = INT64_MIN;
  std::int64_t watch_ns_ = 0;  // how soon it looks again while flushes are in flight: twice as late each time
  std::uint64_t failures_seen_ = 0, settled_seen_ = 0;
  bool in_flight_ = false;
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

  /// Has it look now, unless it pauses. Blocks: no.
  void wake() {
    {
      detail::MutexLock lock{mutex_};
      woken_ = true;
    }
    changed_.notify_all();
  }

 private:
  void run(const std::stop_token& stop) {
    while (!stop.stop_requested()) {
      const auto until_ns = rounds_.round(stop);
      detail::MutexLock lock{mutex_};
      while (!woken_ && !stop.stop_requested() && core_.time.now_ns() < until_ns) {
        (void)core_.time.wait_until(changed_, lock.std_lock(), until_ns);
      }
      woken_ = false;
    }
  }

  detail::PoolCore<Traits>& core_;
  FlushRounds<Traits> rounds_;
  detail::CheckedMutex mutex_;
  detail::ConditionVariable changed_;
  bool woken_ TARN_GUARDED_BY(mutex_) = false;
  std::jthread thread_;  // last: it uses the others
};

}  // namespace tarn
