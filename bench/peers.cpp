// SPDX-License-Identifier: MIT
// What it costs to find a chunk that is held, or to take one in, beside what others hold resident data in; and how
// often what is looked for is held, beside LRU.
//   peers [--pairs=N] [--run-ms=N] [--only=PREFIX]      prints a line for each figure: see paired.hpp
//
// Where chunks are found, both arms look for the same ones in the same order, keep each from being evicted, and let go
// of it; a figure that ends in /byte has a look at it between, which with a pin takes the latch as well. The others are
// given the memory of the pool's own chunks. Before it is timed each arm goes through all of them, and each must begin
// with its word.

#include <leveldb/db.h>
#include <rocksdb/cache.h>
#include <rocksdb/version.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <tbb/version.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "paired.hpp"
#include "peers_caches.hpp"
#include "peers_hit_ratio.hpp"
#include "peers_load.hpp"
#include "peers_resident.hpp"
#include "suite_arguments.hpp"
#include "two_threads.hpp"

namespace tarn_bench {
namespace {

using tarn::KiB;

constexpr auto hyper_clock = "HyperClockCache";
constexpr std::uint64_t files = 1000;
constexpr std::uint64_t chunk_bytes = 4 * KiB;

// ---- Finding what is held

/// Whether `use(pick, f)` finds the right chunk for each of the picks.
template <class Use>
bool finds(const ResidentFiles& held, const Picks& picks, const Use& use) {
  bool right = true;
  for (std::uint64_t i = 0; i < picks.count() && right; ++i) {
    const auto word = word_of(held.key(picks[i]));
    right = use(picks[i], [&](const std::byte* memory) { right = word_at(memory) == word; }) && right;
  }
  return right;
}

/// `peer` and `ours` find the chunk of a pick and call f(memory) with it (see finds); `look` is what is timed.
template <class Peer, class Ours, class Look>
void compare_uses(const Suite& suite, const std::string& name, const std::string& reference, const ResidentFiles& held,
                  const Picks& picks, const Peer& peer, const Ours& ours, const Look& look) {
  if (!suite.wants(name)) return;
  expect(finds(held, picks, peer), name + ", " + reference);
  expect(finds(held, picks, ours), name);
  const auto timed = [&](const auto& use) {
    return each([&](std::uint64_t i) {
      if (!use(picks[i], look)) fail(name);
    });
  };
  suite.compare(name, reference, timed(peer), timed(ours));
}
template <class Peer, class Ours>
void compare_uses(const Suite& suite, const std::string& name, const std::string& reference, const ResidentFiles& held,
                  const Picks& picks, const Peer& peer, const Ours& ours) {
  compare_uses(suite, name, reference, held, picks, peer, ours, LetGo{});
  compare_uses(suite, name + "/byte", reference, held, picks, peer, ours, read_byte);
}

/// A cache of another kind that has all chunks of `held`, as an arm of compare_uses.
template <class Cache>
auto uses_of(ResidentFiles& held, Cache& cache) {
  held.put_all(cache);
  return [&](Pick pick, const auto& f) { return cache.use(held.key(pick), f); };
}

void pins(const Suite& suite) {
  if (!suite.wants("pin/10k/")) return;
  ResidentFiles held{files, 10, chunk_bytes};
  const auto loads = held.pool().stats().loads;
  const auto picks = held.picks();
  const auto by_id = [&](Pick pick, const auto& f) { return held.pin(pick, f); };
  const auto by_file = [&](Pick pick, const auto& f) { return held.view(pick, f); };
  auto clock = hyper_clock_cache(held.count(), chunk_bytes);
  const auto in_clock = uses_of(held, clock);
  compare_uses(suite, "pin/10k/1t", hyper_clock, held, picks, in_clock, by_id);
  compare_uses(suite, "pin/10k/1t/by_file", hyper_clock, held, picks, in_clock, by_file);

  const std::string together = "pin/10k/2t";
  if (suite.wants(together)) {
    expect(finds(held, picks, in_clock) && finds(held, picks, by_id), together);
    const auto timed = [&](const auto& use) {
      return two_threads([&](int thread, std::uint64_t i) {
        if (!use(picks[i + (thread == 0 ? 0 : picks.count() / 2)], LetGo{})) fail(together);
      });
    };
    suite.compare(together, "HyperClockCache, two threads, too", timed(in_clock), timed(by_id));
  }

  const auto beside = [&](const std::string& name, const std::string& reference, auto cache) {
    if (!suite.wants(name)) return;
    compare_uses(suite, name, reference, held, picks, uses_of(held, cache), by_id);
  };
  beside("pin/10k/1t/leveldb", "LevelDB's ShardedLRUCache", leveldb_cache(held.count(), chunk_bytes));
  beside("pin/10k/1t/rocksdb_lru", "RocksDB's LRUCache", rocksdb_lru_cache(held.count(), chunk_bytes));
  if (const std::string name = "pin/10k/1t/tbb"; suite.wants(name)) {
    TbbMap map;
    compare_uses(suite, name, "oneTBB's concurrent_hash_map", held, picks, uses_of(held, map), by_id);
  }
  if (const std::string name = "pin/10k/1t/textbook_lru"; suite.wants(name)) {
    LruCache lru{held.count()};
    compare_uses(suite, name, "a map and a list under a shared_mutex", held, picks, uses_of(held, lru), by_id);
  }
  expect(held.pool().stats().loads == loads && held.pool().stats().evictions == 0, "all of it was held all the time");
}

void pins_of_a_million(const Suite& suite) {
  const std::string name = "pin/1M/1t";
  if (!suite.wants(name)) return;
  constexpr std::uint64_t small_bytes = 64;
  ResidentFiles held{files, 1000, small_bytes};
  auto clock = hyper_clock_cache(held.count(), small_bytes);
  compare_uses(suite, name, hyper_clock, held, held.picks(), uses_of(held, clock),
               [&](Pick pick, const auto& f) { return held.pin(pick, f); });
}

// ---- Content

struct ContentTraits : tarn::DefaultTraits {
  using ContentId = tarn::Digest<32>;
};
Word word_of(const ContentTraits::ContentId& id) { return word_at(id.bytes.data() + sizeof(Key)); }

/// Has all content: its word, and zeros.
struct ContentLoader {
  static tarn::Result<std::size_t> load(const tarn::LoadRequest<ContentTraits>& request) {
    std::vector<std::byte> bytes(request.range.size_bytes());
    const auto word = word_of(*request.content);
    std::memcpy(bytes.data(), &word, sizeof word);
    return request.into.copy_from(bytes);
  }
};

void contents(const Suite& suite) {
  const std::string name = "content/10k/1t";
  if (!suite.wants(name)) return;
  constexpr std::size_t count = 10'000;
  using Id = ContentTraits::ContentId;
  struct Entry {  // has the id once more, as the pool has
    Id id;
    const std::byte* memory = nullptr;
  };
  tarn::ChunkPool<ContentTraits> pool{
      {.budget_bytes = 2 * count * (chunk_bytes + KiB) + 64 * tarn::MiB, .chunk_bytes = chunk_bytes}};
  // It takes keys of 16 bytes. So the first half of an id is its key there, and the entry says the whole of it.
  const auto key_of = [](const Id& id) {
    Key key{};
    std::memcpy(&key, id.bytes.data(), sizeof key);
    return key;
  };
  auto clock = hyper_clock_cache(count, chunk_bytes);
  std::vector<Id> ids(count);
  std::vector<Entry> entries(count);
  tarn::testing::Random random{3};
  for (std::size_t i = 0; i < count; ++i) {
    auto& entry = entries[i];
    for (auto& byte : ids[i].bytes) byte = static_cast<std::byte>(random.next());
    entry.id = ids[i];
    const auto pin = pool.get_or_load(ids[i], 0, chunk_bytes, ContentLoader{});
    expect(pin && pin->with_data([&](std::span<const std::byte> bytes) { entry.memory = bytes.data(); }), "a load");
    clock.put(key_of(ids[i]), reinterpret_cast<const std::byte*>(&entry));
  }
  const auto in_clock = [&](const Id& id, const auto& f) {
    bool same = false;
    const bool found = clock.use(key_of(id), [&](const std::byte* value) {
      const auto& entry = *reinterpret_cast<const Entry*>(value);
      same = entry.id == id;
      if (same) f(entry.memory);
    });
    return found && same;
  };
  const auto ours = [&](const Id& id, const auto& f) {
    const auto pin = pool.try_get(id, 0);
    if constexpr (std::same_as<std::remove_cvref_t<decltype(f)>, LetGo>) return pin.has_value();
    return pin &&
           pin->with_data(tarn::ByteRange::between(0, 1), [&](std::span<const std::byte> bytes) { f(bytes.data()); });
  };
  const auto right = [&](const auto& use) {
    return std::all_of(ids.begin(), ids.end(), [&](const Id& id) {
      bool same = false;
      return use(id, [&](const std::byte* memory) { same = word_at(memory) == word_of(id); }) && same;
    });
  };
  expect(right(in_clock), name + ", HyperClockCache");
  expect(right(ours), name);
  const Picks picks{count, 1};
  const auto timed = [&](const auto& use) {
    return each([&](std::uint64_t i) {
      if (!use(ids[picks[i].file], LetGo{})) fail(name);
    });
  };
  suite.compare(name, "HyperClockCache by half the id, all of it compared", timed(in_clock), timed(ours));
}

// ---- Many chunks at once

template <std::uint64_t of_chunk_bytes>
void views(const Suite& suite, const std::string& name) {
  if (!suite.wants(name)) return;
  constexpr auto chunks = 128 * KiB / of_chunk_bytes;
  ResidentFiles held{100, 10 * chunks, of_chunk_bytes};
  auto clock = hyper_clock_cache(held.count(), of_chunk_bytes);
  held.put_all(clock);
  const auto in_clock = [&](Pick first, const auto& f) {
    std::array<rocksdb::Cache::Handle*, chunks> handles{};
    for (std::uint16_t i = 0; i < chunks; ++i) {
      const auto key = held.key({first.file, static_cast<std::uint16_t>(first.chunk + i)});
      handles[i] = clock->Lookup(RocksCache::slice_of(key));
      if (handles[i] == nullptr) return false;
    }
    for (auto* const handle : handles) f(static_cast<const std::byte*>(clock->Value(handle)));
    for (auto* const handle : handles) clock->Release(handle);
    return true;
  };
  const auto ours = [&](Pick first, const auto& f) {
    const auto n = held.file(first.file).view(first.chunk * of_chunk_bytes, 128 * KiB, [&](tarn::ConstBuffers bytes) {
      for (std::size_t i = 0; i < bytes.count(); ++i) f(bytes[i].data());
      return bytes.size_bytes();
    });
    return is_all(n, 128 * KiB);
  };
  const Picks picks{100, 10};
  const auto first_of = [&](std::uint64_t i) {
    return Pick{picks[i].file, static_cast<std::uint16_t>(picks[i].chunk * chunks)};
  };
  const auto right = [&](const auto& use) {
    for (std::uint64_t i = 0; i < picks.count(); ++i) {
      auto next = first_of(i);
      bool same = true;
      const auto past = next.chunk + chunks;
      const bool all = use(next, [&](const std::byte* memory) {
        same = same && word_at(memory) == word_of(held.key(next));
        ++next.chunk;
      });
      if (!all || !same || next.chunk != past) return false;
    }
    return true;
  };
  expect(right(in_clock), name + ", HyperClockCache");
  expect(right(ours), name);
  const auto timed = [&](const auto& use) {
    return each([&](std::uint64_t i) {
      if (!use(first_of(i), LetGo{})) fail(name);
    });
  };
  suite.compare(name, "HyperClockCache, each of its chunks", timed(in_clock), timed(ours));
}

// ---- What is held when it is looked for

void hit_ratios(const Suite& suite) {
  constexpr Object objects = 100'000;
  constexpr std::size_t room = objects / 10, length = 2'000'000;
  constexpr std::uint64_t traces = 5;
  const auto compare = [&](const std::string& name, const auto& trace_of) {
    if (!suite.wants(name)) return;
    std::vector<double> differences;
    for (std::uint64_t seed = 1; seed <= traces; ++seed) {
      const Trace trace = trace_of(seed);
      const auto ours = hit_ratio<Evicting<tarn::S3FifoEviction>>(trace, objects, room);
      differences.push_back(ours - hit_ratio<EvictingLru>(trace, objects, room));
    }
    Suite::values(name, "hits/look-up", differences);
  };
  compare("hit_ratio/zipf_1.0", [](std::uint64_t seed) {
    Zipf zipf{objects, seed};
    Trace trace(length);
    for (auto& object : trace) object = zipf.next();
    return trace;
  });
  // After each five rooms of look-ups somebody goes through a room of objects, one after the other, on from the last.
  compare("hit_ratio/burst_scan", [](std::uint64_t seed) {
    Zipf zipf{objects, seed};
    Trace trace;
    for (Object next = 0; trace.size() < length;) {
      for (std::size_t i = 0; i < 5 * room; ++i) trace.push_back(zipf.next());
      for (std::size_t i = 0; i < room; ++i) trace.push_back(next++ % objects);
    }
    return trace;
  });
  // The same, and each object of a scan is looked up 16 times in a row, as a chunk is that is read in small pieces.
  compare("hit_ratio/burst_scan_in_16ths", [](std::uint64_t seed) {
    Zipf zipf{objects, seed};
    Trace trace;
    for (Object next = 0; trace.size() < length; ++next) {
      if (next % room == 0) {
        for (std::size_t i = 0; i < 5 * room; ++i) trace.push_back(zipf.next());
      }
      for (int piece = 0; piece < 16; ++piece) trace.push_back(next % objects);
    }
    return trace;
  });
  // A scan in such pieces that never ends, a piece of it for each other look-up.
  compare("hit_ratio/stream_in_16ths", [](std::uint64_t seed) {
    Zipf zipf{objects, seed};
    Trace trace;
    for (Object next = 0; trace.size() < length; ++next) {
      for (int piece = 0; piece < 16; ++piece) {
        trace.push_back(zipf.next());
        trace.push_back(next % objects);
      }
    }
    return trace;
  });
  // Of each three look-ups one is of what is wanted always, and two are of what is used twice, a quarter of a room of
  // others between: S3-FIFO has let go of that by then, LRU has not.
  compare("hit_ratio/lru_wins", [](std::uint64_t seed) {
    constexpr Object half = objects / 2, between = room / 4;
    Zipf zipf{half, seed};
    Trace trace;
    for (Object next = 0; trace.size() < length; ++next) {
      trace.push_back(zipf.next());
      trace.push_back(half + next % half);
      trace.push_back(half + (next + half - between) % half);
    }
    return trace;
  });
}

// ---- Who the others are

/// Whether RocksDB was built with its asserts, which cost it something: a key of another length meets one of them.
bool rocksdb_asserts() {
  const auto child = ::fork();
  expect(child >= 0, "a fork");
  if (child == 0) {
    const ::rlimit none{0, 0};
    ::setrlimit(RLIMIT_CORE, &none);
    ::close(STDERR_FILENO);
    const Key key{};
    const rocksdb::Slice half{reinterpret_cast<const char*>(&key), sizeof key / 2};
    (void)hyper_clock_cache(1, chunk_bytes, 0)->Lookup(half);
    ::_exit(0);
  }
  int status = 0;
  expect(::waitpid(child, &status, 0) == child, "a child");
  return WIFSIGNALED(status);
}

void notes() {
  const auto version = [](int major, int minor) { return std::to_string(major) + "." + std::to_string(minor); };
  Suite::note("RocksDB " + version(ROCKSDB_MAJOR, ROCKSDB_MINOR) + "." + std::to_string(ROCKSDB_PATCH) +
              (rocksdb_asserts() ? ", as packaged: built with its asserts" : ""));
  Suite::note("LevelDB " + version(leveldb::kMajorVersion, leveldb::kMinorVersion));
  Suite::note("oneTBB " + std::string{TBB_runtime_version()});
}

int run(const Suite& suite) {
  notes();
  pins(suite);
  pins_of_a_million(suite);
  contents(suite);
  loads(suite, 10 * files, chunk_bytes);
  views<tarn::PoolOptions{}.chunk_bytes>(suite, "view/128KiB");
  views<chunk_bytes>(suite, "view/128KiB/4KiB_chunks");
  hit_ratios(suite);
  return 0;
}

}  // namespace
}  // namespace tarn_bench

int main(int count, char** arguments) { return tarn_bench::run(tarn_bench::suite_of(count, arguments)); }
