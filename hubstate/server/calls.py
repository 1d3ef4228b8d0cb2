"""What a training says: HUB v1, and what hubstate says beyond it. Plain functions of the request and the time.

What an old client sends is taken as far as it can be understood, and what cannot is shown on the session's page:
such a client cannot tell one refusal from another, and repeats a refused final upload for half an hour while the
user waits. What hubstate's own client sends is checked strictly.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, insert, update
from sqlalchemy.dialects.sqlite import insert as insert_or

from hubstate.server import derive, schema, sessions, shortcut
from hubstate.server import rows as rows_room
from hubstate.server.answers import Answer, Caller, Problem
from hubstate.server.bodies import End, Life, Opening, Rows, Steps, Usage, converted, decoded, json_object
from hubstate.server.checkpoints import kinds_of, place
from hubstate.server.evaluations import in_doubt, marked
from hubstate.server.sessions import about
from hubstate.server.store import Store
from hubstate.server.uploads import Received, digest_of_header
from hubstate.states import CheckpointKind, State

__all__ = [
    "end_model",
    "heartbeat",
    "open_model",
    "post_rows",
    "post_steps",
    "post_usage",
    "rows_work",
    "take_resumed",
    "take_upload",
    "upload_may_come",
]

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")

# -- opening ---------------------------------------------------------------------------------------------


def open_model(store: Store, caller: Caller, body: bytes, now: float) -> Answer:
    """`POST /v1/models`: a HUB v1 session, or, with the object `hubstate`, one with the client's own id."""
    asked = json_object(body)
    own = asked.pop("hubstate", None)
    if own is None:

        def effect(connection: Connection) -> tuple[str, Any]:
            model = sessions.create_foreign(connection, caller.owner, asked, now)
            return model, {"id": model}

        return sessions.once(store, caller, sessions.digest_of(body), now, effect)
    opening = converted(own, Opening)
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

    return sessions.once(store, caller, sessions.digest_of(body), now, effect_own)


# -- rows ------------------------------------------------------------------------------------------------


def post_rows(store: Store, caller: Caller, model: str, body: bytes, now: float) -> Answer:
    """`POST /v1/models/{id}`: rows, as HUB v1's dict of JSON texts or as a list."""
    work = rows_work(caller, model, body, now)
    with store.database.writing() as connection:
        return work(connection)


def rows_work(caller: Caller, model: str, body: bytes, now: float) -> Callable[[Connection], Answer]:
    """What a post of rows has to do in a transaction, which may hold those of others as well."""
    asked = json_object(body)
    if asked.get("type", "metrics") != "metrics":
        raise Problem(422, "invalid", "this hub takes posts of the type 'metrics' only")
    metrics = asked.get("metrics")
    digest = sessions.digest_of(body)

    def read(attempt: int) -> tuple[list[rows_room.RowIn], list[str]]:
        if isinstance(metrics, dict):
            return rows_room.from_hub_v1(metrics, attempt)
        return _own_rows(asked, attempt), []

    def read_usual(attempt: int) -> tuple[list[rows_room.RowIn], list[str]]:
        """The rows, or none where it has to be found out first whether one is a final evaluation."""
        new, odd = read(attempt)
        return ([] if isinstance(metrics, dict) and in_doubt(new) else new), odd

    def effect(connection: Connection) -> tuple[str, Any]:
        session = sessions.find(connection, model, caller.owner)
        new, odd = read(session["attempt"])
        for what in odd:
            sessions.note_problem(connection, model, what, now)
        if isinstance(metrics, dict):
            new = marked(connection, session, new)
        rows_room.keep(connection, model, new, now)
        _note_progress(connection, session, new, now)
        return model, {"rows": len(new)}

    def work(connection: Connection) -> Answer:
        short = shortcut.take_rows(connection, caller, model, read_usual, digest, now)
        return short or sessions.once_in(connection, caller, digest, now, effect)

    return work


def _own_rows(asked: dict[str, Any], attempt: int) -> list[rows_room.RowIn]:
    new = []
    for row in converted(asked, Rows).metrics:
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


def _note_progress(connection: Connection, session: Any, new: list[rows_room.RowIn], now: float) -> None:
    mine = [row for row in new if row.attempt == session["attempt"]]
    if not mine:
        return
    epoch = shortcut.furthest(mine, session["epoch"])
    told = {} if epoch is None else {"epoch": epoch}
    sessions.hear(connection, session, session["attempt"], (derive.row_came(now, mine[0].epoch),), now, told)


# -- checkpoints -----------------------------------------------------------------------------------------


def upload_may_come(
    store: Store, caller: Caller, model: str, length: int | None, sha256: str, now: float
) -> Answer | None:
    """Asked before the body is read: the answer, if this upload is here already; else None.

    `sha256`: which digest (hex) its file is said to have; without it only the body tells whether it is the same one.
    Raises `Problem` 404 for no such session, 413 for a body that says it is too long, and 409 if another file is here
    under the caller's key.
    """
    with store.database.reading() as connection:
        session = sessions.find(connection, model, caller.owner)
        if length is not None and length > store.upload_limit:
            raise Problem(
                413,
                "too_large",
                f"an upload may have at most {store.upload_limit} bytes here",
                sessions.news(session, caller),
            )
        first = sessions.remembered(connection, caller, sha256)
        if first is None or (first.digest is not None and not sha256):
            return None

    def effect(_connection: Connection) -> tuple[str, Any]:
        raise Problem(409, "changed", "the session was removed just now: send it again")

    return sessions.once(store, caller, sha256, now, effect)


