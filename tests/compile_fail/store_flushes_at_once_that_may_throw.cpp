// SPDX-License-Identifier: MIT
// A number that is not called would be one, and nobody would know why flushes come one by one.
// expect: the store's flushes_at_once is not one that tarn calls
#include <tarn/dirty_file.hpp>

using Traits = tarn::DefaultTraits;

struct Store {
  tarn::Result<std::size_t> load(const tarn::LoadRequest<Traits>&);
  tarn::FlushOutcome<Traits> flush(const tarn::FlushRequest<Traits>&);
#ifdef MUST_NOT_COMPILE
  std::size_t flushes_at_once() const;
#else
  std::size_t flushes_at_once() const noexcept;
#endif
  tarn::Result<> remove(const Traits::FileId&);
};

std::uint64_t size_of(tarn::DirtyFile<Traits, Store>& file) { return file.size(); }
