// SPDX-License-Identifier: MIT
// Calls on a small pool and two files, against a flat array for each and a store that fails as the input says, and from
// inside of which other calls are made. Every read is compared, and after every call all that the pool and the files
// say of their bytes; at the end all is flushed, and the store compared, and what a crash would leave of it.

#include <tarn/tarn.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <system_error>
#include <utility>
#include <vector>

#include "fuzz/input.hpp"
#include "sim/later_store.hpp"
#include "support/model_store.hpp"
#include "support/model_table.hpp"
#include "support/traits.hpp"

namespace {

using tarn::ByteRange;
using tarn_test::FuzzInput;
using tarn_test::ModelBytes;
using tarn_test::ModelChange;
using tarn_test::ModelDisk;
using tarn_test::must;

struct Traits : tarn_test::TestTraits {
  using Storage = tarn::HeapStorage;
  using Observer = tarn_test::ModelObserver;
};

/// The model's store, with syncs, and with what they leave durable.
class Store : public tarn_test::ModelStore<Traits> {
 public:
  bool keeps_sizes = false;
  std::map<FileId, ModelDisk> disks;
  std::function<bool(const FileId&)> during_sync;  ///< Returns: whether it fails

  static std::error_code sync_error() { return std::make_error_code(std::errc::network_down); }

  Outcome flush(const Flush& request) {
    auto change = ModelChange::of(request, keeps_sizes);
    auto outcome = ModelStore::flush(request);
    if (outcome.ok()) disks.at(*request.file).note_stored(std::move(change));
    return outcome;
  }
  tarn::Result<> sync(const tarn::SyncRequest<Traits>& request) {
    auto& disk = disks.at(*request.file);
    auto asked = disk.take_log();
    const bool fails = during_sync(*request.file);
    if (fails) {
      disk.note_sync_failed(std::move(asked));
      return tarn::fail(sync_error());
    }
    disk.note_synced(asked);
    return {};
  }
};

class World {
 public:
  explicit World(FuzzInput input)
      : input_{input},
        chunk_bytes_{std::array<std::uint64_t, 3>{16, 1, 64}[input_.below(3)]},
        part_bytes_{chunk_bytes_ * (1 + input_.below(4))},
        most_bytes_{chunk_bytes_ == 1    ? 40u
                    : chunk_bytes_ == 16 ? 200u
                                         : 250u},
        pool_{options(), tarn_test::ModelObserver{&told_}},
        ceiling_bytes_{pool_.budget_bytes()} {
    store_.part_bytes = part_bytes_;
    store_.keeps_sizes = input_.flag();
    store_.plan_load = [this](const Store::Load&) { return plan_load(); };
    store_.during_load = [this](const Store::Load& request) { nest(*request.file, true); };
    store_.plan_flush = [this](const Store::Flush& request) { return plan_flush(request); };
    store_.during_flush = [this](const Store::Flush& request) { nest(*request.file, false); };
    store_.during_sync = [this](std::uint64_t id) { return plan_sync(id); };
    store_.during_remove = [this](std::uint64_t) { return calm_ || input_.byte() % 4 != 1; };
    for (std::size_t i = 0; i < files_.size(); ++i) files_[i].id = 10 + i;
    for (auto& file : files_) make(file);
    // What is never flushed takes all the memory, and gives back that of a few chunks, or all of it.
    if (const auto back = input_.below(16); back != 0) {
      const auto taken = tarn::write_range(pool_, hog_, 0, random_.bytes(80 * chunk_bytes_));
      const auto stays = taken ? *taken - std::min<std::uint64_t>(*taken, back * chunk_bytes_) : 0;
      must(tarn::truncate(pool_, hog_, stays).has_value(), "a truncate of whole chunks takes no memory");
    }
  }

  void run() {
    for (int steps = 0; !input_.empty() && steps < 200; ++steps) {
      const auto what = input_.byte();
      step(files_[what & 1u], what >> 1);
      check();
    }
    end();
  }

 private:
  struct File {
    std::uint64_t id = 0, life = 0;
    std::unique_ptr<tarn::DirtyFile<Traits, Store>> it;
    std::optional<tarn::OpenFile<Traits, Store>> open;
    bool deleted = false;
    ModelBytes bytes;
    std::uint64_t changes = 0;
    std::vector<ModelBytes> states;  // since a call began from inside of which others are made
    tarn::ExtentSet unsure;          // of these a failed sync said that only the store knows
  };
  struct Pinned {
    tarn::PinnedChunk<Traits> pin;
    std::uint64_t chunk, id, life;
  };
  struct FillerFailure {};

