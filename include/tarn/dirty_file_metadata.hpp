// SPDX-License-Identifier: MIT
#pragma once

// What a file is: a plain value that copies and compares, and holds no bytes and no lock.
//
// `stored` says, byte-exact, where the store has bytes that show when nothing is held. The algorithms keep it: truncate
// and punch take from it, a flush that ends well adds to it, a write leaves it alone. What is held and what of that is
// dirty only the pool knows.
//
// What the store has of the size: `store_size_bytes` is the size it was last known to have (nothing: never stored, or a
// flush is in flight or failed), and it holds no byte at or past `store_size_bound_bytes`. A flush that fails half done
// may have left bytes past the old size, and a later one must overwrite them with zeros where holes are, so the bound
// rises when a flush begins and falls only when one ends well.
//
//   state     means                              becomes
//   created   the store does not know the file   clean by a flush; deleted
//   clean     as stored                          modified by a write, truncate, punch; deleted
//   modified  bytes, holes or size not stored    clean by a flush that leaves nothing; deleted
//   deleted   the name is gone                   -
//
// `unsynced` is what was stored since the store last said durable: bytes, and with them the size. The bytes are stored,
// held or not; a sync that ends well empties it.
//
// Thread safety: a plain value.
// Invariant:     unsynced lies in stored, stored in [0, size).

#include <algorithm>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <system_error>
#include <utility>
#include <vector>

#include <tarn/byte_range.hpp>
#include <tarn/extent_set.hpp>
#include <tarn/policies.hpp>
#include <tarn/store_request.hpp>

namespace tarn {

enum class FileState : std::uint8_t { clean, created, modified, deleted };

struct FileOptions {
  std::uint64_t part_bytes = 0;  ///< the unit of the store, a multiple of the pool's chunk; 0: one chunk
  std::uint64_t version = 0;     ///< of what the store has
  std::int64_t mtime_ns = 0;     ///< never read from a clock: whoever changes the file gives it
};

template <class FileIdType, class ContentIdType, class PayloadType>
class BasicDirtyFileMetadata {
 public:
  using FileId = FileIdType;
  using ContentId = ContentIdType;
  using Payload = PayloadType;

  /// A new, empty file that the store does not know.
  [[nodiscard]] static BasicDirtyFileMetadata created(FileId id, const FileOptions& options = {}) {
    return BasicDirtyFileMetadata{std::move(id), options};
  }
  /// A file of which the store has all `size_bytes` bytes.
  /// Errors: throws system_error(EFBIG) past max_offset.
  [[nodiscard]] static BasicDirtyFileMetadata from_store(FileId id, std::uint64_t size_bytes,
                                                         const FileOptions& options = {}) {
    if (size_bytes > max_offset) {
      throw std::system_error{std::make_error_code(std::errc::file_too_large), "tarn::DirtyFileMetadata: size_bytes"};
    }
    BasicDirtyFileMetadata meta{std::move(id), options};
    meta.reset_to_store(size_bytes, options.version);
    return meta;
  }
  /// A file whose parts the store has by content id, in order. Errors: as from_store.
  [[nodiscard]] static BasicDirtyFileMetadata from_content(FileId id, std::uint64_t size_bytes,
                                                           std::span<const ContentId> parts,
                                                           const FileOptions& options = {}) {
    auto meta = from_store(std::move(id), size_bytes, options);
    for (std::uint64_t part = 0; const auto& content : parts) meta.content_.emplace(part++, content);
    return meta;
  }

