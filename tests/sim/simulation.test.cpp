// SPDX-License-Identifier: MIT
// Compile: alone
// CTest: TIMEOUT 600 COST 8
#include <tarn/dirty_file_async.hpp>
#include <tarn/flusher.hpp>
#include <tarn/testing/manual_time.hpp>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <initializer_list>
#include <iostream>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <stop_token>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "sim/byte_table.hpp"
#include "sim/history.hpp"
#include "sim/later_store.hpp"
#include "sim/operations.hpp"
#include "sim/shrink.hpp"
#include "support/catch.hpp"
#include "support/model_random.hpp"
#include "support/model_run.hpp"
#include "support/model_table.hpp"
#include "support/model_trace.hpp"

// Random operations in flight beside calls that do not wait, against a flat array for each file and a store that answers
// by tokens: in any order, well or not, inline, late or never. One thread, so a run replays from its seed:
//
//   TARN_MODEL_SEED=1 TARN_MODEL_STEPS=1000000 sim.simulation.test
//
// The model changes at the moment at which the library does: a call of it is made with a Resumer around it, so that
// what it wakes goes on only when the model has the change, too; a write that is an operation says when each window is
// taken in. So a view and a read of one window show exactly what the model has then, and a longer read, or one that found
// no chunk to load to, a sequence of windows or pieces, each of one moment between its start and its end.

namespace {

using tarn::ByteRange;
using tarn::ExtentSet;
using tarn::KiB;
using tarn::MiB;
using tarn_test::ByteColumn;
using tarn_test::ModelBytes;
using tarn_test::ModelChange;
using tarn_test::ModelDisk;
using tarn_test::ModelEvent;
using tarn_test::ModelHistory;
using tarn_test::ModelOperation;
using tarn_test::ModelRandom;
using tarn_test::ModelTold;
using tarn_test::ModelTrace;
using tarn_test::ModelUnits;
using tarn_test::NotedFill;

struct ModelTraits : tarn::DefaultTraits {
  using Observer = tarn_test::ModelObserver;
  using TimeSource = tarn_test::ManualTime;
};
struct HeapTraits : ModelTraits {
  using Storage = tarn::HeapStorage;
};
struct ArenaTraits : ModelTraits {
  using Storage = tarn::ArenaStorage;
};

// How often the runs came where bytes, errors and wake-ups get lost.
enum class Came : std::uint8_t {
  load_after_write,
  load_after_truncate,
  load_after_punch,
  load_after_invalidate,
  load_after_discard,
  load_failed,
  load_stale,
  load_for_nobody,
  load_shared,
  load_ahead,
  load_ahead_waited_for,
  load_ahead_failed_with_a_reader,
  loads_out_of_order,
  load_of_more_than_wanted,
  read_of_many_moments,
  flush_ok_after_write,
  flush_ok_after_cut,
  flush_failed,
  flush_failed_after_write,
  flush_unknown,
  flush_conflict,
  flush_dropped,
  flush_acted_late,
  flushes_beside,
  flush_of_more_than_dirty,
  flush_of_one_moment,
  flush_in_background,
  sync_ok,
  sync_failed,
  sync_failed_after_change,
  sync_dirty_again,
  sync_unsure,
  sync_loss_shared,
  sync_waited_for_another,
  room_wait_ended,
  room_wait_refused,
  room_wait_cancelled,
  write_in_parts,
  filler_broke_off,
  refused,
  given_up,
  cancelled,
  begun_in_a_completion,
  from_inside_the_store,
  budget_below_charge,
  error_told,
  error_told_to_a_late_opener,
  deleted_while_open,
  removed_at_last_close,
  id_reused_with_load,
  id_reused_with_flush,
  id_reused_with_sync,
  id_taken_over_with_load,
  compared_whole,
  compared_durable,
  drained,
  count,
};
constexpr std::array<const char*, static_cast<std::size_t>(Came::count)> came_names{
    "a load that landed after a write",
    "a load that landed after a truncate",
    "a load that landed after a punch",
    "a load that landed after an invalidate",
    "a load that landed after a discard",
    "a load that failed",
    "a load answered ESTALE",
    "a load that landed when its reader was cancelled",
    "a load shared",
    "a load ahead",
    "a load ahead that a reader waited for",
    "a load ahead that failed with a reader waiting",
    "a load that overtook another",
    "a load of a part, of which not all was wanted",
    "a read of several moments",
    "a flush that ended well after a write in it",
    "a flush that ended well after a cut in it",
    "a flush that failed",
    "a flush that failed after a write in it",
    "a flush of unknown fate",
    "a conflict",
    "a flush whose token was dropped",
    "a flush of unknown fate that acted late",
    "a flush beside another of its file",
    "a flush of a part, of which the store has the rest",
    "a flush of a whole file, of one moment",
    "a flush in the background",
    "a sync that ended well",
    "a sync that failed",
    "a sync that failed after a change",
    "a sync that failed and made bytes dirty again",
    "a sync that failed and named bytes that are not held",
    "such a failure told to a sync of another",
    "a sync that waited for another",
    "a wait for room that ended well",
    "a wait for room that was refused",
    "a wait for room that was cancelled",
    "a write taken in in parts",
    "a filler that broke off",
    "a refusal",
    "a call given up",
    "an operation cancelled",
    "an operation begun in a completion",
    "a call from inside the store",
    "a budget lowered below the charge",
    "an error told",
    "an error told to a late opener",
    "a delete of an open file",
    "a remove at the last close",
    "an id reused with a load in flight",
    "an id reused with a flush in flight",
    "an id reused with a sync in flight",
    "an id taken over with a load in flight",
    "an image compared whole",
    "a durable image compared",
    "everything drained",
};
std::array<std::uint64_t, came_names.size()> reach{};
void came(Came where) { ++reach[static_cast<std::size_t>(where)]; }
tarn_test::ByteTable byte_table;

struct Config {
  const char* name;
  std::uint64_t chunk_bytes, part_chunks, window_chunks;
  bool tight;               // a budget of a few chunks, that rises and falls
  bool marked;              // marks that say how much may be dirty
  bool keeps_sizes;         // the store relies on store_size_bound_bytes, and a failed sync forgets no size
  std::uint64_t share;      // of the steps, in thousandths
  std::size_t at_once = 1;  // flushes of a file that the store takes at a time
};

template <class Traits, ModelUnits units>
class World {
 public:
  using Pool = tarn::ChunkPool<Traits>;
  using Meta = tarn::MetadataFor<Traits>;
  using Store = tarn_test::ModelLaterStore<Traits, units>;
  using DirtyFile = tarn::DirtyFile<Traits, Store>;
  using LoadToken = tarn::LoadToken<Traits>;
  using FlushToken = tarn::FlushToken<Traits>;
  using SyncToken = tarn::SyncToken<Traits>;

  World(const Config& config, std::uint64_t seed, ModelRandom random, ModelTrace& trace)
      : config_{config},
        trace_{trace},
        random_{std::move(random)},
        part_bytes_{config.chunk_bytes * config.part_chunks},
        most_bytes_{tarn_test::model_file_bytes(config.chunk_bytes)},
        disks_{ModelDisk{config.keeps_sizes}, ModelDisk{config.keeps_sizes}, ModelDisk{config.keeps_sizes}},
        options_{options(config, seed)},
        pool_{options_, tarn_test::ModelObserver{&told_}},
        ceiling_bytes_{options_.budget_bytes} {
    given_up_.request_stop();
    for (std::size_t i = 0; i < files_.size(); ++i) make(first_id + i);
  }

  /// Returns: what went wrong; empty if nothing did.
  [[nodiscard]] const std::string& run(std::uint64_t steps) {
    for (std::uint64_t step = 0; step < steps && wrong_.empty(); ++step) {
      trace_.begin_step(step);
      random_.begin_step();
      one_step(*files_[random_.below(files_.size())]);
      after_step();
    }
    if (wrong_.empty()) end();
    return wrong_;
  }

 private:
  static constexpr std::uint64_t first_id = 10;
  static constexpr std::int64_t second_ns = 1'000'000'000;

  struct Opener {
    tarn::OpenFile<Traits, Store> open;
    std::uint64_t told;  // of the file's background errors
  };
  struct File : std::enable_shared_from_this<File> {
    std::uint64_t id = 0;
    Store store;
    std::unique_ptr<DirtyFile> it;
    ModelHistory bytes;
    std::int64_t mtime_ns = 0;
    std::uint64_t changes = 0;
    std::vector<Opener> openers;
    bool deleted = false, removed = false;  // the name is gone; the bytes too
    bool replaced = false;                  // another file has the id
    ExtentSet unsure;                       // of these a failed sync said that only the store knows
    std::uint64_t failed_loads = 0, refused_reserves = 0;
    std::uint64_t failures = 0, delivered = 0, noted = 0;  // of flushes and syncs: each is told to one, or noted
    std::uint64_t perhaps_delivered = 0;  // since last settled: syncs that were told of one, or of none
    std::uint64_t lost_syncs = 0;         // those that named bytes: told to each sync called before
    bool noted_was_seen = false;
    std::error_code last_noted;
    std::uint64_t told_before = 0;                       // of the failures, when last no flush was in flight
    std::map<std::uint64_t, std::uint64_t> generations;  // of the last flush in each part
  };
  using LoadAsked = tarn_test::ModelLoadAsked<Traits, File>;
  using FlushAsked = tarn_test::ModelFlushAsked<Traits, File>;
  using SyncAsked = tarn_test::ModelSyncAsked<Traits, File>;

  enum class Kind : std::uint8_t { read, view, write, flush, sync };
  // A call under way: an operation, or one that this thread makes and may give up.
  struct Call {
    Kind kind;
    std::shared_ptr<File> file;
    ByteRange range;
    ModelBytes bytes;                  // to read into, or to write from
    std::optional<std::size_t> since;  // where the states begin that a long read may show
    std::uint64_t without_room_before = 0;
    std::size_t taken = 0, stop = 0;  // of a write: what is in; where its filler ends
    bool breaks = false;              // and whether that is an error
    bool over = false, waits_for_room = false, cancelled = false;
    int shown = 0;
    std::string seen_wrong;
    std::uint64_t changes, failed_loads, refused_reserves, failures, lost_syncs;
    ExtentSet untouched;  // of a flush and a sync: what it answers for
    std::unique_ptr<ModelOperation> operation;
  };

  [[nodiscard]] static tarn::PoolOptions options(const Config& config, std::uint64_t seed) {
    tarn::PoolOptions made{.chunk_bytes = config.chunk_bytes,
                           .window_bytes = config.window_chunks * config.chunk_bytes};
    const auto least = Pool::min_budget_bytes(made);
    made.budget_bytes = config.tight ? least + ModelRandom{seed}.below(least / 4) : 64 * MiB;
    if (config.marked) {
      made.dirty_throttle_bytes = 4 * config.chunk_bytes;
      made.dirty_limit_bytes = 7 * config.chunk_bytes;
      made.file_dirty_limit_bytes = 4 * config.chunk_bytes;
      made.dirty_background_bytes = 3 * config.chunk_bytes;
    }
    return made;
  }
  // Side by side they make none: nobody could say which is the last.
  [[nodiscard]] std::uint64_t versions_a_flush() const { return config_.at_once == 1 ? 1 : 0; }
  [[nodiscard]] bool may_refuse() const { return config_.tight || config_.marked; }
  void require(bool good, const std::string& what) {
    if (!good && wrong_.empty()) wrong_ = what;
  }

