// SPDX-License-Identifier: MIT
#include <tarn/detail/read_window.hpp>

#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "support/catch.hpp"
#include "support/one_file.hpp"

using namespace tarn_test;

TEST_CASE("a latched chunk of content is busy to a try, and EAGAIN to a read that may not even wait for it",
          "[read_window]") {
  OneFile<Heap> file{{.chunk_bytes = 16, .chunks_per_part = 1}};
  const tarn::Digest<16> id{.bytes = {std::byte{1}}};
  file.store.put_content(id, "sixteen of bytes");
  file.meta = OneFile<Heap>::Metadata::from_content(file.id, 16, std::vector{id});
  REQUIRE(file.read_all() == "sixteen of bytes");
  auto& core = file.pool.core();
  {
    const auto record = core.registry.find(core.content_key(id));
    tarn::detail::MutexLock table{record->table_mutex};
    auto& chunk = *record->table.find(0);
    table.unlock();
    std::string into(16, '?');
    REQUIRE(chunk.state.try_pin());
    REQUIRE(chunk.state.try_latch_exclusive());
    CHECK(tarn::try_read_range(file.pool, file.meta, 0, writable(into)).busy());
    std::vector<tarn::PinnedChunk<Heap>> pins;
    while (auto pin = file.pool.try_get(id, 0)) pins.push_back(std::move(*pin));
    pins.pop_back();  // for the look; to wait for the latch it would take another
    CHECK(tarn::read_range(file.pool, file.meta, 0, writable(into), file.store).error() ==
          std::errc::resource_unavailable_try_again);
    pins.clear();
    chunk.state.unlatch_exclusive(core.parking);
    core.unpin(chunk);
    CHECK(into == std::string(16, '?'));
  }
  CHECK(file.read_all() == "sixteen of bytes");
}
