// SPDX-License-Identifier: MIT
#pragma once

// What the worlds of the fuzz target operations have in common: a small pool, its sizes and marks chosen by the input,
// with most of its memory taken for good; two files, each with the flat array that says what it is; and what is looked
// at in either. The first byte of an input chooses the world.
//
// Thread safety: none.

#include <tarn/tarn.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <system_error>

#include "fuzz/input.hpp"
#include "sim/history.hpp"
#include "sim/later_store.hpp"
#include "support/model_random.hpp"
#include "support/model_table.hpp"
#include "support/traits.hpp"

namespace tarn_test {

// ---- the worlds

/// A store that answers inside the call, and from inside of which other calls are made.
void run_at_once(FuzzInput input);
/// A store that answers when, in which order and how the input says: of ranges, whole parts, whole files.
void run_later_ranges(FuzzInput input);
void run_later_parts(FuzzInput input);
void run_later_files(FuzzInput input);

struct FuzzTraits : TestTraits {
  using Storage = tarn::HeapStorage;
  using Observer = ModelObserver;
};

template <class StoreType>
class FuzzWorld {
 public:
  using Store = StoreType;
  using DirtyFile = tarn::DirtyFile<FuzzTraits, Store>;
  using Meta = tarn::MetadataFor<FuzzTraits>;
  using ByteRange = tarn::ByteRange;

 protected:
  static constexpr int most_steps = 200;
  static constexpr std::uint64_t first_id = 10;

  struct File {
    std::uint64_t id = 0, life = 0;
    std::unique_ptr<DirtyFile> it;
    std::optional<tarn::OpenFile<FuzzTraits, Store>> open;
    bool deleted = false;
    ModelHistory bytes;
    std::uint64_t changes = 0, failed_loads = 0, failures = 0;  // failures: of flushes and syncs
    tarn::ExtentSet unsure;                                     // of these a failed sync said that only the store knows
  };

  explicit FuzzWorld(FuzzInput input)
      : input_{input},
        chunk_bytes_{std::array<std::uint64_t, 3>{16, 1, 64}[input_.below(3)]},
        part_bytes_{chunk_bytes_ * (1 + input_.below(4))},
        most_bytes_{chunk_bytes_ == 1    ? 40u
                    : chunk_bytes_ == 16 ? 200u
                                         : 250u},
        pool_{options(), ModelObserver{&told_}},
        ceiling_bytes_{pool_.budget_bytes()} {
    for (std::size_t i = 0; i < files_.size(); ++i) files_[i].id = first_id + i;
  }
  /// What is never flushed takes all the memory, and gives back that of a few chunks, or all of it.
  void take_memory() {
    const auto back = input_.below(16);
    if (back == 0) return;
    const auto taken = tarn::write_range(pool_, hog_, 0, random_.bytes(80 * chunk_bytes_));
    const auto stays = taken ? *taken - std::min<std::uint64_t>(*taken, back * chunk_bytes_) : 0;
    must(tarn::truncate(pool_, hog_, stays).has_value(), "a truncate of whole chunks takes no memory");
  }

  /// One call after the other, as the input says: step(file, which), and check(file) once it has ended.
  template <class Step, class Check>
  void take_steps(Step step, Check check) {
    for (int steps = 0; !input_.empty() && steps < most_steps; ++steps) {
      const auto what = input_.byte();
      step(files_[what & 1u], what >> 1);
      check(files_[what & 1u]);
      if (steps % 8 == 0) check(files_[~what & 1u]);  // in which one call changes little
    }
  }

  // ---- calls that are the same in each

  void evict(File&) { pool_.evict_clean(); }
  void set_budget(File&) {
    const auto bytes = least_bytes_ + input_.byte() * std::uint64_t{16} - 64;
    const auto done = pool_.set_budget_bytes(bytes);
    must(done.has_value() == (bytes >= least_bytes_), "a budget is set if it works");
    ceiling_bytes_ = std::max(pool_.budget_bytes(), pool_.stats().charged_bytes);
  }
  void pin(File& file) {
    if (pinned_) {
      const auto& of = files_[pinned_->id - first_id];
      const auto shown = pinned_->pin.with_data([&](std::span<const std::byte> bytes) {
        const auto at = static_cast<std::size_t>(pinned_->chunk * chunk_bytes_);
        const auto& now = of.bytes.now;
        return of.life != pinned_->life ||
               (at + bytes.size() <= now.size() && std::ranges::equal(bytes, std::span{now}.subspan(at, bytes.size())));
      });
      must(shown ? *shown : shown.error() == std::errc::no_message_available, "a pinned chunk shows the file's bytes");
      return pinned_.reset();
    }
    const auto chunk = input_.below(most_bytes_) / chunk_bytes_;
    const auto meta = file.it->metadata();
    const bool held = pool_.contains(meta, chunk);
    auto pin = pool_.pin(meta, chunk);
    must(pin.has_value() == held, "a pin is of what is held");
    if (pin) pinned_.emplace(Pinned{std::move(*pin), chunk, file.id, file.life});
  }
  void look(File& file) {
    const auto& bytes = file.bytes.now;
    const auto range = input_.range();
    (void)file.it->load_ahead(range);
    const auto data = file.it->data_extents(tarn::whole_file);
    must(data.empty() || data.extents().back().end() <= bytes.size(), "no data past the end");
    for (std::size_t i = 0; i < bytes.size(); ++i) {
      const bool zero = bytes[i] == std::byte{};
      must(zero || data.contains(ByteRange::between(i, i + 1)), "where no data is, a byte is zero");
    }
    ModelBytes ten(10);
    const auto far = tarn::max_offset - 4;
    must(file.it->write(far, ten).error() == std::errc::file_too_large, "a write past the largest offset");
    must(file.it->read(far, ten).error() == std::errc::value_too_large, "a read past the largest offset");
    must(file.it->truncate(tarn::max_offset + 1).error() == std::errc::file_too_large, "a size past it");
    const auto none = file.it->read(std::max<std::uint64_t>(range.offset(), bytes.size()), {});
    must(none && *none == 0, "a read of nothing");
  }