  // ---- the steps

  // What may come next, and how often.
  struct Act {
    std::uint64_t weight;
    void (World::*act)(File&);
  };
  void one_of(std::initializer_list<Act> acts, File& file) { (this->*random_.weighted(acts).act)(file); }
  void one_step(File& file) {
    nested_ = false;
    aim(file);
    if (calls_.size() >= 10 || loads_.size() + flushes_.size() + syncs_.size() >= 9) {
      if (!random_.one_in(4)) return answer_some(file);
    }
    if (file.removed && random_.one_in(3)) return reuse(file);
    one_of({{22, &World::start_read},    {10, &World::start_view},
            {20, &World::start_write},   {6, &World::start_small_write},
            {7, &World::start_flush},    {6, &World::start_sync},
            {4, &World::cancel_some},    {34, &World::answer_some},
            {3, &World::store_early},    {2, &World::act_late},
            {6, &World::try_read},       {8, &World::try_write},
            {2, &World::append},         {6, &World::truncate},
            {6, &World::zero},           {2, &World::read_given_up},
            {1, &World::view_given_up},  {2, &World::write_given_up},
            {2, &World::flush_given_up}, {1, &World::sync_given_up},
            {4, &World::evict},          {2, &World::open},
            {2, &World::close},          {3, &World::take_error},
            {1, &World::opener_flush},   {1, &World::opener_sync},
            {1, &World::remove},         {3, &World::invalidate},
            {2, &World::discard},        {2, &World::reuse},
            {3, &World::take_over},      {2, &World::use_replaced},
            {5, &World::set_budget},     {1, &World::settle},
            {8, &World::load_ahead},     {2, &World::flush_in_background}},
           file);
  }
  // From inside the store, or from a completion: what another thread, or the same one, may do there. Nothing that waits
  // for a flush, which may be the one it is in.
  void nested(File& file, Came where, std::uint64_t rarity) {
    if (calm_ || depth_ != 0 || !random_.one_in(rarity)) return;
    came(where);
    nested_ = true;
    ++depth_;
    one_of({{3, &World::try_write},
            {2, &World::truncate},
            {2, &World::zero},
            {2, &World::try_read},
            {1, &World::evict},
            {2, &World::answer_some},
            {2, &World::start_read},
            {1, &World::load_ahead},
            {1, &World::start_view},
            {2, &World::start_write},
            {1, &World::start_flush},
            {1, &World::cancel_some}},
           file);
    --depth_;
  }

  void after_step() {
    if (!wrong_.empty()) return;
    std::erase_if(calls_, [](const auto& call) { return call->over; });
    hear();
    for (auto& file : files_) settle_failures(*file);
    check_budget();
    if (config_.chunk_bytes <= 16 || random_.one_in(8)) check_table(*files_[random_.below(files_.size())]);
  }

  // Each failure is told; of flushes side by side that one call asked for, one of them.
  void settle_failures(File& file) {
    if (config_.at_once != 1) {
      if (flush_in_flight(file)) return;
      const auto told = file.delivered + file.noted + file.perhaps_delivered;
      require(told > file.told_before || file.failures <= told, "the errors of flushes were told to nobody");
      file.delivered = file.failures - file.noted;
      file.perhaps_delivered = 0;
      file.told_before = file.failures;
    }
    const auto untold = file.failures - file.delivered - file.noted;
    require(untold <= file.perhaps_delivered, "the error of a flush or a sync was told to nobody, or to two");
    file.delivered += untold;
    file.perhaps_delivered = 0;
  }

  // ---- operations

  Call& begin(Kind kind, File& file, ByteRange range, ModelBytes bytes) {
    calls_.push_back(std::make_unique<Call>(Call{.kind = kind,
                                                 .file = file.shared_from_this(),
                                                 .range = range,
                                                 .bytes = std::move(bytes),
                                                 .since = {},
                                                 .seen_wrong = {},
                                                 .changes = file.changes,
                                                 .failed_loads = file.failed_loads,
                                                 .refused_reserves = file.refused_reserves,
                                                 .failures = file.failures,
                                                 .lost_syncs = file.lost_syncs,
                                                 .untouched = {},
                                                 .operation = {}}));
    auto& call = *calls_.back();
    // A load under way may have failed already, in another of its requests, and its error is shared.
    const bool loading =
        depth_ != 0 || std::ranges::any_of(loads_, [&](auto& load) { return load.file == call.file && !load.ahead; });
    if (loading) --call.failed_loads;
    if (kind == Kind::read) call.since = file.bytes.watch();
    call.without_room_before = times_without_room();
    if ((kind == Kind::flush || kind == Kind::sync) && !file.deleted) {
      call.untouched.add(ByteRange::between(0, file.bytes.now.size()));
      for (const auto& other : calls_) {
        if (other->kind == Kind::write && other->file == call.file && !other->over) touched(file, other->range);
      }
    }
    if (kind == Kind::write) touched(file, range);
    return call;
  }
  template <class Make>
  void start(Call& call, Make make) {
    const auto asked = asked_count_;
    call.operation = ModelOperation::of(std::move(make));
    call.operation->start();
    if (call.over || depth_ != 0 || asked != asked_count_) return;
    call.waits_for_room = call.kind == Kind::write || (call.kind <= Kind::view && !load_in_flight(call));
  }
  [[nodiscard]] bool load_in_flight(const Call& call) const {
    return std::ranges::any_of(loads_, [&](const LoadAsked& load) {
      return load.file == call.file && !load.token.request().range.intersect(call.range).empty();
    });
  }
  // What a completion does at its end. The call stays until the step is over, its operation not always.
  void end(Call& call, const char* what, std::int64_t result) {
    trace_.note(what, call.file->id, call.range.offset(), call.range.end(), depth_) = result;
    require(!call.over, "an operation completed twice");
    call.over = true;
    if (call.since) call.file->bytes.unwatch();
    if (call.kind == Kind::write) touched(*call.file, call.range);
    if (call.waits_for_room && result >= 0) came(Came::room_wait_ended);
    if (call.waits_for_room && result == -ENOBUFS) came(Came::room_wait_refused);
    if (call.waits_for_room && result == -ECANCELED) came(Came::room_wait_cancelled);
    if (random_.one_in(2)) call.operation.reset();
    nested(*call.file, Came::begun_in_a_completion, 6);
  }

  void start_read(File& file) {
    const auto range = pick(most_bytes_ + 2 * config_.chunk_bytes);
    note("start read", file, range);
    auto& call = begin(Kind::read, file, range, ModelBytes(static_cast<std::size_t>(range.size_bytes()), filler_byte));
    start(call, [&] {
      return tarn::read_operation(*file.it, range.offset(), std::span{call.bytes},
                                  [this, &call](tarn::Result<std::size_t> n) { end_read(call, n); });
    });
  }
  void end_read(Call& call, const tarn::Result<std::size_t>& n) {
    if (n) {
      check_read(call, *n);
    } else {
      check_error(call, n.error());
    }
    end(call, "read ended", code_of(n));
  }
  void start_view(File& file) {
    const auto range = pick(most_bytes_ + 2 * config_.chunk_bytes);
    note("start view", file, range);
    auto& call = begin(Kind::view, file, range, {});
    start(call, [&] {
      return tarn::view_operation(
          *file.it, range.offset(), range.size_bytes(),
          [this, &call](tarn::ConstBuffers bytes) { return show(call, bytes); },
          [this, &call](tarn::Result<std::size_t> n) { end_view(call, n); });
    });
  }
  std::size_t show(Call& call, tarn::ConstBuffers bytes) {
    ++call.shown;
    call.bytes.resize(bytes.size_bytes());
    bytes.copy_to(call.bytes);
    check_now("a view", *call.file, call.range, call.bytes);
    return bytes.size_bytes();
  }
  void end_view(Call& call, const tarn::Result<std::size_t>& n) {
    require(call.shown == (n ? 1 : 0), "a view was not shown exactly once");
    if (!n && call.range.size_bytes() > pool_.window_bytes()) {
      require(n.error() == std::errc::message_size, "a view larger than a window");
    } else if (!n) {
      check_error(call, n.error());
    }
    end(call, "view ended", code_of(n));
  }

  // By a filler that says when it is taken in, and sometimes ends early.
  [[nodiscard]] NotedFill noted_fill(Call& call, std::int64_t mtime_ns) {
    call.stop = random_.one_in(6) ? random_.below(call.bytes.size() + 1) : call.bytes.size();
    call.breaks = call.stop != call.bytes.size() && random_.one_in(2);
    return {call.bytes, call.stop, call.breaks, [this, &call, mtime_ns](std::size_t done, std::size_t size) {
              check_marks(*call.file,
                          ByteRange::between(call.range.offset() + done, call.range.offset() + done + size));
              call.taken = done + size;
              written(*call.file, call.range.offset() + done, std::span{call.bytes}.subspan(done, size), mtime_ns);
            }};
  }
  void start_write(File& file) {
    const auto range = pick(most_bytes_);
    note("start write", file, range);
    auto& call = begin(Kind::write, file, range, random_.bytes(range.size_bytes()));
    const auto mtime_ns = ++clock_ns_;
    start(call, [&] {
      return tarn_test::noted_write_operation(
          *file.it, range.offset(), call.bytes.size(), mtime_ns, noted_fill(call, mtime_ns),
          [this, &call](const tarn::Result<tarn::Written>& written) { end_write(call, written); });
    });
  }
  // As users write it; of one chunk at most, since then it is one window, and the completion is the moment.
  void start_small_write(File& file) {
    auto range = pick(most_bytes_);
    range = ByteRange::between(range.offset(), std::min(range.end(), range.offset() + config_.chunk_bytes));
    note("start small write", file, range);
    auto& call = begin(Kind::write, file, range, random_.bytes(range.size_bytes()));
    call.stop = call.bytes.size();
    const auto mtime_ns = ++clock_ns_;
    start(call, [&] {
      return tarn::write_operation(
          *file.it, range.offset(), std::span<const std::byte>{call.bytes},
          [this, &call, mtime_ns](const tarn::Result<tarn::Written>& result) {
            if (result && result->size_bytes != 0) {
              call.taken = result->size_bytes;
              written(*call.file, call.range.offset(), std::span{call.bytes}.first(result->size_bytes), mtime_ns);
            }
            end_write(call, result);
          },
          mtime_ns);
    });
  }
  void end_write(Call& call, const tarn::Result<tarn::Written>& result) {
    check_write(call, result ? tarn::Result<std::size_t>{result->size_bytes} : tarn::fail(result.error()));
    if (result && result->size_bytes != 0) require(result->offset == call.range.offset(), "a write went elsewhere");
    end(call, "write ended", result ? static_cast<std::int64_t>(result->size_bytes) : -result.error().value());
  }
  void check_write(Call& call, const tarn::Result<std::size_t>& n) {
    if (call.breaks) came(Came::filler_broke_off);
    if (!n) {
      require(call.taken == 0, "a write that took bytes in failed");
      return check_error(call, n.error());
    }
    require(*n == call.taken, "a write took in another number of bytes than it says");
    if (call.taken < call.stop) {
      came(Came::write_in_parts);
      const bool may = call.breaks || call.cancelled || may_refuse() || call.file->replaced || call.file->deleted;
      require(may, "a write is short");
    }
  }

