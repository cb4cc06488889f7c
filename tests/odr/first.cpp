// SPDX-License-Identifier: MIT
#include "every_header_forwards.hpp"

// A function or variable of a header that is not inline is now defined in both files, and the program does not link.
// What is inline must be one object: its address is compared across the two.
const void* address_seen_by_second();

int main() { return address_seen_by_second() == &tarn::max_offset ? 0 : 1; }
