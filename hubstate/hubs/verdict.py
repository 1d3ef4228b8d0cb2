"""What an answer means for a delivery: that it counts, that it never will, or that it does not yet.

Only a JSON object under a 2xx status counts. A page of HTML under 200 comes from whoever sits between (a hotel's
network, a proxy), a redirect of a write loses the body on its way, and an error of the server's own says nothing
about what was sent. So all these are repeated; a 4xx alone is an answer to what was sent, and final.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from hubstate.hubs.base import Declined, Delayed

__all__ = ["LONGEST_RETRY_AFTER", "Answer", "date_of", "judge", "message_of", "retry_after"]

#: No hub holds a delivery up for longer than this (seconds).
LONGEST_RETRY_AFTER = 3_600.0
#: What is longer is no message for people but a page.
_LONGEST_MESSAGE = 300
_PASSING = {408, 425}


class Answer(NamedTuple):
    """An answer, read to its end. `body` is None if it is no JSON object; then `text` is how it begins.

    `whole` tells whether the request had left to its end before; if not, the answer acknowledges nothing.
    """

    status: int
    headers: Mapping[str, str]
    body: dict[str, Any] | None
    whole: bool = True
    text: str = ""


def judge(answer: Answer, hub: str, now: float) -> dict[str, Any] | Declined | Delayed:
    """The body of an answer that counts, else what became of the delivery.

    `hub` names the hub in the reasons; `now` is the wall time (seconds since 1970).
    """
    status = answer.status
    said = message_of(answer)
    match status:
        case _ if 200 <= status < 300:
            return _success(answer, hub, said)
        case _ if 300 <= status < 400:
            return Delayed("hub_failing", _redirect(answer, hub), status)
        case 401 | 403:
            return Delayed("credentials_rejected", said or f"{hub} does not accept the API key", status)
        case 429:
            return Delayed(
                "rate_limited", said or f"{hub} asks for a pause", status, retry_after(answer, now)
            )
        case 503:
            return Delayed("hub_failing", _failing(status, hub, said), status, retry_after(answer, now))
        case 422 if answer.body is not None and answer.body.get("error") == "digest_mismatch":
            return Delayed("hub_failing", f"other bytes arrived at {hub} than were sent", status)
        case _ if 400 <= status < 500 and status not in _PASSING:
            return Declined(said or _phrase(status), status)
        case _:
            return Delayed("hub_failing", _failing(status, hub, said), status)


def _success(answer: Answer, hub: str, said: str) -> dict[str, Any] | Delayed:
    if answer.body is None:
        reason = f"{hub} answered {answer.status} without a JSON object: is something else in between?"
        return Delayed("hub_failing", reason, answer.status)
    if not answer.whole:
        reason = f"{hub} answered {answer.status} before it had everything"
        return Delayed("hub_failing", reason, answer.status)
    if answer.body.get("success") is False:
        reason = f"{hub} answered {answer.status}, and no success" + (f": {said}" if said else "")
        return Delayed("hub_failing", reason, answer.status)
    return answer.body


def message_of(answer: Answer) -> str:
    """What the hub says to people, if it is a short text; else nothing."""
    message = None if answer.body is None else answer.body.get("message")
    if isinstance(message, str) and len(message) <= _LONGEST_MESSAGE and message.isprintable():
        return message.strip()
    return ""


def _failing(status: int, hub: str, said: str) -> str:
    return f"{hub} answered {status} {_phrase(status)}".rstrip() + (f": {said}" if said else "")


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return f"status {status}"


def _redirect(answer: Answer, hub: str) -> str:
    """Names the place of a redirect, without its path and query: those may hold tokens."""
    try:
        place = urlsplit(answer.headers.get("Location", ""))
        elsewhere = place.hostname or ""
        port = place.port
    except ValueError:
        elsewhere, port = "", None
    reason = f"{hub} answered {answer.status} with a redirect, which is refused: it would lose what is sent"
    if not elsewhere or not elsewhere.isprintable() or len(elsewhere) > 253:
        return f"{reason}; set the hub's final address"
    elsewhere = f"[{elsewhere}]" if ":" in elsewhere else elsewhere
    scheme = place.scheme if place.scheme in ("http", "https") else "https"
    return f"{reason}; set {scheme}://{elsewhere}{'' if port is None else f':{port}'} as the hub"


def retry_after(answer: Answer, now: float) -> float | None:
    """How many seconds the hub asks to wait, more than 0 and at most an hour; None if it does not say.

    `Retry-After` in seconds or as an HTTP date, else `X-RateLimit-Reset` in seconds since 1970. A time that is over
    says nothing: then the sender's own pause holds, which grows.
    """
    told = answer.headers.get("Retry-After", "")
    seconds = _number(told)
    if seconds is None:
        date = _date(told)
        seconds = None if date is None else date - now
    if seconds is None or seconds <= 0:
        reset = _number(answer.headers.get("X-RateLimit-Reset", ""))
        seconds = None if reset is None else reset - now
    return None if seconds is None or seconds <= 0 else min(seconds, LONGEST_RETRY_AFTER)


def _number(text: str) -> float | None:
    try:
        number = float(text[:40])
    except ValueError:
        return None
    return None if math.isnan(number) else number


def date_of(answer: Answer) -> float | None:
    """The hub's own time when it answered (seconds since 1970, cut to whole ones); None if it does not say."""
    return _date(answer.headers.get("Date", ""))


def _date(text: str) -> float | None:
    try:
        return parsedate_to_datetime(text[:60]).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
