"""Stored files on their way out: opened before anything is answered, so that whoever fetches one gets all of it.

A newer checkpoint, a deletion or the end of its time may take a file away at any moment. What is open stays readable to
its end; what was taken away just before is not here any more, which is another thing than lost on the hub's disk.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

from fastapi.responses import FileResponse
from sqlalchemy import select
from starlette.types import Receive, Scope, Send

from hubstate.log import log
from hubstate.server.answers import Problem
from hubstate.server.checkpoints import damage_of, stored
from hubstate.server.schema import sessions
from hubstate.server.store import Store

__all__ = ["Download", "Opened", "open_file"]


class Opened(NamedTuple):
    """A stored file that is open under the descriptor `fd`, which its taker closes."""

    fd: int
    path: Path


def open_file(store: Store, model: str, sha256: str, kind: str) -> Opened:
    """The stored file, open.

    Raises `Problem` 404 if it was replaced or removed, or its session was; 410 if the hub's disk lost or spoilt it.
    """
    named = _named(store, model, sha256, kind)
    while True:
        path = store.file_of(model, named["file"])
        damage = damage_of(path, named["size"])
        if damage is None:
            try:
                return Opened(os.open(path, os.O_RDONLY | os.O_CLOEXEC), path)
            except FileNotFoundError:
                damage = "missing"
        again = _named(store, model, sha256, kind)
        if again == named:
            break
        named = again  # it came once more just now, and lies elsewhere
    log("hubstate.server").error("hubstate.hub_file_damaged", session=model, kind=kind, damage=damage)
    raise Problem(
        410,
        f"file_{damage}",
        f"this file is {damage} on the hub's disk: its owner may restore it from a backup",
    )


def _named(store: Store, model: str, sha256: str, kind: str) -> dict[str, Any]:
    with store.database.reading() as connection:
        living = select(sessions.c.id).where(sessions.c.id == model, sessions.c.deleted_at.is_(None))
        here = connection.execute(living).first() is not None
        found = stored(connection, model).get(kind) if here else None
    if found is None or found["sha256"] != sha256:
        raise Problem(404, "not_found", "this file is not here any more: ask for its address again")
    return found


class Download(FileResponse):
    """Answers with a file that is open already, and closes it."""

    def __init__(self, opened: Opened, headers: dict[str, str], filename: str) -> None:
        self._fd = opened.fd
        super().__init__(
            f"/dev/fd/{opened.fd}",
            headers=headers,
            media_type="application/octet-stream",
            filename=filename,
            stat_result=os.fstat(opened.fd),
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers, and closes the file whatever becomes of that."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            os.close(self._fd)
