// SPDX-License-Identifier: MIT
#pragma once

// The state of a chunk: one 64-bit word.
//
//   bits  0..17  pins       how many keep the chunk; bit 17 is the guard, so 2^17 - 1 at most
//   bits 18..31  shared     how many hold the shared latch; bit 31 is the guard
//   bit  32      exclusive  one holds the exclusive latch
//   bit  33      pending    somebody waits for the exclusive latch: no new shared one, until it is had
//   bit  34      parked     somebody sleeps on this word
//   bit  35      dirty      some bytes are newer than the store
//   bit  36      in_flush   a flush reads the memory: who writes swaps in other memory first
//   bit  37      detached   no file finds the chunk any more: the last pin frees it
//
// Legal words (check): a latch is shared or exclusive, never both; a latch and in_flush imply a pin; a detached chunk
// is not dirty.
//
// Who may change what: pins are taken under the owner's table mutex (or from a pin that is held), or, without it, from
// a word that is neither detached nor exclusively latched, and given back by anybody. Latches are taken by whoever has
// a pin, or with one. dirty and detached change under the owner's table mutex; dirty is set only by a thread with the
// exclusive latch. in_flush is set under a shared latch and cleared under the exclusive one. try_retire is the one way
// out for a chunk that nobody dropped: it succeeds only from a word without pin, latch, waiter, dirty and in_flush, so
// what is used or needed cannot be evicted.
//
// A pin with the shared latch (try_pin_shared) may be taken by whoever has read the chunk's address somewhere, however
// long ago, and so may a pin alone (try_pin_made): descriptors stay what they are (stable_objects.hpp), one that is
// kept for the next chunk has the word that it was given back with, which is detached or its maker's, and a new chunk's
// is exclusively latched until its owner is set. So what is pinned this way is a chunk that a file had at that moment,
// and its owner stays the same while it is: a chunk changes hands only exclusively latched, with one pin.
//
// Waiting: a thread that is refused sets `parked` and sleeps in the parking lot at the word's address; whoever gives
// back the latch that stood in the way clears `parked` and wakes all. A latch is held for the length of a call that
// does not block, so the wait is short, and nobody waits for a latch with a table mutex held.

#include <cassert>
#include <cstdint>

#include <tarn/detail/sync.hpp>

namespace tarn::detail {

class ChunkState {
 public:
  static constexpr std::uint64_t pin_one = 1, pin_guard = std::uint64_t{1} << 17, pin_mask = (pin_guard << 1) - 1;
  static constexpr std::uint64_t shared_one = std::uint64_t{1} << 18, shared_guard = std::uint64_t{1} << 31,
                                 shared_mask = (shared_guard << 1) - shared_one;
  static constexpr std::uint64_t exclusive = std::uint64_t{1} << 32, pending = std::uint64_t{1} << 33,
                                 parked = std::uint64_t{1} << 34, dirty = std::uint64_t{1} << 35,
                                 in_flush = std::uint64_t{1} << 36, detached = std::uint64_t{1} << 37;
  static_assert((pin_mask & shared_mask) == 0 && ((pin_mask | shared_mask) & exclusive) == 0);

  /// A new chunk: pinned once and exclusively latched by its maker, so nobody sees it half made.
  ChunkState() = default;
  /// Another new chunk's from now on. Requires: the last one was detached, and has no pin; or it was nobody's but its
  /// maker's.
  void begin() { word_.store(pin_one | exclusive); }

  [[nodiscard]] static constexpr bool legal(std::uint64_t word) {
    const bool shared = (word & shared_mask) != 0, latched = shared || (word & exclusive) != 0;
    if (shared && (word & exclusive) != 0) return false;
    if ((latched || (word & in_flush) != 0) && (word & pin_mask) == 0) return false;
    if ((word & detached) != 0 && (word & dirty) != 0) return false;
    return (word & (pin_guard | shared_guard)) == 0;
  }
  void check() const { assert(legal(word()) && "illegal chunk state"); }

  [[nodiscard]] std::uint64_t word() const { return word_.load(std::memory_order_acquire); }
  [[nodiscard]] bool is(std::uint64_t flag) const { return (word() & flag) != 0; }
  [[nodiscard]] bool pinned() const { return is(pin_mask); }

  /// Returns: false if the pin count is full.
  [[nodiscard]] bool try_pin() {
    return change([](std::uint64_t w) { return ((w + pin_one) & pin_guard) != 0 ? refused : w + pin_one; });
  }
  /// The same by whoever does not know whose chunk it is: see above. Returns: false also if it is detached, or latched
  /// exclusively.
  [[nodiscard]] bool try_pin_made() {
    constexpr auto refuses = exclusive | detached | pin_guard;
    return change([](std::uint64_t w) { return ((w + pin_one) & refuses) != 0 ? refused : w + pin_one; });
  }
  /// Returns: the word after it. Whoever brings a detached chunk's pins to 0 frees it.
  [[nodiscard]] std::uint64_t unpin() {
    const auto before = word_.fetch_sub(pin_one);
    assert((before & pin_mask) != 0 && "unpinned more often than pinned");
    return before - pin_one;
  }

