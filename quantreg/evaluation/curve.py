"""Draw the curve of error against bits per weight as an SVG element."""

import math
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from html import escape
from itertools import pairwise
from typing import NamedTuple

from quantreg.evaluation.measure import Measure

__all__ = ["curve_svg", "frontier_error"]

_WIDTH, _HEIGHT = 900, 560
_LEFT, _RIGHT, _TOP, _BOTTOM = 78, 24, 16, 54  # margins around the plot
_CHARACTER, _BOLD, _LINE = 7.4, 9, 13  # upper estimates of the width of a letter, of a bold one, and of their height
_DISTANCES = (10, 17, 26, 37, 50, 66, 84)  # between a point and its label, nearest first
_DIRECTIONS = (  # from a point to its label, preferred first
    (1, -0.4), (-1, 0.4), (1, 0.4), (-1, -0.4), (0, -1), (0, 1), (0.6, -1), (-0.6, 1), (0.6, 1), (-0.6, -1),
)  # fmt: skip
_LEADER = 17  # a label at this distance or farther is joined to its point by a line

_Box = tuple[float, float, float, float]  # left, top, right, bottom


class _Label(NamedTuple):
    """Where a name is drawn. ``anchor`` is SVG's text-anchor, ``box`` the area that the text covers."""

    x: float
    y: float
    anchor: str
    distance: float
    box: _Box


def curve_svg(totals: Iterable[Measure], new: Container[str] = ()) -> str:
    """Draw each type as a labelled circle: bits per weight to the right, weighted error upwards (logarithmic).

    ``totals`` are those of an Evaluation. The types named in ``new`` are highlighted. A dashed line joins the other
    types that have a smaller error than every smaller type. A hollow circle marks a type that could not encode every
    tensor. Returns "" if there are no totals.
    """
    totals = sorted(totals, key=lambda t: t.type in new)  # the new types are drawn last, on top of the others
    if not totals:
        return ""
    x, y, axes = _axes(totals)
    places = {t.type: (x(t.bits_per_weight), y(_error(t))) for t in totals}
    whole = max(t.weights for t in totals)
    line = "L".join(f"{x(t.bits_per_weight):.1f} {y(_error(t)):.1f}" for t in _frontier(totals, new))
    labels = _labels(places, [t.type for t in reversed(totals)], new)
    parts = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="error against bits per weight">', *axes]
    parts.append(f'<path class="frontier" d="M{line}"/>' if line else "")
    parts += [_leader(places[name], label) for name, label in labels.items() if label.distance >= _LEADER]
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
        where = f'x="{label.x:.1f}" y="{label.y + 4:.1f}" text-anchor="{label.anchor}"'
        parts.append(f'<text class="{kind}-name" {where}>{escape(t.type)}</text>')
    return "\n".join([*filter(None, parts), "</svg>"])


def frontier_error(totals: Iterable[Measure], bits_per_weight: float, new: Container[str] = ()) -> float | None:
    """Return the weighted error of the dashed line at this size; None beyond its ends."""
    points = [(t.bits_per_weight, math.log(_error(t))) for t in _frontier(totals, new)]
    for (left, above), (right, below) in pairwise(points):
        if left <= bits_per_weight <= right:
            return math.exp(above + (below - above) * (bits_per_weight - left) / (right - left))
    return None


def _error(total: Measure) -> float:
    return max(total.weighted_error, 1e-9)  # a logarithmic scale has no zero


def _frontier(totals: Iterable[Measure], new: Container[str]) -> list[Measure]:
    """Select the types, without the new ones, that have a smaller error than every type of the same size or smaller."""
    best = math.inf
    found: list[Measure] = []
    for total in sorted(totals, key=lambda t: (t.bits_per_weight, _error(t))):
        if total.type not in new and _error(total) < best:
            best = _error(total)
            found.append(total)
    return found


