// SPDX-License-Identifier: MIT
#pragma once

// Every call of a DirtyFile's embedder, with its model: what it said it did is in the model then, and one that failed
// changed nothing.
//
// Thread safety: none.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <system_error>
#include <utility>
#include <vector>

#include "fault/sweep_run.hpp"

namespace tarn_test {

template <class StoreType>
class SweepCalls : public SweepRun<StoreType> {
 protected:
  using Run = SweepRun<StoreType>;
  using Run::Run;
  template <class T>
  using Ended = typename Run::template Ended<T>;
  using Run::a, Run::b, Run::c, Run::call, Run::call_for_room, Run::check_read, Run::complain, Run::copy, Run::expected,
      Run::explains, Run::give_back, Run::have_stored, Run::insist, Run::judge, Run::look, Run::look_at_all,
      Run::struck, Run::take_in;
  using Run::looks_, Run::mtime_ns_, Run::one_, Run::opener_, Run::P, Run::plan_, Run::pool_, Run::random_,
      Run::random_bytes_, Run::reach_, Run::step_, Run::strikes_before_, Run::subjects_, Run::told_, Run::two_;
  using typename Run::Does, typename Run::File, typename Run::Metadata, typename Run::Subject, typename Run::Thrown;

  void read(Subject& at, std::uint64_t offset, std::uint64_t size) {
    ModelBytes into(static_cast<std::size_t>(size), std::byte{0xEE});
    const auto n = call("read", [&] { return at.file->read(offset, into); });
    if (n) {
      check_read(expected(at, offset, size), std::span{into}.first(*n));
    } else {
      judge(n.error(), Does::read);
    }
    look(at);
  }
  void view(Subject& at, std::uint64_t offset, std::uint64_t size) {
    bool same = false, thrown = false;
    const auto want = expected(at, offset, size);
    try {
      const auto n = call("view", [&] {
        return at.file->view(offset, size, [&](tarn::ConstBuffers bytes) {
          if (fault_points.fails(Fault::visitor)) throw Thrown{};
          const OutOfCall ours;
          ModelBytes copied(bytes.size_bytes());
          bytes.copy_to(copied);
          same = std::equal(want.begin(), want.end(), copied.begin(), copied.end());
          return copied.size();
        });
      });
      if (!n) {
        judge(n.error(), Does::view);
      } else if (!same) {
        complain("other bytes");
      }
    } catch (const Thrown&) {
      ++reach_.errors;
      thrown = true;
    }
    if (thrown && struck() == 0) complain("what nobody threw");
    look(at);
  }
  void try_read(Subject& at, std::uint64_t offset, std::uint64_t size) {
    ModelBytes into(static_cast<std::size_t>(size));
    auto n = call("try_read", [&] { return at.file->try_read(offset, into); });
    if (n.done()) {
      check_read(expected(at, offset, size), std::span{into}.first(*n));
    } else if (!n.needs_load()) {
      judge(n.error(), Does::read);
    }
    look(at);
  }
  void write(Subject& at, std::uint64_t offset, std::uint64_t size, bool waits = true) {
    const auto from = random_.bytes(size);
    const auto n = call_for_room(waits ? "write" : "try_write", [&] {
      return waits ? at.file->write(offset, from, ++mtime_ns_) : at.file->try_write(offset, from, ++mtime_ns_);
    });
    if (n) {
      take_in(at, offset, from, *n);
    } else if (waits || n.error() != std::errc::resource_unavailable_try_again) {
      judge(n.error(), Does::write);
    }
    look(at);
  }
  void fill(Subject& at, std::uint64_t offset, std::uint64_t size) {
    const auto from = random_.bytes(size);
    std::size_t done = 0;  // of windows before, and of this one
    try {
      const auto n = call("fill", [&] {
        return at.file->write(
            offset, size,
            [&](tarn::MutableBuffers into) -> tarn::Result<std::size_t> {
              const auto room = into.size_bytes();
              auto some = room;
              if (fault_points.fails(Fault::filler)) {
                for (std::size_t i = 0; i < into.count(); ++i) std::ranges::fill(into[i], std::byte{0xEE});
                const auto way = way_of(Fault::filler, plan_.way);
                if (way == FaultWay::dropped) throw Thrown{};
                if (way == FaultWay::error) return tarn::fail(std::errc::broken_pipe);
                some = room / 2;
              }
              into.copy_from(std::span<const std::byte>{from}.subspan(done, some));
              done += some;
              return some;
            },
            ++mtime_ns_);
      });
      if (!n) {
        judge(n.error(), Does::fill);
        if (done != 0) complain("an error after bytes were taken in");
      } else if (*n != done) {
        complain("another length than what was filled");
      }
    } catch (const Thrown&) {
    }
    take_in(at, offset, from, done);
    look(at);
  }
  void append(Subject& at, std::uint64_t size) {
    const auto from = random_.bytes(size);
    const auto n = call("append", [&] { return at.file->append(from, ++mtime_ns_); });
    if (!n) {
      judge(n.error(), Does::write);
    } else if (n->offset != at.bytes.size()) {
      complain("not at the end");
    } else {
      take_in(at, n->offset, from, n->size_bytes);
    }
    look(at);
  }
  void truncate(Subject& at, std::uint64_t size, const tarn::CallOptions& options = {}) {
    const auto done = call("truncate", [&] { return at.file->truncate(size, ++mtime_ns_, options); });
    if (done) {
      at.mtime_ns = mtime_ns_;
      at.bytes.resize(static_cast<std::size_t>(size));
    } else {
      judge(done.error(), Does::change);
    }
    look(at);
  }
  void zero(Subject& at, std::uint64_t offset, std::uint64_t end, bool punches, const tarn::CallOptions& options = {}) {
    const auto which = tarn::ByteRange::between(offset, end);
    const auto done = call(punches ? "punch_hole" : "zero_range", [&] {
      return punches ? at.file->punch_hole(which, ++mtime_ns_, options)
                     : at.file->zero_range(which, false, ++mtime_ns_, options);
    });
    if (done) {
      at.mtime_ns = mtime_ns_;
      if (!punches) at.bytes.resize(std::max<std::size_t>(at.bytes.size(), static_cast<std::size_t>(end)));
      for (auto i = offset; i < std::min<std::uint64_t>(end, at.bytes.size()); ++i) {
        at.bytes[static_cast<std::size_t>(i)] = {};
      }
    } else {
      judge(done.error(), Does::change);
    }
    look(at);
  }
  void flush(Subject& at) {
    const auto done = call("flush", [&] { return at.file->flush(); });
    if (!done) {
      judge(done.error(), Does::flush);
    } else {
      auto stored = at.store->disk(at.id).bytes;
      excuse(at, stored);
      if (at.file->is_dirty() || stored != at.bytes) complain("flushed, and the store has something else");
    }
    look(at);
  }
  void sync(Subject& at, tarn::SyncScope scope = tarn::SyncScope::all) {
    const auto done = call("sync", [&] { return at.file->sync({}, scope); });
    if (!done) {
      judge(done.error(), Does::sync);
    } else {
      check_synced(at);
    }
    look(at);
  }
  void check_synced(Subject& at) {
    if (at.file->is_dirty()) complain("synced, and dirty");
    auto durable = at.store->disk(at.id).durable();
    if (durable.size() != at.bytes.size()) return complain("synced, and another size is durable");
    excuse(at, durable);
    if (durable != at.bytes) complain("synced, and other bytes are durable");
  }
  /// Of what a store has: what no flush can bring back, since a sync has failed, the embedder was told.
  void excuse(const Subject& at, ModelBytes& stored) {
    for (const auto& told : told_.unsure) {
      if (told.file != at.id) continue;
      const auto inside = told.extents.intersect(tarn::ByteRange::between(0, stored.size()));
      for (const auto& extent : inside.extents()) copy(stored, at.bytes, extent);
    }
  }
  void load_ahead(Subject& at, std::uint64_t offset, std::uint64_t end) {
    call("load_ahead", [&] { return at.file->load_ahead(tarn::ByteRange::between(offset, end)); });
    look(at);
  }
  /// The store has other bytes by now, where nothing was changed here.
  void invalidate(Subject& at) {
    auto& disk = at.store->disk(at.id);
    const auto done = call("invalidate", [&] { return at.file->invalidate(disk.version + 1); });
    if (done) {
      const auto meta = at.file->metadata();
      auto clean = meta.stored();
      clean.subtract(pool_->dirty_extents(meta));
      for (const auto& extent : clean.extents()) become_other(at, extent);
      ++disk.version;
      disk.become_durable();
    } else {
      judge(done.error(), Does::other);
    }
    look(at);
  }
  void become_other(Subject& at, tarn::ByteRange range) {
    auto& stored = at.store->disk(at.id).bytes;
    if (range.end() > std::min(stored.size(), at.bytes.size())) return complain("stored past what there is");
    for (auto i = static_cast<std::size_t>(range.offset()); i < range.end(); ++i) {
      stored[i] ^= std::byte{0x55};
      at.bytes[i] = stored[i];
    }
  }
  /// The same, with another size, which is the file's where it does not end in dirty bytes. Requires: no size was set
  /// here since the last flush, which ended well.
  void rebase(Subject& at, std::uint64_t size) {
    auto& disk = at.store->disk(at.id);
    const auto meta = at.file->metadata();
    const auto dirty = pool_->dirty_extents(meta);
    auto ours = tarn::ExtentSet{tarn::ByteRange::between(0, meta.size())};  // holes, and what is dirty
    ours.subtract(meta.stored());
    ours.add(dirty);
    const auto done = call("rebase", [&] { return at.file->rebase(size, disk.version + 1); });
    if (done) {
      disk.bytes = random_.bytes(size);
      ++disk.version;
      disk.become_durable();
      auto made = disk.bytes;
      made.resize(std::max<std::size_t>(made.size(), dirty.empty() ? 0 : dirty.extents().back().end()));
      ours = ours.intersect(tarn::ByteRange::between(0, std::min(made.size(), at.bytes.size())));
      for (const auto& extent : ours.extents()) copy(made, at.bytes, extent);
      at.bytes = std::move(made);
    } else {
      judge(done.error(), Does::other);
    }
    look(at);
  }
  void discard(Subject& at) {
    auto& disk = at.store->disk(at.id);
    const auto dirty_bytes = pool_->dirty_bytes(at.file->metadata());
    const auto gone = call("discard_dirty", [&] { return at.file->discard_dirty(disk.bytes.size(), disk.version); });
    if (gone) {
      if (*gone != dirty_bytes) complain("gave up another number of bytes");
      at.bytes = disk.bytes;
      disk.become_durable();
    } else {
      judge(gone.error(), Does::other);
    }
    look(at);
  }

