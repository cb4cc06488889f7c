// SPDX-License-Identifier: MIT
// What calls cost whose bytes are held: beside memcpy of the same bytes, from the same memory, to the same place; beside
// the read path that tarn was born from; and in instructions and page faults.
//   micro [--pairs=N] [--run-ms=N] [--only=PREFIX]      prints a line for each figure: see paired.hpp
//   MALLOC_MMAP_THRESHOLD_=65536 MALLOC_TOP_PAD_=0 micro ...   the figure that this matters to, alone

#include <sys/mman.h>
#include <sys/resource.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "compare_reads.hpp"
#include "examples/tarnfs/read_paths.hpp"
#include "held_file.hpp"
#include "paired.hpp"
#include "suite_arguments.hpp"
#include "support/count_instructions.hpp"
#include "two_threads.hpp"

namespace tarn_bench {
namespace {

using tarn::KiB, tarn::MiB;
using Order = Offsets::Order;

// With what is read into: more than a second-level cache, less than a third.
constexpr std::uint64_t file_bytes = 4 * MiB;

// ---- Reads

void reads(const Suite& suite) {
  HeldFile file{file_bytes};
  const WarmBuffer into{MiB};
  for (const std::size_t size :
       {std::size_t{MiB}, std::size_t{128 * KiB}, std::size_t{16 * KiB}, std::size_t{4 * KiB}, std::size_t{512}}) {
    const auto name = "read/" + size_said(size);
    if (suite.wants(name)) compare_reads(suite, name, file, into, size);
  }
}

// As a stream reads, and as it may: with a pin that is kept from one read to the next, so that a chunk is looked for once.
void reads_in_order(const Suite& suite) {
  constexpr std::size_t size = 4 * KiB;
  HeldFile file{file_bytes};
  const WarmBuffer into{MiB};
  if (const std::string name = "read/4KiB/sequential"; suite.wants(name)) {
    compare_reads(suite, name, file, into, size, Order::sequential,
                  [&](std::uint64_t offset, std::span<std::byte> to) { return file->read(offset, to); });
  }
  const auto named = file->metadata();
  const auto chunk_bytes = file.pool().chunk_bytes();
  auto pin = file.pool().pin(named, 0);
  std::uint64_t pinned = 0;
  const auto read = [&](std::uint64_t offset, std::span<std::byte> to) -> tarn::Result<std::size_t> {
    if (offset / chunk_bytes != pinned) {
      pinned = offset / chunk_bytes;
      pin = file.pool().pin(named, pinned);
    }
    if (!pin) return tarn::fail(pin.error());
    const auto from = offset % chunk_bytes;
    return pin->with_data(tarn::ByteRange::between(from, from + to.size()), [&](std::span<const std::byte> bytes) {
      std::memcpy(to.data(), bytes.data(), bytes.size());
      return bytes.size();
    });
  };
  const std::string name = "read/4KiB/cursor";
  if (suite.wants(name)) compare_reads(suite, name, file, into, size, Order::sequential, read);
}

void reads_of_one_chunk(const Suite& suite) {
  const std::string name = "read/4KiB/2t_same_chunk";
  if (!suite.wants(name)) return;
  constexpr std::size_t size = 4 * KiB;
  HeldFile file{file_bytes};
  const WarmBuffer buffers[2] = {WarmBuffer{size}, WarmBuffer{size}};
  const Offsets offsets{file.pool().chunk_bytes(), size, Order::random};
  const auto copies = [&](int thread, std::uint64_t i) {
    file.copy(offsets[i], buffers[thread].first(size));
    used(buffers[thread].data());
  };
  const auto reads = [&](int thread, std::uint64_t i) {
    if (!is_all(file->read(offsets[i], buffers[thread].first(size)), size)) fail(name);
    used(buffers[thread].data());
  };
  for (const int thread : {0, 1}) {
    reads(thread, 1);
    expect(has_pattern(buffers[thread].first(size), offsets[1]), name);
    copies(thread, 2);
    expect(has_pattern(buffers[thread].first(size), offsets[2]), name + ", memcpy");
  }
  suite.compare(name, "two memcpys at once", two_threads(copies), two_threads(reads));
}

void views(const Suite& suite) {
  const std::string name = "view/1MiB_one_window";
  if (!suite.wants(name)) return;
  HeldFile file{file_bytes};
  const auto chunk_bytes = file.pool().chunk_bytes();
  std::vector<std::shared_ptr<const std::byte>> held;  // as a map from chunks to shared pointers gives them
  for (std::uint64_t at = 0; at < file_bytes; at += chunk_bytes) {
    held.emplace_back(file.memory(at), [](const std::byte*) {});
  }
  const auto shares = [&](std::uint64_t i) {
    const auto first = i % 4 * (MiB / chunk_bytes);
    std::vector<std::shared_ptr<const std::byte>> keeps;
    std::vector<::iovec> pieces;
    for (auto chunk = first; chunk < first + MiB / chunk_bytes; ++chunk) {
      keeps.push_back(held[chunk]);
      pieces.push_back({const_cast<std::byte*>(keeps.back().get()), static_cast<std::size_t>(chunk_bytes)});
    }
    used(pieces.data());
  };
  const auto shows = [&](std::uint64_t i) {
    const auto n = file->view(i % 4 * MiB, MiB, [](tarn::ConstBuffers bytes) {
      used(bytes[0].data());
      return bytes.size_bytes();
    });
    if (!n || *n != MiB) fail(name);
  };
  bool right = true;
  const auto compared = file->view(MiB, MiB, [&](tarn::ConstBuffers bytes) {
    std::vector<std::byte> shown(bytes.size_bytes());
    bytes.copy_to(shown);
    right = has_pattern(shown, MiB);
  });
  expect(compared && right && has_pattern({held[MiB / chunk_bytes].get(), chunk_bytes}, MiB), name);
  suite.compare(name, "a vector of shared_ptr and one of iovec", each(shares), each(shows));
}

// ---- Writes

void writes(const Suite& suite) {
  const WarmBuffer from{MiB};
  const auto compare = [&](const std::string& name, std::size_t size, Order order) {
    if (!suite.wants(name)) return;
    HeldFile file{file_bytes};
    const WarmBuffer plain{file_bytes};
    for (std::size_t i = 0; i < size; ++i) from.data()[i] = pattern_at(i + 1);
    const Offsets offsets{file_bytes, size, order};
    const auto copies = [&](std::uint64_t i) {
      std::memcpy(plain.data() + offsets[i], from.data(), size);
      used(plain.data());
    };
    const auto writes = [&](std::uint64_t i) {
      if (!is_all(file->write(offsets[i], from.first(size)), size)) fail(name);
    };
    suite.compare(name, "memcpy into a warm preallocated buffer", each(copies), each(writes));
    std::vector<std::byte> written(size);
    for (std::uint64_t i = 0; i < 64; ++i) {
      expect(is_all(file->read(offsets[i], written), size) && has_pattern(written, 1), name);
    }
  };
  compare("write/4KiB/sequential", 4 * KiB, Order::sequential);
  compare("write/4KiB/random", 4 * KiB, Order::random);
  compare("write/128KiB", 128 * KiB, Order::sequential);
}

// ---- The read path before

void plan_after(const Suite& suite, const std::string& name) {
  if (!suite.wants(name)) return;
  constexpr std::size_t size = 128 * KiB;
  HeldFile file{file_bytes};
  const WarmBuffer into{size};
  const Offsets offsets{file_bytes, size, Order::random};
  const auto named = file->metadata();
  const auto before = [&](std::uint64_t i) {
    const auto bytes = tarnfs::read_after(file.pool(), named, *file, offsets[i], size);
    if (!bytes || bytes->size() != size) fail(name);
    used(bytes->data());
  };
  const auto reads = [&](std::uint64_t i) {
    if (!is_all(file->read(offsets[i], into.first(size)), size)) fail(name);
    used(into.data());
  };
  const auto bytes = tarnfs::read_after(file.pool(), named, *file, offsets[1], size);
  expect(bytes && has_pattern(*bytes, offsets[1]), "plan/after");
  reads(2);
  expect(has_pattern(into.first(size), offsets[2]), name);
  suite.compare(name, "plan/after", each(before), each(reads));
}

// ---- Memory

void refills(const Suite& suite) {
  const std::string name = "refill/1MiB";
  if (!suite.wants(name)) return;
  HeldFile file{file_bytes};
  const WarmBuffer from{MiB};
  file.copy(0, from.first(MiB));
  const auto maps = [&](std::uint64_t) {
    void* const fresh = ::mmap(nullptr, MiB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (fresh == MAP_FAILED) fail(name);
    std::memcpy(fresh, from.data(), MiB);
    used(fresh);
    ::munmap(fresh, MiB);
  };
  const auto refills = [&](std::uint64_t) {
    if (!file->truncate(0) || !is_all(file->write(0, from.first(MiB)), MiB)) fail(name);
  };
  suite.compare(name, "filling a fresh mapping", each(maps), each(refills));
  const WarmBuffer into{MiB};
  expect(is_all(file->read(0, into.first(MiB)), MiB) && has_pattern(into.first(MiB), 0), name);
}

std::uint64_t minor_faults() {
  ::rusage used_so_far{};
  ::getrusage(RUSAGE_SELF, &used_so_far);
  return static_cast<std::uint64_t>(used_so_far.ru_minflt);
}

void faults(const Suite& suite) {
  if (!suite.wants("faults/")) return;
  HeldFile file{file_bytes};
  constexpr std::size_t size = 128 * KiB;
  const WarmBuffer buffer{size};
  const auto per_gib = [&](const auto& call) {
    for (std::uint64_t at = 0; at < file_bytes; at += size) call(at);
    const auto before = minor_faults();
    for (std::uint64_t done = 0; done < tarn::GiB; done += size) call(done % file_bytes);
    return static_cast<double>(minor_faults() - before);
  };
  Suite::value("faults/read", "faults/GiB",
               per_gib([&](std::uint64_t at) { expect(file->read(at, buffer.first(size)).has_value(), "a read"); }));
  Suite::value("faults/write", "faults/GiB",
               per_gib([&](std::uint64_t at) { expect(file->write(at, buffer.first(size)).has_value(), "a write"); }));
}

// ---- Instructions

/// As hot as it gets first: every count is of the same way.
template <class F>
double instructions(F hit) {
  for (int i = 0; i < 5; ++i) hit();
  const auto count = tarn_test::count_instructions(hit);
  if (!count) fail("nothing can be counted here");
  return static_cast<double>(*count);
}

/// Of content that is all zeros.
struct ZerosLoader {
  static tarn::Result<std::size_t> load(const tarn::LoadRequest<Traits>& request) {
    return request.into.copy_from(std::vector<std::byte>(request.range.size_bytes()));
  }
};

void instruction_counts(const Suite& suite) {
  if (!suite.wants("instructions/")) return;
  {
    tarn::ChunkPool<Traits> pool{{.budget_bytes = 64 * MiB}};
    const Traits::ContentId content{.bytes = {std::byte{1}}};
    expect(pool.get_or_load(content, 0, pool.chunk_bytes(), ZerosLoader{}).has_value(), "a load");
    Suite::value("instructions/by_content", "instructions", instructions([&] {
                   const auto pin = pool.try_get(content, 0);
                   if (!pin) fail("a pin");
                 }));
    Suite::value("instructions/get_or_load", "instructions", instructions([&] {
                   const auto pin = pool.get_or_load(content, 0, pool.chunk_bytes(), ZerosLoader{});
                   if (!pin) fail("a pin");
                 }));
  }
  {
    HeldFile file{file_bytes};
    const auto named = file->metadata();
    Suite::value("instructions/by_id", "instructions", instructions([&] {
                   const auto pin = file.pool().pin(named, 3);
                   if (!pin) fail("a pin");
                 }));
    Suite::value("instructions/by_file", "instructions", instructions([&] {
                   if (!file->view(3 * file.pool().chunk_bytes(), 1, [](tarn::ConstBuffers) {})) fail("a view");
                 }));
    Suite::value("instructions/view_of_16_chunks", "instructions", instructions([&] {
                   if (!file->view(0, 16 * file.pool().chunk_bytes(), [](tarn::ConstBuffers) {})) fail("a view");
                 }));
    std::byte one{};
    Suite::value("instructions/read_of_1_byte", "instructions", instructions([&] {
                   if (!file->read(3 * file.pool().chunk_bytes(), {&one, 1})) fail("a read");
                 }));
    IdleStore idle;
    Suite::value("instructions/read_range_of_1_byte", "instructions", instructions([&] {
                   if (!tarn::read_range(file.pool(), named, 3 * file.pool().chunk_bytes(), {&one, 1}, idle)) {
                     fail("a read by id");
                   }
                 }));
    Suite::value("instructions/write_of_1_byte", "instructions", instructions([&] {
                   if (!file->write(3 * file.pool().chunk_bytes(), {&one, 1})) fail("a write");
                 }));
  }
  const auto touch = [](std::uint64_t chunks) {
    HeldFile file{chunks * 64, 64};
    const auto pin = file.pool().pin(file->metadata(), chunks / 2);
    if (!pin) fail("a pin");
    return instructions([&] { (void)pin->with_data([](std::span<const std::byte>) {}); });
  };
  Suite::value("instructions/touch_1M_minus_100", "instructions", touch(1'000'000) - touch(100));
}

int run(const Suite& suite) {
  if (std::getenv("MALLOC_MMAP_THRESHOLD_") != nullptr) {
    // malloc takes each large buffer from the system and gives it back, as it does where it has not learnt otherwise.
    plan_after(suite, "plan_after/128KiB/mmap_threshold_64KiB");
    return 0;
  }
  reads(suite);
  reads_in_order(suite);
  reads_of_one_chunk(suite);
  views(suite);
  writes(suite);
  plan_after(suite, "plan_after/128KiB");
  refills(suite);
  faults(suite);
  instruction_counts(suite);
  return 0;
}

}  // namespace
}  // namespace tarn_bench

int main(int count, char** arguments) { return tarn_bench::run(tarn_bench::suite_of(count, arguments)); }
