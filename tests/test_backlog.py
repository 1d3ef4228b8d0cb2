"""What leaves from a process that trains: its own session first, then what older sessions of its folder still hold."""

from __future__ import annotations

import random
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from fakes import OFFLINE, FakeHub, train
from journals import DAMAGED

from hubstate import backlog as room
from hubstate import events as ev
from hubstate import journal
from hubstate.backlog import BETWEEN_LOOKS, LONGEST_TURN, LOOK_AGAIN, Backlog, Posting
from hubstate.clock import VirtualClock
from hubstate.errors import StorageError
from hubstate.hubs.base import Declined, Delayed, Parcel, Reply
from hubstate.opening import Opened, begin_attempt, create, peek, reopen
from hubstate.outbox import FILES, WORDS
from hubstate.sender import IDLE
from hubstate.states import State
from hubstate.sync import Remainder, has_undelivered

DIRECTORY = Path("sessions")


def left(session: str, clock: VirtualClock, *, rows: int = 2, hub: str | None = None) -> Path:
    """A session whose process is gone and which still holds everything."""
    opened = create(DIRECTORY, session, clock, lambda *_: None)
    train(opened.door)
    for epoch in range(rows):
        opened.door.tell(ev.FitEpochEnd, epoch, {"loss": 1.0})
    if hub is not None:
        opened.door.tell(ev.Answered, hub=hub)
    opened.door.tell(ev.TrainEnd)
    opened.close()
    return opened.folder


def run(backlog: Backlog, clock: VirtualClock, steps: int = 60) -> list[float]:
    """Steps a backlog until it wants to be left alone for long; the rests that it asked for."""
    rests = []
    for _ in range(steps):
        rests.append(backlog.step())
        if rests[-1] >= LOOK_AGAIN:
            break
        clock.advance(rests[-1])
    return rests


def backlog_for(hub: Any, clock: VirtualClock, mine: str = "") -> Backlog:
    return Backlog(DIRECTORY, mine, hub, clock, random.Random(1))


def state(folder: Path) -> State:
    return peek(folder).memory.state


def test_older_sessions_are_delivered_one_after_the_other() -> None:
    """Every older session ends done, the oldest first, and each is let go of afterwards."""
    clock, hub = VirtualClock(), FakeHub()
    folders = [left(name, clock) for name in ("S1", "S2", "S3")]
    run(backlog_for(hub, clock), clock)
    assert [state(folder) for folder in folders] == [State.DONE] * 3
    assert [peek(folder).owner for folder in folders] == [None] * 3
    assert [parcel.session for parcel in hub.requests] == sorted(parcel.session for parcel in hub.requests)


def test_the_session_that_trains_is_not_its_own_backlog() -> None:
    """The folder of the live session is never opened a second time."""
    clock, hub = VirtualClock(), FakeHub()
    mine = left("S1", clock)
    run(backlog_for(hub, clock, mine="S1"), clock)
    assert state(mine) is State.FINALIZING
    assert hub.requests == []


def test_a_session_of_a_living_process_is_left_to_it() -> None:
    """A session that somebody owns is passed over, and found again at a later look."""
    clock, hub = VirtualClock(), FakeHub()
    opened = create(DIRECTORY, "S1", clock, lambda *_: None)
    train(opened.door).tell(ev.TrainEnd)
    backlog = backlog_for(hub, clock)
    run(backlog, clock)
    assert hub.requests == []
    opened.close()
    run(backlog, clock)
    assert state(opened.folder) is State.DONE


def test_a_session_belongs_to_the_first_hub_that_acknowledged_it() -> None:
    """What another hub began to hold is not sent to this one."""
    clock, hub = VirtualClock(), FakeHub()
    elsewhere, here = left("S1", clock, hub="http://other.test"), left("S2", clock, hub=hub.address)
    run(backlog_for(hub, clock), clock)
    assert (state(elsewhere), state(here)) == (State.FINALIZING, State.DONE)


def test_a_session_that_waits_for_its_next_try_is_kept() -> None:
    """While a hub is away the backlog asks to be left alone until the next try is due, and loses nothing."""
    clock, hub = VirtualClock(), FakeHub()
    folder = left("S1", clock)
    hub.always = OFFLINE
    backlog = backlog_for(hub, clock)
    for _ in range(20):
        clock.advance(backlog.step())
    assert has_undelivered(peek(folder).memory)
    hub.always = None
    run(backlog, clock)
    assert state(folder) is State.DONE


