"""What one's own hub tells of a session that another machine began, and the bytes of its files.

A file arrives piece by piece, is written and digested on the way, and goes on where a connection was cut. It may take
as long as it needs while it moves. What a hub says is checked before it is used: a file's address is asked at the hub
itself, whatever host it names, and no more bytes are taken than were told.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import msgspec

from hubstate.clock import Clock
from hubstate.errors import HubRefused, HubstateError, HubUnreachable, SessionNotFound, StorageError
from hubstate.hubs.base import Declined, Delayed
from hubstate.hubs.news import heard, text
from hubstate.hubs.verdict import judge
from hubstate.hubs.wire import Wire
from hubstate.states import CheckpointKind, Outcome, State

__all__ = ["PATIENCE", "Known", "Source", "StoredFile"]

#: How long a hub has for its answer, and for the next piece of a file (seconds).
PATIENCE = 30.0
#: Between two tries after a connection was cut (seconds).
PAUSE = 1.0
_FILES = "/v1/files/"

Count = Annotated[int, msgspec.Meta(ge=0, lt=2**53)]


class StoredFile(msgspec.Struct, frozen=True):
    """A checkpoint as the hub stores it: `size` in bytes, `sha256` in hex. `folder`: the file is an archive of one."""

    kind: CheckpointKind
    epoch: Count
    attempt: Count
    size: Count
    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    url: str
    fitness: float | None = None
    folder: bool = False


class Attempt(msgspec.Struct, frozen=True):
    """An attempt as the hub knows it. Times in seconds since 1970."""

    attempt: Count
    first_epoch: Count = 0
    opened_at: float | None = None
    ended_at: float | None = None


class Known(msgspec.Struct, frozen=True):
    """What the hub at the address `hub` knows of a session; `delivered` counts its rows."""

    id: str
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=500)]
    state: State
    outcome: Outcome
    attempt: Annotated[int, msgspec.Meta(ge=1, lt=2**53)]
    delivered: Count
    attempts: tuple[Attempt, ...]
    checkpoints: tuple[StoredFile, ...]
    reason: str = ""
    epoch: Count | None = None
    epochs: Count | None = None
    url: str | None = None
    hub: str = ""


class Source:
    """One hub, to be asked. `address` and `api_key` as for deliveries; raises `UsageError` as they do."""

    def __init__(self, address: str, api_key: str | None, *, patience: float = PATIENCE) -> None:
        self._patience = patience
        self._wire = Wire(
            address, api_key, connect_timeout=5.0, read_timeout=patience, total_timeout=patience
        )

    def session(self, session: str) -> Known:
        """What the hub knows of the session with this id.

        Raises `SessionNotFound` if it knows none, `HubRefused` if it refuses the key or does not answer as one's own
        hub does, `HubUnreachable` if it gives no answer in time.
        """
        answer = self._wire.send(f"/v1/models/{quote(session, safe='')}", method="GET")
        if isinstance(answer, Delayed):
            raise HubUnreachable(
                f"{self._wire.address} cannot be asked for session {session}: {answer.reason}"
            )
        match judge(answer, self._wire.host, time.time()):
            case Declined(status=404):
                raise SessionNotFound(f"no session {session} is known here, nor at {self._wire.address}")
            case (Declined() | Delayed()) as trouble:
                raise self._refused(f"session {session}", trouble)
            case body:
                return self._known(session, body)

    def _known(self, session: str, body: dict[str, Any]) -> Known:
        try:
            known = msgspec.convert(body.get("data"), Known)
        except msgspec.ValidationError as error:
            raise HubRefused(
                f"{self._wire.address} does not tell what it holds as one's own hub does: {error}"
            ) from error
        if known.id != session:
            raise HubRefused(f"{self._wire.address} told of another session than {session}")
        return msgspec.structs.replace(
            known,
            hub=self._wire.address,
            url=heard(body, self._wire.address).url,
            # They are shown on terminals.
            name=text(known.name, 500) or known.id,
            reason=text(known.reason, 2000) or "",
        )

    def fetch(self, file: StoredFile, into: Path, clock: Clock) -> bool:
        """Writes the bytes of a file to the new file `into`, whole and digested; False if the hub has it no more.

        Raises `HubUnreachable` if nothing moves for the patience, `HubRefused` if other bytes come than were told,
        `StorageError` if this disk does not take them. What lies at `into` then is the caller's to remove.
        """
        path = _path_of(file.url)
        if path is None:
            raise HubRefused(f"{self._wire.address} told no address of its {file.kind.value} checkpoint")
        arriving = _Arriving(into, file.size)
        try:
            return self._fetch(file, path, arriving, clock)
        finally:
            arriving.close()

    def _fetch(self, file: StoredFile, path: str, arriving: _Arriving, clock: Clock) -> bool:
        never = threading.Event()
        moved, again = clock.monotonic(), False
        while True:
            before, reason = arriving.size, ""
            if arriving.size < file.size:
                wanted = {"Range": f"bytes={arriving.size}-"} if arriving.size else {}
                answer = self._wire.fetch(path, arriving, wanted)
                if arriving.fault is not None:
                    raise arriving.fault
                if isinstance(answer, Delayed):
                    reason = answer.reason
                elif answer.status in (403, 404, 410):
                    return False
                elif answer.status not in (200, 206):
                    trouble = judge(answer, self._wire.host, time.time())
                    if isinstance(trouble, Declined):
                        raise self._refused(f"the {file.kind.value} checkpoint", trouble)
                    reason = trouble.reason if isinstance(trouble, Delayed) else "the answer is no file"
            if arriving.size == file.size:
                if arriving.sha256 == file.sha256:
                    arriving.keep()
                    return True
                if again:
                    raise HubRefused(
                        f"{self._wire.address} sends other bytes of its {file.kind.value} checkpoint than it told: "
                        f"their sha256 is {arriving.sha256} and not {file.sha256}"
                    )
                again = True  # a piece of it may have been spoilt on the way
                arriving.restart()
                continue
            now = clock.monotonic()
            if arriving.size > before:
                moved = now
            if now - moved >= self._patience:
                raise HubUnreachable(
                    f"the {file.kind.value} checkpoint could not be had from {self._wire.address}: "
                    f"{arriving.size} of {file.size} bytes came ({reason or 'then the connection was cut'})"
                )
            clock.wait(never, PAUSE)

    def close(self) -> None:
        """Lets go of the connections."""
        self._wire.close()

    def _refused(self, what: str, trouble: Declined | Delayed) -> HubstateError:
        said = f"{self._wire.address} was asked for {what}: {self._wire.clean(trouble.reason)}"
        if isinstance(trouble, Delayed) and trouble.condition != "credentials_rejected":
            return HubUnreachable(said)
        return HubRefused(said, credentials=isinstance(trouble, Delayed))


def _path_of(url: str) -> str | None:
    """The part of a file's address that this hub is asked for. Nothing is fetched from another host."""
    place = url.find(_FILES)
    path = url[place:]
    return path if place >= 0 and path.isascii() and path.isprintable() and " " not in path else None


