// SPDX-License-Identifier: MIT
// Compile: alone
#include <tarn/detail/load_ahead.hpp>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include <tarn/dirty_file_async.hpp>
#include <tarn/testing/gate.hpp>
#include <tarn/testing/later_store.hpp>

#include "support/catch.hpp"
#include "support/chaos_store.hpp"
#include "support/later_file.hpp"
#include "support/one_file.hpp"

using namespace tarn_test;

namespace {

/// A file of which the store has so many chunks, and what is asked for ahead of its reader.
template <class Traits>
struct World : LaterFile<Traits> {
  using Base = LaterFile<Traits>;
  using Base::C, Base::file, Base::finish_loads, Base::id, Base::P, Base::pool, Base::store;
  using typename Base::Metadata;
  using typename Base::Store;

  explicit World(const Sizes& sizes, std::uint64_t stored_chunks, std::uint64_t more_bytes = 16 * MiB)
      : Base{sizes, stored_chunks * sizes.chunk_bytes, more_bytes} {}
  ~World() {
    store.answer_at_once();
    while (store.open_flushes() != 0) store.finish_flush();
    finish_loads();
    if (file) CHECK(file->flush());
    file.reset();
    pool.evict_clean();
    check_empty(pool.stats());
    CHECK(pool.core().counters.ahead_charge_bytes == 0);
  }
  void make(Metadata meta) { file.emplace(pool, std::move(meta), store); }

  std::uint64_t load_ahead(std::uint64_t offset, std::uint64_t end) { return file->load_ahead(range(offset, end)); }
  /// What the store is asked and has not answered.
  [[nodiscard]] Extents open_loads() {
    tarn::ExtentSet asked;
    std::uint64_t bytes = 0;
    std::vector<typename Store::LoadToken> tokens;
    while (store.open_loads() != 0) {
      tokens.push_back(store.take_load());
      asked.add(tokens.back().request().range);
      bytes += tokens.back().request().range.size_bytes();
    }
    for (auto& token : tokens) keep(std::move(token));
    CHECK(asked.size_bytes() == bytes);  // nothing is asked for twice
    return extents_of(asked);
  }
  /// Puts it last of what is asked.
  void keep(typename Store::LoadToken token) {
    const auto& request = token.request();
    store.load(request, std::move(token));
  }
  /// Makes every chunk that the pool can have a dirty one. Returns: how many bytes that are.
  [[nodiscard]] std::uint64_t fill_with_dirty_bytes(const std::string& chunk) {
    std::uint64_t at = 0;
    while (file->try_write(at, bytes_of(chunk))) at += C;
    return at;
  }
};

/// A read that waits with no thread, and what it came to.
template <class Traits>
struct Reading {
  Reading(World<Traits>& world, std::uint64_t offset, std::size_t size_bytes) : into(size_bytes, '?') {
    tarn::start_read(*world.file, offset, writable(into), [this](tarn::Result<std::size_t> n) {
      ++times;
      result.emplace(n);
    });
  }
  [[nodiscard]] bool got(const std::string& text) const {
    return times == 1 && *result && **result == text.size() && into == text;
  }
  [[nodiscard]] bool failed_with(std::errc why) const { return times == 1 && !*result && result->error() == why; }

  std::string into;
  int times = 0;
  std::optional<tarn::Result<std::size_t>> result;
};

template <class Open>
concept ReadsAhead = requires(Open& open) {
  open.read_ahead(0, 1);
};

}  // namespace

TEMPLATE_TEST_CASE("what was loaded ahead is read with no load", "[load_ahead]", EACH_STORAGE(Heap, Arena)) {
  World<TestType> world{GENERATE(any_sizes()), 8};
  const auto C = world.C;
  CHECK(world.load_ahead(C, 6 * C) == 5 * C);
  CHECK(world.open_loads() == Extents{{C, 6 * C}});
  CHECK(world.read_held(C, C) == "not held");
  world.finish_loads();
  CHECK(world.read_held(C, 5 * C) == pattern(C, 5 * C));
  CHECK(world.read_held(0, 1) == "not held");
  CHECK(world.read_held(6 * C, 1) == "not held");
  CHECK(world.load_ahead(C, 6 * C) == 0);  // all held
  CHECK(world.open_loads().empty());
  CHECK(world.pool.stats().load_ahead_bytes == 5 * C);
  CHECK(world.pool.stats().load_redundant_bytes == 0);
}

