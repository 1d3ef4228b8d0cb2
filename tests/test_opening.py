"""Opening: a session is owned, recovered and given a door, and found again by id or by name."""

from __future__ import annotations

import os
import random
import stat

import pytest
from fakes import train
from hypothesis import given
from hypothesis import strategies as st
from journals import DAMAGED

from hubstate import events as ev
from hubstate import journal
from hubstate import opening as room
from hubstate.actions import Kept, Memory, SendCheckpoint
from hubstate.clock import VirtualClock
from hubstate.errors import JournalDamaged, SessionBusy, SessionNotFound, StorageError
from hubstate.opening import (
    Opened,
    begin_attempt,
    create,
    find,
    leftovers,
    needed_snapshots,
    new_id,
    peek,
    reopen,
)
from hubstate.ownership import owner_of
from hubstate.states import CheckpointKind, Outcome, State

CHANCE = random.Random(7)
FIRST, SECOND = (new_id(1000.0 + n, random.Random(n)) for n in range(2))


@pytest.fixture
def clock():
    return VirtualClock()


def deaf(_before, _decision):
    """Hears nothing."""


def made(directory, session, clock, name="digits") -> Opened:
    opened = create(directory, session, clock, deaf)
    opened.door.tell(ev.PretrainRoutineStart, session=session, name=name)
    return opened


# -- ids -------------------------------------------------------------------------------------------------


@given(first=st.floats(0, 2e11), later=st.floats(0.002, 1e6), seed=st.integers(0, 99))
def test_ids_sort_by_time(first, later, seed):
    """An id is 26 letters that can be read aloud; a later one sorts behind an earlier one, whatever chance says."""
    chance = random.Random(seed)
    one, two = new_id(first, chance), new_id(first + later, chance)
    assert one < two or first + later >= 2**48 / 1000
    assert all(room.is_id(text) for text in (one, two, one.lower()))
    assert one != new_id(first, chance)


def test_what_is_no_id():
    """Names are told from ids: too short, too long, or with letters that no id has."""
    assert not any(room.is_id(text) for text in ("digits", FIRST[:-1], FIRST + "0", "I" * 26, ""))


def test_an_id_holds_its_time():
    """The first ten letters are the milliseconds since 1970, so that a session's age can be read from its name."""
    letters = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
    number = 0
    for letter in new_id(1_800_000_000.123, CHANCE)[:10]:
        number = number * 32 + letters.index(letter)
    assert number == 1_800_000_000_123


# -- opening ---------------------------------------------------------------------------------------------


def test_a_new_session_has_a_folder_of_its_own(tmp_path, clock):
    """It is owned, nobody else on the machine can read it, and no repository takes it in."""
    opened = create(tmp_path / "deep" / "runs", FIRST, clock, deaf)
    assert opened.folder == tmp_path / "deep" / "runs" / FIRST
    assert stat.S_IMODE(opened.folder.stat().st_mode) == 0o700
    assert (tmp_path / "deep" / "runs" / ".gitignore").read_text() == "*\n"
    assert (owner_of(opened.folder), opened.door.memory.session) == (os.getpid(), FIRST)
    outbox = opened.outbox()
    outbox.ingest()
    assert outbox.count() == (0, 0)
    outbox.close()
    opened.close()
    assert owner_of(opened.folder) is None


def test_a_directory_that_was_there_is_left_as_it_is(tmp_path, clock):
    """A `.gitignore` that a user wrote is theirs."""
    (tmp_path / ".gitignore").write_text("mine")
    create(tmp_path, FIRST, clock, deaf).close()
    assert (tmp_path / ".gitignore").read_text() == "mine"


def test_a_directory_that_cannot_be_used_is_named(tmp_path, clock):
    """The message says where sessions were to be kept, why not, and how to name another place."""
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"cannot be kept in .*file.*directory= or HUBSTATE_DIR"):
        create(tmp_path / "file", FIRST, clock, deaf)


@pytest.mark.parametrize("way", [reopen, begin_attempt])
def test_one_process_opens_a_session_once(tmp_path, clock, way):
    """While it is open it is busy; closing gives it back as it was."""
    opened = made(tmp_path, FIRST, clock)
    with pytest.raises(SessionBusy):
        way(opened.folder, clock, deaf)
    opened.close()
    again = way(opened.folder, clock, deaf)
    assert again.door.memory.attempt == 1
    assert again.recovery.n == 1
    again.close()


def test_a_session_is_given_back_even_if_its_journal_fails_at_the_end(tmp_path, clock, monkeypatch):
    """A disk that fails at the last sync must not leave a session owned for ever."""
    opened = made(tmp_path, FIRST, clock)

    def fails(_fd):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(journal.os, "fsync", fails)
        with pytest.raises(StorageError, match="did not keep"):
            opened.close()
    assert owner_of(opened.folder) is None


