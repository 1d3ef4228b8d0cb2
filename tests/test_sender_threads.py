"""The two threads that step a sender: at most two, woken by a poke, gone after a stop, and never a trainer's trouble."""

from __future__ import annotations

import threading
from queue import Queue

import pytest

from hubstate import sender as room
from hubstate.clock import SystemClock
from hubstate.outbox import FILES, WORDS
from hubstate.sender import SenderThreads


class Stepper:
    """Says when it was stepped, by which lane, and rests for good."""

    def __init__(self) -> None:
        self.stepped = {WORDS: threading.Semaphore(0), FILES: threading.Semaphore(0)}
        self.threads: set[str] = set()
        self.failing: Exception | None = None
        self.hold: threading.Event | None = None
        self.closed = threading.Semaphore(0)

    def step(self, lane: str) -> float:
        self.threads.add(threading.current_thread().name)
        self.stepped[lane].release()
        if self.hold is not None:
            self.hold.wait()
        if self.failing is not None:
            raise self.failing
        return 3600.0

    def close(self) -> None:
        self.closed.release()


@pytest.fixture
def stepper():
    return Stepper()


@pytest.fixture
def threads(stepper):
    made = SenderThreads(lambda: stepper, SystemClock(), sync=lambda: None)
    yield made
    assert made.stop(60.0)


@pytest.mark.promise("D8")
def test_two_threads_at_most(threads, stepper):
    """However often it is poked, one thread steps words and one files, and neither keeps the process alive."""
    before = threading.active_count()
    for _ in range(20):
        threads.poke(files=True)
    for lane in (WORDS, FILES):
        stepper.stepped[lane].acquire()
    assert threading.active_count() - before <= 2
    assert stepper.threads == {"hubstate-words", "hubstate-files"}
    assert all(thread.daemon for thread in threads._threads.values())


def test_files_need_no_thread_before_there_is_one(threads, stepper):
    """A session without checkpoints has one thread; none at all before anything was said."""
    assert threads._threads == {}
    threads.poke()
    stepper.stepped[WORDS].acquire()
    assert list(threads._threads) == [WORDS]


def test_a_poke_cuts_a_rest_short(threads, stepper):
    """What was just written is looked at now and not after the rest that was due."""
    for _ in range(3):
        threads.poke(files=True)
        stepper.stepped[WORDS].acquire()
        stepper.stepped[FILES].acquire()


def test_stopping_returns_and_closes_what_was_stepped(stepper):
    """After a stop both threads are gone and the stepper is closed; a later poke wakes nobody."""
    threads = SenderThreads(lambda: stepper, SystemClock(), sync=lambda: None)
    threads.poke(files=True)
    stepper.stepped[WORDS].acquire()
    stepper.stepped[FILES].acquire()
    assert threads.stop(60.0) is True
    assert stepper.closed.acquire(blocking=False)
    threads.poke(files=True)
    assert not any(thread.is_alive() for thread in threads._threads.values())


def test_stopping_waits_no_longer_than_it_was_told(stepper):
    """A parcel that is under way is not waited for beyond the time; its thread closes the stepper when it is through."""
    stepper.hold = threading.Event()
    threads = SenderThreads(lambda: stepper, SystemClock(), sync=lambda: None)
    threads.poke()
    stepper.stepped[WORDS].acquire()
    assert threads.stop(0.0) is False
    assert not stepper.closed.acquire(blocking=False)
    stepper.hold.set()
    assert threads.stop(60.0) is True
    assert stepper.closed.acquire(blocking=False)


def test_stopping_before_anything_began(stepper):
    """A session that said nothing has nothing to stop."""
    assert SenderThreads(lambda: stepper, SystemClock(), sync=lambda: None).stop(0.0) is True


def test_a_thread_may_stop_its_own(stepper):
    """Who is stepped may end the threads without waiting for itself."""
    found = []
    threads = SenderThreads(lambda: stepper, SystemClock(), sync=lambda: found.append(threads.stop(60.0)))
    threads.poke()
    threads._threads[WORDS].join()
    assert found == [False]
    assert threads.stop(60.0)


def test_a_failure_of_this_machine_is_shown_and_tried_again(stepper, monkeypatch, capsys):
    """Whatever a step raises, the thread lives on, says why it could do nothing, and forgets that once it can."""
    monkeypatch.setattr(room, "AFTER_FAILURE", 3600.0)
    threads = SenderThreads(lambda: stepper, SystemClock(), sync=lambda: None)
    stepper.failing = OSError("database or disk is full")
    rested = threading.Semaphore(0)
    wait = SystemClock().wait
    threads._clock = type(
        "Clock", (SystemClock,), {"wait": lambda _, signal, s: rested.release() or wait(signal, s)}
    )()
    threads.poke()
    rested.acquire()
    assert threads.failure == "OSError: database or disk is full"
    assert "hubstate.sender_failed" in capsys.readouterr().err
    stepper.failing = None
    while threads.failure:
        threads.poke()
        rested.acquire()
    assert threads.stop(60.0)


def test_a_failure_while_stopping_is_nobodys(stepper):
    """What fails because the session was let go of is no trouble that anybody could mend."""
    stepper.hold = threading.Event()
    stepper.failing = OSError("closed")
    threads = SenderThreads(lambda: stepper, SystemClock(), sync=lambda: None)
    threads.poke()
    stepper.stepped[WORDS].acquire()
    threads.stop(0.0)
    stepper.hold.set()
    assert threads.stop(60.0)
    assert threads.failure == ""


