// SPDX-License-Identifier: MIT
#include <tarn/detail/file_flush.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <stop_token>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <tarn/dirty_file_async.hpp>
#include <tarn/flush.hpp>
#include <tarn/testing/gate.hpp>
#include <tarn/testing/later_store.hpp>
#include <tarn/testing/manual_time.hpp>
#include <tarn/testing/memory_store.hpp>
#include <tarn/write_range.hpp>

#include "support/catch.hpp"
#include "support/later_file.hpp"
#include "support/shared_file.hpp"

using namespace tarn_test;
using tarn::detail::Progress;

namespace {

/// A store of immutable objects, one a part: it can only put a part anew.
template <class Traits>
class ObjectStore {
 public:
  static constexpr auto flush_unit = tarn::FlushUnit::parts;

  explicit ObjectStore(std::uint64_t part_bytes) : part_bytes_{part_bytes} {}

  tarn::Result<std::size_t> load(const tarn::LoadRequest<Traits>& request) {
    ++loads;
    return get(request.range, request.into);
  }
  tarn::FlushOutcome<Traits> flush(const tarn::FlushRequest<Traits>& request) {
    using Outcome = tarn::FlushOutcome<Traits>;
    if (fails_next > 0 && fails_next-- > 0) return Outcome::failed(std::make_error_code(std::errc::io_error));
    objects.resize(static_cast<std::size_t>((request.size_bytes + part_bytes_ - 1) / part_bytes_));
    for (std::size_t i = 0; i < objects.size(); ++i) {  // growth and cuts reach parts that nobody else mentions
      objects[i].resize(static_cast<std::size_t>(std::min(part_bytes_, request.size_bytes - i * part_bytes_)));
    }
    std::string object;
    std::string scratch(3, '?');
    if (asked) asked();
    const auto built = request.for_each_piece_of_part(
        writable(scratch),
        [&](ByteRange kept, std::span<std::byte> into) -> tarn::Result<std::size_t> {
          kept_bytes += kept.size_bytes();
          ::iovec piece{into.data(), into.size()};
          return get(kept, tarn::MutableBuffers{std::span{&piece, 1}});
        },
        [&](std::uint64_t offset, std::span<const std::byte> bytes, bool) {
          if (offset != request.covers.offset() + object.size()) gaps = true;
          object += text_of(bytes);
        });
    if (!built) return Outcome::failed(built.error());
    if (object.size() != request.covers.size_bytes()) gaps = true;
    if (!request.covers.empty()) {
      ++puts;
      objects.at(static_cast<std::size_t>(request.covers.offset() / part_bytes_)) = object;
    }
    return Outcome::stored();
  }
  tarn::Result<> remove(const typename Traits::FileId&) { return {}; }

  [[nodiscard]] std::string all() const {
    std::string text;
    for (const auto& object : objects) text += object;
    return text;
  }

  std::function<void()> asked;  // by each flush
  std::vector<std::string> objects;
  std::size_t loads = 0, puts = 0, fails_next = 0;
  std::uint64_t kept_bytes = 0;
  bool gaps = false;

 private:
  tarn::Result<std::size_t> get(ByteRange range, const tarn::MutableBuffers& into) {
    const auto text = all();
    if (range.end() > text.size()) return tarn::fail(std::errc::io_error);
    return into.copy_from(bytes_of(std::string_view{text}.substr(static_cast<std::size_t>(range.offset()),
                                                                 static_cast<std::size_t>(range.size_bytes()))));
  }
  const std::uint64_t part_bytes_;
};

/// A MemoryStore that wants files of one moment, and remembers whether they were.
template <class Traits>
class MomentStore {
 public:
  static constexpr auto flush_unit = tarn::FlushUnit::file;

  tarn::Result<std::size_t> load(const tarn::LoadRequest<Traits>& request) { return memory.load(request); }
  tarn::FlushOutcome<Traits> flush(const tarn::FlushRequest<Traits>& request) {
    {
      std::lock_guard lock{mutex};
      ++(request.consistent ? consistent : inconsistent);
    }
    return memory.flush(request);
  }
  tarn::Result<> remove(const typename Traits::FileId& id) { return memory.remove(id); }

  MemoryStore<Traits> memory;
  std::mutex mutex;
  std::size_t consistent = 0, inconsistent = 0;
};

/// The same, answering when told.
class LaterMomentStore : public LaterStore<Usual> {
 public:
  static constexpr auto flush_unit = tarn::FlushUnit::file;
};

constexpr std::uint64_t id = 7;

}  // namespace

