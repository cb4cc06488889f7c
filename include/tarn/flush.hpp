// SPDX-License-Identifier: MIT
#pragma once

// Write-back: giving the store what is dirty.
//
// begin_flush takes, the store stores, finish_flush settles; flush does all three until what was dirty is stored. A
// write that comes in between stays dirty. One flush of a file is in flight at a time, so a store never has to order
// two; one that takes several at once has them from a DirtyFile.

#include <cstdint>
#include <memory>
#include <optional>
#include <system_error>
#include <type_traits>
#include <utility>

#include <tarn/chunk_pool.hpp>
#include <tarn/detail/file_flush.hpp>
#include <tarn/detail/file_removal.hpp>
#include <tarn/read_range.hpp>

namespace tarn {

namespace detail {

/// The file of a building block: the caller's, for the length of the call.
template <class File>
struct BorrowedFile {
  using TraitsType = typename File::TraitsType;

  File& file;
  PoolCore<TraitsType>& core = file.core;
  const RecordRef<TraitsType>& record = file.record;

  [[nodiscard]] File& access() { return file; }
  [[nodiscard]] std::optional<WaitFor<TraitsType>> flush_or_removal() const { return std::nullopt; }
  void note_error(std::error_code) noexcept {}
};

}  // namespace detail

/// Takes what is dirty in `range` to be stored: the dirty bytes up to the end of the part in which the first of them
/// lies, and the zeros there that the store lacks; the size, if the store lacks that.
///
/// Returns:  the job; job.empty() if there is nothing to do. Give job.request() to the store, and the job to
///           finish_flush.
/// Errors:   EBUSY while a flush of the file is in flight; EAGAIN if a chunk has too many pins; ENOMEM; EINVAL for a
///           part that is not a multiple of the chunk; ENOBUFS as of read_range. Nothing has changed then.
/// Requires: `meta` has one owner at a time.
/// Cost:     no copy of data; O(chunks held in the part).
template <class Traits>
[[nodiscard]] Result<FlushJob<Traits>> begin_flush(ChunkPool<Traits>& pool,
                                                   std::type_identity_t<MetadataFor<Traits>>& meta,
                                                   ByteRange range = whole_file, FlushUnit unit = FlushUnit::ranges) {
  return detail::with_file(pool, meta,
                           [&](auto& file) { return begin_flush_of<Traits>(file, range, FlushKind{.unit = unit}); });
}

/// Settles a job: with an outcome that is ok, what nobody changed since it began is clean and stored; with another one
/// everything stays dirty.
///
/// Errors:   the outcome's own; ESTALE if the file was dropped meanwhile; ENOMEM.
/// Blocks:   while a view or a with_data of a chunk of the job runs.
template <class Traits>
[[nodiscard]] Result<> finish_flush(ChunkPool<Traits>& pool, std::type_identity_t<MetadataFor<Traits>>& meta,
                                    FlushJob<Traits>&& job, const FlushOutcome<Traits>& outcome) {
  return detail::with_file(pool, meta, [&](auto& file) -> Result<> {
    const auto settled = finish_flush_of(file, std::move(job), outcome, false);
    if (!settled) return fail(settled.error());
    return {};
  });
}

/// Stores what is dirty in `range`; of a deleted file, removes it from the store and forgets it.
///
/// Errors:   the store's own, with everything not stored still dirty; EBUSY while another flush of the file is in
///           flight; else as begin_flush.
/// Blocks:   on the store, holding no latch.
template <class Traits, ChunkStore<Traits> Store>
[[nodiscard]] Result<> flush(ChunkPool<Traits>& pool, std::type_identity_t<MetadataFor<Traits>>& meta, Store&& store,
                             ByteRange range = whole_file) {
  if (meta.state() == FileState::deleted) {
    const auto removed = detail::ask_to_remove(store, meta.id());
    if (removed) pool.drop(meta);
    return removed;
  }
  return detail::with_file(pool, meta, [&](auto& file) -> Result<> {
    using File = std::remove_reference_t<decltype(file)>;
    using Borrowed = detail::BorrowedFile<File>;
    detail::FileFlush jobs{std::make_shared<Borrowed>(Borrowed{file}), store, range, SIZE_MAX, false};
    const auto flushed = detail::run_to_end(file.core, {}, jobs);
    return flushed ? Result<>{} : fail(flushed.error());
  });
}

/// Notes that the embedder has stored the dirty bytes of one chunk by means of its own.
/// Returns: whether the chunk was there with dirty bytes. Errors: as begin_flush.
/// Requires: the store has the chunk's bytes, and the file's size.
template <class Traits>
[[nodiscard]] Result<bool> mark_flushed(ChunkPool<Traits>& pool, std::type_identity_t<MetadataFor<Traits>>& meta,
                                        std::uint64_t chunk) {
  if (!pool.has_dirty(meta, chunk)) return false;
  auto job = begin_flush(pool, meta, pool.core().layout.chunk_range(chunk));
  if (!job) return fail(job.error());
  const auto settled = finish_flush(pool, meta, std::move(*job), FlushOutcome<Traits>::stored());
  if (!settled) return fail(settled.error());
  return true;
}

}  // namespace tarn
