// SPDX-License-Identifier: MIT
// Runs a fuzz target without a fuzzer, with any compiler: over each file named, each file of each folder named, and
// then over inputs that it makes of those, the same ones every time.
//
//   NAME.fuzz [--mutations=N] [--seed=N] FILE_OR_FOLDER...
//
// An input that ends the program, or takes too long, is written to a file; the program run with that file runs it
// again.

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "support/model_random.hpp"

extern "C" {
int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size_bytes);
// The sanitizers' own: they end a program without a signal.
[[gnu::weak]] void __sanitizer_set_death_callback(void (*callback)());
}

namespace {

using Input = std::vector<std::uint8_t>;

constexpr std::size_t most_bytes = 4096;
constexpr unsigned patience_seconds = 60;

// For whoever ends the program: what it ran, and where to put that.
const Input* running = nullptr;
std::string failed_path;

void say(std::string_view text) { (void)!::write(STDERR_FILENO, text.data(), text.size()); }

void keep_failed() {
  const auto* const input = std::exchange(running, nullptr);
  if (input == nullptr) return;
  const int file = ::open(failed_path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (file < 0) return say("the input that failed cannot be written\n");
  (void)!::write(file, input->data(), input->size());
  ::close(file);
  say("run it again with this file: ");
  say(failed_path);
  say("\n");
}

void watch() {
  if (__sanitizer_set_death_callback != nullptr) __sanitizer_set_death_callback(keep_failed);
  std::vector<int> signals{SIGABRT, SIGALRM};
  if (__sanitizer_set_death_callback == nullptr) signals.insert(signals.end(), {SIGSEGV, SIGBUS, SIGFPE, SIGILL});
  for (const auto signal : signals) {
    std::signal(signal, [](int number) {
      if (number == SIGALRM) say("an input takes too long\n");
      keep_failed();
      std::signal(number, SIG_DFL);
      std::raise(number);
    });
  }
}

void run(const Input& given) {
  const Input input{given.begin(), given.end()};  // of its exact size, so that a read past its end is seen
  running = &input;
  ::alarm(patience_seconds);
  LLVMFuzzerTestOneInput(input.data(), input.size());
  ::alarm(0);
  running = nullptr;
}

Input read(const std::filesystem::path& path) {
  std::ifstream file{path, std::ios::binary};
  return {std::istreambuf_iterator<char>{file}, {}};
}

std::vector<std::filesystem::path> files_of(const std::filesystem::path& path) {
  if (!std::filesystem::is_directory(path)) return {path};
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator{path}) files.push_back(entry.path());
  std::ranges::sort(files);
  return files;
}

class Mutator {
 public:
  Mutator(const std::vector<Input>& corpus, std::uint64_t seed) : corpus_{corpus}, random_{seed} {}

  [[nodiscard]] Input make() {
    Input input = any();
    for (auto n = 1 + random_.below(8); n != 0; --n) change(input);
    input.resize(std::min(input.size(), most_bytes));
    return input;
  }

 private:
  [[nodiscard]] const Input& any() { return corpus_[random_.below(corpus_.size())]; }
  [[nodiscard]] std::uint8_t any_byte() { return static_cast<std::uint8_t>(random_.next()); }
  [[nodiscard]] static auto at(const Input& input, std::uint64_t index) {
    return input.begin() + static_cast<std::ptrdiff_t>(index);
  }
  // A run of bytes of any input.
  [[nodiscard]] Input piece() {
    const auto& from = any();
    const auto first = random_.below(from.size() + 1);
    return {at(from, first), at(from, first + random_.below(from.size() - first + 1))};
  }
  void change(Input& input) {
    const auto where = random_.below(input.size() + 1);
    const auto some = std::min<std::uint64_t>(1 + random_.below(16), input.size() - where);
    switch (random_.below(6)) {
      case 0:
        if (some != 0) input[where] = static_cast<std::uint8_t>(input[where] ^ 1u << random_.below(8));
        return;
      case 1:
        if (some != 0) input[where] = any_byte();
        return;
      case 2:
        input.insert(at(input, where), 1 + random_.below(4), any_byte());
        return;
      case 3:
        input.erase(at(input, where), at(input, where + some));
        return;
      case 4: {
        const auto inserted = piece();
        input.insert(at(input, where), inserted.begin(), inserted.end());
        return;
      }
      default: {
        const auto over = piece();
        const auto n = std::min<std::uint64_t>(over.size(), input.size() - where);
        std::copy_n(over.begin(), n, input.begin() + static_cast<std::ptrdiff_t>(where));
      }
    }
  }

  const std::vector<Input>& corpus_;
  tarn_test::ModelRandom random_;
};

}  // namespace

int main(int count, char** arguments) {
  std::uint64_t mutations = 0, seed = 1;
  std::vector<std::filesystem::path> files;
  for (int i = 1; i < count; ++i) {
    const std::string_view argument = arguments[i];
    const auto number = [&](std::string_view name, std::uint64_t& into) {
      if (!argument.starts_with(name)) return false;
      into = std::strtoull(arguments[i] + name.size(), nullptr, 10);
      return true;
    };
    if (number("--mutations=", mutations) || number("--seed=", seed)) continue;
    const auto more = files_of(argument);
    files.insert(files.end(), more.begin(), more.end());
  }
  failed_path = std::filesystem::absolute(arguments[0]).string() + "-failed-input";
  watch();

  std::vector<Input> corpus;
  for (const auto& file : files) {
    corpus.push_back(read(file));
    run(corpus.back());
  }
  if (corpus.empty()) {
    std::fputs("no input: name a file, or a folder that has some\n", stderr);
    return 2;
  }
  Mutator mutator{corpus, seed};
  for (std::uint64_t i = 0; i < mutations; ++i) run(mutator.make());
  std::printf("%zu files, and %llu inputs made of them with the seed %llu\n", corpus.size(),
              static_cast<unsigned long long>(mutations), static_cast<unsigned long long>(seed));
}
