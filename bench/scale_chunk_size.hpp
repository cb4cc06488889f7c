// SPDX-License-Identifier: MIT
#pragma once

// What the size of the chunks is chosen by: a small file takes a whole one, and what a large file takes beside its bytes,
// and a call that has all its chunks, go by how many there are.
//
// Thread safety: none. Requires: the calling thread is the only one, since it forks.

#include <cstddef>
#include <cstdint>
#include <string>

#include <tarn/dirty_file.hpp>

#include "held_file.hpp"
#include "paired.hpp"
#include "scale_files.hpp"
#include "scale_memory.hpp"

namespace tarn_bench {

inline void chunk_sizes(const Suite& suite) {
  using tarn::KiB, tarn::MiB;
  for (const auto chunk_bytes : {4 * KiB, 16 * KiB, 64 * KiB, 256 * KiB, MiB}) {
    const auto said = size_said(chunk_bytes);
    if (const auto name = "chunk_size/file_of_4KiB/" + said; suite.wants(name)) {
      in_own_process([&] {
        constexpr std::uint64_t files = 512;
        tarn::ChunkPool<Traits> pool{{.budget_bytes = tarn::GiB, .chunk_bytes = chunk_bytes}};
        for (std::uint64_t id = 1; id <= files; ++id) StoredFile{pool, id, 4 * KiB}.hold();
        expect(pool.stats().chunks_held == files && pool.stats().evictions == 0, name);
        Suite::value(name, "KiB", static_cast<double>(pool.stats().charged_bytes) / files / KiB);
      });
    }
    if (const auto name = "chunk_size/beside_1MiB/" + said; suite.wants(name)) {
      in_own_process([&] {
        constexpr std::uint64_t size_bytes = 256 * MiB;
        const tarn::PoolOptions options{.budget_bytes = tarn::GiB, .chunk_bytes = chunk_bytes};
        const auto file = [](tarn::ChunkPool<Traits>& pool) { return StoredFile{pool, 1, size_bytes}; };
        const auto cost = cost_of(
            options, size_bytes / chunk_bytes, [&](auto& pool) { file(pool).hold(); },
            [&](auto& pool) { file(pool).drop(); });
        Suite::value(name, "bytes", static_cast<double>(cost.charged_bytes) * MiB / size_bytes);
      });
    }
    if (const auto name = "chunk_size/view_of_1MiB/" + said; suite.wants(name)) {
      HeldFile file{16 * MiB, chunk_bytes};
      const Offsets offsets{16 * MiB, MiB, Offsets::Order::random};
      suite.measure(name, each([&](std::uint64_t i) {
                      std::size_t seen = 0;
                      const auto viewed = file->view(offsets[i], MiB, [&](tarn::ConstBuffers bytes) {
                        used(bytes[0].data());
                        seen = bytes.size_bytes();
                      });
                      if (!viewed || seen != MiB) fail(name);
                    }));
    }
  }
}

}  // namespace tarn_bench
