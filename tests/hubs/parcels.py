"""Parcels of every kind, as a sender makes them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from hubstate.actions import (
    CloseSession,
    EndSession,
    Heartbeat,
    KeepCheckpoint,
    OpenSession,
    RecordUsage,
    Row,
    SendCheckpoint,
    SendRows,
)
from hubstate.hubs.base import Parcel
from hubstate.states import CheckpointKind, Outcome, State

SESSION = "01JZX0000000000000000000AB"
KEY = "ul_0123456789abcdef0123456789abcdef01234567"


def row(
    number: int, epoch: int, *, attempt: int = 1, step: int | None = None, final: bool = False, **metrics: Any
) -> Row:
    """A row; a metric given as a text is one that was not finite."""
    odd = {name: value for name, value in metrics.items() if isinstance(value, str)}
    values = {name: None if name in odd else value for name, value in metrics.items()}
    at = 1_800_000_000.0 + number
    return Row(number, attempt, epoch, step, final, at, json.dumps(values).encode(), json.dumps(odd).encode())


def opening(model: str | None = None, *, attempt: int = 1, **fields: Any) -> Parcel:
    action = OpenSession(
        key=f"{SESSION}/{attempt}/open", attempt=attempt, session=SESSION, name="digits", **fields
    )
    return Parcel(action.key, action, SESSION, model)


def rows(*given: Row, model: str = SESSION) -> Parcel:
    first, last = given[0].number, given[-1].number
    action = SendRows(key=f"{SESSION}/1/rows/{first}-{last}", attempt=1, first=first, last=last)
    return Parcel(f"{action.key}#{first}-{last}", action, SESSION, model, rows=given)


def checkpoint(
    file: Path,
    kind: CheckpointKind = CheckpointKind.LAST,
    *,
    model: str = SESSION,
    fitness: float | None = None,
    sha256: str | None = None,
) -> Parcel:
    size = file.stat().st_size if file.exists() else 0
    action = SendCheckpoint(
        key=f"{SESSION}/1/checkpoint/{kind.value}/3",
        attempt=1,
        kind=kind,
        epoch=3,
        snapshot=file.name,
        size=size,
        fitness=fitness,
    )
    if sha256 is None:
        sha256 = hashlib.sha256(file.read_bytes() if file.exists() else b"").hexdigest()
    return Parcel(action.key, action, SESSION, model, file=file, sha256=sha256)


def close(model: str = SESSION) -> Parcel:
    action = CloseSession(key=f"{SESSION}/1/close", attempt=1, outcome=Outcome.FINISHED, rows=15)
    return Parcel(action.key, action, SESSION, model)


def end(model: str = SESSION) -> Parcel:
    action = EndSession(
        key=f"{SESSION}/1/end", attempt=1, outcome=Outcome.FAILED, reason="out of memory", rows=7
    )
    return Parcel(action.key, action, SESSION, model)


def heartbeat(model: str | None = SESSION) -> Parcel:
    action = Heartbeat(
        key=f"{SESSION}/1/heartbeat/1",
        attempt=1,
        state=State.TRAINING,
        outcome=Outcome.RUNNING,
        epoch=3,
        waiting=2,
    )
    return Parcel(action.key, action, SESSION, model)


def usage(model: str = SESSION) -> Parcel:
    action = RecordUsage(key=f"{SESSION}/1/usage/1", attempt=1, what="val_start")
    return Parcel(action.key, action, SESSION, model)


def keep(file: Path) -> Parcel:
    action = KeepCheckpoint(
        key=f"{SESSION}/1/keep", attempt=1, kind=CheckpointKind.LAST, epoch=3, snapshot=file.name, size=5
    )
    return Parcel(action.key, action, SESSION, SESSION)


def every(file: Path) -> list[Parcel]:
    """One of each kind that leaves this machine."""
    return [
        opening(),
        rows(row(1, 0, loss=0.5)),
        checkpoint(file),
        heartbeat(),
        usage(),
        close(),
        end(),
    ]
