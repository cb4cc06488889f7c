# SPDX-License-Identifier: MIT
"""The main job's figures as a table, a bar chart, a page, a drawing and JSON."""

import json

from figures import aligned, goal_said, short

ARMS = ["before", "after", "after_fixed_threshold", "copy", "gather"]
LABELS = {
    "before": "plan/before: clone, push byte by byte",
    "after": "plan/after: with_data, fresh vector",
    "after_fixed_threshold": "plan/after, malloc gives back",
    "copy": "tarn, copy",
    "gather": "tarn, gather: fuse_reply_iov",
}
COLOURS = {
    "before": "#b9bec7",
    "after": "#6f7785",
    "after_fixed_threshold": "#d9dce1",
    "copy": "#6aa6d8",
    "gather": "#0b6e99",
}


def read_rows(rows):
    """(size, arm, suffix, row) of the reads, in the order of the chart."""
    found = []
    for row in rows:
        words = row["name"].removesuffix("/in_process").split("/")
        if words[0] == "read":
            found.append((words[1], words[2], "/" + words[3] if len(words) > 3 else "", row))
    return found


def table(rows):
    """Header and lines of the main table, as lists of words."""
    by_name = {row["name"]: row for row in rows}
    header = [
        "figure",
        "CPU s/GiB",
        "ratio to plan/after",
        "quartiles",
        "n",
        "faults/GiB",
        "GiB/s",
        "machine s/GiB",
        "goal",
    ]
    lines = []
    for row in rows:
        name = row["name"]
        if name.split("/")[0] in ("faults", "throughput", "machine"):
            continue
        beside = [by_name.get(f"{kind}/{name}") for kind in ("faults", "throughput", "machine")]
        faults, throughput, machine = (short(b["value"]) if b else "" for b in beside)
        # The machine's own count is told where it differs: work that neither process is charged for, or other programs.
        if beside[2] and abs(beside[2]["value"] - row["value"]) <= 0.15 * row["value"]:
            machine = "same"
        value = short(row["value"]) + ("" if row["unit"] == "CPU s/GiB" else f" {row['unit']}")
        ratio = f"{row['ratio']:.2f}" if row["ratio"] is not None else ""
        spread = f"{row['spread'][0]:.2f} .. {row['spread'][1]:.2f}" if row["ratio"] is not None else ""
        lines.append([name, value, ratio, spread, str(row["n"]), faults, throughput, machine, goal_said(row)])
    return header, lines


def bars(rows, width=46):
    """The same chart as the drawing's, in text: direct reads, ratio to plan/after."""
    drawn = [(size, arm, row) for size, arm, suffix, row in read_rows(rows) if not suffix and row["ratio"] is not None]
    if not drawn:
        return ""
    most = max(max(row["ratio"] for _, _, row in drawn), 1.0)
    lines, last = ["ratio to plan/after, CPU of reader and daemon: longer is cheaper; | is plan/after"], None
    for size, arm, row in drawn:
        if size != last:
            lines.append(size)
        last = size
        bar = list(("#" * max(1, round(row["ratio"] / most * width))).ljust(width + 1))
        bar[round(width / most)] = "|"
        lines.append(f"  {arm:22}{''.join(bar)} {row['ratio']:.2f}")
    return "\n".join(lines)


