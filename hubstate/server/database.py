"""The SQLite file that holds the hub's tables.

One writer at a time: a write takes SQLite's lock when it begins (`BEGIN IMMEDIATE`), so that it never finds out
half-way that somebody else was first; readers see the last committed state and wait for nobody (WAL).
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import sqlalchemy
from sqlalchemy import Connection, event
from sqlalchemy.engine import URL

from hubstate.errors import StorageError
from hubstate.log import log
from hubstate.server.migrations import bring_up_to_date

__all__ = ["Database", "bare", "if_lost", "not_taken", "unusable"]

#: How long a write waits for another process to end its own (seconds).
_PATIENCE = 30.0
#: How long a look waits. It waits only where another process closes or recovers the file just then (seconds).
_LOOK_PATIENCE = 5.0
#: What the connection that writes may hold of the file in memory (KiB): a write touches pages all over the indexes.
_CACHE = 32 * 1024
#: At so many pages in the log a write empties it itself, and keeps whoever waits for it waiting.
_LONGEST_LOG = 16_384
#: Where a connection holds what is to be undone.
_UNDOING = "undoing"


class Database:
    """The SQLite file at `path`, made if it is not there.

    `lasting`: what was committed survives a power cut; only a copy of what lies elsewhere does without. Raises
    `StorageError` if it cannot be opened, is damaged, or was written by a newer hubstate; and while another
    hubstate's hub runs over an older one.
    """

    def __init__(self, path: Path, *, lasting: bool = True) -> None:
        self._path = path
        self._writing = threading.Lock()
        self._looking = threading.Lock()
        self._looker: sqlite3.Connection | None = None
        on_connect = _on_connect if lasting else _on_connect_to_copy
        self._readers = _engine(path, "BEGIN", on_connect, pool_size=4, max_overflow=60)
        # All writes go by one connection: what another one writes makes SQLite forget all that it holds in memory.
        self._writer = _engine(path, "BEGIN IMMEDIATE", on_connect, pool_size=1, max_overflow=0)
        self._held: Connection | None = None
        event.listen(self._writer, "connect", _on_connect_to_write)
        try:
            with self.writing() as connection:
                bring_up_to_date(connection, path)
        except sqlalchemy.exc.DatabaseError as error:
            self.close()
            raise StorageError(unusable(path, error)) from error
        except StorageError:
            self.close()
            raise

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection that sees one moment of the database."""
        with self._readers.connect() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction: committed when the block ends, rolled back when it raises."""
        undoing: list[Callable[[], object]] = []
        try:
            with self._writing, self._kept() as connection:
                connection.info[_UNDOING] = undoing
                with connection.begin():
                    yield connection
        except BaseException as error:  # a Ctrl-C, too: nothing of it was committed
            for undo in undoing:
                try:
                    undo()
                except (
                    OSError
                ) as failure:  # what the database did not take is told; this, the start of the hub mends
                    log("hubstate.server").error("hubstate.hub_storage_failed", reason=str(failure))
            if isinstance(error, sqlite3.DatabaseError):  # of a statement that went past SQLAlchemy
                raise not_taken(error) from error
            raise

    @contextmanager
    def _kept(self) -> Iterator[Connection]:
        """The connection that writes, left open while all goes well: to take it anew each time costs a small write half
        of its time.
        """
        if self._held is None:
            self._held = self._writer.connect()
        try:
            yield self._held
        except BaseException:  # whatever it was, the next write begins with a fresh one
            held, self._held = self._held, None
            held.close()
            raise

    def look(self, query: str, *values: object) -> list[Any]:
        """The rows of one small query, as they are now: in some microseconds, so that it may be asked for each request."""
        with self._looking:
            try:
                if self._looker is None:
                    self._looker = sqlite3.connect(
                        self._path, timeout=_LOOK_PATIENCE, isolation_level=None, check_same_thread=False
                    )
                return self._looker.execute(query, values).fetchall()
            except sqlite3.DatabaseError as error:
                raise not_taken(error) from error

    def empty_log(self) -> None:
        """Moves what was committed from the write-ahead log to its place, so that the log begins anew.

        Most of it beside the writes that go on; only what these added meanwhile is moved while they wait.
        """
        connection = sqlite3.connect(self._path, timeout=_PATIENCE, isolation_level=None)
        try:
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
            with self._writing:
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
        finally:
            connection.close()

    def close(self) -> None:
        """Lets go of the file."""
        with self._looking:
            if self._looker is not None:
                self._looker.close()
                self._looker = None
        with self._writing:
            if self._held is not None:
                self._held.close()
                self._held = None
        self._readers.dispose()
        self._writer.dispose()


def not_taken(error: sqlite3.DatabaseError) -> sqlalchemy.exc.DatabaseError:
    """The error as SQLAlchemy would have said it. A damaged file is the disk's matter, like a full one, and no accident."""
    of_the_disk = isinstance(error, sqlite3.OperationalError) or _is_damage(error)
    kind = sqlalchemy.exc.OperationalError if of_the_disk else sqlalchemy.exc.DatabaseError
    return kind(None, None, error)


