// SPDX-License-Identifier: MIT
// Compile: alone
#include <tarn/flush.hpp>
#include <tarn/read_range.hpp>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "support/catch.hpp"
#include "support/one_file.hpp"
#include "support/replaced_new.hpp"
#include "support/shared_file.hpp"

// What calls take from the heap: a read of held bytes nothing. Every allocation of this program is counted.

using namespace tarn_test;

namespace {

std::atomic<std::uint64_t> allocations{0};

}  // namespace

bool tarn_test::may_allocate() noexcept {
  ++allocations;
  return true;
}

namespace {

constexpr std::uint64_t C = 4096, most_spans = 64;

/// Returns: how often f allocates. What it may do on a first call alone is done before.
template <class F>
std::uint64_t allocations_of(F f) {
  f();
  const auto before = allocations.load();
  f();
  return allocations.load() - before;
}

/// A pool with windows of exactly 64 chunks.
template <class Traits>
struct OneWindow {
  tarn::ChunkPool<Traits> pool{pool_options<Traits>(C, 16 * MiB, most_spans)};
  MemoryStore<Traits> store;
  tarn::MetadataFor<Traits> meta = tarn::MetadataFor<Traits>::created(7);

  /// `spans` chunks; with `holes`, every second one is nowhere.
  OneWindow(std::uint64_t spans, bool holes) : expected(static_cast<std::size_t>(spans * C), '\0'), into(expected) {
    for (std::uint64_t chunk = 0; chunk < spans; chunk += holes ? 2 : 1) {
      const auto text = pattern(chunk * C, C);
      expected.replace(static_cast<std::size_t>(chunk * C), C, text);
      if (!tarn::write_range(pool, meta, chunk * C, bytes_of(text))) FAIL("no room for chunk " << chunk);
    }
    REQUIRE(tarn::truncate(pool, meta, expected.size()));
    REQUIRE(pool.window_bytes() == most_spans * C);
  }
  std::string expected, into;
  std::size_t most_pieces = 0;
  std::size_t wrong = 0;

  /// What a visitor does with a view: it looks at it, and takes nothing from the heap either.
  [[nodiscard]] auto visitor() {
    return [this](tarn::ConstBuffers bytes) {
      most_pieces = std::max(most_pieces, bytes.count());
      wrong += bytes.copy_to(writable(into)) == expected.size() ? 0u : 1u;
    };
  }
  void check_bytes() {
    CHECK(wrong == 0);
    CHECK((into == expected));
    std::fill(into.begin(), into.end(), '?');
  }
};

}  // namespace

TEST_CASE("an allocation of any form is counted", "[allocation]") {
  const auto before = allocations.load();
  constexpr std::align_val_t wide{64};  // by direct calls: a compiler may leave out a new-expression
  ::operator delete(::operator new(4));
  ::operator delete[](::operator new[](20));
  ::operator delete(::operator new(64, wide), wide);
  ::operator delete(::operator new(64, wide, std::nothrow), wide);
  { const std::vector<int> numbers(5); }
  CHECK(allocations.load() - before == 5);
}

TEMPLATE_TEST_CASE("a read, a view and a try of held bytes allocate nothing up to 64 spans", "[allocation]",
                   EACH_STORAGE(Heap, Arena)) {
  const auto spans = GENERATE(std::uint64_t{1}, std::uint64_t{20}, std::uint64_t{21}, most_spans);
  const bool holes = GENERATE(false, true);
  OneWindow<TestType> held{spans, holes};
  CAPTURE(spans, holes);
  const auto size = held.expected.size();
  SECTION("by the building blocks") {
    const auto& meta = held.meta;
    CHECK(allocations_of([&] {
            const auto n = tarn::read_range(held.pool, meta, 0, writable(held.into), held.store);
            held.wrong += n && *n == size ? 0u : 1u;
          }) == 0);
    held.check_bytes();
    CHECK(allocations_of([&] {
            auto outcome = tarn::try_read_range(held.pool, meta, 0, writable(held.into));
            held.wrong += outcome.done() && *outcome == size ? 0u : 1u;
          }) == 0);
    held.check_bytes();
    CHECK(allocations_of([&] {
            held.wrong += tarn::read_range(held.pool, meta, 0, size, held.store, held.visitor()) ? 0u : 1u;
          }) == 0);
    held.check_bytes();
    held.pool.drop(held.meta);
  }
  SECTION("by a file") {
    tarn::DirtyFile<TestType, MemoryStore<TestType>> file{held.pool, held.meta, held.store};
    CHECK(allocations_of([&] {
            const auto n = file.read(0, writable(held.into));
            held.wrong += n && *n == size ? 0u : 1u;
          }) == 0);
    held.check_bytes();
    CHECK(allocations_of([&] {
            auto outcome = file.try_read(0, writable(held.into));
            held.wrong += outcome.done() && *outcome == size ? 0u : 1u;
          }) == 0);
    held.check_bytes();
    CHECK(allocations_of([&] { held.wrong += file.view(0, size, held.visitor()) ? 0u : 1u; }) == 0);
    held.check_bytes();
  }
  CHECK(held.most_pieces <= spans);
  if (holes && spans > 1) CHECK(held.most_pieces == spans);  // no two of them side by side
}

TEST_CASE("a flush allocates a few times, however many chunks it takes", "[allocation]") {
  constexpr std::uint64_t chunks = 2'000;
  OneFile<Usual> file{{.chunk_bytes = 64, .chunks_per_part = 4'096}};
  REQUIRE(file.write(0, pattern(0, static_cast<std::size_t>(chunks * file.C))));
  const auto before = allocations.load();
  auto job = tarn::begin_flush(file.pool, file.meta);
  const auto allocated = allocations.load() - before;
  REQUIRE(job);
  CHECK(job->request().data.size() > 100);
  CHECK(allocated < 100);
  REQUIRE(tarn::finish_flush(file.pool, file.meta, std::move(*job), tarn::FlushOutcome<Usual>::stored()));
}
