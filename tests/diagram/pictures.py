"""What an SVG of the machine holds, read back from its text."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import NamedTuple
from xml.etree import ElementTree as ET

from hubstate.diagram.measure import width

__all__ = ["NAMESPACE", "Box", "boxes", "crossing", "group", "groups", "overlapping", "segments", "words_in"]

NAMESPACE = "{http://www.w3.org/2000/svg}"


class Box(NamedTuple):
    """A rectangle, and what it is."""

    what: str
    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: Box) -> bool:
        """Whether the two share more than a border."""
        return (
            self.left < other.right
            and other.left < self.right
            and self.top < other.bottom
            and other.top < self.bottom
        )

    def holds(self, other: Box) -> bool:
        """Whether the other lies wholly within."""
        return (
            self.left <= other.left
            and self.right >= other.right
            and self.top <= other.top
            and self.bottom >= other.bottom
        )


def groups(root: ET.Element, kind: str) -> list[ET.Element]:
    """The groups of a class, in order."""
    return [one for one in root.iter(f"{NAMESPACE}g") if kind in one.get("class", "").split()]


def group(root: ET.Element, name: str) -> ET.Element:
    """The group of the state of that name."""
    (found,) = (one for one in root.iter() if one.get("id") == f"state-{name}")
    return found


def _text_box(text: ET.Element) -> Box:
    size = float(text.get("font-size", "13"))
    told = "".join(text.itertext())
    wide = width(told, size, bold=text.get("font-weight") == "bold")
    x, y = float(text.get("x", "")), float(text.get("y", ""))
    left = x - {"start": 0, "middle": wide / 2, "end": wide}[text.get("text-anchor", "start")]
    return Box(told, left, y - size * 0.95, left + wide, y + size * 0.25)


def _rect_box(rect: ET.Element, what: str) -> Box:
    x, y, wide, high = (float(rect.get(name, "")) for name in ("x", "y", "width", "height"))
    return Box(what, x, y, x + wide, y + high)


def boxes(element: ET.Element, kind: str) -> list[Box]:
    """The boxes of all `text` or `rect` below an element; of a terminal state the ring is the box."""
    found = []
    for one in element.iter(f"{NAMESPACE}{kind}"):
        if kind == "text":
            found.append(_text_box(one))
        elif one.get("class") != "ground":
            found.append(_rect_box(one, one.get("class", "")))
    return found


def words_in(element: ET.Element) -> str:
    """All that a group says, in order."""
    return " ".join("".join(one.itertext()) for one in element.iter(f"{NAMESPACE}text"))


def segments(move: ET.Element) -> list[Box]:
    """The straight lines of a move, each as a box without thickness."""
    found = []
    for path in move.iter(f"{NAMESPACE}path"):
        if "line" in path.get("class", "").split():
            points = [(float(x), float(y)) for x, y in re.findall(r"([\d.]+) ([\d.]+)", path.get("d", ""))]
            for (x1, y1), (x2, y2) in pairwise(points):
                found.append(Box("line", min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)))
    return found


def overlapping(some: list[Box]) -> list[tuple[str, str]]:
    """Each pair of boxes that overlap."""
    return [(a.what, b.what) for n, a in enumerate(some) for b in some[n + 1 :] if a.meets(b)]


def crossing(lines: list[Box], some: list[Box]) -> list[tuple[str, str]]:
    """Each line that runs through a box; one that ends at its border does not."""
    return [
        (line.what, box.what)
        for line in lines
        for box in some
        if line.left < box.right and line.right > box.left and line.top < box.bottom and line.bottom > box.top
    ]
