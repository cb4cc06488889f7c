// SPDX-License-Identifier: MIT
#pragma once

// What a long random run says when it goes wrong: its seed, the step, the last operations. Said on a failure, on an
// assert of the library (SIGABRT), and when a step does not end.
//
// Thread safety: one thread notes; the watchdog's reads only what is atomic, and the rest once it has given up.

#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <sstream>
#include <string>
#include <thread>
#include <utility>

namespace tarn_test {

class ModelTrace {
 public:
  ModelTrace(std::string name, std::uint64_t seed) : name_{std::move(name)}, seed_{seed} {
    current() = this;
    previous_ = std::signal(SIGABRT, [](int signal) {
      if (auto* const trace = current(); trace != nullptr) {
        std::fputs(trace->text("aborted").c_str(), stderr);
        std::signal(signal, trace->previous_);
      }
      std::raise(signal);
    });
    watchdog_ = std::thread{[this] { watch(); }};
  }
  ModelTrace(const ModelTrace&) = delete;
  ModelTrace& operator=(const ModelTrace&) = delete;
  ~ModelTrace() {
    {
      std::lock_guard lock{mutex_};
      over_ = true;
    }
    ended_.notify_all();
    watchdog_.join();
    std::signal(SIGABRT, previous_);
    current() = nullptr;
  }

  void begin_step(std::uint64_t step) { step_.store(step, std::memory_order_relaxed); }
  [[nodiscard]] std::uint64_t step() const { return step_.load(std::memory_order_relaxed); }
  /// Notes an operation before it runs. Returns: where to put what came of it.
  std::int64_t& note(const char* what, std::uint64_t file, std::uint64_t from, std::uint64_t to, int depth) {
    auto& entry = entries_[count_++ % entries_.size()];
    entry = {step(), what, file, from, to, depth, pending};
    return entry.result;
  }

  [[nodiscard]] std::string text(const std::string& why) const {
    std::ostringstream out;
    out << "\n"
        << why << "\n  world " << name_ << ", step " << step() << "; replay with TARN_MODEL_SEED=" << seed_
        << "\n  the last operations (step, file, what, from, to: result):\n";
    const auto first = count_ > entries_.size() ? count_ - entries_.size() : 0;
    for (auto i = first; i < count_; ++i) {
      const auto& e = entries_[i % entries_.size()];
      out << "    " << e.step << std::string(static_cast<std::size_t>(2 + 2 * e.depth), ' ') << "#" << e.file << " "
          << e.what << " " << e.from << ".." << e.to << ": ";
      (e.result == pending ? out << "?" : out << e.result) << "\n";
    }
    return out.str();
  }

 private:
  static constexpr std::int64_t pending = INT64_MIN;
  static constexpr std::chrono::seconds patience{100};
  struct Entry {
    std::uint64_t step = 0;
    const char* what = "";
    std::uint64_t file = 0, from = 0, to = 0;
    int depth = 0;
    std::int64_t result = pending;
  };
  static ModelTrace*& current() {
    static ModelTrace* trace = nullptr;
    return trace;
  }
  void watch() {
    std::unique_lock lock{mutex_};
    for (auto seen = step(); !over_;) {
      if (ended_.wait_for(lock, patience, [&] { return over_; })) return;
      if (seen == step()) {
        std::fputs(text("a step does not end").c_str(), stderr);
        std::_Exit(3);
      }
      seen = step();
    }
  }

  const std::string name_;
  const std::uint64_t seed_;
  std::atomic<std::uint64_t> step_{0};
  std::array<Entry, 60> entries_;
  std::size_t count_ = 0;
  void (*previous_)(int) = SIG_DFL;
  std::mutex mutex_;
  std::condition_variable ended_;
  bool over_ = false;
  std::thread watchdog_;
};

}  // namespace tarn_test
