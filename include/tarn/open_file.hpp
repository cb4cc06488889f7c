// SPDX-License-Identifier: MIT
#pragma once

// One opener of a DirtyFile. Comes with dirty_file.hpp.

#include <cstdint>
#include <utility>

#include <tarn/byte_range.hpp>
#include <tarn/call_options.hpp>
#include <tarn/detail/file_removal.hpp>
#include <tarn/detail/sync.hpp>
#include <tarn/read_ahead.hpp>
#include <tarn/result.hpp>
#include <tarn/store.hpp>

namespace tarn {

template <class Traits, class Store>
class DirtyFile;

/// One opener's view of a file: it keeps a deleted file's bytes, is told of background errors of its time,
/// and knows how far it has read.
///
/// Move-only. The end of the last one of a deleted file blocks on the store's remove, and on a flush in flight.
/// Thread safety: as the file's, except that it is closed and moved by one thread.
template <class Traits, class Store>
class OpenFile {
 public:
  OpenFile(OpenFile&& other) noexcept
      : file_{std::exchange(other.file_, nullptr)}, told_{other.told_.load()}, ahead_{other.ahead_} {}
  OpenFile& operator=(OpenFile&& other) noexcept {
    std::swap(file_, other.file_);
    told_.store(other.told_.exchange(told_.load()));
    std::swap(ahead_, other.ahead_);
    return *this;
  }
  ~OpenFile() {
    if (file_ != nullptr && file_->body_->opens.fetch_sub(1) == 1) {
      const detail::Resumer resumer;
      detail::remove_after_last_close(*file_->body_, file_->store_);
    }
  }

  [[nodiscard]] DirtyFile<Traits, Store>& file() const { return *file_; }
  [[nodiscard]] DirtyFile<Traits, Store>* operator->() const { return file_; }

  /// Takes note of a read of this opener's, once that has been asked for, by whichever call. Where reads come in order,
  /// starts to load what comes next: see ReadAhead, and DirtyFile::load_ahead.
  /// Returns: the bytes asked for.
  std::uint64_t read_ahead(std::uint64_t offset,
                           std::uint64_t size_bytes) requires detail::AnswersLoadLater<Store, Traits> {
    const auto read = ByteRange::at(offset, size_bytes);
    return read ? file_->load_ahead(ahead_.after(*read)) : 0;
  }

  /// fsync: the file's sync, and the error of a background flush that this opener has not been told of: one that nobody
  /// called for this file, also if a later one has stored the bytes since.
  [[nodiscard]] Result<> sync(const CallOptions& options = {}, SyncScope scope = SyncScope::all) {
    const auto synced = file_->sync(options, scope);
    const auto before = take_error();
    return synced ? before : synced;
  }
  /// What a close of one of several descriptors does (FUSE's flush): the file's flush, and a look at that error.
  [[nodiscard]] Result<> flush(const CallOptions& options = {}) {
    const auto flushed = file_->flush(options);
    const auto before = take_error(false);
    return flushed ? before : flushed;
  }
  /// The error of a background flush since this opener was last told, once; it stays to be told to the other openers.
  /// `advance` false: only looks (a close of one of several descriptors).
  [[nodiscard]] Result<> take_error(bool advance = true) {
    auto& body = *file_->body_;
    detail::MutexLock lock{body.errors_mutex};
    if (told_ == body.error_count) return {};
    if (advance) {
      told_ = body.error_count;
      body.error_seen = true;
    }
    return fail(body.error);
  }

 private:
  friend class DirtyFile<Traits, Store>;
  OpenFile(DirtyFile<Traits, Store>& file, const ReadAheadOptions& ahead) : file_{&file}, ahead_{ahead} {
    auto& body = *file.body_;
    body.opens.fetch_add(1);
    detail::MutexLock lock{body.errors_mutex};
    // An error that nobody has seen is told to the next opener, too (as the kernel's errseq_t does).
    told_ = body.error_count - (body.error_count != 0 && !body.error_seen ? 1 : 0);
  }

  DirtyFile<Traits, Store>* file_;
  detail::Atomic<std::uint64_t> told_{0};
  ReadAhead ahead_;
};

}  // namespace tarn
