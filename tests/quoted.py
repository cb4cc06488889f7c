#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Sees that a table of a page quotes reports: that each figure is what the report says of itself, word by word.

  quoted.py README.md          says what differs, and fails if anything does
  quoted.py --self-test        sees that it refuses what it should

A row of the table that names a report, `| [words](docs/reports/NAME.md) | figure | ... |`, has as its figure what the
report's head has in bold.
"""
import pathlib
import re
import sys


def check(page, report_of):
    """Returns what is wrong, as lines to print."""
    rows = re.findall(r"^\| *\[[^\]]*\]\((docs/reports/[^)]*)\) *\|([^|]*)\|", page, re.MULTILINE)
    problems = [] if rows else ["the page quotes no report"]
    for name, figure in rows:
        said = re.search(r"^- \*\*(.*)\*\*", report_of(name), re.MULTILINE)
        if said is None:
            problems.append(f"{name} has no figure in bold")
        elif said.group(1) != figure.strip():
            problems += [f"{name}:", f"  the page says:   {figure.strip()}", f"  the report says: {said.group(1)}"]
    return problems


def self_test():
    page = "| kind | figure |\n|---|---|\n| [a](docs/reports/a.md) | 7 things, 0 wrong | `a` |\n"
    assert check(page, lambda _: "- date: now\n- **7 things, 0 wrong**; 3 s\n") == []
    assert check(page, lambda _: "- **8 things, 0 wrong**\n")
    assert check(page, lambda _: "no figure\n")
    assert check("no table\n", lambda _: "- **7**\n")


def main(arguments):
    if arguments == ["--self-test"]:
        return self_test()
    if len(arguments) != 1:
        print(__doc__.strip(), file=sys.stderr)
        return 2
    page = pathlib.Path(arguments[0])
    problems = check(page.read_text(), lambda name: (page.parent / name).read_text())
    print("\n".join(problems) if problems else "the page says what the reports say")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
