// SPDX-License-Identifier: MIT
// The smallest embedder: a store of strings, and one file that is written, read, viewed and flushed.

#include <tarn/tarn.hpp>

#include <iostream>
#include <map>
#include <mutex>
#include <string>

using Traits = tarn::DefaultTraits;

// Where the bytes live. Called from whichever thread reads, writes or flushes, with nothing of tarn's locked.
struct StringStore {
  std::mutex mutex;
  std::map<Traits::FileId, std::string> files;

  tarn::Result<std::size_t> load(const tarn::LoadRequest<Traits>& request) {
    const std::lock_guard lock{mutex};
    const auto bytes = std::as_bytes(std::span{files[*request.file]});
    if (bytes.size() < request.range.end()) return tarn::fail(std::errc::io_error);
    return request.into.copy_from(bytes.subspan(request.range.offset(), request.range.size_bytes()));
  }
  tarn::FlushOutcome<Traits> flush(const tarn::FlushRequest<Traits>& request) {
    const std::lock_guard lock{mutex};
    auto& file = files[*request.file];
    file.resize(request.size_bytes);  // cuts off what is past it; what it adds is zero
    request.for_each_piece([&](std::uint64_t offset, std::span<const std::byte> bytes, bool /*zero*/) {
      file.replace(offset, bytes.size(), reinterpret_cast<const char*>(bytes.data()), bytes.size());
    });
    return tarn::FlushOutcome<Traits>::stored();
  }
  tarn::Result<> remove(const Traits::FileId& id) {
    const std::lock_guard lock{mutex};
    files.erase(id);
    return {};
  }
};

int main() {
  tarn::ChunkPool pool{{.budget_bytes = 64 * tarn::MiB}};  // before the store, whose tokens must not outlive it
  StringStore store;
  // A part is what one load or flush covers at most. For a file that the store has: from_store(id, size, {...}).
  tarn::DirtyFile file{pool, tarn::DirtyFileMetadata::created(/*id=*/42, {.part_bytes = 4 * tarn::MiB}), store};

  // The gap before it reads as zeros. A write may be short: with no memory left for the rest, which then says why.
  const std::string text = "dirty bytes";
  auto rest = std::as_bytes(std::span{text});
  for (std::uint64_t offset = 10; !rest.empty();) {
    const auto n = file.write(offset, rest);
    if (!n) return 1;
    offset += *n;
    rest = rest.subspan(*n);
  }

  std::string copy(100, '?');
  const auto n = file.read(0, std::as_writable_bytes(std::span{copy}));  // shorter than asked only at end of file
  if (!n || *n != 21 || copy.substr(10, 11) != text) return 1;

  // No copy: spans of chunk memory, and of zeros for holes: bytes[0] to bytes[bytes.count() - 1]. They live for the call.
  const auto pieces = file.view(0, 21, [](tarn::ConstBuffers bytes) { return bytes.count(); });
  if (!pieces) return 1;

  if (const auto flushed = file.flush(); !flushed) {
    std::cerr << "not stored: " << flushed.error().message() << '\n';  // and still dirty: try again
    return 1;
  }
  std::cout << *n << " bytes in " << *pieces << " pieces; the store has " << store.files[42].size() << '\n';
  return file.is_dirty() ? 1 : 0;
}
