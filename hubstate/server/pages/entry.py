"""Logging in with an API key, and out again. The cookie stands for the key, and ends with it."""

from __future__ import annotations

from urllib.parse import parse_qs

from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool

from hubstate.server import keys, signing
from hubstate.server.admission import COOKIE
from hubstate.server.pages.desk import Desk
from hubstate.server.shells import read_body
from hubstate.server.store import Store

__all__ = ["add", "form_of", "recognised", "remember"]

_FORM_LIMIT = 64 * 1024


def add(app: FastAPI, desk: Desk) -> None:
    """Adds the form, and both ways."""

    @app.get("/login", include_in_schema=False)
    async def login_page(request: Request) -> Response:
        view = {"next": _local(request.query_params.get("next", "/")), "wrong": False}
        return desk.page(request, "login.html", {**view, "keyed": False})

    @app.post("/login", include_in_schema=False)
    async def login(request: Request) -> Response:
        desk.check_form(request)
        form = await form_of(request)
        goal = _local(form.get("next", "/"))
        found = await run_in_threadpool(recognised, desk.store, form.get("key", "").strip())
        if found is None:
            view = {"next": goal, "wrong": True, "keyed": False}
            return desk.page(request, "login.html", view, 401)
        answer = desk.to(goal)
        remember(desk, request, answer, found)
        return answer

    @app.post("/logout", include_in_schema=False)
    async def logout(request: Request) -> Response:
        desk.check_form(request)
        answer = desk.to("/login")
        answer.delete_cookie(COOKIE, path=_path(desk), httponly=True, samesite="strict")
        return answer


def remember(desk: Desk, request: Request, answer: Response, key_id: int) -> None:
    """Logs the browser in with the key of that id."""
    answer.set_cookie(
        COOKIE,
        signing.cookie(desk.store.secret, key_id, desk.now()),
        max_age=signing.COOKIE_SECONDS,
        path=_path(desk),
        secure=desk.base(request).startswith("https://"),
        httponly=True,
        samesite="strict",
    )


def _path(desk: Desk) -> str:
    """Where the cookie goes: to this hub, and to nothing else that a proxy shows under the same name."""
    return desk.root or "/"


async def form_of(request: Request) -> dict[str, str]:
    """What a form of a page sent. Raises `Problem` 413 for one that is too long."""
    told = parse_qs((await read_body(request, _FORM_LIMIT)).decode("utf-8", "replace"))
    return {name: values[0] for name, values in told.items()}


def recognised(store: Store, key: str) -> int | None:
    """The id of a living key."""
    with store.database.reading() as connection:
        found = keys.recognise(connection, key)
    return None if found is None else found[0]


def _local(goal: str) -> str:
    """A path of this hub, or its first page: a login never leads elsewhere."""
    good = goal.startswith("/") and not goal.startswith("//") and "\\" not in goal and goal.isprintable()
    return goal if good else "/"
