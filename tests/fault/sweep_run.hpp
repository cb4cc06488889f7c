// SPDX-License-Identifier: MIT
#pragma once

// One run of a script: a pool, files, a flat model of each, and what is wrong with what a call answered or a file
// shows.
//
// Thread safety: none.

#include <tarn/tarn.hpp>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <system_error>

#include "sim/later_store.hpp"
#include "support/fault_points.hpp"
#include "support/fault_store.hpp"
#include "support/model_random.hpp"
#include "support/one_file.hpp"

namespace tarn_test {

struct SweepObserver : ModelObserver {
  using ModelObserver::ModelObserver;

  void on_flush_failed(std::uint64_t file, std::error_code why) noexcept {
    const OutOfCall ours;
    ModelObserver::on_flush_failed(file, why);
  }
  void on_sync_failed(std::uint64_t file, const tarn::ExtentSet& extents, std::error_code why) noexcept {
    const OutOfCall ours;
    ModelObserver::on_sync_failed(file, extents, why);
  }
};
template <class StorageType>
struct SweepTraitsOn : tarn::DefaultTraits {
  using Storage = FaultyStorageOn<StorageType>;
  using Observer = SweepObserver;
};
using SweepTraits = SweepTraitsOn<tarn::HeapStorage>;

struct SweepPlan {
  FaultWay way = FaultWay::error;
  std::uint64_t chunk_bytes = 16, chunks_per_part = 4;
  std::uint64_t room_chunks = 0;  // beside the least budget
  bool marks = false;             // of what may be dirty
  bool names_content = false;     // the stores name what they have stored
};

/// What a run has come by; of all runs together it says that the script still does what it is for.
struct SweepReach {
  std::uint64_t calls = 0, errors = 0, short_writes = 0, evictions = 0, flushed_for_room = 0, swaps = 0, uncached = 0,
                ahead_bytes = 0, load_waits = 0, room_waits = 0, side_by_side = 0, redirtied_bytes = 0, throttled = 0,
                unsure = 0;
};

template <class StoreType>
class SweepRun {
 public:
  using Store = StoreType;
  using Traits = typename Store::Traits;
  using Pool = tarn::ChunkPool<Traits>;
  using File = tarn::DirtyFile<Traits, Store>;
  using Open = tarn::OpenFile<Traits, Store>;
  using Metadata = tarn::MetadataFor<Traits>;
  using ContentId = typename Traits::ContentId;
  using Contents = ModelContents<ContentId>;

  /// `looks`: after each call, also before the first fault.
  SweepRun(const SweepPlan& plan, bool looks, SweepReach& reach)
      : plan_{plan},
        looks_{looks},
        reach_{reach},
        C{plan.chunk_bytes},
        P{plan.chunks_per_part * plan.chunk_bytes},
        one_{options(1)},
        two_{options(Store::flush_unit == tarn::FlushUnit::file ? 1 : 2)} {}

  /// The first thing that was wrong; empty if nothing.
  [[nodiscard]] const std::string& wrong() const { return wrong_; }

 protected:
  [[nodiscard]] typename Store::Options options(std::size_t at_once) {
    return {.way = plan_.way,
            .part_bytes = P,
            .flushes_at_once = at_once,
            .contents = plan_.names_content ? &contents_ : nullptr};
  }

  /// A file and what is in it.
  struct Subject {
    std::uint64_t id;
    Store* store;
    std::shared_ptr<File> file{};
    ModelBytes bytes{};
    std::int64_t mtime_ns = 0;
    bool in_motion = false;  // a write of it has not ended
  };
  /// What an operation came to.
  template <class T>
  struct Ended {
    std::optional<tarn::Result<T>> result{};
    FaultCounts strikes_before = fault_points.strikes_by_kind(), strikes{};
    std::function<void(const tarn::Result<T>&)> then{};

    [[nodiscard]] auto done() {
      return [this](const tarn::Result<T>& r) {
        result.emplace(r);
        strikes = fault_points.strikes_by_kind();
        if (then) then(r);
      };
    }
  };
  /// What a call does: which faults may be its errors.
  enum class Does : std::uint8_t { read, view, write, fill, change, flush, sync, remove, other };
  struct Thrown {};

