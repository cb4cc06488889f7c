// SPDX-License-Identifier: MIT
#include <tarn/detail/file_sync.hpp>

#include <cstddef>
#include <cstdint>
#include <deque>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <tarn/dirty_file_async.hpp>
#include <tarn/testing/gate.hpp>
#include <tarn/testing/memory_store.hpp>

#include "support/catch.hpp"
#include "support/shared_file.hpp"

using namespace tarn_test;

namespace {

/// A store whose flush is only stored, and whose sync, if it fails, forgets what it was asked for, as a kernel does:
/// what is not flushed anew will never be durable, whatever a later sync says.
template <class Traits>
class CrashingStore {
 public:
  MemoryStore<Traits> memory;
  Gate sync_gate;

  [[nodiscard]] tarn::Result<std::size_t> load(const tarn::LoadRequest<Traits>& request) {
    return memory.load(request);
  }
  [[nodiscard]] tarn::FlushOutcome<Traits> flush(const tarn::FlushRequest<Traits>& request) {
    const auto outcome = memory.flush(request);
    if (!outcome.ok()) return outcome;
    std::lock_guard lock{mutex_};
    auto& change = log_.emplace_back();
    change.size_bytes = request.size_bytes;
    request.for_each_piece([&](std::uint64_t at, std::span<const std::byte> bytes, bool zero) {
      change.pieces.emplace_back(at, text_of(bytes));
      if (zero) zeroed_bytes_ += bytes.size();
    });
    return tarn::FlushOutcome<Traits>::stored();
  }
  [[nodiscard]] tarn::Result<> sync(const tarn::SyncRequest<Traits>&) {
    std::vector<Change> asked;
    bool fails = false;
    {
      std::lock_guard lock{mutex_};
      ++syncs_;
      asked = std::exchange(log_, {});
      fails = std::exchange(fails_next_, false);
    }
    sync_gate.pass();
    if (fails) return tarn::fail(std::errc::io_error);
    std::lock_guard lock{mutex_};
    for (const auto& change : asked) {
      durable_.resize(static_cast<std::size_t>(change.size_bytes));
      for (const auto& [at, bytes] : change.pieces) durable_.replace(static_cast<std::size_t>(at), bytes.size(), bytes);
    }
    return {};
  }
  [[nodiscard]] tarn::Result<> remove(const typename Traits::FileId& id) { return memory.remove(id); }

  void fail_next_sync() {
    std::lock_guard lock{mutex_};
    fails_next_ = true;
  }
  [[nodiscard]] std::string durable() const {
    std::lock_guard lock{mutex_};
    return durable_;
  }
  [[nodiscard]] std::size_t syncs() const {
    std::lock_guard lock{mutex_};
    return syncs_;
  }
  [[nodiscard]] std::uint64_t zeroed_bytes() const {
    std::lock_guard lock{mutex_};
    return zeroed_bytes_;
  }

 private:
  struct Change {
    std::uint64_t size_bytes = 0;
    std::vector<std::pair<std::uint64_t, std::string>> pieces;
  };
  mutable std::mutex mutex_;
  std::vector<Change> log_;
  std::string durable_;
  std::size_t syncs_ = 0;
  std::uint64_t zeroed_bytes_ = 0;
  bool fails_next_ = false;
};

struct OfWholeParts {
  static constexpr auto flush_unit = tarn::FlushUnit::parts;
};

template <class Traits>
struct SyncedFile {
  using File = tarn::DirtyFile<Traits, CrashingStore<Traits>>;
  static constexpr std::uint64_t id = 7;

  explicit SyncedFile(const Sizes& sizes)
      : C{sizes.chunk_bytes},
        pool{pool_options<Traits>(C, 16 * MiB), typename Traits::Observer{&events}},
        file{pool, tarn::MetadataFor<Traits>::created(id, {.part_bytes = C * sizes.chunks_per_part}), store} {}

  void write(std::uint64_t offset, std::string_view text) { REQUIRE(file.write(offset, bytes_of(text))); }

  const std::uint64_t C;
  Events events;
  tarn::ChunkPool<Traits> pool;
  CrashingStore<Traits> store;
  File file;
};

}  // namespace

