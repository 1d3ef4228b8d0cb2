"""The calls: HUB v1, and what a hubstate client says beyond it. Plain functions of the request and the time.

What an old client sends is taken as far as it can be understood, and what cannot is shown on the session's page:
such a client cannot tell one refusal from another, and repeats a refused final upload for half an hour while the
user waits. What hubstate's own client sends is checked strictly.
"""

from __future__ import annotations

import base64
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from sqlalchemy import Connection, and_, func, insert, or_, select, update
from sqlalchemy.dialects.sqlite import insert as insert_or

from hubstate.server import rows as rows_room
from hubstate.server import schema, sessions
from hubstate.server.answers import Answer, Caller, Problem
from hubstate.server.checkpoints import kinds_of, place, stored
from hubstate.server.describe import model_of, summary_of
from hubstate.server.store import Store
from hubstate.server.uploads import Received, digest_of_header
from hubstate.states import CheckpointKind, Outcome, State

__all__ = [
    "ask_to_stop",
    "delete_model",
    "digest_header",
    "end_model",
    "file_of",
    "get_metrics",
    "get_model",
    "heartbeat",
    "list_models",
    "open_model",
    "patch_model",
    "post_rows",
    "post_steps",
    "post_usage",
    "take_upload",
    "upload_may_come",
]

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_PAGE, _BIGGEST_PAGE = 10, 1000

Count = Annotated[int, msgspec.Meta(ge=0, le=rows_room.BIGGEST)]
AttemptNumber = Annotated[int, msgspec.Meta(ge=1, le=rows_room.BIGGEST)]
Words = Annotated[str, msgspec.Meta(max_length=2000)]


class _Opening(msgspec.Struct):
    id: Annotated[str, msgspec.Meta(max_length=64)]
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=500)]
    attempt: AttemptNumber = 1
    first_epoch: Count = 0
    epochs: Count | None = None
    project: Words | None = None
    group: Words | None = None
    tags: list[Words] = []
    config: dict[str, Any] = {}
    started_at: float | None = None


class _Row(msgspec.Struct):
    epoch: Count
    metrics: dict[str, int | float | None]
    attempt: AttemptNumber | None = None
    step: Count | None = None
    final: bool = False
    at: float | None = None
    nonfinite: dict[str, Literal["NaN", "Infinity", "-Infinity"]] = {}


class _Rows(msgspec.Struct):
    metrics: list[_Row]


class _Life(msgspec.Struct):
    attempt: AttemptNumber
    state: State | None = None
    outcome: Outcome | None = None
    epoch: Count | None = None
    waiting: Count | None = None


class _End(msgspec.Struct):
    attempt: AttemptNumber
    state: Literal["done", "aborted"]
    outcome: Outcome
    reason: Words = ""
    rows: Count | None = None


class _Steps(msgspec.Struct):
    steps: list[dict[str, Any]]


class _Usage(msgspec.Struct):
    what: Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
    attempt: AttemptNumber = 1


_T = TypeVar("_T")


def _decoded(body: bytes, kind: type[_T]) -> _T:
    """The body as `kind`. Raises `Problem` 400 for what is no JSON, 422 for JSON of another shape."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise Problem(422, "invalid", f"the body cannot be used: {error}") from error
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise Problem(400, "not_json", f"the body is not the JSON that was expected: {error}") from error


def _object(body: bytes) -> dict[str, Any]:
    found = _decoded(body or b"{}", object)
    if not isinstance(found, dict):
        raise Problem(400, "not_json", "the body must be a JSON object")
    return found


def _converted(part: object, kind: type[_T]) -> _T:
    try:
        return msgspec.convert(part, kind)
    except msgspec.ValidationError as error:
        raise Problem(422, "invalid", f"the body cannot be used: {error}") from error


# -- models ----------------------------------------------------------------------------------------------


def open_model(store: Store, caller: Caller, body: bytes, now: float) -> Answer:
    """`POST /v1/models`: a HUB v1 session, or, with the object `hubstate`, one with the client's own id."""
    asked = _object(body)
    own = asked.pop("hubstate", None)
    if own is None:

        def effect(connection: Connection) -> tuple[str, Any]:
            model = sessions.create_foreign(connection, caller.owner, asked, now)
            return model, {"id": model}

        return sessions.once(store, caller, now, effect)
    opening = _converted(own, _Opening)
    if not _ID.fullmatch(opening.id):
        raise Problem(422, "invalid", "an id is 1 to 64 letters, digits, '-' or '_'; choose another one")

    def effect_own(connection: Connection) -> tuple[str, Any]:
        told = {
            "name": opening.name,
            "epochs": opening.epochs,
            "project": opening.project,
            "group": opening.group,
            "tags": opening.tags,
            "config": opening.config,
        }
        sessions.new_attempt(
            connection,
            caller.owner,
            opening.id,
            attempt=opening.attempt,
            first_epoch=opening.first_epoch,
            body=asked,
            told=told,
            now=now,
        )
        return opening.id, {"id": opening.id}

    return sessions.once(store, caller, now, effect_own)


