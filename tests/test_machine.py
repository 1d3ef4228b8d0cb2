"""The machine: the compiled rows are the library's own, and the table hides no mistake that the library would accept."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import sys
from pathlib import Path

import pytest
from transitions import MachineError

from hubstate import machine
from hubstate.actions import Action, Memory
from hubstate.events import EVENTS, Event, PretrainRoutineStart, Tick, name_of
from hubstate.machine import TABLE, TABLE_DIGEST, choose, fire, legal_events, rules_for
from hubstate.states import State

sys.path.insert(0, str(Path(__file__).parent / "grid"))

from judge import CELLS, Cell
from situations import FILE, change, situation


@pytest.mark.parametrize("cell", CELLS, ids=[cell.name for cell in CELLS])
def test_the_compiled_rows_are_the_librarys_own_firing(cell: Cell):
    """For every state, event and value of the guards, the table walk and `transitions` itself come to the same."""
    memory, event = situation(cell.state, cell.event, cell.case)
    choice = choose(memory, event)
    if choice is None:
        with pytest.raises(MachineError):
            fire(memory.state, memory, event)
        return
    taken, state = fire(memory.state, memory, event)
    rule = choice.rule
    assert taken is (rule is not None)
    assert state is (memory.state if rule is None or rule.target is None else rule.target)
    if rule is not None:
        assert all(guard.holds(memory, event) for guard in rule.guards)
        asked = [other for other in rules_for(memory.state, type(event)) if other is not rule]
        before = itertools.takewhile(lambda other: TABLE.index(other) < TABLE.index(rule), asked)
        assert not any(all(guard.holds(memory, event) for guard in other.guards) for other in before)


def test_every_pair_is_met():
    """The comparison covers all pairs of a state and an event, the illegal ones included."""
    assert {(cell.state, cell.event) for cell in CELLS} == {
        (state, name_of(event)) for state in State for event in EVENTS
    }


def test_the_compiled_rows_are_the_tables():
    """Nothing was lost or reordered on the way through the library's machine."""
    for state in State:
        for event in EVENTS:
            rules = tuple(rule for rule in TABLE if state in rule.sources and event in rule.events)
            assert rules_for(state, event) == rules


def test_compiling_again_gives_the_same():
    """The table compiles to what is asked for every event, however often; each rule comes as the row that it is."""
    again = machine.compiled(TABLE)
    assert again == machine.CELLS
    assert all(rule in TABLE for rules in again.values() for rule in rules)
    assert {event for _, event in again} == set(EVENTS)


def test_another_table_is_compiled_for_itself():
    """A table of one row has one pair, and every other pair of it is illegal."""
    (pair,) = machine.compiled(TABLE[:1])
    assert pair == (State.IDLE, PretrainRoutineStart)
    memory, event = situation(State.TIMING, "train_start", "plain")
    assert choose(memory, event, machine.compiled(TABLE[:1])) is None
    assert legal_events(State.IDLE, machine.compiled(TABLE[:1])) == ("pretrain_routine_start",)


def test_a_guard_is_asked_once():
    """Rows that share a guard share its answer; all that were asked are told, in order."""
    memory, event = situation(State.TRAINING, "tick", "rows not yet")
    counted = []
    rules = machine.CELLS[State.TRAINING, type(event)]

    def counting(rule):
        def asked(guard):
            return guard._replace(holds=lambda m, e: counted.append(guard.name) or guard.holds(m, e))

        return dataclasses.replace(rule, guards=tuple(asked(guard) for guard in rule.guards))

    choice = choose(memory, event, {(State.TRAINING, type(event)): tuple(map(counting, rules))})
    assert counted == list(choice.guards) == ["metrics_due", "checkpoint_due"]
    assert not any(choice.guards.values())


def test_every_guard_has_one_name():
    """Answers are remembered by name, so two guards must never share one."""
    guards = {guard for rule in TABLE for guard in rule.guards}
    assert len({guard.name for guard in guards}) == len(guards)


