// SPDX-License-Identifier: MIT
// Compile: alone
#include <tarn/fuse_async.hpp>

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include <tarn/dirty_file.hpp>
#include <tarn/testing/gate.hpp>
#include <tarn/testing/later_store.hpp>

#include "support/catch.hpp"
#include "support/kernel.hpp"
#include "support/one_file.hpp"
#include "support/replaced_new.hpp"

namespace {

thread_local long allocations_left = -1;  // one less, and then all fail; negative: none does

}  // namespace

bool tarn_test::may_allocate() noexcept {
  if (allocations_left > 0) --allocations_left;
  return allocations_left != 0;
}

using namespace tarn_test;

namespace {

/// Answers syncs when told, too.
struct Store : LaterStore<Heap> {
  void sync(const tarn::SyncRequest<Heap>&, tarn::SyncToken<Heap> token) { syncs.push_back(std::move(token)); }
  std::vector<tarn::SyncToken<Heap>> syncs;
};
using File = tarn::DirtyFile<Heap, Store>;

constexpr std::uint64_t id = 7, C = 16;

/// A filesystem of one file, in a pool of `chunks` and what is needed at least, behind a kernel.
struct Mounted {
  explicit Mounted(std::uint64_t stored_bytes = 0, std::uint64_t more_bytes = MiB, std::uint64_t chunk_bytes = C)
      : pool{pool_options<Heap>(chunk_bytes, more_bytes, 100)} {
    using Metadata = tarn::MetadataFor<Heap>;
    store.memory.put_pattern(id, stored_bytes);
    store.memory.expect_parts_of(chunk_bytes);
    const auto options = tarn::FileOptions{.part_bytes = chunk_bytes};
    file = std::make_shared<File>(
        pool, stored_bytes ? Metadata::from_store(id, stored_bytes, options) : Metadata::created(id, options), store);
  }
  ~Mounted() { CHECK(store.memory.complaints() == ""); }

  static fuse_lowlevel_ops handlers() {
    fuse_lowlevel_ops ops{};
    ops.read = [](fuse_req_t request, fuse_ino_t, std::size_t size, off_t offset, fuse_file_info*) {
      tarn::fuse::reply_read(request, of(request).file, size, offset);
    };
    ops.write_buf = [](fuse_req_t request, fuse_ino_t, fuse_bufvec* from, off_t offset, fuse_file_info*) {
      tarn::fuse::reply_write(request, of(request).file, from, offset, of(request).waiting);
    };
    ops.flush = [](fuse_req_t request, fuse_ino_t, fuse_file_info*) {
      tarn::fuse::reply_flush(request, of(request).file);
    };
    ops.fsync = [](fuse_req_t request, fuse_ino_t, int, fuse_file_info*) {
      tarn::fuse::reply_sync(request, of(request).file);
    };
    return ops;
  }
  static Mounted& of(fuse_req_t request) { return *static_cast<Mounted*>(fuse_req_userdata(request)); }

  void finish_loads() {
    while (store.open_loads() != 0) store.finish_load();
  }
  /// Writes until every chunk is dirty. Returns: where the next one would go.
  std::uint64_t fill() {
    const auto chunk_bytes = pool.chunk_bytes();
    const auto chunk = pattern(0, chunk_bytes);
    std::uint64_t at = 0;
    while (file->try_write(at, bytes_of(chunk))) at += chunk_bytes;
    return at;
  }

  tarn::ChunkPool<Heap> pool;
  Store store;
  std::shared_ptr<File> file;
  tarn::fuse::WaitingWrites waiting{64 * KiB};
  Kernel kernel{handlers(), this};  // last: it calls the others
};

/// What a pool has room for beside the least, and how large its chunks then are, so that a few writes fill it.
constexpr std::uint64_t large = 4096, little_bytes = 4 * large;

}  // namespace

TEST_CASE("a read of what is held is replied to inside the call", "[fuse]") {
  Mounted mounted;
  REQUIRE(mounted.file->write(5, bytes_of("hello")));
  const auto reply = mounted.kernel.reply(mounted.kernel.read(3, 100));
  REQUIRE(reply);
  CHECK(reply->error == 0);
  CHECK(reply->bytes == std::string(2, '\0') + "hello");
  CHECK(mounted.kernel.reply(mounted.kernel.read(10, 5))->bytes.empty());
}

