// SPDX-License-Identifier: MIT
#include <tarn/tarn.hpp>

int main() {
  const tarn::ChunkPool<> pool{{.budget_bytes = 64 * tarn::MiB}};
  return tarn::ByteRange::at(4, 2)->end() == 6 ? 0 : 1;
}
