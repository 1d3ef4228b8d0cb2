"""A checkpoint as it was when it was saved.

Trainers overwrite, rewrite in place and strip their files, so a checkpoint that is kept is copied inside the
callback that announces it, while its one writer waits. The copy is a clone where the file system can share
blocks (FICLONE), else a copy made by the kernel, else by hand; never a hard link, which would change with the
original. A zip archive (what `.pt` and `.npz` files are) is looked at for its end; a torn one is no checkpoint.

A folder is one checkpoint: each file in it is copied so, and one that changed meanwhile condemns them all. Links to
files inside are copied as files, and any other link is refused (see `archive`).
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import zipfile
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from stat import S_ISREG
from typing import NamedTuple

from hubstate.archive import files_of, sha256_of
from hubstate.errors import CheckpointMissing, StorageError

__all__ = ["Snapshots", "Stat", "digest", "is_torn", "look"]

_FICLONE = 0x40049409
_BLOCK = 1 << 20
#: The signature that opens a zip archive.
_ZIP = b"PK\x03\x04"


class Stat(NamedTuple):
    """What tells one state of a file or folder from another: bytes in all, and the newest time of change in ns."""

    size: int
    mtime_ns: int


def look(path: Path) -> Stat:
    """The state of a checkpoint: of a file, or of all files in a folder.

    Raises `CheckpointMissing` if it is not there, cannot be looked at, is neither of both, or is a folder that cannot be
    kept; also for a path that no file can have.
    """
    try:
        is_folder = path.is_dir()
        stats = [file.stat() for _, file in files_of(path)] if is_folder else [path.stat()]
    except CheckpointMissing:  # it is a ValueError itself
        raise
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    if not is_folder and not S_ISREG(stats[0].st_mode):
        raise CheckpointMissing(f"the checkpoint {path} is neither a file nor a folder")
    return Stat(sum(stat.st_size for stat in stats), max(stat.st_mtime_ns for stat in stats))


def is_torn(path: Path) -> bool:
    """Whether a file begins as a zip archive and lacks its end: what a half-written `.pt` looks like.

    A folder is torn if a file in it is. Raises as `look` does, and `OSError`.
    """
    if path.is_dir():
        return any(is_torn(file) for _, file in files_of(path))
    with path.open("rb") as file:
        if file.read(len(_ZIP)) != _ZIP:
            return False
    return not zipfile.is_zipfile(path)


def digest(path: Path) -> str:
    """The SHA-256 (hex) of a file, or of the archive that a folder travels as; read in blocks."""
    return sha256_of(path)


class Snapshots:
    """The snapshots of one session, in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._needless: set[str] = set()
        #: The copies that the disk was not asked to keep yet.
        self._unsynced: deque[str] = deque()

    def holds_itself(self, source: Path) -> bool:
        """Whether `source` is a folder that these snapshots lie in: no copy of it could ever be whole.

        Raises `CheckpointMissing` if it cannot be looked at.
        """
        try:
            return source.is_dir() and self._folder.resolve().is_relative_to(source.resolve())
        except OSError as error:
            raise _unreadable(source, error) from error

    def path(self, name: str) -> Path:
        """Where the snapshot `name` lies."""
        return self._folder / name

    def take(self, source: Path, name: str) -> Path:
        """Copies `source` as it is now to the snapshot `name`; when this returns, the copy is whole.

        Raises `CheckpointMissing` if the source is gone, unreadable, torn, or changed under the copy; `StorageError` if
        the folder has no room for it. Nothing is left behind then.
        """
        making = self._folder / f".{name}.part"
        before = look(source)
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            try:
                _copy_whole(source, making)
                if look(source) != before or look(making).size != before.size:
                    raise CheckpointMissing(
                        f"the checkpoint {source} changed while it was copied; it was not kept"
                    )
                if is_torn(making):
                    raise CheckpointMissing(f"the checkpoint {source} is half a zip archive; it was not kept")
                making.replace(self.path(name))
                self._unsynced.append(name)
            finally:
                _remove(making)
        except OSError as error:
            raise StorageError(
                f"the checkpoint {source} could not be kept in {self._folder}: {error.strerror or error}"
            ) from error
        return self.path(name)

    def sync(self, name: str) -> None:
        """Asks the disk to keep the snapshot: its bytes, and their place in the folder.

        Raises `FileNotFoundError` if it was discarded meanwhile, `StorageError` if the disk could not keep it.
        """
        try:
            kept = self.path(name)
            inside = sorted(kept.rglob("*"), reverse=True) if kept.is_dir() else []
            for path in (*inside, kept, self._folder):
                fd = os.open(path, os.O_RDONLY)
                try:
                    os.fsync(fd)
                finally:
                    os.close(fd)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise StorageError(
                f"the disk did not keep the snapshot {self.path(name)}: {error.strerror}"
            ) from error

    def sync_all(self) -> None:
        """Asks the disk to keep every copy that it was not asked for yet. Raises `StorageError`; the next call tries again.

        Threads may share it. Call it before the lines that name the copies are synced: else a power cut leaves these alone.
        """
        while self._unsynced:
            try:
                name = self._unsynced.popleft()
            except IndexError:
                return  # another thread took it
            try:
                self.sync(name)
            except FileNotFoundError:
                continue  # a newer one took its place meanwhile
            except BaseException:  # Ctrl-C as well: a copy that was not kept must be asked for again
                self._unsynced.appendleft(name)
                raise

    def put_off(self, names: Iterable[str]) -> None:
        """Nobody needs these any more, once the disk keeps the line that says so: `tidy` removes them then."""
        self._needless |= set(names)

    @property
    def needless(self) -> frozenset[str]:
        """What was put off and lies here still."""
        return frozenset(self._needless)

    def tidy(self, names: Iterable[str]) -> None:
        """Removes those of `names` that are needless still. Raises `StorageError` if one cannot go."""
        try:
            for name in sorted(self._needless.intersection(names)):
                self.discard(name)
        except OSError as error:
            raise StorageError(f"cannot tidy up the snapshots in {self._folder}: {error.strerror}") from error

    def discard(self, name: str) -> None:
        """Removes a snapshot that nobody needs any more; one that is gone is no mistake."""
        self._needless.discard(name)
        path = self.path(name)
        if path.is_dir():
            # It goes at once, whatever breaks into it: half a folder must not be taken for a whole one.
            try:
                path = path.replace(self._folder / f".{name}.part")
            except FileNotFoundError:
                return  # another thread is removing it
        _remove(path)

    def sweep(self, needed: Iterable[str]) -> None:
        """Removes every half one, and puts off every other one but the `needed`. Raises `StorageError` if one cannot go.

        Who took the needed ones may have died before they were synced: they are with the next call of `sync_all`.
        """
        if not self._folder.is_dir():
            return
        keep = set(needed)
        try:
            for file in self._folder.iterdir():
                if file.name.startswith("."):
                    _remove(file)
                elif file.name in keep:
                    self._unsynced.append(file.name)
                else:
                    self.put_off((file.name,))
        except OSError as error:
            raise StorageError(f"cannot tidy up the snapshots in {self._folder}: {error.strerror}") from error


