#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Checks the headers of tarn against the house's rules.

  check_layers.py include/tarn    prints what is wrong, one line each, and fails if anything is
  check_layers.py --self-test     feeds made-up trees to the check and fails unless it refuses the bad ones

The rules: a header includes headers of its own layer or a lower one, never in a circle. Only an edge includes a third
party, its own one; everything else includes the standard library, the system and tarn. The umbrella reaches every
public header but the edges and what embedders test with (testing/), which nothing else includes. What one thread does
and another sees goes through detail/sync.hpp: no other header but an edge and testing/ names the standard's atomics,
mutexes, conditions or threads. Nor does one hold a Mutex of that door, which clang's analysis of threads does not know:
it holds a CheckedMutex. A header starts with the SPDX line and #pragma once, and has at most 450 lines of at
most 120 columns.
"""
import fnmatch
import pathlib
import posixpath
import re
import sys
import tempfile

# Lowest first. A new header is added here, in the lowest layer that it can live in.
LAYERS = [
    ("ground", ["detail/copy_bytes.hpp", "detail/waiter.hpp", "detail/thread_safety.hpp", "detail/sync.hpp", "detail/file_lock.hpp", "detail/striped_count.hpp",
                "detail/ring.hpp", "detail/small_vector.hpp", "detail/pressure.hpp", "detail/room_queue.hpp"]),
    ("values", ["byte_range.hpp", "detail/sorted_extents.hpp", "chunk_layout.hpp", "extent_set.hpp", "result.hpp", "buffers.hpp",
                "budget.hpp", "call_options.hpp", "pool_options.hpp", "pool_stats.hpp", "read_ahead.hpp"]),
    ("contracts", ["store_request.hpp", "token.hpp", "store.hpp", "policies.hpp"]),
    ("mechanisms", ["storage/*.hpp", "eviction/*.hpp", "dirty_file_metadata.hpp", "detail/chunk_state.hpp",
                    "detail/chunk_extents.hpp", "detail/stable_objects.hpp", "detail/chunk_reserve.hpp", "detail/chunk_table.hpp", "detail/record_table.hpp",
                    "detail/file_record.hpp", "detail/registry.hpp", "detail/pool_core.hpp"]),
    ("windows", ["detail/piece_list.hpp", "detail/latched_chunks.hpp", "detail/drop_clean.hpp", "detail/list_extents.hpp", "detail/held_read.hpp", "detail/read_window.hpp", "detail/write_window.hpp", "detail/held_write.hpp",
                 "detail/read_loop.hpp", "detail/ahead_charge.hpp", "detail/load.hpp", "detail/load_landing.hpp", "detail/load_places.hpp", "detail/load_requests.hpp", "detail/window_loads.hpp", "detail/load_ahead.hpp", "detail/room.hpp", "detail/waiting.hpp", "detail/share_content.hpp", "detail/flush_search.hpp", "detail/flush_job.hpp", "detail/file_body.hpp", "detail/file_change.hpp", "detail/file_flush.hpp", "detail/file_removal.hpp", "detail/file_sync.hpp"]),
    ("pool", ["chunk_pool.hpp", "spare_chunks.hpp"]),
    ("algorithms", ["read_range.hpp", "write_range.hpp", "truncate.hpp", "flush.hpp"]),
    ("file", ["open_file.hpp", "dirty_file.hpp", "dirty_file_async.hpp"]),
    ("table", ["dirty_file_table.hpp", "flusher.hpp"]),
    ("umbrella", ["tarn.hpp"]),
    ("edge", ["format.hpp", "fuse.hpp", "fuse_async.hpp", "fuse_loop.hpp", "prometheus.hpp"]),
    ("testing", ["testing/*.hpp"]),
]
TESTING = "testing/"

# What an edge may include beyond the others: of one that only few want, nothing. Nothing includes an edge but one of the
# same third party.
LIBFUSE = ["fuse.h", "fuse_*.h", "fuse3/*"]
THIRD_PARTY = {"format.hpp": ["fmt/*"], "fuse.hpp": LIBFUSE, "fuse_async.hpp": LIBFUSE, "fuse_loop.hpp": LIBFUSE, "prometheus.hpp": []}

# Where a header may include what a macro names: what explores interleavings puts its own atomics there.
BY_MACRO = {"detail/sync.hpp": "TARN_SYNC_HEADER"}

# What only that header names, since what replaces it must see every use. An edge has threads of its own, and so has a
# test.
SYNC = re.compile(r"\bstd::(atomic\w*|(?:recursive_|timed_|shared_)*mutex|condition_variable\w*|counting_semaphore|"
                  r"binary_semaphore|latch|barrier|j?thread|this_thread)\b")

# A field of that type. Named in another type, as in std::unique_lock<Mutex>, it does no harm.
UNCHECKED = re.compile(r"^\s*(?:mutable )?(?:tarn::)?(?:detail::)?Mutex \w+;")

# Of a condition variable.
NOTIFIES_ONE = re.compile(r"\bnotify_one\b")

# What starts a thread of its own; nothing below it does.
STARTS_THREADS = ["flusher.hpp"]

# C++20, but for <format>, which g++ 12 does not have.
STANDARD = set("""
    algorithm any array atomic barrier bit bitset cassert cctype cerrno cfenv cfloat charconv chrono cinttypes
    climits clocale cmath codecvt compare complex concepts condition_variable coroutine csetjmp csignal cstdarg
    cstddef cstdint cstdio cstdlib cstring ctime cuchar cwchar cwctype deque exception execution filesystem
    forward_list fstream functional future initializer_list iomanip ios iosfwd iostream istream iterator latch
    limits list locale map memory memory_resource mutex new numbers numeric optional ostream queue random ranges
    ratio regex scoped_allocator semaphore set shared_mutex source_location span sstream stack stdexcept stop_token
    streambuf string string_view strstream syncstream system_error thread tuple type_traits typeindex typeinfo
    unordered_map unordered_set utility valarray variant vector version
