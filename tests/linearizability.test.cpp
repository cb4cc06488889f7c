// SPDX-License-Identifier: MIT
#include <tarn/dirty_file.hpp>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <iostream>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <tarn/testing/gate.hpp>

#include "support/catch.hpp"
#include "support/linearizable.hpp"
#include "support/model_random.hpp"
#include "support/model_run.hpp"
#include "support/shared_file.hpp"

// Rounds of a few calls by a few threads on one small file, while the test's own thread flushes, evicts and loads. Each
// round is a history, from the bytes that the round before left to a read of the whole file, and some order of its
// calls must explain every answer. What differs from run to run is which calls overlap: a failure shows its history.
//
//   TARN_MODEL_SEED=7 TARN_MODEL_STEPS=1000000 build/dev/tests/linearizability.test     rounds

namespace {

using tarn::ByteRange;
using tarn_test::bytes_of;
using tarn_test::cut_in_windows;
using tarn_test::FileCall;
using tarn_test::ModelRandom;
using tarn_test::unexplained;
using tarn_test::WatchedFiles;
using tarn_test::Worker;
using tarn_test::writable;
using File = tarn_test::SharedFile<WatchedFiles>;
using Kind = FileCall::Kind;

constexpr std::uint64_t chunk_bytes = 16, window_bytes = 2 * chunk_bytes;

/// What a round is made of.
struct Shape {
  std::size_t threads_least, threads_most, calls_least, calls_most;
  std::uint64_t call_bytes, file_bytes;  // the longest of each; appends may go past it
};

/// How a call is made, where there are several ways.
enum class Way : std::uint8_t { copy, in_place, attempt };
struct Planned {
  FileCall call;
  Way way = Way::copy;
  bool yields = false;  // where user code runs: under the latches
};

/// How often the rounds came to what they are for.
struct Reach {
  std::uint64_t rounds = 0, calls = 0, windows = 0, overlapping = 0;
  std::uint64_t read_and_write = 0, read_and_append = 0, read_and_truncate = 0, two_changes = 0;  // rounds with both
  std::uint64_t with_evictions = 0, with_loads = 0, with_flushes = 0, met_end = 0, explained_by_windows_alone = 0;
};

/// Threads that wait until all of them and the test's own are there: their calls then do overlap.
class Start {
 public:
  void wait_for(std::uint32_t count) {
    if (arrived_.fetch_add(1) + 1 == count) arrived_.notify_all();
    std::size_t spins = 0;
    for (auto arrived = arrived_.load(); arrived < count; arrived = arrived_.load()) {
      if (++spins > 1'000) arrived_.wait(arrived);  // there may be fewer processors than threads, and those busy
    }
  }
  void reset() { arrived_ = 0; }

 private:
  std::atomic<std::uint32_t> arrived_{0};
};

class Rounds {
 public:
  Rounds(const Shape& shape, std::uint64_t seed) : shape_{shape}, random_{seed}, plans_(shape.threads_most) {
    for (auto& plan : plans_) workers_.emplace_back([this, &plan] { work(plan); });
  }
  ~Rounds() {
    over_ = true;
    begin_round();
  }

  /// Runs so many rounds, or until it is enough.
  /// Returns: what no order of a round explains, or what failed; nothing if all is well.
  template <class Enough>
  [[nodiscard]] std::string run(std::uint64_t most, Enough enough) {
    for (std::uint64_t i = 0; i < most && !enough(); ++i) {
      if (i % 256 == 0) make_file();
      const auto wrong = run_one();
      if (!wrong.empty()) return "round " + std::to_string(i) + ": " + wrong;
    }
    file_.reset();
    return {};
  }
  Reach reach;

 private:
  struct Plan {
    std::vector<Planned> calls;
    std::vector<FileCall> history;
    std::string failure;
  };

  // ---- the test's own thread

  void make_file() {
    file_.reset();
    const std::uint64_t stored_bytes = random_.one_in(2) ? 0 : random_.below(shape_.file_bytes + 1);
    file_.emplace(tarn_test::Sizes{chunk_bytes, std::uint64_t{1} << random_.below(3)}, stored_bytes);
    file_->store.let_flushes_overtake_loads();
    bytes_ = tarn_test::pattern(0, static_cast<std::size_t>(stored_bytes));
  }

