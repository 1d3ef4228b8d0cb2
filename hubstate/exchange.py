"""Taking a session out whole, and letting go of it here.

`Rows` reads a session's journal once, from its first line to its last, and sorts the rows in a temporary file; so a
million of them take no more memory than a thousand, and a journal may go on being written meanwhile. What is written
comes as an iterator of bytes, whatever takes them: a file, a pipe, a member of an archive.

Which rows are *in force* is the same rule as at the hub: a row counts below the first epoch of every later attempt; of
rows with the same epoch, step and `final` the newest attempt's counts; within one attempt they merge by name, and the
later value wins.

NaN and infinities stay what they are: in CSV as `NaN`, `Infinity`, `-Infinity` (an empty field is a metric that this row
does not have), in JSON as null with the word beside it in `nonfinite`.
"""

from __future__ import annotations

import csv
import hashlib
import io
import shutil
import sqlite3
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Self

import msgspec

from hubstate.actions import OpenSession
from hubstate.errors import StorageError, UsageError
from hubstate.events import FitEpochEnd, TrainBatchEnd
from hubstate.index import Index
from hubstate.journal import Damage, Step, read
from hubstate.overview import Overview, Unreadable, as_json, look
from hubstate.ownership import Ownership, owner_of
from hubstate.projection import discard

__all__ = [
    "FORMATS",
    "Row",
    "Rows",
    "as_csv",
    "as_jsonl",
    "destination",
    "forget",
    "hindrance",
    "write_archive",
]

FORMATS = ("csv", "jsonl", "zip")
#: How many bytes are handed on at once, and after how many lines whoever watches is told.
_BLOCK, _TOLD_EVERY = 1 << 16, 10_000

_SCHEMA = """
create table rows (
    epoch integer, final integer, whole integer, step integer, attempt integer, number integer,
    at real, metrics blob, nonfinite blob,
    primary key (epoch, final, whole, step, attempt, number)) without rowid;
create table attempts (attempt integer primary key, first_epoch integer);
"""
# An epoch's steps, then its row, then its final evaluation. `newest`: the attempt whose row counts at this place.
_IN_ORDER = """
with ends as (
    select attempt, (select min(later.first_epoch) from attempts as later where later.attempt > a.attempt) as end
    from attempts as a),
counted as (
    select rows.*, ends.end is null or epoch < ends.end as counts from rows left join ends using (attempt)),
judged as (
    select *, max(case when counts then attempt end) over (partition by epoch, final, whole, step) as newest
    from counted)
select epoch, case when whole then null else step end, attempt, final, at, metrics, nonfinite,
    counts and attempt = newest as in_force
from judged where ? or in_force order by epoch, final, whole, step, attempt, number
"""
_ENCODER = msgspec.json.Encoder()
_METRICS: msgspec.json.Decoder[dict[str, float | int | None]] = msgspec.json.Decoder(
    dict[str, float | int | None]
)
_WORDS: msgspec.json.Decoder[dict[str, str]] = msgspec.json.Decoder(dict[str, str])


class Row(msgspec.Struct, frozen=True):
    """A row as it is handed out. `at`: seconds since 1970; `metrics` and `nonfinite` are JSON text."""

    epoch: int
    step: int | None
    attempt: int
    final: bool
    at: float
    metrics: bytes
    nonfinite: bytes
    in_force: bool


