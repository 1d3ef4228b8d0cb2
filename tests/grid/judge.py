"""Holds a function that decides against the grid, and says in words where it differs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from cells import GRID
from situations import situation

from hubstate.actions import Decision, Memory
from hubstate.events import Event
from hubstate.states import State

__all__ = ["CELLS", "Cell", "Decide", "violations"]

Decide = Callable[[Memory, Event], Decision]
_WRITTEN = {"yes": True, "no": False}


class Cell(NamedTuple):
    """One cell: `to` is None where the pair is illegal; `held`: the event is held back, with a reason."""

    state: State
    event: str
    case: str
    to: State | None
    actions: tuple[str, ...]
    written: bool
    held: bool

    @property
    def name(self) -> str:
        return f"{self.state.value}: {self.event} ({self.case})"

    @property
    def legal(self) -> bool:
        return self.to is not None


def _cell(state: State, line: str) -> Cell:
    event, case, to, actions, written = (part.strip() for part in line.split("|"))
    return Cell(
        state=state,
        event=event,
        case=case,
        to=None if to == "illegal" else State(to),
        actions=() if actions in ("-", "held") else tuple(name.strip() for name in actions.split(",")),
        written=_WRITTEN[written],
        held=actions == "held",
    )


CELLS = [_cell(state, line) for state, text in GRID.items() for line in text.strip().splitlines()]


def violations(decide: Decide, cells: Iterable[Cell] = tuple(CELLS)) -> list[str]:
    """One line for each thing in which `decide` differs from the grid; none if it agrees."""
    return [f"{cell.name}: {fault}" for cell in cells for fault in _faults(decide, cell)]


def _faults(decide: Decide, cell: Cell) -> list[str]:
    memory, event = situation(cell.state, cell.event, cell.case)
    try:
        decision = decide(memory, event)
    except Exception as error:  # noqa: BLE001  whatever it raises, this cell is what raised it
        return [f"raises {error!r}"]
    faults = []
    to = decision.memory.state
    if to is not (cell.to or cell.state):
        faults.append(f"leads to {to.value}, must be {(cell.to or cell.state).value}")
    named = [type(action).__name__ for action in decision.actions]
    if named != list(cell.actions):
        faults.append(f"asks {named}, must be {list(cell.actions)}")
    illegal = decision.refusal is not None and decision.refusal.illegal
    if illegal is cell.legal:
        faults.append(f"is called {'illegal' if illegal else 'legal'} and is not")
    if illegal and decision.memory != memory:
        faults.append("is illegal and changes the memory")
    held = decision.refusal is not None and not illegal
    if held is not cell.held:
        faults.append(f"is {'held back' if held else 'done'} and must not be")
    if decision.journalled is not cell.written:
        faults.append(f"journalled is {decision.journalled}, must be {cell.written}")
    if decision.event != event:
        faults.append("the decision carries another event")
    return faults
