// SPDX-License-Identifier: MIT
// Compile: alone
// The threads of tarnfs that wait for SOURCE.
#include "examples/tarnfs/loader_pool.hpp"

#include <atomic>
#include <functional>
#include <numeric>
#include <stdexcept>
#include <thread>
#include <vector>

#include "support/catch.hpp"

using tarnfs::Semaphore;
using tarnfs::TaskThreads;

TEST_CASE("one thread does what is posted in that order, also what is queued at its end", "[tarnfs]") {
  std::vector<int> done;
  {
    Semaphore go;
    TaskThreads threads{1};
    threads.post_call([&] { go.wait(); });
    for (int i = 0; i < 100; ++i) threads.post_call([&, i] { done.push_back(i); });
    go.raise();
  }
  std::vector<int> expected(100);
  std::iota(expected.begin(), expected.end(), 0);
  CHECK(done == expected);
}

TEST_CASE("what a task posts while all is to end is done, too, and one that throws ends nobody", "[tarnfs]") {
  std::atomic<int> done{0};
  {
    std::function<void(int)> post;  // outlives the threads, who call it
    TaskThreads threads{3};
    post = [&](int more) {
      threads.post_call([&, more] {
        ++done;
        if (more != 0) post(more - 1);
        throw std::runtime_error{"no memory"};
      });
    };
    for (int i = 0; i < 4; ++i) post(100);
  }
  CHECK(done == 4 * 101);
}

TEST_CASE("no task is left while threads sleep, however many post and do", "[tarnfs]") {
  for (const unsigned loaders : {1u, 2u, 5u}) {
    std::atomic<int> done{0};
    TaskThreads threads{loaders};
    std::vector<std::thread> posters;
    for (int poster = 0; poster < 3; ++poster) {
      posters.emplace_back([&] {
        Semaphore is_done;
        for (int i = 0; i < 2'000; ++i) {
          threads.post_call([&] {
            ++done;
            is_done.raise();
          });
          is_done.wait();
        }
      });
    }
    for (auto& poster : posters) poster.join();
    CHECK(done == 3 * 2'000);
  }
}
