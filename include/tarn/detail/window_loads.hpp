// SPDX-License-Identifier: MIT
#pragma once

// The loads of one window: its missing bytes, sorted by whose they are.
//
// Thread safety: one call's own.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include <tarn/detail/load.hpp>

namespace tarn::detail {

/// All that a window is missing: the file's own bytes, and those of the content of its parts.
template <class Traits>
class WindowLoads {
 public:
  using ContentId = typename Traits::ContentId;

  /// The load of the file's own bytes, or of those of one piece of content.
  struct Share {
    std::optional<ContentId> content;
    std::shared_ptr<Load<Traits>> load;
  };

  /// Of the window's chunks, to be kept as long as what lands.
  LoadPins<Traits> pins;

  explicit WindowLoads(PoolCore<Traits>& core) : pins{core}, core_{core} {}
  WindowLoads(const WindowLoads&) = delete;
  WindowLoads& operator=(const WindowLoads&) = delete;
  ~WindowLoads() {
    if (!started_) abandon();
  }

  /// Sorts the missing bytes by record. Requires: the file's lock. What is loaded past the pool (`uncached`) goes by
  /// the file's own record: that of a content may not be had. Of content alone nobody knows the part.
  /// Returns: false if the budget has no room for a record.
  /// Errors:  throws bad_alloc.
  template <class File>
  [[nodiscard]] bool collect(const File& file, std::span<const ByteRange> missing, bool uncached, LoadUnit unit)
      TARN_REQUIRES_SHARED(file.lock) {
    uncached_ = uncached;
    whole_parts_ = unit == LoadUnit::parts && file.content == nullptr;
    version_ = file.meta.version();
    if (file.content == nullptr) file_.emplace(file.meta.id());
    for (const auto& extent : missing) {
      for (auto at = extent.offset(); at < extent.end();) {
        const auto part = file.layout.part_range(file.layout.part_of(at));
        const auto piece = part.intersect(ByteRange::between(at, extent.end()));
        const auto* const content = file.meta.content_id(file.layout.part_of(at));
        if (!add(file, content, part, piece)) return false;
        at = piece.end();
      }
    }
    return true;
  }
  /// Makes them loads ahead of a read: what others are loading is left to them. Returns: the bytes that are left.
  [[nodiscard]] std::uint64_t go_ahead(const ChunkLayout& layout) {
    std::uint64_t bytes = 0;
    for (auto& share : shares_) {
      share.load->go_ahead(layout);
      bytes += share.load->wanted.size_bytes();
    }
    return bytes;
  }
  [[nodiscard]] std::size_t chunks_needed() {
    std::size_t sum = 0;
    for (auto& share : shares_) sum += share.load->chunks_needed();
    return sum;
  }
  /// Those that the rest of the parts would take as well, of a store that gives whole parts.
  [[nodiscard]] std::size_t chunks_of_rest() {
    std::size_t sum = 0;
    if (!whole_parts_) return sum;
    for (auto& share : shares_) sum += share.load->chunks_of_rest();
    return sum;
  }
  /// Begins all or none. `spare_chunks` of the reserve, at most, go to the rest of the parts.
  /// Requires: the file's lock and the window's latches.
  [[nodiscard]] typename Load<Traits>::Begun begin(ReadWindow<Traits>& window, ChunkReserve<Traits>* reserve,
                                                   std::size_t spare_chunks) {
    using Begun = typename Load<Traits>::Begun;
    for (auto& share : shares_) {
      const auto begun = share.load->begin(window, reserve, spare_chunks);
      if (begun == Begun::yes) continue;
      stopped_at_ = share.load.get();
      abandon();
      return begun;
    }
    return Begun::yes;
  }
  /// Of what was begun, what nobody asked for.
  [[nodiscard]] std::uint64_t rest_bytes() const {
    std::uint64_t bytes = 0;
    for (const auto& share : shares_) bytes += share.load->rest_bytes();
    return bytes;
  }
  /// The load that stood in the way, and its record. Requires: begin answered elsewhere.
  [[nodiscard]] std::shared_ptr<LoadInFlight> take_other() { return stopped_at_->take_other(); }
  [[nodiscard]] ExtentSet take_other_bytes() { return stopped_at_->take_other_bytes(); }
  [[nodiscard]] const RecordRef<Traits>& record_of_other() const { return stopped_at_->record(); }

