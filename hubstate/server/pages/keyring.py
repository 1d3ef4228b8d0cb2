"""The keys page: the API keys of whoever looks. A new one is shown once, in the answer that made it."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool

from hubstate.errors import UsageError
from hubstate.server import keys
from hubstate.server.answers import Problem
from hubstate.server.pages.desk import Desk
from hubstate.server.pages.entry import form_of, recognised, remember

__all__ = ["add"]


def _mine(desk: Desk, owner: str) -> list[keys.Key]:
    return [key for key in keys.listed(desk.store.data_dir) if key.owner == owner]


def _view(desk: Desk, owner: str, **more: Any) -> dict[str, Any]:
    mine = _mine(desk, owner)
    return {
        "living": [key for key in mine if key.revoked_at is None],
        "revoked": [key for key in mine if key.revoked_at is not None],
        "made": None,
        "name": "",
        "wrong": "",
        **more,
    }


def _revoke(desk: Desk, owner: str, number: str) -> None:
    """Ends a key of that owner. Raises `Problem` 404, the same for an unknown and for another owner's one."""
    found = next((key for key in _mine(desk, owner) if str(key.id) == number), None)
    if found is None:
        raise Problem(404, "not_found", "no key of yours has that number")
    if found.revoked_at is None:
        keys.revoke(desk.store.data_dir, found.name, wall=desk.now)


def add(app: FastAPI, desk: Desk) -> None:
    """Adds the page, and what its forms do."""

    @app.get("/keys", include_in_schema=False)
    async def keys_page(request: Request) -> Response:
        owner = await desk.visitor(request)
        if owner is None:
            return desk.to_login(request)
        view = await run_in_threadpool(_view, desk, owner)
        return desk.page(request, "keys.html", {**view, "address": desk.base(request)})

    @app.post("/keys", include_in_schema=False)
    async def make_key(request: Request) -> Response:
        desk.check_form(request)
        owner = await desk.visitor(request)
        if owner is None:
            return desk.to_login(request)
        name = (await form_of(request)).get("name", "").strip()

        def make() -> tuple[str | None, str]:
            try:
                return keys.create(desk.store.data_dir, name, owner=owner, wall=desk.now), ""
            except UsageError as refusal:
                return None, str(refusal)

        first = not await run_in_threadpool(_mine, desk, owner)
        made, wrong = await run_in_threadpool(make)
        view = await run_in_threadpool(lambda: _view(desk, owner, made=made, name=name, wrong=wrong))
        status = 200 if made is not None else 422
        answer = desk.page(request, "keys.html", {**view, "address": desk.base(request)}, status)
        if made is not None and first:
            # The first key ends the open access, of this very browser too: it goes on with the key that it made.
            number = await run_in_threadpool(recognised, desk.store, made)
            if number is not None:
                remember(desk, request, answer, number)
        return answer

    @app.post("/keys/{number}/revoke", include_in_schema=False)
    async def revoke_key(request: Request, number: str) -> Response:
        desk.check_form(request)
        owner = await desk.visitor(request)
        if owner is None:
            return desk.to_login(request, "/keys")
        await run_in_threadpool(_revoke, desk, owner, number)
        return desk.to("/keys")