def drawing(rows, caption):
    """The bar chart as SVG: for each size of request a group of bars, ratio to plan/after, with quartiles."""
    drawn = [(size, arm, row) for size, arm, suffix, row in read_rows(rows) if not suffix and row["ratio"] is not None]
    sizes = list(dict.fromkeys(size for size, _, _ in drawn))
    arms = [arm for arm in ARMS if any(arm == a for _, a, _ in drawn)]
    left, top, height, bar, gap = 56, 64, 260, 34, 40
    group = bar * len(arms) + gap
    width = left + group * max(len(sizes), 1) + 20
    bottom = top + height
    most = max([1.2, *(row["spread"][1] for _, _, row in drawn)]) * 1.08

    def y(ratio):
        return bottom - ratio / most * height

    out = [
        '<rect width="100%" height="100%" fill="#ffffff"/>',
        f'<text x="{left}" y="24" font-size="15" font-weight="600">'
        "Reads: CPU time of plan/after over that of each path</text>",
        f'<text x="{left}" y="43" fill="#5a6270">{caption}</text>',
    ]
    tick = 0.0
    while tick <= most:
        strong = abs(tick - 1) < 1e-9
        out.append(
            f'<line x1="{left}" x2="{width - 12}" y1="{y(tick):.1f}" y2="{y(tick):.1f}" '
            f'stroke="{"#33383f" if strong else "#e6e8ec"}" stroke-width="1"/>'
        )
        out.append(f'<text x="{left - 8}" y="{y(tick) + 4:.1f}" text-anchor="end" fill="#5a6270">{tick:.1f}</text>')
        tick += 0.2 if most < 2 else 0.5
    for g, size in enumerate(sizes):
        x = left + gap / 2 + g * group
        out.append(f'<text x="{x + bar * len(arms) / 2:.1f}" y="{bottom + 18}" text-anchor="middle">{size}</text>')
        for i, arm in enumerate(arms):
            for row in (row for s, a, row in drawn if (s, a) == (size, arm)):
                at, ratio, (low, high) = x + i * bar, row["ratio"], row["spread"]
                middle = at + (bar - 4) / 2
                out.append(
                    f'<rect x="{at:.1f}" y="{y(ratio):.1f}" width="{bar - 4}" height="{bottom - y(ratio):.1f}" '
                    f'fill="{COLOURS[arm]}"><title>{row["name"]}: {ratio:.2f} ({low:.2f} to {high:.2f}), '
                    f'n = {row["n"]}</title></rect>'
                )
                out.append(
                    f'<line x1="{middle:.1f}" x2="{middle:.1f}" y1="{y(low):.1f}" y2="{y(high):.1f}" '
                    'stroke="#1d2126" stroke-width="1.5"/>'
                )
                out.append(
                    f'<text x="{middle:.1f}" y="{y(high) - 5:.1f}" text-anchor="middle" font-size="11">'
                    f"{ratio:.2f}</text>"
                )
    for i, arm in enumerate(arms):
        at = bottom + 44 + 18 * i
        out.append(
            f'<rect x="{left}" y="{at - 9}" width="11" height="11" fill="{COLOURS[arm]}"/>'
            f'<text x="{left + 18}" y="{at}">{LABELS[arm]}</text>'
        )
    full, wide = bottom + 44 + 18 * len(arms), max(width, 600)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {full}" width="{wide}" height="{full}" '
        'font-family="system-ui, sans-serif" font-size="12" fill="#1d2126">\n' + "\n".join(out) + "\n</svg>\n"
    )


def write(figures, folder, form, machine, seconds, notes):
    """Shows the table and the chart, and writes main.md, main.svg and main.json."""
    rows = figures.rows
    header, lines = table(rows)
    folder.mkdir(parents=True, exist_ok=True)
    caption = f"{machine}; form: {form}"
    (folder / "main.json").write_text(json.dumps({"form": form, "machine": machine, "results": rows}, indent=1) + "\n")
    (folder / "main.svg").write_text(drawing(rows, f"above 1 is cheaper; line: quartiles; {machine}"))
    page = [
        "# The main job",
        "",
        f"{caption}; took {seconds:.0f} s. Every byte was verified in the mount and as stored.",
        "",
    ]
    page += [f"- {note}" for note in notes] + ["", "![ratios](main.svg)", ""]
    page += ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    page += ["| " + " | ".join(line) + " |" for line in lines]
    (folder / "main.md").write_text("\n".join(page) + "\n")

    print("\n" + aligned(header, lines) + "\n\n" + bars(rows) + "\n")
    for note in notes:
        print(f"- {note}")
    print(f"\nEvery byte was verified. {seconds:.0f} s. Written: {folder}/main.md, main.svg, main.json")
    missed = [row["name"] for row in rows if "MISSED" in goal_said(row)]
    if missed:
        print(f"Goals missed: {', '.join(missed)}")
