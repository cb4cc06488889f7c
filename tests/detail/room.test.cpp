// SPDX-License-Identifier: MIT
#include <tarn/detail/room.hpp>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <stop_token>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include <tarn/dirty_file_async.hpp>
#include <tarn/testing/gate.hpp>
#include <tarn/testing/later_store.hpp>

#include "support/brim.hpp"
#include "support/catch.hpp"
#include "support/one_file.hpp"
#include "support/side_by_side_store.hpp"

using namespace tarn_test;

namespace {

constexpr std::uint64_t C = 4096;
const auto full_disk = std::make_error_code(std::errc::no_space_on_device);

/// Files over one store that answers when told, in a pool with marks.
struct Files {
  using Store = LaterStore<Heap>;
  using File = tarn::DirtyFile<Heap, Store>;

  explicit Files(std::size_t count, std::uint64_t more_chunks, const tarn::PoolOptions& marks = {})
      : pool{options(more_chunks, marks)} {
    for (std::size_t i = 0; i < count; ++i) {
      files.push_back(std::make_unique<File>(pool, tarn::DirtyFileMetadata::created(i), store));
    }
  }
  ~Files() {
    store.answer_at_once();
    while (store.open_flushes() != 0) store.finish_flush();
    for (auto& file : files) CHECK(file->flush());
    CHECK(store.memory.complaints() == "");
    files.clear();
    pool.evict_clean();
    CHECK(pool.stats().charged_bytes == 0);
  }
  static tarn::PoolOptions options(std::uint64_t more_chunks, tarn::PoolOptions marks) {
    auto made = pool_options<Heap>(C, more_chunks * C);
    marks.budget_bytes = made.budget_bytes;
    marks.chunk_bytes = C;
    marks.window_bytes = made.window_bytes;
    return marks;
  }
  [[nodiscard]] std::uint64_t dirty_memory_bytes() const { return pool.stats().chunks_dirty * C; }

  tarn::ChunkPool<Heap> pool;
  Store store;
  std::vector<std::unique_ptr<File>> files;
};

}  // namespace

TEST_CASE("those who wait for room get it in the order in which they came", "[room]") {
  Files world{1, 4};
  auto& file = *world.files[0];
  const std::string chunk(C, 'x');
  std::uint64_t at = 0;
  while (file.try_write(at, bytes_of(chunk))) at += C;
  // The first needs twice as much as each of the others, which could be content with what it finds too little.
  constexpr int count = 5;
  std::vector<int> order;
  const auto ends = [&](int who) {
    return [&order, who](const tarn::Result<tarn::Written>& n) {
      if (n) order.push_back(who);
    };
  };
  const std::string two_chunks(2 * C, 'y');
  using Op = decltype(tarn::write_operation(file, 0, bytes_of(chunk), ends(0)));
  struct Holder {
    Op op;
  };
  std::vector<std::unique_ptr<Holder>> writes;
  for (int i = 0; i < count; ++i) {
    writes.emplace_back(new Holder{tarn::write_operation(file, at + static_cast<std::uint64_t>(2 * i) * C,
                                                         bytes_of(i == 0 ? two_chunks : chunk), ends(i))});
    writes.back()->op.start();
  }
  CHECK(order.empty());
  // Who would not wait may take what nobody else has taken, but here there is nothing.
  CHECK(file.try_write(at, bytes_of(chunk)).error() == std::errc::resource_unavailable_try_again);
  while (order.size() < count) {
    REQUIRE(world.store.open_flushes() != 0);
    world.store.finish_flush();
  }
  CHECK(order == std::vector<int>{0, 1, 2, 3, 4});
}

namespace {

/// A write that waits for room while each flush fails; `reads`: others read what is held meanwhile, which wakes it.
/// Returns: how many flushes have failed when it ended with ENOBUFS; 10 if it did not.
int failures_till_refused(bool reads) {
  Files world{1, 4};
  auto& file = *world.files[0];
  const std::string chunk(C, 'x');
  std::uint64_t at = 0;
  while (file.try_write(at, bytes_of(chunk))) at += C;
  std::error_code why;
  auto write =
      tarn::write_operation(file, at, bytes_of(chunk), [&](const tarn::Result<tarn::Written>& n) { why = n.error(); });
  write.start();
  int failures = 0;
  for (std::string into(C, '?'); !why && failures < 10; ++failures) {
    REQUIRE(world.store.open_flushes() == 1);
    if (reads) REQUIRE(file.try_read(0, writable(into)).done());
    if (reads) REQUIRE(file.try_read(C, writable(into)).done());
    world.store.take_flush().complete(tarn::FlushOutcome<Heap>::failed(full_disk));
  }
  write.cancel();
  CHECK(why == std::errc::no_buffer_space);
  return failures;
}

}  // namespace

TEST_CASE("a write that no flush makes room for ends as soon, whoever wakes it meanwhile", "[room]") {
  const auto failures = failures_till_refused(false);
  CHECK(failures < 6);
  CHECK(failures_till_refused(true) == failures);
}

