// SPDX-License-Identifier: MIT
#pragma once

// One window of a blocking read, from the first look to the bytes. The life of a read:
//
//   look     file lock shared, chunks pinned and latched: all there? then use the pieces, under the latches alone
//   room     something is missing and chunks are needed for it: let go of everything, get room, look again
//   load     enter `loading`, let go of everything, ask the store, land, look again: the landed chunks stay pinned
//   wait     somebody else loads the same bytes: let go of everything, wait, look again
//   uncached no chunk is to be had and the caller has a buffer: one extent goes straight there
//
// Nothing is waited for with a latch, the file's lock or a reserved chunk held, apart from the store filling the chunks
// that were reserved for it.

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <shared_mutex>
#include <span>
#include <system_error>

#include <tarn/detail/load.hpp>

namespace tarn::detail {

/// What an algorithm works on: the pool, what it keeps of the file, what the file is, and the lock around that.
template <class Traits, class Metadata, class Lock>
struct FileAccess {
  PoolCore<Traits>& core;
  const RecordRef<Traits>& record;
  Metadata& meta;  // const for a read of a building block
  const ChunkLayout& layout;
  Lock& lock;
  const bool* removing = nullptr;  // of a DirtyFile: its store is being asked to remove it. Guarded by the lock
  const Atomic<std::uint32_t>* opens = nullptr;  // of a DirtyFile: a deleted file that somebody has open lives on

  /// Why the file cannot be changed: ENOENT if it is deleted and nobody has it open, ESTALE if it was abandoned.
  /// Requires: the lock, exclusively.
  [[nodiscard]] std::error_code refusal() const {
    if (record->abandoned.load()) return std::make_error_code(static_cast<std::errc>(ESTALE));
    if (meta.state() != FileState::deleted || (opens != nullptr && opens->load() != 0)) return {};
    return std::make_error_code(std::errc::no_such_file_or_directory);
  }
};

/// Reads the first window's worth of `asked`, at most, and calls use(pieces) under the latches.
/// Returns: the bytes used, 0 only at end of file; with `into`, those may have gone straight there, without use.
template <class File, class Store, class Room, class Use>
[[nodiscard]] Result<std::size_t> read_one_window(File& file, ByteRange asked, Store& store, Room& room,
                                                  std::byte* into, Use use) {
  auto& core = file.core;
  using Core = std::remove_reference_t<decltype(core)>;
  using Traits = typename Core::TraitsType;
  using Begun = typename Load<Traits>::Begun;
  constexpr auto stale = static_cast<std::errc>(ESTALE);

  ChunkReserve<Traits> reserve{core};
  LatchedChunks<Traits> kept{core};
  bool uncached = false;
  auto more_bytes = Core::record_and_table_bytes;  // enough for most windows; doubled where it was not
  for (;;) {
    WindowLoads<Traits> loads{core};
    ReadWindow<Traits> window{core};
    std::shared_lock lock{file.lock};
    const auto range = asked.intersect(ByteRange::between(0, file.meta.size()));
    if (range.empty()) return std::size_t{0};
    if (const auto error = window.plan(*file.record, file.meta, file.layout, range, true); error) {
      auto* const blocked_on = window.blocked_on();
      if (blocked_on == nullptr || !blocked_on->state.try_pin()) return fail(error);
      lock.unlock();
      window.release();
      kept.release();
      blocked_on->state.latch_shared(core.parking);  // with nothing else held; then look again
      blocked_on->state.unlatch_shared(core.parking);
      core.unpin(*blocked_on);
      continue;
    }
    const auto missing = window.missing().extents();
    if (missing.empty() || (uncached && missing.front().offset() > range.offset())) {
      const auto end = missing.empty() ? range.end() : missing.front().offset();
      lock.unlock();
      use(window.pieces());
      return static_cast<std::size_t>(end - range.offset());
    }

    auto only = missing;  // of an uncached read: the part of the first extent that one request covers
    ByteRange first;
    if (uncached) {
      first = file.layout.part_range(file.layout.part_of(range.offset())).intersect(missing.front());
      only = {&first, 1};
    }
    Need need;
    auto begun = Begun::need_room;
    const bool collected = loads.collect(file.record, file.meta, file.layout, only, uncached);
    if (collected) need.chunks = loads.chunks_needed();
    if (!collected || uncached || reserve.size() >= need.chunks) {
      if (collected) begun = loads.begin(window, uncached ? nullptr : &reserve);
      if (begun == Begun::need_room) more_bytes *= 2;
    }
    need.bytes = more_bytes;
    window.release();
    lock.unlock();

    if (begun == Begun::again) continue;
    if (begun == Begun::elsewhere) {
      kept.release();
      reserve.clear();
      loads.wait_for_the_other();
      continue;
    }
    if (begun == Begun::yes) {
      const auto error_of_fetch = loads.fetch(store, file.layout, uncached ? into : nullptr);
      // Whoever has the id now says so before it stores anything: what was fetched may be the other file's.
      if (file.record->replaced.load()) return fail(stale);
      if (const auto error = error_of_fetch; error) {
        if (!loads.still_whole()) continue;  // changed meanwhile: the store may rightly have them no more
        // A flush of our own may have made a new version meanwhile: then the store was right, and is asked again.
        // Perhaps only the store knows so far; a DirtyFile's flush ends by itself, so wait for that, holding nothing.
        if (error == stale && file.opens != nullptr && depth_in_store() == 0) {
          loads.end();
          kept.release();
          reserve.clear();
          wait_for_flush(core, *file.record);
        }
        std::shared_lock again{file.lock};
        if (error == stale && file.meta.version() != loads.version()) continue;
        return fail(error);
      }
      if (uncached) {
        if (!loads.still_whole()) continue;
        core.counters.loads_uncached.fetch_add(1, std::memory_order_relaxed);
        return static_cast<std::size_t>(first.size_bytes());
      }
      const auto error = loads.land(kept);
      if (!error) continue;
      if (error != std::errc::no_buffer_space) return fail(error);
      need.bytes = more_bytes *= 2;  // the extent lists had no room: as if it had not been loaded
    }
    loads.end();
    kept.release();
    if (const Result<> roomy = room(reserve, need); !roomy) {
      if (uncached || into == nullptr || roomy.error() != std::errc::no_buffer_space) return fail(roomy.error());
      uncached = true;
    }
  }
}

}  // namespace tarn::detail