TEMPLATE_TEST_CASE("a chunk is loaded ahead to its end, and the file to its own", "[load_ahead]", Heap) {
  World<TestType> world{{16, 4}, 8};
  REQUIRE(world.file->truncate(8 * 16 - 3));
  CHECK(world.load_ahead(5, 6) == 11);
  CHECK(world.open_loads() == Extents{{5, 16}});
  CHECK(world.load_ahead(6 * 16 + 1, tarn::max_offset) == 28);
  CHECK(world.open_loads() == Extents{{5, 16}, {6 * 16 + 1, 8 * 16 - 3}});
  CHECK(world.load_ahead(16 + 1, 4 * 16) == 3 * 16 - 1);  // no chunk of it in two loads
  CHECK(world.store.open_loads() == 4);
  CHECK(world.store.take_load(3).request().range == range(2 * 16, 4 * 16));
  CHECK(world.load_ahead(8 * 16 - 3, 8 * 16) == 0);
  CHECK(world.load_ahead(8 * 16, 9 * 16) == 0);
  CHECK(world.load_ahead(tarn::max_offset - 1, tarn::max_offset) == 0);
  CHECK(world.load_ahead(3, 3) == 0);
  CHECK(world.store.open_loads() == 3);
}

TEMPLATE_TEST_CASE("holes are not loaded ahead, however long they are", "[load_ahead]", Heap) {
  World<TestType> world{{4096, 4}, 4};
  const auto C = world.C;
  REQUIRE(world.file->punch_hole(range(C, 2 * C)));
  REQUIRE(world.file->truncate(tarn::max_offset));
  CHECK(world.load_ahead(0, tarn::max_offset) == 3 * C);
  CHECK(world.open_loads() == Extents{{0, C}, {2 * C, 4 * C}});
  CHECK(world.load_ahead(4 * C, tarn::max_offset) == 0);
  world.finish_loads();
  CHECK(world.read_held(0, 5 * C) == pattern(0, C) + zeros(C) + pattern(2 * C, 2 * C) + zeros(C));
  REQUIRE(world.file->truncate(4 * C));
}

TEMPLATE_TEST_CASE("a read of what is being loaded ahead waits for that, and asks for nothing", "[load_ahead]",
                   EACH_STORAGE(Heap, Arena)) {
  World<TestType> world{GENERATE(any_sizes()), 4};
  const auto C = world.C;
  REQUIRE(world.load_ahead(0, 2 * C) == 2 * C);
  const auto asked = world.store.open_loads();
  Reading<TestType> reading{world, 0, 2 * C};
  CHECK(world.store.open_loads() == asked);
  CHECK(reading.times == 0);
  world.finish_loads();
  CHECK(reading.got(pattern(0, 2 * C)));
  CHECK(world.store.memory.counts().load_bytes == 2 * C);
}

TEMPLATE_TEST_CASE("what a read is loading is not asked for ahead", "[load_ahead]", EACH_STORAGE(Heap, Arena)) {
  World<TestType> world{GENERATE(any_sizes()), 8};
  const auto C = world.C;
  Reading<TestType> reading{world, C, 2 * C};
  REQUIRE(world.open_loads() == Extents{{C, 3 * C}});
  CHECK(world.load_ahead(0, 4 * C) == 2 * C);
  CHECK(world.open_loads() == Extents{{0, 4 * C}});
  CHECK(world.load_ahead(0, 4 * C) == 0);
  world.finish_loads();
  CHECK(reading.got(pattern(C, 2 * C)));
  CHECK(world.read_held(0, 4 * C) == pattern(0, 4 * C));
  CHECK(world.store.memory.counts().load_bytes == 4 * C);
}

