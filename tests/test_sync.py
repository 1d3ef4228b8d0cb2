"""Delivering without training: a session whose process is gone is stepped until nothing waits, or nothing moves."""

from __future__ import annotations

import os
import random
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakes import OFFLINE, FakeHub, lost, save, train

from hubstate import events as ev
from hubstate import journal
from hubstate import sync as room
from hubstate.actions import (
    AnyAction,
    CloseSession,
    Heartbeat,
    Memory,
    OpenSession,
    Refused,
    SendRows,
)
from hubstate.clock import VirtualClock
from hubstate.door import Door
from hubstate.errors import SessionBusy, StorageError
from hubstate.hubs.base import Declined, Delayed
from hubstate.opening import Opened, begin_attempt, create, peek
from hubstate.outbox import Outbox
from hubstate.receipt import Receipt
from hubstate.states import Outcome, State
from hubstate.sync import Remainder, deliver, has_undelivered, tidy

DIRECTORY = Path("sessions")


def begun(clock: VirtualClock) -> Opened:
    opened = create(DIRECTORY, "S", clock, lambda *_: None)
    train(opened.door)
    return opened


def rows(door: Door, count: int) -> None:
    for epoch in range(count):
        door.tell(ev.FitEpochEnd, epoch, {"loss": 1.0})


def left(clock: VirtualClock, end: Callable[[Door], object]) -> Path:
    """A session with three rows and a checkpoint, ended by `end`, whose process is gone."""
    opened = begun(clock)
    rows(opened.door, 3)
    save(opened.door, opened.folder / "snapshots", "weights", epoch=2, fitness=0.5)
    end(opened.door)
    opened.close()
    return opened.folder


def finished(door: Door) -> object:
    return door.tell(ev.TrainEnd)


def aborted(door: Door) -> object:
    return door.tell(ev.Abort, outcome=Outcome.FAILED, reason="out of memory")


def killed(_door: Door) -> object:
    """No word at all."""
    return None


def synced(folder: Path, hub: FakeHub, clock: VirtualClock, **options: object) -> tuple[Memory, Receipt]:
    remainder = Remainder(folder, hub, clock, random.Random(1))
    try:
        receipt = deliver(remainder, clock, **options)  # type: ignore[arg-type]
        return remainder.memory, receipt
    finally:
        remainder.close()


@pytest.mark.parametrize(
    ("end", "state", "outcome"),
    [
        (finished, State.DONE, Outcome.FINISHED),
        (aborted, State.ABORTED, Outcome.FAILED),
        (killed, State.TRAINING, Outcome.RUNNING),
    ],
)
def test_what_waits_is_delivered_whatever_the_end_was(
    end: Callable[[Door], object], state: State, outcome: Outcome
) -> None:
    """Rows, checkpoint and words arrive once each, and the state is what the session's own words make it."""
    clock, hub = VirtualClock(), FakeHub()
    folder = left(clock, end)
    clock.advance(1000)
    memory, receipt = synced(folder, hub, clock)
    assert (memory.state, memory.outcome) == (state, outcome)
    assert (receipt.waiting, receipt.rows_delivered) == (0, 3)
    assert sorted(hub.rows) == [1, 2, 3]
    assert hub.contradictions == []


def test_nobody_who_only_delivers_sends_signs_of_life() -> None:
    """No heartbeat leaves for a training that nobody runs."""
    clock, hub = VirtualClock(), FakeHub()
    folder = left(clock, killed)
    clock.advance(10_000)
    synced(folder, hub, clock)
    assert not any(isinstance(parcel.action, Heartbeat) for parcel in hub.requests)


def test_it_ends_while_nothing_moves() -> None:
    """With the hub away it gives up after its patience, and everything is still there."""
    clock, hub = VirtualClock(), FakeHub()
    folder = left(clock, finished)
    hub.always = OFFLINE
    before = clock.monotonic()
    memory, receipt = synced(folder, hub, clock, patience=10.0)
    assert 10.0 <= clock.monotonic() - before <= 11.0
    assert (memory.state, receipt.rows_waiting) == (State.FINALIZING, 3)
    hub.always = None
    assert synced(folder, hub, clock)[0].state is State.DONE


def test_it_may_be_repeated() -> None:
    """Syncing a session that was delivered asks nothing of a hub."""
    clock, hub = VirtualClock(), FakeHub()
    folder = left(clock, finished)
    synced(folder, hub, clock)
    asked = len(hub.requests)
    assert synced(folder, hub, clock)[0].state is State.DONE
    assert len(hub.requests) == asked


@pytest.mark.promise("D24")
def test_an_answer_that_got_lost_doubles_nothing() -> None:
    """Each delivery whose answer was lost is repeated under its key, and the hub holds everything once."""
    clock, hub = VirtualClock(), FakeHub()
    folder = left(clock, finished)
    for action in peek(folder).memory.outstanding:
        hub.script(action.key, lost)
    memory, _ = synced(folder, hub, clock)
    assert memory.state is State.DONE
    assert sorted(hub.rows) == [1, 2, 3]
    assert hub.contradictions == []


