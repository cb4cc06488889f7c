// SPDX-License-Identifier: MIT
#pragma once

// Loads: fetching what a window is missing, so that each byte is fetched once and lands only where nobody changed it.
//
//   begin    under the file's lock and the window's latches: split the missing bytes by record (the file's own, or a
//            part's content), give each a reserved chunk for every chunk touched, and enter `loading`
//   start    with nothing held but those chunks: the store is asked; it answers at once, or later by tokens
//   finish   with the last answer, in the thread that brings it. For each chunk: attached if the file has none there,
//            else what is still in `loading` and not held is copied in; the chunk stays pinned, so that the read that
//            loaded it cannot lose it before it has read it. Then out of `loading`, and whoever waits looks again
//
// A load belongs to its tokens and to those who wait for it. Who stops waiting takes nothing from the others, and the
// memory that the store fills lives as long as the store may fill it.
//
// Single-flight: begin answers `elsewhere` if any of the bytes is in somebody's `loading`, and the read then waits for
// that load with nothing held, and shares its error; it answers `again` if a chunk has come since the window was
// planned. So between the look that found a byte missing and our entry in `loading`, nobody else can have loaded it.
//
// Without a chunk to be had, one extent is fetched past the pool (begin without a reserve), and counts only if all of
// it is still in `loading` at the end.
//
// Of a store that gives whole parts (LoadUnit::parts) the request covers the part as far as the store has it. Since it
// comes anyway, the rest of the part joins what is wanted, as far as nothing has to be waited for: where no chunk is,
// or one that the window has latched, nobody is loading it, and there are reserved chunks to spare. What does not join
// goes to memory of the load's own, or to bytes of a reserved chunk that are not made valid, and counts for nothing.
//
// Thread safety: begin and start are one call's own; settle comes from any thread; what it shares is under the record's
//                table mutex.

#include <algorithm>
#include <cassert>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <span>
#include <utility>

#include <tarn/detail/chunk_reserve.hpp>
#include <tarn/detail/load_places.hpp>
#include <tarn/detail/load_requests.hpp>
#include <tarn/detail/read_window.hpp>
#include <tarn/store.hpp>

namespace tarn::detail {

/// One record's share of a window's missing bytes.
template <class Traits>
class Load final : public LoadInFlight, public Requester<LoadRequest<Traits>, Result<std::size_t>> {
 public:
  using PoolChunk = Chunk<Traits>;
  using Core = PoolCore<Traits>;
  using FileId = typename Traits::FileId;
  using ContentId = typename Traits::ContentId;

  /// `shift` is added to an offset in the record to make one in the file.
  Load(Core& core, RecordRef<Traits> record, std::uint64_t shift)
      : core_{core}, record_{std::move(record)}, shift_{shift}, places_{core, *record_}, kept_{core} {}
  ~Load() { assert(!begun_ && "a load goes before its end"); }

  [[nodiscard]] const RecordRef<Traits>& record() const { return record_; }

  /// What to ask for, in the record's offsets.
  ExtentSet wanted;
  /// Of a store that gives whole parts: what it has of those that `wanted` is in. Else empty.
  ExtentSet in_parts;

  enum class Begun : std::uint8_t { yes, need_room, elsewhere, again };

  /// Makes it one ahead of a read: what others are loading is left to them. Requires: not begun.
  void go_ahead() {
    ahead = true;
    std::lock_guard table{record_->table_mutex};
    for (const auto* other = record_->loads; other != nullptr; other = other->next) wanted.subtract(other->loading);
  }

