"""How many rows each session has: counted once, and then only what came since."""

from __future__ import annotations

import threading
from typing import NamedTuple

from sqlalchemy import Connection, RowMapping

from hubstate.server import rows

__all__ = ["Counts"]


class _Count(NamedTuple):
    """The rows of a session that began at `born`, when it was last heard of at `heard` and `newest` was the newest of all."""

    born: float
    heard: float
    newest: rows.Newest
    rows: int


class Counts:
    """The counts. A session from which nothing was heard since it was last counted has as many rows as then."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[str, _Count] = {}

    def of(self, connection: Connection, session: RowMapping, newest: rows.Newest) -> int:
        """The rows of a session. `newest`: the row that arrived last, whosever it is."""
        key, born, heard = session["id"], session["created_at"], session["last_contact"]
        with self._lock:
            known = self._known.get(key)
        if known is not None and (known.born, known.heard) == (born, heard):
            return known.rows
        after, count = 0, 0
        if known is not None and known.born == born and rows.is_here(connection, known.newest):
            after, count = known.newest.n, known.rows
        count += rows.counted(connection, key, after, newest.n)
        with self._lock:
            self._known[key] = _Count(born, heard, newest, count)
        return count
