// SPDX-License-Identifier: MIT
#include <tarn/policies.hpp>

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <set>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include <tarn/dirty_file_async.hpp>
#include <tarn/testing/later_store.hpp>
#include <tarn/testing/manual_time.hpp>

#include "support/catch.hpp"
#include "support/one_file.hpp"

using namespace tarn_test;

namespace {

using Content = tarn::Digest<16>;

/// What an observer was told of one request.
struct Told {
  char what;
  std::optional<std::uint64_t> file;
  std::optional<Content> content;
  std::uint64_t bytes;
  std::int64_t ns;
  std::error_code error;
  friend bool operator==(const Told&, const Told&) = default;
};
struct Ear {
  std::vector<Told> told;
  std::function<void(char)> also = [](char) {};
};

/// Hears how long stores take; what else an observer is told it leaves.
struct HearingObserver : tarn::NullObserver {
  HearingObserver() = default;
  explicit HearingObserver(Ear* to) : ear{to} {}

  void on_load_done(const std::uint64_t* file, const Content* content, std::uint64_t bytes, std::int64_t ns,
                    std::error_code error) noexcept {
    ear->told.push_back({'l', file ? std::optional{*file} : std::nullopt,
                         content ? std::optional{*content} : std::nullopt, bytes, ns, error});
    ear->also('l');
  }
  void on_flush_done(const std::uint64_t& file, std::uint64_t bytes, std::int64_t ns, std::error_code error) noexcept {
    ear->told.push_back({'f', file, std::nullopt, bytes, ns, error});
    ear->also('f');
  }
  void on_sync_done(const std::uint64_t& file, std::int64_t ns, std::error_code error) noexcept {
    ear->told.push_back({'s', file, std::nullopt, 0, ns, error});
    ear->also('s');
  }
  Ear* ear = nullptr;
};
/// Hears of loads alone, of any file.
struct LoadObserver : tarn::NullObserver {
  template <class... What>
  void on_load_done(What...) noexcept {}
};

/// A clock that goes on by itself whenever it is read.
struct CountedTime : ManualTime {
  static inline std::int64_t reads = 0;
  [[nodiscard]] std::int64_t now_ns() const noexcept { return ++reads; }
};

struct Heard : Heap {
  using Observer = HearingObserver;
  using TimeSource = ManualTime;
};
template <class Observes>
struct Counted : Heap {
  using Observer = Observes;
  using TimeSource = CountedTime;
};

static_assert(tarn::PoolTraits<Heard> && tarn::PoolTraits<Counted<LoadObserver>>);
static_assert(tarn::detail::hears_loads<Heard> && tarn::detail::hears_flushes<Heard> &&
              tarn::detail::hears_syncs<Heard>);
static_assert(!tarn::detail::hears_loads<Heap> && !tarn::detail::hears_flushes<Heap> &&
              !tarn::detail::hears_syncs<Heap>);
static_assert(tarn::detail::hears_loads<Counted<LoadObserver>> && !tarn::detail::hears_flushes<Counted<LoadObserver>> &&
              !tarn::detail::hears_syncs<Counted<LoadObserver>>);

/// A MemoryStore of which every call takes its time, with a sync to make durable what is stored.
template <class Traits>
struct SlowStore : MemoryStore<Traits> {
  static constexpr std::int64_t load_ns = 3, flush_ns = 50, sync_ns = 700;
  tarn::Result<> sync_answer;

  tarn::Result<std::size_t> load(const tarn::LoadRequest<Traits>& request) {
    ManualTime::advance_ns(load_ns);
    return MemoryStore<Traits>::load(request);
  }
  tarn::FlushOutcome<Traits> flush(const tarn::FlushRequest<Traits>& request) {
    ManualTime::advance_ns(flush_ns);
    const auto outcome = MemoryStore<Traits>::flush(request);
    return outcome.ok() ? tarn::FlushOutcome<Traits>::stored() : outcome;
  }
  tarn::Result<> sync(const tarn::SyncRequest<Traits>&) {
    ManualTime::advance_ns(sync_ns);
    return sync_answer;
  }
};

constexpr std::uint64_t C = 4096;
using Call = MemoryStore<Heard>::Call;
const std::error_code none, eio = std::make_error_code(std::errc::io_error);

struct World {
  Ear ear;
  tarn::ChunkPool<Heard> pool{pool_options<Heard>(C, 16 * MiB), HearingObserver{&ear}};
  SlowStore<Heard> store;
  std::optional<tarn::DirtyFile<Heard, SlowStore<Heard>>> file;

