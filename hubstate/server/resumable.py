"""Uploads that may be cut: what has come of each lies in `incoming/`, and the next request goes on there.

`ID.upload` holds the bytes, and how many there are is the offset: nothing else says so, so nothing can disagree with
it, whatever died in between. `ID.json` says what they will be, and its time of change is when the upload was last heard
of, by the hub's clock; after a day without a word both are swept. The same delivery of the same bytes has the same ID,
so a client that forgot where it sent them is told again.

A client whose connection broke comes back on a new one while the old one may still bring bytes. So one request at a
time is the taker of an upload, and whoever asks where it stands ends the one before: what that brings is not taken.
The digest grows while bytes come. After a restart it lags behind, and catches up with every piece that is written.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec

from hubstate.server.answers import Problem
from hubstate.server.incoming import LIFETIME, is_name, new_name, write_all

__all__ = ["Resumables", "Taker", "Whole"]

#: How much a lagging digest reads for each byte that comes: it catches up soon, and no piece waits for long.
_CATCHING_UP = 8
_BLOCK = 1 << 20


class _About(msgspec.Struct, frozen=True):
    """What is known of an upload: whose it is, for which session, its length in bytes and the SHA-256 that it shall have."""

    owner: str
    model: str
    length: int
    sha256: str


class Whole(NamedTuple):
    """An upload all of which is here."""

    path: Path
    size: int
    sha256: str
    promised: str


class _State:
    """What this life of the hub knows of an upload: who brings it, and the digest of its first `hashed` bytes."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.taker: Taker | None = None
        self.hash = hashlib.sha256()
        self.hashed = 0

    def catch_up(self, path: Path, most: int | None = None) -> None:
        """Digests what lies there and was not digested yet, at most `most` bytes of it."""
        with path.open("rb", buffering=0) as file:
            file.seek(self.hashed)
            while most is None or most > 0:
                block = file.read(_BLOCK)
                if not block:
                    return
                self.hash.update(block)
                self.hashed += len(block)
                most = None if most is None else most - len(block)


