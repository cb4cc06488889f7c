// SPDX-License-Identifier: MIT
// The worlds of a store that answers when the input says, in any order: well, with an error, with too few bytes, by a
// dropped token, twice, inside the call or not before the end. A flush that is answered otherwise than well has stored
// none, some or all of it, and may act once more, later. Operations are in flight meanwhile, and other calls are made.
//
// The array of a file changes when the file does: a call is made with a Resumer around it, so that what it wakes goes
// on only when the array has the change, too; a write says when each window of it is taken in.

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <system_error>
#include <utility>
#include <vector>

#include "fuzz/operations.hpp"
#include "fuzz/operations_later_store.hpp"
#include "sim/operations.hpp"
#include "support/model_store.hpp"

namespace tarn_test {
namespace {

using tarn::ByteRange;
using tarn::ExtentSet;

template <ModelUnits units>
class LaterWorld : FuzzLaterStore<units> {
  using Base = FuzzLaterStore<units>;
  using Base::asked_count;
  using Base::become_durable;
  using Base::begin_change;
  using Base::calm_;
  using Base::changed;
  using Base::check_bytes;
  using Base::check_durable;
  using Base::disk_of;
  using Base::files_;
  using Base::flush_in_flight;
  using Base::input_;
  using Base::pinned_;
  using Base::pool_;
  using Base::random_;
  using Base::refused_reserves_;
  using Base::removing_;
  using Base::told_;
  using Base::written;
  using typename Base::DirtyFile;
  using typename Base::File;
  using typename Base::Meta;

 public:
  explicit LaterWorld(FuzzInput input) : Base{input} {
    for (auto& file : files_) make(file);
    this->take_memory();
  }

  void run() {
    this->take_steps([this](File& file, unsigned what) { step(file, what); }, [this](File& file) { check(file); });
    end();
  }

 private:
  enum class Kind : std::uint8_t { read, view, write, flush, sync };
  // An operation under way.
  struct Call {
    Kind kind;
    File& file;
    ByteRange range;
    ModelBytes bytes;             // to read into, or to write from
    std::size_t since = 0;        // where the states begin that a read may show
    std::size_t taken = 0, stop;  // of a write: what is in; where its filler ends
    bool breaks = false;          // and whether that is an error
    bool over = false, cancelled = false, settles = false;
    std::uint64_t changes, failed_loads, failures, refused_reserves, without_room;
    std::unique_ptr<ModelOperation> operation;
  };
  using Step = void (LaterWorld::*)(File&);
  void step(File& file, unsigned what) {
    using W = LaterWorld;
    static constexpr std::array<Step, 32> steps{
        &W::start_read,  &W::start_read,  &W::start_view,  &W::start_write, &W::start_write, &W::start_flush,
        &W::start_sync,  &W::cancel_some, &W::answer_some, &W::answer_some, &W::answer_some, &W::answer_some,
        &W::answer_some, &W::store_early, &W::act_late,    &W::try_read,    &W::try_write,   &W::try_write,
        &W::append,      &W::truncate,    &W::truncate,    &W::zero,        &W::zero,        &W::evict,
        &W::load_ahead,  &W::invalidate,  &W::discard,     &W::reuse,       &W::remove,      &W::open_or_close,
        &W::set_budget,  &W::pin};
    if (calls_.size() >= 10 || asked_count() >= 9) return answer_some(file);
    (this->*steps[what % steps.size()])(file);
  }
  // From inside the store, or from a completion: nothing that waits for a flush, which may be the one it is in.
  void nest(File& file) override {
    if (calm_ || inside_ || input_.byte() % 8 != 1) return;
    using W = LaterWorld;
    static constexpr std::array<Step, 12> steps{&W::try_write,  &W::try_write,   &W::truncate,    &W::zero,
                                                &W::try_read,   &W::evict,       &W::load_ahead,  &W::answer_some,
                                                &W::start_read, &W::start_write, &W::start_flush, &W::cancel_some};
    inside_ = true;
    (this->*steps[input_.below(steps.size())])(file);
    inside_ = false;
  }
  void evict(File&) {
    const tarn::detail::Resumer hold;
    pool_.evict_clean();
  }
  void set_budget(File& file) {
    const tarn::detail::Resumer hold;
    Base::set_budget(file);
  }
  void pin(File& file) {
    const tarn::detail::Resumer hold;
    Base::pin(file);
  }
  void answer_some(File& file) { Base::answer_some(file); }
  void store_early(File& file) { Base::store_early(file); }
  void act_late(File& file) { Base::act_late(file); }
  void load_ahead(File& file) { (void)file.it->load_ahead(any_read()); }

