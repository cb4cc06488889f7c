#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Breaks tarn on purpose, one mechanism at a time, and sees that a test notices.

  run.py                    every breakage of breakages.toml: first that its cases pass unbroken, then that they fail;
                            writes build/report/breakages.md
  run.py --only 8 --only 12 those of these promises, by number
  run.py --case TEXT        those whose description or case has the text in it
  run.py --list             what there is
  run.py --check            that every breakage still fits today's headers and tests; compiles nothing
  run.py --self-test        sees that the script itself fails when it should

A breakage puts `new` in the place of `old`, which must be in the header exactly once, in a copy of include/. Then the
named cases alone, of one test program and one storage, are compiled with the command of the preset dev, without
optimisation and warnings, and run. A case that fails, aborts or does not end has noticed; a breakage that does not
compile has not broken anything, and is an error. Nothing is written into the source tree.
"""
import argparse
import concurrent.futures
import json
import os
import pathlib
import re
import resource
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(1, str(HERE.parent))

from report import head, table

# What must hold, in short. Each has a breakage at least; those of one number break it in different places.
PROMISES = {
    1: "bytes written past the end of an empty file are read behind zeros, all of them",
    2: "a chunk that leaves the pool under a read takes no byte of it along",
    3: "a flush of one part leaves every other byte of the store at its place",
    4: "shrunk and grown again, the gap is zero: held, stored, flushed in part, evicted",
    5: "what is written during a flush stays dirty",
    6: "flushed, evicted, read: the flushed bytes",
    7: "a size, a cut and a hole are stored, with nothing loaded",
    8: "a load that ends late covers no newer byte and brings none back",
    9: "a full pool refuses, and keeps what it has",
    10: "what is dirty, pinned or in flush is not evicted",
    11: "of two first writes both are kept, and both sizes seen",
    12: "of a truncate and a write one comes first",
    13: "one flush of a file at a time; one that is not ok leaves the bytes dirty",
    14: "a flush of one moment has no half of a write",
    15: "deleted stays deleted; open, it lives until the last close",
    16: "what goes unflushed is refused, told or an assert, never silent",
    17: "content is named by its whole id, and found at any part border",
    18: "nobody reads a byte of a chunk's last owner; nobody writes what a flush reads",
    19: "of a write that fails midway, size, bytes and count agree",
    20: "an error in the background is told once to each opener, and to the next if nobody saw it",
    21: "a sync that fails makes dirty again; one that comes after all is flushed still asks the store",
    22: "bytes of two versions never meet",
    23: "of an id used again, neither file shows in the other",
    24: "no charge passes the budget",
    25: "a view takes a window, a budget has a least, a call reserves all or nothing",
    26: "full of dirty bytes, a call flushes, waits, and gives up when it should",
    27: "a hole costs nothing; lists of extents are charged and bounded",
    28: "everything dropped, nothing is charged; a budget may change",
    29: "whatever a store does with a load has one outcome",
    30: "a full pool serves a load uncached; a read keeps what it loaded; a cancel takes from nobody",
    31: "arguments that cannot be are refused, and change nothing",
    32: "a write heats, a touch costs the same among any number, pins are counted in their own field",
    33: "of the calls within a window, and of the windows of longer ones, some order explains every answer",
    34: "a store that gives whole parts is asked for each once, for all that it has, and the rest of it takes nobody's place",
}

ALONE = "no_memory"  # a test that is a program by itself: its command is taken for that of all
COMPILE_SECONDS = 900
UNBROKEN_SECONDS = 900
MEMORY_BYTES = 4 << 30
BROKEN_SECONDS = 50  # below the deadline of a gate: a thread that waits there for ever is a hang
PATIENCE = 5         # or so many times as long as all cases of the program took unbroken, where that is more


class Problem(Exception):
    """What is wrong with a breakage or its surroundings, in a line or more."""


# --- What is broken, and where. --------------------------------------------------------------------------------------

def read_list(path):
    """Returns the breakages, each with its place in the list."""
    with path.open("rb") as file:
        breakages = tomllib.load(file)["breakage"]
    keys = {"promise", "what", "header", "old", "new", "program", "cases"}
    for number, breakage in enumerate(breakages, 1):
        breakage["number"] = number
        wrong = (set(breakage) - {"number", "storage"}) ^ keys
        if wrong:
            raise Problem(f"breakage {number}: has, or lacks, {', '.join(sorted(wrong))}")
    return breakages


def apply(text, breakage):
    """Returns the header's text, broken."""
    count = text.count(breakage["old"])
    if count != 1:
        raise Problem(f"is in {breakage['header']} {count} times, and must be there once:\n{breakage['old']}")
    broken = text.replace(breakage["old"], breakage["new"])
    if broken == text:
        raise Problem("changes nothing")
    return broken


