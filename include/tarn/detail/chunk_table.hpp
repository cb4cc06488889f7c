// SPDX-License-Identifier: MIT
#pragma once

// A file's chunks by index: a radix tree of 32-way nodes, as high as the largest index needs; and none until another
// place than the first is reserved, for a first chunk is all that most files and pieces of content have.
//
// A sparse file costs what it holds, "next chunk from here" costs its height, and dropping a file touches only its own
// nodes. A place is reserved before it is filled, so that insert cannot fail: reserve makes the nodes (charged to the
// budget) and counts as a user of its leaf; insert takes the reservation over; erase and unreserve give back the
// nodes that have no user left.
//
// A short read looks without the mutex (Unlocked). The root with its height is one word, and so is each slot, which
// says whether it is a chunk or a node; the root says it as well. A node is empty when it is given back, and its memory
// stays a node's. So who looks while a node goes and becomes another table's goes astray in that table, but in a table;
// what he finds is a chunk, of which he has to see whether it is his.
//
// Thread safety: Unlocked: one thread's own, beside any others; find_unlocked: any thread; all else: guarded by the
//                owner's table mutex.
// Cost:          find, insert, erase, next O(height): 1 up to 32 chunks, 2 up to 1024, 6 for 2^30.

#include <array>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <new>
#include <utility>

#include <tarn/detail/stable_objects.hpp>
#include <tarn/detail/sync.hpp>

namespace tarn::detail {

template <class Chunk>
class ChunkTable {
  struct Node;

 public:
  /// Where nodes come from: one for all tables that a thread may stray into.
  using Nodes = StableObjects<Node>;

  ChunkTable() = default;
  ChunkTable(const ChunkTable&) = delete;
  ChunkTable& operator=(const ChunkTable&) = delete;
  ~ChunkTable() { assert(empty() && "a table is emptied by its owner"); }

  [[nodiscard]] bool empty() const { return load_owned(root_) == 0 && sole_users_ == 0; }

  /// Returns: the chunk, or null.
  [[nodiscard]] Chunk* find(std::uint64_t index) const {
    return find_by(index, [](const Slot& slot) { return load_owned(slot); });
  }
  /// Looks with no lock. Returns: the chunk, or one that was there, or another table's; or null, which says nothing.
  [[nodiscard, gnu::always_inline]] Chunk* find_unlocked(std::uint64_t index) const {
    return find_by(index, load_unlocked);
  }
  /// The same for chunks one after the other.
  class Unlocked {
   public:
    explicit Unlocked(const ChunkTable& table) : root_{load_unlocked(table.root_)} {}

    [[nodiscard]] Chunk* find(std::uint64_t index) {
      if (is_sole(root_)) return sole_in(root_, index);
      if (leaf_ == nullptr || index / fan_out != of_) {
        leaf_ = leaf_by(root_, index, load_unlocked);
        of_ = index / fan_out;
      }
      return find_in(leaf_, index, load_unlocked);
    }

   private:
    std::uintptr_t root_;
    const Node* leaf_ = nullptr;
    std::uint64_t of_ = 0;  // the indexes that leaf_ has, divided by their number
  };

  /// Makes room for one insert at `index`.
  /// Returns: false if the budget or the heap refuses; then nothing changed.
  [[nodiscard]] bool reserve(std::uint64_t index, Nodes& nodes) noexcept {
    if (index == 0 && root() == nullptr) {
      ++sole_users_;
      return true;
    }
    if (sole_users_ == 0) return reserve_by_nodes(index, nodes);
    auto* const leaf = nodes.take(std::nothrow);
    if (leaf == nullptr) return false;
    leaf->users = std::exchange(sole_users_, 0);
    if (const auto sole = load_owned(root_); sole != 0) put(leaf->slots[0], sole_in(sole, 0));
    set_root(leaf, 0);
    if (reserve_by_nodes(index, nodes)) return true;
    sole_users_ = std::exchange(leaf->users, 0);  // as it was
    set_sole(chunk_in(leaf->slots[0]));
    clear(leaf->slots[0]);
    nodes.give(*leaf);
    return false;
  }
  void unreserve(std::uint64_t index, Nodes& nodes) noexcept { release(index, nodes); }

  /// Requires: reserved, and nothing is there.
  void insert(std::uint64_t index, Chunk* chunk) noexcept {
    assert((sole_users_ == 0 || index == 0) && find(index) == nullptr && "two chunks at one index");
    if (sole_users_ != 0) return set_sole(chunk);
    put(leaf_of(index)->slots[slot_of(index, 0)], chunk);
  }
  /// Requires: a chunk is there.
  void erase(std::uint64_t index, Nodes& nodes) noexcept {
    assert((sole_users_ == 0 || index == 0) && "no chunk is there");
    if (sole_users_ != 0) {
      set_sole(nullptr);
    } else {
      clear(leaf_of(index)->slots[slot_of(index, 0)]);
    }
    release(index, nodes);
  }

