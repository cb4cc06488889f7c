// SPDX-License-Identifier: MIT
#include <tarn/detail/flush_search.hpp>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include <tarn/dirty_file_async.hpp>
#include <tarn/flush.hpp>
#include <tarn/testing/gate.hpp>
#include <tarn/write_range.hpp>

#include "support/catch.hpp"
#include "support/later_file.hpp"
#include "support/side_by_side_store.hpp"

using namespace tarn_test;

namespace {

/// Several flushes of a file at a time, and what they have stored is not durable before a sync says so.
template <class Traits>
struct SyncingStore : SideBySideStore<Traits> {
  std::optional<tarn::SyncToken<Traits>> sync_asked;
  void sync(const tarn::SyncRequest<Traits>&, tarn::SyncToken<Traits> token) { sync_asked.emplace(std::move(token)); }
};

template <class Traits, class Store = SideBySideStore<Traits>>
struct World : LaterFile<Traits, Store> {
  using Base = LaterFile<Traits, Store>;
  using Ended = std::optional<tarn::Result<std::uint64_t>>;
  using Outcome = tarn::FlushOutcome<Traits>;

  explicit World(const Sizes& sizes, std::uint64_t parts = 6, std::uint64_t more_bytes = 16 * MiB)
      : Base{sizes, parts * sizes.chunk_bytes * sizes.chunks_per_part, more_bytes} {}

  /// Writes other bytes than the store has over the first byte of a part.
  void change(std::uint64_t part, std::uint64_t seed = 1) {
    const auto text = pattern(part * this->P, 1, seed);
    REQUIRE(this->file->write(part * this->P, bytes_of(text)));
  }
  [[nodiscard]] bool stored(std::uint64_t part, std::uint64_t seed = 1) const {
    return this->store.memory.text(Base::id, part * this->P, 1) == pattern(part * this->P, 1, seed);
  }
  /// The parts that the store has been asked to store and has not answered for, in the order in which it was asked.
  [[nodiscard]] std::vector<std::uint64_t> asked() {
    std::vector<std::uint64_t> parts;
    std::vector<tarn::FlushToken<Traits>> tokens;
    while (this->store.open_flushes() != 0) tokens.push_back(this->store.take_flush());
    for (auto& token : tokens) {
      const auto request = token.request();
      parts.push_back(request.ranges.empty() ? UINT64_MAX : request.ranges.front().range.offset() / this->P);
      this->store.flush(request, std::move(token));
    }
    return parts;
  }
  void start(Ended& ended) {
    tarn::start_flush(*this->file, [&](const tarn::Result<std::uint64_t>& result) { ended = result; });
  }
  void finish_flushes() {
    while (this->store.open_flushes() != 0) this->store.finish_flush();
  }
};

using Parts = std::vector<std::uint64_t>;

}  // namespace

