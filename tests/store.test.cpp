// SPDX-License-Identifier: MIT
#include <tarn/store.hpp>

#include <array>
#include <cerrno>
#include <future>
#include <optional>
#include <string>
#include <system_error>
#include <vector>

#include <tarn/dirty_file.hpp>
#include <tarn/dirty_file_async.hpp>

#include "support/catch.hpp"
#include "support/later_file.hpp"
#include "support/one_file.hpp"

using namespace tarn_test;
using tarn::FlushStatus;
using Outcome = tarn::FlushOutcome<Heap>;
using Call = MemoryStore<Heap>::Call;

namespace {

struct LoadOnly {
  tarn::Result<std::size_t> load(const tarn::LoadRequest<Heap>&) { return std::size_t{0}; }
};

/// Stores whose calls are only looked at: a good one, and what may be a little off.
struct Plain {
  tarn::Result<std::size_t> load(const tarn::LoadRequest<Heap>&);
  Outcome flush(const tarn::FlushRequest<Heap>&);
  tarn::Result<> remove(const std::uint64_t&);
};
using Sync = tarn::SyncRequest<Heap>;
using Reserve = tarn::ReserveRequest<Heap>;

struct BoolLoad : Plain {
  bool load(const tarn::LoadRequest<Heap>&);
};
struct IntLoad : Plain {
  int load(const tarn::LoadRequest<Heap>&);
};
struct BoolFlush : Plain {
  bool flush(const tarn::FlushRequest<Heap>&);
};
struct IntRemove : Plain {
  int remove(const std::uint64_t&);
};
struct FailingLoad : Plain {
  tarn::Failure load(const tarn::LoadRequest<Heap>&);
};

struct GoodSync : Plain {
  tarn::Result<> sync(const Sync&) const;
  tarn::Result<> reserve(Reserve);
};
struct LaterSync final : Plain {
  void sync(const Sync&, tarn::SyncToken<Heap>);
};
struct AbstractSync : Plain {
  AbstractSync() = default;
  AbstractSync(const AbstractSync&) = delete;
  virtual ~AbstractSync() = default;
  virtual tarn::Result<> sync(const Sync&) = 0;
};
struct BoolSync : Plain {
  bool sync(const Sync&);
};
struct MutableSync : Plain {
  tarn::Result<> sync(Sync&);
};
struct SyncOfId : Plain {
  tarn::Result<> sync(const std::uint64_t&);
};
struct OverloadedSync : Plain {
  tarn::Result<> sync(const std::uint64_t&);
  bool sync(const Sync&);
};
struct SyncTemplate : Plain {
  template <class Request>
  bool sync(const Request&);
};
class PrivateSync : public Plain {
  tarn::Result<> sync(const Sync&);
};
struct InheritedSync : BoolSync {};
struct AbstractBoolSync : Plain {
  virtual bool sync(const Sync&) = 0;

 protected:
  ~AbstractBoolSync() = default;
};
struct FinalBoolSync final : Plain {
  bool sync(const Sync&);
};
struct BoolReserve : Plain {
  bool reserve(const Reserve&);
};
struct ReserveOfSize : Plain {
  tarn::Result<> reserve(const std::uint64_t&, std::uint64_t);
};

/// Calls the pool for another file from inside a load and a flush of this one.
struct Reentrant {
  MemoryStore<Heap>& store;
  tarn::ChunkPool<Heap>& pool;
  tarn::MetadataFor<Heap>& other;
  int wrong = 0;

  void use_the_pool() {
    std::string into(10, '?');
    const auto n = tarn::read_range(pool, other, 0, writable(into), store);
    if (!n || into != pattern(0, 10, 8)) ++wrong;
    if (!tarn::write_range(pool, other, 20, bytes_of("from inside"))) ++wrong;
    if (!tarn::flush(pool, other, store)) ++wrong;
  }
  tarn::Result<std::size_t> load(const tarn::LoadRequest<Heap>& request) {
    use_the_pool();
    return store.load(request);
  }
  Outcome flush(const tarn::FlushRequest<Heap>& request) {
    use_the_pool();
    return store.flush(request);
  }
  tarn::Result<> remove(const std::uint64_t& id) { return store.remove(id); }
};

/// An object store with conditional requests: it neither gives nor takes bytes of another version than its own.
struct Conditional {
  MemoryStore<Heap> memory;
  std::uint64_t version = 1;

