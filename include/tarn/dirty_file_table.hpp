// SPDX-License-Identifier: MIT
#pragma once

// The files of a filesystem by id.
//
// The table owns its files together with whoever holds a pointer from find, so a file lives through a call on it even
// if it is dropped from the table meanwhile. One that was removed stays in it until it is dropped: then its id is free.
//
// Thread safety: every call from any thread. No file is called with the table's mutex held.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include <tarn/dirty_file.hpp>

namespace tarn {

template <class Traits, class Store>
class DirtyFileTable {
 public:
  using File = DirtyFile<Traits, Store>;
  using FileId = typename Traits::FileId;
  using FilePtr = std::shared_ptr<File>;

  /// Requires: `pool` and `store` outlive the table and the pointers it gave out.
  DirtyFileTable(ChunkPool<Traits>& pool, Store& store) : pool_{pool}, store_{store} {}
  DirtyFileTable(const DirtyFileTable&) = delete;
  DirtyFileTable& operator=(const DirtyFileTable&) = delete;

  /// Returns: the file, or null: not knowing a file is normal.
  [[nodiscard]] FilePtr find(const FileId& id) const {
    detail::MutexLock lock{mutex_};
    const auto at = files_.find(id);
    return at == files_.end() ? nullptr : at->second;
  }
  /// Returns: the file of that id, made from `metadata` if there was none.
  /// Errors:  as the construction of a DirtyFile throws.
  /// Blocks:  while another thread makes the same file. Making one may flush others for room.
  [[nodiscard]] FilePtr find_or_add(const MetadataFor<Traits>& metadata) {
    const auto& id = metadata.id();
    detail::MutexLock lock{mutex_};
    while (making_.contains(id)) made_.wait(lock.std_lock());
    if (const auto at = files_.find(id); at != files_.end()) return at->second;
    making_.insert(id);
    lock.unlock();
    FilePtr file;
    try {
      file = std::make_shared<File>(pool_, metadata, store_);
      lock.lock();
      files_.emplace(id, file);
    } catch (...) {
      if (!lock.owns_lock()) lock.lock();
      done_making(id);
      throw;
    }
    done_making(id);
    return file;
  }
  /// Takes the file out of the table and abandons it. Flush it before: what is dirty is lost with the last pointer, and
  /// the observer is told of bytes alone.
  /// Returns: the file, or null.
  /// Blocks:  on a flush of it in flight, with no bound.
  FilePtr drop(const FileId& id) { return drop(id, nullptr); }

  [[nodiscard]] bool is_dirty(const FileId& id) const {
    const auto file = find(id);
    return file != nullptr && file->is_dirty();
  }
  /// Ids of the files with anything to store.
  [[nodiscard]] std::vector<FileId> dirty() const {
    std::vector<FileId> ids;
    for (const auto& [id, file] : all()) {
      if (file->is_dirty()) ids.push_back(id);
    }
    return ids;
  }
  /// Flushes every file, all of them even if one fails. Returns: the first error.
  [[nodiscard]] Result<> flush_all() {
    Result<> first;
    for (const auto& [id, file] : all()) {
      if (const auto flushed = file->flush(); !flushed && first) first = flushed;
    }
    return first;
  }

  /// The first file, in no order, whose metadata meets `predicate`; or null.
  template <class Predicate>
  [[nodiscard]] FilePtr find_if(Predicate predicate) const {
    for (const auto& [id, file] : all()) {
      if (predicate(file->metadata())) return file;
    }
    return nullptr;
  }
  /// Drops every file whose metadata meets `predicate`. Returns: how many. Blocks: as drop, on each.
  template <class Predicate>
  std::size_t erase_if(Predicate predicate) {
    std::size_t count = 0;
    for (const auto& [id, file] : all()) {
      if (predicate(file->metadata()) && drop(id, file.get()) != nullptr) ++count;
    }
    return count;
  }
  [[nodiscard]] std::size_t size() const {
    detail::MutexLock lock{mutex_};
    return files_.size();
  }
  /// Drops every file. Blocks: as drop, on each.
  void clear() {
    for (const auto& [id, file] : all()) drop(id, file.get());
  }

 private:
  [[nodiscard]] std::vector<std::pair<FileId, FilePtr>> all() const {
    detail::MutexLock lock{mutex_};
    return {files_.begin(), files_.end()};
  }

  ChunkPool<Traits>& pool_;
  Store& store_;
  // Drops the file of that id; with `only`, if it is that file still.
  FilePtr drop(const FileId& id, const File* only) {
    FilePtr file;
    {
      detail::MutexLock lock{mutex_};
      const auto at = files_.find(id);
      if (at == files_.end() || (only != nullptr && at->second.get() != only)) return nullptr;
      file = std::move(at->second);
      files_.erase(at);
    }
    file->abandon();
    return file;
  }
  void done_making(const FileId& id) TARN_REQUIRES(mutex_) {
    making_.erase(id);
    made_.notify_all();
  }

  mutable detail::CheckedMutex mutex_;
  detail::ConditionVariable made_;
  // Ids of files under construction, which happens with no lock held.
  std::unordered_set<FileId> making_ TARN_GUARDED_BY(mutex_);
  std::unordered_map<FileId, FilePtr> files_ TARN_GUARDED_BY(mutex_);
};

}  // namespace tarn
