// SPDX-License-Identifier: MIT
#pragma once

// One window of a read, from the first look to the bytes, in steps (see waiting.hpp). The life of a read:
//
//   look     file lock shared, chunks pinned and latched: all there? then use the pieces, under the latches alone
//   room     something is missing and chunks are needed for it: let go of everything, get room, look again; of a store
//            that gives whole parts for the rest of the part too, once, if that is to be had with no wait
//   load     enter `loading`, let go of everything but the pins, ask the store, wait; what was there and what has
//            landed stays pinned; look again, and all is there, unless it has changed or its lists had no room
//   wait     somebody else loads the same bytes: let go of everything, wait, look again
//   uncached no chunk is to be had and the caller has a buffer: one extent goes straight there; of a store that answers
//            later, to memory of the load's own first, since the caller may give up and take the buffer away
//
// Nothing is waited for with a latch, the file's lock, a reserved chunk or a pin held, apart from the store filling the
// chunks that were reserved for it. That ends without any more memory, so these pins stand in nobody's way for longer
// than the store does. And each load that a read begins makes its window complete, unless its bytes change meanwhile or
// its extent lists have no room: so reads end after about as many loads as they have windows, whoever evicts what.

#include <algorithm>
#include <cassert>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <system_error>
#include <utility>
#include <vector>

#include <tarn/detail/ahead_charge.hpp>
#include <tarn/detail/file_lock.hpp>
#include <tarn/detail/room.hpp>
#include <tarn/detail/window_loads.hpp>

namespace tarn::detail {

/// Writes of several windows that are under way, and the flushes that want a moment without one. Who
/// changes either lets those go on who wait for an arrival.
struct LongWrites {
  std::uint32_t under_way = 0, held_back_by = 0;
};

/// What an algorithm works on: the pool, what it keeps of the file, what the file is, and the lock around that.
template <class Traits, class Metadata, class Lock>
struct FileAccess {
  using TraitsType = Traits;

  PoolCore<Traits>& core;
  const RecordRef<Traits>& record;
  Metadata& meta TARN_GUARDED_BY(lock);  // const for a read of a building block
  const ChunkLayout& layout;
  Lock& lock;
  // Of a DirtyFile: its store is being asked to remove it, and has removed it.
  const bool* removing TARN_PT_GUARDED_BY(lock) = nullptr;
  const bool* removed TARN_PT_GUARDED_BY(lock) = nullptr;
  const Atomic<std::uint32_t>* opens = nullptr;  // of a DirtyFile: a deleted file that somebody has open lives on
  LongWrites* long_writes TARN_PT_GUARDED_BY(lock) = nullptr;  // of a DirtyFile
  const typename Traits::ContentId* content = nullptr;         // no file at all, but this piece of content

  /// Why the file cannot be changed: ENOENT if it is deleted and nobody has it open, ESTALE if it was abandoned.
  [[nodiscard]] std::error_code refusal() const TARN_REQUIRES(lock) {
    if (record->abandoned.load()) return std::make_error_code(static_cast<std::errc>(ESTALE));
    if (meta.state() != FileState::deleted || (opens != nullptr && opens->load() != 0 && !*removed)) return {};
    return std::make_error_code(std::errc::no_such_file_or_directory);
  }
};

/// Reads the first window's worth of `asked`, at most.
template <class File, class Store>
class ReadLoop {
 public:
  using Traits = typename File::TraitsType;

  /// `into`: where bytes may go that no chunk is to be had for, or null.
  ReadLoop(File& file, ByteRange asked, Store& store, Room<Traits>& room, std::byte* into)
      : file_{file}, asked_{asked}, store_{store}, room_{room}, into_{into}, reserve_{file.core} {}

  /// Goes on; calls use(pieces) under the latches, once at most, before it is done.
  /// Errors: throws bad_alloc, and what `use` throws.
  template <class Use>
  [[nodiscard]] Progress step(Use& use) {
    while (!result_) {
      if (const auto paused = go_on(); paused) return *paused;
      if (!result_) look(use);
    }
    return Progress::done;
  }
  /// The bytes used, 0 only at end of file; with a buffer to read into, they may have gone straight there, without use.
  [[nodiscard]] const Result<std::size_t>& result() const { return *result_; }
  /// Whether the file ended in the window: what it has grown by since is of another moment.
  [[nodiscard]] bool met_end() const { return met_end_; }
  [[nodiscard]] const WaitFor<Traits>& wait() const { return wait_; }

