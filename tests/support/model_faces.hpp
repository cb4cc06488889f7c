// SPDX-License-Identifier: MIT
#pragma once

// The two ways to use a file, with one face for the model: the building blocks on a plain metadata value, and a
// DirtyFile. `is_shared` says which: a DirtyFile waits for room and flushes for it, a building block does neither.
//
// Thread safety: none.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>

#include <tarn/tarn.hpp>

#include "support/model_store.hpp"
#include "support/received.hpp"

namespace tarn_test {

template <class TraitsType>
class BlockFace {
 public:
  using Traits = TraitsType;
  using Pool = tarn::ChunkPool<Traits>;
  using Store = ModelStore<Traits>;
  using Meta = tarn::MetadataFor<Traits>;
  static constexpr bool is_shared = false;

  BlockFace(Pool& pool, Store& store, Meta made) : meta{std::move(made)}, pool_{pool}, store_{store} {}
  ~BlockFace() { pool_.drop(meta); }

  tarn::Result<std::size_t> read(std::uint64_t at, std::span<std::byte> into) {
    return tarn::read_range(pool_, meta, at, into, store_);
  }
  template <class F>
  tarn::Result<> view(std::uint64_t at, std::uint64_t size_bytes, F&& f) {
    return tarn::read_range(pool_, meta, at, size_bytes, store_, f);
  }
  tarn::ReadOutcome<std::size_t> try_read(std::uint64_t at, std::span<std::byte> into) {
    return tarn::try_read_range(pool_, meta, at, into);
  }
  tarn::Result<std::size_t> write(std::uint64_t at, std::span<const std::byte> from) {
    if (from.size() >= pool_.chunk_bytes() && ++writes_ % 2 == 0) {  // by copy, or from where it was received
      if (auto spares = received(pool_, from)) return tarn::write_range(pool_, meta, at, *spares, from.size());
    }
    return tarn::write_range(pool_, meta, at, from);
  }
  template <class Filler>
  tarn::Result<std::size_t> fill(std::uint64_t at, std::uint64_t size_bytes, Filler&& filler) {
    return tarn::write_range(pool_, meta, at, size_bytes, filler);
  }
  tarn::Result<std::size_t> append(std::span<const std::byte> from) { return write(meta.size(), from); }
  tarn::Result<> truncate(std::uint64_t size_bytes) { return tarn::truncate(pool_, meta, size_bytes); }
  tarn::Result<> zero(tarn::ByteRange range, bool keep_size) {
    return keep_size ? tarn::punch_hole(pool_, meta, range) : tarn::zero_range(pool_, meta, range);
  }
  tarn::Result<> flush() { return tarn::flush(pool_, meta, store_); }
  tarn::Result<> discard(std::uint64_t size_bytes, std::uint64_t version) {
    pool_.drop(meta);
    meta = Meta::from_store(meta.id(), size_bytes, {.part_bytes = meta.part_bytes(), .version = version});
    return {};
  }
  /// Removes the file from the store, and forgets it.
  tarn::Result<> remove() {
    const auto before = meta.state();
    meta.note_deleted();
    auto removed = tarn::flush(pool_, meta, store_);
    if (!removed) meta.undo_deleted(before);
    return removed;
  }
  [[nodiscard]] const Meta& metadata() const { return meta; }

  Meta meta;

 private:
  Pool& pool_;
  Store& store_;
  std::uint64_t writes_ = 0;
};

template <class TraitsType>
class FileFace {
 public:
  using Traits = TraitsType;
  using Pool = tarn::ChunkPool<Traits>;
  using Store = ModelStore<Traits>;
  using Meta = tarn::MetadataFor<Traits>;
  static constexpr bool is_shared = true;

  FileFace(Pool& pool, Store& store, Meta made) : file{pool, std::move(made), store} {}

  tarn::Result<std::size_t> read(std::uint64_t at, std::span<std::byte> into) { return file.read(at, into); }
  template <class F>
  tarn::Result<> view(std::uint64_t at, std::uint64_t size_bytes, F&& f) {
    return file.view(at, size_bytes, f);
  }
  tarn::ReadOutcome<std::size_t> try_read(std::uint64_t at, std::span<std::byte> into) {
    return file.try_read(at, into);
  }
  tarn::Result<std::size_t> write(std::uint64_t at, std::span<const std::byte> from) {
    ++mtime_ns;
    if (from.size() >= file.pool().chunk_bytes() && mtime_ns % 2 == 0) {  // as above
      if (auto spares = received(file.pool(), from)) return file.write(at, *spares, from.size(), mtime_ns);
    }
    return file.write(at, from, mtime_ns);
  }
  template <class Filler>
  tarn::Result<std::size_t> fill(std::uint64_t at, std::uint64_t size_bytes, Filler&& filler) {
    return file.write(at, size_bytes, filler, ++mtime_ns);
  }
  tarn::Result<std::size_t> append(std::span<const std::byte> from) {
    const auto written = file.append(from, ++mtime_ns);
    if (!written) return tarn::fail(written.error());
    return written->size_bytes;
  }
  tarn::Result<> truncate(std::uint64_t size_bytes) { return file.truncate(size_bytes, ++mtime_ns); }
  tarn::Result<> zero(tarn::ByteRange range, bool keep_size) {
    if (keep_size && range.size_bytes() % 2 == 0) return file.punch_hole(range, ++mtime_ns);
    return file.zero_range(range, keep_size, ++mtime_ns);
  }
  tarn::Result<> flush() { return file.flush(); }
  tarn::Result<> discard(std::uint64_t size_bytes, std::uint64_t version) {
    const auto gone = file.discard_dirty(size_bytes, version);
    if (!gone) return tarn::fail(gone.error());
    return {};
  }
  tarn::Result<> remove() { return file.remove(); }
  [[nodiscard]] Meta metadata() const { return file.metadata(); }

  tarn::DirtyFile<Traits, Store> file;
  std::int64_t mtime_ns = 0;  ///< the last one given; what failed or took nothing in did not set it
};

}  // namespace tarn_test
