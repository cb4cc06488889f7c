// SPDX-License-Identifier: MIT
// A store of objects that are read and replaced as a whole, one for each part of a file, as in S3: a load is one GET, a
// flush one PUT of the part as it is from now on. Then the store is checked.

#include <tarn/tarn.hpp>
#include <tarn/testing/check_store.hpp>

#include <array>
#include <cstring>
#include <iostream>
#include <map>
#include <mutex>
#include <string>
#include <utility>

using Traits = tarn::DefaultTraits;

class ObjectStore {
 public:
  static constexpr tarn::LoadUnit load_unit = tarn::LoadUnit::parts;
  static constexpr tarn::FlushUnit flush_unit = tarn::FlushUnit::parts;

  explicit ObjectStore(std::uint64_t part_bytes) : part_bytes_{part_bytes} {}

  tarn::Result<std::size_t> load(const tarn::LoadRequest<Traits>& request) {
    const std::lock_guard lock{mutex_};
    const auto object = get({*request.file, request.part}, request.offset_in_part + request.range.size_bytes());
    return request.into.copy_from(std::as_bytes(std::span{object}).subspan(request.offset_in_part));
  }

  tarn::FlushOutcome<Traits> flush(const tarn::FlushRequest<Traits>& request) {
    const std::lock_guard lock{mutex_};
    cut(*request.file, request.size_bytes);
    if (!request.covers.empty()) {
      const Name name{*request.file, request.covers.offset() / part_bytes_};
      std::string object, old;
      const auto fetch = [&](tarn::ByteRange range, std::span<std::byte> into) -> tarn::Result<std::size_t> {
        if (old.empty()) old = get(name, request.covers.size_bytes());  // not if all of the part is new
        std::memcpy(into.data(), old.data() + (range.offset() - request.covers.offset()), into.size());
        return into.size();
      };
      std::array<std::byte, 4096> scratch;
      const auto made = request.for_each_piece_of_part(
          scratch, fetch, [&](std::uint64_t /*offset*/, std::span<const std::byte> bytes, bool /*zero*/) {
            object.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
          });
      if (!made) return tarn::FlushOutcome<Traits>::failed(made.error());
      put(name, std::move(object));
    }
    return tarn::FlushOutcome<Traits>::durable();
  }

  tarn::Result<> remove(const Traits::FileId& id) {
    const std::lock_guard lock{mutex_};
    cut(id, 0);
    return {};
  }

  int gets = 0, puts = 0;

 private:
  using Name = std::pair<Traits::FileId, std::uint64_t>;  // and the part

  // What an object lacks is zero: nobody has written it.
  std::string get(const Name& name, std::uint64_t size_bytes) {
    ++gets;
    const auto at = objects_.find(name);
    auto object = at == objects_.end() ? std::string{} : at->second;
    object.resize(size_bytes);
    return object;
  }
  void put(const Name& name, std::string object) {
    ++puts;
    objects_[name] = std::move(object);
  }
  // What is past the size goes, and must not come back when the file grows again.
  void cut(const Traits::FileId& id, std::uint64_t size_bytes) {
    const auto parts = (size_bytes + part_bytes_ - 1) / part_bytes_;
    objects_.erase(objects_.lower_bound({id, parts}), objects_.lower_bound({id, UINT64_MAX}));
    if (parts == 0) return;
    const auto last = objects_.find({id, parts - 1});
    const auto last_bytes = size_bytes - (parts - 1) * part_bytes_;
    if (last != objects_.end() && last->second.size() > last_bytes)
      put(last->first, last->second.substr(0, last_bytes));
  }

  const std::uint64_t part_bytes_;
  std::mutex mutex_;
  std::map<Name, std::string> objects_;
};

int main() {
  constexpr auto part_bytes = tarn::MiB;
  {
    tarn::ChunkPool pool{{.budget_bytes = 64 * tarn::MiB}};
    ObjectStore store{part_bytes};
    tarn::DirtyFile file{pool, tarn::DirtyFileMetadata::created(/*id=*/42, {.part_bytes = part_bytes}), store};
    const auto write = [&](std::uint64_t offset, const std::string& text) {
      const auto n = file.write(offset, std::as_bytes(std::span{text}));
      return n && *n == text.size();
    };
    if (!write(0, std::string(4 * part_bytes, '4')) || !file.flush()) return 1;
    const auto puts_of_four_parts = store.puts;

    pool.evict_clean();
    if (!write(part_bytes + 7, "bytes") || !file.flush()) return 1;
    std::cout << "four new parts: " << puts_of_four_parts
              << " PUTs and no GET; five bytes in one of them: " << store.gets << " GET, "
              << store.puts - puts_of_four_parts << " PUT\n";
    if (puts_of_four_parts != 4 || store.gets != 1 || store.puts != 5) return 1;
  }

  ObjectStore store{16 * tarn::KiB};
  const auto wrong = tarn::testing::check_store<Traits>(
      store, /*id=*/42, {.seed = 1, .steps = 5'000, .chunk_bytes = 4096, .part_bytes = 16 * tarn::KiB});
  if (!wrong.empty()) std::cerr << wrong << '\n';
  return wrong.empty() ? 0 : 1;
}