  tarn::Result<std::size_t> load(const tarn::LoadRequest<Heap>& request) {
    if (request.version != version) return tarn::fail(static_cast<std::errc>(ESTALE));
    return memory.load(request);
  }
  Outcome flush(const tarn::FlushRequest<Heap>& request) {
    if (request.version != version) return Outcome::conflict();
    return memory.flush(request).with_version(++version);
  }
  tarn::Result<> remove(const std::uint64_t& id) { return memory.remove(id); }
};

/// What every call of it answers is the test's to say.
struct Failing {
  std::error_code why;

  tarn::Result<std::size_t> load(const tarn::LoadRequest<Heap>&) { return tarn::fail(why); }
  Outcome flush(const tarn::FlushRequest<Heap>&) { return fails_flush ? Outcome::failed(why) : Outcome::stored(); }
  tarn::Result<> sync(const tarn::SyncRequest<Heap>&) { return tarn::fail(why); }
  tarn::Result<> reserve(const tarn::ReserveRequest<Heap>&) {
    return fails_reserve ? tarn::Result<>{tarn::fail(why)} : tarn::Result<>{};
  }
  tarn::Result<> remove(const std::uint64_t&) { return tarn::fail(why); }

  bool fails_flush = true, fails_reserve = true;
};

/// A stored file of 16 bytes over a store that fails: what each call answers.
struct Failed {
  explicit Failed(std::error_code why) : store{why} {
    std::string into(16, '?');
    load = file.read(0, writable(into)).error();
    load_again = file.read(0, writable(into)).error();
    bytes_held = pool.stats().clean_bytes;
    reserve = file.write(0, bytes_of("x")).error();
    store.fails_reserve = false;
    written = file.write(0, bytes_of("x")).has_value();
    flush = file.flush().error();
    store.fails_flush = false;
    sync = file.sync().error();
    remove = file.remove().error();
    pool.drop(file.metadata());
  }

  tarn::ChunkPool<Heap> pool{pool_options<Heap>(16, 16 * MiB)};
  Failing store;
  tarn::DirtyFile<Heap, Failing> file{pool, tarn::DirtyFileMetadata::from_store(7, 16), store};
  std::error_code load, load_again, reserve, flush, sync, remove;
  bool written = false;
  std::uint64_t bytes_held = 0;
};

}  // namespace

TEST_CASE("what a store must have is checked by name", "[store]") {
  STATIC_REQUIRE(tarn::ChunkStore<MemoryStore<Heap>, Heap>);
  STATIC_REQUIRE(tarn::ChunkLoader<LoadOnly, Heap>);
  STATIC_REQUIRE_FALSE(tarn::ChunkFlusher<LoadOnly, Heap>);
  STATIC_REQUIRE_FALSE(tarn::ChunkStore<LoadOnly, Heap>);
}

TEST_CASE("a call of a store that answers a bare number or bool is none", "[store]") {
  STATIC_REQUIRE(tarn::ChunkStore<Plain, Heap>);
  STATIC_REQUIRE(tarn::ChunkStore<Plain&, Heap>);
  STATIC_REQUIRE(tarn::ChunkLoader<FailingLoad, Heap>);
  STATIC_REQUIRE_FALSE(tarn::ChunkLoader<BoolLoad, Heap>);
  STATIC_REQUIRE_FALSE(tarn::ChunkLoader<IntLoad, Heap>);
  STATIC_REQUIRE_FALSE(tarn::ChunkFlusher<BoolFlush, Heap>);
  STATIC_REQUIRE_FALSE(tarn::ChunkStore<IntRemove, Heap>);
}

TEST_CASE("a sync or reserve that cannot be called as tarn would is refused, not ignored", "[store]") {
  STATIC_REQUIRE(tarn::ChunkStore<GoodSync, Heap>);
  STATIC_REQUIRE(tarn::ChunkStore<LaterSync, Heap>);
  STATIC_REQUIRE(tarn::ChunkStore<AbstractSync, Heap>);
  STATIC_REQUIRE_FALSE(tarn::ChunkStore<BoolSync, Heap>);
  STATIC_REQUIRE_FALSE(tarn::ChunkStore<BoolSync&, Heap>);
  STATIC_REQUIRE_FALSE(tarn::ChunkStore<MutableSync, Heap>);
  STATIC_REQUIRE_FALSE(tarn::ChunkStore<SyncOfId, Heap>);
  STATIC_REQUIRE_FALSE(tarn::ChunkStore<OverloadedSync, Heap>);
  STATIC_REQUIRE_FALSE(tarn::ChunkStore<SyncTemplate, Heap>);
  STATIC_REQUIRE_FALSE(tarn::ChunkStore<PrivateSync, Heap>);
  STATIC_REQUIRE_FALSE(tarn::ChunkStore<InheritedSync, Heap>);
  STATIC_REQUIRE_FALSE(tarn::ChunkStore<AbstractBoolSync, Heap>);
  STATIC_REQUIRE_FALSE(tarn::ChunkStore<FinalBoolSync, Heap>);
  STATIC_REQUIRE_FALSE(tarn::ChunkStore<BoolReserve, Heap>);
  STATIC_REQUIRE_FALSE(tarn::ChunkStore<ReserveOfSize, Heap>);
}

