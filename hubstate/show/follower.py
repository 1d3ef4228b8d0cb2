"""All sessions, turn by turn: first what their journals say, then their checkpoints, one by one.

A turn is short, whatever there is to read. The sessions that a process trains come in every turn; the others are read
when all of them are gone through, the newest first, and a long journal goes to the end of the queue after each piece.
The kept checkpoints of a session are looked at when all of them are gone through, and when its journal said something
new: to look at those of thousands of sessions in every turn would keep a processor busy with nothing.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
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
    """Fills a store from journals. One thread calls `look` and `show_copies`; the store may be read meanwhile.

    `places`: the folders of the sessions.
    """

    def __init__(self, store: Mirror, places: Callable[[], list[Path]]) -> None:
        self._store = store
        self._places = places
        self._known: dict[str, Followed] = {}
        self._queue: deque[str] = deque()
        #: The sessions whose checkpoints may be others than when they were looked at, in the order of looking.
        self._due: OrderedDict[str, None] = OrderedDict()
        #: Why the store does not take a session.
        self._unshown: dict[str, str] = {}
        #: Set when everything that the journals said at first is shown.
        self.caught_up = threading.Event()

    def look(self, now: float, stop: threading.Event | None = None, *, everything: bool = True) -> bool:
        """One turn of reading; whether more is left to be read just now. `now`: seconds since 1970.

        `everything`: when all have been gone through, that begins anew. `stop` ends it early. Raises `StorageError` if
        the store takes nothing. A session that the store does not take is logged, and keeps no other from being shown.
        """
        with _taking():
            if everything and not self._queue:
                self._list()
            self._read(now, stop or threading.Event())
        if self._queue:
            return True
        self.caught_up.set()
        return False

    def show_copies(self, now: float, stop: threading.Event | None = None) -> bool:
        """One turn of checkpoints, which shows one at most; whether more are left to be looked at just now.

        As `look` otherwise.
        """
        with _taking():
            for name in list(islice(self._due, _TURN // _LOOK)):
                if stop is not None and stop.is_set():
                    break
                known = self._known[name]
                try:
                    if known.show_next_copy(now):
                        break  # it may have more of them
                except Problem as problem:
                    self._tell(known, problem.message)
                del self._due[name]
        return bool(self._due)

    def _list(self) -> None:
        """Looks which sessions there are; all of them are to be read."""
        # Where two folders hold the same session, the first one is shown.
        there = {folder.name: folder for folder in reversed(self._places())}
        for name in self._known.keys() - there.keys():
            self._known.pop(name).forget()
            self._unshown.pop(name, None)
            self._due.pop(name, None)
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
            if name not in live:
                self._due.setdefault(name)
            try:
                said = known.read_on(now, _TURN)
                lines += _LOOK + said
                self._unshown.pop(name, None)
                if said and (known.lives or name in live):
                    self._due[name] = None
                    self._due.move_to_end(name, last=False)  # it is the one that somebody looks at
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


@contextmanager
def _taking() -> Iterator[None]:
    """What the store's database does not take is said in words."""
    try:
        yield
    except sqlalchemy.exc.SQLAlchemyError as error:
        raise StorageError(f"the pages' temporary folder takes nothing: {error}") from error
