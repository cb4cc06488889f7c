// SPDX-License-Identifier: MIT

// tarnfs: mounts a directory through a pool of its files' bytes. Here: the process. Arguments are checked while there
// is still somebody to tell, then it becomes a daemon, makes the pool, mounts, serves, stores everything, and leaves.
//
// Threads: workers serve requests, tarn's or libfuse's; the main thread waits for them; the pool's loaders wait for
// SOURCE in their place; one more takes signals, so that a signal is handled by ordinary code that may wait for
// requests to be served.

#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <sched.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <sys/wait.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <climits>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <thread>

#include "filesystem.hpp"
#include "options.hpp"
#include "rescue.hpp"

namespace tarnfs {
namespace {

constexpr int exit_failed = 1;
constexpr int exit_usage = 2;

/// Ends the program before it has begun.
[[noreturn]] void refuse(const std::string& why, int status = exit_usage) {
  std::fprintf(stderr, "tarnfs: %s\n", why.c_str());
  std::exit(status);
}

std::string because(int error) { return std::string{": "} + ::strerrordesc_np(error); }

// ---- Before the mount

Fd open_directory(const std::string& path) {
  Fd directory{::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
  if (!directory) refuse(path + because(errno));
  return directory;
}

struct stat attributes_of(int fd) {
  struct stat found {};
  if (::fstat(fd, &found) != 0) refuse(std::string{"fstat"} + because(errno));
  return found;
}

bool same_file(const struct stat& a, const struct stat& b) { return a.st_dev == b.st_dev && a.st_ino == b.st_ino; }

/// Whether `directory` is `other` or lies below it. By the files themselves, so that no symbolic link deceives.
bool is_inside(const Fd& directory, const struct stat& other) {
  Fd at{::openat(directory.get(), ".", O_PATH | O_DIRECTORY | O_CLOEXEC)};
  while (at) {
    const auto here = attributes_of(at.get());
    if (same_file(here, other)) return true;
    Fd above{::openat(at.get(), "..", O_PATH | O_DIRECTORY | O_CLOEXEC)};
    if (!above || same_file(attributes_of(above.get()), here)) return false;
    at = std::move(above);
  }
  return false;
}

void pin_to_cpus(const std::vector<int>& cpus) {
  if (cpus.empty()) return;
  cpu_set_t set;
  CPU_ZERO(&set);
  for (const int cpu : cpus) CPU_SET(static_cast<std::size_t>(cpu), &set);
  // Threads that start later inherit it.
  if (::sched_setaffinity(0, sizeof set, &set) != 0) refuse(std::string{"--cpu"} + because(errno));
}

unsigned usable_cpus() {
  cpu_set_t set;
  return ::sched_getaffinity(0, sizeof set, &set) == 0 ? static_cast<unsigned>(CPU_COUNT(&set)) : 1;
}

/// Every inode that the kernel knows has a descriptor, so as many as we can get.
std::size_t raise_descriptor_limit() {
  rlimit limit{};
  ::getrlimit(RLIMIT_NOFILE, &limit);
  constexpr rlim_t most = 1 << 20;  // the kernel's own bound, unless it was raised
  const rlimit raised{most, std::max(most, limit.rlim_max)};
  if (limit.rlim_cur < most && ::setrlimit(RLIMIT_NOFILE, &raised) != 0) {
    limit.rlim_cur = limit.rlim_max;
    ::setrlimit(RLIMIT_NOFILE, &limit);
  }
  ::getrlimit(RLIMIT_NOFILE, &limit);
  return static_cast<std::size_t>(std::min(limit.rlim_cur, most));
}

/// Mount options: what SOURCE forbids, the mount forbids.
std::string mount_options(const std::string& source, int source_fd) {
  std::string options = "default_permissions,subtype=tarnfs,fsname=";
  for (const char c : source) {
    if (c == ',' || c == '\\') options += '\\';
    options += c;
  }
  struct statvfs of {};
  if (::fstatvfs(source_fd, &of) != 0) refuse(source + because(errno));
  if (of.f_flag & ST_RDONLY) options += ",ro";
  if (of.f_flag & ST_NOEXEC) options += ",noexec";
  if (::geteuid() == 0) {
    options += ",allow_other";
    if (!(of.f_flag & ST_NOSUID)) options += ",suid";
    if (!(of.f_flag & ST_NODEV)) options += ",dev";
  }
  return options;
}

// ---- The daemon

/// Tells the parent of a daemon how it went; it waits for that.
class Parent {
 public:
  /// Forks, unless in the foreground; the child returns.
  explicit Parent(bool foreground) {
    if (foreground) return;
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) refuse(std::string{"pipe"} + because(errno), exit_failed);
    const Fd from_child{ends[0]};
    to_parent_ = Fd{ends[1]};
    const auto child = ::fork();
    if (child < 0) refuse(std::string{"fork"} + because(errno), exit_failed);
    if (child == 0) {
      ::setsid();
      return;
    }
    to_parent_ = Fd{};
    char mounted = 0;
    while (::read(from_child.get(), &mounted, 1) < 0 && errno == EINTR) {
    }
    if (mounted) ::_exit(0);
    int status = 0;
    ::waitpid(child, &status, 0);
    ::_exit(WIFEXITED(status) ? WEXITSTATUS(status) : exit_failed);
  }

  /// The mount is there: the daemon goes on alone, and has nobody's terminal and directory any more.
  void leave(Log& log) {
    if (!to_parent_) return;
    log.to_syslog();
    fuse_set_log_func([](fuse_log_level level, const char* format, va_list arguments) {
      ::vsyslog(static_cast<int>(level), format, arguments);
    });
    [[maybe_unused]] const int moved = ::chdir("/");
    const Fd null{::open("/dev/null", O_RDWR | O_CLOEXEC)};
    for (int fd = 0; null && fd < 3; ++fd) ::dup2(null.get(), fd);
    [[maybe_unused]] const auto told = ::write(to_parent_.get(), "m", 1);
    to_parent_ = Fd{};
  }

 private:
  Fd to_parent_;
};

// ---- Serving

void init(void* userdata, fuse_conn_info* connection) {
  auto& fs = *static_cast<Filesystem*>(userdata);
  configure_connection(*connection);
  // Every change of a file comes through the kernel, which keeps its own cache right; a moving mtime says nothing new.
  connection->want &= ~static_cast<unsigned>(FUSE_CAP_AUTO_INVAL_DATA);
  // Suid and sgid on a write: the kernel clears them with a setattr, unless it is told that we would.
  connection->want &= ~static_cast<unsigned>(FUSE_CAP_HANDLE_KILLPRIV);
  constexpr unsigned acls = FUSE_CAP_POSIX_ACL | FUSE_CAP_DONT_MASK;
  if ((connection->capable & acls) == acls) {
    connection->want |= acls;
    fs.acls = true;
  }
}

/// The thread that takes signals, from construction to destruction.
class SignalThread {
 public:
  /// Blocks the signals in this thread and all that it starts. Called before there is another thread.
  static void block() {
    const auto set = handled();
    ::pthread_sigmask(SIG_BLOCK, &set, nullptr);
    std::signal(SIGPIPE, SIG_IGN);
    std::signal(SIGXFSZ, SIG_IGN);  // a size beyond a limit of ours is an error, not the end
    struct sigaction wake {};
    wake.sa_handler = [](int) {};  // no SA_RESTART: it is to interrupt
    ::sigaction(wake_signal, &wake, nullptr);
  }

