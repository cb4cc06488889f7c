// SPDX-License-Identifier: MIT
// Compile: alone
#include <tarn/dirty_file_async.hpp>

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <stop_token>
#include <string>
#include <system_error>
#include <thread>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>
#ifdef __cpp_impl_coroutine
#include <coroutine>
#endif

#include <tarn/testing/gate.hpp>
#include <tarn/testing/later_store.hpp>

#include "support/catch.hpp"
#include "support/later_file.hpp"
#include "support/one_file.hpp"

using namespace tarn_test;

namespace {

/// What an operation came to.
template <class T, class Value = std::conditional_t<std::is_void_v<T>, std::monostate, T>>
struct Ending {
  std::atomic<int> times{0};
  std::optional<tarn::Result<T>> result;

  [[nodiscard]] auto done() {
    return [this](tarn::Result<T> r) {
      result.emplace(std::move(r));
      ++times;
    };
  }
  [[nodiscard]] bool failed_with(std::errc why) const { return times == 1 && !*result && result->error() == why; }
  [[nodiscard]] bool was(const Value& value) const { return times == 1 && *result && **result == value; }
};
using Bytes = Ending<std::size_t>;

/// A store whose flush is only stored, and whose sync answers when the test says.
template <class Traits>
struct LaterSync {
  MemoryStore<Traits> memory;
  std::optional<tarn::SyncToken<Traits>> token;

  tarn::Result<std::size_t> load(const tarn::LoadRequest<Traits>& request) { return memory.load(request); }
  tarn::FlushOutcome<Traits> flush(const tarn::FlushRequest<Traits>& request) {
    const auto outcome = memory.flush(request);
    return outcome.ok() ? tarn::FlushOutcome<Traits>::stored() : outcome;
  }
  void sync(const tarn::SyncRequest<Traits>&, tarn::SyncToken<Traits> asked) { token.emplace(std::move(asked)); }
  tarn::Result<> remove(const typename Traits::FileId& id) { return memory.remove(id); }
};

#ifndef NDEBUG
/// What the assert says that ends f, in a process of its own; nothing if none does. What no assert notices is told by
/// `unnoticed`, so that nothing of it is used any more.
template <class F>
[[nodiscard]] std::string assert_in(F f) {
  int ends[2];
  REQUIRE(::pipe(ends) == 0);
  const auto child = ::fork();
  if (child == 0) {
    ::dup2(ends[1], STDERR_FILENO);
    const ::rlimit no_core{0, 0};
    ::setrlimit(RLIMIT_CORE, &no_core);
    std::signal(SIGABRT, SIG_DFL);
    f([] { ::_exit(0); });
    ::_exit(0);
  }
  ::close(ends[1]);
  std::string said;
  char some[512];
  for (auto n = ::read(ends[0], some, sizeof some); n > 0; n = ::read(ends[0], some, sizeof some)) {
    said.append(some, static_cast<std::size_t>(n));
  }
  ::close(ends[0]);
  int status = 0;
  const bool aborted = ::waitpid(child, &status, 0) == child && WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT;
  return aborted ? said : std::string{};
}
template <class F>
[[nodiscard]] bool hits_an_assert(F f) {
  return !assert_in(f).empty();
}
[[nodiscard]] bool says(const std::string& text, const std::string& part) { return text.find(part) != text.npos; }
#endif

}  // namespace

TEMPLATE_TEST_CASE("an operation on what is held ends inside start", "[async]", EACH_STORAGE(Heap, Arena)) {
  LaterFile<TestType> file{GENERATE(any_sizes())};
  const auto text = pattern(0, 3 * file.C);
  Ending<tarn::Written> written;
  auto write = tarn::write_operation(*file.file, 0, bytes_of(text), written.done());
  write.start();
  REQUIRE(written.times == 1);
  REQUIRE(*written.result);
  CHECK((*written.result)->size_bytes == text.size());

  Bytes read;
  std::string into(text.size() + 5, '?');
  auto reading = tarn::read_operation(*file.file, 0, writable(into), read.done());
  reading.start();
  CHECK(read.was(text.size()));
  CHECK(into.substr(0, text.size()) == text);

  Ending<std::string> seen;
  auto viewing = tarn::view_operation(
      *file.file, 1, file.C,
      [](tarn::ConstBuffers bytes) {
        std::string shown(bytes.size_bytes(), '?');
        bytes.copy_to(writable(shown));
        return shown;
      },
      seen.done());
  viewing.start();
  CHECK(seen.was(text.substr(1, file.C)));
}

TEMPLATE_TEST_CASE("a read waits for the store with no thread, and ends in the one that answers", "[async]",
                   EACH_STORAGE(Heap, Arena)) {
  const auto sizes = GENERATE(any_sizes());
  LaterFile<TestType> file{sizes, 5 * sizes.chunk_bytes};
  std::string into(5 * file.C, '?');
  Bytes read;
  auto reading = tarn::read_operation(*file.file, 0, writable(into), read.done());
  reading.start();
  REQUIRE(read.times == 0);
  std::thread::id ended_in;
  Worker{[&] {
    file.finish_loads();
    ended_in = std::this_thread::get_id();
  }}.join();
  CHECK(read.was(into.size()));
  CHECK(into == pattern(0, into.size()));
  CHECK(ended_in != std::this_thread::get_id());
  CHECK(file.store.memory.complaints() == "");
}

TEMPLATE_TEST_CASE("a blocking read of a store that answers later waits for it", "[async]", EACH_STORAGE(Heap, Arena)) {
  const auto sizes = GENERATE(any_sizes());
  LaterFile<TestType> file{sizes, 3 * sizes.chunk_bytes};
  std::string into(3 * file.C, '?');
  std::optional<tarn::Result<std::size_t>> read;
  Worker reader{[&] { read.emplace(file->read(0, writable(into))); }};
  std::size_t left = into.size();
  while (left != 0) {
    REQUIRE(wait_until([&] { return file.store.open_loads() != 0; }));
    auto token = file.store.take_load();
    left -= token.request().range.size_bytes();
    token.complete(file.store.memory.load(token.request()));
  }
  reader.join();
  REQUIRE(*read);
  CHECK(**read == into.size());
  CHECK(into == pattern(0, into.size()));
}

