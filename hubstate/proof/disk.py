"""The disk of a simulated machine: real files, and all that may go wrong with them.

A `Disk` stands where the module `os` stands for the journal and the snapshots, so that the real code writes real
files through it. It fails when it is told to: it is full, takes half a line, or cannot keep what it took. It knows
what it was asked to keep (`fsync`) and when, so that a power cut can take what nobody asked it to keep: the tail of
a segment, a file, a name in a folder. The kernel writes everything down by itself after a while, as a real one does.

When the process on it is killed, every call raises `Killed` from then on: whatever the code would still do while the
exception passes through it (closing, cutting back), a process that is dead does not do.
"""

from __future__ import annotations

import errno
import math
import os
import random
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from hubstate import journal, snapshots

__all__ = ["WRITTEN_BACK", "Disk", "Killed", "mounted"]

#: After so long the kernel has written down what nobody asked it to (seconds).
WRITTEN_BACK = 30.0


class Killed(BaseException):
    """The process is gone, by kill -9 or with the power. Nothing in the package under test may catch it."""


class _File:
    """What is known of one file: when it was made, how long it was when, and how much of it is safe."""

    def __init__(self, made: float) -> None:
        self.made = made
        self.named = False
        self.synced = 0
        self.sizes: list[tuple[float, int]] = []

    def safe(self, now: float) -> int:
        """How many bytes survive a power cut at `now`, whatever happens."""
        old = [size for at, size in self.sizes if at <= now - WRITTEN_BACK]
        return max(self.synced, old[-1] if old else 0)

    def cut(self, length: int) -> None:
        """It is no longer than that any more, and what was there is forgotten."""
        self.synced = min(self.synced, length)
        self.sizes = [(at, min(size, length)) for at, size in self.sizes]


