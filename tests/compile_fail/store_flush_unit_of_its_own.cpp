// SPDX-License-Identifier: MIT
// A unit that is not read would give such a store ranges, which it cannot take.
// expect: the store's flush_unit is not one that tarn reads
#include <tarn/dirty_file.hpp>

using Traits = tarn::DefaultTraits;

class Store {
#ifndef MUST_NOT_COMPILE
 public:
#endif
  static constexpr auto flush_unit = tarn::FlushUnit::parts;

 public:
  tarn::Result<std::size_t> load(const tarn::LoadRequest<Traits>&);
  tarn::FlushOutcome<Traits> flush(const tarn::FlushRequest<Traits>&);
  tarn::Result<> remove(const Traits::FileId&);
};

std::uint64_t size_of(tarn::DirtyFile<Traits, Store>& file) { return file.size(); }
