"""The curve of error against bits per weight, as an SVG element."""

import math
from html import escape
from itertools import pairwise

__all__ = ["curve_svg", "frontier_error"]

WIDTH, HEIGHT = 900, 560
LEFT, RIGHT, TOP, BOTTOM = 78, 24, 16, 54
CHARACTER, BOLD, LINE = 7.4, 9, 13  # width of a letter of a label, and its height, generously
DISTANCES = (10, 17, 26, 37, 50, 66, 84)  # of a label from its point
DIRECTIONS = ((1, -0.4), (-1, 0.4), (1, 0.4), (-1, -0.4), (0, -1), (0, 1), (0.6, -1), (-0.6, 1), (0.6, 1), (-0.6, -1))
LEADER = 17  # from this distance on a line joins a label to its point


def curve_svg(totals, new=()) -> str:
    """Bits per weight to the right, weighted error upwards on a logarithmic scale, a circle and a label a type.

    ``totals`` are the Measures of an Evaluation; the types named in ``new`` stand out. The dashed line joins those of
    the others that no smaller one beats. A circle is hollow where the type could not encode every tensor.
    """
    if not totals:
        return ""
    totals = sorted(totals, key=lambda t: t.type in new)  # what is drawn last lies on top
    x, y, axes = _axes(totals)
    places = {t.type: (x(t.bits_per_weight), y(_error(t))) for t in totals}
    whole = max(t.weights for t in totals)
    line = "L".join(f"{x(t.bits_per_weight):.1f} {y(_error(t)):.1f}" for t in _frontier(totals, new))
    labels = _labels(places, [t.type for t in reversed(totals)], new)
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="error against bits per weight">', *axes]
    parts.append(f'<path class="frontier" d="M{line}"/>' if line else "")
    parts += [_leader(places[name], label) for name, label in labels.items() if label["distance"] >= LEADER]
    for t in totals:
        kind = "new" if t.type in new else "known"
        mark = kind if t.weights == whole else f"{kind} partly"
        px, py = places[t.type]
        parts.append(
            f'<circle class="{mark}" cx="{px:.1f}" cy="{py:.1f}" r="{7 if kind == "new" else 4.5}">'
            f"<title>{escape(t.type)}: {t.bits_per_weight:.4g} bits per weight, error {t.weighted_error:.2%}</title>"
            "</circle>"
        )
        label = labels[t.type]
        where = f'x="{label["x"]:.1f}" y="{label["y"] + 4:.1f}" text-anchor="{label["anchor"]}"'
        parts.append(f'<text class="{kind}-name" {where}>{escape(t.type)}</text>')
    return "\n".join([*filter(None, parts), "</svg>"])


def frontier_error(totals, bits_per_weight, new=()) -> float | None:
    """The weighted error at this size on the line that joins the best types; None beyond its ends."""
    points = [(t.bits_per_weight, math.log(_error(t))) for t in _frontier(totals, new)]
    for (left, above), (right, below) in pairwise(points):
        if left <= bits_per_weight <= right:
            return math.exp(above + (below - above) * (bits_per_weight - left) / (right - left))
    return None


def _error(total):
    return max(total.weighted_error, 1e-9)  # no error has no place on a logarithmic scale


def _frontier(totals, new):
    """The types, other than new ones, that have a smaller error than every type of as few bits."""
    best, found = math.inf, []
    for total in sorted(totals, key=lambda t: (t.bits_per_weight, _error(t))):
        if total.type not in new and _error(total) < best:
            best = _error(total)
            found.append(total)
    return found


def _axes(totals):
    """(bits -> x, error -> y, the SVG of grid, numbers and names)."""
    bits = [t.bits_per_weight for t in totals]
    left, right = min(bits) - 0.4, max(bits) + 0.4
    low, high = (math.log10(f(map(_error, totals))) for f in (min, max))
    low, high = low - 0.12, high + 0.12
    bottom = HEIGHT - BOTTOM

    def x(bits):
        return LEFT + (bits - left) / (right - left) * (WIDTH - LEFT - RIGHT)

    def y(error):
        return TOP + (high - math.log10(error)) / (high - low) * (bottom - TOP)

    parts = []
    for number in range(math.ceil(left), math.floor(right) + 1):
        parts.append(f'<path class="grid" d="M{x(number):.1f} {TOP}V{bottom}"/>')
        parts.append(f'<text x="{x(number):.1f}" y="{bottom + 18}" text-anchor="middle">{number}</text>')
    for error in _ticks(low, high):
        parts.append(f'<path class="grid" d="M{LEFT} {y(error):.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y(error) + 4:.1f}" text-anchor="end">{error * 100:.3g} %</text>')
    parts.append(f'<text class="axis" x="{(LEFT + WIDTH) / 2}" y="{HEIGHT - 10}" text-anchor="middle">'
                 "bits per weight</text>")  # fmt: skip
    parts.append(f'<text class="axis" transform="translate(16 {(TOP + bottom) / 2}) rotate(-90)" text-anchor="middle">'
                 "weighted error, share of the weights’ RMS</text>")  # fmt: skip
    return x, y, parts


def _ticks(low, high):
    """1, 2 and 5 times the powers of ten between 10^low and 10^high; finer where that gives fewer than three."""
    for steps in ((1, 2, 5), range(1, 10), [n / 10 for n in range(10, 100)]):
        found = [s * 10.0**e for e in range(math.floor(low), math.ceil(high) + 1) for s in steps]
        found = [error for error in found if low <= math.log10(error) <= high]
        if len(found) > 2:
            break
    return found


# ---- labels ----


def _labels(places, order, new):
    """Type -> where its name goes: as near to its point as the names before it and the other points let it."""
    taken = [(px - 6, py - 6, px + 6, py + 6) for px, py in places.values()]
    found = {}
    for name in order:
        width = len(name) * (BOLD if name in new else CHARACTER)
        options = [_label(width, *places[name], distance, *way) for distance in DISTANCES for way in DIRECTIONS]
        inside = [o for o in options if _inside(o["box"])] or options
        best = min(inside, key=lambda o: (sum(_overlap(o["box"], box) for box in taken), o["distance"]))
        taken.append(best["box"])
        found[name] = best
    return found


def _label(width, px, py, distance, dx, dy):
    x, y = px + dx * distance, py + dy * distance
    anchor, left = {0: ("middle", x - width / 2)}.get(dx, ("start", x) if dx > 0 else ("end", x - width))
    box = (left, y - LINE / 2, left + width, y + LINE / 2)
    return {"x": x, "y": y, "anchor": anchor, "distance": distance, "box": box}


def _inside(box):
    return box[0] > LEFT and box[2] < WIDTH - 2 and box[1] > 2 and box[3] < HEIGHT - BOTTOM


def _overlap(a, b):
    """Area that two boxes share."""
    return max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))


def _leader(place, label):
    """A line from the point to the nearest edge of its label."""
    px, py = place
    left, top, right, bottom = label["box"]
    return (
        f'<path class="leader" d="M{px:.1f} {py:.1f}L{min(max(px, left), right):.1f} {min(max(py, top), bottom):.1f}"/>'
    )
