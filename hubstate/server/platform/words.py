"""What Ultralytics' Platform callback says, as the hub keeps it. Pure: an event's data in, rows and columns out.

Its wire differs from its words: every argument of the trainer is a text, every number that is not finite is null, and
what runs where is sent unasked. What tells of a person or a machine is kept only where the hub's owner wants it.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import msgspec

from hubstate.server.rows import BIGGEST, RowIn, number
from hubstate.server.terms import Terms

__all__ = ["Run", "digest_of", "kept_start", "row_of", "run_of", "whole"]

#: What of the environment is nobody's secret. Anything else is kept only where the owner wants it.
_PLAIN_ENVIRONMENT = frozenset(
    {
        "ultralyticsVersion",
        "os",
        "environment",
        "pythonVersion",
        "cpuCount",
        "cpu",
        "totalRamGb",
        "totalDiskGb",
        "gitBranch",
        "gitCommit",
        "gpuCount",
        "gpuType",
    }
)
#: How HUB v1 calls what the Platform callback tells of a model.
_MODEL = {
    "parameters": "model/parameters",
    "gflops": "model/GFLOPs",
    "speedMs": "model/speed_PyTorch(ms)",
}
_WHOLE = re.compile(r"-?[0-9]{1,15}")
_NAME_LENGTH = 500
#: How far down numbers are looked for.
_DEPTH = 8


class Run(NamedTuple):
    """What a session is told when a run starts. `body`: as a HUB v1 client would have sent it."""

    epochs: int | None
    config: dict[str, Any]
    body: dict[str, Any]


def whole(value: object, least: int = 0) -> int | None:
    """A count from JSON; None for anything else."""
    good = isinstance(value, int) and not isinstance(value, bool) and least <= value <= BIGGEST
    return value if good and isinstance(value, int) else None


def digest_of(data: object) -> str:
    """Equal for a repeat of the same event, and only then."""
    return hashlib.sha256(msgspec.json.encode(data, order="sorted")).hexdigest()[:32]


# -- the start of a run ----------------------------------------------------------------------------------


def kept_start(data: dict[str, Any], terms: Terms) -> dict[str, Any]:
    """The data of `training_started`, without what the owner does not want to be kept."""
    environment = data.get("environment")
    if terms.host or not isinstance(environment, dict):
        return data
    plain = {name: value for name, value in environment.items() if name in _PLAIN_ENVIRONMENT}
    return {**data, "environment": plain}


def run_of(data: dict[str, Any], name: str) -> Run:
    """The run that this data, kept as above, tells of. `name`: of the model."""
    arguments = _part(data, "trainArgs")
    environment = _part(data, "environment")
    config = {**arguments, **{f"environment/{name}": value for name, value in environment.items()}}
    epochs = whole(data.get("epochs"), 1)
    told = {
        "batchSize": _plain(arguments.get("batch")),
        "epochs": epochs,
        "imageSize": _plain(arguments.get("imgsz")),
        "patience": _plain(arguments.get("patience")),
        "device": data.get("device"),
        "cache": arguments.get("cache"),
    }
    model = str(arguments.get("model", ""))
    parent = {"name": model} if model.endswith(".pt") else {}
    body = {
        "config": {name: value for name, value in told.items() if value is not None},
        "dataset": {"name": str(arguments.get("data", ""))},
        "lineage": {"architecture": {"name": PurePosixPath(model).stem} if model else {}, "parent": parent},
        "meta": {"name": name},
    }
    return Run(epochs, config, body)


def _part(data: dict[str, Any], name: str) -> dict[str, Any]:
    part = data.get(name)
    return part if isinstance(part, dict) else {}


def _plain(text: object) -> object:
    """A number that was sent as a text is a number again."""
    return int(text) if isinstance(text, str) and _WHOLE.fullmatch(text) else text


# -- rows ------------------------------------------------------------------------------------------------


def row_of(data: dict[str, Any], attempt: int) -> tuple[RowIn | None, list[str]]:
    """The row of an `epoch_end`, and in words what of it could not be read. None where it names no epoch."""
    epoch = whole(data.get("epoch"))
    if epoch is None:
        return None, [f"a row was sent for {data.get('epoch')!r:.40}, which is no epoch"]
    values: dict[str, int | float | None] = {}
    odd: list[str] = []
    model = _part(data, "modelInfo")
    _flatten("", data.get("metrics"), values, odd)
    _flatten("", {known: model[name] for name, known in _MODEL.items() if name in model}, values, odd)
    _flatten("", {name: data[name] for name in ("fitness", "best_fitness") if name in data}, values, odd)
    _flatten(
        "system", data.get("system"), values, []
    )  # versions of drivers are no numbers, and that is no mistake
    told = [f"the value of {name[:80]!r} in epoch {epoch} is no number" for name in odd]
    return RowIn(attempt, epoch, None, False, None, values, {}), told


def _flatten(
    name: str, value: object, into: dict[str, int | float | None], odd: list[str], depth: int = 0
) -> None:
    """Numbers below each other become names with strokes between; of a list the entries are told by their mount."""
    if isinstance(value, dict) and depth < _DEPTH:
        for key, inner in value.items():
            _flatten(f"{name}/{key}" if name else str(key), inner, into, odd, depth + 1)
        return
    if isinstance(value, list) and depth < _DEPTH:
        for place, inner in enumerate(value):
            mount = str(inner.get("mount", place) if isinstance(inner, dict) else place).strip("/") or "root"
            rest = (
                {key: x for key, x in inner.items() if key != "mount"} if isinstance(inner, dict) else inner
            )
            _flatten(f"{name}/{mount}", rest, into, odd, depth + 1)
        return
    if not name or (value is None and depth == 0):
        return
    clean = name.encode("utf-8", "replace").decode()[:_NAME_LENGTH]
    finite, word = number(value)
    if word == "not a number":
        odd.append(clean)
    else:
        into[clean] = finite