TEMPLATE_TEST_CASE("operations that miss the same bytes cause one load and share its error", "[async]",
                   EACH_STORAGE(Heap, Arena)) {
  const bool fails = GENERATE(false, true);
  const auto sizes = GENERATE(any_sizes());
  LaterFile<TestType> file{sizes, sizes.chunk_bytes};
  std::string into[3];
  Bytes read[3];
  const auto reading = [&](int i) {
    into[i].resize(file.C);
    return tarn::read_operation(*file.file, 0, writable(into[i]), read[i].done());
  };
  auto first = reading(0), second = reading(1), third = reading(2);
  first.start();
  second.start();
  third.start();
  REQUIRE(file.store.open_loads() == 1);
  if (fails) {
    file.store.take_load().complete(tarn::fail(std::errc::host_unreachable));
    for (const auto& each : read) CHECK(each.failed_with(std::errc::host_unreachable));
    CHECK(file.store.open_loads() == 0);
    Bytes again;
    auto retry = tarn::read_operation(*file.file, 0, writable(into[0]), again.done());
    retry.start();
    file.finish_loads();
    CHECK(again.was(file.C));
  } else {
    file.finish_loads();
    for (const auto& each : read) CHECK(each.was(file.C));
    CHECK(into[2] == pattern(0, file.C));
  }
}

TEMPLATE_TEST_CASE("a load of shared content that fails in one file's name fails no other file", "[async]",
                   EACH_STORAGE(Heap, Arena)) {
  using Metadata = tarn::MetadataFor<TestType>;
  LaterFile<TestType> file{{4096, 1}};
  tarn::Digest<16> content;
  content.bytes[3] = std::byte{7};
  file.store.memory.put_content(content, pattern(0, file.C));
  typename LaterFile<TestType>::File one{
      file.pool, Metadata::from_content(1, file.C, std::span{&content, 1}, {.part_bytes = file.P}), file.store};
  typename LaterFile<TestType>::File two{
      file.pool, Metadata::from_content(2, file.C, std::span{&content, 1}, {.part_bytes = file.P}), file.store};
  std::string into[2] = {std::string(file.C, '?'), std::string(file.C, '?')};
  Bytes read[2];
  auto first = tarn::read_operation(one, 0, writable(into[0]), read[0].done());
  auto second = tarn::read_operation(two, 0, writable(into[1]), read[1].done());
  first.start();
  second.start();
  REQUIRE(file.store.open_loads() == 1);
  file.store.take_load().complete(tarn::fail(std::errc::no_such_file_or_directory));
  CHECK(read[0].failed_with(std::errc::no_such_file_or_directory));
  REQUIRE(read[1].times == 0);
  REQUIRE(file.store.open_loads() == 1);
  file.store.finish_load();
  CHECK(read[1].was(file.C));
  CHECK(into[1] == pattern(0, file.C));
}

TEMPLATE_TEST_CASE("cancelling one waiter does not cancel the load of the others", "[async]",
                   EACH_STORAGE(Heap, Arena)) {
  const bool cancels_the_first = GENERATE(true, false);
  const auto sizes = GENERATE(any_sizes());
  LaterFile<TestType> file{sizes, sizes.chunk_bytes};
  std::string into[2] = {std::string(file.C, '?'), std::string(file.C, '?')};
  Bytes read[2];
  auto first = tarn::read_operation(*file.file, 0, writable(into[0]), read[0].done());
  auto second = tarn::read_operation(*file.file, 0, writable(into[1]), read[1].done());
  first.start();
  second.start();
  (cancels_the_first ? first : second).cancel();
  const int cancelled = cancels_the_first ? 0 : 1;
  CHECK(read[cancelled].failed_with(std::errc::operation_canceled));
  CHECK(into[cancelled] == std::string(file.C, '?'));
  REQUIRE(file.store.open_loads() == 1);
  file.finish_loads();
  CHECK(read[1 - cancelled].was(file.C));
  CHECK(into[1 - cancelled] == pattern(0, file.C));
  CHECK(into[cancelled] == std::string(file.C, '?'));
}

TEMPLATE_TEST_CASE("a load that nobody waits for any more lands all the same", "[async]", EACH_STORAGE(Heap, Arena)) {
  const auto sizes = GENERATE(any_sizes());
  LaterFile<TestType> file{sizes, sizes.chunk_bytes};
  {
    std::string into(file.C, '?');
    Bytes read;
    auto reading = tarn::read_operation(*file.file, 0, writable(into), read.done());
    reading.start();
    reading.cancel();
    REQUIRE(read.failed_with(std::errc::operation_canceled));
  }
  REQUIRE(file.store.open_loads() == 1);
  file.finish_loads();
  CHECK(file.read_held(0, file.C) == pattern(0, file.C));
}

TEMPLATE_TEST_CASE("what a load brings late covers no newer byte and brings none back", "[async]",
                   EACH_STORAGE(Heap, Arena)) {
  const auto sizes = GENERATE(any_sizes());
  LaterFile<TestType> file{sizes, 2 * sizes.chunk_bytes};
  std::string into(2 * file.C, '?');
  Bytes read;
  auto reading = tarn::read_operation(*file.file, 0, writable(into), read.done());
  reading.start();
  REQUIRE(file->truncate(1));
  REQUIRE(file->truncate(2 * file.C));
  REQUIRE(file->write(2 * file.C - 1, bytes_of("x")));
  file.finish_loads();
  // The read began before the change, so it may be of either side; but each byte is of one.
  REQUIRE(read.times == 1);
  REQUIRE(*read.result);
  std::string after = pattern(0, 1) + zeros(2 * file.C - 2) + "x";
  CHECK(into == after);
  std::string again(2 * file.C, '?');
  Bytes second;
  auto rereading = tarn::read_operation(*file.file, 0, writable(again), second.done());
  rereading.start();
  file.finish_loads();
  CHECK(again == after);
}

