// SPDX-License-Identifier: MIT
#pragma once

// Points at which something that tarn relies on may fail, numbered in the order in which they are met: so that a test
// runs the same calls again and again, and each time another one fails, alone or with all that come after it.
//
// Points are met in calls of tarn alone: what a test, its stores and its callbacks take for themselves never fails.
//
// There is one `fault_points` in a program, since operator new and a pool's storage cannot be told of another.
//
// Thread safety: none.

#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>

#include <tarn/storage/heap.hpp>
#include <tarn/testing/failing_storage.hpp>

namespace tarn_test {

/// `completion`: the answer of a store that comes after its call. Of the user's callbacks, `filler` is that of a write,
/// `visitor` that of a view or of with_data, `predicate` that of a table.
enum class Fault : std::uint8_t {
  allocation,
  commit,
  load,
  flush,
  sync,
  reserve,
  remove,
  completion,
  filler,
  visitor,
  predicate
};
inline constexpr std::array<const char*, 11> fault_names{"allocation", "commit",  "load",     "flush",
                                                         "sync",       "reserve", "remove",   "completion",
                                                         "filler",     "visitor", "predicate"};

/// Kinds of fault, a bit each.
using FaultKinds = std::uint32_t;
[[nodiscard]] constexpr FaultKinds kind_of(Fault kind) { return FaultKinds{1} << static_cast<unsigned>(kind); }
inline constexpr FaultKinds all_kinds = (FaultKinds{1} << fault_names.size()) - 1;

/// A number for each kind.
using FaultCounts = std::array<std::uint64_t, fault_names.size()>;
/// The kinds of which there are more now than before.
[[nodiscard]] constexpr FaultKinds kinds_since(const FaultCounts& before, const FaultCounts& now) {
  FaultKinds kinds = 0;
  for (std::size_t i = 0; i < now.size(); ++i) kinds |= now[i] != before[i] ? FaultKinds{1} << i : 0;
  return kinds;
}

/// The points of these kinds, numbered together: the `nth` (from 0) fails, with `for_ever` all later ones, too.
struct FaultRule {
  FaultKinds kinds = 0;
  std::uint64_t nth = 0;
  bool for_ever = false;
};

class FaultPoints {
 public:
  /// From now on that fails which one of the rules says.
  void begin(const FaultRule& rule, const FaultRule& another = {}) { *this = FaultPoints{rule, another}; }
  void begin(Fault kind, std::uint64_t nth, bool for_ever) { begin({kind_of(kind), nth, for_ever}); }
  /// From now on nothing does, and no point is met.
  void end() { fails_ = false; }

  /// A point is met. Returns: whether it fails.
  [[nodiscard]] bool fails(Fault kind) noexcept {
    if (!in_call_ || !fails_) return false;
    ++met_[static_cast<std::size_t>(kind)];
    bool fails = false;
    for (auto& [rule, met] : rules_) {
      if ((rule.kinds & kind_of(kind)) == 0) continue;
      const auto index = met++;
      if (index == rule.nth || (rule.for_ever && index > rule.nth)) fails = true;
    }
    if (!fails) return false;
    ++strikes_[static_cast<std::size_t>(kind)];
    return true;
  }
  /// How many points of each kind have been met since begin, and have failed.
  [[nodiscard]] const FaultCounts& met() const { return met_; }
  [[nodiscard]] std::uint64_t met(Fault kind) const { return met_[static_cast<std::size_t>(kind)]; }
  [[nodiscard]] const FaultCounts& strikes_by_kind() const { return strikes_; }
  /// How many have failed in all.
  [[nodiscard]] std::uint64_t strikes() const {
    std::uint64_t all = 0;
    for (const auto strikes : strikes_) all += strikes;
    return all;
  }

  /// While it lives we are in a call of tarn, or are not.
  class Scope {
   public:
    explicit Scope(bool in_call);
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;
    ~Scope();

   private:
    const bool before_;
  };

  FaultPoints() = default;

 private:
  struct Counted {
    FaultRule rule;
    std::uint64_t met = 0;
  };
  FaultPoints(const FaultRule& rule, const FaultRule& another) : rules_{{{rule}, {another}}}, fails_{true} {}

  std::array<Counted, 2> rules_{};
  bool fails_ = false, in_call_ = false;
  FaultCounts met_{}, strikes_{};
};

inline FaultPoints fault_points;

inline FaultPoints::Scope::Scope(bool in_call) : before_{std::exchange(fault_points.in_call_, in_call)} {}
inline FaultPoints::Scope::~Scope() { fault_points.in_call_ = before_; }

struct InCall : FaultPoints::Scope {
  InCall() : Scope{true} {}
};
struct OutOfCall : FaultPoints::Scope {
  OutOfCall() : Scope{false} {}
};

/// Storage that the system refuses memory.
struct CommitPoints {
  [[nodiscard]] static bool fails() noexcept { return fault_points.fails(Fault::commit); }
};
template <class Storage>
using FaultyStorageOn = tarn::testing::FailingStorage<Storage, CommitPoints>;
using FaultyStorage = FaultyStorageOn<tarn::HeapStorage>;

}  // namespace tarn_test
