// SPDX-License-Identifier: MIT
#pragma once

// How a file that is deleted leaves its store: at once if nobody has it open, else when the last one closes it.
//
// Thread safety: any thread. Nothing is held while the store is asked, and no flush of the file is in flight then.

#include <cerrno>
#include <system_error>

#include <tarn/detail/file_body.hpp>
#include <tarn/detail/file_lock.hpp>

namespace tarn::detail {

/// What the store says of a removal, an exception included.
template <class Store, class FileId>
[[nodiscard]] Result<> ask_to_remove(Store& store, const FileId& id) {
  const InsideStore inside;
  try {
    return store.remove(id);
  } catch (...) {
    return fail(current_exception_code());
  }
}

/// Has the store remove the file, and notes what came of it: the file is gone, or as it was `before`.
/// Errors:   the store's own; ESTALE if another file has its id; as block, if a flush in flight does not end.
/// Requires: deleted, and `removing` set by the caller; no lock.
template <class Traits, class Store>
[[nodiscard]] Result<> remove_from_store(FileBody<Traits>& body, Store& store, FileState before,
                                         const CallOptions& options = {}) {
  auto& record = *body.record;
  Result<> removed;
  if (const auto why = wait_for_flush(body.core, body.record, options); why) {
    removed = fail(why);
  } else if (record.replaced.load()) {
    removed = fail(static_cast<std::errc>(ESTALE));
  } else {
    const Serving serving{&record};
    removed = ask_to_remove(store, body.id());
  }
  {
    ExclusiveLock lock{body.lock};
    body.removing = false;
    if (removed) {
      body.removed = true;
      body.core.drop(record);
      body.meta.note_removed();
    } else {
      body.meta.undo_deleted(before);
      if (record.dirty_bytes.load() != 0 || body.lacks_store()) {
        body.meta.note_modified();
        if (before != FileState::deleted) body.core.note_changed(record);
      }
    }
    record.arrivals.fetch_add(1);
  }
  body.core.parking.wake(&record.arrivals);
  return removed;
}

/// The last OpenFile has gone: a file that was deleted meanwhile goes, too. What the store says against it is told to
/// the observer.
template <class Traits, class Store>
void remove_after_last_close(FileBody<Traits>& body, Store& store) noexcept {
  {
    ExclusiveLock lock{body.lock};
    if (body.meta.state() != FileState::deleted || body.removing || body.removed || body.opens.load() != 0) return;
    body.removing = true;
  }
  if (const auto removed = remove_from_store(body, store, FileState::deleted); !removed) {
    body.core.observer.on_flush_failed(body.id(), removed.error());
  }
}

}  // namespace tarn::detail
