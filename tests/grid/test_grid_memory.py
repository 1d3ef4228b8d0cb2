"""What each answer leaves in the memory, field by field: what is not named here stays as it was."""

from __future__ import annotations

from typing import Any

import pytest
from situations import FILE, NOW, OPEN, ROWS, base, change

from hubstate import events as ev
from hubstate.actions import Condition, Kept, Memory, Refused, SendCheckpoint, SendRows
from hubstate.adopt import adopt
from hubstate.controller import decide
from hubstate.states import CheckpointKind, Outcome, State

SECOND = SendRows("S/1/rows/5-7", 1, first=5, last=7)
FINAL = SendCheckpoint(
    "S/1/checkpoint/final/2", 1, kind=CheckpointKind.FINAL, epoch=2, snapshot="best-2", size=90
)
ONLINE = Condition("online", NOW, "the hub answers")
OFFLINE = Condition("offline", NOW - 30, "no route")
FAILING = Condition("hub_failing", NOW - 20, "500")
LIMITED = Condition("rate_limited_until", NOW - 10, "429", NOW + 50)
REJECTED = Condition("credentials_rejected", NOW - 10, "401")
OTHER = Condition("something_else", NOW - 40, "it stays")
OLD = Refused(FILE.key, "too large", NOW - 9)

MEMORY = change(
    base(State.TRAINING),
    outstanding=(ROWS, FILE, SECOND, FINAL),
    refused=(OLD,),
    rows=9,
    rows_asked=7,
    rows_delivered=2,
    rows_not_taken=3,
    rows_given_up=4,
    files_delivered=5,
    not_taken=("step rows",),
    conditions=(OTHER, ONLINE),
)


def without(*keys: str) -> tuple[Any, ...]:
    return tuple(action for action in MEMORY.outstanding if action.key not in keys)


def left(memory: Memory, event: ev.Event) -> dict[str, Any]:
    """The fields that are others after the event than before it."""
    after = decide(memory, event).memory
    fields = Memory.__struct_fields__
    return {name: getattr(after, name) for name in fields if getattr(after, name) != getattr(memory, name)}


# -- acknowledgements ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "changes"),
    [
        (
            ev.Delivered(at=NOW, key=ROWS.key, rows=1),
            {"outstanding": without(ROWS.key), "rows_delivered": 6, "metrics_since": NOW},
        ),
        (
            ev.Delivered(at=NOW, key=SECOND.key, rows=2, not_taken="wide rows"),
            {
                "outstanding": without(SECOND.key),
                "rows_delivered": 4,
                "rows_not_taken": 4,
                "not_taken": ("step rows", "wide rows"),
                "metrics_since": NOW,
            },
        ),
        (
            ev.Delivered(at=NOW, key=SECOND.key, rows=9, not_taken="step rows"),
            {"outstanding": without(SECOND.key), "rows_delivered": 5, "metrics_since": NOW},
        ),
        (
            ev.Delivered(at=NOW, key=FILE.key, sha256="ab"),
            {
                "outstanding": without(FILE.key),
                "refused": (),
                "files_delivered": 6,
                "checkpoint_since": NOW,
            },
        ),
        (
            ev.Delivered(at=NOW, key=FINAL.key, sha256="ab"),
            {
                "outstanding": without(FINAL.key),
                "files_delivered": 6,
                "final_sha256": "ab",
                "checkpoint_since": NOW,
            },
        ),
        (
            ev.Delivered(at=NOW, key=FINAL.key, sha256="ab", not_taken="files"),
            {
                "outstanding": without(FINAL.key),
                "not_taken": ("step rows", "files"),
                "checkpoint_since": NOW,
            },
        ),
        (ev.Delivered(at=NOW, key="S/1/heartbeat"), {"heartbeat_since": NOW}),
    ],
)
def test_what_an_acknowledgement_leaves(event: ev.Event, changes: dict[str, Any]) -> None:
    """Its own delivery is settled and counted, by what the hub took of it; all else stays."""
    assert left(MEMORY, event) == changes


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((), (ONLINE,)),
        ((OFFLINE,), (ONLINE,)),
        ((OTHER, OFFLINE, FAILING, LIMITED, REJECTED), (OTHER, ONLINE)),
        ((Condition("online", NOW - 99, "the hub answers"), OFFLINE), (ONLINE,)),
        ((Condition("online", NOW - 99, "the hub answers"),), None),
        ((OTHER,), None),
    ],
)
def test_an_answer_disproves_every_trouble(
    before: tuple[Condition, ...], after: tuple[Condition, ...] | None
) -> None:
    """Whatever was in the way is over once the hub answers; what has nothing to do with it stays, and its time too."""
    found = left(change(MEMORY, conditions=before), ev.Delivered(at=NOW, key="S/1/nobody"))
    assert found == ({} if after is None else {"conditions": after})


