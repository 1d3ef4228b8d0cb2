"""The lint of the table: each thing that an engine takes silently is planted, and found with its row."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from hubstate.actions import Action, CloseSession, SendRows
from hubstate.errors import BrokenTable
from hubstate.events import Event, GiveUp, StopRequested, Tick, TrainEnd, TrainStart
from hubstate.limits import Guard
from hubstate.lint import checked, defects, without_builder
from hubstate.machine import TABLE, Rule, may_open
from hubstate.states import State


class Model:
    """What an engine moves; it has nothing of its own."""


def changed(place: int, **changes: Any) -> tuple[Rule, ...]:
    """The real table with another row at a place, counted from 1."""
    rule = dataclasses.replace(TABLE[place - 1], **changes)
    return (*TABLE[: place - 1], rule, *TABLE[place:])


def test_the_table_is_whole():
    """The real table has no defect, and comes back as it is."""
    assert defects(TABLE, Model) == ()
    assert checked(TABLE, Model) is TABLE


def without(event: type[Event]) -> tuple[Rule, ...]:
    """The real table without an event."""
    return tuple(
        dataclasses.replace(rule, events=tuple(other for other in rule.events if other is not event))
        for rule in TABLE
    )


OTHER = Guard("may_open", lambda _memory, _event: True, lambda _memory, _event: "")
STUCK = tuple(rule for rule in TABLE if rule.target not in (State.DONE, State.ABORTED))

PLANTED = {
    "an unknown source": (changed(4, sources=("timing",)), "row 4 ('timing' / train_start): unknown source 'timing'"),
    "an unknown destination": (changed(4, target="trainning"), "unknown destination 'trainning'"),
    "an empty destination": (changed(4, target=""), "unknown destination ''"),
    "a guard that is a string": (changed(4, guards=("may_open",)), "unknown guard 'may_open'"),
    "a guard that cannot be called": (changed(4, guards=(Guard("g", None, None),)), "unknown guard Guard(name='g'"),
    "two guards of one name": (changed(4, guards=(OTHER,)), "the guard may_open is another one than in an earlier row"),
    "an unknown event": (changed(4, events=("train_start",)), "unknown event 'train_start'"),
    "an event without a name": (changed(4, events=(Event,)), "unknown event Event"),
    "an unknown action": (changed(4, actions=("SendRows",)), "unknown action 'SendRows'"),
    "an action that is none": (changed(4, actions=(Tick,)), "unknown action tick"),
    "no source": (changed(4, sources=()), "it has no source or no event, so it is never taken"),
    "held back, and yet it moves": (changed(4, held=True), "it says that the event is held back, and does something"),
    "a row behind an unguarded one": (
        (*TABLE, Rule((State.TIMING,), (TrainStart,), (may_open,), None)),
        "row 24 (timing / train_start): dead for timing / train_start, for an earlier row has no guard: row 4",
    ),
    "a row behind one that needs less": (
        (*TABLE[:6], TABLE[7], TABLE[6], *TABLE[8:]),
        "row 8 (training / model_save): dead for training / model_save, for an earlier row needs no more than it does",
    ),
    "a row that is dead for one of its pairs": (
        changed(9, events=(*TABLE[8].events, TrainEnd)) , "row 13 (training / train_end): dead for training / train_end",
    ),
    "an event without a row": (without(StopRequested), "the event stop_requested has no row in any state"),
    "a state that nothing leads to": (changed(15, target=State.ABORTED), "no row leads to done"),
    "a state without an end": (
        (*(rule for rule in STUCK if State.TRAINING not in rule.sources or rule.target is None),),
        "from training no terminal state can be reached",
    ),
    "an exit from a terminal state": (
        (*TABLE[:16], dataclasses.replace(TABLE[16], target=State.TRAINING), *TABLE[17:]),
        "it leads out of aborted, which is terminal",
    ),
}  # fmt: skip


@pytest.mark.parametrize("plant", PLANTED)
def test_a_planted_defect_is_found(plant: str):
    """Each defect is named with its row and its reason, and the table is refused."""
    table, words = PLANTED[plant]
    found = [
        defect for defect in defects(table, Model) if not defect.startswith("from ") or "training" in defect
    ]
    assert any(words in defect for defect in found), found
    with pytest.raises(BrokenTable, match="the table of the machine is broken"):
        checked(table, Model)


def test_a_trigger_must_not_be_an_attribute_of_the_model():
    """A method of the model with a trigger's name would win silently."""

    class Shadowing:
        def tick(self) -> None:
            """A name that is taken."""

    assert defects(TABLE, Shadowing) == (
        "the trigger tick shadows an attribute of Shadowing, which would win",
    )


def test_an_action_that_nobody_builds_is_found():
    """Each action that a row names needs a builder."""
    found = without_builder(TABLE, {Action, SendRows})
    assert any("nobody builds CloseSession" in defect for defect in found)
    assert not any("SendRows" in defect.partition(": ")[2] for defect in found)
    assert (
        without_builder(TABLE, {action for rule in TABLE for action in rule.actions} | {CloseSession}) == ()
    )


def test_the_refusal_is_no_error_of_the_caller():
    """A broken table is this package's blame: no usage error, and every defect is told at once."""
    table = (*changed(4, target="x"), Rule((State.DONE,), (GiveUp,), ("y",), None))
    with pytest.raises(BrokenTable) as caught:
        checked(table, Model)
    assert not isinstance(caught.value, ValueError)
    assert str(caught.value).count("\n") == 2
