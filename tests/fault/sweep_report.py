#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Every fault point of every script of tests/fault, in every way, once and for ever. Writes a report, also of a run in
which something went wrong.

    tests/fault/sweep_report.py BUILD REPORT        `tests/run.sh faults` calls it
"""

import os
import pathlib
import resource
import subprocess
import sys
import time

sys.path.insert(1, str(pathlib.Path(__file__).resolve().parent.parent))

from report import head, table, tests_of


class Row:
    """What a script's sweep of one kind came to."""

    def __init__(self, line):
        self.script, self.what, *counts = line.rstrip("\n").split("\t")
        self.points, self.once, self.for_ever, self.wrong = map(int, counts)


def by_script(rows):
    """Fault points of a run with none failing: a line for each kind, a column for each script."""
    scripts = list(dict.fromkeys(row.script for row in rows))
    lines = []
    for what in dict.fromkeys(row.what for row in rows):
        points = {row.script: row.points for row in rows if row.what == what}
        lines.append([what, *[points.get(script, 0) for script in scripts]])
    return table(["", *[str(number) for number in range(1, len(scripts) + 1)]], lines), scripts


def by_kind(rows):
    lines = []
    for what in dict.fromkeys(row.what for row in rows):
        of = [row for row in rows if row.what == what]
        lines.append([what, *[sum(getattr(row, count) for row in of) for count in ("once", "for_ever", "wrong")]])
    return table(["what fails", "runs with one point", "runs with all from one on", "went wrong"], lines)


def report(rows, failed, seconds, cpu_seconds):
    points, scripts = by_script(rows)
    alone = [row for row in rows if row.what != "pairs of kinds"]
    pairs = sum(row.once for row in rows if row.what == "pairs of kinds")
    runs = sum(row.once + row.for_ever for row in alone) + pairs
    wrong = sum(row.wrong for row in rows)
    swept = sum(row.points for row in alone if row.what != "any kind")
    text = [
        *head(
            "The fault sweep",
            "tests/run.sh faults",
            f"{len(scripts)} scripts; {runs} runs, {pairs} of them of two kinds at a time; {seconds:.0f} s,"
            f" {cpu_seconds:.0f} s of CPU",
            f"**{swept} fault points, each once and for ever; {runs} runs, {wrong} went wrong**",
            what="; preset dev, asserts on",
        ),
        "A script runs once for each fault point that it meets and each way in which that can fail, once with this one",
        "failing and once with all from it on, up to the first point that no run meets any more. *Any kind* numbers",
        "the points of all kinds together. *Pairs of kinds*: one kind fails for ever from a point on, another one",
        "once, both drawn; and each allocation once where no sync ends well. After each call every byte that is held",
        "or stored is compared with a flat array, an error with what has failed in that very call. At the end of a run",
        "the faults are gone: all is stored and durable",
        "and equal, what the pool counts is zero again, storage has its chunks back, and each allocation has been",
        "given back.",
        "",
        "Ways: an allocation, a commit (a chunk that the storage wants; of an arena, a slab that the kernel maps), a",
        "visitor and a predicate fail in one; a load by an error, too few bytes or a dropped token; a flush also half",
        "or wholly stored without a word, or by a conflict; a sync, reserve and remove by an error or an exception; a",
        "completion, which is the answer of a store that comes later, as what it answers, or by coming twice; a filler",
        "by an error, an exception, or by filling less.",
        "",
        "## Runs by kind",
        "",
        *by_kind(rows),
        "",
        "## Points that a run meets, by script",
        "",
        *[f"{number}. {script}" for number, script in enumerate(scripts, 1)],
        "",
        *points,
    ]
    if failed:
        text += ["", "## What went wrong", ""]
        for name, said in failed:
            text += [f"{name}:", "", "```", said, "```", ""]
    return "\n".join(text) + "\n"


def main(build, target):
    target = pathlib.Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    swept = target.with_suffix(".tsv").resolve()
    swept.unlink(missing_ok=True)
    environment = {**os.environ, "TARN_FAULTS": "all", "TARN_FAULTS_REPORT": str(swept)}
    started, failed = time.monotonic(), []
    for test, command in tests_of(build, "fault.sweep").items():
        print(f"{test} ...", flush=True)
        ended = subprocess.run(command, env=environment, capture_output=True, text=True)
        if ended.returncode != 0:
            failed.append((test, (ended.stdout + ended.stderr)[-4000:]))
            print(failed[-1][1], flush=True)
    with open(swept) as lines:
        rows = [Row(line) for line in lines]
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    target.write_text(report(rows, failed, time.monotonic() - started, used.ru_utime + used.ru_stime))
    print(f"runs that went wrong: {sum(row.wrong for row in rows)}; see {target}")
    return 1 if failed else 0


if __name__ == "__main__":
    if len(sys.argv) != 3:
        print(__doc__, file=sys.stderr)
        sys.exit(2)
    sys.exit(main(*sys.argv[1:]))