class _Arriving:
    """A file that is coming in: what has come, its digest, and why it cannot go on, if so."""

    def __init__(self, path: Path, limit: int) -> None:
        self._path = path
        self._limit = limit
        self.size = 0
        #: This machine's or the hub's blame; whoever sends on the wire sees it as one `OSError` among many.
        self.fault: HubstateError | None = None
        try:
            self._file = path.open("xb", buffering=0)
        except OSError as error:
            raise self._full(error) from error
        self._hash = hashlib.sha256()

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def begin(self, status: int) -> None:
        """An answer with bytes begins: from where this stands (206), or from the start again."""
        if status == 200 and self.size:
            self.restart()

    def take(self, piece: bytes) -> None:
        if self.size + len(piece) > self._limit:
            self.fault = HubRefused(
                f"more than the {self._limit} bytes come that the hub told of a checkpoint"
            )
            raise OSError(str(self.fault))
        try:
            view = memoryview(piece)
            while view:
                view = view[self._file.write(view) :]
        except OSError as error:
            self.fault = self._full(error)
            raise
        self._hash.update(piece)
        self.size += len(piece)

    def restart(self) -> None:
        self._file.seek(0)
        self._file.truncate()
        self.size, self._hash = 0, hashlib.sha256()

    def keep(self) -> None:
        """Asks the disk to keep it."""
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise self._full(error) from error

    def close(self) -> None:
        self._file.close()

    def _full(self, error: OSError) -> StorageError:
        return StorageError(f"a checkpoint cannot be written to {self._path}: {error.strerror or error}")
