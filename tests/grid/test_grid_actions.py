"""What each action carries, field by field: a hub and a journal are told this and nothing else."""

from __future__ import annotations

import dataclasses

import pytest
from situations import ASKED, BEST, CLOSE, END, FILE, LAST, NOW, PLAIN, ROWS, SAVED, base, change, situation

from hubstate import events as ev
from hubstate.actions import (
    AnyAction,
    CloseSession,
    EndSession,
    Heartbeat,
    KeepCheckpoint,
    Kept,
    Memory,
    OpenSession,
    RecordUsage,
    SendCheckpoint,
    SendRows,
)
from hubstate.controller import decide
from hubstate.machine import TABLE, compiled, refused_exist
from hubstate.states import CheckpointKind, Outcome, State

TRAINING = base(State.TRAINING)

#: A memory in which every field that an action could take over differs from what it is without being said.
FULL = change(
    TRAINING,
    session="T",
    name="shells",
    attempt=3,
    outcome=Outcome.STOPPED,
    epoch=8,
    rows=9,
    rows_asked=6,
    rows_delivered=4,
    rows_not_taken=1,
    saves=5,
    usage=True,
    metrics_since=NOW - 3,
    checkpoint_since=NOW - 900,
    heartbeat_since=NOW - 300,
)

#: A checkpoint that the attempt before this one kept.
EARLIER = Kept(CheckpointKind.BEST, 6, 2, "best-6", 70, NOW - 80, 0.7)

SAVE = ev.ModelSave(at=NOW, epoch=8, path="last.pt", size=111, mtime_ns=7, fitness=0.9, snapshot="new-8")
WISH = ev.PretrainRoutineStart(
    at=NOW,
    session="ignored",
    name="pearls",
    first_epoch=4,
    epochs=20,
    project="sea",
    group="deep",
    tags=("blue", "cold"),
    config={"lr0": 0.01},
    mark="17",
)

CARRIED: dict[str, tuple[Memory, ev.Event, tuple[AnyAction, ...]]] = {
    "open": (
        Memory(session="T", name="shells", attempt=2),
        WISH,
        (
            OpenSession(
                "T/3/open",
                3,
                session="T",
                name="pearls",
                first_epoch=4,
                epochs=20,
                project="sea",
                group="deep",
                tags=("blue", "cold"),
                config={"lr0": 0.01},
                mark="17",
            ),
        ),
    ),
    "open without a new name": (
        Memory(session="T", name="shells", attempt=2),
        ev.PretrainRoutineStart(at=NOW),
        (OpenSession("T/3/open", 3, session="T", name="shells"),),
    ),
    "rows": (FULL, PLAIN["fit_epoch_end"], (SendRows("T/3/rows/7-10", 3, first=7, last=10),)),
    "rows by the clock": (FULL, PLAIN["tick"], (SendRows("T/3/rows/7-9", 3, first=7, last=9),)),
    "keep and send": (
        FULL,
        SAVE,
        (
            KeepCheckpoint("T/3/keep/6", 3, kind=CheckpointKind.BEST, epoch=8, snapshot="new-8", size=111),
            SendCheckpoint(
                "T/3/checkpoint/best/new-8",
                3,
                kind=CheckpointKind.BEST,
                epoch=8,
                snapshot="new-8",
                size=111,
                fitness=0.9,
            ),
        ),
    ),
    "a checkpoint of an earlier attempt by the clock": (
        change(FULL, rows_asked=9, kept_last=ASKED, kept_best=EARLIER),
        PLAIN["tick"],
        (
            SendCheckpoint(
                "T/3/checkpoint/best/best-6",
                2,
                kind=CheckpointKind.BEST,
                epoch=6,
                snapshot="best-6",
                size=70,
                fitness=0.7,
            ),
        ),
    ),
    "the end": (
        change(FULL, kept_best=EARLIER),
        ev.TrainEnd(at=NOW, outcome=Outcome.FINISHED),
        (
            SendRows("T/3/rows/7-9", 3, first=7, last=9),
            SendCheckpoint(
                "T/3/checkpoint/final/best-6",
                3,
                kind=CheckpointKind.FINAL,
                epoch=6,
                snapshot="best-6",
                size=70,
                fitness=0.7,
                closing=True,
            ),
            CloseSession("T/3/close", 3, outcome=Outcome.FINISHED, rows=9),
        ),
    ),
    "the end with a final": (
        change(FULL, rows_asked=9, kept_best=EARLIER),
        ev.TrainEnd(at=NOW, outcome=Outcome.STOPPED, final=SAVED),
        (
            SendCheckpoint(
                "T/3/checkpoint/final/final-2",
                3,
                kind=CheckpointKind.FINAL,
                epoch=2,
                snapshot="final-2",
                size=100,
                closing=True,
            ),
            CloseSession("T/3/close", 3, outcome=Outcome.STOPPED, rows=9),
        ),
    ),
    "an abort": (
        change(FULL, kept_best=EARLIER),
        ev.Abort(at=NOW, outcome=Outcome.INTERRUPTED, reason="Ctrl-C"),
        (
            SendRows("T/3/rows/7-9", 3, first=7, last=9),
            SendCheckpoint(
                "T/3/checkpoint/last/best-6",
                2,
                kind=CheckpointKind.LAST,
                epoch=6,
                snapshot="best-6",
                size=70,
                fitness=0.7,
                closing=True,
            ),
            EndSession("T/3/end", 3, outcome=Outcome.INTERRUPTED, reason="Ctrl-C", rows=9),
        ),
    ),
    "giving up": (
        change(FULL, state=State.FINALIZING, outstanding=(CLOSE,)),
        ev.GiveUp(NOW, "the hub is gone"),
        (EndSession("T/3/end", 3, outcome=Outcome.STOPPED, reason="the hub is gone", rows=9),),
    ),
    "a heartbeat": (
        FULL,
        PLAIN["heartbeat_tick"],
        (Heartbeat("T/3/heartbeat", 3, state=State.TRAINING, outcome=Outcome.STOPPED, epoch=8, waiting=4),),
    ),
    "usage": (
        FULL,
        ev.ValStart(12.34567),
        (RecordUsage("T/3/usage/val_start/12.346", 3, what="val_start"),),
    ),
}


