// SPDX-License-Identifier: MIT
#pragma once

// What a store has of one file: the bytes it answers with, and those that a crash would leave.
//
// A flush that is only stored changes the first alone and is logged; a sync takes the log when it is asked, and makes
// it durable when it ends well. One that fails forgets the bytes it was asked for, as a kernel does: what is not
// flushed anew will never be durable, whatever a later sync says. A plain disk forgets the sizes with them; one that
// relies on store_size_bound_bytes keeps its sizes in order, as a journal does.
//
// Thread safety: none.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include <tarn/extent_set.hpp>
#include <tarn/store_request.hpp>

#include "support/model_random.hpp"

namespace tarn_test {

/// What a flush asks for, copied out of the request.
struct ModelChange {
  struct Piece {
    std::uint64_t offset;
    ModelBytes bytes;
  };
  std::uint64_t size_bytes = 0, order = 0;
  std::vector<Piece> pieces;

  /// `skips_known_zeros`: without those that setting the size leaves.
  template <class Traits>
  [[nodiscard]] static ModelChange of(const tarn::FlushRequest<Traits>& request, bool skips_known_zeros) {
    ModelChange change{.size_bytes = request.size_bytes, .order = 0, .pieces = {}};
    request.for_each_piece([&](std::uint64_t at, std::span<const std::byte> piece, bool zero) {
      if (zero && skips_known_zeros) {
        const auto known = request.store_size_bound_bytes;
        if (at >= known) return;
        piece = piece.first(static_cast<std::size_t>(std::min<std::uint64_t>(piece.size(), known - at)));
      }
      change.pieces.push_back({at, {piece.begin(), piece.end()}});
    });
    return change;
  }
  /// Nothing of it changes `range` any more.
  void forget(tarn::ByteRange range) {
    std::vector<Piece> left;
    for (const auto& [offset, all] : pieces) {
      const auto end = offset + all.size();
      const auto keep = [&, from = offset, &bytes = all](std::uint64_t first, std::uint64_t last) {
        if (first >= last) return;
        const auto at = [&](std::uint64_t where) { return bytes.begin() + static_cast<std::ptrdiff_t>(where - from); };
        left.push_back({first, {at(first), at(last)}});
      };
      keep(offset, std::min(end, range.offset()));
      keep(std::max(offset, range.end()), end);
    }
    pieces = std::move(left);
  }
  /// A part was written anew, as far as `covers` says: what the store had of it is as durable as the rest.
  void add_rest_of_part(const ModelBytes& stored, tarn::ByteRange covers) {
    const auto rest = covers.intersect(tarn::ByteRange::between(0, stored.size()));
    if (rest.empty()) return;
    const auto at = [&](std::uint64_t offset) { return stored.begin() + static_cast<std::ptrdiff_t>(offset); };
    pieces.push_back({rest.offset(), {at(rest.offset()), at(rest.end())}});
  }
  /// The size, and the first `piece_count` pieces. Requires: no piece is past the size.
  void apply_to(ModelBytes& bytes, std::size_t piece_count) const {
    bytes.resize(static_cast<std::size_t>(size_bytes));
    for (std::size_t i = 0; i < std::min(piece_count, pieces.size()); ++i) {
      const auto at = bytes.begin() + static_cast<std::ptrdiff_t>(pieces[i].offset);
      std::copy(pieces[i].bytes.begin(), pieces[i].bytes.end(), at);
    }
  }
};

/// The bytes that a request lists, one after the other.
template <class Traits>
[[nodiscard]] ModelBytes listed_bytes(const tarn::FlushRequest<Traits>& request) {
  ModelBytes bytes;
  request.for_each_piece([&](std::uint64_t, std::span<const std::byte> piece, bool) {
    bytes.insert(bytes.end(), piece.begin(), piece.end());
  });
  return bytes;
}

[[nodiscard]] inline tarn::ByteRange parts_around(tarn::ByteRange range, std::uint64_t part_bytes) {
  const auto end = ((range.end() - 1) / part_bytes + 1) * part_bytes;
  return tarn::ByteRange::between(range.offset() / part_bytes * part_bytes, end);
}

/// What of a whole part the store is to take from what it has.
template <class Traits>
[[nodiscard]] tarn::ExtentSet rest_of_part(const tarn::FlushRequest<Traits>& request) {
  tarn::ExtentSet rest{request.covers};
  for (const auto& [range, zero] : request.ranges) rest.subtract(range);
  return rest;
}

/// What a flush request says that it must never say, to a store of such a unit that has so many bytes; or null.
template <class Traits>
[[nodiscard]] const char* misdeed_of(const tarn::FlushRequest<Traits>& request, const ModelBytes& stored,
                                     tarn::FlushUnit unit, std::uint64_t part_bytes) {
  const bool parts = unit == tarn::FlushUnit::parts;
  // Of parts the store holds none past the bound that it was brought: it has zeros there.
  auto stored_bytes = stored.size();
  while (parts && stored_bytes != 0 && stored[stored_bytes - 1] == std::byte{}) --stored_bytes;
  if (stored_bytes > request.store_size_bound_bytes) return "the store holds bytes past store_size_bound_bytes";
  std::uint64_t end = 0;
  std::optional<std::uint64_t> part;
  for (const auto& [range, zero] : request.ranges) {
    if (range.empty() || range.offset() < end || range.end() > request.size_bytes) return "ranges out of order";
    end = range.end();
    if (zero || unit == tarn::FlushUnit::file) continue;
    const auto its = range.offset() / part_bytes;
    if (its != (range.end() - 1) / part_bytes || part.value_or(its) != its) return "a flush of two parts";
    part = its;
    if (parts && request.covers.intersect(range) != range) return "a flush of bytes outside its part";
  }
  if (!parts) return nullptr;
  if (request.covers.empty()) return request.ranges.empty() ? nullptr : "a flush of bytes in no part";
  const auto whole = parts_around(request.covers, part_bytes);
  const auto in_file = whole.intersect(tarn::ByteRange::between(0, request.size_bytes));
  if (whole.size_bytes() != part_bytes || request.covers != in_file) return "a flush of less than a part";
  const auto rest = rest_of_part(request);
  if (!rest.empty() && rest.extents().back().end() > stored.size()) return "a part of which the store lacks bytes";
  return nullptr;
}

class ModelDisk {
 public:
  ModelBytes bytes;                 ///< what it answers with
  std::uint64_t version = 0;        ///< of these
  std::optional<ModelChange> late;  ///< a flush of unknown fate: it may still change something, until it is fenced

