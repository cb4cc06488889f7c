// SPDX-License-Identifier: MIT
#pragma once

// What it costs to take in a chunk that is not held, when the room is full, so that another one goes: all but the
// loading itself.
//
// Thread safety: none.

#include <rocksdb/cache.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include <tarn/dirty_file.hpp>

#include "held_file.hpp"
#include "paired.hpp"
#include "peers_caches.hpp"

namespace tarn_bench {

/// A cache that has memory of its own for each entry, as one does who caches blocks.
class FillingCache {
 public:
  FillingCache(std::size_t entries, std::size_t block_bytes)
      : block_bytes_{block_bytes}, cache_{hyper_clock_cache(entries, block_bytes, 0)} {}

  /// Of a key that the cache has not.
  [[nodiscard]] bool fill(const Key& key) {
    const auto slice = RocksCache::slice_of(key);
    if (cache_->Lookup(slice) != nullptr) return false;
    auto memory = std::make_unique_for_overwrite<std::byte[]>(block_bytes_);
    rocksdb::Cache::Handle* handle = nullptr;
    const auto deletes = [](const rocksdb::Slice&, void* value) { delete[] static_cast<std::byte*>(value); };
    if (!cache_->Insert(slice, memory.get(), block_bytes_, deletes, &handle).ok()) return false;
    used(memory.release());
    cache_->Release(handle);
    return true;
  }
  [[nodiscard]] std::size_t count() const { return cache_->GetUsage() / block_bytes_; }

 private:
  const std::size_t block_bytes_;
  RocksCache cache_;
};

/// Has everything, and writes nothing: what a pool does for a load is what is left.
struct NullStore {
  tarn::Result<std::size_t> load(const tarn::LoadRequest<Traits>& request) { return request.range.size_bytes(); }
  tarn::FlushOutcome<Traits> flush(const tarn::FlushRequest<Traits>&) { return tarn::FlushOutcome<Traits>::stored(); }
  tarn::Result<> remove(const Traits::FileId&) { return {}; }
};

/// `load(i)` takes a chunk into the pool that it has not had yet, another one for each i, and lets go of it.
template <class Load>
void compare_loads(const Suite& suite, const std::string& name, const tarn::ChunkPool<Traits>& pool, const Load& load) {
  if (!suite.wants(name)) return;
  std::uint64_t next = 0;
  do {  // till the room is full, and all that it held has gone once
    for (auto more = 1000; more != 0; --more) expect(load(next++), name);
  } while (pool.stats().evictions < pool.stats().chunks_held);
  const auto held = pool.stats().chunks_held;
  FillingCache cache{held, pool.chunk_bytes()};
  std::uint64_t next_key = 0;
  while (next_key < 2 * held) expect(cache.fill({next_key++, 0}), name + ", HyperClockCache");
  expect(cache.count() <= held && cache.count() > held - held / 10, name + ": as many entries as chunks");
  const auto fills = [&](std::uint64_t) {
    if (!cache.fill({next_key++, 0})) fail(name);
  };
  const auto loads = [&](std::uint64_t) {
    if (!load(next++)) fail(name);
  };
  suite.compare(name, "HyperClockCache, a miss and an insert", each(fills), each(loads));
  const auto stats = pool.stats();
  expect(stats.loads == next && stats.evictions == next - stats.chunks_held, name + ": each was loaded, and one went");
  // What a pool's own tables take comes and goes, and with it the room for a slab of chunks; the other one evicts a few
  // more now and then.
  const auto about_as_before = [&](std::uint64_t now) { return now > held - held / 10 && now < held + held / 10; };
  expect(about_as_before(stats.chunks_held) && about_as_before(cache.count()), name + ": about as many as before");
}

/// Of a pool that has room for about so many chunks, of so many bytes.
inline void loads(const Suite& suite, std::uint64_t count, std::uint64_t chunk_bytes) {
  if (!suite.wants("load/null/")) return;
  constexpr std::uint64_t files = 1000;
  const tarn::PoolOptions options{.budget_bytes = count * (chunk_bytes + tarn::KiB), .chunk_bytes = chunk_bytes};
  NullStore store;
  {
    tarn::ChunkPool<Traits> pool{options};
    compare_loads(suite, "load/null/10k", pool, [&](std::uint64_t i) {
      Traits::ContentId id;
      std::memcpy(id.bytes.data(), &i, sizeof i);
      return pool.get_or_load(id, 0, chunk_bytes, store).has_value();
    });
  }
  {
    tarn::ChunkPool<Traits> pool{options};
    std::vector<std::unique_ptr<tarn::DirtyFile<Traits, NullStore>>> open;
    for (std::uint64_t id = 0; id < files; ++id) {
      const auto named = tarn::DirtyFileMetadata::from_store(id, tarn::max_offset / 2, {.part_bytes = tarn::GiB});
      open.push_back(std::make_unique<tarn::DirtyFile<Traits, NullStore>>(pool, named, store));
    }
    compare_loads(suite, "load/null/10k/by_file", pool, [&](std::uint64_t i) {
      return open[i % files]->view(i / files * chunk_bytes, chunk_bytes, [](tarn::ConstBuffers) {}).has_value();
    });
  }
}

}  // namespace tarn_bench