  [[nodiscard]] const FileId& id() const { return id_; }
  [[nodiscard]] std::uint64_t size() const { return size_bytes_; }
  [[nodiscard]] std::uint64_t part_bytes() const { return part_bytes_; }
  [[nodiscard]] FileState state() const { return state_; }
  [[nodiscard]] std::uint64_t version() const { return version_; }
  [[nodiscard]] const ExtentSet& stored() const { return stored_; }
  [[nodiscard]] const ExtentSet& unsynced() const { return unsynced_; }
  /// Whether anything was stored, be it only a size, since the store last said durable, of so much.
  [[nodiscard]] bool needs_sync(SyncScope scope = SyncScope::all) const {
    return scope == SyncScope::all ? needs_sync_ : needs_data_sync_;
  }
  [[nodiscard]] std::optional<std::uint64_t> store_size_bytes() const { return store_size_bytes_; }
  [[nodiscard]] std::uint64_t store_size_bound_bytes() const { return store_size_bound_bytes_; }
  /// Returns: the content id of a part, or null: its bytes, if any, are the file's own. Of a part with an id they are
  /// the content's as far as nobody has changed them since.
  [[nodiscard]] const ContentId* content_id(std::uint64_t part) const {
    const auto at = content_.find(part);
    return at == content_.end() ? nullptr : &at->second;
  }
  [[nodiscard]] std::size_t content_count() const { return content_.size(); }

  [[nodiscard]] std::int64_t mtime_ns() const { return mtime_ns_; }
  void set_mtime_ns(std::int64_t mtime_ns) { mtime_ns_ = mtime_ns; }
  [[nodiscard]] const Payload& payload() const { return payload_; }
  [[nodiscard]] Payload& payload() { return payload_; }

  friend bool operator==(const BasicDirtyFileMetadata&, const BasicDirtyFileMetadata&) = default;

  // ---- for the algorithms

  /// Whether the store lacks the file, its size, or a zero below its size that is not held. Dirty bytes are the pool's.
  [[nodiscard]] bool store_lacks_size() const { return store_size_bytes_ != size_bytes_; }
  void note_modified() {
    if (state_ == FileState::clean) state_ = FileState::modified;
  }
  void note_deleted() { state_ = FileState::deleted; }
  /// The store has removed it: there is not a byte of it.
  void note_removed() noexcept {
    size_bytes_ = 0;
    stored_.clear();
    forget_unsynced();
  }
  /// The store would not remove it. Requires: `before` is what the state was.
  void undo_deleted(FileState before) { state_ = before; }
  void note_clean() {
    if (state_ != FileState::deleted) state_ = FileState::clean;
    size_set_ = false;
  }
  void set_version(std::uint64_t version) { version_ = version; }
  /// The store has another version, by no content id: what was stored of the last one will not be stored anew. A sync
  /// is asked for all the same.
  void note_replaced(std::uint64_t version) {
    version_ = version;
    content_.clear();
    forget_unsynced();
    size_unsynced_ = at_risk_.size_set = at_risk_since_sync_.size_set = false;
  }

