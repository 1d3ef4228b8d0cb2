"""What the charts of an open page hold, as the page itself knows it."""

from __future__ import annotations

from typing import Any

from hub_client import row

__all__ = ["drawn", "inside", "losses", "shown_range"]

#: All points of a metric's chart, line by line.
_POINTS = """(chart) => chart?.whole?.lines.map((line) => line.x.map((x, n) => [x, line.y[n]]))"""
_RANGE = "(chart) => [chart.drawn.scales.x.min, chart.drawn.scales.x.max]"
_INSIDE = """async (name) => {{
  const room = document.getElementById('overlays') ? 'compare.js' : 'session.js';
  const address = document.querySelector('link[rel=modulepreload]').href.replace('charts.js', room);
  const {{ charts }} = await import(address);
  return ({look})([...charts.values()].find((one) => one.figure.dataset.name === name));
}}"""


def losses(epochs: range, attempt: int = 1) -> list[dict[str, Any]]:
    """Rows of a loss that falls."""
    return [row(epoch, attempt=attempt, at=epoch, loss=1 / (epoch + 1)) for epoch in epochs]


def inside(page: Any, name: str, look: str) -> Any:
    """What a function of the page's script tells of the chart of that metric."""
    return page.evaluate(_INSIDE.format(look=look), name)


def drawn(page: Any, name: str, count: int) -> list[list[list[float]]]:
    """The points of a chart, line by line, once it has so many."""
    page.locator(f"figure[data-name='{name}'][data-points='{count}']").wait_for()
    points: list[list[list[float]]] = inside(page, name, _POINTS)
    return points


def shown_range(page: Any, name: str) -> list[float]:
    """The x axis that a chart shows: from where to where."""
    told: list[float] = inside(page, name, _RANGE)
    return told