def get_model(store: Store, caller: Caller, model: str, now: float) -> Answer:
    """`GET /v1/models/{id}`."""
    with store.database.reading() as connection:
        session = sessions.find(connection, model, caller.owner)
        data = model_of(store, connection, session, caller.base, now)
        return _answer(session, caller, data)


def _answer(session: Any, caller: Caller, data: Any) -> Answer:
    return Answer(
        {"success": True, "message": "ok", "data": data, "hubstate": sessions.news(session, caller.base)}
    )


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
                select(table.c.created_at).where(table.c.id == last)
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
    asked = _object(body)

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

    return sessions.once(store, caller, now, effect, contact=False)


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


# -- rows ------------------------------------------------------------------------------------------------


def post_rows(store: Store, caller: Caller, model: str, body: bytes, now: float) -> Answer:
    """`POST /v1/models/{id}`: rows, as HUB v1's dict of JSON texts or as a list."""
    asked = _object(body)
    if asked.get("type", "metrics") != "metrics":
        raise Problem(422, "invalid", "this hub takes posts of the type 'metrics' only")
    metrics = asked.get("metrics")

    def effect(connection: Connection) -> tuple[str, Any]:
        session = sessions.find(connection, model, caller.owner)
        if isinstance(metrics, dict):
            new, odd = rows_room.from_hub_v1(metrics, session["attempt"])
        else:
            new, odd = _own_rows(asked, session["attempt"]), []
        for what in odd:
            sessions.note_problem(connection, model, what, now)
        rows_room.keep(connection, model, new, now)
        _note_progress(connection, session, new)
        return model, {"rows": len(new)}

    return sessions.once(store, caller, now, effect)


def _own_rows(asked: dict[str, Any], attempt: int) -> list[rows_room.RowIn]:
    new = []
    for row in _converted(asked, _Rows).metrics:
        metrics: dict[str, int | float | None] = {}
        nonfinite: dict[str, str] = dict(row.nonfinite)
        for name, value in row.metrics.items():
            metrics[name], word = rows_room.number(value)
            if word:
                nonfinite[name] = word
        at = row.at
        new.append(
            rows_room.RowIn(row.attempt or attempt, row.epoch, row.step, row.final, at, metrics, nonfinite)
        )
    return new


def _note_progress(connection: Connection, session: Any, new: list[rows_room.RowIn]) -> None:
    mine = [row for row in new if row.attempt == session["attempt"]]
    if not mine:
        return
    epochs = [row.epoch for row in mine if not row.final and row.step is None]
    values: dict[str, Any] = {}
    if epochs:
        values["epoch"] = max(*epochs, -1 if session["epoch"] is None else session["epoch"])
    sessions.announce(connection, session, session["attempt"], values)


def get_metrics(store: Store, caller: Caller, model: str, attempt: str, _now: float) -> Answer:
    """`GET /v1/models/{id}/metrics`: the rows in force; with `attempt=all` every one, with a number that attempt's."""
    with store.database.reading() as connection:
        session = sessions.find(connection, model, caller.owner)
        if not attempt:
            return _answer(session, caller, rows_room.in_force(connection, model))
        every = rows_room.every_row(connection, model)
        if attempt != "all":
            if not re.fullmatch(r"\d{1,15}", attempt):
                raise Problem(422, "invalid", "attempt is a number or 'all'")
            every = [row for row in every if row["attempt"] == int(attempt)]
        return _answer(session, caller, every)


# -- checkpoints -----------------------------------------------------------------------------------------


def upload_may_come(
    store: Store, caller: Caller, model: str, length: int | None, now: float
) -> Answer | None:
    """Asked before the body is read: the answer, if this upload is here already; else None.

    Raises `Problem` 404 for no such session, 413 for a body that says it is too long.
    """
    with store.database.reading() as connection:
        session = sessions.find(connection, model, caller.owner)
        if length is not None and length > store.upload_limit:
            raise Problem(
                413,
                "too_large",
                f"an upload may have at most {store.upload_limit} bytes here",
                sessions.news(session, caller.base),
            )
        answers = schema.answers
        query = select(answers.c.data).where(answers.c.owner == caller.owner, answers.c.key == caller.key)
        if not caller.key or connection.execute(query).one_or_none() is None:
            return None

    def effect(_connection: Connection) -> tuple[str, Any]:
        raise Problem(409, "changed", "the session was removed just now: send it again")

    return sessions.once(store, caller, now, effect)


