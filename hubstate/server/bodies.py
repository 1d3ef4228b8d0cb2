"""The JSON bodies that hubstate's own client sends, and how a body is read: strictly, with the reason if it cannot be."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

import msgspec

from hubstate.server.answers import Problem
from hubstate.server.rows import BIGGEST
from hubstate.states import Outcome, State

__all__ = ["End", "Life", "Opening", "Row", "Rows", "Steps", "Usage", "converted", "decoded", "json_object"]

Count = Annotated[int, msgspec.Meta(ge=0, le=BIGGEST)]
AttemptNumber = Annotated[int, msgspec.Meta(ge=1, le=BIGGEST)]
#: So many parts may be within each other: more than people write, less than Python can go through.
_DEEPEST = 200
Words = Annotated[str, msgspec.Meta(max_length=2000)]


class Opening(msgspec.Struct):
    id: Annotated[str, msgspec.Meta(max_length=64)]
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=500)]
    attempt: AttemptNumber = 1
    first_epoch: Count = 0
    epochs: Count | None = None
    project: Words | None = None
    group: Words | None = None
    tags: list[Words] = []
    config: dict[str, Any] = {}
    started_at: float | None = None


class Row(msgspec.Struct):
    epoch: Count
    metrics: dict[str, int | float | None]
    attempt: AttemptNumber | None = None
    step: Count | None = None
    final: bool = False
    at: float | None = None
    nonfinite: dict[str, Literal["NaN", "Infinity", "-Infinity"]] = {}


class Rows(msgspec.Struct):
    metrics: list[Row]


class Life(msgspec.Struct):
    attempt: AttemptNumber
    state: State | None = None
    outcome: Outcome | None = None
    epoch: Count | None = None
    waiting: Count | None = None


class End(msgspec.Struct):
    attempt: AttemptNumber
    state: Literal["done", "aborted"]
    outcome: Outcome
    reason: Words = ""
    rows: Count | None = None


class Steps(msgspec.Struct):
    steps: list[dict[str, Any]]


class Usage(msgspec.Struct):
    what: Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
    attempt: AttemptNumber = 1


_T = TypeVar("_T")


def decoded(body: bytes, kind: type[_T]) -> _T:
    """The body as `kind`. Raises `Problem` 400 for what is no JSON, 422 for JSON of another shape, or far too deep."""
    try:
        found = msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise Problem(422, "invalid", f"the body cannot be used: {error}") from error
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise Problem(400, "not_json", f"the body is not the JSON that was expected: {error}") from error
    if body.count(b"[") + body.count(b"{") > _DEEPEST:  # else it cannot be any deeper
        _check_depth(found.steps if isinstance(found, Steps) else found)
    return found


def _check_depth(found: object) -> None:
    """Refuses what could be kept, but would break whatever reads or shows it later."""
    level = [found]
    for _ in range(_DEEPEST + 1):
        inner = (
            part.values() if isinstance(part, dict) else part
            for part in level
            if isinstance(part, dict | list)
        )
        level = [part for parts in inner for part in parts if isinstance(part, dict | list)]
        if not level:
            return
    raise Problem(
        422, "invalid", f"the body has parts within parts, more than {_DEEPEST} deep: send it flatter"
    )


def json_object(body: bytes) -> dict[str, Any]:
    found = decoded(body or b"{}", object)
    if not isinstance(found, dict):
        raise Problem(400, "not_json", "the body must be a JSON object")
    return found


def converted(part: object, kind: type[_T]) -> _T:
    try:
        return msgspec.convert(part, kind)
    except msgspec.ValidationError as error:
        raise Problem(422, "invalid", f"the body cannot be used: {error}") from error