TEST_CASE("a read that lacks bytes is replied to when they have come, and holds nobody up", "[fuse]") {
  Mounted mounted{10 * C};
  const auto first = mounted.kernel.read(0, 10 * C), second = mounted.kernel.read(C, C);
  CHECK_FALSE(mounted.kernel.reply(first));
  REQUIRE(mounted.file->write(9 * C, bytes_of("written meanwhile")));
  CHECK(mounted.kernel.reply(mounted.kernel.read(9 * C, 7))->bytes == "written");
  mounted.finish_loads();
  const auto reply = mounted.kernel.reply(first);
  REQUIRE(reply);
  CHECK(reply->bytes == pattern(0, 9 * C) + std::string{"written meanwhile"}.substr(0, C));
  CHECK(mounted.kernel.reply(second)->bytes == pattern(C, C));
  CHECK(mounted.store.open_loads() == 0);
}

TEST_CASE("a read whose load fails is replied to with its error, and the next one asks anew", "[fuse]") {
  Mounted mounted{C};
  const auto request = mounted.kernel.read(0, C);
  REQUIRE(mounted.store.open_loads() == 1);
  mounted.store.take_load().complete(tarn::fail(std::errc::host_unreachable));
  const auto reply = mounted.kernel.reply(request);
  REQUIRE(reply);
  CHECK(reply->error == EHOSTUNREACH);
  CHECK(reply->bytes.empty());
  const auto again = mounted.kernel.read(0, C);
  mounted.finish_loads();
  CHECK(mounted.kernel.reply(again)->bytes == pattern(0, C));
}

TEST_CASE("a file that everybody has let go of is kept until its reads and writes are replied to", "[fuse]") {
  Mounted mounted{C};
  const auto request = mounted.kernel.read(0, C);
  const std::weak_ptr<File> kept = mounted.file;
  mounted.file.reset();
  REQUIRE_FALSE(kept.expired());
  mounted.finish_loads();
  CHECK(mounted.kernel.reply(request)->bytes == pattern(0, C));
  CHECK(kept.expired());
}

TEST_CASE("what is too much, or in too many pieces, for a view comes by a copy, held or not", "[fuse]") {
  const auto chunks = GENERATE(std::uint64_t{90}, std::uint64_t{150});  // more than max_reply_spans; more than a window
  const bool held = GENERATE(true, false);
  Mounted mounted{chunks * C};
  if (held) {
    std::string into(chunks * C, '?');
    mounted.store.answer_at_once();
    REQUIRE(mounted.file->read(0, writable(into)));
    mounted.store.answer_at_once(false);
  }
  const auto request = mounted.kernel.read(0, chunks * C);
  if (!held) {
    CHECK_FALSE(mounted.kernel.reply(request));
    mounted.finish_loads();
  }
  const auto reply = mounted.kernel.reply(request);
  REQUIRE(reply);
  CHECK(reply->error == 0);
  CHECK(reply->bytes == pattern(0, chunks * C));
}

TEST_CASE("a write that finds memory is replied to inside the call", "[fuse]") {
  Mounted mounted;
  const auto reply = mounted.kernel.reply(mounted.kernel.write(3, "hello"));
  REQUIRE(reply);
  CHECK(reply->error == 0);
  CHECK(Kernel::written(*reply) == 5);
  CHECK(mounted.kernel.reply(mounted.kernel.read(0, 100))->bytes == std::string(3, '\0') + "hello");
  CHECK(mounted.kernel.reply(mounted.kernel.write(std::uint64_t{INT64_MAX}, "hello"))->error == EFBIG);
}

TEST_CASE("a write that waits for memory keeps its bytes, and is replied to when there is some", "[fuse]") {
  Mounted mounted{0, little_bytes, large};
  const auto at = mounted.fill();
  const auto bytes = pattern(12345, 2 * large);  // all of it, or only its first chunk, has to wait
  const auto back = GENERATE(std::uint64_t{0}, large);
  const auto request = mounted.kernel.write(at - back, bytes);
  CHECK_FALSE(mounted.kernel.reply(request));
  CHECK(mounted.waiting.any());
  std::optional<Kernel::Reply> reply;
  while (!(reply = mounted.kernel.reply(request))) {
    REQUIRE(mounted.store.open_flushes() != 0);
    mounted.store.finish_flush();
  }
  CHECK(reply->error == 0);
  CHECK(Kernel::written(*reply) == bytes.size());
  CHECK_FALSE(mounted.waiting.any());
  mounted.store.answer_at_once();
  REQUIRE(mounted.file->flush());
  CHECK(mounted.store.memory.text(id, at - back, bytes.size()) == bytes);
}

