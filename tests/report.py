#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What the reports of long runs have in common: how each begins, and tables.

    tests/report.py TITLE COMMAND [LINE ...]        prints how a report begins, for a shell script
"""

import datetime
import json
import os
import pathlib
import platform
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent


def machine():
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    release = re.match(r"[\d.]*\d", platform.release())
    kernel = f"{platform.system()} {release.group() if release else ''}".strip()
    return f"{os.cpu_count()} CPUs ({next(named, platform.machine())}), {kernel}"


def commit():
    described = subprocess.run(
        ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude", "*"], capture_output=True, text=True
    )
    return described.stdout.strip() or "not known"


def head(title, command, *lines, what=""):
    """`what`: said of the build, after its commit. Each of `lines` becomes a point of its own."""
    return [
        f"# {title}",
        "",
        f"- command: `{command}`",
        f"- date: {datetime.datetime.now(datetime.timezone.utc):%F %H:%M} UTC",
        f"- machine: {machine()}",
        f"- commit: {commit()}{what}",
        *[f"- {line}" for line in lines],
        "",
    ]


def table(columns, rows):
    lines = [columns, ["-", *["-:" for _ in columns[1:]]], *rows]
    return [f"| {' | '.join(map(str, line))} |" for line in lines]


def tests_of(build, prefix):
    """The tests of CTest in `build` whose names begin so: {name: the command that runs it}."""
    shown = subprocess.run(["ctest", "--test-dir", str(build), "--show-only=json-v1"], check=True, capture_output=True,
                           text=True).stdout
    return {test["name"]: test["command"] for test in json.loads(shown)["tests"] if test["name"].startswith(prefix)}


if __name__ == "__main__":
    if len(sys.argv) < 3:
        print(__doc__, file=sys.stderr)
        sys.exit(2)
    print("\n".join(head(*sys.argv[1:])))
