// SPDX-License-Identifier: MIT
#pragma once

// A flush in flight: what it took, and the memory it reads. The life of a flush:
//
//   begin    under the file's lock: dirty bytes of one part, and the zeros below and between that the store lacks,
//            become `lent`; each chunk's in_flush bit is set under its latch, and its memory is the job's to read
//   store    with nothing locked or latched: the store reads the chunks' own memory, with no copy in between; a writer
//            that meets in_flush moves its chunk to other memory and leaves the old to the job
//   finish   under the file's lock: what is still `lent` is clean and stored if the store said ok, else all stays
//            dirty; memory that a writer left behind is freed
//
// A job that is dropped without finish counts as one whose fate is unknown: everything stays dirty.
//
// Thread safety: one thread at a time; begin and finish run under the file's lock.

#include <sys/uio.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <system_error>
#include <utility>
#include <vector>

#include <tarn/detail/file_lock.hpp>
#include <tarn/detail/flush_search.hpp>
#include <tarn/detail/read_loop.hpp>
#include <tarn/detail/share_content.hpp>
#include <tarn/store.hpp>

namespace tarn {

/// What kind of flush begins.
struct FlushKind {
  FlushUnit unit = FlushUnit::ranges;
  bool after_dropped = false;  // not while a flush of the id's last file is in flight
  bool promised = false;       // it ends as soon as the store answers: others may wait for the room it makes
  std::size_t at_once = 1;     // flushes of the file that may be in flight with it, itself counted: in other parts
  bool passes_over = false;    // what other flushes in flight have, in place of EBUSY
};

/// What begin_flush took. Move-only. Must not outlive its pool.
template <class Traits>
class FlushJob {
 public:
  FlushJob(FlushJob&&) noexcept = default;
  FlushJob& operator=(FlushJob&&) = delete;
  ~FlushJob() {
    if (flight_ != nullptr) release();
  }

  /// Whether there is nothing to store: no dirty byte, no zero, and no size that the store lacks.
  [[nodiscard]] bool empty() const { return ranges_.empty() && !sets_size_; }
  /// Where the next job goes on: everything dirty before it, from where this one began, is in this job.
  [[nodiscard]] std::uint64_t end() const { return end_; }
  /// What to tell the store. It points into the job, which stays where it is until finish.
  [[nodiscard]] FlushRequest<Traits> request() const {
    return {.file = &file_,
            .size_bytes = size_bytes_,
            .store_size_bound_bytes = bound_bytes_,
            .version = version_,
            .generation = generation_,
            .covers = covers_,
            .consistent = consistent_,
            .ranges = ranges_,
            .data = data_};
  }

 private:
  using PoolChunk = detail::Chunk<Traits>;
  using Metadata = MetadataFor<Traits>;
  using Which = detail::ChunkExtents PoolChunk::*;
  template <class T, class File>
  friend Result<FlushJob<T>> begin_flush_of(File& file, ByteRange range, const FlushKind& kind);
  template <class T, class File>
  friend Result<std::uint64_t> finish_flush_of(File& file, FlushJob<T>&& finished, const FlushOutcome<T>& outcome,
                                               bool durable);

  FlushJob(detail::PoolCore<Traits>& core, const detail::RecordRef<Traits>& record, const Metadata& meta)
      : core_{&core},
        record_{record.share()},
        flight_{std::make_unique<detail::FlushInFlight>()},
        file_{meta.id()},
        size_bytes_{meta.size()},
        bound_bytes_{meta.store_size_bound_bytes()},
        version_{meta.version()} {}

  struct Taken {
    PoolChunk* chunk;   // pinned
    std::byte* memory;  // what the store reads; the chunk's own until a writer moves away from it
  };

  // Registers first, so that it is the only one, or with those that it may be with.
  // Returns: what of `range` it may take; nothing if it must wait. Requires: the file's lock.
  [[nodiscard]] std::optional<ByteRange> enter(const FlushKind& kind, const ChunkLayout& layout, ByteRange range) {
    detail::MutexLock table{record_->table_mutex};
    if (kind.after_dropped && record_->dropped_flushes != 0) return std::nullopt;
    flight_->alone = sets_size_ || kind.at_once == 1;
    auto free = std::optional{range};
    if (record_->flushes != nullptr) {
      if (flight_->alone || !detail::may_join(*record_, kind.at_once)) return std::nullopt;
      free = kind.passes_over ? detail::free_dirty_parts(*record_, layout, range) : detail::free_parts(*record_, range);
      if (!free) return std::nullopt;
    }
    flight_->parts = layout.parts_around(*free);
    record_->enlist(*flight_);
    promised_ = kind.promised;
    if (promised_) in_tallies([](detail::FlushTally& tally) { tally.flying.fetch_add(1); });
    entered_ = true;
    return free;
  }

