"""Delivering without training: what a session still holds leaves from any later process.

`Remainder` is one such session, opened for delivery alone: it sends no heartbeats, for nobody trains. `deliver`
steps one to its end.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hubstate.actions import CloseSession, Decision, Memory, OpenSession
from hubstate.clock import Clock
from hubstate.errors import HubError, HubRefused, HubUnreachable, StorageError, UsageError
from hubstate.events import Abort, GiveUp, PretrainRoutineEnd, RetryRefused, TrainStart
from hubstate.hubs.base import Delayed, Hub
from hubstate.journal import compress_closed
from hubstate.limits import next_due
from hubstate.log import log
from hubstate.opening import Opened, discard_needless, reopen
from hubstate.outbox import FILES, WORDS
from hubstate.receipt import Receipt, receipt_of
from hubstate.sender import Sender
from hubstate.settings import Settings
from hubstate.states import Outcome, State

__all__ = [
    "OPEN_ENDED",
    "Remainder",
    "asked",
    "conclude",
    "deliver",
    "give_up",
    "has_undelivered",
    "hub_for",
    "tidy",
    "with_why",
]

#: How long `deliver` waits while nothing moves (seconds).
PATIENCE = 10.0

#: The states in which nobody has said yet that the training is over.
OPEN_ENDED = (State.SESSION_CREATED, State.TIMING, State.TRAINING)


def has_undelivered(memory: Memory) -> bool:
    """Whether something waits that can leave without another word of anybody: a hub could take it, now or later.

    What was refused cannot until it is retried; nor can what waits behind it: all that stands behind a refused opening,
    and the closing, which says that everything was delivered. Rows that no send was asked for yet are asked for by time
    alone, as long as nobody said that the training is over.
    """
    refused = {refused.key for refused in memory.refused}
    for action in memory.outstanding:
        if action.key not in refused:
            if not (refused and isinstance(action, CloseSession)):
                return True
        elif isinstance(action, OpenSession):
            return False
    return memory.state in OPEN_ENDED and memory.rows > memory.rows_asked


class Remainder:
    """One session without a trainer, owned by this process until `close`.

    Raises on making what `opening.reopen` raises (`SessionBusy`, `JournalDamaged`, `StorageError`), and what SQLite does.
    """

    def __init__(self, folder: Path, hub: Hub, clock: Clock, chance: random.Random) -> None:
        self._opened: Opened = reopen(folder, clock, self._heard)
        try:
            self._outbox = self._opened.outbox()
        except BaseException:  # undone, and raised as it came
            self._opened.close()
            raise
        try:
            self._outbox.hurry()
        except BaseException:  # as above, with the outbox
            self.close()
            raise
        self._sender = Sender(
            self._opened.door, self._outbox, hub, self._opened.snapshots.path, chance=chance, alive=False
        )
        if self.memory.rows > self.memory.rows_asked:
            self._say_what_was_begun()

    def _say_what_was_begun(self) -> None:
        """Says the words that an attempt did not come to, for rows of earlier ones are asked for in a training alone.

        Whoever went on with a session and was killed before the first row would else leave them to the next attempt.
        """
        if self.memory.state is State.SESSION_CREATED:
            self._opened.door.tell(PretrainRoutineEnd)
        if self.memory.state is State.TIMING:
            self._opened.door.tell(TrainStart)

    @property
    def folder(self) -> Path:
        """Where the session lies."""
        return self._opened.folder

    @property
    def memory(self) -> Memory:
        """The session's memory as it is now."""
        return self._opened.door.memory

    @property
    def is_through(self) -> bool:
        """Whether nothing can leave any more, and what was heard about it is written."""
        return not (has_undelivered(self.memory) or self._opened.door.unwritten)

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
        rest = min(rest, self._sender.step(FILES))
        if self._opened.snapshots.needless:
            self._opened.sync()
        return rest

    def due_in(self) -> float | None:
        """Seconds until time alone makes something due that nobody asked for yet; None if something is asked for already."""
        memory = self.memory
        refused = {refused.key for refused in memory.refused}
        if any(action.key not in refused for action in memory.outstanding):
            return None
        return next_due(memory, self._opened.door.now(), heartbeats=False)

    def pack(self) -> None:
        """Compresses the journal's closed segments. What cannot be compressed stays as it is, and is logged."""
        try:
            compress_closed(self._opened.folder, self._opened.door.written()[0])
        except StorageError as failure:
            log("hubstate.sync").warning("hubstate.journal_not_compressed", reason=str(failure))

    def close(self) -> None:
        """Lets go of the session, and not of the hub, which others may share. Raises `StorageError` as `Opened.close`."""
        try:
            self._outbox.close()
        finally:
            self._opened.close()

    def _heard(self, before: Memory, decision: Decision) -> None:
        discard_needless(self._opened.snapshots, before, decision.memory)


