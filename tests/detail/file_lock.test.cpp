// SPDX-License-Identifier: MIT
#include <tarn/detail/file_lock.hpp>

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <shared_mutex>
#include <thread>
#include <vector>

#include <tarn/testing/gate.hpp>

#include "support/catch.hpp"

using tarn::detail::FileLock;
using tarn_test::Gate;
using tarn_test::wait_until;
using tarn_test::Worker;

namespace {

// A writer waits exactly if a try to share is refused while nobody has the lock exclusively.
[[nodiscard]] bool a_writer_waits(FileLock& lock) {
  return wait_until([&] {
    if (!lock.try_lock_shared()) return true;
    lock.unlock_shared();
    return false;
  });
}

}  // namespace

TEST_CASE("a file lock is shared by many or had by one", "[file_lock]") {
  FileLock lock;
  REQUIRE(lock.try_lock_shared());
  REQUIRE(lock.try_lock_shared());
  CHECK_FALSE(lock.try_lock());
  lock.unlock_shared();
  CHECK_FALSE(lock.try_lock());
  lock.unlock_shared();
  REQUIRE(lock.try_lock());
  CHECK_FALSE(lock.try_lock());
  CHECK_FALSE(lock.try_lock_shared());
  lock.unlock();
  CHECK(lock.try_lock_shared());
  lock.unlock_shared();
}

TEST_CASE("a writer is not starved: readers that come while it waits go after it", "[file_lock]") {
  FileLock lock;
  std::atomic<bool> written{false};
  std::atomic<int> read_before{0}, read_after{0};
  lock.lock_shared();
  Worker writer{[&] {
    lock.lock();
    written = true;
    lock.unlock();
  }};
  REQUIRE(a_writer_waits(lock));
  std::vector<Worker> readers;
  std::atomic<int> coming{0};
  for (int i = 0; i < 3; ++i) {
    readers.emplace_back([&] {
      coming.fetch_add(1);
      lock.lock_shared();
      (written ? read_after : read_before).fetch_add(1);
      lock.unlock_shared();
    });
  }
  REQUIRE(wait_until([&] { return coming == 3; }));
  CHECK_FALSE(lock.try_lock_shared());
  CHECK_FALSE(written);
  lock.unlock_shared();
  writer.join();
  readers.clear();
  CHECK(written);
  CHECK(read_before == 0);
  CHECK(read_after == 3);
}

TEST_CASE("a reader is not starved by writers that hand the lock to each other", "[file_lock]") {
  // A writer keeps the lock until all others have come to it, so somebody waits to write at every instant.
  FileLock lock;
  constexpr std::size_t writers_count = 4;
  std::atomic<bool> over{false};
  std::array<std::atomic<bool>, writers_count> coming{};
  std::atomic<int> handed_over{0};
  const auto all_have_come = [&](std::size_t but) {
    for (std::size_t i = 0; i < writers_count; ++i) {
      if (i != but && !coming[i]) return false;
    }
    return true;
  };
  std::vector<Worker> writers;
  for (std::size_t i = 0; i < writers_count; ++i) {
    writers.emplace_back([&, i] {
      while (!over) {
        coming[i] = true;
        lock.lock();
        coming[i] = false;
        handed_over.fetch_add(1);
        while (!over && !all_have_come(i)) std::this_thread::yield();
        lock.unlock();
      }
    });
  }
  // From then on at most the one that had it last is on its way to the lock; the others wait at it.
  REQUIRE(wait_until([&] { return handed_over >= 200; }));
  Worker reader{[&] {
    for (int i = 0; i < 2000 && !over; ++i) {
      lock.lock_shared();
      lock.unlock_shared();
    }
    over = true;
  }};
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds{30};
  while (!over && std::chrono::steady_clock::now() < end) std::this_thread::yield();
  const bool read_in_time = over;
  over = true;
  CHECK(read_in_time);
}

TEST_CASE("a leaving writer lets in all readers that wait, at once", "[file_lock]") {
  FileLock lock;
  constexpr std::size_t readers_count = 3;
  Gate inside;
  inside.close();
  std::atomic<std::size_t> coming{0};
  lock.lock();
  std::vector<Worker> readers;
  readers.reserve(readers_count);
  for (std::size_t i = 0; i < readers_count; ++i) {
    readers.emplace_back(inside, [&] {
      coming.fetch_add(1);
      std::shared_lock hold{lock};
      inside.pass();
    });
  }
  REQUIRE(wait_until([&] { return coming == readers_count; }));
  lock.unlock();
  CHECK(inside.wait_for_arrivals(readers_count));  // all inside together, though each keeps the lock
  CHECK_FALSE(lock.try_lock());
  inside.open();
  readers.clear();
  CHECK(lock.try_lock());
  lock.unlock();
}

TEST_CASE("a file lock guards what it guards", "[file_lock]") {
  FileLock lock;
  std::uint64_t a = 0, b = 0;  // plain: the thread sanitizer sees a hole in the lock
  std::atomic<int> wrong{0};
  std::vector<Worker> workers;
  for (int thread = 0; thread < 4; ++thread) {
    workers.emplace_back([&, thread] {
      for (int i = 0; i < 3000; ++i) {
        if (thread == 0 && i % 2 == 0) {
          if (std::unique_lock hold{lock, std::try_to_lock}; hold) ++a, ++b;
        } else if (thread < 2) {
          std::unique_lock hold{lock};
          ++a;
          ++b;
        } else {
          std::shared_lock hold{lock};
          if (a != b) wrong.fetch_add(1);
        }
      }
    });
  }
  workers.clear();
  CHECK(wrong == 0);
  CHECK(a == b);
  CHECK(a >= 4500);
}
