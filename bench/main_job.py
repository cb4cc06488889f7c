#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The main job: the plan's workload on a mounted tarnfs, every byte verified, and what its reads and writes cost.

Called by run.sh, which builds the programs; README.md says what is measured and how.
"""

import argparse
import contextlib
import itertools
import json
import os
import pathlib
import platform
import select
import shutil
import signal
import subprocess
import sys
import time

import main_job_report as report

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tests" / "mount"))
import mounting
from mounting import MiB

KiB = 1 << 10
GiB = 1 << 30
PART_BYTES = 256 * MiB  # the plan's chunk
PATHS = ["before", "after", "copy", "gather"]
# glibc keeps big freed blocks for the next call once it has seen one: a path that makes a buffer for each read then
# shows no page fault. With a fixed threshold it gives them back, which is what a program sees whose other allocations
# undo the keeping.
FIXED_THRESHOLD = {"MALLOC_MMAP_THRESHOLD_": "65536"}
REFERENCE = "after"
PLAN_WRITES = "plan_writes"  # no path of tarnfs: the program that keeps what is written as the plan did
CPU = 0
SIZES = {"4KiB": 4 * KiB, "128KiB": 128 * KiB, "1MiB": MiB}
GOALS = {"read/1MiB/gather": 1.10, "read/128KiB/gather": 1.0, "read/128KiB/copy": 1.0, "requests/reread/keep_cache": 0}

CHUNKS = (4 * KiB, 64 * KiB, 2 * MiB)
FORMS = {
    # large: bytes of one large file. pairs: of each figure. mounts: that make up one side of a pair. passes: in each.
    # length: how much of the file one pass reads or writes, if less. settings: whether bytes are compared with every chunk
    # and part size, too.
    "quick": dict(
        large=32 * MiB,
        pairs=5,
        mounts=1,
        passes=2,
        sizes=["128KiB", "1MiB"],
        cached=["128KiB"],
        free=[],
        length={},
        settings=False,
    ),
    "default": dict(
        large=64 * MiB,
        pairs=7,
        mounts=2,
        passes=2,
        sizes=list(SIZES),
        cached=["128KiB"],
        free=["128KiB"],
        length={"4KiB": 8 * MiB},
        settings=False,
    ),
    "full": dict(
        large=300_000_000,
        pairs=15,
        mounts=2,
        passes=1,
        sizes=list(SIZES),
        cached=list(SIZES),
        free=list(SIZES),
        length={"4KiB": 16 * MiB},
        settings=True,
    ),
}


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
        self("close", slot)  # after a failure the process ends, and closes


class Mounts:
    """tarnfs, mounted. A name names a mount, while it is there."""

    suffix = ""
    times = 1

    def __init__(self, arguments, form, session, scratch):
        self._tarnfs, self._plan_writes = arguments.tarnfs, arguments.plan_writes
        self._session, self.scratch = session, scratch
        self._budget = form["large"] * 5 + 512 * MiB
        self._daemons = {}

    @contextlib.contextmanager
    def mounted(self, name, path, source, *options, environment=None, budget=None, part_bytes=PART_BYTES):
        """The folder where the files of `source` are read by this path."""
        at = self.scratch / f"mount-{name}"
        command = [f"--read-path={path}", f"--budget={budget or self._budget}", f"--part-size={part_bytes}", *options]
        program = self._plan_writes if path == PLAN_WRITES else self._tarnfs
        with mounting.Tarnfs(program, source, at, *command, environment=environment) as tarnfs:
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

    def unlink(self, path):
        os.unlink(path)


class InProcess:
    """The same without a mount: the reader has the library in it."""

    suffix = "/in_process"
    times = 4  # sections with no system call in them are short

    def __init__(self, arguments, form, session, scratch):
        self._session, self.scratch = session, scratch
        self._budget = form["large"] * 5 + 512 * MiB
        self._folders = {}

    @contextlib.contextmanager
    def mounted(self, name, path, source, *options, environment=None):
        self._session("attach", source, path, self._budget, PART_BYTES)
        self._folders[name] = source
        yield source
        self._session("detach", self._folders.pop(name))

    def watch(self, name):
        pass

    def pin(self, pinned):
        self._session("pin", CPU if pinned else "any")

    def stats(self, name):
        return self._session("stats", self._folders[name])

    def unlink(self, path):
        self._session("unlink", path)


def workload(session, form, folder, progress, what):
    """What the plan's workload does to files: in a mount, or in a plain folder for the copy to compare with."""
    large = form["large"]
    for number, (size, block) in enumerate(SIZES.items()):
        progress(what, f"write a large file, {size} at a time")
        with session.open(folder / f"large{number}", "create") as slot:
            session("write", slot, 0, large, block, number)
    for number in range(3):
        progress(what, "append")
        with session.open(folder / f"large{number}", "append") as slot:
            session("append", slot, large // 8, 100_000, 10 + number)
        progress(what, "mixed")
        with session.open(folder / f"large{number}", "rw") as slot:
            session("mixed", slot, large // 4, 300_000, 20 + number)
    progress(what, "a file across the border of two 256 MiB parts")
    with session.open(folder / "border", "create") as slot:
        session("write", slot, PART_BYTES - 3 * MiB // 2, 3 * MiB, 70_000, 30)
        session("truncate", slot, PART_BYTES + 4 * MiB)
        session("write", slot, PART_BYTES - 11, 22, 22, 31)
    progress(what, "a thousand small files")
    os.mkdir(folder / "small")
    session("small_write", folder / "small", 1000, 40)
    session("small_read", folder / "small", 1000, 40)
    progress(what, "a stored file: read, patched in the middle")
    with session.open(folder / "stored", "rw") as slot:
        session("read", slot, large, 128 * KiB)
        session("write", slot, large // 2 - 333_333, 777_777, 50_000, 50)


def verify(session, folder, copy, progress, what, blocks):
    """Every name and every byte of a folder against the copy."""
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
    wanted = sorted(str(path.relative_to(copy)) for path in copy.rglob("*"))
    if names != wanted:
        raise WrongBytes(f"{what}: other names: {sorted(set(names) ^ set(wanted))[:5]}")
    for name in wanted:
        if (copy / name).is_dir():
            continue
        if not name.startswith("small"):
            progress(what, f"every byte of {name}")
        with session.open(folder / name, "r", "a"), session.open(copy / name, "r", "b"):
            for block in blocks if not name.startswith("small") else blocks[:1]:
                session.must_be_equal("a", "b", block, f"{what}, {name}")


def write_copy(session, form, mounts, copy, progress):
    """The workload in a plain directory. Returns the file that lay there before it."""
    for name in ("large0", "large1", "large2", "border", "small", "stored"):
        path = copy / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    with session.open(copy / "stored", "create") as slot:
        session("write", slot, 0, form["large"], MiB, 99)
    stored = mounts.scratch / "stored"
    shutil.copyfile(copy / "stored", stored)
    workload(session, form, copy, progress, "the workload on a plain directory, to compare with")
    return stored


def check_workload(session, form, mounts, copy, progress):
    """The workload on each read path, verified in the mount and in what is stored. One at a time: it needs memory."""
    stored = write_copy(session, form, mounts, copy, progress)
    for path in PATHS:
        source = mounts.scratch / f"source-{path}"
        source.mkdir()
        shutil.copyfile(stored, source / "stored")
        what = f"the workload on the read path '{path}'"
        with mounts.mounted(path, path, source, "--direct-io") as at:
            workload(session, form, at, progress, what)
            verify(session, at, copy, progress, f"{what}, in the mount", [MiB, 123_457])  # read back, and re-read
        verify(session, source, copy, progress, f"{what}, stored", [MiB])
        shutil.rmtree(source)
    stored.unlink()


def check_settings(session, form, mounts, copy, progress):
    """The same, smaller, on each read path with every chunk and part size, in ample memory and in an eighth of it."""
    form = {**form, "large": 32 * MiB}
    stored = write_copy(session, form, mounts, copy, progress)
    data_bytes = sum(path.stat().st_blocks * 512 for path in copy.rglob("*") if path.is_file())
    for path, chunk, part, share in itertools.product(PATHS, CHUNKS, (None, 4 * MiB, PART_BYTES), (1, 8)):
        source = mounts.scratch / "source-settings"
        source.mkdir()
        shutil.copyfile(stored, source / "stored")
        budget = (2 if share == 1 else 1) * data_bytes // share
        what = f"'{path}', chunks of {chunk}, parts of {part or chunk}, a budget of {budget}"
        options = ["--direct-io", f"--chunk-size={chunk}"]
        with mounts.mounted("settings", path, source, *options, budget=budget, part_bytes=part or chunk) as at:
            workload(session, form, at, progress, what)
            verify(session, at, copy, progress, f"{what}, in the mount", [MiB])
        verify(session, source, copy, progress, f"{what}, stored", [MiB])
        shutil.rmtree(source)
    stored.unlink()


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


class Rounds:
    """Timed sections by figure and arm. Each round mounts anew: which pages of memory an arm gets is worth up to a
    fifth, so it has to be drawn again for each pair, to be in the spread and not in the median."""

    def __init__(self, session, mounts, form, figures, copy, progress):
        self._session, self._mounts, self.form, self._figures, self._copy = session, mounts, form, figures, copy
        self._progress = progress
        self._sections = {}  # figure -> arm -> a section for each round

    def run(self, what, arms, visit, options, stored):
        """For each round, mounts the arms (name -> read path, environment), each with the file `measured`, verified,
        and lets `visit(order, folders)` time them. The file is stored before the mount, or written in it and kept open.
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
                    path, environment = arms[arm]
                    folders[arm] = stack.enter_context(
                        self._mounts.mounted(arm, path, sources[arm], *options, environment=environment)
                    )
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
                self._mounts.pin(False)
            for arm in arms:
                with self._session.open(sources[arm] / "measured", "r", "a"), self._session.open(
                    self._copy / "measured", "r", "b"
                ):
                    self._session.must_be_equal("a", "b", MiB, f"{what}, {arm}, stored")
                shutil.rmtree(sources[arm])

    def length(self, size):
        return min(self.form["length"].get(size, self.form["large"]), self.form["large"])

    def read(self, size, order, suffix="", before_each=None):
        """Timed reads for each arm, in several short passes that take turns, after one that warms up the buffers of its
        path. What slows the machine down for a while then slows down all arms."""
        passes = {arm: [] for arm in order}
        for number in range(1 + self.form["passes"] * self._mounts.times):
            for arm in order if number % 2 else order[::-1]:
                if before_each:
                    before_each(arm)
                self._mounts.watch(arm)
                section = self._session("read", arm, self.length(size), SIZES[size])
                if number > 0:
                    passes[arm].append(section)
        for arm in order:
            self.keep(f"read/{size}", arm + suffix, total(passes[arm]))

    def keep(self, figure, arm, section):
        self._sections.setdefault(figure, {}).setdefault(arm, []).append(section)

    def add_to_figures(self):
        for figure, arms in self._sections.items():
            for arm, sections in arms.items():
                name, _, suffix = arm.partition("/")
                reference = None
                if name != "tmpfs":
                    by = REFERENCE if figure.startswith("read/") else PLAN_WRITES
                    reference = arms.get(f"{by}/{suffix}" if suffix else by)
                self._figures.add(
                    f"{figure}/{arm}".rstrip("/") + self._mounts.suffix,
                    self._pairs(sections),
                    reference and self._pairs(reference),
                )

    def _pairs(self, sections):
        mounts = self.form["mounts"]
        return [total(sections[at : at + mounts]) for at in range(0, len(sections), mounts)]


def measure_direct(session, mounts, form, figures, copy, progress):
    """Reads of what was written and not yet flushed, and writes, both with --direct-io."""
    rounds = Rounds(session, mounts, form, figures, copy, progress)
    arms = {path: (path, None) for path in PATHS}
    if not mounts.suffix:  # set for a process, so it takes one of its own
        arms["after_fixed_threshold"] = ("after", FIXED_THRESHOLD)
    plain = mounts.scratch / "tmpfs"
    plain.mkdir()
    # Reading has four paths, writing has one. Beside it: how the plan kept what is written, and tmpfs.
    writers = ["gather", "tmpfs"] if mounts.suffix else ["gather", PLAN_WRITES, "tmpfs"]
    write_orders = orders(writers, form["pairs"] * form["mounts"])

    def write(size, arm, folder):
        # A new file each time; the first is not timed and warms the pool up.
        for warm in (True, False):
            mounts.watch(arm)
            with session.open(folder / "written", "create", "written"):
                section = session("write", "written", 0, rounds.length(size), SIZES[size], 70)
        rounds.keep(f"write/{size}", "" if arm == "gather" else arm, section)

    @contextlib.contextmanager
    def writers_folders(folders):
        beside = {"gather": folders["gather"], "tmpfs": plain}
        if PLAN_WRITES not in writers:
            yield beside
            return
        with mounts.mounted(PLAN_WRITES, PLAN_WRITES, plain, "--direct-io") as at:
            mounts.pin(True)
            yield {**beside, PLAN_WRITES: at}

    def visit(order, folders):
        for size in form["sizes"]:
            rounds.read(size, order)
        figures.state = {arm: mounts.stats(arm) for arm in order}
        mounts.pin(False)
        for size in form["free"]:
            rounds.read(size, [arm for arm in order if arm in PATHS], "/free")
        mounts.pin(True)
        for arm in order:
            session.must_be_equal(arm, "wanted", MiB, f"{arm}, after it was timed")
        with writers_folders(folders) as written:
            _, turn = next(write_orders)
            for size in form["sizes"]:
                for arm in turn:
                    write(size, arm, written[arm])
                for arm in writers[:-1]:
                    with session.open(plain / "written", "r", "a"), session.open(written[arm] / "written", "r", "b"):
                        session.must_be_equal("a", "b", MiB, f"write {size}, {arm}")
            for arm in writers[:-1]:
                mounts.unlink(written[arm] / "written")
            os.unlink(plain / "written")

    rounds.run("reads and writes, direct", arms, visit, ["--direct-io"], stored=False)
    rounds.add_to_figures()


def measure_cached(session, mounts, form, figures, copy, progress):
    """Reads through the kernel's page cache, which is dropped before each: clean bytes, held in the pool."""
    rounds = Rounds(session, mounts, form, figures, copy, progress)

    def visit(order, folders):
        for size in form["cached"]:
            rounds.read(size, order, "/cached", before_each=lambda arm: session("drop_pages", arm))

    rounds.run("reads, through the page cache", {path: (path, None) for path in PATHS}, visit, [], stored=True)
    rounds.add_to_figures()


def measure_keep_cache(session, mounts, form, figures, copy, progress):
    """A second read of a file whose pages the kernel keeps across opens: from the page cache, as on tmpfs."""
    rounds = Rounds(session, mounts, form, figures, copy, progress)
    requests = []

    def visit(order, folders):
        for _ in range(3):
            for arm in order:
                session("close", arm)
                session("open", arm, folders[arm] / "measured", "r")
            before = mounts.stats("gather")["read_requests"]
            session("read", "gather", form["large"], SIZES["128KiB"])
            requests.append(mounts.stats("gather")["read_requests"] - before)
        with session.open(copy / "measured", "r", "tmpfs"):
            rounds.read("128KiB", [*order, "tmpfs"], "/keep_cache")

    rounds.run(
        "reads again, cache kept",
        {path: (path, None) for path in (REFERENCE, "gather")},
        visit,
        ["--keep-cache"],
        stored=True,
    )
    rounds.add_to_figures()
    # The median: the system may take back a page of the cache at any time, from any filesystem.
    figures.add_plain("requests/reread/keep_cache", requests, "requests")


class Figures:
    """The results, by name."""

    def __init__(self):
        self.rows = []
        self.state = {}

    def notes(self, mounted):
        held = ", ".join(f"{arm} {stats['dirty_bytes'] // MiB}" for arm, stats in self.state.items())
        notes = [
            "A ratio is the CPU time of plan/after divided by the figure's own, in the same round: above 1 is cheaper.",
            "read/SIZE/PATH is of dirty bytes: what was written and not yet flushed. "
            f"MiB dirty while it was timed: {held}.",
        ]
        if not mounted:
            return notes + [
                "in_process: no mount, the reader has the library in it. "
                "The kernel's last copy is a copy to the reader's buffer."
            ]
        return notes + [
            "CPU time is that of daemon and reader, by their own clocks. 'machine' is the whole machine's count, where "
            "it differs: it has other programs in it.",
            "read/SIZE/PATH and write/SIZE: --direct-io, daemon and reader on one CPU. /free: on any CPU. /cached: "
            "through the page cache, dropped before each read, of clean bytes in the pool. /keep_cache: read again "
            "after a close and an open, from pages that were kept. tmpfs: the same on tmpfs itself.",
            "write/SIZE: the reference keeps what is written as the plan did, in buffers that grow (a reconstruction).",
            "after_fixed_threshold: plan/after with MALLOC_MMAP_THRESHOLD_=65536, so that its vectors go back to the "
            "system after each read. Without it glibc comes to keep them, and their page faults do not show.",
        ]

    def _add(self, name, values, unit, reference=None, reference_values=None, better="lower"):
        ratios = None
        if reference_values is not None:
            ratios = [theirs / ours if ours else None for theirs, ours in zip(reference_values, values)]
            ratios = None if None in ratios else ratios
        spread = report.quartiles(ratios if ratios else values)
        self.rows.append(
            {
                "name": name,
                "reference": reference if ratios else None,
                "ratio": report.median(ratios) if ratios else None,
                "value": report.median(values),
                "unit": unit,
                "n": len(values),
                "spread": [spread[0], spread[2]],
                "goal": GOALS.get(name),
                "better": "higher" if ratios or better == "higher" else "lower",
            }
        )
        return self.rows[-1]

    def add(self, name, sections, reference):
        self._add(
            name,
            [cost(s) for s in sections],
            "CPU s/GiB",
            f"plan/{REFERENCE}",
            [cost(s) for s in reference] if reference else None,
        )
        self._add(
            f"faults/{name}",
            [(s["daemon_faults"] + s["reader_faults"]) / (s["bytes"] / GiB) for s in sections],
            "faults/GiB",
        )
        self._add(
            f"throughput/{name}", [s["bytes"] / GiB / (s["wall_ns"] / 1e9) for s in sections], "GiB/s", better="higher"
        )
        # In ticks of 10 ms, so of all rounds together; it counts what else ran on the machine too.
        moved = sum(s["bytes"] for s in sections) / GiB
        self._add(f"machine/{name}", [sum(s["machine_ns"] for s in sections) / 1e9 / moved], "CPU s/GiB")

    def add_plain(self, name, values, unit):
        self._add(name, values, unit)


def free_memory_bytes():
    for line in pathlib.Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * KiB
    return 0


def run(arguments, form):
    progress = Progress()
    figures = Figures()
    copies = form["large"] * 5 + 600 * MiB
    need = 3 * copies + form["large"] * 6
    if free_memory_bytes() < need:
        raise mounting.MountError(
            f"takes {need // MiB} MiB of free memory, there are {free_memory_bytes() // MiB}: try --quick"
        )
    reason = mounting.why_no_mount()
    if reason:
        print(
            f"nothing can be mounted here ({reason}): the same workload runs in one process, on the library",
            file=sys.stderr,
        )
        form = {**form, "free": []}
    with mounting.scratch_directory(2 * copies + form["large"] * 6) as scratch, Session(
        arguments.in_process if reason else arguments.io, 120
    ) as session:
        copy = scratch / "copy"
        copy.mkdir()
        with session.open(copy / "measured", "create") as slot:
            session("write", slot, 0, form["large"], MiB, 60)
        mounts = (InProcess if reason else Mounts)(arguments, form, session, scratch)
        measure_direct(session, mounts, form, figures, copy, progress)
        if not reason:
            measure_cached(session, mounts, form, figures, copy, progress)
            measure_keep_cache(session, mounts, form, figures, copy, progress)
        (copy / "measured").unlink()
        check_workload(session, form, mounts, copy, progress)
        if form["settings"] and not reason:
            check_settings(session, form, mounts, copy, progress)
    progress.end()
    return figures


def machine():
    model = "unknown CPU"
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    return f"{platform.system()} {platform.release()}, {os.cpu_count()} x {model}"


def main():
    parser = argparse.ArgumentParser(
        prog="bench/run.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument(
        "--full",
        dest="form",
        action="store_const",
        const="full",
        default="default",
        help="the plan's 3 x 300 MB, 15 pairs",
    )
    form.add_argument(
        "--quick", dest="form", action="store_const", const="quick", help="about a minute: fewer sizes, 5 pairs"
    )
    parser.add_argument("--tarnfs", required=True, type=pathlib.Path, help=argparse.SUPPRESS)
    parser.add_argument("--plan-writes", required=True, type=pathlib.Path, help=argparse.SUPPRESS)
    parser.add_argument("--io", required=True, type=pathlib.Path, help=argparse.SUPPRESS)
    parser.add_argument("--in-process", required=True, type=pathlib.Path, help=argparse.SUPPRESS)
    parser.add_argument("--report", required=True, type=pathlib.Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()

    for number in (signal.SIGTERM, signal.SIGHUP):  # as Ctrl-C: through every clean-up
        signal.signal(number, lambda caught, _: sys.exit(128 + caught))
    started = time.monotonic()
    try:
        figures = run(arguments, FORMS[arguments.form])
    except KeyboardInterrupt:
        print("\nstopped; everything is unmounted", file=sys.stderr)
        return 130
    except (WrongBytes, mounting.MountError, OSError, subprocess.SubprocessError) as e:
        print(f"\nFAILED: {e}", file=sys.stderr)
        return 1
    report.write(
        figures,
        arguments.report,
        arguments.form,
        machine(),
        time.monotonic() - started,
        figures.notes(mounted=not mounting.why_no_mount()),
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