class Rows:
    """The rows of the session in `folder`, in order of epoch and step; iterate as often as needed, then `close`.

    `every`: every row of every attempt as it was recorded, instead of those in force. `watch` hears now and then how
    many lines of the journal were read. Raises `StorageError` if the journal cannot be read, or the temporary file
    finds no room.
    """

    def __init__(
        self, folder: Path, *, every: bool = False, watch: Callable[[int], None] = lambda _lines: None
    ) -> None:
        self.every = every
        #: The names of the metrics, in the order in which they first came.
        self.columns: tuple[str, ...] = ()
        #: Lines that are not as they were written: their rows are missing here.
        self.damages: tuple[Damage, ...] = ()
        # A nameless database is a file of SQLite's own that goes when it is closed, and is only made if it has to be.
        self._db = sqlite3.connect("", isolation_level=None)
        try:
            with _room_for_rows():
                self._gather(folder, watch)
        except BaseException:
            self._db.close()
            raise

    def __iter__(self) -> Iterator[Row]:
        with _room_for_rows():
            for epoch, step, attempt, final, at, metrics, nonfinite, in_force in self._db.execute(
                _IN_ORDER, (self.every,)
            ):
                yield Row(epoch, step, attempt, bool(final), at, metrics, nonfinite, bool(in_force))

    def close(self) -> None:
        """Lets go of the temporary file."""
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _gather(self, folder: Path, watch: Callable[[int], None]) -> None:
        self._db.executescript(_SCHEMA)
        self._db.execute("begin")
        columns: dict[str, None] = {}
        damages = []
        for count, entry in enumerate(read(folder), 1):
            if count % _TOLD_EVERY == 0:
                watch(count)
            match entry.line:
                case Step() as step if not step.illegal:
                    self._take(step, columns)
                case Damage() as damage:
                    damages.append(damage)
        self._db.execute("commit")
        self.columns = tuple(columns)
        self.damages = tuple(damages)

    def _take(self, step: Step, columns: dict[str, None]) -> None:
        match step.event:
            case (FitEpochEnd() | TrainBatchEnd()) as event if step.row:
                for name in event.metrics:
                    columns.setdefault(name)
                self._put(step, event)
        for action in step.actions:
            if isinstance(action, OpenSession):
                self._db.execute(
                    "insert or replace into attempts values (?, ?)", (action.attempt, action.first_epoch)
                )

    def _put(self, step: Step, event: FitEpochEnd | TrainBatchEnd) -> None:
        if isinstance(event, TrainBatchEnd):
            final, whole, number_of_step = False, False, event.step
        else:
            final, whole, number_of_step = event.final, True, 0
        place = (event.epoch, final, whole, number_of_step, step.attempt, step.row if self.every else 0)
        row = (event.at, _ENCODER.encode(event.metrics), _ENCODER.encode(event.nonfinite))
        put = "insert or ignore into rows values (?, ?, ?, ?, ?, ?, ?, ?, ?)"
        if self._db.execute(put, (*place, *row)).rowcount or self.every:
            return
        where = "where (epoch, final, whole, step, attempt, number) = (?, ?, ?, ?, ?, ?)"
        metrics, nonfinite = self._db.execute(
            f"select metrics, nonfinite from rows {where}",  # noqa: S608 - nothing of it comes from outside
            place,
        ).fetchone()
        words = {name: word for name, word in _WORDS.decode(nonfinite).items() if name not in event.metrics}
        self._db.execute(
            f"update rows set at = ?, metrics = ?, nonfinite = ? {where}",  # noqa: S608 - as above
            (
                event.at,
                _ENCODER.encode(_METRICS.decode(metrics) | event.metrics),
                _ENCODER.encode(words | event.nonfinite),
                *place,
            ),
        )


@contextmanager
def _room_for_rows() -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        raise StorageError(
            f"the rows cannot be sorted: {error}; they need room for a temporary file, in the folder that "
            "SQLITE_TMPDIR or TMPDIR names"
        ) from error


# -- forms -----------------------------------------------------------------------------------------------


