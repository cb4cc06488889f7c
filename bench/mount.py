#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The suite `mount`: what reads and writes through a mount cost, beside the plan's ways and libfuse's own example.

run.sh calls it through suite.py. A figure is a line of JSON, as paired.hpp has it; README.md says what each is.
"""

import argparse
import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import sys

import mounted
from mounted import KiB, MiB, PASSTHROUGH, PATHS, PLAN_WRITES, REFERENCE
from mounted import Arm, Mounts, Progress, Rounds, Session, mounting

READS = ["4KiB", "128KiB", "512KiB", "1MiB"]
WRITES = ["4KiB", "128KiB", "1MiB"]
FORMS = {
    # As in main_job.py; written: bytes of a file that is written.
    "whole": dict(large=64 * MiB, written=300 * MiB, pairs=15, mounts=1, passes=2, length={"4KiB": 16 * MiB}),
    "quick": dict(large=32 * MiB, written=32 * MiB, pairs=5, mounts=1, passes=2, length={"4KiB": 4 * MiB}),
}
PATHS_SAID = {REFERENCE: "plan/after", PLAN_WRITES: "buffers that grow (reconstruction)", PASSTHROUGH: PASSTHROUGH}
COPIED = ("--receive=copy",)
SMALL_BUDGET = 16 * MiB  # holds neither form's file


def say(name, unit, values, reference="", ratios=()):
    row = {"name": name, "reference": reference, "unit": unit, "values": values, "ratios": list(ratios)}
    print(json.dumps(row), flush=True)


def say_costs(rounds, named):
    """Says CPU time by section: named(figure, arm) is the name of the figure, and the arm beside it or None."""
    for figure, arms in rounds.sections.items():
        for arm, sections in arms.items():
            name, beside = named(figure, arm)
            ours = [mounted.cost(pair) for pair in rounds.pairs(sections)]
            if beside is None:
                say(name, "CPU s/GiB", ours)
                continue
            theirs = [mounted.cost(pair) for pair in rounds.pairs(arms[beside])]
            said = PATHS_SAID.get(beside, "threads anywhere")
            say(name, "CPU s/GiB", ours, said, [r / o for r, o in zip(theirs, ours)])


def measure_reads(session, mounts, form, copy, progress):
    """Of dirty bytes, with --direct-io, on each read path and on tmpfs."""
    rounds = Rounds(session, mounts, form, copy, progress)

    def visit(order, folders):
        with session.open(copy / "measured", "r", "tmpfs"):
            for size in READS:
                rounds.read(size, [*order, "tmpfs"])

    rounds.run("reads, direct", {path: Arm(path) for path in PATHS}, visit, ["--direct-io"], stored=False)

    def named(figure, arm):
        name = f"mount/{figure}" if arm == "gather" else f"mount/{figure}/{arm}"
        return name, None if arm in (REFERENCE, "tmpfs") else REFERENCE

    say_costs(rounds, named)


def measure_cached_reads(session, mounts, form, copy, progress):
    """Through the kernel's page cache, dropped before each: of clean bytes in the pool, or that have to be loaded."""
    rounds = Rounds(session, mounts, form, copy, progress)

    def visit(order, folders):
        rounds.read("128KiB", order, before_each=lambda arm: session("drop_pages", arm))

    arms = {
        "gather": Arm("gather"),
        "not_held": Arm("gather", options=(f"--budget={SMALL_BUDGET}",)),
        PASSTHROUGH: Arm(PASSTHROUGH),
    }
    rounds.run("reads, through the page cache", arms, visit, [], stored=True)

    def named(_, arm):
        name = "mount/read/cached_128KiB"
        return name if arm == "gather" else f"{name}/{arm}", None if arm == PASSTHROUGH else PASSTHROUGH

    say_costs(rounds, named)


def measure_rereads(session, mounts, form, copy, progress):
    """Read requests that reach the daemon while a file is read again whose pages the kernel keeps across opens."""
    rounds = Rounds(session, mounts, form, copy, progress)
    requests = []

    def visit(_, folders):
        requests.append(mounts.reread_requests("gather", folders["gather"] / "measured", form["large"], 128 * KiB))

    rounds.run("reads again, cache kept", {"gather": Arm("gather")}, visit, ["--keep-cache"], stored=True)
    say("mount/reread_requests", "requests", requests)


def measure_placement(session, mounts, form, copy, progress):
    """What it is worth that each thread of tarnfs stays on a processor: to a reader that does so, and to others."""
    rounds = Rounds(session, mounts, form, copy, progress)

    def visit(order, _):
        for reader, cpu in (("reader_anywhere", "any"), ("reader_on_one_cpu", mounted.CPU)):
            session("pin", cpu)
            for size in ("4KiB", "128KiB"):
                rounds.read(size, order, f"/{reader}")
        session("pin", "any")

    arms = {"anywhere": Arm("gather"), "one_thread_a_cpu": Arm("gather", options=("--one-thread-a-cpu",))}
    rounds.run("reads, by where threads run", arms, visit, ["--direct-io"], stored=False, pinned=False)

    def named(figure, arm):
        threads, reader = arm.split("/")
        name = f"mount/{figure}/{reader}"
        return (name, None) if threads == "anywhere" else (f"{name}/{threads}", f"anywhere/{reader}")

    say_costs(rounds, named)


