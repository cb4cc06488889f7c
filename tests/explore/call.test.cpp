// SPDX-License-Identifier: MIT
// Compile: -O1 in explorations
// CTest: TIMEOUT 300 LABELS slow
#define TARN_SYNC_HEADER "explore/explored_sync.hpp"

// Calls that meet their own end under the explorer: an answer comes while somebody lets go of the call, or begins to
// wait for it.

#include <tarn/dirty_file_async.hpp>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <system_error>
#include <utility>

#include "explore/explore.hpp"
#include "explore/small_pool.hpp"
#include "explore/token_store.hpp"
#include "support/catch.hpp"

using tarn_test::chunk_bytes;
using tarn_test::explore;
using tarn_test::Explorer;
using tarn_test::Scenario;

namespace {

using Traits = tarn_test::ExploredTraits;
using TokenStore = tarn_test::TokenStore<Traits>;

struct World {
  using File = tarn::DirtyFile<Traits, TokenStore>;
  tarn::ChunkPool<Traits> pool{tarn_test::small_pool(1)};
  TokenStore store{.text = std::string(chunk_bytes, 'a')};
  File file{pool, tarn::MetadataFor<Traits>::from_store(7, chunk_bytes, {.part_bytes = chunk_bytes}), store};
  std::optional<tarn::OpenFile<Traits, TokenStore>> opener{file.open()};
  std::string into = std::string(chunk_bytes, '?');

  void write() {
    const std::string text = "x";
    Explorer::expect(file.write(0, std::as_bytes(std::span{text})).has_value(), "a write is refused");
  }
  [[nodiscard]] std::span<std::byte> buffer() { return std::as_writable_bytes(std::span{into}); }
  /// That one error was told, once.
  void expect_told(std::errc why) {
    Explorer::expect(opener->take_error().error() == why, "an error that nobody waited for is told to nobody");
    auto& body = *opener->file().body();
    const tarn::detail::MutexLock errors{body.errors_mutex};
    Explorer::expect(body.error_count == 1, "one error is told twice");
  }
  void end() {
    store.at_once = true;
    (void)file.sync().has_value();
    opener.reset();
  }
};

}  // namespace

TEST_CASE("a flush that fails while who waits for it lets go is told once", "[explore]") {
  explore([] {
    auto world = std::make_shared<World>();
    world->write();
    using Flush = tarn::detail::FileFlush<tarn::detail::FileBody<Traits>, TokenStore>;
    auto flush = std::make_shared<std::optional<Flush>>();
    flush->emplace(world->file.body(), world->store, tarn::whole_file, SIZE_MAX, true);
    (void)(*flush)->step();
    return Scenario{{[=] { flush->reset(); },
                     [=] {
                       world->store.take(world->store.flushing)
                           .complete(tarn::FlushOutcome<Traits>::failed(std::make_error_code(std::errc::io_error)));
                     }},
                    [=] {
                      world->expect_told(std::errc::io_error);
                      world->end();
                    }};
  });
}

TEST_CASE("a sync that fails while who waits for it lets go is told once", "[explore]") {
  explore([] {
    auto world = std::make_shared<World>();
    world->write();
    using Sync = tarn::detail::FileSync<Traits, TokenStore>;
    auto sync = std::make_shared<std::optional<Sync>>();
    sync->emplace(world->file.body(), world->store);
    (void)(*sync)->step();
    world->store.take(world->store.flushing).complete(tarn::FlushOutcome<Traits>::stored());
    while ((*sync)->step() != tarn::detail::Progress::waiting) continue;
    return Scenario{{[=] { sync->reset(); },
                     [=] { world->store.take(world->store.syncing).complete(tarn::fail(std::errc::io_error)); }},
                    [=] {
                      world->expect_told(std::errc::io_error);
                      world->end();
                    }};
  });
}

TEST_CASE("a read that is cancelled while it begins, or is answered, completes once", "[explore]") {
  explore([] {
    auto world = std::make_shared<World>();
    auto completed = std::make_shared<int>(0);
    auto right = std::make_shared<bool>(true);
    const auto done = [=](const tarn::Result<std::size_t>& n) {
      ++*completed;
      *right = n ? *n == chunk_bytes && world->into == std::string(chunk_bytes, 'a')
                 : n.error() == std::errc::operation_canceled;
    };
    using Read = decltype(tarn::read_operation(world->file, 0, world->buffer(), done));
    auto read = std::make_shared<std::unique_ptr<Read>>();
    read->reset(new Read(tarn::read_operation(world->file, 0, world->buffer(), done)));
    return Scenario{{[=] { (*read)->start(); }, [=] { (*read)->cancel(); }}, [=] {
                      if (world->store.loading) world->store.answer_load();
                      Explorer::expect(*completed == 1, "an operation completes not once");
                      read->reset();
                      Explorer::expect(*right, "an operation ends with neither its bytes nor ECANCELED");
                      world->end();
                    }};
  });
}

