// SPDX-License-Identifier: MIT
#pragma once

// The file records by key, with a count of users.
//
// A record is found or made under its shard's mutex and stays while it has a user, a chunk, or anything in flight. The
// count goes up under the shard's mutex, or by whoever has a use of it, or a chunk of it that cannot go; the last
// user gives up under the shard's mutex and then, under the table mutex too, looks whether the record is idle and still
// without a user, and if so gives it back. So nobody can find a record that is being given back; but for who looks
// without the mutex (find_unlocked), and uses what he finds to find a chunk (PoolCore::pin_unlocked). While he has that
// pinned, its record stays, since a detached chunk that is pinned is a user: then he may look at the key.
//
// A record may have one owner (a DirtyFile). When an id is used again while the owner of its record still lives, the
// old record retires: nobody finds it any more, it belongs to its users alone, and goes with the last of them. So two
// files that had one id, one after the other, never share a chunk, a load or a flush.
//
// Thread safety: any thread. Lock order: shard, then table.

#include <array>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include <tarn/budget.hpp>
#include <tarn/detail/file_record.hpp>
#include <tarn/detail/record_table.hpp>
#include <tarn/detail/stable_objects.hpp>
#include <tarn/detail/sync.hpp>

namespace tarn::detail {

template <class Traits>
class Registry;

/// Keeps a record alive. Move-only.
template <class Traits>
class RecordRef {
 public:
  RecordRef() = default;
  /// Takes over one use that was counted already.
  RecordRef(Registry<Traits>& registry, FileRecord<Traits>& record) : registry_{&registry}, record_{&record} {}
  RecordRef(RecordRef&& other) noexcept : registry_{other.registry_}, record_{std::exchange(other.record_, nullptr)} {}
  RecordRef& operator=(RecordRef&& other) noexcept {
    std::swap(registry_, other.registry_);
    std::swap(record_, other.record_);
    return *this;
  }
  ~RecordRef() {
    if (record_ != nullptr) registry_->release(*record_);
  }

  explicit operator bool() const { return record_ != nullptr; }
  [[nodiscard]] FileRecord<Traits>& operator*() const { return *record_; }
  [[nodiscard]] FileRecord<Traits>* operator->() const { return record_; }
  [[nodiscard]] RecordRef share() const {
    record_->users.fetch_add(1);
    return {*registry_, *record_};
  }

 private:
  Registry<Traits>* registry_ = nullptr;
  FileRecord<Traits>* record_ = nullptr;
};

template <class Traits>
class Registry {
 public:
  using Record = FileRecord<Traits>;
  using Key = typename Record::Key;

  explicit Registry(Budget& budget) : records_{budget, record_bytes} {}

  /// Returns: the record, or nothing if the pool knows none.
  [[nodiscard]] RecordRef<Traits> find(const Key& key) {
    const auto hash = HashOfKey{}(key);
    auto& shard = shard_of(hash);
    MutexLock lock{shard.mutex};
    return used(find_in(shard, hash, key));
  }
  /// Returns: a record that may have that key, or have had it; or null, which says nothing. Nothing keeps it alive: it
  /// may become another key's, but stays a record.
  [[nodiscard]] Record* find_unlocked(std::size_t hash) { return shard_of(hash).records.find_unlocked(hash); }
  /// Returns: the record, made if there was none; nothing if the budget refuses that.
  /// Errors:  throws bad_alloc, and changes nothing.
  [[nodiscard]] RecordRef<Traits> find_or_make(const Key& key) {
    const auto hash = HashOfKey{}(key);
    auto& shard = shard_of(hash);
    MutexLock lock{shard.mutex};
    auto* const record = find_in(shard, hash, key);
    if (record != nullptr && !record->owned) forget_owner(*record);
    return used(record != nullptr ? record : add(shard, key));
  }
  /// The same, for its owner: a record that has an owner already retires, and another is made. The retired one is
  /// marked abandoned and handed out: a flush of it may still be in flight, and the owner waits for that.
  [[nodiscard]] RecordRef<Traits> own(const Key& key, RecordRef<Traits>& retired) {
    const auto hash = HashOfKey{}(key);
    auto& shard = shard_of(hash);
    MutexLock lock{shard.mutex};
    auto* const before = find_in(shard, hash, key);
    if (before != nullptr && !before->owned) {
      before->owned = true;
      forget_owner(*before);
      return used(before);
    }
    if (before != nullptr) shard.records.reserve();
    auto* const next = before == nullptr ? add(shard, key) : make(key);
    if (next == nullptr) return {};
    if (before != nullptr) {
      retire(*before, retired);  // its owner is a user: release gives it back
      shard.records.erase(hash, *before);
      shard.records.insert(hash, *next);
    }
    next->owned = true;
    return used(next);
  }
  /// The owner goes; it is still a user.
  void disown(Record& record) noexcept {
    auto& shard = shard_of(record.hash);
    MutexLock lock{shard.mutex};
    record.owned = false;
  }
  void release(Record& record) noexcept {
    auto users = record.users.load();
    while (users > 1) {
      if (record.users.compare_exchange_weak(users, users - 1)) return;
    }
    auto& shard = shard_of(record.hash);
    MutexLock lock{shard.mutex};
    if (record.users.fetch_sub(1) != 1) return;
    {
      MutexLock table{record.table_mutex};
      if (!record.idle() || record.users.load() != 0) return;
    }
    // Idle and without a user, and both can only change through this shard: nobody else has a way to the record.
    if (!record.retired) shard.records.erase(record.hash, record);
    record.end();
    records_.give(record);
  }

