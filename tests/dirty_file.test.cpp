// SPDX-License-Identifier: MIT
#include <tarn/dirty_file.hpp>

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include <tarn/testing/gate.hpp>

#include "support/brim.hpp"
#include "support/catch.hpp"
#include "support/later_file.hpp"
#include "support/shared_file.hpp"

using namespace tarn_test;
using tarn::FileState;
using tarn::max_offset;

#define EVERY_STORAGE EACH_STORAGE(WatchedFiles, WatchedFilesInArena)

namespace {

template <class Traits>
using Call = typename MemoryStore<Traits>::Call;

}  // namespace

TEMPLATE_TEST_CASE("what is written to a file is read from it, and flushed to its store", "[dirty_file]",
                   EVERY_STORAGE) {
  SharedFile<TestType> file{GENERATE(any_sizes())};
  CHECK_FALSE(file.store.has(file.id));
  CHECK(file->is_dirty());  // the store does not know it yet
  REQUIRE(file.write(0, "hello"));
  REQUIRE(file.write(10, "world"));
  CHECK(file->size() == 15);
  CHECK(file.read_all() == "hello" + zeros(5) + "world");
  const auto seen = file->view(0, std::min<std::uint64_t>(5, file.pool.window_bytes()), [](tarn::ConstBuffers bytes) {
    std::string text(bytes.size_bytes(), '?');
    bytes.copy_to(writable(text));
    return text;
  });
  REQUIRE(seen);
  CHECK(std::string{"hello"}.substr(0, seen->size()) == *seen);
  REQUIRE(file->flush());
  CHECK_FALSE(file->is_dirty());
  CHECK(file->metadata().state() == FileState::clean);
  CHECK(file.store.text(file.id) == "hello" + zeros(5) + "world");
}

TEMPLATE_TEST_CASE("an append goes to the end of the file as it is then, and says where", "[dirty_file]",
                   EVERY_STORAGE) {
  SharedFile<TestType> file{GENERATE(any_sizes())};
  const auto first = file->append(bytes_of("hello"));
  REQUIRE(first);
  CHECK(first->offset == 0);
  CHECK(first->size_bytes == 5);
  REQUIRE(file->truncate(8));
  const auto second = file->append(bytes_of("more than a chunk or two, at times"));
  REQUIRE(second);
  CHECK(second->offset == 8);
  CHECK(file.read_all() == "hello" + zeros(3) + "more than a chunk or two, at times");
}

TEMPLATE_TEST_CASE("the mtime is what was given last, and no flush moves it", "[dirty_file]", EVERY_STORAGE) {
  SharedFile<TestType> file{GENERATE(any_sizes())};
  REQUIRE(file->write(0, bytes_of("x"), 100));
  CHECK(file->mtime_ns() == 100);
  REQUIRE(file->truncate(20, 200));
  CHECK(file->mtime_ns() == 200);
  REQUIRE(file.write(0, "y"));
  CHECK(file->mtime_ns() == 200);
  REQUIRE(file->append(bytes_of("z"), 300));
  CHECK(file->mtime_ns() == 300);
  REQUIRE(file->punch_hole(range(0, 5), 400));
  REQUIRE(file->zero_range(range(0, 5), true, 500));
  REQUIRE(file->write(
      0, 1, [](tarn::MutableBuffers into) { return into.copy_from(bytes_of("x")); }, 600));
  CHECK(file->mtime_ns() == 600);
  REQUIRE(file->flush());
  CHECK(file->mtime_ns() == 600);
  file->set_mtime_ns(5);
  CHECK(file->metadata().mtime_ns() == 5);
  CHECK_FALSE(file->write(max_offset, bytes_of("x"), 700));
  CHECK(file->mtime_ns() == 5);  // a call that fails changes nothing
}

TEMPLATE_TEST_CASE("data is where something is held or stored, the rest are holes", "[dirty_file]", EVERY_STORAGE) {
  SharedFile<TestType> file{{.chunk_bytes = 16, .chunks_per_part = 4}, 100};
  REQUIRE(file->truncate(50));
  REQUIRE(file.write(80, "held"));
  CHECK(extents_of(file->data_extents(range(0, max_offset))) == Extents{{0, 50}, {80, 84}});
  REQUIRE(file->punch_hole(range(10, 20)));
  CHECK(extents_of(file->data_extents(range(5, 82))) == Extents{{5, 10}, {20, 50}, {80, 82}});
  REQUIRE(file->flush());
  CHECK(extents_of(file->data_extents(range(0, max_offset))) == Extents{{0, 84}});  // the store has zeros now
}

TEMPLATE_TEST_CASE("a load that ends after a change of its bytes covers nothing and brings nothing back",
                   "[dirty_file]", EVERY_STORAGE) {
  const auto sizes = GENERATE(any_sizes());
  SharedFile<TestType> file{sizes, 4 * sizes.chunk_bytes};
  const auto size = static_cast<std::size_t>(4 * file.C);
  auto expected = pattern(0, size);
  std::string seen;
  file.store.load_gate.close();
  {
    Worker reader{file.store.load_gate, [&] { seen = file.read(0, static_cast<std::size_t>(file.C)); }};
    REQUIRE(file.store.load_gate.wait_for_arrivals());  // it has its bytes, and is on its way back
    SECTION("written") {
      REQUIRE(file.write(0, "w"));
      expected[0] = 'w';
    }
    SECTION("written, flushed and evicted") {
      REQUIRE(file.write(0, "w"));
      REQUIRE(file->flush());
      file.pool.evict_clean();
      expected[0] = 'w';
    }
    SECTION("truncated to one byte, grown to eleven") {
      REQUIRE(file->truncate(1));
      REQUIRE(file->truncate(11));
      expected = expected.substr(0, 1) + zeros(10);
    }
    SECTION("truncated, grown, flushed and evicted") {
      REQUIRE(file->truncate(1));
      REQUIRE(file->truncate(11));
      REQUIRE(file->flush());
      file.pool.evict_clean();
      expected = expected.substr(0, 1) + zeros(10);
    }
    SECTION("punched") {
      REQUIRE(file->punch_hole(range(0, file.C)));
      expected.replace(0, static_cast<std::size_t>(file.C), zeros(static_cast<std::size_t>(file.C)));
    }
    SECTION("punched and written beside it") {
      REQUIRE(file->punch_hole(range(0, 1)));
      REQUIRE(file.write(file.C - 1, "xy"));
      expected[0] = '\0';
      expected.replace(static_cast<std::size_t>(file.C) - 1, 2, "xy");
    }
    SECTION("invalidated: the store has other bytes now") {
      file.store.put_pattern(file.id, size, 99);
      REQUIRE(file->invalidate(2));
      expected = pattern(0, size, 99);
    }
    SECTION("discarded, for a shorter file") {
      file.store.put_pattern(file.id, 11, 98);
      CHECK(file->discard_dirty(11, 2).value() == 0);
      expected = pattern(0, 11, 98);
    }
    SECTION("discarded, and written into anew") {
      file.store.put_pattern(file.id, size, 98);
      CHECK(file->discard_dirty(size, 2).value() == 0);
      REQUIRE(file.write(0, "w"));
      expected = "w" + pattern(1, size - 1, 98);
    }
    file.store.load_gate.open();
  }
  CHECK(seen == expected.substr(0, static_cast<std::size_t>(file.C)));  // it looks again after it landed
  CHECK(file.read_all() == expected);
  REQUIRE(file->flush());
  CHECK(file.store.text(file.id) == expected);
  file.pool.evict_clean();
  CHECK(file.read_all() == expected);
}