TEST_CASE("a write that no memory can be made for is replied to with an error", "[fuse]") {
  Mounted mounted{0, little_bytes, large};
  const auto at = mounted.fill();
  const auto request = mounted.kernel.write(at, pattern(0, large));
  std::optional<Kernel::Reply> reply;
  while (!(reply = mounted.kernel.reply(request))) {
    REQUIRE(mounted.store.open_flushes() != 0);
    mounted.store.take_flush().complete(
        tarn::FlushOutcome<Heap>::failed(std::make_error_code(std::errc::no_space_on_device)));
  }
  CHECK(reply->error == ENOBUFS);
  CHECK_FALSE(mounted.waiting.any());
}

TEST_CASE("who writes while others wait for memory waits behind them", "[fuse]") {
  Mounted mounted{0, little_bytes, large};
  const auto at = mounted.fill();
  const auto first = mounted.kernel.write(at, pattern(0, large));
  std::string over = "needs no memory";  // goes where the file has a chunk, and no flush reads it
  const auto held = at - large;
  fuse_bufvec from = FUSE_BUFVEC_INIT(over.size());
  from.buf[0].mem = over.data();
  const auto tried = tarn::fuse::try_write_from(*mounted.file, &from, static_cast<off_t>(held), mounted.waiting);
  CHECK(tried.error() == std::errc::resource_unavailable_try_again);
  CHECK(mounted.kernel.reply(mounted.kernel.write(held, over)));  // an operation, which need not wait after all
  while (!mounted.kernel.reply(first)) {
    REQUIRE(mounted.store.open_flushes() != 0);
    mounted.store.finish_flush();
  }
  CHECK(tarn::fuse::try_write_from(*mounted.file, &from, static_cast<off_t>(held), mounted.waiting));
}

TEST_CASE("a write past what may wait waits in its thread", "[fuse]") {
  Mounted mounted{0, little_bytes, large};
  const auto at = mounted.fill();
  const auto bytes = pattern(7, large);
  tarn::fuse::WaitingWrites none{0};
  std::atomic<bool> done{false};
  std::optional<tarn::Result<std::size_t>> result;
  Worker writer{[&] {
    fuse_bufvec from = FUSE_BUFVEC_INIT(bytes.size());
    from.buf[0].mem = const_cast<char*>(bytes.data());
    tarn::fuse::write_from_later(mounted.file, &from, static_cast<off_t>(at), 0, none,
                                 [&](auto&, const auto& written) { result.emplace(written); });
    done = true;
  }};
  while (!done) {
    if (mounted.store.open_flushes() != 0) mounted.store.finish_flush();
  }
  writer.join();
  REQUIRE(result);
  REQUIRE(*result);
  CHECK(**result == bytes.size());
}

TEST_CASE("of a write that was taken in part the rest is written, and no more", "[fuse]") {
  const bool may_wait = GENERATE(false, true);
  Mounted mounted;
  std::string bytes = "taken, left" + std::string(100, '?');
  fuse_bufvec from = FUSE_BUFVEC_INIT(11);
  from.buf[0].mem = bytes.data();
  from.off = 6;
  REQUIRE(mounted.file->write(0, bytes_of("taken,")));
  tarn::fuse::WaitingWrites waiting{may_wait ? std::uint64_t{64} : 0};
  std::optional<tarn::Result<std::size_t>> result;
  tarn::fuse::write_from_later(mounted.file, &from, 0, 6, waiting,
                               [&](auto&, const auto& written) { result.emplace(written); });
  REQUIRE(result);
  REQUIRE(*result);
  CHECK(**result == 11);
  CHECK(mounted.file->metadata().size() == 11);
  CHECK(mounted.kernel.reply(mounted.kernel.read(0, 100))->bytes == "taken, left");
}

