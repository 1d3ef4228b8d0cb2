"""How wide a text will be, without a font at hand: generous, so that whatever sans serif a reader has fits.

The figures are the advance widths of DejaVu Sans, in hundredths of the font size, rounded up. It is among the widest
of the fonts that stand behind `sans-serif`, so the others leave some room.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from math import ceil
from typing import NamedTuple

__all__ = ["Span", "width", "wrap"]

_REGULAR = {
    28: "'ijl",
    32: "IJ ,.·",
    36: "/:;\\|f",
    42: "-()[]t!r",
    54: '"*_`sz?',
    61: "cLFkvxyP",
    64: "TYaeo$0123456789ESbdghnpqu{}",
    70: "KABVXZCR",
    79: "UNHD&GOQ",
    84: "w#+<=>^~×→",
    100: "M%mW@",
}
_BOLD = {
    37: "' ijl/\\|",
    42: ",.IJ·:;-",
    54: "f!()[]tr_`",
    60: '"*?zcs',
    70: "Lxvykae" + "EFTo$0123456789",
    74: "bdghnpquSYZCP{}",
    84: "BRAKVXUDG#+<=>HN^~×→",
    100: "OQ&w@M",
    112: "%mW",
}
_WIDTHS = [
    {letter: figure for figure, letters in table.items() for letter in letters} for table in (_REGULAR, _BOLD)
]


class Span(NamedTuple):
    """A piece of a line, and its role (see `svg`)."""

    text: str
    role: str = ""


def width(text: str, size: float, *, bold: bool = False) -> int:
    """The width (px) that a text in a font of `size` px needs at most."""
    return ceil(sum(_figure(letter, _WIDTHS[bold]) for letter in text) * size / 100)


def _figure(letter: str, table: dict[str, int]) -> int:
    known = table.get(letter)
    if known is not None:
        return known
    if unicodedata.combining(letter):
        return 0
    return 140 if ord(letter) > 0xFFFF else 112


def wrap(spans: Iterable[Span], most: int, size: float, *, bold: bool = False) -> list[tuple[Span, ...]]:
    """The spans in lines of at most `most` px, broken between words; a word that is longer is broken itself."""
    lines: list[list[Span]] = []
    room = 0
    for text, role in spans:
        for word in _words(text, most, size, bold=bold):
            need = width(word, size, bold=bold)
            space = width(" ", size, bold=bold)
            if lines and space + need <= room:
                lines[-1].append(Span(word, role))
                room -= space + need
            else:
                lines.append([Span(word, role)])
                room = most - need
    return [_joined(line) for line in lines]


def _words(text: str, most: int, size: float, *, bold: bool) -> Iterable[str]:
    glued = ""
    for word in text.split():
        if word == "/":  # it begins what follows, and never ends a line
            glued = "/ "
            continue
        piece = ""
        for letter in glued + word:
            if piece and width(piece + letter, size, bold=bold) > most:
                yield piece
                piece = ""
            piece += letter
        yield piece
        glued = ""


def _joined(words: Sequence[Span]) -> tuple[Span, ...]:
    """Words that have the same role in one span; a span that is not the last ends with its space."""
    spans: list[Span] = []
    for word in words:
        if spans and spans[-1].role == word.role:
            spans[-1] = Span(f"{spans[-1].text} {word.text}", word.role)
        else:
            if spans:
                spans[-1] = Span(spans[-1].text + " ", spans[-1].role)
            spans.append(word)
    return tuple(spans)
