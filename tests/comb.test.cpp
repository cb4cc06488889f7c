// SPDX-License-Identifier: MIT
// Compile: -O2
// CTest: TIMEOUT 600 COST 5 LABELS slow
#include <tarn/write_range.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "support/catch.hpp"
#include "support/one_file.hpp"

using namespace tarn_test;

namespace {

/// A file in a flat buffer: tens of millions of pieces are flushed here.
struct FlatStore {
  using Traits = tarn::DefaultTraits;
  std::vector<std::byte> bytes;
  std::uint64_t most_ranges = 0;

  tarn::Result<std::size_t> load(const tarn::LoadRequest<Traits>& request) {
    const auto offset = static_cast<std::size_t>(request.range.offset());
    return request.into.copy_from(std::span{bytes}.subspan(offset, request.into.size_bytes()));
  }
  tarn::FlushOutcome<Traits> flush(const tarn::FlushRequest<Traits>& request) {
    bytes.resize(static_cast<std::size_t>(request.size_bytes));
    most_ranges = std::max<std::uint64_t>(most_ranges, request.ranges.size());
    request.for_each_piece([&](std::uint64_t at, std::span<const std::byte> piece, bool) {
      std::copy(piece.begin(), piece.end(), bytes.begin() + static_cast<std::ptrdiff_t>(at));
    });
    return tarn::FlushOutcome<Traits>::stored();
  }
  tarn::Result<> remove(const std::uint64_t&) { return {}; }
};

constexpr std::uint64_t size = 64 * MiB;

/// The file's bytes: something at every even offset, nothing at the others.
std::byte comb_at(std::uint64_t offset) {
  return offset % 2 == 0 ? static_cast<std::byte>(pattern_at(offset)) : std::byte{};
}

}  // namespace

TEST_CASE("64 MiB written byte by byte at every second place are charged, bounded, flushed and right", "[comb]") {
  using Traits = tarn::DefaultTraits;
  constexpr std::uint64_t C = 65536;
  tarn::ChunkPool<Traits> pool{pool_options<Traits>(C, 2 * size, MiB / C)};
  FlatStore store;
  auto meta = tarn::MetadataFor<Traits>::created(1, {.part_bytes = 4 * C});
  for (std::uint64_t at = 0; at < size; at += 2) {
    const auto byte = comb_at(at);
    const auto n = tarn::write_range(pool, meta, at, std::span{&byte, 1});
    if (!n || *n != 1) FAIL("no room at " << at);
  }
  const auto charged = pool.stats().charged_bytes;
  CHECK(pool.stats().dirty_bytes == size / 2);
  // Beside the data two bitmaps of a bit a byte for each chunk, tables and descriptors.
  CHECK(charged >= size + size / 4);
  CHECK(charged <= size + size / 4 + (size / C) * 1024);
  std::size_t wrong = 0;
  const auto compare = [&](std::uint64_t offset, std::span<const std::byte> bytes) {
    for (std::size_t i = 0; i < bytes.size(); ++i) wrong += bytes[i] != comb_at(offset + i) ? 1u : 0u;
  };
  const auto read_all = [&] {
    std::vector<std::byte> into(MiB);
    for (std::uint64_t at = 0; at < size; at += MiB) {
      const auto n = tarn::read_range(pool, meta, at, into, store);
      // The last byte was never written: the file ends before it.
      if (!n || *n != std::min(MiB, size - 1 - at)) ++wrong;
      compare(at, std::span{into}.first(n ? *n : 0));
    }
  };
  read_all();
  CHECK(wrong == 0);

  REQUIRE(tarn::flush(pool, meta, store));
  CHECK(pool.stats().dirty_bytes == 0);
  CHECK(meta.state() == tarn::FileState::clean);
  CHECK(store.most_ranges <= 8192);  // what a job lists is bounded, too
  CHECK(store.bytes.size() == size - 1);
  compare(0, store.bytes);
  CHECK(wrong == 0);
  CHECK(pool.stats().charged_bytes < charged);  // the lists of what is dirty are gone
  pool.evict_clean();
  CHECK(pool.stats().charged_bytes == 0);
  read_all();
  CHECK(wrong == 0);
  pool.drop(meta);
  pool.evict_clean();
  CHECK(pool.stats().charged_bytes == 0);
}
