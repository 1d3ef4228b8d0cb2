"""The table mutator: the grid kills every wrong table, and what it leaves alive is the table itself."""

from __future__ import annotations

import dataclasses
import sys
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from hubstate.actions import Action, SendRows
from hubstate.controller import decide
from hubstate.events import TrainStart, name_of
from hubstate.machine import CELLS as PAIRS
from hubstate.machine import ROWS, TABLE, Rule, compiled
from hubstate.states import State
from hubstate.testing.mutants import FACTS, Mutant, facts_of, table_mutants

sys.path.insert(0, str(Path(__file__).parent.parent / "grid"))

from judge import CELLS, Cell, violations
from situations import situation

MUTANTS = list(table_mutants())
GRID: dict[tuple[State, str], list[Cell]] = defaultdict(list)
for _cell in CELLS:
    GRID[_cell.state, _cell.event].append(_cell)


def survives(mutant: Mutant) -> bool:
    """Whether no cell of the grid tells the wrong table; the cells of other pairs are decided as ever."""
    return not violations(mutant.decide, GRID[mutant.state, name_of(mutant.event)])


def test_the_grid_kills_every_table_mutant():
    """A wrong table is told apart by the grid, unless it decides as the table does for every value of its guards."""
    survivors = [mutant.name for mutant in MUTANTS if survives(mutant) and facts_of(mutant) is None]
    assert survivors == []


def test_what_is_called_equivalent_survives():
    """No mutant is called equivalent that some cell of the grid tells apart."""
    assert [m.name for m in MUTANTS if facts_of(m) is not None and not survives(m)] == []


def test_every_fact_is_needed():
    """Each fact about guards and actions is the reason for at least one equivalent mutant."""
    needed = Counter(fact.name for mutant in MUTANTS for fact in facts_of(mutant) or ())
    assert set(needed) == {fact.name for fact in FACTS}


@pytest.mark.parametrize("cell", CELLS, ids=[cell.name for cell in CELLS])
def test_the_facts_are_true(cell: Cell):
    """What a fact says of guards and actions holds in every situation of the grid, by the real guards and builders."""
    memory, event = situation(cell.state, cell.event, cell.case)
    guards = {guard.name: guard for rule in TABLE for guard in rule.guards}
    values = {name: guard.holds(memory, event) for name, guard in guards.items()}
    assert all(fact.possible(values) for fact in FACTS)
    if not all(fact.asks(SendRows, type(event), values) for fact in FACTS):
        asks_for_rows = {
            (cell.state, type(event)): (Rule((cell.state,), (type(event),), (), None, (SendRows,)),)
        }
        assert decide(memory, event, asks_for_rows).actions == ()


@pytest.mark.parametrize(
    "change",
    [
        "dropped",
        "change places",
        "leads to",
        "leads nowhere",
        "is written or not",
        "is held back or not",
        "without metrics_due",
        "with metrics_due negated",
        "with rows_wait for metrics_due",
        "with rows_wait added",
        "without SendRows",
        "with OpenSession for CloseSession",
        "with SendRows behind SendCheckpoint",
        "with EndSession added",
        "with the refused ones added",
        "a row that stays added",
        "a row to done added",
    ],
)
def test_each_kind_of_change_is_made(change):
    """The mutator drops, redirects and adds rows, and changes guards, actions, order and marks."""
    assert any(change in mutant.name for mutant in MUTANTS)


def test_every_pair_is_mutated():
    """Each pair of a state and an event has wrong tables of its own, the illegal ones included."""
    assert {(m.state, name_of(m.event)) for m in MUTANTS} == set(GRID)


def test_no_mutant_is_the_table_and_none_comes_twice():
    """Each mutant differs from the table in its pair, in nothing else, and has a name of its own."""
    names = Counter(mutant.name for mutant in MUTANTS)
    assert [name for name, count in names.items() if count > 1] == []
    for mutant in MUTANTS:
        pair = (mutant.state, mutant.event)
        assert mutant.before == PAIRS.get(pair, ()) != mutant.after
        assert mutant.cells.get(pair, ()) == mutant.after
        assert {p: rules for p, rules in mutant.cells.items() if p != pair} == {
            p: rules for p, rules in PAIRS.items() if p != pair
        }


def test_a_mutant_changes_nothing_for_others():
    """Deciding by a wrong table leaves the decisions of the real one as they were."""
    memory, event = situation(State.TIMING, "train_start", "plain")
    mutant = next(m for m in MUTANTS if m.state is State.TIMING and m.event is TrainStart and not m.after)
    assert mutant.decide(memory, event).refusal.illegal
    assert decide(memory, event).memory.state is State.TRAINING


def test_another_table_is_mutated_as_well():
    """Any table can be handed in; its own pairs are changed, and decided by."""
    table = tuple(dataclasses.replace(rule, note="") for rule in TABLE)
    assert {m.name for m in table_mutants(table)} == {m.name for m in MUTANTS}
    assert all(
        m.cells[State.TIMING, TrainStart] for m in table_mutants(table) if m.event not in (TrainStart, *ROWS)
    )


def test_the_engine_builds_every_way_of_writing_the_table():
    """A table whose rows are written one by one, a state and an event each, compiles to the same decisions."""
    single = tuple(
        dataclasses.replace(rule, sources=(state,), events=(event,))
        for rule in TABLE
        for state in rule.sources
        for event in rule.events
    )

    def essence(cells):
        return {
            pair: [(rule.guards, rule.target, rule.actions, rule.written, rule.held) for rule in rules]
            for pair, rules in cells.items()
        }

    assert essence(compiled(single)) == essence(PAIRS)
    assert all(issubclass(action, Action) for rules in PAIRS.values() for r in rules for action in r.actions)