TEMPLATE_TEST_CASE("two threads load one chunk and one writes into it: the write is kept", "[dirty_file]",
                   EVERY_STORAGE) {
  SharedFile<TestType> file{{.chunk_bytes = 4096, .chunks_per_part = 4}, 4096};
  auto expected = pattern(0, 4096);
  expected.replace(100, 7, "written");
  std::string one, two;
  file.store.load_gate.close();
  {
    Worker first{file.store.load_gate, [&] { one = file.read(0, 4096); }};
    REQUIRE(file.store.load_gate.wait_for_arrivals(1));
    REQUIRE(file.write(100, "written"));
    Worker second{file.store.load_gate, [&] { two = file.read(50, 200); }};
    file.store.load_gate.open();
  }
  CHECK(one == expected);
  CHECK(two == expected.substr(50, 200));
  CHECK(file.read_all() == expected);
}

TEMPLATE_TEST_CASE("two first writes at once to one stored file are both kept, and both sizes seen", "[dirty_file]",
                   EVERY_STORAGE) {
  const auto sizes = GENERATE(any_sizes());
  for (int round = 0; round < 20; ++round) {
    SharedFile<TestType> file{sizes, 3 * sizes.chunk_bytes};
    const auto size = static_cast<std::size_t>(3 * file.C);
    Gate start;
    start.close();
    tarn::Result<std::size_t> one = std::size_t{0}, two = std::size_t{0};
    {
      Worker first{start, [&] {
                     start.pass();
                     one = file.write(0, "1");
                   }};
      Worker second{start, [&] {
                      start.pass();
                      two = file.write(size, "2222");
                    }};
      REQUIRE(start.wait_for_arrivals(2));
      start.open();
    }
    REQUIRE(one);
    REQUIRE(two);
    CHECK(file->size() == size + 4);
    CHECK(file.read_all() == "1" + pattern(1, size - 1) + "2222");
    CHECK(file->metadata().state() == FileState::modified);
  }
}

TEMPLATE_TEST_CASE("a first write that comes while another is being filled waits for it, and both are kept",
                   "[dirty_file]", EVERY_STORAGE) {
  const auto sizes = GENERATE(any_sizes());
  const bool extends_first = GENERATE(false, true);
  SharedFile<TestType> file{sizes, 3 * sizes.chunk_bytes};
  const auto size = static_cast<std::size_t>(3 * file.C);
  Gate filling;
  filling.close();
  tarn::Result<std::size_t> one = std::size_t{0}, two = std::size_t{0};
  BlockedThread second;
  {
    Worker first{filling, [&] {
                   one = file->write(extends_first ? size : 0, 1, [&](tarn::MutableBuffers into) {
                     filling.pass();
                     return into.copy_from(bytes_of("1"));
                   });
                 }};
    REQUIRE(filling.wait_for_arrivals());
    Worker other{filling, [&] {
                   second.here();
                   two = file.write(extends_first ? 0 : size, "2");
                 }};
    CHECK(second.wait_until_blocked());
    filling.open();
  }
  CHECK(one.value() == 1);
  CHECK(two.value() == 1);
  const auto expected = extends_first ? "2" + pattern(1, size - 1) + "1" : "1" + pattern(1, size - 1) + "2";
  CHECK(file.read_all() == expected);
  REQUIRE(file->flush());
  CHECK(file.store.text(file.id) == expected);
}

TEMPLATE_TEST_CASE("appends of many threads neither mix nor overlap", "[dirty_file]", EVERY_STORAGE) {
  SharedFile<TestType> file{GENERATE(any_sizes())};
  constexpr std::size_t threads = 4, each = 25;
  const auto record_bytes = static_cast<std::size_t>(2 * file.C + 3);
  std::atomic<int> wrong{0};
  {
    std::vector<Worker> workers;
    for (std::size_t i = 0; i < threads; ++i) {
      workers.emplace_back([&, i] {
        for (std::size_t n = 0; n < each; ++n) {
          const auto written = file->append(bytes_of(std::string(record_bytes, static_cast<char>('a' + i))));
          if (!written || written->size_bytes != record_bytes || written->offset % record_bytes != 0) ++wrong;
        }
      });
    }
  }
  CHECK(wrong == 0);
  CHECK(file->size() == threads * each * record_bytes);
  const auto text = file.read_all();
  std::vector<std::size_t> seen(threads);
  for (std::size_t at = 0; at < text.size(); at += record_bytes) {
    const auto record = text.substr(at, record_bytes);
    if (record != std::string(record_bytes, record[0])) ++wrong;
    ++seen[static_cast<std::size_t>(record[0] - 'a')];
  }
  CHECK(wrong == 0);
  CHECK(seen == std::vector<std::size_t>(threads, each));
}

TEMPLATE_TEST_CASE("appends that are larger than the pool, and wait for its flushes, do not mix", "[dirty_file]",
                   EVERY_STORAGE) {
  SharedFile<TestType> file{{.chunk_bytes = 65536, .chunks_per_part = 4}, 0, 0};
  constexpr std::size_t size = 8 * MiB;
  tarn::Result<tarn::Written> one = tarn::Written{}, two = tarn::Written{};
  file.store.flush_gate.close();
  {
    Worker first{file.store.flush_gate, [&] { one = file->append(bytes_of(std::string(size, 'a'))); }};
    REQUIRE(file.store.flush_gate.wait_for_arrivals());  // halfway, and the pool is full
    Worker second{file.store.flush_gate, [&] { two = file->append(bytes_of(std::string(size, 'b'))); }};
    file.store.flush_gate.open();
  }
  REQUIRE(one);
  REQUIRE(two);
  CHECK(one->size_bytes == size);
  CHECK(two->size_bytes == size);
  CHECK(file->size() == 2 * size);
  CHECK(one->offset + two->offset == size);
  CHECK((file.read(one->offset, size) == std::string(size, 'a')));
  CHECK((file.read(two->offset, size) == std::string(size, 'b')));
}

