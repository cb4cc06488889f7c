// SPDX-License-Identifier: MIT
// Syncs of a store that answers later.
#include <tarn/detail/file_sync.hpp>

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <tarn/dirty_file.hpp>
#include <tarn/dirty_file_async.hpp>
#include <tarn/testing/gate.hpp>
#include <tarn/testing/later_store.hpp>

#include "support/brim.hpp"
#include "support/catch.hpp"
#include "support/one_file.hpp"

using namespace tarn_test;

namespace {

/// A store that answers when told, and whose flush is only stored.
class LaterSyncStore : public LaterStore<Heap> {
 public:
  void sync(const tarn::SyncRequest<Heap>&, tarn::SyncToken<Heap> token) { syncs_.push_back(std::move(token)); }

  [[nodiscard]] std::size_t open_syncs() const { return syncs_.size(); }
  [[nodiscard]] tarn::SyncScope asked_for() const { return syncs_.front().request().scope; }
  void finish_sync(const tarn::Result<>& answer = {}) {
    auto token = std::move(syncs_.front());
    syncs_.pop_front();
    token.complete(answer);
  }
  /// What is stored has that content id, if there is one.
  void store_one(std::optional<tarn::Digest<16>> content = {}) {
    auto token = take_flush();
    REQUIRE(memory.flush(token.request()).ok());
    auto outcome = tarn::FlushOutcome<Heap>::stored();
    if (content) outcome = std::move(outcome).with_content(0, *content);
    token.complete(outcome);
  }

 private:
  std::deque<tarn::SyncToken<Heap>> syncs_;
};

struct LaterSyncedFile {
  using File = tarn::DirtyFile<Heap, LaterSyncStore>;
  static constexpr std::uint64_t id = 7, C = 16;

  LaterSyncedFile() { file.emplace(pool, tarn::DirtyFileMetadata::created(id, {.part_bytes = C}), store); }
  void write(std::uint64_t offset, std::string_view text) { REQUIRE(file->write(offset, bytes_of(text))); }
  [[nodiscard]] auto sync(std::optional<tarn::Result<>>& ended, tarn::SyncScope scope = tarn::SyncScope::all) {
    return tarn::sync_operation(
        *file, [&ended](tarn::Result<> result) { ended.emplace(result); }, scope);
  }
  [[nodiscard]] std::string read_all() {
    std::string into(static_cast<std::size_t>(file->size()), '?');
    file->store().answer_at_once();
    const auto n = file->read(0, writable(into));
    file->store().answer_at_once(false);
    return n ? into : "error: " + n.error().message();
  }
  /// Calls sync, and ends what the store is asked for so; `answer` is the store's to the sync.
  void sync_now(const tarn::Result<>& answer = {}) {
    std::optional<tarn::Result<>> ended;
    auto operation = sync(ended);
    operation.start();
    while (!ended) {
      if (store.open_flushes() != 0) {
        store.store_one();
      } else {
        store.finish_sync(answer);
      }
    }
    REQUIRE(ended->has_value() == answer.has_value());
  }
  /// A sync for which something was stored, and that the store has not answered. Returns: what keeps it.
  [[nodiscard]] auto begin_sync(std::optional<tarn::Result<>>& ended, tarn::SyncScope scope = tarn::SyncScope::all) {
    using Operation = decltype(sync(ended, scope));
    std::unique_ptr<Operation> operation{new Operation(sync(ended, scope))};
    operation->start();
    store.store_one();
    REQUIRE(store.open_syncs() == 1);
    return operation;
  }
  void flush_now() {
    tarn::start_flush(*file, [](const tarn::Result<std::uint64_t>&) {});
    store.store_one();
  }
  /// A flush is asked for, and not answered. Returns: its token.
  [[nodiscard]] auto begin_flush() {
    tarn::start_flush(*file, [](const tarn::Result<std::uint64_t>&) {});
    REQUIRE(store.open_flushes() == 1);
    return store.take_flush();
  }
  /// The store has `text` now, by somebody else's hand, and the file is told so.
  void replace(const std::string& how, const std::string& text) {
    store.memory.put(id, text);
    tarn::Result<> told;
    if (how == "invalidate") told = file->invalidate(2);
    if (how == "rebase") told = file->rebase(text.size(), 2);
    if (how == "discard_dirty") {
      const auto gone_bytes = file->discard_dirty(text.size(), 2);
      if (!gone_bytes) told = tarn::fail(gone_bytes.error());
    }
    REQUIRE(told);
  }