  void start_flush(File& file) {
    note("start flush", file, {});
    auto& call = begin(Kind::flush, file, {}, {});
    start(call, [&] {
      return tarn::flush_operation(*file.it, [this, &call](const tarn::Result<std::uint64_t>& settled) {
        check_flushed(call, settled.error());
        end(call, "flush ended", code_of(settled));
      });
    });
  }
  void start_sync(File& file) {
    note("start sync", file, {});
    if (sync_in_flight(file)) came(Came::sync_waited_for_another);
    auto& call = begin(Kind::sync, file, {}, {});
    start(call, [&] {
      return tarn::sync_operation(*file.it, [this, &call](const tarn::Result<>& synced) {
        check_flushed(call, synced.error());
        end(call, "sync ended", code_of(synced));
      });
    });
  }
  void check_flushed(Call& call, std::error_code error) {
    auto& file = *call.file;
    if (!error) {
      if (file.deleted || file.replaced) return;
      check_settled(call);
      if (call.kind == Kind::sync) check_durable(call);
    } else if (error == std::errc::operation_canceled || error == std::errc::timed_out) {
      require(call.cancelled, "a flush or sync was cancelled by nobody");
    } else if (file.replaced) {
      require(error.value() == ESTALE, "a flush of a file whose id another has");
    } else {
      require(file.failures > call.failures, "a flush or sync failed by itself: " + error.message());
      const bool shared = call.kind == Kind::sync && file.lost_syncs > call.lost_syncs;
      // The loss was told to its own caller, or noted if that one had gone; this call may have been that one.
      if (shared) came(Came::sync_loss_shared);
      ++(shared ? file.perhaps_delivered : file.delivered);
    }
  }

  void cancel_some(File&) {
    std::vector<Call*> open;
    for (auto& call : calls_) {
      if (!call->over && call->operation != nullptr) open.push_back(call.get());
    }
    if (open.empty()) return;
    cancel(*open[random_.below(open.size())]);
  }
  void cancel(Call& call) {
    note("cancel", *call.file, call.range);
    came(Came::cancelled);
    call.cancelled = true;
    if (call.kind <= Kind::view) {
      for (auto& load : loads_) {
        const bool its = load.file == call.file && !load.token.request().range.intersect(call.range).empty();
        load.cancelled = load.cancelled || its;
      }
    }
    call.operation->cancel();
    if (depth_ == 0) require(call.over, "a cancelled operation goes on waiting");
  }

  // ---- calls that do not wait

  void try_read(File& file) {
    const auto range = pick(most_bytes_ + 2 * config_.chunk_bytes);
    auto& result = note("try_read", file, range);
    ModelBytes into(static_cast<std::size_t>(range.size_bytes()), filler_byte);
    const auto loads = pool_.stats().loads;
    const tarn::detail::Resumer hold;
    const Cell cell{*this, file, ByteColumn::read, range};
    auto outcome = file.it->try_read(range.offset(), into);
    require(loads == pool_.stats().loads, "a try loaded");
    result = outcome.done() ? static_cast<std::int64_t>(*outcome) : -outcome.error().value();
    if (outcome.done()) {
      into.resize(*outcome);
      return check_now("a try", file, range, into);
    }
    require(outcome.needs_load(), "a try failed: " + outcome.error().message());
    const auto meta = file.it->metadata();
    for (const auto& extent : outcome.missing().extents()) {
      require(meta.stored().contains(extent) && range.intersect(extent) == extent, "a try misses what is not stored");
      if (!file.replaced) require(!pool_.held_extents(meta).intersects(extent), "a try misses what is held");
    }
  }
  // The clock goes on, and what is due by it, or by the mark, is flushed with nobody waiting for that.
  void flush_in_background(File& file) {
    auto& result = note("flush in the background", file, {});
    tarn_test::ManualTime::advance_ns(static_cast<std::int64_t>(random_.below(4)) * second_ns);
    const auto asked = asked_count_;
    const auto now_ns = tarn_test::ManualTime{}.now_ns();
    const Watch watch{*this};
    const tarn::detail::Resumer hold;
    const auto next_ns = rounds_.round();
    result = static_cast<std::int64_t>((next_ns - now_ns) / second_ns);
    require(next_ns > now_ns && next_ns <= now_ns + 30 * second_ns, "the next round is at no time to come");
    if (asked_count_ != asked) came(Came::flush_in_background);
  }
  void load_ahead(File& file) {
    const auto range = pick(most_bytes_ + 2 * config_.chunk_bytes);
    auto& result = note("load_ahead", file, range);
    const bool waited_for = pool_.core().room_queue.has_waiters();
    const auto asked_bytes = file.it->load_ahead(range);
    result = static_cast<std::int64_t>(asked_bytes);
    require(asked_bytes == 0 || !waited_for, "a load ahead took what somebody waits for");
  }
  // Whether nobody has asked for it yet. Its error is then nobody's. Of a whole part there may be another load, too.
  [[nodiscard]] static bool is_ahead(const File& file, ByteRange range) {
    auto& record = *file.it->body()->record;
    const tarn::detail::MutexLock table{record.table_mutex};
    bool ahead = false;
    for (const auto* load = record.loads; load != nullptr; load = load->next) {
      if (!load->loading.intersects(range)) continue;
      if (!load->ahead) return false;
      ahead = true;
    }
    return ahead;
  }
  void try_write(File& file) {
    const auto range = pick(most_bytes_);
    auto& result = note("try_write", file, range);
    const auto from = random_.bytes(range.size_bytes());
    const auto mtime_ns = ++clock_ns_;
    const auto reserves = file.refused_reserves;
    const tarn::detail::Resumer hold;
    touched(file, range);
    Cell cell{*this, file, ByteColumn::write, range};
    const auto n = file.it->try_write(range.offset(), from, mtime_ns);
    result = code_of(n);
    cell.came_to(ByteRange::between(range.offset(), range.offset() + (n ? *n : 0)));
    if (!n) return check_refusal(file, n.error(), reserves, std::errc::resource_unavailable_try_again);
    require(*n == from.size() || may_refuse(), "a try took in less than it was given");
    written(file, range.offset(), std::span{from}.first(*n), mtime_ns);
  }
  void append(File& file) {
    const auto at = std::uint64_t{file.bytes.now.size()};
    const auto size = at + 1 < most_bytes_ ? random_.below(most_bytes_ - at) : 0;
    auto& result = note("append", file, ByteRange::between(at, at + size));
    const auto from = random_.bytes(size);
    const auto mtime_ns = ++clock_ns_;
    const auto reserves = file.refused_reserves;
    const tarn::detail::Resumer hold;
    touched(file, ByteRange::between(at, at + size));
    const auto taken = file.it->append(from, mtime_ns, {.when_full = tarn::WhenFull::fail});
    if (!taken) {
      result = code_of(tarn::Result<>{tarn::fail(taken.error())});
      return check_refusal(file, taken.error(), reserves, std::errc::no_buffer_space);
    }
    require(taken->size_bytes == 0 || taken->offset == at, "an append went elsewhere");
    require(taken->size_bytes == size || may_refuse(), "an append took in less than it was given");
    written(file, at, std::span{from}.first(taken->size_bytes), mtime_ns);
  }
  void truncate(File& file) {
    auto size = random_.below(3) == 0 ? random_.below(most_bytes_ + 1) : pick(most_bytes_).offset();
    if (random_.one_in(8)) size = 0;
    auto& result = note("truncate", file, ByteRange::between(size, size));
    const auto mtime_ns = ++clock_ns_;
    const tarn::detail::Resumer hold;
    Cell cell{*this, file, ByteColumn::zero, ByteRange::between(size, tarn::max_offset)};
    const auto truncated = file.it->truncate(size, mtime_ns, not_waiting());
    result = code_of(truncated);
    if (!truncated) cell.came_to(ByteRange{});
    if (!truncated) return check_given_up(file, truncated.error());
    const auto low = std::min<std::uint64_t>(size, file.bytes.now.size());
    file.bytes.now.resize(static_cast<std::size_t>(size));
    file.mtime_ns = mtime_ns;
    changed(file, ByteRange::between(low, tarn::max_offset), ModelEvent::truncate);
  }
  void zero(File& file) {
    const bool keep_size = random_.one_in(2);
    const auto range = pick(most_bytes_);
    auto& result = note(keep_size ? "punch" : "zero", file, range);
    const auto mtime_ns = ++clock_ns_;
    const tarn::detail::Resumer hold;
    Cell cell{*this, file, ByteColumn::zero, range};
    const auto done = keep_size && random_.one_in(2) ? file.it->punch_hole(range, mtime_ns, not_waiting())
                                                     : file.it->zero_range(range, keep_size, mtime_ns, not_waiting());
    result = code_of(done);
    if (!done) cell.came_to(ByteRange{});
    if (!done) return check_given_up(file, done.error());
    auto& bytes = file.bytes.now;
    const auto size = bytes.size();
    if (!keep_size && !range.empty() && range.end() > size) bytes.resize(static_cast<std::size_t>(range.end()));
    const auto inside = range.intersect(ByteRange::between(0, bytes.size()));
    if (!inside.empty()) std::fill(at(file, inside.offset()), at(file, inside.end()), std::byte{});
    file.mtime_ns = mtime_ns;
    changed(file, range, ModelEvent::punch);
  }
  // Gives up where it would have to wait: by a stop that was asked for before, or a deadline of long ago.
  [[nodiscard]] tarn::CallOptions giving_up() {
    if (random_.one_in(2)) return {.stop = given_up_.get_token()};
    return {.deadline_ns = 1};
  }
  [[nodiscard]] tarn::CallOptions not_waiting() {
    if (depth_ == 0 && random_.one_in(4)) return giving_up();
    return {.when_full = tarn::WhenFull::fail};
  }
  // While it lives, other operations may go on inside a call that waits and gives up: every state is kept.
  class Watch {
   public:
    explicit Watch(World& world) : world_{world} {
      for (std::size_t i = 0; i < world.files_.size(); ++i) world.since_[i] = world.files_[i]->bytes.watch();
      world.watches_ = true;
    }
    Watch(const Watch&) = delete;
    Watch& operator=(const Watch&) = delete;
    ~Watch() {
      world_.watches_ = false;
      for (auto& file : world_.files_) file->bytes.unwatch();
    }

