// SPDX-License-Identifier: MIT
// Compile: alone
#include <tarn/chunk_pool.hpp>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <map>
#include <mutex>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include <tarn/testing/gate.hpp>

#include "support/brim.hpp"
#include "support/catch.hpp"
#include "support/one_file.hpp"

using namespace tarn_test;

namespace {

/// Content ids of which every two have the same hash.
struct Colliding {
  std::uint64_t high = 0, low = 0;
  friend bool operator==(const Colliding&, const Colliding&) = default;
};

}  // namespace

template <>
struct std::hash<Colliding> {
  std::size_t operator()(const Colliding&) const noexcept { return 42; }
};

namespace {

struct CollidingHeap : Heap {
  using ContentId = Colliding;
};
struct CollidingArena : Arena {
  using ContentId = Colliding;
};
/// File ids and content ids of one type.
struct SameIds : Usual {
  using ContentId = std::uint64_t;
};

/// A store of content alone.
template <class Traits>
struct ContentLoader {
  std::vector<std::pair<typename Traits::ContentId, std::string>> content;
  std::atomic<int> loads{0};
  Gate gate;
  tarn::Result<std::size_t> load(const tarn::LoadRequest<Traits>& request) {
    ++loads;
    gate.pass();
    for (const auto& [id, text] : content) {
      if (request.file != nullptr || request.content == nullptr || !(id == *request.content)) continue;
      return request.into.copy_from(bytes_of(text).subspan(static_cast<std::size_t>(request.offset_in_part),
                                                           static_cast<std::size_t>(request.range.size_bytes())));
    }
    return tarn::fail(std::errc::no_such_file_or_directory);
  }
};

/// Checks the budget where memory is really taken: what is out, and the most that ever was.
struct WatchedHeap : tarn::HeapStorage {
  static inline std::atomic<std::uint64_t> committed_bytes{0}, most_bytes{0}, over_budget{0};

  explicit WatchedHeap(const tarn::StorageOptions& options) : HeapStorage{options}, chunk_bytes{options.chunk_bytes} {}
  std::byte* allocate(tarn::Budget& budget) noexcept {
    auto* const memory = HeapStorage::allocate(budget);
    if (memory == nullptr) return nullptr;
    const auto now = committed_bytes.fetch_add(chunk_bytes) + chunk_bytes;
    for (auto most = most_bytes.load(); most < now && !most_bytes.compare_exchange_weak(most, now);) continue;
    if (now > budget.limit_bytes() || budget.charged_bytes() > budget.limit_bytes()) ++over_budget;
    return memory;
  }
  void deallocate(std::byte* memory, tarn::Budget& budget) noexcept {
    committed_bytes -= chunk_bytes;
    HeapStorage::deallocate(memory, budget);
  }
  std::size_t chunk_bytes;
};
struct Watched : tarn::DefaultTraits {
  using Storage = WatchedHeap;
};

/// The same for slabs: an arena takes memory when it hands out a chunk of a slab that was not there, and gives it back in
/// trim alone.
struct WatchedArena : tarn::ArenaStorage {
  static inline std::atomic<std::uint64_t> committed_bytes{0}, most_bytes{0}, over_budget{0};

  explicit WatchedArena(const tarn::StorageOptions& options) : ArenaStorage{options} {}
  std::byte* allocate(tarn::Budget& budget) noexcept {
    std::lock_guard lock{mutex};
    auto* const memory = ArenaStorage::allocate(budget);
    if (memory == nullptr) return nullptr;
    ++chunks_out[slab_of(memory)];
    committed_bytes = chunks_out.size() * huge_page_bytes;
    most_bytes = std::max(most_bytes.load(), committed_bytes.load());
    if (committed_bytes > budget.limit_bytes() || budget.charged_bytes() > budget.limit_bytes()) ++over_budget;
    return memory;
  }
  void deallocate(std::byte* memory, tarn::Budget& budget) noexcept {
    std::lock_guard lock{mutex};
    --chunks_out[slab_of(memory)];
    ArenaStorage::deallocate(memory, budget);
  }
  std::uint64_t trim(tarn::Budget& budget) noexcept {
    std::lock_guard lock{mutex};
    std::erase_if(chunks_out, [](const auto& slab) { return slab.second == 0; });
    committed_bytes = chunks_out.size() * huge_page_bytes;
    return ArenaStorage::trim(budget);
  }

 private:
  [[nodiscard]] static std::uintptr_t slab_of(const std::byte* memory) {
    return reinterpret_cast<std::uintptr_t>(memory) / huge_page_bytes;
  }
  std::mutex mutex;
  std::map<std::uintptr_t, std::uint64_t> chunks_out;  // of every slab that is mapped
};
struct WatchedInArena : tarn::DefaultTraits {
  using Storage = WatchedArena;
};

/// Keeps what it is told of dirty bytes that were lost: whose, and how many.
struct LossObserver : tarn::NullObserver {
  using Losses = std::vector<std::pair<std::uint64_t, std::uint64_t>>;
  LossObserver() = default;
  explicit LossObserver(Losses* to) : losses{to} {}

  Losses* losses = nullptr;
  void on_dirty_lost(const std::uint64_t& id, std::uint64_t bytes) noexcept { losses->emplace_back(id, bytes); }
};
struct TellingHeap : Heap {
  using Observer = LossObserver;
};
struct TellingArena : Arena {
  using Observer = LossObserver;
};

/// Calls the test whenever memory is given back, except from within such a call.
struct HookedHeap : tarn::HeapStorage {
  using HeapStorage::HeapStorage;
  static inline std::function<void()> on_deallocate;
  void deallocate(std::byte* memory, tarn::Budget& budget) noexcept {
    HeapStorage::deallocate(memory, budget);
    if (!on_deallocate) return;
    const auto hook = std::exchange(on_deallocate, nullptr);
    hook();
    on_deallocate = hook;
  }
};
struct Hooked : tarn::DefaultTraits {
  using Storage = HookedHeap;
};

template <class Pin>
std::string text_in(const Pin& pin, ByteRange bytes) {
  const auto text = pin.with_data(bytes, [](std::span<const std::byte> found) { return text_of(found); });
  return text ? *text : "error: " + text.error().message();
}

}  // namespace

