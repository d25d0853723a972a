"""Format results as Markdown."""

from bench import targets

__all__ = ["codec_tables", "lines", "other_table", "rows_table"]


def table(head, rows):
    """Return a Markdown table as text."""
    out = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(out + ["| " + " | ".join(map(str, row)) + " |" for row in rows])


def lines(items):
    return "\n".join(f"- {item}" for item in items)


def million(rate):
    rate /= 1e6
    return f"{rate:.1f}" if rate < 100 else f"{rate:,.0f}"


def machine(facts):
    return f"{facts['cpu']}, {facts['level']}, {facts['cores']} cores, {facts['system']}, Python {facts['python']}"


MARK = {"ratio": " ✓", "bandwidth": " ✓bw", "no": " ✗", None: ""}


def codec_tables(result):
    """Return one table per kind of work, with one row per type and three columns per level."""
    read, fill = (result["rates"][f"{what}_bytes_per_second"] for what in ("read", "fill"))
    parts = [
        f"One core reads {read / 4e6:,.0f} million float32 per second and writes {fill / 4e6:,.0f} million. Rates are "
        "in million weights per second, and x is the ratio to the reference's rate. ✓: the goal is met. ✓bw: it is met "
        "by the share of the bandwidth. ✗: it is not met. No mark: there is no goal."
    ]
    for work in ("encode plain", "encode weighted", "decode"):
        cells = [cell for cell in result["cells"] if cell["work"] == work]
        if not cells:
            continue
        by_type = {}
        for cell in cells:
            by_type.setdefault(cell["type"], {})[cell["level"]] = cell
        what = "fill" if work == "decode" else "read"
        head = ["type", "reference"]
        for level in result["levels"]:
            head += [level, "x", f"% of {what}"]
        rows = []
        for name, found in by_type.items():
            row = [name, million(next(iter(found.values()))["reference_weights_per_second"])]
            for level in result["levels"]:
                cell = found.get(level)
                row += ["-", "-", "-"] if cell is None else _cell(cell)
            rows.append(row)
        parts.append(f"### {work.capitalize()}\n\n{table(head, rows)}")
        if work == "decode":
            parts.append(_geomeans(result["decode_geomeans"]))
    return "\n\n".join(parts)


def _cell(cell):
    goal = f" (goal {cell['goal']:g})" if cell["met"] == "no" else ""
    ratio = f"{cell['ratio']:.1f}" if cell["ratio"] >= 1.95 else f"{cell['ratio']:.2f}"
    return [million(cell["weights_per_second"]), f"{ratio}{MARK[cell['met']]}{goal}", f"{100 * cell['share']:.0f}"]


def _geomeans(means):
    rows = []
    for level, (everything, rest, met) in means.items():
        below = "-" if rest is None else f"{rest:.2f}"
        goal = targets.DECODE_GEOMEAN[level]
        rows.append([level, f"{everything:.2f}", below, f"{goal:g}", "✓" if met else "✗"])
    head = ["level", "geometric mean of all", f"of those below {targets.FILL_SHARE:.0%} of fill", "goal", ""]
    return table(head, rows)


def other_table(cells):
    """Return a table of the ratios to other Python packages."""
    rows = [
        [c["type"], c["work"], c["package"], f"{c['ratio']:.1f}", "yes" if c["same_bytes"] else "no"] for c in cells
    ]
    return table(["type", "", "package", "times as fast", "same bytes"], rows)


def rows_table(rows):
    """Return a table of dicts with the same keys. None is shown as a dash."""

    def shown(value):
        if value is None:
            return "-"
        if isinstance(value, bool):
            return "✓" if value else "✗"
        if isinstance(value, float):
            return f"{value:.2f}" if abs(value) >= 1 else f"{value:.3g}"
        return str(value)

    if not rows:
        return "(nothing measured)"
    return table(list(rows[0]), [[shown(value) for value in row.values()] for row in rows])
