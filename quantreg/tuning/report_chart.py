"""Draw the chart of a tuned model: file size against KL divergence, predicted and measured, as an SVG element."""

import math
from collections.abc import Callable, Sequence
from html import escape
from itertools import pairwise

from quantreg.evaluation.curve import NARROW, WIDE, Frame, label_leader, label_text, ticks
from quantreg.evaluation.labels import place
from quantreg.evaluation.page_style import PICTURE_STYLE
from quantreg.tuning.report import Predicted, TuningReport, Variant

__all__ = ["chart", "picture", "recipe_line"]

_LEAST = 1e-5  # nats: less than that is rounding, and a logarithmic scale has no zero
_CHARACTER, _BOLD = 0.62, 0.72  # upper estimates of the width of a letter, as a share of the font's size
_RADIUS = 4.5  # of a mark
_PICTURE = Frame("picture", 640, 440, 98, 52, font=17)
_SPARE = 0.08  # of the sizes that were measured, to either side of them

Place = Callable[[float], float]


def chart(report: TuningReport) -> str:
    """Draw the chart twice, for wide and for narrow screens; the style sheet shows one of them. "" without points."""
    variants = [v for v in report.variants if v.nbytes > 0]
    curve = report.predicted if report.way == "calibration" else ()
    if not variants and len(curve) < 2:
        return ""
    drawn = [_drawn(variants, curve, frame._replace(height=frame.height - 100)) for frame in (WIDE, NARROW)]
    return f"<figure>{''.join(drawn)}</figure>"


def picture(variants: Sequence[Variant], theirs: str = "", ours: str = "") -> str:
    """Draw measured files as an SVG file that stands alone: recipes with their names, and a line through the others.

    ``theirs`` and ``ours`` say what the two kinds are, if there are both. The colours are those of the reader's light
    or dark mode.
    """
    frame = _PICTURE
    legend = [f"<style>{PICTURE_STYLE}</style>"]
    for i, (style, text) in enumerate((("known", theirs), ("new", ours)) if theirs else ()):
        x, y = 0.5 * frame.width, frame.top + 20.0 + 24 * i
        legend.append(_mark(style, x, y, _RADIUS))
        legend.append(f'<text class="{style}-name" x="{x + 14}" y="{y + 5}">{escape(text)}</text>')
    drawn = _drawn(variants, (), frame, ("recipe",), legend)
    return drawn.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1) + "\n"


def recipe_line(variants: Sequence[Variant], nbytes: int) -> float | None:
    """The KL divergence of the best recipes at this size, between their points; None beyond their ends."""
    best: list[Variant] = []
    for variant in sorted((v for v in variants if v.kind == "recipe"), key=lambda v: (v.nbytes, v.kl)):
        if not best or variant.kl < best[-1].kl:
            best.append(variant)
    for small, large in pairwise(best):
        if small.nbytes <= nbytes <= large.nbytes:
            share = (nbytes - small.nbytes) / (large.nbytes - small.nbytes)
            low, high = (math.log(max(v.kl, _LEAST)) for v in (small, large))
            return math.exp(low + (high - low) * share)
    return next((v.kl for v in best if v.nbytes == nbytes), None)


def _drawn(
    variants: Sequence[Variant],
    curve: Sequence[Predicted],
    frame: Frame,
    named: Sequence[str] = ("this", "tuned", "recipe"),
    more: Sequence[str] = (),
) -> str:
    """One drawing. Files of the kinds ``named`` get their names; ``more`` is SVG beside the files."""
    sizes = [v.nbytes for v in variants] if len(variants) > 1 else [p.nbytes for p in curve] or [variants[0].nbytes]
    sizes += [v.nbytes for v in variants]
    spare = max(_SPARE * (max(sizes) - min(sizes)), 0.02 * max(sizes))
    left, right = min(sizes) - spare, max(sizes) + spare
    line = _clipped(curve, left, right)
    values = [max(kl, _LEAST) for kl in [*(v.kl for v in variants), *(kl for _, kl in line)]]
    low, high = math.log10(min(values)), math.log10(max(values))
    room = max(0.12, (high - low) * 0.08)
    low, high = low - room, high + room
    bottom, end = frame.height - frame.bottom, frame.width - frame.right

    def x(nbytes: float) -> float:
        return frame.left + (nbytes - left) / (right - left) * (end - frame.left)

    def y(kl: float) -> float:
        return frame.top + (high - math.log10(max(kl, _LEAST))) / (high - low) * (bottom - frame.top)

    parts = [
        f'<svg class="{frame.name}" viewBox="0 0 {frame.width} {frame.height}" font-size="{frame.font}" role="img" '
        'aria-label="KL divergence against file size">',
        *more,
        *_grid(frame, (left, right), (low, high), x, y),
        *_lines(variants, line, x, y),
        *_marks(variants, frame, x, y, named),
        "</svg>",
    ]
    return "\n".join(parts)


def _clipped(curve: Sequence[Predicted], left: float, right: float) -> list[tuple[float, float]]:
    """The part of the curve between two sizes, with points at both ends."""
    found: list[tuple[float, float]] = []
    for a, b in pairwise(curve):
        inside = [(float(p.nbytes), p.loss) for p in (a, b) if left <= p.nbytes <= right]
        for edge in (left, right):
            if a.nbytes < edge < b.nbytes:
                share = (edge - a.nbytes) / (b.nbytes - a.nbytes)
                inside.append((edge, a.loss + (b.loss - a.loss) * share))
        found += [point for point in sorted(inside) if point not in found[-1:]]
    return [(nbytes, loss) for nbytes, loss in found if loss >= _LEAST]