TEMPLATE_TEST_CASE("an error of a load ahead is told to nobody", "[load_ahead]", Heap) {
  using Call = typename MemoryStore<TestType>::Call;
  World<TestType> world{{4096, 4}, 8};
  const auto C = world.C;
  auto open = world.file->open();
  REQUIRE(world.load_ahead(0, 2 * C) == 2 * C);
  world.store.memory.fail_next(Call::load, 1, std::errc::io_error);
  SECTION("nobody waits: it is missing, as before") {
    world.store.finish_load();
    CHECK(world.read_held(0, C) == "not held");
    CHECK(open.take_error());
    Reading<TestType> reading{world, 0, C};
    CHECK(world.open_loads() == Extents{{0, C}});
    world.finish_loads();
    CHECK(reading.got(pattern(0, C)));
  }
  SECTION("a read that waited asks for its own bytes") {
    Reading<TestType> reading{world, 0, C};
    Reading<TestType> second{world, 0, C};
    world.store.finish_load();
    CHECK(reading.times == 0);
    CHECK(world.open_loads() == Extents{{0, C}});
    world.finish_loads();
    CHECK(reading.got(pattern(0, C)));
    CHECK(second.got(pattern(0, C)));
  }
  SECTION("and hears what becomes of those") {
    Reading<TestType> reading{world, 0, C};
    world.store.finish_load();
    world.store.memory.fail_next(Call::load, 1, std::errc::host_unreachable);
    world.finish_loads();
    CHECK(reading.failed_with(std::errc::host_unreachable));
  }
  SECTION("its token is dropped") {
    { const auto dropped = world.store.take_load(); }
    CHECK(world.read_held(0, C) == "not held");
    CHECK(world.load_ahead(0, C) == C);
    world.store.memory.fail_next(Call::load, 0, std::errc::io_error);  // no more of them
  }
  CHECK(open.take_error());
}

TEMPLATE_TEST_CASE("what is loaded ahead is of the version that the file has", "[load_ahead]", Heap) {
  World<TestType> world{{4096, 4}, 8};
  const auto C = world.C;
  world.store.memory.keep_versions();
  REQUIRE(world.file->write(5 * C, bytes_of("new")));
  REQUIRE(world.load_ahead(0, C) == C);
  Reading<TestType> reading{world, 0, C};
  tarn::start_flush(*world.file, [](const auto&) {});
  world.store.finish_flush();  // makes another version
  world.store.finish_load();   // ESTALE
  CHECK(reading.times == 0);
  world.finish_loads();
  CHECK(reading.got(pattern(0, C)));
}

TEMPLATE_TEST_CASE("over dirty bytes only what is missing is loaded ahead, and nothing is covered", "[load_ahead]",
                   EACH_STORAGE(Heap, Arena)) {
  World<TestType> world{{16, 4}, 4};
  REQUIRE(world.file->write(20, bytes_of("dirty")));
  CHECK(world.load_ahead(0, 64) == 64 - 5);
  CHECK(world.open_loads() == Extents{{0, 20}, {25, 64}});
  REQUIRE(world.file->write(10, bytes_of("late")));
  REQUIRE(world.file->write(23, bytes_of("too")));
  world.finish_loads();
  CHECK(world.read_held(0, 64) == pattern(0, 10) + "late" + pattern(14, 6) + "dirtoo" + pattern(26, 38));
  CHECK(world.pool.stats().dirty_bytes == 4 + 6);
}

