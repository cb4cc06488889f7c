# SPDX-License-Identifier: MIT
"""The drawing of `mount`: CPU time of reads by the size of requests, and of each way through the page cache."""

import charts
from scale_charts import drawn, heights, places, points, sizes_axis, value

WAYS = [
    # name in the figures, what is said, colour
    ("/before", "plan/before: clone", charts.GREY),
    ("/after", "plan/after: append", charts.ORANGE),
    ("/copy", "tarn, copy", charts.LIGHT),
    ("", "tarn, gather", charts.BLUE),
    ("/tmpfs", "tmpfs itself", charts.RED),
]


def colour_of(row):
    others = {"passthrough_ll": charts.RED, "tmpfs": charts.GREY}
    return others.get(row["name"].split("/")[-1], charts.BLUE)


def drawing(rows, title):
    out, end = charts.begin(rows, title)
    by_size = drawn([
        (said, points(rows, rf"mount/read/(\d+\w+){way}", value), colour, way == "/tmpfs")
        for way, said, colour in WAYS
    ])
    if by_size:
        more, end = charts.lines(
            end + 70,
            260,
            "A read, by the size of requests: CPU time of daemon and reader",
            "lower is better; --direct-io, of what was written and not yet stored; upright lines: quartiles",
            sizes_axis(places(by_size)),
            charts.decades(heights(by_size), lambda seconds: f"{seconds:g} s/GiB"),
            "bytes asked for",
            by_size,
        )
        out.extend(more)
    cached = [row for row in rows if "/cached_" in row["name"]]
    if cached:
        more, end = charts.bars(
            end + 64,
            "Through the kernel's page cache, 128 KiB at a time: CPU s/GiB of daemon and reader",
            "lower is better; and_close: with the close, at which tarnfs stores what it has held",
            [(row["name"].removeprefix("mount/"), *value(row), colour_of(row)) for row in cached],
        )
        out.extend(more)
    return charts.svg(out, end + 12)