def as_csv(rows: Rows) -> Iterator[bytes]:
    """The rows as CSV with a head line: epoch, step, attempt, final, at, and a column for each metric."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    fixed = ["epoch", "step", "attempt", "final", "at", *(["in_force"] if rows.every else [])]
    # A metric may be called as a column is.
    writer.writerow([*fixed, *(f"metrics/{name}" if name in fixed else name for name in rows.columns)])
    for row in rows:
        metrics, words = _METRICS.decode(row.metrics), _WORDS.decode(row.nonfinite)
        own = [row.epoch, row.step, row.attempt, _bool(row.final), row.at]
        own += [_bool(row.in_force)] if rows.every else []
        writer.writerow(
            [
                *own,
                *(
                    words.get(name, "") if (value := metrics.get(name)) is None else value
                    for name in rows.columns
                ),
            ]
        )
        if text.tell() >= _BLOCK:
            yield _taken(text)
    yield _taken(text)


def _bool(value: bool) -> str:
    return "true" if value else "false"


def _taken(text: io.StringIO) -> bytes:
    block = text.getvalue().encode("utf-8")
    text.seek(0)
    text.truncate()
    return block


def as_jsonl(rows: Rows) -> Iterator[bytes]:
    """The rows as JSON, one object a line, in the names of the hub's own answer."""
    block = bytearray()
    for row in rows:
        fields: dict[str, Any] = {
            "epoch": row.epoch,
            "step": row.step,
            "attempt": row.attempt,
            "final": row.final,
            "at": row.at,
            "metrics": msgspec.Raw(row.metrics),
        }
        if row.nonfinite != b"{}":
            fields["nonfinite"] = msgspec.Raw(row.nonfinite)
        if rows.every:
            fields["in_force"] = row.in_force
        block += _ENCODER.encode(fields) + b"\n"
        if len(block) >= _BLOCK:
            yield bytes(block)
            block.clear()
    yield bytes(block)


_README = """\
{name} ({session})
A session of a training, as hubstate kept it, taken out on {now}.

rows.csv, rows.jsonl   {which}
session.json           what became of it: state, outcome, counts; times in seconds since 1970
journal/               the journal: everything that was said, one checked line per step
checkpoints/           the copies of checkpoints that were kept; the journal names each
SHA256SUMS             the SHA-256 of each of these: sha256sum -c SHA256SUMS

In CSV an empty field is a metric that the row does not have; NaN, Infinity and -Infinity are values. In JSON they are
null, with the word beside them in "nonfinite".
{notes}"""


def write_archive(folder: Path, rows: Rows, out: BinaryIO, now: float) -> None:
    """Writes the session as a zip archive: rows, journal, kept files, and the SHA-256 of each.

    `out` need not be seekable; `now` in seconds since 1970. Raises `StorageError` if something of it cannot be read.
    """
    seen = look(folder)
    with zipfile.ZipFile(out, "w") as archive:
        members = _Members(archive, seen.session, now)
        members.add("README.txt", [_readme(seen, rows, now).encode("utf-8")])
        members.add("session.json", [_described(seen)])
        members.add("rows.csv", as_csv(rows))
        members.add("rows.jsonl", as_jsonl(rows))
        for file in _files(folder, "journal-*"):
            if not members.add_file(f"journal/{file.name}", file):
                packed = file.with_name(f"{file.name}.gz")  # it was compressed just now
                members.add_file(f"journal/{packed.name}", packed)
        snapshots = folder / "snapshots"
        for file in _files(snapshots, "**/*"):  # a kept folder with all that is in it
            members.add_file(f"checkpoints/{file.relative_to(snapshots)}", file, packed=False)
        members.add_sums()


def _files(folder: Path, pattern: str) -> list[Path]:
    """The files that fit; what is hidden at the top is only being made, or on its way out."""
    return sorted(
        file
        for file in folder.glob(pattern)
        if file.is_file() and not file.relative_to(folder).parts[0].startswith(".")
    )


def _readme(seen: Overview, rows: Rows, now: float) -> str:
    which = "every row of every attempt, as it was recorded" if rows.every else "the rows in force"
    notes = ""
    if rows.damages:
        first = rows.damages[0]
        notes = f"\nDamaged: {len(rows.damages)} place(s) in the journal, first {first.file}: {first.what}.\n"
    when = datetime.fromtimestamp(now, UTC).isoformat(" ", "seconds")
    return _README.format(name=seen.receipt.name, session=seen.session, now=when, which=which, notes=notes)


def _described(seen: Overview) -> bytes:
    """What `status --json` tells, without what holds on this machine alone."""
    told = {name: value for name, value in as_json(seen).items() if name not in ("directory", "owner")}
    return msgspec.json.format(_ENCODER.encode(told), indent=2) + b"\n"


