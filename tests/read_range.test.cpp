// SPDX-License-Identifier: MIT
#include <tarn/read_range.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "support/brim.hpp"
#include "support/catch.hpp"
#include "support/one_file.hpp"

using namespace tarn_test;
using tarn::max_offset;

TEMPLATE_TEST_CASE("a read is shorter than asked only at the end of the file", "[read_range]",
                   EACH_STORAGE(Heap, Arena)) {
  OneFile<TestType> file{GENERATE(any_sizes())};
  REQUIRE(file.write(0, "hello world"));
  CHECK(file.read(0, 11) == "hello world");
  CHECK(file.read(3, 4) == "lo w");
  CHECK(file.read(6, 100) == "world");
  CHECK(file.read(10, 1) == "d");
  CHECK(file.read(11, 5).empty());
  CHECK(file.read(1000, 5).empty());
  CHECK(file.view(6, 100) == "world");
  CHECK(file.view(11, 5).empty());
}

TEMPLATE_TEST_CASE("a read of what is held ends at the size that it is told, whatever is held past it", "[read_range]",
                   EACH_STORAGE(Heap, Arena)) {
  OneFile<TestType> file{{.chunk_bytes = 16, .chunks_per_part = 1}};
  REQUIRE(file.write(0, pattern(0, 40)));
  const auto whole = std::exchange(file.meta, OneFile<TestType>::Metadata::from_store(file.id, 10));
  CHECK(file.read(0, 16) == pattern(0, 10));
  CHECK(file.read(9, 1) == pattern(9, 1));
  CHECK(file.read(10, 1).empty());
  CHECK(file.read(0, 40) == pattern(0, 10));
  CHECK(file.view(0, 16) == pattern(0, 10));
  CHECK(file.view(10, 6).empty());
  std::string into(16, '?');
  auto tried = tarn::try_read_range(file.pool, file.meta, 0, writable(into));
  CHECK((tried.done() && *tried == 10));
  file.meta = whole;
  CHECK(file.read(0, 50) == pattern(0, 40));
}

TEST_CASE("a read of a part that is no multiple of the chunk is EINVAL, held or not", "[read_range]") {
  OneFile<Heap> file{{.chunk_bytes = 16, .chunks_per_part = 1}};
  REQUIRE(file.write(0, pattern(0, 16)));
  const bool held = GENERATE(true, false);
  if (!held) REQUIRE(file.pool.drop(file.meta) == 16);
  const auto odd = OneFile<Heap>::Metadata::from_store(file.id, 16, {.part_bytes = 24});
  std::string into(16, '?');
  CHECK(tarn::read_range(file.pool, odd, 0, writable(into), file.store).error() == std::errc::invalid_argument);
  CHECK(tarn::read_range(file.pool, odd, 0, 16, file.store, [](tarn::ConstBuffers) {}).error() ==
        std::errc::invalid_argument);
  CHECK(tarn::try_read_range(file.pool, odd, 0, writable(into)).error() == std::errc::invalid_argument);
}

TEST_CASE("a visitor may return what can only be made, held or not", "[read_range]") {
  struct OnlyMade {
    const std::size_t bytes;
  };
  OneFile<Heap> file{{.chunk_bytes = 16, .chunks_per_part = 1}};
  REQUIRE(file.write(0, pattern(0, 16)));
  REQUIRE(file.truncate(32));
  const auto view = [](tarn::ConstBuffers bytes) { return OnlyMade{static_cast<std::size_t>(bytes.size_bytes())}; };
  CHECK(tarn::read_range(file.pool, file.meta, 0, 16, file.store, view)->bytes == 16);
  CHECK(tarn::read_range(file.pool, file.meta, 8, 16, file.store, view)->bytes == 16);
}

