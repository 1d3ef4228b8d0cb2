"""The hub's web application: thin shells that read a request, call a plain function in a thread, write its answer.

Every answer under `/v1` is a small JSON object with a Content-Length, refusals and accidents included: an old
client stops the user's training on an HTML page. Nothing is ever redirected there: an old client turns a
redirected POST into a GET and believes that it was a success.
"""

from __future__ import annotations

import asyncio
import errno
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import sqlalchemy
from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import ClientDisconnect

from hubstate.log import log
from hubstate.server import calls, models, signing, tus
from hubstate.server.answers import Answer, Caller, Problem
from hubstate.server.checkpoints import ending_of
from hubstate.server.downloads import Download, open_file
from hubstate.server.mirror import Looking
from hubstate.server.openapi import describe_calls
from hubstate.server.pages import add_pages, page_of_problem, wants_page
from hubstate.server.platform.routes import add_platform
from hubstate.server.rates import Rates
from hubstate.server.shells import Wiring, as_json, asked, caller_of, drain, pieces, respond
from hubstate.server.store import Store
from hubstate.server.unoffered import add_unoffered
from hubstate.server.uploads import Received, Receiver, digest_of_header
from hubstate.server.watching import Counting, add_watching

__all__ = ["build"]

#: A body of fewer bytes is read on the spot: that takes less than handing it to a thread.
_QUICKLY_READ = 32 * 1024
#: What an address of a session begins with.
_SESSION = "/v1/models/"

#: Takes rows of the session with that id.
_PostRows = Callable[[Request, str], Awaitable[Response]]
_Application = Callable[[Any, Any, Any], Awaitable[None]]


def build(wiring: Wiring) -> FastAPI:
    """The application."""
    app = FastAPI(
        title="hubstate hub",
        description="HUB v1, and what hubstate says beyond it.",
        docs_url=None,  # those pages load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
    )
    post_rows = _add_calls(app, wiring)
    tus.add_uploads(app, wiring)
    _add_files(app, wiring)
    add_platform(app, wiring)
    add_unoffered(app, wiring)
    counts: Counter[int] = Counter()
    add_watching(app, wiring, counts)
    app.state.pages = add_pages(app, wiring)
    _add_refusals(app, wiring)
    app.openapi = describe_calls(app)  # type: ignore[method-assign]
    if wiring.store.read_only:
        app.add_middleware(Looking)
    within: _Application = app.build_middleware_stack()
    if not wiring.store.read_only:
        within = _Quick(app, within, post_rows)
    within = _Cut(within)
    # Around all that answers, accidents included, which what is added as middleware never sees.
    counted = Counting(Rates(within, wiring.store.terms.rate_limit, wiring.wall), counts)
    app.middleware_stack = _OneSlash(counted)
    return app


class _OneSlash:
    """`//v1/auth` is `/v1/auth`: clients concatenate a hub's address that ends in a slash."""

    def __init__(self, app: _Application) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["path"].startswith("//"):
            scope = {**scope, "path": "/" + scope["path"].lstrip("/")}
        await self._app(scope, receive, send)


class _Cut:
    """A request that is cut off, because the time that a stop gives it is over, is told so. It may be taken all the same,
    and sending it again does no harm.
    """

    def __init__(self, app: _Application) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        begun = False

        async def noting(message: Any) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, noting)
        except asyncio.CancelledError:
            if begun:
                return  # the web server closes the connection, and whoever reads misses the rest
            cut = Problem(
                503, "busy", "this hub stopped before the request was whole: send it again in a moment"
            )
            await as_json(cut.body(), cut.status, {"Connection": "close"})(scope, receive, send)


class _Quick:
    """Rows, most of what a hub is asked, go past what FastAPI does for each request: that takes longer than all the rest.

    What goes wrong with them is answered as with all others.
    """

    def __init__(self, app: FastAPI, others: _Application, post_rows: _PostRows) -> None:
        async def quick(scope: Any, receive: Any, send: Any) -> None:
            request = Request(scope, receive)
            response = await post_rows(request, scope["path"].removeprefix(_SESSION))
            await response(scope, receive, send)

        handlers = dict(app.exception_handlers)
        accident: Any = handlers.pop(Exception)
        self._quick = ServerErrorMiddleware(ExceptionMiddleware(quick, handlers), accident)
        self._others = others

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["method"] == "POST" and _is_session(scope["path"]):
            await self._quick(scope, receive, send)
        else:
            await self._others(scope, receive, send)


def _is_session(path: str) -> bool:
    return path.startswith(_SESSION) and path.count("/") == _SESSION.count("/") and path != _SESSION


