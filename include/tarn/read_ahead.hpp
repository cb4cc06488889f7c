// SPDX-License-Identifier: MIT
#pragma once

// When to load ahead of a reader, and how far: arithmetic alone, of one opener's reads. What it answers is for
// DirtyFile::load_ahead; an OpenFile has one of these.
//
//   state    next: how far the reader has come; loaded: how far was loaded ahead; window: how far to keep ahead
//   start    a first read at offset 0, or one that begins where the last one ended: the window is min_bytes
//   go on    reads that begin between one window before `next` and `loaded`, so that those of several threads may
//            overtake each other; past the middle of the window it doubles, up to max_bytes, and is filled again
//   forget   a read anywhere else; it may be the first of another run
//
// It does not know what became of what it answered. What did not get loaded costs the reader a load of his own, until
// he is past the middle of that, too.
//
// Thread safety: any thread.

#include <algorithm>
#include <cstdint>

#include <tarn/byte_range.hpp>
#include <tarn/detail/sync.hpp>

namespace tarn {

struct ReadAheadOptions {
  std::uint64_t min_bytes = 128 * KiB;  ///< the first window; that of longer reads is as long as they are
  std::uint64_t max_bytes = 2 * MiB;    ///< the longest one; 0: nothing is loaded ahead
};

class ReadAhead {
 public:
  explicit ReadAhead(const ReadAheadOptions& options = {}) {
    state_.max_bytes = std::min(options.max_bytes, max_offset);
    state_.min_bytes = std::clamp<std::uint64_t>(options.min_bytes, 1, std::max<std::uint64_t>(state_.max_bytes, 1));
  }
  ReadAhead(const ReadAhead& other) : state_{other.state()} {}
  ReadAhead& operator=(const ReadAhead& other) {
    const auto state = other.state();
    detail::MutexLock lock{mutex_};
    state_ = state;
    return *this;
  }

  /// Takes note of a read, which may reach past the end of the file.
  /// Returns: what to load ahead of the next one; it may be empty.
  [[nodiscard]] ByteRange after(ByteRange read) {
    detail::MutexLock lock{mutex_};
    return state_.after(read);
  }

 private:
  struct State {
    std::uint64_t min_bytes = 0, max_bytes = 0;
    std::uint64_t next = 0, loaded = 0;  // next <= loaded, both up to max_offset: no sum of two wraps
    std::uint64_t window = 0;            // 0: no run of reads is seen yet

    [[nodiscard]] ByteRange after(ByteRange read) {
      if (read.empty()) return {};
      if (read.offset() + window < next || read.offset() > loaded) {
        next = loaded = read.end();
        window = 0;
        return {};
      }
      next = std::max(next, read.end());
      loaded = std::max(loaded, next);
      if (window != 0 && loaded - next > window / 2) return {};
      window = std::min(std::max({2 * window, min_bytes, read.size_bytes()}), max_bytes);
      const auto ahead = ByteRange::between(loaded, std::clamp(next + window, loaded, max_offset));
      loaded = ahead.end();
      return ahead;
    }
  };
  [[nodiscard]] State state() const {
    detail::MutexLock lock{mutex_};
    return state_;
  }

  mutable detail::CheckedMutex mutex_;
  State state_ TARN_GUARDED_BY(mutex_);
};

}  // namespace tarn