TEMPLATE_TEST_CASE("a loader's every misdeed has one outcome, and the next try starts fresh", "[async]",
                   EACH_STORAGE(Heap, Arena)) {
  const auto sizes = GENERATE(any_sizes());
  LaterFile<TestType> file{sizes, sizes.chunk_bytes};
  std::string into(file.C, '?');
  const auto read_with = [&](auto&& answer) {
    Bytes read;
    auto reading = tarn::read_operation(*file.file, 0, writable(into), read.done());
    reading.start();
    REQUIRE(file.store.open_loads() == 1);
    answer(file.store.take_load());
    REQUIRE(read.times == 1);
    return *read.result ? std::error_code{} : read.result->error();
  };
  using Token = tarn::LoadToken<TestType>;
  SECTION("it drops its token") {
    CHECK(read_with([](Token token) { const auto dropped = std::move(token); }) == std::errc::io_error);
  }
  SECTION("it answers fewer bytes than it has: lost ones, not zeros") {
    CHECK(read_with([&](Token token) { token.complete(file.C - 1); }) == std::errc::io_error);
  }
  SECTION("it answers more") {
    CHECK(read_with([&](Token token) { token.complete(file.C + 1); }) == std::errc::io_error);
  }
  SECTION("it says no") {
    CHECK(read_with([](Token token) { token.complete(tarn::fail(std::errc::timed_out)); }) == std::errc::timed_out);
  }
  SECTION("it completes twice: the second is not heard") {
    CHECK(read_with([&](Token token) {
            CHECK(token.complete(file.store.memory.load(token.request())));
            CHECK_FALSE(token.complete(tarn::fail(std::errc::io_error)));
          }) == std::error_code{});
    CHECK(into == pattern(0, file.C));
  }
  Bytes again;
  auto retry = tarn::read_operation(*file.file, 0, writable(into), again.done());
  retry.start();
  file.finish_loads();
  CHECK(again.was(file.C));
  CHECK(into == pattern(0, file.C));
}

TEST_CASE("operations that are let go on at once go on one after the other, not one inside the other", "[async]") {
  constexpr std::uint64_t C = 16;
  constexpr std::size_t count = 3'000;
  using Metadata = tarn::MetadataFor<Heap>;
  tarn::PoolOptions options = pool_options<Heap>(C, 16 * MiB);
  options.window_bytes = C;
  tarn::ChunkPool<Heap> pool{options};
  LaterStore<Heap> store;
  tarn::Digest<16> content;
  content.bytes[3] = std::byte{7};
  store.memory.put_content(content, pattern(0, C));
  // Each reads a part that all share, and waits for one load of it; then one of its own, which is answered at once.
  struct Reader {
    Reader(tarn::ChunkPool<Heap>& in, const Metadata& meta, LaterStore<Heap>& from) : file{in, meta, from} {}

    tarn::DirtyFile<Heap, LaterStore<Heap>> file;
    std::string into = std::string(2 * C, '?');
  };
  std::vector<std::unique_ptr<Reader>> readers;
  std::size_t well = 0;
  std::uintptr_t deepest = UINTPTR_MAX, highest = 0;
  for (std::uint64_t id = 1; id <= count; ++id) {
    store.memory.put_pattern(id, 2 * C);
    auto meta = Metadata::from_content(id, 2 * C, std::span{&content, 1}, {.part_bytes = C});
    auto& reader = *readers.emplace_back(std::make_unique<Reader>(pool, meta, store));
    tarn::start_read(reader.file, 0, writable(reader.into), [&](const tarn::Result<std::size_t>& n) {
      if (n && *n == 2 * C) ++well;
      const auto at = reinterpret_cast<std::uintptr_t>(__builtin_frame_address(0));
      deepest = std::min(deepest, at);
      highest = std::max(highest, at);
    });
  }
  REQUIRE(store.open_loads() == 1);
  store.answer_at_once();
  store.finish_load();
  CHECK(well == count);
  CHECK(highest - deepest < 16 * KiB);
}

