// SPDX-License-Identifier: MIT
#pragma once

// One operation on the bytes of a file, as a line of text and back, and how the next one is drawn.
//
// Thread safety: none.

#include <algorithm>
#include <array>
#include <cstdint>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "support/model_random.hpp"

namespace tarn_test {

enum class Kind : std::uint8_t {
  read,
  write,
  append,
  mapped_read,
  mapped_write,
  private_read,  ///< of a mapping that is not shared
  direct_read,   ///< with O_DIRECT, beside what the kernel holds of the file
  direct_write,
  shrink,
  grow,
  closed_truncate,  ///< by name, while nobody has it open
  punch_hole,
  zero_range,
  zero_range_keep,
  allocate,
  allocate_keep,
  copy,  ///< from the next file
  seek,
  sync,
  stored,  ///< a sync or a close, after which SOURCE is looked at
  reopen,  ///< and between close and open SOURCE is looked at
  forget_pages,
  forget_everything,  ///< the kernel's caches of all files, inodes and names
  whole,              ///< a read of all of it
};

struct KindRow {
  std::string_view name;
  Kind kind;
  unsigned weight;  ///< how often it is drawn; 0: by another rule
};

constexpr std::array kinds{
    KindRow{"read", Kind::read, 18},
    KindRow{"write", Kind::write, 20},
    KindRow{"append", Kind::append, 5},
    KindRow{"mapped_read", Kind::mapped_read, 5},
    KindRow{"mapped_write", Kind::mapped_write, 6},
    KindRow{"private_read", Kind::private_read, 2},
    KindRow{"direct_read", Kind::direct_read, 4},
    KindRow{"direct_write", Kind::direct_write, 4},
    KindRow{"shrink", Kind::shrink, 5},
    KindRow{"grow", Kind::grow, 4},
    KindRow{"closed_truncate", Kind::closed_truncate, 1},
    KindRow{"punch_hole", Kind::punch_hole, 4},
    KindRow{"zero_range", Kind::zero_range, 2},
    KindRow{"zero_range_keep", Kind::zero_range_keep, 2},
    KindRow{"allocate", Kind::allocate, 2},
    KindRow{"allocate_keep", Kind::allocate_keep, 2},
    KindRow{"copy", Kind::copy, 2},
    KindRow{"seek", Kind::seek, 2},
    KindRow{"sync", Kind::sync, 2},
    KindRow{"stored", Kind::stored, 2},
    KindRow{"reopen", Kind::reopen, 3},
    KindRow{"forget_pages", Kind::forget_pages, 3},
    KindRow{"forget_everything", Kind::forget_everything, 0},
    KindRow{"whole", Kind::whole, 3},
};

constexpr std::string_view name_of(Kind kind) { return kinds[static_cast<std::size_t>(kind)].name; }

constexpr bool rows_stand_where_their_kinds_say() {
  for (std::size_t i = 0; i < kinds.size(); ++i) {
    if (kinds[i].kind != static_cast<Kind>(i)) return false;
  }
  return true;
}
static_assert(rows_stand_where_their_kinds_say());

inline Kind kind_named(std::string_view name) {
  for (const auto& row : kinds) {
    if (row.name == name) return row.kind;
  }
  throw std::invalid_argument{"no such operation: " + std::string{name}};
}

struct Operation {
  Kind kind = Kind::whole;
  std::size_t file_index = 0;
  std::uint64_t offset = 0;  ///< or the new size
  std::uint64_t size_bytes = 0;
  std::uint64_t from = 0;    ///< of a copy: the offset in the other file
  std::uint64_t number = 0;  ///< its step when it was drawn; what it writes says so

  [[nodiscard]] std::string text() const {
    std::ostringstream line;
    line << name_of(kind) << ' ' << file_index << ' ' << offset << ' ' << size_bytes << ' ' << from << ' ' << number;
    return line.str();
  }
  static Operation parse(const std::string& line) {
    std::istringstream words{line};
    std::string name;
    Operation op;
    words >> name >> op.file_index >> op.offset >> op.size_bytes >> op.from >> op.number;
    if (!words) throw std::invalid_argument{"no operation: " + line};
    op.kind = kind_named(name);
    return op;
  }
};

/// Where offsets and sizes are drawn: near the borders of what the filesystem cuts files into.
struct Shape {
  std::size_t files = 2;
  std::uint64_t max_bytes = 0;  ///< of a file
  std::uint64_t chunk_bytes = 4096;
  std::uint64_t part_bytes = 65536;
};

class OperationDraw {
 public:
  OperationDraw(std::uint64_t seed, const Shape& shape) : random_{seed}, shape_{shape} {}