TEMPLATE_TEST_CASE("an empty pool has nothing dirty, and after one write exactly that chunk", "[chunk_pool]",
                   EACH_STORAGE(Heap, Arena)) {
  OneFile<TestType> file{GENERATE(any_sizes())};
  CHECK(file.pool.dirty_chunks(file.meta).empty());
  CHECK(file.pool.stats().chunks_dirty == 0);
  REQUIRE(file.write(3 * file.C, "x"));
  CHECK(file.pool.dirty_chunks(file.meta) == std::vector<std::uint64_t>{3});
  CHECK(file.pool.stats().chunks_dirty == 1);
  CHECK(file.pool.stats().dirty_bytes == 1);
  CHECK(file.pool.dirty_bytes(file.meta) == 1);
  CHECK(file.pool.contains(file.meta, 3));
  CHECK_FALSE(file.pool.contains(file.meta, 2));
}

TEMPLATE_TEST_CASE("a chunk grows in place as bytes are added to it", "[chunk_pool]", EACH_STORAGE(Heap, Arena)) {
  OneFile<TestType> file{{.chunk_bytes = 16, .chunks_per_part = 1}};
  REQUIRE(file.write(0, "four"));
  const auto pin = file.pool.pin(file.meta, 0);
  REQUIRE(pin);
  REQUIRE(file.write(4, "more"));
  CHECK(text_in(*pin, range(0, 8)) == "fourmore");
  CHECK(file.pool.stats().chunks_held == 1);
}

TEMPLATE_TEST_CASE("dropping a file drops its chunks and none of another's", "[chunk_pool]",
                   EACH_STORAGE(Heap, Arena)) {
  OneFile<TestType> file{GENERATE(any_sizes())};
  auto other = OneFile<TestType>::Metadata::created(43, {.part_bytes = file.P});
  const auto size = static_cast<std::size_t>(3 * file.C);
  REQUIRE(file.write(0, pattern(0, size)));
  REQUIRE(tarn::write_range(file.pool, other, 0, bytes_of(pattern(0, size, 43))));
  CHECK(file.pool.drop(file.meta) == size);
  CHECK_FALSE(file.pool.contains(file.meta, 0));
  CHECK(file.pool.drop(file.meta) == 0);
  CHECK(file.pool.dirty_bytes(other) == size);
  std::string into(size, '?');
  REQUIRE(tarn::read_range(file.pool, other, 0, writable(into), file.store));
  CHECK(into == pattern(0, size, 43));
  CHECK(file.pool.drop(other) == size);
}

TEST_CASE("content keys and file keys never meet, also if they are the same number", "[chunk_pool]") {
  tarn::ChunkPool<SameIds> pool{pool_options<SameIds>(16, 1 * MiB)};
  auto meta = tarn::MetadataFor<SameIds>::created(7);
  REQUIRE(tarn::write_range(pool, meta, 0, bytes_of("a file's bytes!!")));
  ContentLoader<SameIds> loader;
  loader.content.emplace_back(std::uint64_t{7}, "sixteen of content");
  CHECK(pool.try_get(7, 0).error() == std::errc::no_such_file_or_directory);
  const auto content = pool.get_or_load(7, 0, 16, loader);
  REQUIRE(content);
  CHECK(text_in(*content, range(0, 16)) == "sixteen of conte");
  CHECK(text_in(*pool.pin(meta, 0), range(0, 16)) == "a file's bytes!!");
  CHECK(pool.invalidate(7));
  CHECK(pool.dirty_bytes(meta) == 16);
  pool.drop(meta);
}

TEST_CASE("membership asked from many threads is right at every moment", "[chunk_pool]") {
  OneFile<Usual> file{{.chunk_bytes = 16, .chunks_per_part = 4}};
  const auto steady = file.meta;
  REQUIRE(file.write(0, "always here"));
  std::atomic<bool> stop{false};
  std::atomic<std::uint64_t> wrong{0}, asked{0};
  {
    std::vector<Worker> workers;
    for (int i = 0; i < 3; ++i) {
      workers.emplace_back([&] {
        while (!stop) {
          if (!file.pool.contains(steady, 0) || !file.pool.has_dirty(steady, 0)) ++wrong;
          if (file.pool.contains(steady, 1000)) ++wrong;
          const auto dirty = file.pool.dirty_chunks(steady);
          if (dirty.empty() || dirty.front() != 0) ++wrong;
          ++asked;
        }
      });
    }
    auto other = OneFile<Usual>::Metadata::created(8, {.part_bytes = file.P});
    for (std::uint64_t i = 0; i < 2000 || asked < 100; ++i) {
      if (!file.write((1 + i % 50) * 16, "comes and goes")) ++wrong;
      if (!tarn::write_range(file.pool, other, i % 50 * 16, bytes_of("other"))) ++wrong;
      if (i % 20 == 19 && !file.truncate(11)) ++wrong;
      if (i % 7 == 6) file.pool.drop(other);
    }
    file.pool.drop(other);
    stop = true;
  }
  CHECK(asked > 0);
  CHECK(wrong == 0);
}

TEMPLATE_TEST_CASE("a pinned chunk is never evicted, and with_data shows its bytes without a copy", "[chunk_pool]",
                   EACH_STORAGE(Heap, Arena)) {
  OneFile<TestType> file{{.chunk_bytes = 4096, .chunks_per_part = 4}, 0};
  file.become_stored(8 * MiB);
  REQUIRE(file.read(0, 4096) == pattern(0, 4096));
  auto pin = file.pool.pin(file.meta, 0);
  REQUIRE(pin);
  const std::byte* where = nullptr;
  REQUIRE(pin->with_data([&](std::span<const std::byte> bytes) { where = bytes.data(); }));
  REQUIRE(file.read(0, 8 * MiB) == pattern(0, 8 * MiB));  // pushes out all that can go
  file.pool.evict_clean();
  CHECK(file.pool.contains(file.meta, 0));
  CHECK(file.pool.stats().chunks_held == 1);
  const auto same = pin->with_data([&](std::span<const std::byte> bytes) { return bytes.data() == where; });
  CHECK(*same);
  CHECK(text_in(*pin, range(0, 4096)) == pattern(0, 4096));

  { const auto released = std::move(*pin); }
  CHECK(file.pool.evict_clean() == 1);
  CHECK_FALSE(file.pool.contains(file.meta, 0));
}

