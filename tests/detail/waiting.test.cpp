// SPDX-License-Identifier: MIT
#include <tarn/detail/waiting.hpp>

#include "support/catch.hpp"

// Calls that would wait for the very thread that they are made in.

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <system_error>
#include <utility>

#include <tarn/dirty_file.hpp>

#include "support/shared_file.hpp"

using namespace tarn_test;

namespace {

constexpr std::uint64_t id = 7;

/// A store in memory, that calls what the test says from inside its calls, once.
struct CallingStore {
  using Traits = Heap;
  MemoryStore<Traits> memory;
  std::function<void()> in_load, in_flush, in_sync, in_reserve, in_remove;

  static void call(std::function<void()>& f) {
    if (const auto once = std::exchange(f, nullptr)) once();
  }
  tarn::Result<std::size_t> load(const tarn::LoadRequest<Traits>& request) {
    call(in_load);
    return memory.load(request);
  }
  tarn::FlushOutcome<Traits> flush(const tarn::FlushRequest<Traits>& request) {
    call(in_flush);
    return memory.flush(request).ok() ? tarn::FlushOutcome<Traits>::stored()
                                      : tarn::FlushOutcome<Traits>::failed(std::make_error_code(std::errc::io_error));
  }
  tarn::Result<> sync(const tarn::SyncRequest<Traits>&) {
    call(in_sync);
    return {};
  }
  tarn::Result<> reserve(const tarn::ReserveRequest<Traits>&) {
    call(in_reserve);
    return {};
  }
  tarn::Result<> remove(const Traits::FileId& file) {
    call(in_remove);
    return memory.remove(file);
  }
};

struct CallingFile {
  explicit CallingFile(std::uint64_t stored_bytes) {
    store.memory.put_pattern(id, stored_bytes);
    file.emplace(pool, tarn::DirtyFileMetadata::from_store(id, stored_bytes), store);
  }
  tarn::ChunkPool<Heap> pool{pool_options<Heap>(16, 1 * MiB)};
  CallingStore store;
  std::optional<tarn::DirtyFile<Heap, CallingStore>> file;
};

}  // namespace

TEST_CASE("a call that would wait for the store call of its file that it is made in answers EDEADLK", "[waiting]") {
  CallingFile f{64};
  auto& file = *f.file;
  std::error_code inside;
  std::string into(64, '?');
  const auto is_deadlock = [&] { return inside == std::errc::resource_deadlock_would_occur; };
  SECTION("a read of what it loads") {
    f.store.in_load = [&] { inside = file.read(0, writable(into)).error(); };
    REQUIRE(file.read(0, writable(into)));
    CHECK(is_deadlock());
    CHECK(into == pattern(0, 64));
  }
  SECTION("a flush, and what waits for one, in a flush") {
    REQUIRE(file.write(0, bytes_of("new")));
    std::error_code others[4];
    f.store.in_flush = [&] {
      inside = file.flush().error();
      others[0] = file.sync().error();
      others[1] = file.invalidate(2).error();
      others[2] = file.discard_dirty(64, 2).error();
      others[3] = file.remove().error();
    };
    REQUIRE(file.flush());
    CHECK(is_deadlock());
    for (const auto& why : others) CHECK(why == std::errc::resource_deadlock_would_occur);
    CHECK(f.store.memory.text(id, 0, 3) == "new");
    CHECK_FALSE(file.is_dirty());
  }
  SECTION("another file of the id, in a flush: it is not made, and the first is abandoned") {
    REQUIRE(file.write(0, bytes_of("new")));
    f.store.in_flush = [&] {
      try {
        tarn::DirtyFile{f.pool, tarn::DirtyFileMetadata::from_store(id, 64), f.store};
      } catch (const std::system_error& why) {
        inside = why.code();
      }
    };
    REQUIRE(file.flush().error().value() == ESTALE);
    CHECK(is_deadlock());
    CHECK(file.write(0, bytes_of("x")).error().value() == ESTALE);
  }
  SECTION("an abandon in a flush waits for nothing") {
    REQUIRE(file.write(0, bytes_of("new")));
    f.store.in_flush = [&] { file.abandon(); };
    (void)file.flush().has_value();
    CHECK(file.write(0, bytes_of("x")).error().value() == ESTALE);
  }
  SECTION("a sync in a sync") {
    REQUIRE(file.write(0, bytes_of("new")));
    f.store.in_sync = [&] { inside = file.sync().error(); };
    REQUIRE(file.sync());
    CHECK(is_deadlock());
  }
  SECTION("a flush in a remove") {
    f.store.in_remove = [&] { inside = file.flush().error(); };
    REQUIRE(file.remove());
    CHECK(is_deadlock());
  }
  SECTION("an append in the reserve of an append") {
    f.store.in_reserve = [&] { inside = file.append(bytes_of("x")).error(); };
    REQUIRE(file.append(bytes_of("yz")));
    CHECK(is_deadlock());
    CHECK(file.size() == 66);
  }
  SECTION("content that is loading, by its own name") {
    const tarn::Digest<16> content{.bytes = {std::byte{1}}};
    f.store.memory.put_content(content, pattern(0, 16));
    f.store.in_load = [&] { inside = f.pool.get_or_load(content, 0, 16, f.store).error(); };
    REQUIRE(f.pool.get_or_load(content, 0, 16, f.store));
    CHECK(is_deadlock());
  }
}

