// SPDX-License-Identifier: MIT
#pragma once

// Loads: fetching what a window is missing, so that each byte is fetched once and lands only where nobody changed it.
//
//   begin    under the file's lock and the window's latches: split the missing bytes by record (the file's own, or a
//            part's content), give each a reserved chunk for every chunk touched, and enter `loading`
//   fetch    with nothing held but those chunks: the store fills them
//   land     for each chunk: attached if the file has none there, else what is still in `loading` and not held is
//   copied
//            in; the chunk stays pinned, so that the read that loaded it cannot lose it before it has read it
//   end      out of `loading`; whoever waited for the same bytes looks again
//
// Single-flight: begin answers `elsewhere` if any of the bytes is in somebody's `loading`, and the read then waits with
// nothing held; it answers `again` if a chunk has come since the window was planned. So between the look that found a
// byte missing and our entry in `loading`, nobody else can have loaded it.
//
// Without a chunk to be had, one extent is fetched straight to the caller (begin with `into`), and counts only if all
// of it is still in `loading` at the end.
//
// Thread safety: one call's own; what it shares is under the record's table mutex.

#include <cassert>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include <tarn/detail/chunk_reserve.hpp>
#include <tarn/detail/read_window.hpp>
#include <tarn/store.hpp>

namespace tarn::detail {

/// One record's share of a window's missing bytes.
template <class Traits>
class Load {
 public:
  using PoolChunk = Chunk<Traits>;
  using Core = PoolCore<Traits>;

  /// `shift` is added to an offset in the record to make one in the file.
  Load(Core& core, RecordRef<Traits> record, std::uint64_t shift)
      : core_{core}, record_{std::move(record)}, shift_{shift} {}
  Load(const Load&) = delete;
  Load& operator=(const Load&) = delete;
  ~Load() { end(); }

  [[nodiscard]] FileRecord<Traits>& record() { return *record_; }

  /// What to ask for, in the record's offsets.
  ExtentSet wanted;

  enum class Begun : std::uint8_t { yes, need_room, elsewhere, again };

  /// Enters `wanted` in `loading`. With a reserve, places are made for every chunk; without, the caller's buffer is
  /// used.
  [[nodiscard]] Begun begin(ReadWindow<Traits>& window, ChunkReserve<Traits>* reserve) {
    flight_.loading = wanted;
    if (reserve == nullptr) {
      places_.clear();
    } else {
      add_places();
    }
    std::lock_guard table{record_->table_mutex};
    for (const auto& extent : wanted.extents()) {
      if (record_->is_loading(extent)) {
        arrivals_ = record_->arrivals.load();
        return Begun::elsewhere;
      }
      const auto chunks = core_.layout.chunks_of(extent);
      for (auto index = chunks.first; index < chunks.last; ++index) {
        auto* const chunk = record_->table.find(index);
        if (chunk != nullptr && !window.holds(chunk)) return Begun::again;
      }
    }
    for (auto& place : places_) {
      if (!record_->table.reserve(place.index, core_.budget)) {
        unreserve();
        return Begun::need_room;
      }
      place.reserved = true;
      place.fresh = &reserve->take();
    }
    flight_.next = std::exchange(record_->loads, &flight_);
    begun_ = true;
    return Begun::yes;
  }
  /// The arrivals of the record when begin answered elsewhere.
  [[nodiscard]] std::uint64_t arrivals() const { return arrivals_; }

  /// Asks the store. `into` is the caller's buffer for the first extent, or null.
  template <class Store>
  [[nodiscard]] std::error_code fetch(Store& store, LoadRequest<Traits> request, const ChunkLayout& layout,
                                      std::byte* into) {
    for (const auto& extent : wanted.extents()) {
      for (auto at = extent.offset(); at < extent.end();) {
        const auto in_file = at + shift_;
        const auto part = layout.part_range(layout.part_of(in_file));
        const auto end = std::min(extent.end(), part.end() - shift_);
        SmallVector<::iovec, 64> buffers;
        if (into != nullptr) {
          buffers.push_back({into, static_cast<std::size_t>(end - at)});
        } else {
          list_buffers(ByteRange::between(at, end), buffers);
        }
        request.range = ByteRange::between(in_file, end + shift_);
        request.part = layout.part_of(in_file);
        request.offset_in_part = in_file - part.offset();
        request.into = MutableBuffers{buffers.span()};
        if (const auto error = ask(store, request); error) return error;
        at = end;
      }
    }
    return {};
  }