def test_closing_lets_go_of_the_session_under_way() -> None:
    """After `close` another process may deliver what is left."""
    clock, hub = VirtualClock(), FakeHub()
    folder = left("S1", clock)
    backlog = backlog_for(hub, clock)
    backlog.step()
    assert peek(folder).owner is not None
    backlog.close()
    assert peek(folder).owner is None


@DAMAGED
def test_a_damaged_journal_stops_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    """A session that cannot be read is named in the log, and the next one is delivered."""
    clock, hub = VirtualClock(), FakeHub()
    damaged, whole = left("S1", clock), left("S2", clock)
    (damaged / "journal-000001.jsonl").write_text("garbage\n")
    run(backlog_for(hub, clock), clock)
    assert state(whole) is State.DONE
    assert "S1" in capsys.readouterr().err


def test_looking_takes_turns_with_training() -> None:
    """Between two looks into folders the thread rests, because a look wants the interpreter too."""
    clock, hub = VirtualClock(), FakeHub()
    for name in ("S1", "S2"):
        left(name, clock)
    backlog = backlog_for(hub, clock)
    run(backlog, clock)
    looks = run(backlog, clock)
    assert looks == [BETWEEN_LOOKS, BETWEEN_LOOKS, LOOK_AGAIN]


def reads(monkeypatch: Any) -> list[str]:
    """The sessions whose journal is read from now on, one by one."""
    read: list[str] = []

    def noting(folder: Path) -> Any:
        read.append(folder.name)
        return peek(folder)

    monkeypatch.setattr(room, "peek", noting)
    return read


def test_a_journal_that_told_of_nothing_is_not_read_again(monkeypatch: Any) -> None:
    """With a thousand old sessions a look costs a look at their folders: a journal is read when somebody wrote in it."""
    clock, hub = VirtualClock(), FakeHub()
    for name in ("S1", "S2"):
        left(name, clock)
    backlog = backlog_for(hub, clock)
    for _ in range(2):
        run(backlog, clock)
    read = reads(monkeypatch)
    assert run(backlog, clock) == [LOOK_AGAIN]
    assert read == []
    opened = reopen(DIRECTORY / "S2", clock, lambda *_: None)
    opened.door.tell(ev.StopRequested, "enough")
    opened.close()
    run(backlog, clock)
    assert read == ["S2"]


def test_what_a_living_process_owns_is_not_read(monkeypatch: Any) -> None:
    """A journal that somebody writes changes all the time; who owns it is asked first."""
    clock, hub = VirtualClock(), FakeHub()
    opened = create(DIRECTORY, "S1", clock, lambda *_: None)
    train(opened.door)
    read = reads(monkeypatch)
    assert run(backlog_for(hub, clock), clock) == [LOOK_AGAIN]
    assert read == []
    opened.close()


@pytest.mark.parametrize("refused", ["1/open", "1/rows/1-1"])
def test_what_a_hub_refused_of_one_session_holds_up_no_other(refused: str) -> None:
    """A session that waits for a retry is passed over, whatever stands behind what was refused."""
    clock, hub = VirtualClock(), FakeHub()
    first, second = left("S1", clock, rows=1), left("S2", clock)
    hub.script(f"S1/{refused}", Declined("too large", 413))
    run(backlog_for(hub, clock), clock)
    assert (state(first), state(second)) == (State.FINALIZING, State.DONE)
    assert peek(first).owner is None


class FailsAtOne(FakeHub):
    """A hub that fails at everything of one session."""

    def deliver(self, parcel: Parcel) -> Reply:
        if parcel.session == "S1":
            self.requests.append(parcel)
            return Delayed("hub_failing", "500", 500)
        return super().deliver(parcel)


def test_a_session_that_a_hub_fails_at_lets_the_next_one_try() -> None:
    """What is poison to a hub waits, and everything else leaves; nor is it forgotten."""
    clock, hub = VirtualClock(), FailsAtOne()
    first, others = left("S1", clock), [left("S2", clock), left("S3", clock)]
    backlog = backlog_for(hub, clock)
    for _ in range(200):
        clock.advance(backlog.step())
    assert [state(folder) for folder in (first, *others)] == [State.FINALIZING, State.DONE, State.DONE]
    assert peek(first).owner is not None, "it is tried on"
    assert hub.requests[-1].session == "S1"
    backlog.close()