# -- refusals and trouble ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "kept", "clock"),
    [
        (ROWS.key, (OLD,), {"metrics_since": NOW}),
        (FILE.key, (), {"checkpoint_since": NOW}),
        (FINAL.key, (OLD,), {"checkpoint_since": NOW}),
    ],
)
def test_what_a_refusal_leaves(key: str, kept: tuple[Refused, ...], clock: dict[str, float]) -> None:
    """It is remembered with its reason, time and status, once for each key, and moves the clock of its kind."""
    event = ev.Refused(at=NOW, key=key, reason="no", status=422)
    assert left(MEMORY, event) == {"refused": (*kept, Refused(key, "no", NOW, 422)), **clock}


@pytest.mark.parametrize(
    "event",
    [
        ev.Delivered(at=NOW, key="S/1/heartbeat"),
        ev.Refused(at=NOW, key="S/1/heartbeat", reason="no"),
        ev.HeldUp(at=NOW, key="S/1/heartbeat", condition="offline", reason="no route"),
    ],
)
def test_any_answer_ends_a_heartbeat(event: ev.Event) -> None:
    """However it was answered, a sign of life is over, and the next is due an interval later."""
    assert left(change(MEMORY, heartbeat_out=True), event) == {"heartbeat_out": False, "heartbeat_since": NOW}


def test_a_refused_opening_moves_no_clock() -> None:
    """An opening has no limit, and an answer to nobody's key is none."""
    memory = change(MEMORY, outstanding=(OPEN,), refused=())
    assert left(memory, ev.Refused(at=NOW, key=OPEN.key, reason="no")) == {
        "refused": (Refused(OPEN.key, "no", NOW),)
    }
    assert left(memory, ev.Refused(at=NOW, key=ROWS.key, reason="no")) == {}


@pytest.mark.parametrize(
    ("before", "condition", "after"),
    [
        ((ONLINE, OTHER), "offline", (OTHER, Condition("offline", NOW, "why", NOW + 5))),
        ((FAILING, OTHER), "offline", (OTHER, Condition("offline", NOW, "why", NOW + 5))),
        ((OFFLINE, LIMITED), "hub_failing", (LIMITED, Condition("hub_failing", NOW, "why", NOW + 5))),
        ((OFFLINE,), "offline", (Condition("offline", NOW - 30, "why", NOW + 5),)),
        ((OFFLINE,), "rate_limited", (OFFLINE, Condition("rate_limited_until", NOW, "why", NOW + 5))),
        ((LIMITED,), "rate_limited", (Condition("rate_limited_until", NOW - 10, "why", NOW + 5),)),
        (
            (OFFLINE,),
            "credentials_rejected",
            (OFFLINE, Condition("credentials_rejected", NOW, "why", NOW + 5)),
        ),
    ],
)
def test_what_trouble_leaves(
    before: tuple[Condition, ...], condition: str, after: tuple[Condition, ...]
) -> None:
    """Each trouble stands once, since it began, and takes the place of what it contradicts."""
    event = ev.HeldUp(at=NOW, key=ROWS.key, condition=condition, reason="why", until=NOW + 5)
    assert left(change(MEMORY, conditions=before), event) == {"conditions": after}


