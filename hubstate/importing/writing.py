"""A found training becomes a session: said to the machine as a trainer says it, at the times that its files tell.

So the journal is one like any other: every step was decided by the table, `verify` accepts it, `sync` delivers it. The
clock is moved from row to row. Nothing of the training's own folder is changed.

A new session is made under a hidden name and stands in its place only once it is whole. Its id follows from where the
training lies and how it begins, so a second import finds the first one. What grew since then goes on as the next attempt,
from the first epoch that is not as it was. A session that was taken for finished takes no more: then the training is
imported anew, beside it.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from hubstate import opening
from hubstate.actions import Decision, Memory
from hubstate.checkpoints import Checkpoints, newest_whole
from hubstate.errors import CheckpointMissing, SessionBusy, StorageError, UsageError
from hubstate.events import (
    Abort,
    Event,
    FitEpochEnd,
    ModelSave,
    PretrainRoutineEnd,
    PretrainRoutineStart,
    TrainBatchEnd,
    TrainEnd,
    TrainStart,
)
from hubstate.exchange import Rows
from hubstate.importing.found import Found, Measured
from hubstate.index import Index
from hubstate.journal import recover
from hubstate.opening import Opened
from hubstate.ownership import Ownership
from hubstate.settings import Settings
from hubstate.snapshots import look
from hubstate.states import CheckpointKind, Outcome, State
from hubstate.wish import Wish, checked_wish

__all__ = ["Imported", "Wanted", "bring"]

#: A session that is being made lies in a folder of such a name.
_COMING = ".importing-"
#: The letters of an id that do not tell its time.
_OWN_LETTERS = 16
#: After how many rows whoever watches is told.
_TOLD_EVERY = 1_000

_Place = tuple[int, bool, bool, int]
_Values = tuple[dict[str, float | int | None], dict[str, str]]


class Wanted(NamedTuple):
    """What whoever imports wants beyond what the files tell. `finished`: it is known that the training is."""

    name: str | None = None
    finished: bool = False
    checkpoints: str = "all"


class Imported(NamedTuple):
    """What became of an import. `rows`, `files`: how many were added; `how`, `notes`: in words."""

    folder: Path
    how: str
    rows: int = 0
    files: int = 0
    notes: tuple[str, ...] = ()

    @property
    def session(self) -> str:
        """The session's id."""
        return self.folder.name


class _Moved:
    """A clock that stands where it was put."""

    def __init__(self) -> None:
        self.at = 0.0

    def move(self, at: float) -> None:
        """On to a time, never back."""
        self.at = max(self.at, at)

    def wall(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at

    def worked(self) -> float:
        return 0.0

    def wait(self, _signal: object, seconds: float) -> bool:
        self.at += max(0.0, seconds)
        return False


class _Listener:
    """Lets the copies go that a step made needless."""

    checkpoints: Checkpoints | None = None

    def __call__(self, before: Memory, decision: Decision) -> None:
        if self.checkpoints is not None:
            self.checkpoints.heard(before, decision.memory)


def bring(
    found: Found,
    here: Settings,
    known: Sequence[Path],
    wanted: Wanted,
    *,
    watch: Callable[[int], None] = lambda _rows: None,
) -> Imported:
    """Makes a session of a found training, or goes on with the one that an earlier import made.

    `known`: the folders of the sessions that this user has. `watch` hears now and then how many rows were written.
    Raises `UsageError` for a training without a row or a name that cannot be used, `SessionBusy` if the session is owned
    by somebody else, `StorageError`.
    """
    if not found.rows:
        raise UsageError(f"{found.folder} holds no row that could be read")
    wish = checked_wish(
        wanted.name or found.name,
        (),
        found.epochs,
        {**found.config, "imported_from": found.tool},
        None,
        wanted.checkpoints,
        resume=False,
    )
    unfinished = "" if wanted.finished else found.unfinished
    own = opening.id_of(0, _bits(found))[-_OWN_LETTERS:]
    earlier = [folder for folder in known if folder.name.endswith(own)]
    if not earlier:
        session = opening.id_of(found.opened_at, _bits(found))
        return _new(found, here, wish, session, unfinished, watch, "imported")
    folder = max(earlier, key=lambda path: path.name)
    memory = recover(folder).memory
    over = memory.state in (State.FINALIZING, State.DONE)
    first = _first_change(folder, found.rows)
    ended = over or (memory.state is State.ABORTED and unfinished)
    if first is None and ended:
        return Imported(folder, "it is here already, and nothing is new")
    if over:
        # The next one by its time, so that it is found as the newest.
        at = max(found.rows[-1].at, opening.time_of(folder.name) + 0.002)
        how = f"imported anew: it went on since it was taken for finished as {folder.name}"
        return _new(found, here, wish, opening.id_of(at, _bits(found)), unfinished, watch, how)
    return _next_attempt(found, here, wish, folder, first, unfinished, watch)


def _bits(found: Found) -> int:
    """80 bits that stand for this training, however its folder was named when it was looked for."""
    text = "\0".join((found.tool, str(found.folder.resolve()), found.first))
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:10])


# -- what is new -----------------------------------------------------------------------------------------


def _first_change(folder: Path, rows: Sequence[Measured]) -> int | None:
    """The first epoch of which the session does not hold what was found now; None if it holds all of it."""
    with Rows(folder) as recorded:
        held = {
            (row.epoch, row.final, row.step is None, row.step or 0): (
                msgspec.json.decode(row.metrics),
                msgspec.json.decode(row.nonfinite),
            )
            for row in recorded
        }
    now = _merged(rows)
    changed = [place[0] for place in held.keys() | now.keys() if held.get(place) != now.get(place)]
    return min(changed, default=None)


