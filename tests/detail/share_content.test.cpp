// SPDX-License-Identifier: MIT
#include <tarn/detail/share_content.hpp>

#include <functional>
#include <optional>
#include <string>

#include <tarn/dirty_file.hpp>

#include "support/brim.hpp"
#include "support/catch.hpp"
#include "support/shared_file.hpp"

using namespace tarn_test;

namespace {

constexpr std::uint64_t id = 7, C = 16;
const tarn::Digest<16> content{.bytes = {std::byte{9}}};

/// A store that names part 0, and calls what the test says from inside a flush.
struct NamingStore {
  MemoryStore<WatchedFiles> memory;
  std::function<void()> in_flush;

  tarn::Result<std::size_t> load(const tarn::LoadRequest<WatchedFiles>& request) { return memory.load(request); }
  tarn::FlushOutcome<WatchedFiles> flush(const tarn::FlushRequest<WatchedFiles>& request) {
    if (in_flush) in_flush();
    return memory.flush(request).ok() ? tarn::FlushOutcome<WatchedFiles>::durable().with_content(0, content)
                                      : tarn::FlushOutcome<WatchedFiles>::failed({});
  }
  tarn::Result<> remove(const std::uint64_t& file) { return memory.remove(file); }
};

/// A file of one part, of two chunks, that the store has.
struct NamedFile {
  Events events;
  tarn::ChunkPool<WatchedFiles> pool{pool_options<WatchedFiles>(C, 16 * MiB), WatchingObserver{&events}};
  NamingStore store;
  std::optional<tarn::DirtyFile<WatchedFiles, NamingStore>> file;
  std::string expected = pattern(0, 2 * C);

  NamedFile() {
    store.memory.put_pattern(id, 2 * C);
    file.emplace(pool, tarn::MetadataFor<WatchedFiles>::from_store(id, 2 * C, {.part_bytes = 2 * C}), store);
    REQUIRE(read_all() == expected);
    REQUIRE(file->write(0, bytes_of("changed")));
    expected.replace(0, 7, "changed");
  }
  ~NamedFile() {
    CHECK(store.memory.complaints() == "");
    file.reset();
    pool.evict_clean();
    check_empty(pool.stats());
  }
  [[nodiscard]] std::string read_all() {
    std::string into(2 * C, '?');
    return file->read(0, writable(into)) ? into : "error";
  }
  /// What every case ends with: all is stored, and read without a load.
  void check_stored() {
    CHECK_FALSE(file->is_dirty());
    CHECK(store.memory.text(id) == expected);
    const auto loads = store.memory.counts().loads;
    CHECK(read_all() == expected);
    CHECK(store.memory.counts().loads == loads);
  }
};

}  // namespace

TEST_CASE("chunks that find no room under their content's name stay the file's own", "[share_content]") {
  NamedFile f;
  std::optional<Brim<WatchedFiles>> full;
  const bool knows_content = GENERATE(false, true);
  auto record = knows_content ? f.pool.core().registry.find_or_make(f.pool.core().content_key(content))
                              : tarn::detail::RecordRef<WatchedFiles>{};
  f.store.in_flush = [&] { full.emplace(f.pool); };
  REQUIRE(f.file->flush());
  full.reset();
  // The first takes no room, if the content is known.
  CHECK(f.pool.try_get(content, 0).has_value() == knows_content);
  CHECK(f.pool.contains(f.file->metadata(), 0) != knows_content);
  CHECK(f.pool.try_get(content, 1).error() == std::errc::no_such_file_or_directory);
  CHECK(f.pool.contains(f.file->metadata(), 1));
  f.check_stored();
}

TEST_CASE("a chunk that its content has already is let go of, and the file reads that one", "[share_content]") {
  NamedFile f;
  f.store.memory.put_content(content, f.expected);
  REQUIRE(f.pool.get_or_load(content, 0, C, f.store.memory));
  const auto held = f.pool.stats().chunks_held;
  REQUIRE(f.file->flush());
  CHECK(f.pool.stats().chunks_held == held - 1);
  CHECK_FALSE(f.pool.contains(f.file->metadata(), 0));
  CHECK(f.pool.try_get(content, 1));
  f.check_stored();
}

TEST_CASE("a chunk that has all the pins it can have stays the file's own, and the others are shared",
          "[share_content]") {
  NamedFile f;
  const auto pins = take_all_pins(f.pool, f.file->metadata(), 1, 1);  // one is left, for reads
  std::optional<tarn::PinnedChunk<WatchedFiles>> last;
  {
    auto pin = f.pool.pin(f.file->metadata(), 1);
    REQUIRE(pin);
    last.emplace(std::move(*pin));
  }
  REQUIRE(f.file->flush());
  last.reset();
  CHECK(f.pool.try_get(content, 0));
  CHECK(f.pool.try_get(content, 1).error() == std::errc::no_such_file_or_directory);
  CHECK(f.pool.contains(f.file->metadata(), 1));
  f.check_stored();
}
