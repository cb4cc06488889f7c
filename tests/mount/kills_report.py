#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Kills tarnfs so many times in the middle of its work, checks SOURCE byte by byte after each, and writes a report.

    tests/mount/kills_report.py KILLS BUILD REPORT        `tests/run.sh kills [KILLS]` calls it

TARN_KILL_SEED=N: begins with this seed; without it the clock says which. Ends at the first kill that loses something.
"""

import os
import pathlib
import sys
import time

sys.path.insert(1, str(pathlib.Path(__file__).resolve().parent.parent))

import mounting
from kill_tests import SETTINGS, Outcome, kill_once, settings_and_operation
from report import head, table

PATIENCE_SECONDS = 60


def main(kills, build, target):
    if why := mounting.why_no_mount():
        print(f"nothing can be mounted: {why}", file=sys.stderr)
        return 2
    os.environ["TARNFS_BIN"] = str(pathlib.Path(build).resolve() / "examples" / "tarnfs" / "tarnfs")
    first = int(os.environ.get("TARN_KILL_SEED") or time.time())
    started = time.monotonic()
    outcomes = {" ".join(options): Outcome(0) for options in SETTINGS}
    for seed in range(first, first + kills):
        with mounting.Watchdog(PATIENCE_SECONDS):
            outcomes[" ".join(settings_and_operation(seed)[0])] += kill_once(seed)
    rows = [[f"`{options}`" if options else "the defaults", *outcome] for options, outcome in outcomes.items()]
    in_all = sum(outcomes.values(), Outcome(0))
    text = [
        *head(
            "Kills",
            f"TARN_KILL_SEED={first} tests/run.sh kills {kills}",
            f"**{in_all.kills} kills, no byte lost, shifted or brought back**; {time.monotonic() - started:.0f} s",
            what="; preset dev, asserts on",
        ),
        "Three threads write, truncate, sync, close and rename files in a mounted tarnfs, which is told to store everything",
        "over and over. At an operation that the seed draws it is killed (SIGKILL). Then each byte in SOURCE must be the one",
        "that the last call promised which answered (fsync, close, rename), or one of a later write, at its own offset; no",
        "name may be missing, and the next mount must show the same.",
        "",
        *table(["options", "kills", "operations before", "promises before", "files checked", "bytes checked"],
               [*rows, ["in all", *in_all]]),
    ]
    pathlib.Path(target).parent.mkdir(parents=True, exist_ok=True)
    pathlib.Path(target).write_text("\n".join(text) + "\n")
    print(f"{in_all.kills} kills lost nothing; see {target}")
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 4 or not sys.argv[1].isdigit():
        print(__doc__, file=sys.stderr)
        sys.exit(2)
    sys.exit(main(int(sys.argv[1]), *sys.argv[2:]))