TEMPLATE_TEST_CASE("of a truncate and a write that extends one comes first, and no byte appears past the end",
                   "[dirty_file]", EVERY_STORAGE) {
  const auto sizes = GENERATE(any_sizes());
  for (std::uint64_t round = 0; round < 30; ++round) {
    SharedFile<TestType> file{sizes};
    const auto C = static_cast<std::size_t>(file.C);
    const auto before = pattern(0, 2 * C);
    REQUIRE(file.write(0, before));
    const bool extends = round % 2 == 0;
    const auto at = extends ? 2 * C : C;  // past the end, or inside the size and past the shrink
    const auto text = pattern(at, C, 5);
    Gate start;
    start.close();
    tarn::Result<> truncated;
    tarn::Result<std::size_t> written = std::size_t{0};
    {
      Worker truncates{start, [&] {
                         start.pass();
                         truncated = file->truncate(1);
                       }};
      Worker writes{start, [&] {
                      start.pass();
                      written = file.write(at, text);
                    }};
      REQUIRE(start.wait_for_arrivals(2));
      start.open();
    }
    CHECK(truncated);
    CHECK(written.value() == C);
    // The write first: it is gone with the rest. The truncate first: zeros up to the write.
    const auto now = file.read_all();
    const auto truncate_last = before.substr(0, 1);
    const auto write_last = before.substr(0, 1) + zeros(at - 1) + text;
    CHECK((now == truncate_last || now == write_last));
    REQUIRE(file->truncate(4 * C));
    const auto grown = now + zeros(4 * C - now.size());
    CHECK(file.read_all() == grown);
    REQUIRE(file->flush());
    CHECK(file.store.text(file.id) == grown);
  }
}

TEMPLATE_TEST_CASE("a truncate that comes while a write is being filled waits for it, and takes what it wrote",
                   "[dirty_file]", EVERY_STORAGE) {
  SharedFile<TestType> file{GENERATE(any_sizes())};
  const bool extends = GENERATE(false, true);
  const auto C = static_cast<std::size_t>(file.C);
  const auto before = pattern(0, 2 * C);
  REQUIRE(file.write(0, before));
  const auto text = pattern(0, C, 5);
  Gate filling;
  filling.close();
  tarn::Result<std::size_t> written = std::size_t{0};
  tarn::Result<> truncated;
  std::atomic<bool> filled{false}, cut_before_filled{false};
  BlockedThread cutter;
  {
    Worker writes{filling, [&] {
                    written = file->write(extends ? 2 * C : C, C, [&](tarn::MutableBuffers into) {
                      const auto n = into.copy_from(bytes_of(text));
                      filling.pass();
                      filled = true;
                      return n;
                    });
                  }};
    REQUIRE(filling.wait_for_arrivals());
    Worker truncates{filling, [&] {
                       cutter.here();
                       truncated = file->truncate(1);
                       cut_before_filled = !filled;
                     }};
    CHECK(cutter.wait_until_blocked());
    filling.open();
  }
  CHECK_FALSE(cut_before_filled);
  CHECK(written.value() == C);
  REQUIRE(truncated);
  CHECK(file->size() == 1);
  CHECK(file.read(0, 4 * C) == before.substr(0, 1));
  REQUIRE(file->truncate(4 * C));
  const auto grown = before.substr(0, 1) + zeros(4 * C - 1);
  CHECK(file.read_all() == grown);
  REQUIRE(file->flush());
  CHECK(file.store.text(file.id) == grown);
}

TEMPLATE_TEST_CASE("a write that comes while a truncate waits for a view goes after it, and keeps no byte from before",
                   "[dirty_file]", EVERY_STORAGE) {
  // A chunk of one byte is never cut in two, so a truncate has no view to wait for.
  SharedFile<TestType> file{GENERATE(values<Sizes>({{16, 1}, {16, 4}, {4096, 1}, {4096, 4}}))};
  const bool extends = GENERATE(false, true);
  const auto C = static_cast<std::size_t>(file.C);
  const auto before = pattern(0, 2 * C);
  REQUIRE(file.write(0, before));
  const auto at = extends ? 2 * C + 1 : C + 1;
  const auto text = pattern(at, 3, 5);
  Gate viewing;
  viewing.close();
  tarn::Result<std::string> seen = std::string{};
  tarn::Result<std::size_t> written = std::size_t{0};
  tarn::Result<> truncated;
  BlockedThread cutter, writer;
  {
    Worker views{viewing, [&] {
                   seen = file->view(0, C, [&](tarn::ConstBuffers bytes) {
                     viewing.pass();
                     std::string whole(bytes.size_bytes(), '?');
                     bytes.copy_to(writable(whole));
                     return whole;
                   });
                 }};
    REQUIRE(viewing.wait_for_arrivals());
    Worker truncates{viewing, [&] {
                       cutter.here();
                       truncated = file->truncate(1);
                     }};
    REQUIRE(cutter.wait_until_blocked());
    Worker writes{viewing, [&] {
                    writer.here();
                    written = file.write(at, text);
                  }};
    CHECK(writer.wait_until_blocked());
    viewing.open();
  }
  CHECK(seen.value() == before.substr(0, C));  // whole, though it was cut at once afterwards
  REQUIRE(truncated);
  CHECK(written.value() == 3);
  const auto now = before.substr(0, 1) + zeros(at - 1) + text;
  CHECK(file.read(0, 4 * C) == now);
  REQUIRE(file->truncate(4 * C));
  const auto grown = now + zeros(4 * C - now.size());
  CHECK(file.read_all() == grown);
  REQUIRE(file->flush());
  CHECK(file.store.text(file.id) == grown);
}

TEMPLATE_TEST_CASE("a second flush waits for the first, and then has nothing more to store", "[dirty_file]",
                   EVERY_STORAGE) {
  SharedFile<TestType> file{GENERATE(any_sizes())};
  REQUIRE(file.write(0, "x"));
  file.store.flush_gate.close();
  std::atomic<bool> second_done{false};
  std::size_t flushes_before_second_ended = 0;
  tarn::Result<> one, two;
  {
    Worker first{file.store.flush_gate, [&] { one = file->flush(); }};
    REQUIRE(file.store.flush_gate.wait_for_arrivals(1));
    Worker second{file.store.flush_gate, [&] {
                    two = file->flush();
                    flushes_before_second_ended = file.pool.stats().flushes;
                    second_done = true;
                  }};
    CHECK(file.read_all() == "x");  // readable all the time
    CHECK_FALSE(second_done);
    file.store.flush_gate.open();
  }
  CHECK(one);
  CHECK(two);
  CHECK(flushes_before_second_ended == 1);
  CHECK(file.store.counts().flushes == 1);
  CHECK(file.store.text(file.id) == "x");
}

