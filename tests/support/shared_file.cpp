// SPDX-License-Identifier: MIT
#include "support/shared_file.hpp"

TARN_TEST_SHARED_FILE(template, tarn_test::WatchedFiles)
TARN_TEST_SHARED_FILE(template, tarn_test::WatchedFilesInArena)
template struct tarn_test::SharedFile<tarn_test::WatchedFiles>;
template struct tarn_test::SharedFile<tarn_test::WatchedFilesInArena>;
