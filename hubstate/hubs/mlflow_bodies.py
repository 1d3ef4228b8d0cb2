"""What leaves for MLflow, as plain functions of actions and rows; `docs/mlflow.md` tells what people see of it.

An epoch's row is a point of each of its metrics at step = epoch. A row of a single step has an axis of its own, because
one name may be told on both: its metrics are called `step/NAME`, at step = step; those of the final evaluation
`final/NAME`, at step = epoch. Beside them stand points of our own, which tell the attempt of a row and the epoch of a
step: with them a row can be put together again (`mlflow_held`).

Every point is a function of the row alone, its time included, which was taken when the row was recorded. So a repeat
brings the same points, and MLflow's database holds each once.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from hubstate.actions import CloseSession, EndSession, Heartbeat, OpenSession, Row
from hubstate.hubs.mlflow_names import AXES, OURS, taken
from hubstate.states import Outcome

__all__ = [
    "ATTEMPT",
    "MOST_ENTITIES",
    "NAME_TAG",
    "RUN",
    "SESSION",
    "attempt_tag",
    "axis_of",
    "batches",
    "checkpoint_tag",
    "end_tags",
    "heartbeat_tags",
    "opening_tags",
    "parameters",
    "points",
    "run_status",
    "storable",
    "tag",
]

#: The tag by which a session's run is found.
SESSION = f"{OURS}.session"
#: The parameter that makes one of several runs of a session the one that counts (see `mlflow_runs`).
RUN = f"{OURS}.run"
#: Our own points, behind the name of their axis: the attempt of each row, and the epoch of a step's.
ATTEMPT, EPOCH = f"{OURS}/attempt", f"{OURS}/epoch"
#: The tag that tells the name of which MLflow takes another, behind it.
NAME_TAG = f"{OURS}.name/"

#: What a request holds at most: metrics, parameters and tags in all; bytes.
MOST_ENTITIES, MOST_BYTES = 1_000, 900_000
#: How many parameters or tags a request holds at most.
MOST_TAGS = 100
#: How long a tag's value is at most (characters): older servers take no more.
LONGEST_TAG = 5_000
#: How many parameters a configuration becomes at most, and how long a value is (characters).
MOST_PARAMETERS, LONGEST_VALUE = 2_000, 6_000

_METRICS: msgspec.json.Decoder[dict[str, float | int | None]] = msgspec.json.Decoder(
    dict[str, float | int | None]
)
_WORDS: msgspec.json.Decoder[dict[str, str]] = msgspec.json.Decoder(dict[str, str])
_ENCODER = msgspec.json.Encoder()

Tag = dict[str, str]


# -- rows ------------------------------------------------------------------------------------------------


def axis_of(*, step: int | None, final: bool) -> str:
    """What stands before the names of a row's metrics."""
    return AXES[1] if final else "" if step is None else AXES[0]


def points(row: Row) -> Iterator[tuple[dict[str, Any], str]]:
    """The points of a row, each with the name that its key was made of; ours have none."""
    axis = axis_of(step=row.step, final=row.final)
    step = row.epoch if row.step is None else row.step
    at = int(row.at * 1000)

    def point(key: str, value: float | str) -> dict[str, Any]:
        return {"key": key, "value": value, "timestamp": at, "step": step}

    yield point(axis + ATTEMPT, row.attempt), ""
    if row.step is not None:
        yield point(axis + EPOCH, row.epoch), ""
    odd = _WORDS.decode(row.nonfinite)
    for name, value in _METRICS.decode(row.metrics).items():
        told = odd.get(name) if value is None else value
        if told is not None:
            yield point(axis + taken(name), told), name


def batches(
    rows: Iterable[Row], known: frozenset[str]
) -> Iterator[tuple[list[dict[str, Any]], dict[str, str]]]:
    """The points of some rows, in as many requests as they need; and the names of which MLflow takes others, by those.

    `known`: the names (as MLflow takes them) that were told before. Of two values that one metric got in the same
    millisecond the later one leaves, because MLflow could not tell which that is.
    """
    metrics: list[dict[str, Any]] = []
    names: dict[str, str] = {}
    size = 0
    for point, name in _latest_points(rows):
        key = taken(name) if name else ""
        new = name != key and key not in known and key not in names
        length = len(_ENCODER.encode(point)) + (len(_ENCODER.encode(name)) + 300 if new else 0)
        full = len(metrics) + len(names) >= MOST_ENTITIES - 1 or size + length > MOST_BYTES
        if full or (new and len(names) >= MOST_TAGS):
            yield metrics, names
            metrics, names, size = [], {}, 0
        metrics.append(point)
        if new:
            names[key] = name
        size += length
    if metrics:
        yield metrics, names


def _latest_points(rows: Iterable[Row]) -> Iterator[tuple[dict[str, Any], str]]:
    """The points of some rows; those of rows that follow one another and share place and time are one row's."""
    before: tuple[Any, ...] = ()
    waiting: dict[str, tuple[dict[str, Any], str]] = {}
    for row in rows:
        place = (row.attempt, row.epoch, row.step, row.final, int(row.at * 1000))
        if place != before:
            yield from waiting.values()
            waiting, before = {}, place
        waiting |= {point["key"]: (point, name) for point, name in points(row)}
    yield from waiting.values()


