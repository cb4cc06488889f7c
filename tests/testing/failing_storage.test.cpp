// SPDX-License-Identifier: MIT
#include <tarn/testing/failing_storage.hpp>

#include <cstdint>
#include <string>
#include <system_error>

#include <tarn/dirty_file.hpp>
#include <tarn/storage/arena.hpp>
#include <tarn/testing/memory_store.hpp>

#include "support/catch.hpp"
#include "support/one_file.hpp"
#include "support/traits.hpp"

using tarn::testing::bytes_of;
using tarn::testing::FailingStorage;
using tarn::testing::MemoryStore;
using tarn::testing::pattern;
using tarn_test::pool_options;

namespace {

struct FailingHeap : tarn_test::TestTraits {
  using Storage = FailingStorage<>;
};
struct FailingArena : tarn_test::TestTraits {
  using Storage = FailingStorage<tarn::ArenaStorage>;
};

constexpr std::uint64_t C = 16;

template <class Traits>
struct World {
  using File = tarn::DirtyFile<Traits, MemoryStore<Traits>>;

  World() { faults.end(); }
  ~World() {
    faults.end();
    CHECK(store.complaints() == "");
  }

  tarn::testing::CommitFaults& faults = Traits::Storage::faults();
  tarn::ChunkPool<Traits> pool{pool_options<Traits>(C, 64 * tarn::KiB)};
  MemoryStore<Traits> store;
  File file{pool, tarn::MetadataFor<Traits>::created(7), store};
};

}  // namespace

TEMPLATE_TEST_CASE("the commit that is to fail does, and no other", "[failing_storage]", FailingHeap, FailingArena) {
  World<TestType> world;
  world.faults.fail_nth(2);
  const auto text = pattern(0, 4 * C);
  for (std::uint64_t chunk = 0; chunk < 4; ++chunk) {
    CAPTURE(chunk);
    const auto tried = world.faults.met();
    CHECK(world.file.write(chunk * C, bytes_of(text).subspan(chunk * C, C)).value() == C);
    CHECK(world.faults.met() - tried == (chunk == 2 ? 2 : 1));  // asked again, for there may be room by now
  }
  CHECK(world.faults.failed() == 1);
  CHECK(world.pool.core().storage.chunks_out() == 4);
  REQUIRE(world.file.flush());
  CHECK(world.store.text(7) == text);
}

TEMPLATE_TEST_CASE("from a commit on all fail, until the faults end", "[failing_storage]", FailingHeap, FailingArena) {
  World<TestType> world;
  world.faults.fail_from(1);
  const auto text = pattern(0, 4 * C);
  CHECK(world.file.write(0, bytes_of(text).first(C)).value() == C);
  const auto none = world.file.write(C, bytes_of(text).subspan(C), {}, {.when_full = tarn::WhenFull::fail});
  REQUIRE_FALSE(none);
  CHECK(none.error() == std::errc::no_buffer_space);
  CHECK(world.faults.failed() != 0);
  CHECK(world.faults.failed() == world.faults.met() - 1);
  CHECK(world.file.size() == C);
  CHECK(world.pool.core().storage.chunks_out() == 1);
  world.faults.end();
  CHECK(world.faults.met() == 0);
  CHECK(world.faults.failed() == 0);
  CHECK(world.file.write(0, bytes_of(text)).value() == text.size());
  REQUIRE(world.file.flush());
  CHECK(world.store.text(7) == text);
}

TEST_CASE("a storage that may fail gives back what it gave out, and charges what its base does", "[failing_storage]") {
  FailingStorage<>::faults().end();
  tarn::Budget budget{64};
  FailingStorage<> storage{{.chunk_bytes = 32}};
  auto* const first = storage.allocate(budget);
  auto* const second = storage.allocate(budget);
  CHECK(first != nullptr);
  CHECK(second != nullptr);
  CHECK(storage.allocate(budget) == nullptr);  // the budget's refusal, not ours
  CHECK(FailingStorage<>::faults().failed() == 0);
  CHECK(storage.chunks_out() == 2);
  FailingStorage<>::faults().fail_from(0);
  storage.deallocate(first, budget);
  CHECK(storage.allocate(budget) == nullptr);
  CHECK(budget.charged_bytes() == 32);  // what is refused is not charged
  storage.deallocate(second, budget);
  CHECK(storage.chunks_out() == 0);
  CHECK(FailingStorage<>::min_budget_bytes(16) == tarn::HeapStorage::min_budget_bytes(16));
  FailingStorage<>::faults().end();
}
