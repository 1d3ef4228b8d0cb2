"""Opening a session that lies in a folder: own it, recover it, and give it a door.

A session's folder holds the journal's segments, `outbox.sqlite`, `snapshots/`, and the lock of its owner.
"""

from __future__ import annotations

import os
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from hubstate.actions import Memory, SendCheckpoint
from hubstate.clock import Clock
from hubstate.door import Door, Listener
from hubstate.errors import CheckpointMissing, SessionNotFound, StorageError
from hubstate.events import PretrainRoutineStart
from hubstate.index import sessions_in
from hubstate.journal import Head, Journal, Position, Recovery, Step, read, recover, segments
from hubstate.outbox import Outbox
from hubstate.ownership import Ownership, owner_of
from hubstate.projection import discard, place_of
from hubstate.snapshots import Snapshots, look
from hubstate.states import State

__all__ = [
    "SNAPSHOT",
    "SNAPSHOTS",
    "Opened",
    "Peek",
    "begin_attempt",
    "create",
    "discard_needless",
    "find",
    "for_next_attempt",
    "id_of",
    "leftovers",
    "make_directory",
    "needed_snapshots",
    "new_id",
    "peek",
    "reopen",
    "stand_ins",
    "time_of",
]

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_ID_LENGTH = 26
#: Where the kept copies of checkpoints lie in a session's folder.
SNAPSHOTS = "snapshots"
#: A copy's name: its kind, its epoch, the attempt that took it, and its number among the copies of a process.
SNAPSHOT = re.compile(
    r"(?P<kind>[a-z]+)-(?P<epoch>[0-9]+)-(?P<attempt>[0-9]+)-(?P<taken>[0-9]+)(\.[0-9A-Za-z]+)?"
)


def new_id(now: float, chance: random.Random) -> str:
    """A ULID: 48 bits of milliseconds since 1970 and 80 random ones, in 26 letters that sort by time."""
    return id_of(now, chance.getrandbits(80))


def id_of(at: float, bits: int) -> str:
    """The ULID of a time (s since 1970) and of 80 bits, which are its last 16 letters."""
    number = (int(at * 1000) & (2**48 - 1)) << 80 | bits
    return "".join(_ALPHABET[(number >> shift) & 31] for shift in range(125, -5, -5))


def time_of(session: str) -> float:
    """The time (s since 1970) that a ULID tells, to the millisecond."""
    milliseconds = 0
    for letter in session[:10]:
        milliseconds = milliseconds * 32 + _ALPHABET.index(letter)
    return milliseconds / 1000


def is_id(text: str) -> bool:
    """Whether a text could be a session's id."""
    return len(text) == _ID_LENGTH and all(letter in _ALPHABET for letter in text.upper())


@dataclass
class Opened:
    """A session that this process owns."""

    folder: Path
    ownership: Ownership
    recovery: Recovery
    door: Door
    snapshots: Snapshots

    def outbox(self) -> Outbox:
        """Its outbox; whoever asks closes it."""
        return Outbox(place_of(self.folder), self.folder)

    def sync(self) -> None:
        """Asks the disk to keep what was written, copies before the lines that name them; what it made needless goes.

        Raises `StorageError` if the disk says that it could not, or if a copy cannot be removed.
        """
        needless = self._needless()  # what becomes so from here on is for the next call
        self.snapshots.sync_all()
        self.door.sync()
        # Who saved meanwhile does not wait for the disk, so that line may be kept by now and its copy not: at once.
        # Until then the copy that it replaces lies here still, and stands in for it after a power cut (`stand_ins`).
        self.snapshots.sync_all()
        self.snapshots.tidy(needless)

    def close(self) -> None:
        """Lets go of the session, also where its journal raises `StorageError` for the last time."""
        try:
            try:
                self.snapshots.sync_all()
            finally:
                self.door.close()
            self.snapshots.sync_all()  # as in `sync`
            self.snapshots.tidy(self._needless())
            if self.door.memory.state is State.DONE:
                discard(self.folder)
        finally:
            self.ownership.release()

    def _needless(self) -> frozenset[str]:
        """The copies that nobody needs any more once the disk keeps what is written.

        None while steps wait in memory: one of them may be what made a copy needless, and it may never be written.
        """
        # Looked at first: whatever made them so was written, or waits by now.
        needless = self.snapshots.needless
        return frozenset() if self.door.unwritten else needless


