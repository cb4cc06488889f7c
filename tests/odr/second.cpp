// SPDX-License-Identifier: MIT
#include "every_header_backwards.hpp"

const void* address_seen_by_second();

const void* address_seen_by_second() { return &tarn::max_offset; }
