"""The tus protocol, version 1.0.0: its core, `creation` and `expiration`, for checkpoints that take long to send.

The protocol brings the bytes; one more call, hubstate's own, puts them into their place, and is as idempotent as the
upload in one request. `PATCH` and `HEAD` are answered without a body, as the protocol says.
"""

from __future__ import annotations

import base64
import binascii
from email.utils import formatdate
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response
from sqlalchemy.exc import OperationalError
from starlette.concurrency import run_in_threadpool

from hubstate.server import calls
from hubstate.server.answers import Problem
from hubstate.server.incoming import LIFETIME
from hubstate.server.shells import Wiring, as_json, asked, caller_of, drain, pieces, respond

__all__ = ["VERSION", "add_uploads"]

VERSION = "1.0.0"
_PATH = "/v1/models/{model}/uploads"


def add_uploads(app: FastAPI, wiring: Wiring) -> None:
    """Adds the calls to the application."""
    store, wall = wiring.store, wiring.wall
    uploads = store.resumables

    @app.options(_PATH, summary="What this hub knows of the tus protocol")
    async def options(model: str) -> Response:  # noqa: ARG001 - the same for every session
        told = {
            "Tus-Version": VERSION,
            "Tus-Extension": "creation,expiration",
            "Tus-Max-Size": str(store.upload_limit),
        }
        return Response(status_code=204, headers=_headers() | told)

    @app.post(_PATH, summary="Begin an upload, or find it again")
    async def create(request: Request, model: str) -> Response:
        caller = await caller_of(request, wiring)
        _check_version(request)
        await drain(request.stream())
        length = _number(request, "upload-length")
        sha256 = _metadata(request).get("sha256", "").lower()
        known = await run_in_threadpool(calls.upload_may_come, store, caller, model, length, sha256, wall())
        if known is not None:
            return respond(known)

        def make() -> str:
            return uploads.make(caller.owner, model, key=caller.key, length=length, sha256=sha256, now=wall())

        name = await run_in_threadpool(make)
        headers = _headers(wall()) | {"Location": f"{caller.base}{_PATH.format(model=model)}/{name}"}
        return as_json({"success": True, "message": "ok", "data": {"id": name}}, 201, headers)

    @app.head(f"{_PATH}/{{upload}}", include_in_schema=False)
    async def look(request: Request, model: str, upload: str) -> Response:
        caller = await caller_of(request, wiring)
        _check_version(request)
        offset, length = await run_in_threadpool(uploads.offset, upload, caller.owner, model, wall())
        told = {"Upload-Offset": str(offset), "Upload-Length": str(length), "Cache-Control": "no-store"}
        return Response(status_code=200, headers=_headers(wall()) | told)

    @app.patch(f"{_PATH}/{{upload}}", summary="The next bytes of an upload")
    async def patch(request: Request, model: str, upload: str) -> Response:
        stream = request.stream()
        try:
            caller = await caller_of(request, wiring)
            _check_version(request)
            _check_type(request)
            offset = _number(request, "upload-offset")
            taker = await run_in_threadpool(uploads.taker, upload, caller.owner, model, offset, wall())
            try:
                async for piece in pieces(stream, store.terms.patience):
                    await run_in_threadpool(taker.write, piece)
            finally:
                size = await run_in_threadpool(taker.close, wall())
        except (Problem, OSError, OperationalError):
            await drain(stream)
            raise
        return Response(status_code=204, headers=_headers(wall()) | {"Upload-Offset": str(size)})

    @app.post(f"{_PATH}/{{upload}}", summary="A whole upload: put it into its place")
    async def place(request: Request, model: str, upload: str) -> Response:
        caller, body = await asked(request, wiring)
        return respond(
            await run_in_threadpool(calls.take_resumed, store, caller, model, upload, body, wall())
        )


def _headers(now: float | None = None) -> dict[str, str]:
    told = {"Tus-Resumable": VERSION, "X-Content-Type-Options": "nosniff"}
    return told if now is None else told | {"Upload-Expires": formatdate(now + LIFETIME, usegmt=True)}


def _check_version(request: Request) -> None:
    if request.headers.get("tus-resumable", "") != VERSION:
        raise Problem(412, "tus_version", f"this hub speaks tus {VERSION}, told by the header Tus-Resumable")


def _check_type(request: Request) -> None:
    if request.headers.get("content-type", "") != "application/offset+octet-stream":
        raise Problem(415, "invalid", "the bytes of an upload come as application/offset+octet-stream")


def _number(request: Request, name: str) -> int:
    text = request.headers.get(name, "")
    if not (text.isascii() and text.isdigit()) or len(text) > 16:
        raise Problem(400, "invalid", f"the header {name.title()} must hold a number of bytes")
    return int(text)


def _metadata(request: Request) -> dict[str, str]:
    """What `Upload-Metadata` holds: keys, each with a text in base64. Raises `Problem` 400 for a garbled one."""
    told: dict[str, Any] = {}
    for pair in request.headers.get("upload-metadata", "").split(","):
        name, _, value = pair.strip().partition(" ")
        try:
            told[name] = base64.b64decode(value, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError) as error:
            raise Problem(400, "invalid", "the header Upload-Metadata is garbled") from error
    return told
