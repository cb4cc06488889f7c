// SPDX-License-Identifier: MIT
#include <tarn/detail/chunk_table.hpp>

#include <cstdint>
#include <iterator>
#include <limits>
#include <map>
#include <random>
#include <set>
#include <vector>

#include "support/catch.hpp"

using tarn::Budget;

namespace {

struct alignas(16) Chunk {
  std::uint64_t index;
};
using Table = tarn::detail::ChunkTable<Chunk>;

constexpr std::uint64_t whole_budget_bytes = std::uint64_t{1} << 30;

// Indices in a few crowds far apart, and at their borders.
std::uint64_t any_index(std::mt19937_64& random) {
  constexpr std::uint64_t crowds[] = {0,
                                      1u << 5,
                                      1u << 10,
                                      1u << 20,
                                      std::uint64_t{1} << 35,
                                      std::uint64_t{1} << 57,
                                      std::uint64_t{1} << 63,
                                      std::numeric_limits<std::uint64_t>::max() - 40};
  const auto base = crowds[random() % std::size(crowds)];
  const auto shift = random() % 70;
  return random() % 2 == 0 && base > shift ? base - shift : base + shift % 40;
}

// A table beside a map of what it must hold, and the places that are reserved.
class Twin {
 public:
  explicit Twin(std::uint64_t budget_bytes = whole_budget_bytes) : budget{budget_bytes} {}
  ~Twin() {
    while (!held.empty()) erase(held.begin()->first);
    while (!reserved.empty()) unreserve(*reserved.begin());
  }
  [[nodiscard]] bool reserve(std::uint64_t index) {
    if (!table.reserve(index, nodes)) return false;
    reserved.insert(index);
    return true;
  }
  void unreserve(std::uint64_t index) {
    table.unreserve(index, nodes);
    reserved.erase(reserved.find(index));
  }
  void insert(std::uint64_t index) {  // takes over a reservation
    const auto at = held.emplace(index, Chunk{index}).first;
    table.insert(index, &at->second);
    reserved.erase(reserved.find(index));
  }
  void erase(std::uint64_t index) {
    table.erase(index, nodes);
    held.erase(index);
  }
  enum class Change { reserve, insert, unreserve, erase };
  /// At `index` if it reserves, else at one of the places that there are for it, if any; false if it is refused.
  [[nodiscard]] bool change(Change what, std::uint64_t index, std::mt19937_64& random) {
    const auto any = [&](const auto& of) {
      return std::next(of.begin(), static_cast<std::ptrdiff_t>(random() % of.size()));
    };
    if (what == Change::reserve) return reserve(index);
    if (what == Change::erase) {
      if (!held.empty()) erase(any(held)->first);
    } else if (!reserved.empty()) {
      const auto at = *any(reserved);
      if (what == Change::unreserve) {
        unreserve(at);
      } else if (held.count(at) == 0) {
        insert(at);
      }
    }
    return true;
  }
  [[nodiscard]] bool agrees() const { return table.empty() == (held.empty() && reserved.empty()); }
  [[nodiscard]] bool agrees_at(std::uint64_t index) const {
    const auto at = held.find(index);
    const auto* const expected = at == held.end() ? nullptr : &at->second;
    if (table.find(index) != expected || table.find_unlocked(index) != expected) return false;
    const auto next = held.lower_bound(index);
    const auto [found, chunk] = table.next(index);
    if (next == held.end()) return chunk == nullptr;
    return chunk == &next->second && found == next->first;
  }
  [[nodiscard]] bool agrees_everywhere() const {
    std::uint64_t from = 0;
    for (const auto& [index, expected] : held) {
      const auto [found, chunk] = table.next(from);
      if (chunk != &expected || found != index) return false;
      if (index == std::numeric_limits<std::uint64_t>::max()) return true;
      from = index + 1;
    }
    return table.next(from).second == nullptr;
  }

  Budget budget;
  Table::Nodes nodes{budget};
  Table table;
  std::map<std::uint64_t, Chunk> held;
  std::multiset<std::uint64_t> reserved;
};

using Change = Twin::Change;

}  // namespace

TEST_CASE("a chunk table finds what a map finds", "[chunk_table]") {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    CAPTURE(seed);
    std::mt19937_64 random{seed};
    Twin twin;
    bool good = true;
    for (int step = 0; step < 3000 && good; ++step) {
      const auto index = any_index(random);
      constexpr Change changes[] = {Change::reserve, Change::reserve,   Change::reserve, Change::insert,
                                    Change::insert,  Change::unreserve, Change::erase};
      if (const auto which = random() % (std::size(changes) + 1); which < std::size(changes)) {
        good = twin.change(changes[which], index, random);
      } else {
        for (int i = 0; i < 4; ++i) good = good && twin.agrees_at(any_index(random));
      }
      good = good && twin.agrees_at(index) && twin.agrees();
    }
    CHECK(good);
    CHECK(twin.agrees_everywhere());

    while (!twin.held.empty()) twin.erase(twin.held.begin()->first);
    while (!twin.reserved.empty()) twin.unreserve(*twin.reserved.begin());
    CHECK(twin.table.empty());
    CHECK(twin.budget.charged_bytes() == 0);
  }
}

