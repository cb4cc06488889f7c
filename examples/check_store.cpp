// SPDX-License-Identifier: MIT
// A store is checked: random calls on a file over it, against a flat array.

#include <tarn/testing/check_store.hpp>

#include <iostream>
#include <map>
#include <optional>
#include <string>

using Traits = tarn::DefaultTraits;

struct StringStore {
  std::map<Traits::FileId, std::string> files;

  tarn::Result<std::size_t> load(const tarn::LoadRequest<Traits>& request) {
    const auto bytes = std::as_bytes(std::span{files[*request.file]});
    if (bytes.size() < request.range.end()) return tarn::fail(std::errc::io_error);
    return request.into.copy_from(bytes.subspan(request.range.offset(), request.range.size_bytes()));
  }
  tarn::FlushOutcome<Traits> flush(const tarn::FlushRequest<Traits>& request) {
    auto& file = files[*request.file];
    file.resize(request.size_bytes);  // leave this out, and see what is said
    request.for_each_piece([&](std::uint64_t offset, std::span<const std::byte> bytes, bool /*zero*/) {
      file.replace(offset, bytes.size(), reinterpret_cast<const char*>(bytes.data()), bytes.size());
    });
    return tarn::FlushOutcome<Traits>::stored();
  }
  tarn::Result<> remove(const Traits::FileId& id) {
    files.erase(id);
    return {};
  }
  // Not for tarn, for the check: what a lookup would find.
  std::optional<std::uint64_t> size_of(const Traits::FileId& id) const {
    const auto at = files.find(id);
    return at == files.end() ? std::nullopt : std::optional<std::uint64_t>{at->second.size()};
  }
};

int main() {
  StringStore store;
  for (std::uint64_t seed = 1; seed <= 8; ++seed) {
    const auto wrong = tarn::testing::check_store<Traits>(
        store, /*id=*/42, {.seed = seed, .steps = 2'000, .chunk_bytes = 4096, .part_bytes = 16 * tarn::KiB});
    if (!wrong.empty()) {
      std::cerr << wrong << '\n';
      return 1;
    }
  }
  std::cout << "the store keeps what it is given\n";
  return 0;
}
