// SPDX-License-Identifier: MIT
#include <tarn/format.hpp>
#include <tarn/tarn.hpp>

#include <algorithm>
#include <string>

#include "support/catch.hpp"

using tarn::ByteRange;

TEST_CASE("ranges and extents are printed half-open", "[format]") {
  tarn::ExtentSet set{ByteRange::between(0, 4096)};
  CHECK(fmt::format("{}", ByteRange::between(4096, 8192)) == "[4096, 8192)");
  CHECK(fmt::format("{}", tarn::ExtentSet{}) == "{}");
  CHECK(fmt::format("{}", set) == "{[0, 4096)}");
  set.add(ByteRange::between(8192, 8193));
  CHECK(fmt::format("{}", set) == "{[0, 4096), [8192, 8193)}");
}

TEST_CASE("every state has the name of its enumerator", "[format]") {
  using tarn::FileState;
  using tarn::FlushStatus;
  CHECK(fmt::format("{} {} {} {}", FileState::clean, FileState::created, FileState::modified, FileState::deleted) ==
        "clean created modified deleted");
  CHECK(fmt::format("{} {} {} {} {}", FlushStatus::stored, FlushStatus::durable, FlushStatus::failed,
                    FlushStatus::unknown, FlushStatus::conflict) == "stored durable failed unknown conflict");
}

TEST_CASE("metadata is printed on one line", "[format]") {
  const auto meta = tarn::DirtyFileMetadata::from_store(7, 100, {.part_bytes = 4096, .version = 3});
  CHECK(fmt::format("{}", meta) == "7: clean, 100 bytes, part 4096, version 3, stored {[0, 100)}");
}

TEST_CASE("stats are printed one a line, and none is left out", "[format]") {
  tarn::PoolStats stats;
  stats.refusals = 9;
  stats.dirty_bytes = 5;
  const auto text = fmt::format("{}", stats);
  CHECK(text.find("dirty_bytes 5\n") != std::string::npos);
  CHECK(text.find("refusals 9\n") != std::string::npos);
  CHECK(static_cast<std::size_t>(std::count(text.begin(), text.end(), '\n')) ==
        sizeof(tarn::PoolStats) / sizeof(std::uint64_t));
}
