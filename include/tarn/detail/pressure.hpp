// SPDX-License-Identifier: MIT
#pragma once

// Who can be flushed for room: every DirtyFile with something to store is on its pool's ring, and is asked in turn, so
// that none is spared for ever, and none that has nothing costs a look.
//
// A file lists itself after it has changed, and is taken off when it was asked and has nothing; both look at the
// other's flag after they have set their own (sequentially consistent), so one that has changes is on the ring. A
// member being flushed is kept: leave() waits for it. A flush runs in the thread that wants room, with nothing held.

#include <cstdint>

#include <tarn/detail/ring.hpp>
#include <tarn/detail/sync.hpp>

namespace tarn::detail {

/// What asking for room came to: dirty bytes became clean; the store was asked and will answer later; there was nothing
/// to do, or somebody else is at it; or the store failed.
enum class Flushed : std::uint8_t { some, started, nothing, failed };

/// A file that can be asked to flush some of its dirty bytes.
class Flushable : RingLinks<Flushable> {
 public:
  Flushable() = default;
  Flushable(const Flushable&) = delete;
  Flushable& operator=(const Flushable&) = delete;

  /// Flushes one job, if there is any.
  virtual Flushed flush_for_room() noexcept = 0;
  /// Flushes one job, if anything of it was changed before that time and is not stored since.
  virtual Flushed flush_older_than(std::int64_t ns) noexcept = 0;
  /// Whether anything of it was changed and is not stored since.
  [[nodiscard]] virtual bool has_changes() const noexcept = 0;

 protected:
  ~Flushable() = default;

 private:
  friend class Pressure;
  friend class Ring<Flushable>;
  std::uint32_t users_ = 0;
  Atomic<bool> listed_{false};  // on the ring; changes under Pressure's mutex
};

class Pressure {
 public:
  /// The member has something to store now, perhaps: it takes its place in the ring, last in turn.
  void list(Flushable& member) {
    if (member.listed_.load()) return;
    MutexLock lock{mutex_};
    if (!member.listed_.load()) insert(member);
  }
  /// Blocks: while the member is being flushed for somebody's room.
  void leave(Flushable& member) {
    MutexLock lock{mutex_};
    while (member.users_ != 0) idle_.wait(lock.std_lock());
    if (member.listed_.load()) erase(member);
  }
  /// Asks each member of the ring in turn, by flush(member), once at most, until one has made bytes clean or asked its
  /// store to. Who has nothing left leaves the ring. Returns: failed if none has, and one failed.
  template <class Flush>
  Flushed flush_one(Flush flush) {
    auto worst = Flushed::nothing;
    MutexLock lock{mutex_};
    for (auto left = ring_.count(); left != 0 && !ring_.empty(); --left) {
      auto& member = ring_.first();
      ring_.go_round();
      ++member.users_;
      lock.unlock();
      const auto flushed = flush(member);
      lock.lock();
      if (flushed == Flushed::nothing && member.listed_.load() && !member.has_changes()) {
        erase(member);
        if (member.has_changes()) insert(member);  // changed since: who changed it may have seen it listed
      }
      if (--member.users_ == 0) idle_.notify_all();
      if (flushed == Flushed::some || flushed == Flushed::started) return flushed;
      if (flushed == Flushed::failed) worst = flushed;
    }
    return worst;
  }
  Flushed flush_one() {
    return flush_one([](Flushable& member) { return member.flush_for_room(); });
  }

 private:
  void insert(Flushable& member) TARN_REQUIRES(mutex_) {
    ring_.push(member);
    member.listed_.store(true);
  }
  void erase(Flushable& member) TARN_REQUIRES(mutex_) {
    ring_.take(member);
    member.listed_.store(false);
  }

  CheckedMutex mutex_;
  ConditionVariable idle_;
  Ring<Flushable> ring_ TARN_GUARDED_BY(mutex_);  // the first is next in turn
};

}  // namespace tarn::detail
