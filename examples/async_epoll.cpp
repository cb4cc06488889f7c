// SPDX-License-Identifier: MIT
// An epoll loop in one thread, over real files: a second thread reads and writes them and signals an eventfd, the loop
// completes the tokens. So all that waits goes on in the loop's thread. A timer cancels a read whose load hangs.

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <tarn/tarn.hpp>

#include <condition_variable>
#include <cstdlib>
#include <deque>
#include <filesystem>
#include <functional>
#include <iostream>
#include <mutex>
#include <string>
#include <thread>

using Traits = tarn::DefaultTraits;  // its FileId is a number: here the file's descriptor

struct Descriptor {
  explicit Descriptor(int opened) : fd{opened} {
    if (fd < 0) throw std::system_error{errno, std::generic_category()};
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() { ::close(fd); }
  const int fd;
};

// Every call in the loop's thread. That must not block in file.read() or file.flush(): it is the one that brings what
// they wait for.
class DescriptorStore {
 public:
  int hanging = -1;  // loads of this file hang until release()

  void load(const tarn::LoadRequest<Traits>& request, tarn::LoadToken<Traits> token) {
    if (static_cast<int>(*request.file) == hanging) return hung_.push_back(std::move(token));
    submit(std::move(token));
  }
  void flush(const tarn::FlushRequest<Traits>&, tarn::FlushToken<Traits> token) { submit(std::move(token)); }
  tarn::Result<> remove(const Traits::FileId&) { return tarn::fail(std::errc::not_supported); }
  void release() {
    for (auto& token : hung_) submit(std::move(token));
    hung_.clear();
  }

  int ready_fd() const { return ready_.fd; }  // readable when finish_ready() has something to do
  void finish_ready() {
    ::eventfd_t count = 0;
    ::eventfd_read(ready_.fd, &count);
    std::vector<Finish> ready;
    {
      const std::lock_guard lock{mutex_};
      ready.swap(done_);
    }
    for (auto& finish : ready) finish();  // with no lock: what goes on in there submits more
  }

 private:
  using Finish = std::function<void()>;  // what the loop does of a request, after the other thread did its part

  template <class Token>
  void submit(Token given) {
    const auto token = std::make_shared<Token>(std::move(given));  // a std::function copies, a token does not
    const std::lock_guard lock{mutex_};
    asked_.push_back(
        [token]() -> Finish { return [token, outcome = answer(token->request())] { token->complete(outcome); }; });
    submitted_.notify_one();
  }
  void work(const std::stop_token& stop) {
    std::unique_lock lock{mutex_};
    while (submitted_.wait(lock, stop, [&] { return !asked_.empty(); })) {
      const auto request = std::move(asked_.front());
      asked_.pop_front();
      lock.unlock();
      auto finish = request();
      lock.lock();
      done_.push_back(std::move(finish));
      ::eventfd_write(ready_.fd, 1);
    }
  }
  static tarn::Result<std::size_t> answer(const tarn::LoadRequest<Traits>& request) {
    const auto pieces = request.into.iovecs();  // a chunk or less each, and here a part is one chunk
    const auto n = ::preadv(static_cast<int>(*request.file), pieces.data(), static_cast<int>(pieces.size()),
                            static_cast<off_t>(request.range.offset()));
    if (n < 0) return tarn::fail(std::error_code{errno, std::generic_category()});
    return static_cast<std::size_t>(n);  // fewer than asked is an error, and tarn makes it one
  }
  static tarn::FlushOutcome<Traits> answer(const tarn::FlushRequest<Traits>& request) {
    const auto fd = static_cast<int>(*request.file);
    bool well = ::ftruncate(fd, static_cast<off_t>(request.size_bytes)) == 0;
    request.for_each_piece([&](std::uint64_t offset, std::span<const std::byte> bytes, bool /*zero*/) {
      well = well && ::pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset)) == std::ssize(bytes);
    });
    if (!well) return tarn::FlushOutcome<Traits>::failed(std::make_error_code(std::errc::io_error));
    return tarn::FlushOutcome<Traits>::stored();
  }

  Descriptor ready_{::eventfd(0, EFD_CLOEXEC)};
  std::vector<tarn::LoadToken<Traits>> hung_;
  std::mutex mutex_;  // of what follows
  std::condition_variable_any submitted_;
  std::deque<std::function<Finish()>> asked_;
  std::vector<Finish> done_;
  std::jthread thread_{[this](const std::stop_token& stop) { work(stop); }};
};