TEMPLATE_TEST_CASE("a pin outlives its chunk in the file, and then shows nothing", "[chunk_pool]",
                   EACH_STORAGE(Heap, Arena)) {
  OneFile<TestType> file{GENERATE(any_sizes())};
  REQUIRE(file.write(0, "x"));
  const auto pin = file.pool.pin(file.meta, 0);
  REQUIRE(pin);
  CHECK(text_in(*pin, range(0, 1)) == "x");
  if (GENERATE(true, false)) {
    REQUIRE(file.truncate(0));
  } else {
    file.pool.drop(file.meta);
  }
  const auto seen = pin->with_data(range(0, 1), [](std::span<const std::byte>) { return 0; });
  CHECK(seen.error() == std::errc::no_message_available);
  REQUIRE(file.write(0, "y"));  // in another chunk
  CHECK_FALSE(pin->with_data(range(0, 1), [](std::span<const std::byte>) { return 0; }));
  CHECK(text_in(*file.pool.pin(file.meta, 0), range(0, 1)) == "y");
}

TEMPLATE_TEST_CASE("with_data on a partly held chunk answers ENODATA and shows no byte that is not valid",
                   "[chunk_pool]", EACH_STORAGE(Heap, Arena)) {
  OneFile<TestType> file{{.chunk_bytes = 16, .chunks_per_part = 1}};
  REQUIRE(file.write(4, "held"));
  const auto pin = file.pool.pin(file.meta, 0);
  REQUIRE(pin);
  int calls = 0;
  const auto count = [&](std::span<const std::byte>) { ++calls; };
  CHECK(pin->with_data(count).error() == std::errc::no_message_available);
  CHECK(pin->with_data(range(3, 8), count).error() == std::errc::no_message_available);
  CHECK(pin->with_data(range(4, 9), count).error() == std::errc::no_message_available);
  CHECK(pin->with_data(range(0, 17), count).error() == std::errc::invalid_argument);
  CHECK(calls == 0);
  CHECK(text_in(*pin, range(4, 8)) == "held");
  CHECK(pin->clone(range(0, 16)).error() == std::errc::no_message_available);
  const auto copy = pin->clone(range(5, 7));
  REQUIRE(copy);
  CHECK(text_of(*copy) == "el");
}

TEMPLATE_TEST_CASE("there is no pin of what is not held", "[chunk_pool]", EACH_STORAGE(Heap, Arena)) {
  OneFile<TestType> file{GENERATE(any_sizes())};
  CHECK(file.pool.pin(file.meta, 0).error() == std::errc::no_such_file_or_directory);
  REQUIRE(file.write(0, "x"));
  CHECK(file.pool.pin(file.meta, 1).error() == std::errc::no_such_file_or_directory);
  CHECK(file.pool.pin(file.meta, ~std::uint64_t{0}).error() == std::errc::no_such_file_or_directory);
}

TEMPLATE_TEST_CASE("2^17 pins of one chunk are refused, and nothing is carried into the state's next field",
                   "[chunk_pool]", EACH_STORAGE(Heap, Arena)) {
  OneFile<TestType> file{{.chunk_bytes = 4096, .chunks_per_part = 4}};
  REQUIRE(file.write(0, std::string(4096, 'x')));
  std::vector<tarn::PinnedChunk<TestType>> pins;
  std::error_code refused;
  for (;;) {
    auto pin = file.pool.pin(file.meta, 0);
    if (!pin) {
      refused = pin.error();
      break;
    }
    pins.push_back(std::move(*pin));
    if (pins.size() > (1u << 17)) break;
  }
  CHECK(refused == std::errc::resource_unavailable_try_again);
  CHECK(pins.size() == (1u << 17) - 1);
  // Every call that needs one more says so, and none of them hangs or changes anything.
  std::string into(10, '?');
  CHECK(file.write(0, "y").error() == std::errc::resource_unavailable_try_again);
  CHECK(file.truncate(5).error() == std::errc::resource_unavailable_try_again);
  CHECK(file.punch(1, 5).error() == std::errc::resource_unavailable_try_again);
  CHECK(tarn::begin_flush(file.pool, file.meta).error() == std::errc::resource_unavailable_try_again);
  CHECK(tarn::read_range(file.pool, file.meta, 0, writable(into), file.store).error() ==
        std::errc::resource_unavailable_try_again);
  CHECK(text_in(pins.front(), range(0, 3)) == "xxx");
  CHECK(file.meta.size() == 4096);

  pins.pop_back();
  CHECK(file.write(0, "y").value() == 1);
  pins.clear();
  CHECK(file.read_all() == "y" + std::string(4095, 'x'));
  REQUIRE(file.flush());
  CHECK(file.pool.evict_clean() == 1);
}

TEMPLATE_TEST_CASE("a read through a content chunk that has all the pins it can have says so and ends", "[chunk_pool]",
                   EACH_STORAGE(Heap, Arena)) {
  OneFile<TestType> file{{.chunk_bytes = 16, .chunks_per_part = 1}};
  const tarn::Digest<16> id{.bytes = {std::byte{1}}};
  file.store.put_content(id, "sixteen of bytes");
  file.meta = OneFile<TestType>::Metadata::from_content(file.id, 16, std::vector{id});
  REQUIRE(file.read_all() == "sixteen of bytes");
  std::vector<tarn::PinnedChunk<TestType>> pins;
  while (auto pin = file.pool.try_get(id, 0)) pins.push_back(std::move(*pin));
  std::string into(16, '?');
  CHECK(tarn::read_range(file.pool, file.meta, 0, writable(into), file.store).error() ==
        std::errc::resource_unavailable_try_again);
  pins.clear();
  CHECK(file.read_all() == "sixteen of bytes");
}

TEMPLATE_TEST_CASE("a pool with dirty chunks is not cleared, a clean one is", "[chunk_pool]",
                   EACH_STORAGE(Heap, Arena)) {
  OneFile<TestType> file{GENERATE(any_sizes())};
  REQUIRE(file.write(0, "hello"));
  CHECK(file.pool.clear().error() == std::errc::device_or_resource_busy);
  CHECK(file.read_all() == "hello");
  REQUIRE(file.flush());
  REQUIRE(file.pool.clear());
  CHECK(file.pool.stats().chunks_held == 0);
  CHECK(file.read_all() == "hello");
}

