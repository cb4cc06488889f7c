// SPDX-License-Identifier: MIT
// Compile: -O1 in explorations
// CTest: TIMEOUT 300 COST 5 LABELS slow
#define TARN_SYNC_HEADER "explore/explored_sync.hpp"

// A store that answers later, under the explorer: what it was asked for has begun, and the answer comes from another
// thread while the file is changed, evicted, removed, or its id used anew.

#include <tarn/dirty_file.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include <tarn/dirty_file_async.hpp>

#include "explore/explore.hpp"
#include "explore/small_pool.hpp"
#include "explore/token_store.hpp"
#include "support/catch.hpp"

using tarn_test::chunk_bytes;
using tarn_test::explore;
using tarn_test::Explorer;
using tarn_test::Scenario;
using tarn_test::text_bytes;

namespace {

using Traits = tarn_test::ExploredTraits;
using Metadata = tarn::MetadataFor<Traits>;
using Store = tarn_test::TokenStore<Traits>;
using File = tarn::DirtyFile<Traits, Store>;

const std::string stored(chunk_bytes, 'a');

struct World {
  tarn::ChunkPool<Traits> pool{tarn_test::small_pool(1)};
  Store store;
  std::optional<File> file, next;  // `next`: of the same id, later
  std::string into = std::string(chunk_bytes, '?');
  std::string into_another = into;
  std::optional<std::error_code> ended, another_ended;  // what was begun

