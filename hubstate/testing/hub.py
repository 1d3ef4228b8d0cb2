"""A hub in memory that behaves as a good one does, and as badly as it is told to.

It keeps to the same promises as a hub of one's own, and the same tests hold both (`HubTests`): a request that is
repeated under its key is acknowledged again and held once; of a session that is not open here it takes nothing; rows
of an older attempt that begin again are not in force any more. Faults are said beforehand (`fault`, `outage`), and
happen one request at a time. With a clock, the time that an answer takes passes on it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from hubstate.actions import (
    CloseSession,
    EndSession,
    Heartbeat,
    OpenSession,
    RecordUsage,
    Row,
    SendCheckpoint,
    SendRows,
)
from hubstate.clock import VirtualClock
from hubstate.hubs.base import Accepted, Capabilities, Declined, Delayed, News, Parcel, Reply
from hubstate.proof.faults import OFFLINE, Fault
from hubstate.states import CheckpointKind

__all__ = ["FakeHub"]


class FakeHub:
    """A hub in memory: a `Hub` for whoever sends, with everything that it holds in plain sight.

    `holds`: what it holds, by the key of the request, in order of arrival. `requests`: all that were tried.
    `contradictions`: keys that came a second time with other content, which must never be.
    """

    capabilities = Capabilities(folders=True)

    def __init__(self, clock: VirtualClock | None = None, *, address: str = "http://hub.test") -> None:
        self.address = address
        self.requests: list[Parcel] = []
        self.holds: dict[str, Parcel] = {}
        self.heartbeats: list[Heartbeat] = []
        self.contradictions: list[str] = []
        #: Told of each request that arrives whole, before it is answered, and whether it was new.
        self.arrived: Callable[[Parcel, bool], None] | None = None
        self._clock = clock
        self._faults: deque[Fault] = deque()
        self._always: Fault | None = None
        self._news = News()
        self._answers = 0

    # -- what it is told to do -----------------------------------------------------------------------------

    def fault(self, *faults: Fault) -> None:
        """What becomes of the next requests, one after the other; behind them all is well again."""
        self._faults.extend(faults)

    @contextmanager
    def outage(self, fault: Fault = OFFLINE) -> Iterator[None]:
        """What becomes of every request meanwhile."""
        self.fail(fault)
        try:
            yield
        finally:
            self.recover()

    def fail(self, fault: Fault = OFFLINE) -> None:
        """What becomes of every request from now on."""
        self._always = fault

    def recover(self) -> None:
        """All is well from now on."""
        self._always = None
        self._faults.clear()

    def say(self, news: News) -> None:
        """What every answer tells beside the receipt, such as a wish to stop."""
        self._news = news

    # -- what it holds -------------------------------------------------------------------------------------

    @property
    def rows(self) -> list[Row]:
        """The rows in force, in order of their numbers: none of an attempt that a later one replaced."""
        rows = {row.number: row for parcel in self.holds.values() for row in parcel.rows}
        opened = [p.action for p in self.holds.values() if isinstance(p.action, OpenSession)]
        return [
            row
            for _, row in sorted(rows.items())
            if not any(o.attempt > row.attempt and o.first_epoch <= row.epoch for o in opened)
        ]

    @property
    def files(self) -> list[tuple[SendCheckpoint, str]]:
        """The checkpoints, in order of arrival, each with the SHA-256 (hex) of the file."""
        return [(p.action, p.sha256) for p in self.holds.values() if isinstance(p.action, SendCheckpoint)]

    @property
    def final(self) -> str | None:
        """The SHA-256 (hex) of the final checkpoint; a later attempt's replaces an earlier one's."""
        finals = [(a.attempt, sha256) for a, sha256 in self.files if a.kind is CheckpointKind.FINAL]
        return max(finals, key=lambda final: final[0])[1] if finals else None

    @property
    def ended(self) -> CloseSession | EndSession | None:
        """The last word about a session, if it came."""
        words = [p.action for p in self.holds.values() if isinstance(p.action, CloseSession | EndSession)]
        return words[-1] if words else None

    # -- what a sender asks of it --------------------------------------------------------------------------

    @property
    def moved(self) -> int:
        """How many answers there were."""
        return self._answers

    def check(self) -> Reply:
        """Asks whether it is there and takes the key. Only an outage is in the way: faults wait for deliveries."""
        if self._always is not None and self._always.heard is not None:
            return self._always.heard
        return Accepted()

    def deliver(self, parcel: Parcel) -> Reply:
        """One request, and what is heard of it."""
        self.requests.append(parcel)
        fault = self._faults.popleft() if self._faults else self._always
        if fault is None:
            return self._answer(parcel)
        reply = self._answer(parcel) if fault.arrives else None
        if fault.seconds and self._clock is not None:
            self._clock.advance(fault.seconds)
        heard = fault.heard or reply
        assert heard is not None, "a fault that tells nothing lets the hub answer"
        if isinstance(heard, Declined) or (isinstance(heard, Delayed) and heard.status is not None):
            self._answers += 1
        return heard

    def close(self) -> None:
        """Lets go of the connections, of which it has none."""

    def _answer(self, parcel: Parcel) -> Reply:
        self._answers += 1
        action = parcel.action
        news = self._news
        if not isinstance(action, OpenSession | EndSession) and not self._knows(parcel):
            return Declined("this session is not open here", 404)
        if isinstance(action, Heartbeat):
            self.heartbeats.append(action)
        elif not isinstance(
            action, RecordUsage | SendRows | SendCheckpoint | OpenSession | CloseSession | EndSession
        ):
            return Declined(f"{type(action).__name__} is nothing for a hub", 400)
        new = not isinstance(action, Heartbeat) and self._hold(parcel)
        if self.arrived is not None:
            self.arrived(parcel, new)
        told = News(
            hub=self.address,
            model=parcel.session,
            url=f"{self.address}/models/{parcel.session}",
            stop=news.stop,
            metrics_interval=news.metrics_interval,
            checkpoint_interval=news.checkpoint_interval,
            heartbeat_interval=news.heartbeat_interval,
        )
        return Accepted(rows=len(parcel.rows), sha256=parcel.sha256, news=told)

    def _knows(self, parcel: Parcel) -> bool:
        return any(
            isinstance(held.action, OpenSession) and held.session == parcel.session
            for held in self.holds.values()
        )

    def _hold(self, parcel: Parcel) -> bool:
        """Holds a request, and tells whether it is new; a repeat must bring what the first one brought."""
        known = self.holds.get(parcel.key)
        if known is None:
            self.holds[parcel.key] = parcel
            return True
        if (known.action, known.rows, known.sha256) != (parcel.action, parcel.rows, parcel.sha256):
            self.contradictions.append(parcel.key)
        return False
