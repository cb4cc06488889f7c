// SPDX-License-Identifier: MIT
#pragma once

// What a store that answers later is given: the right, and the duty, to say once what became of a load, a flush or a
// sync.
//
// A store is asynchronous if its load, flush or sync takes a token beside the request and returns nothing:
//
//   void load(const LoadRequest<Traits>& request, LoadToken<Traits> token);
//   void flush(const FlushRequest<Traits>& request, FlushToken<Traits> token);
//   void sync(const SyncRequest<Traits>& request, SyncToken<Traits> token);
//
// It completes the token at once, later, from any thread. The request and all that it points at (the memory to fill or
// to read, too) live as long as the token, whatever happens to the file meanwhile. A token that is dropped counts as an
// answer: a load or a sync has failed (EIO), a flush is of unknown fate. One that is kept for ever keeps its memory for
// ever, and whoever waits for it, waits to his deadline.
//
// Completing a token runs what waits for it, and so does dropping one: completions of the embedder's, which may call
// the store again. So do neither under a lock of the store's, nor in the middle of a change of the container that has
// the tokens: `queue.clear()` drops them while the vector is being cleared. Move them out first.
//
// Thread safety: one thread at a time; it may move between threads. Must not outlive the pool.

#include <cassert>
#include <cstddef>
#include <memory>
#include <system_error>
#include <utility>

#include <tarn/detail/waiter.hpp>
#include <tarn/result.hpp>
#include <tarn/store_request.hpp>

namespace tarn {
namespace detail {

/// What is told of the end of a request.
template <class Request, class Answer>
class Requester {
 public:
  [[nodiscard]] virtual const Request& request(std::size_t index) const noexcept = 0;
  virtual void settle(std::size_t index, const Answer& answer) noexcept = 0;

 protected:
  ~Requester() = default;
};

template <class Request, class Answer>
class Token {
 public:
  Token(std::shared_ptr<Requester<Request, Answer>> requester, std::size_t index)
      : requester_{std::move(requester)}, index_{index} {}
  Token(Token&& other) noexcept = default;
  Token& operator=(Token&& other) noexcept {
    if (this != &other) {
      drop();
      requester_ = std::move(other.requester_);
      index_ = other.index_;
    }
    return *this;
  }
  ~Token() { drop(); }

  /// What was asked. Requires: not completed yet; lives until then.
  [[nodiscard]] const Request& request() const noexcept {
    assert(requester_ != nullptr && "a token is asked for its request after it was completed");
    return requester_->request(index_);
  }

  /// Says what became of it. What waits for that goes on in this thread, before complete returns, unless this is a call
  /// of the store by tarn.
  /// Returns: false, and nothing happens, if it was said before.
  /// Blocks:  for as long as views and copies of the same chunks take.
  bool complete(const Answer& answer) noexcept {
    const Resumer resumer;
    const auto requester = std::exchange(requester_, nullptr);
    if (requester == nullptr) return false;
    requester->settle(index_, answer);
    return true;
  }

 private:
  void drop() noexcept;

  std::shared_ptr<Requester<Request, Answer>> requester_;
  std::size_t index_;
};

template <class Traits>
[[nodiscard]] Result<std::size_t> answer_of_dropped(const LoadRequest<Traits>&) {
  return fail(std::errc::io_error);
}
template <class Traits>
[[nodiscard]] FlushOutcome<Traits> answer_of_dropped(const FlushRequest<Traits>&) {
  return FlushOutcome<Traits>::unknown(std::make_error_code(std::errc::io_error));
}

template <class Traits>
[[nodiscard]] Result<> answer_of_dropped(const SyncRequest<Traits>&) {
  return fail(std::errc::io_error);
}

template <class Request, class Answer>
void Token<Request, Answer>::drop() noexcept {
  if (requester_ != nullptr) complete(answer_of_dropped(request()));
}

}  // namespace detail

template <class Traits>
using LoadToken = detail::Token<LoadRequest<Traits>, Result<std::size_t>>;
template <class Traits>
using FlushToken = detail::Token<FlushRequest<Traits>, FlushOutcome<Traits>>;
template <class Traits>
using SyncToken = detail::Token<SyncRequest<Traits>, Result<>>;

}  // namespace tarn