TEMPLATE_TEST_CASE("dirty bytes that go with their pool are told to the observer, file by file, and no others are",
                   "[chunk_pool]", EACH_STORAGE(TellingHeap, TellingArena)) {
  using Metadata = tarn::MetadataFor<TestType>;
  LossObserver::Losses losses;
  MemoryStore<TestType> store;
  const tarn::Digest<16> content{.bytes = {std::byte{1}}};
  store.put_content(content, pattern(0, 64));
  {
    tarn::ChunkPool<TestType> pool{pool_options<TestType>(16, 1 * MiB), LossObserver{&losses}};
    auto dirty = Metadata::created(7), partly = Metadata::created(8), flushed = Metadata::created(9);
    REQUIRE(tarn::write_range(pool, dirty, 10, bytes_of(pattern(0, 100))));
    REQUIRE(tarn::write_range(pool, dirty, 500, bytes_of("five!")));
    REQUIRE(tarn::write_range(pool, partly, 0, bytes_of(pattern(0, 64))));
    REQUIRE(tarn::flush(pool, partly, store));
    REQUIRE(tarn::write_range(pool, partly, 3, bytes_of("abc")));
    REQUIRE(tarn::write_range(pool, flushed, 0, bytes_of(pattern(0, 64))));
    REQUIRE(tarn::flush(pool, flushed, store));
    REQUIRE(pool.get_or_load(content, 0, 16, store));
    CHECK(losses.empty());
  }
  std::sort(losses.begin(), losses.end());
  CHECK(losses == LossObserver::Losses{{7, 105}, {8, 3}});
}

TEMPLATE_TEST_CASE("a size that goes with its pool is told to the observer, with no byte", "[chunk_pool]",
                   EACH_STORAGE(TellingHeap, TellingArena)) {
  LossObserver::Losses losses;
  MemoryStore<TestType> store;
  store.put_pattern(7, 64);
  store.put_pattern(8, 64);
  {
    tarn::ChunkPool<TestType> pool{pool_options<TestType>(16, 1 * MiB), LossObserver{&losses}};
    auto cut = tarn::MetadataFor<TestType>::from_store(7, 64), read = tarn::MetadataFor<TestType>::from_store(8, 64);
    std::string into(64, '?');
    REQUIRE(tarn::read_range(pool, cut, 0, writable(into), store));
    REQUIRE(tarn::read_range(pool, read, 0, writable(into), store));
    REQUIRE(tarn::truncate(pool, cut, 40));
  }
  CHECK(losses == LossObserver::Losses{{7, 0}});
}

TEST_CASE("a deadline is so long from now, and one for ever does not wrap", "[chunk_pool]") {
  struct Frozen : Usual {
    struct TimeSource : tarn::SteadyTime {
      [[nodiscard]] std::int64_t now_ns() const noexcept { return 1000; }
    };
  };
  const tarn::ChunkPool<Frozen> pool{pool_options<Frozen>(16)};
  CHECK(pool.deadline_in(std::chrono::microseconds{3}) == 4000);
  CHECK(pool.deadline_in(std::chrono::nanoseconds{-1}) == 999);
  CHECK(pool.deadline_in(std::chrono::nanoseconds::max()) == std::numeric_limits<std::int64_t>::max());
}

TEMPLATE_TEST_CASE("a chunk that became dirty or pinned is not evicted", "[chunk_pool]", EACH_STORAGE(Heap, Arena)) {
  OneFile<TestType> file{{.chunk_bytes = 4096, .chunks_per_part = 4}};
  file.become_stored(3 * 4096);
  REQUIRE(file.read_all() == pattern(0, 3 * 4096));
  REQUIRE(file.write(4096, "dirty now"));
  const auto pin = file.pool.pin(file.meta, 2);
  CHECK(file.pool.evict_clean() == 1);
  CHECK_FALSE(file.pool.contains(file.meta, 0));
  CHECK(file.pool.contains(file.meta, 1));
  CHECK(file.pool.contains(file.meta, 2));
  CHECK(file.read(4096, 9) == "dirty now");
}

TEMPLATE_TEST_CASE("no byte is lost where evictors race writers and pins", "[chunk_pool]", EACH_STORAGE(Heap, Arena)) {
  OneFile<TestType> file{{.chunk_bytes = 16, .chunks_per_part = 4}};
  constexpr std::size_t size = 64 * 16;
  std::string expected = pattern(0, size);
  file.become_stored(size);
  std::atomic<bool> stop{false};
  std::size_t wrong = 0;
  {
    Worker evictor{[&] {
      while (!stop) file.pool.evict_clean();
    }};
    for (std::uint64_t i = 0; i < 4000; ++i) {
      const auto at = static_cast<std::size_t>(i * 7919 % (size - 20));
      if (file.read(at, 20) != expected.substr(at, 20)) ++wrong;
      const auto text = pattern(at, 5, i);
      if (!file.write(at, text)) ++wrong;
      expected.replace(at, 5, text);
      const auto pin = file.pool.pin(file.meta, at / 16);
      if (!pin || !pin->with_data(range(at % 16, at % 16 + 1), [&](std::span<const std::byte> bytes) {
            if (text_of(bytes) != expected.substr(at, 1)) ++wrong;
          })) {
        ++wrong;
      }
      if (i % 16 == 15 && !file.flush()) ++wrong;
    }
    stop = true;
  }
  CHECK(wrong == 0);
  CHECK(file.read_all() == expected);
}

TEST_CASE("a read does not lose to eviction what it loaded before it has read it", "[chunk_pool]") {
  OneFile<Hooked> file{{.chunk_bytes = 4096, .chunks_per_part = 4}};
  file.become_stored(4 * 4096);
  REQUIRE(file.read(50, 10) == pattern(50, 10));  // a chunk with holes before and behind what it has
  const auto loads = file.store.counts().loads;
  std::size_t evictions = 0;
  HookedHeap::on_deallocate = [&] {  // the read has landed, gives back what it did not use, and has not yet looked
    file.pool.evict_clean();
    ++evictions;
  };
  CHECK(file.read(0, 2 * 4096) == pattern(0, 2 * 4096));
  HookedHeap::on_deallocate = nullptr;
  CHECK(evictions != 0);
  CHECK(file.store.counts().loads - loads == 2);  // the bytes before and those behind; nothing twice
}

TEMPLATE_TEST_CASE("two content ids of one hash have each their own bytes", "[chunk_pool]",
                   EACH_STORAGE(CollidingHeap, CollidingArena)) {
  tarn::ChunkPool<TestType> pool{pool_options<TestType>(16, 1 * MiB)};
  ContentLoader<TestType> loader;
  loader.content.emplace_back(Colliding{1, 2}, pattern(0, 48, 1));
  loader.content.emplace_back(Colliding{2, 1}, pattern(0, 48, 2));
  loader.content.emplace_back(Colliding{1, 1}, pattern(0, 48, 3));
  for (int round = 0; round < 2; ++round) {
    for (std::uint64_t i = 0; i < 3; ++i) {
      for (std::uint64_t chunk = 0; chunk < 3; ++chunk) {
        const auto pin = pool.get_or_load(loader.content[i].first, chunk, 16, loader);
        REQUIRE(pin);
        CHECK(text_in(*pin, range(0, 16)) == pattern(16 * chunk, 16, i + 1));
      }
    }
  }
  CHECK(loader.loads == 9);
  CHECK(pool.invalidate(Colliding{2, 1}));
  CHECK_FALSE(pool.try_get(Colliding{2, 1}, 0));
  CHECK(pool.try_get(Colliding{1, 2}, 0));
  CHECK_FALSE(pool.invalidate(Colliding{9, 9}));
}