  /// The first chunk at or after `from`: {index, chunk}, or {0, null} if there is none.
  [[nodiscard]] std::pair<std::uint64_t, Chunk*> next(std::uint64_t from) const {
    if (const auto root = load_owned(root_); is_sole(root)) return {0, sole_in(root, from)};
    if (root() == nullptr || !covers(from, height())) return {0, nullptr};
    return next_in(root(), height(), 0, from);
  }

  [[nodiscard]] static constexpr std::size_t node_bytes() { return sizeof(Node); }

 private:
  static constexpr unsigned bits = 5, fan_out = 1u << bits, max_height = 12;  // 65 bits: any index

  /// 0, or the address of a node, or that of a chunk with is_chunk added. The root's: with the height added, or with
  /// sole_mark if it is a chunk's.
  using Slot = Atomic<std::uintptr_t>;
  static constexpr std::uintptr_t is_chunk = 1, height_mask = 15, sole_mark = height_mask;
  static_assert(max_height < sole_mark && alignof(Chunk) > sole_mark);

  struct alignas(height_mask + 1) Node {
    std::array<Slot, fan_out> slots{};  // all 0 while it is nobody's
    std::uint64_t users = 0;            // a leaf's chunks and reservations; an inner node's children

    [[nodiscard]] std::uint64_t& spare() { return users; }
  };

  [[nodiscard]] static std::size_t slot_of(std::uint64_t index, unsigned level) {
    return static_cast<std::size_t>(index >> (bits * level)) & (fan_out - 1);
  }
  [[nodiscard]] static bool covers(std::uint64_t index, unsigned height) {
    return height >= max_height || (index >> (bits * (height + 1))) == 0;
  }

  template <class Load>
  [[nodiscard, gnu::always_inline]] Chunk* find_by(std::uint64_t index, Load load) const {
    const auto root = load(root_);
    return is_sole(root) ? sole_in(root, index) : find_in(leaf_by(root, index, load), index, load);
  }
  // The leaf that would have `index`, in the table that `root` is of; null says nothing.
  template <class Load>
  [[nodiscard, gnu::always_inline]] static const Node* leaf_by(std::uintptr_t root, std::uint64_t index, Load load) {
    auto shift = bits * static_cast<unsigned>(root & height_mask);
    const auto* node = reinterpret_cast<const Node*>(root & ~height_mask);
    auto slot = index >> shift;
    if (node == nullptr || slot >= fan_out) return nullptr;
    while (shift != 0) {
      const auto at = load(node->slots[slot]);
      if (at == 0 || (at & is_chunk) != 0) return nullptr;  // a chunk: of another table
      node = reinterpret_cast<const Node*>(at);
      shift -= bits;
      slot = (index >> shift) & (fan_out - 1);
    }
    return node;
  }
  template <class Load>
  [[nodiscard]] static Chunk* find_in(const Node* leaf, std::uint64_t index, Load load) {
    const auto at = leaf == nullptr ? 0 : load(leaf->slots[index & (fan_out - 1)]);
    return (at & is_chunk) == 0 ? nullptr : reinterpret_cast<Chunk*>(at - is_chunk);
  }
  static std::uintptr_t load_unlocked(const Slot& slot) { return slot.load(std::memory_order_acquire); }

  // Of the owner.
  [[nodiscard]] static Node* node_in(const Slot& slot) { return reinterpret_cast<Node*>(load_owned(slot)); }
  static void put(Slot& slot, Node* node) {
    slot.store(reinterpret_cast<std::uintptr_t>(node), std::memory_order_release);
  }
  static void put(Slot& slot, Chunk* chunk) {
    slot.store(reinterpret_cast<std::uintptr_t>(chunk) + is_chunk, std::memory_order_release);
  }
  static void clear(Slot& slot) { slot.store(0, std::memory_order_release); }
  [[nodiscard]] static Chunk* chunk_in(const Slot& slot) {
    const auto at = load_owned(slot);
    return at == 0 ? nullptr : reinterpret_cast<Chunk*>(at - is_chunk);
  }
  [[nodiscard]] static bool is_sole(std::uintptr_t root) { return (root & height_mask) == sole_mark; }
  [[nodiscard]] static Chunk* sole_in(std::uintptr_t root, std::uint64_t index) {
    return index == 0 ? reinterpret_cast<Chunk*>(root - sole_mark) : nullptr;
  }
  void set_sole(Chunk* chunk) {
    root_.store(chunk == nullptr ? 0 : reinterpret_cast<std::uintptr_t>(chunk) + sole_mark, std::memory_order_release);
  }
  // Null also if the root is the sole chunk.
  [[nodiscard]] Node* root() const {
    const auto root = load_owned(root_);
    return is_sole(root) ? nullptr : reinterpret_cast<Node*>(root & ~height_mask);
  }
  [[nodiscard]] unsigned height() const { return static_cast<unsigned>(load_owned(root_) & height_mask); }
  void set_root(Node* node, unsigned height) {
    root_.store(reinterpret_cast<std::uintptr_t>(node) + height, std::memory_order_release);
  }
  [[nodiscard]] Node* leaf_of(std::uint64_t index) const {
    auto* node = root();
    for (auto level = height(); level > 0; --level) node = node_in(node->slots[slot_of(index, level)]);
    return node;
  }