TEMPLATE_TEST_CASE("a store of whole parts is brought each changed part without a gap, and no other", "[file_flush]",
                   EACH_STORAGE(Heap, Arena)) {
  const auto sizes = GENERATE(any_sizes());
  const auto C = sizes.chunk_bytes, P = C * sizes.chunks_per_part;
  ObjectStore<TestType> store{P};
  tarn::ChunkPool<TestType> pool{pool_options<TestType>(C, 16 * MiB)};
  const auto size = static_cast<std::size_t>(3 * P + 1);
  auto expected = pattern(0, size);
  for (std::uint64_t at = 0; at < size; at += P)
    store.objects.push_back(pattern(at, std::min<std::size_t>(P, size - at)));
  tarn::DirtyFile file{pool, tarn::MetadataFor<TestType>::from_store(id, size, {.part_bytes = P}), store};

  REQUIRE(file.write(P + P / 2, bytes_of("x")));
  expected[static_cast<std::size_t>(P + P / 2)] = 'x';
  REQUIRE(file.flush());
  CHECK(store.all() == expected);
  CHECK(store.puts == 1);
  CHECK(store.kept_bytes == P - 1);
  CHECK(store.loads == 0);

  // What is held is brought, not fetched; a hole is zeros; a failure is no reason to bring less the next time.
  std::string into(static_cast<std::size_t>(P), '?');
  REQUIRE(file.read(2 * P, writable(into)));
  store.kept_bytes = 0;
  REQUIRE(file.punch_hole(range(2 * P, 2 * P + 1)));
  expected[static_cast<std::size_t>(2 * P)] = '\0';
  store.fails_next = 1;
  CHECK_FALSE(file.flush());
  REQUIRE(file.flush());
  CHECK(store.all() == expected);
  CHECK(store.kept_bytes == 0);
  CHECK_FALSE(file.is_dirty());

  // Cut, grown and written far out: every part is whole again.
  REQUIRE(file.truncate(1));
  REQUIRE(file.write(4 * P + 1, bytes_of("end")));
  expected = expected.substr(0, 1) + zeros(static_cast<std::size_t>(4 * P)) + "end";
  REQUIRE(file.flush());
  CHECK(store.all() == expected);
  CHECK_FALSE(store.gaps);
  CHECK_FALSE(file.is_dirty());
  pool.evict_clean();
  std::string again(expected.size(), '?');
  REQUIRE(file.read(0, writable(again)));
  CHECK(again == expected);
}

TEMPLATE_TEST_CASE("a flush of a range smaller than a part brings the part whole", "[file_flush]",
                   EACH_STORAGE(Heap, Arena)) {
  constexpr std::uint64_t C = 16, P = 4 * C;
  ObjectStore<TestType> store{P};
  tarn::ChunkPool<TestType> pool{pool_options<TestType>(C, 16 * MiB)};
  auto expected = pattern(0, 2 * P);
  store.objects = {pattern(0, P), pattern(P, P)};
  auto meta = tarn::MetadataFor<TestType>::from_store(id, 2 * P, {.part_bytes = P});
  REQUIRE(tarn::write_range(pool, meta, P + C, bytes_of("x")));
  expected[static_cast<std::size_t>(P + C)] = 'x';
  REQUIRE(tarn::flush(pool, meta, store, range(P + C, P + 2 * C)));
  CHECK(store.all() == expected);
  CHECK(store.puts == 1);
  CHECK_FALSE(store.gaps);
  pool.drop(meta);
}

