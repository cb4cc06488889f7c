// SPDX-License-Identifier: MIT
// Compile: -O1
// CTest: TIMEOUT 600 COST 6
#include <tarn/tarn.hpp>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <iostream>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include <tarn/testing/gate.hpp>

#include "support/catch.hpp"
#include "support/model_store.hpp"
#include "support/received.hpp"
#include "support/traits.hpp"

// Many threads on a few files, with a small budget and a store that fails. Every cell of 64 bytes that is written holds
// one stamp eight times over: which file, which cell, which write. So a torn, shifted, foreign, stale or resurrected
// byte says so itself. What workers see they note; only the test's own thread asserts.

namespace {

using tarn::ByteRange;
using tarn::ConstBuffers;
using tarn::MiB;
using tarn_test::Gate;
using tarn_test::ModelRandom;
using tarn_test::wait_until;
using tarn_test::Worker;

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
constexpr int effort = 1;
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer) || __has_feature(address_sanitizer)
constexpr int effort = 1;
#else
constexpr int effort = 5;
#endif
#else
constexpr int effort = 5;
#endif

struct Heap : tarn_test::TestTraits {
  using Storage = tarn::HeapStorage;
};
struct Arena : tarn_test::TestTraits {
  using Storage = tarn::ArenaStorage;
};

constexpr std::uint64_t cell_bytes = 64;
using Cell = std::array<std::uint64_t, cell_bytes / sizeof(std::uint64_t)>;

struct Stamp {
  std::uint64_t file, cell, count;
  [[nodiscard]] std::uint64_t word() const { return (file << 56) | (cell << 40) | count; }
  [[nodiscard]] static Stamp of(std::uint64_t word) {
    return {word >> 56, (word >> 40) & 0xFFFF, word & ((std::uint64_t{1} << 40) - 1)};
  }
};

// What threads found wrong: the first of it, for the test's own thread to tell.
class Findings {
 public:
  void add(const std::string& what) {
    std::lock_guard lock{mutex_};
    if (first_.empty()) first_ = what;
    any_.store(true);
  }
  [[nodiscard]] bool any() const { return any_.load(); }
  [[nodiscard]] std::string first() const {
    std::lock_guard lock{mutex_};
    return first_;
  }

 private:
  mutable std::mutex mutex_;
  std::string first_;
  std::atomic<bool> any_{false};
};

// Returns: the count of the one stamp that fills the cell, 0 for a cell of zeros; `wrong` says if it is neither.
[[nodiscard]] std::uint64_t count_in(const std::byte* at, std::uint64_t file, std::uint64_t cell, std::string& wrong) {
  Cell words;
  std::memcpy(words.data(), at, cell_bytes);
  if (words[0] == 0 && std::ranges::all_of(words, [](auto word) { return word == 0; })) return 0;
  const auto stamp = Stamp::of(words[0]);
  if (!std::ranges::all_of(words, [&](auto word) { return word == words[0]; })) {
    wrong = "a torn cell " + std::to_string(cell);
  } else if (stamp.file != file) {
    wrong = "a cell of another file";
  } else if (stamp.cell != cell) {
    wrong = "cell " + std::to_string(cell) + " shows cell " + std::to_string(stamp.cell);
  }
  return stamp.count;
}

void put_stamp(std::byte* at, const Stamp& stamp) {
  Cell words;
  words.fill(stamp.word());
  std::memcpy(at, words.data(), cell_bytes);
}

// A flat store that looks at every cell it is given; one flush in eight fails half done, one load in 64 fails.
template <class Traits, tarn::LoadUnit unit = tarn::LoadUnit::ranges>
class StampStore {
 public:
  static constexpr auto load_unit = unit;

  explicit StampStore(Findings& findings) : findings_{findings} {}