@pytest.mark.parametrize("state", State)
def test_the_legal_events_are_those_with_a_row(state: State):
    """What is legal is read from the table: trainer's and caller's events, in the order of a run."""
    legal = legal_events(state)
    said = [name_of(event) for event in EVENTS if rules_for(state, event)]
    clocks_and_answers = {
        "tick",
        "heartbeat_tick",
        "delivered",
        "refused",
        "held_up",
        "answered",
        "stop_requested",
    }
    assert set(legal) == set(said) - clocks_and_answers
    assert len(set(legal)) == len(legal)


def test_each_row_can_be_taken():
    """A row that no situation takes is dead: either it hides behind another one or its guards contradict."""
    taken = set()
    for cell in CELLS:
        choice = choose(*situation(cell.state, cell.event, cell.case))
        if choice is not None and choice.rule is not None:
            taken.add(TABLE.index(choice.rule))
    assert taken == set(range(len(TABLE)))


@pytest.mark.parametrize(
    ("guard", "event", "words"),
    [
        ("may_open", PretrainRoutineStart(0.0, wanted=False), "the mode is off"),
        ("may_open", PretrainRoutineStart(0.0, main=False), "not the main process; rank 0"),
        ("may_open", PretrainRoutineStart(0.0, already_open=True), "open already"),
        ("rows_wait", Tick(0.0), "no row waits"),
        ("checkpoint_waits", Tick(0.0), "no kept checkpoint waits"),
        ("all_delivered", Tick(0.0), "0 deliveries wait, 0 of them refused"),
        ("something_waits", Tick(0.0), "nothing waits and nothing is refused"),
        ("refused_exist", Tick(0.0), "nothing is refused"),
        ("usage_wanted", Tick(0.0), "the recording of usage is off"),
    ],
)
def test_a_guard_that_says_no_says_why(guard: str, event: Event, words: str):
    """Each guard of the table has words for its no."""
    asked = getattr(machine, guard)
    assert not asked.holds(Memory(), event)
    assert words in asked.why_not(Memory(), event)


def test_the_rest_of_the_deliveries_is_told():
    """While a session finalizes, an answer that is not the last one says how many are still out."""
    memory, event = situation(State.FINALIZING, "delivered", "the close, rows out")
    assert machine.all_delivered.why_not(memory, event) == "1 deliveries wait, 0 of them refused"
    memory = change(memory, outstanding=(*memory.outstanding, FILE))
    assert machine.all_delivered.why_not(memory, event) == "2 deliveries wait, 0 of them refused"


def test_the_digest_names_the_table():
    """A journal names the table that it was decided under: any change of a row changes the name."""
    texts = [machine._row_text(rule) for rule in TABLE]
    for rule, text in zip(TABLE, texts, strict=True):
        others = [
            dataclasses.replace(rule, written=not rule.written),
            dataclasses.replace(rule, held=not rule.held),
            dataclasses.replace(rule, guards=(*rule.guards, machine.may_open)),
            dataclasses.replace(rule, target=None if rule.target else State.DONE),
            dataclasses.replace(rule, actions=(*rule.actions, Action)),
            dataclasses.replace(rule, sources=rule.sources[1:]),
        ]
        assert text not in {machine._row_text(other) for other in others}
    counted = "\n".join((f"decisions {machine.DECISIONS}", *texts))
    assert hashlib.sha256(counted.encode()).hexdigest().startswith(TABLE_DIGEST)
    assert len(TABLE_DIGEST) == 16


def test_another_way_to_decide_has_another_name():
    """A guard or a builder that decides otherwise raises the number of the decisions, and so the name changes."""
    assert machine._digest(TABLE, machine.DECISIONS) == TABLE_DIGEST
    assert machine._digest(TABLE, machine.DECISIONS + 1) != TABLE_DIGEST
    assert TABLE_DIGEST in machine.DECIDE_ALIKE
