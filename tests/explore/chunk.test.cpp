// SPDX-License-Identifier: MIT
// Compile: -O1 in explorations
// CTest: TIMEOUT 300 COST 5 LABELS slow
#define TARN_SYNC_HEADER "explore/explored_sync.hpp"

// Chunks under the explorer, by the few steps of the pool that change what a chunk is: found and pinned while it is
// evicted, detached, made dirty, replaced by another one, and while the table that finds it grows and shrinks.

#include <tarn/detail/latched_chunks.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include <tarn/eviction/clock.hpp>

#include "explore/explore.hpp"
#include "explore/small_pool.hpp"
#include "support/catch.hpp"

using tarn::detail::ChunkState;
using tarn::detail::LatchedChunks;
using tarn::detail::LatchMode;
using tarn::detail::Lists;
using tarn_test::chunk_bytes;
using tarn_test::explore;
using tarn_test::Explorer;
using tarn_test::in_turn;
using tarn_test::Scenario;

namespace {

using Traits = tarn_test::ExploredTraits;
using Core = tarn::detail::PoolCore<Traits>;
using Chunk = Core::PoolChunk;

const auto whole = tarn::ByteRange::between(0, chunk_bytes);

/// The letter that the chunks of an index have, whoever makes them.
char letter_of(std::uint64_t index) { return static_cast<char>('a' + index % 26); }

struct World {
  Core core{tarn_test::small_pool(1), {}};
  Core::RecordHandle record = core.registry.find_or_make(Core::file_key(7));

  /// As a load does whose bytes are there: another one's chunk is as good.
  void add(std::uint64_t index) {
    auto* const chunk = core.make_chunk();
    std::memset(chunk->memory, letter_of(index), chunk_bytes);
    LatchedChunks<Traits> latched{core};
    Explorer::expect(prepare_extents(core, *chunk, Lists::valid) == 0, "a chunk's lists are refused");
    chunk->valid.add(whole, chunk_bytes);
    core.counters.valid_bytes.fetch_add(chunk_bytes, std::memory_order_relaxed);
    const tarn::detail::MutexLock table{record->table_mutex};
    if (record->table.find(index) == nullptr && record->table.reserve(index, core.nodes)) {
      core.attach(*chunk, *record, index);
      latched.hold(*chunk, LatchMode::exclusive);
    } else {
      core.free_chunk(chunk);
    }
  }
  /// As a call does that looks for a window's chunk.
  [[nodiscard]] Chunk* pin(std::uint64_t index, LatchedChunks<Traits>& latched) {
    const tarn::detail::MutexLock table{record->table_mutex};
    auto* const chunk = record->table.find(index);
    if (chunk == nullptr || !chunk->state.try_pin()) return nullptr;
    latched.hold(*chunk);
    return chunk;
  }
  void read(std::uint64_t index) {
    LatchedChunks<Traits> latched{core};
    const auto* const chunk = pin(index, latched);
    if (chunk == nullptr) return;
    latched.latch(LatchMode::shared);
    chunk->state.check();
    Explorer::expect(chunk->index == index, "a chunk of another index");
    for (std::size_t i = 0; i < chunk_bytes; ++i) {
      const auto seen = static_cast<char>(chunk->memory[i]);
      Explorer::expect(seen == letter_of(index) || seen == 'W', "a pinned chunk has other bytes");
      Explorer::expect(chunk->memory[i] == chunk->memory[0], "a chunk is read half written");
    }
  }
  /// As a write does.
  void write(std::uint64_t index) {
    LatchedChunks<Traits> latched{core};
    auto* const chunk = pin(index, latched);
    if (chunk == nullptr) return;
    latched.latch(LatchMode::exclusive);
    if (chunk->state.is(ChunkState::detached)) return;
    Explorer::expect(prepare_extents(core, *chunk) == 0, "a chunk's lists are refused");
    const auto before_bytes = chunk->dirty.size_bytes();
    std::memset(chunk->memory, 'W', chunk_bytes);
    chunk->dirty.add(whole, chunk_bytes);
    const tarn::detail::MutexLock table{record->table_mutex};
    if (chunk->state.is(ChunkState::detached)) return;
    core.count_dirty(*record, chunk_bytes, before_bytes);
    core.settle_dirty(*chunk);
    ++writes;
  }
  /// As a flush does that has ended well.
  void clean(std::uint64_t index) {
    LatchedChunks<Traits> latched{core};
    auto* const chunk = pin(index, latched);
    if (chunk == nullptr) return;
    latched.latch(LatchMode::exclusive);
    const tarn::detail::MutexLock table{record->table_mutex};
    if (chunk->state.is(ChunkState::detached)) return;
    core.count_dirty(*record, 0, chunk->dirty.size_bytes());
    chunk->dirty.subtract(whole, chunk_bytes);
    core.settle_dirty(*chunk);
    ++cleaned;
  }
  /// As a truncate does.
  void detach(std::uint64_t index) {
    const tarn::detail::MutexLock table{record->table_mutex};
    if (auto* const chunk = record->table.find(index); chunk != nullptr) core.detach(*chunk, *record);
    ++detached;
  }
  /// When nobody uses a chunk any more.
  void check_marks() {
    const tarn::detail::MutexLock table{record->table_mutex};
    for (auto at = record->table.next(0); at.second != nullptr; at = record->table.next(at.first + 1)) {
      Explorer::expect((at.second->state.word() & ~ChunkState::dirty) == 0, "a pin, a latch or a mark is left");
      Explorer::expect(at.second->state.is(ChunkState::dirty) == !at.second->dirty.empty(), "a mark is wrong");
    }
  }
  [[nodiscard]] bool has(std::uint64_t index) {
    const tarn::detail::MutexLock table{record->table_mutex};
    return record->table.find(index) != nullptr;
  }

