// SPDX-License-Identifier: MIT
#pragma once

// A store in memory, with a switch for everything that a store can do wrong, and a watch over what tarn asks of it.
//
// A flush sets the size, writes the data, and makes zero what is marked zero below store_size_bound_bytes; past that
// bound it relies on tarn's word that there is nothing, and checks it. It answers durable: there is no sync.
//
// What tarn promises its store is checked on every request; what was found wrong is kept in complaints(), which a test
// looks at on its own thread. Of a filesystem that calls the store itself, too: it is how a test sees that it asks for
// what is there, once.
//
// Thread safety: every call from any thread.
// Blocks:        load, flush and remove at their gates, while those are closed; nothing else.

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include <tarn/store.hpp>
#include <tarn/testing/bytes.hpp>
#include <tarn/testing/file_image.hpp>
#include <tarn/testing/gate.hpp>

namespace tarn::testing {

/// A ChunkStore<Traits>. Untold it does all that it is asked; each switch is for one thing that it then does worse.
template <class Traits>
class MemoryStore {
 public:
  using FileId = typename Traits::FileId;
  using ContentId = typename Traits::ContentId;
  using Outcome = tarn::FlushOutcome<Traits>;

  // ---- what the store has

  /// A file of `size_bytes` bytes of the pattern.
  void put_pattern(const FileId& id, std::uint64_t size_bytes, std::uint64_t seed = 0) {
    std::lock_guard lock{mutex_};
    files_[id] = File{.bytes = {size_bytes, seed}};
  }
  void put(const FileId& id, std::string_view text) {
    std::lock_guard lock{mutex_};
    auto& file = files_[id] = File{};
    file.bytes.resize(text.size());
    file.bytes.write(0, bytes_of(text));
  }
  void put_content(const ContentId& id, std::string text) {
    std::lock_guard lock{mutex_};
    content_.emplace_back(id, std::move(text));
  }
  [[nodiscard]] bool has(const FileId& id) const {
    std::lock_guard lock{mutex_};
    return files_.count(id) != 0;
  }
  [[nodiscard]] std::optional<std::uint64_t> size_of(const FileId& id) const {
    std::lock_guard lock{mutex_};
    const auto at = files_.find(id);
    return at == files_.end() ? std::nullopt : std::optional{at->second.bytes.size()};
  }
  /// Returns: the bytes that the store has of the range, cut at the file's end; "no such file" for an unknown one.
  [[nodiscard]] std::string text(const FileId& id, std::uint64_t offset, std::uint64_t size_bytes) const {
    std::lock_guard lock{mutex_};
    const auto at = files_.find(id);
    if (at == files_.end()) return "no such file";
    const auto& file = at->second.bytes;
    if (offset >= file.size()) return {};
    std::string found(static_cast<std::size_t>(std::min(size_bytes, file.size() - offset)), '?');
    file.read(offset, writable(found));
    return found;
  }
  [[nodiscard]] std::string text(const FileId& id) const { return text(id, 0, UINT64_MAX); }

  // ---- switches

  enum class Call : std::uint8_t { load, flush, remove };
  /// The next `count` calls of the kind fail with this error; a flush that fails has stored nothing.
  void fail_next(Call call, std::size_t count, std::errc why) { arrange(call, {count, Trouble::error, why}); }
  void throw_next(Call call, std::size_t count = 1) { arrange(call, {count, Trouble::exception, {}}); }
  /// The next loads fill and answer a byte less, or answer a byte more, than they were asked for.
  void answer_short_next(std::size_t count = 1) { arrange(Call::load, {count, Trouble::too_few, {}}); }
  void answer_long_next(std::size_t count = 1) { arrange(Call::load, {count, Trouble::too_many, {}}); }
  /// The next flushes set the size, store the first half of their pieces, and then fail, or say that they do not know.
  void break_off_next(std::size_t count = 1) { arrange(Call::flush, {count, Trouble::half, {}}); }
  void answer_unknown_next(std::size_t count = 1) { arrange(Call::flush, {count, Trouble::unknown, {}}); }
  void answer_conflict_next(std::size_t count = 1) { arrange(Call::flush, {count, Trouble::conflict, {}}); }
  /// From now on a file has a version, given by each flush, and a load of another version is answered ESTALE.
  void keep_versions() {
    std::lock_guard lock{mutex_};
    keeps_versions_ = true;
  }
  /// From now on a flush writes every piece, zeros too, and knows nothing of bounds: what a plain store would do.
  void be_naive() {
    std::lock_guard lock{mutex_};
    naive_ = true;
  }
  /// From now on a flush that cuts the file may come between a load's request and the load: as where threads race.
  void let_flushes_overtake_loads() {
    std::lock_guard lock{mutex_};
    overtaken_ = true;
  }
  /// From now on flushes of a file may be answered in another order than they began in.
  void take_flushes_in_any_order() {
    std::lock_guard lock{mutex_};
    in_any_order_ = true;
  }
  /// The parts that requests must keep to; 0: not looked at.
  void expect_parts_of(std::uint64_t part_bytes) {
    std::lock_guard lock{mutex_};
    part_bytes_ = part_bytes;
  }

