"""Where this user's sessions lie, whatever working directory they began in.

One small file per session in the user's data folder, named by the session's id, holding the path of its folder.
A session is found through it or by looking into a directory that is named. The index is a convenience: a session
whose folder is gone is skipped, and one that could not be entered is still found in its own directory.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from hubstate.errors import StorageError

__all__ = ["Index", "sessions_in"]


class Index:
    """The index in `folder` (made when something is entered)."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def enter(self, session: str, where: Path) -> None:
        """Notes that the session lies in the folder `where`. Raises `StorageError` if it cannot be noted."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            making = self._folder / f".{session}"
            making.write_bytes(os.fsencode(where.absolute()) + b"\n")
            making.replace(self._folder / session)
        except OSError as error:
            raise StorageError(f"cannot note the session in {self._folder}: {error.strerror}") from error

    def remove(self, session: str) -> None:
        """Forgets where the session lies; one that is not noted is no mistake. Raises `StorageError`."""
        try:
            (self._folder / session).unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(f"cannot forget the session in {self._folder}: {error.strerror}") from error

    def folders(self) -> Iterator[Path]:
        """The folders of the sessions that still exist, oldest first (ids sort by time)."""
        return (where for _, where in self.entries())

    def entries(self) -> Iterator[tuple[str, Path]]:
        """The same with the names under which they were entered."""
        if not self._folder.is_dir():
            return
        for entry in sorted(self._folder.iterdir()):
            if entry.name.startswith("."):
                continue
            try:
                text = entry.read_bytes()
            except OSError:
                continue  # it was removed just now, or is nobody's entry: such a session is found in its directory
            where = Path(os.fsdecode(text.removesuffix(b"\n")))
            if where.is_absolute() and where.is_dir():
                yield entry.name, where


def sessions_in(directory: Path) -> Iterator[Path]:
    """The session folders of one directory, such as `.hubstate/`, oldest first. Hidden ones are on their way out.

    A folder whose journal has no whole line, and that keeps no copy of anything, is none yet: it is being made, or its
    maker was killed over it.
    """
    if directory.is_dir():
        for folder in sorted(directory.iterdir()):
            if folder.name.startswith(".") or not folder.is_dir():
                continue
            if any(map(_has_a_line, folder.glob("journal-*"))) or (folder / "snapshots").exists():
                yield folder


def _has_a_line(segment: Path) -> bool:
    """Whether a segment of a journal has a whole line; one that cannot be read may have, and whoever reads it will say."""
    try:
        with segment.open("rb") as file:
            return segment.suffix == ".gz" or file.readline().endswith(b"\n")
    except OSError:
        return True  # as well where it was compressed just now