TEST_CASE("an outcome is one of five, and one that is not ok always has an error", "[store]") {
  CHECK(Outcome::stored().ok());
  CHECK(Outcome::durable().ok());
  CHECK_FALSE(Outcome::stored().error());
  const auto failed = Outcome::failed(std::make_error_code(std::errc::no_space_on_device));
  CHECK_FALSE(failed.ok());
  CHECK(failed.error().value() == ENOSPC);
  CHECK(Outcome::failed({}).error().value() == EIO);
  CHECK(Outcome::unknown({}).error().value() == EIO);
  CHECK(Outcome::conflict().error().value() == ESTALE);
  CHECK(Outcome::conflict().status() == FlushStatus::conflict);

  const auto with = Outcome::durable().with_version(5).with_content(3, {.bytes = {std::byte{1}}});
  CHECK(with.status() == FlushStatus::durable);
  CHECK(with.version() == 5);
  REQUIRE(with.content().size() == 1);
  CHECK(with.content()[0].first == 3);
}

TEST_CASE("the pieces of a flush come in order, zeros of the zero area a mebibyte at most, none across a range",
          "[store]") {
  std::string a = "data", b = "more";
  const std::array<::iovec, 2> data{{{a.data(), 4}, {b.data(), 4}}};
  const std::array<tarn::FlushRange, 3> ranges{
      {{range(10, 18), false}, {range(18, 20), true}, {range(100, 100 + 2 * MiB + 5), true}}};
  const std::uint64_t id = 7;
  const tarn::FlushRequest<Heap> request{.file = &id,
                                         .size_bytes = 4 * MiB,
                                         .store_size_bound_bytes = 0,
                                         .version = 0,
                                         .generation = 1,
                                         .ranges = ranges,
                                         .data = data};
  std::string pieces;
  request.for_each_piece([&](std::uint64_t offset, std::span<const std::byte> piece, bool zero) {
    pieces +=
        std::to_string(offset) + '+' + std::to_string(piece.size()) + (zero ? " zero\n" : " " + text_of(piece) + '\n');
    if (zero && !tarn::detail::in_zero_area(piece.data())) pieces += "not of the zero area\n";
  });
  CHECK(pieces == "10+4 data\n14+4 more\n18+2 zero\n100+1048576 zero\n1048676+1048576 zero\n2097252+5 zero\n");
}

TEST_CASE("a load that errs, throws, or answers another number of bytes is one error, and the next try starts fresh",
          "[store]") {
  OneFile<Heap> file{GENERATE(any_sizes())};
  const auto size = static_cast<std::size_t>(2 * file.C);
  file.become_stored(size);
  struct Trouble {
    int why;
    void (*arrange)(MemoryStore<Heap>&);
  };
  const auto trouble = GENERATE(values<Trouble>({
      {ENETDOWN, [](auto& store) { store.fail_next(Call::load, 1, std::errc::network_down); }},
      {EIO, [](auto& store) { store.throw_next(Call::load); }},
      {EIO, [](auto& store) { store.answer_short_next(); }},
      {EIO, [](auto& store) { store.answer_long_next(); }},
  }));
  trouble.arrange(file.store);
  std::string into(size, '?');
  CHECK(tarn::read_range(file.pool, file.meta, 0, writable(into), file.store).error().value() == trouble.why);
  CHECK(file.pool.stats().chunks_held == 0);
  CHECK(file.read_all() == pattern(0, size));
  CHECK(file.pool.stats().charged_bytes > 0);
}

TEST_CASE("a store that fails with the code of success has failed, and what it did not fill is not shown", "[store]") {
  const Failed failed{std::error_code{}};
  CHECK(failed.load.value() == EIO);
  CHECK(failed.load_again.value() == EIO);
  CHECK(failed.reserve.value() == EIO);
  CHECK(failed.written);
  CHECK(failed.flush.value() == EIO);
  CHECK(failed.sync.value() == EIO);
  CHECK(failed.remove.value() == EIO);
  CHECK(failed.bytes_held == 0);
}