TEMPLATE_TEST_CASE("a second file of an id waits for the flush of the first, and the store has the second's bytes",
                   "[dirty_file]", EVERY_STORAGE) {
  using File = typename SharedFile<TestType>::File;
  const auto sizes = GENERATE(any_sizes());
  const auto size = static_cast<std::size_t>(4 * sizes.chunk_bytes);
  SharedFile<TestType> file{sizes, size};
  auto expected = pattern(0, size);
  REQUIRE(file.write(0, "o"));
  file.store.hold_flushes(1);  // one of the second file would overtake it
  file.store.flush_gate.close();
  std::optional<File> second;
  tarn::Result<> flushed, stored;
  tarn::Result<std::size_t> written = std::size_t{0};
  std::string when_made;
  BlockedThread maker;
  {
    Worker flusher{file.store.flush_gate, [&] { flushed = file->flush(); }};
    REQUIRE(file.store.flush_gate.wait_for_arrivals());
    Worker making{file.store.flush_gate, [&] {
                    maker.here();
                    second.emplace(file.pool,
                                   SharedFile<TestType>::Metadata::from_store(file.id, size, {.part_bytes = file.P}),
                                   file.store);
                    when_made = file.store.text(file.id, 0, 1);
                    written = second->write(0, bytes_of("2nd"));
                    stored = second->flush();
                  }};
    CHECK(maker.wait_until_blocked());
    CHECK(file.store.counts().flushes == 1);
    file.store.flush_gate.open();
  }
  CHECK((flushed || flushed.error().value() == ESTALE));  // of the parts after the one that was in flight
  CHECK(when_made == "o");
  REQUIRE(written);
  CHECK(stored);
  expected.replace(0, 3, "2nd");
  CHECK(file.store.text(file.id) == expected);
  file.pool.evict_clean();
  CHECK(SharedFile<TestType>::read(*second, 0, size) == expected);
  CHECK(file.write(0, "late").error().value() == ESTALE);
}

TEMPLATE_TEST_CASE("a write, a truncate and a read go on while a flush is in flight", "[dirty_file]", EVERY_STORAGE) {
  SharedFile<TestType> file{GENERATE(any_sizes())};
  const auto C = static_cast<std::size_t>(file.C);
  REQUIRE(file.write(0, pattern(0, 2 * C)));
  file.store.flush_gate.close();
  tarn::Result<> flushed;
  std::string expected;
  {
    Worker flusher{file.store.flush_gate, [&] { flushed = file->flush(); }};
    REQUIRE(file.store.flush_gate.wait_for_arrivals(1));
    REQUIRE(file.write(0, pattern(0, C, 1)));
    CHECK(file.read_all() == pattern(0, C, 1) + pattern(C, C));
    REQUIRE(file->truncate(C + 1));
    REQUIRE(file->truncate(3 * C));
    expected = pattern(0, C, 1) + pattern(C, 1) + zeros(2 * C - 1);
    CHECK(file.read_all() == expected);
    CHECK(file.pool.evict_clean() == 0);
    file.store.flush_gate.open();
  }
  CHECK(flushed);
  CHECK(file.read_all() == expected);
  CHECK(file->is_dirty());
  REQUIRE(file->flush());
  CHECK_FALSE(file->is_dirty());
  CHECK(file.store.text(file.id) == expected);
}

TEMPLATE_TEST_CASE("a deleted file takes no more writes unless it is open, and then it works until the last close",
                   "[dirty_file]", EVERY_STORAGE) {
  SharedFile<TestType> file{GENERATE(any_sizes())};
  REQUIRE(file.write(0, "hello"));
  REQUIRE(file->flush());
  SECTION("not open") {
    REQUIRE(file->remove());
    CHECK(file->metadata().state() == FileState::deleted);
    CHECK(file->size() == 0);
    CHECK(file.write(0, "x").error().value() == ENOENT);
    CHECK(file->truncate(5).error().value() == ENOENT);
    CHECK(file->append(bytes_of("x")).error().value() == ENOENT);
    CHECK(file.read(0, 10).empty());
  }
  SECTION("open twice") {
    std::optional one{file->open()}, two{file->open()};
    REQUIRE(file->remove());
    CHECK(file->size() == 5);
    REQUIRE(file.write(5, " still"));
    CHECK(file.read_all() == "hello still");
    REQUIRE(file->flush());
    CHECK(file.store.text(file.id).size() <= 5);  // what it had: a deleted file is not stored again
    one.reset();
    REQUIRE(file->truncate(4));
    CHECK(file.read_all() == "hell");
    two.reset();
    CHECK(file->size() == 0);
    CHECK(file.write(0, "x").error().value() == ENOENT);
  }
  CHECK_FALSE(file.store.has(file.id));
  CHECK_FALSE(file->is_dirty());
  CHECK(file.pool.stats().chunks_held == 0);
  CHECK(file->remove().error().value() == ENOENT);
  CHECK(file.events.lost == 0);  // meant to go
}

TEMPLATE_TEST_CASE("a file deleted while it is being flushed stays deleted, and the store does not get it back",
                   "[dirty_file]", EVERY_STORAGE) {
  SharedFile<TestType> file{GENERATE(any_sizes())};
  REQUIRE(file.write(0, "hello"));
  file.store.flush_gate.close();
  tarn::Result<> flushed, removed;
  BlockedThread removes;
  {
    Worker flusher{file.store.flush_gate, [&] { flushed = file->flush(); }};
    REQUIRE(file.store.flush_gate.wait_for_arrivals(1));
    Worker remover{file.store.flush_gate, [&] {
                     removes.here();
                     removed = file->remove();
                   }};
    CHECK(removes.wait_until_blocked());
    CHECK(file.store.counts().removes == 0);  // it waits for the flush, as the store checks
    CHECK(file.store.counts().flushes == 1);
    file.store.flush_gate.open();
  }
  CHECK(removed);
  CHECK(file->metadata().state() == FileState::deleted);
  CHECK_FALSE(file.store.has(file.id));
  REQUIRE(file->flush());
  CHECK_FALSE(file.store.has(file.id));
}

TEMPLATE_TEST_CASE("a file that the store will not remove is as it was", "[dirty_file]", EVERY_STORAGE) {
  SharedFile<TestType> file{GENERATE(any_sizes())};
  REQUIRE(file.write(0, "hello"));
  file.store.fail_next(Call<TestType>::remove, 1, std::errc::permission_denied);
  CHECK(file->remove().error().value() == EACCES);
  CHECK(file->metadata().state() == FileState::created);
  REQUIRE(file.write(5, "!"));
  REQUIRE(file->flush());
  CHECK(file.store.text(file.id) == "hello!");
}

