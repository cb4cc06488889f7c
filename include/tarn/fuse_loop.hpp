// SPDX-License-Identifier: MIT
#pragma once

// A loop that serves a session of libfuse's, for filesystems that are written to in large pieces. libfuse's own loops
// receive a request into memory of theirs, and a write copies from that. Here the bytes of a write are received into
// spare chunks (spare_chunks.hpp), charged, with no latch held; write_from, try_write_from, write_from_later and
// reply_write then take whole chunks in by an exchange of memory. That is so where a file is written from a multiple of
// the chunk on, in pieces of whole chunks; what else comes is copied once, as by libfuse's loops.
//
// All but the receiving is libfuse's: its requests, replies and interrupts. It is handed the head of a write, and in
// place of the bytes an address that nobody can read, which is what its handlers then get. So
//
//   - writes come by a write_buf handler, not a write handler;
//   - that hands its fuse_bufvec to one of the functions above, or, for a file that is not tarn's, to copy_bytes_of;
//   - once, and in the thread that it is called in. What a function has taken in is not there any more: EIO;
//   - of the fuse_bufvec itself it looks at fuse_buf_size alone. Whatever else reads the bytes is ended by SIGSEGV, or
//     a system call that does answers EFAULT.
//
// Placement: with one_a_cpu each worker stays on a processor of its own. The kernel gives a request to the worker that
// has waited longest, wherever the asker runs. To an asker that stays on a processor, too, small reads take a quarter
// less then; to one that the system moves about they take two fifths more (on two processors: bench/README.md).
//
// Thread safety: a session is served by one call of serve at a time.

#include <tarn/fuse.hpp>

#include <fcntl.h>
#include <linux/fuse.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <ctime>
#include <memory>
#include <mutex>
#include <new>
#include <span>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include <tarn/chunk_pool.hpp>
#include <tarn/spare_chunks.hpp>

namespace tarn::fuse {

struct LoopOptions {
  /// Threads that serve; never more, and a handler that waits for a store holds one. 0: one for each processor that the
  /// caller may run on, two at least.
  unsigned workers = 0;
  bool one_a_cpu = false;     ///< worker i stays on the i-th of those processors, and so do threads that handlers start
  int wake_signal = SIGALRM;  ///< ends the wait of a worker for a request; it has a handler while any loop serves
};

namespace detail {

/// The processors that this thread may run on.
[[nodiscard]] inline std::vector<int> usable_cpus() {
  std::vector<int> cpus;
  ::cpu_set_t set;
  CPU_ZERO(&set);
  if (::sched_getaffinity(0, sizeof set, &set) != 0) return cpus;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(static_cast<std::size_t>(cpu), &set)) cpus.push_back(cpu);
  }
  return cpus;
}
/// This thread stays on the processor; if that has gone meanwhile, anywhere.
inline void stay_on(int cpu) {
  ::cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(static_cast<std::size_t>(cpu), &one);
  (void)::sched_setaffinity(0, sizeof one, &one);
}

/// A handler for a signal that does nothing, and what it meets ends with EINTR. Those of several loops are one.
class WakingSignal {
 public:
  /// Errors: throws system_error(EINVAL) for what is no signal, or none that can be handled.
  explicit WakingSignal(int number) : number_{number} {
    const std::lock_guard lock{mutex()};
    if (number < 1 || number >= NSIG) throw std::system_error{std::make_error_code(std::errc::invalid_argument)};
    if (place().users++ != 0) return;
    struct sigaction nothing {};
    nothing.sa_handler = [](int) {};  // no SA_RESTART
    if (::sigaction(number, &nothing, &place().before) == 0) return;
    --place().users;
    throw std::system_error{std::make_error_code(std::errc::invalid_argument)};
  }
  WakingSignal(const WakingSignal&) = delete;
  WakingSignal& operator=(const WakingSignal&) = delete;
  ~WakingSignal() {
    const std::lock_guard lock{mutex()};
    if (--place().users == 0) ::sigaction(number_, &place().before, nullptr);
  }