def _add_calls(app: FastAPI, wiring: Wiring) -> _PostRows:
    """Adds what is asked under `/v1`. Returns the call that takes rows."""
    store, wall = wiring.store, wiring.wall

    @app.post("/v1/auth", summary="Is this key good?")
    async def auth(request: Request) -> Response:
        told: dict[str, Any] = {"success": True, "message": "ok", "hubstate": 1}
        try:
            await caller_of(request, wiring)
        except (OSError, sqlalchemy.exc.OperationalError) as error:
            log("hubstate.server").error("hubstate.hub_keys_unread", reason=str(error))
            # An old client reads no status, and takes any other word than this for a wrong key, which it then forgets.
            passing = "the hub cannot look at its keys just now: try again later"
            return as_json({**told, "message": passing, "error": "storage_failing"}, 503)
        return as_json({**told, "data": {"tus": tus.VERSION, "archive": "tar"}}, 200)

    @app.post("/v1/models", summary="Open a session, or its next attempt")
    async def open_model(request: Request) -> Response:
        caller, body = await asked(request, wiring)
        return respond(await run_in_threadpool(calls.open_model, store, caller, body, wall()))

    @app.get("/v1/models", summary="The sessions, newest first")
    async def list_models(request: Request) -> Response:
        caller = await caller_of(request, wiring)
        query = dict(request.query_params)
        return respond(await run_in_threadpool(models.list_models, store, caller, query, wall()))

    @app.get("/v1/models/{model}", summary="All that is known of a session")
    async def get_model(request: Request, model: str) -> Response:
        caller = await caller_of(request, wiring)
        return respond(await run_in_threadpool(models.get_model, store, caller, model, wall()))

    @app.patch("/v1/models/{model}", summary="Rename a session, or change what was said of it")
    async def patch_model(request: Request, model: str) -> Response:
        caller, body = await asked(request, wiring)
        return respond(await run_in_threadpool(models.patch_model, store, caller, model, body, wall()))

    @app.delete("/v1/models/{model}", summary="Hide a session, or with hard=True remove it")
    async def delete_model(request: Request, model: str) -> Response:
        caller = await caller_of(request, wiring)
        hard = request.query_params.get("hard", "").lower() == "true"

        def delete() -> Answer:
            return models.delete_model(store, caller, model, hard=hard, now=wall())

        return respond(await run_in_threadpool(delete))

    @app.get("/v1/models/{model}/metrics", summary="The rows in force, or every one (attempt=all)")
    async def get_metrics(request: Request, model: str) -> Response:
        caller = await caller_of(request, wiring)
        attempt = request.query_params.get("attempt", "")
        return respond(await run_in_threadpool(models.get_metrics, store, caller, model, attempt, wall()))

    post_rows = _add_posts(app, wiring)

    @app.post("/v1/models/{model}/upload", summary="A checkpoint")
    async def upload(request: Request, model: str) -> Response:
        stream = request.stream()
        try:
            caller = await caller_of(request, wiring)
            declared = request.headers.get("content-length", "")
            length = int(declared[:20]) if declared.isascii() and declared.isdigit() else None
            sha256 = digest_of_header(request.headers.get("repr-digest", "")) or ""
            known = await run_in_threadpool(
                calls.upload_may_come, store, caller, model, length, sha256, wall()
            )
            if known is not None:
                await drain(stream, store.upload_limit)
                return respond(known)
            return respond(await _receive(request, stream, wiring, caller, model))
        except (Problem, OSError, sqlalchemy.exc.OperationalError):
            await drain(stream)
            raise

    return post_rows


def _add_posts(app: FastAPI, wiring: Wiring) -> _PostRows:
    """The calls that post JSON about one session. Returns the one that takes rows."""
    posts: list[tuple[str, str, Callable[[Store, Caller, str, bytes, float], Answer]]] = [
        ("/v1/models/{model}/end", "The end of an attempt", calls.end_model),
        ("/v1/models/{model}/steps", "Lines of the journal", calls.post_steps),
        ("/v1/models/{model}/usage", "A validation, prediction or export began", calls.post_usage),
        ("/v1/agent/heartbeat/models/{model}", "A sign of life", calls.heartbeat),
    ]
    for path, summary, call in posts:
        app.post(path, summary=summary, name=call.__name__)(_posting(wiring, call))

    @app.post("/v1/models/{model}", summary="Rows")
    async def post_rows(request: Request, model: str) -> Response:
        caller, body = await asked(request, wiring)
        if len(body) < _QUICKLY_READ:
            work = calls.rows_work(caller, model, body, wiring.wall())
        else:
            work = await run_in_threadpool(calls.rows_work, caller, model, body, wiring.wall())
        return respond(await wiring.store.writer.do(work))

    return post_rows