TEMPLATE_TEST_CASE("a file of one moment never has half of a write", "[file_flush]", EACH_STORAGE(Heap, Arena)) {
  // Windows of two chunks; the write is of six, and is held inside its second window.
  constexpr std::uint64_t C = 4096;
  MomentStore<TestType> store;
  tarn::ChunkPool<TestType> pool{pool_options<TestType>(C, 16 * MiB)};
  tarn::DirtyFile file{pool, tarn::MetadataFor<TestType>::created(id, {.part_bytes = C}), store};
  REQUIRE(file.write(0, bytes_of(std::string(6 * C, 'a'))));
  REQUIRE(file.flush());

  Gate gate;
  gate.close();
  std::size_t windows = 0;
  std::optional<tarn::Result<std::size_t>> written;
  tarn::detail::FileFlush flush{file.body(), store, tarn::whole_file, SIZE_MAX, true};
  int later = 0;
  const std::string c(6 * C, 'c');
  auto next = tarn::write_operation(file, 0, bytes_of(c), [&](const tarn::Result<tarn::Written>& n) {
    later = n && n->size_bytes == c.size() ? 1 : 2;
  });
  {
    Worker writer{gate, [&] {
                    written.emplace(file.write(0, 6 * C, [&](tarn::MutableBuffers into) {
                      // The first window is in: from here on the file is half a, half b.
                      if (++windows == 2) gate.pass();
                      for (std::size_t i = 0; i < into.count(); ++i) std::ranges::fill(into[i], std::byte{'b'});
                      return into.size_bytes();
                    }));
                  }};
    REQUIRE(gate.wait_for_arrivals());
    gate.open();
  }
  REQUIRE(*written);
  CHECK(**written == 6 * C);
  REQUIRE(flush.step() == Progress::done);
  CHECK(store.memory.text(id) == std::string(6 * C, 'b'));
  next.start();
  CHECK(later == 1);
  REQUIRE(file.flush());
  CHECK(store.consistent == 3);
  CHECK(store.inconsistent == 0);
}

TEST_CASE("a flush of one moment waits for the write that is under way, and holds back the next", "[file_flush]") {
  constexpr std::uint64_t C = 4096;
  using Store = MomentStore<Usual>;
  Store store;
  tarn::ChunkPool<Usual> pool{pool_options<Usual>(C, 16 * MiB)};
  tarn::DirtyFile<Usual, Store> file{pool, tarn::DirtyFileMetadata::created(id, {.part_bytes = C}), store};
  REQUIRE(file.write(0, bytes_of("old")));
  const auto set_under_way = [&](std::uint32_t count) {
    auto& body = *file.body();
    const tarn::detail::ExclusiveLock lock{body.lock};
    body.long_writes.under_way = count;
  };
  set_under_way(1);  // what a write of several windows does between its first and its last
  tarn::detail::FileFlush flush{file.body(), store, tarn::whole_file, SIZE_MAX, true};
  const auto step = [&] {
    const tarn::detail::Resumer resumer;
    return flush.step();
  };
  REQUIRE(step() == Progress::waiting);
  CHECK(store.memory.counts().flushes == 0);
  int ended = 0;
  const std::string text(6 * C, 'n');
  auto next =
      tarn::write_operation(file, 0, bytes_of(text), [&](const tarn::Result<tarn::Written>& n) { ended = n ? 1 : 2; });
  next.start();
  CHECK(ended == 0);  // held back: it has not begun
  // And who would not wait is told so; the deadline is for one that waits all the same.
  const tarn::CallOptions trying{.when_full = tarn::WhenFull::would_block, .deadline_ns = 0};
  CHECK(file.write(0, bytes_of(text), {}, trying).error() == std::errc::resource_unavailable_try_again);
  REQUIRE(file.write(0, bytes_of("one window")));  // that needs no holding back: it is of one moment anyway
  set_under_way(0);
  REQUIRE(step() == Progress::done);
  CHECK(store.memory.text(id) == "one window");
  CHECK(ended == 1);
  CHECK(store.consistent == 1);
  REQUIRE(file.flush());
  CHECK(store.memory.text(id) == text);
}

TEST_CASE("a flush of one moment that finds a write between two windows stores none of it, and then all",
          "[file_flush]") {
  // Past the throttle mark a write flushes a step before each window, with nothing held: that is where it is caught.
  constexpr std::uint64_t C = 4096;
  auto options = pool_options<Usual>(C, 16 * MiB);
  options.dirty_throttle_bytes = 3 * C;
  tarn::ChunkPool<Usual> pool{options};
  MemoryStore<Usual> throttling;
  MomentStore<Usual> store;
  tarn::DirtyFile other{pool, tarn::DirtyFileMetadata::created(8, {.part_bytes = C}), throttling};  // first in turn
  tarn::DirtyFile file{pool, tarn::DirtyFileMetadata::created(id, {.part_bytes = C}), store};
  REQUIRE(other.write(0, bytes_of("x")));
  const std::string text(6 * C, 'n');
  std::optional<tarn::Result<std::size_t>> written;
  tarn::detail::FileFlush flush{file.body(), store, tarn::whole_file, SIZE_MAX, true};
  const auto step = [&] {
    const tarn::detail::Resumer resumer;
    return flush.step();
  };
  throttling.flush_gate.close();
  {
    Worker writer{throttling.flush_gate, [&] { written.emplace(file.write(0, bytes_of(text))); }};
    REQUIRE(throttling.flush_gate.wait_for_arrivals());
    CHECK(file.size() == 2 * C);  // one window is in, the next has not begun
    CHECK(step() == Progress::waiting);
    CHECK(store.memory.counts().flushes == 0);
  }
  REQUIRE(*written);
  CHECK(**written == text.size());
  REQUIRE(step() == Progress::done);
  CHECK(store.consistent == 1);
  CHECK(store.memory.text(id) == text);
}

