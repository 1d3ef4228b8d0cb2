"""The rules of the table put into words: what every format draws, and the names that it gives to groups.

How the words read: `event [guard and guard] / Action, Action`. Rules are asked from top to bottom, and the first
whose guards all hold is taken; "otherwise" marks a rule that is asked after others of the same state and event.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import NamedTuple

from hubstate.actions import Action
from hubstate.events import TRAINER_EVENTS, name_of
from hubstate.machine import TABLE, Rule
from hubstate.states import LIVE_STATES, TERMINAL_STATES, State

__all__ = [
    "Row",
    "alternatives",
    "condition",
    "effect",
    "events_in_short",
    "group_name",
    "kind_of",
    "label",
    "rows",
    "shared",
    "stays_of",
]


class Row(NamedTuple):
    """One rule of the table in words.

    `number` counts from 1 in the order of the table. `sources` and `events` are names as in journals. `target` is
    None where the session stays. `otherwise`: the rule has no guard of its own and is asked after another one of the
    same state and event. `written`: the step goes into the journal. `held`: the event is held back, so nothing is
    done.
    """

    number: int
    sources: tuple[str, ...]
    events: tuple[str, ...]
    guards: tuple[str, ...]
    otherwise: bool
    target: str | None
    actions: tuple[str, ...]
    written: bool
    held: bool
    note: str


def rows(table: Sequence[Rule] = TABLE) -> tuple[Row, ...]:
    """The rules of a table, in its order."""
    return tuple(_row(number, rule, table[: number - 1]) for number, rule in enumerate(table, 1))


def _row(number: int, rule: Rule, before: Sequence[Rule]) -> Row:
    return Row(
        number=number,
        sources=tuple(state.value for state in rule.sources),
        events=tuple(name_of(event) for event in rule.events),
        guards=tuple(guard.name for guard in rule.guards),
        otherwise=not rule.guards and any(_overlap(rule, other) for other in before),
        target=rule.target.value if rule.target else None,
        # The bare kind stands for the actions that were refused, as they were.
        actions=tuple("the refused ones" if kind is Action else kind.__name__ for kind in rule.actions),
        written=rule.written,
        held=rule.held,
        note=rule.note,
    )


def _overlap(rule: Rule, other: Rule) -> bool:
    return not set(rule.sources).isdisjoint(other.sources) and not set(rule.events).isdisjoint(other.events)


# -- names of groups -------------------------------------------------------------------------------------


def group_name(sources: Sequence[str]) -> str:
    """The shortest honest name for some states."""
    states = {State(source) for source in sources}
    missing = [state.value for state in State if state not in states]
    if not missing:
        return "any state"
    if len(missing) == 1:
        return f"any state but {missing[0]}"
    if states == LIVE_STATES:
        return "live states"
    if states == TERMINAL_STATES:
        return "terminal states"
    return ", ".join(sources)


def kind_of(state: State) -> str:
    """`live` (heartbeats are sent), `terminal`, or nothing."""
    return "live" if state in LIVE_STATES else "terminal" if state in TERMINAL_STATES else ""


_TRAINER = tuple(name_of(event) for event in TRAINER_EVENTS)


def events_in_short(events: Sequence[str]) -> str:
    """The events of a row for a picture, which has no room for eight names where three words tell as much."""
    return "any trainer event" if tuple(events) == _TRAINER else ", ".join(events)


# -- a row in words --------------------------------------------------------------------------------------


def condition(row: Row) -> str:
    """`[guard and guard]`, `[otherwise]`, or nothing."""
    if row.guards:
        return f"[{' and '.join(row.guards)}]"
    return "[otherwise]" if row.otherwise else ""


def effect(row: Row) -> str:
    """`/ Action, Action`, `/ held back`, or nothing."""
    if row.actions:
        return f"/ {', '.join(row.actions)}"
    return "/ held back" if row.held else ""


def label(row: Row) -> str:
    """What a row says, on one line and without its states."""
    return " ".join(filter(None, (events_in_short(row.events), condition(row), effect(row))))


# -- which rows stand where ------------------------------------------------------------------------------


def stays_of(state: State, table: Iterable[Row]) -> tuple[Row, ...]:
    """The rows of this state alone that do not leave it."""
    return tuple(row for row in table if row.target is None and row.sources == (state.value,))


def shared(table: Iterable[Row]) -> tuple[Row, ...]:
    """The rows of several states that leave none of them."""
    return tuple(row for row in table if row.target is None and len(row.sources) > 1)


def alternatives(table: Iterable[Row]) -> list[tuple[tuple[str, ...], tuple[Row, ...]]]:
    """The rows by their events: those of the same events that follow each other are asked one after the other."""
    return [(events, tuple(some)) for events, some in groupby(table, key=lambda row: row.events)]
