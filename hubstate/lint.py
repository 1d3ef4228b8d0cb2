"""The lint of the table: what an engine takes silently, and a table must not hold.

`transitions` accepts a row towards a state that does not exist, a guard that is no function, a row that can never be
taken, and a trigger whose name the model has already; each of them shows when it is too late, or never. `defects`
finds them by looking at the rows alone, and `checked` is how the machine refuses to be made of a broken table.
A table is any sequence of things with a row's fields, so that this room knows no machine.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Protocol, TypeVar

from hubstate.actions import Action
from hubstate.errors import BrokenTable
from hubstate.events import EVENTS, Event, name_of
from hubstate.limits import Guard
from hubstate.states import TERMINAL_STATES, State

__all__ = ["Row", "checked", "defects", "without_builder"]


class Row(Protocol):
    """What a row of the table tells (see `machine.Rule`)."""

    @property
    def sources(self) -> tuple[State, ...]: ...
    @property
    def events(self) -> tuple[type[Event], ...]: ...
    @property
    def guards(self) -> tuple[Guard, ...]: ...
    @property
    def target(self) -> State | None: ...
    @property
    def actions(self) -> tuple[type[Action], ...]: ...
    @property
    def held(self) -> bool: ...


_Table = TypeVar("_Table", bound=Sequence[Row])


def checked(table: _Table, model: type) -> _Table:
    """The table as it is, if it has no defect. Raises `BrokenTable` naming each row and what is wrong with it."""
    found = defects(table, model)
    if found:
        raise BrokenTable("the table of the machine is broken:\n" + "\n".join(found))
    return table


def defects(table: Sequence[Row], model: type = object) -> tuple[str, ...]:
    """What is wrong with a table, each with its row; empty if nothing is. `model`: the class that the engine moves."""
    wrong = tuple(_words(table, model))
    # What leads where can only be asked of rows whose words are known.
    return wrong or (*_order(table), *_ways(table))


def without_builder(table: Sequence[Row], builders: Collection[type[Action]]) -> tuple[str, ...]:
    """The rows that ask for an action which nobody can build."""
    return tuple(
        f"{_name(number, row)}: nobody builds {action.__name__}"
        for number, row in enumerate(table, 1)
        for action in row.actions
        if action not in builders
    )


# -- each row by itself ----------------------------------------------------------------------------------


def _words(table: Sequence[Row], model: type) -> Iterator[str]:
    guards: dict[str, Guard] = {}
    for number, row in enumerate(table, 1):
        name = _Name(number, row)
        if not row.sources or not row.events:
            yield f"{name}: it has no source or no event, so it is never taken"
        yield from (f"{name}: unknown source {_said(s)}" for s in row.sources if not isinstance(s, State))
        # What the types promise is what is looked at here.
        target: object = row.target
        actions: tuple[object, ...] = row.actions
        asked: tuple[object, ...] = row.guards
        if target is not None and not isinstance(target, State):
            yield f"{name}: unknown destination {_said(target)}"
        yield from (f"{name}: unknown event {_said(event)}" for event in row.events if event not in EVENTS)
        for action in actions:
            if not (isinstance(action, type) and issubclass(action, Action)):
                yield f"{name}: unknown action {_said(action)}"
        for guard in asked:
            if not isinstance(guard, Guard) or not callable(guard.holds) or not callable(guard.why_not):
                yield f"{name}: unknown guard {_said(guard)}"
            elif guards.setdefault(guard.name, guard) != guard:
                # An answer is remembered by the guard's name while one event is judged.
                yield f"{name}: the guard {guard.name} is another one than in an earlier row"
        if row.held and (row.target is not None or row.actions):
            yield f"{name}: it says that the event is held back, and does something"
    for event in EVENTS:
        if hasattr(model, name_of(event)):
            yield f"the trigger {name_of(event)} shadows an attribute of {model.__name__}, which would win"


# -- what stands behind what -----------------------------------------------------------------------------


def _order(table: Sequence[Row]) -> Iterator[str]:
    cells: dict[tuple[State, type[Event]], list[tuple[int, frozenset[Guard]]]] = {}
    for number, row in enumerate(table, 1):
        needs = frozenset(row.guards)
        hidden: dict[int, list[str]] = {}
        for event in row.events:
            for state in row.sources:
                earlier = cells.setdefault((state, event), [])
                for before, needed in earlier:
                    if needed <= needs:
                        hidden.setdefault(before, []).append(f"{_said(state)} / {_said(event)}")
                        break
                earlier.append((number, needs))
        for before, pairs in hidden.items():
            behind = "needs no more than it does" if table[before - 1].guards else "has no guard"
            yield (
                f"{_name(number, row)}: dead for {', '.join(pairs)}, for an earlier row {behind}: "
                f"{_name(before, table[before - 1])}"
            )
    told = {event for row in table for event in row.events}
    yield from (
        f"the event {name_of(event)} has no row in any state" for event in EVENTS if event not in told
    )


# -- which ways there are --------------------------------------------------------------------------------


def _ways(table: Sequence[Row]) -> Iterator[str]:
    ways: dict[State, set[State]] = {state: set() for state in State}
    for number, row in enumerate(table, 1):
        for source in row.sources:
            ways[source].add(row.target or source)
            if source in TERMINAL_STATES and row.target not in (None, source):
                yield f"{_name(number, row)}: it leads out of {source.value}, which is terminal"
    reached = _closure({State.IDLE}, ways.__getitem__)
    yield from (f"no row leads to {state.value}" for state in State if state not in reached)
    back: dict[State, set[State]] = {
        state: {source for source in State if state in ways[source]} for state in State
    }
    ends = _closure(set(TERMINAL_STATES), back.__getitem__)
    yield from (
        f"from {state.value} no terminal state can be reached" for state in State if state not in ends
    )


def _closure(start: set[State], step: Callable[[State], set[State]]) -> set[State]:
    reached, rest = set(start), list(start)
    while rest:
        new = step(rest.pop()) - reached
        reached |= new
        rest += new
    return reached


# -- words -----------------------------------------------------------------------------------------------


class _Name:
    """A row's name, put into words only where something is wrong with it: every import looks at every row."""

    def __init__(self, number: int, row: Row) -> None:
        self._number, self._row = number, row

    def __str__(self) -> str:
        return _name(self._number, self._row)


def _name(number: int, row: Row) -> str:
    sources = ", ".join(_said(state) for state in row.sources)
    events = ", ".join(_said(event) for event in row.events)
    return f"row {number} ({sources} / {events})"


def _said(word: object) -> str:
    if isinstance(word, State):
        return word.value
    if isinstance(word, type):
        return name_of(word) if word in EVENTS else word.__name__
    return repr(word)
