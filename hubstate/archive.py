"""A folder as one stream of bytes: a tar archive that is never written to this disk, and always the same.

Names are sorted, times, owners and modes are fixed, and nothing is packed, so equal folders give equal bytes and one
SHA-256, at every try and on every machine; and since the length of every part is known beforehand, reading can begin at
any byte. Only files are held: an empty folder inside is not. `Content` reads a file or such a folder by the same words.

Unpacking trusts nobody: only plain files are taken, under relative names that stay inside, and what was unpacked must
give the archive again, byte for byte.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Self

from hubstate.errors import CheckpointMissing, StorageError

__all__ = ["MOST_FILES", "Content", "Shrunk", "files_of", "sha256_of", "unpack"]

#: A folder with more files than this is no checkpoint.
MOST_FILES = 10_000
#: Nor is one with folders that lie deeper than this.
_DEEPEST = 50
_BLOCK = 1 << 20
#: An archive ends with two empty blocks, and is filled up to a multiple of this many bytes.
_RECORD = tarfile.RECORDSIZE


def files_of(folder: Path) -> list[tuple[str, Path]]:
    """The files in a folder, by their names relative to it (with `/`), in order. Links to files inside are files.

    Raises `CheckpointMissing` for a folder without files, with too many, or with what cannot be kept: a link that leads
    out of it or to another folder, a pipe, a device.
    """
    try:
        root = _real(folder)
        found = list(_walk(folder, root, ""))
    except OSError as error:
        raise CheckpointMissing(f"the checkpoint {folder} cannot be read: {error.strerror}") from error
    if not found:
        raise CheckpointMissing(f"the checkpoint {folder} is a folder without a file")
    return sorted(found)


def _real(path: Path) -> Path:
    """Where a path leads; `Path.resolve` would raise RuntimeError for links that lead to each other, and this `OSError`."""
    return Path(os.path.realpath(path, strict=True))


def _walk(folder: Path, root: Path, within: str) -> Iterator[tuple[str, Path]]:
    count = 0
    if within.count("/") > _DEEPEST:
        raise CheckpointMissing(
            f"the checkpoint {root} holds folders that lie deeper than {_DEEPEST}: is it one?"
        )
    with os.scandir(folder) as entries:
        for entry in entries:
            name, path = f"{within}{entry.name}", Path(entry.path)
            if entry.is_symlink():
                target = _real(path)
                if not target.is_relative_to(root) or not target.is_file():
                    raise CheckpointMissing(
                        f"the checkpoint {root} holds the link {name}, which leads out of it or to no file"
                    )
                found = [(name, path)]
            elif entry.is_dir(follow_symlinks=False):
                found = list(_walk(path, root, f"{name}/"))
            elif entry.is_file(follow_symlinks=False):
                found = [(name, path)]
            else:
                raise CheckpointMissing(f"the checkpoint {root} holds {name}, which is no file")
            count += len(found)
            if count > MOST_FILES:
                raise CheckpointMissing(
                    f"the checkpoint {root} holds more than {MOST_FILES:,} files: is it one?"
                )
            yield from found


class Shrunk(OSError):
    """A file ended before the length that it had when it was opened."""


class Content:
    """The bytes of a file, or of a folder as an archive, from any place on. `size` is told when it is opened.

    What grows afterwards is not read; what shrinks raises `Shrunk` when its place comes. Opening raises `OSError`, or
    `CheckpointMissing` as `files_of` does.
    """

    def __init__(self, path: Path) -> None:
        self._parts: list[tuple[int, bytes | Path]] = []
        self._open: tuple[int, int] | None = None
        self._at = 0
        self._part = 0
        if path.is_dir():
            self._lay_out(path)
        else:
            self._parts.append((path.stat().st_size, path))
            self._file(0)  # what cannot be opened is told now
        self.size = sum(size for size, _ in self._parts)

    def _lay_out(self, folder: Path) -> None:
        for name, path in files_of(folder):
            info = tarfile.TarInfo(name)
            info.size = path.stat().st_size
            info.mode = 0o644
            head = info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
            rest = -info.size % tarfile.BLOCKSIZE
            self._parts += [(len(head), head), (info.size, path), (rest, bytes(rest))]
        length = sum(size for size, _ in self._parts) + 2 * tarfile.BLOCKSIZE
        end = 2 * tarfile.BLOCKSIZE + -length % _RECORD
        self._parts.append((end, bytes(end)))

    def seek(self, offset: int) -> None:
        """Goes on from the byte `offset`, 0 to `size`."""
        self._part = 0
        while self._part < len(self._parts) and offset >= self._parts[self._part][0]:
            offset -= self._parts[self._part][0]
            self._part += 1
        self._at = offset

    def read(self, size: int) -> bytes:
        """The next bytes, at most `size`; empty at the end alone."""
        while self._part < len(self._parts):
            length, what = self._parts[self._part]
            if self._at >= length:
                self._part, self._at = self._part + 1, 0
                continue
            size = min(size, length - self._at)
            if isinstance(what, bytes):
                piece = what[self._at : self._at + size]
            else:
                piece = os.pread(self._file(self._part), size, self._at)
                if not piece and size:
                    raise Shrunk(f"{what.name} ends at {self._at} bytes, and had {length} at first")
            self._at += len(piece)
            return piece
        return b""

    def _file(self, part: int) -> int:
        if self._open is None or self._open[0] != part:
            self.close()
            path = self._parts[part][1]
            assert isinstance(path, Path)
            self._open = part, os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        return self._open[1]

    def close(self) -> None:
        """Lets go of the file that is open; reading opens it again."""
        if self._open is not None:
            os.close(self._open[1])
            self._open = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def sha256_of(path: Path) -> str:
    """The SHA-256 (hex) of a file, or of a folder's archive, read in blocks. Raises `OSError` as `Content` does."""
    sha256 = hashlib.sha256()
    with Content(path) as content:
        while block := content.read(_BLOCK):
            sha256.update(block)
    return sha256.hexdigest()


