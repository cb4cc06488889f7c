// SPDX-License-Identifier: MIT
// The reader and writer of what is measured on mounts, over files of any kind. It takes one command a line on standard
// input and answers each with one line of JSON, so that open files and buffers outlive a command: a file stays dirty in
// the filesystem for as long as nobody closes it, and no timed section faults a buffer in or makes up data. mounted.py
// drives it.
//
// Cost is CPU time: this process by its own CPU clock, the filesystem's process by that process's CPU clock (which
// counts threads that have ended too, in nanoseconds), the whole machine by /proc/stat.
#pragma once

#include <sched.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <fstream>
#include <functional>
#include <iostream>
#include <iterator>
#include <map>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "warm_buffer.hpp"

namespace tarn_bench {

constexpr std::size_t block_bytes_max = std::size_t{4} << 20;
constexpr std::size_t pattern_bytes = std::size_t{16} << 20;
constexpr std::uint64_t small_file_bytes_max = 16384;

[[noreturn]] inline void fail(const std::string& what) {
  throw std::system_error(errno, std::generic_category(), what);
}

/// An open file. Errors are thrown.
class File {
 public:
  File() = default;
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  virtual ~File() = default;
  /// Shorter than asked only at end of file.
  virtual std::size_t read(std::byte* into, std::size_t size, std::uint64_t offset) = 0;
  virtual void write(const std::byte* from, std::size_t size, std::uint64_t offset) = 0;
  virtual void append(const std::byte* from, std::size_t size) = 0;
  virtual void truncate(std::uint64_t size) = 0;
  virtual std::uint64_t size() = 0;
  virtual void drop_pages() {}
  /// Where a filesystem tells that it could not store what was written.
  virtual void close() = 0;
};

enum class OpenMode { read, read_write, create, append };

using Opener = std::function<std::unique_ptr<File>(const std::string& path, OpenMode mode)>;

inline std::uint64_t mix(std::uint64_t x) {
  x += 0x9E3779B97F4A7C15u;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

/// What a block that is written holds depends on its offset and the seed alone: the same commands on two files make
/// them equal.
class Pattern {
 public:
  Pattern() : buffer_(pattern_bytes + block_bytes_max) {
    for (std::size_t at = 0; at < pattern_bytes + block_bytes_max; at += sizeof(std::uint64_t)) {
      const std::uint64_t word = mix(at);
      std::memcpy(buffer_.data() + at, &word, sizeof word);
    }
  }
  const std::byte* block(std::uint64_t offset, std::uint64_t seed) const {
    return buffer_.data() + mix(offset ^ mix(seed)) % (pattern_bytes / 64) * 64;
  }

 private:
  WarmBuffer buffer_;
};

struct Usage {
  std::uint64_t wall_ns, reader_ns, daemon_ns, reader_faults, daemon_faults, machine_ticks;
};

class Meter {
 public:
  /// 0: there is no filesystem process to watch.
  void watch(int pid) {
    daemon_ = pid;
    if (pid == 0) return;
    if (const int error = clock_getcpuclockid(pid, &daemon_clock_); error != 0) {
      errno = error;
      fail("clock_getcpuclockid");
    }
  }

  Usage now() const {
    Usage usage{};
    usage.machine_ticks = machine_ticks();
    usage.daemon_faults = daemon_ == 0 ? 0 : daemon_minor_faults();
    rusage own{};
    getrusage(RUSAGE_SELF, &own);
    usage.reader_faults = static_cast<std::uint64_t>(own.ru_minflt);
    usage.daemon_ns = daemon_ == 0 ? 0 : nanoseconds(daemon_clock_);
    usage.wall_ns = nanoseconds(CLOCK_MONOTONIC);
    usage.reader_ns = nanoseconds(CLOCK_PROCESS_CPUTIME_ID);
    return usage;
  }

 private:
  static std::uint64_t nanoseconds(clockid_t clock) {
    timespec time{};
    if (clock_gettime(clock, &time) != 0) fail("clock_gettime");
    return static_cast<std::uint64_t>(time.tv_sec) * 1'000'000'000u + static_cast<std::uint64_t>(time.tv_nsec);
  }

  std::uint64_t daemon_minor_faults() const {
    std::ifstream stat("/proc/" + std::to_string(daemon_) + "/stat");
    std::string line;
    std::getline(stat, line);
    std::istringstream fields(line.substr(line.rfind(')') + 2));  // the name before it may hold spaces
    const std::vector<std::string> words{std::istream_iterator<std::string>(fields), {}};
    return std::stoull(words.at(7));
  }

  // Every state but idle and waiting for a disk.
  static std::uint64_t machine_ticks() {
    std::ifstream stat("/proc/stat");
    std::string name;
    std::uint64_t user = 0, nice = 0, system = 0, idle = 0, iowait = 0, irq = 0, softirq = 0;
    stat >> name >> user >> nice >> system >> idle >> iowait >> irq >> softirq;
    return user + nice + system + irq + softirq;
  }

  int daemon_ = 0;
  clockid_t daemon_clock_{};
};

inline std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += static_cast<unsigned char>(c) < ' ' ? ' ' : c;
  }
  return out + '"';
}

