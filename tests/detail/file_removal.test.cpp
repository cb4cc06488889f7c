// SPDX-License-Identifier: MIT
#include <tarn/detail/file_removal.hpp>

#include <optional>

#include <tarn/dirty_file.hpp>

#include "support/catch.hpp"
#include "support/shared_file.hpp"

using namespace tarn_test;

namespace {

using File = SharedFile<WatchedFiles>;
using Opener = tarn::OpenFile<WatchedFiles, MemoryStore<WatchedFiles>>;

}  // namespace

TEST_CASE("who opens and closes a file while the store removes it does not remove it again", "[file_removal]") {
  File file{{16, 1}, 16};
  file.store.remove_gate.close();
  tarn::Result<> removed = tarn::fail(std::errc::io_error);
  {
    Worker remover{file.store.remove_gate, [&] { removed = file->remove(); }};
    REQUIRE(file.store.remove_gate.wait_for_arrivals());
    { const auto opener = file->open(); }
    CHECK(file.store.counts().removes == 1);
  }
  CHECK(removed);
  CHECK(file.store.counts().removes == 1);
  CHECK_FALSE(file.store.has(file.id));
}

TEST_CASE("a deleted file that is opened again before its last close has come through lives on", "[file_removal]") {
  File file{{16, 1}, 16};
  REQUIRE(file.read_all() == pattern(0, 16));
  std::optional<Opener> first{file->open()}, second;
  REQUIRE(file->remove());
  Gate gate;
  gate.close();
  BlockedThread closer;
  {
    Worker writer{gate, [&] {  // has the file's lock
                    (void)file
                        ->write(0, 1,
                                [&](tarn::MutableBuffers) {
                                  gate.pass();
                                  return std::size_t{0};
                                })
                        .has_value();
                  }};
    REQUIRE(gate.wait_for_arrivals());
    Worker closes{gate, [&] {
                    closer.here();
                    first.reset();
                  }};
    CHECK(closer.wait_until_blocked());
    second.emplace(file->open());
    gate.open();
  }
  CHECK(file.store.counts().removes == 0);
  CHECK(file.read_all() == pattern(0, 16));
  second.reset();
  CHECK(file.store.counts().removes == 1);
  CHECK_FALSE(file.store.has(file.id));
}
