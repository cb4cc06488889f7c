// SPDX-License-Identifier: MIT
#pragma once

// A pool, a store that answers when told, and one DirtyFile: as shared_file.hpp, for what waits with no thread.
//
// Thread safety: as of the parts.

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include <tarn/dirty_file.hpp>
#include <tarn/testing/later_store.hpp>

#include "support/catch.hpp"
#include "support/one_file.hpp"

namespace tarn_test {

/// The file has `stored_bytes` of the pattern.
template <class Traits, class StoreType = LaterStore<Traits>>
struct LaterFile {
  using Pool = tarn::ChunkPool<Traits>;
  using Metadata = tarn::MetadataFor<Traits>;
  using Store = StoreType;
  using File = tarn::DirtyFile<Traits, Store>;

  static constexpr std::uint64_t id = 7;

  explicit LaterFile(const Sizes& sizes, std::uint64_t stored_bytes = 0, std::uint64_t more_bytes = 16 * MiB)
      : C{sizes.chunk_bytes}, P{sizes.chunk_bytes * sizes.chunks_per_part}, pool{pool_options<Traits>(C, more_bytes)} {
    store.memory.expect_parts_of(P);
    if (stored_bytes == 0) {
      file.emplace(pool, Metadata::created(id, {.part_bytes = P}), store);
    } else {
      store.memory.put_pattern(id, stored_bytes);
      file.emplace(pool, Metadata::from_store(id, stored_bytes, {.part_bytes = P}), store);
    }
  }
  ~LaterFile() {
    CHECK(store.memory.complaints() == "");
    CHECK(store.open_loads() == 0);
    CHECK(store.open_flushes() == 0);
    file.reset();
    pool.evict_clean();
    CHECK(pool.stats().charged_bytes == 0);
    CHECK(pool.stats().dirty_bytes == 0);
  }

  File* operator->() { return &*file; }
  /// Answers every load that is asked now, and those that come of it.
  void finish_loads() {
    while (store.open_loads() != 0) store.finish_load();
  }
  [[nodiscard]] std::string read_held(std::uint64_t offset, std::size_t size_bytes) {
    std::string into(size_bytes, '?');
    auto outcome = file->try_read(offset, writable(into));
    if (!outcome.done()) return outcome.needs_load() ? "not held" : "busy";
    into.resize(*outcome);
    return into;
  }

  const std::uint64_t C, P;
  Pool pool;
  Store store;
  std::optional<File> file;
};

}  // namespace tarn_test

#ifdef TARN_TESTS_INSTANTIATED  // as in one_file.hpp
#define TARN_TEST_LATER_FILE(instantiate, Traits)                               \
  instantiate class tarn::testing::LaterStore<Traits>;                          \
  instantiate class tarn::DirtyFile<Traits, tarn::testing::LaterStore<Traits>>; \
  instantiate struct tarn_test::LaterFile<Traits>;
TARN_TEST_LATER_FILE(extern template, tarn_test::Heap)
TARN_TEST_LATER_FILE(extern template, tarn_test::Arena)
#endif
