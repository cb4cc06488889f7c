// SPDX-License-Identifier: MIT
// True would be taken for one byte.
// expect: a store has Result<std::size_t> load
#include <tarn/dirty_file_table.hpp>

using Traits = tarn::DefaultTraits;

struct Store {
#ifdef MUST_NOT_COMPILE
  bool load(const tarn::LoadRequest<Traits>&);
#else
  tarn::Result<std::size_t> load(const tarn::LoadRequest<Traits>&);
#endif
  tarn::FlushOutcome<Traits> flush(const tarn::FlushRequest<Traits>&);
  tarn::Result<> remove(const Traits::FileId&);
};

std::uint64_t size_of(tarn::DirtyFileTable<Traits, Store>& table) { return table.find(1)->size(); }