TEST_CASE("an error of a store is told as an errno, whatever its category and whoever answers", "[store]") {
  struct Row {
    std::error_code given;
    int number;
  };
  const auto row = GENERATE(values<Row>({
      {{ENOSPC, std::generic_category()}, ENOSPC},
      {{ENOSPC, std::system_category()}, ENOSPC},
      {std::make_error_code(std::future_errc::broken_promise), EIO},
  }));
  const Failed failed{row.given};
  const std::error_code expected{row.number, std::generic_category()};
  CHECK(failed.load == expected);
  CHECK(failed.reserve == expected);
  CHECK(failed.flush == expected);
  CHECK(failed.sync == expected);
  CHECK(failed.remove == expected);
  CHECK(Outcome::unknown(row.given).error() == expected);
  CHECK(Outcome::conflict(row.given).error() == expected);
}

TEST_CASE("a store may use the pool for another file", "[store]") {
  OneFile<Heap> file{GENERATE(any_sizes())};
  file.become_stored(100);
  auto other = OneFile<Heap>::Metadata::from_store(8, 40, {.part_bytes = file.P});
  file.store.put_pattern(8, 40, 8);
  Reentrant store{file.store, file.pool, other};
  std::string into(100, '?');
  REQUIRE(tarn::read_range(file.pool, file.meta, 0, writable(into), store));
  CHECK(into == pattern(0, 100));
  REQUIRE(file.write(10, "changed"));
  REQUIRE(tarn::flush(file.pool, file.meta, store));
  CHECK(store.wrong == 0);
  CHECK(file.store.text(file.id, 8, 11) == pattern(8, 2) + "changed" + pattern(17, 2));
  CHECK(file.store.text(8, 18, 15) == pattern(18, 2, 8) + "from inside" + pattern(31, 2, 8));
  file.pool.drop(other);
}

TEST_CASE("a load is told the version that the metadata holds, and ESTALE is passed on", "[store]") {
  OneFile<Heap> file{GENERATE(any_sizes())};
  file.store.keep_versions();
  REQUIRE(file.write(0, "one"));
  REQUIRE(file.flush());
  CHECK(file.meta.version() == file.store.counts().flushes);
  file.pool.evict_clean();
  CHECK(file.read_all() == "one");

  file.pool.evict_clean();
  file.meta.set_version(0);  // somebody else has stored another version since
  std::string into(3, '?');
  CHECK(tarn::read_range(file.pool, file.meta, 0, writable(into), file.store).error().value() == ESTALE);
}

TEST_CASE("where the store's object has changed, what is dirty here meets no byte of the other version", "[store]") {
  const auto sizes = GENERATE(any_sizes());
  const auto C = sizes.chunk_bytes, P = C * sizes.chunks_per_part;
  const auto size = static_cast<std::size_t>(3 * C + 2);
  constexpr std::uint64_t id = 7;
  Conditional store;
  store.memory.put_pattern(id, size, 1);
  tarn::ChunkPool<Heap> pool{pool_options<Heap>(C, 16 * MiB)};
  tarn::DirtyFile file{pool, tarn::DirtyFileMetadata::from_store(id, size, {.part_bytes = P, .version = 1}), store};
  REQUIRE(file.write(1, bytes_of("d")));  // of most of its part only the store has the rest

  store.memory.put_pattern(id, size, 2);  // somebody else's
  store.version = 5;
  std::string into(size, '?');
  CHECK(file.read(0, writable(into)).error().value() == ESTALE);
  CHECK(file.flush().error().value() == ESTALE);
  CHECK(store.memory.text(id) == pattern(0, size, 2));
  CHECK(pool.stats().dirty_bytes == 1);
  std::string kept(1, '?');
  REQUIRE(file.read(1, writable(kept)));
  CHECK(kept == "d");

  REQUIRE(file.invalidate(5));  // from here on it is a change to that one
  auto expected = pattern(0, size, 2);
  expected[1] = 'd';
  REQUIRE(file.read(0, writable(into)));
  CHECK(into == expected);
  REQUIRE(file.flush());
  CHECK(store.memory.text(id) == expected);
  CHECK(file.metadata().version() == 6);
  pool.evict_clean();
  REQUIRE(file.read(0, writable(into)));
  CHECK(into == expected);
  CHECK(store.memory.complaints() == "");
}