TEMPLATE_TEST_CASE("a store that takes three flushes of a file at a time has three parts in flight", "[flush_search]",
                   EACH_STORAGE(Heap, Arena)) {
  World<TestType> file{GENERATE(any_sizes())};
  for (std::uint64_t part = 0; part < 5; ++part) file.change(part);
  typename World<TestType>::Ended ended;
  file.start(ended);
  CHECK(file.asked() == Parts{0, 1, 2});
  SECTION("the next begins as soon as any has ended") {
    file.store.finish_flush(1);
    CHECK(file.asked() == Parts{0, 2, 3});
    file.store.finish_flush(2);
    file.store.finish_flush(1);
    CHECK(file.asked() == Parts{0, 4});
    CHECK_FALSE(ended);
    file.store.finish_flush(1);
    CHECK_FALSE(ended);
    file.store.finish_flush();
    REQUIRE(ended);
    CHECK(ended->value() == 5);
  }
  SECTION("bytes written meanwhile stay dirty, and those of the others become clean") {
    file.change(1, 2);
    file.finish_flushes();
    REQUIRE(ended);
    CHECK(ended->value() == 4);
    CHECK(file.pool.stats().dirty_bytes == 1);
    CHECK(file.stored(1, 1));
    file.start(ended);
    CHECK(file.asked() == Parts{1});
    file.finish_flushes();
    CHECK(file.stored(1, 2));
  }
  SECTION("one that fails is told when all have ended, and no other begins") {
    file.store.take_flush(1).complete(World<TestType>::Outcome::failed(std::make_error_code(std::errc::io_error)));
    CHECK(file.asked() == Parts{0, 2});
    CHECK_FALSE(ended);
    file.finish_flushes();
    REQUIRE(ended);
    CHECK(ended->error() == std::errc::io_error);
    CHECK(file.pool.stats().dirty_bytes == 3);  // of the parts 1, 3, 4
    CHECK((file.stored(0) && !file.stored(1) && file.stored(2) && !file.stored(3)));
    file.start(ended);
    CHECK(file.asked() == Parts{1, 3, 4});
    file.finish_flushes();
  }
  SECTION("one whose token is dropped leaves its part dirty, and no other") {
    { const auto dropped = file.store.take_flush(2); }
    file.finish_flushes();
    REQUIRE(ended);
    CHECK(ended->error() == std::errc::io_error);
    CHECK(file.pool.stats().dirty_bytes == 3);  // of the parts 2, 3, 4
    file.start(ended);
    CHECK(file.asked() == Parts{2, 3, 4});
    file.finish_flushes();
  }
  SECTION("one that answers a version is refused: of versions side by side nobody knows the last") {
    const auto version = file.file->metadata().version();
    file.store.take_flush().complete(World<TestType>::Outcome::stored().with_version(version + 1));
    file.finish_flushes();
    REQUIRE(ended);
    CHECK(ended->error() == std::errc::invalid_argument);
    CHECK(file.file->metadata().version() == version);
    CHECK(file.pool.stats().dirty_bytes == 3);  // of the parts 0, 3, 4
    file.start(ended);
    file.finish_flushes();
  }
  SECTION("discarding waits until none is in flight, and no other joins them until then") {
    tarn::Result<std::uint64_t> discarded = std::uint64_t{0};
    BlockedThread waiting;
    std::atomic<bool> over{false};
    const Worker worker{[&] {
      waiting.here();
      discarded = file.file->discard_dirty(6 * file.P, 1);
      over = true;
    }};
    CHECK(waiting.wait_until_blocked());
    file.store.finish_flush();
    CHECK(file.asked() == Parts{1, 2});
    file.store.finish_flush();
    CHECK(file.asked() == Parts{2});
    CHECK(wait_until([&] {
      file.finish_flushes();  // one may still begin alone
      return over.load();
    }));
    CHECK(discarded);
    CHECK(file.pool.stats().dirty_bytes == 0);
    file.finish_flushes();
    CHECK(ended);
    for (std::uint64_t part = 0; part < 3; ++part) file.change(part, 2);
    file.start(ended);
    CHECK(file.asked() == Parts{0, 1, 2});  // from now on they join again
    file.finish_flushes();
  }
}

TEMPLATE_TEST_CASE("of a file that goes while parts of it are in flight, none settles anything", "[flush_search]",
                   EACH_STORAGE(Heap, Arena)) {
  World<TestType> file{GENERATE(any_sizes())};
  for (std::uint64_t part = 0; part < 5; ++part) file.change(part);
  typename World<TestType>::Ended ended;
  auto flush = tarn::flush_operation(*file.file, [&](const tarn::Result<std::uint64_t>& result) { ended = result; });
  flush.start();
  CHECK(file.pool.stats().lent_bytes == 3);
  flush.cancel();
  REQUIRE(ended);
  file.file.reset();
  CHECK(file.pool.stats().lent_bytes == 0);
  CHECK(file.pool.stats().dirty_bytes == 0);
  CHECK(file.asked() == Parts{0, 1, 2});
  file.finish_flushes();
}

