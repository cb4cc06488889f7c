// SPDX-License-Identifier: MIT
#pragma once

// Whether a store keeps what it is given: random calls on a DirtyFile over it, against a flat array.
//
//   const auto wrong = tarn::testing::check_store<Traits>(store, id, {.seed = 1, .steps = 100'000});
//   REQUIRE(wrong == "");
//
// The calls read, view, write, append, cut, punch, flush, sync, evict, drop the file and open it anew by the size that
// was flushed, remove it and make it anew, in a pool with so little memory that much goes to the store and comes back.
// Now and then, and at the end, the file is flushed and evicted, and all of it read back. What a load should fill is
// filled with rubbish before, so that a byte left out shows.
//
// tarn asks no store for a size: whoever opens a file does. A store that has `size_of(id)`, which answers the size, or
// nothing if there is no such file (an std::optional<std::uint64_t>), is asked for it after each flush that was looked
// at, and each removal.
//
// An error of the store is nothing wrong: the call has done nothing then, the bytes read as before, and a later flush
// stores them. But a load that says it is done and counts another number of bytes than it was asked for is.
//
// What it cannot see: whether what a sync made durable is still there after a crash; threads that meet.
//
// Thread safety: the calls come from the thread that checks, one after another; for the store, see store.hpp.

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <optional>
#include <span>
#include <string>
#include <system_error>
#include <type_traits>
#include <utility>
#include <vector>

#include <tarn/dirty_file.hpp>
#include <tarn/testing/bytes.hpp>
#include <tarn/testing/flat_model.hpp>
#include <tarn/testing/last_calls.hpp>
#include <tarn/testing/random.hpp>
#include <tarn/testing/watched_store.hpp>

namespace tarn::testing {

struct CheckStoreOptions {
  std::uint64_t seed = 1;        ///< of every choice
  std::uint64_t steps = 10'000;  ///< calls, of all files together
  std::uint64_t chunk_bytes = 4 * KiB;
  std::uint64_t part_bytes = 0;      ///< as in FileOptions
  std::uint64_t file_bytes_max = 0;  ///< of a file; 0: three parts and a half, and five chunks and a half at least
  std::uint64_t budget_bytes = 0;    ///< 0: the least that works
  std::uint64_t errors_max = 100;    ///< so many errors on end, when a file must be flushed or read, are wrong
};

/// The inside of check_store.
template <class Traits, class Store>
class StoreCheck {
 public:
  using FileId = typename Traits::FileId;

  StoreCheck(Store& store, std::span<const FileId> ids, const CheckStoreOptions& options)
      : options_{completed(options)},
        random_{options.seed},
        pool_{pool_options(options_, ids.size())},
        watch_{*this},
        store_{store, watch_} {
    for (const auto& id : ids) files_.emplace_back(id, files_.size());
    for (auto& file : files_) make(file, Metadata::created(file.id, {.part_bytes = options_.part_bytes}));
  }
  StoreCheck(const StoreCheck&) = delete;
  StoreCheck& operator=(const StoreCheck&) = delete;
  ~StoreCheck() {
    for (auto& file : files_) {
      if (file.open) (void)file.open->discard_dirty(0, 0);  // what is wrong has been said: nothing is lost unheard
    }
    store_.wait_until_idle();  // whoever answered last may still be in the pool, or telling us
    files_.clear();
  }

  [[nodiscard]] std::string run() {
    for (std::uint64_t step = 0; step < options_.steps && !is_wrong(); ++step) {
      calls_.begin_step(step);
      auto& file = files_[static_cast<std::size_t>(random_.below(files_.size()))];
      one_step(file);
      if (file.open->size() != file.model.size()) {
        say_wrong("the file has " + std::to_string(file.open->size()) + " bytes", file);
      }
    }
    for (auto& file : files_) {
      if (!is_wrong()) look_at_all(file);
    }
    if (!is_wrong() && !last_refusal_.empty()) say_wrong("no write was ever taken in: " + last_refusal_, files_[0]);
    for (auto& file : files_) {
      if (!is_wrong() && insist("remove", file, [&] { return file.open->remove(); })) compare_size(file, std::nullopt);
    }
    return calls_.what_is_wrong();
  }

