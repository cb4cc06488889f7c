// SPDX-License-Identifier: MIT
#pragma once

// All of tarn that needs the standard library and the system alone. The edges (format.hpp, fuse.hpp) come apart.

#include <tarn/budget.hpp>
#include <tarn/buffers.hpp>
#include <tarn/byte_range.hpp>
#include <tarn/call_options.hpp>
#include <tarn/chunk_layout.hpp>
#include <tarn/chunk_pool.hpp>
#include <tarn/dirty_file.hpp>
#include <tarn/dirty_file_async.hpp>
#include <tarn/dirty_file_metadata.hpp>
#include <tarn/dirty_file_table.hpp>
#include <tarn/eviction/clock.hpp>
#include <tarn/eviction/s3_fifo.hpp>
#include <tarn/extent_set.hpp>
#include <tarn/flush.hpp>
#include <tarn/flusher.hpp>
#include <tarn/open_file.hpp>
#include <tarn/policies.hpp>
#include <tarn/pool_options.hpp>
#include <tarn/pool_stats.hpp>
#include <tarn/read_ahead.hpp>
#include <tarn/read_range.hpp>
#include <tarn/result.hpp>
#include <tarn/spare_chunks.hpp>
#include <tarn/storage/arena.hpp>
#include <tarn/storage/heap.hpp>
#include <tarn/store.hpp>
#include <tarn/store_request.hpp>
#include <tarn/token.hpp>
#include <tarn/truncate.hpp>
#include <tarn/write_range.hpp>