TEMPLATE_TEST_CASE("one content id asked at other part borders gives the right bytes", "[chunk_pool]",
                   EACH_STORAGE(Heap, Arena)) {
  tarn::ChunkPool<TestType> pool{pool_options<TestType>(16, 1 * MiB)};
  MemoryStore<TestType> store;
  const tarn::Digest<16> a{.bytes = {std::byte{1}}}, b{.bytes = {std::byte{2}}};
  store.put_content(a, pattern(0, 64, 1));
  store.put_content(b, pattern(0, 64, 2));
  using Metadata = tarn::MetadataFor<TestType>;
  const auto read = [&](const Metadata& meta) {
    std::string into(static_cast<std::size_t>(meta.size()), '?');
    const auto n = tarn::read_range(pool, meta, 0, writable(into), store);
    return n && *n == into.size() ? into : "error";
  };
  // The same content as the first part of four chunks, as the second, cut short, and twice in one file.
  const auto first = Metadata::from_content(1, 128, std::vector{a, b}, {.part_bytes = 64});
  const auto second = Metadata::from_content(2, 128, std::vector{b, a}, {.part_bytes = 64});
  const auto narrow = Metadata::from_content(3, 60, std::vector{a, a}, {.part_bytes = 32});
  const auto shorter = Metadata::from_content(4, 21, std::vector{a}, {.part_bytes = 64});
  const auto one = pattern(0, 64, 1), two = pattern(0, 64, 2);
  CHECK(read(shorter) == one.substr(0, 21));
  CHECK(read(first) == one + two);
  CHECK(read(second) == two + one);
  CHECK(read(narrow) == one.substr(0, 32) + one.substr(0, 28));
  CHECK(store.counts().load_bytes == 128);  // shared: each byte of content is loaded once
  pool.evict_clean();
  CHECK(read(narrow) == one.substr(0, 32) + one.substr(0, 28));
  CHECK(read(second) == two + one);
  CHECK(store.complaints() == "");
}

TEMPLATE_TEST_CASE("a changed file keeps its own bytes over the content that it shares", "[chunk_pool]",
                   EACH_STORAGE(Heap, Arena)) {
  OneFile<TestType> file{{.chunk_bytes = 16, .chunks_per_part = 4}};
  const tarn::Digest<16> id{.bytes = {std::byte{1}}};
  const auto text = pattern(0, 64, 1);
  file.store.put_content(id, text);
  file.store.put(file.id, text);
  file.meta = OneFile<TestType>::Metadata::from_content(file.id, 64, std::vector{id}, {.part_bytes = 64});
  const auto sharer = OneFile<TestType>::Metadata::from_content(8, 64, std::vector{id}, {.part_bytes = 64});
  REQUIRE(file.write(10, "changed"));
  auto expected = text;
  expected.replace(10, 7, "changed");
  CHECK(file.read_all() == expected);
  std::string into(64, '?');
  REQUIRE(tarn::read_range(file.pool, sharer, 0, writable(into), file.store));
  CHECK(into == text);

  REQUIRE(file.punch(20, 40));
  expected.replace(20, 20, 20, '\0');
  CHECK(file.read_all() == expected);
  REQUIRE(file.flush());
  CHECK(file.meta.content_id(0) == nullptr);
  file.pool.evict_clean();
  CHECK(file.read_all() == expected);
}

TEMPLATE_TEST_CASE("content is loaded once, is kept beside other parts, and may be empty or short", "[chunk_pool]",
                   EACH_STORAGE(Heap, Arena)) {
  tarn::ChunkPool<TestType> pool{pool_options<TestType>(16, 1 * MiB)};
  ContentLoader<TestType> loader;
  const tarn::Digest<16> id{.bytes = {std::byte{1}}}, other{.bytes = {std::byte{2}}}, empty{};
  loader.content.emplace_back(id, pattern(0, 20));
  loader.content.emplace_back(other, pattern(0, 20, 2));
  CHECK(pool.try_get(id, 0).error() == std::errc::no_such_file_or_directory);
  {
    const auto pin = pool.get_or_load(id, 0, 16, loader);
    REQUIRE(pin);
    CHECK(text_in(*pin, range(0, 16)) == pattern(0, 16));
  }
  REQUIRE(pool.get_or_load(id, 0, 16, loader));
  CHECK(loader.loads == 1);
  const auto last = pool.get_or_load(id, 1, 4, loader);
  REQUIRE(last);
  CHECK(text_in(*last, range(0, 4)) == pattern(16, 4));
  CHECK_FALSE(last->with_data([](std::span<const std::byte>) {}));
  REQUIRE(pool.get_or_load(other, 0, 16, loader));
  CHECK(loader.loads == 3);
  REQUIRE(pool.try_get(id, 0));
  CHECK(loader.loads == 3);

  CHECK(pool.get_or_load(id, 0, 0, loader).error() == std::errc::invalid_argument);
  CHECK(pool.get_or_load(id, 0, 17, loader).error() == std::errc::invalid_argument);
  CHECK(pool.get_or_load(empty, 0, 16, loader).error() == std::errc::no_such_file_or_directory);
}

TEMPLATE_TEST_CASE("content of which too little is held is loaded further, and what is held is used", "[chunk_pool]",
                   EACH_STORAGE(Heap, Arena)) {
  tarn::ChunkPool<TestType> pool{pool_options<TestType>(16, 1 * MiB)};
  ContentLoader<TestType> loader;
  const tarn::Digest<16> id{.bytes = {std::byte{1}}};
  loader.content.emplace_back(id, pattern(0, 16));
  REQUIRE(pool.get_or_load(id, 0, 6, loader));
  {
    const auto pin = pool.get_or_load(id, 0, 16, loader);
    REQUIRE(pin);
    CHECK(text_in(*pin, range(0, 16)) == pattern(0, 16));
  }
  CHECK(loader.loads == 2);
  const auto pin = pool.get_or_load(id, 0, 6, loader);
  REQUIRE(pin);
  CHECK(loader.loads == 2);
  CHECK(pool.stats().pins == 1);
  CHECK(pool.invalidate(id));
  CHECK(pool.get_or_load(id, 0, 16, loader));  // anew: who has a pin keeps what he has
  CHECK(loader.loads == 3);
}