  tarn::Result<std::size_t> load(const tarn::LoadRequest<Traits>& request) {
    const auto number = loads_.fetch_add(1);
    if (number % 8 == 0) std::this_thread::yield();
    {
      std::lock_guard lock{mutex_};
      const auto& bytes = images_[*request.file].bytes;
      if (request.range.end() > bytes.size()) {
        return tarn::fail(std::errc::io_error);  // cut off since the load began: that must not fail the read
      }
      request.into.copy_from(
          std::span{bytes}.subspan(static_cast<std::size_t>(request.range.offset()), request.into.size_bytes()));
    }
    if (number % 8 == 1) std::this_thread::yield();  // the bytes are late from here on
    if (fails_ && number % 64 == 63) return tarn::fail(std::errc::host_unreachable);
    return request.into.size_bytes();
  }
  tarn::FlushOutcome<Traits> flush(const tarn::FlushRequest<Traits>& request) {
    using Outcome = tarn::FlushOutcome<Traits>;
    const auto number = flushes_.fetch_add(1);
    const bool fails = fails_ && number % 8 == 7;
    {
      std::lock_guard lock{mutex_};
      auto& image = images_[*request.file];
      if (std::exchange(image.flushing, true)) findings_.add("two flushes of one file at a time");
      if (image.bytes.size() > request.store_size_bound_bytes) findings_.add("the store has bytes past the bound");
      if (request.generation <= image.generation) findings_.add("a generation that does not rise");
      image.generation = request.generation;
      image.bytes.resize(static_cast<std::size_t>(request.size_bytes));
    }
    std::size_t left = fails ? request.ranges.size() / 2 : SIZE_MAX;
    request.for_each_piece([&](std::uint64_t at, std::span<const std::byte> piece, bool zero) {
      if (left == 0) return;
      --left;
      for (std::size_t i = 0; !zero && i + cell_bytes <= piece.size(); i += cell_bytes) {
        std::string wrong;
        (void)count_in(piece.data() + i, *request.file, (at + i) / cell_bytes, wrong);
        if (!wrong.empty()) findings_.add("a flush stores " + wrong);
      }
      if (number % 4 == 0) std::this_thread::yield();  // meanwhile the file changes
      std::lock_guard lock{mutex_};
      auto& bytes = images_[*request.file].bytes;
      if (at + piece.size() > bytes.size()) return findings_.add("a flush past the size it sets");
      std::ranges::copy(piece, bytes.begin() + static_cast<std::ptrdiff_t>(at));
    });
    std::lock_guard lock{mutex_};
    images_[*request.file].flushing = false;
    if (fails) return Outcome::failed(std::make_error_code(std::errc::no_space_on_device));
    return Outcome::stored();
  }
  tarn::Result<> remove(const std::uint64_t& file) {
    std::lock_guard lock{mutex_};
    images_.erase(file);
    return {};
  }

  void stop_failing() { fails_ = false; }
  [[nodiscard]] std::vector<std::byte> image(std::uint64_t file) {
    std::lock_guard lock{mutex_};
    return images_[file].bytes;
  }
  [[nodiscard]] std::uint64_t loads() const { return loads_; }
  [[nodiscard]] std::uint64_t flushes() const { return flushes_; }

 private:
  struct Image {
    std::vector<std::byte> bytes;
    std::uint64_t generation = 0;
    bool flushing = false;
  };
  Findings& findings_;
  std::mutex mutex_;
  std::map<std::uint64_t, Image> images_;
  std::atomic<std::uint64_t> loads_{0}, flushes_{0};
  std::atomic<bool> fails_{true};
};

// A file's cells: the first ones come in groups of four, each group written by one thread only and never cut, so a read
// knows what it must not be older than; the rest is written, cut and punched by anybody.
constexpr std::uint64_t group_cells = 4, group_bytes = group_cells * cell_bytes;
constexpr std::uint64_t groups = 16, steady_bytes = groups * group_bytes, file_bytes = steady_bytes + 8 * group_bytes;

template <class Traits, tarn::LoadUnit unit>
struct World {
  using Store = StampStore<Traits, unit>;
  using File = tarn::DirtyFile<Traits, Store>;

  struct Watched {
    Watched(tarn::ChunkPool<Traits>& pool, Store& store, std::uint64_t number)
        : id{number},
          file{pool, tarn::MetadataFor<Traits>::created(number, {.part_bytes = 4 * pool.chunk_bytes()}), store} {}
    const std::uint64_t id;
    File file;
    std::array<std::atomic<std::uint64_t>, groups> begun{}, done{};
    std::atomic<std::uint64_t> count{0};  // of the writes past the steady groups
  };