@pytest.mark.parametrize("what", CARRIED)
def test_what_an_action_carries(what: str) -> None:
    """Each action carries its key, its attempt and its fields as the memory and the event have them."""
    memory, event, actions = CARRIED[what]
    assert decide(memory, event).actions == actions


def test_every_kind_of_action_is_looked_at() -> None:
    """No kind of action that a row of the table names is left out above."""
    named = {kind for rule in TABLE for kind in rule.actions}
    looked_at = {type(action) for _, _, actions in CARRIED.values() for action in actions}
    assert {kind for kind in named if kind.__subclasses__() == []} == looked_at


# -- which checkpoint ------------------------------------------------------------------------------------------


def kept(kind: CheckpointKind, attempt: int, at: float, **fields: bool) -> Kept:
    return Kept(kind, 1, attempt, f"{kind.value}-{attempt}-{at:.0f}", 10, at, **fields)


LATER_LAST = kept(CheckpointKind.LAST, 2, 50.0)
LATER_BEST = kept(CheckpointKind.BEST, 2, 50.0)
EARLY_LAST = kept(CheckpointKind.LAST, 1, 90.0)
EARLY_BEST = kept(CheckpointKind.BEST, 1, 90.0)
FINAL = kept(CheckpointKind.FINAL, 2, 40.0)


@pytest.mark.parametrize(
    ("last", "best", "snapshot"),
    [
        (LATER_LAST, EARLY_BEST, EARLY_BEST.snapshot),
        (EARLY_LAST, LATER_BEST, EARLY_LAST.snapshot),
        (kept(CheckpointKind.LAST, 2, 51.0), LATER_BEST, LATER_BEST.snapshot),
        (LATER_LAST, kept(CheckpointKind.BEST, 2, 51.0), LATER_LAST.snapshot),
    ],
)
def test_what_waits_longest_leaves_first(last: Kept, best: Kept, snapshot: str) -> None:
    """By the clock the one of the earlier attempt leaves, and within an attempt the one that was kept earlier."""
    memory = change(TRAINING, attempt=2, checkpoint_since=NOW - 900, kept_last=last, kept_best=best)
    (sent,) = decide(memory, PLAIN["tick"]).actions
    assert isinstance(sent, SendCheckpoint)
    assert sent.snapshot == snapshot


@pytest.mark.parametrize(
    ("fields", "snapshot"),
    [
        ({"kept_last": LATER_LAST, "kept_best": EARLY_BEST}, LATER_LAST.snapshot),
        ({"kept_last": EARLY_LAST, "kept_best": LATER_BEST}, LATER_BEST.snapshot),
        ({"kept_last": LATER_LAST, "kept_best": LATER_BEST}, LATER_LAST.snapshot),
        ({"kept_last": LATER_LAST, "kept_best": kept(CheckpointKind.BEST, 2, 51.0)}, "best-2-51"),
        ({"kept_last": EARLY_LAST, "kept_final": FINAL}, FINAL.snapshot),
        ({"kept_best": LATER_BEST}, LATER_BEST.snapshot),
        ({"kept_last": kept(CheckpointKind.LAST, 2, 60.0, asked=True), "kept_best": LATER_BEST}, None),
        ({"kept_last": EARLY_LAST, "kept_best": kept(CheckpointKind.BEST, 2, 60.0, asked=True)}, "best-2-60"),
        ({}, None),
        ({"kept_last": LATER_LAST, "checkpoints": "none"}, None),
    ],
)
def test_an_abort_sends_the_newest(fields: dict[str, object], snapshot: str | None) -> None:
    """The newest by attempt and then by time leaves as `last`, a last before a best of the same moment, and only once."""
    actions = decide(change(TRAINING, attempt=2, **fields), PLAIN["abort"]).actions
    sent = [action for action in actions if isinstance(action, SendCheckpoint)]
    assert [(one.snapshot, one.kind) for one in sent] == (
        [(snapshot, CheckpointKind.LAST)] if snapshot else []
    )