  // ---- operations

  Call& begin(Kind kind, File& file, ByteRange range, ModelBytes bytes) {
    calls_.push_back(std::make_unique<Call>(Call{.kind = kind,
                                                 .file = file,
                                                 .range = range,
                                                 .bytes = std::move(bytes),
                                                 .stop = 0,
                                                 .changes = file.changes,
                                                 .failed_loads = file.failed_loads,
                                                 .failures = file.failures,
                                                 .refused_reserves = refused_reserves_,
                                                 .without_room = times_without_room(),
                                                 .operation = {}}));
    auto& call = *calls_.back();
    // A load under way may have failed already, in another of its requests, and its error is shared.
    if (inside_ || this->load_in_flight(file)) --call.failed_loads;
    if (kind == Kind::read) call.since = file.bytes.watch();
    // One that has marked its bytes and taken none in yet keeps a flush from settling them.
    call.settles = !file.deleted && std::ranges::none_of(calls_, [&](const auto& other) {
      return other->kind == Kind::write && &other->file == &file && !other->over;
    });
    if (kind == Kind::write) begin_change(file);
    return call;
  }
  template <class Make>
  void start(Call& call, Make make) {
    call.operation = ModelOperation::of(std::move(make));
    call.operation->start();
  }
  // What a completion does at its end. The call stays until the step is over, its operation not always.
  void end(Call& call) {
    must(!std::exchange(call.over, true), "an operation completes once");
    if (call.kind == Kind::read) call.file.bytes.unwatch();
    if (call.kind == Kind::write) begin_change(call.file);
    if (input_.flag()) call.operation.reset();
    nest(call.file);
  }
  void start_read(File& file) {
    const auto range = any_read();
    auto& call = begin(Kind::read, file, range, ModelBytes(static_cast<std::size_t>(range.size_bytes()), unread));
    start(call, [&] {
      return tarn::read_operation(*file.it, range.offset(), std::span{call.bytes},
                                  [this, &call](tarn::Result<std::size_t> n) { end_read(call, n); });
    });
  }
  void end_read(Call& call, const tarn::Result<std::size_t>& n) {
    if (!n) {
      check_error(call, n.error());
    } else {
      call.bytes.resize(*n);
      // Where no chunk is to be had, a read goes past the pool, and splits its window.
      const bool splits = times_without_room() != call.without_room;
      if (!splits && call.range.size_bytes() <= pool_.window_bytes()) {
        check_bytes(call.file, call.range, call.bytes);
      } else {
        must(call.file.bytes.admits(call.range.offset(), static_cast<std::size_t>(call.range.size_bytes()),
                                    splits ? 1 : pool_.window_bytes(), call.bytes, call.since),
             "a long read answers bytes that the file had meanwhile");
      }
    }
    end(call);
  }
  void start_view(File& file) {
    const auto range = any_read();
    auto& call = begin(Kind::view, file, range, {});
    start(call, [&] {
      return tarn::view_operation(
          *file.it, range.offset(), range.size_bytes(),
          [this, &call](tarn::ConstBuffers bytes) {
            ++call.taken;
            call.bytes.resize(bytes.size_bytes());
            bytes.copy_to(call.bytes);
            check_bytes(call.file, call.range, call.bytes);
            return bytes.size_bytes();
          },
          [this, &call](const tarn::Result<std::size_t>& n) {
            must(call.taken == (n ? 1 : 0), "a view is shown once, or fails");
            const bool too_long = call.range.size_bytes() > pool_.window_bytes();
            if (!n && too_long) must(n.error() == std::errc::message_size, "a view larger than a window is EMSGSIZE");
            if (!n && !too_long) check_error(call, n.error());
            end(call);
          });
    });
  }
  void start_write(File& file) {
    const auto range = any_change();
    auto& call = begin(Kind::write, file, range, random_.bytes(range.size_bytes()));
    const auto ends = input_.byte() % 8;
    call.stop = ends < 2 ? static_cast<std::size_t>(input_.below(call.bytes.size() + 1)) : call.bytes.size();
    call.breaks = ends == 0 && call.stop != call.bytes.size();
    NotedFill fill{call.bytes, call.stop, call.breaks, [this, &call](std::size_t done, std::size_t size) {
                     call.taken = done + size;
                     written(call.file, call.range.offset() + done, std::span{call.bytes}.subspan(done, size));
                   }};
    start(call, [&] {
      return noted_write_operation(*file.it, range.offset(), call.bytes.size(), 0, std::move(fill),
                                   [this, &call](const tarn::Result<tarn::Written>& n) { end_write(call, n); });
    });
  }
  void end_write(Call& call, const tarn::Result<tarn::Written>& result) {
    if (result) {
      must(result->size_bytes == call.taken, "a write says how much is in");
      must(call.taken != 0 || call.stop == 0, "a write takes in some, or says why not");
      must(call.taken == 0 || result->offset == call.range.offset(), "a write is where it was asked for");
    } else {
      must(call.taken == 0, "a write that took in some says so");
      const bool broke = call.breaks && result.error() == std::errc::broken_pipe;
      if (!broke) check_error(call, result.error());
    }
    end(call);
  }
  void start_flush(File& file) {
    auto& call = begin(Kind::flush, file, {}, {});
    start(call, [&] {
      return tarn::flush_operation(*file.it, [this, &call](const tarn::Result<std::uint64_t>& n) {
        check_flushed(call, n.error());
        end(call);
      });
    });
  }
  void start_sync(File& file) {
    auto& call = begin(Kind::sync, file, {}, {});
    start(call, [&] {
      return tarn::sync_operation(*file.it, [this, &call](const tarn::Result<>& done) {
        check_flushed(call, done.error());
        end(call);
      });
    });
  }
  void check_flushed(const Call& call, std::error_code error) {
    auto& file = call.file;
    if (error == std::errc::operation_canceled) return must(call.cancelled, "nobody cancelled a flush");
    if (error) return must(file.failures != call.failures || file.deleted, "a flush or sync fails with the store");
    hear();
    if (!call.settles || file.changes != call.changes || file.deleted) return;
    must(!file.it->is_dirty(), "what was flushed is not dirty");
    must(disk_of(file).bytes == file.bytes.now, "the store has what was flushed");
    if (call.kind == Kind::sync) check_durable(file, disk_of(file).durable());
  }
  void cancel_some(File&) {
    std::vector<Call*> open;
    for (const auto& call : calls_) {
      if (!call->over && call->operation != nullptr) open.push_back(call.get());
    }
    if (!open.empty()) cancel(*open[input_.below(open.size())]);
  }
  void cancel(Call& call) {
    call.cancelled = true;
    call.operation->cancel();
    must(call.over || inside_, "a cancelled operation is over");
  }