TEMPLATE_TEST_CASE("what chunks of a file hold is read while others have its record's mutex", "[read_range]",
                   EACH_STORAGE(Heap, Arena)) {
  OneFile<TestType> file{{.chunk_bytes = 16, .chunks_per_part = 1}};
  REQUIRE(file.write(0, pattern(0, 40)));
  const auto record = file.pool.core().registry.find(file.pool.core().file_key(file.id));
  REQUIRE(record);
  std::string copied, shown, tried(16, '?');
  const tarn::detail::MutexLock table{record->table_mutex};
  Worker reads{[&] {
    copied = file.read(3, 30);
    shown = file.view(3, 30);
    if (!tarn::try_read_range(file.pool, file.meta, 16, writable(tried)).done()) tried.clear();
  }};
  reads.join();
  CHECK(copied == pattern(3, 30));
  CHECK(shown == pattern(3, 30));
  CHECK(tried == pattern(16, 16));
}

TEMPLATE_TEST_CASE("an empty file reads empty, and one that was only grown reads zeros up to its size", "[read_range]",
                   EACH_STORAGE(Heap, Arena)) {
  OneFile<TestType> file{GENERATE(any_sizes())};
  CHECK(file.read(0, 10).empty());
  CHECK(file.view(0, 10).empty());
  const auto size = static_cast<std::size_t>(3 * file.C + 1);
  REQUIRE(file.truncate(size));
  CHECK(file.read(0, size + 10) == zeros(size));
  CHECK(file.view(0, size + 10) == zeros(size));
  CHECK(file.pool.stats().chunks_held == 0);
  CHECK(file.store.counts().loads == 0);
}

TEMPLATE_TEST_CASE("a stored file is read as it is stored, each byte loaded once", "[read_range]",
                   EACH_STORAGE(Heap, Arena)) {
  OneFile<TestType> file{GENERATE(any_sizes())};
  const auto size = static_cast<std::size_t>(9 * file.C + file.C / 2 + 1);
  file.become_stored(size);
  CHECK(file.read(0, size + 5) == pattern(0, size));
  CHECK(file.store.counts().load_bytes == size);
  const auto loads = file.store.counts().loads;
  CHECK(file.read(0, size + 5) == pattern(0, size));
  CHECK(file.view(0, size) == pattern(0, size));
  CHECK(file.store.counts().loads == loads);
  CHECK(file.dirty().empty());
  CHECK(file.meta.state() == tarn::FileState::clean);
}

TEMPLATE_TEST_CASE("a read across any border loads what it lacks and nothing else", "[read_range]",
                   EACH_STORAGE(Heap, Arena)) {
  OneFile<TestType> file{GENERATE(any_sizes())};
  const auto C = file.C;
  const auto size = 9 * C;
  file.become_stored(size);
  for (const auto border : {C, 2 * C, 4 * C, 5 * C}) {
    const auto offset = border - 1;
    const auto n = static_cast<std::size_t>(std::min<std::uint64_t>(C + 2, size - offset));
    file.pool.evict_clean();
    const auto before = file.store.counts().load_bytes;
    CHECK(file.read(offset, n) == pattern(offset, n));
    CHECK(file.store.counts().load_bytes - before == n);
    CHECK(file.held() == Extents{{offset, offset + n}});
  }
}

TEMPLATE_TEST_CASE("a stored file overwritten at its head reads new, then old", "[read_range]",
                   EACH_STORAGE(Heap, Arena)) {
  OneFile<TestType> file{GENERATE(any_sizes())};
  const auto size = static_cast<std::size_t>(3 * file.C + 7);
  file.become_stored(size);
  REQUIRE(file.write(0, "new"));
  const auto expected = "new" + pattern(3, size - 3);
  SECTION("copied") { CHECK(file.read_all() == expected); }
  SECTION("viewed") { CHECK(file.view(0, size) == expected); }
  SECTION("loaded before it was written") {
    CHECK(file.read(0, size) == expected);
    REQUIRE(file.write(size - 2, "NEW"));
    CHECK(file.read_all() == expected.substr(0, size - 2) + "NEW");
  }
  CHECK(file.store.counts().load_bytes == size - 3);
}