HEAD = re.compile(r"^(TEMPLATE_)?TEST_CASE\(", re.MULTILINE)


def blocks_of(source):
    """Yields (text, whether it is a test case) for the source, in order. A case ends at the first line that is `}`."""
    at = 0
    for head in HEAD.finditer(source):
        end = source.index("\n}\n", head.start()) + len("\n}\n")
        yield source[at:head.start()], False
        yield source[head.start():end], True
        at = end
    yield source[at:], False


def name_of(case):
    """The name in the head of a case: string literals side by side are one."""
    literals = re.match(r"(?:TEMPLATE_)?TEST_CASE\(\s*((?:\"(?:[^\"\\]|\\.)*\"\s*)+)", case)[1]
    return "".join(re.findall(r"\"((?:[^\"\\]|\\.)*)\"", literals))


def one_storage(case, storage, macros):
    """A case over several types is left with `storage`, or its first one. `macros`: what a macro's types are."""
    head, brace, body = case.partition(" {\n")
    if not case.startswith("TEMPLATE_"):
        return case
    types = re.search(r"(\"\[\w+\]\",\s*)(.+)\)$", head, re.DOTALL)
    listed = re.sub(r"^EACH_STORAGE\((.+)\)$", r"\1", macros.get(types[2], types[2]), flags=re.DOTALL)
    names = [name.strip() for name in listed.split(",")]
    if storage is not None and storage not in names:
        raise Problem(f"the case {name_of(case)!r} is not run over {storage}")
    return head[:types.start(2)] + (storage or names[0]) + ")" + brace + body


def reduce(source, cases):
    """The source with the named cases alone, each over one storage. `cases`: name -> storage or None."""
    macros = dict(re.findall(r"^#define (\w+) (\w+(?:, \w+)+)$", source, re.MULTILINE))
    found, kept = [], []
    for text, is_case in blocks_of(source):
        if not is_case:
            kept.append(text)
        elif name_of(text) in cases:
            found.append(name_of(text))
            kept.append(one_storage(text, cases[name_of(text)], macros))
    for name in cases:
        if found.count(name) != 1:
            raise Problem(f"the case {name!r} is in its program {found.count(name)} times, and must be there once")
    return "".join(kept)


def source_of(program):
    return ROOT / "tests" / (program.replace(".", "/") + ".test.cpp")


def cases_of(breakage):
    return dict.fromkeys(breakage["cases"], breakage.get("storage"))


def title(breakage):
    return f"{breakage['promise']}: {breakage['what']}"


def check(breakages):
    """Returns what does not fit today's tree, as lines to print."""
    problems = []
    for breakage in breakages:
        try:
            if breakage["promise"] not in PROMISES:
                raise Problem("breaks no promise that is listed")
            apply((ROOT / "include" / breakage["header"]).read_text(), breakage)
            reduce(source_of(breakage["program"]).read_text(), cases_of(breakage))
        except (OSError, Problem) as problem:
            problems.append(f"{title(breakage)}: {problem}")
    for promise in sorted(set(PROMISES) - {breakage["promise"] for breakage in breakages}):
        problems.append(f"{promise}: nothing breaks it: {PROMISES[promise]}")
    return problems


# --- Compiled and run. -----------------------------------------------------------------------------------------------