TEST_CASE("writes that no flush makes room for all end, whoever has begun the flush that failed", "[room]") {
  Files world{2, 4, {.dirty_limit_bytes = 8 * C, .file_dirty_limit_bytes = 5 * C}};
  auto &one = *world.files[0], &two = *world.files[1];
  const std::string chunk(C, 'x');
  for (std::uint64_t at = 0; at < 3 * C; at += C) REQUIRE(two.try_write(at, bytes_of(chunk)));
  for (std::uint64_t at = 0; at < 5 * C; at += C) REQUIRE(one.try_write(at, bytes_of(chunk)));
  std::vector<std::error_code> ends;
  const auto done = [&](const tarn::Result<tarn::Written>& n) { ends.push_back(n.error()); };
  // Each begins a flush when the others' are in flight, and finds those in flight when its own has failed.
  auto first = tarn::write_operation(one, 5 * C, bytes_of(chunk), done);
  auto second = tarn::write_operation(two, 3 * C, bytes_of(chunk), done);
  auto third = tarn::write_operation(one, 6 * C, bytes_of(chunk), done);
  first.start();
  second.start();
  third.start();
  for (int failures = 0; ends.size() < 3 && failures < 20; ++failures) {
    REQUIRE(world.store.open_flushes() != 0);
    world.store.take_flush().complete(tarn::FlushOutcome<Heap>::failed(full_disk));
  }
  CHECK(ends == std::vector(3, std::make_error_code(std::errc::no_buffer_space)));
  first.cancel();
  second.cancel();
  third.cancel();
}

namespace {

/// Files of two dirty chunks each, in a pool that takes no more, and a write to one beside them, which waits.
struct FullOfFiles {
  Files world;
  const std::string chunk = std::string(C, 'x');
  std::optional<std::error_code> end;
  std::function<void(const tarn::Result<tarn::Written>&)> done = [this](const auto& n) { end = n.error(); };

  explicit FullOfFiles(std::size_t count) : world{count + 1, 32, {.dirty_limit_bytes = 2 * count * C}} {
    for (std::size_t i = 0; i < count; ++i) {
      for (const auto at : {std::uint64_t{0}, C}) REQUIRE(world.files[i]->try_write(at, bytes_of(chunk)));
    }
  }
  static void fail(tarn::FlushToken<Heap> token) { token.complete(tarn::FlushOutcome<Heap>::failed(full_disk)); }
  void store_all() {
    while (world.store.open_flushes() != 0) world.store.finish_flush();
  }
};

}  // namespace

TEST_CASE("a write does not give up while a file is flushed that has not failed", "[room]") {
  FullOfFiles full{7};
  auto write = tarn::write_operation(*full.world.files[7], 0, bytes_of(full.chunk), full.done);
  write.start();
  for (std::uint64_t bad = 0; bad < 5; ++bad) {  // each of them once
    auto token = full.world.store.take_flush();
    REQUIRE(*token.request().file == bad);
    full.fail(std::move(token));
  }
  CHECK_FALSE(full.end);
  full.store_all();
  REQUIRE(full.end);
  CHECK_FALSE(*full.end);
  write.cancel();
}

TEST_CASE("a write whose own flushes fail waits for one in flight, and begins no more", "[room]") {
  FullOfFiles full{5};
  auto write = tarn::write_operation(*full.world.files[5], 0, bytes_of(full.chunk), full.done);
  write.start();
  std::vector<tarn::FlushToken<Heap>> good;
  int failures = 0;
  while (full.world.store.open_flushes() != 0 && failures < 100) {
    auto token = full.world.store.take_flush();
    if (*token.request().file == 4) {
      good.push_back(std::move(token));
    } else {
      ++failures;
      full.fail(std::move(token));
    }
  }
  CHECK(failures < 10);
  std::string into(C, '?');
  for (const auto at : {std::uint64_t{0}, C}) {  // which wakes it
    REQUIRE(full.world.files[0]->try_read(at, writable(into)).done());
  }
  CHECK(full.world.store.open_flushes() == 0);
  REQUIRE(good.size() == 1);
  CHECK_FALSE(full.end);
  good.front().complete(full.world.store.memory.flush(good.front().request()));
  REQUIRE(full.end);
  CHECK_FALSE(*full.end);
  write.cancel();
}

TEST_CASE("failures of flushes that others asked for end no write whose own are in flight", "[room]") {
  FullOfFiles full{10};
  std::vector<tarn::FlushToken<Heap>> others;
  for (std::size_t i = 0; i < 5; ++i) {
    tarn::start_flush(*full.world.files[i], [](const tarn::Result<std::uint64_t>&) {});
    others.push_back(full.world.store.take_flush());
  }
  auto write = tarn::write_operation(*full.world.files[10], 0, bytes_of(full.chunk), full.done);
  write.start();
  for (auto& token : others) full.fail(std::move(token));
  CHECK_FALSE(full.end);
  full.store_all();
  REQUIRE(full.end);
  CHECK_FALSE(*full.end);
  write.cancel();
}

