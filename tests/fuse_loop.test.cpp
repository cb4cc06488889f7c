// SPDX-License-Identifier: MIT
// Compile: alone
#include <tarn/fuse_loop.hpp>

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <csignal>
#include <cstdint>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include <tarn/fuse_async.hpp>
#include <tarn/testing/gate.hpp>
#include <tarn/testing/later_store.hpp>

#include "support/catch.hpp"
#include "support/kernel.hpp"
#include "support/one_file.hpp"

using namespace tarn_test;

namespace {

using Store = tarn::testing::LaterStore<Heap>;
using File = tarn::DirtyFile<Heap, Store>;
constexpr std::uint64_t id = 7, C = 4096;

/// Runs something when its thread ends.
struct AtEnd {
  std::function<void()> f;
  ~AtEnd() {
    if (f) f();
  }
};
thread_local AtEnd at_end;

/// A filesystem of one file, served by tarn's loop in threads of its own.
struct Served {
  explicit Served(const tarn::fuse::LoopOptions& options, std::uint64_t more_bytes = 16 * MiB,
                  std::uint64_t chunk_bytes = C)
      : pool{pool_options<Heap>(chunk_bytes, more_bytes, 16)} {
    store.answer_at_once();
    store.memory.expect_parts_of(chunk_bytes);
    file = std::make_shared<File>(pool, tarn::MetadataFor<Heap>::created(id, {.part_bytes = chunk_bytes}), store);
    kernel.emplace(handlers(), this);
    kernel->come_by_descriptor();
    struct sigaction nothing {};
    nothing.sa_handler = [](int) {};  // what the loop puts back, perhaps before we hear that it has ended
    ::sigaction(SIGALRM, &nothing, nullptr);
    loop = std::thread{[this, options] { ended = tarn::fuse::serve(kernel->session(), pool, options); }};
  }
  ~Served() {
    end();
    CHECK(store.memory.complaints() == "");
  }
  void end() {
    if (!loop.joinable()) return;
    fuse_session_exit(kernel->session());
    // As one ends libfuse's loops: it may be about to wait, so again until it is out.
    while (ended.load() < 0) ::pthread_kill(loop.native_handle(), SIGALRM), std::this_thread::yield();
    loop.join();
  }

  static Served& of(fuse_req_t request) { return *static_cast<Served*>(fuse_req_userdata(request)); }
  static fuse_lowlevel_ops handlers() {
    fuse_lowlevel_ops ops{};
    ops.read = [](fuse_req_t request, fuse_ino_t, std::size_t size, off_t offset, fuse_file_info*) {
      tarn::fuse::reply_read(request, of(request).file, size, offset);
    };
    ops.write_buf = [](fuse_req_t request, fuse_ino_t, fuse_bufvec* from, off_t offset, fuse_file_info*) {
      of(request).note_where();
      if (of(request).on_write) of(request).on_write();
      if (of(request).on_bytes) of(request).on_bytes(from);
      if (of(request).writes_twice) {
        fuse_bufvec same = *from;
        CHECK(tarn::fuse::write_from(*of(request).file, &same, offset));
      }
      tarn::fuse::reply_write(request, of(request).file, from, offset, of(request).waiting);
    };
    ops.setxattr = [](fuse_req_t request, fuse_ino_t, const char* name, const char* value, std::size_t size, int) {
      of(request).attribute = std::string{name} + "=" + std::string{value, size};
      if (of(request).on_attribute) of(request).on_attribute();
      fuse_reply_err(request, 0);
    };
    return ops;
  }
  void note_where() {
    const std::lock_guard lock{mutex};
    ::cpu_set_t set;
    CPU_ZERO(&set);
    (void)::sched_getaffinity(0, sizeof set, &set);
    auto& cpus = where[std::this_thread::get_id()];
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
      if (CPU_ISSET(static_cast<std::size_t>(cpu), &set)) cpus.insert(cpu);
    }
  }
  [[nodiscard]] std::string written(std::uint64_t offset, std::string_view bytes) {
    const auto reply = kernel->await(kernel->write(offset, bytes));
    return reply.error != 0 ? std::strerror(reply.error) : std::to_string(Kernel::written(reply));
  }
  [[nodiscard]] std::string read(std::uint64_t offset, std::size_t size) {
    const auto reply = kernel->await(kernel->read(offset, size));
    return reply.error != 0 ? std::strerror(reply.error) : reply.bytes;
  }