/// Words of one command line; a missing one is an error.
class Words {
 public:
  explicit Words(const std::string& line) : in_(line) { in_.exceptions(std::ios::failbit); }
  std::string word() {
    std::string word;
    in_ >> word;
    return word;
  }
  std::uint64_t number() {
    std::uint64_t number = 0;
    in_ >> number;
    return number;
  }

 private:
  std::istringstream in_;
};

class Session {
 public:
  using Command = std::function<std::string(Words&)>;

  explicit Session(Opener opener) : opener_(std::move(opener)), buffer_(block_bytes_max), other_(block_bytes_max) {
    commands_["open"] = [this](Words& w) { return open(w); };
    commands_["close"] = [this](Words& w) { return close(w.word()); };
    commands_["pin"] = [](Words& w) { return pin(w.word()); };
    commands_["watch"] = [this](Words& w) { return meter_.watch(static_cast<int>(w.number())), ""; };
    commands_["truncate"] = [this](Words& w) {
      File& target = file(w.word());
      return target.truncate(w.number()), "";
    };
    commands_["drop_pages"] = [this](Words& w) { return file(w.word()).drop_pages(), ""; };
    commands_["read"] = [this](Words& w) { return read(w); };
    commands_["write"] = [this](Words& w) { return write(w); };
    commands_["append"] = [this](Words& w) { return append(w); };
    commands_["mixed"] = [this](Words& w) { return mixed(w); };
    commands_["compare"] = [this](Words& w) { return compare(w); };
    commands_["small_write"] = [this](Words& w) { return small_write(w); };
    commands_["small_read"] = [this](Words& w) { return small_read(w); };
  }

  void add(const std::string& verb, Command command) { commands_[verb] = std::move(command); }

  void close_all() { files_.clear(); }

  /// Answers commands until the end of standard input.
  void serve() {
    for (std::string line; std::getline(std::cin, line);) {
      std::string answer;
      try {
        Words words(line);
        answer = commands_.at(words.word())(words);
      } catch (const std::exception& e) {
        answer = "\"error\": " + quoted(line + ": " + e.what());
      }
      std::cout << "{" << answer << "}" << std::endl;
    }
  }

 private:
  File& file(const std::string& slot) const {
    const auto found = files_.find(slot);
    if (found == files_.end()) throw std::invalid_argument("no such file is open");
    return *found->second;
  }

  // SLOT PATH MODE
  std::string open(Words& words) {
    static const std::map<std::string, OpenMode> modes = {{"r", OpenMode::read},
                                                          {"rw", OpenMode::read_write},
                                                          {"create", OpenMode::create},
                                                          {"append", OpenMode::append}};
    const std::string slot = words.word();
    const std::string path = words.word();
    if (files_.count(slot) != 0) throw std::invalid_argument("the slot is taken");
    files_[slot] = opener_(path, modes.at(words.word()));
    return "";
  }

  // SLOT: a section that moves no bytes, since a filesystem may store here what it has held.
  std::string close(const std::string& slot) {
    File& closed = file(slot);
    const auto answer = timed([&] { return closed.close(), std::uint64_t{0}; });
    files_.erase(slot);
    return answer;
  }

  // A CPU's number, or "any".
  static std::string pin(const std::string& cpu) {
    cpu_set_t set;
    CPU_ZERO(&set);
    for (int i = 0; i < CPU_SETSIZE; ++i) {
      if (cpu == "any" || i == std::stoi(cpu)) CPU_SET(static_cast<std::size_t>(i), &set);
    }
    if (sched_setaffinity(0, sizeof set, &set) != 0) fail("sched_setaffinity");
    return "";
  }

