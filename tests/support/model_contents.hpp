// SPDX-License-Identifier: MIT
#pragma once

// Pieces of content by their ids: equal bytes have one id.
//
// Thread safety: none.

#include <cstddef>
#include <cstdint>
#include <map>
#include <utility>

#include "support/model_random.hpp"

namespace tarn_test {

/// `ContentId` is a Digest.
template <class ContentId>
class ModelContents {
 public:
  /// The id of these bytes, which are kept.
  ContentId name(ModelBytes bytes) {
    const auto [at, made] = ids_.try_emplace(std::move(bytes));
    if (made) {
      auto number = ++count_;
      for (std::size_t i = 0; i < at->second.bytes.size(); ++i, number >>= 8) {
        at->second.bytes[i] = static_cast<std::byte>(number & 0xFF);
      }
      pieces_.emplace(at->second, &at->first);
    }
    return at->second;
  }
  /// The bytes of that id, or null.
  [[nodiscard]] const ModelBytes* find(const ContentId& id) const {
    const auto at = pieces_.find(id);
    return at == pieces_.end() ? nullptr : at->second;
  }

 private:
  std::map<ModelBytes, ContentId> ids_;
  std::map<ContentId, const ModelBytes*> pieces_;
  std::uint64_t count_ = 0;
};

}  // namespace tarn_test