  [[nodiscard]] std::string run_one() {
    auto& file = *file_->file;
    if (bytes_.size() > shape_.file_bytes) {
      if (!file.truncate(shape_.file_bytes)) return "a truncate fails";
      bytes_.resize(static_cast<std::size_t>(shape_.file_bytes));
    }
    if (random_.one_in(2) && !flush_and_evict()) return "a flush fails";
    const auto evictions = file_->pool.stats().evictions;
    const auto asked = file_->store.counts();
    if (const auto failed = make_calls(); !failed.empty()) return failed;
    const auto asked_meanwhile = file_->store.counts();
    ++reach.rounds;
    reach.with_evictions += file_->pool.stats().evictions != evictions ? 1 : 0;
    reach.with_loads += asked_meanwhile.loads != asked.loads ? 1 : 0;
    reach.with_flushes += asked_meanwhile.flushes != asked.flushes ? 1 : 0;

    std::vector<FileCall> history;
    for (const auto& plan : plans_) history.insert(history.end(), plan.history.begin(), plan.history.end());
    note(history);
    FileCall whole{.kind = Kind::read, .size_bytes = 4 * shape_.file_bytes};  // appends go past what a file has
    whole.called = clock_.fetch_add(1);
    whole.bytes = file_->read(0, static_cast<std::size_t>(whole.size_bytes));
    whole.returned = clock_.fetch_add(1);
    history.push_back(whole);
    const auto cut = cut_in_windows(history, window_bytes);
    reach.windows += cut.size();
    auto wrong = unexplained(bytes_, cut);
    if (cut.size() != history.size() && wrong.empty() && !unexplained(bytes_, history).empty()) {
      ++reach.explained_by_windows_alone;
    }
    bytes_ = whole.bytes;
    return wrong;
  }

  // Returns: what failed.
  [[nodiscard]] std::string make_calls() {
    const auto threads = random_.below(shape_.threads_most - shape_.threads_least + 1) + shape_.threads_least;
    for (std::size_t i = 0; i < plans_.size(); ++i) {
      auto& plan = plans_[i];
      plan.calls.clear();
      plan.history.clear();
      if (i >= threads) continue;
      const auto calls = random_.below(shape_.calls_most - shape_.calls_least + 1) + shape_.calls_least;
      for (std::size_t call = 0; call < calls; ++call) plan.calls.push_back(draw());
    }
    const auto disturbances = random_.below(4);
    start_.reset();
    working_ = static_cast<std::uint32_t>(plans_.size());
    begin_round();
    start_.wait_for(static_cast<std::uint32_t>(plans_.size() + 1));
    bool is_well = true;
    for (std::uint64_t i = 0; i < disturbances; ++i) is_well = disturb() && is_well;
    for (auto working = working_.load(); working != 0; working = working_.load()) working_.wait(working);
    if (!is_well) return "a flush fails";
    for (const auto& plan : plans_) {
      if (!plan.failure.empty()) return plan.failure;
    }
    return {};
  }

  [[nodiscard]] Planned draw() {
    Planned planned;
    auto& call = planned.call;
    planned.yields = random_.one_in(8);
    // Half of the calls begin with the file, or are as long as they may be: so they meet.
    call.offset = random_.one_in(3) ? 0 : random_.below(shape_.file_bytes);
    call.size_bytes = random_.one_in(3) ? shape_.call_bytes : 1 + random_.below(shape_.call_bytes);
    const auto what = random_.below(16);
    call.kind = what < 7    ? Kind::read
                : what < 11 ? Kind::write
                : what < 13 ? Kind::truncate
                : what < 14 ? Kind::append
                : what < 15 ? Kind::punch
                            : Kind::size;
    planned.way = static_cast<Way>(random_.below(call.kind == Kind::read ? 3 : 2));
    if (call.kind == Kind::write) call.size_bytes = std::min(call.size_bytes, shape_.file_bytes - call.offset);
    if (call.kind == Kind::append) call.size_bytes = 1 + random_.below(shape_.call_bytes / 8);
    if (call.kind == Kind::truncate) call.size_bytes = random_.below(shape_.file_bytes + 1);
    if (call.kind == Kind::write || call.kind == Kind::append) {
      // At one offset, bytes of different writes differ; of one write, those of offsets that are near.
      ++writes_;
      for (std::uint64_t i = 0; i < call.size_bytes; ++i) {
        call.bytes += static_cast<char>(1 + (writes_ + 37 * (call.offset + i)) % 251);
      }
    }
    return planned;
  }

