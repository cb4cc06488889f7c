// SPDX-License-Identifier: MIT
#pragma once

// The pool: chunks of any number of files, dirty and clean, and of content named by its digest, in one memory budget.
//
// A pool hands out pins, says what it holds, and forgets what it is told to. Bytes go in and out by the algorithms
// (read_range, write_range, truncate, flush), which work on a pool and a file's metadata.
//
// Thread safety: every call from any thread, except that a file's metadata has one owner at a time (see DirtyFile).
//                Destroy it last, and never in a forked child.
// Lock order:    in detail/pool_core.hpp.

#include <algorithm>
#include <cassert>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include <tarn/detail/file_lock.hpp>
#include <tarn/detail/list_extents.hpp>
#include <tarn/detail/pool_core.hpp>
#include <tarn/detail/read_loop.hpp>
#include <tarn/dirty_file_metadata.hpp>
#include <tarn/eviction/s3_fifo.hpp>
#include <tarn/policies.hpp>
#include <tarn/pool_options.hpp>
#include <tarn/pool_stats.hpp>
#include <tarn/result.hpp>
#include <tarn/storage/arena.hpp>
#include <tarn/storage/heap.hpp>

namespace tarn {

/// Keeps a chunk in memory. The bytes may still change, and move to another address, between calls.
///
/// Thread safety: one thread at a time. Must not outlive its pool.
template <class Traits>
class PinnedChunk {
 public:
  PinnedChunk(PinnedChunk&& other) noexcept : core_{other.core_}, chunk_{std::exchange(other.chunk_, nullptr)} {}
  PinnedChunk& operator=(PinnedChunk&& other) noexcept {
    std::swap(core_, other.core_);
    std::swap(chunk_, other.chunk_);
    return *this;
  }
  ~PinnedChunk() {
    if (chunk_ == nullptr) return;
    detail::UnderLatches::note(0);
    core_->user_pins.note_end();
    core_->unpin(*chunk_);
  }

  /// Calls f with the bytes `in_chunk` of the chunk, in place; the span lives for the call.
  ///
  /// Returns:  what f returns.
  /// Errors:   ENODATA if not all of the bytes are held, or the file let go of the chunk; EINVAL past the chunk's end.
  /// Requires: f calls nothing of tarn and does not block.
  /// Blocks:   while a writer copies into the chunk.
  /// Cost:     no copy, no allocation.
  template <class F>
  auto with_data(ByteRange in_chunk, F&& f) const -> Result<std::invoke_result_t<F, std::span<const std::byte>>> {
    return look(in_chunk, core_->counters.view_bytes, std::forward<F>(f));
  }
  /// The same with the whole chunk.
  template <class F>
  auto with_data(F&& f) const {
    return with_data(ByteRange::between(0, core_->chunk_bytes()), std::forward<F>(f));
  }
  /// A copy of the bytes `in_chunk`. Errors: as with_data; throws bad_alloc.
  [[nodiscard]] Result<std::vector<std::byte>> clone(ByteRange in_chunk) const {
    return look(in_chunk, core_->counters.copy_bytes, [](std::span<const std::byte> bytes) {
      return std::vector<std::byte>{bytes.begin(), bytes.end()};
    });
  }

 private:
  template <PoolTraits>
  friend class ChunkPool;
  // Takes over a pin that is counted.
  PinnedChunk(detail::PoolCore<Traits>& core, detail::Chunk<Traits>& chunk) : core_{&core}, chunk_{&chunk} {}

  template <class F>
  auto look(ByteRange in_chunk, detail::StripedCount& count, F&& f) const
      -> Result<std::invoke_result_t<F, std::span<const std::byte>>> {
    if (in_chunk.end() > core_->chunk_bytes()) return fail(std::errc::invalid_argument);
    detail::UnderLatches::note(0);
    core_->note_latch(chunk_->state.latch_shared(core_->parking));
    const struct Unlatch {
      const PinnedChunk& pin;
      ~Unlatch() { pin.chunk_->state.unlatch_shared(pin.core_->parking); }
    } unlatch{*this};
    if (chunk_->state.is(detail::ChunkState::detached) || !chunk_->valid.contains(in_chunk)) {
      return fail(std::errc::no_message_available);
    }
    core_->touch(*chunk_);
    count.add(in_chunk.size_bytes());
    const std::span<const std::byte> bytes{chunk_->memory + in_chunk.offset(),
                                           static_cast<std::size_t>(in_chunk.size_bytes())};
    const detail::UnderLatches latched;
    if constexpr (std::is_void_v<std::invoke_result_t<F, std::span<const std::byte>>>) {
      std::forward<F>(f)(bytes);
      return {};
    } else {
      return std::forward<F>(f)(bytes);
    }
  }

