// SPDX-License-Identifier: MIT
#pragma once

// What the pool keeps of one file, or of one piece of content: its chunks by index, and the records of the loads and
// the flushes in flight.
//
// The records make late arrivals harmless. A load in flight has a set `loading`: what it may still fill. A flush in
// flight has a set `lent`: what it took and nobody changed since. Whoever changes bytes (write, truncate, punch,
// invalidate, discard, drop) takes them out of both, so a load that ends late covers no newer byte, and a flush that
// ends well settles none.
//
// Order of a change against a landing load, for one chunk: both hold its exclusive latch; the change takes its bytes
// out of `loading` under it, the landing asks `loading` under it. Where there is no chunk yet, both go through the
// table mutex: the landing asks and inserts in one critical section.
//
// Thread safety: what table_mutex guards is marked. No thread waits for a latch, a load, a flush or
// memory while it holds one.

#include <algorithm>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <system_error>
#include <type_traits>
#include <utility>
#include <variant>

#include <tarn/byte_range.hpp>
#include <tarn/detail/chunk_extents.hpp>
#include <tarn/detail/chunk_state.hpp>
#include <tarn/detail/chunk_table.hpp>
#include <tarn/detail/pressure.hpp>
#include <tarn/detail/sync.hpp>
#include <tarn/extent_set.hpp>

namespace tarn::detail {

template <class Traits>
struct FileRecord;

/// Of a chunk, what a hit looks at: with what the eviction policy marks, it is one line of memory.
template <class Traits>
struct ChunkFront {
  ChunkState state;
  FileRecord<Traits>* record = nullptr;
  std::uint64_t index = 0;
  std::byte* memory;
  ChunkExtents valid;
};

/// A chunk: its memory and what the bytes in it are. Found through its file's table while it is not detached.
///
/// memory, valid, dirty, record and index change under the exclusive latch and are read under a latch, record and index
/// also with a pin alone: while there is one, they change no more once the chunk was attached. Invariant: dirty is
/// inside valid; the eviction policy has it <=> attached, and the state's dirty bit is clear.
///
/// No two share a line of memory: each is written to by all who read its bytes.
template <class Traits>
struct alignas(64) Chunk : ChunkFront<Traits>, Traits::Eviction::Hook {
  using Front = ChunkFront<Traits>;
  // A policy's hook may have such names, too.
  using Front::state, Front::record, Front::index, Front::memory, Front::valid;

  /// One that was given back, or new, is a new chunk's from now on.
  void begin(std::byte* bytes) noexcept {
    this->reset();
    record = nullptr;
    index = 0;
    memory = bytes;
    state.begin();
  }
  /// It is no chunk's any more. Requires: nobody has a pin.
  void end() noexcept {
    valid.clear();
    dirty.clear();
  }
  [[nodiscard]] std::uint64_t& spare() { return index; }

  ChunkExtents dirty;
};

/// A load between begin and end: what it may still fill, and, once it is done, what became of it. Those who wait for
/// the same bytes share it.
struct LoadInFlight : std::enable_shared_from_this<LoadInFlight> {
  LoadInFlight() = default;
  LoadInFlight(const LoadInFlight&) = delete;
  LoadInFlight& operator=(const LoadInFlight&) = delete;

  ExtentSet loading;
  ExtentSet asked;  // of whole parts: all that the store is asked for, whether it may fill that or not
  LoadInFlight* next = nullptr;
  bool ahead = false;    // of any read: what becomes of it is nobody's to hear
  bool cut = false;      // something of `asked` is gone since: the store may rightly not have it
  bool dropped = false;  // the file was dropped: the record forgot this load

  Atomic<bool> done{false};  // what follows is read only after it, and changes only before
  std::error_code error;
  bool lacked_room = false;   // it was fetched, and the budget had no room for it
  ExtentSet failed;           // what of it could not be had, if the store said so
  bool untouched = true;      // nobody has changed what it was for since
  bool by_content = false;    // asked for by content id alone, in no file's name
  std::uint64_t version = 0;  // of the file, that the store was asked for

  /// Whether its error says something of the bytes that it was for, and they are still missing.
  [[nodiscard]] bool error_counts() const { return untouched && !cut; }
  /// The same of bytes that somebody else waits for. Requires: done.
  [[nodiscard]] bool error_counts_for(const ExtentSet& bytes) const {
    const auto is_of = [&](ByteRange extent) { return failed.intersects(extent) && loading.contains(extent); };
    return error_counts() && std::ranges::any_of(bytes.extents(), is_of);
  }

