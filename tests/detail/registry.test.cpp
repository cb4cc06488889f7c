// SPDX-License-Identifier: MIT
#include <tarn/detail/registry.hpp>

#include <atomic>
#include <cstdint>
#include <utility>
#include <vector>

#include <tarn/eviction/clock.hpp>
#include <tarn/policies.hpp>
#include <tarn/storage/heap.hpp>
#include <tarn/testing/gate.hpp>

#include "support/catch.hpp"
#include "support/model_store.hpp"

using tarn::Budget;
using tarn_test::ModelRandom;
using tarn_test::Worker;

namespace {

struct Traits : tarn::DefaultTraits {
  using Storage = tarn::HeapStorage;
};
using Registry = tarn::detail::Registry<Traits>;
using Key = Registry::Key;

Key file(std::uint64_t id) { return Key{std::in_place_index<0>, id}; }
Key content(std::uint8_t id) {
  tarn::Digest<16> digest;
  digest.bytes[0] = static_cast<std::byte>(id);
  return Key{std::in_place_index<1>, digest};
}

#if defined(__SANITIZE_THREAD__)
constexpr int rounds = 3000;
#else
constexpr int rounds = 20000;
#endif

}  // namespace

TEST_CASE("a record is there while somebody uses it", "[registry]") {
  Budget budget{1 << 20};
  Registry registry{budget};
  CHECK_FALSE(registry.find(file(1)));
  {
    const auto made = registry.find_or_make(file(1));
    REQUIRE(made);
    CHECK(budget.charged_bytes() == Registry::record_bytes);
    CHECK(tarn::detail::Registry<tarn::DefaultTraits>::record_bytes == 277);  // as the README has it
    const auto found = registry.find(file(1));
    REQUIRE(found);
    CHECK(&*found == &*made);
    const auto shared = found.share();
    CHECK(&*shared == &*made);
    CHECK(made->users == 3);
  }
  CHECK_FALSE(registry.find(file(1)));
  CHECK(budget.charged_bytes() == 0);
}

TEST_CASE("a record stays without a user while anything of it is in flight", "[registry]") {
  Budget budget{1 << 20};
  Registry registry{budget};
  tarn::detail::FlushInFlight flush;
  {
    const auto made = registry.find_or_make(file(1));
    const tarn::detail::MutexLock table{made->table_mutex};
    made->flushes = &flush;
  }
  {
    const auto found = registry.find(file(1));
    REQUIRE(found);
    const tarn::detail::MutexLock table{found->table_mutex};
    const bool same = found->flushes == &flush;
    CHECK(same);
    found->forget(flush);
  }
  CHECK_FALSE(registry.find(file(1)));
  CHECK(budget.charged_bytes() == 0);
}

TEST_CASE("a file and a piece of content never share a record", "[registry]") {
  Budget budget{1 << 20};
  Registry registry{budget};
  const auto one = registry.find_or_make(file(1));
  CHECK_FALSE(registry.find(content(1)));
  const auto other = registry.find_or_make(content(1));
  CHECK(&*one != &*other);
}

TEST_CASE("a record that the budget refuses is not made", "[registry]") {
  Budget budget{2 * Registry::record_bytes};
  Registry registry{budget};
  auto one = registry.find_or_make(file(1));
  const auto two = registry.find_or_make(file(2));
  CHECK_FALSE(registry.find_or_make(file(3)));
  CHECK(registry.find_or_make(file(1)));  // known: costs nothing
  one = {};
  CHECK(registry.find_or_make(file(3)));
}

TEST_CASE("records found, made and released by many threads end as none", "[registry]") {
  Budget budget{1 << 20};
  Registry registry{budget};
  std::atomic<int> wrong{0};
  {
    std::vector<Worker> workers;
    for (std::uint64_t thread = 0; thread < 4; ++thread) {
      workers.emplace_back([&, thread] {
        ModelRandom random{thread};
        std::vector<tarn::detail::RecordRef<Traits>> kept;
        for (int round = 0; round < rounds; ++round) {
          const auto id = random.below(6);
          const auto key = id < 4 ? file(id) : content(static_cast<std::uint8_t>(id));
          auto ref = random.one_in(2) ? registry.find(key) : registry.find_or_make(key);
          if (ref) {
            if (ref->key != key || ref->users == 0) wrong.fetch_add(1);
            const tarn::detail::MutexLock table{ref->table_mutex};  // a record that is gone would be no mutex any more
          }
          switch (random.below(4)) {
            case 0:
              if (ref) kept.push_back(ref.share());
              break;
            case 1:
              kept.push_back(std::move(ref));
              break;
            case 2:
              if (kept.size() > 4) kept.clear();
              break;
            default:
              registry.for_each([&](auto& record) {
                if (record.users == 0) wrong.fetch_add(1);
              });
          }
          if (kept.size() > 8) kept.erase(kept.begin(), kept.begin() + 4);
        }
      });
    }
  }
  CHECK(wrong == 0);
  int left = 0;
  registry.for_each([&](auto&) { ++left; });
  CHECK(left == 0);
  CHECK(budget.charged_bytes() == 0);
}

TEST_CASE("each owner of an id retires the record of the one before, unless that is gone", "[registry]") {
  Budget budget{1 << 20};
  Registry registry{budget};
  const auto own = [&](const tarn::detail::RecordRef<Traits>* before) {
    tarn::detail::RecordRef<Traits> retired;
    auto record = registry.own(file(1), retired);
    REQUIRE(record);
    CHECK(static_cast<bool>(retired) == (before != nullptr));
    if (retired && before != nullptr) {
      CHECK(&*retired == &**before);
      CHECK(&*record != &**before);
    }
    return record;
  };
  const auto first = own(nullptr), second = own(&first), third = own(&second);
  registry.disown(*third);
  CHECK(&*own(nullptr) == &*third);
  CHECK(&*registry.find(file(1)) == &*third);
}
