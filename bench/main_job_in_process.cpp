// SPDX-License-Identifier: MIT
// The main job where nothing can be mounted: the same reader and writer, with the library in its own process. Files
// below an attached folder go through a pool, to and from the files of that folder; all others are plain files.
//
// The last copy of a read, which in a mount is the kernel's, is a copy to the reader's buffer here, on every read path.

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <system_error>
#include <tarn/buffers.hpp>
#include <tarn/chunk_pool.hpp>
#include <tarn/dirty_file_metadata.hpp>
#include <tarn/flush.hpp>
#include <tarn/read_range.hpp>
#include <tarn/store.hpp>
#include <tarn/truncate.hpp>
#include <tarn/write_range.hpp>
#include <type_traits>
#include <utility>
#include <vector>

#include "file_session.hpp"
#include "system_file.hpp"

namespace {

using tarn::ByteRange;
using tarn_bench::OpenMode;
using Traits = tarn::DefaultTraits;

std::error_code last_error() { return {errno, std::generic_category()}; }

template <class T>
T must(tarn::Result<T> result) {
  if (!result) throw std::system_error(result.error());
  if constexpr (!std::is_void_v<T>) return *std::move(result);
}

/// The bytes of one file of the system.
class FileStore {
 public:
  explicit FileStore(const std::string& path)
      : path_(path), fd_(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644)) {
    if (fd_ < 0) tarn_bench::fail("open");
  }
  FileStore(const FileStore&) = delete;
  FileStore& operator=(const FileStore&) = delete;
  ~FileStore() { ::close(fd_); }

  std::uint64_t size() const {
    struct stat status {};
    if (fstat(fd_, &status) != 0) tarn_bench::fail("fstat");
    return static_cast<std::uint64_t>(status.st_size);
  }

  tarn::Result<std::size_t> load(const tarn::LoadRequest<Traits>& request) {
    std::size_t done = 0;
    for (std::size_t i = 0; i < request.into.count(); ++i) {
      for (auto rest = request.into[i]; !rest.empty();) {
        const auto got = pread(fd_, rest.data(), rest.size(), static_cast<off_t>(request.range.offset() + done));
        if (got < 0) return tarn::fail(last_error());
        if (got == 0) return done;
        done += static_cast<std::size_t>(got);
        rest = rest.subspan(static_cast<std::size_t>(got));
      }
    }
    return done;
  }

  tarn::FlushOutcome<Traits> flush(const tarn::FlushRequest<Traits>& request) {
    std::error_code error;
    if (ftruncate(fd_, static_cast<off_t>(request.size_bytes)) != 0) error = last_error();
    request.for_each_piece([&](std::uint64_t offset, std::span<const std::byte> piece, bool zero) {
      if (zero && offset >= request.store_size_bound_bytes) return;  // setting the size left zeros there
      while (!error && !piece.empty()) {
        const auto put = pwrite(fd_, piece.data(), piece.size(), static_cast<off_t>(offset));
        if (put < 0) {
          error = last_error();
        } else {
          offset += static_cast<std::uint64_t>(put);
          piece = piece.subspan(static_cast<std::size_t>(put));
        }
      }
    });
    return error ? tarn::FlushOutcome<Traits>::failed(error) : tarn::FlushOutcome<Traits>::stored();
  }

  tarn::Result<> remove(const Traits::FileId&) {
    if (::unlink(path_.c_str()) != 0) return tarn::fail(last_error());
    return {};
  }

 private:
  std::string path_;
  int fd_;
};

struct PooledFile {
  PooledFile(const std::string& path, std::uint64_t id, std::uint64_t part_bytes)
      : store(path), meta(tarn::DirtyFileMetadata::from_store(id, store.size(), {.part_bytes = part_bytes})) {}
  FileStore store;
  tarn::DirtyFileMetadata meta;
};

/// Answers a read into the reader's buffer. Returns: the bytes read, fewer than asked only at end of file.
using ReadPath = std::size_t (*)(tarn::ChunkPool<>& pool, PooledFile& file, std::uint64_t offset,
                                 std::size_t size_bytes, std::byte* reader);

