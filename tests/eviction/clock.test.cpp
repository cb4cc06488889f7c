// SPDX-License-Identifier: MIT
#include <tarn/eviction/clock.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "support/catch.hpp"
#include "support/one_file.hpp"

using namespace tarn_test;
using Clock = tarn::ClockEviction;
using Hook = Clock::Hook;

namespace {

/// Evicts one. Returns: its index; -1 for none.
int evict(Clock& clock, std::vector<Hook>& hooks) {
  int victim = -1;
  clock.evict([&](Hook& hook) {
    victim = static_cast<int>(&hook - hooks.data());
    clock.remove(hook);
    return true;
  });
  return victim;
}

}  // namespace

TEST_CASE("what nobody touches goes in the order in which it came", "[eviction]") {
  Clock clock;
  std::vector<Hook> hooks(4);
  for (auto& hook : hooks) clock.insert(hook, 0);
  CHECK(clock.count() == 4);
  for (int i = 0; i < 4; ++i) CHECK(evict(clock, hooks) == i);
  CHECK(evict(clock, hooks) == -1);
  CHECK(clock.count() == 0);
}

TEST_CASE("what is touched stays longer than what is not, and the hotter the longer", "[eviction]") {
  Clock clock;
  std::vector<Hook> hooks(4);
  for (auto& hook : hooks) clock.insert(hook, 0);
  Clock::touch(hooks[0]);
  for (int i = 0; i < 100; ++i) Clock::touch(hooks[1]);  // counted up to 3
  CHECK(evict(clock, hooks) == 2);
  CHECK(evict(clock, hooks) == 3);
  CHECK(evict(clock, hooks) == 0);
  CHECK(evict(clock, hooks) == 1);
}

TEST_CASE("a full turn of offers ends, whether or not one is taken", "[eviction]") {
  Clock clock;
  std::vector<Hook> hooks(5);
  for (auto& hook : hooks) clock.insert(hook, 0);
  for (auto& hook : hooks) {
    for (int i = 0; i < 3; ++i) Clock::touch(hook);
  }
  std::set<Hook*> offered;
  int offers = 0;
  CHECK_FALSE(clock.evict([&](Hook& hook) {
    offered.insert(&hook);
    ++offers;
    return false;
  }));
  CHECK(offered.size() == 5);  // even the hottest
  CHECK(offers <= 4 * 5);
  CHECK(clock.count() == 5);
}

TEST_CASE("a removal keeps the others' order, wherever the hand is", "[eviction]") {
  Clock clock;
  std::vector<Hook> hooks(4);
  for (auto& hook : hooks) clock.insert(hook, 0);
  clock.remove(hooks[0]);  // under the hand
  clock.remove(hooks[2]);
  clock.insert(hooks[0], 0);  // now the last
  CHECK(evict(clock, hooks) == 1);
  CHECK(evict(clock, hooks) == 3);
  CHECK(evict(clock, hooks) == 0);
  CHECK(clock.count() == 0);
}

namespace {

template <class Traits>
struct ByClock : Traits {
  using Eviction = Clock;
};

}  // namespace

TEMPLATE_TEST_CASE("a chunk that is read again and again outlives a scan of others", "[eviction]",
                   EACH_STORAGE(Heap, Arena)) {
  const bool by_write = GENERATE(false, true);
  OneFile<ByClock<TestType>> file{{.chunk_bytes = 65536, .chunks_per_part = 1}, 1 * MiB};
  const std::uint64_t C = 65536, hot = 200;
  file.become_stored(400 * C);
  REQUIRE(file.read(hot * C, static_cast<std::size_t>(C)) == pattern(hot * C, C));
  std::uint64_t lost = 0;
  for (std::uint64_t i = 0; i < 150; ++i) {
    if (!file.pool.contains(file.meta, hot)) ++lost;
    if (by_write) {  // a write-hot chunk counts as used, though each of its flushes makes it clean anew
      REQUIRE(file.write(hot * C, "hot"));
      REQUIRE(file.write(hot * C, "hot"));
      REQUIRE(file.flush());
    }
    for (int reads = 0; reads < 2; ++reads) {
      if (!by_write && file.read(hot * C + 5, 10) != pattern(hot * C + 5, 10)) ++lost;
    }
    if (file.read(i * C, static_cast<std::size_t>(C)).size() != C) ++lost;
  }
  CHECK(file.pool.stats().evictions > 50);
  CHECK(lost == 0);
}

TEMPLATE_TEST_CASE("a chunk that was written often outlives one that was written once", "[eviction]",
                   EACH_STORAGE(Heap, Arena)) {
  const auto scan_survived = [](int writes) {
    OneFile<ByClock<TestType>> file{{.chunk_bytes = 65536, .chunks_per_part = 1}, 1 * MiB};
    const std::uint64_t C = 65536, written = 500;
    file.become_stored(600 * C);
    for (int i = 0; i < writes; ++i) REQUIRE(file.write(written * C, "w"));
    REQUIRE(file.flush());
    std::uint64_t others = 0;
    while (others < written && file.pool.contains(file.meta, written)) REQUIRE(file.read(C * others++, 1).size() == 1);
    return others;
  };
  const auto once = scan_survived(1), often = scan_survived(3);
  CHECK(once > 10);
  CHECK(often >= once + 10);
}

