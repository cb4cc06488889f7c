// SPDX-License-Identifier: MIT
// Compile: alone
// CTest: TIMEOUT 300 COST 7 LABELS slow
#include <tarn/testing/check_store.hpp>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <ostream>
#include <span>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include <tarn/testing/gate.hpp>
#include <tarn/testing/later_store.hpp>
#include <tarn/testing/memory_store.hpp>

#include "support/catch.hpp"
#include "support/chaos_store.hpp"
#include "support/one_file.hpp"

using tarn::ByteRange;
using tarn::KiB;
using tarn::Result;
using tarn::testing::check_store;
using tarn::testing::check_store_files;
using tarn::testing::CheckStoreOptions;
using tarn::testing::LaterStore;
using tarn::testing::MemoryStore;
using tarn::testing::Worker;
using tarn_test::Arena;
using tarn_test::Heap;
using tarn_test::Usual;

namespace {

// The least that somebody writes: the README's.
template <class Traits>
struct MapStore {
  using FileId = typename Traits::FileId;
  std::map<FileId, std::string> files;
  std::size_t loads = 0, flushes = 0, removes = 0;

  Result<std::size_t> load(const tarn::LoadRequest<Traits>& request) {
    ++loads;
    const auto bytes = std::as_bytes(std::span{files[*request.file]});
    if (bytes.size() < request.range.end()) return tarn::fail(std::errc::io_error);
    return request.into.copy_from(bytes.subspan(static_cast<std::size_t>(request.range.offset()),
                                                static_cast<std::size_t>(request.range.size_bytes())));
  }
  tarn::FlushOutcome<Traits> flush(const tarn::FlushRequest<Traits>& request) {
    ++flushes;
    apply(request);
    return tarn::FlushOutcome<Traits>::stored();
  }
  Result<> remove(const FileId& id) {
    ++removes;
    files.erase(id);
    return {};
  }

  void apply(const tarn::FlushRequest<Traits>& request) {
    auto& file = files[*request.file];
    file.resize(static_cast<std::size_t>(request.size_bytes));
    request.for_each_piece([&](std::uint64_t offset, std::span<const std::byte> bytes, bool) {
      file.replace(static_cast<std::size_t>(offset), bytes.size(), reinterpret_cast<const char*>(bytes.data()),
                   bytes.size());
    });
  }
};

// One that can only give and store whole parts, each under a name of its own. If it names content, the bytes of a part
// are to be had by the name alone that it gave them when it stored them.
struct PartStore {
  static constexpr auto load_unit = tarn::LoadUnit::parts;
  static constexpr auto flush_unit = tarn::FlushUnit::parts;
  static constexpr std::uint64_t part_bytes = 64;
  std::map<std::pair<std::uint64_t, std::uint64_t>, std::string> parts;
  bool names_content = false;
  std::map<Usual::ContentId, std::string> content;
  std::size_t loads_by_name = 0;