  tarn::ChunkPool<Heap> pool;
  Store store;
  std::shared_ptr<File> file;
  tarn::fuse::WaitingWrites waiting;
  std::string attribute;
  std::function<void()> on_write, on_attribute;
  std::function<void(fuse_bufvec*)> on_bytes;
  bool writes_twice = false;
  std::mutex mutex;
  std::map<std::thread::id, std::set<int>> where;  // workers that wrote, and the processors that each may run on
  std::optional<Kernel> kernel;
  std::atomic<int> ended{-1};
  std::thread loop;
};

}  // namespace

TEST_CASE("what a loop receives is written and read back, whole chunks and others", "[fuse_loop]") {
  Served served{{.workers = GENERATE(1u, 2u)}};
  std::string expected;
  for (const auto& [offset, size] : std::vector<std::pair<std::uint64_t, std::size_t>>{
           {0, 4 * C}, {4 * C, 32 * C}, {100, 5}, {C, 2 * C + 7}, {3 * C - 1, 4 * C}, {36 * C + 5, C}, {0, 1}}) {
    const auto bytes = pattern(offset, size, expected.size());
    CHECK(served.written(offset, bytes) == std::to_string(size));
    expected.resize(std::max<std::size_t>(expected.size(), offset + size), '\0');
    expected.replace(offset, size, bytes);
    CHECK(served.read(0, 128 * KiB).substr(0, expected.size()) == expected.substr(0, 128 * KiB));
  }
  served.end();
  CHECK(served.ended == 0);
  std::string all(expected.size() + 1, '?');
  REQUIRE(served.file->read(0, writable(all)).value() == expected.size());
  CHECK(all.substr(0, expected.size()) == expected);
  REQUIRE(served.file->flush());
  CHECK(served.store.memory.text(id) == expected);
}

TEST_CASE("a whole chunk that a loop receives is not copied: the pool has its memory", "[fuse_loop]") {
  Served served{{.workers = 1}};
  const auto where = [&] {
    const auto pin = served.pool.pin(served.file->metadata(), 0);
    REQUIRE(pin);
    return pin->with_data(range(0, 1), [](auto bytes) { return bytes.data(); }).value();
  };
  CHECK(served.written(0, pattern(0, C)) == std::to_string(C));
  const auto* const first = where();
  CHECK(served.written(0, pattern(0, C, 1)) == std::to_string(C));
  const auto* const second = where();
  CHECK(first != second);
  CHECK(served.written(0, pattern(0, C, 2)) == std::to_string(C));
  CHECK(where() == first);  // which was the worker's meanwhile
  CHECK(served.written(0, pattern(0, C - 1, 3)) == std::to_string(C - 1));
  CHECK(where() == first);
  CHECK(served.read(0, C) == pattern(0, C - 1, 3) + pattern(0, C, 2).substr(C - 1));
}

TEST_CASE("a request that is no write is put together again, however long it is", "[fuse_loop]") {
  Served served{{.workers = 1}};
  const auto size = GENERATE(std::size_t{0}, 1, 31, 32, 33, C - 1, C, 64 * KiB);
  const auto value = pattern(0, size);
  CHECK(served.kernel->await(served.kernel->set_attribute("user.name", value)).error == 0);
  CHECK(served.attribute == "user.name=" + value);
}

TEST_CASE("a write that a loop received and that waits for memory keeps its bytes", "[fuse_loop]") {
  Served served{{.workers = 1}, 5 * MiB};
  served.store.answer_at_once(false);
  std::uint64_t at = 0;
  std::vector<std::uint64_t> waiting;
  std::string expected;
  std::uint64_t request = 0;
  do {  // until one waits
    const auto bytes = pattern(at, 4 * C);
    request = served.kernel->write(at, bytes);
    expected += bytes;
    at += 4 * C;
    // What comes after it in the one worker is replied to when that has been served.
    served.kernel->await(served.kernel->set_attribute("after", ""));
  } while (served.kernel->reply(request));
  REQUIRE(served.pool.stats().chunks_reserved == MiB / C);  // it was received in place
  // Another write has the worker's memory meanwhile.
  const auto second = served.kernel->write(at, pattern(at, 4 * C));
  expected += pattern(at, 4 * C);
  served.kernel->await(served.kernel->set_attribute("after", std::string(2 * C, '!')));
  served.store.answer_at_once();
  while (served.store.open_flushes() != 0) served.store.finish_flush();
  CHECK(Kernel::written(served.kernel->await(request)) == 4 * C);
  CHECK(Kernel::written(served.kernel->await(second)) == 4 * C);
  REQUIRE(served.file->flush());
  CHECK(served.store.memory.text(id) == expected);
}