  /// Errors: throws bad_alloc, and changes nothing.
  void set_size(std::uint64_t size_bytes) {
    if (size_bytes < size_bytes_) note_not_stored(ByteRange::between(size_bytes, max_offset));
    size_bytes_ = size_bytes;
  }
  /// `zeros`: those of the bytes that are zero, `changed`: those that are not, and were changed here; `durable`: none
  /// needs a sync any more. Errors: throws bad_alloc, and changes nothing.
  void note_stored(const ExtentSet& extents, const ExtentSet& zeros, const ExtentSet& changed, bool durable) {
    auto unsynced = unsynced_;
    auto at_risk = durable ? at_risk_.zeros_after(extents, {}) : at_risk_.zeros_after(changed, zeros);
    auto since_sync =
        durable ? at_risk_since_sync_.zeros_after(extents, {}) : at_risk_since_sync_.zeros_after(changed, zeros);
    if (durable) {
      unsynced.subtract(extents);
    } else {
      unsynced.add(extents);
    }
    stored_.add(extents);
    unsynced_ = std::move(unsynced);
    at_risk_.zeros = std::move(at_risk);
    at_risk_since_sync_.zeros = std::move(since_sync);
    if (!durable) needs_sync_ = needs_data_sync_ = size_unsynced_ = true;
  }
  /// A whole part was stored anew, and what the store had of it before is no more durable than the rest.
  /// Errors: throws bad_alloc, and changes nothing.
  void note_part_stored(ByteRange part) {
    auto unsynced = unsynced_;
    stored_.for_each_in(part, [&](ByteRange stored) { unsynced.add(stored); });
    unsynced_ = std::move(unsynced);
  }
  /// Errors: throws bad_alloc, and changes nothing.
  void note_not_stored(ByteRange range) {
    const auto others = {&unsynced_, &at_risk_.zeros, &at_risk_since_sync_.zeros};
    for (auto* const other : others) {
      if (other->intersects(range)) other->reserve_for_change();
    }
    stored_.subtract(range);
    for (auto* const other : others) other->subtract(range);
  }
  /// The same of each. Errors: throws bad_alloc, and changes nothing.
  void note_not_stored(const ExtentSet& extents) {
    auto stored = stored_, unsynced = unsynced_, at_risk = at_risk_.zeros, since_sync = at_risk_since_sync_.zeros;
    for (auto* const rest : {&stored, &unsynced, &at_risk, &since_sync}) rest->subtract(extents);
    stored_ = std::move(stored);
    unsynced_ = std::move(unsynced);
    at_risk_.zeros = std::move(at_risk);
    at_risk_since_sync_.zeros = std::move(since_sync);
  }
  /// A sync begins. Returns: the bytes that it answers for.
  [[nodiscard]] ExtentSet take_unsynced(SyncScope scope) {
    needs_data_sync_ = size_unsynced_ = false;
    if (scope == SyncScope::all) needs_sync_ = false;
    at_risk_since_sync_ = {.bound_bytes = store_size_bound_bytes_};
    return std::exchange(unsynced_, {});
  }
  /// The sync did not fail: what the store could lose by the next one is what it was given since this one began.
  void note_synced() { at_risk_ = std::move(at_risk_since_sync_); }
  /// The sync failed: what of `asked` is still stored is unsynced again, and the size is not sure to be there. Null:
  /// the store was given other bytes since the sync began, and only what was stored after it matters.
  /// Errors: throws bad_alloc.
  void note_sync_failed(const ExtentSet* asked) {
    if (asked != nullptr || size_unsynced_) {
      note_store_size_unknown(std::max(size_bytes_, at_risk_.bound_bytes));  // it may have forgotten that it was cut
      size_set_ = size_set_ || at_risk_.size_set;
    }
    needs_sync_ = needs_data_sync_ = true;
    if (asked == nullptr) return;
    for (const auto& extent : asked->extents()) {
      stored_.for_each_in(extent, [&](ByteRange part) { unsynced_.add(part); });
    }
  }
  /// What was stored as zero since the last good sync began, and may be so no more if the next one fails.
  [[nodiscard]] const ExtentSet& zeros_at_risk() const { return at_risk_.zeros; }
  /// The size was set as such, not by bytes that reach so far, and the store has not heard of it.
  void note_size_set() {
    size_set_ = true;
    ++size_sets_;
  }
  /// How often it was, and: the store has set this size, and has heard of all but those after that.
  [[nodiscard]] std::uint64_t size_sets() const { return size_sets_; }
  void note_size_stored(std::uint64_t size_bytes, std::uint64_t size_sets, bool durable) {
    note_store_size(size_bytes, durable);
    if (size_sets_ != size_sets) return;
    if (size_set_ && !durable) at_risk_.size_set = at_risk_since_sync_.size_set = true;
    size_set_ = false;
  }
  /// The store has set this size, and cut off what was past it.
  void note_store_size(std::uint64_t size_bytes, bool durable) {
    store_size_bytes_ = size_bytes;
    store_size_bound_bytes_ = size_bytes;
    if (durable) at_risk_.bound_bytes = at_risk_since_sync_.bound_bytes = 0;
    note_bound_at_risk();
  }
  /// The store may have set this size, wholly, in part or not at all.
  void note_store_size_unknown(std::uint64_t size_bytes) {
    store_size_bytes_.reset();
    store_size_bound_bytes_ = std::max(store_size_bound_bytes_, size_bytes);
    note_bound_at_risk();
  }
  void set_content_id(std::uint64_t part, ContentId id) { content_.insert_or_assign(part, std::move(id)); }
  void clear_content_ids(std::uint64_t first_part, std::uint64_t last_part) {
    content_.erase(content_.lower_bound(first_part), content_.upper_bound(last_part));
  }
  /// The store has another version, of `size_bytes` bytes: what was changed here is now a change to that one. The size
  /// is the store's, if it was not set here, but covers what is dirty up to `dirty_end`; `holes`: what was made zero
  /// here and not stored. Errors: throws bad_alloc, and changes nothing.
  void rebase(std::uint64_t size_bytes, std::uint64_t version, const ExtentSet& holes, std::uint64_t dirty_end) {
    const auto size = size_set_ ? size_bytes_ : std::max(size_bytes, dirty_end);
    ExtentSet shown{ByteRange::between(0, std::min(size_bytes, size))};
    shown.subtract(holes);
    stored_ = std::move(shown);
    size_bytes_ = size;
    note_replaced(version);
    note_store_size(size_bytes, true);
  }
  /// As the store has it: `size_bytes` bytes, all stored, by no content id.
  void reset_to_store(std::uint64_t size_bytes, std::uint64_t version) {
    stored_ = ExtentSet{ByteRange::between(0, size_bytes)};
    size_bytes_ = size_bytes;
    note_replaced(version);
    note_store_size(size_bytes, true);
    note_clean();
  }

