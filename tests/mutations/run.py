#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Changes tarn a little, in many places drawn by chance, and sees which changes no test notices.

  run.py                        200 mutants, from seed 1; goes on where it was stopped
  run.py --count 500 --seed 7   so many, from that seed
  run.py --fresh                anew
  run.py --list                 what would be drawn
  run.py --check                that each survivor that is explained is still in the headers; compiles nothing
  run.py --self-test            sees that a mutant that must be noticed is, and that none at all is not

draw.py says what a mutant is. All of them are in one copy of the headers, each behind a switch, so every test program
is compiled once, as breakages/run.py does it, over one storage. It is run with no mutant first, and tells which ones it
comes by; then once for each of those that no program before it has noticed. The quick programs come first, and the
mutants that survivors.toml explains come last. A mutant is killed if a case fails, aborts, or does not end in several
times its time; it has survived if all programs passed. What is known so far is in build/mutants, with a line for each
run; the report is build/report/mutants.md, with a line for each mutant beside it. Fails if a mutant has survived that
survivors.toml does not explain.
"""
import argparse
import collections
import concurrent.futures
import hashlib
import importlib.util
import json
import os
import pathlib
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib

sys.path.insert(1, str(pathlib.Path(__file__).resolve().parent.parent))

import draw
from report import head, table

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent

spec = importlib.util.spec_from_file_location("breakages", ROOT / "tests" / "breakages" / "run.py")
breakages = importlib.util.module_from_spec(spec)
spec.loader.exec_module(breakages)
Problem = breakages.Problem

SPARE = 8  # one in so many is drawn beyond the count, for those that do not compile
SECONDS_LEAST, PATIENCE = 20, 6  # how long a program may take with a mutant: so long, or so many times its own time
SEED_OF_MODELS = "1"

# Of these nothing is asked: they count instructions, or try tarnfs and the tests' own tools.
NOT_RUN = {"instruction_count", "explore.explorer", "support.linearizable", "sim.shrink", "tarnfs.loader_pool",
           "tarnfs.source_file"}
# Come last, for they take long; in this order.
LAST = ["write_range", "chunk_extents", "read_range", "model", "sim.simulation", "linearizability", "fault.same_id",
        "fault.sweep_units", "fault.sweep_later", "fault.sweep_content", "fault.sweep_table", "fault.sweep", "torture",
        "stress", "comb", "explore.file", "explore.load", "explore.record", "explore.chunk", "explore.latch"]
# That take too long otherwise.
OPTIMISED = {"comb", "stress", "explore.file", "explore.load", "explore.record", "explore.chunk", "explore.latch",
             "fault.sweep", "fault.sweep_content", "fault.sweep_table"}


def programs():
    """The programs in the order in which they are run."""
    names = []
    for source in (ROOT / "tests").rglob("*.test.cpp"):
        name = str(source.relative_to(ROOT / "tests")).removesuffix(".test.cpp").replace("/", ".")
        if name not in NOT_RUN:
            names.append((LAST.index(name) + 1 if name in LAST else 0, len(source.read_text()), name))
    return [name for _, _, name in sorted(names)]


class Compiler(breakages.Compiler):
    """For headers with mutants in them, whose switches make constants values."""

    def _flags(self, program, include):
        flags = super()._flags(program, include)
        return [*flags, "-Wno-narrowing", *(["-O1"] if program in OPTIMISED else [])]


def set_limits():
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (breakages.MEMORY_BYTES, breakages.MEMORY_BYTES))


def run_program(executable, seconds, mutant=0, reached=None):
    """Returns how the program ended, the first case to notice or else what was said last, and the seconds."""
    os.environ.update(TARN_MUTANT=str(mutant), TARN_MODEL_SEED=SEED_OF_MODELS)
    os.environ.pop("TARN_MUTANT_REACHED", None)
    if reached is not None:
        os.environ["TARN_MUTANT_REACHED"] = str(reached)
    began = time.monotonic()
    ended, said = breakages.run(executable, seconds)
    case = re.search(r"^-{70,}\n((?:.+\n)+?)-{70,}$", said, re.MULTILINE)
    text = case[1] if case else said[-300:]
    return ended, "" if ended == "passes" else " ".join(text.split()), time.monotonic() - began


def key_of(place):
    return place.header.name, place.header.lines[place.line - 1].strip(), place.change


class Mutations:
    """The mutants of one drawing, and what is known of them. A line of the file of results is one thing learned."""

    def __init__(self, count, seed, build, fresh):
        self.count, self.seed = count, seed
        self.folder = ROOT / "build" / "mutants" / f"{seed}.{count}"
        self.headers = draw.headers_in(ROOT / "include")
        self.places = draw.draw(self.headers, count + count // SPARE, seed)
        digest = hashlib.sha256("".join(map(repr, map(key_of, self.places))).encode())
        for header in self.headers:
            of_header = [pair for pair in enumerate(self.places, 1) if pair[1].header is header]
            digest.update(draw.render(header, of_header).encode())
        self.results = self.folder / "results.jsonl"
        if fresh or not self.results.exists() or self._read()[0].get("digest") != digest.hexdigest():
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
            self.results.touch()
            self._write(digest=digest.hexdigest())
        self.dropped, self.program_of, self.reached, self.ends = {}, {}, {}, collections.defaultdict(dict)
        self.seconds = {}
        for line in self._read():
            self._learn(line)
        self.reasons = {(one["header"], one["line"], one["change"]): one["reason"] for one in read_explained()}
        self.compiler = None
        self.build = build

    def _read(self):
        return [json.loads(line) for line in self.results.read_text().splitlines()] or [{}]

    def _write(self, **line):
        with self.results.open("a") as file:
            file.write(json.dumps(line) + "\n")
        self._learn(line)

    def _learn(self, line):
        if "dropped" in line:
            self.dropped[line["dropped"]] = line["why"]
        elif "reached" in line:
            program = line["program"]
            if self.program_of.get(program) != line["source"]:
                for ends in self.ends.values():
                    if ends.get(program, {}).get("ended") == "passes":
                        del ends[program]
            self.program_of[program], self.reached[program] = line["source"], set(line["reached"])
            self.seconds[program] = line["seconds"]
        elif "mutant" in line:
            self.ends[line["mutant"]][line["program"]] = line

    # --- What is asked of it. ----------------------------------------------------------------------------------------

    def mutants(self):
        """The numbers of those that count: the first that compile."""
        return [number for number in range(1, len(self.places) + 1) if number not in self.dropped][:self.count]

    def killed_by(self, number):
        return next((end for end in self.ends[number].values() if end["ended"] != "passes"), None)

    def to_run(self, program, explained):
        return [number for number in self.mutants() if number in self.reached[program]
                and (key_of(self.places[number - 1]) in self.reasons) == explained
                and not self.killed_by(number) and program not in self.ends[number]]

    # --- Compiled and run. -------------------------------------------------------------------------------------------

    def compile(self, program):
        """Returns the program, with every mutant in it but those that turn out not to compile."""
        executable, made_of = self.folder / program / "cases", self.folder / program / "made_of"
        text = breakages.source_of(program).read_text()
        source = hashlib.sha256(text.encode()).hexdigest()
        if made_of.exists() and made_of.read_text() == source:
            return executable
        (self.folder / program).mkdir(exist_ok=True)
        made_of.unlink(missing_ok=True)
        if self.compiler is None:
            scratch = pathlib.Path(tempfile.mkdtemp(dir=self.folder))
            self.compiler = Compiler(self.build, scratch)
            self.compiler.precompile(program)
        while True:
            include = self.folder / "include"
            shutil.copytree(ROOT / "include", include, dirs_exist_ok=True)
            draw.write(include, self.places, self.dropped)
            try:
                self.compiler.build(program, include, text, self.folder / program)
                (self.folder / program / "cases.o").unlink()
                made_of.write_text(source)
                return executable
            except Problem as problem:
                self._drop(program, str(problem))

    def _drop(self, program, errors):
        """Leaves out the mutants on the first line that has an error and a mutant."""
        for header, line in re.findall(r"include/(tarn/\S+?):(\d+):\d+: error", errors):
            guilty = [number for number, place in enumerate(self.places, 1)
                      if number not in self.dropped and place.header.name == header and place.line == int(line)]
            for number in guilty:
                print(f"mutant {number} does not compile: {self.title(number)}", flush=True)
                self._write(dropped=number, why=errors[:400])
            if guilty:
                return
        raise Problem(f"{program}: {errors}")

    def title(self, number):
        place = self.places[number - 1]
        return f"{place.header.name}:{place.line}: {place.change}"

    def try_program(self, program, executable, explained):
        """Runs one program with what is left of the explained mutants, or of the others. Returns what is wrong with it
        unbroken, or None."""
        made_of = (self.folder / program / "made_of").read_text()
        if self.program_of.get(program) != made_of:
            reached = self.folder / program / "reached"
            ended, said, seconds = run_program(executable, breakages.UNBROKEN_SECONDS, 0, reached)
            if ended != "passes":
                return f"{program}: with no mutant, it {ended}: {said}"
            flags = reached.read_bytes() if reached.exists() else b""  # it includes no mutant
            self._write(program=program, source=made_of, seconds=round(seconds, 2),
                        reached=[number for number in range(1, len(flags)) if flags[number]])
        limit = max(SECONDS_LEAST, PATIENCE * self.seconds[program])
        todo = self.to_run(program, explained)
        print(f"{program}: {self.seconds[program]:.1f} s, comes by {len(self.reached[program])}, {len(todo)} to run",
              flush=True)
        for number in todo:
            ended, case, seconds = run_program(executable, limit, number)
            self._write(mutant=number, where=self.title(number), program=program, ended=ended, case=case,
                        seconds=round(seconds, 2))
            if ended != "passes":
                print(f"  {number} {self.title(number)}: {ended}: {case[:100]}", flush=True)
        return None

    def run(self):
        """Returns what is wrong with programs that have no mutant on."""
        set_limits()
        wrong = []
        with concurrent.futures.ThreadPoolExecutor(1) as ahead:
            compiled = [(program, ahead.submit(self.compile, program)) for program in programs()]
            for program, future in compiled:
                try:
                    problem = self.try_program(program, future.result(), False)
                except Problem as unfit:
                    problem = str(unfit)
                if problem is not None:
                    print(problem, flush=True)
                    wrong.append(problem)
            # Those that took the place of what did not compile, after programs had been run; last what is explained.
            for explained in (False, True):
                for program, future in compiled:
                    if program in self.reached and self.to_run(program, explained):
                        self.try_program(program, future.result(), explained)
        for scratch in self.folder.glob("tmp*"):
            shutil.rmtree(scratch)
        return wrong


# --- What came out. --------------------------------------------------------------------------------------------------

def read_explained():
    path = HERE / "survivors.toml"
    return tomllib.loads(path.read_text()).get("survivor", []) if path.exists() else []


def check_explained():
    """Returns what does not fit today's headers, as lines to print."""
    problems = []
    for one in read_explained():
        if set(one) != {"header", "line", "change", "reason"}:
            problems.append(f"has, or lacks: {one}")
            continue
        header = ROOT / "include" / one["header"]
        if not header.exists() or one["line"] not in [line.strip() for line in header.read_text().splitlines()]:
            problems.append(f"{one['header']} has no such line any more: {one['line']}")
    return problems


