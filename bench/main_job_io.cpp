// SPDX-License-Identifier: MIT
// The main job's reader and writer on files of the system, mounted or not.

#include <memory>
#include <string>

#include "main_job_session.hpp"
#include "main_job_system_file.hpp"

int main() {
  main_job::Session session([](const std::string& path, main_job::OpenMode mode) -> std::unique_ptr<main_job::File> {
    return std::make_unique<main_job::SystemFile>(path, mode);
  });
  session.serve();
}
