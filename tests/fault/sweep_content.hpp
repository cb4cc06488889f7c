// SPDX-License-Identifier: MIT
#pragma once

// A script for content named by its digest: files that share it, its chunks on their own, and flushes that name what
// they have stored.
//
// Thread safety: none.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <optional>
#include <span>
#include <system_error>
#include <utility>
#include <vector>

#include "fault/sweep_calls.hpp"

namespace tarn_test {

/// Requires: the plan names content.
template <class StoreType>
class SweepContent : public SweepCalls<StoreType> {
 public:
  using Calls = SweepCalls<StoreType>;
  using Calls::Calls;

  void run() {
    begin();
    shared();
    changed();
    alone();
    if (fault_points.strikes() == 0 && !shared_) complain("nothing that was flushed is shared by its content");
    this->end();
  }

 private:
  using typename Calls::ContentId, typename Calls::Does, typename Calls::File, typename Calls::Metadata,
      typename Calls::Pool, typename Calls::Subject, typename Calls::Thrown;
  using Pin = tarn::PinnedChunk<typename Calls::Traits>;
  using Calls::a, Calls::b, Calls::c;
  using Calls::C, Calls::contents_, Calls::one_, Calls::opener_, Calls::P, Calls::pool_, Calls::random_,
      Calls::subjects_;
  using Calls::call, Calls::complain, Calls::flush, Calls::judge, Calls::look_at_all, Calls::read, Calls::sync,
      Calls::truncate, Calls::view, Calls::write, Calls::zero;

  void begin() {
    this->make_pool();
    const auto first = random_.bytes(P), second = random_.bytes(P), last = random_.bytes(C + 3);
    make(a(), {first, second, first, last});
    make(b(), {first, last});
    make(c(), {second});
    opener_.emplace(a().file->open());
  }
  void make(Subject& at, const std::vector<ModelBytes>& parts) {
    std::vector<ContentId> ids;
    for (const auto& part : parts) {
      ids.push_back(name(part));
      at.bytes.insert(at.bytes.end(), part.begin(), part.end());
    }
    at.store->disk(at.id).become(at.bytes, 3);
    this->insist("a file is made", Does::change, [&]() -> std::error_code {
      try {
        at.file = std::make_shared<File>(
            *pool_, Metadata::from_content(at.id, at.bytes.size(), ids, {.part_bytes = P, .version = 3}), *at.store);
        return {};
      } catch (...) {
        return tarn::detail::current_exception_code();
      }
    });
  }
  ContentId name(const ModelBytes& bytes) {
    const OutOfCall ours;
    const auto id = contents_.name(bytes);
    if (std::find(known_.begin(), known_.end(), id) == known_.end()) known_.push_back(id);
    return id;
  }
  // After each step: what is held of content, of what flushes have named, too.
  void look_at_contents() {
    for (auto& at : subjects_) {
      const auto meta = at.file->metadata();
      for (std::uint64_t part = 0; part * P < at.bytes.size(); ++part) {
        const auto* const id = meta.content_id(part);
        if (id == nullptr || std::find(known_.begin(), known_.end(), *id) != known_.end()) continue;
        known_.push_back(*id);
        shared_ = shared_ || pool_->try_get(*id, 0);
      }
    }
    for (const auto& id : known_) this->look_at_content(id);
    look_at_all();
  }

