"""Where a session's outbox lies: beside its journal, or on this machine where the journal lies on a network share.

A journal is appended to, which works anywhere. SQLite's write-ahead log wants memory that all its users share, which
no network share gives (https://www.sqlite.org/wal.html). The outbox is made from the journal, and made anew wherever
it is missing; so on a share it lies in this user's cache folder, by a name that is made of the session's place.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from hubstate.errors import StorageError
from hubstate.settings import cache_folder

__all__ = ["discard", "is_on_a_share", "place_of"]

#: What Linux tells of its mounts (proc(5)). Elsewhere nothing does, and only Windows' names of shares are known.
MOUNTS = Path("/proc/self/mountinfo")
_SHARES = {
    "9p", "afs", "beegfs", "ceph", "cifs", "gfs2", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "ocfs2",
    "orangefs", "panfs", "pvfs2", "smb3", "smbfs", "vboxsf",
}  # fmt: skip
#: In user space lies what somebody mounted by sshfs, rclone, or a notebook's drive; but for NTFS, which is a disk.
_IN_USER_SPACE, _A_DISK = "fuse", "fuseblk"


def place_of(folder: Path) -> Path:
    """The file of the outbox of the session in `folder`. Raises `StorageError` if its own folder cannot be made."""
    if not is_on_a_share(folder):
        return folder / "outbox.sqlite"
    place = _elsewhere(folder)
    try:
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise StorageError(
            f"the outbox of {folder} cannot lie in {place.parent}: {error.strerror}"
        ) from error
    return place


def discard(folder: Path) -> None:
    """Removes what lies outside of the session's folder, now that nobody needs it. Raises `StorageError`."""
    place = _elsewhere(folder)
    try:
        for ending in ("-wal", "-shm", ""):
            place.with_name(place.name + ending).unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(f"cannot remove {place}: {error.strerror}") from error


def is_on_a_share(folder: Path) -> bool:
    """Whether a folder lies on a file system of other machines, as far as this one tells."""
    folder = folder.resolve()
    if folder.drive.startswith("\\\\"):
        return True
    try:
        told = MOUNTS.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return False
    kind, deepest = "", -1
    for line in told.splitlines():
        before, _, behind = line.partition(" - ")
        mounted = Path(_plain(before.split(" ")[4]))
        # Of two mounts at one place the later one hides the earlier.
        if folder.is_relative_to(mounted) and len(mounted.parts) >= deepest:
            kind, deepest = behind.split(" ")[0], len(mounted.parts)
    return kind in _SHARES or (kind.startswith(_IN_USER_SPACE) and kind != _A_DISK)


def _plain(text: str) -> str:
    """A path as it is; spaces and the like are told in octal digits."""
    for code in (" ", "\t", "\n", "\\"):
        text = text.replace(f"\\{ord(code):03o}", code)
    return text


def _elsewhere(folder: Path) -> Path:
    place = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:16]
    return cache_folder() / "outboxes" / f"{folder.name}-{place}.sqlite"