TEST_CASE("who gives up its place in the queue lets the next one have it", "[room]") {
  Files world{1, 4};
  auto& file = *world.files[0];
  const std::string chunk(C, 'x');
  std::uint64_t at = 0;
  while (file.try_write(at, bytes_of(chunk))) at += C;
  std::optional<std::error_code> first;
  std::optional<std::size_t> second;
  auto one = tarn::write_operation(file, at, bytes_of(chunk),
                                   [&](const tarn::Result<tarn::Written>& n) { first = n.error(); });
  auto two = tarn::write_operation(file, at + C, bytes_of(chunk), [&](const tarn::Result<tarn::Written>& n) {
    if (n) second = n->size_bytes;
  });
  one.start();
  two.start();
  one.cancel();
  CHECK(*first == std::errc::operation_canceled);
  while (!second) {
    REQUIRE(world.store.open_flushes() != 0);
    world.store.finish_flush();
  }
  CHECK(*second == C);
}

TEST_CASE("who waits for room holds none of it: what is too little for it serves who needs less", "[room]") {
  Files world{1, 4};
  auto& file = *world.files[0];
  const std::string chunk(C, 'x');
  std::uint64_t at = 0;
  while (file.try_write(at, bytes_of(chunk))) at += C;
  REQUIRE(file.truncate(at - C));  // room for one chunk
  std::optional<std::size_t> written;
  const std::string two_chunks(2 * C, 'y');
  auto write = tarn::write_operation(file, at, bytes_of(two_chunks),
                                     [&](const tarn::Result<tarn::Written>& n) { written = n ? n->size_bytes : 0; });
  write.start();
  CHECK_FALSE(written);
  CHECK(file.try_write(at - C, bytes_of(chunk)));
  while (!written) {
    REQUIRE(world.store.open_flushes() != 0);
    world.store.finish_flush();
  }
  CHECK(written == 2 * C);
}

TEST_CASE("many files with a little dirt each, and a flusher that hangs and goes on: every write ends", "[room]") {
  Files world{32, 8};
  std::size_t filled = 0;
  while (filled < world.files.size() && world.files[filled]->try_write(0, bytes_of("x"))) ++filled;
  const auto waiters = world.files.size() - filled;
  REQUIRE(waiters >= 4);
  std::size_t written = 0, refused = 0;
  for (auto i = filled; i < world.files.size(); ++i) {
    tarn::start_write(*world.files[i], 0, bytes_of("x"),
                      [&](const tarn::Result<tarn::Written>& n) { ++(n ? written : refused); });
  }
  CHECK(written + refused == 0);
  while (world.store.open_flushes() != 0) world.store.finish_flush();
  CHECK(written == waiters);
  CHECK(refused == 0);
  world.store.answer_at_once();
  std::size_t right = 0;
  for (std::size_t i = 0; i < world.files.size(); ++i) {
    CHECK(world.files[i]->flush());
    right += world.store.memory.text(i) == "x" ? 1u : 0u;
  }
  CHECK(right == world.files.size());
}

TEST_CASE("dirty chunks never take more memory than their limit, and what is left serves loads", "[room]") {
  Files world{2, 16, {.dirty_limit_bytes = 6 * C}};
  world.store.answer_at_once();
  const std::string chunk(C, 'x');
  for (std::uint64_t i = 0; i < 64; ++i) {
    REQUIRE(world.files[i % 2]->write(i * C, bytes_of(chunk)));
    CHECK(world.dirty_memory_bytes() <= 6 * C);
  }
  CHECK(world.pool.stats().chunks_held > 6);
  // At the limit, who does not wait is told; what is clean is read all the same.
  world.store.answer_at_once(false);
  std::uint64_t at = 64 * C;
  while (world.files[0]->try_write(at, bytes_of(chunk))) at += C;
  CHECK(world.dirty_memory_bytes() == 6 * C);
  std::string into(C, '?');
  std::optional<std::size_t> read;
  world.pool.evict_clean();
  auto reading = tarn::read_operation(*world.files[1], C, writable(into),
                                      [&](const tarn::Result<std::size_t>& n) { read = n ? *n : 0; });
  reading.start();
  REQUIRE(world.store.open_loads() == 1);
  world.store.finish_load();
  CHECK(read == C);
  CHECK(into == chunk);
  CHECK(world.store.open_flushes() == 0);
}

TEST_CASE("a file at its own limit flushes itself, not others", "[room]") {
  Files world{2, 64, {.file_dirty_limit_bytes = 4 * C}};
  world.store.answer_at_once();
  const std::string chunk(C, 'x');
  REQUIRE(world.files[1]->write(0, bytes_of(chunk)));
  for (std::uint64_t i = 0; i < 32; ++i) {
    REQUIRE(world.files[0]->write(i * C, bytes_of(chunk)));
    CHECK(world.pool.stats().dirty_bytes <= 5 * C);
  }
  CHECK(world.files[1]->is_dirty());
}

