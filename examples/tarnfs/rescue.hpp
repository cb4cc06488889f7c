// SPDX-License-Identifier: MIT
#pragma once

// The last resort for bytes that SOURCE does not take.

#include "filesystem.hpp"

namespace tarnfs {

/// Saves each file that is dirty still under `directory`, by its path below SOURCE; a name that is taken there gets a
/// number. Of a file that can no longer be read in full the changed bytes are saved, with holes for the rest, and the
/// log says so. Called when no request is served any more.
void rescue(Filesystem& fs, int directory);

/// Names on the log the files whose changes are lost.
void report_lost(Filesystem& fs);

}  // namespace tarnfs
