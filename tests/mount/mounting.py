# SPDX-License-Identifier: MIT
"""A mounted tarnfs, for tests and benchmarks: started, waited for, asked, unmounted and ended, each within a time.

A filesystem process that is stuck takes every process that touches its mount with it. So each one started here is on a
list, and `kill_all` ends the list: the kernel then answers whoever waits with an error, and clean-up can go on.

To kill the process is not enough for that. One that is telling the kernel to drop a file's pages waits, and cannot be
killed, for a page that a call holds which waits for an answer of this process. So its connection is ended too.
"""

import contextlib
import ctypes
import os
import pathlib
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

MiB = 1 << 20

MNT_FORCE = 1

_running = []


class MountError(Exception):
    pass


def why_no_mount():
    """Why nothing can be mounted here, in one line; None if it can."""
    if os.environ.get("TARN_NO_MOUNT"):
        return "TARN_NO_MOUNT is set"
    if not os.path.exists("/dev/fuse"):
        return "there is no /dev/fuse"
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR))
    except OSError as e:
        return f"/dev/fuse does not open: {e.strerror}"
    if os.geteuid() != 0 and not shutil.which("fusermount3"):
        return "there is no fusermount3"
    return None


def kill_all():
    """Ends every filesystem process that was started here and still runs. For watchdogs; safe from any thread."""
    for tarnfs in list(_running):
        tarnfs.kill()


class Watchdog:
    """Ends the filesystems if the block it guards is not left in time. Whoever waited for them then gets an error."""

    def __init__(self, seconds):
        self.seconds = seconds
        self.barked = False

    def _bark(self):
        self.barked = True
        for tarnfs in list(_running):
            print(tarnfs.what_it_does(), file=sys.stderr, flush=True)
        kill_all()

    def __enter__(self):
        self._timer = threading.Timer(self.seconds, self._bark)
        self._timer.daemon = True
        self._timer.start()
        return self

    def __exit__(self, kind, error, trace):
        self._timer.cancel()
        self._timer.join()  # what it says comes first
        if self.barked:
            raise MountError(f"not done within {self.seconds} s; the filesystem was killed") from error


@contextlib.contextmanager
def scratch_directory(need_bytes):
    """A new directory in memory, so that no disk speaks: in /dev/shm, else on a tmpfs of its own, else on disk."""

    def free_bytes(path):
        try:
            status = os.statvfs(path)
        except OSError:
            return 0
        return status.f_bavail * status.f_frsize

    in_shm = free_bytes("/dev/shm") > need_bytes and os.access("/dev/shm", os.W_OK)
    path = pathlib.Path(tempfile.mkdtemp(prefix="tarnfs-", dir="/dev/shm" if in_shm else None))
    own_tmpfs = False
    try:
        if not in_shm and os.geteuid() == 0:
            own_tmpfs = (
                subprocess.run(
                    ["mount", "-t", "tmpfs", "-o", f"size={need_bytes + 64 * MiB}", "tarnfs-scratch", path],
                    stderr=subprocess.DEVNULL,
                ).returncode
                == 0
            )
        os.chmod(path, 0o755)
        yield path
    finally:
        if own_tmpfs:
            subprocess.run(["umount", "-l", path])
        shutil.rmtree(path, ignore_errors=True)


