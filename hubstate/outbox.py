"""The outbox: what still has to be delivered, as a projection of the journal in SQLite.

It is folded out of the journal (`ingest`) and holds nothing that the journal does not, but for two things that
may be lost at no cost: when the next try of a delivery is due, and how far a long one has come. So it may be
deleted at any moment; the next opening folds the journal anew. A damaged file is put aside and folded anew at once,
unseen by whoever asks: SQLite notices a broken page, and a sum beside each row and delivery a changed byte.

A damaged line of the journal may have asked for something, or settled it, and the session's memory knows of it all
the same. So the outbox is brought into line with the memory (`reconcile`): after each opening, and after each damage.
The two can only be compared where they stand at the same place, for one that has heard more than the other differs
without any damage: whoever hands in a memory says up to which place of the journal it goes.

The order in which deliveries leave is a property of this room: words (opening, rows, end) leave one after the
other; a file leaves after the openings before it, and one that belongs to the end after all words before it; the
closing leaves when nothing before it waits. Only refused ones are overtaken: but an opening is not, for nothing
has a place at a hub that refused it, and a closing overtakes nothing.
"""

from __future__ import annotations

import sqlite3
import threading
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec

from hubstate.actions import (
    Action,
    AnyAction,
    CloseSession,
    EndSession,
    Memory,
    OpenSession,
    RecordUsage,
    Row,
    SendCheckpoint,
    SendRows,
)
from hubstate.events import Delivered, FitEpochEnd, GiveUp, Refused, RetryRefused, TrainBatchEnd
from hubstate.journal import Damage, Position, Step, holds, read

__all__ = ["FILES", "WORDS", "Delivery", "Outbox"]

WORDS, FILES = "words", "files"

#: What one request carries at most.
ROWS_PER_REQUEST = 1_000
BYTES_PER_REQUEST = 1_000_000

_SCHEMA_VERSION = 2
_SCHEMA = """
create table place (one integer primary key check (one = 1), segment integer, byte integer, chain text, sum integer);
create table rows (
    number integer primary key, attempt integer not null, epoch integer not null, step integer,
    final integer not null, at real not null, metrics blob not null, nonfinite blob not null,
    sum integer not null);
create table deliveries (
    position integer primary key autoincrement, key text not null unique, lane text not null, kind text not null,
    action blob not null, sum integer not null, refused integer not null default 0, tries integer not null default 0,
    due real not null default 0, progress integer not null default 0, taken integer not null default 0,
    not_taken text not null default '', trouble text not null default '', sha256 text not null default '');
"""

_ACTIONS: msgspec.json.Decoder[AnyAction] = msgspec.json.Decoder(AnyAction)
_ENCODER = msgspec.json.Encoder()
_LANES: dict[type[Action], tuple[str, str]] = {
    OpenSession: (WORDS, "open"),
    SendRows: (WORDS, "rows"),
    CloseSession: (WORDS, "close"),
    EndSession: (WORDS, "end"),
    RecordUsage: (WORDS, "usage"),
    SendCheckpoint: (FILES, "file"),
}

# What may leave next: nothing before it that it has to follow still waits. An end waits for all that waits before
# it; a close for what is refused as well, for it says that everything was delivered.
_CLAIM = {
    WORDS: """
        select * from deliveries as d where lane = 'words' and refused = 0 and not exists (
            select 1 from deliveries as e where e.position < d.position and (
                (e.refused = 0 and (e.lane = 'words' or d.kind = 'end')) or d.kind = 'close' or e.kind = 'open'))
        order by position limit 1""",
    FILES: """
        select * from deliveries as d where lane = 'files' and refused = 0 and not exists (
            select 1 from deliveries as e where e.position < d.position and (
                (e.refused = 0 and (e.lane = 'files' or d.kind = 'last_file')) or e.kind = 'open'))
        order by position limit 1""",
}


_T = TypeVar("_T")


class _Damaged(Exception):
    """What SQLite gave is not what was put in."""


def _sum(*parts: object) -> int:
    """A check sum over what is put into a table once and never changed: a byte that flips must not reach a hub."""
    return zlib.crc32(repr(parts).encode())


class Delivery(msgspec.Struct, frozen=True):
    """What is to leave next. `tries`: how often it was tried in vain; `due`: when the next try is (s since 1970).

    `progress`: the last row number that the hub has acknowledged of a long send; `taken` and `not_taken`: what
    those answers said. `trouble`: the condition and reason of the last try in vain.
    """

    key: str
    action: AnyAction
    tries: int
    due: float
    progress: int
    taken: int
    not_taken: str
    trouble: str
    sha256: str