def report(mutations, wrong):
    """Writes the report, and a line a mutant beside it. Returns how many survived with no reason given."""
    reasons = mutations.reasons
    mutants = mutations.mutants()
    left = {n: [p for p in programs() if p not in mutations.reached
                or (n in mutations.reached[p] and p not in mutations.ends[n])] for n in mutants}
    waiting = [n for n in mutants if not mutations.killed_by(n) and left[n]]
    run_seconds = sum(end["seconds"] for of in mutations.ends.values() for end in of.values())
    ends = {n: mutations.killed_by(n) for n in mutants}
    survived = [n for n in mutants if not ends[n] and n not in waiting]
    explained = [n for n in survived if key_of(mutations.places[n - 1]) in reasons]
    left_out = sum(header.places()[1] for header in mutations.headers)
    candidates = sum(len(header.places()[0]) for header in mutations.headers)

    def counts(of):
        by = collections.Counter("survived" if n in survived else "waits" if n in waiting else ends[n]["ended"]
                                 for n in of)
        return [len(of), by["fails"], by["aborts"], by["hangs"], by["survived"], by["waits"]]

    heads = ["drawn", "a case fails", "it aborts", "it hangs", "survives", "not yet run"]

    def by(name, key):
        groups = collections.defaultdict(list)
        for n in mutants:
            groups[key(n)].append(n)
        return table([name, *heads], [[group, *counts(of)] for group, of in sorted(groups.items())]
                     + [["in all", *counts(mutants)]])

    lines = [
        *head("Mutants", f"tests/run.sh mutants {mutations.count} {mutations.seed}",
              f"{sum(map(len, mutations.ends.values()))} runs took {run_seconds:.0f} s, hangs included",
              f"{candidates} places, {left_out} more that the compiler evaluates and that were left out; "
              f"{len(mutations.dropped)} of those drawn did not compile and were drawn again",
              f"**{len(mutants)} drawn, {len(mutants) - len(survived) - len(waiting)} killed, {len(survived)} survived, "
              f"{len(explained)} of them with a reason" + (f"; {len(waiting)} not yet run by all" if waiting else "") + "**",
              what=f"; not optimised, asserts on, one storage, models from seed {SEED_OF_MODELS}"),
        "A place in a header is changed a little, drawn by the seed: the headers by their lines of code, in each the",
        "kinds alike. What is killed was noticed by the first of the programs that come by it, the quick ones first: a",
        "case fails, an assert or a signal ends it, or it does not end in time. What survives has passed all of them.",
        f"Mounted tests are not run, nor are {', '.join(f'`{name}`' for name in sorted(NOT_RUN))}.", "",
        *(["## Wrong with no mutant", ""] + [f"- {one}" for one in wrong] + [""] if wrong else []),
        "## By kind", "", *by("kind", lambda n: mutations.places[n - 1].kind), "",
        "## By header", "", *by("header", lambda n: mutations.places[n - 1].header.name), "",
        "## Noticed by", ""]
    noticed = collections.Counter(end["program"] for end in ends.values() if end)
    own = sum(end["program"].split(".")[-1] == pathlib.Path(mutations.places[n - 1].header.name).stem
              for n, end in ends.items() if end)
    lines += table(["program", "killed", "seconds with no mutant"],
                   [[p, noticed[p], mutations.seconds.get(p, "-")] for p in programs()])
    lines += ["", f"By the header's own test: {own}."]
    for heading, of in ("Survivors", survived), ("Not yet run by all", waiting):
        if of:
            lines += ["", f"## {heading}", ""]
        for n in of:
            reason = reasons.get(key_of(mutations.places[n - 1]))
            if reason is None:
                came = sum(n in reached for reached in mutations.reached.values())
                reason = f"**no reason given** ({came} programs come by it)"
            still = f" Still to pass: {', '.join(left[n])}." if n in waiting else ""
            lines.append(f"- {n}. {mutations.title(n)}: {reason}{still}")
    out = ROOT / "build" / "report"
    out.mkdir(parents=True, exist_ok=True)
    (out / "mutants.md").write_text("\n".join(lines).rstrip() + "\n")
    with (out / "mutants.txt").open("w") as file:
        for n in mutants:
            how = ("waits" if n in waiting else "survived" if not ends[n]
                   else f"{ends[n]['ended']} in {ends[n]['program']}: {ends[n]['case']}")
            file.write(f"{n}\t{mutations.title(n)}\t{how}\n")
    print("\n".join(lines[:8]))
    return len(survived) - len(explained)


