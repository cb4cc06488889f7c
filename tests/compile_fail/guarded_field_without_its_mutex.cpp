// SPDX-License-Identifier: MIT
// What a mutex guards is touched with it held alone: clang knows of each field which one that is.
// only: clang
// flags: -Wthread-safety -Werror
// expect: reading variable 'loads' requires holding mutex 'record.table_mutex'
#include <tarn/tarn.hpp>

using Record = tarn::detail::FileRecord<tarn::DefaultTraits>;

bool is_loading(Record& record) {
#ifndef MUST_NOT_COMPILE
  const tarn::detail::MutexLock table{record.table_mutex};
#endif
  return record.loads != nullptr;
}
