// SPDX-License-Identifier: MIT

// What a copy from a chunk costs by where the buffer lies in its page, with memcpy of the same bytes beside it: how far it
// lies past the chunk, as a large buffer of malloc does by 16 and one aligned to a page by 0. And by how many chunks that
// lie side by side it is.

#include <benchmark/benchmark.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>

#include <tarn/byte_range.hpp>
#include <tarn/detail/copy_bytes.hpp>

namespace {

constexpr std::size_t page_bytes = 4096, file_bytes = 32 * tarn::MiB;

struct Free {
  void operator()(std::byte* memory) const { ::operator delete[](memory, std::align_val_t{page_bytes}); }
};
using Memory = std::unique_ptr<std::byte[], Free>;

Memory zeroed(std::size_t size_bytes) {
  Memory memory{static_cast<std::byte*>(::operator new[](size_bytes, std::align_val_t{page_bytes}))};
  std::memset(memory.get(), 0, size_bytes);
  return memory;
}

template <class Copy>
void run(benchmark::State& state, Copy copy, std::size_t size_bytes, std::size_t past) {
  const auto from = zeroed(file_bytes);
  const auto to = zeroed(size_bytes + page_bytes);
  auto* const into = to.get() + past;
  std::size_t at = 0;
  for (auto _ : state) {
    copy(into, from.get() + at, size_bytes);
    benchmark::DoNotOptimize(into);
    benchmark::ClobberMemory();
    at = (at + size_bytes) % file_bytes;
  }
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(size_bytes));
}

constexpr std::size_t chunk_bytes = 64 * tarn::KiB;
void copy_past(benchmark::State& state) {
  run(state, tarn::detail::copy_bytes, chunk_bytes, static_cast<std::size_t>(state.range(0)));
}
void memcpy_past(benchmark::State& state) {
  run(state, std::memcpy, chunk_bytes, static_cast<std::size_t>(state.range(0)));
}
void copy_of(benchmark::State& state) {
  run(state, tarn::detail::copy_bytes, static_cast<std::size_t>(state.range(0)) * tarn::KiB, 0);
}
void memcpy_of(benchmark::State& state) {
  run(state, std::memcpy, static_cast<std::size_t>(state.range(0)) * tarn::KiB, 0);
}

BENCHMARK(copy_past)->Name("copy/64KiB/past")->Arg(0)->Arg(1)->Arg(16)->Arg(32)->Arg(64);
BENCHMARK(memcpy_past)->Name("copy/64KiB/memcpy/past")->Arg(0)->Arg(1)->Arg(16)->Arg(32)->Arg(64);
BENCHMARK(copy_of)->Name("copy/KiB")->RangeMultiplier(2)->Range(64, 4096);
BENCHMARK(memcpy_of)->Name("copy/memcpy/KiB")->RangeMultiplier(2)->Range(64, 4096);

}  // namespace