  /// `serving` is the thread that runs the session's loop.
  SignalThread(Filesystem& fs, fuse_session* session, pthread_t serving)
      : fs_{fs}, session_{session}, serving_{serving}, thread_{[this] { run(); }} {}
  ~SignalThread() {
    done_ = true;
    ::pthread_kill(thread_.native_handle(), SIGTERM);
    thread_.join();
  }
  SignalThread(const SignalThread&) = delete;
  SignalThread& operator=(const SignalThread&) = delete;

 private:
  static constexpr int wake_signal = SIGALRM;

  static sigset_t handled() {
    sigset_t set;
    sigemptyset(&set);
    for (const int number : {SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2}) sigaddset(&set, number);
    return set;
  }

  void run() {
    const auto set = handled();
    while (!done_) {
      int number = 0;
      if (::sigwait(&set, &number) != 0 || done_) continue;
      if (number == SIGUSR1) {
        if (fs_.options.stats) fs_.tree.log.lines(fs_.stats());
      } else if (number == SIGUSR2) {
        fs_.flush_all(session_);
      } else {
        fs_.flush_all(session_);
        fuse_session_exit(session_);
        // The loop looks at that only when it is interrupted, and may be about to fall asleep: so again until it is
        // out.
        while (!done_) {
          ::pthread_kill(serving_, wake_signal);
          std::this_thread::sleep_for(std::chrono::milliseconds{5});
        }
      }
    }
  }

