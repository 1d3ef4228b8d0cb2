"""The only place that tells the time: a wall clock, a monotonic one, and a wait that can be cut short."""

from __future__ import annotations

import threading
import time
from typing import Protocol

__all__ = ["Clock", "SystemClock", "VirtualClock"]


class Clock(Protocol):
    """What the shells ask for the time. Seconds, as floats."""

    def wall(self) -> float:
        """Seconds since 1970; it may jump."""
        ...

    def monotonic(self) -> float:
        """Seconds since some moment; it never goes back."""
        ...

    def worked(self) -> float:
        """Seconds of a processor's time that the calling thread has used; it never goes back."""
        ...

    def wait(self, signal: threading.Event, seconds: float) -> bool:
        """Waits until `signal` is set, at most `seconds`; tells whether it was set."""
        ...


class SystemClock:
    """The clock of this machine."""

    wall = staticmethod(time.time)
    monotonic = staticmethod(time.monotonic)
    worked = staticmethod(time.thread_time)

    def wait(self, signal: threading.Event, seconds: float) -> bool:
        """Waits until `signal` is set, at most `seconds`; tells whether it was set."""
        return signal.wait(max(0.0, seconds))


class VirtualClock:
    """A clock that stands still until it is moved; waiting moves it."""

    def __init__(self, start: float = 1_800_000_000.0) -> None:
        self._wall = start
        self._monotonic = 0.0

    def wall(self) -> float:
        """Seconds since 1970."""
        return self._wall

    def monotonic(self) -> float:
        """Seconds since this clock was made."""
        return self._monotonic

    def worked(self) -> float:
        """Work takes no time here."""
        return 0.0

    def advance(self, seconds: float) -> None:
        """Lets `seconds` pass on both clocks."""
        self._wall += seconds
        self._monotonic += seconds

    def jump(self, seconds: float) -> None:
        """Sets the wall clock on or back, as an administrator or a time server does."""
        self._wall += seconds

    def wait(self, signal: threading.Event, seconds: float) -> bool:
        """Returns at once if `signal` is set, else lets `seconds` pass."""
        if not signal.is_set():
            self.advance(max(0.0, seconds))
        return signal.is_set()
