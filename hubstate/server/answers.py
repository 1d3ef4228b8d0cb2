"""What a call gets and gives: who asks, the answer, and the refusal that becomes an answer.

The calls are plain functions of these values and of the time; the web framework appears in `app` alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = ["Answer", "Caller", "Problem"]

_KEY_LENGTH = 200


class Problem(Exception):
    """A call that is refused. `short` is the word for programs, the message is for people.

    `news`: what every answer about a session carries, where the session is known.
    """

    def __init__(self, status: int, short: str, message: str, news: dict[str, Any] | None = None) -> None:
        self.status = status
        self.short = short
        self.message = message
        self.news = news
        super().__init__(message)

    def body(self) -> dict[str, Any]:
        """The answer's JSON."""
        body: dict[str, Any] = {"success": False, "message": self.message, "error": self.short}
        if self.news is not None:
            body["hubstate"] = self.news
        return body


@dataclass(frozen=True)
class Caller:
    """Who asks. `base`: the hub's address as the caller sees it; `key`: the idempotency key, or empty.

    `heartbeat`: the interval in seconds that this hub tells its clients to keep, or None for their own.
    Raises `Problem` for a key that is too long.
    """

    owner: str
    base: str
    key: str = ""
    heartbeat: float | None = None

    def __post_init__(self) -> None:
        if len(self.key) > _KEY_LENGTH:
            raise Problem(400, "invalid", f"an Idempotency-Key has at most {_KEY_LENGTH} characters")


@dataclass(frozen=True)
class Answer:
    """What is answered: always a JSON object."""

    body: dict[str, Any]
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
