"""Telling a webhook what became of a session: that it is done, was aborted, or fell silent.

What is to be told is noted in the database first, once for each attempt and each of the three words; it is sent from
there, and noted as told once the receiver answered with success. So a restart loses nothing and repeats nothing; only a
hub that dies between the answer and that note tells twice, and `id` is the same then. A receiver that cannot be reached
is asked again, later each time, for a day.

A hub that is told of a webhook for the first time tells of what happens from then on, and one that ran without a webhook
in between does so again: nobody wants to hear of last year's sessions.

The address may hold a token, so no log and no error ever names more of it than its host.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec
from sqlalchemy import Connection, and_, delete, exists, insert, literal, select, update
from sqlalchemy.dialects.sqlite import insert as insert_or

from hubstate.errors import UsageError
from hubstate.hubs.base import Delayed
from hubstate.hubs.wire import Wire
from hubstate.log import log
from hubstate.server.database import Database
from hubstate.server.schema import attempts, marks, notices, sessions
from hubstate.server.sessions import SILENCE
from hubstate.states import LIVE_STATES, Outcome, State

__all__ = ["Notifier", "Target", "forget_webhook", "target_of"]

_SINCE = "notify_since"
_SILENT = "silent"
#: How often it is looked for something to tell (seconds).
_EVERY = 5.0
#: Between two looks nobody was there if so much time went by, or less than none: a machine slept, or its clock was set
#: (seconds).
_AWAY = SILENCE / 2
#: The first pause after a failure, and the longest one (seconds).
_PAUSE, _LONGEST_PAUSE = 5.0, 3_600.0
#: After so many seconds nobody wants to hear it any more.
_TOO_LATE = 86_400.0
#: So many are sent in a row before it is looked again.
_AT_ONCE = 50
#: Seconds for a connection, for an answer, and for all of it.
_CONNECT, _READ, _TOTAL = 5.0, 10.0, 20.0
_LIVE = [state.value for state in LIVE_STATES]
#: What is told of a session, and of the attempt that it is about: the next one may be under way by then.
_OF_SESSION = [
    sessions.c[name] for name in ("name", "project", "group", "tags", "epoch", "epochs", "last_contact")
]
_OF_ATTEMPT = [attempts.c[name] for name in ("state", "outcome", "reason")]
_SAME_ATTEMPT = and_(attempts.c.session == notices.c.session, attempts.c.attempt == notices.c.attempt)


class Target(NamedTuple):
    """Where to. `base`: scheme, host and port; `path`: the rest, which may hold a secret; `host`: for people."""

    base: str
    path: str
    host: str

    def __repr__(self) -> str:
        return f"<webhook at {self.host}>"


def target_of(url: str) -> Target:
    """Reads a webhook's address. Raises `UsageError` for one that is none, without repeating more than its host."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise UsageError(
            "the webhook's address cannot be read: it must look like https://host/path"
        ) from error
    plain = url.isascii() and url.isprintable() and " " not in url
    if parts.scheme not in ("http", "https") or not host or not plain:
        raise UsageError("the webhook's address must look like https://host/path")
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise UsageError(f"the webhook's address (at {host}) must hold no user, password or fragment")
    shown = f"[{host}]" if ":" in host else host
    shown = shown if port is None else f"{shown}:{port}"
    path = parts.path + (f"?{parts.query}" if parts.query else "")
    return Target(f"{parts.scheme}://{shown}", path or "/", shown)