  World(std::uint64_t chunk_bytes, std::uint64_t more_bytes, bool whole_groups, std::uint64_t shift)
      : pool{options(chunk_bytes, more_bytes)}, store{findings}, groups_are_whole{whole_groups}, shift_bytes{shift} {
    for (std::uint64_t id = 1; id <= 3; ++id) files.push_back(std::make_unique<Watched>(pool, store, id));
  }
  static tarn::PoolOptions options(std::uint64_t chunk_bytes, std::uint64_t more_bytes) {
    tarn::PoolOptions made{.chunk_bytes = chunk_bytes, .window_bytes = std::max<std::uint64_t>(4 * chunk_bytes, 2048)};
    made.budget_bytes = tarn::ChunkPool<Traits>::min_budget_bytes(made) + more_bytes;
    return made;
  }

  Findings findings;
  tarn::ChunkPool<Traits> pool;
  Store store;
  std::vector<std::unique_ptr<Watched>> files;
  const bool groups_are_whole;      // a write of a group is one window, whatever the pressure: never seen half
  const std::uint64_t shift_bytes;  // where group 0 begins, so that groups lie across chunks or do not

  // ---- what the threads do

  void write_group(Watched& watched, ModelRandom& random, std::uint64_t writer, std::uint64_t writers) {
    const auto group = writer + writers * random.below(groups / writers);
    const auto stamp_count = watched.begun[group] + 1;
    std::array<std::byte, group_bytes> bytes;
    for (std::uint64_t i = 0; i < group_cells; ++i) {
      put_stamp(bytes.data() + i * cell_bytes, {watched.id, first_cell(group) + i, stamp_count});
    }
    watched.begun[group] = stamp_count;
    const auto at = shift_bytes + group * group_bytes;
    std::size_t given = 0;
    const auto write = [&]() -> tarn::Result<std::size_t> {
      if (random.one_in(3)) {
        auto spares = received(pool, std::span<const std::byte>{bytes});
        if (spares) return watched.file.write(at, *spares, bytes.size(), 1);
      }
      if (random.one_in(2)) return watched.file.write(at, bytes, 1);
      return watched.file.write(at, bytes.size(), [&](tarn::MutableBuffers into) {
        const auto taken = into.copy_from(std::span{bytes}.subspan(given));
        given += taken;
        return taken;
      });
    };
    const auto n = write();
    if (n && *n == bytes.size()) {
      watched.done[group] = stamp_count;
    } else {
      expect_refusal(n ? std::error_code{} : n.error());
    }
  }
  void write_rest(Watched& watched, ModelRandom& random) {
    const auto cells = (file_bytes - steady_bytes) / cell_bytes;
    const auto first = random.below(cells), count = 1 + random.below(std::min<std::uint64_t>(cells - first, 12));
    const auto offset = shift_bytes + steady_bytes + first * cell_bytes;
    std::vector<std::byte> bytes(static_cast<std::size_t>(count * cell_bytes));
    const auto number = watched.count.fetch_add(1) + 1;
    for (std::uint64_t i = 0; i < count; ++i) {
      put_stamp(bytes.data() + i * cell_bytes, {watched.id, offset / cell_bytes + i, number});
    }
    const auto n = watched.file.write(offset, bytes);
    if (!n) expect_refusal(n.error());
  }
  void cut(Watched& watched, ModelRandom& random) {
    const auto cells = (file_bytes - steady_bytes) / cell_bytes;
    const auto first = random.below(cells + 1), count = random.below(cells - first + 1);
    const auto at = shift_bytes + steady_bytes + first * cell_bytes;
    const auto range = ByteRange::between(at, at + count * cell_bytes);
    const auto done = random.one_in(3)   ? watched.file.truncate(at)
                      : random.one_in(2) ? watched.file.punch_hole(range)
                                         : watched.file.zero_range(range, random.one_in(2));
    if (!done) expect_refusal(done.error());
  }