TEST_CASE("a touch takes as many steps among a million hooks as among a hundred", "[eviction]") {
  // By its type: a touch sees one hook and nothing else, so it has no way to look at the others.
  STATIC_REQUIRE(std::is_same_v<decltype(&Clock::touch), void (*)(Hook&) noexcept>);
  STATIC_REQUIRE(Clock::max_heat == 3);
  for (const std::size_t count : {100u, 1000000u}) {
    Clock clock;
    std::vector<Hook> hooks(count);
    for (auto& hook : hooks) clock.insert(hook, 0);
    auto& hook = hooks[count / 2];
    auto* const next = hook.next;
    auto* const previous = hook.previous;
    for (int i = 1; i <= 5; ++i) {
      Clock::touch(hook);
      CHECK(hook.heat.load() == std::min(i, 3));
    }
    CHECK(hook.next == next);  // nothing moves
    CHECK(hook.previous == previous);
  }
}

TEST_CASE("in its last turn the hand offers what is hot, too", "[eviction]") {
  Clock clock;
  std::vector<Hook> hooks(20);
  for (auto& hook : hooks) clock.insert(hook, 0);
  std::set<const Hook*> offered;
  CHECK_FALSE(clock.evict([&](Hook& hook) {
    offered.insert(&hook);
    for (auto& hot : hooks) {
      for (int i = 0; i < 3; ++i) Clock::touch(hot);  // all the while
    }
    return false;
  }));
  CHECK(offered.size() == hooks.size());
}

TEST_CASE("a policy whose last hook goes while it is offered ends its search", "[eviction]") {
  Clock clock;
  Hook hook;
  clock.insert(hook, 0);
  int offers = 0;
  CHECK_FALSE(clock.evict([&](Hook& offered) {
    ++offers;
    clock.remove(offered);  // taken out by who looked at it, and not evicted
    return false;
  }));
  CHECK(offers == 1);
  CHECK(clock.count() == 0);
  CHECK_FALSE(clock.evict([](Hook&) { return true; }));
}

namespace {

/// Notes the names that it is told, and has much for each chunk.
struct Noting : Clock {
  static constexpr std::size_t extra_bytes = 10'000;
  static inline std::vector<std::uint64_t> names;
  void insert(Hook& hook, std::uint64_t name) noexcept {
    names.push_back(name);
    Clock::insert(hook, name);
  }
};
struct ByNoting : Usual {
  using Eviction = Noting;
};

}  // namespace

TEST_CASE("a policy is told one name of one chunk, whenever that comes, and is charged what it has for each",
          "[eviction]") {
  constexpr std::uint64_t C = 4096, chunks = 50;
  const auto charged_bytes = [&]<class Traits>(Traits) {
    OneFile<Traits> file{{.chunk_bytes = C, .chunks_per_part = 1}, 4 * MiB};
    file.become_stored(chunks * C);
    file.pool.evict_clean();
    Noting::names.clear();
    std::uint64_t charged = 0;
    for (int round = 0; round < 2; ++round) {
      for (std::uint64_t i = 0; i < chunks; ++i) REQUIRE(file.read(i * C, 1) == pattern(i * C, 1));
      charged = file.pool.stats().charged_bytes;
      CHECK(file.pool.evict_clean() == chunks);
    }
    return charged;
  };
  const auto by_clock = charged_bytes(ByClock<Usual>{});
  CHECK(Noting::names.empty());
  CHECK(charged_bytes(ByNoting{}) == by_clock + chunks * Noting::extra_bytes);
  const auto second = Noting::names.begin() + chunks;
  REQUIRE(Noting::names.size() == 2 * chunks);
  CHECK(std::equal(Noting::names.begin(), second, second));
  CHECK(std::set<std::uint64_t>(Noting::names.begin(), second).size() == chunks);
}

TEST_CASE("the names of chunks at any stride differ in whichever bits a policy takes", "[eviction]") {
  constexpr std::uint64_t C = 4096, chunks = 256;
  for (const std::uint64_t stride : {1u, 16u, 64u, 1024u}) {
    OneFile<ByNoting> file{{.chunk_bytes = C, .chunks_per_part = 1}, 8 * MiB};
    file.become_stored(chunks * stride * C);
    Noting::names.clear();
    for (std::uint64_t i = 0; i < chunks; ++i) {
      REQUIRE(file.read(i * stride * C, 1) == pattern(i * stride * C, 1));
      file.pool.evict_clean();
    }
    REQUIRE(Noting::names.size() == chunks);
    for (const int from_bit : {0, 16, 32, 56}) {
      CAPTURE(stride, from_bit);
      std::set<std::uint64_t> taken;
      for (const auto name : Noting::names) taken.insert(name >> from_bit & 0xFF);
      CHECK(taken.size() > 140);  // by chance it is 162 of 256
    }
  }
}
