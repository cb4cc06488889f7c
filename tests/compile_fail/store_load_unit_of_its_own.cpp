// SPDX-License-Identifier: MIT
// A unit that is not read would ask such a store for ranges, which it cannot give.
// expect: the store's load_unit is not one that tarn reads
#include <tarn/dirty_file.hpp>

using Traits = tarn::DefaultTraits;

class Store {
#ifndef MUST_NOT_COMPILE
 public:
#endif
  static constexpr auto load_unit = tarn::LoadUnit::parts;

 public:
  tarn::Result<std::size_t> load(const tarn::LoadRequest<Traits>&);
  tarn::FlushOutcome<Traits> flush(const tarn::FlushRequest<Traits>&);
  tarn::Result<> remove(const Traits::FileId&);
};

std::uint64_t size_of(tarn::DirtyFile<Traits, Store>& file) { return file.size(); }
