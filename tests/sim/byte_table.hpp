// SPDX-License-Identifier: MIT
#pragma once

// The byte table of docs/design.md as a program over the real library: which row each byte of a file is in, what a call
// or an answer may make of it, and how often each cell was entered.
//
// Thread safety: none.

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

#include <tarn/chunk_pool.hpp>

namespace tarn_test {

/// The rows: what a byte below the file's size is.
enum class ByteRow : std::uint8_t { stored, clean, dirty, nothing, count };
/// The columns: what comes. `zero` is a truncate below it or a punch.
enum class ByteColumn : std::uint8_t {
  read,
  write,
  zero,
  load_lands,
  flush_begins,
  flush_ok,
  flush_fails,
  evict,
  count
};

inline constexpr std::size_t byte_rows = static_cast<std::size_t>(ByteRow::count),
                             byte_columns = static_cast<std::size_t>(ByteColumn::count);
inline constexpr std::array<const char*, byte_rows> byte_row_names{"stored, not held", "held, clean", "held, dirty",
                                                                   "not held, not stored"};
inline constexpr std::array<const char*, byte_columns> byte_column_names{
    "read", "write", "truncate or punch", "load lands", "flush begins", "flush ok", "flush fails", "evict"};

/// The bytes of a file by row, of one moment.
class ByteRows {
 public:
  template <class Traits>
  [[nodiscard]] static ByteRows of(const tarn::ChunkPool<Traits>& pool, const tarn::MetadataFor<Traits>& meta) {
    ByteRows rows;
    auto& clean = rows.bytes(ByteRow::clean);
    auto& stored = rows.bytes(ByteRow::stored);
    auto& nothing = rows.bytes(ByteRow::nothing);
    rows.bytes(ByteRow::dirty) = pool.dirty_extents(meta);
    const auto& dirty = rows.bytes(ByteRow::dirty);
    clean = pool.held_extents(meta);
    stored = meta.stored();
    nothing.add(tarn::ByteRange::between(0, meta.size()));
    nothing.subtract(stored);
    nothing.subtract(clean);
    stored.subtract(clean);
    clean.subtract(dirty);
    return rows;
  }
  [[nodiscard]] const tarn::ExtentSet& bytes(ByteRow row) const { return bytes_[static_cast<std::size_t>(row)]; }

 private:
  [[nodiscard]] tarn::ExtentSet& bytes(ByteRow row) { return bytes_[static_cast<std::size_t>(row)]; }

  std::array<tarn::ExtentSet, byte_rows> bytes_;
};

class ByteTable {
 public:
  /// `column` comes to the bytes of `where`, which are in the rows of `before`.
  void enter(ByteColumn column, const ByteRows& before, const tarn::ExtentSet& where) {
    for (std::size_t row = 0; row < byte_rows; ++row) {
      if (!both(before.bytes(static_cast<ByteRow>(row)), where).empty()) {
        ++entered_[row][static_cast<std::size_t>(column)];
      }
    }
  }
  /// Returns: the first cell of which the bytes of `where` are in a row that it does not lead to; empty if there is none.
  /// Requires: nothing else came in between.
  [[nodiscard]] static std::string broken_cell(ByteColumn column, const ByteRows& before, const ByteRows& after,
                                               const tarn::ExtentSet& where) {
    for (std::size_t from = 0; from < byte_rows; ++from) {
      const auto its = both(before.bytes(static_cast<ByteRow>(from)), where);
      for (std::size_t to = 0; to < byte_rows; ++to) {
        if (leads_to(column, static_cast<ByteRow>(from), static_cast<ByteRow>(to))) continue;
        const auto there = both(after.bytes(static_cast<ByteRow>(to)), its);
        if (there.empty()) continue;
        return std::string{"the byte table: "} + byte_column_names[static_cast<std::size_t>(column)] + " made \"" +
               byte_row_names[from] + "\" \"" + byte_row_names[to] + "\"\nat " +
               std::to_string(there.extents().front().offset());
      }
    }
    return {};
  }
  [[nodiscard]] std::uint64_t entered(ByteRow row, ByteColumn column) const {
    return entered_[static_cast<std::size_t>(row)][static_cast<std::size_t>(column)];
  }
  /// A line for each row.
  [[nodiscard]] std::string text() const {
    std::string text;
    for (std::size_t row = 0; row < byte_rows; ++row) {
      text += std::string{byte_row_names[row]} + ":";
      for (std::size_t column = 0; column < byte_columns; ++column) {
        text += std::string{" "} + byte_column_names[column] + " " + std::to_string(entered_[row][column]) +
                (column + 1 < byte_columns ? "," : "\n");
      }
    }
    return text;
  }

 private:
  [[nodiscard]] static tarn::ExtentSet both(const tarn::ExtentSet& one, const tarn::ExtentSet& other) {
    tarn::ExtentSet found;
    for (const auto& extent : other.extents()) found.add(one.intersect(extent));
    return found;
  }
  // What is clean may be evicted, and what is stored loaded, to make or find room for anything.
  [[nodiscard]] static bool leads_to(ByteColumn column, ByteRow from, ByteRow to) {
    const bool only_moves = from == to || (from <= ByteRow::clean && to <= ByteRow::clean);
    switch (column) {
      case ByteColumn::write:
        return to == ByteRow::dirty;
      case ByteColumn::zero:
        return to == ByteRow::nothing;
      case ByteColumn::flush_ok:
        return only_moves || (from == ByteRow::dirty && to <= ByteRow::clean) ||
               (from == ByteRow::nothing && to == ByteRow::stored);
      default:
        return only_moves;
    }
  }

  std::array<std::array<std::uint64_t, byte_columns>, byte_rows> entered_{};
};

}  // namespace tarn_test
