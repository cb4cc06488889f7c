// SPDX-License-Identifier: MIT
#pragma once

// One sequence of calls that touches everything a DirtyFile's embedder does. At its end the stores are well: everything
// is stored, durable, and given back.
//
// Thread safety: none.

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <new>
#include <optional>
#include <span>
#include <string>
#include <system_error>
#include <utility>

#include "fault/sweep_calls.hpp"

namespace tarn_test {

class SweepScript : public SweepCalls<FaultStore<SweepTraits>> {
 public:
  using SweepCalls<FaultStore<SweepTraits>>::SweepCalls;

  void run() {
    begin();
    alone();
    while_open();
    with_tokens();
    with_less_room();
    end();
  }

 private:
  void begin() {
    make_pool();
    have_stored(a(), 5 * P - 7, 3);
    make(a(), true);
    make(b(), false);
    make(c(), false);
  }

  // Stores that answer at once.
  void alone() {
    opener_.emplace(a().file->open());
    read(a(), 3, 2 * C);
    view(a(), C / 2, C);
    try_read(a(), 3, C);
    try_read(a(), 4 * P, C);
    load_ahead(a(), P, P + 3 * C);
    read(a(), 0, 6 * P);  // more than the pool holds
    write(a(), 5, 3);
    write(a(), P + 3, 3 * C + 5);
    for (std::uint64_t i = 0; i < 8; ++i) write(a(), 3 * P + 2 * i, 1);  // in a chunk, extents apart
    write(b(), 0, 3 * P + 9);
    fill(b(), 2 * C + 3, 3 * C);
    fill(b(), 3 * P + 5, C);
    append(b(), 2 * C + 1);
    write(b(), 3, 5 * P);  // more than there is room for beside what is dirty
    read(a(), 2 * P, 2 * P);
    view(b(), 2 * C + 1, 2 * C - 1);
    for (std::uint64_t i = 0; i < 6; ++i) zero(b(), i * 2 * C + 3, i * 2 * C + 7, true);
    flush(b());
    for (std::uint64_t i = 0; i < 6; ++i) zero(b(), i * 2 * C + C / 2, i * 2 * C + C + 2, true);
    read(b(), 0, 4 * P);
    truncate(a(), 3 * P + 5);
    truncate(a(), 4 * P + 5);
    zero(a(), 2 * P + C / 2, 3 * P, true);
    zero(a(), 4 * P, 4 * P + C + 3, false);
    append(a(), 3);
    sync(a());
    write(a(), P, C + 3);
    sync(a(), tarn::SyncScope::data);
    sync(a());
    sync(b());
    write(a(), 2 * P + 3, C);
    invalidate(a());
    read(a(), 0, 5 * P);
    write(b(), C / 2, 2 * C);
    invalidate(b());
    view(b(), 0, 2 * C);
    quietly_flush(a());
    write(a(), 3 * P + 1, C);
    zero(a(), C, 2 * C + 3, true);
    rebase(a(), 4 * P + 2);
    read(a(), 0, 5 * P);
    flush(a());
    write(a(), 7, 2 * C);
    truncate(a(), 2 * P);
    discard(a());
    read(a(), 0, 5 * P);
    write(b(), P, P);
    discard(b());
    write(b(), P + 1, P);
    sync(b());
    judge_told();
  }
  // A file that is removed while it is open, one that is dropped, and files of their ids.
  void while_open() {
    write(c(), 3, 2 * P);
    sync(c());
    write(c(), C, 3);
    std::optional<Open> opener;
    opener.emplace(c().file->open());
    insist("remove of an open file", Does::other, [&] { return c().file->remove().error(); });
    read(c(), 0, 3 * P);
    write(c(), P, C + 1);
    truncate(c(), P + 3);
    flush_deleted(c());
    call("the last close", [&] { opener.reset(); });
    while (one_.has(c().id) && wrong_.empty()) {
      if (struck() == 0) complain("a closed file is still there");
      opener.emplace(c().file->open());
      opener.reset();
      strikes_before_ = fault_points.strikes_by_kind();
    }
    c().bytes.clear();
    look(c());
    refused("write to a removed file", *c().file, std::errc::no_such_file_or_directory);
    renew(c());
    write(c(), 0, P + 3);
    flush(c());
    write(c(), 2, C);
    insist("remove", Does::remove, [&] { return c().file->remove().error(); });
    if (one_.has(c().id)) complain("a removed file is still there");
    c().bytes.clear();
    look(c());
    renew(c());
    write(c(), 5, P);
    flush(c());
    read(c(), 0, 2 * P);
    // Dropped with what is dirty, and the store has it again.
    write(c(), C, 2 * C);
    call("drop", [&] { c().file.reset(); });
    told_.lost_bytes = 0;
    c().bytes = one_.has(c().id) ? one_.disk(c().id).bytes : ModelBytes{};
    one_.disk(c().id).become_durable();
    forget_unsure(c());
    make(c(), true);
    read(c(), 0, 2 * P);
    write(c(), P, C);
    // Another file of the id, while this one lives.
    quietly_flush(c());
    const auto old = std::exchange(c().file, nullptr);
    make(c(), true);
    refused("write to an abandoned file", *old, static_cast<std::errc>(ESTALE));
    read(c(), 0, 2 * P);
    write(c(), C, C);
    judge_told();
  }
  // Stores that answer when told, and calls that wait with no thread.
  void with_tokens();

