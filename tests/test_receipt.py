"""The receipt: each row is counted once, whatever happened, and the words say no more than the numbers."""

from __future__ import annotations

import msgspec
import pytest
from fakes import SAYINGS, say
from hypothesis import given, settings

from hubstate.actions import (
    CloseSession,
    Condition,
    Memory,
    OpenSession,
    Refused,
    SendCheckpoint,
    SendRows,
)
from hubstate.clock import VirtualClock
from hubstate.door import Door
from hubstate.receipt import conditions_of, receipt_of
from hubstate.states import CheckpointKind, Outcome, State

ROWS = SendRows("S/1/rows/3-6", 1, first=3, last=6)
FILE = SendCheckpoint("S/1/f", 1, kind=CheckpointKind.LAST, epoch=1, snapshot="s", size=1)
CLOSE = CloseSession("S/1/close", 1, outcome=Outcome.FINISHED, rows=10)
BASE = Memory(
    state=State.FINALIZING,
    outcome=Outcome.FINISHED,
    session="S",
    name="digits",
    attempt=2,
    epoch=9,
    opened_at=100.0,
    ended_at=200.0,
    rows=10,
    rows_asked=10,
    rows_delivered=2,
    files_delivered=1,
    outstanding=(ROWS, FILE, CLOSE),
)


def memory(**fields: object) -> Memory:
    return msgspec.structs.replace(BASE, **fields)


def names(conditions: tuple[Condition, ...]) -> list[str]:
    return [condition.name for condition in conditions]


# -- numbers ---------------------------------------------------------------------------------------------


@given(sayings=SAYINGS)
@settings(deadline=None, max_examples=150)
def test_each_row_is_counted_once(sayings):
    """On any way, at any moment: the rows are those delivered, waiting, not taken, refused and given up, and no others."""
    clock = VirtualClock()
    door = Door(None, Memory(), clock, lambda before, decision: None)
    for _, decision in say(door, clock, sayings):
        now = decision.memory
        told = receipt_of(now)
        parts = (
            told.rows_delivered,
            told.rows_waiting,
            told.rows_not_taken,
            told.rows_refused,
            told.rows_given_up,
        )
        assert min(parts) >= 0
        assert sum(parts) == told.rows == now.rows
        refused = {one.key for one in now.refused}
        on_the_way = [a for a in now.outstanding if isinstance(a, SendRows) and a.key not in refused]
        unasked = now.rows - now.rows_asked
        assert told.rows_waiting == unasked + sum(a.last - a.first + 1 for a in on_the_way)
        if told.state is State.DONE:
            assert (told.waiting, told.refused, told.rows_refused) == (0, 0, 0)


def test_rows_that_were_given_up_stay_so():
    """A later attempt of the session does not wait for what an earlier one gave up."""
    clock = VirtualClock()
    door = Door(None, Memory(), clock, lambda before, decision: None)
    say(door, clock, [("row", 0.25, 0), ("row", 0.25, 0), ("abort", 0.25, 0), ("give_up", 0.25, 0)])
    later = Door(None, msgspec.structs.replace(door.memory, state=State.IDLE), clock, door._listener)
    say(later, clock, [("row", 0.25, 0)])
    told = receipt_of(later.memory)
    assert (told.rows, told.rows_given_up, told.rows_waiting) == (3, 2, 1)


def test_what_waits_is_rows_files_and_words():
    """`waiting` counts all that still has to be acknowledged, the closing included; `has nothing waiting` means done."""
    told = receipt_of(memory())
    assert (told.rows_waiting, told.files_waiting, told.waiting) == (8, 1, 10)
    nothing = receipt_of(memory(outstanding=(), rows_delivered=10))
    assert (nothing.waiting, nothing.rows_waiting, nothing.files_waiting) == (0, 0, 0)
    opening = OpenSession("S/1/open", 1, session="S", name="digits")
    assert receipt_of(memory(outstanding=(opening,), rows=0, rows_delivered=0)).waiting == 1


def test_what_is_refused_does_not_wait():
    """A refused delivery is shown apart: waiting will not change it."""
    told = receipt_of(memory(refused=(Refused(ROWS.key, "too large", 150.0, 413),)))
    assert (told.rows_waiting, told.rows_refused, told.refused, told.waiting) == (4, 4, 1, 6)
    told = receipt_of(memory(refused=(Refused(FILE.key, "too large", 150.0, 413),)))
    assert (told.files_waiting, told.refused, told.rows_refused) == (0, 1, 0)