  /// From now on a closed flush_gate holds that many flushes more: those that come later overtake them.
  void hold_flushes(std::size_t count) {
    std::lock_guard lock{mutex_};
    flushes_to_hold_ = count;
  }

  /// Where calls are held while closed. A load has its bytes by then, a flush has stored nothing.
  Gate load_gate, flush_gate, remove_gate;

  // ---- what was asked

  struct Counts {
    std::size_t loads = 0, flushes = 0, removes = 0;
    std::uint64_t load_bytes = 0, flush_bytes = 0;  // of flushes the data, not the zeros
  };
  [[nodiscard]] Counts counts() const {
    std::lock_guard lock{mutex_};
    return counts_;
  }
  [[nodiscard]] std::vector<tarn::ByteRange> loaded_ranges() const {
    std::lock_guard lock{mutex_};
    return loaded_ranges_;
  }
  struct Flushed {
    std::uint64_t size_bytes, store_size_bound_bytes, version, generation;
    std::vector<tarn::FlushRange> ranges;
  };
  [[nodiscard]] std::vector<Flushed> flushed() const {
    std::lock_guard lock{mutex_};
    return flushed_;
  }
  /// What tarn did that it promised not to do, a line each; empty if all is well.
  [[nodiscard]] std::string complaints() const {
    std::lock_guard lock{mutex_};
    return complaints_;
  }

  // ---- the store

  [[nodiscard]] tarn::Result<std::size_t> load(const tarn::LoadRequest<Traits>& request) {
    Plan plan;
    std::string found;
    tarn::Result<> known;
    {
      std::lock_guard lock{mutex_};
      ++counts_.loads;
      counts_.load_bytes += request.range.size_bytes();
      loaded_ranges_.push_back(request.range);
      check(request);
      plan = take(Call::load);
      known = find(request, found);
    }
    load_gate.pass();
    if (plan.trouble == Trouble::exception) throw std::runtime_error{"the store threw"};
    if (plan.trouble == Trouble::error) return tarn::fail(plan.why);
    if (!known) return tarn::fail(known.error());
    auto bytes = bytes_of(found);
    if (plan.trouble == Trouble::too_few) bytes = bytes.first(bytes.size() - 1);
    const auto filled = request.into.copy_from(bytes);
    return plan.trouble == Trouble::too_many ? filled + 1 : filled;
  }

  [[nodiscard]] Outcome flush(const tarn::FlushRequest<Traits>& request) {
    Plan plan;
    bool held = false;
    const auto before = data_of(request);
    {
      std::lock_guard lock{mutex_};
      ++counts_.flushes;
      counts_.flush_bytes += before.size();
      flushed_.push_back({request.size_bytes,
                          request.store_size_bound_bytes,
                          request.version,
                          request.generation,
                          {request.ranges.begin(), request.ranges.end()}});
      const bool fits = check(request);
      plan = take(Call::flush);
      if (!fits) plan = {.trouble = Trouble::error, .why = std::errc::invalid_argument};
      held = flushes_to_hold_ != 0;
      if (held) --flushes_to_hold_;
    }
    if (held) flush_gate.pass();
    if (data_of(request) != before) complain("the bytes of a flush changed while the store had them");
    std::lock_guard lock{mutex_};
    flushing_.erase(*request.file);
    switch (plan.trouble) {
      case Trouble::exception:
        throw std::runtime_error{"the store threw"};
      case Trouble::error:
        return Outcome::failed(std::make_error_code(plan.why));
      case Trouble::conflict:
        return Outcome::conflict();
      case Trouble::half:
        apply(request, true);
        return Outcome::failed(std::make_error_code(std::errc::io_error));
      case Trouble::unknown:
        apply(request, false);
        return Outcome::unknown(std::make_error_code(std::errc::timed_out));
      default:
        apply(request, false);
    }
    if (!keeps_versions_) return Outcome::durable();
    return Outcome::durable().with_version(++files_[*request.file].version);
  }

