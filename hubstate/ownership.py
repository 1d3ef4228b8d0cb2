"""Who owns a session: one living process at most.

Ownership is a lock on a file, taken by `fcntl.lockf`: the kernel lets go of it when the process dies, however it
dies, and a forked child does not inherit it (`flock` would stay with a DataLoader worker after its owner died).
Such a lock has a trap: closing *any* descriptor of the file lets go of it. So the file is opened once in a process,
and a list of what this process owns answers before the file is touched. Whoever only looks takes no lock: it asks
the kernel who holds it (F_GETLK), so that looking never keeps an owner out.
"""

from __future__ import annotations

import fcntl
import os
import struct
import threading
from pathlib import Path

from hubstate.errors import SessionBusy, StorageError

__all__ = ["Ownership", "owner_of"]

_LOCK_FILE = "owner.lock"
_guard = threading.Lock()
#: What this process owns, by folder. A forked child sees that another process id stands in it.
_owned: dict[str, Ownership] = {}


class Ownership:
    """From now until `release` this process owns the session in `folder`.

    Raises `SessionBusy` naming the process that owns it, `StorageError` if the folder takes no lock.
    """

    def __init__(self, folder: Path) -> None:
        self._key = str(folder.resolve())
        self.pid = os.getpid()
        with _guard:
            if _is_mine(self._key):
                raise SessionBusy(
                    f"the session in {folder} is open in this process (pid {self.pid}) already: "
                    "go on with that one, or close() it first"
                )
            self._fd = _lock(folder)
            _owned[self._key] = self

    def release(self) -> None:
        """Lets another process own the session. A second time, and in a forked child, it does nothing."""
        if os.getpid() != self.pid:
            return  # without a look at the guard: at the fork another thread may have held it, for ever
        with _guard:
            if _owned.get(self._key) is self:
                del _owned[self._key]
                os.close(self._fd)


def owner_of(folder: Path) -> int | None:
    """The id of the living process that owns the session in `folder`; None if nobody does.

    0 where the kernel cannot name it: a process on another machine, or in another container. Raises `StorageError`
    if the lock cannot be looked at.
    """
    with _guard:
        if _is_mine(str(folder.resolve())):
            return os.getpid()
        try:
            fd = os.open(folder / _LOCK_FILE, os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise StorageError(
                f"cannot look at the lock of the session in {folder}: {error.strerror}"
            ) from error
        try:
            return _holder(fd)
        finally:
            os.close(fd)


def _is_mine(key: str) -> bool:
    return key in _owned and _owned[key].pid == os.getpid()


def _lock(folder: Path) -> int:
    """A locked descriptor of the file, which says whose it is, for people."""
    path = folder / _LOCK_FILE
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StorageError(f"cannot lock the session in {folder}: {error.strerror}") from error
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    except (BlockingIOError, PermissionError) as error:
        owner = _describe(_holder(fd))
        os.close(fd)
        raise SessionBusy(f"the session in {folder} is owned by {owner}, which lives") from error
    except OSError as error:
        os.close(fd)
        raise StorageError(f"cannot lock the session in {folder}: {error.strerror}") from error
    return fd


#: `struct flock` of Linux: type, whence, start, length, process id.
_FLOCK = "hhqqi"


def _holder(fd: int) -> int | None:
    """Who holds a lock on the file: None if nobody does (in another process), 0 if the kernel cannot name it."""
    asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    kind, _, _, _, pid = struct.unpack(_FLOCK, fcntl.fcntl(fd, fcntl.F_GETLK, asked))
    return None if kind == fcntl.F_UNLCK else max(0, pid)


def _describe(pid: int | None) -> str:
    return f"process {pid}" if pid else "another process"