  // The cells of [offset, offset + bytes.size()) against what was done before the read and begun by its end.
  struct Before {
    std::array<std::uint64_t, groups> done{};
    std::uint64_t steady_end = 0;
  };
  Before look_before(const Watched& watched) const {
    Before before;
    for (std::uint64_t group = 0; group < groups; ++group) {
      before.done[group] = watched.done[group];
      if (before.done[group] != 0) before.steady_end = shift_bytes + (group + 1) * group_bytes;
    }
    return before;
  }
  void check(const Watched& watched, const Before& before, std::uint64_t offset, std::span<const std::byte> bytes,
             std::uint64_t asked_end, bool one_window) {
    if (offset + bytes.size() < std::min(before.steady_end, asked_end)) findings.add("a read ends before the file did");
    std::array<std::uint64_t, groups> seen;
    std::array<bool, groups> known{};
    for (auto at = (offset + cell_bytes - 1) / cell_bytes * cell_bytes; at + cell_bytes <= offset + bytes.size();
         at += cell_bytes) {
      std::string wrong;
      const auto count = count_in(bytes.data() + (at - offset), watched.id, at / cell_bytes, wrong);
      if (!wrong.empty()) return findings.add("file " + std::to_string(watched.id) + ": " + wrong);
      if (at < shift_bytes) continue;
      const auto group = (at - shift_bytes) / group_bytes;
      if (group >= groups) {
        if (count > watched.count) findings.add("a cell of a write that never was");
        continue;
      }
      if (count < before.done[group]) {
        findings.add("file " + std::to_string(watched.id) + " group " + std::to_string(group) + " is at " +
                     std::to_string(count) + ", older than " + std::to_string(before.done[group]));
      }
      if (count > watched.begun[group]) findings.add("a group newer than its newest write");
      if (one_window && groups_are_whole && std::exchange(known[group], true) && seen[group] != count) {
        findings.add("half of a write in one window");
      }
      seen[group] = count;
    }
  }
  void read(Watched& watched, ModelRandom& random) {
    const auto offset = random.below(file_bytes / cell_bytes) * cell_bytes;
    const auto size = random.below(file_bytes / cell_bytes) * cell_bytes;
    std::vector<std::byte> into(static_cast<std::size_t>(size), std::byte{0xA5});
    const auto before = look_before(watched);
    const auto n = watched.file.read(offset, into);
    if (!n) return expect_load_failure(n.error());
    const auto read_end = offset + *n;
    check(watched, before, offset, std::span{into}.first(*n), read_end, false);
  }
  void view(Watched& watched, ModelRandom& random) {
    // Whole cells: a view at any byte would have parts of cells loaded, and a read that finds no room takes what is
    // held first and loads what is not after that, so it may well see two states of a cell.
    const auto size = (1 + random.below(pool.window_bytes() / cell_bytes)) * cell_bytes;
    const auto offset = random.below(file_bytes / cell_bytes) * cell_bytes;
    std::vector<std::byte> seen;
    const auto before = look_before(watched);
    std::size_t calls = 0;
    const auto viewed = watched.file.view(offset, size, [&](ConstBuffers bytes) {
      ++calls;
      seen.resize(bytes.size_bytes());
      bytes.copy_to(seen);
      std::vector<std::byte> again(seen.size());
      bytes.copy_to(again);
      if (again != seen) findings.add("bytes changed under a view");
    });
    if (!viewed) return expect_load_failure(viewed.error());
    if (calls != 1) findings.add("a view that was not shown once");
    check(watched, before, offset, seen, offset + size, true);
  }
  void try_read(Watched& watched, ModelRandom& random) {
    const auto size = 1 + random.below(pool.window_bytes());
    const auto offset = random.below(file_bytes);
    std::vector<std::byte> into(static_cast<std::size_t>(size));
    const auto before = look_before(watched);
    auto outcome = watched.file.try_read(offset, into);
    if (outcome.done()) {
      check(watched, before, offset, std::span{into}.first(*outcome), offset + size, true);
    } else if (!outcome.busy() && !outcome.needs_load()) {
      findings.add("a try failed: " + outcome.error().message());
    }
  }
  void pin(Watched& watched, ModelRandom& random) {
    const auto chunk = random.below(file_bytes / pool.chunk_bytes());
    const auto before = look_before(watched);
    auto pinned = pool.pin(watched.file.metadata(), chunk);
    if (!pinned) return;
    if (random.one_in(8)) std::this_thread::yield();
    for (int look = 0; look < 8; ++look) {
      std::vector<std::byte> seen;
      const auto shown =
          pinned->with_data([&](std::span<const std::byte> bytes) { seen.assign(bytes.begin(), bytes.end()); });
      if (!shown) {
        if (shown.error() != std::errc::no_message_available) findings.add("with_data failed");
        return;
      }
      check(watched, before, chunk * pool.chunk_bytes(), seen, chunk * pool.chunk_bytes(), true);
    }
  }
  void look_around(Watched& watched, ModelRandom& random) {
    const auto stats = pool.stats();
    if (stats.charged_bytes > stats.budget_bytes) findings.add("more is charged than the budget allows");
    switch (random.below(5)) {
      case 0:
        (void)watched.file.is_dirty();
        break;
      case 1:
        (void)watched.file.data_extents(tarn::whole_file);
        break;
      case 2:
        (void)pool.dirty_extents(watched.file.metadata());
        break;
      case 3:
        (void)pool.dirty_chunks(watched.file.metadata());
        break;
      default:
        pool.evict_clean();
    }
  }
  void flush(Watched& watched) {
    const auto flushed = watched.file.flush();
    if (!flushed && flushed.error() != std::errc::no_space_on_device) {
      findings.add("a flush failed: " + flushed.error().message());
    }
  }
  void expect_refusal(std::error_code error) {
    refusals.fetch_add(1);
    if (error && error != std::errc::no_buffer_space) findings.add("a change failed: " + error.message());
  }
  void expect_load_failure(std::error_code error) {
    if (error != std::errc::host_unreachable && error != std::errc::no_buffer_space) {
      findings.add("a read failed: " + error.message());
    }
  }
  std::atomic<std::uint64_t> refusals{0};