  tarn::ChunkPool<Heap> pool{pool_options<Heap>(C, 16 * MiB)};
  LaterSyncStore store;
  std::optional<File> file;
};

}  // namespace

TEST_CASE("syncs that wait for one in flight wait, and do not wake each other for ever", "[sync]") {
  LaterSyncedFile file;
  file.write(0, "a");
  std::optional<tarn::Result<>> ended[3];
  const auto first = file.begin_sync(ended[0]);
  auto second = file.sync(ended[1]), third = file.sync(ended[2]);
  second.start();
  third.start();
  CHECK_FALSE(ended[1]);
  CHECK_FALSE(ended[2]);
  file.store.finish_sync();
  for (const auto& each : ended) CHECK((each && *each));
  CHECK(file.store.open_syncs() == 0);
}

TEST_CASE("a sync is not good while what a failed one made dirty again is still dirty", "[sync]") {
  LaterSyncedFile file;
  file.write(0, "a");
  std::optional<tarn::Result<>> ended[2];
  const auto first = file.begin_sync(ended[0]);
  file.write(file.C, "b");
  auto second = file.sync(ended[1]);
  second.start();
  REQUIRE(file.store.open_flushes() == 1);  // of "b": "a" lies before it, and is clean
  file.store.finish_sync(tarn::fail(std::errc::io_error));
  REQUIRE(ended[0]);
  CHECK(ended[0]->error() == std::errc::io_error);
  CHECK(file.pool.stats().dirty_bytes == 2);
  while (!ended[1]) {
    if (file.store.open_flushes() != 0) {
      file.store.store_one();
    } else {
      file.store.finish_sync();
    }
  }
  CHECK(*ended[1]);
  CHECK(file.pool.stats().dirty_bytes == 0);
}

TEST_CASE("a sync that fails after its file has gone makes nothing dirty of the next one of that id", "[sync]") {
  LaterSyncedFile file;
  file.write(0, "a");
  {
    std::optional<tarn::Result<>> ended;
    auto first = file.sync(ended);
    first.start();
    file.store.store_one();
    first.cancel();
    REQUIRE(ended);
  }
  REQUIRE(file.store.open_syncs() == 1);
  file.file.reset();
  file.file.emplace(file.pool, tarn::DirtyFileMetadata::from_store(file.id, 1, {.part_bytes = file.C}), file.store);
  std::string into(1, '?');
  std::optional<tarn::Result<std::size_t>> read;
  auto reading = tarn::read_operation(*file.file, 0, writable(into),
                                      [&](tarn::Result<std::size_t> n) { read.emplace(std::move(n)); });
  reading.start();
  file.store.finish_load();
  REQUIRE(read);
  REQUIRE(into == "a");
  file.store.finish_sync(tarn::fail(std::errc::io_error));
  CHECK(file.pool.stats().dirty_bytes == 0);
  CHECK_FALSE(file.file->is_dirty());
}

TEST_CASE("a flush that was in flight when a sync failed leaves its bytes dirty: the store may have forgotten them",
          "[sync]") {
  LaterSyncedFile file;
  file.write(0, "a");
  std::optional<tarn::Result<>> synced;
  const auto sync = file.begin_sync(synced);
  file.write(0, "b");
  tarn::start_flush(*file.file, [](const tarn::Result<std::uint64_t>&) {});
  REQUIRE(file.store.open_flushes() == 1);
  file.store.finish_sync(tarn::fail(std::errc::io_error));
  REQUIRE(synced);
  file.store.store_one();
  CHECK(file.pool.stats().dirty_bytes == 1);
  CHECK(file.file->is_dirty());
}

