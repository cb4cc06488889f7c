// SPDX-License-Identifier: MIT
#pragma once

// The store of one file of the model, and what it has been asked and not yet answered. Who answers, how and when, the
// model decides by its hooks, so that everything is one thread's and replays.
//
// Thread safety: none.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include <tarn/extent_set.hpp>
#include <tarn/policies.hpp>
#include <tarn/store.hpp>

#include "support/model_disk.hpp"

namespace tarn_test {

/// What one request asks such a store for, or brings it.
struct ModelUnits {
  tarn::LoadUnit load = tarn::LoadUnit::ranges;
  tarn::FlushUnit flush = tarn::FlushUnit::ranges;
};

/// Of whole files a store takes one flush at a time.
template <ModelUnits units>
struct ModelFlushesAtOnce {
  std::size_t at_once = 1;
  [[nodiscard]] std::size_t flushes_at_once() const noexcept { return at_once; }
};
template <ModelUnits units>
requires(units.flush == tarn::FlushUnit::file) struct ModelFlushesAtOnce<units> {
  std::size_t at_once = 1;
};

template <class Traits, ModelUnits units = ModelUnits{}>
class ModelLaterStore : public ModelFlushesAtOnce<units> {
 public:
  static constexpr auto load_unit = units.load;
  static constexpr auto flush_unit = units.flush;
  using FileId = typename Traits::FileId;
  using LoadRequest = tarn::LoadRequest<Traits>;
  using FlushRequest = tarn::FlushRequest<Traits>;
  using LoadToken = tarn::LoadToken<Traits>;
  using FlushToken = tarn::FlushToken<Traits>;
  using SyncToken = tarn::SyncToken<Traits>;

  std::function<void(LoadToken)> on_load;
  std::function<void(FlushToken)> on_flush;
  std::function<void(SyncToken)> on_sync;
  std::function<tarn::Result<>()> on_reserve, on_remove;

  void load(const LoadRequest&, LoadToken token) { on_load(std::move(token)); }
  void flush(const FlushRequest&, FlushToken token) { on_flush(std::move(token)); }
  void sync(const tarn::SyncRequest<Traits>&, SyncToken token) { on_sync(std::move(token)); }
  tarn::Result<> reserve(const tarn::ReserveRequest<Traits>&) { return on_reserve(); }
  tarn::Result<> remove(const FileId&) { return on_remove(); }
};

/// What has happened to bytes that were asked for, since.
enum class ModelEvent : std::uint8_t { write = 1, truncate = 2, punch = 4, invalidate = 8, discard = 16 };
struct ModelEvents {
  std::uint8_t bits = 0;

  void note(ModelEvent event) { bits = static_cast<std::uint8_t>(bits | static_cast<std::uint8_t>(event)); }
  [[nodiscard]] bool saw(ModelEvent event) const { return (bits & static_cast<std::uint8_t>(event)) != 0; }
};

/// Of a file of the model. `gone`: nobody waits for the answer any more, and the store must not act on it.
template <class File, class TokenType>
struct ModelAsked {
  ModelAsked(std::shared_ptr<File> of, TokenType&& to) : file{std::move(of)}, token{std::move(to)} {}

  std::shared_ptr<File> file;
  TokenType token;
  bool gone = false;
  ModelEvents since{};
};
template <class Traits, class File>
struct ModelLoadAsked : ModelAsked<File, tarn::LoadToken<Traits>> {
  using ModelAsked<File, tarn::LoadToken<Traits>>::ModelAsked;

  ModelBytes early;  // what the store had when it was asked
  bool cancelled = false, ahead = false;
};
template <class Traits, class File>
struct ModelFlushAsked : ModelAsked<File, tarn::FlushToken<Traits>> {
  using ModelAsked<File, tarn::FlushToken<Traits>>::ModelAsked;

  ModelChange change;
  ModelBytes lent;      // what it was given to store, and must still be there at the end
  bool stored = false;  // all of it is in the store already, under the new version
};
template <class Traits, class File>
struct ModelSyncAsked : ModelAsked<File, tarn::SyncToken<Traits>> {
  using ModelAsked<File, tarn::SyncToken<Traits>>::ModelAsked;

  std::vector<ModelChange> log;
  tarn::ExtentSet untouched;  // what of it nobody has changed since
};

/// Of what was asked, that one, to be answered.
template <class Asked>
[[nodiscard]] Asked take_asked(std::vector<Asked>& from, std::size_t index) {
  auto asked = std::move(from[index]);
  from.erase(from.begin() + static_cast<std::ptrdiff_t>(index));
  return asked;
}

/// What the pool's observer was told. It is copied into the pool, so it points at what it fills.
struct ModelTold {
  struct Failure {
    std::uint64_t file;
    std::error_code why;
  };
  struct Unsure {
    std::uint64_t file;
    tarn::ExtentSet extents;
    std::error_code why;
  };
  std::uint64_t lost_bytes = 0;
  std::vector<Failure> failures;
  std::vector<Unsure> unsure;
};
struct ModelObserver : tarn::NullObserver {
  ModelObserver() = default;
  explicit ModelObserver(ModelTold* to) : told{to} {}

  ModelTold* told = nullptr;
  void on_dirty_lost(std::uint64_t, std::uint64_t bytes) noexcept { told->lost_bytes += bytes; }
  void on_flush_failed(std::uint64_t file, std::error_code why) noexcept { told->failures.push_back({file, why}); }
  void on_sync_failed(std::uint64_t file, const tarn::ExtentSet& extents, std::error_code why) noexcept {
    told->unsure.push_back({file, extents, why});
  }
};

}  // namespace tarn_test