TEMPLATE_TEST_CASE("a sync makes durable what is dirty and what was only stored, and asks for nothing twice", "[sync]",
                   EACH_STORAGE(WatchedFiles, WatchedFilesInArena)) {
  SyncedFile<TestType> file{GENERATE(any_sizes())};
  const auto text = pattern(0, 3 * file.C);
  file.write(0, text);
  REQUIRE(file.file.flush());
  file.pool.evict_clean();
  CHECK(file.store.durable() == "");
  CHECK(file.file.needs_sync());
  REQUIRE(file.file.sync());  // nothing is dirty, and yet the store has work
  CHECK(file.store.durable() == text);
  CHECK_FALSE(file.file.needs_sync());
  CHECK(file.store.syncs() == 1);
  REQUIRE(file.file.sync());
  CHECK(file.store.syncs() == 1);
  REQUIRE(file.file.truncate(1));  // a size alone is something to make durable
  REQUIRE(file.file.sync());
  CHECK(file.store.durable() == text.substr(0, 1));
  CHECK(file.store.syncs() == 2);
}

TEMPLATE_TEST_CASE("what a failed sync was asked for is dirty again, and the next sync stores it anew", "[sync]",
                   EACH_STORAGE(WatchedFiles, WatchedFilesInArena)) {
  SyncedFile<TestType> file{GENERATE(any_sizes())};
  const auto text = pattern(0, 3 * file.C);
  file.write(0, text);
  file.store.fail_next_sync();
  CHECK(file.file.sync().error() == std::errc::io_error);
  CHECK(file.pool.stats().dirty_bytes == text.size());
  CHECK(file.file.is_dirty());
  REQUIRE(file.file.sync());
  CHECK(file.store.durable() == text);
  CHECK(file.events.unsure_bytes == 0);
  CHECK(file.pool.stats().dirty_bytes == 0);
}

TEMPLATE_TEST_CASE("what a failed sync cannot store anew is named, and asked for again", "[sync]",
                   EACH_STORAGE(WatchedFiles, WatchedFilesInArena)) {
  SyncedFile<TestType> file{GENERATE(any_sizes())};
  file.write(0, pattern(0, 2 * file.C));
  REQUIRE(file.file.flush());
  file.pool.evict_clean();
  file.write(2 * file.C, pattern(2 * file.C, file.C));
  file.store.fail_next_sync();
  CHECK(file.file.sync().error() == std::errc::io_error);
  CHECK(file.events.unsure_bytes == 2 * file.C);
  CHECK(file.pool.stats().dirty_bytes == file.C);
  CHECK(file.file.needs_sync());
  REQUIRE(file.file.sync());
  CHECK(file.store.syncs() == 2);
}

// A hole has no memory to be made dirty again from.
TEMPLATE_TEST_CASE("what was made zero before a sync that fails is zero still, and the next sync stores it anew",
                   "[sync]", EACH_STORAGE(WatchedFiles, WatchedFilesInArena)) {
  SyncedFile<TestType> file{GENERATE(Sizes{16, 1}, Sizes{16, 4}, Sizes{4096, 64})};
  const auto C = file.C, size = 3 * C;
  const auto before = pattern(0, static_cast<std::size_t>(size));
  auto text = before;
  file.write(0, text);
  REQUIRE(file.file.sync());
  REQUIRE(file.file.punch_hole(range(1, 2 * C + 1)));
  text.replace(1, static_cast<std::size_t>(2 * C), zeros(2 * C));
  const bool grows = GENERATE(false, true);
  if (grows) {  // over what is cut off
    REQUIRE(file.file.truncate(2 * C + 2));
    REQUIRE(file.file.truncate(size));
    text.replace(static_cast<std::size_t>(2 * C + 2), static_cast<std::size_t>(C - 2), zeros(C - 2));
  }
  enum class Held { no, as_zeros, as_what_the_store_has_after_it_lost_them };
  const auto held = GENERATE(Held::no, Held::as_zeros, Held::as_what_the_store_has_after_it_lost_them);
  if (held != Held::no) {
    REQUIRE(file.file.flush());
    if (held != Held::as_zeros) file.store.memory.put(file.id, before);
    std::string into(static_cast<std::size_t>(2 * C), '?');
    REQUIRE(file.file.read(1, writable(into)).value() == 2 * C);
  }
  const bool again = GENERATE(false, true);
  for (int failures = again ? 2 : 1; failures != 0; --failures) {
    file.store.fail_next_sync();
    CHECK(file.file.sync().error() == std::errc::io_error);
    file.store.memory.put(file.id, before);  // it has lost what it was given
    file.pool.evict_clean();
    std::string into(static_cast<std::size_t>(size), '?');
    CHECK(file.file.read(0, writable(into)).value() == size);
    CHECK(into == text);
    CHECK(file.file.is_dirty());
  }
  CHECK(file.events.unsure_bytes == 0);
  REQUIRE(file.file.sync());
  CHECK(file.store.durable() == text);
  CHECK(file.store.memory.text(file.id) == text);
  CHECK_FALSE(file.file.is_dirty());
}

