// SPDX-License-Identifier: MIT
#pragma once

// What the worlds of operations_later.cpp have in common with their store: what it was asked and has not answered, what
// it has of each file, what a crash would leave of that; and how it answers, as the input says.
//
// Thread safety: none.

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <span>
#include <system_error>
#include <type_traits>
#include <utility>
#include <vector>

#include "fuzz/operations.hpp"
#include "support/model_disk.hpp"

namespace tarn_test {

template <ModelUnits units>
class FuzzLaterStore : protected FuzzWorld<ModelLaterStore<FuzzTraits, units>> {
  using Base = FuzzWorld<ModelLaterStore<FuzzTraits, units>>;
  using ByteRange = tarn::ByteRange;
  using Outcome = tarn::FlushOutcome<FuzzTraits>;
  using LoadToken = tarn::LoadToken<FuzzTraits>;
  using FlushToken = tarn::FlushToken<FuzzTraits>;
  using SyncToken = tarn::SyncToken<FuzzTraits>;
  using FlushRequest = tarn::FlushRequest<FuzzTraits>;

 protected:
  using Base::begin_change;
  using Base::calm_;
  using Base::changed;
  using Base::check_budget;
  using Base::first_id;
  using Base::input_;
  using Base::of;
  using Base::part_bytes_;
  using Base::store_;
  using Base::told_;
  using typename Base::File;

  explicit FuzzLaterStore(FuzzInput input)
      : Base{input}, keeps_sizes_{input_.flag()}, disks_(this->files_.size(), ModelDisk{keeps_sizes_}) {
    if (units.flush != tarn::FlushUnit::file) store_.at_once = 1 + input_.below(3);
    store_.on_load = [this](LoadToken token) { ask(std::move(token)); };
    store_.on_flush = [this](FlushToken token) { ask(std::move(token)); };
    store_.on_sync = [this](SyncToken token) { ask(std::move(token)); };
    store_.on_reserve = [this]() -> tarn::Result<> {
      if (calm_ || input_.byte() != 1) return {};
      ++refused_reserves_;
      return tarn::fail(quota_error);
    };
    store_.on_remove = [this]() -> tarn::Result<> {
      if (!calm_ && input_.byte() % 4 == 1) return tarn::fail(remove_error);
      disk_of(*removing_).become({}, 0);
      return {};
    };
  }
  FuzzLaterStore(const FuzzLaterStore&) = delete;
  FuzzLaterStore& operator=(const FuzzLaterStore&) = delete;
  virtual ~FuzzLaterStore() = default;

  /// Other calls from inside the store, if the input says so.
  virtual void nest(File& file) = 0;

  static constexpr auto load_error = std::errc::host_unreachable, flush_error = std::errc::no_space_on_device,
                        conflict_error = std::errc::file_exists, sync_error = std::errc::network_down,
                        remove_error = std::errc::operation_not_permitted, quota_error = static_cast<std::errc>(EDQUOT),
                        stale_error = static_cast<std::errc>(ESTALE);

  [[nodiscard]] ModelDisk& disk_of(const File& file) { return disks_[file.id - first_id]; }
  void become_durable(File& file) {
    disk_of(file).become_durable();
    file.unsure = {};
    changed(file, tarn::whole_file);
  }
  [[nodiscard]] std::size_t asked_count() const { return loads_.size() + flushes_.size() + syncs_.size(); }
  void answer_some(File&) {
    if (asked_count() == 0) return;
    auto index = static_cast<std::size_t>(input_.below(asked_count()));
    if (index < loads_.size()) return answer(take_asked(loads_, index));
    index -= loads_.size();
    if (index < flushes_.size()) return answer(take_asked(flushes_, index));
    answer(take_asked(syncs_, index - flushes_.size()));
  }
  void answer_flush_of(const File& file) {
    const auto its = [&](const FlushAsked& flush) { return flush.file == &file && !flush.gone(); };
    answer(take_asked(flushes_, static_cast<std::size_t>(std::ranges::find_if(flushes_, its) - flushes_.begin())));
  }
  [[nodiscard]] bool load_in_flight(const File& file) const {
    return std::ranges::any_of(loads_, [&](const LoadAsked& load) { return load.file == &file && !load.gone(); });
  }
  [[nodiscard]] bool flush_in_flight(const File& file) const {
    const auto its = [&](const FlushAsked& flush) { return flush.file == &file && !flush.gone(); };
    return (entering_ != nullptr && its(*entering_)) || std::ranges::any_of(flushes_, its);
  }