  /// Puts what was fetched where it belongs; the chunks are added to `kept`, pinned.
  [[nodiscard]] std::error_code land(LatchedChunks<Traits>& kept) {
    kept.reserve(places_.size());
    for (auto& place : places_) {
      if (const auto error = land(place, kept); error) return error;
    }
    return {};
  }
  /// Whether all that was asked for is unchanged since: what was fetched past the pool counts only then.
  [[nodiscard]] bool still_whole() {
    std::lock_guard table{record_->table_mutex};
    return !flight_.dropped && flight_.loading == wanted;
  }

  /// Out of `loading`, with nothing held any more.
  void end() noexcept {
    for (auto& place : places_) {
      if (place.fresh != nullptr) core_.free_chunk(std::exchange(place.fresh, nullptr));
    }
    if (!std::exchange(begun_, false)) return;
    {
      std::lock_guard table{record_->table_mutex};
      record_->forget(flight_);
      unreserve();
    }
    core_.parking.wake(&record_->arrivals);
  }

  [[nodiscard]] std::size_t chunks_needed() {
    if (places_.empty()) add_places();
    return places_.size();
  }

 private:
  struct Place {
    std::uint64_t index;
    PoolChunk* fresh = nullptr;  // its memory is what the store fills
    bool reserved = false;
  };

  void add_places() {
    if (!places_.empty()) return;
    for (const auto& extent : wanted.extents()) {
      const auto chunks = core_.layout.chunks_of(extent);
      for (auto index = chunks.first; index < chunks.last; ++index) {
        if (places_.empty() || places_.back().index != index) places_.push_back({index});
      }
    }
  }
  // Requires: the table mutex.
  void unreserve() noexcept {
    for (auto& place : places_) {
      if (std::exchange(place.reserved, false)) record_->table.unreserve(place.index, core_.budget);
    }
  }

  void list_buffers(ByteRange range, SmallVector<::iovec, 64>& buffers) {
    for (const auto& place : places_) {
      const auto in_chunk = core_.layout.in_chunk(place.index, range);
      if (in_chunk.empty()) continue;
      auto* const at = place.fresh->memory + in_chunk.offset();
      const auto size = static_cast<std::size_t>(in_chunk.size_bytes());
      if (!buffers.empty() && static_cast<std::byte*>(buffers.back().iov_base) + buffers.back().iov_len == at) {
        buffers.back().iov_len += size;
      } else {
        buffers.push_back({at, size});
      }
    }
  }

  template <class Store>
  [[nodiscard]] std::error_code ask(Store& store, const LoadRequest<Traits>& request) {
    core_.counters.loads.fetch_add(1, std::memory_order_relaxed);
    const InsideStore inside;
    try {
      const Result<std::size_t> filled = store.load(request);
      if (!filled) return filled.error();
      // The store said that it has these bytes: fewer are lost ones, and zeros in their place would hide that.
      if (*filled != request.into.size_bytes()) return std::make_error_code(std::errc::io_error);
    } catch (...) {
      return current_exception_code();
    }
    core_.counters.load_bytes.fetch_add(request.range.size_bytes(), std::memory_order_relaxed);
    return {};
  }