  // ---- the array changes with the file

  void written(File& file, std::uint64_t offset, std::span<const std::byte> from) {
    if (from.empty()) return;
    auto& bytes = file.bytes.now;
    const auto end = static_cast<std::size_t>(offset) + from.size();
    if (bytes.size() < end) bytes.resize(end);
    std::ranges::copy(from, bytes.begin() + static_cast<std::ptrdiff_t>(offset));
    changed(file, ByteRange::between(offset, end));
  }
  void truncated(File& file, std::uint64_t size_bytes) {
    const auto low = std::min<std::uint64_t>(size_bytes, file.bytes.now.size());
    file.bytes.now.resize(static_cast<std::size_t>(size_bytes));
    changed(file, ByteRange::between(low, tarn::max_offset));
  }
  void zeroed(File& file, ByteRange range, bool keep_size) {
    auto& bytes = file.bytes.now;
    if (!keep_size && !range.empty() && range.end() > bytes.size()) {
      bytes.resize(static_cast<std::size_t>(range.end()));
    }
    for (auto at = range.offset(); at < std::min<std::uint64_t>(range.end(), bytes.size()); ++at) {
      bytes[static_cast<std::size_t>(at)] = {};
    }
    changed(file, range);
  }
  void changed(File& file, ByteRange range) {
    ++file.changes;
    file.unsure.subtract(range);
    file.bytes.note();
  }
  /// One that fails, too, may keep a flush from settling its bytes.
  static void begin_change(File& file) { ++file.changes; }

  // ---- what is looked at

  void check_file(const File& file, const ModelBytes* in_store) const {
    const tarn::detail::Resumer hold;  // who waits for a lock that is taken here goes on after the look
    const auto broken = broken_rule(pool_, file.it->metadata(), file.bytes.now, in_store);
    must(broken.empty(), broken.c_str());
  }
  void check_budget() {
    const auto stats = pool_.stats();
    must(stats.charged_bytes <= ceiling_bytes_, "no charge passes the budget");
    ceiling_bytes_ = std::max(stats.budget_bytes, stats.charged_bytes);
  }
  void check_bytes(const File& file, ByteRange range, std::span<const std::byte> found) const {
    const auto& bytes = file.bytes.now;
    must(found.size() == size_in(bytes, range), "a read is shorter than asked only at the end of the file");
    const auto first = std::min<std::size_t>(bytes.size(), static_cast<std::size_t>(range.offset()));
    must(std::ranges::equal(found, std::span{bytes}.subspan(first, found.size())), "a read answers the bytes");
  }
  void check_durable(const File& file, const ModelBytes& durable) const {
    must(durable.size() == file.bytes.now.size(), "a size that was synced is durable");
    for (std::size_t i = 0; i < durable.size(); ++i) {
      const bool unsure = file.unsure.contains(ByteRange::between(i, i + 1));
      must(unsure || durable[i] == file.bytes.now[i], "what was synced is durable");
    }
  }
  /// Files without openers, pins and the rest go; then nothing may be charged.
  void check_all_gone() {
    for (auto& file : files_) file.it.reset();
    pool_.drop(hog_);
    pool_.evict_clean();
    must(pool_.stats().charged_bytes == 0, "nothing is charged when all is gone");
  }

  // ---- small things

  [[nodiscard]] static std::uint64_t size_in(const ModelBytes& bytes, ByteRange range) {
    return ByteRange::between(0, bytes.size()).intersect(range).size_bytes();
  }
  [[nodiscard]] File& of(std::uint64_t id) { return files_[id - first_id]; }
  [[nodiscard]] ByteRange any_range(std::uint64_t end) {
    const auto offset = input_.below(end + 1);
    return ByteRange::between(offset, offset + input_.below(end - offset + 1));
  }

 private:
  struct Pinned {
    tarn::PinnedChunk<FuzzTraits> pin;
    std::uint64_t chunk, id, life;
  };

  [[nodiscard]] tarn::PoolOptions options() {
    tarn::PoolOptions made{.chunk_bytes = chunk_bytes_, .window_bytes = (1 + input_.below(4)) * chunk_bytes_};
    least_bytes_ = tarn::ChunkPool<FuzzTraits>::min_budget_bytes(made);
    made.budget_bytes = least_bytes_ + input_.byte() * std::uint64_t{8};
    const auto marks = input_.byte();
    if ((marks & 1) != 0) made.dirty_throttle_bytes = 2 * chunk_bytes_;
    if ((marks & 2) != 0) made.dirty_limit_bytes = 3 * chunk_bytes_;
    if ((marks & 4) != 0) made.file_dirty_limit_bytes = 2 * chunk_bytes_;
    return made;
  }

  std::uint64_t least_bytes_ = 0;

 protected:
  FuzzInput input_;
  ModelRandom random_{1};
  const std::uint64_t chunk_bytes_, part_bytes_, most_bytes_;
  ModelTold told_;
  tarn::ChunkPool<FuzzTraits> pool_;
  std::uint64_t ceiling_bytes_;
  Store store_;
  std::array<File, 2> files_;
  Meta hog_ = Meta::created(99);
  std::optional<Pinned> pinned_;
  bool calm_ = false;  // from now on the store does all that it is asked
};

}  // namespace tarn_test
