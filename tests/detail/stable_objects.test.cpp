// SPDX-License-Identifier: MIT
#include <tarn/detail/stable_objects.hpp>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <set>
#include <vector>

#include <tarn/testing/gate.hpp>

#include "support/catch.hpp"

using tarn::Budget;
using tarn::detail::Atomic;

namespace {

struct Object {
  static inline std::atomic<int> alive{0};
  Object() { ++alive; }
  ~Object() { --alive; }
  Atomic<std::uint64_t> word{7};
  std::uint64_t rest = 0;
  [[nodiscard]] std::uint64_t& spare() { return rest; }
};
using Objects = tarn::detail::StableObjects<Object>;

}  // namespace

TEST_CASE("what is given back is taken next, as it was, and goes with all", "[stable_objects]") {
  Budget budget{1000};
  {
    Objects objects{budget, 100};
    auto* const first = objects.take();
    auto* const second = objects.take();
    REQUIRE((first != nullptr && second != nullptr && first != second));
    CHECK(budget.charged_bytes() == 200);
    first->word = 1;
    objects.give(*first);
    CHECK(first->word == 1);  // who still looks sees what it was
    second->word = 2;
    objects.give(*second);
    CHECK(budget.charged_bytes() == 0);
    const auto made = Object::alive.load();

    auto* const warm = objects.take();
    CHECK(warm == second);
    CHECK(warm->word == 2);
    CHECK(objects.take() == first);
    CHECK(budget.charged_bytes() == 200);
    CHECK(Object::alive == made);
    for (auto* const object : {first, second}) objects.give(*object);
  }
  CHECK(Object::alive == 0);
}

TEST_CASE("what the budget refuses is not taken, kept or new", "[stable_objects]") {
  Budget budget{250};
  Objects objects{budget, 100};
  auto* const first = objects.take();
  auto* const second = objects.take();
  CHECK(objects.take() == nullptr);
  CHECK(budget.charged_bytes() == 200);
  objects.give(*first);
  budget.set_limit(150);
  CHECK(objects.take() == nullptr);
  CHECK(budget.charged_bytes() == 100);
  objects.give(*second);
  CHECK(budget.charged_bytes() == 0);
}

TEST_CASE("no two threads have one object", "[stable_objects]") {
  Budget budget{1 << 20};
  Objects objects{budget};
  std::vector<tarn_test::Worker> workers;
  std::vector<char> right(3, 1);
  for (std::size_t who = 0; who < right.size(); ++who) {
    workers.emplace_back([&, who] {
      for (std::uint64_t i = 0; i < 2000; ++i) {
        Object* mine[3];
        for (auto*& object : mine) (object = objects.take())->rest = i * 8 + who;
        for (auto* const object : mine) right[who] = right[who] && object->rest == i * 8 + who;
        for (auto* const object : mine) objects.give(*object);
      }
    });
  }
  workers.clear();
  CHECK(std::vector<char>(3, 1) == right);
  CHECK(budget.charged_bytes() == 0);
}

TEST_CASE("each is its own, from block to block, and none is made that is not needed", "[stable_objects]") {
  Budget budget{1 << 20};
  Objects objects{budget};
  std::set<Object*> all;
  int made_before = 0, blocks = 0;
  while (blocks < 3) {
    auto* const taken = objects.take();
    REQUIRE(all.insert(taken).second);
    if (const int made = Object::alive; made != made_before) {
      CHECK(all.size() == static_cast<std::size_t>(made_before) + 1);  // all of the last block are in use
      made_before = made;
      ++blocks;
    }
  }
  for (auto* const object : all) objects.give(*object);
  for (auto* const object : all) CHECK(object->word == 7);
}
