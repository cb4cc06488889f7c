# SPDX-License-Identifier: MIT
"""What is timed on mounts: the reader and writer, and arms, which are filesystems that are mounted anew for each round.

main_job.py and mount.py say what is measured; README.md says how.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import pathlib
import select
import shutil
import signal
import subprocess
import sys
import time

TESTS = pathlib.Path(__file__).resolve().parent.parent / "tests"
sys.path[1:1] = [str(TESTS), str(TESTS / "mount")]
import mounting
from mounting import MiB

KiB = 1 << 10
GiB = 1 << 30
PART_BYTES = 256 * MiB  # the plan's chunk
PATHS = ["before", "after", "copy", "gather"]
REFERENCE = "after"
# No paths of tarnfs: the program that keeps what is written as the plan did, and libfuse's example, which passes on.
PLAN_WRITES = "plan_writes"
PASSTHROUGH = "passthrough_ll"
CPU = 0


def bytes_of(size):
    """Of a size as names have it: 128KiB."""
    number, unit = size[:-3], size[-3:]
    return int(number) * {"KiB": KiB, "MiB": MiB}[unit]


def add_programs(parser):
    """The arguments that say where what run.sh has built lies."""
    for name in ("--tarnfs", "--io", "--plan-writes"):
        parser.add_argument(name, required=True, type=pathlib.Path, help=argparse.SUPPRESS)
    parser.add_argument("--passthrough-ll", type=pathlib.Path, help=argparse.SUPPRESS)


def end_in_order():
    """What ends this program does so as Ctrl-C does, through every clean-up."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda caught, _: sys.exit(128 + caught))


def free_memory_bytes():
    for line in pathlib.Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * KiB
    return 0


class WrongBytes(Exception):
    pass


class Progress:
    """One line that is written over; where that is not possible, a line for each step."""

    def __init__(self):
        self._started = time.monotonic()
        self._last = None

    def __call__(self, step, detail=""):
        elapsed = time.monotonic() - self._started
        if sys.stderr.isatty():
            print(
                f"\r\033[K[{elapsed:4.0f} s] {step}{': ' if detail else ''}{detail}",
                end="",
                file=sys.stderr,
                flush=True,
            )
        elif step != self._last:
            print(f"[{elapsed:4.0f} s] {step}", file=sys.stderr, flush=True)
        self._last = step

    def end(self):
        if sys.stderr.isatty():
            print("\r\033[K", end="", file=sys.stderr, flush=True)


