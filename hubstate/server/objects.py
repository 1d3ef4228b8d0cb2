"""Files that were put and are not promoted yet: `incoming/objects/`, each with a note of whose it is.

A client of Ultralytics' Platform puts a file first and says afterwards that it counts. Between the two it lies here, and
so it does while the hub is started anew. What nobody promotes is swept after a day.

What arrives is counted against what was announced, hashed, and looked through: a `.pt` is a zip archive, and one that
changed while its trainer's client read it is torn, although no byte is missing. Nothing in it is ever unpickled.
"""

from __future__ import annotations

import errno
import hashlib
import os
import struct
import threading
import zipfile
from pathlib import Path
from typing import NamedTuple

import msgspec

from hubstate.server.answers import Problem
from hubstate.server.incoming import LIFETIME, is_name, new_name, write_all
from hubstate.server.signing import Put

__all__ = ["Incoming", "Lying", "Objects", "fault_of"]

_BLOCK = 1 << 20


class _Note(msgspec.Struct, frozen=True):
    """Whose file it is, how it is called, its length in bytes and its SHA-256."""

    model: str
    run: int
    name: str
    size: int
    sha256: str


class Lying(NamedTuple):
    """A file that lies here, whole."""

    path: Path
    put: Put
    size: int
    sha256: str


class Objects:
    """The files in `folder`, which is made when the first one comes. Any thread may use it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()

    def incoming(self, length: int) -> Incoming:
        """Takes a body of `length` bytes."""
        self._folder.mkdir(exist_ok=True, mode=0o700)
        return Incoming(self._folder / f"{new_name()}.part", length)

    def lay(self, put: Put, incoming: Incoming, now: float) -> Lying:
        """Keeps a whole body under the name of its place; one that came before under that name is replaced.

        Raises `Problem` 400 for a body that is shorter than announced, and 503 for a `.pt` that is torn: its client
        reads the file anew then, and by that time it may be whole.
        """
        size, sha256 = incoming.finish()
        fault = fault_of(incoming.path) if put.name.endswith(".pt") else ""
        if fault:
            raise Problem(503, "torn", f"{put.name} is no whole checkpoint ({fault}): send it again")
        note = _Note(put.model, put.run, put.name, size, sha256)
        making = self._folder / f"{new_name()}.part"
        making.write_bytes(msgspec.json.encode(note))
        for path in (incoming.path, making):
            os.utime(path, (now, now))
        with self._lock:
            incoming.path.replace(self._bytes(put.place))
            making.replace(self._note(put.place))
        return Lying(self._bytes(put.place), put, size, sha256)

    def find(self, place: str) -> Lying | None:
        """The file of that place; None if it is not here."""
        if not is_name(place):
            return None
        with self._lock:
            try:
                note = msgspec.json.decode(self._note(place).read_bytes(), type=_Note)
                size = self._bytes(place).stat().st_size
            except (FileNotFoundError, msgspec.MsgspecError):
                return None
        if size != note.size:
            return None  # the hub was killed while another body for the same place was laid down
        return Lying(self._bytes(place), Put(note.model, note.run, place, note.name), size, note.sha256)

    def forget(self, place: str) -> None:
        """Lets go of a file."""
        with self._lock:
            self._note(place).unlink(missing_ok=True)
            self._bytes(place).unlink(missing_ok=True)

    def sweep(self, now: float) -> None:
        """Forgets what nobody promoted within a day."""
        for note in self._folder.glob("*.note"):
            try:
                laid = note.stat().st_mtime
            except FileNotFoundError:
                continue  # it was promoted just now
            if now - laid > LIFETIME:
                self.forget(note.stem)

    def tidy(self) -> None:
        """Removes what an earlier life of the hub left half done."""
        for part in self._folder.glob("*.part"):
            part.unlink()
        for orphan in self._folder.glob("*.object"):
            if not self._note(orphan.stem).exists():
                orphan.unlink()

    def _bytes(self, place: str) -> Path:
        return self._folder / f"{place}.object"

    def _note(self, place: str) -> Path:
        return self._folder / f"{place}.note"


class Incoming:
    """One body on its way in: counted, hashed, written to `path`. `length`: how many bytes were announced."""

    def __init__(self, path: Path, length: int) -> None:
        self.path = path
        self._length = length
        self._size = 0
        self._hash = hashlib.sha256()
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def write(self, data: bytes) -> None:
        """Takes the next piece. Raises `Problem` 400 for more than was announced."""
        self._size += len(data)
        if self._size > self._length:
            raise Problem(400, "invalid", f"this body was said to have {self._length} bytes, and has more")
        self._hash.update(data)
        write_all(self._fd, data)

    def finish(self) -> tuple[int, str]:
        """Size and SHA-256 (hex) of a whole body, which is on the disk then. Raises `Problem` 400 for one that is not."""
        if self._size != self._length:
            raise Problem(400, "incomplete", f"{self._size} of {self._length} bytes came: send it again")
        os.fsync(self._fd)
        self._close()
        return self._size, self._hash.hexdigest()

    def abandon(self) -> None:
        """Forgets the body unless it was laid down. May be called at any time, and again."""
        self._close()
        self.path.unlink(missing_ok=True)

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def fault_of(path: Path) -> str:
    """Why a file is no whole zip archive, in words; empty if it is one.

    Every stored member is read and compared with its checksum; PyTorch stores all of them. A packed one is taken on
    trust, because unpacking it might take for ever.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            stored = [info for info in archive.infolist() if info.compress_type == zipfile.ZIP_STORED]
            if sum(info.file_size for info in stored) > path.stat().st_size:
                return "its members are longer than it is"
            for info in stored:
                with archive.open(info) as member:
                    while member.read(_BLOCK):
                        pass
    except (
        zipfile.BadZipFile,
        struct.error,
        EOFError,
        NotImplementedError,
        RuntimeError,
        ValueError,
    ) as error:
        return str(error) or "it is cut off"
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise  # of the disk
        return "its members lie outside of it"
    return ""
