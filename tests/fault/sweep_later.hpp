// SPDX-License-Identifier: MIT
#pragma once

// A script for calls that wait with no thread, over stores that answer when told: views, writes that queue for room,
// flushes and syncs; some are cancelled, some go with their completion, and files go while loads are in flight.
//
// Thread safety: none.

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <new>
#include <optional>
#include <system_error>
#include <utility>

#include <tarn/dirty_file_async.hpp>
#include <tarn/flusher.hpp>

#include "fault/sweep_calls.hpp"

namespace tarn_test {

class SweepLater : public SweepCalls<FaultStore<SweepTraits>> {
 public:
  using SweepCalls<FaultStore<SweepTraits>>::SweepCalls;

  void run() {
    begin();
    views();
    writes();
    flushes();
    rounds();
    goes();
    one_.answers_later = two_.answers_later = false;
    call("the last close", [&] { opener_.reset(); });
    end();
  }

 private:
  void begin() {
    make_pool();
    have_stored(a(), 4 * P - 7, 3);
    have_stored(c(), 2 * P + 3, 1);
    make(a(), true);
    make(b(), false);
    make(c(), true);
    opener_.emplace(a().file->open({.min_bytes = C, .max_bytes = 2 * C}));
    one_.answers_later = two_.answers_later = true;
  }

  // Two views of one chunk, one that is cancelled, one that nobody keeps; and reads in order, with what comes next.
  void views() {
    bool same = true;
    const auto visitor = [&](std::uint64_t offset, std::uint64_t size) {
      return [&, offset, size](tarn::ConstBuffers bytes) {
        if (fault_points.fails(Fault::visitor)) throw Thrown{};
        const OutOfCall ours;
        ModelBytes shown(bytes.size_bytes());
        bytes.copy_to(shown);
        const auto want = expected(a(), offset, size);
        same = same && std::equal(want.begin(), want.end(), shown.begin(), shown.end());
        return shown.size();
      };
    };
    Ended<std::size_t> first, second, cancelled, kept;
    auto view = tarn::view_operation(*a().file, 3, C, visitor(3, C), first.done());
    auto again = tarn::view_operation(*a().file, C, C, visitor(C, C), second.done());
    auto gone = tarn::view_operation(*a().file, P, C, visitor(P, C), cancelled.done());
    call("start of a view", [&] { view.start(); });
    call("start of a second view", [&] { again.start(); });
    call("start of a view that is cancelled", [&] { gone.start(); });
    const bool started =
        starts("start_view", [&] { tarn::start_view(*a().file, 2 * P, C, visitor(2 * P, C), kept.done()); });
    call("cancel", [&] { gone.cancel(); });
    answer(1, 0);
    check_ended("a view", first, Does::view);
    check_ended("a second view", second, Does::view);
    check_cancelled("a view that is cancelled", cancelled, Does::view);
    if (started) check_ended("start_view", kept, Does::view);
    if (!same) complain("a view of other bytes");
    for (std::uint64_t at = 0; at < 3 * C; at += C) {
      Ended<std::size_t> done;
      ModelBytes into(static_cast<std::size_t>(C));
      auto read = tarn::read_operation(*a().file, at, into, done.done());
      call("start of a read", [&] { read.start(); });
      call("read_ahead", [&] { return opener_->read_ahead(at, C); });
      answer(0, 0);
      check_ended("a read", done, Does::read);
      check_ended_read(done, a().bytes, into, at);
    }
    look_at_all();
  }

  // The pool is full of what is dirty: three writes queue for the room that flushes make.
  void writes() {
    for (std::uint64_t chunk = 0, end = 0; chunk < 200 && b().bytes.size() >= end; ++chunk) {
      end = chunk * C + 3;
      write(b(), chunk * C + 1, 2, false);
    }
    const auto from = random_.bytes(2 * C);
    Ended<tarn::Written> first, cancelled, kept;
    const auto noted = [&](Ended<tarn::Written>& ended, Subject& at) {
      const auto mtime_ns = ++mtime_ns_;
      at.in_motion = true;
      ended.then = [&, mtime_ns](const tarn::Result<tarn::Written>& n) {
        const OutOfCall ours;
        if (n) take_in(at, n->offset, from, n->size_bytes, mtime_ns);
        at.in_motion = false;
      };
      return mtime_ns;
    };
    auto write_b = tarn::write_operation(*b().file, 64 * P, from, first.done(), noted(first, b()));
    auto write_a = tarn::write_operation(*a().file, 5, from, cancelled.done(), noted(cancelled, a()));
    call("start of a write", [&] { write_b.start(); });
    call("start of a write that is cancelled", [&] { write_a.start(); });
    const auto mtime_ns = noted(kept, c());
    const bool started = starts("start_write", [&] { tarn::start_write(*c().file, C, from, kept.done(), mtime_ns); });
    if (!started) c().in_motion = false;
    call("cancel", [&] { write_a.cancel(); });
    answer(0, 1);
    check_ended("a write", first, Does::write);
    check_cancelled("a write that is cancelled", cancelled, Does::write);
    if (started) check_ended("start_write", kept, Does::write);
    look_at_all();
  }