TEMPLATE_TEST_CASE("a file of empty content reads empty and loads nothing", "[chunk_pool]", EACH_STORAGE(Heap, Arena)) {
  OneFile<TestType> file{GENERATE(any_sizes())};
  file.meta =
      OneFile<TestType>::Metadata::from_content(file.id, 0, std::vector{tarn::Digest<16>{}}, {.part_bytes = file.P});
  CHECK(file.read(0, 10).empty());
  CHECK(file.read(0, 10).empty());
  CHECK(file.store.counts().loads == 0);
}

TEMPLATE_TEST_CASE("content that is forgotten while it loads is not kept, and whoever asked has its bytes",
                   "[chunk_pool]", EACH_STORAGE(Heap, Arena)) {
  tarn::ChunkPool<TestType> pool{pool_options<TestType>(16, 1 * MiB)};
  ContentLoader<TestType> loader;
  const tarn::Digest<16> id{.bytes = {std::byte{1}}};
  loader.content.emplace_back(id, pattern(0, 16));
  loader.gate.close();
  std::string seen;
  {
    Worker reader{loader.gate, [&] {
                    const auto pin = pool.get_or_load(id, 0, 16, loader);
                    if (pin) seen = text_in(*pin, range(0, 16));
                  }};
    REQUIRE(loader.gate.wait_for_arrivals());
    CHECK(pool.invalidate(id));
    loader.gate.open();
  }
  CHECK(seen == pattern(0, 16));
  CHECK(loader.loads == 2);  // the first one landed nowhere
}

TEMPLATE_TEST_CASE("a budget below the least is refused at construction, and the least works", "[chunk_pool]",
                   EACH_STORAGE(Heap, Arena)) {
  const auto C = GENERATE(std::uint64_t{1}, std::uint64_t{16}, std::uint64_t{4096}, 1 * MiB);
  using Pool = tarn::ChunkPool<TestType>;
  tarn::PoolOptions options{.chunk_bytes = C};
  const auto refused = [](const tarn::PoolOptions& with) {
    try {
      Pool pool{with};
    } catch (const std::system_error& error) {
      return error.code() == std::errc::invalid_argument;
    }
    return false;
  };
  CHECK(refused(options));  // a budget of 0
  const auto least = Pool::min_budget_bytes(options);
  options.budget_bytes = least - 1;
  CHECK(refused(options));
  options.budget_bytes = ~std::uint64_t{0};
  CHECK(refused(options));
  for (const std::uint64_t chunk_bytes : {0u, 3u, 4095u}) {
    CHECK(refused({.budget_bytes = 1 * GiB, .chunk_bytes = chunk_bytes}));
  }
  CHECK(refused({.budget_bytes = 1 * GiB, .chunk_bytes = C, .window_bytes = 0}));

  options.budget_bytes = least;
  Pool pool{options};
  MemoryStore<TestType> store;
  auto meta = tarn::MetadataFor<TestType>::created(1);
  const auto text = pattern(0, static_cast<std::size_t>(C));
  for (std::uint64_t i = 0; i < 20; ++i) {  // one owner that flushes as it goes is never refused
    const auto written = tarn::write_range(pool, meta, i * C, bytes_of(text));
    REQUIRE(written);
    REQUIRE(*written == C);
    REQUIRE(tarn::flush(pool, meta, store));
    std::string into(static_cast<std::size_t>(C), '?');
    REQUIRE(tarn::read_range(pool, meta, i * C, writable(into), store));
    CHECK((into == text));
  }
}

TEST_CASE("marks that cannot work are refused at construction; a budget may be lowered below them", "[chunk_pool]") {
  using Pool = tarn::ChunkPool<Usual>;
  constexpr std::uint64_t C = 4096, budget = 16 * MiB;
  const auto made = [](tarn::PoolOptions with) -> std::string {
    with.budget_bytes = budget;
    with.chunk_bytes = C;
    try {
      Pool pool{with};
    } catch (const std::system_error& error) {
      return error.code() == std::errc::invalid_argument ? error.what() : "another error";
    }
    return "made";
  };
  CHECK(made({.dirty_limit_bytes = C - 1}).find("dirty_limit_bytes is below chunk_bytes") != std::string::npos);
  CHECK(made({.dirty_limit_bytes = budget + 1}).find("limit, budget") != std::string::npos);
  CHECK(made({.dirty_throttle_bytes = 3 * C, .dirty_limit_bytes = 2 * C}).find("limit, budget") != std::string::npos);
  CHECK(made({.dirty_throttle_bytes = budget + 1}).find("limit, budget") != std::string::npos);
  CHECK(made({.dirty_background_bytes = 3 * C, .dirty_throttle_bytes = 2 * C}).find("limit, budget") !=
        std::string::npos);
  CHECK(made({.dirty_background_bytes = 3 * C, .dirty_limit_bytes = 2 * C}).find("limit, budget") != std::string::npos);
  CHECK(made({.file_dirty_limit_bytes = budget + 1}).find("file_dirty_limit_bytes") != std::string::npos);

  CHECK(made({.dirty_background_bytes = 1, .dirty_throttle_bytes = 1, .dirty_limit_bytes = C}) == "made");
  CHECK(made({.dirty_background_bytes = 2 * C, .dirty_limit_bytes = budget}) == "made");
  CHECK(made({.dirty_throttle_bytes = budget, .dirty_limit_bytes = budget, .file_dirty_limit_bytes = 1}) == "made");

  Pool pool{{.budget_bytes = budget, .chunk_bytes = C, .dirty_throttle_bytes = budget, .dirty_limit_bytes = budget}};
  CHECK(pool.set_budget_bytes(budget / 2));
  MemoryStore<Usual> store;
  auto meta = tarn::MetadataFor<Usual>::created(1);
  REQUIRE(tarn::write_range(pool, meta, 0, bytes_of("x")));
  CHECK(tarn::flush(pool, meta, store));
}

