// SPDX-License-Identifier: MIT
// A function that wants a mutex held is called with it held alone, by whatever name the caller knows it.
// only: clang
// flags: -Wthread-safety -Werror
// expect: calling function 'detach' requires holding mutex 'record.table_mutex'
#include <tarn/tarn.hpp>

using Core = tarn::detail::PoolCore<tarn::DefaultTraits>;

void let_go(Core& core, Core::PoolChunk& chunk, Core::Record& record) {
  tarn::detail::MutexLock table{record.table_mutex};
#ifdef MUST_NOT_COMPILE
  table.unlock();
#endif
  core.detach(chunk, record);
}
