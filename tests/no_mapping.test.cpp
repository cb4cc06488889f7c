// SPDX-License-Identifier: MIT
// Compile: alone
#include <tarn/storage/arena.hpp>

#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <deque>

#include "support/catch.hpp"

// What an arena does with a kernel that refuses memory, or gives it at other addresses: this program's mmap and madvise
// answer what a test says.

namespace {

constexpr std::size_t slab = tarn::ArenaStorage::huge_page_bytes;

enum class Map : std::uint8_t { refused, aligned, misaligned };
std::deque<Map> next_maps;  // of those of a slab or two; when it is empty, as the kernel likes
std::size_t maps_met = 0;
bool populates = true;

void* map_really(std::size_t size_bytes) {
  return reinterpret_cast<void*>(
      ::syscall(SYS_mmap, nullptr, size_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0L));
}
/// Where the test wants it: of a larger mapping what is there, the rest given back.
void* map_at(std::size_t size_bytes, std::size_t past_alignment) {
  const auto whole = reinterpret_cast<std::uintptr_t>(map_really(size_bytes + 2 * slab));
  const auto at = (whole + slab - 1) / slab * slab + past_alignment;
  if (at != whole) ::munmap(reinterpret_cast<void*>(whole), at - whole);
  ::munmap(reinterpret_cast<void*>(at + size_bytes), whole + 2 * slab - at);
  return reinterpret_cast<void*>(at);
}

}  // namespace

extern "C" void* mmap(void* at, std::size_t size_bytes, int protection, int flags, int file, off_t offset) noexcept {
  if ((size_bytes == slab || size_bytes == 2 * slab) && !next_maps.empty()) {
    const auto how = next_maps.front();
    next_maps.pop_front();
    ++maps_met;
    if (how == Map::refused) {
      errno = ENOMEM;
      return MAP_FAILED;
    }
    return map_at(size_bytes, how == Map::aligned ? 0 : 4096);
  }
  return reinterpret_cast<void*>(::syscall(SYS_mmap, at, size_bytes, protection, flags, file, offset));
}
extern "C" int madvise(void* at, std::size_t size_bytes, int advice) noexcept {
#ifdef MADV_POPULATE_WRITE
  if (advice == MADV_POPULATE_WRITE && !populates) {
    errno = EINVAL;  // as of a kernel before 5.14
    return -1;
  }
#endif
  return static_cast<int>(::syscall(SYS_madvise, at, size_bytes, advice));
}

namespace {

/// Sets what mmap answers, and sees that all of it was met.
struct Mapping {
  explicit Mapping(std::deque<Map> maps) {
    next_maps = std::move(maps);
    maps_met = 0;
  }
  ~Mapping() {
    CHECK(next_maps.empty());
    next_maps.clear();
    populates = true;
  }
};

}  // namespace

TEST_CASE("an arena that the system refuses memory has none to give, and has charged none", "[storage]") {
  tarn::Budget budget{8 * slab};
  tarn::ArenaStorage storage{{.chunk_bytes = 4096}};
  {
    const Mapping mapping{{Map::refused}};
    CHECK(storage.allocate(budget) == nullptr);
  }
  CHECK(budget.charged_bytes() == 0);
  {
    const Mapping mapping{{Map::misaligned, Map::refused}};  // and the second one that it then needs
    CHECK(storage.allocate(budget) == nullptr);
    CHECK(maps_met == 2);
  }
  CHECK(budget.charged_bytes() == 0);
  auto* const memory = storage.allocate(budget);  // the next try starts fresh
  REQUIRE(memory != nullptr);
  storage.deallocate(memory, budget);
  CHECK(storage.trim(budget) == slab);
}

TEST_CASE("a slab is aligned to its size wherever the system maps it", "[storage]") {
  tarn::Budget budget{8 * slab};
  tarn::ArenaStorage storage{{.chunk_bytes = 4096}};
  const auto last = GENERATE(Map::aligned, Map::misaligned);
  const Mapping mapping{{Map::misaligned, last}};
  auto* const memory = storage.allocate(budget);
  REQUIRE(memory != nullptr);
  CHECK(reinterpret_cast<std::uintptr_t>(memory) % slab == 0);
  for (std::size_t at = 0; at < slab; at += 4096) memory[at] = std::byte{7};  // all of it is there
  storage.deallocate(memory, budget);
  CHECK(storage.trim(budget) == slab);
  CHECK(budget.charged_bytes() == 0);
}

TEST_CASE("a slab is in place with prefault, also where the kernel cannot do that by itself", "[storage]") {
  tarn::Budget budget{8 * slab};
  tarn::ArenaStorage storage{{.chunk_bytes = 4096, .prefault = true}};
  const Mapping mapping{{Map::aligned}};
  populates = false;
  auto* const memory = storage.allocate(budget);
  REQUIRE(memory != nullptr);
  unsigned char resident[slab / 4096] = {};
  REQUIRE(::mincore(memory, slab, resident) == 0);
  std::size_t count = 0;
  for (const auto is : resident) count += (is & 1u) != 0 ? 1 : 0;
  CHECK(count == slab / 4096);
  storage.deallocate(memory, budget);
  CHECK(storage.trim(budget) == slab);
}

TEST_CASE("an arena that goes with slabs still warm gives them back to the system", "[storage]") {
  tarn::Budget budget{8 * slab};
  std::byte* memory = nullptr;
  {
    tarn::ArenaStorage storage{{.chunk_bytes = 4096}};
    memory = storage.allocate(budget);
    REQUIRE(memory != nullptr);
    storage.deallocate(memory, budget);
  }
  unsigned char resident = 0;
  CHECK(::mincore(memory, 4096, &resident) == -1);  // nothing is mapped there any more
  CHECK(errno == ENOMEM);
}
