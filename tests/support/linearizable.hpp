// SPDX-License-Identifier: MIT
#pragma once

// Whether calls that overlapped can be put in one order: a history of calls on one small file, each with what it
// answered and when it was called and returned, and a search for an order that explains every answer.
//
// A history is linearizable (Herlihy and Wing, "Linearizability: a correctness condition for concurrent objects", 1990)
// if every call can be taken to happen at one moment between its call and its return. The search takes, one after the
// other, each call that no other one must come before, and goes back where an answer does not fit (Wing and Gong,
// "Testing and verifying concurrent objects", 1993). What was reached once, the same calls done and the same bytes
// left, is not searched again (Lowe, "Testing for linearizability", 2017).
//
// Thread safety: none.

#include <algorithm>
#include <array>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <unordered_set>
#include <utility>
#include <vector>

namespace tarn_test {

/// A call on a file, with its answer. Stamps are from one counter that all threads add to.
struct FileCall {
  enum class Kind : std::uint8_t { read, write, append, truncate, punch, size };

  Kind kind = Kind::read;
  std::uint64_t offset = 0;      ///< of an append: where the bytes went
  std::uint64_t size_bytes = 0;  ///< asked by a read, set by a truncate, punched, or answered by a size
  std::string bytes{};           ///< answered by a read, or taken in by a write or append
  std::uint64_t called = 0, returned = 0;
  bool goes_on = false;  ///< the next window of the call before it in the history

  [[nodiscard]] bool overlaps(const FileCall& other) const {
    return called < other.returned && other.called < returned;
  }
  [[nodiscard]] bool changes() const { return kind != Kind::read && kind != Kind::size; }
};

[[nodiscard]] inline std::string describe(const FileCall& call) {
  static constexpr std::array names{"read", "write", "append", "truncate", "punch", "size"};
  static constexpr auto digits = "0123456789abcdef";
  const auto text = std::to_string(call.called) + ".." + std::to_string(call.returned) +
                    (call.goes_on ? " and " : " ") + names[static_cast<std::size_t>(call.kind)];
  std::string hex;
  for (const char byte : call.bytes) {
    const auto value = static_cast<unsigned char>(byte);
    (hex += digits[value / 16]) += digits[value % 16];
  }
  const auto offset = std::to_string(call.offset), size = std::to_string(call.size_bytes);
  switch (call.kind) {
    case FileCall::Kind::read:
      return text + '(' + offset + ", " + size + ") -> " + std::to_string(call.bytes.size()) + ": " + hex;
    case FileCall::Kind::write:
      return text + '(' + offset + ", " + hex + ')';
    case FileCall::Kind::append:
      return text + '(' + hex + ") -> at " + offset;
    case FileCall::Kind::truncate:
      return text + '(' + size + ')';
    case FileCall::Kind::punch:
      return text + '(' + offset + ", " + size + ')';
    default:
      return text + " -> " + size;
  }
}

/// The history with each call that is longer than a window as one call for each window: anywhere within the call's
/// time, in ascending order. A read has none after the one that met the end.
[[nodiscard]] inline std::vector<FileCall> cut_in_windows(std::span<const FileCall> calls, std::uint64_t window_bytes) {
  std::vector<FileCall> cut;
  for (const auto& call : calls) {
    const bool reads = call.kind == FileCall::Kind::read;
    const bool copies = reads || call.kind == FileCall::Kind::write || call.kind == FileCall::Kind::append;
    const std::uint64_t size_bytes = reads ? call.size_bytes : call.bytes.size();
    if (!copies || size_bytes <= window_bytes) {
      cut.push_back(call);
      continue;
    }
    for (std::uint64_t done = 0; done < size_bytes; done += window_bytes) {
      auto piece = call;
      piece.offset += done;
      piece.size_bytes = std::min(window_bytes, size_bytes - done);
      piece.bytes = call.bytes.substr(static_cast<std::size_t>(done), static_cast<std::size_t>(piece.size_bytes));
      piece.goes_on = done != 0;
      if (piece.goes_on && !reads) piece.kind = FileCall::Kind::write;  // of an append: where the first window said
      cut.push_back(piece);
      if (piece.bytes.size() < piece.size_bytes) break;
    }
  }
  return cut;
}

/// Looks for an order of the calls of a history, as it was known right after one of its stamps: an answer that came
/// later is not known, and its call may or may not have happened.
class OrderSearch {
 public:
  static constexpr std::size_t max_calls = 64;