TEST_CASE("generations rise over all files of a pool", "[store]") {
  OneFile<Heap> file{{.chunk_bytes = 16, .chunks_per_part = 4}};
  auto other = OneFile<Heap>::Metadata::created(8, {.part_bytes = file.P});
  for (int i = 0; i < 3; ++i) {
    REQUIRE(file.write(0, "x"));
    REQUIRE(file.flush());
    REQUIRE(tarn::write_range(file.pool, other, 0, bytes_of("y")));
    REQUIRE(tarn::flush(file.pool, other, file.store));
  }
  const auto flushed = file.store.flushed();
  REQUIRE(flushed.size() == 6);
  for (std::size_t i = 1; i < flushed.size(); ++i) CHECK(flushed[i].generation > flushed[i - 1].generation);
  file.pool.drop(other);
}

namespace {

/// A flush of the part [8, 24): its bytes 10 to 14 are new, what is below the part is zero.
struct PartRequest {
  static constexpr std::uint64_t id = 7;
  std::string text = "new!";
  std::array<::iovec, 1> data{{{text.data(), 4}}};
  std::array<tarn::FlushRange, 3> ranges{{{range(0, 4), true}, {range(10, 14), false}, {range(20, 22), true}}};
  tarn::FlushRequest<Heap> request{.file = &id,
                                   .size_bytes = 24,
                                   .store_size_bound_bytes = 24,
                                   .version = 0,
                                   .generation = 1,
                                   .covers = range(8, 24),
                                   .ranges = ranges,
                                   .data = data};
  std::vector<std::string> pieces;

  /// What a store answers for the `nth` piece that it keeps is `answer` of it.
  template <class Answer>
  tarn::Result<> build(Answer answer) {
    std::string scratch(2, '?');
    int nth = 0;
    return request.for_each_piece_of_part(
        writable(scratch),
        [&](ByteRange wanted, std::span<std::byte> into) -> tarn::Result<std::size_t> {
          std::fill(into.begin(), into.end(), std::byte{'k'});
          return answer(nth++, wanted.size_bytes());
        },
        [&](std::uint64_t offset, std::span<const std::byte> bytes, bool zero) {
          pieces.push_back(std::to_string(offset) +
                           (zero ? " zero " + std::to_string(bytes.size()) : " " + text_of(bytes)));
        });
  }
};

}  // namespace

TEST_CASE("a part is made of what is new, what the store keeps, and nothing of the parts before", "[store]") {
  PartRequest part;
  REQUIRE(part.build([](int, std::uint64_t size_bytes) -> tarn::Result<std::size_t> { return size_bytes; }));
  CHECK(part.pieces == std::vector<std::string>{"8 kk", "10 new!", "14 kk", "16 kk", "18 kk", "20 zero 2", "22 kk"});
}

TEST_CASE("a part of which the store keeps less than it should is not made, and nothing of it comes after the error",
          "[store]") {
  const int fails_at = GENERATE(0, 1, 3, 4);
  const bool with_error = GENERATE(true, false);
  PartRequest part;
  const auto built = part.build([&](int nth, std::uint64_t size_bytes) -> tarn::Result<std::size_t> {
    if (nth < fails_at) return size_bytes;
    if (nth > fails_at) FAIL("asked on after an error");
    if (with_error) return tarn::fail(std::errc::host_unreachable);
    return size_bytes - 1;  // fewer bytes are lost ones
  });
  CHECK(built.error() == (with_error ? std::errc::host_unreachable : std::errc::io_error));
  const std::vector<std::string> all{"8 kk", "10 new!", "14 kk", "16 kk", "18 kk", "20 zero 2", "22 kk"};
  const std::size_t before[]{0, 2, 3, 4, 6};
  CHECK(part.pieces ==
        std::vector<std::string>{all.begin(), all.begin() + static_cast<std::ptrdiff_t>(before[fails_at])});
}

TEST_CASE("a token that is moved to itself is what it was", "[store]") {
  LaterFile<Heap> file{{.chunk_bytes = 16, .chunks_per_part = 1}, 16};
  std::optional<tarn::Result<std::size_t>> seen;
  std::string into(16, '?');
  tarn::start_read(*file.file, 0, writable(into), [&](tarn::Result<std::size_t> n) { seen.emplace(n); });
  auto token = file.store.take_load();
  auto& same = token;
  token = std::move(same);
  CHECK_FALSE(seen);  // nothing was dropped
  token.complete(file.store.memory.load(token.request()));
  REQUIRE(seen);
  CHECK(seen->value() == 16);
  CHECK(into == pattern(0, 16));
}