  /// For a worker: it hears this one, and leaves those that end a program to who waits for it, as libfuse's do.
  void let_in() const {
    ::sigset_t set;
    sigemptyset(&set);
    for (const int ends : {SIGTERM, SIGINT, SIGHUP, SIGQUIT}) sigaddset(&set, ends);
    ::pthread_sigmask(SIG_BLOCK, &set, nullptr);
    sigemptyset(&set);
    sigaddset(&set, number_);
    ::pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
  }
  void send_to(std::thread& thread) const { ::pthread_kill(thread.native_handle(), number_); }

 private:
  struct Place {
    unsigned users = 0;
    struct sigaction before {};
  };
  static std::mutex& mutex() {
    static std::mutex of_all;
    return of_all;
  }
  [[nodiscard]] Place& place() const {
    static std::array<Place, NSIG> of_all;
    return of_all[static_cast<std::size_t>(number_)];
  }

  const int number_;
};

/// The end of a page, behind which nothing can be read for as long as a write is.
class Head {
 public:
  static constexpr std::size_t size_bytes = sizeof(fuse_in_header) + sizeof(fuse_write_in);

  /// Errors: throws bad_alloc.
  explicit Head(std::size_t behind_bytes) : mapped_bytes_{page_bytes_ + behind_bytes} {
    void* const mapped = ::mmap(nullptr, mapped_bytes_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapped == MAP_FAILED) throw std::bad_alloc{};
    mapped_ = static_cast<std::byte*>(mapped);
    if (::mprotect(mapped_, page_bytes_, PROT_READ | PROT_WRITE) == 0) return;
    ::munmap(mapped_, mapped_bytes_);
    throw std::bad_alloc{};
  }
  Head(const Head&) = delete;
  Head& operator=(const Head&) = delete;
  ~Head() { ::munmap(mapped_, mapped_bytes_); }

  [[nodiscard]] std::byte* data() const { return end() - size_bytes; }
  [[nodiscard]] std::byte* end() const { return mapped_ + page_bytes_; }

 private:
  const std::size_t page_bytes_ = static_cast<std::size_t>(::getpagesize()), mapped_bytes_;
  std::byte* mapped_ = nullptr;
};

/// One worker's memory, and what it does with a request.
///
/// A request is a head, as long as that of a write, and what follows. The head goes to the end of a page behind which
/// nothing can be read, what follows to the spares, and what is too much for them to rest(). What is no write is put
/// together again, in one piece, as libfuse wants it; and so is a write where there are no spares: there it lies in one
/// piece already, but for its head. They are a mebibyte, which is the most that comes, or none.
template <class Traits>
class Receiver {
 public:
  static constexpr std::size_t max_write_bytes = std::size_t{1} << 20;  ///< the most that libfuse lets the kernel send

  /// Errors: throws bad_alloc, and system_error(ENOBUFS) if the pool has no chunks to spare.
  Receiver(fuse_session* session, ChunkPool<Traits>& pool, bool in_place)
      : session_{session},
        pool_{pool},
        spares_{spares_of(pool, in_place ? max_write_bytes / static_cast<std::size_t>(pool.chunk_bytes()) : 0)},
        whole_{new std::byte[whole_bytes()]},  // not initialised
        pieces_(spares_.count() + 2) {}
  Receiver(const Receiver&) = delete;
  Receiver& operator=(const Receiver&) = delete;

  /// Serves requests until the session has ended. Returns: 0, or an errno of the device.
  [[nodiscard]] int serve() {
    while (!fuse_session_exited(session_)) {
      waits_ = true;
      const auto n = receive();
      waits_ = false;
      if (n >= 0) {
        if (static_cast<std::size_t>(n) < sizeof(fuse_in_header)) return EIO;
        process(static_cast<std::size_t>(n));
        continue;
      }
      switch (errno) {
        case ENODEV:  // unmounted
          fuse_session_exit(session_);
          break;
        case EINTR:
        case ENOENT:  // whoever asked was interrupted
          break;
        default:
          return errno;
      }
    }
    return 0;
  }
  /// Whether it waits for a request, or is about to.
  [[nodiscard]] bool waits() const { return waits_; }

