// SPDX-License-Identifier: MIT
// Two numbers do not make a range: is the second a size or an end? And nobody would have checked them.
// expect: private
#include <tarn/byte_range.hpp>

#ifdef MUST_NOT_COMPILE
constexpr tarn::ByteRange range{4, 2};
#else
constexpr auto range = tarn::ByteRange::at(4, 2);
#endif
