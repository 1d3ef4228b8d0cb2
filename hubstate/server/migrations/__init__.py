"""Bringing the database of an older hubstate up to date, by Alembic.

Each file in `versions/` is one step, named by a number that counts up; `alembic_version` in the database tells which
one it has. A new database is made whole from the tables in `schema` and marked with the last number: a test holds
that all the steps together make the very same tables. An older one is copied beside itself first, and brought up in
one transaction, so that it is the old one or the new one whatever happens between; while a hub runs over the folder
nobody else does that. A database with a number that this hubstate does not know is left alone.

A new step: change the table in `schema`, add `versions/rNNNN_what.py` after the last one, and raise `HEAD`.
Columns that are added may be NULL, or have a server's default: rows that are there already have no value.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from sqlalchemy import Connection

from hubstate.errors import StorageError
from hubstate.server.alone import alone
from hubstate.server.schema import metadata

__all__ = ["HEAD", "bring_up_to_date", "revision_of"]

#: The number of the last step.
HEAD = "0004"

#: What the numbers were called before there were steps: `PRAGMA user_version`.
_BEFORE = {1: "0001", 2: "0002"}


def revision_of(connection: Connection) -> str | None:
    """Which step the database has; None for an empty one."""
    names = _names(connection)
    if "alembic_version" in names:
        return str(connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar_one())
    if not names:
        return None
    version = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
    return _BEFORE.get(version, f"user_version {version}")


def bring_up_to_date(connection: Connection, path: Path) -> None:
    """Makes or changes the tables of the database in the file `path`, within the writing transaction of `connection`.

    Raises `StorageError` for a database of a newer hubstate, and while a hub runs over an older one.
    """
    here = revision_of(connection)
    if here is None:
        metadata.create_all(connection)
        _mark(connection, HEAD)
        return
    if not here.isdigit() or here > HEAD:
        raise StorageError(
            f"the hub's database {path} has version {here}, this hubstate knows up to {HEAD}: "
            "use the newer hubstate that wrote it"
        )
    if here != HEAD:
        with alone(path.parent):
            _copy(path, path.with_name(f"hub-{here}.sqlite"))
            _mark(connection, here)
            _run_steps(connection)
    else:
        _mark(connection, here)


def _names(connection: Connection) -> set[str]:
    return set(connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'table'").scalars())


def _mark(connection: Connection, revision: str) -> None:
    """Makes a mark where there is none yet, as Alembic would."""
    if "alembic_version" not in _names(connection):
        connection.exec_driver_sql(
            "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL, "
            "CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num))"
        )
        connection.exec_driver_sql("INSERT INTO alembic_version VALUES (?)", (revision,))


def _copy(path: Path, target: Path) -> None:
    """The database as it was last committed, in a file that appears whole. Raises `StorageError` where that has no room."""
    making = target.with_name(f".{target.name}.part")
    try:
        making.unlink(missing_ok=True)
        os.close(os.open(making, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(making)) as copy:
            source.backup(copy)
        with making.open("rb") as file:
            os.fsync(file.fileno())
        making.replace(target)
    except (OSError, sqlite3.DatabaseError) as error:
        making.unlink(missing_ok=True)
        raise StorageError(
            f"cannot keep the database as it was in {target}, so it stays as it is: {error}"
        ) from error


def _run_steps(connection: Connection) -> None:
    # Most starts have nothing to bring up, and these take a while to import.
    from alembic.operations import Operations  # noqa: PLC0415
    from alembic.runtime.migration import MigrationContext  # noqa: PLC0415
    from alembic.script import ScriptDirectory  # noqa: PLC0415

    steps = ScriptDirectory(os.fspath(Path(__file__).parent))
    context = MigrationContext.configure(
        connection,
        opts={"fn": lambda revision, _context: steps._upgrade_revs(HEAD, revision)},  # noqa: SLF001 - as Alembic's own command does
    )
    with Operations.context(context):
        context.run_migrations()