class Outbox:
    """The outbox of one session. Threads may share it; the training thread never touches it."""

    def __init__(self, path: Path, journal: Path) -> None:
        """Opens (or makes) the outbox at `path` for the journal in the folder `journal`."""
        self._path = path
        self._journal = journal
        self._lock = threading.RLock()
        self._reconciled = False
        #: Why the file was put aside and folded anew, if it was; for people.
        self.damage = ""
        self._db = self._connect()
        self._check_place()

    # -- folding the journal in --------------------------------------------------------------------------

    def ingest(self, limit: int = 1_000) -> int:
        """Folds in at most `limit` new lines of the journal; returns how many there were.

        Each line's work is a few calls that let go of the interpreter, so that a trainer on another thread waits
        for one line at most and never for a batch.
        """
        return self._guarded(lambda db: self._ingest(db, limit))

    def _check_place(self) -> None:
        """A power cut may leave an outbox that has folded in what the journal does not tell any more.

        Rows of those numbers will come again, with other content: so what was folded is put aside.
        """
        with self._lock:
            if holds(self._journal, self._guarded(_place)):
                return
            self._fold_anew("is ahead of its journal")

    def _ingest(self, db: sqlite3.Connection, limit: int, until: tuple[int, int] | None = None) -> int:
        """Folds in at most `limit` lines, and none that stands behind the place `until` (segment and byte)."""
        place = _place(db)
        count = 0
        db.execute("begin immediate")
        try:
            for entry in read(self._journal, place):
                if until is not None and place[:2] >= until:
                    break
                match entry.line:
                    case Step() as step:
                        self._fold(db, step)
                    case Damage():
                        self._reconciled = False
                place = entry.position
                count += 1
                if count >= limit:
                    break
            db.execute("update place set segment = ?, byte = ?, chain = ?, sum = ?", (*place, _sum(*place)))
            db.execute("commit")
        except BaseException:
            if db.in_transaction:
                db.execute("rollback")
            raise
        return count

    def _fold(self, db: sqlite3.Connection, step: Step) -> None:
        if step.illegal:
            return
        match step.event:
            case (FitEpochEnd() | TrainBatchEnd()) as event if step.row:
                row = (
                    step.row,
                    step.attempt,
                    event.epoch,
                    event.step if isinstance(event, TrainBatchEnd) else None,
                    int(isinstance(event, FitEpochEnd) and event.final),
                    event.at,
                    _ENCODER.encode(event.metrics),
                    _ENCODER.encode(event.nonfinite),
                )
                db.execute(
                    "insert or ignore into rows values (?, ?, ?, ?, ?, ?, ?, ?, ?)", (*row, _sum(*row))
                )
            case Delivered() as event:
                self._settle(db, event.key)
            case Refused() as event:
                db.execute("delete from deliveries where key = ? and kind = 'usage'", (event.key,))
                db.execute(
                    "update deliveries set refused = 1, trouble = ? where key = ?", (event.reason, event.key)
                )
            case RetryRefused():
                db.execute("update deliveries set refused = 0, due = 0, tries = 0 where refused = 1")
            case GiveUp():
                db.execute("delete from deliveries")
                db.execute("delete from rows")
        for action in step.actions:
            _put(db, action)

    def _settle(self, db: sqlite3.Connection, key: str) -> None:
        row = db.execute("select * from deliveries where key = ?", (key,)).fetchone()
        if row is None:
            return
        action = _delivery(row).action
        if isinstance(action, SendRows):
            db.execute("delete from rows where number between ? and ?", (action.first, action.last))
        db.execute("delete from deliveries where key = ?", (key,))

    # -- handing out and noting down ---------------------------------------------------------------------

    def claim(self, lane: str, now: float) -> Delivery | float | None:
        """What leaves next in `lane`: a delivery that is due, else the time when one will be, else None."""
        delivery = self._guarded(lambda db: _claim(db, lane))
        # A clock that was set back must not hold a delivery up for longer than its back-off.
        if delivery is not None and delivery.due > now and delivery.due - now <= LONGEST_WAIT:
            return delivery.due
        return delivery

    def rows(self, action: SendRows, after: int) -> tuple[Row, ...]:
        """The next rows of a send, behind row number `after`: at most 1,000 rows or 1 MB."""
        return self._guarded(lambda db: _rows(db, max(action.first, after + 1), action.last))

    def next_row(self, action: SendRows, after: int) -> int:
        """The number of the first row of a send that is here, behind row number `after`; 0 if there is none."""
        return self._number(
            "select coalesce(min(number), 0) from rows where number between ? and ?", after + 1, action.last
        )

    def held(self, action: SendRows) -> int:
        """How many rows of a send are here; fewer than it names if lines were damaged."""
        return self._number(
            "select count(*) from rows where number between ? and ?", action.first, action.last
        )

    def postpone(self, key: str, due: float, trouble: str) -> None:
        """Notes a try in vain; the next one is due at `due`."""
        self._change(
            "update deliveries set tries = tries + 1, due = ?, trouble = ? where key = ?", due, trouble, key
        )

    def hurry(self) -> None:
        """Makes every waiting delivery due at once: somebody asked for it just now. What a hub set a time for waits."""
        self._change("update deliveries set due = 0 where refused = 0 and trouble not like 'rate_limited%'")

    def advance(self, key: str, progress: int, taken: int, not_taken: str) -> None:
        """Notes that the hub acknowledged the rows up to number `progress` of a long send."""
        self._change(
            "update deliveries set progress = ?, taken = ?, not_taken = ?, tries = 0, due = 0, trouble = '' "
            "where key = ?",
            progress,
            taken,
            not_taken,
            key,
        )

    @property
    def reconciled(self) -> bool:
        """Whether the deliveries are those that the session knows of, as far as the journal is folded in."""
        return self._reconciled

    def reconcile(self, end: tuple[int, int], memory: Memory) -> None:
        """Makes the deliveries those that the session knows of, in its order.

        `memory` is what all lines before `end` (segment and byte of the journal) lead to. Up to there they are folded in
        first. If another thread has folded in more meanwhile, nothing is done, and `reconciled` says so.
        """
        self._guarded(lambda db: self._reconcile(db, end, memory))

    def _reconcile(self, db: sqlite3.Connection, end: tuple[int, int], memory: Memory) -> None:
        while self._ingest(db, 1_000, until=end):
            pass
        if _place(db)[:2] > end:
            return
        db.execute("begin immediate")
        try:
            _bring_into_line(db, memory)
            db.execute("commit")
        except BaseException:
            if db.in_transaction:
                db.execute("rollback")
            raise
        self._reconciled = True

    def renew(self, why: str) -> None:
        """Puts the file aside and folds the journal anew, for who misses here what the journal may well hold."""
        with self._lock:
            self._fold_anew(why)

    def remember_digest(self, key: str, sha256: str) -> None:
        """Notes a file's digest, so that a repeat need not read the file twice."""
        self._change("update deliveries set sha256 = ? where key = ?", sha256, key)

    def count(self) -> tuple[int, int]:
        """How many deliveries wait, and how many are refused."""
        waiting, refused = self._guarded(
            lambda db: db.execute(
                "select count(*) filter (where refused = 0), count(*) filter (where refused = 1) from deliveries"
            ).fetchone()
        )
        return int(waiting), int(refused)

    def close(self) -> None:
        """Lets go of the file."""
        with self._lock:
            self._db.close()

    # -- the file ----------------------------------------------------------------------------------------

    def _change(self, statement: str, *values: object) -> None:
        self._guarded(lambda db: db.execute(statement, values))

    def _number(self, query: str, *values: object) -> int:
        return self._guarded(lambda db: int(db.execute(query, values).fetchone()[0]))

    def _guarded(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """Works on the connection, for one thread at a time. A damaged file is put aside, folded anew, and asked again."""
        with self._lock:
            try:
                return work(self._db)
            except (sqlite3.DatabaseError, msgspec.MsgspecError, _Damaged) as error:
                # A full disk, a closed file or a lock are no damage: another file would not be better.
                if isinstance(
                    error, sqlite3.OperationalError | sqlite3.ProgrammingError | sqlite3.IntegrityError
                ):
                    raise
                self._fold_anew(f"was damaged ({error})")
                return work(self._db)

    def _connect(self) -> sqlite3.Connection:
        try:
            return self._prepare()
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise
            self.damage = f"{self._path} was damaged ({error}) and is folded anew"
            self._aside()
            return self._prepare()

    def _prepare(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, check_same_thread=False, isolation_level=None, timeout=5.0)
        try:
            db.row_factory = sqlite3.Row
            # A flipped byte may leave text that is none; the sums notice, where SQLite alone would only complain.
            db.text_factory = lambda text: text.decode("utf-8", "replace")
            db.execute("pragma journal_mode = wal")
            db.execute("pragma synchronous = normal")
            db.execute("pragma journal_size_limit = 4000000")
            if db.execute("pragma user_version").fetchone()[0] != _SCHEMA_VERSION:
                for table in ("place", "rows", "deliveries"):
                    db.execute(f"drop table if exists {table}")
                db.executescript(_SCHEMA)
                db.execute("insert into place values (1, 0, 0, '', ?)", (_sum(0, 0, ""),))
                db.execute(f"pragma user_version = {_SCHEMA_VERSION}")
        except BaseException:
            db.close()
            raise
        return db

    def _fold_anew(self, why: str) -> None:
        self.damage = f"{self._path} {why} and is folded anew"
        self._db.close()
        self._aside()
        self._db = self._prepare()
        self._reconciled = False
        while self._ingest(self._db, 1_000):
            pass

    def _aside(self) -> None:
        for ending in ("", "-wal", "-shm"):
            file = Path(f"{self._path}{ending}")
            if file.exists():
                file.replace(f"{self._path}.damaged{ending}")


#: No delivery waits longer than this for its next try, whatever a hub asks for (seconds).
LONGEST_WAIT = 3_600.0


def _put(db: sqlite3.Connection, action: Action) -> None:
    """Puts a delivery at the end, if it is one, and if it is not there already."""
    lane, kind = _LANES.get(type(action), ("", ""))
    if not lane:
        return
    if isinstance(action, SendCheckpoint) and action.closing:
        kind = "last_file"
    what = (action.key, lane, kind, _ENCODER.encode(action))
    db.execute(
        "insert or ignore into deliveries (key, lane, kind, action, sum) values (?, ?, ?, ?, ?)",
        (*what, _sum(*what)),
    )


def _place(db: sqlite3.Connection) -> Position:
    """Up to where the journal is folded in."""
    segment, byte, chain, total = db.execute("select segment, byte, chain, sum from place").fetchone()
    if total != _sum(segment, byte, chain):
        raise _Damaged("the place in the journal is not as it was noted")
    return Position(segment, byte, chain)


def _bring_into_line(db: sqlite3.Connection, memory: Memory) -> None:
    """Drops what the memory does not know of, puts down what it knows of beyond, and refuses what it holds refused.

    The rows of what is dropped stay: where only the line that asked for them is damaged, they are asked for once more.
    """
    known = [
        row[0] for row in db.execute("select key from deliveries where kind != 'usage' order by position")
    ]
    wanted = [action.key for action in memory.outstanding]
    needless = [key for key in known if key not in wanted]
    if any(key not in known for key in wanted):
        # What is missing in the middle has its place in the middle: all of them are put down anew.
        needless = known
    db.executemany("delete from deliveries where key = ?", [(key,) for key in needless])
    for action in memory.outstanding:
        _put(db, action)
    refused = {known.key: known.reason for known in memory.refused}
    for row in db.execute("select key, refused from deliveries where kind != 'usage'").fetchall():
        if bool(row["refused"]) != (row["key"] in refused):
            db.execute(
                "update deliveries set refused = ?, trouble = ?, tries = 0, due = 0 where key = ?",
                (int(row["key"] in refused), refused.get(row["key"], ""), row["key"]),
            )


def _claim(db: sqlite3.Connection, lane: str) -> Delivery | None:
    row = db.execute(_CLAIM[lane]).fetchone()
    return None if row is None else _delivery(row)


def _delivery(row: sqlite3.Row) -> Delivery:
    if row["sum"] != _sum(row["key"], row["lane"], row["kind"], row["action"]):
        raise _Damaged("a delivery is not as it was noted")
    return Delivery(
        row["key"],
        _ACTIONS.decode(row["action"]),
        row["tries"],
        row["due"],
        row["progress"],
        row["taken"],
        row["not_taken"],
        row["trouble"],
        row["sha256"],
    )


def _rows(db: sqlite3.Connection, first: int, last: int) -> tuple[Row, ...]:
    rows: list[Row] = []
    size = 0
    cursor = db.execute(
        "select * from rows where number between ? and ? order by number limit ?",
        (first, last, ROWS_PER_REQUEST),
    )
    for row in cursor:
        *fields, total = row
        if total != _sum(*fields):
            raise _Damaged("a row is not as it was noted")
        number, attempt, epoch, step, final, at, metrics, nonfinite = fields
        size += len(metrics) + len(nonfinite) + 120
        if rows and size > BYTES_PER_REQUEST:
            break
        rows.append(Row(number, attempt, epoch, step, bool(final), at, metrics, nonfinite))
    return tuple(rows)
