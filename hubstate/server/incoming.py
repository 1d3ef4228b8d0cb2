"""What all that lies in `incoming/` has in common: its name, how it is written, and how long it may lie there."""

from __future__ import annotations

import os
import re
import secrets

__all__ = ["LIFETIME", "is_name", "new_name", "write_all"]

#: How long something lies there of which nothing was heard (seconds).
LIFETIME = 86_400.0
_NAME = re.compile(r"[0-9a-f]{32}")


def new_name() -> str:
    """A name that nobody else has, and that nobody can guess."""
    return secrets.token_hex(16)


def is_name(text: str) -> bool:
    """Whether a text from outside is such a name; only then it may be part of a path."""
    return _NAME.fullmatch(text) is not None


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Writes all of it, however little the system takes at a time. Raises `OSError`."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]
