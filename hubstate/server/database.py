"""The SQLite file that holds the hub's tables.

One writer at a time: a write takes SQLite's lock when it begins (`BEGIN IMMEDIATE`), so that it never finds out
half-way that somebody else was first; readers see the last committed state and wait for nobody (WAL).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy
from sqlalchemy import Connection, event
from sqlalchemy.engine import URL

from hubstate.errors import StorageError
from hubstate.server.migrations import bring_up_to_date

__all__ = ["Database"]


class Database:
    """The SQLite file at `path`, made if it is not there.

    Raises `StorageError` if it cannot be opened, is damaged, or was written by a newer hubstate; and while another
    hubstate's hub runs over an older one.
    """

    def __init__(self, path: Path) -> None:
        self._writing = threading.Lock()
        self._engine = sqlalchemy.create_engine(
            URL.create("sqlite", database=str(path)),
            connect_args={"timeout": 30.0},
            pool_size=4,
            max_overflow=60,
        )
        event.listen(self._engine, "connect", _on_connect)
        event.listen(self._engine, "begin", _on_begin)
        try:
            with self.writing() as connection:
                bring_up_to_date(connection, path)
        except sqlalchemy.exc.DatabaseError as error:
            self.close()
            raise StorageError(f"cannot use the hub's database {path}: {error.orig}") from error
        except StorageError:
            self.close()
            raise

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection that sees one moment of the database."""
        with self._engine.connect() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction: committed when the block ends, rolled back when it raises."""
        with (
            self._writing,
            self._engine.connect().execution_options(writes=True) as connection,
            connection.begin(),
        ):
            yield connection

    def close(self) -> None:
        """Lets go of the file."""
        self._engine.dispose()


def _on_connect(connection: object, _record: object) -> None:
    # The driver must not begin transactions by itself: `_on_begin` does.
    connection.isolation_level = None  # type: ignore[attr-defined]
    cursor = connection.cursor()  # type: ignore[attr-defined]
    cursor.execute("PRAGMA journal_mode = WAL")
    # An acknowledged row or file must survive a power cut: the client forgets what was acknowledged.
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.close()


def _on_begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