  /// Enters `wanted` in `loading`. With a reserve, places are made for every chunk; without, the caller's buffer is
  /// used. `spare_chunks` of the reserve may go to the rest of the parts; what has is taken off.
  /// Errors: throws bad_alloc.
  [[nodiscard]] Begun begin(ReadWindow<Traits>& window, ChunkReserve<Traits>* reserve, std::size_t& spare_chunks) {
    loading = wanted;
    if (reserve == nullptr) {
      places_.clear();
    } else {
      (void)chunks_needed();
    }
    kept_.reserve(places_.size());
    std::lock_guard table{record_->table_mutex};
    for (const auto& extent : wanted.extents()) {
      if (auto* const other = record_->load_of(extent); other != nullptr) {
        other_ = other->shared_from_this();
        return Begun::elsewhere;
      }
      const auto chunks = core_.layout.chunks_of(extent);
      for (auto index = chunks.first; index < chunks.last; ++index) {
        auto* const chunk = record_->table.find(index);
        if (chunk != nullptr && !window.holds(chunk)) return Begun::again;
      }
    }
    if (reserve != nullptr && !places_.fill(*reserve)) return Begun::need_room;
    if (reserve != nullptr && !in_parts.empty()) add_rest_of_parts(window, *reserve, spare_chunks);
    next = std::exchange(record_->loads, this);
    begun_ = true;
    // Its chunks come back, also if nobody waits for it any more.
    if (places_.size() != 0) counted_.emplace(core_.reserves);
    return Begun::yes;
  }
  [[nodiscard]] std::uint64_t rest_bytes() const { return rest_bytes_; }
  /// The load that has the bytes, when begin answered elsewhere.
  [[nodiscard]] std::shared_ptr<LoadInFlight> take_other() { return std::move(other_); }
  /// Begun, and not to be started after all.
  void abandon() noexcept {
    if (begun_) leave(false);
  }

  /// Asks the store for `wanted`, of a file or of content alone. `into` is a buffer for the first extent, or null;
  /// `kept` is what goes with the load: that buffer, unless the store answers at once. Requires: begun; once.
  template <class Store>
  void start(Store& store, const std::optional<FileId>& file, std::uint64_t version_asked,
             const std::optional<ContentId>& content, const ChunkLayout& layout, std::byte* into,
             std::shared_ptr<const void> kept) noexcept {
    version = version_asked;
    goes_with_it_ = std::move(kept);
    core_.counters.load_ahead_bytes.fetch_add(rest_bytes_, std::memory_order_relaxed);
    try {
      requests_.list({.file = file, .content = content, .version = version}, layout, shift_, wanted, in_parts,
                     places_.all(), into);
    } catch (...) {
      requests_.clear();
      note_error(current_exception_code());
    }
    const auto count = requests_.size();
    open_.store(count + 1);
    for (std::size_t i = 0; i < count; ++i) ask(store, i);
    close_one();
  }

  [[nodiscard]] const LoadRequest<Traits>& request(std::size_t index) const noexcept override {
    return requests_[index].request;
  }
  void settle(std::size_t index, const Result<std::size_t>& filled) noexcept override {
    const auto& asked = request(index);
    const auto size_bytes = asked.range.size_bytes();
    // The store said that it has these bytes: fewer are lost ones, and zeros in their place would hide that.
    const bool lost = filled && *filled != asked.into.size_bytes();
    const auto why = lost ? std::make_error_code(std::errc::io_error) : filled.error();
    if (lost || !filled) {
      note_error(why);
    } else {
      core_.counters.load_bytes.fetch_add(size_bytes, std::memory_order_relaxed);
      fetched_bytes_.fetch_add(size_bytes);
    }
    if constexpr (hears_loads<Traits>) {
      const auto ns = core_.time.now_ns() - requests_[index].asked_ns;
      core_.observer.on_load_done(asked.file, asked.content, size_bytes, ns, why);
    }
    close_one();
  }

  [[nodiscard]] std::size_t chunks_needed() {
    if (places_.size() == 0) places_.set(wanted);
    return places_.size();
  }
  /// Those that the rest of the parts would take as well. Requires: not begun.
  [[nodiscard]] std::size_t chunks_of_rest() {
    (void)chunks_needed();
    std::size_t count = 0;
    auto last = UINT64_MAX;
    std::lock_guard table{record_->table_mutex};
    for_each_chunk_of(core_.layout, in_parts, [&](std::uint64_t index, ByteRange) {
      if (index != last && !places_.has(index) && record_->table.find(index) == nullptr) ++count;
      last = index;
    });
    return count;
  }