 private:
  using Pool = ChunkPool<Traits>;
  using Metadata = MetadataFor<Traits>;

  // Told from any thread of the store's.
  struct Watch : StoreWatch<Traits> {
    explicit Watch(StoreCheck& for_check) : check{for_check} {}
    void on_load(const LoadRequest<Traits>& request) noexcept {
      for (std::size_t i = 0; i < request.into.count(); ++i) {
        std::memset(request.into[i].data(), rubbish, request.into[i].size());
      }
    }
    void on_load_done(const LoadRequest<Traits>& request, const Result<std::size_t>& answer) noexcept {
      const auto size = request.range.size_bytes();
      check.note_of_store("load", *request.file, request.range, {}, answer ? std::to_string(*answer) : text_of(answer));
      if (!answer || *answer == size) return;
      check.say_wrong("a load of " + std::to_string(size) + " bytes at offset " +
                          std::to_string(request.range.offset()) + " answered " + std::to_string(*answer),
                      check.of(*request.file));
    }
    void on_flush_done(const FlushRequest<Traits>& request, const FlushOutcome<Traits>& outcome) noexcept {
      for (const auto& [range, zero] : request.ranges) {
        check.note_of_store(zero ? "flush of zeros" : "flush", *request.file, range, request.size_bytes,
                            text_of(outcome));
      }
      if (request.ranges.empty()) {
        check.note_of_store("flush", *request.file, {}, request.size_bytes, text_of(outcome));
      }
    }
    void on_sync_done(const SyncRequest<Traits>& request, const Result<>& answer) noexcept {
      check.note_of_store("sync", *request.file, {}, {}, text_of(answer));
    }
    void on_remove_done(const FileId& id, const Result<>& answer) noexcept {
      check.note_of_store("remove", id, {}, {}, text_of(answer));
    }

    StoreCheck& check;
  };
  using Watched = WatchedStore<Traits, Store, Watch>;

  struct File {
    File(const FileId& of, std::size_t at) : id{of}, index{at} {}
    const FileId id;
    const std::size_t index;
    FlatModel model;
    std::optional<DirtyFile<Traits, Watched>> open;
  };

  static constexpr int rubbish = 0xDB;

  [[nodiscard]] static CheckStoreOptions completed(CheckStoreOptions options) {
    if (options.part_bytes == 0) options.part_bytes = options.chunk_bytes;
    if (options.file_bytes_max == 0) {
      options.file_bytes_max = std::max(7 * options.part_bytes, 11 * options.chunk_bytes) / 2;
    }
    return options;
  }
  [[nodiscard]] static PoolOptions pool_options(const CheckStoreOptions& options, std::size_t file_count) {
    PoolOptions made{.chunk_bytes = options.chunk_bytes, .window_bytes = 4 * options.chunk_bytes};
    const auto least = Pool::min_budget_bytes(made) + file_count * KiB;
    made.budget_bytes = options.budget_bytes != 0 ? options.budget_bytes : least;
    // The slabs of an arena are far more than a few chunks, so that only a limit makes writes flush.
    if (options.seed % 4 != 0) made.dirty_limit_bytes = std::min(8 * options.chunk_bytes, made.budget_bytes / 2);
    return made;
  }
  void make(File& file, Metadata metadata) {
    file.open.reset();
    file.open.emplace(pool_, std::move(metadata), store_);
  }

  // ---- the steps

