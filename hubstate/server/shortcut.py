"""The usual post of rows, in five statements: what a hub does nearly always, and so has to be quick at.

It is taken where nothing but rows, an epoch and a sign of life comes of a post: new under its key, from the owner, of
the current attempt, of a session that stays where it stands. Anything else, refusals included, goes the long way of
`sessions.once_in`, before which nothing was done here. Both ways leave the same database and give the same answer;
a test compares them.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from sqlalchemy import Connection

from hubstate.server import derive
from hubstate.server.answers import Answer, Caller
from hubstate.server.database import bare
from hubstate.server.rows import RowIn
from hubstate.server.sessions import news
from hubstate.states import Outcome, State

__all__ = ["furthest", "take_rows"]

_SEEN = "SELECT 1 FROM answers WHERE owner = ? AND key = ?"
_SESSION = "SELECT owner, deleted_at, attempt, state, outcome, reason, epoch, stop FROM sessions WHERE id = ?"
_ROW = (
    "INSERT INTO rows (session, attempt, epoch, step, final, at, metrics, nonfinite, digest) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
)
_HEARD = "UPDATE sessions SET last_contact = ? WHERE id = ?"
_HEARD_OF_AN_EPOCH = "UPDATE sessions SET last_contact = ?, epoch = ?, epoch_at = ? WHERE id = ?"
_ANSWER = "INSERT INTO answers (owner, key, session, data, at, digest) VALUES (?, ?, ?, ?, ?, ?)"


def take_rows(
    connection: Connection,
    caller: Caller,
    model: str,
    read: Callable[[int], tuple[list[RowIn], list[str]]],
    digest: str,
    now: float,
) -> Answer | None:
    """Keeps the rows and answers; None, with nothing done, where the long way has to be gone.

    `read`: gives the rows, where a row that names no attempt is of the given one, and what in them is odd. `digest`: of
    the body. `now`: seconds since 1970.
    """
    database = bare(connection)
    if caller.key and database.execute(_SEEN, (caller.owner, caller.key)).fetchone():
        return None
    found = database.execute(_SESSION, (model,)).fetchone()
    if found is None:
        return None
    owner, deleted_at, attempt, state, outcome, reason, before, stop = found
    if owner != caller.owner or deleted_at is not None:
        return None
    new, odd = read(attempt)
    if odd or not new or any(row.attempt != attempt for row in new):
        return None
    standing = derive.Standing(State(state), Outcome(outcome), reason)
    if standing.over or derive.after(standing, derive.row_came(now, new[0].epoch)) != standing:
        return None
    database.executemany(_ROW, [_values(model, row, now) for row in new])
    epoch = furthest(new, before)
    if epoch is None or epoch == before:
        database.execute(_HEARD, (now, model))
    else:
        database.execute(_HEARD_OF_AN_EPOCH, (now, epoch, now, model))
    data = {"rows": len(new)}
    if caller.key:
        database.execute(_ANSWER, (caller.owner, caller.key, model, json.dumps(data), now, digest))
    told = news({"id": model, "stop": stop}, caller)
    return Answer({"success": True, "message": "ok", "data": data, "hubstate": told})


def furthest(new: list[RowIn], before: int | None) -> int | None:
    """The furthest epoch, of that `before` and those that the rows tell; a step or the final evaluation tells none."""
    told = [row.epoch for row in new if not row.final and row.step is None]
    return max(*told, -1 if before is None else before) if told else None


def _values(model: str, row: RowIn, now: float) -> tuple[object, ...]:
    return (
        model,
        row.attempt,
        row.epoch,
        row.step,
        row.final,
        now if row.at is None else row.at,
        json.dumps(row.metrics),
        json.dumps(row.nonfinite),
        row.digest(),
    )