  // ---- calls that do not wait

  void try_read(File& file) {
    const auto range = any_read();
    ModelBytes into(static_cast<std::size_t>(range.size_bytes()), unread);
    const auto loads = pool_.stats().loads;
    const tarn::detail::Resumer hold;
    auto outcome = file.it->try_read(range.offset(), into);
    must(loads == pool_.stats().loads, "a try loads nothing");
    must(outcome.done() || outcome.needs_load(), "a try is busy with nobody there");
    if (!outcome.done()) return;
    into.resize(*outcome);
    check_bytes(file, range, into);
  }
  void try_write(File& file) {
    const auto range = any_change();
    const auto from = random_.bytes(range.size_bytes());
    const auto reserves = refused_reserves_;
    const tarn::detail::Resumer hold;
    begin_change(file);
    const auto n = file.it->try_write(range.offset(), from);
    if (!n) return check_refusal(file, n.error(), reserves);
    must(*n <= from.size() && (*n != 0 || from.empty()), "a try takes in some, or says why not");
    written(file, range.offset(), std::span{from}.first(*n));
  }
  void append(File& file) {
    const auto at = std::uint64_t{file.bytes.now.size()};
    const auto from = random_.bytes(input_.below(std::max(this->most_bytes_, at) - at + 1));
    const auto reserves = refused_reserves_;
    const tarn::detail::Resumer hold;
    begin_change(file);
    const auto n = file.it->append(from, {}, not_waiting);
    if (!n) return check_refusal(file, n.error(), reserves);
    must(n->size_bytes == 0 || n->offset == at, "an append is at the end");
    written(file, at, std::span{from}.first(n->size_bytes));
  }
  void truncate(File& file) {
    const auto size = input_.below(this->most_bytes_ + 1);
    const tarn::detail::Resumer hold;
    begin_change(file);
    const auto done = file.it->truncate(size, {}, not_waiting);
    if (!done) return check_refusal(file, done.error(), refused_reserves_);
    this->truncated(file, size);
  }
  void zero(File& file) {
    const auto range = any_change();
    const auto kind = input_.below(3);
    const tarn::detail::Resumer hold;
    begin_change(file);
    const auto done = kind == 0 ? file.it->punch_hole(range, {}, not_waiting)
                                : file.it->zero_range(range, kind == 1, {}, not_waiting);
    if (!done) return check_refusal(file, done.error(), refused_reserves_);
    this->zeroed(file, range, kind != 2);
  }
  // The store has another version of it now: what is clean is another byte.
  void invalidate(File& file) {
    if (file.deleted) return;
    auto& disk = disk_of(file);
    const bool busy = flush_in_flight(file);
    const tarn::detail::Resumer hold;
    begin_change(file);
    const auto done = file.it->invalidate(disk.version + 1, given_up);
    must(!done || !busy, "an invalidate waits for a flush");
    if (!done) return must(busy || done.error() == std::errc::no_buffer_space, "an invalidate is refused");
    ++disk.version;
    const auto meta = file.it->metadata();
    const auto dirty = pool_.dirty_extents(meta);
    must(pool_.held_extents(meta) == dirty, "what was invalidated is not held");
    auto clean = meta.stored();
    clean.subtract(dirty);
    for (const auto& extent : clean.extents()) {
      const auto made = random_.bytes(extent.size_bytes());
      const auto first = static_cast<std::ptrdiff_t>(extent.offset());
      std::ranges::copy(made, disk.bytes.begin() + first);
      std::ranges::copy(made, file.bytes.now.begin() + first);
    }
    become_durable(file);
  }
  void discard(File& file) {
    if (file.deleted) return;
    auto& disk = disk_of(file);
    const bool busy = flush_in_flight(file);
    const auto dirty_bytes = pool_.dirty_bytes(file.it->metadata());
    const tarn::detail::Resumer hold;
    const auto gone = file.it->discard_dirty(disk.bytes.size(), disk.version, given_up);
    must(gone.has_value() != busy, "a discard waits for a flush, and for nothing else");
    if (!gone) return;
    must(*gone == dirty_bytes, "a discard gives up what is dirty");
    file.bytes.now = disk.bytes;
    become_durable(file);
  }
  // ---- other files