TEMPLATE_TEST_CASE("a load ahead that ends after a change of its bytes covers nothing and brings nothing back",
                   "[load_ahead]", EACH_STORAGE(Heap, Arena)) {
  World<TestType> world{GENERATE(any_sizes()), 4};
  const auto C = world.C;
  std::optional open{world.file->open()};
  REQUIRE(world.load_ahead(0, 4 * C) == 4 * C);
  SECTION("a truncate, and growth") {
    REQUIRE(world.file->truncate(C));
    REQUIRE(world.file->truncate(3 * C));
    world.finish_loads();
    CHECK(world.read_held(0, 4 * C) == pattern(0, C) + zeros(2 * C));
  }
  SECTION("a hole") {
    REQUIRE(world.file->punch_hole(range(C, 2 * C)));
    world.finish_loads();
    CHECK(world.read_held(0, 4 * C) == pattern(0, C) + zeros(C) + pattern(2 * C, 2 * C));
  }
  SECTION("another version in the store") {
    REQUIRE(world.file->invalidate(5));
    world.finish_loads();
    CHECK(world.read_held(0, 1) == "not held");
  }
  SECTION("a discard") {
    REQUIRE(world.file->discard_dirty(4 * C, 6));
    world.finish_loads();
    CHECK(world.read_held(0, 1) == "not held");
  }
  SECTION("a close changes nothing") {
    open.reset();
    world.finish_loads();
    CHECK(world.read_held(0, 4 * C) == pattern(0, 4 * C));
  }
  SECTION("a removal at the last close") {
    auto token = world.store.take_load();
    REQUIRE(world.file->remove());
    open.reset();
    token.complete(token.request().into.size_bytes());
    CHECK(world.file->size() == 0);
    CHECK(world.pool.stats().chunks_held == 0);
  }
  SECTION("the file goes, and one of the same id comes") {
    open.reset();
    world.file.reset();
    REQUIRE(world.store.memory.remove(World<TestType>::id));
    world.make(tarn::MetadataFor<TestType>::created(World<TestType>::id, {.part_bytes = world.P}));
    REQUIRE(world.file->write(0, bytes_of("n")));
    REQUIRE(world.file->truncate(4 * C));
    while (world.store.open_loads() != 0) {  // its memory is its own, still
      auto token = world.store.take_load();
      const auto size_bytes = token.request().into.size_bytes();
      CHECK(token.request().into.copy_from(bytes_of(pattern(9, size_bytes))) == size_bytes);
      token.complete(size_bytes);
    }
    CHECK(world.read_held(0, 4 * C) == "n" + zeros(4 * C - 1));
  }
}

TEMPLATE_TEST_CASE("a pool full of dirty bytes loads nothing ahead, and flushes nothing for it", "[load_ahead]", Heap) {
  World<TestType> world{{4096, 1}, 64, 4 * 4096};
  const auto chunk = pattern(5000, world.C);
  const auto dirty_bytes = world.fill_with_dirty_bytes(chunk);
  const auto refusals = world.pool.stats().refusals;
  CHECK(world.load_ahead(60 * world.C, 64 * world.C) == 0);
  CHECK(world.open_loads().empty());
  CHECK(world.store.open_flushes() == 0);
  CHECK(world.pool.stats().dirty_bytes == dirty_bytes);
  CHECK(world.pool.stats().load_ahead_bytes == 0);
  CHECK(world.pool.stats().refusals == refusals + 1);  // it has stopped there
}

TEMPLATE_TEST_CASE("while somebody waits for room nothing is loaded ahead", "[load_ahead]", Heap) {
  World<TestType> world{{4096, 1}, 8};
  const auto C = world.C;
  {
    const tarn::detail::Resumer resumer;
    const tarn::detail::RoomQueue::Wait waiter{world.pool.core().room_queue};
    CHECK(world.load_ahead(0, C) == 0);
    CHECK(world.open_loads().empty());
  }
  CHECK(world.load_ahead(0, C) == C);
  CHECK(world.open_loads() == Extents{{0, C}});
}