TEMPLATE_TEST_CASE("dirty bytes that go unflushed with their file are told to the observer, no others are",
                   "[dirty_file]", EVERY_STORAGE) {
  SharedFile<TestType> file{GENERATE(any_sizes())};
  REQUIRE(file.write(0, "hello"));
  SECTION("dirty") {
    file.file.reset();
    CHECK(file.events.lost == 1);
    CHECK(file.events.lost_bytes == 5);
  }
  SECTION("flushed") {
    REQUIRE(file->flush());
    file.file.reset();
    CHECK(file.events.lost == 0);
  }
  SECTION("deleted") {
    REQUIRE(file->remove());
    file.file.reset();
    CHECK(file.events.lost == 0);
  }
  CHECK(file.pool.stats().chunks_dirty == 0);
}

TEMPLATE_TEST_CASE("a size, a hole or a new file that goes unflushed is told to the observer, with no byte",
                   "[dirty_file]", WatchedFiles) {
  SharedFile<TestType> file{{16, 1}, 64};
  const auto told = [&] { return std::pair{file.events.lost.load(), file.events.lost_bytes.load()}; };
  using Told = std::pair<std::uint64_t, std::uint64_t>;
  const auto once = Told{1, 0}, never = Told{0, 0};
  SECTION("a new file, that the store never heard of") {
    tarn::DirtyFile{file.pool, SharedFile<TestType>::Metadata::created(8), file.store};
    CHECK(told() == once);
    return;
  }
  const auto change = GENERATE(as<std::string>{}, "smaller", "larger", "hole");
  CAPTURE(change);
  if (change == "hole") {
    REQUIRE(file->punch_hole(range(16, 32)));
  } else {
    REQUIRE(file->truncate(change == "smaller" ? 40 : 80));
  }
  CHECK(file->is_dirty());
  SECTION("unflushed") {
    file.file.reset();
    CHECK(told() == once);
    return;
  }
  SECTION("flushed") { REQUIRE(file->flush()); }
  SECTION("removed") { REQUIRE(file->remove()); }
  SECTION("discarded") { REQUIRE(file->discard_dirty(64, 1)); }
  SECTION("abandoned") { file->abandon(); }
  file.file.reset();
  CHECK(told() == never);
}

TEMPLATE_TEST_CASE("a file that was removed is not filled again by who opens it", "[dirty_file]", EVERY_STORAGE) {
  SharedFile<TestType> file{{16, 1}, 64};
  SECTION("at once") { REQUIRE(file->remove()); }
  SECTION("at the last close") {
    {
      const auto opener = file->open();
      REQUIRE(file->remove());
      REQUIRE(file.write(0, "still"));
    }
    CHECK(file.store.counts().removes == 1);
  }
  {
    const auto opener = file->open();
    CHECK(file.write(0, std::string(50, 'x')).error().value() == ENOENT);
    CHECK(file->append(bytes_of("x")).error().value() == ENOENT);
    CHECK(file->truncate(5).error().value() == ENOENT);
    CHECK(file->zero_range(range(0, 5), false).error().value() == ENOENT);
    CHECK(file->size() == 0);
    CHECK(file.read(0, 10).empty());
  }
  CHECK(file.pool.stats().dirty_bytes == 0);
  CHECK(file.pool.clear());
  CHECK(file.store.counts().removes == 1);
}

TEMPLATE_TEST_CASE("discarding gives up what is dirty, and the file is as the store has it", "[dirty_file]",
                   EVERY_STORAGE) {
  SharedFile<TestType> file{GENERATE(any_sizes())};
  REQUIRE(file.write(0, "hello"));
  file.store.put(file.id, "from elsewhere");
  CHECK(file->discard_dirty(14, 3).value() == 5);
  CHECK(file->metadata().version() == 3);
  CHECK_FALSE(file->is_dirty());
  CHECK(file.read_all() == "from elsewhere");
  CHECK(file->discard_dirty(max_offset + 1, 4).error().value() == EFBIG);
}

TEMPLATE_TEST_CASE("what was stored under a content id is found by every file of that content, without a copy",
                   "[dirty_file]", EVERY_STORAGE) {
  // A store that names what it stores.
  struct Naming {
    MemoryStore<TestType> memory;
    tarn::Result<std::size_t> load(const tarn::LoadRequest<TestType>& request) { return memory.load(request); }
    tarn::FlushOutcome<TestType> flush(const tarn::FlushRequest<TestType>& request) {
      tarn::Digest<16> id;
      id.bytes[0] = std::byte{9};
      const auto part = request.ranges.empty() ? 0 : request.ranges.front().range.offset() / part_bytes;
      return memory.flush(request).ok() ? tarn::FlushOutcome<TestType>::durable().with_content(part, id)
                                        : tarn::FlushOutcome<TestType>::failed({});
    }
    tarn::Result<> remove(const std::uint64_t& id) { return memory.remove(id); }
    std::uint64_t part_bytes;
  };
  const auto sizes = GENERATE(any_sizes());
  const auto C = sizes.chunk_bytes, P = C * sizes.chunks_per_part;
  tarn::ChunkPool<TestType> pool{pool_options<TestType>(C, 16 * MiB)};
  Naming store{.memory = {}, .part_bytes = P};
  const auto text = pattern(0, static_cast<std::size_t>(P));
  {
    tarn::DirtyFile<TestType, Naming> file{pool, tarn::MetadataFor<TestType>::created(1, {.part_bytes = P}), store};
    REQUIRE(file.write(0, bytes_of(text)));
    const auto held = pool.stats().chunks_held;
    REQUIRE(file.flush());
    CHECK(pool.stats().chunks_held == held);
    const auto meta = file.metadata();
    REQUIRE(meta.content_id(0) != nullptr);
    std::string again(text.size(), '?');
    REQUIRE(file.read(0, writable(again)));
    CHECK(again == text);

    tarn::DirtyFile<TestType, Naming> twin{
        pool, tarn::MetadataFor<TestType>::from_content(2, P, std::span{meta.content_id(0), 1}, {.part_bytes = P}),
        store};
    std::string same(text.size(), '?');
    REQUIRE(twin.read(0, writable(same)));
    CHECK(same == text);
    CHECK(store.memory.counts().loads == 0);
    // What one of them changes is its own.
    REQUIRE(twin.write(0, bytes_of("!")));
    REQUIRE(file.read(0, writable(again)));
    CHECK(again == text);
    REQUIRE(twin.discard_dirty(P, 0));
  }
  pool.evict_clean();
  CHECK(pool.stats().charged_bytes == 0);
}

