"""Place the names of points on a chart: near their points, and over no other name, point or line."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

__all__ = ["Box", "Label", "Point", "place"]

RADIUS = 6.0  # no name comes closer to a point than this
LEADER = 15.0  # a name at this distance or farther is joined to its point by a line
_DISTANCES = (8, 11, 15, 20, 26, 33, 41, 50, 60, 72)  # between a point and its name, nearest first
_ANGLES = [math.radians(degrees) for degrees in (-20, 200, 20, 160, -90, 90, -50, 230, 50, 130, -70, 250, 70, 110)]
_SPACE = 5  # between two names in one line
_SWEEPS = 4  # how often names are moved to make room for others

Point = tuple[float, float]
Box = tuple[float, float, float, float]  # left, top, right, bottom
_Line = tuple[float, float, float, float]  # x1, y1, x2, y2


class Label(NamedTuple):
    """Where a name is drawn: ``anchor`` is SVG's text-anchor, ``y`` the middle of the line, ``box`` what it covers.

    ``line`` joins the point and the name, or is None if they are next to each other. ``extent`` holds both.
    """

    text: str
    x: float
    y: float
    anchor: str
    box: Box
    line: _Line | None
    extent: Box


def place(
    points: Mapping[str, Point],
    texts: Mapping[str, tuple[str, float]],
    frame: Box,
    height: float,
    first: Iterable[str] = (),
    taken: Mapping[str, Label] | None = None,
    farthest: float = 72,
) -> dict[str, Label]:
    """Place a text at each point, or at none: a text that would cover anything is left out.

    - ``points``: names and positions of all points, those without a text included.
    - ``texts``: name -> (text, its width) for the points that get one. ``height`` is that of a line.
    - ``frame``: the area that texts stay in.
    - ``first``: the names that are placed before the others. The others follow by how crowded their points are.
    - ``taken``: labels that are already placed.
    - ``farthest``: the largest distance between a point and its text.

    Returns the labels by name. They overlap neither each other nor a point, and no line crosses a text.
    """
    options = {
        name: [
            option
            for distance in _DISTANCES
            if distance <= farthest
            for angle in _ANGLES
            if (option := _option(text, width, height, points[name], distance, angle)) is not None
            and _is_free(option, name, points, frame)
        ]
        for name, (text, width) in texts.items()
    }
    preferred = list(first)
    order = sorted(texts, key=lambda name: (name not in preferred, -_crowd(name, points), points[name]))
    found: dict[str, Label] = dict(taken or {})
    for sweep in range(_SWEEPS):
        waiting = [name for name in order if name not in found]
        if not waiting:
            break
        for name in waiting:
            _settle(name, options, found, taken or {}, sweep)
    return {name: found[name] for name in texts if name in found}


def _settle(
    name: str, options: Mapping[str, Sequence[Label]], found: dict[str, Label], taken: Mapping[str, Label], sweep: int
) -> None:
    """Take the nearest option that collides with nothing, or one whose only obstacles can move elsewhere."""
    for option in options[name]:
        if not any(_collide(option, other) for other in found.values()):
            found[name] = option
            return
    for option in options[name][: 20 * (sweep + 1)]:
        obstacles = [other for other, label in found.items() if _collide(option, label)]
        if len(obstacles) > 2 or any(other in taken for other in obstacles):
            continue
        rest = {other: label for other, label in found.items() if other not in obstacles}
        moved = {name: option}
        for other in obstacles:
            elsewhere = next(
                (
                    o
                    for o in options[other]
                    if not any(_collide(o, label) for label in (*rest.values(), *moved.values()))
                ),
                None,
            )
            if elsewhere is None:
                break
            moved[other] = elsewhere
        else:
            found.update(moved)
            return


def _option(text: str, width: float, height: float, point: Point, distance: float, angle: float) -> Label:
    """Put the text at this distance from the point, in this direction (0 is right, clockwise)."""
    px, py = point
    dx, dy = math.cos(angle), math.sin(angle)
    x, y = px + dx * distance, py + dy * distance
    if abs(dx) < 0.2:
        anchor, left = "middle", px - width / 2
        x, y = px, y + math.copysign(height / 2 - 2, dy)
    else:
        anchor, left = ("start", x) if dx > 0 else ("end", x - width)
    box = (left, y - height / 2, left + width, y + height / 2)
    if distance < LEADER:
        return Label(text, x, y, anchor, box, None, box)
    line = (px, py, min(max(px, box[0]), box[2]), min(max(py, box[1]), box[3]))
    extent = (min(px, box[0]), min(py, box[1]), max(px, box[2]), max(py, box[3]))
    return Label(text, x, y, anchor, box, line, extent)


def _is_free(option: Label, name: str, points: Mapping[str, Point], frame: Box) -> bool:
    """Whether the text lies in the frame, covers no point and is not mistaken for the name of another point."""
    box = option.box
    if box[0] < frame[0] or box[1] < frame[1] or box[2] > frame[2] or box[3] > frame[3]:
        return False
    own = points[name]
    for other, (x, y) in points.items():
        gap = _gap(box, (x, y))
        if gap < RADIUS:
            return False
        apart = math.hypot(x - own[0], y - own[1])
        if other == name or apart < 1:  # points in the same place: a name may stand for either
            continue
        if option.line is None and gap < _gap(box, own) + min(2, apart / 4):
            return False
        if option.line is not None and _distance(option.line, (x, y)) < min(RADIUS, apart * 0.9):
            return False
    return True


def _crowd(name: str, points: Mapping[str, Point]) -> int:
    x, y = points[name]
    return sum(abs(px - x) < 60 and abs(py - y) < 40 for px, py in points.values())


def _collide(a: Label, b: Label) -> bool:
    """Whether two labels or their lines get in each other's way."""
    one, two = a.extent, b.extent
    if one[0] >= two[2] + _SPACE or two[0] >= one[2] + _SPACE or one[1] >= two[3] or two[1] >= one[3]:
        return False
    one, two = a.box, b.box
    if one[0] < two[2] + _SPACE and two[0] < one[2] + _SPACE and one[1] < two[3] and two[1] < one[3]:
        return True
    if a.line is not None and _enters(a.line, b.box):
        return True
    if b.line is not None and _enters(b.line, a.box):
        return True
    return a.line is not None and b.line is not None and _cross(a.line, b.line)


