"""Chores: done at once and when they are due, on a thread of their own, and a disk that fails ends none of them."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import sqlalchemy

from hubstate.server.chores import doing


def test_chores_are_done_until_the_block_ends(new_threads: Callable[[], set[threading.Thread]]) -> None:
    """Each chore is done at once and again when it said so, with the time that the clock tells; then no thread is left."""
    times: list[float] = []
    twice = threading.Event()

    def chore(now: float) -> float:
        times.append(now)
        if len(times) == 2:
            twice.set()
        return 0.0 if len(times) < 2 else 1000.0

    with doing([chore], lambda: 7.0):
        assert twice.wait(60)
    assert times == [7.0, 7.0]
    assert "hubstate-hub-chores" not in [thread.name for thread in new_threads()]


def test_each_chore_has_its_own_time() -> None:
    """One that is due often does not have the others done with it."""
    now = 0.0
    often, seldom = [], []
    enough = threading.Event()

    def wall() -> float:
        nonlocal now
        now += 1.0
        return now

    def soon(at: float) -> float:
        often.append(at)
        if len(often) == 5:
            enough.set()
        return 0.0 if len(often) < 5 else 1000.0

    def later(at: float) -> float:
        seldom.append(at)
        return 1000.0

    with doing([soon, later], wall):
        assert enough.wait(60)
    assert len(seldom) == 1


def test_without_chores_there_is_no_thread(new_threads: Callable[[], set[threading.Thread]]) -> None:
    """A hub that has nothing to do beside answering has no thread for it."""
    with doing([], lambda: 7.0):
        assert "hubstate-hub-chores" not in [thread.name for thread in new_threads()]


@pytest.mark.parametrize(
    "error",
    [OSError(5, "Input/output error"), sqlalchemy.exc.OperationalError(None, None, OSError("locked"))],
)
def test_a_chore_that_the_disk_fails_is_logged(error: Exception, capfd: pytest.CaptureFixture[str]) -> None:
    """A failure is one line in the log, and the other chores are done."""
    done = threading.Event()

    def fails(_now: float) -> float:
        raise error

    def works(_now: float) -> float:
        done.set()
        return 1000.0

    with doing([fails, works], lambda: 7.0):
        assert done.wait(60)
    assert "hub_chore_failed" in capfd.readouterr().err