@pytest.mark.parametrize("way", [reopen, begin_attempt])
@DAMAGED
def test_a_session_that_cannot_be_opened_is_not_owned(tmp_path, clock, way):
    """Whatever fails on the way, nobody is locked out by it."""
    opened = made(tmp_path, FIRST, clock)
    opened.close()
    for segment in opened.folder.glob("journal-*"):
        segment.write_bytes(b"nothing that could be read\n")
    with pytest.raises(JournalDamaged):
        way(opened.folder, clock, deaf)
    assert owner_of(opened.folder) is None


def test_a_new_session_that_cannot_begin_is_not_owned(tmp_path, clock, monkeypatch):
    """The same for a session that fails at its first line."""
    monkeypatch.setattr(journal.os, "write", lambda fd, data: 0)
    with pytest.raises(StorageError, match="cannot begin the journal"):
        create(tmp_path, FIRST, clock, deaf)
    assert owner_of(tmp_path / FIRST) is None


@pytest.mark.parametrize(
    ("last", "state"),
    [
        ([], State.IDLE),
        ([(ev.Abort, {"outcome": Outcome.FAILED, "reason": "r"})], State.IDLE),
        ([(ev.TrainEnd, {})], State.FINALIZING),
    ],
)
def test_the_next_attempt_is_a_fresh_machine_with_the_memory_kept(tmp_path, clock, last, state):
    """A session whose training is over opens as it is; every other one begins in idle, with what it remembers."""
    opened = create(tmp_path, FIRST, clock, deaf)
    train(opened.door)
    opened.door.tell(ev.FitEpochEnd, 0, {"loss": 1.0})
    for kind, fields in last:
        opened.door.tell(kind, **fields)
    left = opened.door.memory
    opened.close()
    again = begin_attempt(opened.folder, clock, deaf)
    assert again.door.memory.state is state
    assert (again.door.memory.rows, again.door.memory.outstanding) == (1, left.outstanding)
    if state is State.IDLE:
        again.door.tell(ev.PretrainRoutineStart, session=FIRST, name="digits")
        assert again.door.memory.attempt == 2
    again.close()


def test_an_attempt_that_never_began_leaves_the_session_as_it_was(tmp_path, clock):
    """A process that dies between opening and its first step changes nothing: what waits still leaves by itself."""
    opened = create(tmp_path, FIRST, clock, deaf)
    memory = train(opened.door).memory
    opened.close()
    begin_attempt(opened.folder, clock, deaf).close()
    assert peek(opened.folder).memory == memory


def test_reopening_changes_nothing(tmp_path, clock):
    """A session that is opened to be delivered is in the state that it was left in."""
    opened = create(tmp_path, FIRST, clock, deaf)
    memory = train(opened.door).memory
    opened.close()
    again = reopen(opened.folder, clock, deaf)
    assert again.door.memory == memory
    again.close()


# -- snapshots that are needed ---------------------------------------------------------------------------


def test_what_a_delivery_or_a_resumed_run_needs_is_kept(tmp_path, clock):
    """Opening removes the snapshots that nobody needs any more, and no other."""
    opened = create(tmp_path, FIRST, clock, deaf)
    train(opened.door)
    folder = opened.folder / "snapshots"
    folder.mkdir()
    for name in ("kept", "stray"):
        (folder / name).touch()
    opened.door.tell(ev.ModelSave, epoch=0, path="p", size=0, mtime_ns=1, snapshot="kept")
    opened.close()
    reopen(opened.folder, clock, deaf).close()
    assert [file.name for file in folder.iterdir()] == ["kept"]


def test_no_copy_goes_while_the_step_that_lets_it_go_is_only_in_memory(tmp_path, clock, monkeypatch):
    """On a full disk a process may die with what it remembers: the journal still names the copy, so the copy stays."""
    opened = made(tmp_path, FIRST, clock)
    copy = opened.snapshots.path("kept")
    copy.parent.mkdir()
    copy.touch()

    def full(_fd, _data):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(journal.os, "write", full)
        opened.door.tell(ev.StopRequested, "enough")
        opened.snapshots.put_off(("kept",))
        opened.sync()
        assert (copy.exists(), opened.door.unwritten) == (True, 1)
        opened.close()
    assert (copy.exists(), opened.door.unwritten) == (True, 1)
    again = reopen(opened.folder, clock, deaf)
    again.door.tell(ev.StopRequested, "enough")
    again.sync()
    again.close()
    assert not copy.exists()


def test_what_a_death_left_among_the_snapshots_is_known(tmp_path, clock):
    """What lies there and nobody needs is named, a half copy too; a folder that cannot be looked into is an error."""
    memory = Memory(state=State.TRAINING, kept_last=Kept(CheckpointKind.LAST, 1, 1, "last", 1, 0.0))
    assert leftovers(tmp_path, memory) == set()
    folder = tmp_path / "snapshots"
    folder.mkdir()
    for name in ("last", "older", ".half.part"):
        (folder / name).touch()
    assert leftovers(tmp_path, memory) == {"older", ".half.part"}
    assert leftovers(tmp_path, Memory(state=State.DONE)) == {"last", "older", ".half.part"}
    with pytest.raises(StorageError, match="cannot look into"):
        leftovers(folder / "last", memory)


