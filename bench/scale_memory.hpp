// SPDX-License-Identifier: MIT
#pragma once

// What a pool takes beside the bytes that it holds: as it says itself, by what it has charged, and as the heap says.
//
// Chunk memory is mapped, and no part of the heap; so what the heap grows by is all the rest, charged or not. Each
// figure is taken in a process of its own, so that no figure finds what another has left in the heap.
//
// Thread safety: none. Requires: the calling thread is the only one, since it forks.

#include <malloc.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include <tarn/dirty_file.hpp>

#include "held_file.hpp"
#include "paired.hpp"
#include "scale_files.hpp"

namespace tarn_bench {

/// Runs f in a child, which prints figures as f does. Stops the program if the child fails.
template <class F>
void in_own_process(F f) {
  std::fflush(stdout);
  const auto child = ::fork();
  expect(child >= 0, "a fork");
  if (child == 0) {
    f();
    std::fflush(stdout);
    ::_exit(0);
  }
  int status = 0;
  expect(::waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0, "a child");
}

/// What the heap has had of the system, but for what it has left at its end. That counts what lies between two blocks
/// and is too small for a third.
[[nodiscard]] inline std::uint64_t heap_bytes() {
  const auto heap = ::mallinfo2();
  return heap.arena + heap.hblkhd - heap.keepcost;
}

/// Beside chunk memory.
struct Cost {
  std::uint64_t charged_bytes, heap_bytes;
};

/// The cost of what `hold(pool)` leaves held, `chunks` of them. `forget(pool)` drops it: what is charged then is chunk
/// memory that is kept warm, and nothing else.
template <class Hold, class Forget>
[[nodiscard]] Cost cost_of(const tarn::PoolOptions& options, std::uint64_t chunks, Hold hold, Forget forget) {
  const auto pool = std::make_unique<tarn::ChunkPool<Traits>>(options);
  const auto heap_before = heap_bytes();
  hold(*pool);
  const auto heap = heap_bytes() - heap_before;
  expect(pool->stats().chunks_held == chunks && pool->stats().evictions == 0, "all that was loaded is held");
  const auto charged = pool->stats().charged_bytes;
  forget(*pool);
  const auto of_chunks = pool->stats().charged_bytes;
  const auto slab = std::max<std::uint64_t>(tarn::ArenaStorage::huge_page_bytes, options.chunk_bytes);
  expect(pool->stats().chunks_held == 0 && of_chunks == (chunks * options.chunk_bytes + slab - 1) / slab * slab,
         "what is charged with nothing held is whole slabs");
  pool->evict_clean();
  expect(pool->stats().charged_bytes == 0, "nothing is charged with nothing kept");
  return {charged - of_chunks, heap};
}

/// A chunk in a file that is held as a whole, and one that has a leaf of its file's table to itself. The size of the
/// chunks does not matter to either, so they are small. The dense file is of 32 chunks, 2 MiB of 64 KiB each, which is
/// what the smallest whole table holds: so each chunk bears a part of its file's record, too.
inline void metadata_per_chunk(const Suite& suite) {
  constexpr std::uint64_t chunk_bytes = 128, of_leaf = 32, chunks = 3 * tarn::MiB / of_leaf;
  const tarn::PoolOptions options{.budget_bytes = tarn::GiB, .chunk_bytes = chunk_bytes};
  const auto say = [](const std::string& name, const Cost& cost) {
    const auto each = static_cast<double>(chunks);
    Suite::value(name, "bytes", static_cast<double>(cost.charged_bytes) / each);
    Suite::value(name + "/heap", "bytes", static_cast<double>(cost.heap_bytes) / each);
  };
  const std::string dense = "memory/metadata_per_chunk";
  if (suite.wants(dense)) {
    in_own_process([&] {
      const auto each_file = [](tarn::ChunkPool<Traits>& pool, auto f) {
        for (std::uint64_t id = 1; id <= chunks / of_leaf; ++id) f(StoredFile{pool, id, of_leaf * chunk_bytes});
      };
      say(dense, cost_of(
                     options, chunks, [&](auto& pool) { each_file(pool, [](StoredFile file) { file.hold(); }); },
                     [&](auto& pool) { each_file(pool, [](StoredFile file) { file.drop(); }); }));
    });
  }
  const auto scattered = dense + "/one_a_leaf";
  if (suite.wants(scattered)) {
    in_own_process([&] {
      const auto file = [](tarn::ChunkPool<Traits>& pool) {
        return StoredFile{pool, 1, chunks * of_leaf * chunk_bytes};
      };
      say(scattered, cost_of(
                         options, chunks,
                         [&](auto& pool) {
                           auto held = file(pool);
                           for (std::uint64_t i = 0; i < chunks; ++i) {
                             held.hold(i * of_leaf * chunk_bytes, chunk_bytes);
                           }
                         },
                         [&](auto& pool) { file(pool).drop(); }));
    });
  }
}

inline void sparse_file(const Suite& suite) {
  const std::string name = "memory/sparse_16TiB_10_chunks";
  if (!suite.wants(name)) return;
  in_own_process([&] {
    constexpr std::uint64_t size_bytes = 16 * 1024 * tarn::GiB, chunks = 10;
    const tarn::PoolOptions options{.budget_bytes = 64 * tarn::MiB};
    const auto cost = cost_of(
        options, chunks,
        [&](auto& pool) {
          StoredFile file{pool, 1, size_bytes};
          const Offsets offsets{size_bytes, options.chunk_bytes, Offsets::Order::random};
          for (std::uint64_t i = 0; i < chunks; ++i) file.hold(offsets[i], options.chunk_bytes);
        },
        [&](auto& pool) {
          StoredFile{pool, 1, size_bytes}.drop();
        });
    Suite::value(name, "KiB", static_cast<double>(cost.charged_bytes) / tarn::KiB);
    Suite::value(name + "/heap", "KiB", static_cast<double>(cost.heap_bytes) / tarn::KiB);
  });
}

/// Files of 4 KiB, each a DirtyFile, whose bytes are held: what is charged for one, its chunk and its part of a slab
/// counted; and what the heap grew by for one, which has its DirtyFile and no chunk memory.
inline void small_files(const Suite& suite) {
  using File = tarn::DirtyFile<Traits, PatternStore>;
  constexpr std::uint64_t size_bytes = 4 * tarn::KiB;
  constexpr std::uint64_t counts[] = {1, 100, 10'000, 100'000};
  for (const auto count : counts) {
    const auto name = "memory/per_file/" + count_said(count);
    if (!suite.wants(name)) continue;
    in_own_process([&] {
      tarn::ChunkPool<Traits> pool{{.budget_bytes = tarn::GiB, .chunk_bytes = size_bytes}};
      PatternStore store;
      std::vector<std::unique_ptr<File>> files(count);
      const auto heap_before = heap_bytes();
      for (std::uint64_t id = 0; auto& file : files) {
        ++id;
        file = std::make_unique<File>(pool, tarn::DirtyFileMetadata::from_store(id, size_bytes), store);
        const auto right =
            file->view(0, size_bytes, [&](tarn::ConstBuffers bytes) { return are_of_file(bytes, id, 0, size_bytes); });
        expect(right && *right, name);
      }
      const auto stats = pool.stats();
      expect(stats.chunks_held == count && stats.evictions == 0, name);
      const auto each = static_cast<double>(count);
      Suite::value(name, "bytes", static_cast<double>(stats.charged_bytes) / each);
      Suite::value(name + "/heap", "bytes", static_cast<double>(heap_bytes() - heap_before) / each);
    });
  }
}

}  // namespace tarn_bench
