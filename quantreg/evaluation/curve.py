"""Draw the curve of error, or of another quantity, against bits per weight as an SVG element."""

import math
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from html import escape
from itertools import pairwise
from typing import NamedTuple

from quantreg.evaluation.labels import Label, place
from quantreg.evaluation.results import Measure

__all__ = [
    "ERROR",
    "NARROW",
    "WIDE",
    "Frame",
    "Point",
    "Quantity",
    "Window",
    "curve_svg",
    "frontier_error",
    "label_leader",
    "label_text",
    "points",
    "ticks",
    "windows",
]

_CHARACTER, _BOLD = 0.62, 0.72  # upper estimates of the width of a letter, as a share of the font's size
_REACH = 0.75  # a window shows this many bits per weight to either side of a new type


class Point(NamedTuple):
    """A type on the chart: its size, the value that is drawn, and whether it could encode only a part of the model."""

    type: str
    bits_per_weight: float
    value: float
    file_type: bool = False
    partly: bool = False


class Quantity(NamedTuple):
    """What a chart shows: its name, the text along the axis, and how values are written."""

    name: str
    axis: str
    text: Callable[[float], str]
    tick: Callable[[float], str]


ERROR: Quantity = Quantity(
    "error",
    "weighted error, relative to the RMS of the weights",
    lambda value: f"{value:.2%}",
    lambda value: f"{value * 100:.3g} %",
)


def points(totals: Iterable[Measure]) -> list[Point]:
    """Return the points of the weighted errors of an Evaluation."""
    totals = list(totals)
    whole = max((t.weights for t in totals), default=0)
    return [
        Point(t.type, t.bits_per_weight, max(t.weighted_error, 1e-9), t.file_type, t.weights < whole) for t in totals
    ]  # a logarithmic scale has no zero


class Frame(NamedTuple):
    """The size of a drawing, in the same units as its font. A browser scales it to the width of the page."""

    name: str
    width: int
    height: int
    left: int  # margins around the plot
    bottom: int
    font: int = 13
    right: int = 24
    top: int = 16
    farthest: float = 72  # between a point and its name


WIDE: Frame = Frame("wide", 900, 560, 78, 54)
NARROW: Frame = Frame("narrow", 360, 600, 62, 50, right=10, farthest=50)


class Window(NamedTuple):
    """A part of the chart: the least and the most bits per weight, and the types at its centre."""

    low: float
    high: float
    types: tuple[str, ...]


def windows(totals: Iterable[Point], new: Container[str]) -> list[Window]:
    """Return the parts of the chart around the new types that are worth a closer look.

    New types that lie close to each other share a window. There is none for a type that stands alone, nor for types
    that are spread over most of the chart.
    """
    totals = by_size(totals)
    groups: list[list[Point]] = []
    for total in (t for t in totals if t.type in new):
        if groups and total.bits_per_weight - groups[-1][-1].bits_per_weight <= _REACH:
            groups[-1].append(total)
        else:
            groups.append([total])
    found = []
    for group in groups:
        low, high = group[0].bits_per_weight - _REACH, group[-1].bits_per_weight + _REACH
        inside = sum(low <= t.bits_per_weight <= high for t in totals)
        if len(group) < inside <= 0.7 * len(totals):
            found.append(Window(low, high, tuple(t.type for t in group)))
    return found