TEST_CASE("past the throttle mark each write flushes a step before it goes on", "[room]") {
  Files world{2, 64, {.dirty_throttle_bytes = 4 * C}};
  world.store.answer_at_once();
  const std::string chunk(C, 'x');
  for (std::uint64_t i = 0; i < 4; ++i) REQUIRE(world.files[0]->write(i * C, bytes_of(chunk)));
  CHECK(world.store.memory.counts().flushes == 0);
  for (std::uint64_t i = 4; i < 32; ++i) {
    REQUIRE(world.files[i % 2]->write(i * C, bytes_of(chunk)));
    CHECK(world.dirty_memory_bytes() <= 5 * C);
  }
  CHECK(world.store.memory.counts().flushes != 0);
}

TEST_CASE("a lower budget charges nothing more and shrinks as it can; a higher one is used at once", "[room]") {
  Files world{1, 32};
  auto& file = *world.files[0];
  world.store.answer_at_once();
  const std::string chunk(C, 'x');
  for (std::uint64_t i = 0; i < 16; ++i) REQUIRE(file.write(i * C, bytes_of(chunk)));
  const auto least = tarn::ChunkPool<Heap>::min_budget_bytes(Files::options(0, {}));
  CHECK(world.pool.set_budget_bytes(least - 1).error() == std::errc::invalid_argument);
  const auto before = world.pool.budget_bytes();
  const auto dirty_bytes = world.pool.stats().charged_bytes;
  REQUIRE(world.pool.set_budget_bytes(least));
  CHECK(world.pool.budget_bytes() == least);
  CHECK(world.pool.stats().charged_bytes <= dirty_bytes);
  CHECK(world.pool.stats().charged_bytes > least);  // nothing that is dirty goes
  CHECK(world.pool.stats().dirty_bytes == 16 * C);
  REQUIRE(file.flush());
  CHECK(world.pool.stats().charged_bytes <= least);
  std::string into(16 * C, '?');
  REQUIRE(file.read(0, writable(into)));
  CHECK(into == std::string(16 * C, 'x'));
  CHECK(world.pool.stats().charged_bytes <= least);
  REQUIRE(world.pool.set_budget_bytes(before));
  REQUIRE(file.read(0, writable(into)));
  CHECK(world.pool.stats().chunks_held == 16);
}

TEST_CASE("a raised budget lets go on who waits for room", "[room]") {
  Files world{1, 4};
  auto& file = *world.files[0];
  const std::string chunk(C, 'x');
  std::uint64_t at = 0;
  while (file.try_write(at, bytes_of(chunk))) at += C;
  std::optional<std::size_t> written;
  auto write = tarn::write_operation(file, at, bytes_of(chunk),
                                     [&](const tarn::Result<tarn::Written>& n) { written = n ? n->size_bytes : 0; });
  write.start();
  REQUIRE(!written);
  REQUIRE(world.pool.set_budget_bytes(world.pool.budget_bytes() + 8 * C));
  CHECK(written == C);
}

TEST_CASE("a write waits for the memory of loads that nobody waits for any more", "[room]") {
  Files world{1, 0};
  world.store.memory.put_pattern(1, 64 * C);
  Files::File stored{world.pool, tarn::DirtyFileMetadata::from_store(1, 64 * C), world.store};
  std::string into(C, '?');
  // Each read gives up at once; its load goes on, and keeps its chunk. The last ones find no room for one.
  for (std::uint64_t i = 0; i < 16; ++i) {
    REQUIRE(stored.read(2 * i * C, writable(into), {.deadline_ns = 1}).error() == std::errc::timed_out);
  }
  REQUIRE(world.store.open_loads() >= 4);
  std::optional<std::error_code> why;
  auto write = tarn::write_operation(*world.files[0], 0, bytes_of("x"),
                                     [&](const tarn::Result<tarn::Written>& n) { why = n.error(); });
  write.start();
  CHECK_FALSE(why);
  while (world.store.open_loads() != 0) world.store.finish_load();
  REQUIRE(why);
  CHECK(*why == std::error_code{});
}

TEST_CASE("who makes room asks only files that have something to flush", "[room]") {
  Files world{1000, 64};
  world.store.answer_at_once();
  const std::string chunk(C, 'x');
  for (std::size_t i = 0; i < 500; ++i) REQUIRE(world.files[i]->write(0, bytes_of(chunk)));
  for (auto& file : world.files) REQUIRE(file->flush());
  const auto asked_for_one = [&] {
    std::size_t asked = 0;
    const auto flushed = world.pool.core().pressure.flush_one([&](tarn::detail::Flushable& member) {
      ++asked;
      return member.flush_for_room();
    });
    CHECK(flushed == tarn::detail::Flushed::some);
    return asked;
  };
  // Once around, and whoever has nothing is not asked again.
  REQUIRE(world.files[0]->write(0, bytes_of("x")));
  (void)asked_for_one();
  REQUIRE(world.files[700]->write(0, bytes_of("x")));
  CHECK(asked_for_one() < 4);
  REQUIRE(world.files[300]->write(0, bytes_of("x")));
  CHECK(asked_for_one() < 4);
}