TEMPLATE_TEST_CASE(
    "a hole that was read back, and went to the store anew with its part, is zero still by a sync that fails", "[sync]",
    WatchedFiles) {
  struct Store : CrashingStore<TestType>, OfWholeParts {};
  Events events;
  tarn::ChunkPool<TestType> pool{pool_options<TestType>(16, 16 * MiB), typename TestType::Observer{&events}};
  Store store;
  tarn::DirtyFile<TestType, Store> file{pool, tarn::MetadataFor<TestType>::created(7, {.part_bytes = 64}), store};
  const auto before = pattern(0, 64);
  auto text = before;
  REQUIRE(file.write(0, bytes_of(text)));
  REQUIRE(file.sync());
  REQUIRE(file.punch_hole(range(20, 30)));
  text.replace(20, 10, zeros(10));
  REQUIRE(file.flush());
  std::string into(64, '?');
  REQUIRE(file.read(0, writable(into)).value() == 64);
  REQUIRE(into == text);
  REQUIRE(file.write(40, bytes_of("x")));
  text[40] = 'x';
  REQUIRE(file.flush());
  pool.evict_clean();
  store.fail_next_sync();
  CHECK(file.sync().error() == std::errc::io_error);
  store.memory.put(7, before);
  REQUIRE(file.read(0, writable(into)).value() == 64);
  CHECK(into.substr(20, 10) == zeros(10));
  REQUIRE(file.sync());
  CHECK(store.durable().substr(20, 10) == zeros(10));
}

TEMPLATE_TEST_CASE("a hole is zero still by a sync that fails, though there is no memory at all", "[sync]",
                   WatchedFiles) {
  SyncedFile<TestType> file{{64, 4}};
  const auto before = pattern(0, 30);
  file.write(0, before);
  REQUIRE(file.file.sync());
  REQUIRE(file.file.punch_hole(range(10, 20)));
  REQUIRE(file.file.flush());
  const auto budget_bytes = file.pool.stats().budget_bytes;
  {
    const auto pin = file.pool.pin(file.file.metadata(), 0);
    REQUIRE(pin);
    file.pool.core().budget.set_limit(1);
    file.store.fail_next_sync();
    CHECK(file.file.sync().error() == std::errc::io_error);
    file.store.memory.put(file.id, before);
  }
  file.pool.core().budget.set_limit(budget_bytes);
  std::string into(30, '?');
  REQUIRE(file.file.read(0, writable(into)).value() == 30);
  CHECK(into == before.substr(0, 10) + zeros(10) + before.substr(20));
  CHECK(file.events.unsure_bytes == 0);
  REQUIRE(file.file.sync());
  CHECK(file.store.durable() == into);
}

TEMPLATE_TEST_CASE("bytes that were stored over zeros, and are not held, are no zeros by a sync that fails", "[sync]",
                   EACH_STORAGE(WatchedFiles, WatchedFilesInArena)) {
  SyncedFile<TestType> file{GENERATE(any_sizes())};
  const auto C = file.C;
  file.write(2 * C, "end");  // and zeros before it
  REQUIRE(file.file.flush());
  const bool during_a_sync = GENERATE(false, true);
  const auto text = pattern(0, static_cast<std::size_t>(C));
  const auto overwrites = [&] {
    file.write(0, text);
    REQUIRE(file.file.flush());
    file.pool.evict_clean();
  };
  if (!during_a_sync) overwrites();
  file.store.fail_next_sync();
  if (during_a_sync) {
    file.store.sync_gate.close();
    Worker syncs{[&] { CHECK(file.file.sync().error() == std::errc::io_error); }};
    REQUIRE(file.store.sync_gate.wait_for_arrivals(1));
    overwrites();
    file.store.sync_gate.open();
  } else {
    CHECK(file.file.sync().error() == std::errc::io_error);
  }
  CHECK(file.events.unsure_bytes >= C);  // named: they are not here to be stored anew
  std::string into(static_cast<std::size_t>(C), '?');
  CHECK(file.file.read(0, writable(into)).value() == C);
  CHECK(into == text);  // as the store has it
}

