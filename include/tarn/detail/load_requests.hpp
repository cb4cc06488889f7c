// SPDX-License-Identifier: MIT
#pragma once

// What a load asks the store for: its requests, one for each part at most, and where the bytes of each go.
//
// A request covers wanted bytes alone; of a store that gives whole parts, the part as far as the store has it. Bytes go
// to the chunk reserved for them, or to the reader's buffer; those that have neither to memory of the request's own. No
// byte of memory appears twice in a request: a store may check or decode a part where it has put it.
//
// Thread safety: list is one call's own; after it, const calls from many threads.

#include <sys/uio.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include <tarn/chunk_layout.hpp>
#include <tarn/detail/load_places.hpp>
#include <tarn/detail/small_vector.hpp>
#include <tarn/extent_set.hpp>
#include <tarn/store_request.hpp>

namespace tarn::detail {

/// Whose bytes are asked for.
template <class Traits>
struct LoadSource {
  std::optional<typename Traits::FileId> file;
  std::optional<typename Traits::ContentId> content;
  std::uint64_t version;
};

template <class Traits>
class LoadRequests {
 public:
  struct Asked {
    LoadRequest<Traits> request{};
    SmallVector<::iovec, usual_load_chunks> buffers;       // what request.into shows
    std::vector<std::unique_ptr<std::byte[]>> own_memory;  // of the bytes that have no other place
    std::int64_t asked_ns = 0;                             // if the observer hears how long it took
  };

  /// `shift` is added to an offset of the sets and places to make one of the source. `whole`: of the parts of `wanted`,
  /// all that is to be asked for; empty: `wanted`. `places`: ascending. `into`, if not null, takes the first extent of
  /// `wanted`.
  /// Errors:  throws bad_alloc; then clear.
  void list(LoadSource<Traits> source, const ChunkLayout& layout, std::uint64_t shift, const ExtentSet& wanted,
            const ExtentSet& whole, std::span<const LoadPlace<Traits>> places, std::byte* into) {
    source_ = std::move(source);
    std::uint64_t asked_end = 0;
    for (const auto& extent : wanted.extents()) {
      for (auto at = std::max(extent.offset(), asked_end); at < extent.end(); at = asked_end) {
        const auto number = layout.part_of(at + shift);
        const auto in_source = layout.part_range(number);
        const auto part = ByteRange::between(in_source.offset() - shift, in_source.end() - shift);
        auto range = ByteRange::between(at, std::min(extent.end(), part.end()));
        if (!whole.empty()) range = *whole.next_in(part);
        asked_end = range.end();
        const auto first = into == nullptr ? ByteRange{} : wanted.extents().front().intersect(range);
        auto& asked = add_one();
        list_buffers(layout, range, first, into, places, asked);
        asked.request = {.file = source_.file ? &*source_.file : nullptr,
                         .content = source_.content ? &*source_.content : nullptr,
                         .range = ByteRange::between(range.offset() + shift, range.end() + shift),
                         .part = number,
                         .offset_in_part = range.offset() - part.offset(),
                         .version = source_.version,
                         .into = MutableBuffers{asked.buffers.span()}};
      }
    }
  }
  void clear() noexcept {
    first_.reset();
    others_.clear();
  }

  [[nodiscard]] std::size_t size() const { return others_.size() + (first_ ? 1 : 0); }
  [[nodiscard]] Asked& operator[](std::size_t index) { return index == 0 ? *first_ : *others_[index - 1]; }
  [[nodiscard]] const Asked& operator[](std::size_t index) const { return index == 0 ? *first_ : *others_[index - 1]; }

 private:
  [[nodiscard]] Asked& add_one() {
    if (!first_) return first_.emplace();
    return *others_.emplace_back(std::make_unique<Asked>());
  }
  static void list_buffers(const ChunkLayout& layout, ByteRange range, ByteRange first, std::byte* into,
                           std::span<const LoadPlace<Traits>> places, Asked& asked) {
    auto at = range.offset();
    const auto put = [&](ByteRange bytes, std::byte* memory) {
      add_own_memory(asked, static_cast<std::size_t>(bytes.offset() - at));
      add_buffer(asked, memory, static_cast<std::size_t>(bytes.size_bytes()));
      at = bytes.end();
    };
    if (!first.empty()) {
      put(first, into);
    } else {
      for (const auto& place : places) {
        const auto in_chunk = layout.in_chunk(place.index, range);
        if (!in_chunk.empty()) {
          put(layout.chunk_range(place.index).intersect(range), place.fresh->memory + in_chunk.offset());
        }
      }
    }
    add_own_memory(asked, static_cast<std::size_t>(range.end() - at));
  }
  static void add_own_memory(Asked& asked, std::size_t size) {
    if (size == 0) return;
    asked.own_memory.push_back(std::make_unique_for_overwrite<std::byte[]>(size));
    add_buffer(asked, asked.own_memory.back().get(), size);
  }
  static void add_buffer(Asked& asked, std::byte* memory, std::size_t size) {
    auto& buffers = asked.buffers;
    if (!buffers.empty() && static_cast<std::byte*>(buffers.back().iov_base) + buffers.back().iov_len == memory) {
      buffers.back().iov_len += size;
    } else {
      buffers.push_back({memory, size});
    }
  }

  LoadSource<Traits> source_;
  std::optional<Asked> first_;  // which is all that most loads have
  std::vector<std::unique_ptr<Asked>> others_;
};

}  // namespace tarn::detail
