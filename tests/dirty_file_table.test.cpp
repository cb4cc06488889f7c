// SPDX-License-Identifier: MIT
#include <tarn/dirty_file_table.hpp>

#include <atomic>
#include <cstdint>
#include <string>
#include <system_error>
#include <vector>

#include "support/catch.hpp"
#include "support/shared_file.hpp"

using namespace tarn_test;
using tarn::FileState;

namespace {

struct Entry {
  std::string path;
};
struct Named : WatchedFiles {
  using Payload = Entry;
};
using Store = MemoryStore<Named>;
using Table = tarn::DirtyFileTable<Named, Store>;
using Metadata = tarn::MetadataFor<Named>;

struct OneTable {
  Events events;
  tarn::ChunkPool<Named> pool{pool_options<Named>(16, 4 * MiB), WatchingObserver{&events}};
  Store store;
  Table table{pool, store};

  ~OneTable() {
    CHECK(store.complaints() == "");
    table.clear();
    pool.evict_clean();
    CHECK(pool.stats().charged_bytes == 0);
  }
  Table::FilePtr add(std::uint64_t id, std::string path = {}) {
    auto meta = Metadata::created(id);
    meta.payload().path = std::move(path);
    return table.find_or_add(meta);
  }
};

std::string read(Table::File& file, std::size_t size_bytes) { return SharedFile<Named>::read(file, 0, size_bytes); }

}  // namespace

TEST_CASE("an unknown file is the table's answer, not an error", "[dirty_file_table]") {
  OneTable t;
  CHECK(t.table.find(5) == nullptr);
  CHECK_FALSE(t.table.is_dirty(5));
  CHECK(t.table.drop(5) == nullptr);
  CHECK(t.table.dirty().empty());
  CHECK(t.table.size() == 0);
  CHECK(t.table.flush_all());
}

TEST_CASE("a file is made once, and is the same for whoever finds it", "[dirty_file_table]") {
  OneTable t;
  const auto file = t.add(5, "/a");
  REQUIRE(file != nullptr);
  CHECK(t.table.find(5) == file);
  CHECK(t.add(5, "/other") == file);
  CHECK(file->metadata().payload().path == "/a");
  CHECK(t.table.size() == 1);
}

TEST_CASE("many threads that add one file get one file", "[dirty_file_table]") {
  OneTable t;
  std::vector<Table::FilePtr> found(4);
  for (std::uint64_t id = 0; id < 50; ++id) {
    Gate start;
    start.close();
    {
      std::vector<Worker> workers;
      for (std::size_t i = 0; i < found.size(); ++i) {
        workers.emplace_back(start, [&, i] {
          start.pass();
          found[i] = t.add(id);
        });
      }
      REQUIRE(start.wait_for_arrivals(found.size()));
      start.open();
    }
    REQUIRE(found[0] != nullptr);
    for (const auto& file : found) CHECK(file == found[0]);
  }
  CHECK(t.table.size() == 50);
}

TEST_CASE("who adds a file that another thread is making waits for that one", "[dirty_file_table]") {
  OneTable t;
  tarn::DirtyFile<Named, Store> last{t.pool, Metadata::created(1), t.store};
  REQUIRE(last.write(0, bytes_of("last")));
  t.store.flush_gate.close();
  tarn::Result<> flushed;
  Table::FilePtr made, waited_for;
  BlockedThread maker, waiter;
  {
    const Worker flusher{t.store.flush_gate, [&] { flushed = last.flush(); }};
    REQUIRE(t.store.flush_gate.wait_for_arrivals());
    const Worker first{t.store.flush_gate, [&] {
                         maker.here();
                         made = t.add(1, "/first");  // waits for the flush of the last file of the id
                       }};
    REQUIRE(maker.wait_until_blocked());
    const Worker second{t.store.flush_gate, [&] {
                          waiter.here();
                          waited_for = t.add(1, "/second");
                        }};
    CHECK(waiter.wait_until_blocked());
    CHECK(t.table.find(1) == nullptr);  // and nobody else waits for it
    CHECK(t.table.size() == 0);
    t.store.flush_gate.open();
  }
  CHECK(flushed);
  REQUIRE(made != nullptr);
  CHECK(waited_for == made);
  CHECK(t.table.find(1) == made);
  CHECK(made->metadata().payload().path == "/first");
}