TEST_CASE("a write that needs the flush of its own file finishes while a flush of one moment waits for it",
          "[file_flush]") {
  constexpr std::uint64_t C = 4096;
  using Store = MomentStore<Usual>;
  Store store;
  tarn::ChunkPool<Usual> pool{pool_options<Usual>(C, 6 * C)};
  tarn::DirtyFile<Usual, Store> file{pool, tarn::DirtyFileMetadata::created(id, {.part_bytes = C}), store};
  Gate gate;
  gate.close();
  const auto size = 2 * pool.budget_bytes() / C * C;
  std::size_t windows = 0;
  std::optional<tarn::Result<std::size_t>> written;
  std::optional<tarn::Result<>> flushed;
  {
    Worker writer{gate, [&] {
                    written.emplace(file.write(0, size, [&](tarn::MutableBuffers into) {
                      if (++windows == 2) gate.pass();
                      for (std::size_t i = 0; i < into.count(); ++i) std::ranges::fill(into[i], std::byte{'w'});
                      return into.size_bytes();
                    }));
                  }};
    REQUIRE(gate.wait_for_arrivals());
    Worker flusher{[&] { flushed.emplace(file.flush()); }};
    gate.open();
    flusher.join();
  }
  REQUIRE(*written);
  CHECK(**written == size);
  CHECK(*flushed);
  CHECK(store.inconsistent != 0);  // it made room, and said so
  CHECK(store.memory.text(id) == std::string(size, 'w'));
}

TEST_CASE("a flush that makes room is of one moment, too, if no write is under way", "[file_flush]") {
  constexpr std::uint64_t C = 4096;
  using Store = MomentStore<Usual>;
  Store store;
  tarn::ChunkPool<Usual> pool{pool_options<Usual>(C, 16 * MiB)};
  tarn::DirtyFile<Usual, Store> file{pool, tarn::DirtyFileMetadata::created(id, {.part_bytes = C}), store};
  REQUIRE(file.write(0, bytes_of("x")));
  CHECK(pool.core().pressure.flush_one() == tarn::detail::Flushed::some);
  CHECK(store.consistent == 1);
  CHECK(store.inconsistent == 0);
}

TEST_CASE("flushes of one moment that wait for one in flight do not wake each other for ever", "[file_flush]") {
  LaterMomentStore store;
  tarn::ChunkPool<Usual> pool{pool_options<Usual>(4096, 16 * MiB)};
  tarn::DirtyFile<Usual, LaterMomentStore> file{pool, tarn::DirtyFileMetadata::created(id), store};
  REQUIRE(file.write(0, bytes_of("x")));
  int ended = 0;
  const auto count = [&](const tarn::Result<std::uint64_t>& flushed) { ended += flushed ? 1 : 100; };
  for (int i = 0; i < 3; ++i) tarn::start_flush(file, count);
  CHECK(ended == 0);
  REQUIRE(store.open_flushes() == 1);
  store.finish_flush();
  CHECK(ended == 3);
  CHECK(store.open_flushes() == 0);
  CHECK(store.memory.text(id) == "x");
}

namespace {

struct TimedHeap : Usual {
  using TimeSource = ManualTime;
};

}  // namespace

