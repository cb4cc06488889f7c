# SPDX-License-Identifier: MIT
"""What the tests of a mounted tarnfs share: the list of cases, a mount beside a plain directory, and the program's end.

    TARNFS_BIN=build/dev/examples/tarnfs/tarnfs tests/mount/FILE.py [CASE ...]        runs all, or those named
    tests/mount/FILE.py --list                                       names, time limits and labels, for CMake

Exit code 77: skipped, for the reason that the last line says.
"""

import contextlib
import errno
import hashlib
import os
import random
import shutil
import stat
import subprocess
import sys
import time
import traceback

import mounting
from mounting import MiB

KiB = 1 << 10
SKIPPED = 77
READ_PATHS = ["before", "after", "copy", "gather"]
TIGHT = ["--chunk-size=4K", "--part-size=64K", "--budget=8M"]  # chunks leave and come back all the time
SETTINGS = [[], TIGHT]
CASES = {}


class Skip(Exception):
    pass


class Failed(AssertionError):
    pass


def case(timeout=60, slow=False, needs=(), measures=False):
    """`measures`: it looks at times, and runs alone."""

    def add(function):
        CASES[function.__name__] = (function, timeout, slow, needs, measures)
        return function

    return add


def expect(condition, what):
    if not condition:
        raise Failed(what)


def wait_until(holds, what, seconds=20):
    """Asks until it holds: for what another thread or process does, and tells nobody."""
    deadline = time.monotonic() + seconds
    while not holds():
        expect(time.monotonic() < deadline, f"not in {seconds} s: {what}")


def expect_equal(got, wanted, what):
    if got != wanted:

        def short(value):
            text = repr(value)
            return text if len(text) < 600 else f"{text[:300]} ... {text[-200:]}"

        raise Failed(f"{what}: got {short(got)}, expected {short(wanted)}")


def noise(size, seed):
    return random.Random(seed).randbytes(size)


def tree(top, with_mtime=True):
    """What a directory holds: for each name its kind, mode, owner, links, times and bytes."""
    held = {}
    for folder, names, files in os.walk(top):
        for name in names + files:
            path = os.path.join(folder, name)
            status = os.lstat(path)
            kind = stat.S_IFMT(status.st_mode)
            row = {"mode": oct(status.st_mode), "owner": (status.st_uid, status.st_gid)}
            if kind == stat.S_IFREG:
                with open(path, "rb") as file:
                    row["sha"] = hashlib.file_digest(file, "sha256").hexdigest()
                row["size"], row["links"] = status.st_size, status.st_nlink
            elif kind == stat.S_IFLNK:
                row["to"] = os.readlink(path)
            if with_mtime and kind != stat.S_IFDIR:
                row["mtime_ns"] = status.st_mtime_ns
            held[os.path.relpath(path, top)] = row
    return held


def compare_trees(got, wanted, what, with_mtime=False):
    got, wanted = tree(got, with_mtime), tree(wanted, with_mtime)
    expect_equal(sorted(got), sorted(wanted), f"{what}: names")
    for name, row in wanted.items():
        expect_equal(got[name], row, f"{what}: {name}")


class Pair:
    """A mount and a plain directory side by side, both empty or with the files that `prepare(directory)` puts in."""

    def __init__(self, *options, prepare=None, need_bytes=256 * MiB):
        self.options, self._prepare, self._need_bytes = list(options), prepare, need_bytes

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            self.scratch = stack.enter_context(mounting.scratch_directory(self._need_bytes))
            self.source, self.plain, self.input = (self.scratch / name for name in ("source", "plain", "input"))
            for folder in (self.source, self.plain, self.input):
                folder.mkdir()
            if self._prepare:
                self._prepare(self.source)
                self._prepare(self.plain)
            self.at = self.scratch / "mount"
            self.mounted = stack.enter_context(Mounted(self))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error):
        return self._stack.__exit__(*error)

    def both(self, action, what=None):
        """`action(directory)` answers or fails the same in both."""

        def outcome(directory):
            try:
                return action(directory)
            except OSError as e:
                return f"OSError {errno.errorcode.get(e.errno, e.errno)}"

        wanted = outcome(self.plain)
        got = outcome(self.at)
        expect_equal(got, wanted, what or getattr(action, "__name__", "in the mount"))
        return got

    def run(self, script, environment=None, may_fail=False):
        """A shell script prints and answers the same in both; it finds its directory as the current one, and $INPUT."""

        def outcome(directory):
            return subprocess.run(
                ["bash", "-e", "-u", "-o", "pipefail", "-c", script],
                cwd=directory,
                capture_output=True,
                env={**os.environ, "LC_ALL": "C", "INPUT": str(self.input), **(environment or {})},
            )

        wanted, got = outcome(self.plain), outcome(self.at)
        text = f"\n{script}\n{wanted.stderr.decode(errors='replace')}"
        expect(may_fail or wanted.returncode == 0, f"the script fails in a plain directory: {wanted.returncode}{text}")
        text = f"\n{script}\n{got.stderr.decode(errors='replace')}"
        expect_equal(got.returncode, wanted.returncode, f"exit code in the mount{text}")
        expect_equal(got.stdout, wanted.stdout, f"output in the mount{text}")

    def compare(self, with_mtime=False):
        compare_trees(self.at, self.plain, "in the mount", with_mtime)

    def remount(self, *options):
        self.mounted.stop()
        compare_trees(self.source, self.plain, "stored")
        self.options = list(options) or self.options
        self.mounted.start()

    def finish(self, with_mtime=False):
        """Equal in the mount, and stored equal after it."""
        self.compare(with_mtime)
        self.mounted.stop()
        compare_trees(self.source, self.plain, "stored", with_mtime)


