// SPDX-License-Identifier: MIT
#pragma once

// What a pool has done and holds: a plain snapshot. The parts are read one after another, so sums may differ by what
// happened meanwhile. What each value is stands in pool_values, in the phrase that a monitor shows, too.

#include <cstdint>
#include <iterator>

namespace tarn {

struct PoolStats {
  // What is
  std::uint64_t budget_bytes = 0;
  std::uint64_t charged_bytes = 0;
  std::uint64_t clean_bytes = 0;
  std::uint64_t dirty_bytes = 0;
  std::uint64_t lent_bytes = 0;
  std::uint64_t chunks_held = 0;
  std::uint64_t chunks_dirty = 0;
  std::uint64_t chunks_reserved = 0;
  std::uint64_t pins = 0;
  std::uint64_t files_dirty = 0;
  std::uint64_t oldest_change_ns = 0;

  // What was done, since the pool was made
  std::uint64_t view_bytes = 0;
  std::uint64_t copy_bytes = 0;
  std::uint64_t loads = 0;
  std::uint64_t load_bytes = 0;
  std::uint64_t loads_uncached = 0;
  std::uint64_t load_waits = 0;
  std::uint64_t load_redundant_bytes = 0;
  std::uint64_t load_ahead_bytes = 0;
  std::uint64_t flushes = 0;
  std::uint64_t flush_bytes = 0;
  std::uint64_t flush_failures = 0;
  std::uint64_t flush_retries = 0;
  std::uint64_t flush_redirtied_bytes = 0;
  std::uint64_t swaps = 0;
  std::uint64_t syncs = 0;
  std::uint64_t sync_failures = 0;
  std::uint64_t evictions = 0;
  std::uint64_t eviction_probes = 0;
  std::uint64_t refusals = 0;
  std::uint64_t throttled = 0;
  std::uint64_t room_waits = 0;
  std::uint64_t latch_waits = 0;
};

/// A gauge is what is, and goes up and down; a counter is what was done, and only goes up.
enum class PoolValueKind : std::uint8_t { gauge, counter };

/// One of the values: its name, with the unit last, and what it is.
struct PoolValue {
  const char* name;
  PoolValueKind kind;
  const char* phrase;
  std::uint64_t PoolStats::*in_stats;
};

/// Every value of PoolStats, in the order above.
inline constexpr PoolValue pool_values[] = {
    {"budget_bytes", PoolValueKind::gauge, "what the pool may use", &PoolStats::budget_bytes},
    {"charged_bytes", PoolValueKind::gauge,
     "of the budget, what is used: chunks out or kept warm, tables, records, long extent lists",
     &PoolStats::charged_bytes},
    {"clean_bytes", PoolValueKind::gauge,
     "bytes held that the store has too, and those of chunks that are let go of while somebody uses them",
     &PoolStats::clean_bytes},
    {"dirty_bytes", PoolValueKind::gauge, "bytes held that are newer than the store", &PoolStats::dirty_bytes},
    {"lent_bytes", PoolValueKind::gauge, "bytes that a flush has and nobody changed since it began, zeros included",
     &PoolStats::lent_bytes},
    {"chunks_held", PoolValueKind::gauge, "chunks that a file or a piece of content has", &PoolStats::chunks_held},
    {"chunks_dirty", PoolValueKind::gauge, "of the chunks held, those with dirty bytes", &PoolStats::chunks_dirty},
    {"chunks_reserved", PoolValueKind::gauge, "chunks that calls have for what they load or write, and no file has yet",
     &PoolStats::chunks_reserved},
    {"pins", PoolValueKind::gauge, "pins that callers have; a chunk may have several", &PoolStats::pins},
    {"files_dirty", PoolValueKind::gauge, "files with a change that the store lacks", &PoolStats::files_dirty},
    {"oldest_change_ns", PoolValueKind::gauge,
     "how long a file has had changes that the store lacks, of the file where that is longest",
     &PoolStats::oldest_change_ns},

    {"view_bytes", PoolValueKind::counter, "bytes shown in place, with no copy", &PoolStats::view_bytes},
    {"copy_bytes", PoolValueKind::counter, "bytes copied out to readers", &PoolStats::copy_bytes},
    {"loads", PoolValueKind::counter, "loads that a store was asked for", &PoolStats::loads},
    {"load_bytes", PoolValueKind::counter, "bytes that stores have loaded", &PoolStats::load_bytes},
    {"loads_uncached", PoolValueKind::counter, "loads straight to the reader, since no chunk was to be had",
     &PoolStats::loads_uncached},
    {"load_waits", PoolValueKind::counter, "loads saved: reads that waited for one of the same bytes by somebody else",
     &PoolStats::load_waits},
    {"load_redundant_bytes", PoolValueKind::counter,
     "bytes loaded for nothing: changed meanwhile, there already, or beside a load that failed",
     &PoolStats::load_redundant_bytes},
    {"load_ahead_bytes", PoolValueKind::counter, "bytes that stores were asked for before anybody read them",
     &PoolStats::load_ahead_bytes},
    {"flushes", PoolValueKind::counter, "flushes that a store was asked for and that have ended", &PoolStats::flushes},
    {"flush_bytes", PoolValueKind::counter, "bytes that stores were given, zeros not counted", &PoolStats::flush_bytes},
    {"flush_failures", PoolValueKind::counter, "flushes that failed", &PoolStats::flush_failures},
    {"flush_retries", PoolValueKind::counter, "flushes of a file whose last one failed", &PoolStats::flush_retries},
    {"flush_redirtied_bytes", PoolValueKind::counter, "bytes written while a flush had them, which stay dirty",
     &PoolStats::flush_redirtied_bytes},
    {"swaps", PoolValueKind::counter, "chunks moved to other memory, since a flush read the old", &PoolStats::swaps},
    {"syncs", PoolValueKind::counter, "syncs that a store was asked for and that have ended", &PoolStats::syncs},
    {"sync_failures", PoolValueKind::counter, "syncs that failed", &PoolStats::sync_failures},
    {"evictions", PoolValueKind::counter, "clean chunks evicted", &PoolStats::evictions},
    {"eviction_probes", PoolValueKind::counter, "chunks looked at to evict one, evicted or not",
     &PoolStats::eviction_probes},
    {"refusals", PoolValueKind::counter, "times that no memory could be had by evicting", &PoolStats::refusals},
    {"throttled", PoolValueKind::counter, "writes that flushed one step first, past the throttle mark",
     &PoolStats::throttled},
    {"room_waits", PoolValueKind::counter, "times that a call waited for others to make room", &PoolStats::room_waits},
    {"latch_waits", PoolValueKind::counter, "latches that were not to be had at once, and were waited for",
     &PoolStats::latch_waits},
};
static_assert(std::size(pool_values) * sizeof(std::uint64_t) == sizeof(PoolStats), "a value has no phrase");

/// Calls f(name, value) for every value, in the order above.
template <class F>
constexpr void for_each_value(const PoolStats& stats, F f) {
  for (const auto& value : pool_values) f(value.name, stats.*value.in_stats);
}

}  // namespace tarn
