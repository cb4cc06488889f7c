// SPDX-License-Identifier: MIT
// Pins and files point into their pool: it ends where it was made.
// expect: deleted
#include <tarn/chunk_pool.hpp>

#include <utility>

#ifdef MUST_NOT_COMPILE
tarn::ChunkPool<> elsewhere(tarn::ChunkPool<>& pool) { return std::move(pool); }
#else
tarn::ChunkPool<>& elsewhere(tarn::ChunkPool<>& pool) { return pool; }
#endif