  void store_early(File&) {
    if (flushes_.empty()) return;
    auto& asked = flushes_[input_.below(flushes_.size())];
    if (!asked.gone() && !asked.stored) store(asked);
  }
  // A flush of unknown fate changes something after all.
  void act_late(File& file) {
    auto& disk = disk_of(file);
    if (disk.late) disk.late->apply_to(disk.bytes, input_.below(disk.late->pieces.size() + 1));
  }

  File* removing_ = nullptr;  // whose remove the store may be asked for
  std::uint64_t refused_reserves_ = 0;

 private:
  // What the store was asked. The file is another one if its life is.
  template <class TokenType>
  struct Asked {
    TokenType token;
    File* file;
    std::uint64_t life;
    [[nodiscard]] bool gone() const { return file->life != life; }
  };
  struct LoadAsked : Asked<LoadToken> {
    ModelBytes early;  // what the store had when it was asked
  };
  struct FlushAsked : Asked<FlushToken> {
    ModelChange change;
    ModelBytes brought;   // what it was given to store, and must still be there at the end
    bool stored = false;  // it is in the store already, and tarn does not know
  };
  struct SyncAsked : Asked<SyncToken> {
    std::vector<ModelChange> log;
  };

  // ---- the store

  enum class When : std::uint8_t { now, later, never };  // never: it throws
  [[nodiscard]] When when() {
    if (calm_) return When::now;
    const auto plan = input_.byte();
    return plan % 4 == 0 ? When::now : plan % 32 == 1 ? When::never : When::later;
  }
  void ask(LoadToken token) {
    check_budget();
    const auto& request = token.request();
    auto& file = of(*request.file);
    must(request.into.size_bytes() == request.range.size_bytes(), "a load has buffers of its size");
    must(request.range.offset() / part_bytes_ == (request.range.end() - 1) / part_bytes_, "a load is of one part");
    must(request.range.end() <= disk_of(file).bytes.size() || file.deleted, "a load is of what the store has");
    if (units.load == tarn::LoadUnit::parts) must(request.offset_in_part == 0, "a load is from the start of a part");
    LoadAsked asked{{std::move(token), &file, file.life}, {}};
    asked.early = bytes_for(asked);
    nest(file);
    const auto then = when();
    if (then == When::now) return answer(std::move(asked));
    if (then == When::later) return loads_.push_back(std::move(asked));
    ++file.failed_loads;
    throw std::system_error{std::make_error_code(load_error)};
  }
  // What the store no longer has reads as rubbish: tarn must not show it.
  [[nodiscard]] ModelBytes bytes_for(const LoadAsked& asked) {
    const auto range = asked.token.request().range;
    ModelBytes found(static_cast<std::size_t>(range.size_bytes()), std::byte{0xDB});
    const auto& bytes = disk_of(*asked.file).bytes;
    if (asked.gone() || range.offset() >= bytes.size()) return found;
    const auto n = std::min<std::uint64_t>(found.size(), bytes.size() - range.offset());
    std::copy_n(bytes.begin() + static_cast<std::ptrdiff_t>(range.offset()), n, found.begin());
    return found;
  }
  void answer(LoadAsked asked) {
    enum How : std::uint8_t { error, few, many, dropped, stale, well };
    const auto plan = calm_ ? std::uint8_t{well} : input_.byte();
    auto how = static_cast<How>(std::min<unsigned>(plan % 16u, well));
    const auto& request = asked.token.request();
    const auto size = request.into.size_bytes();
    if (how == stale && (asked.gone() || disk_of(*asked.file).version == request.version)) how = well;
    if (how == well && !asked.gone()) {
      request.into.copy_from((plan & 16) != 0 ? bytes_for(asked) : asked.early);
    } else {
      request.into.copy_from(ModelBytes(size, std::byte{0xDB}));
    }
    if (how < stale) ++asked.file->failed_loads;
    const tarn::detail::Resumer hold;
    switch (how) {
      case error:
        return complete(asked.token, tarn::Result<std::size_t>{tarn::fail(load_error)}, plan);
      case few:
        return complete(asked.token, tarn::Result<std::size_t>{size - 1}, plan);
      case many:
        return complete(asked.token, tarn::Result<std::size_t>{size + 1}, plan);
      case dropped:
        return;
      case stale:
        return complete(asked.token, tarn::Result<std::size_t>{tarn::fail(stale_error)}, plan);
      case well:
        return complete(asked.token, tarn::Result<std::size_t>{size}, plan);
    }
  }
  // And sometimes says something else then, which nobody hears.
  template <class Token, class Answer>
  static void complete(Token& token, const Answer& answer, unsigned plan) {
    must(token.complete(answer), "a token takes an answer");
    if ((plan & 32) == 0) return;
    if constexpr (std::is_same_v<Token, LoadToken>) {
      must(!token.complete(std::size_t{0}), "a token takes one answer");
    } else if constexpr (std::is_same_v<Token, FlushToken>) {
      must(!token.complete(Outcome::durable()), "a token takes one answer");
    } else {
      must(!token.complete({}), "a token takes one answer");
    }
  }