  [[nodiscard]] tarn::Result<> remove(const FileId& id) {
    Plan plan;
    {
      std::lock_guard lock{mutex_};
      ++counts_.removes;
      plan = take(Call::remove);
      if (flushing_.count(id) != 0) complain_locked("a file is removed while a flush of it is in flight");
    }
    remove_gate.pass();
    if (plan.trouble == Trouble::exception) throw std::runtime_error{"the store threw"};
    if (plan.trouble == Trouble::error) return tarn::fail(plan.why);
    std::lock_guard lock{mutex_};
    files_.erase(id);
    return {};
  }

 private:
  struct File {
    FileImage bytes{};
    std::uint64_t version = 0;
  };
  enum class Trouble : std::uint8_t { none, error, exception, too_few, too_many, half, unknown, conflict };
  struct Plan {
    std::size_t count = 0;
    Trouble trouble = Trouble::none;
    std::errc why{};
  };
  void arrange(Call call, Plan plan) {
    std::lock_guard lock{mutex_};
    plans_[static_cast<std::size_t>(call)] = plan;
  }
  [[nodiscard]] Plan take(Call call) {
    auto& plan = plans_[static_cast<std::size_t>(call)];
    if (plan.count == 0) return {};
    --plan.count;
    return plan;
  }

  void complain(const char* what) {
    std::lock_guard lock{mutex_};
    complain_locked(what);
  }
  void complain_locked(const char* what) { (complaints_ += what) += '\n'; }

  // Calls f(offset, bytes, or nothing for zeros, size) for each range or piece of one, in order, without a walk through
  // zeros. Requires: check found its data to fit.
  template <class F>
  static void for_each_range(const tarn::FlushRequest<Traits>& request, F f) {
    auto next = request.data.begin();
    for (const auto& [range, zero] : request.ranges) {
      if (zero) {
        f(range.offset(), nullptr, range.size_bytes());
        continue;
      }
      for (auto at = range.offset(); at < range.end(); ++next) {
        f(at, static_cast<const std::byte*>(next->iov_base), std::uint64_t{next->iov_len});
        at += next->iov_len;
      }
    }
  }
  [[nodiscard]] static std::string data_of(const tarn::FlushRequest<Traits>& request) {
    std::string data;
    for (const auto& piece : request.data) data.append(static_cast<const char*>(piece.iov_base), piece.iov_len);
    return data;
  }

