"""The picture of the machine on a session's page: the states in a line, and the whole machine with the way it took.

hubstate's clients may send the lines of their journal; then the way is what they tell. Of a session that sent none the
hub knows its state, and what must have come before it: so much is drawn as visited, and no more.
"""

from __future__ import annotations

import threading
from collections import Counter
from itertools import pairwise
from typing import Any, NamedTuple

from sqlalchemy import Connection, RowMapping, func, select

from hubstate.diagram import Taken, Way, rows, svg, way_of
from hubstate.server.schema import steps
from hubstate.states import State

__all__ = ["Ways", "picture", "strip"]

_TABLE = rows()
#: The states on the way to a finished session, in order.
_STRAIGHT: list[State] = [state for state in State if state is not State.ABORTED]


class _Known(NamedTuple):
    newest: int
    steps: int
    way: Way


class Ways:
    """The ways of sessions, each read once and then only what came since."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[str, _Known] = {}

    def of(self, connection: Connection, session: RowMapping) -> Way:
        """The way of a session as far as the hub knows it."""
        mine = steps.c.session == session["id"]
        count, newest = connection.execute(select(func.count(), func.max(steps.c.n)).where(mine)).one()
        if not count:
            return _presumed(session)
        with self._lock:
            known = self._known.get(session["id"])
        if known is None or (known.steps, known.newest) != (count, newest):
            after = known.newest if known is not None else -1
            new = self._read(connection, session["id"], after)
            if known is not None and known.steps + len(new) == count:
                way = _joined(known.way, way_of(new, _TABLE)) if new else known.way
            else:  # the first look, or one that came late stands between those that were read
                way = way_of(new if known is None else self._read(connection, session["id"], -1), _TABLE)
            known = _Known(newest, count, way)
            with self._lock:
                self._known[session["id"]] = known
        # The last word is the state that was announced: lines of the journal come after it.
        state = session["state"]
        return known.way._replace(current=state, visited=known.way.visited | {state})

    def _read(self, connection: Connection, session: str, after: int) -> list[Taken]:
        query = select(steps.c.step).where(steps.c.session == session, steps.c.n > after)
        return [_taken(step) for step in connection.execute(query.order_by(steps.c.n)).scalars()]


def picture(way: Way) -> str:
    """The machine as SVG without colours: the page's style sheet has them."""
    return svg.draw_bare(_TABLE, way)


def strip(way: Way) -> list[tuple[str, str]]:
    """The states in a line, each with `current`, `visited` or `ahead`. Of the two ends only the one that is taken."""
    shown = [state.value for state in _STRAIGHT]
    if way.current == State.ABORTED.value:
        shown = [name for name in shown if name in way.visited and name != State.DONE.value] + [way.current]
    marks = {True: "visited", False: "ahead"}
    return [(name, "current" if name == way.current else marks[name in way.visited]) for name in shown]


def _presumed(session: RowMapping) -> Way:
    """The way that must have been taken to where the session is."""
    current = State(session["state"])
    visited: list[State] = [State.IDLE, State.SESSION_CREATED]
    if current is State.ABORTED:
        if session["epoch"] is not None:
            visited += [State.TIMING, State.TRAINING]
        visited.append(State.ABORTED)
    else:
        visited = list(_STRAIGHT[: _STRAIGHT.index(current) + 1])
    names = [state.value for state in visited]
    taken: Counter[tuple[int, str]] = Counter()
    for source, target in pairwise(names):
        found = next((row for row in _TABLE if row.target == target and source in row.sources), None)
        if found is not None:
            taken[found.number, source] = 1
    return Way("", current.value, frozenset(names), taken, Counter(), Counter(), Counter(), 0)


def _joined(before: Way, after: Way) -> Way:
    return Way(
        before.title,
        after.current,
        before.visited | after.visited,
        Counter(before.taken) + Counter(after.taken),
        Counter(before.illegal) + Counter(after.illegal),
        Counter(before.held) + Counter(after.held),
        Counter(before.refused) + Counter(after.refused),
        before.foreign + after.foreign,
    )


def _taken(step: dict[str, Any]) -> Taken:
    """A line of a journal, whatever it holds, as a step of the way."""
    event = step.get("event")
    told = event.get("event") if isinstance(event, dict) else event
    guards = step.get("guards")
    source = _state(step.get("from"), State.IDLE.value)
    illegal = step.get("illegal") is True
    return Taken(
        source,
        str(told),
        _state(step.get("to"), source),
        {str(name): answer is True for name, answer in guards.items()} if isinstance(guards, dict) else {},
        illegal=illegal,
        held=bool(step.get("refusal")) and not illegal,
    )


def _state(told: object, otherwise: str) -> str:
    return told if isinstance(told, str) and told in State._value2member_map_ else otherwise
