"""Line charts of the rows in force, as plain points: the templates draw them, no script does.

A chart is a box of `WIDTH` by `HEIGHT` units. A metric that epochs measured is drawn over epochs, another one over
steps. A gap is left where a value was not finite. Long lines are thinned out, the extremes kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

__all__ = ["HEIGHT", "WIDTH", "Chart", "Line", "charts_of", "shown_number"]

WIDTH, HEIGHT = 360, 150
_LEFT, _RIGHT, _TOP, _BOTTOM = 6, 354, 8, 142
_POINTS = 240
_DOTS = 24

Point = tuple[float, float]


class Line(NamedTuple):
    """A line of one attempt: the unbroken pieces as `points` of an SVG polyline, and dots where there are few."""

    attempt: int
    pieces: tuple[str, ...]
    dots: tuple[tuple[str, str], ...]


class Chart(NamedTuple):
    """One metric. `over`: `epoch` or `step`; numbers as they are shown to people."""

    name: str
    over: str
    lines: tuple[Line, ...]
    last: str
    lowest: str
    highest: str
    first_x: int
    last_x: int


def shown_number(value: float | None) -> str:
    """A number for people: four significant digits are enough for a page."""
    if value is None:
        return "-"
    if isinstance(value, int) and abs(value) < 10**9:
        return str(value)
    return f"{value:.4g}"


def charts_of(rows: Iterable[Mapping[str, Any]]) -> list[Chart]:
    """A chart for every metric of these rows (in force, in order), by name. Final evaluations are not drawn."""
    by_epoch: dict[str, list[tuple[int, int, float | None]]] = {}
    by_step: dict[str, list[tuple[int, int, float | None]]] = {}
    for row in rows:
        if row["final"]:
            continue
        over, x = (by_epoch, row["epoch"]) if row["step"] is None else (by_step, row["step"])
        for name, value in row["metrics"].items():
            over.setdefault(name, []).append((row["attempt"], x, None if value is None else float(value)))
    charts = [_chart(name, "epoch", found) for name, found in by_epoch.items()]
    charts += [_chart(name, "step", found) for name, found in by_step.items() if name not in by_epoch]
    return sorted((chart for chart in charts if chart is not None), key=lambda chart: chart.name)


def _chart(name: str, over: str, found: list[tuple[int, int, float | None]]) -> Chart | None:
    values = [value for _, _, value in found if value is not None]
    if not values:
        return None
    places = [x for _, x, _ in found]
    x_low, x_high = min(places), max(places)
    y_low, y_high = min(values), max(values)

    def at(x: int, y: float) -> Point:
        # Halved first: the span of two big numbers must not overflow.
        across = (x - x_low) / (x_high - x_low) if x_high > x_low else 0.5
        up = (y / 2 - y_low / 2) / (y_high / 2 - y_low / 2) if y_high / 2 > y_low / 2 else 0.5
        return _LEFT + across * (_RIGHT - _LEFT), _BOTTOM - up * (_BOTTOM - _TOP)

    lines = []
    for attempt in sorted({attempt for attempt, _, _ in found}):
        pieces: list[list[Point]] = [[]]
        for of, x, value in found:
            if of == attempt and value is None:
                pieces.append([])
            elif of == attempt and value is not None:
                pieces[-1].append(at(x, value))
        points = [point for piece in pieces for point in piece]
        alone = [piece[0] for piece in pieces if len(piece) == 1]
        lines.append(
            Line(
                attempt,
                tuple(_text(_thinned(piece)) for piece in pieces if len(piece) > 1),
                tuple(_pair(point) for point in (points if len(points) <= _DOTS else alone)),
            )
        )
    return Chart(
        name,
        over,
        tuple(lines),
        shown_number(values[-1]),
        shown_number(y_low),
        shown_number(y_high),
        x_low,
        x_high,
    )


def _thinned(points: list[Point]) -> list[Point]:
    """At most about `_POINTS` points: of each stretch the highest and the lowest, in their order."""
    if len(points) <= _POINTS:
        return points
    stretch = -(-len(points) // (_POINTS // 2))
    kept: list[Point] = [points[0]]
    for begin in range(0, len(points), stretch):
        part = points[begin : begin + stretch]
        low, high = min(part, key=lambda point: point[1]), max(part, key=lambda point: point[1])
        kept += sorted({low, high})
    return [*kept, points[-1]]


def _pair(point: Point) -> tuple[str, str]:
    return f"{point[0]:.1f}", f"{point[1]:.1f}"


def _text(points: Iterable[Point]) -> str:
    return " ".join(",".join(_pair(point)) for point in points)