  void take(const Metadata& meta, const ChunkLayout& layout, ByteRange range, FlushUnit unit) {
    auto zone = range;
    ExtentSet data;
    if (unit == FlushUnit::file) {
      const auto chunks = layout.chunks_of(range);
      max_extents_ = SIZE_MAX;
      (void)take_data(chunks.first, chunks.last, zone, &PoolChunk::dirty, data);
    } else if (unit == FlushUnit::parts) {
      by_size_ = detail::parts_by_size(*record_, layout, bound_bytes_, size_bytes_);
      covers_ = detail::part_to_store(*record_, meta, layout, range, by_size_);
      // Those below it go first, with the size alone: if this failed, nobody would know that the store has none there.
      if (!covers_.empty() && by_size_.intersects(ByteRange::between(0, covers_.offset()))) {
        covers_ = ByteRange::between(range.offset(), range.offset());
      }
      zone = covers_;
      const auto chunks = layout.chunks_of(zone);
      max_extents_ = SIZE_MAX;
      (void)take_data(chunks.first, chunks.last, zone, &PoolChunk::valid, data);
    } else if (const auto [first, last] = detail::dirty_part(*record_, layout, range); first < last) {
      const auto part = layout.parts_around(layout.chunk_range(first));
      zone = ByteRange::between(range.offset(), std::min(range.end(), part.end()));
      zone = ByteRange::between(range.offset(), take_data(first, last, zone, &PoolChunk::dirty, data));
    }
    list_ranges(meta, zone, data);
    // Where there are too many zeros, they end before the chunks that were taken do.
    const auto taken_end = taken_.empty() ? end_ : std::max(end_, zone.end());
    flight_->parts = layout.parts_around(ByteRange::between(range.offset(), std::max(range.offset(), taken_end)));
    generation_ = core_->flush_generation.fetch_add(1) + 1;
    detail::MutexLock table{record_->table_mutex};
    for_each_range([&](ByteRange taken, bool) {
      flight_->lent.add(taken);  // one by one: what was added when it throws is counted
      core_->counters.lent_bytes.fetch_add(taken.size_bytes(), std::memory_order_relaxed);
    });
  }
  // Calls f(range, zero) for all that it stores, also by setting the size.
  template <class F>
  void for_each_range(F f) const {
    for (const auto& [range, zero] : ranges_) f(range, zero);
    for (const auto& parts : by_size_.extents()) f(parts, true);
  }

  // Takes the bytes of `zone` that are in `which` of the chunks [first, last), and lists their memory.
  // Returns: where it stopped, before zone.end() if there were too many extents.
  [[nodiscard]] std::uint64_t take_data(std::uint64_t first, std::uint64_t last, ByteRange zone, Which which,
                                        ExtentSet& data) {
    for (auto from = first; from < last;) {
      detail::LatchedChunks<Traits> latched{*core_};
      detail::MutexLock table{record_->table_mutex};
      const auto [index, chunk] = record_->table.next(from);
      if (chunk == nullptr || index >= last) break;
      from = index + 1;
      if (which == &PoolChunk::dirty && !chunk->state.is(detail::ChunkState::dirty)) continue;
      pin(*chunk);
      latched.hold(*chunk);
      table.unlock();
      latched.latch(detail::LatchMode::shared);
      const auto whole = core_->layout.chunk_range(index);
      const auto extents = data.extent_count();
      if (extents != 0 && extents + (chunk->*which).extent_count() > max_extents_) return whole.offset();
      take_chunk(*chunk, whole.offset(), core_->layout.in_chunk(index, zone), which, data);
    }
    return zone.end();
  }
  // Requires: a shared latch on the chunk. May throw bad_alloc, and then the chunk is not marked.
  void take_chunk(PoolChunk& chunk, std::uint64_t offset, ByteRange in_chunk, Which which, ExtentSet& data) {
    if (!(chunk.*which).intersects(in_chunk)) return;
    if (taken_.size() == taken_.capacity()) taken_.reserve(2 * taken_.size() + 16);
    (chunk.*which).for_each_in(in_chunk, [&](ByteRange run) {
      data_.push_back({chunk.memory + run.offset(), static_cast<std::size_t>(run.size_bytes())});
      data.add(ByteRange::between(offset + run.offset(), offset + run.end()));
    });
    chunk.dirty.for_each_in(
        in_chunk, [&](ByteRange run) { changed_.add(ByteRange::between(offset + run.offset(), offset + run.end())); });
    pin(chunk);
    taken_.push_back({&chunk, chunk.memory});
    chunk.state.set(detail::ChunkState::in_flush);
  }
  static void pin(PoolChunk& chunk) {
    if (!chunk.state.try_pin())
      throw std::system_error{std::make_error_code(std::errc::resource_unavailable_try_again)};
  }

