"""Words for people: times, sizes, numbers, and texts from outside in a length that a page can bear."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from hubstate.server.charts import shown_number

__all__ = ["filters", "short", "size"]


def filters(wall: Callable[[], float]) -> dict[str, Callable[..., Any]]:
    """The filters of the templates."""
    return {
        "absolute": absolute,
        "ago": lambda at: _ago(at, wall()),
        "machine_time": _machine_time,
        "number": shown_number,
        "quoted": lambda text: quote(text, safe=""),
        "short": short,
        "size": size,
        "value": _value,
        "words": lambda text: str(text).replace("_", " "),
    }


def absolute(at: float | None) -> str:
    """A time in the time of the hub's place, whose zone is told; one that no calendar has is shown as its number."""
    if at is None:
        return "-"
    try:
        return dt.datetime.fromtimestamp(at).astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")
    except (OverflowError, ValueError, OSError):
        return f"{at:g}"


def short(text: object, most: int = 120) -> str:
    """A text with at most so many letters; three dots tell of the rest."""
    told = str(text)
    return told if len(told) <= most else f"{told[: most - 1]}…"


def size(number: float) -> str:
    """A size in bytes, in the unit that suits it."""
    for unit in ("bytes", "KiB", "MiB"):
        if number < 1024:
            return f"{number:.0f} {unit}" if unit == "bytes" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.2f} GiB"


def _machine_time(at: float) -> str:
    try:
        return dt.datetime.fromtimestamp(at, dt.UTC).isoformat(timespec="milliseconds")
    except (OverflowError, ValueError, OSError):
        return ""


def _ago(at: float | None, now: float) -> str:
    """The same words as in `times.js`, which goes on with them."""
    if at is None:
        return "-"
    seconds = max(0, int(now - at))
    for length, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= length:
            return f"{seconds // length} {unit} ago"
    return f"{seconds} s ago"


def _value(value: object) -> str:
    """A value of a configuration: a text as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
