#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Says which branches of the headers the tests have taken, and which not. tests/coverage.sh runs it.

  coverage.py --build BUILD --profile FILE --report FILE
                            merges what llvm-cov says of every program in BUILD/tests, and writes the report;
                            fails below 98 % or if a branch that was not taken has no reason
  coverage.py --check       that every line in coverage_reasons.toml is still in its header; runs nothing
  coverage.py --self-test   sees that the script itself counts and fails as it should

A condition has two branches, a case of a switch as well: it holds, or it does not. llvm-cov lists the conditions of each
instantiation of a template, in each program, apart: here they are one if they stand at one place of one header, and a
branch was taken if any of them took it. A condition that the compiler knows the answer of (`if constexpr`, `for (;;)`) is
counted as neither, and so is what it makes of `= default`.
"""
import argparse
import collections
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import tomllib

from report import head, table

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
HEADERS = ROOT / "include" / "tarn"
REASONS = HERE / "coverage_reasons.toml"
LEAST_PER_CENT = 98


class Problem(Exception):
    """What is wrong, in a line."""


class Place:
    """A condition at one place of a header: how often it held and did not, over all instantiations."""

    def __init__(self):
        self.held = self.held_not = 0
        self.known_to_compiler = False

    def add(self, held, held_not, was_reached):
        self.held += held
        self.held_not += held_not
        # Neither counted, in code that ran: there is nothing to count.
        self.known_to_compiler |= was_reached and held == 0 and held_not == 0

    @property
    def counts(self):
        return self.held + self.held_not != 0 or not self.known_to_compiler

    def not_taken(self):
        return [word for word, count in (("holds", self.held), ("does not hold", self.held_not)) if count == 0]


def innermost_count(regions, file_index, line, column):
    """How often the smallest piece of code ran that has this place; 0 if there is none."""
    best = None
    for first_line, first_column, last_line, last_column, count, file, _, kind in regions:
        if file != file_index or kind not in (0, 1):
            continue
        if not (first_line, first_column) <= (line, column) < (last_line, last_column):
            continue
        if best is None or (first_line, first_column) >= best[0]:
            best = (first_line, first_column), count
    return best[1] if best else 0


def merge(exports, headers):
    """exports: what llvm-cov export says, one for each program. Returns: {(header, line, column, end): Place}."""
    places = collections.defaultdict(Place)
    prefix = str(headers) + os.sep
    for export in exports:
        for function in export["data"][0]["functions"]:
            for line, column, last_line, last_column, held, held_not, file_index, _, _ in function["branches"]:
                name = function["filenames"][file_index]
                if not name.startswith(prefix):
                    continue
                ran = held + held_not == 0 and innermost_count(function["regions"], file_index, line, column) > 0
                places[name[len(prefix):], line, column, last_line, last_column].add(held, held_not, ran)
    return places


def is_constexpr(text, column):
    return "if constexpr (" in text[:column]


def is_made_by_compiler(text):
    return text.rstrip().endswith("= default;")


def list_not_taken(places, lines_of):
    """Returns: {header: [branches, taken]}, and what was not taken, [(header, line, condition, word, text)]."""
    sums = collections.defaultdict(lambda: [0, 0])
    left = []
    for (header, line, column, last_line, last_column), place in sorted(places.items()):
        text = lines_of(header)[line - 1]
        never = place.held + place.held_not == 0
        if not place.counts or is_made_by_compiler(text) or (never and is_constexpr(text, column - 1)):
            continue
        missing = place.not_taken()
        sums[header][0] += 2
        sums[header][1] += 2 - len(missing)
        condition = text[column - 1:last_column - 1] if line == last_line else text[column - 1:] + " ..."
        left += [(header, line, condition, word, text.strip()) for word in missing]
    return sums, left


def read_reasons(path=REASONS):
    reasons = tomllib.loads(path.read_text()).get("reason", [])
    for reason in reasons:
        if set(reason) != {"header", "line", "branches", "why"}:
            raise Problem(f"{path.name}: an entry is a header, a line, branches and why, not {sorted(reason)}")
    return reasons


def check_reasons(reasons, lines_of):
    for reason in reasons:
        try:
            lines = lines_of(reason["header"])
        except OSError:
            raise Problem(f"there is no {reason['header']}") from None
        if all(line.strip() != reason["line"] for line in lines):
            raise Problem(f"{reason['header']} has no line {reason['line']!r}")


def reason_for(entry, reasons, used):
    """A reason is good for as many branches as it says, so that it does not hide others beside them."""
    header, _, _, _, text = entry
    for index, reason in enumerate(reasons):
        if (reason["header"], reason["line"]) == (header, text) and used[index] < reason["branches"]:
            used[index] += 1
            return reason["why"]
    return None


def per_cent(taken, branches):
    return f"{100 * taken / branches:.1f}" if branches else "-"


def report(sums, left, reasons, command, lines):
    """Returns: the report, and what is wrong with what it says."""
    used = collections.Counter()
    reasoned = [(entry, reason_for(entry, reasons, used)) for entry in left]
    branches, taken = (sum(column) for column in zip(*sums.values()))
    without = [entry for entry, why in reasoned if why is None]
    figure = (f"**{per_cent(taken, branches)} % of the branches ({taken} of {branches}); of the {len(left)} that are left,"
              f" {len(left) - len(without)} have a reason**")
    out = [*head("Branches of the headers that the tests take", command, *lines, figure),
           __doc__.split("\n\n")[2].strip() + "\nAn `assert` is a macro of the system, of which the compiler counts"
           " nothing. Where a condition throws, it counts it as one\nthat did not hold.", ""]
    rows = [[header, n, k, per_cent(k, n)] for header, (n, k) in [*sorted(sums.items()), ("all", (branches, taken))]]
    out += [*table(["header", "branches", "taken", "%"], rows), ""]
    for title, wanted in (("Not taken, and why", True), ("Not taken, and no reason is known", False)):
        chosen = [(entry, why) for entry, why in reasoned if (why is not None) is wanted]
        if not chosen:
            continue
        out += [f"## {title}: {len(chosen)}", ""]
        for (header, line, condition, word, text), why in chosen:
            out.append(f"- `{header}:{line}`: `{condition}` {word}" + (f": {why}" if why else ""))
            out.append(f"  - `{text}`")
        out.append("")
    taken_now = [reason for index, reason in enumerate(reasons) if used[index] < reason["branches"]]
    if taken_now:
        out += ["## Taken this time, though there is a reason why not", ""]
        out += [f"- `{reason['header']}`: `{reason['line']}`" for reason in taken_now] + [""]
    wrong = []
    if 100 * taken < LEAST_PER_CENT * branches:
        wrong.append(f"{per_cent(taken, branches)} % of the branches were taken; {LEAST_PER_CENT} % are wanted")
    if without:
        wrong.append(f"not taken, and no reason is known: {len(without)}")
    return "\n".join(out), wrong


def programs_in(build):
    return sorted(path for path in (build / "tests").rglob("*")
                  if path.suffix in (".test", ".fuzz") and path.is_file() and os.access(path, os.X_OK))


def export(llvm_cov, program, profile):
    done = subprocess.run([llvm_cov, "export", f"-instr-profile={profile}", str(program), str(HEADERS)],
                          capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Problem(f"{program.name}: {done.stderr.strip()}")
    return json.loads(done.stdout)


def lines_of_header(header, cache={}):
    if header not in cache:
        cache[header] = (HEADERS / header).read_text().splitlines()
    return cache[header]


def self_test():
    def function(branches, regions, name="/h/a.hpp"):
        return {"filenames": [name], "branches": branches, "regions": regions}

    def places(*functions):
        return merge([{"data": [{"functions": [one]}]} for one in functions], pathlib.Path("/h"))

    source = ["if (a) {", "if constexpr (b) {", "bool operator==(const A&) = default;"]
    ran, did_not = [[1, 1, 9, 1, 5, 0, 0, 0]], [[1, 1, 9, 1, 0, 0, 0, 0]]
    branch = lambda held, held_not, line=1, column=5: [[line, column, line, column + 1, held, held_not, 0, 0, 4]]
    count = lambda *functions: list_not_taken(places(*functions), lambda _: source)

    # Of two instantiations each takes one branch: both are taken.
    sums, left = count(function(branch(3, 0), ran), function(branch(0, 2), ran))
    assert sums == {"a.hpp": [2, 2]} and not left, (sums, left)
    # One alone takes one.
    sums, left = count(function(branch(3, 0), ran))
    assert sums == {"a.hpp": [2, 1]} and left == [("a.hpp", 1, "a", "does not hold", "if (a) {")], (sums, left)
    # Code that never ran has two that were not taken; code that ran and counted nothing has none to take.
    assert count(function(branch(0, 0), did_not))[0] == {"a.hpp": [2, 0]}
    assert count(function(branch(0, 0), ran))[0] == {}
    assert count(function(branch(0, 0, 2, 15), did_not))[0] == {}
    assert count(function(branch(5, 0, 3), ran))[0] == {}
    # What one instantiation knows when compiling, and another does not, is counted by that one.
    assert count(function(branch(0, 0), ran), function(branch(1, 0), ran))[0] == {"a.hpp": [2, 1]}
    # A region within another one says whether it was reached.
    assert count(function(branch(0, 0), ran + [[1, 2, 1, 8, 0, 0, 0, 0]]))[0] == {"a.hpp": [2, 0]}
    # Others' headers are not counted.
    assert count(function(branch(1, 0), ran, "/other/a.hpp"))[0] == {}

    reason = {"header": "a.hpp", "line": "if (a) {", "branches": 1, "why": "it never is"}
    two_left = count(function(branch(0, 0), did_not))
    text, wrong = report(*two_left, [reason], "", [])
    assert "it never is" in text and len(wrong) == 2 and "no reason is known: 1" in wrong[1], (text, wrong)
    assert len(report(*two_left, [reason | {"branches": 2}], "", [])[1]) == 1
    assert report(*count(function(branch(1, 1), ran)), [], "", [])[1] == []
    assert "Taken this time" in report(*count(function(branch(1, 1), ran)), [reason], "", [])[0]
    for bad in ({"line": "if (b) {"}, {"header": "b.hpp"}):
        try:
            check_reasons([reason | bad], lambda header: source if header == "a.hpp" else open("/nowhere/" + header))
        except Problem:
            continue
        raise AssertionError(f"a reason that fits nothing passes: {bad}")
    check_reasons([reason], lambda _: source)
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
        file.write('[[reason]]\nheader = "a.hpp"\nwhy = "it never is"\n')
        file.flush()
        try:
            read_reasons(pathlib.Path(file.name))
        except Problem:
            return
        raise AssertionError("a reason without a line passes")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=pathlib.Path)
    parser.add_argument("--profile", type=pathlib.Path)
    parser.add_argument("--report", type=pathlib.Path)
    parser.add_argument("--llvm-cov", default="llvm-cov")
    parser.add_argument("--command", help="what the report says that it comes from")
    parser.add_argument("--compiler", help="its version, for the report")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--self-test", action="store_true")
    options = parser.parse_args()
    if options.self_test:
        return self_test()
    reasons = read_reasons()
    check_reasons(reasons, lines_of_header)
    if options.check:
        return None
    programs = programs_in(options.build)
    if not programs:
        raise Problem(f"there is no program in {options.build / 'tests'}")
    places = merge((export(options.llvm_cov, program, options.profile) for program in programs), HEADERS)
    lines = [f"{len(programs)} programs; {options.compiler}"]
    text, wrong = report(*list_not_taken(places, lines_of_header), reasons, options.command, lines)
    options.report.parent.mkdir(parents=True, exist_ok=True)
    options.report.write_text(text)
    print(f"{options.report}: " + next(line for line in text.splitlines() if line.startswith("- **")))
    if wrong:
        raise Problem("; ".join(wrong))
    return None


if __name__ == "__main__":
    try:
        main()
    except Problem as problem:
        sys.exit(f"coverage.py: {problem}")
