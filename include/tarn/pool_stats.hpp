// SPDX-License-Identifier: MIT
#pragma once

// What a pool has done and holds: a plain snapshot. The parts are read one after another, so sums may differ by what
// happened meanwhile.

#include <cstdint>

namespace tarn {

struct PoolStats {
  std::uint64_t budget_bytes = 0;
  std::uint64_t charged_bytes = 0;  ///< of the budget: chunks out or kept warm, tables, records, long extent lists
  std::uint64_t chunks_held = 0;    ///< chunks that a file or a piece of content has
  std::uint64_t chunks_dirty = 0;   ///< of them, those with dirty bytes
  std::uint64_t dirty_bytes = 0;
  std::uint64_t loads = 0;  ///< requests to a store
  std::uint64_t load_bytes = 0;
  std::uint64_t loads_uncached = 0;  ///< of them, those that went straight to the caller: no chunk was to be had
  std::uint64_t load_waits = 0;      ///< reads that waited for bytes somebody else was loading
  std::uint64_t flushes = 0;         ///< requests to a store
  std::uint64_t flush_bytes = 0;     ///< zeros not counted
  std::uint64_t flush_failures = 0;
  std::uint64_t swaps = 0;  ///< writes that met a chunk in flush and moved it to other memory
  std::uint64_t evictions = 0;
  std::uint64_t refusals = 0;  ///< times that no memory could be had by evicting
};

/// Calls f(name, value) for every value, in the order above.
template <class F>
constexpr void for_each_value(const PoolStats& stats, F f) {
  f("budget_bytes", stats.budget_bytes);
  f("charged_bytes", stats.charged_bytes);
  f("chunks_held", stats.chunks_held);
  f("chunks_dirty", stats.chunks_dirty);
  f("dirty_bytes", stats.dirty_bytes);
  f("loads", stats.loads);
  f("load_bytes", stats.load_bytes);
  f("loads_uncached", stats.loads_uncached);
  f("load_waits", stats.load_waits);
  f("flushes", stats.flushes);
  f("flush_bytes", stats.flush_bytes);
  f("flush_failures", stats.flush_failures);
  f("swaps", stats.swaps);
  f("evictions", stats.evictions);
  f("refusals", stats.refusals);
}

}  // namespace tarn