  // ---- calls, and what they may answer

  void complain(const std::string& what) {
    if (wrong_.empty()) wrong_ = std::string{step_} + ": " + what;
  }
  template <class F>
  auto call(const char* step, F f) {
    step_ = step;
    ++reach_.calls;
    strikes_before_ = fault_points.strikes_by_kind();
    const InCall in_call;
    return f();
  }
  /// The same of one that asks for no flush, unless it makes room.
  template <class F>
  auto call_for_room(const char* step, F f) {
    const auto before = fault_points.met(Fault::flush);
    auto result = call(step, f);
    reach_.flushed_for_room += fault_points.met(Fault::flush) - before;
    return result;
  }
  /// The kinds that have struck in the last call.
  [[nodiscard]] FaultKinds struck() const { return kinds_since(strikes_before_, fault_points.strikes_by_kind()); }
  /// An error is one that a fault in this very call explains: the next try starts fresh.
  void judge(std::error_code why, Does does, FaultKinds struck) {
    ++reach_.errors;
    if (struck == 0) return complain("an error without a fault: " + why.message());
    for (std::size_t i = 0; i < fault_names.size(); ++i) {
      const auto kind = static_cast<Fault>(i);
      if ((struck & kind_of(kind)) != 0 && explains(kind, does, why)) return;
    }
    complain("an error that the fault does not explain: " + why.message());
  }
  void judge(std::error_code why, Does does) { judge(why, does, struck()); }
  [[nodiscard]] bool explains(Fault kind, Does does, std::error_code why) const {
    const bool reads = does == Does::read || does == Does::view, flushes = does == Does::flush || does == Does::sync;
    const bool takes_room = reads || does == Does::write || does == Does::fill || does == Does::change;
    const auto way = way_of(kind, plan_.way);
    const auto is = [&](std::errc error) { return why == (way == FaultWay::dropped ? std::errc::io_error : error); };
    switch (kind) {
      case Fault::allocation:
        return why == std::errc::not_enough_memory || why == std::errc::no_buffer_space;
      case Fault::commit:
        return why == std::errc::no_buffer_space && !flushes && does != Does::remove;
      case Fault::load:
        return reads && (way == FaultWay::partly ? why == std::errc::io_error : is(Store::load_error));
      case Fault::flush:
        if (!flushes) return takes_room && why == std::errc::no_buffer_space;
        return way == FaultWay::conflict ? why == static_cast<std::errc>(ESTALE) : is(Store::flush_error);
      case Fault::sync:
        return does == Does::sync && is(Store::sync_error);
      case Fault::reserve:
        return (does == Does::write || does == Does::fill) && is(Store::reserve_error);
      case Fault::remove:
        return does == Does::remove && is(Store::remove_error);
      case Fault::completion:
        if (takes_room && why == std::errc::no_buffer_space) return true;
        if (reads) return way == FaultWay::partly ? why == std::errc::io_error : is(Store::load_error);
        return flushes && (is(Store::flush_error) || (does == Does::sync && is(Store::sync_error)));
      case Fault::filler:
        return does == Does::fill && why == std::errc::broken_pipe;
      case Fault::visitor:
        return does == Does::view && why == std::errc::io_error;  // of an operation: what threw has nobody to catch it
      default:
        return false;
    }
  }
  /// A call that the script cannot go on without: once it has failed, again with no fault.
  template <class F>
  void insist(const char* step, Does does, F f) {
    std::error_code why = call(step, f);
    if (!why) return;
    judge(why, does);
    why = f();
    if (why) complain("still fails with no fault: " + why.message());
  }

  // ---- the pool

