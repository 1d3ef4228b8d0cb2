"""Streams of events (SSE): what changed on a page, and nothing else.

Each event carries a *position* as its id: how far the page is once it has taken the event in. A browser whose stream
broke off names the last one (`Last-Event-ID`), a page that was just loaded or comes back to the front names its own
(`?after=`), and the stream goes on from there: nothing is sent twice, and nothing is left out.

    a session's   `GENERATION.ROWS.DIGESTS`: of the curves, which generation up to which row (see `curves`); and of each
                  part of the page a few letters of its digest, in the order of `position.PARTS`
    the list's    a digest of the rows that it shows

Nobody holds a thread: a stream waits in the event loop (`watch`) and asks for one only when its session changed.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response, StreamingResponse
from sqlalchemy.exc import OperationalError
from starlette.concurrency import run_in_threadpool

from hubstate.log import log
from hubstate.server import sessions
from hubstate.server.answers import Problem
from hubstate.server.curves import Layout
from hubstate.server.pages.desk import HEADERS, Desk
from hubstate.server.pages.digests import digest
from hubstate.server.pages.listing import Asked, list_rows, position_of_list
from hubstate.server.pages.position import PARTS, Position, position_of
from hubstate.server.pages.session import figures, page_view, part_texts

__all__ = ["add"]

#: After so many seconds without news a page is looked at all the same: that nothing was heard is news after a while.
_AGAIN = 15.0
#: What a browser waits before it comes back, in milliseconds.
_RETRY = 1000
#: More new rows than these are fetched, thinned out, and not told one by one.
_MOST_ROWS = 2000
HEADERS_OF_STREAM = HEADERS | {"X-Accel-Buffering": "no"}


class _Sessions:
    """What is new of one session, from one position to the next."""

    def __init__(self, desk: Desk, owner: str, model: str, after: str) -> None:
        self._desk = desk
        self._owner = owner
        self._model = model
        self._at = Position.read(after)
        self._woken = False

    def _look(self) -> tuple[dict[str, str], Layout]:
        """The page as it is. Streams that were woken by the same change share one look at it."""
        desk, model = self._desk, self._model

        def look() -> tuple[dict[str, str], Layout]:
            with desk.store.database.reading() as connection:
                session = sessions.find(connection, model, self._owner)
                texts = part_texts(desk, page_view(desk, connection, session))
            return texts, desk.layout(model)[0]

        if not self._woken:  # the page may know more than was there at the last change
            self._woken = True
            return look()
        as_of = desk.watch.ticks, int(desk.now() / _AGAIN)
        seen: tuple[dict[str, str], Layout] = desk.kept(("page", self._owner, model), as_of, look)
        return seen

    def news(self) -> tuple[str, dict[str, Any]] | None:
        """The next position and what leads there; None where nothing is new. Raises `Problem` 404."""
        texts, layout = self._look()
        before = self._at
        self._at = now = position_of(layout.generation, layout.length, texts)
        if now == before:
            return None
        told: dict[str, Any] = {}
        known = before.digests or ("",) * len(PARTS)
        parts = {
            name: texts[name] for name, old, new in zip(PARTS, known, now.digests, strict=True) if old != new
        }
        if parts:
            told["parts"] = parts
        if (now.generation, now.rows) != (before.generation, before.rows):
            told["curves"] = self._curves(before, now, layout)
        return str(now), told

    def _curves(self, before: Position, now: Position, layout: Layout) -> dict[str, Any]:
        desk, model = self._desk, self._model
        tails = None
        if before.generation == now.generation:
            tails = desk.curves.tail(model, now.generation, before.rows, now.rows, _MOST_ROWS)
        if tails is None:
            # Another generation, or too much: the page fetches what it shows anew.
            return {"again": True, "figures": figures(desk, model, layout.curves)}
        new = [curve for curve in layout.curves if curve.id in tails and tails[curve.id].whole]
        told: dict[str, Any] = {"points": {str(id_): tail._asdict() for id_, tail in tails.items()}}
        if new:
            told["figures"] = figures(desk, model, new)
        return told


class _List:
    """What is new of the list, from one moment to the next."""

    def __init__(self, desk: Desk, owner: str, asked: Asked, after: str) -> None:
        self._desk = desk
        self._owner = owner
        self._asked = asked
        self._at = after
        self._known: dict[str, str] = {}

    def news(self) -> tuple[str, dict[str, Any]] | None:
        """The digest of the list and the rows that changed; None where nothing is new."""
        listed = list_rows(self._desk, self._owner, self._asked)
        digests = {session: digest(text) for session, text in listed}
        at = position_of_list(listed)
        known, self._known = self._known, digests
        if at == self._at:
            return None
        self._at = at
        rows = {session: text for session, text in listed if known.get(session) != digests[session]}
        return at, {"order": list(digests), "rows": rows}


def add(app: FastAPI, desk: Desk) -> None:
    """Adds the streams."""

    @app.get("/events", include_in_schema=False)
    async def list_events(request: Request) -> Response:
        owner = await desk.known(request)
        asked = Asked.of(request.query_params)
        return _stream(desk, request, None, _List(desk, owner, asked, _after(request)).news)

    @app.get("/models/{model}/events", include_in_schema=False)
    async def session_events(request: Request, model: str) -> Response:
        owner = await desk.known(request)
        return _stream(desk, request, model, _Sessions(desk, owner, model, _after(request)).news)


def _after(request: Request) -> str:
    return request.headers.get("last-event-id") or request.query_params.get("after", "")


def _stream(
    desk: Desk, request: Request, model: str | None, news: Callable[[], tuple[str, dict[str, Any]] | None]
) -> Response:
    return StreamingResponse(_events(desk, request, model, news), 200, HEADERS_OF_STREAM, "text/event-stream")


async def _events(
    desk: Desk, request: Request, model: str | None, news: Callable[[], tuple[str, dict[str, Any]] | None]
) -> AsyncIterator[bytes]:
    yield f"retry: {_RETRY}\n\n".encode()
    begun = False
    with desk.watch.listening(model) as listener:
        while True:
            try:
                if begun:
                    await desk.known(request)  # the login may have ended, or its key
                begun = True
                found = await run_in_threadpool(news)
            except Problem:
                yield b"event: gone\ndata: {}\n\n"
                return
            except (OSError, OperationalError) as error:
                reason = error.orig if isinstance(error, OperationalError) else error
                log("hubstate.server").error("hubstate.hub_storage_failed", reason=str(reason))
                return  # whoever looks comes back from where they are
            if found is None:
                yield b": still here\n\n"
            else:
                position, told = found
                yield f"id: {position}\ndata: {json.dumps(told)}\n\n".encode()
            if not await listener.wait(_AGAIN):
                return