def curve_svg(
    totals: Iterable[Point],
    new: Container[str] = (),
    frame: Frame = WIDE,
    window: Window | None = None,
    quantity: Quantity = ERROR,
) -> str:
    """Draw each type as a named mark: bits per weight to the right, the value upwards (logarithmic).

    The types named in ``new`` are highlighted. A dashed line joins the other types that have a smaller value than every
    smaller type. A circle is a type, a square a file type, and a hollow mark
    one that could not encode every tensor. A mark without room for its name has its number instead, which counts all
    types by size. ``window`` shows a part of the chart. Returns "" if there are no totals.
    """
    totals = by_size(totals)
    if not totals:
        return ""
    numbers = {t.type: str(i) for i, t in enumerate(totals, 1)}
    frontier = _frontier(totals, new)
    if window is not None:
        totals = [t for t in totals if window.low <= t.bits_per_weight <= window.high]
    totals.sort(key=lambda t: t.type in new)  # the new types are drawn last, on top of the others
    x, y, axes = _axes(totals, frame, window, quantity)
    places = {t.type: (x(t.bits_per_weight), y(t.value)) for t in totals}
    labels = _labels(places, numbers, new, frame)
    title = f"{quantity.name} against bits per weight" + (f" around {', '.join(window.types)}" if window else "")
    part = "" if window is None else "-" + "-".join(numbers[t] for t in window.types)
    name = f"{quantity.name.replace(' ', '-')}-{frame.name}{part}"
    parts = [
        f'<svg class="{frame.name}" viewBox="0 0 {frame.width} {frame.height}" font-size="{frame.font}" role="img" '
        f'aria-label="{escape(title)}">',
        f'<clipPath id="{name}"><path d="M{frame.left} {frame.top}H{frame.width - frame.right}'
        f'V{frame.height - frame.bottom}H{frame.left}Z"/></clipPath>',
        *axes,
    ]
    line = "L".join(f"{x(t.bits_per_weight):.1f} {y(t.value):.1f}" for t in frontier)
    parts.append(f'<path class="frontier" clip-path="url(#{name})" d="M{line}"/>' if line else "")
    parts += [label_leader(label, kind) for t, label, kind in _kinds(totals, labels, new) if label is not None]
    parts += [_mark(t, *places[t.type], "new" if t.type in new else "known", quantity) for t in totals]
    parts += [label_text(label, kind) for _, label, kind in _kinds(totals, labels, new) if label is not None]
    return "\n".join([*filter(None, parts), "</svg>"])


def frontier_error(totals: Iterable[Point], bits_per_weight: float, new: Container[str] = ()) -> float | None:
    """Return the value of the dashed line at this size; None beyond its ends."""
    corners = [(t.bits_per_weight, math.log(t.value)) for t in _frontier(totals, new)]
    for (left, above), (right, below) in pairwise(corners):
        if left <= bits_per_weight <= right:
            return math.exp(above + (below - above) * (bits_per_weight - left) / (right - left))
    return None


def by_size(totals: Iterable[Point]) -> list[Point]:
    """Order by bits per weight, then by value."""
    return sorted(totals, key=lambda t: (t.bits_per_weight, t.value))


def _frontier(totals: Iterable[Point], new: Container[str]) -> list[Point]:
    """Select the types that have a smaller value than every type of the same size or smaller.

    New types are left out, and so are file types, which mix types.
    """
    best = math.inf
    found: list[Point] = []
    for total in by_size(totals):
        if total.type not in new and not total.file_type and total.value < best:
            best = total.value
            found.append(total)
    return found


# ---- marks and names ----


def _kinds(
    totals: Iterable[Point], labels: Mapping[str, Label], new: Container[str]
) -> list[tuple[Point, Label | None, str]]:
    return [(t, labels.get(t.type), "new" if t.type in new else "known") for t in totals]


def _labels(
    places: Mapping[str, tuple[float, float]], numbers: Mapping[str, str], new: Container[str], frame: Frame
) -> dict[str, Label]:
    """Place the names, and the numbers of those that find no room."""
    height = 1.1 * frame.font
    area = (frame.left + 1.0, 2.0, frame.width - 2.0, float(frame.height - frame.bottom))
    texts = {name: (name, len(name) * frame.font * (_BOLD if name in new else _CHARACTER)) for name in places}
    first = [name for name in places if name in new]
    found = place(places, texts, area, height, first, farthest=frame.farthest)
    rest = {name: (numbers[name], len(numbers[name]) * frame.font * _CHARACTER) for name in places if name not in found}
    return found | place(places, rest, area, height, taken=found, farthest=frame.farthest)


def _mark(total: Point, x: float, y: float, kind: str, quantity: Quantity) -> str:
    """Draw a circle for a type, a square on its corner for a file type; hollow if it could not encode every tensor."""
    radius = 7 if kind == "new" else 4.5
    style = f"{kind} partly" if total.partly else kind
    size = f"{total.bits_per_weight:.4g} bits per weight, {quantity.name} {quantity.text(total.value)}"
    title = f"<title>{escape(total.type)}: {size}</title>"
    if not total.file_type:
        return f'<circle class="{style}" cx="{x:.1f}" cy="{y:.1f}" r="{radius}">{title}</circle>'
    r = radius * 1.2
    corners = f"M{x:.1f} {y - r:.1f}L{x + r:.1f} {y:.1f}L{x:.1f} {y + r:.1f}L{x - r:.1f} {y:.1f}Z"
    return f'<path class="{style}" d="{corners}">{title}</path>'


