// SPDX-License-Identifier: MIT
#pragma once

// Chunks that a pool holds, clean, as a store gave them: of many files, or of content. Each begins with a word that
// tells whose it is, so that an arm that finds another chunk's is seen.
//
// Thread safety: as of what is in them.

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include <tarn/dirty_file.hpp>
#include <tarn/testing/random.hpp>

#include "held_file.hpp"
#include "paired.hpp"
#include "peers_caches.hpp"

namespace tarn_bench {

using Word = std::uint64_t;

/// What the chunk of a key begins with.
[[nodiscard]] inline Word word_of(const Key& key) { return HashOfKey{}(key); }
[[nodiscard]] inline Word word_at(const std::byte* memory) {
  Word word = 0;
  std::memcpy(&word, memory, sizeof word);
  return word;
}
/// What is timed of a chunk that was found: nothing, or a look at it.
struct LetGo {
  void operator()(const std::byte*) const {}
};
inline void read_byte(const std::byte* memory) { asm volatile("" : : "r"(*memory)); }

/// Has every chunk, with its word; the rest of it is zeros.
struct WordStore {
  explicit WordStore(std::uint64_t chunk) : chunk_bytes{chunk} {}

  tarn::Result<std::size_t> load(const tarn::LoadRequest<Traits>& request) {
    std::vector<std::byte> bytes(request.range.size_bytes());
    for (std::uint64_t at = 0; at < bytes.size(); at += chunk_bytes) {
      const auto word = word_of({*request.file, (request.range.offset() + at) / chunk_bytes});
      std::memcpy(bytes.data() + at, &word, sizeof word);
    }
    return request.into.copy_from(bytes);
  }
  tarn::FlushOutcome<Traits> flush(const tarn::FlushRequest<Traits>&) { return tarn::FlushOutcome<Traits>::stored(); }
  tarn::Result<> remove(const Traits::FileId&) { return {}; }

  const std::uint64_t chunk_bytes;
};

/// One of the resident chunks.
struct Pick {
  std::uint16_t file, chunk;
};
/// Drawn, each as likely as the other; the same for all arms. More than there are chunks, so that nearly all are met.
/// Requires: no more than 2^16 files, of 2^16 chunks each.
class Picks {
 public:
  Picks(std::uint64_t files, std::uint64_t chunks) {
    tarn::testing::Random random{1};
    std::uint64_t count = 1;
    while (count < 4 * files * chunks) count *= 2;
    const auto below = [&](std::uint64_t end) { return static_cast<std::uint16_t>(random.below(end)); };
    while (picks_.size() < count) picks_.push_back({below(files), below(chunks)});
  }
  [[nodiscard]] Pick operator[](std::uint64_t i) const { return picks_[i & (picks_.size() - 1)]; }
  [[nodiscard]] std::uint64_t count() const { return picks_.size(); }

 private:
  std::vector<Pick> picks_;
};

/// So many files of so many chunks each, by ids that were drawn.
class ResidentFiles {
 public:
  using Store = WordStore;
  using File = tarn::DirtyFile<Traits, Store>;

  ResidentFiles(std::uint64_t files, std::uint64_t chunks, std::uint64_t chunk_bytes)
      : chunks_{chunks},
        pool_{{.budget_bytes = 2 * files * chunks * (chunk_bytes + tarn::KiB) + 64 * tarn::MiB,
               .chunk_bytes = chunk_bytes}},
        store_{chunk_bytes} {
    tarn::testing::Random random{2};
    std::vector<std::byte> whole(chunks * chunk_bytes);
    for (std::uint64_t i = 0; i < files; ++i) {
      names_.push_back(tarn::DirtyFileMetadata::from_store(random.next(), whole.size(), {.part_bytes = tarn::GiB}));
      files_.push_back(std::make_unique<File>(pool_, names_.back(), store_));
      expect(is_all(files_.back()->read(0, whole), whole.size()), "a read");
    }
    expect(pool_.stats().chunks_held == count(), "every chunk is held");
  }

  [[nodiscard]] std::uint64_t count() const { return names_.size() * chunks_; }
  [[nodiscard]] tarn::ChunkPool<Traits>& pool() { return pool_; }
  [[nodiscard]] File& file(std::size_t i) { return *files_[i]; }
  /// All arms have the id from here, who takes it by the file's metadata and who takes it by itself.
  [[nodiscard]] Key key(Pick pick) const { return {names_[pick.file].id(), pick.chunk}; }
  [[nodiscard]] Picks picks() const { return {names_.size(), chunks_}; }

  /// f(memory) of a chunk that is found by the file's id; of one that is let go of at once no memory is asked for.
  template <class F>
  [[nodiscard]] bool pin(Pick pick, F f) {
    const auto found = pool_.pin(names_[pick.file], pick.chunk);
    if constexpr (std::same_as<F, LetGo>) return found.has_value();
    return found && found->with_data(one_byte, [&](std::span<const std::byte> bytes) { f(bytes.data()); });
  }
  /// The same of a file that is open: nothing is looked for by id.
  template <class F>
  [[nodiscard]] bool view(Pick pick, F f) {
    const auto shown = files_[pick.file]->view(pick.chunk * pool_.chunk_bytes(), one_byte.size_bytes(),
                                               [&](tarn::ConstBuffers bytes) { f(bytes[0].data()); });
    return shown.has_value();
  }
  /// Puts the memory of every chunk into a cache, by its key.
  template <class Cache>
  void put_all(Cache& cache) {
    for (std::size_t file = 0; file < names_.size(); ++file) {
      for (std::uint64_t chunk = 0; chunk < chunks_; ++chunk) {
        const Pick pick{static_cast<std::uint16_t>(file), static_cast<std::uint16_t>(chunk)};
        expect(pin(pick, [&](const std::byte* memory) { cache.put(key(pick), memory); }), "a pin");
      }
    }
  }

 private:
  static constexpr auto one_byte = tarn::ByteRange::between(0, 1);

  const std::uint64_t chunks_;
  tarn::ChunkPool<Traits> pool_;
  Store store_;
  std::vector<tarn::DirtyFileMetadata> names_;
  std::vector<std::unique_ptr<File>> files_;
};

}  // namespace tarn_bench
