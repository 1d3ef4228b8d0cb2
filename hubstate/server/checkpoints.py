"""Checkpoints: one file of each kind per session, and the newest one stays, whatever arrives when.

A file is newer by its attempt, then by its epoch. What is older than the stored one is acknowledged (its bytes
were whole, and its sender may forget them) and not kept. A file goes to its place by a rename, under a name that
is never written again, before the database names it, and back if that fails; the one that it replaces is removed after
that. A folder comes, and lies here, as one file: an archive, whose name ends in `.tar`.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, RowMapping, select
from sqlalchemy.dialects.sqlite import insert

from hubstate.server.database import if_lost
from hubstate.server.rows import BIGGEST
from hubstate.server.schema import checkpoints
from hubstate.server.store import Store
from hubstate.server.uploads import Received
from hubstate.states import CheckpointKind

__all__ = ["Placing", "damage_of", "ending_of", "kinds_of", "name_final", "place", "stored"]

_KINDS = {kind.value for kind in CheckpointKind}


@dataclass(frozen=True)
class Placing:
    """Where an upload belongs. `folder`: it is an archive of one. `odd`: in words, what of its form could not be read."""

    kinds: tuple[str, ...]
    attempt: int
    epoch: int
    fitness: float | None
    odd: tuple[str, ...]
    folder: bool = False


def kinds_of(fields: Mapping[str, str], name: str, session: RowMapping) -> Placing:
    """Reads the form of an upload. What cannot be read is replaced by the likely, never refused.

    An old client cannot tell errors apart and repeats a refused upload for half an hour.
    """
    odd: list[str] = []
    kind = fields.get("kind", "")
    kinds: tuple[str, ...]
    if kind in _KINDS:
        kinds = (kind,)
    elif fields.get("type") == "final" or (fields.get("type") != "epoch" and name == "best.pt"):
        kinds = (CheckpointKind.FINAL.value,)
    elif fields.get("isBest", "").lower() == "true":
        kinds = (CheckpointKind.LAST.value, CheckpointKind.BEST.value)
    else:
        kinds = (CheckpointKind.LAST.value,)
    if kind and kind not in _KINDS:
        odd.append(f"a checkpoint of the unknown kind {kind[:40]!r} was kept as {kinds[0]}")
    elif not kind and fields.get("type") not in ("epoch", "final"):
        odd.append(f"a checkpoint of the unknown type {fields.get('type', '')[:40]!r} was kept as {kinds[0]}")
    attempt = _whole(fields.get("attempt"), 1)
    if attempt is None:
        attempt = session["attempt"]
        if "attempt" in fields:
            odd.append(f"a checkpoint came with the attempt {fields['attempt'][:40]!r}, which is none")
    epoch = _whole(fields.get("epoch"), 0)
    if epoch is None:
        epoch = session["epoch"] or 0
        odd.append(f"a checkpoint came with the epoch {fields.get('epoch', '')[:40]!r}, which is none")
    return Placing(
        kinds, attempt, epoch, _fitness(fields), tuple(odd), folder=fields.get("archive", "") == "tar"
    )


def _whole(text: str | None, least: int) -> int | None:
    if text is None or not (text.isascii() and text.isdigit()) or len(text) > 16:
        return None
    value = int(text)
    return value if least <= value <= BIGGEST else None


def _fitness(fields: Mapping[str, str]) -> float | None:
    try:
        value = float(fields.get("fitness", fields.get("map", "nan")))
    except ValueError:
        return None
    return value if abs(value) < float("inf") else None


def place(
    store: Store, connection: Connection, session: str, received: Received, where: Placing, now: float
) -> tuple[bool, list[Path]]:
    """Puts a whole upload into its places; tells whether it counts in any, and which files nothing names now.

    The caller removes those files once the transaction is committed.
    """
    before = {row["kind"]: row for row in _rows(connection, session)}
    wins = [
        kind
        for kind in where.kinds
        if kind not in before
        or (before[kind]["attempt"], before[kind]["epoch"]) <= (where.attempt, where.epoch)
    ]

    def is_here(row: RowMapping) -> bool:
        return bool(
            row["sha256"] == received.sha256
            and damage_of(store.file_of(session, row["file"]), row["size"]) is None
        )

    news = [kind for kind in wins if kind not in before or not is_here(before[kind])]
    if news:
        name = f"{where.attempt}-{where.epoch}-{received.sha256[:16]}-{secrets.token_hex(4)}{'.tar' if where.folder else '.pt'}"
        part, target = received.part, store.file_of(session, name)
        if_lost(connection, lambda: target.exists() and target.rename(part))
        _promote(part, target)
    for kind in wins:
        values = {
            "attempt": where.attempt,
            "epoch": where.epoch,
            "size": received.size,
            "sha256": received.sha256,
            "file": name if kind in news else before[kind]["file"],
            "fitness": where.fitness,
            "at": now,
        }
        connection.execute(
            insert(checkpoints)
            .values(session=session, kind=kind, **values)
            .on_conflict_do_update(index_elements=["session", "kind"], set_=values)
        )
    named = {row["file"] for row in _rows(connection, session)}
    gone = {row["file"] for row in before.values()} - named
    return bool(wins), [store.file_of(session, file) for file in gone]


def name_final(
    store: Store, connection: Connection, session: str, sha256: str, changes: Mapping[str, Any]
) -> list[Path]:
    """Makes a file that is stored as another kind the final one too, with `changes`; tells which files nothing names now."""
    before = _rows(connection, session)
    same = next((row for row in before if row["sha256"] == sha256), None)
    if same is None:
        return []
    values = {**same, "kind": CheckpointKind.FINAL.value, **changes}
    connection.execute(
        insert(checkpoints)
        .values(**values)
        .on_conflict_do_update(index_elements=["session", "kind"], set_=values)
    )
    gone = {row["file"] for row in before} - {row["file"] for row in _rows(connection, session)}
    return [store.file_of(session, file) for file in gone]


def damage_of(path: Path, size: int) -> str | None:
    """What is wrong with a stored file at a look: `missing`, `damaged` (it has another size), or None."""
    try:
        return None if path.stat().st_size == size else "damaged"
    except (FileNotFoundError, NotADirectoryError):
        return "missing"


def ending_of(file: str) -> str:
    """How the address of a stored file ends: `.tar` for a folder, else `.pt`, as HUB v1 clients need it."""
    return ".tar" if file.endswith(".tar") else ".pt"


def _promote(part: Path, target: Path) -> None:
    """Moves the file to its place, so that a power cut finds it there."""
    if not target.parent.is_dir():
        target.parent.mkdir(mode=0o700, exist_ok=True)
        _sync_folder(target.parent.parent)
    part.rename(target)
    _sync_folder(target.parent)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _rows(connection: Connection, session: str) -> list[RowMapping]:
    query = select(checkpoints).where(checkpoints.c.session == session).order_by(checkpoints.c.kind)
    return list(connection.execute(query).mappings())


def stored(connection: Connection, session: str) -> dict[str, dict[str, Any]]:
    """What is stored of the session, by kind."""
    return {row["kind"]: dict(row) for row in _rows(connection, session)}
