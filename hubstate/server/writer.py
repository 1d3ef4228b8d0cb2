"""One thread that writes for many requests: what came while the disk was busy is committed together.

A commit waits for the disk, and that is most of what a small write costs. So each request hands in its work and waits;
the thread takes all that is there, does one work after the other, in the order in which they came, within one
transaction, and commits. Only then does any of them get its answer. Alone a work waits for nobody: there is no pause to
collect more.

Each work has a savepoint of its own. One that is refused, or that breaks, leaves nothing and takes nothing from the
others. Where the transaction itself is lost (a full disk), none of its works was done, and each request is told so: they
repeat, which is harmless.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Callable
from typing import NamedTuple

import sqlalchemy
from sqlalchemy import Connection

from hubstate.log import log
from hubstate.server.answers import Answer, Problem
from hubstate.server.database import Database, bare, not_taken

__all__ = ["Work", "Writer"]

#: Does what a request wants within the transaction of `connection`, and answers. Raises `Problem` for a refusal.
Work = Callable[[Connection], Answer]

#: So many works share a commit at most. On a slow disk a commit takes a second, and all that came meanwhile waits for the
#: next one.
_TOGETHER = 1024
#: So many may wait. More than that is more than this machine can write, and is better told at once.
_WAITING = 8192
#: After so many works the write-ahead log is emptied.
_EMPTY_AFTER = 1000


class _Job(NamedTuple):
    work: Work
    future: asyncio.Future[Answer]
    loop: asyncio.AbstractEventLoop


class Writer:
    """The thread, begun with the first work. `do` is for the one event loop of the hub."""

    def __init__(self, database: Database, *, waiting: int = _WAITING) -> None:
        self._database = database
        self._most = waiting
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._tidier: threading.Thread | None = None
        self._tidy = threading.Event()
        self._closing = False
        #: How many works wait or are under way; how many were done, and by how many commits.
        self.waiting = 0
        self.works = 0
        self.commits = 0

    async def do(self, work: Work) -> Answer:
        """The answer of the work, once what it wrote is committed.

        Raises what the work raised, `Problem` 503 where too many wait, and `OperationalError` where the database did
        not take it.
        """
        if self.waiting >= self._most:
            raise Problem(
                503, "busy", "this hub has more to write than it can just now: try again in a moment"
            )
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="hubstate-hub-writer", daemon=True)
            self._thread.start()
            self._tidier = threading.Thread(target=self._empty_log, name="hubstate-hub-log", daemon=True)
            self._tidier.start()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()
        self.waiting += 1
        self._jobs.put(_Job(work, future, loop))
        try:
            return await future
        finally:
            self.waiting -= 1

    def close(self) -> None:
        """Does what was handed in, and ends the thread."""
        if self._thread is not None:
            self._jobs.put(None)
            self._thread.join()
            self._thread = None
        if self._tidier is not None:
            self._closing = True
            self._tidy.set()
            self._tidier.join()
            self._tidier, self._closing = None, False

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            jobs = [job]
            more: _Job | None = job
            while more is not None and len(jobs) < _TOGETHER:
                try:
                    more = self._jobs.get_nowait()
                except queue.Empty:
                    break
                if more is not None:
                    jobs.append(more)
            _settle(jobs, self._written(jobs))
            if more is None:
                return

    def _empty_log(self) -> None:
        """A thread of its own, because the disk takes long for it, and no request waits for it."""
        while self._tidy.wait() and not self._closing:
            self._tidy.clear()
            try:
                self._database.empty_log()
            except sqlite3.DatabaseError as error:
                log("hubstate.server").error("hubstate.hub_log_not_emptied", reason=str(error))

    def _written(self, jobs: list[_Job]) -> list[Answer | Exception]:
        try:
            with self._database.writing() as connection:
                outcomes = [_attempt(connection, job.work) for job in jobs]
        except sqlalchemy.exc.SQLAlchemyError as error:
            return [error] * len(jobs)
        before = self.works
        self.works += len(jobs)
        if before // _EMPTY_AFTER != self.works // _EMPTY_AFTER:
            self._tidy.set()
        self.commits += 1
        return outcomes


def _attempt(connection: Connection, work: Work) -> Answer | Exception:
    """What the work answers, or what it raised, with nothing of it done. Raises where the transaction is lost."""
    database = bare(connection)
    database.execute("SAVEPOINT work")
    try:
        answer = work(connection)
    except Exception as error:  # it is raised again where its request waits; the others go on
        if not database.in_transaction:
            raise sqlalchemy.exc.OperationalError(None, None, error) from error
        database.execute("ROLLBACK TO work")
        database.execute("RELEASE work")
        return not_taken(error) if isinstance(error, sqlite3.DatabaseError) else error
    database.execute("RELEASE work")
    return answer


def _settle(jobs: list[_Job], outcomes: list[Answer | Exception]) -> None:
    """Tells the requests: in one go, because waking the loop costs more than telling."""

    def tell() -> None:
        for job, outcome in zip(jobs, outcomes, strict=True):
            if job.future.done():  # its request was given up meanwhile
                continue
            if isinstance(outcome, Exception):
                job.future.set_exception(outcome)
            else:
                job.future.set_result(outcome)

    try:
        jobs[0].loop.call_soon_threadsafe(tell)
    except RuntimeError:
        return  # the hub stopped meanwhile, and with it all who waited
