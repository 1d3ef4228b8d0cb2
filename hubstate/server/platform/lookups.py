"""What a user's tools look up: whose a key is (`yolo login`), a model by its name, its weights (`ul://`), what was said."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, RowMapping, func, select

from hubstate.server import sessions
from hubstate.server.answers import Answer, Caller, Problem
from hubstate.server.describe import checkpoints_of, model_of
from hubstate.server.platform.heard import named
from hubstate.server.schema import said
from hubstate.server.schema import sessions as table
from hubstate.server.store import Store
from hubstate.states import CheckpointKind, Outcome, State

__all__ = ["STATUSES", "account", "console_of", "files_named", "model_named", "said_of"]

#: The weights that a tool gets first.
_ORDER = (CheckpointKind.FINAL.value, CheckpointKind.BEST.value, CheckpointKind.LAST.value)
#: What the Platform would call the status of a model that trains, or trained.
STATUSES = ("starting", "running", "completed", "failed", "cancelled")
_STATUS = {
    State.SESSION_CREATED.value: "starting",
    State.DONE.value: "completed",
    State.ABORTED.value: "failed",
}

#: Of what a training printed: so many of the newest pieces, and of these so many lines of so many characters.
_CHUNKS, _LINES, _WIDTH = 200, 300, 500

#: Owner, project and name, as in `ul://owner/project/name`; or `models`, an id, and which of its files comes first.
Name = tuple[str, str, str]
_BY_ID = "models"


def account(store: Store, caller: Caller) -> Answer:
    """`GET /api/account/summary`."""
    mine = (table.c.owner == caller.owner, table.c.deleted_at.is_(None))
    with store.database.reading() as connection:
        models = connection.execute(select(func.count()).select_from(table).where(*mine)).scalar_one()
        projects = connection.execute(
            select(func.count(func.distinct(table.c.project))).where(*mine)
        ).scalar_one()
    return Answer(
        {
            "username": caller.owner,
            "name": caller.owner,
            "accountType": "personal",
            "plan": "free",
            "creditsCents": 0,
            "counts": {"projects": projects, "datasets": 0, "models": models},
            "teams": [],
        }
    )


def model_named(store: Store, caller: Caller, name: Name, now: float) -> Answer:
    """`GET /api/models/{owner}/{project}/{name}`. Raises `Problem` 404."""
    with store.database.reading() as connection:
        session = _find(connection, caller, name)
        told = model_of(store, connection, session, caller.base, now)
    status = (
        "cancelled" if told["outcome"] == Outcome.STOPPED.value else _STATUS.get(told["state"], "running")
    )
    return Answer({**told, "slug": told["name"], "status": status})


def files_named(store: Store, caller: Caller, name: Name, now: float) -> Answer:
    """`GET /api/models/{owner}/{project}/{name}/files`: each with an address that needs no key. Raises `Problem` 404."""
    with store.database.reading() as connection:
        session = _find(connection, caller, name)
        stored = checkpoints_of(store, connection, session, caller.base, now)
    wanted = name[2] if name[0] == _BY_ID else ""
    stored.sort(key=lambda file: (file["kind"] != wanted, _ORDER.index(file["kind"])))
    return Answer(
        {
            "files": [
                {"name": f"{file['kind']}.pt", "size": file["size"], "downloadUrl": file["url"]}
                for file in stored
                if not file["folder"]
            ]
        }
    )


def _find(connection: Connection, caller: Caller, name: Name) -> RowMapping:
    owner, project, model = name
    if owner == _BY_ID:
        return sessions.find(connection, project, caller.owner)
    found = named(connection, caller.owner, f"{owner}/{project}", model) or named(
        connection, caller.owner, project, model
    )
    if found is None:
        raise Problem(404, "not_found", f"no model {owner}/{project}/{model} is at this hub")
    return found


def said_of(store: Store, caller: Caller, model: str, event: str) -> Answer:
    """`GET /v1/models/{id}/said`: in order of attempt and arrival, what a console printed in the order of its pieces."""
    query = select(said.c.attempt, said.c.event, said.c.at, said.c.data).where(said.c.session == model)
    if event:
        query = query.where(said.c.event == event)
    with store.database.reading() as connection:
        session = sessions.find(connection, model, caller.owner)
        found = connection.execute(query.order_by(said.c.attempt, said.c.id)).mappings()
        told = sorted((dict(row) for row in found), key=_place)
    return sessions.about(session, caller, told)


def console_of(connection: Connection, model: str) -> str:
    """The last lines that its trainings printed, as far as they are kept; without what would steer a terminal."""
    query = select(said.c.attempt, said.c.event, said.c.data).where(
        said.c.session == model, said.c.event == "console_output"
    )
    newest = connection.execute(query.order_by(said.c.id.desc()).limit(_CHUNKS)).mappings()
    pieces = sorted((dict(row) for row in newest), key=_place)
    lines = "\n".join(str(piece["data"].get("content", "")) for piece in pieces).splitlines()[-_LINES:]
    return "\n".join("".join(filter(str.isprintable, line[:_WIDTH])) for line in lines)


def _place(row: dict[str, Any]) -> tuple[int, int]:
    chunk = row["data"].get("chunkId") if row["event"] == "console_output" else None
    return row["attempt"], chunk if isinstance(chunk, int) else 0
