"""An evaluation as a web page: one file, no scripts, nothing loaded from elsewhere."""

import math
from html import escape

__all__ = ["curve_svg", "page"]

WIDTH, HEIGHT, LEFT, BOTTOM = 860, 480, 70, 50

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: 1em 0 }
th, td { text-align: right; padding: .15em .8em; border-bottom: 1px solid #ddd }
th:first-child, td:first-child, td.name, th.name { text-align: left }
tr.new { background: #fdeee6; font-weight: 600 }
svg { max-width: 100%; height: auto } svg text { font: 12px system-ui, sans-serif; fill: #444 }
.grid { stroke: #e4e4e4 } .frontier { fill: none; stroke: #9ab; stroke-dasharray: 4 4 }
.known { fill: #57809e } .new { fill: #d2491b } svg text.new { font-weight: 700; fill: #d2491b }
"""

COLUMNS = (
    ("bits_per_weight", "bits per weight", "{:.4g}"),
    ("error", "error", "{:.2%}"),
    ("weighted_error", "weighted error", "{:.2%}"),
    ("rmse", "RMSE", "{:.3g}"),
    ("max_error", "largest error", "{:.3g}"),
    ("cosine", "cosine", "{:.6f}"),
    ("encode_speed", "encode, M/s", "{:.1f}"),
    ("decode_speed", "decode, M/s", "{:.1f}"),
)


def page(evaluation, new=()) -> str:
    """HTML of an Evaluation; the types named in ``new`` stand out."""
    weights = max((total.weights for total in evaluation.totals), default=0)
    importance = f", importance from {escape(evaluation.imatrix)}" if evaluation.imatrix else ", without importance"
    skipped = "".join(f"<li>{escape(kind)} on {escape(t)}: {escape(why)}</li>" for kind, t, why in evaluation.skipped)
    return (
        "<!DOCTYPE html>\n<html lang=en><head><meta charset=utf-8><title>quantreg evaluate</title>"
        f"<style>{STYLE}</style></head><body>\n<h1>Error against bits per weight</h1>\n"
        f"<p>A random sample of {weights:,} weights of {escape(evaluation.path)}{importance}. The error is the root"
        " mean square error as a share of the weights' root mean square, weighted by importance. The dashed line joins"
        " the types that no smaller type beats.</p>\n"
        f"{curve_svg(evaluation.totals, new)}\n{_table(evaluation.totals, new)}\n"
        f"<details><summary>Every tensor</summary>{_table(evaluation.tensors, new, tensors=True)}</details>\n"
        + (f"<details><summary>Not encoded</summary><ul>{skipped}</ul></details>\n" if skipped else "")
        + "</body></html>\n"
    )


def curve_svg(totals, new=()) -> str:
    """The curve as an SVG element: bits per weight to the right, weighted error upwards, on a logarithmic scale."""
    points = [(t.bits_per_weight, max(t.weighted_error, 1e-9), t.type) for t in totals]
    if not points:
        return ""
    left, right = min(p[0] for p in points) - 0.3, max(p[0] for p in points) + 0.5
    low, high = (math.log10(f(p[1] for p in points)) for f in (min, max))
    low, high = low - 0.1, high + 0.1

    def x(bits):
        return LEFT + (bits - left) / (right - left) * (WIDTH - LEFT - 20)

    def y(error):
        return 20 + (high - math.log10(error)) / (high - low) * (HEIGHT - BOTTOM - 20)

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="error against bits per weight">']
    for bits in range(math.ceil(left), math.floor(right) + 1):
        parts.append(f'<path class="grid" d="M{x(bits):.1f} 20V{HEIGHT - BOTTOM}"/>')
        parts.append(f'<text x="{x(bits):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{bits}</text>')
    for exponent in range(math.floor(low), math.ceil(high) + 1):
        for step in (1, 2, 5):
            error = step * 10.0**exponent
            if low <= math.log10(error) <= high:
                parts.append(f'<path class="grid" d="M{LEFT} {y(error):.1f}H{WIDTH - 20}"/>')
                label = f"{error * 100:g} %"
                parts.append(f'<text x="{LEFT - 8}" y="{y(error) + 4:.1f}" text-anchor="end">{label}</text>')
    middle = (LEFT + WIDTH) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">bits per weight</text>')
    line = "L".join(f"{x(bits):.1f} {y(error):.1f}" for bits, error, _ in _frontier(points))
    parts.append(f'<path class="frontier" d="M{line}"/>')
    for bits, error, name in points:
        kind = "new" if name in new else "known"
        parts.append(
            f'<circle class="{kind}" cx="{x(bits):.1f}" cy="{y(error):.1f}" r="{6 if kind == "new" else 4}">'
            f"<title>{escape(name)}: {bits:.4g} bits per weight, error {error:.2%}</title></circle>"
            f'<text class="{kind}-name {kind if kind == "new" else ""}" x="{x(bits) + 8:.1f}" y="{y(error) - 5:.1f}">'
            f"{escape(name)}</text>"
        )
    return "\n".join([*parts, "</svg>"])


def _frontier(points):
    """The points that have a smaller error than every point of as few bits."""
    best, found = math.inf, []
    for point in sorted(points):
        if point[1] < best:
            best = point[1]
            found.append(point)
    return found


def _table(measures, new, tensors=False):
    headings = "".join(f"<th>{text}</th>" for _, text, _ in COLUMNS)
    rows = []
    for measure in measures:
        cells = "".join(f"<td>{form.format(getattr(measure, field))}</td>" for field, _, form in COLUMNS)
        tensor = f'<td class="name">{escape(measure.tensor)}</td>' if tensors else ""
        mark = ' class="new"' if measure.type in new else ""
        rows.append(f"<tr{mark}><td>{escape(measure.type)}</td>{tensor}{cells}</tr>")
    tensor = '<th class="name">tensor</th>' if tensors else ""
    return f"<table><tr><th>type</th>{tensor}{headings}</tr>\n{chr(10).join(rows)}</table>"
