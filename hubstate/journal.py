"""The journal: the truth about a session, one checked line per step, append-only.

A session's folder holds segments, `journal-000001.jsonl`, `journal-000002.jsonl`, ... Every opening for writing
begins a new one, and a full one is closed and a new one begun; closed ones may be compressed (`.jsonl.gz`). The
first line of a segment is its head: format, session, table, the number of the next step, and the memory at that
point, so that recovery reads the newest segment alone. Every other line is a step: what was said, where it led,
what the guards answered, what was asked for, or why nothing was.

Each line is a JSON object whose last field, `h`, is a check: the first 16 hex digits of the SHA-256 over the `h`
before it and the line without its own `h`. So lines are checked, chained and ordered; a damaged line condemns
itself alone, and what was torn off at the end is "ends at line n".

A line is one `write(2)`, unbuffered: when `append` returned, the line survives the death of the process. Power
loss takes at most what was written since the last `sync`.
"""

from __future__ import annotations

import gzip
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from hubstate import events
from hubstate.actions import AnyAction, Memory
from hubstate.adopt import adopt
from hubstate.errors import JournalDamaged, JournalFailing, StorageError
from hubstate.machine import TABLE_DIGEST
from hubstate.states import State

__all__ = [
    "FORMAT",
    "Damage",
    "Entry",
    "Head",
    "Journal",
    "Position",
    "Recovery",
    "Step",
    "compress_closed",
    "read",
    "recover",
]

FORMAT = 1
#: A segment is closed when it is longer than this many bytes.
SEGMENT_BYTES = 64 * 1024 * 1024

AnyEvent = (
    events.PretrainRoutineStart
    | events.PretrainRoutineEnd
    | events.TrainStart
    | events.FitEpochEnd
    | events.TrainBatchEnd
    | events.ModelSave
    | events.TrainEnd
    | events.Abort
    | events.ValStart
    | events.PredictStart
    | events.ExportStart
    | events.GiveUp
    | events.RetryRefused
    | events.Tick
    | events.HeartbeatTick
    | events.Delivered
    | events.Refused
    | events.HeldUp
    | events.Answered
    | events.StopRequested
)


class Step(msgspec.Struct, frozen=True, omit_defaults=True, rename={"source": "from", "target": "to"}):
    """One step. `n` counts from 1 over the whole session; `row` is the number of the row it recorded, or 0."""

    n: int
    attempt: int
    event: AnyEvent
    source: State
    target: State
    guards: dict[str, bool] = {}
    actions: tuple[AnyAction, ...] = ()
    refusal: str = ""
    illegal: bool = False
    row: int = 0


class Head(msgspec.Struct, frozen=True, omit_defaults=True):
    """The first line of a segment. `n`: the number that its first step will have; `previous`: the check before it."""

    segment: int
    format: int
    session: str
    table: str
    n: int
    memory: Memory
    previous: str = ""
    software: str = ""


class Position(NamedTuple):
    """Where a reader stands: a segment, a byte in its uncompressed text, and the check of the line before."""

    segment: int = 0
    offset: int = 0
    check: str = ""


class Damage(NamedTuple):
    """A line that is not as it was written. `line` counts from 1 within its file."""

    file: str
    line: int
    what: str


class Entry(NamedTuple):
    """One line, read: a head, a step or a damage, and the position behind it."""

    position: Position
    line: Head | Step | Damage


class Recovery(NamedTuple):
    """What a folder's journal tells: the memory, the last step's number, and each damage that was passed over."""

    memory: Memory
    n: int
    segment: int
    check: str
    damages: tuple[Damage, ...]


_ENCODER = msgspec.json.Encoder()
_STEPS: msgspec.json.Decoder[Step] = msgspec.json.Decoder(Step)
_HEADS: msgspec.json.Decoder[Head] = msgspec.json.Decoder(Head)
_CHECK_DIGITS = 16
_BEFORE_CHECK = b',"h":"'
_TAIL = len(_BEFORE_CHECK) + _CHECK_DIGITS + len(b'"}')


def _check(before: str, text: bytes) -> str:
    return hashlib.sha256(before.encode() + text).hexdigest()[:_CHECK_DIGITS]


def _name(segment: int) -> str:
    return f"journal-{segment:06d}.jsonl"