TEST_CASE("a hundred thousand operations that end at once, each starting the next, take no stack", "[async]") {
  LaterFile<Heap> file{{16, 1}, 16};
  file.store.answer_at_once();
  struct Chain {
    explicit Chain(LaterFile<Heap>& with) : file{with} {}

    LaterFile<Heap>& file;
    std::uint64_t left = 100'000;
    std::string into = std::string(16, '?');
    std::uintptr_t deepest = UINTPTR_MAX, highest = 0;
    std::size_t wrong = 0;

    void next() {
      // Of the frame, not of a variable in it: a sanitizer may keep those elsewhere.
      const auto at = reinterpret_cast<std::uintptr_t>(__builtin_frame_address(0));
      deepest = std::min(deepest, at);
      highest = std::max(highest, at);
      if (left-- == 0) return;
      file.pool.evict_clean();  // so that each is a load, answered inline
      const auto done = [this](tarn::Result<std::size_t> n) {
        if (!n || *n != 16) ++wrong;
        next();
      };
      using Op = decltype(tarn::read_operation(*file.file, 0, writable(into), done));
      struct Holder {
        Op op;
      };
      auto holder = std::unique_ptr<Holder>(new Holder{tarn::read_operation(*file.file, 0, writable(into), done)});
      auto& op = holder->op;
      std::swap(current, previous);
      current = std::shared_ptr<void>(std::move(holder));
      op.start();
    }
    std::shared_ptr<void> current, previous;  // the one that completes is destroyed a turn later
  } chain{file};
  chain.next();
  CHECK(chain.wrong == 0);
  CHECK(chain.left == UINT64_MAX);
  CHECK(file.pool.stats().loads >= 100'000);
  CHECK(chain.highest - chain.deepest < 16 * KiB);
}

TEMPLATE_TEST_CASE("a write during a flush in flight stays dirty, and the flush reads the old bytes", "[async]",
                   EACH_STORAGE(Heap, Arena)) {
  LaterFile<TestType> file{GENERATE(any_sizes())};
  const auto old = pattern(0, file.C), fresh = pattern(1000, file.C);
  REQUIRE(file->write(0, bytes_of(old)));
  Ending<std::uint64_t> flushed;
  auto flush = tarn::flush_operation(*file.file, flushed.done());
  flush.start();
  REQUIRE(file.store.open_flushes() == 1);
  REQUIRE(file->write(0, bytes_of(fresh)));
  file.store.finish_flush();
  REQUIRE(flushed.times == 1);
  CHECK(file.store.memory.text(file.id) == old);
  CHECK(file.pool.stats().dirty_bytes == file.C);
  CHECK(file.read_held(0, file.C) == fresh);
  file.store.answer_at_once();
  REQUIRE(file->flush());
  CHECK(file.store.memory.text(file.id) == fresh);
}

TEMPLATE_TEST_CASE("every outcome of a flush in flight but ok leaves the bytes dirty and readable", "[async]",
                   EACH_STORAGE(Heap, Arena)) {
  using Outcome = tarn::FlushOutcome<TestType>;
  LaterFile<TestType> file{GENERATE(any_sizes())};
  const auto text = pattern(0, 2 * file.C);
  REQUIRE(file->write(0, bytes_of(text)));
  const auto what = GENERATE(0, 1, 2, 3);
  Ending<std::uint64_t> flushed;
  auto flush = tarn::flush_operation(*file.file, flushed.done());
  flush.start();
  REQUIRE(file.store.open_flushes() == 1);
  {
    auto token = file.store.take_flush();
    if (what == 0) token.complete(Outcome::failed(std::make_error_code(std::errc::no_space_on_device)));
    if (what == 1) token.complete(Outcome::unknown(std::make_error_code(std::errc::timed_out)));
    if (what == 2) token.complete(Outcome::conflict());
  }  // 3: it is dropped
  REQUIRE(flushed.times == 1);
  CHECK_FALSE(*flushed.result);
  CHECK(file.pool.stats().dirty_bytes == text.size());
  CHECK(file.read_held(0, text.size()) == text);
  file.store.answer_at_once();
  REQUIRE(file->flush());
  CHECK(file.store.memory.text(file.id) == text);
}

TEMPLATE_TEST_CASE("a second flush waits for the first and stores what that did not", "[async]",
                   EACH_STORAGE(Heap, Arena)) {
  LaterFile<TestType> file{GENERATE(any_sizes())};
  REQUIRE(file->write(0, bytes_of("a")));
  Ending<std::uint64_t> first, second;
  auto one = tarn::flush_operation(*file.file, first.done());
  auto two = tarn::flush_operation(*file.file, second.done());
  one.start();
  REQUIRE(file->write(file.C, bytes_of("b")));
  two.start();
  REQUIRE(file.store.open_flushes() == 1);
  file.store.finish_flush();
  CHECK(first.times == 1);
  REQUIRE(second.times == 0);
  REQUIRE(file.store.open_flushes() == 1);
  file.store.finish_flush();
  CHECK(second.times == 1);
  CHECK(file.store.memory.text(file.id) == "a" + zeros(file.C - 1) + "b");
}

TEMPLATE_TEST_CASE("a flush that its caller gave up settles all the same, and tells its error to an opener", "[async]",
                   EACH_STORAGE(Heap, Arena)) {
  const bool fails = GENERATE(false, true);
  LaterFile<TestType> file{GENERATE(any_sizes())};
  auto opener = file->open();
  REQUIRE(file->write(0, bytes_of("h")));
  {
    Ending<std::uint64_t> flushed;
    auto flush = tarn::flush_operation(*file.file, flushed.done());
    flush.start();
    flush.cancel();
    REQUIRE(flushed.failed_with(std::errc::operation_canceled));
  }
  if (fails) {
    file.store.take_flush().complete(
        tarn::FlushOutcome<TestType>::failed(std::make_error_code(std::errc::no_space_on_device)));
    CHECK(file.pool.stats().dirty_bytes == 1);
    const auto error = opener.take_error();
    CHECK(error.error() == std::errc::no_space_on_device);
    CHECK(opener.take_error());
    file.store.answer_at_once();
    REQUIRE(file->flush());
  } else {
    file.store.finish_flush();
    CHECK(file.pool.stats().dirty_bytes == 0);
    CHECK(opener.take_error());
  }
  CHECK(file.store.memory.text(file.id) == "h");
}

TEMPLATE_TEST_CASE("a file that goes while its flush is in flight is not touched by the answer", "[async]",
                   EACH_STORAGE(Heap, Arena)) {
  LaterFile<TestType> file{GENERATE(any_sizes())};
  REQUIRE(file->write(0, bytes_of("h")));
  {
    Ending<std::uint64_t> flushed;
    auto flush = tarn::flush_operation(*file.file, flushed.done());
    flush.start();
    flush.cancel();
  }
  file.file.reset();
  CHECK(file.pool.stats().dirty_bytes == 0);
  file.store.finish_flush();
  CHECK(file.store.memory.text(file.id) == "h");
}

TEMPLATE_TEST_CASE("a file made again while a flush of its last self is in flight is flushed after that", "[async]",
                   EACH_STORAGE(Heap, Arena)) {
  LaterFile<TestType> file{GENERATE(any_sizes())};
  REQUIRE(file->write(0, bytes_of("o")));
  CHECK(file->flush({.deadline_ns = 1}).error() == std::errc::timed_out);
  file.file.reset();
  file.file.emplace(file.pool, tarn::MetadataFor<TestType>::created(file.id, {.part_bytes = file.P}), file.store);
  REQUIRE(file->write(0, bytes_of("n")));
  Ending<std::uint64_t> flushed;
  auto flush = tarn::flush_operation(*file.file, flushed.done());
  flush.start();
  REQUIRE(file.store.open_flushes() == 1);  // the old one: the store never has two to order
  file.store.finish_flush();
  REQUIRE(flushed.times == 0);
  REQUIRE(file.store.open_flushes() == 1);
  file.store.finish_flush();
  CHECK(flushed.was(1));
  CHECK(file.store.memory.text(file.id) == "n");
}

TEMPLATE_TEST_CASE("a write waits for room with no thread while a flush is in flight, and goes on when it ends",
                   "[async]", Heap) {
  // Room for a few chunks; all of them dirty, and the flush that makes room answers later.
  LaterFile<TestType> file{{4096, 1}, 0, 4 * 4096};
  const auto chunk = pattern(0, file.C);
  std::uint64_t at = 0;
  for (;;) {
    const auto n = file->try_write(at, bytes_of(chunk));
    if (!n) {
      CHECK(n.error() == std::errc::resource_unavailable_try_again);
      break;
    }
    at += file.C;
  }
  REQUIRE(file.store.open_flushes() == 0);
  Ending<tarn::Written> written;
  auto write = tarn::write_operation(*file.file, at, bytes_of(chunk), written.done());
  write.start();
  REQUIRE(written.times == 0);
  while (written.times == 0) {
    REQUIRE(file.store.open_flushes() == 1);
    file.store.finish_flush();
  }
  REQUIRE(*written.result);
  CHECK((*written.result)->size_bytes == file.C);
  CHECK(file.pool.stats().charged_bytes <= file.pool.budget_bytes());
  file.store.answer_at_once();
  REQUIRE(file->flush());
  for (std::uint64_t i = 0; i <= at; i += file.C) CHECK(file.store.memory.text(file.id, i, file.C) == chunk);
}

TEST_CASE("who waits for room is not inside the store whose call lets it go on", "[async]") {
  // A store that wakes whoever waits for room, and lets them go on, in the middle of its call.
  struct Meddling : MemoryStore<Heap> {
    std::function<void()> asked;
    tarn::Result<> remove(const std::uint64_t&) {
      asked();
      return {};
    }
  };
  LaterFile<Heap> file{{4096, 1}, 0, 4 * 4096};
  Meddling meddling;
  tarn::DirtyFile<Heap, Meddling> other{file.pool, tarn::DirtyFileMetadata::created(8), meddling};
  const auto chunk = pattern(0, file.C);
  std::uint64_t at = 0;
  while (file->try_write(at, bytes_of(chunk))) at += file.C;
  Ending<tarn::Written> written;
  auto write = tarn::write_operation(*file.file, at, bytes_of(chunk), written.done());
  write.start();
  REQUIRE(file.store.open_flushes() == 1);
  unsigned depth = 0;
  meddling.asked = [&] {
    const tarn::detail::Resumer resumer;
    file.pool.core().room_queue.note();
    tarn::detail::Resumer::run();
    depth = tarn::detail::depth_in_store();
  };
  REQUIRE(other.remove());
  CHECK(depth == 1);
  REQUIRE(written.times == 0);  // it waits on, as nobody would who is inside a store
  while (written.times == 0) {
    REQUIRE(file.store.open_flushes() == 1);
    file.store.finish_flush();
  }
  CHECK(*written.result);
  file.store.answer_at_once();
  REQUIRE(file->flush());
}

TEMPLATE_TEST_CASE("a call with a deadline that nobody meets says so, and loses nothing", "[async]", Heap) {
  const auto soon = [](auto& pool) { return tarn::CallOptions{.deadline_ns = pool.core().time.now_ns() + 20'000'000}; };
  SECTION("a read whose load never ends") {
    LaterFile<TestType> file{{4096, 1}, 4096};
    std::string into(file.C, '?');
    const auto read = file->read(0, writable(into), soon(file.pool));
    CHECK(read.error() == std::errc::timed_out);
    CHECK(into == std::string(file.C, '?'));
    file.finish_loads();  // the memory was the load's until now
    CHECK(file.read_held(0, file.C) == pattern(0, file.C));
  }
  SECTION("a flush that never ends") {
    LaterFile<TestType> file{{4096, 1}};
    REQUIRE(file->write(0, bytes_of("hello")));
    CHECK(file->flush(soon(file.pool)).error() == std::errc::timed_out);
    CHECK(file.pool.stats().dirty_bytes == 5);
    file.store.finish_flush();
    CHECK(file.pool.stats().dirty_bytes == 0);
  }
  SECTION("a write and a clean read that find everything dirty, and a store that hangs") {
    LaterFile<TestType> file{{4096, 1}, 64 * 4096, 4 * 4096};
    const auto chunk = pattern(5000, file.C);
    std::uint64_t at = 0;
    while (file->try_write(at, bytes_of(chunk))) at += file.C;
    CHECK(file->write(at, bytes_of(chunk), {}, soon(file.pool)).error() == std::errc::timed_out);
    std::string into(file.C, '?');
    CHECK(file->read(63 * file.C, writable(into), soon(file.pool)).error() == std::errc::timed_out);
    for (std::uint64_t i = 0; i < at; i += file.C) CHECK(file.read_held(i, file.C) == chunk);
    while (file.store.open_flushes() != 0) file.store.finish_flush();
    file.finish_loads();
    file.store.answer_at_once();
    CHECK(file->write(at, bytes_of(chunk)));
    CHECK(file->read(63 * file.C, writable(into)));
    CHECK(into == pattern(63 * file.C, file.C));
    REQUIRE(file->flush());
  }
}

TEMPLATE_TEST_CASE("with a pool full of what cannot be stored, a read goes past it", "[async]", Heap) {
  using Outcome = tarn::FlushOutcome<TestType>;
  const bool gives_up = GENERATE(false, true);
  LaterFile<TestType> file{{4096, 1}, 64 * 4096, 4 * 4096};
  const auto chunk = pattern(5000, file.C);
  std::uint64_t at = 0;
  while (file->try_write(at, bytes_of(chunk))) at += file.C;
  Bytes read;
  auto into = std::make_unique<std::string>(file.C + 1, '?');
  auto reading = tarn::read_operation(*file.file, 63 * file.C - 1, writable(*into), read.done());
  reading.start();
  while (file.store.open_flushes() != 0) {
    file.store.take_flush().complete(Outcome::failed(std::make_error_code(std::errc::no_space_on_device)));
  }
  REQUIRE(read.times == 0);
  REQUIRE(file.store.open_loads() == 1);
  if (gives_up) {
    reading.cancel();
    CHECK(read.failed_with(std::errc::operation_canceled));
    into.reset();  // the load has memory of its own
    file.finish_loads();
  } else {
    // A window has two chunks, and each load is of one part: the second goes the same way.
    while (read.times == 0) {
      while (file.store.open_flushes() != 0) {
        file.store.take_flush().complete(Outcome::failed(std::make_error_code(std::errc::no_space_on_device)));
      }
      file.finish_loads();
    }
    CHECK(read.was(file.C + 1));
    CHECK(*into == pattern(63 * file.C - 1, file.C + 1));
    CHECK(file.pool.stats().loads_uncached == 2);
    CHECK(file.pool.stats().load_redundant_bytes == 0);
  }
  CHECK(file.pool.stats().dirty_bytes == at);
  file.store.answer_at_once();
  REQUIRE(file->flush());
}

TEMPLATE_TEST_CASE("a stop token ends a wait", "[async]", Heap) {
  LaterFile<TestType> file{{4096, 1}, 4096};
  std::string into(file.C, '?');
  std::stop_source stop;
  std::optional<tarn::Result<std::size_t>> read;
  Worker reader{[&] { read.emplace(file->read(0, writable(into), {.stop = stop.get_token()})); }};
  REQUIRE(wait_until([&] { return file.store.open_loads() == 1; }));
  stop.request_stop();
  reader.join();
  CHECK(read->error() == std::errc::operation_canceled);
  file.finish_loads();
}

TEMPLATE_TEST_CASE("an operation that nobody keeps ends once, and goes with its completion", "[async]",
                   EACH_STORAGE(Heap, Arena)) {
  const auto sizes = GENERATE(any_sizes());
  LaterFile<TestType> file{sizes, 2 * sizes.chunk_bytes};
  std::string into(2 * file.C, '?');
  Bytes read;
  Ending<tarn::Written> written;
  Ending<std::uint64_t> flushed;
  Ending<void> synced;
  tarn::start_read(*file.file, 0, writable(into), read.done());
  CHECK(read.times == 0);
  tarn::start_write(*file.file, 0, bytes_of("x"), written.done());
  CHECK(written.times == 1);
  file.finish_loads();
  CHECK(read.was(into.size()));
  tarn::start_flush(*file.file, flushed.done());
  CHECK(flushed.times == 0);
  file.store.finish_flush();
  CHECK(flushed.was(1));
  tarn::start_sync(*file.file, synced.done());
  CHECK(synced.times == 1);
}

TEMPLATE_TEST_CASE("a sync waits for the store with no thread, and one that nobody answers makes dirty again",
                   "[async]", EACH_STORAGE(Heap, Arena)) {
  const bool answers = GENERATE(true, false);
  const auto sizes = GENERATE(any_sizes());
  LaterSync<TestType> store;
  tarn::ChunkPool<TestType> pool{pool_options<TestType>(sizes.chunk_bytes, 16 * MiB)};
  const auto P = sizes.chunk_bytes * sizes.chunks_per_part;
  tarn::DirtyFile file{pool, tarn::MetadataFor<TestType>::created(7, {.part_bytes = P}), store};
  REQUIRE(file.write(0, bytes_of("hello")));
  Ending<void> synced;
  auto sync = tarn::sync_operation(file, synced.done());
  sync.start();
  REQUIRE(synced.times == 0);
  REQUIRE(store.token);
  CHECK(store.memory.text(7) == "hello");
  if (!answers) {
    store.token.reset();
    CHECK(synced.failed_with(std::errc::io_error));
    CHECK(pool.stats().dirty_bytes == 5);
    Ending<void> again;
    auto retry = tarn::sync_operation(file, again.done());
    retry.start();
    CHECK(pool.stats().dirty_bytes == 0);
    REQUIRE(store.token);
    store.token->complete({});
    CHECK(again.times == 1);
    CHECK(*again.result);
  } else {
    store.token->complete({});
    CHECK(synced.times == 1);
    CHECK(*synced.result);
  }
  CHECK_FALSE(file.needs_sync());
  CHECK_FALSE(file.is_dirty());
}

#ifndef NDEBUG
TEST_CASE("who asks a token for its request after its end hits an assert", "[async]") {
  const bool first = GENERATE(true, false);
  CHECK(hits_an_assert([&](auto unnoticed) {
          LaterFile<Heap> file{{16, 1}, 16};
          std::string into(16, '?');
          auto read = tarn::read_operation(*file.file, 0, writable(into), [](tarn::Result<std::size_t>) {});
          read.start();
          auto token = file.store.take_load();
          if (first) token.complete(tarn::fail(std::errc::io_error));
          (void)token.request();
          unnoticed();
        }) == first);
}

TEST_CASE("who starts an operation twice, while it waits or after its end, hits an assert", "[async]") {
  const int starts = GENERATE(1, 2);
  const bool ends = GENERATE(true, false);
  CHECK(hits_an_assert([&](auto unnoticed) {
          LaterFile<Heap> file{{16, 1}, 16};
          if (ends) file.store.answer_at_once();
          std::string into(16, '?');
          auto read = tarn::read_operation(*file.file, 0, writable(into), [](tarn::Result<std::size_t>) {});
          for (int i = 0; i < starts; ++i) read.start();
          unnoticed();
        }) == (starts == 2));
}

TEST_CASE("who destroys a file before its openers, or an operation before its end, hits an assert", "[async]") {
  SECTION("a file") {
    const bool first = GENERATE(true, false);
    const auto closes = [&](auto unnoticed) {
      LaterFile<Heap> file{{16, 1}};
      std::optional opener{file->open()};
      if (!first) opener.reset();
      file.file.reset();
      unnoticed();
    };
    CHECK(hits_an_assert(closes) == first);
  }
  SECTION("an operation") {
    const bool first = GENERATE(true, false);
    const auto destroys = [&](auto unnoticed) {
      LaterFile<Heap> file{{16, 1}, 16};
      std::string into(16, '?');
      {
        auto read = tarn::read_operation(*file.file, 0, writable(into), [](tarn::Result<std::size_t>) {});
        read.start();
        if (!first) file.finish_loads();
      }
      unnoticed();
    };
    CHECK(hits_an_assert(destroys) == first);
  }
  SECTION("a file of an operation") {
    const bool first = GENERATE(true, false);
    CHECK(hits_an_assert([&](auto unnoticed) {
            LaterFile<Heap> file{{16, 1}, 16};
            std::string into(16, '?');
            auto read = tarn::read_operation(*file.file, 0, writable(into), [](tarn::Result<std::size_t>) {});
            read.start();
            if (!first) file.finish_loads();
            file.file.reset();
            unnoticed();
          }) == first);
  }
}

TEST_CASE("who destroys a pool before what is of it hits an assert that names it", "[async]") {
  LaterSync<Heap> store;
  std::optional<tarn::ChunkPool<Heap>> pool{std::in_place, pool_options<Heap>(16, 16 * MiB)};
  const auto goes = [&](auto unnoticed) {
    pool.reset();
    unnoticed();
  };
  const auto meta = tarn::DirtyFileMetadata::created(7);
  SECTION("a file") {
    const auto outlived = assert_in([&](auto unnoticed) {
      tarn::DirtyFile file{*pool, meta, store};
      goes(unnoticed);
    });
    CHECK(says(outlived, "a DirtyFile outlives its pool"));
  }
  SECTION("a file that has no id any more") {
    const auto outlived = assert_in([&](auto unnoticed) {
      tarn::DirtyFile file{*pool, meta, store};
      { tarn::DirtyFile next{*pool, meta, store}; }
      goes(unnoticed);
    });
    CHECK(says(outlived, "an abandoned DirtyFile"));
  }
  SECTION("a pin") {
    const auto outlived = assert_in([&](auto unnoticed) {
      tarn::DirtyFile file{*pool, meta, store};
      (void)file.write(0, bytes_of("x")).has_value();
      const auto pin = pool->pin(meta, 0);
      goes(unnoticed);
    });
    CHECK(says(outlived, "a PinnedChunk outlives its pool"));
  }
  SECTION("a token") {
    const auto outlived = assert_in([&](auto unnoticed) {
      {
        tarn::DirtyFile file{*pool, meta, store};
        (void)file.write(0, bytes_of("x")).has_value();
        (void)file.sync({.deadline_ns = 0}).has_value();
      }
      goes(unnoticed);
    });
    CHECK(says(outlived, "a token, an operation or a FlushJob outlives its pool"));
  }
  SECTION("nothing") {
    const auto outlived = assert_in([&](auto unnoticed) {
      {
        tarn::DirtyFile file{*pool, meta, store};
        (void)file.write(0, bytes_of("x")).has_value();
        (void)file.sync({.deadline_ns = 0}).has_value();
        store.token.reset();
        const auto pin = pool->pin(meta, 0);
      }
      goes(unnoticed);
    });
    CHECK(outlived.empty());
  }
}

TEST_CASE("a visitor or a filler that calls tarn hits an assert", "[async]") {
  LaterFile<Heap> file{{16, 1}};
  REQUIRE(file->write(0, bytes_of(pattern(0, 32))));
  const auto fills = [&](auto called) {
    return assert_in([&](auto) {
      (void)file
          ->write(0, 5,
                  [&](tarn::MutableBuffers) -> std::size_t {
                    called();
                    return 5;
                  })
          .has_value();
    });
  };
  const auto views = [&](auto called) {
    return assert_in([&](auto) { (void)file->view(0, 5, [&](tarn::ConstBuffers) { called(); }).has_value(); });
  };
  const auto nothing = [] {};
  const auto asks = [&] { (void)file->size(); };
  const auto writes = [&] { (void)file->write(20, bytes_of("x")).has_value(); };
  CHECK(fills(nothing).empty());
  CHECK(views(nothing).empty());
  const std::string why = "a visitor or a filler calls tarn";
  CHECK(says(fills(asks), why));
  CHECK(says(fills(writes), why));
  CHECK(says(views(asks), why));
  CHECK(says(views(writes), why));
  const auto pinned = assert_in([&](auto) {
    const auto pin = file.pool.pin(file->metadata(), 0);
    (void)pin->with_data([&](std::span<const std::byte>) { writes(); }).has_value();
  });
  CHECK(says(pinned, why));
}
#endif

TEMPLATE_TEST_CASE("a cancel that comes after the completion does nothing", "[async]", Heap) {
  LaterFile<TestType> file{{4096, 1}};
  Ending<tarn::Written> written;
  auto write = tarn::write_operation(*file.file, 0, bytes_of("x"), written.done());
  write.start();
  write.cancel();
  CHECK(written.times == 1);
  CHECK(*written.result);
}

namespace {

/// Tells the test of each chunk that a read looks at, while it has it latched.
struct TellingClock : tarn::ClockEviction {
  static inline std::function<void()> on_touch;
  static void touch(Hook& hook) noexcept {
    ClockEviction::touch(hook);
    if (on_touch) on_touch();
  }
};
struct Telling : Heap {
  using Eviction = TellingClock;
};

}  // namespace

TEST_CASE("a read that loads keeps what it has found, and whoever waits for that goes on when the load has ended",
          "[async]") {
  constexpr std::uint64_t C = 4096;
  tarn::ChunkPool<Telling> pool{pool_options<Telling>(C, 8 * C)};
  MemoryStore<Telling> store;
  store.put_pattern(1, 2 * C);
  store.put_pattern(2, 8 * C);
  using File = tarn::DirtyFile<Telling, MemoryStore<Telling>>;
  const auto pinned_meta = tarn::DirtyFileMetadata::from_store(2, 8 * C);
  File read{pool, tarn::DirtyFileMetadata::from_store(1, 2 * C), store}, pinned{pool, pinned_meta, store},
      written{pool, tarn::DirtyFileMetadata::created(3), store};
  // The first chunk of the file is held, its second one is not; all else is pinned, and there is room for one chunk.
  std::string into(2 * C, '?');
  REQUIRE(read.read(0, writable(into).first(C)));
  std::vector<tarn::PinnedChunk<Telling>> pins;
  for (std::uint64_t i = 0; i < 8; ++i) {
    REQUIRE(pinned.read(i * C, writable(into).first(C)));
    pins.push_back(std::move(*pool.pin(pinned_meta, i)));
  }
  auto& core = pool.core();
  REQUIRE(
      pool.set_budget_bytes(pool.stats().charged_bytes + C + core.chunk_overhead_bytes + core.record_and_table_bytes));
  // The read is held at its second look, when it has reserved a chunk and has its first one pinned.
  Gate look;
  look.close();
  std::atomic<int> looks{0};
  std::atomic<std::thread::id> reader_id{};
  TellingClock::on_touch = [&] {
    if (std::this_thread::get_id() == reader_id.load() && ++looks == 2) look.pass();
  };
  store.load_gate.close();
  std::atomic<bool> done{false};
  auto write = tarn::write_operation(written, 0, bytes_of("x"),
                                     [&](const tarn::Result<tarn::Written>& got) { done = got.has_value(); });
  std::optional<std::size_t> n;
  {
    Worker reader{store.load_gate, [&] {
                    reader_id = std::this_thread::get_id();
                    if (const auto got = read.read(0, writable(into))) n = *got;
                  }};
    CHECK(look.wait_for_arrivals());
    write.start();
    CHECK_FALSE(done);
    look.open();
    CHECK(store.load_gate.wait_for_arrivals());
    CHECK_FALSE(done);  // the first chunk is the read's, till it has its bytes
  }
  TellingClock::on_touch = nullptr;
  CHECK(done);
  CHECK(n == 2 * C);
  CHECK(written.flush());
}

#ifdef __cpp_impl_coroutine

namespace {

/// A coroutine that runs until it waits, and is not waited for: what it came to is seen in what it was given.
struct Detached {
  struct promise_type {
    Detached get_return_object() { return {}; }
    std::suspend_never initial_suspend() noexcept { return {}; }
    std::suspend_never final_suspend() noexcept { return {}; }
    void return_void() {}
    void unhandled_exception() { std::terminate(); }
  };
};

}  // namespace

TEMPLATE_TEST_CASE("a coroutine awaits reads, writes, views and flushes", "[async]", EACH_STORAGE(Heap, Arena)) {
  const auto sizes = GENERATE(any_sizes());
  LaterFile<TestType> file{sizes, 2 * sizes.chunk_bytes};
  std::string into(2 * file.C, '?');
  std::vector<std::string> said;
  const auto body = [](LaterFile<TestType>& with, std::string& to, std::vector<std::string>& says) -> Detached {
    const auto written = co_await tarn::async_write(*with.file, 0, bytes_of("x"));
    says.push_back(written && written->size_bytes == 1 ? "written" : "not written");
    const auto read = co_await tarn::async_read(*with.file, 0, writable(to));
    says.push_back(read && *read == to.size() ? "read" : "not read");
    const auto shown = co_await tarn::async_view(*with.file, 0, 1, [](tarn::ConstBuffers bytes) {
      std::string first(1, '?');
      bytes.copy_to(writable(first));
      return first;
    });
    says.push_back(shown ? *shown : "not shown");
    const auto flushed = co_await tarn::async_flush(*with.file);
    says.push_back(flushed && *flushed == 1 ? "flushed" : "not flushed");
  };
  body(file, into, said);
  CHECK(said == std::vector<std::string>{"written"});
  file.finish_loads();
  CHECK(said == std::vector<std::string>{"written", "read", "x"});
  CHECK(into == "x" + pattern(1, into.size() - 1));
  file.store.finish_flush();
  CHECK(said == std::vector<std::string>{"written", "read", "x", "flushed"});
  CHECK(file.store.memory.text(file.id) == into);
}

TEMPLATE_TEST_CASE("a stop token cancels what a coroutine awaits", "[async]", Heap) {
  LaterFile<TestType> file{{4096, 1}, 4096};
  std::string into(4096, '?');
  std::stop_source stop;
  std::error_code said;
  const auto body = [](LaterFile<TestType>& with, std::string& to, std::stop_token token,
                       std::error_code& says) -> Detached {
    const auto read = co_await tarn::async_read(*with.file, 0, writable(to), token);
    says = read.error();
  };
  body(file, into, stop.get_token(), said);
  CHECK_FALSE(said);
  stop.request_stop();
  CHECK(said == std::errc::operation_canceled);
  body(file, into, stop.get_token(), said);  // stopped before it began
  file.finish_loads();
  CHECK(said == std::errc::operation_canceled);
}

#endif

TEST_CASE("an operation that was never started asks for nothing, and completes nothing", "[async]") {
  LaterFile<Heap> file{{16, 1}, 16};
  std::string into(16, '?');
  int completed = 0;
  {
    auto read = tarn::read_operation(*file.file, 0, writable(into), [&](tarn::Result<std::size_t>) { ++completed; });
    read.cancel();
  }
  CHECK(completed == 0);
  CHECK(file.store.open_loads() == 0);
  CHECK(into == std::string(16, '?'));
}