  Result<std::size_t> load(const tarn::LoadRequest<Usual>& request) {
    if (request.offset_in_part != 0) return tarn::fail(std::errc::invalid_argument);
    std::string part(part_bytes, '\0');
    if (request.content != nullptr) {
      ++loads_by_name;
      part = content.at(*request.content);
    } else if (const auto at = parts.find({*request.file, request.part}); !names_content && at != parts.end()) {
      part = at->second;
    }
    return request.into.copy_from(tarn::testing::bytes_of(part).first(
        std::min<std::size_t>(part_bytes, static_cast<std::size_t>(request.range.size_bytes()))));
  }
  tarn::FlushOutcome<Usual> flush(const tarn::FlushRequest<Usual>& request) {
    auto after = parts.lower_bound({*request.file, request.size_bytes / part_bytes});
    if (request.size_bytes % part_bytes != 0 && after != parts.end() && after->first.first == *request.file &&
        after->first.second == request.size_bytes / part_bytes) {
      std::fill(after->second.begin() + static_cast<std::ptrdiff_t>(request.size_bytes % part_bytes),
                after->second.end(), '\0');
      ++after;
    }
    while (after != parts.end() && after->first.first == *request.file) after = parts.erase(after);
    if (request.covers.empty()) return tarn::FlushOutcome<Usual>::stored();
    const auto number = request.covers.offset() / part_bytes;
    auto before = parts[{*request.file, number}];
    before.resize(part_bytes);
    std::string made(part_bytes, '\0');
    std::array<std::byte, 7> scratch;
    const auto fetch = [&](ByteRange range, std::span<std::byte> into) -> Result<std::size_t> {
      const auto from = tarn::testing::bytes_of(before).subspan(static_cast<std::size_t>(range.offset() % part_bytes));
      std::copy_n(from.begin(), into.size(), into.begin());
      return into.size();
    };
    const auto brought = request.for_each_piece_of_part(
        scratch, fetch, [&](std::uint64_t offset, std::span<const std::byte> bytes, bool) {
          for (std::size_t i = 0; i < bytes.size(); ++i) {
            const auto at = offset + i;
            if (at / part_bytes == number) made[at % part_bytes] = static_cast<char>(bytes[i]);
          }
        });
    if (!brought) return tarn::FlushOutcome<Usual>::failed(brought.error());
    parts[{*request.file, number}] = made;
    if (!names_content) return tarn::FlushOutcome<Usual>::durable();
    const Usual::ContentId name{
        {static_cast<std::byte>(content.size() % 256), static_cast<std::byte>(content.size() / 256)}};
    content.emplace(name, made);
    return tarn::FlushOutcome<Usual>::durable().with_content(number, name);
  }
  Result<> remove(std::uint64_t id) {
    parts.erase(parts.lower_bound({id, 0}), parts.lower_bound({id + 1, 0}));
    return {};
  }
};

// Files of one moment, of versions, made durable by a sync; it refuses some of everything.
struct WholeFileStore : MapStore<Usual> {
  static constexpr auto flush_unit = tarn::FlushUnit::file;
  std::map<std::uint64_t, std::uint64_t> versions;
  std::size_t syncs = 0, refusals = 0, asked = 0;
  bool refuses = false;

  bool refuse() {
    const bool now = refuses && ++asked % 7 == 0;
    refusals += now ? 1 : 0;
    return now;
  }
  Result<std::size_t> load(const tarn::LoadRequest<Usual>& request) {
    if (refuse()) throw std::system_error{std::make_error_code(std::errc::host_unreachable)};
    if (request.version != versions[*request.file]) return tarn::fail(static_cast<std::errc>(ESTALE));
    return MapStore::load(request);
  }
  tarn::FlushOutcome<Usual> flush(const tarn::FlushRequest<Usual>& request) {
    const auto why = std::make_error_code(std::errc::no_space_on_device);
    if (refuse()) return tarn::FlushOutcome<Usual>::failed(why);
    MapStore::apply(request);
    ++flushes;
    if (refuse()) return tarn::FlushOutcome<Usual>::unknown(why);
    return tarn::FlushOutcome<Usual>::stored().with_version(++versions[*request.file]);
  }
  Result<> sync(const tarn::SyncRequest<Usual>&) {
    ++syncs;
    return refuse() ? Result<>{tarn::fail(std::errc::io_error)} : Result<>{};
  }
  Result<> reserve(const tarn::ReserveRequest<Usual>&) {
    return refuse() ? Result<>{tarn::fail(std::errc::no_space_on_device)} : Result<>{};
  }
  Result<> remove(std::uint64_t id) {
    if (refuse()) return tarn::fail(std::errc::permission_denied);
    versions.erase(id);
    return MapStore::remove(id);
  }
};

// Several flushes of a file at a time, each answered by a thread of its own.
template <class Traits>
struct ThreadStore {
  MapStore<Traits> map;
  std::mutex mutex;
  std::vector<std::thread> threads;
  std::atomic<int> syncs{0};

  ~ThreadStore() {
    for (auto& thread : threads) thread.join();
  }
  template <class Token, class Answer>
  void later(Token token, Answer answer) {
    std::lock_guard lock{mutex};
    if (threads.size() > 64) {
      for (auto& thread : threads) thread.join();
      threads.clear();
    }
    threads.emplace_back([answer, token = std::move(token)]() mutable { token.complete(answer); });
  }
  void load(const tarn::LoadRequest<Traits>& request, tarn::LoadToken<Traits> token) {
    later(std::move(token), map.load(request));
  }
  void flush(const tarn::FlushRequest<Traits>& request, tarn::FlushToken<Traits> token) {
    map.apply(request);
    later(std::move(token), tarn::FlushOutcome<Traits>::stored());
  }
  void sync(const tarn::SyncRequest<Traits>&, tarn::SyncToken<Traits> token) {
    ++syncs;
    later(std::move(token), Result<>{});
  }
  Result<> remove(const typename Traits::FileId& id) { return map.remove(id); }
  [[nodiscard]] std::size_t flushes_at_once() const noexcept { return 3; }
};

enum class Mistake : std::uint8_t {
  none,
  forgets_a_hole,
  does_not_cut,
  answers_short,
  stores_elsewhere,
  loses_the_last_flush,
  mixes_up_ids,
  keeps_what_is_removed,
  leaves_bytes_out,
  drops_a_byte_at_a_border,
  never_stores,
};
constexpr std::array<const char*, 11> mistake_names{"none",
                                                    "forgets a hole",
                                                    "does not cut",
                                                    "answers short",
                                                    "stores elsewhere",
                                                    "loses the last flush",
                                                    "mixes up ids",
                                                    "keeps what is removed",
                                                    "leaves bytes out",
                                                    "drops a byte at a border",
                                                    "never stores"};

// Goes by ranges, as a better store does, and makes one mistake, every now and then.
struct BrokenStore {
  explicit BrokenStore(Mistake which, std::uint64_t one_in) : mistake{which}, every{one_in} {}