  World() {
    store.text = stored;
    file.emplace(pool, Metadata::from_store(7, chunk_bytes, {.part_bytes = chunk_bytes}), store);
  }
  [[nodiscard]] std::string read(File& of) {
    std::string text(2 * chunk_bytes, '?');
    const auto n = of.read(0, std::as_writable_bytes(std::span{text}));
    text.resize(n ? *n : 0);
    return n ? text : "error " + n.error().message();
  }
};
using Act = tarn_test::ActOn<World>;

void expect_one_of(const std::vector<std::string>& allowed, const std::string& seen, const char* what) {
  if (std::find(allowed.begin(), allowed.end(), seen) == allowed.end()) Explorer::fail(what + (" " + seen));
}

const Act nothing = [](World&) {};
/// It is held, and nothing is begun.
const Act hold = [](World& world) {
  world.store.at_once = true;
  (void)world.read(*world.file);
  world.ended.emplace();
};
const Act begin_load = [](World& world) {
  tarn::start_read(*world.file, 0, std::as_writable_bytes(std::span{world.into}),
                   [&world](const tarn::Result<std::size_t>& n) { world.ended = n.error(); });
};
const Act begin_another = [](World& world) {
  tarn::start_read(*world.file, 0, std::as_writable_bytes(std::span{world.into_another}),
                   [&world](const tarn::Result<std::size_t>& n) { world.another_ended = n.error(); });
};
/// Of "xx" at 2, in a file that is held.
const Act begin_flush = [](World& world) {
  world.store.at_once = true;
  (void)world.read(*world.file);
  world.store.at_once = false;
  (void)world.file->write(2, text_bytes("xx"));
  tarn::start_flush(*world.file, [&world](const auto& n) { world.ended = n.error(); });
};
const Act answer_load = [](World& world) { world.store.answer_load(); };
/// The only one.
const Act answer_one_load = [](World& world) {
  world.store.answer_load();
  Explorer::expect(world.store.loads == 1, "it is loaded so often");
  Explorer::expect(world.into == stored && world.into_another == stored, "a load is shared, and its bytes are not");
};
const Act answer_flush = [](World& world) { world.store.answer_flush(); };
const Act fail_flush = [](World& world) {
  const auto failed = tarn::FlushOutcome<Traits>::failed(std::make_error_code(std::errc::io_error));
  (void)world.store.take(world.store.flushing).complete(failed);
};
const Act drop_load = [](World& world) { (void)world.store.take(world.store.loading); };
const Act evict = [](World& world) { (void)world.pool.evict_clean(); };
Act write(std::uint64_t at, std::string text) {
  return [=](World& world) {
    const auto n = world.file->write(at, text_bytes(text));
    Explorer::expect(n && *n == text.size(), "a write is refused");
  };
}
const Act cut = [](World& world) { Explorer::expect(world.file->truncate(4).has_value(), "a truncate fails"); };
const Act cut_and_grow = [](World& world) {
  cut(world);
  Explorer::expect(world.file->truncate(chunk_bytes).has_value(), "a truncate fails");
};
const Act punch = [](World& world) {
  Explorer::expect(world.file->punch_hole(tarn::ByteRange::between(4, 8)).has_value(), "a punch fails");
};
/// The store has other bytes now.
const Act other_version = [](World& world) {
  {
    const std::lock_guard lock{world.store.mutex};
    world.store.text = std::string(chunk_bytes, 'v');
  }
  Explorer::expect(world.file->invalidate(2).has_value(), "a new version is refused");
};
const Act forget = [](World& world) { (void)world.pool.drop(world.file->metadata()); };
Act read(std::vector<std::string> allowed) {
  return [=](World& world) { expect_one_of(allowed, world.read(*world.file), "a read sees"); };
}
const Act remove_file = [](World& world) { Explorer::expect(world.file->remove().has_value(), "a removal fails"); };
/// Another file has the id: the store's bytes are none of its business.
const Act use_id_anew = [](World& world) {
  world.next.emplace(world.pool, Metadata::created(7, {.part_bytes = chunk_bytes}), world.store);
  const auto n = world.next->write(0, text_bytes("new"));
  Explorer::expect(n && *n == 3, "a write to the next file is refused");
};
/// Changes that may come too late.
const Act try_write = [](World& world) {
  const auto n = world.file->write(5, text_bytes("old"));
  Explorer::expect(n || n.error() == static_cast<std::errc>(ESTALE), "a late write fails in another way");
};

/// After `begin`, one thread for each, and then `then`. In the end the file reads as one of `allowed`, and the store
/// has that, too.
std::function<Scenario()> after(Act begin, std::vector<Act> acts, std::vector<std::string> allowed,
                                Act then = nothing) {
  return [=] {
    auto world = std::make_shared<World>();
    begin(*world);
    Scenario scenario;
    tarn_test::add_threads(scenario, world, acts);
    scenario.at_end = [=] {
      then(*world);
      Explorer::expect(world->ended.has_value(), "what was begun does not end");
      world->store.at_once = true;
      auto& file = world->next ? *world->next : *world->file;
      const auto seen = world->read(file);
      expect_one_of(allowed, seen, "the file reads");
      Explorer::expect(file.flush().has_value() && file.sync().has_value(), "the last flush fails");
      if (world->store.text != seen) Explorer::fail("the store has " + world->store.text);
      Explorer::expect(world->read(file) == seen, "a flush changed what is read");
      world->pool.evict_clean();
      Explorer::expect(world->read(file) == seen, "another file after it was evicted");
      world->next.reset();
      world->file.reset();
      world->pool.evict_clean();
      const auto stats = world->pool.stats();
      Explorer::expect(stats.chunks_held == 0 && stats.dirty_bytes == 0 && stats.lent_bytes == 0, "bytes stay");
      Explorer::expect(stats.charged_bytes == 0, "a chunk, a node or a record stays, or went twice");
    };
    return scenario;
  };
}

std::string with(std::string text, std::size_t at, const std::string& part) {
  return text.replace(at, part.size(), part);
}
std::string zeros(std::size_t size) { return std::string(size, '\0'); }

const auto flushed = with(stored, 2, "xx");

}  // namespace