  // Requires, as what follows: mutex_.
  [[nodiscard]] tarn::Result<> find(const tarn::LoadRequest<Traits>& request, std::string& found) {
    const auto size = static_cast<std::size_t>(request.range.size_bytes());
    if (request.content != nullptr) {
      for (const auto& [id, text] : content_) {
        if (id != *request.content) continue;
        if (request.offset_in_part + size > text.size()) return tarn::fail(std::errc::io_error);
        found = text.substr(static_cast<std::size_t>(request.offset_in_part), size);
        return {};
      }
      return tarn::fail(std::errc::no_such_file_or_directory);
    }
    const auto at = files_.find(*request.file);
    if (at == files_.end()) return tarn::fail(std::errc::no_such_file_or_directory);
    const auto& file = at->second;
    if (keeps_versions_ && request.version != file.version) return tarn::fail(static_cast<std::errc>(ESTALE));
    if (request.range.end() > file.bytes.size()) {
      if (!overtaken_) complain_locked("a load asks for bytes past the end of what the store has");
      return tarn::fail(std::errc::io_error);
    }
    found.resize(size);
    file.bytes.read(request.range.offset(), writable(found));
    return {};
  }
  void check(const tarn::LoadRequest<Traits>& request) {
    if (request.into.size_bytes() != request.range.size_bytes()) complain_locked("a load has buffers of another size");
    if (request.range.empty()) complain_locked("a load asks for nothing");
    if (part_bytes_ == 0 || request.file == nullptr) return;
    if (request.part != request.range.offset() / part_bytes_ ||
        request.part != (request.range.end() - 1) / part_bytes_ ||
        request.offset_in_part != request.range.offset() % part_bytes_) {
      complain_locked("a load is not of one part, or names the wrong one");
    }
  }
  // Returns: whether its data can be gone through by its ranges.
  [[nodiscard]] bool check(const tarn::FlushRequest<Traits>& request) {
    if (!flushing_.insert(*request.file).second) complain_locked("two flushes of one file at a time");
    const auto last = std::exchange(last_generation_[*request.file], request.generation);
    if (request.generation <= last && !in_any_order_) complain_locked("a generation that does not rise");
    std::uint64_t end = 0;
    std::optional<std::uint64_t> part;
    auto next = request.data.begin();
    bool fits = true;
    for (const auto& [range, zero] : request.ranges) {
      if (range.empty()) complain_locked("a flush of an empty range");
      if (range.offset() < end) complain_locked("ranges of a flush that do not ascend");
      if (range.end() > request.size_bytes) complain_locked("a flush of bytes past the size");
      end = range.end();
      if (zero) continue;
      auto at = range.offset();
      while (at < range.end() && next != request.data.end()) at += (next++)->iov_len;
      if (at != range.end()) fits = false;
      if (part_bytes_ == 0) continue;
      if (part.value_or(range.offset() / part_bytes_) != range.offset() / part_bytes_ ||
          range.offset() / part_bytes_ != (range.end() - 1) / part_bytes_) {
        complain_locked("a flush with data of more than one part");
      }
      part = range.offset() / part_bytes_;
    }
    if (next != request.data.end()) fits = false;
    if (!fits) complain_locked("a flush with data that do not fill its ranges, piece by piece");
    const auto at = files_.find(*request.file);
    if (at != files_.end() && at->second.bytes.size() > request.store_size_bound_bytes) {
      complain_locked("the store has bytes past what tarn thinks it may have");
    }
    return fits;
  }
  void apply(const tarn::FlushRequest<Traits>& request, bool only_half) {
    auto& file = files_[*request.file].bytes;
    file.resize(request.size_bytes);
    if (naive_) {
      request.for_each_piece([&](std::uint64_t at, std::span<const std::byte> piece, bool) { file.write(at, piece); });
      return;
    }
    std::size_t left = SIZE_MAX;
    if (only_half) {
      left = 0;
      for_each_range(request, [&](auto...) { ++left; });
      left /= 2;
    }
    for_each_range(request, [&](std::uint64_t at, const std::byte* bytes, std::uint64_t size) {
      if (left == 0) return;
      --left;
      if (bytes != nullptr) return file.write(at, {bytes, static_cast<std::size_t>(size)});
      const auto bound = std::max(at, request.store_size_bound_bytes);
      file.zero(at, std::min(at + size, bound));
      if (!file.is_zero(bound, at + size)) complain_locked("bytes past the bound that are not zero");
    });
  }

  mutable std::mutex mutex_;
  std::unordered_map<FileId, File> files_;
  std::vector<std::pair<ContentId, std::string>> content_;  // in a list: a content id need not be ordered
  std::array<Plan, 3> plans_;
  std::unordered_set<FileId> flushing_;
  std::unordered_map<FileId, std::uint64_t> last_generation_;
  std::uint64_t part_bytes_ = 0;
  std::size_t flushes_to_hold_ = SIZE_MAX;
  bool overtaken_ = false, in_any_order_ = false;
  bool keeps_versions_ = false, naive_ = false;
  Counts counts_;
  std::vector<tarn::ByteRange> loaded_ranges_;
  std::vector<Flushed> flushed_;
  std::string complaints_;
};

}  // namespace tarn::testing