def _lines(variants: Sequence[Variant], line: Sequence[tuple[float, float]], x: Place, y: Place) -> list[str]:
    """The predicted curve, and a line through the measured sizes of it if they are more than one."""

    def path(style: str, points: Sequence[tuple[float, float]]) -> str:
        joined = "L".join(f"{x(nbytes):.1f} {y(kl):.1f}" for nbytes, kl in points)
        return f'<path class="{style}" d="M{joined}"/>'

    ours = [(float(v.nbytes), v.kl) for v in variants if v.kind != "recipe"]
    found = [path("frontier", line)] if len(line) > 1 else []
    return [*found, path("measured", sorted(ours))] if len(ours) > 1 else found


def _marks(variants: Sequence[Variant], frame: Frame, x: Place, y: Place, named: Sequence[str]) -> list[str]:
    """A circle for each size of the tuned model, a square on its corner for each recipe, and their names."""
    keys = {str(i): v for i, v in enumerate(variants)}  # two files may have the same name
    places = {key: (x(v.nbytes), y(v.kl)) for key, v in keys.items()}
    texts = {
        key: (v.name, len(v.name) * frame.font * (_BOLD if v.kind == "this" else _CHARACTER))
        for key, v in keys.items()
        if v.kind in named
    }
    area = (frame.left + 1.0, 2.0, frame.width - 2.0, float(frame.height - frame.bottom))
    first = [key for key, v in keys.items() if v.kind == "this"]
    labels = place(places, texts, area, 1.1 * frame.font, first, farthest=frame.farthest)
    found = [label_leader(labels[key], _style(v)) for key, v in keys.items() if key in labels]
    for key, v in sorted(keys.items(), key=lambda item: item[1].kind == "this"):
        title = f"{v.name}: {megabytes(v.nbytes)}, KL divergence {v.kl:.4g} nats"
        found.append(_mark(_style(v), *places[key], 7 if v.kind == "this" else _RADIUS, title))
    found += [label_text(labels[key], _style(v)) for key, v in keys.items() if key in labels]
    return list(filter(None, found))


def _mark(style: str, x: float, y: float, r: float, title: str = "") -> str:
    """A circle, or a square on its corner for what is known."""
    inside = f"<title>{escape(title)}</title>" if title else ""
    if style == "new":
        return f'<circle class="new" cx="{x:.1f}" cy="{y:.1f}" r="{r}">{inside}</circle>'
    r *= 1.2
    corners = f"M{x:.1f} {y - r:.1f}L{x + r:.1f} {y:.1f}L{x:.1f} {y + r:.1f}L{x - r:.1f} {y:.1f}Z"
    return f'<path class="known" d="{corners}">{inside}</path>'


def _style(variant: Variant) -> str:
    return "known" if variant.kind == "recipe" else "new"


def _grid(frame: Frame, sizes: tuple[float, float], logs: tuple[float, float], x: Place, y: Place) -> list[str]:
    """The grid with its numbers and the names of the axes."""
    bottom, end = frame.height - frame.bottom, frame.width - frame.right
    unit, name = (1e9, "GB") if sizes[1] >= 3e9 else (1e6, "MB")
    step = _step((sizes[1] - sizes[0]) / unit, 10 if frame.name == "wide" else 5)
    parts = []
    for i in range(math.ceil(sizes[0] / unit / step), math.floor(sizes[1] / unit / step) + 1):
        at = x(i * step * unit)
        parts.append(f'<path class="grid" d="M{at:.1f} {frame.top}V{bottom}"/>')
        parts.append(f'<text x="{at:.1f}" y="{bottom + 18}" text-anchor="middle">{i * step:.4g}</text>')
    last = -math.inf
    for kl in sorted(ticks(*logs), reverse=True):
        parts.append(f'<path class="grid" d="M{frame.left} {y(kl):.1f}H{end}"/>')
        if y(kl) - last >= frame.font + 2:
            last = y(kl)
            parts.append(f'<text x="{frame.left - 6}" y="{last + 4:.1f}" text-anchor="end">{kl:.3g}</text>')
    middle, centre = (frame.left + end) / 2, (frame.top + bottom) / 2
    parts.append(
        f'<text class="axis" x="{middle}" y="{frame.height - 10}" text-anchor="middle">size of the file, {name}</text>'
    )
    parts.append(
        f'<text class="axis" transform="translate({frame.font} {centre}) rotate(-90)" text-anchor="middle">'
        "KL divergence from the source, nats</text>"
    )
    return parts


def _step(span: float, most: int) -> float:
    """The distance of the numbers on the axis of sizes: 1, 2 or 5 times a power of ten, for at most so many numbers."""
    least = span / most
    power = 10.0 ** math.floor(math.log10(least))
    return next(n * power for n in (1, 2, 5, 10) if n * power >= least)


def megabytes(nbytes: float) -> str:
    """A size for people: "829 MB", "4.19 GB"."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if nbytes >= scale:
            return f"{nbytes / scale:.{2 if nbytes < 100 * scale else 0}f} {unit}"
    return f"{nbytes:.0f} bytes"
