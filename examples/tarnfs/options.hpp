// SPDX-License-Identifier: MIT
#pragma once

// The command line.

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace tarnfs {

/// How a read is answered. All four read the same chunks of the same pool.
enum class ReadPath : std::uint8_t { before, after, copy, gather };
enum class StorageKind : std::uint8_t { arena, heap };

/// What the pool and the bytes in it are told.
struct ContentOptions {
  std::uint64_t budget_bytes = std::uint64_t{1} << 30;
  std::uint64_t chunk_bytes = 64 << 10;
  std::uint64_t part_bytes = 4 << 20;
  StorageKind storage = StorageKind::arena;
  bool prefault = false;
  ReadPath read_path = ReadPath::gather;
  unsigned loaders = 4;  ///< threads that ask SOURCE for bytes and give it some
};

struct Options {
  std::string source;
  std::string mountpoint;
  ContentOptions content;
  bool direct_io = false;
  bool keep_cache = false;
  std::uint64_t read_ahead_bytes = 0;  ///< the most that is loaded ahead of a program that reads in order
  bool foreground = false;
  bool stats = false;
  unsigned threads = 0;          ///< 0: one a CPU, at least two
  bool receive_in_place = true;  ///< what is written, into the pool's memory
  bool one_thread_a_cpu = false;
  std::vector<int> cpus;  ///< empty: wherever the system likes
  std::string rescue;     ///< empty: what cannot be stored is lost, and named
};

struct UsageError {
  std::string text;  ///< one line, without the program's name
};
/// Text that was asked for: --help, --version.
struct Information {
  std::string text;
};

/// Reads the arguments that follow the program's name. Options may stand before, between and after the two operands;
/// `--x=v` and `--x v` mean the same; `--` ends them.
[[nodiscard]] std::variant<Options, UsageError, Information> parse_options(std::span<const char* const> arguments);

/// A number with an optional K, M or G, powers of 1024.
/// Returns: nothing if it is no such number or does not fit in 63 bits.
[[nodiscard]] std::optional<std::uint64_t> parse_size(std::string_view text);

/// CPUs as the system lists them: 0,2-3.
/// Returns: nothing if it is no such list.
[[nodiscard]] std::optional<std::vector<int>> parse_cpu_list(std::string_view text);

}  // namespace tarnfs
