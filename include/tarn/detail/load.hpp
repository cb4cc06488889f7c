// SPDX-License-Identifier: MIT
#pragma once

// Loads: fetching what a window is missing, so that each byte is fetched once and lands only where nobody changed it.
//
//   begin    under the file's lock and the window's latches: split the missing bytes by record (the file's own, or a
//            part's content), give each a reserved chunk for every chunk touched, and enter `loading`
//   start    with nothing held but those chunks: the store is asked; it answers at once, or later by tokens
//   finish   with the last answer, in the thread that brings it: what came lands (see load_landing.hpp). Then out of
//            `loading`, and whoever waits looks again
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
// comes anyway, the rest of the part joins what is wanted, as far as that asks for no wait: where no chunk is, or one
// that holds wanted bytes, too, and is latched for them; where nobody is loading it; and as far as there are reserved
// chunks to spare. What does not join goes to memory of the load's own, or to bytes of a reserved chunk that are not
// made valid, and counts for nothing.
//
// An error is of a request, and so of a part: who waits for other bytes of this load looks again.
//
// Thread safety: begin and start are one call's own; settle comes from any thread; what it shares is under the record's
//                table mutex.

#include <algorithm>
#include <cassert>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <optional>
#include <utility>

#include <tarn/detail/chunk_reserve.hpp>
#include <tarn/detail/load_landing.hpp>
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
  void go_ahead(const ChunkLayout& layout) {
    ahead = true;
    {
      MutexLock table{record_->table_mutex};
      subtract_loading(wanted);
    }
    const auto parts = std::exchange(asked, {});  // those that nothing is wanted of any more are not asked for
    for (const auto& extent : parts.extents()) {
      for (auto at = extent.offset(); at < extent.end();) {
        const auto part = layout.part_range(layout.part_of(at + shift_));
        const auto of_part = ByteRange::between(at, std::min(extent.end(), part.end() - shift_));
        if (wanted.intersects(of_part)) {
          asked.add(of_part);
        } else {
          in_parts.subtract(of_part);
        }
        at = of_part.end();
      }
    }
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
    MutexLock table{record_->table_mutex};
    for (const auto& extent : wanted.extents()) {
      if (auto* const other = record_->load_of(extent); other != nullptr) {
        other_bytes_ = other->loading.intersect(extent);
        other_ = other->shared_from_this();
        return Begun::elsewhere;
      }
      const auto chunks = core_.layout.chunks_of(extent);
      for (auto index = chunks.first; index < chunks.last; ++index) {
        auto* const chunk = record_->table.find(index);
        if (chunk != nullptr && !window.holds(chunk)) return Begun::again;
      }
    }
    if (reserve != nullptr) {
      if (!places_.fill(*reserve)) return Begun::need_room;
      if (!in_parts.empty()) add_rest_of_parts(window, *reserve, spare_chunks);
    }
    record_->enlist(*this);
    begun_ = true;
    // Its chunks come back, also if nobody waits for it any more.
    if (places_.size() != 0) counted_.emplace(core_.reserves);
    return Begun::yes;
  }
  [[nodiscard]] std::uint64_t rest_bytes() const { return rest_.size_bytes(); }
  /// The load that has the bytes, and which, when begin answered elsewhere.
  [[nodiscard]] std::shared_ptr<LoadInFlight> take_other() { return std::move(other_); }
  [[nodiscard]] ExtentSet take_other_bytes() { return std::move(other_bytes_); }
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
    by_content = !file.has_value();
    goes_with_it_ = std::move(kept);
    core_.counters.load_ahead_bytes.fetch_add(rest_bytes(), std::memory_order_relaxed);
    try {
      requests_.list({.file = file, .content = content, .version = version}, layout, shift_, wanted, asked,
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
    const auto& its = request(index);
    const auto size_bytes = its.range.size_bytes();
    // The store said that it has these bytes: fewer are lost ones, and zeros in their place would hide that.
    const bool lost = filled && *filled != its.into.size_bytes();
    const auto why = lost ? std::make_error_code(std::errc::io_error) : filled.error();
    if (lost || !filled) {
      note_error(why);
      note_failed(its.range);
    } else {
      core_.counters.load_bytes.fetch_add(size_bytes, std::memory_order_relaxed);
      fetched_bytes_.fetch_add(size_bytes);
    }
    if constexpr (hears_loads<Traits>) {
      const auto ns = core_.time.now_ns() - requests_[index].asked_ns;
      core_.observer.on_load_done(its.file, its.content, size_bytes, ns, why);
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
    auto rest = in_parts;
    MutexLock table{record_->table_mutex};
    subtract_loading(rest);
    for_each_chunk_of(core_.layout, rest, [&](std::uint64_t index, ByteRange) {
      record_->table_mutex.is_held();
      if (index != last && !places_.has(index) && record_->table.find(index) == nullptr) ++count;
      last = index;
    });
    return count;
  }

 private:
  // What others are loading is theirs.
  void subtract_loading(ExtentSet& from) const TARN_REQUIRES(record_->table_mutex) {
    for (const auto* other = record_->loads; other != nullptr; other = other->next) from.subtract(other->loading);
  }
  // First what follows the wanted bytes, for who reads on comes there. Without memory, nothing.
  // Requires: the window's latches.
  void add_rest_of_parts(ReadWindow<Traits>& window, ChunkReserve<Traits>& reserve, std::size_t& spare_chunks) noexcept
      TARN_REQUIRES(record_->table_mutex) {
    if (wanted.empty()) return;
    try {
      auto rest = in_parts;
      rest.subtract(wanted);
      subtract_loading(rest);
      kept_.reserve(places_.size() + spare_chunks);
      auto all = wanted;
      const auto end = wanted.extents().back().end();
      for (const auto where : {ByteRange::between(end, max_offset), ByteRange::between(0, end)}) {
        for_each_chunk_of(core_.layout, rest.intersect(where), [&](std::uint64_t index, ByteRange bytes) {
          record_->table_mutex.is_held();
          const auto* const chunk = record_->table.find(index);
          const bool has_place = places_.has(index);
          if (chunk != nullptr) {
            if (has_place && window.holds(chunk)) add_gaps(*chunk, bytes, all);
          } else if (has_place || add_place(index, reserve, spare_chunks)) {
            all.add(bytes);
          }
        });
      }
      rest = all;
      rest.subtract(wanted);
      loading = all;
      wanted = std::move(all);
      rest_ = std::move(rest);
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
  void note_failed(ByteRange range) noexcept {
    MutexLock table{record_->table_mutex};
    try {
      failed.add(ByteRange::between(range.offset() - shift_, range.end() - shift_));
    } catch (const std::bad_alloc&) {
      failed = ExtentSet{ByteRange::between(0, max_offset)};
    }
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
      LoadLanding<Traits> landing{core_, *record_, *this, rest_, kept_};
      error = landing.land(places_.all());
      landed_bytes_ = landing.landed_bytes();
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
      MutexLock table{record_->table_mutex};
      untouched = started && !dropped && has_all_asked_for();
      count_redundant();
      done.store(true);
      record_->forget(*this);
      places_.unreserve();
      begun_ = false;
    }
    core_.parking.wake(&record_->arrivals);
    if (!counted_) return;
    core_.room_queue.note();  // before and after, as in ChunkReserve::uncount
    counted_.reset();
    core_.room_queue.note();
  }

  // Whether nothing of what was wanted has left `loading`, but perhaps of the rest. Requires: the table mutex.
  [[nodiscard]] bool has_all_asked_for() const noexcept {
    bool all = true;
    for (const auto& extent : wanted.extents()) {
      rest_.for_each_gap_in(extent, [&](ByteRange asked_for) { all = all && loading.contains(asked_for); });
    }
    return all;
  }
  void count_redundant() noexcept {
    const auto fetched = fetched_bytes_.load();
    const bool used_uncached = places_.size() == 0 && untouched && !error;
    const auto used_bytes = used_uncached ? wanted.size_bytes() : landed_bytes_;
    if (fetched != used_bytes) {
      core_.counters.load_redundant_bytes.fetch_add(fetched - used_bytes, std::memory_order_relaxed);
    }
  }

  Core& core_;
  RecordRef<Traits> record_;
  const std::uint64_t shift_;
  LoadPlaces<Traits> places_;
  ExtentSet rest_;         // of what is wanted: what came with the part, and nobody asked for
  LoadPins<Traits> kept_;  // what has landed
  std::shared_ptr<const void> goes_with_it_;
  LoadRequests<Traits> requests_;
  Atomic<std::size_t> open_{0};  // answers to come, and one for start
  Atomic<bool> failed_{false};
  Atomic<std::uint64_t> fetched_bytes_{0};
  std::uint64_t landed_bytes_ = 0;  // of what was fetched, those that a chunk has now
  std::shared_ptr<LoadInFlight> other_;
  ExtentSet other_bytes_;
  std::optional<typename Core::Count> counted_;
  bool begun_ = false;
};

}  // namespace tarn::detail
