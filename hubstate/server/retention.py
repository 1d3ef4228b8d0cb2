"""How long a hub keeps what it was given: for ever, unless its owner decided otherwise.

Only what has ended is ever let go, and its age counts from its end. A session that fell silent has not ended, so it stays,
and so does one whose next attempt has begun. What will go, and when, is a condition of the session; what went is logged.
"""

from __future__ import annotations

import datetime as dt
import shutil
from collections.abc import Mapping
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, delete, exists, select, true

from hubstate.log import log
from hubstate.server import schema, sessions
from hubstate.server.checkpoints import stored
from hubstate.server.store import Store
from hubstate.server.terms import Terms
from hubstate.states import TERMINAL_STATES, CheckpointKind

__all__ = ["Retention", "kept_until"]

_DAY = 86_400.0
#: How often it is looked for what is too old (seconds).
_EVERY = 3_600.0
#: So many are let go of before it is heard whether the hub stops.
_AT_ONCE = 50
_ENDED = [state.value for state in TERMINAL_STATES]
_LAST = CheckpointKind.LAST.value


def _has_kind(condition: ColumnElement[bool]) -> ColumnElement[bool]:
    table = schema.checkpoints
    return exists().where(table.c.session == schema.sessions.c.id, condition)


#: Of a session: it has a checkpoint to go on from, and another one.
_HAS_A_BETTER_ONE = and_(
    _has_kind(schema.checkpoints.c.kind == _LAST), _has_kind(schema.checkpoints.c.kind != _LAST)
)


class Retention:
    """The chore of a store whose terms say how long something is kept."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __call__(self, now: float) -> float:
        """Lets go of all that is too old at `now`; in how many seconds to look again."""
        terms = self._store.terms
        more = False
        for days, which, let_go in (
            (terms.keep_days, true(), self._let_go),
            (terms.keep_last_days, _HAS_A_BETTER_ONE, self._let_go_of_last),
        ):
            if days is not None:
                found = self._ended_before(now - days * _DAY, which)
                for model in found:
                    let_go(model, now - days * _DAY)
                more |= len(found) == _AT_ONCE
        return 0.0 if more else _EVERY

    def _ended_before(self, moment: float, which: ColumnElement[bool]) -> list[str]:
        with self._store.database.reading() as connection:
            return list(connection.execute(_ended(moment).where(which).limit(_AT_ONCE)).scalars())

    def _let_go(self, model: str, moment: float) -> None:
        with self._store.database.writing() as connection:
            if not _still(connection, model, moment):
                return
            sessions.forget(connection, model)
        folder = self._store.files / model
        if folder.is_dir():
            shutil.rmtree(folder)
        log("hubstate.server").warning(
            "hubstate.hub_session_removed", session=model, reason="its time is over"
        )

    def _let_go_of_last(self, model: str, moment: float) -> None:
        """Removes the checkpoint to go on from, of a session that has a better one to keep."""
        with self._store.database.writing() as connection:
            files = stored(connection, model)
            if not _still(connection, model, moment) or _LAST not in files or len(files) == 1:
                return
            table = schema.checkpoints
            connection.execute(delete(table).where(table.c.session == model, table.c.kind == _LAST))
        gone = files.pop(_LAST)["file"]
        if all(row["file"] != gone for row in files.values()):
            self._store.file_of(model, gone).unlink(missing_ok=True)
        log("hubstate.server").warning("hubstate.hub_checkpoint_removed", session=model, kind=_LAST)


def _ended(moment: float) -> Any:
    table = schema.sessions
    return select(table.c.id).where(table.c.state.in_(_ENDED), table.c.ended_at <= moment)


def _still(connection: Connection, model: str, moment: float) -> bool:
    """Whether that is so in this transaction, too: a next attempt may have begun just now."""
    found = connection.execute(_ended(moment).where(schema.sessions.c.id == model))
    return found.scalar_one_or_none() is not None


def kept_until(terms: Terms, session: Mapping[Any, Any]) -> list[dict[str, Any]]:
    """The condition of an ended session that it will not be kept for ever, if that is so."""
    if session["state"] not in _ENDED or session["ended_at"] is None:
        return []
    told = []
    for name, days, what in (
        ("kept_until", terms.keep_days, "all of it"),
        ("last_kept_until", terms.keep_last_days, "its checkpoint `last`, if there is a better one,"),
    ):
        if days is not None:
            until = dt.datetime.fromtimestamp(session["ended_at"] + days * _DAY, dt.UTC)
            reason = f"{what} is removed from this hub {days:g} days after its end: after {until:%Y-%m-%d %H:%M} UTC"
            told.append({"name": name, "since": None, "reason": reason})
    return told
