// SPDX-License-Identifier: MIT
#pragma once

// How a call gets memory that is not there: by evicting clean chunks; a DirtyFile's call then lets go of all it holds,
// flushes one file, and looks again; when nothing can be flushed either it waits, as long as somebody is known to make
// room: a call that was given reserved chunks, a flush in flight, a reader that uses a clean chunk. With none of those,
// waiting would be for ever, and the answer is ENOBUFS.
//
// With a store that fails, every waiter's try is a flush in flight to the others, so "somebody may make room" would
// stay true for ever. A call therefore gives up after two rounds of tries that failed, with nothing settled by anybody
// in between; first it takes what there is out of its turn, since who is before it may want more. If a flush is in
// flight then of a file whose last one did not fail, it waits for that instead, and begins none: that one may well make
// room, and if it does not, the file's next one is none such. A call with a deadline goes on trying to it, at growing
// intervals, whoever wakes it between and whatever is in flight. A call from inside a store's load or flush never
// waits: it might wait for itself.
//
// Those who wait queue, and the first takes; all of them flush meanwhile, so that several stores work at once. A write
// that would make more dirty than the marks allow finds the pool full, too. Past its file's own limit it waits for room
// in that file: it flushes that, bars nobody from the room in the pool, and of flushes only that file's count for it.
//
// A step is one round, which asks for one flush that goes well at most, so that its caller may stop between two.
//
// Thread safety: one call's own.

#include <algorithm>
#include <cstdint>
#include <optional>
#include <system_error>
#include <utility>

#include <tarn/detail/chunk_reserve.hpp>
#include <tarn/detail/pool_core.hpp>
#include <tarn/detail/room_queue.hpp>
#include <tarn/detail/waiting.hpp>
#include <tarn/result.hpp>

namespace tarn::detail {

/// What a call may do for room.
struct RoomRule {
  WhenFull when_full = WhenFull::fail;  // building blocks never flush and never wait
  bool patient = false;                 // goes on asking a store that fails

  [[nodiscard]] static RoomRule of(const CallOptions& options) {
    return {.when_full = options.when_full, .patient = options.deadline_ns.has_value()};
  }
};

template <class Traits>
class Room {
 public:
  Room(PoolCore<Traits>& core, const RoomRule& rule) : core_{core}, rule_{rule} {}

  /// Whether who wants it would rather hear EAGAIN than wait for anything.
  [[nodiscard]] bool would_block() const { return rule_.when_full == WhenFull::would_block; }
  /// Past the throttle mark, flushes one step before more becomes dirty. Requires: the caller holds nothing.
  void throttle() {
    const auto mark = core_.marks.dirty_throttle_bytes;
    if (mark == 0 || rule_.when_full != WhenFull::wait || depth_in_store() != 0) return;
    if (core_.dirty_memory_bytes() < mark) return;
    core_.counters.throttled.fetch_add(1, std::memory_order_relaxed);
    Resumer::run();
    (void)core_.pressure.flush_one();
  }
  /// Gets what is needed into the reserve, or says why not. Requires: the caller holds nothing.
  /// A step of a call: see waiting.hpp.
  [[nodiscard]] Progress step(ChunkReserve<Traits>& reserve, const Need<Traits>& need) {
    refusal_ = {};
    if (!wait_) {
      const bool waits = rule_.when_full == WhenFull::wait && depth_in_store() == 0;
      // The usual case, and it bothers nobody. Who would not wait takes what there is; others queue behind who waits.
      if ((!waits || !others_wait(need)) && reserve.fill(need) == Freed::some) return Progress::done;
      if (rule_.when_full == WhenFull::fail) return refuse(std::errc::no_buffer_space);
      if (rule_.when_full == WhenFull::would_block) return refuse(std::errc::resource_unavailable_try_again);
      reserve.clear();  // who waits holds nothing: others would count on it
      wait_.emplace(core_.room_queue, full_file(need));
    }
    if (gets(reserve, need)) return end_wait();
    if (rests()) return keep_waiting();  // asked after the look: what ended before the question has not moved the epoch
    const auto flushed = flush_one(need);
    if (flushed == Flushed::some) return gets(reserve, need) ? end_wait() : Progress::between;
    // A failed flush of our own makes room known, too: from here on it is somebody else's.
    if (flushed == Flushed::failed) wait_->look();
    const auto freed = take(reserve, need);
    if (freed == Freed::some) return end_wait();
    judge(flushed);
    if (depth_in_store() != 0) return refuse(std::errc::no_buffer_space);
    if (tries_failed_ && !hope_ && !rule_.patient) {
      // Out of turn: who is before us may want more. And what was hoped for may have ended since we last tried.
      return reserve.fill(need) == Freed::some ? end_wait() : refuse(std::errc::no_buffer_space);
    }
    if (waits_for_file() != (full_file(need) != nullptr)) return Progress::between;  // made or taken since we chose
    if (may_come(need, freed, flushed) || (failed_ && rule_.patient)) return keep_waiting();
    return failed_ || wait_->more() ? Progress::between : refuse(std::errc::no_buffer_space);
  }
  /// Why there is no room: ENOBUFS, EAGAIN; nothing if there is. Requires: the last step is done.
  [[nodiscard]] std::error_code refusal() const { return refusal_; }
  /// Requires: the last step is waiting.
  [[nodiscard]] WaitFor<Traits> wait() const {
    return {.record = {}, .word = wait_->word(), .seen = wait_->seen(), .again_ns = again_ns_};
  }

 private:
  using Freed = typename PoolCore<Traits>::Freed;
  static constexpr std::int64_t first_pause_ns = 1'000'000, last_pause_ns = 128'000'000;