TEST_CASE("of a write whose rest cannot be read what was taken is told, or else the error", "[fuse]") {
  const std::size_t taken_bytes = GENERATE(0u, 6u);
  Mounted mounted;
  fuse_bufvec from = FUSE_BUFVEC_INIT(11);
  from.buf[0].flags = FUSE_BUF_IS_FD;
  from.buf[0].fd = -1;
  from.off = taken_bytes;
  tarn::fuse::WaitingWrites waiting{64};
  std::optional<tarn::Result<std::size_t>> result;
  tarn::fuse::write_from_later(mounted.file, &from, 0, taken_bytes, waiting,
                               [&](auto&, const auto& written) { result.emplace(written); });
  REQUIRE(result);
  if (taken_bytes == 0) {
    CHECK(result->error() == std::errc::bad_file_descriptor);
  } else {
    CHECK(result->value() == taken_bytes);
  }
  CHECK_FALSE(waiting.any());
  CHECK(mounted.file->size() == 0);
}

TEST_CASE("a flush is replied to when the store has the bytes, an fsync when they are durable", "[fuse]") {
  const bool fails = GENERATE(false, true);
  Mounted mounted;
  REQUIRE(mounted.file->write(0, bytes_of("hello")));
  const auto flush = mounted.kernel.flush();
  CHECK_FALSE(mounted.kernel.reply(flush));
  {
    auto token = mounted.store.take_flush();
    REQUIRE(mounted.store.memory.flush(token.request()).ok());
    token.complete(tarn::FlushOutcome<Heap>::stored());
  }
  CHECK(mounted.kernel.reply(flush)->error == 0);
  const auto fsync = mounted.kernel.fsync();
  CHECK_FALSE(mounted.kernel.reply(fsync));
  REQUIRE(mounted.store.syncs.size() == 1);
  mounted.store.syncs[0].complete(fails ? tarn::Result<>{tarn::fail(std::errc::io_error)} : tarn::Result<>{});
  CHECK(mounted.kernel.reply(fsync)->error == (fails ? EIO : 0));
  CHECK(mounted.file->is_dirty() == fails);
  mounted.store.syncs.clear();
}

TEST_CASE("a flush that fails is replied to with its error", "[fuse]") {
  Mounted mounted;
  REQUIRE(mounted.file->write(0, bytes_of("hello")));
  const auto flush = mounted.kernel.flush(), fsync = mounted.kernel.fsync();
  for (int i = 0; i < 2; ++i) {
    mounted.store.take_flush().complete(
        tarn::FlushOutcome<Heap>::failed(std::make_error_code(std::errc::no_space_on_device)));
  }
  CHECK(mounted.kernel.reply(flush)->error == ENOSPC);
  CHECK(mounted.kernel.reply(fsync)->error == ENOSPC);
  CHECK(mounted.kernel.reply(mounted.kernel.read(0, 5))->bytes == "hello");
}

namespace {

/// What a test does with a read's request, in place of replying to it.
struct Handed {
  std::function<void(fuse_req_t)> handle;
  Kernel kernel{handlers(), this};

  static fuse_lowlevel_ops handlers() {
    fuse_lowlevel_ops ops{};
    ops.read = [](fuse_req_t request, fuse_ino_t, std::size_t, off_t, fuse_file_info*) {
      static_cast<Handed*>(fuse_req_userdata(request))->handle(request);
    };
    return ops;
  }
  [[nodiscard]] std::optional<Kernel::Reply> reply_to(std::function<void(fuse_req_t)> how) {
    handle = std::move(how);
    return kernel.reply(kernel.read(0, 1));
  }
};

}  // namespace

TEST_CASE("a read before the file's first byte is refused, at once or later, and a write is", "[fuse]") {
  Mounted mounted{C};
  CHECK(mounted.kernel.reply(mounted.kernel.read(~std::uint64_t{0}, 5))->error == EINVAL);
  Handed handed;
  const auto reply =
      handed.reply_to([&](fuse_req_t request) { tarn::fuse::reply_read_later(request, mounted.file, 5, off_t{-1}); });
  REQUIRE(reply);
  CHECK(reply->error == EINVAL);
  CHECK(mounted.store.open_loads() == 0);

  fuse_bufvec from = FUSE_BUFVEC_INIT(5);
  char bytes[] = "hello";
  from.buf[0].mem = bytes;
  std::vector<std::error_code> ended;
  const auto done = [&](auto&, const tarn::Result<std::size_t>& written) { ended.push_back(written.error()); };
  tarn::fuse::write_from_later(mounted.file, &from, off_t{-1}, 0, mounted.waiting, done);
  CHECK(ended == std::vector{std::make_error_code(std::errc::invalid_argument)});
  CHECK_FALSE(mounted.file->is_dirty());
}

