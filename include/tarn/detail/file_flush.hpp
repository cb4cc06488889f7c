// SPDX-License-Identifier: MIT
#pragma once

// A file's flush, job by job, in steps (see waiting.hpp). The owner is a FileBody, or the file that a building block
// was given.
//
// Each job that the store is asked for is a FlushFlight. It settles itself, in the thread that brings the answer, so
// whoever asked may stop waiting, and the file may even go: what was stored is noted all the same, or is of no use any
// more. An error that nobody waits for is kept for the file's openers.
//
// Thread safety: FileFlush is one call's own; FlushFlight is settled from any thread.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <system_error>
#include <utility>

#include <tarn/detail/file_body.hpp>
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

  /// `syncs`: the store has a sync, so stored is not durable.
  FlushFlight(std::shared_ptr<Owner> owner, FlushJob<Traits>&& job, bool syncs)
      : owner_{std::move(owner)}, job_{std::move(job)}, request_{job_.request()}, syncs_{syncs} {}

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
      result_ = finish_flush_of(file, std::move(job_), outcome, !syncs_);
    } catch (...) {
      result_ = fail(current_exception_code());
    }
    done_.store(true);
    if (forgotten_.load()) note_error();
    owner_->record->arrivals.fetch_add(1);
    owner_->core.parking.wake(&owner_->record->arrivals);
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
  const bool syncs_;
  Result<std::uint64_t> result_ = std::uint64_t{0};
  Atomic<bool> done_{false}, forgotten_{false}, noted_{false};
};

template <class Owner, class Store>
class FileFlush {
 public:
  using Traits = typename Owner::TraitsType;
  using Answer = std::uint64_t;

  /// Flushes what is dirty in `range` at the call, `most_jobs` at most; what becomes dirty meanwhile may go with it or
  /// stay. `wait`: for another flush of the file to end; else that is EBUSY.
  FileFlush(std::shared_ptr<Owner> owner, Store& store, ByteRange range, std::size_t most_jobs, bool wait)
      : owner_{std::move(owner)},
        store_{store},
        jobs_left_{most_jobs},
        waits_{wait},
        at_{range.offset()},
        end_{range.end()} {}
  FileFlush(const FileFlush&) = delete;
  FileFlush& operator=(const FileFlush&) = delete;
  ~FileFlush() {
    let_writes_go();
    if (flight_ != nullptr) flight_->forget();
  }

  /// Errors: throws bad_alloc.
  [[nodiscard]] Progress step() {
    auto&& file = owner_->access();
    while (!over_) {
      if (flight_ != nullptr) {
        const auto seen = owner_->record->arrivals.load();
        if (!flight_->done()) return wait_for(WaitFor<Traits>::arrival(owner_->record, seen));
        const auto settled = std::exchange(flight_, nullptr)->result();
        if (!settled) return end(settled.error());
        settled_bytes_ += *settled;
        go_on(true);
        if (!over_) return Progress::between;
        break;
      }
      // Asked before writes are held back: who waits for another flush must not wake a third that does.
      if (waits_) {
        if (auto busy = owner_->flush_or_removal()) return wait_for(std::move(*busy));
      }
      if (const auto held = hold_back_writes(); !held) return Progress::waiting;
      constexpr bool owned = requires(Owner & owner) { owner.long_writes; };
      const FlushKind kind{.unit = flush_unit_of<Store>(), .after_dropped = owned, .promised = true};
      auto job = begin_flush_of<Traits>(file, ByteRange::between(at_, end_), kind);
      let_writes_go();
      if (!job) {
        if (job.error() != std::errc::device_or_resource_busy || !waits_) return end(job.error());
        if (auto busy = owner_->flush_or_removal()) return wait_for(std::move(*busy));
        continue;
      }
      next_ = job->end();
      if (job->empty()) {
        go_on(false);  // there may be more behind it: a chunk is dirty, but not where we look
        continue;
      }
      end_ = std::min(end_, job->request().size_bytes);
      --jobs_left_;
      flight_ = std::make_shared<FlushFlight<Owner>>(owner_, std::move(*job), Syncs<Store, Traits>);
      if (waits_) Resumer::run();
      flight_->start(store_);
    }
    std::unique_lock lock{file.lock};  // perhaps one change took back another, and there was nothing to do
    note_clean_if_stored(file);
    return Progress::done;
  }
  [[nodiscard]] const WaitFor<Traits>& wait() const { return wait_; }
  [[nodiscard]] Result<std::uint64_t> give_up(std::error_code why) const { return fail(why); }
  /// The bytes that the store has now and had not.
  [[nodiscard]] Result<std::uint64_t> take_result() const {
    if (error_) return fail(error_);
    return settled_bytes_;
  }

 private:
  // A file of one moment: no write of several windows is half in, and none begins until all is marked. One that only
  // makes room does not wait: the write in the way may need that room. Returns: whether to go on.
  [[nodiscard]] bool hold_back_writes() {
    if constexpr (requires { owner_->long_writes; }) {
      if (flush_unit_of<Store>() != FlushUnit::file || !waits_) return true;
      std::lock_guard lock{owner_->lock};
      if (!std::exchange(holds_back_, true)) ++owner_->long_writes.held_back_by;
      if (owner_->long_writes.under_way == 0) return true;
      (void)wait_for(WaitFor<Traits>::arrival(owner_->record, owner_->record->arrivals.load()));
      return false;
    }
    return true;
  }
  void let_writes_go() noexcept {
    if constexpr (requires { owner_->long_writes; }) {
      if (!std::exchange(holds_back_, false)) return;
      {
        std::lock_guard lock{owner_->lock};
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
  Progress end(std::error_code error) {
    error_ = error;
    over_ = true;
    return Progress::done;
  }
  // A job that stored something may stand: then it was the size, and what begins there comes now.
  void go_on(bool stored) {
    over_ = (next_ <= at_ && !stored) || next_ >= end_ || jobs_left_ == 0;
    at_ = next_;
  }

  const std::shared_ptr<Owner> owner_;
  Store& store_;
  std::size_t jobs_left_;
  const bool waits_;
  std::uint64_t at_, end_, next_ = 0, settled_bytes_ = 0;
  std::shared_ptr<FlushFlight<Owner>> flight_;
  WaitFor<Traits> wait_;
  std::error_code error_;
  bool over_ = false, holds_back_ = false;
};

}  // namespace tarn::detail