TEST_CASE("a sync that fails after the store's bytes were replaced makes none of the new ones dirty", "[sync]") {
  const std::string how = GENERATE("invalidate", "rebase", "discard_dirty");
  CAPTURE(how);
  LaterSyncedFile file;
  file.write(0, "mine");
  std::optional<tarn::Result<>> ended;
  const auto first = file.begin_sync(ended);
  file.replace(how, "news");
  CHECK(file.read_all() == "news");  // held from here on
  file.store.finish_sync(tarn::fail(std::errc::io_error));
  REQUIRE(ended);
  CHECK(ended->error() == std::errc::io_error);
  CHECK(file.pool.stats().dirty_bytes == 0);
  CHECK_FALSE(file.file->is_dirty());
  CHECK(file.file->metadata().state() == tarn::FileState::clean);
  CHECK(file.file->needs_sync());  // what the store has now may be no more durable than what was

  std::optional<tarn::Result<>> again;
  auto second = file.sync(again);
  second.start();
  CHECK(file.store.open_flushes() == 0);
  REQUIRE(file.store.open_syncs() == 1);
  file.store.finish_sync();
  REQUIRE(again);
  CHECK(*again);
  CHECK(file.store.memory.text(file.id) == "news");
}

TEST_CASE("what was stored before the store's bytes were replaced is not made dirty by a sync that fails later",
          "[sync]") {
  const std::string how = GENERATE("invalidate", "rebase", "discard_dirty");
  CAPTURE(how);
  LaterSyncedFile file;
  file.write(0, "mine");
  std::optional<tarn::Result<>> ended[2];
  if (GENERATE(false, true)) {  // it failed once before: dirty again, and stored anew
    auto first = file.sync(ended[0]);
    first.start();
    file.store.store_one();
    file.store.finish_sync(tarn::fail(std::errc::io_error));
    REQUIRE(ended[0]);
    REQUIRE(file.file->is_dirty());
  }
  file.flush_now();
  REQUIRE_FALSE(file.file->is_dirty());
  file.replace(how, "news");
  CHECK(file.read_all() == "news");
  auto second = file.sync(ended[1]);
  second.start();
  REQUIRE(file.store.open_syncs() == 1);
  file.store.finish_sync(tarn::fail(std::errc::io_error));
  REQUIRE(ended[1]);
  CHECK(ended[1]->error() == std::errc::io_error);
  CHECK(file.pool.stats().dirty_bytes == 0);
}

TEST_CASE("bytes that a failed sync made dirty again are given up by a discard, and stay changes by a rebase",
          "[sync]") {
  LaterSyncedFile file;
  file.write(0, "mine");
  std::optional<tarn::Result<>> ended;
  const auto first = file.begin_sync(ended);
  file.store.finish_sync(tarn::fail(std::errc::io_error));
  REQUIRE(ended);
  SECTION("discard_dirty") {
    file.replace("discard_dirty", "news");
    CHECK_FALSE(file.file->is_dirty());
    CHECK(file.read_all() == "news");
  }
  SECTION("rebase") {
    file.replace("rebase", "newer");
    CHECK(file.pool.stats().dirty_bytes == 4);
    CHECK(file.read_all() == "miner");
  }
}

TEST_CASE("what is stored after the store's bytes were replaced is dirty again if the sync before that fails",
          "[sync]") {
  LaterSyncedFile file;
  file.write(0, "mine");
  std::optional<tarn::Result<>> ended;
  const auto first = file.begin_sync(ended);
  file.replace(GENERATE("invalidate", "rebase", "discard_dirty"), "news");
  file.write(1, "ai");
  file.flush_now();
  CHECK(file.read_all() == "nais");
  REQUIRE_FALSE(file.file->is_dirty());
  file.store.finish_sync(tarn::fail(std::errc::io_error));
  REQUIRE(ended);
  CHECK(extents_of(file.pool.dirty_extents(file.file->metadata())) == Extents{{1, 3}});
}