TEST_CASE("a call in a store call of its file that has nothing to wait for is done", "[waiting]") {
  CallingFile f{64};
  auto& file = *f.file;
  tarn::Result<std::size_t> written = 0U, read = 0U;
  std::string into(16, '?'), other(16, '?');
  REQUIRE(file.read(32, writable(other)));  // held
  SECTION("in a load: a write elsewhere, a read of what is held, a load of something else") {
    f.store.in_load = [&] {
      written = file.write(16, bytes_of("written"));
      read = file.read(32, writable(other));
    };
    REQUIRE(file.read(0, writable(into)));
  }
  SECTION("in a flush: the same, and a load") {
    REQUIRE(file.write(0, bytes_of("dirty")));
    f.store.in_flush = [&] {
      written = file.write(16, bytes_of("written"));
      read = file.read(48, writable(other));
    };
    REQUIRE(file.flush());
  }
  REQUIRE(written);
  CHECK(*written == 7);
  REQUIRE(read);
  CHECK(*read == 16);
}

TEST_CASE("a call in a store call may wait for another file", "[waiting]") {
  CallingFile f{64};
  CallingStore other_store;
  other_store.memory.put_pattern(id + 1, 64);
  tarn::DirtyFile other{f.pool, tarn::DirtyFileMetadata::from_store(id + 1, 64), other_store};
  REQUIRE(other.write(0, bytes_of("other")));
  tarn::Result<> flushed = tarn::fail(std::errc::io_error);
  tarn::Result<std::size_t> read = 0U;
  std::string into(64, '?'), inside(64, '?');
  other_store.memory.flush_gate.close();
  other_store.memory.hold_flushes(1);
  {
    tarn::Result<> first;
    Worker flusher{other_store.memory.flush_gate, [&] { first = other.flush(); }};
    REQUIRE(other_store.memory.flush_gate.wait_for_arrivals());
    BlockedThread waits;
    Worker opener{[&] {
      if (waits.wait_until_blocked()) other_store.memory.flush_gate.open();
    }};
    f.store.in_load = [&] {
      waits.here();
      flushed = other.flush();
      read = other.read(0, writable(inside));
    };
    REQUIRE(f.file->read(0, writable(into)));
  }
  CHECK(flushed);
  REQUIRE(read);
  CHECK(inside.substr(0, 5) == "other");
}

TEST_CASE("a deadline bounds the wait of a remove for a flush, and the file is as it was", "[waiting]") {
  CallingFile f{64};
  REQUIRE(f.file->write(0, bytes_of("new")));
  f.store.memory.flush_gate.close();
  f.store.memory.hold_flushes(1);
  tarn::Result<> flushed;
  {
    Worker flusher{f.store.memory.flush_gate, [&] { flushed = f.file->flush(); }};
    REQUIRE(f.store.memory.flush_gate.wait_for_arrivals());
    CHECK(f.file->remove({.deadline_ns = f.pool.deadline_in(std::chrono::milliseconds{1})}).error() ==
          std::errc::timed_out);
    CHECK(f.file->metadata().state() != tarn::FileState::deleted);
    CHECK(f.store.memory.counts().removes == 0);
  }
  CHECK(flushed);
  REQUIRE(f.file->write(0, bytes_of("newer")));
  REQUIRE(f.file->flush());
  CHECK(f.store.memory.text(id, 0, 5) == "newer");
}

TEST_CASE("a wait that is to be looked at again ends by that time, and by a deadline that is earlier", "[waiting]") {
  tarn::ChunkPool<Heap> pool{pool_options<Heap>(16, MiB)};
  auto& core = pool.core();
  const tarn::detail::Atomic<std::uint64_t> word{0};
  constexpr std::int64_t ms = 1'000'000;
  const auto wait_for = [&](std::int64_t pause_ns, std::optional<std::int64_t> deadline_ns) {
    const auto began_ns = core.time.now_ns();
    const tarn::detail::WaitFor<Heap> wait{.record = {}, .word = &word, .seen = 0, .again_ns = began_ns + pause_ns};
    const auto why = tarn::detail::block(core, wait, {.deadline_ns = deadline_ns});
    return std::pair{why, core.time.now_ns() - began_ns};
  };
  const auto [why, took_ns] = wait_for(2 * ms, std::nullopt);
  CHECK_FALSE(why);
  CHECK(took_ns >= 2 * ms);
  const auto [later_why, later_ns] = wait_for(2 * ms, pool.deadline_in(std::chrono::hours{1}));
  CHECK_FALSE(later_why);
  CHECK(later_ns < 3600 * 1000 * ms);
  const auto [timed_out, early_ns] = wait_for(3600 * 1000 * ms, pool.deadline_in(std::chrono::milliseconds{2}));
  CHECK(timed_out == std::errc::timed_out);
  CHECK(early_ns < 3600 * 1000 * ms);
}

TEST_CASE("who waits in a store's call for its file, and finds that it is over, waits for nothing", "[waiting]") {
  CallingFile f{64};
  auto& core = f.pool.core();
  const auto& record = f.file->body()->record;
  const tarn::detail::Serving serving{&*record};
  const auto wait_for = [&](std::uint64_t seen) {
    return tarn::detail::block(core, tarn::detail::WaitFor<Heap>::arrival(record, seen), {});
  };
  const auto now = record->arrivals.load();
  CHECK(wait_for(now) == std::errc::resource_deadlock_would_occur);
  CHECK_FALSE(wait_for(now + 1));
}
