"""The rows in force as columns: what a chart is drawn from, so that none has to read every row of a session.

A row lies in the database as it was sent, one JSON text with all its metrics. A chart wants one metric of all rows.
So what was told is laid out here a second time, metric by metric, in `curves.sqlite` beside the database: a copy that
may be removed at any time and is made again by the next look at it.

How it grows. The rows in force stand in an order (`rows.in_force`), and a row's place in it is its *position*. While
rows arrive in that order, which is how trainings tell them, they are appended, and what was laid out stays as it was:
this is one *generation*. A row that comes out of order, one that merges with another, and a new attempt that takes
back epochs change what is in force; then all of it is laid out anew, as a new generation. So whoever has seen a
generation up to a position has missed nothing but what lies beyond it, which is how a page goes on after its stream broke off.

Rows of an epoch are drawn over epochs; rows of steps over steps, or over their own number where steps begin anew in
each epoch. Of a metric that both told, the epochs are drawn. Final evaluations are no part of a curve.
"""

from __future__ import annotations

import json
import math
import secrets
import sqlite3
import threading
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from operator import attrgetter, lt
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec
from sqlalchemy import Connection, select

from hubstate.errors import StorageError
from hubstate.log import log
from hubstate.server import rows as rows_room
from hubstate.server.columns import (
    BLOCK,
    GROUP,
    Column,
    Group,
    by_position,
    drawn,
    groups_of,
    joined,
    packed_groups,
    unpacked,
    unpacked_groups,
)
from hubstate.server.database import Database
from hubstate.server.schema import sessions

__all__ = ["Curve", "Curves", "Layout", "Points", "Tail"]

#: Rises with each change of what is stored; an older file is made anew.
_VERSION = 2
#: How many rows are read at a time.
_BATCH = 4096
#: So many points are held in memory while a session is laid out anew.
_HELD = 2_000_000
_EPOCH, _STEP, _ROW = "epoch", "step", "row"
#: The largest whole number that SQLite holds as one.
_LARGEST = 2**63 - 1
#: The place before every row.
_NOWHERE = (-1, False, False, 0)

_TABLES = """
CREATE TABLE layouts (
  session TEXT PRIMARY KEY, born REAL, generation TEXT, upto INTEGER, digest TEXT, length INTEGER, place TEXT,
  attempts TEXT, stretches TEXT
) WITHOUT ROWID;
CREATE TABLE curves (
  session TEXT, id INTEGER, name TEXT, over TEXT, length INTEGER, last REAL, x REAL, folds INTEGER, gaps INTEGER,
  PRIMARY KEY (session, id)
) WITHOUT ROWID;
CREATE TABLE blocks (
  session TEXT, curve INTEGER, first INTEGER, x REAL, size INTEGER, groups BLOB, points BLOB,
  PRIMARY KEY (session, curve, first)
);
"""


_Row = TypeVar("_Row")


class Curve(NamedTuple):
    """One metric. `over`: `epoch`, `step` or `row`. `last` is None where the newest value was not finite.

    `length` counts its points, those that were not finite included.
    """

    id: int
    name: str
    over: str
    length: int
    last: float | None


class Layout(NamedTuple):
    """What is laid out of a session: a generation, how many rows are in force, and the curves by name."""

    generation: str
    length: int
    curves: list[Curve]


class Points(NamedTuple):
    """A stretch of a curve. `y` is None where a value was not finite: there the line has a gap.

    Of `of` points in the stretch `x` and `y` hold all, or the lowest and the highest of each of many equal parts;
    `middle_x` and `middle_y` are then the parts' means. `attempts`: from which x on which attempt told it.
    """

    x: Sequence[float]
    y: Sequence[float | None]
    of: int
    middle_x: Sequence[float]
    middle_y: Sequence[float | None]
    attempts: list[tuple[float, int]]


class Tail(NamedTuple):
    """What a curve has beyond a position."""

    x: list[float]
    y: list[float | None]
    attempts: list[int]

    #: Whether the curve begins here.
    whole: bool


