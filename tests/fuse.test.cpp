// SPDX-License-Identifier: MIT
// Compile: alone
#include <tarn/fuse.hpp>

#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <tarn/dirty_file.hpp>
#include <tarn/testing/gate.hpp>
#include <tarn/testing/memory_store.hpp>

#include "support/catch.hpp"
#include "support/kernel.hpp"
#include "support/replaced_new.hpp"
#include "support/traits.hpp"

namespace {

thread_local bool no_memory = false;

}  // namespace

bool tarn_test::may_allocate() noexcept { return !no_memory; }

namespace {

struct HeapTraits : tarn_test::TestTraits {
  using Storage = tarn::HeapStorage;
};
struct EmptyStore {
  tarn::Result<std::size_t> load(const tarn::LoadRequest<HeapTraits>&) { return tarn::fail(std::errc::io_error); }
  auto flush(const tarn::FlushRequest<HeapTraits>&) { return tarn::FlushOutcome<HeapTraits>::stored(); }
  tarn::Result<> remove(const std::uint64_t&) { return {}; }
};
struct Fixture {
  tarn::ChunkPool<HeapTraits> pool{{.budget_bytes = 4 * tarn::MiB, .chunk_bytes = 4096}};
  EmptyStore store;
  tarn::DirtyFile<HeapTraits, EmptyStore> file{pool, tarn::MetadataFor<HeapTraits>::created(1), store};
  std::string all() {
    std::string bytes(static_cast<std::size_t>(file.size()), '?');
    REQUIRE(tarn::fuse::read(file, bytes.data(), bytes.size(), 0) == static_cast<int>(bytes.size()));
    return bytes;
  }
};

}  // namespace

TEST_CASE("an error of any category has an errno", "[fuse]") {
  CHECK(tarn::fuse::errno_of({}) == 0);
  CHECK(tarn::fuse::errno_of(std::make_error_code(std::errc::no_space_on_device)) == ENOSPC);
  CHECK(tarn::fuse::errno_of({ENOENT, std::system_category()}) == ENOENT);
  CHECK(tarn::fuse::errno_of({1, std::iostream_category()}) == EIO);
}

TEST_CASE("a request's bytes are written from memory and from a descriptor alike", "[fuse]") {
  std::string bytes(10000, 'x');
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>('a' + i % 23);
  Fixture memory, descriptor;
  {
    fuse_bufvec from = FUSE_BUFVEC_INIT(bytes.size());
    from.buf[0].mem = bytes.data();
    const auto written = tarn::fuse::write_from(memory.file, &from, 100);
    REQUIRE(written);
    CHECK(*written == bytes.size());
  }
  {
    int ends[2];
    REQUIRE(::pipe(ends) == 0);
    REQUIRE(::write(ends[1], bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size()));
    fuse_bufvec from = FUSE_BUFVEC_INIT(bytes.size());
    from.buf[0].flags = static_cast<fuse_buf_flags>(FUSE_BUF_IS_FD | FUSE_BUF_FD_RETRY);
    from.buf[0].fd = ends[0];
    const auto written = tarn::fuse::write_from(descriptor.file, &from, 100, std::int64_t{7});
    REQUIRE(written);
    CHECK(*written == bytes.size());
    CHECK(descriptor.file.mtime_ns() == 7);
    ::close(ends[0]);
    ::close(ends[1]);
  }
  CHECK(memory.all() == std::string(100, '\0') + bytes);
  CHECK(descriptor.all() == memory.all());
}

TEST_CASE("a descriptor that does not read leaves the file as it was, and says why", "[fuse]") {
  Fixture f;
  fuse_bufvec from = FUSE_BUFVEC_INIT(100);
  from.buf[0].flags = FUSE_BUF_IS_FD;
  from.buf[0].fd = -1;
  CHECK(tarn::fuse::write_from(f.file, &from, 0).error() == std::errc::bad_file_descriptor);
  CHECK(f.file.size() == 0);
}