def _posting(
    wiring: Wiring, call: Callable[[Store, Caller, str, bytes, float], Answer]
) -> Callable[[Request, str], Awaitable[Response]]:
    async def post(request: Request, model: str) -> Response:
        caller, body = await asked(request, wiring)
        return respond(await run_in_threadpool(call, wiring.store, caller, model, body, wiring.wall()))

    return post


async def _receive(
    request: Request, stream: AsyncIterator[bytes], wiring: Wiring, caller: Caller, model: str
) -> Answer:
    store = wiring.store
    receiver = Receiver(store.incoming, request.headers.get("content-type", ""), store.upload_limit)
    try:
        async for piece in pieces(stream, store.terms.patience):
            await run_in_threadpool(receiver.write, piece)
        received: Received = await run_in_threadpool(receiver.finish)
        await caller_of(request, wiring)  # it may have taken hours, and the key may have been revoked since
        digest = request.headers.get("repr-digest", "")
        return await run_in_threadpool(
            calls.take_upload, store, caller, model, received, digest, wiring.wall()
        )
    finally:
        await run_in_threadpool(receiver.abandon)


def _add_files(app: FastAPI, wiring: Wiring) -> None:
    store = wiring.store

    path_of = "/v1/files/{model}/{sha256}/{name}"

    @app.head(path_of, include_in_schema=False)
    @app.get(path_of, summary="A stored file")
    async def file(model: str, sha256: str, name: str, until: str = "", signature: str = "") -> Response:
        kind = name.partition(".")[0].partition("-")[0]
        if not signing.file_allowed(store.secret, model, kind, sha256, until, signature, wiring.wall()):
            raise Problem(403, "bad_signature", "this address is not signed by this hub, or it is too old")
        opened = await run_in_threadpool(open_file, store, model, sha256, kind)
        headers = {
            "Repr-Digest": models.digest_header(sha256),
            "Cache-Control": "private, max-age=86400",
            "X-Content-Type-Options": "nosniff",
        }
        return Download(opened, headers, f"{model}-{kind}{ending_of(opened.path.name)}")


# -- refusals --------------------------------------------------------------------------------------------


def _add_refusals(app: FastAPI, wiring: Wiring) -> None:
    """Whatever goes wrong is answered in JSON, or to a person's browser as a page."""
    page_of = page_of_problem(wiring)

    def refuse(request: Request, problem: Problem) -> Response:
        if wants_page(request):
            return page_of(problem)
        headers = {"WWW-Authenticate": "Bearer"} if problem.status == 401 else {}
        if problem.status == 408:
            headers["Connection"] = "close"  # the rest of the body may come after all, and is no next request
        return as_json(problem.body(), problem.status, headers)

    @app.exception_handler(Problem)
    async def refused(request: Request, problem: Problem) -> Response:
        return refuse(request, problem)

    @app.exception_handler(HTTPException)
    async def no_such_call(request: Request, error: HTTPException) -> Response:
        short = {404: "no_such_call", 405: "method_not_allowed"}.get(error.status_code, "invalid")
        message = f"{request.method} {request.url.path[:200]}: this hub has no such call"
        return refuse(request, Problem(error.status_code, short, message))

    @app.exception_handler(OSError)
    async def disk(request: Request, error: OSError) -> Response:
        log("hubstate.server").error("hubstate.hub_storage_failed", reason=str(error))
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        status, short = (507, "storage_full") if full else (503, "storage_failing")
        reason = error.strerror or "the hub's log tells more"
        return refuse(
            request, Problem(status, short, f"the hub's disk did not take it: {reason}; try again later")
        )

    @app.exception_handler(sqlalchemy.exc.OperationalError)
    async def database(request: Request, error: sqlalchemy.exc.OperationalError) -> Response:
        log("hubstate.server").error("hubstate.hub_database_failed", reason=str(error.orig))
        message = f"the hub's database did not take it: {error.orig}; try again later"
        return refuse(request, Problem(503, "storage_failing", message))

    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, _error: ClientDisconnect) -> Response:
        return refuse(request, Problem(400, "incomplete", "the request ended before its body did"))

    @app.exception_handler(Exception)
    async def accident(request: Request, _error: Exception) -> Response:
        message = "an accident in the hub: its log tells more; try again"
        answer = refuse(request, Problem(500, "accident", message))
        # The web server ends the connection after an accident: the client must not send its next request on it.
        answer.headers["Connection"] = "close"
        return answer
