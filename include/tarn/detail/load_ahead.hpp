// SPDX-License-Identifier: MIT
#pragma once

// Loads ahead of a read: of what is missing of a range, as much as can be asked for with no wait. Each is a load as any
// other (see load.hpp), that nobody waits for: a read that comes meanwhile waits for it and asks for nothing itself.
//
// Demand comes first:
//   memory   only what is free, or had by evicting clean chunks, and none while somebody waits for room
//   share    loads ahead in flight, whose chunks nobody can evict, have a quarter of the budget at most, of all files
//            together; what has landed is clean and unused, and goes before what was read since
//   errors   told to nobody, not even to a read that waited: it asks for its own bytes, and hears what becomes of those
//
// Thread safety: one call's own.

#include <algorithm>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>

#include <tarn/detail/ahead_charge.hpp>
#include <tarn/detail/chunk_reserve.hpp>
#include <tarn/detail/file_lock.hpp>
#include <tarn/detail/read_window.hpp>
#include <tarn/detail/window_loads.hpp>

namespace tarn::detail {

/// Asks for what is missing of `range`, a window at most, and not in flight.
/// Returns: the bytes asked for; nothing at end of file, or if there is something to wait for.
/// Errors:  throws bad_alloc.
template <class File, class Store>
[[nodiscard]] std::optional<std::uint64_t> load_window_ahead(File& file, ByteRange range, Store& store) {
  using Traits = typename File::TraitsType;
  using Core = PoolCore<Traits>;
  auto& core = file.core;
  ChunkReserve<Traits> reserve{core};
  std::shared_ptr<const AheadCharge<Traits>> charge;
  for (auto looks = 3; looks != 0; --looks) {  // one says what is needed, and the next has it, unless that has changed
    ReadWindow<Traits> window{core};
    WindowLoads<Traits> loads{core};
    if (!file.lock.try_lock_shared()) return std::nullopt;
    SharedLock lock{file.lock, std::adopt_lock};
    range = range.intersect(ByteRange::between(0, file.meta.size()));
    if (range.empty() || window.plan(*file.record, file.meta, file.layout, range, false)) return std::nullopt;
    Need<Traits> need{.bytes = Core::record_and_table_bytes};
    std::size_t rest_chunks = 0;
    if (loads.collect(file, window.missing().extents(), false, load_unit_of<Store>())) {
      const auto bytes = loads.go_ahead(file.layout);
      if (bytes == 0) return 0;
      need.chunks = loads.chunks_needed();
      rest_chunks = loads.chunks_of_rest();
      if (charge != nullptr && reserve.size() >= need.chunks) {
        assert(reserve.size() <= charge->chunks() && "filled by the charge, which is made anew only for more");
        const auto spare = reserve.size() - need.chunks;
        if (loads.begin(window, &reserve, spare) != Load<Traits>::Begun::yes) return std::nullopt;
        window.release();
        lock.unlock();
        reserve.clear();
        core.counters.load_ahead_bytes.fetch_add(bytes, std::memory_order_relaxed);
        loads.start(store, file.layout, nullptr, std::move(charge));
        return bytes + loads.rest_bytes();
      }
    } else {
      reserve.clear();  // it is not known what for
    }
    window.release();
    lock.unlock();
    charge.reset();
    charge = AheadCharge<Traits>::of(core, need.chunks, need.chunks + rest_chunks);
    if (charge == nullptr || core.room_queue.has_waiters()) return std::nullopt;
    if (reserve.fill(need, charge->chunks() - need.chunks) != Core::Freed::some) return std::nullopt;
  }
  return std::nullopt;
}

/// Asks for what is missing of the chunks that hold a byte of `range`, from its start on until something stands in the
/// way. Of a range longer than the share of the budget, only so much is looked at.
/// Returns: the bytes asked for.
template <class File, class Store>
std::uint64_t load_ahead(File& file, ByteRange range, Store& store) noexcept {
  if (range.empty()) return 0;
  const auto window_bytes = file.core.window_bytes;
  const auto whole_chunks_end = file.layout.chunk_range(file.layout.chunk_of(range.end() - 1)).end();
  const auto end = std::min(whole_chunks_end, range.offset() + ahead_limit_bytes(file.core));
  std::uint64_t asked_bytes = 0;
  for (auto at = range.offset(); at < end;) {
    const auto next = std::min(end, at - at % window_bytes + window_bytes);
    try {
      const auto asked = load_window_ahead(file, ByteRange::between(at, next), store);
      if (!asked) break;
      asked_bytes += *asked;
    } catch (...) {  // no memory: who reads it will hear
      break;
    }
    at = next;
  }
  return asked_bytes;
}

}  // namespace tarn::detail
