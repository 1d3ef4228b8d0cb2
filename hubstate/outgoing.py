"""What leaves from a session: the threads that deliver what its journal holds, and the waiting for them.

The session says what a step asked for (`heard`), and waits at its end (`wait`). Nothing here raises because of a
hub, and nothing is built before the first thread needs it: the hub's adapter takes longer to import than a session
takes to begin.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

from hubstate.actions import Decision, Memory, OpenSession, SendCheckpoint
from hubstate.backlog import Posting
from hubstate.bell import Bell
from hubstate.clock import Clock
from hubstate.hubs.base import Hub
from hubstate.opening import Opened
from hubstate.receipt import receipt_of
from hubstate.sender import SenderThreads

__all__ = ["Outgoing"]

#: How long whoever waits does so while nothing moves (seconds).
STALL = 5.0
#: How long letting go waits for a thread that is in the middle of a request (seconds).
LETTING_GO = 0.2
#: How often whoever waits looks whether bytes of an upload left (seconds).
BETWEEN_LOOKS = 0.5


class Outgoing:
    """The deliveries of one session that this process has open. Threads may share it."""

    def __init__(
        self,
        opened: Opened,
        hub: Callable[[], Hub] | None,
        clock: Clock,
        chance: random.Random,
        directory: Path,
        threads: type[SenderThreads],
    ) -> None:
        """`hub` makes the adapter, on the first thread; None if nothing leaves. `directory`: where older sessions lie."""
        self._opened = opened
        self._hub = hub
        self._clock = clock
        self._chance = chance
        self._directory = directory
        self._posting: Posting | None = None
        self._threads = threads(self._make_posting, clock, sync=opened.sync)
        self._changed = Bell()

    @property
    def failure(self) -> str:
        """What this machine did to the threads at their last turn, for people; empty when all is well."""
        return self._threads.failure

    @property
    def is_drained(self) -> bool:
        """Whether everything that was recorded is written, and nothing of it waits for the hub."""
        return not (self._opened.door.unwritten or receipt_of(self._opened.door.memory).waiting)

    def begin(self) -> None:
        """Something may wait already, files as well."""
        self._threads.poke(files=True)

    def heard(self, before: Memory, decision: Decision) -> None:
        """After each step that did more than count a row; also from the threads themselves."""
        if decision.actions or decision.memory.outstanding != before.outstanding:
            sends_file = any(isinstance(action, SendCheckpoint | OpenSession) for action in decision.actions)
            self._threads.poke(files=sends_file)
        self._changed.set()

    def hurry(self) -> None:
        """Whoever waits wants the next try now."""
        if self._posting is not None:
            self._posting.hurry()
        self._threads.poke(files=True)

    def wait(self, timeout: float, *, stall: float = STALL) -> None:
        """Waits until nothing waits any more; at most `timeout` s, and at most `stall` s while nothing moves."""
        if self._hub is None:
            return
        with self._threads.hurried():
            self._wait(timeout, stall)

    def _wait(self, timeout: float, stall: float) -> None:
        begun = since = self._clock.monotonic()
        moved = self._moved()
        while not self.is_drained:
            self._changed.clear()
            now = self._clock.monotonic()
            if self._moved() != moved:
                moved, since = self._moved(), now
            left = min(begun + timeout, since + stall) - now
            if left <= 0:
                return
            self._clock.wait(self._changed, min(left, BETWEEN_LOOKS))

    def close(self) -> None:
        """Lets go of the session, whatever waits. Raises `StorageError` if the disk could not keep what was written."""
        try:
            self._threads.stop(LETTING_GO)
        finally:
            self._opened.close()  # also where Ctrl-C ends the waiting: who lives on must not own it for ever

    def _moved(self) -> int:
        return 0 if self._posting is None else self._posting.moved

    def _make_posting(self) -> Posting:
        """On the first thread."""
        hub = None if self._hub is None else self._hub()
        self._posting = Posting(self._opened, hub, self._clock, self._chance, self._directory)
        return self._posting