  // The file that is written, if it is that which has no room, or somebody waits for room in it already. Else null.
  [[nodiscard]] const FileRecord<Traits>* full_file(const Need<Traits>& need) const {
    if (need.member == nullptr || core_.marks.file_dirty_limit_bytes == 0) return nullptr;
    const bool full = need.passes_file_limit(core_) || (wait_ && wait_->is_behind_one_for(need.file));
    return full ? need.file : nullptr;
  }
  [[nodiscard]] bool others_wait(const Need<Traits>& need) const {
    return core_.room_queue.has_waiters() || (need.file != nullptr && core_.room_queue.has_waiters_for(need.file));
  }
  // Looks anew, and takes what there is. Returns: whether that is all that is needed.
  [[nodiscard]] bool gets(ChunkReserve<Traits>& reserve, const Need<Traits>& need) {
    wait_->look();
    choose(need);  // after the look: it asks for room in the file
    return take(reserve, need) == Freed::some;
  }
  // What to wait for from here on. What tries for the other told is of no use.
  void choose(const Need<Traits>& need) {
    const auto* const file = full_file(need);
    const auto* const tally = file != nullptr ? &file->flush_tally : &core_.flush_tally;
    if (std::exchange(tally_, tally) == tally) return;
    wait_->wait_for(file);
    failed_ = failed_before_ = started_before_ = tries_failed_ = false;
    failures_before_ = tally->failed.load();
    settled_before_ = tally->settled.load();
    pause(false);
  }
  [[nodiscard]] bool waits_for_file() const { return tally_ != &core_.flush_tally; }
  // Whether its tries have failed, and it asks no store: one that pauses, till that is over; another one, till a flush
  // has ended that may well make room.
  [[nodiscard]] bool rests() const {
    if (!tries_failed_ || tally_->settled.load() != settled_before_) return false;
    return rule_.patient ? core_.time.now_ns() < *again_ns_ : tally_->hopeful.load() != 0;
  }
  // What a round has come to that got no room.
  void judge(Flushed flushed) {
    const auto settled = tally_->settled.load();
    hope_ = tally_->hopeful.load() != 0;
    const auto failures = tally_->failed.load();
    const bool gets_on = settled != settled_before_;
    failed_ = flushed == Flushed::failed || (started_before_ && failures != failures_before_);
    tries_failed_ = !gets_on && (tries_failed_ || (failed_ && failed_before_));
    failed_before_ = failed_ || (failed_before_ && !gets_on);  // also while the flush in flight is another's
    // Readers wake us, too, while our flush is in flight: what says nothing of flushes is no round.
    if (flushed != Flushed::nothing || failures != failures_before_ || gets_on) {
      started_before_ = flushed == Flushed::started;
    }
    failures_before_ = failures;
    settled_before_ = settled;
    pause(rule_.patient && (failed_ || tries_failed_));
  }
  // In turn: only the first in the queue takes, but for a call from inside a store, which must not wait for others.
  [[nodiscard]] Freed take(ChunkReserve<Traits>& reserve, const Need<Traits>& need) {
    if (!wait_->first() && depth_in_store() == 0) return Freed::none;
    return reserve.fill(need);
  }
  [[nodiscard]] Flushed flush_one(const Need<Traits>& need) {
    Resumer::run();
    return waits_for_file() ? need.member->flush_for_room() : core_.pressure.flush_one();
  }
  [[nodiscard]] Progress end_wait() {
    wait_.reset();
    tally_ = nullptr;
    slept_ = false;
    return Progress::done;
  }
  [[nodiscard]] Progress refuse(std::errc why) {
    refusal_ = std::make_error_code(why);
    return end_wait();
  }
  [[nodiscard]] Progress keep_waiting() {
    if (!std::exchange(slept_, true)) core_.counters.room_waits.fetch_add(1, std::memory_order_relaxed);
    return Progress::waiting;
  }
  // Begins one, longer than the last, or has none.
  void pause(bool wanted) {
    pause_ns_ = !wanted ? 0 : std::clamp(2 * pause_ns_, first_pause_ns, last_pause_ns);
    again_ns_ = !wanted ? std::nullopt : std::optional{core_.time.now_ns() + pause_ns_};
  }
  // Asked after the tries: what ended before the question has moved the epoch, and is seen by more(). After a try that
  // failed, a flush in flight is a promise only if it is hopeful.
  [[nodiscard]] bool may_come(const Need<Traits>& need, Freed freed, Flushed flushed) const {
    const bool flight = hope_ || (flushed != Flushed::failed && tally_->flying.load() != 0);
    // Who is before us takes, or gives up, and wakes us either way.
    if (waits_for_file()) return flight || wait_->is_behind_one_for(need.file);
    if (flight || !wait_->first()) return true;
    // A thread with a pin of its own would wait for itself: with any pin about, busy chunks are no promise.
    const bool reader = freed == Freed::none_but_busy && core_.user_pins.load() == 0;
    return reader || core_.reserves.load() != 0;
  }

  PoolCore<Traits>& core_;
  const RoomRule rule_;
  std::optional<RoomQueue::Wait> wait_;
  std::error_code refusal_;
  bool slept_ = false;
  // Of one wait, and while it waits for the same:
  const FlushTally* tally_ = nullptr;
  bool failed_ = false, failed_before_ = false, started_before_ = false, tries_failed_ = false, hope_ = false;
  std::uint64_t settled_before_ = 0, failures_before_ = 0;
  std::int64_t pause_ns_ = 0;
  std::optional<std::int64_t> again_ns_;
};

}  // namespace tarn::detail
