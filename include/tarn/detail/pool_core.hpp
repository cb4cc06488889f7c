// SPDX-License-Identifier: MIT
#pragma once

// The inside of a pool: budget, memory, records, eviction, and the few steps by which a chunk changes state. ChunkPool
// shows a part of it to the user; the algorithms use all of it.
//
// The life of a chunk:
//
//   reserved   memory and descriptor charged, no file knows it           make_chunk
//   attached   in its file's table; clean ones can be evicted            attach, from reserved
//   detached   out of the table; whoever has a pin still reads it        detach, or evict_one by way of try_retire
//   freed      by the last pin, or by detach if there is none
//
// Lock order: file lock, latches (ascending in a file, the file's own before a content chunk's), registry shard, table,
// eviction, storage, stable objects, parking bucket. No thread waits for a latch with a later lock held. Two take by
// try, against that order, and do something else where they fail: eviction the table mutexes, a short read
// (held_read.hpp) a latch.
//
// Room: a call that found no memory queues, and is woken by whoever may have made some: see room_queue.hpp.

#include <cassert>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <new>
#include <optional>
#include <string>
#include <system_error>
#include <type_traits>
#include <utility>

#include <tarn/budget.hpp>
#include <tarn/chunk_layout.hpp>
#include <tarn/detail/file_record.hpp>
#include <tarn/detail/pressure.hpp>
#include <tarn/detail/registry.hpp>
#include <tarn/detail/room_queue.hpp>
#include <tarn/detail/striped_count.hpp>
#include <tarn/detail/sync.hpp>
#include <tarn/policies.hpp>
#include <tarn/pool_options.hpp>

namespace tarn::detail {

template <class Traits>
class PoolCore {
 public:
  using TraitsType = Traits;
  using Record = FileRecord<Traits>;
  using RecordHandle = RecordRef<Traits>;
  using PoolChunk = Chunk<Traits>;
  using Key = typename Record::Key;
  using FileId = typename Traits::FileId;
  using ContentId = typename Traits::ContentId;

  struct Counters {
    Atomic<std::uint64_t> chunks_held{0}, chunks_dirty{0}, chunks_reserved{0}, dirty_bytes{0}, lent_bytes{0}, loads{0},
        load_bytes{0}, loads_uncached{0}, load_waits{0}, load_redundant_bytes{0}, load_ahead_bytes{0},
        ahead_charge_bytes{0}, flushes{0}, flush_bytes{0}, flush_retries{0}, flush_redirtied_bytes{0}, swaps{0},
        syncs{0}, sync_failures{0}, evictions{0}, eviction_probes{0}, refusals{0}, throttled{0}, room_waits{0},
        latch_waits{0};
    Atomic<std::uint64_t> valid_bytes{0};  // of every chunk, attached or not: what is dirty is among them
    StripedCount view_bytes, copy_bytes;
  };

  /// Errors: throws system_error(EINVAL) for a chunk that is no power of two or a budget below the minimum.
  PoolCore(const PoolOptions& options, typename Traits::Observer watch)
      : layout{checked_layout(options)},
        budget{options.budget_bytes},
        window_bytes{window_for(options)},
        marks{options},
        observer{std::move(watch)},
        registry{budget},
        storage{StorageOptions{.chunk_bytes = static_cast<std::size_t>(options.chunk_bytes),
                               .prefault = options.prefault}} {}
  PoolCore(const PoolCore&) = delete;
  PoolCore& operator=(const PoolCore&) = delete;

  /// What a chunk is charged beside its memory: its descriptor, and what the eviction policy has for it.
  static constexpr std::uint64_t chunk_own_bytes = sizeof(PoolChunk) + Traits::Eviction::extra_bytes;
  /// What it costs at worst: with a leaf of its own.
  static constexpr std::uint64_t chunk_overhead_bytes = chunk_own_bytes + ChunkTable<PoolChunk>::node_bytes();
  static constexpr std::uint64_t max_window_chunks = 256;
  /// What a call may need beside chunks: a record, and a path of table nodes.
  static constexpr std::uint64_t record_and_table_bytes =
      Registry<Traits>::record_bytes + 6 * ChunkTable<PoolChunk>::node_bytes();

  [[nodiscard]] static std::uint64_t min_budget_bytes(const PoolOptions& options) {
    return Traits::Storage::min_budget_bytes(static_cast<std::size_t>(options.chunk_bytes)) +
           4 * (chunk_overhead_bytes + record_and_table_bytes);
  }

