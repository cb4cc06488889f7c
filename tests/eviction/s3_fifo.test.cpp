// SPDX-License-Identifier: MIT
#include <tarn/eviction/s3_fifo.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <random>
#include <set>
#include <unordered_map>
#include <vector>

#include "support/catch.hpp"
#include "support/one_file.hpp"

using namespace tarn_test;
using S3Fifo = tarn::S3FifoEviction;
using Hook = S3Fifo::Hook;
using tarn::detail::NamesGone;

namespace {

/// The pool of hooks that a test numbers, by which they are named, too.
struct Queues {
  explicit Queues(std::size_t count) : hooks(count) {}

  void come(int i) {
    policy.insert(hooks[static_cast<std::size_t>(i)], static_cast<std::uint64_t>(i));
    policy.touch(hooks[static_cast<std::size_t>(i)]);
  }
  /// Each touch is in a moment of its own.
  void touch(int i, int times = 1) {
    while (times-- > 0) {
      pass_a_moment();
      policy.touch(hooks[static_cast<std::size_t>(i)]);
    }
  }
  /// By what comes, and goes at once.
  void pass_a_moment() {
    for (auto left = policy.count() / S3Fifo::moment_share + 1; left != 0; --left) {
      policy.insert(passing, UINT32_MAX);
      policy.remove(passing);
    }
  }
  void go(int i) { policy.remove(hooks[static_cast<std::size_t>(i)]); }
  /// Returns: which one went; -1 for none.
  int evict() {
    int victim = -1;
    policy.evict([&](Hook& hook) {
      victim = number_of(hook);
      policy.remove(hook);
      return true;
    });
    if (victim >= 0)
      hooks[static_cast<std::size_t>(victim)].~Hook(), new (&hooks[static_cast<std::size_t>(victim)]) Hook;
    return victim;
  }
  [[nodiscard]] int number_of(const Hook& hook) const { return static_cast<int>(&hook - hooks.data()); }

  S3Fifo policy;
  std::vector<Hook> hooks;
  Hook passing;
};

}  // namespace

TEST_CASE("of what comes, what is used no more goes in the order in which it came", "[s3_fifo]") {
  Queues queues{4};
  for (int i = 0; i < 4; ++i) queues.come(i);
  CHECK(queues.policy.count() == 4);
  for (int i = 0; i < 4; ++i) CHECK(queues.evict() == i);
  CHECK(queues.evict() == -1);
  CHECK(queues.policy.count() == 0);
}

TEST_CASE("what is used twice more stays through a scan of any length", "[s3_fifo]") {
  Queues queues{1000};
  for (int i = 0; i < 20; ++i) queues.come(i);
  queues.touch(3);     // once more is not enough
  queues.touch(7, 2);  // and these
  queues.touch(8, 2);
  std::vector<int> gone;
  for (int i = 20; i < 1000; ++i) {
    gone.push_back(queues.evict());
    queues.come(i);
  }
  std::vector<int> expected;
  for (int i = 0; i < 982; ++i) {
    if (i != 7 && i != 8) expected.push_back(i);
  }
  CHECK(gone == expected);
}

TEST_CASE("touches in one moment are one use, however many they are", "[s3_fifo]") {
  Queues queues{2000};
  for (int i = 0; i < 256; ++i) queues.come(i);
  queues.pass_a_moment();
  for (int i = 0; i < 100; ++i) queues.policy.touch(queues.hooks[3]);
  queues.touch(7, 2);  // in two
  std::vector<int> gone;
  for (int i = 256; i < 2000; ++i) {
    gone.push_back(queues.evict());
    queues.come(i);
  }
  CHECK(std::count(gone.begin(), gone.end(), 3) == 1);
  CHECK(std::count(gone.begin(), gone.end(), 7) == 0);
}

TEST_CASE("a moment is over when a chunk in 128 has come, and the count of moments goes round", "[s3_fifo]") {
  Queues queues{600};
  int next = 0;
  const auto& hook = queues.hooks[0];
  const auto counts = [&] {
    const auto before = hook.heat.load();
    queues.policy.touch(queues.hooks[0]);
    return hook.heat.load() > before;
  };
  while (next < 500) queues.come(next++);
  (void)counts();
  queues.hooks[0].heat.store(0);
  do queues.come(next++);
  while (!counts());
  queues.hooks[0].heat.store(0);
  for (int come = 1; come <= 3; ++come) {
    queues.come(next++);
    CHECK_FALSE(counts());
  }
  queues.come(next++);
  CHECK(next < 512);
  CHECK(counts());

  Queues few{2};
  few.come(0);
  for (int moments = 1; moments <= 600; ++moments) {
    few.hooks[0].heat.store(S3Fifo::brought);
    few.touch(0);
    CHECK(few.hooks[0].heat.load() == S3Fifo::brought + 1);
    CHECK(few.hooks[0].moment.load() != 0);  // which is of a hook that nothing has touched
  }
}