TEST_CASE("each worker stays on a processor of its own, if that is asked for", "[fuse_loop]") {
  const bool stays = GENERATE(true, false);
  const auto usable = tarn::fuse::detail::usable_cpus();
  const std::set<int> cpus(usable.begin(), usable.end());
  Served served{{.workers = static_cast<unsigned>(cpus.size()), .one_a_cpu = stays}};
  for (int i = 0; i < 50; ++i) CHECK(served.written(0, "x") == "1");
  served.end();
  std::set<std::set<int>> seen;
  for (const auto& [thread, its] : served.where) {
    CHECK(its.size() == (stays ? 1 : cpus.size()));
    CHECK(std::includes(cpus.begin(), cpus.end(), its.begin(), its.end()));
    CHECK((seen.insert(its).second || !stays));  // each another one
  }
}

TEST_CASE("there are two workers at least", "[fuse_loop]") {
  tarn::testing::Gate at_work;
  at_work.close();
  Served served{{}};
  served.on_write = [&] { at_work.pass(); };
  const auto held = served.kernel->write(0, "x");
  REQUIRE(at_work.wait_for_arrivals());
  CHECK(served.kernel->await(served.kernel->set_attribute("a", "b")).error == 0);  // by the other one
  at_work.open();
  CHECK(served.kernel->await(held).error == 0);
}

TEST_CASE("a handler ends its loop, which can be served again", "[fuse_loop]") {
  Served served{{.workers = 2}};
  served.on_attribute = [&] { fuse_session_exit(served.kernel->session()); };
  (void)served.kernel->set_attribute("end", "");
  served.loop.join();
  CHECK(served.ended == 0);
  served.on_attribute = nullptr;
  served.ended = -1;
  served.loop = std::thread{[&] { served.ended = tarn::fuse::serve(served.kernel->session(), served.pool); }};
  CHECK(served.written(0, pattern(0, 2 * C)) == std::to_string(2 * C));
}

TEST_CASE("as many workers receive in place as a quarter has room for of what a pool has beside the least",
          "[fuse_loop]") {
  const auto [more_bytes, receive] =
      GENERATE(table<std::uint64_t, std::uint64_t>({{0, 0}, {MiB, 0}, {4 * MiB, 1}, {9 * MiB, 2}, {64 * MiB, 3}}));
  Served served{{.workers = 3}, more_bytes};
  std::string expected;
  for (std::uint64_t at = 0; at < 2 * MiB; at += 8 * C) {
    expected += pattern(at, 8 * C);
    CHECK(served.written(at, pattern(at, 8 * C)) == std::to_string(8 * C));
  }
  CHECK(served.pool.stats().chunks_reserved == receive * MiB / C);
  for (std::uint64_t at = 0; at < 2 * MiB; at += 16 * C) CHECK(served.read(at, 16 * C) == pattern(at, 16 * C));
}

TEST_CASE("a budget that is lowered has the memory of workers back, and they go on", "[fuse_loop]") {
  Served served{{.workers = 2}, 16 * MiB};
  CHECK(served.written(0, pattern(0, 8 * C)) == std::to_string(8 * C));
  REQUIRE(served.file->flush());
  REQUIRE(served.pool.set_budget_bytes(served.pool.min_budget_bytes({.chunk_bytes = C, .window_bytes = 16 * C})));
  std::uint64_t at = 8 * C;
  for (int tries = 0; served.pool.stats().chunks_reserved != 0 && tries < 10'000; ++tries) {
    CHECK(served.kernel->await(served.kernel->set_attribute("a", "")).error == 0);
  }
  CHECK(served.pool.stats().chunks_reserved == 0);
  for (; at < MiB; at += 8 * C) CHECK(served.written(at, pattern(at, 8 * C)) == std::to_string(8 * C));
  CHECK(served.read(MiB - 8 * C, 8 * C) == pattern(MiB - 8 * C, 8 * C));
}

TEST_CASE("what a loop received is copied for who wants no file of tarn's", "[fuse_loop]") {
  Served served{{.workers = 1}};
  const auto piece = GENERATE(std::size_t{100}, C, 3 * C);  // of which there is more than one
  std::string copied;
  served.on_bytes = [&](fuse_bufvec* from) {
    const auto before = from->off;
    for (std::string next(piece, '?');; copied += next) {
      const auto n = tarn::fuse::copy_bytes_of(from, writable(next));
      if (!n || *n == 0) break;
      next.resize(*n);
    }
    from->off = before;
  };
  CHECK(served.written(0, pattern(0, 2 * C + 7)) == std::to_string(2 * C + 7));
  CHECK(copied == pattern(0, 2 * C + 7));
}