class Disk:
    """Stands where `os` stands. `mood`: `well`, `full`, `short`, `failing` (EIO) or `forgetful` (fsync fails).

    `now` tells the time in seconds; `struck` is called with the name of each fault that happened. `kill_at`: the
    number of the write into a journal at which the process dies, and how: `before`, `torn` or `after` it.
    """

    def __init__(
        self, chance: random.Random, now: Callable[[], float], struck: Callable[[str], None]
    ) -> None:
        self.mood = "well"
        self.kill_at: tuple[int, str] | None = None
        self.dead = False
        #: The files and folders that a power cut took, whole or in part.
        self.taken: set[Path] = set()
        #: What was asked to be kept before what it builds on, in words; empty if nothing ever was.
        self.disorder = ""
        #: When a sync failed the last time.
        self.failed_sync = -math.inf
        self._chance = chance
        self._now = now
        self._struck = struck
        self._files: dict[str, _File] = {}
        self._fds: dict[int, str] = {}
        self._lines = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    # -- what the code under test calls ------------------------------------------------------------------

    def open(self, path: str | os.PathLike[str], flags: int, mode: int = 0o777) -> int:
        """As `os.open`; a full disk makes no file."""
        self._alive()
        if flags & os.O_CREAT and self.mood in ("full", "failing"):
            self._fail("no file can be made")
        fd = os.open(path, flags, mode)
        name = os.path.realpath(path)
        self._fds[fd] = name
        if flags & os.O_CREAT:
            self._files[name] = _File(self._now())
        return fd

    def close(self, fd: int) -> None:
        """As `os.close`."""
        self._fds.pop(fd, None)
        os.close(fd)

    def fdopen(self, fd: int, mode: str) -> IO[Any]:
        """As `os.fdopen`: from now on the file object closes it."""
        self._fds.pop(fd, None)
        return os.fdopen(fd, mode)

    def write(self, fd: int, data: bytes) -> int:
        """As `os.write`: whole, or half, or not at all."""
        self._alive()
        name = self._fds.get(fd, "")
        dying = ""
        if name.endswith(".jsonl"):
            self._lines += 1
            if self.kill_at is not None and self._lines >= self.kill_at[0]:
                dying = self.kill_at[1]
        if dying:
            self._struck(f"killed {dying} a line")
            half = {"before": 0, "torn": self._chance.randrange(len(data)), "after": len(data)}[dying]
            os.write(fd, data[:half])
            self._grown(fd)  # the kernel outlives the process, and writes it down in its time
            self.die()
        if self.mood == "short" and len(data) > 1:
            self._struck("short write")
            written = os.write(fd, data[: self._chance.randrange(1, len(data))])
        elif self.mood in ("full", "failing", "short"):
            self._fail("failing write" if self.mood == "failing" else "full disk")
        else:
            written = os.write(fd, data)
        self._grown(fd)
        return written

    def copy_file_range(self, source: int, target: int, count: int) -> int:
        """As `os.copy_file_range`; a full disk takes nothing."""
        self._alive()
        if self.mood in ("full", "short", "failing"):
            self._fail("no room for a copy")
        copied = os.copy_file_range(source, target, count)
        place = Path(f"/proc/self/fd/{target}").readlink()
        for number, part in enumerate(place.parts):
            if part.endswith(".part"):  # the copy is moved to its place as soon as it is whole
                top = Path(*place.parts[:number], part[1:].removesuffix(".part"))
                place = top.joinpath(*place.parts[number + 1 :])
                for folder in (parent for parent in place.parents if parent.is_relative_to(top)):
                    self._files.setdefault(str(folder), _File(self._now()))
        file = self._files[str(place)] = _File(self._now())
        file.sizes.append((self._now(), os.fstat(target).st_size))
        return copied

    def ftruncate(self, fd: int, length: int) -> None:
        """As `os.ftruncate`; a disk that fails fails here too, sometimes."""
        self._alive()
        if self.mood == "failing" and self._chance.random() < 0.5:
            self._fail("a line cannot be cut back")
        os.ftruncate(fd, length)
        self._files.setdefault(self._fds.get(fd, ""), _File(self._now())).cut(length)
        self._grown(fd)

    def fsync(self, fd: int) -> None:
        """As `os.fsync`; from now on a power cut spares what was there."""
        self._alive()
        if self.mood == "forgetful":
            self.failed_sync = self._now()
            self._fail("failing fsync")
        os.fsync(fd)
        name = self._fds.get(fd, "")
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            for inside, file in self._files.items():
                file.named |= inside.rpartition("/")[0] == name
        else:
            self._files.setdefault(name, _File(self._now())).synced = os.fstat(fd).st_size
            if name.endswith(".jsonl"):
                self._see_to_order(Path(name))

    def _see_to_order(self, segment: Path) -> None:
        """A segment of a journal builds on the earlier ones: a power cut must not take their ends and leave this one."""
        for earlier in segment.parent.glob("journal-*.jsonl"):
            file = self._files.get(str(earlier))
            if earlier.name < segment.name and file and file.safe(self._now()) < earlier.stat().st_size:
                session = segment.parent.name
                self.disorder = f"the disk was asked to keep {segment.name} of {session}, and not the end of {earlier.name}"

    def asked_to_keep(self, path: Path) -> int:
        """How many bytes of a file somebody asked it to keep."""
        file = self._files.get(os.path.realpath(path))
        return 0 if file is None else file.synced

    # -- what the world does to it -----------------------------------------------------------------------

    def die(self) -> None:
        """The process is gone. Raises `Killed`, now and at every later call."""
        self.dead = True
        raise Killed

    def reborn(self) -> None:
        """Another process begins, with nothing of the last one but its files."""
        for fd in self._fds:
            os.close(fd)
        self._fds.clear()
        self.dead = False
        self.kill_at = None
        self._lines = 0

    def unasked(self, path: Path) -> float:
        """For how long a part of a file waits that nobody asked the disk to keep (seconds); the kernel may have kept it."""
        file = self._files.get(os.path.realpath(path))
        since = () if file is None else (at for at, size in file.sizes if size > file.synced)
        return max((self._now() - at for at in since), default=0.0)

    def cut_power(self, folders: list[Path]) -> None:
        """The power fails: of the sessions in `folders` survives what is safe, and by luck a part of the rest."""
        for folder in folders:
            for path in sorted(folder.glob("journal-*.jsonl")):
                self._cut(path)
            for path in sorted((folder / "snapshots").glob("*")):
                self._cut(path)
            luck = self._chance.randrange(3)
            if luck == 0:
                _remove(folder, "outbox.sqlite", "outbox.sqlite-wal", "outbox.sqlite-shm")
            elif luck == 1:
                _remove(folder, "outbox.sqlite-wal", "outbox.sqlite-shm")

    def _cut(self, path: Path) -> None:
        file = self._files.get(os.path.realpath(path), _File(self._now()))
        named = file.named or self._now() - file.made > WRITTEN_BACK
        if not named and self._chance.random() < 0.5:
            self._struck("a file lost with the power")
            self.taken.add(path)
            _remove(path.parent, path.name)
        elif path.is_dir():
            inside = self.taken.copy()
            for each in sorted(path.iterdir()):
                self._cut(each)
            if self.taken != inside:
                self.taken.add(path)
        else:
            self._cut_bytes(path, file.safe(self._now()))

    def _cut_bytes(self, path: Path, safe: int) -> None:
        size = path.stat().st_size
        if size > safe:
            left = self._chance.randint(safe, size)
            if left < size:
                self._struck("unsynced bytes lost with the power")
                self.taken.add(path)
            os.truncate(path, left)
            if (file := self._files.get(os.path.realpath(path))) is not None:
                file.cut(left)

    def _grown(self, fd: int) -> None:
        name = self._fds.get(fd, "")
        if name in self._files:
            self._files[name].sizes.append((self._now(), os.fstat(fd).st_size))

    def _alive(self) -> None:
        if self.dead:
            raise Killed

    def _fail(self, what: str) -> None:
        self._struck(what)
        number = errno.EIO if self.mood in ("failing", "forgetful") else errno.ENOSPC
        raise OSError(number, os.strerror(number))


def _remove(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


@contextmanager
def mounted(disk: Disk) -> Iterator[None]:
    """While it lasts, the journal and the snapshots write through `disk`."""
    for room in (journal, snapshots):
        room.__dict__["os"] = disk
    try:
        yield
    finally:
        for room in (journal, snapshots):
            room.__dict__["os"] = os