 private:
  using Core = PoolCore<Traits>;
  using Begun = typename Load<Traits>::Begun;
  static constexpr auto stale = static_cast<std::errc>(ESTALE);
  static constexpr bool by_parts = load_unit_of<Store>() == LoadUnit::parts;

  // What the last step waited for: nothing to wait for any more, if it answers nothing.
  [[nodiscard]] std::optional<Progress> go_on() {
    if (loads_) {
      if (auto* const load = loads_->open(); load != nullptr) {
        if (wait_until_done(load->record(), *load)) return Progress::waiting;
        return std::nullopt;
      }
      end_loads();
    } else if (other_ != nullptr) {
      if (wait_until_done(other_record_, *other_)) return Progress::waiting;
      const auto other = std::exchange(other_, nullptr);
      kept_.push_back(other);  // it has the chunks that we waited for
      if (other->error && is_ours(*other)) judge(other->error, true, other->version);
    }
    if (awaits_removal_) {
      const auto seen = file_.record->arrivals.load();
      if (waits_for_removal()) {
        wait_ = WaitFor<Traits>::arrival(file_.record, seen);
        return Progress::waiting;
      }
      awaits_removal_ = false;
    }
    if (awaits_flush_) {
      if (const auto arrivals = flush_in_flight(*file_.record)) {
        wait_ = WaitFor<Traits>::arrival(file_.record, *arrivals);
        return Progress::waiting;
      }
      awaits_flush_ = false;
      fail_unless_version_moved(std::make_error_code(stale));
    }
    assert((!needs_room_ || !result_) && "nothing that gives a result is waited for by who needs room");
    if (needs_room_ && reserve_with_rest()) needs_room_ = false;
    if (needs_room_) {
      const auto progress = room_.step(reserve_, need_);
      if (progress == Progress::waiting) wait_ = room_.wait();
      if (progress != Progress::done) return progress;
      needs_room_ = false;
      if (const auto refusal = room_.refusal(); refusal) {
        assert(!uncached_ && "a read past the pool asks for no chunk");
        if (into_ == nullptr || refusal != std::errc::no_buffer_space) return fail_with(refusal);
        uncached_ = true;
      }
    }
    return std::nullopt;
  }
  [[nodiscard]] bool wait_until_done(const RecordRef<Traits>& record, const LoadInFlight& load) {
    const auto seen = record->arrivals.load();
    if (load.done.load()) return false;
    wait_ = WaitFor<Traits>::arrival(record, seen);
    return true;
  }

  // Whether the error of somebody else's load is of bytes that we waited for, and of their kind: content may have been
  // asked for in another file's name. If not, look again.
  [[nodiscard]] bool is_ours(const LoadInFlight& other) const {
    const bool of_our_own = &*other_record_ == &*file_.record && (file_.content == nullptr || other.by_content);
    return of_our_own && !other.ahead && other.error_counts_for(other_bytes_);
  }

