// SPDX-License-Identifier: MIT
#pragma once

// A script for stores that give or take parts, or take files, as a whole: what of a part nobody asked for, parts that
// only a size makes zero, a file of one moment beside writes of several windows.
//
// Thread safety: none.

#include <cstddef>
#include <cstdint>
#include <utility>

#include <tarn/dirty_file_async.hpp>

#include "fault/sweep_calls.hpp"

namespace tarn_test {

template <class StoreType>
class SweepUnits : public SweepCalls<StoreType> {
 public:
  using Calls = SweepCalls<StoreType>;
  using Calls::Calls;

  void run() {
    begin();
    alone();
    with_tokens();
    with_less_room();
    this->end();
  }

 private:
  using typename Calls::Does, typename Calls::Pool, typename Calls::Subject;
  template <class T>
  using Ended = typename Calls::template Ended<T>;
  using Calls::a, Calls::b, Calls::c, Calls::have_stored;
  using Calls::answer, Calls::call, Calls::check_ended, Calls::fill, Calls::flush, Calls::insist, Calls::load_ahead,
      Calls::look, Calls::look_at_all, Calls::read, Calls::sync, Calls::truncate, Calls::try_read, Calls::view,
      Calls::write, Calls::zero;
  using Calls::C, Calls::mtime_ns_, Calls::one_, Calls::opener_, Calls::P, Calls::pool_, Calls::random_,
      Calls::subjects_, Calls::two_;

  void begin() {
    this->make_pool();
    have_stored(a(), 4 * P - 7, 3);
    this->make(a(), true);
    this->make(b(), false);
    this->make(c(), false);
    opener_.emplace(a().file->open());
  }

  void alone() {
    read(a(), 3, C);  // and the rest of the part
    write(a(), C + 3, 5);
    view(a(), C, C);  // beside what is dirty
    try_read(a(), P, C);
    read(a(), 0, 5 * P);
    write(a(), 2 * P + C + 1, 2);
    flush(a());
    write(b(), 3, P + C);
    flush(b());
    truncate(b(), 6 * P + 3);  // a huge hole, for them
    write(b(), 3 * P + 5, 3);
    flush(b());
    zero(b(), C, 2 * C + 1, true);
    zero(b(), 7 * P, 7 * P + 5, false);
    flush(b());
    truncate(b(), P + 5);
    truncate(b(), 2 * P);
    fill(b(), P - 3, C + 5);
    sync(b());
    read(b(), 0, 3 * P);
    write(a(), P + 1, 2 * C);
    sync(a());
    write(a(), 3, C);
    this->invalidate(a());
    read(a(), 0, P);
    this->quietly_flush(a());
    write(a(), C, 3);
    zero(a(), 2 * P + 3, 2 * P + C, true);
    this->rebase(a(), 3 * P + 2);
    read(a(), 2 * P, 2 * P);
    flush(a());
    write(a(), 7, C);
    this->discard(a());
    write(c(), P + 3, C);
    sync(c());
    write(c(), 1, 2);
    insist("remove", Does::remove, [&] { return c().file->remove().error(); });
    c().bytes.clear();
    look(c());
    this->renew(c());
    write(c(), 0, C + 3);
    this->judge_told();
  }

  void with_tokens() {
    call("evict_clean", [&] { return pool_->evict_clean(); });
    one_.answers_later = two_.answers_later = true;
    // A flush, and a write of several windows that meets it.
    for (std::uint64_t part = 0; part < 3; ++part) write(b(), part * P + 3, 2, false);
    Ended<std::uint64_t> flushed;
    auto flush_b = tarn::flush_operation(*b().file, flushed.done());
    call("start of a flush", [&] { flush_b.start(); });
    const auto from = random_.bytes(3 * C);
    const auto write_mtime_ns = ++mtime_ns_;
    Ended<tarn::Written> written;
    written.then = [&](const tarn::Result<tarn::Written>& n) {
      const OutOfCall ours;
      if (n) this->take_in(b(), n->offset, from, n->size_bytes, write_mtime_ns);
      b().in_motion = false;
    };
    auto write_b = tarn::write_operation(*b().file, 1, from, written.done(), write_mtime_ns);
    b().in_motion = true;
    call("start of a write", [&] { write_b.start(); });
    // Two reads that want bytes of one part, a load ahead of the next one, and a write into what is loading.
    ModelBytes first(static_cast<std::size_t>(C)), second(first);
    Ended<std::size_t> read_first, read_second;
    auto read_a = tarn::read_operation(*a().file, 3, first, read_first.done());
    auto read_again = tarn::read_operation(*a().file, C + 3, second, read_second.done());
    const auto want = a().bytes;
    call("start of a read", [&] { read_a.start(); });
    call("start of a second read", [&] { read_again.start(); });
    load_ahead(a(), P, P + 1);
    write(a(), 2 * P - 3, 2, false);
    write(c(), 5, C, false);
    Ended<void> synced;
    auto sync_c = tarn::sync_operation(*c().file, synced.done());
    call("start of a sync", [&] { sync_c.start(); });
    answer(1, 1);
    check_ended("a flush", flushed, Does::flush);
    check_ended("a write", written, Does::write);
    check_ended("a read", read_first, Does::read);
    check_ended("a second read", read_second, Does::read);
    check_ended("a sync", synced, Does::sync);
    this->check_ended_read(read_first, want, first, 3);
    this->check_ended_read(read_second, want, second, C + 3);
    one_.answers_later = two_.answers_later = false;
    look_at_all();
  }

  void with_less_room() {
    const auto budget_bytes = pool_->budget_bytes();
    const auto least_bytes = Pool::min_budget_bytes(pool_->core().marks);
    insist("set_budget_bytes", Does::other, [&] { return pool_->set_budget_bytes(least_bytes).error(); });
    look_at_all();
    read(a(), 0, 4 * P);
    write(b(), 3, 2 * P);
    write(a(), P + 3, C);
    insist("set_budget_bytes", Does::other, [&] { return pool_->set_budget_bytes(budget_bytes + 4 * C).error(); });
    write(b(), P, P);
    read(a(), 0, 5 * P);
    sync(b());
    call("the last close", [&] { opener_.reset(); });
  }
};

}  // namespace tarn_test
