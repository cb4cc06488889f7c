// SPDX-License-Identifier: MIT
#pragma once

// A store that answers when told, and takes several flushes of a file at a time.
//
// Thread safety: as of LaterStore.

#include <cstddef>

#include <tarn/testing/later_store.hpp>

#include "support/testing.hpp"

namespace tarn_test {

template <class Traits>
struct SideBySideStore : LaterStore<Traits> {
  std::size_t at_once = 3;

  SideBySideStore() { this->memory.take_flushes_in_any_order(); }
  [[nodiscard]] std::size_t flushes_at_once() const noexcept { return at_once; }
};

}  // namespace tarn_test
