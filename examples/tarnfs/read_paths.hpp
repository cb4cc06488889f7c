// SPDX-License-Identifier: MIT
#pragma once

// The read path that tarn grew out of, before and after its plan was carried out, for comparison. Both read the chunks
// that every other path reads, and answer with a fresh vector.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <span>
#include <vector>

#include <tarn/chunk_pool.hpp>

namespace tarnfs {

using Bytes = std::vector<std::byte>;

namespace detail {

/// Calls f(chunk's index, where in the chunk) for each chunk of [offset, end).
template <class F>
tarn::Result<> for_each_chunk(std::uint64_t offset, std::uint64_t end, std::uint64_t chunk_bytes, F&& f) {
  while (offset < end) {
    const auto in_chunk = offset % chunk_bytes;
    const auto size = std::min(end - offset, chunk_bytes - in_chunk);
    if (const tarn::Result<> done = f(offset / chunk_bytes, tarn::ByteRange::between(in_chunk, in_chunk + size));
        !done) {
      return done;
    }
    offset += size;
  }
  return {};
}

}  // namespace detail

/// Before: each chunk is cloned whole, and what is wanted of it pushed to the answer byte by byte.
/// A chunk that is not held, or has a hole, comes by way of file.read, which loads it; the next read finds it.
template <class Pool, class Metadata, class File>
tarn::Result<Bytes> read_before(Pool& pool, const Metadata& meta, File& file, std::uint64_t offset,
                                std::uint64_t size_bytes) {
  Bytes answer;
  const auto file_end = file.size();
  if (offset >= file_end) return answer;
  const auto end = offset + std::min(size_bytes, file_end - offset);
  const auto chunk_bytes = pool.chunk_bytes();
  const auto done = detail::for_each_chunk(
      offset, end, chunk_bytes, [&](std::uint64_t index, tarn::ByteRange wanted) -> tarn::Result<> {
        const auto held = std::min(chunk_bytes, file_end - index * chunk_bytes);
        Bytes chunk;
        if (const auto pin = pool.pin(meta, index)) {
          if (auto cloned = pin->clone(tarn::ByteRange::between(0, held))) chunk = std::move(*cloned);
        }
        if (chunk.empty()) {
          chunk.resize(static_cast<std::size_t>(held));
          const tarn::Result<std::size_t> read = file.read(index * chunk_bytes, std::span{chunk});
          if (!read) return tarn::fail(read.error());
          chunk.resize(*read);
        }
        for (auto at = wanted.offset(); at < wanted.end(); ++at) {
          answer.push_back(at < chunk.size() ? chunk[static_cast<std::size_t>(at)] : std::byte{0});
        }
        return {};
      });
  if (!done) return tarn::fail(done.error());
  return answer;
}

/// After: the answer is reserved, and what is wanted appended to it straight from the chunk.
template <class Pool, class Metadata, class File>
tarn::Result<Bytes> read_after(Pool& pool, const Metadata& meta, File& file, std::uint64_t offset,
                               std::uint64_t size_bytes) {
  Bytes answer;
  const auto file_end = file.size();
  if (offset >= file_end) return answer;
  const auto end = offset + std::min(size_bytes, file_end - offset);
  const auto chunk_bytes = pool.chunk_bytes();
  answer.reserve(static_cast<std::size_t>(end - offset));
  const auto done = detail::for_each_chunk(
      offset, end, chunk_bytes, [&](std::uint64_t index, tarn::ByteRange wanted) -> tarn::Result<> {
        if (const auto pin = pool.pin(meta, index)) {
          if (pin->with_data(wanted, [&](std::span<const std::byte> bytes) {
                answer.insert(answer.end(), bytes.begin(), bytes.end());
              })) {
            return {};
          }
        }
        const auto had = answer.size();
        answer.resize(had + static_cast<std::size_t>(wanted.size_bytes()));
        const tarn::Result<std::size_t> read =
            file.read(index * chunk_bytes + wanted.offset(), std::span{answer}.subspan(had));
        return read ? tarn::Result<>{} : tarn::fail(read.error());
      });
  if (!done) return tarn::fail(done.error());
  return answer;
}

/// A buffer that is kept and grows, in place of a fresh one for each read. It begins at a page, so that the kernel takes
/// each page of it in one piece.
class KeptBuffer {
 public:
  [[nodiscard]] std::span<std::byte> first(std::size_t size_bytes) {
    if (size_bytes > size_bytes_) {
      size_bytes_ = 0;
      memory_.reset();
      memory_.reset(new (page) std::byte[size_bytes]);
      size_bytes_ = size_bytes;
    }
    return {memory_.get(), size_bytes};
  }

 private:
  static constexpr std::align_val_t page{4096};
  struct Free {
    void operator()(std::byte* memory) const { ::operator delete[](memory, page); }
  };

  std::unique_ptr<std::byte[], Free> memory_;
  std::size_t size_bytes_ = 0;
};

}  // namespace tarnfs
