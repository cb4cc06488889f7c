// SPDX-License-Identifier: MIT
// Compile: -O1
// CTest: LABELS slow
#include <tarn/dirty_file.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "support/catch.hpp"
#include "support/count_instructions.hpp"
#include "support/shared_file.hpp"

using namespace tarn_test;

namespace {

constexpr std::uint64_t C = 16, few = 100, many = 1000000;
#ifdef __OPTIMIZE__
constexpr std::uint64_t steps_of_node = 16;
#else
constexpr std::uint64_t steps_of_node = 100;
#endif

/// A file of the pattern, all of it held and clean, in a pool that may hold another one.
template <class Traits>
struct HeldFile {
  using File = tarn::DirtyFile<Traits, MemoryStore<Traits>>;
  using Metadata = tarn::MetadataFor<Traits>;

  explicit HeldFile(std::uint64_t chunks, std::uint64_t chunks_of_other = 0)
      : pool{{.budget_bytes = 1 * GiB, .chunk_bytes = C}}, file{pool, stored(1, chunks), store} {
    load(file);
    if (chunks_of_other != 0) load(other.emplace(pool, stored(2, chunks_of_other), store));
    REQUIRE(pool.stats().chunks_held == chunks + chunks_of_other);
    REQUIRE(pool.stats().chunks_dirty == 0);
  }

  /// How many instructions a hit of one chunk runs: through a pin, which is the touch and no look-up, and by a read.
  [[nodiscard]] std::uint64_t steps_of_touch() {
    const auto pin = pool.pin(file.metadata(), few / 2);
    REQUIRE(pin);
    return steps_when_hot([&] { (void)pin->with_data([](std::span<const std::byte>) {}); });
  }
  [[nodiscard]] std::uint64_t steps_of_read() {
    std::array<std::byte, C> into;
    const auto steps = steps_when_hot([&] { (void)file.read(few / 2 * C, into); });
    CHECK(text_of(into) == pattern(few / 2 * C, C));
    return steps;
  }

  tarn::ChunkPool<Traits> pool;
  MemoryStore<Traits> store;
  File file;
  std::optional<File> other;

 private:
  [[nodiscard]] Metadata stored(std::uint64_t id, std::uint64_t chunks) {
    store.put_pattern(id, chunks * C);
    return Metadata::from_store(id, chunks * C, {.part_bytes = 1 * GiB});
  }
  static void load(File& file) {
    std::string into(1 * MiB, '?');
    for (std::uint64_t at = 0; at < file.size(); at += into.size()) REQUIRE(file.read(at, writable(into)));
  }
  // As hot as it gets first, so that every count is of the same way through a touch.
  template <class F>
  static std::uint64_t steps_when_hot(F hit) {
    for (int i = 0; i < 5; ++i) hit();
    return count_instructions(hit).value();
  }
};

/// Whether anything can be counted here; says so if not.
[[nodiscard]] bool can_count() {
  if (count_instructions([] {})) return true;
  WARN("nothing was counted: no tracing of a child here, or the thread sanitizer's code would count, too");
  SUCCEED();
  return false;
}

/// Checks that the counts are the same, give or take 2.
void check_same(std::uint64_t among_few, std::uint64_t among_many) {
  CHECK(among_few > 20);  // it did count
  CHECK(among_many <= among_few + 2);
  CHECK(among_few <= among_many + 2);
}

}  // namespace

TEST_CASE("every further round of a loop counts the same instructions", "[instruction_count]") {
  if (!can_count()) return;
  const auto steps_of = [](int rounds) {
    return count_instructions([&] {
             for (int i = 0; i < rounds; ++i) asm volatile("");  // so that the loop stays
           })
        .value();
  };
  const auto once = steps_of(1000), twice = steps_of(2000), thrice = steps_of(3000);
  CHECK(twice - once >= 2000);
  CHECK(thrice - twice == twice - once);
}

TEMPLATE_TEST_CASE("a touch runs the same number of instructions with a hundred chunks and with a million",
                   "[instruction_count]", EACH_STORAGE(Heap, Arena)) {
  if (!can_count()) return;
  HeldFile<TestType> small{few};
  const auto touch = small.steps_of_touch(), read = small.steps_of_read();
  SECTION("of the same file") {
    HeldFile<TestType> large{many};
    check_same(touch, large.steps_of_touch());
    // A look-up goes down by the height of the file's own table, 4 nodes here and 2 there, and does nothing else more.
    CHECK(large.steps_of_read() <= read + 2 * steps_of_node);
  }
  SECTION("of other files: the whole of a read, look-up and all") {
    HeldFile<TestType> crowded{few, many - few};
    check_same(touch, crowded.steps_of_touch());
    check_same(read, crowded.steps_of_read());
  }
}