class Journal:
    """A journal open for writing. One process writes it (the caller holds the session's lock), one thread at a time."""

    def __init__(self, folder: Path, recovery: Recovery, *, software: str = "") -> None:
        """Begins the next segment of the journal in `folder`, headed by the recovered memory.

        Raises `StorageError` if the folder takes no file.
        """
        self._folder = folder
        self._software = software
        self._fd = -1
        self._retired: list[int] = []
        self._n = recovery.n
        self._segment = recovery.segment
        self._check = recovery.check
        self._size = 0
        self._begin(recovery.memory)

    @property
    def n(self) -> int:
        """The number of the last step."""
        return self._n

    @property
    def segment(self) -> int:
        """The number of the segment that is being written."""
        return self._segment

    @property
    def end(self) -> tuple[int, int]:
        """Segment and byte behind the last line: changes whenever something was written."""
        return self._segment, self._size

    def append(self, step: Step, memory: Memory) -> None:
        """Writes one step, whose `n` follows the last one; `memory` (after it) heads the next segment, if one begins.

        Raises `JournalFailing` if the line could not be written whole; the journal is then as it was before.
        """
        self._write(_ENCODER.encode(step))
        self._n = step.n
        if self._size > SEGMENT_BYTES:
            self._roll(memory)

    def sync(self) -> None:
        """Asks the disk to keep what was written. Never call it while a trainer waits."""
        while self._retired:
            fd = self._retired.pop()
            os.fsync(fd)
            os.close(fd)
        if self._fd >= 0:
            os.fsync(self._fd)

    def close(self) -> None:
        """Syncs and lets go of the file."""
        if self._fd >= 0:
            self.sync()
            os.close(self._fd)
            self._fd = -1

    def _begin(self, memory: Memory) -> None:
        """Starts a segment. The old one, if any, stays in use until the new one has its head."""
        segment = self._segment + 1
        path = self._folder / _name(segment)
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StorageError(f"cannot begin the journal {path}: {error.strerror}") from error
        old, old_size = self._fd, self._size
        self._fd, self._size = fd, 0
        head = Head(
            segment, FORMAT, memory.session, TABLE_DIGEST, self._n + 1, memory, self._check, self._software
        )
        try:
            self._write(_ENCODER.encode(head))
        except JournalFailing:
            os.close(fd)
            path.unlink(missing_ok=True)
            self._fd, self._size = old, old_size
            raise
        self._segment = segment
        if old >= 0:
            self._retired.append(old)  # the next sync closes it: another thread may be syncing it just now

    def _roll(self, memory: Memory) -> None:
        # The step is written and counts; a segment that cannot be begun just now is tried again with the next.
        try:
            self._begin(memory)
        except StorageError:
            return

    def _write(self, text: bytes) -> None:
        check = _check(self._check, text)
        line = text[:-1] + _BEFORE_CHECK + check.encode() + b'"}\n'
        try:
            written = os.write(self._fd, line)
            if written != len(line):
                raise OSError(28, f"only {written} of {len(line)} bytes were taken; the disk is full")
        except OSError as error:
            self._cut_back()
            raise JournalFailing(
                f"cannot write to the journal in {self._folder}: {error.strerror}"
            ) from error
        self._size += written
        self._check = check

    def _cut_back(self) -> None:
        """Removes half a line, or the next one would join it."""
        try:
            os.ftruncate(self._fd, self._size)
        except OSError as error:
            raise JournalFailing(
                f"cannot cut the journal in {self._folder} back to its last whole line: {error.strerror}"
            ) from error


# -- reading ---------------------------------------------------------------------------------------------


def read(folder: Path, after: Position | None = None) -> Iterator[Entry]:
    """The lines of a folder's journal in order, from `after` on. It follows a journal that is being written.

    Raises `StorageError` if a segment cannot be read. Damaged lines come as `Damage`; half a line at the very end
    of the newest segment is one that is being written, and is left for the next call.
    """
    position = after or Position()
    segments = [number for number in _segments(folder) if number >= position.segment]
    for number in segments:
        if number != position.segment:
            position = Position(number, 0, position.check)
        for entry in _read_segment(folder, position, newest=number == segments[-1]):
            position = entry.position
            yield entry


