// SPDX-License-Identifier: MIT
#include "support/later_file.hpp"

TARN_TEST_LATER_FILE(template, tarn_test::Heap)
TARN_TEST_LATER_FILE(template, tarn_test::Arena)
