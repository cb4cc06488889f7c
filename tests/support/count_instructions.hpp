// SPDX-License-Identifier: MIT
#pragma once

// How many instructions a call runs, counted one by one: a forked child runs it, single-stepped by us.
//
// The same call counts the same every time, on any machine and however busy it is, which no clock does. Steps of the
// kernel do not count, nor do the first call's, which binds what is bound late.
//
// Thread safety: none. Requires: the calling thread is the only one, since it forks.

#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdint>
#include <optional>

namespace tarn_test {

#if defined(__SANITIZE_THREAD__)
inline constexpr bool counts_own_code = false;
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
inline constexpr bool counts_own_code = false;
#else
inline constexpr bool counts_own_code = true;
#endif
#else
inline constexpr bool counts_own_code = true;
#endif

/// Returns: the count; nothing where the system lets nobody trace a child, or where the thread sanitizer, whose steps
/// depend on what it has seen before, is part of the code.
template <class F>
[[nodiscard]] std::optional<std::uint64_t> count_instructions(F f) {
  if (!counts_own_code) return std::nullopt;
  f();
  // What the child says of where it is, in memory that it shares with us: a step alone does not tell.
  enum : int { before, inside, after };
  void* const shared = ::mmap(nullptr, sizeof(int), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (shared == MAP_FAILED) return std::nullopt;
  auto* const where = static_cast<volatile int*>(shared);
  *where = before;

  const auto child = ::fork();
  if (child == 0) {
    if (::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) != 0) ::_exit(1);
    (void)std::raise(SIGSTOP);
    *where = inside;
    asm volatile("" ::: "memory");  // nothing of the call is moved out from between
    f();
    asm volatile("" ::: "memory");
    *where = after;
    ::_exit(0);
  }
  int status = 0;
  std::uint64_t count = 0;
  const auto stopped = [&] { return ::waitpid(child, &status, 0) == child && WIFSTOPPED(status); };
  bool steps = child > 0 && stopped();
  while (steps && *where != after) {
    steps = ::ptrace(PTRACE_SINGLESTEP, child, nullptr, nullptr) == 0 && stopped() && WSTOPSIG(status) == SIGTRAP;
    if (*where == inside) ++count;
  }
  if (child > 0 && WIFSTOPPED(status)) {
    ::kill(child, SIGKILL);
    ::waitpid(child, &status, 0);
  }
  ::munmap(shared, sizeof(int));
  return steps ? std::optional{count} : std::nullopt;
}

}  // namespace tarn_test