TEST_CASE("a sync that fails while the file is being removed counts, if the store then keeps the file", "[sync]") {
  LaterSyncedFile file;
  file.write(0, "mine");
  std::optional<tarn::Result<>> ended, removed;
  const auto first = file.begin_sync(ended);
  const bool keeps = GENERATE(true, false);
  if (keeps) file.store.memory.fail_next(MemoryStore<Heap>::Call::remove, 1, std::errc::permission_denied);
  file.store.memory.remove_gate.close();
  {
    Worker remover{file.store.memory.remove_gate, [&] { removed.emplace(file.file->remove()); }};
    REQUIRE(file.store.memory.remove_gate.wait_for_arrivals());
    file.store.finish_sync(tarn::fail(std::errc::io_error));
  }
  CHECK(ended->error() == std::errc::io_error);
  CHECK(removed->has_value() != keeps);
  CHECK(file.pool.stats().dirty_bytes == (keeps ? 4 : 0));
  CHECK(file.file->is_dirty() == keeps);
}

TEST_CASE("a sync of the data stores what is dirty and asks the store for that much, and no more than once", "[sync]") {
  LaterSyncedFile file;
  file.write(0, "a");
  std::optional<tarn::Result<>> ended[3];
  const auto first = file.begin_sync(ended[0], tarn::SyncScope::data);
  CHECK(file.store.asked_for() == tarn::SyncScope::data);
  file.store.finish_sync();
  CHECK((ended[0] && *ended[0]));
  CHECK(file.file->metadata().unsynced().empty());
  auto again = file.sync(ended[1], tarn::SyncScope::data);
  again.start();
  CHECK((ended[1] && *ended[1]));
  CHECK(file.store.open_syncs() == 0);

  // The rest is for a sync of all: it asks, though no byte is to be made durable.
  CHECK(file.file->needs_sync());
  auto all = file.sync(ended[2]);
  all.start();
  REQUIRE(file.store.open_syncs() == 1);
  CHECK(file.store.asked_for() == tarn::SyncScope::all);
  file.store.finish_sync();
  CHECK((ended[2] && *ended[2]));
  CHECK_FALSE(file.file->needs_sync());

  // A size is data.
  REQUIRE(file.file->truncate(0));
  std::optional<tarn::Result<>> cut;
  const auto size = file.begin_sync(cut, tarn::SyncScope::data);
  file.store.finish_sync();
  CHECK((cut && *cut));
}

TEST_CASE("a sync of all that comes while one of the data is in flight asks for itself", "[sync]") {
  LaterSyncedFile file;
  file.write(0, "a");
  std::optional<tarn::Result<>> ended[3];
  auto data = file.sync(ended[0], tarn::SyncScope::data);
  auto all = file.sync(ended[1]);
  auto more_data = file.sync(ended[2], tarn::SyncScope::data);
  data.start();
  file.store.store_one();
  all.start();
  more_data.start();
  REQUIRE(file.store.open_syncs() == 1);
  file.store.finish_sync();
  CHECK((ended[0] && *ended[0]));
  CHECK_FALSE(ended[1]);
  REQUIRE(file.store.open_syncs() == 1);
  CHECK(file.store.asked_for() == tarn::SyncScope::all);
  file.store.finish_sync();
  CHECK((ended[1] && *ended[1]));
  CHECK((ended[2] && *ended[2]));
  CHECK(file.store.open_syncs() == 0);
}

TEST_CASE("a sync of the data that fails makes dirty again, and a sync of all is still due", "[sync]") {
  LaterSyncedFile file;
  file.write(0, "a");
  std::optional<tarn::Result<>> ended[2];
  const auto data = file.begin_sync(ended[0], tarn::SyncScope::data);
  file.store.finish_sync(tarn::fail(std::errc::io_error));
  REQUIRE(ended[0]);
  CHECK(ended[0]->error() == std::errc::io_error);
  CHECK(file.pool.stats().dirty_bytes == 1);
  CHECK(file.file->needs_sync());
  file.store.answer_at_once();
  auto again = file.sync(ended[1], tarn::SyncScope::data);
  again.start();
  REQUIRE(file.store.open_syncs() == 1);
  file.store.finish_sync();
  CHECK((ended[1] && *ended[1]));
}

