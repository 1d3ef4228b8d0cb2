"""The list of sessions: searched, filtered, in pages, and live.

What the list asks for stands in its address, so that it can be kept, sent to somebody, and stepped back to.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import urlencode

from fastapi import FastAPI, Request
from fastapi.responses import Response
from markupsafe import Markup
from sqlalchemy import ColumnElement, Connection, and_, func, or_, select, text
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool

from hubstate.server import describe, rows, schema, sessions
from hubstate.server.pages.desk import AT_ONCE, Desk
from hubstate.server.pages.digests import digest
from hubstate.states import LIVE_STATES, State

__all__ = ["Asked", "add", "list_rows", "list_view", "position_of_list"]

#: How many sessions a page of the list shows, and how many choices a filter offers.
PAGE, _CHOICES = 50, 200
_TEXT = 200
#: From so many rows on a session's curves are laid out before somebody asks for them.
_WORTH_IT = AT_ONCE // 2

#: What can be asked for by its state: the word in the address, and what is written.
STATES = {
    "live": "running now",
    "silent": "no contact",
    State.DONE.value: "done",
    State.ABORTED.value: "aborted",
}
_LIVE = frozenset(state.value for state in LIVE_STATES)
_DONE = frozenset({State.DONE.value, State.FINALIZING.value})

_sessions = schema.sessions


class Asked(NamedTuple):
    """What the list was asked for. `page` counts from 1."""

    query: str = ""
    state: str = ""
    project: str = ""
    tag: str = ""
    page: int = 1

    @classmethod
    def of(cls, told: Mapping[str, str]) -> Asked:
        """Reads an address. What makes no sense is left out."""
        state = told.get("state", "")
        page = told.get("page", "")
        return cls(
            told.get("q", "").strip()[:_TEXT],
            state if state in STATES or state in State._value2member_map_ else "",
            told.get("project", "")[:2000],
            told.get("tag", "")[:2000],
            int(page) if re.fullmatch(r"[1-9][0-9]{0,5}", page) else 1,
        )

    @property
    def narrowed(self) -> bool:
        """Whether it asks for less than all."""
        return bool(self.query or self.state or self.project or self.tag)

    def address(self, page: int) -> str:
        """The part of the address behind the path, for that page of the same list."""
        told = {"q": self.query, "state": self.state, "project": self.project, "tag": self.tag}
        if page > 1:
            told["page"] = str(page)
        return "?" + urlencode({name: value for name, value in told.items() if value})

    def condition(self, owner: str, now: float, *, read_only: bool) -> ColumnElement[bool]:
        """The same as a condition on the table of sessions.

        `read_only`: nothing is sent here, so a training that came to its end is done, whatever waits for a hub.
        """
        done = _DONE if read_only else frozenset({State.DONE.value})
        found = [_sessions.c.owner == owner, _sessions.c.deleted_at.is_(None)]
        if self.query:
            found.append(
                or_(
                    _sessions.c.name.contains(self.query, autoescape=True),
                    _sessions.c.id.startswith(self.query, autoescape=True),
                )
            )
        heard = _sessions.c.last_contact >= now - sessions.SILENCE
        if self.state == "live":
            found += [_sessions.c.state.in_(_LIVE - done), heard]
        elif self.state == "silent":
            found += [_sessions.c.state.in_(_LIVE - done), ~heard]
        elif self.state == State.DONE.value:
            found.append(_sessions.c.state.in_(done))
        elif self.state:
            found.append(_sessions.c.state == self.state)
        if self.project:
            found.append(_sessions.c.project == self.project)
        if self.tag:
            has = text("EXISTS (SELECT 1 FROM json_each(sessions.tags) WHERE value = :asked_tag)")
            found.append(has.bindparams(asked_tag=self.tag))  # type: ignore[arg-type]
        return and_(*found)


def list_view(desk: Desk, owner: str, asked: Asked) -> dict[str, Any]:
    """What the list shows."""
    now = desk.now()
    wanted = asked.condition(owner, now, read_only=desk.store.read_only)
    with desk.store.database.reading() as connection:
        total = connection.execute(select(func.count()).select_from(_sessions).where(wanted)).scalar_one()
        page = min(asked.page, max(1, -(-total // PAGE)))
        found = _page(desk, connection, wanted, (page - 1) * PAGE, now)
        mine = and_(_sessions.c.owner == owner, _sessions.c.deleted_at.is_(None))
        query = select(_sessions.c.project).where(mine, _sessions.c.project.is_not(None)).distinct()
        projects = connection.execute(query.order_by(_sessions.c.project).limit(_CHOICES)).scalars().all()
        tags = connection.execute(
            text(
                "SELECT DISTINCT value FROM sessions, json_each(sessions.tags) "
                "WHERE owner = :owner AND deleted_at IS NULL AND type = 'text' ORDER BY value LIMIT :most"
            ),
            {"owner": owner, "most": _CHOICES},
        )
        view = {"projects": projects, "tags": tags.scalars().all()}
    listed = _rendered(desk, found)
    return {
        **view,
        "rows": [(one[0], Markup(one[1])) for one in listed],  # noqa: S704 -- rendered and escaped
        "position": position_of_list(listed),
        "big": [one["id"] for one in found if one["delivered"] >= _WORTH_IT],
        "asked": asked._replace(page=page),
        "states": STATES,
        "total": total,
        "first": (page - 1) * PAGE + 1,
        "newer": asked.address(page - 1) if page > 1 else None,
        "older": asked.address(page + 1) if page * PAGE < total else None,
    }


def list_rows(desk: Desk, owner: str, asked: Asked) -> list[tuple[str, str]]:
    """The same sessions, each with its row of the table."""

    def make() -> list[tuple[str, str]]:
        now = desk.now()
        with desk.store.database.reading() as connection:
            wanted = asked.condition(owner, now, read_only=desk.store.read_only)
            found = _page(desk, connection, wanted, (asked.page - 1) * PAGE, now)
        return _rendered(desk, found)

    made: list[tuple[str, str]] = desk.kept(("list", owner, asked), desk.watch.ticks, make)
    return made


def position_of_list(listed: list[tuple[str, str]]) -> str:
    """What tells whether a list is as it was."""
    return digest("\0".join(f"{session} {text}" for session, text in listed))


def _rendered(desk: Desk, found: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(one["id"], desk.text("list/row.html", {"session": one})) for one in found]


def _page(
    desk: Desk, connection: Connection, wanted: ColumnElement[bool], offset: int, now: float
) -> list[dict[str, Any]]:
    query = select(_sessions).where(wanted).order_by(_sessions.c.created_at.desc(), _sessions.c.id.desc())
    newest = rows.newest_of_all(connection)
    return [
        {
            **describe.summary_of(
                connection, session, now, delivered=desk.counts.of(connection, session, newest)
            ),
            "live": sessions.is_live(session),
            "contact": sessions.in_contact(session, now),
            "still": sessions.still_since(session, now) is not None,
        }
        for session in connection.execute(query.limit(PAGE).offset(offset)).mappings()
    ]


def add(app: FastAPI, desk: Desk) -> None:
    """Adds the list."""

    @app.get("/", include_in_schema=False)
    async def index(request: Request) -> Response:
        owner = await desk.visitor(request)
        if owner is None:
            return desk.to_login(request)
        asked = Asked.of(request.query_params)
        view = await run_in_threadpool(list_view, desk, owner, asked)
        answer = desk.page(request, "index.html", {**view, "address": desk.base(request)})
        if view["big"]:
            # Whoever sees the list may open one of them next: its charts are made ready meanwhile.
            answer.background = BackgroundTask(desk.make_ready, view["big"])
        return answer