  void ask(FlushToken token) {
    check_budget();
    const auto& request = token.request();
    auto& file = of(*request.file);
    auto& disk = disk_of(file);
    check_beside(request);
    must(flushes_at_once() != 1 || request.generation > std::exchange(generation_, request.generation),
         "the generations of flushes rise");
    disk.fence(request, part_bytes_, flushes_at_once() == 1);
    const auto* const misdeed = misdeed_of(request, disk.bytes, units.flush, part_bytes_);
    must(misdeed == nullptr, misdeed);
    const auto& now = file.bytes.now;
    must(now.size() == request.size_bytes, "a flush is of the file's size");
    request.for_each_piece([&](std::uint64_t offset, std::span<const std::byte> piece, bool) {
      must(std::ranges::equal(piece, std::span{now}.subspan(static_cast<std::size_t>(offset), piece.size())),
           "a flush is of the file's bytes");
    });
    FlushAsked asked{
        {std::move(token), &file, file.life}, ModelChange::of(request, keeps_sizes_), listed_bytes(request)};
    entering_ = &asked;
    nest(file);
    entering_ = nullptr;
    const auto then = when();
    if (then == When::now) return answer(std::move(asked));
    if (then == When::later) return flushes_.push_back(std::move(asked));
    ++file.failures;
    throw std::system_error{std::make_error_code(flush_error)};
  }
  [[nodiscard]] std::size_t flushes_at_once() const { return store_.at_once; }
  // Side by side they make no versions: nobody could say which is the last.
  [[nodiscard]] std::uint64_t versions_a_flush() const { return flushes_at_once() == 1 ? 1 : 0; }
  // Beside those in flight: not too many, all of one size, and in parts of its own.
  void check_beside(const FlushRequest& request) const {
    std::size_t count = 1;
    const auto look = [&](const FlushAsked& other) {
      if (other.gone() || other.file->id != *request.file) return;
      ++count;
      const auto& its = other.token.request();
      must(its.size_bytes == request.size_bytes, "flushes at a time are of one size");
      for (const auto& here : request.ranges) {
        const auto parts = parts_around(here.range, part_bytes_);
        for (const auto& there : its.ranges) {
          must(parts.intersect(parts_around(there.range, part_bytes_)).empty(), "a part has one flush");
        }
      }
    };
    std::ranges::for_each(flushes_, look);
    if (entering_ != nullptr) look(*entering_);
    must(count <= flushes_at_once(), "no more flushes of a file at a time than the store takes");
  }
  void answer(FlushAsked asked) {
    auto& disk = disk_of(*asked.file);
    must(listed_bytes(asked.token.request()) == asked.brought, "the bytes of a flush stay while the store has them");
    const tarn::detail::Resumer hold;
    if (asked.gone()) return complete(asked.token, Outcome::stored(), 0);
    enum How : std::uint8_t { failed_one, unknown, conflict, dropped, well };
    const auto plan = calm_ ? std::uint8_t{well} : input_.byte();
    const auto how = asked.stored ? well : static_cast<How>(std::min<unsigned>(plan % 8u, well));
    if (how == well) {
      if (!asked.stored) store(asked);
      asked.change.add_rest_of_part(disk.bytes, asked.token.request().covers);
      const bool durable = (plan & 16) != 0;
      auto outcome = durable ? Outcome::durable() : Outcome::stored();
      if (versions_a_flush() != 0) outcome = std::move(outcome).with_version(disk.version);
      if (durable) {
        disk.note_durable(std::move(asked.change));
      } else {
        disk.note_stored(std::move(asked.change));
      }
      return complete(asked.token, outcome, plan);
    }
    ++asked.file->failures;
    // Nothing, or the size and as many pieces as the input says.
    if ((plan & 16) != 0) asked.change.apply_to(disk.bytes, input_.below(asked.change.pieces.size() + 1));
    if ((plan & 64) != 0 && (how == unknown || how == dropped)) disk.late = std::move(asked.change);
    const auto why = std::make_error_code(how == conflict ? conflict_error : flush_error);
    if (how == failed_one) complete(asked.token, Outcome::failed(why), plan);
    if (how == unknown) complete(asked.token, Outcome::unknown(why), plan);
    if (how == conflict) complete(asked.token, Outcome::conflict(why), plan);
  }
  void store(FlushAsked& asked) {
    auto& disk = disk_of(*asked.file);
    asked.change.apply_to(disk.bytes, SIZE_MAX);
    disk.version += versions_a_flush();
    asked.stored = true;
  }
  void ask(SyncToken token) {
    auto& file = of(*token.request().file);
    must(std::ranges::none_of(syncs_, [&](const SyncAsked& sync) { return sync.file == &file && !sync.gone(); }),
         "a file has one sync at a time");
    SyncAsked asked{{std::move(token), &file, file.life}, disk_of(file).take_log()};
    const auto then = when();
    if (then == When::now) return answer(std::move(asked));
    if (then == When::later) return syncs_.push_back(std::move(asked));
    note_sync_failed(asked);
    throw std::system_error{std::make_error_code(sync_error)};
  }
  void answer(SyncAsked asked) {
    const tarn::detail::Resumer hold;
    if (asked.gone()) {
      (void)asked.token.complete(tarn::fail(sync_error));
      told_.unsure.clear();  // told by the id that it had
      return;
    }
    const auto plan = calm_ ? std::uint8_t{2} : input_.byte();
    if (plan % 4u >= 2) {
      disk_of(*asked.file).note_synced(asked.log);
      return complete(asked.token, tarn::Result<>{}, plan);
    }
    note_sync_failed(asked);
    if (plan % 4u == 0) complete(asked.token, tarn::Result<>{tarn::fail(sync_error)}, plan);
  }
  // It makes bytes dirty again.
  void note_sync_failed(SyncAsked& asked) {
    ++asked.file->failures;
    disk_of(*asked.file).note_sync_failed(std::move(asked.log));
    begin_change(*asked.file);
  }

  const bool keeps_sizes_;
  std::vector<ModelDisk> disks_;
  std::vector<LoadAsked> loads_;
  std::vector<FlushAsked> flushes_;
  std::vector<SyncAsked> syncs_;
  const FlushAsked* entering_ = nullptr;  // asked, and not yet kept
  std::uint64_t generation_ = 0;
};

}  // namespace tarn_test