TEST_CASE("the dirty files are those with anything to store, and all of them are flushed", "[dirty_file_table]") {
  OneTable t;
  for (std::uint64_t id = 1; id <= 4; ++id) REQUIRE(t.add(id)->write(0, bytes_of("file " + std::to_string(id))));
  REQUIRE(t.table.find(2)->flush());
  auto dirty = t.table.dirty();
  std::sort(dirty.begin(), dirty.end());
  CHECK(dirty == std::vector<std::uint64_t>{1, 3, 4});
  CHECK(t.table.is_dirty(1));
  CHECK_FALSE(t.table.is_dirty(2));

  t.store.fail_next(Store::Call::flush, 1, std::errc::no_space_on_device);
  CHECK(t.table.flush_all().error().value() == ENOSPC);
  CHECK(t.table.dirty().size() == 1);  // one failed, the others were stored all the same
  REQUIRE(t.table.flush_all());
  CHECK(t.table.dirty().empty());
  for (std::uint64_t id = 1; id <= 4; ++id) CHECK(t.store.text(id) == "file " + std::to_string(id));
}

TEST_CASE("a new file that nobody has open is gone from table and pool when it is deleted", "[dirty_file_table]") {
  OneTable t;
  REQUIRE(t.add(1)->write(0, bytes_of("new")));
  REQUIRE(t.table.find(1)->remove());
  CHECK(t.pool.stats().chunks_held == 0);
  CHECK(t.table.drop(1) != nullptr);
  CHECK(t.table.find(1) == nullptr);
  CHECK(t.table.size() == 0);
  CHECK(t.pool.stats().charged_bytes == 0);
  CHECK(t.events.lost == 0);
}

TEST_CASE("a stored or changed file that is deleted is one entry, in state deleted", "[dirty_file_table]") {
  OneTable t;
  t.store.put_pattern(1, 30);
  const auto file = t.table.find_or_add(Metadata::from_store(1, 30));
  if (GENERATE(false, true)) REQUIRE(file->write(3, bytes_of("changed")));
  REQUIRE(file->remove());
  CHECK(t.table.size() == 1);
  CHECK(t.table.find(1)->metadata().state() == FileState::deleted);
  CHECK_FALSE(t.table.is_dirty(1));
  CHECK(t.table.find(1)->size() == 0);
  CHECK(t.table.flush_all());
  CHECK_FALSE(t.store.has(1));
}

TEST_CASE("files are found and erased by what their payload says", "[dirty_file_table]") {
  OneTable t;
  t.add(1, "/a/x");
  t.add(2, "/b/y");
  t.add(3, "/a/z");
  const auto in_a = [](const Metadata& meta) { return meta.payload().path.starts_with("/a/"); };
  const auto found = t.table.find_if([](const Metadata& meta) { return meta.payload().path == "/b/y"; });
  REQUIRE(found != nullptr);
  CHECK(found->metadata().id() == 2);
  CHECK(t.table.find_if([](const Metadata& meta) { return meta.payload().path == "/c"; }) == nullptr);
  CHECK(t.table.erase_if(in_a) == 2);
  CHECK(t.table.size() == 1);
  CHECK(t.table.erase_if(in_a) == 0);
  t.table.clear();
  CHECK(t.table.size() == 0);
}

TEST_CASE("a file lives through a call on it, also if it is dropped from the table meanwhile", "[dirty_file_table]") {
  OneTable t;
  t.store.put_pattern(1, 64);
  const auto file = t.table.find_or_add(Metadata::from_store(1, 64));
  std::string seen;
  t.store.load_gate.close();
  {
    Worker reader{t.store.load_gate, [&] {
                    const auto mine = t.table.find(1);
                    seen = read(*mine, 64);
                  }};
    REQUIRE(t.store.load_gate.wait_for_arrivals());
    CHECK(t.table.drop(1) != nullptr);
    t.store.load_gate.open();
  }
  CHECK(seen == pattern(0, 64));
}

TEST_CASE("an id used again while loads of its old file are in flight: neither shows in the other",
          "[dirty_file_table]") {
  OneTable t;
  t.store.put_pattern(1, 64);
  auto old = t.table.find_or_add(Metadata::from_store(1, 64));
  std::string seen;
  t.store.load_gate.close();
  Table::FilePtr young;
  {
    Worker reader{t.store.load_gate, [&, mine = old] { seen = read(*mine, 64); }};
    REQUIRE(t.store.load_gate.wait_for_arrivals());
    if (GENERATE(false, true)) REQUIRE(old->write(60, bytes_of("lost")));
    CHECK(t.table.drop(1) == old);
    CHECK(old->write(0, bytes_of("late")).error().value() == ESTALE);  // said, not lost in silence
    REQUIRE(old->remove());
    young = t.add(1);
    REQUIRE(young != old);
    REQUIRE(young->truncate(64));
    REQUIRE(young->write(0, bytes_of("young")));
    t.store.load_gate.open();
  }
  CHECK((seen.empty() || seen == "error: Stale file handle"));  // of a file that is gone
  CHECK(read(*young, 64) == "young" + zeros(59));
  old.reset();  // the last of the old file takes nothing of the new one
  CHECK(read(*young, 64) == "young" + zeros(59));
  CHECK(young->is_dirty());
  REQUIRE(young->flush());
  CHECK(t.store.text(1) == "young" + zeros(59));
}

