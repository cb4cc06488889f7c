# SPDX-License-Identifier: MIT
"""The drawing of `scale`: cost by the count of chunks and by the size of requests, memory by that of files."""

import re

import charts

SCALES = {"": 1, "k": 1_000, "M": 1_000_000, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20}


def number(words):
    """Of what names say: 10k, 64KiB."""
    digits, scale = re.fullmatch(r"(\d+)(\w*)", words).groups()
    return int(digits) * SCALES[scale]


def count_said(count):
    return f"{count // 1_000_000}M" if count >= 1_000_000 else f"{count // 1_000}k" if count >= 1_000 else f"{count:g}"


def ns_said(ns):
    return f"{ns // 1000:g} us" if ns >= 1000 else f"{ns:g} ns"


def bytes_said(size):
    return f"{size // 1_000_000} MB" if size >= 1_000_000 else f"{size // 1_000} kB" if size >= 1_000 else f"{size} B"


def sizes_axis(sizes):
    return charts.Axis([(s, f"{s >> 10} KiB" if s < 1 << 20 else f"{s >> 20} MiB") for s in sizes], log=True)


def points(rows, pattern, of):
    """{number in the name: of(row)} of the figures whose name is like that."""
    found = ((re.fullmatch(pattern, row["name"]), row) for row in rows)
    return {number(match[1]): of(row) for match, row in found if match}


def value(row):
    return (row["value"], *(row["spread"] if row["ratio"] is None else [row["value"]] * 2))


def ratio(row):
    return (row["ratio"], *row["spread"])


def reference(row):
    return tuple(row["value"] * part for part in ratio(row))


def drawn(series):
    return [one for one in series if one[1]]


def places(series):
    return sorted({x for _, line, *_ in series for x in line})


def heights(series):
    return [height for _, line, *_ in series for value in line.values() for height in value]


def drawing(rows, title):
    out, end = charts.begin(rows, title)

    def chart(name, below, x_axis, y_axis, x_said, series):
        nonlocal end
        more, end = charts.lines(end + 70, 230, name, below, x_axis, y_axis, x_said, series)
        out.extend(more)

    by_count = drawn([
        ("the plan's table, a touch", points(rows, r"touch/(\w+)", reference), charts.RED, False),
        ("a touch by id", points(rows, r"touch/(\w+)", value), charts.ORANGE, False),
        ("view by file", points(rows, r"view/(\w+)/1t", value), charts.BLUE, False),
        ("view by file, 2 threads", points(rows, r"view/(\w+)/2t", value), charts.BLUE, True),
        ("pin by id", points(rows, r"pin/(\w+)/1t", value), charts.LIGHT, False),
        ("pin by id, 2 threads", points(rows, r"pin/(\w+)/2t", value), charts.LIGHT, True),
    ])
    if by_count:
        chart(
            "A call, by the count of chunks held",
            "lower is better; chunks as drawn, so that what no cache holds is paid for; upright lines: quartiles",
            charts.decades(places(by_count), count_said),
            charts.decades(heights(by_count), ns_said),
            "chunks held",
            by_count,
        )

    by_size = drawn([
        ("chunks of 1 MiB", points(rows, r"read/(\w+)/chunks_of_1MiB", ratio), charts.LIGHT, False),
        ("chunks of 64 KiB", points(rows, r"read/(\w+)/chunks_of_64KiB", ratio), charts.BLUE, False),
        ("chunks of 4 KiB", points(rows, r"read/(\w+)/chunks_of_4KiB", ratio), charts.ORANGE, False),
    ])
    if by_size:
        sizes = places(by_size)
        most = max(1.1, *heights(by_size))
        memcpy = {size: (1, 1, 1) for size in sizes}
        chart(
            "A read, by its size: memcpy of the same bytes over it",
            "higher is better, at 1 it costs no more than the copy; upright lines: quartiles",
            sizes_axis(sizes),
            charts.Axis([(tenth / 10, f"{tenth / 10:.1f}") for tenth in range(0, 11, 2)], low=0, high=most),
            "bytes asked for",
            [*by_size, ("memcpy", memcpy, charts.GREY, True)],
        )

    by_files = drawn([
        ("charged for a file", points(rows, r"memory/per_file/(\w+)", value), charts.BLUE, False),
        ("heap, DirtyFile and all", points(rows, r"memory/per_file/(\w+)/heap", value), charts.ORANGE, False),
    ])
    if by_files:
        its_bytes = {count: (4096, 4096, 4096) for count in places(by_files)}
        chart(
            "Memory a file of 4 KiB, by the count of files",
            "lower is better; the first file pays for a slab of 2 MiB, in which 511 others find room",
            charts.decades(places(by_files), count_said),
            charts.decades(heights(by_files), bytes_said),
            "files",
            [*by_files, ("its bytes", its_bytes, charts.GREY, True)],
        )
    return charts.svg(out, end + 12)