 protected:
  ~LoadInFlight() = default;
};

/// A flush between begin and finish: what it took. Those of one file are in different parts, and one that sets the
/// file's size, or whose store wants them one after another, is the only one.
struct FlushInFlight {
  ExtentSet lent;
  ByteRange parts;  // those that it is in, whole; guarded by the file's lock
  FlushInFlight* next = nullptr;
  bool alone = true;
  bool dropped = false;
  bool taken_back = false;  // a sync failed meanwhile: what it stores, the size too, may be forgotten
};

/// What flushes have come to, or may: those of the pool, or of a file.
struct FlushTally {
  Atomic<std::uint64_t> settled{0};  ///< have made bytes clean
  Atomic<std::uint64_t> failed{0};
  Atomic<std::uint32_t> flying{0};   ///< are between begin and finish
  Atomic<std::uint32_t> hopeful{0};  ///< of these, those that may well make room: the last one of the file did not fail
};

template <class Traits>
struct alignas(64) FileRecord {
  using Key = std::variant<typename Traits::FileId, typename Traits::ContentId>;
  static constexpr std::size_t of_file = 0, of_content = 1;
  struct HashOfKey {
    std::size_t operator()(const Key& of) const {
      return std::visit([](const auto& id) { return std::hash<std::remove_cvref_t<decltype(id)>>{}(id); }, of);
    }
  };

  /// One that was given back, or new, is that key's from now on. May throw bad_alloc, and is then nobody's.
  void begin(const Key& k) {
    assert(dirty_bytes == 0 && users == 0 && waits_for_none == 0 && "a record was given back with something left");
    key = k;
    hash = HashOfKey{}(key);
    abandoned = replaced = flush_failed = false;
    changed_since_ns = 0;
    member = nullptr;
    owned = retired = false;
    flush_tally.settled = flush_tally.failed = 0;
    flush_tally.flying = flush_tally.hopeful = 0;
  }
  /// It is no key's any more. Requires: it is idle, and has no user.
  void end() noexcept {
    try {
      key.template emplace<of_file>();
    } catch (...) {  // then what the key has is kept, too
    }
  }
  [[nodiscard]] std::size_t& spare() { return hash; }

  template <std::size_t alternative, class Id>
  [[nodiscard]] bool has_key(const Id& id) const {
    const auto* const mine = std::get_if<alternative>(&key);
    return mine != nullptr && *mine == id;
  }

  // First what is looked at without a lock, in one line of memory (see PoolCore::pin_unlocked).
  // The key is set by begin, and the same as long as the record has a user or a chunk, also a detached one that is
  // pinned.
  Key key;               // file ids and content ids are different alternatives: they never meet
  std::size_t hash = 0;  // of the key: its shard is found by it, and the eviction policy knows its chunks by it
  ChunkTable<Chunk<Traits>> table TARN_GUARDED_BY(table_mutex);
  Atomic<bool> abandoned{false};        // nothing of this file is changed or stored any more
  Atomic<bool> replaced{false};         // and another file has the id now: what the store has is that one's
  bool owned = false, retired = false;  // guarded by the registry's shard; see there
  Atomic<bool> flush_failed{false};     // the last flush of its owner did
  // Whether there are any `loads` or `flushes`. It changes with them, but is read without the mutex by who has the
  // file's lock exclusively: nothing begins then, and who sees that there is nothing sees what it has left.
  Atomic<bool> in_flight{false};

  CheckedMutex table_mutex;
  LoadInFlight* loads TARN_GUARDED_BY(table_mutex) = nullptr;  // and what is on the list, as that says
  FlushInFlight* flushes TARN_GUARDED_BY(table_mutex) = nullptr;
  FlushTally flush_tally;
  // In flight still, of a file that has gone: they settle nothing.
  std::uint32_t dropped_flushes TARN_GUARDED_BY(table_mutex) = 0;
  Atomic<std::uint32_t> waits_for_none{0};   // callers that wait until none is in flight: none joins another then
  Atomic<std::uint32_t> users{0};            // see Registry
  Atomic<Flushable*> member{nullptr};        // the DirtyFile, if one owns it
  Atomic<std::int64_t> changed_since_ns{0};  // since when the store lacks a change of it; 0: it lacks none
  Atomic<std::uint64_t> arrivals{0};         // rises when a load or a flush ends; who waits for one parks here
  // Of the attached chunks; changes under their exclusive latch or the table mutex.
  Atomic<std::uint64_t> dirty_bytes{0};

