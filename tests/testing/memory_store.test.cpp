// SPDX-License-Identifier: MIT
#include <tarn/testing/memory_store.hpp>

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <ostream>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include <tarn/testing/gate.hpp>

#include "support/catch.hpp"
#include "support/traits.hpp"

using tarn::ByteRange;
using tarn::FlushStatus;
using tarn::testing::bytes_of;
using tarn::testing::MemoryStore;
using tarn::testing::pattern;
using tarn::testing::Worker;
using tarn::testing::zeros;
using Traits = tarn_test::TestTraits;
using Store = MemoryStore<Traits>;

namespace {

constexpr std::uint64_t id = 7, part_bytes = 16, file_bytes = 64;

// A load made by hand, of file 7 or of content alone, and its memory.
struct Load {
  explicit Load(ByteRange range) : Load{range, range.size_bytes()} {}
  Load(ByteRange range, std::uint64_t buffer_bytes) : into(static_cast<std::size_t>(buffer_bytes), '?') {
    request.range = range;
    request.part = range.offset() / part_bytes;
    request.offset_in_part = range.offset() % part_bytes;
  }
  tarn::Result<std::size_t> ask(Store& store) {
    ::iovec piece{into.data(), into.size()};
    request.into = tarn::MutableBuffers{{&piece, 1}};
    return store.load(request);
  }

  std::string into;
  tarn::LoadRequest<Traits> request{.file = &id, .content = nullptr, .range = {}, .into = {}};
};

// A flush made by hand, of file 7; the pieces of its data are those of `data`.
struct Flush {
  tarn::FlushOutcome<Traits> ask(Store& store) {
    std::vector<::iovec> pieces;
    for (auto& piece : data) pieces.push_back({piece.data(), piece.size()});
    return store.flush({.file = &id,
                        .size_bytes = size_bytes,
                        .store_size_bound_bytes = bound_bytes,
                        .version = 0,
                        .generation = generation,
                        .ranges = ranges,
                        .data = pieces});
  }

  std::vector<tarn::FlushRange> ranges;
  std::vector<std::string> data = {};
  std::uint64_t size_bytes = file_bytes, bound_bytes = file_bytes, generation = 1;
};
constexpr tarn::FlushRange data_of(std::uint64_t offset, std::uint64_t end) {
  return {ByteRange::between(offset, end), false};
}
constexpr tarn::FlushRange zeros_of(std::uint64_t offset, std::uint64_t end) {
  return {ByteRange::between(offset, end), true};
}

struct WrongLoad {
  std::string_view told;
  ByteRange range;
  std::uint64_t buffer_bytes, part, offset_in_part;
  friend std::ostream& operator<<(std::ostream& out, const WrongLoad& load) { return out << load.told; }
};
struct WrongFlush {
  std::string_view told;
  Flush flush;
  friend std::ostream& operator<<(std::ostream& out, const WrongFlush& its) { return out << its.told; }
};

}  // namespace

TEST_CASE("a right request is answered without a complaint", "[memory_store]") {
  Store store;
  store.expect_parts_of(part_bytes);
  Flush flush{
      .ranges = {data_of(0, 4), zeros_of(6, 10), data_of(12, 16)}, .data = {"ab", "cd", "efgh"}, .bound_bytes = 0};
  CHECK(flush.ask(store).status() == FlushStatus::durable);
  CHECK(store.text(id, 0, 16) == "abcd" + zeros(8) + "efgh");
  CHECK(store.counts().flush_bytes == 8);
  Load load{ByteRange::between(12, 16)};
  CHECK(load.ask(store).value() == 4);
  CHECK(load.into == "efgh");
  CHECK(store.remove(id));
  CHECK(store.complaints() == "");
}

TEST_CASE("a wrong load is complained of", "[memory_store]") {
  constexpr auto wrong_part = "a load is not of one part, or names the wrong one\n";
  const auto wrong = GENERATE_COPY(values<WrongLoad>({
      {"a load has buffers of another size\n", ByteRange::between(20, 28), 7, 1, 4},
      {"a load asks for nothing\n", ByteRange::between(20, 20), 0, 1, 4},
      {wrong_part, ByteRange::between(12, 20), 8, 0, 12},
      {wrong_part, ByteRange::between(12, 20), 8, 1, 12},
      {wrong_part, ByteRange::between(20, 28), 8, 1, 20},
  }));
  CAPTURE(wrong, wrong.range.offset(), wrong.part, wrong.offset_in_part);
  Store store;
  store.expect_parts_of(part_bytes);
  store.put_pattern(id, file_bytes);
  Load load{wrong.range, wrong.buffer_bytes};
  load.request.part = wrong.part;
  load.request.offset_in_part = wrong.offset_in_part;
  CHECK(load.ask(store).value() == wrong.buffer_bytes);  // and done as far as it can be
  CHECK(load.into == pattern(wrong.range.offset(), static_cast<std::size_t>(wrong.buffer_bytes)));
  CHECK(store.complaints() == wrong.told);
}