TEST_CASE("what has a content id and is not durable stays the file's own, and is dirty again if its sync fails",
          "[sync]") {
  LaterSyncedFile file;
  const auto text = pattern(0, file.C);
  const tarn::Digest<16> content{.bytes = {std::byte{9}}};
  file.write(0, text);
  std::optional<tarn::Result<>> ended[2];
  auto first = file.sync(ended[0]);
  first.start();
  file.store.store_one(content);
  REQUIRE(file.store.open_syncs() == 1);
  REQUIRE(file.file->metadata().content_id(0) != nullptr);
  CHECK_FALSE(file.pool.try_get(content, 0));
  file.store.finish_sync(tarn::fail(std::errc::io_error));
  CHECK(ended[0]->error() == std::errc::io_error);
  CHECK(file.pool.stats().dirty_bytes == text.size());
  auto second = file.sync(ended[1]);
  second.start();
  REQUIRE(file.store.open_flushes() == 1);
  file.store.store_one(content);
  file.store.finish_sync();
  CHECK((ended[1] && *ended[1]));
  CHECK(file.store.memory.text(file.id) == text);
}

TEST_CASE("a cut that a failed sync may have forgotten is no bound: what grows over it is stored as zeros", "[sync]") {
  LaterSyncedFile file;
  file.write(0, std::string(2 * file.C, 'x'));
  file.sync_now();
  REQUIRE(file.file->truncate(8));
  const bool other_first = GENERATE(false, true);
  if (other_first) file.sync_now();  // the cut is durable: then it is a bound
  if (other_first) REQUIRE(file.file->truncate(7));
  file.sync_now(tarn::fail(std::errc::io_error));
  REQUIRE(file.file->truncate(2 * file.C));
  const auto flush = file.begin_flush();
  const auto& request = flush.request();
  CHECK(request.size_bytes == 2 * file.C);
  CHECK(request.store_size_bound_bytes == (other_first ? 8 : 2 * file.C));
  REQUIRE(request.ranges.size() == 1);
  CHECK(request.ranges[0] == tarn::FlushRange{ByteRange::between(other_first ? 7 : 8, 2 * file.C), true});
}

TEST_CASE("a cut that is in flight when a sync fails is flushed again", "[sync]") {
  LaterSyncedFile file;
  file.write(0, std::string(file.C, 'x'));
  file.sync_now();
  file.write(file.C, "y");
  std::optional<tarn::Result<>> ended;
  const auto sync = file.begin_sync(ended);
  REQUIRE(file.file->truncate(4));
  auto flush = file.begin_flush();
  file.store.finish_sync(tarn::fail(std::errc::io_error));
  REQUIRE(ended);
  REQUIRE(file.store.memory.flush(flush.request()).ok());
  flush.complete(tarn::FlushOutcome<Heap>::stored());
  CHECK(file.file->is_dirty());
  const auto again = file.begin_flush();
  CHECK(again.request().size_bytes == 4);
  CHECK(again.request().store_size_bound_bytes == file.C + 1);
}

TEST_CASE("what was stored during a sync and then replaced is no size of ours if the sync fails", "[sync]") {
  const std::string how = GENERATE("invalidate", "rebase", "discard_dirty");
  CAPTURE(how);
  LaterSyncedFile file;
  file.write(0, "mine");
  std::optional<tarn::Result<>> ended;
  const auto sync = file.begin_sync(ended);
  file.write(0, "more");
  file.flush_now();
  REQUIRE_FALSE(file.file->is_dirty());
  file.replace(how, "news");
  file.store.finish_sync(tarn::fail(std::errc::io_error));
  REQUIRE(ended);
  CHECK_FALSE(file.file->is_dirty());
  CHECK(file.read_all() == "news");
}

TEST_CASE("who called for a sync of bytes that another's failed sync lost is told, too", "[sync]") {
  const bool evicted = GENERATE(true, false);
  LaterSyncedFile file;
  file.write(0, "a");
  std::optional<tarn::Result<>> ended[2];
  auto first = file.sync(ended[0]), second = file.sync(ended[1]);
  first.start();
  second.start();
  file.store.store_one();
  REQUIRE(file.store.open_syncs() == 1);
  if (evicted) file.pool.evict_clean();
  file.store.finish_sync(tarn::fail(std::errc::io_error));
  while (!ended[1]) {
    if (file.store.open_flushes() != 0) {
      file.store.store_one();
    } else {
      file.store.finish_sync();
    }
  }
  REQUIRE(ended[0]);
  CHECK(ended[0]->error() == std::errc::io_error);
  CHECK(ended[1]->has_value() == !evicted);  // held: it is stored anew, and durable
  file.sync_now();                           // who calls later is answered for what is dirty then
}

