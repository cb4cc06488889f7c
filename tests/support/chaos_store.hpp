// SPDX-License-Identifier: MIT
#pragma once

// A store that does what a store may do, at random: it answers by tokens from threads of its own, in any order, now and
// then inside the call; it fails, does not know, drops a token, answers a load with too few bytes; what it says "failed"
// or "unknown" of it has stored wholly, half or not at all; it acts when it is asked or when it answers; and from time
// to time it hangs: it keeps every answer back for a while.
//
// What tarn promises its store is checked on every request; what was found wrong is kept in complaints().
//
// Thread safety: every call from any thread.

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include <tarn/store.hpp>
#include <tarn/testing/memory_store.hpp>

#include "support/model_store.hpp"
#include "support/testing.hpp"

namespace tarn_test {

/// How often, each one in so many; 0: never. Times in ns.
struct ChaosOptions {
  std::uint64_t seed = 1;
  std::uint64_t fails = 8, is_unsure = 40, drops = 80;
  std::uint64_t answers_inline = 8;
  std::int64_t hangs_after_ns_max = 1'500'000'000, hangs_for_ns_min = 20'000'000, hangs_for_ns_max = 150'000'000;
};

template <class Traits>
class ChaosStore {
 public:
  using LoadToken = tarn::LoadToken<Traits>;
  using FlushToken = tarn::FlushToken<Traits>;
  using SyncToken = tarn::SyncToken<Traits>;
  using Outcome = tarn::FlushOutcome<Traits>;

  // What its failures say. EIO is that of a dropped token, and of a load that answered too few bytes.
  static constexpr auto load_error = std::errc::host_unreachable, flush_error = std::errc::no_space_on_device,
                        unsure_error = std::errc::connection_reset, sync_error = std::errc::owner_dead;

  /// Files are numbered from 0.
  ChaosStore(std::size_t file_count, const ChaosOptions& options)
      : options_{options}, files_(file_count), random_{options.seed}, next_hang_ns_{now_ns() + draw_pause_ns()} {
    for (auto& thread : threads_) thread = std::thread{[this] { serve(); }};
  }
  /// Answers what was asked first.
  ~ChaosStore() {
    calm();
    {
      std::lock_guard lock{mutex_};
      stopped_ = true;
    }
    changed_.notify_all();
    for (auto& thread : threads_) thread.join();
  }

  void put(std::uint64_t id, std::string text) {
    std::lock_guard lock{files_[id].mutex};
    files_[id].text = std::move(text);
  }
  [[nodiscard]] std::string text(std::uint64_t id) {
    std::lock_guard lock{files_[id].mutex};
    return files_[id].text;
  }

  /// From now on it does as it is told, and hangs no more.
  void calm() {
    {
      std::lock_guard lock{mutex_};
      calm_ = true;
      end_hang();
    }
    changed_.notify_all();
  }
  /// Waits until it has answered all that it was asked. Returns: whether it did before the deadline.
  [[nodiscard]] bool wait_until_idle() {
    std::unique_lock lock{mutex_};
    return idle_.wait_for(lock, deadline, [&] { return asked_.empty() && answering_ == 0; });
  }

  // ---- the store

  void load(const tarn::LoadRequest<Traits>& request, LoadToken token) {
    auto& file = files_[*request.file];
    {
      std::lock_guard lock{file.mutex};
      if (request.range.end() > file.text.size()) complain("a load of bytes that the store never had");
    }
    take(std::make_unique<Load>(*this, std::move(token)));
  }
  void flush(const tarn::FlushRequest<Traits>& request, FlushToken token) {
    auto& file = files_[*request.file];
    {
      std::lock_guard lock{file.mutex};
      if (std::exchange(file.flushing, true)) complain("two flushes of one file at a time");
      if (request.generation <= file.generation) complain("a generation that does not rise");
      if (file.text.size() > request.store_size_bound_bytes) complain("the store has bytes past the bound");
      file.generation = request.generation;
    }
    take(std::make_unique<Flush>(*this, std::move(token)));
  }
  void sync(const tarn::SyncRequest<Traits>&, SyncToken token) {
    take(std::make_unique<Sync>(*this, std::move(token)));
  }
  [[nodiscard]] tarn::Result<> remove(std::uint64_t id) {
    put(id, {});
    return {};
  }

  // ---- what it has done