TEMPLATE_TEST_CASE("loads ahead in flight have a quarter of the budget at most, and what landed goes for the next",
                   "[load_ahead]", Heap) {
  World<TestType> world{{4096, 1}, 1000, 60 * 4096};
  const auto C = world.C;
  const auto share_bytes = world.pool.budget_bytes() / 4;
  const auto held_before = world.pool.stats().charged_bytes;
  const auto asked = world.load_ahead(0, 1000 * C);
  CHECK(asked != 0);
  CHECK(world.pool.stats().charged_bytes - held_before <= share_bytes);
  CHECK(asked + 4 * C > share_bytes / (C + 400) * C);  // and not much less
  CHECK(world.load_ahead(asked, 1000 * C) == 0);
  // What is left is for those who read.
  Reading<TestType> reading{world, 900 * C, C};
  CHECK(world.store.open_loads() == asked / C + 1);
  world.finish_loads();
  CHECK(reading.got(pattern(900 * C, C)));
  for (std::uint64_t at = 200 * C; at < 500 * C; at += 2 * C) {
    REQUIRE(world.load_ahead(at, at + 2 * C) == 2 * C);
    world.finish_loads();
    REQUIRE(world.read_held(at, 2 * C) == pattern(at, 2 * C));
  }
  CHECK(world.pool.stats().evictions > 200);
  CHECK(world.pool.stats().loads == asked / C + 1 + 300);
}

TEMPLATE_TEST_CASE("load_ahead waits for no lock, no latch and no load", "[load_ahead]", Heap) {
  World<TestType> world{{4096, 1}, 8};
  const auto C = world.C;
  Gate filling;
  filling.close();
  tarn::Result<std::size_t> written = 0;
  Worker writer{[&] {
    written = world.file->write(0, C, [&](tarn::MutableBuffers into) {
      filling.pass();
      return into.copy_from(bytes_of(pattern(99, C)));
    });
  }};
  REQUIRE(filling.wait_for_arrivals());
  CHECK(world.load_ahead(0, 2 * C) == 0);
  CHECK(world.load_ahead(4 * C, 5 * C) == 0);
  filling.open();
  writer.join();
  CHECK(written.value() == C);
  CHECK(world.load_ahead(0, 2 * C) == C);
  const auto pin = world.pool.pin(world.file->metadata(), 0);
  REQUIRE(pin);
  auto& record = *world.file->body()->record;
  tarn::detail::MutexLock table{record.table_mutex};
  auto& latched = record.table.find(0)->state;
  table.unlock();
  REQUIRE(latched.try_latch_exclusive());
  CHECK(world.load_ahead(0, 8 * C) == 0);
  latched.unlatch_exclusive(world.pool.core().parking);
  CHECK(world.load_ahead(0, 8 * C) == 6 * C);
}

TEMPLATE_TEST_CASE("a store that answers at once loads ahead in the thread that calls", "[load_ahead]", Heap) {
  tarn::ChunkPool<TestType> pool{pool_options<TestType>(4096, 16 * MiB)};
  MemoryStore<TestType> store;
  store.put_pattern(7, 5 * 4096);
  tarn::DirtyFile file{pool, tarn::MetadataFor<TestType>::from_store(7, 5 * 4096), store};
  CHECK(file.load_ahead(range(0, 100 * 4096)) == 5 * 4096);
  CHECK(store.counts().load_bytes == 5 * 4096);
  store.fail_next(MemoryStore<TestType>::Call::load, 100, std::errc::io_error);
  std::string into(5 * 4096, '?');
  CHECK(file.read(0, writable(into)).value() == into.size());
  CHECK(into == pattern(0, into.size()));
  // What would hold up the reader is not offered to him.
  STATIC_REQUIRE(!ReadsAhead<decltype(file.open())>);
  STATIC_REQUIRE(ReadsAhead<decltype(std::declval<typename World<TestType>::File&>().open())>);
}

