// SPDX-License-Identifier: MIT
// Compile: -O1 in explorations
// CTest: TIMEOUT 300 LABELS slow
#define TARN_SYNC_HEADER "explore/explored_sync.hpp"

// Loads under the explorer, by the few steps that a read takes once it has seen what is missing: each byte is fetched
// once, who waits for another's load finds what it brought, and nothing lands where it is not wanted any more.

#include <tarn/detail/load.hpp>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <tarn/detail/waiting.hpp>

#include "explore/explore.hpp"
#include "explore/small_pool.hpp"
#include "explore/token_store.hpp"
#include "support/catch.hpp"

using tarn_test::chunk_bytes;
using tarn_test::explore;
using tarn_test::Explorer;
using tarn_test::Scenario;

namespace {

using Traits = tarn_test::ExploredTraits;
using Core = tarn::detail::PoolCore<Traits>;
using Load = tarn::detail::Load<Traits>;

constexpr std::uint64_t file = 7, far = 40;  // `far` is a chunk that makes the table higher
const std::string stored((far + 1) * chunk_bytes, 'a');

struct World {
  Core core{tarn_test::small_pool(1), {}};
  Core::RecordHandle record = core.registry.find_or_make(Core::file_key(file));
  tarn_test::TokenStore<Traits> store;
  bool changes = false;
  bool gone = false;  // somebody has taken the bytes back, with no chunk there; guarded by the table mutex

  [[nodiscard]] bool holds(std::uint64_t index) {
    const tarn::detail::MutexLock table{record->table_mutex};
    auto* const chunk = record->table.find(index);
    return chunk != nullptr && chunk->valid.contains(tarn::ByteRange::between(0, chunk_bytes)) &&
           chunk->memory[0] == static_cast<std::byte>('a');
  }
  void wait_for(const tarn::detail::LoadInFlight& load) {
    for (;;) {
      const auto arrivals = record->arrivals.load();
      if (load.done.load()) return;
      const auto why = block(core, tarn::detail::WaitFor<Traits>::arrival(record, arrivals), {});
      Explorer::expect(!why, "a wait without a deadline is given up");
    }
  }
};

/// A read that has found the chunk missing, and has a reserved one for it.
struct Reader {
  World& world;
  const std::uint64_t index;
  tarn::detail::ReadWindow<Traits> window{world.core};
  tarn::detail::ChunkReserve<Traits> reserve{world.core};
  std::shared_ptr<Load> load = std::make_shared<Load>(world.core, world.record.share(), 0);