  [[nodiscard]] std::uint64_t first_cell(std::uint64_t group) const {
    return shift_bytes / cell_bytes + group * group_cells;
  }

  // ---- the run

  void run(std::uint64_t seed, int steps) {
    constexpr std::uint64_t writers = 2;
    Gate start;  // outlives the workers, who open it when they go
    start.close();
    std::vector<Worker> workers;
    workers.reserve(writers + 5);
    const auto add = [&](auto act) {
      const auto its_seed = ModelRandom{seed + workers.size()}.next();
      workers.emplace_back(start, [this, act, steps, its_seed, &start] {
        ModelRandom random{its_seed};
        start.pass();
        for (int step = 0; step < steps && !findings.any(); ++step) {
          act(*files[random.below(files.size())], random);
        }
      });
    };
    for (std::uint64_t writer = 0; writer < writers; ++writer) {
      add([this, writer](Watched& watched, ModelRandom& random) { write_group(watched, random, writer, writers); });
    }
    add([this](Watched& watched, ModelRandom& random) {
      random.one_in(2) ? write_rest(watched, random) : cut(watched, random);
    });
    for (int reader = 0; reader < 2; ++reader) {
      add([this](Watched& watched, ModelRandom& random) {
        random.one_in(3) ? view(watched, random) : random.one_in(2) ? read(watched, random) : try_read(watched, random);
      });
    }
    add([this](Watched& watched, ModelRandom& random) { random.one_in(4) ? flush(watched) : pin(watched, random); });
    add([this](Watched& watched, ModelRandom& random) { look_around(watched, random); });
    start.open();
    for (auto& worker : workers) worker.join();
  }

  void check_at_the_end() {
    REQUIRE(findings.first() == "");
    store.stop_failing();
    for (auto& watched : files) {
      const auto before = look_before(*watched);
      REQUIRE(watched->file.flush().has_value());
      CHECK_FALSE(watched->file.is_dirty());
      pool.evict_clean();
      std::vector<std::byte> all(static_cast<std::size_t>(watched->file.size()));
      const auto n = watched->file.read(0, all);
      REQUIRE(n);
      REQUIRE(*n == all.size());
      CHECK(store.image(watched->id) == all);
      check(*watched, before, 0, all, shift_bytes + steady_bytes, false);
    }
    REQUIRE(findings.first() == "");
    CHECK(pool.stats().dirty_bytes == 0);
    CHECK(pool.stats().chunks_dirty == 0);
    files.clear();
    pool.evict_clean();
    for (const auto& value : tarn::pool_values) {
      if (value.kind == tarn::PoolValueKind::counter || value.in_stats == &tarn::PoolStats::budget_bytes) continue;
      CAPTURE(value.name);
      CHECK(pool.stats().*value.in_stats == 0);
    }
  }
};