TEST_CASE("a flush that failed before its caller gave up is told to the openers", "[flush_search]") {
  World<Heap> file{{16, 1}};
  auto open = file.file->open();
  for (std::uint64_t part = 0; part < 5; ++part) file.change(part);
  World<Heap>::Ended ended;
  auto flush = tarn::flush_operation(*file.file, [&](const tarn::Result<std::uint64_t>& result) { ended = result; });
  flush.start();
  file.store.take_flush(1).complete(World<Heap>::Outcome::failed(std::make_error_code(std::errc::io_error)));
  CHECK_FALSE(ended);
  CHECK(open.take_error());
  flush.cancel();
  REQUIRE(ended);
  CHECK(ended->error() == std::errc::operation_canceled);
  file.finish_flushes();
  CHECK(open.take_error().error() == std::errc::io_error);
  CHECK(open.take_error());
}

TEST_CASE("a sync that fails takes back what all flushes in flight had", "[flush_search]") {
  using Syncing = World<Heap, SyncingStore<Heap>>;
  Syncing file{{16, 1}};
  file.change(0);
  std::optional<tarn::Result<>> synced;
  tarn::start_sync(*file.file, [&](const tarn::Result<>& result) { synced = result; });
  {
    auto token = file.store.take_flush();
    REQUIRE(file.store.memory.flush(token.request()).ok());
    token.complete(Syncing::Outcome::stored());
  }
  REQUIRE(file.store.sync_asked);
  file.change(1);
  file.change(2);
  Syncing::Ended ended;
  file.start(ended);
  CHECK(file.asked() == Parts{1, 2});
  CHECK(file.pool.stats().lent_bytes == 2);
  file.store.sync_asked->complete(tarn::fail(std::errc::io_error));
  REQUIRE(synced);
  CHECK_FALSE(*synced);
  CHECK(file.pool.stats().lent_bytes == 0);
  while (file.asked() == Parts{1, 2} || file.asked() == Parts{2}) file.store.finish_flush();
  CHECK(file.pool.stats().dirty_bytes == 3);  // the store may have forgotten them with what the sync was for
  file.finish_flushes();
  file.start(ended);
  file.finish_flushes();
  CHECK(file.pool.stats().dirty_bytes == 0);
}

TEMPLATE_TEST_CASE("a store that takes no flush at a time is asked for one", "[flush_search]",
                   EACH_STORAGE(Heap, Arena)) {
  World<TestType> file{GENERATE(any_sizes())};
  file.store.at_once = 0;
  for (std::uint64_t part = 0; part < 2; ++part) file.change(part);
  typename World<TestType>::Ended ended;
  file.start(ended);
  CHECK(file.asked() == Parts{0});
  file.store.finish_flush();
  CHECK(file.asked() == Parts{1});
  file.store.finish_flush();
  REQUIRE(ended);
  CHECK(ended->value() == 2);
}

TEMPLATE_TEST_CASE("a flush that sets the size is the only one of its file", "[flush_search]",
                   EACH_STORAGE(Heap, Arena)) {
  World<TestType> file{GENERATE(any_sizes())};
  typename World<TestType>::Ended ended;
  SECTION("before the others") {
    file.change(0);
    file.change(1);
    file.change(6);  // past the end
    file.start(ended);
    CHECK(file.asked() == Parts{0});
    file.store.finish_flush();
    CHECK(file.asked() == Parts{1, 6});
    file.finish_flushes();
    REQUIRE(ended);
    CHECK(file.store.memory.size_of(World<TestType>::id) == 6 * file.P + 1);
  }
  SECTION("after those in flight, of the old size") {
    for (std::uint64_t part = 0; part < 4; ++part) file.change(part);
    file.start(ended);
    CHECK(file.asked() == Parts{0, 1, 2});
    REQUIRE(file.file->truncate(file.P));
    file.store.finish_flush(2);
    file.store.finish_flush(1);
    CHECK(file.asked() == Parts{0});
    typename World<TestType>::Ended second;
    file.start(second);
    CHECK(file.asked() == Parts{0});
    file.store.finish_flush();
    CHECK(file.asked() == Parts{UINT64_MAX});  // the size alone, after all
    CHECK(file.store.memory.size_of(World<TestType>::id) == 6 * file.P);
    file.finish_flushes();
    REQUIRE(second);
    CHECK(*second);
    CHECK(file.store.memory.size_of(World<TestType>::id) == file.P);
  }
}

