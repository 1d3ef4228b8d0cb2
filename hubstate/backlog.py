"""What leaves from a process that trains: its own session first, and behind it what older sessions still hold."""

from __future__ import annotations

import random
from pathlib import Path

from hubstate.clock import Clock
from hubstate.errors import JournalDamaged, SessionBusy, StorageError
from hubstate.hubs.base import Hub
from hubstate.index import sessions_in
from hubstate.journal import compress_closed
from hubstate.log import log
from hubstate.opening import Opened, peek
from hubstate.outbox import FILES
from hubstate.sender import IDLE, Sender
from hubstate.sync import Remainder, has_undelivered

__all__ = ["Backlog", "Posting"]


#: Between two looks into a folder (seconds): a look reads a journal, and a training thread wants the interpreter too.
BETWEEN_LOOKS = 0.05
#: How often a backlog is looked through anew (seconds).
LOOK_AGAIN = 60.0


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
        # How long an earlier process meant to wait until its next try says nothing about now.
        self._outbox.hurry()
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
        if self._backlog is not None:
            self._backlog.close()
        self._outbox.close()
        if self._hub is not None:
            self._hub.close()


class Backlog:
    """What the older sessions in `directory` still hold for one hub, delivered one session after the other.

    Stepped by one thread. `mine` is the session that trains; it and any that a living process owns are left alone.
    """

    def __init__(self, directory: Path, mine: str, hub: Hub, clock: Clock, chance: random.Random) -> None:
        self._directory = directory
        self._mine = mine
        self._hub = hub
        self._clock = clock
        self._chance = chance
        self._folders: list[Path] | None = None
        self._current: Remainder | None = None

    def step(self) -> float:
        """One parcel, or one look into a folder; returns the seconds until it wants to be called again."""
        if self._current is not None:
            rest = self._current.step()
            if has_undelivered(self._current.memory):
                return rest
            self._let_go()
        if self._folders is None:
            self._folders = [folder for folder in sessions_in(self._directory) if folder.name != self._mine]
        if not self._folders:
            self._folders = None
            return LOOK_AGAIN
        self._open(self._folders.pop(0))
        return 0.0 if self._current is not None else BETWEEN_LOOKS

    def close(self) -> None:
        """Lets go of the session that is being delivered."""
        self._let_go()

    def _open(self, folder: Path) -> None:
        try:
            seen = peek(folder)
            if seen.owner is not None or not has_undelivered(seen.memory):
                return
            # A session belongs to the first hub that acknowledged it.
            if seen.memory.hub not in (None, self._hub.address):
                return
            self._current = Remainder(folder, self._hub, self._clock, self._chance)
        except SessionBusy:
            return  # another process was quicker
        except (JournalDamaged, StorageError) as failure:
            log("hubstate.backlog").warning(
                "hubstate.session_unreadable", folder=str(folder), reason=str(failure)
            )

    def _let_go(self) -> None:
        if self._current is not None:
            self._current.close()
            self._current = None
