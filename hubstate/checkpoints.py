"""A trainer's checkpoints: kept as they are announced, named at the end, and found again to go on from.

Every save is told to the session; whether it is kept is a decision of the machine. The copy is taken between
looking and telling, outside the door's lock, so that the step that says "kept" is only written once the copy is
whole.
"""

from __future__ import annotations

import threading
from functools import cached_property
from math import isfinite
from pathlib import Path

from hubstate.actions import Decision, KeepCheckpoint, Memory
from hubstate.door import Door
from hubstate.errors import CheckpointMissing, StorageError
from hubstate.events import ModelSave, Saved
from hubstate.log import log
from hubstate.opening import SNAPSHOT, discard_needless, stand_ins
from hubstate.snapshots import Snapshots, digest, is_torn, look
from hubstate.states import CheckpointKind

__all__ = ["Checkpoint", "Checkpoints", "newest_whole"]


class Checkpoint:
    """A whole checkpoint to go on from, a file or a folder. `epoch` (0-based) is the one that it was saved after."""

    def __init__(self, path: Path, epoch: int) -> None:
        self.path = path
        self.epoch = epoch

    @cached_property
    def sha256(self) -> str:
        """The SHA-256 (hex) of the file, or of the archive that the folder travels as.

        It is read when it is first asked for, because files may be large.
        """
        return digest(self.path)

    def __repr__(self) -> str:
        return f"Checkpoint(path={str(self.path)!r}, epoch={self.epoch})"


def newest_whole(memory: Memory, snapshots: Snapshots) -> Checkpoint | None:
    """The newest whole checkpoint of any kind, or None if there is none.

    The trainer's own file serves where it still is as it was saved; else the newest kept copy that is whole.
    """
    saved = memory.saved
    if saved is not None and _is_as_saved(saved):
        return Checkpoint(Path(saved.path), saved.epoch)
    kept = [k for k in (memory.kept_last, memory.kept_best, memory.kept_final) if k is not None]
    for copy in sorted(kept, key=lambda k: (k.attempt, k.at), reverse=True):
        path = snapshots.path(copy.snapshot)
        if _is_whole(path, copy.size):
            return Checkpoint(path, copy.epoch)
    # A power cut took the kept ones: what they replaced lies here still.
    older = [
        Checkpoint(snapshots.path(name), int(found["epoch"]))
        for name in stand_ins(snapshots.path(""), memory)
        if (found := SNAPSHOT.fullmatch(name)) and _is_whole(snapshots.path(name))
    ]
    return max(older, key=lambda checkpoint: checkpoint.epoch, default=None)


def _is_as_saved(saved: Saved) -> bool:
    return _is_whole(Path(saved.path), saved.size, saved.mtime_ns)


def _is_whole(path: Path, size: int | None = None, mtime_ns: int | None = None) -> bool:
    """Whether a file or folder has this size, and was not touched since that time, and is not torn."""
    try:
        seen = look(path)
        return size in (None, seen.size) and mtime_ns in (None, seen.mtime_ns) and not is_torn(path)
    except (CheckpointMissing, OSError):
        return False  # gone or unreadable


class Checkpoints:
    """Takes what a trainer saves, for one session. Threads may share it; saves happen one after the other."""

    def __init__(self, door: Door, snapshots: Snapshots) -> None:
        self._door = door
        self._snapshots = snapshots
        self._lock = threading.RLock()  # a signal handler may save in the middle of a save
        self._taken = 0
        self._unkept: type[Exception] | None = None

    @property
    def newest(self) -> Checkpoint | None:
        """The newest whole checkpoint, of an earlier attempt or this one; None if there is none."""
        return newest_whole(self._door.memory, self._snapshots)

    def heard(self, before: Memory, after: Memory) -> None:
        """After a step: the copies that it made needless may go."""
        discard_needless(self._snapshots, before, after)

    def save(self, path: Path, epoch: int, fitness: float | None, kind: CheckpointKind) -> Decision:
        """Tells the session of a saved file, and keeps a copy if the machine says so.

        Raises `CheckpointMissing` if there is no such file or folder, it cannot be looked at, or it is one that holds
        the session itself. A copy that cannot be had (a torn file, a full disk) is journalled with its reason and ends
        no training.
        """
        # NaN and infinities say nothing about which one is better.
        fitness = fitness if fitness is not None and isfinite(fitness) else None
        try:
            path = path.absolute()
        except OSError as error:
            raise CheckpointMissing(
                f"the checkpoint {path} cannot be found, because the working directory is gone ({error.strerror}): "
                "save it by its absolute path"
            ) from error
        with self._lock:
            if self._snapshots.holds_itself(path):
                raise CheckpointMissing(
                    f"the folder {path} holds what this session keeps itself: save a folder of the checkpoint's own"
                )
            stat = look(path)
            named = {
                "epoch": epoch,
                "path": str(path),
                "size": stat.size,
                "mtime_ns": stat.mtime_ns,
                "kind": kind,
                "fitness": fitness,
            }
            kept = _kept(self._door.look(ModelSave, **named))
            if kept is None:
                return self._door.tell(ModelSave, **named)
            snapshot = self._name(kept.kind, epoch, path)
            if unkept := self._take(path, snapshot):
                return self._door.tell(ModelSave, **named, unkept=unkept)
            decision = self._door.tell(ModelSave, **named, snapshot=snapshot)
            if _kept(decision) is None:
                self._snapshots.discard(snapshot)  # it was not due any more, or the session ended meanwhile
            return decision

    def name_final(self) -> Saved | None:
        """What to name at the end of a training without a best: the newest saved file, if it is newer than the kept one.

        None where the machine's own choice serves.
        """
        with self._lock:
            memory = self._door.memory
            saved = memory.saved
            named = memory.kept_final is not None and memory.kept_final.attempt == memory.attempt
            if memory.checkpoints == "none" or memory.kept_best is not None or named:
                return None
            if saved is None or saved.snapshot or saved.attempt != memory.attempt or not _is_as_saved(saved):
                return None
            snapshot = self._name(CheckpointKind.FINAL, saved.epoch, Path(saved.path))
            if self._take(Path(saved.path), snapshot):
                return None
            return Saved(saved.path, saved.epoch, saved.size, saved.mtime_ns, memory.attempt, snapshot)

    def _take(self, path: Path, snapshot: str) -> str:
        """Takes the copy; returns why there is none, empty where there is one.

        The journal tells of each; the log once of each kind (the file's blame, the disk's), until a copy succeeds again.
        """
        try:
            self._snapshots.take(path, snapshot)
        except (CheckpointMissing, StorageError) as failure:
            if self._unkept is not type(failure):
                self._unkept = type(failure)
                log("hubstate.checkpoints").warning(
                    "hubstate.checkpoint_unkept", path=str(path), reason=str(failure)
                )
            return str(failure)
        if self._unkept is not None:
            self._unkept = None
            # As loud as the trouble was, so that whoever heard of the one hears of the other.
            log("hubstate.checkpoints").warning("hubstate.checkpoint_kept_again", path=str(path))
        return ""

    def _name(self, kind: CheckpointKind, epoch: int, path: Path) -> str:
        """A snapshot's name: it never repeats within a session, and ends as the file does."""
        self._taken += 1
        suffix = path.suffix if path.suffix[1:].isascii() and path.suffix[1:].isalnum() else ""
        return f"{kind.value}-{epoch:06d}-{self._door.memory.attempt}-{self._taken}{suffix[:16]}"


def _kept(decision: Decision) -> KeepCheckpoint | None:
    return next((action for action in decision.actions if isinstance(action, KeepCheckpoint)), None)