class Resumables:
    """The unfinished uploads in the folder `incoming`. Any thread may use it."""

    def __init__(self, incoming: Path) -> None:
        self._folder = incoming
        self._lock = threading.Lock()
        self._states: dict[str, _State] = {}

    def make(self, owner: str, model: str, *, key: str, length: int, sha256: str, now: float) -> str:
        """The ID of the upload with this key, length and digest; it begins if it is not there yet."""
        about = _About(owner, model, length, sha256)
        name = new_name()
        if key:
            named = "\0".join((owner, model, key, str(length), sha256))
            name = hashlib.sha256(named.encode()).hexdigest()[:32]
        self.sweep(now)
        with self._lock:
            self._bytes(name).touch(mode=0o600)
            making = self._folder / f"{name}.part"
            making.write_bytes(msgspec.json.encode(about))
            making.replace(self._about(name))
            self._heard(name, now)
        return name

    def offset(self, name: str, owner: str, model: str, now: float) -> tuple[int, int]:
        """How many bytes of the upload are here, and how many it has in all; no older request brings more of it.

        Raises `Problem` 404 for no such upload.
        """
        about, state = self._find(name, owner, model)
        with state.lock:
            state.taker = None
            self._heard(name, now)
            return self._bytes(name).stat().st_size, about.length

    def taker(self, name: str, owner: str, model: str, offset: int, now: float) -> Taker:
        """Who takes the next bytes, from `offset` on. Raises `Problem` 404, or 409 if it stands elsewhere."""
        about, state = self._find(name, owner, model)
        with state.lock:
            fd = os.open(self._bytes(name), os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
            size = os.fstat(fd).st_size
            if size != offset:
                os.close(fd)
                raise Problem(409, "wrong_offset", f"{size} bytes of this upload are here, and not {offset}")
            self._heard(name, now)
            state.taker = Taker(fd, self._bytes(name), state, about.length, partial(self._heard, name))
            return state.taker

    def whole(self, name: str, owner: str, model: str) -> Whole:
        """The upload, once all of it is here and on the disk. Raises `Problem` 404, or 409 if some of it is missing."""
        about, state = self._find(name, owner, model)
        path = self._bytes(name)
        with state.lock:
            size = path.stat().st_size
            if size != about.length:
                raise Problem(
                    409,
                    "incomplete",
                    f"{size} of {about.length} bytes of this upload are here: send the rest",
                )
            state.catch_up(path)
            _sync(path)
            return Whole(path, size, state.hash.hexdigest(), about.sha256)

    def forget_of(self, name: str, owner: str, model: str) -> None:
        """Lets go of an upload if it is this owner's."""
        try:
            self._find(name, owner, model)
        except Problem:
            return
        self.forget(name)

    def forget(self, name: str) -> None:
        """Lets go of an upload; its bytes may have been moved to their place."""
        self._about(name).unlink(missing_ok=True)
        self._bytes(name).unlink(missing_ok=True)
        with self._lock:
            self._states.pop(name, None)

    def sweep(self, now: float) -> None:
        """Forgets each upload that nothing was heard of for a day. A clock that was set back keeps it longer.

        One that is being brought is heard of all the time: on a slow line it may take longer than a day.
        """
        for about in self._folder.glob("*.json"):
            try:
                heard = about.stat().st_mtime
            except FileNotFoundError:
                continue  # it was finished just now
            if now - heard > LIFETIME and not self._is_under_way(about.stem):
                self.forget(about.stem)
        for orphan in self._folder.glob("*.upload"):
            if self._about(orphan.stem).exists():
                continue
            try:
                old = now - orphan.stat().st_mtime > LIFETIME
            except FileNotFoundError:
                continue  # it was finished just now
            if old:
                orphan.unlink(missing_ok=True)

    def _find(self, name: str, owner: str, model: str) -> tuple[_About, _State]:
        gone = Problem(404, "no_such_upload", "this upload is not here (any more): begin it anew")
        if not is_name(name):
            raise gone
        try:
            about = msgspec.json.decode(self._about(name).read_bytes(), type=_About)
        except (FileNotFoundError, msgspec.MsgspecError):
            raise gone from None
        if (about.owner, about.model) != (owner, model) or not self._bytes(name).is_file():
            raise gone
        with self._lock:
            return about, self._states.setdefault(name, _State())

    def _is_under_way(self, name: str) -> bool:
        with self._lock:
            state = self._states.get(name)
        return state is not None and state.taker is not None

    def _heard(self, name: str, now: float) -> None:
        with contextlib.suppress(FileNotFoundError):  # it was let go of just now
            os.utime(self._about(name), (now, now))

    def _bytes(self, name: str) -> Path:
        return self._folder / f"{name}.upload"

    def _about(self, name: str) -> Path:
        return self._folder / f"{name}.json"


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class Taker:
    """One request that brings bytes of an upload. Writes raise `Problem` 409 once another request came for it."""

    def __init__(
        self, fd: int, path: Path, state: _State, length: int, heard: Callable[[float], None]
    ) -> None:
        self._fd = fd
        self._heard = heard
        self._path = path
        self._state = state
        self._length = length
        self._size = os.fstat(fd).st_size

    def write(self, data: bytes) -> None:
        """Takes the next piece. Raises `Problem` 413 for what would make it longer than it was said to be."""
        state = self._state
        with state.lock:
            if state.taker is not self:
                raise Problem(409, "taken_over", "another request brings this upload now")
            if self._size + len(data) > self._length:
                raise Problem(
                    413, "too_large", f"this upload was said to have {self._length} bytes, and has more"
                )
            write_all(self._fd, data)
            if state.hashed == self._size:
                state.hash.update(data)
                state.hashed += len(data)
            else:
                state.catch_up(self._path, _CATCHING_UP * len(data))
            self._size += len(data)

    def close(self, now: float) -> int:
        """Lets go of the file, which was heard of until `now`; returns how many bytes are here."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            with self._state.lock:
                if self._state.taker is self:
                    self._heard(now)
                    self._state.taker = None
                self._size = os.fstat(fd).st_size
                os.close(fd)
        return self._size