 private:
  // What a store that fails a sync may have forgotten: it was cut off from so many bytes, its size was set here, and
  // these bytes were made zero.
  struct AtRisk {
    std::uint64_t bound_bytes = 0;
    bool size_set = false;
    ExtentSet zeros = {};
    // The zeros once `others` are none of them any more, and `more` are: past the bound there was nothing but zeros.
    [[nodiscard]] ExtentSet zeros_after(const ExtentSet& others, const ExtentSet& more) const {
      auto after = zeros;
      after.subtract(others);
      after.add(more.intersect(ByteRange::between(0, bound_bytes)));
      return after;
    }
    friend bool operator==(const AtRisk&, const AtRisk&) = default;
  };
  void forget_unsynced() noexcept {
    for (auto* const forgotten : {&unsynced_, &at_risk_.zeros, &at_risk_since_sync_.zeros}) forgotten->clear();
  }
  void note_bound_at_risk() {
    for (auto* const at_risk : {&at_risk_, &at_risk_since_sync_}) {
      at_risk->bound_bytes = std::max(at_risk->bound_bytes, store_size_bound_bytes_);
    }
  }

  BasicDirtyFileMetadata(FileId id, const FileOptions& options)
      : id_{std::move(id)}, part_bytes_{options.part_bytes}, version_{options.version}, mtime_ns_{options.mtime_ns} {}

  FileId id_;
  std::uint64_t size_bytes_ = 0;
  std::uint64_t part_bytes_;
  std::uint64_t version_;
  std::int64_t mtime_ns_;
  std::optional<std::uint64_t> store_size_bytes_;
  std::uint64_t store_size_bound_bytes_ = 0;
  ExtentSet stored_, unsynced_;
  std::map<std::uint64_t, ContentId> content_;  // by part; sparse: a part written over has none
  FileState state_ = FileState::created;
  AtRisk at_risk_, at_risk_since_sync_;  // since the last good sync began; and since the one in flight did
  bool needs_sync_ = false, needs_data_sync_ = false, size_set_ = false;
  bool size_unsynced_ = false;  // the store was given a size, with bytes or alone, that no sync was asked for yet
  std::uint64_t size_sets_ = 0;
  [[no_unique_address]] Payload payload_{};
};

template <class Traits>
using MetadataFor =
    BasicDirtyFileMetadata<typename Traits::FileId, typename Traits::ContentId, typename Traits::Payload>;

using DirtyFileMetadata = MetadataFor<DefaultTraits>;

}  // namespace tarn
