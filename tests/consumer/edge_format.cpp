// SPDX-License-Identifier: MIT
#include <tarn/format.hpp>

int main() { return fmt::format("{}", 6) == "6" ? 0 : 1; }
