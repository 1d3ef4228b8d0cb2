"""Several sessions in the same charts: one chart for each metric, one line for each session."""

from __future__ import annotations

import math
from typing import Any, NamedTuple
from urllib.parse import urlencode

import msgspec
from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool

from hubstate.server import describe, rows, sessions
from hubstate.server.answers import Problem
from hubstate.server.pages.desk import AT_ONCE, HEADERS, Desk
from hubstate.server.pages.query import Stretch, stretch, whole

__all__ = ["MOST", "add"]

#: How many sessions share a chart, and for how many metrics there is one.
MOST, _METRICS = 20, 200
#: In how many parts a line is told, where it is alone, and at least.
_PARTS, _LEAST = 500, 150


class Overlay(NamedTuple):
    """A chart: the metric, its axis, and in which sessions it is which curve (by the session's place in the list)."""

    name: str
    over: str
    curves: dict[int, int]


def _view(desk: Desk, owner: str, wanted: list[str]) -> dict[str, Any]:
    """What the page shows. `gone`: how many of the wanted are none of the owner's, or were removed."""
    now = desk.now()
    gone = 0
    old_charts = ""
    shown: list[dict[str, Any]] = []
    overlays: dict[tuple[str, str], Overlay] = {}
    waiting: list[str] = []
    with desk.store.database.reading() as connection:
        newest = rows.newest_of_all(connection)
        for model in wanted:
            try:
                session = sessions.find(connection, model, owner)
            except Problem:
                gone += 1
                continue
            place = len(shown)
            delivered = desk.counts.of(connection, session, newest)
            summary = describe.summary_of(connection, session, now, delivered=delivered)
            live, contact = sessions.is_live(session), sessions.in_contact(session, now)
            shown.append({**summary, "live": live, "contact": contact})
            if delivered > AT_ONCE and desk.curves.length(model) is None:
                waiting.append(model)
                continue
            layout, why_old = desk.layout(model)
            old_charts = old_charts or why_old
            for curve in layout.curves:
                key = curve.name, curve.over
                overlays.setdefault(key, Overlay(*key, {})).curves[place] = curve.id
    # What most of them measured comes first: that is what can be compared.
    chosen = sorted(overlays.values(), key=lambda one: (-len(one.curves), one.name))
    told = sorted(chosen[:_METRICS], key=lambda one: one.name)
    return {
        "sessions": shown,
        "waiting": waiting,
        "gone": gone,
        "old_charts": old_charts,
        "overlays": told,
        "first": _first_points(desk, shown, told),
        "left": max(0, len(chosen) - _METRICS),
        "most": MOST,
    }


def _first_points(desk: Desk, shown: list[dict[str, Any]], overlays: list[Overlay]) -> str:
    """Where the points of the first chart are, which a browser fetches while it still reads the page; or nothing."""
    if not overlays:
        return ""
    told = [("of", f"{shown[place]['id']}:{curve}") for place, curve in overlays[0].curves.items()]
    # A chart of many lines has no more pixels than one of a single line.
    parts = max(_LEAST, round(_PARTS / math.sqrt(len(told))))
    return f"{desk.root}/compare/points?{urlencode([*told, ('parts', str(parts))])}"


def _wanted(request: Request) -> list[str]:
    """The sessions that are asked for, each once. Raises `Problem` 422 for more than can be told apart."""
    wanted = list(dict.fromkeys(request.query_params.getlist("session")))
    if len(wanted) > MOST:
        raise Problem(422, "too_many", f"at most {MOST} sessions can be compared; {len(wanted)} were chosen")
    return wanted


def _points(desk: Desk, owner: str, told: list[str], wanted: Stretch) -> bytes:
    """Points of curves of several sessions: `told` holds `SESSION:CURVE`. Raises `Problem` 404 or 422."""
    found = []
    with desk.store.database.reading() as connection:
        for one in told:
            model, _, curve = one.rpartition(":")
            sessions.find(connection, model, owner)
            points = desk.curves.points(model, whole(curve, "the curve of SESSION:CURVE"), *wanted)
            found.append(None if points is None else points._asdict())
    return msgspec.json.encode({"curves": found})


def add(app: FastAPI, desk: Desk) -> None:
    """Adds the page, and its points."""

    @app.get("/compare", include_in_schema=False)
    async def compare_page(request: Request) -> Response:
        owner = await desk.visitor(request)
        if owner is None:
            return desk.to_login(request)
        view = await run_in_threadpool(_view, desk, owner, _wanted(request))
        answer = desk.page(request, "compare.html", view)
        if view["waiting"]:
            answer.background = BackgroundTask(desk.make_ready, view["waiting"])
        return answer

    @app.get("/compare/points", include_in_schema=False)
    async def compare_points(request: Request) -> Response:
        owner = await desk.known(request)
        query = request.query_params
        body = await run_in_threadpool(_points, desk, owner, query.getlist("of")[:MOST], stretch(query))
        return Response(body, 200, HEADERS, "application/json")