  void make_pool() {
    auto options = pool_options<Traits>(C, 0);
    options.budget_bytes += plan_.room_chunks * (C + 200);
    if (plan_.marks) {
      options.dirty_throttle_bytes = 4 * C;
      options.dirty_limit_bytes = 8 * C;
      options.file_dirty_limit_bytes = 5 * C;
    }
    insist("a pool is made", Does::change, [&]() -> std::error_code {
      try {
        pool_.emplace(options, SweepObserver{&told_});
        return {};
      } catch (...) {
        return tarn::detail::current_exception_code();
      }
    });
  }
  /// Nothing of the pool is left once its files have gone; then it goes.
  void give_back() {
    const auto stats = pool_->stats();
    reach_.evictions += stats.evictions;
    reach_.swaps += stats.swaps;
    reach_.uncached += stats.loads_uncached;
    reach_.ahead_bytes += stats.load_ahead_bytes;
    reach_.load_waits += stats.load_waits;
    reach_.room_waits += stats.room_waits;
    reach_.throttled += stats.throttled;
    reach_.redirtied_bytes += stats.flush_redirtied_bytes;
    step_ = "the end";
    if (told_.lost_bytes != 0) complain("dirty bytes are lost");
    pool_->evict_clean();
    const auto left = pool_->stats();
    for (const auto& value : tarn::pool_values) {
      if (value.kind == tarn::PoolValueKind::counter || value.in_stats == &tarn::PoolStats::budget_bytes) continue;
      if (left.*value.in_stats != 0) complain(std::string{"there is left: "} + value.name);
    }
    auto& core = pool_->core();
    if (core.flush_tally.flying != 0 || core.reserves != 0 || core.room_queue.has_waiters())
      complain("somebody is still counted on");
    if (core.counters.ahead_charge_bytes != 0) complain("a load ahead is still charged");
    if (core.storage.chunks_out() != 0) complain("storage is not given back");
    pool_.reset();
  }

  // ---- what a file shows

