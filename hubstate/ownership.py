"""Who owns a session: one living process at most.

Ownership is a lock on a file, taken by `fcntl.lockf`: the kernel lets go of it when the process dies, however it
dies, and a forked child does not inherit it (`flock` would stay with a DataLoader worker after its owner died).
Such a lock has a trap: closing *any* descriptor of the file lets go of it. So the file is opened once in a process,
and a list of what this process owns answers before the file is touched.
"""

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path

from hubstate.errors import SessionBusy, StorageError

__all__ = ["Ownership", "owner_of"]

_LOCK_FILE = "owner.lock"
_guard = threading.Lock()
#: What this process owns: folder -> (process id, descriptor). A forked child sees another process id.
_owned: dict[str, tuple[int, int]] = {}


class Ownership:
    """This process owns the session in `folder` until `release`.

    Raises `SessionBusy` naming the process that owns it, `StorageError` if the folder takes no lock.
    """

    def __init__(self, folder: Path) -> None:
        self._key = str(folder.resolve())
        self.pid = os.getpid()
        with _guard:
            if self._key in _owned and _owned[self._key][0] == self.pid:
                raise SessionBusy(f"the session in {folder} is open in this process (pid {self.pid}) already")
            fd = _lock(folder)
            if fd is None:
                raise SessionBusy(
                    f"the session in {folder} is owned by {_describe(_written_pid(folder))}, which lives"
                )
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{self.pid}\n".encode(), 0)
            _owned[self._key] = (self.pid, fd)

    def release(self) -> None:
        """Lets another process own the session. In a forked child it does nothing."""
        with _guard:
            pid, fd = _owned.get(self._key, (0, -1))
            if pid == os.getpid():
                del _owned[self._key]
                os.close(fd)


def owner_of(folder: Path) -> int | None:
    """The id of the living process that owns the session in `folder`; None if nobody does.

    0 where a process on another machine owns it, or one that has not written its id yet.
    """
    with _guard:
        pid, _ = _owned.get(str(folder.resolve()), (0, -1))
        if pid == os.getpid():
            return pid
        if not (folder / _LOCK_FILE).exists():
            return None
        fd = _lock(folder)
        if fd is None:
            return _written_pid(folder)
        os.close(fd)
        return None


def _lock(folder: Path) -> int | None:
    """A locked descriptor, or None if another process holds the lock."""
    path = folder / _LOCK_FILE
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StorageError(f"cannot lock the session in {folder}: {error.strerror}") from error
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        os.close(fd)
        return None
    except OSError as error:
        os.close(fd)
        raise StorageError(f"cannot lock the session in {folder}: {error.strerror}") from error
    return fd


def _written_pid(folder: Path) -> int:
    text = (folder / _LOCK_FILE).read_text(encoding="ascii", errors="replace").strip()
    return int(text) if text.isdigit() else 0


def _describe(pid: int) -> str:
    return f"process {pid}" if pid else "another process"
