// SPDX-License-Identifier: MIT
// What calls and memory come to by how much is held: by the count of chunks, of files, and by the size of requests.
//   scale [--pairs=N] [--run-ms=N] [--only=PREFIX]      prints a line for each figure: see paired.hpp

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <span>
#include <string>
#include <vector>

#include <tarn/chunk_pool.hpp>

#include "compare_reads.hpp"
#include "held_file.hpp"
#include "paired.hpp"
#include "scale_chunk_size.hpp"
#include "scale_files.hpp"
#include "scale_memory.hpp"
#include "scale_plan_table.hpp"
#include "suite_arguments.hpp"
#include "two_threads.hpp"

namespace tarn_bench {
namespace {

using tarn::KiB, tarn::MiB;
using Order = Offsets::Order;

// What a call costs does not depend on the size of the chunks; the memory that a million of them takes does.
constexpr std::uint64_t tiny_chunk_bytes = 64;

// ---- Forgetting a file

/// A pool with a file that is dropped and loaded again, and with chunks of other files beside it.
class DroppedFile {
 public:
  static constexpr std::uint64_t chunks = 100'000;
  static constexpr std::uint64_t chunks_of_other = 1'000;

  explicit DroppedFile(std::uint64_t chunks_beside)
      : beside_{chunks_beside},
        pool_{{.budget_bytes = tarn::GiB, .chunk_bytes = tiny_chunk_bytes}},
        file_{pool_, 1, chunks * tiny_chunk_bytes},
        neighbour_{pool_, 2, chunks * tiny_chunk_bytes} {
    for (std::uint64_t held = 0; held < beside_; held += chunks_of_other) {
      StoredFile{pool_, 3 + held, chunks_of_other * tiny_chunk_bytes}.hold();
    }
    std::iota(shuffled_.begin(), shuffled_.end(), std::uint64_t{0});
    std::shuffle(shuffled_.begin(), shuffled_.end(), std::minstd_rand{1});
  }

  /// Returns: the nanoseconds that a drop of all chunks took, which were loaded just before in one go.
  double drop() {
    file_.hold();
    return timed_drop(beside_);
  }
  /// The same, where they were loaded in an order as drawn, each with a chunk of another file after it: so neither in
  /// memory nor in the order of eviction are those that go one after the other beside each other.
  double drop_mixed() {
    neighbour_.drop();
    for (const auto chunk : shuffled_) {
      file_.hold(chunk * tiny_chunk_bytes, tiny_chunk_bytes);
      neighbour_.hold(chunk * tiny_chunk_bytes, tiny_chunk_bytes);
    }
    return timed_drop(beside_ + chunks);
  }

 private:
  double timed_drop(std::uint64_t held_after) {
    expect(pool_.stats().chunks_held == chunks + held_after && pool_.stats().evictions == 0, "a file to drop");
    const auto begun = now_ns(CLOCK_THREAD_CPUTIME_ID);
    file_.drop();
    const auto took = now_ns(CLOCK_THREAD_CPUTIME_ID) - begun;
    expect(pool_.stats().chunks_held == held_after, "a drop");
    return took;
  }

