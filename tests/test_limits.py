"""The limits: what is due and when, in numbers and in words, and looking consumes nothing."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubstate import limits as room
from hubstate.actions import Kept, Memory, Refused, SendCheckpoint, SendRows
from hubstate.errors import UsageError
from hubstate.events import HeartbeatTick, ModelSave, Saved, Tick
from hubstate.limits import (
    Limits,
    elapsed,
    final_choice,
    is_outstanding,
    kind_to_keep,
    next_due,
    waiting_for,
)
from hubstate.states import CheckpointKind, State

AT = 10_000.0
ROWS = SendRows("S/1/rows/1-2", 1, first=1, last=2)
FILE = SendCheckpoint("S/1/f", 1, kind=CheckpointKind.LAST, epoch=1, snapshot="s", size=1)
KEPT = Kept(CheckpointKind.LAST, 1, 1, "s", 1, AT - 5)
NO_CLOCK = "the clocks of the limits do not run yet (they start with pretrain_routine_end)"
TRAINING = Memory(
    state=State.TRAINING,
    metrics_since=AT - 1,
    checkpoint_since=AT - 1,
    heartbeat_since=AT - 1,
    kept_at=AT - 1,
)


def memory(**fields: object) -> Memory:
    return msgspec.structs.replace(TRAINING, **fields)


def saved(**fields: object) -> ModelSave:
    return ModelSave(**({"at": AT, "epoch": 1, "path": "p", "size": 1, "mtime_ns": 1} | fields))


# -- what a user may ask for -----------------------------------------------------------------------------


def test_the_defaults_are_those_of_the_original():
    """Rows every 3 s, checkpoints every 900 s, a sign of life every 300 s."""
    assert Limits() == Limits(metrics=3.0, checkpoint=900.0, heartbeat=300.0)


@pytest.mark.parametrize("name", ["metrics", "checkpoint", "heartbeat"])
@pytest.mark.parametrize("value", [-1, math.inf, math.nan, "3", None, True])
def test_a_limit_is_a_number_of_seconds(name, value):
    """Anything else is the caller's mistake, named with its value."""
    with pytest.raises(UsageError, match=f"the limit {name} must be a number of seconds"):
        Limits(**{name: value})


def test_only_the_heartbeat_needs_an_interval():
    """Rows and checkpoints may leave at once; signs of life without an end would be a flood."""
    assert Limits(metrics=0, checkpoint=0.0).metrics == 0
    with pytest.raises(UsageError, match=r"^the limit heartbeat must be more than 0 seconds$"):
        Limits(heartbeat=0)


# -- time ------------------------------------------------------------------------------------------------


def test_time_that_lies_ahead_counts_as_now():
    """After a clock was set back, an interval begins anew instead of lasting for ever."""
    assert elapsed(None, AT) is None
    assert elapsed(AT - 2, AT) == 2.0
    assert elapsed(AT + 500, AT) == 0.0


@given(since=st.floats(0, 2e4), interval=st.floats(0, 1e4))
def test_rows_are_due_exactly_when_the_interval_is_over(since, interval):
    """Never a moment before, and then until something leaves; a second look gives the same answer."""
    now = memory(metrics_since=since, metrics_interval=interval)
    due = room.metrics_due.holds(now, Tick(AT))
    assert due is (max(0.0, AT - since) >= interval)
    assert room.metrics_due.holds(now, Tick(AT)) is due


def test_the_words_tell_how_long():
    """What `explain` shows: the seconds that are left, or why no clock runs."""
    assert waiting_for(AT - 488, AT, 900) == "not yet: 412 s left of 900 s"
    assert waiting_for(None, AT, 900) == NO_CLOCK


@pytest.mark.parametrize(
    ("left", "words"),
    [(412.3, "413"), (1.5, "2"), (1.0, "1"), (0.984375, "0.99"), (0.254, "0.26"), (0.001, "0.01")],
)
def test_what_is_left_is_never_told_as_less(left, words):
    """Seconds are rounded up, and below one second hundredths are: what is not over is not told as 0 s."""
    assert waiting_for(0.0, 900.0 - left, 900) == f"not yet: {words} s left of 900 s"


