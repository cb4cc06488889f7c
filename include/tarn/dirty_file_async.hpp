// SPDX-License-Identifier: MIT
#pragma once

// Reads, writes and flushes of a DirtyFile that wait with no thread: for event loops, thread pools and coroutines.
//
//   tarn::start_read(file, offset, into, [&](tarn::Result<std::size_t> n) { ... });
//
//   auto read = tarn::read_operation(file, offset, into, [&](tarn::Result<std::size_t> n) { ... });
//   read.start();  // `read` must live until the lambda has run. It does not move: new auto(read_operation(...))
//
//   const tarn::Result<std::size_t> n = co_await tarn::async_read(file, offset, into);
//
// An operation goes on where it can: in start(), or in the thread that brought what it waited for (the store's, by its
// token; whoever flushed or freed memory). No executor is chosen: whoever wants another thread posts there. Where
// everything is held it ends inside start() and allocates nothing; start_read and its like take one allocation. With a
// store that answers at once it runs the store in the thread that it is in.
//
// Completion: exactly once, with no lock and no latch held; never nested in another completion of the same thread: an
// operation that is started by a completion begins when that has returned. A completion must not block and must not
// throw. The operation may be destroyed in it.
//
// Waiting: an operation never blocks on a load, a flush or for memory; only, for as long as a copy takes, on latches
// and locks. It has no deadline: a timer of the embedder's calls cancel().
//
// The other calls of a DirtyFile block where they must wait, and a thread that both makes them and completes the
// store's tokens would wait for itself. Those that take CallOptions (append, truncate, punch_hole, zero_range, remove,
// invalidate, rebase, discard_dirty) end by their deadline, but that an append waits for another one, and a remove for
// the store's own, as long as these take. Without a bound wait: the construction of a DirtyFile, and find_or_add of a
// table, for room and for a flush of the id's last file; abandon, and drop, erase_if and clear of a table, for a flush
// in flight; and the end of the last OpenFile of a deleted file, for that and for the store's remove. The thread that
// completes tokens must make none of these.
//
// Thread safety: start once. cancel from any thread, any time while the operation lives; also after its completion,
//                when it does nothing.

#include <cassert>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <stop_token>
#include <system_error>
#include <type_traits>
#include <utility>
#ifdef __cpp_impl_coroutine
#include <coroutine>
#endif

#include <tarn/dirty_file.hpp>

namespace tarn {

/// A call under way, or about to be. Does not move; lives until its completion has run.
/// `Make` makes the call's steps (see detail/waiting.hpp), `Done` takes the call's Result.
template <class Make, class Done>
class Operation final : private detail::Waiter {
 public:
  using Call = std::invoke_result_t<Make&>;
  using Answer = typename Call::Answer;
  using Traits = typename Call::Traits;

  Operation(Make make, Done done) : make_{std::move(make)}, done_{std::move(done)}, call_(make_()) {}
  /// Requires: never started, or completed.
  ~Operation() {
    assert(!started_ && "an operation is destroyed before its completion");
    if (has_call_) call_.~Call();
  }

  /// Begins. Requires: not started before.
  void start() noexcept {
    assert(has_call_ && !started_ && "an operation is started twice");
    const detail::Resumer resumer;
    started_ = true;
    make_.count(true);
    detail::Resumer::push(*this);
  }
  /// Asks it to end soon: with ECANCELED, if it would have to wait. What has been asked of a store goes on, and serves
  /// others. It may complete inside this call.
  void cancel() noexcept {
    const detail::Resumer resumer;
    cancelled_.store(true);
    // Either it sees the flag before it parks, or we see where it is parked.
    const auto* const word = parked_at_.load();
    if (word != nullptr && make_.core().parking.withdraw(word, *this)) detail::Resumer::push(*this);
  }

