"""An event under way: to which session and run it belongs, and how what it said is kept."""

from __future__ import annotations

from typing import Any, NamedTuple

from sqlalchemy import Connection, RowMapping, select
from sqlalchemy.dialects.sqlite import insert as insert_or

from hubstate.server import sessions
from hubstate.server.answers import Caller, Problem
from hubstate.server.platform import words
from hubstate.server.schema import said
from hubstate.server.schema import sessions as table
from hubstate.server.store import Store

__all__ = ["Heard", "identified", "keep", "named", "note"]


class Heard(NamedTuple):
    """An event under way: the transaction, the session and the attempt that it belongs to, and when it came."""

    store: Store
    connection: Connection
    session: RowMapping
    attempt: int
    data: dict[str, Any]
    now: float

    @property
    def model(self) -> str:
        """The session's id."""
        return str(self.session["id"])


def identified(connection: Connection, caller: Caller, asked: dict[str, Any]) -> RowMapping:
    """The session that a request names by its id, or by project and name. Raises `Problem` 404."""
    model = asked.get("modelId")
    if isinstance(model, str):
        return sessions.find(connection, model, caller.owner)
    found = named(connection, caller.owner, str(asked.get("project", "")), str(asked.get("name", "")))
    if found is None:
        raise Problem(404, "not_found", "no model of that project and name is at this hub")
    return found


def named(connection: Connection, owner: str, project: str, name: str) -> RowMapping | None:
    """The newest session of that project and name; None if there is none."""
    query = select(table).where(
        table.c.owner == owner, table.c.project == project, table.c.name == name, table.c.deleted_at.is_(None)
    )
    return connection.execute(query.order_by(table.c.created_at.desc()).limit(1)).mappings().one_or_none()


def keep(heard: Heard, event: str, data: dict[str, Any] | None = None) -> None:
    """Keeps what an event said; a repeat of it is not kept twice. `data`: in place of what it said."""
    heard.connection.execute(
        insert_or(said)
        .values(
            session=heard.model,
            attempt=heard.attempt,
            event=event,
            digest=words.digest_of(heard.data),
            at=heard.now,
            data=heard.data if data is None else data,
        )
        .on_conflict_do_nothing()
    )


def note(heard: Heard, *odd: str) -> None:
    for what in odd:
        sessions.note_problem(heard.connection, heard.model, what, heard.now)