int make_file(const std::string& text) {
  auto path = (std::filesystem::temp_directory_path() / "tarn-example-XXXXXX").string();
  const auto fd = ::mkstemp(path.data());
  ::unlink(path.c_str());
  return ::pwrite(fd, text.data(), text.size(), 0) == std::ssize(text) ? fd : -1;
}

int main() {
  std::string before, after;
  for (int i = 0; i < 16; ++i) {
    before.append(64 * tarn::KiB, static_cast<char>('a' + i));
    after.append(64 * tarn::KiB, static_cast<char>('A' + i));
  }
  const Descriptor fast{make_file(before)}, slow{make_file(before)};
  tarn::ChunkPool pool{{.budget_bytes = 64 * tarn::MiB}};
  DescriptorStore store;
  store.hanging = slow.fd;
  const auto metadata_of = [&](const Descriptor& file) {
    return tarn::DirtyFileMetadata::from_store(static_cast<Traits::FileId>(file.fd), before.size());
  };
  tarn::DirtyFile fast_file{pool, metadata_of(fast), store}, slow_file{pool, metadata_of(slow), store};

  int ended = 0, wrong = 0;
  const auto end = [&, loop = std::this_thread::get_id()](bool well) {
    ++ended;
    if (!well || std::this_thread::get_id() != loop) ++wrong;
  };
  // The fast file is read, written and flushed, each begun by the completion before it. The slow one is only read.
  std::string into(before.size(), '?');
  const auto bytes = std::as_writable_bytes(std::span{into});
  auto flush = tarn::flush_operation(fast_file, [&](auto n) { end(n && *n == after.size()); });
  auto write = tarn::write_operation(fast_file, 0, std::as_bytes(std::span{after}), [&](auto written) {
    end(written.has_value());
    flush.start();
  });
  auto read = tarn::read_operation(fast_file, 0, bytes, [&](auto n) {
    end(n && into == before);
    write.start();
  });
  std::string slow_into(before.size(), '?');
  const auto slow_bytes = std::as_writable_bytes(std::span{slow_into});
  auto slow_read =
      tarn::read_operation(slow_file, 0, slow_bytes, [&](auto n) { end(n.error() == std::errc::operation_canceled); });
  read.start();
  slow_read.start();

  const Descriptor epoll{::epoll_create1(EPOLL_CLOEXEC)}, timer{::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC)};
  const ::itimerspec in_20_ms{.it_interval = {}, .it_value = {.tv_sec = 0, .tv_nsec = 20'000'000}};
  ::timerfd_settime(timer.fd, 0, &in_20_ms, nullptr);
  for (const int fd : {timer.fd, store.ready_fd()}) {
    ::epoll_event event{.events = EPOLLIN, .data = {.fd = fd}};
    ::epoll_ctl(epoll.fd, EPOLL_CTL_ADD, fd, &event);
  }
  while (ended != 4 || !slow_file.try_read(0, slow_bytes).done()) {
    ::epoll_event event{};
    if (::epoll_wait(epoll.fd, &event, 1, -1) != 1) continue;
    if (event.data.fd == store.ready_fd()) store.finish_ready();
    if (event.data.fd == timer.fd) {
      ::epoll_ctl(epoll.fd, EPOLL_CTL_DEL, timer.fd, nullptr);
      slow_read.cancel();
      store.release();  // the loads go on all the same, for whoever reads next: here try_read
    }
  }

  if (slow_into != before || fast_file.is_dirty()) ++wrong;
  if (::pread(fast.fd, into.data(), into.size(), 0) != std::ssize(after) || into != after) ++wrong;
  std::cout << "4 operations ended in the loop's thread, one of them cancelled; wrong: " << wrong << '\n';
  return wrong == 0 ? 0 : 1;
}
