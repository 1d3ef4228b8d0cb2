"""What HUB v1 requests hold, as plain functions of actions and rows; `docs/hub-protocol.md` tells what is ours."""

from __future__ import annotations

import hashlib
from math import isfinite
from typing import Any
from urllib.parse import quote

import msgspec

from hubstate.actions import CloseSession, EndSession, OpenSession, Row, SendCheckpoint
from hubstate.states import CheckpointKind

__all__ = [
    "data_of",
    "end_body",
    "header_text",
    "is_model_id",
    "merged",
    "opening",
    "row_body",
    "started_at",
    "upload_fields",
]

_ULID_LETTERS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def opening(action: OpenSession, *, own: bool) -> dict[str, Any]:
    """The create body: what HUB v1 wants to read, with nothing in it that only this machine knows."""
    body: dict[str, Any] = {
        "config": {} if action.epochs is None else {"epochs": action.epochs},
        "dataset": {"name": ""},
        "lineage": {"architecture": {"name": ""}, "parent": {}},
        "meta": {"name": action.name},
    }
    if own:
        body["hubstate"] = {
            "id": action.session,
            "attempt": action.attempt,
            "first_epoch": action.first_epoch,
            "name": action.name,
            "epochs": action.epochs,
            "project": action.project,
            "group": action.group,
            "tags": action.tags,
            "config": action.config,
            "started_at": started_at(action.session),
        }
        if action.mark:
            body["hubstate"]["mark"] = action.mark
    return body


def started_at(session: str) -> float | None:
    """When the session was made (seconds since 1970), as its ULID tells; None if the id is no ULID."""
    if len(session) != 26 or not set(session) <= set(_ULID_LETTERS):
        return None
    milliseconds = 0
    for letter in session[:10]:
        milliseconds = milliseconds * 32 + _ULID_LETTERS.index(letter)
    return milliseconds / 1000


def row_body(row: Row) -> dict[str, Any]:
    """A row as one's own hub takes it."""
    told: dict[str, Any] = {
        "epoch": row.epoch,
        "step": row.step,
        "attempt": row.attempt,
        "final": row.final,
        "at": row.at,
        "metrics": msgspec.Raw(row.metrics),
    }
    if row.nonfinite != b"{}":
        told["nonfinite"] = msgspec.Raw(row.nonfinite)
    return told


def merged(rows: list[Row]) -> dict[str, str]:
    """One row an epoch, as JSON text: rows of one attempt merge by name, a newer attempt's row stands alone."""
    epochs: dict[int, tuple[int, dict[str, Any]]] = {}
    for row in rows:
        metrics = msgspec.json.decode(row.metrics, type=dict[str, Any])
        attempt, before = epochs.get(row.epoch, (row.attempt, {}))
        epochs[row.epoch] = (row.attempt, before | metrics if attempt == row.attempt else metrics)
    return {str(epoch): msgspec.json.encode(metrics).decode() for epoch, (_, metrics) in epochs.items()}


def upload_fields(action: SendCheckpoint, *, own: bool) -> dict[str, str]:
    """The form fields of HUB v1; its truth values are spelled as Python spells them."""
    fields = {"epoch": str(action.epoch)}
    if action.kind is CheckpointKind.FINAL:
        fields["type"] = "final"
    else:
        fields |= {"type": "epoch", "isBest": str(action.kind is CheckpointKind.BEST)}
    if action.fitness is not None and isfinite(action.fitness):
        fitness = repr(float(action.fitness))
    else:
        fitness = "" if own else "0.0"  # an old hub reads a number there, whatever it is about
    if fitness and (own or action.kind is CheckpointKind.FINAL):
        fields["map"] = fitness
    return fields


def end_body(action: CloseSession | EndSession) -> dict[str, Any]:
    """The word that a session is over, and how."""
    aborted = isinstance(action, EndSession)
    return {
        "attempt": action.attempt,
        "state": "aborted" if aborted else "done",
        "outcome": action.outcome.value,
        "reason": action.reason if isinstance(action, EndSession) else "",
        "rows": action.rows,
    }


def data_of(body: dict[str, Any]) -> dict[str, Any]:
    """The `data` object of an answer; empty if there is none."""
    data = body.get("data")
    return data if isinstance(data, dict) else {}


def is_model_id(name: str) -> bool:
    """Whether a hub may call a model so: a short text without a dot that can stand in an address as it is."""
    return 0 < len(name) <= 200 and "." not in name and name.isascii() and quote(name, safe="") == name


def header_text(key: str) -> str:
    """The key of a delivery as a header carries it: as it is, or a digest of it where it could not be."""
    if len(key) <= 200 and key.isascii() and key.isprintable() and key == key.strip():
        return key
    return "sha256-" + hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