TEST_CASE("between two jobs a flush asks whether its caller wants more of it", "[file_flush]") {
  constexpr std::uint64_t C = 16, P = 2 * C;
  ObjectStore<TimedHeap> store{P};
  tarn::ChunkPool<TimedHeap> pool{pool_options<TimedHeap>(C, 16 * MiB)};
  tarn::DirtyFile file{pool, tarn::MetadataFor<TimedHeap>::created(id, {.part_bytes = P}), store};
  const auto text = pattern(0, 4 * P);
  REQUIRE(file.write(0, bytes_of(text)));
  const auto dirty = [&] { return extents_of(pool.dirty_extents(file.metadata())); };
  SECTION("by its deadline") {
    store.asked = [] { ManualTime::advance_ns(10); };
    const auto until_ns = ManualTime{}.now_ns() + 15;  // which the second job passes
    const bool durable = GENERATE(false, true);
    const auto ended = durable ? file.sync({.deadline_ns = until_ns}) : file.flush({.deadline_ns = until_ns});
    CHECK(ended.error() == std::errc::timed_out);
    CHECK(store.puts == 2);
    CHECK(dirty() == Extents{{2 * P, 4 * P}});
  }
  SECTION("by its stop token") {
    std::stop_source stop;
    store.asked = [&] { stop.request_stop(); };
    CHECK(file.flush({.stop = stop.get_token()}).error() == std::errc::operation_canceled);
    CHECK(store.puts == 1);
    CHECK(dirty() == Extents{{P, 4 * P}});
  }
  SECTION("an operation by its cancel") {
    std::optional<tarn::Result<std::uint64_t>> ended;
    auto flush = tarn::flush_operation(file, [&](const tarn::Result<std::uint64_t>& result) { ended = result; });
    store.asked = [&] { flush.cancel(); };
    flush.start();
    REQUIRE(ended);
    CHECK(ended->error() == std::errc::operation_canceled);
    CHECK(store.puts == 1);
    CHECK(dirty() == Extents{{P, 4 * P}});
  }
  SECTION("a late wish, after the last, changes nothing") {
    std::stop_source stop;
    store.asked = [&] {
      if (store.puts == 3) stop.request_stop();
    };
    CHECK(file.flush({.stop = stop.get_token()}));
    CHECK(store.puts == 4);
  }
  store.asked = nullptr;
  REQUIRE(file.flush());
  CHECK(store.puts == 4);
  CHECK(store.all() == text);
}

namespace {

/// A store of whole parts that keeps those it was brought, and zeros for the rest of what its size covers.
class SparseStore {
 public:
  static constexpr auto flush_unit = tarn::FlushUnit::parts;

  explicit SparseStore(std::uint64_t part_bytes) : part_bytes_{part_bytes} {}

  tarn::Result<std::size_t> load(const tarn::LoadRequest<Usual>& request) {
    if (request.range.end() > size_bytes) return tarn::fail(std::errc::io_error);
    return request.into.copy_from(bytes_of(text_of_part(request.range)));
  }
  tarn::FlushOutcome<Usual> flush(const tarn::FlushRequest<Usual>& request) {
    ++flushes;
    if (fails) return tarn::FlushOutcome<Usual>::failed(std::make_error_code(std::errc::io_error));
    size_bytes = request.size_bytes;
    if (request.covers.empty()) return tarn::FlushOutcome<Usual>::durable();
    std::string scratch(64, '?');
    std::string object;
    const auto built = request.for_each_piece_of_part(
        writable(scratch),
        [&](ByteRange kept, std::span<std::byte> into) -> tarn::Result<std::size_t> {
          ::iovec piece{into.data(), into.size()};
          return tarn::MutableBuffers{std::span{&piece, 1}}.copy_from(bytes_of(text_of_part(kept)));
        },
        [&](std::uint64_t, std::span<const std::byte> bytes, bool) { object += text_of(bytes); });
    if (!built) return tarn::FlushOutcome<Usual>::failed(built.error());
    parts[request.covers.offset() / part_bytes_] = object;
    return tarn::FlushOutcome<Usual>::durable();
  }
  tarn::Result<> remove(const std::uint64_t&) { return {}; }

  std::map<std::uint64_t, std::string> parts;
  std::uint64_t size_bytes = 0;
  std::size_t flushes = 0;
  bool fails = false;

 private:
  [[nodiscard]] std::string text_of_part(ByteRange range) const {
    std::string found(static_cast<std::size_t>(range.size_bytes()), '\0');
    const auto at = parts.find(range.offset() / part_bytes_);
    if (at == parts.end()) return found;
    const auto there = at->second.substr(static_cast<std::size_t>(range.offset() % part_bytes_), found.size());
    return found.replace(0, there.size(), there);
  }
  const std::uint64_t part_bytes_;
};

}  // namespace

