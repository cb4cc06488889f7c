// SPDX-License-Identifier: MIT
#pragma once

// A pool, a store and one DirtyFile, with text for bytes: as one_file.hpp, for many threads.
//
// Thread safety: as of the parts.

#include <atomic>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <type_traits>

#include <tarn/dirty_file.hpp>

#include "support/one_file.hpp"

namespace tarn_test {

/// What an observer was told, for a test to look at. It is copied into the pool, so it points at what it fills.
struct Events {
  std::atomic<std::uint64_t> lost_bytes{0}, lost{0}, failed{0}, unsure_bytes{0};
};
struct WatchingObserver : tarn::NullObserver {
  WatchingObserver() = default;
  explicit WatchingObserver(Events* to) : events{to} {}

  Events* events = nullptr;
  template <class FileId>
  void on_dirty_lost(const FileId&, std::uint64_t bytes) noexcept {
    if (events == nullptr) return;
    events->lost_bytes += bytes;
    ++events->lost;
  }
  template <class FileId>
  void on_flush_failed(const FileId&, std::error_code) noexcept {
    if (events != nullptr) ++events->failed;
  }
  template <class FileId>
  void on_sync_failed(const FileId&, const tarn::ExtentSet& evicted, std::error_code) noexcept {
    if (events != nullptr) events->unsure_bytes += evicted.size_bytes();
  }
};
struct WatchedFiles : Heap {
  using Observer = WatchingObserver;
};
struct WatchedFilesInArena : Arena {
  using Observer = WatchingObserver;
};
using WatchedUsual = std::conditional_t<std::is_same_v<Usual, Heap>, WatchedFiles, WatchedFilesInArena>;

template <class Traits>
struct SharedFile {
  using Pool = tarn::ChunkPool<Traits>;
  using Metadata = tarn::MetadataFor<Traits>;
  using Store = MemoryStore<Traits>;
  using File = tarn::DirtyFile<Traits, Store>;

  static constexpr std::uint64_t id = 7;

  /// A new file; with `stored_bytes`, one that the store has, of the pattern.
  explicit SharedFile(const Sizes& sizes, std::uint64_t stored_bytes = 0,
                      std::uint64_t more_bytes = OneFile<Traits>::roomy_bytes)
      : C{sizes.chunk_bytes},
        P{sizes.chunk_bytes * sizes.chunks_per_part},
        pool{pool_options<Traits>(C, more_bytes), typename Traits::Observer{&events}} {
    store.expect_parts_of(P);
    if (stored_bytes == 0) {
      file.emplace(pool, Metadata::created(id, {.part_bytes = P}), store);
    } else {
      store.put_pattern(id, stored_bytes);
      file.emplace(pool, Metadata::from_store(id, stored_bytes, {.part_bytes = P}), store);
    }
  }
  /// Every test ends here: tarn kept its word to the store, and nothing stays charged.
  ~SharedFile() {
    CHECK(store.complaints() == "");
    file.reset();
    pool.evict_clean();
    check_empty(pool.stats());
  }

  File* operator->() { return &*file; }
  tarn::Result<std::size_t> write(std::uint64_t offset, std::string_view text) {
    return file->write(offset, bytes_of(text));
  }
  /// Returns: the bytes read; on an error its message.
  [[nodiscard]] std::string read(std::uint64_t offset, std::size_t size_bytes) {
    return read(*file, offset, size_bytes);
  }
  [[nodiscard]] static std::string read(File& from, std::uint64_t offset, std::size_t size_bytes) {
    std::string into(size_bytes, '?');
    const auto n = from.read(offset, writable(into));
    if (!n) return "error: " + n.error().message();
    into.resize(*n);
    return into;
  }
  [[nodiscard]] std::string read_all() { return read(0, static_cast<std::size_t>(file->size())); }

  const std::uint64_t C, P;
  Events events;
  Pool pool;
  Store store;
  std::optional<File> file;
};

}  // namespace tarn_test

#ifdef TARN_TESTS_INSTANTIATED  // as in one_file.hpp
#define TARN_TEST_SHARED_FILE(instantiate, Traits) \
  TARN_TEST_ONE_FILE(instantiate, Traits)          \
  instantiate class tarn::DirtyFile<Traits, tarn::testing::MemoryStore<Traits>>;
TARN_TEST_SHARED_FILE(extern template, tarn_test::WatchedFiles)
TARN_TEST_SHARED_FILE(extern template, tarn_test::WatchedFilesInArena)
extern template struct tarn_test::SharedFile<tarn_test::WatchedFiles>;
extern template struct tarn_test::SharedFile<tarn_test::WatchedFilesInArena>;
#endif