# -- wishes and news -----------------------------------------------------------------------------------------


def test_what_giving_up_leaves() -> None:
    """The rows that were asked for and never arrived are counted; nothing is out any more but the end."""
    memory = change(MEMORY, state=State.FINALIZING, outcome=Outcome.FINISHED)
    decision = decide(memory, ev.GiveUp(NOW, "gone"))
    assert left(memory, ev.GiveUp(NOW, "gone")) == {
        "state": State.ABORTED,
        "reason": "gone",
        "given_up": "gone",
        "rows_given_up": 4 + 4 + 3,
        "outstanding": decision.actions,
        "refused": (),
    }


NEWS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({"hub": "http://b"}, {}),
    ({"model": "M", "url": "http://m"}, {"model": "M", "url": "http://m"}),
    ({"metrics_interval": 9.0}, {"metrics_interval": 9.0}),
    ({"metrics_interval": -1.0}, {"metrics_interval": 0.0}),
    ({"checkpoint_interval": 60.0}, {"checkpoint_interval": 60.0}),
    ({"checkpoint_interval": -1.0}, {"checkpoint_interval": 0.0}),
    ({"heartbeat_interval": 60.0}, {"heartbeat_interval": 60.0}),
    ({"heartbeat_interval": 1.0}, {"heartbeat_interval": 5.0}),
]


@pytest.mark.parametrize(("said", "changes"), NEWS)
def test_what_news_leaves(said: dict[str, Any], changes: dict[str, Any]) -> None:
    """What a hub tells is remembered alone, an interval never below what it may be; the first hub stays the hub."""
    assert left(change(MEMORY, hub="http://a"), ev.Answered(at=NOW, **said)) == changes


def test_the_first_hub_that_answers_is_the_hub() -> None:
    """A session belongs to the first hub that acknowledged it."""
    assert left(MEMORY, ev.Answered(at=NOW, hub="http://b")) == {"hub": "http://b"}


# -- saves ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("unkept", "snapshot"), [("", "new-8"), ("torn", "")])
def test_what_a_save_leaves(unkept: str, snapshot: str) -> None:
    """A save is counted and remembered as it was said, with the snapshot that is kept of it, if one is."""
    memory = change(MEMORY, saves=2, attempt=3, best_fitness=0.5)
    event = ev.ModelSave(
        at=NOW, epoch=8, path="p", size=11, mtime_ns=7, fitness=0.9, snapshot="new-8", unkept=unkept
    )
    found = left(memory, event)
    assert found.pop("saved") == ev.Saved("p", 8, 11, 7, 3, snapshot)
    assert found.pop("saves") == 3
    kept = found.pop("kept_best", None)
    assert found == ({} if unkept else {"best_fitness": 0.9, "kept_at": NOW})
    if not unkept:
        assert (kept.kind, kept.epoch, kept.attempt, kept.snapshot) == (CheckpointKind.BEST, 8, 3, "new-8")
        assert (kept.size, kept.at, kept.fitness, kept.asked) == (11, NOW, 0.9, False)


FINAL_BEFORE = Kept(CheckpointKind.FINAL, 5, 2, "final-5", 80, NOW - 90)


@pytest.mark.parametrize(("attempt", "stays"), [(2, True), (3, False)])
def test_what_an_earlier_attempt_named_as_final_goes_with_the_next_checkpoint(
    attempt: int, stays: bool
) -> None:
    """This attempt's own checkpoint takes the place of an earlier attempt's final one, and of none of its own."""
    memory = change(MEMORY, attempt=attempt, kept_final=FINAL_BEFORE, best_fitness=0.5)
    save = ev.ModelSave(at=NOW, epoch=8, path="p", size=11, mtime_ns=7, fitness=0.9, snapshot="new-8")
    after = decide(memory, save).memory
    assert after.kept_final == (FINAL_BEFORE if stays else None)


