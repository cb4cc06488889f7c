// SPDX-License-Identifier: MIT
#pragma once

// A pool, a store and one file, driven by the building blocks, with text for bytes: what most tests start from.
//
// The tests that run over every storage policy are TEMPLATE_TEST_CASEs over Heap and Arena; over sizes, by
// GENERATE(any_sizes()).
//
// Thread safety: as of the parts.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <ostream>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include <tarn/chunk_pool.hpp>
#include <tarn/flush.hpp>
#include <tarn/read_range.hpp>
#include <tarn/testing/memory_store.hpp>
#include <tarn/truncate.hpp>
#include <tarn/write_range.hpp>

#include "support/catch.hpp"
#include "support/traits.hpp"

namespace tarn_test {

using tarn::ByteRange;
using tarn::GiB;
using tarn::KiB;
using tarn::MiB;

struct Heap : TestTraits {
  using Storage = tarn::HeapStorage;
};
struct Arena : TestTraits {
  using Storage = tarn::ArenaStorage;
};

// The traits that a test runs with: on heap storage, then on the arena; or on one of them alone, in the presets that say
// so, since the code of the tests is most of what there is to build.
#if TARN_TESTS_ON_HEAP && TARN_TESTS_ON_ARENA
#define EACH_STORAGE(heap, arena) heap, arena
#elif TARN_TESTS_ON_ARENA
#define EACH_STORAGE(heap, arena) arena
#else
#define EACH_STORAGE(heap, arena) heap
#endif

/// The traits of a test that runs once, on whichever of them: what else its program is made for.
#if TARN_TESTS_ON_HEAP
using Usual = Heap;
#else
using Usual = Arena;
#endif

struct Sizes {
  std::uint64_t chunk_bytes, chunks_per_part;
  friend std::ostream& operator<<(std::ostream& out, const Sizes& sizes) {
    return out << "chunks of " << sizes.chunk_bytes << ", " << sizes.chunks_per_part << " a part";
  }
};
[[nodiscard]] inline auto any_sizes() {
  return Catch::Generators::values<Sizes>({{1, 1}, {1, 4}, {16, 1}, {16, 4}, {4096, 1}, {4096, 4}});
}

/// A pool of chunks of that size with `more_bytes` above the least budget. Small windows, so that a few chunks make
/// several of them.
template <class Traits>
[[nodiscard]] tarn::PoolOptions pool_options(std::uint64_t chunk_bytes, std::uint64_t more_bytes = 0,
                                             std::uint64_t window_chunks = 2) {
  tarn::PoolOptions options{.chunk_bytes = chunk_bytes, .window_bytes = window_chunks * chunk_bytes};
  options.budget_bytes = tarn::ChunkPool<Traits>::min_budget_bytes(options) + more_bytes;
  return options;
}

/// A whole range as a read, a write or a view is told it.
[[nodiscard]] inline ByteRange range(std::uint64_t offset, std::uint64_t end) {
  return ByteRange::between(offset, end);
}

/// What is dirty, held or missing: easy to write in a test and to read in its failure.
struct Extent {
  std::uint64_t offset, end;
  friend bool operator==(const Extent&, const Extent&) = default;
  friend std::ostream& operator<<(std::ostream& out, const Extent& extent) {
    return out << '[' << extent.offset << ", " << extent.end << ')';
  }
};
using Extents = std::vector<Extent>;
[[nodiscard]] inline Extents extents_of(const tarn::ExtentSet& set) {
  Extents extents;
  for (const auto& extent : set.extents()) extents.push_back({extent.offset(), extent.end()});
  return extents;
}

/// Nothing is held, lent, reserved, pinned or charged.
inline void check_empty(const tarn::PoolStats& stats) {
  for (const auto& value : tarn::pool_values) {
    if (value.kind == tarn::PoolValueKind::counter || value.in_stats == &tarn::PoolStats::budget_bytes) continue;
    CAPTURE(value.name);
    CHECK(stats.*value.in_stats == 0);
  }
}

template <class Traits>
struct OneFile {
  using Pool = tarn::ChunkPool<Traits>;
  using Metadata = tarn::MetadataFor<Traits>;

  static constexpr std::uint64_t id = 7;
  static constexpr std::uint64_t roomy_bytes = 16 * MiB;

