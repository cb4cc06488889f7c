// SPDX-License-Identifier: MIT
#pragma once

// The kernel's side of a FUSE connection, without a mount: requests are handed to a session of libfuse's, whose replies
// come back through a socket.
//
// Thread safety: requests from one thread; replies may be sent from any.

#include <fuse_lowlevel.h>
#include <linux/fuse.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "support/catch.hpp"

namespace tarn_test {

class Kernel {
 public:
  struct Reply {
    int error;  ///< an errno, or 0
    std::string bytes;
  };

  /// `begins`: the connection has been set up.
  Kernel(const fuse_lowlevel_ops& handlers, void* userdata, bool begins = true) {
    REQUIRE(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends_.data()) == 0);
    const char* const names[] = {"test"};
    fuse_args arguments{1, const_cast<char**>(names), 0};
    session_ = fuse_session_new(&arguments, &handlers, sizeof handlers, userdata);
    fuse_opt_free_args(&arguments);
    REQUIRE(session_ != nullptr);
    REQUIRE(fuse_session_mount(session_, ("/dev/fd/" + std::to_string(ends_[1])).c_str()) == 0);
    if (begins) REQUIRE(reply(init())->error == 0);
  }
  Kernel(const Kernel&) = delete;
  Kernel& operator=(const Kernel&) = delete;
  /// Requires: every request was replied to.
  ~Kernel() {
    fuse_session_destroy(session_);  // closes its end
    ::close(ends_[0]);
  }

  [[nodiscard]] fuse_session* session() const { return session_; }
  /// From now on requests come by the session's descriptor, for a loop that serves it.
  void come_by_descriptor() { by_descriptor_ = true; }

  // The handler runs in this thread, or in that of a loop. They return what the reply is asked for by.
  std::uint64_t read(std::uint64_t offset, std::size_t size_bytes) {
    fuse_read_in in{};
    in.offset = offset;
    in.size = static_cast<std::uint32_t>(size_bytes);
    return send(FUSE_READ, in);
  }
  std::uint64_t write(std::uint64_t offset, std::string_view bytes) {
    fuse_write_in in{};
    in.offset = offset;
    in.size = static_cast<std::uint32_t>(bytes.size());
    return send(FUSE_WRITE, in, bytes);
  }
  /// A request that carries other bytes than a write does.
  std::uint64_t set_attribute(std::string_view name, std::string_view value) {
    fuse_setxattr_in in{};
    in.size = static_cast<std::uint32_t>(value.size());
    // Of a connection without FUSE_SETXATTR_EXT, the head ends before the flags that came with that.
    std::string bytes{name};
    bytes += '\0';
    bytes += value;
    return send(FUSE_SETXATTR, std::array<std::uint32_t, 2>{in.size, in.flags}, bytes);
  }
  /// The first request of a connection.
  std::uint64_t init() {
    fuse_init_in init{};
    init.major = FUSE_KERNEL_VERSION;
    init.minor = 31;
    return send(FUSE_INIT, init);
  }
  /// So few bytes that they are no request.
  void send_short() { REQUIRE(::send(ends_[0], "abc", 3, 0) == 3); }
  std::uint64_t flush() { return send(FUSE_FLUSH, fuse_flush_in{}); }
  std::uint64_t fsync() { return send(FUSE_FSYNC, fuse_fsync_in{}); }

  /// The reply, if it was sent. Each is there once.
  std::optional<Reply> reply(std::uint64_t request) {
    receive();
    const auto found = replies_.find(request);
    if (found == replies_.end()) return std::nullopt;
    auto reply = std::move(found->second);
    replies_.erase(found);
    return reply;
  }
  /// The reply, which is waited for: of a loop.
  Reply await(std::uint64_t request) {
    for (;;) {
      if (auto got = reply(request)) return *std::move(got);
      ::pollfd readable{ends_[0], POLLIN, 0};
      REQUIRE(::poll(&readable, 1, 60'000) == 1);
    }
  }
  /// How many bytes a write was told it has written.
  static std::size_t written(const Reply& reply) {
    fuse_write_out out{};
    if (reply.bytes.size() == sizeof out) std::memcpy(&out, reply.bytes.data(), sizeof out);
    return out.size;
  }

 private:
  template <class In>
  std::uint64_t send(std::uint32_t opcode, const In& in, std::string_view bytes = {}) {
    fuse_in_header header{};
    header.len = static_cast<std::uint32_t>(sizeof header + sizeof in + bytes.size());
    header.opcode = opcode;
    header.unique = ++sent_;
    header.nodeid = FUSE_ROOT_ID;
    std::string message(header.len, '\0');
    std::memcpy(message.data(), &header, sizeof header);
    std::memcpy(message.data() + sizeof header, &in, sizeof in);
    bytes.copy(message.data() + sizeof header + sizeof in, bytes.size());
    if (by_descriptor_) {
      REQUIRE(::send(ends_[0], message.data(), message.size(), 0) == static_cast<ssize_t>(message.size()));
      return header.unique;
    }
    fuse_buf buffer{};
    buffer.size = message.size();
    buffer.mem = message.data();
    fuse_session_process_buf(session_, &buffer);
    std::memset(message.data(), '!', message.size());  // it is libfuse's again: the next request's
    return header.unique;
  }
  void receive() {
    std::string message(std::size_t{256} << 10, '\0');
    for (;;) {
      const auto n = ::recv(ends_[0], message.data(), message.size(), MSG_DONTWAIT);
      if (n < 0) return;
      fuse_out_header header{};
      REQUIRE(static_cast<std::size_t>(n) >= sizeof header);
      std::memcpy(&header, message.data(), sizeof header);
      REQUIRE(header.len == static_cast<std::size_t>(n));
      REQUIRE(replies_.count(header.unique) == 0);  // libfuse itself lets no request be replied to twice
      replies_[header.unique] = {-header.error, message.substr(sizeof header, header.len - sizeof header)};
    }
  }

  std::array<int, 2> ends_{};
  fuse_session* session_ = nullptr;
  bool by_descriptor_ = false;
  std::uint64_t sent_ = 0;
  std::map<std::uint64_t, Reply> replies_;
};

}  // namespace tarn_test
