// SPDX-License-Identifier: MIT
#include "support/one_file.hpp"

template class tarn::BasicDirtyFileMetadata<std::uint64_t, tarn::Digest<16>, std::monostate>;
TARN_TEST_ONE_FILE(template, tarn_test::Heap)
TARN_TEST_ONE_FILE(template, tarn_test::Arena)
