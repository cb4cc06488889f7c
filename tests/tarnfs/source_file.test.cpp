// SPDX-License-Identifier: MIT
// Compile: alone
// What tarnfs does to a file of SOURCE, without a mount.
#include "examples/tarnfs/source_file.hpp"

#include <fcntl.h>
#include <sys/fsuid.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <thread>

#include "support/catch.hpp"

using tarnfs::Fd;
using tarnfs::SourceFile;
using tarnfs::SourceTree;

namespace {

/// A directory of one file of ten bytes, gone at the end.
struct Source {
  Source() : directory{made()}, tree{opened(directory), 10}, file{tree, opened_file(directory + "/file")} {}
  ~Source() { std::filesystem::remove_all(directory); }

  static std::string made() {
    auto name = (std::filesystem::temp_directory_path() / "tarnfs.XXXXXX").string();
    REQUIRE(::mkdtemp(name.data()) != nullptr);
    return name;
  }
  static Fd opened(const std::string& path) { return Fd{::open(path.c_str(), O_PATH | O_CLOEXEC)}; }
  static Fd opened_file(const std::string& path) {
    const Fd written{::open(path.c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0644)};
    REQUIRE(::write(written.get(), "0123456789", 10) == 10);
    return opened(path);
  }
  [[nodiscard]] mode_t mode() const {
    struct stat found {};
    REQUIRE(::stat((directory + "/file").c_str(), &found) == 0);
    return found.st_mode & 07777;
  }
  void change_mode(mode_t to) const { REQUIRE(::chmod((directory + "/file").c_str(), to) == 0); }

  const std::string directory;
  SourceTree tree;
  SourceFile file;
};

}  // namespace

TEST_CASE("a mode that is set while bytes are stored stays, whichever comes first", "[tarnfs]") {
  Source source;
  int wrong = 0;
  for (mode_t round = 0; round < 300; ++round) {
    const auto mode = 0600 + round % 64;
    std::thread sets{[&] {
      const auto held = source.file.hold_privileges();
      const SourceFile::OwnChange change{source.file};
      source.change_mode(mode);
    }};
    {
      SourceFile::Storing storing{source.file};
      wrong += storing.resize(5 + round % 2) != 0 ? 1 : 0;
      wrong += storing.finish() != 0 ? 1 : 0;
    }
    sets.join();
    wrong += source.mode() != mode ? 1 : 0;
  }
  CHECK(wrong == 0);
}

TEST_CASE("who cannot begin to store leaves the mode as it is", "[tarnfs]") {
  Source source;
  source.change_mode(0444);
  // Root may write what nobody may: so as another, whose file it is.
  const bool as_another = ::geteuid() == 0;
  constexpr uid_t another = 65534;
  if (as_another) {
    REQUIRE(::chown((source.directory + "/file").c_str(), another, another) == 0);
    ::setfsuid(another);
  }
  int stored = 0, finished = 0;
  {
    SourceFile::Storing storing{source.file};
    stored = storing.resize(5);
    finished = storing.finish();
  }
  if (as_another) ::setfsuid(0);
  CHECK(stored == EACCES);
  CHECK(finished == EACCES);
  CHECK(source.mode() == 0444);
}

TEST_CASE("a mode that nobody sets while bytes are stored is as it was, suid included", "[tarnfs]") {
  Source source;
  source.change_mode(04755);
  SourceFile::Storing storing{source.file};
  { const SourceFile::OwnChange of_its_times{source.file}; }
  source.change_mode(0755);  // as a write without the right to keep suid does
  REQUIRE(storing.resize(5) == 0);
  CHECK(storing.finish() == 0);
  CHECK(source.mode() == 04755);
}