/// The plan's two paths: what is asked for, chunk by chunk, into a fresh vector. take(pin, range in the chunk, vector)
/// adds the bytes of one chunk.
template <class Take>
std::size_t read_by_vector(tarn::ChunkPool<>& pool, PooledFile& file, std::uint64_t offset, std::size_t size_bytes,
                           std::byte* reader, bool reserves, Take take) {
  const auto layout = must(pool.layout(file.meta));
  const std::uint64_t end = std::min<std::uint64_t>(offset + size_bytes, file.meta.size());
  if (offset >= end) return 0;
  std::vector<std::byte> result;
  if (reserves) result.reserve(static_cast<std::size_t>(end - offset));
  for (std::uint64_t at = offset; at < end;) {
    const std::uint64_t chunk = layout.chunk_of(at);
    const std::uint64_t start = layout.offset_in_chunk(at);
    const std::uint64_t size = std::min(end - at, layout.chunk_bytes() - start);
    const auto pin = pool.pin(file.meta, chunk);
    if (!pin || !take(*pin, ByteRange::between(start, start + size), result)) {
      // A hole, or not held yet.
      const std::size_t before = result.size();
      result.resize(before + static_cast<std::size_t>(size));
      must(tarn::read_range(pool, file.meta, at, std::span{result}.subspan(before), file.store));
    }
    at += size;
  }
  std::memcpy(reader, result.data(), result.size());
  return result.size();
}

std::size_t read_before(tarn::ChunkPool<>& pool, PooledFile& file, std::uint64_t offset, std::size_t size_bytes,
                        std::byte* reader) {
  return read_by_vector(pool, file, offset, size_bytes, reader, false,
                        [&](const auto& pin, ByteRange range, std::vector<std::byte>& result) {
                          // The whole chunk, as far as the file reaches; then byte by byte.
                          auto clone = pin.clone(ByteRange::between(0, pool.chunk_bytes()));
                          std::size_t first = static_cast<std::size_t>(range.offset());
                          if (!clone) {
                            clone = pin.clone(range);
                            first = 0;
                          }
                          if (!clone) return false;
                          for (std::size_t i = first; i < first + range.size_bytes(); ++i)
                            result.push_back((*clone)[i]);
                          return true;
                        });
}

std::size_t read_after(tarn::ChunkPool<>& pool, PooledFile& file, std::uint64_t offset, std::size_t size_bytes,
                       std::byte* reader) {
  return read_by_vector(pool, file, offset, size_bytes, reader, true,
                        [](const auto& pin, ByteRange range, std::vector<std::byte>& result) {
                          return pin
                              .with_data(range,
                                         [&](std::span<const std::byte> bytes) {
                                           result.insert(result.end(), bytes.begin(), bytes.end());
                                         })
                              .has_value();
                        });
}

std::size_t read_copy(tarn::ChunkPool<>& pool, PooledFile& file, std::uint64_t offset, std::size_t size_bytes,
                      std::byte* reader) {
  static const tarn_bench::WarmBuffer reply{tarn_bench::block_bytes_max};
  const auto got = must(tarn::read_range(pool, file.meta, offset, std::span{reply.data(), size_bytes}, file.store));
  std::memcpy(reader, reply.data(), got);
  return got;
}

std::size_t read_gather(tarn::ChunkPool<>& pool, PooledFile& file, std::uint64_t offset, std::size_t size_bytes,
                        std::byte* reader) {
  std::size_t done = 0;
  while (done < size_bytes) {
    const auto window = std::min<std::uint64_t>(size_bytes - done, pool.window_bytes());
    const auto got =
        must(tarn::read_range(pool, file.meta, offset + done, window, file.store, [&](tarn::ConstBuffers bytes) {
          return bytes.copy_to(std::span{reader + done, size_bytes - done});
        }));
    done += got;
    if (got < window) break;  // end of file
  }
  return done;
}

/// A folder whose files go through a pool.
class Attachment {
 public:
  Attachment(ReadPath read_path, std::uint64_t budget_bytes, std::uint64_t part_bytes)
      : read_path_(read_path), part_bytes_(part_bytes), pool_({.budget_bytes = budget_bytes}) {}

  PooledFile& file(const std::string& path) {
    auto& file = files_[path];
    if (!file) file = std::make_unique<PooledFile>(path, ++last_id_, part_bytes_);
    return *file;
  }
  void flush(PooledFile& file) { must(tarn::flush(pool_, file.meta, file.store)); }
  void flush_all() {
    for (const auto& [path, file] : files_) flush(*file);
  }
  void unlink(const std::string& path) {
    PooledFile& gone = file(path);
    pool_.drop(gone.meta);
    must(gone.store.remove(gone.meta.id()));
    files_.erase(path);
  }

