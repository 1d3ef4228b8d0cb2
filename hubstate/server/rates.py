"""How much one key may ask: requests are counted by the minute, and every answer under `/v1` and `/api` tells the count.

The limit is there for a client that went wild, not for trainings. It is counted in memory, by the key as it was sent and
without looking whether it is good, so that a refusal costs next to nothing.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import msgspec

from hubstate.server.answers import Problem

__all__ = ["Rates"]

#: A window of the count, in seconds.
_WINDOW = 60
#: So many different keys are counted in a window; those beyond share one count.
_KEYS = 10_000
_COUNTED = ("/v1/", "/api/")

_Message = MutableMapping[str, Any]


class Rates:
    """Middleware. `limit`: requests a minute; `wall`: seconds since 1970."""

    def __init__(self, app: Callable[..., Awaitable[None]], limit: int, wall: Callable[[], float]) -> None:
        self._app = app
        self._limit = limit
        self._wall = wall
        self._window = -1
        self._counts: dict[bytes, int] = {}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(_COUNTED):
            await self._app(scope, receive, send)
            return
        now = self._wall()
        headers = self._count(scope["headers"], now)
        if headers is None:
            await self._refuse(now, send)
            return

        async def send_with(message: _Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *headers]
            await send(message)

        await self._app(scope, receive, send_with)

    def _count(self, sent: list[tuple[bytes, bytes]], now: float) -> list[tuple[bytes, bytes]] | None:
        """Counts a request: the headers of its answer, or None for one too many."""
        window = int(now // _WINDOW)
        if window != self._window:
            self._window, self._counts = window, {}
        key = next((value for name, value in sent if name in (b"x-api-key", b"authorization")), b"")
        if key not in self._counts and len(self._counts) >= _KEYS:
            key = b""
        count = self._counts[key] = self._counts.get(key, 0) + 1
        return None if count > self._limit else self._headers(self._limit - count, now)

    def _headers(self, left: int, now: float) -> list[tuple[bytes, bytes]]:
        reset = (int(now // _WINDOW) + 1) * _WINDOW
        told = {
            b"x-ratelimit-limit": self._limit,
            b"x-ratelimit-remaining": left,
            b"x-ratelimit-reset": reset,
        }
        return [(name, str(value).encode()) for name, value in told.items()]

    async def _refuse(self, now: float, send: Any) -> None:
        wait = max(1, math.ceil(_WINDOW - now % _WINDOW))
        message = f"a key may ask {self._limit} times a minute here: ask again in {wait} s"
        body = msgspec.json.encode(Problem(429, "too_many", message).body())
        headers = [
            *self._headers(0, now),
            (b"retry-after", str(wait).encode()),
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"cache-control", b"no-store"),
            # Its body was not read, so nothing more can come on this connection.
            (b"connection", b"close"),
        ]
        await send({"type": "http.response.start", "status": 429, "headers": headers})
        await send({"type": "http.response.body", "body": body})
