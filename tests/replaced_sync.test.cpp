// SPDX-License-Identifier: MIT
// Compile: alone
#define TARN_SYNC_HEADER "support/counting_sync.hpp"
#include <tarn/tarn.hpp>

#include <array>
#include <cstdint>
#include <string>
#include <type_traits>

#include "support/catch.hpp"
#include "support/shared_file.hpp"

using namespace tarn_test;
using tarn::detail::SyncCounts;

namespace {

/// How the counts moved while it lived.
class Moved {
 public:
  std::uint64_t atomics() const { return SyncCounts::atomics - before_[0]; }
  std::uint64_t locks() const { return SyncCounts::locks - before_[1]; }
  std::uint64_t unlocks() const { return SyncCounts::unlocks - before_[2]; }
  std::uint64_t waits() const { return SyncCounts::waits - before_[3]; }
  std::uint64_t wakes() const { return SyncCounts::wakes - before_[4]; }

 private:
  std::array<std::uint64_t, 5> before_{SyncCounts::atomics, SyncCounts::locks, SyncCounts::unlocks, SyncCounts::waits,
                                       SyncCounts::wakes};
};

}  // namespace

TEMPLATE_TEST_CASE("what one thread does and another sees goes through the header that replaces the standard's",
                   "[replaced_sync]", EACH_STORAGE(WatchedFiles, WatchedFilesInArena)) {
  const Moved whole;
  {
    SharedFile<TestType> file{{.chunk_bytes = 16, .chunks_per_part = 4}, 64};
    // Each step shows in the counts, so none of them has another way.
    const auto step = [](auto f) {
      const Moved moved;
      f();
      CHECK(moved.atomics() != 0);
      CHECK(moved.locks() != 0);
      CHECK(moved.unlocks() == moved.locks());
    };
    step([&] { CHECK(file.read_all() == pattern(0, 64)); });
    step([&] { REQUIRE(file.write(10, "written")); });
    step([&] { REQUIRE(file->truncate(40)); });
    step([&] { REQUIRE(file->flush()); });
    step([&] { CHECK(file.pool.evict_clean() == 3); });
    step([&] { CHECK(file.read(8, 12) == pattern(8, 2) + "written" + pattern(17, 3)); });

    // Two that want the same bytes: one loads, the other waits for it.
    file.pool.evict_clean();
    const auto loads_before = file.store.counts().loads;
    const Moved moved;
    std::string one, two;
    file.store.load_gate.close();
    BlockedThread second;
    {
      Worker loads{file.store.load_gate, [&] { one = file.read(0, 16); }};
      REQUIRE(file.store.load_gate.wait_for_arrivals());
      Worker waits{file.store.load_gate, [&] {
                     second.here();
                     two = file.read(0, 16);
                   }};
      CHECK(second.wait_until_blocked());
      CHECK(moved.waits() != 0);
      file.store.load_gate.open();
    }
    CHECK(moved.wakes() != 0);
    CHECK(one == pattern(0, 10) + "writte");
    CHECK(two == one);
    CHECK(file.store.counts().loads - loads_before == 1);
  }
  CHECK(whole.locks() == whole.unlocks());
}