  [[nodiscard]] tarn::PoolOptions options() {
    tarn::PoolOptions made{.chunk_bytes = chunk_bytes_, .window_bytes = (1 + input_.below(4)) * chunk_bytes_};
    least_bytes_ = tarn::ChunkPool<Traits>::min_budget_bytes(made);
    made.budget_bytes = least_bytes_ + input_.byte() * std::uint64_t{8};
    const auto marks = input_.byte();
    if ((marks & 1) != 0) made.dirty_throttle_bytes = 2 * chunk_bytes_;
    if ((marks & 2) != 0) made.dirty_limit_bytes = 3 * chunk_bytes_;
    if ((marks & 4) != 0) made.file_dirty_limit_bytes = 2 * chunk_bytes_;
    return made;
  }

  // ---- the calls

  void step(File& file, unsigned what) {
    switch (what % 24) {
      case 0:
      case 1:
        return read(file);
      case 2:
        return view(file);
      case 3:
        return try_read(file);
      case 4:
      case 5:
        return write(file);
      case 6:
        return fill(file);
      case 7:
        return append(file);
      case 8:
        return truncate(file);
      case 9:
      case 10:
        return zero(file);
      case 11:
      case 12:
        return flush(file);
      case 13:
        return sync(file);
      case 14:
        pool_.evict_clean();
        return;
      case 15:
        return invalidate(file);
      case 16:
        return discard(file);
      case 17:
        return rebase(file);
      case 18:
        return reuse(file);
      case 19:
        return remove(file);
      case 20:
        return open_or_close(file);
      case 21:
        return set_budget();
      case 22:
        return pin(file);
      default:
        return look(file);
    }
  }
  // From inside the store: what another thread might have called, but for what waits for what the store is asked.
  void step_inside(File& file, unsigned what, bool in_load) {
    switch (what % 8) {
      case 0:
      case 1:
        return write(file);
      case 2:
        return fill(file);
      case 3:
        return truncate(file);
      case 4:
        return zero(file);
      case 5:
        return try_read(file);
      case 6:
        pool_.evict_clean();
        return;
      default:
        return in_load ? input_.flag() ? flush(file) : invalidate(file) : read(file);
    }
  }

  void read(File& file) {
    const auto range = any_range(most_bytes_ + 2 * chunk_bytes_);
    ModelBytes into(static_cast<std::size_t>(range.size_bytes()), std::byte{0xA5});
    const Watch watch{*this, file};
    const auto failed_loads = store_.failed_loads;
    const auto n = file.it->read(range.offset(), into, waiting());
    if (!n) return check_read_error(n.error(), failed_loads);
    into.resize(*n);
    if (!watch.saw_changes()) return check_bytes(file, range, into);
    // One window is of one moment; but where no chunk is to be had it is cut, at the first byte that is missing.
    std::uint64_t least = UINT64_MAX, most = 0;
    for (const auto& state : file.states) {
      least = std::min<std::uint64_t>(least, size_in(state, range));
      most = std::max<std::uint64_t>(most, size_in(state, range));
    }
    must(into.size() >= least && into.size() <= most, "a read is of a size that the file had");
    for (std::size_t i = 0; i < into.size(); ++i) {
      const auto at = static_cast<std::size_t>(range.offset()) + i;
      const auto has = [&](const ModelBytes& state) { return at < state.size() && state[at] == into[i]; };
      must(std::ranges::any_of(file.states, has), "a read answers a byte that the file had meanwhile");
    }
  }
  void view(File& file) {
    const auto range = any_range(most_bytes_ + 2 * chunk_bytes_);
    const Watch watch{*this, file};
    const auto failed_loads = store_.failed_loads;
    ModelBytes seen;
    int calls = 0;
    const auto viewed = file.it->view(
        range.offset(), range.size_bytes(),
        [&](tarn::ConstBuffers bytes) {
          ++calls;
          seen.resize(bytes.size_bytes());
          bytes.copy_to(seen);
        },
        waiting());
    must(calls == (viewed ? 1 : 0), "a view is shown once, or fails");
    if (viewed) return check_bytes(file, range, seen);
    if (range.size_bytes() <= pool_.window_bytes()) return check_read_error(viewed.error(), failed_loads);
    must(viewed.error() == std::errc::message_size, "a view larger than a window is EMSGSIZE");
  }
  void try_read(File& file) {
    const auto range = any_range(most_bytes_ + 2 * chunk_bytes_);
    ModelBytes into(static_cast<std::size_t>(range.size_bytes()), std::byte{0xA5});
    const auto loads = pool_.stats().loads;
    auto outcome = file.it->try_read(range.offset(), into);
    must(loads == pool_.stats().loads, "a try loads nothing");
    must(outcome.done() || outcome.needs_load(), "a try is busy with nobody there");
    if (!outcome.done()) return;
    into.resize(*outcome);
    check_bytes(file, range, into);
  }