TEST_CASE("a write of which nothing is left is done with what was taken in", "[fuse]") {
  Mounted mounted;
  fuse_bufvec from = FUSE_BUFVEC_INIT(5);
  std::optional<std::size_t> n;
  tarn::fuse::write_from_later(mounted.file, &from, off_t{0}, 5, mounted.waiting,
                               [&](auto&, const tarn::Result<std::size_t>& written) { n = written.value(); });
  CHECK(n == std::size_t{5});
  CHECK_FALSE(mounted.waiting.any());
}

TEST_CASE("a read by copy whose load fails is replied to with its error", "[fuse]") {
  Mounted mounted{150 * C};  // more than a window
  const auto request = mounted.kernel.read(0, 150 * C);
  REQUIRE(mounted.store.open_loads() != 0);
  while (mounted.store.open_loads() != 0) mounted.store.take_load().complete(tarn::fail(std::errc::host_unreachable));
  const auto reply = mounted.kernel.reply(request);
  REQUIRE(reply);
  CHECK(reply->error == EHOSTUNREACH);
  CHECK(reply->bytes.empty());
}

TEST_CASE("a reply that finds no memory says so, once, and nothing waits", "[fuse]") {
  Mounted mounted{C, little_bytes, large};
  Handed handed;
  const auto without_memory = [&](std::function<void(fuse_req_t)> how) {
    return handed.reply_to([how = std::move(how)](fuse_req_t request) {
      allocations_left = 0;
      how(request);
      allocations_left = -1;
    });
  };
  using Reply = std::optional<Kernel::Reply>;
  const Reply replies[]{
      without_memory([&](fuse_req_t r) { tarn::fuse::reply_copy_later(r, mounted.file, 5, off_t{0}); }),
      without_memory([&](fuse_req_t r) { tarn::fuse::reply_read_later(r, mounted.file, 5, off_t{0}); }),
      without_memory([&](fuse_req_t r) { tarn::fuse::reply_flush(r, mounted.file); }),
      without_memory([&](fuse_req_t r) { tarn::fuse::reply_sync(r, mounted.file); })};
  for (const auto& reply : replies) {
    REQUIRE(reply);
    CHECK(reply->error == ENOMEM);
  }
  CHECK(mounted.store.open_loads() == 0);

  const auto at = mounted.fill();
  auto bytes = pattern(0, large);
  fuse_bufvec from = FUSE_BUFVEC_INIT(bytes.size());
  from.buf[0].mem = bytes.data();
  for (const long left : {1L, 2L}) {  // none for the copy; none for the operation
    const auto reply = handed.reply_to([&](fuse_req_t request) {
      allocations_left = left;
      tarn::fuse::reply_write(request, mounted.file, &from, static_cast<off_t>(at), mounted.waiting);
      allocations_left = -1;
    });
    REQUIRE(reply);
    CHECK(reply->error == ENOMEM);
    CHECK_FALSE(mounted.waiting.any());
    CHECK(mounted.file->size() == at);
  }
  mounted.store.answer_at_once();
  CHECK(mounted.file->flush());
}

TEST_CASE("a write whose first window finds memory, and whose second waits for it, is replied to for both", "[fuse]") {
  Mounted mounted{0, little_bytes, large};
  const auto window = mounted.pool.window_bytes();
  const auto at = mounted.fill();
  REQUIRE(at >= window);
  const auto bytes = pattern(99, 2 * window);
  const auto request = mounted.kernel.write(at - window, bytes);  // over what is held, then past it
  CHECK_FALSE(mounted.kernel.reply(request));
  CHECK(mounted.file->size() == at);
  std::optional<Kernel::Reply> reply;
  while (!(reply = mounted.kernel.reply(request))) {
    REQUIRE(mounted.store.open_flushes() != 0);
    mounted.store.finish_flush();
  }
  CHECK(reply->error == 0);
  CHECK(Kernel::written(*reply) == bytes.size());
  mounted.store.answer_at_once();
  REQUIRE(mounted.file->flush());
  CHECK(mounted.store.memory.text(id, at - window, bytes.size()) == bytes);
}
