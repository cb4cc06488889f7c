// SPDX-License-Identifier: MIT
// What tarnfs does to a file of SOURCE, without a mount.
#include "examples/tarnfs/source_file.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <optional>
#include <string>

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

TEST_CASE("a mode that is set while bytes are stored stays, whenever that began", "[tarnfs]") {
  enum class Begins { before_the_store, during_the_store };
  const auto begins = GENERATE(Begins::before_the_store, Begins::during_the_store);
  Source source;
  std::optional<SourceFile::OwnChange> change;
  if (begins == Begins::before_the_store) change.emplace(source.file);
  SourceFile::Storing storing{source.file};
  if (begins == Begins::during_the_store) change.emplace(source.file);
  source.change_mode(0317);
  change.reset();
  REQUIRE(storing.resize(5) == 0);
  CHECK(storing.finish() == 0);
  CHECK(source.mode() == 0317);
}

TEST_CASE("a mode that nobody sets while bytes are stored is as it was, suid included", "[tarnfs]") {
  Source source;
  source.change_mode(04755);
  { const SourceFile::OwnChange over{source.file}; }
  SourceFile::Storing storing{source.file};
  source.change_mode(0755);  // as a write without the right to keep suid does
  REQUIRE(storing.resize(5) == 0);
  CHECK(storing.finish() == 0);
  CHECK(source.mode() == 04755);
}