TEST_CASE("who queues for room gives back what it had reserved: nobody counts on it for ever", "[room]") {
  using Traits = Heap;
  Files files{1, 8};
  auto& core = files.pool.core();
  tarn::detail::ChunkReserve<Traits> reserve{core};
  tarn::detail::Need<Traits> need;
  need.chunks = 1;
  REQUIRE(reserve.fill(need) == tarn::detail::PoolCore<Traits>::Freed::some);
  tarn::detail::RoomQueue::Wait first{core.room_queue};
  need.chunks = 1000;
  const tarn::detail::Resumer resumer;
  tarn::detail::Room<Traits> room{core, tarn::detail::RoomRule::of({})};
  REQUIRE(room.step(reserve, need) == tarn::detail::Progress::waiting);
  CHECK(reserve.size() == 0);
  CHECK(core.reserves.load() == 0);
}

TEST_CASE("a write that finds the pool full of a deleted file that is open is refused, and does not spin", "[room]") {
  Files files{2, 8};
  auto& deleted = *files.files[0];
  const auto chunk = pattern(0, C);
  auto opener = std::make_optional(deleted.open());
  REQUIRE(deleted.remove());
  std::uint64_t at = 0;
  while (deleted.try_write(at, bytes_of(chunk))) at += C;
  REQUIRE(at != 0);
  std::optional<tarn::Result<tarn::Written>> written;
  auto write = tarn::write_operation(*files.files[1], 0, bytes_of(chunk),
                                     [&](tarn::Result<tarn::Written> result) { written.emplace(std::move(result)); });
  write.start();
  REQUIRE(written);
  CHECK(written->error() == std::errc::no_buffer_space);
  opener.reset();
}

TEST_CASE("looking at what is held or dirty may wake who waits for room", "[room]") {
  Files files{1, 4};
  auto& file = *files.files[0];
  const auto chunk = pattern(0, C);
  std::uint64_t at = 0;
  while (file.try_write(at, bytes_of(chunk))) at += C;
  std::optional<tarn::Result<tarn::Written>> written;
  auto write = tarn::write_operation(file, at, bytes_of(chunk),
                                     [&](tarn::Result<tarn::Written> result) { written.emplace(std::move(result)); });
  write.start();
  REQUIRE_FALSE(written);
  CHECK(files.pool.dirty_extents(file.metadata()).size_bytes() == at);
  CHECK(files.pool.held_extents(file.metadata()).size_bytes() == at);
  while (!written) {
    REQUIRE(files.store.open_flushes() != 0);
    files.store.finish_flush();
  }
  CHECK(*written);
}

TEST_CASE("a call with a deadline goes on asking a store that fails, and says at the end that time is up", "[room]") {
  Files world{1, 4};
  auto& file = *world.files[0];
  world.store.answer_at_once();
  using Call = MemoryStore<Heap>::Call;
  world.store.memory.fail_next(Call::flush, SIZE_MAX, std::errc::no_space_on_device);
  const std::string chunk(C, 'x');
  std::uint64_t at = 0;
  while (file.try_write(at, bytes_of(chunk))) at += C;
  CHECK(file.write(at, bytes_of(chunk)).error() == std::errc::no_buffer_space);  // after two rounds
  const auto failures = world.pool.stats().flush_failures;
  const auto refused =
      file.write(at, bytes_of(chunk), {}, {.deadline_ns = world.pool.deadline_in(std::chrono::milliseconds{20})});
  CHECK(refused.error() == std::errc::timed_out);
  CHECK(world.pool.stats().flush_failures > failures + 2);
  CHECK(file.size() == at);
  world.store.memory.fail_next(Call::flush, 0, {});
  CHECK(file.write(at, bytes_of(chunk)));
}

TEST_CASE("a call with a deadline that a store has failed goes on as soon as the store does", "[room]") {
  Files world{1, 4};
  auto& file = *world.files[0];
  world.store.answer_at_once();
  using Call = MemoryStore<Heap>::Call;
  world.store.memory.fail_next(Call::flush, 4, std::errc::no_space_on_device);
  const std::string chunk(C, 'x');
  std::uint64_t at = 0;
  while (file.try_write(at, bytes_of(chunk))) at += C;
  const auto written =
      file.write(at, bytes_of(chunk), {}, {.deadline_ns = world.pool.deadline_in(std::chrono::seconds{60})});
  CHECK(written.value() == C);
  CHECK(world.pool.stats().flush_failures == 4);
}