TEST_CASE("a read is answered while it begins to wait for that", "[explore]") {
  explore([] {
    auto world = std::make_shared<World>();
    return Scenario{{[=] {
                       const auto n = world->file.read(0, world->buffer());
                       Explorer::expect(n && *n == chunk_bytes, "a read fails");
                       Explorer::expect(world->into == std::string(chunk_bytes, 'a'), "a read has other bytes");
                     },
                     [=] { world->store.answer_load(); }},
                    [=] { world->end(); }};
  });
}

TEST_CASE("a file that is written while it is looked at for room is not forgotten by who looks next", "[explore]") {
  explore([] {
    auto world = std::make_shared<World>();
    world->store.at_once = true;
    world->write();
    (void)world->file.flush().has_value();  // it has nothing left, and is still on the list
    return Scenario{{[=] { world->write(); }, [=] { (void)world->pool.core().pressure.flush_one(); }}, [=] {
                      if (world->file.is_dirty()) {
                        Explorer::expect(world->pool.core().pressure.flush_one() != tarn::detail::Flushed::nothing,
                                         "a file with changes is on no list");
                      }
                      Explorer::expect(!world->file.is_dirty(), "a change is not flushed for room");
                      world->end();
                    }};
  });
}

TEST_CASE("a write whose own flushes have failed is let in by one that goes well, whenever that ends", "[explore]") {
  // As many dirty chunks as may be, one of a file whose flushes fail and one of a file whose flush is in flight; a write
  // to a third file, with no thread, has asked the first twice.
  struct FullPool {
    using File = World::File;
    tarn::ChunkPool<Traits> pool{[] {
      auto options = tarn_test::small_pool(1);
      options.dirty_limit_bytes = 2 * chunk_bytes;
      return options;
    }()};
    TokenStore bad_store, good_store, own_store;
    File bad{pool, tarn::MetadataFor<Traits>::created(1), bad_store};
    File good{pool, tarn::MetadataFor<Traits>::created(2), good_store};
    File own{pool, tarn::MetadataFor<Traits>::created(3), own_store};
    const std::string text = std::string(chunk_bytes, 'x');
    std::optional<std::error_code> end;
    std::function<void(const tarn::Result<tarn::Written>&)> done = [this](const auto& n) { end = n.error(); };
    using Write = decltype(tarn::write_operation(own, 0, tarn_test::text_bytes(text), done));
    Write write = tarn::write_operation(own, 0, tarn_test::text_bytes(text), done);

    FullPool() {
      for (auto* const file : {&bad, &good}) (void)file->try_write(0, tarn_test::text_bytes(text)).has_value();
      write.start();
      fail();
      std::string into(chunk_bytes, '?');
      (void)bad.try_read(0, std::as_writable_bytes(std::span{into})).done();  // which wakes it
    }
    void fail() {
      bad_store.take(bad_store.flushing)
          .complete(tarn::FlushOutcome<Traits>::failed(std::make_error_code(std::errc::no_space_on_device)));
    }
  };
  explore(
      [] {
        auto full = std::make_shared<FullPool>();
        Explorer::expect(full->bad_store.flushes == 2 && full->good_store.flushes == 1 && !full->end,
                         "it does not wait");
        return Scenario{{[=] { full->fail(); }, [=] { full->good_store.answer_flush(); }}, [=] {
                          Explorer::expect(full->end && !*full->end,
                                           "a write is refused the room that was made for it");
                          full->write.cancel();
                          if (full->bad_store.flushing) full->bad_store.answer_flush();  // it was asked once more
                          for (auto* const store : {&full->bad_store, &full->own_store}) store->at_once = true;
                          for (auto* const file : {&full->bad, &full->own}) (void)file->flush().has_value();
                        }};
      },
      2);
}

TEST_CASE("a record whose last chunk is evicted while its last user lets go of it goes once", "[explore]") {
  explore([] {
    struct Pool {
      tarn::ChunkPool<Traits> pool{tarn_test::small_pool(1)};
      tarn::MetadataFor<Traits> meta = tarn::MetadataFor<Traits>::from_store(7, chunk_bytes);
      struct Loader {
        tarn::Result<std::size_t> load(const tarn::LoadRequest<Traits>& request) {
          return static_cast<std::size_t>(request.range.size_bytes());
        }
      } loader;
    };
    auto one = std::make_shared<Pool>();
    std::string into(chunk_bytes, '?');
    (void)tarn::read_range(one->pool, one->meta, 0, std::as_writable_bytes(std::span{into}), one->loader).has_value();
    return Scenario{{[=] { (void)one->pool.contains(one->meta, 0); }, [=] { (void)one->pool.evict_clean(); }}, [=] {
                      (void)one->pool.evict_clean();
                      Explorer::expect(one->pool.stats().charged_bytes == 0, "a record stays, or went twice");
                    }};
  });
}
