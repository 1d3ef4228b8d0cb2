"""A session as the hub knows it: what it was told, in the order of attempts, and what follows from silence.

hubstate's own clients announce state and outcome. A foreign client (hub-sdk) announces nothing: it is `training`
while it sends, and `done` once its final checkpoint is stored. Where either then stands, the machine's own decisions
tell (`derive`). Nobody who fell silent is declared dead: a live session without contact for three heartbeat intervals
has the outcome `unknown`, and that is derived when it is read, never stored. A word of an older attempt is kept with
that attempt and changes nothing else; an attempt that ended stays ended, whatever arrives later.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import Connection, Row, RowMapping, delete, insert, select, update
from sqlalchemy.dialects.sqlite import insert as insert_or

from hubstate.events import Event
from hubstate.server import derive
from hubstate.server.answers import Answer, Caller, Problem
from hubstate.server.derive import Standing
from hubstate.server.schema import (
    answers,
    attempts,
    checkpoints,
    notices,
    problems,
    rows,
    said,
    sessions,
    steps,
    usage,
)
from hubstate.server.store import Store
from hubstate.states import LIVE_STATES, Outcome, State

__all__ = [
    "SILENCE",
    "about",
    "begins_at",
    "create_foreign",
    "digest_of",
    "final_stored",
    "find",
    "forget",
    "hear",
    "in_contact",
    "is_live",
    "new_attempt",
    "news",
    "note_problem",
    "once",
    "once_in",
    "outcome_of",
    "remembered",
    "still_since",
    "touch",
]

#: Seconds without contact after which a live session's outcome is unknown: three heartbeats.
SILENCE = 900.0
#: Seconds without a further epoch after which a training that gives signs of life is said to stand still.
STILL = 900.0
_LIVE = frozenset(state.value for state in LIVE_STATES)

#: What to do about a key that came with another body before. A client shows at most 300 characters.
_KEY_REUSED = (
    "this Idempotency-Key came before with another body: another process went on with this session as the same attempt. "
    "Nothing of this was taken. Begin a new session for what comes now; `hubstate export` takes out what is kept where it ran"
)

#: Does its work within the transaction; gives the session's id and the answer's data.
Effect = Callable[[Connection], tuple[str, Any]]


# -- reading ---------------------------------------------------------------------------------------------


def find(connection: Connection, model: str, owner: str) -> RowMapping:
    """The session. Raises `Problem` 404, the same for an unknown, a deleted and another owner's one."""
    row = _any(connection, model)
    if row is None or row["owner"] != owner or row["deleted_at"] is not None:
        raise Problem(404, "not_found", "no session of that id is at this hub")
    return row


def _any(connection: Connection, model: str) -> RowMapping | None:
    return connection.execute(select(sessions).where(sessions.c.id == model)).mappings().one_or_none()


def is_live(session: RowMapping) -> bool:
    """Whether more is to be expected of the session."""
    return session["state"] in _LIVE


def in_contact(session: RowMapping, now: float) -> bool:
    """Whether the session was heard of within three heartbeats."""
    return bool(now - session["last_contact"] <= SILENCE)


def still_since(session: RowMapping, now: float) -> float | None:
    """Since when a training that is heard of has told of no further epoch; None where that is nothing to tell."""
    since = session["epoch_at"]
    trains = session["state"] == State.TRAINING.value and in_contact(session, now)
    return float(since) if trains and since is not None and now - since > STILL else None


def outcome_of(session: RowMapping, now: float) -> str:
    """What became of the training, as far as the hub can know it."""
    if is_live(session) and session["outcome"] == Outcome.RUNNING.value and not in_contact(session, now):
        return Outcome.UNKNOWN.value
    return str(session["outcome"])


def news(session: Mapping[Any, Any], caller: Caller) -> dict[str, Any]:
    """What every answer about the session carries beside its data."""
    return {
        "stop": session["stop"],
        "heartbeat": caller.heartbeat,
        "metrics": None,
        "checkpoint": None,
        "url": f"{caller.base}/models/{session['id']}",
    }


def about(session: RowMapping, caller: Caller, data: Any) -> Answer:
    """An answer about the session."""
    body = {"success": True, "message": "ok", "data": data, "hubstate": news(session, caller)}
    return Answer(body)


# -- the first answer, again -----------------------------------------------------------------------------


def digest_of(body: bytes) -> str:
    """The SHA-256 (hex) of a body: what tells a repeat of a request from another one under its key."""
    return hashlib.sha256(body).hexdigest()