TEST_CASE("the high-level calls answer a count or a negated errno", "[fuse]") {
  Fixture f;
  CHECK(tarn::fuse::write(f.file, "hello", 5, 3) == 5);
  char bytes[10];
  CHECK(tarn::fuse::read(f.file, bytes, sizeof bytes, 1) == 7);
  CHECK(std::memcmp(bytes, "\0\0hello", 7) == 0);
  CHECK(tarn::fuse::read(f.file, bytes, sizeof bytes, -1) == -EINVAL);
  CHECK(tarn::fuse::write(f.file, bytes, 1, INT64_MAX) == -EFBIG);
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)  // who end a program that asks for so much
TEST_CASE("a read that there is no buffer for is an error, and no reply", "[fuse]") {
  Fixture f;
  const std::size_t too_many_bytes = std::size_t{1} << 60;
  CHECK(tarn::fuse::detail::reply_bytes_of(nullptr, f.file, 0, too_many_bytes, {}) == std::errc::not_enough_memory);
}
#endif

TEST_CASE("invalidations are sent in order, by another thread, all before the queue ends", "[fuse]") {
  std::vector<std::pair<fuse_ino_t, off_t>> sent;
  std::thread::id by;
  {
    tarn::fuse::InvalidationQueue queue{[&](fuse_ino_t inode, off_t offset, off_t) {
      sent.emplace_back(inode, offset);
      by = std::this_thread::get_id();
    }};
    queue.invalidate(1, 10);
    queue.invalidate(2, 20);
    queue.wait_until_sent();
    CHECK(sent == std::vector<std::pair<fuse_ino_t, off_t>>{{1, 10}, {2, 20}});
    queue.wait_until_sent();  // nothing: it does not wait for what comes later
    for (fuse_ino_t i = 3; i < 100; ++i) queue.invalidate(i);
  }
  CHECK(sent.size() == 99);
  CHECK(by != std::this_thread::get_id());
}

namespace {

/// A file of which only the answers matter: those of a view, a read and a write are what the test says.
struct FileThatAnswers {
  tarn::Result<bool> viewed = false;
  tarn::Result<std::size_t> is_read = std::size_t{0}, written = std::size_t{0};
  bool no_memory_after_view = false;
  int views = 0, reads = 0;

  template <class F>
  tarn::Result<bool> view(std::uint64_t, std::uint64_t, F&&, const tarn::CallOptions&) {
    ++views;
    no_memory = no_memory_after_view;
    return viewed;
  }
  tarn::Result<std::size_t> read(std::uint64_t, std::span<std::byte> into, const tarn::CallOptions& = {}) {
    ++reads;
    if (is_read) std::fill_n(into.begin(), *is_read, std::byte{'r'});
    return is_read;
  }
  tarn::Result<std::size_t> write(std::uint64_t, std::span<const std::byte>, std::optional<std::int64_t> = {},
                                  const tarn::CallOptions& = {}) {
    return written;
  }
  /// Has the filler fill four bytes, and then answers as it was told.
  template <class Filler>
  tarn::Result<std::size_t> write(std::uint64_t, std::uint64_t, Filler&& filler, std::optional<std::int64_t>,
                                  const tarn::CallOptions&) {
    char bytes[4];
    ::iovec piece{bytes, sizeof bytes};
    (void)filler(tarn::MutableBuffers{std::span{&piece, 1}});
    return written;
  }
};

/// A kernel that reads from such a file.
struct Reader {
  FileThatAnswers file;
  tarn_test::Kernel kernel{handlers(), this};

  static fuse_lowlevel_ops handlers() {
    fuse_lowlevel_ops ops{};
    ops.read = [](fuse_req_t request, fuse_ino_t, std::size_t size, off_t offset, fuse_file_info*) {
      tarn::fuse::reply_read(request, static_cast<Reader*>(fuse_req_userdata(request))->file, size, offset);
      no_memory = false;
    };
    return ops;
  }
};

}  // namespace