  void shared() {
    read(a(), 3, C);
    read(b(), 0, 2 * C);
    read(c(), 0, P);
    view(a(), 2 * P + C, C);
    get(known_[0], 1, C);
    get(known_[2], 1, 3);  // its last chunk
    get(known_[1], 0, C, true);
    read(a(), 0, 5 * P);
    look_at_contents();
    call("invalidate", [&] { return pool_->invalidate(known_[0]); });
    read(b(), 0, P);
    call("evict_clean", [&] { return pool_->evict_clean(); });
    this->load_ahead(a(), P, P + 2 * C);
    try_get(known_[1], 0);
    look_at_contents();
  }
  void changed() {
    write(a(), 3, 2 * C);  // over what is shared
    write(b(), C + 1, 5);
    read(a(), 0, P);
    zero(a(), P + C, P + 2 * C + 1, true);
    flush(a());
    look_at_contents();
    flush(b());
    read(b(), 0, 3 * P);
    sync(a());
    look_at_contents();
    // One flush in four is durable, and what is durable is shared.
    for (int i = 0; i < 4; ++i) {
      write(c(), 0, P);
      if (!c().file->is_dirty()) continue;
      sync(c());
      look_at_contents();
    }
    truncate(b(), P + 3);
    read(b(), 0, 2 * P);
    write(b(), P + 5, C);
    sync(b());
    same_bytes(b(), c());
    look_at_contents();
    write(a(), 2 * P + 3, 3);
    this->discard(a());
    read(a(), 0, 5 * P);
    this->quietly_flush(c());
    this->rebase(c(), P + 3);
    read(c(), 0, 2 * P);
    this->invalidate(b());
    read(b(), 0, 2 * P);
    look_at_contents();
    this->judge_told();
  }
  // The pool's face alone, while files need the room as well.
  void alone() {
    for (const auto& id : std::vector<ContentId>{known_}) {
      get(id, 0, std::min<std::uint64_t>(C, contents_.find(id)->size()));
    }
    write(c(), 2 * P, 2 * P);
    for (const auto& id : std::vector<ContentId>{known_}) {
      try_get(id, 0);
      call("invalidate", [&] { return pool_->invalidate(id); });
    }
    look_at_contents();
    call("the last close", [&] { opener_.reset(); });
  }

  // The first part of one file as another's, stored: it gets that one's content id.
  void same_bytes(Subject& from, Subject& to) {
    const auto bytes = ModelBytes{from.bytes.begin(), from.bytes.begin() + static_cast<std::ptrdiff_t>(P)};
    const auto n = this->call_for_room("write", [&] { return to.file->write(0, bytes, ++this->mtime_ns_); });
    if (n) {
      this->take_in(to, 0, bytes, *n);
    } else {
      judge(n.error(), Does::write);
    }
    sync(to);
    read(to, 0, P);
  }

  void get(const ContentId& id, std::uint64_t chunk, std::uint64_t size_bytes, bool clones = false) {
    const auto pin = call("get_or_load", [&] { return pool_->get_or_load(id, chunk, size_bytes, one_); });
    if (!pin) {
      judge(pin.error(), Does::view);
      return look_at_contents();
    }
    check(*pin, id, chunk, size_bytes, clones);
    look_at_contents();
  }
  void try_get(const ContentId& id, std::uint64_t chunk) {
    const auto pin = call("try_get", [&] { return pool_->try_get(id, chunk); });
    if (!pin && pin.error() != std::errc::no_such_file_or_directory) judge(pin.error(), Does::view);
    if (pin) check(*pin, id, chunk, 1, false);
  }
  // What a pin shows, by a visitor that may throw, and as a copy.
  void check(const Pin& pin, const ContentId& id, std::uint64_t chunk, std::uint64_t size_bytes, bool clones) {
    const auto want = std::span{*contents_.find(id)}
                          .subspan(static_cast<std::size_t>(chunk * C))
                          .first(static_cast<std::size_t>(size_bytes));
    const auto in_chunk = tarn::ByteRange::between(0, size_bytes);
    const auto same = [&](std::span<const std::byte> bytes) {
      return std::equal(bytes.begin(), bytes.end(), want.begin(), want.end());
    };
    try {
      const auto shown = call("with_data", [&] {
        return pin.with_data(in_chunk, [&](std::span<const std::byte> bytes) {
          if (fault_points.fails(Fault::visitor)) throw Thrown{};
          return same(bytes);
        });
      });
      if (shown && !*shown) complain("other bytes");
      if (!shown && shown.error() != std::errc::no_message_available) judge(shown.error(), Does::view);
    } catch (const Thrown&) {
      ++this->reach_.errors;
    }
    if (!clones) return;
    try {
      const auto copied = call("clone", [&] { return pin.clone(in_chunk); });
      if (copied && !same(*copied)) complain("a copy of other bytes");
      if (!copied) judge(copied.error(), Does::view);
    } catch (const std::bad_alloc&) {
      judge(std::make_error_code(std::errc::not_enough_memory), Does::view);
    }
  }

  std::vector<ContentId> known_;
  bool shared_ = false;
};

}  // namespace tarn_test
