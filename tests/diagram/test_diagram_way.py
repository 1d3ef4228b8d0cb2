"""Which rows a session's steps took, and what else they tell."""

from __future__ import annotations

import pytest

from hubstate.actions import Memory
from hubstate.controller import decide
from hubstate.diagram import Taken, rows, way_of
from hubstate.events import (
    FitEpochEnd,
    ModelSave,
    PretrainRoutineEnd,
    PretrainRoutineStart,
    Tick,
    TrainStart,
    name_of,
)
from hubstate.machine import TABLE, choose

ROWS = rows()


def way(*steps: Taken, title: str = ""):
    """The way of some steps through the real table."""
    return way_of(steps, ROWS, title)


def test_a_session_without_steps_stands_in_the_first_state():
    """Before anything was said a session is idle, and nothing else was visited."""
    nothing = way(title="digits")
    assert (nothing.title, nothing.current, nothing.visited) == ("digits", "idle", {"idle"})
    assert [row for row in ROWS if nothing.counted(row)] == []


def test_the_row_of_a_step_is_the_one_that_the_decision_took():
    """For a run decided by the controller, the row counted for each step is the row that the table chose."""
    memory = Memory()
    events = [
        PretrainRoutineStart(1.0, session="S", name="digits"),
        PretrainRoutineEnd(1.1),
        TrainStart(1.2),
        FitEpochEnd(1.3, epoch=0, metrics={"a": 1.0}),
        ModelSave(1.4, epoch=0, path="last.pt", size=1, mtime_ns=1, fitness=0.5),
        ModelSave(1.5, epoch=0, path="last.pt", size=1, mtime_ns=1, fitness=0.4),
        Tick(4.5),
        FitEpochEnd(9.0, epoch=1, metrics={"a": 1.0}),
        Tick(2000.0),
    ]
    numbers = set()
    for event in events:
        choice = choose(memory, event)
        decision = decide(memory, event)
        assert choice
        assert choice.rule
        step = Taken(memory.state.value, name_of(event), decision.memory.state.value, decision.guards)
        number = TABLE.index(choice.rule) + 1
        assert dict(way(step).taken) == {(number, step.source): 1}
        numbers.add(number)
        memory = decision.memory
    assert len(numbers) >= 7


def test_counts_are_kept_by_state():
    """A row of several states counts for each of them, and in all."""
    steps = [Taken("training", "delivered", "training")] * 3 + [Taken("done", "answered", "done")]
    (row,) = (row for row in ROWS if "answered" in row.events)
    counted = way(*steps)
    assert (counted.times(row), counted.times(row, "training"), counted.times(row, "idle")) == (4, 3, 0)
    assert (counted.counted(row), counted.counted(row, "idle")) == ("×4", "")


def test_an_illegal_event_takes_no_row():
    """What was illegal is counted by state and event, and by nothing else."""
    wrong = way(*[Taken("timing", "train_end", "timing", illegal=True)] * 2)
    assert wrong.illegal_in("timing") == {"train_end": 2}
    assert wrong.illegal_in("training") == {}
    assert not wrong.taken
    assert wrong.wrong_in("timing") == ["illegal: train_end ×2"]
    assert wrong.foreign == 0


def test_a_refused_delivery_is_remembered_and_counted():
    """A refusal by the hub takes its row, and is told for the state in which it came."""
    told = way(*[Taken("finalizing", "refused", "finalizing")] * 2)
    assert told.wrong_in("finalizing") == ["refused by the hub ×2"]
    assert sum(told.taken.values()) == 2


def test_what_no_guard_let_through_is_held_back():
    """A step for which no row was taken counts as held back in its state."""
    held = way(Taken("aborted", "give_up", "aborted", {"something_waits": False}, held=True))
    assert (dict(held.held), dict(held.taken), held.foreign) == ({"aborted": 1}, {}, 0)


@pytest.mark.parametrize(
    "step",
    [
        Taken("training", "no_such_event", "training"),
        Taken("training", "train_end", "done"),
        Taken("timing", "train_end", "timing"),
        Taken("training", "fit_epoch_end", "done", {"metrics_due": True}),
    ],
)
def test_steps_of_another_table_are_told_apart(step):
    """A step that no row explains is counted as foreign, and the states that it names were visited all the same."""
    foreign = way(step)
    assert (foreign.foreign, dict(foreign.taken)) == (1, {})
    assert foreign.current == step.target
    assert foreign.visited == {"idle", step.source, step.target}


def test_a_later_attempt_goes_on_counting():
    """All attempts of a session count together, and the last step tells where it is."""
    opened = Taken("idle", "pretrain_routine_start", "session_created", {"may_open": True})
    twice = way(opened, Taken("session_created", "abort", "aborted"), opened)
    assert twice.current == "session_created"
    assert twice.visited == {"idle", "session_created", "aborted"}
    assert twice.taken[1, "idle"] == 2