def test_who_knows_better_names_the_outcome():
    """For a session that nobody runs, the remembered `running` is replaced by what is known from outside."""
    now = memory(state=State.TRAINING, outcome=Outcome.RUNNING)
    assert receipt_of(now).outcome is Outcome.RUNNING
    assert receipt_of(now, outcome=Outcome.UNKNOWN).outcome is Outcome.UNKNOWN


# -- words -----------------------------------------------------------------------------------------------


def test_the_words_of_a_session_that_was_delivered():
    """A person reads what became of the training, what the hub holds, and where to look."""
    told = receipt_of(
        memory(
            state=State.DONE,
            outstanding=(),
            rows_delivered=10,
            final_sha256="ab12",
            url="http://hub.test/S",
            conditions=(Condition("online", 1.0, "the hub answers"),),
        )
    )
    assert str(told).splitlines() == [
        "digits (S): finished, 10 of 10 rows delivered, 1 of 1 checkpoints delivered; the session is done",
        "final checkpoint, as the hub stored it: sha256 ab12",
        "http://hub.test/S",
    ]


def test_the_words_of_a_session_without_a_hub():
    """ "Finished, 10 rows kept here, no hub": never a bare `finalizing`."""
    told = receipt_of(memory(hub_wanted=False, rows_delivered=0, files_delivered=0, outstanding=(CLOSE,)))
    assert str(told) == (
        "digits (S): finished, 0 of 10 rows delivered, 10 rows kept here, no hub; the session is finalizing"
    )


def test_the_words_of_trouble():
    """Whatever was not delivered is named with its number and its reason, and nothing is promised."""
    refused = (Refused(ROWS.key, "too large", 150.0, 413),)
    offline = Condition("offline", 1.0, "no route to the hub")
    told = str(
        receipt_of(
            memory(
                state=State.ABORTED,
                outcome=Outcome.FAILED,
                reason="out of memory",
                rows_not_taken=3,
                rows_given_up=1,
                rows_delivered=2,
                refused=refused,
                conditions=(offline,),
            )
        )
    )
    for words in (
        "digits (S): failed, 2 of 10 rows delivered",
        "3 rows not taken by this hub",
        "4 rows refused",
        "1 row given up",
        "the hub refused 1 delivery: too large",
        "no route to the hub",
        "the session is aborted (out of memory)",
    ):
        assert words in told
    assert "kept here" not in told


# -- conditions ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "name", "since", "reason"),
    [
        ({"hub_wanted": False}, "no_hub", 100.0, "no hub"),
        ({}, "uploading", 200.0, "1 checkpoint on the way"),
        ({"ended_at": None, "state": State.TRAINING}, "uploading", 100.0, "1 checkpoint on the way"),
        ({"given_up": "the hub is gone"}, "given_up", 200.0, "given up: the hub is gone"),
        (
            {"refused": (Refused(ROWS.key, "too large", 150.0, 413), Refused(FILE.key, "no", 160.0))},
            "refused",
            150.0,
            "the hub refused 2 deliveries: too large",
        ),
        (
            {"refused": (Refused(FILE.key, "the kept file cannot be read here any more", 150.0),)},
            "refused",
            150.0,
            "1 delivery refused here: the kept file cannot be read here any more",
        ),
    ],
)
def test_a_condition_has_a_reason_and_a_time(fields, name, since, reason):
    """What follows from the memory is told beside what was remembered, with why and since when."""
    found = {condition.name: condition for condition in conditions_of(memory(**fields))}
    assert (found[name].since, found[name].reason) == (since, reason)


def test_a_condition_that_does_not_hold_is_not_told():
    """Nothing is on the way where nobody sends, where it is refused or where the session is over."""
    assert "uploading" not in names(conditions_of(memory(hub_wanted=False)))
    assert "uploading" not in names(conditions_of(memory(state=State.ABORTED)))
    assert "uploading" not in names(conditions_of(memory(refused=(Refused(FILE.key, "no", 1.0),))))
    assert names(conditions_of(Memory())) == []
    assert "no_hub" not in names(conditions_of(memory(hub_wanted=False, hub="http://hub.test")))


def test_remembered_conditions_come_first_and_the_process_own_last():
    """The order is stable: what the hub said, what follows, and what only this process knows."""
    failing = Condition("journal_failing", 5.0, "2 steps are only in memory")
    offline = Condition("offline", 1.0, "no route")
    told = receipt_of(memory(conditions=(offline,), given_up="so be it"), extra=(failing,))
    assert names(told.conditions) == ["offline", "uploading", "given_up", "journal_failing"]
