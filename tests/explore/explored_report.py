#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Runs every scenario of the explorer for longer than the tests do, and writes a report of how each was searched, also
of a run in which something went wrong.

    tests/explore/explored_report.py ORDERS BUILD REPORT        `tests/run.sh interleavings [ORDERS]` calls it

So many random orders in all, spread over the scenarios of which the tests do not run every order. Those are searched
with up to three preemptions, one more after the other, as far as TARN_EXPLORE_SECONDS for each goes; and of two threads
in every order, as far as TARN_EXPLORE_ALL_SECONDS goes.
"""

import collections
import os
import pathlib
import subprocess
import sys
import tempfile
import time

sys.path.insert(1, str(pathlib.Path(__file__).resolve().parent.parent))

from report import head, table, tests_of

PREEMPTIONS = 3
SECONDS = int(os.environ.get("TARN_EXPLORE_SECONDS", "180"))
ALL_SECONDS = int(os.environ.get("TARN_EXPLORE_ALL_SECONDS", "60"))
SEED = os.environ.get("TARN_EXPLORE_SEED", "1")

# As write_row of explore.hpp has it.
Row = collections.namedtuple("Row", "test name way preemptions threads orders steps seconds given_up failure")


def run(test, command, rows_file, **settings):
    """Returns the rows of one test, and what it says if something went wrong."""
    rows_file.unlink(missing_ok=True)
    environment = {**os.environ, "TARN_EXPLORE_ROWS": str(rows_file), **{f"TARN_EXPLORE_{key}": str(value)
                                                                         for key, value in settings.items()}}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    lines = rows_file.read_text().splitlines() if rows_file.exists() else []
    cells = (line.split("\t") for line in lines)
    name = test.removeprefix("explore.")
    rows = [Row(name, name_, way, int(preemptions), int(threads), int(orders), int(steps), float(seconds),
                int(given_up), failure)
            for name_, way, preemptions, threads, orders, steps, seconds, given_up, failure in cells]
    return rows, "" if done.returncode == 0 else done.stdout + done.stderr


def within(preemptions):
    return f"in all with at most {preemptions} preemption{'' if preemptions == 1 else 's'}"


def searched(rows):
    """The search of one scenario that got furthest and ended, and what the report says of it."""
    ended = [row for row in rows if row.way in ("all", "bounded")]
    last = next((row for row in ended if row.way == "all"), ended[-1])
    how = "in every order" if last.way == "all" else within(last.preemptions)
    beyond = [row for row in rows if row.way == "unfinished" and last.way != "all"]
    for row in beyond:
        what = "in every order" if row.preemptions < 0 else f"with {row.preemptions}"
        how += f"; {what}: not ended after {row.orders} in {row.seconds:.0f} s"
    if last.given_up:
        how += f"; {last.given_up} could not be followed"
    return last, [last.threads, how, last.orders, f"{last.seconds:.1f}"]


def report(rows, wrong, asked, seconds):
    scenarios = {}
    for row in rows:
        if row.way != "found":
            scenarios.setdefault((row.test, row.name), []).append(row)
    lines, sums = [], collections.Counter()
    for (test, name), its in scenarios.items():
        if not any(row.way in ("all", "bounded") for row in its):
            continue
        last, cells = searched(its)
        drawn = next((row.orders for row in its if row.way == "drawn"), 0)
        lines.append([f"{test}: {name}", *cells, max(row.steps for row in its), drawn or ""])
        sums["searched"] += sum(row.orders for row in its if row.way != "drawn")
        sums["drawn"] += drawn
        sums[last.threads, last.way, last.preemptions] += 1

    def count(threads):
        ways = [f"{sums[key]} {'in every order' if key[1] == 'all' else within(key[2])}"
                for key in sorted(sums, key=str) if isinstance(key, tuple) and key[0] == threads]
        return f"of {threads} threads, searched to the end: {', '.join(ways)}"

    failures = [f"{row.test}: {row.name}: {row.failure}" for row in rows if row.failure and row.way != "found"]
    complete = sum(n for key, n in sums.items() if isinstance(key, tuple) and key[1] == "all")
    text = [
        *head(
            "The interleavings",
            f"TARN_EXPLORE_SECONDS={SECONDS} TARN_EXPLORE_ALL_SECONDS={ALL_SECONDS} TARN_EXPLORE_SEED={SEED} "
            f"tests/run.sh interleavings {asked}",
            f"{seconds:.0f} s, on one processor",
            f"**{complete} of {len(lines)} scenarios in every order, the others with few preemptions: {sums['searched']} "
            f"orders, and {sums['drawn']} at random; {len(failures) + len(wrong)} went wrong**",
            *(count(threads) for threads in (2, 3)),
            *(f"seen, as it must be, in {row.orders} orders: {row.name}: \"{row.failure}\""
              for row in rows if row.way == "found"),
            what="; preset dev, asserts on",
        ),
        "The shipped headers, run on the explorer's atomics, mutexes and condition variables: a step is one use",
        "of one of them, and an order says whose step comes when. In every order that makes a difference means:",
        "an order is left out only if one that was run differs from it by steps that could be exchanged. Where",
        "those are too many, all orders with a few preemptions (a thread is taken away where it could have gone",
        "on), and random ones. Each is run to its end, and then what must hold is looked at; a deadlock, an",
        "assert and an object that is used after its end are seen, too.",
        "",
        "**Sequential consistency is assumed.** Every step takes effect at once and for all: what weak memory",
        "adds, the explorer does not see. Nor does it see a compare-exchange that fails for no reason, a notice",
        "that wakes another than the first, and a wait that ends by time. An order that could not be followed is",
        "one that begins as another did before it, and goes on differently, since what is hashed by address came",
        "elsewhere.",
        "",
        "Threads; how it was searched to the end; the orders of that search, and its seconds; the steps of the longest",
        "order; orders drawn.",
        "",
        *table(["scenario", "threads", "searched", "orders", "s", "steps", "drawn"], lines),
    ]
    if failures or wrong:
        text += ["", "## What went wrong", "", *(f"- {failure}" for failure in failures)]
        text += [line for said in wrong for line in ("", "```", said.rstrip()[-4000:], "```")]
    return "\n".join(text) + "\n"


def main(asked, build, path):
    began = time.monotonic()
    tests = tests_of(build, "explore.")
    rows, wrong = [], []

    def add(test, **settings):
        print(f"{time.monotonic() - began:6.0f} s: {test} {settings}", flush=True)
        more, said = run(test, tests[test], rows_file, **settings)
        rows.extend(more)
        if said:
            wrong.append(said)
            print(said, flush=True)

    with tempfile.TemporaryDirectory() as folder:
        rows_file = pathlib.Path(folder) / "rows"
        for test in tests:
            add(test, PREEMPTIONS=PREEMPTIONS, SECONDS=SECONDS, ALL_SECONDS=ALL_SECONDS, RANDOM=0)
        scenarios = {(row.test, row.name) for row in rows if row.way == "bounded"}
        bounded = {test for test, _ in scenarios}
        each = -(-asked // max(1, len(scenarios)))
        for test in tests:
            if test.removeprefix("explore.") in bounded:
                add(test, RANDOM=each, SEED=SEED, ONLY_RANDOM=1)
    rows = [row for row in rows if row.way != "drawn" or row.orders != 0]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(report(rows, wrong, asked, time.monotonic() - began))
    print(path.read_text())
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3])))
