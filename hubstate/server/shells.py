"""What the web application's parts share: what they are built over, and how they read a request and answer it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from functools import lru_cache
from typing import Any

import msgspec
import sqlalchemy
from fastapi import Request
from fastapi.responses import Response
from starlette.datastructures import URL
from starlette.requests import ClientDisconnect

from hubstate.server.admission import COOKIE, Visit, admit
from hubstate.server.answers import Answer, Caller, Problem
from hubstate.server.store import Store

__all__ = [
    "JSON_LIMIT",
    "Wiring",
    "as_json",
    "asked",
    "base_of",
    "caller_of",
    "drain",
    "pieces",
    "read_body",
    "respond",
    "visit_of",
]

#: The biggest JSON body in bytes.
JSON_LIMIT = 8 * 1024 * 1024
#: An upload is written in pieces of about this many bytes.
_PIECE = 1024 * 1024
#: How much of a body that is refused is still read, so that the client can read the refusal.
_DRAIN = 64 * 1024 * 1024
#: How long it is waited for the next of a small body, or of one that is refused (seconds).
_PATIENCE = 10.0


class Wiring(msgspec.Struct, frozen=True):
    """What the application is built over. `bound`: the host it listens on; `wall`: seconds since 1970."""

    store: Store
    bound: str = "127.0.0.1"
    public_url: str | None = None
    wall: Callable[[], float] = time.time


def respond(answer: Answer) -> Response:
    """The answer as JSON."""
    return as_json(answer.body, answer.status, answer.headers)


def as_json(body: dict[str, Any], status: int, headers: dict[str, str] | None = None) -> Response:
    return Response(
        msgspec.json.encode(body),
        status,
        {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", **(headers or {})},
        "application/json",
    )


def visit_of(request: Request, wiring: Wiring) -> Visit:
    """What admission looks at."""
    peer = request.client.host if request.client is not None else ""
    return Visit(request.headers, peer, wiring.bound, request.cookies.get(COOKIE, ""))


def base_of(request: Request, wiring: Wiring) -> str:
    """The hub's address as the caller sees it."""
    if wiring.public_url is not None:
        return wiring.public_url.rstrip("/")
    return _address(request.scope["scheme"], request.scope["server"], request.headers.get("host"))


@lru_cache(maxsize=1000)
def _address(scheme: str, server: tuple[str, int] | None, host: str | None) -> str:
    """What Starlette makes of these: it is asked for with each request, and seldom anything new."""
    headers = [] if host is None else [(b"host", host.encode("latin-1"))]
    url = URL(scope={"scheme": scheme, "server": server, "path": "", "headers": headers})
    return f"{url.scheme}://{url.netloc}"


async def caller_of(request: Request, wiring: Wiring) -> Caller:
    # On the spot: a look at the keys takes less than handing it to a thread.
    owner = admit(wiring.store, visit_of(request, wiring))
    key, terms = request.headers.get("idempotency-key", ""), wiring.store.terms
    return Caller(owner, base_of(request, wiring), key, terms.heartbeat)


async def asked(request: Request, wiring: Wiring, limit: int = JSON_LIMIT) -> tuple[Caller, bytes]:
    """Who asks, and what. Who may not ask is told so, and nothing of the body was held."""
    try:
        caller = await caller_of(request, wiring)
    except (Problem, sqlalchemy.exc.OperationalError):
        await drain(request.stream())
        raise
    return caller, await read_body(request, limit)


async def read_body(request: Request, limit: int = JSON_LIMIT) -> bytes:
    """The whole body. Raises `Problem` 413 for one that is too long, 408 for one that stands still."""
    body = bytearray()
    stream = request.stream()
    async for piece in _patient(stream, _PATIENCE):
        body += piece
        if len(body) > limit:
            await drain(stream)
            raise Problem(
                413, "too_large", f"a body may have at most {limit} bytes here: send less at a time"
            )
    return bytes(body)


async def pieces(stream: AsyncIterator[bytes], patience: float | None = None) -> AsyncIterator[bytes]:
    """A body in pieces that are worth a thread's time. What came before the client went away is handed on, too.

    `patience`: after so many seconds without a further byte it is given up: raises `Problem` 408.
    """
    held = bytearray()
    try:
        async for piece in _patient(stream, patience):
            held += piece
            if len(held) >= _PIECE:
                yield bytes(held)
                held.clear()
    except ClientDisconnect:
        yield bytes(held)
        raise
    yield bytes(held)


async def _patient(stream: AsyncIterator[bytes], patience: float | None) -> AsyncIterator[bytes]:
    while True:
        try:
            async with asyncio.timeout(patience):
                piece = await anext(stream)
        except StopAsyncIteration:
            return
        except TimeoutError as error:
            message = f"nothing more of this body came within {patience:g} s: send it again"
            raise Problem(408, "stalled", message) from error
        yield piece


async def drain(stream: AsyncIterator[bytes], limit: int = _DRAIN) -> None:
    """Reads what is left of a body: a client that is still sending does not look at the answer."""
    taken = 0
    try:
        async for piece in _patient(stream, _PATIENCE):
            taken += len(piece)
            if taken > limit:
                return
    except Problem:
        return  # it stands still: its sender may look at the answer now
