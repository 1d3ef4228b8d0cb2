"""Names as MLflow takes them, and back: each name has one that MLflow takes, and no two have the same.

MLflow takes letters, digits, `_`, `-`, `.`, spaces and `/`, at most 250 of them, and no name that would be another one if
it were a path (`a//b`, `./a`). Newer servers take `:`, too; older ones and those on Windows do not, so it is none here. A
name that it takes stays as it is. In any other one, what it does not take is written so:

- a word in parentheses, as Ultralytics has it, between double dashes: `metrics/mAP50(B)` is `metrics/mAP50--B--`;
- anything else as `--.HEX--`, its code points: `50%` is `50--.25--`. A name that holds `--` itself has one there, too;
- the beginning of a name that would be taken for one of ours (`step/`, `final/`, `hubstate`): see `AXES`.

What is too long even so is cut, and ends in a part of its SHA-256: such a name cannot be read back, and a tag tells it.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
import sys

__all__ = ["AXES", "LONGEST", "OURS", "readable", "taken"]

#: The longest name that leaves (characters): a tag that tells of it has a name that is longer.
LONGEST = 220
#: What stands before the name of a metric of a single step, and of the final evaluation. An epoch's has nothing.
AXES = ("step/", "final/")
#: What stands before the names that are ours.
OURS = "hubstate"

_FINE = re.compile(r"[/\w.\- ]+\Z")
_WORD = re.compile(r"\(([A-Za-z0-9_]+)\)")
_MARK = re.compile(r"--(?:\.((?:[0-9a-f]+(?:_[0-9a-f]+)*)?)|([A-Za-z0-9_]+))--")
_CUT = re.compile(r"--\.\.[0-9a-f]{16}\Z")


def taken(name: str) -> str:
    """The name that MLflow takes for `name`; the same one where it takes that."""
    if _stays(name):
        return name
    told = _written(name)
    if len(told) <= LONGEST:
        return told
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    # A cut may leave half a mark, a slash or a dash at the end: none of them may run into what follows.
    return f"{_FINE_END.sub('', told[: LONGEST - 30])}--..{digest}"


_FINE_END = re.compile(r"(?:--\.?[0-9a-f_]*|[-/. ]+)\Z")


def readable(name: str) -> str | None:
    """The name that `taken` made this one of; None if only a tag can tell, because it was too long."""
    if _CUT.search(name):
        return None
    return _MARK.sub(_read, name)


def _read(mark: re.Match[str]) -> str:
    codes, word = mark.groups()
    if codes is None:
        return f"({word})"
    points = [int(code, 16) for code in codes.split("_") if code]
    # What is no letter was not written here, and stays as it is.
    return mark[0] if any(point > sys.maxunicode for point in points) else "".join(map(chr, points))


def _stays(name: str) -> bool:
    return (
        len(name) <= LONGEST
        and _FINE.match(name) is not None
        and "--" not in name
        and not name.startswith((*AXES, OURS))
        and not name[0].isspace()
        and not name[-1].isspace()
        and not _is_another_path(name)
    )


def _is_another_path(name: str) -> bool:
    """Whether a name is not what it is as a path; MLflow refuses those, whatever keeps its runs."""
    return posixpath.normpath(name) != name or name.startswith(("..", "/")) or name == "."


def _written(name: str) -> str:
    """The name with everything in marks that cannot stay. An empty name is a mark of nothing."""
    if not name:
        return "--.--"
    parts: list[str] = []
    # Our own words are no longer that if their first letter is written as a mark.
    place = 1 if name.startswith((*AXES, OURS)) else 0
    pending = [name[0]] if place else []
    while place < len(name):
        word = _WORD.match(name, place)
        if word and not pending:
            _end_plainly(parts)
            parts.append(f"--{word.group(1)}--")
            place = word.end()
            continue
        letter = name[place]
        if _can_stand(letter, name, place):
            _flush(parts, pending)
            parts.append(letter)
        else:
            pending.append(letter)
        place += 1
    _flush(parts, pending)
    return "".join(parts)


def _can_stand(letter: str, name: str, place: int) -> bool:
    """Whether a letter of a name can stay as it is, by what stands beside it."""
    before, after = name[place - 1 : place], name[place + 1 : place + 2]
    if not _FINE.match(letter):
        return False
    match letter:
        case "/":  # none at an end, nor behind another one
            return before not in ("", "/") and after != ""
        case "-":  # alone only: two are a mark
            return "-" not in (before, after)
        case ".":  # no part of a path may be `.` or `..`
            return (before + after).strip("/.") != ""
        case " ":
            return before != "" and after != ""
        case _:
            return not letter.isspace()


def _flush(parts: list[str], pending: list[str]) -> None:
    """Writes what cannot stay as one mark."""
    if pending:
        _end_plainly(parts)
        parts.append(f"--.{'_'.join(f'{ord(letter):x}' for letter in pending)}--")
        pending.clear()


def _end_plainly(parts: list[str]) -> None:
    """A dash right before a mark would be read as a part of it, so it is one itself."""
    if parts and parts[-1] == "-":
        parts[-1] = "--.2d--"