TEMPLATE_TEST_CASE("rebasing puts what was changed here on what the store has now", "[dirty_file]", EVERY_STORAGE) {
  const auto sizes = GENERATE(any_sizes());
  SharedFile<TestType> file{sizes, 3 * sizes.chunk_bytes};
  const auto old_size = static_cast<std::size_t>(3 * file.C);
  REQUIRE(file.read_all() == pattern(0, old_size));  // held, clean
  REQUIRE(file.write(0, "d"));
  REQUIRE(file->punch_hole(range(file.C, file.C + 1)));
  file.store.answer_conflict_next();
  REQUIRE(file->flush().error() == static_cast<std::errc>(ESTALE));
  CHECK(file.pool.stats().dirty_bytes == 1);
  const int is = GENERATE(1, 0, -1);  // longer, as long, shorter
  const auto new_size = is > 0 ? old_size + 5 : is == 0 ? old_size : old_size - static_cast<std::size_t>(file.C);
  file.store.put_pattern(file.id, new_size, 99);
  REQUIRE(file->rebase(new_size, 2));
  auto expected = pattern(0, new_size, 99);
  expected[0] = 'd';
  if (file.C < new_size) expected[static_cast<std::size_t>(file.C)] = '\0';
  CHECK(file.read_all() == expected);
  CHECK(file->metadata().version() == 2);
  REQUIRE(file->flush());
  CHECK(file.store.text(file.id) == expected);
  CHECK_FALSE(file->is_dirty());
}

TEMPLATE_TEST_CASE("a size that the store has heard of, or that changed nothing, is not set here any more",
                   "[dirty_file]", EVERY_STORAGE) {
  const auto sizes = GENERATE(any_sizes());
  SharedFile<TestType> file{sizes, 3 * sizes.chunk_bytes};
  const auto C = static_cast<std::size_t>(file.C);
  REQUIRE(file->truncate(3 * C));
  REQUIRE(file->truncate(3 * C + 5));
  REQUIRE(file->truncate(3 * C));
  REQUIRE(file->flush());
  CHECK_FALSE(file->is_dirty());
  file.store.put_pattern(file.id, 5 * C, 99);
  REQUIRE(file->rebase(5 * C, 2));
  CHECK(file.read_all() == pattern(0, 5 * C, 99));
  CHECK_FALSE(file->is_dirty());
  // Zeros that reach further set the size, too.
  REQUIRE(file->zero_range(range(5 * C, 6 * C), false));
  file.store.put_pattern(file.id, C, 98);
  REQUIRE(file->rebase(C, 3));
  CHECK(file.read_all() == pattern(0, C, 98) + zeros(5 * C));
  REQUIRE(file->flush());
}

TEMPLATE_TEST_CASE("rebasing keeps a size that was set here", "[dirty_file]", EVERY_STORAGE) {
  const auto sizes = GENERATE(any_sizes());
  SharedFile<TestType> file{sizes, 3 * sizes.chunk_bytes};
  const auto C = static_cast<std::size_t>(file.C);
  REQUIRE(file->truncate(2 * C));
  file.store.put_pattern(file.id, 5 * C, 99);
  REQUIRE(file->rebase(5 * C, 2));
  CHECK(file.read_all() == pattern(0, 2 * C, 99));
  REQUIRE(file->flush());
  CHECK(file.store.text(file.id) == pattern(0, 2 * C, 99));
}

TEMPLATE_TEST_CASE("rebasing a file that was cut and grown again shows zeros there, and the store's bytes beyond",
                   "[dirty_file]", EVERY_STORAGE) {
  const auto sizes = GENERATE(any_sizes());
  SharedFile<TestType> file{sizes, 3 * sizes.chunk_bytes};
  const auto C = static_cast<std::size_t>(file.C);
  REQUIRE(file->truncate(C));
  REQUIRE(file.write(3 * C - 1, "x"));  // grown by a byte, not as such: but the cut was, and stays the size's last word
  file.store.put_pattern(file.id, 3 * C, 99);
  REQUIRE(file->rebase(3 * C, 2));
  CHECK(file.read_all() == pattern(0, C, 99) + zeros(2 * C - 1) + "x");
  REQUIRE(file->flush());
  CHECK(file.store.text(file.id) == pattern(0, C, 99) + zeros(2 * C - 1) + "x");
}

TEMPLATE_TEST_CASE("invalidating keeps what is dirty, and loads the rest anew", "[dirty_file]", EVERY_STORAGE) {
  const auto sizes = GENERATE(any_sizes());
  SharedFile<TestType> file{sizes, 3 * sizes.chunk_bytes + 9};
  const auto size = static_cast<std::size_t>(3 * file.C + 9);
  REQUIRE(file.read_all() == pattern(0, size));
  REQUIRE(file.write(2, "dirty"));
  file.store.put_pattern(file.id, size, 77);
  REQUIRE(file->invalidate(2));
  auto expected = pattern(0, size, 77);
  expected.replace(2, 5, "dirty");
  CHECK(file.read_all() == expected);
  CHECK(file->metadata().version() == 2);
  REQUIRE(file->flush());
  CHECK(file.store.text(file.id) == expected);
}

TEMPLATE_TEST_CASE("a pool full of dirty bytes flushes some file for the one that writes", "[dirty_file]",
                   EVERY_STORAGE) {
  SharedFile<TestType> file{{.chunk_bytes = 65536, .chunks_per_part = 4}, 0, 512 * KiB};
  auto& pool = file.pool;
  typename SharedFile<TestType>::File other{pool, SharedFile<TestType>::Metadata::created(8, {.part_bytes = file.P}),
                                            file.store};
  constexpr std::size_t size = 24 * MiB;  // several times what the pool holds
  const auto text = pattern(0, size);
  REQUIRE(other.write(0, bytes_of(text)).value() == size);
  REQUIRE(file.write(0, text).value() == size);
  CHECK(pool.stats().flushes > 0);
  CHECK(pool.stats().charged_bytes <= pool.budget_bytes());
  CHECK((file.read_all() == text));
  CHECK((SharedFile<TestType>::read(other, 0, size) == text));
  REQUIRE(file->flush());
  REQUIRE(other.flush());
  CHECK((file.store.text(file.id) == text));
  CHECK((file.store.text(8) == text));
}

TEMPLATE_TEST_CASE("with a store that takes nothing a full pool answers ENOBUFS, and keeps every byte", "[dirty_file]",
                   EVERY_STORAGE) {
  SharedFile<TestType> file{{.chunk_bytes = 65536, .chunks_per_part = 4}, 0, 0};
  auto opened = file->open();
  file.store.fail_next(Call<TestType>::flush, SIZE_MAX, std::errc::no_space_on_device);
  const auto text = pattern(0, 24 * MiB);
  const auto written = file.write(0, text);
  REQUIRE(written);
  CHECK(*written < text.size());
  CHECK(file->size() == *written);
  const auto refused = file.write(*written, text);
  CHECK(refused.error().value() == ENOBUFS);
  CHECK((file.read_all() == text.substr(0, *written)));
  CHECK(file.events.failed > 0);
  CHECK(opened.take_error(false).error().value() == ENOSPC);  // a look does not take it
  CHECK(opened.take_error().error().value() == ENOSPC);
  CHECK(opened.take_error());

  file.store.fail_next(Call<TestType>::flush, 0, {});
  REQUIRE(file->flush());
  CHECK((file.store.text(file.id) == text.substr(0, *written)));
}

