// SPDX-License-Identifier: MIT
#pragma once

// Making a DirtyFile durable, in steps (see waiting.hpp): flush what is dirty, then ask the store for what was stored
// since it last said durable.
//
// One sync of a file is in flight at a time: who comes meanwhile waits for its end and then looks for himself, so each
// caller's answer is about all that was dirty at his call, and one that wants all is not content with one of the data
// alone, which leaves the rest to be synced. A sync that fails makes what is held and unsynced dirty
// again, and what is zero a hole that the store lacks, so that the next one stores it anew and does not take the
// store's silence about the old failure for success (Rebello et al., "Can Applications Recover from fsync Failures?",
// 2020); bytes that are not held any more are named to the observer, and stay unsynced.
//
// Thread safety: FileSync is one call's own; SyncFlight is settled from any thread.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <system_error>
#include <utility>

#include <tarn/detail/drop_clean.hpp>
#include <tarn/detail/file_body.hpp>
#include <tarn/detail/file_flush.hpp>
#include <tarn/detail/file_lock.hpp>
#include <tarn/store.hpp>

namespace tarn::detail {

/// Makes the held clean bytes of `extents` dirty again. Requires: the file's lock, exclusively.
/// Returns: the bytes of `extents` that are not held, or could not be noted for want of memory.
template <class Traits>
[[nodiscard]] ExtentSet make_dirty_again(PoolCore<Traits>& core, FileRecord<Traits>& record, const ExtentSet& extents) {
  auto left = extents;
  for (const auto& extent : extents.extents()) {
    const auto chunks = core.layout.chunks_of(extent);
    for (auto from = chunks.first; from < chunks.last;) {
      LatchedChunks<Traits> latched{core};
      MutexLock table{record.table_mutex};
      const auto [index, found] = record.table.next(from);
      auto* const chunk = found;  // clang 14 lets no lambda have a structured binding
      if (chunk == nullptr || index >= chunks.last) break;
      from = index + 1;
      if (!chunk->state.try_pin()) continue;
      latched.hold(*chunk);
      table.unlock();
      latched.latch(LatchMode::exclusive);
      if (chunk->state.is(ChunkState::detached)) continue;
      const auto offset = core.layout.chunk_range(index).offset();
      struct Counted {  // whatever of it is dirty by then, also if there is no memory for more
        PoolCore<Traits>& core;
        FileRecord<Traits>& record;
        Chunk<Traits>& chunk;
        const std::uint64_t before_bytes = chunk.dirty.size_bytes();

        ~Counted() {
          core.count_dirty(record, chunk.dirty.size_bytes(), before_bytes);
          MutexLock table{record.table_mutex};
          core.settle_dirty(chunk);
        }
      } const counted{core, record, *chunk};
      chunk->valid.for_each_in(core.layout.in_chunk(index, extent), [&](ByteRange run) {
        if (prepare_extents(core, *chunk, Lists::dirty) != 0) return;
        const ExtentsChange<Traits> change{core, *chunk};
        chunk->dirty.add(run, core.chunk_bytes());
        left.subtract(ByteRange::between(offset + run.offset(), offset + run.end()));
      });
    }
  }
  return left;
}

/// A sync that the store has been asked for, till it answers.
template <class Traits>
class SyncFlight final : public Requester<SyncRequest<Traits>, Result<>>,
                         public std::enable_shared_from_this<SyncFlight<Traits>> {
 public:
  /// Requires: the lock, for this alone.
  SyncFlight(std::shared_ptr<FileBody<Traits>> body, SyncScope scope)
      : body_{std::move(body)},
        file_{body_->meta.id()},
        request_{.file = &file_, .generation = body_->core.flush_generation.load(), .scope = scope} {}

  /// Asks the store. Requires: nothing is held; once.
  template <class Store>
  void start(Store& store) noexcept {
    Resumer::run();
    if constexpr (hears_syncs<Traits>) asked_ns_ = body_->core.time.now_ns();
    const InsideStore inside;
    const Serving serving{&*body_->record};
    try {
      if constexpr (AnswersSyncLater<Store, Traits>) {
        store.sync(request_, SyncToken<Traits>{this->shared_from_this(), 0});
      } else {
        settle(0, store.sync(request_));
      }
    } catch (...) {
      if constexpr (!AnswersSyncLater<Store, Traits>) settle(0, fail(current_exception_code()));
    }
  }

  [[nodiscard]] const SyncRequest<Traits>& request(std::size_t) const noexcept override { return request_; }
  void settle(std::size_t, const Result<>& answer) noexcept override {
    result_ = answer;
    ExtentSet evicted;
    {
      ExclusiveLock lock{body_->lock};
      body_->syncing = false;
      auto asked = std::exchange(body_->syncing_extents, std::nullopt);
      if (!answer) ++body_->syncs_failed;
      const bool deleted = body_->meta.state() == FileState::deleted && !body_->removing;  // else it may yet stay
      if (!answer && !body_->gone && !deleted) evicted = take_back(std::move(asked));
      if (answer) body_->meta.note_synced();
      if (!evicted.empty()) {
        ++body_->syncs_lost;
        body_->sync_error = answer.error();
      }
    }
    auto& counters = body_->core.counters;
    counters.syncs.fetch_add(1, std::memory_order_relaxed);
    if (!answer) counters.sync_failures.fetch_add(1, std::memory_order_relaxed);
    if (!evicted.empty()) body_->core.observer.on_sync_failed(file_, evicted, answer.error());
    if constexpr (hears_syncs<Traits>) {
      body_->core.observer.on_sync_done(file_, body_->core.time.now_ns() - asked_ns_, answer.error());
    }
    done_.store(true);
    if (forgotten_.load()) note_error();
    body_->record->arrivals.fetch_add(1);
    body_->core.parking.wake(&body_->record->arrivals);
  }

  [[nodiscard]] bool done() const { return done_.load(); }
  /// Requires: done.
  [[nodiscard]] const Result<>& result() const { return result_; }
  /// Nobody waits for it any more.
  void forget() noexcept {
    forgotten_.store(true);
    if (done_.load()) note_error();
  }

 private:
  // What was to become durable is unsynced again, and what of it is held is dirty; so is what was stored since, which
  // the store may have forgotten with it.
  [[nodiscard]] ExtentSet take_back(std::optional<ExtentSet> asked) noexcept TARN_REQUIRES(body_->lock) {
    auto& meta = body_->meta;
    // A flush in flight may have given its bytes to a store that forgets them now: it settles nothing.
    body_->core.take_back_lent(*body_->record);
    ExtentSet evicted;
    try {
      meta.note_sync_failed(asked ? &*asked : nullptr);
      make_zero_again();
      evicted = make_dirty_again(body_->core, *body_->record, meta.unsynced());
    } catch (const std::bad_alloc&) {
      evicted = ExtentSet{ByteRange::between(0, meta.size())};  // none the better, but named
    }
    if (body_->record->dirty_bytes.load() != 0 || body_->lacks_store()) {
      meta.note_modified();
      if (meta.state() != FileState::deleted) body_->core.note_changed(*body_->record);
    }
    return evicted;
  }
  // A zero has no memory to be dirty in: it is one that is not stored. What is held of it came from the store, perhaps
  // after that had lost the zero. Where there is no memory it is as what is not held.
  void make_zero_again() noexcept TARN_REQUIRES(body_->lock) {
    try {
      const auto zeros = body_->meta.zeros_at_risk();
      auto dropped = zeros;
      for (const auto& extent : zeros.extents()) {
        if (!drop_clean(body_->core, *body_->record, extent)) dropped.subtract(extent);
      }
      body_->meta.note_not_stored(dropped);
    } catch (const std::bad_alloc&) {
    }
  }
  void note_error() noexcept {
    if (!result_ && !noted_.exchange(true)) body_->note_error(result_.error());
  }

  const std::shared_ptr<FileBody<Traits>> body_;
  const typename Traits::FileId file_;
  const SyncRequest<Traits> request_;
  std::int64_t asked_ns_ = 0;  // if the observer hears how long it took
  Result<> result_;
  Atomic<bool> done_{false}, forgotten_{false}, noted_{false};
};

template <class Traits_, class Store>
class FileSync {
 public:
  using Traits = Traits_;
  using Answer = void;

