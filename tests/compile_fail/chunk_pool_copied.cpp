// SPDX-License-Identifier: MIT
// Pins and files point into their pool: it stays where it was made, and there is one of it.
// expect: deleted
#include <tarn/chunk_pool.hpp>

#ifdef MUST_NOT_COMPILE
tarn::ChunkPool<> copy_of(const tarn::ChunkPool<>& pool) { return pool; }
#else
const tarn::ChunkPool<>& same(const tarn::ChunkPool<>& pool) { return pool; }
#endif