  [[nodiscard]] std::error_code land(Place& place, LatchedChunks<Traits>& kept) {
    const auto whole = core_.layout.chunk_range(place.index);
    for (;;) {
      std::unique_lock table{record_->table_mutex};
      auto* const chunk = record_->table.find(place.index);
      if (chunk == nullptr) {
        if (flight_.dropped || !flight_.loading.intersects(whole)) return {};
        return adopt(place, kept);
      }
      if (!chunk->state.try_pin()) return std::make_error_code(std::errc::resource_unavailable_try_again);
      table.unlock();
      LatchedChunks<Traits> latched{core_};
      latched.hold(*chunk);
      latched.latch(LatchMode::exclusive);
      table.lock();
      if (chunk->state.is(ChunkState::detached)) continue;  // dropped meanwhile: look again
      const auto fill = flight_.loading.intersect(whole);
      table.unlock();
      // From here on the latch keeps everybody from changing these bytes, and so from taking them out of `loading`.
      const auto error = copy_in(*chunk, place, fill, whole.offset());
      if (!error && chunk->state.try_pin()) kept.hold(*chunk);
      return error;
    }
  }

  // The file has no chunk here: it takes ours. Requires: the table mutex.
  [[nodiscard]] std::error_code adopt(Place& place, LatchedChunks<Traits>& kept) {
    const auto whole = core_.layout.chunk_range(place.index);
    auto& fresh = *place.fresh;
    const auto fill = flight_.loading.intersect(whole);
    for (const auto& extent : fill.extents()) {
      const auto in_chunk = core_.layout.in_chunk(place.index, extent);
      if (const auto error = add_valid(fresh, in_chunk); error) return error;
    }
    core_.attach(fresh, *record_, place.index);
    place.fresh = nullptr;
    place.reserved = false;  // the chunk uses the place now
    fresh.state.unlatch_exclusive(core_.parking);
    kept.hold(fresh);
    return {};
  }

  // Requires: the exclusive latch on `chunk`.
  [[nodiscard]] std::error_code copy_in(PoolChunk& chunk, Place& place, const ExtentSet& fill, std::uint64_t offset) {
    if (fill.empty()) return {};
    const bool moves = chunk.state.is(ChunkState::in_flush);
    if (moves) {
      // A flush reads this memory: our own takes its place, once it has the bytes that are valid.
      chunk.valid.for_each_in(ByteRange::between(0, core_.chunk_bytes()), [&](ByteRange run) {
        std::memcpy(place.fresh->memory + run.offset(), chunk.memory + run.offset(),
                    static_cast<std::size_t>(run.size_bytes()));
      });
      core_.move_to(chunk, *std::exchange(place.fresh, nullptr));
    }
    for (const auto& extent : fill.extents()) {
      auto rest = ByteRange::between(extent.offset() - offset, extent.end() - offset);
      while (const auto gap = chunk.valid.next_gap_in(rest)) {
        if (!moves) {  // else the memory is our own, filled already
          std::memcpy(chunk.memory + gap->offset(), place.fresh->memory + gap->offset(),
                      static_cast<std::size_t>(gap->size_bytes()));
        }
        if (const auto error = add_valid(chunk, *gap); error) return error;
        rest = ByteRange::between(gap->end(), rest.end());
      }
    }
    return {};
  }
  [[nodiscard]] std::error_code add_valid(PoolChunk& chunk, ByteRange in_chunk) {
    if (prepare_extents(core_, chunk, Lists::valid) != 0) return std::make_error_code(std::errc::no_buffer_space);
    const ExtentsChange<Traits> change{core_, chunk};
    chunk.valid.add(in_chunk, core_.chunk_bytes());
    return {};
  }

  Core& core_;
  RecordRef<Traits> record_;
  const std::uint64_t shift_;
  LoadInFlight flight_;
  std::vector<Place> places_;
  std::uint64_t arrivals_ = 0;
  bool begun_ = false;
};

/// All that a window is missing: the file's own bytes, and those of the content of its parts.
template <class Traits>
class WindowLoads {
 public:
  explicit WindowLoads(PoolCore<Traits>& core) : core_{core} {}