  [[nodiscard]] bool disturb() {
    switch (random_.below(4)) {
      case 0:
        (void)file_->pool.evict_clean();
        return true;
      case 1:
        return (*file_)->flush().has_value();
      case 2:
        return flush_and_evict();
      default:
        (void)(*file_)->load_ahead(ByteRange::between(0, shape_.file_bytes));
        return true;
    }
  }
  [[nodiscard]] bool flush_and_evict() {
    const bool flushed = (*file_)->flush().has_value();
    (void)file_->pool.evict_clean();
    return flushed;
  }

  void note(const std::vector<FileCall>& history) {
    bool any = false, write = false, append = false, truncate = false, changes = false;
    for (const auto& a : history) {
      reach.met_end += a.kind == Kind::read && a.bytes.size() < a.size_bytes ? 1 : 0;
      for (const auto& b : history) {
        if (&a == &b || !a.overlaps(b)) continue;
        any = true;
        changes = changes || (a.changes() && b.changes());
        if (a.kind != Kind::read) continue;
        write = write || b.kind == Kind::write;
        append = append || b.kind == Kind::append;
        truncate = truncate || b.kind == Kind::truncate;
      }
    }
    reach.calls += history.size();
    reach.overlapping += any ? 1 : 0;
    reach.read_and_write += write ? 1 : 0;
    reach.read_and_append += append ? 1 : 0;
    reach.read_and_truncate += truncate ? 1 : 0;
    reach.two_changes += changes ? 1 : 0;
  }

  // ---- the workers

  void work(Plan& plan) {
    for (std::uint32_t seen = 0;; ++seen) {
      round_.wait(seen);
      if (over_.load()) return;
      start_.wait_for(static_cast<std::uint32_t>(plans_.size() + 1));
      for (const auto& planned : plan.calls) {
        auto call = planned.call;
        call.called = clock_.fetch_add(1);
        const auto answered = make(planned, call);
        call.returned = clock_.fetch_add(1);
        if (answered) plan.history.push_back(std::move(call));
        if (!answered && planned.way != Way::attempt) plan.failure = "this fails: " + describe(call);
      }
      if (working_.fetch_sub(1) == 1) working_.notify_one();
    }
  }
  void begin_round() {
    round_.fetch_add(1);
    round_.notify_all();
  }

  // Makes the call and fills in what it answers. Returns: false if it answered nothing.
  [[nodiscard]] bool make(const Planned& planned, FileCall& call) {
    auto& file = *file_->file;
    switch (call.kind) {
      case Kind::read:
        return read(planned, call);
      case Kind::write: {
        const auto n = planned.way == Way::in_place ? write_in_place(planned, call)
                                                    : file.write(call.offset, bytes_of(call.bytes));
        return n && *n == call.bytes.size();
      }
      case Kind::append: {
        const auto written = file.append(bytes_of(call.bytes));
        call.offset = written ? written->offset : 0;
        return written && written->size_bytes == call.bytes.size();
      }
      case Kind::truncate:
        return file.truncate(call.size_bytes).has_value();
      case Kind::punch:
        return file.punch_hole(ByteRange::between(call.offset, call.offset + call.size_bytes)).has_value();
      default:
        call.size_bytes = file.size();
        return true;
    }
  }
  [[nodiscard]] bool read(const Planned& planned, FileCall& call) {
    auto& file = *file_->file;
    call.bytes.assign(static_cast<std::size_t>(call.size_bytes), '?');
    std::optional<std::size_t> size;
    if (planned.way == Way::attempt) {
      auto outcome = file.try_read(call.offset, writable(call.bytes));
      if (outcome.done()) size = *outcome;
    } else if (planned.way == Way::in_place && call.size_bytes <= window_bytes) {
      const auto n = file.view(call.offset, call.size_bytes, [&](tarn::ConstBuffers bytes) {
        call.bytes.clear();
        for (std::size_t i = 0; i < bytes.count(); ++i) {
          pause(planned);
          call.bytes += tarn_test::text_of(bytes[i]);
        }
        return call.bytes.size();
      });
      if (n) size = *n;
    } else {
      const auto n = file.read(call.offset, writable(call.bytes));
      if (n) size = *n;
    }
    call.bytes.resize(size.value_or(0));
    return size.has_value();
  }
  [[nodiscard]] tarn::Result<std::size_t> write_in_place(const Planned& planned, const FileCall& call) {
    auto from = bytes_of(call.bytes);
    return (*file_)->write(call.offset, from.size(), [&](tarn::MutableBuffers into) {
      for (std::size_t i = 0; i < into.count(); ++i) {
        pause(planned);
        std::ranges::copy(from.first(into[i].size()), into[i].begin());
        from = from.subspan(into[i].size());
      }
      return into.size_bytes();
    });
  }
  static void pause(const Planned& planned) {
    if (planned.yields) std::this_thread::yield();
  }

