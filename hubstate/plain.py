"""What others wrote (a name, a reason, a metric), made plain before people see it.

A terminal obeys what it is shown: one escape letter in a session's name repaints the screen, or worse. So whatever
comes from a caller, a journal or a hub is shown without letters that steer; each becomes a mark that shows it was there.
"""

from __future__ import annotations

import sys
from collections.abc import MutableMapping
from contextlib import suppress
from datetime import datetime
from typing import Any

__all__ = ["clean", "clean_fields", "clean_lines", "local", "say", "to_stderr"]


def clean(text: object) -> str:
    """A text in one line, without what would steer a terminal or draw nothing."""
    return _marked(" ".join(str(text).split()))


def clean_lines(text: object) -> str:
    """The same for a text whose own spaces and line breaks are meant."""
    return "\n".join(_marked(line) for line in str(text).split("\n"))


def clean_fields(_logger: object, _method: str, fields: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """The fields of a line of the log, each in one line; a processor of structlog."""
    return {
        name: clean(value) if isinstance(value, str) and not value.isprintable() else value
        for name, value in fields.items()
    }


def local(at: float, form: str = "seconds") -> str:
    """A time (s since 1970) in this place's time, as exact as `form` says (`seconds`, `milliseconds`).

    A journal may tell one that no calendar has: that is shown as its number.
    """
    try:
        return datetime.fromtimestamp(at).astimezone().isoformat(" ", form)
    except (OverflowError, ValueError, OSError):
        return f"{at:g} (no date)"


def say(text: object) -> None:
    """A message for the person at the terminal: to stderr, because stdout is for data."""
    to_stderr(f"hubstate: {clean(text)}")


def to_stderr(line: str) -> None:
    """Writes a line to stderr, if anybody is there to read it. It never raises."""
    stream = sys.stderr
    if stream is None:
        return  # a process without a console; `print` would take stdout, which is for data
    # Who reads stderr may be gone (a pipe, a terminal that hung up), the disk behind it full, or the stream closed (a
    # ValueError). A message is the least of a training: it ends none, and what it told stands in the journal too.
    with suppress(OSError, ValueError):
        stream.write(f"{line}\n")
        stream.flush()


def _marked(line: str) -> str:
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in line)
