// SPDX-License-Identifier: MIT
#pragma once

// Where tarnfs says what went wrong: standard error, or syslog once it is a daemon.
//
// Thread safety: any thread, after to_syslog.

#include <syslog.h>
#include <unistd.h>

#include <string>
#include <string_view>

namespace tarnfs {

class Log {
 public:
  void to_syslog() {
    ::openlog("tarnfs", LOG_PID, LOG_DAEMON);
    syslog_ = true;
  }

  void error(std::string_view text) const { write(LOG_ERR, "tarnfs: ", text); }
  /// Lines without a prefix, for programs to read.
  void lines(std::string_view text) const {
    while (!text.empty() && text.back() == '\n') text.remove_suffix(1);
    if (!syslog_) return write(LOG_INFO, "", text);
    for (std::size_t end = 0; end != std::string_view::npos && !text.empty(); text.remove_prefix(end + 1)) {
      end = text.find('\n');
      write(LOG_INFO, "", text.substr(0, end));
      if (end == std::string_view::npos) return;
    }
  }

 private:
  void write(int priority, std::string_view prefix, std::string_view text) const {
    if (syslog_) {
      ::syslog(priority, "%.*s", static_cast<int>(text.size()), text.data());
      return;
    }
    std::string line{prefix};
    line += text;
    line += '\n';
    // One write, so that lines of two threads do not mix. There is nobody to tell if it fails.
    [[maybe_unused]] const auto written = ::write(STDERR_FILENO, line.data(), line.size());
  }

  bool syslog_ = false;
};

}  // namespace tarnfs