TEMPLATE_TEST_CASE("zeros are stored anew by a sync that fails only if they came after the last good one began",
                   "[sync]", WatchedFiles) {
  SyncedFile<TestType> file{{4096, 4}};
  const auto C = file.C;
  file.write(3 * C, "end");
  REQUIRE(file.file.sync());  // its zeros are durable
  const auto makes_zero = [&] {
    REQUIRE(file.file.punch_hole(range(C, C + 10)));
    REQUIRE(file.file.flush());
  };
  const bool during_a_good_sync = GENERATE(false, true);
  if (during_a_good_sync) {
    file.write(3 * C, "mid");
    file.store.sync_gate.close();
    Worker syncs{[&] { CHECK(file.file.sync()); }};
    REQUIRE(file.store.sync_gate.wait_for_arrivals(1));
    makes_zero();
    file.store.sync_gate.open();
  } else {
    makes_zero();
  }
  file.write(3 * C, "END");
  file.store.fail_next_sync();
  CHECK(file.file.sync().error() == std::errc::io_error);
  const auto stored_before = file.pool.stats().flush_bytes;
  REQUIRE(file.file.sync());
  CHECK(file.pool.stats().flush_bytes - stored_before == 3);
  CHECK(file.store.zeroed_bytes() == 3 * C + 10 + 10);
}

TEMPLATE_TEST_CASE("of a part that was stored anew a failed sync forgets what was durable before, too", "[sync]",
                   WatchedFiles) {
  struct Store : CrashingStore<TestType>, OfWholeParts {};
  Events events;
  tarn::ChunkPool<TestType> pool{pool_options<TestType>(16, 16 * MiB), typename TestType::Observer{&events}};
  Store store;
  store.memory.put_pattern(7, 64);
  {
    tarn::DirtyFile file{pool, tarn::MetadataFor<TestType>::from_store(7, 64, {.part_bytes = 64}), store};
    std::string into(16, '?');
    REQUIRE(file.read(32, writable(into)));  // clean, and held
    REQUIRE(file.write(0, bytes_of("new")));
    REQUIRE(file.flush());
    store.fail_next_sync();
    CHECK_FALSE(file.sync());
    CHECK(extents_of(pool.dirty_extents(file.metadata())) == Extents{{0, 3}, {32, 48}});
    CHECK(events.unsure_bytes == 64 - 3 - 16);
    CHECK(file.sync());
    CHECK_FALSE(file.is_dirty());
  }
  pool.evict_clean();
  check_empty(pool.stats());
}

TEMPLATE_TEST_CASE("what is written or stored while a sync is in flight is not durable by it", "[sync]",
                   EACH_STORAGE(WatchedFiles, WatchedFilesInArena)) {
  SyncedFile<TestType> file{GENERATE(any_sizes())};
  file.write(0, "a");
  file.store.sync_gate.close();
  std::optional<tarn::Result<>> first;
  {
    Worker syncer{file.store.sync_gate, [&] { first.emplace(file.file.sync()); }};
    REQUIRE(file.store.sync_gate.wait_for_arrivals());
    file.write(0, "b");
    REQUIRE(file.file.flush());
    CHECK(file.file.needs_sync());
  }
  CHECK(*first);
  CHECK(file.store.durable() == "a");
  CHECK(file.file.needs_sync());
  REQUIRE(file.file.sync());
  CHECK(file.store.durable() == "b");
}

TEMPLATE_TEST_CASE("a second sync does not take the first one's flight for its own success", "[sync]", WatchedFiles) {
  SyncedFile<TestType> file{GENERATE(any_sizes())};
  file.write(0, "a");
  file.store.sync_gate.close();
  file.store.fail_next_sync();
  std::optional<tarn::Result<>> first;
  tarn::detail::FileSync<TestType, CrashingStore<TestType>> second{file.file.body(), file.store};
  {
    Worker one{file.store.sync_gate, [&] { first.emplace(file.file.sync()); }};
    REQUIRE(file.store.sync_gate.wait_for_arrivals());
    // Its byte is stored already, and asked for; what comes of that is not known yet.
    REQUIRE(second.step() == tarn::detail::Progress::waiting);
  }
  CHECK(first->error() == std::errc::io_error);
  REQUIRE(second.step() == tarn::detail::Progress::done);
  CHECK(second.take_result());
  CHECK(file.store.durable() == "a");
  CHECK(file.store.syncs() == 2);
}

TEMPLATE_TEST_CASE("bytes cut off while a failing sync is in flight do not come back", "[sync]",
                   EACH_STORAGE(WatchedFiles, WatchedFilesInArena)) {
  SyncedFile<TestType> file{GENERATE(any_sizes())};
  file.write(0, pattern(0, 2 * file.C));
  file.store.sync_gate.close();
  file.store.fail_next_sync();
  {
    Worker syncer{file.store.sync_gate, [&] { (void)file.file.sync().has_value(); }};
    REQUIRE(file.store.sync_gate.wait_for_arrivals());
    REQUIRE(file.file.truncate(0));
    REQUIRE(file.file.truncate(2 * file.C));
  }
  std::string into(static_cast<std::size_t>(2 * file.C), '?');
  REQUIRE(file.file.read(0, writable(into)));
  CHECK(into == zeros(2 * file.C));
  REQUIRE(file.file.sync());
  CHECK(file.store.durable() == zeros(2 * file.C));
  CHECK(file.store.memory.text(file.id) == zeros(2 * file.C));
}