  struct Counts {
    std::atomic<std::uint64_t> answers{0}, loads{0}, flushes{0}, syncs{0}, inline_answers{0}, out_of_order{0}, hangs{0};
    std::atomic<std::uint64_t> failed_loads{0}, failed_flushes{0}, unsure_flushes{0}, failed_syncs{0}, dropped{0};
    std::atomic<std::uint64_t> stored_chunkfuls{
        0};  // flushes with data that ended well: each made a chunk clean at least
  };
  [[nodiscard]] const Counts& counts() const { return counts_; }
  [[nodiscard]] std::uint64_t troubles() const {
    return counts_.failed_loads + counts_.failed_flushes + counts_.unsure_flushes + counts_.failed_syncs +
           counts_.dropped;
  }
  /// For how long it has hung by now, in all.
  [[nodiscard]] std::int64_t hung_ns() {
    std::lock_guard lock{mutex_};
    return hung_ns_ + (hang_end_ns_ != 0 ? now_ns() - hang_began_ns_ : 0);
  }
  /// What is going on, for who wonders why nothing does.
  [[nodiscard]] std::string state() {
    std::lock_guard lock{mutex_};
    return std::to_string(asked_.size()) + " asked, " + std::to_string(answering_) + " being answered" +
           (hang_end_ns_ != 0 ? ", hanging" : "");
  }
  /// What tarn did that it promised not to do; empty if all is well.
  [[nodiscard]] std::string complaints() {
    std::lock_guard lock{complaints_mutex_};
    return complaints_;
  }
  void complain(const char* what) {
    std::lock_guard lock{complaints_mutex_};
    if (complaints_.size() < 1000) (complaints_ += what) += '\n';
  }

  [[nodiscard]] static std::int64_t now_ns() { return tarn::SteadyTime{}.now_ns(); }

 private:
  enum class Fate : std::uint8_t { well, fails, unsure, dropped };
  enum class Extent : std::uint8_t { all, half, nothing };
  struct Plan {
    Fate fate = Fate::well;
    Extent does = Extent::all;  // of what ends otherwise than well
    bool acts_when_asked = true, durable = true;
  };
  struct File {
    std::mutex mutex;
    std::string text;
    std::uint64_t generation = 0;
    bool flushing = false;
  };

  // Something asked. act, then answer, each once.
  class Asked {
   public:
    explicit Asked(ChaosStore& by) : store{by} {}
    virtual ~Asked() = default;
    virtual void act() = 0;
    virtual void answer() = 0;

    ChaosStore& store;
    Plan plan;
  };
  class Load final : public Asked {
   public:
    Load(ChaosStore& by, LoadToken its_token) : Asked{by}, token{std::move(its_token)} {}
    void act() override {
      const auto& request = token.request();
      auto& file = this->store.files_[*request.file];
      std::lock_guard lock{file.mutex};
      // Cut off since it was asked for: the read that wanted it looks again, and this error is nobody's.
      there = request.range.end() <= file.text.size();
      if (!there) return;
      request.into.copy_from(bytes_of(file.text).subspan(static_cast<std::size_t>(request.range.offset()),
                                                         static_cast<std::size_t>(request.range.size_bytes())));
    }
    void answer() override {
      auto& counts = this->store.counts_;
      ++counts.loads;
      const auto size_bytes = token.request().into.size_bytes();
      if (this->plan.fate == Fate::dropped) {
        ++counts.dropped;
        const auto dropped = std::move(token);
      } else if (this->plan.fate == Fate::well) {
        token.complete(there ? tarn::Result<std::size_t>{size_bytes} : tarn::fail(std::errc::bad_address));
      } else {
        ++counts.failed_loads;
        token.complete(this->plan.fate == Fate::unsure ? tarn::Result<std::size_t>{size_bytes - 1}
                                                       : tarn::fail(load_error));
      }
    }

   private:
    LoadToken token;
    bool there = false;
  };
  class Flush final : public Asked {
   public:
    Flush(ChaosStore& by, FlushToken its_token) : Asked{by}, token{std::move(its_token)} {}
    void act() override {
      if (this->plan.does == Extent::nothing) return;
      const auto& request = token.request();
      auto& file = this->store.files_[*request.file];
      std::lock_guard lock{file.mutex};
      file.text.resize(static_cast<std::size_t>(request.size_bytes));
      auto left = this->plan.does == Extent::half ? request.ranges.size() / 2 : SIZE_MAX;
      request.for_each_piece([&](std::uint64_t offset, std::span<const std::byte> bytes, bool) {
        if (left == 0) return;
        --left;
        if (offset + bytes.size() > file.text.size()) return this->store.complain("a flush past the size that it sets");
        file.text.replace(static_cast<std::size_t>(offset), bytes.size(), text_of(bytes));
      });
    }
    void answer() override {
      auto& counts = this->store.counts_;
      ++counts.flushes;
      const auto& request = token.request();
      if (this->plan.fate == Fate::well && !request.data.empty()) ++counts.stored_chunkfuls;
      {
        auto& file = this->store.files_[*request.file];
        std::lock_guard lock{file.mutex};
        file.flushing = false;
      }
      if (this->plan.fate == Fate::well) {
        token.complete(this->plan.durable ? Outcome::durable() : Outcome::stored());
      } else if (this->plan.fate == Fate::fails) {
        ++counts.failed_flushes;
        token.complete(Outcome::failed(std::make_error_code(flush_error)));
      } else if (this->plan.fate == Fate::unsure) {
        ++counts.unsure_flushes;
        token.complete(Outcome::unknown(std::make_error_code(unsure_error)));
      } else {
        ++counts.dropped;
        const auto dropped = std::move(token);
      }
    }

