"""The door: every word is decided, written and only then remembered, whatever thread or trouble comes in between."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest
from fakes import door_in, train
from journals import damages, numbers

from hubstate import door as room
from hubstate import events as ev
from hubstate import journal
from hubstate.actions import Memory, OpenSession, SendRows
from hubstate.clock import VirtualClock
from hubstate.door import Door
from hubstate.errors import JournalFailing, StorageError, UsageError
from hubstate.journal import Journal, Step, read, recover
from hubstate.states import State


class FullDisk:
    """Makes the journal fail while it is full."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full = True
        self.tries = 0
        write = os.write

        def some(fd: int, data: bytes) -> int:
            self.tries += 1
            return write(fd, data[:10] if self.full else data)

        monkeypatch.setattr(journal.os, "write", some)


def row(door: Door, epoch: int = 0):
    return door.tell(ev.FitEpochEnd, epoch, {"loss": 0.5})


def steps(folder: Path) -> list[Step]:
    return [entry.line for entry in read(folder) if isinstance(entry.line, Step)]


# -- the order of things ---------------------------------------------------------------------------------


def test_a_step_is_written_before_it_is_remembered_and_remembered_before_it_is_heard(tmp_path):
    """Decide, write, adopt, tell the listener: nobody acts on a step that the journal does not hold."""
    heard = []

    def listener(before, decision):
        heard.append((len(steps(tmp_path)), door.memory is decision.memory, before.state))

    door = door_in(tmp_path, listener=listener)
    door.tell(ev.PretrainRoutineStart, session="S")
    assert heard == [(1, True, State.IDLE)]


def test_the_line_holds_the_step_and_what_it_asks_for(tmp_path):
    """Event, states, guards, actions and the row's number stand in one line: it is written before anything leaves."""
    clock = VirtualClock()
    door = train(door_in(tmp_path, clock))
    clock.advance(3.0)
    decision = row(door, epoch=4)
    last = steps(tmp_path)[-1]
    assert (last.n, last.attempt, last.row) == (4, 1, 1)
    assert (last.source, last.target, last.event) == (State.TRAINING, State.TRAINING, decision.event)
    assert last.guards == {"metrics_due": True}
    assert last.actions == decision.actions
    assert isinstance(last.actions[0], SendRows)


def test_a_refusal_is_written_with_its_reason(tmp_path):
    """The journal tells why nothing was done: an illegal event as such, a held back one with the guard's words."""
    door = train(door_in(tmp_path))
    door.tell(ev.TrainStart)
    door.tell(ev.ModelSave, epoch=0, path="p", size=1, mtime_ns=1, unkept="torn")
    illegal, held = steps(tmp_path)[-2:]
    assert illegal.illegal
    assert "illegal while training" in illegal.refusal
    assert (held.illegal, held.refusal) == (False, "torn")


def test_what_changes_nothing_is_neither_written_nor_heard(tmp_path):
    """A tick that finds nothing due leaves no line, and rows that merely wait wake nobody."""
    heard = []
    door = train(door_in(tmp_path, listener=lambda before, decision: heard.append(decision)))
    before, lines = len(heard), door.written()
    door.tell(ev.Tick)
    assert (len(heard), door.written()) == (before, lines)
    row(door)
    assert len(heard) == before
    assert door.written() > lines


def test_looking_changes_nothing(tmp_path):
    """What would follow can be asked for at any time; neither the memory nor the journal knows of it."""
    door = train(door_in(tmp_path))
    memory, lines = door.memory, door.written()
    assert door.look(ev.TrainEnd).memory.state is State.FINALIZING
    assert (door.memory, door.written()) == (memory, lines)


def test_the_time_never_goes_back(tmp_path):
    """Events carry the wall time of the opening plus the monotonic time since; a clock that is set back is not seen."""
    clock = VirtualClock(start=1000.0)
    door = train(door_in(tmp_path, clock))
    clock.advance(2.5)
    clock.jump(-500.0)
    assert row(door).event.at == 1002.5


def test_a_wrong_field_is_the_callers_mistake_and_nothing_is_written(tmp_path):
    """What an event refuses is raised to whoever said it, and the door goes on."""
    door = train(door_in(tmp_path))
    lines = door.written()
    with pytest.raises(UsageError, match="epoch must not be negative"):
        row(door, epoch=-1)
    assert door.written() == lines
    assert row(door).memory.rows == 1