  const Mistake mistake;
  const std::uint64_t every;
  std::uint64_t chances = 0, made = 0;
  std::map<std::uint64_t, std::string> files;

  bool errs(Mistake in_question) {
    const bool now = mistake == in_question && ++chances % every == 0;
    made += now ? 1 : 0;
    return now;
  }
  std::uint64_t name_of(std::uint64_t id) const { return mistake == Mistake::mixes_up_ids ? id % 16 : id; }

  Result<std::size_t> load(const tarn::LoadRequest<Usual>& request) {
    auto bytes = files[name_of(*request.file)];
    if (mistake == Mistake::mixes_up_ids) bytes.resize(std::max<std::size_t>(bytes.size(), request.range.end()));
    if (bytes.size() < request.range.end()) return tarn::fail(std::errc::io_error);
    auto wanted = tarn::testing::bytes_of(bytes).subspan(request.range.offset(), request.range.size_bytes());
    if (errs(Mistake::answers_short)) return request.into.copy_from(wanted.first(wanted.size() - 1));
    if (errs(Mistake::leaves_bytes_out)) return request.into.copy_from(wanted.first(wanted.size() / 2)), wanted.size();
    return request.into.copy_from(wanted);
  }
  tarn::FlushOutcome<Usual> flush(const tarn::FlushRequest<Usual>& request) {
    if (mistake == Mistake::never_stores) {
      return tarn::FlushOutcome<Usual>::failed(std::make_error_code(std::errc::no_space_on_device));
    }
    if (errs(Mistake::loses_the_last_flush)) {
      files[name_of(*request.file)].resize(request.size_bytes);
      return tarn::FlushOutcome<Usual>::stored();
    }
    auto& file = files[name_of(*request.file)];
    if (request.size_bytes > file.size() || !errs(Mistake::does_not_cut)) file.resize(request.size_bytes);
    auto data = request.data.begin();
    std::size_t in_data = 0;
    for (const auto& [range, zero] : request.ranges) {
      if (zero) {
        if (errs(Mistake::forgets_a_hole)) continue;
        const auto end = std::min(range.end(), request.store_size_bound_bytes);
        for (auto at = range.offset(); at < end; ++at) file[at] = '\0';
        continue;
      }
      const auto offset = errs(Mistake::stores_elsewhere) && range.offset() > 0 ? range.offset() - 1 : range.offset();
      const auto skips = errs(Mistake::drops_a_byte_at_a_border);
      for (std::uint64_t at = 0; at < range.size_bytes(); ++at) {
        const auto byte = static_cast<const char*>(data->iov_base)[in_data];
        if (!skips || at + 1 != range.size_bytes()) file[offset + at] = byte;
        if (++in_data == data->iov_len) {
          ++data;
          in_data = 0;
        }
      }
    }
    return tarn::FlushOutcome<Usual>::stored();
  }
  Result<> remove(std::uint64_t id) {
    if (!errs(Mistake::keeps_what_is_removed)) files.erase(name_of(id));
    return {};
  }
};

// Fails some of what it is asked, in every way that a MemoryStore can without a lie, and is never without a version.
struct MoodyStore {
  using Memory = MemoryStore<Usual>;
  Memory memory;
  std::uint64_t asked = 0;

