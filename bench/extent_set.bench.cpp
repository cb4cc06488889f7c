// SPDX-License-Identifier: MIT

// What a set of bytes costs by its number of extents: the question of every read that hits (contains), and a write
// that puts one extent in and takes it out again (add+subtract), in the middle, where half of the extents move.
// A chunk of 64 KiB keeps 1 and 2 extents in itself, 64 as a list and 4096 as a bitmap.

#include <benchmark/benchmark.h>

#include <array>
#include <cstddef>
#include <cstdint>

#include <tarn/detail/chunk_extents.hpp>
#include <tarn/extent_set.hpp>

namespace {

using tarn::ByteRange;

constexpr std::size_t chunk_bytes = 64 * tarn::KiB;

struct OfFile {
  tarn::ExtentSet set;
  void add(ByteRange range) { set.add(range); }
  void subtract(ByteRange range) { set.subtract(range); }
};

struct OfChunk {
  tarn::detail::ChunkExtents set;
  void add(ByteRange range) { set.add(range, chunk_bytes); }
  void subtract(ByteRange range) { set.subtract(range, chunk_bytes); }
};

/// `count` extents of 4 bytes, spread evenly over a chunk; one alone covers it.
template <class Set>
std::uint64_t fill(Set& set, std::uint64_t count) {
  const auto stride = chunk_bytes / count;
  if (count == 1) set.add(ByteRange::between(0, chunk_bytes));
  for (std::uint64_t i = 0; count > 1 && i < count; ++i) set.add(ByteRange::between(i * stride, i * stride + 4));
  return stride;
}

template <class Set>
void contains(benchmark::State& state) {
  Set set;
  const auto count = static_cast<std::uint64_t>(state.range(0));
  const auto stride = fill(set, count);
  // Positions in an order that no branch predictor learns, made before the clock runs.
  std::array<ByteRange, 1024> asked;
  std::uint64_t random = 1;
  for (auto& range : asked) {
    random = random * 6364136223846793005u + 1442695040888963407u;
    const auto offset = (random >> 33) % count * stride;
    range = ByteRange::between(offset, offset + 4);
  }
  std::size_t i = 0;
  for (auto _ : state) {
    bool held = set.set.contains(asked[i++ % asked.size()]);
    benchmark::DoNotOptimize(held);
    if (!held) state.SkipWithError("a byte that was added is not there");
  }
}

template <class Set>
void add_subtract(benchmark::State& state) {
  Set set;
  const auto count = static_cast<std::uint64_t>(state.range(0));
  const auto stride = fill(set, count);
  const auto middle = count == 1 ? 0 : count / 2 * stride + 8;
  const auto range = ByteRange::between(middle, middle + 4);
  for (auto _ : state) {
    // Of a whole chunk the bytes go first and come back.
    if (count == 1) set.subtract(range);
    set.add(range);
    if (count != 1) set.subtract(range);
    benchmark::ClobberMemory();
  }
  if (set.set.extent_count() != count) state.SkipWithError("the set is not what it was");
}

void extent_counts(benchmark::internal::Benchmark* benchmark) {
  for (const int count : {1, 2, 64, 4096}) benchmark->Arg(count);
}

BENCHMARK_TEMPLATE(contains, OfFile)->Name("contains/file")->Apply(extent_counts);
BENCHMARK_TEMPLATE(contains, OfChunk)->Name("contains/chunk")->Apply(extent_counts);
BENCHMARK_TEMPLATE(add_subtract, OfFile)->Name("add+subtract/file")->Apply(extent_counts);
BENCHMARK_TEMPLATE(add_subtract, OfChunk)->Name("add+subtract/chunk")->Apply(extent_counts);

}  // namespace
