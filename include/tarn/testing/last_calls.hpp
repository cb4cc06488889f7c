// SPDX-License-Identifier: MIT
#pragma once

// What a long random run says when it goes wrong: what was wrong, the step, and the last calls.
//
// Thread safety: every call from any thread.

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <system_error>

#include <tarn/byte_range.hpp>

namespace tarn::testing {

class LastCalls {
 public:
  /// A call on one of the files, or one that the store was asked because of it.
  struct Call {
    const char* what;
    std::size_t file;
    ByteRange range;
    bool by_store = false;
    std::optional<std::uint64_t> size_bytes = {};  ///< the size that it sets
  };
  using Number = std::uint64_t;

  /// What is noted from now on belongs to this step.
  void begin_step(std::uint64_t step) {
    std::lock_guard lock{mutex_};
    step_ = step;
  }
  /// Notes a call before it is made. Returns: its number, for came_to.
  Number note(const Call& call) {
    std::lock_guard lock{mutex_};
    kept_[count_ % kept_.size()] = {step_, call, {}};
    return count_++;
  }
  void came_to(Number number, std::string result) {
    std::lock_guard lock{mutex_};
    if (count_ - number <= kept_.size()) kept_[number % kept_.size()].result = std::move(result);
  }

  /// Keeps what is wrong, and the step and the calls up to here. The first of it: what follows comes of that.
  void say_wrong(const std::string& what) {
    std::lock_guard lock{mutex_};
    if (!wrong_.empty()) return;
    wrong_ = what + "\n  step " + std::to_string(step_) +
             "; the last calls (step, file, call: result; further in, what the store was asked):\n" + text();
  }
  [[nodiscard]] bool is_wrong() const {
    std::lock_guard lock{mutex_};
    return !wrong_.empty();
  }
  [[nodiscard]] std::string what_is_wrong() const {
    std::lock_guard lock{mutex_};
    return wrong_;
  }

 private:
  struct Kept {
    std::uint64_t step;
    Call call;
    std::string result;
  };
  // A line each, oldest first. Requires: mutex_.
  [[nodiscard]] std::string text() const {
    std::string text;
    for (auto i = count_ - std::min<Number>(count_, kept_.size()); i < count_; ++i) {
      const auto& [step, call, result] = kept_[i % kept_.size()];
      text += "    " + std::to_string(step) + (call.by_store ? "     #" : " #") + std::to_string(call.file) + " ";
      text += call.what;
      text += " [" + std::to_string(call.range.offset()) + ", " + std::to_string(call.range.end()) + ")";
      if (call.size_bytes) text += ", size " + std::to_string(*call.size_bytes);
      text += ": " + (result.empty() ? "?" : result) + "\n";
    }
    return text;
  }

  mutable std::mutex mutex_;
  std::array<Kept, 32> kept_{};
  Number count_ = 0;
  std::uint64_t step_ = 0;
  std::string wrong_;
};

}  // namespace tarn::testing
