// SPDX-License-Identifier: MIT
#pragma once

// A file's flush, job by job, in steps (see waiting.hpp). The owner is a FileBody, or the file that a building block
// was given.
//
// Each job that the store is asked for is a FlushFlight. It settles itself, in the thread that brings the answer, so
// whoever asked may stop waiting, and the file may even go: what was stored is noted all the same, or is of no use any
// more. An error that nobody waits for is kept for the file's openers.
//
// A store that takes several flushes of a file at once (see store.hpp) gets them: the file's next jobs begin while
// those before are in flight, as long as they may (see flush_search.hpp). After one that failed no other begins, but
// all end before the call does, unless it lacks memory itself.
//
// Thread safety: FileFlush is one call's own; FlushFlight is settled from any thread.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <system_error>
#include <utility>
#include <vector>

#include <tarn/detail/file_body.hpp>
#include <tarn/detail/file_lock.hpp>
#include <tarn/store.hpp>

namespace tarn::detail {

/// What the store says of a request, an exception included.
template <class Traits, class Store>
[[nodiscard]] FlushOutcome<Traits> ask_to_flush(Store& store, const FlushRequest<Traits>& request) {
  const InsideStore inside;
  try {
    return store.flush(request);
  } catch (...) {
    return FlushOutcome<Traits>::failed(current_exception_code());
  }
}

template <class Owner>
class FlushFlight final
    : public Requester<FlushRequest<typename Owner::TraitsType>, FlushOutcome<typename Owner::TraitsType>>,
      public std::enable_shared_from_this<FlushFlight<Owner>> {
 public:
  using Traits = typename Owner::TraitsType;

  /// `syncs`: the store has a sync, so stored is not durable. `one_by_one`: it takes one flush of a file at a time.
  FlushFlight(std::shared_ptr<Owner> owner, FlushJob<Traits>&& job, bool syncs, bool one_by_one)
      : owner_{std::move(owner)},
        job_{std::move(job)},
        request_{job_.request()},
        syncs_{syncs},
        one_by_one_{one_by_one} {}

  /// Asks the store. Requires: nothing is held; once. Whom this thread has woken was let go on before: not here, where
  /// it may be one who makes the file go that is being flushed for room.
  template <class Store>
  void start(Store& store) noexcept {
    const Serving serving{&*owner_->record};
    if constexpr (AnswersFlushLater<Store, Traits>) {
      const InsideStore inside;
      try {
        store.flush(request_, FlushToken<Traits>{this->shared_from_this(), 0});
      } catch (...) {  // the token was dropped on the way, which is an answer
      }
    } else {
      settle(0, ask_to_flush<Traits>(store, request_));
    }
  }

  [[nodiscard]] const FlushRequest<Traits>& request(std::size_t) const noexcept override { return request_; }
  void settle(std::size_t, const FlushOutcome<Traits>& outcome) noexcept override {
    auto&& file = owner_->access();
    try {
      // Of versions that flushes side by side made of the file, nobody could say which is the last.
      const bool unordered = !one_by_one_ && outcome.ok() && outcome.version();
      const auto invalid = FlushOutcome<Traits>::failed(std::make_error_code(std::errc::invalid_argument));
      result_ = finish_flush_of(file, std::move(job_), unordered ? invalid : outcome, !syncs_);
    } catch (...) {
      result_ = fail(current_exception_code());
    }
    const auto record = owner_->record.share();  // a borrowed file may be gone once it is done
    auto& core = owner_->core;
    done_.store(true);
    if (forgotten_.load()) note_error();
    record->arrivals.fetch_add(1);
    core.parking.wake(&record->arrivals);
  }

  [[nodiscard]] bool done() const { return done_.load(); }
  /// The bytes that the store has now and had not. Requires: done.
  [[nodiscard]] const Result<std::uint64_t>& result() const { return result_; }
  /// Nobody waits for it any more.
  void forget() noexcept {
    forgotten_.store(true);
    if (done_.load()) note_error();
  }

 private:
  void note_error() noexcept {
    if (!result_ && !noted_.exchange(true)) owner_->note_error(result_.error());
  }

  const std::shared_ptr<Owner> owner_;
  FlushJob<Traits> job_;
  const FlushRequest<Traits> request_;
  const bool syncs_, one_by_one_;
  Result<std::uint64_t> result_ = std::uint64_t{0};
  Atomic<bool> done_{false}, forgotten_{false}, noted_{false};
};

template <class Owner, class Store>
class FileFlush {
 public:
  using Traits = typename Owner::TraitsType;
  using Answer = std::uint64_t;

  /// Flushes what is dirty in `range` at the call, `most_jobs` at most; what becomes dirty meanwhile may go with it or
  /// stay. `wait`: for flushes that are in the way; else it passes over what those have, and has EBUSY if that is all.
  FileFlush(std::shared_ptr<Owner> owner, Store& store, ByteRange range, std::size_t most_jobs, bool wait)
      : owner_{std::move(owner)},
        store_{store},
        jobs_left_{most_jobs},
        at_once_{owned ? flushes_at_once_of<Traits>(store) : 1},
        waits_{wait},
        at_{range.offset()},
        end_{range.end()} {}
  FileFlush(const FileFlush&) = delete;
  FileFlush& operator=(const FileFlush&) = delete;
  ~FileFlush() {
    let_writes_go();
    for (const auto& flight : flights_) flight->forget();
    if (error_) owner_->note_error(error_);  // the caller gave up before all had ended
  }