  void one_step(File& file) {
    struct Act {
      std::uint64_t weight;
      void (StoreCheck::*act)(File&);
    };
    static constexpr std::array<Act, 14> acts{{{24, &StoreCheck::read},
                                               {8, &StoreCheck::view},
                                               {20, &StoreCheck::write},
                                               {6, &StoreCheck::fill},
                                               {5, &StoreCheck::append},
                                               {8, &StoreCheck::truncate},
                                               {6, &StoreCheck::punch_hole},
                                               {5, &StoreCheck::zero_range},
                                               {6, &StoreCheck::flush},
                                               {3, &StoreCheck::sync},
                                               {5, &StoreCheck::evict},
                                               {2, &StoreCheck::look_at_all},
                                               {1, &StoreCheck::reopen},
                                               {1, &StoreCheck::remove}}};
    std::uint64_t sum = 0;
    for (const auto& one : acts) sum += one.weight;
    auto at = random_.below(sum);
    const auto* one = acts.data();
    for (; at >= one->weight; ++one) at -= one->weight;
    (this->*one->act)(file);
  }

  void read(File& file) {
    const auto range = pick(file.model.size() + options_.chunk_bytes);
    const auto number = note("read", file, range);
    std::vector<std::byte> into(static_cast<std::size_t>(range.size_bytes()), std::byte{rubbish});
    const auto n = file.open->read(range.offset(), into);
    came_to(number, n);
    if (n) compare("a read", file, range, std::span{into}.first(*n));
  }
  void view(File& file) {
    auto range = pick(file.model.size() + options_.chunk_bytes);
    range = range.intersect(ByteRange::between(range.offset(), range.offset() + pool_.window_bytes()));
    const auto number = note("view", file, range);
    std::vector<std::byte> seen;
    const auto viewed = file.open->view(range.offset(), range.size_bytes(), [&](ConstBuffers bytes) {
      seen.resize(bytes.size_bytes());
      bytes.copy_to(seen);
      return bytes.size_bytes();
    });
    came_to(number, viewed);
    if (viewed) compare("a view", file, range, seen);
  }
  void write(File& file) {
    const auto range = pick(options_.file_bytes_max);
    const auto number = note("write", file, range);
    const auto text = fresh(range);
    take_in(file, range, text, number, file.open->write(range.offset(), bytes_of(text)));
  }
  void fill(File& file) {
    const auto range = pick(options_.file_bytes_max);
    const auto number = note("write in place", file, range);
    const auto text = fresh(range);
    std::size_t given = 0;
    const auto filler = [&](MutableBuffers into) {
      const auto n = into.copy_from(bytes_of(text).subspan(given));
      given += n;
      return n;
    };
    take_in(file, range, text, number, file.open->write(range.offset(), range.size_bytes(), filler));
  }
  void append(File& file) {
    const auto at = file.model.size();
    if (at >= options_.file_bytes_max) return;
    const auto range = ByteRange::between(at, at + pick(options_.file_bytes_max - at).size_bytes());
    const auto number = note("append", file, range);
    const auto text = fresh(range);
    const auto written = file.open->append(bytes_of(text));
    if (written && !range.empty() && written->offset != at) {
      say_wrong("an append went to offset " + std::to_string(written->offset), file);
    }
    take_in(file, range, text, number,
            written ? Result<std::size_t>{written->size_bytes} : Result<std::size_t>{fail(written.error())});
  }
  void truncate(File& file) {
    auto size = pick(options_.file_bytes_max).offset();
    if (random_.one_in(8)) size = 0;
    const auto number = note("truncate", file, ByteRange::between(size, size));
    const auto done = file.open->truncate(size);
    came_to(number, done);
    if (done) file.model.truncate(size);
  }
  void punch_hole(File& file) {
    const auto range = pick(options_.file_bytes_max);
    const auto number = note("punch_hole", file, range);
    const auto done = file.open->punch_hole(range);
    came_to(number, done);
    if (done) file.model.punch_hole(range);
  }
  void zero_range(File& file) {
    const auto range = pick(options_.file_bytes_max);
    const auto number = note("zero_range", file, range);
    const auto done = file.open->zero_range(range, /*keep_size=*/false);
    came_to(number, done);
    if (done) file.model.zero_range(range);
  }
  void flush(File& file) {
    const auto number = note("flush", file, {});
    came_to(number, file.open->flush());
  }
  void sync(File& file) {
    const auto number = note("sync", file, {});
    came_to(number, file.open->sync());
  }
  void evict(File& file) {
    const auto number = note("evict_clean", file, {});
    calls_.came_to(number, std::to_string(pool_.evict_clean()));
  }
  // Through the store, and back.
  void look_at_all(File& file) {
    if (!insist("flush", file, [&] { return file.open->flush(); })) return;
    compare_size(file, file.model.size());
    evict(file);
    const auto range = ByteRange::between(0, file.model.size() + 1);
    std::vector<std::byte> into(static_cast<std::size_t>(range.size_bytes()), std::byte{rubbish});
    std::size_t size = 0;
    const auto read_back = [&]() -> Result<> {
      const auto n = file.open->read(0, into);
      if (!n) return fail(n.error());
      size = *n;
      return {};
    };
    if (insist("read", file, read_back))
      compare("what is read back after a flush", file, range, std::span{into}.first(size));
  }
  // Away, and back as the store has it.
  void reopen(File& file) {
    if (!insist("flush", file, [&] { return file.open->flush(); })) return;
    note("reopen", file, ByteRange::between(0, file.model.size()));
    const auto before = file.open->metadata();
    const FileOptions as_stored{.part_bytes = options_.part_bytes, .version = before.version()};
    // Where parts have names, the names are what one keeps of the file.
    make(file, before.content_count() != 0 ? before : Metadata::from_store(file.id, file.model.size(), as_stored));
  }
  void remove(File& file) {
    const auto number = note("remove", file, {});
    const auto removed = file.open->remove();
    came_to(number, removed);
    if (!removed) return;
    compare_size(file, std::nullopt);
    file.model = {};
    make(file, Metadata::created(file.id, {.part_bytes = options_.part_bytes}));
  }

