// SPDX-License-Identifier: MIT
#pragma once

// What happens to a DirtyFile from outside: the store has other bytes now, or the embedder gives up what is dirty. None
// of it happens while a flush of the file is in flight. A sync may be: it was asked for bytes that are the store's no
// more, so if it fails, it makes none of them dirty again.
//
// Thread safety: any thread. Nothing is held while the embedder's code runs.

#include <cstdint>
#include <system_error>

#include <tarn/detail/drop_clean.hpp>
#include <tarn/detail/file_body.hpp>
#include <tarn/detail/file_lock.hpp>
#include <tarn/detail/list_extents.hpp>

namespace tarn::detail {

/// See DirtyFile, as for those that follow. Errors: all throw bad_alloc.
template <class Traits>
[[nodiscard]] Result<> invalidate_file(FileBody<Traits>& body, std::uint64_t version, const CallOptions& options) {
  ExclusiveLock lock{body.lock};
  if (const auto why = body.wait_for_flush(lock, options); why) return fail(why);  // it ends with its own version
  const auto cleaned = drop_clean(body.core, *body.record, whole_file);
  if (!cleaned) return cleaned;
  body.syncing_extents.reset();
  body.meta.note_replaced(version);
  return {};
}

template <class Traits>
[[nodiscard]] Result<> rebase_file(FileBody<Traits>& body, std::uint64_t size_bytes, std::uint64_t version,
                                   const CallOptions& options) {
  if (size_bytes > max_offset) return fail(std::errc::file_too_large);
  ExclusiveLock lock{body.lock};
  if (const auto why = body.wait_for_flush(lock, options); why) return fail(why);
  // A landing load may still make bytes held that are stored: that takes nothing from the holes.
  ExtentSet holes{ByteRange::between(0, body.meta.size())}, dirty;
  holes.subtract(body.meta.stored());
  try {
    holes.subtract(list_extents(body.core, *body.record, &Chunk<Traits>::valid));
    dirty = list_extents(body.core, *body.record, &Chunk<Traits>::dirty);
  } catch (const std::system_error& too_many_pins) {
    return fail(too_many_pins.code());
  }
  const auto cleaned = drop_clean(body.core, *body.record, whole_file);
  if (!cleaned) return cleaned;
  body.meta.rebase(size_bytes, version, holes, dirty.empty() ? 0 : dirty.extents().back().end());
  body.syncing_extents.reset();
  if (!dirty.empty() || body.lacks_store()) {
    body.meta.note_modified();
    body.core.note_changed(*body.record);
  }
  return {};
}

template <class Traits>
[[nodiscard]] Result<std::uint64_t> discard_dirty_of(FileBody<Traits>& body, std::uint64_t size_bytes,
                                                     std::uint64_t version, const CallOptions& options) {
  if (size_bytes > max_offset) return fail(std::errc::file_too_large);
  ExclusiveLock lock{body.lock};
  if (const auto why = body.wait_for_flush(lock, options); why) return fail(why);
  body.meta.reset_to_store(size_bytes, version);
  body.syncing_extents.reset();
  return body.core.drop(*body.record);
}

}  // namespace tarn::detail