  template <class Use>
  void look(Use& use) {
    auto& core = file_.core;
    ReadWindow<Traits> window{core};
    SharedLock lock{file_.lock};
    const auto range = asked_.intersect(ByteRange::between(0, file_.meta.size()));
    if (range.empty()) return finish(0, true);
    if (const auto error = window.plan(*file_.record, file_.meta, file_.layout, range, true); error) {
      auto* const blocked_on = window.blocked_on();
      if (blocked_on == nullptr || !blocked_on->state.try_pin()) return (void)fail_with(error);
      lock.unlock();
      window.release();
      kept_.clear();
      core.note_latch(true);                         // a try has failed
      blocked_on->state.latch_shared(core.parking);  // with nothing else held; then look again
      blocked_on->state.unlatch_shared(core.parking);
      core.unpin(*blocked_on);
      return;
    }
    const auto missing = window.missing().extents();
    if (missing.empty() || (uncached_ && missing.front().offset() > range.offset())) {
      const auto end = missing.empty() ? range.end() : missing.front().offset();
      lock.unlock();
      use(window.pieces());
      return finish(static_cast<std::size_t>(end - range.offset()), missing.empty() && end < asked_.end());
    }

    // The loads are made once there are chunks for them. How many is clear without, but where parts may be of equal
    // content; and of whole parts they say how much else would come.
    if (!uncached_ && reserve_.size() == 0 && !failed_content_ && (!by_parts || rest_counted_) &&
        file_.meta.content_count() == 0) {
      need_ = {.chunks = chunks_of(missing), .bytes = more_bytes_};
      window.release();
      lock.unlock();
      return ask_for_room();
    }

    auto only = missing;  // of an uncached read: the part of the first extent that one request covers
    if (uncached_) {
      first_ = file_.layout.part_range(file_.layout.part_of(range.offset())).intersect(missing.front());
      only = {&first_, 1};
      if constexpr (AnswersLoadLater<Store, Traits>) {
        past_ = std::shared_ptr<std::byte[]>{new std::byte[static_cast<std::size_t>(first_.size_bytes())]};
      }
    }
    auto loads = std::make_shared<WindowLoads<Traits>>(core);
    auto begun = Begun::need_room;
    need_ = {};
    const bool collected = loads->collect(file_, only, uncached_, load_unit_of<Store>());
    const auto failed = std::exchange(failed_content_, std::nullopt);
    if (failed && loads->wants(failed->first)) {
      window.release();
      lock.unlock();
      return judge(failed->second, true, 0);
    }
    if (collected) need_.chunks = loads->chunks_needed();
    if (collected && !uncached_ && !std::exchange(rest_counted_, true)) rest_chunks_ = loads->chunks_of_rest();
    if (!collected || uncached_ || reserve_.size() >= need_.chunks) {
      const auto spare = collected ? reserve_.size() - std::min(reserve_.size(), need_.chunks) : 0;
      loads->pins.reserve(window.pin_count());
      kept_.reserve(kept_.size() + 1);
      if (collected) {
        const auto charged = rest_charge_ ? rest_charge_->chunks() : 0;
        begun = loads->begin(window, uncached_ ? nullptr : &reserve_, std::min(spare, charged));
      }
      if (begun == Begun::yes && !uncached_) window.pass_pins_to(loads->pins);
      if (begun == Begun::need_room && spare == 0) more_bytes_ *= 2;  // given back, spare chunks may be room enough
    }
    need_.bytes = more_bytes_;
    window.release();
    lock.unlock();

    if (begun == Begun::yes) {
      reserve_.clear();  // what the rest of the parts has come without
      if (uncached_) {
        loads->start(store_, file_.layout, past_the_pool(), past_);
      } else {
        loads->start(store_, file_.layout, nullptr, std::move(rest_charge_));
      }
      loads_ = std::move(loads);
    } else if (begun == Begun::elsewhere) {
      let_go();
      core.counters.load_waits.fetch_add(1, std::memory_order_relaxed);
      other_ = loads->take_other();
      other_bytes_ = loads->take_other_bytes();
      other_record_ = loads->record_of_other().share();
    } else if (begun == Begun::need_room) {
      ask_for_room();
    }
  }
  // How many chunks have a byte of them.
  [[nodiscard]] std::size_t chunks_of(std::span<const ByteRange> missing) const {
    std::size_t count = 0;
    std::uint64_t seen = 0;  // up to this one
    for (const auto& extent : missing) {
      const auto chunks = file_.layout.chunks_of(extent);
      count += static_cast<std::size_t>(chunks.last - std::max(chunks.first, seen));
      seen = chunks.last;
    }
    return count;
  }
  // Where the bytes of an uncached load go.
  [[nodiscard]] std::byte* past_the_pool() const { return past_ ? past_.get() : into_; }
  void ask_for_room() {
    let_go();  // the chunks for the rest of the parts, too: they may be the room that there is
    needs_room_ = true;
  }
  void let_go() {
    kept_.clear();
    reserve_.clear();
    rest_charge_.reset();
  }
  // Chunks for the rest of the parts, too, if there are any with no wait: demand comes first, as in load_ahead.hpp.
  // Once a window; after that it takes what it asked for.
  [[nodiscard]] bool reserve_with_rest() {
    auto& core = file_.core;
    const auto rest_chunks = std::exchange(rest_chunks_, 0);
    if (rest_chunks == 0 || core.room_queue.has_waiters()) return false;
    rest_charge_ = AheadCharge<Traits>::of(core, 0, rest_chunks);
    if (rest_charge_ != nullptr && reserve_.fill(need_, rest_charge_->chunks()) == Core::Freed::some) return true;
    rest_charge_.reset();
    return false;
  }