  // The extents of data of the zone, and the zeros that the store lacks between them, in order.
  void list_ranges(const Metadata& meta, ByteRange zone, const ExtentSet& bytes) {
    for (end_ = zone.offset(); end_ < zone.end() && ranges_.size() / 2 < max_extents_;) {
      const auto rest = ByteRange::between(end_, zone.end());
      const auto data = bytes.next_in(rest);
      const auto zero = meta.stored().next_gap_in(ByteRange::between(end_, data ? data->offset() : zone.end()));
      if (zero) {
        ranges_.push_back({*zero, true});
        end_ = zero->end();
      } else if (data) {
        ranges_.push_back({*data, false});
        end_ = data->end();
      } else {
        end_ = zone.end();
      }
    }
    cut_data();
  }
  // The data of the ranges alone: where those were too many, they end before what was taken does.
  void cut_data() {
    std::uint64_t bytes = 0;
    for (const auto& [range, zero] : ranges_) bytes += zero ? 0 : range.size_bytes();
    std::size_t pieces = 0;
    while (bytes != 0) bytes -= data_[pieces++].iov_len;
    data_.resize(pieces);
  }

  // Gives back the chunks, and settles what is in `settled` as stored. Requires: the file's lock, unless it is empty.
  // Returns: the dirty bytes that are clean now.
  std::uint64_t give_back(const ExtentSet& settled) noexcept {
    std::uint64_t clean_bytes = 0;
    for (const auto& [chunk, memory] : taken_) {
      detail::LatchedChunks<Traits> latched{*core_};
      latched.hold(*chunk);
      latched.latch(detail::LatchMode::exclusive);
      if (chunk->memory != memory) {
        core_->free_memory(memory);  // a writer moved away from it
      } else {
        chunk->state.clear(detail::ChunkState::in_flush);
      }
      if (!settled.empty() && !chunk->state.is(detail::ChunkState::detached)) clean_bytes += settle(*chunk, settled);
    }
    taken_.clear();
    if (clean_bytes != 0) in_tallies([](detail::FlushTally& tally) { tally.settled.fetch_add(1); });
    return clean_bytes;
  }
  std::uint64_t settle(PoolChunk& chunk, const ExtentSet& settled) noexcept {
    const auto whole = core_->layout.chunk_range(chunk.index);
    const auto before_bytes = chunk.dirty.size_bytes();
    bool all = true;
    chunk.dirty.for_each_in(ByteRange::between(0, core_->chunk_bytes()), [&](ByteRange run) {
      all = all && settled.contains(ByteRange::between(whole.offset() + run.offset(), whole.offset() + run.end()));
    });
    if (all) {  // the usual case, and it needs no memory: a full pool must be able to become clean
      const detail::ExtentsChange<Traits> change{*core_, chunk};
      chunk.dirty.clear();
    } else {
      settled.for_each_in(whole,
                          [&](ByteRange run) { take_dirt_out(chunk, core_->layout.in_chunk(chunk.index, run)); });
    }
    const auto clean_bytes = before_bytes - chunk.dirty.size_bytes();
    core_->count_dirty(*record_, 0, clean_bytes);
    detail::MutexLock table{record_->table_mutex};
    core_->settle_dirty(chunk);
    return clean_bytes;
  }
  void take_dirt_out(PoolChunk& chunk, ByteRange in_chunk) noexcept {
    try {
      // Without memory for the lists it stays dirty, and is flushed once more.
      if (prepare_extents(*core_, chunk, detail::Lists::dirty) != 0) return;
    } catch (const std::bad_alloc&) {
      return;
    }
    const detail::ExtentsChange<Traits> change{*core_, chunk};
    chunk.dirty.subtract(in_chunk, core_->chunk_bytes());
  }