def recover(folder: Path) -> Recovery:
    """What the journal in `folder` tells, by adopting the steps that it recorded since its newest head.

    Raises `JournalDamaged` if no head can be read at all.
    """
    numbers = _segments(folder)
    if not numbers:
        return Recovery(Memory(), 0, 0, "", ())
    damages: list[Damage] = []
    for number in reversed(numbers):
        found = _recover_segment(folder, number, numbers[-1], damages)
        if found is not None:
            return found
    raise JournalDamaged(
        f"no segment of the journal in {folder} has a readable head; "
        f"first damage: {damages[0].what if damages else 'empty files'}"
    )


def _recover_segment(folder: Path, first: int, newest: int, damages: list[Damage]) -> Recovery | None:
    """Recovers from the head of segment `first` on, through all later segments; None if that head is damaged."""
    memory: Memory | None = None
    n, check = 0, ""
    for entry in read(folder, Position(first, 0, "")):
        check = entry.position.check or check
        match entry.line:
            case Head() as head:
                memory, n = head.memory, max(n, head.n - 1)
            case Damage() as damage:
                damages.append(damage)
            case Step() as step:
                if memory is None:
                    return None
                memory = adopt_step(memory, step)
                n = step.n
    return None if memory is None else Recovery(memory, n, newest, check, tuple(damages))


def adopt_step(memory: Memory, step: Step) -> Memory:
    """The memory after a recorded step. Rows are numbered by the step, so that a lost line shifts no number."""
    if step.illegal:
        return memory
    after = adopt(memory, step.event, step.target, step.actions)
    if step.row and after.rows != step.row:
        after = msgspec.structs.replace(after, rows=step.row)
    return after


def _segments(folder: Path) -> list[int]:
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StorageError(f"cannot read the folder {folder}: {error.strerror}") from error
    return sorted({int(name[8:14]) for name in names if name.startswith("journal-") and name[8:14].isdigit()})


def _open(folder: Path, segment: int) -> Any:
    path = folder / _name(segment)
    try:
        return path.open("rb")
    except FileNotFoundError:
        return gzip.open(f"{path}.gz", "rb")


def _read_segment(folder: Path, position: Position, *, newest: bool) -> Iterator[Entry]:
    name = _name(position.segment)
    try:
        file = _open(folder, position.segment)
    except OSError as error:
        raise StorageError(f"cannot read {folder / name}: {error.strerror}") from error
    offset, check, number = position.offset, position.check, 0
    with file:
        file.seek(offset)
        for line in file:
            number += 1
            whole = line.endswith(b"\n")
            if not whole and newest:
                return
            offset += len(line)
            read_line, check = _read_line(line.rstrip(b"\n"), check, name, number, first=offset == len(line))
            yield Entry(Position(position.segment, offset, check), read_line)


def _read_line(
    line: bytes, before: str, name: str, number: int, *, first: bool
) -> tuple[Head | Step | Damage, str]:
    """One line and the check that the next one continues."""
    if line[-_TAIL : -_CHECK_DIGITS - 2] != _BEFORE_CHECK:
        return Damage(name, number, "the line is torn or is no journal line"), before
    text = line[:-_TAIL] + b"}"
    check = line[-_CHECK_DIGITS - 2 : -2].decode("ascii", "replace")
    try:
        read_line: Head | Step = (_HEADS if first else _STEPS).decode(text)
    except msgspec.MsgspecError as error:
        return Damage(name, number, f"the line cannot be understood: {error}"), check
    # Recovery starts at the newest segment: its head brings along the check that stood before it.
    chained_to = read_line.previous if isinstance(read_line, Head) else before
    if _check(chained_to, text) != check:
        return Damage(name, number, "the line is not as it was written"), check
    return read_line, check


def compress_closed(folder: Path, current: int) -> None:
    """Compresses every closed segment before `current`. Readers may go on reading meanwhile.

    Raises `StorageError` if the disk does not take it; nothing is lost then.
    """
    for number in _segments(folder):
        plain = folder / _name(number)
        if number >= current or not plain.exists():
            continue
        packed, making = Path(f"{plain}.gz"), folder / f".{_name(number)}.gz"
        try:
            with plain.open("rb") as source, gzip.open(making, "wb", compresslevel=6) as target:
                while block := source.read(1 << 20):
                    target.write(block)
            with making.open("rb") as made:
                os.fsync(made.fileno())
            making.replace(packed)
            plain.unlink()
        except OSError as error:
            making.unlink(missing_ok=True)
            raise StorageError(f"cannot compress {plain}: {error.strerror}") from error
