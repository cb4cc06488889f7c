// SPDX-License-Identifier: MIT
// A sync that is not called would make every fsync succeed.
// expect: the store's sync is not one that tarn calls
#include <tarn/dirty_file.hpp>

using Traits = tarn::DefaultTraits;

struct Store {
  tarn::Result<std::size_t> load(const tarn::LoadRequest<Traits>&);
  tarn::FlushOutcome<Traits> flush(const tarn::FlushRequest<Traits>&);
#ifdef MUST_NOT_COMPILE
  bool sync(const tarn::SyncRequest<Traits>&);
#else
  tarn::Result<> sync(const tarn::SyncRequest<Traits>&);
#endif
  tarn::Result<> remove(const Traits::FileId&);
};

void fsync(tarn::DirtyFile<Traits, Store>& file) { (void)file.sync().has_value(); }
