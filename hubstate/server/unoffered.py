"""What the old HUB offered beside trainings and this hub does not: an honest empty list, or a refusal that tells why.

Each is answered so that its unmodified client goes on: a list that is empty, a thing that is not found, or a sentence in
the place where that client looks for one. Whoever knows these calls comes from elsewhere, so they are not described.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fastapi import FastAPI, Request
from fastapi.responses import Response

from hubstate.server.answers import Answer, Problem
from hubstate.server.shells import Wiring, caller_of, drain, respond

__all__ = ["add_unoffered"]

_DOWNLOAD = "use the downloaded weights where you work"
_WORK = {
    "/v1/auth/auto": "logs nobody in by another site's cookie: use a key",
    "/v1/models/{model}/export": f"exports no model: {_DOWNLOAD}",
    "/get-export": f"exports no model: {_DOWNLOAD}",
    "/v1/predict/{model}": f"predicts nothing: {_DOWNLOAD}",
    "/model-reset": "takes nothing back: delete the session, or begin a new one",
}
_SHELVES = ("projects", "datasets", "users")

Shell = Callable[[Request], Awaitable[Response]]


def add_unoffered(app: FastAPI, wiring: Wiring) -> None:
    """Adds the calls to the application."""
    for path, why in _WORK.items():
        app.add_api_route(path, _refusing(wiring, 501, why), methods=["POST"], include_in_schema=False)
    for shelf in _SHELVES:
        path = f"/v1/{shelf}"
        none = _refusing(wiring, 404, f"holds no {shelf}")
        keeps_none = _refusing(wiring, 501, f"keeps no {shelf}: a session names its project and dataset")
        app.add_api_route(path, _empty(wiring), methods=["GET"], include_in_schema=False)
        app.add_api_route(path, keeps_none, methods=["POST"], include_in_schema=False)
        app.add_api_route(
            f"{path}/{{thing}}", none, methods=["GET", "PATCH", "DELETE"], include_in_schema=False
        )
        app.add_api_route(f"{path}/{{thing}}/upload", none, methods=["POST"], include_in_schema=False)


def _refusing(wiring: Wiring, status: int, why: str) -> Shell:
    short = "not_found" if status == 404 else "not_offered"

    async def refuse(request: Request) -> Response:
        await drain(request.stream())
        await caller_of(request, wiring)
        raise Problem(status, short, f"this hub {why}")

    return refuse


def _empty(wiring: Wiring) -> Shell:
    async def empty(request: Request) -> Response:
        await caller_of(request, wiring)
        data = {"results": [], "total": 0, "lastRecordId": None}
        return respond(Answer({"success": True, "message": "ok", "data": data}))

    return empty