def _unreadable(path: Path, error: OSError | ValueError) -> CheckpointMissing:
    if isinstance(error, OSError):
        return CheckpointMissing(f"the checkpoint {path} cannot be read: {error.strerror or error}")
    return CheckpointMissing(
        f"the checkpoint {str(path)!r} cannot be read: no file has such a path ({error})"
    )


def _remove(path: Path) -> None:
    """Removes a file, or a folder with all that is in it; what is gone is no mistake."""
    if not path.is_dir() or path.is_symlink():
        path.unlink(missing_ok=True)
        return
    while path.exists():
        try:
            shutil.rmtree(path)
        except FileNotFoundError:
            continue  # a thread that was let go of is at it, too: something of it is gone at every turn


def _copy_whole(source: Path, target: Path) -> None:
    """Copies a file, or a folder file by file. Raises `CheckpointMissing` if the source cannot be read."""
    if not source.is_dir():
        _copy(source, target)
        return
    target.mkdir(mode=0o700)
    for name, file in files_of(source):
        copy = target / name
        copy.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        _copy(file, copy)


def _copy(source: Path, target: Path) -> None:
    try:
        original = source.open("rb")
    except OSError as error:
        raise CheckpointMissing(f"the checkpoint {source} cannot be read: {error.strerror}") from error
    with original, target.open("wb") as to:
        if _clone(original.fileno(), to.fileno()):
            return
        length = os.fstat(original.fileno()).st_size
        offset = 0
        while offset < length:
            copied = _copy_some(original.fileno(), to.fileno(), length - offset)
            if copied == 0:
                return  # the file became shorter; the caller compares
            offset += copied


def _clone(source: int, target: int) -> bool:
    """Lets the target share the source's blocks, where the file system can."""
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError:
        return False  # most file systems cannot; a copy serves
    return True


def _copy_some(source: int, target: int, count: int) -> int:
    try:
        return os.copy_file_range(source, target, count)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM):
            raise
    block = os.read(source, min(count, _BLOCK))
    view = memoryview(block)
    while view:
        view = view[os.write(target, view) :]
    return len(block)
