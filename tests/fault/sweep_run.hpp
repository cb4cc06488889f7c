// SPDX-License-Identifier: MIT
#pragma once

// One run of a script: a pool, files, a flat model of each, and what is wrong with what a call answered or a file shows.
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
struct SweepTraits : tarn::DefaultTraits {
  using Storage = FaultyStorage;
  using Observer = SweepObserver;
};

struct SweepPlan {
  Fault kind = Fault::allocation;
  FaultWay way = FaultWay::error;
  std::uint64_t chunk_bytes = 16, chunks_per_part = 4;
  std::uint64_t room_chunks = 0;  // beside the least budget
  bool marks = false;             // of what may be dirty
};

/// What a run has come by; of all runs together it says that the script still does what it is for.
struct SweepReach {
  std::uint64_t calls = 0, errors = 0, short_writes = 0, evictions = 0, flushed_for_room = 0, swaps = 0, uncached = 0,
                ahead_bytes = 0, load_waits = 0, room_waits = 0, side_by_side = 0, redirtied_bytes = 0, throttled = 0,
                unsure = 0;
};

class SweepRun {
 public:
  using Pool = tarn::ChunkPool<SweepTraits>;
  using Store = FaultStore<SweepTraits>;
  using File = tarn::DirtyFile<SweepTraits, Store>;
  using Open = tarn::OpenFile<SweepTraits, Store>;
  using Metadata = tarn::MetadataFor<SweepTraits>;

  /// `looks`: after each call, also before the first fault.
  SweepRun(const SweepPlan& plan, bool looks, SweepReach& reach)
      : plan_{plan},
        looks_{looks},
        reach_{reach},
        C{plan.chunk_bytes},
        P{plan.chunks_per_part * plan.chunk_bytes},
        one_{{.way = plan.way, .part_bytes = P, .flushes_at_once = 1}},
        two_{{.way = plan.way, .part_bytes = P, .flushes_at_once = 2}} {}

  /// The first thing that was wrong; empty if nothing.
  [[nodiscard]] const std::string& wrong() const { return wrong_; }

 protected:
  /// A file and what is in it.
  struct Subject {
    std::uint64_t id;
    Store* store;
    std::unique_ptr<File> file{};
    ModelBytes bytes{};
    std::int64_t mtime_ns = 0;
    bool in_motion = false;  // a write of it has not ended
  };
  /// What an operation came to.
  template <class T>
  struct Ended {
    std::optional<tarn::Result<T>> result{};
    std::uint64_t strikes_before = fault_points.strikes(), strikes = 0;
    std::function<void(const tarn::Result<T>&)> then{};

    [[nodiscard]] auto done() {
      return [this](const tarn::Result<T>& r) {
        result.emplace(r);
        strikes = fault_points.strikes();
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
    strikes_before_ = fault_points.strikes();
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
  [[nodiscard]] bool explains(Does does, std::error_code why) const {
    const bool changes = does == Does::write || does == Does::fill || does == Does::change;
    const bool takes_room = changes || does == Does::view || does == Does::read;
    const auto by_way = [&](std::errc error) { return plan_.way == FaultWay::error ? error : std::errc::io_error; };
    switch (plan_.kind) {
      case Fault::allocation:
        return why == std::errc::not_enough_memory || why == std::errc::no_buffer_space;
      case Fault::commit:
        return why == std::errc::no_buffer_space && does != Does::flush && does != Does::sync && does != Does::remove;
      case Fault::load:
        return why == by_way(Store::load_error) && (does == Does::read || does == Does::view);
      case Fault::flush:
        if (does == Does::flush || does == Does::sync) return why == flush_error();
        return takes_room && why == std::errc::no_buffer_space;
      case Fault::sync:
        return does == Does::sync && why == by_way(Store::sync_error);
      case Fault::reserve:
        return (does == Does::write || does == Does::fill) && why == by_way(Store::reserve_error);
      case Fault::remove:
        return does == Does::remove && why == by_way(Store::remove_error);
      case Fault::filler:
        return does == Does::fill && why == std::errc::broken_pipe;
      default:
        return false;
    }
  }
  [[nodiscard]] std::error_code flush_error() const {
    if (plan_.way == FaultWay::conflict) return std::make_error_code(static_cast<std::errc>(ESTALE));
    return std::make_error_code(plan_.way == FaultWay::dropped ? std::errc::io_error : Store::flush_error);
  }
  /// An error is one that a fault in this very call explains: the next try starts fresh.
  void judge(std::error_code why, Does does, bool struck) {
    ++reach_.errors;
    if (!struck) return complain("an error without a fault: " + why.message());
    if (!explains(does, why)) complain("an error that the fault does not explain: " + why.message());
  }
  void judge(std::error_code why, Does does) { judge(why, does, fault_points.strikes() != strikes_before_); }
  /// A call that the script cannot go on without: once it has failed, again with no fault.
  template <class F>
  void insist(const char* step, Does does, F f) {
    std::error_code why = call(step, f);
    if (!why) return;
    judge(why, does);
    why = f();
    if (why) complain("still fails with no fault: " + why.message());
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
    if (meta.size() != at.bytes.size()) {
      return complain("a size of " + std::to_string(meta.size()) + ", not " + std::to_string(at.bytes.size()));
    }
    ModelBytes shown(at.bytes.size());
    if (!meta.stored().empty()) {
      auto clean = meta.stored();
      clean.subtract(pool_->dirty_extents(meta));
      const auto& stored = at.store->disk(at.id).bytes;
      if (meta.stored().extents().back().end() > stored.size()) return complain("stored past what the store has");
      for (const auto& extent : meta.stored().extents()) copy(shown, stored, extent);
      for (const auto& extent : clean.extents()) {
        if (!equal(shown, at.bytes, extent)) return complain("a clean byte that the store has not, " + text_of(extent));
      }
    }
    const auto held = pool_->held_extents(meta);
    for (const auto& extent : held.extents()) {
      const auto into = std::span{shown}.subspan(static_cast<std::size_t>(extent.offset()),
                                                 static_cast<std::size_t>(extent.size_bytes()));
      auto n = at.file->try_read(extent.offset(), into);
      if (!n.done() || *n != into.size()) return complain("held bytes that are not shown, " + text_of(extent));
    }
    for (std::size_t i = 0; i < shown.size(); ++i) {
      if (shown[i] != at.bytes[i]) return complain("another byte at " + std::to_string(i));
    }
  }
  void look_at_all() {
    for (auto& subject : subjects_) {
      if (subject.file) look(subject);
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
  [[nodiscard]] static std::span<const std::byte> expected(const Subject& at, std::uint64_t offset,
                                                           std::uint64_t size) {
    if (offset >= at.bytes.size()) return {};
    return std::span{at.bytes}
        .subspan(static_cast<std::size_t>(offset))
        .first(static_cast<std::size_t>(std::min<std::uint64_t>(size, at.bytes.size() - offset)));
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
  bool looks_;
  SweepReach& reach_;
  const std::uint64_t C, P;
  const char* step_ = "";
  std::string wrong_;
  std::uint64_t strikes_before_ = 0;
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