TEST_CASE("of what is proven goes what is not used any more, and the hotter the later", "[s3_fifo]") {
  Queues queues{5};
  for (int i = 0; i < 4; ++i) {
    queues.come(i);
    queues.touch(i, 2);
  }
  queues.come(4);
  CHECK(queues.evict() == 4);  // the others are proven now
  queues.touch(0, 1);
  queues.touch(1, 3);
  queues.touch(2, 2);
  CHECK(queues.evict() == 3);
  CHECK(queues.evict() == 0);
  CHECK(queues.evict() == 2);
  CHECK(queues.evict() == 1);
}

TEST_CASE("what comes again soon after it went is proven, and what comes late is not", "[s3_fifo]") {
  for (const int between : {0, 8, 9, 50}) {
    CAPTURE(between);
    Queues queues{200};
    int next = 0;
    while (next < 10) queues.come(next++);
    REQUIRE(queues.evict() == 0);
    for (int i = 0; i < between; ++i) {
      queues.come(next++);
      REQUIRE(queues.evict() == i + 1);
    }
    queues.come(0);
    for (int i = 0; i < 30; ++i) queues.come(next++), queues.evict();
    const bool stays = queues.hooks[0].next != nullptr;
    CHECK(stays == (between <= 8));  // nine have stayed: as many names are kept
  }
}

TEST_CASE("every hook is offered, and each a few times at most, however hot all are and whoever keeps them",
          "[s3_fifo]") {
  Queues queues{50};
  for (int i = 0; i < 50; ++i) queues.come(i);
  for (int i = 0; i < 20; ++i) queues.touch(i, 2);
  for (int round = 0; round < 3; ++round) {
    std::set<int> offered;
    int offers = 0;
    CHECK_FALSE(queues.policy.evict([&](Hook& hook) {
      for (int i = 0; i < 50; ++i) queues.touch(i, 3);  // all the while
      offered.insert(queues.number_of(hook));
      ++offers;
      return false;
    }));
    CHECK(offered.size() == 50);
    CHECK(offers <= 6 * 50);
    CHECK(queues.policy.count() == 50);
  }
}

TEST_CASE("what was kept in a first turn of offers is offered once more", "[s3_fifo]") {
  Queues queues{30};
  for (int i = 0; i < 30; ++i) queues.come(i);
  queues.touch(0, 2);
  queues.touch(1, 2);  // both are to be proven
  int offers = 0;
  std::set<int> offered;
  CHECK(queues.policy.evict([&](Hook& hook) {
    offered.insert(queues.number_of(hook));
    if (++offers <= 30) return false;
    queues.policy.remove(hook);
    return true;
  }));
  CHECK(offered.size() == 30);
  CHECK(offers == 31);
  CHECK(queues.policy.count() == 29);
}

TEST_CASE("a hook leaves either queue, wherever it stands, and is as it was when it is back", "[s3_fifo]") {
  Queues queues{6};
  for (int i = 0; i < 5; ++i) queues.come(i);
  queues.touch(0, 2);
  queues.touch(1, 2);
  CHECK(queues.evict() == 2);  // 0 and 1 are proven
  queues.go(0);
  queues.go(4);
  CHECK(queues.policy.count() == 2);
  queues.come(0);  // as a chunk that was dirty for a while
  queues.come(4);
  CHECK(queues.evict() == 3);
  CHECK(queues.evict() == 4);
  CHECK(queues.evict() == 1);
  CHECK(queues.evict() == 0);
}

TEST_CASE("names are told as long as not too many were added since, each once, and in bounded memory", "[s3_fifo]") {
  NamesGone names;
  CHECK_FALSE(names.take(1, 10));
  names.add(1);  // it has no room yet
  CHECK_FALSE(names.take(1, 10));
  std::size_t most = 0;
  for (std::size_t count = 1; count <= 5000; ++count) {
    names.resize(count);
    CHECK(names.memory_bytes() >= count * 8);
    most = std::max(most, names.memory_bytes() / count);
  }
  CHECK(most <= 32);  // of one name: a set of them
  for (std::uint32_t name = 0; name < 5000; ++name) names.add(name * 0x9E3779B9u);
  CHECK(names.take(4990 * 0x9E3779B9u, 10));
  CHECK_FALSE(names.take(4990 * 0x9E3779B9u, 10));
  CHECK_FALSE(names.take(4989 * 0x9E3779B9u, 10));  // ten have come since
  std::size_t kept = 0;
  names.resize(4000);
  for (std::uint32_t name = 1000; name < 4900; ++name) kept += names.take(name * 0x9E3779B9u, 5000) ? 1u : 0u;
  CHECK(kept > 3500);  // where sets are full, the oldest is forgotten
  for (std::size_t count = 4000; count >= 100; --count) {
    names.resize(count);
    CHECK(names.memory_bytes() <= count * NamesGone::bytes_per_name);
  }
  names.resize(0);
  CHECK(names.memory_bytes() == 0);
}