TEMPLATE_TEST_CASE("a load fills only what is missing between bytes that were written", "[read_range]",
                   EACH_STORAGE(Heap, Arena)) {
  OneFile<TestType> file{{.chunk_bytes = 4096, .chunks_per_part = 4}};
  file.become_stored(4096);
  auto expected = pattern(0, 4096);
  for (std::size_t at = 100; at < 4000; at += 300) {
    REQUIRE(file.write(at, "written"));
    expected.replace(at, 7, "written");
  }
  CHECK(file.read(0, 4096) == expected);
  CHECK(file.store.counts().load_bytes == 4096 - 13 * 7);
  CHECK(file.pool.stats().dirty_bytes == 13 * 7);
  CHECK(file.held() == Extents{{0, 4096}});
}

TEMPLATE_TEST_CASE("a read returns every byte of chunks that leave the pool beneath it", "[read_range]",
                   EACH_STORAGE(Heap, Arena)) {
  // Every chunk loaded pushes out one that was loaded before; every window of the read finds others gone.
  OneFile<TestType> file{{.chunk_bytes = 4096, .chunks_per_part = 4}, 0};
  const std::size_t size = 8 * MiB;
  file.become_stored(size);
  CHECK(file.read(0, size) == pattern(0, size));
  CHECK(file.read(0, size) == pattern(0, size));
  CHECK(file.pool.stats().evictions > 0);
  CHECK(file.pool.stats().charged_bytes <= file.pool.budget_bytes());
}

TEMPLATE_TEST_CASE("no chunk leaves the pool while a view shows it", "[read_range]", EACH_STORAGE(Heap, Arena)) {
  OneFile<TestType> file{GENERATE(any_sizes())};
  const auto size = static_cast<std::size_t>(2 * file.C);  // a window, and one chunk more in the pool
  file.become_stored(size + file.C);
  REQUIRE(file.read_all() == pattern(0, size + file.C));
  std::size_t evicted = 0;
  std::string seen(size, '?');
  const auto viewed = tarn::read_range(file.pool, file.meta, 0, size, file.store, [&](tarn::ConstBuffers bytes) {
    Worker{[&] { evicted = file.pool.evict_clean(); }}.join();
    return bytes.copy_to(writable(seen));
  });
  REQUIRE(viewed);
  CHECK(*viewed == size);
  CHECK(evicted == 1);
  CHECK(seen == pattern(0, size));
  CHECK(file.pool.evict_clean() == 2);
}

TEMPLATE_TEST_CASE("with no chunk to be had a read is served from the store, uncached", "[read_range]",
                   EACH_STORAGE(Heap, Arena)) {
  OneFile<TestType> file{{.chunk_bytes = 4096, .chunks_per_part = 4}, 0};
  auto stored = OneFile<TestType>::Metadata::from_store(8, 40000, {.part_bytes = file.P});
  file.store.put_pattern(8, 40000, 8);
  const auto dirty = file.write(0, pattern(0, 64 * MiB));  // fills the pool with what cannot go
  REQUIRE(dirty);
  std::string into(40000, '?');
  const auto n = tarn::read_range(file.pool, stored, 0, writable(into), file.store);
  REQUIRE(n);
  CHECK(*n == 40000);
  CHECK(into == pattern(0, 40000, 8));
  CHECK(file.pool.stats().loads_uncached > 0);
  CHECK_FALSE(file.pool.contains(stored, 0));

  const auto view = tarn::read_range(file.pool, stored, 0, 4096, file.store, [](tarn::ConstBuffers) { return 0; });
  CHECK(view.error() == std::errc::no_buffer_space);
  CHECK(file.read(0, *dirty) == pattern(0, *dirty));  // and all that is dirty is still there
}