def test_many_threads_write_one_order(tmp_path):
    """Whoever speaks, each row has a number of its own, and the journal holds all of them in order."""
    door = train(door_in(tmp_path))
    gate = threading.Barrier(4)

    def speak() -> None:
        gate.wait()
        for epoch in range(50):
            row(door, epoch)

    threads = [threading.Thread(target=speak) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert numbers(tmp_path) == list(range(1, 204))
    assert [step.row for step in steps(tmp_path) if step.row] == list(range(1, 201))
    assert recover(tmp_path).memory == door.memory


# -- the journal fails -----------------------------------------------------------------------------------


def test_steps_wait_in_memory_and_are_written_later_in_order(tmp_path, monkeypatch):
    """While the disk is full the session goes on, nothing of it can leave, and all of it is written once there is room."""
    door = train(door_in(tmp_path))
    disk = FullDisk(monkeypatch)
    for epoch in range(3):
        row(door, epoch)
    door.tell(ev.TrainEnd)
    assert (door.memory.state, door.memory.rows, door.unwritten) == (State.FINALIZING, 3, 4)
    assert "cannot write to the journal" in door.failure
    assert len(steps(tmp_path)) == 3
    door.flush()
    assert door.unwritten == 4
    disk.full = False
    door.flush()
    assert (door.unwritten, door.failure) == (0, "")
    assert numbers(tmp_path) == list(range(1, 8))
    assert (recover(tmp_path).memory, damages(tmp_path)) == (door.memory, [])
    lines = door.written()
    door.flush()
    assert door.written() == lines


def test_each_call_tries_the_oldest_first(tmp_path, monkeypatch):
    """The next word writes what waits before itself, so that the journal never holds a later step without the earlier."""
    door = train(door_in(tmp_path))
    disk = FullDisk(monkeypatch)
    row(door, 0)
    disk.full = False
    row(door, 1)
    assert [step.event.epoch for step in steps(tmp_path) if step.row] == [0, 1]
    assert door.failure == ""


def test_memory_is_bounded_and_what_is_lost_is_counted(tmp_path, monkeypatch):
    """When no room is left, a row is refused and counted, never dropped in silence; words that end a session still fit."""
    monkeypatch.setattr(room, "MOST_WAITING", 2)
    door = train(door_in(tmp_path))
    disk = FullDisk(monkeypatch)
    for epoch in range(4):
        decision = row(door, epoch)
    assert (door.lost, door.unwritten, door.memory.rows) == (2, 2, 2)
    assert "no memory is left" in decision.refusal.reason
    assert door.tell(ev.TrainEnd).refusal is None
    assert door.unwritten == 3
    disk.full = False
    door.flush()
    assert [step.row for step in steps(tmp_path)][3:] == [1, 2, 0]


def test_a_row_that_finds_room_again_is_kept(tmp_path, monkeypatch):
    """The last chance before a row is refused is to write what waits: if that works now, the row is kept."""
    monkeypatch.setattr(room, "MOST_WAITING", 1)
    door = train(door_in(tmp_path))
    disk = FullDisk(monkeypatch)
    row(door, 0)
    disk.full = False
    assert row(door, 1).refusal is None
    assert (door.lost, recover(tmp_path).memory.rows) == (0, 2)


# -- Ctrl-C in the middle --------------------------------------------------------------------------------


@pytest.mark.parametrize("written", [True, False])
def test_an_interrupt_in_the_middle_of_a_word_breaks_nothing(tmp_path, monkeypatch, written):
    """Ctrl-C may hit the write itself: the row then counts once or not at all, as the journal has it."""
    door = train(door_in(tmp_path))
    write = os.write

    def interrupted(fd, data):
        if written:
            write(fd, data)
        raise KeyboardInterrupt

    monkeypatch.setattr(journal.os, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        row(door, 0)
    monkeypatch.undo()
    row(door, 1)
    door.tell(ev.TrainEnd)
    epochs = [0, 1] if written else [1]
    assert [(step.row, step.event.epoch) for step in steps(tmp_path) if step.row] == list(
        enumerate(epochs, 1)
    )
    assert (recover(tmp_path).memory, damages(tmp_path)) == (door.memory, [])


def test_an_interrupt_behind_the_write_breaks_nothing(tmp_path, monkeypatch):
    """Between the write and the remembering there is a moment: a row that is written is remembered by the next word."""
    door = train(door_in(tmp_path))
    append = Journal.append

    def interrupted(self, step, memory):
        append(self, step, memory)
        raise KeyboardInterrupt

    monkeypatch.setattr(Journal, "append", interrupted)
    with pytest.raises(KeyboardInterrupt):
        row(door, 0)
    monkeypatch.undo()
    door.close()
    assert door.memory.rows == 1
    assert recover(tmp_path).memory == door.memory


def test_an_interrupt_while_the_journal_fails_breaks_nothing(tmp_path, monkeypatch):
    """What waits in memory when Ctrl-C comes is written once, in order, as soon as there is room."""
    door = train(door_in(tmp_path))
    disk = FullDisk(monkeypatch)
    row(door, 0)
    append = Journal.append

    def interrupted(self, step, memory):
        disk.full = False
        append(self, step, memory)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "append", interrupted)
        with pytest.raises(KeyboardInterrupt):
            row(door, 1)
    row(door, 2)
    assert [step.event.epoch for step in steps(tmp_path) if step.row] == [0, 1, 2]
    assert recover(tmp_path).memory == door.memory


def test_an_interrupt_and_a_full_disk_at_once_break_nothing(tmp_path, monkeypatch):
    """Half a line that an interrupt left and that cannot be removed yet is told, and gone before the next line."""
    door = train(door_in(tmp_path))
    write = os.write

    def interrupted(fd, data):
        write(fd, data[:20])
        raise KeyboardInterrupt

    def fails(_fd, _size):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(journal.os, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            row(door, 0)
    with monkeypatch.context() as patch:
        patch.setattr(journal.os, "ftruncate", fails)
        door.flush()
        assert "Input/output error" in door.failure
        row(door, 1)
        assert door.unwritten == 1
    row(door, 2)
    assert [(step.row, step.event.epoch) for step in steps(tmp_path) if step.row] == [(1, 1), (2, 2)]
    assert damages(tmp_path) == []


# -- whose door it is ------------------------------------------------------------------------------------


def in_a_child(work) -> bytes:
    """What `work` returns in a forked child."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writing, work())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(pid, 0)
    return answer


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_does_nothing(tmp_path, monkeypatch):
    """A DataLoader's worker has its parent's door in its memory: it writes no line, not even one that waits there."""
    door = train(door_in(tmp_path))
    disk = FullDisk(monkeypatch)
    row(door, 0)
    disk.full = False
    lines = steps(tmp_path)

    def child() -> bytes:
        reason = row(door, 1).refusal.reason
        door.flush()
        door.sync()
        door.close()
        return reason.encode()

    assert b"child of the one that owns it" in in_a_child(child)
    assert steps(tmp_path) == lines
    row(door, 2)
    assert [step.event.epoch for step in steps(tmp_path) if step.row] == [0, 2]


def test_after_close_nothing_is_taken(tmp_path, monkeypatch):
    """Closing writes what waits and lets go; a later word changes nothing and hears why."""
    door = train(door_in(tmp_path))
    disk = FullDisk(monkeypatch)
    row(door)
    disk.full = False
    door.close()
    door.close()
    decision = row(door)
    assert decision.refusal.reason == "the session is closed here"
    assert (decision.journalled, decision.actions, door.memory.rows) == (False, (), 1)
    assert recover(tmp_path).memory == door.memory


def test_what_could_not_be_written_at_the_close_stays_counted(tmp_path, monkeypatch):
    """Whoever ends a session on a full disk can tell how much is only in memory."""
    door = train(door_in(tmp_path))
    disk = FullDisk(monkeypatch)
    row(door)
    door.close()
    assert (door.unwritten, disk.full) == (1, True)


def test_a_door_without_a_journal_writes_nothing(tmp_path):
    """Where nothing is wanted, every word is heard and forgotten."""
    door = Door(None, Memory(), VirtualClock(), lambda before, decision: None)
    assert door.tell(ev.PretrainRoutineStart, wanted=False).refusal is not None
    opened = door.tell(ev.PretrainRoutineStart, session="S")
    assert isinstance(opened.actions[0], OpenSession)
    door.sync()
    door.flush()
    door.close()
    assert door.written() == (0, 0)


def test_syncing_asks_the_disk(tmp_path, monkeypatch):
    """`sync` reaches the file, and tells when the disk could not keep it."""
    door = train(door_in(tmp_path))
    door.sync()

    def fails(_fd):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(journal.os, "fsync", fails)
    row(door)
    with pytest.raises(StorageError, match="did not keep"):
        door.sync()


def test_the_failure_is_the_journals(tmp_path):
    """A journal that fails says so by one error, which is a StorageError and an OSError."""
    assert issubclass(JournalFailing, StorageError)
    assert issubclass(JournalFailing, OSError)


# -- signal handlers ---------------------------------------------------------------------------------------------


def test_a_signal_handler_may_speak_in_the_middle_of_a_step(tmp_path, monkeypatch):
    """What a handler says while the same thread writes a line follows that line, and nobody waits for ever."""
    door = train(door_in(tmp_path))
    answers = []
    write = os.write

    def interrupted(fd: int, data: bytes) -> int:
        monkeypatch.setattr(journal.os, "write", write)
        signal.raise_signal(signal.SIGUSR1)
        return write(fd, data)

    def handler(_number, _frame):
        answers.append(row(door, epoch=1).refusal)
        door.flush()
        door.close()

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        monkeypatch.setattr(journal.os, "write", interrupted)
        assert row(door, epoch=0).refusal is None
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert [step.event.epoch for step in steps(tmp_path) if step.row] == [0, 1]
    assert "follows" in answers[0].reason
    assert "closed" in row(door, epoch=2).refusal.reason
