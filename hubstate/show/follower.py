"""All sessions, turn by turn: first what their journals say, then their checkpoints, one by one.

A turn is short, whatever there is to read. The sessions that a process trains come in every turn; the others are read
when all of them are gone through, the newest first, and a long journal goes to the end of the queue after each piece.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path

import sqlalchemy

from hubstate.errors import StorageError
from hubstate.log import log
from hubstate.server.answers import Problem
from hubstate.server.mirror import Mirror
from hubstate.show.followed import Followed

__all__ = ["Follower"]

#: How many lines are read in a turn, of one session and of all.
_TURN = 5_000
#: What it costs to look at a session without anything new, in lines.
_LOOK = 20


class Follower:
    """Fills a store from journals. One thread calls `look`; the store may be read meanwhile.

    `places`: the folders of the sessions.
    """

    def __init__(self, store: Mirror, places: Callable[[], list[Path]]) -> None:
        self._store = store
        self._places = places
        self._known: dict[str, Followed] = {}
        self._queue: deque[str] = deque()
        #: Why the store does not take a session.
        self._unshown: dict[str, str] = {}
        #: Set when everything that the journals said at first is shown.
        self.caught_up = threading.Event()

    def look(self, now: float, stop: threading.Event | None = None, *, everything: bool = True) -> bool:
        """One turn; whether more is left to be shown just now. `now`: seconds since 1970.

        `everything`: when all have been gone through, that begins anew. `stop` ends it early. Raises `StorageError` if
        the store takes nothing. A session that the store does not take is logged, and keeps no other from being shown.
        """
        stop = stop or threading.Event()
        try:
            if everything and not self._queue:
                self._list()
            self._read(now, stop)
            if self._queue:
                return True
            self.caught_up.set()
            return any(self._known[name].show_next_copy() for name in sorted(self._known, reverse=True))
        except sqlalchemy.exc.SQLAlchemyError as error:
            raise StorageError(f"the pages' temporary folder takes nothing: {error}") from error

    def _list(self) -> None:
        """Looks which sessions there are; all of them are to be read."""
        # Where two folders hold the same session, the first one is shown.
        there = {folder.name: folder for folder in reversed(self._places())}
        for name in self._known.keys() - there.keys():
            self._known.pop(name).forget()
            self._unshown.pop(name, None)
        for name in sorted(there, reverse=True):
            if name not in self._known:
                self._known[name] = Followed(self._store, there[name])
            self._queue.append(name)

    def _read(self, now: float, stop: threading.Event) -> None:
        lines = 0
        live = [name for name, known in self._known.items() if known.lives and name not in self._queue]
        self._queue.extendleft(reversed(live))
        while self._queue and (live or lines < _TURN) and not stop.is_set():
            name = self._queue.popleft()
            known = self._known[name]
            try:
                lines += _LOOK + known.read_on(now, _TURN)
                self._unshown.pop(name, None)
            except Problem as problem:
                self._tell(known, problem.message)
            if known.behind:
                self._queue.append(name)
            if name in live:
                live.remove(name)

    def _tell(self, known: Followed, reason: str) -> None:
        """Logs why a session is not shown: once, until it is shown again or the reason is another one."""
        if self._unshown.get(known.folder.name) != reason:
            self._unshown[known.folder.name] = reason
            log("hubstate.show").warning("hubstate.session_unshown", folder=str(known.folder), reason=reason)
