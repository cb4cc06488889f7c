// SPDX-License-Identifier: MIT
#pragma once

// A script for the building blocks: a pool, plain metadata and the algorithms, which flush nothing by themselves.
//
// Thread safety: none.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <new>
#include <optional>
#include <span>
#include <system_error>
#include <utility>

#include "fault/sweep_run.hpp"

namespace tarn_test {

class SweepBlocks : public SweepRun<FaultStore<SweepTraits>> {
 public:
  using SweepRun<FaultStore<SweepTraits>>::SweepRun;

  void run() {
    make_pool();
    bytes_ = random_.bytes(4 * P - 7);
    one_.disk(id).become(bytes_, 3);
    meta_ = Metadata::from_store(id, bytes_.size(), {.part_bytes = P, .version = 3});
    reads();
    changes();
    jobs();
    pins();
    goes();
    end();
  }

 private:
  using Job = tarn::FlushJob<Traits>;
  using Outcome = tarn::FlushOutcome<Traits>;
  static constexpr std::uint64_t id = 7;

  void reads() {
    read(3, 2 * C);
    view(C / 2, C);
    try_read(3, C);
    try_read(3 * P, C);
    read(0, 5 * P);  // more than the pool holds
    view(4 * P, 5);
  }
  void changes() {
    write(5, 3);
    write(P + 3, 2 * C);
    for (std::uint64_t i = 0; i < 6; ++i) write(3 * P + 2 * i, 1);  // in a chunk, extents apart
    fill(2 * P + 3, C);
    write(0, 6 * P);  // more than there is room for
    flush();
    read(P, 2 * P);
    truncate(2 * P + 5);
    truncate(3 * P);
    zero(P + 3, P + C + 1, true);
    zero(3 * P - 2, 3 * P + C, false);
    write(3, 5);
    flush();
    call("evict_clean", [&] { return pool_->evict_clean(); });
    read(0, 4 * P);
  }
  // Begun and settled by hand: as stored, as failed, and dropped, with a change in between.
  void jobs() {
    using enum tarn::FlushStatus;
    for (const auto status : {stored, failed, unknown, conflict, durable}) {
      write(2, 7);
      write(C + 3, C);
      auto job = begin();
      if (!job) continue;
      write(4, 2);  // while it is lent
      zero(C + 5, C + 7, true);
      finish(std::move(job), status);
    }
    write(2, 3);
    { const auto dropped = begin(); }
    look();
    const auto chunks = listed([&] { return pool_->dirty_chunks(*meta_); });
    if (chunks && !chunks->empty()) mark_flushed(chunks->front());
    flush();
  }
  void pins() {
    read(0, 2 * C);
    auto pin = call("pin", [&] { return pool_->pin(*meta_, 0); });
    if (!pin) {
      if (pin.error() != std::errc::no_such_file_or_directory) judge(pin.error(), Does::view);
      return;
    }
    write(1, 2);
    try {
      const auto want = std::span{bytes_}.first(static_cast<std::size_t>(C));
      const auto same = call("with_data", [&] {
        return pin->with_data([&](std::span<const std::byte> shown) {
          if (fault_points.fails(Fault::visitor)) throw Thrown{};
          return std::equal(shown.begin(), shown.end(), want.begin(), want.end());
        });
      });
      if (same && !*same) complain("other bytes");
    } catch (const Thrown&) {
      ++reach_.errors;
    }
    read(0, 4 * P);
  }
  // Deleted, by a flush; and another file of the id, that is dropped with what is dirty.
  void goes() {
    const auto before = meta_->state();
    insist("remove", Does::remove, [&] {
      meta_->note_deleted();
      const auto removed = tarn::flush(*pool_, *meta_, one_);
      if (!removed) meta_->undo_deleted(before);
      return removed.error();
    });
    if (one_.has(id)) complain("a removed file is still there");
    bytes_.clear();
    meta_ = Metadata::created(id, {.part_bytes = P});
    write(3, P);
    flush();
    write(0, 2);
    call("drop", [&] { return pool_->drop(*meta_); });
    const auto& disk = one_.disk(id);
    bytes_ = disk.bytes;
    meta_ = Metadata::from_store(id, bytes_.size(), {.part_bytes = P, .version = disk.version});
    read(0, 2 * P);
    write(C, P);
  }
  void end() {
    fault_points.end();
    looks_ = true;
    look();
    flush();
    if (one_.disk(id).bytes != bytes_) complain("the store has other bytes");
    read(0, bytes_.size() + 9);
    pool_->drop(*meta_);
    give_back();
  }