TEMPLATE_TEST_CASE("two flushes of a file share its parts, and no part has two", "[flush_search]",
                   EACH_STORAGE(Heap, Arena)) {
  World<TestType> file{GENERATE(any_sizes())};
  typename World<TestType>::Ended first, second;
  file.change(1);
  file.change(3);
  file.start(first);
  CHECK(file.asked() == Parts{1, 3});
  file.change(1, 2);
  file.change(2, 2);
  file.change(5, 2);
  file.start(second);
  CHECK(file.asked() == Parts{1, 3});  // it begins at the first part, and that is in flight
  file.store.finish_flush();
  CHECK(file.asked() == Parts{3, 1});  // 2 lies in what the other took up to 3
  file.store.finish_flush(1);
  CHECK(file.asked() == Parts{3});
  file.store.finish_flush();
  REQUIRE(first);
  CHECK(*first);
  CHECK(file.asked() == Parts{2, 5});
  file.finish_flushes();
  REQUIRE(second);
  CHECK(second->value() == 3);
  CHECK((file.stored(1, 2) && file.stored(2, 2) && file.stored(3, 1) && file.stored(5, 2)));
}

TEST_CASE("a part that is flushed in several jobs has one of them at a time", "[flush_search]") {
  constexpr std::uint64_t C = 64 * KiB;
  World<Heap> file{{C, 8}, 2};
  // More extents in the part than one job lists, though not in one chunk.
  for (std::uint64_t at = 0; at < 3 * C; at += 20) REQUIRE(file.file->write(at, bytes_of("x")));
  file.change(1);
  World<Heap>::Ended ended;
  file.start(ended);
  CHECK(file.asked() == Parts{0});
  file.finish_flushes();
  REQUIRE(ended);
  CHECK(*ended);
  CHECK(file.pool.stats().dirty_bytes == 0);
}

TEST_CASE("chunks taken behind more zeros than one job lists are in no other job", "[flush_search]") {
  constexpr std::uint64_t C = 16 * KiB;
  World<Heap> file{{C, 1}, 3};
  for (std::uint64_t at = 1; at < C; at += 2) REQUIRE(file.file->punch_hole(*ByteRange::at(at, 1)));
  file.change(1);
  World<Heap>::Ended ended;
  file.start(ended);
  CHECK(file.asked() == Parts{0});
  file.store.finish_flush();
  CHECK(file.asked() == Parts{1});
  file.store.finish_flush();
  REQUIRE(ended);
  CHECK(*ended);
  CHECK(file.stored(1));
}

TEST_CASE("a building block's flush is one at a time, whatever the store takes", "[flush_search]") {
  constexpr std::uint64_t C = 16, parts = 8;
  SideBySideStore<Heap> store;
  std::atomic<bool> over{false};
  std::size_t most = 0;
  {
    tarn::ChunkPool<Heap> pool{pool_options<Heap>(C, 16 * MiB)};
    store.memory.put_pattern(7, parts * C);
    auto meta = tarn::MetadataFor<Heap>::from_store(7, parts * C, {.part_bytes = C});
    for (std::uint64_t part = 0; part < parts; ++part) REQUIRE(tarn::write_range(pool, meta, part * C, bytes_of("x")));
    tarn::Result<> flushed;
    {
      const Worker worker{[&] {
        flushed = tarn::flush(pool, meta, store);
        over = true;
      }};
      CHECK(wait_until([&] {
        most = std::max(most, store.open_flushes());
        if (store.open_flushes() != 0) store.finish_flush();
        return over.load();
      }));
    }
    CHECK(flushed);
    CHECK(pool.stats().dirty_bytes == 0);
    pool.drop(meta);
  }
  CHECK(most == 1);
}

