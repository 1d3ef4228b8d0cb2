"""Rows: kept as they came, and which of them are in force.

Every row is kept once: a repeat is told from a new row by its content. What is in force follows from the rows and
the attempts alone, so the order in which they arrived plays no part:

* a row of an attempt counts only below the first epoch of every later attempt, replaced yet or not;
* of rows with the same epoch, step and `final`, the newest attempt's counts;
* rows of one attempt with the same epoch, step and `final` merge by name, the later value wins: later by the
  row's own time `at`, and among equal times by arrival.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import msgspec
import sqlalchemy
from sqlalchemy import Connection, Select, String, func, select, type_coerce
from sqlalchemy.dialects.sqlite import insert

from hubstate.server.schema import attempts, rows

__all__ = [
    "BIGGEST",
    "Arrived",
    "Newest",
    "RowIn",
    "arrived",
    "count",
    "counted",
    "every_row",
    "first_epochs",
    "from_hub_v1",
    "in_force",
    "is_here",
    "keep",
    "newest_in_force",
    "newest_number",
    "newest_of_all",
    "number",
]

#: The biggest epoch, step or attempt that is taken.
BIGGEST = 2**53
#: So many digits of a number are looked at, zeros at its head included.
_DIGITS = 20
#: So many rows, of all sessions together, are looked through sooner than a session's rows are looked up.
_NEAR = 20_000


class RowIn(NamedTuple):
    """A row as it was sent. `at` is None where the client told no time; values are finite numbers or None."""

    attempt: int
    epoch: int
    step: int | None
    final: bool
    at: float | None
    metrics: dict[str, int | float | None]
    nonfinite: dict[str, str]

    def digest(self) -> str:
        """Equal for a repeat of the same row, and only then."""
        text = json.dumps(
            [self.step, self.final, self.at, self.metrics, self.nonfinite], sort_keys=True, allow_nan=False
        )
        return hashlib.sha256(text.encode()).hexdigest()[:32]


def number(value: object) -> tuple[int | float | None, str]:
    """A JSON number as a finite value, or None and its name; anything else is None and `not a number`."""
    if value is None:
        return None, ""
    if isinstance(value, bool):
        return int(value), ""
    if not isinstance(value, int | float):
        return None, "not a number"
    try:
        as_float = float(value)
    except OverflowError:
        return None, "Infinity" if value > 0 else "-Infinity"
    if math.isnan(as_float):
        return None, "NaN"
    if math.isinf(as_float):
        return None, "Infinity" if as_float > 0 else "-Infinity"
    return value, ""


def from_hub_v1(metrics: Mapping[str, object], attempt: int) -> tuple[list[RowIn], list[str]]:
    """The rows of a HUB v1 upload, `{"<epoch>": "<JSON text>"}`, and in words what of it could not be read.

    The inner text may hold bare NaN and Infinity, as Python writes them.
    """
    taken: list[RowIn] = []
    odd: list[str] = []
    for key, text in metrics.items():
        if not (key.isascii() and key.isdigit() and len(key) <= _DIGITS and int(key) <= BIGGEST):
            odd.append(f"a row was sent for {key[:40]!r}, which is no epoch")
            continue
        values = _inner(text)
        if values is None:
            odd.append(f"the row of epoch {key} could not be read: it is no JSON object")
            continue
        finite: dict[str, int | float | None] = {}
        nonfinite: dict[str, str] = {}
        for name, value in values.items():
            clean = name.encode("utf-8", "replace").decode()
            finite[clean], word = number(value)
            if word == "not a number":
                del finite[clean]
                odd.append(f"the value of {clean[:80]!r} in epoch {key} is no number")
            elif word:
                nonfinite[clean] = word
        taken.append(RowIn(attempt, int(key), None, False, None, finite, nonfinite))
    return taken, odd


def _inner(text: object) -> dict[str, Any] | None:
    if isinstance(text, str):
        try:
            text = json.loads(text)
        except (ValueError, RecursionError):
            return None
    return text if isinstance(text, dict) else None


def keep(connection: Connection, session: str, new: Iterable[RowIn], now: float) -> None:
    """Keeps rows; one that is here already is not kept twice. `now` stands in for a time that was not told."""
    values = [
        {
            "session": session,
            "attempt": row.attempt,
            "epoch": row.epoch,
            "step": row.step,
            "final": row.final,
            "at": now if row.at is None else row.at,
            "metrics": row.metrics,
            "nonfinite": row.nonfinite,
            "digest": row.digest(),
        }
        for row in new
    ]
    if values:
        connection.execute(insert(rows).on_conflict_do_nothing(), values)


def count(connection: Connection, session: str) -> int:
    """How many rows the hub holds, repeats not counted."""
    return connection.execute(
        select(func.count()).select_from(rows).where(rows.c.session == session)
    ).scalar_one()


def every_row(connection: Connection, session: str) -> list[dict[str, Any]]:
    """Every row as it came, of every attempt, in order of epoch and step. `in_force`: whether it still counts.

    What was measured is JSON text still (`msgspec.Raw`): it goes into an answer as it is.
    """
    found = _load(connection, session)
    counts = _Counting(connection, session)
    newest: dict[_Place, int] = {}
    for row in found:
        if counts(row):
            newest[_place(row)] = max(newest.get(_place(row), 0), row.attempt)
    return [
        {**_shown(row, _as_it_is), "in_force": counts(row) and newest[_place(row)] == row.attempt}
        for row in sorted(found, key=lambda row: (_place(row), row.attempt))
    ]


def in_force(connection: Connection, session: str, *, raw: bool = False) -> list[dict[str, Any]]:
    """The rows in force, in order of epoch and step: an epoch's steps, then its row, then its final evaluation.

    `raw`: what was measured stays JSON text (`msgspec.Raw`), to go into an answer: there may be a million rows.
    """
    read = _as_it_is if raw else msgspec.json.decode
    return _merged_in_order(_load(connection, session), _Counting(connection, session), read)


def _merged_in_order(
    found: Iterable[_Stored], counts: _Counting, read: Callable[[str], Any]
) -> list[dict[str, Any]]:
    """Of rows, the later ones last, those in force in their order."""
    merged: dict[_Place, _Stored] = {}
    for row in found:
        if not counts(row):
            continue
        place = _place(row)
        before = merged.get(place)
        if before is None or before.attempt < row.attempt:
            merged[place] = row
        elif before.attempt == row.attempt:
            merged[place] = _merged(before, row)
    return [_shown(merged[place], read) for place in sorted(merged)]


def _merged(before: _Stored, later: _Stored) -> _Stored:
    metrics = msgspec.json.decode(later.metrics)
    words = msgspec.json.decode(before.nonfinite)
    nonfinite = {name: word for name, word in words.items() if name not in metrics}
    nonfinite |= msgspec.json.decode(later.nonfinite)
    return later._replace(
        metrics=msgspec.json.encode(msgspec.json.decode(before.metrics) | metrics).decode(),
        nonfinite=msgspec.json.encode(nonfinite).decode(),
    )


class Arrived(NamedTuple):
    """A row by the number under which it arrived. `metrics` is JSON text."""

    n: int
    attempt: int
    epoch: int
    step: int | None
    final: bool
    metrics: str
    digest: str


def arrived(connection: Connection, session: str, after: int, newest: int) -> Iterator[Arrived]:
    """The rows of a session that arrived after that number, in order of arrival.

    `newest`: the number of the row that arrived last, of whichever session: where that is near, what came since is
    looked through; else the session's rows are looked up.
    """
    wanted = "attempt, epoch, step, final, metrics, digest FROM rows"
    if newest - after <= _NEAR:
        # The plus keeps SQLite from the index of the session, which leads through all of its rows.
        query = f"SELECT n, {wanted} WHERE n > :after AND +session = :session ORDER BY n"
    else:
        mine = "(SELECT n FROM rows WHERE session = :session AND n > :after ORDER BY n) AS mine"
        query = f"SELECT mine.n, {wanted} JOIN {mine} ON rows.n = mine.n ORDER BY mine.n"
    found = connection.execute(sqlalchemy.text(query), {"session": session, "after": after})
    while batch := found.fetchmany(1000):
        yield from map(Arrived._make, batch)


def counted(connection: Connection, session: str, after: int, newest: int) -> int:
    """How many rows of a session arrived after the one of that number.

    `newest`: the number of the row that arrived last, of whichever session; it tells which way is the shorter one.
    """
    mine = "+session" if newest - after <= _NEAR else "session"
    query = f"SELECT count(*) FROM rows WHERE n > :after AND {mine} = :session"  # noqa: S608 - our own words
    found = connection.execute(sqlalchemy.text(query), {"session": session, "after": after})
    return int(found.scalar_one())


def newest_number(connection: Connection, session: str) -> tuple[int, str]:
    """The number of the row that arrived last, and its digest; 0 and nothing where there is none."""
    query = select(rows.c.n, rows.c.digest).where(rows.c.session == session)
    found = connection.execute(query.order_by(rows.c.n.desc()).limit(1)).one_or_none()
    return (0, "") if found is None else (found.n, found.digest)


class Newest(NamedTuple):
    """The row that arrived last, of whichever session: by its number, its session and its digest.

    Once the newest rows are removed their numbers are given again, so a number alone does not tell what came since.
    """

    n: int = 0
    session: str = ""
    digest: str = ""


def newest_of_all(connection: Connection) -> Newest:
    """The row that arrived last."""
    query = select(rows.c.n, rows.c.session, rows.c.digest).order_by(rows.c.n.desc()).limit(1)
    found = connection.execute(query).one_or_none()
    return Newest() if found is None else Newest(*found)


def is_here(connection: Connection, row: Newest) -> bool:
    """Whether a row that was the newest was never removed: then what came since has higher numbers."""
    query = select(rows.c.n).where(
        rows.c.n == row.n, rows.c.session == row.session, rows.c.digest == row.digest
    )
    return connection.execute(query).first() is not None


def first_epochs(connection: Connection, session: str) -> list[tuple[int, int]]:
    """Each attempt's number and the epoch that it began with, in order."""
    query = select(attempts.c.attempt, attempts.c.first_epoch).where(attempts.c.session == session)
    return [(attempt, first) for attempt, first in connection.execute(query.order_by(attempts.c.attempt))]


