// SPDX-License-Identifier: MIT
#include "content.hpp"

#include <tarn/chunk_layout.hpp>
#include <tarn/chunk_pool.hpp>
#include <tarn/dirty_file.hpp>
#include <tarn/fuse_async.hpp>
#include <tarn/fuse_loop.hpp>

#include <algorithm>
#include <optional>

#include "loader_pool.hpp"
#include "read_paths.hpp"
#include "source_store.hpp"

namespace tarnfs {
namespace {

/// What cannot be stored is named on the log, and rescued, before its file goes: nobody has to be told again.
struct ToldBefore : tarn::NullObserver {};

struct ArenaTraits : tarn::DefaultTraits {
  using Observer = ToldBefore;
  using Storage = tarn::ArenaStorage;
};
struct HeapTraits : tarn::DefaultTraits {
  using Observer = ToldBefore;
  using Storage = tarn::HeapStorage;
};

int errno_of(std::error_code error) { return tarn::fuse::errno_of(error); }
template <class T>
int errno_of(const tarn::Result<T>& result) {
  return errno_of(result.error());
}

/// A range that a request names, cut at the largest offset there is.
tarn::ByteRange range_of(std::uint64_t offset, std::uint64_t size_bytes) {
  const auto at = std::min(offset, tarn::max_offset);
  return tarn::ByteRange::between(at, at + std::min(size_bytes, tarn::max_offset - at));
}

/// What all files share.
template <class Traits>
struct Shared {
  explicit Shared(const ContentOptions& options, const tarn::PoolOptions& pool_options)
      : read_path{options.read_path}, pool{pool_options}, loaders{options.loaders} {}

  const ReadPath read_path;
  tarn::ChunkPool<Traits> pool;  // what follows is at work on it
  tarn::fuse::WaitingWrites waiting_writes;
  UnderWay operations;
  TaskThreads loaders;
  TaskThreads errands{1};
};

/// Keeps a file for an operation. That ends in whichever thread brings what it waited for, deep inside a call of tarn
/// perhaps, which is no place to let go of a file: an errand does.
template <class File>
class FileRef {
 public:
  template <class Traits>
  FileRef(File& file, const Keep& keep, Shared<Traits>& shared)
      : file_{&file}, errands_{&shared.errands}, goodbye_{std::make_unique<Goodbye>(keep, shared.operations)} {}
  FileRef(FileRef&&) noexcept = default;
  FileRef& operator=(FileRef&&) = delete;
  ~FileRef() {
    if (goodbye_) errands_->post(std::move(goodbye_));
  }
  File& operator*() const { return *file_; }

 private:
  struct Goodbye final : Task {
    Goodbye(const Keep& kept, UnderWay& operations) : operation{operations}, keep{kept} {}
    void run() override {}
    Counted operation;  // ends last
    Keep keep;
  };

  File* file_;
  TaskThreads* errands_;
  std::unique_ptr<Goodbye> goodbye_;
};

template <class Traits>
class TarnContent final : public Content {
 public:
  using Metadata = tarn::MetadataFor<Traits>;
  using File = tarn::DirtyFile<Traits, SourceStore<Traits>>;
  using Ref = FileRef<File>;

  TarnContent(Shared<Traits>& shared, SourceFile& source, Metadata meta)
      : shared_{shared},
        pool_{shared.pool},
        source_{source},
        store_{source, shared.loaders},
        name_{Metadata::created(meta.id())},
        file_{pool_, std::move(meta), store_} {}

