"""The points of one curve: how they are stored, and how a stretch of them is thinned out.

They are stored in blocks, and beside each block stand its *groups*: of each few points the lowest, the highest and the
mean. A look at a long stretch is made from groups alone, and a look at a short one from its own points. So neither reads
all that a long session told, and neither takes longer the longer the session is than it must.
"""

from __future__ import annotations

import math
import struct
from array import array
from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import NamedTuple

__all__ = [
    "BLOCK",
    "GROUP",
    "Column",
    "Drawn",
    "Group",
    "by_position",
    "drawn",
    "groups_of",
    "joined",
    "packed_groups",
    "unpacked",
    "unpacked_groups",
]

#: How many points a block holds, and how many share a group.
BLOCK, GROUP = 1024, 64
_GROUP = struct.Struct("=7I8d")
#: What a point takes, in bytes.
_POINT = 20


class Column(NamedTuple):
    """Points: positions, places on the axis, values (NaN: not finite)."""

    positions: array[int]
    x: array[float]
    y: array[float]

    @classmethod
    def empty(cls) -> Column:
        return cls(array("I"), array("d"), array("d"))

    def packed(self) -> bytes:
        return self.positions.tobytes() + self.x.tobytes() + self.y.tobytes()

    def part(self, begin: int, end: int) -> Column:
        return Column(self.positions[begin:end], self.x[begin:end], self.y[begin:end])


def unpacked(blocks: Iterable[bytes]) -> Column:
    """The points of blocks that follow on each other."""
    column = Column.empty()
    for block in blocks:
        count = len(block) // _POINT
        column.positions.frombytes(block[: 4 * count])
        column.x.frombytes(block[4 * count : 12 * count])
        column.y.frombytes(block[12 * count :])
    return column


# -- groups ----------------------------------------------------------------------------------------------


class Group(NamedTuple):
    """Points that follow on each other: `size` of them, `finite` of which have a value.

    Positions, and places on the axis, of the first and the last of them, the lowest, the highest, and the first that has
    no value; where each has one, `x_gap` is NaN. Where none has, `low`, `high` and `mean` are.
    """

    size: int
    finite: int
    first: int
    last: int
    at_low: int
    at_high: int
    at_gap: int
    x_first: float
    x_last: float
    x_low: float
    x_high: float
    x_gap: float
    low: float
    high: float
    mean: float


_lowest, _highest = attrgetter("low"), attrgetter("high")


def groups_of(points: Column, parts: int | None = None) -> list[Group]:
    """The points in so many equal parts, of which there are no more than points; or in those that stand beside a block."""
    count = len(points.x)
    if parts is None:
        return [_group(points, begin, min(begin + GROUP, count)) for begin in range(0, count, GROUP)]
    return [_group(points, count * part // parts, count * (part + 1) // parts) for part in range(parts)]


def _group(points: Column, begin: int, end: int) -> Group:
    positions, x, y = points
    values: Sequence[float] = y[begin:end]
    gap, x_gap = begin, math.nan
    if math.isnan(sum(values)):
        gap = next(at for at in range(begin, end) if math.isnan(y[at]))
        x_gap = x[gap]
        values = [value for value in values if not math.isnan(value)]
    low = high = mean = math.nan
    at_low = at_high = begin
    if values:
        low, high, mean = min(values), max(values), _mean(values)
        at_low, at_high = y.index(low, begin, end), y.index(high, begin, end)
    return Group(
        end - begin, len(values),
        positions[begin], positions[end - 1], positions[at_low], positions[at_high], positions[gap],
        x[begin], x[end - 1], x[at_low], x[at_high], x_gap, low, high, mean,
    )  # fmt: skip


def _mean(values: Sequence[float]) -> float:
    mean = sum(values) / len(values)
    # The sum of big numbers may be none any more, where their mean still is one.
    return sum(value / len(values) for value in values) if math.isinf(mean) else mean


def joined(groups: Sequence[Group], parts: int) -> list[Group]:
    """Groups that follow on each other in so many parts, of which there are no more than groups."""
    count = len(groups)
    return [_one(groups[count * part // parts : count * (part + 1) // parts]) for part in range(parts)]


def _one(groups: Sequence[Group]) -> Group:
    if len(groups) == 1:
        return groups[0]
    begin, end = groups[0], groups[-1]
    told = [group for group in groups if group.finite] or [begin]
    lowest, highest = min(told, key=_lowest), max(told, key=_highest)
    gap = next((group for group in groups if group.finite < group.size), begin)
    finite = sum(group.finite for group in groups)
    mean = sum(group.mean * (group.finite / finite) for group in told) if finite else math.nan
    return Group(
        sum(group.size for group in groups), finite,
        begin.first, end.last, lowest.at_low, highest.at_high, gap.at_gap,
        begin.x_first, end.x_last, lowest.x_low, highest.x_high, gap.x_gap, lowest.low, highest.high, mean,
    )  # fmt: skip


def by_position(group: Group) -> Group:
    """The same group over positions."""
    gap = math.nan if math.isnan(group.x_gap) else group.at_gap
    return group._replace(
        x_first=group.first, x_last=group.last, x_low=group.at_low, x_high=group.at_high, x_gap=gap
    )


def packed_groups(groups: Iterable[Group]) -> bytes:
    return b"".join(_GROUP.pack(*group) for group in groups)


def unpacked_groups(blocks: Iterable[bytes]) -> list[Group]:
    """The groups of blocks that follow on each other."""
    return [Group._make(told) for block in blocks for told in _GROUP.iter_unpack(block)]


class Drawn(NamedTuple):
    """Of each group the lowest and the highest point, in order, and a gap where one had no value; and the means."""

    x: list[float]
    y: list[float | None]
    middle_x: list[float]
    middle_y: list[float | None]


def drawn(groups: Iterable[Group]) -> Drawn:
    """What is drawn of groups."""
    told = Drawn([], [], [], [])
    for group in groups:
        points: dict[float, float | None] = {}
        if group.finite:
            points = {group.x_low: group.low, group.x_high: group.high}
        if group.finite < group.size:
            points[group.x_gap] = None
        for x in sorted(points):
            told.x.append(x)
            told.y.append(points[x])
        told.middle_x.append((group.x_first + group.x_last) / 2)
        told.middle_y.append(group.mean if group.finite else None)
    return told