  void write(File& file) {
    begin_change(file);
    const auto range = any_range(most_bytes_);
    const auto from = random_.bytes(range.size_bytes());
    const auto how = waiting();
    const auto n = file.it->write(range.offset(), from, {}, how);
    if (!n) return check_refusal(n.error(), how);
    must(*n <= from.size() && (*n != 0 || from.empty()), "a write takes in some, or says why not");
    written(file, range.offset(), std::span{from}.first(*n));
  }
  void append(File& file) {
    begin_change(file);
    const auto at = std::uint64_t{file.bytes.size()};
    const auto from = random_.bytes(input_.below(std::max(most_bytes_, at) - at + 1));
    const auto how = waiting();
    const auto n = file.it->append(from, {}, how);
    if (!n) return check_refusal(n.error(), how);
    must(n->size_bytes == 0 || n->offset == at, "an append is at the end");
    written(file, at, std::span{from}.first(n->size_bytes));
  }
  // By a filler that fills all, or stops, fails or throws somewhere, with rubbish left in what it does not count.
  void fill(File& file) {
    begin_change(file);
    const auto range = any_range(most_bytes_);
    const auto from = random_.bytes(range.size_bytes());
    const auto ends = input_.byte() % 4;
    const auto stop = ends == 0 ? from.size() : static_cast<std::size_t>(input_.below(from.size() + 1));
    std::size_t given = 0;
    bool failed = false;
    const auto filler = [&](tarn::MutableBuffers into) -> tarn::Result<std::size_t> {
      const auto n = std::min(into.size_bytes(), stop - given);
      if (n < into.size_bytes()) into.copy_from(ModelBytes(into.size_bytes(), std::byte{0xEE}));
      failed = n < into.size_bytes() && ends >= 2;
      if (failed && ends == 3) throw FillerFailure{};
      if (failed) return tarn::fail(std::errc::broken_pipe);
      into.copy_from(std::span{from}.subspan(given, n));
      given += n;
      return n;
    };
    const auto how = waiting();
    tarn::Result<std::size_t> n = std::size_t{0};
    try {
      n = file.it->write(range.offset(), range.size_bytes(), filler, {}, how);
    } catch (const FillerFailure&) {
      n = given;  // the windows before the one that threw are in
    }
    if (n) {
      must(*n == given, "a fill takes in what was filled");
      return written(file, range.offset(), std::span{from}.first(*n));
    }
    must(given == 0, "a fill that took in some says so");
    if (!failed) return check_refusal(n.error(), how);
    must(n.error() == std::errc::broken_pipe, "a filler's error is the write's");
  }
  void truncate(File& file) {
    begin_change(file);
    const auto size = input_.below(most_bytes_ + 1);
    const auto how = waiting();
    const auto done = file.it->truncate(size, {}, how);
    if (!done) return check_refusal(done.error(), how);
    const auto low = std::min<std::uint64_t>(size, file.bytes.size());
    file.bytes.resize(static_cast<std::size_t>(size));
    changed(file, ByteRange::between(low, tarn::max_offset));
  }
  void zero(File& file) {
    begin_change(file);
    const auto range = any_range(most_bytes_);
    const auto kind = input_.below(3);
    const auto how = waiting();
    const auto done = kind == 0 ? file.it->punch_hole(range, {}, how) : file.it->zero_range(range, kind == 1, {}, how);
    if (!done) return check_refusal(done.error(), how);
    if (kind == 2 && !range.empty() && range.end() > file.bytes.size()) {
      file.bytes.resize(static_cast<std::size_t>(range.end()));
    }
    for (auto at = range.offset(); at < std::min<std::uint64_t>(range.end(), file.bytes.size()); ++at) {
      file.bytes[static_cast<std::size_t>(at)] = {};
    }
    changed(file, range);
  }

