"""A hub that shows what somebody else keeps, and takes nothing: its store is filled from below, never by a request.

A client that was told "delivered" by such a hub would forget what it holds, and the mirror with it is gone tomorrow. So
every request that would change something is refused, whoever asks, before anything else looks at it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from hubstate.server.answers import Problem
from hubstate.server.store import Store

__all__ = ["Looking", "Mirror"]

_LOOKS = frozenset({"GET", "HEAD"})
_REFUSED = Problem(
    405,
    "read_only",
    "this hub only shows the sessions of a machine, and takes nothing: deliver to one that `hubstate serve` runs",
)


class Mirror(Store):
    """A store that nothing is sent to. `told`: by session, what its keeper tells beside what a hub can know.

    Each is a condition as a hub has them: `name`, `since` (seconds since 1970, or None) and `reason`.
    """

    read_only = True

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.told: dict[str, list[dict[str, Any]]] = {}

    def conditions(self, session: str, heard: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """What was heard, but for silence: whoever keeps the session knows better whether anybody has it still."""
        return [*(known for known in heard if known["name"] != "no_contact"), *self.told.get(session, [])]


class Looking:
    """Middleware that lets requests look, and refuses any other."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["method"] in _LOOKS:
            await self._app(scope, receive, send)
            return
        body = msgspec.json.encode(_REFUSED.body())
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"allow", b"GET, HEAD"),
            (b"connection", b"close"),  # its body is not read
        ]
        await send({"type": "http.response.start", "status": _REFUSED.status, "headers": headers})
        await send({"type": "http.response.body", "body": body})