class Mounted:
    """The mount of a pair, which can be stopped and started again within it."""

    def __init__(self, pair):
        self._pair = pair
        self.tarnfs = None

    def __enter__(self):
        self.start()
        return self

    def start(self):
        self.tarnfs = mounting.Tarnfs(program(), self._pair.source, self._pair.at, *self._pair.options)
        self.tarnfs.__enter__()

    def stop(self):
        tarnfs, self.tarnfs = self.tarnfs, None
        tarnfs.__exit__(None, None, None)

    def __exit__(self, *error):
        if self.tarnfs:
            self.tarnfs.__exit__(*(error if error[0] else (None, None, None)))


def program():
    return os.environ["TARNFS_BIN"]


def answer(action):
    """What it returns, or the name of the error."""
    try:
        return action()
    except OSError as e:
        return errno.errorcode[e.errno]


def ended_with(mounted):
    """Unmounts, and answers the exit code."""
    tarnfs = mounted.tarnfs
    with contextlib.suppress(mounting.MountError):
        mounted.stop()
    return tarnfs.process.returncode


def run_to_end(*arguments):
    """A tarnfs that is to refuse: its exit code and what it printed. One that mounts after all is ended."""
    process = subprocess.Popen(
        [program(), "--foreground", *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        out, err = process.communicate(timeout=10)
        return process.returncode, out, err
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        subprocess.run(["umount", "-l", str(arguments[-1])], stderr=subprocess.DEVNULL)
        raise Failed(f"tarnfs {' '.join(map(str, arguments))} runs on") from None


# --- Running ----------------------------------------------------------------------------------------------------------


def run_case(name):
    function, timeout, _, needs, _ = CASES[name]
    started = time.monotonic()
    try:
        for tool in needs:
            if not shutil.which(tool):
                raise Skip(f"there is no {tool}")
        with mounting.Watchdog(timeout):
            function()
    except Skip as e:
        return f"skipped: {e}"
    except (Failed, OSError, mounting.MountError, subprocess.SubprocessError) as e:
        traceback.print_exception(e)
        return f"FAILED: {type(e).__name__}: {e}"
    return f"passed in {time.monotonic() - started:.1f} s"


def main(arguments):
    if arguments == ["--list"]:
        for name, (_, timeout, slow, _, measures) in CASES.items():
            print(name, timeout, "slow" if slow else "quick", "alone" if measures else "together")
        return 0
    for name in arguments:
        if name not in CASES:
            print(f"no such case: {name}", file=sys.stderr)
            return 2
    if not os.access(os.environ.get("TARNFS_BIN", ""), os.X_OK):
        print("TARNFS_BIN does not name a program", file=sys.stderr)
        return 2
    if why := mounting.why_no_mount():
        print(f"skipped: {why}")
        return SKIPPED
    outcomes = []
    for name in arguments or CASES:
        print(f"{name} ...", flush=True)
        outcomes.append(run_case(name))
        print(f"  {outcomes[-1]}", flush=True)
    if any(outcome.startswith("FAILED") for outcome in outcomes):
        return 1
    return SKIPPED if all(outcome.startswith("skipped") for outcome in outcomes) else 0