class Notifier:
    """The chore. `base`: the hub's own address, for links. Times in seconds since 1970."""

    def __init__(
        self, database: Database, target: Target, base: str, *, chance: Callable[[], float] = random.random
    ) -> None:
        self._database = database
        self._target = target
        self._base = base
        self._chance = chance
        self._here_since = self._looked = -math.inf
        self._wire = Wire(
            target.base, None, connect_timeout=_CONNECT, read_timeout=_READ, total_timeout=_TOTAL
        )

    def __call__(self, now: float) -> float:
        """Notes what is new, and sends what is due; in how many seconds to look again."""
        if not 0 <= now - self._looked <= _AWAY:
            self._here_since = now
        self._looked = now
        with self._database.writing() as connection:
            _note(connection, now, self._here_since)
        for notice in self._due(now):
            if not self._send(notice, now):
                break  # the others go to the same place: a hub that stops must not wait for each of them
        return _EVERY

    def _due(self, now: float) -> list[Mapping[Any, Any]]:
        query = (
            select(notices, *_OF_ATTEMPT, *_OF_SESSION)
            .join(sessions, sessions.c.id == notices.c.session)
            .join(attempts, _SAME_ATTEMPT)
            .where(notices.c.told_at.is_(None), notices.c.next_at <= now)
            .order_by(notices.c.next_at, notices.c.noted_at, notices.c.session)
        )
        with self._database.reading() as connection:
            return list(connection.execute(query.limit(_AT_ONCE)).mappings())

    def _send(self, notice: Mapping[Any, Any], now: float) -> bool:
        """Whether it was told."""
        body = msgspec.json.encode(_told(notice, self._base))
        answer = self._wire.send(self._target.path, body, {"Content-Type": "application/json"})
        if isinstance(answer, Delayed):
            values, reason = self._later(notice, now), answer.reason
        elif 200 <= answer.status < 300:
            values, reason = {"told_at": now, "next_at": None}, ""
        else:
            values, reason = self._later(notice, now), f"{self._target.host} answered {answer.status}"
        key = {name: notice[name] for name in ("session", "attempt", "what")}
        with self._database.writing() as connection:
            mine = and_(*(notices.c[name] == value for name, value in key.items()))
            connection.execute(update(notices).where(mine).values(**values))
        if reason:
            gone = values["next_at"] is None
            name = "hubstate.hub_notice_given_up" if gone else "hubstate.hub_notice_delayed"
            log("hubstate.server").warning(name, **key, reason=reason)
        return not reason

    def _later(self, notice: Mapping[Any, Any], now: float) -> dict[str, Any]:
        tries = notice["tries"] + 1
        pause = min(_LONGEST_PAUSE, _PAUSE * 2.0 ** min(tries - 1, 20)) * (0.5 + self._chance() / 2)
        over = now - notice["noted_at"] > _TOO_LATE
        return {"tries": tries, "next_at": None if over else now + pause}

    def close(self) -> None:
        """Lets go of the connection."""
        self._wire.close()


def forget_webhook(database: Database) -> None:
    """Says that no webhook is told: what happens until there is one again is never told."""
    if not database.look("SELECT 1 FROM marks WHERE name = ?", _SINCE):
        return
    with database.writing() as connection:
        connection.execute(delete(marks).where(marks.c.name == _SINCE))
        connection.execute(delete(notices))


def _note(connection: Connection, now: float, here_since: float) -> None:
    """Notes, once each, what ended or fell silent since there is somebody to tell.

    `here_since`: since when the hub is there to hear, without a sleep. What could not reach it before that was not silent
    for that.
    """
    connection.execute(insert_or(marks).values(name=_SINCE, at=now).on_conflict_do_nothing())
    since = connection.execute(select(marks.c.at).where(marks.c.name == _SINCE)).scalar_one()
    # An attempt that ended has ended, although the next one may have begun before anybody looked.
    ended = and_(attempts.c.state.in_([State.DONE.value, State.ABORTED.value]), attempts.c.ended_at >= since)
    silent = and_(
        attempts.c.attempt == sessions.c.attempt,
        sessions.c.state.in_(_LIVE),
        sessions.c.outcome == Outcome.RUNNING.value,
        sessions.c.last_contact < now - SILENCE,
        literal(here_since) < now - SILENCE,
        sessions.c.last_contact >= since - SILENCE,
    )
    for which, what in ((ended, attempts.c.state), (silent, literal(_SILENT))):
        known = exists().where(
            notices.c.session == attempts.c.session,
            notices.c.attempt == attempts.c.attempt,
            notices.c.what == what,
        )
        new = (
            select(attempts.c.session, attempts.c.attempt, what, literal(now), literal(0), literal(now))
            .join(sessions, sessions.c.id == attempts.c.session)
            .where(which, sessions.c.deleted_at.is_(None), ~known)
        )
        connection.execute(
            insert(notices).from_select(["session", "attempt", "what", "noted_at", "tries", "next_at"], new)
        )


def _told(notice: Mapping[Any, Any], base: str) -> dict[str, Any]:
    """What is posted. Nothing in it is a secret; `text` is what chat programs show."""
    what, name, url = notice["what"], notice["name"], f"{base}/models/{notice['session']}"
    if what == _SILENT:
        text = f"{name}: nothing was heard of it for {SILENCE / 60:g} minutes"
    elif what == State.ABORTED.value:
        text = f"{name} was aborted: {notice['reason'] or notice['outcome']}"
    else:
        text = f"{name} is done: {notice['outcome']}"
    shown = ("name", "project", "group", "tags", "attempt", "state", "outcome", "reason", "epoch", "epochs")
    return {
        "id": f"{notice['session']}/{notice['attempt']}/{what}",
        "event": what,
        "at": notice["noted_at"],
        "text": f"{text} · {url}",
        "session": {
            "id": notice["session"],
            **{field: notice[field] for field in shown},
            "last_contact": notice["last_contact"],
            "url": url,
        },
    }
