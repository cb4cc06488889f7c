// SPDX-License-Identifier: MIT
// A reserve that is not called would let every write pass a quota.
// expect: the store's reserve is not one that tarn calls
#include <tarn/dirty_file.hpp>

using Traits = tarn::DefaultTraits;

struct Store {
  tarn::Result<std::size_t> load(const tarn::LoadRequest<Traits>&);
  tarn::FlushOutcome<Traits> flush(const tarn::FlushRequest<Traits>&);
#ifdef MUST_NOT_COMPILE
  tarn::Result<> reserve(std::uint64_t size_bytes);
#else
  tarn::Result<> reserve(const tarn::ReserveRequest<Traits>&);
#endif
  tarn::Result<> remove(const Traits::FileId&);
};

std::uint64_t size_of(tarn::DirtyFile<Traits, Store>& file) { return file.size(); }
