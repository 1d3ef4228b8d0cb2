"""One at a time: a hub's folder belongs to the one process that holds the lock on `hub.lock` in it.

A second hub would sweep away the uploads of the first; a restore or a change of the tables would pull the ground from
under it. The lock goes with the process that holds it, whatever ends that.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from hubstate.errors import StorageError

__all__ = ["alone"]


@contextlib.contextmanager
def alone(data_dir: Path) -> Iterator[None]:
    """Holds the folder while the block lasts. Raises `StorageError` if another process does, or it takes no lock."""
    try:
        fd = os.open(data_dir / "hub.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StorageError(f"cannot use {data_dir / 'hub.lock'}: {error.strerror}") from error
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StorageError(
                f"another hub runs over {data_dir}: stop it, or name another folder"
            ) from error
        yield
    finally:
        os.close(fd)