class Session:
    """The reader and writer: one process, told what to do line by line."""

    def __init__(self, program, timeout):
        self._program, self._timeout = program, timeout
        self.last_close = None  # as a section of no bytes

    def __enter__(self):
        self._process = subprocess.Popen(
            [str(self._program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        return self

    def __exit__(self, *error):
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:  # it waits for a filesystem
            mounting.kill_all()
            self._process.kill()
            self._process.wait(10)

    def __call__(self, *words):
        line = " ".join(map(str, words))
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()
        ready, _, _ = select.select([self._process.stdout], [], [], self._timeout)
        if not ready:
            mounting.kill_all()
            raise mounting.MountError(f"not done within {self._timeout} s: {line}")
        answer = self._process.stdout.readline()
        if not answer:
            raise mounting.MountError(f"the reader ended at: {line}")
        answer = json.loads(answer)
        if "error" in answer:
            raise mounting.MountError(answer["error"])
        return answer

    def must_be_equal(self, a, b, block, what):
        differs_at = self("compare", a, b, block)["differs_at"]
        if differs_at >= 0:
            raise WrongBytes(f"{what}: byte {differs_at} is wrong")

    @contextlib.contextmanager
    def open(self, path, mode, slot=None):
        slot = slot or str(path)
        self("open", slot, path, mode)
        yield slot
        self.last_close = self("close", slot)  # after a failure the process ends, and closes


class Mounts:
    """tarnfs, mounted. A name names a mount, while it is there."""

    suffix = ""
    times = 1

    def __init__(self, arguments, file_bytes, session, scratch):
        self._programs = {PLAN_WRITES: arguments.plan_writes, PASSTHROUGH: arguments.passthrough_ll}
        self._tarnfs = arguments.tarnfs
        self._session, self.scratch = session, scratch
        self._budget = file_bytes * 5 + 512 * MiB  # holds all that is made of files of that size
        self._daemons = {}

    @contextlib.contextmanager
    def mounted(self, name, path, source, *options, environment=None, budget=None, part_bytes=PART_BYTES):
        """The folder where the files of `source` are read by this path."""
        at = self.scratch / f"mount-{name}"
        words = [f"--read-path={path}", f"--budget={budget or self._budget}", f"--part-size={part_bytes}", *options]
        program = self._programs.get(path, self._tarnfs)
        command = [program, "-f", "-o", f"source={source}", at] if path == PASSTHROUGH else None
        with mounting.Tarnfs(program, source, at, *words, environment=environment, command=command) as tarnfs:
            self._daemons[name] = tarnfs
            try:
                yield at
                self._session("watch", 0)
                tarnfs.unmount()
            finally:
                self._daemons.pop(name)

    def watch(self, name):
        """What is timed next is served by this mount, or by none."""
        self._session("watch", self._daemons[name].pid if name in self._daemons else 0)

    def pin(self, pinned):
        """Every mount and the reader run on one CPU, or on any."""
        cpus = {CPU} if pinned else os.sched_getaffinity(0)
        for tarnfs in self._daemons.values():
            tarnfs.pin(cpus)
        self._session("pin", CPU if pinned else "any")

    def stats(self, name):
        return self._daemons[name].stats()

    def reread_requests(self, name, path, size_bytes, block):
        """How many read requests reach the daemon while the file, which is open under the mount's name, is closed,
        opened and read again."""
        self._session("close", name)
        self._session("open", name, path, "r")
        before = self.stats(name)["read_requests"]
        self._session("read", name, size_bytes, block)
        return self.stats(name)["read_requests"] - before

    def unlink(self, path):
        os.unlink(path)


def cost(section):
    return (section["daemon_ns"] + section["reader_ns"]) / 1e9 / (section["bytes"] / GiB)


def total(sections):
    return {key: sum(section[key] for section in sections) for key in sections[0]}


def orders(arms, rounds):
    """For each round the order of its arms: turned round and rotated, so that no arm keeps its place."""
    arms = list(arms)
    for number in range(rounds):
        shift = number // 2 % len(arms)
        order = arms[shift:] + arms[:shift]
        yield number, order if number % 2 == 0 else order[::-1]


@dataclasses.dataclass
class Arm:
    path: str
    environment: dict = None
    options: tuple = ()


class Rounds:
    """Timed sections by figure and arm. Each round mounts anew: which pages of memory an arm gets is worth up to a
    fifth, so it has to be drawn again for each pair, to be in the spread and not in the median."""

    def __init__(self, session, mounts, form, copy, progress):
        self._session, self._mounts, self.form, self._copy, self._progress = session, mounts, form, copy, progress
        self.sections = {}  # figure -> arm -> a section for each round

    def run(self, what, arms, visit, options, stored, pinned=True):
        """For each round, mounts the arms (name -> Arm), each with the file `measured`, verified, and lets
        `visit(order, folders)` time them. The file is stored before the mount, or written in it and kept open. Pinned,
        all run on one CPU.
        """
        rounds = self.form["pairs"] * self.form["mounts"]
        for number, order in orders(arms, rounds):
            self._progress(what, f"round {number + 1} of {rounds}")
            sources = {arm: self._mounts.scratch / f"source-{arm}" for arm in arms}
            with contextlib.ExitStack() as stack:
                folders = {}
                for arm in order:
                    sources[arm].mkdir()
                    if stored:
                        shutil.copyfile(self._copy / "measured", sources[arm] / "measured")
                    its = arms[arm]
                    folders[arm] = stack.enter_context(
                        self._mounts.mounted(
                            arm, its.path, sources[arm], *options, *its.options, environment=its.environment
                        )
                    )
                if pinned:
                    self._mounts.pin(True)
                stack.enter_context(self._session.open(self._copy / "measured", "r", "wanted"))
                for arm in order:
                    # Kept open: no close flushes what is written here, so reads are of dirty bytes.
                    stack.enter_context(self._session.open(folders[arm] / "measured", "r" if stored else "create", arm))
                    if not stored:
                        self._session("write", arm, 0, self.form["large"], MiB, 60)
                for arm in order:
                    self._session.must_be_equal(arm, "wanted", MiB, f"{what}, {arm}")
                visit(order, folders)
                if pinned:
                    self._mounts.pin(False)
            for arm in arms:
                with self._session.open(sources[arm] / "measured", "r", "a"), self._session.open(
                    self._copy / "measured", "r", "b"
                ):
                    self._session.must_be_equal("a", "b", MiB, f"{what}, {arm}, stored")
                shutil.rmtree(sources[arm])

    def length(self, size, whole="large"):
        """How much of a file a pass with requests of that size reads or writes; `whole`: which of the form's files."""
        return min(self.form["length"].get(size, self.form[whole]), self.form[whole])

    def read(self, size, order, suffix="", before_each=None):
        """Timed reads for each arm, in several short passes that take turns, after one that warms up the buffers of its
        path. What slows the machine down for a while then slows down all arms."""
        passes = {arm: [] for arm in order}
        for number in range(1 + self.form["passes"] * self._mounts.times):
            for arm in order if number % 2 else order[::-1]:
                if before_each:
                    before_each(arm)
                self._mounts.watch(arm)
                section = self._session("read", arm, self.length(size), bytes_of(size))
                if number > 0:
                    passes[arm].append(section)
        for arm in order:
            self.keep(f"read/{size}", arm + suffix, total(passes[arm]))

    def keep(self, figure, arm, section):
        self.sections.setdefault(figure, {}).setdefault(arm, []).append(section)

    def pairs(self, sections):
        """The sections of each pair, as one."""
        mounts = self.form["mounts"]
        return [total(sections[at : at + mounts]) for at in range(0, len(sections), mounts)]