  /// Sorts the missing bytes by record. Requires: the file's lock. What is loaded past the pool (`uncached`) goes by
  /// the file's own record: that of a content may not be had.
  /// Returns: false if the budget has no room for a record.
  /// Errors:  throws bad_alloc.
  [[nodiscard]] bool collect(const RecordRef<Traits>& own, const MetadataFor<Traits>& meta, const ChunkLayout& layout,
                             std::span<const ByteRange> missing, bool uncached) {
    uncached_ = uncached;
    request_ = {.file = nullptr, .content = nullptr, .range = {}, .version = meta.version(), .into = {}};
    file_.emplace(meta.id());
    for (const auto& extent : missing) {
      for (auto at = extent.offset(); at < extent.end();) {
        const auto part = layout.part_range(layout.part_of(at));
        const auto piece = part.intersect(ByteRange::between(at, extent.end()));
        if (!add(own, meta.content_id(layout.part_of(at)), part.offset(), piece)) return false;
        at = piece.end();
      }
    }
    return true;
  }
  [[nodiscard]] std::size_t chunks_needed() {
    std::size_t sum = 0;
    for (auto& share : shares_) sum += share.load->chunks_needed();
    return sum;
  }
  /// Begins all or none. Requires: the file's lock and the window's latches.
  [[nodiscard]] typename Load<Traits>::Begun begin(ReadWindow<Traits>& window, ChunkReserve<Traits>* reserve) {
    using Begun = typename Load<Traits>::Begun;
    for (auto& share : shares_) {
      const auto begun = share.load->begin(window, reserve);
      if (begun == Begun::yes) continue;
      stopped_at_ = share.load.get();
      end();
      return begun;
    }
    return Begun::yes;
  }
  /// The version of the file that the store was asked for.
  [[nodiscard]] std::uint64_t version() const { return request_.version; }
  /// Waits until the load that stood in the way has ended. Requires: begin answered elsewhere; nothing is held.
  void wait_for_the_other() {
    core_.counters.load_waits.fetch_add(1, std::memory_order_relaxed);
    core_.wait_for_arrival(stopped_at_->record(), stopped_at_->arrivals());
  }

  void end() noexcept {
    for (auto& share : shares_) share.load->end();
  }

  template <class Store>
  [[nodiscard]] std::error_code fetch(Store& store, const ChunkLayout& layout, std::byte* into) {
    for (auto& share : shares_) {
      request_.file = &*file_;
      request_.content = share.content ? &*share.content : nullptr;
      if (const auto error = share.load->fetch(store, request_, layout, into); error) return error;
    }
    return {};
  }
  [[nodiscard]] std::error_code land(LatchedChunks<Traits>& kept) {
    for (auto& share : shares_) {
      if (const auto error = share.load->land(kept); error) return error;
    }
    return {};
  }
  [[nodiscard]] bool still_whole() {
    for (auto& share : shares_) {
      if (!share.load->still_whole()) return false;
    }
    return true;
  }

 private:
  struct Share {
    std::optional<typename Traits::ContentId> content;
    std::unique_ptr<Load<Traits>> load;  // in a list of its record while it is in flight: it must not move
  };

  [[nodiscard]] bool add(const RecordRef<Traits>& own, const typename Traits::ContentId* content, std::uint64_t shift,
                         ByteRange range) {
    const bool to_own = content == nullptr || uncached_;
    if (to_own) shift = 0;
    auto at = shares_.begin();
    // Parts of equal content in one window would wait for each other's load: the second adds to the first one's bytes.
    while (at != shares_.end() && (content == nullptr ? at->content.has_value() : at->content != *content)) ++at;
    if (at == shares_.end()) {
      auto record = to_own ? own.share() : core_.registry.find_or_make(PoolCore<Traits>::content_key(*content));
      if (!record) return false;
      Share share{content == nullptr ? std::nullopt : std::optional{*content},
                  std::make_unique<Load<Traits>>(core_, std::move(record), shift)};
      at = shares_.insert(shares_.end(), std::move(share));
    }
    at->load->wanted.add(ByteRange::between(range.offset() - shift, range.end() - shift));
    return true;
  }

  PoolCore<Traits>& core_;
  LoadRequest<Traits> request_{};
  std::optional<typename Traits::FileId> file_;
  std::vector<Share> shares_;
  bool uncached_ = false;
  Load<Traits>* stopped_at_ = nullptr;
};

}  // namespace tarn::detail