def newest_in_force(connection: Connection, session: str, most: int) -> list[dict[str, Any]]:
    """The last rows in force, at most so many, without a look at the others: there may be a million."""
    counts = _Counting(connection, session)
    # Rows that merge are told one after the other; four of a place are more than any client sends.
    enough = 4 * most + 20
    found: list[tuple[float, int, _Stored]] = []
    attempt = BIGGEST + 1
    while len(found) < enough:
        earlier = select(func.max(rows.c.attempt)).where(rows.c.session == session, rows.c.attempt < attempt)
        attempt = connection.execute(earlier).scalar_one()
        if attempt is None:
            break
        query = (
            _columns()
            .add_columns(rows.c.n)
            .where(rows.c.session == session, rows.c.attempt == attempt, rows.c.epoch < counts.end(attempt))
        )
        backwards = query.order_by(
            rows.c.epoch.desc(), rows.c.final.desc(), rows.c.step.is_(None).desc(), rows.c.step.desc()
        )
        for *told, n in connection.execute(backwards.limit(enough)):
            row = _Stored(*told)
            found.append((row.at, n, row))
    found.sort(key=lambda one: one[:2])
    return _merged_in_order([row for _, _, row in found], counts, msgspec.json.decode)[-most:]


class _Stored(NamedTuple):
    """A row as it lies in the table; `metrics` and `nonfinite` are JSON text."""

    attempt: int
    epoch: int
    step: int | None
    final: bool
    at: float
    metrics: str
    nonfinite: str