 private:
  // First what follows the wanted bytes, for who reads on comes there. Without memory, nothing.
  // Requires: the table mutex, and the window's latches.
  void add_rest_of_parts(ReadWindow<Traits>& window, ChunkReserve<Traits>& reserve,
                         std::size_t& spare_chunks) noexcept {
    if (wanted.empty()) return;
    try {
      auto rest = in_parts;
      rest.subtract(wanted);
      for (const auto* other = record_->loads; other != nullptr; other = other->next) rest.subtract(other->loading);
      kept_.reserve(places_.size() + spare_chunks);
      auto all = wanted;
      const auto end = wanted.extents().back().end();
      for (const auto where : {ByteRange::between(end, max_offset), ByteRange::between(0, end)}) {
        for_each_chunk_of(core_.layout, rest.intersect(where), [&](std::uint64_t index, ByteRange bytes) {
          const auto* const chunk = record_->table.find(index);
          const bool has_place = places_.has(index);
          if (chunk != nullptr) {
            if (has_place && window.holds(chunk)) add_gaps(*chunk, bytes, all);
          } else if (has_place || add_place(index, reserve, spare_chunks)) {
            all.add(bytes);
          }
        });
      }
      loading = all;
      rest_bytes_ = all.size_bytes() - wanted.size_bytes();
      wanted = std::move(all);
    } catch (const std::bad_alloc&) {  // a place that was added has nothing to land, and is given back with the others
    }
    places_.sort();
  }
  [[nodiscard]] bool add_place(std::uint64_t index, ChunkReserve<Traits>& reserve, std::size_t& spare_chunks) {
    if (spare_chunks != 0) spare_chunks = places_.add_spare(index, reserve) ? spare_chunks - 1 : 0;
    return places_.has(index);
  }
  // What of `bytes`, all of them the chunk's, is not valid in it.
  void add_gaps(const PoolChunk& chunk, ByteRange bytes, ExtentSet& to) const {
    const auto offset = core_.layout.chunk_range(chunk.index).offset();
    auto rest = core_.layout.in_chunk(chunk.index, bytes);
    while (const auto gap = chunk.valid.next_gap_in(rest)) {
      to.add(ByteRange::between(gap->offset() + offset, gap->end() + offset));
      rest = ByteRange::between(gap->end(), rest.end());
    }
  }

  template <class Store>
  void ask(Store& store, std::size_t index) noexcept {
    if (failed_.load()) return close_one();  // what is asked no more is answered
    core_.counters.loads.fetch_add(1, std::memory_order_relaxed);
    if constexpr (hears_loads<Traits>) requests_[index].asked_ns = core_.time.now_ns();
    const InsideStore inside;
    try {
      if constexpr (AnswersLoadLater<Store, Traits>) {
        store.load(request(index), LoadToken<Traits>{requester(), index});  // dropped by an exception, it is answered
      } else {
        settle(index, store.load(request(index)));
      }
    } catch (...) {
      if constexpr (!AnswersLoadLater<Store, Traits>) settle(index, fail(current_exception_code()));
    }
  }
  [[nodiscard]] std::shared_ptr<Requester<LoadRequest<Traits>, Result<std::size_t>>> requester() {
    return {shared_from_this(), this};
  }

  // The first one counts.
  void note_error(std::error_code why) noexcept {
    if (!failed_.exchange(true)) error = why;
  }
  void close_one() noexcept {
    if (open_.fetch_sub(1) == 1) finish();
  }

  void finish() noexcept {
    // Whoever has the id now says so before it stores anything: what was fetched may be the other file's.
    if (record_->replaced.load()) {
      failed_ = true;
      error = std::make_error_code(static_cast<std::errc>(ESTALE));
    }
    if (!failed_.load()) {
      error = land();
      lacked_room = error == std::errc::no_buffer_space;
      if (lacked_room) error.clear();
    }
    leave(true);
  }
  // Out of `loading`, with nothing held any more. Unless it was started, those who wait for it learn nothing by it.
  void leave(bool started) noexcept {
    places_.free_fresh();
    requests_.clear();
    {
      std::lock_guard table{record_->table_mutex};
      untouched = started && !dropped && loading == wanted;
      count_redundant();
      done.store(true);
      record_->forget(*this);
      places_.unreserve();
      begun_ = false;
    }
    core_.parking.wake(&record_->arrivals);
    if (!counted_) return;
    core_.note_room();  // before and after, as in ChunkReserve::uncount
    counted_.reset();
    core_.note_room();
  }