   private:
    World& world_;
  };
  void read_given_up(File& file) {
    const auto range = pick(most_bytes_ + 2 * config_.chunk_bytes);
    auto& result = note("read, given up", file, range);
    auto& call = begin(Kind::read, file, range, ModelBytes(static_cast<std::size_t>(range.size_bytes()), filler_byte));
    call.cancelled = true;
    const Watch watch{*this};
    const tarn::detail::Resumer hold;
    const auto n = file.it->read(range.offset(), call.bytes, giving_up());
    result = code_of(n);
    end_read(call, n);
  }
  // A cell of the byte table: what comes, and the rows of the file before it. At the end it sees that each byte is in a row
  // that the cell leads to, if nothing else came in between; it is looked at now and then, which is often.
  class Cell {
   public:
    Cell(World& world, File& file, ByteColumn column, ByteRange where) : world_{world}, file_{file}, column_{column} {
      looks_ = world.config_.chunk_bytes <= 16 && file.it != nullptr && !file.replaced && ++world.cells_ % 2 == 0;
      if (!looks_) return;
      came_to(where);
      before_ = tarn_test::ByteRows::of(world.pool_, file.it->metadata());
      asked_ = world.asked_count_;
    }
    Cell(const Cell&) = delete;
    Cell& operator=(const Cell&) = delete;
    ~Cell() {
      if (!looks_) return;
      byte_table.enter(column_, before_, where_);
      if (asked_ != world_.asked_count_ || file_.it == nullptr) return;
      const auto after = tarn_test::ByteRows::of(world_.pool_, file_.it->metadata());
      const auto broken = tarn_test::ByteTable::broken_cell(column_, before_, after, where_);
      world_.require(broken.empty(), broken);
    }
    /// What is dirty is brought, and what is neither held nor stored as zero; nothing else, but of a whole part all that
    /// is held.
    void check_begun(const tarn::FlushRequest<Traits>& request) const {
      if (!looks_ || world_.nested_) return;
      for (const auto& [range, zero] : request.ranges) {
        auto rows = before_.bytes(zero ? tarn_test::ByteRow::nothing : tarn_test::ByteRow::dirty);
        if (!zero && units.flush == tarn::FlushUnit::parts) rows.add(before_.bytes(tarn_test::ByteRow::clean));
        world_.require(rows.contains(range), "the byte table: a flush begins with what is in another row");
      }
    }
    /// The bytes that it came to, after all.
    void came_to(ByteRange where) { where_ = where.empty() ? ExtentSet{} : ExtentSet{where}; }

   private:
    World& world_;
    File& file_;
    const ByteColumn column_;
    ExtentSet where_;
    tarn_test::ByteRows before_;
    std::uint64_t asked_ = 0;
    bool looks_ = false;
  };
  // From the first byte that it brings to the last, with what lies between.
  [[nodiscard]] static ByteRange span_of(const tarn::FlushRequest<Traits>& request) {
    if (request.ranges.empty()) return {};
    return ByteRange::between(request.ranges.front().range.offset(), request.ranges.back().range.end());
  }
  void view_given_up(File& file) {
    const auto range = pick(most_bytes_ + 2 * config_.chunk_bytes);
    auto& result = note("view, given up", file, range);
    auto& call = begin(Kind::view, file, range, {});
    call.cancelled = true;
    const Watch watch{*this};
    const tarn::detail::Resumer hold;
    const auto n = file.it->view(
        range.offset(), range.size_bytes(), [&](tarn::ConstBuffers bytes) { return show(call, bytes); }, giving_up());
    result = code_of(n);
    end_view(call, n);
  }
  void write_given_up(File& file) {
    const auto range = pick(most_bytes_);
    auto& result = note("write, given up", file, range);
    auto& call = begin(Kind::write, file, range, random_.bytes(range.size_bytes()));
    call.cancelled = true;
    const auto mtime_ns = ++clock_ns_;
    const auto fill = noted_fill(call, mtime_ns);
    std::size_t done = 0;
    const auto filler = [&](tarn::MutableBuffers into) -> tarn::Result<std::size_t> {
      const auto n = std::min(into.size_bytes(), call.stop - std::min(call.stop, done));
      into.copy_from(std::span{call.bytes}.subspan(done, n));
      if (n < into.size_bytes() && call.breaks) {
        into.copy_from(ModelBytes(into.size_bytes(), std::byte{0xEE}));
        return tarn::fail(std::errc::broken_pipe);
      }
      if (n != 0) fill.took(done, n);
      done += n;
      return n;
    };
    const Watch watch{*this};
    const tarn::detail::Resumer hold;
    const auto n = file.it->write(range.offset(), range.size_bytes(), filler, mtime_ns, giving_up());
    result = code_of(n);
    check_write(call, n);
    end(call, "write ended", code_of(n));
  }
  void flush_given_up(File& file) {
    stored_given_up(file, Kind::flush, "flush, given up", "flush ended", [&] { return file.it->flush(giving_up()); });
  }
  void sync_given_up(File& file) {
    stored_given_up(file, Kind::sync, "sync, given up", "sync ended", [&] { return file.it->sync(giving_up()); });
  }
  template <class Store>
  void stored_given_up(File& file, Kind kind, const char* begins, const char* ends, Store store) {
    auto& result = note(begins, file, {});
    auto& call = begin(kind, file, {}, {});
    call.cancelled = true;
    const Watch watch{*this};
    const tarn::detail::Resumer hold;
    const auto stored = store();
    result = code_of(stored);
    count_given_up(stored.error());
    check_flushed(call, stored.error());
    end(call, ends, code_of(stored));
  }
  static void count_given_up(std::error_code error) {
    if (error == std::errc::operation_canceled || error == std::errc::timed_out) came(Came::given_up);
  }

  void evict(File& file) {
    auto& result = note("evict_clean", file, {});
    const tarn::detail::Resumer hold;
    const Cell cell{*this, file, ByteColumn::evict, tarn::whole_file};
    result = static_cast<std::int64_t>(pool_.evict_clean());
  }
  void set_budget(File& file) {
    if (!config_.tight) return;
    const auto least = Pool::min_budget_bytes(options_);
    const auto bytes = least + random_.below(least / 3);
    note("set_budget_bytes", file, ByteRange::between(bytes, bytes));
    const auto charged = pool_.stats().charged_bytes;
    const tarn::detail::Resumer hold;
    require(pool_.set_budget_bytes(bytes).has_value(), "set_budget_bytes");
    require(!pool_.set_budget_bytes(least - 1), "a budget below the least");
    if (charged > bytes) came(Came::budget_below_charge);
    ceiling_bytes_ = std::max(bytes, pool_.stats().charged_bytes);
  }

  // ---- open files and their errors

  // What the pool's observer was told since: background errors, each of one file. What comes of a file that is gone is
  // told by the id it had.
  void hear() {
    for (const auto& [id, why] : std::exchange(told_.failures, {})) {
      if (why == gone_error() || why == remove_error() || why.value() == ESTALE) continue;
      auto& file = *files_[id - first_id];
      ++file.noted;
      file.noted_was_seen = false;
      file.last_noted = why;
    }
  }
  void open(File& file) {
    if (file.removed || file.openers.size() >= 3) return;
    hear();
    note("open", file, {});
    const bool unseen = file.noted != 0 && !file.noted_was_seen;
    if (unseen) came(Came::error_told_to_a_late_opener);
    file.openers.push_back({file.it->open(), file.noted - (unseen ? 1 : 0)});
  }
  void close(File& file) {
    if (file.openers.empty() || (file.deleted && flush_in_flight(file))) return;
    note("close", file, {});
    const tarn::detail::Resumer hold;
    const auto at = random_.below(file.openers.size());
    std::swap(file.openers[at], file.openers.back());
    file.openers.pop_back();
    if (file.removed) {
      came(Came::removed_at_last_close);
      file.bytes.now.clear();
      changed(file, tarn::whole_file, ModelEvent::discard);
    }
  }
  void take_error(File& file) {
    if (file.openers.empty()) return;
    hear();
    auto& opener = file.openers[random_.below(file.openers.size())];
    const bool advance = !random_.one_in(3);
    auto& result = note(advance ? "take_error" : "look at the error", file, {});
    const auto error = opener.open.take_error(advance);
    result = code_of(error);
    if (opener.told == file.noted) return require(error.has_value(), "an opener was told of an error twice");
    require(!error && error.error() == file.last_noted, "an opener was told of no error, or another one");
    came(Came::error_told);
    if (advance) heard(file, opener);
  }
  static void heard(File& file, Opener& opener) {
    opener.told = file.noted;
    file.noted_was_seen = true;
  }
  void opener_flush(File& file) { opener_call(file, false); }
  void opener_sync(File& file) { opener_call(file, true); }
  void opener_call(File& file, bool syncs) {
    if (file.openers.empty()) return;
    auto& result = note(syncs ? "fsync" : "close one of several", file, {});
    auto& opener = file.openers[random_.below(file.openers.size())];
    auto& call = begin(syncs ? Kind::sync : Kind::flush, file, {}, {});
    call.cancelled = true;
    const Watch watch{*this};
    const tarn::detail::Resumer hold;
    const auto done = syncs ? opener.open.sync(giving_up()) : opener.open.flush(giving_up());
    result = code_of(done);
    hear();
    const auto untold = file.failures - file.delivered - file.noted;
    // Of what failed meanwhile one is this call's, at most; others that wait beside it are told when they go on.
    const bool others = std::ranges::any_of(calls_, [&](const auto& other) {
      const bool flushes = other->kind == Kind::flush || other->kind == Kind::sync;
      return other.get() != &call && other->file == call.file && flushes && !other->over;
    });
    if (untold != 0 && !done) ++file.delivered;
    if (untold != 0 && done && config_.at_once == 1) require(others, "an opener was not told that its own call failed");
    if (opener.told != file.noted) require(!done, "an opener was not told of an error");
    if (syncs && opener.told != file.noted) heard(file, opener);
    if (done && !file.deleted) {
      check_settled(call);
      if (syncs) check_durable(call);
    }
    end(call, "opener's call ended", code_of(done));
  }

  // ---- other versions and other files

