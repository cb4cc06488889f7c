// SPDX-License-Identifier: MIT
// A store with two threads of its own, and many operations at once: reads, writes and flushes that wait for the store
// with no thread. Each goes on in the thread that brought what it waited for; only main blocks, on a latch.

#include <tarn/tarn.hpp>

#include <condition_variable>
#include <deque>
#include <iostream>
#include <latch>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <variant>

using Traits = tarn::DefaultTraits;

// Queues what it is asked, and answers from the threads that work().
class QueueStore {
 public:
  std::map<Traits::FileId, std::string> files;  // under files_mutex_ while threads work

  // A token has its request with it, so it is all there is to queue.
  void load(const tarn::LoadRequest<Traits>&, tarn::LoadToken<Traits> token) { push(std::move(token)); }
  void flush(const tarn::FlushRequest<Traits>&, tarn::FlushToken<Traits> token) { push(std::move(token)); }
  tarn::Result<> remove(const Traits::FileId&) { return tarn::fail(std::errc::not_supported); }

  std::size_t queued() {
    const std::lock_guard lock{queue_mutex_};
    return queue_.size();
  }
  void work(const std::stop_token& stop) {
    for (;;) {
      std::unique_lock lock{queue_mutex_};
      if (!pushed_.wait(lock, stop, [&] { return !queue_.empty(); })) return;
      auto next = std::move(queue_.front());
      queue_.pop_front();
      lock.unlock();  // what waited goes on inside complete(), and may push
      std::visit([&](auto& token) { token.complete(answer(token.request())); }, next);
    }
  }

 private:
  using Token = std::variant<tarn::LoadToken<Traits>, tarn::FlushToken<Traits>>;

  void push(Token token) {
    const std::lock_guard lock{queue_mutex_};
    queue_.push_back(std::move(token));
    pushed_.notify_one();
  }
  tarn::Result<std::size_t> answer(const tarn::LoadRequest<Traits>& request) {
    const std::lock_guard lock{files_mutex_};
    const auto bytes = std::as_bytes(std::span{files[*request.file]});
    if (bytes.size() < request.range.end()) return tarn::fail(std::errc::io_error);
    return request.into.copy_from(bytes.subspan(request.range.offset(), request.range.size_bytes()));
  }
  tarn::FlushOutcome<Traits> answer(const tarn::FlushRequest<Traits>& request) {
    const std::lock_guard lock{files_mutex_};
    auto& file = files[*request.file];
    file.resize(request.size_bytes);
    request.for_each_piece([&](std::uint64_t offset, std::span<const std::byte> bytes, bool /*zero*/) {
      file.replace(offset, bytes.size(), reinterpret_cast<const char*>(bytes.data()), bytes.size());
    });
    return tarn::FlushOutcome<Traits>::stored();
  }

  std::mutex queue_mutex_, files_mutex_;
  std::condition_variable_any pushed_;
  std::deque<Token> queue_;
};
using File = tarn::DirtyFile<Traits, QueueStore>;

// An operation does not move and lives until its completion. This one is on the heap, and deletes itself then.
template <class Make, class Done>
struct Running {
  struct Completion {
    Running* self;
    void operator()(auto result) const {
      const std::unique_ptr<Running> ended{self};
      self->done(std::move(result));
    }
  };
  Running(Make make, Done d) : done{std::move(d)}, operation{make(Completion{this})} {}
  Done done;
  std::invoke_result_t<Make&, Completion> operation;
};
template <class Make, class Done>
void start(Make make, Done done) {
  (new Running<Make, Done>{std::move(make), std::move(done)})->operation.start();
}

// Reads what the store has of one slot of a file, writes over it, and flushes.
struct Slot {
  File& file;
  const std::uint64_t offset;
  const std::string before, after;
  std::latch& ended;
  std::string into = std::string(before.size(), '?');
  bool well = false;

  void read() {
    start([this](auto done) { return read_operation(file, offset, std::as_writable_bytes(std::span{into}), done); },
          [this](tarn::Result<std::size_t> n) { n&& into == before ? write() : ended.count_down(); });
  }
  void write() {
    start([this](auto done) { return write_operation(file, offset, std::as_bytes(std::span{after}), done); },
          [this](tarn::Result<tarn::Written> written) { written ? flush() : ended.count_down(); });
  }
  void flush() {
    start([this](auto done) { return flush_operation(file, done); },
          [this](tarn::Result<std::uint64_t> flushed) {
            well = flushed.has_value();
            ended.count_down();
          });
  }
};

int main() {
  constexpr std::size_t file_count = 3, slot_count = 26, slot_bytes = 64 * tarn::KiB;
  const auto text = [](auto i) { return std::string(slot_bytes, static_cast<char>('a' + i % 26)); };

  std::latch ended{file_count * slot_count};
  tarn::ChunkPool pool{{.budget_bytes = 64 * tarn::MiB}};
  QueueStore store;
  std::deque<File> files;  // in a deque: a File does not move
  std::deque<Slot> slots;
  for (std::size_t i = 0; i < file_count; ++i) {
    auto& file = files.emplace_back(pool, tarn::DirtyFileMetadata::from_store(i, slot_count * slot_bytes), store);
    for (std::size_t slot = 0; slot < slot_count; ++slot) {
      slots.push_back({file, slot * slot_bytes, text(9 * i + slot), text(9 * i + slot + 5), ended});
      store.files[i] += slots.back().before;
    }
  }

  for (auto& slot : slots) slot.read();
  const auto waiting = store.queued();  // there is no thread yet: every read waits, and main does not
  {
    std::jthread one{[&](const std::stop_token& stop) { store.work(stop); }};
    std::jthread two{[&](const std::stop_token& stop) { store.work(stop); }};
    ended.wait();
  }

  std::size_t wrong = 0;
  for (const auto& slot : slots) {
    const auto& stored = store.files[slot.file.metadata().id()];
    if (!slot.well || slot.file.is_dirty() || stored.compare(slot.offset, slot_bytes, slot.after) != 0) ++wrong;
  }
  std::cout << waiting << " loads waited at once for 2 threads; of " << slots.size() << " slots read, written and "
            << "flushed " << wrong << " are wrong\n";
  return waiting == slots.size() && wrong == 0 ? 0 : 1;
}
