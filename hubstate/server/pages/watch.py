"""Which sessions changed: one look at the database for all open pages together.

While anybody listens, one task asks SQLite four times a second whether somebody committed (`PRAGMA data_version`: no
query, no thread, a few microseconds). Only then are the sessions that are listened to looked at, all in one
transaction, and only who listens to one that changed is woken. A hundred open pages of sessions that rest cost as much as one.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool

from hubstate.log import log
from hubstate.server.schema import rows, sessions
from hubstate.server.store import Store

__all__ = ["Listener", "Watch"]

#: Seconds between two questions whether anything was committed.
_PAUSE = 0.25
#: More rows than these in one pause are not looked through: everybody is woken.
_MANY = 20_000
#: What of a session tells whether it changed; what cannot change without these is left out, because it may be long.
_TOLD = [column for column in sessions.c if column.name not in ("body", "config")]


class Listener:
    """Somebody who waits for news of one session, or of any (None)."""

    def __init__(self, session: str | None) -> None:
        self.session = session
        self._news = asyncio.Event()
        self._ended = False

    def wake(self, *, ended: bool = False) -> None:
        self._ended = self._ended or ended
        self._news.set()

    async def wait(self, seconds: float) -> bool:
        """Waits for news, or for that long. False when there will be no more."""
        try:
            async with asyncio.timeout(seconds):
                await self._news.wait()
        except TimeoutError:
            pass
        self._news.clear()
        return not self._ended


class Watch:
    """Looks at the database for all who listen. Its methods belong to one event loop, but for `close`."""

    def __init__(self, store: Store) -> None:
        self.ticks = 0
        self._store = store
        self._listeners: set[Listener] = set()
        self._task: asyncio.Task[None] | None = None
        self._asking: sqlite3.Connection | None = None
        self._ended = False
        self._seen: dict[str, tuple[str, ...]] = {}
        self._newest = 0

    @property
    def ended(self) -> bool:
        """Whether the server stops."""
        return self._ended

    def end(self) -> None:
        """The server stops: whoever listens is told that nothing more will come."""
        self._ended = True
        for listener in self._listeners:
            listener.wake(ended=True)

    def close(self) -> None:
        """Lets go of the database."""
        if self._asking is not None:
            self._asking.close()
            self._asking = None

    @contextmanager
    def listening(self, session: str | None) -> Iterator[Listener]:
        """Listens while the block lasts."""
        listener = Listener(session)
        if self._ended:
            listener.wake(ended=True)
        self._listeners.add(listener)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._look())
        try:
            yield listener
        finally:
            self._listeners.discard(listener)

    async def _look(self) -> None:
        seen: int | None = None
        blind = False
        while self._listeners and not self._ended:
            changed: set[str] | None = set()
            try:
                version = self._version()
                if version != seen:
                    changed = await run_in_threadpool(self._changed, self._sessions())
            except (sqlite3.Error, SQLAlchemyError) as error:
                if not blind:
                    log("hubstate.server").error("hubstate.hub_changes_unseen", reason=str(error))
                blind = True
            else:
                # What was committed before the first look is not news; what a later listener missed, it looks for itself.
                if blind or seen not in (None, version):
                    self.ticks += 1
                    self._wake(None if blind else changed)
                seen, blind = version, False
            await asyncio.sleep(_PAUSE)

    def _wake(self, changed: set[str] | None) -> None:
        """Wakes who listens to one of these sessions, or to any; None: everybody."""
        for listener in self._listeners:
            if listener.session is None or changed is None or listener.session in changed:
                listener.wake()

    def _version(self) -> int:
        if self._asking is None:
            path = self._store.data_dir / "hub.sqlite"
            self._asking = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, check_same_thread=False)
        return int(self._asking.execute("PRAGMA data_version").fetchone()[0])

    def _sessions(self) -> set[str]:
        return {listener.session for listener in self._listeners if listener.session is not None}

    def _changed(self, watched: set[str]) -> set[str] | None:
        """Which of these sessions are not as they were when it was last asked; None: look at all of them."""
        with self._store.database.reading() as connection:
            newest = connection.execute(select(func.max(rows.c.n))).scalar_one() or 0
            before, self._newest = self._newest, newest
            found = connection.execute(select(*_TOLD).where(sessions.c.id.in_(watched))).mappings()
            now = {session["id"]: tuple(map(repr, session.values())) for session in found}
            changed = {session for session in watched if now.get(session) != self._seen.get(session)}
            self._seen = now
            if newest - before > _MANY or newest < before:
                return None
            told = connection.execute(select(rows.c.session).where(rows.c.n > before).distinct())
            return changed | set(told.scalars())