TEST_CASE("a load past the end of a file is complained of, but where a flush may have cut the file meanwhile",
          "[memory_store]") {
  Store store;
  store.put_pattern(id, file_bytes);
  const bool overtaken = GENERATE(false, true);
  if (overtaken) store.let_flushes_overtake_loads();
  Load load{ByteRange::between(file_bytes - 1, file_bytes + 1)};
  CHECK(load.ask(store).error() == std::errc::io_error);
  CHECK(load.into == "??");
  CHECK(store.complaints() == (overtaken ? "" : "a load asks for bytes past the end of what the store has\n"));
}

TEST_CASE("content is given as far as it reaches, and only what is there", "[memory_store]") {
  const Traits::ContentId known{{std::byte{1}}}, other{{std::byte{2}}}, unknown{{std::byte{3}}};
  Store store;
  store.put_content(other, "other");
  store.put_content(known, "known");
  const auto ask = [&](const Traits::ContentId& content, ByteRange range) -> std::string {
    Load load{range};
    load.request.file = nullptr;
    load.request.content = &content;
    const auto answer = load.ask(store);
    return answer ? load.into : answer.error().message();
  };
  CHECK(ask(known, ByteRange::between(1, 5)) == "nown");
  CHECK(ask(known, ByteRange::between(1, 6)) == std::make_error_code(std::errc::io_error).message());
  CHECK(ask(unknown, ByteRange::between(0, 1)) == std::make_error_code(std::errc::no_such_file_or_directory).message());
  CHECK(store.complaints() == "");
}

TEST_CASE("a wrong flush is complained of", "[memory_store]") {
  constexpr auto parts = "a flush with data of more than one part\n";
  constexpr auto bound = "the store has bytes past what tarn thinks it may have\n";
  constexpr auto bound_and_bytes =
      "the store has bytes past what tarn thinks it may have\nbytes past the bound that are not zero\n";
  const auto wrong = GENERATE_COPY(values<WrongFlush>({
      {"a generation that does not rise\n", {.ranges = {}, .generation = 0}},
      {"a flush of an empty range\n", {.ranges = {data_of(3, 3)}}},
      {"ranges of a flush that do not ascend\n", {.ranges = {zeros_of(4, 8), zeros_of(7, 12)}}},
      {"a flush of bytes past the size\n", {.ranges = {zeros_of(8, 9)}, .size_bytes = 8}},
      {parts, {.ranges = {data_of(0, 4), data_of(16, 20)}, .data = {"abcd", "efgh"}}},
      {parts, {.ranges = {data_of(12, 20)}, .data = {"abcdefgh"}}},
      {bound, {.ranges = {zeros_of(0, 4)}, .bound_bytes = 4}},
      {bound_and_bytes, {.ranges = {zeros_of(0, 8)}, .bound_bytes = 4}},
  }));
  CAPTURE(wrong);
  Store store;
  store.expect_parts_of(part_bytes);
  store.put_pattern(id, file_bytes);
  auto flush = wrong.flush;
  CHECK(flush.ask(store).status() == FlushStatus::durable);
  CHECK(store.complaints() == wrong.told);
}

TEST_CASE("a flush whose data are not those of its ranges is complained of, and not stored", "[memory_store]") {
  using Data = std::vector<std::string>;
  const auto data = GENERATE(
      values<Data>({{}, {"abcd"}, {"abcd", "efg"}, {"abcdefgh"}, {"abcdefgh", "ijkl"}, {"abcd", "efgh", "ijkl"}}));
  const bool naive = GENERATE(false, true);
  Store store;
  store.put_pattern(id, file_bytes);
  if (naive) store.be_naive();
  Flush flush{.ranges = {data_of(0, 4), data_of(8, 12)}, .data = data, .size_bytes = 12};
  const auto outcome = flush.ask(store);
  CHECK(outcome.status() == FlushStatus::failed);
  CHECK(outcome.error() == std::errc::invalid_argument);
  CHECK(store.text(id) == pattern(0, file_bytes));
  CHECK(store.complaints() == "a flush with data that do not fill its ranges, piece by piece\n");
}

TEST_CASE("a generation that does not rise is none of a store's whose flushes come in any order", "[memory_store]") {
  Store store;
  store.take_flushes_in_any_order();
  for (const std::uint64_t generation : {2u, 1u}) {
    Flush flush{.ranges = {data_of(0, 4)}, .data = {"abcd"}, .generation = generation};
    CHECK(flush.ask(store).ok());
  }
  CHECK(store.complaints() == "");
}

TEST_CASE("what happens to a file during a flush of it is complained of", "[memory_store]") {
  const std::string_view told =
      GENERATE("a file is removed while a flush of it is in flight\n", "two flushes of one file at a time\n",
               "the bytes of a flush changed while the store had them\n");
  Store store;
  store.hold_flushes(1);
  store.flush_gate.close();
  Flush held{.ranges = {data_of(0, 4)}, .data = {"abcd"}};
  FlushStatus status{};
  {
    const Worker flusher{store.flush_gate, [&] { status = held.ask(store).status(); }};
    REQUIRE(store.flush_gate.wait_for_arrivals());
    if (told.starts_with("a file is removed")) CHECK(store.remove(id));
    if (told.starts_with("two flushes")) CHECK(Flush{.ranges = {}, .generation = 2}.ask(store).ok());
    if (told.starts_with("the bytes")) held.data[0][3] = 'X';
  }
  CHECK(status == FlushStatus::durable);
  CHECK(store.complaints() == told);
}
