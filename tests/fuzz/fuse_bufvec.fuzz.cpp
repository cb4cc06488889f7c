// SPDX-License-Identifier: MIT
// What a FUSE write brings, taken into a file: buffers in memory and descriptors, of any sizes, that end early or do
// not read, into a pool that another file may fill, so that a write goes on where it stopped. The file then has the
// bytes up to where the first buffer ended early, and what it had before elsewhere.

#include <tarn/fuse_async.hpp>

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <tarn/dirty_file.hpp>
#include <tarn/testing/memory_store.hpp>

#include "fuzz/input.hpp"
#include "support/testing.hpp"
#include "support/traits.hpp"

namespace {

using tarn_test::FuzzInput;
using tarn_test::must;

struct Traits : tarn_test::TestTraits {
  using Storage = tarn::HeapStorage;
};
using Store = tarn_test::MemoryStore<Traits>;
using File = tarn::DirtyFile<Traits, Store>;

/// One buffer of a request, and what it has in the end.
class Source {
 public:
  Source(FuzzInput& input, std::uint64_t unit, std::uint64_t number) {
    const auto kind = input.byte();
    const auto size = input.below(unit) + (input.flag() ? unit : 0);
    bytes_ = tarn_test::pattern(0, static_cast<std::size_t>(size), number);
    buffer_.size = bytes_.size();
    if (kind % 4 == 0) {
      buffer_.mem = bytes_.data();
      return;
    }
    buffer_.flags = static_cast<fuse_buf_flags>(FUSE_BUF_IS_FD | ((kind & 16) != 0 ? FUSE_BUF_FD_RETRY : 0));
    trickles_ = kind % 4 == 2 && kind >= 128;
    if (trickles_) bytes_.resize(std::min<std::size_t>(bytes_.size(), 12));
    if ((kind & 32) != 0) bytes_.resize(static_cast<std::size_t>(input.below(bytes_.size() + 1)));
    if (kind % 4 == 1) {
      be_file(input.below(unit), (kind & 64) != 0);
    } else if (kind % 4 == 2 || buffer_.size == 0) {
      be_pipe((kind & 64) != 0);
    } else {
      bytes_.clear();
      end_ = EBADF;
    }
  }
  Source(const Source&) = delete;
  Source& operator=(const Source&) = delete;
  ~Source() {
    for (const int descriptor : {buffer_.fd, writing_end_}) {
      if (descriptor >= 0) ::close(descriptor);
    }
  }

  [[nodiscard]] const fuse_buf& buffer() const { return buffer_; }
  [[nodiscard]] const std::string& bytes() const { return bytes_; }
  [[nodiscard]] bool ends_early() const { return bytes_.size() < buffer_.size; }
  /// Whether it gives a byte at a time.
  [[nodiscard]] bool trickles() const { return trickles_; }
  /// What reading past its bytes fails with; 0: it does not.
  [[nodiscard]] int end() const { return end_; }

 private:
  void put(int descriptor) {
    must(::write(descriptor, bytes_.data(), bytes_.size()) == static_cast<ssize_t>(bytes_.size()), "the bytes fit");
  }
  // They begin at `position`, to be read from there, or from where the descriptor is.
  void be_file(std::uint64_t position, bool seeks) {
    buffer_.fd = ::memfd_create("source", MFD_CLOEXEC);
    const auto start = static_cast<off_t>(position);
    ::lseek(buffer_.fd, start, SEEK_SET);
    put(buffer_.fd);
    if (seeks) {
      buffer_.flags = static_cast<fuse_buf_flags>(buffer_.flags | FUSE_BUF_FD_SEEK);
      buffer_.pos = start;
    } else {
      ::lseek(buffer_.fd, start, SEEK_SET);
    }
  }
  void be_pipe(bool stays_open) {
    int ends[2];
    must(::pipe2(ends, O_CLOEXEC | O_NONBLOCK | (trickles_ ? O_DIRECT : 0)) == 0, "a pipe");
    buffer_.fd = ends[0];
    if (trickles_) {
      for (const char& byte : bytes_) must(::write(ends[1], &byte, 1) == 1, "a packet");
    } else {
      put(ends[1]);
    }
    if (stays_open) {
      writing_end_ = ends[1];
      end_ = EAGAIN;
    } else {
      ::close(ends[1]);
    }
  }