template <class Traits, tarn::LoadUnit unit = tarn::LoadUnit::ranges>
void stress(std::uint64_t chunk_bytes, std::uint64_t more_bytes, bool whole_groups, std::uint64_t shift, int steps) {
  World<Traits, unit> world{chunk_bytes, more_bytes, whole_groups, shift};
  world.run(chunk_bytes + more_bytes, steps * effort);
  const auto stats = world.pool.stats();
  std::cout << "chunks of " << chunk_bytes << ": " << stats.loads << " loads, " << stats.flushes << " flushes, "
            << stats.flush_failures << " failed, " << stats.evictions << " evictions, " << stats.swaps << " swaps, "
            << stats.load_waits << " waits, " << stats.refusals << " times no room, " << world.refusals << " refusals"
            << std::endl;
  world.check_at_the_end();
  // It was where threads meet.
  CHECK(stats.flush_failures > 0);
  CHECK(stats.evictions > 0);
  CHECK(stats.loads > 0);
  CHECK(stats.swaps > 0);
}

}  // namespace

TEST_CASE("no thread sees a torn, shifted, foreign or stale cell: groups inside chunks, little room", "[stress]") {
  stress<Heap>(group_bytes, 3000, true, 0, 15000);
}
TEST_CASE("no thread sees a torn, shifted, foreign or stale cell: groups across chunks, ample room", "[stress]") {
  stress<Heap>(group_bytes, 4 * MiB, true, 2 * cell_bytes, 15000);
}
TEST_CASE("no thread sees a torn, shifted, foreign or stale cell: chunks of one cell, little room", "[stress]") {
  stress<Heap>(cell_bytes, 30000, false, 0, 10000);
}
TEST_CASE("no thread sees a torn, shifted, foreign or stale cell: groups across chunks of an arena", "[stress]") {
  stress<Arena>(512, 0, true, 2 * cell_bytes, 15000);
}

TEST_CASE("no thread sees a torn, shifted, foreign or stale cell: whole parts loaded, little room", "[stress]") {
  stress<Heap, tarn::LoadUnit::parts>(group_bytes, 6000, true, 2 * cell_bytes, 10000);
}

TEST_CASE("a file found in the table is the caller's own through drops and finds by others", "[stress]") {
  using Store = StampStore<Heap>;
  Findings findings;
  Store store{findings};
  tarn::ChunkPool<Heap> pool{{.budget_bytes = 8 * MiB, .chunk_bytes = 256}};
  {
    tarn::DirtyFileTable<Heap, Store> table{pool, store};
    constexpr std::uint64_t ids = 4;
    std::vector<Worker> workers;
    std::atomic<std::uint64_t> drops{0}, reads{0};
    for (std::uint64_t thread = 0; thread < 4; ++thread) {
      workers.emplace_back([&, thread] {
        ModelRandom random{thread};
        for (std::uint64_t step = 1; step <= 4000 * effort && !findings.any(); ++step) {
          const auto id = 1 + random.below(ids);
          const auto file = table.find_or_add(tarn::MetadataFor<Heap>::created(id));
          // The thread's own cell of the file: nobody else writes it, whichever file has the id by now.
          std::array<std::byte, cell_bytes> bytes;
          put_stamp(bytes.data(), {id, thread, step});
          // Once the id is another file's, this one takes no more.
          const auto replaced = [&](const auto& done) {
            if (!done && done.error().value() != ESTALE) findings.add("refused: " + done.error().message());
            return !done;
          };
          if (replaced(file->write(thread * cell_bytes, bytes))) continue;
          if (random.one_in(4) && table.drop(id) != nullptr) drops.fetch_add(1);
          if (random.one_in(8)) (void)table.dirty();
          if (random.one_in(8)) (void)table.find_if([&](const auto& meta) { return meta.id() == id; });
          if (random.one_in(8)) std::this_thread::yield();
          if (replaced(file->read(thread * cell_bytes, bytes))) continue;
          reads.fetch_add(1);
          std::string wrong;
          if (count_in(bytes.data(), id, thread, wrong) != step || !wrong.empty()) {
            findings.add("a dropped file lost what was written to it, or shows another's");
          }
        }
      });
    }
    workers.clear();
    CHECK(findings.first() == "");
    CHECK(drops > 0);
    CHECK(reads > drops);
    CHECK(table.size() <= ids);
    table.clear();
    CHECK(table.size() == 0);
  }
  CHECK(pool.stats().charged_bytes == 0);
}

