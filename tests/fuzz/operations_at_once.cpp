// SPDX-License-Identifier: MIT
// The world of a store that answers inside the call: it fails as the input says, and from inside of it other calls are
// made. Every read is compared, and after every call all that the pool and the files say of their bytes; at the end all
// is flushed, and the store compared, and what a crash would leave of it.

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <system_error>
#include <utility>

#include "fuzz/operations.hpp"
#include "support/model_store.hpp"

namespace tarn_test {
namespace {

using tarn::ByteRange;
using Traits = FuzzTraits;

/// The model's store, with syncs, and with what they leave durable.
class Store : public ModelStore<Traits> {
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

class AtOnceWorld : FuzzWorld<Store> {
 public:
  explicit AtOnceWorld(FuzzInput input) : FuzzWorld{input} {
    store_.part_bytes = part_bytes_;
    store_.keeps_sizes = input_.flag();
    store_.plan_load = [this](const Store::Load&) { return plan_load(); };
    store_.during_load = [this](const Store::Load& request) { nest(*request.file, true); };
    store_.plan_flush = [this](const Store::Flush& request) { return plan_flush(request); };
    store_.during_flush = [this](const Store::Flush& request) { nest(*request.file, false); };
    store_.during_sync = [this](std::uint64_t id) { return plan_sync(id); };
    store_.during_remove = [this](std::uint64_t) { return calm_ || input_.byte() % 4 != 1; };
    for (auto& file : files_) make(file);
    take_memory();
  }

  void run() {
    take_steps([this](File& file, unsigned what) { step(file, what); }, [this](File& file) { check(file); });
    end();
  }

 private:
  struct FillerFailure {};

  // ---- the calls

  using Step = void (AtOnceWorld::*)(File&);
  void step(File& file, unsigned what) {
    using W = AtOnceWorld;
    static constexpr std::array<Step, 24> steps{
        &W::read,     &W::read,   &W::view,  &W::try_read, &W::write,         &W::write,      &W::fill,  &W::append,
        &W::truncate, &W::zero,   &W::zero,  &W::flush,    &W::flush,         &W::sync,       &W::evict, &W::invalidate,
        &W::discard,  &W::rebase, &W::reuse, &W::remove,   &W::open_or_close, &W::set_budget, &W::pin,   &W::look};
    (this->*steps[what % steps.size()])(file);
  }
  // From inside the store: what another thread might have called, but for what waits for what the store is asked.
  void step_inside(File& file, unsigned what, bool in_load) {
    using W = AtOnceWorld;
    static constexpr std::array<Step, 7> steps{&W::write, &W::write,    &W::fill, &W::truncate,
                                               &W::zero,  &W::try_read, &W::evict};
    if (const auto index = what % 8u; index < steps.size()) return (this->*steps[index])(file);
    return in_load ? input_.flag() ? flush(file) : invalidate(file) : read(file);
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
    must(file.bytes.admits(range.offset(), static_cast<std::size_t>(range.size_bytes()), 1, into, watch.since()),
         "a read answers bytes that the file had meanwhile");
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
    const auto at = std::uint64_t{file.bytes.now.size()};
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
    truncated(file, size);
  }
  void zero(File& file) {
    begin_change(file);
    const auto range = any_range(most_bytes_);
    const auto kind = input_.below(3);
    const auto how = waiting();
    const auto done = kind == 0 ? file.it->punch_hole(range, {}, how) : file.it->zero_range(range, kind == 1, {}, how);
    if (!done) return check_refusal(done.error(), how);
    zeroed(file, range, kind != 2);
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
    must(store_.images.at(file.id).bytes == file.bytes.now, "the store has what was flushed");
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
    must(store_.images.at(file.id).bytes == file.bytes.now, "the store has what was synced");
    check_durable(file, store_.disks.at(file.id).durable());
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
      std::ranges::copy(made, file.bytes.now.begin() + static_cast<std::ptrdiff_t>(first));
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
    file.bytes.now = image->second.bytes;
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
    for (std::size_t i = 0; i < std::min(now.size(), file.bytes.now.size()); ++i) {
      if (mine.contains(ByteRange::between(i, i + 1))) now[i] = file.bytes.now[i];
    }
    file.bytes.now = std::move(now);
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
    Watch(AtOnceWorld& world, File& file) : world_{world}, mine_{world.watched_ == nullptr} {
      if (!mine_) return;
      world_.watched_ = &file;
      since_ = file.bytes.watch();
    }
    Watch(const Watch&) = delete;
    Watch& operator=(const Watch&) = delete;
    ~Watch() {
      if (mine_) std::exchange(world_.watched_, nullptr)->bytes.unwatch();
    }
    [[nodiscard]] bool saw_changes() const { return mine_ && world_.watched_->bytes.changed_since(since_); }
    [[nodiscard]] std::size_t since() const { return since_; }

   private:
    AtOnceWorld& world_;
    const bool mine_;
    std::size_t since_ = 0;
  };

  void check(const File& file) {
    for (auto& unsure : std::exchange(told_.unsure, {})) of(unsure.file).unsure.add(unsure.extents);
    const auto image = store_.images.find(file.id);
    check_file(file, image == store_.images.end() ? nullptr : &image->second.bytes);
    must(store_.complaint.empty(), store_.complaint.c_str());
    check_budget();
    const auto stats = pool_.stats();
    must(stats.lent_bytes == 0 && stats.chunks_reserved == 0, "nothing is lent or reserved between calls");
  }
  void end() {
    calm_ = true;
    pinned_.reset();
    for (auto& file : files_) {
      if (!file.deleted) flush(file);
      if (!file.deleted) sync(file);
      file.open.reset();
      if (file.deleted) file.bytes.now.clear();  // with the last to close it
    }
    for (auto& file : files_) check(file);
    check_all_gone();
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
    file.bytes.now = has ? image->second.bytes : ModelBytes{};
    store_.disks.erase(file.id);
    store_.disks.emplace(file.id, ModelDisk{store_.keeps_sizes}).first->second.become(file.bytes.now, 0);
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
  [[nodiscard]] tarn::CallOptions waiting() {
    return {.when_full =
                std::array{tarn::WhenFull::wait, tarn::WhenFull::fail, tarn::WhenFull::would_block}[input_.below(3)]};
  }

  std::uint64_t failed_syncs_ = 0;
  File* watched_ = nullptr;  // by the call under way, from inside of which others are made
  bool inside_ = false, calm_ = false;
  unsigned nested_ = 0;
};

}  // namespace

void run_at_once(FuzzInput input) { AtOnceWorld{input}.run(); }

}  // namespace tarn_test
