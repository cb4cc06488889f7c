#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Sees that the first code block of a page is the whole of an example, below what that says of itself.

  readme.py README.md examples/smallest.cpp    says what differs, and fails if anything does
  readme.py --self-test                        sees that it refuses what it should
"""
import difflib
import pathlib
import re
import sys


def check(readme, example):
    """Returns what is wrong, as lines to print."""
    block = re.search(r"^```cpp\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)
    if block is None:
        return ["the page has no code block"]
    start = example.find("#include <tarn/")
    if start < 0:
        return ["the example includes nothing of tarn"]
    lines = [text.splitlines() for text in (block.group(1), example[start:])]
    return list(difflib.unified_diff(*lines, "the page", "the example", lineterm=""))


def self_test():
    example = "// head\n\n#include <tarn/tarn.hpp>\n\nint main() {}\n"
    whole = "text\n```cpp\n#include <tarn/tarn.hpp>\n\nint main() {}\n```\n```cpp\nother\n```\n"
    assert not check(whole, example)
    assert check(whole.replace("main", "other"), example)
    assert check(whole.replace("#include <tarn/tarn.hpp>\n", ""), example)
    assert check("no block\n", example)
    assert check(whole, "int main() {}\n")


def main(arguments):
    if arguments == ["--self-test"]:
        return self_test()
    if len(arguments) != 2:
        print(__doc__.strip(), file=sys.stderr)
        return 2
    problems = check(*(pathlib.Path(argument).read_text() for argument in arguments))
    print("\n".join(problems) if problems else "the page shows the example")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