""".split())
SYSTEM = ["sys/*.h", "linux/*.h", "dirent.h", "fcntl.h", "poll.h", "pthread.h", "sched.h", "semaphore.h", "signal.h", "unistd.h"]

MAX_LINES = 450
MAX_COLUMNS = 120

INCLUDE = re.compile(r'^\s*#\s*include\s*(?:<([^>]+)>|"([^"]+)"|(\S.*))')


def layer_of(header):
    for rank, (_, patterns) in enumerate(LAYERS):
        if any(fnmatch.fnmatchcase(header, pattern) for pattern in patterns):
            return rank
    return None


def layer_name(header):
    return LAYERS[layer_of(header)][0]


def check_include(header, target, headers):
    """Returns what is wrong with `header` including <target>, or None."""
    if target.startswith("tarn/"):
        target = target[len("tarn/"):]
        if target not in headers:
            return f"includes <tarn/{target}>, which is not there"
        if layer_of(header) is None or layer_of(target) is None:
            return None  # said once, of the header that has no layer
        if layer_of(target) > layer_of(header):
            return f"({layer_name(header)}) includes {target}, which is in a higher layer ({layer_name(target)})"
        if target in THIRD_PARTY and THIRD_PARTY[target] is not THIRD_PARTY.get(header):
            return f"includes {target}: nothing includes an edge"
        return None
    if target in STANDARD or any(fnmatch.fnmatchcase(target, pattern) for pattern in SYSTEM):
        return None
    if any(fnmatch.fnmatchcase(target, pattern) for pattern in THIRD_PARTY.get(header, [])):
        return None
    return f"includes <{target}>, which is neither the standard library's, the system's nor tarn's"


def find_circle(edges):
    """Returns the headers of one circle of includes, the first repeated at the end, or None."""
    done, path = set(), []

    def visit(header):
        if header in path:
            return path[path.index(header):] + [header]
        if header in done:
            return None
        path.append(header)
        for target in edges[header]:
            circle = visit(target)
            if circle:
                return circle
        path.pop()
        done.add(header)
        return None

    return next(filter(None, map(visit, sorted(edges))), None)


def reach(edges, start):
    seen, todo = set(), [start]
    while todo:
        header = todo.pop()
        if header not in seen:
            seen.add(header)
            todo += edges[header]
    return seen


def check(root):
    """Returns what is wrong in the tree of headers at `root`, as lines to print."""
    problems = []
    headers = {str(path.relative_to(root)): path.read_text() for path in sorted(root.rglob("*.hpp"))}
    edges = {header: [] for header in headers}
    if not headers:
        problems.append(f"{root}: no header found")
    for header, text in headers.items():
        lines = text.splitlines()
        if layer_of(header) is None:
            problems.append(f"{header}: has no layer; add it to LAYERS in cmake/check_layers.py")
        if not lines or lines[0] != "// SPDX-License-Identifier: MIT":
            problems.append(f"{header}:1: does not start with the SPDX line")
        if "#pragma once" not in lines:
            problems.append(f"{header}:1: has no #pragma once")
        if len(lines) > MAX_LINES:
            problems.append(f"{header}: has {len(lines)} lines, more than {MAX_LINES}: it holds two things")
        for number, line in enumerate(lines, 1):
            if len(line) > MAX_COLUMNS:
                problems.append(f"{header}:{number}: has {len(line)} columns, more than {MAX_COLUMNS}")
            code = line.partition("//")[0]
            if NOTIFIES_ONE.search(code):
                problems.append(f"{header}:{number}: notifies one, which may wake nobody: see detail/sync.hpp")
            named = SYNC.search(code)
            if named and header not in BY_MACRO and header not in THIRD_PARTY and header not in STARTS_THREADS and \
                    not header.startswith(TESTING):
                problems.append(f"{header}:{number}: names {named.group()}, past detail/sync.hpp")
            if UNCHECKED.search(line) and header not in BY_MACRO:
                problems.append(f"{header}:{number}: holds a Mutex, and not a CheckedMutex")
            included = INCLUDE.match(line)
            if not included:
                continue
            angled, quoted, macro = included.groups()
            if macro:
                if BY_MACRO.get(header) != macro:
                    problems.append(f"{header}:{number}: includes what the macro {macro} names")
                continue
            # In quotes: beside this header, so one of ours.
            target = angled or posixpath.normpath(posixpath.join("tarn", posixpath.dirname(header), quoted))
            problem = check_include(header, target, headers)
            if problem:
                problems.append(f"{header}:{number}: {problem}")
            if target.startswith("tarn/") and target[len("tarn/"):] in headers:
                edges[header].append(target[len("tarn/"):])
    circle = find_circle(edges)
    if circle:
        problems.append("circle: " + " -> ".join(circle))
    if "tarn.hpp" in headers:
        public = {header for header in headers
                  if not header.startswith(("detail/", TESTING)) and header not in THIRD_PARTY}
        for header in sorted(public - reach(edges, "tarn.hpp")):
            problems.append(f"tarn.hpp: does not include {header}")
    return problems


def self_test():
    head = "// SPDX-License-Identifier: MIT\n#pragma once\n"
    include = lambda *names: head + "".join(f"#include <{name}>\n" for name in names)
    good = {
        "detail/sync.hpp": include("atomic", "linux/futex.h") + "#include TARN_SYNC_HEADER\nusing Mutex = std::mutex;\n",
        "byte_range.hpp": include("cstdint"),
        "extent_set.hpp": include("tarn/byte_range.hpp"),
        "storage/heap.hpp": include("sys/mman.h") + '#include "../byte_range.hpp"\n',
        "chunk_pool.hpp": include("tarn/storage/heap.hpp", "tarn/detail/sync.hpp"),
        "tarn.hpp": include("tarn/chunk_pool.hpp", "tarn/extent_set.hpp"),
        "format.hpp": include("tarn/tarn.hpp", "fmt/format.h"),
        "fuse.hpp": include("tarn/tarn.hpp", "fuse_lowlevel.h"),
        "prometheus.hpp": include("string", "tarn/chunk_pool.hpp"),
        "fuse_async.hpp": include("tarn/fuse.hpp"),
        "testing/gate.hpp": include("thread", "tarn/tarn.hpp") + "std::mutex lock;\n",
    }
    # What is put over the good tree (None takes a header away), and what must be said of it.
    bad = {
        "a lower layer includes a higher one": (
            {"byte_range.hpp": include("tarn/chunk_pool.hpp")},
            "byte_range.hpp:3: (values) includes chunk_pool.hpp, which is in a higher layer"),
        "a circle inside a layer": (
            {"byte_range.hpp": include("tarn/extent_set.hpp")},
            "circle: byte_range.hpp -> extent_set.hpp -> byte_range.hpp"),
        "a circle of one": (
            {"byte_range.hpp": include("tarn/byte_range.hpp")},
            "circle: byte_range.hpp -> byte_range.hpp"),
        "a header without a layer": ({"detail/helpers.hpp": head}, "detail/helpers.hpp: has no layer"),
        "a third party in the core": (
            {"chunk_pool.hpp": include("fmt/format.h")},
            "chunk_pool.hpp:3: includes <fmt/format.h>"),
        "libfuse in the core": ({"storage/heap.hpp": include("fuse_lowlevel.h")}, "includes <fuse_lowlevel.h>"),
        "one edge's dependency in another": (
            {"format.hpp": include("fuse_lowlevel.h")},
            "format.hpp:3: includes <fuse_lowlevel.h>"),
        "a third party in an edge without one": (
            {"prometheus.hpp": include("fmt/format.h")},
            "prometheus.hpp:3: includes <fmt/format.h>"),
        "one edge in another": (
            {"fuse.hpp": include("tarn/format.hpp")},
            "includes format.hpp: nothing includes an edge"),
        "testing in the core": (
            {"chunk_pool.hpp": include("tarn/testing/gate.hpp")},
            "chunk_pool.hpp:3: (pool) includes testing/gate.hpp, which is in a higher layer (testing)"),
        "testing in an edge": (
            {"prometheus.hpp": include("tarn/testing/gate.hpp")},
            "prometheus.hpp:3: (edge) includes testing/gate.hpp, which is in a higher layer"),
        "testing in the umbrella": (
            {"tarn.hpp": include("tarn/chunk_pool.hpp", "tarn/extent_set.hpp", "tarn/testing/gate.hpp")},
            "tarn.hpp:5: (umbrella) includes testing/gate.hpp"),
        "an edge in testing": (
            {"testing/gate.hpp": include("tarn/fuse.hpp")},
            "testing/gate.hpp:3: includes fuse.hpp: nothing includes an edge"),
        "a third party in testing": (
            {"testing/gate.hpp": include("catch2/catch.hpp")},
            "testing/gate.hpp:3: includes <catch2/catch.hpp>"),
        "an edge in the umbrella": (
            {"tarn.hpp": include("tarn/format.hpp")},
            "tarn.hpp:3: (umbrella) includes format.hpp"),
        "a header that is not there": (
            {"chunk_pool.hpp": include("tarn/gone.hpp")},
            "includes <tarn/gone.hpp>, which is not there"),
        "a C header for a C++ one": ({"byte_range.hpp": include("stdint.h")}, "byte_range.hpp:3: includes <stdint.h>"),
        "a higher layer in quotes": (
            {"storage/heap.hpp": head + '#include "../chunk_pool.hpp"\n'},
            "storage/heap.hpp:3: (mechanisms) includes chunk_pool.hpp, which is in a higher"),
        "quotes that lead nowhere": (
            {"storage/heap.hpp": head + '#include "chunk_pool.hpp"\n'},
            "includes <tarn/storage/chunk_pool.hpp>, which is not"),
        "a third party in quotes": (
            {"chunk_pool.hpp": head + '#include "fmt/format.h"\n'},
            "includes <tarn/fmt/format.h>, which is not there"),
        "an include by macro": (
            {"chunk_pool.hpp": head + "# include TARN_POOL\n"},
            "chunk_pool.hpp:3: includes what the macro TARN_POOL names"),
        "a mutex that nothing can replace": (
            {"chunk_pool.hpp": head + "std::shared_mutex lock;  // std::atomic\n"},
            "chunk_pool.hpp:3: names std::shared_mutex, past detail/sync.hpp"),
        "a mutex that the analysis of threads does not know": (
            {"chunk_pool.hpp": head + "  mutable detail::Mutex mutex_;\n"},
            "chunk_pool.hpp:3: holds a Mutex, and not a CheckedMutex"),
        "a notice to one of several": (
            {"format.hpp": include("tarn/tarn.hpp") + "  changed_.notify_one();\n"},
            "format.hpp:4: notifies one"),
        "an umbrella that leaves one out": (
            {"tarn.hpp": include("tarn/chunk_pool.hpp")},
            "tarn.hpp: does not include extent_set.hpp"),
        "a header too long": ({"byte_range.hpp": head + "\n" * (MAX_LINES - 1)}, f"has {MAX_LINES + 1} lines"),
        "a line too long": (
            {"byte_range.hpp": head + "/" * (MAX_COLUMNS + 1) + "\n"},
            f"byte_range.hpp:3: has {MAX_COLUMNS + 1} columns"),
        "no SPDX line": ({"byte_range.hpp": "#pragma once\n"}, "byte_range.hpp:1: does not start with the SPDX line"),
        "no pragma": ({"byte_range.hpp": head.splitlines()[0]}, "byte_range.hpp:1: has no #pragma once"),
        "no header at all": (dict.fromkeys(good), "no header found"),
    }
    longest = {"byte_range.hpp": head + "/" * MAX_COLUMNS + "\n" + "\n" * (MAX_LINES - 3)}
    cases = {"the good tree": ({}, None), "a header as long as may be": (longest, None), **bad}
    failed = 0
    for name, (change, expected) in cases.items():
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            for header, text in {**good, **change}.items():
                if text is not None:
                    path = root / header
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_text(text)
            problems = check(root)
        as_expected = any(expected in problem for problem in problems) if expected else not problems
        failed += not as_expected
        print(f"{'ok' if as_expected else 'FAILED'}: {name}")
        if not as_expected:
            print(f"  expected {expected!r}, got {problems}")
    return failed


def main(arguments):
    if arguments == ["--self-test"]:
        return 1 if self_test() else 0
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print(__doc__.strip(), file=sys.stderr)
        return 2
    problems = check(pathlib.Path(arguments[0]))
    print("\n".join(problems) if problems else "every header is in its layer")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