TEST_CASE("a window is whole chunks, one at least", "[chunk_pool]") {
  const auto window = [](std::uint64_t window_bytes) {
    return tarn::ChunkPool<Usual>{{.budget_bytes = 16 * MiB, .chunk_bytes = 4096, .window_bytes = window_bytes}}
        .window_bytes();
  };
  CHECK(window(100) == 4096);
  CHECK(window(2 * 4096 + 100) == 2 * 4096);
}

TEMPLATE_TEST_CASE("a thousand files grown by small writes never pass the budget, at the seam where memory is taken",
                   "[chunk_pool]", EACH_STORAGE(Watched, WatchedInArena)) {
  using Pool = tarn::ChunkPool<TestType>;
  using Seam = typename TestType::Storage;
  constexpr std::uint64_t C = 4096;
  Seam::most_bytes = Seam::over_budget = 0;
  {
    Pool pool{pool_options<TestType>(C, 2 * MiB)};
    MemoryStore<TestType> store;
    std::vector<tarn::MetadataFor<TestType>> files;
    for (std::uint64_t id = 0; id < 1000; ++id) files.push_back(tarn::MetadataFor<TestType>::created(id));
    std::uint64_t refused = 0, overcharged = 0;
    const auto text = std::string(1000, 'x');
    for (std::uint64_t at = 0; at < 4 * C; at += text.size()) {
      for (auto& file : files) {
        const auto n = std::min<std::uint64_t>(text.size(), 4 * C - at);
        auto written = tarn::write_range(pool, file, at, bytes_of(std::string_view{text}.substr(0, n)));
        if (!written) {  // full of dirty bytes: room is made as a filesystem would
          ++refused;
          for (auto& other : files) {
            if (!tarn::flush(pool, other, store)) FAIL("a flush failed");
          }
          written = tarn::write_range(pool, file, at, bytes_of(std::string_view{text}.substr(0, n)));
        }
        if (!written || *written != n) FAIL("no room after everything was flushed");
        if (pool.stats().charged_bytes > pool.budget_bytes()) ++overcharged;
      }
    }
    CHECK(refused > 0);
    CHECK(overcharged == 0);
    std::size_t wrong = 0;
    for (auto& file : files) {
      std::string into(4 * C, '?');
      const auto n = tarn::read_range(pool, file, 0, writable(into), store);
      wrong += n && into == std::string(4 * C, 'x') ? 0u : 1u;
      pool.drop(file);
    }
    CHECK(wrong == 0);
    CHECK(Seam::over_budget == 0);
    CHECK(Seam::most_bytes <= pool.budget_bytes());
    CHECK(Seam::most_bytes >= pool.budget_bytes() / 2);  // and it was used
    pool.evict_clean();                                  // an arena gives back its warm slabs
    CHECK(pool.stats().charged_bytes == 0);
    CHECK(store.complaints() == "");
  }
  CHECK(Seam::committed_bytes == 0);
}

TEMPLATE_TEST_CASE("inserts that race each other stay inside the budget, at the seam where memory is taken",
                   "[chunk_pool]", EACH_STORAGE(Watched, WatchedInArena)) {
  using Seam = typename TestType::Storage;
  Seam::most_bytes = Seam::over_budget = 0;
  {
    tarn::ChunkPool<TestType> pool{pool_options<TestType>(4096, 512 * KiB)};
    std::atomic<std::uint64_t> refused{0}, overcharged{0};
    {
      std::vector<Worker> workers;
      for (std::uint64_t id = 0; id < 4; ++id) {
        workers.emplace_back([&, id] {
          auto meta = tarn::MetadataFor<TestType>::created(id);
          const std::string text(9000, 'x');
          for (std::uint64_t i = 0; i < 600; ++i) {  // more than the pool holds, by one of them alone
            const auto written = tarn::write_range(pool, meta, i * text.size(), bytes_of(text));
            if (!written || *written != text.size()) {
              ++refused;
              pool.drop(meta);
              meta = tarn::MetadataFor<TestType>::created(id);
            }
            if (pool.stats().charged_bytes > pool.budget_bytes()) ++overcharged;
          }
          pool.drop(meta);
        });
      }
    }
    CHECK(refused > 0);
    CHECK(overcharged == 0);
    CHECK(Seam::over_budget == 0);
    CHECK(Seam::most_bytes <= pool.budget_bytes());
    pool.evict_clean();
    CHECK(pool.stats().charged_bytes == 0);
  }
  CHECK(Seam::committed_bytes == 0);
}

TEMPLATE_TEST_CASE("a window of many table nodes or content records is served from an all but full pool",
                   "[chunk_pool]", EACH_STORAGE(Heap, Arena)) {
  // Small chunks and large windows: what a window takes beside its chunks is far more than one path of nodes.
  const std::uint64_t C = 4096, windows = 256;
  tarn::ChunkPool<TestType> pool{pool_options<TestType>(C, 8 * MiB, windows)};
  REQUIRE(pool.window_bytes() > 100 * C);
  MemoryStore<TestType> store;
  using Metadata = tarn::MetadataFor<TestType>;
  const std::uint64_t size = 16 * MiB;
  store.put_pattern(1, size);
  SECTION("a file's own bytes") {
    const auto meta = Metadata::from_store(1, size);
    std::string into(size, '?');
    REQUIRE(tarn::read_range(pool, meta, 0, writable(into), store));
    CHECK((into == pattern(0, size)));
  }
  SECTION("content with a record a chunk") {
    std::vector<tarn::Digest<16>> ids;
    for (std::uint64_t at = 0; at < size; at += C) {
      auto& id = ids.emplace_back();
      std::memcpy(id.bytes.data(), &at, sizeof at);
      if (at < 4 * MiB) store.put_content(id, pattern(at, C));
    }
    const auto meta = Metadata::from_content(2, 4 * MiB, std::span{ids}.first(1024));
    std::string into(4 * MiB, '?');
    auto filler = Metadata::created(3);
    REQUIRE(tarn::write_range(pool, filler, 0, bytes_of(std::string(6 * MiB, 'x'))));
    REQUIRE(tarn::read_range(pool, meta, 0, writable(into), store));
    CHECK((into == pattern(0, 4 * MiB)));
    pool.drop(filler);
  }
  SECTION("writes far apart, to the last byte of the budget") {
    auto meta = Metadata::created(4);
    std::uint64_t written = 0, at = 0;
    for (;; at += (std::uint64_t{1} << 40) + pool.window_bytes()) {
      const auto n = tarn::write_range(pool, meta, at, bytes_of(pattern(0, pool.window_bytes())));
      if (!n) break;
      written += *n;
    }
    CHECK(written > 4 * MiB);
    CHECK(pool.dirty_bytes(meta) == written);
    pool.drop(meta);
  }
  pool.evict_clean();
  CHECK(pool.stats().charged_bytes == 0);
}

