// SPDX-License-Identifier: MIT
#pragma once

// A file's chunks by index: a radix tree of 32-way nodes, as high as the largest index needs.
//
// A sparse file costs what it holds, "next chunk from here" costs its height, and dropping a file touches only its own
// nodes. A place is reserved before it is filled, so that insert cannot fail: reserve makes the nodes (charged to the
// budget) and counts as a user of its leaf; insert takes the reservation over; erase and unreserve free nodes that have
// no user left.
//
// Thread safety: none; the owner's table mutex guards it.
// Cost:          find, insert, erase, next O(height): 1 up to 32 chunks, 2 up to 1024, 6 for 2^30.

#include <array>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <new>
#include <utility>

#include <tarn/budget.hpp>

namespace tarn::detail {

template <class Chunk>
class ChunkTable {
 public:
  ChunkTable() = default;
  ChunkTable(const ChunkTable&) = delete;
  ChunkTable& operator=(const ChunkTable&) = delete;
  ~ChunkTable() { assert(root_ == nullptr && "a table is emptied by its owner"); }

  [[nodiscard]] bool empty() const { return root_ == nullptr; }

  /// Returns: the chunk, or null.
  [[nodiscard]] Chunk* find(std::uint64_t index) const {
    if (root_ == nullptr || !covers(index)) return nullptr;
    auto* node = root_;
    for (auto level = height_; level-- > 0;) {
      node = static_cast<Node*>(node->slots[slot_of(index, level + 1)]);
      if (node == nullptr) return nullptr;
    }
    return static_cast<Chunk*>(node->slots[slot_of(index, 0)]);
  }

  /// Makes room for one insert at `index`.
  /// Returns: false if the budget or the heap refuses; then nothing changed.
  [[nodiscard]] bool reserve(std::uint64_t index, Budget& budget) noexcept {
    if (root_ == nullptr) {
      unsigned height = 0;
      while (height < max_height && (index >> (bits * (height + 1))) != 0) ++height;
      root_ = make(budget);
      if (root_ == nullptr) return false;
      height_ = height;
    }
    const auto height_before = height_;
    while (!covers(index)) {  // a level more on top
      auto* const top = make(budget);
      if (top == nullptr) return fail_reserve(index, height_before, budget);
      top->slots[0] = root_;
      top->users = 1;
      root_ = top;
      ++height_;
    }
    auto* node = root_;
    for (auto level = height_; level > 0; --level) {
      auto*& slot = node->slots[slot_of(index, level)];
      if (slot == nullptr) {
        slot = make(budget);
        if (slot == nullptr) return fail_reserve(index, height_before, budget);
        ++node->users;
      }
      node = static_cast<Node*>(slot);
    }
    ++node->users;
    return true;
  }
  void unreserve(std::uint64_t index, Budget& budget) noexcept { release(index, budget); }

  /// Requires: reserved, and nothing is there.
  void insert(std::uint64_t index, Chunk* chunk) noexcept {
    auto*& slot = leaf_of(index)->slots[slot_of(index, 0)];
    assert(slot == nullptr && "two chunks at one index");
    slot = chunk;
  }
  /// Requires: a chunk is there.
  void erase(std::uint64_t index, Budget& budget) noexcept {
    leaf_of(index)->slots[slot_of(index, 0)] = nullptr;
    release(index, budget);
  }

  /// The first chunk at or after `from`: {index, chunk}, or {0, null} if there is none.
  [[nodiscard]] std::pair<std::uint64_t, Chunk*> next(std::uint64_t from) const {
    if (root_ == nullptr || !covers(from)) return {0, nullptr};
    return next_in(root_, height_, 0, from);
  }

  [[nodiscard]] static constexpr std::size_t node_bytes() { return sizeof(Node); }

 private:
  static constexpr unsigned bits = 5, fan_out = 1u << bits, max_height = 12;  // 65 bits: any index

  struct Node {
    std::array<void*, fan_out> slots{};
    std::uint64_t users = 0;  // a leaf's chunks and reservations; an inner node's children
  };

  [[nodiscard]] static std::size_t slot_of(std::uint64_t index, unsigned level) {
    return static_cast<std::size_t>(index >> (bits * level)) & (fan_out - 1);
  }
  [[nodiscard]] bool covers(std::uint64_t index) const {
    return height_ >= max_height || (index >> (bits * (height_ + 1))) == 0;
  }
  [[nodiscard]] static Node* make(Budget& budget) noexcept {
    if (!budget.try_charge(sizeof(Node))) return nullptr;
    auto* const node = new (std::nothrow) Node;
    if (node == nullptr) budget.release(sizeof(Node));
    return node;
  }
  static void destroy(Node* node, Budget& budget) noexcept {
    delete node;
    budget.release(sizeof(Node));
  }
  [[nodiscard]] Node* leaf_of(std::uint64_t index) const {
    auto* node = root_;
    for (auto level = height_; level > 0; --level) node = static_cast<Node*>(node->slots[slot_of(index, level)]);
    return node;
  }

  bool fail_reserve(std::uint64_t index, unsigned height_before, Budget& budget) noexcept {
    prune(root_, height_, index, budget);
    for (; root_ != nullptr && height_ > height_before; --height_) {
      destroy(std::exchange(root_, static_cast<Node*>(root_->slots[0])), budget);
    }
    return false;
  }
  void release(std::uint64_t index, Budget& budget) noexcept {
    auto* const leaf = leaf_of(index);
    assert(leaf->users != 0);
    if (--leaf->users == 0) prune(root_, height_, index, budget);
  }
  // Frees the nodes on the way to `index` that have no user.
  template <class Slot>
  void prune(Slot*& slot, unsigned level, std::uint64_t index, Budget& budget) noexcept {
    auto* const node = static_cast<Node*>(slot);
    if (level > 0 && covers(index)) {
      auto*& child = node->slots[slot_of(index, level)];
      if (child != nullptr) {
        prune(child, level - 1, index, budget);
        if (child == nullptr) --node->users;
      }
    }
    if (node->users == 0) {
      destroy(node, budget);
      slot = nullptr;
    }
  }

  [[nodiscard]] std::pair<std::uint64_t, Chunk*> next_in(Node* node, unsigned level, std::uint64_t base,
                                                         std::uint64_t from) const {
    const auto width_bits = bits * level;  // what one slot spans
    for (auto slot = from > base ? slot_of(from, level) : 0; slot < fan_out; ++slot) {
      if (node->slots[slot] == nullptr) continue;
      const auto at = base + (std::uint64_t{slot} << width_bits);
      if (level == 0) return {at, static_cast<Chunk*>(node->slots[slot])};
      if (const auto found = next_in(static_cast<Node*>(node->slots[slot]), level - 1, at, from > at ? from : at);
          found.second != nullptr) {
        return found;
      }
    }
    return {0, nullptr};
  }

  Node* root_ = nullptr;
  unsigned height_ = 0;
};

}  // namespace tarn::detail