def test_turns_grow_longer_while_nothing_leaves() -> None:
    """While a hub is away for days the changes of turn, each a segment of a journal, become rare."""
    clock, hub = VirtualClock(), FakeHub()
    hub.always = OFFLINE
    folders = [left("S1", clock), left("S2", clock)]
    backlog, begun = backlog_for(hub, clock), clock.monotonic()
    while clock.monotonic() < begun + 86_400.0:
        clock.advance(backlog.step())
    written = [len(segments(folder)) for folder in folders]
    assert min(written) > 5, "each has its turns"
    assert sum(written) < 40
    hub.always = None
    for _ in range(40):
        clock.advance(backlog.step())
    assert [state(folder) for folder in folders] == [State.DONE] * 2


def test_copies_that_a_death_left_behind_go() -> None:
    """Who dies between the last word and its sync leaves the copies; the next process of any training removes them."""
    clock, hub = VirtualClock(), FakeHub()
    folder = left("S1", clock)
    backlog = backlog_for(hub, clock)
    run(backlog, clock)
    (folder / "snapshots").mkdir()
    (folder / "snapshots" / "stray").touch()
    run(backlog, clock)
    assert list((folder / "snapshots").iterdir()) == []
    assert (state(folder), peek(folder).owner) == (State.DONE, None)


@pytest.mark.parametrize(
    ("failing", "error"),
    [
        ("step", StorageError),
        ("step", sqlite3.OperationalError),
        ("__init__", StorageError),
        ("__init__", sqlite3.OperationalError),
        ("close", StorageError),
    ],
)
def test_a_disk_that_fails_one_session_hinders_no_other(
    failing: str, error: type[Exception], monkeypatch: Any, capsys: Any
) -> None:
    """What this machine does to an older session is logged, the next one is delivered, and that one is tried again."""
    clock, hub = VirtualClock(), FakeHub()
    first, second = left("S1", clock), left("S2", clock)
    real = getattr(Remainder, failing)
    seen: list[Remainder] = []

    def once(remainder: Remainder, *arguments: Any) -> Any:
        fails, _ = not seen, seen.append(remainder)
        if not fails or failing != "__init__":
            result = real(remainder, *arguments)
        if fails:
            raise error("Input/output error")
        return result

    monkeypatch.setattr(Remainder, failing, once)
    backlog = backlog_for(hub, clock)
    run(backlog, clock)
    run(backlog, clock)
    assert state(second) is State.DONE
    assert len(segments(first)) < 5, "each try leaves a segment, so there are few"
    clock.advance(LONGEST_TURN)
    run(backlog, clock)
    assert state(first) is State.DONE
    assert [peek(folder).owner for folder in (first, second)] == [None] * 2
    assert "Input/output error" in capsys.readouterr().err


# -- beside a session that trains ------------------------------------------------------------------------------


def live(clock: VirtualClock) -> Opened:
    opened = create(DIRECTORY, "live", clock, lambda *_: None)
    train(opened.door)
    return opened


def test_the_live_session_goes_first() -> None:
    """On the files' lane the backlog has its turn only while the live session has nothing due; words stay its own."""
    clock, hub = VirtualClock(), FakeHub()
    older = left("S1", clock)
    opened = live(clock)
    posting = Posting(opened, hub, clock, random.Random(1), DIRECTORY)
    while posting.step(WORDS) == 0.0:
        pass
    assert {parcel.session for parcel in hub.requests} == {"live"}
    assert state(older) is State.FINALIZING
    for _ in range(30):
        clock.advance(posting.step(FILES))
    assert state(older) is State.DONE
    posting.close()
    assert hub.closed
    opened.close()