  Filesystem& fs_;
  fuse_session* const session_;
  const pthread_t serving_;
  std::atomic<bool> done_{false};
  std::thread thread_;  // last: it uses the others
};

void serve(fuse_session* session, Filesystem& fs) {
  if (fs.options.receive_in_place) {
    if (const int error = fs.pool->serve(session, fs.options.threads, fs.options.one_thread_a_cpu)) {
      fs.tree.failed = true;
      fs.tree.log.error("cannot serve" + because(error));
    }
    return;
  }
  const auto threads = fs.options.threads ? fs.options.threads : std::max(2u, usable_cpus());
  if (threads == 1) {
    fuse_session_loop(session);
    return;
  }
  const std::unique_ptr<fuse_loop_config, void (*)(fuse_loop_config*)> config{fuse_loop_cfg_create(),
                                                                              fuse_loop_cfg_destroy};
  fuse_loop_cfg_set_max_threads(config.get(), threads);
  fuse_session_loop_mt(session, config.get());
}

int run(const Options& options) {
  if (const auto wrong = ContentPool::check(options.content); !wrong.empty()) refuse(wrong);
  const auto source = open_directory(options.source);
  const auto source_attributes = attributes_of(source.get());
  std::string mountpoint;
  {
    // Closed again before the mount.
    const auto on = open_directory(options.mountpoint);
    if (is_inside(on, source_attributes)) refuse(options.mountpoint + ": lies inside SOURCE");
    if (is_inside(source, attributes_of(on.get()))) refuse(options.source + ": lies inside MOUNTPOINT");
    const std::unique_ptr<char, void (*)(void*)> resolved{::realpath(options.mountpoint.c_str(), nullptr), std::free};
    if (!resolved) refuse(options.mountpoint + because(errno));
    mountpoint = resolved.get();
  }
  const auto rescue_directory = options.rescue.empty() ? Fd{} : open_directory(options.rescue);
  if (rescue_directory && is_inside(rescue_directory, source_attributes)) {
    refuse(options.rescue + ": lies inside SOURCE");
  }
  if (::access("/proc/self/fd", X_OK) != 0) refuse("/proc is needed", exit_failed);
  if (::flock(source.get(), LOCK_EX | LOCK_NB) != 0) {
    refuse(options.source + (errno == EWOULDBLOCK ? ": another tarnfs serves it" : because(errno)));
  }
  pin_to_cpus(options.cpus);

  Parent parent{options.foreground};
  ::umask(0);
  SignalThread::block();
  const auto descriptor_limit = raise_descriptor_limit();
  SourceTree tree{Fd{::openat(source.get(), ".", O_PATH | O_DIRECTORY | O_CLOEXEC)},
                  std::clamp<std::size_t>(descriptor_limit / 4, 8, 1024)};
  // Not destroyed: what programs have open when it is over is never released, and its content must not outlive the pool.
  Filesystem* fs = nullptr;
  try {
    fs = new Filesystem(options, tree, Fd{::openat(source.get(), ".", O_PATH | O_DIRECTORY | O_CLOEXEC)},
                        source_attributes);
  } catch (const std::exception& e) {
    refuse(std::string{"the pool cannot be made: "} + e.what(), exit_failed);
  }

  fuse_lowlevel_ops handlers{};
  handlers.init = init;
  add_namespace_handlers(handlers);
  add_file_handlers(handlers);
  const auto mount_with = mount_options(options.source, source.get());
  const char* const arguments[] = {"tarnfs", "-o", mount_with.c_str()};
  fuse_args args{3, const_cast<char**>(arguments), 0};
  const std::unique_ptr<fuse_session, void (*)(fuse_session*)> session{
      fuse_session_new(&args, &handlers, sizeof handlers, fs), fuse_session_destroy};
  if (!session) refuse("the FUSE session cannot be made", exit_failed);
  if (fuse_session_mount(session.get(), mountpoint.c_str()) != 0) refuse(mountpoint + ": cannot mount", exit_failed);
  fuse_opt_free_args(&args);
  parent.leave(tree.log);
  {
    const SignalThread signals{*fs, session.get(), ::pthread_self()};
    serve(session.get(), *fs);
  }
  // Nobody asks any more, but some wait for an answer still.
  fs->pool->wait_until_idle();
  // Once more for what came since, or failed before.
  fs->flush_all();
  fuse_session_unmount(session.get());
  if (rescue_directory) {
    rescue(*fs, rescue_directory.get());
  } else {
    report_lost(*fs);
  }
  if (options.stats) tree.log.lines(fs->stats());
  return tree.failed ? exit_failed : 0;
}

}  // namespace
}  // namespace tarnfs

int main(int argc, char** argv) {
  // Descriptors 0 to 2 are taken, so that nothing of ours is mistaken for standard error.
  int fd = ::open("/dev/null", O_RDWR);
  while (fd >= 0 && fd < 3) fd = ::open("/dev/null", O_RDWR);
  ::close(fd);
  const auto parsed = tarnfs::parse_options({argv + 1, static_cast<std::size_t>(std::max(argc - 1, 0))});
  if (const auto* const error = std::get_if<tarnfs::UsageError>(&parsed)) tarnfs::refuse(error->text);
  if (const auto* const information = std::get_if<tarnfs::Information>(&parsed)) {
    return std::fputs(information->text.c_str(), stdout) < 0 ? 1 : 0;
  }
  return tarnfs::run(std::get<tarnfs::Options>(parsed));
}
