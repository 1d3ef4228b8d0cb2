"""What leaves from a process that trains: its own session first, and behind it what older sessions still hold."""

from __future__ import annotations

import random
import sqlite3
from contextlib import ExitStack
from pathlib import Path

from hubstate.clock import Clock
from hubstate.errors import JournalDamaged, SessionBusy, StorageError
from hubstate.hubs.base import Hub
from hubstate.index import sessions_in
from hubstate.journal import compress_closed, segments
from hubstate.log import log
from hubstate.opening import Opened, leftovers, peek
from hubstate.outbox import FILES
from hubstate.ownership import owner_of
from hubstate.sender import IDLE, Sender
from hubstate.sync import Remainder, has_undelivered, tidy

__all__ = ["Backlog", "Posting"]


#: Between two looks into a journal (seconds): a look reads it, and a training thread wants the interpreter too.
BETWEEN_LOOKS = 0.05
#: How often a backlog is looked through anew (seconds).
LOOK_AGAIN = 60.0
#: How long a session of which nothing leaves keeps others waiting (seconds): at first, and at most. Each change of turn
#: costs a segment of a journal, and while the hub is away none helps: so the turns become longer until something leaves.
SHORTEST_TURN, LONGEST_TURN = 60.0, 3_600.0


class Posting:
    """What the sender's threads step: this session first, and on the files' thread what older ones still hold.

    The files' thread also compresses the segments of the journal that are closed, when it has nothing to send.
    """

    def __init__(
        self, opened: Opened, hub: Hub | None, clock: Clock, chance: random.Random, directory: Path
    ) -> None:
        self._hub = hub
        self._opened = opened
        #: The segment before which all are compressed.
        self._packed = 0
        self._outbox = opened.outbox()
        try:
            # How long an earlier process meant to wait until its next try says nothing about now.
            self._outbox.hurry()
        except BaseException:  # whatever it is goes on; but nobody would hold what could let go of the outbox
            self._outbox.close()
            raise
        self._sender: Sender | None = None
        self._backlog: Backlog | None = None
        if hub is not None:
            self._sender = Sender(opened.door, self._outbox, hub, opened.snapshots.path, chance=chance)
            self._backlog = Backlog(directory, opened.folder.name, hub, clock, chance)

    @property
    def moved(self) -> int:
        return 0 if self._sender is None else self._sender.moved

    def hurry(self) -> None:
        """Whoever waits wants the next try now."""
        self._outbox.hurry()

    def step(self, lane: str) -> float:
        rest = IDLE if self._sender is None else self._sender.step(lane)
        if lane == FILES and rest > 0:
            self._pack()
            if self._backlog is not None:
                rest = min(rest, self._backlog.step())
        return rest

    def _pack(self) -> None:
        """Compresses what was closed since the last look. What cannot be compressed stays as it is, and is logged once."""
        current, _ = self._opened.door.written()
        if current == self._packed:
            return
        self._packed = current
        try:
            compress_closed(self._opened.folder, current)
        except StorageError as failure:
            log("hubstate.backlog").warning("hubstate.journal_not_compressed", reason=str(failure))

    def close(self) -> None:
        with ExitStack() as rest:  # each is let go of, whatever the one before it raises
            if self._hub is not None:
                rest.callback(self._hub.close)
            rest.callback(self._outbox.close)
            if self._backlog is not None:
                self._backlog.close()