  void remove(File& file) {
    if (file.removed || flush_in_flight(file)) return;
    auto& result = note("remove", file, {});
    const tarn::detail::Resumer hold;
    const bool was_deleted = file.deleted;
    file.deleted = true;
    const auto removed = file.it->remove();
    result = code_of(removed);
    if (was_deleted) {
      return require(!removed && removed.error() == std::errc::no_such_file_or_directory, "a file was deleted twice");
    }
    if (!removed) {
      require(removed.error() == remove_error() && file.openers.empty(), "a remove failed by itself");
      file.deleted = false;
    } else if (file.openers.empty()) {
      require(file.removed, "a deleted file is in the store");
      file.bytes.now.clear();
      changed(file, tarn::whole_file, ModelEvent::discard);
    } else {
      came(Came::deleted_while_open);
      forget_untouched(file);
    }
  }
  // The store has a new version of the file: what was clean is another byte by now.
  void invalidate(File& file) {
    if (file.deleted) return;
    auto& result = note("invalidate", file, {});
    auto& disk = disk_of(file);
    const tarn::detail::Resumer hold;
    const bool busy = flush_in_flight(file);
    const auto done = file.it->invalidate(disk.version + 1, giving_up());
    result = code_of(done);
    if (!done) {
      if (busy) return count_given_up(done.error());
      return require(may_refuse() && done.error() == std::errc::no_buffer_space, "invalidate");
    }
    require(!busy, "an invalidate beside a flush");
    ++disk.version;
    const auto meta = file.it->metadata();
    const auto dirty = pool_.dirty_extents(meta);
    require(pool_.held_extents(meta) == dirty, "an invalidated byte is held");
    auto clean = meta.stored();
    clean.subtract(dirty);
    for (const auto& extent : clean.extents()) {
      for (auto i = extent.offset(); i < extent.end(); i += 1 + random_.below(3)) {
        const auto to = static_cast<std::byte>(1 + random_.below(255));
        disk.bytes[static_cast<std::size_t>(i)] = file.bytes.now[static_cast<std::size_t>(i)] = to;
      }
    }
    disk.become_durable();
    file.unsure = {};
    changed(file, tarn::whole_file, ModelEvent::invalidate);
  }
  void discard(File& file) {
    if (file.deleted) return;
    auto& result = note("discard_dirty", file, {});
    auto& disk = disk_of(file);
    const tarn::detail::Resumer hold;
    const bool busy = flush_in_flight(file);
    const auto dirty_bytes = pool_.stats().dirty_bytes;
    const auto gone_bytes = file.it->discard_dirty(disk.bytes.size(), disk.version, giving_up());
    result = code_of(gone_bytes);
    require(gone_bytes.has_value() != busy, "a discard beside a flush, or none without one");
    if (!gone_bytes) return count_given_up(gone_bytes.error());
    require(*gone_bytes == dirty_bytes - pool_.stats().dirty_bytes, "a discard gave up another number of bytes");
    disk.become_durable();
    file.bytes.now = disk.bytes;
    file.unsure = {};
    changed(file, tarn::whole_file, ModelEvent::discard);
  }
  // Another file of the same id, when the first has gone with all its operations; not with what it asked the store.
  void reuse(File& file) {
    const auto kept = file.shared_from_this();
    note("reuse the id", file, {});
    drop(file);
    if (wrong_.empty()) make(file.id);
  }
  void drop(File& file) {
    for (std::size_t i = 0; i < calls_.size(); ++i) {
      if (calls_[i]->file.get() == &file && !calls_[i]->over) cancel(*calls_[i]);
    }
    if (!wrong_.empty()) return;
    while (file.deleted && !file.openers.empty() && flush_in_flight(file)) answer_flush_of(file);
    while (!file.openers.empty()) close(file);
    hear();
    for (auto& load : loads_) {
      if (load.file.get() != &file) continue;
      if (!load.gone) came(Came::id_reused_with_load);
      load.gone = true;
    }
    for (auto& flush : flushes_) {
      if (flush.file.get() != &file) continue;
      came(Came::id_reused_with_flush);
      flush.gone = true;
    }
    for (auto& sync : syncs_) {
      if (sync.file.get() != &file) continue;
      came(Came::id_reused_with_sync);
      sync.gone = true;
    }
    if (!file.replaced) disk_of(file).late.reset();
    told_.lost_bytes = 0;
    const auto dirty_bytes = pool_.stats().dirty_bytes;
    const bool deleted = file.deleted;
    const tarn::detail::Resumer hold;
    file.it.reset();
    const auto lost_bytes = dirty_bytes - pool_.stats().dirty_bytes;
    require(told_.lost_bytes == (deleted ? 0 : lost_bytes), "lost bytes that the observer was not told of, or of none");
  }
  // Another file of the same id while the first still lives: that one's way to the store ends.
  void take_over(File& file) {
    // The constructor waits for flushes of the files that had the id, and there is nobody to answer them.
    const bool waits =
        std::ranges::any_of(flushes_, [&](const FlushAsked& flush) { return flush.file->id == file.id; });
    if (replaced_.size() >= 2 || waits || flush_in_flight(file) || sync_in_flight(file) || !file.openers.empty())
      return;
    for (const auto& call : calls_) {
      if (call->file.get() == &file && !call->over && call->kind >= Kind::flush) return;
    }
    if (!has_room_for_a_record()) return;
    note("take over the id", file, {});
    for (auto& load : loads_) {
      if (load.file.get() != &file) continue;
      came(Came::id_taken_over_with_load);
      load.gone = true;
    }
    hear();
    disk_of(file).late.reset();
    file.replaced = true;
    replaced_.push_back(file.shared_from_this());
    make(file.id);
  }
  void use_replaced(File&) {
    if (replaced_.empty()) return;
    auto& file = *replaced_.back();
    if (random_.one_in(3)) {
      drop(file);
      replaced_.pop_back();
      return;
    }
    if (random_.one_in(2)) return try_read(file);
    note("write to a replaced file", file, {});
    const std::byte one{1};
    const auto n = file.it->try_write(0, {&one, 1});
    require(!n && (n.error().value() == ESTALE || n.error().value() == EDQUOT), "a file whose id another has changed");
  }

  [[nodiscard]] bool has_room_for_a_record() {
    return pool_.core().budget.would_fit(2 * tarn::detail::PoolCore<Traits>::record_and_table_bytes);
  }
  void make(std::uint64_t id) {
    auto& slot = files_[id - first_id];
    auto& disk = disks_[id - first_id];
    auto made = std::make_shared<File>();
    made->id = id;
    tarn::FileOptions file_options{.part_bytes = part_bytes_};
    auto meta = Meta::created(id, file_options);
    switch (random_.below(4)) {
      case 0:
        disk.become({}, 0);
        break;
      case 1:
        disk.become(random_.bytes(random_.below(most_bytes_ + 1)), disk.version + 1);
        [[fallthrough]];
      default:
        disk.become_durable();
        file_options.version = disk.version;
        meta = Meta::from_store(id, disk.bytes.size(), file_options);
        made->bytes.now = disk.bytes;
    }
    auto& store = made->store;
    store.at_once = config_.at_once;
    auto* const file = made.get();
    store.on_load = [this, file](LoadToken token) { ask(*file, std::move(token)); };
    store.on_flush = [this, file](FlushToken token) { ask(*file, std::move(token)); };
    store.on_sync = [this, file](SyncToken token) { ask(*file, std::move(token)); };
    store.on_reserve = [this, file]() -> tarn::Result<> {
      if (!random_.one_in(200)) return {};
      ++file->refused_reserves;
      return tarn::fail(static_cast<std::errc>(EDQUOT));
    };
    store.on_remove = [this, file]() -> tarn::Result<> {
      if (!calm_ && random_.one_in(3)) return tarn::fail(static_cast<std::errc>(remove_error().value()));
      if (!file->replaced) disk_of(*file).become({}, 0);
      file->removed = true;
      return {};
    };
    // A constructor waits for room, and cannot be told not to: with nothing in flight it flushes, and that suffices.
    if (!has_room_for_a_record()) drain();
    const bool was_calm = std::exchange(calm_, true);
    for (int tries = 0; wrong_.empty(); ++tries) {
      try {
        made->it = std::make_unique<DirtyFile>(pool_, meta, store);
        break;
      } catch (const std::system_error& refused) {
        require(may_refuse() && refused.code() == std::errc::no_buffer_space && tries < 3, "no room for a file");
        make_room();
      }
    }
    calm_ = was_calm;
    slot = std::move(made);
  }

  // Throws away what can be thrown away. Requires: nothing is in flight.
  void make_room() {
    while (!replaced_.empty()) {
      drop(*replaced_.back());
      replaced_.pop_back();
    }
    for (auto& file : files_) {
      if (file == nullptr || file->it == nullptr || file->removed) continue;
      if (file->deleted && file->openers.empty()) open(*file);  // its remove failed: else nobody may change it
      if (!file->deleted) {
        discard(*file);
      } else if (const tarn::detail::Resumer hold; file->it->truncate(0, file->mtime_ns = ++clock_ns_)) {
        file->bytes.now.clear();
        changed(*file, tarn::whole_file, ModelEvent::truncate);
      }
    }
  }

  // ---- the store's side

  void ask(File& file, LoadToken token) {
    ++asked_count_;
    const auto& request = token.request();
    check_budget();
    require(request.into.size_bytes() == request.range.size_bytes(), "a load with buffers of another size");
    require(request.range.offset() / part_bytes_ == (request.range.end() - 1) / part_bytes_, "a load of two parts");
    if (units.load == tarn::LoadUnit::parts) {
      require(request.offset_in_part == 0, "a load of less than a part");
      if (request.range.size_bytes() > loading_bytes(file, request.range)) came(Came::load_of_more_than_wanted);
    }
    const auto& disk = disk_of(file);
    const bool ahead = std::ranges::any_of(
        flushes_, [&](const FlushAsked& flush) { return flush.file.get() == &file && flush.stored; });
    if (!file.replaced) {
      const auto known =
          disk.version - (ahead ? versions_a_flush() : 0);  // a call from inside may have moved it since the look
      require(nested_ ? request.version <= known : request.version == known, "a load of another version");
      require(request.range.end() <= disk.bytes.size() || file.deleted, "a load of bytes that the store has not");
    }
    LoadAsked asked{file.shared_from_this(), std::move(token)};
    asked.gone = file.replaced;
    asked.ahead = is_ahead(file, request.range);
    if (asked.ahead) came(Came::load_ahead);
    asked.early = bytes_for(file, request);
    aim(file, request.range);
    nested(file, Came::from_inside_the_store, 8);
    if (calm_ || random_.one_in(4)) return answer(std::move(asked));
    if (!random_.one_in(24)) return loads_.push_back(std::move(asked));
    if (!asked.ahead) ++file.failed_loads;
    throw std::system_error{std::make_error_code(std::errc::io_error)};
  }
  [[nodiscard]] static std::uint64_t loading_bytes(const File& file, ByteRange range) {
    auto& record = *file.it->body()->record;
    const tarn::detail::MutexLock table{record.table_mutex};
    std::uint64_t bytes = 0;
    for (const auto* load = record.loads; load != nullptr; load = load->next) {
      bytes += load->loading.intersect(range).size_bytes();
    }
    return bytes;
  }
  // What the store no longer has reads as rubbish: tarn must not show it.
  [[nodiscard]] ModelBytes bytes_for(File& file, const tarn::LoadRequest<Traits>& request) {
    ModelBytes found(static_cast<std::size_t>(request.range.size_bytes()), std::byte{0xDB});
    const auto& bytes = disk_of(file).bytes;
    const auto offset = static_cast<std::size_t>(request.range.offset());
    if (file.replaced || offset >= bytes.size()) return found;
    const auto n = std::min(found.size(), bytes.size() - offset);
    std::copy_n(bytes.begin() + static_cast<std::ptrdiff_t>(offset), n, found.begin());
    return found;
  }
  void answer(LoadAsked asked) {
    auto& file = *asked.file;
    const auto& request = asked.token.request();
    enum class How : std::uint8_t { well, error, few, many, dropped, stale };
    auto how = calm_ || !random_.one_in(6) ? How::well : static_cast<How>(1 + random_.below(5));
    if (how == How::stale && (asked.gone || disk_of(file).version == request.version)) how = How::well;
    trace_.note(how == How::well    ? "load answered"
                : how == How::stale ? "load answered: stale"
                                    : "load answered badly",
                file.id, request.range.offset(), request.range.end(), depth_) = static_cast<int>(how);
    const auto size = request.into.size_bytes();
    const bool has_reader = asked.ahead && std::ranges::any_of(calls_, [&](const auto& call) {
                              return !call->over && call->kind <= Kind::view && call->file == asked.file &&
                                     !call->range.intersect(request.range).empty();
                            });
    if (has_reader) came(how == How::well ? Came::load_ahead_waited_for : Came::load_ahead_failed_with_a_reader);
    if (how == How::well && !asked.gone) {
      request.into.copy_from(random_.one_in(4) ? bytes_for(file, request) : asked.early);
      const auto& since = asked.since;
      if (since.saw(ModelEvent::write)) came(Came::load_after_write);
      if (since.saw(ModelEvent::truncate)) came(Came::load_after_truncate);
      if (since.saw(ModelEvent::punch)) came(Came::load_after_punch);
      if (since.saw(ModelEvent::invalidate)) came(Came::load_after_invalidate);
      if (since.saw(ModelEvent::discard)) came(Came::load_after_discard);
      if (asked.cancelled) came(Came::load_for_nobody);
    } else {
      request.into.copy_from(ModelBytes(size, std::byte{0xDB}));
    }
    if (how == How::stale) came(Came::load_stale);
    if (how != How::well && how != How::stale) {
      came(Came::load_failed);
      if (!asked.ahead) ++file.failed_loads;
    }
    const tarn::detail::Resumer hold;
    std::optional<Cell> cell;
    if (how == How::well && !asked.gone) cell.emplace(*this, file, ByteColumn::load_lands, request.range);
    switch (how) {
      case How::well:
        asked.token.complete(size);
        break;
      case How::error:
        asked.token.complete(tarn::fail(static_cast<std::errc>(load_error().value())));
        break;
      case How::few:
        asked.token.complete(size - 1);
        break;
      case How::many:
        asked.token.complete(size + 1);
        break;
      case How::dropped: {
        const auto dropped = std::move(asked.token);
        break;
      }
      case How::stale:
        asked.token.complete(tarn::fail(static_cast<std::errc>(ESTALE)));
    }
  }

