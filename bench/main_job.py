#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The main job: the plan's workload on a mounted tarnfs, every byte verified, and what its reads and writes cost.

Called by run.sh, which builds the programs; README.md says what is measured and how.
"""

import argparse
import contextlib
import itertools
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import time

import main_job_report
import mounted
from figures import quartiles
from mounted import CPU, GiB, KiB, MiB, PART_BYTES, PATHS, PLAN_WRITES, REFERENCE
from mounted import Arm, Mounts, Progress, Rounds, Session, WrongBytes, mounting
from report import machine

# glibc keeps big freed blocks for the next call once it has seen one: a path that makes a buffer for each read then
# shows no page fault. With a fixed threshold it gives them back, which is what a program sees whose other allocations
# undo the keeping.
FIXED_THRESHOLD = {"MALLOC_MMAP_THRESHOLD_": "65536"}
SIZES = ["4KiB", "128KiB", "1MiB"]
GOALS = {"read/1MiB/gather": 1.10, "read/128KiB/gather": 1.0, "read/128KiB/copy": 1.0, "requests/reread/keep_cache": 0}

CHUNKS = (4 * KiB, 64 * KiB, 2 * MiB)
FORMS = {
    # large: bytes of one large file. pairs: of each figure. mounts: that make up one side of a pair. passes: in each.
    # length: how much of the file one pass reads or writes, if less. settings: whether bytes are compared with every
    # chunk and part size, too.
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
        sizes=SIZES,
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
        sizes=SIZES,
        cached=SIZES,
        free=SIZES,
        length={"4KiB": 16 * MiB},
        settings=True,
    ),
}


class InProcess:
    """The same without a mount: the reader has the library in it."""

    suffix = "/in_process"
    times = 4  # sections with no system call in them are short

    def __init__(self, arguments, file_bytes, session, scratch):
        self._session, self.scratch = session, scratch
        self._budget = file_bytes * 5 + 512 * MiB
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
    for number, size in enumerate(SIZES):
        progress(what, f"write a large file, {size} at a time")
        with session.open(folder / f"large{number}", "create") as slot:
            session("write", slot, 0, large, mounted.bytes_of(size), number)
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


def measure_direct(session, mounts, form, figures, copy, progress):
    """Reads of what was written and not yet flushed, and writes, both with --direct-io."""
    rounds = Rounds(session, mounts, form, copy, progress)
    arms = {path: Arm(path) for path in PATHS}
    if not mounts.suffix:  # set for a process, so it takes one of its own
        arms["after_fixed_threshold"] = Arm("after", FIXED_THRESHOLD)
    plain = mounts.scratch / "tmpfs"
    plain.mkdir()
    # Reading has four paths, writing has one. Beside it: how the plan kept what is written, and tmpfs.
    writers = ["gather", "tmpfs"] if mounts.suffix else ["gather", PLAN_WRITES, "tmpfs"]
    write_orders = mounted.orders(writers, form["pairs"] * form["mounts"])

    def write(size, arm, folder):
        # A new file each time; the first is not timed and warms the pool up.
        for warm in (True, False):
            mounts.watch(arm)
            with session.open(folder / "written", "create", "written"):
                section = session("write", "written", 0, rounds.length(size), mounted.bytes_of(size), 70)
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
    figures.add_rounds(rounds, mounts.suffix)


def measure_cached(session, mounts, form, figures, copy, progress):
    """Reads through the kernel's page cache, which is dropped before each: clean bytes, held in the pool."""
    rounds = Rounds(session, mounts, form, copy, progress)

    def visit(order, folders):
        for size in form["cached"]:
            rounds.read(size, order, "/cached", before_each=lambda arm: session("drop_pages", arm))

    rounds.run("reads, through the page cache", {path: Arm(path) for path in PATHS}, visit, [], stored=True)
    figures.add_rounds(rounds, mounts.suffix)


def measure_keep_cache(session, mounts, form, figures, copy, progress):
    """A second read of a file whose pages the kernel keeps across opens: from the page cache, as on tmpfs."""
    rounds = Rounds(session, mounts, form, copy, progress)
    requests = []

    def visit(order, folders):
        for _ in range(3):
            session("close", REFERENCE)
            session("open", REFERENCE, folders[REFERENCE] / "measured", "r")
            requests.append(mounts.reread_requests("gather", folders["gather"] / "measured", form["large"], 128 * KiB))
        with session.open(copy / "measured", "r", "tmpfs"):
            rounds.read("128KiB", [*order, "tmpfs"], "/keep_cache")

    rounds.run(
        "reads again, cache kept",
        {path: Arm(path) for path in (REFERENCE, "gather")},
        visit,
        ["--keep-cache"],
        stored=True,
    )
    figures.add_rounds(rounds, mounts.suffix)
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
        spread = quartiles(ratios if ratios else values)
        self.rows.append(
            {
                "name": name,
                "reference": reference if ratios else None,
                "ratio": statistics.median(ratios) if ratios else None,
                "value": statistics.median(values),
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
            [mounted.cost(s) for s in sections],
            "CPU s/GiB",
            f"plan/{REFERENCE}",
            [mounted.cost(s) for s in reference] if reference else None,
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

    def add_rounds(self, rounds, suffix):
        for figure, arms in rounds.sections.items():
            for arm, sections in arms.items():
                path, _, rest = arm.partition("/")
                reference = None
                if path != "tmpfs":
                    by = REFERENCE if figure.startswith("read/") else PLAN_WRITES
                    reference = arms.get(f"{by}/{rest}" if rest else by)
                name = f"{figure}/{arm}".rstrip("/") + suffix
                self.add(name, rounds.pairs(sections), reference and rounds.pairs(reference))

    def add_plain(self, name, values, unit):
        self._add(name, values, unit)


def run(arguments, form):
    progress = Progress()
    figures = Figures()
    copies = form["large"] * 5 + 600 * MiB
    need = 3 * copies + form["large"] * 6
    if mounted.free_memory_bytes() < need:
        raise mounting.MountError(
            f"takes {need // MiB} MiB of free memory, there are {mounted.free_memory_bytes() // MiB}: try --quick"
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
        mounts = (InProcess if reason else Mounts)(arguments, form["large"], session, scratch)
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
    mounted.add_programs(parser)
    parser.add_argument("--in-process", required=True, type=pathlib.Path, help=argparse.SUPPRESS)
    parser.add_argument("--report", required=True, type=pathlib.Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()

    mounted.end_in_order()
    started = time.monotonic()
    try:
        figures = run(arguments, FORMS[arguments.form])
    except KeyboardInterrupt:
        print("\nstopped; everything is unmounted", file=sys.stderr)
        return 130
    except (WrongBytes, mounting.MountError, OSError, subprocess.SubprocessError) as e:
        print(f"\nFAILED: {e}", file=sys.stderr)
        return 1
    main_job_report.write(
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