  [[nodiscard]] bool try_latch_shared() {
    return change([](std::uint64_t w) { return refuses_shared(w) ? refused : w + shared_one; });
  }
  /// Waits for it. Returns: whether it was not to be had at once.
  bool latch_shared(ParkingLot& lot) {
    if (try_latch_shared()) return false;
    do {
      lot.park(this, [&] { return mark_parked(refuses_shared); });
    } while (!try_latch_shared());
    return true;
  }
  void unlatch_shared(ParkingLot& lot) {
    const auto before = word_.fetch_sub(shared_one);
    assert((before & shared_mask) != 0 && "a latch given back twice");
    wake_after(lot, before - shared_one);
  }
  /// A pin and the shared latch in one. Returns: false if one is not to be had at once, or no file has the chunk any
  /// more; then neither is taken.
  [[nodiscard]] bool try_pin_shared() {
    constexpr auto refuses = exclusive | pending | detached | pin_guard | shared_guard;
    return change([](std::uint64_t w) {
      const auto both = w + pin_one + shared_one;  // the counts end in their guards, so nothing above these changes
      return (both & refuses) != 0 ? refused : both;
    });
  }
  /// Gives back both. Returns: the word after it. Unless that is quiet, the caller calls wake_after with it; who brings
  /// a detached chunk's pins to 0 frees it after that.
  [[nodiscard]] std::uint64_t unpin_shared() {
    const auto before = word_.fetch_sub(pin_one + shared_one);
    assert((before & pin_mask) != 0 && (before & shared_mask) != 0 && "unpinned more often than pinned");
    return before - pin_one - shared_one;
  }
  /// A pin and the exclusive latch in one, as try_pin_shared.
  [[nodiscard]] bool try_pin_exclusive() {
    return change([](std::uint64_t w) {
      const bool refuses = refuses_exclusive(w) || ((w + pin_one) & (detached | pin_guard)) != 0;
      return refuses ? refused : ((w + pin_one) & ~pending) | exclusive;
    });
  }
  /// As unpin_shared.
  [[nodiscard]] std::uint64_t unpin_exclusive() {
    const auto before = word_.fetch_sub(pin_one + exclusive);
    assert((before & pin_mask) != 0 && (before & exclusive) != 0 && "unpinned more often than pinned");
    return before - pin_one - exclusive;
  }
  /// Nobody waits at the word, and the file has the chunk still.
  [[nodiscard]] static constexpr bool quiet(std::uint64_t w) { return (w & (parked | detached)) == 0; }

  [[nodiscard]] bool try_latch_exclusive() {
    return change([](std::uint64_t w) { return refuses_exclusive(w) ? refused : (w & ~pending) | exclusive; });
  }
  /// Waits for it. Returns: whether it was not to be had at once.
  bool latch_exclusive(ParkingLot& lot) {
    if (try_latch_exclusive()) return false;
    do {
      lot.park(this, [&] { return mark_parked(refuses_exclusive, pending); });
    } while (!try_latch_exclusive());
    return true;
  }
  void unlatch_exclusive(ParkingLot& lot) {
    const auto before = word_.fetch_sub(exclusive);
    assert((before & exclusive) != 0 && "a latch given back twice");
    wake_after(lot, before - exclusive);
  }

  /// A latch was given back, and `left` is the word after it. Whoever waits for the exclusive latch needs the last
  /// sharer to go; everybody else needs any room at all.
  ///
  /// If no pin was left, or those that were have gone since, this may be another chunk's word by now. Then no waiter of
  /// the old one is left either, since a waiter has a pin, and the other one's look again for nothing: they are woken
  /// once their mark is off, and set it anew.
  void wake_after(ParkingLot& lot, std::uint64_t left) {
    if ((left & parked) != 0 && ((left & shared_mask) == 0 || (left & pending) == 0)) {
      word_.fetch_and(~parked);
      lot.wake(this);
    }
  }

  void set(std::uint64_t flag) { word_.fetch_or(flag); }
  void clear(std::uint64_t flag) { word_.fetch_and(~flag); }
  /// Returns: the word after it.
  [[nodiscard]] std::uint64_t detach() { return word_.fetch_or(detached) | detached; }

  /// resident -> detached, if nobody uses the chunk and the store has all of it.
  [[nodiscard]] bool try_retire() {
    auto w = word_.load();
    if ((w & (pin_mask | shared_mask | exclusive | pending | dirty | in_flush | detached)) != 0) return false;
    return word_.compare_exchange_strong(w, w | detached);
  }

 private:
  static constexpr std::uint64_t refused = ~std::uint64_t{0};

  static constexpr bool refuses_shared(std::uint64_t w) {
    return (w & (exclusive | pending)) != 0 || ((w + shared_one) & shared_guard) != 0;
  }
  static constexpr bool refuses_exclusive(std::uint64_t w) { return (w & (exclusive | shared_mask)) != 0; }

  template <class Next>
  bool change(Next next) {
    auto w = word_.load(std::memory_order_relaxed);
    for (;;) {
      const auto to = next(w);
      if (to == refused) return false;
      if (word_.compare_exchange_weak(w, to)) return true;
    }
  }

  // Sets `parked` (and `more`) while `blocked(word)`. Returns whether it did, that is, whether to sleep.
  template <class Blocked>
  bool mark_parked(Blocked blocked, std::uint64_t more = 0) {
    return change([&](std::uint64_t w) { return blocked(w) ? w | parked | more : refused; });
  }

  Atomic<std::uint64_t> word_{pin_one | exclusive};
};

}  // namespace tarn::detail