namespace {

/// A store that answers at once; `before` is called for each flush, and may have it fail.
struct AtOnce : MemoryStore<Heap> {
  std::function<std::error_code()> before = [] { return std::error_code{}; };
  int flushes = 0;

  tarn::FlushOutcome<Heap> flush(const tarn::FlushRequest<Heap>& request) {
    ++flushes;
    const auto why = before();
    return why ? tarn::FlushOutcome<Heap>::failed(why) : MemoryStore<Heap>::flush(request);
  }
};

/// A file of as many dirty chunks as its pool takes, over that store, and one that has none.
struct FullFile {
  using File = tarn::DirtyFile<Heap, AtOnce>;

  explicit FullFile(const tarn::PoolOptions& marks = {.dirty_limit_bytes = 4 * C}, std::uint64_t chunks = 4)
      : pool{Files::options(32, marks)} {
    for (std::uint64_t at = 0; at < chunks * C; at += C) REQUIRE(file.try_write(at, bytes_of(chunk)));
  }
  ~FullFile() {
    store.before = [] { return std::error_code{}; };
    CHECK(file.flush());
    CHECK(other.flush());
  }
  [[nodiscard]] std::error_code write(tarn::DirtyFile<Heap, AtOnce>& to, const tarn::CallOptions& options = {}) {
    return to.write(4 * C, bytes_of(chunk), {}, options).error();
  }
  [[nodiscard]] tarn::CallOptions within(std::chrono::milliseconds time) {
    return {.deadline_ns = pool.deadline_in(time)};
  }

  tarn::ChunkPool<Heap> pool;
  AtOnce store;
  File file{pool, tarn::DirtyFileMetadata::created(1), store}, other{pool, tarn::DirtyFileMetadata::created(2), store};
  const std::string chunk = std::string(C, 'x');
};

}  // namespace

TEST_CASE("an error of a store is a failure, whatever errno it has", "[room]") {
  FullFile full;
  full.store.before = [&] {
    return std::make_error_code(full.store.flushes < 100 ? std::errc::device_or_resource_busy : std::errc::io_error);
  };
  auto opener = full.file.open();
  CHECK(full.write(full.other) == std::errc::no_buffer_space);
  CHECK(full.store.flushes < 10);
  CHECK(opener.take_error().error() == std::errc::device_or_resource_busy);
}

TEST_CASE("a flush in flight of a file that has failed is no promise to who is failed by another store", "[room]") {
  FullFile full;
  full.store.before = [&] { return full_disk; };
  std::optional<std::error_code> end;
  auto write = tarn::write_operation(full.other, 0, bytes_of(full.chunk),
                                     [&](const tarn::Result<tarn::Written>& n) { end = n.error(); });
  full.pool.core().flush_tally.flying.fetch_add(1);  // it hangs
  write.start();
  REQUIRE(end);
  CHECK(*end == std::errc::no_buffer_space);
  CHECK(full.store.flushes < 10);
  full.pool.core().flush_tally.flying.fetch_sub(1);
  write.cancel();
}

TEST_CASE("with a deadline a call goes on asking a store that fails, whatever flush hangs", "[room]") {
  FullFile full;
  auto& tally = full.pool.core().flush_tally;
  const bool hopeful = GENERATE(false, true);
  tally.flying.fetch_add(1);
  if (hopeful) tally.hopeful.fetch_add(1);
  full.store.before = [&] { return full.store.flushes <= 4 ? full_disk : std::error_code{}; };
  CHECK_FALSE(full.write(full.other, full.within(std::chrono::seconds{60})));
  CHECK(full.store.flushes == 5);
  if (hopeful) tally.hopeful.fetch_sub(1);
  tally.flying.fetch_sub(1);
}

TEST_CASE("a call that may stop does, though flush after flush goes well", "[room]") {
  FullFile full{{.dirty_limit_bytes = 2 * C}, 1};
  std::stop_source stop;
  full.store.before = [&] {  // what becomes clean is dirty at once
    if (full.store.flushes == 3) stop.request_stop();
    if (full.store.flushes < 100)
      REQUIRE(full.file.try_write(std::uint64_t{full.store.flushes % 2 != 0}, bytes_of("y")));
    return std::error_code{};
  };
  const std::string two(2 * C, 'z');
  CHECK(full.other.write(0, bytes_of(two), {}, {.stop = stop.get_token()}).error() == std::errc::operation_canceled);
  CHECK(full.store.flushes < 10);
}

TEST_CASE("a write whose own flush has made room for it is past no deadline", "[room]") {
  const bool of_file = GENERATE(false, true);
  FullFile full{{.dirty_limit_bytes = of_file ? 0 : 4 * C, .file_dirty_limit_bytes = of_file ? 4 * C : 0}};
  CHECK_FALSE(full.write(full.file, {.deadline_ns = 1}));  // long ago
  CHECK(full.store.flushes == 1);
}

