"""The decisions against a grid that was written by hand: 7 states, every event, every value of the guards."""

from __future__ import annotations

from collections import Counter, defaultdict

import pytest
from cells import GRID
from judge import CELLS, Cell, violations
from situations import CHANGES, NOW, PLAIN, SAID, change, situation

from hubstate import actions
from hubstate.actions import Decision, Heartbeat, Memory, Refusal
from hubstate.controller import decide
from hubstate.events import EVENTS, Event, name_of
from hubstate.states import State

NAMES = {name_of(kind): kind for kind in EVENTS}


@pytest.mark.parametrize("cell", CELLS, ids=[cell.name for cell in CELLS])
def test_cell(cell: Cell) -> None:
    """A decision leads where the grid says, asks what it says, and is legal and written where it says so."""
    assert violations(decide, [cell]) == []


def test_every_pair_is_there() -> None:
    """Every pair of a state and an event has at least one cell."""
    assert set(GRID) == set(State)
    assert {(cell.state, cell.event) for cell in CELLS} == {
        (state, name) for state in State for name in NAMES
    }


def test_no_cell_is_there_twice() -> None:
    """A cell is written once, so that no second line can contradict it."""
    names = Counter(cell.name for cell in CELLS)
    assert [name for name, count in names.items() if count > 1] == []


def test_no_two_cells_ask_the_same() -> None:
    """Two cases of one pair differ in their memory or in their event; a copy would prove nothing."""
    seen: dict[tuple[State, str], list[tuple[Memory, Event]]] = defaultdict(list)
    for cell in CELLS:
        told = situation(cell.state, cell.event, cell.case)
        assert told not in seen[cell.state, cell.event], cell.name
        seen[cell.state, cell.event].append(told)


def test_every_case_is_used() -> None:
    """A case that no cell names is a situation that somebody believes is tested and is not."""
    assert set(CHANGES) == {cell.case for cell in CELLS}
    assert set(SAID) <= {(cell.event, cell.case) for cell in CELLS}


def test_the_events_are_what_their_rows_say() -> None:
    """The plain event of a row, and every other one of it, carries the name and the time of the grid."""
    assert {name: type(event) for name, event in PLAIN.items()} == NAMES
    assert all(name_of(event) == name for (name, _), event in SAID.items())
    assert {event.at for event in (*PLAIN.values(), *SAID.values())} == {NOW}


def test_the_actions_exist() -> None:
    """A misspelt action in the grid is found here and not taken for a fault of the code."""
    assert {name for cell in CELLS for name in cell.actions} <= set(actions.__all__)


def test_legality_does_not_hang_on_a_guard() -> None:
    """A pair is legal or illegal by itself; a guard may hold it back but never makes it illegal."""
    legal = defaultdict(set)
    for cell in CELLS:
        legal[cell.state, cell.event].add(cell.legal)
    assert [pair for pair, answers in legal.items() if len(answers) > 1] == []


@pytest.mark.parametrize("cell", [cell for cell in CELLS if not cell.legal], ids=lambda cell: cell.name)
def test_an_illegal_event_says_what_is_legal(cell: Cell) -> None:
    """An illegal event names the state, itself and what is legal there, and gives the memory back as it was."""
    memory, event = situation(cell.state, cell.event, cell.case)
    decision = decide(memory, event)
    refusal = decision.refusal
    assert refusal is not None
    assert (refusal.state, refusal.event, refusal.illegal) == (cell.state, cell.event, True)
    allowed = {other.event for other in CELLS if other.state is cell.state and other.legal}
    assert refusal.legal
    assert set(refusal.legal) <= allowed
    assert refusal.reason
    assert decision.memory == memory
    assert decision.actions == ()


# -- the grid bites: a wrong decision in one cell is reported for that cell -----------------------------------


def _elsewhere(decision: Decision) -> Decision:
    wrong = State.TIMING if decision.memory.state is State.DONE else State.DONE
    memory = change(decision.memory, state=wrong)
    return decision._replace(memory=memory)


def _one_action_more(decision: Decision) -> Decision:
    more = Heartbeat(key="S/1/heartbeat", attempt=1, state=State.TRAINING, outcome=decision.memory.outcome)
    return decision._replace(actions=(*decision.actions, more))


def _other_order(decision: Decision) -> Decision:
    return decision._replace(actions=decision.actions[::-1])


def _other_legality(decision: Decision) -> Decision:
    if decision.refusal is not None and decision.refusal.illegal:
        return decision._replace(refusal=None)
    refusal = Refusal(state=decision.memory.state, event=name_of(decision.event), reason="no", illegal=True)
    return decision._replace(refusal=refusal)


def _other_writing(decision: Decision) -> Decision:
    return decision._replace(journalled=not decision.journalled)


def _ordered(cell: Cell) -> bool:
    return len(set(cell.actions)) > 1


@pytest.mark.parametrize(
    ("mutant", "judged"),
    [
        (_elsewhere, lambda cell: True),
        (_one_action_more, lambda cell: True),
        (_other_order, _ordered),
        (_other_legality, lambda cell: True),
        (_other_writing, lambda cell: True),
    ],
)
def test_the_grid_bites(mutant, judged) -> None:
    """If one cell alone is decided wrongly, the grid reports that cell, whichever it is."""
    cells = [cell for cell in CELLS if judged(cell)]
    assert cells
    survived = []
    for cell in cells:
        wrong_for = situation(cell.state, cell.event, cell.case)

        def mutated(memory: Memory, event: Event, wrong_for: tuple[Memory, Event] = wrong_for) -> Decision:
            decision = decide(memory, event)
            return mutant(decision) if (memory, event) == wrong_for else decision

        here = [other for other in CELLS if (other.state, other.event) == (cell.state, cell.event)]
        before, after = violations(decide, here), violations(mutated, here)
        if not any(line.startswith(cell.name + ":") and line not in before for line in after):
            survived.append(cell.name)
    assert survived == []


def test_one_wrong_destination_is_found_among_all() -> None:
    """The check of the whole grid finds the one cell whose destination was changed, and no other."""
    cell = next(cell for cell in CELLS if cell.name == "timing: train_start (plain)")
    wrong_for = situation(cell.state, cell.event, cell.case)

    def mutated(memory: Memory, event: Event) -> Decision:
        decision = decide(memory, event)
        return _elsewhere(decision) if (memory, event) == wrong_for else decision

    found = set(violations(mutated)) - set(violations(decide))
    assert found == {"timing: train_start (plain): leads to done, must be training"}


def test_a_decision_that_raises_is_a_violation() -> None:
    """A function that raises fails every cell instead of stopping the check."""

    def broken(memory: Memory, event: Event) -> Decision:
        raise KeyError(name_of(event))

    assert len(violations(broken)) == len(CELLS)