TEMPLATE_TEST_CASE("a file of zeros is read end to end without a byte of memory", "[read_range]",
                   EACH_STORAGE(Heap, Arena)) {
  const auto C = GENERATE(std::uint64_t{4096}, std::uint64_t{65536});
  OneFile<TestType> file{{.chunk_bytes = C, .chunks_per_part = 4}};
  REQUIRE(file.truncate(64 * MiB));
  const auto charged = file.pool.stats().charged_bytes;
  std::string into(1 * MiB, '?');
  std::size_t wrong = 0;
  for (std::uint64_t at = 0; at < 64 * MiB; at += into.size()) {
    into.assign(into.size(), '?');
    const auto n = tarn::read_range(file.pool, file.meta, at, writable(into), file.store);
    wrong += n && *n == into.size() && into == zeros(into.size()) ? 0u : 1u;
  }
  CHECK(wrong == 0);
  CHECK(file.pool.stats().charged_bytes == charged);
  CHECK(file.pool.stats().chunks_held == 0);
}

TEMPLATE_TEST_CASE("a view is of the chunks' own memory, holes are of the zero area", "[read_range]",
                   EACH_STORAGE(Heap, Arena)) {
  OneFile<TestType> file{{.chunk_bytes = 16, .chunks_per_part = 4}};
  REQUIRE(file.write(3, "abc"));
  REQUIRE(file.write(20, "xyz"));
  REQUIRE(file.truncate(32));
  const std::byte* memory = nullptr;
  const auto pin = file.pool.pin(file.meta, 0);
  REQUIRE(pin);
  REQUIRE(pin->with_data(range(3, 6), [&](std::span<const std::byte> bytes) { memory = bytes.data(); }));

  const auto holes = tarn::read_range(file.pool, file.meta, 0, 32, file.store, [&](tarn::ConstBuffers bytes) {
    std::vector<std::pair<std::size_t, bool>> pieces;
    for (std::size_t i = 0; i < bytes.count(); ++i) pieces.emplace_back(bytes[i].size(), bytes.is_zero(i));
    if (bytes[1].data() != memory) pieces.clear();
    return pieces;
  });
  REQUIRE(holes);
  CHECK(*holes == std::vector<std::pair<std::size_t, bool>>{{3, true}, {3, false}, {14, true}, {3, false}, {9, true}});
}

TEMPLATE_TEST_CASE("a view is called once if there is an answer, and not at all if there is none", "[read_range]",
                   EACH_STORAGE(Heap, Arena)) {
  OneFile<TestType> file{GENERATE(any_sizes())};
  file.become_stored(3 * file.C);
  int calls = 0;
  const auto view = [&](std::uint64_t offset, std::uint64_t size) {
    calls = 0;
    return tarn::read_range(file.pool, file.meta, offset, size, file.store, [&](tarn::ConstBuffers) { ++calls; });
  };
  CHECK(view(0, file.C));
  CHECK(calls == 1);
  CHECK(view(3 * file.C, 1));  // at the end: an empty view
  CHECK(calls == 1);
  CHECK(view(0, 0));
  CHECK(calls == 1);
  CHECK(view(0, file.pool.window_bytes() + 1).error() == std::errc::message_size);
  CHECK(calls == 0);
  CHECK(view(max_offset, 1).error() == std::errc::value_too_large);
  CHECK(calls == 0);
  file.pool.evict_clean();
  file.store.fail_next(MemoryStore<TestType>::Call::load, 1, std::errc::io_error);
  CHECK(view(0, file.C).error() == std::errc::io_error);
  CHECK(calls == 0);
}

TEMPLATE_TEST_CASE("a view that throws gives everything back", "[read_range]", EACH_STORAGE(Heap, Arena)) {
  OneFile<TestType> file{GENERATE(any_sizes())};
  REQUIRE(file.write(0, "hello"));
  const auto throws = [](tarn::ConstBuffers) -> int { throw std::runtime_error{"no"}; };
  CHECK_THROWS_AS(tarn::read_range(file.pool, file.meta, 0, 1, file.store, throws), std::runtime_error);
  CHECK(file.write(0, "HELLO").value() == 5);  // the latch is free
  CHECK(file.read_all() == "HELLO");
}

