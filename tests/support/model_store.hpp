// SPDX-License-Identifier: MIT
#pragma once

// The flat store of the model: each file a vector of bytes, each piece of content another. What it does wrong, and what
// happens while it is asked, the model decides by its hooks, so that everything is one thread's and replays.
//
// Thread safety: none.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include <tarn/store.hpp>

#include "support/model_contents.hpp"
#include "support/model_disk.hpp"
#include "support/model_random.hpp"

namespace tarn_test {

template <class Traits>
class ModelStore {
 public:
  using FileId = typename Traits::FileId;
  using ContentId = typename Traits::ContentId;
  using Load = tarn::LoadRequest<Traits>;
  using Flush = tarn::FlushRequest<Traits>;
  using Outcome = tarn::FlushOutcome<Traits>;

  struct Image {
    ModelBytes bytes;
    std::uint64_t version = 0;
  };
  std::map<FileId, Image> images;
  ModelContents<ContentId> contents;

  enum class LoadFault : std::uint8_t { none, error, exception, too_few };
  enum class FlushFault : std::uint8_t { none, half, exception, unknown, conflict };
  /// What a load does; called first, before the bytes are given or after, as `late` says.
  struct LoadPlan {
    LoadFault fault = LoadFault::none;
    bool late = true;  ///< the bytes are taken first, and what the hook does comes between
  };
  struct FlushPlan {
    FlushFault fault = FlushFault::none;
    bool skips_known_zeros = false;  ///< a store better than naive: past the bound the zeros are there already
    bool names_content = false;      ///< answers with content ids for the parts it was given
    bool applies_first = false;      ///< stores the bytes first, and what the hook does comes after
  };
  std::function<LoadPlan(const Load&)> plan_load;
  std::function<void(const Load&)> during_load;
  std::function<FlushPlan(const Flush&)> plan_flush;
  std::function<void(const Flush&)> during_flush;
  std::function<bool(const FileId&)> during_remove;  ///< Returns: whether to remove it
  std::uint64_t failed_loads = 0, failed_flushes = 0, part_bytes = 1;
  bool fenced = false;  ///< the flush under way stores nothing any more: its file was dropped
  /// What tarn asked that it must never ask; empty if nothing.
  std::string complaint;

  static std::error_code load_error() { return std::make_error_code(std::errc::host_unreachable); }
  static std::error_code flush_error() { return std::make_error_code(std::errc::no_space_on_device); }

  tarn::Result<std::size_t> load(const Load& request) {
    const auto plan = plan_load(request);
    if (request.into.size_bytes() != request.range.size_bytes()) complain("a load with buffers of another size");
    if (plan.late) fill(request);
    during_load(request);
    if (!plan.late) fill(request);
    if (plan.fault != LoadFault::none) {  // what it left in the buffers must show to nobody
      ++failed_loads;
      const auto last = request.into[request.into.count() - 1];
      std::ranges::fill(plan.fault == LoadFault::too_few ? last.last(1) : last, std::byte{0xDB});
    }
    if (plan.fault == LoadFault::error) return tarn::fail(load_error());
    if (plan.fault == LoadFault::exception) throw std::system_error{load_error()};
    return request.into.size_bytes() - (plan.fault == LoadFault::too_few ? 1 : 0);
  }

  Outcome flush(const Flush& request) {
    check(request);
    const auto plan = plan_flush(request);
    const auto before = listed_bytes(request);
    if (plan.applies_first) apply(request, plan);
    during_flush(request);
    if (listed_bytes(request) != before) complain("the bytes of a flush changed while the store read them");
    if (std::exchange(fenced, false)) return Outcome::stored();  // of a file that is another one by now
    if (!plan.applies_first) apply(request, plan);
    return outcome(request, plan);
  }
  void apply(const Flush& request, const FlushPlan& plan) {
    auto& bytes = images[*request.file].bytes;
    if (plan.fault == FlushFault::conflict || plan.fault == FlushFault::exception) return;
    const auto change = ModelChange::of(request, plan.skips_known_zeros);
    change.apply_to(bytes, plan.fault == FlushFault::none ? SIZE_MAX : 1 + request.ranges.size() / 2);
  }
  Outcome outcome(const Flush& request, const FlushPlan& plan) {
    if (plan.fault != FlushFault::none) ++failed_flushes;
    if (plan.fault == FlushFault::exception) throw std::system_error{flush_error()};
    if (plan.fault == FlushFault::half) return Outcome::failed(flush_error());
    if (plan.fault == FlushFault::unknown) return Outcome::unknown(flush_error());
    if (plan.fault == FlushFault::conflict) return Outcome::conflict(flush_error());
    auto& image = images[*request.file];
    auto stored = Outcome::stored().with_version(++image.version);
    if (plan.names_content) {
      std::optional<std::uint64_t> last;
      for (const auto& [range, zero] : request.ranges) {
        const auto part = range.offset() / part_bytes;
        if (zero || part == last) continue;
        last = part;
        const auto first = static_cast<std::ptrdiff_t>(part * part_bytes);
        const auto end =
            static_cast<std::ptrdiff_t>(std::min<std::uint64_t>((part + 1) * part_bytes, image.bytes.size()));
        stored = std::move(stored).with_content(
            part, contents.name({image.bytes.begin() + first, image.bytes.begin() + end}));
      }
    }
    return stored;
  }

  tarn::Result<> remove(const FileId& id) {
    if (!during_remove(id)) return tarn::fail(flush_error());
    images.erase(id);
    return {};
  }

  void complain(const char* what) {
    if (complaint.empty()) complaint = what;
  }
  void check(const Flush& request);

 private:
  // What the store no longer has reads as rubbish: tarn must not show it.
  void fill(const Load& request) {
    const ModelBytes* from = nullptr;
    if (request.content != nullptr) {
      from = contents.find(*request.content);
    } else if (const auto at = images.find(*request.file); at != images.end()) {
      from = &at->second.bytes;
    }
    const auto offset = request.content != nullptr ? request.offset_in_part : request.range.offset();
    ModelBytes found(request.into.size_bytes(), std::byte{0xDB});
    if (from != nullptr && offset < from->size()) {
      const auto n = std::min<std::uint64_t>(found.size(), from->size() - offset);
      std::memcpy(found.data(), from->data() + offset, static_cast<std::size_t>(n));
    }
    request.into.copy_from(found);
  }

  std::uint64_t generation_ = 0;
};

template <class Traits>
void ModelStore<Traits>::check(const Flush& request) {
  if (request.generation <= generation_) complain("a generation that does not rise");
  generation_ = request.generation;
  const auto at = images.find(*request.file);
  const ModelBytes none;
  const auto& stored = at == images.end() ? none : at->second.bytes;
  const auto* const why = misdeed_of(request, stored, tarn::FlushUnit::ranges, part_bytes);
  if (why != nullptr) complain(why);
}

}  // namespace tarn_test