def _is_damage(error: BaseException) -> bool:
    """Whether the file is not what it should be."""
    return getattr(error, "sqlite_errorname", "").startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB"))


def unusable(path: Path, error: sqlalchemy.exc.DatabaseError) -> str:
    """What is wrong with the database at `path`, in words, and what helps."""
    helps = "bring a backup back by `hubstate restore`, or name another folder by --data-dir"
    what = f"cannot use the hub's database {path}: {error.orig}"
    return f"{what}; {helps}" if error.orig is not None and _is_damage(error.orig) else what


def if_lost(connection: Connection, undo: Callable[[], object]) -> None:
    """Has `undo` done if the transaction of `connection` is not committed: for what no database rolls back."""
    connection.info[_UNDOING].append(undo)


def bare(connection: Connection) -> sqlite3.Connection:
    """What lies below `connection`, in the same transaction: for the few statements that have to be quick."""
    return cast("sqlite3.Connection", connection.connection.driver_connection)


def _engine(
    path: Path, begin: str, on_connect: Callable[[object, object], None], **pool: int
) -> sqlalchemy.Engine:
    engine = sqlalchemy.create_engine(
        URL.create("sqlite", database=str(path)), connect_args={"timeout": _PATIENCE}, **pool
    )
    event.listen(engine, "connect", on_connect)
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql(begin))
    event.listen(engine, "handle_error", _tell_damage)
    return engine


def _tell_damage(context: sqlalchemy.ExceptionContext) -> None:
    """Makes of a damaged file what a full disk is: whatever expects the one expects the other."""
    error = context.original_exception
    if _is_damage(error) and not isinstance(context.sqlalchemy_exception, sqlalchemy.exc.OperationalError):
        raise sqlalchemy.exc.OperationalError(context.statement, None, error)


def _on_connect(connection: object, _record: object) -> None:
    # An acknowledged row or file must survive a power cut: the client forgets what was acknowledged.
    _set_up(connection, "FULL")


def _on_connect_to_copy(connection: object, _record: object) -> None:
    _set_up(connection, "OFF")


def _set_up(connection: object, synchronous: str) -> None:
    # The driver must not begin transactions by itself: `_on_begin` does.
    connection.isolation_level = None  # type: ignore[attr-defined]
    cursor = connection.cursor()  # type: ignore[attr-defined]
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute(f"PRAGMA synchronous = {synchronous}")
    cursor.close()


def _on_connect_to_write(connection: object, _record: object) -> None:
    cursor = connection.cursor()  # type: ignore[attr-defined]
    cursor.execute(f"PRAGMA cache_size = -{_CACHE}")
    cursor.execute(f"PRAGMA wal_autocheckpoint = {_LONGEST_LOG}")
    cursor.close()
