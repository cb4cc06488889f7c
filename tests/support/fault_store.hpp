// SPDX-License-Identifier: MIT
#pragma once

// A store of files that fails at its fault points, in the way that the test chose. It answers inside the call, or when
// the test says; its bytes are ModelDisks, so that one whose sync has failed has forgotten what was not durable. It may
// give and take parts or files alone (ModelUnits), and name the parts that it has stored by their content.
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

#include "sim/later_store.hpp"
#include "support/fault_points.hpp"
#include "support/model_contents.hpp"
#include "support/model_disk.hpp"

namespace tarn_test {

/// How what fails fails. `dropped`: the token, and what has no token throws. `partly`: a load answers too few bytes, a
/// flush has stored some, a filler fills less. `unsure`: a flush has stored all, and says that it does not know.
/// `twice`: a completion ends well, and comes once more as an error.
enum class FaultWay : std::uint8_t { error, dropped, partly, unsure, conflict, twice };
inline constexpr std::array<const char*, 6> fault_way_names{"error",  "dropped",  "partly",
                                                            "unsure", "conflict", "twice"};

/// Whether this kind can fail so.
[[nodiscard]] constexpr bool can_fail(Fault kind, FaultWay way) {
  constexpr auto parts =
                     kind_of(Fault::load) | kind_of(Fault::flush) | kind_of(Fault::completion) | kind_of(Fault::filler),
                 wholes = kind_of(Fault::sync) | kind_of(Fault::reserve) | kind_of(Fault::remove);
  switch (way) {
    case FaultWay::error:
      return true;
    case FaultWay::dropped:
      return ((parts | wholes) & kind_of(kind)) != 0;
    case FaultWay::partly:
      return (parts & kind_of(kind)) != 0;
    case FaultWay::twice:
      return kind == Fault::completion;
    default:
      return kind == Fault::flush;
  }
}
/// How it fails where that way was chosen for all kinds.
[[nodiscard]] constexpr FaultWay way_of(Fault kind, FaultWay way) {
  return can_fail(kind, way) ? way : FaultWay::error;
}

template <class ContentId>
struct FaultStoreOptions {
  FaultWay way = FaultWay::error;
  std::uint64_t part_bytes = 1;
  std::size_t flushes_at_once = 1;  // with one at a time it answers versions; with more it skips zeros that it has
  ModelContents<ContentId>* contents = nullptr;  // where it has its content; null: it names none
};

template <class TraitsType, ModelUnits units = ModelUnits{}>
class FaultStore : public ModelFlushesAtOnce<units> {
 public:
  using Traits = TraitsType;
  using FileId = typename Traits::FileId;
  using Outcome = tarn::FlushOutcome<Traits>;
  using Options = FaultStoreOptions<typename Traits::ContentId>;

  static constexpr auto load_unit = units.load;
  static constexpr auto flush_unit = units.flush;
  static constexpr auto load_error = std::errc::host_unreachable, flush_error = std::errc::no_space_on_device,
                        sync_error = std::errc::owner_dead, reserve_error = std::errc::permission_denied,
                        remove_error = std::errc::operation_not_permitted;

  explicit FaultStore(const Options& options) : options_{options} { this->at_once = options.flushes_at_once; }

  bool answers_later = false;
  const char* complaint = nullptr;  ///< what tarn asked that it must never ask

  [[nodiscard]] ModelDisk& disk(const FileId& id) {
    return disks_.try_emplace(id, /*keeps_sizes=*/this->at_once > 1).first->second;
  }
  [[nodiscard]] bool has(const FileId& id) const { return disks_.count(id) != 0; }

  // ---- what it was asked and has not answered

  [[nodiscard]] std::size_t asked() const { return asked_.size(); }
  [[nodiscard]] std::size_t flushes_asked() const {
    return static_cast<std::size_t>(std::count_if(
        asked_.begin(), asked_.end(), [](const Asked& asked) { return std::holds_alternative<Flush>(asked); }));
  }
  [[nodiscard]] std::size_t loads_asked() const {
    return static_cast<std::size_t>(std::count_if(
        asked_.begin(), asked_.end(), [](const Asked& asked) { return std::holds_alternative<Load>(asked); }));
  }
  /// Answers that one: a fault point of its own. Requires: there are so many.
  void answer(std::size_t index) {
    const bool fails = fault_points.fails(Fault::completion);
    std::optional<Asked> asked;
    {
      const OutOfCall ours;
      const auto at = asked_.begin() + static_cast<std::ptrdiff_t>(index);
      asked.emplace(std::move(*at));
      asked_.erase(at);
    }
    std::visit(
        [&](auto& request) {
          const auto way = way_of(Fault::completion, options_.way);
          if (!fails) return finish(request);
          if (way == FaultWay::twice) return finish_twice(request);
          request.fails = way;
          if (way != FaultWay::dropped) return finish(request);
          const OutOfCall ours;
          lose(request);
        },
        *asked);
  }

