"""The journal: the truth about a session, one checked line per step, append-only.

A session's folder holds segments, `journal-000001.jsonl`, `journal-000002.jsonl`, ... Every opening for writing
begins a new one, and a full one is closed and a new one begun; closed ones may be compressed (`.jsonl.gz`). The
first line of a segment is its head: format, session, table, the number of the next step, and the memory at that
point, so that recovery reads the newest segment alone. Every other line is a step: what was said, where it led,
what the guards answered, what was asked for, or why nothing was.

Each line is a JSON object whose last two fields are a chain and a check: `p` repeats the check of the line before
it, and `h` is the first 16 hex digits of the SHA-256 over `p` and the line without the two. So each line proves
itself, whatever happened to its neighbours: a damaged one condemns itself alone, a missing one is noticed by the
next, and what was torn off at the end is "ends at line n".

A line is one `write(2)`, unbuffered: when `append` returned, the line survives the death of the process. Power
loss takes at most what was written since the last `sync`. An exception that breaks into `append` (Ctrl-C) leaves it
open whether the line counts; `settle` looks.
"""

from __future__ import annotations

import errno
import fcntl
import gzip
import hashlib
import os
import re
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

import msgspec

from hubstate import events
from hubstate.actions import AnyAction, Memory
from hubstate.adopt import adopt
from hubstate.errors import JournalDamaged, JournalFailing, StorageError
from hubstate.machine import TABLE_DIGEST
from hubstate.states import State