  std::string bytes_;
  fuse_buf buffer_{.size = 0, .flags = {}, .mem = nullptr, .fd = -1, .pos = 0};
  int writing_end_ = -1, end_ = 0;
  bool trickles_ = false;
};

class Request {
 public:
  Request(FuzzInput& input, std::uint64_t unit) {
    sources_.reserve(8);
    for (auto n = input.below(7); n != 0; --n)
      sources_.push_back(std::make_unique<Source>(input, unit, sources_.size()));
    const auto count = sources_.size();
    vector_.reset(static_cast<fuse_bufvec*>(std::calloc(1, sizeof(fuse_bufvec) + count * sizeof(fuse_buf))));
    vector_->count = count;
    bool over = false;
    for (std::size_t i = 0; i < count; ++i) {
      const auto& source = *sources_[i];
      vector_->buf[i] = source.buffer();
      if (over) continue;
      bytes_ += source.bytes();
      trickles_ = trickles_ || source.trickles();
      over = source.ends_early();
      if (over) end_ = source.end();
    }
  }

  [[nodiscard]] fuse_bufvec* vector() const { return vector_.get(); }
  /// All that can be read of it, and what it then fails with.
  [[nodiscard]] const std::string& bytes() const { return bytes_; }
  [[nodiscard]] int end() const { return end_; }
  [[nodiscard]] bool trickles() const { return trickles_; }

 private:
  struct Free {
    void operator()(fuse_bufvec* vector) const { std::free(vector); }
  };
  std::vector<std::unique_ptr<Source>> sources_;
  std::unique_ptr<fuse_bufvec, Free> vector_;
  std::string bytes_;
  int end_ = 0;
  bool trickles_ = false;
};

struct World {
  static constexpr std::uint64_t record_bytes = 2048;  // of two files

  explicit World(FuzzInput from)
      : input{from},
        chunk_bytes{std::uint64_t{16} << 2 * input.below(3)},
        pool{options()},
        other{pool, tarn::MetadataFor<Traits>::created(2), store},
        file{open()} {
    // It takes all the memory, and gives back that of a few chunks, or all of it.
    const std::string many(static_cast<std::size_t>(80 * chunk_bytes), 'x');
    const auto taken = other.write(0, tarn_test::bytes_of(many), {}, {.when_full = tarn::WhenFull::fail});
    const auto back = input.below(10);
    const auto stays = taken && back != 9 ? *taken - std::min<std::uint64_t>(*taken, back * chunk_bytes) : 0;
    must(other.truncate(stays).has_value(), "a truncate takes no memory");
  }
  [[nodiscard]] tarn::PoolOptions options() {
    tarn::PoolOptions made{.chunk_bytes = chunk_bytes, .window_bytes = (1 + input.below(3)) * chunk_bytes};
    made.budget_bytes = tarn::ChunkPool<Traits>::min_budget_bytes(made) + input.below(8) * chunk_bytes + record_bytes;
    return made;
  }
  [[nodiscard]] std::shared_ptr<File> open() {
    const auto size = input.below(3 * chunk_bytes);
    store.put_pattern(1, size, 99);
    before = store.text(1);
    return std::make_shared<File>(pool, tarn::MetadataFor<Traits>::from_store(1, size), store);
  }

