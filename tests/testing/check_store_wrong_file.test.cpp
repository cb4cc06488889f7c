// SPDX-License-Identifier: MIT
// Compile: alone
// What is wrong with a file itself, and not with its store, is found as well: here a DirtyFile that makes mistakes is
// in the place of the one that check_store drives.
#include <tarn/testing/check_store.hpp>

#include <cstddef>
#include <cstdint>
#include <new>
#include <span>
#include <string>
#include <system_error>
#include <utility>

#include <tarn/testing/memory_store.hpp>

#include "support/catch.hpp"
#include "support/one_file.hpp"

using tarn::ByteRange;
using tarn::Result;
using tarn::testing::check_store;
using tarn::testing::CheckStoreOptions;
using tarn::testing::MemoryStore;

namespace {

enum class Mistake : std::uint8_t {
  none,
  says_another_size,
  appends_elsewhere,
  takes_in_nothing,
  takes_in_too_much,
  refuses_a_change,
  is_not_to_be_made,
};

struct MistakenFiles : tarn_test::Heap {};

// It does no wrong, but says which mistake its files make, every now and then.
struct MistakenStore : MemoryStore<MistakenFiles> {
  explicit MistakenStore(Mistake which) : mistake{which} {}

  const Mistake mistake;
  std::uint64_t chances = 0, made = 0;

  bool errs(Mistake in_question) {
    const bool now = mistake == in_question && ++chances % 4 == 0;
    made += now ? 1 : 0;
    return now;
  }
};

}  // namespace

// A file as every other, but for the mistakes: what check_store calls of it.
template <class Watch>
class tarn::DirtyFile<MistakenFiles, tarn::testing::WatchedStore<MistakenFiles, MistakenStore, Watch>> {
 public:
  using Metadata = tarn::MetadataFor<MistakenFiles>;
  using Watched = tarn::testing::WatchedStore<MistakenFiles, MistakenStore, Watch>;

  DirtyFile(ChunkPool<MistakenFiles>& pool, Metadata metadata, Watched& watched)
      : store_{watched.store()}, file_{pool, std::move(metadata), store_} {
    if (store_.errs(Mistake::is_not_to_be_made)) throw std::bad_alloc{};
  }

  Result<std::size_t> read(std::uint64_t offset, std::span<std::byte> into) { return file_.read(offset, into); }
  template <class F>
  auto view(std::uint64_t offset, std::uint64_t size_bytes, F f) {
    return file_.view(offset, size_bytes, f);
  }
  template <class... Filler>
  Result<std::size_t> write(std::uint64_t offset, Filler&&... filler) {
    const auto taken = file_.write(offset, std::forward<Filler>(filler)...);
    if (!taken || *taken == 0) return taken;
    if (store_.errs(Mistake::takes_in_nothing)) return std::size_t{0};
    return store_.errs(Mistake::takes_in_too_much) ? *taken + 1'000 : *taken;
  }
  Result<Written> append(std::span<const std::byte> from) {
    auto written = file_.append(from);
    if (written && !from.empty() && store_.errs(Mistake::appends_elsewhere)) ++written->offset;
    return written;
  }
  Result<> truncate(std::uint64_t size_bytes) { return refusal() ? refused() : file_.truncate(size_bytes); }
  Result<> punch_hole(ByteRange range) { return refusal() ? refused() : file_.punch_hole(range); }
  Result<> zero_range(ByteRange range, bool keep_size) {
    return refusal() ? refused() : file_.zero_range(range, keep_size);
  }
  Result<> flush() { return file_.flush(); }
  Result<> sync() { return file_.sync(); }
  Result<> remove() { return file_.remove(); }
  Result<std::uint64_t> discard_dirty(std::uint64_t size_bytes, std::uint64_t version) {
    return file_.discard_dirty(size_bytes, version);
  }
  std::uint64_t size() { return file_.size() + (store_.errs(Mistake::says_another_size) ? 1 : 0); }
  Metadata metadata() { return file_.metadata(); }

 private:
  bool refusal() { return store_.errs(Mistake::refuses_a_change); }
  static Result<> refused() { return fail(std::errc::no_buffer_space); }

  MistakenStore& store_;
  DirtyFile<MistakenFiles, MistakenStore> file_;
};

namespace {

constexpr CheckStoreOptions small{.seed = 1, .steps = 4'000, .chunk_bytes = 16, .part_bytes = 64};

std::string check(MistakenStore& store) {
  auto wrong = check_store<MistakenFiles>(store, 7, small);
  CHECK(store.complaints() == "");
  return wrong;
}

}  // namespace

TEST_CASE("what a file says wrong is found, and told", "[check_store]") {
  struct Told {
    Mistake mistake;
    const char* begin;
    const char* what;
  };
  const auto told = GENERATE(values<Told>({
      {Mistake::says_another_size, "the file has ", " bytes\n"},
      {Mistake::appends_elsewhere, "an append went to offset ", "append ["},
      {Mistake::takes_in_nothing, "a write took in 0\n", ": 0\n"},
      {Mistake::takes_in_too_much, "a write took in 1", "write ["},
  }));
  MistakenStore store{told.mistake};
  const auto wrong = check(store);
  CAPTURE(wrong);
  CHECK(wrong.find(told.begin) == 0);
  CHECK(wrong.find(told.what) != std::string::npos);
  CHECK(store.made == 1);
}

TEST_CASE("a change that a file refuses is none, and nothing wrong", "[check_store]") {
  MistakenStore store{Mistake::refuses_a_change};
  CHECK(check(store) == "");
  CHECK(store.made > 100);
  MistakenStore none{Mistake::none};
  CHECK(check(none) == "");
}

TEST_CASE("a check in which a file cannot be made ends with why", "[check_store]") {
  MistakenStore store{Mistake::is_not_to_be_made};
  CHECK_THROWS_AS(check(store), std::bad_alloc);
  CHECK(store.made == 1);
  CHECK(store.counts().flushes > 0);  // it was under way
}