class _Draft:
    """What is known of a curve while rows are laid out."""

    def __init__(
        self, id_: int, name: str, over: str, length: int, x: float, folds: bool, gaps: bool
    ) -> None:
        self.id = id_
        self.name = name
        self.over = over
        self.length = length
        self.x = x
        self.folds = folds
        self.gaps = gaps
        self.last = math.nan
        self.changed = False
        self.new = Column.empty()

    def add(
        self, positions: Sequence[int], x: Sequence[float], column: Sequence[Any], *, rising: bool
    ) -> None:
        """Adds points; a value is None where it was not finite. `rising`: so does x."""
        if None in column:
            self.gaps = True
            column = [math.nan if value is None else value for value in column]
        self.folds = self.folds or not rising or x[0] <= self.x
        self.x = max(self.x, x[-1])
        self.changed = True
        self.last = column[-1]
        self.length += len(x)
        self.new.positions.extend(positions)
        self.new.x.extend(x)
        self.new.y.extend(array("d", column))


class _OutOfOrderError(Exception):
    """Rows that change what is in force already: the layout has to be made anew."""


class Curves:
    """The columns of a hub, in the file at `path`. Safe for several threads.

    A file that is damaged or of another version is made anew: it holds nothing that is not in the database. One that
    cannot be written just now, because the disk is full or read-only, stays as it is.
    """

    def __init__(self, path: Path, database: Database) -> None:
        self._path = path
        self._database = database
        self._lock = threading.Lock()
        self._busy: dict[str, threading.Lock] = {}
        #: The newest row of all when it was last looked for rows of a session.
        self._searched: dict[str, rows_room.Newest] = {}
        self._file: sqlite3.Connection | None = None

    def close(self) -> None:
        """Lets go of the file."""
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None

    def sweep(self) -> int:
        """Removes what is laid out of sessions that are not in the database any more; how many they were."""
        if not self._path.exists():
            return 0
        laid_out = [session for (session,) in self._read("SELECT session FROM layouts")]
        gone = 0
        for session in laid_out:
            with self._lock:
                busy = self._busy.setdefault(session, threading.Lock())
            with busy:
                if not self._database.look("SELECT 1 FROM sessions WHERE id = ?", session):
                    self._remove(session)
                    gone += 1
        return gone

    # -- laying out --------------------------------------------------------------------------------------

    def lay_out(self, session: str) -> Layout:
        """Brings the columns of a session up to what the database holds at this moment.

        Raises `StorageError` where they cannot be written; `layout` tells what was laid out before.
        """
        with self._lock:
            busy = self._busy.setdefault(session, threading.Lock())
        with busy:
            try:
                return self._laid_out(session)
            except sqlite3.DatabaseError as error:
                if not _is_damage(error):
                    raise StorageError(f"cannot write {self._path}: {error}") from error
                with self._lock:
                    self._give_up(error)
            try:
                return self._laid_out(session)
            except sqlite3.DatabaseError as error:
                raise StorageError(f"cannot write {self._path}: {error}") from error

    def _laid_out(self, session: str) -> Layout:
        # Looked at only now that nobody else lays out this session: what another thread laid out is never newer.
        with self._database.reading() as connection:
            query = select(sessions.c.created_at).where(sessions.c.id == session)
            born = connection.execute(query).scalar_one_or_none()
            self._bring_up(connection, session, born)
        return self.layout(session)

    def _bring_up(self, connection: Connection, session: str, born: float | None) -> None:
        attempts = rows_room.first_epochs(connection, session)
        before = self._read("SELECT * FROM layouts WHERE session = ?", session)
        if before and self._still_holds(connection, before[0], born, attempts):
            known = before[0]
            newest = rows_room.newest_of_all(connection)
            after = known[3]
            searched = self._searched.get(session)
            if searched is not None and rows_room.is_here(connection, searched):
                after = max(after, searched.n)
            if newest.n > after or json.loads(known[7]) != [list(one) for one in attempts]:
                try:
                    self._append(connection, session, known, attempts, after, newest.n)
                except _OutOfOrderError:
                    self._anew(connection, session, born, attempts)
                self._searched[session] = newest
        else:
            self._anew(connection, session, born, attempts)

    def _still_holds(
        self,
        connection: Connection,
        known: tuple[Any, ...],
        born: float | None,
        attempts: list[tuple[int, int]],
    ) -> bool:
        """Whether what is laid out is still in force, so that it only has to be added to."""
        session, known_born, _, upto, digest, _, place, told, _ = known
        if known_born != born:
            return False
        before = [tuple(one) for one in json.loads(told)]
        last_epoch = json.loads(place)[0]
        new = [one for one in attempts if one not in before]
        if not set(before) <= set(attempts) or any(first <= last_epoch for _, first in new):
            return False
        if upto == 0:
            return True
        # A database that was put back to an earlier state may have given the number to another row.
        found = connection.exec_driver_sql(
            "SELECT session, digest FROM rows WHERE n = ?", (upto,)
        ).one_or_none()
        return found is not None and tuple(found) == (session, digest)

    def _append(
        self,
        connection: Connection,
        session: str,
        known: tuple[Any, ...],
        attempts: list[tuple[int, int]],
        after: int,
        newest: int,
    ) -> None:
        """Lays out what arrived behind the row of the number `after`, `newest` being that of the newest of all."""
        _, born, generation, upto, digest, length, place, _, stretches = known
        drafts = {draft.name: draft for draft in self._drafts(session)}
        layer = _Layer(drafts, length, tuple(json.loads(place)), json.loads(stretches), attempts)
        found = rows_room.arrived(connection, session, after, newest)
        for batch in _batches(found):
            layer.take_in_order(batch)
            upto, digest = batch[-1].n, batch[-1].digest
        if layer.length > length or json.loads(known[7]) != [list(one) for one in attempts]:
            self._keep(session, born, generation, upto, digest, layer, attempts)

    def _anew(
        self, connection: Connection, session: str, born: float | None, attempts: list[tuple[int, int]]
    ) -> None:
        upto, digest = rows_room.newest_number(connection, session)
        try:
            layer = _Layer({}, 0, _NOWHERE, [], attempts)
            for batch in _batches(rows_room.arrived(connection, session, 0, upto)):
                layer.take_in_order(batch)
                self._put_aside(session, layer)
        except _OutOfOrderError:
            layer = _Layer({}, 0, _NOWHERE, [], attempts)
            for many in _batches(rows_room.in_force(connection, session, raw=True)):
                told = (_Told(*(row[name] for name in _Told._fields)) for row in many)
                layer.take(list(told))
                self._put_aside(session, layer)
        self._keep(session, born, secrets.token_hex(6), upto, digest, layer, attempts)

    def _remove(self, session: str) -> None:
        with self._writing() as file:
            _remove_session(file, session)

    def _put_aside(self, session: str, layer: _Layer) -> None:
        """Stores what is laid out so far, if it is much. Nobody sees it before the layout is told of."""
        if layer.points > _HELD:
            layer.points = 0
            with self._writing() as file:
                layer.replace(file, session)
                for draft in layer.drafts.values():
                    _store_points(file, session, draft)

    def _drafts(self, session: str) -> Iterator[_Draft]:
        query = "SELECT id, name, over, length, x, folds, gaps FROM curves WHERE session = ?"
        for id_, name, over, length, x, folds, gaps in self._read(query, session):
            yield _Draft(id_, name, over, length, x, bool(folds), bool(gaps))

    def _keep(
        self,
        session: str,
        born: float | None,
        generation: str,
        upto: int,
        digest: str,
        layer: _Layer,
        attempts: list[tuple[int, int]],
    ) -> None:
        with self._writing() as file:
            layer.replace(file, session)
            file.execute(
                "INSERT OR REPLACE INTO layouts VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    session,
                    born,
                    generation,
                    upto,
                    digest,
                    layer.length,
                    json.dumps(layer.place),
                    json.dumps(attempts),
                    json.dumps(layer.stretches),
                ),
            )
            for draft in layer.drafts.values():
                if draft.changed:
                    _store_points(file, session, draft)
                    _store_curve(file, session, draft)

    # -- looking -----------------------------------------------------------------------------------------

    def layout(self, session: str) -> Layout:
        """What is laid out of a session at this moment, without a look at the database."""
        known = self._read("SELECT generation, length FROM layouts WHERE session = ?", session)
        if not known:
            return Layout("", 0, [])
        query = "SELECT id, name, over, length, last, folds FROM curves WHERE session = ? ORDER BY name"
        curves = [
            Curve(id_, name, _ROW if folds else over, length, last)
            for id_, name, over, length, last, folds in self._read(query, session)
        ]
        return Layout(known[0][0], known[0][1], curves)

    def length(self, session: str) -> int | None:
        """How many rows are laid out; None where none ever was."""
        known = self._read("SELECT length FROM layouts WHERE session = ?", session)
        return int(known[0][0]) if known else None

    def points(self, session: str, curve: int, low: float, high: float, parts: int) -> Points | None:
        """The points from `low` to `high` on the axis, in at most `parts` parts; None for an unknown curve.

        One point on either side comes along, so that a line runs on to the edge of what is looked at; of a stretch with
        many points in each part, those that share a group with it.
        """
        found = self._read("SELECT folds FROM curves WHERE session = ? AND id = ?", session, curve)
        if not found:
            return None
        folds = bool(found[0][0])
        blocks = self._blocks(session, curve)
        starts = [float(block.first) if folds else block.x for block in blocks]
        attempts = self._attempts(session, curve, blocks, folds=folds)
        begin, end = max(0, bisect_left(starts, low) - 1), min(len(blocks), bisect_right(starts, high) + 1)
        size = sum(block.size for block in blocks[begin:end])
        if size >= parts * GROUP:
            groups = self._groups(session, curve, blocks[begin:end], folds=folds)
            left = max(0, bisect_left(groups, low, key=_x_first) - 1)
            groups = groups[left : bisect_right(groups, high, key=_x_last) + 1]
            if len(groups) >= parts:
                return _points(joined(groups, parts), attempts)
        points = self._column(session, curve, blocks[begin:end], folds=folds)
        begin, end = max(0, bisect_left(points.x, low) - 1), bisect_right(points.x, high) + 1
        points = points.part(begin, end)
        count = len(points.x)
        if count <= 2 * parts:
            y: list[float | None] = [None if math.isnan(value) else value for value in points.y]
            return Points(list(points.x), y, count, [], [], attempts)
        return _points(groups_of(points, parts), attempts)

    def tail(self, session: str, generation: str, begin: int, end: int, most: int) -> dict[int, Tail] | None:
        """What each curve has from one position to another; None for another generation, or for more than `most` rows."""
        known = self._read("SELECT generation, stretches FROM layouts WHERE session = ?", session)
        if not known or known[0][0] != generation or end - begin > most:
            return None
        stretches = json.loads(known[0][1])
        query = (
            "SELECT points FROM blocks WHERE session = :s AND curve = :c AND first >= coalesce("
            "(SELECT max(first) FROM blocks WHERE session = :s AND curve = :c AND first <= :p), 0) ORDER BY first"
        )
        tails = {}
        for draft in self._drafts(session):
            told = {"s": session, "c": draft.id, "p": begin}
            column = unpacked(block for (block,) in self._asked(query, told))
            left, right = bisect_left(column.positions, begin), bisect_left(column.positions, end)
            if left < right:
                positions = column.positions[left:right]
                x = list(map(float, positions)) if draft.folds else list(column.x[left:right])
                y = [None if math.isnan(value) else value for value in column.y[left:right]]
                attempts = [_attempt_at(stretches, one) for one in positions]
                # Not by its length: somebody else may have added to it since that was read.
                earlier = self._read(
                    "SELECT 1 FROM blocks WHERE session = ? AND curve = ? AND first < ? LIMIT 1",
                    session,
                    draft.id,
                    begin,
                )
                tails[draft.id] = Tail(x, y, attempts, whole=not earlier)
        return tails

    def _blocks(self, session: str, curve: int) -> list[_Block]:
        query = "SELECT first, x, size FROM blocks WHERE session = ? AND curve = ? ORDER BY first"
        return [_Block(*told) for told in self._read(query, session, curve)]

    def _of(self, what: str, session: str, curve: int, blocks: Sequence[_Block]) -> Iterator[bytes]:
        """The points, or the groups, of blocks that follow on each other."""
        if blocks:
            query = f"SELECT {what} FROM blocks WHERE session = ? AND curve = ? AND first BETWEEN ? AND ? ORDER BY first"  # noqa: S608 - our own words
            yield from (
                told for (told,) in self._read(query, session, curve, blocks[0].first, blocks[-1].first)
            )

    def _groups(self, session: str, curve: int, blocks: Sequence[_Block], *, folds: bool) -> list[Group]:
        groups = unpacked_groups(self._of("groups", session, curve, blocks))
        return list(map(by_position, groups)) if folds else groups

    def _column(self, session: str, curve: int, blocks: Sequence[_Block], *, folds: bool) -> Column:
        points = unpacked(self._of("points", session, curve, blocks))
        return points._replace(x=array("d", points.positions)) if folds else points

    def _attempts(
        self, session: str, curve: int, blocks: Sequence[_Block], *, folds: bool
    ) -> list[tuple[float, int]]:
        """From which x on which attempt told the points."""
        known = self._read("SELECT stretches FROM layouts WHERE session = ?", session)
        stretches = json.loads(known[0][0]) if known and blocks else []
        told: list[tuple[float, int]] = []
        place, points = -1, Column.empty()
        for first, attempt in stretches:
            # A stretch begins within the block before the first one that lies behind its begin, or with that.
            at = max(0, bisect_right(blocks, first, key=_first) - 1)
            if at != place:
                place, points = at, self._column(session, curve, blocks[at : at + 2], folds=folds)
            within = bisect_left(points.positions, first)
            if within < len(points.x) and (not told or told[-1][1] != attempt):
                if told and told[-1][0] == points.x[within]:
                    told.pop()
                told.append((points.x[within], attempt))
        return told

    # -- the file ----------------------------------------------------------------------------------------

    def _read(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        return self._asked(query, values)

    def _asked(self, query: str, values: Any) -> list[tuple[Any, ...]]:
        """What the file answers; nothing where it cannot be read. A damaged one is given up."""
        with self._lock:
            try:
                return self._opened().execute(query, values).fetchall()
            except sqlite3.DatabaseError as error:
                if _is_damage(error):
                    self._give_up(error)
                return []

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._opened() as file:
            file.execute("BEGIN IMMEDIATE")
            yield file

    def _opened(self) -> sqlite3.Connection:
        if self._file is None:
            self._file = _open(self._path)
        return self._file

    def _give_up(self, error: sqlite3.DatabaseError) -> None:
        log("hubstate.server").warning("hubstate.hub_curves_made_anew", reason=str(error))
        if self._file is not None:
            self._file.close()
            self._file = None
        _remove(self._path)


class _Told(NamedTuple):
    """A row in force, as far as a layout needs it. `metrics` is JSON text."""

    attempt: int
    epoch: int
    step: int | None
    final: bool
    metrics: str | msgspec.Raw


class _Layer:
    """Rows that are being laid out on top of what is laid out already."""

    def __init__(
        self,
        drafts: dict[str, _Draft],
        length: int,
        place: tuple[Any, ...],
        stretches: list[list[int]],
        attempts: list[tuple[int, int]],
    ) -> None:
        #: Whether it grows on what pages may have seen, which must stay as it is.
        self.grows = length > 0
        self._replaced = False
        self._free = max((draft.id for draft in drafts.values()), default=-1) + 1
        self.drafts = drafts
        self.length = length
        self.place = place
        self.stretches = stretches
        self.points = 0
        self._ends = {
            attempt: min(
                (first for later, first in attempts if later > attempt), default=rows_room.BIGGEST + 1
            )
            for attempt, _ in attempts
        }

    def replace(self, file: sqlite3.Connection, session: str) -> None:
        """Removes what was laid out before, where this is laid out in its place; once, and with the first of it."""
        if not self.grows and not self._replaced:
            _remove_session(file, session)
            self._replaced = True

    def take_in_order(self, batch: Sequence[rows_room.Arrived]) -> None:
        """Lays out rows that follow on what is there. Raises `_OutOfOrderError` if one does not."""
        place = self.place
        for row in batch:
            here = (row.epoch, row.final, row.step is None, row.step or 0)
            if here <= place or row.epoch >= self._ends.get(row.attempt, rows_room.BIGGEST + 1):
                raise _OutOfOrderError
            place = here
        self.take([_Told(row.attempt, row.epoch, row.step, row.final, row.metrics) for row in batch])
        self.place = place

    def take(self, batch: Sequence[_Told]) -> None:
        """Lays out rows, in order."""
        metrics = msgspec.json.decode(b"[" + b",".join(_as_bytes(row.metrics) for row in batch) + b"]")
        groups: dict[tuple[bool, tuple[str, ...]], tuple[array[int], array[float], list[Any]]] = {}
        for row, measured in zip(batch, metrics, strict=True):
            if not self.stretches or self.stretches[-1][1] != row.attempt:
                self.stretches.append([self.length, row.attempt])
            if not row.final and measured:
                group = groups.setdefault((row.step is None, tuple(measured)), (array("I"), array("d"), []))
                group[0].append(self.length)
                group[1].append(row.epoch if row.step is None else row.step)
                group[2].append(measured.values())
            self.length += 1
        columns: dict[tuple[bool, str], list[_Piece]] = {}
        for (by_epoch, names), (positions, places, values) in groups.items():
            for name, column in zip(names, zip(*values, strict=True), strict=True):
                columns.setdefault((by_epoch, name), []).append((positions, places, column))
        for (by_epoch, name), told in columns.items():
            draft = self._draft(name, _EPOCH if by_epoch else _STEP)
            if draft is not None:
                piece: _Piece = told[0] if len(told) == 1 else _in_order(told)
                x = piece[1]
                rising = all(map(lt, x, x[1:]))
                if self.grows and not draft.folds and not (rising and x[0] > draft.x):
                    raise _OutOfOrderError  # from here on its axis is another one
                draft.add(*piece, rising=rising)
                self.points += len(x)
        last = batch[-1]
        self.place = (last.epoch, last.final, last.step is None, last.step or 0)

    def _draft(self, name: str, over: str) -> _Draft | None:
        """The curve that takes points of this kind; None where a metric is drawn over epochs and these are steps."""
        draft = self.drafts.get(name)
        if draft is None or (draft.over != over and over == _EPOCH):
            if draft is not None and self.grows:
                raise _OutOfOrderError
            draft = self.drafts[name] = _Draft(self._free, name, over, 0, -math.inf, folds=False, gaps=False)
            self._free += 1
        return draft if draft.over == over else None


#: Positions, places on the axis, and values of one metric.
_Piece = tuple[Sequence[int], Sequence[float], Sequence[Any]]


def _remove_session(file: sqlite3.Connection, session: str) -> None:
    for query in (
        "DELETE FROM layouts WHERE session = ?",
        "DELETE FROM curves WHERE session = ?",
        "DELETE FROM blocks WHERE session = ?",
    ):
        file.execute(query, (session,))


def _in_order(pieces: list[_Piece]) -> _Piece:
    """One piece of several: rows with other metrics beside this one lie between."""
    points = sorted(
        (point for piece in pieces for point in zip(*piece, strict=True)), key=lambda point: point[0]
    )
    positions, x, values = zip(*points, strict=True)
    return positions, x, values


def _as_bytes(metrics: str | msgspec.Raw) -> bytes:
    return metrics.encode() if isinstance(metrics, str) else bytes(metrics)


def _batches(found: Iterable[_Row]) -> Iterator[list[_Row]]:
    rest = iter(found)
    while batch := list(islice(rest, _BATCH)):
        yield batch


def _store_points(file: sqlite3.Connection, session: str, draft: _Draft) -> None:
    """Adds a curve's new points behind those that are stored: the last block is filled before another begins."""
    key = (session, draft.id)
    points = draft.new
    found = file.execute(
        "SELECT size, points FROM blocks WHERE session = ? AND curve = ? ORDER BY first DESC LIMIT 1", key
    ).fetchone()
    if found is not None and found[0] < BLOCK:
        points = unpacked([found[1]])
        points.positions.extend(draft.new.positions)
        points.x.extend(draft.new.x)
        points.y.extend(draft.new.y)
    for begin in range(0, len(points.x), BLOCK):
        part = points.part(begin, begin + BLOCK)
        block = _Block(part.positions[0], part.x[0], len(part.x))
        told = (*key, *block, packed_groups(groups_of(part)), part.packed())
        file.execute("INSERT OR REPLACE INTO blocks VALUES (?, ?, ?, ?, ?, ?, ?)", told)
    draft.new = Column.empty()


def _store_curve(file: sqlite3.Connection, session: str, draft: _Draft) -> None:
    last = None if math.isnan(draft.last) else draft.last
    if last is not None and abs(last) > _LARGEST:
        last = float(last)
    told = (draft.name, draft.over, draft.length, last, draft.x, draft.folds, draft.gaps)
    file.execute(
        "INSERT OR REPLACE INTO curves VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", (session, draft.id, *told)
    )


class _Block(NamedTuple):
    """A block: the position and the place of its first point, and how many it holds."""

    first: int
    x: float
    size: int


_first, _x_first, _x_last = attrgetter("first"), attrgetter("x_first"), attrgetter("x_last")


def _points(groups: Sequence[Group], attempts: list[tuple[float, int]]) -> Points:
    x, y, middle_x, middle_y = drawn(groups)
    return Points(x, y, sum(group.size for group in groups), middle_x, middle_y, attempts)


def _attempt_at(stretches: list[list[int]], position: int) -> int:
    return next((attempt for first, attempt in reversed(stretches) if first <= position), 1)


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    """Whether the file is not what it should be, and not the disk or its rights."""
    name = getattr(error, "sqlite_errorname", "SQLITE_ERROR")
    return name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_FORMAT", "SQLITE_ERROR"))


def _open(path: Path) -> sqlite3.Connection:
    file = sqlite3.connect(path, timeout=30.0, isolation_level=None, check_same_thread=False)
    version = file.execute("PRAGMA user_version").fetchone()[0]
    if version != _VERSION:
        file.close()
        _remove(path)
        file = sqlite3.connect(path, timeout=30.0, isolation_level=None, check_same_thread=False)
        file.execute("PRAGMA page_size = 16384")
        file.execute("PRAGMA journal_mode = WAL")
        file.executescript(f"{_TABLES} PRAGMA user_version = {_VERSION};")
    # Nothing here is lost for good, so nothing here waits for the disk.
    file.execute("PRAGMA synchronous = OFF")
    return file


def _remove(path: Path) -> None:
    for ending in ("", "-wal", "-shm"):
        path.with_name(path.name + ending).unlink(missing_ok=True)