# --- The script itself. ----------------------------------------------------------------------------------------------

SAMPLE = """// SPDX-License-Identifier: MIT
#pragma once

template <class T, int n = 1>
struct Sample {
  static constexpr int limit = 3 + 4;
  int kept_ = 5;
  int of(int a, int b) {
    static_assert(n > 0);
    assert(a < b);
    if constexpr (n > 7) return 0;
    if (a == b || b < a) return 1;
    call(a);
    Type declared(a);
    return static_cast<int>(a - b);
  }
};
"""

SAMPLE_PLACES = """11 0 -> 1
12 not (a == b || b < a)
12 == -> !=
12 || -> &&
12 < -> <=
12 < -> >=
12 without `return 1;`
12 1 -> 2
12 1 -> 0
13 without `call(a);`
15 - -> +"""


def self_test(build):
    failed = 0

    def see(name, found, expected):
        nonlocal failed
        failed += found != expected
        said = "" if found == expected else f": {found!r}"
        print(f"{'FAILED' if said else 'ok'}: {name}{said}", flush=True)

    header = draw.Header("sample.hpp", SAMPLE)
    found = [f"{place.line} {place.change.split(' in `')[0]}" for place in header.places()[0]]
    see("the places of a sample", sorted(found), sorted(SAMPLE_PLACES.splitlines()))
    see("what is left out of it", header.places()[1], 10)
    line = [place for place in header.places()[0] if place.line == 12 and place.kind in {"logical", "comparison"}]
    pair = [(1, line[0]), (2, next(place for place in line if place.kind == "logical"))]
    see("one in another", draw.render(header, pair).splitlines()[11].strip(),
        "if ((tarn_mutant::is(2) ? ((tarn_mutant::is(1) ? (a != b) : (a == b)) && b < a) : "
        "((tarn_mutant::is(1) ? (a != b) : (a == b)) || b < a))) return 1;")
    see("no mutant", draw.render(header, []), SAMPLE)
    mixed = "int of(int a, int b) {\n  return a * 2 + b == f(b, a + b) && b - b - a < a || a;\n}\n"
    binary = [place.change for place in draw.Header("mixed.hpp", mixed).places()[0] if place.kind != "constant"]
    see("what an operator has on both sides", binary, [
        "+ -> - in `a * 2 + b`", "== -> != in `a * 2 + b == f(b, a + b)`", "+ -> - in `a + b`",
        "&& -> || in `a * 2 + b == f(b, a + b) && b - b - a < a`", "- -> + in `b - b`", "- -> + in `b - b - a`",
        "< -> <= in `b - b - a < a`", "< -> >= in `b - b - a < a`",
        "|| -> && in `a * 2 + b == f(b, a + b) && b - b - a < a || a`"])
    headers = draw.headers_in(ROOT / "include")
    drawn = [[key_of(place) for place in draw.draw(headers, 50, seed)] for seed in (1, 1, 2)]
    see("the same seed draws the same", (drawn[0] == drawn[1], drawn[0] == drawn[2]), (True, False))
    if build is None:
        return 1 if failed else 0

    # Compiled: the header of an easy test, with a mutant that it must notice and one whose line nothing comes by.
    with tempfile.TemporaryDirectory(prefix="tarn-mutants-") as folder:
        scratch = pathlib.Path(folder)
        places = [place for header in headers if header.name == "tarn/detail/small_vector.hpp"
                  for place in header.places()[0] if place.change == "-- -> ++ in `--size_`"]
        shutil.copytree(ROOT / "include", scratch / "include")
        draw.write(scratch / "include", places)
        compiler = Compiler(build, scratch)
        compiler.precompile("detail.small_vector")
        (scratch / "program").mkdir()
        executable = compiler.build("detail.small_vector", scratch / "include",
                                    breakages.source_of("detail.small_vector").read_text(), scratch / "program")
        set_limits()
        see("without a mutant it passes", run_program(executable, 60, 0, scratch / "reached")[0], "passes")
        see("and tells which one it comes by", (scratch / "reached").read_bytes(), b"\0\1")
        see("with the mutant it does not", run_program(executable, 60, 1)[0] in {"fails", "aborts"}, True)
    return 1 if failed else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--fresh", action="store_true")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--report", action="store_true", help="of what is known; runs nothing")
    parser.add_argument("--self-test", action="store_true")
    parser.add_argument("--build", type=pathlib.Path,
                        help="a build of the preset dev; --self-test compiles only with one")
    arguments = parser.parse_args()
    if arguments.self_test:
        return self_test(arguments.build and arguments.build.resolve())
    if arguments.check:
        problems = check_explained()
        print("\n".join(problems) or f"{len(read_explained())} survivors fit")
        return 1 if problems else 0
    build = (arguments.build or ROOT / "build" / "dev").resolve()
    try:
        mutations = Mutations(arguments.count, arguments.seed, build, arguments.fresh)
        if arguments.list:
            for number in mutations.mutants():
                print(number, mutations.title(number))
            return 0
        wrong = [] if arguments.report else mutations.run()
    except Problem as problem:
        print(problem, file=sys.stderr)
        return 2
    unexplained = report(mutations, wrong)
    print(f"\n{unexplained} survived that survivors.toml does not explain: build/report/mutants.md")
    return 1 if unexplained or wrong else 0


if __name__ == "__main__":
    sys.exit(main())