TEST_CASE("a write at its file's own limit is judged by that file's flushes alone", "[room]") {
  FullFile full{{.file_dirty_limit_bytes = 4 * C}};
  full.store.before = [&] {
    full.pool.core().flush_tally.settled.fetch_add(1);  // those of others go well
    return full.store.flushes < 100 ? full_disk : std::error_code{};
  };
  CHECK(full.write(full.file) == std::errc::no_buffer_space);
  CHECK(full.store.flushes < 10);
}

TEST_CASE("who waits for room in its own file is in nobody's way but of who writes to that after it", "[room]") {
  Files world{2, 32, {.file_dirty_limit_bytes = 4 * C}};
  auto& file = *world.files[0];
  const std::string chunk(C, 'x'), two(2 * C, 'y');
  for (std::uint64_t at = 0; at < 3 * C; at += C) REQUIRE(file.try_write(at, bytes_of(chunk)));
  std::vector<int> ended;
  const auto end = [&](int which) {
    return [&ended, which](const tarn::Result<tarn::Written>& n) {
      CHECK(n);
      ended.push_back(which);
    };
  };
  auto large = tarn::write_operation(file, 0, bytes_of(two), end(1));
  auto small = tarn::write_operation(file, 0, bytes_of(chunk), end(2));  // which would fit
  auto other = tarn::write_operation(*world.files[1], 0, bytes_of(chunk), end(3));
  large.start();
  small.start();
  other.start();
  CHECK(ended == std::vector{3});
  while (world.store.open_flushes() != 0) world.store.finish_flush();
  CHECK(ended.size() == 3);
}

namespace {

/// Of which a flush fails at once while there is an `inside`, once that has been called.
template <class Traits>
struct FailsInside : SideBySideStore<Traits> {
  std::function<void()> inside;

  void flush(const tarn::FlushRequest<Traits>& request, tarn::FlushToken<Traits> token) {
    if (!inside) return SideBySideStore<Traits>::flush(request, std::move(token));
    inside();
    token.complete(tarn::FlushOutcome<Traits>::failed(full_disk));
  }
};

/// Its file, and a write to it that may have to wait.
template <class Traits = Heap>
struct WaitingWrite {
  explicit WaitingWrite(const tarn::PoolOptions& marks) : pool{Files::options(64, marks)} {}
  ~WaitingWrite() {
    store.inside = nullptr;
    store.answer_at_once();
    while (store.open_flushes() != 0) store.finish_flush();
    CHECK(file.flush());
  }
  void start(std::uint64_t offset, std::size_t size_bytes) {
    text.assign(size_bytes, 'w');
    tarn::start_write(file, offset, bytes_of(text), [this](const tarn::Result<tarn::Written>& n) { end = n.error(); });
  }

  tarn::ChunkPool<Traits> pool;
  FailsInside<Traits> store;
  tarn::DirtyFile<Traits, FailsInside<Traits>> file{pool, tarn::MetadataFor<Traits>::created(1), store};
  std::string text, chunk = std::string(C, 'x');
  std::optional<std::error_code> end;
};

/// A clock that stands but for who waits for it: what it calls says whether the time comes then, or something else first.
struct AskedTime {
  static inline std::int64_t clock_ns = 0;
  static inline std::function<bool(std::int64_t)> comes;

  [[nodiscard]] std::int64_t now_ns() const noexcept { return clock_ns; }
  [[nodiscard]] bool wait_until(tarn::detail::ConditionVariable&, std::unique_lock<tarn::detail::Mutex>& lock,
                                std::int64_t ns) const {
    lock.unlock();
    if (comes(ns)) clock_ns = ns;
    lock.lock();
    return clock_ns < ns;
  }
};
struct OnAskedTime : Heap {
  using TimeSource = AskedTime;
};

}  // namespace

TEST_CASE("a call with a deadline pauses longer after each failure, whoever wakes it and whatever file is busy",
          "[room]") {
  WaitingWrite<OnAskedTime> write{{.dirty_limit_bytes = C}};
  auto& store = write.store;
  store.at_once = 1;
  int failures = 0;
  const auto fails = [&] { ++failures; };
  store.inside = fails;
  REQUIRE(write.file.try_write(0, bytes_of(write.chunk)));
  constexpr std::int64_t ms = 1'000'000;
  const auto begin_ns = AskedTime::clock_ns;
  std::vector<std::int64_t> waits_ms;
  AskedTime::comes = [&](std::int64_t ns) {
    waits_ms.push_back((ns - begin_ns) / ms);
    if (waits_ms.size() == 2) {  // somebody is at the file
      store.inside = nullptr;
      tarn::start_flush(write.file, [](const tarn::Result<std::uint64_t>&) {});
      tarn::detail::Resumer::run();  // it begins where this thread's call could let others go on
      CHECK(store.open_flushes() == 1);
    }
    if (waits_ms.size() != 3) return true;
    store.take_flush().complete(tarn::FlushOutcome<OnAskedTime>::failed(full_disk));  // which wakes it
    store.inside = fails;
    return false;  // the time has not come
  };
  const auto n = write.file.write(C, bytes_of(write.chunk), {}, {.deadline_ns = begin_ns + 20 * ms});
  CHECK(n.error() == std::errc::timed_out);
  CHECK(waits_ms == std::vector<std::int64_t>{1, 3, 7, 7, 15, 20});
  CHECK(failures == 4);
  AskedTime::comes = nullptr;
}