  explicit ModelDisk(bool keeps_sizes) : keeps_sizes_{keeps_sizes} {}

  /// All of it is durable, whatever was asked before.
  void become(ModelBytes made, std::uint64_t made_version) {
    bytes = std::move(made);
    version = made_version;
    become_durable();
  }
  /// What it answers with is durable from now on, as if another client had seen to that.
  void become_durable() {
    late.reset();
    durable_ = bytes;
    size_order_ = next_order(bytes.size());
    orders_.assign(bytes.size(), order_);
  }
  /// A newer flush is asked for: nothing older changes the parts that it is in; nothing at all, if that sets another
  /// size, or if flushes come one by one.
  template <class Traits>
  void fence(const tarn::FlushRequest<Traits>& request, std::uint64_t part_bytes, bool one_by_one) {
    if (!late) return;
    if (one_by_one || late->size_bytes != request.size_bytes) return late.reset();
    for (const auto& [range, zero] : request.ranges) late->forget(parts_around(range, part_bytes));
  }
  /// A flush has ended well.
  void note_stored(ModelChange&& change) {
    change.order = next_order(change.size_bytes);
    log_.push_back(std::move(change));
  }
  void note_durable(ModelChange&& change) {
    change.order = next_order(change.size_bytes);
    harden(change);
  }

  /// What a sync is asked for.
  [[nodiscard]] std::vector<ModelChange> take_log() { return std::exchange(log_, {}); }
  void note_synced(const std::vector<ModelChange>& asked) {
    for (const auto& change : asked) harden(change);
  }
  void note_sync_failed(std::vector<ModelChange>&& asked) {
    if (!keeps_sizes_) return;
    for (auto& change : asked) change.pieces.clear();
    log_.insert(log_.begin(), asked.begin(), asked.end());
  }
  /// The bytes of it that are not durable yet.
  [[nodiscard]] tarn::ExtentSet unsynced(const std::vector<ModelChange>& asked) const {
    tarn::ExtentSet found;
    for (const auto& change : asked) {
      for (const auto& [offset, piece] : change.pieces) {
        for (auto at = offset; at < offset + piece.size(); ++at) {
          if (is_newer(change, at)) found.add(tarn::ByteRange::between(at, at + 1));
        }
      }
    }
    return found;
  }
  [[nodiscard]] const ModelBytes& durable() const { return durable_; }

 private:
  // Every byte at or past `size_bytes` is cut off.
  std::uint64_t next_order(std::uint64_t size_bytes) {
    cuts_.resize(static_cast<std::size_t>(size_bytes), last_cut_);
    return last_cut_ = ++order_;
  }
  // Than what is durable there, and not cut off since.
  [[nodiscard]] bool is_newer(const ModelChange& change, std::uint64_t offset) const {
    const auto at = static_cast<std::size_t>(offset);
    return at < cuts_.size() && cuts_[at] < change.order && (at >= orders_.size() || orders_[at] < change.order);
  }
  // A sync may end after a newer flush that was durable at once: what is newer stays, and what was cut off since.
  void harden(const ModelChange& change) {
    if (change.order > size_order_) {
      size_order_ = change.order;
      durable_.resize(static_cast<std::size_t>(change.size_bytes));
      orders_.resize(durable_.size(), 0);
      // A journal keeps what was cut off on the way, although nobody has asked for that yet.
      for (std::size_t at = 0; keeps_sizes_ && at < std::min(durable_.size(), cuts_.size()); ++at) {
        if (orders_[at] >= cuts_[at] || cuts_[at] > change.order) continue;
        durable_[at] = {};
        orders_[at] = cuts_[at];
      }
    } else {  // what it has cut off is gone, also if a newer flush has made that long a file durable again
      for (auto at = static_cast<std::size_t>(change.size_bytes); at < durable_.size(); ++at) {
        if (orders_[at] >= change.order) continue;
        durable_[at] = {};
        orders_[at] = change.order;
      }
    }
    for (const auto& [offset, piece] : change.pieces) {
      for (std::size_t i = 0; i < piece.size(); ++i) {
        const auto at = static_cast<std::size_t>(offset) + i;
        if (at >= durable_.size() || !is_newer(change, at)) continue;
        durable_[at] = piece[i];
        orders_[at] = change.order;
      }
    }
  }

  const bool keeps_sizes_;
  ModelBytes durable_;
  std::vector<std::uint64_t> orders_;  // of each durable byte: when it was changed
  std::vector<std::uint64_t> cuts_;    // of each byte: when it was last cut off
  std::vector<ModelChange> log_;       // stored, and no sync was asked for it
  std::uint64_t order_ = 0, size_order_ = 0, last_cut_ = 0;
};

}  // namespace tarn_test
