// SPDX-License-Identifier: MIT
#include "options.hpp"

#include <sched.h>

#include <array>
#include <charconv>

namespace tarnfs {
namespace {

constexpr std::string_view help_text = R"(usage: tarnfs [options] SOURCE MOUNTPOINT

Mounts the directory SOURCE at MOUNTPOINT, read-write. File bytes are held in a pool in memory; everything else goes to
SOURCE at once. While it is mounted, SOURCE belongs to tarnfs: a file that is changed behind it answers ESTALE.

Changed bytes stay in memory until fsync, a close of the file, pressure on the budget, SIGUSR2, or unmount. sync(2) and
syncfs(2) do not reach a FUSE daemon: to make a file durable, fsync it.

options (sizes take K, M or G, powers of 1024; --x=v and --x v are the same):
  --budget=SIZE         memory that the pool may use, everything counted          [1G]
  --chunk-size=SIZE     the unit of memory, a power of two                        [64K]
  --part-size=SIZE      the most that one load or flush covers, in whole chunks;
                        0: one chunk                                              [4M]
  --storage=KIND        where chunk memory comes from: arena or heap              [arena]
  --prefault            touch memory when it is committed, not when it is used    [off]
  --read-path=PATH      how reads are answered: before, after, copy or gather     [gather]
  --direct-io           keep no file bytes in the kernel's page cache; shared
                        mappings are then not possible                            [off]
  --keep-cache          keep the kernel's page cache of a file across opens       [off]
  --read-ahead=SIZE     the most to load ahead of a program that reads in order;
                        the kernel reads ahead itself, but for --direct-io        [0: nothing]
  --threads=N           threads that serve requests                               [one a CPU, at least 2]
  --receive=KIND        how what is written gets into the pool: in-place, received
                        there, which takes a mebibyte of the budget a thread and
                        a quarter of it at most; or copy                          [in-place]
  --one-thread-a-cpu    each thread stays on a processor; not with --receive=copy [off]
  --loaders=N           threads that load from SOURCE and store to it             [4]
  --cpu=LIST            run on these CPUs only, as in 0,2-3                        [all]
  --foreground          stay in the foreground and say errors on standard error   [off: daemon, syslog]
  --stats               say counters, lines of `name value`, on SIGUSR1 and at exit [off]
  --rescue=DIR          save there, by path, what could not be stored at unmount  [none]
  --help, --version

signals:
  SIGTERM, SIGINT       store everything, unmount, exit
  SIGUSR1               say the counters (with --stats)
  SIGUSR2               store everything, stay mounted
  SIGKILL               loses what was not stored; if the process does not end, `umount -f MOUNTPOINT` ends it

exit status: 0 all is stored (or, as a daemon, mounted); 1 a flush failed, or the mount; 2 wrong arguments, a missing
directory, a budget below the pool's minimum, or a SOURCE that another tarnfs holds.
)";

using Value = std::string_view;

bool set_size(std::uint64_t& size, Value text) {
  const auto parsed = parse_size(text);
  if (parsed) size = *parsed;
  return parsed.has_value();
}

bool set_count(unsigned& count, Value text) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), count);
  return error == std::errc{} && end == text.data() + text.size() && count >= 1 && count <= 1024;
}

template <class T, std::size_t N>
bool set_choice(T& choice, Value text, const std::array<std::pair<Value, T>, N>& choices) {
  for (const auto& [name, value] : choices) {
    if (name != text) continue;
    choice = value;
    return true;
  }
  return false;
}

// What an argument has of line breaks and the like does not reach a terminal or a log.
std::string in_one_line(Value text) {
  std::string shown{text};
  for (char& c : shown) {
    if (static_cast<unsigned char>(c) < ' ' || c == '\x7f') c = '?';
  }
  return shown;
}

struct Option {
  Value name;
  bool takes_value;
  bool (*set)(Options& options, Value value);  ///< answers whether the value was one
};