 private:
  void resume() noexcept override {
    for (;;) {
      auto progress = detail::Progress::done;
      std::error_code why;
      try {
        progress = call_.step();
      } catch (...) {
        why = detail::current_exception_code();
      }
      if (why) return complete(fail(why));
      if (progress == detail::Progress::done) return complete(call_.take_result());
      if (cancelled_.load()) {
        return complete(call_.give_up(std::make_error_code(std::errc::operation_canceled)));
      }
      if (progress == detail::Progress::between) continue;
      const auto& wait = call_.wait();
      parked_at_.store(wait.word);
      const auto blocked = [&] { return !wait.over() && !cancelled_.load(); };
      if (make_.core().parking.enqueue(wait.word, *this, blocked)) return;  // another thread may have it from here on
    }
  }
  template <class T>
  void complete(T&& answer) noexcept {
    Result<Answer> result{std::forward<T>(answer)};
    has_call_ = false;
    call_.~Call();  // lets go of all it holds
    started_ = false;
    make_.count(false);
    auto done = std::move(done_);  // the operation may be gone before it returns
    done(std::move(result));
  }

  Make make_;
  Done done_;
  union {
    Call call_;
  };
  bool has_call_ = true, started_ = false;
  detail::Atomic<bool> cancelled_{false};
  detail::Atomic<const void*> parked_at_{nullptr};
};

namespace detail {

template <class Traits, class Store>
struct MakeFileCall {
  explicit MakeFileCall(DirtyFile<Traits, Store>& file)
      : body{file.body()}, access{body->access()}, store{&file.store()} {}
  [[nodiscard]] PoolCore<Traits>& core() const { return body->core; }
  /// An operation of the file begins, or is about to complete.
  void count([[maybe_unused]] bool begins) const noexcept {
#ifndef NDEBUG  // only an assert looks at it
    if (begins) {
      body->operations.fetch_add(1);
    } else {
      body->operations.fetch_sub(1);
    }
#endif
  }

