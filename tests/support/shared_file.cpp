// SPDX-License-Identifier: MIT
#include "support/shared_file.hpp"

TARN_TEST_SHARED_FILE(template class, tarn_test::WatchedFiles)
TARN_TEST_SHARED_FILE(template class, tarn_test::WatchedFilesInArena)
template class tarn_test::SharedFile<tarn_test::WatchedFiles>;
template class tarn_test::SharedFile<tarn_test::WatchedFilesInArena>;