  detail::PoolCore<Traits>* core_;
  detail::Chunk<Traits>* chunk_;
};

template <PoolTraits Traits = DefaultTraits>
class ChunkPool {
 public:
  using FileId = typename Traits::FileId;
  using ContentId = typename Traits::ContentId;
  using Metadata = MetadataFor<Traits>;
  using Pin = PinnedChunk<Traits>;

  /// Errors: throws system_error(EINVAL) for a chunk that is not a power of two, a window of 0, a budget below
  ///         min_budget_bytes, or marks that cannot work.
  explicit ChunkPool(const PoolOptions& options, typename Traits::Observer observer = {})
      : core_{detail::checked_marks(options), std::move(observer)} {}
  ChunkPool(const ChunkPool&) = delete;
  ChunkPool& operator=(const ChunkPool&) = delete;
  /// What is still dirty here is lost, and the observer is told whose.
  /// Requires: no call in progress, no pin, no DirtyFile, no token of a load, flush or sync: so the pool is declared
  ///           before the store.
  ~ChunkPool() {
    const detail::Resumer resumer;
    assert(core_.user_pins.load() == 0 && "a PinnedChunk outlives its pool");
    core_.registry.for_each([&](detail::FileRecord<Traits>& record) {
      assert(record.member.load() == nullptr && "a DirtyFile outlives its pool");
      const bool lost = record.dirty_bytes.load() != 0 || record.changed_since_ns.load() != 0;
      const auto lost_bytes = core_.drop(record);
      if (lost) core_.tell_lost(std::get<0>(record.key), lost_bytes);
      assert(record.users.load() == 1 && "a token, an operation or a FlushJob outlives its pool");
    });
    core_.storage.trim(core_.budget);
    assert(core_.budget.charged_bytes() == 0 && "an abandoned DirtyFile, or a token of one, outlives its pool");
  }

  /// Changes the budget. With a lower one nothing more is charged until what is has come below it: what is clean and
  /// unused goes at once, the rest as it becomes so. Windows stay as they are.
  /// Errors: EINVAL below min_budget_bytes, and nothing changes.
  [[nodiscard]] Result<> set_budget_bytes(std::uint64_t bytes) {
    if (bytes < core_.min_budget_bytes(core_.marks) || bytes > max_offset) return fail(std::errc::invalid_argument);
    const detail::Resumer resumer;
    core_.budget.set_limit(bytes);
    core_.shrink();
    core_.room_queue.note();
    return {};
  }
  /// Returns: the least budget that works with these options (their budget is not looked at).
  [[nodiscard]] static std::uint64_t min_budget_bytes(const PoolOptions& options) {
    return detail::PoolCore<Traits>::min_budget_bytes(options);
  }
  /// Returns: what CallOptions::deadline_ns says to wait so long from now, at most.
  [[nodiscard]] std::int64_t deadline_in(std::chrono::nanoseconds time) const {
    const auto now_ns = core_.time.now_ns();
    return now_ns + std::min<std::int64_t>(time.count(), std::numeric_limits<std::int64_t>::max() - now_ns);
  }
  [[nodiscard]] std::uint64_t budget_bytes() const { return core_.budget.limit_bytes(); }
  [[nodiscard]] std::uint64_t chunk_bytes() const { return core_.layout.chunk_bytes(); }
  /// Returns: the most that one call latches at once: the largest view. The window of the options, or less: at most 256
  ///          chunks and a quarter of the budget, and one chunk at least.
  [[nodiscard]] std::uint64_t window_bytes() const { return core_.window_bytes; }
  /// Errors: EINVAL if the file's part is not a multiple of the pool's chunk.
  [[nodiscard]] Result<ChunkLayout> layout(const Metadata& meta) const {
    return ChunkLayout::make(chunk_bytes(), meta.part_bytes());
  }

