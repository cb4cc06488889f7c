# SPDX-License-Identifier: MIT
"""Charts of a suite's figures, as SVG: several in one drawing, one below the other. Bars of goals, and lines.

A line chart is told what to draw in its own units: its axes say where a value lies.
"""

import math

from figures import short

INK, SOFT, GRID = "#1d2126", "#5a6270", "#e6e8ec"
WIDE, LEFT, RIGHT = 760, 64, 176
BLUE, LIGHT, RED, ORANGE, GREY = "#0b6e99", "#5b9bd1", "#c2573d", "#c98a2b", "#6f7785"


def text(x, y, words, anchor="start", fill=INK, more=""):
    words = words.replace("&", "&amp;").replace("<", "&lt;")
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{fill}"{more}>{words}</text>'


def line(x1, y1, x2, y2, colour, more=""):
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"{more}/>'


def svg(parts, height):
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDE} {height}" width="{WIDE}" height="{height}" '
        'font-family="system-ui, sans-serif" font-size="12" fill="#1d2126">\n'
        '<rect width="100%" height="100%" fill="#ffffff"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


class Axis:
    """Where a value lies between two ends of the drawing. `ticks`: [(value, what is said there)], ascending."""

    def __init__(self, ticks, log=False, low=None, high=None):
        self.ticks, self.log = ticks, log
        self.low = ticks[0][0] if low is None else low
        self.high = ticks[-1][0] if high is None else high

    def part(self, value):
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


def decades(values, said):
    """A logarithmic axis from the power of ten below the values to the one above them."""
    first, last = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return Axis([(10**power, said(10**power)) for power in range(first, max(last, first + 1) + 1)], log=True)


def apart(wanted, least):
    """Moves heights that are less than `least` apart from each other, the fewest and as little as that takes."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    groups = []  # [sum of what is wanted of each first, less its place in the group; count]
    for i in order:
        groups.append([wanted[i], 1])
        while len(groups) > 1:
            (a, m), (b, n) = groups[-2:]
            if b / n - a / m >= least * m:
                break
            groups[-2:] = [[a + b - n * m * least, m + n]]
    placed = [total / n + k * least for total, n in groups for k in range(n)]
    return {i: y for i, y in zip(order, placed)}


def lines(top, height, title, below, x_axis, y_axis, x_said, series):
    """`series`: [(name, {x: (value, low, high)}, colour, dashed)], named at their ends; low and high: quartiles.

    Returns: what to draw, and where it ends.
    """
    bottom, wide = top + height, WIDE - LEFT - RIGHT

    def at_x(value):
        return LEFT + 14 + x_axis.part(value) * (wide - 28)

    def at_y(value):
        return bottom - y_axis.part(value) * height

    out = [text(12, top - 34, title, more=' font-size="14" font-weight="600"'), text(12, top - 16, below, fill=SOFT)]
    for value, said in y_axis.ticks:
        out.append(line(LEFT, at_y(value), LEFT + wide, at_y(value), GRID))
        out.append(text(LEFT - 8, at_y(value) + 4, said, "end", SOFT))
    for value, said in x_axis.ticks:
        out.append(line(at_x(value), bottom, at_x(value), bottom + 4, SOFT))
        out.append(text(at_x(value), bottom + 18, said, "middle", SOFT))
    out.append(line(LEFT, bottom, LEFT + wide, bottom, SOFT))
    out.append(text(LEFT + wide / 2, bottom + 36, x_said, "middle", SOFT))
    ends = []
    for name, points, colour, dashed in series:
        places = [(at_x(x), at_y(value)) for x, (value, _, _) in sorted(points.items())]
        way = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        out.append(f'<polyline points="{way}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>')
        for x, (value, low, high) in sorted(points.items()):
            out.append(line(at_x(x), at_y(low), at_x(x), at_y(high), colour, ' stroke-width="1.5"'))
            out.append(
                f'<circle cx="{at_x(x):.1f}" cy="{at_y(value):.1f}" r="3.5" fill="{colour}">'
                f"<title>{name}, {x:,}: {value:,.3g} ({low:,.3g} to {high:,.3g})</title></circle>"
            )
        ends.append((name, colour, *places[-1]))
    label_y = apart([y for _, _, _, y in ends], 15)
    for i, (name, colour, x, y) in enumerate(ends):
        out.append(line(x + 6, y, LEFT + wide + 6, label_y[i], colour, ' stroke-width="0.75"'))
        out.append(text(LEFT + wide + 10, label_y[i] + 4, name, fill=colour))
    return out, bottom + 40


def bars(top, title, below, rows):
    """`rows`: [(name, value, low, high, colour)], as long as they are much; low and high: quartiles.

    Returns: what to draw, and where it ends.
    """
    left, bar, step = 24 + 7 * max(len(name) for name, *_ in rows), 16, 24
    scale = (WIDE - left - 110) / max(high for _, _, _, high, _ in rows)
    out = [text(12, top - 34, title, more=' font-size="14" font-weight="600"'), text(12, top - 16, below, fill=SOFT)]
    for i, (name, value, low, high, colour) in enumerate(rows):
        y = top + i * step
        out.append(text(left - 8, y + 12, name, "end"))
        out.append(f'<rect x="{left}" y="{y}" width="{value * scale:.1f}" height="{bar}" fill="{colour}"/>')
        out.append(line(left + low * scale, y + bar / 2, left + high * scale, y + bar / 2, INK, ' stroke-width="1.5"'))
        out.append(text(left + high * scale + 8, y + 12, short(value)))
    return out, top + len(rows) * step


def got_of(row):
    """What of a figure is held against its goal."""
    return row["ratio"] if row["ratio"] is not None else row["value"]


def goals(top, title, rows):
    """A bar for each figure with a goal, so long that at the line it is met: longer is better.

    Returns: what to draw, and where it ends.
    """
    left, bar, step = 270, 16, 24
    scale = (WIDE - left - 190) / 1.5
    out = [text(12, top - 16, title, more=' font-size="14" font-weight="600"')]
    with_goal = [row for row in rows if row["goal"] is not None]
    for i, row in enumerate(with_goal):
        got, goal, higher = got_of(row), row["goal"], row["better"] == "higher"
        over, under = (got, goal) if higher else (goal, got)
        part = min(max(over / under, 0), 1.5) if under else 1.5
        unit = "" if row["ratio"] is not None else f" {row['unit']}"
        y, reach = top + i * step, part * scale
        out.append(text(left - 8, y + 12, row["name"], "end"))
        out.append(f'<rect x="{left}" y="{y}" width="{reach:.1f}" height="{bar}" fill="{BLUE if part >= 1 else RED}"/>')
        said = f"{short(got)}{unit}, at {'least' if higher else 'most'} {goal:g}"
        out.append(text(left + max(reach, scale) + 8, y + 12, said))
    end = top + len(with_goal) * step
    out.append(line(left + scale, top - 6, left + scale, end - 2, INK))
    return out, end


def begin(rows, title):
    """A drawing's title, and the bars of its goals. Returns: what to draw, and where it ends."""
    bars, end = goals(68, "Goals: met at the line, and longer is better", rows)
    return [text(12, 24, title, more=' font-size="16" font-weight="600"'), *bars], end