def test_whoever_pokes_hears_nothing_of_a_missing_thread(threads, stepper, monkeypatch):
    """Where the system gives no thread, training goes on; the next poke tries again."""
    start = threading.Thread.start

    def cannot(_thread):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", cannot)
        threads.poke(files=True)
        assert threads.failure == "no thread can be started: can't start new thread"
    assert threading.Thread.start is start
    threads.poke(files=True)
    stepper.stepped[WORDS].acquire()
    stepper.stepped[FILES].acquire()
    assert threads.stop(60.0)
    assert threads.failure == ""


def test_building_waits_for_nobody_and_nobody_for_it(stepper):
    """While the first thread still opens files and connections, whoever trains pokes on without a wait."""
    building, go = threading.Event(), threading.Event()

    def make() -> Stepper:
        building.set()
        go.wait()
        return stepper

    threads = SenderThreads(make, SystemClock(), sync=lambda: None)
    threads.poke()
    building.wait()
    threads.poke(files=True)
    assert sorted(threads._threads) == [FILES, WORDS]
    go.set()
    stepper.stepped[FILES].acquire()
    assert threads.stop(60.0)


# -- what the disk is asked to keep ----------------------------------------------------------------------


class Disk:
    """Counts how often it was asked to keep what was written, and by whom; notes if two asked at once."""

    def __init__(self) -> None:
        self.asked = threading.Semaphore(0)
        self.askers: set[str] = set()
        self.overlapped = False
        self._busy = threading.Lock()

    def sync(self) -> None:
        if not self._busy.acquire(blocking=False):
            self.overlapped = True
            return
        self.askers.add(threading.current_thread().name)
        self._busy.release()
        self.asked.release()


class Swallowing(Stepper):
    """A stepper whose hub never answers words: their thread is held in its request."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()

    def step(self, lane: str) -> float:
        rest = super().step(lane)
        if lane == WORDS:
            self.go.wait()
        return rest


def test_what_is_written_is_kept_while_a_hub_holds_the_words_up():
    """A checkpoint that is saved while a request of words hangs is synced by the files' thread, at once."""
    stepper, disk = Swallowing(), Disk()
    threads = SenderThreads(lambda: stepper, SystemClock(), sync=disk.sync)
    threads.poke(files=True)
    for lane in (WORDS, FILES):
        stepper.stepped[lane].acquire()
    disk.asked.acquire()
    disk.asked.acquire()
    disk.askers.clear()
    for _ in range(3):
        threads.poke(files=True)
        disk.asked.acquire()
    assert disk.askers == {"hubstate-files"}
    stepper.go.set()
    assert threads.stop(60.0)
    assert not disk.overlapped


def test_what_is_written_without_a_poke_is_kept_meanwhile(stepper, monkeypatch):
    """Rows that are not due yet wake nobody: whoever rests asks the disk every few seconds, and steps nothing for it."""
    monkeypatch.setattr(room, "BETWEEN_SYNCS", 0.001)
    disk = Disk()
    threads = SenderThreads(lambda: stepper, SystemClock(), sync=disk.sync)
    threads.poke()
    for _ in range(20):
        disk.asked.acquire()
    assert threads.stop(60.0)
    steps = 0
    while stepper.stepped[WORDS].acquire(blocking=False):
        steps += 1
    assert 1 <= steps <= 2  # one poke may be heard before the first step and once more behind it


def test_a_disk_that_keeps_nothing_is_shown(stepper, monkeypatch):
    """A sync that fails while a thread rests is shown like any other failure of this machine."""
    monkeypatch.setattr(room, "BETWEEN_SYNCS", 0.001)
    monkeypatch.setattr(room, "AFTER_FAILURE", 3600.0)
    failed = threading.Event()
    calls = []

    def sync() -> None:
        calls.append(1)
        if len(calls) > 1:
            failed.set()
            raise OSError("the disk did not keep the journal")

    threads = SenderThreads(lambda: stepper, SystemClock(), sync=sync)
    threads.poke()
    failed.wait()
    threads.stop(0.0)
    assert threads.stop(60.0)
    assert len(calls) == 2


class Busy(SystemClock):
    """A machine on which a turn of a thread takes a tenth of a second of a processor's time."""

    def __init__(self) -> None:
        self.used = 0.0
        self.rests: Queue[float] = Queue()

    def worked(self) -> float:
        self.used += 0.1
        return self.used

    def wait(self, signal: threading.Event, seconds: float) -> bool:
        self.rests.put(seconds)
        return super().wait(signal, 3600.0)


def test_beside_a_training_a_thread_leaves_the_interpreter_alone(stepper):
    """After a turn that took time a thread rests for a multiple of it, whatever is poked; but not for long."""
    clock = Busy()
    threads = SenderThreads(lambda: stepper, clock, sync=lambda: None)
    threads.poke()
    stepper.stepped[WORDS].acquire()
    assert clock.rests.get() == room.LONGEST_REST
    threads.poke()
    assert not stepper.stepped[WORDS].acquire(blocking=False)
    assert threads.stop(60.0)


def test_nobody_who_waits_is_kept_waiting(stepper):
    """While somebody waits for the hub a thread goes on without a rest, and afterwards it makes room again."""
    clock = Busy()
    threads = SenderThreads(lambda: stepper, clock, sync=lambda: None)
    with threads.hurried():
        for _ in range(3):
            threads.poke()
            stepper.stepped[WORDS].acquire()
    while clock.rests.get() != room.LONGEST_REST:
        threads.poke()
    assert threads.stop(60.0)