@pytest.mark.parametrize(
    ("guard", "fields", "words"),
    [
        (
            "metrics_due",
            {"outstanding": (ROWS,)},
            "a send of rows is outstanding; these go with the next one",
        ),
        ("metrics_due", {}, "not yet: 2 s left of 3 s"),
        ("metrics_due", {"metrics_since": None}, NO_CLOCK),
        (
            "checkpoint_due",
            {"checkpoints": "final"},
            "only the final checkpoint was asked for (checkpoints='final')",
        ),
        (
            "checkpoint_due",
            {"outstanding": (FILE,)},
            "a checkpoint is outstanding; the next one leaves after it",
        ),
        ("checkpoint_due", {}, "not yet: 899 s left of 900 s"),
        ("checkpoint_due", {"checkpoint_since": None}, NO_CLOCK),
        ("keep_due", {"checkpoints": "none"}, "checkpoints='none' keeps no such checkpoint"),
        ("keep_due", {"checkpoints": "best"}, "checkpoints='best' keeps no such checkpoint"),
        ("keep_due", {}, "not strictly better, and not yet: 899 s left of 900 s"),
        ("heartbeat_due", {"hub_wanted": False}, "no hub is set"),
        ("heartbeat_due", {"heartbeat_out": True}, "a heartbeat is outstanding"),
        ("heartbeat_due", {}, "not yet: 299 s left of 300 s"),
    ],
)
def test_a_guard_that_says_no_says_why(guard, fields, words):
    """Whatever holds an event back can be told to the user in a sentence."""
    asked = getattr(room, guard)
    event = HeartbeatTick(AT) if guard == "heartbeat_due" else saved()
    assert asked.name == guard
    assert asked.holds(memory(**fields), event) is False
    assert asked.why_not(memory(**fields), event) == words


@pytest.mark.parametrize(
    ("guard", "fields", "holds"),
    [
        ("metrics_due", {}, True),
        ("metrics_due", {"outstanding": (FILE,)}, True),
        ("metrics_due", {"outstanding": (ROWS,)}, False),
        ("metrics_due", {"metrics_since": None}, False),
        ("metrics_due", {"metrics_since": AT - 2.9}, False),
        ("checkpoint_due", {}, True),
        ("checkpoint_due", {"outstanding": (ROWS,)}, True),
        ("checkpoint_due", {"outstanding": (FILE,)}, False),
        ("checkpoint_due", {"checkpoints": "final"}, False),
        ("checkpoint_due", {"checkpoint_since": None}, False),
        ("checkpoint_due", {"checkpoint_since": AT - 899}, False),
        ("heartbeat_due", {}, True),
        ("heartbeat_due", {"heartbeat_since": None}, True),
        ("heartbeat_due", {"hub_wanted": False}, False),
        ("heartbeat_due", {"heartbeat_out": True}, False),
        ("heartbeat_due", {"heartbeat_since": AT - 299}, False),
    ],
)
def test_one_reason_is_enough_to_wait(guard, fields, holds):
    """To the second when its interval is over a send is due, and each reason against it holds it back by itself."""
    over = {"metrics_since": AT - 3, "checkpoint_since": AT - 900, "heartbeat_since": AT - 300}
    assert getattr(room, guard).holds(memory(**(over | fields)), Tick(AT)) is holds


def test_a_torn_checkpoint_is_not_kept_and_says_so():
    """The reason why there is no copy is the reason why the save was not kept."""
    torn = saved(fitness=9.0, unkept="half a zip archive")
    assert room.keep_due.holds(memory(), torn) is False
    assert room.keep_due.why_not(memory(), torn) == "half a zip archive"
    assert room.keep_due.holds(memory(), Tick(AT)) is False


def test_a_refused_send_is_not_under_way():
    """What the hub refused holds nothing back: the next rows may leave."""
    refused = memory(outstanding=(ROWS,), refused=(Refused(ROWS.key, "too large", AT),))
    assert is_outstanding(memory(outstanding=(ROWS,)), SendRows)
    assert not is_outstanding(refused, SendRows)
    assert not is_outstanding(memory(outstanding=(ROWS,)), SendCheckpoint)


def test_what_else_is_refused_changes_nothing():
    """A send is under way although another one was refused."""
    other = Refused(FILE.key, "too large", AT)
    assert is_outstanding(memory(outstanding=(FILE, ROWS), refused=(other,)), SendRows)
    assert not is_outstanding(memory(outstanding=(FILE, ROWS), refused=(other,)), SendCheckpoint)