  const ChunkLayout layout;  // by chunks; a file's own parts are in its metadata
  Budget budget;
  const std::uint64_t window_bytes;
  const PoolOptions marks;  // of these, the marks
  [[no_unique_address]] typename Traits::Observer observer;
  [[no_unique_address]] typename Traits::TimeSource time;
  ParkingLot parking;
  RoomQueue room_queue{parking};
  Pressure pressure;
  Registry<Traits> registry;
  Counters counters;
  FlushTally flush_tally;
  Atomic<std::uint64_t> flush_generation{0};

  [[nodiscard]] std::size_t chunk_bytes() const { return static_cast<std::size_t>(layout.chunk_bytes()); }
  [[nodiscard]] static Key file_key(const FileId& id) { return Key{std::in_place_index<Record::of_file>, id}; }
  [[nodiscard]] static Key content_key(const ContentId& id) { return Key{std::in_place_index<Record::of_content>, id}; }

  // ---- memory

  /// A reserved chunk, pinned and exclusively latched by the caller, if that needs no eviction.
  [[nodiscard]] PoolChunk* make_chunk() noexcept {
    auto* const chunk = chunks_.take(std::nothrow);  // before the memory: see fill in chunk_reserve.hpp
    if (chunk == nullptr) return nullptr;
    auto* const memory = storage.allocate(budget);
    if (memory == nullptr) {
      chunks_.give(*chunk);
      return nullptr;
    }
    chunk->begin(memory);
    counters.chunks_reserved.fetch_add(1, std::memory_order_relaxed);
    return chunk;
  }
  void free_memory(std::byte* memory) noexcept {
    storage.deallocate(memory, budget);
    room_queue.note();
  }
  void free_chunk(PoolChunk* chunk) noexcept {
    free_quietly(chunk);
    room_queue.note();
  }
  /// The same, waking nobody.
  void free_quietly(PoolChunk* chunk) noexcept {
    if (chunk->record == nullptr) counters.chunks_reserved.fetch_sub(1, std::memory_order_relaxed);
    counters.valid_bytes.fetch_sub(chunk->valid.size_bytes(), std::memory_order_relaxed);
    budget.release(chunk->valid.memory_bytes() + chunk->dirty.memory_bytes());
    auto* const memory = chunk->memory;
    chunk->end();
    chunks_.give(*chunk);
    if (memory != nullptr) storage.deallocate(memory, budget);
  }
  /// `chunk`, whose memory a flush reads, goes on with the memory of `fresh`, which holds all its valid bytes; the old
  /// memory is the flush's own from now on. Requires: the exclusive latch on both.
  void move_to(PoolChunk& chunk, PoolChunk& fresh) noexcept {
    chunk.memory = std::exchange(fresh.memory, nullptr);
    chunk.state.clear(ChunkState::in_flush);
    counters.swaps.fetch_add(1, std::memory_order_relaxed);
    free_chunk(&fresh);
  }
  enum class Freed : std::uint8_t { some, none, none_but_busy };  ///< busy: clean chunks are there, all pinned

  /// One step towards more room: gives back warm memory, else evicts a clean chunk.
  [[nodiscard]] Freed free_some() { return storage.trim(budget) != 0 ? Freed::some : evict_one(); }

  Freed evict_one() {
    for (;;) {
      PoolChunk* victim = nullptr;
      RecordHandle owner, contended;
      bool busy = false;
      std::uint64_t probes = 0;
      {
        MutexLock lock{eviction_mutex_};
        eviction_.evict([&](typename Traits::Eviction::Hook& hook) {
          eviction_mutex_.is_held();
          ++probes;
          auto& chunk = static_cast<PoolChunk&>(hook);
          // Alive: a chunk in the ring is attached, and leaves the ring under our mutex before its record can go.
          auto& record = *chunk.record;
          if (!record.table_mutex.try_lock()) {
            if (!contended) contended = use(record);
            return false;
          }
          MutexLock table{record.table_mutex, std::adopt_lock};
          if (!chunk.state.try_retire()) {
            busy = true;
            return false;
          }
          owner = use(record);
          record.table.erase(chunk.index, nodes);
          eviction_.remove(hook);
          victim = &chunk;
          return true;
        });
      }
      counters.eviction_probes.fetch_add(probes, std::memory_order_relaxed);
      if (victim != nullptr) {
        counters.chunks_held.fetch_sub(1, std::memory_order_relaxed);
        counters.evictions.fetch_add(1, std::memory_order_relaxed);
        free_chunk(victim);
        return Freed::some;
      }
      if (!contended) return busy ? Freed::none_but_busy : Freed::none;
      // Whoever has the table mutex gives it back soon, and tells nobody: wait for that, and look again.
      MutexLock wait{contended->table_mutex};
    }
  }
  /// Any thread: the one call of a policy that is (see EvictionPolicy).
  void touch(PoolChunk& chunk) const noexcept TARN_NO_THREAD_SAFETY_ANALYSIS { eviction_.touch(chunk); }