  // Leaves the record. Returns: what is still lent; nothing, and dropped() is true, if the file was dropped meanwhile.
  ExtentSet leave() noexcept {
    detail::MutexLock table{record_->table_mutex};
    dropped_ = flight_->dropped;
    taken_back_ = flight_->taken_back;
    record_->forget(*flight_);
    core_->counters.lent_bytes.fetch_sub(flight_->lent.size_bytes(), std::memory_order_relaxed);
    left_ = true;
    return std::move(flight_->lent);
  }
  void release() noexcept {
    const detail::Resumer resumer;
    give_back({});  // before another may take the same chunks
    if (entered_ && !left_) (void)leave();
    land();
  }
  void land() noexcept {
    flight_.reset();
    if (!entered_) return;
    core_->parking.wake(&record_->arrivals);
    core_->room_queue.note();  // before and after, as in ChunkReserve::uncount
    if (!promised_) return;
    in_tallies([&](detail::FlushTally& tally) {
      if (hopeful_) tally.hopeful.fetch_sub(1);
      tally.flying.fetch_sub(1);
    });
    core_->room_queue.note();
  }
  template <class F>
  void in_tallies(F count) noexcept {
    count(core_->flush_tally);
    count(record_->flush_tally);
  }

  detail::PoolCore<Traits>* core_;
  detail::RecordRef<Traits> record_;
  std::unique_ptr<detail::FlushInFlight> flight_;  // the record points at it
  std::vector<Taken> taken_;
  std::vector<FlushRange> ranges_;
  std::vector<::iovec> data_;
  typename Traits::FileId file_;
  std::uint64_t size_bytes_, bound_bytes_, version_, size_sets_ = 0, generation_ = 0, end_ = 0;
  std::int64_t begun_ns_ = 0;  // if the observer hears how long it took
  ByteRange covers_;
  ExtentSet changed_;  // of what it took, the dirty bytes: of a whole part, others go along
  ExtentSet by_size_;  // parts that are zero once the size is set
  // One job lists at most about so many extents, so that what it takes beside the pool's memory stays small; of whole
  // parts and files there is no less.
  std::size_t max_extents_ = 4096;
  bool sets_size_ = false, entered_ = false, promised_ = false, left_ = false, dropped_ = false, taken_back_ = false;
  bool consistent_ = false, hopeful_ = false;
};

/// Takes what is dirty in `range`, as much as the unit says. Errors: EBUSY, EAGAIN, ENOMEM; ESTALE if the file was
/// abandoned.
template <class Traits, class File>
[[nodiscard]] Result<FlushJob<Traits>> begin_flush_of(File& file, ByteRange range, const FlushKind& kind) {
  detail::ExclusiveLock lock{file.lock};
  FlushJob<Traits> job{file.core, file.record, file.meta};
  if (file.removing != nullptr && *file.removing) return fail(std::errc::device_or_resource_busy);  // it may yet stay
  if (file.meta.state() == FileState::deleted) return job;  // empty: there is no file to store
  job.sets_size_ = file.meta.store_lacks_size();
  const auto free = job.enter(kind, file.layout, range.intersect(ByteRange::between(0, file.meta.size())));
  if (!free) return fail(std::errc::device_or_resource_busy);
  // After entering: who abandons the file says so first and then looks for a flush in flight.
  if (file.record->abandoned.load()) return fail(static_cast<std::errc>(ESTALE));
  const bool nothing_half_in = file.long_writes == nullptr || file.long_writes->under_way == 0;
  job.consistent_ = kind.unit == FlushUnit::file && nothing_half_in;
  job.size_sets_ = file.meta.size_sets();
  try {
    job.take(file.meta, file.layout, *free, kind.unit);
  } catch (const std::system_error& e) {
    return fail(e.code());
  } catch (const std::bad_alloc&) {
    return fail(std::errc::not_enough_memory);
  }
  if (!job.empty()) {
    if (job.promised_ && !file.record->flush_failed) {
      job.hopeful_ = true;
      job.in_tallies([](detail::FlushTally& tally) { tally.hopeful.fetch_add(1); });
    }
    // From here on the store may have this size, also if the job is dropped and nobody says what became of it.
    const auto of_part = job.covers_.empty() ? 0 : job.covers_.end();  // and of no other part
    if (job.sets_size_) file.meta.note_store_size_unknown(kind.unit == FlushUnit::parts ? of_part : file.meta.size());
    if (file.record->flush_failed) file.core.counters.flush_retries.fetch_add(1, std::memory_order_relaxed);
    if constexpr (detail::hears_flushes<Traits>) job.begun_ns_ = file.core.time.now_ns();
  }
  return job;
}

template <class File>
void note_clean_if_stored(File& file) TARN_REQUIRES(file.lock) {
  auto& meta = file.meta;
  const bool all = meta.stored().contains(ByteRange::between(0, meta.size()));
  if (all && !meta.store_lacks_size() && file.record->dirty_bytes.load() == 0) {
    meta.note_clean();
    file.record->changed_since_ns = 0;
  }
}

/// Settles a job. `durable`: also what is only stored, since the store has no sync.
/// Returns: the bytes that the store has now and had not: dirty ones and zeros.
/// Errors:  the outcome's; ESTALE if the file was dropped meanwhile; ENOMEM if what was stored could not be noted (it
///          stays dirty).
template <class Traits, class File>
[[nodiscard]] Result<std::uint64_t> finish_flush_of(File& file, FlushJob<Traits>&& finished,
                                                    const FlushOutcome<Traits>& outcome, bool durable) {
  auto job = std::move(finished);
  detail::ExclusiveLock lock{file.lock};
  auto& meta = file.meta;
  auto lent = job.leave();
  std::error_code error = outcome.error();
  const bool is_durable = durable || outcome.status() == FlushStatus::durable;
  bool noted = false;
  std::uint64_t zero_bytes = 0;
  if (outcome.ok() && !job.dropped_) {
    // Also if there is no memory to note the bytes: what the store had before is in the new version, too.
    if (outcome.version()) meta.set_version(*outcome.version());
    try {
      ExtentSet zeros;
      job.for_each_range([&](ByteRange range, bool zero) {
        if (zero) lent.for_each_in(range, [&](ByteRange part) { zeros.add(part); });
      });
      meta.note_stored(lent, zeros, job.changed_, is_durable);
      // Also if a sync failed meanwhile: what is dirty of it still may be cut off before it is stored once more.
      if (!is_durable) meta.note_part_stored(job.covers_);
      job.for_each_range([&](ByteRange range, bool) {
        file.lock.is_held();
        if (meta.content_count() == 0) return;
        meta.clear_content_ids(file.layout.part_of(range.offset()), file.layout.part_of(range.end() - 1));
      });
      for (const auto& [part, id] : outcome.content()) meta.set_content_id(part, id);
      zero_bytes = zeros.size_bytes();
      noted = true;
    } catch (const std::bad_alloc&) {
      error = std::make_error_code(std::errc::not_enough_memory);
    }
  }
  if (!noted) lent.clear();
  const auto settled_bytes = zero_bytes + job.give_back(lent);
  if (job.dropped_) {
    error = std::make_error_code(static_cast<std::errc>(ESTALE));
  } else if (noted) {
    if (!job.taken_back_) meta.note_size_stored(job.size_bytes_, job.size_sets_, is_durable);
    note_clean_if_stored(file);
    // Only what is durable: a sync that fails makes dirty again what the file holds, not what content does.
    for (const auto& [part, id] : outcome.content()) {
      if (is_durable) detail::share_content(file.core, *file.record, file.layout, part, id, meta.size());
    }
  }
  if (!job.dropped_) file.record->flush_failed = static_cast<bool>(error);  // else it is another file's by now
  lock.unlock();
  auto& counters = file.core.counters;
  counters.flushes.fetch_add(1, std::memory_order_relaxed);
  std::uint64_t bytes = 0;
  for (const auto& piece : job.data_) bytes += piece.iov_len;
  counters.flush_bytes.fetch_add(bytes, std::memory_order_relaxed);
  if (error) job.in_tallies([](detail::FlushTally& tally) { tally.failed.fetch_add(1); });
  job.land();
  file.core.shrink();
  if constexpr (detail::hears_flushes<Traits>) {
    const auto ns = file.core.time.now_ns() - job.begun_ns_;
    if (!job.empty()) file.core.observer.on_flush_done(job.file_, bytes, ns, error);
  }
  if (error) return fail(error);
  return settled_bytes;
}

}  // namespace tarn