  // ---- what they are made of

  [[nodiscard]] ByteRange pick(std::uint64_t end) {
    return random_.range(end, options_.chunk_bytes, options_.part_bytes);
  }
  // Bytes that no write before had there, none of them zero.
  [[nodiscard]] std::string fresh(ByteRange range) {
    return pattern(range.offset(), static_cast<std::size_t>(range.size_bytes()), ++writes_);
  }
  void take_in(File& file, ByteRange range, const std::string& text, LastCalls::Number number,
               const Result<std::size_t>& taken) {
    came_to(number, taken);
    if (!taken && !any_taken_) last_refusal_ = taken.error().message();
    if (!taken || range.empty()) return;
    any_taken_ = true;
    last_refusal_.clear();
    if (*taken == 0 || *taken > range.size_bytes()) say_wrong("a write took in " + std::to_string(*taken), file);
    file.model.write(range.offset(), bytes_of(text).first(std::min(*taken, text.size())));
  }
  void compare(const char* what, File& file, ByteRange range, std::span<const std::byte> seen) {
    const auto difference = file.model.difference(range.offset(), range.size_bytes(), seen);
    if (!difference.empty()) say_wrong(std::string{what} + " shows other bytes, " + difference, file);
  }
  void compare_size(File& file, std::optional<std::uint64_t> expected) {
    if constexpr (requires { std::optional<std::uint64_t>{store_.store().size_of(file.id)}; }) {
      const std::optional<std::uint64_t> found = store_.store().size_of(file.id);
      if (found == expected) return;
      const auto name = [](const auto& size) { return size ? std::to_string(*size) + " bytes" : "no such file"; };
      say_wrong("the store has " + name(found) + ", and should have " + name(expected), file);
    }
  }
  // Again and again, as long as there is hope. Returns: whether it was done.
  template <class F>
  bool insist(const char* what, File& file, F call) {
    for (std::uint64_t errors = 1;; ++errors) {
      const auto number = note(what, file, ByteRange::between(0, file.model.size()));
      const auto done = call();
      came_to(number, done);
      if (done || is_wrong()) return done.has_value() && !is_wrong();
      if (errors < options_.errors_max) continue;
      say_wrong(std::string{"a "} + what + " failed " + std::to_string(errors) + " times on end: " + text_of(done),
                file);
      return false;
    }
  }

