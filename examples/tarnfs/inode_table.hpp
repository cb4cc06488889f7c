// SPDX-License-Identifier: MIT
#pragma once

// The inodes that the kernel, or somebody in here, knows.
//
// An inode is found by (st_dev, st_ino) of SOURCE; since its O_PATH descriptor keeps the file, the pair cannot come to
// mean another file while the inode is here. The kernel names an inode by its address; an address that is used again
// comes with another generation.
//
// An inode stays while the kernel has looked it up, while somebody holds an InodeRef, and while it has dirty bytes: to
// be forgotten by the kernel loses nothing.
//
// Thread safety: any thread.
// Lock order:    the table's mutex and an inode's content mutex are never held together, but for an inode that nobody
//                uses any more. Content is made under the latter, which may wait for SOURCE.

#include <fuse_lowlevel.h>

#include <atomic>
#include <cassert>
#include <cstdint>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <utility>
#include <vector>

#include "content.hpp"
#include "source_file.hpp"

namespace tarnfs {

class InodeTable;

struct InodeKey {
  dev_t device = 0;
  ino_t number = 0;
  friend bool operator==(const InodeKey&, const InodeKey&) = default;
};

class Inode {
 public:
  Inode(SourceTree& tree, Fd handle, const struct stat& attributes, std::uint64_t unique)
      : key{attributes.st_dev, attributes.st_ino},
        type{attributes.st_mode & S_IFMT},
        generation{unique},
        source{tree, std::move(handle)} {}

  [[nodiscard]] bool is_regular() const { return type == S_IFREG; }
  [[nodiscard]] int handle() const { return source.handle(); }

  /// The bytes, or null if none are in memory.
  [[nodiscard]] std::shared_ptr<Content> content() const {
    if (!has_content_) return nullptr;
    const std::lock_guard lock{content_mutex_};
    return content_;
  }
  /// The bytes. Errors: 0, or an errno and null; throws what ContentPool::add throws.
  std::shared_ptr<Content> content(ContentPool& pool, int& error) {
    error = 0;
    const std::lock_guard lock{content_mutex_};
    if (!content_) {
      std::uint64_t size_bytes = 0;
      if ((error = source.watch(size_bytes)) != 0) return nullptr;
      content_ = pool.add(source, generation, size_bytes);
      has_content_ = true;
    }
    return content_;
  }
  /// Lets go of the bytes if nobody uses them and SOURCE has them all. Returns: whether they are gone.
  bool drop_idle_content() {
    const std::unique_lock lock{content_mutex_, std::try_to_lock};
    if (!lock || !content_ || content_.use_count() > 1 || content_->is_dirty()) return false;
    content_ = nullptr;
    has_content_ = false;
    return true;
  }

  const InodeKey key;
  const mode_t type;
  const std::uint64_t generation;  ///< no other inode ever has it
  SourceFile source;
  std::atomic<int> opens{0};
  std::atomic<int> unclosed{0};  ///< the opens of which no close was heard; their end may come long after, with a map's
  std::atomic<bool> unlinked{false};  ///< no name is left: bytes that nobody has open need not be stored
  // What need not be asked of SOURCE at each write; chmod and setxattr, which come through us, forget it.
  // Set by who holds the source's privileges.
  std::atomic<bool> no_set_id{false};      ///< known to have neither suid nor sgid
  std::atomic<bool> no_capability{false};  ///< known to have no security.capability

 private:
  friend class InodeTable;

  // Counted by the table.
  std::uint64_t lookups_ = 0;
  std::uint64_t holds_ = 0;

  mutable std::mutex content_mutex_;
  std::shared_ptr<Content> content_;
  std::atomic<bool> has_content_{false};  ///< to be asked where waiting for the mutex is too long
};

/// Keeps an inode in the table.
class InodeRef {
 public:
  InodeRef() = default;
  InodeRef(InodeRef&& other) noexcept : table_{other.table_}, inode_{std::exchange(other.inode_, nullptr)} {}
  InodeRef& operator=(InodeRef&& other) noexcept {
    std::swap(table_, other.table_);
    std::swap(inode_, other.inode_);
    return *this;
  }
  inline ~InodeRef();