  // ---- what is held of a file

  /// Errors: ENOENT if nothing of the chunk is held; EAGAIN if it has too many pins (2^17 - 1).
  [[nodiscard]] Result<Pin> pin(const Metadata& meta, std::uint64_t chunk) {
    return pin_by<detail::FileRecord<Traits>::of_file>(meta.id(), chunk);
  }
  /// Whether anything of the chunk is held. True or false at that moment: pin it to rely on it.
  [[nodiscard]] bool contains(const Metadata& meta, std::uint64_t chunk) const {
    bool found = false;
    with_table(meta, [&](auto& record) {
      record.table_mutex.is_held();
      found = record.table.find(chunk) != nullptr;
    });
    return found;
  }
  [[nodiscard]] bool has_dirty(const Metadata& meta, std::uint64_t chunk) const {
    bool dirty = false;
    with_table(meta, [&](auto& record) {
      record.table_mutex.is_held();
      const auto* const found = record.table.find(chunk);
      dirty = found != nullptr && found->state.is(detail::ChunkState::dirty);
    });
    return dirty;
  }
  /// Indices of the chunks with dirty bytes, ascending.
  [[nodiscard]] std::vector<std::uint64_t> dirty_chunks(const Metadata& meta) const {
    std::vector<std::uint64_t> dirty;
    with_table(meta, [&](auto& record) {
      record.table_mutex.is_held();
      for (auto at = record.table.next(0); at.second != nullptr; at = record.table.next(at.first + 1)) {
        if (at.second->state.is(detail::ChunkState::dirty)) dirty.push_back(at.first);
      }
    });
    return dirty;
  }
  /// Bytes that are dirty, without a walk.
  [[nodiscard]] std::uint64_t dirty_bytes(const Metadata& meta) const {
    const auto record = core_.registry.find(detail::PoolCore<Traits>::file_key(meta.id()));
    return record ? record->dirty_bytes.load() : 0;
  }
  /// Where the file has dirty bytes; where anything of it is held.
  /// Blocks: while a writer copies into a chunk of the file. Errors: throws bad_alloc.
  [[nodiscard]] ExtentSet dirty_extents(const Metadata& meta) const {
    return extents_of(meta, &detail::Chunk<Traits>::dirty);
  }
  [[nodiscard]] ExtentSet held_extents(const Metadata& meta) const {
    return extents_of(meta, &detail::Chunk<Traits>::valid);
  }

  // ---- content, named by its digest

  /// A pin of the chunk `chunk_of_part` of a piece of content, loaded if it is not held.
  /// Returns: a chunk of which at least `size_bytes` from its start are held (a content's last chunk may be shorter).
  /// Errors:  ENOBUFS if there is no room, also with what is clean and unused gone; the loader's own; EINVAL if
  ///          size_bytes is 0 or above the chunk; EAGAIN if the chunk has too many pins; ENOMEM.
  /// Blocks:  on the loader, holding no latch; on somebody else's load of the same chunk.
  /// Cost:    of a chunk that is held: no lock, no allocation.
  template <ChunkLoader<Traits> Loader>
  [[nodiscard]] Result<Pin> get_or_load(const ContentId& content, std::uint64_t chunk_of_part, std::uint64_t size_bytes,
                                        Loader&& loader);
  /// A pin of a chunk of which something is held: with_data says ENODATA of what is not.
  /// Errors: ENOENT if nothing of the chunk is held; EAGAIN if it has too many pins.
  [[nodiscard]] Result<Pin> try_get(const ContentId& content, std::uint64_t chunk_of_part) {
    return pin_by<detail::FileRecord<Traits>::of_content>(content, chunk_of_part);
  }
  /// Forgets what is held of the content; a load in flight of it lands nowhere.
  /// Returns: whether anything was known.
  bool invalidate(const ContentId& content) {
    const detail::Resumer resumer;
    const auto record = core_.registry.find(detail::PoolCore<Traits>::content_key(content));
    if (record) core_.drop(*record);
    return static_cast<bool>(record);
  }

