// SPDX-License-Identifier: MIT
// A pin gives back what it took when it ends: a copy would give it back twice.
// expect: deleted
#include <tarn/chunk_pool.hpp>

#include <utility>

using Pin = tarn::ChunkPool<>::Pin;

#ifdef MUST_NOT_COMPILE
Pin second(const Pin& pin) { return pin; }
#else
Pin second(Pin& pin) { return std::move(pin); }
#endif
