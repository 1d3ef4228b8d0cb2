"""A line chart as SVG, drawn by the server: what a page without script shows of a metric.

A chart is a box of `WIDTH` by `HEIGHT` units. Each attempt has a line of its own, and a gap is left where a value was
not finite. The colours are of a middle brightness, because such a picture cannot know what it stands on.
"""

from __future__ import annotations

from itertools import pairwise
from xml.sax.saxutils import escape, quoteattr

from hubstate.server.curves import Curve, Points

__all__ = ["HEIGHT", "WIDTH", "drawing", "shown_number"]

WIDTH, HEIGHT = 360, 150
_LEFT, _RIGHT, _TOP, _BOTTOM = 6, 354, 8, 142
#: The colours of attempts, one after the other.
_COLOURS = ("#3b82c4", "#d97a2b", "#2f9e68", "#a56cc1")

_Piece = list[tuple[float, float]]


def shown_number(value: float | None) -> str:
    """A number for people: four significant digits are enough for a page."""
    if value is None:
        return "-"
    if isinstance(value, int) and abs(value) < 10**9:
        return str(value)
    return f"{value:.4g}"


def drawing(curve: Curve, points: Points) -> str:
    """The chart of a curve."""
    values = [value for value in points.y if value is not None]
    if not values:
        values = [0.0]
    label = f"{curve.name[:200]} over {curve.over}: from {shown_number(min(values))} to {shown_number(max(values))}"
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label={quoteattr(_printable(label))} preserveAspectRatio="none">'
    )
    lines = [
        head,
        *(
            f'<path d="M0 {y}H{WIDTH}" stroke="#888" stroke-opacity=".3" vector-effect="non-scaling-stroke"/>'
            for y in (_TOP, (_TOP + _BOTTOM) // 2, _BOTTOM)
        ),
    ]
    for attempt, piece in _pieces(points, min(values), max(values)):
        colour = _COLOURS[(attempt - 1) % len(_COLOURS)]
        looks = f'stroke="{colour}" fill="none" stroke-linecap="round" vector-effect="non-scaling-stroke"'
        if len(piece) == 1:
            ((x, y),) = piece
            lines.append(f'<path d="M{x:.1f} {y:.1f}h0" stroke-width="5" {looks}/>')
        else:
            told = " ".join(f"{x:.1f},{y:.1f}" for x, y in piece)
            lines.append(f'<polyline points="{told}" stroke-width="2" stroke-linejoin="round" {looks}/>')
    lines.append(f"<title>{escape(_printable(label))}</title></svg>")
    return "\n".join(lines)


def _pieces(points: Points, y_low: float, y_high: float) -> list[tuple[int, _Piece]]:
    """The unbroken pieces of the lines, each with its attempt, in the units of the box."""
    x_low, x_high = points.x[0], points.x[-1]

    def at(x: float, y: float) -> tuple[float, float]:
        # Halved first: the span of two big numbers must not overflow.
        across = (x - x_low) / (x_high - x_low) if x_high > x_low else 0.5
        up = (y / 2 - y_low / 2) / (y_high / 2 - y_low / 2) if y_high / 2 > y_low / 2 else 0.5
        return _LEFT + across * (_RIGHT - _LEFT), _BOTTOM - up * (_BOTTOM - _TOP)

    found: list[tuple[int, _Piece]] = []
    for (begin, attempt), (end, _) in pairwise([*points.attempts, (float("inf"), 0)]):
        piece: _Piece = []
        for x, y in _between(points, begin, end):
            if y is None:
                found.append((attempt, piece))
                piece = []
            else:
                piece.append(at(x, y))
        found.append((attempt, piece))
    return [one for one in found if one[1]]


def _between(points: Points, begin: float, end: float) -> list[tuple[float, float | None]]:
    return [(x, y) for x, y in zip(points.x, points.y, strict=True) if begin <= x < end]


def _printable(text: str) -> str:
    """A text that XML can carry."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
