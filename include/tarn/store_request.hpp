// SPDX-License-Identifier: MIT
#pragma once

// What a store is asked, and what it answers: plain values.

#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <system_error>
#include <utility>
#include <vector>

#include <tarn/buffers.hpp>
#include <tarn/byte_range.hpp>
#include <tarn/result.hpp>

namespace tarn {

/// "Give me these bytes." One request never leaves one part. A flush or a removal may overtake it: where the store then
/// has the bytes no more, any error will do, for nobody waits for them as they were.
template <class Traits>
struct LoadRequest {
  const typename Traits::FileId* file;        ///< null when the bytes were asked for by content id alone
  const typename Traits::ContentId* content;  ///< the content id of the part; null: the bytes are the file's own
  ByteRange range;                            ///< in the file; by content id alone, in the content
  std::uint64_t part = 0;
  std::uint64_t offset_in_part = 0;
  std::uint64_t version = 0;  ///< of the file as tarn knows it: answer bytes of this version, or ESTALE
  MutableBuffers into;        ///< range.size_bytes() bytes in all
};

/// What one load request asks a store for that says so by `static constexpr LoadUnit load_unit`.
enum class LoadUnit : std::uint8_t {
  ranges,  ///< what is missing; without a word, this
  parts,   ///< all of one part, for a store that decodes, checks or fetches a part as a whole: from the part's start to
           ///< the last byte of it that tarn knows to be stored. What of it is held already, changed, or more than the
           ///< pool has room for goes to memory of the load's own, at most a part, beside the budget. Of content alone
           ///< (ChunkPool::get_or_load) nobody says how long it is: that load is of the chunk
};

/// What one flush request brings a store that says so by `static constexpr FlushUnit flush_unit`.
enum class FlushUnit : std::uint8_t {
  ranges,  ///< what is dirty, up to the end of the part in which the first of it lies; without a word, this
  parts,   ///< all of one part, for a store that writes parts anew: see FlushRequest::covers. Below the size a part
           ///< that it was never brought is zero: a huge hole is not a request a part
  file,    ///< all that is dirty in the file, of one moment: see FlushRequest::consistent
};

/// Bytes that a flush stores, or a hole that it stores as zeros.
struct FlushRange {
  ByteRange range;
  bool zero = false;
  friend bool operator==(const FlushRange&, const FlushRange&) = default;
};

/// "Store these bytes." A naive store sets the size first (cutting off what is past it; growth reads as zero), then
/// writes every piece: that is always right, but a file that was only made huge has as many pieces as it has mebibytes.
/// A better store goes by `ranges`: it punches those marked zero, each in one call, and skips those at or past
/// `store_size_bound_bytes`, where setting the size left zeros already.
template <class Traits>
struct FlushRequest {
  const typename Traits::FileId* file;
  std::uint64_t size_bytes;              ///< the size to set
  std::uint64_t store_size_bound_bytes;  ///< the store holds no byte at or past it, whatever failed before
  std::uint64_t version;                 ///< the version these changes were made to
  std::uint64_t generation;              ///< rises with every flush of the pool: fences one whose fate is unknown;
                                         ///< where a store takes several at once, one in the same part, and if this
                                         ///< changes the size, any
  ByteRange covers = {};    ///< of FlushUnit::parts alone: the part, as far as the file reaches. What of it is in no
                            ///< range the store has, in `version` (or by the part's content id). If there is none,
                            ///< only the size is to be set; parts past that go, and are zero if it grows again
  bool consistent = false;  ///< no write is half in it. Of a whole file, unless memory was short; else false
  std::span<const FlushRange> ranges;  ///< ascending, apart; those with data lie in one part, but for a whole file
  std::span<const ::iovec> data;       ///< the bytes of the ranges that are not zero, in order; may be thousands of
                                       ///< pieces, more than one writev takes (IOV_MAX)