# -- beginnings and ends -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("first_epoch", "epoch"), [(0, None), (5, 4)])
def test_what_an_opening_leaves(first_epoch: int, epoch: int | None) -> None:
    """A later attempt takes the wishes over as they were said, and begins behind its checkpoint, with no past of its own."""
    before = change(
        base(State.ABORTED),
        state=State.IDLE,
        stop="pressed",
        given_up="gone",
        heartbeat_out=True,
        kept_at=NOW - 60,
    )
    wish = ev.PretrainRoutineStart(
        at=NOW,
        name="pearls",
        first_epoch=first_epoch,
        epochs=9,
        hub=False,
        metrics_interval=1.0,
        checkpoint_interval=2.0,
        heartbeat_interval=30.0,
        checkpoints="best",
        usage=True,
    )
    decision = decide(before, wish)
    said = {"name": "pearls", "epochs": 9, "hub_wanted": False, "checkpoints": "best", "usage": True}
    limits = {"metrics_interval": 1.0, "checkpoint_interval": 2.0, "heartbeat_interval": 30.0}
    past = {"reason": "", "ended_at": None, "stop": None, "given_up": None, "kept_at": None}
    own = {"state": State.SESSION_CREATED, "attempt": 2, "opened_at": NOW, "outcome": Outcome.RUNNING}
    changes = left(before, wish)
    assert changes.pop("heartbeat_since") is None
    assert changes.pop("heartbeat_out") is False
    assert changes.pop("epoch") == epoch
    assert changes.pop("first_epoch", 0) == first_epoch
    assert changes == {**said, **limits, **past, **own, "outstanding": decision.actions}


def test_a_beginning_that_opens_nothing_leaves_nothing() -> None:
    """Where no session is opened, what was wished for it is not remembered."""
    wish = ev.PretrainRoutineStart(at=NOW, session="S", epochs=9, usage=True)
    assert adopt(Memory(), wish, State.IDLE, ()) == Memory()


def test_what_an_end_leaves() -> None:
    """The outcome and its time, and the file that the trainer named as final, as this attempt's, on its way."""
    memory = change(base(State.TRAINING), attempt=3)
    named = ev.Saved(path="best.pt", epoch=2, size=77, mtime_ns=5, attempt=1, snapshot="final-2")
    decision = decide(memory, ev.TrainEnd(at=NOW, outcome=Outcome.STOPPED, final=named))
    assert left(memory, decision.event) == {
        "state": State.FINALIZING,
        "outcome": Outcome.STOPPED,
        "ended_at": NOW,
        "kept_final": Kept(CheckpointKind.FINAL, 2, 3, "final-2", 77, NOW, asked=True),
        "outstanding": decision.actions,
    }


# -- wishes of a person, and signs of life -------------------------------------------------------------------


def test_the_first_wish_to_stop_is_the_one_that_counts() -> None:
    """Who asks twice is told the same: the reason of the first wish stays."""
    assert left(MEMORY, ev.StopRequested(NOW, "enough")) == {"stop": "enough"}
    assert left(change(MEMORY, stop="enough"), ev.StopRequested(NOW, "really")) == {}


def test_a_retry_frees_what_it_asks_for_again() -> None:
    """What leaves once more is refused no longer; a retry that asks for nothing frees nothing."""
    assert left(MEMORY, ev.RetryRefused(NOW)) == {"refused": ()}
    assert adopt(MEMORY, ev.RetryRefused(NOW), MEMORY.state, ()) == MEMORY


def test_a_sign_of_life_is_out_until_it_is_answered() -> None:
    """One sign of life at a time: that it left is remembered, and nothing else of it."""
    memory = change(MEMORY, heartbeat_since=NOW - 300)
    assert left(memory, ev.HeartbeatTick(NOW)) == {"heartbeat_out": True}
