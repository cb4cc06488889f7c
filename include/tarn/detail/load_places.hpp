// SPDX-License-Identifier: MIT
#pragma once

// Where a load's bytes are to land: a place in the record's table and a reserved chunk for every chunk it touches.
//
// Thread safety: the load's own; what touches the table is called under the record's table mutex.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

#include <tarn/chunk_layout.hpp>
#include <tarn/detail/chunk_reserve.hpp>
#include <tarn/detail/latched_chunks.hpp>
#include <tarn/detail/small_vector.hpp>
#include <tarn/extent_set.hpp>

namespace tarn::detail {

/// What a load of up to so many chunks lists is in itself, not on the heap; and it is small enough for malloc to have
/// its memory at hand: glibc keeps up to 1,032 bytes so.
inline constexpr std::size_t usual_load_chunks = 2;

/// What a load keeps pinned.
template <class Traits>
using LoadPins = LatchedChunks<Traits, usual_load_chunks>;

/// Calls f(index of a chunk, the bytes of it that one run of the set has), ascending.
template <class F>
void for_each_chunk_of(const ChunkLayout& layout, const ExtentSet& set, F&& f) {
  for (const auto& extent : set.extents()) {
    const auto chunks = layout.chunks_of(extent);
    for (auto index = chunks.first; index < chunks.last; ++index) f(index, layout.chunk_range(index).intersect(extent));
  }
}

template <class Traits>
struct LoadPlace {
  std::uint64_t index;
  Chunk<Traits>* fresh = nullptr;  // its memory is what the store fills
  bool reserved = false;           // in the record's table
  bool spare = false;              // of bytes that nobody asked for
};

template <class Traits>
class LoadPlaces {
 public:
  using Place = LoadPlace<Traits>;

  LoadPlaces(PoolCore<Traits>& core, FileRecord<Traits>& record) : core_{core}, record_{record} {}

  /// In ascending order, but for what add_spare has added since the last sort.
  [[nodiscard]] std::span<Place> all() { return places_.span(); }
  [[nodiscard]] std::size_t size() const { return places_.size(); }

  /// Places for all that holds a byte of `wanted`, without a chunk yet. Errors: throws bad_alloc.
  void set(const ExtentSet& wanted) {
    places_.clear();
    for_each_chunk_of(core_.layout, wanted, [&](std::uint64_t index, ByteRange) {
      if (places_.empty() || places_.back().index != index) places_.push_back({.index = index});
    });
    sorted_ = places_.size();
  }
  void clear() { places_.clear(); }

  /// A chunk for each. Returns: false if the budget has no room in the table: then there is none for any.
  [[nodiscard]] bool fill(ChunkReserve<Traits>& reserve) {
    for (auto& place : places_) {
      if (!fill(place, reserve)) {
        unreserve();
        free_fresh();
        return false;
      }
    }
    return true;
  }
  /// One more, with its chunk. Returns: false, as fill. Errors: throws bad_alloc, and adds none.
  [[nodiscard]] bool add_spare(std::uint64_t index, ChunkReserve<Traits>& reserve) {
    places_.push_back({.index = index, .spare = true});
    if (fill(places_.back(), reserve)) return true;
    places_.pop_back();
    return false;
  }
  void sort() {
    std::ranges::sort(all(), {}, &Place::index);
    sorted_ = places_.size();
  }
  /// Whether there is one of that chunk: set, or the last that was added. Requires: there is one at all.
  [[nodiscard]] bool has(std::uint64_t index) {
    if (places_.back().index == index) return true;
    const auto sorted = all().first(sorted_);
    const auto at = std::ranges::lower_bound(sorted, index, {}, &Place::index);
    return at != sorted.end() && at->index == index;
  }

  void unreserve() noexcept {
    record_.table_mutex.is_held();  // by the load that has us, which names it by another way
    for (auto& place : places_) {
      if (std::exchange(place.reserved, false)) record_.table.unreserve(place.index, core_.nodes);
    }
  }
  void free_fresh() noexcept {
    for (auto& place : places_) {
      if (place.fresh != nullptr) core_.free_chunk(std::exchange(place.fresh, nullptr));
    }
  }

 private:
  [[nodiscard]] bool fill(Place& place, ChunkReserve<Traits>& reserve) {
    record_.table_mutex.is_held();  // as in unreserve
    if (!record_.table.reserve(place.index, core_.nodes)) return false;
    place.reserved = true;
    place.fresh = &reserve.take();
    return true;
  }

  PoolCore<Traits>& core_;
  FileRecord<Traits>& record_;
  SmallVector<Place, usual_load_chunks> places_;
  std::size_t sorted_ = 0;
};

}  // namespace tarn::detail