  FileSync(std::shared_ptr<FileBody<Traits>> body, Store& store, SyncScope scope = SyncScope::all)
      : body_{std::move(body)}, store_{store}, scope_{scope} {}
  FileSync(const FileSync&) = delete;
  FileSync& operator=(const FileSync&) = delete;
  ~FileSync() {
    if (flight_ != nullptr) flight_->forget();
  }

  /// Errors: throws bad_alloc.
  [[nodiscard]] Progress step() {
    for (;;) {
      if (flight_ != nullptr) {
        const auto seen = body_->record->arrivals.load();
        if (!flight_->done()) return wait_for(WaitFor<Traits>::arrival(body_->record, seen));
        const auto result = std::exchange(flight_, nullptr)->result();
        error_ = result.error();
        return Progress::done;
      }
      if (waits_for_sync_) {
        const auto seen = body_->record->arrivals.load();
        if (body_->is_syncing()) return wait_for(WaitFor<Traits>::arrival(body_->record, seen));
        waits_for_sync_ = false;
      }
      if (!flush_) {
        SharedLock lock{body_->lock};
        failed_before_ = body_->syncs_failed;
        if (!lost_before_) lost_before_ = body_->syncs_lost;
        lock.unlock();
        flush_.emplace(body_, store_, whole_file, SIZE_MAX, true);
      }
      const auto progress = flush_->step();
      if (progress == Progress::waiting) return wait_for_flush();
      if (progress == Progress::between) return progress;
      const auto settled = flush_->take_result();
      flush_.reset();
      if (!settled) {
        error_ = settled.error();
        return Progress::done;
      }
      if constexpr (!Syncs<Store, Traits>) {
        return Progress::done;
      } else {
        if (const auto asked = ask(); asked) return *asked;
      }
    }
  }
  [[nodiscard]] const WaitFor<Traits>& wait() const { return *waits_for_; }
  [[nodiscard]] Result<> give_up(std::error_code why) const { return fail(why); }
  [[nodiscard]] Result<> take_result() const { return error_ ? Result<>{fail(error_)} : Result<>{}; }

