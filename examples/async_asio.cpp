// SPDX-License-Identifier: MIT
// tarn under Boost.Asio: operations as Asio has them, for any completion token, and here awaited by coroutines. The
// store answers from an asio::thread_pool; a coroutine goes on where its executor runs, wherever the answer came from.

#include <tarn/tarn.hpp>

#include <iostream>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <utility>

#include <boost/asio.hpp>  // after <utility>, which that of Boost 1.74 lacks

namespace asio = boost::asio;
using Traits = tarn::DefaultTraits;

// Posts what it is asked to a pool of two threads.
class PostingStore {
 public:
  std::map<Traits::FileId, std::string> files;

  void load(const tarn::LoadRequest<Traits>&, tarn::LoadToken<Traits> token) { post(std::move(token)); }
  void flush(const tarn::FlushRequest<Traits>&, tarn::FlushToken<Traits> token) { post(std::move(token)); }
  tarn::Result<> remove(const Traits::FileId&) { return tarn::fail(std::errc::not_supported); }
  void join() { threads_.join(); }

 private:
  void post(auto token) {
    asio::post(threads_, [this, token = std::move(token)]() mutable { token.complete(answer(token.request())); });
  }
  tarn::Result<std::size_t> answer(const tarn::LoadRequest<Traits>& request) {
    const std::lock_guard lock{mutex_};
    const auto bytes = std::as_bytes(std::span{files[*request.file]});
    if (bytes.size() < request.range.end()) return tarn::fail(std::errc::io_error);
    return request.into.copy_from(bytes.subspan(request.range.offset(), request.range.size_bytes()));
  }
  tarn::FlushOutcome<Traits> answer(const tarn::FlushRequest<Traits>& request) {
    const std::lock_guard lock{mutex_};
    auto& file = files[*request.file];
    file.resize(request.size_bytes);
    request.for_each_piece([&](std::uint64_t offset, std::span<const std::byte> bytes, bool /*zero*/) {
      file.replace(offset, bytes.size(), reinterpret_cast<const char*>(bytes.data()), bytes.size());
    });
    return tarn::FlushOutcome<Traits>::stored();
  }

  std::mutex mutex_;
  asio::thread_pool threads_{2};
};
using File = tarn::DirtyFile<Traits, PostingStore>;

// An operation and the handler of whoever waits for it: on the heap until the completion, which runs in the store's
// thread and posts the handler to its own executor.
template <class Make, class Handler>
struct Running {
  struct Completion {
    Running* self;
    template <class T>
    void operator()(tarn::Result<T> result) const {
      const std::unique_ptr<Running> ended{self};
      const boost::system::error_code error{result.error().value(), boost::system::generic_category()};
      asio::post(ended->work.get_executor(), [handler = std::move(ended->handler), error,
                                              value = result ? *result : T{}]() mutable { handler(error, value); });
    }
  };
  Running(Make make, Handler h) : handler{std::move(h)}, operation{make(Completion{this})} {}
  Handler handler;
  asio::executor_work_guard<asio::associated_executor_t<Handler>> work{asio::get_associated_executor(handler)};
  std::invoke_result_t<Make&, Completion> operation;
};
template <class Answer, class Make, class Token>
auto asio_operation(Make make, Token&& token) {
  const auto initiate = [](auto handler, Make given) {
    (new Running<Make, decltype(handler)>{std::move(given), std::move(handler)})->operation.start();
  };
  return asio::async_initiate<Token, void(boost::system::error_code, Answer)>(initiate, token, std::move(make));
}

template <class Token>
auto asio_read(File& file, std::uint64_t offset, std::span<std::byte> into, Token&& token) {
  const auto make = [&file, offset, into](auto done) { return tarn::read_operation(file, offset, into, done); };
  return asio_operation<std::size_t>(make, std::forward<Token>(token));
}
template <class Token>
auto asio_write(File& file, std::uint64_t offset, std::span<const std::byte> from, Token&& token) {
  const auto make = [&file, offset, from](auto done) { return tarn::write_operation(file, offset, from, done); };
  return asio_operation<tarn::Written>(make, std::forward<Token>(token));
}
template <class Token>
auto asio_flush(File& file, Token&& token) {
  const auto make = [&file](auto done) { return tarn::flush_operation(file, done); };
  return asio_operation<std::uint64_t>(make, std::forward<Token>(token));
}

// Reads what the store has of a range, writes over it and flushes. What fails comes as an exception, as Asio has it.
asio::awaitable<void> rewrite(File& file, std::uint64_t offset, std::string before, std::string after) {
  const auto here = std::this_thread::get_id();
  std::string into(before.size(), '?');
  const auto n = co_await asio_read(file, offset, std::as_writable_bytes(std::span{into}), asio::use_awaitable);
  if (n != before.size() || into != before) throw std::runtime_error{"not what the store has"};
  co_await asio_write(file, offset, std::as_bytes(std::span{after}), asio::use_awaitable);
  co_await asio_flush(file, asio::use_awaitable);
  if (std::this_thread::get_id() != here) throw std::runtime_error{"not where its executor runs"};
}

int main() {
  constexpr std::size_t slot_count = 26, slot_bytes = 64 * tarn::KiB;
  const auto text = [](std::size_t i) { return std::string(slot_bytes, static_cast<char>('a' + i % 26)); };

  asio::io_context context;
  tarn::ChunkPool pool{{.budget_bytes = 64 * tarn::MiB}};
  PostingStore store;
  File file{pool, tarn::DirtyFileMetadata::from_store(42, slot_count * slot_bytes), store};
  std::string expected;
  std::size_t well = 0;
  for (std::size_t slot = 0; slot < slot_count; ++slot) {
    store.files[42] += text(slot);
    expected += text(slot + 5);
    asio::co_spawn(context, rewrite(file, slot * slot_bytes, text(slot), text(slot + 5)),
                   [&](std::exception_ptr error) {
                     if (!error) ++well;
                   });
  }
  context.run();  // in this thread: no coroutine goes on in another
  store.join();

  const bool stored = store.files[42] == expected && !file.is_dirty();
  std::cout << well << " of " << slot_count << " coroutines read, wrote and flushed their part of a file; the store "
            << (stored ? "has" : "lacks") << " what they wrote\n";
  return well == slot_count && stored ? 0 : 1;
}