TEST_CASE("names that are told shrink to those that were added last", "[s3_fifo]") {
  NamesGone names;
  names.resize(8);  // two sets, by the lowest bit; for four names or less there is one
  for (const std::uint32_t name : {1u, 3u, 5u, 7u, 9u, 11u, 0u, 2u, 4u, 6u}) names.add(name);
  names.resize(1);
  for (const std::uint32_t name : {1u, 3u, 5u, 7u, 9u, 11u}) CHECK_FALSE(names.take(name, 10));
  for (const std::uint32_t name : {0u, 2u, 4u, 6u}) CHECK(names.take(name, 10));
}

TEST_CASE("names are told apart by their lower half alone", "[s3_fifo]") {
  Queues queues{40};
  auto& policy = queues.policy;
  for (int i = 0; i < 20; ++i) queues.come(i);
  REQUIRE(queues.evict() == 0);
  // It has all that a pool mixed in its lower half; to fold the halves would take back what the pool has folded.
  policy.insert(queues.hooks[0], std::uint64_t{0xABCD} << 32);
  CHECK(queues.hooks[0].proven);
}

namespace {

/// A cache of numbers, by a policy.
class Cache {
 public:
  explicit Cache(std::size_t size) : size_{size} {}
  void use(std::uint64_t number) {
    auto& hook = hooks_[number];
    if (hook != nullptr) {
      ++hits;
    } else {
      if (policy_.count() == size_) {
        policy_.evict([&](Hook& gone) {
          policy_.remove(gone);
          hooks_[static_cast<Named&>(gone).number].reset();
          return true;
        });
      }
      hook = std::make_unique<Named>();
      hook->number = number;
      policy_.insert(*hook, number * 0x9E3779B97F4A7C15u);
    }
    policy_.touch(*hook);
  }
  std::uint64_t hits = 0;

 private:
  struct Named : Hook {
    std::uint64_t number = 0;
  };
  const std::size_t size_;
  S3Fifo policy_;
  std::unordered_map<std::uint64_t, std::unique_ptr<Named>> hooks_;
};
class Lru {
 public:
  explicit Lru(std::size_t size) : size_{size} {}
  void use(std::uint64_t number) {
    const auto found = places_.find(number);
    if (found != places_.end()) {
      ++hits;
      order_.splice(order_.begin(), order_, found->second);
      return;
    }
    if (order_.size() == size_) {
      places_.erase(order_.back());
      order_.pop_back();
    }
    order_.push_front(number);
    places_[number] = order_.begin();
  }
  std::uint64_t hits = 0;

 private:
  const std::size_t size_;
  std::list<std::uint64_t> order_;
  std::unordered_map<std::uint64_t, std::list<std::uint64_t>::iterator> places_;
};

}  // namespace

// The paper's claim, in small: numbers drawn with a chance of one over their rank, and a scan every now and then.
TEST_CASE("more hits come of it than of the least recently used, and more so beside scans", "[s3_fifo]") {
  constexpr std::size_t numbers = 10'000, size = 1'000, draws = 300'000;
  std::vector<double> sums(numbers);
  double sum = 0;
  for (std::size_t i = 0; i < numbers; ++i) sums[i] = sum += 1.0 / static_cast<double>(i + 1);
  const auto better_by = [&](bool scans) {
    std::mt19937_64 random{1};
    Cache ours{size};
    Lru lru{size};
    std::uint64_t uses = 0, next = numbers;
    const auto use = [&](std::uint64_t number) {
      ours.use(number);
      lru.use(number);
      ++uses;
    };
    for (std::size_t i = 0; i < draws; ++i) {
      const auto at = static_cast<double>(random() >> 11) * 0x1p-53 * sum;
      use(static_cast<std::uint64_t>(std::lower_bound(sums.begin(), sums.end(), at) - sums.begin()));
      if (scans && i % 2'000 == 0) {
        for (std::size_t n = 0; n < size; ++n) use(next++);
      }
    }
    return (static_cast<double>(ours.hits) - static_cast<double>(lru.hits)) / static_cast<double>(uses);
  };
  CHECK(better_by(false) > 0.04);
  CHECK(better_by(true) > 0.06);
}

namespace {
struct ByS3Fifo : Heap {
  using Eviction = S3Fifo;
};
}  // namespace
TEST_CASE("a pool evicts by it: what is read again and again outlives a scan of others", "[s3_fifo]") {
  OneFile<ByS3Fifo> file{{.chunk_bytes = 65536, .chunks_per_part = 1}, 1 * MiB};
  const std::uint64_t C = 65536, hot = 200;
  file.become_stored(400 * C);
  for (int reads = 0; reads < 3; ++reads) REQUIRE(file.read(hot * C + 5, 10) == pattern(hot * C + 5, 10));
  std::uint64_t lost = 0;
  for (std::uint64_t i = 0; i < 150; ++i) {
    if (!file.pool.contains(file.meta, hot)) ++lost;
    if (i % 5 == 0 && file.read(hot * C + 5, 10) != pattern(hot * C + 5, 10)) ++lost;
    if (file.read(i * C, static_cast<std::size_t>(C)) != pattern(i * C, static_cast<std::size_t>(C))) ++lost;
  }
  CHECK(file.pool.stats().evictions > 50);
  CHECK(lost == 0);
}
