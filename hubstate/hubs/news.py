"""What an answer tells beside the receipt, picked out of the `hubstate` object that it may hold.

A hub may be old, broken or hostile: each field is taken only if it is of its type and within reason, and a bad one
does not spoil its neighbours.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from hubstate.hubs.base import News

__all__ = ["heard", "text"]

#: No hub may ask for fewer messages than one a day (seconds).
LONGEST_INTERVAL = 86_400.0
LONGEST_STOP = 500
LONGEST_URL = 2_000


def heard(body: dict[str, Any] | None, hub: str, model: str | None = None) -> News:
    """The news in an answer of the hub with the address `hub`; `model` is the id that it gave just now."""
    told = None if body is None else body.get("hubstate")
    if not isinstance(told, dict):
        return News(hub=hub, model=model)
    heartbeat = _seconds(told.get("heartbeat"))
    return News(
        hub=hub,
        model=model,
        url=_url(told.get("url")),
        stop=text(told.get("stop"), LONGEST_STOP),
        metrics_interval=_seconds(told.get("metrics")),
        checkpoint_interval=_seconds(told.get("checkpoint")),
        heartbeat_interval=heartbeat or None,  # with 0 there would be nothing but signs of life
    )


def text(value: object, longest: int) -> str | None:
    """`value` if it is a text that says something, in one line of at most `longest` characters; else None."""
    if not isinstance(value, str):
        return None
    line = " ".join(value[: 4 * longest].split())
    line = "".join(letter for letter in line if letter.isprintable())
    return line[:longest] or None


def _seconds(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 <= value <= LONGEST_INTERVAL else None


def _url(value: object) -> str | None:
    if not isinstance(value, str) or len(value) > LONGEST_URL or not value.isprintable() or " " in value:
        return None
    try:
        parts = urlsplit(value)
    except ValueError:
        return None
    return value if parts.scheme in ("http", "https") and parts.hostname and not parts.username else None