TEST_CASE("a huge hole is no job a part: what is past all that the store has is zero by its size", "[file_flush]") {
  constexpr std::uint64_t C = 16, P = 2 * C, far = 8192 * P;
  SparseStore store{P};
  tarn::ChunkPool<Usual> pool{pool_options<Usual>(C, 16 * MiB)};
  tarn::DirtyFile<Usual, SparseStore> file{pool, tarn::DirtyFileMetadata::created(id, {.part_bytes = P}), store};
  const auto read = [&](std::uint64_t offset, std::size_t size_bytes) {
    std::string into(size_bytes, '?');
    return file.read(offset, writable(into)) ? into : "error";
  };
  const bool head = GENERATE(false, true);
  if (head) REQUIRE(file.write(1, bytes_of("head")));
  REQUIRE(file.truncate(far));
  REQUIRE(file.write(far / 2, bytes_of("middle")));
  if (GENERATE(false, true)) {  // one that fails may have left bytes in the part that it was to store, nowhere else
    store.fails = true;
    CHECK_FALSE(file.flush());
    store.fails = false;
    store.flushes = 0;
    CHECK(file.metadata().store_size_bound_bytes() == (head ? P : 0));
  }
  REQUIRE(file.flush());
  CHECK(store.flushes == 2);  // one a part that was changed; if that is far out, the size comes first
  CHECK_FALSE(file.is_dirty());
  CHECK(store.size_bytes == far);
  CHECK(store.parts.size() == (head ? 2 : 1));
  pool.evict_clean();
  CHECK(read(0, 5) == (head ? zeros(1) + "head" : zeros(5)));
  CHECK(read(far / 2 - 1, 8) == zeros(1) + "middle" + zeros(1));
  CHECK(read(far - 3, 9).substr(0, 3) == zeros(3));

  // From here on the store has parts up to the end: what is made zero there, it must be told.
  REQUIRE(file.punch_hole(range(far / 2, far / 2 + P)));
  REQUIRE(file.flush());
  CHECK(store.flushes == 3);
  pool.evict_clean();
  CHECK(read(far / 2, 6) == zeros(6));

  // Grown only: the size alone.
  REQUIRE(file.truncate(2 * far + 1));
  REQUIRE(file.flush());
  CHECK(store.flushes == 4);
  CHECK(store.size_bytes == 2 * far + 1);
  CHECK_FALSE(file.is_dirty());
}

TEST_CASE("a hole that is zero by the size is no more so once a write or a cut has met it", "[file_flush]") {
  constexpr std::uint64_t C = 16, P = 2 * C;
  tarn::ChunkPool<Usual> pool{pool_options<Usual>(C, 16 * MiB)};
  SparseStore store{P};
  auto meta = tarn::DirtyFileMetadata::created(id, {.part_bytes = P});
  REQUIRE(tarn::truncate(pool, meta, 8 * P));
  auto job = tarn::begin_flush(pool, meta, tarn::whole_file, tarn::FlushUnit::parts);
  REQUIRE(job);
  CHECK(job->request().covers.empty());  // a size, and nothing else
  CHECK(job->request().ranges.empty());
  REQUIRE(tarn::write_range(pool, meta, 5 * P, bytes_of("new")));
  REQUIRE(tarn::truncate(pool, meta, 6 * P));
  REQUIRE(tarn::truncate(pool, meta, 8 * P));
  REQUIRE(store.flush(job->request()).ok());
  REQUIRE(tarn::finish_flush(pool, meta, std::move(*job), tarn::FlushOutcome<Usual>::durable()));
  CHECK(extents_of(meta.stored()) == Extents{{0, 5 * P}, {5 * P + 3, 6 * P}});
  REQUIRE(tarn::flush(pool, meta, store));
  CHECK(store.parts.size() == 3);  // the one that was written, and two below the size that the store had
  CHECK(meta.state() == tarn::FileState::clean);
  pool.drop(meta);
}

namespace {

/// Stores files of one moment, and answers when told; its pool is watched.
class WatchedMomentStore : public LaterStore<WatchedUsual> {
 public:
  static constexpr auto flush_unit = tarn::FlushUnit::file;
};

}  // namespace