  // ---- the store

  void load(const tarn::LoadRequest<Traits>& request, tarn::LoadToken<Traits> token) {
    Load load{std::move(token), fate(Fault::load)};
    if (load.fails == FaultWay::dropped) return;
    if (request.into.size_bytes() != request.range.size_bytes()) complain("a load with buffers of another size");
    const bool of_file = request.file != nullptr;
    if (of_file && load_unit == tarn::LoadUnit::parts && request.offset_in_part != 0) complain("a load of half a part");
    keep_or_finish(std::move(load));
  }
  void flush(const tarn::FlushRequest<Traits>& request, tarn::FlushToken<Traits> token) {
    Flush flush{std::move(token), fate(Fault::flush), {}, {}};
    {
      const OutOfCall ours;
      check(request);
      flush.change = ModelChange::of(request, this->at_once > 1);
      flush.lent = ModelChange::of(request, false);
      if (flush.fails == FaultWay::dropped) lose(flush);
    }
    if (flush.fails == FaultWay::dropped) return;
    keep_or_finish(std::move(flush));
  }
  void sync(const tarn::SyncRequest<Traits>& request, tarn::SyncToken<Traits> token) {
    Sync sync{std::move(token), fate(Fault::sync), {}};
    {
      const OutOfCall ours;
      sync.log = disk(*request.file).take_log();
      if (sync.fails == FaultWay::dropped) lose(sync);
    }
    if (sync.fails == FaultWay::dropped) return;
    keep_or_finish(std::move(sync));
  }
  [[nodiscard]] tarn::Result<> reserve(const tarn::ReserveRequest<Traits>&) {
    if (!fault_points.fails(Fault::reserve)) return {};
    if (way_of(Fault::reserve, options_.way) == FaultWay::dropped) throw Thrown{};
    return tarn::fail(reserve_error);
  }
  [[nodiscard]] tarn::Result<> remove(const FileId& id) {
    if (fault_points.fails(Fault::remove)) {
      if (way_of(Fault::remove, options_.way) == FaultWay::dropped) throw Thrown{};
      return tarn::fail(remove_error);
    }
    const OutOfCall ours;
    disks_.erase(id);
    return {};
  }

 private:
  using Fails = std::optional<FaultWay>;
  struct Thrown {};
  struct Load {
    tarn::LoadToken<Traits> token;
    Fails fails;
  };
  struct Flush {
    tarn::FlushToken<Traits> token;
    Fails fails;
    ModelChange change, lent;
  };
  struct Sync {
    tarn::SyncToken<Traits> token;
    Fails fails;
    std::vector<ModelChange> log;
  };
  using Asked = std::variant<Load, Flush, Sync>;

  void complain(const char* what) {
    if (complaint == nullptr) complaint = what;
  }
  [[nodiscard]] Fails fate(Fault kind) const {
    return fault_points.fails(kind) ? Fails{way_of(kind, options_.way)} : std::nullopt;
  }
  void check(const tarn::FlushRequest<Traits>& request) {
    const auto& bytes = disk(*request.file).bytes;
    if (const auto* const why = misdeed_of(request, bytes, flush_unit, options_.part_bytes); why) complain(why);
  }
  template <class Request>
  void keep_or_finish(Request&& request) {
    if (!answers_later) return finish(request);
    const OutOfCall ours;
    asked_.emplace_back(std::move(request));
  }
  template <class Request>
  void finish_twice(Request& asked) {
    finish(asked);
    if (asked.token.complete(once_more(asked))) complain("a token is completed twice");
  }
  static tarn::Result<std::size_t> once_more(const Load&) { return tarn::fail(load_error); }
  static Outcome once_more(const Flush&) { return Outcome::failed(std::make_error_code(flush_error)); }
  static tarn::Result<> once_more(const Sync&) { return tarn::fail(sync_error); }
  // What a store has done whose token is dropped.
  void lose(Load&) {}
  void lose(Flush& asked) {
    auto& at = disk(*asked.token.request().file);
    asked.change.apply_to(at.bytes, 1 + asked.change.pieces.size() / 2);
  }
  void lose(Sync& asked) { disk(*asked.token.request().file).note_sync_failed(std::move(asked.log)); }

