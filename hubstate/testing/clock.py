"""A clock that stands still until it is moved, and lets whoever sends work while somebody waits."""

from __future__ import annotations

import threading
from typing import Protocol

from hubstate.clock import VirtualClock

__all__ = ["FakeClock"]


class _Stepper(Protocol):
    def step(self) -> float: ...


class FakeClock(VirtualClock):
    """Time for tests: `advance` lets seconds pass, `jump` sets the wall clock on or back, and waiting takes no time.

    A session that is opened in one thread (see `one_thread`) has no threads that could deliver meanwhile. So whoever
    waits lets it work: a wait is a turn of the sender, and then as much time as may pass until its next one.
    """

    def __init__(self, start: float = 1_800_000_000.0) -> None:
        super().__init__(start)
        self._steppers: list[_Stepper] = []

    def attach(self, stepper: _Stepper) -> None:
        """From now on a wait is a turn of `stepper` too."""
        self._steppers.append(stepper)

    def detach(self, stepper: _Stepper) -> None:
        """From now on it is not."""
        self._steppers.remove(stepper)

    def wait(self, signal: threading.Event, seconds: float) -> bool:
        """Lets the senders have a turn each, then time pass; returns at once if `signal` is set."""
        if signal.is_set():
            return True
        rest = min((stepper.step() for stepper in list(self._steppers)), default=seconds)
        if not signal.is_set():
            self.advance(max(0.0, min(seconds, rest)))
        return signal.is_set()