  int reply_read(fuse_req_t request, std::size_t size_bytes, std::uint64_t offset, const Keep& keep) override {
    const auto at = static_cast<off_t>(offset);
    switch (shared_.read_path) {
      case ReadPath::gather:
        if (tarn::fuse::try_reply_read(request, file_, size_bytes, at)) return replied;
        tarn::fuse::reply_read_later(request, ref(keep), size_bytes, at);
        return replied;
      case ReadPath::copy: {
        static thread_local KeptBuffer kept;  // of the thread, so that it is faulted in once
        const auto into = kept.first(size_bytes);
        const auto n = file_.read(offset, into, tarn::fuse::waiting_for_nothing());
        if (n) return reply_bytes(request, into.data(), *n);
        if (!tarn::fuse::would_wait(n.error())) return errno_of(n);
        tarn::fuse::reply_copy_later(request, ref(keep), size_bytes, at);
        return replied;
      }
      // For comparison only: these wait.
      case ReadPath::after: {
        const auto bytes = read_after(pool_, name_, file_, offset, size_bytes);
        return bytes ? reply_bytes(request, bytes->data(), bytes->size()) : errno_of(bytes);
      }
      case ReadPath::before: {
        const auto bytes = read_before(pool_, name_, file_, offset, size_bytes);
        return bytes ? reply_bytes(request, bytes->data(), bytes->size()) : errno_of(bytes);
      }
    }
    return EINVAL;
  }
  void load_ahead(tarn::ByteRange range, const Keep& keep) noexcept override {
    if (range.empty()) return;
    try {
      const typename SourceStore<Traits>::LoadsKeep kept{std::make_shared<Ref>(ref(keep))};
      file_.load_ahead(range);
    } catch (const std::bad_alloc&) {
      // Whoever reads it loads it.
    }
  }
  int read_at_rest(std::span<std::byte> into, std::uint64_t offset, std::size_t& done) override {
    const auto read = file_.read(offset, into);
    if (read) done = *read;
    return errno_of(read);
  }
  int try_write(fuse_bufvec& from, std::uint64_t offset, std::size_t& written) override {
    const auto size_bytes = fuse_buf_size(&from);
    const auto n = tarn::fuse::try_write_from(file_, &from, static_cast<off_t>(offset), shared_.waiting_writes);
    if (n) written = *n;
    if (n ? *n < size_bytes : tarn::fuse::would_wait(n.error())) return would_wait;
    return error_of_write(n);
  }
  void write_later(fuse_bufvec& from, std::uint64_t offset, std::size_t written, const Keep& keep,
                   std::function<void(int, std::size_t)> done) override {
    tarn::fuse::write_from_later(ref(keep), &from, static_cast<off_t>(offset), written, shared_.waiting_writes,
                                 [this, done = std::move(done)](Ref&, const tarn::Result<std::size_t>& n) {
                                   done(error_of_write(n), n ? *n : 0);
                                 });
  }

  int truncate(std::uint64_t size_bytes) override { return errno_of(file_.truncate(size_bytes)); }
  int punch_hole(std::uint64_t offset, std::uint64_t size_bytes) override {
    return errno_of(file_.punch_hole(range_of(offset, size_bytes)));
  }
  int zero_range(std::uint64_t offset, std::uint64_t size_bytes, bool keep_size) override {
    return errno_of(file_.zero_range(range_of(offset, size_bytes), keep_size));
  }

  int seek(std::uint64_t offset, bool data, std::uint64_t& found) override {
    if (!file_.is_dirty()) return source_.seek(offset, data, found);
    // In this order: a flush that ends in between moves ranges from dirty to stored, and they are in both. The other
    // way round they would be in neither, and data would pass for a hole.
    const auto dirty = pool_.dirty_extents(name_);
    const auto meta = file_.metadata();
    if (offset >= meta.size()) return ENXIO;
    auto at = offset;
    for (auto run = next_data(at, meta, dirty); run; run = next_data(at, meta, dirty)) {
      if (data) {
        found = run->offset();
        return 0;
      }
      if (run->offset() > at) break;
      at = run->end();
    }
    if (data) return ENXIO;
    found = at;
    return 0;
  }

  int flush() override { return end_flush(file_.flush().error()); }
  void flush_later(const Keep& keep, std::function<void(int)> done) override {
    if (!file_.is_dirty()) return done(end_flush({}));
    tarn::fuse::start_keeping(
        ref(keep), [](File& file, auto ended) { return tarn::flush_operation(file, ended); },
        [this, done = std::move(done)](Ref&, const tarn::Result<std::uint64_t>& stored) {
          done(end_flush(stored.error()));
        });
  }
  void sync_later(bool data_only, const Keep& keep, std::function<void(int)> done) override {
    const auto scope = data_only ? tarn::SyncScope::data : tarn::SyncScope::all;
    tarn::fuse::start_keeping(
        ref(keep), [scope](File& file, auto ended) { return tarn::sync_operation(file, ended, scope); },
        [this, data_only, done = std::move(done)](Ref& kept, const auto& synced) {
          if (const int error = end_flush(synced.error())) return done(error);
          sync_rest(data_only, std::move(kept), done);
        });
  }

  std::vector<Range> dirty_ranges() const override {
    const auto dirty = pool_.dirty_extents(name_);
    std::vector<Range> ranges;
    for (const auto& extent : dirty.extents()) ranges.push_back({extent.offset(), extent.size_bytes()});
    return ranges;
  }
  bool is_dirty() const override { return file_.is_dirty(); }
  std::uint64_t dirty_bytes() const override { return pool_.dirty_bytes(name_); }
  std::uint64_t size_bytes() const override { return file_.size(); }

 private:
  Ref ref(const Keep& keep) { return Ref{file_, keep, shared_}; }

  /// Memory is full and cannot be stored: what SOURCE said says more than that no buffer is left.
  int error_of_write(const tarn::Result<std::size_t>& n) const {
    const int error = errno_of(n);
    return error == ENOBUFS && store_.last_error() ? store_.last_error() : error;
  }