// ---- one interleaving each, held open by gates

namespace {

struct GatedStore {
  Gate load_gate, flush_gate;
  std::atomic<int> loads{0}, flushes{0}, flushes_of_deleted{0};
  std::atomic<bool> removed{false}, gone{false}, remove_fails{false};

  tarn::Result<std::size_t> load(const tarn::LoadRequest<Heap>& request) {
    loads.fetch_add(1);
    load_gate.pass();
    if (gone) return tarn::fail(std::errc::io_error);
    for (std::size_t i = 0; i < request.into.count(); ++i) std::ranges::fill(request.into[i], std::byte{7});
    return request.into.size_bytes();
  }
  tarn::FlushOutcome<Heap> flush(const tarn::FlushRequest<Heap>&) {
    if (removed) flushes_of_deleted.fetch_add(1);
    flushes.fetch_add(1);
    flush_gate.pass();
    return tarn::FlushOutcome<Heap>::stored();
  }
  tarn::Result<> remove(const std::uint64_t&) {
    if (remove_fails) return tarn::fail(std::errc::io_error);
    removed = true;
    return {};
  }
};
using GatedFile = tarn::DirtyFile<Heap, GatedStore>;

}  // namespace

TEST_CASE("a file that is removed while it is flushed, request by request, is not stored again", "[stress]") {
  for (int round = 0; round < 100; ++round) {
    GatedStore store;
    tarn::ChunkPool<Heap> pool{{.budget_bytes = MiB, .chunk_bytes = 16}};
    GatedFile file{pool, tarn::MetadataFor<Heap>::created(1), store};
    const std::array<std::byte, 64> bytes{std::byte{1}};  // four parts, so four requests
    REQUIRE(file.write(0, bytes));
    store.flush_gate.close();
    tarn::Result<> removed;
    {
      Worker flusher{store.flush_gate, [&] { (void)file.flush(); }};
      REQUIRE(store.flush_gate.wait_for_arrivals());
      Worker remover{store.flush_gate, [&] { removed = file.remove(); }};
      CHECK_FALSE(store.removed);  // not with a flush in the store
    }
    CHECK(removed);
    CHECK(store.removed);
    CHECK(store.flushes_of_deleted == 0);
    CHECK(file.metadata().state() == tarn::FileState::deleted);
    CHECK(pool.stats().dirty_bytes == 0);
  }
}

TEST_CASE("a deleted file that the store does not remove at its last close keeps its bytes until one that does",
          "[stress]") {
  GatedStore store;
  tarn::ChunkPool<Heap> pool{{.budget_bytes = MiB, .chunk_bytes = 16}};
  GatedFile file{pool, tarn::MetadataFor<Heap>::created(1), store};
  std::array<std::byte, 40> bytes;
  bytes.fill(std::byte{1});
  REQUIRE(file.write(0, bytes));
  {
    const auto open = file.open();
    CHECK(file.remove());
    CHECK(file.metadata().state() == tarn::FileState::deleted);
    CHECK_FALSE(file.is_dirty());
    store.remove_fails = true;
  }
  CHECK_FALSE(store.removed);
  CHECK(file.size() == bytes.size());
  std::array<std::byte, 40> into{};
  REQUIRE(file.read(0, into));
  CHECK(into == bytes);
  store.remove_fails = false;
  { const auto open = file.open(); }
  CHECK(store.removed);
  CHECK(pool.stats().chunks_held == 0);
}

TEST_CASE("a load that fails because its bytes were cut off meanwhile does not fail the read", "[stress]") {
  GatedStore store;
  tarn::ChunkPool<Heap> pool{{.budget_bytes = MiB, .chunk_bytes = 16}};
  GatedFile file{pool, tarn::MetadataFor<Heap>::from_store(1, 64), store};
  store.load_gate.close();
  tarn::Result<std::size_t> read = tarn::fail(std::errc::io_error);
  std::array<std::byte, 64> into{};
  {
    Worker reader{store.load_gate, [&] { read = file.read(32, into); }};
    REQUIRE(store.load_gate.wait_for_arrivals());
    CHECK(file.truncate(32));
    CHECK(file.flush());
    store.gone = true;  // as of a store that no longer has them
  }
  REQUIRE(read);
  CHECK(*read == 0);
}

