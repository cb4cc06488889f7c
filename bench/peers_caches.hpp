// SPDX-License-Identifier: MIT
#pragma once

// What others hold resident data in, all of one shape:
//
//   cache.put(key, memory)     from here on the key has that memory, which is the caller's
//   cache.use(key, f)          f(memory), which the cache keeps while it is looked at; false if the key has none
//
// Each is called as its own makers mean it to be, and does for a use what a pin and its end do: it finds the entry,
// keeps it from being evicted, notes that it was used, and lets go of it.
//
// Thread safety: as said of each.

#include <leveldb/cache.h>
#include <leveldb/slice.h>
#include <rocksdb/cache.h>
#include <rocksdb/slice.h>
#include <tbb/concurrent_hash_map.h>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <unordered_map>
#include <utility>

#include "paired.hpp"

namespace tarn_bench {

/// Names a chunk. A key is bytes to most of the others.
struct Key {
  std::uint64_t file, chunk;
  friend bool operator==(const Key&, const Key&) = default;
};
static_assert(sizeof(Key) == 16, "HyperClockCache takes keys of 16 bytes alone");

struct HashOfKey {
  [[nodiscard]] std::size_t operator()(const Key& key) const {
    const auto mixed = (key.file * 0x9E3779B97F4A7C15u + key.chunk) * 0xBF58476D1CE4E5B9u;
    return mixed ^ (mixed >> 32);
  }
  // As oneTBB wants it.
  [[nodiscard]] std::size_t hash(const Key& key) const { return (*this)(key); }
  [[nodiscard]] bool equal(const Key& one, const Key& other) const { return one == other; }
};

/// RocksDB's caches and LevelDB's. Thread safety: any thread.
template <class Cache, class Slice>
class HandleCache {
 public:
  HandleCache(std::shared_ptr<Cache> cache, std::size_t charge) : cache_{std::move(cache)}, charge_{charge} {}

  void put(const Key& key, const std::byte* memory) {
    auto* const value = const_cast<std::byte*>(memory);  // as both want it; nobody writes there
    if constexpr (std::same_as<Cache, leveldb::Cache>) {
      cache_->Release(cache_->Insert(slice_of(key), value, charge_, [](const Slice&, void*) {}));
    } else {
      expect(cache_->Insert(slice_of(key), value, charge_, [](const Slice&, void*) {}).ok(), "an insert");
    }
  }
  template <class F>
  [[nodiscard]] bool use(const Key& key, F f) {
    auto* const handle = cache_->Lookup(slice_of(key));
    if (handle == nullptr) return false;
    f(static_cast<const std::byte*>(cache_->Value(handle)));
    cache_->Release(handle);
    return true;
  }
  [[nodiscard]] Cache& operator*() const { return *cache_; }
  [[nodiscard]] Cache* operator->() const { return cache_.get(); }
  [[nodiscard]] static Slice slice_of(const Key& key) { return Slice{reinterpret_cast<const char*>(&key), sizeof key}; }

 private:
  const std::shared_ptr<Cache> cache_;
  const std::size_t charge_;
};
using RocksCache = HandleCache<rocksdb::Cache, rocksdb::Slice>;
using LevelCache = HandleCache<leveldb::Cache, leveldb::Slice>;

// Of so many entries, and what they keep for one beside that is not counted. Each deals its entries out to shards, not
// evenly, so they have `more` room than that, in percent: where all are to stay, as little as does.

[[nodiscard]] inline RocksCache hyper_clock_cache(std::size_t entries, std::size_t charge, std::size_t more = 10) {
  rocksdb::HyperClockCacheOptions options{entries * charge + entries * charge / 100 * more, charge};
  options.metadata_charge_policy = rocksdb::kDontChargeCacheMetadata;
  return {options.MakeSharedCache(), charge};
}
[[nodiscard]] inline RocksCache rocksdb_lru_cache(std::size_t entries, std::size_t charge, std::size_t more = 50) {
  rocksdb::LRUCacheOptions options;
  options.capacity = entries * charge + entries * charge / 100 * more;
  options.metadata_charge_policy = rocksdb::kDontChargeCacheMetadata;
  return {rocksdb::NewLRUCache(options), charge};
}
[[nodiscard]] inline LevelCache leveldb_cache(std::size_t entries, std::size_t charge, std::size_t more = 25) {
  const auto capacity = entries * charge + entries * charge / 100 * more;
  return {std::shared_ptr<leveldb::Cache>{leveldb::NewLRUCache(capacity)}, charge};
}

/// Evicts nothing and notes no use; an accessor keeps its entry. Thread safety: any thread.
class TbbMap {
 public:
  void put(const Key& key, const std::byte* memory) { map_.insert({key, memory}); }
  template <class F>
  [[nodiscard]] bool use(const Key& key, F f) {
    Map::const_accessor at;
    if (!map_.find(at, key)) return false;
    f(at->second);
    return true;
  }

 private:
  using Map = tbb::concurrent_hash_map<Key, const std::byte*, HashOfKey>;
  Map map_;
};

/// The one of the textbooks: a map into a list, whose front was used last. Thread safety: any thread; a get moves what
/// it finds to the front, and so is alone, too.
template <class K, class Value, class Hash = std::hash<K>>
class TextbookLru {
 public:
  explicit TextbookLru(std::size_t entries) : entries_{entries} {}

  [[nodiscard]] std::optional<Value> get(const K& key) {
    std::unique_lock lock{mutex_};
    const auto found = places_.find(key);
    if (found == places_.end()) return std::nullopt;
    used_.splice(used_.begin(), used_, found->second);
    return found->second->second;
  }
  /// Requires: the key is not there.
  void put(const K& key, Value value) {
    std::unique_lock lock{mutex_};
    if (places_.size() == entries_) {
      places_.erase(used_.back().first);
      used_.pop_back();
    }
    used_.emplace_front(key, std::move(value));
    places_.emplace(key, used_.begin());
  }
  [[nodiscard]] std::size_t count() const {
    std::shared_lock lock{mutex_};
    return places_.size();
  }

 private:
  using Used = std::list<std::pair<K, Value>>;
  const std::size_t entries_;
  mutable std::shared_mutex mutex_;
  Used used_;
  std::unordered_map<K, typename Used::iterator, Hash> places_;
};

/// That one with memory that is kept by who looks at it.
class LruCache {
 public:
  explicit LruCache(std::size_t entries) : lru_{entries} {}

  void put(const Key& key, const std::byte* memory) {
    lru_.put(key, std::shared_ptr<const std::byte>{memory, [](const std::byte*) {}});
  }
  template <class F>
  [[nodiscard]] bool use(const Key& key, F f) {
    const auto memory = lru_.get(key);
    if (!memory) return false;
    f(memory->get());
    return true;
  }

 private:
  TextbookLru<Key, std::shared_ptr<const std::byte>, HashOfKey> lru_;
};

}  // namespace tarn_bench
