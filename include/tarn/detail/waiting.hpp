// SPDX-License-Identifier: MIT
#pragma once

// Calls as steps: each algorithm goes on until it is done or must wait for something, and says for what. Nothing is
// held between two steps but what the call has reserved, and the loads whose end it waits for. Who waits is another's
// business: a thread here, an operation in dirty_file_async.hpp.
//
// Thread safety: one call's own.

#include <cstdint>
#include <optional>
#include <stop_token>
#include <system_error>
#include <utility>

#include <tarn/call_options.hpp>
#include <tarn/detail/pool_core.hpp>
#include <tarn/result.hpp>

namespace tarn::detail {

/// What a step came to. Between two requests: it could go on at once, unless its caller wants no more of it.
enum class Progress : std::uint8_t { done, waiting, between };

/// What a call waits for: that a word moves from what it was.
template <class Traits>
struct WaitFor {
  RecordRef<Traits> record;  // what the word is in, unless it is the pool's
  const Atomic<std::uint64_t>* word = nullptr;
  std::uint64_t seen = 0;
  std::optional<std::int64_t> again_ns = {};  // when the call is to be stepped again, though it has not moved

  [[nodiscard]] static WaitFor arrival(const RecordRef<Traits>& record, std::uint64_t seen) {
    return {.record = record.share(), .word = &record->arrivals, .seen = seen};
  }
  [[nodiscard]] bool over() const { return word->load() != seen; }
};

/// Why a caller wants no more: ETIMEDOUT, ECANCELED; else nothing.
template <class Traits>
[[nodiscard]] std::error_code why_stop(const PoolCore<Traits>& core, const CallOptions& options) {
  if (options.stop.stop_requested()) return std::make_error_code(std::errc::operation_canceled);
  if (options.deadline_ns && core.time.now_ns() >= *options.deadline_ns)
    return std::make_error_code(std::errc::timed_out);
  return {};
}

/// Blocks the thread until the wait is over, or the caller wants no more of it.
/// Returns: why not to go on: ETIMEDOUT, ECANCELED; EDEADLK inside a call of a store for what is waited for, which may
///          not end before this thread does; else nothing.
/// Requires: no lock and no latch is held.
template <class Traits>
[[nodiscard]] std::error_code block(PoolCore<Traits>& core, const WaitFor<Traits>& wait, const CallOptions& options) {
  Resumer::run();
  if (wait.record && Serving::is_for(&*wait.record) && !wait.over()) {
    return std::make_error_code(std::errc::resource_deadlock_would_occur);
  }
  const auto blocked = [&] { return !wait.over() && !options.stop.stop_requested(); };
  const auto wake = [&] {
    const Resumer resumer;
    core.parking.wake(wait.word);
  };
  const std::stop_callback<decltype(wake)> on_stop{options.stop, wake};
  auto until_ns = options.deadline_ns;
  if (wait.again_ns) until_ns = until_ns ? std::min(*until_ns, *wait.again_ns) : wait.again_ns;
  if (until_ns) {
    (void)core.parking.park_until(wait.word, blocked, [&](ConditionVariable& changed, std::unique_lock<Mutex>& lock) {
      return core.time.wait_until(changed, lock, *until_ns);
    });
  } else {
    core.parking.park(wait.word, blocked);
  }
  if (wait.over()) return {};
  return why_stop(core, options);
}

/// While it lives, no flush of the file joins one in flight, so that there comes a moment with none.
template <class Traits>
class NoFlushJoins {
 public:
  explicit NoFlushJoins(FileRecord<Traits>& record) : waiting_{record.waits_for_none} { waiting_.fetch_add(1); }
  NoFlushJoins(const NoFlushJoins&) = delete;
  NoFlushJoins& operator=(const NoFlushJoins&) = delete;
  ~NoFlushJoins() { waiting_.fetch_sub(1); }

 private:
  Atomic<std::uint32_t>& waiting_;
};

/// Waits until no flush of the file is in flight, `dropped`: nor one of a file that has gone.
/// Returns: why not, as block. Requires: the caller holds nothing.
template <class Traits>
[[nodiscard]] std::error_code wait_for_flush(PoolCore<Traits>& core, const RecordRef<Traits>& record,
                                             const CallOptions& options = {}, bool dropped = false) {
  const NoFlushJoins<Traits> none_joins{*record};
  while (const auto arrivals = flush_in_flight(*record, dropped)) {
    if (const auto why = block(core, WaitFor<Traits>::arrival(record, *arrivals), options); why) return why;
  }
  return {};
}

/// Steps a call to its end in this thread. Returns: its result, or why it was given up.
/// Errors: passes on what it throws.
template <class Traits, class Call>
[[nodiscard]] auto run_to_end(PoolCore<Traits>& core, const CallOptions& options, Call& call)
    -> Result<typename Call::Answer> {
  for (;;) {
    const auto progress = call.step();
    if (progress == Progress::done) return call.take_result();
    const bool waits = progress == Progress::waiting;
    if (const auto why = waits ? block(core, call.wait(), options) : why_stop(core, options); why) {
      return call.give_up(why);
    }
  }
}

}  // namespace tarn::detail