  // ---- what is said

  template <class T>
  [[nodiscard]] static std::string text_of(const Result<T>& result) {
    return result ? "done" : result.error().message();
  }
  [[nodiscard]] static std::string text_of(const FlushOutcome<Traits>& outcome) {
    static constexpr std::array<const char*, 5> names{"stored", "durable", "failed", "unknown", "conflict"};
    const std::string name = names[static_cast<std::size_t>(outcome.status())];
    return outcome.ok() ? name : name + ", " + outcome.error().message();
  }
  LastCalls::Number note(const char* what, const File& file, ByteRange range) {
    return calls_.note({.what = what, .file = file.index, .range = range});
  }
  template <class T>
  void came_to(LastCalls::Number number, const Result<T>& result) {
    if constexpr (std::is_same_v<T, std::size_t>) {
      if (result) return calls_.came_to(number, std::to_string(*result));
    }
    calls_.came_to(number, text_of(result));
  }
  void note_of_store(const char* what, const FileId& id, ByteRange range, std::optional<std::uint64_t> size_bytes,
                     const std::string& came_to) {
    const auto number =
        calls_.note({.what = what, .file = of(id).index, .range = range, .by_store = true, .size_bytes = size_bytes});
    calls_.came_to(number, came_to);
  }
  // Of a request, which is always for a file of ours.
  [[nodiscard]] const File& of(const FileId& id) const {
    return *std::find_if(files_.begin(), files_.end(), [&](const File& file) { return file.id == id; });
  }
  [[nodiscard]] bool is_wrong() const { return calls_.is_wrong(); }
  void say_wrong(const std::string& what, const File& file) {
    calls_.say_wrong(what + "\n  file #" + std::to_string(file.index) + ", seed " + std::to_string(options_.seed) +
                     ", chunk_bytes " + std::to_string(options_.chunk_bytes) + ", part_bytes " +
                     std::to_string(options_.part_bytes) + ", file_bytes_max " +
                     std::to_string(options_.file_bytes_max));
  }

  const CheckStoreOptions options_;
  Random random_;
  LastCalls calls_;
  std::string last_refusal_;  // why a write was refused, until one is taken in
  bool any_taken_ = false;
  std::uint64_t writes_ = 0;
  Pool pool_;
  Watch watch_;
  Watched store_;
  std::deque<File> files_;
};

/// Makes `options.steps` random calls on files of these ids, over `store`, in a pool of its own, and compares all that
/// they show with a flat array each. More than one id shows a store that mixes them up.
///
/// Returns:  empty if all was right, and the files are removed from the store; else what was wrong: where, the bytes
///           expected and seen, the seed, and the last calls, of tarn's and of the store's. The same options make the
///           same calls, if the store answers the same. The files are in the store then, as they were.
/// Errors:   throws system_error for options that no pool can have, or a part that is not a multiple of the chunk;
///           bad_alloc, but where the store answers: no memory there ends the program.
/// Requires: an id at least, each once; the store has no file of these ids, and nobody else uses them.
/// Blocks:   on the store. One that answers later does so from a thread of its own: the one that checks waits.
/// Cost:     memory for the arrays, of file_bytes_max each, twice.
template <class Traits, class Store>
[[nodiscard]] std::string check_store_files(Store& store, std::span<const typename Traits::FileId> ids,
                                            const CheckStoreOptions& options = {}) {
  return StoreCheck<Traits, Store>{store, ids, options}.run();
}
/// The same with one file.
template <class Traits, class Store>
[[nodiscard]] std::string check_store(Store& store, const typename Traits::FileId& id,
                                      const CheckStoreOptions& options = {}) {
  return check_store_files<Traits>(store, {&id, 1}, options);
}

}  // namespace tarn::testing
