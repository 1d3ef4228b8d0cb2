"""The callback's events: the start of a run, which makes or finds its session, and all that follow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import Connection, RowMapping, delete, insert, select

from hubstate.server import sessions
from hubstate.server.answers import Answer, Caller
from hubstate.server.bodies import json_object
from hubstate.server.platform import words
from hubstate.server.platform.files import place_of
from hubstate.server.platform.heard import Heard, identified, keep
from hubstate.server.platform.runs import EVENTS
from hubstate.server.schema import answers
from hubstate.server.schema import sessions as table
from hubstate.server.store import Store
from hubstate.states import State

__all__ = ["CLIENT", "metrics"]

#: How the hub calls the client.
CLIENT = "platform"
#: Within this many seconds the very same start of a run is a repeat: four tries of 30 s each, and waits between.
_REPEATS = 300.0


def metrics(store: Store, caller: Caller, body: bytes, now: float) -> Answer:
    """`POST /api/webhooks/training/metrics`: one of the callback's events.

    Raises `Problem` 404 for a model that is not here, and for a saved checkpoint whose bytes are not.
    """
    asked = json_object(body)
    event = str(asked.get("event", ""))
    told = asked.get("data")
    data = told if isinstance(told, dict) else {}
    if event == "training_started":
        return _start(store, caller, asked, data, sessions.digest_of(body), now)
    gone: list[Path] = []
    with store.database.writing() as connection:
        session = identified(connection, caller, asked)
        attempt = min(words.whole(data.get("runId"), 1) or session["attempt"], session["attempt"])
        heard = Heard(store, connection, session, attempt, data, now)
        sessions.touch(connection, heard.model, now)
        take = EVENTS.get(event)
        if take is None:
            sessions.note_problem(
                connection, heard.model, f"an event of the unknown kind {event[:40]!r}", now
            )
            keep(heard, event[:100] or "unknown")
        else:
            gone = take(heard)
        now_here = sessions.find(connection, heard.model, caller.owner)
        answer = _answer(event, now_here, {} if take else {"warning": "this hub does not know this event"})
    for file in gone:
        file.unlink(missing_ok=True)
    if event == "checkpoint_saved":
        store.objects.forget(place_of(data))
    return answer


def _answer(event: str, session: RowMapping, more: dict[str, Any]) -> Answer:
    wanted = session["stop"] is not None and sessions.is_live(session)
    told = {
        "received": True,
        "event": event,
        "mode": "remote",
        "modelId": session["id"],
        "runId": session["attempt"],
        "cancelled": wanted,
    }
    if wanted:
        told |= {"action": "training_terminated", "reason": session["stop"]}
    return Answer({**told, **more})


# -- the start of a run ----------------------------------------------------------------------------------


def _start(
    store: Store, caller: Caller, asked: dict[str, Any], data: dict[str, Any], digest: str, now: float
) -> Answer:
    """A new model, or the next run of a known one. Raises `Problem` 404 for an unknown one: then a new one is begun."""
    kept = words.kept_start(data, store.terms)
    with store.database.writing() as connection:
        model = _repeated(connection, caller, digest, now)
        if model is None:
            model = _begun(connection, caller, asked, kept, now)
            key = f"training_started {digest}"
            connection.execute(delete(answers).where(answers.c.owner == caller.owner, answers.c.key == key))
            connection.execute(
                insert(answers).values(owner=caller.owner, key=key, session=model, data={}, at=now)
            )
        session = sessions.find(connection, model, caller.owner)
        heard = Heard(store, connection, session, session["attempt"], data, now)
        keep(heard, "training_started", kept)
        sessions.touch(connection, model, now)
        shown = {"modelSlug": session["name"], "modelUrl": f"{caller.base}/models/{model}"}
        return _answer("training_started", session, shown)


def _repeated(connection: Connection, caller: Caller, digest: str, now: float) -> str | None:
    """The model that the very same request began a moment ago, if nothing was heard of its run since."""
    query = select(answers.c.session, answers.c.at).where(
        answers.c.owner == caller.owner, answers.c.key == f"training_started {digest}"
    )
    first = connection.execute(query).one_or_none()
    if first is None or not 0 <= now - first.at <= _REPEATS:
        return None
    fresh = (
        table.c.id == first.session,
        table.c.state == State.SESSION_CREATED.value,
        table.c.deleted_at.is_(None),
    )
    return connection.execute(select(table.c.id).where(*fresh)).scalar_one_or_none()


def _begun(
    connection: Connection, caller: Caller, asked: dict[str, Any], data: dict[str, Any], now: float
) -> str:
    model = asked.get("modelId")
    if isinstance(model, str):
        session = sessions.find(connection, model, caller.owner)
        run = words.run_of(data, session["name"])
        sessions.new_attempt(
            connection,
            caller.owner,
            model,
            attempt=session["attempt"] + 1,
            first_epoch=0 if session["epoch"] is None else session["epoch"] + 1,
            body=run.body,
            told={"epochs": run.epochs, "config": run.config},
            now=now,
            own=session["own"],
        )
        return model
    project, wanted = str(asked.get("project") or "")[:200], str(asked.get("name") or "train")[:200]
    name = _free_name(connection, caller.owner, project, wanted)
    run = words.run_of(data, name)
    told = {
        "name": name,
        "project": project,
        "epochs": run.epochs,
        "config": run.config,
        "client": CLIENT,
    }
    return sessions.create_foreign(connection, caller.owner, run.body, now, told)


def _free_name(connection: Connection, owner: str, project: str, wanted: str) -> str:
    """`train`, or the first of `train-2`, `train-3`, ... that no model of the project has."""
    query = select(table.c.name).where(table.c.owner == owner, table.c.project == project)
    taken = set(connection.execute(query.where(table.c.name.startswith(wanted, autoescape=True))).scalars())
    number, name = 1, wanted
    while name in taken:
        number += 1
        name = f"{wanted}-{number}"
    return name