  std::shared_ptr<FileBody<Traits>> body;
  typename FileBody<Traits>::Access access;
  Store* store;
  RoomRule room = RoomRule::of({});
};

template <class Traits, class Store>
struct MakeRead : MakeFileCall<Traits, Store> {
  MakeRead(DirtyFile<Traits, Store>& file, std::uint64_t at, std::span<std::byte> to)
      : MakeFileCall<Traits, Store>{file}, offset{at}, into{to} {}
  [[nodiscard]] auto operator()() {
    using Call = CopyRead<typename FileBody<Traits>::Access, Store>;
    return Call{this->access, offset, into, *this->store, this->room};
  }
  std::uint64_t offset;
  std::span<std::byte> into;
};

template <class Traits, class Store, class F>
struct MakeView : MakeFileCall<Traits, Store> {
  MakeView(DirtyFile<Traits, Store>& file, std::uint64_t at, std::uint64_t size, F visitor)
      : MakeFileCall<Traits, Store>{file}, offset{at}, size_bytes{size}, f{std::move(visitor)} {}
  [[nodiscard]] auto operator()() {
    using Call = ViewRead<typename FileBody<Traits>::Access, Store, F>;
    return Call{this->access, offset, size_bytes, *this->store, this->room, f};
  }
  std::uint64_t offset, size_bytes;
  F f;
};

template <class Traits, class Store>
struct MakeWrite : MakeFileCall<Traits, Store> {
  MakeWrite(DirtyFile<Traits, Store>& file, std::uint64_t at, std::span<const std::byte> bytes,
            std::optional<std::int64_t> mtime)
      : MakeFileCall<Traits, Store>{file}, offset{at}, from{bytes}, mtime_ns{mtime} {}
  [[nodiscard]] auto operator()() {
    using Call = Write<typename FileBody<Traits>::Access, FillFrom, AskStore<Store>>;
    return Call{this->access, offset,   from.size(),    false,
                this->room,   mtime_ns, FillFrom{from}, AskStore<Store>{*this->store}};
  }
  std::uint64_t offset;
  std::span<const std::byte> from;
  std::optional<std::int64_t> mtime_ns;
};

template <class Traits, class Store>
struct MakeFlush : MakeFileCall<Traits, Store> {
  using MakeFileCall<Traits, Store>::MakeFileCall;
  [[nodiscard]] auto operator()() {
    using Call = FileFlush<FileBody<Traits>, Store>;
    return Call{this->body, *this->store, whole_file, SIZE_MAX, true};
  }
};

template <class Traits, class Store>
struct MakeSync : MakeFileCall<Traits, Store> {
  MakeSync(DirtyFile<Traits, Store>& file, SyncScope how_much) : MakeFileCall<Traits, Store>{file}, scope{how_much} {}
  [[nodiscard]] auto operator()() {
    using Call = FileSync<Traits, Store>;
    return Call{this->body, *this->store, scope};
  }
  SyncScope scope;
};

}  // namespace detail

/// Operations of a DirtyFile: arguments, results and errors as of the call they are named after; ECANCELED too.
///
/// done(Result<std::size_t>) of a read, done(Result<Written>) of a write, done(Result<R>) of a view whose f answers an
/// R, done(Result<std::uint64_t>) of a flush: the bytes that the store has now and had not; done(Result<>) of a sync.
/// Requires: the file, its store, `into` and `from` live until the completion.
template <class Traits, class Store, class Done>
[[nodiscard]] auto read_operation(DirtyFile<Traits, Store>& file, std::uint64_t offset, std::span<std::byte> into,
                                  Done done) {
  using Make = detail::MakeRead<Traits, Store>;
  return Operation<Make, Done>{Make{file, offset, into}, std::move(done)};
}
template <class Traits, class Store, std::invocable<ConstBuffers> F, class Done>
[[nodiscard]] auto view_operation(DirtyFile<Traits, Store>& file, std::uint64_t offset, std::uint64_t size_bytes, F f,
                                  Done done) {
  using Make = detail::MakeView<Traits, Store, F>;
  return Operation<Make, Done>{Make{file, offset, size_bytes, std::move(f)}, std::move(done)};
}
template <class Traits, class Store, class Done>
[[nodiscard]] auto write_operation(DirtyFile<Traits, Store>& file, std::uint64_t offset,
                                   std::span<const std::byte> from, Done done,
                                   std::optional<std::int64_t> mtime_ns = {}) {
  using Make = detail::MakeWrite<Traits, Store>;
  return Operation<Make, Done>{Make{file, offset, from, mtime_ns}, std::move(done)};
}
template <class Traits, class Store, class Done>
[[nodiscard]] auto flush_operation(DirtyFile<Traits, Store>& file, Done done) {
  using Make = detail::MakeFlush<Traits, Store>;
  return Operation<Make, Done>{Make{file}, std::move(done)};
}
template <class Traits, class Store, class Done>
[[nodiscard]] auto sync_operation(DirtyFile<Traits, Store>& file, Done done, SyncScope scope = SyncScope::all) {
  using Make = detail::MakeSync<Traits, Store>;
  return Operation<Make, Done>{Make{file, scope}, std::move(done)};
}

namespace detail {

/// An operation that nobody keeps: it goes with its completion.
template <class Make, class Done>
class OwnedOperation {
 public:
  /// Errors: throws bad_alloc, and nothing was started.
  static void start(Make make, Done done) {
    auto* const owned = new OwnedOperation{std::move(make), std::move(done)};
    owned->operation_.start();
  }

 private:
  struct Last {
    OwnedOperation* self;
    Done done;
    template <class R>
    void operator()(R&& result) {
      delete self;
      done(std::forward<R>(result));
    }
  };
  OwnedOperation(Make make, Done done) : operation_{std::move(make), Last{this, std::move(done)}} {}