TEMPLATE_TEST_CASE("a view takes a window at most, and a window is never larger than was asked for", "[read_range]",
                   EACH_STORAGE(Heap, Arena)) {
  const auto chunks = GENERATE(std::uint64_t{1}, std::uint64_t{2}, std::uint64_t{7});
  tarn::ChunkPool<TestType> pool{pool_options<TestType>(16, 4 * MiB, chunks)};
  CHECK(pool.window_bytes() == 16 * chunks);
}

TEMPLATE_TEST_CASE("a window below a chunk is one chunk, and no budget makes it less", "[read_range]",
                   EACH_STORAGE(Heap, Arena)) {
  tarn::PoolOptions options{.chunk_bytes = 4096, .window_bytes = 1};
  options.budget_bytes = tarn::ChunkPool<TestType>::min_budget_bytes(options);
  CHECK(tarn::ChunkPool<TestType>{options}.window_bytes() == 4096);
  options.window_bytes = GiB;
  const auto window_bytes = tarn::ChunkPool<TestType>{options}.window_bytes();
  CHECK(window_bytes >= 4096);
  CHECK(window_bytes <= options.budget_bytes / 4);
}

TEMPLATE_TEST_CASE("a try gives what is held, says what must be loaded, and never loads", "[read_range]",
                   EACH_STORAGE(Heap, Arena)) {
  OneFile<TestType> file{GENERATE(any_sizes())};
  const auto C = file.C;
  file.become_stored(2 * C + 5);
  std::string into(static_cast<std::size_t>(2 * C), '?');
  const auto attempt = [&](std::uint64_t offset, std::uint64_t size) {
    into.assign(static_cast<std::size_t>(size), '?');
    return tarn::try_read_range(file.pool, file.meta, offset, writable(into));
  };

  auto miss = attempt(0, C);
  CHECK_FALSE(miss.done());
  CHECK(miss.needs_load());
  CHECK_FALSE(miss.busy());
  CHECK(extents_of(miss.missing()) == Extents{{0, C}});
  CHECK(file.store.counts().loads == 0);

  REQUIRE(file.read(0, static_cast<std::size_t>(C)) == pattern(0, static_cast<std::size_t>(C)));
  auto hit = attempt(0, C);
  REQUIRE(hit.done());
  CHECK(*hit == C);
  CHECK(into == pattern(0, static_cast<std::size_t>(C)));

  REQUIRE(file.write(C, "x"));
  auto partly = attempt(0, 2 * C);
  CHECK(partly.done() == (C == 1));
  if (C != 1) CHECK(extents_of(partly.missing()) == Extents{{C + 1, 2 * C}});

  auto past = attempt(2 * C + 5, 10);
  REQUIRE(past.done());
  CHECK(*past == 0);

  REQUIRE(file.truncate(4 * C + 9));
  auto hole = attempt(2 * C + 5, 3);
  REQUIRE(hole.done());
  CHECK(*hole == 3);
  CHECK(into == zeros(3));
}

TEMPLATE_TEST_CASE("a try at a latched chunk says busy", "[read_range]", EACH_STORAGE(Heap, Arena)) {
  OneFile<TestType> file{GENERATE(any_sizes())};
  REQUIRE(file.write(0, "hello"));
  std::optional<bool> busy, needs_load;
  // The filler runs under the exclusive latch; a second thread tries meanwhile.
  const auto written = tarn::write_range(file.pool, file.meta, 0, 1, [&](tarn::MutableBuffers into) {
    const auto still = file.meta;
    Worker{[&] {
      std::string mine(1, '?');
      const auto outcome = tarn::try_read_range(file.pool, still, 0, writable(mine));
      busy = outcome.busy();
      needs_load = outcome.needs_load();
    }}.join();
    return into.copy_from(bytes_of("H"));
  });
  REQUIRE(written);
  CHECK(busy == true);
  CHECK(needs_load == false);
  CHECK(file.read_all() == "Hello");
}

