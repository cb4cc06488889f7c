// SPDX-License-Identifier: MIT
// The reader and writer of file_session.hpp on files of the system, mounted or not.

#include <memory>
#include <string>

#include "file_session.hpp"
#include "system_file.hpp"

int main() {
  tarn_bench::Session session(
      [](const std::string& path, tarn_bench::OpenMode mode) -> std::unique_ptr<tarn_bench::File> {
        return std::make_unique<tarn_bench::SystemFile>(path, mode);
      });
  session.serve();
}
