"""What the scripts of the pages ask for, read strictly."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import NamedTuple

from hubstate.server.answers import Problem

__all__ = ["Stretch", "stretch", "whole"]

#: In how many parts a line is told at most, and where nothing is said.
_MOST_PARTS, _PARTS = 2000, 600


class Stretch(NamedTuple):
    """A part of an axis, and in how many parts it is to be told."""

    low: float
    high: float
    parts: int


def stretch(query: Mapping[str, str]) -> Stretch:
    """Reads `from`, `to` and `parts`. Raises `Problem` 422."""
    parts = whole(query.get("parts", str(_PARTS)), "parts")
    low, high = _edge(query.get("from", "-inf")), _edge(query.get("to", "inf"))
    return Stretch(low, high, min(_MOST_PARTS, max(10, parts)))


def whole(text: str, what: str) -> int:
    """Reads a whole number. Raises `Problem` 422, which calls it `what`."""
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise Problem(422, "invalid", f"{what} is a whole number")
    return int(text)


def _edge(text: str) -> float:
    try:
        edge = float(text[:40])
    except ValueError:
        edge = math.nan
    if math.isnan(edge):
        raise Problem(422, "invalid", "from and to are numbers on the chart's axis")
    return edge