__all__ = [
    "BEGINNING",
    "FORMAT",
    "HALF_A_LINE",
    "Damage",
    "Entry",
    "Head",
    "Journal",
    "Position",
    "Recovery",
    "Step",
    "check_of",
    "compress_closed",
    "holds",
    "is_empty",
    "read",
    "recover",
    "segments",
    "text_at",
    "wanted_hub",
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
    """The first line of a segment. `n`: the number that its first step will have; `table`: the rules it was decided by.

    `origin`: the address of the hub that told the memory, in the first head of a session that another machine began.
    """

    segment: int
    format: int
    session: str
    table: str
    n: int
    memory: Memory
    software: str = ""
    origin: str = ""


class Position(NamedTuple):
    """Where a reader stands: a segment, a byte in its uncompressed text, and the check of the line before.

    The check is empty where nobody knows it: at the very beginning, and behind a damaged line.
    """

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


class _Format(msgspec.Struct):
    """Of a head only what every version of it has."""

    format: int


_ENCODER = msgspec.json.Encoder()
_STEPS: msgspec.json.Decoder[Step] = msgspec.json.Decoder(Step)
_HEADS: msgspec.json.Decoder[Head] = msgspec.json.Decoder(Head)
_FORMATS: msgspec.json.Decoder[_Format] = msgspec.json.Decoder(_Format)
_CHECK_DIGITS = 16
#: How many bytes the two fields take at the end of a line, its newline left out, and where the digits of `p` begin.
_TAIL, _CHAIN_AT = len(b',"p":"","h":""}') + 2 * _CHECK_DIGITS, len(b',"p":"')
#: What stands for "the check before" in the first line of all.
_NO_CHECK = "0" * _CHECK_DIGITS
#: Where a reader begins who wants to be told of a lost beginning, too.
BEGINNING = Position(1, 0, _NO_CHECK)
#: A segment's file, plain or packed, and nothing else: what lies beside them (a copy, a note) is not the journal's.
_SEGMENT_FILE = re.compile(r"journal-([0-9]{6}|[1-9][0-9]{6,})\.jsonl(\.gz)?")
#: The damage that a power cut may leave: what was being written, at the end of a segment that nobody goes on with.
HALF_A_LINE = "half a line; the segment ends at the line before it"


#: To copy one costs half of what making one does, where the caches belong to a training.
_SHA256 = hashlib.sha256()


def _check(before: str, text: bytes) -> str:
    check = _SHA256.copy()
    check.update(before.encode() + text)
    return check.hexdigest()[:_CHECK_DIGITS]


def _name(segment: int) -> str:
    return f"journal-{segment:06d}.jsonl"


def _write_whole(fd: int, line: bytes) -> None:
    """One `write(2)`. Raises `OSError` if the file did not take all of it."""
    written = os.write(fd, line)
    if written != len(line):
        raise OSError(errno.ENOSPC, f"only {written} of {len(line)} bytes were taken; the disk is full")


#: A line that is being written: the step's number, and the file's size and the check once it is there. (A plain tuple:
#: it is made for every row, on the thread that trains.)
_Line = tuple[int, int, str]


class Journal:
    """A journal open for writing. One process writes it (the caller holds the session's lock), one thread at a time.

    `sync` alone may be called from other threads meanwhile.
    """

    def __init__(self, folder: Path, recovery: Recovery, *, software: str = "", origin: str = "") -> None:
        """Begins the next segment of the journal in `folder`, headed by the recovered memory.

        `origin`: the hub that told this memory, where no journal here did. Raises `StorageError` if the folder takes no file.
        """
        self._folder = folder
        self._software = software
        self._origin = origin
        self._fd = -1
        self._retired: list[int] = []
        self._n = recovery.n
        self._segment = recovery.segment
        self._check = recovery.check or _NO_CHECK
        self._size = 0
        self._unsure: _Line | None = None
        self._beginning: Path | None = None
        self._syncing = threading.Lock()
        #: The check of the last line that the disk keeps, and the last segment whose name it keeps.
        self._synced = ""
        self._named = 0
        self._adopt_earlier()
        self._keep_earlier()
        try:
            self._begin(recovery.memory)
        except BaseException:  # undone, and raised as it came
            self._let_go()
            raise

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
        if self._unsure is not None or self._beginning is not None:
            self.settle()
        text = _ENCODER.encode(step)
        check = _check(self._check, text)
        line = _sealed(text, self._check, check)
        self._unsure = (step.n, self._size + len(line), check)
        try:
            _write_whole(self._fd, line)
        except OSError as error:
            self._cut_back()
            raise JournalFailing(
                f"cannot write to the journal in {self._folder}: {error.strerror}"
            ) from error
        self._n, self._size, self._check = self._unsure
        self._unsure = None
        if self._size > SEGMENT_BYTES:
            self._roll(memory)

    def settle(self) -> None:
        """After an `append` that an exception broke into: looks whether its line counts, or removes what is there.

        Afterwards `n` is the number of the last step that is in the journal. Raises `JournalFailing` if half a line
        cannot be removed.
        """
        self._remove_beginning()
        if self._unsure is None:
            return
        # One write is taken whole or cut short, so the length tells. A whole line counts: a reader may have seen it.
        if os.fstat(self._fd).st_size == self._unsure[1]:
            self._n, self._size, self._check = self._unsure
            self._unsure = None
        else:
            self._cut_back()

    def sync(self) -> None:
        """Asks the disk to keep what was written since the last call. Never call it while a trainer waits.

        Raises `JournalFailing` if the journal is not in its place any more: somebody moved or removed the folder, and
        what is written is kept for nobody. Raises `StorageError` if the disk says that it could not.
        """
        with self._syncing:
            # What is written or begun from here on is for the next call. The segment may be a retired one by now.
            check, segment, fd = self._check, self._segment, self._fd
            if fd < 0:
                return
            retired = list(self._retired)
            try:
                self._be_there(fd)
                for old in retired:
                    os.fsync(old)
                if check != self._synced and fd not in retired:
                    os.fsync(fd)
                if segment != self._named:
                    _sync_folder(self._folder)
            except JournalFailing:
                raise
            except OSError as error:
                raise StorageError(
                    f"the disk did not keep the journal in {self._folder}: {error.strerror}"
                ) from error
            self._synced, self._named = check, segment
            for old in retired:
                os.close(old)
                self._retired.remove(old)

    def _be_there(self, fd: int) -> None:
        """Raises `JournalFailing` if the segment `fd`, unless it is a closed one by now, or the folder is gone."""
        if (os.fstat(fd).st_nlink == 0 and fd == self._fd) or not self._folder.exists():
            raise JournalFailing(
                f"the journal is not in {self._folder} any more: what this process records is kept nowhere; "
                "put the folder back if it was moved, else begin a new session"
            )

    def close(self) -> None:
        """Syncs and lets go of the file. Raises as `sync` does, and has let go of it even then."""
        if self._fd < 0:
            return
        try:
            self.sync()
        finally:
            with self._syncing:
                self._let_go()

    def _adopt_earlier(self) -> None:
        """Opens the earlier segments, which the disk has to keep: who wrote them may have died before its own sync."""
        for number in segments(self._folder):
            path = self._folder / _name(number)
            if not path.exists():
                continue  # a packed one was synced when it was packed
            try:
                self._retired.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
            except FileNotFoundError:
                continue  # packed just now
            except OSError as error:
                self._let_go()
                raise StorageError(f"cannot open the journal {path}: {error.strerror}") from error

    def _keep_earlier(self) -> None:
        """Asks the disk to keep them before anything is built on them: a power cut must not take their ends alone.

        Where it cannot just now they stay open, and the next `sync` asks once more, and raises.
        """
        try:
            for fd in self._retired:
                os.fsync(fd)
            if self._retired:
                _sync_folder(self._folder)
        except OSError:
            return
        for fd in self._retired:
            os.close(fd)
        self._retired.clear()

    def _let_go(self) -> None:
        for fd in (*self._retired, self._fd):
            if fd >= 0:
                os.close(fd)
        self._retired.clear()
        self._fd = -1

    def _begin(self, memory: Memory) -> None:
        """Starts a segment. The old one, if any, stays in use until the new one has its head."""
        segment = self._segment + 1
        path = self._folder / _name(segment)
        # A sign of life is written nowhere, so no head brings one along: it may be years old when it is read.
        memory = msgspec.structs.replace(memory, heartbeat_since=None, heartbeat_out=False)
        text = _ENCODER.encode(
            Head(
                segment,
                FORMAT,
                memory.session,
                TABLE_DIGEST,
                self._n + 1,
                memory,
                self._software,
                self._origin,
            )
        )
        check = _check(self._check, text)
        line = _sealed(text, self._check, check)
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StorageError(f"cannot begin the journal {path}: {error.strerror}") from error
        self._beginning = path  # until its head stands in it, it must not be left behind
        try:
            _write_whole(fd, line)
        except OSError as error:
            os.close(fd)
            self._remove_beginning()
            raise JournalFailing(f"cannot begin the journal {path}: {error.strerror}") from error
        old, self._fd = self._fd, fd
        self._segment, self._size, self._check = segment, len(line), check
        self._origin = ""
        self._beginning = None
        if old >= 0:
            self._retired.append(old)  # the next sync closes it: another thread may be syncing it just now

    def _roll(self, memory: Memory) -> None:
        # The step is written and counts; a segment that cannot be begun just now is tried again with the next.
        try:
            self._begin(memory)
        except StorageError:
            return

    def _remove_beginning(self) -> None:
        """Removes a segment whose head was never whole: readers would take it for the newest."""
        if self._beginning is None:
            return
        try:
            self._beginning.unlink(missing_ok=True)
        except OSError as error:
            raise JournalFailing(
                f"cannot remove the unfinished segment {self._beginning}: {error.strerror}"
            ) from error
        self._beginning = None

    def _cut_back(self) -> None:
        """Removes half a line, or the next one would join it. What cannot be removed now is tried again first."""
        try:
            os.ftruncate(self._fd, self._size)
        except OSError as error:
            raise JournalFailing(
                f"cannot cut the journal in {self._folder} back to its last whole line: {error.strerror}"
            ) from error
        self._unsure = None


def _sealed(text: bytes, before: str, check: str) -> bytes:
    """The line: the text of an object, with its chain and its check as the last fields."""
    return b'%b,"p":"%b","h":"%b"}\n' % (text[:-1], before.encode(), check.encode())


def _sync_folder(folder: Path) -> None:
    """Asks the disk to keep the names of the files in a folder."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


# -- reading ---------------------------------------------------------------------------------------------


def read(folder: Path, after: Position | None = None) -> Iterator[Entry]:
    """The lines of a folder's journal in order, from `after` on. It follows a journal that is being written.

    Raises `StorageError` if a segment cannot be read, or was written by a newer hubstate in a form that this one does
    not know. Damaged lines, and gaps where lines are missing, come as `Damage`; half a line at the very end of the
    newest segment is one that is being written, and is left for the next call.
    """
    position = after or Position()
    numbers = [number for number in segments(folder) if number >= position.segment]
    for number in numbers:
        if number != position.segment:
            position = Position(number, 0, position.check)
        for entry in _read_segment(folder, position, newest=number == numbers[-1]):
            position = entry.position
            yield entry


def recover(folder: Path) -> Recovery:
    """What the journal in `folder` tells, by adopting the steps that it recorded since its newest head.

    Raises `JournalDamaged` if no head can be read at all.
    """
    numbers = segments(folder)
    if not numbers:
        return Recovery(Memory(), 0, 0, "", ())
    damages: tuple[Damage, ...] = ()
    for number in reversed(numbers):
        found, damages = _recover_from(folder, number, numbers[-1])
        if found is not None:
            return found
    raise JournalDamaged(
        f"no segment of the journal in {folder} has a readable head; "
        f"first damage: {damages[0].what if damages else 'empty files'}"
    )


def _recover_from(folder: Path, first: int, newest: int) -> tuple[Recovery | None, tuple[Damage, ...]]:
    """Recovers from the head of segment `first` on, through all later ones; None if that head is damaged."""
    memory: Memory | None = None
    damages: list[Damage] = []
    n, check = 0, ""
    for entry in read(folder, Position(first, 0, "")):
        check = entry.position.check or check
        match entry.line:
            case Head() as head:
                memory, n = head.memory, max(n, head.n - 1)
            case Damage() as damage:
                damages.append(damage)
            case step:
                if memory is None:
                    break
                memory = adopt_step(memory, step)
                n = step.n
    found = None if memory is None else Recovery(memory, n, newest, check, tuple(damages))
    return found, tuple(damages)


def wanted_hub(folder: Path) -> str | None:
    """The address of the hub that the newest attempt in `folder` was begun for; None if for none, or it is not told.

    Raises `StorageError` if a segment cannot be read.
    """
    for number in reversed(segments(folder)):
        for entry in read(folder, Position(number)):
            if entry.position.segment != number:
                break
            if isinstance(entry.line, Step) and isinstance(entry.line.event, events.PretrainRoutineStart):
                return entry.line.event.address
    return None


def check_of(line: Head | Step, before: str) -> str:
    """The check that a line gets when it is written behind the one with the check `before`."""
    return _check(before, _ENCODER.encode(line))


def text_at(folder: Path, position: Position) -> bytes:
    """The line behind `position` as it stands in its file, without its chain and its check."""
    return _line_at(folder, position.segment, position.offset)[: -_TAIL - 1] + b"}"


def adopt_step(memory: Memory, step: Step) -> Memory:
    """The memory after a recorded step. Rows are numbered by the step, so that a lost line shifts no number."""
    if step.illegal:
        return memory
    after = adopt(memory, step.event, step.target, step.actions)
    if step.row and after.rows != step.row:
        after = msgspec.structs.replace(after, rows=step.row)
    return after


def holds(folder: Path, position: Position) -> bool:
    """Whether a line of the journal in `folder` ends where a reader stood, as that reader read it.

    It does not where a power cut took what had been read. Raises `StorageError` if the segment cannot be read.
    """
    if position.offset == 0:
        return True
    end = f'{position.check}"}}\n'.encode() if position.check else b"\n"
    try:
        with _open(folder, position.segment) as file:
            file.seek(position.offset - len(end))
            return file.read(len(end)) == end
    except (FileNotFoundError, EOFError, zlib.error, gzip.BadGzipFile):
        return False
    except OSError as error:
        raise StorageError(f"cannot read {folder / _name(position.segment)}: {error.strerror}") from error


def segments(folder: Path) -> list[int]:
    """The numbers of the segments in a folder, in order. Raises `StorageError` if it cannot be looked into."""
    try:
        names = [file.name for file in folder.iterdir()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StorageError(f"cannot read the folder {folder}: {error.strerror}") from error
    return sorted({int(found[1]) for found in map(_SEGMENT_FILE.fullmatch, names) if found})


def is_empty(folder: Path, segment: int) -> bool:
    """Whether nothing stands in a segment, not even its head. Raises `StorageError` if it cannot be read."""
    try:
        return not _line_at(folder, segment, 0)
    except OSError as error:
        raise StorageError(f"cannot read {folder / _name(segment)}: {error.strerror or error}") from error


def _open(folder: Path, segment: int) -> BinaryIO:
    path = folder / _name(segment)
    try:
        return path.open("rb")
    except FileNotFoundError:
        return cast("BinaryIO", gzip.open(f"{path}.gz", "rb"))


def _read_segment(folder: Path, position: Position, *, newest: bool) -> Iterator[Entry]:
    name = _name(position.segment)
    try:
        with _open(folder, position.segment) as file:
            yield from _read_lines(file, folder, position, newest=newest)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        # A packed segment has no whole lines behind the place where it is broken; the later segments have.
        what = "the packed segment is damaged, and nothing behind this place can be read"
        yield Entry(Position(position.segment + 1, 0, ""), Damage(f"{name}.gz", 0, what))
    except StorageError:
        raise  # it is an OSError too, and says better what is wrong
    except OSError as error:
        raise StorageError(f"cannot read {folder / name}: {error.strerror}") from error


def _read_lines(file: BinaryIO, folder: Path, position: Position, *, newest: bool) -> Iterator[Entry]:
    segment, offset, before = position
    file.seek(offset)
    while line := file.readline():
        if not line.endswith(b"\n") and newest:
            return
        found, chain, check = _judge(line, _name(segment), first=offset == 0)
        entry: Head | Step | Damage
        if isinstance(found, str):
            # Half a line that is cut back and written anew just while it is read gives a mixture, once.
            if newest and _line_at(folder, segment, offset) != line:
                return
            entry = _damage(folder, segment, offset, found)
        else:
            entry = found
            if before and chain != before:
                gap = _damage(folder, segment, offset, "lines are missing before this one")
                yield Entry(Position(segment, offset, chain), gap)
        offset += len(line)
        before = check
        yield Entry(Position(segment, offset, check), entry)


def _line_at(folder: Path, segment: int, offset: int) -> bytes:
    """A line as it is now, whatever was read of it before."""
    with _open(folder, segment) as file:
        file.seek(offset)
        return file.readline()


def _damage(folder: Path, segment: int, offset: int, what: str) -> Damage:
    """A damage, with the number of its line within its file: a reader may have begun anywhere."""
    number, rest = 1, offset
    with _open(folder, segment) as file:
        while rest and (block := file.read(min(rest, 1 << 20))):
            number += block.count(b"\n")
            rest -= len(block)
    return Damage(_name(segment), number, what)


def _judge(line: bytes, name: str, *, first: bool) -> tuple[Head | Step | str, str, str]:
    """One line (or what is wrong with it), the check that it continues, and the one that the next line continues.

    The checks are empty for a damaged line.
    """
    if not line.endswith(b"\n"):
        return HALF_A_LINE, "", ""
    text, tail = line[: -_TAIL - 1] + b"}", line[-_TAIL - 1 : -1]
    chain = tail[_CHAIN_AT:][:_CHECK_DIGITS].decode("ascii", "replace")
    check = tail[-_CHECK_DIGITS - 2 : -2].decode("ascii", "replace")
    if _sealed(text, chain, check) != line:
        return "the line is torn or is no journal line", "", ""
    if _check(chain, text) != check:
        return "the line is not as it was written", "", ""
    try:
        if first:
            _refuse_other_format(text, name)
            return _HEADS.decode(text), chain, check
        return _STEPS.decode(text), chain, check
    except msgspec.MsgspecError as error:
        return f"the line cannot be understood: {error}", chain, check


def _refuse_other_format(text: bytes, name: str) -> None:
    found = _FORMATS.decode(text).format
    if found != FORMAT:
        raise StorageError(
            f"{name} is written in format {found}, and this hubstate reads format {FORMAT}: "
            "open the session with the hubstate that wrote it, or a newer one"
        )


def compress_closed(folder: Path, current: int) -> None:
    """Compresses every closed segment before `current`. Readers may go on reading meanwhile.

    One that another living process is compressing is left to it. Raises `StorageError` if the disk does not take it;
    nothing is lost then.
    """
    for number in segments(folder):
        plain = folder / _name(number)
        if number >= current or not plain.exists():
            continue
        making = folder / f".{_name(number)}.{os.getpid()}.gz"
        try:
            if not all(_is_abandoned(left) for left in folder.glob(f".{_name(number)}.*gz")):
                continue
            fd = os.open(making, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "wb") as made:
                _compress(plain, made, making)
        except OSError as error:
            raise StorageError(f"cannot compress {plain}: {error.strerror}") from error


def _is_abandoned(left: Path) -> bool:
    """Whether whoever made this half-made file died over it; then it is removed. Raises `OSError`."""
    try:
        fd = os.open(left, os.O_WRONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return True  # it is whole by now, or somebody else removed it
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        left.unlink(missing_ok=True)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True


def _compress(plain: Path, made: BinaryIO, making: Path) -> None:
    """Fills the new file, which is named `making`, and puts it in the place of the plain one. Raises `OSError`."""
    try:
        # Held until the file has its name: the kernel lets go of it when the process dies, however it dies. (`lockf`,
        # which tells who owns a session, would not tell two threads of one process apart.)
        fcntl.flock(made.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        with plain.open("rb") as source:
            with gzip.GzipFile(fileobj=made, mode="wb", compresslevel=6, filename="") as target:
                while block := source.read(1 << 20):
                    target.write(block)
            made.flush()
            os.fsync(made.fileno())
        making.replace(f"{plain}.gz")
        _sync_folder(plain.parent)  # the new name before the old one goes
        plain.unlink(missing_ok=True)
    except OSError:
        making.unlink(missing_ok=True)
        raise