  void ask(File& file, FlushToken token) {
    ++asked_count_;
    const auto& request = token.request();
    check_budget();
    auto& disk = disk_of(file);
    check_beside(file, request, disk);
    require(!file.replaced, "a flush of a file whose id another has");
    disk.fence(request, part_bytes_, config_.at_once == 1);
    const auto* const misdeed = tarn_test::misdeed_of(request, disk.bytes, units.flush, part_bytes_);
    require(misdeed == nullptr, misdeed == nullptr ? "" : misdeed);
    if (!tarn_test::rest_of_part(request).empty()) came(Came::flush_of_more_than_dirty);
    if (request.consistent) came(Came::flush_of_one_moment);
    check_flush(file, request);
    Cell{*this, file, ByteColumn::flush_begins, span_of(request)}.check_begun(request);
    FlushAsked asked{file.shared_from_this(), std::move(token)};
    asked.change = ModelChange::of(request, config_.keeps_sizes);
    asked.lent = tarn_test::listed_bytes(request);
    aim(file, span_of(request));
    entering_ = &asked;
    nested(file, Came::from_inside_the_store, 8);
    entering_ = nullptr;
    if (calm_ || random_.one_in(4)) return answer(std::move(asked));
    if (!random_.one_in(24)) return flushes_.push_back(std::move(asked));
    came(Came::flush_dropped);
    ++file.failures;
    throw std::system_error{flush_error()};
  }
  // Beside those in flight: not too many, all of the store's size, and in parts of its own.
  void check_beside(File& file, const tarn::FlushRequest<Traits>& request, const ModelDisk& disk) {
    std::size_t count = 1;
    const auto parts_of = [&](ByteRange range) { return tarn_test::parts_around(range, part_bytes_); };
    const auto look = [&](const FlushAsked& other) {
      if (other.file.get() != &file || other.gone) return;
      ++count;
      const auto& its = other.token.request();
      require(its.size_bytes == request.size_bytes && its.size_bytes == disk.bytes.size(),
              "flushes of other sizes at a time");
      for (const auto& here : request.ranges) {
        for (const auto& there : its.ranges) {
          require(parts_of(here.range).intersect(parts_of(there.range)).empty(), "two flushes of one part at a time");
        }
      }
    };
    for (const auto& flush : flushes_) look(flush);
    if (entering_ != nullptr) look(*entering_);
    require(count <= config_.at_once, "more flushes of one file at a time than the store takes");
    if (count > 1) came(Came::flushes_beside);
    const auto rises = [&](std::uint64_t part) {
      require(request.generation > std::exchange(file.generations[part], request.generation),
              "a generation that does not rise");
    };
    if (config_.at_once == 1) return rises(0);
    std::set<std::uint64_t> parts;
    for (const auto& [range, zero] : request.ranges) {
      for (auto part = range.offset() / part_bytes_; part <= (range.end() - 1) / part_bytes_; ++part)
        parts.insert(part);
    }
    for (const auto part : parts) rises(part);
  }
  void answer(FlushAsked asked) {
    using Outcome = tarn::FlushOutcome<Traits>;
    auto& file = *asked.file;
    auto& disk = disk_of(file);
    require(tarn_test::listed_bytes(asked.token.request()) == asked.lent,
            "the bytes of a flush changed while the store had them");
    if (asked.gone) {
      note("flush of a file that is gone", file, {});
      (void)asked.token.complete(Outcome::stored());
      return;
    }
    enum class How : std::uint8_t { well, failed, unknown, conflict, dropped };
    const auto how = calm_ || asked.stored || !random_.one_in(3) ? How::well : static_cast<How>(1 + random_.below(4));
    trace_.note(how == How::well ? "flush answered" : "flush answered badly", file.id, 0, asked.change.size_bytes,
                depth_) = static_cast<int>(how);
    const bool written = asked.since.saw(ModelEvent::write);
    const tarn::detail::Resumer hold;
    const auto column = how == How::well ? ByteColumn::flush_ok : ByteColumn::flush_fails;
    const Cell cell{*this, file, column, span_of(asked.token.request())};
    if (how == How::well) {
      if (written) came(Came::flush_ok_after_write);
      if (asked.since.saw(ModelEvent::truncate) || asked.since.saw(ModelEvent::punch)) came(Came::flush_ok_after_cut);
      if (!asked.stored) {
        asked.change.apply_to(disk.bytes, SIZE_MAX);
        disk.version += versions_a_flush();
      }
      asked.change.add_rest_of_part(disk.bytes, asked.token.request().covers);
      const bool durable = random_.one_in(4);
      auto outcome = durable ? Outcome::durable() : Outcome::stored();
      if (versions_a_flush() != 0) outcome = std::move(outcome).with_version(disk.version);
      if (durable) {
        disk.note_durable(std::move(asked.change));
      } else {
        disk.note_stored(std::move(asked.change));
      }
      (void)asked.token.complete(outcome);
      return;
    }
    came(Came::flush_failed);
    if (written) came(Came::flush_failed_after_write);
    ++file.failures;
    const auto pieces = asked.change.pieces.size();
    const auto part = random_.one_in(3) ? pieces : random_.below(pieces + 1);
    if (!random_.one_in(3)) asked.change.apply_to(disk.bytes, part);
    if (how == How::failed) return (void)asked.token.complete(Outcome::failed(flush_error()));
    if (how == How::conflict) {
      came(Came::flush_conflict);
      return (void)asked.token.complete(Outcome::conflict(conflict_error()));
    }
    came(how == How::unknown ? Came::flush_unknown : Came::flush_dropped);
    if (random_.one_in(2)) disk.late = std::move(asked.change);
    if (how == How::unknown) return (void)asked.token.complete(Outcome::unknown(flush_error()));
    const auto dropped = std::move(asked.token);
  }
  // The store acts before it answers: it has the new version, and tarn does not know.
  void store_early(File&) {
    if (flushes_.empty()) return;
    auto& asked = flushes_[random_.below(flushes_.size())];
    if (asked.gone || asked.stored) return;
    note("store early", *asked.file, {});
    auto& disk = disk_of(*asked.file);
    asked.change.apply_to(disk.bytes, SIZE_MAX);
    disk.version += versions_a_flush();
    asked.stored = true;
  }
  // A flush of unknown fate changes something after all.
  void act_late(File& file) {
    auto& disk = disk_of(file);
    if (!disk.late) return;
    note("act late", file, {});
    came(Came::flush_acted_late);
    disk.late->apply_to(disk.bytes, random_.below(disk.late->pieces.size() + 1));
  }

  void ask(File& file, SyncToken token) {
    ++asked_count_;
    require(!sync_in_flight(file), "two syncs of one file at a time");
    require(!file.replaced, "a sync of a file whose id another has");
    SyncAsked asked{file.shared_from_this(), std::move(token)};
    asked.log = disk_of(file).take_log();
    asked.untouched = disk_of(file).unsynced(asked.log);
    // What was changed and not stored again is not what it is asked for.
    const auto meta = file.it->metadata();
    const auto changed_since = pool_.dirty_extents(meta);
    asked.untouched.subtract(changed_since);
    meta.stored().for_each_gap_in(tarn::whole_file, [&](ByteRange gap) { asked.untouched.subtract(gap); });
    if (calm_ || random_.one_in(4)) return answer(std::move(asked));
    if (!random_.one_in(24)) return syncs_.push_back(std::move(asked));
    fail(std::move(asked), [](SyncToken) {});
    throw std::system_error{sync_error()};
  }
  void answer(SyncAsked asked) {
    auto& file = *asked.file;
    if (asked.gone) {
      note("sync of a file that is gone", file, {});
      const tarn::detail::Resumer hold;
      (void)asked.token.complete(tarn::fail(static_cast<std::errc>(gone_error().value())));
      told_.unsure.clear();  // told by the id it had: that of another file, by now
      return;
    }
    const auto how = calm_ || !random_.one_in(3) ? 0 : 1 + random_.below(2);
    trace_.note("sync answered", file.id, 0, 0, depth_) = static_cast<std::int64_t>(how);
    if (how == 0) {
      came(Came::sync_ok);
      disk_of(file).note_synced(asked.log);
      (void)asked.token.complete({});
    } else if (how == 1) {
      fail(std::move(asked),
           [](SyncToken token) { (void)token.complete(tarn::fail(static_cast<std::errc>(sync_error().value()))); });
    } else {
      fail(std::move(asked), [](SyncToken) {});
    }
  }
  template <class End>
  void fail(SyncAsked asked, End end) {
    auto& file = *asked.file;
    came(Came::sync_failed);
    if (asked.since.bits != 0) came(Came::sync_failed_after_change);
    ++file.failures;
    disk_of(file).note_sync_failed(std::move(asked.log));
    // Also of a sync that has ended and not been told yet: a part stored anew since brings bytes with it.
    for (auto& call : calls_) {
      const bool over = call->kind == Kind::flush || units.flush == tarn::FlushUnit::parts;
      if (call->file == asked.file && over) call->untouched = {};
    }
    const tarn::detail::Resumer hold;
    end(std::move(asked.token));
    ExtentSet named;
    for (const auto& [id, extents, why] : std::exchange(told_.unsure, {})) {
      require(id == file.id, "a sync of one file failed, and bytes of another are named");
      named.add(extents);
    }
    if (file.deleted) return;
    file.unsure.add(named);
    if (!named.empty()) came(Came::sync_unsure), ++file.lost_syncs;
    const auto meta = file.it->metadata();
    const auto dirty = pool_.dirty_extents(meta);
    if (dirty.intersects(tarn::whole_file)) came(Came::sync_dirty_again);
    ExtentSet again{tarn::whole_file};  // zeros that are not stored, to begin with
    again.subtract(meta.stored());
    again.add(dirty);
    again.add(named);
    for (const auto& extent : asked.untouched.extents()) {
      require(again.contains(extent), "what a failed sync was asked for is neither to be stored anew nor named\nfrom " +
                                          std::to_string(extent.offset()) + " to " + std::to_string(extent.end()));
    }
  }