class _Members:
    """The members of an archive, each with its digest. All lie in one folder."""

    def __init__(self, archive: zipfile.ZipFile, folder: str, now: float) -> None:
        self._archive = archive
        self._folder = folder
        self._date = datetime.fromtimestamp(now, UTC).timetuple()[:6]
        self._sums: list[str] = []

    def add(self, name: str, blocks: Iterable[bytes], *, packed: bool = True) -> None:
        info = zipfile.ZipInfo(f"{self._folder}/{name}", self._date)
        info.compress_type = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
        info.external_attr = 0o644 << 16
        sha256 = hashlib.sha256()
        with self._archive.open(info, "w", force_zip64=True) as member:
            for block in blocks:
                sha256.update(block)
                member.write(block)
        self._sums.append(f"{sha256.hexdigest()}  {name}\n")

    def add_file(self, name: str, path: Path, *, packed: bool = True) -> bool:
        """Adds a file as it is, and tells whether it was there: one that is needed no more may go meanwhile."""
        try:
            with path.open("rb") as file:
                self.add(name, iter(lambda: file.read(_BLOCK), b""), packed=packed)
        except FileNotFoundError:
            return False
        return True

    def add_sums(self) -> None:
        self.add("SHA256SUMS", ["".join(self._sums).encode("utf-8")])


@contextmanager
def destination(path: Path) -> Iterator[BinaryIO]:
    """A file to write to; it stands at `path` only once the block has come to its end. Raises `StorageError`."""
    special = path.exists() and not path.is_file()  # a device or a pipe is written to as it is
    making = path if special else path.with_name(f".{path.name}.part")
    try:
        try:
            with making.open("wb") as out:
                yield out
            if not special:
                making.replace(path)
        finally:
            if not special:
                making.unlink(missing_ok=True)
    except StorageError:
        raise  # it is an OSError too, and says better what is wrong
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}") from error


# -- letting go of a session -----------------------------------------------------------------------------

#: A folder is set aside under such a name before anything in it is removed: whoever looks for sessions sees it whole,
#: or not at all.
_ASIDE = ".forgotten-"


def hindrance(seen: Overview | Unreadable, *, force: bool = False) -> str:
    """Why a session must not be forgotten, in words; empty if it may be. `force` overlooks all but a living owner."""
    if isinstance(seen, Unreadable):
        owner = owner_of(seen.folder)
        label, why = seen.session, f"cannot be read ({seen.reason})"
    else:
        owner = seen.owner
        label, why = f"{seen.receipt.name} ({seen.session})", ""
        if seen.receipt.waiting:
            why = f"still holds what no hub has acknowledged (rows, files and words: {seen.receipt.waiting})"
        elif seen.receipt.refused:
            why = f"still holds what its hub refused (deliveries: {seen.receipt.refused})"
    if owner is not None:
        who = f"process {owner}" if owner else "a process on another machine"
        return f"{label} is owned by {who}, which lives"
    return f"{label} {why}; --force forgets it all the same" if why and not force else ""


def forget(folder: Path, index: Index, *, force: bool = False) -> None:
    """Removes a session's journal and files here, and its entry in the index; what a hub holds stays there.

    Raises `SessionBusy` if a living process owns it, `UsageError` if it must not be forgotten (see `hindrance`), and
    `StorageError` if it cannot be removed: then it is whole, or no session any more.
    """
    with _owned(folder):
        if not force:
            seen = look(folder)
            if seen.unsettled:
                raise UsageError(hindrance(msgspec.structs.replace(seen, owner=None)))
        for leftover in folder.parent.glob(f"{_ASIDE}*"):
            _remove(leftover)
        aside = folder.with_name(f"{_ASIDE}{folder.name}")
        try:
            folder.rename(aside)
        except OSError as error:
            raise StorageError(f"cannot remove {folder}: {error.strerror}; nothing was removed") from error
        index.remove(folder.name)
        discard(folder)
        _remove(aside)


@contextmanager
def _owned(folder: Path) -> Iterator[None]:
    ownership = Ownership(folder)
    try:
        yield
    finally:
        ownership.release()


def _remove(folder: Path) -> None:
    # Another process may be at it too, so what counts is that it is gone.
    shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():
        raise StorageError(f"{folder} is no session any more, but could not be removed: remove it by hand")