TEST_CASE("a call that needs room flushes another part while one is in flight", "[flush_search]") {
  constexpr std::uint64_t C = 4096;
  constexpr std::uint64_t parts = 1'000;  // more than there is room for
  World<Heap> file{{C, 1}, parts, 4 * C};
  World<Heap>::Ended ended;
  file.change(0);
  file.start(ended);
  CHECK(file.asked() == Parts{0});
  bool wrote = false;
  std::uint64_t part = 1;
  while (file.store.open_flushes() == 1) {  // until the pool is full of dirty chunks
    wrote = false;
    tarn::start_write(*file.file, part * C, bytes_of("x"), [&](const auto& written) { wrote = written.has_value(); });
    REQUIRE(part++ < parts);
  }
  CHECK_FALSE(wrote);
  CHECK(file.asked() == Parts{0, 1});
  file.store.finish_flush(1);
  CHECK(wrote);
  file.finish_flushes();
  REQUIRE(ended);
  while (file.pool.stats().dirty_bytes != 0) {
    file.start(ended);
    file.finish_flushes();
  }
}

TEST_CASE("a call that needs room waits while the store has as many flushes of the file as it takes",
          "[flush_search]") {
  constexpr std::uint64_t C = 4096, parts = 1'000;
  World<Heap> file{{C, 1}, parts, 4 * C};
  World<Heap>::Ended ended;
  for (std::uint64_t part = 0; part < 3; ++part) file.change(part);
  file.start(ended);
  bool wrote = true;
  for (std::uint64_t part = 3; wrote; ++part) {  // until the pool is full of dirty chunks
    REQUIRE(part < parts);
    wrote = false;
    tarn::start_write(*file.file, part * C, bytes_of("x"), [&](const auto& written) { wrote = written.has_value(); });
  }
  CHECK(file.asked() == Parts{0, 1, 2});
  file.store.finish_flush();
  CHECK(wrote);
  do {
    file.finish_flushes();
    file.start(ended);
  } while (file.pool.stats().dirty_bytes != 0);
}

TEST_CASE("a flush begun when the store took one at a time stays the only one", "[flush_search]") {
  constexpr std::uint64_t C = 4096, parts = 1'000;
  World<Heap> file{{C, 1}, parts, 4 * C};
  file.store.at_once = 1;
  World<Heap>::Ended ended;
  file.change(0);
  file.start(ended);
  file.store.at_once = 3;
  bool wrote = true;
  for (std::uint64_t part = 1; wrote; ++part) {  // until the pool is full of dirty chunks
    REQUIRE(part < parts);
    wrote = false;
    tarn::start_write(*file.file, part * C, bytes_of("x"), [&](const auto& written) { wrote = written.has_value(); });
  }
  CHECK(file.asked() == Parts{0});
  do {
    file.finish_flushes();
    file.start(ended);
  } while (file.pool.stats().dirty_bytes != 0);
  CHECK(wrote);
}

TEST_CASE("a flush goes no further than where another is, also if all before is clean", "[flush_search]") {
  World<Heap> file{{16, 1}};
  World<Heap>::Ended first, second;
  file.change(1);
  file.change(3);
  file.start(first);
  CHECK(file.asked() == Parts{1, 3});
  file.store.finish_flush();
  file.change(5);
  file.start(second);
  CHECK(file.asked() == Parts{3});
  file.store.finish_flush();
  CHECK(file.asked() == Parts{5});
  file.store.finish_flush();
  REQUIRE((first && second));
}

TEST_CASE("a call that needs room while all that is dirty is in flight waits for that", "[flush_search]") {
  constexpr std::uint64_t C = 4096;
  World<Heap> file{{C, 512}, 2, 4 * C};
  bool wrote = true;
  for (std::uint64_t chunk = 0; wrote; ++chunk) {  // until the pool is full of chunks of one part
    REQUIRE(chunk < 512);
    wrote = false;
    tarn::start_write(*file.file, chunk * C, bytes_of("x"), [&](const auto& written) { wrote = written.has_value(); });
  }
  CHECK(file.asked() == Parts{0});
  file.finish_flushes();
  CHECK(wrote);
  REQUIRE(file.store.open_flushes() == 0);
  World<Heap>::Ended ended;
  file.start(ended);
  file.finish_flushes();
  REQUIRE(ended);
}
