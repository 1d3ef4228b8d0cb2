"""What tells whether a part of a page changed: a few letters of the digest of its text."""

from __future__ import annotations

import hashlib
import re

__all__ = ["LENGTH", "digest"]

LENGTH = 8
#: What of a text changes with the hour alone: how long ago something was.
_AGO = re.compile(r"(<time [^>]*>)[^<]*")


def digest(text: str) -> str:
    """The digest of a text, but for how long ago something was."""
    return hashlib.sha256(_AGO.sub(r"\1", text).encode()).hexdigest()[:LENGTH]
