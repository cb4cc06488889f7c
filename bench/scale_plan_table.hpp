// SPDX-License-Identifier: MIT
#pragma once

// The pool of the plan that tarn was born from, reconstructed from its description: a map from keys to ids, one from
// ids to blocks, and a list of ids in the order of their last use, in which every touch searches for the id to move it
// to the end. All of it under one mutex.
//
// Thread safety: touch: any thread.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <utility>
#include <vector>

namespace tarn_bench {

class PlanTable {
 public:
  using Block = std::vector<std::byte>;
  struct Key {
    std::uint64_t file, chunk;
    friend bool operator==(const Key&, const Key&) = default;
  };

  void insert(const Key& key, Block bytes) {
    const std::lock_guard lock{mutex_};
    const auto id = next_id_++;
    ids_.emplace(key, id);
    blocks_.emplace(id, std::make_shared<const Block>(std::move(bytes)));
    by_use_.push_back(id);
  }
  /// Returns: the block, the last one to go from now on; or null.
  [[nodiscard]] std::shared_ptr<const Block> touch(const Key& key) {
    const std::lock_guard lock{mutex_};
    const auto found = ids_.find(key);
    if (found == ids_.end()) return nullptr;
    by_use_.erase(std::ranges::find(by_use_, found->second));
    by_use_.push_back(found->second);
    return blocks_.find(found->second)->second;
  }

 private:
  struct HashOfKey {
    std::size_t operator()(const Key& key) const {
      return std::hash<std::uint64_t>{}(key.file * 0x9E3779B97F4A7C15u + key.chunk);
    }
  };

  std::mutex mutex_;
  std::uint64_t next_id_ = 0;
  std::unordered_map<Key, std::uint64_t, HashOfKey> ids_;
  std::unordered_map<std::uint64_t, std::shared_ptr<const Block>> blocks_;
  std::list<std::uint64_t> by_use_;
};

}  // namespace tarn_bench
