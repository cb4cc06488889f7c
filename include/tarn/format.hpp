// SPDX-License-Identifier: MIT
#pragma once

// fmt formatters: fmt::print("{} {}", range, pool.stats()). The one header of tarn that needs fmt.
//
//   ByteRange    [4096, 8192)
//   ExtentSet    {[0, 4096), [8192, 12288)}
//   FileState    modified
//   FlushStatus  stored
//   metadata     7: modified, 12288 bytes, part 4194304, version 3, stored {[0, 8192)}
//   PoolStats    a line for each value: its name, a space, the number

#include <fmt/format.h>

#include <string_view>

#include <tarn/byte_range.hpp>
#include <tarn/dirty_file_metadata.hpp>
#include <tarn/extent_set.hpp>
#include <tarn/pool_stats.hpp>
#include <tarn/store.hpp>

namespace tarn::detail {

/// Formatters below take no format specification of their own.
struct PlainFormatter {
  constexpr auto parse(fmt::format_parse_context& context) { return context.begin(); }
};

}  // namespace tarn::detail

template <>
struct fmt::formatter<tarn::ByteRange> : tarn::detail::PlainFormatter {
  template <class Context>
  auto format(const tarn::ByteRange& range, Context& context) const {
    return fmt::format_to(context.out(), "[{}, {})", range.offset(), range.end());
  }
};

template <>
struct fmt::formatter<tarn::ExtentSet> : tarn::detail::PlainFormatter {
  template <class Context>
  auto format(const tarn::ExtentSet& set, Context& context) const {
    auto out = fmt::format_to(context.out(), "{{");
    for (std::string_view comma; const auto& extent : set.extents()) {
      out = fmt::format_to(out, "{}{}", comma, extent);
      comma = ", ";
    }
    return fmt::format_to(out, "}}");
  }
};

template <>
struct fmt::formatter<tarn::FileState> : fmt::formatter<std::string_view> {
  template <class Context>
  auto format(tarn::FileState state, Context& context) const {
    constexpr std::string_view names[] = {"clean", "created", "modified", "deleted"};
    return fmt::formatter<std::string_view>::format(names[static_cast<std::size_t>(state)], context);
  }
};

template <>
struct fmt::formatter<tarn::FlushStatus> : fmt::formatter<std::string_view> {
  template <class Context>
  auto format(tarn::FlushStatus status, Context& context) const {
    constexpr std::string_view names[] = {"stored", "durable", "failed", "unknown", "conflict"};
    return fmt::formatter<std::string_view>::format(names[static_cast<std::size_t>(status)], context);
  }
};

template <class FileId, class ContentId, class Payload>
struct fmt::formatter<tarn::BasicDirtyFileMetadata<FileId, ContentId, Payload>> : tarn::detail::PlainFormatter {
  template <class Context>
  auto format(const tarn::BasicDirtyFileMetadata<FileId, ContentId, Payload>& meta, Context& context) const {
    return fmt::format_to(context.out(), "{}: {}, {} bytes, part {}, version {}, stored {}", meta.id(), meta.state(),
                          meta.size(), meta.part_bytes(), meta.version(), meta.stored());
  }
};

template <>
struct fmt::formatter<tarn::PoolStats> : tarn::detail::PlainFormatter {
  template <class Context>
  auto format(const tarn::PoolStats& stats, Context& context) const {
    auto out = context.out();
    tarn::for_each_value(
        stats, [&](std::string_view name, std::uint64_t value) { out = fmt::format_to(out, "{} {}\n", name, value); });
    return out;
  }
};