class Compiler:
    """The commands of the preset dev, for sources and headers elsewhere."""

    def __init__(self, build, scratch):
        commands = build / "compile_commands.json"
        if not commands.exists():
            raise Problem(f"{commands} is not there: `cmake --preset dev` makes it")
        self._build = build
        self._commands = {entry["file"]: shlex.split(entry["command"]) for entry in json.loads(commands.read_text())}
        self._scratch = scratch

    def precompile(self, program):
        """Catch2's header, once for all programs, which are compiled alike."""
        header = self._scratch / "precompiled" / "catch.hpp"
        header.parent.mkdir()
        header.write_text('#include "support/catch.hpp"\n')
        self._run([*self._flags(program, ROOT / "include"), "-x", "c++-header", str(header), "-o", f"{header}.gch"])
        self._precompiled = header

    def build(self, program, include, source, folder):
        """Returns the program made of `source`, with the headers in `include`."""
        path, object_file, executable = folder / "cases.cpp", folder / "cases.o", folder / "cases"
        path.write_text(source)
        self._run([*self._flags(program, include), "-include", str(self._precompiled), "-o", str(object_file), "-c",
                   str(path)])
        self._run([self._flags(program, include)[0], str(object_file), "-o", str(executable), *self._libraries()])
        return executable

    def _flags(self, program, include):
        """Those of ALONE, since tests differ in nothing that is left here, but for those of tarnfs, which test no header."""
        source = str(ROOT / "tests" / f"{ALONE}.test.cpp")
        if source not in self._commands:
            raise Problem(f"{source} is not in {self._build}/compile_commands.json: configure it anew")
        command = self._commands[source]
        flags = command[:command.index("-o")]
        while "-include" in flags:  # what is compiled once has whole headers in it
            at = flags.index("-include")
            del flags[at:at + 2]
        flags = [flag for flag in flags if not re.match(r"-(O|g|W|DTARN_TESTS_INSTANTIATED)", flag)]
        flags = [f"-I{include}" if flag == f"-I{ROOT / 'include'}" else flag for flag in flags]
        if f"-I{include}" not in flags:
            raise Problem("the compile command does not name include/")
        return [*flags, "-O0", "-w"]

    def _libraries(self):
        listed = subprocess.run(["ninja", "-C", str(self._build), "-t", "commands", f"{ALONE}.test"],
                                capture_output=True, text=True, check=True).stdout.splitlines()
        link = shlex.split(listed[-1].partition(" && ")[2].partition(" && ")[0])
        # Without what is made once of whole headers.
        return [library for library in link[link.index("-o") + 2:] if not library.startswith("tests/")]

    @staticmethod
    def _run(command):
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=COMPILE_SECONDS, env={**os.environ, "LC_ALL": "C"})
        if done.returncode != 0:
            errors = [line for line in done.stderr.splitlines() if "error" in line]
            raise Problem("does not compile:\n" + "\n".join(errors[:5] or [done.stderr]))


def run(executable, seconds):
    """Returns how the cases ended: passes, fails, aborts or hangs; and what they said."""
    command = [str(executable), "--order", "decl", "--warn", "NoAssertions", "--abort"]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True, errors="replace", timeout=seconds, cwd=executable.parent)
    except subprocess.TimeoutExpired:
        return "hangs", ""
    if done.returncode == 0:
        return "passes", done.stdout
    # Catch2 reports a signal as a failure of the case; an assert prints a line of its own.
    aborted = done.returncode < 0 or "Assertion" in done.stdout or "SIG" in done.stdout
    return ("aborts" if aborted else "fails"), done.stdout


class Result:
    def __init__(self, breakage, ended, problem, seconds):
        self.breakage, self.ended, self.problem, self.seconds = breakage, ended, problem, seconds
        self.caught = problem is None and ended != "passes"


def try_unbroken(compiler, scratch, program, breakages):
    """Returns how long the program's cases take when nothing is broken. Raises: what is wrong with them then."""
    folder = scratch / f"unbroken.{program}"
    folder.mkdir()
    seconds = 0
    try:
        # Over the storages of all: the same case may be named with different ones.
        for storage in sorted({breakage.get("storage") or "" for breakage in breakages}):
            cases = {}
            for breakage in breakages:
                if (breakage.get("storage") or "") == storage:
                    cases.update(cases_of(breakage))
            executable = compiler.build(program, ROOT / "include", reduce(source_of(program).read_text(), cases), folder)
            began = time.monotonic()
            ended, said = run(executable, UNBROKEN_SECONDS)
            seconds += time.monotonic() - began
            if ended != "passes":
                raise Problem(f"unbroken, it {ended}:\n{said[-2000:]}")
    except Problem as problem:
        raise Problem(f"{program}: {problem}") from None
    finally:
        shutil.rmtree(folder)
    return seconds


