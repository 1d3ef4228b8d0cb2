"""What the hub keeps, in one folder: `hub.sqlite`, `files/SESSION/`, `incoming/`, `secret`.

`incoming/` holds uploads that are under way; a file is promoted into `files/` by a rename after its digest was
checked, under a name of its own that is never written again. The database says which of them count; a checkpoint
that it does not name is swept when the hub starts. What else somebody put there is nobody's here: it is left alone.
`secret` signs download addresses and cookies (mode 0600).
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy
from sqlalchemy import select

from hubstate.errors import StorageError, UsageError
from hubstate.server.database import Database, unusable
from hubstate.server.objects import Objects
from hubstate.server.resumable import Resumables
from hubstate.server.schema import checkpoints
from hubstate.server.terms import Terms
from hubstate.server.writer import Writer

__all__ = ["UPLOAD_LIMIT", "Store", "told", "using"]

#: The biggest upload in bytes, if nothing else is said.
UPLOAD_LIMIT = 50 * 1024**3
_SECRET_BYTES = 32


class Store:
    """The folder of a hub. Raises `StorageError` if it cannot be used.

    `make`: it is made where there is none; else that is a `UsageError`, because a name was probably mistyped.
    `terms`: what the hub's owner decided.
    """

    #: Whether requests may look only, and nobody delivers here: see `mirror`.
    read_only = False

    def __init__(
        self,
        data_dir: Path,
        *,
        upload_limit: int = UPLOAD_LIMIT,
        make: bool = True,
        terms: Terms | None = None,
    ) -> None:
        self.data_dir = data_dir.absolute()
        database = self.data_dir / "hub.sqlite"
        if not make and not database.is_file():
            raise UsageError(
                f"there is no hub in {self.data_dir}: name its folder by --data-dir, or make one by "
                "`hubstate keys create NAME` or `hubstate serve`"
            )
        self.files = self.data_dir / "files"
        self.incoming = self.data_dir / "incoming"
        self.upload_limit = upload_limit
        self.terms = terms or Terms()
        try:
            self.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.files.mkdir(exist_ok=True, mode=0o700)
            self.incoming.mkdir(exist_ok=True, mode=0o700)
            self.secret = _secret(self.data_dir / "secret")
            headless = self._is_headless(database)
        except StorageError:
            raise  # it says already what is wrong, and it is an OSError too
        except OSError as error:
            raise StorageError(f"cannot use {data_dir} as a hub's folder: {error.strerror}") from error
        if headless:
            raise StorageError(
                f"{self.files} holds checkpoints, and the database {database} that knows them is missing: restore a "
                f"backup into a new folder, or move {self.files} away"
            )
        self.resumables = Resumables(self.incoming)
        self.objects = Objects(self.incoming / "objects")
        self.database = Database(database, lasting=not self.read_only)
        self.writer = Writer(self.database)

    def _is_headless(self, database: Path) -> bool:
        """Whether a new database would take all that lies here for left over, and sweep it away."""
        if database.is_file() and database.stat().st_size > 0:
            return False
        return any(_checkpoint_files(folder) for folder in self.files.iterdir() if folder.is_dir())

    def file_of(self, session: str, name: str) -> Path:
        """Where a promoted file lies."""
        return self.files / session / name

    def conditions(self, _session: str, heard: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The conditions of a session. `heard`: what follows from what was sent, and here that is all."""
        return heard

    def sweep(self) -> None:
        """Removes what an earlier life of the hub left half done. Only the one hub of the folder may call it."""
        for part in _plain_files(self.incoming, "*.part"):
            part.unlink()
        for held in self.incoming.glob("held-*"):  # by a backup that was killed
            shutil.rmtree(held)
        self.objects.tidy()
        with self.database.reading() as connection:
            named = {
                (session, file)
                for session, file in connection.execute(select(checkpoints.c.session, checkpoints.c.file))
            }
        for folder in self.files.iterdir():
            if folder.is_symlink() or not folder.is_dir():
                continue
            for file in _checkpoint_files(folder):
                if (folder.name, file.name) not in named:
                    file.unlink()

    def close(self) -> None:
        """Ends what is being written, and lets go of the database."""
        self.writer.close()
        self.database.close()


@contextmanager
def using(data_dir: Path, *, make: bool = True) -> Iterator[Store]:
    """The store of a folder while the block lasts, beside a hub that may run over it. Raises as `Store` does.

    What its database does not take within the block is a `StorageError`, too.
    """
    store = Store(data_dir, make=make)
    try:
        with told(store):
            yield store
    finally:
        store.close()


@contextmanager
def told(store: Store) -> Iterator[None]:
    """What the database of the store does not take within the block is a `StorageError` that names it."""
    try:
        yield
    except sqlalchemy.exc.OperationalError as error:
        raise StorageError(unusable(store.data_dir / "hub.sqlite", error)) from error


def _checkpoint_files(folder: Path) -> list[Path]:
    return [*_plain_files(folder, "*.pt"), *_plain_files(folder, "*.tar")]


def _plain_files(folder: Path, names: str) -> list[Path]:
    return [path for path in folder.glob(names) if path.is_file() and not path.is_symlink()]


def _secret(path: Path) -> bytes:
    """The hub's secret, made once. A file that appears whole: two makers agree on the first one's."""
    if not path.exists():
        making = path.with_name(f".secret-{secrets.token_hex(8)}")
        fd = os.open(making, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(secrets.token_bytes(_SECRET_BYTES))
                file.flush()
                os.fsync(file.fileno())
            os.link(making, path)
        except FileExistsError:
            pass
        finally:
            making.unlink()
    secret = path.read_bytes()
    if len(secret) < _SECRET_BYTES:
        raise StorageError(f"{path} is damaged: remove it, and a new one is made (old links end to work)")
    return secret
