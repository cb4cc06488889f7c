// SPDX-License-Identifier: MIT
#include <tarn/storage/arena.hpp>
#include <tarn/storage/heap.hpp>

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <set>
#include <vector>

#include <tarn/testing/gate.hpp>

#include "support/catch.hpp"

using tarn::ArenaStorage;
using tarn::Budget;
using tarn::HeapStorage;
using tarn::MiB;

TEST_CASE("a charge that would pass the limit is refused and changes nothing", "[storage]") {
  Budget budget{100};
  CHECK(budget.try_charge(60));
  CHECK_FALSE(budget.try_charge(41));
  CHECK(budget.charged_bytes() == 60);
  CHECK(budget.would_fit(40));
  CHECK_FALSE(budget.would_fit(41));
  CHECK_FALSE(budget.try_charge(40, 1));
  CHECK(budget.try_charge(40));
  CHECK_FALSE(budget.try_charge(~std::uint64_t{0}));
  CHECK_FALSE(budget.try_charge(1, ~std::uint64_t{0}));
  budget.release(100);
  CHECK(budget.charged_bytes() == 0);
}

TEMPLATE_TEST_CASE("memory is charged before it is had, aligned, and its own", "[storage]", HeapStorage, ArenaStorage) {
  const auto C = GENERATE(std::size_t{1}, std::size_t{16}, std::size_t{4096}, std::size_t{65536});
  Budget budget{8 * MiB};
  TestType storage{{.chunk_bytes = C}};
  std::vector<std::byte*> chunks;
  for (int i = 0; i < 50; ++i) {
    auto* const memory = storage.allocate(budget);
    REQUIRE(memory != nullptr);
    CHECK(reinterpret_cast<std::uintptr_t>(memory) % std::min<std::size_t>(C, 4096) == 0);
    CHECK(budget.charged_bytes() >= chunks.size() * C + C);
    std::memset(memory, i, C);
    chunks.push_back(memory);
  }
  CHECK(std::set<std::byte*>(chunks.begin(), chunks.end()).size() == 50);
  int wrong = 0;
  for (int i = 0; i < 50; ++i) {
    wrong += std::to_integer<int>(chunks[static_cast<std::size_t>(i)][C - 1]) != i ||
             std::to_integer<int>(chunks[static_cast<std::size_t>(i)][0]) != i;
  }
  CHECK(wrong == 0);
  for (auto* const memory : chunks) storage.deallocate(memory, budget);
  storage.trim(budget);
  CHECK(budget.charged_bytes() == 0);
}

TEMPLATE_TEST_CASE("no memory is handed out past the budget, and what comes back is handed out again", "[storage]",
                   HeapStorage, ArenaStorage) {
  constexpr std::size_t C = 65536;
  Budget budget{TestType::min_budget_bytes(C) + 5 * MiB};
  TestType storage{{.chunk_bytes = C}};
  std::vector<std::byte*> chunks;
  while (auto* const memory = storage.allocate(budget)) {
    chunks.push_back(memory);
    if (budget.charged_bytes() > budget.limit_bytes()) FAIL("overcharged");
  }
  CHECK(chunks.size() >= 4);
  CHECK(chunks.size() * C <= budget.limit_bytes());
  auto* const last = chunks.back();
  storage.deallocate(last, budget);
  chunks.back() = storage.allocate(budget);
  CHECK(chunks.back() != nullptr);
  CHECK(storage.allocate(budget) == nullptr);
  for (auto* const memory : chunks) storage.deallocate(memory, budget);
  storage.trim(budget);
  CHECK(budget.charged_bytes() == 0);
}