def try_breakage(compiler, scratch, breakage, seconds):
    """Returns what became of the breakage, whose cases may take so long."""
    began = time.monotonic()
    folder = scratch / f"broken.{breakage['number']}"
    ended = problem = None
    try:
        shutil.copytree(ROOT / "include", folder / "include")
        header = folder / "include" / breakage["header"]
        header.write_text(apply(header.read_text(), breakage))
        source = reduce(source_of(breakage["program"]).read_text(), cases_of(breakage))
        executable = compiler.build(breakage["program"], folder / "include", source, folder)
        ended, _ = run(executable, seconds)
    except (OSError, Problem, subprocess.SubprocessError) as why:
        problem = str(why)
    shutil.rmtree(folder, ignore_errors=True)
    return Result(breakage, ended, problem, time.monotonic() - began)


def run_all(breakages, build, jobs, report):
    """Returns the exit code. `report`: where a report goes, if anywhere."""
    began = time.monotonic()
    # What aborts here leaves nothing behind, and what grows without end does end.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    programs = {}
    for breakage in breakages:
        programs.setdefault(breakage["program"], []).append(breakage)
    with tempfile.TemporaryDirectory(prefix="tarn-breakages-") as folder:
        scratch = pathlib.Path(folder)
        compiler = Compiler(build, scratch)
        compiler.precompile(breakages[0]["program"])
        results, wrong, seconds = [], [], {}
        with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
            unbroken = {name: pool.submit(try_unbroken, compiler, scratch, name, of) for name, of in programs.items()}
            for program, future in unbroken.items():
                if future.exception() is None:
                    seconds[program] = max(BROKEN_SECONDS, PATIENCE * future.result())
                else:
                    wrong.append(str(future.exception()))
            if not wrong:
                print(f"unbroken, the cases of {len(programs)} programs pass", flush=True)
                tries = [pool.submit(try_breakage, compiler, scratch, breakage, seconds[program])
                         for program, of in programs.items() for breakage in of]
                for future in concurrent.futures.as_completed(tries):
                    result = future.result()
                    results.append(result)
                    how = result.problem or ("NOT CAUGHT" if not result.caught else f"caught, it {result.ended}")
                    print(f"{title(result.breakage)}: {how} ({result.seconds:.0f} s)", flush=True)
    if wrong:
        print("\n".join(wrong))
        return 1
    results.sort(key=lambda result: result.breakage["number"])
    print("\npromise  caught  what must hold")
    for promise, meaning in PROMISES.items():
        mine = [result for result in results if result.breakage["promise"] == promise]
        if mine:
            caught = f"{sum(result.caught for result in mine)}/{len(mine)}"
            hangs = sum(result.ended == "hangs" for result in mine)
            print(f"{promise:7}  {caught:>6}  {meaning}" + (f" (by a hang: {hangs})" if hangs else ""))
    missed = [result for result in results if not result.caught]
    for result in missed:
        print(f"\n{title(result.breakage)}\n  {result.breakage['program']}: {', '.join(result.breakage['cases'])}"
              f"\n  {result.problem or 'no case noticed'}")
    noticed = f"{len(results) - len(missed)} of {len(results)} breakages were noticed"
    took = f"{time.monotonic() - began:.0f} s"
    print(f"\n{noticed}, in {took}")
    if report is not None:
        write_report(report, results, noticed, took)
    return 1 if missed else 0


