"""The hub's tables, and the SQLite file that holds them.

One writer at a time: a write takes SQLite's lock when it begins (`BEGIN IMMEDIATE`), so that it never finds out
half-way that somebody else was first; readers see the last committed state and wait for nobody (WAL). The file
carries the version of its tables in `PRAGMA user_version`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy
from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Connection,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    UniqueConstraint,
    event,
)
from sqlalchemy.engine import URL

from hubstate.errors import StorageError

__all__ = [
    "VERSION",
    "Database",
    "answers",
    "attempts",
    "checkpoints",
    "keys",
    "problems",
    "rows",
    "sessions",
    "steps",
    "usage",
]

VERSION = 2

metadata = MetaData()

#: Keys to the hub. Only the SHA-256 of a key is kept. Times everywhere are seconds since 1970.
keys = Table(
    "keys",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("name", String, nullable=False),
    Column("owner", String, nullable=False),
    Column("hash", String, nullable=False, unique=True),
    Column("created_at", Float, nullable=False),
    Column("revoked_at", Float),
    sqlite_autoincrement=True,
)

#: Sessions ("models" in HUB v1). `own`: opened by hubstate, which announces its state. `body`: the HUB v1 body.
#: `epoch_at`: when the hub first heard of `epoch`, or of the attempt while that has none (new in version 2).
sessions = Table(
    "sessions",
    metadata,
    Column("id", String, primary_key=True),
    Column("owner", String, nullable=False),
    Column("name", String, nullable=False),
    Column("own", Boolean, nullable=False),
    Column("body", JSON, nullable=False),
    Column("project", String),
    Column("group", String),
    Column("tags", JSON, nullable=False),
    Column("config", JSON, nullable=False),
    Column("epochs", Integer),
    Column("attempt", Integer, nullable=False),
    Column("state", String, nullable=False),
    Column("outcome", String, nullable=False),
    Column("reason", String, nullable=False),
    Column("epoch", Integer),
    Column("epoch_at", Float),
    Column("waiting", Integer),
    Column("rows_told", Integer),
    Column("agent", String),
    Column("stop", String),
    Column("created_at", Float, nullable=False),
    Column("last_contact", Float, nullable=False),
    Column("ended_at", Float),
    Column("deleted_at", Float),
)
Index("sessions_by_age", sessions.c.owner, sessions.c.created_at, sessions.c.id)

attempts = Table(
    "attempts",
    metadata,
    Column("session", String, primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("first_epoch", Integer, nullable=False),
    Column("opened_at", Float, nullable=False),
    Column("state", String, nullable=False),
    Column("outcome", String, nullable=False),
    Column("reason", String, nullable=False),
    Column("ended_at", Float),
)

#: Rows as they came; what is in force is found when they are read. `digest` tells a repeat from a new row.
rows = Table(
    "rows",
    metadata,
    Column("n", Integer, primary_key=True, autoincrement=True),
    Column("session", String, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("step", Integer),
    Column("final", Boolean, nullable=False),
    Column("at", Float, nullable=False),
    Column("metrics", JSON, nullable=False),
    Column("nonfinite", JSON, nullable=False),
    Column("digest", String, nullable=False),
    UniqueConstraint("session", "attempt", "epoch", "digest"),
)

#: The one file of each kind. `file` is its name in the session's folder; two kinds may share a file.
checkpoints = Table(
    "checkpoints",
    metadata,
    Column("session", String, primary_key=True),
    Column("kind", String, primary_key=True),
    Column("attempt", Integer, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("size", Integer, nullable=False),
    Column("sha256", String, nullable=False),
    Column("file", String, nullable=False),
    Column("fitness", Float),
    Column("at", Float, nullable=False),
)

#: The first answer to each idempotency key of an owner. `digest`: the SHA-256 (hex) of the body that it answered, of an
#: upload that of its file (new in version 2; NULL before, when nobody looked).
answers = Table(
    "answers",
    metadata,
    Column("owner", String, primary_key=True),
    Column("key", String, primary_key=True),
    Column("session", String, nullable=False, index=True),
    Column("data", JSON, nullable=False),
    Column("at", Float, nullable=False),
    Column("digest", String),
)

steps = Table(
    "steps",
    metadata,
    Column("session", String, primary_key=True),
    Column("n", Integer, primary_key=True),
    Column("step", JSON, nullable=False),
)

usage = Table(
    "usage",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("session", String, nullable=False, index=True),
    Column("attempt", Integer, nullable=False),
    Column("what", String, nullable=False),
    Column("at", Float, nullable=False),
)

#: What could not be taken as it was sent, in words for the page.
problems = Table(
    "problems",
    metadata,
    Column("session", String, primary_key=True),
    Column("what", String, primary_key=True),
    Column("at", Float, nullable=False),
)


class Database:
    """The SQLite file at `path`, made if it is not there.

    Raises `StorageError` if it cannot be opened, is damaged, or was written by a newer hubstate.
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
            self._prepare(path)
        except sqlalchemy.exc.DatabaseError as error:
            self.close()
            raise StorageError(f"cannot use the hub's database {path}: {error.orig}") from error
        except StorageError:
            self.close()
            raise

    def _prepare(self, path: Path) -> None:
        with self.writing() as connection:
            version = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
            if version > VERSION:
                raise StorageError(
                    f"the hub's database {path} has version {version}, this hubstate knows up to {VERSION}: "
                    "use the newer hubstate that wrote it"
                )
            if version == 1:
                connection.exec_driver_sql("ALTER TABLE sessions ADD COLUMN epoch_at FLOAT")
                connection.exec_driver_sql("ALTER TABLE answers ADD COLUMN digest VARCHAR")
            if version < VERSION:
                metadata.create_all(connection)
                connection.exec_driver_sql(f"PRAGMA user_version = {VERSION}")

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