  int writes = 0, cleaned = 0, detached = 0;  // guarded by the table mutex
};

using Act = tarn_test::ActOn<World>;
Act add(std::uint64_t index) {
  return [=](World& world) { world.add(index); };
}
Act read(std::uint64_t index) {
  return [=](World& world) { world.read(index); };
}
Act write(std::uint64_t index) {
  return [=](World& world) { world.write(index); };
}
Act clean(std::uint64_t index) {
  return [=](World& world) { world.clean(index); };
}
Act detach(std::uint64_t index) {
  return [=](World& world) { world.detach(index); };
}
const Act evict = [](World& world) { (void)world.core.evict_one(); };
const Act drop = [](World& world) {
  (void)world.core.drop(*world.record);
  ++world.detached;
};

/// One thread for each, on the chunks `there`; `stay` are there in the end, too, and then everything goes.
std::function<Scenario()> together(std::vector<std::uint64_t> there, std::vector<Act> acts,
                                   std::vector<std::uint64_t> stay = {}) {
  return [=] {
    auto world = std::make_shared<World>();
    for (const auto index : there) world->add(index);
    Scenario scenario;
    tarn_test::add_threads(scenario, world, acts);
    scenario.at_end = [=] {
      for (const auto index : stay) Explorer::expect(world->has(index), "a chunk is lost from its table");
      if (world->writes != 0 && world->cleaned == 0 && world->detached == 0) {
        Explorer::expect(world->record->dirty_bytes.load() == chunk_bytes, "what was written is not dirty");
        Explorer::expect(world->has(0), "a dirty chunk was evicted");
      }
      world->check_marks();
      while (world->core.evict_one() == Core::Freed::some) continue;  // all that is clean is in the ring
      const auto dirty = world->core.counters.chunks_dirty.load();
      Explorer::expect(world->core.counters.chunks_held.load() == dirty, "a clean chunk is in no ring");
      Explorer::expect(world->core.drop(*world->record) == dirty * chunk_bytes, "the dirty bytes were miscounted");
      world->record = {};
      Explorer::expect(world->core.counters.valid_bytes.load() == 0, "valid bytes stay");
      Explorer::expect(world->core.budget.charged_bytes() == 0, "a chunk or a node stays, or went twice");
    };
    return scenario;
  };
}

// By index: 0 is in a table of one node, `far` makes it higher, `farther` higher still.
constexpr std::uint64_t far = 40, farther = 5000;

}  // namespace

TEST_CASE("a chunk that is evicted or detached is read whole, or not found", "[explore]") {
  explore("evicted", together({0}, {read(0), evict}));
  explore("detached", together({0}, {read(0), detach(0)}));
  explore("dropped with its file", together({0}, {read(0), drop}));
  explore("evicted by two", together({0}, {evict, evict}));
  explore("evicted and detached", together({0}, {evict, detach(0)}));
  explore("detached under three pins", together({0}, {read(0), read(0), detach(0)}), 3);
  explore("evicted and detached under a pin", together({0}, {read(0), evict, detach(0)}), 3);
  explore("evicted, and dropped with its file, under a pin", together({0}, {read(0), evict, drop}), 3);
}

TEST_CASE("a chunk whose memory and place are used again is not taken for the one before", "[explore]") {
  explore("by another index", together({0}, {read(0), in_turn(evict, add(1))}, {1}));
  explore("by the same index", together({0}, {read(0), in_turn(evict, add(0))}, {0}));
  explore("detached, by another index", together({0}, {read(0), in_turn(detach(0), add(1))}, {1}));
  explore("by another thread", together({0}, {read(0), evict, add(1)}), 3);
  explore("detached, by another thread", together({0}, {read(0), detach(0), add(0)}), 3);
}

TEST_CASE("a chunk that is written is dirty, and dirty chunks stay", "[explore]") {
  explore("evicted meanwhile", together({0}, {write(0), evict}));
  explore("detached meanwhile", together({0}, {write(0), detach(0)}));
  explore("read meanwhile", together({0}, {write(0), read(0)}, {0}));
  explore("by two", together({0}, {write(0), write(0)}, {0}));
  explore("and stored, and evicted", together({0}, {in_turn(write(0), clean(0)), evict}));
  explore("and stored while another writes", together({0}, {write(0), clean(0)}, {0}));
  explore("read and evicted", together({0}, {write(0), read(0), evict}), 3);
  explore("by two, and evicted", together({0}, {write(0), write(0), evict}), 3);
  explore("and stored, and evicted, by three", together({0}, {write(0), clean(0), evict}), 3);
  explore("detached and evicted", together({0}, {write(0), detach(0), evict}), 3);
}

TEST_CASE("a table that grows or shrinks finds what it has", "[explore]") {
  explore("higher by one", together({0}, {read(0), add(far)}, {0, far}));
  explore("higher by two", together({0}, {read(0), add(farther)}, {0, farther}));
  explore("made by two", together({}, {add(0), add(far)}, {0, far}));
  explore("made by two at one place", together({}, {add(0), add(0)}, {0}));
  explore("higher, with nothing left below", together({0}, {evict, add(far)}));
  explore("lower, while it is read", together({0, far}, {read(0), detach(far)}, {0}));
  explore("emptied and made anew", together({0}, {in_turn(detach(0), add(far)), read(0)}, {far}));
  explore("higher by two threads", together({0}, {read(0), add(far), add(farther)}, {0, far, farther}), 3);
  explore("higher and lower", together({0}, {detach(0), add(far), read(0)}, {far}), 3);
  explore("higher, while it is emptied", together({0}, {evict, add(far), drop}), 3);
}