TEST_CASE("a table that often has its first chunk alone, and little room for more, finds what a map finds",
          "[chunk_table]") {
  constexpr std::uint64_t places[] = {
      0, 0, 0, 0, 0, 1, 31, 32, 33, 1024, 40, 2, 1023, 40000, std::numeric_limits<std::uint64_t>::max()};
  std::uint64_t refused = 0, alone = 0;
  for (std::uint64_t seed = 0; seed < 300; ++seed) {
    CAPTURE(seed);
    std::mt19937_64 random{seed};
    Twin twin{random() % 24 * Table::node_bytes()};
    bool good = true;
    for (int step = 0; step < 200 && good; ++step) {
      const auto charged_bytes = twin.budget.charged_bytes();
      constexpr Change changes[] = {Change::reserve, Change::reserve,   Change::insert,
                                    Change::insert,  Change::unreserve, Change::erase};
      if (!twin.change(changes[random() % std::size(changes)], places[random() % std::size(places)], random)) {
        good = twin.budget.charged_bytes() == charged_bytes;
        ++refused;
      }
      for (const auto place : places) good = good && twin.agrees_at(place);
      good = good && twin.agrees_everywhere() && twin.agrees();
      alone += twin.held.count(0) == 1 && twin.held.size() == 1 && twin.reserved.size() == twin.reserved.count(0);
    }
    REQUIRE(good);
  }
  CHECK(refused > 100);
  CHECK(alone > 1000);
}

TEST_CASE("an empty table holds nothing, anywhere", "[chunk_table]") {
  const Twin twin;
  for (const auto index : {std::uint64_t{0}, std::uint64_t{1} << 57, std::numeric_limits<std::uint64_t>::max()}) {
    CHECK(twin.table.find(index) == nullptr);
    CHECK(twin.table.next(index).second == nullptr);
  }
  CHECK(twin.budget.charged_bytes() == 0);
}

TEST_CASE("a table of a first chunk has no node; a small file's is one; a far chunk costs its path", "[chunk_table]") {
  Twin twin;
  REQUIRE(twin.reserve(0));
  twin.insert(0);
  CHECK(twin.agrees_everywhere());
  CHECK(twin.budget.charged_bytes() == 0);
  twin.erase(0);
  CHECK(twin.table.empty());
  for (std::uint64_t index = 0; index < 32; ++index) {
    REQUIRE(twin.reserve(index));
    twin.insert(index);
  }
  CHECK(twin.budget.charged_bytes() == Table::node_bytes());
  REQUIRE(twin.reserve(32));
  CHECK(twin.budget.charged_bytes() == 3 * Table::node_bytes());
  twin.unreserve(32);
  REQUIRE(twin.reserve(std::numeric_limits<std::uint64_t>::max()));
  CHECK(twin.budget.charged_bytes() <= 2 * 13 * Table::node_bytes());
}

TEST_CASE("a place reserved twice stays until both reservations are gone", "[chunk_table]") {
  Twin twin;
  REQUIRE(twin.reserve(70));
  REQUIRE(twin.reserve(70));
  twin.insert(70);
  twin.unreserve(70);
  CHECK(twin.agrees_at(70));
  twin.erase(70);
  CHECK(twin.budget.charged_bytes() == 0);
}

TEST_CASE("a reserve that the budget refuses midway changes nothing", "[chunk_table]") {
  // Every budget from none to enough, for a first chunk, a far one, and one that grows the tree upwards.
  for (const auto first : {std::uint64_t{0}, std::uint64_t{40}, std::uint64_t{1} << 20, std::uint64_t{1} << 57}) {
    for (const auto second :
         {std::uint64_t{33}, std::uint64_t{1} << 12, std::uint64_t{1} << 40, std::uint64_t{1} << 63}) {
      CAPTURE(first, second);
      bool refused_once = false, taken_once = false;
      for (std::uint64_t nodes = 0; nodes <= 30; ++nodes) {
        Twin twin{nodes * Table::node_bytes()};
        if (!twin.reserve(first)) {
          CHECK(twin.budget.charged_bytes() == 0);
          CHECK(twin.table.empty());
          refused_once = true;
          continue;
        }
        twin.insert(first);
        const auto before_bytes = twin.budget.charged_bytes();
        if (twin.reserve(second)) {
          twin.insert(second);
          taken_once = true;
        } else {
          CHECK(twin.budget.charged_bytes() == before_bytes);
          refused_once = true;
        }
        CHECK(twin.agrees_everywhere());
        CHECK(twin.agrees_at(second));
        CHECK(twin.agrees_at(first));
      }
      CHECK(refused_once);
      CHECK(taken_once);
    }
  }
}