TEST_CASE("who waits for room in its file has it once it is there, though its own flush fails and another hangs",
          "[room]") {
  WaitingWrite<> write{{.file_dirty_limit_bytes = 4 * C}};
  auto& store = write.store;
  const auto make_dirty = [&] {
    for (std::uint64_t at = 0; at < 4 * C; at += C) REQUIRE(write.file.try_write(at, bytes_of(write.chunk)));
  };
  make_dirty();
  store.answer_at_once();
  REQUIRE(write.file.flush());  // the one that sets the size is the only one
  store.answer_at_once(false);
  make_dirty();
  const auto wake = [&] {
    std::string into(C, '?');
    REQUIRE(write.file.try_read(3 * C, writable(into)).done());
  };
  write.start(0, C);  // over what it holds
  REQUIRE(store.open_flushes() == 1);
  wake();  // it begins another one
  REQUIRE(store.open_flushes() == 2);
  CHECK_FALSE(write.end);
  int failures = 0;
  store.inside = [&] {
    if (failures++ == 0) store.finish_flush();  // the first goes well, while the third fails
  };
  wake();
  CHECK(failures == 1);
  REQUIRE(write.end);
  CHECK_FALSE(*write.end);
}

TEST_CASE("who waits for room goes on when what a flush that hangs has is cut off", "[room]") {
  const auto [of_file, whole] = GENERATE(table<bool, bool>({{false, true}, {true, true}, {true, false}}));
  WaitingWrite<> write{{.dirty_limit_bytes = of_file ? 0 : C, .file_dirty_limit_bytes = of_file ? C : 0}};
  REQUIRE(write.file.try_write(0, bytes_of(write.chunk)));
  write.start(C, whole ? C : C / 2);
  REQUIRE(write.store.open_flushes() == 1);
  CHECK_FALSE(write.end);
  REQUIRE(write.file.truncate(whole ? 0 : C / 2));
  REQUIRE(write.end);
  CHECK_FALSE(*write.end);
}

TEST_CASE("a call takes what there is before it is refused, since who is before it may want more", "[room]") {
  FullFile full{{.dirty_limit_bytes = 5 * C}};  // one more
  full.store.before = [&] { return full_disk; };
  std::optional<std::error_code> end;
  auto write = tarn::write_operation(full.other, 0, bytes_of(full.chunk),
                                     [&](const tarn::Result<tarn::Written>& n) { end = n.error(); });
  {
    const tarn::detail::RoomQueue::Wait first{full.pool.core().room_queue};
    write.start();
    CHECK_FALSE(end);
    {
      const tarn::detail::Resumer resumer;
      full.pool.core().room_queue.note();
    }
    REQUIRE(end);
    CHECK_FALSE(*end);
    CHECK(full.store.flushes == 2);
  }
  write.cancel();
}

TEST_CASE("a write waits for who looks at the clean chunks that it needs", "[room]") {
  Files files{2, 4};
  files.store.answer_at_once();
  REQUIRE(files.files[0]->write(0, bytes_of(pattern(0, 2 * C))));
  REQUIRE(files.files[0]->flush());
  Gate gate;
  gate.close();
  std::optional<tarn::Result<tarn::Written>> written;
  {
    const Brim full{files.pool};
    const auto chunk = pattern(0, C);
    auto write = tarn::write_operation(*files.files[1], 0, bytes_of(chunk),
                                       [&](tarn::Result<tarn::Written> result) { written.emplace(std::move(result)); });
    {
      Worker viewer{gate,
                    [&] { (void)files.files[0]->view(0, 2 * C, [&](tarn::ConstBuffers) { return gate.pass(); }); }};
      REQUIRE(gate.wait_for_arrivals());
      write.start();
      CHECK_FALSE(written);
    }
    REQUIRE(written);  // by the thread that has given back the chunks
    CHECK(*written);
  }
}

TEST_CASE("a file whose size alone has changed makes no room, and is flushed for its age all the same", "[room]") {
  Files files{1, 4};
  REQUIRE(files.files[0]->truncate(5));
  auto& pressure = files.pool.core().pressure;
  CHECK(pressure.flush_one() == tarn::detail::Flushed::nothing);
  const auto of_age = [](tarn::detail::Flushable& member) { return member.flush_older_than(INT64_MAX); };
  CHECK(pressure.flush_one(of_age) == tarn::detail::Flushed::started);
  REQUIRE(files.store.open_flushes() == 1);
  files.store.finish_flush();
  CHECK_FALSE(files.files[0]->is_dirty());
}