  void count_redundant() noexcept {
    const auto fetched = fetched_bytes_.load();
    const bool used_uncached = places_.size() == 0 && untouched && !error;
    const auto used_bytes = used_uncached ? wanted.size_bytes() : landed_bytes_;
    if (fetched != used_bytes) {
      core_.counters.load_redundant_bytes.fetch_add(fetched - used_bytes, std::memory_order_relaxed);
    }
  }

  [[nodiscard]] std::error_code land() noexcept {
    try {
      for (auto& place : places_.all()) {
        if (const auto why = land(place); why) return why;
      }
    } catch (const std::bad_alloc&) {
      return std::make_error_code(std::errc::not_enough_memory);
    }
    return {};
  }
  [[nodiscard]] std::error_code land(LoadPlace<Traits>& place) {
    const auto whole = core_.layout.chunk_range(place.index);
    for (;;) {
      std::unique_lock table{record_->table_mutex};
      auto* const chunk = record_->table.find(place.index);
      if (chunk == nullptr) {
        if (dropped || !loading.intersects(whole)) return {};
        return adopt(place);
      }
      if (!chunk->state.try_pin()) return std::make_error_code(std::errc::resource_unavailable_try_again);
      table.unlock();
      LatchedChunks<Traits> latched{core_};
      latched.hold(*chunk);
      latched.latch(LatchMode::exclusive);
      table.lock();
      if (chunk->state.is(ChunkState::detached)) continue;  // dropped meanwhile: look again
      const auto fill = loading.intersect(whole);
      table.unlock();
      // From here on the latch keeps everybody from changing these bytes, and so from taking them out of `loading`.
      const auto why = copy_in(*chunk, place, fill, whole.offset());
      if (!why && chunk->state.try_pin()) kept_.hold(*chunk);
      return why;
    }
  }

  // The file has no chunk here: it takes ours. Requires: the table mutex.
  [[nodiscard]] std::error_code adopt(LoadPlace<Traits>& place) {
    const auto whole = core_.layout.chunk_range(place.index);
    auto& fresh = *place.fresh;
    const auto fill = loading.intersect(whole);
    for (const auto& extent : fill.extents()) {
      const auto in_chunk = core_.layout.in_chunk(place.index, extent);
      if (const auto why = add_valid(fresh, in_chunk); why) return why;
    }
    core_.attach(fresh, *record_, place.index);
    landed_bytes_ += fill.size_bytes();
    place.fresh = nullptr;
    place.reserved = false;  // the chunk uses the place now
    fresh.state.unlatch_exclusive(core_.parking);
    kept_.hold(fresh);
    return {};
  }

  // Requires: the exclusive latch on `chunk`.
  [[nodiscard]] std::error_code copy_in(PoolChunk& chunk, LoadPlace<Traits>& place, const ExtentSet& fill,
                                        std::uint64_t offset) {
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
        if (const auto why = add_valid(chunk, *gap); why) return why;
        landed_bytes_ += gap->size_bytes();
        rest = ByteRange::between(gap->end(), rest.end());
      }
    }
    return {};
  }
  // Requires: none of it is valid.
  [[nodiscard]] std::error_code add_valid(PoolChunk& chunk, ByteRange in_chunk) {
    if (prepare_extents(core_, chunk, Lists::valid) != 0) return std::make_error_code(std::errc::no_buffer_space);
    const ExtentsChange<Traits> change{core_, chunk};
    chunk.valid.add(in_chunk, core_.chunk_bytes());
    core_.counters.valid_bytes.fetch_add(in_chunk.size_bytes(), std::memory_order_relaxed);
    return {};
  }

  Core& core_;
  RecordRef<Traits> record_;
  const std::uint64_t shift_;
  LoadPlaces<Traits> places_;
  LatchedChunks<Traits> kept_;  // what has landed
  std::shared_ptr<const void> goes_with_it_;
  LoadRequests<Traits> requests_;
  Atomic<std::size_t> open_{0};  // answers to come, and one for start
  Atomic<bool> failed_{false};
  Atomic<std::uint64_t> fetched_bytes_{0};
  std::uint64_t rest_bytes_ = 0;    // of what is wanted, those that came with the part
  std::uint64_t landed_bytes_ = 0;  // of what was fetched, those that a chunk has now
  std::shared_ptr<LoadInFlight> other_;
  std::optional<typename Core::Count> counted_;
  bool begun_ = false;
};

}  // namespace tarn::detail
