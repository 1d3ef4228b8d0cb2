"""What the old HUB offered beside trainings and this hub does not: an honest empty list, or a refusal that tells why.

Each is answered so that its unmodified client goes on: a list that is empty, a thing that is not found, or a sentence in
the place where that client looks for one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fastapi import FastAPI, Request
from fastapi.responses import Response

from hubstate.server.answers import Answer, Problem
from hubstate.server.shells import Wiring, caller_of, drain, respond

__all__ = ["REFUSED", "SHELVES", "add_unoffered"]

_DOWNLOAD = "use the downloaded weights where you work"
#: What is refused, whatever is sent, and why.
REFUSED = {
    "/v1/auth/auto": "logs nobody in by another site's cookie: use a key",
    "/v1/models/{model}/export": f"exports no model: {_DOWNLOAD}",
    "/get-export": f"exports no model: {_DOWNLOAD}",
    "/v1/predict/{model}": f"predicts nothing: {_DOWNLOAD}",
    "/model-reset": "takes nothing back: delete the session, or begin a new one",
}
#: Where the old HUB kept things of other kinds.
SHELVES = ("/v1/projects", "/v1/datasets", "/v1/users")

Shell = Callable[[Request], Awaitable[Response]]


def add_unoffered(app: FastAPI, wiring: Wiring) -> None:
    """Adds the calls to the application."""

    def add(method: str, path: str, summary: str, shell: Shell) -> None:
        app.add_api_route(path, shell, methods=[method], summary=summary)

    for path, why in REFUSED.items():
        add("POST", path, "Not offered", _refusing(wiring, 501, why))
    for path in SHELVES:
        things = path.rpartition("/")[2]
        none = _refusing(wiring, 404, f"holds no {things}")
        add("GET", path, f"No {things}", _empty(wiring))
        keeps_none = _refusing(wiring, 501, f"keeps no {things}: a session names its project and dataset")
        add("POST", path, "Not offered", keeps_none)
        for method in ("GET", "PATCH", "DELETE"):
            add(method, f"{path}/{{thing}}", f"None of the {things}", none)
        add("POST", f"{path}/{{thing}}/upload", f"None of the {things}", none)


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
