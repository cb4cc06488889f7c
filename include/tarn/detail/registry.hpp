// SPDX-License-Identifier: MIT
#pragma once

// The file records by key, with a count of users.
//
// A record is found or made under its shard's mutex and stays while it has a user, a chunk, or anything in flight. The
// count goes up under the shard's mutex, or by whoever holds the table mutex of a record that is not idle; the last
// user gives up under the shard's mutex and then, under the table mutex too, looks whether the record is idle and still
// without a user, and if so erases it. So nobody can find a record that is being erased.
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
#include <memory>
#include <unordered_map>
#include <utility>
#include <vector>

#include <tarn/budget.hpp>
#include <tarn/detail/file_record.hpp>
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

  explicit Registry(Budget& budget) : budget_{budget} {}

  /// Returns: the record, or nothing if the pool knows none.
  [[nodiscard]] RecordRef<Traits> find(const Key& key) {
    auto& shard = shard_of(HashOfKey{}(key));
    MutexLock lock{shard.mutex};
    const auto at = shard.records.find(key);
    if (at == shard.records.end()) return {};
    at->second->users.fetch_add(1);
    return {*this, *at->second};
  }
  /// Returns: the record, made if there was none; nothing if the budget refuses that.
  /// Errors:  throws bad_alloc, and changes nothing.
  [[nodiscard]] RecordRef<Traits> find_or_make(const Key& key) {
    auto& shard = shard_of(HashOfKey{}(key));
    MutexLock lock{shard.mutex};
    const auto at = shard.records.find(key);
    auto* const record = at != shard.records.end() ? at->second.get() : add(shard, key);
    if (record == nullptr) return {};
    record->users.fetch_add(1);
    return {*this, *record};
  }
  /// The same, for its owner: a record that has an owner already retires, and another is made. The retired one is
  /// marked abandoned and handed out: a flush of it may still be in flight, and the owner waits for that.
  [[nodiscard]] RecordRef<Traits> own(const Key& key, RecordRef<Traits>& retired) {
    auto& shard = shard_of(HashOfKey{}(key));
    MutexLock lock{shard.mutex};
    if (const auto at = shard.records.find(key); at != shard.records.end()) {
      if (!at->second->owned) {
        at->second->owned = true;
        at->second->abandoned = false;  // by an owner that is gone
        at->second->flush_failed = false;
        at->second->users.fetch_add(1);
        return {*this, *at->second};
      }
      auto next = make(key);
      if (next == nullptr) return {};
      retire(*at->second, retired);
      (void)at->second.release();  // its owner is a user: release deletes it
      at->second = std::move(next);
      at->second->owned = true;
      at->second->users.fetch_add(1);
      return {*this, *at->second};
    }
    auto* const record = add(shard, key);
    if (record == nullptr) return {};
    record->owned = true;
    record->users.fetch_add(1);
    return {*this, *record};
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
    if (record.retired) {
      delete &record;
    } else {
      shard.records.erase(shard.records.find(record.key));
    }
    budget_.release(record_bytes);
  }

  /// Calls f(record) for every record, each kept alive for the call, with no lock held.
  template <class F>
  void for_each(F f) {
    for (auto& shard : shards_) {
      std::vector<RecordRef<Traits>> refs;
      {
        MutexLock lock{shard.mutex};
        refs.reserve(shard.records.size());
        for (auto& [key, record] : shard.records) {
          record->users.fetch_add(1);
          refs.emplace_back(*this, *record);
        }
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
      for (const auto& [key, record] : shard.records) {
        const auto since_ns = record->changed_since_ns.load(std::memory_order_relaxed);
        if (since_ns == 0) continue;
        found.since_ns = found.files == 0 ? since_ns : std::min(found.since_ns, since_ns);
        ++found.files;
      }
    }
    return found;
  }

  /// What one record costs, tables apart: itself and its place in the hash table.
  static constexpr std::size_t record_bytes = sizeof(Record) + sizeof(Key) + 6 * sizeof(void*);

 private:
  using HashOfKey = typename Record::HashOfKey;
  struct Shard {
    CheckedMutex mutex;
    std::unordered_map<Key, std::unique_ptr<Record>, HashOfKey> records TARN_GUARDED_BY(mutex);
  };
  // Returns: null if the budget refuses. Errors: throws bad_alloc, and changes nothing.
  [[nodiscard]] std::unique_ptr<Record> make(const Key& key) {
    if (!budget_.try_charge(record_bytes)) return nullptr;
    try {
      return std::make_unique<Record>(key);
    } catch (...) {
      budget_.release(record_bytes);
      throw;
    }
  }
  [[nodiscard]] Record* add(Shard& shard, const Key& key) TARN_REQUIRES(shard.mutex) {
    auto record = make(key);
    if (record == nullptr) return nullptr;
    try {
      return shard.records.emplace(key, std::move(record)).first->second.get();
    } catch (...) {
      budget_.release(record_bytes);
      throw;
    }
  }
  Shard& shard_of(std::size_t hash) {
    // The map uses the low bits of the hash; the shard takes high ones of a mix, since small inodes differ only low.
    return shards_[(hash * 0x9E3779B97F4A7C15u) >> 60];
  }
  // Requires: the shard's mutex. Nobody finds it any more; it goes with its last use.
  void retire(Record& record, RecordRef<Traits>& retired) {
    record.retired = true;
    record.abandoned = true;
    record.replaced = true;
    record.users.fetch_add(1);
    retired = {*this, record};
  }

  Budget& budget_;
  std::array<Shard, 16> shards_;
};

}  // namespace tarn::detail