def test_letting_go_lets_go_of_everything(monkeypatch: Any) -> None:
    """Whatever fails while a process lets go, the hub's connections and the older session's lock are let go of."""
    clock, hub = VirtualClock(), FakeHub()
    older = left("S1", clock)
    opened = live(clock)
    posting = Posting(opened, hub, clock, random.Random(1), DIRECTORY)
    while posting.step(FILES) == 0.0 and peek(older).owner is None:
        pass
    assert peek(older).owner is not None

    def fails(_fd: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(journal.os, "fsync", fails)
        posting.close()
    assert hub.closed
    assert peek(older).owner is None
    opened.close()


def test_without_a_hub_nothing_is_due() -> None:
    """A session without a hub asks its threads for nothing: they look after the journal by themselves."""
    clock = VirtualClock()
    opened = live(clock)
    posting = Posting(opened, None, clock, random.Random(1), DIRECTORY)
    assert (posting.step(WORDS), posting.step(FILES), posting.moved) == (IDLE, IDLE, 0)
    posting.close()
    opened.close()


def test_a_new_process_tries_at_once() -> None:
    """A back-off that an earlier process drew does not hold up the one that came after it."""
    clock, hub = VirtualClock(), FakeHub()
    hub.always = OFFLINE
    opened = create(DIRECTORY, "S1", clock, lambda *_: None)
    train(opened.door).tell(ev.TrainEnd)
    for asked_anew in (False, True):
        posting = Posting(opened, hub, clock, random.Random(1), DIRECTORY)
        requests = len(hub.requests)
        while posting.step(WORDS) == 0:
            pass
        assert len(hub.requests) > requests, f"no try, asked anew: {asked_anew}"
        posting.close()
    opened.close()


# -- closed segments of the journal ----------------------------------------------------------------------------


def segments(folder: Path) -> list[str]:
    return sorted(file.name.removeprefix("journal-00000") for file in folder.glob("journal-*"))


@pytest.mark.parametrize("hub", [FakeHub(), None], ids=["hub", "no hub"])
def test_closed_segments_are_compressed_by_the_thread_of_the_files(
    hub: FakeHub | None, monkeypatch: Any
) -> None:
    """Those that an earlier process left and those that fill up are packed, behind what is due, and read as before."""
    clock = VirtualClock()
    live(clock).close()
    opened = begin_attempt(DIRECTORY / "live", clock, lambda *_: None)
    posting = Posting(opened, hub, clock, random.Random(1), DIRECTORY)
    posting.step(WORDS)
    assert segments(opened.folder) == ["1.jsonl", "2.jsonl"]
    posting.step(FILES)
    assert segments(opened.folder) == ["1.jsonl.gz", "2.jsonl"]
    monkeypatch.setattr(journal, "SEGMENT_BYTES", 1)
    train(opened.door)
    assert segments(opened.folder) == ["1.jsonl.gz", "2.jsonl", "3.jsonl", "4.jsonl", "5.jsonl"]
    while posting.step(FILES) == 0.0:
        pass
    assert segments(opened.folder) == ["1.jsonl.gz", "2.jsonl.gz", "3.jsonl.gz", "4.jsonl.gz", "5.jsonl"]
    posting.close()
    opened.close()
    assert journal.recover(opened.folder).memory == opened.door.memory
    assert journal.recover(opened.folder).damages == ()


def test_a_segment_that_cannot_be_compressed_is_logged_once(monkeypatch: Any, capsys: Any) -> None:
    """A full disk leaves the closed segment as it is, says so once and not at every look, and stops nothing."""

    def fails(_folder: Path, _current: int) -> None:
        raise StorageError("cannot compress journal-000001.jsonl: No space left on device")

    clock = VirtualClock()
    live(clock).close()
    opened = begin_attempt(DIRECTORY / "live", clock, lambda *_: None)
    posting = Posting(opened, None, clock, random.Random(1), DIRECTORY)
    monkeypatch.setattr(room, "compress_closed", fails)
    assert [posting.step(FILES) for _ in range(3)] == [IDLE] * 3
    assert capsys.readouterr().err.count("hubstate.journal_not_compressed") == 1
    assert segments(opened.folder) == ["1.jsonl", "2.jsonl"]
    posting.close()
    opened.close()


def test_a_copy_beside_a_journal_does_not_hide_that_it_grew() -> None:
    """What is read again is told by the newest segment, plain or packed, whatever else lies beside it."""
    clock = VirtualClock()
    folder = left("older", clock)
    (folder / "journal-000009.jsonl.bak").write_bytes(b"a copy")
    ends = [room._end_of(folder)]
    opened = reopen(folder, clock, lambda *_: None)
    ends.append(room._end_of(folder))
    opened.door.tell(ev.Answered, url="http://hub.test/later")
    ends.append(room._end_of(folder))
    opened.close()
    journal.compress_closed(folder, 3)
    ends.append(room._end_of(folder))
    assert len(set(ends)) == len(ends), ends
