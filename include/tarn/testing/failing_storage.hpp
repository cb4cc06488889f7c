// SPDX-License-Identifier: MIT
#pragma once

// Chunk memory that the system refuses when a test says so, as when it has none.
//
//   struct MyTraits : tarn::DefaultTraits { using Storage = tarn::testing::FailingStorage<>; };
//   MyTraits::Storage::faults().fail_from(3);  // the first three chunks are to be had, and then none
//
// Thread safety: every call from any thread.

#include <atomic>
#include <cstddef>
#include <cstdint>

#include <tarn/policies.hpp>
#include <tarn/storage/heap.hpp>

namespace tarn::testing {

/// Which commits fail: each is a chunk that a pool wants from its storage. A pool that is refused one evicts, and asks
/// again: it takes more than one in a row for a call to fail. Until told, none does.
class CommitFaults {
 public:
  /// From now on the `nth` commit fails, counted anew from 0, and those after it do not.
  void fail_nth(std::uint64_t nth) { begin(nth, nth + 1); }
  /// From now on the `nth` commit fails, and all that come after it.
  void fail_from(std::uint64_t nth) { begin(nth, UINT64_MAX); }
  /// From now on none fails; they are counted anew.
  void end() { begin(UINT64_MAX, UINT64_MAX); }

  /// How many commits there were since then, and how many of them have failed.
  [[nodiscard]] std::uint64_t met() const { return met_; }
  [[nodiscard]] std::uint64_t failed() const { return failed_; }

  /// A commit is met. Returns: whether it fails.
  [[nodiscard]] bool fails() noexcept {
    const auto index = met_.fetch_add(1);
    if (index < first_ || index >= last_) return false;
    ++failed_;
    return true;
  }

 private:
  void begin(std::uint64_t first, std::uint64_t last) {
    first_ = last_ = UINT64_MAX;  // none fails meanwhile
    met_ = failed_ = 0;
    last_ = last;
    first_ = first;
  }
  std::atomic<std::uint64_t> first_{UINT64_MAX}, last_{UINT64_MAX}, met_{0}, failed_{0};
};

/// A ChunkStorage: `Base`, of which `Faults::fails()` says for each chunk that is wanted whether it is refused.
template <class Base = HeapStorage, class Faults = CommitFaults>
class FailingStorage {
 public:
  explicit FailingStorage(const StorageOptions& options) : base_{options} {}

  /// Those of every pool that is given this type: a storage is made by its pool, and has no state that a test could
  /// reach.
  [[nodiscard]] static Faults& faults() {
    static Faults all;
    return all;
  }

  [[nodiscard]] std::byte* allocate(Budget& budget) noexcept {
    if (faults().fails()) return nullptr;
    auto* const memory = base_.allocate(budget);
    if (memory != nullptr) chunks_out_.fetch_add(1);
    return memory;
  }
  void deallocate(std::byte* memory, Budget& budget) noexcept {
    chunks_out_.fetch_sub(1);
    base_.deallocate(memory, budget);
  }
  std::uint64_t trim(Budget& budget) noexcept { return base_.trim(budget); }
  [[nodiscard]] static std::uint64_t min_budget_bytes(std::size_t chunk_bytes) {
    return Base::min_budget_bytes(chunk_bytes);
  }

  /// How many chunks of this storage have not been given back.
  [[nodiscard]] std::int64_t chunks_out() const { return chunks_out_; }

 private:
  Base base_;
  std::atomic<std::int64_t> chunks_out_{0};
};

static_assert(ChunkStorage<FailingStorage<>>);

}  // namespace tarn::testing
