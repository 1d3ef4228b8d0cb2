"""The page of one session, in parts: each can be rendered by itself, so that a stream brings only those that changed."""

from __future__ import annotations

import math
from typing import Any
from urllib.parse import quote, urlencode

import msgspec
from fastapi import FastAPI, Request
from fastapi.responses import Response
from markupsafe import Markup
from sqlalchemy import Connection, RowMapping, select
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool

from hubstate.server import charts, describe, models, rows, schema, sessions
from hubstate.server.answers import Caller, Problem
from hubstate.server.curves import Curve, Layout
from hubstate.server.pages.desk import AT_ONCE, HEADERS, Desk
from hubstate.server.pages.machine import picture, strip
from hubstate.server.pages.position import PARTS, position_of
from hubstate.server.pages.query import Stretch, stretch, whole
from hubstate.server.pages.words import short
from hubstate.server.platform.lookups import console_of

__all__ = ["add", "figures", "page_view", "part_texts", "points_of"]

#: How many rows, lines of the journal and columns of the table a page shows.
_ROWS, _STEPS, _COLUMNS = 50, 100, 60
#: What is shown of a long session whose curves nobody saw yet: its stream brings them.
_NOTHING = Layout("0", 0, [])
#: How many curves are told at once; how many a page asks for at once, and in how many parts of a pixel or two.
_CURVES, _FIRST, _PARTS = 50, 6, 500
_DAY = 86400
_STOP_WISH = "asked for on the hub's page"


def page_view(desk: Desk, connection: Connection, session: RowMapping) -> dict[str, Any]:
    """What the parts of the page show."""
    now = desk.now()
    model = session["id"]
    delivered = desk.counts.of(connection, session, rows.newest_of_all(connection))
    data = describe.model_of(desk.store, connection, session, desk.root, now, delivered=delivered)
    # Addresses of files are signed for a week from the day's beginning on, so that they stay as they are for a day.
    day = now - now % _DAY
    data["checkpoints"] = describe.checkpoints_of(desk.store, connection, session, desk.root, day)
    way = desk.ways.of(connection, session)
    newest = rows.newest_in_force(connection, model, _ROWS)
    names = sorted({name for row in newest for name in row["metrics"]})
    query = select(schema.steps.c.step).where(schema.steps.c.session == model)
    steps = connection.execute(query.order_by(schema.steps.c.n.desc()).limit(_STEPS)).scalars().all()
    return {
        "session": data,
        "live": sessions.is_live(session),
        "strip": strip(way),
        "way": way,
        "picture": desk.kept(("picture", model), repr(way), lambda: Markup(picture(way))),  # noqa: S704 -- of states alone
        "names": names[:_COLUMNS],
        "names_left": max(0, len(names) - _COLUMNS),
        "rows": [_row_view(row, names[:_COLUMNS]) for row in reversed(newest)],
        "steps": [_step_view(step) for step in steps],
        "console": console_of(connection, model) if session["client"] else "",
        "wrong": {"refused": sum(way.refused.values()), "illegal": sum(way.illegal.values())},
    }


def part_texts(desk: Desk, view: dict[str, Any]) -> dict[str, str]:
    """Each part, rendered."""
    return {name: desk.text(f"session/{name}.html", view) for name in PARTS}


def figures(desk: Desk, model: str, curves: list[Curve]) -> str:
    """The boxes of charts, which a script draws into."""
    return desk.text("session/figures.html", {"model": model, "curves": curves})


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
        "at": at if isinstance(at, int | float) and abs(at) < 1e11 else None,
        "event": short(told.get("event", ""), 100),
        "from": short(step.get("from", ""), 40),
        "to": short(step.get("to", ""), 40),
        "refusal": short(step.get("refusal", ""), 500),
    }


# -- points ----------------------------------------------------------------------------------------------