TEST_CASE("a file that goes while a flush of all of it is being settled waits for that, and loses nothing",
          "[file_flush]") {
  // The flush settles the first chunk and waits for the second, whose bytes somebody looks at, with the file's lock held.
  constexpr std::uint64_t C = 4096;
  Events events;
  tarn::ChunkPool<WatchedUsual> pool{pool_options<WatchedUsual>(C, 16 * MiB), WatchingObserver{&events}};
  WatchedMomentStore store;
  std::optional<tarn::DirtyFile<WatchedUsual, WatchedMomentStore>> file;
  file.emplace(pool, tarn::DirtyFileMetadata::created(id, {.part_bytes = C}), store);
  const auto text = pattern(0, 2 * C);
  REQUIRE(file->write(0, bytes_of(text)));
  REQUIRE(file->flush({.deadline_ns = 0}).error() == std::errc::timed_out);  // and stays in flight
  REQUIRE(store.open_flushes() == 1);
  auto pinned = pool.pin(file->metadata(), 1);
  REQUIRE(pinned);
  std::optional pin{std::move(*pinned)};
  Gate looking, turn;
  looking.close();
  turn.close();
  BlockedThread settles, goes;
  {
    Worker looker{looking, [&] { (void)pin->with_data([&](auto) { looking.pass(); }).has_value(); }};
    REQUIRE(looking.wait_for_arrivals());
    // Somebody has the file in turn to make room, so that it goes no further than that before the flush is settled.
    Worker maker{turn, [&] {
                   const tarn::detail::Resumer resumer;
                   pool.core().pressure.flush_one([&](tarn::detail::Flushable&) {
                     turn.pass();
                     return tarn::detail::Flushed::nothing;
                   });
                 }};
    REQUIRE(turn.wait_for_arrivals());
    Worker ender{turn, [&] {
                   goes.here();
                   file.reset();
                 }};
    REQUIRE(goes.wait_until_blocked());
    Worker settler{looking, [&] {
                     settles.here();
                     store.finish_flush();
                   }};
    REQUIRE(settles.wait_until_blocked());
    turn.open();
    maker.join();
    const auto still_in_turn = [&] {
      bool asked = false;
      pool.core().pressure.flush_one([&](tarn::detail::Flushable&) {
        asked = true;
        return tarn::detail::Flushed::nothing;
      });
      return asked;
    };
    CHECK(wait_until([&] { return !still_in_turn(); }));
    CHECK(goes.wait_until_blocked());  // for the flush
    looking.open();
    ender.join();
    settler.join();
  }
  CHECK(events.lost_bytes == 0);
  CHECK(store.memory.text(id) == text);
  CHECK(pool.stats().dirty_bytes == 0);
  CHECK(pool.stats().lent_bytes == 0);
  pin.reset();
  pool.evict_clean();
  check_empty(pool.stats());
}

TEST_CASE("a flush of one moment that comes while the store removes the file waits for what becomes of that",
          "[file_flush]") {
  const bool stays = GENERATE(true, false);
  MomentStore<Usual> store;
  tarn::ChunkPool<Usual> pool{pool_options<Usual>(16, 16 * MiB)};
  tarn::DirtyFile file{pool, tarn::MetadataFor<Usual>::created(id), store};
  REQUIRE(file.write(0, bytes_of("hello")));
  if (stays) store.memory.fail_next(MemoryStore<Usual>::Call::remove, 1, std::errc::permission_denied);
  store.memory.remove_gate.close();
  tarn::Result<> removed = tarn::fail(std::errc::io_error), flushed = removed;
  BlockedThread waiter;
  {
    Worker remover{store.memory.remove_gate, [&] { removed = file.remove(); }};
    REQUIRE(store.memory.remove_gate.wait_for_arrivals());
    Worker flusher{store.memory.remove_gate, [&] {
                     waiter.here();
                     flushed = file.flush();
                   }};
    CHECK(waiter.wait_until_blocked());
    CHECK(store.memory.counts().flushes == 0);
    store.memory.remove_gate.open();
  }
  CHECK(removed.has_value() != stays);
  CHECK(flushed);
  CHECK(store.memory.counts().flushes == (stays ? 1 : 0));
  CHECK(store.memory.text(id) == (stays ? "hello" : "no such file"));
}

TEST_CASE("a flush that has failed by the time that nobody waits for it is told to who has the file open",
          "[file_flush]") {
  LaterFile<Usual> file{{16, 1}};
  auto opener = file->open();
  REQUIRE(file->write(0, bytes_of("hello")));
  {
    tarn::detail::FileFlush flush{file->body(), file.store, tarn::whole_file, SIZE_MAX, true};
    REQUIRE(flush.step() == Progress::waiting);
    file.store.take_flush().complete(
        tarn::FlushOutcome<Usual>::failed(std::make_error_code(std::errc::no_space_on_device)));
    CHECK(opener.take_error());  // he who waits would be told
  }
  CHECK(opener.take_error().error() == std::errc::no_space_on_device);
  CHECK(opener.take_error());
  CHECK(file->is_dirty());
  file.store.answer_at_once();
  REQUIRE(file->flush());
}