def write_report(path, results, noticed, took):
    def caught(of):
        return f"{sum(result.caught for result in of)} of {len(of)}"

    by_promise = [(promise, [result for result in results if result.breakage["promise"] == promise])
                  for promise in PROMISES]
    page = [
        *head("Broken on purpose", "tests/run.sh breakages", f"**{noticed}**, by a test that passes unbroken", took),
        "Each takes a line or two out of a header, or puts something wrong there, and runs the cases that are to notice:",
        "they fail, abort, or wait for ever. `tests/breakages/breakages.toml` has them.",
        "",
        *table(["what must hold", "noticed"], [[PROMISES[promise], caught(of)] for promise, of in by_promise if of]),
        "",
        "Each of them:",
        "",
        *table(["what is wrong", "in", "noticed by", "it"],
               [[result.breakage["what"], f"`{result.breakage['header']}`", f"`{result.breakage['program']}`",
                 result.ended if result.caught else "**was not noticed**"] for result in results]),
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(page) + "\n")
    print(f"written: {path}")


# --- The script itself. ----------------------------------------------------------------------------------------------

def self_test():
    source = ('#include <x>\n\nTEMPLATE_TEST_CASE("one, "\n                   "whole", "[x]", Heap,\n'
              '                   Arena) {\n  if (a) {\n  }\n}\n\nint between;\n\nTEST_CASE("two", "[x]") {\n  b();\n}\n')
    breakage = {"header": "x.hpp", "old": "keep", "new": "lose"}

    def said(f):
        try:
            return f()
        except Problem as problem:
            return str(problem)

    cases = {
        "applied": (said(lambda: apply("a keep b", breakage)), "a lose b"),
        "gone from the header": (said(lambda: apply("a b", breakage)), "is in x.hpp 0 times"),
        "twice in the header": (said(lambda: apply("keep keep", breakage)), "is in x.hpp 2 times"),
        "no change": (said(lambda: apply("keep", {**breakage, "new": "keep"})), "changes nothing"),
        "a plain case": (said(lambda: reduce(source, {"two": None})), '#include <x>\n\n\nint between;\n\nTEST_CASE("two"'),
        "a case over its first storage": (said(lambda: reduce(source, {"one, whole": None})), '"[x]", Heap) {\n  if'),
        "a case over another": (said(lambda: reduce(source, {"one, whole": "Arena"})), '"[x]", Arena) {\n  if'),
        "a case over a macro's": (
            said(lambda: reduce("#define ALL Heap, Arena\n" + source.replace("Heap,\n                   Arena", "ALL"),
                                {"one, whole": None})), '"[x]", Heap) {\n  if'),
        "a case over each storage": (
            said(lambda: reduce(source.replace("Heap,\n                   Arena", "EACH_STORAGE(Heap,\n  Arena)"),
                                {"one, whole": None})), '"[x]", Heap) {\n  if'),
        "over none of its own": (said(lambda: reduce(source, {"one, whole": "Disk"})), "is not run over Disk"),
        "no such case": (said(lambda: reduce(source, {"three": None})), "'three' is in its program 0 times"),
    }
    failed = 0
    for name, (found, expected) in cases.items():
        as_expected = expected in found
        failed += not as_expected
        print(f"{'ok' if as_expected else 'FAILED'}: {name}" + ("" if as_expected else f": {found!r}"))
    return 1 if failed else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=int, action="append", metavar="N", help="a promise's number")
    parser.add_argument("--case", metavar="TEXT")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--self-test", action="store_true")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build" / "dev", help="a build of the preset dev")
    arguments = parser.parse_args()
    if arguments.self_test:
        return self_test()
    try:
        breakages = read_list(HERE / "breakages.toml")
        if problems := check(breakages):
            print("\n".join(problems))
            return 1
        if arguments.check:
            print(f"{len(breakages)} breakages fit")
            return 0
        chosen = [b for b in breakages
                  if (arguments.only is None or b["promise"] in arguments.only)
                  and (arguments.case is None or any(arguments.case in text for text in [b["what"], *b["cases"]]))]
        if arguments.list:
            for breakage in chosen:
                print(f"{title(breakage)}\n    {breakage['header']}; {breakage['program']}: {', '.join(breakage['cases'])}")
            return 0
        if not chosen:
            print("no such breakage", file=sys.stderr)
            return 2
        report = ROOT / "build" / "report" / "breakages.md" if chosen == breakages else None
        return run_all(chosen, arguments.build.resolve(), arguments.jobs, report)
    except Problem as problem:
        print(problem, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