 private:
  // Everything that was dirty at the call is stored. Returns: nothing if the store has been asked, or there is more to
  // flush.
  [[nodiscard]] std::optional<Progress> ask() {
    std::shared_ptr<SyncFlight<Traits>> flight;
    {
      ExclusiveLock lock{body_->lock};
      if (body_->syncing) {
        const auto seen = body_->record->arrivals.load();
        lock.unlock();
        waits_for_sync_ = true;  // it may fail, and then there is more to store
        return wait_for(WaitFor<Traits>::arrival(body_->record, seen));
      }
      if (body_->syncs_lost != lost_before_) {
        error_ = body_->sync_error;  // it was ours, too, and there is nothing left to store it from
        return Progress::done;
      }
      // One failed since our flush began: what it was asked for is dirty again, and ours to store.
      if (body_->syncs_failed != failed_before_) return std::nullopt;
      if (body_->meta.state() == FileState::deleted || !body_->meta.needs_sync(scope_)) return Progress::done;
      flight = std::make_shared<SyncFlight<Traits>>(body_, scope_);
      body_->syncing_extents = body_->meta.take_unsynced(scope_);
      body_->syncing = true;
    }
    flight_ = std::move(flight);
    flight_->start(store_);
    return std::nullopt;
  }
  [[nodiscard]] Progress wait_for(WaitFor<Traits>&& what) {
    waits_for_here_ = std::move(what);
    waits_for_ = &waits_for_here_;
    return Progress::waiting;
  }
  [[nodiscard]] Progress wait_for_flush() {
    waits_for_ = &flush_->wait();
    return Progress::waiting;
  }

  const std::shared_ptr<FileBody<Traits>> body_;
  Store& store_;
  const SyncScope scope_;
  std::optional<FileFlush<FileBody<Traits>, Store>> flush_;
  std::shared_ptr<SyncFlight<Traits>> flight_;
  WaitFor<Traits> waits_for_here_;
  const WaitFor<Traits>* waits_for_ = nullptr;
  std::error_code error_;
  std::uint64_t failed_before_ = 0;           // syncs of the file that had failed when our flush began
  std::optional<std::uint64_t> lost_before_;  // and at our call, those that had named bytes that were not held any more
  bool waits_for_sync_ = false;
};

}  // namespace tarn::detail