  World() {
    store.put_pattern(7, 2 * C);
    file.emplace(pool, tarn::MetadataFor<Heard>::from_store(7, 2 * C, {.part_bytes = C}), store);
  }
  [[nodiscard]] std::error_code read(std::uint64_t offset, std::size_t size_bytes) {
    std::string into(size_bytes, '?');
    return file->read(offset, writable(into)).error();
  }
};

}  // namespace

TEST_CASE("an observer hears of every load what it was for, how long it took and how it ended", "[policies]") {
  World world;
  world.store.fail_next(Call::load, 1, std::errc::io_error);
  CHECK(world.read(0, 10) == eio);
  world.store.answer_short_next();
  CHECK(world.read(0, 10) == eio);
  CHECK(world.read(0, 2 * C) == none);  // two parts: two requests
  CHECK(world.read(0, 2 * C) == none);  // held
  CHECK(world.ear.told ==
        std::vector<Told>{
            {'l', 7, {}, 10, 3, eio}, {'l', 7, {}, 10, 3, eio}, {'l', 7, {}, C, 3, none}, {'l', 7, {}, C, 3, none}});
}

TEST_CASE("an observer hears of the load of a piece of content that no file has", "[policies]") {
  World world;
  Content content;
  content.bytes[3] = std::byte{5};
  world.store.put_content(content, pattern(0, 100));
  REQUIRE(world.pool.get_or_load(content, 0, 100, world.store));
  CHECK(world.ear.told == std::vector<Told>{{'l', {}, content, 100, 3, none}});
}

TEST_CASE("an observer hears of flushes and syncs how long they took and how they ended", "[policies]") {
  World world;
  REQUIRE(world.file->write(2 * C + 5, bytes_of("abc")));  // and five zeros, which are not counted
  world.store.fail_next(Call::flush, 1, std::errc::io_error);
  CHECK_FALSE(world.file->flush());
  world.store.sync_answer = tarn::fail(std::errc::io_error);
  CHECK_FALSE(world.file->sync());
  world.store.sync_answer = {};
  CHECK(world.file->sync());
  CHECK(world.file->sync());  // nothing to do
  CHECK(world.ear.told == std::vector<Told>{{'f', 7, {}, 3, 50, eio},
                                            {'f', 7, {}, 3, 50, none},
                                            {'s', 7, {}, 0, 700, eio},
                                            {'f', 7, {}, 3, 50, none},
                                            {'s', 7, {}, 0, 700, none}});
}

TEST_CASE("what a store answers later took until it answered", "[policies]") {
  Ear ear;
  tarn::ChunkPool<Heard> pool{pool_options<Heard>(C, 16 * MiB), HearingObserver{&ear}};
  LaterStore<Heard> store;
  store.memory.put_pattern(7, C);
  tarn::DirtyFile file{pool, tarn::MetadataFor<Heard>::from_store(7, C), store};
  std::string into(C, '?');
  tarn::start_read(file, 0, writable(into), [](const auto&) {});
  ManualTime::advance_ns(11);
  store.finish_load();
  CHECK(file.write(0, bytes_of("a")));
  tarn::start_flush(file, [](const auto&) {});
  ManualTime::advance_ns(13);
  { const auto dropped = store.take_flush(); }
  CHECK(ear.told == std::vector<Told>{{'l', 7, {}, C, 11, none}, {'f', 7, {}, 1, 13, eio}});
  store.answer_at_once();
  CHECK(file.flush());
}

TEST_CASE("an observer is told with nothing held: another thread reads and changes the file meanwhile", "[policies]") {
  World world;
  std::string heard;
  world.ear.also = [&](char what) {
    heard += what;
    if (heard.size() > 3) return;
    std::thread{[&] {
      std::string into(1, '?');
      if (!world.file->try_write(2 * C, bytes_of("b")) || !world.file->try_read(2 * C, writable(into)).done() ||
          into != "b") {
        heard += '!';
      }
    }}.join();
  };
  CHECK(world.read(0, C) == none);
  REQUIRE(world.file->write(0, bytes_of("a")));
  CHECK(world.file->sync());
  CHECK(heard == "lffs");
  world.ear.also = [](char) {};
  CHECK(world.file->sync());
}

