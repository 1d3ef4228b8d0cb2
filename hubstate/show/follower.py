"""All sessions, round by round: first what their journals say, the newest first, then their checkpoints, one by one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import sqlalchemy

from hubstate.errors import StorageError
from hubstate.server.answers import Problem
from hubstate.server.mirror import Mirror
from hubstate.show.followed import Followed

__all__ = ["Follower"]


class Follower:
    """Fills a store from journals. One thread calls `look`; the store may be read meanwhile.

    `places`: the folders of the sessions, asked anew in each round.
    """

    def __init__(self, store: Mirror, places: Callable[[], list[Path]]) -> None:
        self._store = store
        self._places = places
        self._known: dict[str, Followed] = {}
        #: Set when everything that the journals said in the first round is shown.
        self.caught_up = threading.Event()

    def look(self, now: float, stop: threading.Event | None = None) -> bool:
        """One round; whether more is left to be shown just now. `now`: seconds since 1970; `stop` ends it early.

        Raises `StorageError` if the store takes nothing.
        """
        stop = stop or threading.Event()
        # Where two folders hold the same session, the first one is shown.
        there = {folder.name: folder for folder in reversed(self._places())}
        unshown: list[str] = []
        try:
            for name in self._known.keys() - there.keys():
                self._known.pop(name).forget()
            for name in sorted(there, reverse=True):
                if name not in self._known:
                    self._known[name] = Followed(self._store, there[name])
                try:
                    if stop.is_set() or not self._known[name].read_on(now, stop):
                        return False
                except Problem as problem:  # one that a hub would not take hides no other
                    unshown.append(f"{there[name]} cannot be shown: {problem.message}")
            self.caught_up.set()
            if unshown:
                raise StorageError("; ".join(unshown))
            newest_first = sorted(self._known, reverse=True)
            return any(self._known[name].show_next_copy() for name in newest_first)
        except sqlalchemy.exc.SQLAlchemyError as error:
            raise StorageError(f"the pages' temporary folder takes nothing: {error}") from error