  // A flush that nobody keeps, a sync beside it, and a sync that is cancelled with its flush in flight.
  void flushes() {
    for (auto* const at : {&a(), &b(), &c()}) write(*at, P + 3, 2, false);
    Ended<std::uint64_t> flushed;
    Ended<void> synced, kept, cancelled;
    auto sync_a = tarn::sync_operation(*a().file, synced.done());
    auto sync_c = tarn::sync_operation(*c().file, cancelled.done(), tarn::SyncScope::data);
    const bool starts_flush = starts("start_flush", [&] { tarn::start_flush(*b().file, flushed.done()); });
    const bool starts_sync = starts("start_sync", [&] { tarn::start_sync(*b().file, kept.done()); });
    call("start of a sync", [&] { sync_a.start(); });
    call("start of a sync that is cancelled", [&] { sync_c.start(); });
    write(b(), P + 4, C, false);  // while it is lent
    call("cancel", [&] { sync_c.cancel(); });
    answer(1, 1);
    if (starts_flush) check_ended("start_flush", flushed, Does::flush);
    if (starts_sync) check_ended("start_sync", kept, Does::sync);
    check_ended("a sync", synced, Does::sync);
    check_cancelled("a sync that is cancelled", cancelled, Does::sync);
    look_at_all();
    judge_told();
  }

  void rounds() {
    tarn::FlushRounds<Traits> rounds{*pool_, {.interval_ns = 0, .dirty_ns_max = 1, .first_pause_ns = 0}};
    for (std::uint64_t i = 0; i < 3; ++i) {
      write(a(), i * P + 1, C, false);
      write(b(), 2 * P + i, 1, false);
      call("a round", [&] { return rounds.round(); });
      write(a(), i * P + 2, 1, false);
      answer(0, 0);
      look_at_all();
    }
    judge_told();
  }

  // A file goes while what it loads is in flight; and one that waits for room is made.
  void goes() {
    one_.answers_later = two_.answers_later = false;
    sync(c());
    one_.answers_later = true;
    call("evict_clean", [&] { return pool_->evict_clean(); });
    load_ahead(c(), 0, C);
    Ended<std::size_t> cancelled;
    ModelBytes into(static_cast<std::size_t>(C));
    auto read = tarn::read_operation(*c().file, P, into, cancelled.done());
    call("start of a read", [&] { read.start(); });
    call("cancel", [&] { read.cancel(); });
    check_cancelled("a read that is cancelled", cancelled, Does::read);
    if (one_.flushes_asked() != 0) answer(1, 0);  // or it would make a version that the next file does not know
    call("drop", [&] { c().file.reset(); });
    told_.lost_bytes = 0;
    forget_unsure(c());
    c().bytes = one_.disk(c().id).bytes;
    one_.disk(c().id).become_durable();
    make(c(), true);
    answer(1, 0);
    Ended<std::size_t> done;
    auto next = tarn::read_operation(*c().file, 1, into, done.done());
    call("start of a read", [&] { next.start(); });
    answer(0, 0);
    check_ended("a read", done, Does::read);
    check_ended_read(done, c().bytes, into, 1);
    look_at_all();
  }

  // Returns: whether there was memory to start it.
  template <class F>
  [[nodiscard]] bool starts(const char* step, F f) {
    try {
      call(step, f);
      return true;
    } catch (const std::bad_alloc&) {
      judge(std::make_error_code(std::errc::not_enough_memory), Does::other);
      return false;
    }
  }
  template <class T>
  void check_cancelled(const char* step, Ended<T>& ended, Does does) {
    step_ = step;
    if (!ended.result) return complain("it never ended");
    if (*ended.result || ended.result->error() == std::errc::operation_canceled) return;
    check_ended(step, ended, does);
  }
};

}  // namespace tarn_test