constexpr std::array options_known{
    Option{"budget", true, [](Options& o, Value v) { return set_size(o.content.budget_bytes, v); }},
    Option{"chunk-size", true, [](Options& o, Value v) { return set_size(o.content.chunk_bytes, v); }},
    Option{"part-size", true, [](Options& o, Value v) { return set_size(o.content.part_bytes, v); }},
    Option{"storage", true,
           [](Options& o, Value v) {
             return set_choice(o.content.storage, v,
                               std::array{std::pair{Value{"arena"}, StorageKind::arena},
                                          std::pair{Value{"heap"}, StorageKind::heap}});
           }},
    Option{"prefault", false, [](Options& o, Value) { return o.content.prefault = true; }},
    Option{"read-path", true,
           [](Options& o, Value v) {
             return set_choice(
                 o.content.read_path, v,
                 std::array{std::pair{Value{"before"}, ReadPath::before}, std::pair{Value{"after"}, ReadPath::after},
                            std::pair{Value{"copy"}, ReadPath::copy}, std::pair{Value{"gather"}, ReadPath::gather}});
           }},
    Option{"direct-io", false, [](Options& o, Value) { return o.direct_io = true; }},
    Option{"keep-cache", false, [](Options& o, Value) { return o.keep_cache = true; }},
    Option{"read-ahead", true, [](Options& o, Value v) { return set_size(o.read_ahead_bytes, v); }},
    Option{"threads", true, [](Options& o, Value v) { return set_count(o.threads, v); }},
    Option{"receive", true,
           [](Options& o, Value v) {
             return set_choice(o.receive_in_place, v,
                               std::array{std::pair{Value{"in-place"}, true}, std::pair{Value{"copy"}, false}});
           }},
    Option{"one-thread-a-cpu", false, [](Options& o, Value) { return o.one_thread_a_cpu = true; }},
    Option{"loaders", true, [](Options& o, Value v) { return set_count(o.content.loaders, v); }},
    Option{"cpu", true,
           [](Options& o, Value v) {
             auto cpus = parse_cpu_list(v);
             if (!cpus) return false;
             o.cpus = std::move(*cpus);
             return true;
           }},
    Option{"foreground", false, [](Options& o, Value) { return o.foreground = true; }},
    Option{"stats", false, [](Options& o, Value) { return o.stats = true; }},
    Option{"rescue", true,
           [](Options& o, Value v) {
             o.rescue = v;
             return !v.empty();
           }},
};

}  // namespace

std::optional<std::uint64_t> parse_size(std::string_view text) {
  std::uint64_t size = 0;
  const auto* const end = text.data() + text.size();
  const auto [unit, error] = std::from_chars(text.data(), end, size);
  if (error != std::errc{}) return std::nullopt;
  unsigned shift = 0;
  if (unit != end) {
    const auto at = std::string_view{"KMG"}.find(*unit);
    if (at == std::string_view::npos || unit + 1 != end) return std::nullopt;
    shift = 10 * (static_cast<unsigned>(at) + 1);
  }
  if (size > (static_cast<std::uint64_t>(INT64_MAX) >> shift)) return std::nullopt;
  return size << shift;
}

std::optional<std::vector<int>> parse_cpu_list(std::string_view text) {
  std::vector<int> cpus;
  const auto* at = text.data();
  const auto* const end = at + text.size();
  const auto number = [&]() -> std::optional<int> {
    unsigned cpu = 0;  // not an int, which may be -0
    const auto [next, error] = std::from_chars(at, end, cpu);
    if (error != std::errc{} || cpu >= CPU_SETSIZE) return std::nullopt;
    at = next;
    return static_cast<int>(cpu);
  };
  for (;;) {
    const auto first = number();
    if (!first) return std::nullopt;
    auto last = first;
    if (at != end && *at == '-') {
      ++at;
      last = number();
      if (!last || *last < *first) return std::nullopt;
    }
    for (int cpu = *first; cpu <= *last; ++cpu) cpus.push_back(cpu);
    if (at == end) return cpus;
    if (*at++ != ',') return std::nullopt;
  }
}

std::variant<Options, UsageError, Information> parse_options(std::span<const char* const> arguments) {
  Options options;
  std::vector<std::string_view> operands;
  bool operands_only = false;
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    const std::string_view argument = arguments[i];
    if (operands_only || argument.size() < 2 || argument[0] != '-') {
      operands.push_back(argument);
      continue;
    }
    if (argument == "--") {
      operands_only = true;
      continue;
    }
    if (argument == "--help" || argument == "-h") return Information{std::string{help_text}};
    if (argument == "--version") return Information{"tarnfs 0.1.0\n"};

    const auto equals = argument.find('=');
    const auto name = argument.substr(0, equals);
    const Option* known = nullptr;
    for (const auto& option : options_known) {
      if (name.starts_with("--") && name.substr(2) == option.name) known = &option;
    }
    if (!known) return UsageError{"unknown option " + in_one_line(name)};
    std::string_view value;
    if (known->takes_value) {
      if (equals != std::string_view::npos) {
        value = argument.substr(equals + 1);
      } else if (++i < arguments.size()) {
        value = arguments[i];
      } else {
        return UsageError{std::string{name} + " needs a value"};
      }
    } else if (equals != std::string_view::npos) {
      return UsageError{std::string{name} + " takes no value"};
    }
    if (!known->set(options, value)) {
      return UsageError{std::string{name} + " does not take '" + in_one_line(value) + "'"};
    }
  }
  if (options.one_thread_a_cpu && !options.receive_in_place) {
    return UsageError{"--one-thread-a-cpu does not go with --receive=copy"};
  }
  if (operands.size() != 2) return UsageError{"SOURCE and MOUNTPOINT are needed, and nothing else (see --help)"};
  options.source = operands[0];
  options.mountpoint = operands[1];
  return options;
}

}  // namespace tarnfs
