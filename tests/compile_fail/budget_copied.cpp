// SPDX-License-Identifier: MIT
// A copy of a budget would count the same memory twice, or not at all.
// expect: deleted
#include <tarn/budget.hpp>

#ifdef MUST_NOT_COMPILE
tarn::Budget copy_of(const tarn::Budget& budget) { return budget; }
#else
const tarn::Budget& same(const tarn::Budget& budget) { return budget; }
#endif