  // ---- states of a chunk; the owner's table mutex is held for all but unpin

  /// reserved -> attached, clean, still pinned and exclusively latched by its maker.
  /// Requires: its place is reserved in the table.
  void attach(PoolChunk& chunk, Record& record, std::uint64_t index) noexcept TARN_REQUIRES(record.table_mutex) {
    chunk.record = &record;
    chunk.index = index;
    record.table.insert(index, &chunk);
    MutexLock lock{eviction_mutex_};
    insert_evictable(chunk);
    counters.chunks_reserved.fetch_sub(1, std::memory_order_relaxed);
    counters.chunks_held.fetch_add(1, std::memory_order_relaxed);
  }
  /// attached to one record -> attached to another. Requires: the exclusive latch; clean; its place is reserved there.
  void move_chunk(PoolChunk& chunk, Record& from, Record& to, std::uint64_t index) noexcept
      TARN_REQUIRES(from.table_mutex, to.table_mutex) {
    from.table.erase(chunk.index, nodes);
    to.table.insert(index, &chunk);
    MutexLock lock{eviction_mutex_};  // an eviction reads whose it is
    eviction_.remove(chunk);
    chunk.record = &to;
    chunk.index = index;
    insert_evictable(chunk);
  }
  /// attached to `record` -> detached, and freed if nobody has a pin. Its dirty bytes are gone: the caller means it.
  /// Requires: the caller is a user of the record.
  void detach(PoolChunk& chunk, Record& record) noexcept TARN_REQUIRES(record.table_mutex) {
    record.table.erase(chunk.index, nodes);
    counters.chunks_held.fetch_sub(1, std::memory_order_relaxed);
    const bool was_dirty = chunk.state.is(ChunkState::dirty);
    if (was_dirty) {
      count_dirty(record, 0, chunk.dirty.size_bytes());
      counters.chunks_dirty.fetch_sub(1, std::memory_order_relaxed);
      chunk.state.clear(ChunkState::dirty);
    } else {
      MutexLock lock{eviction_mutex_};
      eviction_.remove(chunk);
    }
    record.users.fetch_add(1);  // the chunk's, while it is pinned: before it can be unpinned
    if ((chunk.state.detach() & ChunkState::pin_mask) == 0) {
      record.users.fetch_sub(1);  // not the last: the caller's is one
      free_chunk(&chunk);
    } else if (was_dirty) {
      room_queue.note();  // under the limits of dirty bytes
    }
  }
  /// Sets the state's dirty bit to what `dirty` says. Requires: the exclusive latch, too. A detached chunk is left
  /// alone.
  void settle_dirty(PoolChunk& chunk) noexcept {
    const bool is = chunk.state.is(ChunkState::dirty), should = !chunk.dirty.empty();
    if (is == should || chunk.state.is(ChunkState::detached)) return;
    {
      MutexLock lock{eviction_mutex_};
      if (should) {
        eviction_.remove(chunk);
        chunk.state.set(ChunkState::dirty);
        counters.chunks_dirty.fetch_add(1, std::memory_order_relaxed);
      } else {
        chunk.state.clear(ChunkState::dirty);
        insert_evictable(chunk);
        counters.chunks_dirty.fetch_sub(1, std::memory_order_relaxed);
      }
    }
    if (!should) room_queue.note();
  }
  void count_dirty(Record& record, std::uint64_t more_bytes, std::uint64_t less_bytes) noexcept {
    record.dirty_bytes.fetch_add(more_bytes - less_bytes);  // wraps to a subtraction, which is what is meant
    counters.dirty_bytes.fetch_add(more_bytes - less_bytes);
  }
  /// Gives back a pin, and frees the chunk if that was the last of a detached one.
  /// Requires: the caller is a user of the chunk's record, which may go with this, or has no lock from registry's on.
  void unpin(PoolChunk& chunk) noexcept {
    const auto left = chunk.state.unpin();
    if (!ChunkState::quiet(left) || room_queue.waited_for()) settle_unpinned(chunk, left);
  }
  /// The same with the latch.
  [[gnu::always_inline]] void unpin_shared(PoolChunk& chunk) noexcept { unlatched(chunk, chunk.state.unpin_shared()); }
  void unpin_exclusive(PoolChunk& chunk) noexcept { unlatched(chunk, chunk.state.unpin_exclusive()); }
  /// A user's pin of a chunk by its owner's id, with no lock. Returns: null, which says nothing, if that takes more.
  template <std::size_t alternative, class Id>
  [[nodiscard, gnu::always_inline]] PoolChunk* pin_unlocked(const Id& id, std::uint64_t index) noexcept {
    const auto* const record = registry.find_unlocked(std::hash<Id>{}(id));
    auto* const chunk = record == nullptr ? nullptr : record->find_unlocked(index);
    if (chunk == nullptr) return nullptr;
    user_pins.note_made();
    const bool pinned = chunk->state.try_pin_made();
    if (pinned && is_of(*chunk, *record, index) && record->template has_key<alternative>(id)) return chunk;
    user_pins.note_end();
    if (pinned) unpin(*chunk);  // another one's by now
    return nullptr;
  }
  /// Forgets every chunk of the file and everything in flight. Returns: the dirty bytes that went with it.
  std::uint64_t drop(Record& record) noexcept {
    std::uint64_t lost_bytes = 0;
    {
      MutexLock table{record.table_mutex};
      while (record.loads != nullptr) {
        record.loads->dropped = true;
        record.loads->loading.clear();
        record.loads = record.loads->next;
      }
      take_back_all_lent(record);
      for (; record.flushes != nullptr; record.flushes = record.flushes->next) {
        record.flushes->dropped = true;
        ++record.dropped_flushes;
      }
      record.note_in_flight();
      record.changed_since_ns = 0;
      lost_bytes = record.dirty_bytes.load();
      for (auto at = record.table.next(0); at.second != nullptr; at = record.table.next(at.first)) {
        detach(*at.second, record);
      }
      record.arrivals.fetch_add(1);
    }
    parking.wake(&record.arrivals);
    return lost_bytes;
  }

