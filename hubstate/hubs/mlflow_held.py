"""What an MLflow server holds of a session, put together again out of points, tags and files.

MLflow keeps points and knows no rows. Those of one axis that share step and time are a row; our own points among them
tell its attempt and, for a step, its epoch. It keeps what a later attempt replaced as well, so what is in force is worked
out here, from the tags that tell where each attempt began. A file is fetched and digested: its tag tells what was sent,
and not what lies there.
"""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from math import isfinite
from pathlib import PurePosixPath
from typing import Any, Literal, NamedTuple, NoReturn
from urllib.parse import quote

import msgspec

from hubstate.errors import HubRefused, HubUnreachable
from hubstate.hubs.base import Declined, Delayed
from hubstate.hubs.mlflow_bodies import ATTEMPT, EPOCH, NAME_TAG, attempt_tag
from hubstate.hubs.mlflow_calls import Calls, header
from hubstate.hubs.mlflow_files import File as Tagged
from hubstate.hubs.mlflow_files import place_of, told_of
from hubstate.hubs.mlflow_names import AXES, readable
from hubstate.hubs.mlflow_runs import Run, Runs
from hubstate.hubs.wire import Wire
from hubstate.settings import MLFLOW, MLflow
from hubstate.states import CheckpointKind

__all__ = ["StoredFile", "StoredRow", "stored"]

#: How many points are asked for at once, and how long such an answer may be (bytes).
_PAGE, _LONGEST_PAGE = 10_000, 64_000_000
#: How long an answer may take (seconds).
_PATIENCE = 120.0
#: As which numbers MLflow's database keeps infinities.
_INFINITE = sys.float_info.max


class StoredRow(NamedTuple):
    """A row in force."""

    epoch: int
    step: int | None
    attempt: int
    final: bool
    metrics: dict[str, float | None]
    nonfinite: dict[str, str]


class StoredFile(NamedTuple):
    """A file, with the digest of the bytes that lie there, and of those that were sent, as its tag tells."""

    kind: str
    epoch: int
    attempt: int
    size: int
    sha256: str
    url: str
    sent: str


class _Point(msgspec.Struct, frozen=True):
    timestamp: int
    value: float | Literal["NaN", "Infinity", "-Infinity"] = 0.0
    step: int = 0


def stored(
    address: str, api_key: str | None, model: str, wanted: MLflow
) -> tuple[str, str, list[StoredRow], list[StoredFile]]:
    """State, outcome, rows in force in their order, and files of the run `model` at the server `address`.

    Raises `HubUnreachable` if it gives no answer, `HubRefused` if it refuses one or is no MLflow server.
    """
    wire = Wire(
        address.removeprefix(MLFLOW),
        api_key,
        connect_timeout=5.0,
        read_timeout=_PATIENCE,
        total_timeout=_PATIENCE,
        header=header,
        trust=wanted.trust,
        certificate=wanted.certificate,
    )
    with closing(wire):
        asked = _Asked(wire, wanted)
        run = asked.run(model)
        tags = run.tags
        rows = _in_force(asked.rows(run), tags)
        files = list(asked.files(run))
    return tags.get("hubstate.state", ""), tags.get("hubstate.outcome", ""), rows, files