@dataclass(frozen=True)
class Peek:
    """A session seen from outside, without owning it. `owner`: the living process that owns it, if any."""

    folder: Path
    memory: Memory
    owner: int | None
    damages: int


def create(directory: Path, session: str, clock: Clock, listener: Listener) -> Opened:
    """A new session in a new folder of `directory`. Raises `StorageError` if the directory cannot be used."""
    folder = directory / session
    make_directory(directory)
    try:
        folder.mkdir(mode=0o700)
    except OSError as error:
        raise _unusable(directory, error) from error
    ownership = Ownership(folder)
    try:
        recovery = Recovery(Memory(session=session), 0, 0, "", ())
        return _opened(folder, ownership, recovery, clock, listener)
    except BaseException:
        ownership.release()
        raise


def make_directory(directory: Path) -> None:
    """Makes the directory that sessions are kept in, with a `.gitignore` inside. Raises `StorageError`."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        ignore = directory / ".gitignore"
        if not ignore.exists():
            ignore.write_text("*\n", encoding="ascii")
    except OSError as error:
        raise _unusable(directory, error) from error


def _unusable(directory: Path, error: OSError) -> StorageError:
    return StorageError(
        f"sessions cannot be kept in {directory}: {error.strerror}; "
        "give another folder by directory= or HUBSTATE_DIR"
    )


def reopen(folder: Path, clock: Clock, listener: Listener) -> Opened:
    """A session as it is. Raises `SessionBusy` if a living process owns it, `JournalDamaged`, `StorageError`."""
    ownership = Ownership(folder)
    try:
        return _opened(folder, ownership, recover(folder), clock, listener)
    except BaseException:
        ownership.release()
        raise


def begin_attempt(folder: Path, clock: Clock, listener: Listener) -> Opened:
    """A session for its next attempt: a fresh machine in `idle`, with the session's memory.

    A session whose training is over (`finalizing`, `done`) opens as it is. Raises as `reopen` does.
    """
    ownership = Ownership(folder)
    try:
        recovery = recover(folder)
        return _opened(folder, ownership, recovery, clock, listener, memory=for_next_attempt(recovery.memory))
    except BaseException:
        ownership.release()
        raise


def for_next_attempt(memory: Memory) -> Memory:
    """The memory that an attempt begins with: a fresh machine, unless the training is over."""
    if memory.state in (State.FINALIZING, State.DONE):
        return memory
    return msgspec.structs.replace(memory, state=State.IDLE)


def _opened(
    folder: Path,
    ownership: Ownership,
    recovery: Recovery,
    clock: Clock,
    listener: Listener,
    *,
    memory: Memory | None = None,
) -> Opened:
    snapshots = Snapshots(folder / SNAPSHOTS)
    snapshots.sweep(needed_snapshots(recovery.memory) | stand_ins(folder / SNAPSHOTS, recovery.memory))
    journal = Journal(folder, recovery)
    # An attempt begins in the journal with its first step: a process that dies before it leaves the session as it was.
    door = Door(journal, recovery.memory if memory is None else memory, clock, listener)
    return Opened(folder, ownership, recovery, door, snapshots)


def needed_snapshots(memory: Memory) -> set[str]:
    """The names of the snapshots that a delivery or a resumed run may still need."""
    names = {action.snapshot for action in memory.outstanding if isinstance(action, SendCheckpoint)}
    if memory.state is not State.DONE:
        names |= {
            kept.snapshot
            for kept in (memory.kept_last, memory.kept_best, memory.kept_final)
            if kept is not None
        }
    return names


def leftovers(folder: Path, memory: Memory) -> set[str]:
    """The names of what lies among the snapshots of a session, and nobody needs: whoever died left them.

    Whoever opens the session removes them. Raises `StorageError` if the folder cannot be looked into.
    """
    try:
        there = {file.name for file in (folder / SNAPSHOTS).iterdir()}
    except FileNotFoundError:
        return set()
    except OSError as error:
        raise StorageError(f"cannot look into {folder / SNAPSHOTS}: {error.strerror}") from error
    return there - needed_snapshots(memory) - stand_ins(folder / SNAPSHOTS, memory)


def stand_ins(copies: Path, memory: Memory) -> set[str]:
    """The names of older copies in the folder `copies` to go on from, where a power cut took the one that is kept.

    For each kind whose kept copy is not there as it was, the newest other one. Raises `StorageError` if the folder cannot
    be looked into.
    """
    kept = (memory.kept_last, memory.kept_best, memory.kept_final)
    lost = {
        copy.kind.value: copy.snapshot
        for copy in kept
        if copy is not None and not _is_there(copies / copy.snapshot, copy.size)
    }
    if memory.state is State.DONE or not lost:
        return set()
    newest: dict[str, tuple[int, int, str]] = {}
    try:
        for name in (file.name for file in copies.iterdir()):
            found = SNAPSHOT.fullmatch(name)
            if found and found["kind"] in lost and name not in lost.values():
                age = int(found["attempt"]), int(found["taken"]), name
                newest[found["kind"]] = max(age, newest.get(found["kind"], age))
    except FileNotFoundError:
        return set()
    except OSError as error:
        raise StorageError(f"cannot look into {copies}: {error.strerror}") from error
    return {name for *_, name in newest.values()}


def _is_there(copy: Path, size: int) -> bool:
    """Whether a copy lies here, as long as it was."""
    try:
        return look(copy).size == size
    except (CheckpointMissing, OSError):
        return False


def discard_needless(snapshots: Snapshots, before: Memory, after: Memory) -> None:
    """Puts off the copies that a step made needless.

    They are removed once the disk keeps that step: a power cut may take it back, and then they are needed again.
    """
    snapshots.put_off(needed_snapshots(before) - needed_snapshots(after))


def peek(folder: Path) -> Peek:
    """Looks at a session without owning it. Raises `JournalDamaged`, `StorageError`."""
    recovery = recover(folder)
    return Peek(folder, recovery.memory, owner_of(folder), len(recovery.damages))


def find(directory: Path, session: str) -> Path:
    """The folder of the session with this id, or the newest of this name. Raises `SessionNotFound`."""
    folder = directory / session.upper()
    if is_id(session) and folder.is_dir():
        return folder
    for candidate in newest_of(directory, session):
        return candidate.folder
    raise SessionNotFound(
        f"no session {session!r} lies in {directory}; `hubstate status` lists what there is"
    )


def newest_of(directory: Path, name: str) -> Iterator[Peek]:
    """The sessions of one name in a directory, newest first. One that cannot be read is skipped.

    Whoever begins a training waits for it, so of those with another name no more is read than tells that.
    """
    for folder in reversed(list(sessions_in(directory))):
        try:
            if _name_of(folder) not in (name, None):
                continue
            seen = peek(folder)
        except StorageError:
            continue  # `status` and `doctor` name it
        if seen.memory.name == name:
            yield seen


def _name_of(folder: Path) -> str | None:
    """The name of a session by the first lines of its newest segment; None where they do not tell.

    An attempt is named by what opens it, out of `idle`, and nothing leads back there. Raises `StorageError`.
    """
    numbers = segments(folder)
    name: str | None = None
    for entry in read(folder, Position(numbers[-1])) if numbers else ():
        match entry.line:
            case Head() as head:
                name = head.memory.name
            case Step() as step:
                if step.target is not State.IDLE:
                    opens = step.event if isinstance(step.event, PretrainRoutineStart) else None
                    return name if opens is None or step.source is not State.IDLE else opens.name or name
            case _:
                return None
    return name


def is_usable(directory: Path) -> bool:
    """Whether sessions can be kept in `directory`, or in a new one of that name."""
    existing = directory
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    return os.access(existing, os.W_OK | os.X_OK)