def test_what_the_hub_refuses_is_kept_and_can_be_retried() -> None:
    """A refused delivery keeps the session finalizing; after a retry it can be done."""
    clock, hub = VirtualClock(), FakeHub()
    folder = left(clock, finished)
    key = next(action.key for action in peek(folder).memory.outstanding if "/rows/" in action.key)
    hub.script(key, Declined("too large", 413))
    before = clock.monotonic()
    memory, receipt = synced(folder, hub, clock)
    assert (memory.state, receipt.refused, receipt.waiting) == (State.FINALIZING, 1, 1)
    assert clock.monotonic() == before, "it waited for a closing that cannot leave before the retry"
    remainder = Remainder(folder, hub, clock, random.Random(1))
    remainder.retry_refused()
    deliver(remainder, clock)
    assert remainder.memory.state is State.DONE
    remainder.close()


OPEN = OpenSession("open", 1, session="S", name="digits")
ROWS = SendRows("rows", 1, first=1, last=3)
CLOSE = CloseSession("close", 1, outcome=Outcome.FINISHED, rows=3)


@pytest.mark.parametrize(
    ("state", "outstanding", "refused", "expected"),
    [
        (State.FINALIZING, (OPEN, ROWS, CLOSE), (), True),
        (State.FINALIZING, (CLOSE,), (), True),
        (State.FINALIZING, (ROWS, CLOSE), ("rows",), False),
        (State.FINALIZING, (OPEN, ROWS, CLOSE), ("rows",), True),
        (State.TRAINING, (OPEN, ROWS), ("open",), False),
        (State.TRAINING, (ROWS, OPEN), ("open",), True),
        (State.DONE, (), (), False),
    ],
)
def test_what_stands_behind_a_refusal_cannot_leave(
    state: State, outstanding: tuple[AnyAction, ...], refused: tuple[str, ...], expected: bool
) -> None:
    """Behind a refused opening nothing leaves, and a closing follows everything; any other refusal is overtaken."""
    known = tuple(Refused(key, "too large", 0.0) for key in refused)
    memory = Memory(state=state, outstanding=outstanding, refused=known, rows=3, rows_asked=3)
    assert has_undelivered(memory) is expected


@pytest.mark.parametrize(
    ("state", "expected"),
    [(State.SESSION_CREATED, True), (State.TIMING, True), (State.TRAINING, True), (State.ABORTED, False)],
)
def test_rows_that_nobody_asked_for_leave_while_a_training_is_not_over(
    state: State, *, expected: bool
) -> None:
    """Time alone asks for rows until somebody says that the training is over; that word asks for all of them."""
    assert has_undelivered(Memory(state=state, rows=3, rows_asked=2)) is expected


@pytest.mark.parametrize("words", [(), (ev.PretrainRoutineEnd,)])
def test_rows_leave_whose_next_attempt_died_before_it_trained(words: tuple[type[ev.Event], ...]) -> None:
    """Killed while it loads its data, the attempt that went on asks for nothing; what the one before logged leaves."""
    clock, hub = VirtualClock(), FakeHub()
    folder = left(clock, killed)
    second = begin_attempt(folder, clock, lambda *_: None)
    second.door.tell(ev.PretrainRoutineStart, session="S", name="small", hub=True, first_epoch=3)
    for word in words:
        second.door.tell(word)
    assert second.door.memory.rows > second.door.memory.rows_asked
    second.close()
    memory, receipt = synced(folder, hub, clock)
    assert (receipt.rows_delivered, receipt.waiting, memory.attempt) == (3, 0, 2)
    assert sorted(hub.rows) == [1, 2, 3]


@pytest.mark.parametrize("interval", [30.0, 600.0])
def test_rows_that_are_due_later_are_waited_for(interval: float) -> None:
    """One call delivers everything, also where the limit of the rows is longer than its patience with a hub."""
    clock, hub = VirtualClock(), FakeHub()
    opened = create(DIRECTORY, "S", clock, lambda *_: None)
    train(opened.door, metrics_interval=interval)
    rows(opened.door, 1)
    clock.advance(interval)
    rows(opened.door, 2)
    clock.advance(1.0)
    rows(opened.door, 1)
    opened.close()
    memory, receipt = synced(opened.folder, hub, clock, patience=5.0)
    assert (receipt.rows_delivered, receipt.waiting, memory.state) == (4, 0, State.TRAINING)
    assert sorted(hub.rows) == [1, 2, 3, 4]


def test_closed_segments_are_compressed_behind_the_delivery() -> None:
    """What `hubstate sync` leaves of a journal is packed, but for the segment that it wrote itself."""
    clock, hub = VirtualClock(), FakeHub()
    folder = left(clock, finished)
    synced(folder, hub, clock)
    assert sorted(file.name for file in folder.glob("journal-*")) == [
        "journal-000001.jsonl.gz",
        "journal-000002.jsonl",
    ]


