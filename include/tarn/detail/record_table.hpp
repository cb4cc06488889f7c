// SPDX-License-Identifier: MIT
#pragma once

// Records by the hash of their keys: open addressing, with the next place tried after one that is taken (Knuth, "The
// Art of Computer Programming", volume 3, section 6.4, algorithms L and R).
//
// Who looks without the mutex may meet a change half done: he may miss what is there, and find what has gone or is
// another one by now. So he believes neither, but asks of what he has found what tells him whether it is his, and of
// what he has not found under the mutex. Records are stable (stable_objects.hpp), and so are the places: a table that
// has grown is kept, half as large as what came after it.
//
// Thread safety: find_unlocked: any thread; all else: the owner's mutex guards it.
// Cost:          O(1); reserve O(records) when the table grows, which it does at three places of four.

#include <cassert>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>

#include <tarn/detail/sync.hpp>

namespace tarn::detail {

template <class Record>
class RecordTable {
 public:
  RecordTable() = default;
  RecordTable(const RecordTable&) = delete;
  RecordTable& operator=(const RecordTable&) = delete;

  /// Returns: a record of that hash of which is(record) is true, or null.
  template <class Is>
  [[nodiscard]] Record* find(std::size_t hash, Is is) const {
    const auto* const places = newest_.get();
    if (places == nullptr) return nullptr;
    for (auto at = places->home_of(hash);; at = places->next(at)) {
      auto* const record = load_owned(places->slots[at].record);
      if (record == nullptr || (load_owned(places->slots[at].hash) == hash && is(*record))) return record;
    }
  }
  /// Returns: a record that had that hash, or null, which says nothing.
  [[nodiscard]] Record* find_unlocked(std::size_t hash) const {
    const auto* const places = published_.load(std::memory_order_acquire);
    if (places == nullptr) return nullptr;
    auto at = places->home_of(hash);
    for (auto left = places->size(); left != 0; --left, at = places->next(at)) {
      const auto& slot = places->slots[at];
      auto* const record = slot.record.load(std::memory_order_acquire);
      if (record == nullptr || slot.hash.load(std::memory_order_relaxed) == hash) return record;
    }
    return nullptr;
  }

  /// Makes room for one more. Errors: throws bad_alloc, and changes nothing.
  void reserve() {
    if (newest_ == nullptr || 4 * (count_ + 1) > 3 * newest_->size()) grow();
  }
  /// Requires: reserved.
  void insert(std::size_t hash, Record& record) noexcept {
    newest_->put(hash, record);
    ++count_;
  }
  /// Requires: it is there.
  void erase(std::size_t hash, const Record& record) noexcept {
    auto& places = *newest_;
    auto hole = places.home_of(hash);
    while (load_owned(places.slots[hole].record) != &record) hole = places.next(hole);
    // What is after it, up to a free place, moves into it if it could not be found past it.
    for (auto at = places.next(hole);; at = places.next(at)) {
      auto* const moved = load_owned(places.slots[at].record);
      if (moved == nullptr) break;
      const auto of_moved = load_owned(places.slots[at].hash);
      const auto way = (at - places.home_of(of_moved)) & places.mask;
      if (way < ((at - hole) & places.mask)) continue;
      places.slots[hole].set(of_moved, moved);
      hole = at;
    }
    places.slots[hole].set(0, nullptr);
    --count_;
  }

  [[nodiscard]] std::size_t count() const { return count_; }
  /// Calls f(record) for each.
  template <class F>
  void for_each(F f) const {
    if (newest_ == nullptr) return;
    for (std::size_t at = 0; at < newest_->size(); ++at) {
      if (auto* const record = load_owned(newest_->slots[at].record); record != nullptr) f(*record);
    }
  }

  /// What a record costs here at most: its place, at three of eight taken, and those of the tables that are kept.
  static constexpr std::size_t bytes_per_record = 2 * 8 * (sizeof(std::size_t) + sizeof(void*)) / 3;

 private:
  struct Slot {
    Atomic<std::size_t> hash{0};
    Atomic<Record*> record{nullptr};
    void set(std::size_t to_hash, Record* to) {
      hash.store(to_hash, std::memory_order_relaxed);
      record.store(to, std::memory_order_release);
    }
  };
  struct Places {
    explicit Places(std::size_t count) : mask{count - 1}, slots{new Slot[count]} {}
    const std::size_t mask;
    const std::unique_ptr<Slot[]> slots;
    std::unique_ptr<Places> before;

    [[nodiscard]] std::size_t size() const { return mask + 1; }
    // High bits of a mix: small inodes differ only low. The very highest choose the shard.
    [[nodiscard]] std::size_t home_of(std::size_t hash) const { return (hash * 0x9E3779B97F4A7C15u >> 24) & mask; }
    [[nodiscard]] std::size_t next(std::size_t at) const { return (at + 1) & mask; }
    void put(std::size_t hash, Record& record) {
      auto at = home_of(hash);
      while (load_owned(slots[at].record) != nullptr) at = next(at);
      slots[at].set(hash, &record);
    }
  };

  void grow() {
    auto larger = std::make_unique<Places>(newest_ == nullptr ? 8 : 2 * newest_->size());
    for (std::size_t at = 0; newest_ != nullptr && at < newest_->size(); ++at) {
      const auto& slot = newest_->slots[at];
      if (auto* const record = load_owned(slot.record); record != nullptr) larger->put(load_owned(slot.hash), *record);
    }
    larger->before = std::move(newest_);
    newest_ = std::move(larger);
    published_.store(newest_.get(), std::memory_order_release);
  }

  std::unique_ptr<Places> newest_;
  Atomic<const Places*> published_{nullptr};
  std::size_t count_ = 0;
};

}  // namespace tarn::detail