  OrderSearch(std::span<const FileCall> calls, std::uint64_t until) : calls_{calls}, before_(calls.size()) {
    assert(calls.size() <= max_calls);
    for (std::size_t i = 0; i < calls.size(); ++i) {
      const auto& call = calls[i];
      assert(call.called < call.returned);
      const bool answered = call.returned <= until;
      if (answered) must_ |= bit(i);
      if (answered || (call.called <= until && call.changes())) may_ |= bit(i);
      for (std::size_t j = 0; j < calls.size(); ++j) {
        if (calls[j].returned < call.called) before_[i] |= bit(j);
      }
      if (call.goes_on) before_[i] |= bit(i - 1);
    }
  }
  /// Whether there is an order for a file of these bytes.
  [[nodiscard]] bool finds(std::string_view start) {
    reached_.clear();
    return go_on(0, std::string{start});
  }

 private:
  using Set = std::uint64_t;  // of calls
  static Set bit(std::size_t call) { return Set{1} << call; }

  [[nodiscard]] bool go_on(Set done, const std::string& bytes) {
    if ((done & must_) == must_) return true;
    if (!reached_.insert(std::to_string(done) + ' ' + bytes).second) return false;
    for (std::size_t i = 0; i < calls_.size(); ++i) {
      if ((may_ & ~done & bit(i)) == 0 || (before_[i] & ~done) != 0) continue;
      auto after = bytes;
      if (happens(calls_[i], (must_ & bit(i)) != 0, after) && go_on(done | bit(i), after)) return true;
    }
    return false;
  }
  // Does the call to the bytes. Returns: whether that explains its answer, if it is known.
  [[nodiscard]] static bool happens(const FileCall& call, bool answered, std::string& bytes) {
    const auto offset = static_cast<std::size_t>(call.offset), size = static_cast<std::size_t>(call.size_bytes);
    switch (call.kind) {
      case FileCall::Kind::read:
        return call.bytes == (offset < bytes.size() ? bytes.substr(offset, size) : std::string{});
      case FileCall::Kind::write:
        if (!call.bytes.empty()) bytes.resize(std::max(bytes.size(), offset + call.bytes.size()), '\0');
        bytes.replace(std::min(offset, bytes.size()), call.bytes.size(), call.bytes);
        return true;
      case FileCall::Kind::append:
        if (answered && bytes.size() != offset) return false;
        bytes += call.bytes;
        return true;
      case FileCall::Kind::truncate:
        bytes.resize(size, '\0');
        return true;
      case FileCall::Kind::punch:
        for (auto at = offset; at < std::min(bytes.size(), offset + size); ++at) bytes[at] = '\0';
        return true;
      default:
        return bytes.size() == size;
    }
  }

  const std::span<const FileCall> calls_;
  std::vector<Set> before_;  // which calls must come before each
  Set must_ = 0, may_ = 0;   // be explained, and have happened
  std::unordered_set<std::string> reached_;
};

/// Returns: nothing if some order of the calls explains every answer, for a file that had the bytes `start`; else which
///          is the first answer that none explains, and the history.
/// Requires: OrderSearch::max_calls calls at most.
[[nodiscard]] inline std::string unexplained(std::string_view start, std::span<const FileCall> calls) {
  if (OrderSearch{calls, UINT64_MAX}.finds(start)) return {};
  std::vector<const FileCall*> by_return;
  for (const auto& call : calls) by_return.push_back(&call);
  std::ranges::stable_sort(by_return, {}, &FileCall::returned);
  const auto first = std::ranges::find_if(by_return, [&](const auto* call) {
    return !OrderSearch{calls, call->returned}.finds(start);
  });
  assert(first != by_return.end());
  std::string text = "no order explains " + describe(**first) + "\n  from " +
                     describe({.size_bytes = start.size(), .bytes = std::string{start}});
  for (const auto& call : calls) text += "\n  " + describe(call);
  return text;
}

}  // namespace tarn_test
