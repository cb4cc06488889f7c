// SPDX-License-Identifier: MIT
#include <tarn/detail/read_loop.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <tarn/dirty_file_async.hpp>
#include <tarn/testing/later_store.hpp>

#include "support/catch.hpp"
#include "support/model_random.hpp"
#include "support/one_file.hpp"

using namespace tarn_test;

namespace {

struct Reading {
  std::string into;
  std::optional<tarn::Result<std::size_t>> result;
};

}  // namespace

// A read that could lose to eviction what it found, while it loads what it lacks, would load for ever beside others that
// do: some ten seeds in three thousand did, with answers in order.
TEST_CASE("however little room there is, reads beside each other end after no more loads than they have windows",
          "[read_loop]") {
  using File = tarn::DirtyFile<Heap, LaterStore<Heap>>;
  for (std::uint64_t seed = 0; seed < 1000; ++seed) {
    CAPTURE(seed);
    ModelRandom random{seed};
    const auto C = std::uint64_t{1} << (2 * random.below(4)), window_chunks = 1 + random.below(6);
    const auto P = C * (1 + random.below(3));
    tarn::ChunkPool<Heap> pool{pool_options<Heap>(C, random.below(2) * 1000, window_chunks)};
    LaterStore<Heap> store;
    std::vector<std::unique_ptr<File>> files;
    for (std::uint64_t id = 1; id <= 3; ++id) {
      const auto size = 1 + random.below(6 * P);
      store.memory.put_pattern(id, size);
      auto meta = tarn::MetadataFor<Heap>::from_store(id, size, {.part_bytes = P});
      files.push_back(std::make_unique<File>(pool, std::move(meta), store));
    }
    for (auto i = random.below(6); i != 0; --i) {  // so that the room is less still
      auto& file = *files[random.below(3)];
      const auto at = random.below(file.size()), end = std::min(file.size(), at + 1 + random.below(C));
      (void)file.write(at, bytes_of(pattern(at, static_cast<std::size_t>(end - at))), {},
                       {.when_full = tarn::WhenFull::fail});
    }
    struct Asked {
      File* file;
      std::uint64_t at;
      Reading reading;
    };
    std::list<Asked> asked;
    std::uint64_t windows = 0;
    for (auto i = 10 + random.below(50); i != 0; --i) {
      auto& [file, at, reading] = asked.emplace_back();
      file = files[random.below(3)].get();
      at = random.below(file->size() + P);
      reading.into.resize(1 + random.below(2 * P));
      windows += reading.into.size() / C + 2;  // at most, and each in one part
      tarn::start_read(*file, at, writable(reading.into),
                       [to = &reading](tarn::Result<std::size_t> n) { to->result.emplace(n); });
    }
    while (store.open_loads() != 0 || store.open_flushes() != 0) {
      while (store.open_flushes() != 0) store.finish_flush();
      if (store.open_loads() != 0) store.finish_load();
      if (store.memory.counts().loads > windows) FAIL("a read loads again and again");
    }
    for (const auto& [file, at, reading] : asked) {
      REQUIRE(reading.result);
      REQUIRE(*reading.result);
      const auto n = std::min<std::uint64_t>(reading.into.size(), at < file->size() ? file->size() - at : 0);
      REQUIRE(**reading.result == n);
      REQUIRE(reading.into.substr(0, n) == pattern(at, n));
    }
    store.answer_at_once();
    for (auto& file : files) REQUIRE(file->flush());
  }
}
