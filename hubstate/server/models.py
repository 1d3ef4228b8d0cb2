"""Looking at what the hub holds, and looking after it: read, list, rename, delete, fetch, ask to stop.

None of these is a sign of life of a training.
"""

from __future__ import annotations

import base64
import re
import shutil
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, and_, func, or_, select, update

from hubstate.server import rows as rows_room
from hubstate.server import schema, sessions
from hubstate.server.answers import Answer, Caller, Problem
from hubstate.server.bodies import json_object
from hubstate.server.describe import model_of, summary_of
from hubstate.server.sessions import about
from hubstate.server.store import Store

__all__ = [
    "ask_to_stop",
    "delete_model",
    "digest_header",
    "get_metrics",
    "get_model",
    "list_models",
    "patch_model",
]

_PAGE, _BIGGEST_PAGE = 10, 1000


def get_model(store: Store, caller: Caller, model: str, now: float) -> Answer:
    """`GET /v1/models/{id}`."""
    with store.database.reading() as connection:
        session = sessions.find(connection, model, caller.owner)
        data = model_of(store, connection, session, caller.base, now)
        return about(session, caller, data)


def list_models(store: Store, caller: Caller, query: Mapping[str, str], now: float) -> Answer:
    """`GET /v1/models`: newest first, in pages; `last_doc_id` is the last id of the page before."""
    table = schema.sessions
    wanted = and_(table.c.owner == caller.owner, table.c.deleted_at.is_(None))
    if query.get("query"):
        wanted = and_(wanted, table.c.name.contains(query["query"], autoescape=True))
    if query.get("public", "").lower() == "true":
        wanted = and_(wanted, table.c.id.is_(None))  # nothing is public here
    asked = query.get("limit", "")
    limit = min(int(asked), _BIGGEST_PAGE) if re.fullmatch(r"[1-9]\d{0,8}", asked) else _PAGE
    with store.database.reading() as connection:
        total = connection.execute(select(func.count()).select_from(table).where(wanted)).scalar_one()
        page = select(table).where(wanted).order_by(table.c.created_at.desc(), table.c.id.desc())
        last = query.get("last_doc_id")
        if last:
            since = connection.execute(
                select(table.c.created_at).where(table.c.id == last, table.c.owner == caller.owner)
            ).scalar_one_or_none()
            if since is None:
                since = float("-inf")
            older = table.c.created_at < since
            page = page.where(or_(older, and_(table.c.created_at == since, table.c.id < last)))
        found = connection.execute(page.limit(limit + 1)).mappings().all()
        results = [
            {**summary_of(connection, session, now), "meta": {"name": session["name"]}}
            for session in found[:limit]
        ]
    more = results[-1]["id"] if len(found) > limit else None
    data = {"results": results, "total": total, "lastRecordId": more}
    return Answer({"success": True, "message": "ok", "data": data})


def patch_model(store: Store, caller: Caller, model: str, body: bytes, now: float) -> Answer:
    """`PATCH /v1/models/{id}`: what is sent is merged into the HUB v1 body; `meta.name` renames the session."""
    asked = json_object(body)

    def effect(connection: Connection) -> tuple[str, Any]:
        session = sessions.find(connection, model, caller.owner)
        merged = dict(session["body"])
        for name in ("config", "dataset", "lineage", "meta"):
            if isinstance(asked.get(name), dict):
                before = merged.get(name)
                merged[name] = {**(before if isinstance(before, dict) else {}), **asked[name]}
        values: dict[str, Any] = {"body": merged}
        meta = asked.get("meta")
        renamed = meta.get("name") if isinstance(meta, dict) else None
        if isinstance(renamed, str) and 0 < len(renamed) <= 500:
            values["name"] = renamed
        connection.execute(update(schema.sessions).where(schema.sessions.c.id == model).values(**values))
        return model, {"id": model}

    return sessions.once(store, caller, sessions.digest_of(body), now, effect, contact=False)


def delete_model(store: Store, caller: Caller, model: str, *, hard: bool, now: float) -> Answer:
    """`DELETE /v1/models/{id}`: hidden, or with `hard=True` removed with its rows and files."""
    with store.database.writing() as connection:
        sessions.find(connection, model, caller.owner)
        if hard:
            sessions.forget(connection, model)
        else:
            connection.execute(
                update(schema.sessions).where(schema.sessions.c.id == model).values(deleted_at=now)
            )
    folder = store.files / model
    if hard and folder.is_dir():
        shutil.rmtree(folder)
    return Answer({"success": True, "message": "ok", "data": {"id": model}})


def get_metrics(store: Store, caller: Caller, model: str, attempt: str, _now: float) -> Answer:
    """`GET /v1/models/{id}/metrics`: the rows in force; with `attempt=all` every one, with a number that attempt's."""
    with store.database.reading() as connection:
        session = sessions.find(connection, model, caller.owner)
        if not attempt:
            return about(session, caller, rows_room.in_force(connection, model, raw=True))
        every = rows_room.every_row(connection, model)
        if attempt != "all":
            if not re.fullmatch(r"\d{1,15}", attempt):
                raise Problem(422, "invalid", "attempt is a number or 'all'")
            every = [row for row in every if row["attempt"] == int(attempt)]
        return about(session, caller, every)


def digest_header(sha256: str) -> str:
    """The header `Repr-Digest` of a file."""
    return f"sha-256=:{base64.b64encode(bytes.fromhex(sha256)).decode()}:"


def ask_to_stop(store: Store, caller: Caller, model: str, reason: str) -> None:
    """Sets the wish that the training stops; every answer carries it until the next attempt."""
    with store.database.writing() as connection:
        sessions.find(connection, model, caller.owner)
        connection.execute(update(schema.sessions).where(schema.sessions.c.id == model).values(stop=reason))