  [[nodiscard]] bool idle() const TARN_REQUIRES(table_mutex) {
    return table.empty() && loads == nullptr && flushes == nullptr;
  }

  /// See ChunkTable. Any thread; the record is kept alive.
  [[nodiscard]] typename ChunkTable<Chunk<Traits>>::Unlocked unlocked() const TARN_NO_THREAD_SAFETY_ANALYSIS {
    return typename ChunkTable<Chunk<Traits>>::Unlocked{table};
  }
  [[nodiscard, gnu::always_inline]] Chunk<Traits>* find_unlocked(std::uint64_t index) const
      TARN_NO_THREAD_SAFETY_ANALYSIS {
    return table.find_unlocked(index);
  }

  /// Begins. Requires: the caller has the file's lock, too.
  void enlist(LoadInFlight& load) TARN_REQUIRES(table_mutex) {
    load.next = std::exchange(loads, &load);
    note_in_flight();
  }
  void enlist(FlushInFlight& flush) TARN_REQUIRES(table_mutex) {
    flush.next = std::exchange(flushes, &flush);
    note_in_flight();
  }
  /// After each change of what is on the two lists.
  void note_in_flight() TARN_REQUIRES(table_mutex) {
    in_flight.store(loads != nullptr || flushes != nullptr, std::memory_order_release);
  }
  /// Takes the bytes of `range` out of everything in flight. May throw bad_alloc; what was taken out by then stays out,
  /// which only makes a load or a flush settle less.
  /// Returns: the bytes that were lent.
  std::uint64_t take_out(ByteRange range) TARN_REQUIRES(table_mutex) {
    for (auto* load = loads; load != nullptr; load = load->next) load->loading.subtract(range);
    std::uint64_t lent_bytes = 0;
    for (auto* flush = flushes; flush != nullptr; flush = flush->next) {
      flush->lent.for_each_in(range, [&](ByteRange run) { lent_bytes += run.size_bytes(); });
      flush->lent.subtract(range);
    }
    return lent_bytes;
  }
  /// Bytes of `range` are gone, and will not be in the store.
  void note_cut(ByteRange range) noexcept TARN_REQUIRES(table_mutex) {
    for (auto* load = loads; load != nullptr; load = load->next) load->cut = load->cut || load->asked.intersects(range);
  }
  /// A load that may still fill some of `range`, or null.
  [[nodiscard]] LoadInFlight* load_of(ByteRange range) const TARN_REQUIRES(table_mutex) {
    for (auto* load = loads; load != nullptr; load = load->next) {
      if (load->loading.intersects(range)) return load;
    }
    return nullptr;
  }
  /// The load has landed or failed. Whoever calls this wakes `arrivals` afterwards.
  void forget(LoadInFlight& load) TARN_REQUIRES(table_mutex) {
    arrivals.fetch_add(1);
    if (load.dropped) return;
    take_off(loads, load);
    note_in_flight();
  }
  /// The flush has ended. Whoever calls this wakes `arrivals` afterwards.
  void forget(FlushInFlight& flush) TARN_REQUIRES(table_mutex) {
    arrivals.fetch_add(1);
    if (flush.dropped) {
      --dropped_flushes;
    } else {
      take_off(flushes, flush);
      note_in_flight();
    }
  }

 private:
  template <class T>
  static void take_off(T*& first, T& one) {
    for (auto** at = &first; *at != nullptr; at = &(*at)->next) {
      if (*at == &one) {
        *at = one.next;
        return;
      }
    }
    assert(false && "what is in flight is on its record's list");
  }
};

/// Whether a chunk that was found without a lock, and is pinned now, is what was looked for: not another one by now.
template <class Traits>
[[nodiscard]] bool is_of(const Chunk<Traits>& chunk, const FileRecord<Traits>& record, std::uint64_t index) {
  return chunk.record == &record && chunk.index == index;
}

/// Returns: the record's arrivals if a flush is in flight: what to wait on. `dropped`: or one of a file that has gone.
template <class Traits>
[[nodiscard]] std::optional<std::uint64_t> flush_in_flight(FileRecord<Traits>& record, bool dropped = false) {
  MutexLock table{record.table_mutex};
  if (record.flushes == nullptr && (!dropped || record.dropped_flushes == 0)) return std::nullopt;
  return record.arrivals.load();
}

}  // namespace tarn::detail