  /// What was changed of a file went unflushed, with what held it, and with so many dirty bytes: never silently. Who
  /// means it has an observer.
  void tell_lost(const FileId& file, std::uint64_t bytes) noexcept {
    [[maybe_unused]] constexpr bool nobody_hears = std::is_same_v<typename Traits::Observer, NullObserver>;
    assert(!nobody_hears && "a change of a file is destroyed unflushed, and no observer is told");
    observer.on_dirty_lost(file, bytes);
  }

  // ---- what changes, and what is in flight

  /// The memory of the chunks that have dirty bytes.
  [[nodiscard]] std::uint64_t dirty_memory_bytes() const { return counters.chunks_dirty.load() * layout.chunk_bytes(); }
  /// The file has changed, and the store does not know. Requires: the file's lock.
  void note_changed(Record& record) noexcept {
    if (record.changed_since_ns.load(std::memory_order_relaxed) == 0) record.changed_since_ns = time.now_ns();
    if (auto* const member = record.member.load(); member != nullptr) pressure.list(*member);
  }
  void note_latch(bool waited) noexcept {
    if (waited) counters.latch_waits.fetch_add(1, std::memory_order_relaxed);
  }
  /// The flushes in flight settle nothing any more.
  void take_back_lent(Record& record) noexcept {
    MutexLock table{record.table_mutex};
    take_back_all_lent(record);
  }
  /// Of `range`, bytes change that a flush may have: they leave `lent`, as they leave what loads may fill.
  /// Returns: those that a flush had. Errors: as FileRecord::take_out.
  std::uint64_t take_out(Record& record, ByteRange range) TARN_REQUIRES(record.table_mutex) {
    const auto lent_bytes = record.take_out(range);
    if (lent_bytes != 0) counters.lent_bytes.fetch_sub(lent_bytes, std::memory_order_relaxed);
    return lent_bytes;
  }
  /// Gives back what it can while more is charged than the budget allows, since that was lowered.
  void shrink() {
    while (budget.over_limit() && free_some() == Freed::some) {
    }
  }