#: Where a row stands; places sort in the order in which rows are told.
_Place = tuple[int, bool, bool, int]


def _place(row: _Stored) -> _Place:
    return row.epoch, row.final, row.step is None, row.step or 0


def _load(connection: Connection, session: str) -> list[_Stored]:
    """All rows, the later ones last. Their JSON stays text: there may be a hundred thousand."""
    query = _columns().where(rows.c.session == session)
    return [_Stored(*row) for row in connection.execute(query.order_by(rows.c.at, rows.c.n))]


def _columns() -> Select[Any]:
    return select(
        rows.c.attempt,
        rows.c.epoch,
        rows.c.step,
        rows.c.final,
        rows.c.at,
        type_coerce(rows.c.metrics, String),
        type_coerce(rows.c.nonfinite, String),
    )


class _Counting:
    """Tells of a row whether no later attempt has begun at or below its epoch."""

    def __init__(self, connection: Connection, session: str) -> None:
        query = select(attempts.c.attempt, attempts.c.first_epoch).where(attempts.c.session == session)
        self._firsts = [(attempt, first_epoch) for attempt, first_epoch in connection.execute(query)]
        self._ends: dict[int, int] = {}

    def __call__(self, row: _Stored) -> bool:
        return row.epoch < self.end(row.attempt)

    def end(self, attempt: int) -> int:
        """The epoch from which on no row of the attempt counts."""
        end = self._ends.get(attempt)
        if end is None:
            later = [first for other, first in self._firsts if other > attempt]
            end = self._ends[attempt] = min(later, default=BIGGEST + 1)
        return end


def _as_it_is(text: str) -> msgspec.Raw:
    return msgspec.Raw(text)


def _shown(row: _Stored, read: Callable[[str], Any]) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "epoch": row.epoch,
        "step": row.step,
        "attempt": row.attempt,
        "final": row.final,
        "at": row.at,
        "metrics": read(row.metrics),
    }
    if row.nonfinite != "{}":
        shown["nonfinite"] = read(row.nonfinite)
    return shown