  /// Errors: throws bad_alloc.
  [[nodiscard]] Progress step() {
    auto&& file = owner_->access();
    for (;;) {
      const auto seen = owner_->record->arrivals.load();
      const bool settled = take_results();
      if (over_ && flights_.empty()) break;
      if (settled) return Progress::between;
      if (over_ || flights_.size() == at_once_) return wait_for(WaitFor<Traits>::arrival(owner_->record, seen));
      // Asked before writes are held back: who waits for another flush must not wake a third that does.
      if (waits_ && flush_unit_of<Store>() == FlushUnit::file) {
        if (auto busy = owner_->flush_or_removal()) return wait_for(std::move(*busy));
      }
      if (const auto held = hold_back_writes(); !held) return Progress::waiting;
      const FlushKind kind{.unit = flush_unit_of<Store>(),
                           .after_dropped = owned,
                           .promised = true,
                           .at_once = at_once_,
                           .passes_over = !waits_ && flights_.empty()};
      auto job = begin_flush_of<Traits>(file, ByteRange::between(at_, end_), kind);
      let_writes_go();
      if (!job) {
        const bool busy = job.error() == std::errc::device_or_resource_busy && (waits_ || !flights_.empty());
        if (busy) return wait_for(WaitFor<Traits>::arrival(owner_->record, seen));
        end(job.error());
        continue;
      }
      const bool empty = job->empty();
      if (!empty) end_ = std::min(end_, job->request().size_bytes);
      go_on(job->end(), !empty);
      if (empty) continue;  // there may be more behind it: a chunk is dirty, but not where we look
      flights_.push_back(
          std::make_shared<FlushFlight<Owner>>(owner_, std::move(*job), Syncs<Store, Traits>, at_once_ == 1));
      asked_ = true;
      if (waits_) Resumer::run();
      flights_.back()->start(store_);
    }
    if (error_) return Progress::done;
    ExclusiveLock lock{file.lock};  // perhaps one change took back another, and there was nothing to do
    note_clean_if_stored(file);
    return Progress::done;
  }
  [[nodiscard]] const WaitFor<Traits>& wait() const { return wait_; }
  [[nodiscard]] Result<std::uint64_t> give_up(std::error_code why) const { return fail(why); }
  /// Whether the store was asked for anything: an error before that is none of its own.
  [[nodiscard]] bool asked() const { return asked_; }
  /// The bytes that the store has now and had not.
  [[nodiscard]] Result<std::uint64_t> take_result() {
    if (const auto error = std::exchange(error_, {})) return fail(error);
    return settled_bytes_;
  }

 private:
  // Not a building block's, whose metadata has one owner at a time, and flights settle in any thread.
  static constexpr bool owned = requires(Owner & owner) { owner.long_writes; };

  // Of the flights that have ended. Returns: whether there was one.
  bool take_results() {
    return std::erase_if(flights_, [&](const auto& flight) {
             if (!flight->done()) return false;
             if (const auto& settled = flight->result(); settled) {
               settled_bytes_ += *settled;
             } else {
               end(settled.error());
             }
             return true;
           }) != 0;
  }

  // A file of one moment: no write of several windows is half in, and none begins until all is marked. One that only
  // makes room does not wait: the write in the way may need that room. Returns: whether to go on.
  [[nodiscard]] bool hold_back_writes() {
    if constexpr (owned) {
      if (flush_unit_of<Store>() != FlushUnit::file || !waits_) return true;
      ExclusiveLock lock{owner_->lock};
      if (!std::exchange(holds_back_, true)) ++owner_->long_writes.held_back_by;
      if (owner_->long_writes.under_way == 0) return true;
      (void)wait_for(WaitFor<Traits>::arrival(owner_->record, owner_->record->arrivals.load()));
      return false;
    }
    return true;
  }
  void let_writes_go() noexcept {
    if constexpr (owned) {
      if (!std::exchange(holds_back_, false)) return;
      {
        ExclusiveLock lock{owner_->lock};
        --owner_->long_writes.held_back_by;
        owner_->record->arrivals.fetch_add(1);
      }
      owner_->core.parking.wake(&owner_->record->arrivals);
    }
  }
  [[nodiscard]] Progress wait_for(WaitFor<Traits>&& what) {
    wait_ = std::move(what);
    return Progress::waiting;
  }
  void end(std::error_code error) {
    if (!error_) error_ = error;
    over_ = true;
  }
  // A job that stores something may stand: then it is the size, and what begins there comes after it.
  void go_on(std::uint64_t next, bool stores) {
    if (stores) --jobs_left_;
    over_ = (next <= at_ && !stores) || next >= end_ || jobs_left_ == 0;
    at_ = next;
  }

  const std::shared_ptr<Owner> owner_;
  Store& store_;
  std::size_t jobs_left_;
  const std::size_t at_once_;  // flights
  const bool waits_;
  std::uint64_t at_, end_, settled_bytes_ = 0;
  std::vector<std::shared_ptr<FlushFlight<Owner>>> flights_;
  WaitFor<Traits> wait_;
  std::error_code error_;
  bool over_ = false, holds_back_ = false, asked_ = false;
};

}  // namespace tarn::detail
