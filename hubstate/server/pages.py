"""The pages for people: what is here, how each session fares, and the wish that one stops.

Plain HTML that the server renders, with every value escaped; no script at all, which the Content-Security-Policy
states as well. A page of something that still runs asks to be loaded again every few seconds.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, quote

import jinja2
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from sqlalchemy import select
from starlette.concurrency import run_in_threadpool
from starlette.staticfiles import StaticFiles

from hubstate.server import charts, describe, keys, models, rows, schema, sessions, signing
from hubstate.server.admission import COOKIE, admit_page, check_same_site
from hubstate.server.answers import Caller, Problem
from hubstate.server.shells import Wiring, base_of, read_body, visit_of
from hubstate.server.store import Store

__all__ = ["add_pages", "index_view", "model_view", "page_of_problem", "wants_page"]

_FORM_LIMIT = 64 * 1024
#: How many rows, sessions and steps a page shows.
_ROWS, _SESSIONS, _STEPS, _CHARTS = 50, 200, 100, 60
_AGAIN_SECONDS = 5
_STOP_WISH = "asked for on the hub's page"

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; "
        "frame-ancestors 'none'; base-uri 'none'"
    ),
    "Cache-Control": "no-store",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}


# -- what the pages show ---------------------------------------------------------------------------------


def index_view(store: Store, owner: str, now: float) -> dict[str, Any]:
    """What the list of sessions shows."""
    table = schema.sessions
    query = select(table).where(table.c.owner == owner, table.c.deleted_at.is_(None))
    with store.database.reading() as connection:
        found = connection.execute(
            query.order_by(table.c.created_at.desc(), table.c.id.desc()).limit(_SESSIONS + 1)
        ).mappings()
        listed = [
            {
                **describe.summary_of(connection, session, now),
                "live": sessions.is_live(session),
                "contact": sessions.in_contact(session, now),
            }
            for session in found
        ]
    again = any(session["live"] and session["contact"] for session in listed)
    return {
        "sessions": listed[:_SESSIONS],
        "more": len(listed) > _SESSIONS,
        "again": _AGAIN_SECONDS if again else None,
    }


def model_view(store: Store, owner: str, model: str, now: float) -> dict[str, Any]:
    """What the page of one session shows. Raises `Problem` 404."""
    with store.database.reading() as connection:
        session = sessions.find(connection, model, owner)
        data = describe.model_of(store, connection, session, "", now)
        in_force = rows.in_force(connection, model)
        query = select(schema.steps.c.step).where(schema.steps.c.session == model)
        steps = connection.execute(query.order_by(schema.steps.c.n.desc()).limit(_STEPS)).scalars().all()
        live, contact = sessions.is_live(session), sessions.in_contact(session, now)
        own = session["own"]
    names = sorted({name for row in in_force for name in row["metrics"]})
    drawn = charts.charts_of(in_force)
    return {
        "session": data,
        "live": live,
        "own": own,
        "again": _AGAIN_SECONDS if live and contact else None,
        "in_force": len(in_force),
        "rows": [_row_view(row, names) for row in in_force[-_ROWS:]],
        "names": names,
        "charts": drawn[:_CHARTS],
        "charts_left": max(0, len(drawn) - _CHARTS),
        "steps": [_step_view(step) for step in reversed(steps)],
        "width": charts.WIDTH,
        "height": charts.HEIGHT,
    }


def _row_view(row: dict[str, Any], names: list[str]) -> dict[str, Any]:
    nonfinite = row.get("nonfinite", {})
    cells = [
        nonfinite.get(name) or (charts.shown_number(row["metrics"][name]) if name in row["metrics"] else "")
        for name in names
    ]
    return {**row, "cells": cells}


def _step_view(step: dict[str, Any]) -> dict[str, Any]:
    """A line of a journal, whatever it holds, as text for the page."""
    event = step.get("event")
    told: dict[str, Any] = event if isinstance(event, dict) else {"event": event}
    at = told.get("at", step.get("at"))
    return {
        "n": step.get("n"),
        "attempt": step.get("attempt"),
        "at": at if isinstance(at, int | float) and abs(at) < 1e11 else None,
        "event": str(told.get("event", ""))[:100],
        "from": str(step.get("from", ""))[:40],
        "to": str(step.get("to", ""))[:40],
        "refusal": str(step.get("refusal", ""))[:500],
    }


# -- words for people ------------------------------------------------------------------------------------


def _absolute(at: float | None) -> str:
    if at is None:
        return "-"
    return dt.datetime.fromtimestamp(at).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _machine_time(at: float) -> str:
    return dt.datetime.fromtimestamp(at, dt.UTC).isoformat(timespec="seconds")


def _ago(at: float | None, now: float) -> str:
    if at is None:
        return "-"
    seconds = max(0, int(now - at))
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit} ago"
    return f"{seconds} s ago"


def _size(size: int) -> str:
    number = float(size)
    for unit in ("bytes", "KiB", "MiB"):
        if number < 1024:
            return f"{number:.0f} {unit}" if unit == "bytes" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.2f} GiB"


def _words(text: str) -> str:
    return text.replace("_", " ")


def _environment(wall: Callable[[], float]) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("hubstate.server"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        absolute=_absolute,
        machine_time=_machine_time,
        ago=lambda at: _ago(at, wall()),
        size=_size,
        words=_words,
        quoted=lambda text: quote(text, safe=""),
    )
    return environment


# -- the routes ------------------------------------------------------------------------------------------


def wants_page(request: Request) -> bool:
    """Whether an answer goes to a person's browser."""
    return not request.url.path.startswith("/v1") and "text/html" in request.headers.get("accept", "")