  /// Asks the store for all. Requires: begun; nothing is held. `into`, `kept`: see Load.
  template <class Store>
  void start(Store& store, const ChunkLayout& layout, std::byte* into, std::shared_ptr<const void> kept) noexcept {
    Resumer::run();  // whom the look woke: a store that answers at once may take long
    start_served(0, [&] {
      for (auto& share : shares_) share.load->start(store, file_, version_, share.content, layout, into, kept);
    });
    started_ = true;
  }
  /// The first one that is not done, or null.
  [[nodiscard]] Load<Traits>* open() {
    for (auto& share : shares_) {
      if (!share.load->done.load()) return share.load.get();
    }
    return nullptr;
  }
  /// Requires, as those that follow: all are done. Returns: one that failed, or null.
  [[nodiscard]] const Share* failed() const {
    for (auto& share : shares_) {
      if (share.load->error) return &share;
    }
    return nullptr;
  }
  [[nodiscard]] bool wants(const ContentId& content) const {
    return std::ranges::any_of(shares_, [&](const Share& share) { return share.content && *share.content == content; });
  }
  [[nodiscard]] bool lacked_room() const {
    for (auto& share : shares_) {
      if (share.load->lacked_room) return true;
    }
    return false;
  }
  /// Whether all that was wanted is unchanged since: what was fetched past the pool counts only then.
  [[nodiscard]] bool untouched() const {
    return std::ranges::all_of(shares_, [](const Share& share) { return share.load->untouched; });
  }
  /// Whether it is, and the store must still have all that it was asked for: an error counts only then.
  [[nodiscard]] bool error_counts() const {
    return std::ranges::all_of(shares_, [](const Share& share) { return share.load->error_counts(); });
  }

 private:
  // All are in flight by now: a call from inside the store that needs one of them would wait for this thread.
  template <class Start>
  void start_served(std::size_t index, const Start& start) noexcept {
    if (index == shares_.size()) return start();
    const Serving serving{&*shares_[index].load->record()};
    start_served(index + 1, start);
  }
  void abandon() noexcept {
    for (auto& share : shares_) share.load->abandon();
  }

  template <class File>
  [[nodiscard]] bool add(const File& file, const ContentId* content, ByteRange part, ByteRange range)
      TARN_REQUIRES_SHARED(file.lock) {
    const bool to_own = content == nullptr || uncached_;
    const auto shift = to_own ? 0 : part.offset();
    if (content == nullptr) content = file.content;
    auto at = shares_.begin();
    // Parts of equal content in one window would wait for each other's load: the second adds to the first one's bytes.
    while (at != shares_.end() && (content == nullptr ? at->content.has_value() : at->content != *content)) ++at;
    if (at == shares_.end()) {
      auto record = to_own ? file.record.share() : core_.registry.find_or_make(PoolCore<Traits>::content_key(*content));
      if (!record) return false;
      Share share{content == nullptr ? std::nullopt : std::optional{*content},
                  std::make_shared<Load<Traits>>(core_, std::move(record), shift)};
      at = shares_.insert(shares_.end(), std::move(share));
    }
    at->load->wanted.add(ByteRange::between(range.offset() - shift, range.end() - shift));
    if (whole_parts_) {
      auto end = part.offset();
      file.meta.stored().for_each_in(part, [&](ByteRange stored) {
        at->load->in_parts.add(ByteRange::between(stored.offset() - shift, stored.end() - shift));
        end = stored.end();
      });
      at->load->asked.add(ByteRange::between(part.offset() - shift, end - shift));
    }
    return true;
  }

  PoolCore<Traits>& core_;
  std::optional<typename Traits::FileId> file_;
  std::uint64_t version_ = 0;
  std::vector<Share> shares_;
  bool uncached_ = false, whole_parts_ = false;
  bool started_ = false;
  Load<Traits>* stopped_at_ = nullptr;
};

}  // namespace tarn::detail