  // The same once there is a node, or is to be.
  [[nodiscard]] bool reserve_by_nodes(std::uint64_t index, Nodes& nodes) noexcept {
    if (root() == nullptr) {
      unsigned height = 0;
      while (!covers(index, height)) ++height;
      auto* const first = nodes.take(std::nothrow);
      if (first == nullptr) return false;
      set_root(first, height);
    }
    const auto height_before = height();
    while (!covers(index, height())) {  // a level more on top
      auto* const top = nodes.take(std::nothrow);
      if (top == nullptr) return fail_reserve(index, height_before, nodes);
      put(top->slots[0], root());
      top->users = 1;
      set_root(top, height() + 1);
    }
    auto* node = root();
    for (auto level = height(); level > 0; --level) {
      auto& slot = node->slots[slot_of(index, level)];
      if (node_in(slot) == nullptr) {
        auto* const child = nodes.take(std::nothrow);
        if (child == nullptr) return fail_reserve(index, height_before, nodes);
        put(slot, child);
        ++node->users;
      }
      node = node_in(slot);
    }
    ++node->users;
    return true;
  }
  bool fail_reserve(std::uint64_t index, unsigned height_before, Nodes& nodes) noexcept {
    prune_all(index, nodes);
    while (root() != nullptr && height() > height_before) {
      auto* const top = root();
      set_root(node_in(top->slots[0]), height() - 1);
      clear(top->slots[0]);
      nodes.give(*top);
    }
    return false;
  }
  void release(std::uint64_t index, Nodes& nodes) noexcept {
    if (sole_users_ != 0) {
      assert(index == 0 && "another place than the first was reserved, without a node");
      --sole_users_;
      return;
    }
    auto* const leaf = leaf_of(index);
    assert(leaf->users != 0);
    if (--leaf->users == 0) prune_all(index, nodes);
  }
  // Gives back the nodes on the way to `index` that have no user.
  void prune_all(std::uint64_t index, Nodes& nodes) noexcept {
    auto* const top = root();
    if (!(covers(index, height()) ? prune(*top, height(), index, nodes) : top->users == 0)) return;
    set_root(nullptr, 0);
    nodes.give(*top);
  }
  // The same below `node`. Returns: whether it has no user.
  [[nodiscard]] static bool prune(Node& node, unsigned level, std::uint64_t index, Nodes& nodes) noexcept {
    if (level > 0) {
      auto& slot = node.slots[slot_of(index, level)];
      auto* const child = node_in(slot);
      if (child != nullptr && prune(*child, level - 1, index, nodes)) {
        clear(slot);
        nodes.give(*child);
        --node.users;
      }
    }
    return node.users == 0;
  }

  [[nodiscard]] std::pair<std::uint64_t, Chunk*> next_in(const Node* node, unsigned level, std::uint64_t base,
                                                         std::uint64_t from) const {
    const auto width_bits = bits * level;  // what one slot spans
    for (auto slot = from > base ? slot_of(from, level) : 0; slot < fan_out; ++slot) {
      const auto value = load_owned(node->slots[slot]);
      if (value == 0) continue;
      const auto at = base + (std::uint64_t{slot} << width_bits);
      if (level == 0) return {at, reinterpret_cast<Chunk*>(value - is_chunk)};
      if (const auto found = next_in(reinterpret_cast<Node*>(value), level - 1, at, from > at ? from : at);
          found.second != nullptr) {
        return found;
      }
    }
    return {0, nullptr};
  }

  Slot root_{0};
  std::uint64_t sole_users_ = 0;  // with no node: reservations of the first place, and the chunk there
};

}  // namespace tarn::detail