  explicit operator bool() const { return inode_ != nullptr; }
  Inode& operator*() const { return *inode_; }
  Inode* operator->() const { return inode_; }
  [[nodiscard]] Inode* get() const { return inode_; }

 private:
  friend class InodeTable;
  InodeRef(InodeTable& table, Inode& inode) : table_{&table}, inode_{&inode} {}

  InodeTable* table_ = nullptr;
  Inode* inode_ = nullptr;
};

class InodeTable {
 public:
  explicit InodeTable(SourceTree& tree) : tree_{tree} {}
  InodeTable(const InodeTable&) = delete;
  InodeTable& operator=(const InodeTable&) = delete;

  /// Returns: the inode if it is known.
  InodeRef find(InodeKey key) {
    const std::lock_guard lock{mutex_};
    const auto at = inodes_.find(key);
    return at == inodes_.end() ? InodeRef{} : hold(*at->second);
  }
  /// The inode that `handle` leads to, known or not.
  InodeRef find_or_add(Fd handle, const struct stat& attributes) {
    const std::lock_guard lock{mutex_};
    auto at = inodes_.find({attributes.st_dev, attributes.st_ino});
    if (at == inodes_.end()) {  // made before its place: without memory for it there is none
      auto made = std::make_unique<Inode>(tree_, std::move(handle), attributes, ++generations_);
      at = inodes_.emplace(made->key, std::move(made)).first;
    }
    return hold(*at->second);
  }
  InodeRef ref(Inode& inode) {
    const std::lock_guard lock{mutex_};
    return hold(inode);
  }

  /// The kernel was told of the inode once more; it forgets that many at a time.
  void add_lookup(Inode& inode) {
    const std::lock_guard lock{mutex_};
    ++inode.lookups_;
  }
  void forget(Inode& inode, std::uint64_t lookups) {
    drop(inode, [&] {
      assert(inode.lookups_ >= lookups);
      inode.lookups_ -= lookups;
    });
  }

  /// Those whose bytes were opened.
  std::vector<InodeRef> with_content() {
    const std::lock_guard lock{mutex_};
    std::vector<InodeRef> found;
    for (const auto& [key, inode] : inodes_) {
      if (inode->has_content_) found.push_back(hold(*inode));
    }
    return found;
  }

 private:
  friend class InodeRef;

  struct Hash {
    std::size_t operator()(const InodeKey& key) const noexcept {
      return static_cast<std::size_t>((key.number ^ (key.device << 40)) * 0x9E3779B97F4A7C15u);
    }
  };

  InodeRef hold(Inode& inode) {
    ++inode.holds_;
    return {*this, inode};
  }
  void release(Inode& inode) {
    drop(inode, [&] { --inode.holds_; });
  }

  template <class F>
  void drop(Inode& inode, F&& lower) {
    std::unique_ptr<Inode> gone;  // after the lock is given up: content lets go of its chunks, descriptors close
    const std::lock_guard lock{mutex_};
    lower();
    if (inode.lookups_ > 0 || inode.holds_ > 0) return;
    // Dirty, it stays: whoever stores the bytes has a hold, and comes here once more. Without a name nobody can come.
    if (const auto content = inode.content(); content && !inode.unlinked && content->is_dirty()) return;
    const auto at = inodes_.find(inode.key);
    gone = std::move(at->second);
    inodes_.erase(at);
  }

  SourceTree& tree_;
  std::mutex mutex_;
  std::unordered_map<InodeKey, std::unique_ptr<Inode>, Hash> inodes_;
  std::uint64_t generations_ = 0;
};

inline InodeRef::~InodeRef() {
  if (inode_) table_->release(*inode_);
}

}  // namespace tarnfs