TEMPLATE_TEST_CASE("fsync tells an opener of a background error once, and of its own", "[sync]", WatchedFiles) {
  SyncedFile<TestType> file{{4096, 1}};
  auto opener = file.file.open();
  file.write(0, "a");
  file.store.fail_next_sync();
  CHECK(opener.sync().error() == std::errc::io_error);
  CHECK(opener.sync());
  CHECK(file.store.durable() == "a");
}

TEMPLATE_TEST_CASE("what a failed sync made dirty again is as old as any change, and is flushed for its age", "[sync]",
                   WatchedFiles) {
  SyncedFile<TestType> file{{4096, 1}};
  file.write(0, "hello");
  REQUIRE(file.file.flush());
  file.store.fail_next_sync();
  REQUIRE_FALSE(file.file.sync());
  REQUIRE(file.file.is_dirty());
  const auto flushed = file.pool.core().pressure.flush_one(
      [](tarn::detail::Flushable& member) { return member.flush_older_than(INT64_MAX); });
  CHECK(flushed == tarn::detail::Flushed::some);
  CHECK_FALSE(file.file.is_dirty());
  CHECK(file.file.sync());
}

namespace {

/// A store that answers when told; what it has stored is not durable before a sync.
struct LaterSyncStore {
  MemoryStore<Usual> memory;
  bool at_once = true;
  std::deque<tarn::FlushToken<Usual>> flushes;
  std::deque<tarn::SyncToken<Usual>> syncs;

  tarn::Result<std::size_t> load(const tarn::LoadRequest<Usual>& request) { return memory.load(request); }
  void flush(const tarn::FlushRequest<Usual>&, tarn::FlushToken<Usual> token) {
    flushes.push_back(std::move(token));
    if (at_once) finish_flush();
  }
  void sync(const tarn::SyncRequest<Usual>&, tarn::SyncToken<Usual> token) { syncs.push_back(std::move(token)); }
  tarn::Result<> remove(const std::uint64_t& id) { return memory.remove(id); }

  void finish_flush() {
    auto token = std::move(flushes.front());
    flushes.pop_front();
    (void)memory.flush(token.request());
    token.complete(tarn::FlushOutcome<Usual>::stored());
  }
  void finish_sync(const tarn::Result<>& answer) {
    auto token = std::move(syncs.front());
    syncs.pop_front();
    token.complete(answer);
  }
};

}  // namespace

TEST_CASE("a sync whose flush was under way when another sync failed stores anew what that one was asked for",
          "[sync]") {
  constexpr std::uint64_t C = 4096;
  tarn::ChunkPool<Usual> pool{pool_options<Usual>(C, 16 * MiB)};
  LaterSyncStore store;
  tarn::DirtyFile<Usual, LaterSyncStore> file{pool, tarn::DirtyFileMetadata::created(7), store};
  REQUIRE(file.write(0, bytes_of("a")));
  REQUIRE(file.flush());
  store.at_once = false;
  std::optional<std::error_code> first, second;
  auto one = tarn::sync_operation(file, [&](const tarn::Result<>& result) { first = result.error(); });
  auto two = tarn::sync_operation(file, [&](const tarn::Result<>& result) { second = result.error(); });
  one.start();
  REQUIRE(store.syncs.size() == 1);
  REQUIRE(file.write(C, bytes_of("b")));
  two.start();
  REQUIRE(store.flushes.size() == 1);
  store.finish_sync(tarn::fail(std::errc::io_error));
  CHECK(*first == std::errc::io_error);
  std::size_t flushes = 0;
  while (!second) {
    REQUIRE(store.flushes.size() + store.syncs.size() == 1);
    if (!store.flushes.empty()) {
      store.finish_flush();
      ++flushes;
    } else {
      store.finish_sync({});
    }
  }
  CHECK(*second == std::error_code{});
  CHECK(flushes == 3);  // that of the second was in flight when the first failed: nobody knows what became of it
  CHECK_FALSE(file.is_dirty());
  CHECK_FALSE(file.needs_sync());
  store.at_once = true;
  REQUIRE(file.flush());
}