def page_of_problem(wiring: Wiring) -> Callable[[Problem], Response]:
    """How a refusal looks on a page."""
    template = _environment(wiring.wall).get_template("problem.html")

    def page(problem: Problem) -> Response:
        text = template.render(problem=problem, again=None, keyed=False)
        return HTMLResponse(text, problem.status, _HEADERS)

    return page


def add_pages(app: FastAPI, wiring: Wiring) -> None:
    """Adds the pages to the application."""
    store, wall = wiring.store, wiring.wall
    environment = _environment(wall)
    app.mount("/static", StaticFiles(packages=[("hubstate.server", "static")]), name="static")

    def render(name: str, view: dict[str, Any], status: int = 200) -> Response:
        return HTMLResponse(environment.get_template(name).render(**view), status, _HEADERS)

    async def visitor(request: Request) -> str | None:
        return await run_in_threadpool(admit_page, store, visit_of(request, wiring), wall())

    def to_login(request: Request) -> Response:
        return RedirectResponse(f"/login?next={quote(request.url.path, safe='/')}", 303, _HEADERS)

    @app.get("/", include_in_schema=False)
    async def index(request: Request) -> Response:
        owner = await visitor(request)
        if owner is None:
            return to_login(request)
        view = await run_in_threadpool(index_view, store, owner, wall())
        keyed = COOKIE in request.cookies
        return render("index.html", {**view, "address": base_of(request, wiring), "keyed": keyed})

    @app.get("/models/{model}", include_in_schema=False)
    async def model_page(request: Request, model: str) -> Response:
        owner = await visitor(request)
        if owner is None:
            return to_login(request)
        view = await run_in_threadpool(model_view, store, owner, model, wall())
        return render("model.html", {**view, "keyed": COOKIE in request.cookies})

    @app.post("/models/{model}/stop", include_in_schema=False)
    async def stop(request: Request, model: str) -> Response:
        check_same_site(visit_of(request, wiring), wiring.public_url)
        owner = await visitor(request)
        if owner is None:
            return to_login(request)
        caller = Caller(owner, base_of(request, wiring))
        await run_in_threadpool(models.ask_to_stop, store, caller, model, _STOP_WISH)
        return RedirectResponse(f"/models/{quote(model, safe='')}", 303, _HEADERS)

    @app.get("/login", include_in_schema=False)
    async def login_page(request: Request) -> Response:
        view = {"next": _local(request.query_params.get("next", "/")), "wrong": False}
        return render("login.html", {**view, "again": None, "keyed": False})

    @app.post("/login", include_in_schema=False)
    async def login(request: Request) -> Response:
        check_same_site(visit_of(request, wiring), wiring.public_url)
        form = parse_qs((await read_body(request, _FORM_LIMIT)).decode("utf-8", "replace"))
        goal = _local(form.get("next", ["/"])[0])
        found = await run_in_threadpool(_recognised, store, form.get("key", [""])[0].strip())
        if found is None:
            return render("login.html", {"next": goal, "wrong": True, "again": None, "keyed": False}, 401)
        answer = RedirectResponse(goal, 303, _HEADERS)
        answer.set_cookie(
            COOKIE,
            signing.cookie(store.secret, found, wall()),
            max_age=signing.COOKIE_SECONDS,
            secure=base_of(request, wiring).startswith("https://"),
            httponly=True,
            samesite="strict",
        )
        return answer

    @app.post("/logout", include_in_schema=False)
    async def logout(request: Request) -> Response:
        check_same_site(visit_of(request, wiring), wiring.public_url)
        answer = RedirectResponse("/login", 303, _HEADERS)
        answer.delete_cookie(COOKIE, httponly=True, samesite="strict")
        return answer


def _recognised(store: Store, key: str) -> int | None:
    with store.database.reading() as connection:
        found = keys.recognise(connection, key)
    return None if found is None else found[0]


def _local(goal: str) -> str:
    """A path of this hub, or its first page: a login never leads elsewhere."""
    good = goal.startswith("/") and not goal.startswith("//") and "\\" not in goal and goal.isprintable()
    return goal if good else "/"