  void answer_some(File&) {
    const auto count = loads_.size() + flushes_.size() + syncs_.size();
    if (count != 0) answer_at(random_.below(count));
  }
  void answer_at(std::size_t index) {
    if (index < loads_.size()) {
      if (index != 0) came(Came::loads_out_of_order);
      return answer(take_asked(loads_, index));
    }
    index -= loads_.size();
    if (index < flushes_.size()) return answer(take_asked(flushes_, index));
    answer(take_asked(syncs_, index - flushes_.size()));
  }
  void answer_flush_of(File& file) {
    for (std::size_t i = 0; i < flushes_.size(); ++i) {
      if (flushes_[i].file.get() == &file) return answer(take_asked(flushes_, i));
    }
  }
  [[nodiscard]] bool flush_in_flight(const File& file) const {
    const auto its = [&](const FlushAsked& flush) { return flush.file.get() == &file && !flush.gone; };
    return (entering_ != nullptr && its(*entering_)) || std::ranges::any_of(flushes_, its);
  }
  [[nodiscard]] bool sync_in_flight(const File& file) const {
    return std::ranges::any_of(syncs_, [&](const SyncAsked& sync) { return sync.file.get() == &file && !sync.gone; });
  }

  // ---- what is looked at

  // Answers everything, and well. Then nothing may wait any more: whoever does was forgotten.
  void drain() {
    came(Came::drained);
    const bool was_calm = std::exchange(calm_, true);
    while (loads_.size() + flushes_.size() + syncs_.size() != 0) answer_some(*files_[0]);
    calm_ = was_calm;
    for (const auto& call : calls_) {
      if (!call->over) require(false, "an operation waits, and for nothing");
    }
    require(pool_.core().flush_tally.flying.load() == 0 && pool_.core().reserves.load() == 0,
            "somebody makes room for ever");
    require(!pool_.core().room_queue.has_waiters(), "nobody waits for room, and still is in the queue");
  }
  void settle(File& file) {
    if (!random_.one_in(3)) return;
    note("settle", file, {});
    drain();
    if (!wrong_.empty()) return;
    calm_ = true;
    for (auto& each : files_) {
      if (each->deleted) continue;
      require(each->it->flush().has_value(), "a flush of a good store failed");
      check_whole(*each);
      require(each->it->sync().has_value(), "a sync of a good store failed");
      require(!each->it->needs_sync(), "there is something to sync after a sync");
      auto& call = begin(Kind::sync, *each, {}, {});
      check_durable(call);
      call.over = true;
      read_whole(*each);
    }
    calm_ = false;
  }
  void check_whole(File& file) {
    came(Came::compared_whole);
    const auto meta = file.it->metadata();
    require(disk_of(file).bytes == file.bytes.now, "a flush stored another file");
    require(meta.stored() == ExtentSet{ByteRange::between(0, file.bytes.now.size())}, "not all stored after a flush");
    require(meta.state() == tarn::FileState::clean && !file.it->is_dirty(), "not clean after a flush");
  }
  void read_whole(File& file) {
    ModelBytes into(file.bytes.now.size() + 1);
    const auto failed_loads = file.failed_loads;
    const auto n = file.it->read(0, into);
    if (!n && file.failed_loads != failed_loads) return;  // by an exception
    if (!n) return require(may_refuse() && n.error() == std::errc::no_buffer_space, "a read of a good store failed");
    into.resize(*n);
    check_now("a read of all", file, ByteRange::between(0, into.size() + 1), into);
  }

  [[nodiscard]] std::uint64_t times_without_room() const {
    const auto stats = pool_.stats();
    return stats.refusals + stats.room_waits;
  }
  void check_read(Call& call, std::size_t n) {
    call.bytes.resize(n);
    // Where no chunk is to be had, a read goes past the pool, and splits its window.
    const bool splits = times_without_room() != call.without_room_before;
    if (!call.since || (!splits && call.range.size_bytes() <= pool_.window_bytes())) {
      return check_now("a read", *call.file, call.range, call.bytes);
    }
    if (call.file->bytes.changed_since(*call.since)) came(Came::read_of_many_moments);
    require(call.file->bytes.admits(call.range.offset(), static_cast<std::size_t>(call.range.size_bytes()),
                                    splits ? 1 : pool_.window_bytes(), call.bytes, *call.since),
            "a long read shows what the file never was");
  }
  void check_now(const char* what, File& file, ByteRange range, std::span<const std::byte> seen) {
    const auto inside = range.intersect(ByteRange::between(0, file.bytes.now.size()));
    const auto size = range.offset() < file.bytes.now.size() ? inside.size_bytes() : 0;
    require(seen.size() == size, std::string{what} + " is too short or too long");
    if (seen.size() == size && size != 0) {
      require(std::equal(seen.begin(), seen.end(), at(file, range.offset())), std::string{what} + " shows other bytes");
    }
  }
  // Of an operation, or of a call that was given up.
  void check_error(Call& call, std::error_code error) {
    auto& file = *call.file;
    if (error == std::errc::operation_canceled || error == std::errc::timed_out) {
      count_given_up(error);
      return require(call.cancelled, "cancelled by nobody");
    }
    if (file.replaced && error.value() == ESTALE) return;
    if (call.kind <= Kind::view) {
      if (file.failed_loads != call.failed_loads && (error == load_error() || error == std::errc::io_error)) return;
    } else {
      if (call.breaks && error == std::errc::broken_pipe) return;
      if (file.removed && error == std::errc::no_such_file_or_directory) return;
      if (file.deleted && file.openers.empty() && error == std::errc::no_such_file_or_directory) return;
    }
    check_refusal(file, error, call.refused_reserves, std::errc::no_buffer_space);
  }
  void check_given_up(File& file, std::error_code error) {
    if (error == std::errc::operation_canceled || error == std::errc::timed_out) {
      require(may_refuse(), "a truncate waits for room, and there is enough");
      return came(Came::given_up);
    }
    check_refusal(file, error, file.refused_reserves, std::errc::no_buffer_space);
  }
  void check_refusal(File& file, std::error_code error, std::uint64_t reserves, std::errc full) {
    if (error.value() == EDQUOT && file.refused_reserves != reserves) return;
    if (file.replaced && error.value() == ESTALE) return;
    if (file.deleted && file.openers.empty() && error == std::errc::no_such_file_or_directory) return;
    came(Came::refused);
    require(may_refuse() && error == full, "refused: " + error.message());
  }
  void check_flush(File& file, const tarn::FlushRequest<Traits>& request) {
    const auto is = [&](const ModelBytes& bytes) {
      bool same = request.size_bytes == bytes.size();
      request.for_each_piece([&](std::uint64_t offset, std::span<const std::byte> piece, bool) {
        same = same && offset + piece.size() <= bytes.size() &&
               std::equal(piece.begin(), piece.end(), bytes.begin() + static_cast<std::ptrdiff_t>(offset));
      });
      return same;
    };
    // Between its begin and the store others may go on; but only in a call that blocks.
    require(is(file.bytes.now) || (watches_ && file.bytes.any_since(since_[file.id - first_id], is)),
            "a flush stores other bytes than the file's");
  }
  void check_settled(const Call& call) {
    const auto meta = call.file->it->metadata();
    const auto dirty = pool_.dirty_extents(meta);
    for (const auto& extent : call.untouched.extents()) {
      require(!dirty.intersects(extent) && meta.stored().contains(extent), "a flush left behind what was dirty");
    }
  }
  void check_durable(const Call& call) {
    came(Came::compared_durable);
    auto& file = *call.file;
    const auto& durable = disk_of(file).durable();
    auto sure = call.untouched;
    sure.subtract(file.unsure);
    for (const auto& extent : sure.extents()) {
      const bool same =
          extent.end() <= durable.size() && std::equal(at(file, extent.offset()), at(file, extent.end()),
                                                       durable.begin() + static_cast<std::ptrdiff_t>(extent.offset()));
      require(same, "a sync said durable of what a crash would lose");
    }
    if (file.changes == call.changes) require(durable.size() == file.bytes.now.size(), "a size is not durable");
  }
  // Of a window that is about to become dirty, with the file's lock held. Where nothing is dirty, anything may.
  void check_marks(const File& file, ByteRange range) {
    if (!config_.marked) return;
    const auto stats = pool_.stats();
    const auto last = (range.end() - 1) / config_.chunk_bytes;
    const auto chunks = stats.chunks_dirty + last + 1 - range.offset() / config_.chunk_bytes;
    require(stats.chunks_dirty == 0 || chunks * config_.chunk_bytes <= options_.dirty_limit_bytes,
            "a write passed the mark of the pool");
    const auto dirty_bytes = pool_.dirty_bytes(Meta::created(file.id));
    require(dirty_bytes == 0 || dirty_bytes + range.size_bytes() <= options_.file_dirty_limit_bytes,
            "a write passed the mark of its file");
  }
  void check_budget() {
    const auto charged = pool_.stats().charged_bytes;
    require(charged <= ceiling_bytes_, "more is charged than the budget allows");
    ceiling_bytes_ = std::max(charged, pool_.budget_bytes());
  }
  void check_table(File& file) {
    const tarn::detail::Resumer hold;
    require(file.it->mtime_ns() == file.mtime_ns || file.mtime_ns == 0, "another mtime");
    const auto broken =
        tarn_test::broken_rule<Traits>(pool_, file.it->metadata(), file.bytes.now, &disk_of(file).bytes);
    require(broken.empty(), broken);
  }
  void end() {
    drain();
    after_step();
    while (!replaced_.empty()) {
      drop(*replaced_.back());
      replaced_.pop_back();
    }
    for (auto& file : files_) {
      if (wrong_.empty()) drop(*file);
    }
    drain();
    pool_.evict_clean();
    const auto stats = pool_.stats();
    require(pool_.core().counters.ahead_charge_bytes == 0, "a load ahead counts when all is dropped");
    require(stats.charged_bytes == 0, "charged when all is dropped: " + std::to_string(stats.charged_bytes));
    require(stats.chunks_held == 0 && stats.chunks_dirty == 0 && stats.dirty_bytes == 0, "held when all is dropped");
    reach[static_cast<std::size_t>(Came::load_shared)] += stats.load_waits;
  }

  // ---- small things

  static constexpr std::byte filler_byte{0xA5};
  static std::error_code load_error() { return std::make_error_code(std::errc::host_unreachable); }
  static std::error_code flush_error() { return std::make_error_code(std::errc::no_space_on_device); }
  static std::error_code conflict_error() { return std::make_error_code(std::errc::file_exists); }
  static std::error_code sync_error() { return std::make_error_code(std::errc::network_down); }
  static std::error_code gone_error() { return std::make_error_code(std::errc::network_reset); }
  static std::error_code remove_error() { return std::make_error_code(std::errc::operation_not_permitted); }

