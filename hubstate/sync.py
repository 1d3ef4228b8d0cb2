"""Delivering without training: what a session still holds leaves from any later process.

`Remainder` is one such session, opened for delivery alone: it sends no heartbeats, for nobody trains. `deliver`
steps one to its end.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from pathlib import Path

from hubstate.actions import Decision, Memory
from hubstate.clock import Clock
from hubstate.events import GiveUp, RetryRefused
from hubstate.hubs.base import Hub
from hubstate.opening import Opened, needed_snapshots, reopen
from hubstate.outbox import FILES, WORDS
from hubstate.receipt import Receipt, receipt_of
from hubstate.sender import Sender

__all__ = ["Remainder", "deliver", "has_undelivered"]

#: How long `deliver` waits while nothing moves (seconds). Longer than the metrics interval, so that rows which no
#: send was asked for are asked for and leave.
PATIENCE = 10.0


def has_undelivered(memory: Memory) -> bool:
    """Whether something waits that a hub could take: refused deliveries do not, until they are retried."""
    receipt = receipt_of(memory)
    return receipt.waiting > 0


class Remainder:
    """One session without a trainer, owned by this process until `close`.

    Raises on making what `opening.reopen` raises: `SessionBusy`, `JournalDamaged`, `StorageError`.
    """

    def __init__(self, folder: Path, hub: Hub, clock: Clock, chance: random.Random) -> None:
        self._opened: Opened = reopen(folder, clock, self._heard)
        self._outbox = self._opened.outbox()
        self._outbox.hurry()
        self._sender = Sender(
            self._opened.door, self._outbox, hub, self._opened.snapshots.path, chance=chance, alive=False
        )

    @property
    def memory(self) -> Memory:
        """The session's memory as it is now."""
        return self._opened.door.memory

    @property
    def moved(self) -> int:
        """Grows while something is delivered."""
        return self._sender.moved

    def retry_refused(self) -> None:
        """Tries refused deliveries once more."""
        self._opened.door.tell(RetryRefused)

    def give_up(self, reason: str) -> None:
        """Gives up what waits or is refused, where the state allows it."""
        self._opened.door.tell(GiveUp, reason)

    def step(self) -> float:
        """One parcel of words and one of files at most; returns the seconds until it wants to be called again."""
        rest = self._sender.step(WORDS)
        return min(rest, self._sender.step(FILES))

    def close(self) -> None:
        """Lets go of the session, and not of the hub, which others may share."""
        self._outbox.close()
        self._opened.close()

    def _heard(self, before: Memory, decision: Decision) -> None:
        for snapshot in needed_snapshots(before) - needed_snapshots(decision.memory):
            self._opened.snapshots.discard(snapshot)


def deliver(
    remainder: Remainder,
    clock: Clock,
    *,
    patience: float = PATIENCE,
    show: Callable[[Memory], None] | None = None,
) -> Receipt:
    """Steps a session until nothing waits, or until nothing has moved for `patience` seconds.

    `show` is called with the memory after every step. Raises what this machine does to the outbox or the journal.
    """
    never = threading.Event()
    moved, since = remainder.moved, clock.monotonic()
    while has_undelivered(remainder.memory):
        rest = remainder.step()
        if show is not None:
            show(remainder.memory)
        now = clock.monotonic()
        if remainder.moved != moved:
            moved, since = remainder.moved, now
        left = patience - (now - since)
        if left <= 0:
            break
        if rest > 0:
            clock.wait(never, min(rest, left))
    return receipt_of(remainder.memory)
