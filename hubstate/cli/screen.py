"""How things look: aligned columns, colour where it is seen, times as people say them.

On a terminal lines keep to its width; in a pipe nothing is cut, nothing is coloured, and one thing is one line. What
comes from a journal or a hub is made plain first (`clean`), so that it cannot steer a terminal.
"""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple, TextIO

from hubstate.plain import clean, local, say

__all__ = ["Cell", "Screen", "ago", "clean", "local", "say", "table", "width_of"]

#: What stands between two columns, and how narrow a column may be cut.
_GAP, _LEAST = "  ", 8
_CODES = {
    "": "",
    "bold": "1",
    "dim": "2",
    "red": "31",
    "green": "32",
    "yellow": "33",
    "blue": "34",
    "cyan": "36",
}


class Screen:
    """A stream, and what it can show. `width`: the columns of a terminal, None in a pipe."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stdout if stream is None else stream
        self.terminal = self._stream.isatty()
        dumb = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
        self.colour = self.terminal and not dumb
        self.width = max(40, shutil.get_terminal_size((80, 24)).columns) if self.terminal else None

    def line(self, text: str = "") -> None:
        """Prints one line."""
        print(text, file=self._stream)

    def flush(self) -> None:
        """Hands on what was printed: a command that goes on waiting is read meanwhile."""
        self._stream.flush()

    def paint(self, text: str, style: str) -> str:
        """The text in a style (`bold`, `dim` or a colour), where that is seen."""
        code = _CODES[style]
        return f"\x1b[{code}m{text}\x1b[0m" if self.colour and code and text else text

    def wrapped(self, text: str, indent: str, first: str | None = None) -> list[str]:
        """The text in lines that fit the terminal, indented; one line in a pipe."""
        first = indent if first is None else first
        if self.width is None:
            return [first + text]
        lines = textwrap.wrap(
            text,
            self.width,
            initial_indent=first,
            subsequent_indent=indent,
            break_on_hyphens=False,
            break_long_words=False,
        )
        return lines or [first.rstrip()]


class Cell(NamedTuple):
    """What stands in one field of a table, and its style."""

    text: str
    style: str = ""


def table(
    screen: Screen,
    head: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    *,
    right: Sequence[str] = (),
    shrink: str = "",
) -> list[str]:
    """The head and the rows as aligned lines. The columns named in `right` are set to the right, as numbers are.

    Where a terminal has no room for all, the column `shrink` is cut.
    """
    widths = [max(width_of(text) for text in column) for column in _columns(head, rows)]
    if screen.width is not None and shrink in head:
        place = head.index(shrink)
        too_wide = sum(widths) + len(_GAP) * (len(widths) - 1) - screen.width
        widths[place] = max(min(widths[place], _LEAST), widths[place] - max(0, too_wide))
    lines = []
    for row in ([Cell(name, "dim") for name in head], *rows):
        fields = []
        for cell, name, width in zip(row, head, widths, strict=True):
            text = _cut(cell.text, width)
            room = " " * (width - width_of(text))
            painted = screen.paint(text, cell.style)
            fields.append(room + painted if name in right else painted + room)
        lines.append(_GAP.join(fields).rstrip())
    return lines


def _cut(text: str, width: int) -> str:
    """The text, or as much of it as there is room for."""
    if width_of(text) <= width:
        return text
    while text and width_of(text) > width - 1:
        text = text[:-1]
    return f"{text}…"


def _columns(head: Sequence[str], rows: Sequence[Sequence[Cell]]) -> list[list[str]]:
    return [[name, *(row[place].text for row in rows)] for place, name in enumerate(head)]


def width_of(text: str) -> int:
    """How many columns of a terminal a text takes."""
    return sum(
        0 if unicodedata.combining(letter) else 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        for letter in text
    )


def ago(at: float, now: float) -> str:
    """How long ago a time was, in one figure and its unit."""
    seconds = max(0.0, now - at)
    for size, word in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size:.0f} {word}"
    return f"{seconds:.0f} s"