  Reader(World& in, std::uint64_t chunk) : world{in}, index{chunk} {
    load->wanted.add(world.core.layout.chunk_range(index));
    Explorer::expect(reserve.fill({.chunks = 1}) == Core::Freed::some, "a chunk is refused");
  }
  /// Returns: what it is to wait for; nothing if the chunk has come meanwhile.
  [[nodiscard]] std::shared_ptr<tarn::detail::LoadInFlight> begin() {
    std::size_t no_spare = 0;
    switch (load->begin(window, &reserve, no_spare)) {
      case Load::Begun::yes:
        load->start(world.store, file, 0, std::nullopt, world.core.layout, nullptr, nullptr);
        return load;
      case Load::Begun::elsewhere:
        return load->take_other();
      case Load::Begun::again:
        return nullptr;
      case Load::Begun::need_room:
        break;
    }
    Explorer::fail("a table is refused");
    return nullptr;
  }
  void read() {
    const tarn::detail::Resumer resumer;
    const auto awaited = begin();
    if (awaited == nullptr) return;
    world.wait_for(*awaited);
    Explorer::expect(!awaited->error, "a load fails");
    // As long as somebody has the load, what it brought stays; but a change takes it out.
    if (awaited->error_counts()) Explorer::expect(world.holds(index) || world.changes, "a load brought nothing");
  }
};

using Act = tarn_test::ActOn<World>;
const Act answer = [](World& world) { world.store.answer_load(); };
const Act evict = [](World& world) { (void)world.core.evict_one(); };
/// As a write does where no chunk is.
const Act take_out = [](World& world) {
  const tarn::detail::MutexLock table{world.record->table_mutex};
  (void)world.core.take_out(*world.record, world.core.layout.chunk_range(0));
  world.gone = world.record->table.find(0) == nullptr;
};
const Act drop = [](World& world) {
  (void)world.core.drop(*world.record);
  world.gone = true;
};

struct Start {
  std::vector<std::uint64_t> readers;  ///< a thread for each, of that chunk
  std::vector<Act> acts = {};          ///< and for each of those
  std::optional<int> loads = {};       ///< so often it is loaded
  bool later = false;                  ///< by `answer`
  bool begun = false;                  ///< the first reader has begun before, and waits for nothing
  bool changes = false;                ///< what was loaded may be gone
};

std::function<Scenario()> together(Start start) {
  return [=] {
    auto world = std::make_shared<World>();
    world->store.text = stored;
    world->store.at_once = !start.later;
    world->changes = start.changes;
    auto readers = std::make_shared<std::vector<std::unique_ptr<Reader>>>();
    for (const auto index : start.readers) readers->push_back(std::make_unique<Reader>(*world, index));
    std::size_t running = 0;
    if (start.begun) (void)(*readers)[running++]->begin();
    Scenario scenario;
    for (; running < readers->size(); ++running) {
      scenario.threads.emplace_back([=, reader = (*readers)[running].get()] { reader->read(); });
    }
    tarn_test::add_threads(scenario, world, start.acts);
    scenario.at_end = [=] {
      if (start.loads) Explorer::expect(world->store.loads == *start.loads, "it is loaded so often");
      const bool nobody_else = start.begun && start.readers.size() == 1;
      if (nobody_else && world->gone)
        Explorer::expect(!world->holds(0), "a load lands where it is not wanted any more");
      readers->clear();
      while (world->core.evict_one() == Core::Freed::some) continue;
      {
        const tarn::detail::MutexLock table{world->record->table_mutex};
        Explorer::expect(world->record->loads == nullptr, "a load stays");
        Explorer::expect(world->record->idle(), "a chunk, or a place in the table, stays");
      }
      world->record = {};
      Explorer::expect(world->core.reserves.load() == 0, "a reserve stays counted");
      Explorer::expect(world->core.budget.charged_bytes() == 0, "a chunk stays, or went twice");
    };
    return scenario;
  };
}

}  // namespace

TEST_CASE("a chunk that several miss is loaded once, and found by all of them", "[explore]") {
  explore("by two", together({.readers = {0, 0}, .loads = 1}));
  explore("and answered later", together({.readers = {0}, .acts = {answer}, .loads = 1, .later = true}));
  explore("by one who comes while it is answered",
          together({.readers = {0, 0}, .acts = {answer}, .loads = 1, .later = true, .begun = true}));
  explore("by two, and evicted as soon as it may be", together({.readers = {0, 0}, .acts = {evict}, .loads = 1}), 3);
  explore("by two, and answered by a third", together({.readers = {0, 0}, .acts = {answer}, .loads = 1, .later = true}),
          2);
  explore("by three", together({.readers = {0, 0, 0}, .loads = 1}), 3);
}

TEST_CASE("chunks that are loaded beside each other are both there, in a table that grows", "[explore]") {
  explore("by two", together({.readers = {0, far}, .loads = 2}));
  explore("while one is answered",
          together({.readers = {0, far}, .acts = {answer}, .loads = 2, .later = true, .begun = true}));
}

TEST_CASE("a load lands nowhere once its bytes were taken back", "[explore]") {
  explore("by a change",
          together({.readers = {0}, .acts = {answer, take_out}, .later = true, .begun = true, .changes = true}));
  explore("by a drop",
          together({.readers = {0}, .acts = {answer, drop}, .later = true, .begun = true, .changes = true}));
  explore("by a change, while another reads", together({.readers = {0, 0}, .acts = {take_out}, .changes = true}), 3);
  explore("by a drop, while another reads", together({.readers = {0, 0}, .acts = {drop}, .changes = true}), 3);
  explore("by a drop, while it is answered and another reads",
          together({.readers = {0, 0}, .acts = {answer, drop}, .later = true, .begun = true, .changes = true}), 3);
}