def points_of(desk: Desk, model: str, owner: str, curves: list[str], wanted: Stretch) -> bytes:
    """Points of some curves of a session, as JSON. Raises `Problem` 404 or 422."""
    with desk.store.database.reading() as connection:
        sessions.find(connection, model, owner)
    layout, _ = desk.layout(model)
    found = {}
    for curve in curves[:_CURVES]:
        points = desk.curves.points(model, whole(curve, "curve"), *wanted)
        if points is not None:
            found[curve] = points._asdict()
    return msgspec.json.encode({"generation": layout.generation, "rows": layout.length, "curves": found})


def _first_points(desk: Desk, model: str, curves: list[Curve]) -> str:
    """Where the points of the first charts are, which a browser fetches while it still reads the page; or nothing."""
    told = [("curve", str(curve.id)) for curve in curves[:_FIRST]]
    path = f"{desk.root}/models/{quote(model, safe='')}/points"
    return f"{path}?{urlencode([*told, ('parts', str(_PARTS))])}" if told else ""


def _drawing(desk: Desk, model: str, owner: str, curve: int) -> str:
    """A chart as SVG, for a page without script. Raises `Problem` 404."""
    with desk.store.database.reading() as connection:
        sessions.find(connection, model, owner)
    layout, _ = desk.layout(model)
    found = next((one for one in layout.curves if one.id == curve), None)
    points = desk.curves.points(model, curve, -math.inf, math.inf, 120)
    if found is None or points is None:
        raise Problem(404, "not_found", "this session has no such curve")
    return charts.drawing(found, points)


# -- routes ----------------------------------------------------------------------------------------------


def add(app: FastAPI, desk: Desk) -> None:
    """Adds the page, its points, and the wish to stop."""

    def shown(owner: str, model: str) -> dict[str, Any]:
        with desk.store.database.reading() as connection:
            session = sessions.find(connection, model, owner)
            view = page_view(desk, connection, session)
            unseen = view["session"]["delivered"] > AT_ONCE and desk.curves.length(model) is None
            layout, old_charts = (_NOTHING, "") if unseen else desk.layout(model)
        texts = part_texts(desk, view)
        return {
            **view,
            "unseen": unseen,
            "layout": layout,
            "first": _first_points(desk, model, layout.curves),
            "old_charts": old_charts,
            "parts_of": {name: Markup(text) for name, text in texts.items()},  # noqa: S704 -- rendered and escaped
            "position": str(position_of(layout.generation, layout.length, texts)),
        }

    @app.get("/models/{model}", include_in_schema=False)
    async def model_page(request: Request, model: str) -> Response:
        owner = await desk.visitor(request)
        if owner is None:
            return desk.to_login(request)
        view = await run_in_threadpool(shown, owner, model)
        answer = desk.page(request, "model.html", view)
        if view["unseen"]:
            answer.background = BackgroundTask(desk.make_ready, [model])
        return answer

    @app.get("/models/{model}/points", include_in_schema=False)
    async def points(request: Request, model: str) -> Response:
        owner = await desk.known(request)
        asked = request.query_params
        body = await run_in_threadpool(points_of, desk, model, owner, asked.getlist("curve"), stretch(asked))
        return Response(body, 200, HEADERS, "application/json")

    @app.get("/models/{model}/curves/{curve}.svg", include_in_schema=False)
    async def drawing(request: Request, model: str, curve: str) -> Response:
        owner = await desk.known(request)
        body = await run_in_threadpool(_drawing, desk, model, owner, whole(curve, "curve"))
        return Response(body, 200, HEADERS, "image/svg+xml")

    @app.post("/models/{model}/stop", include_in_schema=False)
    async def stop(request: Request, model: str) -> Response:
        desk.check_form(request)
        owner = await desk.visitor(request)
        page = f"/models/{quote(model, safe='')}"
        if owner is None:
            return desk.to_login(request, page)
        caller = Caller(owner, desk.base(request))
        await run_in_threadpool(models.ask_to_stop, desk.store, caller, model, _STOP_WISH)
        return desk.to(page)