TEMPLATE_TEST_CASE("a read that fails in a later window fails: short always means the end of the file", "[read_range]",
                   EACH_STORAGE(Heap, Arena)) {
  OneFile<TestType> file{GENERATE(any_sizes())};
  const auto window = static_cast<std::size_t>(file.pool.window_bytes());
  file.become_stored(3 * window);
  REQUIRE(file.read(0, window) == pattern(0, window));
  file.store.fail_next(MemoryStore<TestType>::Call::load, 1, std::errc::io_error);
  CHECK(file.read(0, 3 * window) == "error: Input/output error");
  CHECK(file.read(0, 3 * window) == pattern(0, 3 * window));  // the next try starts fresh
}

TEMPLATE_TEST_CASE("two readers of the same missing bytes cause one load", "[read_range]", EACH_STORAGE(Heap, Arena)) {
  OneFile<TestType> file{{.chunk_bytes = 4096, .chunks_per_part = 4}};
  file.become_stored(10000);
  file.store.load_gate.close();
  std::string first, second;
  {
    Worker one{file.store.load_gate, [&] { first = file.read(0, 8192); }};
    REQUIRE(file.store.load_gate.wait_for_arrivals(1));
    Worker other{file.store.load_gate, [&] { second = file.read(4096, 4096); }};
    REQUIRE(wait_until([&] { return file.pool.stats().load_waits != 0; }));  // it has found them and waits
    file.store.load_gate.open();
  }
  CHECK(first == pattern(0, 8192));
  CHECK(second == pattern(4096, 4096));
  CHECK(file.store.counts().loads == 1);
}

TEMPLATE_TEST_CASE("N readers that each need two chunks and only N are left all finish", "[read_range]",
                   EACH_STORAGE(Heap, Arena)) {
  // Windows of two chunks; chunks of 1 MiB, so that an arena's slabs are as scarce as a heap's chunks.
  OneFile<TestType> file{{.chunk_bytes = 1 * MiB, .chunks_per_part = 1}, 2 * 4096};
  constexpr std::size_t readers = 4;
  const std::size_t size = 2 * MiB;
  file.become_stored(readers * size);
  std::vector<std::string> seen(readers);
  for (int round = 0; round < 3; ++round) {
    file.pool.evict_clean();
    file.store.load_gate.close();
    {
      std::vector<Worker> workers;
      for (std::size_t i = 0; i < readers; ++i) {
        workers.emplace_back(file.store.load_gate, [&, i] { seen[i] = file.read(i * size, size); });
      }
      REQUIRE(file.store.load_gate.wait_for_arrivals(2));  // chunks in use, and not enough for the others
      file.store.load_gate.open();
    }
    for (std::size_t i = 0; i < readers; ++i) CHECK((seen[i] == pattern(i * size, size)));
  }
}

TEMPLATE_TEST_CASE("a reused chunk shows no byte of its last owner", "[read_range]", EACH_STORAGE(Heap, Arena)) {
  OneFile<TestType> file{GENERATE(any_sizes())};
  const auto C = static_cast<std::size_t>(file.C);
  auto other = OneFile<TestType>::Metadata::created(8, {.part_bytes = file.P});
  REQUIRE(tarn::write_range(file.pool, other, 0, bytes_of(std::string(4 * C, 'S'))));  // a secret
  CHECK(file.pool.drop(other) == 4 * C);

  REQUIRE(file.write(C / 2, "x"));
  REQUIRE(file.truncate(4 * C));
  auto expected = zeros(4 * C);
  expected[C / 2] = 'x';
  CHECK(file.read_all() == expected);
  CHECK(file.view(0, 4 * C) == expected);
  const auto pin = file.pool.pin(file.meta, 0);
  REQUIRE(pin);
  const auto whole = pin->with_data([](std::span<const std::byte> bytes) { return text_of(bytes); });
  if (C == 1) {
    CHECK(*whole == "x");
  } else {
    CHECK(whole.error() == std::errc::no_message_available);
  }
  REQUIRE(file.flush());
  CHECK(file.store.text(file.id) == expected);
}

