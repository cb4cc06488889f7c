// SPDX-License-Identifier: MIT
#pragma once

// All of tarn that needs the standard library and the system alone. The edges (format.hpp, fuse.hpp) come apart.

#include <tarn/buffers.hpp>
#include <tarn/byte_range.hpp>
#include <tarn/chunk_layout.hpp>
#include <tarn/chunk_pool.hpp>
#include <tarn/dirty_file_metadata.hpp>
#include <tarn/extent_set.hpp>
#include <tarn/flush.hpp>
#include <tarn/policies.hpp>
#include <tarn/pool_options.hpp>
#include <tarn/pool_stats.hpp>
#include <tarn/read_range.hpp>
#include <tarn/result.hpp>
#include <tarn/store.hpp>
#include <tarn/truncate.hpp>
#include <tarn/write_range.hpp>