TEST_CASE("no clock is read for what no observer hears", "[policies]") {
  const auto reads_of = [](auto traits) {
    using Traits = decltype(traits);
    tarn::ChunkPool<Traits> pool{pool_options<Traits>(C, 16 * MiB)};
    SlowStore<Traits> store;
    store.put_pattern(7, C);
    tarn::DirtyFile file{pool, tarn::MetadataFor<Traits>::from_store(7, C), store};
    std::array<std::int64_t, 3> reads{};
    std::string into(C, '?');
    CountedTime::reads = 0;
    CHECK(file.read(0, writable(into)));
    reads[0] = std::exchange(CountedTime::reads, 0);
    CHECK(file.write(0, bytes_of("a")));
    CountedTime::reads = 0;
    CHECK(file.flush());
    reads[1] = std::exchange(CountedTime::reads, 0);
    CHECK(file.sync());
    reads[2] = std::exchange(CountedTime::reads, 0);
    return reads;
  };
  CHECK(reads_of(Counted<tarn::NullObserver>{}) == std::array<std::int64_t, 3>{0, 0, 0});
  CHECK(reads_of(Counted<LoadObserver>{}) == std::array<std::int64_t, 3>{2, 0, 0});
}

TEST_CASE("a flush of nothing is nothing to hear of", "[policies]") {
  Ear ear;
  tarn::ChunkPool<Heard> pool{pool_options<Heard>(16, MiB), HearingObserver{&ear}};
  MemoryStore<Heard> store;
  auto meta = tarn::MetadataFor<Heard>::created(7);
  REQUIRE(tarn::write_range(pool, meta, 0, bytes_of("hello")));
  REQUIRE(tarn::flush(pool, meta, store));
  CHECK(ear.told.size() == 1);
  auto job = tarn::begin_flush(pool, meta);
  REQUIRE(job);
  REQUIRE(job->empty());
  REQUIRE(tarn::finish_flush(pool, meta, std::move(*job), tarn::FlushOutcome<Heard>::stored()));
  CHECK(ear.told.size() == 1);
  pool.drop(meta);
}

TEST_CASE("the hash of a digest goes by each of its bytes, and by no other", "[policies]") {
  const auto see = [](auto digest) {
    using Digest = decltype(digest);
    const std::hash<Digest> hash;
    std::set<std::size_t> seen{hash(digest)};
    for (auto& byte : digest.bytes) {
      byte = std::byte{1};
      seen.insert(hash(digest));
    }
    CHECK(seen.size() == digest.bytes.size() + 1);

    struct {
      Digest digest;
      std::array<std::byte, 8> beside;
    } placed{digest, {}};
    const auto alone = hash(placed.digest);
    placed.beside.fill(std::byte{0xFF});
    CHECK(hash(placed.digest) == alone);
  };
  see(tarn::Digest<16>{});
  see(tarn::Digest<20>{});  // not a whole number of words
}

TEMPLATE_TEST_CASE_SIG("digests are equal, and hash the same, only if all their bytes are", "[policies]",
                       ((std::size_t N), N), 1, 8, 20, 32) {
  using Digest = tarn::Digest<N>;
  Digest some;
  for (std::size_t at = 0; at < N; ++at) some.bytes[at] = static_cast<std::byte>(at + 1);
  const auto same = some;
  static_assert(Digest{} == Digest{});
  CHECK(some == same);
  CHECK(std::hash<Digest>{}(some) == std::hash<Digest>{}(same));
  std::set<std::size_t> hashes{std::hash<Digest>{}(some)};
  for (std::size_t at = 0; at < N; ++at) {
    auto other = some;
    other.bytes[at] ^= std::byte{0x80};
    CHECK(other != some);
    CHECK(((other <=> some) == 0) == (other == some));
    hashes.insert(std::hash<Digest>{}(other));
  }
  CHECK(hashes.size() == N + 1);
}