TEMPLATE_TEST_CASE("with a store that takes nothing for a while, who has a deadline tries again by itself",
                   "[dirty_file]", EVERY_STORAGE) {
  SharedFile<TestType> file{{.chunk_bytes = 65536, .chunks_per_part = 4}, 0, 0};
  const std::string chunk(65536, 'x');
  std::uint64_t at = 0;
  while (file->try_write(at, bytes_of(chunk))) at += chunk.size();
  file.store.fail_next(Call<TestType>::flush, 4, std::errc::no_space_on_device);
  CHECK(file->write(at, bytes_of(chunk), {}, {.deadline_ns = file.pool.deadline_in(deadline)}));
  CHECK(file.events.failed == 4);
  CHECK(file->flush());
}

TEMPLATE_TEST_CASE("what changes while it is loaded past a full pool is not served as it was", "[dirty_file]",
                   EVERY_STORAGE) {
  SharedFile<TestType> file{{.chunk_bytes = 4096, .chunks_per_part = 4}, 4 * 4096, 0};
  typename SharedFile<TestType>::File other{
      file.pool, SharedFile<TestType>::Metadata::created(8, {.part_bytes = file.P}), file.store};
  const std::string chunk(4096, 'x');
  for (std::uint64_t at = 0; other.try_write(at, bytes_of(chunk)); at += chunk.size()) continue;  // dirty to the brim
  std::string seen;
  file.store.load_gate.close();
  {
    Worker reader{file.store.load_gate, [&] { seen = file.read(0, 4096); }};
    REQUIRE(file.store.load_gate.wait_for_arrivals());  // it has its bytes, and is on its way back
    REQUIRE(file->truncate(1));
    REQUIRE(file->truncate(4 * 4096));
    file.store.load_gate.open();
  }
  CHECK(seen == pattern(0, 1) + zeros(4095));
  CHECK(file.pool.stats().loads_uncached != 0);
  CHECK_FALSE(file.pool.contains(file->metadata(), 0));
  REQUIRE(other.flush());
}

TEMPLATE_TEST_CASE(
    "an error in the background is told to every opener of the time once, and to the next if nobody saw "
    "it",
    "[dirty_file]", EVERY_STORAGE) {
  SharedFile<TestType> file{GENERATE(any_sizes())};
  REQUIRE(file.write(0, "x"));
  const auto fail_in_background = [&] {  // as for somebody who needs room
    file.store.fail_next(Call<TestType>::flush, 1, std::errc::no_space_on_device);
    CHECK(file.pool.core().pressure.flush_one() == tarn::detail::Flushed::failed);
    CHECK(file.events.failed == 1);
  };
  SECTION("two openers are told, each once, and a dup's close only looks") {
    auto one = file->open(), two = file->open();
    fail_in_background();
    CHECK(one.flush().error().value() == ENOSPC);
    CHECK(one.flush().error().value() == ENOSPC);
    CHECK(one.sync().error().value() == ENOSPC);
    CHECK(one.sync());
    CHECK(two.sync().error().value() == ENOSPC);
    CHECK(two.sync());
    CHECK(file->open().sync());  // came later, and somebody has seen it
  }
  SECTION("an opener who never asked has not seen it: the next one is told") {
    {
      const auto before = file->open();
      fail_in_background();
    }
    auto next = file->open();
    CHECK(next.take_error().error().value() == ENOSPC);
    CHECK(next.take_error());
    CHECK(file->open().take_error());
  }
  SECTION("an opener after an error that nobody saw is told, also if another follows") {
    fail_in_background();
    auto next = file->open();
    file.store.fail_next(Call<TestType>::flush, 1, std::errc::io_error);
    CHECK(file.pool.core().pressure.flush_one() == tarn::detail::Flushed::failed);
    CHECK(next.take_error().error().value() == EIO);
    CHECK(next.take_error());
  }
  SECTION("an fsync tries again now, and what comes of that is its answer") {
    auto opener = file->open();
    fail_in_background();
    file.store.fail_next(Call<TestType>::flush, 1, std::errc::io_error);
    CHECK(opener.sync().error().value() == EIO);
    CHECK(file.store.counts().flushes == 2);
    CHECK(opener.sync());
    CHECK(file.store.counts().flushes == 3);
  }
  REQUIRE(file->flush());
  CHECK(file.store.text(file.id) == "x");
}

TEMPLATE_TEST_CASE("reads race writes, flushes, truncates and evictions: each window is of one moment", "[dirty_file]",
                   EVERY_STORAGE) {
  // Every write fills a window with one letter: a read of it sees one letter, or zeros where it was cut off.
  SharedFile<TestType> file{{.chunk_bytes = 16, .chunks_per_part = 4}};
  file.store.let_flushes_overtake_loads();
  const auto window = static_cast<std::size_t>(file.pool.window_bytes());
  REQUIRE(file.write(0, std::string(window, 'a')));
  std::atomic<bool> stop{false};
  std::atomic<std::uint64_t> torn{0}, errors{0}, reads{0};
  {
    std::vector<Worker> workers;
    for (int i = 0; i < 2; ++i) {
      workers.emplace_back([&] {
        std::string into(window, '?');
        while (!stop) {
          const auto n = file->read(0, writable(into));
          if (!n) ++errors;
          if (n && *n == window && into != std::string(window, into[0])) ++torn;
          const auto seen = file->view(0, window, [](tarn::ConstBuffers bytes) {
            std::string text(bytes.size_bytes(), '?');
            bytes.copy_to(writable(text));
            return text.size() != 32 || text == std::string(text.size(), text[0]);
          });
          if (!seen) ++errors;
          if (seen && !*seen) ++torn;
          ++reads;
        }
      });
    }
    workers.emplace_back([&] {
      while (!stop) {
        file.pool.evict_clean();
        if (!file->flush()) ++errors;
      }
    });
    for (int i = 0; i < 1500 || reads < 200; ++i) {
      if (!file.write(0, std::string(window, static_cast<char>('a' + i % 26)))) ++errors;
      if (i % 10 == 9 && !file->truncate(0)) ++errors;
      if (i % 7 == 6) {
        const auto filled = file->write(
            0, window, [&](tarn::MutableBuffers into) { return into.copy_from(bytes_of(std::string(window, 'F'))); });
        if (!filled) ++errors;
      }
    }
    stop = true;
  }
  CHECK(torn == 0);
  CHECK(errors == 0);
  CHECK(window == 32);
}

