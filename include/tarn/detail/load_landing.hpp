// SPDX-License-Identifier: MIT
#pragma once

// How what a load has fetched lands. For each chunk: attached if the file has none there, else what is still in
// `loading` and not held is copied in; the chunk stays pinned, so that the read that loaded it cannot lose it before it
// has read it. What was asked for lands first. Of a whole part there is more; that is left out where it has no room or
// memory, or where a latch would have to be waited for: nobody has asked for it.
//
// Thread safety: the load's own, in the thread that brings the last answer.

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>
#include <span>
#include <system_error>
#include <utility>

#include <tarn/detail/latched_chunks.hpp>
#include <tarn/detail/load_places.hpp>

namespace tarn::detail {

template <class Traits>
class LoadLanding {
 public:
  /// `rest`: of what the load wanted, what nobody asked for. `kept`: has room for every place.
  LoadLanding(PoolCore<Traits>& core, FileRecord<Traits>& record, const LoadInFlight& load, const ExtentSet& rest,
              LoadPins<Traits>& kept)
      : core_{core}, record_{record}, load_{load}, rest_{rest}, kept_{kept} {}

  /// Errors: ENOBUFS if the extent lists have no room, EAGAIN if a chunk has too many pins, ENOMEM.
  [[nodiscard]] std::error_code land(std::span<LoadPlace<Traits>> places) noexcept {
    for (const bool spare : {false, true}) {
      for (auto& place : places) {
        if (place.spare != spare) continue;
        std::error_code why;
        try {
          why = land(place);
        } catch (const std::bad_alloc&) {
          why = std::make_error_code(std::errc::not_enough_memory);
        }
        if (why && !spare) return why;
      }
    }
    return {};
  }
  /// The bytes that a chunk has now.
  [[nodiscard]] std::uint64_t landed_bytes() const { return landed_bytes_; }

 private:
  using PoolChunk = Chunk<Traits>;

  [[nodiscard]] std::error_code land(LoadPlace<Traits>& place) {
    const auto whole = core_.layout.chunk_range(place.index);
    for (;;) {
      MutexLock table{record_.table_mutex};
      auto* const chunk = record_.table.find(place.index);
      const bool may_fill = !load_.dropped && load_.loading.intersects(whole);
      if (!may_fill && (place.spare || chunk == nullptr)) return {};
      if (chunk == nullptr) return adopt(place);
      if (!chunk->state.try_pin()) return std::make_error_code(std::errc::resource_unavailable_try_again);
      table.unlock();
      LatchedChunks<Traits> latched{core_};
      latched.hold(*chunk);
      if (!place.spare) {
        latched.latch(LatchMode::exclusive);
      } else if (!latched.try_latch(LatchMode::exclusive)) {
        return std::make_error_code(std::errc::resource_unavailable_try_again);
      }
      table.lock();
      if (chunk->state.is(ChunkState::detached)) continue;  // dropped meanwhile: look again
      const auto fill = load_.loading.intersect(whole);
      table.unlock();
      // From here on the latch keeps everybody from changing these bytes. Who takes them out of `loading` all the same
      // is about to detach the chunk, or waits for this latch to cut them.
      const auto why = copy_in(*chunk, place, fill, whole.offset());
      if (!why && chunk->state.try_pin()) kept_.hold(*chunk);
      return why;
    }
  }

  // Calls add(extent), which may answer an error, for what of `fill` was asked for; then for the rest, till one fails.
  template <class Add>
  [[nodiscard]] std::error_code add_each(const ExtentSet& fill, Add add) {
    auto asked_for = fill;
    asked_for.subtract(rest_);
    for (const auto& extent : asked_for.extents()) {
      if (const auto why = add(extent); why) return why;
    }
    if (rest_.empty()) return {};
    try {
      auto rest = fill;
      rest.subtract(asked_for);
      for (const auto& extent : rest.extents()) {
        if (add(extent)) break;
      }
    } catch (const std::bad_alloc&) {  // less of the rest
    }
    return {};
  }

  // The file has no chunk here: it takes ours.
  [[nodiscard]] std::error_code adopt(LoadPlace<Traits>& place) TARN_REQUIRES(record_.table_mutex) {
    const auto whole = core_.layout.chunk_range(place.index);
    auto& fresh = *place.fresh;
    const auto add = [&](ByteRange extent) { return add_valid(fresh, core_.layout.in_chunk(place.index, extent)); };
    if (const auto why = add_each(load_.loading.intersect(whole), add); why) return why;
    core_.attach(fresh, record_, place.index);
    landed_bytes_ += fresh.valid.size_bytes();
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
    return add_each(fill, [&](ByteRange extent) -> std::error_code {
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
      return {};
    });
  }
  // Requires: none of it is valid.
  [[nodiscard]] std::error_code add_valid(PoolChunk& chunk, ByteRange in_chunk) {
    if (prepare_extents(core_, chunk, Lists::valid) != 0) return std::make_error_code(std::errc::no_buffer_space);
    const ExtentsChange<Traits> change{core_, chunk};
    chunk.valid.add(in_chunk, core_.chunk_bytes());
    core_.counters.valid_bytes.fetch_add(in_chunk.size_bytes(), std::memory_order_relaxed);
    return {};
  }

  PoolCore<Traits>& core_;
  FileRecord<Traits>& record_;
  const LoadInFlight& load_;
  const ExtentSet& rest_;
  LoadPins<Traits>& kept_;
  std::uint64_t landed_bytes_ = 0;
};

}  // namespace tarn::detail
