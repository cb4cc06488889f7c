# SPDX-License-Identifier: MIT
"""What a figure comes to, and how it is said. A row is one of main.json: see README.md."""

import statistics


def quartiles(values):
    if len(values) < 2:
        return [values[0]] * 3
    return statistics.quantiles(values, n=4, method="inclusive")


def short(value):
    """Three figures that say something."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}" if abs(value) >= 1 else f"{value:.3f}"


def goal_said(row):
    if row["goal"] is None:
        return ""
    got = row["ratio"] if row["ratio"] is not None else row["value"]
    met = got >= row["goal"] if row["better"] == "higher" else got <= row["goal"]
    # A miss by less than what rounds differ by says nothing.
    near = row["spread"][1] >= row["goal"] if row["better"] == "higher" else row["spread"][0] <= row["goal"]
    return f"{row['goal']:g} {'met' if met else 'in the spread' if near else 'MISSED'}"


def aligned(header, lines):
    widths = [max(len(line[i]) for line in [header, *lines]) for i in range(len(header))]

    def row(line):
        return "  ".join(
            word.ljust(width) if i == 0 else word.rjust(width) for i, (word, width) in enumerate(zip(line, widths))
        ).rstrip()

    return "\n".join([row(header), row(["-" * width for width in widths]), *map(row, lines)])
