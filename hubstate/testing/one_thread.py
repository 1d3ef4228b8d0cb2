"""hubstate's own session in one thread: nothing happens but when it is told to, and so the same every time.

`open_session` is `hubstate.start` with a clock, a hub and a folder handed in. The session's threads are replaced by
turns: `Turns.step` does what the two threads would do at their next look. Whoever waits on the clock (`flush`,
`finish`) gives them their turns, so a test needs none of this: it finishes a session and looks at what the hub holds.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hubstate.clock import Clock
from hubstate.hubs.base import Hub
from hubstate.limits import Limits
from hubstate.outbox import FILES, WORDS
from hubstate.sender import SenderThreads, Stepper
from hubstate.session import Session, begin
from hubstate.settings import Settings
from hubstate.testing.clock import FakeClock
from hubstate.wish import Wish

__all__ = ["Turns", "open_session"]


class Turns(SenderThreads):
    """The sender's two threads, without a thread: each turn is asked for."""

    def __init__(self, make: Callable[[], Stepper], clock: Clock, *, sync: Callable[[], None]) -> None:
        super().__init__(make, clock, sync=sync)
        self._begun = False

    def poke(self, *, files: bool = False) -> None:  # noqa: ARG002 - a turn is one of both lanes
        """Something was written: from now on it leaves with the next turn."""
        if not self._begun and isinstance(self._clock, FakeClock):
            self._clock.attach(self)
        self._begun = True

    def step(self) -> float:
        """One turn of each lane, one parcel at most in each; returns the seconds until the next one is wanted.

        The disk is not asked to keep anything, for nobody pulls the plug here; a killed process loses nothing by that.
        """
        stepper = self._built()
        rest = stepper.step(WORDS)
        return min(rest, stepper.step(FILES))

    def stop(self, timeout: float) -> bool:  # noqa: ARG002 - there is nobody to wait for
        """No more turns."""
        if self._begun and isinstance(self._clock, FakeClock):
            self._clock.detach(self)
        if self._stepper is not None:
            self._stepper.close()
        return True


def open_session(
    name: str,
    directory: Path,
    clock: FakeClock,
    hub: Hub | None,
    *,
    mode: str = "on",
    limits: Limits | None = None,
    seed: int = 0,
    **wish: Any,
) -> Session:
    """A session in `directory`, in this thread, under `clock`. `hub` None: it is kept here.

    `seed`: of all chance in it. `wish`: `epochs`, `resume`, `checkpoints` and so on, as `hubstate.start` takes them.
    """
    found = Settings(
        hub=None if hub is None else hub.address,
        directory=directory,
        mode=mode,
        data_folder=directory.parent / f"{directory.name}.data",
    )

    def open_hub(_address: str, _api_key: str | None) -> Hub:
        assert hub is not None, "a hub is opened only where one is set"
        return hub

    chance = random.Random(seed)  # noqa: S311 - chance that can be repeated
    asked = Wish(name, limits=limits, **wish)
    return begin(asked, found, clock=clock, chance=chance, open_hub=open_hub, say=_silent, threads=Turns)


def _silent(_text: str) -> None:
    """What is said to the person at the terminal is for nobody in a test."""