  void make(Subject& at, bool stored) {
    at.mtime_ns = 0;
    insist("a file is made", Does::change, [&]() -> std::error_code {
      try {
        if (stored) {
          const auto& disk = at.store->disk(at.id);
          at.file = std::make_shared<File>(
              *pool_, Metadata::from_store(at.id, disk.bytes.size(), {.part_bytes = P, .version = disk.version}),
              *at.store);
        } else {
          at.file = std::make_shared<File>(*pool_, Metadata::created(at.id, {.part_bytes = P}), *at.store);
        }
        return {};
      } catch (...) {
        return tarn::detail::current_exception_code();
      }
    });
  }
  void refused(const char* step, File& file, std::errc why) {
    const auto n = call(step, [&] { return file.write(0, random_bytes_); });
    if (n) {
      complain("it is written");
    } else if (n.error() != why) {
      judge(n.error(), Does::write);
    }
  }
  // A deleted file has nothing to store.
  void flush_deleted(Subject& at) {
    const auto done = call("flush of a deleted file", [&] { return at.file->flush(); });
    if (!done) judge(done.error(), Does::flush);
    look(at);
  }
  void renew(Subject& at) {
    call("drop", [&] { at.file.reset(); });
    forget_unsure(at);
    make(at, false);
  }
  void forget_unsure(const Subject& at) {
    std::erase_if(told_.unsure, [&](const auto& told) { return told.file == at.id; });
  }

