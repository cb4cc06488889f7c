// SPDX-License-Identifier: MIT
#include <tarn/tarn.hpp>
#include <tarn/testing/flat_model.hpp>

int main() {
  const tarn::ChunkPool<> pool{{.budget_bytes = 64 * tarn::MiB}};
  const tarn::testing::FlatModel model;
  return tarn::ByteRange::at(4, 2)->end() == 6 && model.size() == 0 ? 0 : 1;
}