  // The budget goes down and up; what is clean goes.
  void with_less_room() {
    const auto budget_bytes = pool_->budget_bytes();
    const auto least_bytes = Pool::min_budget_bytes(pool_->core().marks);
    insist("set_budget_bytes", Does::other, [&] { return pool_->set_budget_bytes(least_bytes).error(); });
    look_at_all();
    write(a(), 3, P + 5);
    read(b(), 0, 3 * P);
    write(c(), C, 2 * C);
    call("evict_clean", [&] { return pool_->evict_clean(); });
    look_at_all();
    insist("set_budget_bytes", Does::other, [&] { return pool_->set_budget_bytes(budget_bytes + 2 * C).error(); });
    write(b(), P, P);
    read(a(), 0, 5 * P);
    sync(c());
    call("the last close", [&] { opener_.reset(); });
  }
};

inline void SweepScript::with_tokens() {
  const tarn::CallOptions at_once{.when_full = tarn::WhenFull::fail};
  call("evict_clean", [&] { return pool_->evict_clean(); });
  one_.answers_later = two_.answers_later = true;

  // Two flushes of b side by side, a write and a cut into what they have, and a read of a that somebody else needs.
  for (std::uint64_t part = 0; part < 3; ++part) write(b(), part * P + 3, 2, false);
  Ended<std::uint64_t> flushed;
  auto flush_b = tarn::flush_operation(*b().file, flushed.done());
  call("start of a flush", [&] { flush_b.start(); });
  reach_.side_by_side += two_.flushes_asked() == 2 ? 1 : 0;
  const auto from = random_.bytes(C + 4);
  Ended<tarn::Written> written;
  const auto write_mtime_ns = ++mtime_ns_, chained_mtime_ns = ++mtime_ns_;
  written.then = [&](const tarn::Result<tarn::Written>& n) {
    const OutOfCall ours;
    if (n) take_in(b(), n->offset, from, n->size_bytes, write_mtime_ns);
    b().in_motion = false;
  };
  auto write_b = tarn::write_operation(*b().file, 1, from, written.done(), write_mtime_ns);
  b().in_motion = true;
  call("start of a write", [&] { write_b.start(); });

  ModelBytes first(static_cast<std::size_t>(2 * C)), second(first), third(first);
  Ended<std::size_t> read_first, read_second, read_third;
  Ended<tarn::Written> chained;
  const auto chained_from = random_.bytes(C);
  chained.then = [&](const tarn::Result<tarn::Written>& n) {
    const OutOfCall ours;
    if (n) take_in(c(), n->offset, chained_from, n->size_bytes, chained_mtime_ns);
    c().in_motion = false;
  };
  auto chain = tarn::write_operation(*c().file, 2 * C, chained_from, chained.done(), chained_mtime_ns);
  read_first.then = [&](const tarn::Result<std::size_t>&) {  // a completion that starts something else
    c().in_motion = true;
    chain.start();
  };
  auto read_a = tarn::read_operation(*a().file, 3, first, read_first.done());
  auto read_again = tarn::read_operation(*a().file, C, second, read_second.done());
  call("start of a read", [&] { read_a.start(); });
  call("start of a second read", [&] { read_again.start(); });
  call("read_ahead", [&] { return opener_->read_ahead(3, 2 * C); });
  bool started = true;
  call("start_read", [&] {
    try {
      tarn::start_read(*a().file, P, third, read_third.done());
    } catch (const std::bad_alloc&) {
      started = false;
    }
  });
  Ended<std::size_t> cancelled;
  ModelBytes fourth(first);
  auto gone = tarn::read_operation(*a().file, P + 2 * C, fourth, cancelled.done());
  call("start of a read that is cancelled", [&] { gone.start(); });
  call("cancel", [&] { gone.cancel(); });
  if (!b().in_motion) {
    truncate(b(), 2 * P + 1, at_once);
    zero(b(), P + 1, P + C + 1, true, at_once);
  }
  try_read(b(), 0, C);
  const auto want = a().bytes;  // nothing changes it meanwhile
  answer(1, 1);
  check_ended("a flush", flushed, Does::flush);
  check_ended("a write", written, Does::write);
  check_ended("a read", read_first, Does::read);
  check_ended("a second read", read_second, Does::read);
  if (started) check_ended("start_read", read_third, Does::read);
  check_ended("a chained write", chained, Does::write);
  check_ended_read(read_first, want, first, 3);
  check_ended_read(read_second, want, second, C);
  check_ended_read(read_third, want, third, P);
  look_at_all();

  // A sync of a, whose flush and sync are answered in turn, with a write between; then a file that goes with a flush in
  // flight that nobody waits for, and one of its id.
  for (std::uint64_t part = 0; part < 3; ++part) write(a(), part * P + 7, C, false);
  Ended<void> synced;
  auto sync_a = tarn::sync_operation(*a().file, synced.done());
  call("start of a sync", [&] { sync_a.start(); });
  Ended<std::uint64_t> abandoned;
  write(c(), 3, 5, false);
  auto flush_c = tarn::flush_operation(*c().file, abandoned.done());
  call("start of a flush", [&] { flush_c.start(); });
  call("cancel", [&] { flush_c.cancel(); });
  write(a(), 9, 2, false);
  if (abandoned.result) {
    call("drop", [&] { c().file.reset(); });
    told_.lost_bytes = 0;
    forget_unsure(c());
    if (!one_.remove(c().id)) complain("the store does not remove it");  // but for what the flush brings yet
    c().bytes.clear();
    make(c(), false);
    write(c(), C + 2, C, false);
  }
  answer(0, 0);
  check_ended("a sync", synced, Does::sync);
  look_at_all();
  one_.answers_later = two_.answers_later = false;
  look_at_all();
}

}  // namespace tarn_test
