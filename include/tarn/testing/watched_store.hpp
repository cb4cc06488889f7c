// SPDX-License-Identifier: MIT
#pragma once

// A store around another one: it passes on what it is asked, has whatever optional calls that one has, and tells a
// watch of every request and of its answer, be that given at once or later.
//
// Thread safety: every call from any thread, as far as the store takes that; the watch is told from whichever thread
// asks or answers, several at once, with nothing held.

#include <condition_variable>
#include <cstddef>
#include <memory>
#include <mutex>
#include <system_error>
#include <type_traits>
#include <utility>

#include <tarn/store.hpp>
#include <tarn/token.hpp>

namespace tarn::testing {

/// A watch derives from it and hides what it wants to hear; none of it may throw. What is asked of a store that throws,
/// or drops its token, is answered by what tarn makes of that.
template <class Traits>
struct StoreWatch {
  void on_load(const LoadRequest<Traits>&) noexcept {}  ///< before the store is asked: `into` may be written to
  void on_load_done(const LoadRequest<Traits>&, const Result<std::size_t>&) noexcept {}
  void on_flush_done(const FlushRequest<Traits>&, const FlushOutcome<Traits>&) noexcept {}
  void on_sync_done(const SyncRequest<Traits>&, const Result<>&) noexcept {}
  void on_remove_done(const typename Traits::FileId&, const Result<>&) noexcept {}
};

/// How many tokens are out.
class TokensOut {
 public:
  void add() {
    std::lock_guard lock{mutex_};
    ++count_;
  }
  void take_away() {
    std::lock_guard lock{mutex_};
    --count_;
    none_.notify_all();
  }
  void wait_for_none() {
    std::unique_lock lock{mutex_};
    none_.wait(lock, [&] { return count_ == 0; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable none_;
  std::size_t count_ = 0;
};

/// What a token of ours tells: tell(request, answer), and then the token that it stands for.
template <class Request, class Answer, class Tell>
class WatchedToken final : public tarn::detail::Requester<Request, Answer> {
 public:
  using Token = tarn::detail::Token<Request, Answer>;

  WatchedToken(Token&& token, std::shared_ptr<TokensOut> out, Tell tell)
      : token_{std::move(token)}, out_{std::move(out)}, tell_{std::move(tell)} {
    out_->add();
  }
  ~WatchedToken() { out_->take_away(); }

  [[nodiscard]] const Request& request(std::size_t) const noexcept override { return token_.request(); }
  void settle(std::size_t, const Answer& answer) noexcept override {
    tell_(token_.request(), answer);
    token_.complete(answer);
  }

 private:
  Token token_;
  const std::shared_ptr<TokensOut> out_;
  Tell tell_;
};

// The calls that a store may have or not. One that it has not must not be there: see store.hpp.
template <int which>
struct WatchedWithout {};
template <class Self, class Traits, class Store>
struct WatchedSync {
  [[nodiscard]] Result<> sync(
      const SyncRequest<Traits>& request) requires tarn::detail::AnswersSyncAtOnce<Store, Traits> {
    auto& self = static_cast<Self&>(*this);
    return self.template answer<Result<>>(
        request, [&]() -> Result<> { return self.store().sync(request); },
        [](std::error_code why) { return Result<>{fail(why)}; });
  }
  void sync(const SyncRequest<Traits>& request,
            SyncToken<Traits> token) requires tarn::detail::AnswersSyncLater<Store, Traits> {
    auto& self = static_cast<Self&>(*this);
    self.store().sync(request, self.watched(std::move(token)));
  }
};
template <class Self, class Traits, class Store>
struct WatchedReserve {
  [[nodiscard]] Result<> reserve(const ReserveRequest<Traits>& request) {
    return static_cast<Self&>(*this).store().reserve(request);
  }
};
template <class Self, class Store>
struct WatchedFlushesAtOnce {
  [[nodiscard]] std::size_t flushes_at_once() noexcept { return static_cast<Self&>(*this).store().flushes_at_once(); }
};
template <class Store>
struct WatchedLoadUnit {
  static constexpr LoadUnit load_unit = tarn::detail::load_unit_of<Store>();
};
template <class Store>
struct WatchedFlushUnit {
  static constexpr FlushUnit flush_unit = tarn::detail::flush_unit_of<Store>();
};

/// A ChunkStore<Traits> if `Store` is one. Requires: the store and the watch outlive it, and every token of the store.
template <class Traits, class Store, class Watch>
class WatchedStore
    : public std::conditional_t<tarn::detail::Syncs<Store, Traits>,
                                WatchedSync<WatchedStore<Traits, Store, Watch>, Traits, Store>, WatchedWithout<0>>,
      public std::conditional_t<tarn::detail::Reserves<Store, Traits>,
                                WatchedReserve<WatchedStore<Traits, Store, Watch>, Traits, Store>, WatchedWithout<1>>,
      public std::conditional_t<tarn::detail::FlushesAtOnce<Store, Traits>,
                                WatchedFlushesAtOnce<WatchedStore<Traits, Store, Watch>, Store>, WatchedWithout<2>>,
      public std::conditional_t<tarn::detail::HasLoadUnit<Store>, WatchedLoadUnit<Store>, WatchedWithout<3>>,
      public std::conditional_t<tarn::detail::HasFlushUnit<Store>, WatchedFlushUnit<Store>, WatchedWithout<4>> {
  static_assert(tarn::detail::check_store<Store, Traits>());

 public:
  using FileId = typename Traits::FileId;

  WatchedStore(Store& store, Watch& watch) : store_{store}, watch_{watch} {}

  /// Waits until every token that the store was given has been answered, and whoever answered the last one has left
  /// tarn: so that what the tokens belong to may go. Requires: nobody asks meanwhile.
  void wait_until_idle() { out_->wait_for_none(); }
  [[nodiscard]] Store& store() { return store_; }

  [[nodiscard]] Result<std::size_t> load(
      const LoadRequest<Traits>& request) requires tarn::detail::AnswersLoadAtOnce<Store, Traits> {
    watch_.on_load(request);
    return answer<Result<std::size_t>>(
        request, [&]() -> Result<std::size_t> { return store_.load(request); },
        [](std::error_code why) { return Result<std::size_t>{fail(why)}; });
  }
  void load(const LoadRequest<Traits>& request,
            LoadToken<Traits> token) requires tarn::detail::AnswersLoadLater<Store, Traits> {
    watch_.on_load(request);
    store_.load(request, watched(std::move(token)));
  }
  [[nodiscard]] FlushOutcome<Traits> flush(
      const FlushRequest<Traits>& request) requires tarn::detail::AnswersFlushAtOnce<Store, Traits> {
    return answer<FlushOutcome<Traits>>(
        request, [&]() -> FlushOutcome<Traits> { return store_.flush(request); },
        [](std::error_code why) { return FlushOutcome<Traits>::failed(why); });
  }
  void flush(const FlushRequest<Traits>& request,
             FlushToken<Traits> token) requires tarn::detail::AnswersFlushLater<Store, Traits> {
    store_.flush(request, watched(std::move(token)));
  }
  [[nodiscard]] Result<> remove(const FileId& id) {
    return answer<Result<>>(
        id, [&]() -> Result<> { return store_.remove(id); }, [](std::error_code why) { return Result<>{fail(why)}; });
  }

  // ---- for its parts

  /// What ask() answers, told; what it throws, told as on_throw(code) and passed on.
  template <class Answer, class Request, class Ask, class OnThrow>
  [[nodiscard]] Answer answer(const Request& request, Ask ask, OnThrow on_throw) {
    try {
      Answer answered = ask();
      tell(request, answered);
      return answered;
    } catch (...) {
      tell(request, on_throw(tarn::detail::current_exception_code()));
      throw;
    }
  }
  /// A token that tells what it is answered.
  template <class Request, class Answer>
  [[nodiscard]] tarn::detail::Token<Request, Answer> watched(tarn::detail::Token<Request, Answer> token) {
    const auto told = [this](const Request& request, const Answer& answered) { tell(request, answered); };
    return {std::make_shared<WatchedToken<Request, Answer, decltype(told)>>(std::move(token), out_, told), 0};
  }

 private:
  void tell(const LoadRequest<Traits>& request, const Result<std::size_t>& answered) {
    watch_.on_load_done(request, answered);
  }
  void tell(const FlushRequest<Traits>& request, const FlushOutcome<Traits>& outcome) {
    watch_.on_flush_done(request, outcome);
  }
  void tell(const SyncRequest<Traits>& request, const Result<>& answered) { watch_.on_sync_done(request, answered); }
  void tell(const FileId& id, const Result<>& answered) { watch_.on_remove_done(id, answered); }

  Store& store_;
  Watch& watch_;
  const std::shared_ptr<TokensOut> out_ = std::make_shared<TokensOut>();
};

}  // namespace tarn::testing