  // ---- forgetting

  /// Forgets the file: its chunks, dirty ones too, and everything in flight of it.
  /// Returns: the dirty bytes that are gone.
  std::uint64_t drop(const Metadata& meta) {
    const detail::Resumer resumer;
    const auto record = core_.registry.find(detail::PoolCore<Traits>::file_key(meta.id()));
    return record ? core_.drop(*record) : 0;
  }
  /// Drops every clean chunk that nobody uses.
  /// Returns: how many.
  std::size_t evict_clean() {
    const detail::Resumer resumer;
    std::size_t count = 0;
    while (core_.evict_one() == detail::PoolCore<Traits>::Freed::some) ++count;
    core_.storage.trim(core_.budget);
    return count;
  }
  /// Drops all that nobody uses. Errors: EBUSY, and nothing changes, while anything is dirty.
  [[nodiscard]] Result<> clear() {
    if (core_.counters.chunks_dirty.load() != 0) return fail(std::errc::device_or_resource_busy);
    evict_clean();
    return {};
  }

  /// Cost: a load of each counter, and of one word of each file and piece of content that the pool knows.
  [[nodiscard]] PoolStats stats() const {
    const auto& c = core_.counters;
    const std::uint64_t dirty = c.dirty_bytes, valid = c.valid_bytes;
    const auto changed = core_.registry.changed();
    const auto age_ns = changed.files == 0 ? 0 : core_.time.now_ns() - changed.since_ns;
    return {.budget_bytes = budget_bytes(),
            .charged_bytes = core_.budget.charged_bytes(),
            .clean_bytes = valid - std::min(dirty, valid),
            .dirty_bytes = dirty,
            .lent_bytes = c.lent_bytes,
            .chunks_held = c.chunks_held,
            .chunks_dirty = c.chunks_dirty,
            .chunks_reserved = c.chunks_reserved,
            .pins = core_.user_pins.load(),
            .files_dirty = changed.files,
            .oldest_change_ns = static_cast<std::uint64_t>(std::max<std::int64_t>(age_ns, 0)),
            .view_bytes = c.view_bytes.load(),
            .copy_bytes = c.copy_bytes.load(),
            .loads = c.loads,
            .load_bytes = c.load_bytes,
            .loads_uncached = c.loads_uncached,
            .load_waits = c.load_waits,
            .load_redundant_bytes = c.load_redundant_bytes,
            .load_ahead_bytes = c.load_ahead_bytes,
            .flushes = c.flushes,
            .flush_bytes = c.flush_bytes,
            .flush_failures = core_.flush_tally.failed,
            .flush_retries = c.flush_retries,
            .flush_redirtied_bytes = c.flush_redirtied_bytes,
            .swaps = c.swaps,
            .syncs = c.syncs,
            .sync_failures = c.sync_failures,
            .evictions = c.evictions,
            .eviction_probes = c.eviction_probes,
            .refusals = c.refusals,
            .throttled = c.throttled,
            .room_waits = c.room_waits,
            .latch_waits = c.latch_waits};
  }

  /// The inside, for tarn's algorithms.
  [[nodiscard]] detail::PoolCore<Traits>& core() { return core_; }

