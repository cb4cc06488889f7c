// SPDX-License-Identifier: MIT
#pragma once

// A store of files that fails at its fault points, in the way that the test chose. It answers inside the call, or when
// the test says; its bytes are ModelDisks, so that one whose sync has failed has forgotten what was not durable.
//
// What tarn promises its store is checked on every request; what was found wrong is kept in `complaint`.
//
// Thread safety: none.

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <map>
#include <optional>
#include <system_error>
#include <utility>
#include <variant>
#include <vector>

#include <tarn/store.hpp>

#include "support/fault_points.hpp"
#include "support/model_disk.hpp"

namespace tarn_test {

/// How what fails fails. `dropped`: the token, and what has no token throws. `partly`: a load answers too few bytes, a
/// flush has stored some, a filler fills less. `unsure`: a flush has stored all, and says that it does not know.
enum class FaultWay : std::uint8_t { error, dropped, partly, unsure, conflict };
inline constexpr std::array<const char*, 5> fault_way_names{"error", "dropped", "partly", "unsure", "conflict"};

struct FaultStoreOptions {
  FaultWay way = FaultWay::error;
  std::uint64_t part_bytes = 1;
  std::size_t flushes_at_once = 1;  // with one at a time it answers versions; with more it skips zeros that it has
};

template <class Traits>
class FaultStore {
 public:
  using FileId = typename Traits::FileId;
  using Outcome = tarn::FlushOutcome<Traits>;

  static constexpr auto load_error = std::errc::host_unreachable, flush_error = std::errc::no_space_on_device,
                        sync_error = std::errc::owner_dead, reserve_error = std::errc::permission_denied,
                        remove_error = std::errc::operation_not_permitted;

  explicit FaultStore(const FaultStoreOptions& options) : options_{options} {}

  bool answers_later = false;
  const char* complaint = nullptr;  ///< what tarn asked that it must never ask

  [[nodiscard]] ModelDisk& disk(const FileId& id) {
    return disks_.try_emplace(id, /*keeps_sizes=*/options_.flushes_at_once > 1).first->second;
  }
  [[nodiscard]] bool has(const FileId& id) const { return disks_.count(id) != 0; }

  // ---- what it was asked and has not answered

  [[nodiscard]] std::size_t asked() const { return asked_.size(); }
  [[nodiscard]] std::size_t flushes_asked() const {
    return static_cast<std::size_t>(std::count_if(
        asked_.begin(), asked_.end(), [](const Asked& asked) { return std::holds_alternative<Flush>(asked); }));
  }
  /// Requires: there are so many.
  void answer(std::size_t index) {
    std::optional<Asked> asked;
    {
      const OutOfCall ours;
      const auto at = asked_.begin() + static_cast<std::ptrdiff_t>(index);
      asked.emplace(std::move(*at));
      asked_.erase(at);
    }
    std::visit([&](auto& request) { finish(request); }, *asked);
  }

  // ---- the store

  void load(const tarn::LoadRequest<Traits>& request, tarn::LoadToken<Traits> token) {
    const bool fails = fault_points.fails(Fault::load);
    if (fails && options_.way == FaultWay::dropped) return;
    if (request.into.size_bytes() != request.range.size_bytes()) complain("a load with buffers of another size");
    keep_or_finish(Load{std::move(token), fails});
  }
  void flush(const tarn::FlushRequest<Traits>& request, tarn::FlushToken<Traits> token) {
    const bool fails = fault_points.fails(Fault::flush);
    Flush flush{std::move(token), fails, {}, {}};
    {
      const OutOfCall ours;
      auto& at = disk(*request.file);
      if (const auto* const why = misdeed_of(request, at.bytes.size(), options_.part_bytes); why) complain(why);
      flush.change = ModelChange::of(request, options_.flushes_at_once > 1);
      flush.lent = ModelChange::of(request, false);
      if (fails && options_.way == FaultWay::dropped)
        flush.change.apply_to(at.bytes, 1 + flush.change.pieces.size() / 2);
    }
    if (fails && options_.way == FaultWay::dropped) return;
    keep_or_finish(std::move(flush));
  }
  void sync(const tarn::SyncRequest<Traits>& request, tarn::SyncToken<Traits> token) {
    const bool fails = fault_points.fails(Fault::sync);
    Sync sync{std::move(token), fails, {}};
    {
      const OutOfCall ours;
      sync.log = disk(*request.file).take_log();
      if (fails && options_.way == FaultWay::dropped) disk(*request.file).note_sync_failed(std::move(sync.log));
    }
    if (fails && options_.way == FaultWay::dropped) return;
    keep_or_finish(std::move(sync));
  }
  [[nodiscard]] tarn::Result<> reserve(const tarn::ReserveRequest<Traits>&) {
    if (!fault_points.fails(Fault::reserve)) return {};
    if (options_.way == FaultWay::dropped) throw Thrown{};
    return tarn::fail(reserve_error);
  }
  [[nodiscard]] tarn::Result<> remove(const FileId& id) {
    if (fault_points.fails(Fault::remove)) {
      if (options_.way == FaultWay::dropped) throw Thrown{};
      return tarn::fail(remove_error);
    }
    const OutOfCall ours;
    disks_.erase(id);
    return {};
  }
  [[nodiscard]] std::size_t flushes_at_once() const noexcept { return options_.flushes_at_once; }