  void flush(File& file) {
    const Watch watch{*this, file};
    const auto failed_flushes = store_.failed_flushes, changes = file.changes;
    const auto done = file.it->flush();
    if (!done) {
      must(done.error() == Store::flush_error() && failed_flushes != store_.failed_flushes,
           "a flush fails with the store");
      return must(!calm_ && !file.deleted, "a flush fails by itself");
    }
    if (changes != file.changes || file.deleted) return;
    must(!file.it->is_dirty(), "what was flushed is not dirty");
    must(store_.images.at(file.id).bytes == file.bytes, "the store has what was flushed");
  }
  void sync(File& file) {
    const Watch watch{*this, file};
    const auto failed_flushes = store_.failed_flushes, failed_syncs = failed_syncs_, changes = file.changes;
    const auto done = file.it->sync({}, input_.flag() ? tarn::SyncScope::data : tarn::SyncScope::all);
    if (!done) {
      const bool by_flush = done.error() == Store::flush_error() && failed_flushes != store_.failed_flushes;
      const bool by_sync = done.error() == Store::sync_error() && failed_syncs != failed_syncs_;
      return must((by_flush || by_sync) && !calm_, "a sync fails with the store");
    }
    if (changes != file.changes || file.deleted) return;
    must(store_.images.at(file.id).bytes == file.bytes, "the store has what was synced");
    const auto& durable = store_.disks.at(file.id).durable();
    must(durable.size() == file.bytes.size(), "a size that was synced is durable");
    for (std::size_t i = 0; i < durable.size(); ++i) {
      const bool unsure = file.unsure.contains(ByteRange::between(i, i + 1));
      must(unsure || durable[i] == file.bytes[i], "what was synced is durable");
    }
  }

  // The store has another version of it now: what is clean is another byte.
  void invalidate(File& file) {
    const auto image = store_.images.find(file.id);
    if (image == store_.images.end() || file.deleted) return;
    const auto done = file.it->invalidate(image->second.version + 1);
    if (!done) return must(done.error() == std::errc::no_buffer_space, "an invalidate is refused");
    ++image->second.version;
    const auto meta = file.it->metadata();
    const auto dirty = pool_.dirty_extents(meta);
    must(pool_.held_extents(meta) == dirty, "what was invalidated is not held");
    auto clean = meta.stored();
    clean.subtract(dirty);
    for (const auto& extent : clean.extents()) {
      const auto first = static_cast<std::size_t>(extent.offset());
      const auto made = random_.bytes(extent.size_bytes());
      std::ranges::copy(made, image->second.bytes.begin() + static_cast<std::ptrdiff_t>(first));
      std::ranges::copy(made, file.bytes.begin() + static_cast<std::ptrdiff_t>(first));
    }
    become_durable(file);
    changed(file, tarn::whole_file);
  }
  void discard(File& file) {
    const auto image = store_.images.find(file.id);
    if (image == store_.images.end() || file.deleted) return;
    const auto dirty_bytes = pool_.dirty_bytes(file.it->metadata());
    const auto gone = file.it->discard_dirty(image->second.bytes.size(), image->second.version);
    must(gone && *gone == dirty_bytes, "a discard gives up what is dirty");
    file.bytes = image->second.bytes;
    become_durable(file);
    changed(file, tarn::whole_file);
  }
  // The store has other bytes and another size: what is dirty or a hole here stays, the rest is the store's.
  void rebase(File& file) {
    const auto image = store_.images.find(file.id);
    if (image == store_.images.end() || file.deleted) return;
    auto theirs = random_.bytes(input_.below(most_bytes_ + 1));
    const auto meta = file.it->metadata();
    auto mine = pool_.dirty_extents(meta);
    auto shown = meta.stored();
    shown.add(mine);
    shown.for_each_gap_in(ByteRange::between(0, meta.size()), [&](ByteRange hole) { mine.add(hole); });
    const auto done = file.it->rebase(theirs.size(), image->second.version + 1);
    if (!done) return must(done.error() == std::errc::no_buffer_space, "a rebase is refused");
    const auto size = file.it->size();
    auto now = theirs;
    now.resize(static_cast<std::size_t>(size));
    for (std::size_t i = 0; i < std::min(now.size(), file.bytes.size()); ++i) {
      if (mine.contains(ByteRange::between(i, i + 1))) now[i] = file.bytes[i];
    }
    file.bytes = std::move(now);
    image->second.bytes = std::move(theirs);
    ++image->second.version;
    become_durable(file);
    changed(file, tarn::whole_file);
  }