def measure_writes(session, mounts, form, copy, progress, what, beside, sizes, options, suffix):
    """New files, each written twice: into a new mount and, which is what counts, again. Then closed, which is timed by
    itself: tarnfs stores there what it has held. `beside` is what tarnfs is compared with; tmpfs is shown."""
    arms = {"gather": Arm("gather"), "copied": Arm("gather", options=COPIED), beside: Arm(beside), "tmpfs": None}
    rounds = Rounds(session, mounts, form, copy, progress)
    plain = mounts.scratch / "plain"
    plain.mkdir()

    def write(arm, folder, size):
        mounts.watch(arm)
        with session.open(folder / "written", "create", "written"):
            return session("write", "written", 0, rounds.length(size, "written"), mounted.bytes_of(size), 70)

    def round_of(order, folders):
        for size in sizes:
            for arm in order:
                write(arm, folders[arm], size)
                written = write(arm, folders[arm], size)
                rounds.keep(f"write/{size}", arm, written)
                if arm != "tmpfs":
                    rounds.keep(f"write/{size}/and_close", arm, mounted.total([written, session.last_close]))
            for arm in order:
                with session.open(plain / "written", "r", "a"), session.open(folders[arm] / "written", "r", "b"):
                    session.must_be_equal("a", "b", MiB, f"{what}, {size}, {arm}")
        for arm in order:
            os.unlink(folders[arm] / "written")

    number_of_rounds = form["pairs"] * form["mounts"]
    for number, order in mounted.orders(arms, number_of_rounds):
        progress(what, f"round {number + 1} of {number_of_rounds}")
        with contextlib.ExitStack() as stack:
            folders = {"tmpfs": plain}
            for arm in order:
                its = arms[arm]
                if its is None:
                    continue
                source = mounts.scratch / f"source-{arm}"
                source.mkdir()
                stack.callback(shutil.rmtree, source)
                folders[arm] = stack.enter_context(mounts.mounted(arm, its.path, source, *options, *its.options))
            mounts.pin(True)
            round_of(order, folders)
            mounts.pin(False)
    plain.rmdir()

    def named(figure, arm):
        words = figure.split("/")
        name = "/".join(["mount", "write", suffix + words[1], *words[2:], *([] if arm == "gather" else [arm])])
        return name, beside if arm in ("gather", "copied") else None

    say_costs(rounds, named)


def note_machine():
    found = subprocess.run(["pkg-config", "--modversion", "fuse3"], capture_output=True, text=True).stdout.strip()
    huge = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")
    pages = huge.read_text().strip() if huge.exists() else "none"
    note = f"libfuse {found or 'of an unknown version'}; transparent huge pages: {pages}"
    print(json.dumps({"note": note}), flush=True)


def run(arguments, form):
    progress = Progress()
    # Of the copy, of each of four arms in SOURCE and pool, and of what is written, in as many places.
    need = 9 * form["large"] + 7 * form["written"] + 600 * MiB
    if mounted.free_memory_bytes() < need:
        raise mounting.MountError(
            f"takes {need // MiB} MiB of free memory, there are {mounted.free_memory_bytes() // MiB}: try --quick"
        )
    scratch_bytes = 5 * form["large"] + 3 * form["written"] + 64 * MiB
    with mounting.scratch_directory(scratch_bytes) as scratch, Session(arguments.io, 120) as session:
        copy = scratch / "copy"
        copy.mkdir()
        with session.open(copy / "measured", "create") as slot:
            session("write", slot, 0, form["large"], MiB, 60)
        mounts = Mounts(arguments, max(form["large"], form["written"]), session, scratch)
        note_machine()
        everything = session, mounts, form, copy, progress
        measure_reads(*everything)
        measure_cached_reads(*everything)
        measure_rereads(*everything)
        measure_placement(*everything)
        measure_writes(*everything, "writes, direct", PLAN_WRITES, WRITES, ["--direct-io"], "")
        measure_writes(*everything, "writes, through the page cache", PASSTHROUGH, ["128KiB"], [], "cached_")
    progress.end()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    mounted.add_programs(parser)
    arguments = parser.parse_args()
    if reason := mounting.why_no_mount():
        print(f"nothing can be mounted here ({reason}): there are no figures of mount", file=sys.stderr)
        return 1
    mounted.end_in_order()
    try:
        run(arguments, FORMS["quick" if arguments.quick else "whole"])
    except KeyboardInterrupt:
        print("\nstopped; everything is unmounted", file=sys.stderr)
        return 130
    except (mounted.WrongBytes, mounting.MountError, OSError, subprocess.SubprocessError) as e:
        print(f"\nFAILED: {e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
