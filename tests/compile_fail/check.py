#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Checks that a file is refused by the compiler, for the reason that it gives and for no other.

  check.py FILE -- COMPILER [FLAG...]
  check.py --self-test -- COMPILER [FLAG...]    sees that the check itself fails when it should

A file says in a line `// expect: REGEX` what an error of the compiler must match. The code that must not compile is in
`#ifdef MUST_NOT_COMPILE`; the file must compile without it, so that a wrong include or a renamed type is not taken for
success. A line `// flags: FLAG...` gives the compiler more flags. With `// only: clang` another compiler is not asked:
then this ends with 77, which CTest takes for skipped.
"""
import os
import pathlib
import re
import subprocess
import sys
import tempfile


def compile_file(path, compiler, *flags):
    return subprocess.run([*compiler, "-fsyntax-only", *flags, str(path)], env={**os.environ, "LC_ALL": "C"},
                          stdin=subprocess.DEVNULL, capture_output=True, text=True)


def stated(path, word):
    """Returns what the file says behind `// word: `, or None."""
    line = re.search(rf"^// {word}: (.+)$", path.read_text(), re.MULTILINE)
    return line and line[1]


def is_for(path, compiler):
    """Whether the compiler is one that the file is for."""
    only = stated(path, "only")
    if not only:
        return True
    macros = subprocess.run([compiler[0], "-dM", "-E", "-x", "c++", "/dev/null"], capture_output=True, text=True, check=True)
    return f"#define __{only}__ 1" in macros.stdout.splitlines()


def check(path, compiler):
    """Returns what is wrong, or None."""
    expected = stated(path, "expect")
    if not expected:
        return "has no line `// expect: REGEX`"
    compiler = [*compiler, *(stated(path, "flags") or "").split()]
    plain = compile_file(path, compiler)
    if plain.returncode != 0:
        return "does not compile even without MUST_NOT_COMPILE:\n" + plain.stderr
    refused = compile_file(path, compiler, "-DMUST_NOT_COMPILE")
    if refused.returncode == 0:
        return "compiles, and must not"
    errors = [line for line in refused.stderr.splitlines() if "error:" in line]
    if not any(re.search(expected, line) for line in errors):
        return f"is refused, but no error matches {expected!r}:\n" + refused.stderr
    return None


def self_test(compiler):
    expect = "// expect: deleted\n"
    only_moves = "struct Pin { Pin() = default; Pin(const Pin&) = delete; };\nPin first;\n"
    cases = {
        "refused as expected": (expect + only_moves + "#ifdef MUST_NOT_COMPILE\nPin second = first;\n#endif\n", None),
        "not refused": (expect + only_moves + "#ifdef MUST_NOT_COMPILE\nPin second;\n#endif\n", "compiles, and must not"),
        "refused for another reason": (
            expect + only_moves + "#ifdef MUST_NOT_COMPILE\nPni second = first;\n#endif\n", "no error matches"),
        "broken anyhow": (expect + "#include <tarn/gone.hpp>\n", "does not compile even without"),
        "no expectation": (only_moves, "has no line"),
        "refused with its flags alone": (
            expect + "// flags: -DGIVEN\n" + only_moves +
            "#if defined(MUST_NOT_COMPILE) && defined(GIVEN)\nPin second = first;\n#endif\n", None),
    }
    failed = 0
    for only, right in (("linux", True), ("no_such_compiler", False)):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "case.cpp"
            path.write_text(f"// only: {only}\n")
            as_expected = is_for(path, compiler) == right
        failed += not as_expected
        print(f"{'ok' if as_expected else 'FAILED'}: a file for {only} alone is {'' if right else 'not '}for this compiler")
    for name, (text, problem) in cases.items():
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "case.cpp"
            path.write_text(text)
            found = check(path, compiler)
        as_expected = found is None if problem is None else found is not None and problem in found
        failed += not as_expected
        print(f"{'ok' if as_expected else 'FAILED'}: {name}" + ("" if as_expected else f": {found}"))
    return 1 if failed else 0


def main(arguments):
    if len(arguments) < 3 or arguments[1] != "--":
        print(__doc__.strip(), file=sys.stderr)
        return 2
    compiler = arguments[2:]
    if arguments[0] == "--self-test":
        return self_test(compiler)
    path = pathlib.Path(arguments[0])
    if not is_for(path, compiler):
        print(f"{path}: skipped, it is for {stated(path, 'only')} alone")
        return 77
    problem = check(path, compiler)
    print(f"{arguments[0]}: {problem or 'is refused, as it must be'}")
    return 1 if problem else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