  // All that we asked for has been answered.
  void end_loads() {
    auto loads = std::exchange(loads_, nullptr);
    if (const auto* const failed = loads->failed(); failed != nullptr) {
      loads->pins.release();  // before anything is waited for
      // A file may be of other content by now, and the store may rightly not have the old one any more: it is an error
      // if the next look wants that again.
      const auto& load = *failed->load;
      if (failed->content && file_.content == nullptr && load.error != stale) {
        failed_content_.emplace(*failed->content, load.error);
        return;
      }
      return judge(load.error, loads->error_counts(), load.version);
    }
    if (loads->lacked_room()) {
      need_.bytes = more_bytes_ *= 2;  // the extent lists had none: as if it had not been loaded
      return ask_for_room();
    }
    if (!uncached_) {
      kept_.push_back(std::move(loads));
    } else if (loads->untouched()) {
      file_.core.counters.loads_uncached.fetch_add(1, std::memory_order_relaxed);
      if (past_) std::memcpy(into_, past_.get(), static_cast<std::size_t>(first_.size_bytes()));
      finish(static_cast<std::size_t>(first_.size_bytes()));
    }
  }
  // A load failed: that is our error, or a reason to look again.
  void judge(std::error_code error, bool counts, std::uint64_t version) {
    if (file_.record->replaced.load()) return (void)fail_with(std::make_error_code(stale));
    if (!counts) return;  // changed meanwhile: the store may rightly have them no more
    if (waits_for_removal()) return;
    if (error != stale) return (void)fail_with(error);
    // A flush of our own may have made a new version meanwhile: then the store was right, and is asked again. Perhaps
    // only the store knows so far; a DirtyFile's flush ends by itself, so wait for that, holding nothing.
    version_ = version;
    let_go();
    awaits_flush_ = file_.opens != nullptr && depth_in_store() == 0;
    if (!awaits_flush_) fail_unless_version_moved(error);
  }
  // Whether the store is being asked to remove the file: it may rightly not know it now. Look again then.
  [[nodiscard]] bool waits_for_removal() {
    if (file_.removing == nullptr || depth_in_store() != 0) return false;
    SharedLock lock{file_.lock};
    if (!*file_.removing) return false;
    awaits_removal_ = true;
    let_go();
    return true;
  }
  void fail_unless_version_moved(std::error_code error) {
    SharedLock lock{file_.lock};
    if (file_.meta.version() == version_) (void)fail_with(error);
  }

  void finish(std::size_t size_bytes, bool met_end = false) {
    result_.emplace(size_bytes);
    met_end_ = met_end;
  }
  Progress fail_with(std::error_code error) {
    result_.emplace(fail(error));
    return Progress::done;
  }

  File& file_;
  const ByteRange asked_;
  Store& store_;
  Room<Traits>& room_;
  std::byte* const into_;
  ChunkReserve<Traits> reserve_;
  std::uint64_t more_bytes_ = Core::record_and_table_bytes;  // enough for most windows; doubled where it was not
  Need<Traits> need_;
  std::size_t rest_chunks_ = 0;  // that the rest of the parts would take
  std::shared_ptr<const AheadCharge<Traits>> rest_charge_;
  ByteRange first_;
  std::shared_ptr<std::byte[]> past_;              // what an uncached load fills, if the caller's buffer will not do
  std::shared_ptr<WindowLoads<Traits>> loads_;     // ours, in flight
  std::vector<std::shared_ptr<const void>> kept_;  // loads that have landed: they keep chunks pinned till it is read
  std::optional<std::pair<typename Traits::ContentId, std::error_code>> failed_content_;
  std::shared_ptr<LoadInFlight> other_;  // somebody else's
  ExtentSet other_bytes_;                // what we wait for of it
  RecordRef<Traits> other_record_;
  std::uint64_t version_ = 0;
  WaitFor<Traits> wait_;
  std::optional<Result<std::size_t>> result_;
  bool needs_room_ = false, uncached_ = false, awaits_flush_ = false, awaits_removal_ = false, met_end_ = false;
  bool rest_counted_ = false;
};

}  // namespace tarn::detail
