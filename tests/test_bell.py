"""A bell that may be rung in the middle of being rung."""

from __future__ import annotations

import os
import signal
import threading

import hubstate
from hubstate.bell import Bell


def test_it_is_an_event():
    """Set it stays set for everybody, cleared it has to be set again, and waiting ends with its time."""
    bell = Bell()
    assert not bell.is_set()
    assert bell.wait(0.0) is False
    bell.set()
    bell.set()
    assert bell.wait(0.0) is True
    assert bell.wait(0.0) is True
    assert bell.is_set()
    bell.clear()
    assert not bell.is_set()
    assert bell.wait(0.0) is False


def test_everybody_who_waits_is_woken():
    """Two threads that wait for one bell both go on."""
    bell, woken = Bell(), threading.Semaphore(0)
    threads = [threading.Thread(target=lambda: bell.wait(60.0) and woken.release()) for _ in range(2)]
    for thread in threads:
        thread.start()
    bell.set()
    for thread in threads:
        thread.join()
    assert woken.acquire(blocking=False)
    assert woken.acquire(blocking=False)


def test_a_signal_handler_that_saves_does_not_hang_the_training(tmp_path, monkeypatch):
    """A handler that comes in the middle of waking the sender may say as much as it likes itself."""
    file = tmp_path / "last.pt"
    file.write_bytes(b"weights")
    session = hubstate.start("digits", hub="http://127.0.0.1:9", limits=hubstate.Limits(0.0, 0.0, 300.0))
    session.log({"loss": 1.0})
    fired: list[int] = []
    monkeypatch.setattr(Bell, "set", _interrupted(Bell.set, fired))
    before = signal.signal(signal.SIGUSR1, lambda *_: session.save(file, kind="final"))
    try:
        session.save(file)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert fired == [1]
    assert session.explain("train_end")
    session.close()


def _interrupted(ring, fired):
    """A bell's `set` in the middle of which a signal arrives, once, in the main thread."""

    def inside(bell: Bell) -> None:
        if threading.current_thread() is threading.main_thread() and not fired:
            fired.append(1)
            os.kill(os.getpid(), signal.SIGUSR1)
        ring(bell)

    return inside