# -- tags ------------------------------------------------------------------------------------------------


def tag(key: str, value: object) -> Tag:
    """A tag, cut to what any server takes."""
    return {"key": key, "value": storable(str(value))[:LONGEST_TAG]}


def storable(text: str) -> str:
    """A text as any server takes it: what no JSON holds (surrogates), or not every database (NUL), is replaced."""
    return text.encode("utf-8", "replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")


def attempt_tag(attempt: int) -> str:
    """The tag that tells where an attempt began."""
    return f"{OURS}.attempt.{attempt}"


def checkpoint_tag(kind: str) -> str:
    """The tag that tells which file is the checkpoint of this kind."""
    return f"{OURS}.checkpoint.{kind}"


def opening_tags(action: OpenSession) -> list[Tag]:
    """What a run tells of its session and of the attempt that begins."""
    tags = [
        tag(SESSION, action.session),
        tag(f"{OURS}.state", "session_created"),
        tag(f"{OURS}.outcome", Outcome.RUNNING.value),
        tag(f"{OURS}.attempt", action.attempt),
        tag(attempt_tag(action.attempt), json.dumps({"first_epoch": action.first_epoch})),
        tag("mlflow.source.name", OURS),
        tag("mlflow.source.type", "LOCAL"),
    ]
    facts = {"epochs": action.epochs, "project": action.project, "group": action.group}
    tags += [tag(f"{OURS}.{name}", value) for name, value in facts.items() if value is not None]
    return tags + [tag(_label(label), "true") for label in action.tags]


def _label(label: str) -> str:
    """A tag of the user's; one that would be taken for MLflow's own stands behind our name."""
    return f"{OURS}.tag/{taken(label)}" if label.startswith("mlflow.") else taken(label)


def heartbeat_tags(action: Heartbeat, now: str) -> list[Tag]:
    """A sign of life, at the time `now`."""
    told = {
        "heartbeat": now,
        "state": action.state.value,
        "outcome": action.outcome.value,
        "waiting": action.waiting,
    }
    if action.epoch is not None:
        told["epoch"] = action.epoch
    return [tag(f"{OURS}.{name}", value) for name, value in told.items()]


def end_tags(action: CloseSession | EndSession) -> list[Tag]:
    """The word that a session is over, and how."""
    aborted = isinstance(action, EndSession)
    told = {
        "state": "aborted" if aborted else "done",
        "outcome": action.outcome.value,
        "rows": action.rows,
        "reason": action.reason if isinstance(action, EndSession) else "",
        "waiting": 0,
    }
    return [tag(f"{OURS}.{name}", value) for name, value in told.items()]


def run_status(action: CloseSession | EndSession) -> str:
    """What MLflow calls an end: a training that was stopped came to one, but not if its session was aborted."""
    match action.outcome:
        case Outcome.FAILED:
            return "FAILED"
        case Outcome.FINISHED:
            return "FINISHED"
        case Outcome.STOPPED if isinstance(action, CloseSession):
            return "FINISHED"
        case _:
            return "KILLED"


# -- parameters ------------------------------------------------------------------------------------------


class Parameters(NamedTuple):
    """The parameters that are to be told, the names of which MLflow takes others, by those, and what has no room."""

    told: dict[str, str]
    names: dict[str, str]
    left_out: list[str]


def parameters(config: Mapping[str, Any], attempt: int, known: Mapping[str, str]) -> Parameters:
    """A configuration as parameters, of which each can be told once: `known` are those that the run has.

    One inside another is told by both names, with a dot. A value that a later attempt changed stands beside the first
    one, under the name `NAME attempt N`.
    """
    told: dict[str, str] = {}
    names: dict[str, str] = {}
    left_out: list[str] = []
    for number, (name, value) in enumerate(_flat(config, "")):
        said = _spelled(value)
        latest = _latest(name, attempt, known)
        later = _later(name, attempt)
        wanted = name if latest is None else later
        # The names of what the run has already are told again: the word that told them may have been lost.
        names |= {key: each for each in (name, later) if (key := taken(each)) != each and key in known}
        if latest == said:
            continue
        key = taken(wanted)
        if number >= MOST_PARAMETERS or key in told or key in known:
            left_out.append(wanted)  # `{"a.b": 1, "a": {"b": 2}}` names one thing twice
            continue
        told[key] = said
        if key != wanted:
            names[key] = wanted
    return Parameters(told, names, left_out)


def _later(name: str, attempt: int) -> str:
    return f"{name} attempt {attempt}"


def _latest(name: str, attempt: int, known: Mapping[str, str]) -> str | None:
    """The value that holds of what was told so far; None if there is none."""
    first = known.get(taken(name))
    if first is None:
        return None
    later = (known.get(taken(_later(name, number))) for number in range(attempt, 1, -1))
    return next((value for value in later if value is not None), first)


def _flat(config: Mapping[str, Any], before: str) -> Iterator[tuple[str, Any]]:
    for name, value in config.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value


def _spelled(value: Any) -> str:
    """A value as Python spells it, as MLflow's own client would; what is too long is cut, and ends in dots."""
    said = storable(value if isinstance(value, str) else str(value))
    return said if len(said) <= LONGEST_VALUE else f"{said[: LONGEST_VALUE - 1]}…"