class _Asked:
    """The questions to one server."""

    def __init__(self, wire: Wire, wanted: MLflow) -> None:
        self._wire = wire
        self._calls = Calls(wire, time.time)
        self._runs = Runs(self._calls, wire.host, wanted)

    def run(self, model: str) -> Run:
        told = self._runs.run(model)
        if not isinstance(told, Run):
            self._raise(told)
        return told

    def rows(self, run: Run) -> list[StoredRow]:
        """The rows of all attempts."""
        points: dict[tuple[str, int, int], dict[str, float | str]] = {}
        for key in sorted(point.key for point in run.data.metrics):
            axis = next((axis for axis in AXES if key.startswith(axis)), "")
            for point in self._points(run.id, key):
                points.setdefault((axis, point.step, point.timestamp), {})[key.removeprefix(axis)] = (
                    point.value
                )
        names = {
            key.removeprefix(NAME_TAG): value for key, value in run.tags.items() if key.startswith(NAME_TAG)
        }
        return _merged(points, names)

    def _points(self, model: str, key: str) -> Iterator[_Point]:
        token = ""
        while True:
            asked: dict[str, str | int] = {"run_id": model, "metric_key": key, "max_results": _PAGE}
            if token:
                asked["page_token"] = token
            told = self._calls.get("metrics/get-history", asked, most=_LONGEST_PAGE)
            if not isinstance(told, dict):
                self._raise(told)
            try:
                yield from msgspec.convert(told.get("metrics", []), tuple[_Point, ...])
            except msgspec.ValidationError as error:
                raise HubRefused(f"{self._wire.host} tells points as MLflow does not: {error}") from error
            following = told.get("next_page_token")
            if not isinstance(following, str) or following in ("", token):
                return
            token = following

    def files(self, run: Run) -> Iterator[StoredFile]:
        """The files that the run's tags name, with the digests of what lies there."""
        root = place_of(run.info.artifact_uri, self._wire.address)
        for kind in CheckpointKind:
            file = told_of(run.tags.get(f"hubstate.checkpoint.{kind.value}"))
            if file is not None and root is not None:
                yield self._file(kind, file, root)

    def _file(self, kind: CheckpointKind, file: Tagged, root: str) -> StoredFile:
        sink = _Digest()
        place = str(PurePosixPath(root) / file.path)
        answer = self._calls.get_file(place, sink)
        if isinstance(answer, Delayed):
            self._raise(answer)
        if answer.status != 200:
            told = self._calls.judged(answer)
            if isinstance(told, Delayed):
                self._raise(told)
        url = f"{self._wire.address}/api/2.0/mlflow-artifacts/artifacts/{quote(place)}"
        return StoredFile(kind.value, file.epoch, file.attempt, sink.size, sink.sha256, url, file.sha256)

    def _raise(self, told: Declined | Delayed) -> NoReturn:
        match told:
            case Delayed(condition="credentials_rejected"):
                raise HubRefused(told.reason, credentials=True)
            case Delayed():
                raise HubUnreachable(told.reason)
            case Declined():
                raise HubRefused(f"{self._wire.host}: {told.reason}")


class _Digest:
    """Digests what comes in; empty as long as nothing did."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self.size = 0

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest() if self.size else ""

    def begin(self, status: int) -> None:
        """Bytes will follow."""

    def take(self, piece: bytes) -> None:
        self._hash.update(piece)
        self.size += len(piece)


def _merged(
    points: dict[tuple[str, int, int], dict[str, float | str]], names: dict[str, str]
) -> list[StoredRow]:
    """Rows out of points; those of one attempt that have the same place are one, and of two values the later one holds."""
    rows: dict[tuple[int, int | None, int, bool], StoredRow] = {}
    for (axis, step, _), found in sorted(points.items(), key=lambda item: item[0][2]):
        attempt, epoch = _whole(found.pop(ATTEMPT, None)), _whole(found.pop(EPOCH, None))
        if attempt is None:
            continue  # somebody else's points
        is_step, final = axis == AXES[0], axis == AXES[1]
        row_epoch = epoch if is_step and epoch is not None else step
        place = (row_epoch, step if is_step else None, attempt, final)
        row = rows.setdefault(place, StoredRow(*place, {}, {}))
        for key, value in found.items():
            # A name tells itself; the tag may hold it with a letter replaced, or be changed by anybody.
            told = readable(key)
            name = names.get(key, key) if told is None else told
            odd = _odd(float(value))
            row.metrics[name] = None if odd else float(value)
            row.nonfinite.pop(name, None)
            if odd:
                row.nonfinite[name] = odd
    return list(rows.values())


def _whole(value: float | str | None) -> int | None:
    """A count that stands in a point; None where none stands there."""
    return None if value is None or not isfinite(float(value)) else int(float(value))


def _odd(value: float) -> str:
    """What a number stands for that is none; empty for all others."""
    if value != value:  # noqa: PLR0124 - NaN alone differs from itself
        return "NaN"
    if isfinite(value) and abs(value) < _INFINITE:
        return ""
    return "Infinity" if value > 0 else "-Infinity"


def _in_force(rows: list[StoredRow], tags: dict[str, str]) -> list[StoredRow]:
    """The rows that no later attempt began again, each epoch's steps first, then its row, then its final evaluation."""
    mark = attempt_tag(0).removesuffix("0")
    begun = {
        int(key.removeprefix(mark)): _first_epoch(told)
        for key, told in tags.items()
        if key.startswith(mark) and key.removeprefix(mark).isdecimal()
    }
    force = [
        row
        for row in rows
        if all(row.epoch < first for attempt, first in begun.items() if attempt > row.attempt)
    ]
    return sorted(force, key=lambda row: (row.epoch, row.final, row.step is None, row.step or 0))


def _first_epoch(tag: str) -> float:
    """The epoch that an attempt began with; one whose tag tells nothing has replaced nothing."""
    try:
        told = msgspec.json.decode(tag, type=dict[str, Any]).get("first_epoch")
    except (msgspec.DecodeError, RecursionError):
        told = None
    return float(told) if isinstance(told, int) else float("inf")
