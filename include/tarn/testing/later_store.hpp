// SPDX-License-Identifier: MIT
#pragma once

// A store that answers when the test says: it keeps the tokens, and a MemoryStore behind it has the bytes.
//
//   start_read(file, 0, into, done);
//   REQUIRE(store.open_loads() == 1);
//   write(file, "newer");
//   store.finish_load();  // done is called here; take_load() instead, and the test answers what it likes
//
// Thread safety: every call from any thread. What waits for a token goes on in the thread that finishes it.
// Requires:      no token is left when the pool goes: finish them all, or take and drop them.

#include <cstddef>
#include <cstdint>
#include <deque>
#include <mutex>
#include <optional>
#include <utility>

#include <tarn/store.hpp>

#include <tarn/testing/memory_store.hpp>

namespace tarn::testing {

/// A ChunkStore<Traits>, of loads and flushes by token; what it does wrong, its `memory` is told.
template <class Traits>
class LaterStore {
 public:
  using LoadToken = tarn::LoadToken<Traits>;
  using FlushToken = tarn::FlushToken<Traits>;

  MemoryStore<Traits> memory;

  /// From now on every request is answered before its call returns.
  void answer_at_once(bool at_once = true) {
    std::lock_guard lock{mutex_};
    at_once_ = at_once;
  }

  void load(const tarn::LoadRequest<Traits>& request, LoadToken token) {
    if (keep(loads_, token)) return;
    token.complete(memory.load(request));
  }
  void flush(const tarn::FlushRequest<Traits>& request, FlushToken token) {
    if (keep(flushes_, token)) return;
    token.complete(memory.flush(request));
  }
  tarn::Result<> remove(const typename Traits::FileId& id) { return memory.remove(id); }
  [[nodiscard]] std::optional<std::uint64_t> size_of(const typename Traits::FileId& id) const {
    return memory.size_of(id);
  }

  /// How many it was asked and has not answered; the first of them has index 0.
  [[nodiscard]] std::size_t open_loads() const { return count(loads_); }
  [[nodiscard]] std::size_t open_flushes() const { return count(flushes_); }
  /// The token and the duty to answer it. Errors: throws out_of_range if there are not so many.
  [[nodiscard]] LoadToken take_load(std::size_t index = 0) { return take(loads_, index); }
  [[nodiscard]] FlushToken take_flush(std::size_t index = 0) { return take(flushes_, index); }
  /// Does what was asked, and says so. Errors: as take.
  void finish_load(std::size_t index = 0) {
    auto token = take_load(index);
    token.complete(memory.load(token.request()));
  }
  void finish_flush(std::size_t index = 0) {
    auto token = take_flush(index);
    token.complete(memory.flush(token.request()));
  }

 private:
  template <class Token>
  [[nodiscard]] bool keep(std::deque<Token>& tokens, Token& token) {
    std::lock_guard lock{mutex_};
    if (at_once_) return false;
    tokens.push_back(std::move(token));
    return true;
  }
  template <class Token>
  [[nodiscard]] Token take(std::deque<Token>& tokens, std::size_t index) {
    std::lock_guard lock{mutex_};
    auto token = std::move(tokens.at(index));
    tokens.erase(tokens.begin() + static_cast<std::ptrdiff_t>(index));
    return token;
  }
  template <class Token>
  [[nodiscard]] std::size_t count(const std::deque<Token>& tokens) const {
    std::lock_guard lock{mutex_};
    return tokens.size();
  }

  mutable std::mutex mutex_;
  bool at_once_ = false;
  std::deque<LoadToken> loads_;
  std::deque<FlushToken> flushes_;
};

}  // namespace tarn::testing