TEST_CASE("a size that was set here outlives a failed sync and a rebase", "[sync]") {
  LaterSyncedFile file;
  file.write(0, std::string(file.C, 'x'));
  file.sync_now();
  REQUIRE(file.file->truncate(4));
  const bool fails = GENERATE(true, false);
  file.sync_now(fails ? tarn::Result<>{tarn::fail(std::errc::io_error)} : tarn::Result<>{});
  REQUIRE(file.file->rebase(file.C, 9));
  CHECK(file.file->size() == (fails ? 4 : file.C));
  CHECK(file.file->is_dirty() == fails);
}

TEST_CASE("what a failed sync cannot make dirty again is to be synced still", "[sync]") {
  LaterSyncedFile world;
  auto& file = *world.file;
  for (const std::uint64_t at : {0u, 4u, 8u}) world.write(at, "x");
  const auto text = world.read_all();
  std::optional<tarn::Result<>> ended;
  auto operation = world.begin_sync(ended);
  CHECK(file.needs_sync());  // it is not yet what was asked for
  std::size_t dirty_bytes = 0;
  SECTION("for want of a pin") {
    const auto pins = take_all_pins(world.pool, file.metadata(), 0);
    world.store.finish_sync(tarn::fail(std::errc::io_error));
    CHECK(ended);
  }
  SECTION("for want of room for its list of extents") {
    const Brim full{world.pool};
    world.store.finish_sync(tarn::fail(std::errc::io_error));
    CHECK(ended);
    dirty_bytes = 2;  // a third run would take room
  }
  REQUIRE(ended);
  CHECK(ended->error() == std::errc::io_error);
  CHECK(world.pool.stats().dirty_bytes == dirty_bytes);
  CHECK(file.needs_sync());
  CHECK(world.read_all() == text);
  world.sync_now();
  CHECK_FALSE(file.needs_sync());
  CHECK_FALSE(file.is_dirty());
  CHECK(world.store.memory.text(LaterSyncedFile::id) == text);
}

TEST_CASE("a chunk that its pool forgets while a failing sync waits for it is not made dirty", "[sync]") {
  LaterSyncedFile world;
  world.write(0, "x");
  std::optional<tarn::Result<>> ended;
  auto operation = world.begin_sync(ended);
  const auto meta = world.file->metadata();
  Gate gate;
  gate.close();
  BlockedThread waiter;
  {
    auto pin = world.pool.pin(meta, 0);
    REQUIRE(pin);
    Worker looks{gate, [&gate, pin = std::move(*pin)] {
                   (void)pin.with_data(range(0, 1), [&](std::span<const std::byte>) { gate.pass(); }).has_value();
                 }};
    REQUIRE(gate.wait_for_arrivals());
    Worker fails{gate, [&] {
                   waiter.here();
                   world.store.finish_sync(tarn::fail(std::errc::io_error));
                 }};
    CHECK(waiter.wait_until_blocked());
    CHECK(world.pool.drop(meta) == 0);
    gate.open();
  }
  REQUIRE(ended);
  CHECK(ended->error() == std::errc::io_error);
  CHECK(world.pool.stats().dirty_bytes == 0);
  CHECK(world.file->needs_sync());
  CHECK(world.read_all() == "x");
  world.sync_now();
}

TEST_CASE("a sync that has failed by the time that nobody waits for it is told to who has the file open", "[sync]") {
  LaterSyncedFile world;
  auto opener = world.file->open();
  world.write(0, "x");
  {
    tarn::detail::FileSync sync{world.file->body(), world.store};
    REQUIRE(sync.step() == tarn::detail::Progress::waiting);
    world.store.store_one();
    while (sync.step() != tarn::detail::Progress::waiting) continue;
    world.store.finish_sync(tarn::fail(std::errc::owner_dead));
    CHECK(opener.take_error());  // he who waits would be told
  }
  CHECK(opener.take_error().error() == std::errc::owner_dead);
  CHECK(opener.take_error());
  world.sync_now();
}