def _merged(rows: Sequence[Measured]) -> dict[_Place, _Values]:
    """The rows in force: those of one place merge by name, and the later value counts."""
    merged: dict[_Place, _Values] = {}
    for row in rows:
        place = (row.epoch, row.final, row.step is None, row.step or 0)
        metrics, words = merged.get(place, ({}, {}))
        words = {name: word for name, word in words.items() if name not in row.metrics}
        merged[place] = (metrics | row.metrics, words | row.nonfinite)
    return merged


# -- writing ---------------------------------------------------------------------------------------------


def _new(
    found: Found,
    here: Settings,
    wish: Wish,
    session: str,
    unfinished: str,
    watch: Callable[[int], None],
    how: str,
) -> Imported:
    opening.make_directory(here.directory)
    coming, folder = here.directory / f"{_COMING}{session}", here.directory / session
    try:
        coming.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise StorageError(f"sessions cannot be kept in {here.directory}: {error.strerror}") from error
    ownership = Ownership(coming)  # somebody who imports the same just now is let do it
    try:
        # What somebody left who died over it.
        for left in coming.iterdir():
            if left.is_dir():
                shutil.rmtree(left)
        clock, listener = _Moved(), _Listener()
        opened = opening.create(coming, session, clock, listener)
        try:
            said = _say(found, here, wish, opened, clock, listener, found.rows, 0, unfinished, watch)
        finally:
            opened.close()
        try:
            (coming / session).rename(folder)
        except OSError as error:
            if folder.is_dir():
                raise SessionBusy(f"another process imported it to {folder} just now") from error
            raise StorageError(f"cannot make {folder}: {error.strerror}") from error
    finally:
        shutil.rmtree(coming, ignore_errors=True)
        ownership.release()
    Index(here.data_folder / "sessions").enter(session, folder)
    return Imported(folder, how, *said)


def _next_attempt(
    found: Found,
    here: Settings,
    wish: Wish,
    folder: Path,
    first: int | None,
    unfinished: str,
    watch: Callable[[int], None],
) -> Imported:
    """Goes on with a session from the epoch `first`, or with nothing but the word of its end.

    As any attempt it begins no later than behind the newest checkpoint, and with the first epoch where there is none.
    """
    clock, listener = _Moved(), _Listener()
    opened = opening.begin_attempt(folder, clock, listener)
    try:
        newest = newest_whole(opened.door.memory, opened.snapshots)
        wanted = 1 + max(row.epoch for row in found.rows) if first is None else first
        begins = 0 if newest is None else min(wanted, newest.epoch + 1)
        rows = [row for row in found.rows if row.epoch >= begins]
        clock.move(opened.door.memory.ended_at or 0.0)
        said = _say(found, here, wish, opened, clock, listener, rows, begins, unfinished, watch)
        attempt = opened.door.memory.attempt
    finally:
        opened.close()
    how = f"it went on since it was imported: attempt {attempt} begins with epoch {begins}"
    return Imported(folder, how, *said)


def _say(
    found: Found,
    here: Settings,
    wish: Wish,
    opened: Opened,
    clock: _Moved,
    listener: _Listener,
    rows: Sequence[Measured],
    first_epoch: int,
    unfinished: str,
    watch: Callable[[int], None],
) -> tuple[int, int, tuple[str, ...]]:
    """Says a training from its beginning to its end; how many rows and files there were, and what was not kept."""
    door, checkpoints = opened.door, Checkpoints(opened.door, opened.snapshots)
    listener.checkpoints = checkpoints

    def tell(kind: type[Event], *fields: object, **named: object) -> None:
        decision = door.tell(kind, *fields, **named)
        assert decision.refusal is None or not decision.refusal.illegal, decision.refusal
        if door.failure:
            raise StorageError(door.failure)

    clock.move(found.opened_at if first_epoch == 0 or not rows else rows[0].at)
    online = here.mode == "on" and here.hub is not None
    tell(
        PretrainRoutineStart,
        session=opened.door.memory.session,
        name=wish.name,
        first_epoch=first_epoch,
        epochs=wish.epochs,
        project=here.project,
        group=here.group,
        config=wish.config,
        hub=online,
        address=here.hub if online else None,
        # Whoever imports the same files elsewhere says the same.
        mark=f"imported {clock.at:.6f}",
        metrics_interval=here.limits["metrics"],
        checkpoint_interval=0.0,  # everything is there already: nothing is gained by waiting
        heartbeat_interval=here.limits["heartbeat"],
        checkpoints=wish.checkpoints,
    )
    tell(PretrainRoutineEnd)
    tell(TrainStart)
    for count, row in enumerate(rows, 1):
        clock.move(row.at)
        if row.step is None:
            tell(FitEpochEnd, row.epoch, row.metrics, row.nonfinite, row.final)
        else:
            tell(TrainBatchEnd, row.epoch, row.step, row.metrics, row.nonfinite)
        if count % _TOLD_EVERY == 0:
            watch(count)
    notes = []
    for file in found.files:
        kind = CheckpointKind.FINAL if file.final and not unfinished else CheckpointKind.LAST
        try:
            clock.move(look(file.path).mtime_ns / 1e9)
            event = checkpoints.save(file.path, file.epoch, file.fitness, kind).event
        except CheckpointMissing as missing:
            notes.append(str(missing))
            continue
        if isinstance(event, ModelSave) and event.unkept:
            notes.append(event.unkept)
    if unfinished:
        tell(Abort, outcome=Outcome.UNKNOWN, reason=unfinished)
    else:
        tell(TrainEnd, outcome=Outcome.FINISHED, final=checkpoints.name_final())
    return len(rows), len(found.files) - len(notes), tuple(notes)