  std::size_t read(PooledFile& file, std::byte* into, std::size_t size, std::uint64_t offset) {
    return read_path_(pool_, file, offset, size, into);
  }
  void write(PooledFile& file, const std::byte* from, std::size_t size, std::uint64_t offset) {
    if (must(tarn::write_range(pool_, file.meta, offset, std::span{from, size})) != size) {
      throw std::runtime_error("a write was short");
    }
  }
  void truncate(PooledFile& file, std::uint64_t size) { must(tarn::truncate(pool_, file.meta, size)); }
  std::uint64_t dirty_bytes() const { return pool_.stats().dirty_bytes; }

 private:
  ReadPath read_path_;
  std::uint64_t part_bytes_;
  tarn::ChunkPool<> pool_;
  std::uint64_t last_id_ = 0;
  std::map<std::string, std::unique_ptr<PooledFile>> files_;
};

class OpenPooledFile : public tarn_bench::File {
 public:
  OpenPooledFile(Attachment& at, PooledFile& file) : at_(at), file_(file) {}

  std::size_t read(std::byte* into, std::size_t size, std::uint64_t offset) override {
    return at_.read(file_, into, size, offset);
  }
  void write(const std::byte* from, std::size_t size, std::uint64_t offset) override {
    at_.write(file_, from, size, offset);
  }
  void append(const std::byte* from, std::size_t size) override { at_.write(file_, from, size, file_.meta.size()); }
  void truncate(std::uint64_t size) override { at_.truncate(file_, size); }
  std::uint64_t size() override { return file_.meta.size(); }
  void close() override { at_.flush(file_); }

 private:
  Attachment& at_;
  PooledFile& file_;
};

class Attachments {
 public:
  /// The attachment that a path lies in, or null.
  Attachment* find(const std::string& path) {
    for (auto& [folder, attachment] : by_folder_) {
      if (path.starts_with(folder + "/")) return attachment.get();
    }
    return nullptr;
  }

  std::unique_ptr<tarn_bench::File> open(const std::string& path, OpenMode mode) {
    Attachment* const at = find(path);
    if (at == nullptr) return std::make_unique<tarn_bench::SystemFile>(path, mode);
    PooledFile& file = at->file(path);
    if (mode == OpenMode::create) at->truncate(file, 0);
    return std::make_unique<OpenPooledFile>(*at, file);
  }

  // FOLDER READ_PATH BUDGET_BYTES PART_BYTES
  std::string attach(tarn_bench::Words& words) {
    static const std::map<std::string, ReadPath> paths = {
        {"before", read_before}, {"after", read_after}, {"copy", read_copy}, {"gather", read_gather}};
    const std::string folder = words.word();
    const ReadPath path = paths.at(words.word());
    const std::uint64_t budget_bytes = words.number(), part_bytes = words.number();
    by_folder_[folder] = std::make_unique<Attachment>(path, budget_bytes, part_bytes);
    return "";
  }

  // FOLDER: stores everything and lets go of it.
  std::string detach(tarn_bench::Words& words) {
    const std::string folder = words.word();
    by_folder_.at(folder)->flush_all();
    by_folder_.erase(folder);
    return "";
  }

  std::string stats(tarn_bench::Words& words) {
    return "\"dirty_bytes\": " + std::to_string(by_folder_.at(words.word())->dirty_bytes());
  }

  std::string unlink(tarn_bench::Words& words) {
    const std::string path = words.word();
    Attachment* const at = find(path);
    if (at == nullptr) throw std::invalid_argument("not in an attached folder");
    at->unlink(path);
    return "";
  }

 private:
  std::map<std::string, std::unique_ptr<Attachment>> by_folder_;
};

}  // namespace

int main() {
  Attachments attachments;
  tarn_bench::Session session([&](const std::string& path, OpenMode mode) { return attachments.open(path, mode); });
  session.add("attach", [&](tarn_bench::Words& words) { return attachments.attach(words); });
  session.add("detach", [&](tarn_bench::Words& words) { return attachments.detach(words); });
  session.add("stats", [&](tarn_bench::Words& words) { return attachments.stats(words); });
  session.add("unlink", [&](tarn_bench::Words& words) { return attachments.unlink(words); });
  session.serve();
  session.close_all();
}
