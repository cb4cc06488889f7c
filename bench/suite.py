#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Runs a suite of figures that its program measures in pairs (paired.hpp), and says what each came to beside its goal.

    suite.py run SUITE REPORT [--quick] PROGRAM [WORD ...]      `bench/run.sh SUITE` calls it
    suite.py check REPORT           says what misses its goal, or is not there; exits with 1 if anything
    suite.py instructions MICRO     counts alone, which repeat exactly; exits with 1 if one is past its limit

A ratio is the reference's cost divided by ours, so higher is better; the median of the pairs, and their quartiles. What
the program notes is shown above the figures.
Writes REPORT/SUITE.md, SUITE.svg and SUITE.json, the last in the form of main.json (see README.md).
"""

import json
import os
import pathlib
import statistics
import subprocess
import sys
import time
import tomllib

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(1, str(HERE.parent / "tests"))

import charts
import mount_charts
import scale_charts
from figures import aligned, goal_said, quartiles, short
from report import head, table

GOALS = tomllib.loads((HERE / "goals.toml").read_text())
LIMITS = GOALS.pop("instructions")
TITLES = {
    "micro": "What calls cost whose bytes are held",
    "mount": "What reads and writes through a mount cost",
    "peers": "What a look-up costs, beside what others hold data in",
    "scale": "What calls and memory come to by how much is held",
}
# A program is run in each of these environments; without a word, once as it is.
ENVIRONMENTS = {"micro": [{}, {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TOP_PAD_": "0"}]}
COLUMNS = ["figure", "beside", "ratio", "quartiles", "n", "ours", "goal"]


def goals_of(suite):
    return GOALS[suite].get("lower", {}), GOALS[suite].get("higher", {})


def row_of(suite, measured):
    name = measured["name"]
    ratios = measured["ratios"]
    lower, higher = goals_of(suite)
    better = "lower" if name in lower or (not ratios and name not in higher) else "higher"
    return {
        "name": name,
        "reference": measured["reference"] or None,
        "ratio": statistics.median(ratios) if ratios else None,
        "value": statistics.median(measured["values"]),
        "unit": measured["unit"],
        "n": len(measured["values"]),
        "spread": [q for i, q in enumerate(quartiles(ratios or measured["values"])) if i != 1],
        "goal": (lower if better == "lower" else higher).get(name),
        "better": better,
    }


def line_of(row):
    spread = " .. ".join(f"{q:.3g}" for q in row["spread"]) if row["ratio"] is not None else ""
    ratio = f"{row['ratio']:.3g}" if row["ratio"] is not None else ""
    ours = f"{short(row['value'])} {row['unit']}"
    return [row["name"], row["reference"] or "", ratio, spread, row["n"], ours, goal_said(row)]


def drawing(rows, title):
    out, end = charts.begin(rows, title)
    return charts.svg(out, end + 12)


DRAWINGS = {"mount": mount_charts.drawing, "scale": scale_charts.drawing}
# What makes it quick; of mount, which mounts and verifies anew for each pair, its form.
QUICK = {"mount": ["--quick"]}


def run(suite, folder, quick, program):
    began = time.monotonic()
    options = QUICK.get(suite, ["--pairs=5", "--run-ms=5"]) if quick else []
    rows, notes = [], []
    for more in ENVIRONMENTS.get(suite, [{}]):
        done = subprocess.run([*program, *options], stdout=subprocess.PIPE, text=True, env={**os.environ, **more})
        if done.returncode != 0:
            return done.returncode
        said = [json.loads(line) for line in done.stdout.splitlines()]
        notes += [one["note"] for one in said if "note" in one]
        rows += [row_of(suite, one) for one in said if "note" not in one]
    folder.mkdir(parents=True, exist_ok=True)
    form = "quick" if quick else "whole"
    command = f"bench/run.sh {suite}{' --quick' if quick else ''}"
    page = [
        *head(TITLES[suite], command, f"{time.monotonic() - began:.0f} s", *notes),
        f"![ratios]({suite}.svg)",
        "",
        *table(COLUMNS, [line_of(row) for row in rows]),
    ]
    (folder / f"{suite}.md").write_text("\n".join(page) + "\n")
    (folder / f"{suite}.svg").write_text(DRAWINGS.get(suite, drawing)(rows, TITLES[suite]))
    said = {"form": form, **({"notes": notes} if notes else {}), "results": rows}
    (folder / f"{suite}.json").write_text(json.dumps(said, indent=1) + "\n")
    print("".join(f"{note}\n" for note in notes))
    print(aligned(COLUMNS, [[str(word) for word in line_of(row)] for row in rows]))
    print(f"\nWritten: {folder}/{suite}.md, {suite}.svg, {suite}.json")
    return 0


def check(folder):
    wrong = []
    for suite in GOALS:
        path = folder / f"{suite}.json"
        if not path.exists():
            wrong.append(f"{suite}: there is no {path}: run bench/run.sh {suite}")
            continue
        rows = {row["name"]: row for row in json.loads(path.read_text())["results"]}
        lower, higher = goals_of(suite)
        for name in (*higher, *lower):
            if name not in rows:
                wrong.append(f"{suite}: {name} was not measured")
            elif "MISSED" in (said := goal_said(rows[name])):
                wrong.append(f"{suite}: {name}: {short(charts.got_of(rows[name]))}, goal {said}")
    print("\n".join(wrong) if wrong else "every goal is met")
    return 1 if wrong else 0


def instructions(program):
    done = subprocess.run([program, "--only=instructions/"], stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        return done.returncode
    counted = {row["name"].split("/")[1]: row["values"][0] for row in map(json.loads, done.stdout.splitlines())}
    rows = [
        [name, f"{counted[name]:.0f}" if name in counted else "not counted", str(limit)]
        for name, limit in LIMITS.items()
    ]
    print(aligned(["instructions", "counted", "limit"], rows))
    past = [name for name, limit in LIMITS.items() if counted.get(name, limit + 1) > limit]
    if past:
        print(f"\nPast its limit: {', '.join(past)}: a hit has become dearer. If that is meant, its limit rises.")
    return 1 if past else 0


def main(arguments):
    if len(arguments) == 2 and arguments[0] == "check":
        return check(pathlib.Path(arguments[1]))
    if len(arguments) == 2 and arguments[0] == "instructions":
        return instructions(arguments[1])
    if len(arguments) >= 4 and arguments[0] == "run" and arguments[1] in GOALS:
        quick = arguments[3] == "--quick"
        if program := arguments[4 if quick else 3 :]:
            return run(arguments[1], pathlib.Path(arguments[2]), quick, program)
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
