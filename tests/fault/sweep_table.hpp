// SPDX-License-Identifier: MIT
#pragma once

// A script for a table of files, with their openers, and rounds of write-back in the background.
//
// Thread safety: none.

#include <cstddef>
#include <cstdint>
#include <new>
#include <optional>
#include <system_error>
#include <utility>

#include <tarn/dirty_file_table.hpp>
#include <tarn/flusher.hpp>

#include "fault/sweep_calls.hpp"

namespace tarn_test {

/// `StoreType` has the storage.
template <class StoreType>
class SweepTable : public SweepCalls<StoreType> {
 public:
  using Calls = SweepCalls<StoreType>;
  using Calls::Calls;

  void run() {
    this->make_pool();
    table_.emplace(*pool_, one_);
    for (auto& at : subjects_) at.store = &one_;
    have_stored(a(), 3 * P - 7, 3);
    found();
    opened();
    in_rounds();
    gone();
    this->end([&] { table_.reset(); });
  }

 private:
  using typename Calls::Does, typename Calls::File, typename Calls::Metadata, typename Calls::Open,
      typename Calls::Pool, typename Calls::Subject, typename Calls::Thrown, typename Calls::Traits;
  using Table = tarn::DirtyFileTable<Traits, StoreType>;
  using Calls::a, Calls::b, Calls::c, Calls::have_stored;
  using Calls::C, Calls::one_, Calls::opener_, Calls::P, Calls::pool_, Calls::random_, Calls::subjects_;
  using Calls::call, Calls::complain, Calls::insist, Calls::judge, Calls::look, Calls::look_at_all, Calls::read,
      Calls::truncate, Calls::view, Calls::write, Calls::zero;

  void found() {
    add(a(), Metadata::from_store(a().id, a().bytes.size(), {.part_bytes = P, .version = 3}));
    add(b(), Metadata::created(b().id, {.part_bytes = P}));
    add(c(), Metadata::created(c().id, {.part_bytes = P}));
    add(b(), Metadata::created(b().id, {.part_bytes = P}));  // is there already
    write(a(), 3, C);
    write(b(), 5, 2 * P);
    write(c(), C + 1, 3);
    read(a(), 0, 4 * P);
    if (table_->size() != 3) complain("the table has not the files that it was given");
    list_dirty();
    flush_all();
    list_dirty();
    find(b());
    fails_once([&] { return table_->find_if([](const Metadata&) { return visit(false); }) != nullptr; });
  }
  void opened() {
    opener_.emplace(a().file->open());
    call("evict_clean", [&] { return pool_->evict_clean(); });
    read(a(), P, C);
    view(a(), 3, C);
    write(a(), P + 1, 2);
    by_opener("OpenFile::flush", Does::flush, [&] { return opener_->flush(); });
    truncate(a(), 2 * P + 3);
    zero(a(), P, P + C + 1, true);
    by_opener("OpenFile::sync", Does::sync, [&] { return opener_->sync(); });
    write(c(), 0, C);
    Open another = c().file->open();
    insist("remove of an open file", Does::other, [&] { return c().file->remove().error(); });
    read(c(), 0, P);
    write(c(), 3, C);
    call("the last close", [&] { const Open last = std::move(another); });
    if (one_.has(c().id)) {
      if (this->struck() == 0) complain("a closed file is still there");
      const Open again = c().file->open();  // and closed, with no fault
    }
    c().bytes.clear();
    look(c());
    this->judge_told();
  }
  // Everything is old enough; the pauses after a failure are none.
  void in_rounds() {
    tarn::FlushRounds<Traits> rounds{*pool_, {.interval_ns = 0, .dirty_ns_max = 1, .first_pause_ns = 0}};
    for (int i = 0; i < 3; ++i) {
      write(a(), static_cast<std::uint64_t>(i) * C, 2 * C);
      write(b(), P + static_cast<std::uint64_t>(i), 1);
      truncate(b(), 3 * P - static_cast<std::uint64_t>(i));
      call("a round", [&] { return rounds.round(); });
      if (this->struck() == 0 && (a().file->is_dirty() || b().file->is_dirty())) complain("a round leaves something");
      look_at_all();
      this->judge_told();
    }
  }
  // Dropped and found again; removed and made anew; by a predicate.
  void gone() {
    write(b(), 3, C);
    flush_all();
    quietly_drop(b());
    if (table_->find(b().id) != nullptr) complain("a dropped file is found");
    const auto& disk = one_.disk(b().id);
    add(b(), Metadata::from_store(b().id, disk.bytes.size(), {.part_bytes = P, .version = disk.version}));
    read(b(), 0, 3 * P);
    write(b(), P, 2);
    insist("remove", Does::remove, [&] { return b().file->remove().error(); });
    b().bytes.clear();
    look(b());
    fails_once([&] {
      return table_->erase_if([](const Metadata& meta) { return visit(meta.state() == tarn::FileState::deleted); }) !=
             0;
    });
    // Whatever that did, the table is rid of them now.
    for (auto* const at : {&b(), &c()}) {
      call("drop", [&] {
        (void)table_->drop(at->id);
        at->file.reset();
      });
      this->forget_unsure(*at);
      add(*at, Metadata::created(at->id, {.part_bytes = P}));
      write(*at, 7, C);
    }
    call("the last close", [&] { opener_.reset(); });
    flush_all();
  }

  void add(Subject& at, const Metadata& meta) {
    if (at.file == nullptr) at.mtime_ns = 0;
    insist("find_or_add", Does::change, [&]() -> std::error_code {
      try {
        const auto file = table_->find_or_add(meta);
        if (at.file != nullptr && at.file != file) complain("another file of an id that is there");
        at.file = file;
        return {};
      } catch (...) {
        return tarn::detail::current_exception_code();
      }
    });
  }
  void find(const Subject& at) {
    if (call("find", [&] { return table_->find(at.id); }) != at.file) complain("another file is found");
  }
  void quietly_drop(Subject& at) {
    this->quietly_flush(at);
    call("drop", [&] {
      (void)table_->drop(at.id);
      at.file.reset();
    });
    this->forget_unsure(at);
  }
  void list_dirty() {
    fails_once([&] {
      for (const auto id : table_->dirty()) {
        for (const auto& at : subjects_) {
          if (at.id == id && !at.file->is_dirty()) complain("a clean file is listed");
        }
      }
      return true;
    });
  }
  void flush_all() {
    fails_once([&] {
      if (const auto done = table_->flush_all(); !done) judge(done.error(), Does::flush);
      return true;
    });
    if (this->struck() == 0 && !table_->dirty().empty()) complain("a file is dirty");
    look_at_all();
  }
  // A call whose predicate may throw, or that finds no memory for its list.
  template <class F>
  void fails_once(F f) {
    try {
      (void)call("a call of the table", f);
    } catch (const Thrown&) {
      ++this->reach_.errors;
    } catch (const std::bad_alloc&) {
      judge(std::make_error_code(std::errc::not_enough_memory), Does::other);
    }
    look_at_all();
  }
  [[nodiscard]] static bool visit(bool answer) {
    if (fault_points.fails(Fault::predicate)) throw Thrown{};
    return answer;
  }
  // Its own error, or that of a flush before it.
  template <class F>
  void by_opener(const char* step, Does does, F f) {
    const auto done = call(step, f);
    if (!done) judge(done.error(), does, kinds_since({}, fault_points.strikes_by_kind()));
    look(a());
  }

  std::optional<Table> table_;
};

}  // namespace tarn_test