TEMPLATE_TEST_CASE("a load lands beside a truncate of its chunks without a torn list of extents", "[dirty_file]",
                   EVERY_STORAGE) {
  // Chunks with several dirty extents each: their lists grow and are let go of at one time.
  SharedFile<TestType> file{{.chunk_bytes = 4096, .chunks_per_part = 4}, 4 * 4096};
  std::atomic<std::uint64_t> errors{0};
  Gate turn;
  for (int round = 0; round < 60; ++round) {
    REQUIRE(file->discard_dirty(4 * 4096, 0));
    for (std::uint64_t chunk = 0; chunk < 4; ++chunk) {
      for (std::uint64_t at = 0; at < 2; ++at) REQUIRE(file.write(chunk * 4096 + 100 + 500 * at, "dirty"));
    }
    turn.close();
    Worker reader{turn, [&] {
                    turn.pass();
                    std::string into(2 * 4096, '?');
                    if (!file->read(4096, writable(into))) ++errors;
                  }};
    Worker cutter{turn, [&] {
                    turn.pass();
                    for (std::uint64_t size = 3 * 4096; size != 0; size -= 1024) {
                      if (!file->truncate(size)) ++errors;
                    }
                  }};
    REQUIRE(turn.wait_for_arrivals(2));
    turn.open();
  }
  CHECK(errors == 0);
}

TEMPLATE_TEST_CASE("a file whose part is no multiple of the chunk is not made", "[dirty_file]", EVERY_STORAGE) {
  tarn::ChunkPool<TestType> pool{pool_options<TestType>(16, 1 * MiB)};
  MemoryStore<TestType> store;
  using File = typename SharedFile<TestType>::File;
  const auto odd = SharedFile<TestType>::Metadata::created(1, {.part_bytes = 24});
  std::error_code why;
  try {
    File file{pool, odd, store};
  } catch (const std::system_error& error) {
    why = error.code();
  }
  CHECK(why.value() == EINVAL);
  CHECK(pool.stats().charged_bytes == 0);
}

TEMPLATE_TEST_CASE("arguments that no file can have are refused, and nothing has changed", "[dirty_file]",
                   EVERY_STORAGE) {
  SharedFile<TestType> file{GENERATE(any_sizes())};
  REQUIRE(file.write(0, "hello"));
  std::string into(10, '?');
  const auto past = (std::uint64_t{1} << 63) - 4;
  CHECK(file.write(past, "1234567890").error().value() == EFBIG);
  CHECK(file->read(past, writable(into)).error().value() == EOVERFLOW);
  CHECK(file->view(past, 10, [](tarn::ConstBuffers) {}).error().value() == EOVERFLOW);
  CHECK(file->view(0, file.pool.window_bytes() + 1, [](tarn::ConstBuffers) {}).error().value() == EMSGSIZE);
  CHECK(file->try_read(past, writable(into)).error().value() == EOVERFLOW);
  CHECK(file->truncate(~std::uint64_t{0}).error().value() == EFBIG);
  CHECK(file->write(0, std::span<const std::byte>{static_cast<const std::byte*>(nullptr), 3}).error().value() ==
        EINVAL);
  CHECK(file->read(0, std::span<std::byte>{static_cast<std::byte*>(nullptr), 3}).error().value() == EINVAL);
  CHECK(file->append(std::span<const std::byte>{static_cast<const std::byte*>(nullptr), 3}).error().value() == EINVAL);
  CHECK(file.write(max_offset, "").value() == 0);
  CHECK(file.write(max_offset + 1, "").error().value() == EFBIG);
  CHECK(file->append({}).value().size_bytes == 0);
  CHECK(file->size() == 5);
  REQUIRE(file->truncate(max_offset));
  CHECK(file->append(bytes_of("x")).error().value() == EFBIG);
  CHECK(file.read(0, 7) == "hello" + zeros(2));
}

TEST_CASE("a file for whose record there is no room is not made, and what there was of its id is as it was",
          "[dirty_file]") {
  SharedFile<WatchedUsual> file{{16, 1}};
  REQUIRE(file.write(0, "hello"));
  using File = SharedFile<WatchedUsual>::File;
  file.store.fail_next(Call<WatchedUsual>::flush, SIZE_MAX, std::errc::no_space_on_device);
  {
    const Brim full{file.pool};
    for (const std::uint64_t id : {7u, 8u}) {  // it has an owner, it is unknown
      std::error_code why;
      try {
        File other{file.pool, SharedFile<WatchedUsual>::Metadata::created(id), file.store};
      } catch (const std::system_error& e) {
        why = e.code();
      }
      CHECK(why == std::errc::no_buffer_space);
    }
  }
  file.store.fail_next(Call<WatchedUsual>::flush, 0, {});
  CHECK(file.write(5, "!"));
  CHECK(file.read_all() == "hello!");
  CHECK(file->flush());
}

TEST_CASE("a file waits for room for its record while somebody may make some", "[dirty_file]") {
  LaterFile<Usual> file{{4096, 1}};
  REQUIRE(file->write(0, bytes_of("hello")));
  REQUIRE(file->flush({.deadline_ns = 0}).error() == std::errc::timed_out);  // and stays in flight
  std::optional<Brim<Usual>> full{std::in_place, file.pool};
  std::optional<LaterFile<Usual>::File> other;
  BlockedThread waiter;
  {
    Worker maker{[&] {
      waiter.here();
      other.emplace(file.pool, tarn::DirtyFileMetadata::from_store(8, 0), file.store);
    }};
    CHECK(waiter.wait_until_blocked());
    full.reset();
    file.store.finish_flush();
  }
  REQUIRE(other);
  CHECK(other->size() == 0);
  CHECK_FALSE(file->is_dirty());
}

TEST_CASE("what was changed later than a time is not flushed for its age, and what was earlier is", "[dirty_file]") {
  SharedFile<WatchedUsual> file{{16, 1}};
  REQUIRE(file->flush());
  auto& core = file.pool.core();
  const auto before_ns = core.time.now_ns();
  const auto flush_older_than = [&](std::int64_t ns) {
    return core.pressure.flush_one([ns](tarn::detail::Flushable& member) { return member.flush_older_than(ns); });
  };
  REQUIRE(file.write(0, "hello"));
  CHECK(flush_older_than(before_ns) == tarn::detail::Flushed::nothing);
  CHECK(file->is_dirty());
  CHECK(flush_older_than(core.time.now_ns() + 1) == tarn::detail::Flushed::some);
  CHECK_FALSE(file->is_dirty());
  CHECK(file.store.text(file.id) == "hello");
}