  // ---- the calls

  void read(std::uint64_t offset, std::uint64_t size) {
    ModelBytes into(static_cast<std::size_t>(size), std::byte{0xEE});
    const auto n = call("read_range", [&] { return tarn::read_range(*pool_, *meta_, offset, into, one_); });
    if (n) {
      check_read(expected(offset, size), std::span{into}.first(*n));
    } else {
      judge(n.error(), Does::read);
    }
    look();
  }
  void try_read(std::uint64_t offset, std::uint64_t size) {
    ModelBytes into(static_cast<std::size_t>(size));
    auto n = call("try_read_range", [&] { return tarn::try_read_range(*pool_, *meta_, offset, into); });
    if (n.done()) {
      check_read(expected(offset, size), std::span{into}.first(*n));
    } else if (!n.needs_load()) {
      judge(n.error(), Does::read);
    }
    look();
  }
  void view(std::uint64_t offset, std::uint64_t size) {
    const auto want = expected(offset, size);
    try {
      const auto same = call("a view by read_range", [&] {
        return tarn::read_range(*pool_, *meta_, offset, size, one_, [&](tarn::ConstBuffers bytes) {
          if (fault_points.fails(Fault::visitor)) throw Thrown{};
          const OutOfCall ours;
          ModelBytes copied(bytes.size_bytes());
          bytes.copy_to(copied);
          return std::equal(want.begin(), want.end(), copied.begin(), copied.end());
        });
      });
      if (!same) judge(same.error(), Does::view);
      if (same && !*same) complain("other bytes");
    } catch (const Thrown&) {
      ++reach_.errors;
      if (struck() == 0) complain("what nobody threw");
    }
    look();
  }
  void write(std::uint64_t offset, std::uint64_t size) {
    const auto from = random_.bytes(size);
    took(offset, from, call("write_range", [&] { return tarn::write_range(*pool_, *meta_, offset, from); }));
  }
  void fill(std::uint64_t offset, std::uint64_t size) {
    const auto from = random_.bytes(size);
    try {
      took(offset, from, call("a write_range that fills", [&] {
             return tarn::write_range(*pool_, *meta_, offset, size,
                                      [&](tarn::MutableBuffers into) -> tarn::Result<std::size_t> {
                                        if (fault_points.fails(Fault::filler))
                                          return tarn::fail(std::errc::broken_pipe);
                                        return into.copy_from(from);
                                      });
           }));
    } catch (const Thrown&) {
    }
  }
  void took(std::uint64_t offset, const ModelBytes& from, const tarn::Result<std::size_t>& n) {
    if (n && *n != 0) {
      if (*n < from.size()) ++reach_.short_writes;
      bytes_.resize(std::max<std::size_t>(bytes_.size(), static_cast<std::size_t>(offset) + *n));
      std::copy_n(from.begin(), *n, bytes_.begin() + static_cast<std::ptrdiff_t>(offset));
    }
    // It flushes nothing: with enough dirty there is no room, and no fault.
    if (!n && n.error() != std::errc::no_buffer_space) judge(n.error(), Does::fill);
    look();
  }
  void truncate(std::uint64_t size) {
    const auto done = call("truncate", [&] { return tarn::truncate(*pool_, *meta_, size); });
    if (done) {
      bytes_.resize(static_cast<std::size_t>(size));
    } else {
      judge_change(done.error());
    }
    look();
  }
  void zero(std::uint64_t offset, std::uint64_t end, bool punches) {
    const auto which = tarn::ByteRange::between(offset, end);
    const auto done = call(punches ? "punch_hole" : "zero_range", [&] {
      return punches ? tarn::punch_hole(*pool_, *meta_, which) : tarn::zero_range(*pool_, *meta_, which);
    });
    if (done) {
      if (!punches) bytes_.resize(std::max<std::size_t>(bytes_.size(), static_cast<std::size_t>(end)));
      for (auto i = offset; i < std::min<std::uint64_t>(end, bytes_.size()); ++i) {
        bytes_[static_cast<std::size_t>(i)] = {};
      }
    } else {
      judge_change(done.error());
    }
    look();
  }
  void judge_change(std::error_code why) {
    if (why != std::errc::no_buffer_space) judge(why, Does::change);
  }
  void flush() {
    const auto done = call("flush", [&] { return tarn::flush(*pool_, *meta_, one_); });
    if (!done) {
      judge(done.error(), Does::flush);
    } else if (pool_->dirty_bytes(*meta_) != 0 || one_.disk(id).bytes != bytes_) {
      complain("flushed, and the store has something else");
    }
    look();
  }
  [[nodiscard]] std::optional<Job> begin() {
    const bool dirty = pool_->dirty_bytes(*meta_) != 0;
    auto job = call("begin_flush", [&] { return tarn::begin_flush(*pool_, *meta_); });
    look();
    if (!job) {
      judge(job.error(), Does::flush);
      return {};
    }
    if (dirty && job->empty()) complain("there is nothing to flush");
    return std::move(*job);
  }
  void finish(std::optional<Job>&& begun, tarn::FlushStatus status) {
    const auto why = std::make_error_code(std::errc::bad_message);
    auto job = std::move(*begun);
    auto outcome = Outcome::failed(why);
    if (status == tarn::FlushStatus::unknown) outcome = Outcome::unknown(why);
    if (status == tarn::FlushStatus::conflict) outcome = Outcome::conflict(why);
    auto& disk = one_.disk(id);
    if (status == tarn::FlushStatus::stored || status == tarn::FlushStatus::durable) {
      ModelChange::of(job.request(), false).apply_to(disk.bytes, SIZE_MAX);
      outcome = status == tarn::FlushStatus::stored ? Outcome::stored() : Outcome::durable();
      outcome = std::move(outcome).with_version(++disk.version);
    }
    const auto done = call("finish_flush", [&] { return tarn::finish_flush(*pool_, *meta_, std::move(job), outcome); });
    if (done && !outcome.ok()) complain("it failed, and is said to be stored");
    if (!done && done.error() != why) judge(done.error(), Does::flush);
    look();
  }
  // By means of the test's own.
  void mark_flushed(std::uint64_t chunk) {
    one_.disk(id).bytes = bytes_;
    const auto done = call("mark_flushed", [&] { return tarn::mark_flushed(*pool_, *meta_, chunk); });
    if (!done) judge(done.error(), Does::flush);
    if (done && !*done) complain("a dirty chunk is not flushed");
    look();
  }
  // A list of what the pool has, which may find no memory.
  template <class F>
  auto listed(F f) -> std::optional<std::invoke_result_t<F&>> {
    try {
      return call("a list", f);
    } catch (const std::bad_alloc&) {
      judge(std::make_error_code(std::errc::not_enough_memory), Does::other);
      return {};
    }
  }

  [[nodiscard]] std::span<const std::byte> expected(std::uint64_t offset, std::uint64_t size) const {
    return SweepRun::expected(bytes_, offset, size);
  }
  void look() {
    if (one_.complaint != nullptr) complain(one_.complaint);
    if (!looks() || !wrong_.empty()) return;
    look_at(*meta_, bytes_, one_.disk(id).bytes, [&](std::uint64_t offset, std::span<std::byte> into) {
      auto n = tarn::try_read_range(*pool_, *meta_, offset, into);
      return n.done() && *n == into.size();
    });
  }

  std::optional<Metadata> meta_;
  ModelBytes bytes_;
};

}  // namespace tarn_test
