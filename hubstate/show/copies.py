"""The kept checkpoints of a session, as a hub stores files: links to the copies in the session's folder.

A file is linked to, so it takes no room. A folder becomes the archive that it would travel as, which does. Both are read
once for their digest, because pages tell it.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from sqlalchemy import delete

from hubstate.actions import Memory, SendCheckpoint
from hubstate.archive import Content
from hubstate.errors import CheckpointMissing
from hubstate.opening import SNAPSHOTS
from hubstate.server import calls, schema
from hubstate.server.answers import Caller, Problem
from hubstate.server.mirror import Mirror
from hubstate.server.uploads import Received
from hubstate.snapshots import digest
from hubstate.states import CheckpointKind

__all__ = ["Copies", "Copy", "copies_of"]

_BLOCK = 1 << 20


class Copy(NamedTuple):
    """A kept copy of a checkpoint."""

    kind: CheckpointKind
    epoch: int
    attempt: int
    snapshot: str
    fitness: float | None


def copies_of(memory: Memory) -> dict[str, Copy]:
    """The copies that are kept, or wait to be delivered, by their kinds."""
    found = {}
    for kept in (memory.kept_last, memory.kept_best, memory.kept_final):
        if kept is not None:
            found[kept.kind.value] = Copy(kept.kind, kept.epoch, kept.attempt, kept.snapshot, kept.fitness)
    for action in memory.outstanding:
        if isinstance(action, SendCheckpoint):
            copy = Copy(action.kind, action.epoch, action.attempt, action.snapshot, action.fitness)
            before = found.get(action.kind.value)
            if before is None or (before.attempt, before.epoch) <= (copy.attempt, copy.epoch):
                found[action.kind.value] = copy
    return found


class Copies:
    """Which copies of the session in `folder` are shown, which the store calls `session`."""

    def __init__(self, folder: Path, session: str) -> None:
        self._folder = folder
        self._session = session
        self._shown: dict[str, Copy] = {}
        self._unshown: dict[str, str] = {}

    @property
    def unshown(self) -> tuple[str, ...]:
        """In words, what cannot be shown."""
        return tuple(self._unshown.values())

    def show_next(self, store: Mirror, caller: Caller, memory: Memory, at: float) -> bool:
        """Takes away what is kept no more, and shows one copy that is not shown yet; whether there was one.

        `at`: when it was kept, as far as known (s since 1970).
        """
        wanted = {kind: copy for kind, copy in copies_of(memory).items() if self._path(copy).exists()}
        for kind in self._shown.keys() - wanted.keys():
            self._take_away(store, kind)
        for kind, copy in wanted.items():
            if self._shown.get(kind) != copy:
                self._unshown.pop(kind, None)
                try:
                    self._show(store, caller, copy, at)
                except (CheckpointMissing, FileNotFoundError):
                    continue  # a newer one took its place just now, which a later round shows
                except OSError as error:
                    self._unshown[kind] = f"the {kind} checkpoint cannot be shown: {error.strerror or error}"
                except Problem as problem:  # as of a session that the store does not take
                    self._unshown[kind] = f"the {kind} checkpoint cannot be shown: {problem.message}"
                self._shown[kind] = copy
                return True
        return False

    def _path(self, copy: Copy) -> Path:
        return (self._folder / SNAPSHOTS / copy.snapshot).absolute()

    def _take_away(self, store: Mirror, kind: str) -> None:
        table = schema.checkpoints
        with store.database.writing() as connection:
            mine = (table.c.session == self._session, table.c.kind == kind)
            connection.execute(delete(table).where(*mine))
        del self._shown[kind]

    def _show(self, store: Mirror, caller: Caller, copy: Copy, at: float) -> None:
        """Hands it to the store as if it had been uploaded."""
        path = self._path(copy)
        part = store.incoming / f"{self._session}-{copy.snapshot}.part"
        part.unlink(missing_ok=True)
        try:
            sha256 = digest(path)
            with Content(path) as content:
                size = content.size
                if path.is_dir():
                    with part.open("xb") as packed:
                        while block := content.read(_BLOCK):
                            packed.write(block)
                else:
                    part.symlink_to(path)
            fields = {"kind": copy.kind.value, "type": "epoch"}
            fields |= {"epoch": str(copy.epoch), "attempt": str(copy.attempt)}
            fields |= {"archive": "tar"} if path.is_dir() else {}
            fields |= {} if copy.fitness is None else {"fitness": repr(copy.fitness)}
            received = Received(fields, "last.pt", part, size, sha256)
            calls.take_upload(store, caller, self._session, received, "", at)
        finally:
            part.unlink(missing_ok=True)