TEST_CASE(
    "an id used again while a flush of its old file is in flight: the store has the new file's bytes and no others",
    "[dirty_file_table]") {
  OneTable t;
  const bool removes = GENERATE(false, true);
  t.store.put_pattern(1, 64);
  const auto old = t.table.find_or_add(Metadata::from_store(1, 64));
  REQUIRE(old->write(0, bytes_of("old")));
  t.store.hold_flushes(1);  // the old file's; a flush of the new one would overtake it
  t.store.flush_gate.close();
  tarn::Result<> flushed, removed, stored;
  tarn::Result<std::size_t> written = std::size_t{0};
  Table::FilePtr young;
  std::string at_drop;
  BlockedThread user;
  {
    Worker flusher{t.store.flush_gate, [&] { flushed = old->flush(); }};
    REQUIRE(t.store.flush_gate.wait_for_arrivals());
    Worker reuser{t.store.flush_gate, [&] {
                    user.here();
                    t.table.drop(1);
                    at_drop = t.store.text(1, 0, 5);
                    if (removes) removed = old->remove();
                    young = removes ? t.add(1) : t.table.find_or_add(Metadata::from_store(1, 64));
                    written = young->write(0, bytes_of("young"));
                    stored = young->flush();
                  }};
    CHECK(user.wait_until_blocked());
    CHECK(t.store.counts().flushes == 1);
    t.store.flush_gate.open();
  }
  CHECK((flushed || flushed.error().value() == ESTALE));  // of the parts after the one that was in flight
  CHECK(at_drop == "old" + pattern(3, 2));                // the drop came back after the flush had
  CHECK(removed);
  REQUIRE(written);
  CHECK(stored);
  const auto expected = removes ? "young" : "young" + pattern(5, 59);
  CHECK(t.store.text(1) == expected);
  t.pool.evict_clean();
  CHECK(read(*young, 64) == expected);
}

TEST_CASE("a file whose id is another's neither reads, nor changes, nor removes what is that one's",
          "[dirty_file_table]") {
  OneTable t;
  t.store.put_pattern(1, 64);
  const auto old = t.table.find_or_add(Metadata::from_store(1, 64));
  REQUIRE(old->write(0, bytes_of("old")));
  CHECK(t.table.drop(1) == old);
  CHECK(old->flush().error().value() == ESTALE);
  CHECK(read(*old, 64) == "old" + pattern(3, 61));

  const auto young = t.table.find_or_add(Metadata::from_store(1, 64));
  REQUIRE(young != old);
  CHECK(read(*young, 64) == pattern(0, 64));
  REQUIRE(young->write(0, bytes_of("young")));
  REQUIRE(young->flush());
  t.pool.evict_clean();
  CHECK(old->flush().error().value() == ESTALE);
  CHECK(old->remove().error().value() == ESTALE);
  CHECK(read(*old, 3) == "old");  // held, and its own
  std::string into(64, '?');
  CHECK(old->read(0, writable(into)).error().value() == ESTALE);  // the rest of it only the store had
  CHECK(t.store.text(1) == "young" + pattern(5, 59));
  CHECK(read(*young, 64) == "young" + pattern(5, 59));
}

TEST_CASE("a file that cannot be made is not in the table, and may be made later", "[dirty_file_table]") {
  OneTable t;
  CHECK_THROWS_AS(t.table.find_or_add(Metadata::created(1, {.part_bytes = 24})), std::system_error);
  CHECK(t.table.find(1) == nullptr);
  CHECK(t.table.size() == 0);
  CHECK(t.add(1) != nullptr);
}

TEST_CASE("of many files that are not stored, the first error is told, and all stay dirty", "[dirty_file_table]") {
  OneTable t;
  for (std::uint64_t id = 1; id <= 3; ++id) REQUIRE(t.add(id)->write(0, bytes_of("x")));
  t.store.fail_next(Store::Call::flush, 3, std::errc::no_space_on_device);
  CHECK(t.table.flush_all().error() == std::errc::no_space_on_device);
  CHECK(t.table.dirty().size() == 3);
  CHECK(t.store.counts().flushes == 3);
  CHECK(t.table.flush_all());
}

TEST_CASE("of files that a predicate drops itself, or puts others in the place of, none is erased",
          "[dirty_file_table]") {
  OneTable t;
  t.add(1);
  CHECK(t.table.erase_if([&](const Metadata& meta) { return t.table.drop(meta.id()) != nullptr; }) == 0);
  CHECK(t.table.size() == 0);
  const auto old = t.add(1, "/old");
  Table::FilePtr young;
  CHECK(t.table.erase_if([&](const Metadata& meta) {
    t.table.drop(meta.id());
    young = t.add(meta.id(), "/young");
    return true;
  }) == 0);
  CHECK(t.table.find(1) == young);
  CHECK(young != old);
}
