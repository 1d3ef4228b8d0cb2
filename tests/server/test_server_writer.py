"""Writes of many requests in one commit: order, refusals, accidents, a lost transaction, and too many at once."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy import Connection

from hubstate.server.answers import Answer, Problem
from hubstate.server.database import Database, bare
from hubstate.server.writer import Work, Writer


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    """A database with a table `noted`."""
    database = Database(tmp_path / "hub.sqlite")
    with database.writing() as connection:
        connection.exec_driver_sql("CREATE TABLE noted (n INTEGER)")
    yield database
    database.close()


@pytest.fixture
def writer(database: Database) -> Iterator[Writer]:
    """A writer over it."""
    writer = Writer(database)
    yield writer
    writer.close()


def noting(n: int, error: Exception | None = None) -> Work:
    """A work that writes a number, and then raises what it is given."""

    def work(connection: Connection) -> Answer:
        bare(connection).execute("INSERT INTO noted VALUES (?)", (n,))
        if error is not None:
            raise error
        return Answer({"n": n})

    return work


def noted(database: Database) -> list[int]:
    """What another connection sees, in the order in which it was written."""
    return [n for (n,) in database.look("SELECT n FROM noted ORDER BY rowid")]


@contextmanager
def busy(database: Database) -> Iterator[None]:
    """While the block lasts nobody else gets to write."""
    with database._writing:
        yield


def all_of(*works: Awaitable[Answer]) -> list[Any]:
    """What becomes of works that are handed in at once."""

    async def gathered() -> list[Any]:
        return await asyncio.gather(*works, return_exceptions=True)

    return asyncio.run(gathered())


def handed_in_while_busy(database: Database, writer: Writer, works: list[Work]) -> list[Any]:
    """What becomes of works all of which wait before the first of them can begin."""

    async def run() -> list[Any]:
        with busy(database):
            doing = [asyncio.ensure_future(writer.do(work)) for work in works]
            await asyncio.sleep(0)
            assert writer.waiting == len(works)
        return await asyncio.gather(*doing, return_exceptions=True)

    return asyncio.run(run())


def test_what_waits_is_committed_together_and_in_order(database: Database, writer: Writer) -> None:
    """A hundred works that wait for the disk take two commits at most, and are done in the order in which they came."""
    answers = handed_in_while_busy(database, writer, [noting(n) for n in range(100)])
    assert [answer.body["n"] for answer in answers] == list(range(100))
    assert noted(database) == list(range(100))
    assert (writer.works, writer.waiting) == (100, 0)
    assert writer.commits <= 2


def test_an_answer_comes_after_the_commit(database: Database, writer: Writer) -> None:
    """Whoever has an answer sees what was written on any other connection."""

    async def run() -> None:
        for n in range(20):
            await writer.do(noting(n))
            assert noted(database) == list(range(n + 1))

    asyncio.run(run())


@pytest.mark.parametrize(
    "error",
    [
        Problem(404, "not_found", "no"),
        ZeroDivisionError("insides"),
        sqlite3.OperationalError("no such table"),
    ],
    ids=["refused", "broken", "database"],
)
def test_one_that_fails_leaves_nothing_and_takes_nothing(
    database: Database, writer: Writer, error: Exception
) -> None:
    """What a work raises reaches its own request; nothing of it is kept, and its neighbours are committed."""
    works = [noting(0), noting(1, error), noting(2)]
    first, second, third = handed_in_while_busy(database, writer, works)
    assert (first.body, third.body) == ({"n": 0}, {"n": 2})
    if isinstance(error, sqlite3.OperationalError):
        assert isinstance(second, sqlalchemy.exc.OperationalError)
        assert second.orig is error
    else:
        assert second is error
    assert noted(database) == [0, 2]


def test_a_lost_transaction_is_told_to_all_in_it(database: Database, writer: Writer) -> None:
    """Where SQLite gives up the whole transaction, no work of it is acknowledged, and the next ones are done."""

    def full(connection: Connection) -> Answer:
        bare(connection).execute("ROLLBACK")
        raise sqlite3.OperationalError("database or disk is full")

    outcomes = handed_in_while_busy(database, writer, [noting(0), full, noting(1)])
    lost = [outcome for outcome in outcomes if isinstance(outcome, sqlalchemy.exc.OperationalError)]
    assert [str(error.orig) for error in lost] == ["database or disk is full"] * len(lost)
    kept = [outcome.body["n"] for outcome in outcomes if isinstance(outcome, Answer)]
    assert noted(database) == kept
    assert outcomes[1] in lost
    assert all_of(writer.do(noting(7)))[0].body == {"n": 7}
    assert noted(database) == [*kept, 7]


def test_more_than_can_wait_is_refused_at_once(database: Database) -> None:
    """Beyond a bound a work is refused with 503, and the ones that wait are done all the same."""
    writer = Writer(database, waiting=3)
    outcomes = handed_in_while_busy_beyond(database, writer, 5)
    assert [outcome.body["n"] for outcome in outcomes[:3]] == [0, 1, 2]
    assert [(outcome.status, outcome.short) for outcome in outcomes[3:]] == [(503, "busy")] * 2
    assert all_of(writer.do(noting(9)))[0].body == {"n": 9}
    writer.close()
    assert noted(database) == [0, 1, 2, 9]


def handed_in_while_busy_beyond(database: Database, writer: Writer, count: int) -> list[Any]:
    """As `handed_in_while_busy`, of more than may wait."""

    async def run() -> list[Any]:
        with busy(database):
            doing = [asyncio.ensure_future(writer.do(noting(n))) for n in range(count)]
            await asyncio.sleep(0)
        return await asyncio.gather(*doing, return_exceptions=True)

    return asyncio.run(run())


def test_a_request_that_was_given_up_harms_nobody(database: Database, writer: Writer) -> None:
    """A work whose request ended meanwhile is done or not, and the others get their answers."""

    async def run() -> Answer:
        with busy(database):
            gone = asyncio.ensure_future(writer.do(noting(0)))
            stays = asyncio.ensure_future(writer.do(noting(1)))
            await asyncio.sleep(0)
            gone.cancel()
            await asyncio.sleep(0)
        return await stays

    assert asyncio.run(run()).body == {"n": 1}
    assert noted(database) == [0, 1]


def test_a_stop_finishes_what_was_handed_in(
    database: Database, new_threads: Callable[[], set[threading.Thread]]
) -> None:
    """Closing waits for the works that wait, though the loop that handed them in is gone; no thread is left."""
    writer = Writer(database)

    async def run() -> None:
        doing = [asyncio.ensure_future(writer.do(noting(n))) for n in range(5)]
        await asyncio.sleep(0)
        for one in doing:
            one.cancel()

    with busy(database):
        asyncio.run(run())
    writer.close()
    assert noted(database) == [0, 1, 2, 3, 4]
    assert "hubstate-hub-writer" not in [thread.name for thread in new_threads()]


def test_closing_a_writer_that_never_wrote(
    database: Database, new_threads: Callable[[], set[threading.Thread]]
) -> None:
    """A writer without a work has no thread, and closing it does nothing, once or twice."""
    writer = Writer(database)
    assert "hubstate-hub-writer" not in [thread.name for thread in new_threads()]
    writer.close()
    writer.close()


def log_frames(database: Database) -> tuple[int, int]:
    """How many frames the write-ahead log has, and how many of them stand in their place already."""
    ((_busy, frames, moved),) = database.look("PRAGMA wal_checkpoint(PASSIVE)")
    return frames, moved


def test_the_log_begins_anew_once_it_was_emptied(database: Database, writer: Writer) -> None:
    """Emptying the log moves all that was committed, so that the next write begins it anew instead of making it longer."""
    for n in range(50):
        all_of(writer.do(noting(n)))
    assert database.look("PRAGMA wal_autocheckpoint") == [(1000,)]  # of a connection that only looks
    database.empty_log()
    frames, moved = log_frames(database)
    assert frames == moved > 50
    all_of(writer.do(noting(50)))
    assert log_frames(database)[0] < 10
    assert noted(database) == list(range(51))


def test_the_log_is_emptied_now_and_then(
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    new_threads: Callable[[], set[threading.Thread]],
) -> None:
    """After so many works the log is emptied, beside the writes; a disk that fails that is logged, and writes go on."""
    emptied = threading.Semaphore(0)

    def fails() -> None:
        emptied.release()
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr("hubstate.server.writer._EMPTY_AFTER", 10)
    monkeypatch.setattr(database, "empty_log", fails)
    writer = Writer(database)
    for round_ in range(2):
        for n in range(10):
            all_of(writer.do(noting(10 * round_ + n)))
        assert emptied.acquire(timeout=60)
    writer.close()
    assert noted(database) == list(range(20))
    assert capfd.readouterr().err.count("disk I/O error") == 2
    assert "hubstate-hub-log" not in [thread.name for thread in new_threads()]