  void remove(File& file) {
    if (flush_in_flight(file)) return;
    {
      const tarn::detail::Resumer hold;
      removing_ = &file;
      const bool was_deleted = std::exchange(file.deleted, true);
      const auto done = file.it->remove();
      if (was_deleted) return must(done.error() == std::errc::no_such_file_or_directory, "removed twice");
      if (!done) {
        file.deleted = false;
        return must(done.error() == Base::remove_error && !file.open, "a remove fails with the store");
      }
      if (file.open) return;
      file.bytes.now.clear();
      changed(file, tarn::whole_file);
    }
    reuse(file);
  }
  void open_or_close(File& file) {
    if (!file.open) return void(file.open.emplace(file.it->open()));
    if (file.deleted) return reuse(file);
    file.open.reset();
  }
  // Another file of the id, when the first has gone; not with what it asked the store.
  void reuse(File& file) {
    const bool was_inside = std::exchange(inside_, true);
    // The last to close a deleted file waits for its flush.
    while (file.deleted && file.open && flush_in_flight(file)) this->answer_flush_of(file);
    for (const auto& call : calls_) {
      if (&call->file == &file && !call->over) cancel(*call);
    }
    {
      const tarn::detail::Resumer hold;
      removing_ = &file;
      file.open.reset();
      file.it.reset();
      ++file.life;
    }
    make(file);
    inside_ = was_inside;
  }
  void make(File& file) {
    // A constructor waits for room, and cannot be told not to.
    const bool was_calm = calm_;
    if (!pool_.core().budget.would_fit(2 * tarn::detail::PoolCore<FuzzTraits>::record_and_table_bytes)) drain();
    const auto kind = calm_ ? 0 : input_.below(3);
    calm_ = true;
    auto& disk = disk_of(file);
    if (kind == 0) disk.become({}, 0);
    if (kind == 2) disk.become(random_.bytes(input_.below(this->most_bytes_ + 1)), disk.version + 1);
    disk.become_durable();
    const auto meta = kind == 0 ? Meta::created(file.id, {.part_bytes = this->part_bytes_})
                                : Meta::from_store(file.id, disk.bytes.size(),
                                                   {.part_bytes = this->part_bytes_, .version = disk.version});
    file.bytes.now = disk.bytes;
    file.deleted = false;
    file.unsure = {};
    ++file.changes;
    try {
      file.it = std::make_unique<DirtyFile>(pool_, meta, this->store_);
    } catch (const std::system_error& refused) {
      must(refused.code() == std::errc::no_buffer_space, "a file is refused");
      make_room();
      file.it = std::make_unique<DirtyFile>(pool_, meta, this->store_);
    }
    calm_ = was_calm;
  }
  // Gives up all that can be given up. Requires: the store does as it is told.
  void make_room() {
    drain();
    pinned_.reset();
    pool_.drop(this->hog_);
    for (auto& file : files_) {
      if (file.it == nullptr) continue;
      if (file.deleted) {
        if (const tarn::detail::Resumer hold; file.it->truncate(0)) this->truncated(file, 0);
      } else {
        discard(file);
      }
    }
  }