  /// Calls f(record) for every record, each kept alive for the call, with no lock held.
  template <class F>
  void for_each(F f) {
    for (auto& shard : shards_) {
      std::vector<RecordRef<Traits>> refs;
      {
        MutexLock lock{shard.mutex};
        refs.reserve(shard.records.count());
        shard.records.for_each([&](Record& record) {
          record.users.fetch_add(1);
          refs.emplace_back(*this, record);
        });
      }
      for (auto& ref : refs) f(*ref);
    }
  }

  struct Changed {
    std::uint64_t files = 0;
    std::int64_t since_ns = 0;
  };
  /// How many files have a change that the store lacks, and since when the first of them has had one; 0: none.
  /// Cost: O(records), with each shard's mutex held for its own: a load of each is less than for_each does under it.
  [[nodiscard]] Changed changed() {
    Changed found;
    for (auto& shard : shards_) {
      MutexLock lock{shard.mutex};
      shard.records.for_each([&](const Record& record) {
        const auto since_ns = record.changed_since_ns.load(std::memory_order_relaxed);
        if (since_ns == 0) return;
        found.since_ns = found.files == 0 ? since_ns : std::min(found.since_ns, since_ns);
        ++found.files;
      });
    }
    return found;
  }

  /// What one record costs, its table of chunks apart.
  static constexpr std::size_t record_bytes = sizeof(Record) + RecordTable<Record>::bytes_per_record;

 private:
  using HashOfKey = typename Record::HashOfKey;
  struct Shard {
    CheckedMutex mutex;
    RecordTable<Record> records;  // which says what needs the mutex
  };
  [[nodiscard]] static Record* find_in(const Shard& shard, std::size_t hash, const Key& key)
      TARN_REQUIRES(shard.mutex) {
    return shard.records.find(hash, [&](const Record& record) { return record.key == key; });
  }
  // What an owner that is gone has left behind.
  static void forget_owner(Record& record) {
    record.abandoned = false;
    record.flush_failed = false;
  }
  // One user more. Requires: the shard's mutex.
  [[nodiscard]] RecordRef<Traits> used(Record* record) {
    if (record == nullptr) return {};
    record->users.fetch_add(1);
    return {*this, *record};
  }
  // Returns: null if the budget refuses. Errors: throws bad_alloc, and changes nothing.
  [[nodiscard]] Record* make(const Key& key) {
    auto* const record = records_.take();
    if (record == nullptr) return nullptr;
    try {
      record->begin(key);
    } catch (...) {
      records_.give(*record);
      throw;
    }
    return record;
  }
  [[nodiscard]] Record* add(Shard& shard, const Key& key) TARN_REQUIRES(shard.mutex) {
    shard.records.reserve();
    auto* const record = make(key);
    if (record != nullptr) shard.records.insert(record->hash, *record);
    return record;
  }
  // The very highest bits of a mix: the table uses others.
  [[nodiscard]] Shard& shard_of(std::size_t hash) { return shards_[(hash * 0x9E3779B97F4A7C15u) >> 60]; }
  // Requires: the shard's mutex. Nobody finds it any more; it goes with its last use.
  void retire(Record& record, RecordRef<Traits>& retired) {
    record.retired = true;
    record.abandoned = true;
    record.replaced = true;
    record.users.fetch_add(1);
    retired = {*this, record};
  }

  StableObjects<Record> records_;
  std::array<Shard, 16> shards_;
};

}  // namespace tarn::detail
