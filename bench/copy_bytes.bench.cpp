// SPDX-License-Identifier: MIT

// What a copy from a chunk costs by where the buffer lies in its page, with memcpy of the same bytes beside it: how far it
// lies past the chunk, as a large buffer of malloc does by 16 and one aligned to a page by 0.

#include <benchmark/benchmark.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>

#include <tarn/byte_range.hpp>
#include <tarn/detail/copy_bytes.hpp>

namespace {

constexpr std::size_t page_bytes = 4096, chunk_bytes = 64 * tarn::KiB, chunks = 512;

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
void run(benchmark::State& state, Copy copy) {
  const auto from = zeroed(chunks * chunk_bytes);
  const auto to = zeroed(chunk_bytes + page_bytes);
  auto* const into = to.get() + state.range(0);
  std::size_t chunk = 0;
  for (auto _ : state) {
    copy(into, from.get() + chunk * chunk_bytes, chunk_bytes);
    benchmark::DoNotOptimize(into);
    benchmark::ClobberMemory();
    chunk = (chunk + 1) % chunks;
  }
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(chunk_bytes));
}

void copy_64KiB(benchmark::State& state) { run(state, tarn::detail::copy_bytes); }
void memcpy_64KiB(benchmark::State& state) { run(state, std::memcpy); }

BENCHMARK(copy_64KiB)->Name("copy/64KiB/past")->Arg(0)->Arg(1)->Arg(16)->Arg(32)->Arg(64);
BENCHMARK(memcpy_64KiB)->Name("copy/64KiB/memcpy/past")->Arg(0)->Arg(1)->Arg(16)->Arg(32)->Arg(64);

}  // namespace
