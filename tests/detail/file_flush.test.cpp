// SPDX-License-Identifier: MIT
#include <tarn/detail/file_flush.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <tarn/dirty_file_async.hpp>
#include <tarn/flush.hpp>
#include <tarn/write_range.hpp>

#include "support/catch.hpp"
#include "support/gate.hpp"
#include "support/later_store.hpp"
#include "support/memory_store.hpp"
#include "support/one_file.hpp"

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
class LaterMomentStore : public LaterStore<Heap> {
 public:
  static constexpr auto flush_unit = tarn::FlushUnit::file;
};

constexpr std::uint64_t id = 7;

}  // namespace

TEMPLATE_TEST_CASE("a store of whole parts is brought each changed part without a gap, and no other", "[file_flush]",
                   Heap, Arena) {
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

TEMPLATE_TEST_CASE("a flush of a range smaller than a part brings the part whole", "[file_flush]", Heap, Arena) {
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

TEMPLATE_TEST_CASE("a file of one moment never has half of a write", "[file_flush]", Heap, Arena) {
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
  using Store = MomentStore<Heap>;
  Store store;
  tarn::ChunkPool<Heap> pool{pool_options<Heap>(C, 16 * MiB)};
  tarn::DirtyFile<Heap, Store> file{pool, tarn::DirtyFileMetadata::created(id, {.part_bytes = C}), store};
  REQUIRE(file.write(0, bytes_of("old")));
  auto& long_writes = file.body()->long_writes;
  ++long_writes.under_way;  // what a write of several windows does between its first and its last
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
  CHECK(ended == 0);                               // held back: it has not begun
  REQUIRE(file.write(0, bytes_of("one window")));  // that needs no holding back: it is of one moment anyway
  --long_writes.under_way;
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
  auto options = pool_options<Heap>(C, 16 * MiB);
  options.dirty_throttle_bytes = 3 * C;
  tarn::ChunkPool<Heap> pool{options};
  MemoryStore<Heap> throttling;
  MomentStore<Heap> store;
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
  using Store = MomentStore<Heap>;
  Store store;
  tarn::ChunkPool<Heap> pool{pool_options<Heap>(C, 6 * C)};
  tarn::DirtyFile<Heap, Store> file{pool, tarn::DirtyFileMetadata::created(id, {.part_bytes = C}), store};
  Gate gate;
  gate.close();
  const auto size = 64 * C;
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
  using Store = MomentStore<Heap>;
  Store store;
  tarn::ChunkPool<Heap> pool{pool_options<Heap>(C, 16 * MiB)};
  tarn::DirtyFile<Heap, Store> file{pool, tarn::DirtyFileMetadata::created(id, {.part_bytes = C}), store};
  REQUIRE(file.write(0, bytes_of("x")));
  CHECK(pool.core().pressure.flush_one() == tarn::detail::Flushed::some);
  CHECK(store.consistent == 1);
  CHECK(store.inconsistent == 0);
}

TEST_CASE("flushes of one moment that wait for one in flight do not wake each other for ever", "[file_flush]") {
  LaterMomentStore store;
  tarn::ChunkPool<Heap> pool{pool_options<Heap>(4096, 16 * MiB)};
  tarn::DirtyFile<Heap, LaterMomentStore> file{pool, tarn::DirtyFileMetadata::created(id), store};
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
