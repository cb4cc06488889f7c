// SPDX-License-Identifier: MIT

// Random operations on names, and on files that lose their names while they are open, in a mount and in a plain
// directory: both have to answer the same, errno by errno. Whether both hold the same at the end is for the caller to see.

#include <array>
#include <cstdint>
#include <deque>
#include <fstream>
#include <iostream>
#include <string>
#include <vector>

#include "arguments.hpp"
#include "names_side.hpp"
#include "support/model_random.hpp"

namespace tarn_test {
namespace {

constexpr auto usage = R"(usage: torture_names --directory=DIR --plain=DIR [--name=value ...]

  --directory=DIR     of a mounted filesystem
  --plain=DIR         of one that is known to be right; both are empty
  --seed=N            what is drawn                                                   [1]
  --steps=N           how many operations                                             [1000]
  --log=FILE          where the operations are written if something goes wrong        [torture.log]
  --replay=FILE       does the operations of such a file, instead of drawing any

Prints `KIND DONE REFUSED SUCCEEDED` for each kind of operation: done is all that both were asked and answered alike, also
with an error. Exit code: 0 all was as it should be; 1 it was not; 2 wrong arguments.
)";

struct Counts {
  std::uint64_t answered = 0, succeeded = 0, not_offered = 0;
};

class Run {
 public:
  explicit Run(Arguments& arguments)
      : seed_{arguments.number("seed", 1)},
        steps_{arguments.number("steps", 1000)},
        log_{arguments.text("log", "torture.log")},
        replayed_{arguments.text("replay")},
        mount_{arguments.needed("directory")},
        plain_{arguments.needed("plain")},
        random_{seed_} {
    arguments.refuse_others();
  }

  int run() {
    try {
      if (replayed_.empty()) {
        for (std::uint64_t step = 0; step < steps_; ++step) apply(draw(step));
      } else {
        std::ifstream in{replayed_};
        for (std::string line; std::getline(in, line);) apply(NameOperation::parse(line));
      }
    } catch (const Wrong& wrong) {
      tell(wrong);
      return exit_wrong;
    }
    if (replayed_.empty() && !did_every_kind()) return exit_wrong;
    for (const auto& row : name_kinds) {
      const auto& n = counts_[static_cast<std::size_t>(row.kind)];
      std::cout << row.name << ' ' << n.answered << ' ' << n.not_offered << ' ' << n.succeeded << '\n';
    }
    return 0;
  }

 private:
  /// A path that may lead anywhere: in the root, in a directory that came to be of late, or deeper.
  std::string path() {
    std::string drawn;
    if (!directories_.empty() && random_.one_in(2)) {
      drawn = directories_[random_.below(directories_.size())] + '/';
    }
    do {
      drawn += static_cast<char>('a' + random_.below(26));
      drawn += static_cast<char>('a' + random_.below(4));
      drawn += '/';
    } while (drawn.size() < 9 && random_.one_in(5));
    drawn.pop_back();
    return drawn;
  }
  /// One where something came to be of late, or any.
  std::string used_path() {
    return recent_.empty() || random_.one_in(3) ? path() : recent_[random_.below(recent_.size())];
  }
  NameOperation draw(std::uint64_t step) {
    NameOperation op;
    std::uint64_t sum = 0;
    for (const auto& row : name_kinds) sum += row.weight;
    auto at = random_.below(sum);
    std::size_t i = 0;
    for (; at >= name_kinds[i].weight; ++i) at -= name_kinds[i].weight;
    op.kind = name_kinds[i].kind;
    const bool makes = op.kind == NameKind::create_new || op.kind == NameKind::make_directory;
    op.a = makes ? path() : used_path();
    op.b = random_.one_in(4) ? used_path() : path();
    op.slot = static_cast<std::size_t>(random_.below(Side::slots));
    op.offset = random_.one_in(2) ? 0 : random_.below(200'000);
    op.size_bytes = random_.below(random_.one_in(4) ? 150'000 : 6000);
    op.number = step;
    if (op.kind == NameKind::list && random_.one_in(3)) op.a = ".";
    if (op.kind == NameKind::read_link && random_.one_in(2)) op.a = link_;
    if (op.kind == NameKind::remove_directory && !directories_.empty()) op.a = directories_.back();
    return op;
  }

  void apply(const NameOperation& op) {
    operations_.push_back(op);
    auto& n = counts_[static_cast<std::size_t>(op.kind)];
    const auto seen = mount_.apply(op);
    if (const int error = row_of(op.kind).not_offered) {
      if (seen != errno_name(error)) throw Wrong{"the mount says " + seen + ", not " + errno_name(error)};
      ++n.not_offered;
      return;
    }
    const auto wanted = plain_.apply(op);
    if (seen != wanted) throw Wrong{"the mount says  " + seen + "\n  the plain directory says  " + wanted};
    ++n.answered;
    if (wanted.substr(0, 2) == "OK") {
      ++n.succeeded;
      remember(op);
    }
  }
  void remember(const NameOperation& op) {
    const bool has_two = op.kind == NameKind::rename || op.kind == NameKind::link || op.kind == NameKind::symlink;
    if (!has_two && op.kind != NameKind::create_new && op.kind != NameKind::make_directory) return;
    if (op.kind == NameKind::symlink) link_ = op.b;
    if (op.kind == NameKind::make_directory) remember_in(directories_, op.a);
    remember_in(recent_, has_two ? op.b : op.a);
  }
  static void remember_in(std::deque<std::string>& paths, const std::string& path) {
    paths.push_back(path);
    if (paths.size() > 6) paths.pop_front();
  }
  bool did_every_kind() const {
    for (const auto& row : name_kinds) {
      const auto& n = counts_[static_cast<std::size_t>(row.kind)];
      if (n.succeeded + n.not_offered > 0) continue;
      std::cerr << "seed " << seed_ << ": never done with success: " << row.name << '\n';
      return false;
    }
    return true;
  }
  void tell(const Wrong& wrong) const {
    const auto step = operations_.size() - 1;
    std::cerr << "seed " << seed_ << ", step " << step << " (" << operations_.back().text() << ")\n  " << wrong.what()
              << "\n  the last operations:\n";
    for (auto i = step > 25 ? step - 25 : 0; i <= step; ++i) std::cerr << "    " << operations_[i].text() << '\n';
    if (!replayed_.empty()) return;
    std::ofstream out{log_};
    for (const auto& op : operations_) out << op.text() << '\n';
    std::cerr << "  to do the same again: --replay=" << log_ << '\n';
  }

  const std::uint64_t seed_, steps_;
  const std::string log_, replayed_;
  Side mount_, plain_;
  ModelRandom random_;
  std::deque<std::string> recent_, directories_;
  std::string link_ = "a";  // the last one made
  std::vector<NameOperation> operations_;
  std::array<Counts, name_kinds.size()> counts_{};
};

}  // namespace
}  // namespace tarn_test

int main(int count, char** all) { return tarn_test::run_of<tarn_test::Run>(count, all, tarn_test::usage); }
