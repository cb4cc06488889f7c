// SPDX-License-Identifier: MIT
#include "content.hpp"

#include <tarn/chunk_layout.hpp>
#include <tarn/chunk_pool.hpp>
#include <tarn/dirty_file.hpp>
#include <tarn/fuse.hpp>

#include <algorithm>
#include <optional>

#include "read_paths.hpp"
#include "source_store.hpp"

namespace tarnfs {
namespace {

struct ArenaTraits : tarn::DefaultTraits {
  using Storage = tarn::ArenaStorage;
};
struct HeapTraits : tarn::DefaultTraits {
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

template <class Traits>
class TarnContent final : public Content {
 public:
  using Pool = tarn::ChunkPool<Traits>;
  using Metadata = tarn::MetadataFor<Traits>;

  TarnContent(Pool& pool, ReadPath read_path, SourceFile& source, Metadata meta)
      : pool_{pool},
        read_path_{read_path},
        source_{source},
        store_{source},
        name_{Metadata::created(meta.id())},
        file_{pool, std::move(meta), store_} {}

  int reply_read(fuse_req_t request, std::size_t size_bytes, std::uint64_t offset) override {
    switch (read_path_) {
      case ReadPath::gather:
        tarn::fuse::reply_read(request, file_, size_bytes, static_cast<off_t>(offset));
        return replied;
      case ReadPath::copy: {
        static thread_local Bytes kept;  // of the thread, so that it is faulted in once
        const auto n = read_copy(file_, offset, size_bytes, kept);
        return n ? reply_bytes(request, kept.data(), *n) : errno_of(n);
      }
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
  int read(std::span<std::byte> into, std::uint64_t offset, std::size_t& done) override {
    const auto read = file_.read(offset, into);
    if (read) done = *read;
    return errno_of(read);
  }
  int write(fuse_bufvec& from, std::uint64_t offset, std::size_t& written) override {
    const auto n = tarn::fuse::write_from(file_, &from, static_cast<off_t>(offset));
    if (n) {
      written = *n;
      return 0;
    }
    // Memory is full and cannot be stored: what SOURCE said says more than that no buffer is left.
    const int error = errno_of(n);
    return error == ENOBUFS && store_.last_error() ? store_.last_error() : error;
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

  int flush() override {
    if (const auto stored = file_.flush(); !stored) {
      const int error = errno_of(stored);
      if (error != store_.last_error()) source_.report_failure("cannot store", error);
      return error;
    }
    const int error = source_.settle_times();
    if (error) source_.report_failure("cannot set the time", error);
    return error;
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

  Pool& pool_;
  const ReadPath read_path_;
  SourceFile& source_;
  SourceStore<Traits> store_;
  const Metadata name_;  ///< to ask the pool by: it looks at the id alone
  tarn::DirtyFile<Traits, SourceStore<Traits>> file_;
};

template <class Traits>
class TarnPool final : public ContentPool {
 public:
  explicit TarnPool(const ContentOptions& options)
      : read_path_{options.read_path}, part_bytes_{options.part_bytes}, pool_{pool_options(options)} {}

  static tarn::PoolOptions pool_options(const ContentOptions& options) {
    return {.budget_bytes = options.budget_bytes, .chunk_bytes = options.chunk_bytes, .prefault = options.prefault};
  }
  static std::uint64_t min_budget_bytes(const ContentOptions& options) {
    return tarn::ChunkPool<Traits>::min_budget_bytes(pool_options(options));
  }

  std::unique_ptr<Content> add(SourceFile& source, std::uint64_t id, std::uint64_t size_bytes) override {
    return std::make_unique<TarnContent<Traits>>(
        pool_, read_path_, source, tarn::MetadataFor<Traits>::from_store(id, size_bytes, {.part_bytes = part_bytes_}));
  }
  std::string stats() const override {
    std::string lines;
    tarn::for_each_value(pool_.stats(), [&](const char* name, std::uint64_t value) {
      lines += std::string{name} + ' ' + std::to_string(value) + '\n';
    });
    return lines;
  }

 private:
  const ReadPath read_path_;
  const std::uint64_t part_bytes_;
  tarn::ChunkPool<Traits> pool_;
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