  /// `sizes` are those of the files now. Called with each step, from 0 on.
  Operation next(std::uint64_t step, const std::vector<std::uint64_t>& sizes) {
    if (step % phase_steps == 0) begin_phase();
    Operation op;
    op.kind = kind();
    op.number = step;
    op.file_index = static_cast<std::size_t>(random_.below(shape_.files));
    const auto end = sizes[op.file_index];
    op.offset = offset(end);
    op.size_bytes = size();
    switch (op.kind) {
      case Kind::append:
        op.offset = end;
        if (end == shape_.max_bytes) shrink(op, end);
        break;
      case Kind::shrink:
        op.offset = std::min(op.offset, end);
        break;
      case Kind::grow:
        op.offset = std::max(op.offset, end);
        if (end == shape_.max_bytes) shrink(op, end);
        break;
      case Kind::mapped_write:  // past the end is nothing to map
        op.offset = std::min(op.offset, end);
        op.size_bytes = std::min(op.size_bytes, end - op.offset);
        break;
      case Kind::copy: {
        const auto there = sizes[(op.file_index + 1) % sizes.size()];
        op.from = offset(there);
        break;
      }
      default:
        break;
    }
    // A read may ask for more than there can be.
    const bool reads = op.kind == Kind::read || op.kind == Kind::direct_read;
    if (!reads) op.size_bytes = std::min(op.size_bytes, shape_.max_bytes - op.offset);
    return op;
  }

 private:
  static constexpr std::uint64_t phase_steps = 200;

  /// Some kinds are left out for a while: without those that sync, dirty bytes pile up until they are stored for room.
  void begin_phase() {
    sum_ = 0;
    for (std::size_t i = 0; i < kinds.size(); ++i) {
      weights_[i] = random_.one_in(4) ? 0 : kinds[i].weight;
      sum_ += weights_[i];
    }
  }
  Kind kind() {
    if (sum_ == 0) return Kind::whole;
    auto at = random_.below(sum_);
    std::size_t i = 0;
    for (; at >= weights_[i]; ++i) at -= weights_[i];
    return kinds[i].kind;
  }

  /// What a border may be one of.
  std::uint64_t unit() {
    const std::array<std::uint64_t, 5> units{512, 4096, shape_.chunk_bytes, shape_.part_bytes, 1 << 20};
    return units[random_.below(units.size())];
  }

  std::uint64_t near(std::uint64_t at) {
    const auto off = random_.below(7);  // three on each side
    return at + off < 3 ? 0 : at + off - 3;
  }

  /// What takes the place of an operation that a file of the largest size has no room for.
  void shrink(Operation& op, std::uint64_t end) {
    op.kind = Kind::shrink;
    op.offset = random_.below(end);
  }

  std::uint64_t offset(std::uint64_t end) {
    // Half of them no further than a little past the end, or every file would have the largest size soon.
    const auto reach =
        random_.one_in(2) ? shape_.max_bytes : std::min(shape_.max_bytes, end + 1 + random_.below(shape_.chunk_bytes));
    std::uint64_t at = 0;
    switch (random_.below(8)) {
      case 0:
      case 1:
      case 2: {
        const auto border = unit();
        at = near(random_.below(reach / border + 1) * border);
        break;
      }
      case 3:
        at = near(end);
        break;
      case 4:
        at = random_.below(10);
        break;
      case 5:
        at = random_.below(end + 1);
        break;
      default:
        at = random_.below(reach);
    }
    return std::min(at, reach);
  }

  std::uint64_t size() {
    switch (random_.below(10)) {
      case 0:
      case 1:
        return 1 + random_.below(9);
      case 2:
        return near(shape_.chunk_bytes);
      case 3:
        return near(4096 * (1 + random_.below(4)));
      case 4:
        return 1 + random_.below(4 * shape_.chunk_bytes);
      case 5:
        return random_.one_in(2) ? near(unit()) : near(shape_.part_bytes);
      case 6:
        return 1 + random_.below(random_.one_in(8) ? shape_.max_bytes : 2 * shape_.chunk_bytes);
      default:
        return 1 + random_.below(9000);
    }
  }

  ModelRandom random_;
  const Shape shape_;
  std::array<unsigned, kinds.size()> weights_{};  // of this phase
  std::uint64_t sum_ = 0;
};

}  // namespace tarn_test