 private:
  // With no lock, else with them. `alternative`: of the record's key.
  template <std::size_t alternative, class Id>
  [[nodiscard]] Result<Pin> pin_by(const Id& id, std::uint64_t index) {
    if (auto* const found = core_.template pin_unlocked<alternative>(id, index)) return Pin{core_, *found};
    return pin_locked<alternative>(id, index);
  }
  template <std::size_t alternative, class Id>
  [[nodiscard, gnu::noinline]] Result<Pin> pin_locked(const Id& id, std::uint64_t index) {
    using Key = typename detail::PoolCore<Traits>::Key;
    return pin_at(core_.registry.find(Key{std::in_place_index<alternative>, id}), index);
  }
  [[nodiscard]] Result<Pin> pin_at(const detail::RecordRef<Traits>& record, std::uint64_t index) {
    if (!record) return fail(std::errc::no_such_file_or_directory);
    detail::MutexLock table{record->table_mutex};
    auto* const chunk = record->table.find(index);
    if (chunk == nullptr) return fail(std::errc::no_such_file_or_directory);
    core_.user_pins.note_made();
    if (chunk->state.try_pin()) return Pin{core_, *chunk};
    core_.user_pins.note_end();
    return fail(std::errc::resource_unavailable_try_again);
  }
  // Whether a pinned chunk is its content's still and has its first `size_bytes`; then it counts as used.
  [[nodiscard]] bool try_use(detail::Chunk<Traits>& chunk, std::uint64_t size_bytes) {
    if (!chunk.state.try_latch_shared()) return false;
    const bool has =
        !chunk.state.is(detail::ChunkState::detached) && chunk.valid.contains(ByteRange::between(0, size_bytes));
    if (has) core_.touch(chunk);
    chunk.state.unlatch_shared(core_.parking);
    return has;
  }
  template <class F>
  void with_table(const Metadata& meta, F f) const {
    const auto record = core_.registry.find(detail::PoolCore<Traits>::file_key(meta.id()));
    if (!record) return;
    detail::MutexLock table{record->table_mutex};
    f(*record);
  }
  [[nodiscard]] ExtentSet extents_of(const Metadata& meta, detail::ChunkExtents detail::Chunk<Traits>::*which) const {
    const detail::Resumer resumer;
    const auto record = core_.registry.find(detail::PoolCore<Traits>::file_key(meta.id()));
    return record ? detail::list_extents(core_, *record, which) : ExtentSet{};
  }

  mutable detail::PoolCore<Traits> core_;  // const calls of a pool are safe from many threads: they lock
};

template <PoolTraits Traits>
template <ChunkLoader<Traits> Loader>
Result<PinnedChunk<Traits>> ChunkPool<Traits>::get_or_load(const ContentId& content, std::uint64_t chunk_of_part,
                                                           std::uint64_t size_bytes, Loader&& loader) {
  const auto whole = core_.layout.chunk_range(chunk_of_part);
  if (size_bytes == 0 || size_bytes > whole.size_bytes()) return fail(std::errc::invalid_argument);
  const detail::Resumer resumer;
  using Record = detail::FileRecord<Traits>;
  if (auto* const chunk = core_.template pin_unlocked<Record::of_content>(content, chunk_of_part); chunk != nullptr) {
    Pin held{core_, *chunk};
    if (try_use(*chunk, size_bytes)) return held;
  }
  try {
    // A file that is nothing but this content: the content's record is its own, and the loader is told the content id.
    constexpr std::uint64_t one_part_bytes = std::uint64_t{1} << 62;
    const auto meta = Metadata::from_store(FileId{}, whole.offset() + size_bytes);
    const auto by_content = *ChunkLayout::make(chunk_bytes(), one_part_bytes);
    const auto record = detail::find_or_make(core_, detail::PoolCore<Traits>::content_key(content));
    if (!record) return fail(std::errc::no_buffer_space);
    detail::NoLock lock;
    detail::FileAccess<Traits, const Metadata, detail::NoLock> file{
        .core = core_, .record = record, .meta = meta, .layout = by_content, .lock = lock, .content = &content};
    Result<Pin> pin = fail(std::errc::no_such_file_or_directory);
    const auto range = ByteRange::between(whole.offset(), whole.offset() + size_bytes);
    const auto use = [&](ConstBuffers) { pin = pin_at(record, chunk_of_part); };
    detail::Room<Traits> room{core_, {}};
    detail::ReadLoop read{file, range, loader, room, nullptr};
    while (read.step(use) == detail::Progress::waiting) {  // its room neither waits nor flushes
      if (const auto why = detail::block(core_, read.wait(), {}); why) return fail(why);
    }
    if (!read.result()) return fail(read.result().error());
    return pin;
  } catch (const std::bad_alloc&) {
    return fail(std::errc::not_enough_memory);
  }
}

}  // namespace tarn