TEST_CASE("an arena charges slabs, keeps them warm, and gives back those that are empty", "[storage]") {
  constexpr std::size_t C = 65536, per_slab = ArenaStorage::huge_page_bytes / C;
  Budget budget{64 * MiB};
  ArenaStorage storage{{.chunk_bytes = C}};
  std::vector<std::byte*> chunks;
  for (std::size_t i = 0; i < 2 * per_slab; ++i) chunks.push_back(storage.allocate(budget));
  CHECK(budget.charged_bytes() == 4 * MiB);
  for (std::size_t i = 0; i + 1 < chunks.size(); ++i) storage.deallocate(chunks[i], budget);
  CHECK(budget.charged_bytes() == 4 * MiB);
  CHECK(storage.trim(budget) == 2 * MiB);
  CHECK(storage.trim(budget) == 0);
  storage.deallocate(chunks.back(), budget);
  CHECK(storage.allocate(budget) == chunks.back());  // last in, first out
  storage.deallocate(chunks.back(), budget);
  CHECK(storage.trim(budget) == 2 * MiB);
  CHECK(budget.charged_bytes() == 0);
}

TEST_CASE("an arena's slab is one chunk where a chunk is larger, and memory is zero when it is new", "[storage]") {
  constexpr std::size_t C = 8 * MiB;
  Budget budget{64 * MiB};
  ArenaStorage storage{{.chunk_bytes = C, .prefault = true}};
  auto* const memory = storage.allocate(budget);
  REQUIRE(memory != nullptr);
  CHECK(budget.charged_bytes() == C);
  CHECK(memory[0] == std::byte{});
  CHECK(memory[C - 1] == std::byte{});
  storage.deallocate(memory, budget);
  CHECK(storage.trim(budget) == C);
}

TEMPLATE_TEST_CASE("memory is in place before its first use with prefault, and only then", "[storage]", HeapStorage,
                   ArenaStorage) {
  // Larger than what malloc ever keeps to hand out again: every chunk is a fresh mapping.
  constexpr std::size_t C = 64 * MiB, page = 4096;
  const bool prefault = GENERATE(true, false);
  Budget budget{2 * C};
  TestType storage{{.chunk_bytes = C, .prefault = prefault}};
  auto* const memory = storage.allocate(budget);
  REQUIRE(memory != nullptr);
  std::vector<unsigned char> resident(C / page);
  const auto whole_pages = reinterpret_cast<std::uintptr_t>(memory) % page == 0;
  const auto looked = ::mincore(memory, C, resident.data());
  const auto count = std::count_if(resident.begin(), resident.end(), [](unsigned char is) { return (is & 1) != 0; });
  storage.deallocate(memory, budget);
  storage.trim(budget);
  REQUIRE(whole_pages);
  REQUIRE(looked == 0);
  if (prefault) {
    CHECK(count == C / page);
  } else if (std::getenv("TARN_TESTS_UNDER_VALGRIND") == nullptr) {  // whose malloc writes to every page
    CHECK(count < std::ptrdiff_t{C / page / 8});  // a page that malloc writes to brings a huge one with it, at most
  }
}

TEMPLATE_TEST_CASE("many threads that take and give back never share memory", "[storage]", HeapStorage, ArenaStorage) {
  constexpr std::size_t C = 4096;
  Budget budget{16 * MiB};
  TestType storage{{.chunk_bytes = C}};
  std::atomic<int> wrong{0}, had{0};
  {
    std::vector<tarn_test::Worker> workers;
    for (int id = 1; id <= 4; ++id) {
      workers.emplace_back([&, id] {
        std::vector<std::byte*> mine;
        for (int i = 0; i < 3000; ++i) {
          if (mine.size() < 64 && i % 3 != 2) {
            if (auto* const memory = storage.allocate(budget)) {
              std::memset(memory, id, C);
              mine.push_back(memory);
              ++had;
            }
          } else if (!mine.empty()) {
            auto* const memory = mine.back();
            if (std::to_integer<int>(memory[0]) != id || std::to_integer<int>(memory[C - 1]) != id) ++wrong;
            mine.pop_back();
            storage.deallocate(memory, budget);
            if (i % 100 == 0) storage.trim(budget);
          }
        }
        for (auto* const memory : mine) storage.deallocate(memory, budget);
      });
    }
  }
  CHECK(had > 0);
  CHECK(wrong == 0);
  storage.trim(budget);
  CHECK(budget.charged_bytes() == 0);
}