  void finish(Load& asked) {
    const auto& request = asked.token.request();
    tarn::Result<std::size_t> answer = request.into.size_bytes();
    {
      const OutOfCall ours;
      ModelBytes found(request.into.size_bytes(), std::byte{0xDB});  // what it has no more is rubbish, not to be shown
      const auto* from = request.content != nullptr ? options_.contents->find(*request.content) : nullptr;
      const auto at = request.content != nullptr ? request.offset_in_part : request.range.offset();
      if (request.content == nullptr) {
        from = &disk(*request.file).bytes;
        if (request.version != disk(*request.file).version) answer = tarn::fail(static_cast<std::errc>(ESTALE));
      } else if (from == nullptr || at + found.size() > from->size()) {
        complain("a load of content that there is not");
      }
      if (from != nullptr && at < from->size()) {
        const auto n = std::min<std::uint64_t>(found.size(), from->size() - at);
        std::memcpy(found.data(), from->data() + at, static_cast<std::size_t>(n));
      }
      if (asked.fails) found.back() = std::byte{0xDB};
      request.into.copy_from(found);
      if (asked.fails == FaultWay::error) answer = tarn::fail(load_error);
      if (asked.fails == FaultWay::partly) answer = request.into.size_bytes() - 1;
    }
    asked.token.complete(answer);
  }
  void finish(Flush& asked) {
    const auto& request = asked.token.request();
    Outcome outcome = Outcome::stored();
    {
      const OutOfCall ours;
      const auto lent = ModelChange::of(request, false);
      const bool same =
          std::equal(lent.pieces.begin(), lent.pieces.end(), asked.lent.pieces.begin(), asked.lent.pieces.end(),
                     [](const auto& a, const auto& b) { return a.offset == b.offset && a.bytes == b.bytes; });
      if (!same) complain("the bytes of a flush changed while the store read them");
      outcome = asked.fails ? fail_flush(asked) : store(request, std::move(asked.change));
    }
    asked.token.complete(outcome);
  }
  [[nodiscard]] Outcome store(const tarn::FlushRequest<Traits>& request, ModelChange&& change) {
    auto& at = disk(*request.file);
    change.apply_to(at.bytes, SIZE_MAX);
    const bool durable = request.generation % 4 == 0;
    auto outcome = durable ? Outcome::durable() : Outcome::stored();
    if (this->at_once == 1) outcome = std::move(outcome).with_version(++at.version);
    if (options_.contents != nullptr) outcome = name_parts(request, at.bytes, std::move(outcome));
    change.add_rest_of_part(at.bytes, request.covers);
    if (durable) {
      at.note_durable(std::move(change));
    } else {
      at.note_stored(std::move(change));
    }
    return outcome;
  }
  [[nodiscard]] static ModelBytes bytes_of(const ModelBytes& bytes, tarn::ByteRange range) {
    const auto at = [&](std::uint64_t offset) { return bytes.begin() + static_cast<std::ptrdiff_t>(offset); };
    return {at(range.offset()), at(range.end())};
  }
  // Every part that has data of this flush in it.
  [[nodiscard]] Outcome name_parts(const tarn::FlushRequest<Traits>& request, const ModelBytes& bytes,
                                   Outcome&& outcome) {
    auto made = std::move(outcome);
    std::optional<std::uint64_t> last;
    for (const auto& [range, zero] : request.ranges) {
      const auto part = range.offset() / options_.part_bytes;
      if (zero || part == last) continue;
      last = part;
      const auto end = std::min<std::uint64_t>((part + 1) * options_.part_bytes, bytes.size());
      const auto whole = tarn::ByteRange::between(part * options_.part_bytes, end);
      made = std::move(made).with_content(part, options_.contents->name(bytes_of(bytes, whole)));
    }
    return made;
  }
  [[nodiscard]] Outcome fail_flush(const Flush& asked) {
    const auto why = std::make_error_code(flush_error);
    const auto& change = asked.change;
    if (asked.fails == FaultWay::conflict) return Outcome::conflict();
    if (asked.fails == FaultWay::error) return Outcome::failed(why);
    auto& bytes = disk(*asked.token.request().file).bytes;
    change.apply_to(bytes, asked.fails == FaultWay::unsure ? SIZE_MAX : 1 + change.pieces.size() / 2);
    return asked.fails == FaultWay::unsure ? Outcome::unknown(why) : Outcome::failed(why);
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

  const Options options_;
  std::map<FileId, ModelDisk> disks_;
  std::deque<Asked> asked_;
};

}  // namespace tarn_test