TEMPLATE_TEST_CASE("content is loaded ahead once, for all files and parts that have it", "[load_ahead]", Heap) {
  using ContentId = typename TestType::ContentId;
  using Metadata = tarn::MetadataFor<TestType>;
  World<TestType> world{{16, 2}, 1};
  ContentId a{}, b{};
  a.bytes[0] = std::byte{1};
  b.bytes[0] = std::byte{2};
  world.store.memory.put_content(a, pattern(0, 32, 1));
  world.store.memory.put_content(b, pattern(0, 32, 2));
  world.file.reset();
  const std::vector parts{a, b, a};
  world.make(Metadata::from_content(8, 96, parts, {.part_bytes = world.P}));
  CHECK(world.load_ahead(0, 96) == 64);
  CHECK(world.store.open_loads() == 2);
  Reading<TestType> reading{world, 0, 96};
  world.finish_loads();
  CHECK(reading.got(pattern(0, 32, 1) + pattern(0, 32, 2) + pattern(0, 32, 1)));
  CHECK(world.store.memory.counts().loads == 2);
}

namespace {
/// A name of content, and what is done when it is looked for.
struct HeardId {
  std::uint64_t number = 0;
  bool operator==(const HeardId&) const = default;
  static inline std::function<void()> on_hash;
};
struct WithHeardId : Heap {
  using ContentId = HeardId;
};
}  // namespace
template <>
struct std::hash<HeardId> {
  std::size_t operator()(const HeardId& id) const noexcept {
    if (HeardId::on_hash) HeardId::on_hash();
    return static_cast<std::size_t>(id.number);
  }
};

TEST_CASE("chunks that were got for content are not loaded ahead uncounted once its record has no room",
          "[load_ahead]") {
  using Metadata = tarn::MetadataFor<WithHeardId>;
  World<WithHeardId> world{{4096, 1}, 1, 64 * KiB};
  const auto C = world.C;
  const std::vector<HeardId> parts{{1}, {2}, {3}};
  for (const auto id : parts) world.store.memory.put_content(id, pattern(0, C, id.number));
  world.file.reset();
  world.make(Metadata::from_content(8, 3 * C, parts, {.part_bytes = C}));
  CHECK(world.load_ahead(0, 2 * C) == 2 * C);
  world.finish_loads();  // clean, and can go

  auto& core = world.pool.core();
  auto& budget = core.budget;
  std::uint64_t taken_bytes = 0;
  const auto charged_bytes = budget.charged_bytes();
  HeardId::on_hash = [&] {  // in the look after the one that got a chunk, whose record has gone
    const bool has_chunk = core.counters.chunks_reserved.load() != 0;
    if (!has_chunk || budget.charged_bytes() != charged_bytes + C + core.chunk_own_bytes || taken_bytes != 0) return;
    taken_bytes = budget.limit_bytes() - budget.charged_bytes();
    REQUIRE(budget.try_charge(taken_bytes));
  };
  CHECK(world.load_ahead(2 * C, 3 * C) == 0);
  HeardId::on_hash = nullptr;
  CHECK(taken_bytes != 0);
  CHECK(world.store.open_loads() == 0);
  CHECK(core.counters.ahead_charge_bytes == 0);
  CHECK(world.pool.stats().evictions != 0);
  budget.release(taken_bytes);
  CHECK(world.load_ahead(2 * C, 3 * C) == C);
  world.finish_loads();
  CHECK(world.read_held(2 * C, C) == pattern(0, C, 3));
}

TEMPLATE_TEST_CASE("an opener that reads in order finds nearly all of it loaded, its own loads asked for first",
                   "[load_ahead]", EACH_STORAGE(Heap, Arena)) {
  World<TestType> world{{4096, 64}, 256};
  const auto C = world.C, end = 256 * C;
  auto open = world.file->open({.min_bytes = 2 * C, .max_bytes = 8 * C});
  std::size_t waited = 0;
  for (std::uint64_t at = 0; at < end; at += C) {
    Reading<TestType> reading{world, at, C};
    const bool asks = world.store.open_loads() != 0;
    if (asks) REQUIRE(world.open_loads() == Extents{{at, at + C}});
    open.read_ahead(at, C);
    if (asks) {
      auto token = world.store.take_load();
      CHECK(token.request().range == range(at, at + C));
      world.keep(std::move(token));
    }
    waited += reading.times == 0 ? 1 : 0;
    world.finish_loads();
    CHECK(reading.got(pattern(at, C)));
  }
  CHECK(waited == 1);
  CHECK(world.store.memory.counts().load_bytes == end);
  CHECK(world.pool.stats().load_ahead_bytes == end - C);
}