TEST_CASE("files of the same content in opposite order are read while missing bytes of both pieces land", "[stress]") {
  // Reader A has x and comes to y, reader B has y and comes to x, and at both a landing load waits for its reader to
  // go. A piece in the middle of each file (z, w) keeps the readers between their two pieces until the loads wait.
  using Id = tarn::Digest<16>;
  using State = tarn::detail::ChunkState;
  const auto id_of = [](int number) {
    Id id;
    id.bytes[0] = static_cast<std::byte>(number);
    return id;
  };
  const Id x = id_of(1), y = id_of(2), z = id_of(3), w = id_of(4);
  GatedStore store;
  tarn::ChunkPool<Heap> pool{{.budget_bytes = MiB, .chunk_bytes = 16}};
  const auto file_of = [&](std::uint64_t number, std::vector<Id> parts) {
    return std::make_unique<GatedFile>(pool, tarn::MetadataFor<Heap>::from_content(number, 16 * parts.size(), parts),
                                       store);
  };
  const auto a = file_of(1, {x, z, y}), b = file_of(2, {y, w, x}), only_x = file_of(3, {x}), only_y = file_of(4, {y});
  const auto read = [](GatedFile& file, std::uint64_t offset, std::size_t size) {
    std::vector<std::byte> into(size);
    const auto n = file.read(offset, into);
    return n && *n == size && std::ranges::all_of(into, [](std::byte byte) { return byte == std::byte{7}; });
  };
  // All of the middle pieces is held, of the other two all but their middle.
  for (auto* const file : {a.get(), b.get()}) REQUIRE(read(*file, 12, 24));
  for (auto* const file : {only_x.get(), only_y.get()}) REQUIRE((read(*file, 0, 4) && read(*file, 12, 4)));
  const auto loads = store.loads.load();

  auto& core = pool.core();
  const auto state_of = [&](const Id& piece) -> State& {
    const auto record = core.registry.find(core.content_key(piece));
    const tarn::detail::MutexLock table{record->table_mutex};
    return record->table.find(0)->state;
  };
  const auto pin_x = pool.try_get(x, 0), pin_y = pool.try_get(y, 0);
  const auto pin_z = pool.try_get(z, 0), pin_w = pool.try_get(w, 0);
  REQUIRE((pin_x && pin_y && pin_z && pin_w));

  Gate middle;
  middle.close();
  store.load_gate.close();
  std::atomic<int> done{0}, landed{0};
  {
    std::vector<Worker> workers;
    const auto go = [&](auto f) {
      workers.emplace_back([&done, f] {
        if (f()) done.fetch_add(1);
      });
    };
    for (const auto* const pin : {&*pin_z, &*pin_w}) {
      go([&, pin] { return pin->with_data([&](std::span<const std::byte>) { return middle.pass(); }).has_value(); });
    }
    bool good = middle.wait_for_arrivals(2);
    for (const Id& piece : {z, w}) {
      go([&, piece] {
        auto& state = state_of(piece);
        state.latch_exclusive(core.parking);
        state.unlatch_exclusive(core.parking);
        return true;
      });
      good = good && wait_until([&] { return state_of(piece).is(State::pending); });
    }
    for (auto* const file : {a.get(), b.get()}) go([&, file] { return read(*file, 12, 24); });
    for (const Id& piece : {z, w}) {  // a second pin: the reader has come to it
      good = good && wait_until([&] { return (state_of(piece).word() & State::pin_mask) >= 2; });
    }
    for (auto* const file : {only_x.get(), only_y.get()}) {
      go([&, file] {
        const bool right = read(*file, 4, 8);
        landed.fetch_add(1);
        return right;
      });
    }
    good = good && store.load_gate.wait_for_arrivals(2);
    store.load_gate.open();
    const auto waiting = [&](const Id& piece) { return state_of(piece).is(State::pending) ? 1 : 0; };
    good = good && wait_until([&] { return landed + waiting(x) + waiting(y) >= 2; });
    CHECK(good);
    middle.open();
    const bool all_done = wait_until([&] { return done == 8; });
    CHECK(all_done);
    while (!all_done && done != 8) {  // lets the threads of a failed test end
      for (const Id& piece : {x, y}) {
        state_of(piece).clear(State::pending);
        core.parking.wake(&state_of(piece));
      }
    }
  }
  CHECK(store.loads == loads + 2);
}