   private:
    FlushToken token;
  };
  class Sync final : public Asked {
   public:
    Sync(ChaosStore& by, SyncToken its_token) : Asked{by}, token{std::move(its_token)} {}
    void act() override {}
    void answer() override {
      auto& counts = this->store.counts_;
      ++counts.syncs;
      if (this->plan.fate == Fate::dropped) {
        ++counts.dropped;
        const auto dropped = std::move(token);
      } else if (this->plan.fate == Fate::well) {
        token.complete({});
      } else {
        ++counts.failed_syncs;
        token.complete(tarn::fail(sync_error));
      }
    }

   private:
    SyncToken token;
  };

  void take(std::unique_ptr<Asked> asked) {
    bool at_once = false;
    {
      std::lock_guard lock{mutex_};
      asked->plan = draw_plan();
      at_once = hang_end_ns_ == 0 && one_in(options_.answers_inline);
    }
    if (asked->plan.acts_when_asked || at_once) asked->act();
    if (at_once) {
      ++counts_.inline_answers;
      finish(*asked);
      return;
    }
    {
      std::lock_guard lock{mutex_};
      asked_.push_back(std::move(asked));
    }
    changed_.notify_one();
  }
  void finish(Asked& asked) {
    asked.answer();
    ++counts_.answers;
  }

  void serve() {
    std::unique_lock lock{mutex_};
    for (;;) {
      if (asked_.empty()) {
        if (stopped_) return;
        changed_.wait(lock);
      } else if (hangs()) {
        changed_.wait_for(lock, std::chrono::nanoseconds{hang_end_ns_ - now_ns()});
      } else {
        const auto index = static_cast<std::size_t>(random_.below(asked_.size()));
        if (index != 0) ++counts_.out_of_order;
        auto asked = std::move(asked_[index]);
        asked_.erase(asked_.begin() + static_cast<std::ptrdiff_t>(index));
        ++answering_;
        lock.unlock();
        if (!asked->plan.acts_when_asked) asked->act();
        finish(*asked);
        asked.reset();
        lock.lock();
        if (--answering_ == 0 && asked_.empty()) idle_.notify_all();
      }
    }
  }

  // Requires, as all that follows: mutex_.
  [[nodiscard]] bool hangs() {
    const auto now = now_ns();
    if (hang_end_ns_ != 0 && now >= hang_end_ns_) {
      end_hang();
      changed_.notify_all();
    }
    if (!calm_ && hang_end_ns_ == 0 && now >= next_hang_ns_) {
      ++counts_.hangs;
      hang_began_ns_ = now;
      const auto spread_ns = static_cast<std::uint64_t>(options_.hangs_for_ns_max - options_.hangs_for_ns_min);
      hang_end_ns_ = now + options_.hangs_for_ns_min + static_cast<std::int64_t>(random_.below(spread_ns + 1));
    }
    return hang_end_ns_ != 0;
  }
  void end_hang() {
    if (hang_end_ns_ == 0) return;
    const auto now = now_ns();
    hung_ns_ += now - hang_began_ns_;
    hang_end_ns_ = 0;
    next_hang_ns_ = now + draw_pause_ns();
  }
  [[nodiscard]] std::int64_t draw_pause_ns() {
    return static_cast<std::int64_t>(random_.below(static_cast<std::uint64_t>(options_.hangs_after_ns_max) + 1));
  }
  [[nodiscard]] bool one_in(std::uint64_t n) { return n != 0 && random_.one_in(n); }
  [[nodiscard]] Plan draw_plan() {
    Plan plan;
    plan.acts_when_asked = one_in(2);
    plan.durable = one_in(4);
    if (calm_) return plan;
    plan.fate = one_in(options_.fails)       ? Fate::fails
                : one_in(options_.is_unsure) ? Fate::unsure
                : one_in(options_.drops)     ? Fate::dropped
                                             : Fate::well;
    if (plan.fate != Fate::well) plan.does = static_cast<Extent>(random_.below(3));
    return plan;
  }

  const ChaosOptions options_;
  std::vector<File> files_;
  Counts counts_;
  std::mutex complaints_mutex_;
  std::string complaints_;

  std::mutex mutex_;  // guards what follows
  std::condition_variable changed_, idle_;
  ModelRandom random_;
  std::vector<std::unique_ptr<Asked>> asked_;
  std::size_t answering_ = 0;
  std::int64_t next_hang_ns_, hang_began_ns_ = 0, hang_end_ns_ = 0, hung_ns_ = 0;  // hang_end_ns_ 0: it does not hang
  bool calm_ = false, stopped_ = false;
  std::thread threads_[2];
};

}  // namespace tarn_test