def take_upload(
    store: Store, caller: Caller, model: str, received: Received, digest: str, now: float
) -> Answer:
    """`POST /v1/models/{id}/upload`, once the whole body is here. `digest`: the header `Repr-Digest`, or empty.

    Raises `Problem` 422 `digest_mismatch` for bytes that are not those that were sent; nothing is kept then.
    """
    gone: list[Path] = []

    def effect(connection: Connection) -> tuple[str, Any]:
        session = sessions.find(connection, model, caller.owner)
        promised = {received.fields.get("sha256", "").lower() or None, digest_of_header(digest)} - {None}
        if promised - {received.sha256}:
            raise Problem(
                422,
                "digest_mismatch",
                f"the bytes that arrived have the sha256 {received.sha256}, others were announced: send them again",
                sessions.news(session, caller.base),
            )
        where = kinds_of(received.fields, received.name, session)
        for what in where.odd:
            sessions.note_problem(connection, model, what, now)
        kept, unnamed = place(store, connection, model, received, where, now)
        gone.extend(unnamed)
        if CheckpointKind.FINAL.value in where.kinds:
            sessions.final_stored(connection, session, now)
        elif where.attempt == session["attempt"]:
            sessions.announce(connection, session, where.attempt, {})
        data = {"kind": where.kinds[0], "size": received.size, "sha256": received.sha256, "kept": kept}
        return model, data

    answer = sessions.once(store, caller, now, effect)
    for file in gone:
        file.unlink(missing_ok=True)
    return answer


def file_of(store: Store, model: str, sha256: str, kind: str) -> Path:
    """The stored file. Raises `Problem` 404 if it was replaced or removed."""
    with store.database.reading() as connection:
        found = stored(connection, model).get(kind)
    if found is None or found["sha256"] != sha256:
        raise Problem(404, "not_found", "this file is not here any more: ask for its address again")
    return store.file_of(model, found["file"])


# -- life and end ----------------------------------------------------------------------------------------


def heartbeat(store: Store, caller: Caller, model: str, body: bytes, now: float) -> Answer:
    """`POST /v1/agent/heartbeat/models/{id}`. The answer always holds `data.agentId`, or old clients fall silent."""
    asked = _object(body)
    own = asked.get("hubstate")
    life = None if own is None else _converted(own, _Life)
    with store.database.writing() as connection:
        session = sessions.find(connection, model, caller.owner)
        told = asked.get("agentId")
        agent = (
            told if isinstance(told, str) and 0 < len(told) <= 200 else session["agent"] or f"agent-{model}"
        )
        sessions.touch(connection, model, now)
        connection.execute(update(schema.sessions).where(schema.sessions.c.id == model).values(agent=agent))
        if life is None:
            sessions.announce(connection, session, session["attempt"], {})
        else:
            values = {name: value for name, value in msgspec.to_builtins(life).items() if value is not None}
            values.pop("attempt")
            sessions.announce(connection, session, life.attempt, {"state": session["state"], **values})
        return _answer(session, caller, {"agentId": agent})


def end_model(store: Store, caller: Caller, model: str, body: bytes, now: float) -> Answer:
    """`POST /v1/models/{id}/end`: the last word of an attempt."""
    said = _decoded(body, _End)

    def effect(connection: Connection) -> tuple[str, Any]:
        session = sessions.find(connection, model, caller.owner)
        values: dict[str, Any] = {"state": said.state, "outcome": said.outcome.value, "reason": said.reason}
        if said.rows is not None:
            values["rows_told"] = said.rows
        sessions.end(connection, session, said.attempt, values, now)
        return model, {"id": model}

    return sessions.once(store, caller, now, effect)


def post_steps(store: Store, caller: Caller, model: str, body: bytes, now: float) -> Answer:
    """`POST /v1/models/{id}/steps`: lines of the journal, each known by its number `n`."""
    said = _decoded(body, _Steps)
    values = []
    for step in said.steps:
        n = step.get("n")
        if not isinstance(n, int) or not 0 <= n <= rows_room.BIGGEST:
            raise Problem(422, "invalid", "every step has a number n")
        values.append({"session": model, "n": n, "step": step})

    def effect(connection: Connection) -> tuple[str, Any]:
        sessions.find(connection, model, caller.owner)
        if values:
            connection.execute(insert_or(schema.steps).on_conflict_do_nothing(), values)
        return model, {"steps": len(values)}

    return sessions.once(store, caller, now, effect)


def post_usage(store: Store, caller: Caller, model: str, body: bytes, now: float) -> Answer:
    """`POST /v1/models/{id}/usage`: a validation, prediction or export began."""
    said = _decoded(body, _Usage)

    def effect(connection: Connection) -> tuple[str, Any]:
        sessions.find(connection, model, caller.owner)
        connection.execute(
            insert(schema.usage).values(session=model, attempt=said.attempt, what=said.what, at=now)
        )
        return model, {"id": model}

    return sessions.once(store, caller, now, effect)


def ask_to_stop(store: Store, caller: Caller, model: str, reason: str) -> None:
    """Sets the wish that the training stops; every answer carries it until the next attempt."""
    with store.database.writing() as connection:
        sessions.find(connection, model, caller.owner)
        connection.execute(update(schema.sessions).where(schema.sessions.c.id == model).values(stop=reason))


def digest_header(sha256: str) -> str:
    """The header `Repr-Digest` of a file."""
    return f"sha-256=:{base64.b64encode(bytes.fromhex(sha256)).decode()}:"
