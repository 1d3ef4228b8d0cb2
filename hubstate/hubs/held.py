"""What a hub holds of a session, as it says when it is asked. Nothing is sent, and nothing changes by it.

One's own hub tells rows and files as they are. An MLflow server keeps points and tags, out of which they are put together
again (`mlflow_held`).
"""

from __future__ import annotations

import time
from contextlib import closing
from typing import Any, TypeVar
from urllib.parse import quote

import msgspec

from hubstate.errors import HubRefused, HubUnreachable
from hubstate.hubs.base import Declined, Delayed
from hubstate.hubs.mlflow_held import stored
from hubstate.hubs.verdict import judge
from hubstate.hubs.wire import LARGEST_ANSWER, Wire
from hubstate.settings import MLFLOW, MLflow

__all__ = ["File", "Held", "InForce", "held"]

T = TypeVar("T")

#: How long the list of all rows may be (bytes), which is held in memory, and how long it may take (seconds). A million
#: rows of ten numbers each are half of that, and take a minute, most of it before the first byte.
_LONGEST_LIST, _LONGEST_WAIT = 1 << 30, 600.0


class File(msgspec.Struct, frozen=True):
    """A stored checkpoint: `size` in bytes, `sha256` in hex, `url` to get it from. `epoch` counts from 0.

    `sent`: the digest of what was sent, where the hub keeps what the sender said of it; else empty.
    """

    kind: str
    epoch: int | None
    attempt: int | None
    size: int
    sha256: str
    url: str
    sent: str = ""


class InForce(msgspec.Struct, frozen=True):
    """A row in force. Numbers that are none come as None, and `nonfinite` tells which: NaN, Infinity or -Infinity."""

    epoch: int
    step: int | None = None
    attempt: int = 1
    final: bool = False
    metrics: dict[str, float | int | None] = {}
    nonfinite: dict[str, str] = {}


class Held(msgspec.Struct, frozen=True):
    """What a hub holds: the session's state and outcome, its rows in force in order, and its files."""

    state: str
    outcome: str
    rows: tuple[InForce, ...]
    files: tuple[File, ...]

    def sha256(self, kind: str) -> str:
        """The digest (hex) of the file of this kind; empty if there is none."""
        return next((file.sha256 for file in self.files if file.kind == kind), "")


class _Model(msgspec.Struct, frozen=True):
    """Of a model only what is asked for. A hub that is not one's own tells no more than it has to."""

    state: str
    outcome: str
    checkpoints: tuple[File, ...]


def held(address: str, api_key: str | None, model: str, wanted: MLflow | None = None) -> Held:
    """What the hub at `address` holds of the session that it calls `model`. `wanted`: what MLflow's variables say to it.

    Raises `HubUnreachable` if it gives no answer, `HubRefused` if it refuses one or tells something else (as a hub
    does that is not one's own). A hub that is away is found so within a minute; a long list may take ten.
    """
    if address.startswith(MLFLOW):
        state, outcome, rows, files = stored(address, api_key, model, wanted or MLflow())
        return Held(
            state,
            outcome,
            tuple(InForce(*row) for row in rows),
            tuple(File(*file) for file in files),
        )
    path = f"/v1/models/{quote(model, safe='')}"
    with closing(_wire(address, api_key, 30.0, 60.0)) as wire:
        told = _told(wire, path, _Model)
    with closing(_wire(address, api_key, _LONGEST_WAIT, _LONGEST_WAIT)) as wire:
        listed = _told(wire, f"{path}/metrics", tuple[InForce, ...], most=_LONGEST_LIST)
    return Held(told.state, told.outcome, listed, told.checkpoints)


def _wire(address: str, api_key: str | None, read: float, total: float) -> Wire:
    return Wire(address, api_key, connect_timeout=5.0, read_timeout=read, total_timeout=total)


def _told(wire: Wire, path: str, kind: type[T], *, most: int = LARGEST_ANSWER) -> T:
    answer = wire.send(path, method="GET", most=most)
    verdict: dict[str, Any] | Declined | Delayed = (
        answer if isinstance(answer, Delayed) else judge(answer, wire.host, time.time())
    )
    match verdict:
        case Delayed(condition="credentials_rejected"):
            raise HubRefused(wire.clean(verdict.reason), credentials=True)
        case Delayed():
            raise HubUnreachable(wire.clean(verdict.reason))
        case Declined():
            raise HubRefused(wire.clean(f"{wire.host}: {verdict.reason}"))
    try:
        return msgspec.convert(verdict.get("data"), kind)
    except msgspec.ValidationError as error:
        raise HubRefused(f"{wire.host} does not tell what it holds as one's own hub does: {error}") from error
