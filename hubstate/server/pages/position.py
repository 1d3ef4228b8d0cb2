"""How far a session's page is: `GENERATION.ROWS.DIGESTS`.

Of the curves, which generation up to which row (see `curves`); and of each part of the page a few letters of its digest,
in the order of `PARTS`.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from hubstate.server.pages.digests import LENGTH, digest

__all__ = ["PARTS", "Position", "position_of"]

#: The parts of a session's page, each a template of its own and an element of the page.
PARTS = (
    "name",
    "strip",
    "facts",
    "stop",
    "machine",
    "checkpoints",
    "attempts",
    "rows",
    "journal",
    "console",
    "usage",
)


class Position(NamedTuple):
    """How far a session's page is."""

    generation: str = ""
    rows: int = 0
    digests: tuple[str, ...] = ()

    @classmethod
    def read(cls, text: str) -> Position:
        """Reads a position; one that makes no sense is the beginning."""
        found = re.fullmatch(r"([0-9a-f]{1,32})\.([0-9]{1,15})\.([0-9a-f]*)", text)
        if found is None:
            return cls()
        digests = tuple(found[3][at : at + LENGTH] for at in range(0, len(found[3]), LENGTH))
        return cls(found[1], int(found[2]), digests if len(digests) == len(PARTS) else ())

    def __str__(self) -> str:
        return f"{self.generation}.{self.rows}.{''.join(self.digests)}"


def position_of(generation: str, rows: int, texts: dict[str, str]) -> Position:
    """The position of a page that shows these parts."""
    return Position(generation, rows, tuple(digest(texts[name]) for name in PARTS))