  Operation<Make, Last> operation_;
};

}  // namespace detail

/// The operations of these names, started and kept until they end. Errors: throws bad_alloc.
template <class Traits, class Store, class Done>
void start_read(DirtyFile<Traits, Store>& file, std::uint64_t offset, std::span<std::byte> into, Done done) {
  using Make = detail::MakeRead<Traits, Store>;
  detail::OwnedOperation<Make, Done>::start(Make{file, offset, into}, std::move(done));
}
template <class Traits, class Store, std::invocable<ConstBuffers> F, class Done>
void start_view(DirtyFile<Traits, Store>& file, std::uint64_t offset, std::uint64_t size_bytes, F f, Done done) {
  using Make = detail::MakeView<Traits, Store, F>;
  detail::OwnedOperation<Make, Done>::start(Make{file, offset, size_bytes, std::move(f)}, std::move(done));
}
template <class Traits, class Store, class Done>
void start_write(DirtyFile<Traits, Store>& file, std::uint64_t offset, std::span<const std::byte> from, Done done,
                 std::optional<std::int64_t> mtime_ns = {}) {
  using Make = detail::MakeWrite<Traits, Store>;
  detail::OwnedOperation<Make, Done>::start(Make{file, offset, from, mtime_ns}, std::move(done));
}
template <class Traits, class Store, class Done>
void start_flush(DirtyFile<Traits, Store>& file, Done done) {
  using Make = detail::MakeFlush<Traits, Store>;
  detail::OwnedOperation<Make, Done>::start(Make{file}, std::move(done));
}
template <class Traits, class Store, class Done>
void start_sync(DirtyFile<Traits, Store>& file, Done done, SyncScope scope = SyncScope::all) {
  using Make = detail::MakeSync<Traits, Store>;
  detail::OwnedOperation<Make, Done>::start(Make{file, scope}, std::move(done));
}

#ifdef __cpp_impl_coroutine

namespace detail {

/// Resumes a coroutine with the result of an operation, in the thread that the operation ends in.
template <class Make>
class Awaiter {
 public:
  Awaiter(Make make, std::stop_token stop) : stop_{std::move(stop)}, operation_{std::move(make), Done{this}} {}

  [[nodiscard]] bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<> waiting) noexcept {
    waiting_ = waiting;
    // Set up before the start: after it the coroutine may have gone on, and this may be gone.
    if (stop_.stop_possible()) on_stop_.emplace(stop_, Cancel{this});
    operation_.start();
  }
  [[nodiscard]] auto await_resume() { return std::move(*result_); }

 private:
  struct Done {
    Awaiter* awaiter;
    template <class R>
    void operator()(R&& result) const {
      awaiter->result_.emplace(std::forward<R>(result));
      awaiter->waiting_.resume();
    }
  };
  struct Cancel {
    Awaiter* awaiter;
    void operator()() const { awaiter->operation_.cancel(); }
  };
  using Op = Operation<Make, Done>;

  std::coroutine_handle<> waiting_;
  std::optional<Result<typename Op::Answer>> result_;
  const std::stop_token stop_;
  Op operation_;
  std::optional<std::stop_callback<Cancel>> on_stop_;  // last: no cancel comes once the operation goes
};

}  // namespace detail

/// The same to be awaited: `co_await async_read(...)` answers the Result; `stop` cancels it.
template <class Traits, class Store>
[[nodiscard]] auto async_read(DirtyFile<Traits, Store>& file, std::uint64_t offset, std::span<std::byte> into,
                              std::stop_token stop = {}) {
  return detail::Awaiter<detail::MakeRead<Traits, Store>>{{file, offset, into}, std::move(stop)};
}
template <class Traits, class Store, std::invocable<ConstBuffers> F>
[[nodiscard]] auto async_view(DirtyFile<Traits, Store>& file, std::uint64_t offset, std::uint64_t size_bytes, F f,
                              std::stop_token stop = {}) {
  return detail::Awaiter<detail::MakeView<Traits, Store, F>>{{file, offset, size_bytes, std::move(f)}, std::move(stop)};
}
template <class Traits, class Store>
[[nodiscard]] auto async_write(DirtyFile<Traits, Store>& file, std::uint64_t offset, std::span<const std::byte> from,
                               std::optional<std::int64_t> mtime_ns = {}, std::stop_token stop = {}) {
  return detail::Awaiter<detail::MakeWrite<Traits, Store>>{{file, offset, from, mtime_ns}, std::move(stop)};
}
template <class Traits, class Store>
[[nodiscard]] auto async_flush(DirtyFile<Traits, Store>& file, std::stop_token stop = {}) {
  using Make = detail::MakeFlush<Traits, Store>;
  return detail::Awaiter<Make>{Make{file}, std::move(stop)};
}
template <class Traits, class Store>
[[nodiscard]] auto async_sync(DirtyFile<Traits, Store>& file, std::stop_token stop = {},
                              SyncScope scope = SyncScope::all) {
  using Make = detail::MakeSync<Traits, Store>;
  return detail::Awaiter<Make>{Make{file, scope}, std::move(stop)};
}

#endif

}  // namespace tarn
