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

enum class Fault : std::uint8_t { allocation, commit, load, flush, sync, reserve, remove, filler, visitor };
inline constexpr std::array<const char*, 9> fault_names{"allocation", "commit", "load",   "flush",  "sync",
                                                        "reserve",    "remove", "filler", "visitor"};

class FaultPoints {
 public:
  /// From now on the `nth` point of this kind (from 0) fails, with `for_ever` all later ones, too.
  void begin(Fault kind, std::uint64_t nth, bool for_ever) { *this = FaultPoints{kind, nth, for_ever}; }
  /// From now on none does.
  void end() { fails_ = false; }

  /// A point is met. Returns: whether it fails.
  [[nodiscard]] bool fails(Fault kind) noexcept {
    if (!in_call_) return false;
    const auto index = met_[static_cast<std::size_t>(kind)]++;
    if (!fails_ || kind != kind_ || !(index == nth_ || (for_ever_ && index > nth_))) return false;
    ++strikes_;
    return true;
  }
  /// How many points of a kind have been met since begin.
  [[nodiscard]] std::uint64_t met(Fault kind) const { return met_[static_cast<std::size_t>(kind)]; }
  /// And how many have failed.
  [[nodiscard]] std::uint64_t strikes() const { return strikes_; }

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
  FaultPoints(Fault kind, std::uint64_t nth, bool for_ever)
      : kind_{kind}, nth_{nth}, for_ever_{for_ever}, fails_{true} {}

  Fault kind_ = Fault::allocation;
  std::uint64_t nth_ = 0, strikes_ = 0;
  bool for_ever_ = false, fails_ = false, in_call_ = false;
  std::array<std::uint64_t, fault_names.size()> met_{};
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

/// Heap storage that the system refuses memory.
struct CommitPoints {
  [[nodiscard]] static bool fails() noexcept { return fault_points.fails(Fault::commit); }
};
using FaultyStorage = tarn::testing::FailingStorage<tarn::HeapStorage, CommitPoints>;

}  // namespace tarn_test