  // ---- what is looked at

  void hear() {
    told_.failures.clear();
    for (auto& unsure : std::exchange(told_.unsure, {})) this->of(unsure.file).unsure.add(unsure.extents);
  }
  void check(const File& file) {
    std::erase_if(calls_, [](const auto& call) { return call->over; });
    hear();
    this->check_file(file, &disk_of(file).bytes);
    this->check_budget();
  }
  // All is answered, and well. Then nothing may wait any more: whoever does was forgotten.
  void drain() {
    const bool was_calm = std::exchange(calm_, true);
    while (asked_count() != 0) answer_some(files_[0]);
    calm_ = was_calm;
    must(std::ranges::all_of(calls_, [](const auto& call) { return call->over; }), "an operation waits for nothing");
  }
  void end() {
    drain();
    for (auto& file : files_) check(file);
    calm_ = true;
    pinned_.reset();
    for (auto& file : files_) {
      if (file.deleted) continue;
      must(file.it->flush().has_value(), "a good store takes a flush");
      must(disk_of(file).bytes == file.bytes.now, "the store has what was flushed");
      must(file.it->sync().has_value(), "a good store syncs");
      check_durable(file, disk_of(file).durable());
    }
    for (auto& file : files_) {
      check(file);
      removing_ = &file;
      file.open.reset();
    }
    this->check_all_gone();
  }
  // Of an operation.
  void check_error(const Call& call, std::error_code error) const {
    if (error == std::errc::operation_canceled) return must(call.cancelled, "nobody cancelled an operation");
    if (call.kind <= Kind::view && call.file.failed_loads != call.failed_loads) {
      if (error == Base::load_error || error == std::errc::io_error) return;
    }
    check_refusal(call.file, error, call.refused_reserves);
  }
  void check_refusal(const File& file, std::error_code error, std::uint64_t reserves) const {
    if (error == Base::quota_error && refused_reserves_ != reserves) return;
    if (file.deleted && !file.open && error == std::errc::no_such_file_or_directory) return;
    if (error == std::errc::timed_out) return must(units.flush == tarn::FlushUnit::file, "a call waits for a write");
    if (inside_ && error == std::errc::resource_deadlock_would_occur) return;
    must(error == std::errc::no_buffer_space || error == std::errc::resource_unavailable_try_again, "a call fails");
  }

  // ---- small things

  static constexpr std::byte unread{0xA5};
  // One thread answers what the call would wait for: a deadline of long ago.
  inline static const tarn::CallOptions given_up{.deadline_ns = 1},
      not_waiting{.when_full = tarn::WhenFull::fail, .deadline_ns = 1};

  [[nodiscard]] ByteRange any_read() { return this->any_range(this->most_bytes_ + 2 * this->chunk_bytes_); }
  [[nodiscard]] ByteRange any_change() { return this->any_range(this->most_bytes_); }
  [[nodiscard]] std::uint64_t times_without_room() const {
    const auto stats = pool_.stats();
    return stats.refusals + stats.room_waits;
  }

  std::vector<std::unique_ptr<Call>> calls_;
  bool inside_ = false;
};

}  // namespace

void run_later_ranges(FuzzInput input) { LaterWorld<ModelUnits{}>{input}.run(); }
void run_later_parts(FuzzInput input) {
  LaterWorld<ModelUnits{.load = tarn::LoadUnit::parts, .flush = tarn::FlushUnit::parts}>{input}.run();
}
void run_later_files(FuzzInput input) {
  LaterWorld<ModelUnits{.load = tarn::LoadUnit::parts, .flush = tarn::FlushUnit::file}>{input}.run();
}

}  // namespace tarn_test