def _gap(box: Box, point: Point) -> float:
    """Return the distance from a point to the nearest point of a box; 0 within it."""
    x, y = point
    return math.hypot(max(box[0] - x, 0, x - box[2]), max(box[1] - y, 0, y - box[3]))


def _distance(line: _Line, point: Point) -> float:
    """Return the distance from a point to the nearest point of a line."""
    x1, y1, x2, y2 = line
    length = (x2 - x1) ** 2 + (y2 - y1) ** 2
    share = ((point[0] - x1) * (x2 - x1) + (point[1] - y1) * (y2 - y1)) / length if length else 0
    share = min(max(share, 0), 1)
    return math.hypot(x1 + share * (x2 - x1) - point[0], y1 + share * (y2 - y1) - point[1])


def _enters(line: _Line, box: Box) -> bool:
    """Whether a line has a point within a box (Liang and Barsky's clipping)."""
    x1, y1, x2, y2 = line
    low, high = 0.0, 1.0
    for start, step, least, most in ((x1, x2 - x1, box[0], box[2]), (y1, y2 - y1, box[1], box[3])):
        if step == 0:
            if not least < start < most:
                return False
            continue
        enter, leave = sorted(((least - start) / step, (most - start) / step))
        low, high = max(low, enter), min(high, leave)
    return low < high


def _cross(a: _Line, b: _Line) -> bool:
    """Whether two lines have a point in common, their common beginning aside."""

    def side(line: _Line, x: float, y: float) -> float:
        return (line[2] - line[0]) * (y - line[1]) - (line[3] - line[1]) * (x - line[0])

    return side(a, b[0], b[1]) * side(a, b[2], b[3]) < 0 and side(b, a[0], a[1]) * side(b, a[2], a[3]) < 0
