"""How many rows each session has: counted once, and then only what came since."""

from __future__ import annotations

import threading

from sqlalchemy import Connection, RowMapping

from hubstate.server import rows

__all__ = ["Counts"]


class Counts:
    """How many rows each session has, counted once and then only what came since.

    A session from which nothing was heard since it was last counted has as many as then.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[str, tuple[float, float, int, int]] = {}

    def of(self, connection: Connection, session: RowMapping, newest: int) -> int:
        """The rows of a session. `newest`: the number of the row that arrived last, whosever it is."""
        key, born, heard = session["id"], session["created_at"], session["last_contact"]
        with self._lock:
            known = self._known.get(key)
        if known is not None and known[:2] == (born, heard):
            return known[3]
        upto, count = (known[2], known[3]) if known is not None and known[0] == born else (0, 0)
        count += rows.counted(connection, key, upto, newest)
        upto = newest
        with self._lock:
            self._known[key] = (born, heard, upto, count)
        return count