  /// Calls f(offset, span of bytes, zero) in file order; zeros come as spans of a shared zero area, a mebibyte at most.
  /// No piece crosses a range.
  template <class F>
  void for_each_piece(F&& f) const {
    auto next = data.begin();
    for (const auto& [range, zero] : ranges) {
      for (auto at = range.offset(); at < range.end();) {
        if (zero) {
          const auto n = std::min<std::uint64_t>(range.end() - at, detail::zero_area_bytes);
          f(at, std::span{detail::zero_area(), static_cast<std::size_t>(n)}, true);
          at += n;
        } else {
          f(at, std::span{static_cast<const std::byte*>(next->iov_base), next->iov_len}, false);
          at += (next++)->iov_len;
        }
      }
    }
  }
  /// The same over all of `covers`, in order: what is in no range comes from the part as the store has it, in pieces
  /// of at most scratch.size(), by fetch(range, into), which answers a Result<std::size_t>; fewer bytes than asked are
  /// EIO.
  template <class Fetch, class F>
  [[nodiscard]] Result<> for_each_piece_of_part(std::span<std::byte> scratch, Fetch&& fetch, F&& f) const {
    auto at = covers.offset();
    std::error_code failed;
    const auto keep_up_to = [&](std::uint64_t end) {
      while (!failed && at < end) {
        const auto n = static_cast<std::size_t>(std::min<std::uint64_t>(scratch.size(), end - at));
        const Result<std::size_t> fetched = fetch(ByteRange::between(at, at + n), scratch.first(n));
        if (!fetched) failed = fetched.error();
        if (fetched && *fetched != n) failed = std::make_error_code(std::errc::io_error);
        if (!failed) f(at, std::span<const std::byte>{scratch.first(n)}, false);
        at += n;
      }
    };
    for_each_piece([&](std::uint64_t offset, std::span<const std::byte> bytes, bool zero) {
      if (offset + bytes.size() <= covers.offset()) return;  // zeros of parts before
      keep_up_to(offset);
      if (!failed) f(offset, bytes, zero);
      at = offset + bytes.size();
    });
    keep_up_to(covers.end());
    return failed ? Result<>{fail(failed)} : Result<>{};
  }
};

/// "May so much be written?" Asked before a write is taken in, with nothing held; a quota says no.
template <class Traits>
struct ReserveRequest {
  const typename Traits::FileId* file;
  ByteRange range;           ///< of an append: at the size of the moment
  std::uint64_t size_bytes;  ///< of the file, at the moment
};

/// What a sync makes durable.
enum class SyncScope : std::uint8_t {
  all,   ///< what was stored, and what else the store keeps of the file, such as times (fsync)
  data,  ///< what was stored: the bytes and the size, and what it takes to find them (fdatasync)
};

/// "Make durable what you have stored of this file."
template <class Traits>
struct SyncRequest {
  const typename Traits::FileId* file;
  std::uint64_t generation;  ///< of the last flush that began before it
  SyncScope scope = SyncScope::all;
};

/// What became of a flush.
enum class FlushStatus : std::uint8_t {
  stored,    ///< the store answers with these bytes from now on
  durable,   ///< stored, and kept through a crash
  failed,    ///< this attempt will change nothing any more; part of it may have been stored
  unknown,   ///< it may still change something: fence by generation
  conflict,  ///< somebody else changed the file: the bytes stay dirty until invalidate, discard_dirty or a retry
};

template <class Traits>
class [[nodiscard]] FlushOutcome {
 public:
  using ContentId = typename Traits::ContentId;

  static FlushOutcome stored() { return FlushOutcome{FlushStatus::stored, {}}; }
  static FlushOutcome durable() { return FlushOutcome{FlushStatus::durable, {}}; }
  static FlushOutcome failed(std::error_code why) { return FlushOutcome{FlushStatus::failed, why}; }
  static FlushOutcome unknown(std::error_code why) { return FlushOutcome{FlushStatus::unknown, why}; }
  static FlushOutcome conflict(std::error_code why = std::make_error_code(static_cast<std::errc>(ESTALE))) {
    return FlushOutcome{FlushStatus::conflict, why};
  }

  /// The version that the file has in the store from now on.
  FlushOutcome with_version(std::uint64_t version) && {
    version_ = version;
    return std::move(*this);
  }
  /// The content id of a part as it was stored.
  FlushOutcome with_content(std::uint64_t part, ContentId id) && {
    content_.emplace_back(part, std::move(id));
    return std::move(*this);
  }

  [[nodiscard]] FlushStatus status() const { return status_; }
  [[nodiscard]] bool ok() const { return status_ == FlushStatus::stored || status_ == FlushStatus::durable; }
  [[nodiscard]] std::error_code error() const { return error_; }
  [[nodiscard]] std::optional<std::uint64_t> version() const { return version_; }
  [[nodiscard]] std::span<const std::pair<std::uint64_t, ContentId>> content() const { return content_; }

 private:
  FlushOutcome(FlushStatus status, std::error_code why) : status_{status} {
    if (!ok()) error_ = fail(why).error;
  }

  FlushStatus status_;
  std::error_code error_;
  std::optional<std::uint64_t> version_;
  std::vector<std::pair<std::uint64_t, ContentId>> content_;
};

}  // namespace tarn