def unpack(archive: Path, folder: Path, sha256: str) -> None:
    """Makes the new `folder` out of an archive with this SHA-256 (hex), which `Content` made of a folder before.

    Raises `StorageError` for what is no such archive, or if this disk does not take it; then no folder is left.
    """
    folder.mkdir(mode=0o700)
    try:
        try:
            _unpack(archive, folder)
            _check_same(folder, sha256, archive.name)
        except (tarfile.TarError, CheckpointMissing, ValueError) as error:
            raise StorageError(f"{archive.name} is no archive of a checkpoint: {error}") from error
        except StorageError:
            raise  # it is an OSError too, and says better what is wrong
        except OSError as error:
            raise StorageError(
                f"the checkpoint could not be unpacked to {folder}: {error.strerror or error}"
            ) from error
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _check_same(folder: Path, sha256: str, name: str) -> None:
    if sha256_of(folder) != sha256:
        raise StorageError(f"{name} is no archive that hubstate made: its folder gives another one")


def _unpack(archive: Path, folder: Path) -> None:
    left = archive.stat().st_size
    with tarfile.open(archive, "r:", encoding="utf-8", errors="surrogateescape") as members:
        for count, member in enumerate(members, 1):
            left -= member.size
            if count > MOST_FILES or left < 0:
                raise StorageError(f"{archive.name} holds more than an archive of its size can")
            if member.type != tarfile.REGTYPE or member.sparse is not None or not _is_inside(member.name):
                raise StorageError(
                    f"{archive.name} holds {member.name[:200]!r}, which is no file of a checkpoint"
                )
            source = members.extractfile(member)
            assert source is not None, "it is a plain file"
            target = folder / member.name
            target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with source, target.open("xb") as made:
                shutil.copyfileobj(source, made, _BLOCK)


def _is_inside(name: str) -> bool:
    """Whether a member's name is a plain relative one: no root, no way up, nothing odd."""
    parts = PurePosixPath(name).parts
    return (
        bool(parts) and "/".join(parts) == name and ".." not in parts and parts[0] != "/" and "\0" not in name
    )
