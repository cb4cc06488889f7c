// SPDX-License-Identifier: MIT

// Random operations on a few files of a directory, each of which is compared with a flat array. One seed is all that a
// run draws from, so a run can be had again; and one that goes wrong leaves its operations, to be done again as they are.

#include <algorithm>
#include <array>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <memory>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "arguments.hpp"
#include "checked_file.hpp"
#include "operation.hpp"

namespace tarn_test {
namespace {

constexpr auto usage = R"(usage: torture_bytes --directory=DIR [--source=DIR] [--name=value ...]

  --directory=DIR     where the files are made: of a mounted filesystem, say
  --source=DIR        the directory behind it, to see what was stored                 [none]
  --seed=N            what is drawn                                                   [1]
  --steps=N           how many operations                                             [1000]
  --files=N           how many files                                                  [3]
  --max-bytes=N       the most that a file has                                        [65536]
  --chunk-bytes=N, --part-bytes=N   what offsets and sizes are drawn near             [4096, 65536]
  --refused=A,B       kinds that the filesystem need not offer; all others it has to
  --forget-every=N    has the kernel forget all it caches, once in so many steps; needs root   [0: never]
  --log=FILE          where the operations are written if something goes wrong        [torture.log]
  --replay=FILE       does the operations of such a file, instead of drawing any

Prints `KIND DONE REFUSED` for each kind of operation. Exit code: 0 all was as it should be; 1 it was not; 2 wrong arguments.
)";

struct Counts {
  std::uint64_t done = 0, refused = 0;
};

class Run {
 public:
  explicit Run(Arguments& arguments)
      : seed_{arguments.number("seed", 1)},
        steps_{arguments.number("steps", 1000)},
        shape_{static_cast<std::size_t>(arguments.number("files", 3)), arguments.number("max-bytes", 65536),
               arguments.number("chunk-bytes", 4096), arguments.number("part-bytes", 65536)},
        forget_every_{std::min(arguments.number("forget-every", 0), steps_)},
        log_{arguments.text("log", "torture.log")},
        replayed_{arguments.text("replay")} {
    const auto directory = arguments.needed("directory"), source = arguments.text("source");
    std::istringstream refused{arguments.text("refused")};
    for (std::string name; std::getline(refused, name, ',');) may_refuse_.insert(kind_named(name));
    arguments.refuse_others();
    if (!replayed_.empty()) load_replay();
    for (std::size_t i = 0; i < shape_.files; ++i) {
      const auto name = "/f" + std::to_string(i);
      files_.push_back(std::make_unique<CheckedFile>(directory + name, source.empty() ? source : source + name));
    }
  }

  int run() {
    // What a page past the end of a file is answered with; so it comes in the middle of an operation, and is its fault.
    running() = this;
    std::signal(SIGBUS, [](int) {
      running()->tell(Wrong{"SIGBUS: a page of the map could not be had"});
      std::_Exit(exit_wrong);
    });
    try {
      replayed_.empty() ? draw_all() : replay_all();
      step_ = steps_;
      compare_at_the_end();
      if (replayed_.empty()) expect_every_kind();
    } catch (const Wrong& wrong) {
      tell(wrong);
      return exit_wrong;
    }
    for (const auto& row : kinds) {
      const auto& n = counts_[static_cast<std::size_t>(row.kind)];
      std::cout << row.name << ' ' << n.done << ' ' << n.refused << '\n';
    }
    return 0;
  }

 private:
  static Run*& running() {
    static Run* run = nullptr;
    return run;
  }

  void draw_all() {
    OperationDraw draw{seed_, shape_};
    std::vector<std::uint64_t> sizes(files_.size());
    for (step_ = 0; step_ < steps_; ++step_) {
      for (std::size_t i = 0; i < files_.size(); ++i) sizes[i] = files_[i]->size_bytes();
      auto op = draw.next(step_, sizes);
      if (forget_every_ != 0 && step_ % forget_every_ == forget_every_ / 2) op.kind = Kind::forget_everything;
      operations_.push_back(op);
      apply(op);
    }
  }
  void replay_all() {
    steps_ = operations_.size();
    for (step_ = 0; step_ < steps_; ++step_) apply(operations_[step_]);
  }
  void apply(const Operation& op) {
    auto& n = counts_[static_cast<std::size_t>(op.kind)];
    if (files_.at(op.file_index)->apply(op, *files_[(op.file_index + 1) % files_.size()])) {
      ++n.done;
    } else if (may_refuse_.count(op.kind) != 0) {
      ++n.refused;
    } else {
      throw Wrong{"the filesystem does not offer it"};
    }
  }

  void compare_at_the_end() {
    for (auto& file : files_) file->compare();
    // Of the files, every second is synced and every other one closed: both promise that all is stored.
    for (std::size_t i = 0; i < files_.size(); ++i) {
      i % 2 == 0 ? files_[i]->sync() : files_[i]->close_all();
      files_[i]->compare_stored();
      files_[i]->close_all();
      files_[i]->open_again();
      files_[i]->compare();
    }
  }
  void expect_every_kind() const {
    for (const auto& row : kinds) {
      const auto& n = counts_[static_cast<std::size_t>(row.kind)];
      if (row.kind == Kind::forget_everything && forget_every_ == 0) continue;
      if (n.done == 0 && n.refused == 0) throw Wrong{"never done: " + std::string{row.name}};
    }
  }

  void load_replay() {
    std::ifstream in{replayed_};
    std::string line;
    std::getline(in, line);  // "files N seed N"
    std::istringstream first{line};
    std::string word;
    if (!(first >> word >> shape_.files >> word >> seed_)) throw std::invalid_argument{"no log: " + replayed_};
    while (std::getline(in, line)) operations_.push_back(Operation::parse(line));
  }
  void tell(const Wrong& wrong) const {
    const bool drawn = step_ < operations_.size();
    std::cerr << "seed " << seed_ << ", step " << step_ << " (" << (drawn ? operations_[step_].text() : "at the end")
              << ")\n  " << wrong.what() << '\n';
    if (drawn) {
      std::cerr << "  the last operations of the file:\n";
      std::vector<std::string> lines;
      for (auto i = step_ + 1; i-- > 0 && lines.size() < 25;) {
        if (operations_[i].file_index == operations_[step_].file_index) lines.push_back(operations_[i].text());
      }
      for (auto i = lines.size(); i-- > 0;) std::cerr << "    " << lines[i] << '\n';
    }
    if (!replayed_.empty()) return;
    std::ofstream out{log_};
    out << "files " << shape_.files << " seed " << seed_ << '\n';
    for (const auto& op : operations_) out << op.text() << '\n';
    std::cerr << "  to do the same again: --replay=" << log_ << '\n';
  }

  std::uint64_t seed_, steps_;
  Shape shape_;
  std::uint64_t forget_every_;
  std::string log_, replayed_;
  std::set<Kind> may_refuse_;
  std::vector<std::unique_ptr<CheckedFile>> files_;
  std::vector<Operation> operations_;
  std::array<Counts, kinds.size()> counts_{};
  std::uint64_t step_ = 0;
};

}  // namespace
}  // namespace tarn_test

int main(int count, char** all) { return tarn_test::run_of<tarn_test::Run>(count, all, tarn_test::usage); }
