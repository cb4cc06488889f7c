// SPDX-License-Identifier: MIT
#include <tarn/fuse.hpp>

#include <unistd.h>

#include <array>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include <tarn/dirty_file.hpp>

#include "support/catch.hpp"
#include "support/traits.hpp"

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
    for (fuse_ino_t i = 3; i < 100; ++i) queue.invalidate(i);
  }
  CHECK(sent.size() == 99);
  CHECK(by != std::this_thread::get_id());
}
