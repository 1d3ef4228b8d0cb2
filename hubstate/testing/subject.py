"""The thing under test: whatever opens a session in a folder, under a clock, towards a hub.

`OwnSession` is hubstate's own. Whoever builds another way to run sessions (a sender of another kind, a wrapper, a
service) writes the same two methods, and hands them to the stateful machine.
"""

from __future__ import annotations

import os
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from hubstate.actions import Decision
from hubstate.clock import Clock
from hubstate.events import Event
from hubstate.hubs.base import Hub
from hubstate.receipt import Receipt
from hubstate.session import Session
from hubstate.states import State
from hubstate.sync import Remainder
from hubstate.testing.clock import FakeClock
from hubstate.testing.one_thread import open_session

__all__ = ["NAME", "Delivering", "OwnSession", "Subject", "UnderTest"]

#: What the sessions of the machine are called.
NAME = "digits"


class UnderTest(Protocol):
    """An open session: the part of `hubstate.Session` that the machine uses."""

    @property
    def id(self) -> str: ...
    @property
    def state(self) -> State: ...
    @property
    def receipt(self) -> Receipt: ...
    def tell(self, kind: type[Event], /, *fields: Any, **named: Any) -> Decision: ...
    def log(
        self, metrics: Mapping[str, Any], *, epoch: int | None = None, step: int | None = None
    ) -> None: ...
    def save(
        self,
        path: str | os.PathLike[str],
        *,
        epoch: int | None = None,
        fitness: float | None = None,
        kind: str = "last",
    ) -> None: ...
    def flush(self, timeout: float = 30.0) -> bool: ...
    def close(self) -> None: ...


class Delivering(Protocol):
    """A session that nobody trains any more, opened to deliver what it holds."""

    def step(self) -> float:
        """Delivers a little; returns the seconds until it wants to be called again."""
        ...

    def close(self) -> None:
        """Lets go of it."""
        ...


class Subject(Protocol):
    """Opens sessions. All that delivers does so when somebody waits on the clock, and at no other time."""

    def begin(
        self, directory: Path, clock: FakeClock, hub: Hub, *, resume: str | bool, mode: str, usage: bool
    ) -> UnderTest:
        """A session in `directory`: the one with the id `resume`, or (False) a new one. `mode`: `on` or `off`."""
        ...

    def deliver(self, directory: Path, session: str, clock: Clock, hub: Hub) -> Delivering:
        """The session with this id, to be delivered without a trainer."""
        ...


class OwnSession:
    """hubstate's own way: `begin` with its sender's turns taken in this thread, and `sync.Remainder`."""

    def begin(
        self, directory: Path, clock: FakeClock, hub: Hub, *, resume: str | bool, mode: str, usage: bool
    ) -> Session:
        """A session, as `hubstate.start` opens it."""
        return open_session(NAME, directory, clock, hub, resume=resume, mode=mode, usage=usage)

    def deliver(self, directory: Path, session: str, clock: Clock, hub: Hub) -> Remainder:
        """A session, as `hubstate sync` opens it."""
        return Remainder(directory / session, hub, clock, random.Random(0))  # noqa: S311 - repeatable chance