TEMPLATE_TEST_CASE("a zero-length read is 0 anywhere, one past the largest offset EOVERFLOW, one without memory EINVAL",
                   "[read_range]", EACH_STORAGE(Heap, Arena)) {
  OneFile<TestType> file{GENERATE(any_sizes())};
  REQUIRE(file.write(0, "hello"));
  for (const auto offset : {std::uint64_t{0}, std::uint64_t{5}, file.C, 3 * file.C, max_offset}) {
    CHECK(file.read(offset, 0).empty());
    auto outcome = tarn::try_read_range(file.pool, file.meta, offset, std::span<std::byte>{});
    REQUIRE(outcome.done());
    CHECK(*outcome == 0);
  }
  std::string into(10, '?');
  const auto error_at = [&](std::uint64_t offset) {
    return tarn::read_range(file.pool, file.meta, offset, writable(into), file.store).error();
  };
  CHECK(error_at((std::uint64_t{1} << 63) - 4) == std::errc::value_too_large);
  CHECK(error_at(std::uint64_t{1} << 63) == std::errc::value_too_large);
  CHECK(error_at(~std::uint64_t{0}) == std::errc::value_too_large);
  CHECK(tarn::try_read_range(file.pool, file.meta, max_offset, writable(into)).error() == std::errc::value_too_large);
  const std::span<std::byte> null{static_cast<std::byte*>(nullptr), 5};
  CHECK(tarn::read_range(file.pool, file.meta, 0, null, file.store).error() == std::errc::invalid_argument);
  CHECK(tarn::try_read_range(file.pool, file.meta, 0, null).error() == std::errc::invalid_argument);
  CHECK(into == "??????????");
}

