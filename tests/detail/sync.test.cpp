// SPDX-License-Identifier: MIT
#include <tarn/detail/sync.hpp>

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <thread>
#include <vector>

#include <tarn/testing/gate.hpp>

#include "support/catch.hpp"

using tarn::detail::FileLock;
using tarn::detail::ParkingLot;
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

TEST_CASE("a file lock is shared by many or had by one", "[sync]") {
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

TEST_CASE("a writer is not starved: readers that come while it waits go after it", "[sync]") {
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

TEST_CASE("a reader is not starved by writers that hand the lock to each other", "[sync]") {
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

TEST_CASE("a leaving writer lets in all readers that wait, at once", "[sync]") {
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

TEST_CASE("a file lock guards what it guards", "[sync]") {
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

TEST_CASE("who parks is woken by the one that changes the word, and not before", "[sync]") {
  ParkingLot lot;
  std::atomic<int> word{0};
  std::atomic<int> looks{0}, awake{0};
  std::vector<Worker> sleepers;
  for (int i = 0; i < 3; ++i) {
    sleepers.emplace_back([&] {
      lot.park(&word, [&] {
        looks.fetch_add(1);
        return word == 0;
      });
      awake.fetch_add(1);
    });
  }
  REQUIRE(wait_until([&] { return looks >= 3; }));
  lot.wake(&word);  // nothing changed: they look again, and sleep on
  REQUIRE(wait_until([&] { return looks >= 6; }));
  CHECK(awake == 0);
  word = 1;
  lot.wake(&word);
  CHECK(wait_until([&] { return awake == 3; }));
}

TEST_CASE("who finds the word changed does not sleep at all", "[sync]") {
  ParkingLot lot;
  const std::atomic<int> word{1};
  lot.park(&word, [&] { return word == 0; });
  SUCCEED("it came back");
}

TEST_CASE("a wake between the look and the sleep is not lost", "[sync]") {
  ParkingLot lot;
  std::atomic<int> word{0};
  std::atomic<bool> looking{false}, woken{false}, awake{false};
  Worker waker{[&] {
    while (!looking) std::this_thread::yield();
    word = 1;
    lot.wake(&word);
    woken = true;
  }};
  Worker sleeper{[&] {
    lot.park(&word, [&] {
      if (looking.exchange(true)) return word == 0;
      // Has looked, and does not sleep yet. A wake that came back now would find nobody asleep.
      for (int i = 0; i < 2000 && !woken; ++i) std::this_thread::yield();
      return true;
    });
    awake = true;
  }};
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds{10};
  while (!awake && std::chrono::steady_clock::now() < end) std::this_thread::yield();
  const bool in_time = awake;
  lot.wake(&word);
  CHECK(in_time);
}

TEST_CASE("no wake-up is lost between two that pass a word to and fro", "[sync]") {
  ParkingLot lot;
  std::atomic<int> word{0};
  constexpr int rounds = 5000;
  const auto play = [&](int mine) {
    for (int i = 0; i < rounds; ++i) {
      lot.park(&word, [&] { return word % 2 != mine; });
      word.fetch_add(1);
      lot.wake(&word);
    }
  };
  {
    Worker other{[&] { play(1); }};
    play(0);
  }
  CHECK(word == 2 * rounds);
}