def _axes(totals: Sequence[Measure]) -> tuple[Callable[[float], float], Callable[[float], float], list[str]]:
    """Return the functions from bits to x and from error to y, and the SVG of the grid with its numbers and names."""
    bits = [t.bits_per_weight for t in totals]
    left, right = min(bits) - 0.4, max(bits) + 0.4
    low, high = (math.log10(f(map(_error, totals))) for f in (min, max))
    low, high = low - 0.12, high + 0.12
    bottom = _HEIGHT - _BOTTOM

    def x(bits: float) -> float:
        return _LEFT + (bits - left) / (right - left) * (_WIDTH - _LEFT - _RIGHT)

    def y(error: float) -> float:
        return _TOP + (high - math.log10(error)) / (high - low) * (bottom - _TOP)

    parts = []
    for number in range(math.ceil(left), math.floor(right) + 1):
        parts.append(f'<path class="grid" d="M{x(number):.1f} {_TOP}V{bottom}"/>')
        parts.append(f'<text x="{x(number):.1f}" y="{bottom + 18}" text-anchor="middle">{number}</text>')
    for error in _ticks(low, high):
        parts.append(f'<path class="grid" d="M{_LEFT} {y(error):.1f}H{_WIDTH - _RIGHT}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y(error) + 4:.1f}" text-anchor="end">{error * 100:.3g} %</text>')
    parts.append(f'<text class="axis" x="{(_LEFT + _WIDTH) / 2}" y="{_HEIGHT - 10}" text-anchor="middle">'
                 "bits per weight</text>")  # fmt: skip
    parts.append(f'<text class="axis" transform="translate(16 {(_TOP + bottom) / 2}) rotate(-90)" text-anchor="middle">'
                 "weighted error, relative to the RMS of the weights</text>")  # fmt: skip
    return x, y, parts


def _ticks(low: float, high: float) -> list[float]:
    """Return 1, 2 and 5 times the powers of ten from 10^low to 10^high, or finer steps if those are too few."""
    found: list[float] = []
    fine = [n / 10 for n in range(10, 100)]
    for steps in ((1, 2, 5), range(1, 10), fine):
        found = [s * 10.0**e for e in range(math.floor(low), math.ceil(high) + 1) for s in steps]
        found = [error for error in found if low <= math.log10(error) <= high]
        if len(found) > 2:
            break
    return found


def _labels(places: Mapping[str, tuple[float, float]], order: Iterable[str], new: Container[str]) -> dict[str, _Label]:
    """Place the names in this order, each as near to its point as the points and the names before it allow."""
    taken = [(px - 6, py - 6, px + 6, py + 6) for px, py in places.values()]
    found: dict[str, _Label] = {}
    for name in order:
        width = len(name) * (_BOLD if name in new else _CHARACTER)
        options = [_label(width, *places[name], distance, *way) for distance in _DISTANCES for way in _DIRECTIONS]
        inside = [o for o in options if _inside(o.box)] or options
        best = min(inside, key=lambda o: (sum(_overlap(o.box, box) for box in taken), o.distance))
        taken.append(best.box)
        found[name] = best
    return found


def _label(width: float, px: float, py: float, distance: float, dx: float, dy: float) -> _Label:
    x, y = px + dx * distance, py + dy * distance
    if dx == 0:
        anchor, left = "middle", x - width / 2
    else:
        anchor, left = ("start", x) if dx > 0 else ("end", x - width)
    box = (left, y - _LINE / 2, left + width, y + _LINE / 2)
    return _Label(x, y, anchor, distance, box)


def _inside(box: _Box) -> bool:
    return box[0] > _LEFT and box[2] < _WIDTH - 2 and box[1] > 2 and box[3] < _HEIGHT - _BOTTOM


def _overlap(a: _Box, b: _Box) -> float:
    """Return the area that two boxes share."""
    return max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))


def _leader(place: tuple[float, float], label: _Label) -> str:
    """Draw a line from the point to the nearest edge of its label."""
    px, py = place
    left, top, right, bottom = label.box
    return (
        f'<path class="leader" d="M{px:.1f} {py:.1f}L{min(max(px, left), right):.1f} {min(max(py, top), bottom):.1f}"/>'
    )