TEMPLATE_TEST_CASE("the counters return to zero after any history of failures", "[chunk_pool]",
                   EACH_STORAGE(Heap, Arena)) {
  OneFile<TestType> file{GENERATE(any_sizes()), 64 * KiB};
  using Call = typename MemoryStore<TestType>::Call;
  const auto C = file.C;
  const auto size = static_cast<std::size_t>(6 * C);
  const auto id = file.id;
  std::string into(size, '?');
  for (std::uint64_t round = 0; round < 30; ++round) {
    file.store.put_pattern(id, size, round);
    file.pool.drop(file.meta);
    file.meta = OneFile<TestType>::Metadata::from_store(id, size, {.part_bytes = file.P});
    if (round % 3 == 0) file.store.fail_next(Call::load, 1 + round % 2, std::errc::io_error);
    if (round % 3 == 1) file.store.throw_next(Call::load);
    if (round % 3 == 2) file.store.answer_short_next();
    (void)tarn::read_range(file.pool, file.meta, round % 5, writable(into), file.store);
    (void)file.write(round % 7, pattern(0, size));
    (void)tarn::write_range(file.pool, file.meta, size, 10, [](tarn::MutableBuffers) -> tarn::Result<std::size_t> {
      return tarn::fail(std::errc::io_error);
    });
    (void)file.write(std::uint64_t{1} << (round + 10), "far");  // a deep table
    if (round % 2 == 0) file.store.fail_next(Call::flush, 1, std::errc::io_error);
    (void)file.flush(range(0, size / 2));
    { (void)tarn::begin_flush(file.pool, file.meta); }
    (void)file.punch(round, round + 3 * C);
    (void)file.truncate(2 * C + round);
    while (file.write(file.meta.size() + C, "fill it up") && round % 10 == 9 && file.pool.stats().refusals == 0)
      continue;
  }
  file.store.fail_next(Call::load, 0, {});
  file.store.fail_next(Call::flush, 0, {});
  file.pool.drop(file.meta);
  file.pool.evict_clean();
  const auto stats = file.pool.stats();
  CHECK(stats.charged_bytes == 0);
  CHECK(stats.chunks_held == 0);
  CHECK(stats.chunks_dirty == 0);
  CHECK(stats.dirty_bytes == 0);
}

TEST_CASE("a budget past the largest offset is refused, and nothing changes", "[chunk_pool]") {
  tarn::ChunkPool<Usual> pool{pool_options<Usual>(16, MiB)};
  const auto before = pool.budget_bytes();
  CHECK(pool.set_budget_bytes(tarn::max_offset + 1).error() == std::errc::invalid_argument);
  CHECK(pool.set_budget_bytes(tarn::ChunkPool<Usual>::min_budget_bytes({.chunk_bytes = 16}) - 1).error() ==
        std::errc::invalid_argument);
  CHECK(pool.budget_bytes() == before);
}

TEST_CASE("content for whose name there is no room is not loaded", "[chunk_pool]") {
  OneFile<Usual> file{{.chunk_bytes = 16, .chunks_per_part = 1}};
  const tarn::Digest<16> id{.bytes = {std::byte{1}}};
  file.store.put_content(id, "sixteen of bytes");
  {
    const Brim full{file.pool};
    CHECK(file.pool.get_or_load(id, 0, 16, file.store).error() == std::errc::no_buffer_space);
    CHECK(file.store.counts().loads == 0);
  }
  CHECK(file.pool.get_or_load(id, 0, 16, file.store));
}

TEST_CASE("what is clean makes room for the name of a content", "[chunk_pool]") {
  OneFile<Usual> file{{.chunk_bytes = 16, .chunks_per_part = 1}};
  const tarn::Digest<16> id{.bytes = {std::byte{1}}};
  file.store.put_content(id, "sixteen of bytes");
  file.become_stored(64 * 16);
  REQUIRE(file.read(0, 64 * 16).size() == 64 * 16);
  const Brim full{file.pool};
  const auto pin = file.pool.get_or_load(id, 0, 16, file.store);
  REQUIRE(pin);
  CHECK(text_in(*pin, range(0, 16)) == "sixteen of bytes");
  CHECK(file.pool.stats().evictions != 0);
}

TEST_CASE("who asks for content that somebody loads waits for that load, and has a pin of the same chunk",
          "[chunk_pool]") {
  OneFile<Usual> file{{.chunk_bytes = 16, .chunks_per_part = 1}};
  const tarn::Digest<16> id{.bytes = {std::byte{1}}};
  file.store.put_content(id, "sixteen of bytes");
  file.store.load_gate.close();
  std::string first, second;
  BlockedThread waiter;
  const auto get = [&](std::string& seen) {
    const auto pin = file.pool.get_or_load(id, 0, 16, file.store);
    if (pin) seen = text_in(*pin, range(0, 16));
  };
  {
    Worker loads{file.store.load_gate, [&] { get(first); }};
    REQUIRE(file.store.load_gate.wait_for_arrivals());
    Worker waits{file.store.load_gate, [&] {
                   waiter.here();
                   get(second);
                 }};
    CHECK(waiter.wait_until_blocked());
    file.store.load_gate.open();
  }
  CHECK(first == "sixteen of bytes");
  CHECK(second == "sixteen of bytes");
  CHECK(file.store.counts().loads == 1);
}

TEST_CASE("room is first what memory is kept warm, and only then what somebody may read again", "[chunk_pool]") {
  using Core = tarn::detail::PoolCore<Arena>;
  OneFile<Arena> file{{.chunk_bytes = 2 * MiB, .chunks_per_part = 1}, 16 * MiB};  // a slab is one chunk
  file.become_stored(4 * MiB);
  REQUIRE(file.read(0, 4 * MiB).size() == 4 * MiB);
  REQUIRE(file.truncate(2 * MiB));  // the second chunk's slab is empty now
  const auto charged = file.pool.stats().charged_bytes;
  CHECK(file.pool.core().free_some() == Core::Freed::some);
  CHECK(file.pool.stats().charged_bytes == charged - 2 * MiB);
  CHECK(file.pool.stats().evictions == 0);
  CHECK(file.held() == Extents{{0, 2 * MiB}});
  CHECK(file.pool.core().free_some() == Core::Freed::some);
  CHECK(file.pool.stats().evictions == 1);
}
