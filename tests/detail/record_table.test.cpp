// SPDX-License-Identifier: MIT
#include <tarn/detail/record_table.hpp>

#include <cstddef>
#include <cstdint>
#include <map>
#include <random>
#include <set>
#include <vector>

#include "support/catch.hpp"

namespace {

struct Record {
  std::uint64_t key;
};
using Table = tarn::detail::RecordTable<Record>;

// Few hashes for many keys, and many for many: chains of one hash, and of neighbours that go round the end.
std::size_t few(std::uint64_t key) { return key % 7; }
std::size_t many(std::uint64_t key) { return key; }

}  // namespace

TEST_CASE("a record table finds what a map finds", "[record_table]") {
  for (auto* const hash : {&few, &many}) {
    for (std::uint64_t seed = 0; seed < 5; ++seed) {
      CAPTURE(hash == &few, seed);
      std::mt19937_64 random{seed};
      Table table;
      std::map<std::uint64_t, Record> held;
      bool right = true;
      const auto agrees_at = [&](std::uint64_t key) {
        const auto at = held.find(key);
        const auto* const found = table.find(hash(key), [&](const Record& record) { return record.key == key; });
        if (found != (at == held.end() ? nullptr : &at->second)) return false;
        const auto* const likely = table.find_unlocked(hash(key));  // one of its hash, if there is any
        return at == held.end() || (likely != nullptr && hash(likely->key) == hash(key));
      };
      for (int step = 0; step < 1000 && right; ++step) {
        const auto key = random() % 97;
        if (held.count(key) == 0) {
          table.reserve();
          table.insert(hash(key), held.emplace(key, Record{key}).first->second);
        } else {
          table.erase(hash(key), held.at(key));
          held.erase(key);
        }
        right = table.count() == held.size();
        for (std::uint64_t all = 0; all < 97; ++all) right = right && agrees_at(all);
      }
      CHECK(right);
      std::set<std::uint64_t> walked;
      table.for_each([&](const Record& record) { walked.insert(record.key); });
      CHECK(walked.size() == held.size());
      for (const auto& [key, record] : held) CHECK(walked.count(key) == 1);
    }
  }
}

TEST_CASE("an empty record table has nothing, before and after", "[record_table]") {
  Table table;
  const auto is = [](const Record&) { return true; };
  CHECK(table.find(1, is) == nullptr);
  CHECK(table.find_unlocked(1) == nullptr);
  Record record{1};
  table.reserve();
  CHECK(table.find(1, is) == nullptr);
  table.insert(1, record);
  CHECK(table.find(1, is) == &record);
  table.erase(1, record);
  CHECK(table.find(1, is) == nullptr);
  CHECK(table.find_unlocked(1) == nullptr);
  CHECK(table.count() == 0);
}