TEST_CASE("a loop that has no memory to receive into ends with an error, and serves nothing", "[fuse_loop]") {
  Served full{{.workers = 1}};
  full.end();
  full.store.answer_at_once(false);
  const auto chunk = pattern(0, C);
  for (std::uint64_t at = 0; full.file->try_write(at, bytes_of(chunk)); at += C) continue;
  int nothing = 0;
  Kernel kernel{fuse_lowlevel_ops{}, &nothing};
  CHECK(tarn::fuse::serve(kernel.session(), full.pool, {.workers = 2}) == ENOBUFS);
  CHECK(full.pool.stats().chunks_reserved == 0);
  full.store.answer_at_once();
  CHECK(full.file->flush());
}

TEST_CASE("a handler for the signal is put back when the loop has ended", "[fuse_loop]") {
  struct sigaction own {
  }, after{};
  own.sa_handler = SIG_IGN;
  ::sigaction(SIGALRM, &own, nullptr);
  {
    const tarn::fuse::detail::WakingSignal signal{SIGALRM}, another{SIGALRM};
    ::sigaction(SIGALRM, nullptr, &after);
    CHECK(after.sa_handler != SIG_IGN);
    CHECK((after.sa_flags & SA_RESTART) == 0);
  }
  ::sigaction(SIGALRM, nullptr, &after);
  CHECK(after.sa_handler == SIG_IGN);
  own.sa_handler = SIG_DFL;
  ::sigaction(SIGALRM, &own, nullptr);
}

TEST_CASE("a loop serves pools of every size of chunk", "[fuse_loop]") {
  const auto chunk_bytes = GENERATE(std::uint64_t{1}, 512, 1024, 2048, MiB, 2 * MiB);
  Served served{{.workers = 1}, 64 * MiB, chunk_bytes};
  const auto bytes = pattern(0, chunk_bytes == 1 ? 2000 : 128 * KiB), other = pattern(0, 1000, 1);
  CHECK(served.written(0, bytes) == std::to_string(bytes.size()));
  CHECK((served.pool.stats().chunks_reserved != 0) == (chunk_bytes > KiB && chunk_bytes <= MiB));
  CHECK(served.written(7, other) == "1000");
  const auto expected = std::string{bytes}.replace(7, 1000, other);
  std::string all(bytes.size(), '?');
  REQUIRE(served.file->read(0, writable(all)));
  CHECK(all == expected);
}

TEST_CASE("what a loop received can be written once, and then is an error, not other bytes", "[fuse_loop]") {
  Served served{{.workers = 1}};
  served.writes_twice = true;
  CHECK(served.written(0, pattern(0, 2 * C)) == std::strerror(EIO));
  CHECK(served.written(5, pattern(0, 100)) == std::strerror(EIO));
  CHECK(served.read(0, C) == pattern(0, 5) + pattern(0, 100) + pattern(0, C).substr(105));
}

TEST_CASE("a signal is handled for as long as any loop serves", "[fuse_loop]") {
  std::signal(SIGALRM, SIG_DFL);
  const auto is_handled = [] {
    struct sigaction now {};
    ::sigaction(SIGALRM, nullptr, &now);
    return now.sa_handler != SIG_DFL;
  };
  std::optional<tarn::fuse::detail::WakingSignal> first{SIGALRM}, second{SIGALRM};
  CHECK(is_handled());
  first.reset();
  CHECK(is_handled());
  second.reset();
  CHECK_FALSE(is_handled());
}

TEST_CASE("a handler that is at work when its loop ends is not interrupted", "[fuse_loop]") {
  tarn::testing::Gate ended, at_work;
  ended.close();
  at_work.close();
  Served served{{.workers = 2}};
  // Each worker is to say when it has ended, so each is to serve something first.
  std::set<std::thread::id> both;
  served.on_attribute = [&] {
    const std::lock_guard lock{served.mutex};
    both.insert(std::this_thread::get_id());
    at_end.f = [&ended] { ended.open(); };
  };
  std::size_t workers = 0;
  for (int tries = 0; workers < 2 && tries < 100'000; ++tries) {
    served.kernel->await(served.kernel->set_attribute("a", ""));
    const std::lock_guard lock{served.mutex};
    workers = both.size();
  }
  if (workers < 2) {  // as may be on one processor
    WARN("the other worker was given nothing");
    return;
  }
  std::atomic<bool> interrupted{false};
  served.on_write = [&] {
    ::sigset_t set, before;
    sigemptyset(&set);
    sigaddset(&set, SIGALRM);
    ::pthread_sigmask(SIG_BLOCK, &set, &before);
    at_work.open();
    ended.pass();  // the other one, which took a signal
    ::sigpending(&set);
    interrupted = sigismember(&set, SIGALRM) != 0;
    ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  };
  const auto request = served.kernel->write(0, "x");
  REQUIRE(at_work.pass());
  served.end();
  CHECK_FALSE(interrupted);
  CHECK(served.kernel->await(request).error == 0);
}