def test_a_session_that_is_done_needs_no_snapshot():
    """After the last acknowledgement only what is still under way, which is nothing, is needed."""
    kept = Kept(CheckpointKind.LAST, 1, 1, "last", 1, 0.0)
    best = Kept(CheckpointKind.BEST, 1, 1, "best", 1, 0.0)
    send = SendCheckpoint("k", 1, kind=CheckpointKind.FINAL, epoch=1, snapshot="final", size=1)
    memory = Memory(state=State.FINALIZING, kept_last=kept, kept_best=best, outstanding=(send,))
    assert needed_snapshots(memory) == {"last", "best", "final"}
    assert needed_snapshots(Memory(state=State.DONE, kept_last=kept)) == set()


# -- finding ---------------------------------------------------------------------------------------------


def test_looking_at_a_session_does_not_disturb_it(tmp_path, clock):
    """Whoever looks sees the memory, the owner and how many lines are damaged, and takes nothing."""
    opened = made(tmp_path, FIRST, clock)
    seen = peek(opened.folder)
    assert (seen.memory, seen.owner, seen.damages) == (opened.door.memory, os.getpid(), 0)
    opened.close()
    assert peek(opened.folder).owner is None


@DAMAGED
def test_a_session_is_found_by_its_id_or_as_the_newest_of_its_name(tmp_path, clock):
    """An id may be typed in small letters; of one name the newest is meant, and a damaged one is passed by."""
    for session, name in ((FIRST, "digits"), (SECOND, "digits")):
        made(tmp_path, session, clock, name).close()
    newest = new_id(5000.0, CHANCE)
    made(tmp_path, newest, clock).close()
    next((tmp_path / newest).glob("journal-*")).write_bytes(b"damaged\n")
    made(tmp_path, new_id(6000.0, CHANCE), clock, "other").close()
    assert find(tmp_path, "digits") == tmp_path / SECOND
    assert find(tmp_path, FIRST.lower()) == tmp_path / FIRST
    for nobody in ("nobody", new_id(9000.0, CHANCE), "../" + FIRST):
        with pytest.raises(SessionNotFound, match=r"no session .* lies in .*hubstate status"):
            find(tmp_path, nobody)


def test_of_a_session_with_another_name_only_the_beginning_is_read(tmp_path, clock, monkeypatch):
    """Whoever begins a training waits for the search: a long journal of another name costs a few lines, and no more."""
    long = made(tmp_path, FIRST, clock, "other")
    long.door.tell(ev.PretrainRoutineEnd)
    long.door.tell(ev.TrainStart)
    for epoch in range(50):
        long.door.tell(ev.FitEpochEnd, epoch, {"loss": 1.0})
    long.close()
    made(tmp_path, SECOND, clock).close()
    read, lines, recovered = journal.read, [], []

    def counted(*arguments):
        for entry in read(*arguments):
            lines.append(entry)
            yield entry

    monkeypatch.setattr(room, "read", counted)
    monkeypatch.setattr(room, "recover", lambda folder: recovered.append(folder) or journal.recover(folder))
    assert list(room.newest_of(tmp_path, "nobody")) == []
    assert (len(lines) <= 6, recovered) == (True, [])
    assert [seen.folder.name for seen in room.newest_of(tmp_path, "other")] == [FIRST]
    assert recovered == [tmp_path / FIRST]


@pytest.mark.parametrize(("name", "expected"), [("letters", "letters"), ("", "digits")])
def test_a_session_has_the_name_of_its_newest_attempt(tmp_path, clock, name, expected):
    """What opens an attempt names it, else it keeps its name; so does a session that was only opened since."""
    made(tmp_path, FIRST, clock).close()
    again = begin_attempt(tmp_path / FIRST, clock, deaf)
    again.door.tell(ev.PretrainRoutineStart, session=FIRST, name="nobody", wanted=False)
    again.door.tell(ev.ValStart)
    again.door.tell(ev.PretrainRoutineStart, session=FIRST, name=name)
    again.close()
    others = {"letters", "digits", "nobody"} - {expected}
    for _ in range(2):
        assert [seen.memory.name for seen in room.newest_of(tmp_path, expected)] == [expected]
        assert [seen for other in others for seen in room.newest_of(tmp_path, other)] == []
        reopen(tmp_path / FIRST, clock, deaf).close()


@DAMAGED
def test_a_name_that_the_first_lines_do_not_tell_is_looked_for_in_earlier_ones(tmp_path, clock):
    """Where the newest segment lost its head, the one before it tells of whom it is."""
    made(tmp_path, FIRST, clock).close()
    reopen(tmp_path / FIRST, clock, deaf).close()
    (tmp_path / FIRST / "journal-000002.jsonl").write_bytes(b"damaged\n")
    assert [seen.folder.name for seen in room.newest_of(tmp_path, "digits")] == [FIRST]


def test_whether_sessions_can_be_kept_somewhere(tmp_path, monkeypatch):
    """A place that does not exist yet is judged by the folder that it would be made in."""
    assert room.is_usable(tmp_path / "a" / "b")
    monkeypatch.setattr(room.os, "access", lambda path, mode: path != tmp_path)
    assert not room.is_usable(tmp_path / "a" / "b")