def label_text(label: Label, kind: str) -> str:
    """The text of a label, as SVG of the class ``kind`` + "-name"."""
    where = f'x="{label.x:.1f}" y="{label.y + 4:.1f}" text-anchor="{label.anchor}"'
    return f'<text class="{kind}-name" {where}>{escape(label.text)}</text>'


def label_leader(label: Label, kind: str) -> str:
    """The line from a label to its point, as SVG of the class ``kind`` + "-leader", or nothing if it needs none."""
    if label.line is None:
        return ""
    x1, y1, x2, y2 = label.line
    return f'<path class="{kind}-leader" d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}"/>'


# ---- axes ----


def _axes(
    totals: Sequence[Point], frame: Frame, window: Window | None, quantity: Quantity
) -> tuple[Callable[[float], float], Callable[[float], float], list[str]]:
    """Return the functions from bits to x and from value to y, and the SVG of the grid with its numbers and names."""
    bits = [t.bits_per_weight for t in totals]
    left, right = (min(bits) - 0.4, max(bits) + 0.4) if window is None else (window.low - 0.05, window.high + 0.05)
    low, high = (math.log10(f(t.value for t in totals)) for f in (min, max))
    spare = max(0.12, (high - low) * 0.08) if window is None else max(0.02, (high - low) * 0.12)
    low, high = low - spare, high + spare
    bottom, end = frame.height - frame.bottom, frame.width - frame.right

    def x(bits: float) -> float:
        return frame.left + (bits - left) / (right - left) * (end - frame.left)

    def y(error: float) -> float:
        return frame.top + (high - math.log10(error)) / (high - low) * (bottom - frame.top)

    parts = []
    step = _step(right - left)
    for i in range(math.ceil(left / step), math.floor(right / step) + 1):
        place = x(i * step)
        parts.append(f'<path class="grid" d="M{place:.1f} {frame.top}V{bottom}"/>')
        parts.append(f'<text x="{place:.1f}" y="{bottom + 18}" text-anchor="middle">{i * step:g}</text>')
    room = -math.inf
    for error in sorted(ticks(low, high), reverse=True):
        parts.append(f'<path class="grid" d="M{frame.left} {y(error):.1f}H{end}"/>')
        if y(error) - room >= frame.font + 2:
            room = y(error)
            parts.append(
                f'<text x="{frame.left - 6}" y="{room + 4:.1f}" text-anchor="end">{quantity.tick(error)}</text>'
            )
    parts.append(f'<text class="axis" x="{(frame.left + end) / 2}" y="{frame.height - 10}" text-anchor="middle">'
                 "bits per weight</text>")  # fmt: skip
    parts.append(
        f'<text class="axis" transform="translate({frame.font} {(frame.top + bottom) / 2}) rotate(-90)" '
        f'text-anchor="middle">{escape(quantity.axis)}</text>'
    )
    return x, y, parts


def _step(span: float) -> float:
    """Return the distance of the numbers on the axis of bits."""
    return next(step for step in (0.1, 0.25, 0.5, 1, 2, 5, math.ceil(span)) if span / step <= 12)


def ticks(low: float, high: float) -> list[float]:
    """Return 1, 2 and 5 times the powers of ten from 10^low to 10^high, or finer steps if those are too few."""
    found: list[float] = []
    fine = [n / 10 for n in range(10, 100)]
    half = (1, 1.2, 1.5, 1.7, 2, 2.5, 3, 3.5, 4, 4.5, 5, 5.5, 6, 7, 8, 9)
    for steps in ((1, 2, 5), range(1, 10), half, fine):
        found = [s * 10.0**e for e in range(math.floor(low), math.ceil(high) + 1) for s in steps]
        found = [error for error in found if low <= math.log10(error) <= high]
        if len(found) > 2:
            break
    return found