class Tarnfs:
    """One tarnfs process on one mount point. However the `with` block ends, the mount and the process are gone."""

    def __init__(self, program, source, mountpoint, *options, environment=None, stats=True, exit_code=0, command=None):
        """`command`: of another program than tarnfs, in place of all its words."""
        self.source, self.mountpoint = pathlib.Path(source), pathlib.Path(mountpoint)
        asked = ["--foreground", "--stats"] if stats else ["--foreground"]
        self._command = list(map(str, command or [program, *asked, *options, source, mountpoint]))
        self._environment = environment
        self._exit_code = exit_code  # with which it is to end
        self._log = ""  # what the process has printed; guarded by _printed
        self._printed = threading.Condition()
        self._ended = False  # it will print no more
        self._killed = False
        self.process = None

    @property
    def pid(self):
        return self.process.pid

    def __enter__(self):
        self.mountpoint.mkdir(exist_ok=True)
        self.process = subprocess.Popen(
            # Ends with us, even if we are killed; but not by the Ctrl-C that is meant for us, which unmounts in order.
            ["setpriv", "--pdeathsig", "TERM", *self._command],
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(self._environment or {})},
        )
        _running.append(self)
        threading.Thread(target=self._listen, daemon=True).start()
        try:
            self._wait_for_mount(10)
        except BaseException:
            self._clean_up()
            raise
        return self

    def __exit__(self, kind, error, trace):
        try:
            if kind is None and not self._killed:
                self.unmount()
        finally:
            self._clean_up()

    def _listen(self):
        with self.process.stdout as pipe:
            while printed := os.read(pipe.fileno(), 1 << 16):
                with self._printed:
                    self._log += printed.decode(errors="replace")
                    self._printed.notify_all()
        with self._printed:
            self._ended = True
            self._printed.notify_all()

    def says(self, text, start=0, timeout=10):
        """Whether the process has printed this, from a length of its log on; what it has written is on its way."""
        with self._printed:
            return self._printed.wait_for(lambda: text in self._log[start:], timeout)

    def whole_log(self, timeout=10):
        """What the process has printed, once it has ended."""
        with self._printed:
            if not self._printed.wait_for(lambda: self._ended, timeout):
                raise MountError("its output has no end")
        return self.log()

    def log(self):
        """What the process has printed so far."""
        with self._printed:
            return self._log.strip()

    def stats(self, timeout=10):
        """Its counters by name."""
        with self._printed:
            start = len(self._log)
            self.send(signal.SIGUSR1)
            # It says them in one write, which a pipe does not split: with the first, all are there.
            if (
                not self._printed.wait_for(lambda: self._ended or "read_requests " in self._log[start:], timeout)
                or self._ended
            ):
                raise MountError("its counters were not said")
            words = [line.split() for line in self._log[start:].splitlines()]
        return {line[0]: int(line[1]) for line in words if len(line) == 2 and line[1].isdigit()}

    def unmount(self):
        """Unmounts and waits for the process, which has then stored everything. An error of either is raised."""
        if self.process.poll() is None or self._is_mounted():
            command = ["umount"] if os.geteuid() == 0 else ["fusermount3", "-u"]
            done = subprocess.run([*command, self.mountpoint], capture_output=True, text=True, timeout=60)
            if done.returncode != 0:
                raise MountError(f"not unmounted: {done.stderr.strip()}")
        self.wait_for_end()

    def wait_for_end(self, timeout=60):
        """Waits for the process; raises unless it ended as it was to: usually with 0."""
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise MountError(f"still runs {timeout} s after it was unmounted") from None
        if code != self._exit_code:
            raise MountError(f"ended with {code}: {self.log()}")

    def send(self, number):
        self.process.send_signal(number)

    def kill(self):
        """Ends it as a crash would, in the middle of whatever it does. Safe from any thread."""
        self._killed = True
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        if os.geteuid() == 0:
            # Ends the connection, and then says that the mount is busy, or takes it away.
            ctypes.CDLL(None).umount2(os.fsencode(self.mountpoint), MNT_FORCE)
        elif device := self._mounted_device():
            with contextlib.suppress(OSError):
                pathlib.Path(f"/sys/fs/fuse/connections/{device.split(':')[1]}/abort").write_text("1")

    def what_it_does(self):
        """Its counters, and where its threads are if there is a gdb: of one that is stuck, all that will be known."""
        said = [" ".join(self._command)]
        try:
            said.append(str(self.stats(timeout=2)))
        except MountError as e:
            said.append(str(e))
        if gdb := shutil.which("gdb"):
            command = [gdb, "-p", str(self.pid), "-batch", "-ex", "thread apply all backtrace 25"]
            with contextlib.suppress(subprocess.TimeoutExpired):
                said.append(subprocess.run(command, capture_output=True, text=True, timeout=60).stdout)
        return "\n".join(said)

    def peak_resident_bytes(self):
        for line in pathlib.Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        raise MountError("no VmHWM")

    def pin(self, cpus):
        """Its threads, and those they start, run on these CPUs only."""
        for task in os.listdir(f"/proc/{self.pid}/task"):
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(int(task), cpus)

    def _is_mounted(self):
        return self._mounted_device() is not None

    def _mounted_device(self):
        """Its device, as major:minor; None if it is not mounted."""
        want = os.path.realpath(self.mountpoint.parent) + "/" + self.mountpoint.name
        with open("/proc/self/mountinfo") as mounts:
            found = [words[2] for words in map(str.split, mounts) if words[4] == want]
        return found[-1] if found else None

    def _wait_for_mount(self, seconds):
        # The kernel tells on mountinfo that mounts changed, and on a pidfd that the process ended.
        deadline = time.monotonic() + seconds
        ended = os.pidfd_open(self.pid)
        try:
            with open("/proc/self/mountinfo") as mounts:
                changed = select.poll()
                changed.register(mounts, select.POLLPRI)
                changed.register(ended, select.POLLIN)
                while not self._is_mounted():
                    if self.process.poll() is not None:
                        raise MountError(
                            f"{' '.join(self._command)}: ended with {self.process.returncode}: {self.log()}"
                        )
                    left = deadline - time.monotonic()
                    if left <= 0:
                        raise MountError(f"was not mounted within {seconds} s: {self.log()}")
                    changed.poll(left * 1000)
        finally:
            os.close(ended)

    def _clean_up(self):
        if self.process.poll() is None:
            self.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(10)
        if self._is_mounted():
            command = ["umount", "-l"] if os.geteuid() == 0 else ["fusermount3", "-uz"]
            subprocess.run([*command, self.mountpoint], stderr=subprocess.DEVNULL, timeout=10)
        if self in _running:
            _running.remove(self)