def remembered(connection: Connection, caller: Caller, digest: str) -> Row[Any, Any, Any] | None:
    """The session, the data and the digest of the first answer under the caller's key; None if there is none.

    Raises `Problem` 409 if another body than that of `digest` was answered; an empty `digest` is not compared.
    """
    if not caller.key:
        return None
    query = select(answers.c.session, answers.c.data, answers.c.digest)
    mine = query.where(answers.c.owner == caller.owner, answers.c.key == caller.key)
    first = connection.execute(mine).one_or_none()
    if first is not None and first.digest is not None and digest and first.digest != digest:
        session = _any(connection, first.session)
        raise Problem(409, "key_reused", _KEY_REUSED, None if session is None else news(session, caller))
    return first


def once(
    store: Store, caller: Caller, digest: str, now: float, effect: Effect, *, contact: bool = True
) -> Answer:
    """`once_in`, in a transaction of its own."""
    with store.database.writing() as connection:
        return once_in(connection, caller, digest, now, effect, contact=contact)


def once_in(
    connection: Connection, caller: Caller, digest: str, now: float, effect: Effect, *, contact: bool = True
) -> Answer:
    """Answers a write: does it, or, if its idempotency key was seen before, gives the first answer again.

    The effect and the remembered answer are of one transaction. Only what was done is remembered; a refusal is not.
    `digest`: of the body, or of the file. Two processes that went on with one session give different things the same
    key, so one that comes again with another body is refused: raises `Problem` 409.
    `contact`: the write is a sign of life of the training, not of a person who looks after it.
    """
    first = remembered(connection, caller, digest)
    if first is not None:
        model, data = first.session, first.data
    else:
        model, data = effect(connection)
        if caller.key:
            connection.execute(
                insert(answers).values(
                    owner=caller.owner, key=caller.key, session=model, data=data, at=now, digest=digest
                )
            )
    if contact:
        touch(connection, model, now)
    session = _any(connection, model)
    body = {"success": True, "message": "ok", "data": data}
    if session is not None:
        body["hubstate"] = news(session, caller)
    return Answer(body, headers={"Idempotent-Replayed": "true"} if first is not None else {})


def touch(connection: Connection, model: str, now: float) -> None:
    """Notes that the session was heard of."""
    connection.execute(update(sessions).where(sessions.c.id == model).values(last_contact=now))


def note_problem(connection: Connection, model: str, what: str, now: float) -> None:
    """Notes, once, what could not be taken as it was sent, for the session's page."""
    connection.execute(
        insert_or(problems).values(session=model, what=what[:500], at=now).on_conflict_do_nothing()
    )


# -- writing ---------------------------------------------------------------------------------------------


def create_foreign(
    connection: Connection, owner: str, body: dict[str, Any], now: float, told: dict[str, Any] | None = None
) -> str:
    """A session of a client that chooses no id and sends no key: two creates are two sessions.

    `body`: as HUB v1 clients send it. `told`: other columns, of a client that does not speak HUB v1.
    """
    model = f"m{secrets.token_hex(12)}"
    config = body.get("config")
    epochs = config.get("epochs") if isinstance(config, dict) else None
    values = {
        **_fresh(model, owner, body, now),
        "own": False,
        "epochs": epochs if isinstance(epochs, int) and 0 < epochs < 2**53 else None,
        **(told or {}),
    }
    connection.execute(insert(sessions).values(**values))
    _note_attempt(connection, model, 1, 0, now)
    return model


def new_attempt(
    connection: Connection,
    owner: str,
    model: str,
    *,
    attempt: int,
    first_epoch: int,
    body: dict[str, Any],
    told: dict[str, Any],
    now: float,
    own: bool = True,
) -> None:
    """Opens the session, or its next attempt. `told`: name, epochs, project, group, tags, config.

    `own`: by hubstate. A repeated or late opening changes nothing. Raises `Problem` 409 for an id of another owner.
    """
    session = _any(connection, model)
    if session is not None and session["owner"] != owner:
        raise Problem(409, "id_taken", "this id belongs to another owner: begin a session with a new id")
    if session is None:
        values = _fresh(model, owner, body, now) | told
        connection.execute(insert(sessions).values(**values | {"own": own, "attempt": attempt}))
    elif attempt > session["attempt"]:
        values = {
            **told,
            "attempt": attempt,
            "state": State.SESSION_CREATED.value,
            "outcome": Outcome.RUNNING.value,
            "reason": "",
            "stop": None,
            "ended_at": None,
            # Both are of the attempt before: more rows come now than it told of.
            "waiting": None,
            "rows_told": None,
            # Someone deleted it, and the training goes on: what is learnt from here on is not thrown away.
            "deleted_at": None,
            "own": own,
        }
        connection.execute(update(sessions).where(sessions.c.id == model).values(**values))
    if session is None or attempt > session["attempt"]:
        epoch = first_epoch - 1 if first_epoch else None
        connection.execute(update(sessions).where(sessions.c.id == model).values(epoch=epoch, epoch_at=now))
    _note_attempt(connection, model, attempt, first_epoch, now)


