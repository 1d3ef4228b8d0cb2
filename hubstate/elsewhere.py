"""A session that another machine began, made here out of what its hub holds.

A folder of that session is made beside the others: first under a hidden name, where its checkpoints are fetched to and
its journal is begun, and only then, whole, under the session's id. So nothing half is ever taken for a session. The
first head of that journal carries the memory that follows from what the hub told, and the hub's address as its origin;
from there on it is a journal like any other.

Rows are counted and not fetched: the hub has them. Of the files, the newest comes along, to go on from, and the best,
which may be what the training ends with. A session whose training is over needs neither.
"""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from hubstate import archive
from hubstate.actions import Kept, Memory
from hubstate.clock import Clock
from hubstate.errors import HubRefused, HubUnreachable, SessionBusy, SessionNotFound, StorageError
from hubstate.journal import Journal, Recovery
from hubstate.log import log
from hubstate.opening import make_directory
from hubstate.ownership import Ownership
from hubstate.settings import MLFLOW, Settings
from hubstate.snapshots import Snapshots, look
from hubstate.states import CheckpointKind, State

if TYPE_CHECKING:
    from hubstate.hubs.fetch import Known, Source, StoredFile

__all__ = ["bring", "could_be_told"]

#: A session that is coming lies under such a name until it is whole.
_COMING = ".coming-"
#: How often the hub is asked anew when a file was replaced while it was to be fetched.
_TRIES = 5
_OVER = (State.FINALIZING, State.DONE)

#: What a hub can tell of a session, by the names in the memory. All else begins as in a new one.
_TELLABLE = (
    "state", "outcome", "reason", "session", "name", "attempt", "first_epoch", "epochs", "opened_at", "ended_at",
    "hub", "model", "url", "epoch", "rows", "rows_asked", "rows_delivered", "best_fitness", "kept_last", "kept_best",
    "files_delivered", "final_sha256",
)  # fmt: skip


def bring(session: str, found: Settings, clock: Clock) -> Path:
    """The new folder of the session with this id, which the settings' hub knows and this machine did not.

    Raises `SessionNotFound` if no hub is set, if it knows no such session or hands none over, `HubRefused`, `HubUnreachable` (both as
    `hubs.fetch` tells them), `SessionBusy` if another process is bringing it just now, and `StorageError`. Nothing is
    left here then.
    """
    if found.hub is None or found.mode != "on":
        why = "no hub is set" if found.hub is None else f"the mode is {found.mode}"
        raise SessionNotFound(
            f"no session {session} is known here, and no hub can be asked for it: {why}; "
            "`hubstate status` lists what there is"
        )
    if found.hub.startswith(MLFLOW):
        raise SessionNotFound(
            f"no session {session} is known here, and an MLflow server hands none over to another machine: a hub of "
            "one's own does; `hubstate status` lists what there is"
        )
    # Loaded here, because `requests` takes longer to import than a session takes to start.
    from hubstate.hubs.fetch import Source  # noqa: PLC0415 - loads requests

    source = Source(found.hub, found.api_key)
    try:
        known = source.session(session)
        make_directory(found.directory)
        _sweep(found.directory)
        return _made(source, known, found.directory, clock)
    except HubRefused as refused:
        if refused.credentials and found.key_withheld:
            raise HubRefused(f"{refused}; {found.key_withheld}", credentials=True) from refused
        raise
    finally:
        source.close()


def could_be_told(memory: Memory) -> bool:
    """Whether a session that comes from a hub could begin with this memory: it holds nothing that no hub tells."""
    told = Memory(**{name: getattr(memory, name) for name in _TELLABLE})
    kept = [copy for copy in (memory.kept_last, memory.kept_best) if copy is not None]
    return (
        memory == told
        and memory.attempt >= 1
        and memory.rows == memory.rows_asked == memory.rows_delivered
        and all(copy.asked and copy.attempt <= memory.attempt for copy in kept)
    )


def _made(source: Source, known: Known, directory: Path, clock: Clock) -> Path:
    folder, coming = directory / known.id, directory / f"{_COMING}{known.id}"
    try:
        coming.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise StorageError(f"sessions cannot be kept in {directory}: {error.strerror}") from error
    ownership = Ownership(coming)
    try:
        memory = _fetched(source, known, coming, clock)
        Journal(coming, Recovery(memory, 0, 0, "", ()), origin=known.hub).close()
        try:
            coming.rename(folder)
        except OSError as error:
            if folder.is_dir():
                raise SessionBusy(f"another process brought the session to {folder} just now") from error
            raise StorageError(f"cannot make {folder}: {error.strerror}") from error
    except BaseException:
        shutil.rmtree(coming, ignore_errors=True)
        raise
    finally:
        ownership.release()
    log("hubstate.elsewhere").info("hubstate.session_brought", session=known.id, hub=known.hub)
    return folder