  const Shape shape_;
  ModelRandom random_;
  std::uint64_t writes_ = 0;
  std::string bytes_;  // of the file, between two rounds
  std::optional<File> file_;
  std::vector<Plan> plans_;
  std::atomic<std::uint64_t> clock_{1};
  std::atomic<std::uint32_t> round_{0}, working_{0};
  std::atomic<bool> over_{false};
  Start start_;
  std::deque<Worker> workers_;
};

void print(const Reach& reach) {
  std::cout << reach.rounds << " rounds of " << reach.calls << " calls in " << reach.windows
            << " windows; calls overlapped in " << reach.overlapping << ": a read with a write in "
            << reach.read_and_write << ", an append " << reach.read_and_append << ", a truncate "
            << reach.read_and_truncate << ", two changes in " << reach.two_changes << "; evictions in between in "
            << reach.with_evictions << ", loads " << reach.with_loads << ", flushes " << reach.with_flushes
            << "; reads that met the end " << reach.met_end << "; explained only window by window "
            << reach.explained_by_windows_alone << std::endl;
}

/// Runs TARN_MODEL_STEPS rounds; else those that there is time for, but on a busy machine some all the same.
Reach run(const Shape& shape) {
  const auto [seed, steps] = tarn_test::model_run(50'000);
  const bool is_told = tarn_test::number_from_environment("TARN_MODEL_STEPS").has_value();
  const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds{2500};
  Rounds rounds{shape, seed};
  const auto& reach = rounds.reach;
  CHECK(rounds.run(steps, [&] {
    return !is_told && reach.rounds >= 1'000 && reach.read_and_append > 0 && reach.read_and_truncate > 0 &&
           std::chrono::steady_clock::now() > end;
  }) == "");
  print(reach);
  CHECK(reach.overlapping > 0);
  CHECK(reach.read_and_write > 0);
  CHECK(reach.read_and_append > 0);
  CHECK(reach.read_and_truncate > 0);
  CHECK(reach.two_changes > 0);
  CHECK(reach.with_evictions > 0);
  CHECK(reach.with_loads > 0);
  CHECK(reach.with_flushes > 0);
  CHECK(reach.met_end > 0);
  return reach;
}

}  // namespace

TEST_CASE("of calls within a window, some order explains every answer", "[linearizability]") {
  (void)run({.threads_least = 3,
             .threads_most = 4,
             .calls_least = 2,
             .calls_most = 4,
             .call_bytes = window_bytes,
             .file_bytes = 3 * chunk_bytes});
}

TEST_CASE("of longer calls, some order of their windows, ascending, explains every answer", "[linearizability]") {
  const auto reach = run({.threads_least = 3,
                          .threads_most = 3,
                          .calls_least = 1,
                          .calls_most = 3,
                          .call_bytes = 2 * window_bytes,
                          .file_bytes = 3 * window_bytes});
  CHECK(reach.explained_by_windows_alone > 0);
}
