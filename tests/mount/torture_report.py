#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""So many random operations on the bytes of files in a mounted tarnfs, half of them on tiny files, spread over all
settings; a tenth as many on names beside them. Writes a report, also of a run in which something went wrong.

    tests/mount/torture_report.py OPERATIONS BUILD REPORT        `tests/run.sh mounted [OPERATIONS]` calls it

TARN_MOUNTED_SEED=N: begins with this seed; without it the clock says which.
"""

import os
import pathlib
import subprocess
import sys
import time

sys.path.insert(1, str(pathlib.Path(__file__).resolve().parent.parent))

import mounting
from cases import Failed
from report import head, table
from torture import Count, settings, torture_bytes, torture_names

MOST_AT_ONCE = 10_000  # operations of one program in one mount
PATIENCE_SECONDS = 600


class Row:
    """What came of one setting."""

    def __init__(self, setting):
        self.setting = setting
        self.seeds, self.counts, self.stats, self.seconds, self.wrong = [], {}, {}, 0, []

    def run(self, torture, seed, *arguments):
        self.seeds.append(seed)
        started = time.monotonic()
        try:
            with mounting.Watchdog(PATIENCE_SECONDS):
                outcome = torture(self.setting, seed, *arguments)
        except (Failed, OSError, mounting.MountError, subprocess.SubprocessError) as e:
            self.wrong.append(f"{type(e).__name__}: {e}")
            print(f"  WRONG: {self.wrong[-1]}", flush=True)
            return
        finally:
            self.seconds += time.monotonic() - started
        for key, count in outcome.counts.items():
            self.counts[key] = self.counts.get(key, Count()) + count
        for name in ("loads", "flushes", "evictions"):
            self.stats[name] = self.stats.get(name, 0) + outcome.stats[name]

    def operations(self, program):
        return sum(count.done + count.refused for (of, _), count in self.counts.items() if of == program)


def kinds_table(rows, program, names):
    kinds = dict.fromkeys(kind for row in rows for (of, kind) in row.counts if of == program)

    def cell(count):
        done = f"{count.succeeded} of {count.done}" if program == "names" else str(count.done)
        if not count.refused:
            return done
        return f"{done}, {count.refused} refused" if count.done else f"{count.refused} refused"

    lines = []
    for kind in kinds:
        counts = [row.counts.get((program, kind), Count()) for row in rows]
        lines.append([kind, *map(cell, counts), cell(sum(counts, Count()))])
    return table(["", *names, "in all"], lines)


def report(rows, asked, seed, seconds):
    names = [str(number) for number in range(1, len(rows) + 1)]
    wrong = [(name, what) for name, row in zip(names, rows) for what in row.wrong]
    done = {program: sum(row.operations(program) for row in rows) for program in ("bytes", "names")}
    text = [
        *head(
            "The mounted torture",
            f"TARN_MOUNTED_SEED={seed} tests/run.sh mounted {asked}",
            f"half of those on bytes are on files of up to 20 KiB; {seconds:.0f} s",
            f"**{done['bytes']} operations on bytes, {done['names']} on names, {len(wrong)} mismatches**",
            what="; preset dev, asserts on",
        ),
        "Every byte read is compared with a flat array, and so is every file: in the mount at the end, in SOURCE",
        "whenever it is synced or closed, and in SOURCE after the unmount. Every answer on names is compared with",
        "that of a plain directory, errno by errno, and the trees at the end. On bytes two programs work in each",
        "mount at once. All the while tarnfs is told to store everything, over and over. May be refused:",
        "`mapped_read` and `mapped_write` with `direct-io`, which has no shared maps, and `temporary` (O_TMPFILE);",
        "anything else that is refused is a mismatch.",
        "",
        "Kills and remounts are checked by `fifty_kills_shift_no_byte_and_lose_none_that_was_stored`",
        "(`kill_tests.py`); fio, git, tar and sqlite3 by `mounted_tests.py`; random transactions and a compiler by",
        "`torture_tests.py`.",
        "",
        "## Settings",
        "",
    ]
    text += table(
        ["", "options", "seeds", "on bytes", "on names", "loads", "flushes", "evictions", "seconds", "mismatches"],
        [
            [
                name,
                row.setting,
                f"{row.seeds[0]} to {row.seeds[-1]}",
                row.operations("bytes"),
                row.operations("names"),
                *[row.stats.get(of, 0) for of in ("loads", "flushes", "evictions")],
                round(row.seconds),
                len(row.wrong),
            ]
            for name, row in zip(names, rows)
        ],
    )
    text += ["", "## Operations on bytes, by setting", "", *kinds_table(rows, "bytes", names)]
    text += ["", "## Operations on names, by setting: without an error, of all", "", *kinds_table(rows, "names", names)]
    if wrong:
        text += ["", "## What went wrong", ""]
        for name, what in wrong:
            text += [f"Setting {name}:", "", "```", what, "```", ""]
    return "\n".join(text) + "\n"


def main(asked, build, target):
    if why := mounting.why_no_mount():
        print(f"nothing can be mounted: {why}", file=sys.stderr)
        return 2
    build, target = pathlib.Path(build).resolve(), pathlib.Path(target)
    logs = target.with_suffix("").resolve()
    logs.mkdir(parents=True, exist_ok=True)
    for log in logs.iterdir():
        log.unlink()
    os.environ["TARNFS_BIN"] = str(build / "examples" / "tarnfs" / "tarnfs")
    os.environ["TORTURE_BIN"] = str(build / "tests" / "mount")
    os.environ["TORTURE_LOGS"] = str(logs)

    first_seed = seed = int(os.environ.get("TARN_MOUNTED_SEED") or time.time())
    started = time.monotonic()
    rows = [Row(setting) for setting in settings()]
    for number, row in enumerate(rows):
        left = (asked * (number + 1) // len(rows) - asked * number // len(rows) + 1) // 2  # of each program
        print(f"{row.setting}, from seed {seed} on ...", flush=True)
        row.run(torture_names, seed, max(left // 5, 5000))
        while left > 0:
            steps = min(left, MOST_AT_ONCE)
            row.run(torture_bytes, seed, max(steps, 2000), max(steps, 2000), 5000)
            left -= steps
            seed += 2
        print(f"  {row.operations('bytes')} operations on bytes in {row.seconds:.0f} s", flush=True)
    target.write_text(report(rows, asked, first_seed, time.monotonic() - started))
    wrong = sum(len(row.wrong) for row in rows)
    print(f"mismatches: {wrong}; see {target}")
    return 1 if wrong else 0


if __name__ == "__main__":
    if len(sys.argv) != 4 or not sys.argv[1].isdigit():
        print(__doc__, file=sys.stderr)
        sys.exit(2)
    sys.exit(main(int(sys.argv[1]), *sys.argv[2:]))