TEST_CASE("a load that is answered late covers nothing newer", "[explore]") {
  const auto written = with(stored, 3, "bb");
  const auto regrown = stored.substr(0, 4) + zeros(12);
  explore("than a write", after(begin_load, {answer_load, write(3, "bb")}, {written}), 3);
  explore("than a cut and what grows then", after(begin_load, {answer_load, cut_and_grow}, {regrown}));
  explore("than a hole", after(begin_load, {answer_load, punch}, {with(stored, 4, zeros(4))}));
  explore("and is evicted", after(begin_load, {answer_load, evict}, {stored}), 3);
  explore("and its file forgotten", after(begin_load, {answer_load, forget}, {stored}));
  explore("than a write, and is evicted", after(begin_load, {answer_load, write(3, "bb"), evict}, {written}), 1);
  explore("than a write and a hole",
          after(begin_load, {answer_load, write(3, "bb"), punch},
                {with(written, 4, zeros(4)), with(with(stored, 4, zeros(4)), 3, "bb")}),
          1);
}

TEST_CASE("reads of what is missing share one load, whenever they come", "[explore]") {
  const Act one_load = [](World& world) { Explorer::expect(world.store.loads == 1, "it is loaded so often"); };
  explore("before it is answered, or after", after(begin_load, {answer_load, read({stored})}, {stored}, one_load), 2);
  explore("begun at once", after(nothing, {begin_load, begin_another}, {stored}, answer_one_load), 2);
  explore("begun at once, and answered", after(nothing, {begin_load, begin_another, answer_load}, {stored}, one_load),
          1);
  explore("begun while another one waits, and answered",
          after(begin_load, {begin_another, read({stored}), answer_load}, {stored}, one_load), 1);
}

TEST_CASE("a flush that is answered late settles nothing newer", "[explore]") {
  const auto written = with(flushed, 3, "bb");
  explore("than a write", after(begin_flush, {answer_flush, write(3, "bb")}, {written}));
  explore("than a cut", after(begin_flush, {answer_flush, cut}, {flushed.substr(0, 4)}));
  explore("than a hole", after(begin_flush, {answer_flush, punch}, {with(flushed, 4, zeros(4))}));
  explore("and is evicted", after(begin_flush, {answer_flush, evict}, {flushed}), 3);
  explore("and is read", after(begin_flush, {answer_flush, read({flushed})}, {flushed}));
  explore("that fails, and a write", after(begin_flush, {fail_flush, write(3, "bb")}, {written}));
  explore("that fails, and an eviction", after(begin_flush, {fail_flush, evict}, {flushed}));
  explore("than a write, and is evicted", after(begin_flush, {answer_flush, write(3, "bb"), evict}, {written}), 1);
  explore("than a write, and is read",
          after(begin_flush, {answer_flush, write(3, "bb"), read({flushed, written})}, {written}), 1);
}

TEST_CASE("a file that is removed, or whose id is used anew, leaves nothing to the next", "[explore]") {
  const auto next = std::string{"new"};
  explore("removed while its flush is answered", after(begin_flush, {answer_flush, remove_file}, {""}), 2);
  explore("removed while its load is answered", after(begin_load, {answer_load, remove_file}, {""}));
  explore("removed while it is read", after(hold, {read({stored, ""}), remove_file}, {""}));
  explore("forgotten while it is read", after(hold, {read({stored}), forget}, {stored}));
  explore("another one while a load is answered", after(begin_load, {answer_load, use_id_anew}, {next}));
  explore("another one while a flush is answered", after(begin_flush, {answer_flush, use_id_anew}, {next}));
  explore("another one while it is written", after(hold, {try_write, use_id_anew}, {next}));
  explore("another one while it is evicted", after(hold, {evict, use_id_anew}, {next}), 2);
  explore("another one while it is written and its flush answered",
          after(begin_flush, {answer_flush, try_write, use_id_anew}, {next}), 1);
  explore("another one while its load is answered, and it is evicted",
          after(begin_load, {answer_load, evict, use_id_anew}, {next}), 1);
}