  template <class Section>
  std::string timed(Section section) const {
    const Usage before = meter_.now();
    const std::uint64_t moved_bytes = section();
    const Usage after = meter_.now();
    std::ostringstream out;
    out << "\"bytes\": " << moved_bytes << ", \"wall_ns\": " << after.wall_ns - before.wall_ns
        << ", \"reader_ns\": " << after.reader_ns - before.reader_ns
        << ", \"daemon_ns\": " << after.daemon_ns - before.daemon_ns
        << ", \"reader_faults\": " << after.reader_faults - before.reader_faults
        << ", \"daemon_faults\": " << after.daemon_faults - before.daemon_faults
        << ", \"machine_ns\": " << (after.machine_ticks - before.machine_ticks) * (1'000'000'000u / tick_hz());
    return out.str();
  }

  static std::uint64_t tick_hz() { return static_cast<std::uint64_t>(sysconf(_SC_CLK_TCK)); }

  static std::size_t clip(std::uint64_t block, std::uint64_t left) {
    return static_cast<std::size_t>(std::min({block, left, std::uint64_t{block_bytes_max}}));
  }

  // A file that is shorter than the range is an error: a timed read of nothing would look fast.
  void read_all(File& from, std::size_t size, std::uint64_t offset) {
    if (from.read(buffer_.data(), size, offset) != size) throw std::runtime_error("a read was short");
  }

  // SLOT SIZE BLOCK: from the start of the file.
  std::string read(Words& words) {
    File& from = file(words.word());
    const std::uint64_t size = words.number(), block = words.number();
    return timed([&] {
      for (std::uint64_t done = 0; done < size;) {
        const std::size_t ask = clip(block, size - done);
        read_all(from, ask, done);
        done += ask;
      }
      return size;
    });
  }

  // SLOT OFFSET SIZE BLOCK SEED
  std::string write(Words& words) {
    File& to = file(words.word());
    const std::uint64_t offset = words.number(), size = words.number(), block = words.number(), seed = words.number();
    return timed([&] {
      for (std::uint64_t done = 0; done < size;) {
        const std::size_t put = clip(block, size - done);
        to.write(pattern_.block(offset + done, seed), put, offset + done);
        done += put;
      }
      return size;
    });
  }

  // SLOT SIZE BLOCK SEED
  std::string append(Words& words) {
    File& to = file(words.word());
    const std::uint64_t size = words.number(), block = words.number(), seed = words.number();
    return timed([&] {
      for (std::uint64_t done = 0; done < size;) {
        const std::size_t put = clip(block, size - done);
        to.append(pattern_.block(done, seed), put);
        done += put;
      }
      return size;
    });
  }

  // SLOT SIZE BLOCK SEED: writes and reads in turn, anywhere in the file, sizes from one byte to a block.
  std::string mixed(Words& words) {
    File& target = file(words.word());
    const std::uint64_t size = words.number(), block = words.number(), seed = words.number();
    const std::uint64_t file_bytes = target.size();
    return timed([&] {
      std::uint64_t done = 0;
      for (std::uint64_t turn = 0; done < size; ++turn) {
        const std::uint64_t draw = mix(seed * 1'000'003u + turn);
        const std::uint64_t offset = mix(draw) % file_bytes;
        const std::size_t ask = clip(1 + draw % block, file_bytes - offset);
        if (turn % 2 == 0) {
          target.write(pattern_.block(offset, draw), ask, offset);
        } else {
          read_all(target, ask, offset);
        }
        done += ask;
      }
      return done;
    });
  }

  // SLOT SLOT BLOCK: every byte of both and both sizes. "differs_at" is the first offset that differs, -1 if none does.
  std::string compare(Words& words) {
    File& a = file(words.word());
    File& b = file(words.word());
    const std::size_t block = clip(words.number(), block_bytes_max);
    for (std::uint64_t offset = 0;; offset += block) {
      const std::size_t got_a = a.read(buffer_.data(), block, offset);
      const std::size_t got_b = b.read(other_.data(), block, offset);
      const std::size_t both = std::min(got_a, got_b);
      const std::byte* const from = buffer_.data();
      if (got_a != got_b || std::memcmp(from, other_.data(), both) != 0) {
        const auto same = std::mismatch(from, from + both, other_.data()).first - from;
        return "\"differs_at\": " + std::to_string(offset + static_cast<std::uint64_t>(same));
      }
      if (got_a < block) return "\"differs_at\": -1, \"bytes\": " + std::to_string(offset + got_a);
    }
  }

  static std::size_t small_bytes(std::uint64_t index, std::uint64_t seed) {
    return index % 50 == 0 ? 0 : static_cast<std::size_t>(mix(seed + index) % small_file_bytes_max);
  }

  // FOLDER COUNT SEED: files of up to 16 KiB, some empty, each opened, written whole and closed.
  std::string small_write(Words& words) {
    const std::string folder = words.word();
    const std::uint64_t count = words.number(), seed = words.number();
    return timed([&] {
      std::uint64_t done = 0;
      for (std::uint64_t i = 0; i < count; ++i) {
        const std::size_t size = small_bytes(i, seed);
        const auto to = opener_(folder + "/" + std::to_string(i), OpenMode::create);
        to->write(pattern_.block(i, seed), size, 0);
        to->close();
        done += size;
      }
      return done;
    });
  }

  // FOLDER COUNT SEED: what small_write wrote, each opened, read whole, compared and closed.
  std::string small_read(Words& words) {
    const std::string folder = words.word();
    const std::uint64_t count = words.number(), seed = words.number();
    return timed([&] {
      std::uint64_t done = 0;
      for (std::uint64_t i = 0; i < count; ++i) {
        const std::size_t size = small_bytes(i, seed);
        const auto from = opener_(folder + "/" + std::to_string(i), OpenMode::read);
        const std::size_t got = from->read(buffer_.data(), small_file_bytes_max, 0);
        if (got != size || std::memcmp(buffer_.data(), pattern_.block(i, seed), size) != 0) {
          throw std::runtime_error("small file " + std::to_string(i) + " is not what was written");
        }
        from->close();
        done += size;
      }
      return done;
    });
  }

  Opener opener_;
  WarmBuffer buffer_;
  WarmBuffer other_;
  Pattern pattern_;
  Meter meter_;
  std::map<std::string, Command> commands_;
  std::map<std::string, std::unique_ptr<File>> files_;
};

}  // namespace tarn_bench
