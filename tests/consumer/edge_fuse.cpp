// SPDX-License-Identifier: MIT
#include <tarn/fuse.hpp>

int main() { return fuse_version() >= 310 ? 0 : 1; }
