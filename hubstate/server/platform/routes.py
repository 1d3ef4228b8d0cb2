"""The calls of Ultralytics' Platform, as HTTP: two webhooks, the address to put a file to, and what a user's tools look up.

Always JSON, quickly: a training waits for some of them. A body may stand still for a while, but not for ever.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from fastapi import FastAPI, Request
from fastapi.responses import Response
from sqlalchemy.exc import OperationalError
from starlette.concurrency import run_in_threadpool

from hubstate.server.answers import Problem
from hubstate.server.objects import Incoming
from hubstate.server.platform import files, lookups
from hubstate.server.platform.held import Held
from hubstate.server.shells import Wiring, as_json, asked, caller_of, drain, pieces, respond
from hubstate.server.signing import Put

__all__ = ["add_platform"]

#: The biggest event in bytes: what a whole training measured, with curves of each class, is told at once.
_LIMIT = 64 * 1024 * 1024


def add_platform(app: FastAPI, wiring: Wiring) -> None:
    """Adds the calls to the application."""
    store, wall = wiring.store, wiring.wall
    held = Held()

    @app.post("/api/webhooks/training/metrics", summary="An event of Ultralytics' Platform callback")
    async def metrics(request: Request) -> Response:
        caller, body = await asked(request, wiring, _LIMIT)
        return respond(await run_in_threadpool(held.take, store, caller, body, wall()))

    @app.post("/api/webhooks/models/upload", summary="Where a file of a run may be put")
    async def upload(request: Request) -> Response:
        caller, body = await asked(request, wiring, _LIMIT)
        return respond(await run_in_threadpool(files.address_for, store, caller, body, wall()))

    @app.put("/api/uploads/{model}/{run}/{place}/{name}", summary="The bytes of a file, to a signed address")
    async def put(
        request: Request,
        model: str,
        run: str,
        place: str,
        name: str,
        until: str = "",
        signature: str = "",
    ) -> Response:
        stream = request.stream()
        # Whatever is no number is no run either, and was never signed.
        number = int(run[:18]) if run.isascii() and run.isdigit() else 0
        where = Put(model, number if str(number) == run else 0, place, name)
        declared = request.headers.get("content-length", "")
        length = int(declared[:20]) if declared.isascii() and declared.isdigit() else None
        try:
            await run_in_threadpool(files.put_may_come, store, where, until, signature, length, wall())
            return await _put(stream, wiring, where, length or 0)
        except (Problem, OSError, OperationalError):
            await drain(stream)
            raise

    @app.get("/api/account/summary", summary="Whose key is this?")
    async def account(request: Request) -> Response:
        caller = await caller_of(request, wiring)
        return respond(await run_in_threadpool(lookups.account, store, caller))

    @app.get("/api/models/{owner}/{project}/{name}", summary="A model by its project and name")
    async def model_named(request: Request, owner: str, project: str, name: str) -> Response:
        caller = await caller_of(request, wiring)
        return respond(
            await run_in_threadpool(lookups.model_named, store, caller, (owner, project, name), wall())
        )

    @app.get("/api/models/{owner}/{project}/{name}/files", summary="Its weights, the best ones first")
    async def files_named(request: Request, owner: str, project: str, name: str) -> Response:
        caller = await caller_of(request, wiring)
        return respond(
            await run_in_threadpool(lookups.files_named, store, caller, (owner, project, name), wall())
        )

    @app.get("/v1/models/{model}/said", summary="What the Platform callback said beside rows and files")
    async def said(request: Request, model: str, event: str = "") -> Response:
        caller = await caller_of(request, wiring)
        return respond(await run_in_threadpool(lookups.said_of, store, caller, model, event))


async def _put(stream: AsyncIterator[bytes], wiring: Wiring, put: Put, length: int) -> Response:
    objects = wiring.store.objects
    incoming: Incoming = await run_in_threadpool(objects.incoming, length)
    try:
        async for piece in pieces(stream, wiring.store.terms.patience):
            await run_in_threadpool(incoming.write, piece)
        lying = await run_in_threadpool(objects.lay, put, incoming, wiring.wall())
    finally:
        await run_in_threadpool(incoming.abandon)
    return as_json({"success": True, "message": "ok", "size": lying.size, "sha256": lying.sha256}, 200)