 private:
  static constexpr std::size_t head_bytes = Head::size_bytes;
  static constexpr std::size_t most_pieces = 1024;  // IOV_MAX

  // With chunks too small for one call to receive into so many: none.
  [[nodiscard]] static SpareChunks<Traits> spares_of(ChunkPool<Traits>& pool, std::size_t count) {
    auto spares = SpareChunks<Traits>::make(pool, count > most_pieces - 2 ? 0 : count);
    if (!spares) throw std::system_error{spares.error(), "spare chunks for a FUSE worker"};
    return *std::move(spares);
  }
  [[nodiscard]] ssize_t receive() {
    // A budget that was lowered has them back.
    if (spares_.count() != 0 && pool_.core().budget.over_limit()) spares_ = spares_of(pool_, 0);
    // Each time: a write has left other memory.
    pieces_[0] = {head_.data(), head_bytes};
    for (std::size_t i = 0; i < spares_.count(); ++i) pieces_[i + 1] = {spares_[i].data(), spares_[i].size()};
    pieces_[spares_.count() + 1] = {rest(), rest_bytes()};
    return ::readv(fuse_session_fd(session_), pieces_.data(), static_cast<int>(pieces_.size()));
  }
  void process(std::size_t size_bytes) {
    fuse_in_header header;
    std::memcpy(&header, head_.data(), sizeof header);
    fuse_buf buffer{};
    buffer.size = size_bytes;
    if (header.opcode == FUSE_WRITE && size_bytes > head_bytes && size_bytes <= head_bytes + spares_.size_bytes()) {
      const Received received{.place = head_.end(),
                              .spares = &spares_,
                              .pool = &pool_,
                              .taken_bytes = 0,
                              .copy_some = [](const void* spares, std::size_t at, std::span<std::byte> into) {
                                static_cast<const SpareChunks<Traits>*>(spares)->copy(at, into);
                              }};
      Received::in_this_thread = &received;
      buffer.mem = head_.data();
      fuse_session_process_buf(session_, &buffer);
      Received::in_this_thread = nullptr;
      return;
    }
    std::memcpy(whole_.get(), head_.data(), std::min(size_bytes, head_bytes));
    if (size_bytes > head_bytes) {
      const auto in_spares = std::min(size_bytes - head_bytes, spares_.size_bytes());
      spares_.copy(0, {whole_.get() + head_bytes, in_spares});  // what is more is there already
    }
    buffer.mem = whole_.get();
    fuse_session_process_buf(session_, &buffer);
  }
  [[nodiscard]] static constexpr std::size_t whole_bytes() { return head_bytes + max_write_bytes + 4096; }
  [[nodiscard]] std::byte* rest() const { return whole_.get() + head_bytes + spares_.size_bytes(); }
  [[nodiscard]] std::size_t rest_bytes() const { return whole_bytes() - head_bytes - spares_.size_bytes(); }

  fuse_session* const session_;
  ChunkPool<Traits>& pool_;
  SpareChunks<Traits> spares_;
  const Head head_{max_write_bytes};
  const std::unique_ptr<std::byte[]> whole_;  // where a request is put together
  std::vector<::iovec> pieces_;
  std::atomic<bool> waits_{false};
};

/// Workers, each a thread. Who made them waits for the first that ends, and then ends the others.
///
/// A signal may come to a worker just before it begins to wait, and is then for nothing: so again until it is out. A
/// handler that is at work gets none, since what it does may not like that; one that has only just begun may get one.
template <class Traits>
class Workers {
 public:
  /// Errors: throws bad_alloc, and system_error.
  Workers(fuse_session* session, ChunkPool<Traits>& pool, const LoopOptions& options)
      : session_{session}, signal_{options.wake_signal} {
    ::sem_init(&left_, 0, 0);
    const auto cpus = usable_cpus();
    const auto count = options.workers != 0 ? options.workers : std::max<std::size_t>(cpus.size(), 2);
    const auto least_bytes = pool.core().min_budget_bytes(pool.core().marks);
    const auto more_bytes = pool.budget_bytes() - std::min(pool.budget_bytes(), least_bytes);
    for (std::size_t i = 0; i < count; ++i) {
      const bool in_place = i < more_bytes / 4 / Receiver<Traits>::max_write_bytes;
      receivers_.push_back(std::make_unique<Receiver<Traits>>(session, pool, in_place));
    }
    threads_.reserve(count);
    try {
      for (std::size_t i = 0; i < count; ++i) {
        threads_.emplace_back([this, &options, i, cpu = cpus.empty() ? 0 : cpus[i % cpus.size()]] {
          if (options.one_a_cpu) stay_on(cpu);
          work(i);
        });
      }
    } catch (...) {
      fuse_session_exit(session_);
      end();
      fuse_session_reset(session_);
      throw;
    }
  }
  Workers(const Workers&) = delete;
  Workers& operator=(const Workers&) = delete;
  ~Workers() { ::sem_destroy(&left_); }

