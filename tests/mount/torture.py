# SPDX-License-Identifier: MIT
"""Runs the two programs of torture/ on a mounted tarnfs: which settings there are, what each program is told, and what
came of it.

    TORTURE_BIN=build/dev/tests/mount                       where they are
    TORTURE_LOGS=DIR                                        where one that goes wrong leaves its operations  [$TMPDIR]

Thread safety: none.
"""

import contextlib
import dataclasses
import itertools
import os
import signal
import subprocess
import tempfile
import time

import mounting
from cases import READ_PATHS, Failed, KiB, Pair, expect
from mounting import MiB

# Where the kernel keeps no pages there are no shared maps.
REFUSED_WITHOUT_PAGES = "mapped_read,mapped_write"
CHUNKS = ["4K", "64K"]
DROP_CACHES = "/proc/sys/vm/drop_caches"


@dataclasses.dataclass
class Setting:
    options: list
    chunk_bytes: int
    part_bytes: int
    max_bytes: int  # of each large file; a few of them are more than the budget
    direct: bool

    def __str__(self):
        return " ".join(option.removeprefix("--") for option in self.options)


def settings(chunks=CHUNKS):
    """Every read path, with and without the kernel's pages, with small chunks and large ones; so little memory that
    chunks leave and are stored for room all the time. What else there is to choose goes round."""
    made = []
    for number, (chunk, path, direct) in enumerate(itertools.product(chunks, READ_PATHS, (False, True))):
        heap = number // 2 % 2 == 0
        small = chunk == "4K"
        budget = (2 if small else 3) if heap else 8  # MiB; an arena needs some 5
        receive = "copy" if number // 3 % 2 else "in-place"
        if receive == "in-place":
            budget += 9  # of which a quarter goes to two threads
        options = [
            f"--read-path={path}",
            "--direct-io" if direct else ["--keep-cache", "--threads=4"][number // 4 % 2],
            f"--chunk-size={chunk}",
            f"--part-size={'64K' if small else '1M'}",
            f"--storage={'heap' if heap else 'arena'}",
            f"--budget={budget}M",
            f"--receive={receive}",
            *[["--prefault"], [], ["--read-ahead=256K"]][number % 3],
        ]
        part = 64 * KiB if small else MiB
        made.append(Setting(options, 4 * KiB if small else 64 * KiB, part, budget * MiB // 2, direct))
    return made


@dataclasses.dataclass
class Count:
    done: int = 0  # and as it should be; of names, also with an error that both gave
    refused: int = 0
    succeeded: int = 0  # of names: without an error

    def __add__(self, other):
        return Count(self.done + other.done, self.refused + other.refused, self.succeeded + other.succeeded)


@dataclasses.dataclass
class Outcome:
    seconds: float
    counts: dict  # (program, kind) -> Count
    stats: dict  # tarnfs's own counters at the end


def _start(name, seed, *arguments):
    log = os.path.join(os.environ.get("TORTURE_LOGS", tempfile.gettempdir()), f"torture-{name}-{seed}.log")
    return subprocess.Popen(
        [os.path.join(os.environ["TORTURE_BIN"], f"torture_{name}"), f"--seed={seed}", f"--log={log}", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _wait_while_storing(processes, tarnfs):
    """Until all have ended; tarnfs is told to store everything over and over, while they go on."""
    for process in processes:
        while True:
            try:
                process.wait(0.03)
                break
            except subprocess.TimeoutExpired:
                tarnfs.send(signal.SIGUSR2)


def _count(processes, what):
    counts = {}
    for name, process in processes:
        out, err = process.communicate()
        expect(process.returncode == 0, f"{what}: torture_{name} ended with {process.returncode}: {err}")
        for line in out.splitlines():
            kind, *numbers = line.split()
            counts[name, kind] = counts.get((name, kind), Count()) + Count(*map(int, numbers))
    return counts


def _run(setting, pair, what, commands):
    started = time.monotonic()
    with contextlib.ExitStack() as stack:
        processes = []
        for name, seed, arguments in commands:
            process = _start(name, seed, *arguments)
            stack.callback(process.communicate)
            stack.callback(process.kill)
            processes.append((name, process))
        _wait_while_storing([process for _, process in processes], pair.mounted.tarnfs)
        counts = _count(processes, what)
        stats = pair.mounted.tarnfs.stats()
        # It says what it could not store, and its counters.
        said = [line for line in pair.mounted.tarnfs.log().splitlines() if not line.split()[-1].isdigit()]
        expect(not said, f"{what}: tarnfs said {said}")
    return Outcome(time.monotonic() - started, counts, stats)


def torture_bytes(setting, seed, tiny_steps, large_steps, forget_every=0):
    """On tiny files and on large ones at once, in one mount. Errors: raises Failed, with the seeds in its text."""
    with Pair(*setting.options) as pair:

        def command(folder, seed, steps, files, max_bytes):
            (pair.source / folder).mkdir()
            return (
                "bytes",
                seed,
                [
                    f"--directory={pair.at / folder}",
                    f"--source={pair.source / folder}",
                    f"--steps={steps}",
                    f"--max-bytes={max_bytes}",
                    f"--chunk-bytes={setting.chunk_bytes}",
                    f"--part-bytes={setting.part_bytes}",
                    f"--files={files}",
                    *([f"--forget-every={forget_every}"] if forget_every and os.access(DROP_CACHES, os.W_OK) else []),
                    *([f"--refused={REFUSED_WITHOUT_PAGES}"] if setting.direct else []),
                ],
            )

        # The two folders come from SOURCE itself, before anybody has looked for them in the mount.
        commands = [
            command("tiny", seed, tiny_steps, 3, 20 * KiB),
            command("large", seed + 1, large_steps, 5, setting.max_bytes),
        ]
        outcome = _run(setting, pair, f"{setting}, seed {seed}", commands)
        held = {path.relative_to(pair.at): path.read_bytes() for path in pair.at.glob("*/*")}
        pair.mounted.stop()
        for name, data in held.items():
            expect((pair.source / name).read_bytes() == data, f"{setting}, seed {seed}: {name} after the unmount")
        return outcome


def torture_names(setting, seed, steps):
    with Pair(*setting.options) as pair:
        arguments = [f"--directory={pair.at}", f"--plain={pair.plain}", f"--steps={steps}"]
        outcome = _run(setting, pair, f"names, {setting}, seed {seed}", [("names", seed, arguments)])
        try:
            pair.finish()
        except Failed as e:
            raise Failed(f"names, {setting}, seed {seed}, at the end: {e}") from e
        return outcome