TEMPLATE_TEST_CASE("an opener that reads out of order, or one that tries, loads nothing ahead", "[load_ahead]", Heap) {
  World<TestType> world{{4096, 64}, 256};
  const auto C = world.C;
  auto open = world.file->open();
  for (const std::uint64_t at : {9u, 250u, 17u, 200u, 100u, 30u}) CHECK(open.read_ahead(at * C, C) == 0);
  std::string into(C, '?');
  for (std::uint64_t at = 0; at < 4 * C; at += C) CHECK(open->try_read(at, writable(into)).needs_load());
  CHECK(world.open_loads().empty());
  CHECK(open.read_ahead(UINT64_MAX, 2) == 0);
  CHECK(open.read_ahead(0, UINT64_MAX) == 0);
  auto off = world.file->open({.max_bytes = 0});
  for (std::uint64_t at = 0; at < 4 * C; at += C) CHECK(off.read_ahead(at, C) == 0);
  // Each opener has a place of its own, and takes it along.
  auto other = world.file->open({.min_bytes = C, .max_bytes = C});
  CHECK(other.read_ahead(0, C) == C);
  auto moved = std::move(other);
  CHECK(moved.read_ahead(C, C) == C);
  CHECK(world.open_loads() == Extents{{C, 3 * C}});
}

TEST_CASE("many threads read one open file ahead, and write it, over a store that errs: no byte is wrong",
          "[load_ahead]") {
  static constexpr std::uint64_t C = 256, chunks = 200;
  struct Tight : Usual {};
  ChaosStore<Tight> store{1, {.fails = 16, .hangs_after_ns_max = 50'000'000, .hangs_for_ns_max = 20'000'000}};
  store.put(0, pattern(0, chunks * C));
  std::atomic<std::uint64_t> wrong{0}, read_bytes{0}, asked_bytes{0};
  {
    tarn::ChunkPool<Tight> pool{pool_options<Tight>(C, 40 * C, 4)};
    tarn::DirtyFile file{pool, tarn::MetadataFor<Tight>::from_store(0, chunks * C, {.part_bytes = 8 * C}), store};
    auto open = file.open({.min_bytes = 2 * C, .max_bytes = 8 * C});
    {
      std::vector<Worker> readers;
      for (int i = 0; i < 3; ++i) {
        readers.emplace_back([&] {
          std::string into(C, '?');
          for (int turn = 0; turn < 3; ++turn) {
            for (std::uint64_t at = 0; at < chunks * C; at += C) {
              const auto n = file.read(at, writable(into));
              asked_bytes += open.read_ahead(at, C);
              if (!n) continue;  // the store's own
              read_bytes += *n;
              if (*n != C || into != pattern(at, C)) ++wrong;
            }
          }
        });
      }
      readers.emplace_back([&] {  // writes what is there, so that what is read is known
        ModelRandom random{7};
        for (int i = 0; i < 300; ++i) {
          const auto at = random.below(chunks) * C + random.below(C);
          const auto n = file.write(at, bytes_of(pattern(at, static_cast<std::size_t>(random.below(C - at % C) + 1))));
          if (!n && n.error() != std::errc::no_buffer_space) ++wrong;
        }
      });
      for (auto& reader : readers) reader.join();
    }
    store.calm();
    CHECK(file.flush());
    REQUIRE(store.wait_until_idle());
  }
  CHECK(wrong == 0);
  CHECK(read_bytes > 0);
  CHECK(asked_bytes > 0);
  CHECK(store.complaints() == "");
  CHECK(store.text(0) == pattern(0, chunks * C));
}
