"""What a hub lacks of a session, filled from what the trainer left on its own disk.

A client that is not hubstate's own loses what it cannot send: an epoch while the network was away, the last file. The
tool's files still hold it. So the rows in force at the hub are asked for, and those that it has none of are sent, as rows
of the session's newest attempt; a row that is there is left as it is. Nothing is counted that the hub did not confirm.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import closing
from typing import NamedTuple

import msgspec

from hubstate.actions import Row, SendCheckpoint, SendRows
from hubstate.archive import Content
from hubstate.errors import HubRefused, HubUnreachable, StorageError, UsageError
from hubstate.hubs.base import Accepted, Declined, Hub, Parcel
from hubstate.importing.found import Found, Measured, SavedFile
from hubstate.settings import Settings
from hubstate.snapshots import digest
from hubstate.states import CheckpointKind

__all__ = ["Filled", "fill"]

#: How many rows, and about how many bytes of them, a request has at most.
_ROWS, _BYTES = 1_000, 1_000_000
_ENCODER = msgspec.json.Encoder()


class Filled(NamedTuple):
    """What the hub has now that it lacked: how many rows and files, out of how many that were found."""

    rows: int
    files: int
    found_rows: int
    found_files: int


def fill(found: Found, session: str, here: Settings, *, finished: bool = False) -> Filled:
    """Sends what the hub of `here` lacks of the session that it calls `session`, once.

    `finished`: it is known that the training is. Raises `UsageError` without a hub, `SessionNotFound`, `HubRefused`,
    `HubUnreachable`, and `StorageError` for a file that cannot be read.
    """
    # Loaded here, because `requests` takes its time.
    from hubstate.hubs import open_hub  # noqa: PLC0415 - as above
    from hubstate.hubs.fetch import Source  # noqa: PLC0415 - as above
    from hubstate.hubs.held import held  # noqa: PLC0415 - as above

    if here.hub is None:
        raise UsageError("no hub is set that the session could be at: name it by --hub or HUBSTATE_HUB")
    with closing(Source(here.hub, here.api_key)) as source:
        known = source.session(session)
    there = held(here.hub, here.api_key, session, here.mlflow)
    have = {(row.epoch, row.step, row.final) for row in there.rows}
    rows = [row for row in found.rows if (row.epoch, row.step, row.final) not in have]
    kinds = {file.kind for file in there.files}
    files = [(kind, file) for kind, file in _kinds(found, finished=finished) if kind.value not in kinds]
    with closing(open_hub(here.hub, here.api_key)) as hub:
        for number, piece in enumerate(_pieces(rows, known.attempt), 1):
            _deliver(hub, _rows_of(session, known.attempt, piece), f"rows (part {number})")
        for kind, file in files:
            _deliver(hub, _file_of(session, known.attempt, kind, file), f"the {kind.value} checkpoint")
    return Filled(len(rows), len(files), len(found.rows), len(_kinds(found, finished=finished)))


def _kinds(found: Found, *, finished: bool) -> list[tuple[CheckpointKind, SavedFile]]:
    """The files with what they are at a hub; the one that a training ended with only where it is known to have ended."""
    ended = finished or not found.unfinished
    kinds = []
    for file in found.files:
        if file.final and ended:
            kinds.append((CheckpointKind.FINAL, file))
        elif file.fitness is not None:
            kinds.append((CheckpointKind.BEST, file))
        else:
            kinds.append((CheckpointKind.LAST, file))
    return kinds


def _pieces(rows: list[Measured], attempt: int) -> Iterator[tuple[Row, ...]]:
    piece: list[Row] = []
    size = 0
    for number, row in enumerate(rows, 1):
        metrics, nonfinite = _ENCODER.encode(row.metrics), _ENCODER.encode(row.nonfinite)
        told = Row(number, attempt, row.epoch, row.step, row.final, row.at, metrics, nonfinite)
        if piece and (len(piece) >= _ROWS or size + len(metrics) > _BYTES):
            yield tuple(piece)
            piece, size = [], 0
        piece.append(told)
        size += len(metrics)
    if piece:
        yield tuple(piece)


def _rows_of(session: str, attempt: int, rows: tuple[Row, ...]) -> Parcel:
    # The same rows have the same key, so that a repeat is none.
    key = f"{session}/filled/{hashlib.sha256(_ENCODER.encode(rows)).hexdigest()[:32]}"
    action = SendRows(key, attempt, first=rows[0].number, last=rows[-1].number)
    return Parcel(key, action, session, session, rows)


def _file_of(session: str, attempt: int, kind: CheckpointKind, file: SavedFile) -> Parcel:
    try:
        sha256 = digest(file.path)
        with Content(file.path) as content:
            size = content.size
    except OSError as error:
        raise StorageError(f"cannot read {file.path}: {error.strerror}") from error
    key = f"{session}/filled/{kind.value}/{sha256[:32]}"
    action = SendCheckpoint(
        key, attempt, kind=kind, epoch=file.epoch, snapshot=file.path.name, size=size, fitness=file.fitness
    )
    return Parcel(key, action, session, session, file=file.path, sha256=sha256)


def _deliver(hub: Hub, parcel: Parcel, what: str) -> None:
    reply = hub.deliver(parcel)
    if isinstance(reply, Accepted) and not reply.not_taken:
        return
    if isinstance(reply, Accepted):
        raise HubRefused(f"{hub.address} does not take {what}: {reply.not_taken}")
    if isinstance(reply, Declined):
        raise HubRefused(f"{hub.address} refused {what}: {reply.reason}")
    if reply.condition == "credentials_rejected":
        raise HubRefused(f"{hub.address} was sent {what}: {reply.reason}", credentials=True)
    raise HubUnreachable(f"{hub.address} was sent {what}: {reply.reason}; say it again, what arrived counts")