TEMPLATE_TEST_CASE("parts of 256 MiB: borders are crossed, also under a small budget", "[read_range]",
                   EACH_STORAGE(Heap, Arena)) {
  constexpr std::uint64_t P = 256 * MiB, size = P + 4 * MiB;
  const bool roomy = GENERATE(true, false);
  const auto budget = roomy ? 64 * MiB : 8 * MiB;
  const std::uint64_t C = roomy ? 65536 : 4096;
  tarn::ChunkPool<TestType> pool{{.budget_bytes = budget, .chunk_bytes = C}};
  MemoryStore<TestType> store;
  store.put_pattern(1, size);
  store.expect_parts_of(P);
  auto meta = OneFile<TestType>::Metadata::from_store(1, size, {.part_bytes = P});
  std::string into(1 * MiB, '?');
  const auto read = [&](std::uint64_t offset, std::size_t n) {
    std::string text(n, '?');
    const auto got = tarn::read_range(pool, meta, offset, writable(text), store);
    text.resize(got ? *got : 0);
    return text;
  };
  const auto write = [&](std::uint64_t offset, std::string_view text) {
    const auto n = tarn::write_range(pool, meta, offset, bytes_of(text));
    return n && *n == text.size();
  };
  std::size_t wrong = 0, wrong_bytes = 0;
  // About the border all, and of the rest of the part every eighth MiB: more than the small budget holds.
  for (std::uint64_t at = 0; at < size; at += (at < P - 8 * MiB ? 8 : 1) * into.size()) {
    std::fill(into.begin(), into.end(), '?');
    const auto n = tarn::read_range(pool, meta, at, writable(into), store);
    if (!n || *n != into.size()) ++wrong;
    for (std::size_t i = 0; i < into.size(); ++i) wrong_bytes += into[i] != pattern_at(at + i) ? 1u : 0u;
  }
  CHECK(wrong == 0);
  CHECK(wrong_bytes == 0);
  CHECK(read(P - 100, 200) == pattern(P - 100, 200));
  CHECK(read(size - 10, 100) == pattern(size - 10, 10));

  REQUIRE(write(P - 11, "the twenty-two bytes!!"));
  CHECK(read(P - 20, 20) == pattern(P - 20, 9) + "the twenty-");
  CHECK(read(P, 20) == "two bytes!!" + pattern(P + 11, 9));
  REQUIRE(write(P - 4, "overlaps"));
  CHECK(read(P - 11, 22) == "the twe" + std::string{"overlaps"} + "bytes!!");

  REQUIRE(tarn::flush(pool, meta, store));
  CHECK(store.text(1, P - 11, 22) == "the tweoverlapsbytes!!");
  CHECK(store.text(1, P - 20, 9) == pattern(P - 20, 9));

  REQUIRE(tarn::truncate(pool, meta, 200 * MiB));
  CHECK(read(200 * MiB, 10).empty());
  CHECK(read(200 * MiB - 5, 10) == pattern(200 * MiB - 5, 5));
  REQUIRE(tarn::truncate(pool, meta, 300 * MiB));
  CHECK(read(200 * MiB - 5, 10) == pattern(200 * MiB - 5, 5) + zeros(5));
  CHECK(read(P - 11, 22) == zeros(22));
  CHECK(read(300 * MiB - 5, 10) == zeros(5));

  REQUIRE(write(310 * MiB, "far"));
  CHECK(meta.size() == 310 * MiB + 3);
  CHECK(read(300 * MiB - 5, 10) == zeros(10));
  CHECK(read(310 * MiB - 5, 10) == zeros(5) + "far");
  REQUIRE(tarn::flush(pool, meta, store));
  CHECK(store.text(1, 200 * MiB - 5, 10) == pattern(200 * MiB - 5, 5) + zeros(5));
  CHECK(store.text(1, 310 * MiB - 5, 10) == zeros(5) + "far");

  meta.note_deleted();
  REQUIRE(tarn::flush(pool, meta, store));
  CHECK_FALSE(store.has(1));
  pool.drop(meta);
  pool.evict_clean();
  CHECK(pool.stats().charged_bytes == 0);
  CHECK(store.complaints() == "");
}

TEST_CASE("a file for whose record there is no room is ENOBUFS, and what is clean makes that room", "[read_range]") {
  OneFile<Usual> file{{.chunk_bytes = 4096, .chunks_per_part = 1}};
  file.become_stored(4096);
  const auto other = OneFile<Usual>::Metadata::created(8, {.part_bytes = file.P});
  std::string into(1, '?');
  const auto read_other = [&] { return tarn::read_range(file.pool, other, 0, writable(into), file.store); };
  {
    const Brim full{file.pool};
    CHECK(read_other().error() == std::errc::no_buffer_space);
  }
  REQUIRE(file.read_all() == pattern(0, 4096));
  {
    const Brim full{file.pool};
    CHECK(read_other().value() == 0);
    CHECK(file.pool.stats().evictions == 1);
  }
  CHECK(file.read_all() == pattern(0, 4096));
}

TEST_CASE("parts of equal content in one window are loaded once, and take the room of one", "[read_range]") {
  constexpr std::uint64_t C = 65536, parts = 4;
  tarn::ChunkPool<Heap> pool{pool_options<Heap>(C, 64 * C, parts)};
  MemoryStore<Heap> store;
  const tarn::Digest<16> same{.bytes = {std::byte{1}}};
  store.put_content(same, pattern(0, C));
  const auto meta = tarn::MetadataFor<Heap>::from_content(1, parts * C, std::vector(parts, same), {.part_bytes = C});
  const Brim one_is_left{pool, C + 8192};
  const auto shown =
      tarn::read_range(pool, meta, 0, parts * C, store, [](tarn::ConstBuffers bytes) { return bytes.size_bytes(); });
  REQUIRE(shown);
  CHECK(*shown == parts * C);
  CHECK(store.counts().loads == 1);
  CHECK(pool.stats().chunks_held == 1);
}