@pytest.mark.parametrize(
    ("fields", "snapshot"),
    [
        ({"kept_final": FINAL, "kept_best": BEST, "kept_last": LAST}, FINAL.snapshot),
        ({"kept_best": BEST, "kept_last": LAST}, BEST.snapshot),
        ({"kept_last": LAST}, LAST.snapshot),
        ({}, None),
        ({"kept_last": LAST, "checkpoints": "none"}, None),
    ],
)
def test_the_final_is_the_named_one_or_the_best_or_the_last(
    fields: dict[str, object], snapshot: str | None
) -> None:
    """Where the trainer names none at its end, the final kept before is sent, else the best, else the newest."""
    unkept = ev.Saved(path="best.pt", epoch=2, size=100, mtime_ns=5, attempt=1)
    for event in (ev.TrainEnd(at=NOW), ev.TrainEnd(at=NOW, final=unkept)):
        actions = decide(change(TRAINING, **fields), event).actions
        sent = [action.snapshot for action in actions if isinstance(action, SendCheckpoint)]
        assert sent == ([snapshot] if snapshot else [])


def test_what_is_named_as_final_leaves_at_the_end() -> None:
    """A save that the trainer calls final is kept at once and sent with the end, however long no checkpoint left."""
    event = ev.ModelSave(
        at=NOW, epoch=8, path="f.pt", size=5, mtime_ns=7, snapshot="f-8", kind=CheckpointKind.FINAL
    )
    decision = decide(FULL, event)
    assert [type(action) for action in decision.actions] == [KeepCheckpoint]
    ended = decide(decision.memory, ev.TrainEnd(at=NOW))
    assert [action.snapshot for action in ended.actions if isinstance(action, SendCheckpoint)] == ["f-8"]


# -- what is asked again, and what is told of a step -----------------------------------------------------------


def test_only_what_is_refused_is_asked_again() -> None:
    """A retry asks for the refused deliveries in the order in which they were asked for, and for no other."""
    memory, event = situation(State.TRAINING, "retry_refused", "two refused")
    memory = change(memory, outstanding=(END, FILE, ROWS, CLOSE))
    assert decide(memory, event).actions == (FILE, ROWS)


@pytest.mark.parametrize("key", ["S/1/heartbeat", ROWS.key])
def test_an_answer_to_a_heartbeat_is_not_written(key: str) -> None:
    """An answer is written, but for one to a sign of life."""
    decision = decide(change(TRAINING, outstanding=(ROWS,)), ev.Delivered(at=NOW, key=key, rows=4))
    assert decision.journalled is (key == ROWS.key)


def test_a_refusal_tells_all_of_itself() -> None:
    """Whoever is refused is told the state, the event by its name, the reason and whether it was a mistake."""
    memory, event = situation(State.TRAINING, "train_start", "plain")
    decision = decide(memory, event)
    refusal = decision.refusal
    assert refusal is not None
    assert (refusal.state, refusal.event) == (State.TRAINING, "train_start")
    assert (refusal.reason, refusal.illegal) == ("train_start is illegal while training", True)
    assert refusal.legal[:2] == ("fit_epoch_end", "train_batch_end")
    assert (decision.event, decision.guards, decision.journalled) == (event, {}, True)
    assert (decision.memory, decision.actions) == (memory, ())


def test_what_is_held_back_tells_all_of_itself() -> None:
    """A step that a guard held back gives the event, what the guards answered, and the words of each that said no."""
    memory, event = situation(State.TRAINING, "model_save", "worse")
    decision = decide(memory, event)
    refusal = decision.refusal
    assert refusal is not None
    assert (refusal.state, refusal.event, refusal.illegal) == (State.TRAINING, "model_save", False)
    assert refusal.reason == "not strictly better, and not yet: 840 s left of 900 s"
    assert (decision.event, decision.guards, decision.journalled) == (event, {"keep_due": False}, True)
    assert decision.memory.saves == memory.saves + 1


def test_a_refusal_speaks_of_the_table_that_decided() -> None:
    """Who decides by another table hears what is legal there, and the words of its guards and not the machine's."""
    only = compiled([dataclasses.replace(TABLE[0], guards=(refused_exist,))])
    held_back = decide(Memory(), WISH, only).refusal
    assert held_back is not None
    assert held_back.reason == "nothing is refused"
    illegal = decide(Memory(), PLAIN["train_start"], only).refusal
    assert illegal is not None
    assert illegal.legal == ("pretrain_routine_start",)
