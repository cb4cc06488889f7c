// SPDX-License-Identifier: MIT
#include <tarn/dirty_file_metadata.hpp>

#include <cstdint>
#include <string>
#include <system_error>
#include <vector>

#include "support/catch.hpp"
#include "support/one_file.hpp"

using tarn::DirtyFileMetadata;
using tarn::FileState;
using tarn_test::any_sizes;
using tarn_test::Arena;
using tarn_test::Heap;
using tarn_test::MiB;
using tarn_test::OneFile;
using tarn_test::range;

namespace {

tarn::Digest<16> digest(int of) { return {.bytes = {static_cast<std::byte>(of)}}; }

struct Inode {
  std::string path;
  std::uint64_t parent = 0;
  bool executable = false;
  friend bool operator==(const Inode&, const Inode&) = default;
};
struct WithPayload : tarn::DefaultTraits {
  using Payload = Inode;
};

}  // namespace

TEST_CASE("a new file is empty, created, and the store has nothing of it", "[dirty_file_metadata]") {
  const auto meta = DirtyFileMetadata::created(42, {.part_bytes = 4 * MiB, .mtime_ns = 12345});
  CHECK(meta.id() == 42);
  CHECK(meta.size() == 0);
  CHECK(meta.state() == FileState::created);
  CHECK(meta.part_bytes() == 4 * MiB);
  CHECK(meta.mtime_ns() == 12345);
  CHECK(meta.stored().empty());
  CHECK_FALSE(meta.store_size_bytes().has_value());
  CHECK(meta.store_size_bound_bytes() == 0);
  CHECK(meta.content_count() == 0);
  CHECK(meta.content_id(0) == nullptr);
}

TEST_CASE("a file of one content id is clean, as large as it was said to be, and keeps the id",
          "[dirty_file_metadata]") {
  const std::vector ids{digest(1)};
  const auto meta = DirtyFileMetadata::from_content(42, 21, ids, {.part_bytes = 32, .version = 9});
  CHECK(meta.state() == FileState::clean);
  CHECK(meta.size() == 21);
  CHECK(meta.version() == 9);
  CHECK(meta.stored().contains(range(0, 21)));
  CHECK(meta.stored().size_bytes() == 21);
  CHECK(meta.store_size_bytes() == 21);
  REQUIRE(meta.content_id(0) != nullptr);
  CHECK(*meta.content_id(0) == digest(1));
  CHECK(meta.content_id(1) == nullptr);
}

TEST_CASE("a file of three content ids has three parts and no fourth id", "[dirty_file_metadata]") {
  const std::vector ids{digest(1), digest(2), digest(3)};
  const auto meta = DirtyFileMetadata::from_content(42, 2 * 256 * MiB + 5, ids, {.part_bytes = 256 * MiB});
  CHECK(tarn::ChunkLayout::make(64 * 1024, meta.part_bytes())->part_count(meta.size()) == 3);
  CHECK(meta.content_count() == 3);
  for (std::uint64_t part = 0; part < 3; ++part) {
    REQUIRE(meta.content_id(part) != nullptr);
    CHECK(*meta.content_id(part) == ids[part]);
  }
  CHECK(meta.content_id(3) == nullptr);
}

TEST_CASE("a file that the store has is at most as large as an offset reaches", "[dirty_file_metadata]") {
  const auto error_of = [](auto make) {
    try {
      (void)make();
    } catch (const std::system_error& error) {
      return error.code();
    }
    return std::error_code{};
  };
  for (const auto size_bytes : {tarn::max_offset + 1, UINT64_MAX}) {
    CHECK(error_of([&] { return tarn::DirtyFileMetadata::from_store(7, size_bytes); }) == std::errc::file_too_large);
    CHECK(error_of([&] { return tarn::DirtyFileMetadata::from_content(7, size_bytes, {}); }) ==
          std::errc::file_too_large);
  }
  CHECK(tarn::DirtyFileMetadata::from_store(7, tarn::max_offset).size() == tarn::max_offset);
}

TEST_CASE("a user's payload is carried, copied and compared untouched", "[dirty_file_metadata]") {
  auto meta = tarn::MetadataFor<WithPayload>::created(42);
  meta.payload() = {.path = "/a/b", .parent = 7, .executable = true};
  auto copy = meta;
  CHECK(copy == meta);
  CHECK(copy.payload() == Inode{"/a/b", 7, true});

  copy.payload().path = "/a/c";
  CHECK_FALSE(copy == meta);
  CHECK(meta.payload().path == "/a/b");

  meta.set_size(10);
  meta.note_modified();
  meta.note_deleted();
  CHECK(meta.payload() == Inode{"/a/b", 7, true});
}

TEST_CASE("a shrink takes from what is stored, and growth adds nothing to it", "[dirty_file_metadata]") {
  auto meta = DirtyFileMetadata::from_store(42, 21);
  meta.set_size(8);
  meta.set_size(30);
  CHECK(meta.stored().contains(range(0, 8)));
  CHECK(meta.stored().size_bytes() == 8);
  CHECK(meta.store_lacks_size());
}

TEST_CASE("the store's bound rises with a flush of unknown fate and falls only with a good one",
          "[dirty_file_metadata]") {
  auto meta = DirtyFileMetadata::from_store(42, 10);
  meta.set_size(30);
  meta.note_store_size_unknown(30);
  CHECK(meta.store_size_bound_bytes() == 30);
  CHECK_FALSE(meta.store_size_bytes().has_value());
  meta.set_size(5);
  meta.note_store_size_unknown(5);
  CHECK(meta.store_size_bound_bytes() == 30);
  CHECK(meta.store_lacks_size());
  meta.note_store_size(5, true);
  CHECK(meta.store_size_bound_bytes() == 5);
  CHECK_FALSE(meta.store_lacks_size());
}

TEST_CASE("a size that was set here is given up with the rest, and is no change to what the store has next",
          "[dirty_file_metadata]") {
  auto meta = DirtyFileMetadata::from_store(42, 10);
  meta.set_size(5);
  meta.note_size_set();
  meta.reset_to_store(10, 2);
  meta.rebase(20, 3, {}, 0);
  CHECK(meta.size() == 20);
}

TEST_CASE("a deleted file stays deleted, whatever a flush or the store says", "[dirty_file_metadata]") {
  auto meta = DirtyFileMetadata::from_store(42, 10);
  meta.note_deleted();
  meta.note_clean();
  meta.note_modified();
  meta.reset_to_store(10, 2);
  CHECK(meta.state() == FileState::deleted);
}

TEMPLATE_TEST_CASE("written chunks are dirty, exactly those, until each is flushed", "[dirty_file_metadata]",
                   EACH_STORAGE(Heap, Arena)) {
  OneFile<TestType> file{GENERATE(any_sizes())};
  const auto C = file.C;
  REQUIRE(file.write(0, "x"));
  REQUIRE(file.write(2 * C, "y"));
  CHECK(file.pool.dirty_chunks(file.meta) == std::vector<std::uint64_t>{0, 2});
  CHECK(file.pool.has_dirty(file.meta, 0));
  CHECK_FALSE(file.pool.has_dirty(file.meta, 1));
  CHECK(file.pool.has_dirty(file.meta, 2));

  REQUIRE(file.flush(range(0, C)));
  CHECK(file.pool.dirty_chunks(file.meta) == std::vector<std::uint64_t>{2});
  REQUIRE(file.flush());
  CHECK(file.pool.dirty_chunks(file.meta).empty());
  CHECK(file.meta.state() == FileState::clean);
  CHECK(file.store.text(file.id) == file.read_all());
}