def _fresh(model: str, owner: str, body: dict[str, Any], now: float) -> dict[str, Any]:
    meta = body.get("meta")
    name = meta.get("name") if isinstance(meta, dict) else None
    return {
        "id": model,
        "owner": owner,
        "name": name if isinstance(name, str) and name else model,
        "body": body,
        "tags": [],
        "config": {},
        "attempt": 1,
        "state": State.SESSION_CREATED.value,
        "outcome": Outcome.RUNNING.value,
        "reason": "",
        "created_at": now,
        "epoch_at": now,
        "last_contact": now,
    }


def _note_attempt(connection: Connection, model: str, attempt: int, first_epoch: int, now: float) -> None:
    connection.execute(
        insert_or(attempts)
        .values(
            session=model,
            attempt=attempt,
            first_epoch=first_epoch,
            opened_at=now,
            state=State.SESSION_CREATED.value,
            outcome=Outcome.RUNNING.value,
            reason="",
        )
        .on_conflict_do_nothing()
    )


def begins_at(connection: Connection, model: str, attempt: int, epoch: int) -> None:
    """A row of `epoch` is here: an attempt whose client did not say where it goes on began there, or before."""
    mine = update(attempts).where(attempts.c.session == model, attempts.c.attempt == attempt)
    connection.execute(mine.where(attempts.c.first_epoch > epoch).values(first_epoch=epoch))


def hear(
    connection: Connection,
    session: RowMapping,
    attempt: int,
    events: tuple[Event, ...],
    now: float,
    told: dict[str, Any] | None = None,
) -> None:
    """Writes down what was heard of `attempt`: where it stands after `events`, and what else was `told` of the session.

    What an older attempt says is kept with that attempt and changes nothing else; once an attempt has ended, nothing
    that is heard of it changes any more, but that a row of a later epoch may still come.
    """
    current = attempt == session["attempt"]
    before = _standing(session) if current else _older(connection, session["id"], attempt)
    if before is None:
        return
    standing = derive.after(before, *events)
    values = {} if told is None else dict(told)
    if standing != before:
        moved: dict[str, Any] = {
            "state": standing.state.value,
            "outcome": standing.outcome.value,
            "reason": standing.reason,
        }
        if standing.over:
            moved["ended_at"] = now
            values["waiting"] = 0
        connection.execute(
            update(attempts)
            .where(attempts.c.session == session["id"], attempts.c.attempt == attempt)
            .values(**moved)
        )
        values |= moved
    elif before.over:
        values = {name: value for name, value in values.items() if name == "epoch"}
    if values.get("epoch", session["epoch"]) != session["epoch"]:
        values["epoch_at"] = now
    if current and values:
        connection.execute(update(sessions).where(sessions.c.id == session["id"]).values(**values))


def _standing(row: RowMapping) -> Standing:
    return Standing(State(row["state"]), Outcome(row["outcome"]), row["reason"])


def _older(connection: Connection, model: str, attempt: int) -> Standing | None:
    query = select(attempts).where(attempts.c.session == model, attempts.c.attempt == attempt)
    row = connection.execute(query).mappings().one_or_none()
    return None if row is None else _standing(row)


def final_stored(connection: Connection, session: RowMapping, now: float) -> None:
    """The final checkpoint is here. A client of the old HUB says nothing more, so this is its end."""
    if not session["own"]:
        hear(
            connection, session, session["attempt"], derive.ended(now, State.DONE, Outcome.FINISHED, ""), now
        )


def forget(connection: Connection, model: str) -> None:
    """Removes every trace of the session from the database; its files are the caller's to remove."""
    for table in (attempts, rows, checkpoints, answers, steps, usage, problems, notices, said):
        connection.execute(delete(table).where(table.c.session == model))
    connection.execute(delete(sessions).where(sessions.c.id == model))