  /// What comes after the bytes: the mtime, in one call of SOURCE.
  int end_flush(std::error_code failed) {
    if (failed) {
      const int error = errno_of(failed);
      if (!store_.has_told(error)) source_.report_failure("cannot store", error);
      return error;
    }
    const int error = source_.settle_times();
    if (error) source_.report_failure("cannot set the time", error);
    return error;
  }
  /// The bytes are durable; what else has changed in SOURCE may not be.
  void sync_rest(bool data_only, Ref ref, const std::function<void(int)>& done) noexcept {
    if (!source_.needs_sync(data_only)) return done(0);
    try {
      shared_.loaders.post_call([this, data_only, done, kept = std::move(ref)] {
        const int error = source_.sync(data_only);
        if (error) {
          store_.note_failed_beside(error);
          source_.report_failure("fsync", error);
        }
        done(error);
      });
    } catch (const std::bad_alloc&) {
      done(ENOMEM);
    }
  }

  static int reply_bytes(fuse_req_t request, const std::byte* bytes, std::size_t size_bytes) {
    fuse_reply_buf(request, reinterpret_cast<const char*>(bytes), size_bytes);
    return replied;
  }

  /// The next run of data at or behind `at`: dirty, or what of SOURCE's data shows.
  std::optional<tarn::ByteRange> next_data(std::uint64_t at, const Metadata& meta, const tarn::ExtentSet& dirty) {
    const auto rest = tarn::ByteRange::between(std::min(at, meta.size()), meta.size());
    auto next = dirty.next_in(rest);
    for (std::uint64_t from = rest.offset(), begin = 0, end = 0; source_.seek(from, true, begin) == 0; from = end) {
      if (begin >= rest.end() || (next && begin >= next->offset()) || source_.seek(begin, false, end) != 0) break;
      const auto shown = meta.stored().next_in(rest.intersect(range_of(begin, end - begin)));
      if (!shown) continue;
      if (!next || shown->offset() < next->offset()) next = shown;
      break;
    }
    return next;
  }

  Shared<Traits>& shared_;
  tarn::ChunkPool<Traits>& pool_;
  SourceFile& source_;
  SourceStore<Traits> store_;
  const Metadata name_;  ///< to ask the pool by: it looks at the id alone
  File file_;
};

template <class Traits>
class TarnPool final : public ContentPool {
 public:
  explicit TarnPool(const ContentOptions& options)
      : part_bytes_{options.part_bytes}, shared_{options, pool_options(options)} {}

  static tarn::PoolOptions pool_options(const ContentOptions& options) {
    return {.budget_bytes = options.budget_bytes, .chunk_bytes = options.chunk_bytes, .prefault = options.prefault};
  }
  static std::uint64_t min_budget_bytes(const ContentOptions& options) {
    return tarn::ChunkPool<Traits>::min_budget_bytes(pool_options(options));
  }

  std::unique_ptr<Content> add(SourceFile& source, std::uint64_t id, std::uint64_t size_bytes) override {
    return std::make_unique<TarnContent<Traits>>(
        shared_, source, tarn::MetadataFor<Traits>::from_store(id, size_bytes, {.part_bytes = part_bytes_}));
  }
  int serve(fuse_session* session, unsigned threads, bool one_a_cpu) override {
    return tarn::fuse::serve(session, shared_.pool, {.workers = threads, .one_a_cpu = one_a_cpu});
  }
  void wait_until_idle() override { shared_.operations.wait_for_none(); }
  std::string stats() const override {
    std::string lines;
    tarn::for_each_value(shared_.pool.stats(), [&](const char* name, std::uint64_t value) {
      lines += std::string{name} + ' ' + std::to_string(value) + '\n';
    });
    return lines;
  }

 private:
  const std::uint64_t part_bytes_;
  Shared<Traits> shared_;
};

}  // namespace

std::string ContentPool::check(const ContentOptions& options) {
  if (!tarn::ChunkLayout::make(options.chunk_bytes, options.chunk_bytes)) {
    return "--chunk-size " + std::to_string(options.chunk_bytes) + " is not a power of two";
  }
  if (!tarn::ChunkLayout::make(options.chunk_bytes, options.part_bytes)) {
    return "--part-size " + std::to_string(options.part_bytes) + " is not a multiple of the chunk size, " +
           std::to_string(options.chunk_bytes);
  }
  const auto least = options.storage == StorageKind::arena ? TarnPool<ArenaTraits>::min_budget_bytes(options)
                                                           : TarnPool<HeapTraits>::min_budget_bytes(options);
  if (options.budget_bytes < least) {
    return "--budget " + std::to_string(options.budget_bytes) + " is below the least that works here, " +
           std::to_string(least);
  }
  return {};
}

std::unique_ptr<ContentPool> ContentPool::make(const ContentOptions& options) {
  if (options.storage == StorageKind::heap) return std::make_unique<TarnPool<HeapTraits>>(options);
  return std::make_unique<TarnPool<ArenaTraits>>(options);
}

void configure_connection(fuse_conn_info& connection) { tarn::fuse::configure(&connection); }

}  // namespace tarnfs