def take_upload(
    store: Store, caller: Caller, model: str, received: Received, digest: str, now: float
) -> Answer:
    """`POST /v1/models/{id}/upload`, once the whole body is here. `digest`: the header `Repr-Digest`, or empty.

    Raises `Problem` 422 `digest_mismatch` for bytes that are not those that were sent, and 409 `key_reused` for others
    than those that came under this key before; nothing is kept then.
    """
    gone: list[Path] = []
    announced = (received.fields.get("sha256", "").lower() or None, digest_of_header(digest))

    def effect(connection: Connection) -> tuple[str, Any]:
        session = sessions.find(connection, model, caller.owner)
        promised = {*announced} - {None}
        if promised - {received.sha256}:
            raise Problem(
                422,
                "digest_mismatch",
                f"the bytes that arrived have the sha256 {received.sha256}, others were announced: send them again",
                sessions.news(session, caller),
            )
        where = kinds_of(received.fields, received.name, session)
        for what in where.odd:
            sessions.note_problem(connection, model, what, now)
        kept, unnamed = place(store, connection, model, received, where, now)
        gone.extend(unnamed)
        if CheckpointKind.FINAL.value in where.kinds:
            sessions.final_stored(connection, session, now)
        elif where.attempt == session["attempt"]:
            sessions.hear(connection, session, where.attempt, derive.announced(now, None, None), now)
        data = {"kind": where.kinds[0], "size": received.size, "sha256": received.sha256, "kept": kept}
        return model, data

    # Bytes that were spoilt on their way are no other file than the one that was announced.
    sha256 = announced[0] or announced[1] or received.sha256
    answer = sessions.once(store, caller, sha256, now, effect)
    for file in gone:
        file.unlink(missing_ok=True)
    return answer


def take_resumed(store: Store, caller: Caller, model: str, upload: str, body: bytes, now: float) -> Answer:
    """`POST /v1/models/{id}/uploads/{upload}`: an upload that came in parts. `body`: the fields of a form, as JSON.

    Raises as `take_upload` does, `Problem` 404 for no such upload, and 409 for one that is not whole.
    """
    fields = decoded(body, dict[str, str])
    try:
        answer = upload_may_come(store, caller, model, None, fields.get("sha256", "").lower(), now)
        if answer is not None:
            store.resumables.forget_of(upload, caller.owner, model)
            return answer
        whole = store.resumables.whole(upload, caller.owner, model)
        fields = {**fields, "sha256": fields.get("sha256", "") or whole.promised}
        received = Received(fields, fields.get("name", ""), whole.path, whole.size, whole.sha256)
        answer = take_upload(store, caller, model, received, "", now)
    except Problem as problem:
        if problem.short in ("digest_mismatch", "key_reused"):
            store.resumables.forget_of(upload, caller.owner, model)  # what is wrong in it stays wrong
        raise
    store.resumables.forget(upload)
    return answer


# -- life and end ----------------------------------------------------------------------------------------


def heartbeat(store: Store, caller: Caller, model: str, body: bytes, now: float) -> Answer:
    """`POST /v1/agent/heartbeat/models/{id}`. The answer always holds `data.agentId`, or old clients fall silent."""
    asked = json_object(body)
    own = asked.get("hubstate")
    life = None if own is None else converted(own, Life)
    with store.database.writing() as connection:
        session = sessions.find(connection, model, caller.owner)
        named = asked.get("agentId")
        if not (isinstance(named, str) and 0 < len(named) <= 200):
            named = session["agent"]
        agent = named or f"agent-{model}"
        sessions.touch(connection, model, now)
        connection.execute(update(schema.sessions).where(schema.sessions.c.id == model).values(agent=agent))
        if life is None:
            events = derive.announced(now, None, None)
            sessions.hear(connection, session, session["attempt"], events, now)
        else:
            events = () if life.state is None else derive.announced(now, life.state, life.outcome)
            # One that comes late takes no epoch back; an older attempt's epoch changes nothing anyway.
            further = life.epoch is not None and life.epoch > (
                -1 if session["epoch"] is None else session["epoch"]
            )
            told = {"epoch": life.epoch if further else None, "waiting": life.waiting}
            heard = {name: value for name, value in told.items() if value is not None}
            sessions.hear(connection, session, life.attempt, events, now, heard)
        return about(session, caller, {"agentId": agent})


def end_model(store: Store, caller: Caller, model: str, body: bytes, now: float) -> Answer:
    """`POST /v1/models/{id}/end`: the last word of an attempt."""
    said = decoded(body, End)

    def effect(connection: Connection) -> tuple[str, Any]:
        session = sessions.find(connection, model, caller.owner)
        told = {} if said.rows is None else {"rows_told": said.rows}
        events = derive.ended(now, State(said.state), said.outcome, said.reason)
        sessions.hear(connection, session, said.attempt, events, now, told)
        return model, {"id": model}

    return sessions.once(store, caller, sessions.digest_of(body), now, effect)


def post_steps(store: Store, caller: Caller, model: str, body: bytes, now: float) -> Answer:
    """`POST /v1/models/{id}/steps`: lines of the journal, each known by its number `n`."""
    said = decoded(body, Steps)
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

    return sessions.once(store, caller, sessions.digest_of(body), now, effect)


def post_usage(store: Store, caller: Caller, model: str, body: bytes, now: float) -> Answer:
    """`POST /v1/models/{id}/usage`: a validation, prediction or export began."""
    said = decoded(body, Usage)

    def effect(connection: Connection) -> tuple[str, Any]:
        sessions.find(connection, model, caller.owner)
        connection.execute(
            insert(schema.usage).values(session=model, attempt=said.attempt, what=said.what, at=now)
        )
        return model, {"id": model}

    return sessions.once(store, caller, sessions.digest_of(body), now, effect)
