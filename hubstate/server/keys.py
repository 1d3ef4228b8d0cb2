"""API keys: shown once when they are made, kept as SHA-256, compared in constant time.

A key is 160 random bits, so a plain hash of it cannot be guessed back. Every key belongs to an owner, and an owner
sees the sessions of all their keys; a hub for one person or team has the one owner `default`. A hub without any
key is open to its own machine; the first key ends that for good, revoked or not.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import Connection, insert, select, update

from hubstate.errors import UsageError
from hubstate.server.database import Database
from hubstate.server.schema import keys
from hubstate.server.store import using

__all__ = ["DEFAULT_OWNER", "Key", "Ring", "create", "listed", "recognise", "revoke", "ring"]

DEFAULT_OWNER = "default"
_NAME_LENGTH = 100


class Key(NamedTuple):
    """What is known of a key: never the key itself. Times in seconds since 1970."""

    id: int
    name: str
    owner: str
    created_at: float
    revoked_at: float | None


def create(
    data_dir: Path, name: str, *, owner: str = DEFAULT_OWNER, wall: Callable[[], float] = time.time
) -> str:
    """Makes a key for the hub in `data_dir`, and that hub if there is none; the key cannot be shown again.

    Raises `UsageError` for a name that a living key has, and for a name or an owner that is empty or too long; `StorageError` as `Store` does.
    """
    for what, text in (("a key's name", name), ("an owner", owner)):
        if not text.strip() or len(text) > _NAME_LENGTH or not text.isprintable():
            raise UsageError(f"{what} has 1 to {_NAME_LENGTH} printable characters")
    with using(data_dir) as store, store.database.writing() as connection:
        if _living(connection, name) is not None:
            raise UsageError(f"a key named {name!r} exists: choose another name, or revoke that one first")
        key = f"ul_{secrets.token_hex(20)}"
        connection.execute(insert(keys).values(name=name, owner=owner, hash=_hash(key), created_at=wall()))
    return key


def listed(data_dir: Path) -> list[Key]:
    """All keys of the hub in `data_dir`, oldest first, revoked ones included. Raises `UsageError` if there is no hub."""
    with using(data_dir, make=False) as store, store.database.reading() as connection:
        query = select(keys.c.id, keys.c.name, keys.c.owner, keys.c.created_at, keys.c.revoked_at)
        return [Key(*row) for row in connection.execute(query.order_by(keys.c.id))]


def revoke(data_dir: Path, name: str, *, wall: Callable[[], float] = time.time) -> None:
    """Ends the living key of that name. Raises `UsageError` if there is none, or no hub."""
    with using(data_dir, make=False) as store, store.database.writing() as connection:
        found = _living(connection, name)
        if found is None:
            raise UsageError(f"no living key is named {name!r}: see `hubstate keys list`")
        connection.execute(update(keys).where(keys.c.id == found).values(revoked_at=wall()))


class Ring:
    """The keys of a hub as they are at this moment."""

    def __init__(self, rows: Sequence[tuple[int, str, str, float | None]]) -> None:
        self._rows = rows

    @property
    def any_made(self) -> bool:
        """Whether a key was ever made."""
        return bool(self._rows)

    def recognise(self, key: str) -> tuple[int, str] | None:
        """The id and the owner of a living key; None for anything else."""
        offered = _hash(key)
        found = None
        for key_id, owner, stored, revoked_at in self._rows:
            if hmac.compare_digest(stored, offered) and revoked_at is None:
                found = (key_id, owner)
        return found

    def owner_of(self, key_id: int) -> str | None:
        """The owner of a living key; None if it was revoked or never was."""
        return next((owner for one, owner, _, gone in self._rows if one == key_id and gone is None), None)


def ring(database: Database) -> Ring:
    """The keys. They are looked up for each request, so that one that was made or revoked just now counts at once."""
    return Ring(database.look("SELECT id, owner, hash, revoked_at FROM keys"))


def recognise(connection: Connection, key: str) -> tuple[int, str] | None:
    """The id and the owner of a living key; None for anything else."""
    query = select(keys.c.id, keys.c.owner, keys.c.hash, keys.c.revoked_at)
    return Ring([tuple(row) for row in connection.execute(query)]).recognise(key)


def _living(connection: Connection, name: str) -> int | None:
    query = select(keys.c.id).where(keys.c.name == name, keys.c.revoked_at.is_(None))
    return connection.execute(query).scalar_one_or_none()


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