  [[nodiscard]] bool looks() const { return looks_ || fault_points.strikes() != 0; }
  /// Every byte, held or as the store has it, without loading any; and the store has what is clean.
  void look(Subject& at) {
    for (const auto* store : {&one_, &two_}) {
      if (store->complaint != nullptr) complain(store->complaint);
    }
    if (!looks() || at.in_motion || !wrong_.empty()) return;
    const auto meta = at.file->metadata();
    if (meta.mtime_ns() != at.mtime_ns) complain("another mtime");
    look_at(meta, at.bytes, at.store->disk(at.id).bytes, [&](std::uint64_t offset, std::span<std::byte> into) {
      auto n = at.file->try_read(offset, into);
      return n.done() && *n == into.size();
    });
  }
  /// The same of metadata, the model's bytes, and the store's. `try_read(offset, into)` answers whether all was there.
  template <class TryRead>
  void look_at(const Metadata& meta, const ModelBytes& bytes, const ModelBytes& in_store, TryRead try_read) {
    if (meta.size() != bytes.size()) {
      return complain("a size of " + std::to_string(meta.size()) + ", not " + std::to_string(bytes.size()));
    }
    ModelBytes shown(bytes.size());
    if (!meta.stored().empty()) {
      auto clean = meta.stored();
      clean.subtract(pool_->dirty_extents(meta));
      if (meta.stored().extents().back().end() > in_store.size()) return complain("stored past what the store has");
      for (const auto& extent : meta.stored().extents()) copy(shown, in_store, extent);
      for (const auto& extent : clean.extents()) {
        if (!equal(shown, bytes, extent)) return complain("a clean byte that the store has not, " + text_of(extent));
      }
    }
    const auto held = pool_->held_extents(meta);
    for (const auto& extent : held.extents()) {
      const auto into = std::span{shown}.subspan(static_cast<std::size_t>(extent.offset()),
                                                 static_cast<std::size_t>(extent.size_bytes()));
      if (!try_read(extent.offset(), into)) return complain("held bytes that are not shown, " + text_of(extent));
    }
    for (std::size_t i = 0; i < shown.size(); ++i) {
      if (shown[i] != bytes[i]) return complain("another byte at " + std::to_string(i));
    }
  }
  [[nodiscard]] Subject& a() { return subjects_[0]; }
  [[nodiscard]] Subject& b() { return subjects_[1]; }
  [[nodiscard]] Subject& c() { return subjects_[2]; }
  /// Its store has so many bytes of it, before the file is made.
  void have_stored(Subject& at, std::uint64_t size_bytes, std::uint64_t version) {
    at.bytes = random_.bytes(size_bytes);
    at.store->disk(at.id).become(at.bytes, version);
  }
  void look_at_all() {
    for (auto& subject : subjects_) {
      if (subject.file) look(subject);
    }
  }
  /// What the pool holds of content is that content.
  void look_at_content(const ContentId& id) {
    const auto& bytes = *contents_.find(id);
    if (!looks() || !wrong_.empty()) return;
    for (std::uint64_t at = 0, chunk = 0; at < bytes.size(); at += C, ++chunk) {
      const auto pin = pool_->try_get(id, chunk);
      if (!pin) continue;
      const auto in_chunk = tarn::ByteRange::between(0, std::min<std::uint64_t>(C, bytes.size() - at));
      const auto same = pin->with_data(in_chunk, [&](std::span<const std::byte> shown) {
        return std::equal(shown.begin(), shown.end(), bytes.begin() + static_cast<std::ptrdiff_t>(at));
      });
      if (same && !*same) complain("content shows other bytes than its own");
    }
  }
  static void copy(ModelBytes& into, const ModelBytes& from, tarn::ByteRange range) {
    const auto at = static_cast<std::ptrdiff_t>(range.offset()), end = static_cast<std::ptrdiff_t>(range.end());
    std::copy(from.begin() + at, from.begin() + end, into.begin() + at);
  }
  [[nodiscard]] static bool equal(const ModelBytes& a, const ModelBytes& b, tarn::ByteRange range) {
    const auto at = static_cast<std::ptrdiff_t>(range.offset()), end = static_cast<std::ptrdiff_t>(range.end());
    return std::equal(a.begin() + at, a.begin() + end, b.begin() + at);
  }
  [[nodiscard]] static std::string text_of(tarn::ByteRange range) {
    return "[" + std::to_string(range.offset()) + ", " + std::to_string(range.end()) + ")";
  }
  /// What a read of the model answers.
  [[nodiscard]] static std::span<const std::byte> expected(const ModelBytes& bytes, std::uint64_t offset,
                                                           std::uint64_t size) {
    if (offset >= bytes.size()) return {};
    return std::span{bytes}
        .subspan(static_cast<std::size_t>(offset))
        .first(static_cast<std::size_t>(std::min<std::uint64_t>(size, bytes.size() - offset)));
  }
  [[nodiscard]] static std::span<const std::byte> expected(const Subject& at, std::uint64_t offset,
                                                           std::uint64_t size) {
    return expected(at.bytes, offset, size);
  }
  void check_read(std::span<const std::byte> want, std::span<const std::byte> got) {
    if (!std::equal(want.begin(), want.end(), got.begin(), got.end())) complain("a read of other bytes");
  }
  void take_in(Subject& at, std::uint64_t offset, std::span<const std::byte> from, std::size_t n,
               std::optional<std::int64_t> mtime_ns = {}) {
    if (n > from.size()) return complain("more was taken in than given");
    if (n == 0) return;
    at.mtime_ns = mtime_ns.value_or(mtime_ns_);
    if (n < from.size()) ++reach_.short_writes;
    at.bytes.resize(std::max<std::size_t>(at.bytes.size(), static_cast<std::size_t>(offset) + n));
    std::copy_n(from.begin(), n, at.bytes.begin() + static_cast<std::ptrdiff_t>(offset));
  }

  const SweepPlan plan_;
  Contents contents_;
  bool looks_;
  SweepReach& reach_;
  const std::uint64_t C, P;
  const char* step_ = "";
  std::string wrong_;
  FaultCounts strikes_before_{};
  std::int64_t mtime_ns_ = 0;
  ModelRandom random_{1};
  ModelBytes random_bytes_ = random_.bytes(9);
  ModelTold told_;
  std::optional<Pool> pool_;
  Store one_, two_;
  std::array<Subject, 3> subjects_{{{1, &one_}, {2, &two_}, {3, &one_}}};
  std::optional<Open> opener_;
};

}  // namespace tarn_test