  // ---- stores that answer when told

  template <class T>
  void check_ended(const char* step, Ended<T>& ended, Does does) {
    step_ = step;
    if (!ended.result) return complain("it never ended");
    if (!*ended.result) judge(ended.result->error(), does, kinds_since(ended.strikes_before, ended.strikes));
  }
  void answer(std::size_t of_one, std::size_t of_two) {
    for (std::size_t turn = 0; one_.asked() + two_.asked() != 0; ++turn) {
      auto& store = one_.asked() == 0 || (turn % 2 != 0 && two_.asked() != 0) ? two_ : one_;
      const auto index = std::min(store.asked() - 1, &store == &one_ ? of_one : of_two);
      call("an answer", [&] { store.answer(index); });
      look_at_all();
      if (turn != 5'000) continue;
      complain("the stores are asked for ever");
      fault_points.end();  // and so it ends
    }
  }
  /// Of an operation that read the file when it had `bytes`.
  void check_ended_read(const Ended<std::size_t>& ended, const ModelBytes& bytes, const ModelBytes& into,
                        std::uint64_t offset) {
    if (!ended.result || !*ended.result) return;
    const auto rest = std::span{bytes}.subspan(std::min<std::size_t>(bytes.size(), offset));
    check_read(rest.first(std::min(rest.size(), into.size())), std::span{into}.first(**ended.result));
  }

  /// What an opener is told in the end.
  void judge_told() {
    const auto error = call("take_error", [&] { return opener_->take_error(); });
    if (!error && told_.failures.empty()) complain("an error that no observer was told");
    const auto kinds = kinds_since({}, fault_points.strikes_by_kind());
    for (const auto& failure : told_.failures) {
      const bool removes = (kinds & kind_of(Fault::remove)) != 0 && explains(Fault::remove, Does::remove, failure.why);
      judge(failure.why, removes ? Does::remove : Does::flush, kinds);
    }
    told_.failures.clear();
    reach_.unsure += told_.unsure.size();
  }
  /// With no fault.
  void quietly_flush(Subject& at) {
    if (const auto done = at.file->flush(); !done) complain("a flush fails with no fault: " + done.error().message());
  }

  // No fault any more: everything is stored and durable, and everything is given back. `give_up` lets go of what else
  // has the files.
  template <class GiveUp>
  void end(GiveUp give_up) {
    fault_points.end();
    looks_ = true;
    for (auto& at : subjects_) {
      look(at);
      step_ = "the last flush";
      if (const auto done = at.file->flush(); !done) complain(done.error().message());
      step_ = "the last sync";
      if (const auto done = at.file->sync(); !done) complain(done.error().message());
      if (at.file->needs_sync()) complain("it is still due");
      if (at.store->disk(at.id).bytes != at.bytes) complain("the store has other bytes");
      check_synced(at);
      read(at, 0, at.bytes.size() + 9);
      look(at);
    }
    give_up();
    for (auto& at : subjects_) at.file.reset();
    give_back();
  }
  void end() {
    end([] {});
  }
};

}  // namespace tarn_test