  void written(File& file, std::uint64_t offset, std::span<const std::byte> from, std::int64_t mtime_ns) {
    if (from.empty()) return;
    const auto end = static_cast<std::size_t>(offset) + from.size();
    if (file.bytes.now.size() < end) file.bytes.now.resize(end);
    std::copy(from.begin(), from.end(), at(file, offset));
    file.mtime_ns = mtime_ns;
    changed(file, ByteRange::between(offset, end), ModelEvent::write);
  }
  void changed(File& file, ByteRange range, ModelEvent how) {
    ++file.changes;
    file.bytes.note();
    file.unsure.subtract(range);
    for (auto& load : loads_) {
      if (load.file.get() == &file && !load.token.request().range.intersect(range).empty()) load.since.note(how);
    }
    for (auto& flush : flushes_) {
      if (flush.file.get() != &file) continue;
      for (const auto& its : flush.token.request().ranges) {
        if (!its.range.intersect(range).empty()) flush.since.note(how);
      }
    }
    for (auto& sync : syncs_) {
      if (sync.file.get() != &file) continue;
      sync.since.note(how);
      sync.untouched.subtract(range);
    }
    touched(file, range);
  }
  // A write that fails, or is not over yet, may keep a flush from settling its bytes: they are stored once more.
  void touched(File& file, ByteRange range) {
    for (auto& call : calls_) {
      if (call->file.get() == &file && !call->untouched.empty()) call->untouched.subtract(range);
    }
  }
  void forget_untouched(File& file) {
    for (auto& sync : syncs_) {
      if (sync.file.get() == &file) sync.untouched = {};
    }
    for (auto& call : calls_) {
      if (call->file.get() == &file) call->untouched = {};
    }
  }
  // What is picked from now on is near the range, or near what the store has been asked of the file.
  void aim(File&, ByteRange range) { bias_ = range.empty() ? std::nullopt : std::optional{range}; }
  void aim(File& file) {
    bias_.reset();
    if (random_.one_in(2)) return;
    for (const auto& load : loads_) {
      if (load.file.get() == &file && (!bias_ || random_.one_in(2))) bias_ = load.token.request().range;
    }
    for (const auto& flush : flushes_) {
      const auto ranges = flush.token.request().ranges;
      if (flush.file.get() != &file || ranges.empty() || (bias_ && random_.one_in(2))) continue;
      bias_ = ranges[random_.below(ranges.size())].range;
    }
  }
  std::int64_t& note(const char* what, const File& file, ByteRange range) {
    return trace_.note(what, file.id, range.offset(), range.end(), depth_);
  }
  template <class R>
  [[nodiscard]] static std::int64_t code_of(const R& result) {
    if (!result) return -result.error().value();
    if constexpr (requires { static_cast<std::int64_t>(*result); }) {
      return static_cast<std::int64_t>(*result);
    } else {
      return 0;
    }
  }
  [[nodiscard]] ModelDisk& disk_of(const File& file) { return disks_[file.id - first_id]; }
  [[nodiscard]] static auto at(File& file, std::uint64_t offset) {
    return file.bytes.now.begin() + static_cast<std::ptrdiff_t>(offset);
  }
  [[nodiscard]] ByteRange pick(std::uint64_t end) { return random_.range(end, config_.chunk_bytes, bias_); }

  const Config config_;
  ModelTrace& trace_;
  ModelRandom random_;
  const std::uint64_t part_bytes_, most_bytes_;
  std::array<ModelDisk, 3> disks_;
  ModelTold told_;
  const tarn::PoolOptions options_;
  Pool pool_;
  std::array<std::shared_ptr<File>, 3> files_;
  std::vector<std::shared_ptr<File>> replaced_;
  tarn::FlushRounds<Traits> rounds_{pool_, {.dirty_ns_max = 3 * second_ns}};
  std::vector<LoadAsked> loads_;
  std::vector<FlushAsked> flushes_;
  std::vector<SyncAsked> syncs_;
  const FlushAsked* entering_ = nullptr;  // asked, and not yet kept
  std::vector<std::unique_ptr<Call>> calls_;
  std::stop_source given_up_;
  std::optional<ByteRange> bias_;
  std::array<std::size_t, 3> since_{};
  bool calm_ = false, watches_ = false;
  bool nested_ = false;  // in this step, a call from inside the store or a completion
  int depth_ = 0;
  std::uint64_t asked_count_ = 0, cells_ = 0, ceiling_bytes_;
  std::int64_t clock_ns_ = 0;
  std::string wrong_;
};

// Makes a run that goes wrong short, and keeps it as a file.
template <class Traits, ModelUnits units>
std::string shrunk(const Config& config, std::uint64_t seed, std::uint64_t world_seed, std::uint64_t steps) {
  const tarn_test::ModelRunner runner = [&](ModelRandom random, std::uint64_t most) {
    ModelTrace trace{config.name, seed};
    auto world = std::make_unique<World<Traits, units>>(config, world_seed, std::move(random), trace);
    const auto wrong = world->run(most);
    (void)world.release();
    return wrong.empty() ? wrong : wrong + trace.text("");
  };
  tarn_test::ModelChoices choices;
  const auto wrong = tarn_test::ModelTry{}.record(runner, world_seed, steps, choices);
  if (wrong.empty()) return "it goes well in a process of its own\n";
  choices = tarn_test::shrink(runner, std::move(choices), wrong, std::chrono::seconds{60});
  const auto name = "simulation-" + std::to_string(seed) + ".replay";
  std::ofstream{name} << config.name << '\n' << tarn_test::text_of_choices(choices);
  return "made short: " + std::to_string(choices.size() - 1) +
         " steps; run them with TARN_MODEL_SEED=" + std::to_string(seed) + " TARN_MODEL_REPLAY=" + name + "\n" +
         tarn_test::ModelTry{}.run(runner, choices);
}

// Returns: the choices of a run that was kept, if it is one of this world.
[[nodiscard]] std::optional<tarn_test::ModelChoices> kept_choices(const char* file, const char* world) {
  std::ifstream in{file};
  std::string name;
  if (!std::getline(in, name) || name != world) return std::nullopt;
  return tarn_test::choices_of(in);
}

template <class Traits, ModelUnits units = ModelUnits{}>
void run(const Config& config, std::uint64_t seed, std::uint64_t all_steps) {
  auto steps = all_steps * config.share / 1000;
  const auto world_seed = seed ^ std::hash<std::string>{}(config.name);
  if (std::getenv("TARN_MODEL_SHRINK") != nullptr) {
    const auto short_run = shrunk<Traits, units>(config, seed, world_seed, steps);
    std::cout << config.name << ": " << short_run << std::endl;
    SUCCEED(short_run);
    return;
  }
  ModelTrace trace{config.name, seed};
  ModelRandom random{world_seed};
  std::optional<tarn_test::ModelChoices> kept;
  if (const auto* const replay = std::getenv("TARN_MODEL_REPLAY"); replay != nullptr) {
    kept = kept_choices(replay, config.name);
    if (!kept) {
      SUCCEED("not of this world");
      return;
    }
    random = ModelRandom{0, std::make_shared<tarn_test::ReplayingTape>(*kept)};
    steps = kept->size() - 1;
  }
  auto world = std::make_unique<World<Traits, units>>(config, world_seed, std::move(random), trace);
  const auto wrong = world->run(steps);
  if (!wrong.empty()) {
    (void)world.release();  // what is in flight in it stays so
    const auto text = trace.text(wrong);
    FAIL(text << (kept ? "" : shrunk<Traits, units>(config, seed, world_seed, steps)));
  }
  SUCCEED(config.name);
}

}  // namespace

TEST_CASE("no order of operations and answers loses, shifts, resurrects or invents a byte, an error or a wake-up",
          "[model]") {
  const auto [seed, steps] = tarn_test::model_run();
  reach = {};
  byte_table = {};

  for (const Config& config : {
           Config{"heap, 1-byte chunks, tight", 1, 1, 4, true, false, true, 100},
           Config{"heap, 1-byte chunks, parts of 4, tight, a plain store", 1, 4, 64, true, false, false, 90},
           Config{"heap, 1-byte chunks, parts of 4, marks", 1, 4, 16, false, true, true, 70, 3},
           Config{"heap, 1-byte chunks", 1, 1, 8, false, false, false, 70},
           Config{"heap, 16-byte chunks, tight", 16, 1, 2, true, false, false, 100, 2},
           Config{"heap, 16-byte chunks, parts of 4, tight, marks", 16, 4, 4, true, true, true, 60},
           Config{"heap, 16-byte chunks, parts of 4", 16, 4, 2, false, false, true, 70, 4},
           Config{"heap, 16-byte chunks, marks, a plain store", 16, 1, 4, false, true, false, 70},
           Config{"heap, 4096-byte chunks, parts of 4, tight", 4096, 4, 2, true, false, true, 60},
           Config{"heap, 4096-byte chunks, a plain store", 4096, 1, 4, false, false, false, 40},
       }) {
    run<HeapTraits>(config, seed, steps);
  }
  constexpr ModelUnits loads_parts{.load = tarn::LoadUnit::parts},
      parts{.load = tarn::LoadUnit::parts, .flush = tarn::FlushUnit::parts}, files{.flush = tarn::FlushUnit::file};
  run<HeapTraits, loads_parts>({"heap, 1-byte chunks, loads of parts of 8, tight", 1, 8, 4, true, false, true, 50},
                               seed, steps);
  run<HeapTraits, parts>({"heap, 16-byte chunks, whole parts of 4", 16, 4, 2, false, false, true, 40, 2}, seed, steps);
  run<HeapTraits, parts>({"heap, 16-byte chunks, whole parts of 4, tight", 16, 4, 2, true, true, true, 40}, seed,
                         steps);
  run<HeapTraits, files>({"heap, 16-byte chunks, whole files, tight", 16, 2, 2, true, false, true, 40}, seed, steps);
  run<ArenaTraits>({"arena, 16-byte chunks, parts of 4, marks", 16, 4, 4, false, true, true, 60}, seed, steps);
  run<ArenaTraits>({"arena, 4096-byte chunks, parts of 4", 4096, 4, 2, false, false, true, 40}, seed, steps);

  if (std::getenv("TARN_MODEL_SHRINK") != nullptr || std::getenv("TARN_MODEL_REPLAY") != nullptr) return;

  // The run was where bytes, errors and wake-ups get lost: a hundred times in a million steps; of few nothing is asked.
  const auto enough = steps < 100'000 ? 0 : std::min<std::uint64_t>(100, steps / 10'000);
  for (std::size_t i = 0; i < reach.size(); ++i) {
    std::cout << (i == 0 ? "" : "; ") << came_names[i] << ": " << reach[i];
  }
  std::cout << std::endl;
  for (std::size_t i = 0; i < reach.size(); ++i) {
    INFO(came_names[i]);
    CHECK(reach[i] >= enough);
  }
  // And in every cell of the byte table.
  std::cout << byte_table.text();
  for (std::size_t row = 0; row < tarn_test::byte_rows; ++row) {
    for (std::size_t column = 0; column < tarn_test::byte_columns; ++column) {
      INFO(tarn_test::byte_row_names[row] << ": " << tarn_test::byte_column_names[column]);
      CHECK(byte_table.entered(static_cast<tarn_test::ByteRow>(row), static_cast<ByteColumn>(column)) >= enough);
    }
  }
}