  // Another file of the id, when the first has gone, or while it is still there.
  void reuse(File& file) {
    file.open.reset();
    told_.unsure.clear();
    if (input_.flag()) {
      const auto old = std::move(file.it);
      old->abandon();  // no flush for room may change what the next one is made of
      if (try_make(file)) {
        const std::byte one{1};
        return must(!old->write(0, {&one, 1}).has_value(), "a file whose id another has takes no write");
      }
    }
    file.it.reset();
    make(file);
  }
  void remove(File& file) {
    const auto done = file.it->remove();
    if (file.deleted) return must(done.error() == std::errc::no_such_file_or_directory, "removed twice");
    if (!done) return must(done.error() == Store::flush_error(), "a remove fails with the store");
    if (file.open) {
      file.deleted = true;
    } else {
      must(store_.images.count(file.id) == 0 && file.it->size() == 0, "a removed file is gone");
      file.it.reset();
      make(file);
    }
  }
  void open_or_close(File& file) {
    if (!file.open) return void(file.open.emplace(file.it->open()));
    file.open.reset();
    if (!file.deleted) return;
    file.it.reset();
    make(file);
  }
  void set_budget() {
    const auto bytes = least_bytes_ + input_.byte() * std::uint64_t{16} - 64;
    const auto done = pool_.set_budget_bytes(bytes);
    must(done.has_value() == (bytes >= least_bytes_), "a budget is set if it works");
    ceiling_bytes_ = std::max(pool_.budget_bytes(), pool_.stats().charged_bytes);
  }
  void pin(File& file) {
    if (pinned_) {
      const auto& of = files_[pinned_->id - files_[0].id];
      const auto shown = pinned_->pin.with_data([&](std::span<const std::byte> bytes) {
        const auto at = static_cast<std::size_t>(pinned_->chunk * chunk_bytes_);
        return of.life != pinned_->life || (at + bytes.size() <= of.bytes.size() &&
                                            std::ranges::equal(bytes, std::span{of.bytes}.subspan(at, bytes.size())));
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
    const auto range = input_.range();
    (void)file.it->load_ahead(range);
    const auto data = file.it->data_extents(tarn::whole_file);
    must(data.empty() || data.extents().back().end() <= file.bytes.size(), "no data past the end");
    for (std::size_t i = 0; i < file.bytes.size(); ++i) {
      const bool zero = file.bytes[i] == std::byte{};
      must(zero || data.contains(ByteRange::between(i, i + 1)), "where no data is, a byte is zero");
    }
    ModelBytes ten(10);
    const auto far = tarn::max_offset - 4;
    must(file.it->write(far, ten).error() == std::errc::file_too_large, "a write past the largest offset");
    must(file.it->read(far, ten).error() == std::errc::value_too_large, "a read past the largest offset");
    must(file.it->truncate(tarn::max_offset + 1).error() == std::errc::file_too_large, "a size past it");
    const auto none = file.it->read(std::max<std::uint64_t>(range.offset(), file.bytes.size()), {});
    must(none && *none == 0, "a read of nothing");
  }

  // ---- the store

  [[nodiscard]] Store::LoadPlan plan_load() {
    if (calm_) return {};
    const auto plan = input_.byte();
    nested_ = plan >> 5;
    const auto fault = plan % 16u < 4 ? static_cast<Store::LoadFault>(plan % 16u) : Store::LoadFault::none;
    return {.fault = fault, .late = (plan & 16) == 0};
  }
  [[nodiscard]] Store::FlushPlan plan_flush(const Store::Flush& request) {
    auto& file = of(*request.file);
    must(request.size_bytes <= most_bytes_ && file.id == *request.file, "a flush is of a size that the file had");
    if (calm_) return {.skips_known_zeros = store_.keeps_sizes};
    const auto plan = input_.byte();
    nested_ = plan >> 6;
    const auto fault = plan % 16u < 5 ? static_cast<Store::FlushFault>(plan % 16u) : Store::FlushFault::none;
    return {.fault = fault,
            .skips_known_zeros = store_.keeps_sizes,
            .names_content = (plan & 32) != 0,
            .applies_first = (plan & 16) != 0};
  }
  [[nodiscard]] bool plan_sync(std::uint64_t id) {
    if (calm_) return false;
    const auto plan = input_.byte();
    nested_ = plan >> 6;
    nest(id, false);
    const bool fails = plan % 4u == 1;
    failed_syncs_ += fails ? 1 : 0;
    return fails;
  }
  void nest(std::uint64_t id, bool in_load) {
    auto left = std::exchange(nested_, 0);
    if (watched_ == nullptr || inside_) return;
    inside_ = true;
    for (; left != 0; --left) {
      const auto what = input_.byte();
      step_inside((what & 0xC0) == 0xC0 ? files_[what & 1u] : of(id), what, in_load);
    }
    inside_ = false;
  }

  // ---- what is looked at

  // While it lives calls are made from inside the store, and the states of the file are kept.
  class Watch {
   public:
    Watch(World& world, File& file) : world_{world}, mine_{world.watched_ == nullptr} {
      if (!mine_) return;
      world_.watched_ = &file;
      file.states.assign(1, file.bytes);
    }
    Watch(const Watch&) = delete;
    Watch& operator=(const Watch&) = delete;
    ~Watch() {
      if (mine_) world_.watched_ = nullptr;
    }
    [[nodiscard]] bool saw_changes() const { return mine_ && world_.watched_->states.size() > 1; }

   private:
    World& world_;
    bool mine_;
  };

  void check() {
    for (auto& unsure : std::exchange(told_.unsure, {})) of(unsure.file).unsure.add(unsure.extents);
    for (auto& file : files_) {
      const auto image = store_.images.find(file.id);
      const auto* const bytes = image == store_.images.end() ? nullptr : &image->second.bytes;
      const auto broken = tarn_test::broken_rule(pool_, file.it->metadata(), file.bytes, bytes);
      must(broken.empty(), broken.c_str());
    }
    must(store_.complaint.empty(), store_.complaint.c_str());
    const auto stats = pool_.stats();
    must(stats.charged_bytes <= ceiling_bytes_, "no charge passes the budget");
    ceiling_bytes_ = std::max(stats.budget_bytes, stats.charged_bytes);
    must(stats.lent_bytes == 0 && stats.chunks_reserved == 0, "nothing is lent or reserved between calls");
  }
  void end() {
    calm_ = true;
    pinned_.reset();
    for (auto& file : files_) {
      if (!file.deleted) flush(file);
      if (!file.deleted) sync(file);
      file.open.reset();
      if (file.deleted) file.bytes.clear();  // with the last to close it
    }
    check();
    for (auto& file : files_) file.it.reset();
    pool_.drop(hog_);
    pool_.evict_clean();
    must(pool_.stats().charged_bytes == 0, "nothing is charged when all is gone");
  }
  [[nodiscard]] static std::uint64_t size_in(const ModelBytes& bytes, ByteRange range) {
    const auto all = ByteRange::between(0, bytes.size());
    return all.intersect(range).size_bytes();
  }
  void check_bytes(const File& file, ByteRange range, const ModelBytes& found) const {
    must(found.size() == size_in(file.bytes, range), "a read is shorter than asked only at the end of the file");
    const auto first = std::min<std::size_t>(file.bytes.size(), static_cast<std::size_t>(range.offset()));
    must(std::ranges::equal(found, std::span{file.bytes}.subspan(first, found.size())), "a read answers the bytes");
  }
  void check_read_error(std::error_code error, std::uint64_t failed_loads) const {
    if (store_.failed_loads != failed_loads && (error == Store::load_error() || error == std::errc::io_error)) return;
    must(error == std::errc::no_buffer_space || error == std::errc::resource_unavailable_try_again, "a read fails");
  }
  void check_refusal(std::error_code error, const tarn::CallOptions& how) const {
    const bool blocks = how.when_full == tarn::WhenFull::would_block;
    must(error == (blocks ? std::errc::resource_unavailable_try_again : std::errc::no_buffer_space), "a change fails");
  }

  // ---- small things

  // One that fails, too, may keep a flush from settling its bytes.
  static void begin_change(File& file) { ++file.changes; }
  void written(File& file, std::uint64_t offset, std::span<const std::byte> from) {
    if (from.empty()) return;
    const auto end = static_cast<std::size_t>(offset) + from.size();
    if (file.bytes.size() < end) file.bytes.resize(end);
    std::ranges::copy(from, file.bytes.begin() + static_cast<std::ptrdiff_t>(offset));
    changed(file, ByteRange::between(offset, end));
  }
  void changed(File& file, ByteRange range) {
    ++file.changes;
    file.unsure.subtract(range);
    if (watched_ == &file) file.states.push_back(file.bytes);
  }
  void become_durable(File& file) {
    store_.disks.at(file.id).become(store_.images.at(file.id).bytes, 0);
    file.unsure = {};
  }
  void make(File& file) {
    if (try_make(file)) return;
    pinned_.reset();
    pool_.drop(hog_);
    const bool was_calm = std::exchange(calm_, true);
    for (auto& other : files_) {
      if (other.it == nullptr) continue;
      other.open.reset();
      if (std::exchange(other.deleted, false)) {
        other.it.reset();
      } else {
        flush(other);
      }
    }
    for (auto& other : files_) {
      if (other.it == nullptr) must(try_make(other), "there is room for a file's record");
    }
    calm_ = was_calm;
  }
  // Made as the store has it, or new.
  [[nodiscard]] bool try_make(File& file) {
    using Meta = tarn::MetadataFor<Traits>;
    auto image = store_.images.find(file.id);
    const auto kind = calm_ ? 0 : input_.below(3);
    if (kind == 2) {
      image =
          store_.images.insert_or_assign(file.id, Store::Image{random_.bytes(input_.below(most_bytes_ + 1)), 1}).first;
    } else if (kind == 0 && image != store_.images.end()) {
      store_.images.erase(image);
      image = store_.images.end();
    }
    const bool has = image != store_.images.end();
    const auto meta = has ? Meta::from_store(file.id, image->second.bytes.size(),
                                             {.part_bytes = part_bytes_, .version = image->second.version})
                          : Meta::created(file.id, {.part_bytes = part_bytes_});
    file.bytes = has ? image->second.bytes : ModelBytes{};
    store_.disks.erase(file.id);
    store_.disks.emplace(file.id, ModelDisk{store_.keeps_sizes}).first->second.become(file.bytes, 0);
    file.deleted = false;
    file.unsure = {};
    ++file.life;
    try {
      file.it = std::make_unique<tarn::DirtyFile<Traits, Store>>(pool_, meta, store_);
    } catch (const std::system_error& refused) {
      must(refused.code() == std::errc::no_buffer_space, "a file is refused");
      return false;
    }
    return true;
  }
  [[nodiscard]] File& of(std::uint64_t id) { return files_[id - files_[0].id]; }
  [[nodiscard]] ByteRange any_range(std::uint64_t end) {
    const auto offset = input_.below(end + 1);
    return ByteRange::between(offset, offset + input_.below(end - offset + 1));
  }
  [[nodiscard]] tarn::CallOptions waiting() {
    return {.when_full =
                std::array{tarn::WhenFull::wait, tarn::WhenFull::fail, tarn::WhenFull::would_block}[input_.below(3)]};
  }

  FuzzInput input_;
  tarn_test::ModelRandom random_{1};
  const std::uint64_t chunk_bytes_, part_bytes_, most_bytes_;
  std::uint64_t least_bytes_ = 0, failed_syncs_ = 0;
  tarn_test::ModelTold told_;
  Store store_;
  tarn::ChunkPool<Traits> pool_;
  std::array<File, 2> files_;
  tarn::MetadataFor<Traits> hog_ = tarn::MetadataFor<Traits>::created(99);
  std::optional<Pinned> pinned_;
  std::uint64_t ceiling_bytes_;
  File* watched_ = nullptr;  // by the call under way, from inside of which others are made
  bool inside_ = false, calm_ = false;
  unsigned nested_ = 0;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size_bytes) {
  World{FuzzInput{bytes, size_bytes}}.run();
  return 0;
}