  void get_moody() {
    switch (++asked % 23) {
      case 3:
        return memory.fail_next(Memory::Call::load, 1, std::errc::host_unreachable);
      case 7:
        return memory.throw_next(Memory::Call::flush);
      case 11:
        return memory.break_off_next();
      case 13:
        return memory.answer_unknown_next();
      case 17:
        return memory.answer_conflict_next();
      case 19:
        return memory.fail_next(Memory::Call::remove, 1, std::errc::permission_denied);
      case 22:
        return memory.throw_next(Memory::Call::load);
      default:
        return;
    }
  }
  Result<std::size_t> load(const tarn::LoadRequest<Usual>& request) {
    get_moody();
    return memory.load(request);
  }
  tarn::FlushOutcome<Usual> flush(const tarn::FlushRequest<Usual>& request) {
    get_moody();
    return memory.flush(request);
  }
  Result<> remove(std::uint64_t id) { return memory.remove(id); }
};

// Small chunks: most of what may happen happens at borders.
constexpr CheckStoreOptions small{.seed = 1, .steps = 4'000, .chunk_bytes = 16, .part_bytes = 64};

}  // namespace

TEMPLATE_TEST_CASE("a store that keeps what it is given is found to", "[check_store]", Heap, Arena) {
  const auto seed = GENERATE(as<std::uint64_t>{}, 1, 2, 4);
  const auto chunks = GENERATE(as<std::uint64_t>{}, 1, 4);
  const auto chunk_bytes = GENERATE(as<std::uint64_t>{}, 1, 16, 4096);
  CAPTURE(seed, chunks, chunk_bytes);
  MapStore<TestType> store;
  CHECK(check_store<TestType>(
            store, 42,
            {.seed = seed, .steps = 2'000, .chunk_bytes = chunk_bytes, .part_bytes = chunks * chunk_bytes}) == "");
  CHECK(store.loads > 100);
  CHECK(store.flushes > 100);
  CHECK(store.removes > 1);
  CHECK(store.files.empty());
}

TEST_CASE("what tarn promises its store holds under the check", "[check_store]") {
  const auto seed = GENERATE(as<std::uint64_t>{}, 1, 2, 3, 4);
  MemoryStore<Usual> store;
  store.expect_parts_of(64);
  const auto how = GENERATE(as<std::string>{}, "as good as may be", "naive", "with versions");
  CAPTURE(how);
  if (how == "naive") store.be_naive();
  if (how == "with versions") store.keep_versions();
  auto options = small;
  options.seed = seed;
  CHECK(check_store<Usual>(store, 7, options) == "");
  CHECK(store.complaints() == "");
  CHECK_FALSE(store.has(7));
  CHECK(store.counts().loads > 200);
  CHECK(store.counts().flushes > 200);
}

TEST_CASE("a store that fails and comes round is as good as another", "[check_store]") {
  auto options = small;
  options.seed = GENERATE(as<std::uint64_t>{}, 1, 2, 3, 4);
  SECTION("in every way that a flush may end") {
    MoodyStore store;
    CHECK(check_store<Usual>(store, 7, options) == "");
    CHECK(store.memory.complaints() == "");
    CHECK(store.asked > 500);
  }
  SECTION("with files of one moment, versions, syncs and a quota") {
    WholeFileStore store;
    store.refuses = true;
    CHECK(check_store<Usual>(store, 7, options) == "");
    CHECK(store.refusals > 100);
    CHECK(store.syncs > 20);
    CHECK(store.files.empty());
  }
  SECTION("from threads of its own, late, and in any order") {
    options.steps = 1'000;
    tarn_test::ChaosStore<Usual> store{2,
                                       {.seed = options.seed,
                                        .fails = 8,
                                        .is_unsure = 0,
                                        .drops = 40,
                                        .answers_inline = 8,
                                        .hangs_after_ns_max = 50'000'000,
                                        .hangs_for_ns_min = 1'000'000,
                                        .hangs_for_ns_max = 2'000'000}};
    const std::array<std::uint64_t, 2> ids{0, 1};
    CHECK(check_store_files<Usual>(store, ids, options) == "");
    CHECK(store.complaints() == "");
    CHECK(store.troubles() > 20);
    CHECK(store.counts().syncs > 5);
  }
}

TEST_CASE("a store may want whole parts, or files of one moment", "[check_store]") {
  auto options = small;
  options.seed = GENERATE(as<std::uint64_t>{}, 1, 2, 3, 4);
  SECTION("parts") {
    PartStore store;
    CHECK(check_store<Usual>(store, 7, options) == "");
    CHECK(store.parts.empty());
    CHECK(store.loads_by_name == 0);
  }
  SECTION("parts that it names by their content") {
    PartStore store;
    store.names_content = true;
    CHECK(check_store<Usual>(store, 7, options) == "");
    CHECK(store.parts.empty());
    CHECK(store.loads_by_name > 100);
  }
  SECTION("files") {
    WholeFileStore store;
    CHECK(check_store<Usual>(store, 7, options) == "");
    CHECK(store.refusals == 0);
    CHECK(store.syncs > 20);
  }
}

TEST_CASE("a store may answer later", "[check_store]") {
  auto options = small;
  options.steps = 1'000;
  SECTION("when it is told") {
    LaterStore<Usual> store;
    std::atomic<bool> over{false};
    std::string wrong = "not run";
    {
      const Worker answers{[&] {
        while (!over) {
          if (store.open_loads() != 0) store.finish_load();
          if (store.open_flushes() != 0) store.finish_flush();
          std::this_thread::yield();
        }
      }};
      wrong = check_store<Usual>(store, 7, options);
      over = true;
    }
    CHECK(wrong == "");
    CHECK(store.memory.complaints() == "");
    CHECK(store.memory.counts().loads > 50);
    CHECK(store.memory.counts().flushes > 50);
  }
  SECTION("each time from another thread, with several flushes at a time, and syncs") {
    ThreadStore<Usual> store;
    CHECK(check_store<Usual>(store, 7, options) == "");
    CHECK(store.syncs > 5);
    CHECK(store.map.files.empty());
  }
}

TEST_CASE("what a store does wrong is found, and told", "[check_store]") {
  const auto mistake = static_cast<Mistake>(GENERATE(range(1, static_cast<int>(mistake_names.size()))));
  const auto every = GENERATE(as<std::uint64_t>{}, 1, 20);
  const auto seed = GENERATE(as<std::uint64_t>{}, 1, 2);
  CAPTURE(mistake_names[static_cast<std::size_t>(mistake)], every, seed);
  BrokenStore store{mistake, every};
  auto options = small;
  options.seed = seed;
  options.steps = 20'000;
  const std::array<std::uint64_t, 2> ids{3, 19};
  const auto wrong = check_store_files<Usual>(store, ids, options);
  CHECK(wrong != "");
  CHECK(wrong.find("seed " + std::to_string(seed)) != std::string::npos);
  CHECK(wrong.find("the last calls") != std::string::npos);

  BrokenStore again{mistake, every};  // the same choices, the same calls, the same words
  CHECK(check_store_files<Usual>(again, ids, options) == wrong);
}

TEST_CASE("a store that makes no mistake passes where the broken ones do not", "[check_store]") {
  BrokenStore store{Mistake::none, 1};
  auto options = small;
  options.steps = 20'000;
  const std::array<std::uint64_t, 2> ids{3, 19};
  CHECK(check_store_files<Usual>(store, ids, options) == "");
  CHECK(store.files.empty());
}

TEST_CASE("what is wrong is told with the place, the bytes and the calls", "[check_store]") {
  BrokenStore store{Mistake::stores_elsewhere, 5};
  const auto wrong = check_store<Usual>(store, 3, small);
  CAPTURE(wrong);
  CHECK(wrong.find("shows other bytes, at offset ") != std::string::npos);
  CHECK(wrong.find("\n  expected: ") != std::string::npos);
  CHECK(wrong.find("\n  seen:     ") != std::string::npos);
  CHECK(wrong.find("file #0, seed 1, chunk_bytes 16, part_bytes 64") != std::string::npos);
  CHECK(wrong.find(" write [") != std::string::npos);
  CHECK(wrong.find("     #0 flush [") != std::string::npos);
  CHECK(store.files.count(3) == 1);  // to be looked at
}

TEST_CASE("of several files it is told which one the store was asked for", "[check_store]") {
  struct ShortOfOne : MapStore<Usual> {
    Result<std::size_t> load(const tarn::LoadRequest<Usual>& request) {
      const auto filled = MapStore::load(request);
      return filled && *request.file == 19 ? *filled - 1 : filled;
    }
  };
  ShortOfOne store;
  const std::array<std::uint64_t, 2> ids{3, 19};
  const auto wrong = check_store_files<Usual>(store, ids, small);
  CAPTURE(wrong);
  CHECK(wrong.find("a load of ") == 0);
  CHECK(wrong.find("\n  file #1, ") != std::string::npos);
  CHECK(wrong.find("     #1 load [") != std::string::npos);
}

TEST_CASE("a store that says sizes is asked for them", "[check_store]") {
  struct SizedStore : MapStore<Usual> {
    bool cuts = true, removes_all = true;
    std::size_t sizes = 0;

    tarn::FlushOutcome<Usual> flush(const tarn::FlushRequest<Usual>& request) {
      const auto before = files[*request.file];
      apply(request);
      auto& file = files[*request.file];
      if (!cuts && before.size() > file.size()) file += before.substr(file.size());
      return tarn::FlushOutcome<Usual>::stored();
    }
    Result<> remove(std::uint64_t id) {
      if (!removes_all) return {};
      return MapStore::remove(id);
    }
    std::optional<std::uint64_t> size_of(std::uint64_t id) {
      ++sizes;
      return files.count(id) == 0 ? std::nullopt : std::optional<std::uint64_t>{files[id].size()};
    }
  };
  SizedStore store;
  SECTION("right") {
    CHECK(check_store<Usual>(store, 7, small) == "");
    CHECK(store.sizes > 20);
  }
  SECTION("one that does not cut, and writes every zero") {
    store.cuts = false;
    CHECK(check_store<Usual>(store, 7, small).find(" bytes, and should have ") != std::string::npos);
  }
  SECTION("one that removes nothing, and overwrites all") {
    store.removes_all = false;
    CHECK(check_store<Usual>(store, 7, small).find(" bytes, and should have no such file") != std::string::npos);
  }
}

TEST_CASE("a store that takes in nothing is no good store", "[check_store]") {
  struct FullStore : MapStore<Usual> {
    Result<> reserve(const tarn::ReserveRequest<Usual>&) { return tarn::fail(std::errc::no_space_on_device); }
  };
  FullStore store;
  CHECK(check_store<Usual>(store, 7, small).find("no write was ever taken in: No space left") == 0);
}

TEST_CASE("a store that never removes a file is no good store", "[check_store]") {
  using Memory = MemoryStore<Usual>;
  auto options = small;
  options.errors_max = 3;
  Memory store;
  store.fail_next(Memory::Call::remove, SIZE_MAX, std::errc::permission_denied);
  CHECK(check_store<Usual>(store, 7, options).find("a remove failed 3 times on end: Permission denied") == 0);
  CHECK(store.has(7));
}

TEST_CASE("a check keeps to the sizes that it is given, and chooses what it is not", "[check_store]") {
  MemoryStore<Usual> store;
  const auto largest_file_of = [&](const CheckStoreOptions& options) {
    store.expect_parts_of(options.part_bytes != 0 ? options.part_bytes : options.chunk_bytes);
    CHECK(check_store<Usual>(store, 7, options) == "");
    CHECK(store.complaints() == "");
    std::uint64_t largest = 0;
    for (const auto& flushed : store.flushed()) largest = std::max(largest, flushed.size_bytes);
    return largest;
  };
  SECTION("of a part: a chunk; of a file: five chunks and a half") {
    CHECK(largest_file_of({.steps = 2'000, .chunk_bytes = 16}) == 88);
  }
  SECTION("of a file: three parts and a half") {
    CHECK(largest_file_of({.steps = 2'000, .chunk_bytes = 16, .part_bytes = 64}) == 224);
  }
  SECTION("of a file: as said") {
    CHECK(largest_file_of({.steps = 2'000, .chunk_bytes = 16, .part_bytes = 64, .file_bytes_max = 100}) == 100);
  }
}

TEST_CASE("a check runs in as much memory as it is given", "[check_store]") {
  CheckStoreOptions options{.seed = 4, .steps = 2'000, .chunk_bytes = 4 * KiB, .part_bytes = 16 * KiB};
  MemoryStore<Heap> tight, roomy;
  CHECK(check_store<Heap>(tight, 7, options) == "");
  options.budget_bytes = tarn::MiB;
  CHECK(check_store<Heap>(roomy, 7, options) == "");
  CHECK(roomy.counts().loads < tight.counts().loads);
  CHECK(roomy.counts().flushes < tight.counts().flushes);
  options.budget_bytes = 4 * KiB;
  CHECK_THROWS_AS(check_store<Heap>(roomy, 7, options), std::system_error);
}

TEST_CASE("a part that is not whole chunks is no part to check with", "[check_store]") {
  MapStore<Usual> store;
  CHECK_THROWS_AS(check_store<Usual>(store, 7, {.chunk_bytes = 16, .part_bytes = 24}), std::system_error);
}