  void run() {
    const Request request{input, 2 * chunk_bytes};
    const auto offset = input.below(4 * chunk_bytes);
    store.fail_next(Store::Call::flush, input.below(4), std::errc::no_space_on_device);
    const auto how = input.byte();
    const auto taken = how % 4 == 0 ? write_later(request, offset) : write(request, offset, how % 4 == 1);
    check(request, offset, taken);
  }
  // As much as goes in at a time; then room is made, and the rest is taken.
  [[nodiscard]] std::size_t write(const Request& request, std::uint64_t offset, bool waits) {
    const tarn::CallOptions how{.when_full = waits ? tarn::WhenFull::wait : tarn::WhenFull::fail};
    const auto size_bytes = fuse_buf_size(request.vector());
    auto n = tarn::fuse::write_from(*file, request.vector(), static_cast<off_t>(offset), 7, how);
    std::size_t taken = 0;
    for (int tries = 0;; ++tries) {
      if (n) {
        taken += *n;
        if (taken == size_bytes || (*n == 0 && taken == request.bytes().size())) {
          must(taken == size_bytes || request.end() == 0, "what does not read is an error");
          return taken;
        }
      } else if (n.error() != std::errc::no_buffer_space) {
        must(n.error().value() == request.end() && taken == request.bytes().size(), "the error of what does not read");
        return taken;
      }
      must(tries < 1000, "a request is taken in at last");
      (void)other.flush();
      (void)file->flush();
      n = tarn::fuse::detail::take_in(*file, request.vector(), offset + taken, size_bytes - taken, 7, how);
    }
  }
  [[nodiscard]] std::size_t write_later(const Request& request, std::uint64_t offset) {
    tarn::fuse::WaitingWrites waiting{static_cast<std::size_t>(input.below(4 * chunk_bytes))};
    const auto at = static_cast<off_t>(offset);
    const auto tried = tarn::fuse::try_write_from(*file, request.vector(), at, waiting, 7);
    std::optional<tarn::Result<std::size_t>> done;
    if (tried || tried.error() == std::errc::resource_unavailable_try_again) {
      tarn::fuse::write_from_later(
          file, request.vector(), at, tried ? *tried : 0, waiting,
          [&](const auto&, const tarn::Result<std::size_t>& n) {
            must(!done, "it is done once");
            done = n;
          },
          7);
      must(done.has_value(), "what can wait for nobody is done");
      must(!waiting.any(), "nothing waits");
    } else {
      done = tried;
    }
    if (*done) {
      const bool may_be_less = request.trickles() || store.counts().flushes != 0;
      must(**done == request.bytes().size() || may_be_less, "all is taken in if no flush failed");
      must(**done != 0 || fuse_buf_size(request.vector()) == 0 || request.end() == 0, "what does not read is an error");
      return **done;
    }
    must((*done).error() == std::errc::no_buffer_space || (*done).error().value() == request.end(),
         "the write's error");
    return 0;
  }
  void check(const Request& request, std::uint64_t offset, std::size_t taken) {
    must(taken <= request.bytes().size(), "no more than there is");
    auto wanted = before;
    if (taken != 0) {
      wanted.resize(std::max<std::size_t>(wanted.size(), static_cast<std::size_t>(offset) + taken));
      wanted.replace(static_cast<std::size_t>(offset), taken, request.bytes(), 0, taken);
    }
    must(file->size() == wanted.size(), "the size is that of what was taken in");
    must(file->mtime_ns() == (taken == 0 ? 0 : 7), "the time is set with the bytes");
    std::string found(wanted.size(), '?');
    const auto n = file->read(0, tarn_test::writable(found));
    must(n && *n == wanted.size() && found == wanted, "the bytes are the request's, and the rest is as it was");
    store.fail_next(Store::Call::flush, 0, {});
    must(file->flush().has_value() && store.text(1) == wanted, "and the store's, once flushed");
    must(store.complaints().empty(), "the store has nothing to complain of");
  }

  FuzzInput input;
  const std::uint64_t chunk_bytes;
  tarn::ChunkPool<Traits> pool;
  Store store;
  File other;
  std::string before;
  std::shared_ptr<File> file;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size_bytes) {
  World{FuzzInput{bytes, size_bytes}}.run();
  return 0;
}
