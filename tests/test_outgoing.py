"""What leaves from a session, and how long somebody waits for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from hubstate.errors import StorageError
from hubstate.outgoing import STALL
from hubstate.ownership import owner_of
from hubstate.proof.faults import OFFLINE
from hubstate.session import Session
from hubstate.states import State
from hubstate.testing import FakeClock, FakeHub
from hubstate.testing.one_thread import open_session

WHOLE = 300.0


class Trickling(FakeHub):
    """A hub that answers nothing, while bytes of an upload leave between any two looks."""

    looks = 0

    @property
    def moved(self) -> int:
        self.looks += 1
        return self.looks


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "sessions"


def waited(session: Session, clock: FakeClock, timeout: float) -> float:
    """The seconds that the end of a session took."""
    before = clock.monotonic()
    session.finish(timeout)
    return clock.monotonic() - before


def test_nobody_waits_without_a_hub(directory, clock):
    """What is kept here alone is whole already: the end takes no time."""
    session = open_session("digits", directory, clock, None)
    session.log({"loss": 1.0})
    assert waited(session, clock, WHOLE) == 0.0


def test_nobody_waits_once_all_is_delivered(directory, clock):
    """The last acknowledgement ends the waiting, whatever was allowed."""
    session = open_session("digits", directory, clock, FakeHub(clock))
    session.log({"loss": 1.0})
    assert waited(session, clock, WHOLE) < STALL
    assert session.state is State.DONE


def test_waiting_ends_where_nothing_moves(directory, clock):
    """A hub that answers nothing holds the end up for five seconds, and not for all that was allowed."""
    hub = FakeHub(clock)
    hub.fail(OFFLINE)
    session = open_session("digits", directory, clock, hub)
    session.log({"loss": 1.0})
    assert waited(session, clock, WHOLE) == pytest.approx(STALL)
    assert session.state is State.FINALIZING


def test_waiting_goes_on_while_bytes_move_and_ends_all_the_same(directory, clock):
    """A slow upload is waited for while it moves, up to what was allowed and no longer."""
    hub = Trickling(clock)
    hub.fail(OFFLINE)
    session = open_session("digits", directory, clock, hub)
    session.log({"loss": 1.0})
    assert waited(session, clock, 20.0) == pytest.approx(20.0)


def test_a_session_whose_training_is_over_is_delivered_without_a_word(directory, clock):
    """Opened again, a session that waits for its hub leaves by itself."""
    hub = FakeHub(clock)
    hub.fail(OFFLINE)
    first = open_session("digits", directory, clock, hub)
    first.log({"loss": 1.0})
    first.finish(0.0)
    hub.recover()
    again = open_session("digits", directory, clock, hub, resume=True)
    assert again.state is State.FINALIZING
    again.finish(WHOLE)
    assert again.state is State.DONE


def test_a_disk_that_fails_at_the_end_is_told_and_breaks_no_training(directory, clock, tmp_path, monkeypatch):
    """Where the last copy cannot be kept the receipt says so and nothing is raised; the next process can have the session."""
    session = open_session("digits", directory, clock, None)
    file = tmp_path / "last.pt"
    file.write_bytes(b"weights")
    session.log({"loss": 1.0})

    def full(_snapshots: object, name: str) -> None:
        raise StorageError(f"{name} cannot be kept: no space left on device")

    monkeypatch.setattr("hubstate.snapshots.Snapshots.sync", full)
    session.save(file)
    receipt = session.finish()
    told = {condition.name: condition.reason for condition in receipt.conditions}
    assert "no space left on device" in told["journal_failing"]
    assert owner_of(directory / session.id) is None