def _clear(coming: Path) -> None:
    """Removes what an earlier try left, be it by a process that died while it brought the session."""
    shutil.rmtree(coming / "snapshots", ignore_errors=True)
    for file in coming.glob("journal-*"):
        file.unlink(missing_ok=True)


def _sweep(directory: Path) -> None:
    """Removes what processes left that died while they brought other sessions."""
    for coming in directory.glob(f"{_COMING}*"):
        # One that is coming just now is let come, and one that cannot be removed harms nobody.
        with suppress(SessionBusy, StorageError):
            ownership = Ownership(coming)
            shutil.rmtree(coming, ignore_errors=True)
            ownership.release()


# -- the memory ------------------------------------------------------------------------------------------


def _fetched(source: Source, known: Known, coming: Path, clock: Clock) -> Memory:
    """The memory that follows from what the hub told, once the files that it names lie among the snapshots."""
    for _ in range(_TRIES):
        _clear(coming)
        memory = _memory(known)
        wanted = [] if known.state in _OVER else _wanted(known)
        kept = _kept(source, wanted, Snapshots(coming / "snapshots"), clock)
        if kept is not None:
            return msgspec.structs.replace(memory, **kept)
        known = source.session(known.id)  # a file was replaced meanwhile: somebody trains
    raise HubUnreachable(
        f"{known.hub} replaced the checkpoints of session {known.id} {_TRIES} times while they were to be fetched: "
        "it is trained elsewhere just now"
    )


def _memory(known: Known) -> Memory:
    newest = next((told for told in known.attempts if told.attempt == known.attempt), None)
    fitness = [
        file.fitness
        for file in known.checkpoints
        if file.kind is CheckpointKind.BEST and file.fitness is not None
    ]
    final = [file.sha256 for file in known.checkpoints if file.kind is CheckpointKind.FINAL]
    return Memory(
        state=known.state if known.state is not State.IDLE else State.SESSION_CREATED,
        outcome=known.outcome,
        reason=known.reason,
        session=known.id,
        name=known.name,
        attempt=known.attempt,
        first_epoch=0 if newest is None else newest.first_epoch,
        epochs=known.epochs,
        opened_at=None if newest is None else newest.opened_at,
        ended_at=None if newest is None else newest.ended_at,
        hub=known.hub,
        model=known.id,
        url=known.url,
        epoch=known.epoch,
        rows=known.delivered,
        rows_asked=known.delivered,
        rows_delivered=known.delivered,
        best_fitness=max(fitness, default=None),
        files_delivered=len(known.checkpoints),
        final_sha256=final[0] if final and known.state is State.DONE else "",
    )


def _wanted(known: Known) -> list[tuple[CheckpointKind, StoredFile]]:
    """The files to fetch, each with the kind that it is kept as: the best, and the newest if that is another one."""
    best = [file for file in known.checkpoints if file.kind is CheckpointKind.BEST]
    wanted = [(CheckpointKind.BEST, file) for file in best]
    newest = max(known.checkpoints, key=_age, default=None)
    if newest is not None and all(_age(file) < _age(newest) for file in best):
        # What an earlier attempt ended with is, to the next one, no more than the newest.
        wanted.append((CheckpointKind.LAST, newest))
    return wanted


def _age(file: StoredFile) -> tuple[int, int]:
    return file.attempt, file.epoch


def _kept(
    source: Source, wanted: list[tuple[CheckpointKind, StoredFile]], snapshots: Snapshots, clock: Clock
) -> dict[str, Kept] | None:
    """What is kept of the wanted files, by its name in the memory; None if the hub has one of them no more."""
    kept = {}
    for kind, file in wanted:
        name = f"{kind.value}-{file.epoch:06d}-{file.attempt}-0{'' if file.folder else '.pt'}"
        # It may take long, and somebody may sit before it.
        log("hubstate.elsewhere").info(
            "hubstate.checkpoint_coming", kind=kind.value, epoch=file.epoch, bytes=file.size
        )
        if not _fetch(source, file, snapshots.path(name), clock):
            return None
        snapshots.sync(name)
        # The hub does not tell when it was saved here or there; what counts is which of two is newer.
        at = float(file.epoch)
        size = look(snapshots.path(name)).size
        kept[f"kept_{kind.value}"] = Kept(
            kind, file.epoch, file.attempt, name, size, at, file.fitness, asked=True
        )
    return kept


def _fetch(source: Source, file: StoredFile, target: Path, clock: Clock) -> bool:
    try:
        target.parent.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot keep checkpoints in {target.parent}: {error.strerror}") from error
    if not file.folder:
        return source.fetch(file, target, clock)
    packed = target.with_name(f".{target.name}.tar")
    try:
        if not source.fetch(file, packed, clock):
            return False
        archive.unpack(packed, target, file.sha256)
    finally:
        packed.unlink(missing_ok=True)
    return True