class Backlog:
    """What the older sessions in `directory` still hold for one hub, delivered one session after the other.

    Stepped by one thread. `mine` is the session that trains; it and any that a living process owns are left alone. A
    session of which nothing leaves for long lets another one try, for a hub may fail at it alone. What a journal told
    is remembered: as long as nobody writes in it, a session with nothing to do costs a look at its folder, and no
    reading. What this machine does to an older session is logged, and hinders neither the next one nor who trains; that
    one is tried again later.
    """

    def __init__(self, directory: Path, mine: str, hub: Hub, clock: Clock, chance: random.Random) -> None:
        self._directory = directory
        self._mine = mine
        self._hub = hub
        self._clock = clock
        self._chance = chance
        self._folders: list[Path] | None = None
        self._current: Remainder | None = None
        #: Since when nothing has left of the current one, on the monotonic clock, and how long it may be so (seconds).
        self._since = 0.0
        self._turn = SHORTEST_TURN
        #: Where each journal ended that told of nothing to do here, by the session: its newest file, and its bytes.
        self._settled: dict[str, tuple[str, int]] = {}
        #: The sessions that this machine failed, and when each is tried again (on the monotonic clock).
        self._set_aside: dict[str, float] = {}

    def step(self) -> float:
        """One parcel, or one look into a journal; returns the seconds until it wants to be called again."""
        rest = LOOK_AGAIN
        if self._current is not None:
            rest = self._deliver(self._current)
            if rest <= 0 or not self._is_over():
                return rest
        folder = self._next()
        if folder is None:
            self._since = self._clock.monotonic()  # nobody else wants a turn
            return rest
        if not self._has_work(folder):
            return BETWEEN_LOOKS
        if self._current is not None:
            self._turn = min(LONGEST_TURN, 2 * self._turn)
            self._let_go()
        self._open(folder)
        return 0.0

    def close(self) -> None:
        """Lets go of the session that is being delivered."""
        self._let_go()

    # -- the session that has its turn -----------------------------------------------------------------------

    def _deliver(self, remainder: Remainder) -> float:
        """One step of the session that has its turn, which ends when nothing can leave any more."""
        before = remainder.memory.outstanding
        try:
            rest = remainder.step()
        except (StorageError, sqlite3.OperationalError) as failure:
            self._put_aside("hubstate.session_undelivered", remainder.folder, failure)
            self._let_go()
            return BETWEEN_LOOKS
        if remainder.memory.outstanding != before:
            self._since, self._turn = self._clock.monotonic(), SHORTEST_TURN
        if not remainder.is_through:
            return rest
        remainder.pack()
        self._let_go()
        return 0.0

    def _is_over(self) -> bool:
        return self._current is not None and self._clock.monotonic() - self._since >= self._turn

    def _open(self, folder: Path) -> None:
        self._since = self._clock.monotonic()
        try:
            self._current = Remainder(folder, self._hub, self._clock, self._chance)
        except SessionBusy:
            return  # another process was quicker
        except (StorageError, sqlite3.OperationalError) as failure:
            self._put_aside("hubstate.session_undelivered", folder, failure)

    def _let_go(self) -> None:
        if self._current is None:
            return
        current, self._current = self._current, None
        try:
            current.close()
        except StorageError as failure:
            # After a power cut something of it may leave once more, under the same key.
            self._put_aside("hubstate.session_unsynced", current.folder, failure)

    def _put_aside(self, what: str, folder: Path, failure: Exception) -> None:
        """Each try costs a segment of a journal, so what a full disk hinders is not tried at every look."""
        self._set_aside[folder.name] = self._clock.monotonic() + LONGEST_TURN
        log("hubstate.backlog").warning(what, folder=str(folder), reason=str(failure))

    # -- looking for the next one ----------------------------------------------------------------------------

    def _next(self) -> Path | None:
        """The next folder whose journal has to be read; None at the end of a round."""
        if self._folders is None:
            self._folders = [folder for folder in sessions_in(self._directory) if folder.name != self._mine]
        while self._folders:
            folder = self._folders.pop(0)
            if self._set_aside.get(folder.name, 0.0) > self._clock.monotonic():
                continue
            try:
                if self._settled.get(folder.name) != _end_of(folder) and owner_of(folder) is None:
                    return folder
            except (StorageError, OSError) as failure:
                self._put_aside("hubstate.session_unreadable", folder, failure)
        self._folders = None
        return None

    def _has_work(self, folder: Path) -> bool:
        """Reads a journal, and tells whether something of that session can leave. Tidies up what a death left there."""
        try:
            end = _end_of(folder)  # before it is read: what comes meanwhile is read again
            memory = peek(folder).memory
            # A session belongs to the first hub that acknowledged it.
            if has_undelivered(memory) and memory.hub in (None, self._hub.address):
                return True
            if leftovers(folder, memory):
                tidy(folder, self._clock)
        except SessionBusy:
            return False  # another process was quicker
        except (StorageError, OSError) as failure:
            self._put_aside("hubstate.session_unreadable", folder, failure)
            if not isinstance(failure, JournalDamaged):
                return False  # it may pass
        self._settled[folder.name] = end
        return False


def _end_of(folder: Path) -> tuple[str, int]:
    """Where a journal ends: it is never the same again once somebody has written in it."""
    for number in reversed(segments(folder)):
        for name in (f"journal-{number:06d}.jsonl", f"journal-{number:06d}.jsonl.gz"):
            if (folder / name).exists():
                return name, (folder / name).stat().st_size
    return "", 0