  /// Waits until the session has ended. Returns: 0, or an errno.
  [[nodiscard]] int wait() {
    // A signal to this thread ends the wait, too, for a look. It may come just before that, or to another thread, or
    // the session be ended by one that is no worker: so there is a look now and then.
    while (!fuse_session_exited(session_)) wait_for_one(200'000'000);
    end();
    return error_;
  }

 private:
  void work(std::size_t i) {
    signal_.let_in();
    if (const int failed = receivers_[i]->serve(); failed != 0) {
      error_ = failed;
      fuse_session_exit(session_);
    }
    ++ended_;
    ::sem_post(&left_);
  }
  void end() {
    while (ended_ < threads_.size()) {
      for (std::size_t i = 0; i < threads_.size(); ++i) {
        if (receivers_[i]->waits()) signal_.send_to(threads_[i]);
      }
      wait_for_one(5'000'000);
    }
    for (auto& thread : threads_) thread.join();
  }

  void wait_for_one(long ns) {
    ::timespec until{};
    ::clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += ns;
    until.tv_sec += until.tv_nsec / 1'000'000'000;
    until.tv_nsec %= 1'000'000'000;
    (void)::sem_clockwait(&left_, CLOCK_MONOTONIC, &until);
  }

  fuse_session* const session_;
  const WakingSignal signal_;
  std::vector<std::unique_ptr<Receiver<Traits>>> receivers_;
  std::atomic<std::size_t> ended_{0};
  std::atomic<int> error_{0};
  ::sem_t left_{};  // posted by each that ends
  std::vector<std::thread> threads_;
};

}  // namespace detail

/// Serves a session until it is unmounted, or exits (fuse_session_exit). The caller waits meanwhile, as in
/// fuse_session_loop_mt: a signal that it handles has it look whether the session has exited.
///
/// Afterwards files may be dirty: after a signal no close comes that flushes them. Flush them all, and see if it fails.
/// Where a store answers later, replies may be due: keep the session until what keeps their files (see fuse_async.hpp)
/// has gone.
///
/// Returns:  0, or an errno. The session may be served again.
/// Errors:   ENOMEM; ENOBUFS if the pool is full of what is dirty or in use; EINVAL for a signal that cannot be
///           handled; those of libfuse and of the device: EAGAIN if it does not block.
/// Requires: what is said above of write_buf handlers; configure() was called for the connection; requests come by the
///           session's descriptor, by no fuse_custom_io. The pool outlives the call.
/// Blocks:   until then.
/// Cost:     of the pool's budget a mebibyte a worker, as far as a quarter goes of what it has beside the least. The
///           others copy what they receive, once; and so do all with chunks above a mebibyte, or of 1 KiB and less. A
///           lowered budget has it back, with the next request of each.
template <class Traits>
[[nodiscard]] int serve(fuse_session* session, ChunkPool<Traits>& pool, const LoopOptions& options = {}) {
  try {
    detail::Workers<Traits> workers{session, pool, options};
    const int error = workers.wait();
    const int said = fuse_session_loop(session);  // it has exited: this says libfuse's own error
    fuse_session_reset(session);
    return error == 0 && said < 0 ? -said : error;
  } catch (const std::bad_alloc&) {
    return ENOMEM;
  } catch (const std::system_error& e) {
    return errno_of(e.code());
  }
}

}  // namespace tarn::fuse