namespace {

/// Takes three flushes of a file at a time.
struct ThreeStore : LaterStore<Usual> {
  ThreeStore() { memory.take_flushes_in_any_order(); }
  [[nodiscard]] std::size_t flushes_at_once() const noexcept { return 3; }
};

}  // namespace

TEST_CASE("a flush that passes over others' does so when it begins, and waits for them once it has one of its own",
          "[file_flush]") {
  LaterFile<Usual, ThreeStore> file{{16, 1}, 64};
  for (const std::uint64_t at : {0u, 16u, 32u}) REQUIRE(file->write(at, bytes_of("new")));
  const auto flush_of = [&](std::size_t jobs, bool waits) {
    return std::make_unique<tarn::detail::FileFlush<tarn::detail::FileBody<Usual>, ThreeStore>>(
        file->body(), file.store, tarn::whole_file, jobs, waits);
  };
  auto first = flush_of(1, true), second = flush_of(SIZE_MAX, false);
  REQUIRE(first->step() == Progress::waiting);
  REQUIRE(file.store.open_flushes() == 1);
  REQUIRE(second->step() == Progress::waiting);  // the two parts that the first has not
  REQUIRE(file.store.open_flushes() == 3);
  file.store.finish_flush(1);
  CHECK(second->step() == Progress::between);
  CHECK(second->step() == Progress::waiting);
  file.store.finish_flush(1);
  CHECK(extents_of(file.pool.dirty_extents(file->metadata())) == Extents{{0, 3}});
  while (second->step() == Progress::between) continue;
  CHECK(second->take_result().value() == 6);
  second.reset();
  file.store.finish_flush(0);
  first.reset();
  CHECK_FALSE(file->is_dirty());
}

TEST_CASE("a flush says how many bytes the store has now and had not, also of parts that the size alone stored",
          "[file_flush]") {
  constexpr std::uint64_t C = 4096, P = 4 * C;
  ObjectStore<Usual> store{P};
  tarn::ChunkPool<Usual> pool{pool_options<Usual>(C, 16 * MiB)};
  tarn::DirtyFile<Usual, ObjectStore<Usual>> file{pool, tarn::DirtyFileMetadata::created(id, {.part_bytes = P}), store};
  std::optional<tarn::Result<std::uint64_t>> flushed;
  const auto flush = [&] {
    tarn::start_flush(file, [&](tarn::Result<std::uint64_t> result) { flushed.emplace(std::move(result)); });
    REQUIRE(flushed);
    REQUIRE(*flushed);
    return **flushed;
  };
  REQUIRE(file.truncate(3 * P + 5));
  CHECK(flush() == 3 * P + 5);
  CHECK(store.puts == 0);
  REQUIRE(file.write(P, bytes_of("x")));
  CHECK(flush() == 1);
  CHECK(flush() == 0);
}

TEST_CASE("a flush of a file that has gone says nothing of the next file of its id", "[file_flush]") {
  tarn::ChunkPool<Usual> pool{pool_options<Usual>(16, MiB)};
  LaterStore<Usual> store;
  using File = tarn::DirtyFile<Usual, LaterStore<Usual>>;
  const auto flush_one = [&] {
    const tarn::detail::Resumer resumer;
    return pool.core().pressure.flush_one();
  };
  std::optional<File> file{std::in_place, pool, tarn::DirtyFileMetadata::created(5), store};
  const auto record = file->body()->record.share();  // which stays
  REQUIRE(file->try_write(0, bytes_of("old")));
  REQUIRE(flush_one() == tarn::detail::Flushed::started);
  const bool goes_first = GENERATE(true, false);
  const auto answer = [&] {
    store.take_flush().complete(tarn::FlushOutcome<Usual>::failed(std::make_error_code(std::errc::no_space_on_device)));
  };
  if (!goes_first) answer();
  file.reset();
  file.emplace(pool, tarn::DirtyFileMetadata::created(5), store);
  REQUIRE(file->try_write(0, bytes_of("new")));
  if (goes_first) answer();
  REQUIRE(flush_one() == tarn::detail::Flushed::started);
  CHECK(pool.core().flush_tally.hopeful == 1);
  CHECK(pool.stats().flush_retries == 0);
  store.finish_flush();
}