  /// Counts its own lifetime.
  struct Count {
    explicit Count(Atomic<std::uint32_t>& to) : counter{to} { counter.fetch_add(1); }
    Count(const Count&) = delete;
    Count& operator=(const Count&) = delete;
    ~Count() { counter.fetch_sub(1); }
    Atomic<std::uint32_t>& counter;
  };
  Atomic<std::uint32_t> reserves{0};  ///< calls that were given reserved chunks: they will attach or free them
  CheckedMutex fill_mutex;            ///< one call reserves at a time: two never hold half each. First in lock order
  /// PinnedChunk objects: nobody knows when they end. Counted before they are pinned, for who finds a chunk busy asks
  /// whether it is by one of them, and would wait for a read that ends.
  UserPins user_pins;

  typename Traits::Storage storage;
  typename ChunkTable<PoolChunk>::Nodes nodes{budget};  ///< of every record's table

 private:
  // By the name of its file or content and of its place there, mixed as SplitMix64 does (Steele, Lea and Flood, "Fast
  // splittable pseudorandom number generators", 2014).
  void insert_evictable(PoolChunk& chunk) noexcept TARN_REQUIRES(eviction_mutex_) {
    std::uint64_t name = chunk.record->hash * 0x9E3779B97F4A7C15u + chunk.index;
    name = (name ^ (name >> 30)) * 0xBF58476D1CE4E5B9u;
    name = (name ^ (name >> 27)) * 0x94D049BB133111EBu;
    eviction_.insert(chunk, name ^ (name >> 31));
  }
  [[nodiscard]] static ChunkLayout checked_layout(const PoolOptions& options) {
    const auto refuse = [](const std::string& why) {
      throw std::system_error{std::make_error_code(std::errc::invalid_argument), "tarn::ChunkPool: " + why};
    };
    const auto made = ChunkLayout::make(options.chunk_bytes);
    if (!made) refuse("chunk_bytes is not a power of two up to 1 GiB");
    if (options.window_bytes == 0) refuse("window_bytes is 0");
    if (options.budget_bytes > max_offset) refuse("budget_bytes is past max_offset");
    if (const auto least = min_budget_bytes(options); options.budget_bytes < least) {
      refuse("budget_bytes is " + std::to_string(options.budget_bytes) + ", below the " + std::to_string(least) +
             " of ChunkPool::min_budget_bytes");
    }
    return *made;
  }
  // A quarter of the budget at most, so that a few calls at once find their windows, and at most so many chunks that
  // latching them stays cheap; but one chunk at least.
  [[nodiscard]] static std::uint64_t window_for(const PoolOptions& options) {
    const auto chunk = options.chunk_bytes;
    const auto affordable = options.budget_bytes / (chunk + chunk_overhead_bytes) / 4;
    const auto chunks = std::min({options.window_bytes / chunk, max_window_chunks, affordable});
    return std::max<std::uint64_t>(chunks, 1) * chunk;
  }

  void take_back_all_lent(Record& record) noexcept TARN_REQUIRES(record.table_mutex) {
    for (auto* flush = record.flushes; flush != nullptr; flush = flush->next) {
      counters.lent_bytes.fetch_sub(flush->lent.size_bytes(), std::memory_order_relaxed);
      flush->lent.clear();
      flush->taken_back = true;
    }
  }

  [[gnu::always_inline]] void unlatched(PoolChunk& chunk, std::uint64_t left) noexcept {
    if (!ChunkState::quiet(left) || room_queue.waited_for()) settle_unlatched(chunk, left);
  }
  [[gnu::noinline]] void settle_unlatched(PoolChunk& chunk, std::uint64_t word) noexcept {
    const Resumer resumer;
    chunk.state.wake_after(parking, word);
    settle_unpinned(chunk, word);
  }
  // A pin was given back, and `word` is what that left.
  [[gnu::noinline]] void settle_unpinned(PoolChunk& chunk, std::uint64_t word) noexcept {
    if ((word & ChunkState::pin_mask) != 0) return;
    const Resumer resumer;
    if ((word & ChunkState::detached) != 0) {
      auto& record = *chunk.record;
      free_chunk(&chunk);
      registry.release(record);  // see detach
    } else {
      room_queue.note();  // evictable now, perhaps; `chunk` may be gone already
    }
  }
  // Requires: the record has a chunk, which cannot leave it now.
  [[nodiscard]] RecordHandle use(Record& record) {
    record.users.fetch_add(1);
    return {registry, record};
  }

  StableObjects<PoolChunk> chunks_{budget, chunk_own_bytes};
  CheckedMutex eviction_mutex_;
  typename Traits::Eviction eviction_ TARN_GUARDED_BY(eviction_mutex_);
};

}  // namespace tarn::detail