  const std::uint64_t beside_;
  tarn::ChunkPool<Traits> pool_;
  StoredFile file_, neighbour_;
  std::vector<std::uint64_t> shuffled_ = std::vector<std::uint64_t>(chunks);
};

/// What f() answers, so many times.
template <class F>
Arm each_timed(F f) {
  return [f](std::uint64_t times) {
    double took = 0;
    for (std::uint64_t i = 0; i < times; ++i) took += f();
    return took;
  };
}

void drops(const Suite& suite) {
  const std::string beside = "drop/100k_chunks_beside_1M", mixed = "drop/100k_chunks_mixed_into_1M";
  if (!suite.wants(beside) && !suite.wants(mixed)) return;
  DroppedFile alone{0};
  const auto drops_alone = each_timed([&] { return alone.drop(); });
  if (suite.wants(beside)) {
    DroppedFile file{1'000'000};
    suite.compare(beside, "the same file alone", drops_alone, each_timed([&] { return file.drop(); }));
  }
  if (suite.wants(mixed)) {
    DroppedFile file{900'000};
    file.drop_mixed();  // from then on memory comes from where the last drop left it, in no order
    suite.compare(mixed, "the same file alone", drops_alone, each_timed([&] { return file.drop_mixed(); }));
  }
}

// ---- By the count of chunks

/// Numbers below `below` as drawn, many enough that who uses them all has used a million chunks.
class Draws {
 public:
  explicit Draws(std::uint64_t below) {
    std::uint64_t seed = 1;
    for (auto& number : numbers_) {
      seed = seed * 6364136223846793005u + 1442695040888963407u;
      number = static_cast<std::uint32_t>((seed >> 33) % below);
    }
  }
  /// The thread's own i-th, from its own place on.
  [[nodiscard]] std::uint64_t of(int thread, std::uint64_t i) const {
    return numbers_[(i + static_cast<std::uint64_t>(thread) * (count / 2)) % count];
  }

 private:
  static constexpr std::uint64_t count = 1 << 20;
  std::vector<std::uint32_t> numbers_ = std::vector<std::uint32_t>(count);
};

void calls_by_count(const Suite& suite) {
  constexpr std::uint64_t counts[] = {1, 100, 10'000, 1'000'000};
  for (const auto count : counts) {
    const auto view = "view/" + count_said(count), pin = "pin/" + count_said(count);
    if (!suite.wants(view + "/") && !suite.wants(pin + "/")) continue;
    HeldFile file{count * tiny_chunk_bytes, tiny_chunk_bytes};
    const auto named = file->metadata();
    auto& pool = file.pool();
    const Draws draws{count};
    const auto shows = [&](int thread, std::uint64_t i) {
      const auto n = file->view(draws.of(thread, i) * tiny_chunk_bytes, tiny_chunk_bytes, [](tarn::ConstBuffers bytes) {
        used(bytes[0].data());
        return bytes.size_bytes();
      });
      if (!n || *n != tiny_chunk_bytes) fail(view);
    };
    const auto pins = [&](int thread, std::uint64_t i) {
      const auto pinned = pool.pin(named, draws.of(thread, i));
      if (!pinned) fail(pin);
    };
    for (std::uint64_t chunk = 0; chunk < count; ++chunk) {
      const auto offset = chunk * tiny_chunk_bytes;
      bool right = false;
      const auto look = [&](std::span<const std::byte> bytes) { right = has_pattern(bytes, offset); };
      expect(file->view(offset, tiny_chunk_bytes, [&](tarn::ConstBuffers bytes) { look(bytes[0]); }) && right, view);
      right = false;
      const auto pinned = pool.pin(named, chunk);
      expect(pinned && pinned->with_data(look) && right, pin);
    }
    const auto measure = [&](const std::string& name, const auto& call) {
      if (suite.wants(name + "/1t")) suite.measure(name + "/1t", each([&](std::uint64_t i) { call(0, i); }));
      if (!suite.wants(name + "/2t")) return;
      if (processors() < 2) {
        Suite::note("left out: " + name + "/2t: there is one processor for it");
      } else {
        suite.measure(name + "/2t", two_threads(call));
      }
    };
    measure(view, shows);
    measure(pin, pins);
    expect(pool.stats().chunks_held == count && pool.stats().evictions == 0, view);
  }
}

void touches(const Suite& suite) {
  constexpr std::uint64_t counts[] = {100, 1'000, 10'000};
  for (const auto count : counts) {
    const auto name = "touch/" + count_said(count);
    if (!suite.wants(name)) continue;
    HeldFile file{count * tiny_chunk_bytes, tiny_chunk_bytes};
    const auto named = file->metadata();
    PlanTable table;
    for (std::uint64_t chunk = 0; chunk < count; ++chunk) {
      const auto* const bytes = file.memory(chunk * tiny_chunk_bytes);
      table.insert({named.id(), chunk}, {bytes, bytes + tiny_chunk_bytes});
    }
    const auto plans = [&](std::uint64_t chunk, const auto& look) {
      const auto block = table.touch({named.id(), chunk});
      if (!block) fail(name + ", the plan's table");
      look(std::span{*block});
    };
    const auto ours = [&](std::uint64_t chunk, const auto& look) {
      const auto pin = file.pool().pin(named, chunk);
      if (!pin || !pin->with_data(look)) fail(name);
    };
    for (std::uint64_t chunk = 0; chunk < count; ++chunk) {
      bool right = false;
      const auto look = [&](std::span<const std::byte> bytes) {
        right = bytes.size() == tiny_chunk_bytes && has_pattern(bytes, chunk * tiny_chunk_bytes);
      };
      plans(chunk, look);
      expect(right, name + ", the plan's table");
      right = false;
      ours(chunk, look);
      expect(right, name);
    }
    const Draws draws{count};
    const auto first_byte = [](std::span<const std::byte> bytes) { used(bytes.data()); };
    // So few of ours as the table does in the time would be over before the caches are warm: each is done again.
    const auto again = count / 100;
    const auto ours_again = each([&](std::uint64_t i) { ours(draws.of(0, i), first_byte); });
    suite.compare(name, "the plan's table (reconstruction)",
                  each([&](std::uint64_t i) { plans(draws.of(0, i), first_byte); }),
                  [&](std::uint64_t times) { return ours_again(times * again) / static_cast<double>(again); });
  }
}

// ---- By the size of requests

// With what is read into: more than a second-level cache, less than a third.
constexpr std::uint64_t file_bytes = 4 * MiB;

void reads_by_size(const Suite& suite) {
  const WarmBuffer into{MiB};
  for (const std::uint64_t chunk_bytes : {4 * KiB, 64 * KiB, MiB}) {
    std::unique_ptr<HeldFile> file;
    for (const std::size_t size : {4 * KiB, 16 * KiB, 64 * KiB, 256 * KiB, MiB}) {
      const auto name = "read/" + size_said(size) + "/chunks_of_" + size_said(chunk_bytes);
      if (!suite.wants(name)) continue;
      if (!file) file = std::make_unique<HeldFile>(file_bytes, chunk_bytes);
      compare_reads(suite, name, *file, into, size);
    }
  }
}

// ---- Views

constexpr std::size_t view_bytes = 128 * KiB;

auto views_of(HeldFile& file, const Offsets& offsets, const std::string& name) {
  return [&](std::uint64_t i) {
    const auto n = file->view(offsets[i], view_bytes, [](tarn::ConstBuffers bytes) {
      used(bytes[0].data());
      return bytes.size_bytes();
    });
    if (!is_all(n, view_bytes)) fail(name);
  };
}

void view_beside_copy(const Suite& suite) {
  const std::string name = "view/128KiB_beside_its_copy";
  if (!suite.wants(name)) return;
  HeldFile file{file_bytes};
  const WarmBuffer into{view_bytes};
  const Offsets offsets{file_bytes, view_bytes, Order::random};
  const auto reads = [&](std::uint64_t i) {
    if (!is_all(file->read(offsets[i], into.first(view_bytes)), view_bytes)) fail(name + ", a read");
    used(into.data());
  };
  const auto views = views_of(file, offsets, name);
  for (std::uint64_t i = 0; i < 32; ++i) {
    reads(i);
    expect(has_pattern(into.first(view_bytes), offsets[i]), name + ", a read");
    std::memset(into.data(), 0, view_bytes);
    const auto copy = [&](tarn::ConstBuffers bytes) { bytes.copy_to(into.first(view_bytes)); };
    expect(file->view(offsets[i], view_bytes, copy) && has_pattern(into.first(view_bytes), offsets[i]), name);
  }
  suite.compare(name, "a read of the same bytes", each(reads), each(views));
}

void view_of_hole(const Suite& suite) {
  const std::string name = "view/hole_128KiB";
  if (!suite.wants(name)) return;
  HeldFile file{file_bytes};
  expect(file->truncate(0) && file->truncate(file_bytes) && file.pool().stats().chunks_held == 0, name);
  const WarmBuffer into{view_bytes};
  const Offsets offsets{file_bytes, view_bytes, Order::random};
  const auto zeroes = [&](std::uint64_t) {
    std::memset(into.data(), 0, view_bytes);
    used(into.data());
  };
  const auto views = views_of(file, offsets, name);
  const auto is_zero = [](std::span<const std::byte> bytes) {
    return std::ranges::all_of(bytes, [](std::byte byte) { return byte == std::byte{}; });
  };
  zeroes(0);
  expect(is_zero(into.first(view_bytes)), name + ", memset");
  for (std::uint64_t i = 0; i < 32; ++i) {
    std::size_t zero_bytes = 0;
    const auto look = [&](tarn::ConstBuffers bytes) {
      for (std::size_t piece = 0; piece < bytes.count() && is_zero(bytes[piece]); ++piece) {
        zero_bytes += bytes[piece].size();
      }
    };
    expect(file->view(offsets[i], view_bytes, look) && zero_bytes == view_bytes, name);
  }
  suite.compare(name, "memset", each(zeroes), each(views));
}

int run(const Suite& suite) {
  metadata_per_chunk(suite);  // these fork, and want a heap that nobody has used
  sparse_file(suite);
  small_files(suite);
  chunk_sizes(suite);
  drops(suite);
  calls_by_count(suite);
  touches(suite);
  reads_by_size(suite);
  view_beside_copy(suite);
  view_of_hole(suite);
  return 0;
}

}  // namespace
}  // namespace tarn_bench

int main(int count, char** arguments) { return tarn_bench::run(tarn_bench::suite_of(count, arguments)); }
