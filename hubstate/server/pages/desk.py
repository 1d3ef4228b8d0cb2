"""What all pages share: who looks, what they are rendered from, and how a template becomes an answer."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import quote, urlsplit

import jinja2
from fastapi import Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from starlette.concurrency import run_in_threadpool

from hubstate.errors import StorageError
from hubstate.log import log
from hubstate.server.admission import COOKIE, admit_page, check_same_site
from hubstate.server.answers import Problem
from hubstate.server.curves import Curves, Layout
from hubstate.server.pages import assets, words
from hubstate.server.pages.counts import Counts
from hubstate.server.pages.machine import Ways
from hubstate.server.pages.watch import Watch
from hubstate.server.shells import Wiring, base_of, visit_of

__all__ = ["AT_ONCE", "HEADERS", "Desk", "page_of_problem", "wants_page"]

#: What every page says to the browser: nothing from elsewhere, no script or style that stands in a page, no frame.
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}

#: How often it is looked for curves of sessions that were removed (seconds).
_TIDY = 3_600.0
#: A page waits for the curves of sessions of so many rows; of longer ones it is shown first.
AT_ONCE = 5000
_OLD_CHARTS = (
    "The hub's disk does not take the copy that charts are drawn from, so they may lack the newest rows."
)


class Desk:
    """Where the pages are made. `root`: the path under which a proxy shows the hub, empty or like `/hub`."""

    def __init__(self, wiring: Wiring) -> None:
        self.wiring = wiring
        self.store = wiring.store
        self.root = _root(wiring)
        self.curves = Curves(self.store.data_dir / "curves.sqlite", self.store.database)
        self.watch = Watch(self.store)
        self.counts = Counts()
        self.ways = Ways()
        self._templates = environment(wiring)
        self._kept: dict[object, tuple[object, Any]] = {}
        self._keeping = threading.Lock()
        self._making: set[str] = set()

    def close(self) -> None:
        """Lets go of the files; no request may be under way."""
        self.watch.close()
        self.curves.close()

    def end_streams(self) -> None:
        """Ends all streams of events, in the event loop's thread: the server stops."""
        self.watch.end()

    def now(self) -> float:
        return self.wiring.wall()

    # -- who looks ---------------------------------------------------------------------------------------

    async def visitor(self, request: Request) -> str | None:
        """The owner for whom a page is shown; None where somebody has to log in first. Raises `Problem` 403."""
        return await run_in_threadpool(admit_page, self.store, visit_of(request, self.wiring), self.now())

    async def known(self, request: Request) -> str:
        """The owner for whom a script of a page fetches something. Raises `Problem` 401 where nobody is logged in."""
        owner = await self.visitor(request)
        if owner is None:
            raise Problem(401, "unauthorized", "log in again: this page's login ended")
        return owner

    def check_form(self, request: Request) -> None:
        """Refuses a form that another site's page sends. Raises `Problem` 403."""
        check_same_site(visit_of(request, self.wiring), self.wiring.public_url)

    def base(self, request: Request) -> str:
        """The hub's address as whoever looks sees it."""
        return base_of(request, self.wiring)

    # -- answers -----------------------------------------------------------------------------------------

    def text(self, name: str, view: dict[str, Any]) -> str:
        """A template, rendered."""
        return self._templates.get_template(name).render(**view)

    def page(self, request: Request, name: str, view: dict[str, Any], status: int = 200) -> HTMLResponse:
        """A page. `keyed`: whether there is a login that can be ended."""
        shown = {"keyed": COOKIE in request.cookies, "here": request.url.path, **view}
        return HTMLResponse(self.text(name, shown), status, HEADERS)

    def to(self, path: str) -> Response:
        """Leads to a path of this hub."""
        return RedirectResponse(self.root + path, 303, HEADERS)

    def to_login(self, request: Request, goal: str | None = None) -> Response:
        """Leads to the form, which leads on to `goal`, a page of this hub, or back to where it was asked for."""
        asked = goal or request.url.path + (f"?{request.url.query}" if request.url.query else "")
        return self.to(f"/login?next={quote(asked, safe='/')}")

    # -- charts ------------------------------------------------------------------------------------------

    def layout(self, session: str) -> tuple[Layout, str]:
        """The curves of a session, and in words why they may be older than its rows: empty where they are not."""
        try:
            return self.curves.lay_out(session), ""
        except StorageError as error:
            log("hubstate.server").error("hubstate.hub_storage_failed", reason=str(error))
            return self.curves.layout(session), _OLD_CHARTS

    async def make_ready(self, listed: Sequence[str]) -> None:
        """Lays out the curves of sessions that nobody looked at yet, one after the other, until the server stops."""
        for session in listed:
            if self.watch.ended:
                return
            if session in self._making or self.curves.length(session) is not None:
                continue
            self._making.add(session)
            try:
                await run_in_threadpool(self.layout, session)
            finally:
                self._making.discard(session)

    def tidy(self, _now: float) -> float:
        """Lets go of the curves of sessions that were removed; in how many seconds to do it again."""
        try:
            self.curves.sweep()
        except sqlite3.DatabaseError as error:
            raise StorageError(f"the copy that charts are drawn from cannot be tidied: {error}") from error
        return _TIDY

    # -- what need not be made twice ---------------------------------------------------------------------

    def kept(self, what: object, as_of: object, make: Callable[[], Any]) -> Any:
        """What `make` makes, or what it made before for the same `as_of`. Many pages may show the same."""
        with self._keeping:
            found = self._kept.get(what)
        if found is not None and found[0] == as_of:
            return found[1]
        made = make()
        with self._keeping:
            if len(self._kept) > 500:
                self._kept.clear()
            self._kept[what] = (as_of, made)
        return made


def wants_page(request: Request) -> bool:
    """Whether an answer goes to a person's browser."""
    return not request.url.path.startswith(("/v1", "/api/")) and "text/html" in request.headers.get(
        "accept", ""
    )


def page_of_problem(wiring: Wiring) -> Callable[[Problem], Response]:
    """How a refusal looks on a page."""
    template = environment(wiring).get_template("problem.html")

    def page(problem: Problem) -> Response:
        return HTMLResponse(template.render(problem=problem, keyed=False, here=""), problem.status, HEADERS)

    return page


def environment(wiring: Wiring) -> jinja2.Environment:
    """What templates may use. All that they are given is escaped."""
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("hubstate.server"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.globals.update(
        root=_root(wiring), static=f"{_root(wiring)}{assets.PATH}", read_only=wiring.store.read_only
    )
    templates.filters.update(words.filters(wiring.wall))
    return templates


def _root(wiring: Wiring) -> str:
    return urlsplit(wiring.public_url).path.rstrip("/") if wiring.public_url else ""