# -- which checkpoint is kept ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("choice", "fields", "event", "kept"),
    [
        ("all", {}, saved(fitness=0.5), CheckpointKind.BEST),
        ("all", {"best_fitness": 0.5}, saved(fitness=0.5), None),
        ("all", {"best_fitness": 0.5, "kept_at": None}, saved(fitness=0.5), CheckpointKind.LAST),
        ("all", {"kept_at": AT - 900}, saved(), CheckpointKind.LAST),
        ("all", {"kept_at": AT - 899}, saved(), None),
        ("all", {}, saved(kind=CheckpointKind.FINAL), CheckpointKind.FINAL),
        ("last", {"kept_at": None}, saved(fitness=0.5), CheckpointKind.LAST),
        ("last", {}, saved(fitness=0.5), None),
        ("best", {"kept_at": None}, saved(), None),
        ("best", {}, saved(fitness=0.5), CheckpointKind.BEST),
        ("none", {"kept_at": None}, saved(kind=CheckpointKind.FINAL), None),
        ("final", {"kept_at": None}, saved(), CheckpointKind.LAST),
    ],
)
def test_as_what_a_checkpoint_is_kept(choice, fields, event, kept):
    """Best is strictly better than all before; last is the newest, once an interval; the user's choice goes first."""
    assert choice in room.CHECKPOINT_CHOICES
    assert kind_to_keep(memory(checkpoints=choice, **fields), event) is kept


LAST, BEST, FINAL = (
    Kept(kind, 1, 2, kind.value, 1, AT - age)
    for kind, age in ((CheckpointKind.LAST, 5), (CheckpointKind.BEST, 50), (CheckpointKind.FINAL, 90))
)
EARLIER = msgspec.structs.replace(FINAL, attempt=1)
OLD_LAST = msgspec.structs.replace(LAST, attempt=1)
OLDEST_FINAL = msgspec.structs.replace(FINAL, attempt=0)
NOW, BEFORE = (Saved("p", 1, 1, 1, attempt, "") for attempt in (2, 1))


@pytest.mark.parametrize(
    ("fields", "choice"),
    [
        ({}, None),
        ({"kept_last": LAST}, LAST),
        ({"kept_last": LAST, "kept_best": BEST}, BEST),
        ({"kept_last": LAST, "kept_best": BEST, "kept_final": FINAL, "saved": NOW}, FINAL),
        # What an earlier attempt named, before this one saved anything, and behind that.
        ({"kept_last": LAST, "kept_best": BEST, "kept_final": EARLIER}, EARLIER),
        ({"kept_last": LAST, "kept_best": BEST, "kept_final": EARLIER, "saved": BEFORE}, EARLIER),
        ({"kept_last": LAST, "kept_best": BEST, "kept_final": EARLIER, "saved": NOW}, BEST),
        ({"kept_last": LAST, "kept_final": EARLIER, "saved": NOW}, LAST),
        ({"kept_final": EARLIER, "saved": NOW}, EARLIER),
        # Of two from before, the later attempt's is the newest, and of one attempt's the later one.
        ({"kept_last": OLD_LAST, "kept_final": OLDEST_FINAL, "saved": NOW}, OLD_LAST),
        (
            {"kept_last": msgspec.structs.replace(LAST, attempt=0), "kept_final": EARLIER, "saved": NOW},
            EARLIER,
        ),
        (
            {
                "kept_last": msgspec.structs.replace(OLD_LAST, at=AT - 95),
                "kept_final": EARLIER,
                "saved": NOW,
            },
            EARLIER,
        ),
    ],
)
def test_which_checkpoint_is_the_final_one(fields, choice):
    """The one that was named, by an earlier attempt only until this one saves; else the best; else the newest of all."""
    assert final_choice(memory(attempt=2, **fields)) == choice


# -- looking ahead ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "seconds"),
    [
        ({}, 299.0),
        ({"rows": 2}, 2.0),
        ({"rows": 2, "outstanding": (ROWS,)}, 299.0),
        ({"kept_last": KEPT, "checkpoint_since": AT - 800}, 100.0),
        ({"kept_best": KEPT, "checkpoint_since": AT - 800, "outstanding": (FILE,)}, 299.0),
        ({"kept_best": KEPT, "checkpoint_since": AT - 800, "checkpoints": "final"}, 299.0),
        ({"kept_best": msgspec.structs.replace(KEPT, asked=True), "checkpoint_since": AT - 800}, 299.0),
        ({"heartbeat_since": None}, 0.0),
        ({"heartbeat_out": True}, None),
        ({"hub_wanted": False}, None),
        ({"state": State.DONE, "rows": 2}, None),
        ({"state": State.FINALIZING, "rows": 2}, 299.0),
    ],
)
def test_how_long_nobody_need_ask(fields, seconds):
    """Whoever sends ticks may sleep until time alone makes something due, and for ever if nothing can."""
    assert next_due(memory(**fields), AT) == seconds


def test_without_heartbeats_only_rows_and_files_count():
    """Where nobody trains, no sign of life is waited for."""
    assert next_due(memory(), AT, heartbeats=False) is None
    assert next_due(memory(rows=1), AT, heartbeats=False) == 2.0
