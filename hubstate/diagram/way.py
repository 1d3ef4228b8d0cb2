"""The way that one session took through the table: what of a picture was visited, taken, refused, and how often.

A way is made from steps that somebody hands over as plain values (`Taken`); nothing here reads a journal. Which row
a step took follows from what it tells: the first row of its state and event whose guards all answered yes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from hubstate.diagram.words import Row
from hubstate.states import State

__all__ = ["Taken", "Way", "way_of"]

_NO_GUARDS: Mapping[str, bool] = MappingProxyType({})


class Taken(NamedTuple):
    """One step of a session: states and events by their names, and what the guards that were asked answered.

    `illegal`: the event had no place in `source`. `held`: no guard held, so nothing was done.
    """

    source: str
    event: str
    target: str
    guards: Mapping[str, bool] = _NO_GUARDS
    illegal: bool = False
    held: bool = False


class Way(NamedTuple):
    """All steps of a session, counted.

    `title` names the session. `current` is the state after the last step. `taken` counts by row number and source,
    `illegal` by state and event, `held` by state what no row was taken for; `refused` tells by state how often the
    hub refused a delivery. `foreign` counts steps that no row of this table explains: they were decided by another
    version of it.
    """

    title: str
    current: str
    visited: frozenset[str]
    taken: Mapping[tuple[int, str], int]
    illegal: Mapping[tuple[str, str], int]
    held: Mapping[str, int]
    refused: Mapping[str, int]
    foreign: int

    def times(self, row: Row, source: str | None = None) -> int:
        """How often a row was taken, from one state or from all."""
        if source is not None:
            return self.taken.get((row.number, source), 0)
        return sum(self.taken.get((row.number, one), 0) for one in row.sources)

    def counted(self, row: Row, source: str | None = None) -> str:
        """`×N`, or nothing for a row that was never taken."""
        times = self.times(row, source)
        return f"×{times}" if times else ""

    def illegal_in(self, state: str) -> dict[str, int]:
        """How often each event was illegal in a state, the events in the order in which they first were."""
        return {event: count for (where, event), count in self.illegal.items() if where == state}

    def wrong_in(self, state: str) -> list[str]:
        """What went wrong in a state, a line for each kind of it."""
        illegal = [f"{event} ×{times}" for event, times in self.illegal_in(state).items()]
        lines = [f"illegal: {', '.join(illegal)}"] if illegal else []
        if times := self.refused.get(state):
            lines.append(f"refused by the hub ×{times}")
        return lines


def way_of(steps: Iterable[Taken], table: Sequence[Row], title: str = "") -> Way:
    """Counts the steps over the rows of a table. A session without steps stands in the first state."""
    current = next(iter(State)).value
    visited = {current}
    taken: Counter[tuple[int, str]] = Counter()
    illegal: Counter[tuple[str, str]] = Counter()
    held: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    foreign = 0
    for step in steps:
        visited |= {step.source, step.target}
        current = step.target
        if step.illegal:
            illegal[step.source, step.event] += 1
            continue
        refused[step.source] += step.event == "refused"
        row = _row_of(step, table)
        if row is not None:
            taken[row.number, step.source] += 1
        elif step.held:
            held[step.source] += 1
        else:
            foreign += 1
    return Way(title, current, frozenset(visited), taken, illegal, held, +refused, foreign)


def _row_of(step: Taken, table: Sequence[Row]) -> Row | None:
    """The row that explains a step, if there is one."""
    for row in table:
        if (
            step.source in row.sources
            and step.event in row.events
            and all(step.guards.get(guard) for guard in row.guards)
        ):
            return row if (row.target or step.source) == step.target else None
    return None