TEST_CASE("a read that no view is to be had for comes by a copy, and one that fails otherwise does not", "[fuse]") {
  const auto why = GENERATE(std::errc::message_size, std::errc::no_buffer_space, std::errc::host_unreachable);
  const bool copies = why != std::errc::host_unreachable;
  Reader reader;
  reader.file.viewed = tarn::fail(why);
  reader.file.is_read = std::size_t{3};
  const auto reply = reader.kernel.reply(reader.kernel.read(0, 5));
  REQUIRE(reply);
  CHECK(reply->error == (copies ? 0 : EHOSTUNREACH));
  CHECK(reply->bytes == (copies ? "rrr" : ""));
  CHECK(reader.file.reads == (copies ? 1 : 0));
}

TEST_CASE("a read by copy that fails, or finds no memory for it, is replied to with that", "[fuse]") {
  const bool has_memory = GENERATE(true, false);
  Reader reader;  // too many pieces for a view
  reader.file.no_memory_after_view = !has_memory;
  reader.file.is_read = tarn::fail(std::errc::host_unreachable);
  const auto reply = reader.kernel.reply(reader.kernel.read(0, 5));
  REQUIRE(reply);
  CHECK(reply->error == (has_memory ? EHOSTUNREACH : ENOMEM));
  CHECK(reader.file.reads == (has_memory ? 1 : 0));
}

TEST_CASE("a read before the file's first byte is refused, and the file is not asked", "[fuse]") {
  Reader reader;
  const auto reply = reader.kernel.reply(reader.kernel.read(~std::uint64_t{0}, 5));
  REQUIRE(reply);
  CHECK(reply->error == EINVAL);
  CHECK(reader.file.views == 0);
}

TEST_CASE("a write before the file's first byte is refused, and nothing has changed", "[fuse]") {
  Fixture f;
  char bytes[] = "hello";
  fuse_bufvec from = FUSE_BUFVEC_INIT(5);
  from.buf[0].mem = bytes;
  CHECK(tarn::fuse::write_from(f.file, &from, -1).error() == std::errc::invalid_argument);
  CHECK(tarn::fuse::write(f.file, bytes, 5, -1) == -EINVAL);
  CHECK(f.file.size() == 0);
}

TEST_CASE("a descriptor's error is what a write answers, also where the file has one of its own", "[fuse]") {
  FileThatAnswers file;
  file.written = GENERATE(tarn::Result<std::size_t>{std::size_t{0}},
                          tarn::Result<std::size_t>{tarn::fail(std::errc::no_buffer_space)});
  fuse_bufvec from = FUSE_BUFVEC_INIT(100);
  from.buf[0].flags = FUSE_BUF_IS_FD;
  from.buf[0].fd = -1;
  CHECK(tarn::fuse::write_from(file, &from, 0).error() == std::errc::bad_file_descriptor);
  file.written = std::size_t{4};  // of an earlier window: those are in
  CHECK(tarn::fuse::write_from(file, &from, 0).value() == 4);
}

TEST_CASE("a high-level read that fails answers the negated errno", "[fuse]") {
  FileThatAnswers file;
  file.is_read = tarn::fail(std::errc::host_unreachable);
  char bytes[4];
  CHECK(tarn::fuse::read(file, bytes, sizeof bytes, 0) == -EHOSTUNREACH);
}

TEST_CASE("who waits for invalidations waits for the one that is being sent, too", "[fuse]") {
  tarn_test::Gate gate;
  gate.close();
  std::atomic<int> sent{0};
  tarn::fuse::InvalidationQueue queue{[&](fuse_ino_t, off_t, off_t) {
    gate.pass();
    ++sent;
  }};
  queue.invalidate(1);
  const bool begun = gate.wait_for_arrivals();  // it has left the queue
  tarn_test::BlockedThread waiter;
  std::atomic<int> seen{-1};
  {
    tarn_test::Worker waits{gate, [&] {
                              waiter.here();
                              queue.wait_until_sent();
                              seen = sent.load();
                            }};
    CHECK(waiter.wait_until_blocked());
    CHECK(seen == -1);
    gate.open();
  }
  CHECK(begun);
  CHECK(seen == 1);
}