 private:
  struct Thrown {};
  struct Load {
    tarn::LoadToken<Traits> token;
    bool fails;
  };
  struct Flush {
    tarn::FlushToken<Traits> token;
    bool fails;
    ModelChange change, lent;
  };
  struct Sync {
    tarn::SyncToken<Traits> token;
    bool fails;
    std::vector<ModelChange> log;
  };
  using Asked = std::variant<Load, Flush, Sync>;

  void complain(const char* what) {
    if (complaint == nullptr) complaint = what;
  }
  template <class Request>
  void keep_or_finish(Request&& request) {
    if (!answers_later) return finish(request);
    const OutOfCall ours;
    asked_.emplace_back(std::move(request));
  }

  void finish(Load& asked) {
    const auto& request = asked.token.request();
    tarn::Result<std::size_t> answer = request.into.size_bytes();
    {
      const OutOfCall ours;
      const auto& from = disk(*request.file);
      ModelBytes found(request.into.size_bytes(), std::byte{0xDB});  // what it has no more is rubbish, not to be shown
      if (request.range.offset() < from.bytes.size()) {
        const auto n = std::min<std::uint64_t>(found.size(), from.bytes.size() - request.range.offset());
        std::memcpy(found.data(), from.bytes.data() + request.range.offset(), static_cast<std::size_t>(n));
      }
      if (asked.fails) found.back() = std::byte{0xDB};
      request.into.copy_from(found);
      if (request.version != from.version) answer = tarn::fail(static_cast<std::errc>(ESTALE));
      if (asked.fails && options_.way == FaultWay::error) answer = tarn::fail(load_error);
      if (asked.fails && options_.way == FaultWay::partly) answer = request.into.size_bytes() - 1;
    }
    asked.token.complete(answer);
  }
  void finish(Flush& asked) {
    const auto& request = asked.token.request();
    Outcome outcome = Outcome::stored();
    {
      const OutOfCall ours;
      auto& at = disk(*request.file);
      const auto lent = ModelChange::of(request, false);
      const bool same =
          std::equal(lent.pieces.begin(), lent.pieces.end(), asked.lent.pieces.begin(), asked.lent.pieces.end(),
                     [](const auto& a, const auto& b) { return a.offset == b.offset && a.bytes == b.bytes; });
      if (!same) complain("the bytes of a flush changed while the store read them");
      if (asked.fails) {
        outcome = fail_flush(asked.change, at);
      } else {
        asked.change.apply_to(at.bytes, SIZE_MAX);
        if (options_.flushes_at_once == 1) outcome = Outcome::stored().with_version(++at.version);
        if (request.generation % 4 == 0) {
          outcome = options_.flushes_at_once == 1 ? Outcome::durable().with_version(at.version) : Outcome::durable();
          at.note_durable(std::move(asked.change));
        } else {
          at.note_stored(std::move(asked.change));
        }
      }
    }
    asked.token.complete(outcome);
  }
  [[nodiscard]] Outcome fail_flush(const ModelChange& change, ModelDisk& at) {
    const auto why = std::make_error_code(flush_error);
    if (options_.way == FaultWay::conflict) return Outcome::conflict();
    if (options_.way == FaultWay::error) return Outcome::failed(why);
    change.apply_to(at.bytes, options_.way == FaultWay::unsure ? SIZE_MAX : 1 + change.pieces.size() / 2);
    return options_.way == FaultWay::unsure ? Outcome::unknown(why) : Outcome::failed(why);
  }
  void finish(Sync& asked) {
    const auto& request = asked.token.request();
    tarn::Result<> answer;
    {
      const OutOfCall ours;
      auto& at = disk(*request.file);
      if (asked.fails) {
        at.note_sync_failed(std::move(asked.log));
        answer = tarn::fail(sync_error);
      } else {
        at.note_synced(asked.log);
      }
    }
    asked.token.complete(answer);
  }

  const FaultStoreOptions options_;
  std::map<FileId, ModelDisk> disks_;
  std::deque<Asked> asked_;
};

}  // namespace tarn_test
