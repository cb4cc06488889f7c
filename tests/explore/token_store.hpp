// SPDX-License-Identifier: MIT
#pragma once

// A store of one file for the explorer, as text: it answers at once, or keeps one token of each kind till a thread that
// waits for it takes it. What is asked for by content id is the first letter of that, everywhere. A request for the
// file's own bytes is answered with those that the store has then.
//
// Thread safety: loads, flushes and answers from any thread; `text` and the counts are looked at in the end.

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include <tarn/store.hpp>

namespace tarn_test {

template <class Traits>
struct TokenStore {
  using LoadToken = tarn::LoadToken<Traits>;
  using FlushToken = tarn::FlushToken<Traits>;
  using SyncToken = tarn::SyncToken<Traits>;

  std::string text;
  bool at_once = false;
  int loads = 0, flushes = 0;

  tarn::detail::Mutex mutex{};
  tarn::detail::ConditionVariable asked{};
  std::optional<LoadToken> loading{};
  std::optional<FlushToken> flushing{};
  std::optional<SyncToken> syncing{};

  void load(const tarn::LoadRequest<Traits>& request, LoadToken token) {
    if (!keeps(loading, token, &loads)) fill(request, token);
  }
  void flush(const tarn::FlushRequest<Traits>& request, FlushToken token) {
    if (!keeps(flushing, token, &flushes)) store(request, token);
  }
  void sync(const tarn::SyncRequest<Traits>&, SyncToken token) {
    if (!keeps(syncing, token, nullptr)) (void)token.complete({});
  }
  tarn::Result<> remove(const std::uint64_t&) {
    const std::lock_guard lock{mutex};
    text.clear();
    return {};
  }

  /// Waits to be asked, and answers as a store does that has the bytes, or stores them; whoever asks from then on is
  /// answered at once.
  void answer_load() {
    auto token = take(loading, true);
    fill(token.request(), token);
  }
  void answer_flush() {
    auto token = take(flushing, true);
    store(token.request(), token);
  }
  template <class Token>
  [[nodiscard]] Token take(std::optional<Token>& place, bool then_at_once = false) {
    std::unique_lock lock{mutex};
    asked.wait(lock, [&] { return place.has_value(); });
    auto token = std::move(*place);
    place.reset();
    at_once = at_once || then_at_once;
    return token;
  }

 private:
  template <class Token>
  [[nodiscard]] bool keeps(std::optional<Token>& place, Token& token, int* count) {
    const std::lock_guard lock{mutex};
    if (count != nullptr) ++*count;
    if (at_once) return false;
    place.emplace(std::move(token));
    asked.notify_all();
    return true;
  }
  void fill(const tarn::LoadRequest<Traits>& request, LoadToken& token) {
    const auto size = static_cast<std::size_t>(request.range.size_bytes());
    std::string bytes;
    if (request.content != nullptr) {
      bytes.assign(size, static_cast<char>(request.content->bytes[0]));
    } else {
      const std::lock_guard lock{mutex};
      const auto at = static_cast<std::size_t>(request.range.offset());
      if (at + size <= text.size()) bytes = text.substr(at, size);
    }
    (void)(bytes.empty() ? token.complete(tarn::fail(std::errc::io_error))
                         : token.complete(request.into.copy_from(std::as_bytes(std::span{bytes}))));
  }
  void store(const tarn::FlushRequest<Traits>& request, FlushToken& token) {
    {
      const std::lock_guard lock{mutex};
      text.resize(static_cast<std::size_t>(request.size_bytes), '\0');
      request.for_each_piece([&](std::uint64_t at, std::span<const std::byte> bytes, bool) {
        text.replace(static_cast<std::size_t>(at), bytes.size(), reinterpret_cast<const char*>(bytes.data()),
                     bytes.size());
      });
    }
    (void)token.complete(tarn::FlushOutcome<Traits>::stored());
  }
};

}  // namespace tarn_test