def test_a_segment_that_cannot_be_compressed_is_logged(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """A full disk hinders no delivery: the closed segment stays as it is."""

    def fails(_folder: Path, _current: int) -> None:
        raise StorageError("cannot compress it: No space left on device")

    monkeypatch.setattr(room, "compress_closed", fails)
    clock, hub = VirtualClock(), FakeHub()
    assert synced(left(clock, finished), hub, clock)[0].state is State.DONE
    assert "hubstate.journal_not_compressed" in capsys.readouterr().err


@pytest.mark.parametrize("broken", ["outbox", "hurry"])
def test_a_session_whose_outbox_cannot_be_had_is_let_go_of(
    broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where SQLite finds no room nothing stays owned: the next try may find some."""
    clock, hub = VirtualClock(), FakeHub()
    folder = left(clock, finished)

    def full(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(Opened if broken == "outbox" else Outbox, broken, full)
        with pytest.raises(sqlite3.OperationalError):
            Remainder(folder, hub, clock, random.Random(1))
    assert peek(folder).owner is None
    assert synced(folder, hub, clock)[0].state is State.DONE


def test_what_was_heard_is_written_before_a_delivery_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a full disk what the hub acknowledged is only in memory: it is waited for a place to write it to."""
    clock, hub = VirtualClock(), FakeHub()
    folder = left(clock, finished)
    write, full = os.write, [False]

    def some(fd: int, data: bytes) -> int:
        return write(fd, data[:10] if full[0] else data)

    monkeypatch.setattr(journal.os, "write", some)
    hub.meanwhile = lambda parcel: full.__setitem__(0, isinstance(parcel.action, CloseSession))
    begun = clock.monotonic()

    def show(_memory: Memory) -> None:
        if clock.monotonic() >= begun + 7.0:
            full[0] = False

    synced(folder, hub, clock, show=show)
    assert peek(folder).memory.state is State.DONE
    assert 7.0 <= clock.monotonic() - begun <= 12.0


def test_what_a_death_left_behind_is_tidied_up() -> None:
    """Copies that whoever died had no time to remove go, and nothing else changes."""
    clock, hub = VirtualClock(), FakeHub()
    folder = left(clock, finished)
    memory, _ = synced(folder, hub, clock)
    (folder / "snapshots" / "stray").touch()
    tidy(folder, clock)
    assert list((folder / "snapshots").iterdir()) == []
    assert peek(folder).memory == memory
    assert peek(folder).owner is None


def test_a_wait_that_the_hub_asked_for_is_not_cut_short() -> None:
    """`Retry-After` holds for whoever syncs: the request does not leave before its time."""
    clock, hub = VirtualClock(), FakeHub()
    folder = left(clock, finished)
    opening = next(action.key for action in peek(folder).memory.outstanding if action.key.endswith("/open"))
    hub.script(opening, Delayed("rate_limited", "429", 429, retry_after=60.0))
    synced(folder, hub, clock, patience=5.0)
    assert len(hub.requests) == 1
    synced(folder, hub, clock, patience=5.0)
    assert len(hub.requests) == 1
    clock.advance(60)
    assert synced(folder, hub, clock)[0].state is State.DONE


def test_whoever_watches_sees_every_step() -> None:
    """`show` gets the memory as it is after each step, for a progress bar."""
    clock, hub = VirtualClock(), FakeHub()
    folder = left(clock, finished)
    seen: list[int] = []
    synced(folder, hub, clock, show=lambda memory: seen.append(memory.rows_delivered))
    assert seen[-1] == 3
    assert seen == sorted(seen)


def test_two_at_once_are_refused() -> None:
    """Two processes never deliver one session at the same time."""
    clock, hub = VirtualClock(), FakeHub()
    folder = left(clock, finished)
    first = Remainder(folder, hub, clock, random.Random(1))
    with pytest.raises(SessionBusy):
        Remainder(folder, hub, clock, random.Random(1))
    first.close()


def test_copies_that_were_delivered_are_removed() -> None:
    """Once the session is done its folder holds no copy of a checkpoint any more."""
    clock, hub = VirtualClock(), FakeHub()
    folder = left(clock, finished)
    assert list((folder / "snapshots").iterdir())
    synced(folder, hub, clock)
    assert list((folder / "snapshots").iterdir()) == []


@pytest.mark.parametrize(("end", "state"), [(finished, State.ABORTED), (aborted, State.ABORTED)])
def test_what_is_given_up_waits_no_more(end: Callable[[Door], object], state: State) -> None:
    """After giving up at most the word of the end is left to deliver, and the reason is remembered."""
    clock, hub = VirtualClock(), FakeHub()
    folder = left(clock, end)
    remainder = Remainder(folder, hub, clock, random.Random(1))
    remainder.give_up("the hub is gone for good")
    deliver(remainder, clock)
    assert remainder.memory.state is state
    assert remainder.memory.given_up == "the hub is gone for good"
    assert hub.rows == []
    assert not has_undelivered(remainder.memory)
    remainder.close()