TEST_CASE("a signal that cannot be handled is refused", "[fuse_loop]") {
  tarn::ChunkPool<Heap> pool{pool_options<Heap>(C, 16 * MiB)};
  int nothing = 0;
  Kernel kernel{fuse_lowlevel_ops{}, &nothing};
  CHECK(tarn::fuse::serve(kernel.session(), pool, {.wake_signal = GENERATE(0, -1, 65, SIGKILL)}) == EINVAL);
}

TEST_CASE("an error of the device ends a loop, and is said", "[fuse_loop]") {
  Served served{{.workers = 2}};
  int expected = 0;
  SECTION("what is no request") {
    served.kernel->send_short();
    expected = EIO;
  }
  SECTION("a device that does not wait") {
    served.end();
    REQUIRE(served.ended == 0);
    REQUIRE(::fcntl(fuse_session_fd(served.kernel->session()), F_SETFL, O_NONBLOCK) == 0);
    served.ended = -1;
    served.loop = std::thread{[&] { served.ended = tarn::fuse::serve(served.kernel->session(), served.pool); }};
    expected = EAGAIN;
  }
  served.loop.join();
  CHECK(served.ended == expected);
}

TEST_CASE("an error of libfuse ends a loop, and is said", "[fuse_loop]") {
  fuse_lowlevel_ops ops{};
  ops.init = [](void*, fuse_conn_info* connection) { connection->want |= 1U << 31U; };  // which there is not
  tarn::ChunkPool<Heap> pool{pool_options<Heap>(C, 16 * MiB)};
  int nothing = 0;
  Kernel kernel{ops, &nothing, false};
  kernel.come_by_descriptor();
  (void)kernel.init();
  CHECK(tarn::fuse::serve(kernel.session(), pool) == EPROTO);
}

TEST_CASE("a write of no bytes is one", "[fuse_loop]") {
  Served served{{.workers = 1}};
  CHECK(served.written(5, "") == "0");
  CHECK(served.file->size() == 0);
}

TEST_CASE("bytes of its own are written by a handler as by any loop, and received ones to a file of another pool",
          "[fuse_loop]") {
  Served served{{.workers = 1}};
  OneFile<Heap> other{{.chunk_bytes = C, .chunks_per_part = 1}};
  tarn::DirtyFile<Heap, MemoryStore<Heap>> elsewhere{other.pool, tarn::MetadataFor<Heap>::created(3, {.part_bytes = C}),
                                                     other.store};
  std::string own = pattern(0, 100, 7);
  served.on_bytes = [&](fuse_bufvec* from) {
    fuse_bufvec one = FUSE_BUFVEC_INIT(own.size());
    one.buf[0].mem = own.data();
    CHECK(tarn::fuse::write_from(elsewhere, &one, 0).value() == own.size());
    std::array<std::byte, sizeof(fuse_bufvec) + sizeof(fuse_buf)> memory{};
    auto* const two = new (memory.data()) fuse_bufvec{};
    two->count = 2;
    two->buf[0] = fuse_buf{.size = 40, .flags = {}, .mem = own.data(), .fd = -1, .pos = 0};
    (&two->buf[0])[1] = fuse_buf{.size = 60, .flags = {}, .mem = own.data() + 40, .fd = -1, .pos = 0};
    CHECK(tarn::fuse::write_from(elsewhere, two, 100).value() == own.size());
    CHECK(tarn::fuse::write_from(elsewhere, from, 200).value() == 2 * C + 9);
    // And there they are: what has been taken in once is neither written nor copied.
    std::array<std::byte, 10> more;
    from->off = 0;
    CHECK(tarn::fuse::copy_bytes_of(from, more).error() == std::errc::io_error);
  };
  CHECK(served.written(0, pattern(0, 2 * C + 9)) == std::strerror(EIO));
  std::string all(200 + 2 * C + 9, '?');
  REQUIRE(elsewhere.read(0, writable(all)).value() == all.size());
  CHECK(all == own + own + pattern(0, 2 * C + 9));
  REQUIRE(elsewhere.flush());
}