  explicit OneFile(const Sizes& sizes, std::uint64_t more_bytes = roomy_bytes)
      : C{sizes.chunk_bytes},
        P{sizes.chunk_bytes * sizes.chunks_per_part},
        pool{pool_options<Traits>(sizes.chunk_bytes, more_bytes)},
        meta{Metadata::created(id, {.part_bytes = P})} {
    store.expect_parts_of(P);
  }
  /// Every test ends here: tarn kept its word to the store, and nothing stays charged once the file is dropped.
  ~OneFile() {
    CHECK(store.complaints() == "");
    pool.drop(meta);
    pool.evict_clean();
    check_empty(pool.stats());
  }

  /// From now on the file is one that the store has, `size_bytes` of the pattern.
  void become_stored(std::uint64_t size_bytes) {
    store.put_pattern(id, size_bytes);
    pool.drop(meta);
    meta = Metadata::from_store(id, size_bytes, {.part_bytes = P});
  }

  tarn::Result<std::size_t> write(std::uint64_t offset, std::string_view text) {
    return tarn::write_range(pool, meta, offset, bytes_of(text));
  }
  /// Returns: the bytes read; on an error its message, which no test takes for bytes.
  [[nodiscard]] std::string read(std::uint64_t offset, std::size_t size_bytes) {
    std::string into(size_bytes, '?');
    const auto n = tarn::read_range(pool, meta, offset, writable(into), store);
    if (!n) return "error: " + n.error().message();
    into.resize(*n);
    return into;
  }
  [[nodiscard]] std::string read_all() { return read(0, static_cast<std::size_t>(meta.size())); }
  /// The same by views, window by window.
  [[nodiscard]] std::string view(std::uint64_t offset, std::size_t size_bytes) {
    std::string seen;
    while (seen.size() < size_bytes) {
      const auto n = std::min<std::uint64_t>(size_bytes - seen.size(), pool.window_bytes());
      const auto got = tarn::read_range(pool, meta, offset + seen.size(), n, store, [](tarn::ConstBuffers bytes) {
        std::string piece(bytes.size_bytes(), '?');
        bytes.copy_to(writable(piece));
        return piece;
      });
      if (!got) return "error: " + got.error().message();
      if (got->empty()) break;
      seen += *got;
    }
    return seen;
  }
  tarn::Result<> truncate(std::uint64_t size_bytes) { return tarn::truncate(pool, meta, size_bytes); }
  tarn::Result<> punch(std::uint64_t offset, std::uint64_t end) {
    return tarn::punch_hole(pool, meta, range(offset, end));
  }
  tarn::Result<> flush(ByteRange which = tarn::whole_file) { return tarn::flush(pool, meta, store, which); }
  [[nodiscard]] Extents dirty() const { return extents_of(pool.dirty_extents(meta)); }
  [[nodiscard]] Extents held() const { return extents_of(pool.held_extents(meta)); }

  const std::uint64_t C, P;
  Pool pool;
  MemoryStore<Traits> store;
  Metadata meta;
};

}  // namespace tarn_test

// Most of what there is to compile is what every program would make of the same templates: one_file.cpp makes it of
// these traits.
#ifdef TARN_TESTS_INSTANTIATED
#define TARN_TEST_ONE_FILE(instantiate, Traits)                            \
  instantiate class tarn::detail::ChunkTable<tarn::detail::Chunk<Traits>>; \
  instantiate class tarn::detail::Registry<Traits>;                        \
  instantiate class tarn::detail::PoolCore<Traits>;                        \
  instantiate class tarn::detail::ChunkReserve<Traits>;                    \
  instantiate class tarn::detail::LatchedChunks<Traits>;                   \
  instantiate class tarn::detail::ReadWindow<Traits>;                      \
  instantiate class tarn::detail::WriteWindow<Traits>;                     \
  instantiate class tarn::detail::WindowLoads<Traits>;                     \
  instantiate class tarn::detail::LoadRequests<Traits>;                    \
  instantiate class tarn::detail::LoadLanding<Traits>;                     \
  instantiate class tarn::detail::Load<Traits>;                            \
  instantiate class tarn::detail::Room<Traits>;                            \
  instantiate class tarn::FlushJob<Traits>;                                \
  instantiate class tarn::ChunkPool<Traits>;                               \
  instantiate class tarn::testing::MemoryStore<Traits>;                    \
  instantiate struct tarn_test::OneFile<Traits>;
extern template class tarn::BasicDirtyFileMetadata<std::uint64_t, tarn::Digest<16>, std::monostate>;
TARN_TEST_ONE_FILE(extern template, tarn_test::Heap)
TARN_TEST_ONE_FILE(extern template, tarn_test::Arena)
#endif