def deliver(
    remainder: Remainder,
    clock: Clock,
    *,
    patience: float = PATIENCE,
    show: Callable[[Memory], None] | None = None,
) -> Receipt:
    """Steps a session until nothing can leave any more, or until nothing has moved for `patience` seconds.

    Where nothing but time is waited for, until rows become due that no send was asked for, its patience does not end:
    another call could do nothing before that either. What was closed of the journal is compressed behind it. `show` is called with the memory after every step. Raises what this machine does to the outbox or the journal.
    """
    never = threading.Event()
    moved, since = remainder.moved, clock.monotonic()
    while not remainder.is_through:
        rest = remainder.step()
        if show is not None:
            show(remainder.memory)
        now = clock.monotonic()
        due_in = remainder.due_in()
        if remainder.moved != moved or due_in is not None:
            moved, since = remainder.moved, now
        left = patience - (now - since) if due_in is None else max(patience, due_in)
        if left <= 0:
            break
        if rest > 0:
            clock.wait(never, min(rest, left))
    remainder.pack()
    return receipt_of(remainder.memory)


def conclude(folder: Path, outcome: Outcome, reason: str, clock: Clock) -> Memory:
    """Ends the training of the session in `folder` if nobody ended it, now that nobody can; else changes nothing.

    Raises what `opening.reopen` raises.
    """
    with _opened(folder, clock) as opened:
        if opened.door.memory.state in OPEN_ENDED:
            opened.door.tell(Abort, outcome=outcome, reason=reason)
        return opened.door.memory


def give_up(folder: Path, reason: str, clock: Clock) -> Memory:
    """Gives up what waits or is refused in the session that lies in `folder`; no hub is needed for that.

    A training that nobody ended is ended first, by the same word: outcome `unknown`. What is left to deliver then is
    at most the word of the end, to a hub that knows the session. Raises what `opening.reopen` raises.
    """
    with _opened(folder, clock) as opened:
        if opened.door.memory.state in OPEN_ENDED:
            opened.door.tell(Abort, outcome=Outcome.UNKNOWN, reason=reason)
        if opened.door.memory.state is not State.IDLE:
            opened.door.tell(GiveUp, reason)
        if opened.door.memory.hub is None and opened.door.memory.outstanding:
            opened.door.tell(GiveUp, reason)  # no hub holds anything of it, so none can hear of its end
        return opened.door.memory


def tidy(folder: Path, clock: Clock) -> None:
    """Removes the copies that whoever died left behind and that nobody needs. Raises what `opening.reopen` raises."""
    with _opened(folder, clock):
        pass  # they are put off by opening it, and go when it is closed: the disk keeps by then what made them needless


@contextmanager
def _opened(folder: Path, clock: Clock) -> Iterator[Opened]:
    """A session without a sender; the copies that nobody needs any more go while it is open."""

    def heard(before: Memory, decision: Decision) -> None:
        discard_needless(opened.snapshots, before, decision.memory)

    opened = reopen(folder, clock, heard)
    try:
        yield opened
    finally:
        opened.close()


def hub_for(memory_hub: str | None, wanted: str | None, configured: str | None) -> str:
    """The address of the hub that a session goes to: the one it belongs to, else the wanted, else the configured one.

    Raises `UsageError` if another one than its own is wanted, or if there is none at all.
    """
    if memory_hub is not None:
        if wanted not in (None, memory_hub):
            raise UsageError(
                f"it belongs to {memory_hub}, which holds its beginning already, and cannot go to {wanted}: "
                "sync it without --hub"
            )
        return memory_hub
    address = wanted or configured
    if address is None:
        raise UsageError("no hub is set: name one by --hub URL, HUBSTATE_HUB, or `hubstate login URL`")
    return address


def asked(hub: Hub) -> None:
    """Asks whether the hub is there and takes the key.

    Raises `HubRefused` if it does not take it, and `HubUnreachable` if there is no telling. A hub that asks for a
    pause is there.
    """
    reply = hub.check()
    if isinstance(reply, Delayed) and reply.condition == "credentials_rejected":
        raise HubRefused(
            f"{hub.address} refused the API key: {reply.reason}; give a good one by `hubstate login {hub.address}` "
            "or HUBSTATE_API_KEY",
            credentials=True,
        )
    if isinstance(reply, Delayed) and reply.condition != "rate_limited":
        raise HubUnreachable(f"{hub.address} cannot be had: {reply.reason}")


def with_why(failure: HubError, found: Settings) -> HubError:
    """A failure for want of a key or of a certificate, with the reason why the one that is set was not shown."""
    refused = isinstance(failure, HubRefused) and failure.credentials
    withheld = (found.key_withheld if refused else "", found.mlflow.withheld)
    if not any(withheld):
        return failure
    told = "; ".join((str(failure), *filter(None, withheld)))
    if isinstance(failure, HubRefused):
        return HubRefused(told, credentials=failure.credentials)
    return HubUnreachable(told)
